r"""diffusers' schedulers, walked as its pipelines walk them.

What a timestep n means is ᾱ_n of the scheduler's own β, multiplied in float64; between timesteps, where a scheduler asks
there, log σ/α is linear in n, as its own ``_sigma_to_t`` has it. Where a state is: at the timesteps listed (DDPM, DDIM,
PNDM), or at the ``sigmas`` listed, in units of α (x_0 + σ ε) or variance preserving. A network is told timesteps and gives
what the configuration says that it predicts.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from unidiff.conformance import rules
from unidiff.conformance.increments import Increments
from unidiff.conformance.predictions import PREDICTIONS, output
from unidiff.conformance.tables import alpha_bar_table
from unidiff.conformance.target import Claims, Convention, Denoise, Target, Walk
from unidiff.interop.library import library

TESTED = ("0.30", "0.43")
Held = Literal["timestep", "exploding", "preserving", "flow"]
"""Where a scheduler's states are: at its timesteps, or at its sigmas, in one of three scalings."""
SPACINGS = ("leading", "trailing", "linspace")
_TABLES = ("betas", "alphas", "alphas_cumprod", "final_alpha_cumprod", "one")


class DiffusersTarget(Target):
    """A scheduler in one configuration.

    Args:
        scheduler: its class.
        held: where its states are.
        claims: what is written of it.
        step: options of its ``step``.
        options: of its constructor.
    """

    def __init__(
        self, scheduler: Any, held: Held, claims: Claims, step: dict[str, Any] | None = None, **options: Any
    ) -> None:
        self.scheduler, self.held, self.claims = scheduler, held, claims
        self.step, self.options = step or {}, options
        self._ready: dict[int, Any] = {}
        self.name = f"diffusers.{scheduler.__name__}"
        plain = ("prediction_type", "timestep_spacing")
        told = [str(v) if k in plain else f"{k} {v}" for k, v in (options | self.step).items() if k not in _FIXED]
        self.configuration = ", ".join(told)
        self.predicts = options.get("prediction_type", "flow" if held == "flow" else "epsilon")

    def walk(self, denoise: Denoise, x: Callable[[float, float], Tensor], steps: int) -> Walk:
        """As a pipeline: ``set_timesteps``, then for each of them scale, ask, step."""
        logging = importlib.import_module("diffusers.utils.logging")
        before = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self._walk(denoise, x, steps)
        finally:
            logging.set_verbosity(before)

    def _walk(self, denoise: Denoise, x: Callable[[float, float], Tensor], steps: int) -> Walk:
        scheduler = self._made(steps)
        times = scheduler.timesteps
        levels: list[tuple[Tensor, Tensor]] = []
        states: list[Tensor] = []
        told: list[tuple[Tensor, Tensor]] = []
        room: list[Tensor] = []
        state = torch.empty(0)
        for k, time in enumerate(times):
            first = getattr(scheduler, "state_in_first_order", True) and not (self._twice(times) and k == 1)
            if first:
                alpha, sigma = self._held(scheduler, times, k)
                if k == 0:
                    state = x(float(alpha), float(sigma))
                    if "noise_sampler" in vars(scheduler):
                        scheduler.noise_sampler = Increments(state)
                levels.append((alpha, sigma))
                states.append(state)
            seen = scheduler.scale_model_input(state, time) if hasattr(scheduler, "scale_model_input") else state
            alpha, sigma = self._told(scheduler, time)
            if first:
                told.append((2 * (alpha / sigma).log(), 2 * (levels[-1][0] / levels[-1][1]).log()))
                room.append(self._room(scheduler, time))
            answer = output(self.predicts, denoise(seen, float(alpha), float(sigma)), seen, alpha, sigma)
            state = scheduler.step(answer, time, state, **self.step).prev_sample
        levels.append(self._held(scheduler, times, len(times)))
        alphas, sigmas = (torch.stack([level[i] for level in levels]) for i in (0, 1))
        listed = None if self.held == "timestep" else torch.stack([torch.stack(pair) for pair in told])
        return Walk(alphas, sigmas, torch.stack([*states, state]), listed, torch.stack(room))

    def _made(self, steps: int) -> Any:
        """The scheduler with its timesteps set, made once: some take seconds."""
        if steps not in self._ready:
            self._ready[steps] = self._make(steps)
        return copy.deepcopy(self._ready[steps])

    def _make(self, steps: int) -> Any:
        fine, even = steps >= min(self.claims.steps), self.options.get("timestep_spacing") == "linspace"
        count = (
            {} if not fine else {"num_train_timesteps": 1024 + even}
        )  # so that the timesteps of many steps are whole
        scheduler = self.scheduler(**self.options | count)
        if self.held != "flow":
            betas = scheduler.betas.double()
            bar = torch.cumprod(1 - betas, 0)
            wide = (betas, 1 - betas, bar, torch.ones((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
            for name, table in zip(_TABLES, wide, strict=True):
                if hasattr(scheduler, name) and torch.is_tensor(getattr(scheduler, name)):
                    setattr(scheduler, name, table)
        scheduler.set_timesteps(steps + (fine and even and self.held in ("timestep", "exploding")))
        for name in ("sigmas", "sigmas_interpol", "sigmas_up", "sigmas_down"):
            if torch.is_tensor(getattr(scheduler, name, None)):
                setattr(scheduler, name, getattr(scheduler, name).double())
        return scheduler

    def _twice(self, times: Tensor) -> bool:
        """Whether the second timestep is there twice: a first step that is made again with the slope at its end."""
        return self.held == "timestep" and len(times) > 2 and bool(times[1] == times[2])

    def _held(self, scheduler: Any, times: Tensor, k: int) -> tuple[Tensor, Tensor]:
        one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        if self.held == "timestep":
            if k == len(times):
                return one, zero
            bar = scheduler.alphas_cumprod[int(times[k])]
            return bar.sqrt(), (1 - bar).sqrt()
        sigma = scheduler.sigmas[k].double()
        if self.held == "exploding":
            return one, sigma
        if self.held == "flow":
            return 1 - sigma, sigma
        alpha = 1 / (1 + sigma**2).sqrt()
        return alpha, sigma * alpha

    def _told(self, scheduler: Any, time: Tensor) -> tuple[Tensor, Tensor]:
        if self.held == "flow":
            sigma = time.double() / scheduler.config.num_train_timesteps
            return 1 - sigma, sigma
        bar = scheduler.alphas_cumprod
        if float(time).is_integer():
            at = bar[int(time)]
            return at.sqrt(), (1 - at).sqrt()
        ratio = 0.5 * ((1 - bar) / bar).log()
        low = int(time)
        part = float(time) - low
        value = ((1 - part) * ratio[low] + part * ratio[low + 1]).exp()
        alpha = 1 / (1 + value**2).sqrt()
        return alpha, value * alpha

    def _room(self, scheduler: Any, time: Tensor) -> Tensor:
        """The most that λ moves in half a timestep from here."""
        if self.held == "flow":
            return torch.zeros((), dtype=torch.float64)
        bar = scheduler.alphas_cumprod
        near = bar[max(0, round(float(time)) - 1) : round(float(time)) + 2]
        return 0.5 * (near / (1 - near)).log().diff().abs().max()


_FIXED = {"num_train_timesteps", "clip_sample", "skip_prk_steps", "set_alpha_to_one"}


_Choices = tuple[tuple[dict[str, Any], dict[str, Any], dict[str, Any]], ...]
"""Options of the constructor, options of the step, and what the claims are then."""
_PLAIN: _Choices = (({}, {}, {}),)
_ROUNDED = {
    "levels": Convention(
        "Karras et al.'s σ lie between timesteps, and its code tells the network the nearest whole one", rounded=True
    )
}
_KARRAS = ({"use_karras_sigmas": True}, {}, {"order": None, "point": False, "conventions": _ROUNDED})
_THIRD = ({"solver_order": 3}, {}, {"order": None})  # it begins with lower ones, and is then of none in all
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2", "laplace": "laplace"}
_UNCLIPPED = {"clip_sample": False}
_KINDS = PREDICTIONS[::2]
"""What the schedulers in units of α take: "sample" is refused by most of them."""


def _listed() -> Iterator[tuple[str, Held, Claims, tuple[str, ...], _Choices]]:
    """(class, where its states are, claims, what it predicts, choices)."""
    exact = 1e4  # ᾱ_0 = 1 − 1e-4
    once = Claims(order=1, condition=exact)
    yield "DDPMScheduler", "timestep", replace(once, variance=rules.posterior), PREDICTIONS, (
        (_UNCLIPPED, {}, {}),
        (_UNCLIPPED | {"variance_type": "fixed_small_log"}, {}, {}),
        (_UNCLIPPED | {"variance_type": "fixed_large"}, {}, {"variance": rules.prior, "point": False}),
        (_UNCLIPPED | {"variance_type": "fixed_large_log"}, {}, {"variance": rules.prior, "point": False}),
    )  # fmt: skip
    yield "DDIMScheduler", "timestep", replace(once, variance=rules.eta(0.0)), PREDICTIONS, (
        (_UNCLIPPED, {}, {}),
        (_UNCLIPPED, {"eta": 0.5}, {"variance": rules.eta(0.5)}),
        (_UNCLIPPED, {"eta": 1.0}, {"variance": rules.eta(1.0)}),
    )  # fmt: skip
    steps = {"skip_prk_steps": True, "set_alpha_to_one": True}
    yield "PNDMScheduler", "timestep", replace(once, order=2), _KINDS, ((steps, {}, {}),)
    first = Claims(order=1, dtype=torch.float32)
    second = replace(first, order=2)
    solver = replace(second, steps=(256, 512))  # its errors change sign before they fall as its order says
    drawn = replace(first, variance=rules.posterior)
    for name, claims in (
        ("EulerDiscreteScheduler", first), ("HeunDiscreteScheduler", second), ("KDPM2DiscreteScheduler", second),
        ("LMSDiscreteScheduler", replace(second, steps=(32, 64, 128))), ("DPMSolverSDEScheduler", first),
    ):  # fmt: skip
        karras = _KARRAS if name.startswith("KDPM2") else ({"use_karras_sigmas": True}, {}, {})
        yield name, "exploding", claims, _KINDS, (({}, {}, {}), karras)
    yield "EulerAncestralDiscreteScheduler", "exploding", drawn, _KINDS, _PLAIN
    yield "KDPM2AncestralDiscreteScheduler", "exploding", drawn, _KINDS, _PLAIN
    yield "DPMSolverMultistepScheduler", "preserving", solver, PREDICTIONS, (
        ({}, {}, {}),
        ({"solver_order": 1}, {}, {"order": 1}),
        _THIRD,
        ({"solver_type": "heun"}, {}, {}),
        ({"algorithm_type": "sde-dpmsolver++"}, {}, {"order": 1}),
        ({"algorithm_type": "sde-dpmsolver++", "solver_order": 1}, {}, {"order": 1, "variance": rules.posterior}),
        _KARRAS,
    )  # fmt: skip
    yield "DPMSolverSinglestepScheduler", "preserving", solver, PREDICTIONS, (({}, {}, {}), _THIRD, _KARRAS)
    yield (
        "UniPCMultistepScheduler",
        "preserving",
        solver,
        PREDICTIONS,
        (({}, {}, {}), ({"solver_type": "bh1"}, {}, {}), _KARRAS),
    )
    yield "DEISMultistepScheduler", "preserving", solver, PREDICTIONS, _PLAIN
    yield "SASolverScheduler", "preserving", first, PREDICTIONS, _PLAIN
    yield "FlowMatchEulerDiscreteScheduler", "flow", first, ("flow",), _PLAIN
    yield "FlowMatchHeunDiscreteScheduler", "flow", second, ("flow",), _PLAIN


def targets() -> Iterator[Target]:
    """Every scheduler here × what it predicts × how its timesteps are spaced; its other choices with the first prediction.

    Raises:
        ImportError: diffusers is not installed; says which extra brings it.
    """
    diffusers = library("diffusers", TESTED)
    for kind, named in _SCHEDULES.items():
        made = diffusers.DDPMScheduler(beta_schedule=named)
        yield alpha_bar_table("diffusers.DDPMScheduler", kind, made.alphas_cumprod)
    for name, held, claims, predictions, choices in _listed():
        for spacing, (k, (options, step, other)) in itertools.product(SPACINGS, enumerate(choices)):
            scheduler = getattr(diffusers, name)
            spaced = "timestep_spacing" in inspect.signature(scheduler).parameters
            if not spaced and spacing != SPACINGS[0]:
                continue
            # T − 1 = 999 is a whole number of times 1, 3 and 9.
            mine = replace(claims, smallest=(2, 4, 10)) if spacing == "linspace" else claims
            for predicts in predictions if k == 0 else predictions[:1]:
                told = {} if held == "flow" else {"prediction_type": predicts}
                told |= {"timestep_spacing": spacing} if spaced else {}
                yield DiffusersTarget(scheduler, held, replace(mine, **other), step, **told | options)
