"""The loop that shortest paths are timed beside finds the same ones."""

from __future__ import annotations

from unidiff.bench import shortest as bench
from unidiff.paths import shortest


def test_the_loop_finds_the_same_paths(capsys) -> None:
    cost = bench.table_of(20, 3)
    values, paths = bench.looped(cost.tolist(), 20, 12)
    found = shortest(cost, 12)
    assert values == found.values.tolist() and paths == [found.path(k).tolist() for k in range(1, 13)]
    bench.main(["--nodes", "16", "--most", "4"])
    assert "16 steps between candidates, K up to 4" in capsys.readouterr().out
