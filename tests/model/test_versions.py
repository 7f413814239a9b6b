"""Versions, locks, appends and renames in the tiers: demoted, evicted, crashed and made again from the backing store.

Kind: tests. Spec: docs/SEMANTICS.md, "Versions", "Locks", "Appends and renames", "Rebuild".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import steps
from tests.model.world import compare_backing, pattern
from tests.support.clock import ManualClock
from tests.support.engine import Engine, pool_config
from tiering import layout
from tiering.backing.memory import MemoryBacking
from tiering.backing.streams import BytesSource
from tiering.backing.wrappers import Faulty
from tiering.contract import (
    BucketChange,
    BucketInfo,
    Deleted,
    DeleteOptions,
    Encryption,
    IsMarker,
    ListVersionsOptions,
    Lock,
    Locked,
    NoSuchKey,
    NoSuchVersion,
    ObjectChange,
    ObjectInfo,
    PutOptions,
    ReadOptions,
    RenameOptions,
    Residency,
    Ttl,
    Version,
)
from tiering.rebuild import rebuild

DAY_MS = 86_400_000


class Scene:
    """One engine with a versioned bucket `b`; `again` throws the index away and makes it from the backing store."""

    def __init__(self, path: Path, durability: str = "flash") -> None:
        self.path = path
        self.clock = ManualClock()
        self.backing = Faulty(MemoryBacking())
        self.durability = durability
        self.engine: Engine

    async def open(self, name: str = "data") -> None:
        configs = [pool_config(self.path / name, "small", durability=self.durability)]
        self.engine = await Engine.open(self.path / name, self.clock, self.backing, configs)
        self.engine.start_keeper()

    async def begin(self, versioning: Any = "Enabled") -> None:
        await self.open()
        await self.engine.store.create_bucket(BucketInfo(name="b", created_ms=1, pool="", versioning=versioning))

    async def settle(self) -> None:
        await self.engine.settle()
        await self.engine.audit()
        await compare_backing(self.engine)

    async def again(self) -> list[str]:
        await self.settle()
        await self.engine.crash()
        configs = [pool_config(self.path / "new", "small", durability=self.durability)]
        self.engine = await Engine.open(self.path / "new", self.clock, self.backing, configs)
        found = await rebuild(self.engine.pools, self.engine.buckets, self.engine.cold)
        self.engine.start_keeper()
        await self.settle()
        return found.unreadable

    def versions(self, key: str = "k") -> list[Version]:
        listing = self.engine.store.list_versions("b", ListVersionsOptions(prefix=key))
        return [each for each in listing.versions if each.key == key]

    async def get(self, version: str | None = None, key: str = "k") -> bytes:
        return await steps.get(self.engine.store, key, ReadOptions(version=version))

    async def info(self, version: str | None = None, key: str = "k") -> ObjectInfo:
        return (await steps.settled(self.engine.store.open("b", key, ReadOptions(head=True, version=version)))).info


Run = Callable[[Callable[[Scene], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=["flash", "backing"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    async def main(play: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
        scene = Scene(tmp_path, request.param)
        await scene.begin()
        await play(scene)
        await scene.settle()
        await scene.engine.close()

    return lambda play: asyncio.run(main(play))


def told(version: Version) -> tuple[Any, ...]:
    """What must be the same after everything was lost but the backing store."""
    info = version.info
    fields = ("version", "marker", "size", "etag", "modified_ms", "noncurrent_ms", "lock", "owner", "acl", "encryption")
    return (version.latest, info.tags, info.metadata, *(getattr(info, name) for name in fields))


def test_versions_move_between_the_tiers_by_themselves(run: Run) -> None:
    async def play(s: Scene) -> None:
        store = s.engine.store
        first = await steps.put(store, "k", pattern(50_000, 1))
        second = await steps.put(store, "k", pattern(40_000, 2))
        await store.change("b", "k", ObjectChange(tier="cold", version=first.version))
        assert (await s.info(first.version)).residency == Residency.COLD_ONLY
        assert (await s.info()).residency != Residency.COLD_ONLY
        assert await s.get(first.version) == pattern(50_000, 1)
        for _ in range(5000):  # its last byte is given out before it is written down where it is
            if (await s.info(first.version)).residency == Residency.BOTH:
                break
            await asyncio.sleep(0.001)
        else:
            raise AssertionError("it has not come back")
        await store.change("b", "k", ObjectChange(tier="cold"))
        await steps.put(store, "k", b"third")  # the cold one becomes an older version
        assert (await s.info(second.version)).residency == Residency.COLD_ONLY
        await s.engine.crash()
        await s.open()
        assert await s.get(second.version) == pattern(40_000, 2)
        assert await s.get() == b"third"

    run(play)


def test_reads_and_moves_that_overlap_a_new_version_find_the_old_one(run: Run) -> None:
    async def play(s: Scene) -> None:
        store = s.engine.store
        first = await steps.put(store, "k", pattern(60_000, 1))
        await store.change("b", "k", ObjectChange(tier="cold"))
        opened = await steps.settled(store.open("b", "k", ReadOptions()))
        await steps.put(store, "k", b"second")
        assert await steps.content(opened) == pattern(60_000, 1)
        await store.change("b", "k", ObjectChange(tier="hot", version=first.version))
        # An order about the current version is carried out on the version it has become.
        moving = asyncio.ensure_future(store.change("b", "k", ObjectChange(tier="cold")))
        await asyncio.sleep(0)
        await steps.put(store, "k", b"third")
        await moving
        states = [each.info.residency for each in s.versions()]
        assert states[1] == Residency.COLD_ONLY and states[0] != Residency.COLD_ONLY

    run(play)


def test_keys_with_nul_and_marks_keep_their_versions_apart(run: Run) -> None:
    async def play(s: Scene) -> None:
        store = s.engine.store
        keys = ["a", "a\0", "a\0b", "a\0\0", "a!", "a/", "a%@" + "0" * 32, "a%!", "x" * 1000, "\x01" * 900]
        made = {}
        for key in keys:
            for each in range(3):
                info = await steps.put(store, key, f"{key}{each}".encode())
                made[key, info.version] = f"{key}{each}".encode()
        await store.delete("b", "a")
        assert [len(s.versions(key)) for key in keys] == [4, *[3] * (len(keys) - 1)]
        order = [each.key for each in store.list_versions("b", ListVersionsOptions()).versions]
        assert order == sorted(order, key=str.encode)
        assert not await s.again()
        for (key, version), data in made.items():
            assert await s.get(version, key) == data
        with pytest.raises(NoSuchKey):
            await s.get(None, "a")

    run(play)


def test_everything_comes_back_from_the_backing_store_alone(run: Run) -> None:
    async def play(s: Scene) -> None:
        store = s.engine.store
        await store.change_bucket("b", BucketChange(object_lock=True))
        sealed = Encryption("AES256", "key", b"\0wrapped\xff", 3, "context")
        lock = Lock("COMPLIANCE", s.clock.now_ms() + DAY_MS)
        for each in range(3):
            s.clock.advance(1)
            options = PutOptions(lock=lock, owner=f"o{each}", acl="acl", encryption=sealed, metadata={"n": str(each)})
            await steps.put(store, "k", f"{each}".encode(), options)
        s.clock.advance(1)
        await store.delete("b", "k")
        await steps.put(store, "other", b"o")
        await store.delete("b", "gone")
        await s.settle()
        before = {key: [told(each) for each in s.versions(key)] for key in ("k", "other", "gone")}
        assert not await s.again()
        assert {key: [told(each) for each in s.versions(key)] for key in before} == before
        assert (s.engine.store.bucket("b").versioning, s.engine.store.bucket("b").object_lock) == ("Enabled", True)
        with pytest.raises(NoSuchKey):
            await s.get()
        for each, version in zip((2, 1, 0), s.versions()[1:], strict=True):
            assert await s.get(version.info.version) == f"{each}".encode()
            with pytest.raises(Locked):
                await s.engine.store.delete("b", "k", DeleteOptions(version=version.info.version))
        new = await steps.put(s.engine.store, "k", b"new")
        assert new.generation > before_generation(s, new.version)

    run(play)


def before_generation(scene: Scene, version: str) -> int:
    return max(each.info.generation for each in scene.versions() if each.info.version != version)


def test_versions_make_their_bucket_again_when_its_record_is_lost(run: Run) -> None:
    async def play(s: Scene) -> None:
        first = await steps.put(s.engine.store, "k", b"1", PutOptions(lock=Lock("", 0, True)))
        await steps.put(s.engine.store, "k", b"2")
        await s.settle()
        await s.backing.delete(".recall/buckets/b.json")
        await s.engine.crash()
        await s.open("new")
        await rebuild(s.engine.pools, s.engine.buckets, s.engine.cold)
        assert await s.get() == b"2" and await s.get(first.version) == b"1"
        assert (s.engine.store.bucket("b").versioning, s.engine.store.bucket("b").object_lock) == ("Enabled", True)

    run(play)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"[]",
        b"{}",
        b'{"name": "b", "created_ms": 1',
        b'{"name": "b", "created_ms": "1", "pool": "small"}',
        b'{"name": "b", "created_ms": 1, "pool": "small", "versioning": "On"}',
        b'{"name": "c", "created_ms": 1, "pool": "small"}',
        b'{"name": ' + b"[" * 100_000,
    ],
)
def test_a_bucket_record_that_cannot_be_read_is_named_and_the_rest_comes_back(run: Run, record: bytes) -> None:
    async def play(s: Scene) -> None:
        await steps.put(s.engine.store, "k", b"1")
        await s.settle()
        await s.backing.put(".recall/buckets/b.json", BytesSource(record))
        await s.engine.crash()
        await s.open("new")
        found = await rebuild(s.engine.pools, s.engine.buckets, s.engine.cold)
        assert [line.partition(":")[0] for line in found.unreadable] == [".recall/buckets/b.json"]
        assert await s.get() == b"1"
        assert [bucket.name for bucket in s.engine.store.buckets()] == ["b"]

    run(play)


def test_what_changed_after_the_demotion_comes_back(run: Run) -> None:
    async def play(s: Scene) -> None:
        store = s.engine.store
        await store.change_bucket("b", BucketChange(object_lock=True))
        first = await steps.put(store, "k", b"first")
        await steps.put(store, "k", b"second")
        await store.change("b", "k", ObjectChange(tier="cold", version=first.version))
        await store.change("b", "k", ObjectChange(tier="both"))
        lock = Lock("COMPLIANCE", s.clock.now_ms() + DAY_MS)
        await store.change("b", "k", ObjectChange(lock=lock, legal_hold=True, version=first.version))
        await store.change("b", "k", ObjectChange(tags={"a": "b"}, acl="acl", ttl=Ttl(DAY_MS)))
        await store.change("b", "k", ObjectChange(tags={"a": "c"}))
        assert not await s.again()
        assert (await s.info(first.version)).lock == Lock("COMPLIANCE", lock.until_ms, True)
        now = await s.info()
        assert (now.tags, now.acl, now.ttl_ms) == ({"a": "c"}, "acl", DAY_MS)
        # The notes go with their objects, and change again with them.
        await s.engine.store.change("b", "k", ObjectChange(tags={}))
        assert not await s.again()
        assert (await s.info()).tags == {}
        await s.engine.store.delete("b", "k", DeleteOptions(version=now.version))

    run(play)


def test_a_change_while_the_copy_is_made_is_not_forgotten(run: Run) -> None:
    async def play(s: Scene) -> None:
        store = s.engine.store
        await steps.put(store, "k", b"x")
        pool = s.engine.pools["small"]
        found = pool.index.get_object(layout.object_key(1, "k"))
        assert found is not None
        await asyncio.gather(
            store.change("b", "k", ObjectChange(tier="both")),
            store.change("b", "k", ObjectChange(tags={"late": "1"})),
        )
        await s.again()
        assert (await s.info()).tags == {"late": "1"}

    run(play)


def test_locked_versions_outlive_their_deadline(run: Run) -> None:
    async def play(s: Scene) -> None:
        store = s.engine.store
        lock = Lock("GOVERNANCE", s.clock.now_ms() + 120_000)
        await steps.put(store, "k", b"kept", PutOptions(ttl=Ttl(60_000), lock=lock))
        await steps.put(store, "held", b"held", PutOptions(ttl=Ttl(60_000), lock=Lock("", 0, True)))
        s.clock.advance(61)
        await s.settle()
        assert await s.get() == b"kept" and await s.get(None, "held") == b"held"
        s.clock.advance(60)
        await s.settle()
        with pytest.raises(NoSuchKey):
            await s.get()
        assert await s.get(None, "held") == b"held"
        await store.change("b", "held", ObjectChange(legal_hold=False))
        s.clock.advance(DAY_MS // 1000)
        await s.settle()
        with pytest.raises(NoSuchKey):
            await s.get(None, "held")

    run(play)


def test_a_deadline_hides_older_versions_behind_a_marker(run: Run) -> None:
    async def play(s: Scene) -> None:
        store = s.engine.store
        first = await steps.put(store, "k", b"first")
        second = await steps.put(store, "k", b"second", PutOptions(ttl=Ttl(60_000)))
        alone = await steps.put(store, "alone", b"alone", PutOptions(ttl=Ttl(60_000)))
        s.clock.advance(60)
        for _ in range(2):  # before the keeper has come by, and after
            for key in ("k", "alone"):
                with pytest.raises(NoSuchKey):
                    await s.get(None, key)
            with pytest.raises(NoSuchVersion):
                await s.get(second.version)
            with pytest.raises(NoSuchVersion):
                await s.get(alone.version, "alone")
            assert await s.get(first.version) == b"first"
            await s.settle()
        marker, rest = s.versions()
        assert (marker.latest, marker.info.marker, rest.info.version) == (True, True, first.version)
        assert s.versions("alone") == []
        with pytest.raises(IsMarker):
            await s.get(marker.info.version)
        assert (await store.delete("b", "k", DeleteOptions(version=marker.info.version))).found
        assert await s.get() == b"first"

    run(play)


def test_suspended_writes_survive_in_their_place(run: Run) -> None:
    async def play(s: Scene) -> None:
        store = s.engine.store
        first = await steps.put(store, "k", b"first")
        await store.change_bucket("b", BucketChange(versioning="Suspended"))
        await steps.put(store, "k", b"null")
        await store.change_bucket("b", BucketChange(versioning="Enabled"))
        await steps.put(store, "k", b"second")
        await store.change("b", "k", ObjectChange(tier="cold", version=""))
        await store.change_bucket("b", BucketChange(versioning="Suspended"))
        await s.again()
        assert await s.get("") == b"null" and await s.get(first.version) == b"first" and await s.get() == b"second"
        assert await s.engine.store.delete("b", "k") == Deleted(True, "", True)
        await s.again()
        assert [each.info.marker for each in s.versions()] == [True, False, False]

    run(play)


@pytest.mark.parametrize("tier", ["both", "cold", None])
def test_renamed_objects_keep_a_copy_in_the_backing_store(tmp_path: Path, tier: Any) -> None:
    async def main() -> None:
        s = Scene(tmp_path)
        await s.begin("")
        store = s.engine.store
        for key in ("from", "to"):
            await steps.put(store, key, pattern(30_000, len(key)))
            if tier:
                await store.change("b", key, ObjectChange(tier=tier))
        await s.engine.stop_keeper()
        s.engine.start_keeper()
        renamed = asyncio.ensure_future(store.rename("b", "from", "to", RenameOptions()))
        await renamed
        await steps.put(store, "from", b"another")
        assert await s.get(None, "to") == pattern(30_000, 4)
        await s.again()
        assert await s.get(None, "to") == pattern(30_000, 4)
        assert await s.get(None, "from") == b"another"
        await s.engine.close()

    asyncio.run(main())


def test_a_crash_after_a_rename_loses_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        s = Scene(tmp_path)
        await s.begin("")
        store = s.engine.store
        await steps.put(store, "from", b"data")
        await store.change("b", "from", ObjectChange(tier="both"))
        await s.settle()
        s.backing.down = True
        await store.rename("b", "from", "to", RenameOptions())
        await s.engine.crash()
        await s.open()
        assert await s.get(None, "to") == b"data"
        s.backing.down = False
        # Until it has a copy of its own, the one under the old name stays.
        assert [stat.key async for stat in s.backing.list("b/")] == ["b/from"]
        await s.again()
        assert await s.get(None, "to") == b"data"
        with pytest.raises(NoSuchKey):
            await s.get(None, "from")
        await s.engine.close()

    asyncio.run(main())


def test_appends_to_hot_cold_and_damaged_tiers(tmp_path: Path) -> None:
    async def main() -> None:
        s = Scene(tmp_path)
        await s.begin("")
        store, whole = s.engine.store, b""
        for each in range(40):
            piece = pattern(5000, each)
            await steps.put(store, "k", piece, PutOptions(append_at=len(whole)))
            whole += piece
            if each % 10 == 5:
                await store.change("b", "k", ObjectChange(tier="cold"))
        assert await s.get(None) == whole
        await s.settle()
        await s.engine.crash()
        await s.open()
        assert await s.get(None) == whole
        await s.again()
        assert await s.get(None) == whole
        await s.engine.close()

    asyncio.run(main())


def test_cold_classes_leave_the_tier_and_again_when_a_restore_ends(run: Run) -> None:
    async def play(s: Scene) -> None:
        store = s.engine.store
        await steps.put(store, "born", pattern(9000, 1), PutOptions(storage_class="GLACIER"))
        await steps.put(store, "k", pattern(9000, 2))
        await store.change("b", "k", ObjectChange(storage_class="STANDARD_IA"))
        await steps.put(store, "held", pattern(9000, 3), PutOptions(storage_class="GLACIER", pin_ms=60_000))
        await s.settle()
        states = [(await s.info(None, key)).residency == Residency.COLD_ONLY for key in ("born", "k", "held")]
        assert states == [True, True, False]
        assert await s.get() == pattern(9000, 2)
        await store.change("b", "born", ObjectChange(restore_ms=60_000))
        await s.settle()
        assert [(await s.info(None, key)).residency for key in ("k", "born")] == [Residency.BOTH, Residency.BOTH]
        s.clock.advance(61)
        await s.settle()
        await s.settle()
        states = [(await s.info(None, key)).residency == Residency.COLD_ONLY for key in ("born", "k", "held")]
        assert states == [True, False, True]
        await s.again()
        assert (await s.info()).storage_class == "STANDARD_IA"

    run(play)


def test_leases_of_blocks_write_nothing_to_the_backing_store(tmp_path: Path) -> None:
    async def main() -> None:
        s = Scene(tmp_path, "relaxed")
        await s.begin("")
        store = s.engine.store
        await steps.put(store, "k", b"block")
        await store.change("b", "k", ObjectChange(tier="both"))
        await store.change("b", "k", ObjectChange(pin_ms=60_000, ttl=Ttl(90_000, sliding=True)))
        await s.settle()
        assert [stat.key async for stat in s.backing.list("b/")] == ["b/k"]
        await store.change("b", "k", ObjectChange(tags={"a": "b"}))
        await s.again()
        info = await s.info(None)
        assert (info.tags, info.ttl_ms, info.sliding) == ({"a": "b"}, 90_000, True)
        await s.engine.close()

    asyncio.run(main())


def test_the_null_version_s_name_in_the_backing_store_is_used_again(run: Run) -> None:
    async def play(s: Scene) -> None:
        store = s.engine.store

        async def cold() -> None:
            await store.change("b", "k", ObjectChange(tier="cold"))

        await store.change_bucket("b", BucketChange(versioning="Suspended"))
        await steps.put(store, "k", b"null one")
        await cold()
        await store.change_bucket("b", BucketChange(versioning="Enabled"))
        second = (await steps.put(store, "k", b"second")).version
        await cold()
        await store.change_bucket("b", BucketChange(versioning="Suspended"))
        await steps.put(store, "k", b"null two")
        await cold()
        await store.change_bucket("b", BucketChange(versioning="Enabled"))
        third = (await steps.put(store, "k", b"third")).version
        await s.settle()
        assert [await s.get(each) for each in ("", second, third)] == [b"null two", b"second", b"third"]
        await store.delete("b", "k", DeleteOptions(version=third))
        assert await s.get() == b"null two"
        assert await s.again() == []
        assert [await s.get(each) for each in ("", second)] == [b"null two", b"second"]
        await s.engine.store.delete("b", "k", DeleteOptions(version=""))
        assert await s.again() == []
        assert (await s.get(), len(s.versions())) == (b"second", 1)

    run(play)


def test_renames_in_a_ring_leave_each_its_bytes(tmp_path: Path) -> None:
    async def main() -> None:
        s = Scene(tmp_path)
        await s.begin("")
        store, left, right = s.engine.store, b"A" * 300, b"B" * 500
        for key, data in (("a", left), ("b", right)):
            await steps.put(store, key, data)
            await store.change("b", key, ObjectChange(tier="cold"))
        for source, target in (("a", "t"), ("b", "a"), ("t", "b")):
            await store.rename("b", source, target, RenameOptions())
        await steps.put(store, "t", b"new")
        for key in ("a", "b", "t"):
            await store.change("b", key, ObjectChange(tier="cold"))
        for again in (False, True):
            assert not again or await s.again() == []
            await s.settle()
            assert [await s.get(key=key) for key in ("a", "b", "t")] == [right, left, b"new"]
        await s.engine.close()

    asyncio.run(main())
