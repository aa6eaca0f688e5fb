r"""The Runge–Kutta methods against the theory of their coefficients: a condition Φ(t) = 1/γ(t) for each rooted tree t."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register
from unidiff.score.ode import TABLEAUS, Tableau
from unidiff.worlds import Gaussian

Tree = tuple["Tree", ...]
"""A rooted tree is the tuple of its branches; a leaf is ()."""


def trees(size: int) -> set[Tree]:
    """The rooted trees of ``size`` nodes: a smaller one with a leaf added at any node."""
    if size == 1:
        return {()}
    return {grown for tree in trees(size - 1) for grown in _grown(tree)}


def _grown(tree: Tree) -> Iterable[Tree]:
    yield tuple(sorted((*tree, ())))
    for k, branch in enumerate(tree):
        for other in _grown(branch):
            yield tuple(sorted((*tree[:k], other, *tree[k + 1 :])))


def nodes(tree: Tree) -> int:
    """|t|."""
    return 1 + sum(nodes(branch) for branch in tree)


def density(tree: Tree) -> int:
    """γ(t): the number of nodes times the branches' densities."""
    out = nodes(tree)
    for branch in tree:
        out *= density(branch)
    return out


def stage_weight(a: Tensor, tree: Tree) -> Tensor:
    """∏ over the branches of Σ_j a_ij Φ_j(branch), ``[stages]``; 1 for a leaf."""
    out = torch.ones_like(a[0])
    for branch in tree:
        out = out * (a @ stage_weight(a, branch))
    return out


@register
class OrderConditions(Algebraic):
    """Of every method up to its order, and of the lower-order solution that its error is taken against, up to one less.

    Heun's is Euler's own. κ: the terms' absolute sum, a's own rows included, and 1.
    """

    name = "order-conditions"
    statement = (
        r"\sum_i b_i\Phi_i(t)=\frac{1}{\gamma(t)},\ \vert t\vert\leq p;\quad "
        r"\sum_i(b_i-e_i)\Phi_i(t)=\frac{1}{\gamma(t)},\ \vert t\vert\leq p-1;\quad \sum_ja_{ij}=c_i"
    )
    views = ("score",)
    source = "Butcher 2016, theorem 315A; Dormand & Prince 1980, table 2"
    conditions = "float64; once, for they know of no schedule"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and case.schedule_name == "sigmoid" and case.dtype == torch.float64

    def sides(self, case: Case) -> Iterable[Sides]:
        for tableau in TABLEAUS.values():
            a, b, c = _matrix(tableau), _row(tableau.b), _row(tableau.c)
            yield Sides(1 + a.sum(1), 1 + c, 1 + a.abs().sum(1))
            yield from _conditions(a, b, tableau.order)
            if tableau.e is not None:
                yield from _conditions(a, b - _row(tableau.e), tableau.order - 1)
        heun, euler = TABLEAUS["heun"], TABLEAUS["euler"]
        assert heun.e is not None
        yield Sides(_row(heun.b) - _row(heun.e), _row((*euler.b, 0.0)), _row((1.0, 1.0)))


def _row(weights: tuple[float, ...]) -> Tensor:
    return torch.tensor(weights, dtype=torch.float64)


def _matrix(tableau: Tableau) -> Tensor:
    stages = len(tableau.c)
    return torch.tensor([[*row, *[0.0] * (stages - len(row))] for row in tableau.a], dtype=torch.float64)


def _conditions(a: Tensor, b: Tensor, order: int) -> Iterable[Sides]:
    for size in range(1, order + 1):
        for tree in trees(size):
            weight, most = stage_weight(a, tree), stage_weight(a.abs(), tree)
            yield Sides(b @ weight, torch.tensor(1 / density(tree), dtype=torch.float64), 1 + b.abs() @ most)
