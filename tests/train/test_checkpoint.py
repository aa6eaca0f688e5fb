"""Checkpoints: whole or refused, and never unpickled."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

import unidiff as ud
from unidiff.core import networks
from unidiff.train import CheckpointError, load_core, save_core
from unidiff.train import checkpoint as checkpoints
from unidiff.train.digest import digest


@pytest.fixture
def core() -> ud.Diffusion:
    torch.manual_seed(0)
    return ud.Diffusion(ud.Schedule.cosine(), ud.Denoiser(networks.MLP(2, width=8, depth=1), (2,), "v"))


@pytest.fixture
def path(core: ud.Diffusion, tmp_path: Path) -> Path:
    return save_core(tmp_path / "core.safetensors", core)


@pytest.mark.parametrize("schedule", ["cosine", "karras", "ddpm", "learned"])
def test_a_core_comes_back_to_the_bit(schedule: str, tmp_path: Path) -> None:
    denoiser = ud.Denoiser(
        networks.UNet(1, 8, width=8, multipliers=(1, 2), blocks=1, attention=(4,)), (1, 8, 8), "x0", "edm", 0.4
    )
    core = ud.Diffusion(ud.Schedule.named(schedule), denoiser).eval()
    again = load_core(save_core(tmp_path / "c", core))
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(core.predict(x, 0.4).x0, again.predict(x, 0.4).x0)


def test_every_truncation_is_refused(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    for size in [0, 1, 7, 8, 20, *range(100, len(content), 401), len(content) - 1]:
        part = tmp_path / "part.safetensors"
        part.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="part.safetensors"):
            load_core(part)


def test_every_flipped_byte_is_refused(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    for place in range(0, len(content), 53):
        broken = bytearray(content)
        broken[place] ^= 0x20
        bad = tmp_path / "bad.safetensors"
        bad.write_bytes(bytes(broken))
        with pytest.raises(CheckpointError, match="bad.safetensors"):
            load_core(bad)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (None, "its header has no 'about'"),
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[1]", "must be a JSON object, got list"),
        ("[" * 100_000, "no JSON"),
        ("{}", "does not hold the core that it describes: KeyError\\('core'\\)"),
        ('{"core": 3}', "does not hold the core that it describes: "),
    ],
    ids=["none", "empty", "half", "list", "deep", "nothing in it", "a number for the core"],
)
def test_a_document_that_is_none_is_refused(about: str | None, message: str, tmp_path: Path) -> None:
    tensors = {"parameters.weight": torch.zeros(3)}
    header = {"format": "unidiff-checkpoint", "version": "1", "sha256": digest(tensors, about or "")}
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(safetensors.torch.save(tensors, header if about is None else header | {"about": about}))
    with pytest.raises(CheckpointError, match=f"bad.safetensors .*{message}"):
        load_core(bad)


def test_tensors_of_another_network_are_refused_in_one_line(path: Path, tmp_path: Path) -> None:
    kept = checkpoints.read(path)
    tensors = {name.replace("network", "net"): t for name, t in kept.tensors.items()}
    bad = checkpoints.write(tmp_path / "bad.safetensors", checkpoints.Checkpoint(tensors, kept.about))
    with pytest.raises(CheckpointError, match=r"bad.safetensors does not hold .* Missing key\(s\)") as found:
        load_core(bad)
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 500


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(safetensors.torch.save({"weight": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match="not a unidiff checkpoint"):
        load_core(foreign)
    foreign.write_bytes(
        safetensors.torch.save({"w": torch.zeros(3)}, {"format": "unidiff-checkpoint", "version": "99"})
    )
    with pytest.raises(CheckpointError, match="version 99"):
        load_core(foreign)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_core(tmp_path / "nothing.safetensors")


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a checkpoint was unpickled",))


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_nothing_is_unpickled(writer: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    if writer == "pickle":
        pickle.dump(_Bomb(), buffer)
    else:
        torch.save({"model": _Bomb()}, buffer)
    bad = tmp_path / "bomb.safetensors"
    bad.write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="bomb.safetensors"):
        load_core(bad)


def test_the_old_file_stands_until_the_new_one_is_whole(core: ud.Diffusion, path: Path, monkeypatch) -> None:
    before = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        save_core(path, core)
    assert path.read_bytes() == before


def test_a_network_without_a_description_cannot_be_saved(tmp_path: Path) -> None:
    core = ud.Diffusion(ud.Schedule.cosine(), ud.Denoiser(torch.nn.Linear(2, 2), (2,), "v"))
    with pytest.raises(ValueError, match=r"network must have config\(\) to be saved"):
        save_core(tmp_path / "c", core)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_core_is_loaded_onto_a_device_that_is_there(device: str, path: Path) -> None:
    with pytest.raises(ValueError, match=f"device must be cpu, cuda or cuda:N, and be there, got '{device}'"):
        load_core(path, device=device)


def test_what_is_no_core_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="core must be .*Diffusion"):
        ud.train.save_core(tmp_path / "core.safetensors", "core")  # pyright: ignore
    assert not list(tmp_path.iterdir())
