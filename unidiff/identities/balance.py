r"""Item 18, the kernels that reject: detailed balance pair by pair, the leapfrog and the path integral beneath it.

Of each pair are computed the move, the reverse move that its own draws make, and both acceptances: no Monte Carlo, and
no law too wide for it. The proposals' densities are written apart from the kernels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.boundary import right_expand
from unidiff.core.gaussian import Gaussian as Normal
from unidiff.core.level import NoiseLevel
from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, Order, Quadrature, Sides
from unidiff.identities.registry import register
from unidiff.identities.truths import log_prob_kappa
from unidiff.mcmc.metropolis import HMC, MALA, leapfrog
from unidiff.mcmc.path import log_ratio
from unidiff.mcmc.state import Kernel, Move, State
from unidiff.mcmc.target import Target
from unidiff.worlds import Gaussian, PointCloud
from unidiff.worlds.world import World


def noised(case: Case, count: int = 16) -> tuple[World, Tensor, NoiseLevel]:
    """Noised laws, one for each row, at log-SNRs over [−2, 2], and a draw of each. A data set's score is dear: fewer."""
    n = count // 4 if isinstance(case.world, PointCloud) else count
    places = torch.linspace(*case.window(-2.0, 2.0), n, dtype=torch.float64, device=case.device)
    level = case.schedule.level_at(places, case.x0)
    level = NoiseLevel(*(v.detach() for v in vars(level).values()))
    x = right_expand(level.alpha, case.x0) * case.x0[:n] + right_expand(level.sigma, case.x0) * case.noise[:n]
    return case.world.diffuse(level.alpha, level.sigma), x, level


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


class _Balance(Algebraic):
    """π(x)q(x′|x)a(x, x′) = π(x′)q(x|x′)a(x′, x) in logs; where the reverse goes; and what a draw u decides.

    κ: the two log-densities' conditions, and the rounding of x in units of the step, ‖x‖(‖ξ‖ + √D)/step.
    """

    views = ("score", "ebm")
    subject = "schedule"
    conditions = "any law; each chain decides for itself"

    def _moves(
        self, case: Case, kernel: Kernel, step: Tensor, forward: Tensor, back: Tensor, ends: tuple[State, State]
    ) -> Iterable[Sides]:
        world, _, level = noised(case)
        law, (start, end) = Target.of(world), ends
        half = torch.full_like(level.alpha, 0.5)
        move = kernel.step(law, start, step, forward, half)
        reverse = kernel.step(law, end, step, back, half)
        x, y = start.x, end.x
        width = level.sigma * 0.3
        lost = (_norm(x) + _norm(y)) * (_norm(forward) + _norm(back) + case.dim**0.5) / width
        kappa = sum(log_prob_kappa(case, z, level.alpha, level.sigma) for z in (x, y)) + lost
        left, right = self._densities(case, law, step, x, y, forward, back)
        yield Sides(
            world.log_prob(x) + left + move.log_accept.clamp(max=0),  # pyright: ignore
            world.log_prob(y) + right + reverse.log_accept.clamp(max=0),  # pyright: ignore
            kappa,
        )
        yield Sides(move.proposal, y, right_expand(kappa, y))
        yield Sides(reverse.proposal, x, right_expand(kappa, x))
        yield from self._decisions(law, kernel, step, start, forward, move)

    @abstractmethod
    def _densities(
        self, case: Case, law: Target, step: Tensor, x: Tensor, y: Tensor, forward: Tensor, back: Tensor
    ) -> tuple[Tensor, Tensor]:
        """log q(y|x) and log q(x|y)."""

    def _decisions(
        self, law: Target, kernel: Kernel, step: Tensor, start: State, forward: Tensor, move: Move
    ) -> Iterable[Sides]:
        """A 1 − u just under min(1, a) moves the chain, one just over a leaves it; its score and density are those there.

        Of an a below 1e-3 the bits of u do not tell which side it is on; there 1 − u = 1 leaves the chain.
        """
        accept = move.log_accept.clamp(max=0).exp()  # pyright: ignore
        likely, doubtful = accept > 1e-3, accept < 0.9
        over = torch.where(doubtful, 1.01, 0.5) * accept
        for rest, moved in ((0.99 * accept, likely), (over, ~doubtful)):
            u = 1 - torch.where(likely, rest, 1.0)
            state = kernel.step(law, start, step, forward, u).state
            x = torch.where(right_expand(moved, start.x), move.proposal, start.x)
            score, log_prob = law.evaluate(x)
            yield Sides(state.x, x, 1 + x.abs())
            yield Sides(state.score, score, 1 + score.abs())
            yield Sides(state.log_prob, log_prob, 1 + log_prob.abs())  # pyright: ignore


@register
class MalaBalance(_Balance):
    """Item 18: MALA, with q(x′|x) = N(x + δs, 2δI) as a density."""

    name = "mala-detailed-balance"
    statement = r"\pi(x)q(x'|x)a(x,x')=\pi(x')q(x|x')a(x',x)"
    source = "Roberts & Tweedie 1996, section 1.4"

    def sides(self, case: Case) -> Iterable[Sides]:
        world, x, level = noised(case)
        law, kernel = Target.of(world), MALA(1.0)
        step = right_expand(0.1 * level.sigma.square(), x)
        forward = case.normal("mala", *x.shape)
        start = kernel.start(law, x)
        y = x + step * start.score + (2 * step).sqrt() * forward
        end = kernel.start(law, y)
        back = (x - y - step * end.score) / (2 * step).sqrt()
        yield from self._moves(case, kernel, step, forward, back, (start, end))

    def _densities(
        self, case: Case, law: Target, step: Tensor, x: Tensor, y: Tensor, forward: Tensor, back: Tensor
    ) -> tuple[Tensor, Tensor]:
        log_var = (2 * step).log()
        there = Normal(x + step * law.score(x), log_var).log_prob(y)
        return there, Normal(y + step * law.score(y), log_var).log_prob(x)


@register
class HmcBalance(_Balance):
    """Item 18: HMC. The map keeps volume, so the proposal's density is the momentum's; the reverse starts from −p′."""

    name = "hmc-detailed-balance"
    statement = r"\pi(x)N(p)\,a(x,x')=\pi(x')N(p')\,a(x',x),\quad a=\min(1,e^{H-H'})"
    source = "Duane et al. 1987; Neal 2011, section 3.2"

    def sides(self, case: Case) -> Iterable[Sides]:
        world, x, level = noised(case)
        law, kernel = Target.of(world), HMC(1.0, leapfrog=3)
        step = right_expand(0.4 * level.sigma, x)
        forward = case.normal("hmc", *x.shape)
        start = kernel.start(law, x)
        end, last, _ = leapfrog(law, start, forward, step, 3)
        yield from self._moves(case, kernel, step, forward, -last, (start, end))

    def _densities(
        self, case: Case, law: Target, step: Tensor, x: Tensor, y: Tensor, forward: Tensor, back: Tensor
    ) -> tuple[Tensor, Tensor]:
        rest = Normal(torch.zeros_like(x), torch.zeros_like(x))
        return rest.log_prob(forward), rest.log_prob(back)


@register
class LeapfrogVolume(Algebraic):
    """The leapfrog's Jacobian M in (x, p) is symplectic, along random u and w: it keeps volume.

    κ: the norms of the three factors, and the rounding of the score's slope, as a log-density's.
    """

    name = "leapfrog-symplectic"
    statement = r"u^\top M^\top JMw=u^\top Jw,\quad M=\frac{\partial(x',p')}{\partial(x,p)}"
    views = ("score",)
    source = "Hairer, Lubich & Wanner 2006, theorem VI.3.4"
    subject = "schedule"
    conditions = "up to eight dimensions"

    def applies(self, case: Case) -> bool:
        return case.dim <= 8

    def sides(self, case: Case) -> Iterable[Sides]:
        world, x, level = noised(case)
        law, dim = Target.of(world), case.dim
        step = right_expand(0.4 * level.sigma, x)
        both = torch.cat([x, case.normal("leapfrog", *x.shape)], 1).requires_grad_()

        with torch.enable_grad():
            start = State(both[:, :dim], law.score(both[:, :dim]))
            end, last, _ = leapfrog(law, start, both[:, dim:], step, 2)
            out = torch.cat([end.x, last], 1)
            rows = [torch.autograd.grad(out[:, k].sum(), both, retain_graph=True)[0] for k in range(2 * dim)]
        jacobian = torch.stack(rows, 1)
        eye = torch.eye(dim).to(x)
        form = torch.block_diag(eye, eye)[:, [*range(dim, 2 * dim), *range(dim)]] * torch.cat(
            [torch.ones(dim), -torch.ones(dim)]
        ).to(x).unsqueeze(1)
        u = case.normal("symplectic", len(x), 2 * dim)
        w = u @ form.mT + 0.3 * case.normal("symplectic too", len(x), 2 * dim)  # so that uᵀJw is no accident of zero
        turned_u, turned_w = (torch.einsum("bij,bj->bi", jacobian, v) for v in (u, w))
        size = turned_u.norm(dim=1) * turned_w.norm(dim=1) + u.norm(dim=1) * w.norm(dim=1)
        own, plain = ((left @ form * right).sum(1) for left, right in ((turned_u, turned_w), (u, w)))
        yield Sides(own, plain, size * (1 + case.dim + _norm(x) / level.sigma))


@register
class LeapfrogOrder(Order):
    """The energy error of a trajectory of fixed length is of second order in the step."""

    name = "leapfrog-energy-order"
    statement = r"|H'-H|=O(\varepsilon^2)"
    views = ("score", "thermo")
    source = "Leimkuhler & Reich 2004, section 2.2"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return case.dtype == torch.float64

    def errors(self, case: Case) -> tuple[list[float], list[float], float]:
        world, x, level = noised(case)
        law = Target.of(world)
        state, p = HMC(1.0).start(law, x), case.normal("trajectory", *x.shape)
        steps, errors = [], []
        for count in (4, 8, 16, 32):
            step = right_expand(0.8 * level.sigma / count, x)
            move = HMC(1.0, leapfrog=count).step(law, state, step, p, torch.full_like(level.alpha, 0.5))
            steps.append(1 / count)
            errors.append(float(move.log_accept.abs().mean()))  # pyright: ignore
        return steps, errors, 2.0


@register
class PathRatio(Quadrature):
    """Metropolis from a score alone: the score's integral along a straight path is the difference of log-densities."""

    name = "score-path-integral"
    statement = r"\log q_t(y)-\log q_t(x)=\int_0^1 s(x+u(y-x))\cdot(y-x)\,\mathrm{d}u"
    views = ("score", "ebm")
    source = "the fundamental theorem of calculus; Sohl-Dickstein et al. 2015, section 2.3"
    subject = "schedule"
    refinements = (1, 2, 4, 8, 16, 32)

    def values(self, case: Case, n: int) -> tuple[Tensor, Tensor]:
        world, x, level = noised(case)
        y = x + right_expand(2 * level.sigma / case.dim**0.5, x) * case.normal("path", *x.shape)
        found, _ = log_ratio(world.score, x, world.score(x), y, world.score(y), n)
        return found, world.log_prob(y) - world.log_prob(x)

    def rounding(self, case: Case) -> float:
        _, x, level = noised(case)
        return 2 * case.eps * float(log_prob_kappa(case, x, level.alpha, level.sigma).max())


@register
class PathSimpson(Algebraic):
    """The path integral less its stated error is Simpson's rule on the same nodes: exact where log q is quadratic.

    κ: the log-density's condition, and the terms score·(y − x).
    """

    name = "score-path-error"
    statement = (
        r"\log q_t(y)-\log q_t(x)=\hat\Delta-\hat e=\frac{1}{6}\left(s(x)+4s(\frac{x+y}{2})+s(y)\right)\cdot(y-x)"
    )
    views = ("score", "ebm")
    source = "Davis & Rabinowitz 1984, section 2.2"
    subject = "schedule"
    conditions = "Gaussian data"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian)

    def sides(self, case: Case) -> Iterable[Sides]:
        world, x, level = noised(case)
        y = x + right_expand(2 * level.sigma / case.dim**0.5, x) * case.normal("path", *x.shape)
        found, error = log_ratio(world.score, x, world.score(x), y, world.score(y))
        kappa = log_prob_kappa(case, x, level.alpha, level.sigma) + log_prob_kappa(case, y, level.alpha, level.sigma)
        kappa = kappa + ((world.score(x).abs() + world.score(y).abs()) * (y - x).abs()).flatten(1).sum(1)
        yield Sides(found - error, world.log_prob(y) - world.log_prob(x), kappa)
