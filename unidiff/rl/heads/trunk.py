r"""The network of a reward model and of a classifier: data in, a few numbers out, no time.

    flat data        h_1 = silu(A_1 x + c_1),   h_i = silu(A_i h_{i−1} + c_i),   F = A_out h_n + c_out
    images [C, S, S] the same with 3×3 convolutions, each but the first halving the side and doubling the channels

The last layer starts at zero, so F = 0: a reward without preferences, a classifier without an opinion. SiLU has all its
derivatives, which a gradient through the reward needs.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unidiff.core.boundary import check_count, check_state, check_type


class Trunk(nn.Module):
    """``trunk(x [B, *E]) -> [B, outputs]``; x is trusted, as inside a training loop.

    Args:
        event_shape: ``(D,)``, or ``(C, S, S)`` of square images.
        outputs: how many numbers.
        width: units of a hidden layer; channels of the first convolution.
        depth: how many hidden layers.

    Raises:
        ValueError: another event shape, a count below 1, images too small to halve depth − 1 times.
    """

    def __init__(self, event_shape: Sequence[int], outputs: int, width: int, depth: int) -> None:
        super().__init__()
        for name, value in (("outputs", outputs), ("width", width), ("depth", depth)):
            check_count(name, value)
        self.event_shape = _check_event(event_shape, depth)
        images = len(self.event_shape) == 3
        hidden, features = (_convolutions if images else _perceptron)(self.event_shape, width, depth)
        last = nn.Linear(features, outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.hidden, self.last = nn.Sequential(*hidden), last

    def forward(self, x: Tensor) -> Tensor:
        """F at ``x`` ``[B, *E]`` of the parameters' dtype."""
        return self.last(self.hidden(x))

    def features(self, x: Tensor) -> Tensor:
        """What the last layer is told of ``x``, ``[B, F]``, in the parameters' dtype; of an image, the mean over its places.

        Raises as :meth:`answer`.
        """
        x = self._checked(x)
        if len(self.event_shape) == 1:
            return self.hidden(x)
        return self.hidden[:-1](x).flatten(2).mean(2)

    def answer(self, x: Tensor) -> Tensor:
        """F at ``x`` ``[B, *E]`` of any floating dtype, in that dtype.

        Raises:
            TypeError: x is no floating-point tensor.
            ValueError: x of another shape, not finite (looked at on the CPU only), or on another device.
        """
        return self(self._checked(x)).to(x.dtype)

    def _checked(self, x: Tensor) -> Tensor:
        check_state("x", x, self.event_shape)
        parameter = self.last.bias
        if x.device != parameter.device:
            raise ValueError(f"x must be on {parameter.device}, where the network is, got {x.device}")
        return x.to(parameter.dtype)


def _perceptron(event_shape: tuple[int, ...], width: int, depth: int) -> tuple[list[nn.Module], int]:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(width if i else event_shape[0], width), nn.SiLU()]
    return layers, width


def _convolutions(event_shape: tuple[int, ...], width: int, depth: int) -> tuple[list[nn.Module], int]:
    channels, side, _ = event_shape
    layers: list[nn.Module] = []
    for i in range(depth):
        out = width << i
        layers += [nn.Conv2d(channels, out, 3, stride=2 if i else 1, padding=1), nn.SiLU()]
        channels, side = out, (side + 1) // 2 if i else side
    return [*layers, nn.Flatten()], channels * side**2


def _check_event(event_shape: Sequence[int], depth: int) -> tuple[int, ...]:
    check_type("event_shape", event_shape, Sequence)
    shape = tuple(event_shape)
    for size in shape:
        check_count("event_shape", size)
    if len(shape) not in (1, 3) or (len(shape) == 3 and shape[1] != shape[2]):
        raise ValueError(f"event_shape must be (D,) or (C, S, S), got {shape}; flatten other data")
    if len(shape) == 3 and shape[1] < 2 ** (depth - 1):
        raise ValueError(f"depth must be at most {shape[1].bit_length()} for images of side {shape[1]}, got {depth}")
    return shape
