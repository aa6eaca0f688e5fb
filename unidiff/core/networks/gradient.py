r"""A network that is a gradient field: F = −∇_u G of a scalar G(u, λ), so that its Jacobian is symmetric by construction.

A denoiser around it has an energy (:meth:`unidiff.Denoiser.energy`): one network gives −log q_t up to a constant, and
∇ log q_t. G comes from a network with one output, or from one that returns a state f(u, λ):

    scalar    G = f,                 one number
    inner     G = −⟨u, f⟩            F = f + J_fᵀu           (Du et al. 2023, section 4.1)
    residual  G = ½‖u − f‖²          F = (I − J_f)ᵀ(f − u)   (Saremi et al. 2018; Salimans & Ho 2021, section 2)

What is often written for the last, F = f − u, is no gradient unless J_f = 0 along it (IDENTITIES item 45). F costs a pass
forwards and one back; where gradients are wanted it is differentiable itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from unidiff.core.boundary import check_name

Form = Literal["scalar", "inner", "residual"]
FORMS: tuple[Form, ...] = get_args(Form)


class GradientField(nn.Module):
    """``network(x [B, *E], noise [B], condition [B] or None) -> [B, *E]``, minus the gradient of :meth:`potential`.

    Args:
        network: ``network(x, noise, condition)``, which returns ``[B]`` or ``[B, 1]`` for the form ``"scalar"`` and
            ``[B, *E]`` for the others. Its ``embed`` and ``body`` are used where it has them. Every row's answer must be of
            that row alone: no batch normalisation.
        form: how a scalar is made of its answer.

    Raises:
        TypeError: a network that is no module.
        ValueError: an unknown form.
    """

    def __init__(self, network: nn.Module, form: Form = "scalar") -> None:
        super().__init__()
        check_name("form", form, FORMS)
        if not isinstance(network, nn.Module):
            raise TypeError(f"network must be an nn.Module, got {type(network).__name__}")
        self.network = network
        self.form: Form = form

    def config(self) -> dict[str, Any]:
        """What :func:`unidiff.core.networks.build` needs to make it again. Raises ValueError where the network has none."""
        if not hasattr(self.network, "config"):
            raise ValueError(
                f"network must have config() to be saved, {type(self.network).__name__} has none; "
                "see unidiff.core.networks.register"
            )
        return {"kind": "gradient", "form": self.form, "network": self.network.config()}  # pyright: ignore

    def potential(
        self, x: Tensor, noise: Tensor | None, condition: Tensor | None = None, embedding: Tensor | None = None
    ) -> Tensor:
        """G at ``x`` ``[B, *E]`` and log-SNR ``[B]``, ``[B]``; or for the level's ``embedding``, where that is known."""
        known = embedding is not None
        answer = self.network.body(x, embedding, condition) if known else self.network(x, noise, condition)  # pyright: ignore
        if self.form == "scalar":
            return one_each("the network's answer", answer, x)
        if answer.shape != x.shape:
            raise ValueError(
                f"network must return shape {list(x.shape)} for the form {self.form!r}, got {list(answer.shape)}"
            )
        if self.form == "inner":
            return -(x * answer).flatten(1).sum(1)
        return 0.5 * (x - answer).flatten(1).square().sum(1)

    def body(self, x: Tensor, embedding: Tensor, condition: Tensor | None = None) -> Tensor:
        """F at ``x`` ``[B, *E]`` for an embedding ``[B, ·]`` or ``[1, ·]``."""
        return descent(lambda u: self.potential(u, None, *(recordable(v) for v in (condition, embedding))), x)

    def forward(self, x: Tensor, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """F at ``x`` ``[B, *E]`` and log-SNR ``[B]``."""
        return descent(lambda u: self.potential(u, *(recordable(v) for v in (noise, condition))), x)

    def embed(self, noise: Tensor) -> Tensor | None:
        """The network's own embedding of log-SNRs ``[K]``; None where it makes none apart from the state."""
        known = hasattr(self.network, "embed") and hasattr(self.network, "body")
        return self.network.embed(noise) if known else None  # pyright: ignore


CONSTANT = "energy must depend on x by differentiable torch operations, got a constant of x"


def descent(potential: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """−∇_x of a potential ``[B, *E] -> [B]`` row by row, differentiable where gradients are on, under ``no_grad`` too.

    Raises:
        ValueError: the potential does not depend on x, or hides how.
    """
    track = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        if not (track and x.requires_grad):
            x = recordable(x).detach().requires_grad_()
        value = potential(x)
        slope = None
        if value.requires_grad:
            seed = torch.full_like(value, -1.0, requires_grad=False)
            (slope,) = torch.autograd.grad(value, x, seed, create_graph=track, allow_unused=True)
    if slope is None:
        raise ValueError(CONSTANT)
    return slope


def recordable(value: Any) -> Any:
    """``value``; a copy of a tensor that was made in inference mode, since autograd keeps none of those.

    It is one only where it is made outside that mode, as in :func:`descent`'s potential.
    """
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def one_each(argument: str, value: Any, x: Tensor) -> Tensor:
    """``value`` if it is one real number for each row of ``x``, ``[B]`` or ``[B, 1]``; ``[B]``.

    Raises:
        ValueError: another shape.
        TypeError: integers, complex numbers, or fewer digits than ``x`` has, unless autocast took them.
    """
    rows = x.shape[0]
    if not isinstance(value, Tensor) or value.shape not in ((rows,), (rows, 1)):
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{argument} must have shape [{rows}] or [{rows}, 1], one number for each row, got {got}")
    narrow = value.dtype.itemsize < x.dtype.itemsize and not torch.is_autocast_enabled(x.device.type)
    if not value.is_floating_point() or narrow:
        raise TypeError(f"{argument} must be real and no narrower than its states, {x.dtype}, got {value.dtype}")
    return value.reshape(rows)


def build_gradient(form: Form, network: Mapping[str, Any]) -> GradientField:
    """The field of a described network: what ``config`` of a :class:`GradientField` says."""
    from unidiff.core.networks import build

    return GradientField(build(network), form)
