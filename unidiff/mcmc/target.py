r"""What a chain runs on: a law known by its score, by its energy, or in closed form.

    π(x) ∝ e^{−E(x)},   s(x) = ∇ log π(x) = −∇E(x)

A user's own potential or posterior density is as good a target as a world or a diffusion core at a time t. Where the
law is known up to a constant, Metropolis' ratio is a difference of log-densities; where only the score is known, it is
the score's integral (:mod:`unidiff.mcmc.path`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unidiff.core.boundary import (
    Time,
    check_batched,
    check_condition,
    check_count,
    check_finite,
    check_state,
    check_time,
    check_type,
)
from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.core.networks.gradient import CONSTANT
from unidiff.worlds.world import World

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Target:
    """A law on ``[B, *E]``, one draw for each chain.

    Attributes:
        score: ∇ log π, ``[B, *E] -> [B, *E]``, in units of 1/x.
        evaluate: the score and log π up to a constant, in nats, ``[B]`` (None where it is not known), in one pass.
        name: what errors call it.
        event_shape: E, where the law knows it.
        panels: for a score alone, the panels of Metropolis' path integral.
        check: raises where chains at x are not those that the law was made for: of another number than its times or
            conditions, or in another dtype than its network's.
        joint: whether log π, where it is known, costs nothing beside the score: then a trajectory asks for both on its way.
    """

    score: Function
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    name: str = "target"
    event_shape: tuple[int, ...] | None = None
    panels: int = 1
    check: Callable[[Tensor], object] = lambda x: None
    joint: bool = False

    @staticmethod
    def of(law: Target | World) -> Target:
        """A target as it is; a world in closed form (its own log-density and score).

        Raises:
            TypeError: a bare function, which could be either a score or an energy, a core, which needs a time, or
                anything else.
        """
        if isinstance(law, Target):
            return law
        if isinstance(law, World):
            score, log_prob = partial(law.score, check=False), partial(law.log_prob, check=False)
            return Target(score, lambda x: (score(x), log_prob(x)), "world", law.event_shape)
        if isinstance(law, Diffusion):
            raise TypeError("target must say at which time: Target.from_core(core, t), got a bare Diffusion")
        if callable(law):
            raise TypeError(
                "target must say what the function returns: Target.from_score(function) or "
                f"Target.from_energy(function), got a bare {type(law).__name__}"
            )
        raise TypeError(f"target must be a Target or a World, got {type(law).__name__}")

    @staticmethod
    def from_score(score: Function, *, t: Time | None = None, panels: int = 1) -> Target:
        """The law of a score function alone; its log-density is integrated where Metropolis needs it.

        Args:
            score: ``score(x) -> [B, *E]``, or ``score(x, t)`` where ``t`` is given.
            t: a time in [0, 1], or one for each chain, ``[B]``; passed on as it is.
            panels: of the path integral; more for steps that are long beside the score's own variation.
        """
        function, check = _at("score", score, t)

        def at(x: Tensor) -> Tensor:
            # Asked of every answer: one of another shape would broadcast.
            return _check_answer("score", function(x), x, x.shape)

        panels = check_count("panels", panels)
        return Target(at, lambda x: (at(x), None), "score", panels=panels, check=check, joint=True)

    @staticmethod
    def from_energy(energy: Function, *, t: Time | None = None) -> Target:
        """The law ∝ e^{−E}, E differentiated by autograd.

        Args:
            energy: ``energy(x) -> [B]``, −log density up to a constant, in nats, one number for each chain and of that
                chain alone; or ``energy(x, t)`` where ``t`` is given. +∞ is a density of zero; NaN is an error.
            t: as in :meth:`from_score`.
        """
        at, check = _at("energy", energy, t)

        # −1 for each chain: seeding with it spares the sum before and the sign after. Made once and kept, since captured
        # steps go on reading it.
        seeds: dict[object, Tensor] = {}

        def differentiate(x: Tensor) -> tuple[Tensor, Tensor]:
            with torch.inference_mode(False), torch.enable_grad():
                x = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
                value = _check_energy(at(x), x)
                seed = seeds.get((x.shape[0], x.dtype, x.device))
                if seed is None:
                    seed = torch.full_like(value, -1.0, requires_grad=False)
                    seeds[x.shape[0], x.dtype, x.device] = seed
                (score,) = torch.autograd.grad(value, x, seed, allow_unused=True)
            if score is None:
                raise ValueError(CONSTANT)
            return score, value

        def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
            score, value = differentiate(x)
            return score, -value.detach()

        return Target(lambda x: differentiate(x)[0], evaluate, "energy", check=check, joint=True)

    @staticmethod
    def from_core(
        core: Diffusion, t: Time, *, condition: Tensor | None = None, guidance: float = 1.0, panels: int = 1
    ) -> Target:
        """The noised law q_t as the core's denoiser knows it: its score at time t.

        Args:
            core: the diffusion core.
            t: the time, or one for each chain, ``[B]``; its noise must not be zero, where the core's score does not
                exist.
            condition: class labels ``[B]``, one for each chain, or one for all.
            guidance: classifier-free guidance weight; 1 is the plain conditional model.
            panels: as in :meth:`from_score`.

        Raises:
            ValueError: t outside [0, 1], without noise, or where the network's prediction says nothing; a condition or
                guidance that the denoiser does not take.
        """
        check_type("core", core, Diffusion)
        exact = core.schedule.level(check_time("t", t))
        if not bool((exact.sigma > 0).all()):
            raise ValueError(f"t must be a time with noise (sigma > 0), where the core has a score, got t = {t}")
        core.check_levels(exact.alpha)
        rows = condition.shape[0] if isinstance(condition, Tensor) and condition.ndim == 1 else 1
        check_condition(condition, guidance, rows, getattr(core.denoiser, "num_classes", None))
        # Once for each dtype and device: a cast to a GPU waits, and a captured step must not.
        casts: dict[tuple[torch.dtype, torch.device], NoiseLevel] = {}

        def score(x: Tensor) -> Tensor:
            key = (x.dtype, x.device)
            if key not in casts:
                casts[key] = NoiseLevel(*(v.detach() for v in vars(exact.to(x)).values()))
            each = None if condition is None else condition.expand(x.shape[0])
            return core.denoiser(x, casts[key], each, guidance).score

        def check(x: Tensor) -> None:
            core.check_arguments("x", x, condition, guidance)
            check_batched("t", exact.t, x)

        shape = core.event_shape
        panels = check_count("panels", panels)
        return Target(score, lambda x: (score(x), None), "core", shape, panels, check, joint=True)

    def begin(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The law at the start ``x`` ``[B, *E]`` of chains, as :attr:`evaluate`, if they can start there.

        Raises:
            TypeError: x, or what the law returns, is no floating-point tensor.
            ValueError: x is not ``[B, *E]`` with B at least 1, half precision or not finite, or not what the law was
                made for; the law answers in another shape or dtype, or not finitely.
        """
        check_chains(x, self.event_shape)
        _check_finite("x", x)
        self.check(x)
        score, log_prob = self.evaluate(x)
        own = "score" if self.name == "score" else f"the score of the {self.name}"
        _check_answer(own, score, x, x.shape)
        _check_finite(f"{own} at x", score)
        if log_prob is not None:
            _check_answer(f"the log-density of the {self.name}", log_prob, x, x.shape[:1])
            _check_finite(f"the log-density of the {self.name} at x", log_prob)
        return score, log_prob


def check_chains(x: Any, event_shape: tuple[int, ...] | None) -> None:
    """Refuse what is no state of chains: not ``[B, *E]``, empty, or in half precision."""
    check_state("x", x, event_shape)
    if not x.shape[0]:
        raise ValueError(f"x must hold at least one chain, got shape {list(x.shape)}")
    if x.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(f"x must be float32 or wider (a chain's state is never half precision), got {x.dtype}")


def _at(argument: str, function: Function, t: Time | None) -> tuple[Function, Callable[[Tensor], object]]:
    """The function of x alone, and the check that its times are one for all chains or one for each."""
    if not callable(function):
        raise TypeError(f"{argument} must be a function, got {type(function).__name__}")
    if t is None:
        return function, lambda x: None
    times = check_time("t", t)
    return (lambda x: function(x, t)), (lambda x: check_batched("t", times, x))


def _check_energy(value: Any, x: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"energy must have shape [{x.shape[0]}], one number for each chain, got {got}")
    if not value.requires_grad:
        raise ValueError(CONSTANT)
    return value


def _check_finite(argument: str, value: Tensor) -> None:
    # A finite sum has finite terms; only where it is not are they looked at one by one, which costs several passes.
    if not bool(torch.isfinite(value.sum())):
        check_finite(argument, value)


def _check_answer(what: str, value: Any, x: Tensor, shape: torch.Size) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{what} must be a tensor, got {type(value).__name__}")
    if value.shape != shape:
        raise ValueError(
            f"{what} must have shape {list(shape)} for x of shape {list(x.shape)}, got {list(value.shape)}"
        )
    if value.dtype != x.dtype or value.device != x.device:
        raise ValueError(f"{what} must be {x.dtype} on {x.device}, as x is, got {value.dtype} on {value.device}")
    return value
