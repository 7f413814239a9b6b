"""Copying to the backing store, and everything else that writes to it: the keeper's side of the cold tier.

Promise: at any moment at most one write is under way for a name in the backing store, and a copy is noted in the index
only after the store has confirmed it, under the generation it was read at.
Owns the names in flight. Does not know when to evict. Kind: owner; one thread (the keeper's loop); one per machine.
Invariants: the epoch is held while bytes are read; after each wait the mutation compares the generation.
Spec: docs/ARCHITECTURE.md, "Demotion"; docs/SEMANTICS.md, "Residency".
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from tiering import events, journal, layout, mutations, versions
from tiering.backing import keys
from tiering.backing.coldobject import Content, read_head
from tiering.backing.streams import BytesSource
from tiering.buckets import Buckets
from tiering.cold import ColdSide, note_json, object_meta
from tiering.contract import Buffer, Corrupt, Residency
from tiering.flash import READ_CHUNK
from tiering.index import Batch
from tiering.layout import BucketRecord, ColdPiece, ObjectRecord, Order, PartRecord
from tiering.pool import Pool
from tiering.ports import BackingCorrupt, Meter, NotFound

UPLOADS_MAX: Final = 8
"""Copies under way at once: enough to hide a bucket's latency, few enough to leave clients the bandwidth."""
STEP_MAX: Final = 32
LOOK_S: Final = 0.005
"""How often is looked for new orders while some are under way."""
PRESSURE_SHARE: Final = 0.5
"""A pool that demotes under pressure starts at this share of its dirty limit."""
DAMAGED_MAX: Final = 1 << 16
"""Damaged generations remembered; beyond it the one remembered longest is read, and fails, again."""
DAMAGED_WAIT_MS: Final = 10 * 60_000
"""How long bytes that were found damaged are left alone: the device may have failed for a while, or somebody have mended them."""

_log = logging.getLogger("recall.demote")


_Find = Callable[[], ObjectRecord | PartRecord | None]


class _Superseded(Exception):
    """The object was overwritten, deleted or evicted while its copy was being made."""


class Demoter:
    """Everything that writes to the backing store. Raises BackingUnavailable.

    An object whose bytes fail their checksum has no copy to give: it is left where it is, for its readers to be told.
    """

    def __init__(
        self, pools: Mapping[str, Pool], buckets: Buckets, cold: ColdSide, meter: Meter = events.uncounted
    ) -> None:
        self.pools = pools
        self._buckets = buckets
        self._cold = cold
        self._busy: dict[str, asyncio.Event] = {}
        self._slots = asyncio.Semaphore(UPLOADS_MAX)
        self._damaged: dict[tuple[str, int], int] = {}  # when they were found so, oldest first
        self._count = meter

    def damaged(self, pool: Pool, generation: int) -> bool:
        """Whether a copy was tried lately and its bytes were found damaged. Forgotten at a restart."""
        found_ms = self._damaged.get((pool.config.name, generation))
        return found_ms is not None and pool.clock.now_ms() - found_ms < DAMAGED_WAIT_MS

    def _remember(self, pool: Pool, generation: int) -> None:
        name = (pool.config.name, generation)
        self._damaged.pop(name, None)
        if len(self._damaged) >= DAMAGED_MAX:
            del self._damaged[next(iter(self._damaged))]
        self._damaged[name] = pool.clock.now_ms()

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """No other write to `name` while inside."""
        while name in self._busy:
            await self._busy[name].wait()
        done = self._busy[name] = asyncio.Event()
        try:
            async with self._slots:
                yield
        finally:
            del self._busy[name]
            done.set()

    async def demote(self, pool: Pool, okey: bytes, generation: int) -> bool:
        """Gives one object its cold copy; True when that generation has one now."""
        number, key = layout.split_object_key(okey)
        bucket = self._buckets.by_number(pool, number)
        found = pool.index.standing(okey, generation)
        if bucket is None or found is None:
            return False
        name = keys.cold_key(bucket.name, key, found[1].version)
        async with self._alone(name):
            found = pool.index.standing(okey, generation)
            if found is None:
                return False
            record = found[1]
            if record.residency != Residency.HOT_ONLY or record.cache:
                return not record.cache
            meta = object_meta(bucket, key, record)
            piece = await self._store(pool, name, meta, record, lambda: _standing(pool, okey, generation))
            if piece is None:
                if pool.config.durability == "relaxed" and self.damaged(pool, generation):
                    await pool.committer.submit(lambda batch: mutations.lost(batch, okey, record))
                return False
            self._count(events.DEMOTED, pool.config.name, 1)
            self._count(events.DEMOTED_BYTES, pool.config.name, record.size)
            now_ms = pool.clock.now_ms()
            return await pool.committer.submit(
                lambda batch: mutations.demoted(batch, pool, okey, record, piece, now_ms, journal.DEMOTE)
            )

    async def drop(self, pool: Pool, okey: bytes, generation: int, now_ms: int | None = None) -> bool:
        """Demotes an object if it must be, then drops its hot copy; True when that is what happened.

        `now_ms`: as of when a hold protects it; None: a person asked.
        """
        if not await self.demote(pool, okey, generation):
            return False
        record = _standing(pool, okey, generation)
        at_ms = pool.clock.now_ms()
        if record is None or not await pool.committer.submit(
            lambda batch: mutations.evicted(batch, okey, generation, now_ms, at_ms, journal.EVICT)
        ):
            return False
        self._count(events.EVICTED, pool.config.name, 1)
        self._count(events.EVICTED_BYTES, pool.config.name, record.size)
        return True

    async def demote_part(self, pool: Pool, pkey: bytes) -> bool:
        """Moves one part of an upload to the backing store; True when it is there now."""
        upload_id, number = layout.split_part_key(pkey)
        name = layout.piece_name(upload_id, number)
        async with self._alone(name):
            part = _part(pool, pkey)
            if part is None or part.cold is not None:
                return part is not None
            meta = {"upload_id": upload_id, "number": number, "crc64": part.crc64}
            piece = await self._store(pool, name, meta, part, lambda: _part(pool, pkey))
            if piece is None:
                return False
            return await pool.committer.submit(
                lambda batch: mutations.part_demoted(batch, pkey, part.generation, piece)
            )

    async def write_manifest(self, pool: Pool, okey: bytes, generation: int) -> bool:
        """Writes the list of pieces of an object that is cold in pieces, so that a rebuild finds it."""
        number, key = layout.split_object_key(okey)
        bucket = self._buckets.by_number(pool, number)
        record = _standing(pool, okey, generation)
        if bucket is None or record is None or not record.unlisted:
            return False
        name = keys.cold_key(bucket.name, key, record.version)
        async with self._alone(name):
            record = _standing(pool, okey, generation)
            if record is None or not record.unlisted:
                return False  # overwritten while this waited: what has the name now may have its copy there
            await pool.settle()
            pieces = [[piece.name, piece.size] for piece in record.cold[1:]]
            meta = {**object_meta(bucket, key, record), "pieces": pieces}
            await self._cold.store(name, meta, 0, 0, _no_content)
            return await pool.committer.submit(lambda batch: mutations.listed(batch, pool, okey, record))

    async def write_note(self, pool: Pool, okey: bytes, generation: int) -> bool:
        """Writes what has changed of a demoted object since its copy was made, so that a rebuild knows it."""
        number, key = layout.split_object_key(okey)
        bucket = self._buckets.by_number(pool, number)
        record = _standing(pool, okey, generation)
        if bucket is None or record is None or not record.unnoted:
            return False
        name = keys.note_key(keys.cold_key(bucket.name, key, record.version))
        async with self._alone(name):
            record = _standing(pool, okey, generation)
            if record is None or not record.unnoted:
                return False
            await self._cold.backing.put(name, BytesSource(note_json(record)))
            return await pool.committer.submit(lambda batch: mutations.noted(batch, pool, okey, record))

    async def bury(self, pool: Pool, name: str) -> bool:
        """Deletes what a tombstone names from the backing store, unless an object has come to use the name again."""
        async with self._alone(name):
            with pool.index.view() as view:
                if view.get("tombstones", name.encode()) is None:
                    return False  # taken back while this waited: a write that was under way has noted its copy
            user = await self._user(name)
            if user is None:
                await pool.settle()
                await self._cold.backing.delete(name)
            return await pool.committer.submit(lambda batch: _unbury(batch, pool, name, user))

    async def _user(self, name: str) -> tuple[Pool, bytes] | None:
        """The pool and object key of the object that has its copy, or its note, under `name`."""
        about = keys.noted_name(name) or name
        try:
            bucket_name, key, version = keys.parse_cold_key(about)
        except ValueError:
            return None  # a piece: whoever uses it has taken its tombstone back
        found = self._buckets.find(bucket_name)
        if found is None:
            return None
        if key is None:
            try:
                key = str((await read_head(self._cold.backing, about)).meta["key"])
            except (NotFound, BackingCorrupt, KeyError):
                return None
        pool, bucket = found
        with pool.index.view() as view:
            standing = versions.find(view, layout.object_key(bucket.number, key), version)
            return (pool, standing[0]) if standing is not None and name in view.names(*standing) else None

    async def write_bucket(self, pool: Pool, bucket_name: str) -> bool:
        """Brings a bucket's record in the backing store up to date."""
        name = keys.bucket_record_key(bucket_name)
        async with self._alone(name):
            found = self._buckets.find(bucket_name)
            await pool.settle()
            if found is None:
                await self._cold.backing.delete(name)
            else:
                await self._cold.backing.put(name, BytesSource(bucket_json(found[1])))
            written = None if found is None or found[0] is not pool else bucket_json(found[1])
            return await pool.committer.submit(lambda batch: _bucket_written(batch, bucket_name, written))

    async def _store(
        self, pool: Pool, name: str, meta: dict[str, object], record: ObjectRecord | PartRecord, find: _Find
    ) -> ColdPiece | None:
        """Uploads a record's bytes; None when they are damaged, or gone before all were read. `find`: the record now."""
        if self.damaged(pool, record.generation):
            return None
        content = _content(pool, find, record.generation)
        try:
            # The tombstone first: a copy that is stored but never noted (a lost answer, a crash) must go again, or a
            # rebuild would bring its object back after it was deleted. Noting the copy takes the tombstone back.
            await pool.committer.submit(lambda batch: batch.put("tombstones", name.encode()))
            # And on the device: there may be an older copy under the name, which after a power loss nobody may rely on.
            await pool.settle()
            own = isinstance(record, ObjectRecord)
            try:
                return await self._cold.store(name, meta, record.size, record.crc64, content, own=own)
            except Corrupt:
                if not await _passes(pool, find, record.generation):
                    raise
            # It was damaged in memory, or could not be read for a moment.
            return await self._cold.store(name, meta, record.size, record.crc64, content, own=own)
        except Corrupt:
            said = f"bytes of generation {record.generation} fail their checksum"
            _log.error("pool %s: %s", pool.config.name, said, extra={"once": f"damaged {pool.config.name} {said}"})
            pool.heat.doubt(record.generation)  # they are in memory now, where readers would take them as they are
            self._remember(pool, record.generation)
            return None
        except _Superseded:
            return None


def _unbury(batch: Batch, pool: Pool, name: str, user: tuple[Pool, bytes] | None) -> bool:
    """Removes a tombstone that was carried out, or that an object still using its name makes void."""
    if user is not None and user[0] is pool:
        record = batch.object(user[1])
        if record is None or name not in batch.names(user[1], record):
            return False  # a younger tombstone: the object was deleted since
    return batch.delete("tombstones", name.encode())


def _standing(pool: Pool, okey: bytes, generation: int) -> ObjectRecord | None:
    found = pool.index.standing(okey, generation)
    return None if found is None else found[1]


def _bucket_written(batch: Batch, name: str, written: bytes | None) -> bool:
    """Takes the mark of a bucket whose record is up to date, unless the bucket changed while that was written."""
    now = batch.bucket(name)
    if (None if now is None else bucket_json(now)) != written:
        return False
    return batch.delete("stale_buckets", name.encode())


def bucket_json(bucket: BucketRecord) -> bytes:
    """A bucket's record as the backing store keeps it."""
    fields = {name: getattr(bucket, name) for name in BucketRecord.__struct_fields__ if name != "number"}
    return msgspec.json.encode(fields)


def _part(pool: Pool, pkey: bytes) -> PartRecord | None:
    with pool.index.view() as view:
        return view.part(pkey)


def _content(pool: Pool, find: _Find, generation: int) -> Content:
    """Reads where the record says its bytes are at that moment: no epoch is held while the network is waited for."""

    async def read(start: int, stop: int) -> AsyncIterator[Buffer]:
        at = start
        while at < stop:
            record = find()
            if record is None or record.generation != generation or not record.extents:
                raise _Superseded
            extent, first, last = layout.slices(record.extents, at, min(stop, at + READ_CHUNK))[0]
            yield pool.flash.read(extent, first, last)
            at += last - first

    return read


async def _passes(pool: Pool, find: _Find, generation: int) -> bool:
    """Whether all of a record's bytes are good when they are read again, from the device if that can be had."""
    epoch = pool.epochs.current
    epoch.acquire()
    try:
        record = find()
        if record is None or record.generation != generation:
            raise _Superseded
        extents = record.extents
        return await asyncio.to_thread(lambda: all(pool.flash.passes_aside(extent) for extent in extents))
    finally:
        epoch.release()


async def _no_content(start: int, stop: int) -> AsyncIterator[Buffer]:
    return
    yield b""


def _end_orders(batch: Batch, keys: Sequence[bytes]) -> None:
    for key in keys:
        batch.delete("orders", key)


class OrderDuty:
    """Carries out what workers ask for; an order is gone when it was tried, whether it worked or not."""

    def __init__(self, demoter: Demoter, pool: Pool) -> None:
        self.name = f"orders-{pool.config.name}"
        self._demoter = demoter
        self._pool = pool

    async def step(self) -> int:
        """Lasts until no order is left, so that one which takes long keeps none waiting that is given meanwhile; or until one has
        failed, and those begun before are tried."""
        under_way: dict[bytes, asyncio.Task[None]] = {}
        done, failures = 0, list[BaseException]()
        try:
            while True:
                for key, order in [] if failures else self._given(under_way):
                    under_way[key] = asyncio.ensure_future(self._carry_out(order))
                if not under_way:
                    break
                await asyncio.wait(under_way.values(), timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                tried = [key for key, task in under_way.items() if task.done()]
                if tried:
                    done += len(tried)
                    failures += [error for key in tried if (error := under_way.pop(key).exception()) is not None]
                    await self._pool.committer.submit(functools.partial(_end_orders, keys=tried))
        finally:
            for task in under_way.values():
                task.cancel()
            await asyncio.gather(*under_way.values(), return_exceptions=True)
        raise_first(failures)
        return done

    def _given(self, under_way: Container[bytes]) -> list[tuple[bytes, Order]]:
        """The first orders, of which those are left out that are under way."""
        with self._pool.index.view() as view:
            first = _first(view.rows("orders"), STEP_MAX)
        return [(key, layout.ORDER.decode(value)) for key, value in first if key not in under_way]

    async def _carry_out(self, order: Order) -> None:
        pool = self._pool
        if order.verb == "part":
            await self._demoter.demote_part(pool, order.okey)
        elif order.verb == "manifest":
            await self._demoter.write_manifest(pool, order.okey, order.generation)
        elif order.verb == "note":
            await self._demoter.write_note(pool, order.okey, order.generation)
        elif order.verb == "evict":
            await self._demoter.drop(pool, order.okey, order.generation)
        else:
            await self._demoter.demote(pool, order.okey, order.generation)


class DemoteDuty:
    """Copies hot-only objects (and parts), oldest first: when they are old enough, or when too much waits."""

    def __init__(self, demoter: Demoter, pool: Pool) -> None:
        self.name = f"demote-{pool.config.name}"
        self._demoter = demoter
        self._pool = pool

    async def step(self) -> int:
        objects, parts = self._due()
        outcomes = await asyncio.gather(
            *(self._demoter.demote(self._pool, okey, generation) for okey, generation in objects),
            *(self._demoter.demote_part(self._pool, pkey) for pkey in parts),
            return_exceptions=True,
        )
        raise_first(outcomes)
        return len(objects) + len(parts)

    def _due(self) -> tuple[list[tuple[bytes, int]], list[bytes]]:
        """Objects with their generations, and under pressure also parts of uploads: those wait for no age."""
        pool, config = self._pool, self._pool.config
        before_ms = pool.clock.now_ms() - config.demote_after_ms
        due: list[tuple[bytes, int]] = []
        with pool.index.view() as view:
            pressed = view.counters().dirty_bytes > pool.dirty_bytes_max * PRESSURE_SHARE
            if config.demote != "eager" and not pressed:
                return [], []
            for key, owed in view.rows("dirty"):
                if len(due) == STEP_MAX:
                    break
                generation = layout.unpack_u64(key)
                if self._demoter.damaged(pool, generation):
                    continue
                found = view.owed(generation, owed)
                if found is None or not (pressed or found[1].modified_ms <= before_ms):
                    break
                due.append((found[0], generation))
            parts: list[bytes] = []
            for key, pkey in view.rows("dirty_parts") if pressed else ():
                if len(parts) == STEP_MAX:
                    break
                if not self._demoter.damaged(pool, layout.unpack_u64(key)):
                    parts.append(pkey)
        return due, parts


class ChillDuty:
    """Takes objects out of the tier that have a storage class whose place is the backing store, unless they are held."""

    def __init__(self, demoter: Demoter, pool: Pool) -> None:
        self.name = f"chill-{pool.config.name}"
        self._demoter = demoter
        self._pool = pool

    async def step(self) -> int:
        pool, now_ms = self._pool, self._pool.clock.now_ms()
        due: list[tuple[bytes, int]] = []
        with pool.index.view() as view:
            for key, okey in view.rows("chills"):
                if len(due) == STEP_MAX:
                    break
                generation = layout.unpack_u64(key)
                if not self._demoter.damaged(pool, generation):
                    due.append((okey, generation))
        outcomes = await asyncio.gather(
            *(self._demoter.drop(pool, okey, generation, now_ms) for okey, generation in due), return_exceptions=True
        )
        raise_first(outcomes)
        return sum(outcome is True for outcome in outcomes)


class UpkeepDuty:
    """Manifests, notes, bucket records and tombstones: the small writes that keep the backing store true to the index."""

    def __init__(self, demoter: Demoter, pool: Pool) -> None:
        self.name = f"upkeep-{pool.config.name}"
        self._demoter = demoter
        self._pool = pool

    async def step(self) -> int:
        pool, demoter = self._pool, self._demoter
        work: list[Awaitable[bool]] = []
        with pool.index.view() as view:
            for generation, okey in _first(view.rows("manifests"), STEP_MAX):
                work.append(demoter.write_manifest(pool, okey, layout.unpack_u64(generation)))
            for generation, okey in _first(view.rows("unnoted"), STEP_MAX):
                work.append(demoter.write_note(pool, okey, layout.unpack_u64(generation)))
            for name, _ in _first(view.rows("stale_buckets"), STEP_MAX):
                work.append(demoter.write_bucket(pool, name.decode()))
            for name, _ in _first(view.rows("tombstones"), STEP_MAX):
                work.append(demoter.bury(pool, name.decode()))
        outcomes = await asyncio.gather(*work, return_exceptions=True)
        raise_first(outcomes)
        return len(work)


def _first(rows: Iterator[tuple[bytes, bytes]], limit: int) -> list[tuple[bytes, bytes]]:
    return list(itertools.islice(rows, limit))


def raise_first(outcomes: Sequence[object]) -> None:
    """Raises the first failure of a gather; the others were of the same cause often enough."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
