"""Peers are imported when they are asked for, and what is not there says how to get it."""

from __future__ import annotations

import builtins
import importlib
import subprocess
import sys
from importlib import metadata
from typing import Any

import pytest

import unidiff as ud
from unidiff.interop.library import library


def test_importing_unidiff_imports_no_peer() -> None:
    code = (
        "import sys, unidiff; dir(unidiff.interop); unidiff.interop.k_diffusion; "
        "print([p for p in ('diffusers', 'azula', 'k_diffusion') if p in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def without(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    real: Any = importlib.import_module

    def absent(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    for name in [n for n in sys.modules if n.startswith(f"unidiff.interop.{missing}")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(vars(ud.interop), missing, raising=False)


@pytest.mark.parametrize("peer", ["diffusers", "azula"])
def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, peer: str) -> None:
    without(monkeypatch, peer)
    with pytest.raises(ImportError, match=rf"needs {peer}, which is not installed: pip install 'unidiff\[interop\]'"):
        getattr(ud.interop, peer)


def test_a_library_that_lacks_its_own_needs_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'einops'", name="einops")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ImportError, match="which lacks einops"):
        library("azula", ("0.11", "0.12"))


@pytest.mark.parametrize(
    ("version", "fits"), [("2.9.1", False), ("2.10.0", True), ("2.11.3.dev0", True), ("2.12", False)]
)
def test_a_version_that_was_not_tested_warns(monkeypatch: pytest.MonkeyPatch, version: str, fits: bool) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    if fits:
        assert library("builtins", ("2.10", "2.12")) is builtins
        return
    with pytest.warns(UserWarning, match=f"tested with builtins >= 2.10 and < 2.12, this is {version}"):
        library("builtins", ("2.10", "2.12"))


def test_an_unknown_adapter_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'flax'"):
        ud.interop.flax  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018
