"""kill -9 of each process of a gateway under load: what was acknowledged is there, what was deleted is not, all is in order.

`RECALL_TEST_SEED` repeats a run's choices, `RECALL_TEST_ROUNDS` makes it longer; `make crash` is the same without an end.

Kind: tests. Spec: docs/SEMANTICS.md, "Durability"; docs/ARCHITECTURE.md, "Processes".
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from tests.long.crash import VICTIMS, Run, attack

ROUNDS = int(os.environ.get("RECALL_TEST_ROUNDS", "20"))


def test_acknowledged_writes_survive_kill_9(tmp_path: Path) -> None:
    seed = int(os.environ.get("RECALL_TEST_SEED") or time.time_ns() % 1_000_000)
    print(f"RECALL_TEST_SEED={seed}")
    run = Run(seed, tmp_path)
    assert asyncio.run(attack(run, 0, ROUNDS))
    # The load was one: every kind of write was acknowledged, and the pools were small enough for every tier to work.
    assert {"put 200", "delete 204", "complete 200", "lost 0"} <= run.mixed.counts.keys()
    assert set(VICTIMS) == run.kills.keys()
    assert all(run.tiers[name] for name in ("demotions", "evictions", "recalls")), run.tiers
