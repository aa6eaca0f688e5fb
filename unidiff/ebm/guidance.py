r"""An energy added to a core that stays as it is: guidance of every sampler by what an energy says.

    ∇ log q̃_t = ∇ log q_t − w ∇E(x, t)/τ,   x̂_0 ← x̂_0 − w (σ²/α) ∇E/τ

With E(x, t) = −τ log p(y|x_t) and w = 1 it is Bayes' theorem: the core of the data given y (Dhariwal & Nichol 2021, eq. 10;
IDENTITIES item 57). An energy of another law at each level gives the product of the two noised laws, which is no noised
product but at t → 0 (item 46): samplers then end near the product, chains (:func:`unidiff.ebm.annealed`) in it. An energy
without time is asked of the denoised state, E(x̂_0(x_t)), and its slope is pulled back through the denoiser
(Chung et al. 2023, eq. 11: an approximation of −log E[e^{−E(x_0)}|x_t], exact as σ → 0).
"""

from __future__ import annotations

from torch import Tensor, nn

from unidiff.core.boundary import check_real, check_type, right_expand
from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.core.networks.gradient import descent
from unidiff.core.prediction import Kind, Prediction
from unidiff.ebm.model import EnergyModel, check_one_schedule


def guided(core: Diffusion, model: EnergyModel, weight: float = 1.0) -> Diffusion:
    """A core whose score is ``core``'s less ``weight``·∇E/τ: for samplers and views like any other.

    Args:
        core: what is guided; shared, not copied.
        model: the energy: of ``core``'s schedule, or without time.
        weight: w, no unit; negative steers away.

    Raises:
        TypeError: no core, no energy.
        ValueError: another event shape or schedule; a weight that is not finite.
    """
    denoiser = EnergyGuided(core, model, weight)
    return Diffusion(core.schedule, denoiser)


class EnergyGuided(nn.Module):
    """The denoiser of :func:`guided`. It moves a score, and so says nothing where no signal is left (α = 0)."""

    prediction: Kind = "score"

    def __init__(self, core: Diffusion, model: EnergyModel, weight: float = 1.0) -> None:
        super().__init__()
        check_type("core", core, Diffusion)
        check_type("model", model, EnergyModel)
        if not abs(check_real("weight", weight)) < float("inf"):
            raise ValueError(f"weight must be finite, got {weight}")
        if model.event_shape != core.event_shape:
            raise ValueError(f"model must be of states {list(core.event_shape)}, got {list(model.event_shape)}")
        if model.schedule is not None:
            check_one_schedule("model must have the core's schedule, or no time", core.schedule, model.schedule)
        self.core, self.model, self.weight = core, model, weight

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one datum."""
        return self.core.event_shape

    @property
    def num_classes(self) -> int | None:
        """The core's."""
        return getattr(self.core.denoiser, "num_classes", None)

    def forward(
        self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Prediction:
        """What the core says of ``xt`` ``[B, *E]``, moved down the energy's slope; state and level are trusted."""
        plain = self.core.denoiser(xt, level, condition, guidance).x0
        model, timed = self.model, self.model.schedule is not None

        def energy(x: Tensor) -> Tensor:
            at = x if timed else self.core.denoiser(x, level, condition, guidance).x0
            return model.at(at, level if timed else None) / model.tau

        pull = self.weight * level.sigma.square() / level.alpha
        return Prediction(xt, level, {"x0": plain + right_expand(pull, xt) * descent(energy, xt)}, guarded=False)
