"""Scrubbing: walking what is stored, at a set rate, to find damaged bytes before a reader does. Here, those on flash.

Promise: a pass compares every extent that was there when it began and is there still when its turn comes. What is found
damaged is mended from the good copy if there is one; without one nothing is deleted but what its pool may lose. An
object that changed meanwhile is no damage.
Owns the walk of one pool's side: its place is in the index, so a pass survives restarts. Does not know processes or
output: it is told whom to tell.
Kind: duty; the keeper's loop, bytes are read in a thread. Invariants: the epoch is held while bytes are read; each act
compares generation and extents again, in its transaction.
Spec: docs/SEMANTICS.md, "Bytes"; docs/OPERATIONS.md, "The scrub".
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from tiering import events, layout, mutations
from tiering.buckets import Buckets
from tiering.cold import ColdSide
from tiering.contract import Busy, ColdUnavailable, Corrupt, Residency, SizeMismatch
from tiering.crc64 import crc64nvme
from tiering.index import Batch, View
from tiering.layout import Damage, Extent, ObjectRecord, PartRecord, ScrubRecord
from tiering.pool import Pool
from tiering.ports import BackingUnavailable, Meter
from tiering.space import KEEPER_REGIONS
from tiering.writer import FlashBody

STEP_BYTES: Final = 1 << 20
"""Bytes read in one step, unless a single extent is longer."""
SEEK_BYTES: Final = 64 << 10
"""What one more extent or copy costs at least, as bytes of the rate: finding it is work, however short it is."""
BURST_S: Final = 1.0
"""What was not used of the rate is kept for so long, as a duty has its turn only now and then."""
SAVE_MS: Final = 10_000
"""How often the place of a walk is written down: a restart repeats at most so much of it."""
DAMAGES_MAX: Final = 256
"""Damaged objects remembered a side and pass; the rest are logged and counted."""

_log = logging.getLogger("recall.scrub")

Tell = Callable[[str, str, str, str], None]
"""Hears of damage: (pool, side, what, fate)."""


class ScrubRates(msgspec.Struct, frozen=True):
    """How often a pass begins, and how fast it goes. `every_s` 0: never.

    `flash_bytes_per_s` 0: flash is not looked at. `cold_bytes_per_s` 0: copies in the backing store are asked for, not
    read.
    """

    every_s: float = 0.0
    flash_bytes_per_s: int = 0
    cold_bytes_per_s: int = 0


def log_damage(pool: str, side: str, what: str, fate: str) -> None:
    """The Tell of the keeper."""
    level = logging.ERROR if fate in ("unrepairable", "dropped") else logging.WARNING
    where = "bytes on flash" if side == "flash" else "the copy in the backing store"
    _log.log(level, "pool %s: %s: %s: damaged, %s", pool, what, where, fate)


class Pace:
    """Spreads work over time: after `cost` units nothing is due for cost / rate seconds."""

    def __init__(self, per_s: float) -> None:
        self.per_s = per_s
        self._next_ms = 0.0
        self._spent_ms = 0

    def due(self, now_ms: int) -> bool:
        return now_ms >= self._next_ms or now_ms < self._spent_ms  # the latter: the clock was set back

    def spend(self, cost: float, now_ms: int) -> None:
        since_ms = self._next_ms if now_ms >= self._spent_ms else 0.0
        self._next_ms = max(since_ms, now_ms - BURST_S * 1000) + 1000 * cost / self.per_s
        self._spent_ms = now_ms


class Walk:
    """Where one side of a pool's scrub is: when a pass begins, how far it is, and what it has found that it cannot mend."""

    def __init__(self, pool: Pool, side: str, every_s: float, meter: Meter, tell: Tell) -> None:
        self.side = side
        self._pool = pool
        self._every_ms = round(every_s * 1000)
        self._count = meter
        self._tell = tell
        self._saved_ms = 0
        with pool.index.view() as view:
            self.state = stored(view, side)

    def open(self, now_ms: int) -> bool:
        """Whether a pass is under way; begins one when it is time for it."""
        state = self.state
        if state.under_way:
            return True
        if not self._every_ms or state.begun_ms <= now_ms < state.begun_ms + self._every_ms:
            return False
        self.begin(now_ms)
        return True

    def begin(self, now_ms: int) -> None:
        self.state.begun_ms, self.state.at, self.state.under_way, self.state.damages = now_ms, b"", True, []

    async def reached(self, at: bytes, now_ms: int) -> None:
        """All before `at` has been looked at. Written down now and then."""
        self.state.at = at
        if not self._saved_ms <= now_ms < self._saved_ms + SAVE_MS:
            await self._save(now_ms)

    async def end(self, now_ms: int, *, reads: bool = True) -> None:
        """The pass is complete. `reads` False: it has read no bytes, so what only reading shows is taken over."""
        state = self.state
        with self._pool.index.view() as view:
            kept = [each for each in state.before if not reads and each.read and _stands(view, each)]
        kept = [each for each in kept if not any(each.same(found) for found in state.damages)]
        state.before, state.damages = [*state.damages, *kept][:DAMAGES_MAX], []
        state.under_way, state.completed_ms = False, now_ms
        await self._save(now_ms)

    async def _save(self, now_ms: int) -> None:
        data = layout.SCRUB.encode(self.state)
        await self._pool.committer.submit(lambda batch: batch.put("meta", _meta_key(self.side), data))
        self._saved_ms = now_ms

    def read(self, size: int) -> None:
        self._count(events.scrubbed_bytes(self.side), self._pool.config.name, size)

    def damaged(self, damage: Damage, fate: str) -> None:
        """Counts and tells it; what cannot be mended only when it was not known, and then it is remembered."""
        state, name = self.state, self._pool.config.name
        if fate == "unrepairable":
            known = any(map(damage.same, state.before))
            if any(map(damage.same, state.damages)):
                return
            if len(state.damages) < DAMAGES_MAX:
                state.damages.append(damage)
                self._saved_ms = 0  # written down at once
            if known:
                return
        self._count(events.damage(self.side, "found"), name, 1)
        self._count(events.damage(self.side, fate), name, 1)
        self._tell(name, self.side, damage.what, fate)


def stored(view: View, side: str) -> ScrubRecord:
    """The state of a side's scrub as the index has it."""
    data = view.get("meta", _meta_key(side))
    state: ScrubRecord = layout.SCRUB.decode(data) if data is not None else ScrubRecord()
    return state


def standing_damages(view: View, sides: Sequence[str] = events.SIDES) -> list[Damage]:
    """What the last passes could not mend and is still what it was then."""
    found: dict[tuple[bytes, int], Damage] = {}
    for side in sides:
        state = stored(view, side)
        found |= {(each.key, each.generation): each for each in (*state.before, *state.damages)}
    return [damage for damage in found.values() if _stands(view, damage)]


def _stands(view: View, damage: Damage) -> bool:
    if damage.part:
        part = view.part(damage.key)
        return part is not None and part.generation == damage.generation
    return view.standing(damage.key, damage.generation) is not None


def _meta_key(side: str) -> bytes:
    return f"scrub-{side}".encode()


def damage_of(buckets: Buckets, pool: Pool, key: bytes, record: ObjectRecord | PartRecord) -> Damage:
    """How an object or a part of an upload is named to people."""
    if isinstance(record, PartRecord):
        upload_id, part_number = layout.split_part_key(key)
        return Damage(f"part {part_number} of upload {upload_id}", key, record.generation, part=True)
    number, name = layout.split_object_key(key)
    bucket = buckets.by_number(pool, number)
    version = f" version {record.version}" if record.version else ""
    return Damage(f"{bucket.name if bucket is not None else number}/{name}{version}", key, record.generation)


class ScrubDuty:
    """The walk over one pool's flash, in the order of its bytes. `cold` serves to mend objects that have a copy there."""

    def __init__(
        self,
        pool: Pool,
        buckets: Buckets,
        cold: ColdSide,
        rates: ScrubRates,
        meter: Meter = events.uncounted,
        tell: Tell = log_damage,
    ) -> None:
        self.name = f"scrub-{pool.config.name}"
        self._pool = pool
        self._buckets = buckets
        self._cold = cold
        self._pace = Pace(rates.flash_bytes_per_s)
        self.walk = Walk(pool, "flash", rates.every_s, meter, tell)

    async def step(self) -> int:
        now_ms = self._pool.clock.now_ms()
        if not self._pace.per_s or not self._pace.due(now_ms) or not self.walk.open(now_ms):
            return 0
        cost = await self._look(now_ms)
        self._pace.spend(cost, now_ms)
        return int(self._pace.due(now_ms))

    async def whole_pass(self) -> None:
        """One pass from the beginning, as fast as it goes."""
        self.walk.begin(self._pool.clock.now_ms())
        while self.walk.state.under_way:
            await self._look(self._pool.clock.now_ms())

    async def _look(self, now_ms: int) -> int:
        """Compares the next extents with their checksums; returns what that cost. Raises BackingUnavailable."""
        epoch = self._pool.epochs.current
        epoch.acquire()
        try:
            extents = self._next()
            faulty = await asyncio.to_thread(_faulty, self._pool, extents)
        finally:
            epoch.release()
        self.walk.read(sum(extent.length for extent in extents))
        for extent in faulty:
            await self._mend_all(extent)
        if extents:
            last = extents[-1]
            await self.walk.reached(layout.place_key(last.region, last.offset + 1), now_ms)
        else:
            await self.walk.end(now_ms)
        return sum(max(extent.length, SEEK_BYTES) for extent in extents)

    def _next(self) -> list[Extent]:
        """The next extents in the order of their places, each once, however many objects refer to it."""
        extents: list[Extent] = []
        left = min(STEP_BYTES, self._pace.per_s or STEP_BYTES)
        at = self.walk.state.at
        with self._pool.index.view() as view:
            while left > 0 and (row := next(view.rows("extents", at), None)) is not None:
                region, offset, owner = layout.split_extent_key(row[0])
                at = layout.place_key(region, offset + 1)
                record = _owner(view, owner)
                extent = next(e for e in record.extents if (e.region, e.offset) == (region, offset)) if record else None
                assert extent is not None, row[0]
                left -= max(extent.length, SEEK_BYTES)
                if left < 0 and extents:
                    break
                extents.append(extent)
        return extents

    async def _mend_all(self, extent: Extent) -> None:
        with self._pool.index.view() as view:
            place = layout.place_key(extent.region, extent.offset)
            owners = [layout.split_extent_key(key)[2] for key, _ in view.rows("extents", prefix=place)]
        for owner in owners:
            await self._mend(owner, extent)

    async def _mend(self, owner: bytes, extent: Extent) -> None:
        pool, key = self._pool, owner[1:]
        with pool.index.view() as view:
            record = _owner(view, owner)
        if record is None or extent not in record.extents:
            return  # it has moved on
        damage = damage_of(self._buckets, pool, key, record)
        if isinstance(record, ObjectRecord):
            pool.heat.doubt(record.generation)
        fate = "unrepairable"
        if isinstance(record, ObjectRecord) and record.residency == Residency.BOTH:
            fate = await self._take_cold(key, record)
        elif pool.config.durability == "relaxed":
            # As readers do: such a pool may lose what it wrote.
            lose = functools.partial(_lost if isinstance(record, ObjectRecord) else _part_lost, key=key, extent=extent)
            fate = await pool.committer.submit(lose)
        if fate:
            self.walk.damaged(damage, fate)

    async def _take_cold(self, okey: bytes, record: ObjectRecord) -> str:
        """Reads the cold copy; if it is good, a held object is written anew from it and others lose their hot copy.

        Returns what became of the damage, "" when the object moved on. Raises BackingUnavailable.
        """
        pool = self._pool
        held = layout.hold_until_ms(record) > pool.clock.now_ms()
        with pool.index.view() as view:
            roomy = view.count("free") > KEEPER_REGIONS and record.size <= pool.stream_bytes
        body = FlashBody(pool, record.size) if held and roomy else None
        try:
            if body is not None:
                try:
                    await body.begin_whole()
                except Busy:
                    body.settle()
                    body = None
            if not await self._read_cold(okey, record, body):
                return "unrepairable"
            if body is None:
                done = await pool.committer.submit(lambda batch: _evicted(batch, okey, record))
            else:
                places = body.extents
                done = await pool.committer.submit(lambda batch: mutations.moved(batch, okey, record, places))
                pool.heat.checked(record.generation)
            return "repaired" if done else ""
        finally:
            if body is not None:
                body.settle()

    async def _read_cold(self, okey: bytes, record: ObjectRecord, body: FlashBody | None) -> bool:
        """Whether the cold copy is the object's bytes; they go into `body`, if there is one."""
        found = 0
        names = self._pool.index.cold_names(okey, record)
        try:
            async with aclosing(self._cold.read(record, names, 0, record.size)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    found = crc64nvme(chunk, found)
                    waiting = body.write(chunk) if body is not None else None
                    if waiting is not None:
                        await waiting
        except ColdUnavailable as error:
            raise BackingUnavailable(str(error)) from error
        except (Corrupt, SizeMismatch):
            return False
        return found == record.crc64


def _faulty(pool: Pool, extents: list[Extent]) -> list[Extent]:
    return [extent for extent in extents if not pool.flash.passes_aside(extent)]


def _owner(view: View, owner: bytes) -> ObjectRecord | PartRecord | None:
    return view.part(owner[1:]) if owner[:1] == layout.OWNER_PART else view.object(owner[1:])


def _evicted(batch: Batch, okey: bytes, record: ObjectRecord) -> bool:
    found = batch.standing(okey, record.generation)
    if found is None or (found[1].extents, found[1].cold) != (record.extents, record.cold):
        return False
    return mutations.evicted(batch, okey, record.generation)


def _lost(batch: Batch, key: bytes, extent: Extent) -> str:
    record = batch.object(key)
    if record is None or extent not in record.extents:
        return ""
    return "dropped" if mutations.lost(batch, key, record) else ""


def _part_lost(batch: Batch, key: bytes, extent: Extent) -> str:
    """Takes away a part whose bytes a pool may lose: completing its upload then says that it is missing. Those of a long
    PUT stay: its writer knows nothing of parts."""
    part = batch.part(key)
    if part is None or extent not in part.extents:
        return ""
    upload_id, _ = layout.split_part_key(key)
    for ukey, value in batch.rows("uploads"):
        if layout.split_upload_key(ukey)[2] == upload_id and layout.UPLOAD.decode(value).internal:
            return "unrepairable"
    batch.replace_part(key, part, None)
    return "dropped"
