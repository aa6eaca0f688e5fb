r"""A U-Net for images (Ho et al. 2020, appendix B; blocks as in Dhariwal & Nichol 2021).

Levels halve the side; each holds residual blocks x + conv(silu(FiLM(norm(conv(silu(norm x)))))), with

    FiLM(h) = (1 + a) h + b,   (a, b) = f(λ) + g(class),

and self-attention over the pixels at chosen resolutions. All the (a, b) are one vector, a function of λ alone plus a
row of the class table, so a sampler makes them once for all of its levels (``embed``). The last convolution of each
block and of the network start at zero: at the start each block is the identity and F = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unidiff.core.boundary import check_count
from unidiff.core.networks.embedding import NoiseFeatures

_HEAD = 64


class UNet(nn.Module):
    """``network(x [B, C, S, S], noise [B], condition [B] or None) -> [B, C, S, S]``, 2C with a learned variance.

    Args:
        channels: C of the image.
        image_size: S; must be divisible by 2^(levels − 1).
        width: channels at full resolution.
        multipliers: the channels of each level in units of ``width``; as many levels as entries.
        blocks: residual blocks at each level on the way down (one more on the way up).
        attention: the resolutions at which blocks are followed by attention; 28×28 has levels at 28, 14, 7.
        num_classes: for class conditioning; the class ``num_classes`` is the null one.
        dropout: inside the residual blocks, from torch's default generator.
        learned_variance: whether a second C channels hold the variance fraction.
        fourier_features: append sin and cos of 2π·2⁶ x and 2π·2⁷ x to the input, for likelihoods (Kingma et al. 2021,
            appendix C); meant for inputs in [−1, 1] without preconditioning.

    Raises:
        ValueError: a count below 1, a size that does not halve often enough, an attention resolution that no level
            has, dropout outside [0, 1).
    """

    def __init__(
        self,
        channels: int,
        image_size: int,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (14, 7),
        num_classes: int | None = None,
        dropout: float = 0.0,
        learned_variance: bool = False,
        fourier_features: bool = False,
    ) -> None:
        super().__init__()
        _check(channels, image_size, width, multipliers, blocks, attention, dropout)
        self._config = {
            "kind": "unet", "channels": channels, "image_size": image_size, "width": width,
            "multipliers": list(multipliers), "blocks": blocks, "attention": list(attention),
            "num_classes": num_classes, "dropout": dropout, "learned_variance": learned_variance,
            "fourier_features": fourier_features,
        }  # fmt: skip
        self.fourier_features = fourier_features
        sides = [image_size >> i for i in range(len(multipliers))]
        wide = [width * m for m in multipliers]
        self.enter = nn.Conv2d(channels * (5 if fourier_features else 1), wide[0], 3, padding=1)
        stack, now = [wide[0]], wide[0]
        self.down = nn.ModuleList()
        for i, (side, out) in enumerate(zip(sides, wide, strict=True)):
            for _ in range(blocks):
                self.down.append(_Block(now, out, dropout, side in attention))
                stack.append(now := out)
            if i + 1 < len(sides):
                self.down.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
                stack.append(now)
        self.middle = nn.ModuleList([_Block(now, now, dropout, True), _Block(now, now, dropout, False)])
        self.up = nn.ModuleList()
        for i, (side, out) in reversed(list(enumerate(zip(sides, wide, strict=True)))):
            for _ in range(blocks + 1):
                self.up.append(_Block(now + stack.pop(), out, dropout, side in attention))
                now = out
            if i > 0:
                self.up.append(nn.Sequential(nn.Upsample(scale_factor=2.0), nn.Conv2d(now, now, 3, padding=1)))
        self.norm = _norm(now)
        self.leave = _zero(nn.Conv2d(now, channels * (2 if learned_variance else 1), 3, padding=1))
        self.films = [b.film for b in self._blocks()]
        features, hidden = NoiseFeatures(), 4 * width
        self.noise = nn.Sequential(
            features, nn.Linear(features.width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, sum(self.films)),
        )  # fmt: skip
        self.classes = None
        if num_classes is not None:
            self.classes = nn.Embedding(check_count("num_classes", num_classes) + 1, sum(self.films))
            nn.init.normal_(self.classes.weight, std=hidden**-0.5)

    def config(self) -> dict[str, Any]:
        """What :func:`unidiff.core.networks.build` needs to make it again."""
        return dict(self._config)

    def embed(self, noise: Tensor) -> Tensor:
        """The FiLM parameters f(λ) of all the blocks, ``[K, ·]``, for log-SNRs ``[K]``."""
        return self.noise(noise)

    def body(self, x: Tensor, embedding: Tensor, condition: Tensor | None = None) -> Tensor:
        """F at ``x`` ``[B, C, S, S]`` for an embedding ``[B, ·]`` or ``[1, ·]``."""
        if self.classes is not None and condition is not None:
            embedding = embedding + self.classes(condition)
        films = iter(embedding.split(self.films, dim=1))
        h = self.enter(_fourier(x) if self.fourier_features else x)
        skips = [h]
        for module in self.down:
            h = module(h, next(films)) if isinstance(module, _Block) else module(h)
            skips.append(h)
        for module in self.middle:
            h = module(h, next(films))
        for module in self.up:
            h = module(torch.cat([h, skips.pop()], 1), next(films)) if isinstance(module, _Block) else module(h)
        return self.leave(F.silu(self.norm(h)))

    def forward(self, x: Tensor, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """F at ``x`` ``[B, C, S, S]`` and log-SNR ``[B]``."""
        return self.body(x, self.embed(noise), condition)

    def _blocks(self) -> list[_Block]:
        return [m for part in (self.down, self.middle, self.up) for m in part if isinstance(m, _Block)]


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, dropout: float, attends: bool) -> None:
        super().__init__()
        self.film = 2 * outside
        self.norm_in, self.conv_in = _norm(inside), nn.Conv2d(inside, outside, 3, padding=1)
        self.norm_out, self.conv_out = _norm(outside), _zero(nn.Conv2d(outside, outside, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1)
        self.attention = _Attention(outside) if attends else nn.Identity()

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        scale, shift = film[:, :, None, None].chunk(2, dim=1)
        h = self.conv_in(F.silu(self.norm_in(x)))
        h = torch.addcmul(shift, self.norm_out(h), 1 + scale)
        h = self.conv_out(self.dropout(F.silu(h)))
        return self.attention(self.skip(x) + h)


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // _HEAD) if channels % _HEAD == 0 else 1
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *side = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, channels // self.heads, -1)
        q, k, v = qkv.transpose(-1, -2).unbind(1)
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.project(h.transpose(-1, -2).reshape(batch, channels, *side))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, channels), channels)


def _zero(module: nn.Conv2d) -> nn.Conv2d:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def _fourier(x: Tensor) -> Tensor:
    angles = torch.cat([2 * math.pi * 2.0**6 * x, 2 * math.pi * 2.0**7 * x], dim=1)
    return torch.cat([x, angles.sin(), angles.cos()], dim=1)


def _check(
    channels: int,
    size: int,
    width: int,
    multipliers: Sequence[int],
    blocks: int,
    attention: Sequence[int],
    dropout: float,
) -> None:
    for name, value in (("channels", channels), ("image_size", size), ("width", width), ("blocks", blocks)):
        check_count(name, value)
    if not multipliers:
        raise ValueError("multipliers must hold at least one level, got none")
    for multiplier in multipliers:
        check_count("multipliers", multiplier)
    halvings = len(multipliers) - 1
    if size % 2**halvings:
        raise ValueError(f"image_size must be divisible by {2**halvings} for {halvings + 1} levels, got {size}")
    sides = [size >> i for i in range(len(multipliers))]
    missing = sorted(set(attention) - set(sides))
    if missing:
        raise ValueError(f"attention must be among the levels' resolutions {sides}, got {missing}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
