r"""log p(x) by the probability-flow ODE (Chen et al. 2018, eq. 8; Song et al. 2021 (SDE), eq. 39).

Along dy/dθ = v̂(y) a density obeys d log p(y)/dθ = −∇·v̂, so from data at θ_0 to the prior at θ_1

    log p(x) = log N(x_1; 0, prior_std²) + ∫_{θ_0}^{θ_1} ∇·v̂ dθ + log|∂y_{θ_0}/∂x| + D log ρ_1

with the divergence exact (D vjps) or Hutchinson's (K probes, held along the path; unbiased in log p). Four things are
left, and each is reported: the solver's error, by a second solution with half the steps (or ten times the tolerance);
the probes', by their spread; the examples', in the interval of the mean; and the prior's own (item 17): x_1 is not
quite N(0, I). Where the data's law is known that is log q_1(x_1) − log N(x_1); else KL(q(x_1|x) ‖ N) bounds its mean,
since KL is convex: KL(q_1 ‖ N) ≤ E_x KL(q(x_1|x) ‖ N).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.stats import t as student
from torch import Tensor

from unidiff.core.boundary import check_count, check_finite, check_positive, check_state
from unidiff.core.diffusion import Diffusion
from unidiff.core.gaussian import Gaussian
from unidiff.core.level import NoiseLevel
from unidiff.score.derivatives import Field, Probe, divergence, draw_probes, probed_divergence
from unidiff.score.flow import ProbabilityFlow, chosen, state_scale
from unidiff.score.ode import ORDERS, Solver, solve
from unidiff.worlds import World


@dataclass(frozen=True)
class Interval:
    """A mean over examples and its 95% confidence interval (Student's t).

    Attributes:
        mean, low, high: in the unit of what was averaged.
        standard_error: of the mean, same unit.
    """

    mean: float
    low: float
    high: float
    standard_error: float

    @staticmethod
    def of(values: Tensor) -> Interval:
        """The interval of independent values ``[n]``. Raises ValueError for fewer than two."""
        n = check_count("number of examples", values.shape[0], least=2)
        wide = values.detach().to("cpu", torch.float64)
        mean, error = float(wide.mean()), float(wide.std()) / math.sqrt(n)
        reach = float(student.ppf(0.975, n - 1)) * error
        return Interval(mean, mean - reach, mean + reach, error)


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Log-densities of a batch and how well they are known. Everything ``[B]`` is in nats.

    Attributes:
        log_prob: log p(x) with the prior N(0, prior_std²) at t = 1, ``[B]``.
        prior_error: what that prior costs, ``[B]``: log q_1(x_1) − log N(x_1) (to be added) if ``prior_law`` is
            "exact"; KL(q(x_1|x) ‖ N), whose mean bounds the mean cost, if it is "bound".
        prior_law: which of the two.
        solver_error: the change under a coarser solution, scaled by the order where steps are even, ``[B]``; infinite
            where none was made.
        probe_error: standard error of the divergence's probes, ``[B]``; 0 if exact, infinite with one probe.
        code: x_1, ``[B, *E]``.
        evaluations: of the denoiser (each with its vjps), the coarser solution's included.
    """

    log_prob: Tensor
    prior_error: Tensor
    prior_law: Literal["exact", "bound"]
    solver_error: Tensor
    probe_error: Tensor
    code: Tensor
    evaluations: int

    @staticmethod
    def joined(parts: Sequence[Likelihood]) -> Likelihood:
        """One batch of several, measured alike; ``evaluations`` is the most that any of them took."""
        columns = {
            name: torch.cat([getattr(part, name) for part in parts])
            for name in ("log_prob", "prior_error", "solver_error", "probe_error", "code")
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
        check_positive("scale", scale)
        dim = self.code[0].numel()
        return Interval.of(-(self.log_prob / dim + math.log(scale)) / math.log(2.0))


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
        world: the data's law if it is known, for the exact q_1.
        solver, steps, tolerance: of :func:`unidiff.score.ode.solve`; neither of the last two means a tolerance of 1e-5.
        probes: K random probes of the divergence; None for the exact one, by D vjps an evaluation.
        probe, generator: their kind and source.
        estimate: whether to solve a second time, coarser, so that the solver's error is known; half as dear again.
        first, to_data, condition, guidance: as :class:`~unidiff.score.flow.ProbabilityFlow`.

    Raises:
        ValueError: x not ``[B, *E]``, not finite or of half precision; probes below 1; and as ProbabilityFlow and solve.
        FloatingPointError: the solution became NaN or infinite.
    """
    check_finite("x", check_state("x", x, core.event_shape))
    if x.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(f"x must be float32 or wider (a log-density is no half-precision number), got {x.dtype}")
    steps, tolerance = chosen(solver, steps, tolerance)
    flow = ProbabilityFlow(core, first, condition, guidance, to_data)
    vectors = None if probes is None else draw_probes(probes, x, probe, generator)
    path = _Path(flow, x.detach().clone(), vectors, solver)
    gain, code = path.walk(steps, tolerance)
    coarse, order = _coarser(steps, tolerance) if estimate else None, ORDERS[solver]
    if coarse is None:
        solver_error = torch.full_like(gain[:, 0], math.inf)
    else:
        before, start = path.walk(*coarse)
        change = (gain.mean(1) + _prior(flow, code) - before.mean(1) - _prior(flow, start)).abs()
        solver_error = change if steps is None or coarse[0] is None else change / ((steps / coarse[0]) ** order - 1)
    log_prob = gain.mean(1) + _prior(flow, code)
    if probes is None:
        probe_error = torch.zeros_like(log_prob)
    elif probes == 1:
        probe_error = torch.full_like(log_prob, math.inf)
    else:
        probe_error = gain.std(1) / math.sqrt(probes)
    prior_error = _cost(flow, x, code, world)
    law = "bound" if world is None else "exact"
    return Likelihood(log_prob, prior_error, law, solver_error, probe_error, code, path.evaluations)


class _Path:
    """The flow from data to noise with the log-determinants it meets, one column for each probe (one if exact)."""

    def __init__(self, flow: ProbabilityFlow, x: Tensor, probes: Tensor | None, solver: Solver) -> None:
        self.flow, self.x, self.probes = flow, x, probes
        self.solver: Solver = solver
        self.evaluations = 0
        self.columns = 1 if probes is None else probes.shape[0]
        dim = x[0].numel()
        level = flow.ends[0].to(x)
        scale = level.alpha / state_scale(level)
        stretch = dim * scale.log().expand(x.shape[0], self.columns)
        x0 = x
        if flow.to_data:
            x0, spread = self._divergence(flow.denoised, x)
            stretch = stretch + 0.5 * (dim - spread)
        self.start = torch.cat([flow.enter(x, x0).flatten(1), stretch], 1)

    def walk(self, steps: int | None, tolerance: float | None) -> tuple[Tensor, Tensor]:
        """(log|∂x_1/∂x| ``[B, columns]``, x_1 ``[B, *E]``)."""
        found = solve(
            self._velocity, self.start, *self.flow.angles, self.solver, steps=steps, tolerance=tolerance,
            places=lambda angles: self.flow.levels(angles, self.x),
        )  # fmt: skip
        y, gain = found.state[:, : -self.columns].view_as(self.x), found.state[:, -self.columns :]
        scale = state_scale(self.flow.ends[1].to(y))
        return gain + self.x[0].numel() * scale.log(), scale * y

    def _velocity(self, state: Tensor, level: NoiseLevel) -> Tensor:
        y = state[:, : -self.columns].view_as(self.x)
        velocity, spread = self._divergence(self.flow.velocity(level), y)
        return torch.cat([velocity.flatten(1), spread], 1)

    def _divergence(self, field: Field, y: Tensor) -> tuple[Tensor, Tensor]:
        """(F(y) ``[B, *E]``, its divergence ``[B, columns]``)."""
        self.evaluations += 1
        if self.probes is None:
            value, spread = divergence(field, y)
            return value, spread[:, None]
        value, spread = probed_divergence(field, y, self.probes)
        return value, spread.T


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
    if world is None:
        law = flow.core.process.marginal(x, 1.0)
        return Gaussian(law.mean.detach(), law.log_var.detach()).kl(_prior_law(flow, code))
    level = flow.ends[1].to(code)
    return world.to(code.dtype, code.device).diffuse(level.alpha, level.sigma).log_prob(code) - _prior(flow, code)
