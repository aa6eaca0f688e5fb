r"""Derivatives of a field F: R^D → R^D, for a batch in which each row depends on that row alone.

    vjp  uᵀJ,   jvp  J u,   J = ∂F/∂x  [B, D, D],   ∇·F = tr J

The trace is exact by D vjps, or an estimate by K probes v with E[v vᵀ] = I (Hutchinson 1989; Skilling 1989):

    E[vᵀ J v] = tr J,     variance 2 Σ_{i<j} ((J_ij + J_ji)/√2)² for signs, more by 2 Σ_i J_ii² for normal probes,

so signs (Rademacher) are the better probe and exact where J is diagonal. The D or K vjps share one forward pass and
are one batched backward pass (``is_grads_batched``), or a loop of them where an operation of the network cannot be
batched. Nothing here touches a parameter's ``.grad``, and it works inside ``torch.no_grad``.

With ``differentiable`` the result keeps its graph, for an objective that has a derivative in it; else it is detached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from unidiff.core.boundary import (
    check_alike,
    check_count,
    check_floating,
    check_generator,
    check_name,
    check_state,
    check_type,
)

Field = Callable[[Tensor], Tensor]
Probe = Literal["rademacher", "gaussian"]
PROBES: tuple[Probe, ...] = get_args(Probe)

# Numbers in one block of cotangents: what a D×D Jacobian of images is cut into.
_BLOCK = 2**24


def draw_probes(
    count: int, like: Tensor, probe: Probe = "rademacher", generator: torch.Generator | None = None
) -> Tensor:
    """``count`` probes for a batch ``like`` ``[B, *E]``, each with E[v vᵀ] = I: ``[K, B, *E]``.

    Raises:
        TypeError: like is no floating-point tensor.
        ValueError: like is not ``[B, *E]``, count below 1, an unknown kind of probe.
    """
    check_state("like", like)
    check_count("probes", count)
    check_name("probe", probe, PROBES)
    check_generator(generator, like.device)
    options = {"generator": generator, "dtype": like.dtype, "device": like.device}
    if probe == "gaussian":
        return torch.randn(count, *like.shape, **options)
    return torch.rand(count, *like.shape, **options).lt(0.5).to(like).mul_(2).sub_(1)


def vjp(field: Field, x: Tensor, vector: Tensor, differentiable: bool = False) -> tuple[Tensor, Tensor]:
    """(F(x), uᵀJ) for u = ``vector``, both ``[B, *E]``. Raises ValueError unless x and vector are alike."""
    check_alike(x=x, vector=vector)
    value, products = vjps(field, x, vector[None], differentiable)
    return value, products[0]


def vjps(field: Field, x: Tensor, vectors: Tensor, differentiable: bool = False) -> tuple[Tensor, Tensor]:
    """(F(x) ``[B, *E]``, uᵀJ ``[K, B, *E]``) for several u, ``[K, B, *E]``, of one forward pass.

    Raises:
        ValueError: vectors are not one or more like x.
    """
    check_type("vectors", vectors, Tensor)
    check_type("x", x, Tensor)
    if vectors.ndim != x.ndim + 1 or vectors.shape[0] == 0:
        raise ValueError(f"vectors must have shape {['K', *x.shape]}, one or more, got {list(vectors.shape)}")
    check_alike(x=x, vectors=vectors[0])
    with _recording(differentiable):
        x = _leaf(x, differentiable)
        value = _evaluated(field, x)
        products = _pulled(value, x, vectors, differentiable)
    return (value, products) if differentiable else (value.detach(), products.detach())


def jvp(field: Field, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
    """(F(x), J u) for u = ``vector``, both ``[B, *E]``: forward mode, or the transpose of a vjp where that is missing.

    Raises:
        ValueError: x and vector differ in shape, dtype or device.
    """
    check_alike(x=x, vector=vector)
    _check_field(field)
    with _recording(twice=True):
        try:
            value, product = torch.func.jvp(field, (x.detach().clone(),), (vector.detach().clone(),))  # pyright: ignore
            return value.detach(), product.detach()
        # Forward mode is not written for every operation of a user's network; torch says so in either of these.
        except (NotImplementedError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
        # uᵀJ is linear in u; its own vjp in u is J.
        x = _leaf(x, False)
        value = _evaluated(field, x)
        u = torch.zeros_like(value, requires_grad=True)
        (pulled,) = torch.autograd.grad(value, x, u, create_graph=True)
        (product,) = torch.autograd.grad(pulled, u, vector)
    return value.detach(), product.detach()


def jacobian(field: Field, x: Tensor) -> tuple[Tensor, Tensor]:
    """(F(x) ``[B, *E]``, J ``[B, D, D]``), J_ij = ∂F_i/∂x_j over the flattened event; D vjps, B·D² numbers."""
    blocks: list[Tensor] = []
    with _recording():
        leaf = _leaf(x, False)
        value = _evaluated(field, leaf)
        for basis in _bases(x):
            pulled = _pulled(value, leaf, basis, False)
            blocks.append(pulled.detach().flatten(2))
    return value.detach(), torch.cat(blocks).transpose(0, 1)


def divergence(field: Field, x: Tensor, differentiable: bool = False) -> tuple[Tensor, Tensor]:
    """(F(x) ``[B, *E]``, ∇·F ``[B]``), exact: D vjps."""
    with _recording(differentiable):
        leaf = _leaf(x, differentiable)
        value = _evaluated(field, leaf)
        total = torch.zeros(x.shape[0], dtype=value.dtype, device=value.device)
        for basis in _bases(x):
            pulled = _pulled(value, leaf, basis, differentiable)
            total = total + (pulled * basis).flatten(2).sum((0, 2))
    return (value, total) if differentiable else (value.detach(), total.detach())


def probed_divergence(field: Field, x: Tensor, probes: Tensor, differentiable: bool = False) -> tuple[Tensor, Tensor]:
    """(F(x) ``[B, *E]``, vᵀJv ``[K, B]``) for ``probes`` ``[K, B, *E]``; the mean over K estimates ∇·F without bias."""
    value, pulled = vjps(field, x, probes, differentiable)
    return value, (pulled * probes).flatten(2).sum(2)


@contextmanager
def _recording(twice: bool = False) -> Iterator[None]:
    # Attention's fused kernels have no second derivative and no forward mode: what is derived twice takes the formula.
    attention = sdpa_kernel(SDPBackend.MATH) if twice else nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), attention:
        yield


def _leaf(x: Tensor, differentiable: bool) -> Tensor:
    check_floating("x", x)
    if differentiable and x.requires_grad:
        return x
    # A tensor made in inference mode cannot be recorded; a copy made outside it can.
    return x.detach().clone().requires_grad_()


def _check_field(field: object) -> None:
    if not callable(field):
        raise TypeError(f"field must be a function, got {field!r}")


def _evaluated(field: Field, x: Tensor) -> Tensor:
    _check_field(field)
    value = field(x)
    if value.shape != x.shape:
        raise ValueError(f"field must keep the shape {list(x.shape)}, got {list(value.shape)}")
    return value


def _pulled(value: Tensor, x: Tensor, vectors: Tensor, differentiable: bool) -> Tensor:
    """uᵀJ for each u of ``vectors`` ``[K, B, *E]``; a field that does not depend on x has J = 0."""
    if not value.requires_grad:
        return torch.zeros_like(vectors)
    options = {"create_graph": differentiable, "retain_graph": True, "allow_unused": True, "materialize_grads": True}
    if vectors.shape[0] > 1:
        try:
            return torch.autograd.grad(value, x, vectors, is_grads_batched=True, **options)[0]
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
    return torch.stack([torch.autograd.grad(value, x, vector, **options)[0] for vector in vectors])


def _bases(x: Tensor) -> Iterator[Tensor]:
    """The D unit cotangents in blocks ``[k, B, *E]``."""
    rows, dim = x.shape[0], x[0].numel()
    size = max(1, min(dim, _BLOCK // max(1, rows * dim)))
    for first in range(0, dim, size):
        unit = torch.zeros(min(size, dim - first), dim, dtype=x.dtype, device=x.device)
        unit[:, first : first + size].fill_diagonal_(1.0)
        yield unit[:, None].expand(-1, rows, -1).reshape(-1, *x.shape)
