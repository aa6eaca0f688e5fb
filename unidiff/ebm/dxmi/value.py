r"""The value of each state of a chain: an energy at every noise level of the auxiliary law, V_k with V_0 = E.

    V_k(x) = E(x, level k)/τ in nats;   at the optimum V_k = −log q_k − log Z        (IDENTITIES item 40)

An energy-parameterised core takes the level (A_k, S_k) as it is, so that its value is one function of state and noise and
means what the core's energy means. A function of time is asked at the grid's own times; :class:`GridValue` knows no other.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unidiff.core.boundary import check_type
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.level import NoiseLevel
from unidiff.core.networks.gradient import descent, one_each
from unidiff.ebm.model import EnergyModel


class GridValue(nn.Module):
    """A network for each step's value, ``value(x [B, *E], t [B]) -> [B]`` at the grid's times and at no other.

    Learned by DxMI with adaptive velocities, its time t_k stands for the level k of the auxiliary law and not for the
    schedule's of t_k: from k = 1 on what reads the schedule (``EnergyModel.score``, ``core()``, guidance) is off. With the
    schedule's own velocities the two are one.

    Args:
        make: ``make() -> network(x) -> [B]`` or ``[B, 1]``, called once for each of the N + 1 times.
        grid: the times.

    Raises:
        TypeError: no grid, a make that is not callable, or one that makes no module.
    """

    times: Tensor

    def __init__(self, make: Callable[[], nn.Module], grid: TimeGrid) -> None:
        super().__init__()
        check_type("grid", grid, TimeGrid)
        if not callable(make):
            raise TypeError(f"make must be callable, make() -> a network for one time, got {type(make).__name__}")
        made = [make() for _ in range(grid.steps + 1)]
        for network in made:
            check_type("make()", network, nn.Module)
        self.networks = nn.ModuleList(made)
        self.register_buffer("times", grid.times.detach().clone())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """V at ``x`` ``[B, *E]`` and times t ``[B]``, ``[B]``.

        Raises:
            ValueError: times of another shape than ``[B]``, one that is not the grid's (to float32's rounding), NaN among
                them, or one whose gradient is asked for.
        """
        if t.shape != x.shape[:1]:
            raise ValueError(f"t must have shape {list(x.shape[:1])}, one time for each row of x, got {list(t.shape)}")
        if t.requires_grad and torch.is_grad_enabled():
            raise ValueError("t must ask for no gradient: a GridValue is known at its grid's times alone")
        away = (t.to(self.times)[:, None] - self.times).abs()
        least, place = away.min(1)
        if not bool((least <= 1e-6).all()):  # NaN is near to nothing
            far = float(t[(~(least <= 1e-6)).int().argmax()])
            raise ValueError(
                f"t must be one of the {len(self.times)} times of the value's grid, "
                f"{float(self.times[0]):.6g} … {float(self.times[-1]):.6g}, got {far:.6g}"
            )
        answer = x.new_zeros(x.shape[0])
        for k in place.unique().tolist():
            rows = place == k
            answer = answer.index_put((rows,), one_each("value", self.networks[k](x[rows]), x[rows]))
        return answer


class Value:
    """An energy model at a law's levels, in nats. Arguments are trusted: this runs in the trainer's loop.

    Args:
        model: a core's energy, or a function of time.
        levels: the auxiliary law's, ``[N + 1]``.
    """

    def __init__(self, model: EnergyModel, levels: NoiseLevel) -> None:
        self.model, self.levels = model, levels

    @property
    def anywhere(self) -> bool:
        """Whether it is known between the grid's levels too."""
        return self.model.is_core

    def __call__(self, x: Tensor, k: Tensor) -> Tensor:
        """V_k/τ at ``x`` ``[R, *E]`` and steps k ``[R]`` in 0 … N, ``[R]``; differentiable."""
        denoiser = self._denoiser()
        if not isinstance(denoiser, Denoiser):
            return self.at(x, self.levels[k])
        # The levels are few and the rows many: each level is embedded once.
        known = denoiser.embed(self.levels.log_snr.to(x))
        return denoiser.energy(x, self.levels[k].to(x), embedding=None if known is None else known[k])

    def at(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """V/τ at ``x`` ``[R, *E]`` and levels ``[R]``, ``[R]``."""
        return self.model.at(x, level.to(x)) / self.model.tau

    def _denoiser(self) -> object:
        return self.model.source.denoiser if isinstance(self.model.source, Diffusion) else None

    def noise(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """ε̂ = S ∇V/τ at ``x`` ``[R, *E]``, ``[R, *E]``: the noise that the value tells, differentiable in its parameters."""
        source = self.model.source
        if isinstance(source, Diffusion):
            return source.denoiser(x, level.to(x)).eps
        sigma = level.sigma.to(x).reshape(-1, *[1] * (x.ndim - 1))
        return -sigma * descent(lambda z: self.at(z, level), x)


def trainable(model: EnergyModel) -> list[nn.Parameter]:
    """What training a value moves: all but its schedule, in whose place the auxiliary law's levels stand."""
    schedule = model.schedule
    fixed = {id(p) for p in schedule.parameters()} if isinstance(schedule, nn.Module) else set[int]()
    return [p for p in model.parameters() if p.requires_grad and id(p) not in fixed]


def on_device(model: EnergyModel, like: Tensor) -> Tensor:
    """The model's first parameter to train. Raises ValueError where there is none, or one is not where ``like`` is."""
    trained = trainable(model)
    if not trained:
        raise ValueError("value must have parameters to train, got an energy without")
    for p in trained:
        if p.dtype != like.dtype or p.device != like.device:
            raise ValueError(
                f"value must be {like.dtype} on {like.device}, as the chain's core is, got {p.dtype} on {p.device}"
            )
    return trained[0]


def every_level(levels: NoiseLevel, share: Tensor) -> NoiseLevel:
    """Levels between the law's, log A and log S linear in the step: ``share`` ``[R]`` in [0, 1] is the place, 0 at t_0."""
    place = share.to(levels.alpha) * (levels.alpha.shape[0] - 1)
    left = place.floor().long().clamp(max=levels.alpha.shape[0] - 2)
    part = place - left

    def between(column: Tensor) -> Tensor:
        return torch.lerp(column[left], column[left + 1], part)

    alpha, sigma = (between(v.log()).exp() for v in (levels.alpha, levels.sigma))
    return NoiseLevel(between(levels.t), 2 * (alpha / sigma).log(), alpha, sigma)
