"""Multipart uploads of the tiered store: parts are extents, completing copies nothing.

Promise: parts and objects obey the same durability; an upload is visible only after it completes, and then at once.
Also the way of a single PUT too long to hold in the tier at once: it becomes an upload of the store's own, whose parts
can be demoted while later ones still arrive.
Owns nothing: rows are in the index. Does not know HTTP or XML, nor how ETags of parts are made.
Kind: shell over mutations; one thread (the loop's). Spec: docs/SEMANTICS.md, "Uploads".
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Sequence
from typing import Final

from tiering import layout, mutations
from tiering.contract import (
    PARTS_MAX,
    Buffer,
    Busy,
    CompleteOptions,
    DeviceFailed,
    DiskFull,
    NoSuchBucket,
    NoSuchUpload,
    ObjectInfo,
    PartClaim,
    PartInfo,
    PendingListing,
    PendingOptions,
    PutOptions,
    PutResult,
    UploadInfo,
)
from tiering.crc64 import crc64nvme
from tiering.index import Batch
from tiering.layout import BucketRecord, ObjectRecord, PartRecord, UploadRecord
from tiering.listing import common_prefix
from tiering.orders import Orders
from tiering.pool import Pool
from tiering.writer import BodyWriter, FlashBody

DROP_AGAIN_S: Final = 1.0


async def begin(pool: Pool, bucket: BucketRecord, upload: UploadRecord) -> UploadRecord:
    ukey = layout.upload_key(bucket.number, upload.key, upload.upload_id)

    def mutation(batch: Batch) -> UploadRecord:
        mutations.alive(batch, bucket)
        batch.put("uploads", ukey, layout.UPLOAD.encode(upload))
        return upload

    return await pool.committer.submit_short(mutation)


def part_writer(
    pool: Pool, ukey: bytes, number: int, size: int
) -> BodyWriter[PartInfo] | Awaitable[BodyWriter[PartInfo]]:
    """A writer for one part. Raises NoSuchUpload, TierFull; the awaitable also Busy."""
    body = FlashBody(pool, size)
    writer = BodyWriter(body, functools.partial(_commit_part, pool, ukey, number))
    try:
        _judge_part(pool, ukey, size)
    except Busy:
        return _opened_when_room(pool, ukey, size, body, writer)
    waiting = body.begin()
    return writer if waiting is None else _opened(waiting, writer)


def _judge_part(pool: Pool, ukey: bytes, size: int) -> None:
    with pool.index.view() as view:
        mutations.live_upload(view, ukey)
        pool.judge_room(view.counters(), size)


async def _opened_when_room(
    pool: Pool, ukey: bytes, size: int, body: FlashBody, writer: BodyWriter[PartInfo]
) -> BodyWriter[PartInfo]:
    await pool.wait_for_room(lambda: _judge_part(pool, ukey, size))
    waiting = body.begin()
    return writer if waiting is None else await _opened(waiting, writer)


async def _opened(waiting: Awaitable[None], writer: BodyWriter[PartInfo]) -> BodyWriter[PartInfo]:
    try:
        await waiting
    except BaseException:
        writer.abort()
        raise
    return writer


async def _commit_part(pool: Pool, ukey: bytes, number: int, body: FlashBody, result: PutResult) -> PartInfo:
    part = PartRecord(
        number=number,
        size=body.size,
        etag=result.etag if result.etag is not None else mutations.opaque_etag(body.crc64),
        modified_ms=pool.clock.now_ms(),
        checksum=result.checksum,
        generation=0,
        crc64=body.crc64,
        extents=body.extents,
    )
    return await pool.committer.submit_short(lambda batch: mutations.put_part(batch, pool, ukey, part))


async def complete(
    pool: Pool,
    orders: Orders,
    bucket: BucketRecord,
    ukey: bytes,
    claims: Sequence[PartClaim],
    options: CompleteOptions,
) -> ObjectRecord:
    """Completes; when parts had to leave the tier, first has the keeper demote the others. Raises ColdUnavailable too."""
    while True:
        outcome = await pool.committer.submit(
            lambda batch: mutations.complete_upload(batch, pool, bucket, ukey, claims, options, pool.clock.now_ms())
        )
        if not isinstance(outcome, list):
            return outcome
        await orders.parts_demoted(pool, outcome)


def pending(pool: Pool, bucket: BucketRecord, options: PendingOptions) -> PendingListing:
    """One page of the uploads clients have under way."""
    prefix = layout.bucket_prefix(bucket.number)
    uploads: list[UploadInfo] = []
    prefixes: list[str] = []
    with pool.index.view() as view:
        after = (options.key_after, options.upload_id_after) if options.key_after else ("", "")
        for ukey, value in view.rows("uploads", prefix=prefix + options.prefix.encode()):
            _, key, upload_id = layout.split_upload_key(ukey)
            record: UploadRecord = layout.UPLOAD.decode(value)
            if record.internal or (after[0] and _at_or_before(key, upload_id, after)):
                continue
            common = common_prefix(key, options.prefix, options.delimiter)
            if common and (common <= options.key_after or (prefixes and prefixes[-1] == common)):
                continue
            if len(uploads) + len(prefixes) == options.limit:
                last = uploads[-1] if uploads else None
                if prefixes and (last is None or prefixes[-1] > last.key):
                    return PendingListing(uploads, prefixes, True, prefixes[-1], "")
                return PendingListing(uploads, prefixes, True, last.key if last else "", last.upload_id if last else "")
            if common:
                prefixes.append(common)
            else:
                uploads.append(record)
    return PendingListing(uploads, prefixes, False)


def _at_or_before(key: str, upload_id: str, after: tuple[str, str]) -> bool:
    if key != after[0]:
        return key < after[0]
    return not after[1] or upload_id <= after[1]


class StreamedWriter:
    """A Writer for one long PUT: consecutive parts of an internal upload, completed at the commit."""

    def __init__(self, pool: Pool, orders: Orders, bucket: BucketRecord, upload: UploadRecord, size: int) -> None:
        self._pool = pool
        self._orders = orders
        self._bucket = bucket
        self._upload = upload
        self._ukey = layout.upload_key(bucket.number, upload.key, upload.upload_id)
        self._left = size
        self._size = size
        self._part_bytes = max(pool.flash.region_bytes, -(-size // PARTS_MAX))
        self._part: BodyWriter[PartInfo] | None = None
        self._room = 0
        self._claims: list[PartClaim] = []
        self.crc64 = 0

    async def write(self, data: Buffer) -> None:
        try:
            await self._write(memoryview(data))
        except NoSuchUpload:
            raise NoSuchBucket(bucket=self._bucket.name) from None  # with which it went: nobody else ends it

    async def _write(self, view: memoryview) -> None:
        while len(view):
            if self._part is None:
                self._room = min(self._part_bytes, self._left)
                opened = part_writer(self._pool, self._ukey, len(self._claims) + 1, self._room)
                self._part = opened if isinstance(opened, BodyWriter) else await opened
            head = view[: self._room]
            waiting = self._part.write(head)
            if waiting is not None:
                await waiting
            self.crc64 = crc64nvme(head, self.crc64)
            self._room -= len(head)
            self._left -= len(head)
            view = view[len(head) :]
            if self._room == 0:
                await self._end_part()

    async def _end_part(self, short: bool = False) -> None:
        part, self._part = self._part, None
        assert part is not None
        info = await part.commit(PutResult(short=short))
        self._claims.append(PartClaim(info.number, info.etag))

    async def commit(self, result: PutResult) -> ObjectInfo:
        if result.short and self._left:
            await self._end_short()
        etag = result.etag if result.etag is not None else mutations.opaque_etag(self.crc64)
        options = CompleteOptions(
            etag=etag,
            checksum=result.checksum,
            object_size=self._size,
            conditions=self._upload.options.conditions,
            encryption=result.encryption,
            parts=result.parts,
            origin=self._upload.options.origin,
        )
        try:
            stored = await complete(self._pool, self._orders, self._bucket, self._ukey, self._claims, options)
        except BaseException:
            self.abort()
            raise
        okey = layout.object_key(self._bucket.number, self._upload.key)
        await self._orders.backed(self._pool, okey, stored)
        return stored

    async def _end_short(self) -> None:
        """Ends the body where it is. One with no bytes at all gets one empty part."""
        self._size -= self._left
        self._left = 0
        if self._part is None and not self._claims:
            opened = part_writer(self._pool, self._ukey, 1, 0)
            self._part = opened if isinstance(opened, BodyWriter) else await opened
        if self._part is not None:
            await self._end_part(short=True)

    def abort(self) -> None:
        if self._part is not None:
            self._part.abort()
            self._part = None
        self._drop()

    def _drop(self) -> None:
        """Gives up what has come; where the device refuses even that, again and again: nobody else would before the next start."""
        ukey, upload = self._ukey, self._upload

        def done(dropping: asyncio.Future[None]) -> None:
            if not dropping.cancelled() and isinstance(dropping.exception(), DiskFull | DeviceFailed):
                dropping.get_loop().call_later(DROP_AGAIN_S, self._drop)

        self._pool.committer.submit(lambda batch: drop_if_there(batch, ukey, upload)).add_done_callback(done)


def drop_if_there(batch: Batch, ukey: bytes, upload: UploadRecord) -> None:
    if batch.upload(ukey) is not None:
        batch.drop_upload(ukey, upload)


async def streamed(
    pool: Pool, orders: Orders, bucket: BucketRecord, key: str, size: int, options: PutOptions
) -> StreamedWriter:
    """A writer of one long PUT. Raises NoSuchBucket."""
    now_ms = pool.clock.now_ms()
    upload = UploadRecord(
        bucket=bucket.name,
        key=key,
        upload_id=mutations.new_upload_id(now_ms),
        initiated_ms=now_ms,
        options=options,
        internal=True,
        slot=pool.space.slot,
    )
    writer = StreamedWriter(pool, orders, bucket, upload, size)
    try:
        await begin(pool, bucket, upload)
    except BaseException:
        writer.abort()  # who leaves now does not undo what was begun
        raise
    return writer
