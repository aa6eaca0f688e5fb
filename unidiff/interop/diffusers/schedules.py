r"""diffusers' schedulers as schedules and grids, and back.

A scheduler's ᾱ_1 … ᾱ_T is the schedule α²(i/T) = ᾱ_i with log ᾱ linear between (Ho et al. 2020, eq. 4), whatever the
scheduler does with it: those in σ (Euler, Heun, Karras' spacing) work on x_t/α_t and σ_t/α_t of the same ᾱ. Its tables
are float32, and 1 − ᾱ of such a one has few digits left, so ᾱ is made anew in float64 from its β where the two agree.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from unidiff.core.boundary import as_sequence, check_name, check_type
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.prediction import Kind
from unidiff.core.schedule_kinds import FromBetas

PREDICTIONS: dict[str, Kind] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
SchedulerKind = Literal["ddpm", "ddim"]
KINDS: tuple[SchedulerKind, ...] = get_args(SchedulerKind)
_CONFIG = 0.01


def schedule(scheduler: Any) -> FromBetas:
    """The schedule of a diffusers scheduler: α²((n + 1)/T) is its ``alphas_cumprod[n]``.

    Raises:
        TypeError: a scheduler without ``alphas_cumprod`` (of flow matching, or of σ alone).
        ValueError: an ``alphas_cumprod`` that does not fall strictly within (0, 1); zero SNR at its last timestep;
            σ of a flow (``use_flow_sigmas``).
    """
    table = attribute(scheduler, "alphas_cumprod")
    kept = as_sequence("scheduler.alphas_cumprod", table)
    _check_levels(scheduler)
    zero = getattr(getattr(scheduler, "config", None), "rescale_betas_zero_snr", False)
    if kept.numel() and (zero or kept[-1] == 0):
        raise ValueError(
            f"scheduler must keep its SNR above zero, got {kept[-1].item():.3g} at its last timestep of alphas_cumprod, for "
            "zero SNR (rescale_betas_zero_snr=True): "
            "a schedule that reaches zero SNR there has no finite log-SNR between the last two timesteps"
        )
    falls = torch.cat([kept.new_ones(1), kept, kept.new_zeros(1)]).diff() < 0
    if kept.numel() == 0 or not bool(falls.all()):
        raise ValueError(f"scheduler.alphas_cumprod must fall strictly within (0, 1), got {kept}")
    before = torch.cat([kept.new_ones(1), kept[:-1]])
    betas = 1 - kept / before
    if (given := getattr(scheduler, "betas", None)) is not None:
        own = as_sequence("scheduler.betas", given)
        rounding = len(kept) * torch.finfo(getattr(table, "dtype", torch.float64)).eps
        if own.shape == kept.shape and bool((((1 - own).cumprod(0) / kept - 1).abs() <= rounding).all()):
            betas = own
    return FromBetas(betas)


def grid(scheduler: Any) -> TimeGrid:
    """The times of the scheduler's ``timesteps``, after its ``set_timesteps``, and where its last step ends.

    That is t = 0, or 1/T with ``set_alpha_to_one=False`` (DDIM) or ``final_sigmas_type="sigma_min"``. A grid ends at t = 1:
    where the scheduler begins at an earlier timestep (spacing "leading"), as though its level were pure noise, t = 1 is one
    more step. Walk down from ``grid.steps - 1`` for the scheduler's own.

    Raises:
        TypeError: a scheduler without ``timesteps`` or ``alphas_cumprod``.
        ValueError: timesteps that do not fall strictly within 0 … T − 1; ``use_flow_sigmas``.
    """
    steps = len(attribute(scheduler, "alphas_cumprod"))
    _check_levels(scheduler)
    n = as_sequence("scheduler.timesteps", attribute(scheduler, "timesteps")).flip(0)
    if n.numel() == 0 or not bool((n.diff() > 0).all()) or n[0] < 0 or n[-1] > steps - 1:
        twice = bool((n.diff() == 0).any())
        again = ", which repeat: more than one call a step, as of PNDM and Heun, is no grid" if twice else ""
        raise ValueError(
            f"scheduler.timesteps must fall strictly within {steps - 1} … 0, got {n.flip(0).tolist()}{again}"
        )
    config = attribute(scheduler, "config")
    held = getattr(config, "set_alpha_to_one", True) is False or (
        getattr(config, "final_sigmas_type", "zero") == "sigma_min"
    )
    times = (n + 1) / steps
    first = times.new_full((1,), 1 / steps if held else 0.0)
    ends = [first] if first < times[0] else []
    return TimeGrid(torch.cat([*ends, times, *([times.new_ones(1)] if times[-1] < 1 else [])]))


def scheduler(
    core: Diffusion,
    kind: SchedulerKind = "ddpm",
    times: Sequence[float] | Tensor | None = None,
    prediction: Kind | None = None,
) -> Any:
    """A diffusers scheduler with the levels of a core.

    Nothing is clipped, the last step goes to the data, and spacing is "trailing", which begins at t = 1. ``variance_type``
    is "learned_range" for a core whose network has a fraction, else "fixed_small" (here: "posterior"). Its ``betas``,
    ``alphas`` and ``alphas_cumprod`` are float64, ᾱ from log α²; from_config makes ᾱ of the config's β in float32.

    Args:
        core: with a variance-preserving schedule.
        kind: "ddpm" or "ddim".
        times: of the timesteps 0 … T − 1, increasing within (0, 1]; None for the i/T of a schedule of T betas.
        prediction: what the model that it will step with returns: "eps", "x0" or "v"; None for the core's network's own, and
            "eps" for a denoiser that is none of these.

    Raises:
        TypeError: core is none.
        ValueError: an unknown kind or prediction; a schedule that is variance exploding; times that are missing, that do
            not increase within (0, 1], or are so far apart that a β is 1 in float32.

    Warns:
        UserWarning: levels that the config does not hold to 1% of ᾱ/(1 − ᾱ).
    """
    check_type("core", core, Diffusion)
    check_name("kind", kind, KINDS)
    if not core.schedule.variance_preserving:
        raise ValueError("core must have a variance-preserving schedule, as diffusers' ᾱ is, got one that is exploding")
    names = {own: theirs for theirs, own in PREDICTIONS.items()}
    plain = isinstance(core.denoiser, Denoiser) and core.denoiser.preconditioning == "none"
    own = getattr(core.denoiser, "prediction", "eps") if plain else "eps"
    own = "eps" if own == "score" else own
    name = names[check_name("prediction", own if prediction is None else prediction, names)]  # pyright: ignore
    log_alpha2, betas = _levels(core, times)
    _check_config("core" if times is None else "times", betas)
    options: dict[str, Any] = {
        "num_train_timesteps": len(betas),
        "trained_betas": betas.tolist(),
        "prediction_type": name,
        "clip_sample": False,
        "timestep_spacing": "trailing",
    }
    peer = importlib.import_module("diffusers")
    if kind == "ddim":
        made = peer.DDIMScheduler(set_alpha_to_one=True, **options)
    else:
        learned = bool(getattr(core.denoiser, "learned_variance", False))
        made = peer.DDPMScheduler(variance_type="learned_range" if learned else "fixed_small", **options)
    _warn_of_config(made.alphas_cumprod.double(), log_alpha2)
    made.betas, made.alphas, made.alphas_cumprod = betas, _falls(log_alpha2).exp(), log_alpha2.exp()
    return made


def _levels(core: Diffusion, times: Sequence[float] | Tensor | None) -> tuple[Tensor, Tensor]:
    """log ᾱ and β of the timesteps, float64; β = −expm1 of a fall of log ᾱ, where a schedule does not say it."""
    if times is None:
        if not isinstance(core.schedule, FromBetas):
            raise ValueError(
                "times must be given for a schedule that is not of T betas: the times of timesteps 0 … T − 1, got None"
            )
        t = torch.arange(1, core.schedule.steps + 1, dtype=torch.float64) / core.schedule.steps
        log_alpha2 = 2 * core.schedule.log_alpha(t).detach()
        return log_alpha2, torch.as_tensor(core.schedule.betas).to(log_alpha2)
    t = as_sequence("times", times)
    if t.numel() == 0 or not bool((torch.cat([t.new_zeros(1), t]).diff() > 0).all()) or t[-1] > 1:
        raise ValueError(f"times must increase strictly within (0, 1], got {t.tolist()}")
    log_alpha2 = 2 * core.schedule.log_alpha(t).detach()
    return log_alpha2, -torch.expm1(_falls(log_alpha2))


def _falls(log_alpha2: Tensor) -> Tensor:
    """log(1 − β) of log ᾱ, whose first is from ᾱ = 1."""
    return torch.cat([log_alpha2[:1], log_alpha2.diff()])


def _check_config(argument: str, betas: Tensor) -> None:
    lost = betas.float() >= 1
    if bool(lost.any()):
        n = int(lost.nonzero()[0])
        raise ValueError(
            f"{argument} must have betas below 1 in float32, in which a scheduler's config keeps them, got "
            f"1 - {1 - betas[n].item():.3g} at timestep {n}; more times before that one make it smaller"
        )


def _warn_of_config(rebuilt: Tensor, log_alpha2: Tensor) -> None:
    """Warn where the ᾱ that float32 β make are off by more than 1% in ᾱ/(1 − ᾱ), infinite where ᾱ has become 1."""
    exact = log_alpha2 - torch.log(-torch.expm1(log_alpha2))
    off = torch.expm1(rebuilt.log() - torch.log1p(-rebuilt) - exact).abs()
    if bool((off > _CONFIG).any()):
        n = int(off.argmax())
        warnings.warn(
            f"the scheduler's own levels are exact, but its config keeps beta in float32: what from_config makes "
            f"of it has an SNR {off[n].item():.0%} off at timestep {n}",
            UserWarning,
            stacklevel=3,
        )


def _check_levels(scheduler: Any) -> None:
    if getattr(getattr(scheduler, "config", None), "use_flow_sigmas", False):
        raise ValueError(
            f"scheduler.config.use_flow_sigmas must be False, got True: {type(scheduler).__name__} then steps through "
            "levels of flow matching, not alphas_cumprod"
        )


def attribute(owner: Any, name: str, argument: str = "scheduler") -> Any:
    """``owner.name``; a TypeError that says what is lacking where it has none."""
    value = getattr(owner, name, None)
    if value is None:
        raise TypeError(f"{argument} must have {name}, got {type(owner).__name__}, which has none")
    return value
