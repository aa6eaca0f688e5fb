"""Item 60 and its neighbours: steering without training, on Gaussian data where the chain's every law is a formula."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from unidiff.core.chain import ReverseChain
from unidiff.core.diffusion import Diffusion
from unidiff.core.gaussian import Gaussian as Normal
from unidiff.core.grid import TimeGrid
from unidiff.core.schedule import Schedule
from unidiff.identities.case import Case, sampled
from unidiff.identities.chains import denoiser_kappa, grid_of
from unidiff.identities.kernels import density_kappa
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.marginals import axis_step
from unidiff.identities.registry import register
from unidiff.rl import SCHEMES, DenoisingMDP, State, smc_steering
from unidiff.rl.mdp import decodes
from unidiff.rl.resampling import ancestors
from unidiff.rl.twists import Proposal, Twist
from unidiff.worlds import Gaussian, OracleDenoiser
from unidiff.worlds.rewards import Linear

BETA = 0.7


@dataclass(frozen=True, eq=False)
class Line:
    """A linear reward on a linear-Gaussian chain.

    Attributes:
        case: with the world in its own axes, about the origin.
        chain: a few decisions and, where ``decoded``, a last step without noise.
        values: the data's variances, ``[D]``.
    """

    case: Case
    chain: ReverseChain
    values: Tensor

    @staticmethod
    def of(case: Case, decoded: bool = False, decisions: int = 3) -> Line:
        """A decoded line's schedule has no noise at 0."""
        own = replace(case, core=Diffusion(Schedule.linear(), case.core.denoiser)) if decoded else case.heard
        values = torch.linalg.eigvalsh(case.world.covariance)
        core = Diffusion(own.schedule, OracleDenoiser(Gaussian(torch.zeros_like(values), values.diag())))
        grid = grid_of(own, decisions + 1)
        if decoded:
            marks = torch.linspace(3.0, -3.0, decisions, dtype=torch.float64)
            grid = TimeGrid([0.0, *own.schedule.time(marks).tolist(), 1.0])
        return Line(own, core.chain(grid, "optimal"), values)

    def moves(self) -> Iterator[tuple[Tensor, Tensor]]:
        """From noise to data, each ``[D]``: x ← gain·x + √var·ξ; the last step of a decoded line is its mean."""
        silent = 1 if decodes(self.chain) else 0
        for k in range(self.chain.steps, 0, -1):
            gain, var = axis_step(self.case, self.chain.grid, "optimal", k, self.values)
            yield gain, var * float(k > silent)

    def steps(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The moves, and the slope of r(x̂_0(x))/β before each, ``[D]``."""
        times, schedule = self.chain.grid.times, self.case.schedule
        for t, (gain, var) in zip(times.flip(0), self.moves(), strict=False):
            alpha, sigma = (f(t).detach() for f in (schedule.alpha, schedule.sigma))
            guess = alpha * self.values / (alpha.square() * self.values + sigma.square())
            yield gain, var, guess * self.slope / BETA

    @cached_property
    def spread(self) -> Tensor:
        """The variances of x_0 under the chain, ``[D]``; its mean is 0."""
        found = torch.full_like(self.values, self.case.schedule.prior_std**2)
        for gain, var in self.moves():
            found = gain.square() * found + var
        return found

    @cached_property
    def slope(self) -> Tensor:
        """b of r = bᵀx, ``[D]``: r's deviation is 0.7 β under the chain, so that the weights' tails are light.

        In units of what the chain ends in, which is wider than data that are narrower than its last noise.
        """
        return 0.7 * BETA / (self.spread * len(self.values)).sqrt()

    @cached_property
    def mdp(self) -> DenoisingMDP:
        """The chain, and the reward of its data."""
        return DenoisingMDP(self.chain, Linear(self.slope))

    @property
    def log_z(self) -> Tensor:
        """Log E[e^{bᵀx_0/β}] under the chain."""
        return 0.5 * (self.slope.square() * self.spread).sum() / BETA**2


class OnLine:
    """Where a line is."""

    views = ("rl",)
    conditions = "Gaussian data in their own axes, the exact denoiser, three schedules; in float64"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        known = isinstance(case.world, Gaussian) and case.exact and case.dtype == torch.float64
        return known and sampled(case) and not case.reaches_zero_snr


@register
class SteeringNormaliser(OnLine, MonteCarlo):
    """Item 60: Ẑ is Z in the mean for one, two and eight particles, good and bad twists and controls, every scheme.

    With a last step without noise too. Size: 1.
    """

    name = "steering-normaliser"
    statement = (
        r"E\left[\hat Z\right]=E_{\mathrm{ref}}\left[e^{r(x_0)/\beta}\right],\quad\mathrm{any}\ \psi_k>0,\ u_k,\ n"
    )
    source = "Del Moral 2004, theorem 7.4.2; Wu et al. 2023 (TDS)"
    bound = 0.25

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        # As many particles for each plan: a run of few is one of several that make a draw.
        draws, columns = 2048, []
        for decoded in (False, True):
            line = Line.of(case, decoded)
            bad, push = self._astray(line)
            plans: tuple[tuple[int, Twist, Proposal, float], ...] = (
                (1, "none", "reference", 0.0),
                (1, bad, push, 0.5),
                (2, bad, "reference", 1.0),
                (2, "reward", "gradient", 1.0),
                (8, bad, push, 0.6),
                (8, "reward", "reference", 0.9),
            )
            for i, (n, twist, propose, threshold) in enumerate(plans):
                found = smc_steering(
                    line.mdp, n, beta=BETA, twist=twist, propose=propose, resample=SCHEMES[i % 3], threshold=threshold,
                    runs=draws * 8 // n, generator=case.generator(f"steering {decoded} {i}"), like=line.slope,
                )  # fmt: skip
                columns.append((found.log_z - line.log_z).expm1().reshape(draws, -1).mean(1))
        return torch.stack(columns, 1), torch.ones(len(columns)).to(columns[0])

    @staticmethod
    def _astray(line: Line) -> tuple[Twist, Proposal]:
        """A twist and a control that know the state and lead the wrong way."""
        scale = line.mdp.chain.core.schedule.prior_std

        def bad(x: Tensor, t: float) -> Tensor:
            return 0.5 * (1.5 + t) * torch.tanh(x / scale)[:, 0] - 0.3

        def push(state: State) -> Tensor:
            return 0.2 * torch.cos(2 * state.x / scale) - 0.05 * state.k

        return bad, push


@register
class SteeringWeights(Algebraic):
    """Without resampling a path's weight is e^{r/β} Π p_ref/q, whatever the twist; and the last effective size is Kish's.

    The states are overheard by the control; p_ref is the forward process's posterior at x̂_0. κ: the densities' own, what
    x̂_0 rounds as in units of σ, times the residual; each twist comes in and goes out.
    """

    name = "steering-weights"
    statement = (
        r"w=e^{r(x_0)/\beta}\prod_k\frac{p_{\mathrm{ref}}(x_{k-1}|x_k)}{q(x_{k-1}|x_k)},\quad "
        r"n_{\mathrm{eff}}=\frac{(\sum w)^2}{\sum w^2}"
    )
    views = ("rl",)
    source = "Wu et al. 2023 (TDS); Kish 1965"
    conditions = (
        "any core, three schedules, a last level with some signal; in float32 where data and noise are both heard"
    )

    def applies(self, case: Case) -> bool:
        return sampled(case) and not case.reaches_zero_snr

    def sides(self, case: Case) -> Iterable[Sides]:
        case = replace(case.heard, batch=32)
        grid, n = grid_of(case, 4), case.batch
        b = case.normal("steering slope", case.dim) / case.dim**0.5
        mdp = DenoisingMDP(case.core.chain(grid), Linear(b))
        states, twists = [], []

        def push(state: State) -> Tensor:
            states.append(state)
            return self._control(case, state.x)

        def twist(x: Tensor, t: float) -> Tensor:
            twists.append(torch.tanh(x.flatten(1).sum(1)) + t)
            return twists[-1]

        found = smc_steering(
            mdp, n, beta=BETA, twist=twist, propose=push, threshold=0.0, generator=case.generator("steering"), like=case.x0
        )  # fmt: skip
        wide = found.x0.flatten(1).double()
        told = wide @ b.double() / BETA
        kappa = wide.abs() @ b.double().abs() / BETA + sum(v.abs().double() for v in twists)
        for state, x in zip(states, [*(v.x for v in states[1:]), found.x0], strict=True):
            s, t = float(grid.times[state.k - 1]), float(grid.times[state.k])
            law = case.process.posterior(state.x, case.core.predict(state.x, t).x0.detach(), s, t)
            moved = Normal(law.mean + law.std * self._control(case, state.x), law.log_var)
            told = told + (law.log_prob(x) - moved.log_prob(x)).double()
            rounding = denoiser_kappa(case, state.x, case.schedule.level(t, case.x0)) / law.std
            lost = (rounding * self._control(case, state.x).abs()).flatten(1).sum(1)
            kappa = kappa + (density_kappa(law, x) + density_kappa(moved, x) + lost).double()
        yield Sides(found.log_weights, told, kappa)
        share = (found.log_weights - found.log_weights.max()).exp()
        size = share.sum().square() / share.square().sum()
        yield Sides(found.ess[-1:], size[None], size[None] * (1 + found.log_weights.abs().max()))
        mean = share.mean().log() + found.log_weights.max()
        yield Sides(found.log_z[None], mean[None], 1 + found.log_weights.abs().max()[None])

    @staticmethod
    def _control(case: Case, x: Tensor) -> Tensor:
        return 2 * torch.cos(x) + 1


@register
class SteeringParents(OnLine, MonteCarlo):
    """A child steps from its own parent, by its parent's control: its residual about that parent's mean is u + ξ.

    One decision, its states overheard by the control, resampled always. Sizes: |u|².
    """

    name = "steering-parents"
    statement = r"E\left[\left(\frac{x'-\mu_{\mathrm{ref}}(x)}{\sigma}-u(x)\right)u(x)\right]=0"
    source = "Gordon, Salmond and Smith 1993"

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        line, n = Line.of(case, decisions=1), 16384
        ((gain, var),) = line.moves()
        heard: list[Tensor] = []

        def push(state: State) -> Tensor:
            heard.append(state.x)
            return 2 * state.x / line.case.schedule.prior_std

        found = smc_steering(
            line.mdp, n, beta=BETA, propose=push, threshold=1.0, generator=case.generator("parents"), like=line.slope
        )
        parent = heard[0][found.roots]
        u = 2 * parent / line.case.schedule.prior_std
        residual = (found.x0 - gain * parent) / var.sqrt()
        return (residual - u) * u, u.square().mean(0)


@register
class ResamplingMeans(MonteCarlo):
    """Every scheme copies a particle m W_i times in the mean, for fewer and for more draws than particles. Size: m W_i."""

    name = "resampling-means"
    statement = r"E[N_i]=mW_i"
    views = ("rl",)
    source = "Douc, Cappe and Moulines 2005, section 2"
    conditions = "float64; once, for it knows of no schedule"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and case.schedule_name == "sigmoid" and case.dtype == torch.float64

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        weights = torch.tensor([0.08, 0.4, 0.07, 0.3, 0.15], dtype=torch.float64, device=case.device)
        columns, sizes = [], []
        for scheme in SCHEMES:
            for draws in (2, 7):
                log_weights = (weights.log() + 3.0).expand(1 << 15, -1)
                index = ancestors(log_weights, draws, scheme, case.generator(f"{scheme} {draws}"))
                counts = torch.nn.functional.one_hot(index, len(weights)).sum(1)
                columns.append(counts - draws * weights)
                sizes.append(draws * weights)
        return torch.cat(columns, 1), torch.cat(sizes)
