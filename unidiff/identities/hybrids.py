r"""Items 27 and 29: gradients at matched weights, the bound that moves the variance alone, and the variance that is best."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core import networks
from unidiff.core.boundary import right_expand
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.identities.case import Case, smooth
from unidiff.identities.chains import grid_of
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.identities.variances import Book
from unidiff.train.config import TrainConfig
from unidiff.train.data import Dataset
from unidiff.train.loss import denoising_loss
from unidiff.train.order import DataOrder
from unidiff.train.trainer import Trainer
from unidiff.train.weighting import WEIGHTINGS, elbo_weight
from unidiff.vae.hybrid import variance_bound
from unidiff.vae.optimal import optimal_variance
from unidiff.worlds import Gaussian


def flat(tensors: Iterable[Tensor | None]) -> Tensor:
    """All the numbers in a row."""
    return torch.cat([t.detach().flatten() for t in tensors if t is not None])


def shaken(network: torch.nn.Module, case: Case) -> None:
    """Random parameters in every layer: a network starts with its last one at zero, where nothing is heard of the others."""
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):
            p.copy_(0.4 * case.normal(f"parameters {i}", *p.shape))


@register
class WeightedGradients(Algebraic):
    """Item 27 in θ: each weighting's gradient is w(λ) times that of the bound's own rate, by the chain's KL.

    A KL of the step from t to s is ½expm1(λ_s − λ_t)‖ε − ε̂‖²; so the bound's rate is −λ'/expm1(λ_s − λ_t) of it. κ: the
    rows' gradients, each at the condition of the means' difference.
    """

    name = "weighted-elbo-gradients"
    statement = (
        r"\nabla_\theta L_w=w(\lambda)\,\frac{-\lambda'}{\mathrm{expm1}(\lambda_s-\lambda_t)}\,"
        r"\nabla_\theta\mathrm{KL}(q(x_s|x_t,x_0)\,\|\,p_\theta(x_s|x_t))"
    )
    views = ("vae", "score")
    source = "Kingma & Gao 2023, eq. 8 and table 1; Ho et al. 2020, eq. 14"
    conditions = "a small network with random weights, in float64; where data and noise are both heard"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return case.dtype == torch.float64 and case.world_name == "mixture-2d" and case.device.type == "cpu"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        network = networks.MLP(case.dim, width=6, depth=1).double()
        shaken(network, case)
        core = Diffusion(case.schedule, Denoiser(network, case.core.event_shape, "v"))
        parameters, grid = list(network.parameters()), grid_of(case)
        x0, noise = case.x0[:8], case.noise[:8]
        for k in (2, grid.steps - 1):
            s, t = grid.times[k - 1], grid.times[k]
            xt = core.process.marginal(x0, t).mean + case.schedule.sigma(t) * noise
            posterior, step = core.process.posterior(xt, x0, s, t), core.chain(grid).step(xt, k)
            kl = posterior.kl(step)
            rows = torch.stack([flat(torch.autograd.grad(one, parameters, retain_graph=True)) for one in kl])
            apart = (posterior.mean - step.mean).detach().norm(dim=1)
            condition = 1 + (posterior.mean.abs() + step.mean.detach().abs()).norm(dim=1) / apart
            log_snr = case.schedule.log_snr(torch.stack([s, t])).detach()
            rate = -case.schedule.log_snr_derivative(t).detach() / torch.expm1(log_snr[0] - log_snr[1])
            for name in WEIGHTINGS:
                loss = denoising_loss(core, x0, weighting=name, t=t.expand(len(x0)), noise=noise).sum()
                own = flat(torch.autograd.grad(loss, parameters))
                scale = rate * elbo_weight(name, case.schedule, log_snr[1]).detach()
                kappa = scale * (condition * rows.norm(dim=1)).sum() * (1 + log_snr[1].abs())
                yield Sides(own, scale * rows.sum(0), kappa.expand_as(own))


@register
class BoundMovesVariance(Algebraic):
    """Item 29: of the network's two outputs, F and the fraction, the bound moves the fraction alone, by a closed form.

    κ: the terms of the slope, and of the bound's value, with the stored logs and what the textbook's difference loses.
    """

    name = "bound-moves-variance"
    statement = (
        r"\frac{\partial L_{\mathrm{vlb}}}{\partial F}=0,\quad \frac{\partial L_{\mathrm{vlb}}}{\partial f}=\frac N2"
        r"\left(1-\frac{\sigma_s^2c+b^2(x_0-\hat x_0)^2}{v}\right)\log\frac{v_\mathrm{prior}}{v_\mathrm{posterior}}"
    )
    views = ("vae",)
    source = "Nichol & Dhariwal 2021, eq. 15 and 16"
    conditions = "outputs that are given; in float32 where data and noise are both heard"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return smooth(case) and not case.reaches_zero_snr

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        grid, x0 = grid_of(case), case.x0
        said = (0.3 * case.normal("said", *x0.shape)).requires_grad_()
        raw = torch.tanh(case.normal("raw", *x0.shape)).requires_grad_()
        network = Denoiser(lambda *_: torch.cat([said, raw], 1), case.core.event_shape, "x0", learned_variance=True)
        chain = Diffusion(case.schedule, network).chain(grid, "learned")
        share = 0.5 * (1 + raw.detach().to(torch.float64))
        error2 = (x0 - said.detach()).to(torch.float64).square()
        for k in range(2, grid.steps + 1):
            book = Book(case, grid.times[k - 1], grid.times[k])
            bound = variance_bound(chain, x0, torch.full((len(x0),), k), noise=case.noise)
            on_mean, on_raw = torch.autograd.grad(bound.sum(), (said, raw), allow_unused=True, retain_graph=True)
            value = book.prior**share * book.posterior ** (1 - share)
            needed = (book.posterior + book.on_x0.square() * error2) / value
            ratio = (book.prior / book.posterior).log()
            lost = 1 + (book.lost / case.eps) * (1 + 1 / ratio) + value.log().abs() + ratio
            slope = 0.5 * (1 - needed) * ratio
            kappa = grid.steps * 0.5 * (1 + needed) * ratio * lost
            yield Sides(2 * on_raw, grid.steps * slope, kappa)
            yield Sides(torch.zeros_like(x0) if on_mean is None else on_mean, torch.zeros_like(x0), kappa)
            each = 0.5 * (needed - 1 - (book.posterior / value).log())
            yield Sides(bound, grid.steps * each.sum(1), (kappa + grid.steps * needed * lost).sum(1))


@register
class HybridStep(Algebraic):
    """A step of the trainer with a learned variance: its loss and its gradient in θ, written out with the mean held.

    The KL by the textbook's variances, the loss by x̂_0 and SNR. Shared: the draws, by the seeds that the documentation
    names. κ: the rows' gradients, at the condition of the textbook's differences.
    """

    name = "hybrid-step"
    statement = (
        r"\nabla_\theta L=\nabla_\theta\left(L_w+10^{-3}\,\frac N2\,E_k\left[\frac{v_q+b^2(x_0-\mathrm{stop}(\hat x_0))^2}"
        r"{v_\theta}-1-\log\frac{v_q}{v_\theta}\right]\right)"
    )
    views = ("vae", "score")
    source = "Nichol & Dhariwal 2021, eq. 16 and section 3.1"
    conditions = "a trainer of its own, in float64"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        here = case.world_name == "mixture-2d" and case.schedule_name == "linear" and case.device.type == "cpu"
        return here and case.dtype == torch.float64

    def sides(self, case: Case) -> Iterable[Sides]:
        n, steps, seed = 12, 20, case.seed % 2**31
        config = TrainConfig(
            network="mlp", width=6, depth=1, steps=1, batch_size=n, warmup=0, clip=1e6, log_every=1, seed=seed,
            schedule="polynomial", weighting="sigmoid", variance="learned", vlb_steps=steps, dtype="float64", device="cpu",
        )  # fmt: skip
        x = case.x0.cpu()
        trainer = Trainer.start(config, Dataset(x, None, "drawn"))
        shaken(trainer.network, case)
        core = copy.deepcopy(trainer.core)
        told: list[dict[str, float]] = []
        trainer.fit(lambda _, line: told.append(line))
        own = flat(p.grad for p in trainer.network.parameters())
        x0 = x[DataOrder(len(x), seed).next(n)]
        noise, times = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
        place = torch.arange(n, dtype=torch.float64) / n
        t, u = ((torch.rand((), generator=times, dtype=torch.float64) + place) % 1.0 for _ in range(2))
        eps, jump = (torch.randn(x0.shape, generator=noise, dtype=torch.float64) for _ in range(2))
        parameters, schedule = list(core.denoiser.parameters()), core.schedule  # pyright: ignore
        log_snr = schedule.log_snr(t)
        x0_hat = core.predict(schedule.alpha(t)[:, None] * x0 + schedule.sigma(t)[:, None] * eps, t).x0
        scale = 0.5 * -schedule.log_snr_derivative(t) / (1 + (log_snr - 2.0).exp()) * log_snr.exp()
        loss = scale * (x0 - x0_hat).square().sum(1)
        k = (u * steps).floor()
        book = Book(Case(core, case.world, "", "", case.dtype, case.device, 0), k / steps, (k + 1) / steps)
        xk = book.alpha[:, None] * x0 + book.var.sqrt()[:, None] * jump
        said = core.predict(xk, (k + 1) / steps)
        assert said.variance_fraction is not None
        ratio = (book.prior / book.posterior).log()[:, None]
        value = book.posterior[:, None] * (ratio * said.variance_fraction).exp()
        gap = book.posterior[:, None] + (book.on_x0[:, None] * (x0 - said.x0.detach())).square()
        kl = 0.5 * (gap / value - 1 - (book.posterior[:, None] / value).log()).sum(1)
        rows = (loss + 1e-3 * steps * kl) / (n * case.dim)
        each = torch.stack([flat(torch.autograd.grad(row, parameters, retain_graph=True)) for row in rows])
        lost = 1 + book.lost.max() / case.eps + log_snr.abs().max()
        kappa = each.norm(dim=1).sum() * lost
        yield Sides(own, each.sum(0), kappa.expand_as(own))
        total = torch.tensor([told[0]["loss"]], dtype=torch.float64)
        yield Sides(total, rows.sum().detach().reshape(1), rows.abs().sum().reshape(1) * lost)


@register
class LeastVariance(Algebraic):
    """Item 29: at the table's variance a step's KL is ½D log(v*/v_q); at any other, more, convex in log v.

    The KLs by the kernels, at the draws of the table. κ: the means' difference at the size of the means, over the variance.
    """

    name = "optimal-variance-is-least"
    statement = (
        r"E\,\mathrm{KL}(v)=\frac D2\left(\log\frac{v^*}{v_q}+\frac{v^*}{v}-1-\log\frac{v^*}{v}\right)"
        r"\geq E\,\mathrm{KL}(v^*),\quad v^*=v_q+b^2\,\frac{E\|x_0-\hat x_0\|^2}{D}"
    )
    views = ("vae", "core")
    source = "Bao et al. 2022, theorem 1 and eq. 8; Itakura & Saito 1968"
    conditions = "any core; where data and noise are both heard"

    def applies(self, case: Case) -> bool:
        return case.has_spread and not case.reaches_zero_snr

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        grid, x0 = grid_of(case, 4), case.x0
        noise = case.normal("table", 1, grid.steps, *x0.shape)
        found = optimal_variance(case.core, x0, grid, noise=noise).x0_variance
        for share in (0.5, 1.0, 2.0):
            chain = case.core.chain(grid, "optimal", x0_variance=share * found)
            for k in range(2, grid.steps + 1):
                s, t = grid.times[k - 1], grid.times[k]
                book, level = Book(case, s, t), case.schedule.level(t, x0)
                xt = (level.alpha * x0 + level.sigma * noise[0, k - 1]).detach()
                law, step = case.process.posterior(xt, x0, s, t), chain.step(xt, k)
                kl = law.kl(step).detach().to(torch.float64).mean()
                more = book.on_x0.square() * found[k - 1]
                best, value = book.posterior + more, book.posterior + share * more
                size = law.mean.abs() + step.mean.detach().abs() + xt.abs()
                apart = (law.mean - step.mean.detach()).abs()
                part = (apart.square() + 2 * apart * size + size.square() * case.eps) / step.var.detach()
                kappa = part.flatten(1).sum(1).mean() + case.dim * (2 + book.lost / case.eps + law.log_var.abs().max())
                over = best / value
                yield Sides(kl, 0.5 * case.dim * ((best / book.posterior).log() + over - 1 - over.log()), kappa)


@register
class MeasuredVariance(MonteCarlo):
    """The table against the world's own Var[x_0|x_t] and against Bao's Γ, and its standard error against its spread.

    Blocks of data, each with a table of its own. Sizes: the variance; with Γ the two terms σ²/α²; on Gaussian data, the
    squared spread.
    """

    name = "optimal-variance-table"
    statement = (
        r"E\|x_0-\hat x_0\|^2=E\,\mathrm{tr\,Cov}[x_0|x_t]"
        r"=\frac{\sigma^2}{\alpha^2}\left(D-E\|\hat\varepsilon\|^2\right)"
    )
    views = ("vae", "score")
    source = "Bao et al. 2022, eq. 8; item 12"
    conditions = "the exact denoiser of a world with a density, in float64"
    subject = "optimal"
    # The spread of a squared deviation over blocks is √2 of it and more.
    bound = 0.75

    def applies(self, case: Case) -> bool:
        # Under one schedule each: the blocks are many.
        pairs = (("mixture-2d", "linear"), ("mixture-8d", "cosine"), ("gaussian", "sigmoid"))
        wide = case.exact and case.dtype == torch.float64 and not case.reaches_zero_snr
        return wide and (case.world_name, case.schedule_name) in pairs

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        low, high = case.window(-3.0, 3.0)
        marks = torch.tensor([5 * high + low, 3 * high + 3 * low, high + 5 * low], dtype=torch.float64) / 6
        times, size, blocks = case.schedule.time(marks.to(case.device)).detach().cpu(), 64, 640
        grid = TimeGrid([0.5 * float(times[0]), *times.tolist(), 1.0])
        core = case.core
        level = core.schedule.level(grid.times[1:4])
        x0 = case.world.sample(blocks * size, generator=case.generator("table")).reshape(
            blocks, size, *core.event_shape
        )
        rows = []
        for b in range(blocks):
            noise = case.normal(f"table {b}", 1, grid.steps, *x0[b].shape)
            found = optimal_variance(core, x0[b], grid, noise=noise)
            rows.append((noise[0, :3], found.x0_variance[:3], found.standard_error[:3]))
        noise, table, error = (torch.stack(column, 1) for column in zip(*rows, strict=True))
        alpha, sigma = (right_expand(v.to(x0), noise) for v in (level.alpha, level.sigma))
        xt = alpha * x0 + sigma * noise
        trace, hat = [], []
        for k in range(3):
            one = xt[k].flatten(0, 1)
            trace.append(case.world.posterior(one, level[k].alpha.to(x0), level[k].sigma.to(x0)).variance)
            hat.append(case.core.denoiser(one, level[k].to(x0)).score * sigma[k].flatten()[0])
        truth, square = (
            torch.stack(v).reshape(3, blocks, -1).mean(2).cpu() for v in (trace, [h.square() for h in hat])
        )
        scale = (-level.log_snr)[:, None].exp().cpu()
        mean = truth.mean(1, keepdim=True)
        off = (table - table.mean(1, keepdim=True)).square() * blocks / (blocks - 1) - error.square()
        values, sizes = [table - truth, table - scale * (1 - square)], [mean[:, 0], scale[:, 0]]
        if isinstance(case.world, Gaussian):  # elsewhere the error's tail is heavy, and its spread that of a few blocks
            values.append(off)
            sizes.append(error.square().mean(1))
        return torch.cat(values).T, torch.cat(sizes)
