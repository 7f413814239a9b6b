"""Making room: empties regions of a pool before writers run short of free ones.

Promise: nothing is dropped that has no other copy, except what a cache bucket or a deadline gives up; a region is freed
only when no row refers to it, and written again only when no reader can be inside.
Owns the pool's eviction policy, the keeper's room for survivors, and which regions are kept ones: forgotten in a restart,
they count as fresh, and their objects get one more look. Does not know the backing store (`Demoter` does).
Kind: owner; one thread (the keeper's loop). One step deals with one region at most.
Spec: docs/ARCHITECTURE.md, "Eviction".
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import Awaitable, Iterable
from typing import Final

from tiering import events, journal, layout, mutations
from tiering.contract import Corrupt, Residency
from tiering.crc64 import crc64nvme
from tiering.duties.demote import Demoter, raise_first
from tiering.index import Batch, View
from tiering.layout import Extent, ObjectRecord, PartRecord
from tiering.policy import TwoQueues, span_of
from tiering.pool import Pool
from tiering.ports import BackingUnavailable, EvictionPolicy, Meter, QueueHead, Resident, Verdict
from tiering.space import KEEPER_REGIONS
from tiering.writer import FlashBody

REQUEUE_SHARE: Final = 0.75
"""A region held (pinned) to at least this share stays as it is at the young end of the queue: copying it would gain less."""
LOOK_AHEAD: Final = 64
"""Regions looked at for one that can be freed while the backing store is away."""

_log = logging.getLogger("recall.evict")


class _Occupant:
    """One object or part with bytes in the region: its row's key, its record, and whether it is a part."""

    __slots__ = ("key", "part", "record")

    def __init__(self, owner: bytes, view: View) -> None:
        self.key = owner[1:]
        self.part = owner[:1] == layout.OWNER_PART
        self.record: ObjectRecord | PartRecord | None = view.part(self.key) if self.part else view.object(self.key)


class EvictDuty:
    """Keeps at least `low` regions free. `demoter` None: the pool has no backing store."""

    def __init__(
        self,
        pool: Pool,
        demoter: Demoter | None,
        policy: EvictionPolicy | None = None,
        meter: Meter = events.uncounted,
    ) -> None:
        self.name = f"evict-{pool.config.name}"
        self._pool = pool
        self._demoter = demoter
        self._policy = policy or TwoQueues(pool.flash.regions)
        self._kept: set[int] = set()
        self._since = {True: b"", False: b""}  # where the oldest fresh and the oldest kept region stood in the queue
        self._fruitless_max = span_of(
            pool.flash.regions
        )  # then the oldest of all, so that pinned ones cannot be asked for ever
        self._fruitless = 0  # regions in a row that were looked at and gained no room
        self.low = pool.config.free_regions_low or KEEPER_REGIONS + 2 + pool.flash.regions // 64
        self._count = meter

    async def step(self) -> int:
        done = await self._recycle()
        with self._pool.index.view() as view:
            if view.count("free") + view.count("freed") >= self.low:
                return done
            out_of_room, recycling = not view.count("free"), view.count("freed") > 0
            queue = _queue(view, None if out_of_room else LOOK_AHEAD)
            chosen = None if out_of_room else self._next(view)
        if not queue or (out_of_room and recycling):
            # Survivors need room, and only this duty makes it: what was freed must be recycled first.
            return done
        if out_of_room:
            return done + await self._free_without_room(queue)
        assert chosen is not None
        try:
            return done + await self._free(*chosen)
        except BackingUnavailable:
            for region, age in queue.items():
                if region != chosen[0] and self._needs_no_backing(region):
                    return done + await self._free(region, age)
            raise

    def _next(self, view: View) -> tuple[int, int] | None:
        """The region to empty and its age: regions sealed since it was."""
        fresh, kept = self._oldest(view, True), self._oldest(view, False)
        if fresh is None or kept is None:
            return fresh or kept
        if self._fruitless >= self._fruitless_max:
            return max(fresh, kept, key=lambda head: head[1])
        kept_count = len(self._kept)
        fresh_head = QueueHead(fresh[1], max(0, view.count("queue") - kept_count))
        return fresh if self._policy.fresh_next(fresh_head, QueueHead(kept[1], kept_count)) else kept

    def _oldest(self, view: View, fresh: bool) -> tuple[int, int] | None:
        """The oldest region of one queue and its age. Sequences only grow in a queue, so no row is passed over twice."""
        for key, value in view.rows("queue", start=self._since[fresh]):
            self._since[fresh] = key
            region = layout.unpack_region(value)
            if (region not in self._kept) == fresh:
                return region, view.counters().region_sequence - layout.unpack_u64(key)
        return None

    async def _recycle(self) -> int:
        pool = self._pool
        with pool.index.view() as view:
            waiting = view.count("freed")
        if not waiting:
            return 0
        pool.epochs.rotate()  # this process's own snapshot must not be the one that is waited for
        oldest = pool.epochs.oldest_reader()
        return await pool.committer.submit(lambda batch: batch.recycle(oldest))

    async def _free_without_room(self, queue: Iterable[int]) -> int:
        """Frees the oldest region that holds nothing held, hot or not. Crashes in the middle of copying can take all room."""
        now_ms = self._pool.clock.now_ms()
        for region in queue:
            occupants = self._occupants(region)
            if not any(self._resident(occupant, region, now_ms).held for occupant in occupants):
                await self._drop_all(occupants, now_ms)
                return len(occupants) + await self._emptied(region)
        return 0

    async def _emptied(self, region: int) -> int:
        freed = await self._pool.committer.submit(functools.partial(_free_if_empty, region=region))
        if freed:
            self._kept.discard(region)
            self._fruitless = 0
        else:
            self._fruitless += 1
        return freed

    def _occupants(self, region: int) -> list[_Occupant]:
        with self._pool.index.view() as view:
            owners = dict.fromkeys(owner for _, owner in view.region_refs(region))
            found = [_Occupant(owner, view) for owner in owners]
        return [occupant for occupant in found if occupant.record is not None]

    def _needs_no_backing(self, region: int) -> bool:
        return not any(
            isinstance(o.record, PartRecord) or (o.record is not None and layout.is_dirty(o.record))
            for o in self._occupants(region)
        )

    async def _free(self, region: int, age: int) -> int:
        """Empties one region, or what need not stay of it, and takes it from its place in the queue; returns how many rows
        changed. `age`: regions sealed since it was."""
        pool = self._pool
        now_ms = pool.clock.now_ms()
        occupants = self._occupants(region)
        residents = [self._resident(occupant, region, now_ms) for occupant in occupants]
        held_bytes = sum(resident.size for resident in residents if resident.held)
        if held_bytes >= REQUEUE_SHARE * pool.flash.region_bytes:
            verdict = Verdict([resident.held for resident in residents], whole=True)
        else:
            verdict = self._policy.keep(residents, pool.flash.region_bytes, age, region not in self._kept)
        kept: list[_Occupant] = []
        gone: list[_Occupant] = []
        for occupant, stays in zip(occupants, verdict.stays, strict=True):
            (kept if stays and not self._expired(occupant, now_ms) else gone).append(occupant)
        # Drops first: they need no room, and what fails here (the backing store) should fail before bytes are copied.
        await self._drop_all(gone, now_ms)
        if verdict.whole:
            for occupant in kept:
                self._cool(occupant)
            self._kept.add(region)
            self._fruitless += 1
            return len(occupants) + await pool.committer.submit(lambda batch: _requeue(batch, region))
        raise_first(await asyncio.gather(*(self._survive(o, region) for o in kept), return_exceptions=True))
        return len(occupants) + await self._emptied(region)

    def _resident(self, occupant: _Occupant, region: int, now_ms: int) -> Resident:
        record = occupant.record
        assert record is not None
        size = sum(extent.length for extent in record.extents if extent.region == region)
        if isinstance(record, PartRecord):
            return Resident(size, 0, held=record.cache or self._demoter is None)
        if self._expired(occupant, now_ms):
            return Resident(size, 0, held=False)
        lost_if_dropped = layout.is_dirty(record) and self._demoter is None
        held = lost_if_dropped or layout.hold_until_ms(record) > now_ms
        return Resident(size, self._pool.heat.heat(record.generation), held, crc64nvme(occupant.key))

    def _expired(self, occupant: _Occupant, now_ms: int) -> bool:
        record = occupant.record
        return isinstance(record, ObjectRecord) and self._pool.expired(record, now_ms)

    def _cool(self, occupant: _Occupant) -> None:
        if isinstance(occupant.record, ObjectRecord):
            self._pool.heat.cool(occupant.record.generation)

    async def _drop_all(self, occupants: list[_Occupant], now_ms: int) -> None:
        """Takes objects out of the tier: demoted ones at once, dirty ones once they have their cold copy."""
        raise_first(await asyncio.gather(*(self._drop(o, now_ms) for o in occupants), return_exceptions=True))

    def _drop(self, occupant: _Occupant, now_ms: int) -> Awaitable[object]:
        pool, key, record = self._pool, occupant.key, occupant.record
        assert record is not None
        generation = record.generation
        if isinstance(record, PartRecord):
            assert self._demoter is not None
            return self._demoter.demote_part(pool, key)
        if layout.is_dirty(record) and not pool.expired(record, now_ms):
            assert self._demoter is not None
            return self._demoter.drop(pool, key, generation, now_ms)
        self._count(events.EVICTED, pool.config.name, 1)
        self._count(events.EVICTED_BYTES, pool.config.name, record.size)
        if record.cache or pool.expired(record, now_ms):
            return pool.committer.submit(lambda batch: mutations.dropped(batch, pool, key, generation, now_ms))
        return pool.committer.submit(
            lambda batch: mutations.evicted(batch, key, generation, now_ms, now_ms, journal.EVICT)
        )

    async def _survive(self, occupant: _Occupant, region: int) -> None:
        """Copies an occupant's extents out of the region and cools it."""
        pool, key, record = self._pool, occupant.key, occupant.record
        assert record is not None
        bodies: list[FlashBody] = []
        extents: list[Extent] = []
        try:
            for extent in record.extents:
                if extent.region != region:
                    extents.append(extent)
                    continue
                data = await asyncio.to_thread(_readable, pool, extent)
                if data is None:
                    _log.error(
                        "pool %s: bytes of generation %d fail their checksum", pool.config.name, record.generation
                    )
                    await self._give_up(occupant)
                    return
                body = FlashBody(pool, extent.length)
                bodies.append(body)
                waiting = body.begin()
                if waiting is not None:
                    await waiting
                waiting = body.write(data)
                if waiting is not None:
                    await waiting
                extents += body.extents
            self._count(events.SURVIVED, pool.config.name, 1)
            self._count(events.SURVIVED_BYTES, pool.config.name, sum(body.size for body in bodies))
            places = tuple(extents)
            self._kept.update(extent.region for body in bodies for extent in body.extents)
            if isinstance(record, PartRecord):
                await pool.committer.submit(lambda batch: mutations.part_moved(batch, key, record, places))
            else:
                await pool.committer.submit(lambda batch: mutations.moved(batch, key, record, places))
                self._cool(occupant)
        finally:
            for body in bodies:
                body.settle()

    async def _give_up(self, occupant: _Occupant) -> None:
        """A survivor whose bytes are damaged: the cold copy stands in; without one, readers are told when they ask."""
        pool, record = self._pool, occupant.record
        if record is not None:
            pool.heat.doubt(record.generation)  # they are in memory now, where readers would take them as they are
        if isinstance(record, ObjectRecord) and (
            record.residency == Residency.BOTH or pool.config.durability == "relaxed"
        ):
            key = occupant.key
            await pool.committer.submit(lambda batch: mutations.lost(batch, key, record))


def _readable(pool: Pool, extent: Extent) -> bytes | None:
    """The bytes of an extent; None when the device cannot read them or they fail their checksum."""
    try:
        data = pool.flash.read(extent)
    except Corrupt:
        return None
    return data if crc64nvme(data) == extent.crc64 else None


def _queue(view: View, count: int | None) -> dict[int, int]:
    """The oldest `count` sealed regions (None: all), oldest first, and how many were sealed after each."""
    newest = view.counters().region_sequence
    rows = itertools.islice(view.rows("queue"), count)
    return {layout.unpack_region(value): newest - layout.unpack_u64(key) for key, value in rows}


def _requeue(batch: Batch, region: int) -> int:
    batch.requeue_region(region)
    return 1


def _free_if_empty(batch: Batch, region: int) -> int:
    """Frees the region unless something still refers to it: a record changed meanwhile, and the next step sees it."""
    if batch.region_refs(region):
        # Not the oldest's turn again at once: a damaged occupant that cannot be moved must not block the queue.
        batch.requeue_region(region)
        return 0
    batch.free_region(region)
    return 1
