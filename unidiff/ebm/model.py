r"""The core read as an energy: −log q_t up to a constant, at every noise level, and what is −∇ of it.

    q_t(x) = e^{−E(x,t)/τ}/Z_t,   ∇ log q_t = −∇E/τ                          (IDENTITIES item 38; LeCun et al. 2006)

One sign convention: a low energy is a likely state. Any constant may be added to E; a function of t alone likewise, which
is Z_t's. An energy stands wherever a score stands: chains run on it (:meth:`EnergyModel.langevin`, :meth:`EnergyModel.hmc`),
and :meth:`EnergyModel.core` is a diffusion core for samplers, the likelihood and the other views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unidiff.core.boundary import (
    Time,
    check_batched,
    check_finite,
    check_name,
    check_positive,
    check_state,
    check_time,
    check_type,
)
from unidiff.core.denoiser import check_event_shape
from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.core.networks.gradient import descent, one_each, recordable
from unidiff.core.prediction import Kind, Prediction
from unidiff.core.schedule import Schedule
from unidiff.mcmc import HMC, MALA, Chains, State, Target, langevin

Energy = Callable[..., Tensor]


class EnergyModel(nn.Module):
    """An energy, and the law ∝ e^{−E/τ}.

    Args:
        source: a core whose denoiser has an energy (a world's exact one, or a :class:`~unidiff.Denoiser` around a
            :class:`~unidiff.core.networks.GradientField`), whose E is −log q_t in nats times τ; or a function or network
            ``energy(x [B, *E]) -> [B]``, and ``energy(x, t [B])`` where a schedule is given.
        event_shape: E, for a function; a core knows its own.
        schedule: for a function of time, what its times mean.
        tau: τ, in units of energy.

    Raises:
        TypeError: a source that is neither, or a core whose denoiser has no energy.
        ValueError: tau not positive; no event shape for a function, or one or a schedule for a core.
    """

    def __init__(
        self,
        source: Diffusion | Energy,
        event_shape: tuple[int, ...] | None = None,
        *,
        schedule: Schedule | None = None,
        tau: float = 1.0,
    ) -> None:
        super().__init__()
        self.tau = check_positive("tau", tau)
        if isinstance(source, Diffusion):
            if event_shape is not None or schedule is not None:
                raise ValueError("event_shape and schedule must be left out for a core, which has its own")
            _check_energy(source)
            event_shape, schedule = source.event_shape, source.schedule
        elif not callable(source):
            raise TypeError(f"source must be a Diffusion or a function, got {type(source).__name__}")
        elif event_shape is None:
            raise ValueError("event_shape must be given for a function, e.g. (2,) for the plane, got None")
        if schedule is not None:
            check_type("schedule", schedule, Schedule)
        self.source = source
        self.event_shape = check_event_shape(event_shape)
        self.schedule = schedule

    @property
    def is_core(self) -> bool:
        """Whether its energy is a core's: a density's −log, which there is where there is noise alone."""
        return isinstance(self.source, Diffusion)

    @staticmethod
    def of(core: Diffusion, tau: float = 1.0) -> EnergyModel:
        """The energy of a core: τ(−log q_t) up to a constant. Raises as the class."""
        check_type("core", core, Diffusion)
        return EnergyModel(core, tau=tau)

    def energy(
        self, x: Tensor, t: Time | None = None, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Tensor:
        """E at ``x`` ``[B, *E]`` and time t (one, or ``[B]``), ``[B]``, in units of τ; differentiable.

        Raises:
            TypeError: x is no floating-point tensor; an answer that is not real, or narrower than x.
            ValueError: x is not ``[B, *E]`` or not finite; a time where the energy has none, none where it has, or one
                outside [0, 1]; a condition or guidance that the core does not take; an answer of another shape than ``[B]``.
            FloatingPointError: energies that are not finite, with how many of how many (seen on the CPU only).
        """
        return self.function(x, t, condition, guidance, checked=True)(x)

    def score(self, x: Tensor, t: Time | None = None, condition: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """−∇E/τ at ``x`` ``[B, *E]``, ``[B, *E]``, in units of 1/x. Raises as :meth:`energy`."""
        function = self.function(x, t, condition, guidance, checked=True)
        return descent(lambda z: function(z) / self.tau, x)

    def function(
        self,
        like: Tensor,
        t: Time | None = None,
        condition: Tensor | None = None,
        guidance: float = 1.0,
        *,
        checked: bool = False,
    ) -> Callable[[Tensor], Tensor]:
        """x ↦ E(x, t) for states like ``like`` ``[B, *E]``, at a time looked up once: what loops call.

        Raises as :meth:`energy`.

        Args:
            checked: whether each answer is looked at too.
        """
        check_state("x", like, self.event_shape)
        check_finite("x", like.detach())
        level = self._level(t, like)
        condition = self.check_law(like, level, condition, guidance)

        def own(x: Tensor) -> Tensor:
            return self.at(x, level, condition, guidance)

        return (lambda x: _check_values(own(x))) if checked else own

    def at(
        self, x: Tensor, level: NoiseLevel | None = None, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Tensor:
        """E at ``x`` ``[B, *E]`` and a noise level (None for an energy without time), ``[B]``; arguments are trusted."""
        if level is not None:
            level = NoiseLevel(*(recordable(v) for v in (level.t, level.log_snr, level.alpha, level.sigma)))
        if isinstance(self.source, Diffusion):
            return self.tau * self.source.denoiser.energy(x, level, recordable(condition), guidance)  # pyright: ignore
        each = () if level is None else (level.t.to(x).expand(x.shape[0]),)
        return one_each("energy", self.source(x, *each), x)

    def check_law(
        self, x: Tensor, level: NoiseLevel | None, condition: Tensor | None, guidance: float
    ) -> Tensor | None:
        """Refuse what :meth:`at` has no answer for; returns the condition, one for each row. Raises as :meth:`energy`."""
        if isinstance(self.source, Diffusion):
            if level is not None and level.sigma.device.type == "cpu" and not bool((level.sigma > 0).all()):
                raise ValueError("t must be a time with noise (sigma > 0), where q_t has a density, got one without")
            return self.source.check_arguments("x", x, condition, guidance)
        if condition is not None or guidance != 1.0:
            raise ValueError(f"condition and guidance are for a core, got guidance = {guidance} for a function")
        return None

    def target(
        self, like: Tensor, t: Time | None = None, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Target:
        """The law ∝ e^{−E/τ} for chains of states like ``like`` ``[B, *E]``. Raises as :meth:`energy`."""
        function = self.function(like, t, condition, guidance)
        return Target.from_energy(lambda x: function(x) / self.tau)

    def langevin(self, x: Tensor | State, steps: int, t: Time | None = None, **options: Any) -> Chains:
        """Chains on e^{−E/τ} from each row of ``x`` ``[B, *E]``; MALA unless ``kernel`` says otherwise.

        ``condition`` and ``guidance`` say which law; the other options and the errors are :func:`unidiff.mcmc.langevin`'s.
        A kernel that is left out is MALA of step size 0.1, to be found by a warm-up.
        """
        law = {name: options.pop(name) for name in ("condition", "guidance") if name in options}
        options.setdefault("kernel", MALA(0.1))
        return langevin(self.target(x.x if isinstance(x, State) else x, t, **law), x, steps, **options)

    def hmc(
        self,
        x: Tensor | State,
        steps: int,
        t: Time | None = None,
        *,
        step_size: float = 0.1,
        leapfrog: int = 10,
        **options: Any,
    ) -> Chains:
        """Hamiltonian chains on e^{−E/τ}; arguments as :class:`unidiff.mcmc.HMC`'s and :meth:`langevin`'s."""
        return self.langevin(x, steps, t, kernel=HMC(step_size, leapfrog), **options)

    def compose(
        self, *others: EnergyModel, how: str = "product", weights: Sequence[float] | Tensor | None = None
    ) -> EnergyModel:
        """This law and ``others`` as one: :func:`unidiff.ebm.product` or :func:`unidiff.ebm.mixture`, which say what of.

        Args:
            others: the other energies.
            how: ``"product"`` or ``"mixture"``.
            weights: one for each, this one's first.

        Raises:
            TypeError, ValueError: as those; an unknown way.
        """
        from unidiff.ebm.composition import mixture, product

        ways = {"product": product, "mixture": mixture}
        return ways[check_name("how", how, ways)](self, *others, weights=weights)

    def core(self, schedule: Schedule | None = None) -> Diffusion:
        """A diffusion core whose score is −∇E/τ: for samplers, the likelihood and the other views.

        Args:
            schedule: for a function of time, another one with the meaning of its times; its own if None.

        Raises:
            ValueError: an energy without time; a schedule for a core, which has its own.
        """
        if isinstance(self.source, Diffusion):
            if schedule is not None:
                raise ValueError("schedule must be left out for an energy that is a core's, which has its own")
            return self.source
        schedule = self.schedule if schedule is None else schedule
        if schedule is None or self.schedule is None:
            raise ValueError(
                "energy must be a function of time, with a schedule, to be a core: EnergyModel(..., schedule=…)"
            )
        return Diffusion(schedule, EnergyDenoiser(self))

    def _level(self, t: Time | None, like: Tensor) -> NoiseLevel | None:
        if self.schedule is None:
            if t is not None:
                raise ValueError(f"t must be left out for an energy without a schedule, got t = {t}")
            return None
        if t is None:
            raise ValueError("t must be given for an energy with a schedule: a time in [0, 1], got None")
        return self.schedule.level(check_batched("t", check_time("t", t), like), like)


class EnergyDenoiser(nn.Module):
    """An energy read as a denoiser: its score is −∇E/τ, from which x̂_0 follows by Tweedie's formula.

    Args:
        model: an energy that is a function of time.
    """

    prediction: Kind = "score"

    def __init__(self, model: EnergyModel) -> None:
        super().__init__()
        self.model = model

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one datum."""
        return self.model.event_shape

    def energy(self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """E/τ at ``xt`` ``[B, *E]``, in nats, ``[B]``; state and level are trusted."""
        return self.model.at(xt, level, condition, guidance) / self.model.tau

    def forward(
        self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Prediction:
        """What −∇E/τ says of ``xt`` ``[B, *E]``."""
        score = descent(lambda x: self.energy(x, level, condition, guidance), xt)
        return Prediction(xt, level, {"score": score}, guarded=False)


def _check_values(value: Tensor) -> Tensor:
    if value.device.type == "cpu" and not bool(torch.isfinite(value.detach()).all()):
        bad = int((~torch.isfinite(value.detach())).sum())
        raise FloatingPointError(f"energy must be finite, got NaN or infinity in {bad} of {value.numel()} rows")
    return value


def _check_energy(core: Diffusion) -> None:
    denoiser = core.denoiser
    if not hasattr(denoiser, "energy"):
        raise TypeError(f"core must have a denoiser with an energy, got a {type(denoiser).__name__}, which has none")
    network = getattr(denoiser, "network", None)
    if network is not None and not hasattr(network, "potential"):
        raise TypeError(
            "core must have an energy: the score of an ordinary network is no gradient. Build its Denoiser around "
            f"networks.GradientField(network), got a {type(network).__name__}"
        )


def check_one_schedule(wanted: str, one: Schedule, other: Schedule) -> None:
    """Refuse two that say other levels of the same times: laws are met at one noise. Raises ValueError, ``wanted`` first."""
    if one is other:
        return
    times = torch.linspace(0, 1, 17, dtype=torch.float64)[1:-1]
    for what in ("log_snr", "alpha"):
        a, b = (getattr(schedule, what)(times).detach().cpu() for schedule in (one, other))
        apart = (a - b).abs() > 1e-9 * (1 + a.abs())
        if bool(apart.any()):
            k = int(apart.to(torch.uint8).argmax())
            raise ValueError(
                f"{wanted}, got {what} = {float(a[k]):.6g} and {float(b[k]):.6g} at t = "
                f"{float(times[k]):.4g} ({one.kind}, {other.kind})"
            )
