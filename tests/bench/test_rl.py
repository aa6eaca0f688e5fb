"""The benchmark of methods: its figures are those that the estimators find, and its settings reach every method."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import image

import unidiff.rl
from unidiff.bench import rl, rl_methods
from unidiff.bench.rl import RLBenchOptions, process
from unidiff.bench.rl_methods import BEST_OF, FREE, METHODS, PAIRS, PARTICLES, SETTINGS, Bench, Counted, Size
from unidiff.core import networks
from unidiff.report.tilted import beside
from unidiff.rl import DPO, Method, Policy, corrected, path_kl, reachable
from unidiff.worlds import Estimate

TINY = Size(
    {"rounds": 2, "chains": 64, "epochs": 1, "rows": 512, "lr": 1e-3}, {"backprop": {"rounds": 3}}, 256, 512, 40
)
LIKE = torch.empty(0, 2)


def bench(draws: int = 256, beta: float = 1.0, reward: str = "quadratic") -> Bench:
    options = RLBenchOptions(beta=beta, steps=6, reward=reward)  # pyright: ignore
    _, exact = process(options, torch.float64, torch.device("cpu"))
    _, mdp = process(options, torch.float32, torch.device("cpu"))
    log_z = Estimate.exact(torch.tensor(reachable(exact, points=48).log_z, dtype=torch.float64))
    return Bench(mdp, log_z, Size(TINY.config, TINY.own, draws, 512), LIKE, seed=0)


def test_every_method_of_the_view_has_its_setting() -> None:
    assert (*SETTINGS, *FREE) == METHODS
    known = {
        v.name for v in vars(unidiff.rl).values() if isinstance(v, type) and issubclass(v, Method) and v is not Method
    }
    assert known == set(SETTINGS)
    assert all(name == setting.method.name for name, setting in SETTINGS.items())


@pytest.mark.statistical
def test_the_figures_of_a_policy_are_those_of_the_estimators() -> None:
    # Two z-tests at 6 of the same figure from other draws: a false alarm once in 2e8. A sign or a lost ½ is 20 errors.
    made = bench(8192)
    torch.manual_seed(0)
    network = networks.MLP(2, 16, 2)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn_like(p))
    core = corrected(made.mdp.chain.core, network)
    walk = Policy(made.mdp, core).walk(8192, torch.Generator().manual_seed(0))
    found = made.read(walk, 0, 0.0)
    chain = core.chain(made.mdp.chain.grid, made.mdp.chain.variance)
    far = path_kl(made.mdp, chain, made.log_z, 8192, torch.Generator().manual_seed(1))
    own, other = found.kl_star, far
    error = math.hypot(float(own.standard_error), float(other.standard_error))
    assert abs(float(own.value - other.value)) < 6 * error < 0.3 * float(other.value)
    # The chain rule: KL to p* is KL to p_ref less E r/β and log Z.
    apart = float(found.kl_ref.value - found.reward.value + made.log_z.value)
    errors = [float(e.standard_error) for e in (found.kl_ref, found.reward, own)]
    assert abs(float(own.value) - apart) < 6 * math.hypot(*errors)


@pytest.mark.statistical
def test_what_needs_no_training_keeps_the_chain_rule_and_knows_its_cost() -> None:
    # Three z-tests at 6; guided and SMC by their weights, best of n by its law: a false alarm once in 1e8.
    made = bench(6400)
    for name, each in (("guided", 7), ("best_of_n", BEST_OF), ("smc_steering", 7)):
        found = made.found(name)
        assert len(found.x0) == 6400
        assert (found.queries, found.queries_each) == (0, each)
        apart = float(found.kl_ref.value - found.reward.value + made.log_z.value)
        errors = [float(e.standard_error) for e in (found.kl_ref, found.reward, found.kl_star)]
        assert abs(float(found.kl_star.value) - apart) < 6 * math.hypot(*errors) + 1e-9
        assert float(found.kl_star.value) > -6 * float(found.kl_star.standard_error)
        assert 6 * float(found.reward.standard_error) < 0.2
        assert (float(found.kl_ref.standard_error) > 0) == (name != "best_of_n")
    assert 6400 % PARTICLES == 0


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if k > 2 else []) for k, name in enumerate(SETTINGS)]
)
def test_each_method_runs_and_its_queries_are_counted(name, monkeypatch) -> None:
    monkeypatch.setattr(rl_methods, "PAIRS", 100)
    seen = []
    found = bench(64).found(name, lambda tuner, line: seen.append(tuner.round))
    rounds = TINY.own.get(name, TINY.config)["rounds"]
    assert seen == list(range(1, rounds + 1))
    per_round = {"d3po": 128, "adjoint": 128}.get(name, 64)
    assert found.queries == (200 if isinstance(SETTINGS[name].method, DPO) else rounds * per_round)
    assert found.queries_each == 0
    assert found.x0.shape == (64, 2)
    assert float(found.kl_ref.value) >= 0


def test_a_counted_reward_is_the_reward() -> None:
    reward = Counted(lambda x: x[:, 0])
    assert torch.equal(reward(torch.ones(5, 2)), torch.ones(5))
    reward(torch.ones(2, 2))
    assert reward.queries == 7
    assert PAIRS == 10_000


def test_a_run_writes_what_it_prints(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(rl, "QUICK", TINY)
    rl.main(
        ["--quick", "--steps", "6", "--methods", "best_of_n", "guided", "--out", str(tmp_path / "a"), "--device", "cpu"]
    )
    told = json.loads((tmp_path / "a" / "rl.json").read_text())
    shown = capsys.readouterr().out
    assert [row["method"] for row in told["rows"]] == ["reference", "best_of_n", "guided", "best σ kept"]
    assert all(row["method"] in shown for row in told["rows"])
    best = told["rows"][-1]
    assert best["kl_star"][0] == told["floor"]["gap"]
    assert told["rows"][0]["kl_ref"][0] == 0
    span = told["optimum"]["reward"][0] - told["optimum"]["reference_reward"][0]
    gained = (best["reward"][0] - told["optimum"]["reference_reward"][0]) / span
    assert best["gained"] == pytest.approx(gained)
    assert image.imread(tmp_path / "a" / "rl.png").shape[2] == 4
    options = RLBenchOptions(quick=True, steps=6, methods=("best_of_n",), out=tmp_path / "b", json=True, device="cpu")
    rl.run(options)
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "b" / "rl.json").read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world": "digits"}, "unknown world 'digits'"),
        ({"methods": ("ddqo",)}, "did you mean 'ddpo'"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"steps": 1}, "steps must be an integer of at least 2"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_an_option_out_of_range_is_named(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        RLBenchOptions(**changes)


def test_the_contours_hold_their_shares_of_the_mass() -> None:
    x = np.linspace(-5, 5, 201)
    log_density = -0.5 * (x[:, None] ** 2 + x**2)
    figure = beside(x, x, log_density, {"a": np.zeros((3, 2)), "b": np.ones((3, 2))}, "p")
    # Of N(0, I) the level around a share s is 1 − s of the height at the middle.
    levels = figure.axes[1].collections[0].levels  # pyright: ignore
    np.testing.assert_allclose(levels, [0.05, 0.25, 0.5, 0.75], atol=0.01)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["p", "a", "b"]
    with pytest.raises(ValueError, match="log_density must have shape"):
        beside(x, x[:5], log_density, {}, "p")
