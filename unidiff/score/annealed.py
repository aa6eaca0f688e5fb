r"""Annealed Langevin: from noise to data by chains on ever less noised laws (Song & Ermon 2019, algorithm 1).

Their levels are y = x_0 + ρ ε with ρ falling geometrically; at level i of L, T steps

    y ← y + ½α_i ∇log q_{ρ_i}(y) + √α_i ξ,      α_i = ε ρ_i²/ρ_L².

A core's state is x = α_t y with ρ = σ_t/α_t (IDENTITIES item 7) and ∇_y = α_t ∇_x, so that in x the same steps are ULA's
with δ_i = ½ (ε/ρ_L²) σ_i², and on entering a level x is scaled by the ratio of the two α: what it is as y is kept. Only
κ = ε/ρ_L² matters, the squared step in units of the noise; theirs is 2e-5/0.01² = 0.2. Each level is ULA, which is biased
by its step, and leaves before it has forgotten the one before: the law that is left is that of a slow anneal, exact as
κ → 0 while κ L T → ∞. On Gaussian data the variance of the default (50 levels of 20 steps, a thousand scores as theirs)
is 8% too large, of 10 steps a level 18%, of 50 steps 4%.

With ``denoise`` the end is x̂_0 of the last state (Jolicoeur-Martineau et al. 2021, section 3.1): the noise of the last
level, which is no part of the data, taken off.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_flag, check_positive, check_type
from unidiff.core.diffusion import Diffusion
from unidiff.core.places import places
from unidiff.mcmc.chains import horizon
from unidiff.mcmc.unadjusted import langevin_step
from unidiff.score.levels import OnRow, Rows, begin, check_end, check_run, level_columns, level_of, told


class AnnealedLangevin:
    """The levels and their steps over a core, ready to run many times; captures are kept from run to run.

    Args:
        core: the diffusion core.
        levels: L ≥ 2, evenly spaced in log-SNR (σ/α geometric).
        steps: T, at each level.
        step_size: κ, dimensionless.
        log_snr: (lowest, highest), of the first and the last level; None takes (−6, 9.2), cut to the schedule's range.
        denoise: whether to end with x̂_0.
        guidance: classifier-free guidance weight; 1 is the plain conditional model.
        graph: whether a GPU run is captured and replayed; None captures whenever the state is on a GPU.

    Raises:
        ValueError: counts below 1, a step size that is not positive, log-SNRs that do not rise or lie outside the
            schedule's range.
    """

    def __init__(
        self,
        core: Diffusion,
        *,
        levels: int = 50,
        steps: int = 20,
        step_size: float = 0.2,
        log_snr: tuple[float, float] | None = None,
        denoise: bool = False,
        guidance: float = 1.0,
        graph: bool | None = None,
    ) -> None:
        check_type("core", core, Diffusion)
        check_count("levels", levels, 2)
        check_count("steps", steps)
        check_positive("step_size", step_size)
        check_flag("denoise", denoise)
        level = core.schedule.level_at(places(core.schedule, levels, log_snr))
        core.check_levels(level.alpha)
        alpha, sigma = level.alpha.detach(), level.sigma.detach()
        scale = torch.ones(levels, steps, dtype=torch.float64, device=alpha.device)
        scale[1:, 0] = alpha[1:] / alpha[:-1]
        delta = 0.5 * step_size * sigma.square()
        each = [v.repeat_interleave(steps) for v in (*level_columns(level), delta)]
        self.core, self.denoise, self.guidance, self.step_size = core, denoise, guidance, step_size
        self.total = levels * steps
        self.start_std, self.last = float(sigma[0]), level.t[-1].detach()
        self._rows = Rows(core, self._step, torch.stack([*each, scale.flatten()], 1), 1, graph)

    @torch.no_grad()
    def __call__(
        self,
        x: Tensor,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        condition: Tensor | None = None,
        on_row: OnRow | None = None,
    ) -> Tensor:
        """From ``x`` ``[B, *E]`` at the first level (σ_1 ξ, with σ_1 in ``start_std``) to the last; errors as below."""
        check_run(self.core, x, generator, noise, on_row, self.total, 1)
        condition = self.core.check_arguments("x", x, condition, self.guidance)
        beyond = horizon(x)

        def look(x: Tensor, done: int) -> Tensor:
            return check_end(x, beyond, done, "step_size", self.step_size)

        x = look(self._rows(x, generator, noise, condition, told(on_row, self.total), look), self.total)
        return self.core.predict(x, self.last, condition, self.guidance).x0 if self.denoise else x

    def _step(self, x: Tensor, row: Tensor, xi: Tensor, condition: Tensor | None) -> Tensor:
        x = row[5] * x
        score = self.core.denoiser(x, level_of(row), condition, self.guidance).score
        return langevin_step(x, score, row[4], xi[0])


def annealed_langevin(
    core: Diffusion,
    n: int | None = None,
    *,
    levels: int = 50,
    steps: int = 20,
    step_size: float = 0.2,
    log_snr: tuple[float, float] | None = None,
    x: Tensor | None = None,
    denoise: bool = False,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    condition: Tensor | None = None,
    guidance: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    on_row: OnRow | None = None,
    graph: bool | None = None,
) -> Tensor:
    """Samples of the core by annealed Langevin, ``[B, *E]``.

    To run many times on one capture, keep an :class:`AnnealedLangevin`.

    Args:
        core: the diffusion core.
        n: how many, begun from σ_1 ξ; leave it out where ``x`` is given.
        levels, steps, step_size, log_snr, denoise, guidance, graph: as :class:`AnnealedLangevin`.
        x: the start at the first level, ``[B, *E]``, in place of ``n``.
        generator: the source of all draws.
        noise: the steps' draws themselves, ``[L·T, 1, B, *E]``.
        condition: class labels ``[B]``, or one for all.
        dtype, device: of the start drawn for ``n``; None takes :meth:`unidiff.Diffusion.home`.
        on_row: progress, called with (steps done, L·T).

    Returns:
        the state at the last level, or its x̂_0.

    Raises:
        TypeError: an argument of another type.
        ValueError: as :class:`AnnealedLangevin`; both or neither of n and x, x or noise of another shape.
        Divergence: chains are not finite at the end, or have run away; it carries the others.
    """
    run = AnnealedLangevin(
        core, levels=levels, steps=steps, step_size=step_size, log_snr=log_snr, denoise=denoise, guidance=guidance,
        graph=graph,
    )  # fmt: skip
    return run(begin(core, n, x, run.start_std, generator, dtype, device), generator, noise, condition, on_row)
