r"""The whole budget, in nats: where the data's information goes on the way to noise, and what it costs to buy it back.

    H(x_t) = H(x_t|x_0) + I(x_0; x_t)                              of the entropy, what is noise and what is still data
    KL(q_0‖π_0) = KL(q_t‖π_t) + ∫_0^t ½g²E‖∇log q + z/r²‖² du      what has been dissipated, and what is left to lose
    Σ_k KL_k ≥ I(x_0; x_{t_0}) − I(x_0; x_{t_N})                   what a chain of N steps spends on the way back

The last is items 24 and 31: with infinitely many steps of the exact denoiser the chain spends just what it learns, with
N steps, or a network, more. (Kingma et al. 2021, eq. 12; Guo, Shamai & Verdú 2005.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unidiff.core.boundary import as_sequence, check_time
from unidiff.core.grid import TimeGrid
from unidiff.core.ladder import Ladder
from unidiff.thermo.arguments import as_network, asked, check_noisy, given
from unidiff.thermo.bounds import noise_entropy
from unidiff.thermo.fluctuations import step_costs
from unidiff.thermo.work import Paths

if TYPE_CHECKING:
    from unidiff.thermo.model import Thermodynamics

_PATHS = 1024  # of the way back, at most, from a world's draws


@dataclass(frozen=True, eq=False)
class Return:
    """The way back along a grid t_0 < … < t_N.

    Attributes:
        times, log_snr: t_0 … t_N and their λ, ``[N + 1]``.
        spent: the chain's KLs from t_N down to each time, ``[N + 1]``, in nats; 0 at t_N.
        spent_error: its standard error, ``[N + 1]``.
        steps: the KL of steps 1 … N, ``[N]``, in nats.
        steps_error: its standard error, ``[N]``.
    """

    times: Tensor
    log_snr: Tensor
    spent: Tensor
    spent_error: Tensor
    steps: Tensor
    steps_error: Tensor


@dataclass(frozen=True, eq=False)
class Budget:
    """The budget at T times, in nats; every tensor is float64 ``[T]``, errors are standard errors (0 if exact).

    Attributes:
        times, log_snr: where.
        slope: dλ/dt there, which turns a rate per unit of t into one per unit of log-SNR.
        entropy, entropy_error: H(x_t).
        noise_entropy: H(x_t|x_0).
        information, information_error: I(x_0; x_t).
        kl, kl_error: KL(q_t ‖ π_t) to the law that the forward process carries into the prior.
        production, production_error: the rate at which that falls, per unit of t.
        back: what a chain spends on the way back, if a grid was given.
    """

    times: Tensor
    log_snr: Tensor
    slope: Tensor
    entropy: Tensor
    entropy_error: Tensor
    noise_entropy: Tensor
    information: Tensor
    information_error: Tensor
    kl: Tensor
    kl_error: Tensor
    production: Tensor
    production_error: Tensor
    back: Return | None = None

    @property
    def dissipated(self) -> Tensor:
        """Of KL(q_t ‖ π_t), what is gone since the first time, ``[T]``: the integral of ``production``."""
        return self.kl[0] - self.kl

    def rows(self) -> list[dict[str, float]]:
        """A row for each time, by column's name: for a table, or JSON."""
        columns = {
            name: getattr(self, name)
            for name in (
                "times",
                "log_snr",
                "entropy",
                "noise_entropy",
                "information",
                "kl",
                "production",
                "dissipated",
            )
        }
        return [{name: float(v[i]) for name, v in columns.items()} for i in range(len(self.times))]

    def __str__(self) -> str:
        head = f"{'t':>8} {'log-SNR':>8} {'H(x_t)':>9} {'I(x_0;x_t)':>11} {'KL':>9} {'dissipated':>11} {'rate':>9}"
        lines = [
            f"{r['times']:8.4f} {r['log_snr']:8.2f} {r['entropy']:9.4f} {r['information']:11.4f} {r['kl']:9.4f} "
            f"{r['dissipated']:11.4f} {r['production']:9.3g}"
            for r in self.rows()
        ]
        return "\n".join([head, *lines])


def returned(times: Tensor, log_snr: Tensor, costs: Tensor) -> Return:
    """From the KL of steps 1 … N for each of B ≥ 2 data ``[N, B]``."""
    each = costs.to("cpu", torch.float64)
    walked = torch.cat([each.flip(0).cumsum(0).flip(0), torch.zeros_like(each[:1])])
    root = math.sqrt(each.shape[1])
    return Return(times, log_snr, walked.mean(1), walked.std(1) / root, each.mean(1), each.std(1) / root)


def measured(
    view: Thermodynamics,
    times: Sequence[float] | Tensor,
    x0: Tensor | None,
    grid: TimeGrid | None,
    draws: int,
    generator: torch.Generator | None,
    options: dict[str, Any],
) -> Budget:
    """:meth:`Thermodynamics.budget`."""
    at = as_sequence("times", times)
    if at.numel() < 2 or not bool((at.diff() > 0).all()):
        raise ValueError(f"times must be two or more and increase, got {at.tolist()}")
    for t in check_time("times", at)[[0, -1]].tolist():
        check_noisy(view.core, t, "times")
    asked(view.core, view.world, float(at[0]), x0, draws, generator)
    view.core.schedule.diffusion2(at)
    if grid is None and options:
        raise ValueError(
            f"grid must be given for options of the way back, got {', '.join(sorted(options))} without one"
        )
    back = None if grid is None else _drawn(view, Paths.of(view.core, grid, **options), x0, draws, generator)
    level = view.core.schedule.level(at)
    columns: dict[str, Tensor] = {}
    for name, method in (
        ("entropy", view.entropy),
        ("information", view.mutual_information),
        ("kl", view.kl_to_prior),
        ("production", view.entropy_production),
    ):
        found = [method(float(t), x0, draws, generator) for t in at]
        columns[name] = torch.stack([e.value.to(torch.float64) for e in found])
        columns[f"{name}_error"] = torch.stack([e.standard_error.to(torch.float64) for e in found])
    noise = noise_entropy(math.prod(view.core.event_shape), view.core.schedule.log_sigma(at).detach())
    slope = view.core.schedule.log_snr_derivative(at).detach()
    return Budget(at, level.log_snr.detach(), slope, noise_entropy=noise, back=_walked(back), **columns)


@torch.no_grad()
def _drawn(
    view: Thermodynamics, paths: Paths, x0: Tensor | None, draws: int, generator: torch.Generator | None
) -> tuple[Paths, Ladder]:
    """Paths that fit the data, and one of q for each datum; nothing is asked of the network. Raises as Paths.checked."""
    known = view.world
    data = given(x0) if known is None else as_network(view.core, known.sample(min(draws, _PATHS), generator))
    paths = paths.checked(data)
    return paths, paths.draw(data, generator)


@torch.no_grad()
def _walked(back: tuple[Paths, Ladder] | None) -> Return | None:
    if back is None:
        return None
    paths, ladder = back
    return returned(paths.chain.grid.times, paths.chain.levels.log_snr.detach().cpu(), step_costs(paths, ladder))
