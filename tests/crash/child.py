"""A process that runs an engine and kills itself at a named point: `python -m tests.crash.child DIRECTORY POINT`.

What it was promised before that goes to stdout, a line each: `has KEY SEED SIZE`, `has not KEY`.

Kind: shell of the tests. Spec: docs/SEMANTICS.md, "Durability".
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from tests.conformance import steps
from tests.crash.hooked import Hooked
from tests.model.world import pattern
from tests.support.clock import ManualClock
from tests.support.engine import Engine, pool_config
from tiering import events, layout
from tiering.backing.directory import DirectoryBacking
from tiering.contract import (
    BucketChange,
    BucketInfo,
    ByteRange,
    DeleteOptions,
    ObjectChange,
    PutOptions,
    ReadOptions,
    RenameOptions,
)
from tiering.duties.evict import EvictDuty
from tiering.policy import TwoQueues
from tiering.ports import Backing

BUCKET: Final = "b"


def die() -> None:
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def has(key: str, seed: int, size: int) -> None:
    print(f"has {key} {seed} {size}", flush=True)


def has_not(key: str) -> None:
    print(f"has not {key}", flush=True)


async def open_engine(path: Path, backing: Backing) -> Engine:
    return await Engine.open(path, ManualClock(), backing, [pool_config(path, "small")])


class Scene:
    """An engine whose backing store and meters can be told when to die."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._die_at: tuple[str, str] | None = None

    def die_after(self, verb: str, name_part: str) -> None:
        """At the next such write to the backing store: done there, not noted here."""
        self._die_at = (verb, name_part)

    async def hook(self, verb: str, name: str) -> None:
        if self._die_at is not None and verb == self._die_at[0] and self._die_at[1] in name:
            die()

    async def put(self, key: str, seed: int, size: int) -> None:
        await steps.put(self.engine.store, key, pattern(size, seed))
        has(key, seed, size)

    async def fill(self, count: int, size: int = 60_000) -> None:
        for each in range(count):
            await self.put(f"fill/{each}", each, size)

    def evict_dying_at(self, event: str, count: int) -> EvictDuty:
        """An eviction that dies when it counts the event for the `count`th time: after earlier marks, before this one's."""
        left = [count]

        def meter(name: str, pool: str, amount: int) -> None:
            if name == event:
                left[0] -= 1
                if left[0] == 0:
                    die()

        pool = self.engine.pools["small"]
        duty = EvictDuty(pool, self.engine.demoter, TwoQueues(pool.flash.regions), meter)
        duty.low = pool.flash.regions
        return duty


async def data_written(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    writer = await steps.settled(scene.engine.store.put(BUCKET, "a", 50_000, PutOptions()))
    await steps.settled(writer.write(pattern(50_000, 2)))
    die()


async def index_committed(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    await scene.put("a", 2, 150_000)
    die()


async def half_of_a_long_put(scene: Scene) -> None:
    await scene.put("a", 1, 1000)
    writer = await steps.settled(scene.engine.store.put(BUCKET, "a", 900_000, PutOptions()))
    await steps.settled(writer.write(pattern(500_000, 2)))
    die()


async def demoted_before_the_mark(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    scene.die_after("put", "/a")
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="cold"))


async def overwritten_while_demoted(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    scene.die_after("put", "/a")
    scene.engine.wake()
    pool, okey = scene.engine.pools["small"], layout.object_key(1, "a")
    await scene.put("a", 2, 60_000)
    record = pool.index.get_object(okey)
    assert record is not None
    await scene.engine.demoter.demote(pool, okey, record.generation)


async def part_demoted_before_the_mark(scene: Scene) -> None:
    await scene.put("a", 1, 1000)
    upload = await scene.engine.store.begin_upload(BUCKET, "a", PutOptions())
    await steps.put_part(scene.engine.store, "a", upload.upload_id, 1, pattern(50_000, 2))
    scene.die_after("put", "pieces")
    await scene.engine.demoter.demote_part(scene.engine.pools["small"], layout.part_key(upload.upload_id, 1))


async def between_evict_marks(scene: Scene) -> None:
    await scene.fill(20, 20_000)
    await scene.engine.store.change(BUCKET, "fill/0", ObjectChange(tier="both"))
    await scene.evict_dying_at(events.EVICTED, 2).step()


async def survivor_copied_before_the_mark(scene: Scene) -> None:
    await scene.fill(20, 20_000)
    for each in range(2):  # not all of its region: that would stay as it is
        await steps.get(scene.engine.store, f"fill/{each}")
    await scene.evict_dying_at(events.SURVIVED, 2).step()


async def tombstone_carried_out_before_its_row_is_gone(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="cold"))
    scene.die_after("delete", "/a")
    await scene.engine.store.delete(BUCKET, "a")
    has_not("a")
    await scene.engine.settle()


async def recall_under_way(scene: Scene) -> None:
    await scene.put("a", 1, 300_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="cold"))
    reading = await steps.settled(scene.engine.store.open(BUCKET, "a", ReadOptions(range=ByteRange(0, 10))))
    await steps.content(reading)
    die()


async def note_written_before_the_mark(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="both"))
    scene.die_after("put", "/a%!")
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tags={"a": "b"}))
    await scene.engine.settle()


async def renamed_and_copied_before_the_mark(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="cold"))
    scene.die_after("put", "/renamed")
    await scene.engine.store.rename(BUCKET, "a", "renamed", RenameOptions())
    has("renamed", 1, 50_000)
    has_not("a")
    await scene.engine.settle()


async def marker_copied_before_the_mark(scene: Scene) -> None:
    await scene.engine.store.change_bucket(BUCKET, BucketChange(versioning="Enabled"))
    await scene.put("a", 1, 50_000)
    await scene.engine.settle()
    scene.die_after("put", "/a%@")
    await scene.engine.store.delete(BUCKET, "a")
    has_not("a")
    await scene.engine.settle()


async def older_version_made_current(scene: Scene) -> None:
    await scene.engine.store.change_bucket(BUCKET, BucketChange(versioning="Enabled"))
    await scene.put("a", 1, 50_000)
    info = await steps.put(scene.engine.store, "a", pattern(60_000, 2))
    await scene.engine.settle()
    scene.die_after("delete", "/a%@")
    await scene.engine.store.delete(BUCKET, "a", DeleteOptions(version=info.version))
    has("a", 1, 50_000)
    await scene.engine.settle()


POINTS: Final[dict[str, Callable[[Scene], Awaitable[None]]]] = {
    point.__name__: point
    for point in (
        data_written,
        index_committed,
        half_of_a_long_put,
        demoted_before_the_mark,
        overwritten_while_demoted,
        part_demoted_before_the_mark,
        between_evict_marks,
        survivor_copied_before_the_mark,
        tombstone_carried_out_before_its_row_is_gone,
        recall_under_way,
        note_written_before_the_mark,
        renamed_and_copied_before_the_mark,
        marker_copied_before_the_mark,
        older_version_made_current,
    )
}


async def main(path: Path, point: str) -> None:
    """Ends by a signal, or by returning when the point was never reached."""
    backing = Hooked(DirectoryBacking(str(path / "backing"), create=True), lambda verb, name: scene.hook(verb, name))
    engine = await open_engine(path, backing)
    scene = Scene(engine)
    engine.start_keeper()
    await engine.store.create_bucket(BucketInfo(name=BUCKET, created_ms=engine.clock.now_ms(), pool=""))
    await POINTS[point](scene)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
