"""The long runs, for a moment each: they still run, and would say what they see. Kind: tests. Spec: docs/RELIABILITY.md."""

from __future__ import annotations

import asyncio
from math import inf
from pathlib import Path

from tests.long import linear, model
from tests.long.mixed import Contest, Glance, Move
from tests.long.soak import rise, soak


def test_workers_are_one_store_while_some_are_killed(tmp_path: Path) -> None:
    run = linear.Run(1, tmp_path)
    assert asyncio.run(linear.watch(run, 0, kill=True))
    assert run.operations and run.kills


def test_order_that_cannot_be_is_a_fault(tmp_path: Path) -> None:
    def told(*notes: linear.Note) -> list[str]:
        run = linear.Run(1, tmp_path)
        asyncio.run(run.judge(linear.Log([*notes], etags=[('"a"', "#1"), ('"b"', "#2")])))
        return run.faults

    first = linear.Note("plain", "k", "put", 0, 1, writes="#1")
    assert told(first, linear.Note("plain", "k", "head", 2, 3, needs='"a"')) == []
    lost = linear.Note("plain", "k", "replace", 2, None, needs='"a"', writes="#2")
    assert told(first, lost, linear.Note("plain", "k", "get", 3, 4, needs="#2")) == []
    assert told(first, lost, linear.Note("plain", "k", "head", 3, 4, needs='"of nobody known"')) == []
    assert "none of these can be next" in told(first, linear.Note("plain", "k", "list", 2, 3, needs=""))[0]
    assert told(first, linear.Note("plain", "k", "replace", 2, 3, avoids=['"a"', ""]))


def test_model_runs() -> None:
    done = model.batch("standard", 1, histories=2, steps=30)
    assert (done.failure, done.histories) == ("", 2)
    assert done.operations


def test_soak_runs(tmp_path: Path) -> None:
    assert asyncio.run(soak(1, 0.06, tmp_path))


def test_a_history_is_one_chain() -> None:
    whole = Contest("k", [Move(0, 1, 0, 1), Move(1, 2, 2, inf), Move(2, 3, 3, 4)], [Glance(0, 0, 1), Glance(1, 2, 3)])
    assert whole.faults(3) == []
    assert "is not in the history" in whole.faults(0)[0]
    assert "never written" in whole.faults(7)[0]
    twice = Contest("k", [Move(0, 1, 0, 1), Move(0, 2, 0, 1)])
    assert "is not in the history" in twice.faults(2)[0]
    late = Contest("k", [Move(0, 1, 5, 6), Move(1, 2, 0, 1)], [Glance(1, 7, 8), Glance(2, 0, 0.5)])
    assert len(late.faults(2)) == 3  # older than what it replaced; seen when written over; seen before it was written
    early = Contest("k", [Move(0, 1, 5, 6)], [Glance(1, 0, 1), Glance(9, 0, 1)])
    assert len(early.faults(1)) == 2


def test_a_line_rises() -> None:
    assert rise([(at, 5 + 2 * at) for at in range(10)]) == 18
    assert rise([(at, at % 2) for at in range(40)]) < 0.1
