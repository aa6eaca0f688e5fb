r"""The Monte Carlo law for a user's draws: a test of the mean with its false-alarm rate and its power.

With n draws of standard error e, a mean that is off by more than L e fails, where a family of ``family`` such scores raises
a false alarm with probability below ``false_alarm`` (Bonferroni; L of Student's law, widened by the skewness of the draws:
:mod:`unidiff.testing.assertions.student`). A mean that is off by (L + 3.09) e is caught with probability 0.999: where that
is more than the stated bound, or n is too small for an L, the verdict is inconclusive and never a pass. For distribution
functions the same two numbers come from the Dvoretzky–Kiefer–Wolfowitz inequality, P(sup |F_n − F| > d) ≤ 2 e^{−2nd²}
(Massart 1990), at every n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_positive
from unidiff.core.gaussian import Gaussian
from unidiff.identities.laws import FAMILY_ALARM, MISS, MOST_SCORES, Means, z_power
from unidiff.testing.assertions.student import least_draws, skewed_limit, skewness, student_limit
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
        scale: the size of what is compared, as ``expected``, above 0; None for the samples' own standard deviation, or
            for the size of samples that are all alike.
        false_alarm: the probability that true means, ``family`` of them in all, raise any alarm.
        family: how many scores share the false alarm, those of this call (one for each entry of E) among them.

    Raises:
        AssertionError: a mean that is off; it names the worst entry.
        Inconclusive: too few draws: a violation of the bound might have been missed.
        TypeError, ValueError: no numbers, fewer than 100 draws, what is not finite, or a rate or bound that is none.
    """
    __tracebackhide__ = True
    x = _draws(samples)
    mean, wide = _like("expected", expected, x), x.to(torch.float64)
    terms = torch.maximum(wide.abs().mean(0), mean.abs())
    if scale is None:
        size = torch.where((wide == wide[0]).all(0), terms, wide.std(0))
    else:
        size = _like("scale", scale, x)
        if bool((size <= 0).any()):
            raise ValueError(f"scale must be positive and finite, got {float(size.min())}")
    alarm = _alarm(x[0].numel(), bound, false_alarm, family)
    _judge("mean", wide - mean, mean, size, terms, x.dtype, bound, alarm)


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
    alarm = _alarm(x[0].numel(), bound, false_alarm, family)
    # A rounding of x moves (x − m)² by 2 |x − m| |x| eps.
    terms = torch.maximum(var, 2 * ((wide - centre).abs() * torch.maximum(wide.abs(), centre.abs())).mean(0))
    _judge("variance", square - var, var, var, terms, x.dtype, bound, alarm)


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
    alarm = _alarm(len(std) * (len(std) + 1), bound, false_alarm, family)
    largest, off = torch.maximum(wide.abs(), mean.abs()), wide - mean
    _judge("mean", off, mean, std, largest.mean(0), x.dtype, bound, alarm)
    products, sizes = off[:, :, None] * off[:, None, :], std[:, None] * std
    crossed = off.abs().mT @ largest / len(x)
    terms = torch.maximum(sizes, crossed + crossed.mT)
    _judge("covariance", products - covariance, covariance, sizes, terms, x.dtype, bound, alarm)


def _assert_distribution(x: Tensor, u: Tensor, bound: float, false_alarm: float, family: int) -> None:
    __tracebackhide__ = True
    if u.shape != x.shape or not bool(((u >= 0) & (u <= 1)).all()):
        raise ValueError(f"law must map samples to probabilities {list(x.shape)} in [0, 1], got shape {list(u.shape)}")
    n, alarm = len(x), _alarm(x[0].numel(), bound, false_alarm, family)
    allowed = math.sqrt(math.log(2 / alarm) / (2 * n))
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
    if not bool((torch.isfinite(law.mean) & (law.log_var < torch.inf)).all()):
        raise ValueError("law must have finite means and variances, got NaN or infinite ones")
    if bool(torch.isneginf(law.log_var).any()):
        raise ValueError("law must have a density, got a point mass (log_var = -inf)")
    wide = Gaussian(*(v.detach().to(x.device, torch.float64) for v in (law.mean, law.log_var)))
    return torch.special.ndtr((x.to(torch.float64) - wide.mean) / wide.std)


def _judge(
    what: str,
    difference: Tensor,
    expected: Tensor,
    size: Tensor,
    terms: Tensor,
    dtype: torch.dtype,
    bound: float,
    alarm: float,
) -> None:
    """``difference`` ``[n, *E]`` has mean zero; ``size`` is the bound's unit, ``terms`` what was rounded, each ``[*E]``."""
    __tracebackhide__ = True
    shape, n = difference.shape[1:], len(difference)
    size, z = size.expand(shape), student_limit(alarm, n)
    flat = difference.to("cpu", torch.float64).reshape(n, -1)
    rough = Means.of(flat, size, dtype, z, terms)
    # Draws that are alike but for rounding have no law whose skewness could be asked.
    skew = torch.where(math.sqrt(n) * rough.error <= rough.floor, torch.zeros_like(rough.error), skewness(flat))
    limit = skewed_limit(z, skew, n)
    means = Means.of(flat, size, dtype, limit, terms)
    if not bool((means.score <= limit).all()):
        worst = int((means.score / limit).nan_to_num(torch.inf, torch.inf).argmax())
        due, off = float(expected.expand(shape).flatten()[worst]), float(means.mean[worst])
        allowed = float(limit[worst] * means.error[worst] + means.floor[worst])
        raise AssertionError(
            f"{what}{place(worst, shape)}: got {due + off:.6g}, expected {due:.6g}, off by {abs(off):.3g}; allowed "
            f"{allowed:.3g}, {float(limit[worst]):.2f} standard errors of {n} draws (Monte Carlo law)"
        )
    worst = int(skew.abs().argmax())
    if not bool(torch.isfinite(limit[worst])):
        raise Inconclusive(
            f"{what}{place(worst, shape)}: {n} draws of skewness {float(skew[worst]):.3g} have no known tail at that false "
            f"alarm; {least_draws(z, float(skew[worst]))} would have one (Monte Carlo law)"
        )
    worst = int(means.caught.argmax())
    caught, size_here = float(means.caught[worst]), float(size.flatten()[worst])
    if caught > bound:
        seen = float(z_power(limit)[worst] * means.error[worst])
        room = bound * size_here - float(means.floor[worst])
        need = f"{math.ceil(n * (seen / room) ** 2)} would do" if room > 0 else "rounding hides it from any number"
        raise Inconclusive(
            f"{what}{place(worst, shape)}: a violation of {caught:.1%} would have been caught (bound {bound:.0%}), "
            f"by {n} draws; {need} (Monte Carlo law)"
        )


def _alarm(scores: int, bound: float, false_alarm: float, family: int) -> float:
    """The false alarm of one score, by Bonferroni."""
    check_positive("bound", bound)
    if not 0 < check_positive("false_alarm", false_alarm) < 1:
        raise ValueError(f"false_alarm must lie in (0, 1), got {false_alarm}")
    if check_count("family", family) < scores:
        raise ValueError(f"family must be at least {scores}, the scores of this call, got {family}")
    return false_alarm / family


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
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"{argument} must be finite, got NaN or infinity")
    try:
        return found.expand(x.shape[1:])
    except RuntimeError:
        raise ValueError(f"{argument} must broadcast to {list(x.shape[1:])}, got {list(found.shape)}") from None
