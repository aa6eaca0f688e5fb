"""An object of one's own: how it is named, what it must be able to do, and what the command says of it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from tests.conformance import yours
from unidiff.cli import main
from unidiff.conformance import Claims, conformance, suite
from unidiff.conformance.yours import SchedulerTarget, adapted

HERE = "tests.conformance.yours"


def test_a_scheduler_is_found_by_its_path_and_its_fault_is_told() -> None:
    report = conformance(f"{HERE}:wrong", only=["levels", "point"])
    assert [(c.target, c.identity, c.verdict) for c in report.checks] == [
        (f"{HERE}:wrong", "levels", "pass"), (f"{HERE}:wrong", "point", "fail"),
    ]  # fmt: skip
    assert report.exit_status == 1
    assert conformance(f"{HERE}:scheduler", order=1, only=["levels", "point"]).exit_status == 0
    assert conformance(yours.scheduler, only=["point"]).exit_status == 0
    assert conformance(f"{HERE}:Scheduler", only=["point"]).exit_status == 0  # a class, made without arguments


@pytest.mark.parametrize(
    ("target", "error", "said"),
    [
        (f"{HERE}:HalfScheduler", TypeError, "as a scheduler it lacks step; as a sampler it must take"),
        (f"{HERE}:T", TypeError, "lacks alphas_cumprod, set_timesteps, step"),
        (f"{HERE}:nobody", ValueError, "it has no nobody"),
        ("tests.conformance.nowhere:x", ValueError, "target must be importable"),
        (":x", ValueError, r'target must be a library or "path.to:object"'),
        ("difusers", ValueError, "unknown target 'difusers'; .*diffusers"),
        (3, TypeError, "target int cannot be adapted"),
    ],
)
def test_what_cannot_be_adapted_says_what_it_lacks(target, error, said) -> None:
    with pytest.raises(error, match=said):
        conformance(target)


def test_other_arguments_are_looked_at_before_any_work() -> None:
    with pytest.raises(ValueError, match="unknown only 'pointt'; .*point"):
        conformance(yours.scheduler, only=["pointt"])
    with pytest.raises(ValueError, match="workers must be"):
        conformance("azula", workers=0)
    with pytest.raises(ValueError, match="nothing was checked"):
        conformance(yours.scheduler, only=["order"])  # no order is claimed
    wrong = yours.Scheduler()
    wrong.prediction_type = "noise"
    with pytest.raises(ValueError, match=r"one of epsilon, sample, v_prediction, got prediction_type='noise'"):
        conformance(wrong)

    class Needy(yours.Scheduler):
        def __init__(self, size: int) -> None:
            super().__init__()

    with pytest.raises(TypeError, match="must be made without arguments, or given as an instance"):
        adapted(Needy)


@pytest.mark.parametrize("predicts", ["epsilon", "sample", "v_prediction"])
def test_what_a_network_predicts_is_told_by_the_scheduler(predicts) -> None:
    class Other(yours.Scheduler):
        prediction_type = predicts

        def step(self, output, time, x):
            now = self.alphas_cumprod[time]
            alpha, sigma = now.sqrt(), (1 - now).sqrt()
            eps = {
                "epsilon": output, "sample": (x - alpha * output) / sigma, "v_prediction": alpha * output + sigma * x,
            }[predicts]  # fmt: skip
            return super().step(eps, time, x)

    assert conformance(Other(), only=["point"]).exit_status == 0
    lying = Other()
    lying.prediction_type = "sample" if predicts == "epsilon" else "epsilon"
    assert conformance(lying, only=["point"]).exit_status == 1


def test_a_target_of_ones_own_is_taken_as_it_is() -> None:
    made = SchedulerTarget(yours.Scheduler(), Claims(point=False), "mine")
    assert [c.identity for c in conformance(made).checks] == ["levels"]


@pytest.mark.parametrize(
    ("name", "extra"), [("diffusers", "interop"), ("azula", "interop"), ("k-diffusion", "k-diffusion")]
)
def test_a_library_that_is_not_installed_names_its_extra(name, extra, monkeypatch) -> None:
    def missing(module: str):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    importlib.import_module(f"unidiff.conformance.{suite.LIBRARIES[name]}")
    real = importlib.import_module

    def mine(path):
        return real(path) if path.startswith("unidiff") else missing(path)

    monkeypatch.setattr(importlib, "import_module", mine)
    with pytest.raises(ImportError, match=rf"pip install 'unidiff\[{extra}\]'"):
        conformance(name)


def test_the_command_prints_a_table_writes_a_page_and_returns_1_for_a_violation(tmp_path, capsys) -> None:
    assert main(["conformance", f"{HERE}:wrong", "--out", str(tmp_path), "--workers", "1"]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "✗ 1" in told
    assert "violated:" in told
    assert "mean of x_0 = 1 in state 1" in told
    page = Path(tmp_path / "index.html").read_text(encoding="utf-8")
    assert "1 of 2 checks are violated." in page
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_json_is_verifys_with_a_target_in_each_check(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    assert main(["conformance", f"{HERE}:scheduler", "--json", "--order", "1", "--only", "levels", "point"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"checks", "summary", "versions"}
    assert {check["target"] for check in document["checks"]} == {f"{HERE}:scheduler"}
    assert {"identity", "views", "world", "schedule", "dtype", "law", "residual", "tolerance", "verdict"} <= set(
        document["checks"][0]
    )
    assert document["summary"]["conventions"] == 0
    assert not list(tmp_path.iterdir())  # with --json, no page unless it is asked for


def test_the_command_must_be_told_a_target(capsys) -> None:
    assert main(["conformance"]) == 64
    assert main(["conformance", "--json"]) == 64
    assert main(["conformance", f"{HERE}:HalfScheduler"]) == 64
    assert "lacks step" in capsys.readouterr().err
