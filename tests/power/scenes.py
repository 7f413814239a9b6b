"""Short programs for the recorder: `python -m tests.power.scenes NAME DIRECTORY`. Each ends without closing anything.

Kind: shell of the tests. Spec: docs/SEMANTICS.md, "Durability".
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

from tests.conformance import steps
from tests.model.world import pattern
from tests.support.clock import ManualClock
from tests.support.engine import Engine
from tiering.backing.directory import DirectoryBacking
from tiering.backing.streams import BytesSource
from tiering.contract import BucketInfo, ObjectChange

RELAXED: Final = "kv-b"


async def open_scene(path: Path) -> Engine:
    return await Engine.open(path, ManualClock(), DirectoryBacking(str(path / "backing"), create=True))


async def put_into_a_folder_that_another_has_made(path: Path) -> None:
    """One who may have died before it was synced."""
    (path / "backing" / "cold").mkdir(parents=True)
    backing = DirectoryBacking(str(path / "backing"), create=True)
    await backing.put("cold/a/b", BytesSource(b"content"))


async def put_into_a_new_pool(path: Path) -> None:
    engine = await open_scene(path)
    await engine.store.create_bucket(BucketInfo(name="b", created_ms=engine.clock.now_ms(), pool=""))
    await steps.put(engine.store, "a", pattern(50_000, 1))


async def copy_over_a_copy(path: Path) -> None:
    """Of a relaxed pool, whose index is on the device only as it was when it relied on the older copy."""
    engine = await open_scene(path)
    engine.start_keeper()
    await engine.store.create_bucket(BucketInfo(name=RELAXED, created_ms=engine.clock.now_ms(), pool=""))
    for key in ("overwritten", "deleted"):
        await steps.put(engine.store, key, pattern(50_000, 1), bucket=RELAXED)
        await engine.store.change(RELAXED, key, ObjectChange(tier="cold"))
    engine.pools["kv"].index.sync()
    await steps.put(engine.store, "overwritten", pattern(60_000, 2), bucket=RELAXED)
    await engine.store.change(RELAXED, "overwritten", ObjectChange(tier="cold"))
    await engine.store.delete(RELAXED, "deleted")
    await engine.settle()


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]](Path(sys.argv[2])))
    os._exit(0)
