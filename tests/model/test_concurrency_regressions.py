"""Faults found by a review of the storage engine: what happens between a look and its act, and in crowds. One test a fault.

Kind: tests. Spec: docs/SEMANTICS.md; docs/ARCHITECTURE.md, "Recall", "Eviction", "Orders".
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import steps
from tests.crash.hooked import Hooked, Paced
from tests.model.world import pattern
from tests.support.clock import ManualClock
from tests.support.engine import REGION, Engine, pool_config
from tiering import board as boards
from tiering import cold as cold_module
from tiering import layout, mutations
from tiering import recall as recall_module
from tiering.backing import keys
from tiering.backing.memory import MemoryBacking
from tiering.backing.wrappers import Fault, Faulty
from tiering.board import Board
from tiering.buckets import Buckets
from tiering.coldstream import FRAME_BYTES
from tiering.contract import (
    BucketChange,
    BucketInfo,
    Busy,
    ByteRange,
    CompleteOptions,
    CopyOptions,
    Corrupt,
    DiskFull,
    NoSuchBucket,
    NoSuchKey,
    ObjectChange,
    ObjectInfo,
    PartClaim,
    PutOptions,
    PutResult,
    ReadOptions,
    RenameOptions,
    Residency,
    Ttl,
    WrongOffset,
)
from tiering.crc64 import crc64nvme
from tiering.duties.demote import DemoteDuty, OrderDuty
from tiering.duties.evict import EvictDuty
from tiering.index import Batch
from tiering.layout import ObjectRecord, Order
from tiering.pool import Pool, PoolConfig, open_pool
from tiering.ports import Backing, BackingUnavailable, QueueHead, Resident, Verdict
from tiering.rebuild import rebuild
from tiering.recall import LANDINGS_MAX, Recalls
from tiering.space import Piece, Space
from tiering.writer import FlashBody

DEADLINE_S = 60.0
"""For a machine that is slow or busy: what comes to pass does so in milliseconds."""
RELAXED: dict[str, Any] = {"durability": "relaxed", "opaque_etag": True, "demote": "pressure"}


def run(body: Coroutine[Any, Any, None]) -> None:
    """Runs a test's coroutine, which fails when it is not done in time."""
    asyncio.run(asyncio.wait_for(body, DEADLINE_S))


async def until(condition: Callable[[], object]) -> None:
    """`run` has the deadline."""
    while not condition():  # noqa: ASYNC110  the conditions are plain state, without an event
        await asyncio.sleep(0.001)


@asynccontextmanager
async def engine(
    path: Path, backing: Backing | None = None, configs: Sequence[PoolConfig] = (), **fields: Any
) -> AsyncIterator[Engine]:
    """An engine of one pool, `p`, with a bucket `b`, unless `configs` names others."""
    each = list(configs) or [pool_config(path, "p", **fields)]
    opened = await Engine.open(path, ManualClock(), backing or MemoryBacking(), each)
    try:
        if not configs:
            await opened.store.create_bucket(bucket("b"))
        yield opened
    finally:
        await opened.close()


def bucket(name: str, pool: str = "") -> BucketInfo:
    return BucketInfo(name=name, created_ms=1, pool=pool)


def okey_of(e: Engine, key: str, name: str = "b") -> bytes:
    found = e.buckets.find(name)
    assert found is not None
    return layout.object_key(found[1].number, key)


def record_of(e: Engine, key: str, name: str = "b") -> ObjectRecord | None:
    found = e.buckets.find(name)
    assert found is not None
    return found[0].index.get_object(okey_of(e, key, name))


async def make_cold(e: Engine, key: str) -> ObjectRecord:
    record = record_of(e, key)
    assert record is not None
    assert await e.demoter.drop(e.pools["p"], okey_of(e, key), record.generation)
    record = record_of(e, key)
    assert record is not None
    assert record.residency == Residency.COLD_ONLY
    return record


def damage(pool: Pool, at: int, length: int) -> None:
    """Overwrites bytes of the flash file with zeros, as pages lost at a power failure are."""
    with open(pool.config.path / "flash", "r+b") as stream:
        stream.seek(at)
        stream.write(bytes(length))


def rows(pool: Pool, database: str) -> list[bytes]:
    with pool.index.view() as view:
        return [key for key, _ in view.rows(database)]


def other_board(e: Engine) -> Board:
    """The board of pool `p` as another process sees it."""
    pool = e.served["p"]
    return Board(pool.config.path, pool.space.pieces_max(pool.stream_bytes))


def claimed(e: Engine) -> bool:
    """Whether anybody has a claim in pool `p`."""
    return any((e.served["p"].config.path / boards.NAMES[0]).read_bytes()[: 8 * boards.SLOTS])


# -- recalls -----------------------------------------------------------------------------------------------------


def test_more_recalls_at_once_than_there_are_slots_all_finish(tmp_path: Path) -> None:
    async def body() -> None:
        async with engine(tmp_path) as e:
            objects = {f"k{each}": pattern(4000, each) for each in range(LANDINGS_MAX + 16)}
            for key, data in objects.items():
                await steps.put(e.store, key, data)
            for key in objects:
                await make_cold(e, key)
            e.start_keeper()
            found = await asyncio.gather(*(steps.get(e.store, key) for key in objects))
            assert found == list(objects.values())
            recalls = e.store.recalls["p"]
            await until(lambda: not recalls._landings)
            assert len(recalls._free_slots) == LANDINGS_MAX
            assert not claimed(e)

    run(body())


def test_follower_does_not_take_a_newer_landings_progress_for_its_own(tmp_path: Path) -> None:
    # The slot it watched was used again, for the same generation at another place: it read what was never written there.
    async def body() -> None:
        async with engine(tmp_path) as e:
            data = pattern(20_000, 1)
            await steps.put(e.store, "k", data)
            record = await make_cold(e, "k")
            served, okey, slot = e.served["p"], okey_of(e, "k"), 5
            place = FlashBody(served, record.size)  # the other process's landing, which never gets beyond 5000 bytes
            await steps.settled(place.begin())
            await steps.settled(place.write(data[:5000]))
            board = other_board(e)
            assert board.claim(slot, 111, record.generation) is None
            board.place(slot, 111, place.places)
            board.post(slot, 111, 5000, boards.LANDING)

            space = Space(served.committer, served.flash, 2, e.wake, 1.0)
            pool = Pool(served.config, served.index, served.flash, served.heat, served.committer, space, served.clock)
            follower = Recalls(pool, e.cold, 2)
            reading = await follower.read(okey, record, 0, record.size)
            assert [landing.remote for landing in follower._landings.values()] == [111]
            board.post(slot, 222, record.size - 1, boards.LANDING)
            assert board.landed(slot, 111) is None
            assert await steps.content(reading) == data
            await follower.close()
            board.close()
            place.settle()
            space.close()

    run(body())


def test_follower_whose_landing_has_left_its_slot_finds_the_object_hot(tmp_path: Path) -> None:
    # The slot was another's before the follower looked again: it took the landing for failed, and an append was refused.
    async def body() -> None:
        async with engine(tmp_path) as e:
            data = pattern(20_000, 1)
            await steps.put(e.store, "k", data)
            record = await make_cold(e, "k")
            served, okey, slot = e.served["p"], okey_of(e, "k"), 5
            board = other_board(e)
            assert board.claim(slot, 111, record.generation) is None
            follower = Recalls(served, e.cold, 2)
            bringing = asyncio.create_task(follower.bring(okey, record))
            await until(lambda: [landing.remote for landing in follower._landings.values()] == [111])
            place = FlashBody(served, record.size)
            await steps.settled(place.begin())
            await steps.settled(place.write(data))
            await served.committer.submit(
                lambda batch: mutations.recalled(batch, okey, record.generation, place.extents, 0)
            )
            place.settle()
            board.post(slot, 222, 0, boards.LANDING)
            assert await bringing
            assert await steps.get(e.store, "k") == data
            await follower.close()
            board.close()

    run(body())


def test_bytes_of_a_landing_that_failed_are_checked_before_the_last_is_given(tmp_path: Path) -> None:
    # The reader went on from the backing store, whose frames are checked; what it had been given before never was.
    async def body() -> None:
        async with engine(tmp_path) as e:
            data = pattern(20_000, 1)
            await steps.put(e.store, "k", data)
            record = await make_cold(e, "k")
            served, okey, slot = e.served["p"], okey_of(e, "k"), 5
            place = FlashBody(served, record.size)
            await steps.settled(place.begin())
            await steps.settled(place.write(bytes(5000)))  # not what the object holds
            board = other_board(e)
            assert board.claim(slot, 111, record.generation) is None
            board.place(slot, 111, place.places)
            board.post(slot, 111, 5000, boards.LANDING)

            space = Space(served.committer, served.flash, 2, e.wake, 1.0)
            pool = Pool(served.config, served.index, served.flash, served.heat, served.committer, space, served.clock)
            follower = Recalls(pool, e.cold, 2)
            reading = await follower.read(okey, record, 0, record.size)
            board.post(slot, 111, 5000, boards.FAILED)
            with pytest.raises(Corrupt):
                await steps.content(reading)
            await follower.close()
            board.close()
            place.settle()
            space.close()

    run(body())


def test_bytes_of_a_landing_that_failed_are_checked_when_another_brings_the_rest(tmp_path: Path) -> None:
    # The reader of a damaged copy found the object hot by the next recall, read the rest on flash, and compared nothing.
    async def body() -> None:
        backing = Faulty(Paced(MemoryBacking()))
        async with engine(tmp_path, backing) as e:
            data = pattern(200_000, 1)
            await steps.put(e.store, "k", data)
            await make_cold(e, "k")
            backing.script.append(Fault("flip", "get", at=1000))
            reading = await steps.settled(e.store.open("b", "k", ReadOptions()))  # its first piece is taken
            await until(lambda: not e.store.recalls["p"]._landings)
            await e.store.change("b", "k", ObjectChange(tier="hot"))
            with pytest.raises(Corrupt):
                await steps.content(reading)
            assert await steps.get(e.store, "k") == data

    run(body())


def test_claim_of_a_landing_that_failed_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A landing that could not even take its claim back left it behind; the next in its slot waited for itself.
    def full(*_: object) -> None:
        raise DiskFull("the index has no room")

    async def body() -> None:
        async with engine(tmp_path) as e:
            data = pattern(50_000, 1)
            await steps.put(e.store, "k", data)
            await make_cold(e, "k")
            with monkeypatch.context() as patch:
                patch.setattr(mutations, "recalled", full)
                assert await steps.get(e.store, "k") == data
                await until(lambda: not e.store.recalls["p"]._landings)
            assert not claimed(e)
            assert await steps.get(e.store, "k") == data
            await until(lambda: not e.store.recalls["p"]._landings)
            assert not claimed(e)

    run(body())


def test_each_of_many_processes_has_slots_of_its_own(tmp_path: Path) -> None:
    # Of more than 64 some shared theirs: one that started ended what another had claimed.
    async def body() -> None:
        async with engine(tmp_path) as e:
            board = other_board(e)
            first = Recalls(e.served["p"], e.cold, 1)
            slot = first._free_slots.pop()
            assert board.claim(slot, 111, 500) is None
            others = [Recalls(e.served["p"], e.cold, each) for each in (2, 65, 129, 256)]
            assert board.claim(others[0]._free_slots[0], 222, 500) == (slot, 111)
            for each in (first, *others):
                await each.close()
            board.close()

    run(body())


def test_claim_of_a_process_that_is_gone_is_taken(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()

    async def body() -> None:
        async with engine(tmp_path) as e:
            data = pattern(20_000, 1)
            await steps.put(e.store, "k", data)
            record = await make_cold(e, "k")
            board = other_board(e)
            assert board.claim(5, 111, record.generation) is None
            found = board.claim(6, 222, record.generation)
            assert found == (5, 111)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "getpid", lambda: gone.pid)
                board.post(5, 111, 0, boards.LANDING)
            assert await steps.get(e.store, "k") == data
            await until(lambda: not e.store.recalls["p"]._landings)
            assert record_of(e, "k") != record, "it was landed, not passed through"
            board.close()

    run(body())


def test_board_that_is_held_is_waited_for_and_then_done_without(tmp_path: Path) -> None:
    async def body() -> None:
        async with engine(tmp_path) as e:
            for key in ("short", "long"):
                await steps.put(e.store, key, pattern(20_000, 1))
                await make_cold(e, key)
            board = other_board(e)
            assert board.lock()
            reading = asyncio.create_task(steps.get(e.store, "short"))
            await asyncio.sleep(0.01)
            assert not reading.done()
            board.unlock()
            assert await reading == pattern(20_000, 1)
            assert board.lock()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(recall_module, "_CLAIM_S", 0.01)
                assert await steps.get(e.store, "long") == pattern(20_000, 1)
            found = record_of(e, "long")
            assert found is not None
            assert found.residency == Residency.COLD_ONLY
            board.close()

    run(body())


@pytest.mark.parametrize("call", ["append", "rename", "hot", "restore"])
def test_cold_object_that_is_overwritten_while_it_comes_back_is_looked_for_again(call: str, tmp_path: Path) -> None:
    # Its copy was gone by then: a 500 that said the object was damaged.
    async def body() -> None:
        newer, gets = pattern(60_000, 2), []

        async def hook(verb: str, key: str) -> None:
            if verb == "get" and not gets:
                gets.append(key)
                await steps.put(e.store, "k", newer)
                await e.settle()

        async with engine(tmp_path, Hooked(MemoryBacking(), hook), demote_after_ms=1 << 40) as e:
            await steps.put(e.store, "k", pattern(50_000, 1))
            await make_cold(e, "k")
            if call == "append":
                with pytest.raises(WrongOffset):
                    await steps.put(e.store, "k", b"more", PutOptions(append_at=50_000))
            elif call == "rename":
                await e.store.rename("b", "k", "new", RenameOptions())
                assert await steps.get(e.store, "new") == newer
            else:
                change = ObjectChange(tier="hot") if call == "hot" else ObjectChange(restore_ms=1000)
                await e.store.change("b", "k", change)
                assert await steps.get(e.store, "k") == newer
            assert gets

    run(body())


def test_evicted_empty_object_comes_back(tmp_path: Path) -> None:
    async def body() -> None:
        async with engine(tmp_path) as e:
            e.start_keeper()
            await steps.put(e.store, "k", b"")
            assert (await e.store.change("b", "k", ObjectChange(tier="cold"))).residency == Residency.COLD_ONLY
            assert (await e.store.change("b", "k", ObjectChange(tier="hot"))).residency == Residency.BOTH
            assert await steps.get(e.store, "k") == b""

    run(body())


# -- rebuild -----------------------------------------------------------------------------------------------------


def test_rebuild_does_not_bring_back_what_the_index_has_deleted(tmp_path: Path) -> None:
    # A tombstone and a stale bucket row are deletions that the backing store has not been told of yet.
    async def body() -> None:
        async with engine(tmp_path) as e:
            await e.store.create_bucket(bucket("gone"))
            await steps.put(e.store, "k", pattern(10_000, 1))
            await e.settle()
            assert (await e.store.delete("b", "k")).found
            await e.store.delete_bucket("gone")
            found = await rebuild(e.pools, e.buckets, e.cold)
            assert (found.buckets, found.objects) == (0, 0)
            with pytest.raises(NoSuchKey):
                await steps.head(e.store, "k")
            assert [info.name for info in e.store.buckets()] == ["b"]

    run(body())


def test_rebuild_of_some_pools_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    async def body() -> None:
        backing = MemoryBacking()
        configs = [pool_config(tmp_path, name) for name in ("lost", "whole")]
        async with engine(tmp_path, backing, configs) as e:
            for name in ("lost", "whole"):
                await e.store.create_bucket(bucket(f"in-{name}", name))
                await steps.put(e.store, "k", pattern(1000, 1), bucket=f"in-{name}")
            await e.settle()
            okey, pool = okey_of(e, "k", "in-whole"), e.pools["whole"]

            def forget(batch: Batch) -> None:
                batch.replace_object(okey, batch.object(okey), None)
                for name, _ in list(batch.rows("tombstones")):
                    batch.delete("tombstones", name)

            pool.committer.run(forget)
        shutil.rmtree(tmp_path / "pools" / "lost")
        async with engine(tmp_path, backing, configs) as e:
            found = await rebuild(e.pools, e.buckets, e.cold, only={"lost"})
            assert (found.buckets, found.objects, found.kept) == (1, 1, 1)
            assert await steps.get(e.store, "k", bucket="in-lost") == pattern(1000, 1)
            assert record_of(e, "k", "in-whole") is None

    run(body())


# -- buckets -----------------------------------------------------------------------------------------------------


def test_cancelled_bucket_creation_leaves_the_lock_free(tmp_path: Path) -> None:
    # The thread had the lock's only descriptor in hand when nobody waited for it any more.
    async def body() -> None:
        async with engine(tmp_path) as e:
            lock = os.open(e.store._buckets._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            creation = asyncio.ensure_future(e.store.create_bucket(bucket("a")))
            for _ in range(3):
                await asyncio.sleep(0)  # its thread waits for the lock
            creation.cancel()
            with pytest.raises(asyncio.CancelledError):
                await creation
            fcntl.flock(lock, fcntl.LOCK_UN)
            await until(lambda: e.buckets.find("a") is not None)

            def free() -> bool:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                return True

            await until(free)
            os.close(lock)

    run(body())


def test_bucket_changed_while_its_record_is_written_keeps_its_mark(tmp_path: Path) -> None:
    async def body() -> None:
        inner = MemoryBacking()
        changes = ["second"]

        async def hook(verb: str, name: str) -> None:
            if verb == "put" and changes:
                await e.store.change_bucket("b", BucketChange({"cors": changes.pop()}))

        async with engine(tmp_path, inner) as e:
            await e.settle()
            await e.store.change_bucket("b", BucketChange({"cors": "first"}))
            e.cold.backing = Hooked(inner, hook)
            assert not await e.demoter.write_bucket(e.pools["p"], "b")
            assert rows(e.pools["p"], "stale_buckets") == [b"b"]
            assert await e.demoter.write_bucket(e.pools["p"], "b")
            assert rows(e.pools["p"], "stale_buckets") == []
            stored = inner._objects[keys.bucket_record_key("b")]
            assert json.loads(stored)["documents"] == {"cors": "second"}

    run(body())


def test_bucket_deleted_while_its_record_is_written_leaves_the_backing_store(tmp_path: Path) -> None:
    async def body() -> None:
        inner = MemoryBacking()
        deletions = ["b"]

        async def hook(verb: str, name: str) -> None:
            if verb == "put" and deletions:
                await e.store.delete_bucket(deletions.pop())

        async with engine(tmp_path, inner) as e:
            e.cold.backing = Hooked(inner, hook)
            await e.settle()
            assert not deletions
            assert inner._objects == {}

    run(body())


@pytest.mark.parametrize("call", ["change", "delete"])
def test_change_of_a_bucket_whose_client_left_is_told_to_all(call: str, tmp_path: Path) -> None:
    # Cancelled between the commit and the telling: the others kept the old policy, this process too.
    async def body() -> None:
        async with engine(tmp_path) as e:
            other = Buckets(e.pools, tmp_path)
            assert not other.route("b")[1].documents
            change = BucketChange(documents={"policy": "{}"})
            calling = e.store.change_bucket("b", change) if call == "change" else e.store.delete_bucket("b")
            task = asyncio.ensure_future(calling)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            e.pools["p"].committer.run(lambda batch: None)  # all before it is committed
            await asyncio.sleep(0.01)
            if call == "change":
                assert other.route("b")[1].documents
            else:
                with pytest.raises(NoSuchBucket):
                    other.route("b")
            other.close()

    run(body())


class _Late:
    """A mapped word as a process sees it that is held up just after it has read it."""

    def __init__(self, word: memoryview, meanwhile: Callable[[], None]) -> None:
        self._word = word
        self._meanwhile = meanwhile

    def __getitem__(self, at: int) -> int:
        found: int = self._word[at]
        self._meanwhile()
        return found

    def __setitem__(self, at: int, value: int) -> None:
        self._word[at] = value

    def release(self) -> None:
        self._word.release()


def test_bucket_changes_of_several_processes_at_once_are_all_seen(tmp_path: Path) -> None:
    # The word was counted up: who was held up in that set it back, and the next change made it what somebody had seen.
    async def body() -> None:
        async with engine(tmp_path) as e:
            one, late, reader = (Buckets(e.pools, tmp_path) for _ in range(3))

            def meanwhile() -> None:
                one.changed()
                one.changed()
                reader.route("b")

            late._version = _Late(late._version, meanwhile)  # type: ignore[assignment]
            reader.route("b")
            late.changed()
            await one.change("b", BucketChange(documents={"policy": "{}"}))
            assert reader.route("b")[1].documents
            for each in (one, late, reader):
                each.close()

    run(body())


# -- durability `backing` ----------------------------------------------------------------------------------------


async def _ordered(e: Engine, write: asyncio.Future[ObjectInfo]) -> list[str]:
    """Waits until the write asks the keeper for something, and says what; the write must not be acknowledged before."""
    pool = e.pools["p"]
    await until(lambda: write.done() or rows(pool, "orders"))
    assert not write.done(), "acknowledged before the backing store had it"
    with pool.index.view() as view:
        return [layout.ORDER.decode(value).verb for _, value in view.rows("orders")]


def test_long_put_of_a_backing_pool_waits_for_its_copy(tmp_path: Path) -> None:
    async def body() -> None:
        async with engine(tmp_path, durability="backing") as e:
            data = pattern(e.served["p"].stream_bytes + 1, 1)
            write = asyncio.ensure_future(steps.put(e.store, "long", data, piece=60_000))
            assert await _ordered(e, write) == ["demote"]
            e.start_keeper()
            await write
            record = record_of(e, "long")
            assert record is not None
            assert record.residency == Residency.BOTH
            assert record.cold

    run(body())


def test_write_does_not_wait_for_the_copy_of_another_that_takes_long(tmp_path: Path) -> None:
    # Orders were carried out some at a time: while a long object was copied, every other write was told to come again.
    async def body() -> None:
        begun, going_on = asyncio.Event(), asyncio.Event()

        async def hook(verb: str, key: str) -> None:
            if (verb, key) == ("put", keys.cold_key("b", "long")):
                begun.set()
                await going_on.wait()

        async with engine(tmp_path, Hooked(MemoryBacking(), hook), durability="backing") as e:

            async def keep() -> None:
                while True:
                    await e.duty("p", OrderDuty).step()
                    await asyncio.sleep(0.001)

            keeping = asyncio.ensure_future(keep())
            long = asyncio.ensure_future(steps.put(e.store, "long", pattern(60_000, 1)))
            await begun.wait()
            await steps.put(e.store, "short", b"data")
            assert not long.done()
            going_on.set()
            await long
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    run(body())


def test_orders_that_come_all_the_time_do_not_hide_that_they_fail(tmp_path: Path) -> None:
    # The duty was never done with its step, so nobody heard of the failure, and it asked an absent backing store on and on.
    async def body() -> None:
        backing = Faulty(MemoryBacking())
        async with engine(tmp_path, backing) as e:
            pool, info = e.pools["p"], await steps.put(e.store, "k", b"data")
            backing.down = True

            def give(batch: Batch) -> None:
                batch.counters().order += 1
                order = Order("demote", okey_of(e, "k"), info.generation)
                batch.put("orders", layout.u64_key(batch.counters().order), layout.ORDER.encode(order))

            async def giving() -> None:
                while True:
                    await pool.committer.submit(give)

            givers = [asyncio.ensure_future(giving()) for _ in range(8)]
            await until(lambda: rows(pool, "orders"))
            with pytest.raises(BackingUnavailable):
                await e.duty("p", OrderDuty).step()
            for giver in givers:
                giver.cancel()
            await asyncio.gather(*givers, return_exceptions=True)

    run(body())


def test_object_in_pieces_of_a_backing_pool_waits_for_its_manifest(tmp_path: Path) -> None:
    # Its bytes were in the backing store, but nothing there said whose they were.
    async def body() -> None:
        async with engine(tmp_path, durability="backing") as e:
            data = pattern(50_000, 1)
            upload = await e.store.begin_upload("b", "k", PutOptions())
            part = await steps.put_part(e.store, "k", upload.upload_id, 1, data)
            assert await e.demoter.demote_part(e.pools["p"], layout.part_key(upload.upload_id, 1))
            claims = [PartClaim(1, part.etag)]
            completion = e.store.complete_upload("b", "k", upload.upload_id, claims, CompleteOptions(etag="x-1"))
            write = asyncio.ensure_future(completion)
            assert await _ordered(e, write) == ["manifest"]
            e.start_keeper()
            await write
            record = record_of(e, "k")
            assert record is not None
            assert not record.unlisted
            assert keys.cold_key("b", "k") in [stat.key async for stat in e.backing.list("")]

    run(body())


def test_manifest_that_waited_is_not_written_over_a_newer_copy(tmp_path: Path) -> None:
    # The object in pieces was overwritten meanwhile, and the newer one had its copy under the same name: it was lost when evicted.
    async def body() -> None:
        async with engine(tmp_path) as e:
            pool, newer = e.pools["p"], pattern(40_000, 2)
            upload = await e.store.begin_upload("b", "k", PutOptions())
            part = await steps.put_part(e.store, "k", upload.upload_id, 1, pattern(50_000, 1))
            assert await e.demoter.demote_part(pool, layout.part_key(upload.upload_id, 1))
            claims = [PartClaim(1, part.etag)]
            pieces = await e.store.complete_upload("b", "k", upload.upload_id, claims, CompleteOptions(etag="x-1"))
            async with e.demoter._alone(keys.cold_key("b", "k")):
                writing = asyncio.ensure_future(e.demoter.write_manifest(pool, okey_of(e, "k"), pieces.generation))
                await asyncio.sleep(0)
                await steps.put(e.store, "k", newer)
            await make_cold(e, "k")  # the name was free before its waiter had its turn
            assert not await writing
            assert await steps.get(e.store, "k") == newer

    run(body())


# -- uploads -----------------------------------------------------------------------------------------------------


def test_parts_of_an_unfinished_upload_do_not_block_writes(tmp_path: Path) -> None:
    async def body() -> None:
        async with engine(tmp_path, space_wait_s=2.0) as e:
            e.start_keeper()
            upload = await e.store.begin_upload("b", "long", PutOptions())
            for number in range(1, 41):  # 2.4 MB into a pool of 2 MiB
                await steps.put_part(e.store, "long", upload.upload_id, number, pattern(60_000, number))
            await steps.put(e.store, "small", pattern(1000, 1))
            assert await steps.get(e.store, "small") == pattern(1000, 1)

    run(body())


@pytest.mark.parametrize("turns", range(1, 4))
def test_long_put_whose_client_leaves_at_once_leaves_nothing(turns: int, tmp_path: Path) -> None:
    # What it had begun was committed all the same, with nobody who knew of it.
    async def body() -> None:
        async with engine(tmp_path, **RELAXED) as e:
            opening = asyncio.ensure_future(steps.settled(e.store.put("b", "k", 600_000, PutOptions())))
            for _ in range(turns):
                await asyncio.sleep(0)
            opening.cancel()
            for writer in await asyncio.gather(opening, return_exceptions=True):
                if not isinstance(writer, BaseException):
                    writer.abort()
            await asyncio.sleep(0.01)
            e.pools["p"].committer.run(lambda batch: None)  # all before it is committed
            assert not rows(e.pools["p"], "uploads")

    run(body())


def test_long_put_into_a_bucket_that_goes_says_that_it_is_gone(tmp_path: Path) -> None:
    # It said that there was no such upload: the client had never heard of one.
    async def body() -> None:
        async with engine(tmp_path) as e:
            writer = await steps.settled(e.store.put("b", "k", 600_000, PutOptions()))
            await steps.settled(writer.write(bytes(1000)))
            await e.store.delete_bucket("b")
            with pytest.raises(NoSuchBucket):
                await steps.settled(writer.write(bytes(599_000)))
            writer.abort()

    run(body())


def test_put_longer_than_what_may_wait_for_demotion_is_taken(tmp_path: Path) -> None:
    # Its own first parts filled what may wait, and no duty demoted parts before the upload was complete.
    async def body() -> None:
        async with engine(tmp_path, space_wait_s=2.0) as e:
            e.start_keeper()
            data = pattern(2_500_000, 1)
            assert len(data) > e.served["p"].dirty_bytes_max
            await steps.put(e.store, "long", data, piece=60_000)
            assert await steps.get(e.store, "long") == data

    run(body())


def test_part_replaced_before_completion_gives_the_right_crc64(tmp_path: Path) -> None:
    # The checksum was put together from a look before the transaction that took the parts.
    async def body() -> None:
        async with engine(tmp_path) as e:
            first, second = pattern(1000, 1), pattern(1000, 2)
            upload = await e.store.begin_upload("b", "k", PutOptions())
            await steps.put_part(e.store, "k", upload.upload_id, 1, first)
            writer = await steps.settled(e.store.put_part("b", "k", upload.upload_id, 1, len(second)))
            await steps.settled(writer.write(second))
            replacing = asyncio.ensure_future(writer.commit(PutResult(steps.md5(second))))
            await asyncio.sleep(0)  # queued, and not committed
            claims = [PartClaim(1, steps.md5(second))]
            info = await e.store.complete_upload("b", "k", upload.upload_id, claims, CompleteOptions(etag="x-1"))
            await replacing
            assert info.crc64 == crc64nvme(second)
            await e.settle()
            record = record_of(e, "k")
            assert record is not None
            assert record.residency == Residency.BOTH, "its copy failed the check"

    run(body())


def test_damaged_parts_are_not_tried_again_and_again(tmp_path: Path) -> None:
    async def body() -> None:
        async with engine(tmp_path) as e:
            pool = e.pools["p"]
            upload = await e.store.begin_upload("b", "k", PutOptions())
            for number in range(1, 16):
                await steps.put_part(e.store, "k", upload.upload_id, number, pattern(60_000, number))
            damage(pool, 0, 15 * REGION)
            duty = e.duty("p", DemoteDuty)
            assert await duty.step(), "nothing pressed: the test shows nothing"
            for _ in range(15):
                if not await duty.step():
                    break
            assert not await duty.step()
            assert len(rows(pool, "dirty_parts")) == 15

    run(body())


def test_write_of_no_bytes_behind_the_last_adds_no_extent(tmp_path: Path) -> None:
    async def body() -> None:
        async with engine(tmp_path) as e:
            writer = await steps.settled(e.store.put("b", "k", 5000, PutOptions()))
            await steps.settled(writer.write(pattern(5000, 1)))
            await steps.settled(writer.write(b""))
            await writer.commit(PutResult("etag"))
            record = record_of(e, "k")
            assert record is not None
            assert sum(extent.length for extent in record.extents) == record.size

    run(body())


@pytest.mark.parametrize("layouts", [True, False])
def test_pieces_that_are_not_the_objects_are_not_given_out_whole(
    layouts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each was good by itself, as one is that a slow upload of an earlier part of the same number writes after all.
    if not layouts:
        monkeypatch.setattr(cold_module, "LAYOUT_BYTES_MAX", 0)

    async def body() -> None:
        backing = MemoryBacking()
        async with engine(tmp_path, backing) as e:
            pool, data = e.pools["p"], pattern(600_000, 1)
            assert len(data) > pool.stream_bytes
            writer = await steps.settled(e.store.put("b", "k", len(data), PutOptions()))
            await steps.settled(writer.write(data))
            parts = rows(pool, "parts")
            for pkey in parts:
                assert await e.demoter.demote_part(pool, pkey)
            await writer.commit(PutResult("etag"))
            assert await steps.get(e.store, "k") == data
            first, second = (layout.piece_name(*layout.split_part_key(pkey)) for pkey in parts[:2])
            stored = backing._objects
            stored[first], stored[second] = stored[second], stored[first]
            with pytest.raises(Corrupt):
                await steps.get(e.store, "k")
            if layouts:
                with pytest.raises(Corrupt):
                    await steps.content(await steps.settled(e.store.open("b", "k", piece)))

    piece = ReadOptions(range=ByteRange(0, REGION))
    run(body())


# -- eviction ----------------------------------------------------------------------------------------------------


class _KeepAll:
    """A policy for which everything survives."""

    def fresh_next(self, fresh: QueueHead, kept: QueueHead) -> bool:
        return fresh.age >= kept.age

    def keep(self, residents: Sequence[Resident], region_bytes: int, age: int, fresh: bool) -> Verdict:
        return Verdict([True] * len(residents))


@pytest.mark.parametrize("way", ["demotion", "eviction"])
def test_damaged_block_of_a_relaxed_pool_leaves_it(tmp_path: Path, way: str) -> None:
    # It could neither be copied nor moved: it stayed, and with it its region, until writers found no room.
    async def body() -> None:
        async with engine(tmp_path, **RELAXED) as e:
            pool = e.pools["p"]
            for each in range(3):
                await steps.put(e.store, f"k{each}", pattern(60_000, each))
            record = record_of(e, "k0")
            assert record is not None
            damage(pool, record.extents[0].region * REGION + record.extents[0].offset, 64)
            if way == "demotion":
                assert not await e.demoter.demote(pool, okey_of(e, "k0"), record.generation)
            else:
                duty = EvictDuty(pool, e.demoter, _KeepAll())
                duty.low = pool.flash.regions
                assert await duty.step()
                with pool.index.view() as view:
                    assert not view.region_refs(record.extents[0].region)
            assert record_of(e, "k0") is None
            with pytest.raises(NoSuchKey):
                await steps.head(e.store, "k0")
            assert await steps.get(e.store, "k1") == pattern(60_000, 1)

    run(body())


def test_pool_full_of_damaged_blocks_takes_writes_again(tmp_path: Path) -> None:
    async def body() -> None:
        async with engine(tmp_path, space_wait_s=2.0, **RELAXED) as e:
            for each in range(24):
                await steps.put(e.store, f"k{each}", pattern(60_000, each))
            damage(e.pools["p"], 0, 32 * REGION)
            e.start_keeper()
            for each in range(30):
                await steps.put(e.store, f"n{each}", pattern(60_000, each))
            assert await steps.get(e.store, "n29") == pattern(60_000, 29)

    run(body())


def test_ttl_extended_after_the_verdict_keeps_the_object(tmp_path: Path) -> None:
    # Eviction had found it expired; the change that was acknowledged meanwhile took its deadline away.
    async def body() -> None:
        async with engine(tmp_path) as e:
            pool, okey = e.pools["p"], okey_of(e, "k")
            await steps.put(e.store, "k", b"data", PutOptions(ttl=Ttl(1000)))
            judged = record_of(e, "k")
            assert judged is not None
            now_ms = e.clock.now_ms() + 1000
            assert pool.expired(judged, now_ms)
            await e.store.change("b", "k", ObjectChange(ttl=Ttl(0)))
            assert not pool.committer.run(lambda batch: mutations.dropped(batch, pool, okey, judged.generation, now_ms))
            assert await steps.get(e.store, "k") == b"data"

    run(body())


# -- the pool's files --------------------------------------------------------------------------------------------


def test_growing_beyond_the_disk_leaves_the_pool_openable(tmp_path: Path) -> None:
    # The new shape was committed before its file had the room: from then on the old capacity was refused too.
    small = pool_config(tmp_path, "p")
    pool = open_pool(small, 0, ManualClock())
    regions = pool.flash.regions
    pool.close()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 20, before[1]))  # the interpreter ignores SIGXFSZ
    try:
        with pytest.raises(DiskFull):
            open_pool(pool_config(tmp_path, "p", capacity_bytes=64 << 20), 0, ManualClock())
        pool = open_pool(small, 0, ManualClock())
        assert pool.flash.regions == regions
        pool.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# -- copies ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [True, False])
def test_cold_source_that_goes_while_it_is_copied_is_looked_for_again(again: bool, tmp_path: Path) -> None:
    # Deleted before its first byte came: there was nothing in the backing store any more.
    async def body() -> None:
        gets = []

        async def hook(verb: str, key: str) -> None:
            if verb == "get":
                gets.append(key)
                await e.store.delete("b", "source")
                if again:
                    await steps.put(e.store, "source", pattern(60_000, 2))
                await e.settle()

        async with engine(tmp_path, Hooked(MemoryBacking(), hook)) as e:
            await steps.put(e.store, "source", pattern(50_000, 1))
            await make_cold(e, "source")
            copying = e.store.copy(("b", "source"), ("b", "copy"), CopyOptions())
            if again:
                await copying
                assert await steps.get(e.store, "copy") == pattern(60_000, 2)
            else:
                with pytest.raises(NoSuchKey):
                    await copying
            assert len(gets) == 1

    run(body())


def test_copy_waits_for_what_is_demoted_as_other_writes_do(tmp_path: Path) -> None:
    async def body() -> None:
        async with engine(tmp_path, space_wait_s=2.0, dirty_fraction_max=0.1) as e:
            e.start_keeper()
            await steps.put(e.store, "k", pattern(60_000, 1))
            for each in range(12):
                await e.store.copy(("b", "k"), ("b", f"copy{each}"), CopyOptions())

    run(body())


def test_name_that_a_renamed_object_comes_back_to_keeps_no_tombstone(tmp_path: Path) -> None:
    # Its new copy has the name of the former one: what was to be deleted, had the copy not been noted, stayed to be deleted.
    async def body() -> None:
        async with engine(tmp_path) as e:
            await steps.put(e.store, "k", pattern(60_000, 1))
            await make_cold(e, "k")
            await e.store.rename("b", "k", "elsewhere", RenameOptions())
            await e.store.rename("b", "elsewhere", "k", RenameOptions())
            await make_cold(e, "k")
            assert not rows(e.pools["p"], "tombstones")

    run(body())


def test_readers_of_a_recall_wait_for_no_room(tmp_path: Path) -> None:
    # A new region takes a commit, and may take an eviction first: readers here get all of it meanwhile.
    async def body() -> None:
        async with engine(tmp_path) as e:
            data = pattern(REGION * 2, 1)
            await steps.put(e.store, "k", data)
            record = await make_cold(e, "k")
            served, room = e.served["p"], asyncio.Event()
            reserve = served.space.reserve_waiting

            async def held(length: int) -> Piece:
                await room.wait()
                return await reserve(length)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(served.space, "reserve_waiting", held)
                reading = await steps.settled(e.store.open("b", "k", steps.WHOLE))
                follower = Recalls(served, e.cold, 2)  # as another process
                asking = asyncio.create_task(follower.read(okey_of(e, "k"), record, 0, record.size))
                await asyncio.sleep(0.01)
                assert await steps.content(reading) == data
                assert not asking.done()
                room.set()
                assert await steps.content(await asking) == data
            await follower.close()
            assert record_of(e, "k") != record, "it was landed"

    run(body())


def test_parts_that_are_asked_for_together_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of long objects load them so. A small part still comes by itself, as does one of an object so long that its
    reader would lose patience, and a damaged frame takes its own part only."""

    async def body() -> None:
        calls: list[str] = []

        async def count(verb: str, name: str) -> None:
            calls.append(verb)

        faulty = Faulty(MemoryBacking())
        async with engine(tmp_path, Hooked(faulty, count), region_bytes=4 << 20, capacity_bytes=64 << 20) as e:
            half = FRAME_BYTES
            data = pattern(2 * half + 1000, 1)
            await steps.put(e.store, "k", data)
            record = await make_cold(e, "k")

            async def part(start: int, stop: int) -> bytes:
                options = ReadOptions(range=ByteRange(start, stop))
                return await steps.content(await steps.settled(e.store.open("b", "k", options)))

            wanted = ((0, half), (half, 2 * half), (half + 7, len(data)))
            assert await asyncio.gather(*(part(*each) for each in wanted)) == [data[slice(*each)] for each in wanted]
            assert calls.count("get") == 1
            await until(lambda: not e.store.recalls["p"]._landings)
            assert await e.demoter.drop(e.pools["p"], okey_of(e, "k"), record.generation)
            faulty.script.append(Fault("flip", "get", at=half + 100_000))
            assert await part(0, half) == data[:half]
            for longest, wished in ((len(data), (5, 6)), (len(data) - 1, (0, half))):
                monkeypatch.setattr(recall_module, "PARTED_BYTES_MAX", longest)
                calls.clear()
                assert await part(*wished) == data[slice(*wished)]
                await until(lambda: not e.store.recalls["p"]._landings)
                assert calls.count("get") > 1
                await make_cold(e, "k")

    run(body())


def test_recalls_pass_through_while_flash_is_slower_than_the_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall_module, "_UNWRITTEN_BYTES", 2 * REGION)

    async def body() -> None:
        async with engine(tmp_path) as e:
            data = {key: pattern(REGION + 5000, seed) for seed, key in enumerate(("one", "two"), 1)}
            for key, content in data.items():
                await steps.put(e.store, key, content)
                await make_cold(e, key)
            served, room = e.served["p"], asyncio.Event()
            reserve = served.space.reserve_waiting

            async def held(length: int) -> Piece:
                await room.wait()
                return await reserve(length)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(served.space, "reserve_waiting", held)
                assert await steps.get(e.store, "one") == data["one"]
                await until(lambda: all(each.writing for each in e.store.recalls["p"]._landings.values()))
                assert await steps.get(e.store, "two") == data["two"]
                room.set()
            await until(lambda: not e.store.recalls["p"]._landings)
            hot = {key: record is not None and bool(record.extents) for key in data for record in [record_of(e, key)]}
            assert hot == {"one": True, "two": False}

    run(body())


def test_recall_that_gets_no_room_goes_on_from_the_backing_store(tmp_path: Path) -> None:
    async def body() -> None:
        async with engine(tmp_path, Paced(MemoryBacking())) as e:
            data = pattern(REGION * 2, 1)
            await steps.put(e.store, "k", data)
            await make_cold(e, "k")
            served = e.served["p"]
            reserve = served.space.reserve_waiting

            async def none_left(length: int) -> Piece:
                if length < len(data):
                    raise Busy("no region became free in time", retry_s=1)
                return await reserve(length)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(served.space, "reserve_waiting", none_left)
                assert await steps.get(e.store, "k") == data
            record = record_of(e, "k")
            assert record is not None
            assert record.residency == Residency.COLD_ONLY

    run(body())


def test_object_that_is_sent_back_while_it_is_recalled_does_not_return(tmp_path: Path) -> None:
    # What the reader had begun to bring landed after the object had gone, or before the order was answered: a 503 then.
    async def body() -> None:
        async with engine(tmp_path, Paced(MemoryBacking())) as e:
            data = pattern(200_000, 1)
            await steps.put(e.store, "k", data)
            await make_cold(e, "k")
            e.start_keeper()
            reading = await steps.settled(e.store.open("b", "k", steps.WHOLE))
            info = await e.store.change("b", "k", ObjectChange(tier="cold"))
            assert info.residency == Residency.COLD_ONLY
            await until(lambda: not e.store.recalls["p"]._landings)
            record = record_of(e, "k")
            assert record is not None
            assert record.residency == Residency.COLD_ONLY
            assert await steps.content(reading) == data

    run(body())


def test_object_that_is_sent_back_while_another_process_recalls_it_does_not_return(tmp_path: Path) -> None:
    # The order was carried out before the other's landing was committed: the object stayed, and the caller was told that the backing
    # store does not answer.
    async def body() -> None:
        async with engine(tmp_path) as e:
            data = pattern(20_000, 1)
            await steps.put(e.store, "k", data)
            record = await make_cold(e, "k")
            e.start_keeper()
            served, slot = e.served["p"], 5
            board = other_board(e)
            assert board.claim(slot, 111, record.generation) is None
            sending = asyncio.create_task(e.store.change("b", "k", ObjectChange(tier="cold")))
            place = FlashBody(served, record.size)
            await steps.settled(place.begin())
            await steps.settled(place.write(data))
            await asyncio.sleep(0.05)
            assert not sending.done()
            await served.committer.submit(
                lambda batch: mutations.recalled(batch, okey_of(e, "k"), record.generation, place.extents, 0)
            )
            place.settle()
            board.post(slot, 111, record.size, boards.DONE)
            board.release(slot)
            assert (await sending).residency == Residency.COLD_ONLY
            board.close()

    run(body())


def test_cold_object_that_goes_while_it_is_read_is_given_whole(tmp_path: Path) -> None:
    # Deleted while it landed: what has come and passed its checksum needs no record to be given to who asked before.
    async def body() -> None:
        gets = []

        async def hook(verb: str, key: str) -> None:
            if verb == "get":
                gets.append(key)
                await e.store.delete("b", "k")

        async with engine(tmp_path, Hooked(Paced(MemoryBacking()), hook)) as e:
            data = pattern(900_000, 1)
            await steps.put(e.store, "k", data)
            await make_cold(e, "k")
            assert await steps.get(e.store, "k") == data
            with pytest.raises(NoSuchKey):
                await steps.get(e.store, "k")
            assert len(gets) == 1

    run(body())


@pytest.mark.parametrize("fields", [{}, RELAXED], ids=["flash", "relaxed"])
def test_damage_that_several_readers_find_costs_the_hot_copy_once(fields: dict[str, Any], tmp_path: Path) -> None:
    # The second to find it took the record, cold by then, for one whose only copy is damaged: the object was deleted, good copy and all.
    async def body() -> None:
        async with engine(tmp_path, **fields) as e:
            data = pattern(50_000, 1)
            await steps.put(e.store, "k", data)
            record = record_of(e, "k")
            assert record is not None
            assert await e.demoter.demote(e.pools["p"], okey_of(e, "k"), record.generation)
            damage(e.pools["p"], record.extents[0].region * REGION + record.extents[0].offset, 64)
            e.pools["p"].heat.doubt(record.generation)
            assert await asyncio.gather(*(steps.get(e.store, "k") for _ in range(3))) == [data] * 3
            assert await steps.get(e.store, "k") == data

    run(body())


def test_who_began_a_check_of_bytes_may_leave_before_the_others(tmp_path: Path) -> None:
    """A long object that nobody has read since the start is checked once for all who come at the same time."""

    async def body() -> None:
        async with engine(tmp_path) as opened:
            content = pattern(40_000, 1)
            info = await steps.put(opened.store, "k", content)
            opened.pools["p"].heat.doubt(info.generation)
            readers = [asyncio.ensure_future(steps.get(opened.store, "k")) for _ in range(8)]
            await asyncio.sleep(0)
            readers[0].cancel()
            done = await asyncio.gather(*readers, return_exceptions=True)
            assert isinstance(done[0], asyncio.CancelledError)
            assert done[1:] == [content] * 7
            assert opened.store._loading == {}

    run(body())
