"""The VAE view: the variational bound of a diffusion core, and what is fitted to it."""
