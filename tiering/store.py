"""The tiered store: every call of the contract, routed to the bucket's pool.

Promise: docs/SEMANTICS.md. A look-up and the start of its read happen in one loop step, under one epoch.
Owns the pools of this process, its recalls and the threads that wait for the device. Does not know HTTP or S3.
Kind: owner; one thread (the loop's). Invariants: after each wait the record is looked up again, never remembered.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final, Literal

from tiering import conditions, events, layout, listing, mutations, uploads, versions
from tiering.buckets import Buckets
from tiering.checksum import Summer
from tiering.chunks import body_chunks
from tiering.cold import ColdSide
from tiering.contract import (
    DELETE,
    PARTS_MAX,
    BucketChange,
    BucketInfo,
    Busy,
    Checksum,
    Clock,
    ColdUnavailable,
    CompleteOptions,
    CopyOptions,
    Corrupt,
    Deleted,
    DeleteOptions,
    FileSpans,
    Listing,
    ListOptions,
    ListVersionsOptions,
    NoSuchKey,
    NoSuchUpload,
    NotRenamable,
    ObjectChange,
    ObjectInfo,
    Opening,
    PartClaim,
    PartInfo,
    PartWriter,
    PendingListing,
    PendingOptions,
    PutOptions,
    PutResult,
    Reading,
    ReadOptions,
    RenameOptions,
    Residency,
    StoreError,
    TierFull,
    UploadInfo,
    VersionListing,
    Writer,
    copied_options,
)
from tiering.epochs import Epoch
from tiering.layout import BucketRecord, ObjectRecord, UploadRecord
from tiering.orders import Orders
from tiering.pool import Pool
from tiering.ports import Meter
from tiering.recall import Recalls
from tiering.writer import BodyWriter, FlashBody

READ_THREADS: Final = 8
"""Reads that wait for the device at once: enough to keep a flash drive's queue busy, few enough to bound memory."""

SHORT_BYTES: Final = 32 << 10
"""Objects up to this are read and checked on every GET: as cheap as handing out their place, and no epoch is needed."""

_COLD_ONLY: Final = Residency.COLD_ONLY
"""By this name in `open`: a look-up of a member in its class costs five times one of a module's name."""

_log = logging.getLogger("recall.store")


class TieredStore:
    """The store over `pools`. `cold` None: no backing store, nothing is ever demoted. `slot`: this process's."""

    def __init__(
        self,
        pools: Mapping[str, Pool],
        directory: Path,
        cold: ColdSide | None,
        orders: Orders,
        clock: Clock,
        slot: int,
        meter: Meter = events.uncounted,
    ) -> None:
        self.pools = pools
        self._count = meter
        self.cold = cold
        self._orders = orders
        self._clock = clock
        self._buckets = Buckets(pools, directory)
        self.recalls = (
            {name: Recalls(pool, cold, slot, meter) for name, pool in pools.items()} if cold is not None else {}
        )
        self._threads = ThreadPoolExecutor(READ_THREADS, "flash-read")
        self._loading: dict[tuple[str, tuple[layout.Extent, ...]], asyncio.Future[bool]] = {}

    async def close(self) -> None:
        """Ends recalls and threads. The pools are the opener's to close."""
        for recalls in self.recalls.values():
            await recalls.close()
        self._threads.shutdown(wait=True)
        self._buckets.close()

    # -- objects: reading ----------------------------------------------------------------------------------------

    def open(self, bucket: str, key: str, options: ReadOptions) -> Reading | Awaitable[Reading]:
        pool, owner = self._buckets.route(bucket)
        okey = layout.object_key(owner.number, key)
        now_ms = self._clock.now_ms()
        record = pool.index.get_object(okey) if options.version is None else self._version(pool, okey, options.version)
        if record is None or record.marker or (record.expires_ms and pool.expired(record, now_ms)):
            self._count(events.MISS, pool.config.name, 1)
            if options.version is None and (record is None or not record.marker):
                raise NoSuchKey(key=key)
            raise versions.refusal(key, record if record is not None and record.marker else None, options.version)
        if options.conditions is not None:
            conditions.judge_read(options.conditions, record)
        if options.range is None and options.part_number is None:
            start, stop = 0, record.size
        else:
            start, stop = conditions.resolve(record, options.range, options.part_number)
        cold = record.residency is _COLD_ONLY
        if options.head:
            return Reading(record, start, stop, None, "cold" if cold else "hot")
        if record.sliding:
            pool.touch(okey, record, now_ms)
        checked = pool.heat.bump(record.generation)
        self._count(events.HIT_COLD if cold else events.HIT_HOT, pool.config.name, 1)
        if cold and options.version is None:
            return Opening(record, self._open_waiting(pool, okey, options, record))
        if cold or not checked:
            return self._open_waiting(pool, okey, options)
        flash = pool.flash
        extents = record.extents
        if len(extents) == 1 and record.size <= SHORT_BYTES:
            data = flash.read_now(extents[0])
            if data is None:
                return self._open_waiting(pool, okey, options)
            return Reading(record, start, stop, data if stop - start == record.size else data[start:stop], "hot")
        parts = [(extents[0], start, stop)] if len(extents) == 1 else layout.slices(extents, start, stop)
        for extent, first, last in parts:
            if first < last and not flash.resident(extent, first, last):
                return self._open_waiting(pool, okey, options)
        return self._hot(pool, pool.epochs.current, record, start, stop, parts)

    def _version(self, pool: Pool, okey: bytes, version: str) -> ObjectRecord | None:
        with pool.index.view() as view:
            found = versions.find(view, okey, version)
        return None if found is None else found[1]

    def _hot(
        self,
        pool: Pool,
        epoch: Epoch,
        record: ObjectRecord,
        start: int,
        stop: int,
        parts: Sequence[tuple[layout.Extent, int, int]],
    ) -> Reading:
        """A reading of `parts`, which were just seen in memory. `epoch`: the one the record was looked up in; a younger one would not
        hold its regions."""
        epoch.acquire()
        span = pool.flash.span
        spans = tuple([span(extent, first, last) for extent, first, last in parts])
        return Reading(record, start, stop, FileSpans(spans, stop - start, epoch.release, seen=True), "hot")

    async def _open_waiting(
        self, pool: Pool, okey: bytes, options: ReadOptions, found: ObjectRecord | None = None
    ) -> Reading:
        """The read of bytes that are cold, not in memory, or not checked since the operating system started.

        `found`: the current version as it was looked up, if it was cold. It may be another's by now, but cold copies say whose
        they are; extents do not, so a hot one is looked up in the step that reads it.
        """
        row, record = okey, found
        while True:
            if record is None:
                with pool.index.view() as view:
                    row, record = versions.named(pool, view, okey, options.version, self._clock.now_ms())
            conditions.judge_read(options.conditions, record)
            start, stop = conditions.resolve(record, options.range, options.part_number)
            if record.residency == Residency.COLD_ONLY:
                try:
                    return await self._open_cold(pool, row, record, start, stop)
                except Corrupt:
                    # Overwritten or deleted meanwhile, its copy goes or is another generation's: look again.
                    now = pool.index.standing(row, record.generation)
                    if now is not None and now[1].residency == record.residency:
                        raise
                    record = None
                    continue
            epoch = pool.epochs.current
            epoch.acquire()
            try:
                parts = layout.slices(record.extents, start, stop)
                if await self._load(pool, [extent for extent, _, _ in parts]):
                    if len(parts) == len(record.extents):
                        pool.heat.checked(record.generation)
                    return self._hot(pool, epoch, record, start, stop, parts)
            finally:
                epoch.release()
            await self._lose_hot_copy(pool, row, record)
            record = None

    async def _load(self, pool: Pool, extents: Sequence[layout.Extent]) -> bool:
        """Reads extents into memory and checks them, in a thread: once for all who ask for the same at the same time."""
        what = (pool.config.name, tuple(extents))
        loading = self._loading.get(what)
        if loading is None:

            def check() -> bool:
                return all(pool.flash.passes(extent) for extent in extents)

            loading = self._loading[what] = asyncio.get_running_loop().run_in_executor(self._threads, check)
            loading.add_done_callback(lambda _: self._loading.pop(what))
        return await asyncio.shield(loading)  # who began it may leave before the others

    async def _lose_hot_copy(self, pool: Pool, okey: bytes, record: ObjectRecord) -> None:
        """After a failed checksum: the cold copy takes over; without one the object is gone or unreadable."""
        name, generation = pool.config.name, record.generation
        pool.heat.doubt(generation)  # they are in memory now, where the next reader would take them as they are
        said = {"once": f"damaged {name} {generation}"}
        _log.error("pool %s: bytes of generation %d fail their checksum", name, generation, extra=said)
        both, relaxed = record.residency == Residency.BOTH, pool.config.durability == "relaxed"
        for fate in ("found", "repaired" if both else "dropped" if relaxed else "unrepairable"):
            self._count(events.damage("flash", fate), name, 1)
        if not both and not relaxed:
            raise Corrupt("the bytes on flash fail their checksum and there is no other copy")
        await pool.committer.submit(lambda batch: mutations.lost(batch, okey, record))

    async def _open_cold(self, pool: Pool, okey: bytes, record: ObjectRecord, start: int, stop: int) -> Reading:
        recalls = self.recalls.get(pool.config.name)
        if recalls is None:
            raise ColdUnavailable("no backing store is configured", retry_s=60)
        return await recalls.read(okey, record, start, stop)

    def look(self, bucket: str, keys: Sequence[str]) -> Sequence[ObjectInfo | None]:
        pool, owner = self._buckets.route(bucket)
        now_ms = self._clock.now_ms()
        begun = layout.bucket_prefix(owner.number)  # as `layout.object_key`, the half that is the same for all
        records = pool.index.get_objects([begun + key.encode() for key in keys])
        return [
            None if record is None or record.marker or (record.expires_ms and pool.expired(record, now_ms)) else record
            for record in records
        ]

    # -- objects: writing ----------------------------------------------------------------------------------------

    def put(self, bucket: str, key: str, size: int, options: PutOptions) -> Writer | Awaitable[Writer]:
        pool, owner = self._buckets.route(bucket)
        okey = layout.object_key(owner.number, key)
        try:
            self._judge_put(pool, owner, okey, size, options)
        except Busy:
            return self._put_when_room(bucket, key, size, options)
        if size > pool.stream_bytes:
            if options.append_at is not None:
                raise TierFull(f"at most {pool.stream_bytes} bytes are appended at once")
            return uploads.streamed(pool, self._orders, owner, key, size, options)
        body = FlashBody(pool, size)
        writer = BodyWriter(body, functools.partial(self._commit_put, pool, owner, okey, options))
        waiting = body.begin()
        return writer if waiting is None else self._put_waiting(waiting, writer)

    async def _put_when_room(self, bucket: str, key: str, size: int, options: PutOptions) -> Writer:
        pool, owner = self._buckets.route(bucket)
        okey = layout.object_key(owner.number, key)
        await pool.wait_for_room(lambda: self._judge_put(pool, owner, okey, size, options))
        opened = self.put(bucket, key, size, options)
        return await opened if isinstance(opened, Awaitable) else opened

    def _judge_put(self, pool: Pool, owner: BucketRecord, okey: bytes, size: int, options: PutOptions) -> None:
        """Refuses before any byte is read. Conditions that hold are judged again, in the write's transaction."""
        wanted = options.conditions
        if wanted is None and options.append_at is None:
            try:
                pool.judge_room(pool.index.recent_counters(), size)
                return
            except (Busy, TierFull):
                pass  # unless the sums have changed, or the object it replaces makes the room
        with pool.index.view() as view:
            old = view.object(okey)
            shown = mutations.seen(pool, old, self._clock.now_ms())
            conditions.judge_write(wanted, shown)
            if options.append_at is not None:
                conditions.judge_append(owner, shown, options.append_at)
            pool.judge_room(view.counters(), size, None if owner.versioning else old)

    async def _put_waiting(self, waiting: Awaitable[None], writer: BodyWriter[ObjectInfo]) -> Writer:
        try:
            await waiting
        except BaseException:
            writer.abort()
            raise
        return writer

    def _commit_put(
        self, pool: Pool, owner: BucketRecord, okey: bytes, options: PutOptions, body: FlashBody, result: PutResult
    ) -> Awaitable[ObjectInfo]:
        now_ms = self._clock.now_ms()
        record = mutations.new_record(
            options,
            size=body.size,
            etag=result.etag if result.etag is not None else mutations.opaque_etag(body.crc64),
            crc64=body.crc64,
            extents=body.extents,
            now_ms=now_ms,
        )
        record.checksum = result.checksum
        if result.encryption is not None:
            record.encryption = result.encryption
        record.parts = result.parts
        if options.append_at is not None:
            return self._append(pool, owner, okey, options, record)
        wanted, origin = options.conditions, options.origin
        storing = pool.committer.submit_short(
            lambda batch: mutations.put_object(batch, pool, owner, okey, record, wanted, now_ms, origin)
        )
        return self._backed(pool, okey, storing) if pool.config.durability == "backing" else storing

    async def _backed(self, pool: Pool, okey: bytes, storing: Awaitable[ObjectRecord]) -> ObjectInfo:
        stored = await storing
        await self._orders.backed(pool, okey, stored)
        return stored

    async def _append(
        self, pool: Pool, owner: BucketRecord, okey: bytes, options: PutOptions, record: ObjectRecord
    ) -> ObjectInfo:
        while True:
            stored = await pool.committer.submit(
                lambda batch: mutations.append_object(batch, pool, owner, okey, record, options, self._clock.now_ms())
            )
            if stored is not None:
                await self._orders.backed(pool, okey, stored)
                return stored
            await self._bring_back(pool, okey, TierFull("the object is cold, and too long to come back"))

    async def _bring_back(self, pool: Pool, okey: bytes, too_long: StoreError) -> None:
        """Recalls the current version, if it is cold. Raises ColdUnavailable, Busy, and `too_long` if it never can."""
        record = pool.index.get_object(okey)
        if record is None or record.residency != Residency.COLD_ONLY:
            return  # it has moved on
        recalls = self.recalls.get(pool.config.name)
        if recalls is None:
            raise ColdUnavailable("no backing store is configured", retry_s=60)
        if record.size > pool.stream_bytes:
            raise too_long
        if not await recalls.bring(okey, record):
            raise Busy("no room to recall the object", retry_s=1)

    async def delete(self, bucket: str, key: str, options: DeleteOptions = DELETE) -> Deleted:
        pool, owner = self._buckets.route(bucket)
        okey = layout.object_key(owner.number, key)
        now_ms = self._clock.now_ms()
        deleted, marker = await pool.committer.submit_short(
            lambda batch: mutations.delete_object(batch, pool, owner, okey, options, now_ms)
        )
        if marker is not None:
            await self._orders.backed(pool, okey, marker)
        return deleted

    async def rename(self, bucket: str, source: str, target: str, options: RenameOptions) -> ObjectInfo:
        pool, owner = self._buckets.route(bucket)
        okeys = layout.object_key(owner.number, source), layout.object_key(owner.number, target)
        while True:
            moved = await pool.committer.submit(
                lambda batch: mutations.rename_object(batch, pool, owner, okeys, options, self._clock.now_ms())
            )
            if moved is not None:
                await self._orders.backed(pool, okeys[1], moved)
                return moved
            await self._bring_back(pool, okeys[0], NotRenamable("the object is cold, and too long to come back"))

    def list(self, bucket: str, options: ListOptions) -> Listing:
        pool, owner = self._buckets.route(bucket)
        now_ms = self._clock.now_ms()
        with pool.index.view() as view:
            return listing.list_objects(
                view, owner.number, options, lambda record: mutations.seen(pool, record, now_ms) is not None
            )

    def list_versions(self, bucket: str, options: ListVersionsOptions) -> VersionListing:
        pool, owner = self._buckets.route(bucket)
        now_ms = self._clock.now_ms()
        with pool.index.view() as view:
            return listing.list_versions(view, owner.number, options, lambda record: not pool.expired(record, now_ms))

    # -- objects: copy and change --------------------------------------------------------------------------------

    async def copy(self, source: tuple[str, str], target: tuple[str, str], options: CopyOptions) -> ObjectInfo:
        while True:
            pool, bucket = self._buckets.route(source[0])
            target_pool, _ = self._buckets.route(target[0])
            with pool.index.view() as view:
                okey = layout.object_key(bucket.number, source[1])
                okey, record = versions.named(pool, view, okey, options.source_version, self._clock.now_ms())
            conditions.judge_source(options.source_conditions, record)
            if pool is not target_pool or record.residency == Residency.COLD_ONLY:
                try:
                    return await self._copy_bytes(source, target, options)
                except Corrupt:
                    # Its copy goes once it is overwritten or deleted, as in `_open_waiting`: look again.
                    now = pool.index.standing(okey, record.generation)
                    if now is not None and now[1].residency == record.residency:
                        raise
                    continue
            copied = await self._copy_shared(okey, record, source, target, options)
            if copied is not None:
                return copied

    async def _copy_shared(
        self,
        okey: bytes,
        record: ObjectRecord,
        source: tuple[str, str],
        target: tuple[str, str],
        options: CopyOptions,
    ) -> ObjectInfo | None:
        """The copy that moves no bytes; None when the source changed on the way. `okey`: what `record` stands under."""
        pool, from_bucket = self._buckets.route(source[0])
        _, bucket = self._buckets.route(target[0])
        okeys = okey, layout.object_key(bucket.number, target[1])
        checksum = record.checksum
        if _needs_checksum(record, options):
            reading = await self._opened(source, options)
            if reading.info.generation != record.generation:
                reading.close()
                return None
            checksum = await self._pump(reading, options.checksum_algorithm, None)
        now_ms = self._clock.now_ms()
        new = mutations.new_record(
            copied_options(record, options, record.encryption),
            size=record.size,
            etag=record.etag,
            crc64=record.crc64,
            extents=record.extents,
            now_ms=now_ms,
        )
        new.checksum = checksum
        new.parts = record.parts
        await pool.wait_for_room(lambda: pool.judge_room(pool.index.recent_counters(), record.size))
        copied = await pool.committer.submit(
            lambda batch: mutations.share_object(
                batch,
                pool,
                (from_bucket, bucket),
                okeys,
                record.generation,
                new,
                options.conditions,
                now_ms,
                options.origin,
            )
        )
        if copied is not None:
            await self._orders.backed(pool, okeys[1], copied)
        return copied

    async def _copy_bytes(self, source: tuple[str, str], target: tuple[str, str], options: CopyOptions) -> ObjectInfo:
        reading = await self._opened(source, options)
        info = reading.info
        try:
            conditions.judge_source(options.source_conditions, info)
            opened = self.put(*target, info.size, copied_options(info, options, info.encryption))
            writer: Any = await opened if isinstance(opened, Awaitable) else opened
        except BaseException:
            reading.close()
            raise
        try:
            checksum = await self._pump(reading, options.checksum_algorithm, writer)
            if writer.crc64 != info.crc64:
                raise Corrupt("the source's bytes fail their checksum")
            if not _needs_checksum(info, options):
                checksum = info.checksum
            stored: ObjectInfo = await writer.commit(PutResult(info.etag, checksum, parts=info.parts))
            return stored
        except BaseException:
            writer.abort()
            raise

    async def _opened(self, source: tuple[str, str], options: CopyOptions) -> Reading:
        opened = self.open(*source, ReadOptions(version=options.source_version))
        return opened if isinstance(opened, Reading) else await opened

    async def _pump(self, reading: Reading, algorithm: str | None, writer: Any | None) -> Checksum | None:
        """Reads a body to its end, into a writer if there is one; answers its checksum if one is asked for."""
        summer = Summer(algorithm) if algorithm is not None else None
        try:
            async with aclosing(body_chunks(reading, self._threads)) as chunks:
                async for chunk in chunks:
                    if summer is not None:
                        await asyncio.to_thread(summer.update, chunk)
                    waiting = writer.write(chunk) if writer is not None else None
                    if waiting is not None:
                        await waiting
        finally:
            reading.close()
        return summer.checksum() if summer is not None else None

    async def change(self, bucket: str, key: str, change: ObjectChange) -> ObjectInfo:
        pool, owner = self._buckets.route(bucket)
        okey = layout.object_key(owner.number, key)
        now_ms = self._clock.now_ms()
        okey, record = await pool.committer.submit_short(
            lambda batch: mutations.change_object(batch, pool, owner, okey, change, now_ms)
        )
        if record.unnoted:
            await self._orders.backed(pool, okey, record)
        recalls = self.recalls.get(pool.config.name)
        if change.tier == "cold" and recalls is not None:
            await recalls.ended(okey, record.generation)  # it would bring back what goes now
        if change.tier in ("cold", "both"):
            await self._orders.demoted(pool, okey, record.generation, evict=change.tier == "cold")
            return self._moved(pool, okey, key, record, change.tier)
        if record.residency == Residency.COLD_ONLY:
            if change.tier == "hot" and recalls is not None:
                await recalls.bring(okey, record)
                return self._moved(pool, okey, key, record, "hot")
            if change.restore_ms and recalls is not None:
                await recalls.bring(okey, record)
                found = pool.index.standing(okey, record.generation)
                return record if found is None else found[1]
            if recalls is not None and layout.hold_until_ms(record) > now_ms:
                recalls.land(okey, record)  # a held object belongs in the tier; nobody waits for it
        return record

    def _moved(
        self, pool: Pool, okey: bytes, key: str, before: ObjectRecord, tier: Literal["hot", "cold", "both"]
    ) -> ObjectInfo:
        """The object after a tier change. Raises ColdUnavailable when it did not happen."""
        found = pool.index.standing(okey, before.generation)
        if found is None:
            now = pool.index.get_object(okey)
            if now is None or now.marker:
                raise NoSuchKey(key=key)
            return now  # overwritten: another generation, which was not asked for
        wanted = {
            "hot": (Residency.HOT_ONLY, Residency.BOTH),
            "cold": (Residency.COLD_ONLY,),
            "both": (Residency.BOTH, Residency.COLD_ONLY),
        }[tier]
        if found[1].residency not in wanted:
            raise ColdUnavailable(f"the object could not be made {tier} now", retry_s=5)
        return found[1]

    # -- buckets -------------------------------------------------------------------------------------------------

    async def create_bucket(self, bucket: BucketInfo) -> None:
        await self._buckets.create(bucket)

    async def delete_bucket(self, name: str) -> None:
        await self._buckets.delete(name, self._clock.now_ms())

    def bucket(self, name: str) -> BucketInfo:
        return self._buckets.route(name)[1]

    def buckets(self) -> Sequence[BucketInfo]:
        return self._buckets.all()

    async def change_bucket(self, name: str, change: BucketChange) -> BucketInfo:
        return await self._buckets.change(name, change)

    # -- uploads -------------------------------------------------------------------------------------------------

    async def begin_upload(
        self,
        bucket: str,
        key: str,
        options: PutOptions,
        checksum_algorithm: str = "",
        checksum_kind: Literal["FULL_OBJECT", "COMPOSITE"] | None = None,
    ) -> UploadInfo:
        pool, owner = self._buckets.route(bucket)
        now_ms = self._clock.now_ms()
        upload = UploadRecord(
            bucket=bucket,
            key=key,
            upload_id=mutations.new_upload_id(now_ms),
            initiated_ms=now_ms,
            options=options,
            checksum_algorithm=checksum_algorithm,
            checksum_kind=checksum_kind,
        )
        return await uploads.begin(pool, owner, upload)

    def put_part(
        self, bucket: str, key: str, upload_id: str, number: int, size: int
    ) -> PartWriter | Awaitable[PartWriter]:
        pool, ukey = self._upload_key(bucket, key, upload_id)
        return uploads.part_writer(pool, ukey, number, size)

    def upload(self, bucket: str, key: str, upload_id: str) -> UploadInfo:
        pool, ukey = self._upload_key(bucket, key, upload_id)
        with pool.index.view() as view:
            return mutations.live_upload(view, ukey)

    def parts(
        self, bucket: str, key: str, upload_id: str, after: int = 0, limit: int = PARTS_MAX
    ) -> Sequence[PartInfo]:
        pool, ukey = self._upload_key(bucket, key, upload_id)
        with pool.index.view() as view:
            mutations.live_upload(view, ukey)
            return mutations.stored_parts(view, upload_id, after, limit)

    async def complete_upload(
        self, bucket: str, key: str, upload_id: str, parts: Sequence[PartClaim], options: CompleteOptions
    ) -> ObjectInfo:
        pool, ukey = self._upload_key(bucket, key, upload_id)
        _, owner = self._buckets.route(bucket)
        info = await uploads.complete(pool, self._orders, owner, ukey, parts, options)
        await self._orders.backed(pool, layout.object_key(owner.number, key), info)
        return info

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        pool, ukey = self._upload_key(bucket, key, upload_id)
        await pool.committer.submit(lambda batch: batch.drop_upload(ukey, mutations.live_upload(batch, ukey)))

    def pending(self, bucket: str, options: PendingOptions) -> PendingListing:
        pool, owner = self._buckets.route(bucket)
        return uploads.pending(pool, owner, options)

    def _upload_key(self, bucket: str, key: str, upload_id: str) -> tuple[Pool, bytes]:
        pool, owner = self._buckets.route(bucket)
        if len(upload_id) != layout.UPLOAD_ID_CHARS or not upload_id.isascii():
            raise NoSuchUpload(upload_id=upload_id)
        return pool, layout.upload_key(owner.number, key, upload_id)


def _needs_checksum(info: ObjectInfo, options: CopyOptions) -> bool:
    """Whether the copy asks for a checksum that its source does not have."""
    wanted = options.checksum_algorithm
    return wanted is not None and (info.checksum is None or info.checksum.algorithm != wanted)
