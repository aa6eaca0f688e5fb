r"""Rewards as they are written on the command line: weighted terms, joined by plus signs.

linear:1,0            bᵀx                          quadratic:1,0,0,2     −½ xᵀA x, A row by row (or its diagonal alone)
class:3               log p(3|x), by a classifier  model:PATH            a reward model's head
0.5*linear:1,0+class:3
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unidiff.core.boundary import check_name

if TYPE_CHECKING:
    from torch import Tensor

    from unidiff.rl.mdp import Reward

KINDS = ("linear", "quadratic", "class", "model")
# A plus sign before a term; not that of a number's exponent, nor one within a path.
_JOIN = re.compile(r"(?<!\d[eE])\+(?=\s*(?:[^*:+]*\*)?\s*[a-z-]+:)")


@dataclass(frozen=True)
class Bench:
    """What rewards are made for and with.

    Attributes:
        event_shape: of a datum.
        classifier: a head's file, or None.
        device: where heads are to be.
    """

    event_shape: tuple[int, ...]
    classifier: Path | None = None
    device: str = "cpu"


def made(text: str, bench: Bench) -> Reward:
    """The reward that ``text`` describes. Raises ValueError in one line that says what was read and what was expected."""
    from unidiff.rl import WeightedSum

    terms = [_term(part, bench) for part in _JOIN.split(text)]
    if bench.classifier is not None and not any("class:" in part for part in _JOIN.split(text)):
        raise ValueError(f"classifier is for a reward class:LABEL, got {str(bench.classifier)!r} with reward {text!r}")
    return terms[0][1] if len(terms) == 1 and terms[0][0] == 1.0 else WeightedSum(terms)


def _term(text: str, bench: Bench) -> tuple[float, Reward]:
    kind, colon, argument = text.partition(":")
    factor, star, name = kind.rpartition("*")
    name = name.strip()
    if not colon or not argument.strip():
        raise ValueError(f"reward must be terms such as linear:1,0 or 0.5*class:3, joined by +, got {text!r}")
    weight = _number("reward's weight", factor, text) if star else 1.0
    makers: dict[str, Callable[[str, Bench], Any]] = {
        "linear": _linear, "quadratic": _quadratic, "class": _class, "model": _model,
    }  # fmt: skip
    return weight, makers[check_name("reward", name, KINDS)](argument.strip(), bench)


def _linear(text: str, bench: Bench) -> Reward:
    from unidiff.worlds.rewards import Linear

    return Linear(_numbers("linear", text, {math.prod(bench.event_shape)}))


def _quadratic(text: str, bench: Bench) -> Reward:
    from unidiff.worlds.rewards import Quadratic

    dim = math.prod(bench.event_shape)
    found = _numbers("quadratic", text, {dim, dim**2})
    return Quadratic(found.diag() if len(found) == dim else found.view(dim, dim))


def _class(text: str, bench: Bench) -> Reward:
    from unidiff.rl import Classifier, ClassLogProb

    if bench.classifier is None:
        raise ValueError(
            "classifier must be given for a reward class:LABEL: a head that `unidiff reward --labels` made"
        )
    head = _head("classifier", bench.classifier, Classifier, bench)
    try:
        label = int(text)
    except ValueError:
        raise ValueError(f"reward class:LABEL needs an integer, got {text!r}") from None
    if not 0 <= label < head.num_classes:
        raise ValueError(
            f"reward class:LABEL must be in 0 … {head.num_classes - 1}, the classifier's classes, got {text}"
        )
    return ClassLogProb(head, label)


def _model(text: str, bench: Bench) -> Reward:
    from unidiff.rl import RewardModel

    return _head("reward model:PATH", Path(text), RewardModel, bench)


def _head(argument: str, path: Path, kind: type, bench: Bench) -> Any:
    from unidiff.train import load_head

    head = load_head(path, bench.device)
    if not isinstance(head, kind):
        raise ValueError(f"{argument} must be a {kind.__name__}, {path} holds a {type(head).__name__}")
    if head.trunk.event_shape != bench.event_shape:
        flat = len(bench.event_shape) == 1 and math.prod(head.trunk.event_shape) == bench.event_shape[0]
        cure = "; `unidiff reward --flat` fits one to vectors" if flat else ""
        raise ValueError(
            f"{argument} must be of data of shape {list(bench.event_shape)}, {path} is of "
            f"{list(head.trunk.event_shape)}{cure}"
        )
    return head


def _numbers(name: str, text: str, counts: set[int]) -> Tensor:
    import torch

    found = [_number(f"reward {name}", part, text) for part in text.split(",")]
    if len(found) not in counts:
        wanted = " or ".join(str(n) for n in sorted(counts))
        raise ValueError(f"reward {name} must have {wanted} numbers, as the data have, got {len(found)}: {text!r}")
    return torch.tensor(found, dtype=torch.float64)


def _number(name: str, text: str, whole: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{name} must be of finite numbers, got {text.strip()!r} in {whole!r}")
    return found
