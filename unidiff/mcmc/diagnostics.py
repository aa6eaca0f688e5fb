r"""Have the chains mixed? Split R̂ and effective sample sizes of the trace, acceptance, energy error: and what to mend.

R̂ is the rank-normalised split R̂ with its folded companion (Vehtari et al. 2021, section 4.1): it compares the spread
between half-chains with that inside them, for location and for scale, and is 1 where they agree. The effective sample
size of the bulk is that of the mean of ranks, of the tails the smaller of the 5% and 95% quantiles' (section 4.3); the
advice is R̂ ≤ 1.01 and 100 effective draws for each of four chains, 400 in all. They are computed by arviz.

They see what the chains visited. Chains that all start in one mode and never leave agree with each other: start them
apart, or from samples of a diffusion. For kernels that reject, proposals that diverge mark regions too narrow for the
step, such as a funnel's neck, which the chains do not enter: no average over them is to be trusted.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unidiff.mcmc.chains import Chains

MOST_RHAT, LEAST_ESS, MOST_PATH_ERROR = 1.01, 400.0, 0.1


@dataclass(frozen=True)
class Summary:
    """What the diagnostics say.

    Attributes:
        rhat: rank-normalised split R̂ of each coordinate, ``[*E]``, float64.
        ess_bulk, ess_tail: effective draws in all chains together, ``[*E]``, float64.
        draws: (kept states, chains).
        step_size: the kernel's, in its own unit.
        acceptance: the mean over chains; this and the next three are None where nothing is rejected.
        energy_error: the mean |H′ − H| in nats.
        divergent: how many proposals diverged, in all chains.
        path_error: the mean estimated |error| of Metropolis' log ratio in nats; None where it is exact.
        faults: what is wrong and what to change, a sentence each; empty where nothing was found.
    """

    rhat: Tensor = field(repr=False)
    ess_bulk: Tensor = field(repr=False)
    ess_tail: Tensor = field(repr=False)
    draws: tuple[int, int]
    step_size: float
    acceptance: float | None
    energy_error: float | None
    divergent: int | None
    path_error: float | None
    faults: tuple[str, ...]

    @property
    def mixed(self) -> bool:
        """Whether nothing was found."""
        return not self.faults

    def __str__(self) -> str:
        kept, chains = self.draws
        lines = [
            f"{chains} chains, {kept} states each, step_size {self.step_size:.4g}",
            f"split R-hat at most {_worst(self.rhat, max):.4f}",
            f"effective draws at least {_worst(self.ess_bulk, min):.0f} (bulk), {_worst(self.ess_tail, min):.0f} (tails)",
        ]
        if self.acceptance is not None:
            lines.append(f"acceptance {self.acceptance:.3f}, energy error {self.energy_error:.3g} nats")
        return "\n".join([*lines, *(f"! {fault}" for fault in self.faults)])


def summarise(chains: Chains) -> Summary:
    """The summary of a run that kept a trace.

    Raises:
        ValueError: no trace, fewer than 4 kept states or fewer than 2 chains.
        ModuleNotFoundError: arviz is not installed; it is the extra ``diagnostics``.
    """
    trace = chains.trace
    if trace is None:
        raise ValueError("chains must have a trace: run them with keep_every=..., got none")
    kept, count = trace.shape[:2]
    if kept < 4 or count < 2:
        raise ValueError(f"trace must hold at least 4 states of at least 2 chains, got {kept} of {count}")
    arviz = _arviz()
    draws = trace.detach().to("cpu", torch.float64).transpose(0, 1).flatten(2).numpy()
    with warnings.catch_warnings():
        # A coordinate that never moved divides zero by zero; its NaN is reported as a fault.
        warnings.simplefilter("ignore")
        data = arviz.convert_to_dataset({"x": draws})
        found = [arviz.rhat(data, method="rank"), arviz.ess(data, method="bulk"), arviz.ess(data, method="tail")]
    rhat, bulk, tail = (torch.from_numpy(f["x"].values.copy()).reshape(trace.shape[2:]) for f in found)
    means = [
        None if v is None else float(v.nanmean()) for v in (chains.acceptance, chains.energy_error, chains.path_error)
    ]
    divergent = None if chains.divergent is None else int(chains.divergent.sum())
    return Summary(
        rhat, bulk, tail, (kept, count), chains.step_size, means[0], means[1], divergent, means[2],
        tuple(_faults(rhat, bulk, tail, means[0], divergent, means[2])),
    )  # fmt: skip


def _faults(
    rhat: Tensor, bulk: Tensor, tail: Tensor, acceptance: float | None, divergent: int | None, path_error: float | None
) -> list[str]:
    faults = []
    high = int((~(rhat <= MOST_RHAT)).sum())
    if high:
        faults.append(
            f"split R-hat is above {MOST_RHAT} in {high} of {rhat.numel()} coordinates (at most "
            f"{_worst(rhat, max):.3g}): the chains do not agree; run longer, or start them apart"
        )
    for name, ess in (("bulk", bulk), ("tails", tail)):
        if not _worst(ess, min) >= LEAST_ESS:
            faults.append(
                f"only {_worst(ess, min):.0f} effective draws ({name}), fewer than {LEAST_ESS:.0f}: run longer"
            )
    if acceptance is not None and not 0.05 < acceptance < 0.999:
        faults.append(f"acceptance is {acceptance:.4f}: take a {'smaller' if acceptance < 0.5 else 'larger'} step_size")
    if divergent:
        faults.append(
            f"{divergent} proposals diverged: somewhere the law is too narrow for the step, and the chains do not enter "
            "there; take a smaller step_size or other coordinates"
        )
    if path_error is not None and path_error > MOST_PATH_ERROR:
        faults.append(
            f"Metropolis' log ratio is known to {path_error:.2g} nats only: take a smaller step_size, or more panels "
            "in Target.from_score"
        )
    return faults


def _worst(value: Tensor, which: Any) -> float:
    """The extreme entry; NaN if any is."""
    return float("nan") if bool(torch.isnan(value).any()) else which(value.flatten().tolist())


def _arviz() -> Any:
    try:
        with warnings.catch_warnings():
            # Its own announcements at import.
            warnings.simplefilter("ignore")
            import arviz
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("summary() needs arviz: pip install 'unidiff[diagnostics]'") from error
    return arviz
