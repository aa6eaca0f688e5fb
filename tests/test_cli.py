"""The command line as a user types it."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from unidiff.cli import USAGE, main


def status(arguments: list[str]) -> object:
    try:
        return main(arguments)
    except SystemExit as stop:
        return stop.code


def test_help_and_no_command(capsys) -> None:
    assert main(["--help"]) == 0
    assert "verify" in capsys.readouterr().out
    assert main([]) == USAGE


@pytest.mark.parametrize("command", ["verify", "train", "sample", "likelihood", "elbo", "reward", "finetune"])
def test_every_command_has_help(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for option in ("--device", "--dtype", "--seed", "--json"):
        assert option in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verfy"], "unknown command 'verfy'; did you mean 'verify'"),
        (["verify", "--only", "tweedi"], "unknown identity 'tweedi'; did you mean 'tweedie'"),
        (["verify", "--view", "vea"], "unknown view 'vea'; did you mean 'vae'"),
        (["verify", "--dtype", "float46"], "unknown dtype 'float46'; did you mean 'float64'"),
        (["verify", "--checkpoint", "none.safetensors"], "none.safetensors: no such checkpoint"),
        (["train", "--data", "eight-gausians"], "eight-gaussians"),
        (
            ["train", "--data", "moons", "--steps", "5", "--schedule", "cosin"],
            "unknown schedule 'cosin'; did you mean 'cosine'",
        ),
        (["sample", "--world", "gausian"], "unknown world 'gausian'; did you mean 'gaussian'"),
        (["sample", "--world", "gaussian", "--method", "ddmi"], "unknown method 'ddmi'; did you mean 'ddim'"),
        (["sample"], "give a checkpoint or a world"),
        (["train", "--lr", "nan"], "unidiff: lr must be positive and finite, got nan"),
        (["train", "--steps", "3", "--minutes", "1"], "give either steps or minutes, got steps = 3 and minutes = 1.0"),
        (["train", "--steps", "3", "--device", "meta"], "device must be cpu, cuda or cuda:N, and be there, got 'meta'"),
        (["verify", "--device", "mps"], "device must be cpu, cuda or cuda:N, and be there, got 'mps'"),
        (["verify", "--quick", "--out", "/dev/null/report"], "out must be a folder that can be written to"),
        (["train", "--steps", "3", "--out", "/dev/null"], "out must be a folder that can be written to, got /dev/null"),
        (["verify", "--only"], "only must name at least one, got none"),
        (["verify", "--seed", "100000000000000000000000"], "seed must be an integer in 0 … 2^63 - 1"),
        (["sample", "--world", "gaussian", "--seed", "-1"], "seed must be an integer in 0 … 2^63 - 1, got -1"),
        (["sample", "--world", "gaussian", "--guidance", "nan"], "guidance must be finite, got nan"),
        (["sample", "--world", "gaussian", "--guidance", "3"], "guidance needs a conditional network"),
        (["sample", "--world", "gaussian", "--out", "samples.jpg"], "out must be a file that ends in .png"),
        (["sample", "--world", "gaussian", "--at", "0.5"], "at is for method 'langevin', got 'ddim' with at = 0.5"),
        (["sample", "--world", "gaussian", "--method", "langevin", "--at", "2"], "at must lie in [0, 1]"),
        (
            ["sample", "--world", "gaussian", "--kernel", "mala"],
            "kernel is for method 'langevin', got 'ddim' with kernel",
        ),
        (["sample", "--world", "gaussian", "--warmup", "5"], "warmup is for method 'langevin'"),
        (
            ["sample", "--world", "gaussian", "--method", "langevin", "--kernel", "mal"],
            "unknown kernel 'mal'; did you mean 'mala'",
        ),
        (["sample", "--world", "gaussian", "--method", "langevin", "--step-size", "0"], "step_size must be positive"),
        (["sample", "--world", "gaussian", "--method", "langevin", "--warmup", "-1"], "warmup must be an integer"),
        (
            ["sample", "--world", "gaussian", "--method", "annealed", "--steps", "1"],
            "steps must be an integer of at least 2, got 1",
        ),
        (["likelihood"], "give a checkpoint or a world"),
        (["likelihood", "--world", "gausian"], "unknown world 'gausian'; did you mean 'gaussian'"),
        (["likelihood", "--world", "gaussian", "--solver", "dopri"], "unknown solver 'dopri'; did you mean 'dopri5'"),
        (["likelihood", "--world", "gaussian", "--probes", "some"], "probes must be 'exact' or a number of probes"),
        (["likelihood", "--world", "gaussian", "--probes", "0"], "probes must be an integer of at least 1, got 0"),
        (["likelihood", "--world", "gaussian", "--tolerance", "0"], "tolerance must be positive and finite, got 0"),
        (["likelihood", "--world", "gaussian", "--steps", "4", "--tolerance", "1"], "give either steps or tolerance"),
        (["likelihood", "--world", "gaussian", "--solver", "rk4"], "solver 'rk4' does not know its error: give steps"),
        (
            ["likelihood", "--world", "gaussian", "--data", "moons"],
            "data must have the core's shape [3], moons has [2]",
        ),
        (
            ["train", "--data", "moons", "--steps", "5", "--loss", "slice"],
            "unknown loss 'slice'; did you mean 'sliced'",
        ),
        (["train", "--data", "moons", "--steps", "5", "--loss", "explicit"], "needs data of a known law"),
        (["sample", "--world", "gaussian", "--condition", "1"], "condition must be left out"),
        (["sample", "--world", "mixture-2d", "--condition", "9"], "condition must lie in 0 … 3 (3 is no class), got 9"),
        (["elbo"], "give a checkpoint or a world"),
        (["elbo", "--world", "gausian"], "unknown world 'gausian'; did you mean 'gaussian'"),
        (["elbo", "--world", "gaussian", "--n", "1"], "n must be an integer of at least 2, got 1"),
        (["elbo", "--world", "gaussian", "--steps", "-1"], "steps must be an integer of at least 0, got -1"),
        (["elbo", "--world", "gaussian", "--steps", "0"], "steps must be at least 1, or draws given"),
        (
            ["elbo", "--world", "gaussian", "--steps", "0", "--draws", "2", "--paths", "2"],
            "paths need a chain of steps",
        ),
        (
            ["elbo", "--world", "gaussian", "--steps", "0", "--draws", "2", "--sampling", "importance"],
            "sampling must be stratified or antithetic or independent for infinitely many steps",
        ),
        (["elbo", "--world", "gaussian", "--sampling", "strata"], "did you mean 'stratified'"),
        (["elbo", "--world", "gaussian", "--grid", "g.json", "--first", "0.1"], "first is for a grid that is made"),
        (["elbo", "--world", "gaussian", "--draws", "-1"], "draws must be an integer of at least 0, got -1"),
        (["elbo", "--world", "gaussian", "--paths", "-1"], "paths must be an integer of at least 0, got -1"),
        (["elbo", "--world", "gaussian", "--grid", "unifrom"], "unknown grid 'unifrom'; did you mean 'uniform'"),
        (["elbo", "--world", "gaussian", "--grid", "none.json"], "none.json"),
        (["elbo", "--world", "gaussian", "--first", "1"], "first must be earlier than 1"),
        (["elbo", "--world", "gaussian", "--first", "nan"], "first must not be NaN"),
        (["elbo", "--world", "gaussian", "--variance", "prio"], "unknown variance 'prio'; did you mean 'prior'"),
        (["elbo", "--world", "gaussian", "--variance", "learned"], "variance 'learned' needs a denoiser built with"),
        (["elbo", "--world", "gaussian", "--decoder", "discrete"], "unknown decoder 'discrete'; did you mean"),
        (
            ["elbo", "--world", "gaussian", "--decoder", "categorical"],
            "decoder must be continuous for data that are real numbers (gaussian), got 'categorical'",
        ),
        (["elbo", "--world", "gaussian", "--dtype", "float16"], "unknown dtype 'float16'"),
        (["elbo", "--world", "gaussian", "--seed", "-1"], "seed must be an integer in 0 … 2^63 - 1, got -1"),
        (["elbo", "--world", "gaussian", "--out", "elbo.jpg"], "out must be a file that ends in .png"),
        (["elbo", "--world", "gaussian", "--device", "mps"], "device must be cpu, cuda or cuda:N, and be there"),
        (["elbo", "--world", "gaussian", "--condition", "0"], "condition must be left out"),
        (["elbo", "--world", "gaussian", "--condition", "one"], "condition must be a class or 'labels', got 'one'"),
        (["elbo", "--world", "mixture-2d", "--condition", "9"], "condition must lie in 0 … 3 (3 is no class), got"),
        (["elbo", "--world", "gaussian", "--data", "moons"], "data must have the core's shape [3], moons has [2]"),
    ],
)
def test_bad_requests_end_with_a_word_and_the_usage_status(
    arguments, message: str, capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status(arguments) == USAGE
    captured = capsys.readouterr()
    assert message in re.sub(r"[\s│╭╮╰╯─]+", " ", captured.err)
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_unknown_options_name_the_nearest(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["verify", "--onyl", "tweedie"])
    assert stop.value.code == USAGE
    captured = capsys.readouterr()
    assert "--only" in captured.out + captured.err


def test_json_is_one_document_and_nothing_else() -> None:
    command = [
        sys.executable,
        "-m",
        "unidiff.cli",
        "verify",
        "--quick",
        "--only",
        "tweedie",
        "--json",
        "--workers",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {"checks", "summary"}
    assert document["summary"]["identities"] == 1


def test_verify_writes_its_page(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "--quick", "--only", "telescoping", "chapman-kolmogorov", "--workers", "1"]) == 0
    assert "telescoping" in (tmp_path / "report" / "index.html").read_text()
    assert "telescoping" in capsys.readouterr().out


def test_a_violation_is_status_one(monkeypatch, tmp_path) -> None:
    from unidiff.identities.schedules import LogSnrInverse

    monkeypatch.setattr(LogSnrInverse, "sides", lambda self, case: 1 / 0)
    assert main(["verify", "--quick", "--only", "log-snr-inverse", "--workers", "1", "--out", str(tmp_path)]) == 1


def test_workers_find_what_one_process_finds(capsys) -> None:
    rows = []
    for workers in ("1", "2"):
        arguments = ["verify", "--quick", "--only", "tweedie", "--dtype", "float64", "--json", "--workers", workers]
        assert main(arguments) == 0
        rows.append(json.loads(capsys.readouterr().out)["checks"])
    assert rows[0] == rows[1]


def test_train_then_sample_then_verify(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--width", "8", "--depth", "1", "--batch-size", "16", "--device", "cpu"]
    assert main(["train", "--data", "moons", "--steps", "4", *small]) == 0
    checkpoint = tmp_path / "runs" / "moons" / "checkpoint.safetensors"
    assert checkpoint.exists()
    assert main(["train", "--data", "moons", "--steps", "4", *small]) == USAGE
    assert "give --resume" in capsys.readouterr().err.replace("\n", " ")
    capsys.readouterr()
    for other, told in (
        (["--lr", "0.5"], "lr cannot change on resume: the run has 0.002, got 0.5"),
        (["--batch_size", "7"], "batch_size cannot change on resume: the run has 16, got 7"),
        (["--seed=9"], "seed cannot change on resume: the run has 0, got 9"),
        (
            ["--data", "digits", "--out", "runs/moons"],
            "data cannot change on resume: the run has 'moons', got 'digits'",
        ),
    ):
        assert main(["train", "--data", "moons", "--resume", "--steps", "6", *small, *other]) == USAGE
        assert told in " ".join(capsys.readouterr().err.split())
    assert main(["train", "--data", "moons", "--steps", "6", "--resume", "--log-every", "1", *small]) == 0
    assert (
        main(["sample", "--checkpoint", str(checkpoint), "--n", "10", "--steps", "3", "--json", "--out", "x.png"]) == 0
    )
    written = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (tmp_path / "x.png").exists()
    assert np.load(written["samples"])["x"].shape == (10, 2)
    for method, dtype in (("annealed", "float32"), ("pc", "float64"), ("langevin", "float32")):
        chosen = ["--method", method, "--dtype", dtype, "--n", "6", "--steps", "4", "--json", "--out", f"{method}.png"]
        assert main(["sample", "--checkpoint", str(checkpoint), *chosen]) == 0
        written = json.loads(capsys.readouterr().out.splitlines()[-1])
        x = np.load(written["samples"])["x"]
        assert x.shape == (6, 2)
        assert np.isfinite(x).all()
    assert main(["verify", "--checkpoint", str(checkpoint), "--only", "chain-mean", "--out", "r"]) == 0


def test_a_learned_schedule_leaves_its_sheet(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--width", "8", "--depth", "1", "--batch-size", "16", "--device", "cpu", "--steps", "2", "--json"]
    assert main(["train", "--data", "moons", "--schedule", "learned", *small]) == 0
    assert (tmp_path / json.loads(capsys.readouterr().out)["picture"]).exists()


def test_worlds_are_sampled_by_their_exact_denoiser(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "--world", "digits", "--n", "9", "--steps", "10", "--seed", "1"]) == 0
    x = np.load(tmp_path / "samples.npz")["x"]
    from unidiff.worlds import library

    # The exact denoiser of a data set can only end at its points.
    points = library.digits().points.numpy()
    nearest = np.sqrt(((x[:, None] - points) ** 2).sum(-1)).min(1)
    assert nearest.max() < 0.3


def test_likelihood_of_a_world_is_its_own_log_p(capsys) -> None:
    arguments = ["likelihood", "--world", "mixture-2d", "--n", "40", "--solver", "rk4", "--steps", "64", "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["truth"]["largest_error"] < 1e-4
    assert found["bits_per_dim"]["low"] < found["bits_per_dim"]["mean"] < found["bits_per_dim"]["high"]
    assert main(arguments[:-1]) == 0
    shown = capsys.readouterr().out
    for words in ("mean log p", "bits/dim", "evaluations", "solver error", "entry error", "prior error", "truth"):
        assert words in shown
    assert found["entry_error"] < 1e-8
    assert main([*arguments, "--first", "0.2"]) == 0
    far = json.loads(capsys.readouterr().out)
    assert far["truth"]["largest_error"] > 0.5
    assert far["entry_error"] > far["truth"]["largest_error"] / 3 > 100 * far["solver_error"]


@pytest.mark.slow
def test_likelihood_of_a_class_and_under_guidance(capsys) -> None:
    arguments = ["likelihood", "--world", "mixture-2d", "--n", "40", "--tolerance", "1e-5", "--json"]
    means = []
    for condition in ("0", "1", "labels", "3"):
        assert main([*arguments, "--condition", condition]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["condition"], found["guidance"], found["prior_error"]["law"]) == (condition, 1.0, "exact")
        assert found["truth"]["largest_error"] < 1e-4
        means.append(found["nats"]["mean"])
    assert len(set(means)) == 4
    assert main([*arguments, "--condition", "1", "--guidance", "1.5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["guidance"], found["prior_error"]["law"]) == (1.5, "unknown")
    assert "truth" not in found
    assert main([*arguments[:-1], "--condition", "1", "--guidance", "1.5"]) == 0
    assert "guidance 1.5" in capsys.readouterr().out
    for told, message in (
        (["--condition", "9"], "condition must lie in 0 … 3"),
        (["--condition", "one"], "condition must be a class or 'labels', got 'one'"),
        (["--guidance", "2"], "guidance needs a condition"),
        (["--guidance", "nan", "--condition", "1"], "guidance must be finite, got nan"),
        (["--world", "gaussian", "--condition", "0"], "this denoiser takes none"),
        (["--world", "gaussian", "--condition", "labels"], "condition 'labels' needs data with labels"),
    ):
        assert main([*arguments, *told]) == USAGE
        assert message in " ".join(capsys.readouterr().err.split())


def test_a_bound_of_drawn_terms_is_the_whole_bound(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["elbo", "--world", "mixture-2d", "--n", "300", "--steps", "60", "--dtype", "float64"]
    assert main([*arguments, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert main([*arguments, "--draws", "4", "--json"]) == 0
    drawn = json.loads(capsys.readouterr().out)
    assert "drawn" not in whole and drawn["drawn"]["terms"] == 16
    assert 0 < drawn["drawn"]["standard_error"] < drawn["elbo"]["standard_error"]
    # The data are the same, so letting their spread by is generous: an alarm at 5 is false less than once in 10^6 runs. That
    # half of the bound would be missed, as by a factor for the repeats or the draws, is asserted too.
    a, b = whole["ledger"]["diffusion"], drawn["ledger"]["diffusion"]
    error = np.hypot(drawn["drawn"]["standard_error"], a["standard_error"])
    assert abs(a["mean"] - b["mean"]) < 5 * error
    assert 5 * error < b["mean"] / 2
    assert whole["ledger"]["prior"] == pytest.approx(drawn["ledger"]["prior"])
    assert main([*arguments, "--draws", "4"]) == 0
    assert "60 steps, posterior variance, 16 drawn" in " ".join(capsys.readouterr().out.split())


def test_the_bound_of_a_world_lies_under_its_log_p(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["elbo", "--world", "mixture-2d", "--n", "200", "--steps", "200", "--seed", "1"]
    assert main([*arguments, "--paths", "2", "--variance", "optimal", "--dtype", "float64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = found["ledger"]
    parts = sum(rows[name]["mean"] for name in ("prior", "diffusion", "reconstruction"))
    assert parts == pytest.approx(-found["elbo"]["mean"])
    assert found["bits_per_dim"]["mean"] == pytest.approx(parts / (2 * np.log(2)))
    assert found["bits_per_dim"]["low"] < found["bits_per_dim"]["mean"] < found["bits_per_dim"]["high"]
    # The exact denoiser's bound of 200 steps is 0.15 nats under the truth or nearer, and 2 paths are no worse than 1; the
    # error is of the noise as well as of the data, so 5 standard errors are let by: a false alarm of 3e-7.
    slack = 5 * found["elbo"]["standard_error"]
    assert -slack < found["truth"] - found["elbo"]["mean"] < 0.15 + slack
    assert 1 <= found["importance"]["ess"] <= 2
    with Image.open(found["picture"]) as picture:
        assert picture.format == "PNG"
    assert main([*arguments, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == again
    assert "importance" not in again
    assert main([*arguments, "--paths", "2"]) == 0
    shown = capsys.readouterr().out
    for words in ("prior", "diffusion", "reconstruction", "−ELBO", "−IWAE", "−log p", "bits/dim", "elbo.png"):
        assert words in shown


def test_the_bound_of_data_on_levels_is_in_bits_of_them(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["elbo", "--world", "digits", "--data", "digits", "--n", "16", "--json"]
    for decoder, name in (
        ("auto", "DiscretisedDecoder"), ("categorical", "CategoricalDecoder"), ("continuous", "ContinuousDecoder"),
    ):  # fmt: skip
        assert main([*common, "--steps", "20", "--decoder", decoder]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["decoder"], found["probabilities"]) == (name, decoder != "continuous")
        assert "truth" not in found
    assert main([*common, "--grid", "uniform", "--steps", "7", "--out", "other.png"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 7
    assert (tmp_path / "other.png").exists()


def test_a_saved_grid_is_the_bounds(tmp_path, monkeypatch, capsys) -> None:
    from unidiff.core.grid import TimeGrid

    monkeypatch.chdir(tmp_path)
    TimeGrid([0.01, 0.1, 0.4, 1.0]).save("path.json")
    assert main(["elbo", "--world", "gaussian", "--grid", "path.json", "--n", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["grid"]) == (3, "path.json")


def test_a_checkpoints_bound_by_class_and_by_every_rule(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")
    np.savez("pairs.npz", x=x, y=np.arange(40) % 2)
    small = ["--width", "8", "--depth", "1", "--batch-size", "16", "--device", "cpu", "--steps", "3"]
    assert main(["train", "--data", "pairs.npz", "--conditional", "--out", "run", "--json", *small]) == 0
    common = ["elbo", "--checkpoint", "run", "--data", "pairs.npz", "--n", "8", "--steps", "5", "--json"]
    means = []
    for options in (
        ["--condition", "labels"], ["--condition", "0"], ["--condition", "1"], [], ["--variance", "prior"],
        ["--variance", "optimal"],
    ):  # fmt: skip
        capsys.readouterr()
        assert main([*common, *options]) == 0
        means.append(json.loads(capsys.readouterr().out)["elbo"]["mean"])
    assert len(set(means)) == 6


def test_train_by_another_loss_then_measure_the_likelihood(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--width", "8", "--depth", "1", "--batch-size", "16", "--device", "cpu", "--steps", "3"]
    assert main(["train", "--loss", "implicit", "--out", "run", "--json", *small]) == 0
    capsys.readouterr()
    common = ["likelihood", "--checkpoint", "run", "--n", "8", "--solver", "heun", "--steps", "4", "--json"]
    assert main(common) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["data"], found["prior_error"]["law"]) == ("eight-gaussians", "exact")
    assert main([*common, "--data", "moons", "--probes", "2", "--dtype", "float32"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["probes"], found["prior_error"]["law"]) == (2, "bound")
    assert "truth" not in found


def test_a_checkpoint_trained_with_labels_is_measured_by_each_datums_own(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")
    np.savez("pairs.npz", x=x, y=np.arange(40) % 2)
    small = ["--width", "8", "--depth", "1", "--batch-size", "16", "--device", "cpu", "--steps", "3"]
    assert main(["train", "--data", "pairs.npz", "--conditional", "--out", "run", "--json", *small]) == 0
    common = [
        "likelihood",
        "--checkpoint",
        "run",
        "--data",
        "pairs.npz",
        "--n",
        "8",
        "--solver",
        "heun",
        "--steps",
        "4",
    ]
    means = []
    for condition in ("labels", "0", "1"):
        capsys.readouterr()
        assert main([*common, "--json", "--condition", condition]) == 0
        means.append(json.loads(capsys.readouterr().out)["nats"]["mean"])
    assert len(set(means)) == 3


@pytest.mark.parametrize("method", ["annealed", "pc", "langevin"])
def test_the_score_views_samplers_are_methods_too(method: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["sample", "--world", "mixture-2d", "--method", method, "--n", "400", "--steps", "30"]
    assert main([*arguments, "--condition", "0", "--dtype", "float64"]) == 0
    x = np.load("samples.npz")["x"]
    from unidiff.worlds import library

    # All of component 0: their mean within 6 standard errors, and the little that each method's own bias adds.
    world = library.mixture_2d()
    error = (x.mean(0) - world.means[0].numpy()) / np.sqrt(world.covariances[0].diagonal().numpy() / 400)
    assert np.abs(error).max() < 6


def test_a_run_that_is_done_says_so_and_one_on_a_folder_asks_for_it(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--width", "8", "--depth", "1", "--batch-size", "4", "--device", "cpu"]
    (tmp_path / "mine" / "digits").mkdir(parents=True)
    for i in range(4):
        Image.new("L", (4, 4), 60 * i).save(tmp_path / "mine" / "digits" / f"{i}.png")
    own = ["train", "--out", "r", "--network", "mlp", *small]
    assert main([*own, "--data", "mine/digits", "--steps", "3"]) == 0
    capsys.readouterr()
    assert main([*own, "--resume", "--steps", "4"]) == USAGE
    assert "data must be given to resume: the run is on 'digits/'" in " ".join(capsys.readouterr().err.split())
    assert main([*own, "--resume", "--data", "mine/digits", "--steps", "2", "--json"]) == 0
    captured = capsys.readouterr()
    assert "nothing to train: the run is at step 3 after" in captured.err
    assert json.loads(captured.out)["steps"] == 3
    assert main([*own, "--resume", "--data", "mine/digits", "--steps", "4"]) == 0
    assert "nothing to train" not in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::unidiff.score.AcceptanceWarning")  # of a chain or two of a thousand
@pytest.mark.parametrize("kernel", [None, "ula", *(pytest.param(s, marks=pytest.mark.slow) for s in ("hmc", "baoab"))])
def test_langevin_with_no_more_said_gives_samples(kernel: str | None, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [
        "sample",
        "--world",
        "eight-gaussians",
        "--method",
        "langevin",
        "--n",
        "1000",
        "--steps",
        "10",
        "--json",
    ]
    assert main([*arguments, *([] if kernel is None else ["--kernel", kernel, "--warmup", "5"])]) == 0
    told = json.loads(capsys.readouterr().out)
    x = np.load(told["samples"])["x"]
    from unidiff.worlds import library

    world, angle = library.eight_gaussians(), np.arange(32) * np.pi / 32
    axes = np.stack([np.cos(angle), np.sin(angle)])
    sets = [np.sort(world.sample(1000, torch.Generator().manual_seed(k)).numpy() @ axes, 0) for k in range(16)]
    floor = np.mean([np.abs(one - two).mean() for one, two in zip(sets[::2], sets[1::2], strict=True)])
    distance = np.mean([np.abs(np.sort(x @ axes, 0) - one).mean() for one in sets])
    assert distance < 1.5 * floor
    assert told["kernel"] == (kernel or "mala")
    assert ("acceptance" in told) == (kernel in (None, "hmc"))
    if kernel is None:
        assert 0.4 < told["acceptance"] < 0.8


def test_langevin_on_a_state_that_keeps_its_scale_and_one_without_signal_at_the_end() -> None:
    from unidiff.cli.sample import _start
    from unidiff.core.diffusion import Diffusion
    from unidiff.core.schedule import Schedule
    from unidiff.worlds import OracleDenoiser, library

    world = library.gaussian()
    for schedule in (Schedule.karras(), Schedule.named("ddpm")):
        core = Diffusion(schedule, OracleDenoiser(world))
        at = float(schedule.time(2.0))
        x = _start(core, 4000, at, torch.Generator().manual_seed(0), torch.float64, {})
        law = world.diffuse(schedule.alpha(at), schedule.sigma(at))
        error = (x - law.mean).mean(0) / (law.variance / 4000).sqrt()
        assert error.abs().max() < 5
        assert (x.var(0) / law.variance - 1).abs().max() < 0.15


def test_langevin_at_a_time_without_noise_says_so_by_the_options_name(monkeypatch, capsys, tmp_path) -> None:
    from unidiff.cli import sample
    from unidiff.core.diffusion import Diffusion
    from unidiff.core.schedule import Schedule
    from unidiff.worlds import OracleDenoiser, library

    core = Diffusion(Schedule.linear(), OracleDenoiser(library.gaussian().to(torch.float32)))
    monkeypatch.setattr(sample, "load", lambda *_: core)
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "--method", "langevin", "--at", "0", "--n", "4", "--steps", "4"]) == 64
    assert "at must be a time with noise (sigma > 0), where the law has a score, got 0.0" in capsys.readouterr().err
