"""What a write does to a pool's index, as functions of its transaction: judge first, then write.

Promise: a mutation raises StoreError only before its first write, so a refused one leaves the transaction untouched;
check and act cannot race, because both happen under the write lock that all processes share.
Owns nothing. Does not know files, loops or time: `now_ms` is handed in.
Kind: pure functions of a Batch. Spec: docs/SEMANTICS.md.
"""

from __future__ import annotations

import itertools
import secrets
import struct
from base64 import b64encode
from binascii import b2a_base64
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from tiering import conditions, journal, layout, versions
from tiering.contract import (
    FOREVER_MS,
    PART_BYTES_MIN,
    BucketChange,
    BucketExists,
    BucketNotEmpty,
    Checksum,
    CompleteOptions,
    Conditions,
    Deleted,
    DeleteOptions,
    NoSuchBucket,
    NoSuchKey,
    NoSuchUpload,
    ObjectChange,
    ObjectInfo,
    Origin,
    PartClaim,
    PartInfo,
    PutOptions,
    RenameOptions,
    Residency,
    SizeMismatch,
    Ttl,
)
from tiering.crc64 import combine_crc64nvme
from tiering.index import Batch, View
from tiering.layout import BucketRecord, ColdPiece, Extent, ObjectRecord, PartRecord, UploadRecord
from tiering.pool import Pool
from tiering.residency import move

_u64: Final = struct.Struct(">Q").pack
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def until_ms(lease_ms: int, now_ms: int) -> int:
    """The end of a lease that starts now; 0 and FOREVER_MS stay what they are."""
    return lease_ms if lease_ms in (0, FOREVER_MS) else now_ms + lease_ms


def opaque_etag(crc64: int) -> str:
    """An ETag made of the checksum, as short as may be: every record has it. No client takes twelve characters for an MD5."""
    return b2a_base64(_u64(crc64)).translate(_URL_SAFE, b"=\n").decode() + "-"


def new_record(
    options: PutOptions, *, size: int, etag: str, crc64: int, extents: tuple[Extent, ...], now_ms: int
) -> ObjectRecord:
    """The record of bytes just written; its generation is set by `put_object`."""
    record = ObjectRecord(
        generation=0,
        size=size,
        modified_ms=now_ms,
        etag=etag,
        crc64=crc64,
        content_type=options.content_type,
        headers=dict(options.headers),
        metadata=dict(options.metadata),
        tags=dict(options.tags),
        storage_class=options.storage_class,
        pin_until_ms=until_ms(options.pin_ms, now_ms),
        extents=extents,
        lock=options.lock,
        owner=options.owner,
        acl=options.acl,
        encryption=options.encryption,
    )
    if options.ttl is not None:
        set_ttl(record, options.ttl, now_ms)
    return record


def set_ttl(record: ObjectRecord, ttl: Ttl, now_ms: int) -> None:
    record.ttl_ms = ttl.ttl_ms
    record.sliding = ttl.sliding and ttl.ttl_ms > 0
    record.expires_ms = now_ms + ttl.ttl_ms if ttl.ttl_ms else 0


def alive(view: View, bucket: BucketRecord) -> BucketRecord:
    """The bucket as it is now, if it is still the same one. Raises NoSuchBucket."""
    record = view.bucket(bucket.name)
    if record is None or record.number != bucket.number:
        raise NoSuchBucket(bucket=bucket.name)
    return record


# -- objects -----------------------------------------------------------------------------------------------------


def put_object(
    batch: Batch,
    pool: Pool,
    bucket: BucketRecord,
    okey: bytes,
    record: ObjectRecord,
    wanted: Conditions | None,
    now_ms: int,
    origin: Origin | None = None,
) -> ObjectRecord:
    """Makes `record` the object's newest generation, and its current version."""
    owner = alive(batch, bucket)
    record.cache = owner.cache
    if record.storage_class:
        record.chill = layout.has_cold_class(record)
    old = batch.object(okey)
    if wanted is not None:
        conditions.judge_write(wanted, seen(pool, old, now_ms))
    if owner.versioning:
        versions.judge_put(batch, owner, okey, now_ms)
    if record.pin_until_ms or record.restore_until_ms:
        pool.judge_pin(batch, record, None if owner.versioning else old)
    record.generation = batch.next_generation()
    record.version = versions.new_version(record.generation) if owner.versioning == "Enabled" else ""
    pool.heat.fresh(record.generation)
    if owner.versioning:
        versions.put(batch, pool, owner, okey, old, record, now_ms)
    else:
        batch.replace_object(okey, old, record)
    if origin is not None:
        journal.record(batch, okey, record, origin, now_ms)
    if record.pin_until_ms:
        journal.record(batch, okey, record, journal.PIN, now_ms)
    return record


def seen(pool: Pool, record: ObjectRecord | None, now_ms: int) -> ObjectRecord | None:
    """The current version as conditions see it: neither a delete marker nor what has expired is there."""
    return None if record is None or record.marker or pool.expired(record, now_ms) else record


def append_object(
    batch: Batch,
    pool: Pool,
    bucket: BucketRecord,
    okey: bytes,
    added: ObjectRecord,
    options: PutOptions,
    now_ms: int,
) -> ObjectRecord | None:
    """Adds bytes to the object that stands; `added` describes them, and is the object if none stands. None when that is
    cold, and its bytes must come back first."""
    owner = alive(batch, bucket)
    old = seen(pool, batch.object(okey), now_ms)
    conditions.judge_write(options.conditions, old)
    assert options.append_at is not None
    conditions.judge_append(owner, old, options.append_at)
    if old is None:
        return put_object(batch, pool, bucket, okey, added, None, now_ms, options.origin)
    if old.residency == Residency.COLD_ONLY and old.size:
        return None
    crc64 = combine_crc64nvme(old.crc64, added.crc64, added.size)
    size = old.size + added.size
    kept = old.checksum is not None and (old.checksum.algorithm, old.checksum.kind) == ("CRC64NVME", "FULL_OBJECT")
    new: ObjectRecord = msgspec.structs.replace(
        old,
        size=size,
        modified_ms=now_ms,
        etag=opaque_etag(crc64),
        crc64=crc64,
        checksum=Checksum("CRC64NVME", b64encode(crc64.to_bytes(8, "big")).decode()) if kept else None,
        parts=(),
        upload_id="",
        expires_ms=now_ms + old.ttl_ms if old.ttl_ms else 0,
        extents=old.extents + added.extents,
        residency=Residency.HOT_ONLY,
        cold=(),
        unlisted=False,
        note=False,
        unnoted=False,
        former="",
        chill=layout.has_cold_class(old),
    )
    pool.judge_pin(batch, new, old)
    new.generation = batch.next_generation()
    pool.heat.inherit(new.generation, (old.generation,))
    batch.replace_object(okey, old, new)
    batch.owe_by_key(okey, new)  # what stood may be a copy
    journal.record(batch, okey, new, options.origin, now_ms)
    return new


def delete_object(
    batch: Batch, pool: Pool, bucket: BucketRecord, okey: bytes, options: DeleteOptions, now_ms: int
) -> tuple[Deleted, ObjectRecord | None]:
    """Also answers the delete marker, if one was made."""
    owner = alive(batch, bucket)
    if options.version is not None:
        return delete_version(batch, pool, owner, okey, options, now_ms), None
    old = batch.object(okey)
    shown = seen(pool, old, now_ms)
    conditions.judge_delete(options.conditions, shown, marker=old is not None and old.marker)
    if not owner.versioning:
        if old is not None:
            batch.replace_object(okey, old, None)
        if shown is not None:
            journal.record(batch, okey, shown, options.origin, now_ms)
        return Deleted(shown is not None), None
    versions.judge_put(batch, owner, okey, now_ms)
    marker = versions.marker(batch, now_ms)
    if owner.versioning == "Enabled":
        marker.version = versions.new_version(marker.generation)
    versions.put(batch, pool, owner, okey, old, marker, now_ms)
    journal.record(batch, okey, marker, options.origin, now_ms)
    return Deleted(shown is not None, marker.version, marker=True), marker


def delete_version(
    batch: Batch, pool: Pool, bucket: BucketRecord, okey: bytes, options: DeleteOptions, now_ms: int
) -> Deleted:
    """Takes the named version away for good. Raises Locked, PreconditionFailed."""
    found = versions.find(batch, okey, options.version)
    if found is not None and pool.expired(found[1], now_ms):
        found = None  # gone for its readers: its row is the keeper's to take away
    conditions.judge_delete(options.conditions, None if found is None else found[1])
    version = options.version if bucket.versioning else None
    if found is None:
        return Deleted(False, version)
    row, record = found
    conditions.judge_noncurrent(options, current=not layout.is_older(row))
    conditions.judge_locked(record.lock, options.bypass_governance, now_ms)
    versions.remove(batch, pool, row, record, now_ms)
    gone: ObjectRecord = msgspec.structs.replace(record, marker=False)  # what went: no marker was made
    journal.record(batch, okey, gone, options.origin, now_ms)
    return Deleted(True, version, record.marker)


def rename_object(
    batch: Batch,
    pool: Pool,
    bucket: BucketRecord,
    okeys: tuple[bytes, bytes],
    options: RenameOptions,
    now_ms: int,
) -> ObjectRecord | None:
    """Moves an object to another key, with what it holds there; None when it is cold, and its bytes must come back first.

    Its copy in the backing store stays under the old name, until it has one under its own.
    """
    conditions.judge_renamable(alive(batch, bucket))
    source = seen(pool, batch.object(okeys[0]), now_ms)
    if source is None:
        raise NoSuchKey(key=layout.split_object_key(okeys[0])[1])
    conditions.judge_source(options.source_conditions, source, "x-amz-rename-source-")
    target = batch.object(okeys[1])
    conditions.judge_write(options.conditions, seen(pool, target, now_ms))
    if okeys[0] == okeys[1]:
        return source
    in_pieces = len(source.cold) > 1
    if source.residency == Residency.COLD_ONLY and source.size and not in_pieces:
        return None
    new: ObjectRecord = msgspec.structs.replace(source, upload_id="", note=False, unnoted=False)
    new.expires_ms = pool.deadline_ms(source)  # reads are known by the generation
    if in_pieces:
        new.unlisted = True
    else:
        new.cold, new.residency = (), Residency.HOT_ONLY
    new.former = source.former or next(iter(batch.cold_names(okeys[0], source)), "")
    new.generation = batch.next_generation()
    pool.heat.inherit(new.generation, (source.generation,))
    batch.replace_object(okeys[0], source, None)
    batch.replace_object(okeys[1], target, new)
    batch.owe_by_key(okeys[1], new)  # it may be a copy
    journal.record(batch, okeys[1], new, options.origin, now_ms)
    return new


def _told_alike(pool: Pool, one: ObjectInfo, other: ObjectInfo) -> bool:
    """Whether the cold copy of one tells enough of the other.

    Pins, and deadlines in a pool that may lose its youngest writes, are set many times in a block's life: they are no
    reason to write to the backing store. A sliding deadline moves with each read.
    """
    if (one.tags, one.lock, one.acl, one.storage_class) != (other.tags, other.lock, other.acl, other.storage_class):
        return False
    if not pool.index.synced:
        return True
    if not one.sliding and one.expires_ms != other.expires_ms:
        return False
    return (one.ttl_ms, one.sliding) == (other.ttl_ms, other.sliding)


def change_object(
    batch: Batch, pool: Pool, bucket: BucketRecord, okey: bytes, change: ObjectChange, now_ms: int
) -> tuple[bytes, ObjectRecord]:
    """Answers the version that was changed and the object key it stands under."""
    alive(batch, bucket)
    row, old = versions.named(pool, batch, okey, change.version, now_ms)
    conditions.judge_write(change.conditions, old)
    new: ObjectRecord = msgspec.structs.replace(old)
    if change.pin_ms is not None:
        new.pin_until_ms = until_ms(change.pin_ms, now_ms)
    if change.restore_ms is not None:
        new.restore_until_ms = until_ms(change.restore_ms, now_ms)
    if change.ttl is not None:
        set_ttl(new, change.ttl, now_ms)
    if change.tags is not None:
        new.tags = dict(change.tags)
    if change.acl is not None:
        new.acl = change.acl
    if change.storage_class is not None:
        new.storage_class = change.storage_class
        new.chill = layout.has_cold_class(new)
    new.lock = conditions.changed_lock(old.lock, change, now_ms)
    pool.judge_pin(batch, new, old)
    describe(batch, pool, row, old, new)
    journal.record(batch, okey, new, change.origin, now_ms)
    if change.pin_ms:
        journal.record(batch, okey, new, journal.PIN, now_ms)
    return row, new


def describe(batch: Batch, pool: Pool, okey: bytes, old: ObjectRecord, new: ObjectRecord) -> None:
    """Writes a changed description; if there is a cold copy, which has the old one, a note about it is owed."""
    if new.cold and not _told_alike(pool, old, new):
        new.note = new.unnoted = True
    batch.replace_object(okey, old, new)


def share_object(
    batch: Batch,
    pool: Pool,
    buckets: tuple[BucketRecord, BucketRecord],
    okeys: tuple[bytes, bytes],
    source_generation: int,
    record: ObjectRecord,
    wanted: Conditions | None,
    now_ms: int,
    origin: Origin | None = None,
) -> ObjectRecord | None:
    """A copy inside a pool: the new record refers to the source's extents. None when the source has moved on."""
    found = batch.standing(okeys[0], source_generation)
    source = None if found is None else seen(pool, found[1], now_ms)
    if source is None or source.residency == Residency.COLD_ONLY:
        return None
    pool.judge_room(batch.counters(), record.size)
    record.extents = source.extents
    copied = put_object(batch, pool, buckets[1], okeys[1], record, wanted, now_ms, origin)
    batch.owe_by_key(okeys[1], copied)
    pool.heat.inherit(copied.generation, (source.generation,))
    return copied


# -- tiers -------------------------------------------------------------------------------------------------------


def demoted(
    batch: Batch,
    pool: Pool,
    okey: bytes,
    copied: ObjectRecord,
    piece: ColdPiece,
    now_ms: int,
    origin: Origin | None = None,
) -> bool:
    """Notes the copy in the backing store; False (and a tombstone for it) when the object has moved on.

    `copied`: the record as it was when the copy was begun.
    """
    found = batch.standing(okey, copied.generation)
    if found is None:
        _put_away(batch, okey, copied)
        return False
    row, old = found
    new: ObjectRecord = msgspec.structs.replace(old, residency=move(old.residency, "demote"), cold=(piece,), former="")
    if not _told_alike(pool, copied, old):
        new.note = new.unnoted = True
    batch.replace_object(row, old, new)
    journal.record(batch, row, new, origin, now_ms)
    return True


def _put_away(batch: Batch, okey: bytes, copied: ObjectRecord) -> None:
    """A tombstone for a copy whose object has moved on, unless what stands now has its own under that name."""
    try:
        name = layout.cold_name(batch.bucket_name(okey), okey, copied.version)
    except NoSuchBucket:
        return  # gone with all its objects: the tombstone that each copy is made under is still there
    old = batch.object(okey)
    if old is None or name not in batch.cold_names(okey, old):
        batch.put("tombstones", name.encode())


def evicted(
    batch: Batch, okey: bytes, generation: int, now_ms: int | None = None, at_ms: int = 0, origin: Origin | None = None
) -> bool:
    """Drops the hot copy of a demoted object; False when it has moved on or may not go.

    `now_ms`: spares an object that is held then, which its pin may have come to be since it was chosen; None: a person
    asked, or the bytes are damaged. `at_ms`: the time an event of `origin` tells.
    """
    found = batch.standing(okey, generation)
    if found is None or found[1].residency != Residency.BOTH:
        return False
    row, old = found
    if now_ms is not None and layout.hold_until_ms(old) > now_ms:
        return False
    new: ObjectRecord = msgspec.structs.replace(old, residency=move(old.residency, "evict"), extents=(), chill=False)
    batch.replace_object(row, old, new)
    journal.record(batch, row, new, origin, at_ms)
    return True


def recalled(batch: Batch, okey: bytes, generation: int, extents: tuple[Extent, ...], now_ms: int) -> bool:
    """Notes the hot copy that has landed; False when the object has moved on or another process was first."""
    found = batch.standing(okey, generation)
    if found is None or found[1].residency != Residency.COLD_ONLY:
        return False
    row, old = found
    new: ObjectRecord = msgspec.structs.replace(old, residency=move(old.residency, "recall"), extents=extents)
    batch.replace_object(row, old, new)
    journal.record(batch, row, new, journal.RECALL, now_ms)
    if new.restore_until_ms > now_ms:
        journal.record(batch, row, new, journal.RESTORED, now_ms)
    return True


def dropped(batch: Batch, pool: Pool, okey: bytes, generation: int, now_ms: int) -> bool:
    """Deletes an object of a cache bucket, or one past its deadline; False when it has moved on or has come to be held."""
    found = batch.standing(okey, generation)
    if found is None:
        return False
    row, old = found
    if pool.expired(old, now_ms):
        gone = versions.expire(batch, pool, row, old, now_ms)
        journal.record(batch, row, gone, journal.EXPIRE, now_ms)
        return True
    if not old.cache or layout.hold_until_ms(old) > now_ms:
        return False
    _forget(batch, row, old)
    journal.record(batch, row, old, journal.EVICT, now_ms)
    return True


def lost(batch: Batch, okey: bytes, damaged: ObjectRecord) -> bool:
    """After a failed checksum: the cold copy takes over; without one the record goes. False when the object has moved on, or its
    bytes have: who else found them damaged may have been first, and what is cold now has lost nothing.
    """
    found = batch.standing(okey, damaged.generation)
    if found is None or found[1].extents != damaged.extents:
        return False
    row, old = found
    if old.residency == Residency.BOTH:
        return evicted(batch, row, old.generation)
    _forget(batch, row, old)
    return True


def _forget(batch: Batch, row: bytes, record: ObjectRecord) -> None:
    """Removes what a pool may lose. Such a pool keeps no versions, but its rules may have been others once."""
    batch.replace_object(row, record, None)
    if not layout.is_older(row):
        versions.promote_any(batch, row)


def part_demoted(batch: Batch, pkey: bytes, generation: int, piece: ColdPiece) -> bool:
    """Notes a part's copy in the backing store and drops its hot bytes; False (and a tombstone) when it has moved on."""
    old = batch.part(pkey)
    if old is None or old.generation != generation:
        if old is None or old.cold is None or old.cold.name != piece.name:
            batch.put("tombstones", piece.name.encode())
        return False
    batch.replace_part(pkey, old, msgspec.structs.replace(old, extents=(), cold=piece))
    return True


def part_moved(batch: Batch, pkey: bytes, old: PartRecord, extents: tuple[Extent, ...]) -> bool:
    now = batch.part(pkey)
    if now is None or now.generation != old.generation or now.extents != old.extents:
        return False
    batch.replace_part(pkey, now, msgspec.structs.replace(now, extents=extents))
    return True


def listed(batch: Batch, pool: Pool, okey: bytes, written: ObjectRecord) -> bool:
    """Notes that the manifest of an object in pieces is written, as `written` describes it."""
    found = batch.standing(okey, written.generation)
    if found is None:
        return False
    row, old = found
    new: ObjectRecord = msgspec.structs.replace(old, unlisted=False, former="")
    if not _told_alike(pool, written, old):
        new.note = new.unnoted = True
    batch.replace_object(row, old, new)
    return True


def noted(batch: Batch, pool: Pool, okey: bytes, written: ObjectRecord) -> bool:
    """Notes that the note of what changed is written; False when it has changed again, or the object has moved on."""
    found = batch.standing(okey, written.generation)
    if found is None or not _told_alike(pool, found[1], written):
        return False
    batch.replace_object(*found, msgspec.structs.replace(found[1], unnoted=False))
    return True


LOCKED_RETRY_MS: Final = 24 * 3600 * 1000
"""A deadline that has passed under a legal hold is looked at again after this."""


def expire_due(batch: Batch, pool: Pool, now_ms: int, limit: int) -> int:
    """Deletes objects past their deadline and ends lapsed pins and holds; returns how many rows it dealt with."""
    expired = due(batch, "expiry", now_ms, limit)
    for okey, generation in expired:
        found = batch.standing(okey, generation)
        if found is None:
            continue
        row, old = found
        if pool.expired(old, now_ms):
            gone = versions.expire(batch, pool, row, old, now_ms)
            journal.record(batch, row, gone, journal.EXPIRE, now_ms)
            continue
        later_ms = pool.deadline_ms(old)
        if later_ms <= now_ms and old.lock is not None:
            later_ms = now_ms + LOCKED_RETRY_MS if old.lock.legal_hold else old.lock.until_ms
        batch.replace_object(row, old, msgspec.structs.replace(old, expires_ms=later_ms))
    lapsed = due(batch, "leases", now_ms, limit)
    for okey, generation in lapsed:
        found = batch.standing(okey, generation)
        if found is None:
            continue
        free: ObjectRecord = msgspec.structs.replace(found[1])
        if free.pin_until_ms <= now_ms:
            free.pin_until_ms = 0
        if 0 < free.restore_until_ms <= now_ms:
            free.restore_until_ms = 0
            free.chill = layout.has_cold_class(free)
            journal.record(batch, found[0], free, journal.RESTORE_ENDED, now_ms)
        batch.replace_object(*found, free)
    return len(expired) + len(lapsed)


def due(view: View, database: str, now_ms: int, limit: int) -> list[tuple[bytes, int]]:
    """The first rows of a deadline table that are past it: object key, generation."""
    found: list[tuple[bytes, int]] = []
    for key, okey in view.rows(database):
        at_ms, generation = layout.unpack_time_key(key)
        if at_ms > now_ms or len(found) == limit:
            break
        found.append((okey, generation))
    return found


def moved(batch: Batch, okey: bytes, old: ObjectRecord, extents: tuple[Extent, ...]) -> bool:
    """Puts survivors' new places into the record; False when the record changed since `old` was read."""
    found = batch.standing(okey, old.generation)
    if found is None or found[1].extents != old.extents:
        return False
    batch.replace_object(*found, msgspec.structs.replace(found[1], extents=extents))
    return True


# -- buckets -----------------------------------------------------------------------------------------------------


def keeps_versions(pool: Pool, bucket: BucketRecord) -> bool:
    return pool.keeps_versions and not bucket.cache


def create_bucket(batch: Batch, record: BucketRecord) -> BucketRecord:
    if batch.bucket(record.name) is not None:
        raise BucketExists(bucket=record.name)
    counters = batch.counters()
    counters.bucket_number += 1
    record.number = counters.bucket_number
    write_bucket(batch, record)
    return record


def write_bucket(batch: Batch, record: BucketRecord) -> None:
    batch.put_bucket(record)
    batch.put("stale_buckets", record.name.encode())
    journal.watch(batch, record)


def delete_bucket(batch: Batch, pool: Pool, name: str, now_ms: int) -> None:
    """Removes an empty bucket; uploads under way in it are aborted. Every version and delete marker counts as content,
    objects past their deadline do not."""
    record = batch.bucket(name)
    if record is None:
        raise NoSuchBucket(bucket=name)
    prefix = layout.bucket_prefix(record.number)
    dead = []
    for rows in (layout.older_bucket_prefix(record.number), prefix):
        for okey, value in batch.rows("objects", prefix=rows):
            if not pool.expired(layout.OBJECT.decode(value), now_ms):
                raise BucketNotEmpty(bucket=name)
            dead.append(okey)
    for okey in dead:
        batch.replace_object(okey, batch.object(okey), None)
    for ukey, value in list(batch.rows("uploads", prefix=prefix)):
        batch.drop_upload(ukey, layout.UPLOAD.decode(value))
    journal.watch(batch, record, gone=True)
    batch.delete_bucket(record)
    batch.put("stale_buckets", name.encode())


def change_bucket(batch: Batch, pool: Pool, name: str, change: BucketChange, now_ms: int) -> BucketRecord:
    record = batch.bucket(name)
    if record is None:
        raise NoSuchBucket(bucket=name)
    changed = conditions.changed_bucket(record, change, keeps_versions(pool, record))
    assert isinstance(changed, BucketRecord)
    write_bucket(batch, changed)
    journal.record_bucket(batch, changed, change.origin, now_ms)
    return changed


# -- uploads -----------------------------------------------------------------------------------------------------


def new_upload_id(now_ms: int) -> str:
    """32 characters that sort by time of initiation."""
    return f"{now_ms:012x}{secrets.token_hex(10)}"


def live_upload(view: View, ukey: bytes) -> UploadRecord:
    record = view.upload(ukey)
    if record is None:
        raise NoSuchUpload(upload_id=layout.split_upload_key(ukey)[2])
    return record


def put_part(batch: Batch, pool: Pool, ukey: bytes, part: PartRecord) -> PartRecord:
    upload = live_upload(batch, ukey)
    pkey = layout.part_key(upload.upload_id, part.number)
    bucket_is_cache = pool.config.demote == "never"
    part = msgspec.structs.replace(part, generation=batch.next_generation(), cache=bucket_is_cache)
    pool.heat.fresh(part.generation)
    batch.replace_part(pkey, batch.part(pkey), part)
    return part


def drop_uploads(batch: Batch, before_ms: int, limit: int) -> int:
    """Aborts uploads begun before `before_ms`."""
    stale: list[tuple[bytes, UploadRecord]] = []
    for ukey, value in batch.rows("uploads"):
        upload: UploadRecord = layout.UPLOAD.decode(value)
        if upload.initiated_ms < before_ms and len(stale) < limit:
            stale.append((ukey, upload))
    for ukey, upload in stale:
        batch.drop_upload(ukey, upload)
    return len(stale)


def stored_parts(view: View, upload_id: str, after: int, limit: int) -> list[PartRecord]:
    found: list[PartRecord] = []
    for _, value in view.rows("parts", layout.part_key(upload_id, after + 1), upload_id.encode()):
        if len(found) == limit:
            break
        found.append(layout.PART.decode(value))
    return found


def judge_parts(
    view: View, upload: UploadRecord, claims: Sequence[PartClaim], options: CompleteOptions
) -> list[PartRecord]:
    """The stored parts that the client named, in order. Raises InvalidPart, InvalidPartOrder, PartTooSmall, SizeMismatch."""
    stored: dict[int, PartRecord] = {}
    for claim in claims:
        part = view.part(layout.part_key(upload.upload_id, claim.number)) if 0 < claim.number < 65536 else None
        if part is not None:
            stored[claim.number] = part
    chosen = conditions.judge_claims(stored, claims, 0 if upload.internal else PART_BYTES_MIN)
    total = sum(part.size for part in chosen)
    if options.object_size is not None and options.object_size != total:
        raise SizeMismatch(f"the parts hold {total} bytes, not {options.object_size}")
    return chosen


def _combined_crc64(parts: Sequence[PartRecord]) -> int:
    """The CRC64NVME of the parts' bytes, one after the other. Costs about a microsecond a part."""
    found = 0
    for part in parts:
        found = combine_crc64nvme(found, part.crc64, part.size)
    return found


_COMPLETED_MAX: Final = 64
"""Older versions looked through for one that a repeated completion has made."""


def completed(view: View, okey: bytes) -> Iterator[ObjectRecord]:
    """The versions of a key from the newest on, as many as a repeated completion looks at."""
    current = view.object(okey)
    if current is not None:
        yield current
        for _, record in itertools.islice(versions.older(view, okey), _COMPLETED_MAX):
            yield record


def complete_upload(
    batch: Batch,
    pool: Pool,
    bucket: BucketRecord,
    ukey: bytes,
    claims: Sequence[PartClaim],
    options: CompleteOptions,
    now_ms: int,
) -> ObjectRecord | list[bytes]:
    """Turns the named parts into the object, copying nothing.

    When some named parts are cold, all must be: then the keys of those that are still hot-only are answered, to be
    demoted before trying again.
    """
    alive(batch, bucket)
    number, key, upload_id = layout.split_upload_key(ukey)
    okey = layout.object_key(number, key)
    upload = batch.upload(ukey)
    if upload is None:
        for done in completed(batch, okey):
            if done.upload_id == upload_id and done.etag == options.etag and not pool.expired(done, now_ms):
                return done
        raise NoSuchUpload(upload_id=upload_id)
    chosen = judge_parts(batch, upload, claims, options)
    in_pieces = any(not part.extents and part.size for part in chosen)
    if in_pieces:
        waiting = [layout.part_key(upload_id, part.number) for part in chosen if part.cold is None]
        if waiting:
            return waiting
    record = new_record(
        upload.options,
        size=sum(part.size for part in chosen),
        etag=options.etag,
        crc64=_combined_crc64(chosen),
        extents=() if in_pieces else tuple(extent for part in chosen for extent in part.extents),
        now_ms=now_ms,
    )
    record.upload_id = upload_id
    record.checksum = options.checksum
    if options.encryption is not None:
        record.encryption = options.encryption
    if options.lock is not None:
        record.lock = options.lock
    if in_pieces:
        record.residency = Residency.COLD_ONLY
        record.cold = (ColdPiece(), *(part.cold for part in chosen if part.cold is not None))
        record.unlisted = True
    own = (PartInfo(part.number, part.size, part.etag, part.modified_ms, part.checksum) for part in chosen)
    record.parts = options.parts if upload.internal else tuple(own)
    put_object(batch, pool, bucket, okey, record, options.conditions, now_ms, options.origin)
    pool.heat.inherit(record.generation, [part.generation for part in chosen])
    # The parts' rows go after the object's stand: a name in the backing store is never without an owner in between.
    batch.drop_upload(ukey, upload)
    for piece in record.cold[1:]:
        batch.delete("tombstones", piece.name.encode())
    return record
