"""kill -9 of each process of a gateway under load: what was acknowledged is there, what was deleted is not, all is in order.

`RECALL_TEST_SEED` repeats a run's choices, `RECALL_TEST_ROUNDS` makes it longer.

Kind: tests. Spec: docs/SEMANTICS.md, "Durability"; docs/ARCHITECTURE.md, "Processes".
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

from tests.crash.load import Load
from tests.support.gateway import Gateway, wait_for

ROUNDS = int(os.environ.get("RECALL_TEST_ROUNDS", "9"))
BUCKETS = ("plain", "kv-blocks", "versioned")
SETTINGS = {
    name: value
    for pool in ("standard", "kv")
    for name, value in {
        f"pools.{pool}.capacity_bytes": "16MiB",
        f"pools.{pool}.region_bytes": "256KiB",
        f"pools.{pool}.demote_after_s": "200ms",
        f"pools.{pool}.space_wait_s": "2s",
    }.items()
}
VICTIMS = ("worker-0", "worker-1", "keeper", "supervisor")


def test_acknowledged_writes_survive_kill_9(tmp_path: Path) -> None:
    seed = int(os.environ.get("RECALL_TEST_SEED") or time.time_ns() % 1_000_000)
    print(f"RECALL_TEST_SEED={seed}")
    rng = random.Random(seed)
    with Gateway(data_dir=tmp_path / "data", workers=2, settings=SETTINGS) as gateway:
        load = Load(seed, BUCKETS, (gateway.access_key, gateway.secret_key))
        with asyncio.Runner() as runner:
            load.target.port = gateway.port
            runner.run(load.create_buckets())
            victims = [
                victim for _ in range(-(-ROUNDS // len(VICTIMS))) for victim in rng.sample(VICTIMS, len(VICTIMS))
            ]
            for victim in victims[:ROUNDS]:
                runner.run(_round(gateway, load, victim, rng))
    print(sorted(load.ledger.counts.items()), load.activity)
    # The load was one: every kind of write was acknowledged, and the pools were small enough for every tier to work.
    assert {"PUT 200", "DELETE 204", "complete 200", "lost 0"} <= load.ledger.counts.keys()
    assert all(load.activity[name] for name in ("demotions", "evictions", "recalls")), load.activity


async def _round(gateway: Gateway, load: Load, victim: str, rng: random.Random) -> None:
    load.start()
    await asyncio.sleep(0.5 + rng.random())  # the load's time, not a wait for something
    pid = gateway.kill(victim)
    await asyncio.sleep(0.5 * rng.random())
    if victim == "supervisor":
        await load.stop()
        await asyncio.to_thread(_start_again, gateway)
    else:
        await asyncio.to_thread(gateway.wait_restarted, victim, pid)
        await load.stop()
    load.target.port = gateway.port
    await load.verify()
    await load.note_activity()
    assert not load.ledger.faults, f"after kill -9 of {victim}: " + "\n".join(load.ledger.faults[:20])
    checked = await asyncio.to_thread(gateway.command, "check")
    assert checked.returncode == 0, f"after kill -9 of {victim}: {checked.stdout}{checked.stderr}"


def _start_again(gateway: Gateway) -> None:
    wait_for(lambda: not any(_alive(pid) for pid in gateway.pids().values()), "the children have ended with it")
    gateway.start()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
