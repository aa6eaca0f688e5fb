r"""Laws made of laws: products, mixtures and powers of densities that are known as energies (Du et al. 2023, section 3).

    product     p ∝ Π_i q_i^{w_i}            E = Σ w_i E_i/τ_i
    mixture     p ∝ Σ_i w_i e^{−E_i/τ_i}     E = −log Σ w_i e^{−E_i/τ_i}
    negation    p ∝ q^{−w}                   E = −w E/τ, of no use alone: its integral diverges

All in nats, τ = 1. A product needs no normalisers: constants go into its own. A mixture does: the share of component i is
w_i Z_i, so that a constant in E_i is a weight, and what is meant by w is met only by energies that are normalised, or by
their ``log_z`` (:func:`unidiff.ebm.annealed_importance` estimates it).

**In time.** Composed are the laws at each time t. A mixture of noised laws is the mixture noised, so that any sampler will
do. A product of noised laws is *not* the product noised for t > 0 (IDENTITIES item 46): the score of what is composed at t
belongs to no diffusion, and a sampler that follows it ends elsewhere; only at t → 0 are the two one. Sample it by chains
with Metropolis' correction (:func:`unidiff.ebm.annealed`), whose law at each level is the composed one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unidiff.core.boundary import as_sequence, check_condition, check_finite, check_positive
from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.core.schedule import Schedule
from unidiff.ebm.model import EnergyModel, check_one_schedule

Weights = Sequence[float] | Tensor | None


def product(*models: EnergyModel, weights: Weights = None) -> EnergyModel:
    """The law ∝ Π q_i^{w_i}, its energy Σ w_i E_i/τ_i in nats.

    Args:
        models: one or more, all with time on one schedule or all without, on one event shape.
        weights: w_i, one for each, dimensionless, of any sign; None for ones. A negative one divides by its law, and
            whether what is left has an integral is the caller's to know.

    Raises:
        TypeError: something that is no EnergyModel.
        ValueError: no model; weights that are not one finite number for each; different shapes or schedules, or energies
            with and without time.
    """
    return Product(models, _weights(weights, len(models), None).tolist())


def mixture(*models: EnergyModel, weights: Weights = None, log_z: Weights = None) -> EnergyModel:
    """The law ∝ Σ (w_i/Z_i) e^{−E_i/τ_i}, its energy −log of that sum in nats.

    Args:
        models: as for :func:`product`.
        weights: w_i > 0, one for each; None for equal ones. They are made to sum to one.
        log_z: log Z_i of e^{−E_i/τ_i}, in nats, one for each; None for zeros, which is right for energies that are
            normalised (a world's): otherwise the share of component i is ∝ w_i Z_i, whatever its constants make of that.

    Raises:
        TypeError, ValueError: as :func:`product`; a weight that is not positive, a log_z that is not finite.
    """
    shares = _weights(weights, len(models), 0.0)
    known = _weights([0.0] * len(models) if log_z is None else log_z, len(models), None, "log_z")
    return Mixture(models, (shares.log() - shares.sum().log() - known).tolist())


def negation(model: EnergyModel, scale: float = 1.0) -> EnergyModel:
    """The factor q^{−scale}, its energy −scale·E/τ in nats: to be multiplied into a :func:`product`.

    Alone it is no law, since its integral diverges. With another, q_1^w q^{−scale} has one where the first falls off faster.

    Args:
        model: whose law is turned down.
        scale: its exponent, positive.

    Raises:
        TypeError: no EnergyModel.
        ValueError: a scale that is not positive and finite.
    """
    return Product((model,), [-check_positive("scale", scale)])


def given(model: EnergyModel, condition: Tensor, guidance: float = 1.0) -> EnergyModel:
    """The energy of a core's one class, in nats, as a law of its own to be composed.

    Args:
        model: an energy of a core with classes.
        condition: the label, ``[]``.
        guidance: classifier-free guidance weight; 1 is the plain conditional model.

    Raises:
        TypeError, ValueError: a condition or guidance that the core does not take.
    """
    return Given(model, condition, guidance)


class Composite(EnergyModel):
    """What all compositions share: members on one space and one schedule, none of which is conditioned from outside.

    Attributes:
        members: the energies, a ``ModuleList``.
    """

    def __init__(self, members: Sequence[EnergyModel]) -> None:
        shape, schedule = _one_space(members)
        super().__init__(nn.ModuleList(members), shape, schedule=schedule)

    @property
    def members(self) -> list[EnergyModel]:
        """The energies that are composed."""
        return list(self.source)  # pyright: ignore

    def check_law(
        self, x: Tensor, level: NoiseLevel | None, condition: Tensor | None, guidance: float
    ) -> Tensor | None:
        """As :meth:`EnergyModel.check_law`, of each member."""
        if condition is not None or guidance != 1.0:
            raise ValueError(
                f"condition and guidance are each member's own (ebm.given), got guidance = {guidance} for a composition"
            )
        for member in self.members:
            member.check_law(x, level, None, 1.0)
        return None

    def nats(self, x: Tensor, level: NoiseLevel | None) -> list[Tensor]:
        """E_i/τ_i of each member at trusted arguments, each ``[B]``."""
        return [member.at(x, level) / member.tau for member in self.members]


class Product(Composite):
    """See :func:`product`.

    Args:
        members: the energies.
        weights: w_i, one for each.
    """

    def __init__(self, members: Sequence[EnergyModel], weights: Sequence[float]) -> None:
        super().__init__(members)
        self.weights = tuple(weights)

    def at(self, x: Tensor, level: NoiseLevel | None, condition: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """Σ w_i E_i/τ_i, ``[B]``; arguments are trusted."""
        return torch.stack([w * e for w, e in zip(self.weights, self.nats(x, level), strict=True)]).sum(0)


class Mixture(Composite):
    """See :func:`mixture`.

    Args:
        members: the energies.
        log_weights: log(w_i/Z_i), one for each.
    """

    def __init__(self, members: Sequence[EnergyModel], log_weights: Sequence[float]) -> None:
        super().__init__(members)
        self.log_weights = tuple(log_weights)

    def at(self, x: Tensor, level: NoiseLevel | None, condition: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """−log Σ w_i e^{−E_i/τ_i}, ``[B]``; arguments are trusted."""
        joint = [w - e for w, e in zip(self.log_weights, self.nats(x, level), strict=True)]
        return -torch.logsumexp(torch.stack(joint), 0)


class Given(Composite):
    """See :func:`given`.

    Args:
        model: the core's energy.
        condition: the label, ``[]``.
        guidance: the weight.
    """

    condition: Tensor

    def __init__(self, model: EnergyModel, condition: Tensor, guidance: float) -> None:
        super().__init__((model,))
        if isinstance(condition, Tensor) and condition.ndim:
            raise ValueError(f"condition must be one label, of shape [], got {list(condition.shape)}")
        classes = getattr(getattr(model.source, "denoiser", None), "num_classes", None)
        check_condition(condition, guidance, 1, classes)
        core = model.source
        place = core.home() if isinstance(core, Diffusion) else condition.device
        self.register_buffer("condition", condition.to(place), persistent=False)
        self.guidance = guidance

    def check_law(
        self, x: Tensor, level: NoiseLevel | None, condition: Tensor | None, guidance: float
    ) -> Tensor | None:
        """As :meth:`EnergyModel.check_law`; the label goes to where ``x`` is, once, for the loops that follow."""
        self.condition = self.condition.to(x.device)
        return super().check_law(x, level, condition, guidance)

    def at(self, x: Tensor, level: NoiseLevel | None, condition: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """E/τ of the class, ``[B]``; arguments are trusted."""
        (model,) = self.members
        return model.at(x, level, self.condition.to(x.device).expand(x.shape[0]), self.guidance) / model.tau


def _weights(value: Weights, count: int, above: float | None, argument: str = "weights") -> Tensor:
    """``value`` as float64 ``[count]`` on the host, ones for None, each finite and greater than ``above``."""
    found = torch.ones(count, dtype=torch.float64) if value is None else as_sequence(argument, value)
    if found.numel() != count:
        raise ValueError(f"{argument} must have one entry for each of {count} models, got {found.numel()}")
    check_finite(argument, found)
    if above is not None and not bool((found > above).all()):
        raise ValueError(f"{argument} must be positive, got {found.tolist()}")
    return found


def _one_space(models: Sequence[EnergyModel]) -> tuple[tuple[int, ...], Schedule | None]:
    """The event shape and the schedule that all of them have. Raises TypeError, ValueError."""
    if not models:
        raise ValueError("models must be one or more energies, got none")
    for model in models:
        if not isinstance(model, EnergyModel):
            raise TypeError(f"models must be EnergyModels, got a {type(model).__name__}: EnergyModel(...) makes it one")
    first = models[0]
    for other in models[1:]:
        if other.event_shape != first.event_shape:
            raise ValueError(
                f"models must have one event shape, got {list(first.event_shape)} and {list(other.event_shape)}"
            )
        if (other.schedule is None) != (first.schedule is None):
            raise ValueError("models must all have a schedule, or none of them, got energies with and without time")
        if first.schedule is not None and other.schedule is not None:
            check_one_schedule("models must have one schedule", first.schedule, other.schedule)
    return first.event_shape, first.schedule
