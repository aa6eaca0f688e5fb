"""What the methods learn from: the walks of one generator, and what each decision or pair of them is worth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import softplus

from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.preferences import log_ratios, stacked
from unidiff.identities.registry import register
from unidiff.identities.tilts import BETA
from unidiff.identities.tuned import Beside, Tuned
from unidiff.rl import D3PO, DDPO, DPO, DPOK, Backprop, Preferences
from unidiff.rl.policy import Taken


@register
class Gathered(Beside, Algebraic):
    """What the gradients' learners gather is what the noise of one generator leads to, weighed by its definition.

    DDPO: z-scores with the population's deviation. DPOK: Σ_j ℓ^j δ_{h+j} with a value that is not zero. κ: the states' size.
    """

    name = "gathered-experience"
    statement = (
        r"A_\mathrm{DDPO}=\frac{r-\bar r}{\mathrm{std}(r)},\quad "
        r"A_\mathrm{DPOK}=\sum_{j\geq0}\ell^j\left(c_{h+j}+V_{h+j+1}-V_{h+j}\right),\quad "
        r"c_h=r_h-\tfrac\beta2\|u_h\|^2"
    )
    source = "Black et al. 2024, section 4.3; Schulman et al. 2016, eq. 16"

    def sides(self, case: Case) -> Iterable[Sides]:
        n = 24
        for tuned in self.subjects(case):
            walk = tuned.replayed(n, "gathered")
            reward = walk.reward
            score = (reward - reward.mean()) / (reward - reward.mean()).square().mean().sqrt()
            rows, told = DDPO().learner(tuned.policy).gather(n, tuned.case.generator("gathered"), None)
            yield from self._same(rows.taken, walk.taken(), rows.advantage, score.repeat(len(walk.x)))
            costs = walk.kl.sum(0).mean()
            yield Sides(
                torch.stack([told["reward"], told["kl"]]),
                torch.stack([reward.mean(), costs]),
                reward.abs().max() + costs,
            )
            yield from self._charged(case, tuned, n)
            noises, _ = Backprop().learner(tuned.policy).gather(n, tuned.case.generator("gathered"), None)
            drawn = torch.Generator().manual_seed(tuned.case.generator("gathered").initial_seed())
            start = torch.randn((n, case.dim), generator=drawn, dtype=case.dtype)
            noise = torch.randn((n, len(tuned.decisions), case.dim), generator=drawn, dtype=case.dtype)
            yield Sides(noises.start, tuned.case.schedule.prior_std * start, 1 + start.abs())
            yield Sides(noises.noise, noise, 1 + noise.abs())

    def _charged(self, case: Case, tuned: Tuned, n: int) -> Iterator[Sides]:
        decay, walk = 0.6, tuned.replayed(n, "gathered")
        learner = DPOK(decay=decay, width=8).learner(tuned.policy)
        value = learner.module
        assert value is not None
        with torch.no_grad():
            for i, p in enumerate(value.parameters()):
                p.copy_(0.3 * case.normal(f"value {i}", *p.shape))
            rows, _ = learner.gather(n, tuned.case.generator("gathered"), None)
            times = tuned.mdp.chain.grid.times[walk.k]
            log_snr = tuned.case.schedule.log_snr(times).detach().to(walk.x)
            said = torch.stack([value(x, g, s.expand(n)) for x, g, s in zip(walk.x, walk.guess, log_snr, strict=True)])
        earned = walk.paid - 0.5 * tuned.mdp.beta * walk.control.square().sum(2)
        after = torch.cat([said[1:], 0 * said[:1]])
        known = torch.stack(
            [
                torch.stack([decay ** (j - h) * (earned + after - said)[j] for j in range(h, len(said))]).sum(0)
                for h in range(len(said))
            ]
        )
        assert rows.target is not None
        yield from self._same(rows.taken, walk.taken(), rows.advantage, known.flatten())
        yield Sides(rows.target, (known + said).flatten(), 10 * (1 + known.abs().max()).expand(known.numel()))
        # One step of the value's own loss, beside the policy's.
        own = torch.autograd.grad(learner.loss(rows), list(value.parameters()), allow_unused=True)
        again = torch.stack([value(x, g, s.expand(n)) for x, g, s in zip(walk.x, walk.guess, log_snr, strict=True)])
        theirs = torch.autograd.grad(
            (again - (known + said)).square().mean(), list(value.parameters()), allow_unused=True
        )
        for p, *both in zip(value.parameters(), own, theirs, strict=True):
            mine, known_ = (torch.zeros_like(p) if v is None else v for v in both)
            yield Sides(mine, known_, 1e3 * (1 + known_.abs().max()).expand_as(mine))

    @staticmethod
    def _same(mine: Taken, known: Taken, advantage: Tensor, weight: Tensor) -> Iterator[Sides]:
        pairs = (
            (mine.at.x, known.at.x), (mine.at.guess, known.at.guess), (mine.at.std, known.at.std),
            (mine.action, known.action), (mine.control, known.control), (mine.at.k.double(), known.at.k.double()),
            (advantage, weight),
        )  # fmt: skip
        for one, other in pairs:
            yield Sides(one, other, 100 * (1 + other.abs().max()).expand_as(other))


@register
class D3poLoss(Beside, Algebraic):
    """D3PO's pairs and losses: walks i and i + n of one generator, labelled by σ(r_i − r_j), each step or the whole.

    By the densities of the steps where the walks go. κ: the densities'.
    """

    name = "d3po-loss"
    statement = (
        r"L=-\sum_k\log\sigma\left(\beta\log\tfrac{\pi_\theta(a^w_k|x^w_k)}{\pi_\mathrm{ref}(a^w_k|x^w_k)}"
        r"-\beta\log\tfrac{\pi_\theta(a^l_k|x^l_k)}{\pi_\mathrm{ref}(a^l_k|x^l_k)}\right),\quad P(w\succ l)=\sigma(r_w-r_l)"
    )
    source = "Yang et al. 2024 (D3PO), eq. 9; Bradley & Terry 1952"

    def sides(self, case: Case) -> Iterable[Sides]:
        n = 32
        for tuned in self.subjects(case):
            generator = tuned.case.generator("d3po")
            walk = tuned.replayed(2 * n, "d3po")
            torch.randn((len(tuned.decisions) + 1, 2 * n, case.dim), generator=generator, dtype=case.dtype)
            odds = torch.sigmoid(walk.reward[:n] - walk.reward[n:])
            first = torch.rand(n, generator=generator, dtype=case.dtype) < odds
            own = torch.where(first, torch.arange(n), torch.arange(n) + n)
            taken = stacked(walk)
            ratios, size = log_ratios(tuned, taken)
            margins = BETA * (ratios[own] - ratios[(own + n) % (2 * n)])
            for method, margin in ((D3PO(), margins), (D3PO("walk"), margins.sum(1, keepdim=True))):
                learner = method.learner(tuned.policy)
                rows, told = learner.gather(n, tuned.case.generator("d3po"), None)
                yield Sides(
                    rows.winner.at.x,
                    taken.at.x[own],
                    100 * (1 + taken.at.x[own].abs().max()).expand_as(rows.winner.at.x),
                )
                yield Sides(told["reward"][None], walk.reward.mean()[None], 100 * (1 + walk.reward.abs().max())[None])
                loss = softplus(-margin).sum(1).mean()
                yield Sides(learner.loss(rows).detach()[None], loss[None], size.mean()[None] * margins.shape[1])


@register
class DpoDraws(Beside, MonteCarlo):
    """However few steps a pair draws, each of the chain's counts once in the mean; and of two walks the noise is apart.

    By walks of one datum against itself, at its first noisy state. Sizes: 1.
    """

    name = "dpo-draws"
    statement = r"E\sum_{j\leq m}\frac{H}{m}1\left[k_j=k\right]=1,\quad E\left[\varepsilon_w\varepsilon_l\right]=0"
    source = "Wallace et al. 2024 (Diffusion-DPO), eq. 14"

    def applies(self, case: Case) -> bool:
        return super().applies(case) and case.schedule_name == "karras"

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        n, columns = 16384, []
        tuned = self.subjects(case)[0]
        pairs = Preferences(case.x0, case.x0)
        steps = torch.arange(1, len(tuned.decisions) + 1)
        for m in (1, 2):
            rows, _ = DPO(draws=m).on(pairs).learner(tuned.policy).gather(n, case.generator(f"draws {m}"), None)
            columns.append((rows.factor[..., None] * (rows.winner.at.k[..., None] == steps)).sum(1) - 1)
        generator = case.generator("apart")
        rows, _ = DPO(draws=None, walks=True).on(pairs).learner(tuned.policy).gather(n, generator, None)
        x0 = case.x0[torch.randint(len(case.x0), (n,), generator=case.generator("apart"))]
        t = tuned.mdp.chain.grid.times[1]
        alpha, sigma = (f(t).detach() for f in (tuned.case.schedule.alpha, tuned.case.schedule.sigma))
        noise = [(side.at.x[:, 0] - alpha * x0) / sigma for side in (rows.winner, rows.loser)]
        columns += [noise[0] * noise[1], noise[0].square() - 1]
        found = torch.cat(columns, 1)
        return found, torch.ones_like(found[0])
