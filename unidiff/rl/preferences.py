r"""Preferences: pairs of data, one of which was preferred, and the law by which a reward prefers (Bradley & Terry 1952).

    P(a ≻ b) = σ((r(a) − r(b))/T),   σ(z) = 1/(1 + e^{−z})

so r/T is in nats of log-odds, and preferences tell it up to a constant alone: the same for all data, or for each condition
where only data of one condition are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unidiff.core.boundary import (
    check_alike,
    check_count,
    check_floating,
    check_generator,
    check_positive,
    nearest,
)
from unidiff.rl.heads.data import check_data, check_labels
from unidiff.rl.mdp import Reward, checked

_KEYS = ("winner", "loser", "condition")


class PreferencesError(ValueError):
    """A file that holds no preferences; the message names it and what was expected."""


@dataclass(frozen=True, eq=False)
class Preferences:
    """P pairs of data.

    Attributes:
        winner: what was preferred, ``[P, *E]``, float32 or float64, finite.
        loser: what it was preferred to, ``[P, *E]``.
        condition: the class of each pair, ``[P]``, int64, ≥ 0; or None.

    Raises:
        TypeError: no tensors, or not of these kinds of numbers.
        ValueError: no pairs, unequal shapes, dtypes or devices, NaN or infinity, labels that are not one for each pair.
    """

    winner: Tensor
    loser: Tensor
    condition: Tensor | None = None

    def __post_init__(self) -> None:
        check_alike(winner=check_data("winner", self.winner), loser=check_data("loser", self.loser))
        if self.condition is not None:
            object.__setattr__(self, "condition", check_labels("condition", self.condition, self.winner))

    def __len__(self) -> int:
        return len(self.winner)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape E of one datum."""
        return tuple(self.winner.shape[1:])

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Preferences:
        """The pairs in another dtype or on another device."""
        winner, loser = (v.to(device=device, dtype=dtype) for v in (self.winner, self.loser))
        return Preferences(winner, loser, None if self.condition is None else self.condition.to(device))

    def save(self, path: str | Path) -> Path:
        """Put the pairs at ``path``, an ``.npz`` with keys winner, loser and, if there is one, condition; atomically."""
        path = Path(path)
        named = {name: value for name in _KEYS if (value := getattr(self, name)) is not None}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        with part.open("wb") as file:
            np.savez(file, **{name: value.detach().cpu().numpy() for name, value in named.items()})
        part.replace(path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Preferences:
        """The pairs in an ``.npz`` with keys winner, loser and maybe condition, on the host, in the dtype of the file.

        Raises:
            PreferencesError: missing, not an ``.npz``, other keys, or arrays that are no preferences. Nothing is unpickled.
        """
        arrays = _arrays(Path(path))
        try:
            return cls(**{name: _tensor(name, array) for name, array in arrays.items()})
        except (TypeError, ValueError) as error:
            raise PreferencesError(f"{path}: {error}") from error


def log_preference(margin: Tensor, temperature: float = 1.0) -> Tensor:
    """log P(a ≻ b) in nats, for ``margin`` = r(a) − r(b) of any shape (Bradley & Terry 1952); its σ never underflows."""
    return F.logsigmoid(margin / temperature)


@torch.no_grad()
def bradley_terry(
    x_a: Tensor,
    x_b: Tensor,
    reward: Reward,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    condition: Tensor | None = None,
) -> Preferences:
    """One comparison of each pair (x_a, x_b), decided by chance: a wins with probability σ((r(a) − r(b))/temperature).

    Args:
        x_a: ``[P, *E]``.
        x_b: ``[P, *E]``.
        reward: r.
        generator: of the draws, on the device of the data.
        temperature: T > 0, in units of reward.
        condition: the class of each pair, ``[P]``, kept with it.

    Raises:
        TypeError: a reward that cannot be called; data or labels of another kind.
        ValueError: as :class:`Preferences`; a temperature that is not positive; a reward of another shape.
        FloatingPointError: a reward that is not finite.
    """
    if not callable(reward):
        raise TypeError(f"reward must be callable, got {type(reward).__name__}")
    check_positive("temperature", temperature)
    # Looked at before the draw, under the names that the caller gave them.
    check_alike(x_a=check_data("x_a", x_a), x_b=check_data("x_b", x_b))
    if condition is not None:
        check_labels("condition", condition, x_a)
    check_generator(generator, x_a.device)
    both = torch.cat([x_a, x_b])
    r_a, r_b = checked("reward", reward(both), both).to(torch.float64).chunk(2)
    u = torch.rand(len(x_a), generator=generator, dtype=torch.float64, device=x_a.device)
    first = (u < log_preference(r_a - r_b, temperature).exp()).reshape(-1, *[1] * (x_a.ndim - 1))
    return Preferences(torch.where(first, x_a, x_b), torch.where(first, x_b, x_a), condition)


def draw_preferences(
    sample: Callable[[int, torch.Generator | None], Tensor],
    reward: Reward,
    pairs: int,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
) -> Preferences:
    """Pairs of independent draws, compared by :func:`bradley_terry`.

    Args:
        sample: ``sample(n, generator) -> [n, *E]``, such as a world's.
        reward: r.
        pairs: how many.
        generator: of the data and the comparisons.
        temperature: T > 0, in units of reward.

    Raises:
        TypeError: a sample that cannot be called or gives no floating-point tensor; as :func:`bradley_terry`.
        ValueError: pairs below 1; draws of another number; as :func:`bradley_terry`.
        FloatingPointError: as :func:`bradley_terry`.
    """
    if not callable(sample):
        raise TypeError(f"sample must be callable, got {type(sample).__name__}")
    x = check_floating("what sample returns", sample(2 * check_count("pairs", pairs), generator))
    if x.ndim < 2 or x.shape[0] != 2 * pairs:
        raise ValueError(f"sample must return shape [{2 * pairs}, *event], got {list(x.shape)}")
    return bradley_terry(x[:pairs], x[pairs:], reward, generator, temperature)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise PreferencesError(f"{path} is an .npy file; save it by Preferences.save")
            with archive:
                _check_keys(path, archive.files)
                return {name: archive[name] for name in archive.files}
    except PreferencesError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and the system each have their own way to say it
        raise PreferencesError(f"{path} is not a readable .npz file: {error}") from error


def _check_keys(path: Path, found: Sequence[str]) -> None:
    for name in ("winner", "loser"):
        if name not in found:
            raise PreferencesError(f"{path} must hold winner and loser; it holds {', '.join(found) or 'nothing'}")
    for name in found:
        if name not in _KEYS:
            raise PreferencesError(f"{path} holds {name!r}, which is no part of preferences; {nearest(name, _KEYS)}")


def _tensor(name: str, array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be an array of numbers, got {array.dtype}")
    # torch takes native byte order alone.
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
