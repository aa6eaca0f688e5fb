r"""Items 13 and 14 as :class:`unidiff.ScoreModel` computes them: objectives against the explicit, that against φ."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.boundary import right_expand
from unidiff.core.denoiser import DenoiserLike
from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import Prediction
from unidiff.identities.case import Case, smooth
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.identities.scores import logit_kappa, smooth_field
from unidiff.score import ScoreModel
from unidiff.worlds import GaussianMixture


class _Leaning:
    """A denoiser whose ε̂ leans by c φ(z), c one number a row: along it every objective has a slope."""

    def __init__(self, denoiser: DenoiserLike, case: Case, lean: Tensor) -> None:
        self.denoiser, self.case, self.lean = denoiser, case, lean
        self.event_shape = denoiser.event_shape
        self.num_classes = getattr(denoiser, "num_classes", None)

    def __call__(
        self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Prediction:
        field, _ = smooth_field(self.case, xt.flatten(1))
        eps = self.denoiser(xt, level, condition, guidance).eps
        return Prediction(xt, level, {"eps": eps + right_expand(self.lean, xt) * field.view_as(xt)}, guarded=False)


@register
class Objectives(MonteCarlo):
    """Items 13 and 14 in value and in slope along a test field, on shared draws, each against the explicit objective.

    At the weight 1 + 2 SNR/(1 + SNR). Sizes compared: the explicit loss and the constant together; the slope's two terms,
    2‖σs‖‖φ‖ and the slope itself.
    """

    name = "score-matching"
    statement = (
        r"E\,w\left[\|\hat\varepsilon\|^2-2\sigma\nabla\cdot\hat\varepsilon\right]+\sigma^2R"
        r"=E\|\hat\varepsilon+\sigma s\|^2=E\|\hat\varepsilon-\varepsilon\|^2-\frac{\alpha^2}{\sigma^2}\mathrm{mmse}"
        r"\quad\mathrm{and\ the\ same\ }\partial_\theta"
    )
    views = ("score", "vae")
    source = "Hyvarinen 2005, theorem 1; Vincent 2011, eq. 11; Song et al. 2019, eq. 7 and 8"
    conditions = "implicit, Hutchinson's, sliced and denoising; a world with a smooth density"
    # The sliced loss squares vᵀε̂: a χ² of one degree of freedom, of relative spread √2 and more.
    bound = 0.5
    kinds = ("implicit", "hutchinson", "sliced", "denoising")

    def applies(self, case: Case) -> bool:
        return smooth(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        draws, every = case.mixed, slice(None, None, 4)
        x0, noise, t, level = draws.x0[every], draws.noise[every], draws.t[every], draws.level[every]
        lean = torch.full(x0.shape[:1], 0.3, dtype=x0.dtype, device=x0.device, requires_grad=True)
        model = ScoreModel(Diffusion(case.schedule, _Leaning(case.core.denoiser, case, lean)))
        weight = 1 + 2 * torch.sigmoid(level.log_snr)
        options = {"noise": noise, "probes": 2, "world": case.world, "generator": case.generator("objectives")}
        options["weight"] = weight
        # The denoising one takes this denoiser's error on x̂_0.
        losses: dict[str, Tensor] = {kind: model.loss(x0, kind, t, **options) for kind in ("explicit", *self.kinds)}
        slopes = {kind: torch.autograd.grad(loss.sum(), lean, retain_graph=True)[0] for kind, loss in losses.items()}
        square = (level.sigma[:, None] * draws.score[every].flatten(1)).square().sum(1)
        known = -(level.alpha / level.sigma).square() * draws.trace[every]
        field = smooth_field(case, draws.xt[every].flatten(1))[0].square().sum(1)
        constant = {kind: known if kind == "denoising" else square for kind in self.kinds}
        values = [losses[kind] + weight * constant[kind] - losses["explicit"] for kind in self.kinds]
        turned = [slopes[kind] - slopes["explicit"] for kind in self.kinds]
        size = (losses["explicit"] + weight * square).mean()
        steep = 2 * ((weight * square).mean() * (weight * field).mean()).sqrt() + slopes["explicit"].abs().mean()
        sizes = torch.cat([size.expand(len(values)), steep.expand(len(turned))])
        return torch.stack(values + turned, 1).detach(), sizes.detach()


@register
class LabelledObjective(Algebraic):
    """Item 13 row by row given its class, or none: off by c φ from the exact denoiser, the explicit loss is c²‖φ‖².

    κ: c‖φ‖ times what ε̂ + σs is a difference of, each at its logits' condition.
    """

    name = "explicit-given-class"
    statement = r"\|\hat\varepsilon_c+c\phi+\sigma\nabla\log q_t(z|c)\|^2=c^2\|\phi\|^2"
    views = ("score",)
    source = "Ho & Salimans 2022, section 3.1; Vincent 2011, eq. 11"
    conditions = "the exact denoiser of a mixture; its components and the null class"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return case.exact and isinstance(case.world, GaussianMixture)

    def sides(self, case: Case) -> Iterable[Sides]:
        case, world = case.heard, case.world
        assert isinstance(world, GaussianMixture)
        x0, level = case.x0, case.level
        lean = torch.full_like(x0[:, 0], 0.3)
        label = torch.arange(case.batch, device=case.device) % (world.num_classes + 1)
        model = ScoreModel(Diffusion(case.schedule, _Leaning(case.core.denoiser, case, lean)))
        found = model.loss(x0, "explicit", case.t, noise=case.noise, condition=label, world=world)
        field = smooth_field(case, case.xt)[0].norm(dim=1)
        size = level.sigma * world.given(label).diffuse(level.alpha, level.sigma).score(case.xt).norm(dim=1)
        # ε̂ is z less αx̂_0, over σ.
        reach = 2 * case.xt.norm(dim=1) / level.sigma
        kappa = lean * field * (lean * field + reach + size * logit_kappa(case, case.xt, level))
        yield Sides(found, (lean * field).square(), kappa)
