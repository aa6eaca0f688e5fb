r"""What is trained, made from a reference that stays as it is: a copy, a copy of low rank, or a correction.

A correction F of a frozen denoiser is

    x̂_θ = x̂_ref + σ̄² F(x_t, λ),   σ̄² = sigmoid(−λ),

so that F = 0 is the reference, and the best F is of one size at every level: for data of unit variance under a linear
reward bᵀx_0 the optimum is x̂* − x̂_ref = Var[x_0|x_t] b/β = σ̄² b/β. It needs no network in the reference, so that the
worlds' exact denoisers can be fine-tuned too.

A change of low rank is W + (α/r) B A with B = 0 at first (Hu et al. 2022, eq. 3), on every linear and convolutional layer;
W is the reference's own memory.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from unidiff.core.boundary import check_count, check_positive, check_seed, check_type, right_expand
from unidiff.core.denoiser import Denoiser, DenoiserLike
from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import Prediction


class CorrectedDenoiser(nn.Module):
    """A frozen denoiser and a network that corrects its x̂_0.

    Args:
        reference: any denoiser; its parameters are none of this module's.
        network: ``network(x [B, *E], log-SNR [B], condition [B] or None) -> [B, *E]``, zero at first if it is to begin at
            the reference; unidiff's own are.

    Attributes:
        num_classes: the reference's.
    """

    def __init__(self, reference: DenoiserLike, network: nn.Module) -> None:
        super().__init__()
        check_type("network", network, nn.Module)
        self._reference = (reference,)  # in a tuple, which keeps a module from being taken for a part of this one
        self.network = network
        self.event_shape = tuple(reference.event_shape)
        self.num_classes: int | None = getattr(reference, "num_classes", None)

    @property
    def reference(self) -> DenoiserLike:
        """What is corrected."""
        return self._reference[0]

    def forward(
        self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Prediction:
        """x̂_θ at ``xt`` ``[B, *E]``; guidance is the reference's, and the correction's condition is given as it is."""
        before = self.reference(xt, level, condition, guidance).x0
        return Prediction(xt, level, {"x0": before + self.change(xt, level, condition)}, guarded=False)

    def change(self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None) -> Tensor:
        """x̂_θ − x̂_ref = σ̄² F at ``xt``, ``[B, *E]``: the reference is not asked."""
        noise = level.log_snr.clamp(-30, 30).to(xt).expand(len(xt))
        return right_expand(torch.sigmoid(-level.log_snr), xt) * self.network(xt, noise, condition)


def corrected(core: Diffusion, network: nn.Module) -> Diffusion:
    """A core whose denoiser is ``core``'s, frozen, and a correction by ``network``. Raises TypeError for another kind."""
    check_type("core", core, Diffusion)
    return Diffusion(core.schedule, CorrectedDenoiser(core.denoiser, network))


class _LowRank(nn.Module):
    """W ↦ W + (α/r) B A, as a parametrisation of a weight ``[out, …]``."""

    def __init__(self, weight: Tensor, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        out, into = weight.shape[0], weight[0].numel()
        drawn = torch.randn((rank, into), generator=generator, dtype=weight.dtype) / into**0.5
        self.a = nn.Parameter(drawn.to(weight.device))
        self.b = nn.Parameter(weight.new_zeros(out, rank))
        self.scale = scale / rank

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.scale * self.b @ self.a).view_as(weight)


def trainable(core: Diffusion, rank: int | None = None, scale: float | None = None, seed: int = 0) -> Diffusion:
    """A copy of a network's core to be trained, in evaluation mode (dropout would be noise in the policy's density).

    Args:
        core: the reference; it is left as it is.
        rank: None trains every parameter of a copy; r ≥ 1 only a change of rank r of each linear and convolutional weight,
            on the reference's own memory.
        scale: α of the change; None for r, so that its size does not depend on the rank.
        seed: of A.

    Raises:
        TypeError, ValueError: core has no network; a rank below 1; a scale not positive, or without a rank.
    """
    check_type("core", core, Diffusion)
    check_seed(seed)
    if not isinstance(core.denoiser, Denoiser) or not isinstance(core.denoiser.network, nn.Module):
        raise ValueError(
            f"core must hold a Denoiser with a network to be trained, got {type(core.denoiser).__name__}; "
            "a closed-form denoiser can be corrected by a network (unidiff.rl.corrected)"
        )
    if rank is None:
        if scale is not None:
            raise ValueError(f"scale is for a change of low rank: give rank too, got scale = {scale}")
        own = copy.deepcopy(core).eval()
        # The reference may be frozen; and a learned schedule is the process's, not the policy's.
        own.requires_grad_(False)
        assert isinstance(own.denoiser, Denoiser)
        own.denoiser.requires_grad_(True)
        return own
    check_count("rank", rank)
    scale = float(rank) if scale is None else float(check_positive("scale", scale))
    shared = {id(p): p for p in core.parameters()}
    own = copy.deepcopy(core, dict(shared))
    generator = torch.Generator().manual_seed(seed)
    for layer in list(own.denoiser.modules()):  # pyright: ignore
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            change = _LowRank(layer.weight, rank, scale, generator)
            parametrize.register_parametrization(layer, "weight", change)
    return own.eval()


def trained_parameters(core: Diffusion, reference: Diffusion) -> list[nn.Parameter]:
    """The parameters of ``core`` that are not the reference's own memory."""
    theirs = {id(p) for p in reference.parameters()}
    return [p for p in core.parameters() if p.requires_grad and id(p) not in theirs]


def merged(core: Diffusion) -> Diffusion:
    """A copy of a core with its low-rank changes added in: plain weights, of the shapes of the reference's."""
    check_type("core", core, Diffusion)
    own = copy.deepcopy(core)
    for layer in own.modules():
        if parametrize.is_parametrized(layer, "weight"):
            # Torch takes the property off the class, which all copies of a layer share: this one gets a class of its own.
            shared = type(layer)
            own_class: Any = type(shared.__name__, shared.__bases__, dict(shared.__dict__))
            layer.__class__ = own_class
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return own
