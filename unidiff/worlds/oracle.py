r"""The exact denoiser of a world: x̂_0 = E[x_0|x_t], and the score from the noised law itself.

The two are computed apart (posterior mean; closed-form ∇ log q_t), so that Tweedie's formula between them
(IDENTITIES item 12) is a check and not a definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from unidiff.core.boundary import right_expand
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import Kind, Prediction
from unidiff.worlds.mixture import GaussianMixture
from unidiff.worlds.world import World


class OracleDenoiser:
    """The denoiser that no network can beat on this world.

    Args:
        world: one law. A :class:`GaussianMixture` can be asked for the component (the class) of each row, K for none.

    Raises:
        TypeError: not a world.
        ValueError: a batch of laws.
    """

    def __init__(self, world: World) -> None:
        if not isinstance(world, World):
            raise TypeError(f"world must be a unidiff World, got {type(world).__name__}")
        if world.batch is not None:
            raise ValueError(f"world must be one law, got a batch of {world.batch}")
        self.world = world
        self._casts: dict[tuple[torch.dtype, torch.device], World] = {(world.dtype, world.device): world}

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one datum."""
        return self.world.event_shape

    @property
    def num_classes(self) -> int | None:
        """How many classes the world has; None if it has none."""
        return self.world.num_classes if isinstance(self.world, GaussianMixture) else None

    def __call__(
        self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Prediction:
        """x̂_0 and the score at ``xt`` ``[B, *E]``, in its dtype; ``condition`` ``[B]`` and ``guidance`` as in Denoiser.

        The state and the level are trusted: this runs inside loops.

        Raises:
            ValueError: a condition or guidance of a world without classes.
        """
        world = self._cast(xt)
        if condition is None:
            if guidance != 1.0:
                raise ValueError(f"guidance needs a condition, got guidance = {guidance} without one")
            return Prediction(xt, level, self._known(world, xt, level), guarded=False)
        known = self._known(self._classes(world).given(condition), xt, level)
        if guidance != 1.0:
            free = self._known(world, xt, level)
            known = {kind: torch.lerp(free[kind], known[kind], guidance) for kind in known}
        return Prediction(xt, level, known, guarded=False)

    def energy(self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """−log q_t at ``xt`` ``[B, *E]``, in nats, ``[B]``, normalised (with guidance, up to a constant). Trusts as a call.

        Raises:
            ValueError: a condition or guidance of a world without classes.
        """
        world = self._cast(xt)
        if condition is None:
            if guidance != 1.0:
                raise ValueError(f"guidance needs a condition, got guidance = {guidance} without one")
            return -world.diffuse(level.alpha, level.sigma).log_prob(xt, check=False)
        own = -self._classes(world).given(condition).diffuse(level.alpha, level.sigma).log_prob(xt, check=False)
        return own if guidance == 1.0 else torch.lerp(self.energy(xt, level), own, guidance)

    def x0_variance(self, xt: Tensor, level: NoiseLevel) -> Tensor:
        """Var[x_0|x_t], the diagonal of the posterior covariance, ``[B, *E]``, in x² units."""
        return self._cast(xt).posterior(xt, level.alpha, level.sigma).variance

    def _cast(self, like: Tensor) -> World:
        key = (like.dtype, like.device)
        if key not in self._casts:
            self._casts[key] = self.world.to(*key)
        return self._casts[key]

    @staticmethod
    def _classes(world: World) -> GaussianMixture:
        if not isinstance(world, GaussianMixture):
            raise ValueError(f"condition needs a world with classes (a GaussianMixture), got a {type(world).__name__}")
        return world

    @staticmethod
    def _known(world: World, xt: Tensor, level: NoiseLevel) -> Mapping[Kind, Tensor]:
        if level.sigma.device.type == "cpu" and bool((level.sigma == 0).all()):
            return {"x0": xt / right_expand(level.alpha, xt)}
        return _Known(
            {
                "x0": lambda: world.posterior_mean(xt, level.alpha, level.sigma, check=False),
                "score": lambda: world.diffuse(level.alpha, level.sigma).score(xt, check=False),
            }
        )


class _Known(Mapping[Kind, Tensor]):
    """Quantities computed when first asked for: a sampler reads x̂_0 alone, a score model the score."""

    def __init__(self, recipes: Mapping[Kind, Callable[[], Tensor]]) -> None:
        self._recipes = recipes
        self._values: dict[Kind, Tensor] = {}

    def __getitem__(self, kind: Kind) -> Tensor:
        if kind not in self._values:
            self._values[kind] = self._recipes[kind]()
        return self._values[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in self._recipes

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._recipes)

    def __len__(self) -> int:
        return len(self._recipes)
