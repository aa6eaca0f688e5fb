r"""A classifier of clean data, p(y|x_0): what a reward log p(y|x_0) and classifier guidance start from.

    min −E log p(y|x_0),   p(·|x_0) = softmax(logits(x_0))

It knows no noise: of a noisy x_t it says nothing that can be trusted (Dhariwal & Nichol 2021, section 4.1, train another).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from unidiff.core.boundary import check_count, check_type
from unidiff.rl.heads.data import check_data, check_labels
from unidiff.rl.heads.fitting import Fit, FitConfig, OnStep, fit
from unidiff.rl.heads.trunk import Trunk


class Classifier(nn.Module):
    """``classifier(x0 [B, *E]) -> logits [B, C]``, in x0's dtype.

    Args:
        event_shape: ``(D,)``, or ``(C, S, S)`` of square images.
        num_classes: C ≥ 2.
        width: units of a hidden layer; channels of the first convolution.
        depth: how many hidden layers.

    Raises:
        ValueError: another event shape, a count too small, images too small to halve depth − 1 times.
    """

    def __init__(self, event_shape: Sequence[int], num_classes: int, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.num_classes = check_count("num_classes", num_classes, least=2)
        self.trunk = Trunk(event_shape, num_classes, width, depth)
        self._config = {
            "event_shape": list(self.trunk.event_shape), "num_classes": num_classes, "width": width, "depth": depth,
        }  # fmt: skip

    def config(self) -> dict[str, Any]:
        """JSON-ready; ``Classifier(**config)`` makes it again, with new parameters."""
        return dict(self._config)

    def forward(self, x: Tensor) -> Tensor:
        """Logits at ``x`` ``[B, *E]``, ``[B, C]``; their softmax is p(y|x).

        Raises:
            TypeError: x is no floating-point tensor.
            ValueError: x of another shape, not finite (looked at on the CPU only), or on another device.
        """
        return self.trunk.answer(x)

    def features(self, x: Tensor) -> Tensor:
        """What its last layer is told of ``x`` ``[B, *E]``, ``[B, F]``; of an image, the mean over its places.

        Raises as the call.
        """
        return self.trunk.features(x)


def fit_classifier(
    x: Tensor,
    labels: Tensor,
    config: FitConfig | None = None,
    on_step: OnStep | None = None,
    num_classes: int | None = None,
) -> Fit[Classifier]:
    """The classifier that makes the labels likely, in the dtype of the data.

    Args:
        x: ``[N, *E]``, float32 or float64, N ≥ 2.
        labels: ``[N]`` integers in 0 … C − 1.
        config: how; None for the defaults.
        on_step: told ``(done, all)`` after each step.
        num_classes: C; None for one more than the greatest label.

    Raises:
        TypeError: data or labels of another kind, no configuration, an on_step that cannot be called.
        ValueError: labels that are not one for each datum or not in 0 … C − 1, C below 2, too few data to hold any out,
            data that are not finite, or neither flat nor square images.
        FloatingPointError: the held-out loss is not finite.
    """
    config = FitConfig() if config is None else config
    check_type("config", config, FitConfig)
    check_data("x", x)
    labels = check_labels("labels", labels, x, num_classes)
    classes = int(labels.max()) + 1 if num_classes is None else num_classes

    def make() -> Classifier:
        return Classifier(x.shape[1:], classes, config.width, config.depth).to(x.dtype)

    return fit(make, _judge, (x, labels), config, on_step)[0]


def _judge(classifier: Classifier, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = classifier.trunk(x)
    return F.cross_entropy(logits, labels, reduction="none"), (logits.argmax(1) == labels).to(logits.dtype)
