"""The cold side of one process: objects' streams in the backing store, and reading through them.

Promise: content that is given out in full is the object's exact bytes, or an error is raised before the last chunk.
Owns nothing but the reference to the backing. Does not know who may wait, or where recalled bytes go.
Kind: shell over the Backing port. Spec: docs/FORMAT.md, "Cold objects".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from tiering import coldstream
from tiering.backing.coldobject import ColdSource, Content, read_head, read_layout, read_object, read_range
from tiering.contract import Buffer, ColdUnavailable, Corrupt, ObjectInfo, Residency
from tiering.crc64 import crc64nvme
from tiering.layout import BucketRecord, ColdPiece, ObjectRecord
from tiering.ports import Backing, BackingCorrupt, BackingUnavailable, NotFound

RETRY_S = 2
"""What a client is told to wait when the backing store does not answer."""


def translate(error: Exception) -> Exception:
    """A backing's error as the contract names it."""
    if isinstance(error, BackingUnavailable):
        return ColdUnavailable("the backing store does not answer", retry_s=RETRY_S)
    if isinstance(error, NotFound):
        return Corrupt("the cold copy is missing from the backing store")
    if isinstance(error, BackingCorrupt):
        return Corrupt("the cold copy fails its checksum")
    return error


class ColdSide:
    """The backing store, as objects see it."""

    def __init__(self, backing: Backing) -> None:
        self.backing = backing

    async def read(self, record: ObjectRecord, names: Sequence[str], start: int, stop: int) -> AsyncIterator[Buffer]:
        """Content `start:stop`, straight from the backing store. `names`: of the pieces. Raises ColdUnavailable, Corrupt."""
        at = given = found = 0
        # Streams that are one object together may not have its checksum anywhere; all of their content has.
        summed = len(record.cold) > 1 and (start, stop) == (0, record.size)
        try:
            for piece, name in zip(record.cold, names, strict=True):
                first, last = max(start - at, 0), min(stop - at, piece.size)
                at += piece.size
                if first >= last:
                    continue
                # One stream alone has the object's checksum in its head, and a name that later generations use too.
                crc64 = record.crc64 if len(record.cold) == 1 else None
                async with aclosing(self._read_piece(piece, name, first, last, crc64)) as chunks:
                    async for chunk in chunks:
                        if summed:
                            given, found = given + len(chunk), crc64nvme(chunk, found)
                            if given == stop and found != record.crc64:
                                raise BackingCorrupt("the pieces are not this object's")
                        yield chunk
        except (BackingUnavailable, NotFound, BackingCorrupt) as error:
            raise translate(error) from error

    async def _read_piece(
        self, piece: ColdPiece, name: str, start: int, stop: int, crc64: int | None
    ) -> AsyncGenerator[Buffer, None]:
        """Content of one piece. `crc64`: of all its content, where that is known; another generation's has another."""
        whole, known = (start, stop) == (0, piece.size), None
        if piece.layout and (crc64 is None or not whole):
            known = coldstream.unpack_layout(piece.layout, piece.size, crc64)
            crc64 = known.crc64 if crc64 is None else crc64
        if whole:
            reader = coldstream.ColdReader()
            async with aclosing(read_object(self.backing, name, reader)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    _judge_head(reader.head, crc64)
                    yield chunk
            _judge_head(reader.head, crc64)  # an empty stream has no chunk to be judged at
            return
        if known is None:
            # First the layout, then the head: if that is still ours, so was the layout, and its sums judge the bytes.
            known = await read_layout(self.backing, name)
            _judge_head(await read_head(self.backing, name), crc64)
        async with aclosing(read_range(self.backing, name, start, stop, known)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk

    async def store(
        self, name: str, meta: Mapping[str, Any], size: int, crc64: int, content: Content, *, own: bool = True
    ) -> ColdPiece:
        """Uploads one cold stream. `own`: it is an object's, under its own name. Raises BackingUnavailable, Corrupt."""
        source = await ColdSource.prepare(meta, size, crc64, content, offload=asyncio.to_thread)
        await self.backing.put(name, source)
        known = crc64 if own else None
        frames = coldstream.pack_layout(source.layout, known) if source.layout is not None else b""
        return ColdPiece("" if own else name, size, frames if len(frames) <= LAYOUT_BYTES_MAX else b"")


def _judge_head(head: coldstream.ColdHead | None, crc64: int | None) -> None:
    if head is not None and crc64 is not None and head.crc64 != crc64:
        raise BackingCorrupt("the name holds another generation's bytes")


LAYOUT_BYTES_MAX = 256
"""Longer layouts are not kept in the index: a range read of so large an object can ask for the seek table first."""


def object_meta(bucket: BucketRecord, key: str, info: ObjectInfo) -> dict[str, Any]:
    """All a rebuild needs to know of an object, as the JSON in its cold stream's head."""
    fields = {name: getattr(info, name) for name in _META_FIELDS}
    return {"bucket": bucket.name, "pool": bucket.pool, "key": key, **msgspec.to_builtins(fields)}


_META_FIELDS = (
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
    "parts",
    "storage_class",
    "pin_until_ms",
    "ttl_ms",
    "sliding",
    "expires_ms",
    "version",
    "marker",
    "lock",
    "owner",
    "acl",
    "encryption",
)
_LATER_FIELDS = _META_FIELDS[_META_FIELDS.index("version") :]
"""Fields that copies made by an older program do not have."""


NOTE_FIELDS = ("tags", "lock", "acl", "storage_class", "pin_until_ms", "ttl_ms", "sliding", "expires_ms")
"""What may change of a generation, and is told in a note once it does."""


def note_json(record: ObjectRecord) -> bytes:
    """The note of what may have changed of a demoted object since its copy was made."""
    fields = {name: getattr(record, name) for name in NOTE_FIELDS}
    return msgspec.json.encode({"generation": record.generation, **fields})


def apply_note(record: ObjectRecord, note: bytes) -> bool:
    """Changes a record as its note says; False when it is about another generation. Raises ValueError."""
    try:
        told = msgspec.json.decode(note, type=dict[str, Any])
    except RecursionError:
        raise ValueError("the note is nested too deeply") from None
    if told.get("generation") != record.generation:
        return False
    fields = {name: getattr(record, name) for name in ObjectInfo.__struct_fields__}
    fields |= {name: told[name] for name in NOTE_FIELDS if name in told}
    changed = msgspec.convert(_ordered(msgspec.to_builtins(fields)), ObjectRecord)
    for name in NOTE_FIELDS:
        setattr(record, name, getattr(changed, name))
    return True


def record_of(meta: Mapping[str, Any], cold: tuple[ColdPiece, ...]) -> ObjectRecord:
    """The record that a cold stream's head describes. Raises msgspec.ValidationError, KeyError."""
    fields = {name: meta[name] for name in _META_FIELDS if name in meta or name not in _LATER_FIELDS}
    info = msgspec.convert(_ordered(fields), ObjectRecord)
    if not isinstance(info.etag, str):  # which the records' own type does not say, for the sake of their rows
        raise msgspec.ValidationError("the ETag is no text")
    info.residency = Residency.COLD_ONLY
    info.cold = cold
    return info


def _ordered(fields: Mapping[str, Any]) -> list[Any]:
    """Fields in the record's own order: records are array-like, the JSON in the bucket names them."""
    blank = msgspec.to_builtins(ObjectRecord(generation=0, size=0, modified_ms=0, etag="", crc64=0))
    return [fields.get(name, value) for name, value in zip(ObjectRecord.__struct_fields__, blank, strict=True)]
