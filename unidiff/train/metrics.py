r"""How far samples are from a law: distances between two sets of points, and the likelihood under a known world.

- Sliced Wasserstein-1: the mean over directions θ of W_1(θ·x, θ·y) (Bonneel et al. 2015, eq. 4); each by SciPy.
- Wasserstein-2: √ min over pairings of the mean of ‖x − y‖², all pairings (Kantorovich 1942); the assignment by SciPy.
- MMD²: E k(x,x') + E k(y,y') − 2 E k(x,y), Gaussian kernel, unbiased (Gretton et al. 2012, eq. 3); kernel by
  scikit-learn. Unbiased, so it falls below zero by chance when the laws agree.
- NLL: −E log p(x), in nats; at least the entropy of the samples' own law.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_finite, check_positive

if TYPE_CHECKING:
    from unidiff.worlds import World


def directions(dim: int, n: int, generator: torch.Generator | None = None) -> Tensor:
    """n unit vectors ``[n, dim]``, uniform on the sphere, float64; keep them to compare several sets alike."""
    v = torch.randn(check_count("n", n), check_count("dim", dim), generator=generator, dtype=torch.float64)
    return v / v.norm(dim=1, keepdim=True)


def sliced_wasserstein(
    x: Tensor, y: Tensor, projections: int | Tensor = 256, generator: torch.Generator | None = None
) -> float:
    """Sliced W_1 of two sets ``[N, *E]`` and ``[M, *E]``, in the units of x.

    Args:
        x, y: the sets; N and M may differ.
        projections: how many directions to draw, or the directions ``[K, D]``.
        generator: their source.

    Raises:
        ValueError: sets that are empty, not finite, or of different event shapes.
    """
    from scipy.stats import wasserstein_distance

    a, b = _flat("x", x), _flat("y", y)
    _check_same(a, b)
    if isinstance(projections, int):
        projections = directions(a.shape[1], projections, generator)
    along_a, along_b = (a @ projections.T).numpy(), (b @ projections.T).numpy()
    return float(np.mean([wasserstein_distance(along_a[:, i], along_b[:, i]) for i in range(len(projections))]))


def wasserstein2(x: Tensor, y: Tensor, most: int = 1000) -> float:
    """W_2 of two sets ``[N, *E]`` and ``[M, *E]``, in the units of x: exact for the points that are used.

    Two sets of one law are not 0 apart, but about N^(−1/D) of its width: compare with what two sets of data are.

    Args:
        x, y: the sets; of each the first min(N, M, most) are used (the distances are held whole).
        most: see x.

    Raises:
        ValueError: as :func:`sliced_wasserstein`; most below 1.
    """
    from scipy.optimize import linear_sum_assignment

    a, b = _flat("x", x), _flat("y", y)
    _check_same(a, b)
    n = min(len(a), len(b), check_count("most", most))
    apart = torch.cdist(a[:n], b[:n], compute_mode="donot_use_mm_for_euclid_dist").square().numpy()
    return math.sqrt(apart[linear_sum_assignment(apart)].mean())


def mmd2(x: Tensor, y: Tensor, bandwidth: float | None = None, most: int = 2000) -> float:
    """Unbiased MMD² of two sets ``[N, *E]`` and ``[M, *E]`` under exp(−‖·‖²/2h²); no unit.

    Args:
        x, y: the sets; the first ``most`` of each are used (the kernel matrix is held whole).
        bandwidth: h; None takes the median distance of the pooled sets.
        most: see x.

    Raises:
        ValueError: fewer than two points, sets not finite or of different event shapes, h not positive.
    """
    from sklearn.metrics.pairwise import rbf_kernel

    a, b = _flat("x", x)[:most], _flat("y", y)[:most]
    _check_same(a, b)
    for name, value in (("x", a), ("y", b)):
        check_count(f"number of points in {name}", len(value), least=2)
    if bandwidth is None:
        bandwidth = float(torch.pdist(torch.cat([a, b])).median())
    gamma = 0.5 / check_positive("bandwidth", bandwidth) ** 2
    aa, bb, ab = rbf_kernel(a, gamma=gamma), rbf_kernel(b, gamma=gamma), rbf_kernel(a, b, gamma=gamma)
    n, m = len(a), len(b)
    within = (aa.sum() - n) / (n * (n - 1)) + (bb.sum() - m) / (m * (m - 1))
    return float(within - 2 * ab.mean())


def nll(world: World, x: Tensor) -> tuple[float, float]:
    """(−mean log p(x), its standard error) of points ``[N, *E]`` under a world, in nats.

    Raises:
        ValueError: fewer than two points, or points not finite.
    """
    check_count("number of points in x", len(check_finite("x", x)), least=2)
    values = -world.log_prob(x).to(torch.float64)
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def _flat(name: str, value: Tensor) -> Tensor:
    if value.ndim < 2 or value.numel() == 0:
        raise ValueError(f"{name} must have shape [N, *event] with N > 0, got {list(value.shape)}")
    return check_finite(name, value.detach().flatten(1).to("cpu", torch.float64))


def _check_same(a: Tensor, b: Tensor) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"x and y must have one event shape, got {a.shape[1]} and {b.shape[1]} numbers a datum")
