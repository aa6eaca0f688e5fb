r"""A world: a law of data whose every noising, conditioning and tilting is known in closed form.

With z = α x_0 + σ ε, ε ~ N(0, I), a world p(x_0) gives the noised law q(z) = ∫ p(x_0) N(z; α x_0, σ² I) dx_0 with its
density and score ∇ log q; the posterior p(x_0|z) ∝ p(x_0) N(z; α x_0, σ² I); and the tilted law p(x_0) e^{r(x_0)/β}/Z
with its log Z. Each of the three is again a world of the same family, so that they compose: the soft value of item 53,
V(z) = β log E[e^{r/β}|z], is ``world.posterior(z, alpha, sigma).tilt_by(reward, beta)[1]`` times β.

A world may hold a *batch* of laws, one for each row: the posterior given ``[B, *E]`` observations, or the noised law at
``[B]`` noise levels. Its queries and samples are then ``[B, *E]``, row by row.

A world computes in one dtype on one device, those of its parameters; :meth:`World.to` changes them. Spectral
decompositions are made in float64 before the cast, so that a float32 world answers to float32 accuracy.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_state
from unidiff.worlds.estimate import Estimate
from unidiff.worlds.rewards import Matrix, QuadraticReward, Vector

Scale = float | Tensor


@runtime_checkable
class Prior(Protocol):
    """The little of a world that its checks need."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of parameters."""
        ...

    @property
    def device(self) -> torch.device:
        """Where they are."""
        ...

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one datum."""
        ...

    @property
    def batch(self) -> int | None:
        """How many laws; None for one."""
        ...


class World(ABC):
    """A law in closed form, or a batch of them. Shapes below are of one law; a batch puts ``B`` in front."""

    @property
    @abstractmethod
    def event_shape(self) -> tuple[int, ...]:
        """The shape E of one datum."""

    @property
    @abstractmethod
    def batch(self) -> int | None:
        """How many laws this is a batch of; None for one law."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of parameters, queries and answers."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device of parameters, queries and answers."""

    @property
    def dim(self) -> int:
        """D, the number of entries of one datum."""
        return torch.Size(self.event_shape).numel()

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """E[x], ``[*E]``, in the units of x."""

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """The diagonal of the covariance, ``[*E]``, in x² units; much cheaper than :attr:`covariance`."""

    @property
    @abstractmethod
    def covariance(self) -> Tensor:
        """Cov[x] of the flattened datum, ``[D, D]``, in x² units."""

    def log_prob(self, x: Tensor, check: bool = True) -> Tensor:
        """The log density at ``x`` ``[B, *E]``, in nats, ``[B]``. Loops that may diverge trust x: ``check=False``.

        Raises:
            ValueError: x does not fit the world or is not finite, or the law has no density (a cloud without noise). So
                far out that it overflows the dtype, the answer is −∞.
        """
        if check:
            check_query("x", x, self)
            self._check_density()
        return self._log_prob(x)

    def score(self, x: Tensor, check: bool = True) -> Tensor:
        """∇ log p at ``x`` ``[B, *E]``, in closed form, ``[B, *E]``, in units of 1/x; ``check`` as in :meth:`log_prob`.

        Raises:
            ValueError: as in :meth:`log_prob`, and x so far out that its squares overflow the dtype (seen on the CPU only).
        """
        if not check:
            return self._score(x)
        check_query("x", x, self)
        self._check_density()
        return check_reach("x", x, self._score(x))

    def sample(self, n: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """``n`` draws of one law, ``[n, *E]``; of a batch, one draw for each row (n left out), ``[B, *E]``."""
        if self.batch is None:
            return self._sample(check_count("n", n, 1), generator)  # pyright: ignore[reportArgumentType]
        if n is not None and n != self.batch:
            raise ValueError(f"n must be left out for a batch of {self.batch} laws (one draw for each), got {n!r}")
        return self._sample(self.batch, generator)

    @abstractmethod
    def entropy(self, n: int = 65536, generator: torch.Generator | None = None) -> Estimate:
        """−E log p in nats, with how well it is known; ``n`` and ``generator`` serve Monte Carlo alone."""

    @abstractmethod
    def diffuse(self, alpha: Scale, sigma: Scale) -> Self:
        """The law of α x + σ ε; ``alpha`` and ``sigma`` are numbers or ``[B]`` (a batch of laws). Differentiable.

        Raises:
            ValueError: alpha or sigma is negative, not finite, or both are zero (read on the CPU only: on a GPU
                looking would wait for it).
        """

    @abstractmethod
    def posterior(self, xt: Tensor, alpha: Scale, sigma: Scale, check: bool = True) -> Self:
        """The law of x given α x + σ ε = ``xt`` ``[B, *E]``, a batch of B laws; alpha and sigma as in :meth:`diffuse`.

        ``check`` as in :meth:`log_prob`; without it the values of alpha and sigma are trusted too.

        Raises:
            ValueError: xt does not fit the world, is not finite or is so far out that its squares overflow the dtype (seen
                on the CPU only), or alpha and sigma as in :meth:`diffuse`.
        """

    def posterior_mean(self, xt: Tensor, alpha: Scale, sigma: Scale, check: bool = True) -> Tensor:
        """E[x|α x + σ ε = xt] ``[B, *E]``: the mean of :meth:`posterior` alone, of its arguments, with its errors."""
        if check:
            check_query("xt", xt, self)
        mean = self._posterior_mean(xt, *noise_scales(alpha, sigma, self, xt.shape[0], check))
        return check_reach("xt", xt, mean) if check else mean

    @abstractmethod
    def tilt(self, A: Matrix | None, b: Vector | None, beta: float) -> tuple[Self, Tensor]:
        """The law ∝ p(x) e^{r(x)/β} and log Z, for r(x) = −½ xᵀA x + bᵀx over the flattened datum.

        Args:
            A: symmetric ``[D, D]``, a tensor or numbers, in units of reward/x²; None for none.
            b: D entries, a tensor or numbers, in units of reward/x; None for none.
            beta: the KL temperature, in units of reward.

        Returns:
            The tilted world, and log E[e^{r/β}] in nats, ``[]``.

        Raises:
            ValueError: shapes, an asymmetric A, beta not positive, or a tilted precision that is not positive
                definite, so that Z is infinite.
        """

    def tilt_by(self, reward: Callable[[Tensor], Tensor], beta: float) -> tuple[Self, Tensor]:
        """:meth:`tilt` by a reward of :mod:`unidiff.worlds.rewards`; a point cloud takes any function ``[N, *E] -> [N]``.

        Raises:
            TypeError: the reward is not quadratic and this world needs it to be.
            ValueError: as in :meth:`tilt`.
        """
        if not isinstance(reward, QuadraticReward):
            raise TypeError(
                f"reward must be Linear, Quadratic or LogDensity of unidiff.worlds.rewards for a {type(self).__name__}, "
                f"got {type(reward).__name__}; only a PointCloud tilts by any function"
            )
        A, b, constant = reward.coefficients()
        world, log_z = self.tilt(A, b, beta)
        return world, log_z + constant / beta

    @abstractmethod
    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Self:
        """The world in another dtype or on another device; itself where nothing changes."""

    @abstractmethod
    def _log_prob(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _score(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _posterior_mean(self, xt: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor: ...

    @abstractmethod
    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor: ...

    @abstractmethod
    def _check_density(self) -> None: ...

    def __repr__(self) -> str:
        batch = "" if self.batch is None else f"batch={self.batch}, "
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{type(self).__name__}({batch}event_shape={self.event_shape}, dtype={dtype}, device={self.device})"


def check_query(argument: str, x: Tensor, world: Prior) -> Tensor:
    """``x`` if it is ``[B, *E]`` of the world's dtype and device, with the world's own B where it is a batch."""
    check_state(argument, x, world.event_shape)
    if x.dtype != world.dtype or x.device != world.device:
        raise ValueError(
            f"{argument} must be {world.dtype} on {world.device}, as the world is, got {x.dtype} on {x.device}; "
            "world.to(dtype, device) makes it one"
        )
    if world.batch is not None and x.shape[0] != world.batch:
        raise ValueError(f"{argument} must hold {world.batch} rows, one for each law of the batch, got {x.shape[0]}")
    return x


def check_reach(argument: str, x: Tensor, *answers: Tensor) -> Tensor:
    """The first of ``answers`` if none holds NaN and it is finite, else an error that says how far out ``x`` lies."""
    first = answers[0].detach()
    # On a GPU looking would wait for it.
    if first.device.type == "cpu" and not (
        bool(torch.isfinite(first).all()) and not any(bool(torch.isnan(v.detach()).any()) for v in answers[1:])
    ):
        raise ValueError(
            f"{argument} must be so near that its squares fit {str(x.dtype).removeprefix('torch.')}, "
            f"got entries of size up to {float(x.detach().abs().max()):.3g}"
        )
    return answers[0]


def noise_scales(
    alpha: Scale, sigma: Scale, world: Prior, rows: int | None = None, check: bool = True
) -> tuple[Tensor, Tensor]:
    """α and σ as tensors ``[]`` or ``[B]`` of the world's dtype and device; ``check`` their values too, not shapes alone."""
    a, s = (torch.as_tensor(v, dtype=world.dtype, device=world.device) for v in (alpha, sigma))
    rows = world.batch if rows is None else rows
    for name, value in (("alpha", a), ("sigma", s)):
        if value.ndim > 1 or (value.ndim == 1 and rows is not None and value.shape[0] not in (1, rows)):
            expected = "[B]" if rows is None else f"[{rows}]"
            raise ValueError(f"{name} must be a number or have shape {expected}, got shape {list(value.shape)}")
    a, s = (v.reshape(()) if v.numel() == 1 else v for v in (a, s))
    if a.ndim == s.ndim == 1 and a.shape != s.shape:
        raise ValueError(f"alpha and sigma must have one shape, got {list(a.shape)} and {list(s.shape)}")
    if check and a.device.type == "cpu":
        both = a.detach() + s.detach()
        if both.ndim == 0:
            # As numbers: the same question of tensors takes most of a scalar query's time.
            known = a.item() >= 0 and s.item() >= 0 and 0 < both.item() < math.inf
        else:
            known = bool(((a.detach() >= 0) & (s.detach() >= 0) & (both > 0) & torch.isfinite(both)).all())
        if not known:
            raise ValueError(
                "alpha and sigma must be finite, at least 0 and not both 0, "
                f"got alpha = {_show(a)} and sigma = {_show(s)}"
            )
    return a, s


def _show(value: Tensor) -> str:
    if value.numel() <= 4:
        return str(value.tolist())
    return f"{value.numel()} values in [{value.min().item():.6g}, {value.max().item():.6g}]"
