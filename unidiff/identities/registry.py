"""The registry: every identity that unidiff knows, by name. The CLI, the tests and the report all read this one."""

from __future__ import annotations

import importlib

from unidiff.core.boundary import check_name
from unidiff.identities.laws import Identity

VIEWS = ("core", "score", "vae", "thermo", "ebm", "rl", "paths")

_GROUPS = (
    "schedules",
    "definitions",
    "kernels",
    "predictions",
    "chains",
    "variances",
    "guidance",
    "guided",
    "rows",
    "orders",
    "truths",
    "tilts",
    "entropies",
    "scores",
    "flows",
    "balance",
    "langevin",
    "tallies",
    "annealing",
    "readings",
    "objectives",
    "likelihoods",
    "entries",
    "curvature",
    "tableaus",
    "control",
    "figures",
    "bounds",
    "ladders",
    "evidence",
    "marginals",
    "decisions",
    "optima",
    "policies",
    "walks",
    "gradients",
    "preferences",
    "adjoints",
    "dxmi",
    "dxmi_losses",
    "experience",
    "departures",
    "steering",
    "rivals",
    "decoding",
    "verbs",
    "training",
    "runs",
    "draws",
    "metrics",
    "hybrids",
    "learning",
    "contrastive",
    "regularising",
    "estimators",
    "thermodynamics",
    "thermodynamics_laws",
    "thermodynamics_paths",
    "thermodynamics_bounds",
    "energies",
    "energy_guidance",
    "compositions",
    "normalisers",
    "paths",
    "paths_policy",
    "paths_prices",
)
_KNOWN: dict[str, Identity] = {}


def register(kind: type[Identity]) -> type[Identity]:
    """Enter an identity; a class decorator. Raises ValueError for a taken name or an unknown view."""
    if kind.name in _KNOWN:
        raise ValueError(f"name must be new, got {kind.name!r} again")
    for view in kind.views:
        check_name("view", view, VIEWS)
    _KNOWN[kind.name] = kind()
    return kind


def unregister(name: str) -> None:
    """Take an identity of one's own out again, so that its name is free. Raises ValueError with the nearest known name."""
    get(name)
    del _KNOWN[name]


def all() -> list[Identity]:
    """Every identity, in the order of its group."""
    for group in _GROUPS:
        importlib.import_module(f"unidiff.identities.{group}")
    return list(_KNOWN.values())


def get(name: str) -> Identity:
    """The identity ``name``. Raises ValueError with the nearest known name."""
    all()
    return _KNOWN[check_name("identity", name, _KNOWN)]
