r"""What a policy is beside the reference that it left, on any core: a control, a ratio, a KL, a chain to be run through.

The other side is the forward process's posterior at x̂_θ by hand: the law that the policy's step is, whoever walks it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from unidiff.core.boundary import right_expand
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import Prediction
from unidiff.identities.case import Case, sampled
from unidiff.identities.chains import denoiser_kappa, grid_of
from unidiff.identities.kernels import density_kappa
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register
from unidiff.identities.tilts import BETA
from unidiff.rl import Backprop, DenoisingMDP, Policy, State, Walk, corrected, merged, trainable
from unidiff.rl.methods.backprop import Noises, run_through
from unidiff.rl.methods.gradients import surrogate, z_scores
from unidiff.rl.policy import log_ratio
from unidiff.worlds import Gaussian

_CLIP = 0.02


class Wave(nn.Module):
    """A correction that is no line, θ times it, with a number of the level in it."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones((), dtype=like.dtype, device=like.device))

    def forward(self, x: Tensor, log_snr: Tensor, condition: Tensor | None = None) -> Tensor:
        """F, of x's shape."""
        return self.theta * (0.5 * torch.cos(x / (1 + x.abs())) + 0.1 * right_expand(log_snr, x))


class Apart:
    """The same denoiser as a correction by ``wave`` makes, but one that is not known to be a correction."""

    def __init__(self, core: Diffusion, wave: Wave) -> None:
        self.core, self.wave, self.event_shape = core, wave, core.event_shape

    def __call__(
        self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Prediction:
        lift = lifted(self.wave, xt, level)
        return Prediction(xt, level, {"x0": self.core.denoiser(xt, level).x0 + lift}, guarded=False)


def lifted(wave: Wave, x: Tensor, level: NoiseLevel) -> Tensor:
    """σ²/(α² + σ²) F, by hand."""
    share = level.sigma.square() / (level.alpha.square() + level.sigma.square())
    return (right_expand(share, x) * wave(x, level.log_snr.expand(len(x)))).detach()


class _Departed(Algebraic):
    """A walk of four steps by a policy that is no line."""

    views = ("rl", "core", "vae")
    conditions = (
        "any core, three schedules, a last level with some signal, where data and noise are both heard; in float64"
    )

    def applies(self, case: Case) -> bool:
        return sampled(case) and not case.reaches_zero_snr and case.dtype == torch.float64

    @staticmethod
    def process(case: Case) -> DenoisingMDP:
        """Paid for its data and for each step, which knows its states and its times apart."""
        b = case.normal("slope", case.dim) / case.dim**0.5

        def paid(xt: Tensor, xs: Tensor, t: float, s: float) -> Tensor:
            return (1 + t) * torch.tanh(xt.flatten(1) @ b) + (2 - s) * torch.sin(xs.flatten(1) @ b)

        chain = case.core.chain(grid_of(case, 4))
        return DenoisingMDP(chain, lambda x0: torch.cos(x0.flatten(1) @ b), step_reward=paid, beta=BETA)

    @staticmethod
    def earned(mdp: DenoisingMDP, walk: Walk) -> Tensor:
        """What each step of a walk pays, by hand, ``[H, B]``."""
        times, found = mdp.chain.grid.times, []
        assert mdp.step_reward is not None
        assert mdp.reward is not None
        for k, before, after in zip(walk.k.tolist(), walk.x, [*walk.x[1:], walk.x0], strict=True):
            found.append(mdp.step_reward(before, after, float(times[k]), float(times[k - 1])))
        found[-1] = found[-1] + mdp.reward(walk.x0)
        return torch.stack(found)


@register
class PolicyIsControl(_Departed):
    """A corrected core is a control: where its walks go, the ratio to the reference there, the KL, what PPO makes of it.

    Walked as a correction of the reference and as a denoiser of its own. κ: the densities' own and x̂_0's in units of σ.
    """

    name = "policy-is-control"
    statement = (
        r"\hat x_\theta=\hat x_{\mathrm{ref}}+\bar\sigma^2F:\quad"
        r"\log\frac{p_\theta(x_s|x_t)}{p_{\mathrm{ref}}(x_s|x_t)}=u\cdot a-\frac{1}{2}\|u\|^2,\quad"
        r"\mathrm{KL}=\frac{1}{2}\|u\|^2"
    )
    source = "Girsanov 1960; Schulman et al. 2017 (PPO), eq. 7"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        wave = Wave(case.x0)
        mdp, start = self.process(case), case.schedule.prior_std * case.normal("start", *case.x0.shape)
        for core in (corrected(case.core, wave), Diffusion(case.schedule, Apart(case.core, wave))):
            policy = Policy(mdp, core)
            walk = policy.walk(len(start), case.generator("policy"), like=case.x0, start=start)
            yield Sides(walk.x[0], start, start)
            yield Sides(walk.paid, self.earned(mdp, walk), 10 * (1 + walk.x.abs().flatten(2).sum(2)))
            for h, after in enumerate([*walk.x[1:], walk.x0]):
                yield from self._step(case, policy, wave, walk, h, after.detach())

    @staticmethod
    def _step(case: Case, policy: Policy, wave: Wave, walk: Walk, h: int, after: Tensor) -> Iterator[Sides]:
        n, k, times = len(walk.x0), int(walk.k[h]), policy.mdp.chain.grid.times
        x, a, u = walk.x[h], walk.action[h], walk.control[h]
        s, t = float(times[k - 1]), float(times[k])
        level = case.schedule.level(t, case.x0)
        guess, lift = case.core.predict(x, t).x0.detach(), lifted(wave, x, level)
        old, new = (case.process.posterior(x, v, s, t) for v in (guess, guess + lift))
        size = (denoiser_kappa(case, x, level) + lift.abs() + new.mean.abs() + x.abs()) / old.std
        stored = 1 + old.log_var.abs()
        yield Sides(after, new.mean + new.std * (a - u), (size + a.abs() * stored) * old.std)
        yield Sides(u, (new.mean - old.mean) / old.std, size)
        yield Sides(walk.std[h], old.std.expand_as(x), (old.std * stored).expand_as(x))
        ratio = new.log_prob(after) - old.log_prob(after)
        kappa = density_kappa(old, after) + density_kappa(new, after)
        kappa = kappa + (size * (a.abs() + u.abs())).flatten(1).sum(1)
        yield Sides(log_ratio(u, a), ratio, kappa)
        yield Sides(walk.kl[h], new.kl(old), kappa)
        rows = walk.taken()[torch.arange(h * n, (h + 1) * n, device=x.device)]
        again = policy.control(rows.at)
        yield Sides(again, u, size)
        yield Sides(policy.control(policy.look(State(x, k))), u, size)
        # A step further the same way, where half of the ratios leave the clip.
        worth, far = case.normal(f"worth {h}", n), 1.5 * again.detach()
        rho, most = (log_ratio(far, a) - ratio).exp(), math.exp(_CLIP * case.dim)
        least = torch.minimum(rho * worth, rho.clamp(1 / most, most) * worth)
        yield Sides(-surrogate(far, rows, worth, "ratio", _CLIP), least, (1 + rho) * worth.abs() * (1 + kappa))


@register
class RunThroughIsWalk(_Departed):
    """The chain that backpropagation runs through is the policy's walk by the same noise, and what it earns and costs.

    A reach drawn anew is one of those up to the longest, and each of them is drawn. κ: the terms, with x̂_0's.
    """

    name = "run-through-is-walk"
    statement = (
        r"x_{k-1}=\mu_{\mathrm{ref}}(x_k)+\sigma_k(u_\theta(x_k)+\xi_k):\quad "
        r"L=E\left[-r+\beta\sum_k\frac{1}{2}\|u_k\|^2\right]"
    )
    source = "Clark et al. 2024 (DRaFT), section 3.1; Prabhudesai et al. 2023 (AlignProp), section 4.2"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        wave, mdp, n = Wave(case.x0), self.process(case), 8
        policy = Policy(mdp, corrected(case.core, wave))
        walk = policy.walk(n, case.generator("through"), like=case.x0)
        rows = Noises(walk.x[0], (walk.action - walk.control).transpose(0, 1))
        # Each step hands its rounding on to the next, in units of σ.
        reach = mdp.horizon * (
            1 + walk.x.abs().flatten(2).sum((0, 2)) + (walk.guess / walk.std).square().flatten(2).sum((0, 2))
        )
        for found, known in zip(
            run_through(policy, rows), (self.earned(mdp, walk).sum(0), walk.kl.sum(0)), strict=True
        ):
            yield Sides(found, known, reach)
        if isinstance(case.world, Gaussian):
            yield from self._drawn(case, policy, wave, rows, reach.max())

    @staticmethod
    def _drawn(case: Case, policy: Policy, wave: Wave, rows: Noises, reach: Tensor) -> Iterator[Sides]:
        known = torch.stack([
            torch.autograd.grad(Backprop(last).learner(policy).loss(rows), wave.theta)[0] for last in (1, 2, 3)
        ])  # fmt: skip
        learner = Backprop(last=2, random=True).learner(policy)
        learner.gather(1, case.generator("reach"), None)
        drawn = torch.stack([torch.autograd.grad(learner.loss(rows), wave.theta)[0] for _ in range(36)])
        # Every draw is one of the first two, and either is drawn but for one case in 2^35.
        apart = (drawn[:, None] - known[:2]).abs()
        yield Sides(drawn, known[apart.argmin(1)], reach.expand_as(drawn))
        yield Sides(drawn[apart.argmin(0)], known[:2], reach.expand(2))


class _Once(Algebraic):
    """Where no schedule matters."""

    views = ("rl",)
    conditions = "once, for it knows of no schedule"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and case.schedule_name == "karras"


@register
class ScoresByClass(_Once):
    """DDPO's z-scores are those of each class for itself, by the population's deviation. κ: r over the deviation."""

    name = "scores-by-class"
    statement = r"z_i=\frac{r_i-\bar r_c}{\mathrm{std}_c(r)},\quad c=c_i"
    source = "Black et al. 2024 (DDPO), section 4.3"

    def sides(self, case: Case) -> Iterable[Sides]:
        label = torch.arange(40, device=case.device) % 3 * 2
        reward = 3 + label + (1 + label) * case.normal("class", 40)
        found = z_scores(reward, label)
        for own in (0, 2, 4):
            got = reward[label == own]
            size = (1 + got.abs().max() / got.std()) * (1 + found[label == own].abs())
            yield Sides(found[label == own], (got - got.mean()) / got.std(correction=0), size)


@register
class LowRankIsMerged(_Once):
    """A change of low rank is W + (α/r)BA in every layer, whether it stands apart or has been added in. κ: the terms.

    By a network that is written out; α/r is not 1.
    """

    name = "low-rank-is-merged"
    statement = r"Wx+\frac{\alpha}{r}BAx=\left(W+\frac{\alpha}{r}BA\right)x"
    views = ("rl", "core")
    source = "Hu et al. 2022 (LoRA), eq. 3"

    def sides(self, case: Case) -> Iterable[Sides]:
        network = Two(case.dim, case.x0)
        for i, p in enumerate(network.parameters()):
            p.data = 0.5 * case.normal(f"plain {i}", *p.shape)
        core = Diffusion(case.schedule, Denoiser(network, (case.dim,), "x0"))
        own = trainable(core, rank=2, scale=3.0)
        changed = [p for name, p in own.named_parameters() if name.endswith(".b")]
        for i, p in enumerate(changed):
            p.data = case.normal(f"low rank {i}", *p.shape)
        weights = [layer.weight.detach() for layer in network.layers()]
        lows = [p.detach() for name, p in own.named_parameters() if name.endswith(".a")]
        whole = [W + 1.5 * b @ a for W, b, a in zip(weights, changed, lows, strict=True)]
        plain = Two(case.dim, case.x0)
        for layer, source, W in zip(plain.layers(), network.layers(), whole, strict=True):
            layer.weight.data, layer.bias.data = W.detach(), source.bias.data
        x, t = case.xt, case.t
        asked = Diffusion(case.schedule, Denoiser(plain, (case.dim,), "x0"))
        known = asked.predict(x, t).x0
        size = 10 * (1 + known.abs()) * (1 + sum(W.norm() for W in whole)) * (1 + x.norm(dim=1, keepdim=True))
        for found in (own, merged(own)):
            yield Sides(found.predict(x, t).x0, known, size)


class Two(nn.Module):
    """Two layers of four units."""

    def __init__(self, dim: int, like: Tensor) -> None:
        super().__init__()
        self.first, self.last = (nn.Linear(*v).to(like) for v in ((dim, 4), (4, dim)))

    def layers(self) -> tuple[nn.Linear, nn.Linear]:
        """Both."""
        return self.first, self.last

    def forward(self, x: Tensor, log_snr: Tensor, condition: Tensor | None = None) -> Tensor:
        """Of x alone."""
        return self.last(torch.tanh(self.first(x)))
