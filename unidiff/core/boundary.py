"""What every public function asks of its arguments, asked once and before any work.

An error names the argument, its value and what was expected. The checks read tensors, so on a GPU they wait for it:
call them where a user's argument enters, never inside a sampling or training loop.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

Time = float | Tensor


_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def right_expand(value: Tensor, like: Tensor) -> Tensor:
    """Give ``value`` of shape ``[]`` or ``[B]`` the trailing axes it needs to broadcast against ``like`` ``[B, *E]``."""
    return value if value.ndim == 0 else value.reshape(value.shape + (1,) * (like.ndim - value.ndim))


def send(value: Tensor, like: Tensor) -> Tensor:
    """``value`` in the dtype and on the device of ``like``; from the host to a GPU without waiting for it."""
    return value.to(like.device, like.dtype, non_blocking=value.device.type == "cpu" and like.device.type == "cuda")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an unknown-name error: the nearest known name, then all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(known)}"


def check_name(argument: str, name: str, known: Iterable[str]) -> str:
    """``name`` if it is among ``known``; else a ValueError with the nearest known name."""
    known = tuple(known)
    if name not in known:
        raise ValueError(f"unknown {argument} {name!r}; {nearest(str(name), known)}")
    return name


def check_once(argument: str, names: Sequence[str]) -> None:
    """Refuse names of which one is given twice, by a ValueError."""
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ValueError(f"{argument} must name each once, got {twice[0]!r} twice")


def check_finite(argument: str, value: Tensor) -> Tensor:
    """``value`` unless it holds NaN or infinity."""
    if not torch.isfinite(value).all():
        bad = int((~torch.isfinite(value)).sum())
        raise ValueError(f"{argument} must be finite; {bad} of its {value.numel()} values are NaN or infinite")
    return value


def check_type(argument: str, value: object, kind: type) -> None:
    """Refuse a ``value`` of another type, by a TypeError."""
    if not isinstance(value, kind):
        raise TypeError(f"{argument} must be a {kind.__name__}, got {value!r}")


def check_flag(argument: str, value: object) -> None:
    """Refuse, by a TypeError, a ``value`` that is not True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be True or False, got {value!r}")


def check_progress(argument: str, value: object) -> None:
    """Refuse, by a TypeError, a progress callback that is neither None nor callable."""
    if value is not None and not callable(value):
        raise TypeError(f"{argument} must be callable, {argument}(done, all), got {type(value).__name__}")


def check_generator(generator: object, device: torch.device) -> None:
    """Refuse what is neither None nor a generator of draws on ``device``.

    Raises:
        TypeError: no generator.
        ValueError: one of another kind of device.
    """
    if generator is None:
        return
    check_type("generator", generator, torch.Generator)
    assert isinstance(generator, torch.Generator)
    if generator.device.type != device.type:
        raise ValueError(f"generator must be on {device.type}, where its draws are, got one on {generator.device}")


def check_dtype(value: object) -> None:
    """Refuse, by a ValueError, what a chain's state is not drawn in."""
    if value not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {value!r}")


def check_real(argument: str, value: Any) -> Any:
    """``value`` if it is a real number, or a tensor of one; a truth value is none. Raises TypeError."""
    single = isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex() and value.dtype != torch.bool
    if not single and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{argument} must be a number, got {value!r}")
    return value


def check_not_negative(argument: str, value: float) -> float:
    """``value`` if it is a finite number of at least zero."""
    if not (0.0 <= check_real(argument, value) < float("inf")):
        raise ValueError(f"{argument} must be at least 0 and finite, got {value}")
    return value


def check_positive(argument: str, value: float) -> float:
    """``value`` if it is a finite number above zero."""
    check_real(argument, value)
    if not (0.0 < value < float("inf")):
        raise ValueError(f"{argument} must be positive and finite, got {value}")
    return value


def check_share(argument: str, value: float) -> float:
    """``value`` if it lies in [0, 1]. Raises TypeError, ValueError."""
    if not 0.0 <= check_real(argument, value) <= 1.0:
        raise ValueError(f"{argument} must lie in [0, 1], got {value}")
    return value


def check_count(argument: str, value: int, least: int = 1) -> int:
    """``value`` if it is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{argument} must be an integer of at least {least}, got {value!r}")
    return value


def check_seed(value: int) -> int:
    """``value`` if it is a seed that every generator takes: an integer in 0 … 2⁶³ − 1."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"seed must be an integer in 0 … 2^63 - 1, got {value!r}")
    return value


def check_device(name: str | torch.device) -> torch.device:
    """The CPU or GPU of this name, if torch can compute there; else a ValueError with torch's reason."""
    device = check_device_name(name)
    try:
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, ValueError) as error:
        raise _no_device(name, error) from None
    return device


def check_device_name(name: str | torch.device) -> torch.device:
    """The CPU or GPU of this name, whether it is there or not; else a ValueError with torch's reason."""
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise ValueError("unidiff computes on cpu and cuda")
    except (RuntimeError, TypeError, ValueError) as error:
        raise _no_device(name, error) from None
    return device


def _no_device(name: object, error: Exception) -> ValueError:
    reason = str(error).strip().splitlines()[0]
    return ValueError(f"device must be cpu, cuda or cuda:N, and be there, got {str(name)!r}: {reason}")


def as_float64(argument: str, value: Any) -> Tensor:
    """A float64 tensor of ``value`` (a real number or a tensor of them), on the tensor's own device; NaN is an error."""
    out = _converted(argument, value)
    if torch.isnan(out).any():
        raise ValueError(f"{argument} must not be NaN, got {_show(out)}")
    return out


def _converted(argument: str, value: Any) -> Tensor:
    if isinstance(value, complex) or (isinstance(value, Tensor) and value.is_complex()):
        raise TypeError(f"{argument} must be real, got {value.dtype if isinstance(value, Tensor) else value!r}")
    try:
        return value.to(torch.float64) if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{argument} must be a number or a tensor of numbers, got {value!r}") from None


def as_sequence(argument: str, value: Any) -> Tensor:
    """A float64 tensor ``[N]`` on the host of a sequence of numbers. Raises ValueError for anything else."""
    try:
        out = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{argument} must be a sequence of numbers, got {value!r}") from None
    if out.ndim != 1:
        raise ValueError(f"{argument} must be a sequence of numbers [N], got shape {list(out.shape)}")
    return out


def check_time(argument: str, value: Time) -> Tensor:
    """A time or a batch of times as float64, each in [0, 1]."""
    out = _converted(argument, value)
    # NaN is an extreme that lies nowhere. In one pass, since every call of a schedule begins here.
    if out.numel() and not all(0.0 <= v.item() <= 1.0 for v in torch.aminmax(out)):
        as_float64(argument, out)
        raise ValueError(f"{argument} must lie in [0, 1] (0 is data, 1 is noise), got {_show(out)}")
    return out


def check_times(s: Time, t: Time) -> tuple[Tensor, Tensor]:
    """A pair of times with s < t everywhere, on one device."""
    s64, t64 = check_time("s", s), check_time("t", t)
    if s64.ndim == 0:
        s64 = s64.to(t64.device)
    if t64.ndim == 0:
        t64 = t64.to(s64.device)
    if not (s64 < t64).all():
        raise ValueError(f"s must be earlier than t (s < t), got s = {_show(s64)} and t = {_show(t64)}")
    return s64, t64


def check_floating(argument: str, value: Any) -> Tensor:
    """``value`` if it is a tensor of floating-point numbers."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{argument} must be a floating-point tensor, got {kind}")
    return value


def check_state(argument: str, value: Tensor, event_shape: tuple[int, ...] | None = None) -> Tensor:
    """A floating batch ``[B, *E]``; with ``event_shape`` its trailing axes must be just those."""
    check_floating(argument, value)
    if value.ndim < 2 and event_shape is None:
        raise ValueError(f"{argument} must have shape [B, *event], batch first, got {list(value.shape)}")
    if event_shape is not None and tuple(value.shape[1:]) != tuple(event_shape):
        expected = ", ".join(["B", *map(str, event_shape)])
        raise ValueError(f"{argument} must have shape [{expected}], got {list(value.shape)}")
    # On a GPU looking would wait for it, and inside a capture fail: there a run's result is looked at, once.
    if value.device.type == "cpu":
        check_finite(argument, value.detach())
    return value


def check_condition(condition: Tensor | None, guidance: float, rows: int, num_classes: int | None) -> Tensor | None:
    """Labels for ``rows`` members of a batch, ``[rows]`` (one label, ``[]``, is given to all), and the weight with them.

    Args:
        condition: integers in 0 … ``num_classes``, the last being the null class; None for none.
        guidance: finite; other than 1 it needs a condition.
        rows: B.
        num_classes: None for a denoiser that takes no condition.

    Raises:
        TypeError: a condition that is no tensor of integers, a guidance weight that is no number.
        ValueError: a condition that the denoiser does not take, of another shape or out of range; a guidance weight that
            is not finite, or that has nothing to weigh.
    """
    if not math.isfinite(check_real("guidance", guidance)):
        raise ValueError(f"guidance must be finite, got {guidance}")
    if guidance != 1.0 and num_classes is None:
        raise ValueError(f"guidance needs a conditional network (num_classes), got guidance = {guidance} without one")
    if condition is None:
        if guidance != 1.0:
            raise ValueError(f"guidance needs a condition, got guidance = {guidance} without one")
        return None
    if num_classes is None:
        raise ValueError("condition must be left out: this denoiser takes none (no num_classes)")
    if not isinstance(condition, Tensor) or condition.dtype not in _INTEGERS:
        kind = condition.dtype if isinstance(condition, Tensor) else type(condition).__name__
        raise TypeError(f"condition must be a tensor of integers, got {kind}")
    if condition.ndim > 1 or (condition.ndim == 1 and condition.shape[0] != rows):
        raise ValueError(f"condition must have shape [{rows}] or [], got {list(condition.shape)}")
    if condition.device.type == "cpu" and not bool(((condition >= 0) & (condition <= num_classes)).all()):
        raise ValueError(f"condition must lie in 0 … {num_classes} ({num_classes} is no class), got {_show(condition)}")
    return condition.to(torch.int64).expand(rows)


def check_alike(**tensors: Tensor) -> None:
    """Every named tensor has one dtype, one device and one shape."""
    for name, value in tensors.items():
        check_type(name, value, Tensor)
    items = list(tensors.items())
    first_name, first = items[0]
    for name, other in items[1:]:
        for what in ("dtype", "device", "shape"):
            mine, theirs = getattr(first, what), getattr(other, what)
            if mine != theirs:
                show = (list(mine), list(theirs)) if what == "shape" else (mine, theirs)
                raise ValueError(f"{first_name} and {name} must have one {what}, got {show[0]} and {show[1]}")


def check_batched(argument: str, value: Tensor, like: Tensor) -> Tensor:
    """``value`` is one for all (shape ``[]``) or one for each member of the batch ``like``."""
    check_type(argument, value, Tensor)
    if value.ndim > 1 or (value.ndim == 1 and value.shape[0] not in (1, like.shape[0])):
        raise ValueError(
            f"{argument} must be a number or have shape [{like.shape[0]}] (one for each member of the batch), "
            f"got shape {list(value.shape)}"
        )
    return value


def _show(value: Tensor) -> str:
    if value.numel() <= 4:
        return str(value.tolist())
    return f"{value.numel()} values in [{value.min().item():.6g}, {value.max().item():.6g}]"
