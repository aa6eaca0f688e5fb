"""The chain whose variances are a table: what it refuses, what it equals, and that every view reads it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import unidiff as ud
from unidiff.core.chain import ReverseChain
from unidiff.core.networks import MLP
from unidiff.rl import DenoisingMDP
from unidiff.rl.mdp import fixed_variance
from unidiff.train.finetune_state import describe_process
from unidiff.worlds import OracleDenoiser, library

GRID = ud.TimeGrid.uniform(3, 0.05)
WORLD = library.mixture_2d()
CORE = ud.Diffusion(ud.Schedule.cosine(), OracleDenoiser(WORLD))
TABLE = torch.tensor([-3.0, -2.0, -0.5], dtype=torch.float64)
X = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "table", "message"),
    [
        ("given", None, r"log_var, a table \[3\], is for variance 'given' and needed there, got none"),
        ("posterior", TABLE, "log_var, .* got one with variance 'posterior'"),
        ("optimal", TABLE, "log_var, .* got one with variance 'optimal'"),
        ("given", TABLE[:2], r"log_var must be finite and have shape \[3\]"),
        ("given", TABLE[:, None], r"log_var must be finite and have shape \[3\]"),
        ("given", TABLE[0], r"log_var must be finite and have shape \[3\]"),
        ("given", TABLE * math.nan, r"log_var must be finite and have shape \[3\], got tensor\(\[nan"),
        ("given", TABLE - math.inf, r"log_var must be finite and have shape \[3\]"),
        ("given", [-3.0, -2.0, -1.0], "log_var must be a floating-point tensor, got list"),
        ("given", torch.zeros(3, dtype=torch.long), "log_var must be a floating-point tensor, got torch.int64"),
        ("table", TABLE, "unknown variance 'table'"),
    ],
)
def test_a_table_that_is_none_is_refused(rule: Any, table: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        ReverseChain(CORE, GRID, rule, log_var=table)


def test_a_table_and_a_spread_of_the_data_are_not_given_at_once() -> None:
    with pytest.raises(ValueError, match="x0_variance is for variance 'optimal', got it with variance 'given'"):
        CORE.chain(GRID, "given", torch.ones(3), TABLE)


@pytest.mark.parametrize("rule", ["posterior", "prior"])
def test_given_a_rules_own_table_it_is_that_rules_chain(rule: Any) -> None:
    known = CORE.chain(GRID, rule)
    own = CORE.chain(GRID, "given", log_var=getattr(known.table, f"log_{rule}_var"))
    for k in range(1, 4):
        mine, yours = own.step(X, k), known.step(X, k)
        assert torch.equal(mine.mean, yours.mean) and torch.equal(mine.log_var, yours.log_var)
    rows = torch.tensor([1, 2, 3, 3, 1])
    mine, yours = (c.kernel(X, rows, CORE.denoiser(X, c.levels[rows])) for c in (own, known))
    assert torch.equal(mine.mean, yours.mean) and torch.equal(mine.log_var, yours.log_var)


def test_each_step_has_its_own_entry_and_the_states_dtype() -> None:
    chain = CORE.chain(GRID, "given", log_var=TABLE.float())
    for k in range(1, 4):
        log_var = chain.step(X, k).log_var
        assert log_var.dtype == torch.float64
        assert log_var.unique().tolist() == [float(TABLE.float()[k - 1])]


def test_the_gradient_reaches_the_table_and_what_changes_it_changes_the_chain() -> None:
    table = TABLE.clone().requires_grad_()
    chain = CORE.chain(GRID, "given", log_var=table)
    (slope,) = torch.autograd.grad(chain.step(X, 2).entropy().sum(), table)
    assert slope.tolist() == [0.0, 5.0, 0.0]  # D/2 of each of five rows
    with torch.no_grad():
        table += 1.0
    assert float(chain.step(X, 3).log_var.detach().flatten()[0]) == 0.5


def test_it_is_a_decision_process_like_any_other() -> None:
    known = CORE.chain(GRID, "prior")
    ends = []
    for chain in (known, CORE.chain(GRID, "given", log_var=known.table.log_prior_var)):
        mdp = DenoisingMDP(chain, lambda x: x[:, 0], beta=0.5)
        state = mdp.start(4, torch.Generator().manual_seed(0), like=X)
        assert fixed_variance(chain)
        for _ in range(mdp.horizon):
            outcome = mdp.step(state, 0.3 * torch.ones_like(state.x))
            state = outcome.state
        ends.append((state.x, outcome.reward))
    assert torch.equal(ends[0][0], ends[1][0]) and torch.equal(ends[0][1], ends[1][1])


def test_a_process_is_told_with_its_table() -> None:
    told = [describe_process(DenoisingMDP(CORE.chain(GRID, "given", log_var=t))) for t in (TABLE, TABLE + 1)]
    assert told[0]["log_var"] == TABLE.tolist() and told[0] != told[1]
    assert describe_process(DenoisingMDP(CORE.chain(GRID)))["log_var"] is None


def test_where_no_table_can_be_given_the_rule_is_none() -> None:
    network = ud.Denoiser(MLP(2, 8, 1), (2,), "x0")
    core = ud.Diffusion(ud.Schedule.cosine(), network)
    with pytest.raises(ValueError, match="unknown variance 'given'"):
        ud.HierarchicalVAE(core, variance="given")


def test_a_table_that_changes_is_the_one_that_is_read_on_another_device_too() -> None:
    table = TABLE.clone()
    chain, like = CORE.chain(GRID, "given", log_var=table), torch.empty(0, device="meta")
    assert chain.beside(like).table is chain.beside(like).table  # what does not change is copied once
    assert chain.beside(like).given is not chain.beside(like).given


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": torch.float16}, ValueError, "dtype must be torch.float32 or torch.float64, got torch.float16"),
        ({"dtype": "float32"}, ValueError, "dtype must be torch.float32 or torch.float64, got 'float32'"),
        ({"device": "tpu"}, ValueError, "device must be cpu, cuda or cuda:N"),
        ({"generator": 3}, TypeError, "generator must be a Generator, got 3"),
    ],
)
def test_draws_are_refused_by_name(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CORE.chain(GRID).sample(3, **options)
