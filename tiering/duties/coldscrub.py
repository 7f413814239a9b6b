"""Scrubbing the backing store: is the copy of every demoted object there, and, if it is told to read, is it the object?

Promise: a copy that is missing or damaged is made again from the hot one, and so are manifests and notes from the index;
what is cold-only and damaged is named and kept, for its readers are told. Nothing that the keeper writes, deletes or
renames meanwhile is taken for damage: each finding is looked at twice, and the record again before it is acted upon.
Owns the walk of one pool's cold side. Does not know which backing it is.
Kind: duty; the keeper's loop. Spec: docs/SEMANTICS.md, "Bytes"; docs/OPERATIONS.md, "The scrub".
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from tiering import coldstream, events, layout
from tiering.backing.coldobject import read_object
from tiering.backing.streams import closing
from tiering.buckets import Buckets
from tiering.cold import ColdSide, apply_note
from tiering.contract import NoSuchBucket, Residency
from tiering.crc64 import crc64nvme
from tiering.duties.demote import Demoter
from tiering.duties.scrub import SEEK_BYTES, STEP_BYTES, Pace, ScrubRates, Tell, Walk, damage_of, log_damage
from tiering.index import Batch
from tiering.layout import ColdPiece, Damage, ObjectRecord, PartRecord
from tiering.pool import Pool
from tiering.ports import BackingCorrupt, BackingUnavailable, Meter, NotFound
from tiering.residency import move

NAMES_PER_S: Final = 20
"""Copies asked for a second while their bytes are not read: two million a day, at a price nobody notices."""
ROWS_MAX: Final = 256
"""Records looked through in one step for one that has a copy."""
PAUSE_S_MAX: Final = 1.0
"""Between two chunks of one copy: servers end connections that stand still."""

_OBJECTS: Final = b"o"
_PARTS: Final = b"p"


class ColdScrubDuty:
    """The walk over one pool's objects and parts that have copies in the backing store, in the order of the index."""

    def __init__(
        self,
        pool: Pool,
        buckets: Buckets,
        cold: ColdSide,
        demoter: Demoter,
        rates: ScrubRates,
        meter: Meter = events.uncounted,
        tell: Tell = log_damage,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = f"scrub-cold-{pool.config.name}"
        self._pool = pool
        self._buckets = buckets
        self._cold = cold
        self._demoter = demoter
        self._reads = rates.cold_bytes_per_s > 0
        self._pace = Pace(rates.cold_bytes_per_s or NAMES_PER_S)
        self._sleep = sleep
        self._unpaced = False
        self.walk = Walk(pool, "cold", rates.every_s, meter, tell)

    async def step(self) -> int:
        now_ms = self._pool.clock.now_ms()
        if not self._pace.due(now_ms) or not self.walk.open(now_ms):
            return 0
        cost = await self._look(now_ms)
        self._pace.spend(cost, now_ms)
        return int(self._pace.due(now_ms))

    async def whole_pass(self) -> None:
        """One pass from the beginning, as fast as it goes."""
        self._unpaced = True
        self.walk.begin(self._pool.clock.now_ms())
        while self.walk.state.under_way:
            await self._look(self._pool.clock.now_ms())

    async def _look(self, now_ms: int) -> float:
        """Looks at the copies of the next record that has some; returns what that cost. Raises BackingUnavailable."""
        at, key, record = self._next()
        if isinstance(record, ObjectRecord):
            await self._object(key, record)
        elif record is not None:
            await self._part(key, record)
        if at:
            await self.walk.reached(at, now_ms)
        else:
            await self.walk.end(now_ms, reads=self._reads)
        if not self._reads:
            return 1 if record is None else _streams(record)
        return max(SEEK_BYTES, 0 if record is None else record.size)

    def _next(self) -> tuple[bytes, bytes, ObjectRecord | PartRecord | None]:
        """The place behind the next record with copies, its key, and it; no record when a step's rows have none, and no
        place when there are no more rows."""
        at = self.walk.state.at or _OBJECTS
        table, start = at[:1], at[1:]
        database, codec = ("parts", layout.PART) if table == _PARTS else ("objects", layout.OBJECT)
        key = b""
        with self._pool.index.view() as view:
            for key, value in itertools.islice(view.rows(database, start), ROWS_MAX):
                record: ObjectRecord | PartRecord = codec.decode(value)
                if record.cold:
                    return table + key + b"\0", key, record
        if key:
            return table + key + b"\0", key, None
        return (_PARTS if table == _OBJECTS else b""), b"", None

    # -- objects -------------------------------------------------------------------------------------------------

    async def _object(self, okey: bytes, record: ObjectRecord) -> None:
        try:
            with self._pool.index.view() as view:
                names, note = view.cold_names(okey, record), view.note_name(okey, record)
        except NoSuchBucket:
            return  # it has gone with its bucket
        streams = tuple(zip(names, record.cold, strict=True))
        manifest, pieces = (streams[0], streams[1:]) if len(streams) > 1 else (None, streams)
        if (
            manifest is not None
            and not record.unlisted
            and not await self._twice(lambda: self._listed(record, names[0]))
        ):
            await self._owe(okey, record, "its manifest", unlisted=True)
        if record.note and not record.unnoted and not await self._twice(lambda: self._noted(record, note)):
            await self._owe(okey, record, "its note", unnoted=True)
        crc64 = record.crc64 if manifest is None else None
        if await self._twice(lambda: self._whole(pieces, record.crc64, crc64)):
            return
        found = self._pool.index.standing(okey, record.generation)
        if found is None or found[1].cold != record.cold:
            return  # it has moved on
        damage = self._damage(*found)
        fate = await self._copy_again(*found)
        if fate:
            self.walk.damaged(damage, fate)

    async def _copy_again(self, okey: bytes, record: ObjectRecord) -> str:
        """Demotes an object again if its hot copy is good. Returns what became of the damage, "" when it moved on."""
        pool = self._pool
        if not await self._hot_copy_is_good(okey, record):
            return "unrepairable"
        if not await pool.committer.submit(lambda batch: _forsake(batch, okey, record)):
            return ""
        try:
            await self._demoter.demote(pool, okey, record.generation)
        except BackingUnavailable:
            pass  # it is dirty now, and its turn comes as for others
        return "repaired"

    async def _hot_copy_is_good(self, okey: bytes, record: ObjectRecord) -> bool:
        flash, epoch = self._pool.flash, self._pool.epochs.current
        epoch.acquire()
        try:
            found = self._pool.index.standing(okey, record.generation)
            if found is None or found[1].residency == Residency.COLD_ONLY:
                return not record.size  # of nothing there is always a copy
            extents = found[1].extents
            return await asyncio.to_thread(lambda: all(flash.passes_aside(each) for each in extents))
        finally:
            epoch.release()

    async def _owe(self, okey: bytes, record: ObjectRecord, what: str, **owed: bool) -> None:
        """Has the keeper write a manifest or a note again."""
        if await self._pool.committer.submit(lambda batch: _owed(batch, okey, record, owed)):
            damage = self._damage(okey, record)
            self.walk.damaged(msgspec.structs.replace(damage, what=f"{damage.what}, {what}"), "repaired")

    async def _listed(self, record: ObjectRecord, name: str) -> bool:
        if not self._reads:
            await self._cold.backing.stat(name)
            return True
        reader = coldstream.ColdReader()
        await self._read(name, reader)
        assert reader.head is not None
        told = reader.head.meta
        return (told.get("generation"), told.get("pieces")) == (
            record.generation,
            [[piece.name, piece.size] for piece in record.cold[1:]],
        )

    async def _noted(self, record: ObjectRecord, name: str) -> bool:
        if not self._reads:
            await self._cold.backing.stat(name)
            return True
        async with closing(self._cold.backing.get(name)) as chunks:
            note = b"".join([bytes(chunk) async for chunk in chunks])
        try:
            return apply_note(msgspec.structs.replace(record), note)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return False

    # -- parts of uploads ----------------------------------------------------------------------------------------

    async def _part(self, pkey: bytes, part: PartRecord) -> None:
        piece = part.cold
        assert piece is not None
        if await self._twice(lambda: self._whole(((piece.name, piece),), part.crc64, None)):
            return
        with self._pool.index.view() as view:
            now = view.part(pkey)
        if now is not None and (now.generation, now.cold) == (part.generation, part.cold):
            self.walk.damaged(self._damage(pkey, part), "unrepairable")

    def _damage(self, key: bytes, record: ObjectRecord | PartRecord) -> Damage:
        return msgspec.structs.replace(damage_of(self._buckets, self._pool, key, record), read=self._reads)

    # -- copies --------------------------------------------------------------------------------------------------

    async def _twice(self, look: Callable[[], Awaitable[bool]]) -> bool:
        """Whether one of two looks is content: the first may have met a name just as it was written anew, or a network
        that flips bits."""
        for _ in range(2):
            try:
                if await look():
                    return True
            except (NotFound, BackingCorrupt):
                continue
        return False

    async def _whole(self, streams: Sequence[tuple[str, ColdPiece]], checksum: int, crc64: int | None) -> bool:
        """Whether the streams are there, and, if bytes are read, make up content of that checksum. `crc64`: as the layout
        of the one stream was packed with."""
        found = 0
        for name, piece in streams:
            if not self._reads:
                stat = await self._cold.backing.stat(name)
                if piece.layout:
                    known = coldstream.unpack_layout(piece.layout, piece.size, crc64)
                    if stat.size != known.encoded_bytes:
                        return False
                continue
            size, found = await self._read(name, coldstream.ColdReader(), found)
            if size != piece.size:
                return False
        return not self._reads or found == checksum

    async def _read(self, name: str, reader: coldstream.ColdReader, checksum: int = 0) -> tuple[int, int]:
        """Reads one stream to its end: its content's length, and its checksum, which goes on from `checksum`."""
        size = 0
        async with closing(read_object(self._cold.backing, name, reader)) as chunks:
            async for chunk in chunks:
                size += len(chunk)
                checksum = crc64nvme(chunk, checksum)
                if size > STEP_BYTES and not self._unpaced:  # a long one must not be read in one rush
                    await self._sleep(min(len(chunk) / self._pace.per_s, PAUSE_S_MAX))
        self.walk.read(size)
        return size, checksum


def _streams(record: ObjectRecord | PartRecord) -> int:
    return len(record.cold) if isinstance(record, ObjectRecord) else record.cold is not None


def _forsake(batch: Batch, okey: bytes, record: ObjectRecord) -> bool:
    """Gives up a cold copy that is no copy: the object is owed one, as if it had never been demoted."""
    found = batch.standing(okey, record.generation)
    if found is None or (found[1].cold, found[1].residency) != (record.cold, record.residency):
        return False
    row, old = found
    residency = move(Residency.BOTH, "lose")  # an empty object is in both places wherever it is
    new: ObjectRecord = msgspec.structs.replace(
        old,
        residency=residency,
        cold=(),
        unlisted=False,
        note=False,
        unnoted=False,
        former="",
        chill=layout.has_cold_class(old),
    )
    batch.replace_object(row, old, new)
    batch.owe_by_key(row, new)  # it may be a copy
    return True


def _owed(batch: Batch, okey: bytes, record: ObjectRecord, owed: dict[str, bool]) -> bool:
    found = batch.standing(okey, record.generation)
    if found is None or (found[1].cold, found[1].note) != (record.cold, record.note):
        return False
    row, old = found
    batch.replace_object(row, old, msgspec.structs.replace(old, **owed))
    return True
