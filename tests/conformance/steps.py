"""The steps the suite is written in: put, get, upload a part, over any store. Kind: pure, over a store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable
from typing import TypeVar

from tiering.contract import (
    FileSpans,
    ObjectInfo,
    PartInfo,
    PutOptions,
    PutResult,
    Reading,
    ReadOptions,
    Store,
)

T = TypeVar("T")
WHOLE = ReadOptions()
HEAD = ReadOptions(head=True)


async def settled(value: T | Awaitable[T]) -> T:
    return await value if isinstance(value, Awaitable) else value


async def put(
    store: Store,
    key: str,
    data: bytes = b"data",
    options: PutOptions | None = None,
    *,
    bucket: str = "b",
    result: PutResult | None = None,
    piece: int = 1 << 18,
) -> ObjectInfo:
    """Writes in pieces and commits; aborts on failure. The ETag is the MD5 unless `result` says otherwise."""
    writer = await settled(store.put(bucket, key, len(data), options or PutOptions()))
    try:
        for at in range(0, len(data), piece):
            await _written(writer.write(memoryview(data)[at : at + piece]))
        if result is None:
            opaque = store.bucket(bucket).opaque_etag
            result = PutResult(None if opaque else md5(data))
        return await writer.commit(result)
    except BaseException:
        writer.abort()
        raise


async def _written(waiting: Awaitable[None] | None) -> None:
    if waiting is not None:
        await waiting


async def put_part(store: Store, key: str, upload_id: str, number: int, data: bytes, *, bucket: str = "b") -> PartInfo:
    writer = await settled(store.put_part(bucket, key, upload_id, number, len(data)))
    try:
        await _written(writer.write(data))
        return await writer.commit(PutResult(None if store.bucket(bucket).opaque_etag else md5(data)))
    except BaseException:
        writer.abort()
        raise


async def content(reading: Reading) -> bytes:
    """The body of an opened object; gives it back."""
    body = reading.body
    try:
        if isinstance(body, bytes):
            return body
        if isinstance(body, FileSpans):
            return b"".join(os.pread(fd, length, offset) for fd, offset, length in body.spans)
        assert body is not None
        return b"".join([bytes(piece) async for piece in body])
    finally:
        reading.close()


async def get(store: Store, key: str, options: ReadOptions = WHOLE, *, bucket: str = "b") -> bytes:
    reading = await settled(store.open(bucket, key, options))
    data = await content(reading)
    assert len(data) == reading.stop - reading.start
    return data


async def head(store: Store, key: str, *, bucket: str = "b") -> ObjectInfo:
    reading = await settled(store.open(bucket, key, HEAD))
    assert reading.body is None
    return reading.info


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
