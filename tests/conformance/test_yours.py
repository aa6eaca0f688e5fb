"""An object of one's own: how it is named, what it must be able to do, and what the command says of it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conformance import yours
from unidiff.cli import main
from unidiff.conformance import Claims, conformance, suite
from unidiff.conformance.yours import SchedulerTarget, adapted

HERE = "tests.conformance.yours"


def test_a_scheduler_is_found_by_its_path_and_its_fault_is_told() -> None:
    report = conformance(f"{HERE}:wrong", only=["levels", "point"], point=True)
    assert [(c.target, c.identity, c.verdict) for c in report.checks] == [
        (f"{HERE}:wrong", "levels", "pass"), (f"{HERE}:wrong", "point", "fail"),
    ]  # fmt: skip
    assert report.exit_status == 1
    assert conformance(f"{HERE}:scheduler", only=["levels", "point"]).exit_status == 0
    assert conformance(yours.scheduler, only=["point"]).exit_status == 0
    assert conformance(f"{HERE}:Scheduler", only=["point"]).exit_status == 0  # a class, made without arguments


@pytest.mark.parametrize(
    ("target", "error", "said"),
    [
        (f"{HERE}:HalfScheduler", TypeError, "as a scheduler it lacks step; as a sampler it must take"),
        (max, TypeError, "as a sampler it must take"),
        ("tests.conformance.raises:x", ValueError, "RuntimeError: boom"),
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
    for order, error in ((float("nan"), ValueError), (-1.0, ValueError), ("2", TypeError)):
        with pytest.raises(error, match="order must be"):
            conformance(yours.scheduler, order=order)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="only must be a sequence of names, got 'point'"):
        conformance(yours.scheduler, only="point")
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
    assert conformance(lying, only=["point"], point=True).exit_status == 1


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
    assert main(["conformance", f"{HERE}:wrong", "--out", str(tmp_path), "--point", "yes"]) == 1
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


class DDPM(yours.Scheduler):
    """Ho et al.'s other variance, β: right, and no keeper of one point's law."""

    def __init__(self, way: str = "", count: int = yours.T) -> None:
        super().__init__()
        self.way, self.count = way, count
        self.alphas_cumprod = torch.cumprod(
            1 - torch.linspace(1e-3, 0.2, count, dtype=torch.float64) * yours.T / count, 0
        )

    def set_timesteps(self, n: int) -> None:
        self.timesteps = torch.linspace(self.count - 1, 0, n).round().long()

    def step(self, output, time, x):
        later = [int(t) for t in self.timesteps if t < time]
        now = self.alphas_cumprod[time]
        before = self.alphas_cumprod[later[0]] if later else now.new_ones(())
        x0 = (x - (1 - now).sqrt() * output) / now.sqrt()
        share = 1 - now * (1 - before) / (before * (1 - now))
        mean = before.sqrt() * share * x0 + (now / before).sqrt() * (1 - before) / (1 - now) * x
        if not later:
            return (mean,)
        std = (share * (1 - now)).sqrt()
        if self.way == "normal":
            return (torch.normal(mean, std.expand_as(mean)),)
        if self.way == "in place":
            return (x.copy_(mean + std * torch.randn(x.shape, dtype=x.dtype)),)
        if self.way == "numpy":
            return (mean + std * torch.from_numpy(np.random.default_rng().normal(size=x.shape)),)
        if self.way == "a row at a time":
            return (mean + std * torch.stack([torch.randn(x.shape[1:], dtype=x.dtype) for _ in x]),)
        return (mean + std * torch.randn_like(x),)


@pytest.mark.parametrize("way", ["", "normal", "in place"])
def test_a_right_sampler_that_claims_nothing_is_not_accused(way) -> None:
    report = conformance(DDPM(way, 600), order=1)
    assert {c.identity: c.verdict for c in report.checks} == {
        "levels": "pass",
        "point": "inconclusive",
        "order": "pass",
    }
    assert "only a sampler that claims it" in report.checks[1].detail
    assert conformance(DDPM(way, 600), order=1, point=False).exit_status == 0
    assert conformance(DDPM(way), point=True).exit_status == 1


@pytest.mark.parametrize(
    ("way", "said"), [("numpy", "draws what is not torch's"), ("a row at a time", "all of the batch's 3 rows")]
)
def test_draws_that_are_not_seen_are_told_and_no_violation(way, said) -> None:
    with pytest.raises(TypeError, match=said):
        conformance(DDPM(way))


def test_an_order_is_asked_in_steps_that_there_are() -> None:
    found = conformance(yours.Scheduler(), order=1, only=["order"]).checks[0]  # of 50 timesteps
    assert found.verdict == "inconclusive"
    assert "too few timesteps" in found.detail
    assert conformance(DDPM("", 600), order=2, only=["order"]).exit_status == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"alphas_cumprod": torch.tensor([1.0, 0.5, 0.1])}, "between 0 and 1"),
        ({"alphas_cumprod": None}, "must have alphas_cumprod"),
        ({"sigmas": torch.ones(3)}, "its states are at sigmas"),
        ({"step": lambda output, time, x: {}[time]}, "cannot be walked: KeyError"),
        ({"timesteps": torch.tensor([3, 3]), "set_timesteps": lambda n: None}, "timesteps must be distinct"),
        ({"timesteps": torch.tensor([3, -1]), "set_timesteps": lambda n: None}, "timesteps must be distinct, in 0"),
    ],
)
def test_a_scheduler_that_cannot_be_walked_is_refused_before_any_question(change, said) -> None:
    made = yours.Scheduler()
    for name, value in change.items():
        setattr(made, name, value)
    with pytest.raises(TypeError, match=said):
        conformance(made)


def test_a_list_of_alphas_is_as_good_as_a_tensor() -> None:
    made = yours.Scheduler()
    table = made.alphas_cumprod

    class Listed(yours.Scheduler):
        def step(self, output, time, x):
            made.timesteps = self.timesteps
            return made.step(output, time, x)

    listed = Listed()
    listed.alphas_cumprod = table.tolist()  # pyright: ignore[reportAttributeAccessIssue]
    assert {c.dtype for c in conformance(listed, only=["point"], point=True).checks} == {"float64"}


def test_functions_may_take_sigmas_by_name_and_work_in_place_or_in_float32() -> None:
    def named(model, x, *, sigmas, callback=None):
        return yours.euler(model, x, sigmas, callback)

    def in_place(model, x, sigmas, callback=None):
        for k in range(len(sigmas) - 1):
            if callback is not None:
                callback({"x": x, "sigma": sigmas[k]})
            x += (x - model(x, float(sigmas[k]))) / sigmas[k] * (sigmas[k + 1] - sigmas[k])
        return x

    def narrow(model, x, sigmas, callback=None):
        return yours.euler(model, x.float(), sigmas.float(), callback)

    for function in (named, in_place, narrow):
        report = conformance(function, order=1, point=True)
        assert report.exit_status == 0, [c.detail for c in report.checks]


def test_a_second_call_in_a_step_is_not_held_to_the_steps_level() -> None:
    def heun(model, x, sigmas, callback=None):
        for k in range(len(sigmas) - 1):
            slope = (x - model(x, sigmas[k])) / sigmas[k]
            if callback is not None:
                callback({"x": x, "sigma": sigmas[k]})
            ahead = x + slope * (sigmas[k + 1] - sigmas[k])
            if sigmas[k + 1] > 0:
                slope = (slope + (ahead - model(ahead, sigmas[k + 1])) / sigmas[k + 1]) / 2
            x = x + slope * (sigmas[k + 1] - sigmas[k])
        return x

    report = conformance(heun, order=2, point=True)
    assert report.exit_status == 0, [c.detail for c in report.checks]


def test_a_network_that_is_told_another_level_is_found() -> None:
    def first(model, x, sigmas, callback=None):
        return yours.euler(lambda x, sigma: model(x, sigmas[0].expand(len(x))), x, sigmas, callback)

    def near(model, x, sigmas, callback=None):
        return yours.euler(lambda x, sigma: model(x, sigma * (1 + 1e-6)), x, sigmas, callback)

    def none(model, x, sigmas, callback=None):
        return yours.euler(lambda x, sigma: model(x, sigma * float("nan")), x, sigmas, callback)

    for function in (first, near, none):
        found = conformance(function, only=["levels"]).checks[0]
        assert found.verdict == "fail"
    assert "told at call 1" in conformance(first, only=["levels"]).checks[0].detail
