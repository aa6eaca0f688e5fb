r"""Twisted sequential Monte Carlo: samples of p*(x_0) ∝ p_ref(x_0) e^{r(x_0)/β} without training, and its log Z.

n particles walk down the chain. With twists ψ_k > 0 and ψ of the data always e^{r/β}, a step from x to x' weighs

    w ← w · ψ_{k−1}(x')/ψ_k(x) · p_ref(x'|x)/q(x'|x),        w = ψ_N(x_N) at the start,

so that without resampling w telescopes to e^{r(x_0)/β} Π p_ref/q whatever the twists are. Particles are resampled where
their effective size is below a share of n, and then all carry the mean weight; elsewhere their weights are kept. The mean
weight at the end is Ẑ, and

    E[Ẑ] = Z = E_ref[e^{r(x_0)/β}]     for any positive twist, any control, any n and any threshold

(Del Moral 2004, theorem 7.4.2; where the decision to resample looks at the weights, Whiteley, Lee & Heine 2016): given the
particles, an unbiased resampling and leaving them alone both keep the mean of (1/n) Σ w f(x). p_ref is the chain's law, its
start at t = 1 included. Wu et al. 2023 (TDS) and Singhal et al. 2025 (Feynman–Kac steering) are the twist "reward" with and
without its gradient; Li et al. 2024 (SVDD) resamples at every step. Averages under normalised weights are biased by O(1/n):
only Ẑ, and sums of weights that are not normalised, are unbiased.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_finite, check_floating, check_generator, check_name, check_real
from unidiff.core.gaussian import Gaussian
from unidiff.core.weights import effective_size, log_mean_exp
from unidiff.rl.mdp import DenoisingMDP, State
from unidiff.rl.resampling import SCHEMES, Scheme, ancestors
from unidiff.rl.twists import Guide, Outlook, Proposal, Twist, propose
from unidiff.worlds import Interval


@dataclass(frozen=True, eq=False)
class Steered:
    """Weighted particles of one run; of R independent runs, with an axis ``[R]`` before all others.

    Attributes:
        x0: data, ``[n, *E]``.
        log_weights: float64 ``[n]``, in nats; the log of their mean is log Ẑ.
        ess: the effective number of particles before each of the H decisions and at the end, ``[H + 1]``, noise first.
        resampled: whether the particles were resampled before each decision, ``[H]``.
        roots: the particle at t = 1 from which each descends, ``[n]``: few distinct ones tell of a poor sample that the
            effective size, blind to what resampling has made alike, does not tell of.
    """

    x0: Tensor
    log_weights: Tensor
    ess: Tensor
    resampled: Tensor
    roots: Tensor

    @property
    def weights(self) -> Tensor:
        """The particles' shares, ``[n]``, of sum 1."""
        return torch.softmax(self.log_weights, -1)

    @property
    def log_z(self) -> Tensor:
        """log Ẑ in nats, ``[]``: Ẑ is unbiased, its log is below log Z on average."""
        return log_mean_exp(self.log_weights)

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Data of equal weight, ``[count, *E]``, copied from the particles (systematic).

        Raises:
            ValueError: count below 1.
        """
        check_count("count", count)
        log_weights = self.log_weights.reshape(-1, self.log_weights.shape[-1])
        event = self.x0.shape[self.log_weights.ndim :]
        index = ancestors(log_weights, count, generator=generator)
        drawn = _take(self.x0.reshape(*log_weights.shape, *event), index)
        return drawn.reshape(*self.log_weights.shape[:-1], count, *event)


def smc_steering(
    mdp: DenoisingMDP,
    n: int,
    *,
    beta: float,
    twist: Twist = "reward",
    propose: Proposal = "reference",
    resample: Scheme = "systematic",
    threshold: float = 0.5,
    runs: int | None = None,
    generator: torch.Generator | None = None,
    condition: Tensor | None = None,
    like: Tensor | None = None,
) -> Steered:
    """n weighted particles of the reference's law tilted by e^{r/β}; one call of the denoiser for each step.

    Args:
        mdp: the reference chain and its terminal reward. Its own ``beta`` charges actions, of which there are none here.
        n: particles; all of a run are in memory at once.
        beta: the KL temperature, in units of reward.
        twist: a guess at the soft value on the way, any positive function; see :data:`~unidiff.rl.twists.Twist`.
        propose: how the particles move; see :data:`~unidiff.rl.twists.Proposal`.
        resample: the scheme.
        threshold: in [0, 1]: resample where the effective size is below this share of n; 0 never, 1 wherever the weights
            differ.
        runs: R independent runs side by side; None is one, without an axis for it.
        generator: of all draws.
        condition: the class that is steered to, one for all particles of all runs: Z is that class's.
        like: a tensor of the dtype and on the device to compute in (float32, CPU).

    Raises:
        TypeError, ValueError: n or runs below 1, beta not positive, a threshold outside [0, 1], an unknown scheme, labels
            of several classes; all that :class:`~unidiff.rl.twists.Guide` refuses; a twist, control or reward of another
            shape, dtype or device.
        FloatingPointError: a twist, a reward or a weight that is not finite, with how many are not and at which step.
    """
    guide = Guide(mdp, beta, twist, propose)
    check_name("resample", resample, SCHEMES)
    check_count("n", n)
    rows = n * (1 if runs is None else check_count("runs", runs))
    if not 0.0 <= check_real("threshold", threshold) <= 1.0:
        raise ValueError(f"threshold must lie in [0, 1], a share of n, got {threshold}")
    check_generator(generator, torch.device("cpu") if like is None else like.device)
    state = mdp.start(rows, generator, condition, like)
    if state.condition is not None and bool((state.condition != state.condition[0]).any()):
        raise ValueError(f"condition must be one class for all particles, got {state.condition.unique().tolist()}")
    found = _walk(guide, state, n, resample, float(threshold), generator)
    return found if runs is not None else Steered(*(value[0] for value in vars(found).values()))


def _walk(
    guide: Guide, state: State, n: int, scheme: Scheme, threshold: float, generator: torch.Generator | None
) -> Steered:
    mdp, runs, event = guide.mdp, len(state.x) // n, state.x.shape[1:]
    rows = torch.arange(len(state.x), device=state.x.device).reshape(runs, n)
    roots, log_weights, sizes, flags = rows - rows[:, :1], torch.zeros_like(rows, dtype=torch.float64), [], []
    before = torch.zeros_like(log_weights)
    for _ in range(mdp.horizon):
        outlook = guide.outlook(state)
        log_weights = _finite(log_weights + outlook.log_twist.reshape(runs, n) - before, state.k)
        sizes.append(effective_size(log_weights))
        flags.append(sizes[-1] < threshold * n)
        here = outlook
        if bool(flags[-1].any()):
            index = torch.where(flags[-1][:, None], ancestors(log_weights, n, scheme, generator), rows - rows[:, :1])
            mean = log_mean_exp(log_weights)[:, None].expand(runs, n)
            log_weights = torch.where(flags[-1][:, None], mean, log_weights)
            here, roots = _chosen(outlook, rows.gather(1, index).flatten()), roots.gather(1, index)
        x, log_ratio, _ = propose(here, generator)
        log_weights = _finite(log_weights + log_ratio.reshape(runs, n), state.k)
        before = here.log_twist.reshape(runs, n)
        state = State(x, state.k - 1, state.condition)
    x0 = mdp.data(state)
    log_weights = _finite(log_weights + guide.gain(x0).reshape(runs, n) - before, 0)
    sizes.append(effective_size(log_weights))
    return Steered(x0.reshape(runs, n, *event), log_weights, torch.stack(sizes, 1), torch.stack(flags, 1), roots)


@dataclass(frozen=True)
class LogZ:
    """log Z from R independent estimates, in nats.

    Attributes:
        value: log of the mean Ẑ.
        low, high: the 95% interval: Student's t on the mean of Ẑ, on the log scale; low is −∞ where the interval of Z
            reaches 0. It covers at its level only where the mean of R estimates is near normal: Var Ẑ/Z² is to be small
            beside R. A mode of e^{r/β} that no particle met leaves no trace in it.
        floor: a lower bound of log Z at 95% whatever the law of Ẑ: min log Ẑ − log(20)/R. By Markov's inequality one run
            is above e^c Z with probability e^{−c} at most, so all R are with e^{−cR}.
        standard_error: of ``value``, the estimates' deviation over √R and their mean.
        runs: R.
    """

    value: float
    low: float
    high: float
    floor: float
    standard_error: float
    runs: int


def log_z_interval(log_z: Tensor) -> LogZ:
    """Log Z from the log Ẑ ``[R]`` of independent runs, R ≥ 2: :attr:`Steered.log_z` of a call with ``runs``.

    Raises:
        TypeError: log_z is no floating-point tensor.
        ValueError: fewer than two, another shape, values that are not finite.
    """
    check_floating("log_z", log_z)
    if log_z.ndim != 1 or len(log_z) < 2:
        raise ValueError(f"log_z must have shape [R], of two independent runs or more, got {list(log_z.shape)}")
    wide = check_finite("log_z", log_z.detach()).to("cpu", torch.float64)
    # In units of the greatest, which neither overflows nor vanishes.
    top = float(wide.max())
    found = Interval.of((wide - top).exp())
    low = top + math.log(found.low) if found.low > 0 else -math.inf
    floor = float(wide.min()) + math.log(0.05) / len(wide)
    error = found.standard_error / found.mean
    return LogZ(top + math.log(found.mean), low, top + math.log(found.high), floor, error, len(wide))


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Members ``index`` ``[R, m]`` of the runs of ``x`` ``[R, n, *E]``."""
    return x[torch.arange(len(x), device=x.device)[:, None], index]


def _chosen(outlook: Outlook, index: Tensor) -> Outlook:
    law, control = outlook.law, outlook.control
    log_var = law.log_var.expand_as(law.mean)
    control = None if control is None else control[index]
    return Outlook(Gaussian(law.mean[index], log_var[index]), outlook.log_twist[index], control)


def _finite(log_weights: Tensor, k: int) -> Tensor:
    lost = int((~torch.isfinite(log_weights)).sum())
    if lost:
        raise FloatingPointError(f"{lost} of {log_weights.numel()} log-weights are not finite at step {k}")
    return log_weights
