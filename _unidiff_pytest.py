"""The pytest plugin of `unidiff`: options, a marker and fixtures for tests of diffusion code.

pytest imports this module in every run of everyone who has `unidiff` installed. It stands beside the package, since a
module inside would import the package and with it torch: here nothing but the standard library and pytest is imported until
a fixture is asked for (as Hypothesis does with its own plugin).
"""

from __future__ import annotations

import argparse
import hashlib
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

_DTYPES = ("float32", "float64")
_FIXTURES = ("unidiff_seed", "unidiff_dtype", "unidiff_device", "unidiff_generator")


def _seed(value: str) -> int:
    if not re.fullmatch(r"\d+", value) or int(value) >= 2**63:
        raise argparse.ArgumentTypeError(f"seed must be an integer in 0 … 2^63 - 1, got {value!r}")
    return int(value)


def _dtype(value: str) -> str:
    if value not in _DTYPES:
        raise argparse.ArgumentTypeError(f"dtype must be {' or '.join(_DTYPES)}, got {value!r}")
    return value


def _device(value: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", value):
        raise argparse.ArgumentTypeError(f"device must be cpu, cuda or cuda:N, got {value!r}")
    return value


def _told(config: pytest.Config, name: str) -> Any:
    return config.getoption(f"--unidiff-{name}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The three options."""
    group = parser.getgroup("unidiff", "tests of diffusion code")
    group.addoption("--unidiff-seed", type=_seed, default=0, metavar="N", help="seed of unidiff_generator (0)")
    group.addoption("--unidiff-dtype", type=_dtype, default="float64", metavar="D", help="unidiff_dtype (float64)")
    group.addoption("--unidiff-device", type=_device, default="cpu", metavar="D", help="unidiff_device (cpu)")


def pytest_configure(config: pytest.Config) -> None:
    """The marker."""
    config.addinivalue_line(
        "markers", "unidiff: a test of diffusion code; any that asks for a fixture of unidiff's is marked by itself"
    )


def pytest_report_header(config: pytest.Config) -> str:
    """What would repeat the run."""
    seed, dtype, device = (_told(config, name) for name in ("seed", "dtype", "device"))
    return f"unidiff: --unidiff-seed={seed} --unidiff-dtype={dtype} --unidiff-device={device}"


# First of all: `-m unidiff` deselects in a hook of the same name.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a fixture of this plugin."""
    for item in items:
        if any(name in _FIXTURES for name in getattr(item, "fixturenames", ())):
            item.add_marker("unidiff")


@pytest.fixture(scope="session")
def unidiff_seed(request: pytest.FixtureRequest) -> int:
    """The seed of the run."""
    return _told(request.config, "seed")


@pytest.fixture(scope="session")
def unidiff_dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """torch.float64, or what the run was told."""
    import torch

    return getattr(torch, _told(request.config, "dtype"))


@pytest.fixture(scope="session")
def unidiff_device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, or what the run was told; an error where torch has no such device."""
    from unidiff.core.boundary import check_device

    return check_device(_told(request.config, "device"))


@pytest.fixture
def unidiff_generator(
    request: pytest.FixtureRequest, unidiff_seed: int, unidiff_device: torch.device
) -> torch.Generator:
    """On the device, seeded by the run's seed, the test's module, name and case: draws depend on no other test."""
    import torch

    # Not the node's id, whose path depends on the folder that the run was started for.
    node = request.node
    own = node.name
    if isinstance(node, pytest.Function) and node.module is not None:
        own = f"{node.module.__name__}.{node.getmodpath(stopatmodule=True)}"
    digest = hashlib.sha256(f"{unidiff_seed}/{own}".encode()).digest()
    return torch.Generator(unidiff_device).manual_seed(int.from_bytes(digest[:7], "big"))
