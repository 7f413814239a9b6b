"""The keeper's walk over buckets with lifecycle rules, step by step over the memory store."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway import lifecycle as walk
from gateway.lifecycle import LifecycleDuty
from s3api import lifecycle
from tests.support.clock import ManualClock
from tiering.contract import (
    BucketChange,
    BucketInfo,
    DeleteOptions,
    ListOptions,
    ListVersionsOptions,
    Lock,
    ObjectChange,
    PendingOptions,
    PutOptions,
    PutResult,
    ReadOptions,
)
from tiering.memory import MemoryStore

DAY = 1000
DAYS1 = "<Expiration><Days>1</Days></Expiration>"


class World:
    """A store, a clock whose days are seconds, and the duty over both."""

    def __init__(self, path: Path | None = None) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock)
        self.counts: Counter[str] = Counter()
        self.path = path
        self.restart()

    def restart(self) -> None:
        self.duty = LifecycleDuty(self.store, self.clock, DAY, self.path, self.count, self.rest)

    def count(self, action: str, number: int) -> None:
        self.counts[action] += number

    async def rest(self, seconds: float) -> None:
        assert seconds >= 0

    async def bucket(self, name: str, *rules: str, **fields: Any) -> None:
        await self.store.create_bucket(BucketInfo(name=name, created_ms=0, pool="", **fields))
        await self.rules(name, *rules)

    async def rules(self, name: str, *rules: str) -> None:
        body = f"<LifecycleConfiguration>{''.join(rules)}</LifecycleConfiguration>".encode()
        text = lifecycle.store(lifecycle.parse(body))
        await self.store.change_bucket(name, BucketChange({"lifecycle": text}))

    async def put(self, bucket: str, key: str, data: bytes = b"data", **options: Any) -> str:
        writer = self.store.put(bucket, key, len(data), PutOptions(**options))
        writer.write(data)
        return (await writer.commit(PutResult())).version

    async def walk(self, seconds: float = 0) -> None:
        """Moves the clock, then steps until nothing is left to do."""
        self.clock.advance(seconds)
        for _ in range(1000):
            if not await self.duty.step():
                return
        raise AssertionError("the walk does not end")

    async def interrupted(self, act: Callable[[], Awaitable[object]]) -> None:
        """Walks, and acts between the first judgement and what it leads to."""
        delete = self.store.delete

        async def after(*arguments: Any) -> Any:
            self.store.delete = delete  # type: ignore[method-assign]  # once
            await act()
            return await delete(*arguments)

        self.store.delete = after  # type: ignore[method-assign]
        await self.walk()

    def keys(self, bucket: str) -> list[str]:
        return [key for key, _ in self.store.list(bucket, ListOptions()).objects]

    def versions(self, bucket: str) -> list[tuple[str, str, bool]]:
        return [
            (key, info.version, info.marker)
            for key, info, _ in self.store.list_versions(bucket, ListVersionsOptions()).versions
        ]


def rule(actions: str, which: str = "<Filter/>") -> str:
    return f"<Rule>{which}<Status>Enabled</Status>{actions}</Rule>"


def noncurrent(days: int, newer: int = 0) -> str:
    kept = f"<NewerNoncurrentVersions>{newer}</NewerNoncurrentVersions>" if newer else ""
    return f"<NoncurrentVersionExpiration><NoncurrentDays>{days}</NoncurrentDays>{kept}</NoncurrentVersionExpiration>"


def test_objects_expire_by_prefix_and_age() -> None:
    async def run() -> None:
        world = World()
        await world.bucket(
            "b",
            rule(DAYS1, "<Filter><Prefix>one/</Prefix></Filter>"),
            rule("<Expiration><Days>5</Days></Expiration>", "<Filter><Prefix>five/</Prefix></Filter>"),
        )
        for key in ("one/a", "one/b", "five/a", "keep/a"):
            await world.put("b", key)
        await world.walk()
        assert len(world.keys("b")) == 4
        await world.walk(1.5)
        assert world.keys("b") == ["five/a", "keep/a"]
        await world.walk(4)
        assert world.keys("b") == ["keep/a"]
        assert world.counts == {"expired": 3}

    asyncio.run(run())


def test_objects_expire_by_tag_size_and_date() -> None:
    async def run() -> None:
        world = World()
        await world.bucket(
            "b",
            rule(DAYS1, "<Filter><Tag><Key>a</Key><Value>1</Value></Tag></Filter>"),
            rule(DAYS1, "<Filter><ObjectSizeGreaterThan>9</ObjectSizeGreaterThan></Filter>"),
            rule(
                "<Expiration><Date>2015-01-01T00:00:00Z</Date></Expiration>",
                "<Filter><Prefix>past/</Prefix></Filter>",
            ),
            rule(
                "<Expiration><Date>2126-01-01T00:00:00Z</Date></Expiration>",
                "<Filter><Prefix>future/</Prefix></Filter>",
            ),
        )
        await world.put("b", "tagged", tags={"a": "1"})
        await world.put("b", "otherwise", tags={"a": "2"})
        await world.put("b", "large", b"0123456789")
        await world.put("b", "past/a")
        await world.put("b", "future/a")
        await world.walk(2)
        assert world.keys("b") == ["future/a", "otherwise"]

    asyncio.run(run())


def test_object_written_while_it_was_judged_stays() -> None:
    async def run() -> None:
        world = World()
        await world.bucket("b", rule(DAYS1))
        await world.put("b", "k")
        world.clock.advance(2)
        stale = world.store.list("b", ListOptions()).objects[0][1]
        await world.put("b", "k")
        with pytest.raises(walk.PreconditionFailed):
            await world.duty._expire(world.store.bucket("b"), "k", stale)
        await world.walk()
        assert world.keys("b") == ["k"]

    asyncio.run(run())


def test_current_version_gets_a_marker_and_the_rest_go_later() -> None:
    async def run() -> None:
        world = World()
        await world.bucket("b", rule(DAYS1 + noncurrent(3)), versioning="Enabled")
        old = await world.put("b", "k")
        new = await world.put("b", "k")
        await world.walk(1.5)
        found = world.versions("b")
        assert [(version, marker) for _, version, marker in found[1:]] == [(new, False), (old, False)]
        assert found[0][2]
        assert world.counts == {"marker_added": 1}
        await world.walk(1.6)  # the old one was replaced three days ago, the new one half of that
        assert [version for _, version, _ in world.versions("b")[1:]] == [new]
        await world.walk(5)
        await world.walk(1)  # the marker, alone now, is older than the rule's day
        assert world.versions("b") == []
        assert world.counts == {"marker_added": 1, "version_expired": 2, "marker_removed": 1}

    asyncio.run(run())


def test_version_that_has_become_the_current_one_stays() -> None:
    async def run() -> None:
        world = World()
        await world.bucket("b", rule(noncurrent(1)), versioning="Enabled")
        old, new = await world.put("b", "k", b"old"), await world.put("b", "k", b"new")
        world.clock.advance(2)
        await world.interrupted(lambda: world.store.delete("b", "k", DeleteOptions(version=new)))
        assert world.versions("b") == [("k", old, False)]

    asyncio.run(run())


def test_object_in_the_place_of_a_null_marker_stays() -> None:
    async def run() -> None:
        world = World()
        only = "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"
        await world.bucket("b", rule(only), versioning="Suspended")
        await world.store.delete("b", "k", DeleteOptions())
        assert world.versions("b") == [("k", "", True)]
        await world.interrupted(lambda: world.put("b", "k", b"new"))
        assert world.versions("b") == [("k", "", False)]

    asyncio.run(run())


def test_suspended_bucket_gets_a_null_marker() -> None:
    async def run() -> None:
        world = World()
        await world.bucket("b", rule(DAYS1), versioning="Enabled")
        first = await world.put("b", "k")
        await world.store.change_bucket("b", BucketChange(versioning="Suspended"))
        await world.put("b", "k")
        await world.walk(1.5)
        assert world.versions("b") == [("k", "", True), ("k", first, False)]

    asyncio.run(run())


def test_newest_noncurrent_versions_are_kept_over_page_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "PAGE_KEYS", 2)

    async def run() -> None:
        world = World()
        await world.bucket("b", rule(noncurrent(1, newer=3)), versioning="Enabled")
        kept = []
        for key in ("a", "k", "l"):
            made = [await world.put("b", key) for _ in range(8)]
            kept += [(key, version, False) for version in reversed(made[-4:])]
        await world.walk(1.5)
        assert world.versions("b") == kept

    asyncio.run(run())


def test_locked_versions_stay_until_the_lock_ends() -> None:
    async def run() -> None:
        world = World()
        await world.bucket("b", rule(noncurrent(1)), versioning="Enabled", object_lock=True)
        until_ms = world.clock.now_ms() + 10_000
        locked = await world.put("b", "k", lock=Lock("GOVERNANCE", until_ms))
        current = await world.put("b", "k")
        await world.walk(2)
        assert world.versions("b") == [("k", current, False), ("k", locked, False)]
        await world.walk(9)
        assert world.versions("b") == [("k", current, False)]

    asyncio.run(run())


def test_marker_with_a_version_behind_it_stays() -> None:
    async def run() -> None:
        world = World()
        await world.bucket(
            "b",
            rule("<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"),
            versioning="Enabled",
        )
        version = await world.put("b", "k")
        await world.put("b", "kk")
        await world.store.delete("b", "k")
        await world.walk(2)
        assert len(world.versions("b")) == 3
        await world.store.delete("b", "k", DeleteOptions(version=version))
        await world.walk(2)
        assert [key for key, _, _ in world.versions("b")] == ["kk"]

    asyncio.run(run())


def test_uploads_are_aborted() -> None:
    async def run() -> None:
        world = World()
        days = "<DaysAfterInitiation>2</DaysAfterInitiation>"
        abort = f"<AbortIncompleteMultipartUpload>{days}</AbortIncompleteMultipartUpload>"
        await world.bucket("b", rule(abort, "<Filter><Prefix>a/</Prefix></Filter>"))
        for key in ("a/1", "a/2", "b/1"):
            await world.store.begin_upload("b", key, PutOptions())
        await world.walk(1)
        assert len(world.store.pending("b", PendingOptions()).uploads) == 3
        await world.walk(1)
        assert [upload.key for upload in world.store.pending("b", PendingOptions()).uploads] == ["b/1"]

    asyncio.run(run())


def test_objects_move_to_colder_classes() -> None:
    async def run() -> None:
        world = World()
        await world.bucket(
            "b",
            rule(
                "<Transition><Days>1</Days><StorageClass>GLACIER_IR</StorageClass></Transition>"
                "<Transition><Days>3</Days><StorageClass>GLACIER</StorageClass></Transition>",
                "<Filter><ObjectSizeGreaterThan>1</ObjectSizeGreaterThan></Filter>",
            ),
        )
        await world.put("b", "k")
        classes = []
        for _ in range(3):
            await world.walk(1.1)
            info = world.store.open("b", "k", ReadOptions(head=True)).info
            classes.append((info.storage_class, info.residency.name))
        assert classes == [("GLACIER_IR", "COLD_ONLY"), ("GLACIER_IR", "COLD_ONLY"), ("GLACIER", "COLD_ONLY")]
        assert world.counts == {"transitioned": 2}

    asyncio.run(run())


def test_every_bucket_has_its_turn_and_a_change_of_rules_is_seen() -> None:
    async def run() -> None:
        world = World()
        for name in ("b1", "b2", "b3"):
            await world.bucket(name, rule(DAYS1))
            await world.put(name, "k")
        await world.bucket("plain", rule(DAYS1))
        await world.store.change_bucket("plain", BucketChange({"lifecycle": None}))
        await world.put("plain", "k")
        await world.walk(1.5)
        assert [world.keys(name) for name in ("b1", "b2", "b3", "plain")] == [[], [], [], ["k"]]
        await world.rules("plain", rule(DAYS1))
        await world.walk(0.3)
        assert world.keys("plain") == []

    asyncio.run(run())


def test_no_rules_cost_one_look() -> None:
    async def run() -> None:
        world = World()
        await world.store.create_bucket(BucketInfo(name="b", created_ms=0, pool=""))
        looks = 0
        every = world.store.buckets

        def counted() -> Any:
            nonlocal looks
            looks += 1
            return every()

        world.store.buckets = counted  # type: ignore[method-assign]
        for _ in range(50):
            assert await world.duty.step() == 0
        assert looks == 1

    asyncio.run(run())


def test_walk_goes_on_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "PAGE_KEYS", 3)

    async def run() -> None:
        world = World(tmp_path / "lifecycle.json")
        for name in ("b1", "b2"):
            await world.bucket(name, rule(DAYS1), versioning="Enabled" if name == "b2" else "")
            for key in "abcdef":
                await world.put(name, key)
        world.clock.advance(1.5)
        seen = []
        for _ in range(12):
            world.restart()  # a keeper that never lives longer than one step
            await world.duty.step()
            seen.append(len(world.keys("b1")) + len(world.keys("b2")))
        assert seen[-1] == 0, seen

    asyncio.run(run())


def test_walk_goes_on_where_its_place_cannot_be_written_down(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path / "nowhere" / "lifecycle.json")
        await world.bucket("b", rule(DAYS1))
        await world.put("b", "old")
        await world.walk(1.5)
        assert world.keys("b") == []

    asyncio.run(run())


def test_object_that_fails_does_not_stop_the_others() -> None:
    async def run() -> None:
        world = World()
        await world.bucket("b", rule(DAYS1))
        for key in ("a", "b", "c"):
            await world.put("b", key)
        delete = world.store.delete

        async def faulty(bucket: str, key: str, options: DeleteOptions) -> Any:
            if key == "b":
                raise walk.StoreError("no")
            return await delete(bucket, key, options)

        world.store.delete = faulty  # type: ignore[assignment, method-assign]
        await world.walk(1.5)
        assert world.keys("b") == ["b"]
        assert world.counts == {"expired": 2, "failed": 1}
        world.store.delete = delete  # type: ignore[method-assign]
        await world.walk(1)
        assert world.keys("b") == []

    asyncio.run(run())


def test_events_name_the_service() -> None:
    async def run() -> None:
        world = World()
        await world.bucket("b", rule(DAYS1))
        await world.put("b", "k")
        await world.store.change("b", "k", ObjectChange(tags={}))
        await world.walk(1.5)
        (event,) = world.store.events
        assert (event.event, event.principal) == ("LifecycleExpiration:Delete", "s3.amazonaws.com")

    asyncio.run(run())
