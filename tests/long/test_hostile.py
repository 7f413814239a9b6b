"""The attacks of `make hostile`, small: all of them answered rightly and within bounds of memory, one with neighbours beside it.

Kind: tests. Spec: docs/RELIABILITY.md.
"""

from __future__ import annotations

from pathlib import Path

from tests.long.hostile import ATTACKS, row, run


def test_attacks_are_answered_within_bounds(tmp_path: Path) -> None:
    verdicts = run([], 0.3, 60, tmp_path, beside=False)
    assert len(verdicts) == len(ATTACKS)
    assert [f"{each.attack}: {fault}" for each in verdicts for fault in each.faults] == []


def test_neighbours_are_served_beside_idle_connections(tmp_path: Path) -> None:
    (verdict,) = run(["idle connections"], 0.3, 60, tmp_path)
    assert verdict.faults == []
    assert verdict.during is not None and verdict.during.ok and verdict.newcomer["requests"]
    assert "60 x held" in row(verdict)
