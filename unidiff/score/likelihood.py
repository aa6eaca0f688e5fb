r"""log p(x) by the probability-flow ODE (Chen et al. 2018, eq. 8; Song et al. 2021 (SDE), eq. 39).

Along dy/dθ = v̂(y) a density obeys d log p(y)/dθ = −∇·v̂, so from data at θ_0 to the prior at θ_1

    log p(x) = log N(x_1; 0, prior_std²) + ∫_{θ_0}^{θ_1} ∇·v̂ dθ + log|∂y_{θ_0}/∂x| + D log ρ_1

with the divergence exact (D vjps) or Hutchinson's (K probes, held along the path; unbiased in log p). Five things are
left, and each is reported: the error of the one step from data to t_0 (:mod:`unidiff.score.entry`); the solver's, by a
second solution with half the steps (or ten times the tolerance); the probes', by their spread; the examples', in the
interval of the mean; and the prior's own (item 17): x_1 is not quite N(0, I). Where the data's law is known that is
log q_1(x_1) − log N(x_1); else KL(q(x_1|x) ‖ N) bounds its mean, since KL is convex: KL(q_1 ‖ N) ≤ E_x KL(q(x_1|x) ‖ N).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unidiff.core.boundary import check_flag, check_generator, check_name, check_type
from unidiff.core.diffusion import Diffusion
from unidiff.core.gaussian import Gaussian
from unidiff.score.arguments import conditional_law
from unidiff.score.derivatives import PROBES, Probe, draw_probes
from unidiff.score.entry import entry_error
from unidiff.score.flow import ProbabilityFlow, chosen, state_scale
from unidiff.score.ode import Solver
from unidiff.score.volume import VolumePath
from unidiff.worlds import World
from unidiff.worlds.interval import Interval, bits_per_dim


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Log-densities of a batch and how well they are known. Everything ``[B]`` is in nats.

    Attributes:
        log_prob: log p(x) with the prior N(0, prior_std²) at t = 1, ``[B]``.
        prior_error: what that prior costs, ``[B]``: log q_1(x_1) − log N(x_1) (to be added) if ``prior_law`` is
            "exact"; KL(q(x_1|x) ‖ N), whose mean bounds the mean cost, if it is "bound"; infinite if it is "unknown", as
            under guidance, whose flow ends in no law that is known.
        prior_law: which of the two.
        solver_error: the change under a coarser solution, with half the steps or ten times the tolerance, ``[B]``: of
            even steps an upper estimate, by a factor 2^order − 1 once they are small; infinite where none was made.
        entry_error: of the one step from data to t_0, ``[B]``, as :func:`unidiff.score.entry.entry_error` estimates it:
            about threefold at high SNR; of data narrower than the noise at t_0 by the scale that is heard there, or
            infinite. 0 without that step (``to_data=False``: what is measured then is the density of
            x_{t_0}/α_{t_0}); infinite where it was not estimated.
        probe_error: standard error of the divergence's probes, ``[B]``; 0 if exact, infinite with one probe.
        code: x_1, ``[B, *E]``.
        evaluations: of the denoiser (nearly each with its vjps), the estimates' included.
    """

    log_prob: Tensor
    prior_error: Tensor
    prior_law: Literal["exact", "bound", "unknown"]
    solver_error: Tensor
    entry_error: Tensor
    probe_error: Tensor
    code: Tensor
    evaluations: int

    @staticmethod
    def joined(parts: Sequence[Likelihood]) -> Likelihood:
        """One batch of several, measured alike; ``evaluations`` is the most that any of them took.

        Raises:
            TypeError: a part that is no Likelihood.
            ValueError: no parts, or parts whose ``prior_law`` differ.
        """
        for part in parts:
            check_type("each of parts", part, Likelihood)
        laws = sorted({part.prior_law for part in parts})
        if len(laws) != 1:
            raise ValueError(f"parts must be one likelihood or more, of one prior_law, got {len(parts)} of {laws}")
        columns = {
            name: torch.cat([getattr(part, name) for part in parts])
            for name in ("log_prob", "prior_error", "solver_error", "entry_error", "probe_error", "code")
        }
        return Likelihood(**columns, prior_law=parts[0].prior_law, evaluations=max(p.evaluations for p in parts))

    @property
    def with_exact_prior(self) -> Tensor:
        """log p(x) with q_1 itself at t = 1, ``[B]``. Raises ValueError where q_1 is not known."""
        if self.prior_law != "exact":
            raise ValueError("the exact q_1 needs a world: pass likelihood(..., world=...)")
        return self.log_prob + self.prior_error

    def nats(self) -> Interval:
        """The mean of log p(x) over the batch, in nats. Raises ValueError for fewer than two examples."""
        return Interval.of(self.log_prob)

    def bits_per_dim(self, scale: float = 1.0) -> Interval:
        """−log2 p per dimension, with its interval over examples.

        Args:
            scale: the width in x of one unit of the raw data (``Dataset.scale``): bits are those of the raw density.

        Raises:
            ValueError: fewer than two examples, a scale that is not positive.
        """
        return Interval.of(bits_per_dim(self.log_prob, self.code[0].numel(), scale))


# What is derived must not be an inference tensor, whatever mode the caller is in.
@torch.inference_mode(False)
@torch.no_grad()
def likelihood(
    core: Diffusion,
    x: Tensor,
    *,
    world: World | None = None,
    solver: Solver = "dopri5",
    steps: int | None = None,
    tolerance: float | None = None,
    probes: int | None = None,
    probe: Probe = "rademacher",
    generator: torch.Generator | None = None,
    first: float | None = None,
    to_data: bool = True,
    estimate: bool = True,
    condition: Tensor | None = None,
    guidance: float = 1.0,
) -> Likelihood:
    """log p(x) of data ``[B, *E]`` under the core's probability flow.

    Args:
        core: the diffusion core; its parameters get no gradient.
        x: data, float32 or wider; the computation is in its dtype.
        world: the data's law if it is known, for the exact q_1; with a condition its components are the classes.
        solver, steps, tolerance: of :func:`unidiff.score.ode.solve`; neither of the last two means a tolerance of 1e-5.
        probes: K random probes of the divergence; None for the exact one, by D vjps an evaluation.
        probe, generator: their kind and source.
        estimate: whether to solve a second time, coarser, and to try the step from the data on further levels, so that the
            solver's and the step's error are known; half as dear again, and 34 evaluations (35 where the data are narrower
            than the noise at t_0).
        first, to_data, condition, guidance: as :class:`~unidiff.score.flow.ProbabilityFlow`.

    Raises:
        TypeError: x is no floating-point tensor, or condition none of integers; an argument of another type.
        ValueError: x, condition or guidance as :func:`unidiff.score.arguments.check_batch`; a world that is not the law of
            what is measured (:func:`~unidiff.score.arguments.conditional_law`; guidance other than 1); probes below 1;
            and as ProbabilityFlow and solve.
        FloatingPointError: the solution became NaN or infinite.
    """
    check_type("core", core, Diffusion)
    condition = core.check_batch("x", x, condition, guidance)
    check_generator(generator, x.device)
    check_name("probe", probe, PROBES)
    check_flag("estimate", estimate)
    if world is not None:
        if guidance != 1.0:
            raise ValueError(
                f"guidance must be 1 with a world: a guided model's law is none that is known, got {guidance}"
            )
        world = conditional_law(core, world, condition, "the exact q_1")
    steps, tolerance = chosen(solver, steps, tolerance)
    flow = ProbabilityFlow(core, first, condition, guidance, to_data)
    vectors = None if probes is None else draw_probes(probes, x, probe, generator)
    path = VolumePath(flow, x.detach().clone(), vectors)
    gain, code = _walked(path, solver, steps, tolerance)
    unknown = torch.full_like(gain[:, 0], math.inf)
    coarse = _coarser(steps, tolerance) if estimate else None
    if coarse is None:
        solver_error = unknown
    else:
        before, start = _walked(path, solver, *coarse)
        solver_error = (gain.mean(1) + _prior(flow, code) - before.mean(1) - _prior(flow, start)).abs()
    log_prob = gain.mean(1) + _prior(flow, code)
    if probes is None:
        probe_error = torch.zeros_like(log_prob)
    elif probes == 1:
        probe_error = unknown
    else:
        probe_error = gain.std(1) / math.sqrt(probes)
    off = entry_error(path) if estimate or not to_data else unknown
    prior_error = _cost(flow, x, code, world)
    law = "exact" if world is not None else "bound" if guidance == 1.0 else "unknown"
    return Likelihood(log_prob, prior_error, law, solver_error, off, probe_error, code, path.evaluations)


def _walked(path: VolumePath, solver: Solver, steps: int | None, tolerance: float | None) -> tuple[Tensor, Tensor]:
    """(log|∂x_1/∂x| ``[B, columns]``, x_1 ``[B, *E]``)."""
    y, gain = path.parts(path.walk(path.start, *path.flow.angles, solver, steps, tolerance))
    scale = state_scale(path.flow.ends[1].to(y))
    return gain + y[0].numel() * scale.log(), scale * y


def _coarser(steps: int | None, tolerance: float | None) -> tuple[int | None, float | None] | None:
    if steps is None:
        assert tolerance is not None
        return None, 10 * tolerance
    return None if steps < 2 else (steps // 2, None)


def _prior_law(flow: ProbabilityFlow, code: Tensor) -> Gaussian:
    std = flow.core.schedule.prior_std
    return Gaussian(torch.zeros_like(code), torch.full((), 2 * math.log(std), dtype=code.dtype, device=code.device))


def _prior(flow: ProbabilityFlow, code: Tensor) -> Tensor:
    return _prior_law(flow, code).log_prob(code)


def _cost(flow: ProbabilityFlow, x: Tensor, code: Tensor, world: World | None) -> Tensor:
    if world is None and flow.guidance != 1.0:
        return torch.full_like(code.flatten(1)[:, 0], math.inf)
    if world is None:
        law = flow.core.process.marginal(x, 1.0)
        return Gaussian(law.mean.detach(), law.log_var.detach()).kl(_prior_law(flow, code))
    level = flow.ends[1].to(code)
    return world.to(code.dtype, code.device).diffuse(level.alpha, level.sigma).log_prob(code) - _prior(flow, code)
