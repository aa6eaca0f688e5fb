"""DxMI: an energy and a diffusion chain that learn from one another, by maximum-entropy inverse reinforcement learning."""
