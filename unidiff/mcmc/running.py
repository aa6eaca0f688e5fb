r"""One loop for every kernel: thousands of chains, one step each, again and again.

A run is cut into blocks of up to 16 steps (fewer on a CPU, where a block's draws should stay in cache). A block's
draws are made at once; on a GPU a block is a CUDA graph, captured once for each length and replayed, so that neither
the host nor the gaps between launches are waited for. Between blocks, and only there, states are kept, chains are
looked at (about every 128 steps) and progress is told. An eager run walks the same blocks: same draws, same states.
The blocks are the same whatever is kept: asking for a trace changes no draw.

A look stops a run whose chains are not finite or have run away (:mod:`unidiff.mcmc.chains`), or whose law was NaN where
MALA or HMC proposed, no further out than that: rejected for ever, such proposals would hold chains still in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unidiff.core.boundary import (
    check_alike,
    check_count,
    check_finite,
    check_flag,
    check_generator,
    check_progress,
    check_type,
)
from unidiff.mcmc.adaptation import DualAveraging, check_acceptance
from unidiff.mcmc.blocks import LOST, Captured, Eager
from unidiff.mcmc.chains import Chains, Divergence, horizon, refuse_lost, steady_rows, warn_of_acceptance
from unidiff.mcmc.state import Kernel, Noise, State
from unidiff.mcmc.target import Target
from unidiff.worlds.world import World

CHECK_EVERY, UNROLL, MOST_CAPTURES = 128, 16, 8
# Numbers drawn at once: what stays in cache on a CPU, a gigabyte on a GPU.
CPU_DRAWS, GPU_DRAWS = 2**16, 2**28

OnStep = Callable[[int, int], None]


class Langevin:
    """A kernel on a target, ready to run many times; captures are kept from run to run.

    Args:
        target: a :class:`~unidiff.mcmc.target.Target`, or a world.
        kernel: ``ULA``, ``MALA``, ``HMC`` or ``BAOAB``.
        graph: whether a GPU run is captured and replayed; None captures whenever the chains are on a GPU.

    Raises:
        TypeError: the target or the kernel is something else.
    """

    def __init__(self, target: Target | World, kernel: Kernel, *, graph: bool | None = None) -> None:
        if not isinstance(kernel, Kernel):
            raise TypeError(f"kernel must be ULA(...), MALA(...), HMC(...) or BAOAB(...), got {type(kernel).__name__}")
        self.target = Target.of(target)
        self.kernel = kernel
        self.graph = graph
        self._captured: dict[object, Captured] = {}

    @torch.inference_mode(False)  # an energy is differentiated, also where the caller wants no gradient
    @torch.no_grad()
    def __call__(
        self,
        x: Tensor | State,
        steps: int,
        *,
        warmup: int = 0,
        adapt: bool = True,
        acceptance: float | None = None,
        keep_every: int | None = None,
        generator: torch.Generator | None = None,
        noise: Noise | None = None,
        on_step: OnStep | None = None,
    ) -> Chains:
        """Run all chains; arguments and errors as :func:`langevin`."""
        check_count("steps", steps)
        check_count("warmup", warmup, 0)
        check_flag("adapt", adapt)
        check_progress("on_step", on_step)
        if keep_every is not None and check_count("keep_every", keep_every) > steps:
            raise ValueError(f"keep_every must be at most steps = {steps}, got {keep_every}")
        if acceptance is not None:
            self._check_acceptance(acceptance, warmup, adapt)
        state, kernel = self._start(x, generator), self.kernel
        self._check_noise(noise, state.x, steps, warmup)
        total, beyond = warmup + steps, horizon(state.x)
        if warmup:
            wanted = kernel.best_acceptance if acceptance is None else acceptance
            search = None
            if adapt and wanted is not None:
                search = DualAveraging(kernel.step_size, wanted, state.x)
            chains = self._chains(Eager(self.target, kernel, state, beyond, generator, search), self.graph)
            _walk(chains, kernel, _Walk(warmup, None, "warm-up step", _told(on_step, 0, total)))
            state = chains.state.clone()
            kernel = kernel if chains.adaptation is None else replace(kernel, step_size=chains.adaptation.result())
        captured = False if noise is not None else self.graph
        chains = self._chains(Eager(self.target, kernel, state, beyond, generator), captured)
        done = _walk(chains, kernel, _Walk(steps, keep_every, "step", _told(on_step, warmup, total)), noise)
        warn_of_acceptance(done)
        return done

    def _check_acceptance(self, acceptance: float, warmup: int, adapt: bool) -> None:
        if not self.kernel.metropolis:
            raise ValueError(
                f"acceptance is MALA's and HMC's, got {acceptance} for {self.kernel}, which rejects nothing"
            )
        check_acceptance(acceptance)
        if not (warmup and adapt):
            raise ValueError(
                f"acceptance is what a warm-up tunes the step size to: give warmup and leave adapt on, got acceptance = "
                f"{acceptance} with warmup = {warmup} and adapt = {adapt}"
            )

    def _start(self, x: Tensor | State, generator: torch.Generator | None) -> State:
        if isinstance(x, Chains):
            raise TypeError("x must be a tensor or a State, got Chains: pass their .state to go on from them")
        at, velocity = (x.x, x.velocity) if isinstance(x, State) else (x, None)
        state = self.kernel.start(self.target, at.detach() if isinstance(at, Tensor) else at, velocity)
        check_generator(generator, state.x.device)
        if not self.kernel.has_velocity:
            return state
        if velocity is None:
            velocity = torch.randn(at.shape, generator=generator, dtype=at.dtype, device=at.device)
        check_alike(x=at, velocity=velocity)
        check_finite("velocity", velocity.detach())
        return replace(state, velocity=velocity)

    def _check_noise(self, noise: Noise | None, x: Tensor, steps: int, warmup: int) -> None:
        if noise is None:
            return
        check_type("noise", noise, Noise)
        check_type("noise.normal", noise.normal, Tensor)
        if noise.uniform is not None:
            check_type("noise.uniform", noise.uniform, Tensor)
        if warmup:
            raise ValueError(f"noise is for runs without a warm-up, got warmup = {warmup}; warm up with a generator")
        if noise.normal.shape != (steps, *x.shape):
            expected, got = [steps, *x.shape], list(noise.normal.shape)
            raise ValueError(f"noise.normal must have shape {expected}, one draw a step, got {got}")
        if self.kernel.metropolis and (noise.uniform is None or noise.uniform.shape != (steps, x.shape[0])):
            got = None if noise.uniform is None else list(noise.uniform.shape)
            raise ValueError(
                f"noise.uniform must have shape {[steps, x.shape[0]]} for a kernel that rejects, got {got}"
            )
        check_alike(x=x, noise=noise.normal[0])
        check_finite("noise.normal", noise.normal)
        u = noise.uniform
        if u is not None and not bool(((u >= 0) & (u < 1)).all()):
            raise ValueError(
                f"noise.uniform must lie in [0, 1), got values in [{float(u.min()):g}, {float(u.max()):g}]"
            )

    def _chains(self, eager: Eager, captured: bool | None) -> Eager | Captured:
        x, search = eager.state.x, eager.adaptation
        if not x.is_cuda or captured is False:
            return eager
        # A kernel's numbers and autocast are burnt into a capture; parameters are read through their storage.
        key = (
            eager.kernel, None if search is None else search.acceptance, x.shape, x.dtype, x.device,
            torch.is_autocast_enabled(x.device.type),
        )  # fmt: skip
        if key not in self._captured:
            while len(self._captured) >= MOST_CAPTURES:
                del self._captured[next(iter(self._captured))]
            self._captured[key] = Captured(eager)
        self._captured[key].load(eager)
        return self._captured[key]


@dataclass(frozen=True)
class _Walk:
    """What a walk is asked for."""

    steps: int
    keep_every: int | None
    phase: str
    on_done: Callable[[int], None]


def _walk(chains: Eager | Captured, kernel: Kernel, walk: _Walk, noise: Noise | None = None) -> Chains:
    x, every = chains.state.x, walk.keep_every
    most = (GPU_DRAWS if x.is_cuda else CPU_DRAWS) // max(1, x.numel())
    longest = max(1, min(UNROLL, most))
    blocks = [min(longest, walk.steps - before) for before in range(0, walk.steps, longest)]
    chains.prepare(set(blocks), every is not None)
    trace = None if every is None else x.new_empty((walk.steps // every, *x.shape))
    done = 0
    with chains.drawing():
        for n in blocks:
            chains.block(n, None if noise is None else noise[done : done + n])
            before, done = done, done + n
            if trace is not None and every is not None:
                for k in range(before // every, done // every):
                    trace[k].copy_(chains.path[(k + 1) * every - before - 1])
            looked = done // CHECK_EVERY > before // CHECK_EVERY or done == walk.steps
            if looked and not _steady(chains):
                _refuse_nan(chains, walk.phase, done)
                kept = None if trace is None or every is None else trace[: done // every]
                _diverge(_result(chains, kernel, done, kept), walk.phase, chains.beyond)
            walk.on_done(done)
    return _result(chains, kernel, done, trace)


def _result(chains: Eager | Captured, kernel: Kernel, steps: int, trace: Tensor | None) -> Chains:
    state, tally = chains.state.clone(), chains.tally
    if not kernel.metropolis:
        return Chains(state, kernel, steps, trace)
    accepted, error, divergent, path_error, _ = tally
    steady = (steps - divergent).clamp(min=1)
    # Of no proposal that held there is no mean.
    error, path_error = (torch.where(divergent == steps, torch.nan, v / steady) for v in (error, path_error))
    own = None if state.log_prob is not None else path_error
    return Chains(state, kernel, steps, trace, accepted / steps, error, divergent.long(), own)


def _steady(chains: Eager | Captured) -> bool:
    # Of the extremes, NaN is passed on, and nothing is less than it. One answer, so that a GPU is waited for once.
    low, high = torch.aminmax(chains.state.x)
    held = (high < chains.beyond) & (-low < chains.beyond)
    return bool(held & ~chains.tally[LOST:].any())


def _refuse_nan(chains: Eager | Captured, phase: str, step: int) -> None:
    refuse_lost(chains.law.name, chains.tally[LOST:].sum(0), "proposals", f"after {phase} {step}")


def _diverge(chains: Chains, phase: str, beyond: Tensor) -> None:
    good = steady_rows(chains.x, beyond)
    raise Divergence(chains.x, good, phase, chains.steps, "step_size", chains.step_size, chains[good])


def _told(on_step: OnStep | None, before: int, total: int) -> Callable[[int], None]:
    return (lambda done: None) if on_step is None else (lambda done: on_step(before + done, total))


def langevin(
    target: Target | World,
    x: Tensor | State,
    steps: int,
    *,
    kernel: Kernel,
    warmup: int = 0,
    adapt: bool = True,
    acceptance: float | None = None,
    keep_every: int | None = None,
    generator: torch.Generator | None = None,
    noise: Noise | None = None,
    on_step: OnStep | None = None,
    graph: bool | None = None,
) -> Chains:
    """Run a chain from each row of ``x``.

    Args:
        target: what the chains run on: a :class:`~unidiff.mcmc.target.Target`, or a world.
        x: where they start, ``[B, *E]``, float32 or wider; or the state of earlier chains, to go on from there.
        steps: how many, after the warm-up.
        kernel: ``ULA(step_size)``, ``MALA(step_size)``, ``HMC(step_size, leapfrog)`` or ``BAOAB(step_size, friction)``.
        warmup: steps before, of which nothing is kept.
        adapt: whether a kernel that rejects finds its step size in the warm-up, then frozen.
        acceptance: the acceptance it is tuned to, in (0, 1); None takes the kernel's own best in many dimensions.
        keep_every: keep every so many-th state in the trace; None keeps none.
        generator: the source of all draws, on x's device. Same seed, same bits, whatever is kept.
        noise: the draws themselves, in place of a generator, for runs without a warm-up. (A velocity that the state
            lacks is still drawn from the generator.)
        on_step: progress, called between blocks of steps with (steps done, of all).
        graph: whether a GPU run is captured and replayed; None captures whenever x is on a GPU. To run many times on
            one capture, keep a :class:`Langevin`.

    Returns:
        the chains: final state, trace, acceptance, energy error, divergent proposals, step size.

    Raises:
        TypeError: target, kernel or x of another kind.
        ValueError: x is not ``[B, *E]`` with B at least 1 or not finite, the law's score has another shape than x or is
            not finite there; steps, warmup, keep_every or acceptance out of range; acceptance without a warm-up that
            adapts; noise of another shape.
        Divergence: chains are no longer finite, or have run away. It carries the others.
        FloatingPointError: the energy, or the score where it is finite, was NaN at a position within 10¹² (1 + max|x|)
            that MALA or HMC proposed or came through: after which step, in how many proposals and chains (+∞ is none).

    Warns:
        AcceptanceWarning: chains that accepted nothing, or everything.
    """
    run = Langevin(target, kernel, graph=graph)
    return run(
        x, steps, warmup=warmup, adapt=adapt, acceptance=acceptance, keep_every=keep_every, generator=generator,
        noise=noise, on_step=on_step,
    )  # fmt: skip
