"""The versions of a key, as functions of a transaction: finding one, adding one, taking one away.

Promise: of each key that has versions one is the current, under the key's own object key; so what is hot costs what it
does without versions. A version that is locked is never taken away here.
Owns nothing. Does not know conditions of requests, files or time. Kind: pure functions of a Batch or View.
Invariants: a key with older versions has a current one; the older ones are in the order of their generations; at most
one is the null version. Spec: docs/FORMAT.md, "Index"; AWS "Using versioning in S3 buckets".
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Final

import msgspec

from tiering import conditions, layout
from tiering.contract import IsMarker, NoSuchKey, NoSuchVersion, ObjectInfo
from tiering.index import Batch, View
from tiering.layout import BucketRecord, ObjectRecord
from tiering.pool import Pool

VERSION_CHARS: Final = 32
_GENERATION_CHARS: Final = 16

Found = tuple[bytes, ObjectRecord]
"""A record and the object key it stands under."""


def new_version(generation: int) -> str:
    """A version id: 32 characters, from which the version is found without searching; no other pool makes the same."""
    return f"{generation:0{_GENERATION_CHARS}x}{secrets.token_hex(8)}"


def generation_of(version: str) -> int | None:
    """The generation in a version id; None when it is none of ours."""
    if len(version) != VERSION_CHARS or not version.isascii() or not version.isalnum():
        return None
    try:
        return int(version[:_GENERATION_CHARS], 16)
    except ValueError:
        return None


def find(view: View, okey: bytes, version: str | None) -> Found | None:
    """The current version (None), the null version ("") or another, marker or not. `okey`: the current one's key."""
    record = view.object(okey)
    if record is None:
        return None
    if version is None or record.version == version:
        return okey, record
    if version:
        generation = generation_of(version)
        older = layout.older_key(okey, generation) if generation is not None else None
    else:
        older = view.get("nulls", okey)
    record = view.object(older) if older is not None else None
    return (older, record) if older is not None and record is not None and record.version == version else None


def named(pool: Pool, view: View, okey: bytes, version: str | None, now_ms: int) -> Found:
    """The version a reader is given. Raises NoSuchKey, NoSuchVersion, IsMarker."""
    found = find(view, okey, version)
    if found is None or found[1].marker or pool.expired(found[1], now_ms):
        marker = found[1] if found is not None and found[1].marker else None
        raise refusal(layout.split_object_key(okey)[1], marker, version)
    return found


def refusal(key: str, marker: ObjectInfo | None, version: str | None) -> NoSuchKey | NoSuchVersion | IsMarker:
    """What a reader is told who finds nothing, or a delete marker: the current one hides the key, a named one is not an
    object."""
    if marker is None:
        return NoSuchKey(key=key) if version is None else NoSuchVersion(key=key, version=version)
    if version is None:
        return NoSuchKey(key=key, marker=True, version=marker.version, modified_ms=marker.modified_ms)
    return IsMarker(key=key, version=version, modified_ms=marker.modified_ms)


def older(view: View, okey: bytes, before: int | None = None) -> Iterator[Found]:
    """The versions that are not current, newest first; those older than generation `before`, if it is given."""
    start = layout.older_key(okey, before - 1) if before else b""
    for row, value in view.rows("objects", start, layout.older_prefix(okey)):
        yield row, layout.OBJECT.decode(value)


def judge_put(batch: Batch, bucket: BucketRecord, okey: bytes, now_ms: int) -> None:
    """Whether a new version may take the place it takes. Raises Locked: a null version may not be written over."""
    if bucket.versioning == "Enabled":
        return
    null = find(batch, okey, "")
    if null is not None:
        conditions.judge_locked(null[1].lock, False, now_ms)


def put(
    batch: Batch,
    pool: Pool,
    bucket: BucketRecord,
    okey: bytes,
    old: ObjectRecord | None,
    record: ObjectRecord,
    now_ms: int,
) -> None:
    """Makes `record` the current version in a bucket that has (or had) versioning; `old` is the one that was.

    `old` becomes an older version, unless it has expired, or is the null version and so is the new one.
    """
    if old is not None and (record.version or old.version) and not pool.expired(old, now_ms):
        retire(batch, okey, old, now_ms)
    elif old is not None:
        batch.replace_object(okey, old, None)
    if not record.version:
        null = batch.get("nulls", okey)
        if null is not None:
            batch.replace_object(null, batch.object(null), None)
    batch.replace_object(okey, None, record)


def retire(batch: Batch, okey: bytes, record: ObjectRecord, now_ms: int) -> None:
    """Makes the current version an older one; its place is empty then."""
    new: ObjectRecord = msgspec.structs.replace(record, noncurrent_ms=now_ms)
    batch.move_object(okey, record, layout.older_key(okey, record.generation), new)


def remove(batch: Batch, pool: Pool, okey: bytes, record: ObjectRecord, now_ms: int) -> None:
    """Takes a version away for good; the newest of the older ones becomes the current one if it was."""
    batch.replace_object(okey, record, None)
    if layout.is_older(okey):
        return
    heir = _newest_older(batch, pool, okey, now_ms)
    if heir is not None:
        row, old = heir
        batch.move_object(row, old, okey, msgspec.structs.replace(old, noncurrent_ms=0))


def expire(batch: Batch, pool: Pool, okey: bytes, record: ObjectRecord, now_ms: int) -> ObjectRecord:
    """Takes a version away whose time is over. A delete marker hides what is older than a current one: a key that has
    expired shows nothing, before and after. Answers the marker, or what was taken away."""
    batch.replace_object(okey, record, None)
    if layout.is_older(okey):
        return record
    heir = _newest_older(batch, pool, okey, now_ms)
    if heir is None:
        return record
    row, old = heir
    if old.marker:
        batch.move_object(row, old, okey, msgspec.structs.replace(old, noncurrent_ms=0))
        return record
    made = marker(batch, now_ms)
    made.version = new_version(made.generation)
    batch.replace_object(okey, None, made)
    return made


def marker(batch: Batch, now_ms: int) -> ObjectRecord:
    """A delete marker with a generation; its version is still to be given."""
    generation = batch.next_generation()
    return ObjectRecord(generation=generation, size=0, modified_ms=now_ms, etag="", crc64=0, marker=True)


def _newest_older(batch: Batch, pool: Pool, okey: bytes, now_ms: int) -> Found | None:
    """The newest older version that has not expired; those that have go on the way."""
    prefix = layout.older_prefix(okey)
    while (row := batch.first("objects", prefix)) is not None:
        record: ObjectRecord = layout.OBJECT.decode(row[1])
        if not pool.expired(record, now_ms):
            return row[0], record
        batch.replace_object(row[0], record, None)
    return None


def insert(batch: Batch, okey: bytes, record: ObjectRecord) -> bool:
    """Puts a version where its generation belongs among those that are there; False when the same, or a newer null
    version, is. For making the index again."""
    same = find(batch, okey, record.version)
    if same is not None:
        if same[1].generation >= record.generation:
            return False
        batch.replace_object(*same, None)
        if same[0] == okey:
            promote_any(batch, okey)
    current = batch.object(okey)
    if current is None:
        batch.replace_object(okey, None, record)
        return True
    below = next(older(batch, okey, record.generation), None)
    if current.generation < record.generation:
        retire(batch, okey, current, record.modified_ms)
        batch.replace_object(okey, None, record)
        return True
    above = current
    for _, each in older(batch, okey):
        if each.generation < record.generation:
            break
        above = each
    record.noncurrent_ms = above.modified_ms
    batch.replace_object(layout.older_key(okey, record.generation), None, record)
    if below is not None:
        batch.replace_object(*below, msgspec.structs.replace(below[1], noncurrent_ms=record.modified_ms))
    return True


def promote_any(batch: Batch, okey: bytes) -> None:
    """Makes the newest older version the current one, if there is one; none stands now."""
    row = batch.first("objects", layout.older_prefix(okey))
    if row is not None:
        record: ObjectRecord = layout.OBJECT.decode(row[1])
        batch.move_object(row[0], record, okey, msgspec.structs.replace(record, noncurrent_ms=0))
