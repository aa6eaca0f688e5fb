r"""A network read as a denoiser.

The network sees c_in·x_t and the log-SNR and returns F, which is one of x_0, ε, v or the score. With EDM
preconditioning (Karras et al. 2022, table 1; here for any α, with x_t/α in the place of their x and σ/α of their σ)
F is instead the residual of the best linear guess for data of standard deviation σ_d:

    x̂_0 = (α σ_d²/ρ²) x_t + (σ σ_d/ρ) F(x_t/ρ, λ),   ρ² = α² σ_d² + σ²,

so that the target of F has unit variance at every level. Classifier-free guidance (Ho & Salimans 2022, eq. 6)
combines F with and without the condition on one doubled batch: F_∅ + g (F_c − F_∅); since x_0, ε, v and the score are
affine in F at a given x_t, the guided value of each is that same combination.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from unidiff.core.boundary import check_count, check_name, check_positive, right_expand
from unidiff.core.level import NoiseLevel
from unidiff.core.networks.gradient import GradientField
from unidiff.core.prediction import KINDS, Kind, Prediction, conversion
from unidiff.core.schedule import Schedule

Preconditioning = Literal["none", "edm"]
PRECONDITIONINGS: tuple[Preconditioning, ...] = get_args(Preconditioning)

_LOG_SNR_BOUND = 30.0


@runtime_checkable
class DenoiserLike(Protocol):
    """What the core asks of a denoiser: a network's (:class:`Denoiser`) or a world's exact one."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one datum."""
        ...

    def __call__(
        self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Prediction:
        """What it says of ``xt`` ``[B, *E]`` at ``level``."""
        ...


class Denoiser(nn.Module):
    """A network with the meaning of its output.

    Args:
        network: ``network(x [B, *E], noise [B] or [], condition [B] or None) -> [B, *E]``; noise is the log-SNR,
            clamped to ±30. With ``learned_variance`` it returns twice the channels (axis 1), the second half the
            variance fraction in (−1, 1) units (Nichol & Dhariwal 2021, eq. 15). If it also has ``embed(noise)`` and
            ``body(x, embedding, condition)`` with ``network(x, noise, c) = body(x, embed(noise), c)``, one level for a
            whole batch is embedded once, and a sampler embeds all of its levels at once.
        event_shape: the shape E of one datum.
        prediction: what F is; with EDM preconditioning it must be ``"x0"``.
        preconditioning: ``"none"`` or ``"edm"``.
        data_std: σ_d, in the units of x; used by EDM preconditioning alone.
        learned_variance: whether the network also returns a variance fraction.
        num_classes: for a conditional network; the condition ``num_classes`` is the null class.

    Raises:
        TypeError: a network that is not callable.
        ValueError: an unknown prediction or preconditioning, EDM with another prediction than x0, data_std not positive,
            num_classes below 1, a learned variance of a gradient field.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        event_shape: tuple[int, ...],
        prediction: Kind = "eps",
        preconditioning: Preconditioning = "none",
        data_std: float = 1.0,
        learned_variance: bool = False,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        check_name("prediction", prediction, KINDS)
        check_name("preconditioning", preconditioning, PRECONDITIONINGS)
        check_positive("data_std", data_std)
        if preconditioning == "edm" and prediction != "x0":
            raise ValueError(f"prediction must be 'x0' with EDM preconditioning, got {prediction!r}")
        if not callable(network):
            raise TypeError(f"network must be callable, network(x, noise, condition), got {type(network).__name__}")
        if num_classes is not None:
            check_count("num_classes", num_classes)
        if learned_variance and isinstance(network, GradientField):
            raise ValueError("learned_variance must be left out for a GradientField, which returns a gradient alone")
        self.network = network
        self.event_shape = check_event_shape(event_shape)
        self.prediction: Kind = prediction
        self.preconditioning: Preconditioning = preconditioning
        self.data_std = data_std
        self.learned_variance = learned_variance
        self.num_classes = num_classes

    def extra_repr(self) -> str:
        """The network where it is a plain function, and how it is read."""
        own = [] if isinstance(self.network, nn.Module) else [repr(self.network)]
        return ", ".join([*own, f"{self.event_shape}", f"prediction={self.prediction!r}"])

    def forward(
        self,
        xt: Tensor,
        level: NoiseLevel,
        condition: Tensor | None = None,
        guidance: float = 1.0,
        embedding: Tensor | None = None,
    ) -> Prediction:
        """The prediction at ``xt`` ``[B, *E]``; ``guidance`` 1 is the plain conditional model, 0 the unconditional.

        The level is trusted (this runs inside loops): :meth:`unidiff.core.diffusion.Diffusion.predict` checks. So is its
        ``embedding``, ``[B, ·]`` or ``[1, ·]``, if it is known already (:meth:`embed`).
        """
        output, fraction = self.evaluate(xt, level, condition, guidance, embedding)
        if self.preconditioning == "none":
            return Prediction(xt, level, {self.prediction: output}, fraction, guarded=False)
        skip, out = self.x0_coefficients(level)
        x0 = right_expand(skip, xt) * xt + right_expand(out, xt) * output
        return Prediction(xt, level, {"x0": x0}, fraction, guarded=False)

    def evaluate(
        self,
        xt: Tensor,
        level: NoiseLevel,
        condition: Tensor | None = None,
        guidance: float = 1.0,
        embedding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """F and the variance fraction in [0, 1] (None unless learned): one pass of the network, guidance applied."""
        scale = self._input_scale(level)
        x = xt if scale is None else right_expand(scale, xt) * xt
        if condition is None and self.num_classes is not None:
            condition = torch.full((xt.shape[0],), self.num_classes, dtype=torch.long, device=xt.device)
        if guidance == 1.0:
            return self._split(self._apply_network(x, level, condition, embedding))
        if condition is None or self.num_classes is None:
            raise ValueError(
                f"guidance needs a conditional network (num_classes), got guidance = {guidance} without one"
            )
        both = torch.cat([condition, torch.full_like(condition, self.num_classes)])
        doubled = embedding.repeat(2, 1) if embedding is not None and embedding.shape[0] > 1 else embedding
        output, fraction = self._split(self._apply_network(torch.cat([x, x]), level.repeat(2), both, doubled))
        with_condition, without = output.chunk(2)
        return torch.lerp(without, with_condition, guidance), None if fraction is None else fraction.chunk(2)[0]

    def energy(
        self,
        xt: Tensor,
        level: NoiseLevel,
        condition: Tensor | None = None,
        guidance: float = 1.0,
        embedding: Tensor | None = None,
    ) -> Tensor:
        r"""−log q_t up to a constant at ``xt`` ``[B, *E]``, in nats, ``[B]``; the score that :meth:`forward` tells is −∇E.

        With score = p x + q F(cx) and F = −∇G, E = −½p‖x‖² + (q/c) G(cx).

        Raises:
            TypeError: the network is no gradient field.
        """
        if not isinstance(self.network, GradientField):
            raise TypeError(
                "network must be a GradientField for the denoiser to have an energy (the score of any other is no "
                f"gradient), got {type(self.network).__name__}"
            )
        on_x, on_output = self._score_coefficients(level)
        scale = self._input_scale(level)
        x = xt if scale is None else right_expand(scale, xt) * xt
        factor = on_output if scale is None else on_output / scale
        if guidance == 1.0:
            value = self._potential(x, level, condition, embedding)
        else:
            if condition is None or self.num_classes is None:
                raise ValueError(f"guidance needs a conditional network, got guidance = {guidance} without one")
            free, given = (self._potential(x, level, c, embedding) for c in (None, condition))
            value = torch.lerp(free, given, guidance)
        return factor * value - 0.5 * on_x * xt.flatten(1).square().sum(1)

    def _potential(self, x: Tensor, level: NoiseLevel, condition: Tensor | None, embedding: Tensor | None) -> Tensor:
        if condition is None and self.num_classes is not None:
            condition = torch.full((x.shape[0],), self.num_classes, dtype=torch.long, device=x.device)
        noise = level.log_snr.clamp(-_LOG_SNR_BOUND, _LOG_SNR_BOUND).expand(x.shape[0])
        return cast("GradientField", self.network).potential(x, noise, condition, embedding)

    def _input_scale(self, level: NoiseLevel) -> Tensor | None:
        """c: what the network sees is c x_t; None for 1."""
        if self.preconditioning == "none":
            return None
        return self._variance(level).rsqrt()

    def _variance(self, level: NoiseLevel) -> Tensor:
        """ρ², of the data of standard deviation σ_d once noised."""
        return level.alpha**2 * self.data_std**2 + level.sigma**2

    def _score_coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(p, q) with score = p·x_t + q·F, in the level's shape and dtype."""
        if self.preconditioning == "none":
            return conversion(self.prediction, "score", level.alpha, level.sigma)
        rho2 = self._variance(level)
        return -1 / rho2, level.alpha * self.data_std / (level.sigma * rho2.sqrt())

    def x0_coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(p, q) with x̂_0 = p·x_t + q·F, in the level's shape and dtype."""
        if self.preconditioning == "none":
            return conversion(self.prediction, "x0", level.alpha, level.sigma)
        rho2 = self._variance(level)
        return level.alpha * self.data_std**2 / rho2, level.sigma * self.data_std / rho2.sqrt()

    def embed(self, log_snr: Tensor) -> Tensor | None:
        """The network's embedding of these log-SNRs ``[K]``, if it can make one apart from the state, else None."""
        embed = getattr(self.network, "embed", None)
        return None if embed is None else embed(log_snr.clamp(-_LOG_SNR_BOUND, _LOG_SNR_BOUND))

    def _apply_network(
        self, x: Tensor, level: NoiseLevel, condition: Tensor | None, embedding: Tensor | None
    ) -> Tensor:
        if embedding is None and level.log_snr.numel() == 1 < x.shape[0]:
            embedding = self.embed(level.log_snr.reshape(1))
        if embedding is not None:
            output = cast("nn.Module", self.network).body(x, embedding, condition)  # pyright: ignore
        else:
            noise = level.log_snr.clamp(-_LOG_SNR_BOUND, _LOG_SNR_BOUND)
            output = self.network(x, noise.expand(x.shape[0]), condition)
        expected = list(x.shape)
        expected[1] *= 2 if self.learned_variance else 1
        if list(output.shape) != expected:
            raise ValueError(f"network must return shape {expected}, got {list(output.shape)}")
        return output

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self.learned_variance:
            return output, None
        mean, raw = output.chunk(2, dim=1)
        return mean, 0.5 * (raw + 1)


def check_event_shape(value: Any) -> tuple[int, ...]:
    """``value`` as a tuple if it is one of positive integers, the shape of one datum. Raises ValueError."""
    if not isinstance(value, (tuple, list)) or not all(isinstance(n, int) and n > 0 for n in value):
        raise ValueError(f"event_shape must be a tuple of positive integers, got {value!r}")
    return tuple(value)


class RescaledDenoiser:
    """A denoiser read in the other convention (item 7): x̂_0 depends on x_t/α_t and λ alone.

    Args:
        denoiser: a denoiser for states of ``schedule``.
        schedule: the schedule that the denoiser knows; the levels given to this one may have another α.
    """

    def __init__(self, denoiser: DenoiserLike, schedule: Schedule) -> None:
        self.denoiser = denoiser
        self.schedule = schedule

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one datum."""
        return self.denoiser.event_shape

    def __call__(
        self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Prediction:
        """The denoiser's x̂_0 at the rescaled state."""
        own = self.schedule.level_at(level.log_snr, xt)
        scale = right_expand(own.alpha / level.alpha, xt)
        x0 = self.denoiser(scale * xt, own, condition, guidance).x0
        return Prediction(xt, level, {"x0": x0}, guarded=False)
