"""Events of watched buckets: what is recorded, in which order, and that others cost nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import steps
from tests.support.clock import ManualClock
from tests.support.engine import Engine
from tiering import journal
from tiering.backing.memory import MemoryBacking
from tiering.contract import (
    BucketChange,
    BucketInfo,
    CopyOptions,
    DeleteOptions,
    EventRecord,
    ObjectChange,
    Origin,
    PutOptions,
    RenameOptions,
    Ttl,
)

PUT = Origin("ObjectCreated:Put", "someone", "192.0.2.1", "request")
DELETE = Origin("ObjectRemoved:Delete")


def waiting(engine: Engine) -> list[EventRecord]:
    with engine.pools["standard"].index.view() as view:
        return [event for _, event in journal.oldest(view, 1000)]


def names(engine: Engine) -> list[str]:
    return [f"{event.event} {event.key}" for event in waiting(engine)]


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Callable[[Engine], Coroutine[Any, Any, None]]], None]:
    async def main(scene: Callable[[Engine], Coroutine[Any, Any, None]]) -> None:
        engine = await Engine.open(tmp_path, ManualClock(), MemoryBacking())
        engine.start_keeper()
        await engine.store.create_bucket(BucketInfo(name="b", created_ms=1, pool="standard"))
        await scene(engine)
        await engine.audit()
        await engine.close()

    return lambda scene: asyncio.run(main(scene))


async def watched(engine: Engine, text: str | None = "text") -> None:
    await engine.store.change_bucket("b", BucketChange(documents={"notification": text}))


Run = Callable[[Callable[[Engine], Coroutine[Any, Any, None]]], None]


def test_only_watched_buckets_have_events(run: Run) -> None:
    async def scene(engine: Engine) -> None:
        await steps.put(engine.store, "a", b"1", PutOptions(origin=PUT))
        assert waiting(engine) == []
        await watched(engine)
        info = await steps.put(engine.store, "b", b"22", PutOptions(origin=PUT))
        await steps.put(engine.store, "no request", b"1")
        await watched(engine, None)
        await steps.put(engine.store, "c", b"1", PutOptions(origin=PUT))
        (event,) = [event for event in waiting(engine) if not event.event.startswith("ObjectRecall")]
        assert event == EventRecord(
            event="ObjectCreated:Put",
            bucket="b",
            key="b",
            at_ms=engine.clock.now_ms(),
            size=2,
            etag=info.etag,
            generation=info.generation,
            principal="someone",
            source_ip="192.0.2.1",
            request_id="request",
            bucket_ms=1,
        )

    run(scene)


def test_requests_are_told_in_order(run: Run) -> None:
    async def scene(engine: Engine) -> None:
        await watched(engine)
        store = engine.store
        await steps.put(store, "a", b"1", PutOptions(origin=PUT))
        await store.copy(("b", "a"), ("b", "c"), CopyOptions(origin=Origin("ObjectCreated:Copy")))
        await store.change("b", "a", ObjectChange(tags={"a": "b"}, origin=Origin("ObjectTagging:Put")))
        await store.rename("b", "c", "d", RenameOptions(origin=Origin("ObjectCreated:Rename")))
        await store.delete("b", "a", DeleteOptions(origin=DELETE))
        await store.delete("b", "never", DeleteOptions(origin=DELETE))
        assert [name for name in names(engine) if not name.startswith("ObjectRecall")] == [
            "ObjectCreated:Put a",
            "ObjectCreated:Copy c",
            "ObjectTagging:Put a",
            "ObjectCreated:Rename d",
            "ObjectRemoved:Delete a",
        ]

    run(scene)


def test_delete_markers_are_told_as_such(run: Run) -> None:
    async def scene(engine: Engine) -> None:
        await engine.store.change_bucket("b", BucketChange(documents={"notification": "t"}, versioning="Enabled"))
        info = await steps.put(engine.store, "a", b"1")
        marker = await engine.store.delete("b", "a", DeleteOptions(origin=DELETE))
        await engine.store.delete("b", "a", DeleteOptions(version=info.version, origin=DELETE))
        await engine.store.delete("b", "a", DeleteOptions(version=marker.version, origin=DELETE))
        events = [event for event in waiting(engine) if event.event.startswith("ObjectRemoved")]
        assert [(event.event, event.version) for event in events] == [
            ("ObjectRemoved:DeleteMarkerCreated", marker.version),
            ("ObjectRemoved:Delete", info.version),
            ("ObjectRemoved:Delete", marker.version),
        ]

    run(scene)


def test_the_tiers_tell_what_they_do(run: Run) -> None:
    async def scene(engine: Engine) -> None:
        await watched(engine)
        await steps.put(engine.store, "a", b"1", PutOptions(ttl=Ttl(60_000)))
        await engine.store.change("b", "a", ObjectChange(tier="cold"))
        await engine.store.change("b", "a", ObjectChange(pin_ms=1000, tier="hot"))
        engine.clock.advance(61)
        await engine.settle()
        assert names(engine) == [
            "ObjectRecall:Demote a",
            "ObjectRecall:Evict a",
            "ObjectRecall:Pin a",
            "ObjectRecall:Recall a",
            "LifecycleExpiration:Delete a",
        ]

    run(scene)


def test_delivered_events_are_forgotten_and_the_number_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(engine: Engine) -> None:
        await watched(engine)
        pool = engine.pools["standard"]
        for each in range(5):
            await steps.put(engine.store, f"k{each}", b"", PutOptions(origin=PUT))
        with pool.index.view() as view:
            first = [key for key, event in journal.oldest(view, 100) if event.key in ("k0", "k1")]
        await pool.committer.submit(lambda batch: journal.forget(batch, first))
        created = [name for name in names(engine) if name.startswith("ObjectCreated")]
        assert created == [f"ObjectCreated:Put k{each}" for each in (2, 3, 4)]

    run(scene)


def test_events_nobody_takes_are_dropped_oldest_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "EVENTS_MAX", 3)

    async def scene(engine: Engine) -> None:
        await watched(engine)
        for each in range(9):
            await steps.put(engine.store, f"k{each}", b"", PutOptions(origin=PUT))
        assert len(waiting(engine)) == 3

    run(scene)


def test_a_deleted_bucket_is_watched_no_longer(run: Run) -> None:
    async def scene(engine: Engine) -> None:
        await watched(engine)
        await engine.store.delete_bucket("b")
        with engine.pools["standard"].index.view() as view:
            assert view.count("watched") == view.counters().watched == 0

    run(scene)
