r"""How far samples of images are from data, by what a frozen network sees in them, and whether they are copies.

- Fréchet distance of features: ‖m_x − m_y‖² + tr(C_x + C_y − 2(C_x^{1/2} C_y C_x^{1/2})^{1/2}), the squared Wasserstein-2
  distance of the Gaussians of their moments (Dowson & Landau 1982; Heusel et al. 2017, eq. 6). Two sets of one law are about
  2 tr C/n apart in their means alone: without the data's own distance beside it a figure says little.
- Precision and recall: the share of the samples within the data's manifold, and of the data within the samples'. A set's
  manifold is the balls around its points, each as wide as the way to its k-th neighbour (Kynkaanniemi et al. 2019, eq. 1–2).
- Copies: the share of samples nearer to a datum than ``factor`` times the way from that datum to its own nearest neighbour.

All in float64, where the first set is, or on the host if there is none there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_finite, check_positive, check_type

ROWS = 1024
"""Of a matrix of distances that are held at once."""


def frechet(x: Tensor, y: Tensor) -> float:
    """The Fréchet distance of two sets of features ``[N, F]`` and ``[M, F]``, in their units squared.

    Raises:
        TypeError: no tensors.
        ValueError: fewer than two points, or sets that are not finite or of different widths.
    """
    a, b = _pair("x", x, "y", y, 2)
    return gaussian_frechet(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())


def gaussian_frechet(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> float:
    """The squared Wasserstein-2 distance of two Gaussians, of means ``[F]`` and covariances ``[F, F]``; trusted."""
    mean_x, cov_x, mean_y, cov_y = (v.to("cpu", torch.float64) for v in (mean_x, cov_x, mean_y, cov_y))
    cov_x, cov_y = cov_x.reshape(len(mean_x), -1), cov_y.reshape(len(mean_y), -1)
    values, vectors = torch.linalg.eigh(cov_x)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # The eigenvalues of a covariance that is singular round to either side of zero.
    shared = torch.linalg.eigvalsh(root @ cov_y @ root).clamp(min=0).sqrt().sum()
    return max(0.0, float((mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * shared))


def precision_recall(samples: Tensor, data: Tensor, k: int = 3) -> tuple[float, float]:
    """(precision, recall) of features of ``samples`` ``[N, F]`` for those of ``data`` ``[M, F]``, each in [0, 1].

    A manifold grows with its points: sets are alike only where N = M.

    Args:
        samples, data: the sets.
        k: which neighbour's distance a ball is as wide as.

    Raises:
        TypeError: no tensors, no count.
        ValueError: k below 1, a set without k + 1 points, or sets that are not finite or of different widths.
    """
    a, b = _pair("samples", samples, "data", data, check_count("k", k) + 1)
    return _covered(a, b, k), _covered(b, a, k)


def copy_rate(samples: Tensor, data: Tensor, factor: float = 0.5) -> float:
    """The share of ``samples`` ``[N, *E]`` that are nearer to a datum than ``factor`` × that one's nearest neighbour.

    Of the data themselves it is 1, of fresh data next to none; distances are Euclidean, in units of x.

    Args:
        samples: what may be copied.
        data: from what, ``[M, *E]``, M ≥ 2.
        factor: how near is a copy, beside the way to the datum's nearest neighbour.

    Raises:
        TypeError: no tensors, no number.
        ValueError: a factor that is not positive, no samples, fewer than two data, or sets that are not finite or of
            different shapes.
    """
    check_positive("factor", factor)
    a, b = _pair("samples", samples, "data", data, 1)
    check_count("number of points in data", len(b), 2)
    near, which = _nearest(a, b, 1)
    # Only of the data that are some sample's nearest: the others' neighbours are not asked for.
    asked, place = which[:, 0].unique(return_inverse=True)
    own = _nearest(b[asked], b, 2)[0][:, 1]
    return float((near[:, 0] < factor * own[place]).double().mean())


def _covered(points: Tensor, others: Tensor, k: int) -> float:
    """The share of ``points`` in the manifold of ``others``."""
    widths = _nearest(others, others, k + 1)[0][:, k]
    inside = [(_distances(part, others) <= widths).any(1) for part in points.split(ROWS)]
    return float(torch.cat(inside).double().mean())


def _nearest(points: Tensor, others: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances to the nearest of ``others``, and which, ``[N, count]``, nearest first; a set's first is itself."""
    found = [_distances(part, others).topk(count, largest=False) for part in points.split(ROWS)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def _distances(points: Tensor, others: Tensor) -> Tensor:
    # By differences: a product's rounding would put a point at a distance from itself.
    return torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")


def _pair(name_x: str, x: Tensor, name_y: str, y: Tensor, least: int) -> tuple[Tensor, Tensor]:
    flat: list[Tensor] = []
    for name, value in ((name_x, x), (name_y, y)):
        check_type(name, value, Tensor)
    place = x.device if x.device.type in ("cpu", "cuda") else torch.device("cpu")
    for name, value in ((name_x, x), (name_y, y)):
        if value.ndim < 2 or not value[:1].numel():
            raise ValueError(f"{name} must have shape [N, *event] with N > 0, got {list(value.shape)}")
        check_count(f"number of points in {name}", len(value), least)
        flat.append(check_finite(name, value.detach().flatten(1).to(place, torch.float64)))
    if flat[0].shape[1] != flat[1].shape[1]:
        widths = [v.shape[1] for v in flat]
        raise ValueError(f"{name_x} and {name_y} must have one event shape, got {widths[0]} and {widths[1]} numbers")
    return flat[0], flat[1]
