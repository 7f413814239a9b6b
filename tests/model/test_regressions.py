"""The shortest way to each fault that was found, by the state machine, by crashes or by reading. One test a fault.

Kind: tests. Spec: docs/SEMANTICS.md.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import pytest

from tests.conformance import steps
from tests.crash.hooked import Hooked
from tests.model.world import SMALL, World, pattern, world
from tests.support.engine import REGION, WORKER_SLOT
from tiering import layout
from tiering.backing import keys
from tiering.backing.wrappers import Fault
from tiering.contract import FOREVER_MS, ByteRange, Corrupt, NoSuchKey, PutOptions, ReadOptions, Residency, Ttl
from tiering.duties.demote import DAMAGED_WAIT_MS
from tiering.duties.evict import EvictDuty
from tiering.index import Batch
from tiering.layout import RegionState
from tiering.pool import reclaim
from tiering.ports import BackingUnavailable, QueueHead, Resident, Verdict
from tiering.space import Space

T = TypeVar("T")


def test_read_that_waited_for_the_device_keeps_the_epoch_of_its_look_up() -> None:
    # The epoch turned while the bytes were being checked, and the body was sent under the younger one.
    with world(pin_fraction_max=0.5) as w:
        data = pattern(50_000, 1)
        w.put(SMALL, "a", data)
        w.runner.run(w.engine.crash())
        heat = w.path / "pools" / "small" / "heat"
        with open(heat, "r+b") as stream:
            stream.write(bytes(64))  # as after a restart of the operating system: nothing is known to be whole
        w.engine = w._opened()
        pool = w.engine.served["small"]
        region = pool.index.get_object(layout.object_key(1, "a")).extents[0].region  # type: ignore[union-attr]

        async def read_late() -> bytes:
            opened = asyncio.ensure_future(steps.settled(w.engine.store.open(SMALL, "a", ReadOptions())))
            await asyncio.sleep(0)  # it has looked the object up and waits for its bytes
            pool.committer.run(lambda batch: batch.replace_object(okey, batch.object(okey), None))
            pool.committer.run(lambda batch: batch.free_region(region))
            pool.epochs.rotate()
            w.engine.pools["small"].epochs.rotate()
            reading = await opened
            w.engine.served["small"].epochs.rotate()
            await w.engine.settle()
            with pool.index.view() as view:
                record = view.region(region)
            assert record is not None
            assert record.state == RegionState.FREED, "a region is written again while somebody reads it"
            return await steps.content(reading)

        okey = layout.object_key(1, "a")
        assert w.runner.run(read_late()) == data
        del w.things[SMALL, "a"]


class _Pinning:
    """A policy during whose verdict somebody pins everything."""

    def __init__(self, pin: Callable[[], None]) -> None:
        self._pin = pin

    def fresh_next(self, fresh: QueueHead, kept: QueueHead) -> bool:
        return fresh.age >= kept.age

    def keep(self, residents: Sequence[Resident], region_bytes: int, age: int, fresh: bool) -> Verdict:
        self._pin()
        return Verdict([False] * len(residents))


@pytest.mark.parametrize("kind", ["standard", "cache"])
def test_object_pinned_while_its_region_is_emptied_stays_hot(kind: str) -> None:
    # Eviction had judged the record before the pin: a pinned object went cold, and one of a cache was lost.
    with world(kind) as w:
        w.put(SMALL, "a", pattern(60_000, 1))
        if kind != "cache":
            w.tier(SMALL, "a", "both")
        for each in range(25):
            w.put(SMALL, f"fill/{each}", pattern(60_000, each))
        pool = w.engine.pools["small"]
        okey = layout.object_key(1, "a")

        def pin(batch: Batch) -> None:
            old, new = batch.object(okey), batch.object(okey)
            assert new is not None
            new.pin_until_ms = FOREVER_MS
            batch.replace_object(okey, old, new)

        policy = _Pinning(lambda: pool.committer.run(pin))
        duty = EvictDuty(pool, w.engine.demoter if kind != "cache" else None, policy)
        duty.low = pool.flash.regions
        w.runner.run(_stepped(duty))
        info = w.runner.run(steps.head(w.engine.store, "a"))
        assert info.residency != Residency.COLD_ONLY
        assert info.pin_until_ms == FOREVER_MS
        w.things[SMALL, "a"].info = info


@contextmanager
def _within(seconds: int) -> Iterator[None]:
    """Ends what spins without ever giving the loop a turn."""

    def end(*_: object) -> None:
        raise AssertionError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_writers_that_find_a_new_region_full_ask_for_another() -> None:
    # A third writer came between the end of the claim and its callback: it waited for a claim that was done, for ever.
    with world() as w, _within(20):
        pool = w.engine.served["small"]
        gate = threading.Event()

        async def late() -> int:
            await pool.committer.submit(lambda batch: None)
            return (await pool.space.reserve_waiting(REGION)).region

        async def three() -> list[int]:
            pool.committer.submit(lambda batch: gate.wait())
            first = asyncio.ensure_future(pool.space.reserve_waiting(1000))
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # the claim is queued, and behind it the two that come late
            others = [asyncio.ensure_future(late()), asyncio.ensure_future(late())]
            await asyncio.sleep(0)
            gate.set()
            return [(await first).region, *(await asyncio.gather(*others))]

        assert len(set(w.runner.run(three()))) > 1
        w.crash()


def test_keeper_that_lost_its_reserve_in_crashes_makes_room_again() -> None:
    # Killed with the last free regions claimed and nothing freed yet: eviction waited for room that only it could make.
    with world() as w:
        for each in range(27):
            w.put(SMALL, f"fill/{each}", pattern(60_000, each))
        pool = w.engine.pools["small"]
        pool.committer.run(lambda batch: [batch.claim_region(WORKER_SLOT) for _ in range(batch.count("free"))])
        w.crash()
        w.settle()
        assert w.put(SMALL, "a", pattern(60_000, 1))


async def _stepped(duty: EvictDuty) -> None:
    await duty.step()


def test_tombstone_taken_back_while_its_burial_waits_deletes_nothing() -> None:
    # A part is demoted, replaced and demoted again under the same name, while the burial of the first copy waits its turn.
    with world() as w:
        upload = w.begin_upload(SMALL, "a")
        w.put_part(upload, 1, pattern(50_000, 1))
        pool, demoter = w.engine.pools["small"], w.engine.demoter
        pkey = layout.part_key(upload.upload_id, 1)
        name = layout.piece_name(upload.upload_id, 1)
        w.runner.run(demoter.demote_part(pool, pkey))
        w.put_part(upload, 1, pattern(50_000, 2))

        async def together() -> None:
            await asyncio.gather(demoter.demote_part(pool, pkey), demoter.bury(pool, name))

        w.runner.run(together())
        w.settle()
        w.complete(upload)


def test_burial_does_not_take_a_younger_tombstone_along() -> None:
    # The name was in use when the burial looked, and free again, with a tombstone of its own, before it had finished.
    with world() as w:
        w.put(SMALL, "a", pattern(1000, 1))
        w.tier(SMALL, "a", "both")
        pool = w.engine.pools["small"]
        name = keys.cold_key(SMALL, "a")
        pool.committer.run(lambda batch: batch.put("tombstones", name.encode()))
        gate = threading.Event()

        async def together() -> None:
            pool.committer.submit(lambda batch: gate.wait())
            deletion = asyncio.ensure_future(w.engine.store.delete(SMALL, "a"))
            await asyncio.sleep(0)  # the deletion is queued, and the burial does not see it yet
            burial = asyncio.ensure_future(w.engine.demoter.bury(pool, name))
            await asyncio.sleep(0)
            gate.set()
            await asyncio.gather(deletion, burial)

        w.runner.run(together())
        del w.things[SMALL, "a"]
        w.settle()


@pytest.mark.parametrize("fault", ["answer lost", "crash"])
def test_copy_that_was_not_noted_goes_with_its_object(fault: str) -> None:
    # Uploaded, not noted, then deleted: the copy stayed in the backing store, and a rebuild would have brought it back.
    with world() as w:
        w.put(SMALL, "a", pattern(1000, 1))
        pool, okey = w.engine.pools["small"], layout.object_key(1, "a")
        record = pool.index.get_object(okey)
        assert record is not None
        if fault == "answer lost":
            w.backing.script.append(Fault("lose", "put"))
            with pytest.raises(BackingUnavailable):
                w.runner.run(w.engine.demoter.demote(pool, okey, record.generation))
        else:
            _crash_after_put(w, "a")
        w.delete(SMALL, "a")
        w.settle()


def test_damaged_object_without_another_copy_does_not_stop_the_keeper() -> None:
    # Its demotion raised each time, and with it every eviction of its region: the pool filled up for good.
    with world() as w:
        w.put(SMALL, "a", pattern(50_000, 1))
        pool = w.engine.pools["small"]
        record = pool.index.get_object(layout.object_key(1, "a"))
        assert record is not None
        with open(w.path / "pools" / "small" / "flash", "r+b") as stream:
            stream.seek(record.extents[0].region * pool.flash.region_bytes + record.extents[0].offset)
            stream.write(b"damage")
        for each in range(60):
            w.do(steps.put(w.engine.store, "fill", pattern(60_000, each)))
            w.runner.run(w.engine.settle())
        assert w.engine.demoter.damaged(pool, record.generation)
        w.runner.run(w.engine.store.delete(SMALL, "fill"))
        w.delete(SMALL, "a")


def test_damage_that_was_mended_is_no_damage_for_ever() -> None:
    # It was remembered until the keeper was started again, and the object stayed without a copy.
    with world() as w:
        w.put(SMALL, "a", pattern(50_000, 1))
        w.put(SMALL, "b", pattern(50_000, 2))
        pool, demoter = w.engine.pools["small"], w.engine.demoter
        okey = layout.object_key(1, "a")
        record = pool.index.get_object(okey)
        assert record is not None
        place = record.extents[0].region * pool.flash.region_bytes + record.extents[0].offset
        with open(w.path / "pools" / "small" / "flash", "r+b", buffering=0) as stream:
            stream.seek(place)
            good = stream.read(6)
            stream.seek(place)
            stream.write(b"damage")
            assert not w.runner.run(demoter.demote(pool, okey, record.generation))
            assert demoter.damaged(pool, record.generation)
            stream.seek(place)
            stream.write(good)
        w.clock.advance(DAMAGED_WAIT_MS / 1000)
        assert w.runner.run(demoter.demote(pool, okey, record.generation))


def test_part_copy_that_was_not_noted_goes_with_its_upload() -> None:
    with world() as w:
        upload = w.begin_upload(SMALL, "a")
        w.put_part(upload, 1, pattern(1000, 1))
        w.backing.script.append(Fault("lose", "put"))
        pkey = layout.part_key(upload.upload_id, 1)
        with pytest.raises(BackingUnavailable):
            w.runner.run(w.engine.demoter.demote_part(w.engine.pools["small"], pkey))
        w.abort_upload(upload)
        w.settle()


def test_long_put_of_a_dead_worker_gives_its_room_back() -> None:
    # Only a start of everything dropped it: parts that nobody would complete stayed dirty until then.
    with world() as w:
        pool = w.engine.served["small"]

        async def begin() -> None:
            data = pattern(600_000, 1)
            writer = await steps.settled(w.engine.store.put(SMALL, "a", len(data), PutOptions()))
            await steps.settled(writer.write(data[:300_000]))

        w.do(begin())
        pool.committer.run(lambda batch: reclaim(batch, WORKER_SLOT))
        with pool.index.view() as view:
            assert view.count("uploads") == view.count("parts") == view.counters().dirty_bytes == 0
        w.crash()


@pytest.mark.parametrize("size", [50_000, 600_000], ids=["landing", "passing through"])
@pytest.mark.parametrize("then", ["overwritten", "emptied", "deleted"])
def test_cold_read_overtaken_by_a_write_is_looked_up_again(size: int, then: str) -> None:
    # The name held the next generation's bytes, or nothing, when they were asked for: a wrong body, or Corrupt.
    with world() as w:
        w.put(SMALL, "a", pattern(size, 1))
        w.tier(SMALL, "a", "cold")
        asked, go = asyncio.Event(), asyncio.Event()

        async def hook(verb: str, name: str) -> None:
            if verb == "get" and not asked.is_set():
                asked.set()
                await go.wait()

        backing, w.engine.cold.backing = w.engine.cold.backing, Hooked(w.backing, hook)

        async def opened() -> tuple[int, bytes]:
            reading = await steps.settled(w.engine.store.open(SMALL, "a", ReadOptions()))
            return reading.info.generation, await steps.content(reading)

        async def begin() -> asyncio.Task[tuple[int, bytes]]:
            task = asyncio.ensure_future(opened())
            await asked.wait()
            return task

        task = w.runner.run(begin())
        if then == "deleted":
            w.delete(SMALL, "a")
        else:
            w.put(SMALL, "a", pattern(0 if then == "emptied" else size, 2))
            w.tier(SMALL, "a", "both")
        w.settle()
        go.set()
        thing = w.thing(SMALL, "a")
        if thing is None:
            with pytest.raises(NoSuchKey):
                w.do(_finished(task))
        else:
            assert w.do(_finished(task)) == (thing.info.generation, thing.data)
        w.engine.cold.backing = backing


@pytest.mark.parametrize("wanted", [None, ByteRange(0, 5000)], ids=["whole", "range"])
def test_damaged_cold_copy_is_never_given_out_in_full(wanted: ByteRange | None) -> None:
    # A range was answered from bytes that had landed but were not checked yet.
    with world() as w:
        w.put(SMALL, "a", pattern(400_001, 1))
        w.tier(SMALL, "a", "cold")
        w.backing.script.append(Fault("flip", "get", at=3000))

        async def opened() -> bytes:
            reading = await steps.settled(w.engine.store.open(SMALL, "a", ReadOptions(range=wanted)))
            return await steps.content(reading)

        with pytest.raises(Corrupt):
            w.do(opened())


async def _finished(task: asyncio.Task[T]) -> T:
    return await task


def _crash_after_put(w: World, key: str) -> None:
    """Demotes, and crashes when the copy is stored and not noted yet."""

    async def interrupted() -> None:
        stored = asyncio.Event()

        async def stop(verb: str, name: str) -> None:
            stored.set()
            await asyncio.Event().wait()

        w.engine.cold.backing = Hooked(w.backing, stop)
        generation = w.things[SMALL, key].info.generation
        demotion = w.engine.demoter.demote(w.engine.pools["small"], layout.object_key(1, key), generation)
        task = asyncio.ensure_future(demotion)
        await stored.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    w.runner.run(interrupted())
    w.crash()


class _Staying:
    """A policy that leaves every kept region where it is, and each fresh one that `hot` says; it prefers the kept ones."""

    def __init__(self, hot: bool) -> None:
        self.hot = hot
        self.asked: list[tuple[bool, int]] = []  # fresh, and the residents' heat in all

    def fresh_next(self, fresh: QueueHead, kept: QueueHead) -> bool:
        return False

    def keep(self, residents: Sequence[Resident], region_bytes: int, age: int, fresh: bool) -> Verdict:
        self.asked.append((fresh, sum(resident.heat for resident in residents)))
        stays = self.hot or not fresh
        return Verdict([stays] * len(residents), whole=stays)


def test_region_that_stays_as_it_is_goes_to_the_young_end_and_cools() -> None:
    with world("cache") as w:
        for each in range(3):
            w.put(SMALL, f"k{each}", pattern(60_000, each))
        pool = w.engine.pools["small"]
        record = pool.index.get_object(layout.object_key(1, "k0"))
        assert record is not None
        region = record.extents[0].region
        pool.heat.bump(record.generation)
        pool.heat.bump(record.generation)
        policy = _Staying(hot=True)
        duty = EvictDuty(pool, None, policy)
        duty.low = pool.flash.regions
        w.runner.run(_stepped(duty))
        assert policy.asked == [(True, 2)]
        assert pool.heat.heat(record.generation) == 1
        assert pool.index.get_object(layout.object_key(1, "k0")) == record, "not a byte moved"
        with pool.index.view() as view:
            assert [layout.unpack_region(value) for _, value in view.rows("queue")][-1] == region


def test_region_of_a_writer_that_rests_is_emptied_in_its_turn() -> None:
    # It stayed open, so the oldest objects of all outlived everything written by others, until their writer wrote again.
    with world() as w:
        w.put(SMALL, "old", pattern(20_000, 1))
        pool = w.engine.pools["small"]

        async def others_write() -> None:
            space = Space(pool.committer, pool.flash, 2, w.engine.wake, 1.0)
            for _ in range(2 * pool.flash.regions):
                space.give_back(await space.reserve_waiting(REGION))
                await w.engine.settle()
            space.close()

        w.runner.run(others_write())
        record = pool.index.get_object(layout.object_key(1, "old"))
        assert record is not None and record.residency is Residency.COLD_ONLY


def test_region_that_stays_as_it_is_loses_what_has_expired() -> None:
    with world("cache") as w:
        for each in range(5):
            w.put(SMALL, f"k{each}", pattern(30_000, each), PutOptions(ttl=Ttl(1000) if each == 0 else None))
        w.clock.advance(2)
        pool = w.engine.pools["small"]
        duty = EvictDuty(pool, None, _Staying(hot=True))
        duty.low = pool.flash.regions
        w.runner.run(_stepped(duty))
        assert pool.index.get_object(layout.object_key(1, "k0")) is None
        assert pool.index.get_object(layout.object_key(1, "k1")) is not None


def test_regions_that_always_stay_cannot_keep_the_others_from_being_emptied() -> None:
    # Pinned regions were asked for again and again, as nobody read them less than the policy liked.
    with world("cache") as w:
        for each in range(12):
            w.put(SMALL, f"k{each}", pattern(60_000, each))
        pool = w.engine.pools["small"]
        policy = _Staying(hot=True)
        duty = EvictDuty(pool, None, policy)
        duty.low = pool.flash.regions
        for _ in range(3):
            w.runner.run(_stepped(duty))
        policy.hot = False
        with pool.index.view() as view:
            before = view.count("queue")
        for _ in range(40):
            w.runner.run(_stepped(duty))
        with pool.index.view() as view:
            assert view.count("queue") <= before - 3
        w.things = {name: thing for name, thing in w.things.items() if _stands(w, name[1])}


def _stands(w: World, key: str) -> bool:
    return w.engine.pools["small"].index.get_object(layout.object_key(1, key)) is not None


def test_copy_that_finds_no_backing_store_has_read_its_source() -> None:
    with world() as w:
        w.put(SMALL, "a", pattern(1000, 1), PutOptions(ttl=Ttl(90_000, sliding=True)))
        w.tier(SMALL, "a", "cold")
        w.clock.advance(61)
        w.backing.down = True
        w.copy((SMALL, "a"), (SMALL, "b"))
        w.clock.advance(61)
        w.head(SMALL, "a")
        assert w.thing(SMALL, "a") is not None


@pytest.mark.parametrize("crash", [False, True])
def test_renamed_object_keeps_the_time_its_reads_have_won(crash: bool) -> None:
    with world() as w:
        w.put(SMALL, "a", pattern(70_000, 1), PutOptions(ttl=Ttl(90_000, sliding=True)))
        w.clock.advance(61)
        w.read(SMALL, "a")
        w.rename(SMALL, "a", "b")
        if crash:
            w.crash()
        w.clock.advance(61)
        w.head(SMALL, "b")
        assert w.thing(SMALL, "b") is not None
