"""Lifecycle rules and cold storage classes over real pools, with a manual clock and the keeper's duties stepped by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.lifecycle import LifecycleDuty
from gateway.notify import PoolJournal
from s3api import lifecycle
from tests.support.clock import ManualClock
from tests.support.engine import Engine
from tiering.backing.memory import MemoryBacking
from tiering.backing.wrappers import Faulty
from tiering.contract import (
    BucketChange,
    BucketInfo,
    ListOptions,
    ListVersionsOptions,
    ObjectChange,
    ObjectInfo,
    Origin,
    PutOptions,
    PutResult,
    ReadOptions,
    Residency,
)

DAY = 1000
RULE = "<Rule><Filter/><Status>Enabled</Status>{}</Rule>"


class World:
    """An engine whose days are seconds, and the lifecycle duty over its store."""

    def __init__(self, engine: Engine, backing: Any) -> None:
        self.engine = engine
        self.backing = backing
        self.store = engine.store
        self.duty = LifecycleDuty(engine.store, engine.clock, DAY, rest=self.rest)

    async def rest(self, seconds: float) -> None: ...

    async def bucket(self, name: str, actions: str = "", **fields: Any) -> None:
        await self.store.create_bucket(BucketInfo(name=name, created_ms=0, pool="", **fields))
        if actions:
            body = f"<LifecycleConfiguration>{RULE.format(actions)}</LifecycleConfiguration>".encode()
            text = lifecycle.store(lifecycle.parse(body, "varies_by_storage_class"))
            await self.store.change_bucket(name, BucketChange({"lifecycle": text}))

    async def put(self, bucket: str, key: str, data: bytes = b"data", **options: Any) -> ObjectInfo:
        opened = self.store.put(bucket, key, len(data), PutOptions(**options))
        writer = await opened if isinstance(opened, Awaitable) else opened
        writing = writer.write(data)
        if writing is not None:
            await writing
        return await writer.commit(PutResult())

    async def walk(self, seconds: float = 0) -> None:
        self.engine.clock.advance(seconds)
        for _ in range(200):
            await self.engine.settle()
            if not await self.duty.step():
                return
        raise AssertionError("the walk does not end")

    async def head(self, bucket: str, key: str) -> ObjectInfo:
        opened = self.store.open(bucket, key, ReadOptions(head=True))
        return (await opened if isinstance(opened, Awaitable) else opened).info


def run(path: Path, test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        backing = Faulty(MemoryBacking())
        engine = await Engine.open(path, ManualClock(), backing)
        try:
            await test(World(engine, backing))
            await engine.settle()
            await engine.audit()
        finally:
            await engine.close()

    asyncio.run(main())


@pytest.mark.parametrize("versioning", ["", "Enabled"])
def test_objects_end_and_leave_nothing_behind(tmp_path: Path, versioning: str) -> None:
    async def test(w: World) -> None:
        actions = (
            "<Expiration><Days>1</Days></Expiration><NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays>"
            "</NoncurrentVersionExpiration>"
        )
        await w.bucket("bucket", actions, versioning=versioning)
        await w.bucket("kv-bucket", "<Expiration><Days>1</Days></Expiration>")
        for key in ("a", "b"):
            for size in (10, 100_000):
                await w.put("bucket", key, bytes(size))
        await w.put("kv-bucket", "k", bytes(100_000))
        for _ in range(6):
            await w.walk(1.1)
        assert not w.store.list_versions("bucket", ListVersionsOptions()).versions
        assert not w.store.list("kv-bucket", ListOptions()).objects

    run(tmp_path, test)


@pytest.mark.parametrize("storage_class", ["STANDARD_IA", "ONEZONE_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"])
def test_object_of_a_cold_class_leaves_the_hot_tier_at_once(tmp_path: Path, storage_class: str) -> None:
    async def test(w: World) -> None:
        await w.bucket("bucket")
        await w.put("bucket", "cold", storage_class=storage_class)
        await w.put("bucket", "hot", storage_class="INTELLIGENT_TIERING")
        await w.put("bucket", "pinned", storage_class=storage_class, pin_ms=60_000)
        await w.engine.settle()
        info = await w.head("bucket", "cold")
        assert (info.residency, info.storage_class) == (Residency.COLD_ONLY, storage_class)
        assert (await w.head("bucket", "hot")).residency is not Residency.COLD_ONLY
        assert (await w.head("bucket", "pinned")).residency is not Residency.COLD_ONLY
        w.engine.clock.advance(61)
        await w.engine.settle()
        assert (await w.head("bucket", "pinned")).residency is Residency.COLD_ONLY

    run(tmp_path, test)


def test_restored_object_is_hot_for_its_days_and_cold_again(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        await w.bucket("bucket")
        await w.store.change_bucket("bucket", BucketChange({"notification": "{}"}))
        await w.put("bucket", "k", storage_class="GLACIER")
        await w.engine.settle()
        assert (await w.head("bucket", "k")).residency is Residency.COLD_ONLY
        w.engine.start_keeper()
        await w.store.change("bucket", "k", ObjectChange(restore_ms=5000))
        assert (await w.head("bucket", "k")).residency is Residency.BOTH
        await w.engine.stop_keeper()
        w.engine.clock.advance(4)
        await w.engine.settle()
        assert (await w.head("bucket", "k")).residency is Residency.BOTH
        w.engine.clock.advance(2)
        await w.engine.settle()
        assert (await w.head("bucket", "k")).residency is Residency.COLD_ONLY
        rows = PoolJournal(w.engine.pools["standard"])
        events = [event.event for _, event in rows.oldest(100)]
        assert events[-2:] == ["ObjectRestore:Delete", "ObjectRecall:Evict"]
        assert "ObjectRestore:Completed" in events
        await rows.forget([number for number, _ in rows.oldest(100)])
        assert rows.oldest(100) == []

    run(tmp_path, test)


def test_object_is_cooled_when_the_backing_store_is_back(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        await w.bucket("bucket")
        w.backing.down = True
        await w.put("bucket", "k", storage_class="GLACIER_IR")
        await w.engine.settle(rounds=3)
        assert (await w.head("bucket", "k")).residency is Residency.HOT_ONLY
        w.backing.down = False
        await w.engine.settle()
        assert (await w.head("bucket", "k")).residency is Residency.COLD_ONLY

    run(tmp_path, test)


def test_objects_and_older_versions_move_to_colder_classes(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        actions = (
            "<Transition><Days>3</Days><StorageClass>GLACIER</StorageClass></Transition>"
            "<NoncurrentVersionTransition><NoncurrentDays>1</NoncurrentDays>"
            "<StorageClass>DEEP_ARCHIVE</StorageClass></NoncurrentVersionTransition>"
        )
        await w.bucket("bucket", actions, versioning="Enabled")
        old = await w.put("bucket", "k", b"old")
        new = await w.put("bucket", "k", b"new")
        await w.walk(1.5)
        found = {
            each.info.version: each.info for each in w.store.list_versions("bucket", ListVersionsOptions()).versions
        }
        assert found[new.version].storage_class == ""
        assert (found[old.version].storage_class, found[old.version].residency) == ("DEEP_ARCHIVE", Residency.COLD_ONLY)
        await w.walk(2)
        info = await w.head("bucket", "k")
        assert (info.storage_class, info.residency, info.modified_ms) == (
            "GLACIER",
            Residency.COLD_ONLY,
            new.modified_ms,
        )

    run(tmp_path, test)


def test_class_in_a_cache_bucket_is_a_name(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        await w.bucket("bucket", cache=True)
        await w.put("bucket", "k", storage_class="GLACIER_IR", origin=Origin("ObjectCreated:Put"))
        await w.engine.settle()
        assert (await w.head("bucket", "k")).residency is Residency.HOT_ONLY

    run(tmp_path, test)
