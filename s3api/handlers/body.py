"""Bytes between a request, a store's writer and an opened object: the pump, and the checks of a small document.

Owns the buffer of one pump. Does not know operations, XML or headers' meaning beyond checksums.
Kind: shell (the loop; hashing and file reads in its thread pool). Invariants: whoever opens a writer ends it, with
`commit` or `abort`, on every path, cancellation included; a borrowed view is not touched after its lender moves on.
Spec: AWS "Checking object integrity"; RFC 1864.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from typing import Final, TypeVar

from s3api.call import Call, Payload
from s3api.checksums import NOTHING_REQUESTED, Digest, Requested, conclude, requested_checksum, wanted
from s3api.errors import S3Error
from tiering.contract import (
    Buffer,
    ByteRange,
    Checksum,
    Conditions,
    FileSpans,
    ObjectInfo,
    Objects,
    PartWriter,
    PreconditionFailed,
    PutResult,
    Reading,
    ReadOptions,
    Writer,
)

COPY_PIECE_BYTES: Final = 1 << 20
"""Most of a source held at once when one object's bytes become another's."""

AnyWriter = Writer | PartWriter
T = TypeVar("T")


class _WriterDigest(Digest):
    """A digest of `names` whose CRC64NVME is the one the writer computes anyway."""

    __slots__ = ("_writer",)

    def __init__(self, names: set[str], writer: AnyWriter) -> None:
        super().__init__(names)
        self._writer = writer

    def raw(self, name: str) -> bytes:
        return self._writer.crc64.to_bytes(8, "big") if name == "CRC64NVME" else super().raw(name)


_NO_DIGEST: Final = Digest(())
"""Of contents that nothing is asked about: never fed."""


class Intake:
    """Feeds one writer and hashes what passes, and no more than was asked for. `md5`: the ETag is to be an MD5."""

    __slots__ = ("_digest", "_idle", "_md5", "_requested", "_writer")

    def __init__(self, writer: AnyWriter, requested: Requested, md5: bool) -> None:
        self._writer, self._requested, self._md5 = writer, requested, md5
        self._idle = requested is NOTHING_REQUESTED and not md5
        if self._idle:
            self._digest: Digest = _NO_DIGEST
            return
        names = wanted(requested)
        if md5:
            names.add("MD5")
        names.discard("CRC64NVME")
        self._digest = _WriterDigest(names, writer)
        self._idle = not names

    async def take(self, view: Buffer) -> None:
        """Writes and hashes `view`, at the same time where both wait."""
        hashing = None if self._idle else self._digest.update(view)
        writing = self._writer.write(view)
        if writing is not None:
            await writing
        if hashing is not None:
            await hashing

    def drain(self, payload: Payload) -> Awaitable[None] | None:
        """Takes a request's body to its verified end; at once where all of it is at hand and there is room for it."""
        pieces = payload.at_hand()
        if pieces is None:
            return self._drain(payload)
        for number, view in enumerate(pieces):
            hashing = None if self._idle else self._digest.update(view)
            writing = self._writer.write(view)
            if hashing is not None or writing is not None:
                return self._take_rest(payload, hashing, writing, pieces[number + 1 :])
        payload.done()
        return None

    async def _take_rest(
        self,
        payload: Payload,
        hashing: Awaitable[None] | None,
        writing: Awaitable[None] | None,
        pieces: Sequence[memoryview],
    ) -> None:
        if writing is not None:
            await writing
        if hashing is not None:
            await hashing
        for view in pieces:
            await self.take(view)
        payload.done()

    async def _drain(self, payload: Payload) -> None:
        digest, write = None if self._idle else self._digest.update, self._writer.write
        while view := await payload.read():  # `take`, without a coroutine for each piece
            hashing = None if digest is None else digest(view)
            writing = write(view)
            if writing is not None:
                await writing
            if hashing is not None:
                await hashing

    def conclude(self, trailer: Checksum | None = None, short: bool = False) -> PutResult:
        """Raises BadDigest where the client claimed something else. `checksum` None: the client asked for none."""
        checksum = conclude(self._requested, self._digest, trailer)
        return PutResult(self._digest.hex("MD5") if self._md5 else None, checksum, short)


async def pieces(reading: Reading) -> AsyncGenerator[Buffer, None]:
    """The body of an opened object, piece by piece, each borrowed until the next. The caller closes the reading."""
    body = reading.body
    if isinstance(body, bytes):
        yield body
    elif isinstance(body, FileSpans):
        buffer = memoryview(bytearray(min(COPY_PIECE_BYTES, max(body.length, 1))))
        for fd, offset, length in body.spans:
            at, stop = offset, offset + length
            while at < stop:
                got = await asyncio.to_thread(os.preadv, fd, [buffer[: min(stop - at, len(buffer))]], at)
                if not got:
                    raise S3Error("InternalError", "The source ended early.")
                yield buffer[:got]
                at += got
    elif body is not None:
        async for piece in body:
            yield piece


def _changed() -> PreconditionFailed:
    return PreconditionFailed(condition="x-amz-copy-source-If-Match")


async def source_pieces(
    store: Objects, source: tuple[str, str], opened: Reading, version: str | None = None
) -> AsyncGenerator[Buffer, None]:
    """The bytes of `opened`'s range (a reading of (bucket, key) `source`, of which no body is taken), for a writer.
    `version`: the one that was opened, as `ReadOptions.version`.

    Raises PreconditionFailed once the source is another generation.
    """
    for start in range(opened.start, opened.stop, COPY_PIECE_BYTES):
        stop = min(start + COPY_PIECE_BYTES, opened.stop)
        yield await read_range(store, source, opened.info, start, stop, version)


async def read_range(
    store: Objects, source: tuple[str, str], info: ObjectInfo, start: int, stop: int, version: str | None
) -> bytearray:
    """Stored bytes `start:stop` of the generation `info`. Raises PreconditionFailed once the source is another one.

    They are read to their end and the reading closed before they are given out: a writer may wait for room that an open
    reading of the same pool keeps from being freed.
    """
    options = ReadOptions(range=ByteRange(start, stop), conditions=Conditions(if_match=(info.etag,)), version=version)
    try:
        reading = await arrived(store.open(*source, options))
    except PreconditionFailed:
        raise _changed() from None
    held = bytearray()
    try:
        if reading.info.generation != info.generation:  # written again, with the same bytes so far
            raise _changed()
        async with aclosing(pieces(reading)) as parts:
            async for part in parts:
                held += part
    finally:
        reading.close()
    if len(held) != stop - start:
        raise S3Error("InternalError", "The source ended early.")
    return held


async def arrived(value: T | Awaitable[T]) -> T:
    """The value of a call that may have had to wait."""
    # Not isinstance: to ask an abstract class costs as much as all the rest of a short write's opening.
    return await value if hasattr(value, "__await__") else value


async def document(call: Call, checksum_required: bool = False) -> bytes:
    """The request's XML, its Content-MD5 and checksum verified. Raises BadDigest, InvalidDigest, InvalidRequest."""
    requested = requested_checksum(call.request.headers)
    if checksum_required and not requested.algorithm and requested.content_md5 is None:
        raise S3Error("InvalidRequest", "Missing required header for this request: Content-MD5 OR x-amz-checksum-*")
    body = await call.payload.document()
    digest = Digest(wanted(requested))
    hashing = digest.update(body)
    if hashing is not None:
        await hashing
    conclude(requested, digest, call.payload.trailer)
    return body
