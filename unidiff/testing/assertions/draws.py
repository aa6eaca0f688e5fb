r"""The Monte Carlo law for a user's draws: a z-test with its false-alarm rate and its power.

With n draws of standard error e, a mean that is off by more than z e fails, where a family of ``family`` such scores raises
a false alarm with probability below ``false_alarm`` (Bonferroni; by the normal law, so that n is at least 100). A mean that
is off by (z + 3.09) e is caught with probability 0.999: where that is more than the stated bound, the verdict is
inconclusive and never a pass. For distribution functions the same two numbers come from the Dvoretzky–Kiefer–Wolfowitz
inequality, P(sup |F_n − F| > d) ≤ 2 e^{−2nd²} (Massart 1990), at every n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_positive
from unidiff.core.gaussian import Gaussian
from unidiff.identities.laws import FAMILY_ALARM, MISS, MOST_SCORES, Means, judge_means, z_limit, z_power
from unidiff.testing.assertions.verdicts import Inconclusive, as_tensor, place
from unidiff.worlds.world import World

LEAST_DRAWS = 100
"""Fewer draws than these have no standard error to divide by."""


def assert_mean_within(
    samples: Any,
    expected: Any,
    *,
    bound: float = 0.1,
    scale: Any = None,
    false_alarm: float = FAMILY_ALARM,
    family: int = MOST_SCORES,
) -> None:
    """The mean of independent draws is ``expected``.

    Args:
        samples: ``[n, *E]``, n at least 100, with a finite variance.
        expected: the mean, ``[*E]`` or what broadcasts to it, in the units of the samples.
        bound: the smallest violation that must be caught with probability 0.999, in units of ``scale``.
        scale: the size of what is compared, as ``expected``; None for the samples' own standard deviation.
        false_alarm: the probability that true means, ``family`` of them in all, raise any alarm.
        family: how many scores share the false alarm, those of this call (one for each entry of E) among them.

    Raises:
        AssertionError: a mean that is off; it names the worst entry.
        Inconclusive: too few draws: a violation of the bound might have been missed.
        TypeError, ValueError: no numbers, fewer than 100 draws, NaN, or a rate or bound that is none.
    """
    __tracebackhide__ = True
    x = _draws(samples)
    mean = _like("expected", expected, x)
    size = x.to(torch.float64).std(0) if scale is None else _like("scale", scale, x)
    limit = _limit(x[0].numel(), bound, false_alarm, family)
    _judge("mean", x.to(torch.float64) - mean, mean, size, x.dtype, bound, limit)


def assert_variance_within(
    samples: Any,
    expected: Any,
    *,
    mean: Any = None,
    bound: float = 0.2,
    false_alarm: float = FAMILY_ALARM,
    family: int = MOST_SCORES,
) -> None:
    """The variance of independent draws is ``expected``, entry by entry.

    Args:
        samples: ``[n, *E]``, n at least 100, with a finite fourth moment.
        expected: the variance, ``[*E]`` or what broadcasts to it, in x² units.
        mean: the mean if it is known; else the samples' own, with n/(n − 1).
        bound: the smallest relative violation that must be caught with probability 0.999.
        false_alarm, family: as in :func:`assert_mean_within`.

    Raises:
        AssertionError, Inconclusive, TypeError, ValueError: as :func:`assert_mean_within`.
    """
    __tracebackhide__ = True
    x = _draws(samples)
    var, wide = _like("expected", expected, x), x.to(torch.float64)
    if bool((var < 0).any()):
        raise ValueError(f"expected must be at least 0, a variance, got {float(var.min())}")
    centre = wide.mean(0) if mean is None else _like("mean", mean, x)
    square = (wide - centre).square() * (len(x) / (len(x) - 1) if mean is None else 1.0)
    limit = _limit(x[0].numel(), bound, false_alarm, family)
    _judge("variance", square - var, var, var, x.dtype, bound, limit)


def assert_samples_from(
    samples: Any,
    law: World | Gaussian | Callable[[Tensor], Tensor],
    *,
    bound: float = 0.2,
    false_alarm: float = FAMILY_ALARM,
    family: int = MOST_SCORES,
) -> None:
    """Independent draws are of ``law``, as far as is asked.

    Args:
        samples: ``[n, *E]``, n at least 100.
        law: a world, whose mean and whole covariance are compared; a :class:`unidiff.Gaussian` of one row or of n, or a
            distribution function ``[n, *E] -> [n, *E]`` of each entry by itself, which are compared with the samples'
            entry by entry (not the entries' dependence).
        bound: the smallest violation that must be caught with probability 0.999: of the moments in units of σ_i and
            σ_i σ_j, of distribution functions as their largest distance.
        false_alarm, family: as in :func:`assert_mean_within`.

    Raises:
        AssertionError, Inconclusive, TypeError, ValueError: as :func:`assert_mean_within`; a batch of worlds, a point mass.
    """
    __tracebackhide__ = True
    x = _draws(samples)
    if isinstance(law, World):
        _assert_moments(x, law, bound, false_alarm, family)
    elif isinstance(law, Gaussian):
        _assert_distribution(x, _standard(x, law), bound, false_alarm, family)
    elif callable(law):
        _assert_distribution(x, as_tensor("law's answer", law(x)), bound, false_alarm, family)
    else:
        raise TypeError(f"law must be a world, a Gaussian or a distribution function, got {type(law).__name__}")


def _assert_moments(x: Tensor, world: World, bound: float, false_alarm: float, family: int) -> None:
    __tracebackhide__ = True
    if world.batch is not None or tuple(x.shape[1:]) != tuple(world.event_shape):
        raise ValueError(
            f"law must be one world of the samples' shape {list(x.shape[1:])}, got {list(world.event_shape)}"
            + ("" if world.batch is None else f" and a batch of {world.batch}")
        )
    wide = x.to("cpu", torch.float64).flatten(1)
    mean, covariance = (v.detach().to("cpu", torch.float64) for v in (world.mean.flatten(), world.covariance))
    std = covariance.diagonal().sqrt()
    limit = _limit(len(std) * (len(std) + 1), bound, false_alarm, family)
    _judge("mean", wide - mean, mean, std, x.dtype, bound, limit)
    products = (wide - mean)[:, :, None] * (wide - mean)[:, None, :]
    _judge("covariance", products - covariance, covariance, std[:, None] * std, x.dtype, bound, limit)


def _assert_distribution(x: Tensor, u: Tensor, bound: float, false_alarm: float, family: int) -> None:
    __tracebackhide__ = True
    if u.shape != x.shape or not bool(((u >= 0) & (u <= 1)).all()):
        raise ValueError(f"law must map samples to probabilities {list(x.shape)} in [0, 1], got shape {list(u.shape)}")
    _limit(x[0].numel(), bound, false_alarm, family)
    n = len(x)
    allowed = math.sqrt(math.log(2 * family / false_alarm) / (2 * n))
    caught = allowed + math.sqrt(-math.log(MISS) / (2 * n))
    ordered = u.to("cpu", torch.float64).flatten(1).sort(0).values
    steps = torch.arange(n + 1, dtype=torch.float64)[:, None] / n
    distance = torch.maximum(steps[1:] - ordered, ordered - steps[:-1]).amax(0)
    worst = int(distance.argmax())
    if float(distance[worst]) > allowed:
        raise AssertionError(
            f"distribution{place(worst, x.shape[1:])}: the distribution functions are {float(distance[worst]):.3g} apart; "
            f"allowed {allowed:.3g} for {n} draws (Dvoretzky–Kiefer–Wolfowitz)"
        )
    if caught > bound:
        raise Inconclusive(
            f"distribution: a distance of {caught:.3g} would have been caught (bound {bound:.3g}), by {n} draws; "
            f"{math.ceil(n * (caught / bound) ** 2)} would do"
        )


def _standard(x: Tensor, law: Gaussian) -> Tensor:
    if law.mean.shape[1:] != x.shape[1:] or law.mean.shape[0] not in (1, len(x)):
        raise ValueError(f"law must have the samples' shape {list(x.shape)}, or one row, got {list(law.mean.shape)}")
    if bool(torch.isneginf(law.log_var).any()):
        raise ValueError("law must have a density, got a point mass (log_var = -inf)")
    wide = Gaussian(*(v.detach().to(x.device, torch.float64) for v in (law.mean, law.log_var)))
    return torch.special.ndtr((x.to(torch.float64) - wide.mean) / wide.std)


def _judge(
    what: str, difference: Tensor, expected: Tensor, size: Tensor, dtype: torch.dtype, bound: float, limit: float
) -> None:
    __tracebackhide__ = True
    shape, n = difference.shape[1:], difference.shape[0]
    size = size.expand(shape)
    found = judge_means(difference, size, dtype, bound, limit)
    if found.verdict == "pass":
        return
    means = Means.of(difference, size, dtype, limit)
    if found.verdict == "fail":
        worst = int(means.score.nan_to_num(torch.inf, torch.inf).argmax())
        due = float(expected.expand(shape).flatten()[worst])
        off = float(means.mean[worst])
        allowed = float(limit * means.error[worst] + means.floor[worst])
        raise AssertionError(
            f"{what}{place(worst, shape)}: got {due + off:.6g}, expected {due:.6g}, off by {abs(off):.3g}; allowed "
            f"{allowed:.3g}, {limit:.2f} standard errors of {n} draws (Monte Carlo law)"
        )
    worst = int(means.caught.argmax())
    size_here, error = float(size.flatten()[worst]), float(means.error[worst])
    need = f"; {math.ceil(n * (z_power(limit) * error / (bound * size_here)) ** 2)} would do" if size_here > 0 else ""
    raise Inconclusive(f"{what}{place(worst, shape)}: {found.detail}, by {n} draws{need} (Monte Carlo law)")


def _limit(scores: int, bound: float, false_alarm: float, family: int) -> float:
    check_positive("bound", bound)
    if not 0 < check_positive("false_alarm", false_alarm) < 1:
        raise ValueError(f"false_alarm must lie in (0, 1), got {false_alarm}")
    if check_count("family", family) < scores:
        raise ValueError(f"family must be at least {scores}, the scores of this call, got {family}")
    return z_limit(false_alarm, family)


def _draws(samples: Any) -> Tensor:
    x = as_tensor("samples", samples)
    if x.ndim == 0 or len(x) < LEAST_DRAWS:
        raise ValueError(f"samples must hold at least {LEAST_DRAWS} draws [n, *E], got shape {list(x.shape)}")
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        raise ValueError(f"samples must be finite; {bad} of {x.numel()} values are NaN or infinite")
    return x


def _like(argument: str, value: Any, x: Tensor) -> Tensor:
    """``value`` as one datum of ``x``, float64, on its device."""
    found = as_tensor(argument, value).to(x.device, torch.float64)
    try:
        return found.expand(x.shape[1:])
    except RuntimeError:
        raise ValueError(f"{argument} must broadcast to {list(x.shape[1:])}, got {list(found.shape)}") from None
