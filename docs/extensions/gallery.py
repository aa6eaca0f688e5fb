"""The gallery: every identity of the registry, as a quick verification found it when the site was built."""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import unidiff as ud
from unidiff.identities import Check, Identity, Report
from unidiff.report import Formulas, cards, rows
from unidiff.report.views import look

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SUBJECTS = {
    "core": "any core",
    "optimal": "the exact denoiser; of a network the residual is a gap",
    "schedule": "anything with a log-SNR",
}


def measured(kept: Path) -> Report:
    """A quick run of the standard suite, or what an earlier build kept of one of the same version."""
    if kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["version"] == ud.__version__ and len(found["names"]) == len(ud.identities.all()):
            return Report([Check(**row | {"views": tuple(row["views"])}) for row in found["checks"]])
    report = ud.verify(quick=True, workers=os.cpu_count() or 1)
    names = [identity.name for identity in ud.identities.all()]
    checks = [vars(check) for check in report.checks]
    kept.write_text(json.dumps({"version": ud.__version__, "names": names, "checks": checks}), encoding="utf-8")
    return report


def mentions() -> dict[str, list[tuple[str, str]]]:
    """The notebooks that check each identity: (page, title) by the identity's name."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(NOTEBOOKS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        title = next(line[2:] for line in text.splitlines() if line.startswith("# "))
        for name in set(re.findall(r'"([a-z0-9]+(?:-[a-z0-9]+)+|[a-z]+)"', text)):
            found.setdefault(name, []).append((path.stem, title))
    return found


def page(view: str, identities: list[Identity], report: Report) -> str:
    """The gallery of the identities whose first view this is, in MyST."""
    formulas, by_name, noted = Formulas(), {row.name: row for row in rows(report)}, mentions()
    parts = []
    for identity in identities:
        about = [
            html.escape(identity.source),
            f"holds for {SUBJECTS[identity.subject]}; {html.escape(identity.conditions)}",
            f"ties {', '.join(look(name).title for name in identity.views)}",
            *(
                f"<a href='../../notebooks/{page}.html'>{html.escape(title)}</a>"
                for page, title in noted.get(identity.name, ())
            ),
        ]
        row = by_name.get(identity.name)
        found = f"<div class='line'><span class='soft'>{identity.law.replace('_', ' ')}</span></div>"
        if row is None:
            found += "<div class='where'>only the whole suite asks it</div>"
        else:
            found = cards.findings(row)
        beside = "".join(f"<div class='where'>{line}</div>" for line in about)
        parts.append(cards.card(identity.name, identity.name, identity.statement, beside, found, formulas))
    return (
        f"# {look(view).title.capitalize() if view != 'vae' else 'VAE'}: its identities\n\n"
        f"{len(identities)} identities whose first view this is. The dots are the checks of a quick run, from far within "
        "the tolerance on the left to the line where it ends.\n\n"
        f"```{{raw}} html\n{formulas.glyphs()}\n{''.join(parts)}\n```\n"
    )


def generate(app: Sphinx) -> None:
    """Write ``generated/identities/``: a page for each view."""
    folder = Path(app.srcdir) / "generated" / "identities"
    folder.mkdir(parents=True, exist_ok=True)
    report = measured(folder.parent / "verify.json")
    entries = []
    for view in ud.identities.VIEWS:
        mine = [i for i in ud.identities.all() if next(v for v in ud.identities.VIEWS if v in i.views) == view]
        if mine:
            (folder / f"{view}.md").write_text(page(view, mine, report), encoding="utf-8")
            entries.append(view)
    (folder / "index.md").write_text(index(entries, report), encoding="utf-8")


def index(views: list[str], report: Report) -> str:
    """The gallery's first page."""
    total, known = report.summary(), ud.identities.all()
    listed = "\n".join(views)
    return (
        f"# The gallery of identities\n\n{len(known)} identities, each with its statement, its source, what it holds for, "
        f"the law of its tolerance, and what a quick verification found when this site was built: {total['checks']} checks "
        f"of {total['identities']} identities, {total['pass']} pass, {total['fail']} fail, {total['inconclusive']} "
        f"inconclusive, {total['gaps']} gaps of a network. `unidiff verify` asks all of them, and "
        f"`ud.verify(..., only=[name])` one.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    )


def setup(app: Sphinx) -> dict[str, Any]:
    """Made before Sphinx looks for its sources."""
    app.connect("builder-inited", generate)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
