"""An engine and what it must hold: every operation is done on both and compared, whatever tier the bytes are in.

The model is a dict of what was acknowledged. An operation that is refused must be refused for a reason the model knows
(a precondition, a limit, an absent backing store) and must leave nothing changed; a read gives the exact bytes and the
description of the generation it names, or an error that the model allows, never anything else.

Owns one engine, its backing store, its clock, its scratch directory and its loop. Does not know hypothesis: the state
machine calls it, and so do the hand-written regressions.
Kind: shell of the tests. Spec: docs/SEMANTICS.md.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.conformance import steps
from tests.crash.hooked import Paced
from tests.support.clock import ManualClock
from tests.support.engine import REGION, Engine, pool_config
from tiering import layout
from tiering.backing import keys
from tiering.backing.memory import MemoryBacking
from tiering.backing.wrappers import Fault, Faulty
from tiering.check import check_pool
from tiering.contract import (
    FOREVER_MS,
    BucketInfo,
    Busy,
    ByteRange,
    ColdUnavailable,
    CompleteOptions,
    Conditions,
    CopyOptions,
    Corrupt,
    Deleted,
    InvalidRange,
    ListOptions,
    NoSuchKey,
    NotModified,
    NotRenamable,
    ObjectChange,
    ObjectInfo,
    PartClaim,
    PartTooSmall,
    PinLimit,
    PreconditionFailed,
    PutOptions,
    Reading,
    ReadOptions,
    RenameOptions,
    Residency,
    StoreError,
    TierFull,
    Ttl,
    WrongOffset,
)
from tiering.duties.coldscrub import ColdScrubDuty
from tiering.duties.scrub import ScrubDuty, ScrubRates
from tiering.pool import Pool, PoolConfig
from tiering.ports import BackingUnavailable

T = TypeVar("T")

KINDS: Final[dict[str, dict[str, Any]]] = {
    "standard": {"durability": "flash"},
    "kv": {"durability": "relaxed", "opaque_etag": True, "demote": "pressure"},
    "cache": {"durability": "relaxed", "opaque_etag": True, "demote": "never"},
}
"""The pools a world may be made of."""
SMALL: Final = "b"
"""A bucket in a pool of 32 small regions, where everything is soon evicted."""
BIG: Final = "big"
"""A bucket in a pool that holds parts of the size S3 asks for."""
_PUMP_S: Final = 0.003
_ROOM_S: Final = 60.0
_SAME: Final = (
    "generation",
    "size",
    "modified_ms",
    "etag",
    "crc64",
    "content_type",
    "headers",
    "metadata",
    "tags",
    "checksum",
    "storage_class",
    "ttl_ms",
    "sliding",
)
"""Fields that are the same wherever the bytes are."""


def pattern(size: int, seed: int) -> bytes:
    """Bytes that differ from seed to seed and from place to place; half of the seeds give compressible ones."""
    if seed % 2:
        return random.Random(seed).randbytes(size)
    block = random.Random(seed).randbytes(251)
    return (block * (size // len(block) + 1))[:size]


@dataclass
class Thing:
    """An acknowledged object."""

    data: bytes
    info: ObjectInfo
    expires_ms: int = 0

    def seen(self, now_ms: int) -> bool:
        return not self.expires_ms or now_ms < self.expires_ms

    def pinned(self, now_ms: int) -> bool:
        return now_ms < self.info.pin_until_ms


@dataclass
class Pending:
    """A multipart upload under way."""

    bucket: str
    key: str
    upload_id: str
    parts: dict[int, tuple[bytes, str]] = field(default_factory=dict)


@dataclass
class Held:
    """A body that was opened and not read yet."""

    at: tuple[str, str]
    reading: Reading
    data: bytes
    troubled: bool
    """Whether its backing store was down or about to fail when it was opened: a stream under way keeps its fault."""


class _Cut(Exception):
    """A body that ended before its time."""

    def __init__(self, reading: Reading) -> None:
        super().__init__(f"generation {reading.info.generation} from the {reading.tier} tier")
        self.reading = reading


class World:
    """`kind`: a row of KINDS. `configs`: other pools than that kind's two, for regressions."""

    def __init__(self, kind: str = "standard", **fields: Any) -> None:
        self.kind = kind
        self.path = Path(tempfile.mkdtemp(prefix="recall-model-", dir=_scratch()))
        self.clock = ManualClock()
        self.stored = MemoryBacking()
        self.backing = Faulty(Paced(self.stored))
        self.runner = asyncio.Runner()
        self._run = self.runner.get_loop().run_until_complete
        self.things: dict[tuple[str, str], Thing] = {}
        self.uploads: list[Pending] = []
        self.held: list[Held] = []
        self.calls = 0
        """How many calls of the engine have been made."""
        self._keeper = asyncio.Lock()
        self._fields = {**KINDS[kind], **fields}
        self.engine = self._opened()
        for bucket in (SMALL, BIG):
            self.do(self.engine.store.create_bucket(BucketInfo(name=bucket, created_ms=self.now, pool="")))

    def _configs(self) -> list[PoolConfig]:
        big = {"capacity_bytes": 64 * 4 * REGION, "region_bytes": 4 * REGION, **self._fields}
        return [
            pool_config(self.path, "small", **self._fields),
            pool_config(self.path, "large", bucket_patterns=(BIG,), **big),
        ]

    def _opened(self) -> Engine:
        return self._run(Engine.open(self.path, self.clock, self.backing, self._configs()))

    def close(self) -> None:
        """The last look at everything: with the backing store up again, all of it must be there."""
        try:
            self.backing.down = False
            self.backing.script.clear()
            self.finish_held()
            self.settle()
            for bucket, key in list(self.things):
                self.read(bucket, key)
            self.settle()
        finally:
            self.discard()

    def discard(self) -> None:
        """Ends it without a last look: for worlds that are broken already."""
        try:
            self._let_go()
            self._run(self.engine.close())
        finally:
            self.runner.close()
            shutil.rmtree(self.path, ignore_errors=True)

    # -- running -------------------------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        return self.clock.now_ms()

    def do(self, call: Coroutine[Any, Any, T]) -> T:
        """Runs a call to its end; the keeper's duties take a turn whenever it waits."""
        self.calls += 1
        return self._run(self._pumped(call))

    async def _pumped(self, call: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(call)
        turns = 0
        while not task.done():
            await asyncio.wait((task,), timeout=_PUMP_S)
            # With the backing store down a further turn only fails again, which makes a history slow.
            if not task.done() and not (self.backing.down and turns):
                await self._turn()
                turns += 1
        return await task

    async def _turn(self) -> None:
        async with self._keeper:  # there is one keeper: no duty is stepped twice at once
            try:
                await self.engine.settle(rounds=1)
            except Busy:  # no room for survivors just now: the real keeper backs off
                pass

    def settle(self) -> None:
        """Everything the keeper has to do, then the audit; with the backing store up, nothing is left there by mistake."""
        try:
            self._run(self.engine.settle())
            self._run(self.engine.settle())  # a scripted fault ends a duty's turn: what it left over comes now
        except Busy:
            assert self.held or self.uploads, "the keeper has no room although nobody holds any"
        self.audit()
        if not self.backing.down and not self.backing.script:
            self._run(compare_backing(self.engine))

    def audit(self) -> None:
        self._run(self.engine.audit())

    def crash(self) -> None:
        """kill -9 and a new start."""
        self._let_go()
        self._run(self.engine.crash())
        self.engine = self._opened()
        self.audit()

    def rot(self, bucket: str, key: str) -> None:
        """A byte of a hot copy decays and the scrub comes by; then the device is whole again."""
        pool, found = self.pool(bucket), self.engine.buckets.find(bucket)
        assert found is not None
        okey = layout.object_key(found[1].number, key)
        record = pool.index.get_object(okey)
        if record is None or not record.extents or self.thing(bucket, key) is None:
            return
        extent = record.extents[-1]
        with pool.index.view() as view:
            place = layout.place_key(extent.region, extent.offset)
            if len(list(view.rows("extents", prefix=place))) > 1:
                return  # others share it
        told: list[str] = []
        troubled = self._troubled()
        self._flip(pool, extent)
        try:
            scrub = ScrubDuty(
                pool, self.engine.buckets, self.engine.cold, ScrubRates(), tell=lambda *a: told.append(a[3])
            )
            self._run(scrub.whole_pass())
        except BackingUnavailable:
            assert troubled and record.residency == Residency.BOTH
        self._flip(pool, extent)  # nothing has written there since: a region is not used again that soon
        now = pool.index.get_object(okey)
        if record.residency == Residency.HOT_ONLY and self.kind != "standard":
            assert told == ["dropped"] and now is None
            del self.things[bucket, key]
        else:
            assert now is not None and now.generation == record.generation
            assert now.extents != record.extents or told != ["repaired"]
            assert told == ["repaired"] or record.residency == Residency.HOT_ONLY or troubled

    def _flip(self, pool: Pool, extent: layout.Extent) -> None:
        at = extent.region * pool.flash.region_bytes + extent.offset + extent.length // 2
        byte = os.pread(pool.flash.fd, 1, at)
        os.pwrite(pool.flash.fd, bytes((byte[0] ^ 0x10,)), at)

    def lose_copy(self, bucket: str, key: str) -> None:
        """What the backing store has of a hot object goes, and the scrub comes by."""
        pool, found = self.pool(bucket), self.engine.buckets.find(bucket)
        assert found is not None
        okey = layout.object_key(found[1].number, key)
        record = pool.index.get_object(okey)
        if record is None or record.residency != Residency.BOTH or self.backing.down:
            return
        self.backing.script.clear()
        e = self.engine
        scrub = ColdScrubDuty(pool, e.buckets, e.cold, e.demoter, ScrubRates(cold_bytes_per_s=1))
        for name in pool.index.cold_names(okey, record):
            self._run(self.stored.delete(name))
        self._run(scrub.whole_pass())
        now = pool.index.get_object(okey)
        assert now is not None and (now.generation, now.residency) == (record.generation, Residency.BOTH)

    def _let_go(self) -> None:
        for held in self.held:
            self._run(_closed(held.reading))
        self.held.clear()

    # -- what is expected ----------------------------------------------------------------------------------------

    def thing(self, bucket: str, key: str) -> Thing | None:
        """The object as a reader may see it now."""
        found = self.things.get((bucket, key))
        return found if found is not None and found.seen(self.now) else None

    def pool(self, bucket: str) -> Pool:
        return self.engine.pools["large" if bucket == BIG else "small"]

    def _gone(self, bucket: str, key: str) -> None:
        """A visible object was not found: only a cache may do that, and only to what is not pinned."""
        thing = self.things.pop((bucket, key))
        assert self.kind == "cache", f"{bucket}/{key} is gone"
        assert not thing.pinned(self.now), f"pinned {bucket}/{key} was dropped"

    def same(self, thing: Thing, info: ObjectInfo) -> None:
        for name in _SAME:
            assert getattr(info, name) == getattr(thing.info, name), (name, info, thing.info)
        pins = (thing.info.pin_until_ms,) if thing.pinned(self.now) else (thing.info.pin_until_ms, 0)
        assert info.pin_until_ms in pins, (info, thing.info)

    def _note(self, bucket: str, key: str, data: bytes, info: ObjectInfo) -> Thing:
        assert info.size == len(data)
        assert info.modified_ms == self.now
        if not self.engine.store.bucket(bucket).opaque_etag and not info.parts:
            assert info.etag == steps.md5(data)
        thing = self.things[bucket, key] = Thing(data, info, info.expires_ms)
        return thing

    # -- writing -------------------------------------------------------------------------------------------------

    def put(self, bucket: str, key: str, data: bytes, options: PutOptions | None = None) -> bool:
        """Returns whether it was stored."""
        options = options or PutOptions()
        # When nobody holds room and the backing store is up, there must be some once the keeper has had its turn. A writer's wait
        # for it is real time, which passes without a turn for anybody when the machine is busy: hence more than one try.
        deadline_s = time.monotonic() + _ROOM_S
        while True:
            refused = self._put_once(bucket, key, data, options)
            if refused is None:
                return True
            if isinstance(refused, (PreconditionFailed, NoSuchKey)):
                if self._meets(bucket, key, options.conditions):
                    self.head(bucket, key)  # a cache may have dropped it to make room for this very write
                assert not self._meets(bucket, key, options.conditions), refused
                return False
            if isinstance(refused, PinLimit):
                assert self._pin_too_much(bucket, key, len(data)), refused
                return False
            if not self._has_room(bucket, len(data)):
                return False
            assert time.monotonic() < deadline_s, (
                f"there is no room after {_ROOM_S:g} s of the keeper's turns: {refused}"
            )
            self.settle()

    def _put_once(self, bucket: str, key: str, data: bytes, options: PutOptions) -> StoreError | None:
        met = self._meets(bucket, key, options.conditions)
        try:
            info = self.do(steps.put(self.engine.store, key, data, options, bucket=bucket, piece=100_000))
        except (Busy, TierFull, PreconditionFailed, NoSuchKey, PinLimit) as refused:
            return refused
        assert met or (self.kind == "cache" and options.conditions and options.conditions.if_none_match), options
        self._note(bucket, key, data, info)
        return None

    def _meets(self, bucket: str, key: str, conditions: Conditions | None) -> bool:
        thing = self.thing(bucket, key)
        if conditions is None:
            return True
        if conditions.if_none_match is not None:
            return thing is None
        assert conditions.if_match is not None
        return thing is not None and (conditions.if_match == ("*",) or thing.info.etag in conditions.if_match)

    def _pin_too_much(self, bucket: str, key: str, size: int) -> bool:
        """Whether holding `size` more bytes passes the limit; a lapsed pin counts until the keeper has seen it."""
        pool = self.pool(bucket)
        pinned = sum(
            thing.info.size
            for (owner, name), thing in self.things.items()
            if owner == bucket and thing.info.pin_until_ms and name != key
        )
        old = self.things.get((bucket, key))
        # The old object's own pin counts while it is lapsed and the new one is another object's: allow either.
        slack = old.info.size if old is not None and old.info.pin_until_ms else 0
        return pinned + slack + size > pool.pinned_bytes_max

    def _has_room(self, bucket: str, size: int) -> bool:
        """Whether a write must find room after the keeper's turn."""
        if self.backing.down or self.backing.script:
            return False
        if self.held:
            self.finish_held()
        busy = any(upload.bucket == bucket for upload in self.uploads)
        return not busy and size <= self.pool(bucket).stream_bytes

    def put_cancelled(self, bucket: str, key: str, data: bytes, turns: int) -> None:
        """A put whose client goes away after some turns of the loop: it happened or it did not."""
        result = self.do(self._cancelled(bucket, key, data, turns))
        if result is not None:
            self._note(bucket, key, data, result)
            return
        self._either(bucket, key, data)

    async def _cancelled(self, bucket: str, key: str, data: bytes, turns: int) -> ObjectInfo | None:
        task = asyncio.ensure_future(steps.put(self.engine.store, key, data, bucket=bucket, piece=50_000))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            return await task
        except (asyncio.CancelledError, Busy, TierFull):
            return None

    def _either(self, bucket: str, key: str, data: bytes) -> None:
        """Takes over what an operation without an answer has done: nothing, or all of it."""

        async def committed() -> None:  # what was queued before is done after this
            pool = self.pool(bucket)
            await pool.committer.submit(lambda batch: None)

        self.do(committed())
        old = self.thing(bucket, key)
        try:
            info = self.do(steps.head(self.engine.store, key, bucket=bucket))
        except NoSuchKey:
            if old is not None:
                self._gone(bucket, key)
            return
        if old is None or info.generation != old.info.generation:
            self._note(bucket, key, data, info)

    def put_torn_by_crash(self, bucket: str, key: str, data: bytes) -> None:
        """A crash in the middle of a body: the object is what it was before."""

        async def begin() -> None:
            writer = await steps.settled(self.engine.store.put(bucket, key, len(data), PutOptions()))
            await steps.settled(writer.write(data[: len(data) // 2]))

        try:
            self.do(begin())
        except (Busy, TierFull):
            pass
        self.crash()

    def copy(self, source: tuple[str, str], target: tuple[str, str]) -> None:
        thing = self.thing(*source)
        cold = thing is not None and self._is_cold(*source)
        troubled = self._troubled()
        try:
            info = self.do(self.engine.store.copy(source, target, CopyOptions()))
        except NoSuchKey:
            if thing is not None and self.thing(*source) is not None:
                self._gone(*source)
            return
        except (ColdUnavailable, Corrupt):
            assert self._got_cold(cold, *source) and troubled and thing is not None
            self._touched(thing)  # it was opened
            return
        except (Busy, TierFull):
            if thing is not None and (cold or source[0] != target[0]):
                self._touched(thing)
            return
        assert thing is not None
        assert info.etag == thing.info.etag and info.checksum == thing.info.checksum
        assert info.metadata == thing.info.metadata and info.tags == thing.info.tags
        self.things[target] = Thing(thing.data, info, info.expires_ms)
        if cold or source[0] != target[0]:  # its bytes were read
            self._touched(thing)

    def append(self, bucket: str, key: str, data: bytes) -> None:
        thing = self.thing(bucket, key)
        cold = thing is not None and self._is_cold(bucket, key)
        troubled = self._troubled()
        before = thing.data if thing is not None else b""
        options = PutOptions(append_at=len(before))
        try:
            info = self.do(steps.put(self.engine.store, key, data, options, bucket=bucket))
        except WrongOffset:
            assert thing is not None
            self._gone(bucket, key)
            return
        except PinLimit:
            assert thing is not None and thing.info.pin_until_ms
            return
        except (ColdUnavailable, Corrupt):
            assert self._got_cold(cold, bucket, key) and troubled
            return
        except (Busy, TierFull):
            return
        if thing is not None and info.size != len(before) + len(data):
            self._gone(bucket, key)  # a cache dropped it on the way
            before = b""
        elif thing is not None:
            assert (info.tags, info.metadata) == (thing.info.tags, thing.info.metadata)
        assert info.size == len(before) + len(data)
        self.things[bucket, key] = Thing(before + data, info, info.expires_ms)

    def rename(self, bucket: str, source: str, target: str) -> None:
        thing = self.thing(bucket, source)
        cold = thing is not None and self._is_cold(bucket, source)
        troubled = self._troubled()
        try:
            info = self.do(self.engine.store.rename(bucket, source, target, RenameOptions()))
        except NoSuchKey:
            if thing is not None:
                self._gone(bucket, source)
            return
        except NotRenamable:
            assert (
                self._got_cold(cold, bucket, source)
                and thing is not None
                and len(thing.data) > self.pool(bucket).stream_bytes
            )
            return
        except (ColdUnavailable, Corrupt):
            assert self._got_cold(cold, bucket, source) and troubled
            return
        except (Busy, TierFull):
            assert self._got_cold(cold, bucket, source)
            return
        assert thing is not None
        assert (info.etag, info.modified_ms, info.crc64) == (thing.info.etag, thing.info.modified_ms, thing.info.crc64)
        thing.info = info
        del self.things[bucket, source]
        self.things[bucket, target] = thing

    def delete(self, bucket: str, key: str) -> None:
        thing = self.thing(bucket, key)
        there = self.do(self.engine.store.delete(bucket, key)).found
        assert there == (thing is not None) or (self.kind == "cache" and not there and not thing.pinned(self.now))
        self.things.pop((bucket, key), None)

    def change(self, bucket: str, key: str, change: ObjectChange) -> None:
        """Pins, TTLs and tags."""
        thing = self.thing(bucket, key)
        try:
            info = self.do(self.engine.store.change(bucket, key, change))
        except NoSuchKey:
            if thing is not None:
                self._gone(bucket, key)
            return
        except PinLimit:
            assert change.pin_ms and thing is not None
            assert self._pin_too_much(bucket, key, thing.info.size)
            return
        assert thing is not None
        assert (info.generation, info.etag, info.modified_ms) == (
            thing.info.generation,
            thing.info.etag,
            thing.info.modified_ms,
        )
        if change.pin_ms is not None:
            forever_or_none = change.pin_ms in (0, FOREVER_MS)
            assert info.pin_until_ms == (change.pin_ms if forever_or_none else self.now + change.pin_ms)
        if change.ttl is not None:
            assert (info.ttl_ms, info.sliding) == (change.ttl.ttl_ms, change.ttl.sliding and change.ttl.ttl_ms > 0)
            thing.expires_ms = self.now + info.ttl_ms if info.ttl_ms else 0
        if change.tags is not None:
            assert info.tags == change.tags
        thing.info = info

    def tier(self, bucket: str, key: str, tier: Any) -> None:
        thing = self.thing(bucket, key)
        was_cold = thing is not None and self._is_cold(bucket, key)
        troubled = self._troubled()
        try:
            info = self.do(self.engine.store.change(bucket, key, ObjectChange(tier=tier)))
        except NoSuchKey:
            if thing is not None:
                self._gone(bucket, key)
            return
        except (ColdUnavailable, Corrupt):
            # No backing store, none by design, or no room to land in.
            assert troubled or self.kind == "cache" or (tier == "hot" and self._got_cold(was_cold, bucket, key))
            return
        assert thing is not None
        self.same(thing, info)
        assert tier != "cold" or info.residency == Residency.COLD_ONLY
        assert tier != "both" or info.residency != Residency.HOT_ONLY
        assert tier != "hot" or info.residency != Residency.COLD_ONLY

    def _is_cold(self, bucket: str, key: str) -> bool:
        try:
            return self.do(steps.head(self.engine.store, key, bucket=bucket)).residency == Residency.COLD_ONLY
        except NoSuchKey:
            return False

    def _got_cold(self, before: bool, bucket: str, key: str) -> bool:
        """Whether it was cold before a call that failed, or has become so: on a busy machine the keeper gets a turn in each."""
        return before or self._is_cold(bucket, key)

    # -- reading -------------------------------------------------------------------------------------------------

    def head(self, bucket: str, key: str) -> None:
        thing = self.thing(bucket, key)
        try:
            info = self.do(steps.head(self.engine.store, key, bucket=bucket))
        except NoSuchKey:
            if thing is not None:
                self._gone(bucket, key)
            return
        assert thing is not None, f"{bucket}/{key} is back"
        self.same(thing, info)

    def read(self, bucket: str, key: str, wanted: ByteRange | None = None) -> None:
        """A GET, whole or of a range."""
        thing = self.thing(bucket, key)
        cold = thing is not None and self._is_cold(bucket, key)
        troubled = self._troubled()
        try:
            reading, data = self.do(self._get(bucket, key, ReadOptions(range=wanted)))
        except NoSuchKey:
            if thing is not None:
                self._gone(bucket, key)
            return
        except InvalidRange:
            assert thing is not None and wanted is not None
            size = len(thing.data)
            assert (wanted.suffix and (size == 0 or wanted.stop == 0)) or (not wanted.suffix and wanted.start >= size)
            return
        except (ColdUnavailable, Corrupt):
            assert self._got_cold(cold, bucket, key) and troubled
            assert thing is not None
            self._touched(thing)
            return
        assert thing is not None, f"{bucket}/{key} is back"
        self.same(thing, reading.info)
        assert data == thing.data[reading.start : reading.stop], f"{bucket}/{key}: wrong bytes"
        if wanted is None:
            assert (reading.start, reading.stop) == (0, len(thing.data))
        self._touched(thing)

    def _troubled(self) -> bool:
        """Whether a read of a cold object may fail now: a body that is still held may have brought its fault into a recall
        that others follow. Asked before a call, which uses a scripted fault up."""
        return self.backing.down or bool(self.backing.script) or any(held.troubled for held in self.held)

    def _touched(self, thing: Thing) -> None:
        if thing.info.sliding:
            thing.expires_ms = max(thing.expires_ms, self.now + thing.info.ttl_ms)

    async def _get(self, bucket: str, key: str, options: ReadOptions) -> tuple[Reading, bytes]:
        reading = await steps.settled(self.engine.store.open(bucket, key, options))
        return reading, await steps.content(reading)

    def revalidate(self, bucket: str, key: str) -> None:
        thing = self.thing(bucket, key)
        if thing is None:
            return
        options = ReadOptions(head=True, conditions=Conditions(if_none_match=(thing.info.etag,)))
        try:
            self.do(self._get(bucket, key, options))
        except NotModified as answer:
            self.same(thing, answer.facts["info"])
        except NoSuchKey:
            self._gone(bucket, key)
        else:
            raise AssertionError("not modified, yet sent")

    def hold(self, bucket: str, key: str) -> None:
        """Opens a body and leaves it unread."""
        thing = self.thing(bucket, key)
        cold = thing is not None and self._is_cold(bucket, key)
        troubled = self._troubled()  # asked first: the call uses a scripted fault up
        try:
            reading = self.do(self._open(bucket, key))
        except NoSuchKey:
            if thing is not None:
                self._gone(bucket, key)
            return
        except (ColdUnavailable, Corrupt):
            assert self._got_cold(cold, bucket, key) and troubled and thing is not None
            self._touched(thing)
            return
        assert thing is not None
        self.same(thing, reading.info)
        self._touched(thing)
        self.held.append(Held((bucket, key), reading, thing.data, troubled))

    async def _open(self, bucket: str, key: str) -> Reading:
        return await steps.settled(self.engine.store.open(bucket, key, ReadOptions()))

    def finish_held(self) -> None:
        """Reads what was opened before: however late, it is the bytes of then."""
        troubled = self._troubled()
        held, self.held = self.held, []
        for each in held:
            now = self.thing(*each.at)
            moved_on = now is None or now.info.generation != each.reading.info.generation
            tier = each.reading.tier
            try:
                data = self.do(steps.content(each.reading))
            except (ColdUnavailable, Corrupt):
                assert tier == "cold" and (moved_on or troubled), f"{each.at}, opened {tier}: a body ended early"
                continue
            assert data == each.data, f"{each.at}: wrong bytes in a body that was opened before"

    def list(self, bucket: str, prefix: str, delimiter: str, limit: int) -> None:
        """All pages of a listing."""
        after, got_keys, got_prefixes = "", [], []
        while True:
            page = self.engine.store.list(bucket, ListOptions(prefix, delimiter, after, limit))
            assert len(page.objects) + len(page.prefixes) <= limit
            for key, info in page.objects:
                thing = self.thing(bucket, key)
                assert thing is not None, f"{bucket}/{key} is back"
                self.same(thing, info)
            got_keys += [key for key, _ in page.objects]
            got_prefixes += page.prefixes
            if not page.truncated:
                break
            assert page.next_after > after
            after = page.next_after
        for key in self._listed(bucket, prefix, delimiter)[0]:
            if key not in got_keys:
                self._gone(bucket, key)
        wanted_keys, wanted_prefixes = self._listed(bucket, prefix, delimiter)
        assert got_keys == wanted_keys
        if self.kind == "cache":
            assert set(got_prefixes) <= set(wanted_prefixes)
        else:
            assert got_prefixes == wanted_prefixes

    def _listed(self, bucket: str, prefix: str, delimiter: str) -> tuple[list[str], list[str]]:
        found: list[str] = []
        prefixes: list[str] = []
        names = [key for (owner, key), thing in self.things.items() if owner == bucket and thing.seen(self.now)]
        for key in sorted(names, key=str.encode):
            if not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                common = prefix + rest.partition(delimiter)[0] + delimiter
                if common not in prefixes:
                    prefixes.append(common)
            else:
                found.append(key)
        return found, prefixes

    # -- racing --------------------------------------------------------------------------------------------------

    def race(self, bucket: str, key: str, writer: str, data: bytes, turns: list[int], delays: int) -> None:
        """Two readers, one writer and the keeper at once: each reader gets the old object or the new one, whole, unless it was
        reading the old one from the backing store when that was deleted or overwritten."""
        old = self.thing(bucket, key)
        self.backing.script.clear()  # faults have rules of their own; here every reader must succeed
        if not self.backing.down:
            self.backing.script.extend(Fault("delay", delay_s=0.002) for _ in range(delays))
        reads, written = self.do(self._race(bucket, key, writer, data, turns))
        self.backing.script.clear()
        if old is not None and old.info.sliding:
            self._touched(old)
        if isinstance(written, ObjectInfo) and writer == "put":
            self._note(bucket, key, data, written)
        elif isinstance(written, Deleted):
            self.things.pop((bucket, key), None)
        elif isinstance(written, Exception):
            allowed = (Busy, TierFull) if writer == "put" else (NoSuchKey, ColdUnavailable)
            assert isinstance(written, allowed), repr(written)
        new = self.thing(bucket, key)
        for outcome in reads:
            self._judge_race(outcome, old, new, bucket)

    async def _race(self, bucket: str, key: str, writer: str, data: bytes, turns: list[int]) -> tuple[list[Any], Any]:
        store = self.engine.store

        async def late(count: int, call: Coroutine[Any, Any, Any]) -> Any:
            for _ in range(count):
                await asyncio.sleep(0)
            return await call

        writes: dict[str, Any] = {
            "put": lambda: steps.put(store, key, data, bucket=bucket),
            "delete": lambda: store.delete(bucket, key),
            "cold": lambda: store.change(bucket, key, ObjectChange(tier="cold")),
            "hot": lambda: store.change(bucket, key, ObjectChange(tier="hot")),
        }

        async def read(options: ReadOptions) -> tuple[Reading, bytes]:
            reading = await steps.settled(store.open(bucket, key, options))
            try:
                return reading, await steps.content(reading)
            except Corrupt as error:
                raise _Cut(reading) from error

        outcomes = await asyncio.gather(
            late(turns[0], read(ReadOptions())),
            late(turns[1], read(ReadOptions(range=ByteRange(1, 70_000)))),
            late(turns[2], writes[writer]()),
            late(turns[3], self._turn()),
            return_exceptions=True,
        )
        if isinstance(outcomes[3], BaseException):
            raise outcomes[3]
        return outcomes[:2], outcomes[2]

    def _judge_race(self, outcome: Any, old: Thing | None, new: Thing | None, bucket: str) -> None:
        if isinstance(outcome, NoSuchKey):
            assert old is None or new is None or self.kind == "cache"
        elif isinstance(outcome, ColdUnavailable):
            assert self.backing.down
        elif isinstance(outcome, InvalidRange):
            assert any(each is not None and len(each.data) <= 1 for each in (old, new))
        elif isinstance(outcome, _Cut):
            there = new is not None and new.info.generation == outcome.reading.info.generation
            assert outcome.reading.tier == "cold" and not there, "cut short though it is still there"
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            reading, data = outcome
            thing = next(t for t in (old, new) if t is not None and t.info.generation == reading.info.generation)
            what = (
                f"generation {reading.info.generation} {reading.start}:{reading.stop} {reading.tier}, {len(data)} bytes"
            )
            assert data == thing.data[reading.start : reading.stop], f"wrong bytes in a race: {what}"

    # -- uploads -------------------------------------------------------------------------------------------------

    def begin_upload(self, bucket: str, key: str, options: PutOptions | None = None) -> Pending:
        info = self.do(self.engine.store.begin_upload(bucket, key, options or PutOptions()))
        pending = Pending(bucket, key, info.upload_id)
        self.uploads.append(pending)
        return pending

    def put_part(self, upload: Pending, number: int, data: bytes) -> bool:
        store = self.engine.store
        try:
            part = self.do(steps.put_part(store, upload.key, upload.upload_id, number, data, bucket=upload.bucket))
        except (Busy, TierFull):
            return False
        assert part.size == len(data)
        upload.parts[number] = (data, part.etag)
        return True

    def complete(self, upload: Pending) -> ObjectInfo | None:
        """Completes with every part that was acknowledged."""
        numbers = sorted(upload.parts)
        claims = [PartClaim(number, upload.parts[number][1]) for number in numbers]
        data = b"".join(upload.parts[number][0] for number in numbers)
        options = CompleteOptions(etag=f"{upload.upload_id[:30]}-{len(claims)}")
        stored = self.engine.store.parts(upload.bucket, upload.key, upload.upload_id)
        assert [(part.number, part.etag) for part in stored] == [(n, upload.parts[n][1]) for n in numbers]
        call = self.engine.store.complete_upload(upload.bucket, upload.key, upload.upload_id, claims, options)
        troubled = self._troubled()
        try:
            info = self.do(call)
        except PartTooSmall:
            assert any(len(upload.parts[number][0]) < 5 << 20 for number in numbers[:-1])
            return None
        except ColdUnavailable:
            assert troubled
            return None
        self.uploads.remove(upload)
        assert [part.size for part in info.parts] == [len(upload.parts[number][0]) for number in numbers]
        self._note(upload.bucket, upload.key, data, info)
        return info

    def abort_upload(self, upload: Pending) -> None:
        self.do(self.engine.store.abort_upload(upload.bucket, upload.key, upload.upload_id))
        self.uploads.remove(upload)


async def compare_backing(engine: Engine) -> None:
    """After `settle`: the backing store holds exactly the copies that the index knows, so a rebuild brings nothing back."""
    wanted: set[str] = set()
    former: set[str] = set()
    for name, pool in engine.pools.items():
        wanted |= set(check_pool(name, pool.index, None)[1])
        with pool.index.view() as view:
            former |= {layout.OBJECT.decode(value).former for _, value in view.rows("objects")}
    besides = (keys.BUCKET_RECORDS, keys.OWNER)
    found = {stat.key async for stat in engine.backing.list("") if not stat.key.startswith(besides)}
    found -= former - wanted  # renamed, and not copied again yet
    assert found == wanted, f"in the backing store and of no object: {found - wanted}; missing: {wanted - found}"


async def _closed(reading: Reading) -> None:
    body = reading.body
    if isinstance(body, AsyncIterator):
        async with aclosing(body):  # type: ignore[type-var]
            pass
        reading.body = None
    else:
        reading.close()


@contextmanager
def world(kind: str = "standard", **fields: Any) -> Iterator[World]:
    """A world for one test, with its last look at the end if nothing failed before."""
    each = World(kind, **fields)
    try:
        yield each
    except BaseException:
        each.discard()
        raise
    each.close()


def _scratch() -> str | None:
    """Memory, where there is some: what is tested is the order of writes, not the device."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


__all__ = ["BIG", "KINDS", "SMALL", "BackingUnavailable", "Thing", "Ttl", "World", "pattern", "world"]
