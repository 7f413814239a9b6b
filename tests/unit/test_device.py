"""What a device answers becomes one of two errors; what is written through a mapping has its blocks; the index grows by itself."""

from __future__ import annotations

import asyncio
import errno
import gc
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from s3api.handlers.body import arrived
from tests.support.clock import ManualClock
from tests.support.engine import Engine
from tests.support.gateway import wait_for
from tiering import device, uploads
from tiering.backing.memory import MemoryBacking
from tiering.committer import Committer, Mutation
from tiering.contract import BucketInfo, DeviceFailed, DiskFull, PutOptions
from tiering.heat import HEAT_SLOTS, Heat
from tiering.index import Index
from tiering.layout import ObjectRecord, RegionState
from tiering.space import Space

VALUE = b"v" * 1000


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EFBIG, DiskFull),
        (errno.EIO, DeviceFailed),
        (errno.EROFS, DeviceFailed),
        (errno.EBADF, DeviceFailed),
    ],
)
def test_every_refusal_is_one_of_two(number: int, kind: type[Exception]) -> None:
    assert type(device.refusal(OSError(number, os.strerror(number)), "pool/flash")) is kind


def test_probe_leaves_nothing(tmp_path: Path) -> None:
    assert device.keeps_writes(tmp_path)
    assert not list(tmp_path.iterdir())
    assert not device.keeps_writes(tmp_path / "none")


def test_every_file_of_a_pool_has_its_blocks(tmp_path: Path) -> None:
    asyncio.run(open_and_close(tmp_path))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"heat", "recalls", "readers", "lock.mdb", "flash", "buckets.version"} <= {path.name for path in files}
    stats = {path.name: path.stat() for path in files}
    assert not [name for name, stat in stats.items() if stat.st_blocks * 512 < stat.st_size]


async def open_and_close(path: Path) -> None:
    engine = await Engine.open(path, ManualClock(), MemoryBacking())
    await engine.close()


# --- the index -----------------------------------------------------------------------------------------------------------


def test_full_map_refuses_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    index = Index(tmp_path / "index", synced=False, map_bytes=1 << 20)
    written = 0
    with pytest.raises(DiskFull):
        while True:
            batch = index.batch()
            try:
                batch.put("meta", b"%08d" % written, VALUE)
            except Exception as error:
                batch.abort()
                raise index.storage_error(error) from error
            batch.commit()
            written += 1
    assert written > 200
    with index.view() as view:
        assert view.count("meta") == written
    index.close()
    index = Index(tmp_path / "index", synced=False, map_bytes=4 << 20)
    put(index, written)
    with index.view() as view:
        assert view.count("meta") == written + 1
    index.close()


def test_index_grows_under_many_writers(tmp_path: Path) -> None:
    """The map is larger than any index: no process has to be told that another one made the file longer."""
    index = Index(tmp_path / "index", synced=False)
    before = (tmp_path / "index" / "data.mdb").stat().st_size
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=write_many, args=(tmp_path / "index", first, 600)) for first in (1000, 2000)]
    for each in others:
        each.start()
    for number in range(600):
        put(index, number)
    for each in others:
        each.join(60)
        assert each.exitcode == 0
    with index.view() as view:
        assert view.count("meta") == 1800
        assert view.get("meta", b"%08d" % 2599) == VALUE
    index.close()
    assert (tmp_path / "index" / "data.mdb").stat().st_size > 4 * before


def write_many(path: Path, first: int, count: int) -> None:
    index = Index(path, synced=False)
    for number in range(first, first + count):
        put(index, number)
    index.close()


def put(index: Index, number: int) -> None:
    batch = index.batch()
    batch.put("meta", b"%08d" % number, VALUE)
    batch.commit()


# --- regions -------------------------------------------------------------------------------------------------------------


class Refusing(Committer):
    """Has no room while `full` is set."""

    full = False
    refused = 0

    def submit(self, mutation: Mutation[Any]) -> asyncio.Future[Any]:
        if not self.full:
            return super().submit(mutation)
        self.refused += 1
        refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        refused.set_exception(DiskFull("scripted"))
        return refused


def test_region_that_could_not_be_sealed_is_sealed_with_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        engine = await Engine.open(tmp_path, ManualClock(), MemoryBacking())
        pool = engine.served["kv"]
        committer = Refusing(pool.index, None)
        space = Space(committer, pool.flash, 7, engine.wake, 1.0)
        first, second = [await space.reserve_waiting(pool.flash.region_bytes) for _ in range(2)]
        committer.full = True
        space.give_back(first)
        await asyncio.sleep(0)
        committer.full = False
        assert state(pool.index, first.region) is RegionState.OPEN
        space.give_back(second)
        space.give_back(await space.reserve_waiting(pool.flash.region_bytes))
        await committer.submit(lambda batch: None)
        assert state(pool.index, first.region) is RegionState.SEALED
        space.close()
        committer.close()
        await engine.close()

    asyncio.run(main())


def test_reads_of_sliding_objects_that_cannot_be_written_down_are_no_news(tmp_path: Path) -> None:
    """They are tried every few milliseconds: the device has said once that it refuses."""

    async def main() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        engine = await Engine.open(tmp_path, ManualClock(), MemoryBacking())
        pool = engine.served["kv"]
        kept, pool.committer = pool.committer, Refusing(pool.index, None)
        pool.committer.full = True
        pool.touch(b"key", ObjectRecord(generation=1, size=0, modified_ms=0, etag="", crc64=0), 1)
        pool.flush_touches()
        await asyncio.sleep(0)
        gc.collect()
        assert told == []
        pool.committer.close()
        pool.committer = kept
        await engine.close()

    asyncio.run(main())


def test_large_put_that_the_device_lets_nobody_drop_is_dropped_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "DROP_AGAIN_S", 0.01)

    async def main() -> None:
        engine = await Engine.open(tmp_path, ManualClock(), MemoryBacking())
        pool = engine.served["kv"]
        await engine.store.create_bucket(BucketInfo(name="kv-b", created_ms=0, pool=""))
        kept, pool.committer = pool.committer, Refusing(pool.index, None)
        writer = await arrived(engine.store.put("kv-b", "large", pool.capacity_bytes // 2, PutOptions()))
        await arrived(writer.write(bytes(pool.flash.region_bytes + 1)))
        assert rows(pool.index, "parts") == 1
        pool.committer.full = True
        writer.abort()
        refusing = pool.committer
        await asyncio.to_thread(wait_for, lambda: refusing.refused > 1, "it is tried again")
        refusing.full = False
        await asyncio.to_thread(wait_for, lambda: not rows(pool.index, "uploads"), "it is dropped")
        assert rows(pool.index, "parts") == 0
        pool.committer.close()
        pool.committer = kept
        await engine.close()

    asyncio.run(main())


def rows(index: Index, database: str) -> int:
    with index.view() as view:
        return view.count(database)


def state(index: Index, region: int) -> RegionState:
    with index.view() as view:
        record = view.region(region)
    assert record is not None
    return RegionState(record.state)


def test_marks_are_forgotten_and_heat_is_not_wherever_they_are(tmp_path: Path) -> None:
    generations = [0, 70_000, HEAT_SLOTS // 2, HEAT_SLOTS - 1]
    heat = Heat(tmp_path / "heat")
    heat.adopt()
    for generation in generations:
        heat.fresh(generation)
        heat.bump(generation)
        heat.touch(generation, 7)
    heat.close()
    heat = Heat(tmp_path / "heat")
    assert heat.same_boot
    heat.adopt()
    for generation in generations:
        assert (heat.is_checked(generation), heat.heat(generation)) == (False, 1)
    assert heat.touched_ms(generations[-1]) == 7
    heat.close()


def test_all_heat_is_forgotten_in_another_boot(tmp_path: Path) -> None:
    generations = [0, 70_000, HEAT_SLOTS - 1]
    heat = Heat(tmp_path / "heat")
    for generation in generations:
        heat.bump(generation)
        heat.touch(generation, 7)
    heat.close()
    heat = Heat(tmp_path / "heat")
    assert not heat.same_boot
    heat.adopt()
    assert [heat.heat(each) + heat.touched_ms(each) for each in generations] == [0, 0, 0]
    heat.close()
    assert Heat(tmp_path / "heat").same_boot
