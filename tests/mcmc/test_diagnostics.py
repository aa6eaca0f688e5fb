"""The diagnostics say that good chains are good, and say of bad ones what is wrong."""

from __future__ import annotations

import builtins
import importlib.util
import warnings

import pytest
import torch

from unidiff.score import HMC, MALA, ULA, AcceptanceWarning, Chains, State, Target, langevin

STANDARD = Target.from_energy(lambda x: 0.5 * x.square().sum(1))

arviz = pytest.mark.skipif(importlib.util.find_spec("arviz") is None, reason="needs arviz")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def funnel(x: torch.Tensor) -> torch.Tensor:
    """Neal's: v ~ N(0, 9), nine more ~ N(0, e^v) (Neal 2003, section 8)."""
    v, rest = x[:, 0], x[:, 1:]
    return v.square() / 18 + 0.5 * rest.square().sum(1) * torch.exp(-v) + 4.5 * v


@arviz
def test_chains_that_mix_are_told_so() -> None:
    x = torch.randn(8, 3, generator=seeded(), dtype=torch.float64)
    summary = langevin(
        STANDARD, x, 600, kernel=HMC(0.5, leapfrog=4), warmup=200, acceptance=0.8, keep_every=1, generator=seeded(1)
    ).summary()
    assert summary.mixed, str(summary)
    assert summary.rhat.shape == summary.ess_bulk.shape == summary.ess_tail.shape == (3,)
    assert (summary.rhat - 1).abs().max() < 0.01
    assert summary.draws == (600, 8)
    assert "split R-hat" in str(summary)


@arviz
def test_effective_draws_of_independent_ones_are_all_of_them() -> None:
    # ULA at δ = 1 on N(0, 1) forgets all in a step: x ← √2 ξ.
    chains = langevin(STANDARD, torch.zeros(4, 2).double(), 2000, kernel=ULA(1.0), keep_every=1, generator=seeded())
    assert chains.summary().ess_bulk / 8000 == pytest.approx(1.0, abs=0.1)


@arviz
@pytest.mark.parametrize("kernel", [MALA(0.05), pytest.param(HMC(0.2, leapfrog=10), marks=pytest.mark.slow)])
def test_a_funnel_cannot_be_mixed_and_the_diagnostics_say_so(kernel) -> None:
    x = torch.randn(20, 10, generator=seeded(), dtype=torch.float64)
    with warnings.catch_warnings():
        # A chain in the neck may be stuck for the whole run, and is then warned of too.
        warnings.simplefilter("ignore", AcceptanceWarning)
        chains = langevin(
            Target.from_energy(funnel), x, 500, kernel=kernel, warmup=300, keep_every=1, generator=seeded(1)
        )
    summary = chains.summary()
    assert not summary.mixed
    assert any("R-hat" in fault for fault in summary.faults)
    # And they are right: the neck, half of the law's mass, is under-visited or the mouth not reached.
    assert chains.trace is not None
    assert abs(float(chains.trace[..., 0].std()) - 3) > 0.3


@arviz
def test_chains_in_two_modes_disagree() -> None:
    far = Target.from_energy(lambda x: -torch.logaddexp(-8 * (x[:, 0] - 2).square(), -8 * (x[:, 0] + 2).square()))
    x = torch.tensor([[2.0], [-2.0], [2.0], [-2.0]], dtype=torch.float64)
    summary = langevin(far, x, 400, kernel=MALA(0.02), keep_every=2, generator=seeded()).summary()
    assert summary.rhat.item() > 1.5
    assert "start them apart" in summary.faults[0]


@arviz
def test_chains_that_never_move_are_no_success() -> None:
    with pytest.warns(UserWarning, match="acceptance is 0"):
        chains = langevin(STANDARD, torch.zeros(4, 2), 40, kernel=MALA(1e6), keep_every=1, generator=seeded())
    summary = chains.summary()
    assert not summary.mixed
    assert any("acceptance is 0.0000: take a smaller" in fault for fault in summary.faults)


@arviz
def test_a_coarse_path_integral_is_a_fault() -> None:
    rough = Target.from_score(lambda x: -x + 20 * torch.cos(20 * x))
    x = torch.randn(8, 1, generator=seeded())
    chains = langevin(rough, x, 200, kernel=MALA(0.05), keep_every=1, generator=seeded())
    assert any("Metropolis' log ratio is known to" in fault for fault in chains.summary().faults)


def told_of(trace: torch.Tensor, **tallies: torch.Tensor) -> Chains:
    return Chains(State(trace[-1], torch.zeros_like(trace[-1])), MALA(0.1), len(trace), trace, **tallies)


@arviz
def test_the_tails_are_the_worse_of_two_quantiles_and_not_the_bulk() -> None:
    from arviz import convert_to_dataset, ess

    # Signs that are drawn anew, sizes that hardly move: the middle is mixed and the tails are not.
    x, size = [], torch.randn(4, 2, generator=seeded(), dtype=torch.float64)
    noise = torch.randn(500, 2, 4, 2, generator=seeded(1), dtype=torch.float64)
    for fresh, sign in noise:
        size = 0.98 * size + 0.2 * fresh
        x.append(sign.sign() * size.abs())
    trace = torch.stack(x)
    summary = told_of(trace).summary()
    data = convert_to_dataset({"x": trace.transpose(0, 1).numpy()})
    tails = torch.stack([torch.tensor(ess(data, method="quantile", prob=p)["x"].values) for p in (0.05, 0.95)])
    assert summary.ess_tail == pytest.approx(tails.amin(0), rel=1e-6)
    assert float(summary.ess_tail.max()) < 0.5 * float(summary.ess_bulk.min())
    worst = f"{float(summary.ess_tail.min()):.0f}"
    assert any(fault.startswith(f"only {worst} effective draws (tails), fewer than 400") for fault in summary.faults)
    assert f"{worst} (tails)" in str(summary)


@arviz
def test_a_summary_holds_the_means_of_what_held_and_the_count_of_what_did_not() -> None:
    trace = torch.randn(400, 3, 2, generator=seeded(), dtype=torch.float64)
    chains = told_of(
        trace, acceptance=torch.tensor([0.5, 0.7, 0.9]), energy_error=torch.tensor([0.1, torch.nan, 0.3]),
        divergent=torch.tensor([0, 400, 2]), path_error=torch.tensor([0.1, torch.nan, 0.14]),
    )  # fmt: skip
    summary = chains.summary()
    assert summary.acceptance == pytest.approx(0.7)
    assert summary.energy_error == pytest.approx(0.2)
    assert summary.path_error == pytest.approx(0.12)
    assert summary.divergent == 402
    assert [fault.split(":")[0] for fault in summary.faults] == [
        "402 proposals diverged",
        "Metropolis' log ratio is known to 0.12 nats only",
    ]
    assert "acceptance 0.700, energy error 0.2 nats" in str(summary)


@arviz
@pytest.mark.parametrize(
    ("acceptance", "advice"), [(0.04, "smaller"), (0.06, None), (0.99, None), (0.9995, "larger"), (0.0, "smaller")]
)
def test_an_acceptance_out_of_bounds_says_which_way(acceptance: float, advice: str | None) -> None:
    trace = torch.randn(400, 3, 2, generator=seeded(), dtype=torch.float64)
    faults = told_of(trace, acceptance=torch.full((3,), acceptance)).summary().faults
    assert [f"take a {advice} step_size" in fault for fault in faults] == ([] if advice is None else [True])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_every": None}, "chains must have a trace: run them with keep_every"),
        ({"keep_every": 5}, "trace must hold at least 4 states of at least 2 chains, got 2 of 4"),
    ],
)
def test_a_trace_that_says_nothing_is_refused(options, message: str) -> None:
    chains = langevin(STANDARD, torch.zeros(4, 2), 10, kernel=ULA(0.1), **options)
    with pytest.raises(ValueError, match=message):
        chains.summary()


def test_without_arviz_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name, *rest, **options):
        if name == "arviz":
            raise ModuleNotFoundError("No module named 'arviz'")
        return real(name, *rest, **options)

    chains = langevin(STANDARD, torch.zeros(4, 2), 10, kernel=ULA(0.1), keep_every=1)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'unidiff\[diagnostics\]'"):
        chains.summary()
