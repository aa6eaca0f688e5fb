r"""k-diffusion's samplers: functions of (model, x, σ's), with a callback that shows the states.

x = x_0 + σ ε. Stochastic ones take their noise from a ``noise_sampler(σ, σ')``, by default a Brownian tree in σ: the
increment of one path over [σ', σ], in units of its deviation.
"""

from __future__ import annotations

import importlib
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unidiff.conformance import rules
from unidiff.conformance.increments import Increments
from unidiff.conformance.tables import exponential_table, karras_table, vp_table
from unidiff.conformance.target import Claims, Denoise, Target, Walk
from unidiff.interop.library import library

TESTED = ("0.1", "0.2")
SIGMA_MIN, SIGMA_MAX = 0.02, 80.0
Sigmas = Callable[[int], Tensor]


class FunctionTarget(Target):
    """A function ``sample(model, x, sigmas)`` in k-diffusion's convention.

    Args:
        function: it; with ``callback`` and ``disable`` in its signature its states are seen, without only its end.
        sigmas: n ↦ σ's ``[n + 1]`` falling, the last may be 0.
        claims: what is written of it.
        name: whose it is.
        configuration: of the σ's, in a word.
        options: further arguments.
    """

    def __init__(
        self, function: Any, sigmas: Sigmas, claims: Claims, name: str, configuration: str = "", **options: Any
    ) -> None:
        self.function, self.sigmas, self.claims, self.name, self.options = function, sigmas, claims, name, options
        told = [f"{key} {value}" for key, value in options.items()]
        self.configuration = ", ".join([configuration, *told])
        self.takes = set(inspect.signature(function).parameters)

    def walk(self, denoise: Denoise, x: Callable[[float, float], Tensor], steps: int) -> Walk:
        """Down the σ's, in float64."""
        levels = self.sigmas(steps)
        start = x(1.0, float(levels[0]))
        states: list[Tensor] = []
        listed: list[float] = []
        asked: list[float] = []
        before: list[int] = []

        def model(state: Tensor, sigma: Any, **_: Any) -> Tensor:
            asked.append(float(torch.as_tensor(sigma, dtype=torch.float64).flatten()[0]))
            return denoise(state.clone(), 1.0, asked[-1])

        def seen(info: dict[str, Any]) -> None:
            states.append(info["x"].clone())
            listed.append(float(info["sigma"]))
            before.append(len(asked))

        options = dict(self.options)
        options |= {"callback": seen} if "callback" in self.takes else {}
        options |= {"disable": True} if "disable" in self.takes else {}
        options |= {"noise_sampler": Increments(start)} if "noise_sampler" in self.takes else {}
        if "n" in self.takes:
            low, high = float(levels[levels > 0].min()), float(levels[0])
            end = self.function(model, start.clone(), low, high, steps, **options)
            levels = torch.tensor([*listed, low], dtype=torch.float64)
        else:
            end = self.function(model, start.clone(), sigmas=levels.clone(), **options)
        if "callback" not in self.takes:
            states, levels = [start], levels[[0, -1]]
        told = _told(levels, listed, asked, before) if listed else None
        return Walk(torch.ones_like(levels), levels, torch.stack([*states, end]), told)


def _told(levels: Tensor, listed: list[float], asked: list[float], before: list[int]) -> Tensor:
    """Log-SNRs ``[C, 2]``: told in each step's first call, and what the callback says of it; beside those of the σ's given.

    Args:
        levels: the σ's given.
        listed: the callback's.
        asked: of every call.
        before: how many calls came before each callback, which may be just before a step's first call or just after it.
    """
    calls = [k - 1 for k in before] if before[0] > 0 else before
    first = torch.tensor([asked[k] if k < len(asked) else math.nan for k in calls], dtype=torch.float64)
    said = torch.tensor(listed, dtype=torch.float64)
    return torch.cat([torch.stack([-2 * told.log(), -2 * levels[: len(told)].log()], 1) for told in (first, said)])


def targets() -> Iterator[Target]:
    """Every sampler of ``k_diffusion.sampling`` of fixed steps, on every list of σ's that it has.

    Raises:
        ImportError: k-diffusion is not installed; says which extra brings it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pkg_resources", UserWarning)  # of what it imports
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        library("k_diffusion", TESTED, distribution="k-diffusion", extra="k-diffusion")
        sampling = importlib.import_module("k_diffusion.sampling")

    ends = (SIGMA_MIN, SIGMA_MAX)
    own = "k_diffusion.get_sigmas_"
    yield karras_table(own + "karras", sampling.get_sigmas_karras(100, *ends)[:-1], *ends)
    yield exponential_table(own + "exponential", sampling.get_sigmas_exponential(100, *ends)[:-1], *ends)
    yield vp_table(own + "vp", sampling.get_sigmas_vp(100)[:-1])
    lists: dict[str, Sigmas] = {
        "karras": lambda n: sampling.get_sigmas_karras(n, SIGMA_MIN, SIGMA_MAX).double(),
        "exponential": lambda n: sampling.get_sigmas_exponential(n, SIGMA_MIN, SIGMA_MAX).double(),
        "vp": lambda n: sampling.get_sigmas_vp(n).double(),
    }
    ode, two = Claims(order=1), Claims(order=2)
    listed: list[tuple[str, Claims, dict[str, Any]]] = [
        ("euler", ode, {}),
        ("euler_ancestral", Claims(order=1, variance=rules.posterior), {}),
        ("euler_ancestral", Claims(order=1, variance=rules.eta(0.5)), {"eta": 0.5}),
        ("heun", two, {}),
        ("dpm_2", two, {}),
        ("dpm_2_ancestral", Claims(order=1, variance=rules.posterior), {}),
        ("lms", two, {"order": 4}),
        ("dpm_fast", Claims(order=2, dtype=torch.float32), {}),
        ("dpmpp_2s_ancestral", Claims(order=1, variance=rules.posterior), {}),
        ("dpmpp_2s_ancestral", two, {"eta": 0.0}),
        ("dpmpp_sde", Claims(order=1), {}),
        ("dpmpp_2m", two, {}),
        ("dpmpp_2m_sde", Claims(order=1), {"solver_type": "midpoint"}),
        ("dpmpp_2m_sde", Claims(order=1), {"solver_type": "heun"}),
        ("dpmpp_2m_sde", two, {"solver_type": "midpoint", "eta": 0.0}),
        ("dpmpp_2m_sde", two, {"solver_type": "heun", "eta": 0.0}),
        ("dpmpp_3m_sde", Claims(order=1), {}),
        ("dpmpp_3m_sde", two, {"eta": 0.0}),
    ]
    for name, claims, options in listed:
        function = getattr(sampling, f"sample_{name}")
        for words, sigmas in lists.items():
            # Near the data the steps of this list are long: orders are seen where they are short.
            fine = words == "vp" and claims.dtype == torch.float64
            mine = replace(claims, steps=(256, 512, 1024)) if fine else claims
            yield FunctionTarget(function, sigmas, mine, f"k_diffusion.sample_{name}", words, **options)
