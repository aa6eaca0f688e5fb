r"""What a sampler draws for itself, where the other identities inject its noise; and what ``sample`` hands on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.diffusion import Diffusion
from unidiff.core.sampling import Sampler, sample
from unidiff.core.tables import METHODS, Method
from unidiff.identities.case import Case
from unidiff.identities.chains import grid_of
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.worlds import Gaussian, GaussianMixture, OracleDenoiser


@register
class SamplerNoiseWhite(MonteCarlo):
    """The sampler's own ξ is new in each row and each sample, and standard.

    On data that are one point at 0 the chain is linear in its draws: from x = 0 it ends in N(0, Σ_k (n_k Π_{j>k} a_j)²),
    the product over later rows, samples apart. A ξ met by two rows, or shared by samples, is off by a share of that.
    Size: that variance.
    """

    name = "sampler-noise-white"
    statement = r"E[x_ix_j]=\delta_{ij}\sum_k\left(n_k\prod_{j>k}a_j\right)^2,\quad x\leftarrow a_kx+n_k\xi_k"
    views = ("core", "score", "vae", "rl")
    source = "Ho et al. 2020, algorithm 2; Song et al. 2021 (SDE), algorithm 2"
    conditions = "the stochastic methods, drawing for themselves, on a data set of one point"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return case.world_name == "gaussian"

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        point = Gaussian(torch.zeros(1, dtype=case.dtype), torch.full((1, 1), 1e-12, dtype=case.dtype))
        case = case.heard
        core = Diffusion(case.schedule, OracleDenoiser(point.to(case.dtype, case.device)))
        grid = grid_of(case)
        columns, sizes = [], []
        methods: tuple[Method, ...] = ("ancestral", "sde", "sde-dpm++2m")
        for method in methods:
            sampler = Sampler(core, grid, method, graph=False)
            x = torch.zeros(2 * case.draws, 1, dtype=case.dtype, device=case.device)
            own = sampler(x, case.generator(f"white {method}")).to(torch.float64).reshape(-1, 2)
            # What each row's unit draw becomes: the chain again, with one draw at a time.
            rows = sampler.table.rows
            unit = torch.eye(rows, dtype=case.dtype, device=case.device)[:, :, None]
            reach = sampler(torch.zeros(rows, 1, dtype=case.dtype, device=case.device), noise=unit)
            whole = reach.to(torch.float64).square().sum()
            columns += [own.square().mean(1) - whole, own.prod(1)]
            sizes += [whole, whole]
        return torch.stack(columns, 1), torch.stack(sizes)


@register
class SampleIsSampler(Algebraic):
    """``sample`` is a start from the prior, then the sampler of the same method, η, variance, class and guidance.

    Own: the function, from a generator. The other side draws the start from a twin generator and hands it to a sampler.
    κ: the states, the samplers being the same code.
    """

    name = "sample-is-sampler"
    statement = r"\mathrm{sample}(n)=\Phi(\sigma_{\mathrm{prior}}\,\xi_0;\ \xi_1,\ldots,\xi_R)"
    views = ("core",)
    source = "Ho et al. 2020, algorithm 2"
    conditions = "a mixture, whose components are its classes"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, GaussianMixture) and case.exact

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        assert isinstance(case.world, GaussianMixture)
        grid, n = grid_of(case), 24
        label = torch.arange(n, device=case.device) % case.world.num_classes
        options: dict[Method, dict[str, object]] = {
            "ddim": {"eta": 0.7},
            "sde": {"eta": 0.5},
            "ancestral": {"variance": "prior"},
        }
        for method in METHODS:
            told = options.get(method, {})
            own = sample(
                case.core, n, method=method, generator=case.generator("sample"), grid=grid, condition=label,
                guidance=1.6, dtype=case.dtype, **told,  # pyright: ignore[reportArgumentType]
            )  # fmt: skip
            twin = case.generator("sample")
            shape = (n, *case.core.event_shape)
            start = torch.randn(shape, generator=twin, dtype=case.dtype, device=case.device) * case.schedule.prior_std
            sampler = Sampler(case.core, grid, method, guidance=1.6, graph=False, **told)  # pyright: ignore
            theirs = sampler(start, twin, condition=label)
            yield Sides(own, theirs, theirs.abs() + own.abs() + 1)
