"""The reference: a page for each public module, of what its ``__all__`` names."""

from __future__ import annotations

import importlib
import re
import sys
import types
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

MODULES = {
    "unidiff": "the core, and the views by name",
    "unidiff.worlds": "closed-form truth",
    "unidiff.worlds.library": "worlds by name",
    "unidiff.worlds.rewards": "rewards, and what they tilt",
    "unidiff.core.networks": "networks",
    "unidiff.score": "the score view",
    "unidiff.vae": "the VAE view",
    "unidiff.thermo": "the thermodynamic view",
    "unidiff.ebm": "the energy view",
    "unidiff.rl": "the RL view",
    "unidiff.paths": "faster sampling paths",
    "unidiff.mcmc": "Markov chains",
    "unidiff.train": "data, trainers, checkpoints",
    "unidiff.identities": "the registry",
    "unidiff.report": "tables, pages, plots",
    "unidiff.testing": "the testing kit",
    "unidiff.testing.strategies": "Hypothesis strategies",
    "unidiff.interop.diffusers": "diffusers' models and schedulers",
    "unidiff.interop.azula": "azula's denoisers and schedules",
    "unidiff.interop.k_diffusion": "k-diffusion's models",
    "unidiff.conformance": "other libraries' samplers, held to theory",
}


def page(module: str, about: str, home: dict[int, str]) -> str:
    """One module, in MyST."""
    try:
        body = _rst(module, public(importlib.import_module(module)), home)
    except ImportError as error:
        return f"# `{module}`\n\n{about[:1].upper()}{about[1:]}. Not shown: when this site was built, {error}\n"
    return f"# `{module}`\n\n{about[:1].upper()}{about[1:]}.\n\n```{{eval-rst}}\n{body}```\n"


def public(module: types.ModuleType) -> dict[str, object]:
    """What a module's ``__all__`` names, or where it has none what is defined in it without an underscore; no modules."""
    if hasattr(module, "__all__"):
        found = {name: getattr(module, name) for name in module.__all__}
    else:
        found = {
            name: value
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        }
    return {name: value for name, value in found.items() if not isinstance(value, types.ModuleType)}


def _rst(module: str, names: dict[str, object], home: dict[int, str]) -> str:
    """Directives that document the names where they are public first, whatever module they live in."""
    lines = [f".. currentmodule:: {module}", ""]
    for name, value in names.items():
        kind = _kind(value)
        if kind == "data":
            lines += [f".. py:data:: {name}", "", *(f"   {line}" for line in _said(name, value)), ""]
        elif id(value) in home:
            lines += [f"``{name}`` is :py:obj:`{home[id(value)]}`.", ""]
        else:
            home[id(value)] = f"{module}.{name}"
            lines += [f".. auto{kind}:: {module}.{name}", *(["   :members:"] if kind == "class" else []), ""]
    return "\n".join(lines)


def _kind(value: object) -> str:
    if isinstance(value, type):
        return "exception" if issubclass(value, BaseException) else "class"
    return "function" if isinstance(value, types.FunctionType) else "data"


def _said(name: str, value: object) -> list[str]:
    """The text under a constant, where it is defined: a module that imports it knows none."""
    for module in [
        m for n, m in sorted(sys.modules.items()) if n.startswith("unidiff.") and vars(m).get(name) is value
    ]:
        found = ModuleAnalyzer.for_module(module.__name__)
        found.analyze()
        if ("", name) in found.attr_docs:
            return found.attr_docs["", name]
    return [f"``{value!r}``"]


def upright(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """|x| is a size in these docstrings, and no substitution of reStructuredText."""
    for k, line in enumerate(lines):
        parts = line.split("``")
        lines[k] = "``".join(part if j % 2 else re.sub(r"(?<!\\)\|", r"\\|", part) for j, part in enumerate(parts))


def generate(app: Sphinx) -> None:
    """Write ``generated/api/``; a module whose library is not installed is left out, and said so."""
    folder = Path(app.srcdir) / "generated" / "api"
    folder.mkdir(parents=True, exist_ok=True)
    home: dict[int, str] = {}
    for module, about in MODULES.items():
        (folder / f"{module}.md").write_text(page(module, about, home), encoding="utf-8")
    lines = "\n".join(f"{module}" for module in MODULES)
    (folder / "index.md").write_text(
        f"# Reference\n\nEvery public name, with shapes, units, errors and sources.\n\n```{{toctree}}\n{lines}\n```\n",
        encoding="utf-8",
    )


def setup(app: Sphinx) -> dict[str, Any]:
    """Made before Sphinx looks for its sources."""
    app.connect("builder-inited", generate)
    app.connect("autodoc-process-docstring", upright)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
