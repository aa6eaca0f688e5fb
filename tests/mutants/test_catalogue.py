"""A mutant that no longer applies mutates nothing: each must still find its line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import unidiff
from tests.mutants.catalogue import MUTANTS

PACKAGE = Path(str(unidiff.__file__)).parent


def test_every_mutant_applies_at_one_place() -> None:
    counts = {m.name: (PACKAGE / m.file).read_text(encoding="utf-8").count(m.old) for m in MUTANTS}
    assert {name: count for name, count in counts.items() if count != 1} == {}


def test_no_mutant_is_counted_twice() -> None:
    assert [name for name, count in Counter(m.name for m in MUTANTS).items() if count > 1] == []
    assert all(m.old != m.new for m in MUTANTS)
