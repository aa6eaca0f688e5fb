r"""Toy laws in the plane, drawn by formula; each shows a different difficulty. All lie in [−4, 4]² but
for the tails of the eight Gaussians and of the pinwheel (in 10⁶ points the farthest coordinate is near 4.5 and 4.9).

==============  ======================================================================================
eight-gaussians  the world of that name: centres on a circle of radius 4/1.414, std 0.5/1.414; separate modes
moons            two half circles, noise 0.05 (scikit-learn), centred and doubled; curved, close
checkerboard     uniform on the 8 black squares of a 4×4 board of side 8; sharp edges
swiss-roll       a spiral (scikit-learn's roll from the side), noise 0.5, divided by 5; long and thin
pinwheel         five arms, each a narrow Gaussian sheared by its radius; anisotropic (Johnson et al. 2016)
==============  ======================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_name
from unidiff.worlds import World, library


def draw(name: str, n: int, generator: torch.Generator | None = None) -> Tensor:
    """n points of the toy ``name``, ``[n, 2]``, float64.

    Raises:
        ValueError: an unknown toy, n below 1.
    """
    check_name("data", name, TOYS)
    return TOYS[name](check_count("n", n), generator)


def _eight_gaussians(n: int, generator: torch.Generator | None) -> Tensor:
    return library.eight_gaussians().sample(n, generator).to(torch.float64)


def _moons(n: int, generator: torch.Generator | None) -> Tensor:
    from sklearn.datasets import make_moons

    points, _ = make_moons(n, noise=0.05, random_state=_numpy_seed(generator))
    return 2 * (torch.from_numpy(points) - torch.tensor([0.5, 0.25], dtype=torch.float64))


def _checkerboard(n: int, generator: torch.Generator | None) -> Tensor:
    inside = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    square = torch.randint(8, (n,), generator=generator)
    row = square // 2
    column = 2 * (square % 2) + row % 2
    return 2 * (torch.stack([column, row], 1) + inside) - 4


def _swiss_roll(n: int, generator: torch.Generator | None) -> Tensor:
    from sklearn.datasets import make_swiss_roll

    points, _ = make_swiss_roll(n, noise=0.5, random_state=_numpy_seed(generator))
    return torch.from_numpy(np.ascontiguousarray(points[:, [0, 2]])) / 5


def _pinwheel(n: int, generator: torch.Generator | None) -> Tensor:
    arm = torch.randint(5, (n,), generator=generator)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    along, across = 1 + 0.3 * noise[:, 0], 0.1 * noise[:, 1]
    angle = 2 * math.pi * arm / 5 + 0.25 * along.exp()
    cos, sin = angle.cos(), angle.sin()
    return 2 * torch.stack([along * cos - across * sin, along * sin + across * cos], 1)


TOYS: dict[str, Callable[[int, torch.Generator | None], Tensor]] = {
    "eight-gaussians": _eight_gaussians,
    "moons": _moons,
    "checkerboard": _checkerboard,
    "swiss-roll": _swiss_roll,
    "pinwheel": _pinwheel,
}


LAWS: dict[str, Callable[[], World]] = {"eight-gaussians": library.eight_gaussians}
"""The toys whose law is a world."""


def _numpy_seed(generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**32 - 1, (), generator=generator, device=device))
