"""``unidiff finetune`` and ``unidiff reward`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import unidiff as ud
from unidiff.cli import USAGE, main
from unidiff.cli.rewards import Bench, made
from unidiff.rl import Classifier, Preferences, RewardModel, draw_preferences
from unidiff.train import checkpoint, journal, load_core, save_head
from unidiff.worlds import library
from unidiff.worlds.rewards import Linear

WORLD = ["finetune", "--world", "mixture-2d"]
LINEAR = [*WORLD, "--reward", "linear:1,0.5"]
SHORT = ["--rounds", "2", "--chains", "8", "--steps", "4", "--paths", "32", "--log-every", "1"]
TINY = [*SHORT, "--width", "8", "--depth", "1"]
TRUE = Linear(torch.tensor([1.0, 0.5]))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def status(arguments: list[str]) -> object:
    try:
        return main(arguments)
    except SystemExit as stop:
        return stop.code


def told(arguments: list[str], capsys: Any) -> dict[str, Any]:
    """What a command says, as JSON."""
    capsys.readouterr()
    assert status([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def pairs(n: int = 3000) -> Preferences:
    world, generator = library.mixture_2d().to(torch.float32), torch.Generator().manual_seed(0)
    return draw_preferences(world.sample, TRUE, n, generator)


def network(capsys: Any, *more: str) -> str:
    """The folder of a small trained network."""
    small = ["--width", "8", "--depth", "1", "--steps", "4", "--batch-size", "16", "--device", "cpu"]
    return str(
        Path(told(["train", "--data", "moons", "--out", "runs/net", *small, *more], capsys)["checkpoint"]).parent
    )


@pytest.mark.slow
@pytest.mark.statistical
def test_preferences_to_a_reward_model_to_a_policy_that_gains_most_of_what_there_is(capsys) -> None:
    """Of the true reward, that only the preferences knew: 10⁴ samples tell its mean to 0.01, of a gain of about 1.2."""
    pairs().save("pairs.npz")
    head = told(["reward", "--preferences", "pairs.npz", "--out", "head.safetensors", "--steps", "400"], capsys)
    # A true reward of this spread is told from a coin at 0.7; the binomial error of 300 held out is 0.03.
    assert head["held_out"] == 300 and head["held_out_accuracy"] > 0.6
    arguments = [*WORLD, "--method", "adjoint", "--reward", "model:head.safetensors", "--beta", "1", "--out", "run"]
    run = ["--rounds", "60", "--chains", "128", "--steps", "10", "--lr", "5e-3", "--width", "64", "--depth", "2"]
    found = told([*arguments, *run], capsys)
    at, low, high = (found[name]["value"] for name in ("reward", "reference_reward", "optimum_reward"))
    assert 0.5 < found["share_gained"] < 1.5
    assert found["share_gained"] == pytest.approx((at - low) / (high - low), abs=1e-4)
    assert found["kl_to_optimum"]["value"] + 6 * found["kl_to_optimum"]["standard_error"] < 0.5
    assert found["effective_draws"] > 500
    sample = [
        "sample",
        "--checkpoint",
        "run",
        "--n",
        "10000",
        "--steps",
        "10",
        "--method",
        "ancestral",
        "--out",
        "x.png",
    ]
    x = np.load(told(sample, capsys)["samples"])["x"]
    world = library.mixture_2d()
    tilted = world.tilt(None, TRUE.b, 1.0)[0].mean @ TRUE.b.double()
    before = float(world.mean @ TRUE.b.double())
    share = (float(TRUE(torch.from_numpy(x)).mean()) - before) / (float(tilted) - before)
    assert 0.5 < share < 1.5


def test_a_world_is_corrected_and_the_end_is_told_beside_the_optimum(folder: Path, capsys) -> None:
    assert main([*LINEAR, "--method", "dpok", *TINY, "--out", "run"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "reference_reward: ",
        "optimum_reward: ",
        "share_gained: ",
        "kl_to_optimum: ",
        " ± ",
        "effective_draws: ",
    ):
        assert words in shown
    lines = journal.read("run/metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    assert all({"reward", "kl", "loss"} <= line.keys() for line in lines)
    for picture in ("curves.png", "samples.png"):
        pixels = np.asarray(Image.open(folder / "run" / picture).convert("L"))
        assert pixels.min() < 100 < pixels.max()
    assert load_core("run").event_shape == (2,)
    assert main(["sample", "--checkpoint", "run", "--n", "10", "--steps", "3", "--out", "x.png"]) == 0
    assert np.load("x.npz")["x"].shape == (10, 2)


def test_a_chain_may_stop_at_the_times_of_a_file(capsys) -> None:
    times = [0.0, 0.2, 0.7, 1.0]
    ud.TimeGrid(times).save("grid.json", ud.Schedule.cosine())
    tiny = [*TINY[:4], *TINY[6:]]
    assert main([*LINEAR, "--method", "dpok", *tiny, "--grid", "grid.json", "--out", "run"]) == 0
    assert json.dumps(times) in json.dumps(checkpoint.read(Path("run")).about)


@pytest.mark.parametrize(
    "method",
    ["dpok", "backprop", "dpo", *(pytest.param(s, marks=pytest.mark.slow) for s in ("ddpo", "adjoint", "d3po"))],
)
def test_every_method_trains_a_checkpoint_and_leaves_one(method: str, capsys) -> None:
    net = network(capsys)
    arguments = ["finetune", "--checkpoint", net, "--method", method, "--rank", "2", "--out", "run", *SHORT]
    if method == "dpo":
        pairs(50).save("pairs.npz")
        arguments += ["--preferences", "pairs.npz"]
    else:
        arguments += ["--reward", "linear:1,0"]
    found = told(arguments, capsys)
    assert found["rounds"] == 2
    assert ("kl_to_optimum" in found) == (method != "dpo")
    assert {"reward", "kl"} - ({"reward"} if method == "dpo" else set()) <= journal.read("run/metrics.jsonl")[-1].keys()
    reference, tuned = load_core(net), load_core("run")
    x = torch.randn((4, 2), generator=torch.Generator().manual_seed(0))
    assert reference.state_dict().keys() == tuned.state_dict().keys()
    assert not torch.equal(reference.predict(x, 0.5).x0, tuned.predict(x, 0.5).x0)
    assert main(["sample", "--checkpoint", "run", "--n", "4", "--steps", "3", "--out", "x.png"]) == 0


@pytest.mark.parametrize("spelt", [["clip=1", "decay=1"], ["clip=1", "--set", "decay=1"], ["clip=1", "--set=decay=1"]])
def test_each_set_adds_to_those_before(spelt: list[str], capsys) -> None:
    # What the run has is told where it cannot change.
    told([*LINEAR, "--method", "dpok", "--set", *spelt, *TINY, "--rounds", "1", "--out", "run"], capsys)
    assert status(["finetune", "--out", "run", "--resume", "--set", "clip=3"]) == USAGE
    assert "the run has ('clip=1', 'decay=1'), got ('clip=3',)" in " ".join(capsys.readouterr().err.split())


def test_a_stopped_run_goes_on_with_the_options_it_had_and_refuses_others(capsys) -> None:
    run = [*LINEAR, "--method", "dpok", "--set", "clip=0.2", "decay=1", "--beta", "0.7", *TINY]
    whole = told([*run, "--rounds", "3", "--decay", "constant", "--out", "whole"], capsys)
    torch.manual_seed(1)  # of no account: all that is random is of --seed
    told([*run, "--rounds", "2", "--decay", "constant", "--out", "part"], capsys)
    assert status([*run, "--out", "part"]) == USAGE
    assert "give --resume" in " ".join(capsys.readouterr().err.split())
    for other, message in (
        (["--beta", "0.5"], "beta cannot change on resume: the run has 0.7, got 0.5"),
        (["--method", "ddpo"], "method cannot change on resume: the run has 'dpok', got 'ddpo'"),
        (["--reward", "linear:1,0"], "reward cannot change on resume: the run has 'linear:1,0.5', got 'linear:1,0'"),
        (["--set", "clip=0.2", "--set", "decay=2"], "set cannot change on resume"),
        (["--set", "clip=0.3"], "set cannot change on resume: the run has ('clip=0.2', 'decay=1'), got ('clip=0.3',)"),
        (["--lr", "0.5"], "lr cannot change on resume: the run has 0.001, got 0.5"),
        (["--steps", "5"], "steps cannot change on resume: the run has 4, got 5"),
        (["--world", "gaussian"], "world cannot change on resume: the run has 'mixture-2d', got 'gaussian'"),
    ):
        assert status(["finetune", "--out", "part", "--resume", *other]) == USAGE
        assert message in " ".join(capsys.readouterr().err.split())
    resumed = told(["finetune", "--out", "part", "--resume", "--rounds", "3"], capsys)
    clocks = ("seconds", "checkpoint", "metrics", "curves", "picture", "samples")
    assert {k: v for k, v in resumed.items() if k not in clocks} == {k: v for k, v in whole.items() if k not in clocks}
    assert (resumed["reward"], resumed["rounds"]) == (whole["reward"], 3)
    again = told(["finetune", "--out", "part", "--resume"], capsys)
    assert again["kl_to_reference"] == resumed["kl_to_reference"]
    Path("part/run.json").write_text("3")
    assert status(["finetune", "--out", "part", "--resume"]) == USAGE
    assert "run.json does not say what the run was asked for" in " ".join(capsys.readouterr().err.split())


def test_a_run_that_is_done_says_so(capsys) -> None:
    told([*LINEAR, *TINY, "--out", "run"], capsys)
    assert status(["finetune", "--out", "run", "--resume"]) == 0
    assert "nothing to train: the run is at round 2, at or beyond rounds = 2" in capsys.readouterr().err


def test_an_optimum_that_no_draw_reaches_is_not_vouched_for(capsys) -> None:
    assert status([*LINEAR, *TINY, "--beta", "0.05", "--out", "run"]) == 0
    assert "effective draws of 32 reach the optimum at beta = 0.05" in " ".join(capsys.readouterr().err.split())


def test_without_a_charge_there_is_no_optimum_to_be_beside(capsys) -> None:
    found = told([*LINEAR, "--method", "ddpo", "--beta", "0", *TINY, "--out", "run"], capsys)
    assert "reference_reward" in found and "kl_to_optimum" not in found
    assert "reward" not in told([*LINEAR, *TINY, "--paths", "0", "--out", "unjudged"], capsys)


def test_a_class_is_sought_by_a_head_fitted_to_labels_and_under_a_condition(capsys) -> None:
    world = library.mixture_2d()
    labels, generator = torch.arange(600) % 3, torch.Generator().manual_seed(0)
    x = world.given(labels).sample(generator=generator)
    np.savez("labelled.npz", x=x.numpy(), labels=labels.numpy())
    head = told(["reward", "--labels", "labelled.npz", "--out", "class.safetensors", "--steps", "200"], capsys)
    assert head["held_out_accuracy"] > 0.9  # the components hardly overlap
    sought = ["--reward", "0.5*linear:1,0+class:2", "--classifier", "class.safetensors", "--method", "backprop"]
    assert "kl_to_optimum" in told([*WORLD, *sought, *TINY, "--out", "plain"], capsys)
    given = told([*WORLD, *sought, *TINY, "--condition", "1", "--guidance", "1.5", "--out", "one"], capsys)
    assert "kl_to_optimum" in given
    drawn = told([*WORLD, *sought, *TINY, "--condition", "random", "--out", "all"], capsys)
    assert "kl_to_optimum" not in drawn  # each class has an optimum of its own
    assert load_core("one").denoiser.num_classes == 3  # pyright: ignore
    assert status(["finetune", *sought, *WORLD[1:], "--reward", "class:3", *TINY, "--out", "bad"]) == USAGE
    assert "reward class:LABEL must be in 0 … 2, the classifier's classes, got 3" in " ".join(
        capsys.readouterr().err.split()
    )


def test_images_by_a_perceptron_are_judged_by_a_flat_head(monkeypatch, capsys) -> None:
    # A cloud of a hundred: its exact denoiser is asked for 2048 samples in the end.
    monkeypatch.setitem(library._WORLDS, "digits", lambda: library.digits(100))
    told(
        ["reward", "--labels", "digits", "--flat", "--steps", "60", "--check-every", "20", "--out", "flat.safetensors"],
        capsys,
    )
    told(
        [
            "reward",
            "--labels",
            "digits",
            "--steps",
            "2",
            "--check-every",
            "1",
            "--width",
            "4",
            "--out",
            "image.safetensors",
        ],
        capsys,
    )
    arguments = [
        "finetune",
        "--world",
        "digits",
        "--method",
        "backprop",
        "--set",
        "last=1",
        "--reward",
        "class:3",
        *TINY,
    ]
    assert "reward" in told([*arguments, "--classifier", "flat.safetensors", "--out", "run"], capsys)
    assert status([*arguments, "--classifier", "image.safetensors", "--out", "other"]) == USAGE
    message = "classifier must be of data of shape [64], image.safetensors is of [1, 8, 8]"
    assert message in " ".join(capsys.readouterr().err.split())


BAD: list[tuple[list[str], str]] = [
    (["finetune"], "give a checkpoint or a world"),
    (["finetune", "--reward", "linear:1,0"], "give a checkpoint or a world"),
    (WORLD, "reward must be given for method 'dpok', such as linear:1,0"),
    (["finetune", "--world", "mixture-2", "--reward", "linear:1,0"], "unknown world 'mixture-2'; did you mean 'mixture-2d'"),
    ([*LINEAR, "--method", "ddpoo"], "unknown method 'ddpoo'; did you mean 'ddpo'"),
    ([*LINEAR, "--beta", "0"], "beta must be positive and finite, got 0"),
    ([*LINEAR, "--beta", "-1"], "beta must be positive and finite, got -1"),
    ([*LINEAR, "--beta", "nan"], "beta must be positive and finite, got nan"),
    ([*LINEAR, "--method", "ddpo", "--beta", "-1"], "beta must be at least 0 and finite, got -1"),
    ([*WORLD, "--reward", "linaer:1,0"], "unknown reward 'linaer'; did you mean 'linear'"),
    ([*WORLD, "--reward", "linear"], "reward must be terms such as linear:1,0 or 0.5*class:3, joined by +, got 'linear'"),
    ([*WORLD, "--reward", "linear:1"], "reward linear must have 2 numbers, as the data have, got 1: '1'"),
    ([*WORLD, "--reward", "linear:1,x"], "reward linear must be of finite numbers, got 'x' in '1,x'"),
    ([*WORLD, "--reward", "linear:1,inf"], "reward linear must be of finite numbers, got 'inf'"),
    ([*WORLD, "--reward", "w*linear:1,0"], "reward's weight must be of finite numbers, got 'w' in 'w*linear:1,0'"),
    ([*WORLD, "--reward", "quadratic:1,2,3"], "reward quadratic must have 2 or 4 numbers, as the data have, got 3"),
    ([*WORLD, "--reward", "quadratic:1,2,3,4"], "A must be symmetric"),
    ([*WORLD, "--reward", "class:1"], "classifier must be given for a reward class:LABEL"),
    ([*LINEAR, "--classifier", "head.safetensors"], "classifier is for a reward class:LABEL, got"),
    ([*WORLD, "--reward", "class:1", "--classifier", "none.safetensors"], "none.safetensors: no such checkpoint"),
    ([*WORLD, "--reward", "class:9", "--classifier", "class.safetensors"], "class:LABEL must be in 0 … 2"),
    ([*WORLD, "--reward", "class:-1", "--classifier", "class.safetensors"], "class:LABEL must be in 0 … 2"),
    ([*WORLD, "--reward", "class:one", "--classifier", "class.safetensors"], "class:LABEL needs an integer, got 'one'"),
    ([*WORLD, "--reward", "class:1", "--classifier", "model.safetensors"], "must be a Classifier, model.safetensors holds"),
    ([*WORLD, "--reward", "model:none.safetensors"], "none.safetensors: no such checkpoint"),
    ([*WORLD, "--reward", "model:class.safetensors"], "must be a RewardModel, class.safetensors holds a Classifier"),
    ([*WORLD, "--reward", "model:wide.safetensors"], "must be of data of shape [2], wide.safetensors is of [3]"),
    ([*LINEAR, "--method", "dpo"], "preferences must be given for method 'dpo'"),
    ([*WORLD, "--method", "dpo"], "preferences must be given for method 'dpo'"),
    ([*LINEAR, "--preferences", "pairs.npz"], "preferences are for method 'dpo', got method 'dpok'"),
    ([*WORLD, "--method", "dpo", "--preferences", "none.npz"], "none.npz is not a readable .npz file"),
    ([*WORLD, "--method", "dpo", "--preferences", "empty.npz"], "empty.npz: winner must have shape [N, *event] with N > 0"),
    ([*WORLD, "--method", "dpo", "--preferences", "nothing.npz"], "nothing.npz must hold winner and loser; it holds"),
    ([*WORLD, "--method", "dpo", "--preferences", "uneven.npz"], "uneven.npz: "),
    ([*WORLD, "--method", "dpo", "--preferences", "wide.npz"], "pairs must be of data of shape [2], got [3]"),
    ([*WORLD, "--method", "dpo", "--preferences", "classes.npz"], "condition must lie in 0 … 3"),
    ([*LINEAR, "--set", "clp=1"], "unknown option of dpok 'clp'; did you mean 'clip'"),
    ([*LINEAR, "--set", "clip"], "set must be name=value, an option of the method, got 'clip'"),
    ([*LINEAR, "--set", "clip=0"], "clip must be positive and finite, got 0"),
    ([*LINEAR, "--set", "clip=much"], "clip must be a number, got 'much'"),
    ([*LINEAR, "--set", "clip=1", "clip=2"], "set must name an option once, got clip twice"),
    ([*LINEAR, "--set", "clip=1", "--set", "clip=1"], "set must name an option once, got clip twice"),
    ([*LINEAR, "--set", "clp=1", "--set", "clip=1"], "unknown option of dpok 'clp'; did you mean 'clip'"),
    ([*LINEAR, "--set", "estimator=scor"], "unknown estimator 'scor'; did you mean 'score'"),
    ([*LINEAR, "--variance", "pior"], "unknown variance 'pior'; did you mean 'prior'"),
    ([*LINEAR, "--decay", "cosin"], "unknown decay 'cosin'; did you mean 'cosine'"),
    ([*LINEAR, "--lr", "0"], "lr must be positive and finite, got 0"),
    ([*LINEAR, "--rounds", "0"], "rounds must be an integer of at least 1, got 0"),
    ([*LINEAR, "--steps", "0"], "steps must be an integer of at least 1, got 0"),
    ([*LINEAR, "--first", "1.5"], "first must lie in [0, 1]"),
    ([*LINEAR, "--first", "0.1", "--grid", "heard"], "first is of --grid uniform, got first = 0.1"),
    ([*LINEAR, "--grid", "herd"], "unknown grid 'herd'; did you mean 'heard'"),
    ([*LINEAR, "--grid", "none.json"], "or a file of times, got none.json: no such file"),
    ([*LINEAR, "--grid", "grid.json", "--steps", "3"], "steps is what the file of times says, got 3 with grid grid.json"),
    ([*LINEAR, "--grid", "grid.json", "--first", "0.1"], "first is what the file of times says"),
    ([*LINEAR, "--grid", "other.json"], "other.json"),
    (["finetune", "--checkpoint", "net", "--reward", "linear:1,0", "--width", "7"], "width is of what corrects a world"),
    ([*LINEAR, "--method", "adjoint", "--value-lr", "5"], "value_lr is of dpok's value, got 5.0 with method 'adjoint'"),
    ([*LINEAR, "--method", "ddpo", "--chains", "1"], "chains must be at least 2 for ddpo"),
    ([*LINEAR, "--set", "estimator=score", "--epochs", "4"], "epochs must be 1 with estimator 'score'"),
    ([*LINEAR, "--paths", "1"], "paths must be 0 or at least 2, got 1"),
    ([*LINEAR, "--rank", "2"], "rank is for a checkpoint's network, got rank = 2 with a world"),
    ([*LINEAR, "--condition", "3"], "condition must be a class in 0 … 2 or 'random', got 3"),
    ([*LINEAR, "--guidance", "2"], "guidance needs a condition"),
    ([*LINEAR, "--dtype", "float46"], "unknown dtype 'float46'; did you mean 'float64'"),
    ([*LINEAR, "--device", "meta"], "device must be cpu, cuda or cuda:N"),
    ([*LINEAR, "--seed", "-1"], "seed must be an integer in 0 … 2^63 - 1, got -1"),
    ([*LINEAR, "--out", "/dev/null"], "out must be a folder that can be written to, got /dev/null"),
    (["finetune", "--out", "none", "--resume"], "no such checkpoint"),
    (["finetune", "--checkpoint", "none", "--reward", "linear:1,0"], "none: no such checkpoint"),
    (["reward"], "give labels or preferences, got labels = None and preferences = None"),
    (["reward", "--labels", "digits", "--preferences", "pairs.npz"], "give labels or preferences"),
    (["reward", "--labels", "moons"], "labels"),
    (["reward", "--labels", "dijits"], "digits"),
    (["reward", "--preferences", "empty.npz"], "empty.npz: winner must have shape [N, *event] with N > 0"),
    (["reward", "--preferences", "pairs.npz", "--out", "head.pt"], "out must be a file that ends in .safetensors"),
    (["reward", "--preferences", "pairs.npz", "--lr", "0"], "lr must be positive and finite, got 0"),
    (["reward", "--preferences", "pairs.npz", "--validation", "2"], "validation must lie in (0, 1), got 2"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_requests_end_with_one_line_and_the_usage_status(arguments: list[str], message: str, capsys) -> None:
    save_head("class.safetensors", Classifier((2,), 3, width=4))
    save_head("model.safetensors", RewardModel((2,), width=4))
    save_head("wide.safetensors", RewardModel((3,), width=4))
    pairs(4).save("pairs.npz")
    ud.TimeGrid.uniform(3).save("grid.json", ud.Schedule.cosine())
    ud.TimeGrid.uniform(3).save("other.json", ud.Schedule.karras())
    Preferences(torch.zeros(4, 3), torch.ones(4, 3)).save("wide.npz")
    Preferences(torch.zeros(4, 2), torch.ones(4, 2), torch.full((4,), 7)).save("classes.npz")
    np.savez("empty.npz", winner=np.zeros((0, 2)), loser=np.zeros((0, 2)))
    np.savez("nothing.npz")
    np.savez("uneven.npz", winner=np.zeros((4, 2)), loser=np.zeros((4, 3)))
    before = set(Path.cwd().rglob("*"))
    assert status(
        [*arguments, "--rounds", "1"] if arguments[0] == "finetune" and "--rounds" not in arguments else arguments
    ) == (USAGE)
    said = capsys.readouterr()
    assert message in " ".join(said.err.split())
    assert said.err.count("\n") == 1 and said.out == ""
    assert set(Path.cwd().rglob("*")) == before, "found out after a file was made"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linear:1,0.5", lambda x: x[:, 0] + 0.5 * x[:, 1]),
        ("0.5*linear:1,0", lambda x: 0.5 * x[:, 0]),
        ("2*linear:1,0+-1e-1*linear:0,1", lambda x: 2 * x[:, 0] - 0.1 * x[:, 1]),
        ("quadratic:1,2", lambda x: -0.5 * (x[:, 0] ** 2 + 2 * x[:, 1] ** 2)),
        ("quadratic:1,0.5,0.5,2", lambda x: -0.5 * (x[:, 0] ** 2 + x[:, 0] * x[:, 1] + 2 * x[:, 1] ** 2)),
        ("linear:1e+1,0 + quadratic:0,2", lambda x: 10 * x[:, 0] - x[:, 1] ** 2),
        ("1e+1*linear:1,0+model:a+b.safetensors", lambda x: 10 * x[:, 0] + 3.0),
        ("class:1+linear:0,1", lambda x: x[:, 1] - np.log(3.0)),
    ],
)
def test_a_reward_is_what_its_text_says(text: str, expected: Any) -> None:
    model = RewardModel((2,), width=4)
    torch.nn.init.constant_(model.trunk.last.bias, 3.0)
    save_head("a+b.safetensors", model)
    save_head("class.safetensors", Classifier((2,), 3, width=4))  # a new one gives each class a third
    x = torch.randn((5, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = made(text, Bench((2,), Path("class.safetensors") if "class" in text else None))(x)
    assert torch.allclose(found, torch.as_tensor(expected(x)), rtol=1e-6)
