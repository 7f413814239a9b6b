"""What a write does to a pool's index, as functions of its transaction: judge first, then write.

Promise: a mutation raises StoreError only before its first write, so a refused one leaves the transaction untouched;
check and act cannot race, because both happen under the write lock that all processes share.
Owns nothing. Does not know files, loops or time: `now_ms` is handed in.
Kind: pure functions of a Batch. Spec: docs/SEMANTICS.md.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec
from awscrt import checksums

from tiering import conditions, layout
from tiering.contract import (
    FOREVER_MS,
    PART_BYTES_MIN,
    BucketChange,
    BucketExists,
    BucketNotEmpty,
    CompleteOptions,
    Conditions,
    Deleted,
    DeleteOptions,
    NoSuchBucket,
    NoSuchKey,
    NoSuchUpload,
    ObjectChange,
    PartClaim,
    PartInfo,
    PutOptions,
    Residency,
    SizeMismatch,
    Ttl,
)
from tiering.index import Batch, View
from tiering.layout import BucketRecord, ColdPiece, Extent, ObjectRecord, PartRecord, UploadRecord
from tiering.pool import Pool
from tiering.residency import move


def until_ms(lease_ms: int, now_ms: int) -> int:
    """The end of a lease that starts now; 0 and FOREVER_MS stay what they are."""
    return lease_ms if lease_ms in (0, FOREVER_MS) else now_ms + lease_ms


def opaque_etag(crc64: int, size: int) -> str:
    """An ETag made of checksum and size. The dash keeps clients from taking it for an MD5."""
    return f"{crc64:016x}{size:08x}-c64"


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


def visible(pool: Pool, view: View, okey: bytes, now_ms: int) -> ObjectRecord | None:
    """The record a reader would be given."""
    record = view.object(okey)
    return None if record is None or pool.expired(record, now_ms) else record


# -- objects -----------------------------------------------------------------------------------------------------


def put_object(
    batch: Batch,
    pool: Pool,
    bucket: BucketRecord,
    okey: bytes,
    record: ObjectRecord,
    wanted: Conditions | None,
    now_ms: int,
) -> ObjectRecord:
    """Makes `record` the object's newest generation."""
    record.cache = alive(batch, bucket).cache
    old = batch.object(okey)
    conditions.judge_write(wanted, None if old is None or pool.expired(old, now_ms) else old)
    pool.judge_pin(batch, record, old)
    record.generation = batch.next_generation()
    pool.heat.fresh(record.generation)
    batch.replace_object(okey, old, record)
    return record


def delete_object(
    batch: Batch, pool: Pool, bucket: BucketRecord, okey: bytes, options: DeleteOptions, now_ms: int
) -> Deleted:
    alive(batch, bucket)
    old = batch.object(okey)
    shown = None if old is None or pool.expired(old, now_ms) else old
    conditions.judge_delete(options.conditions, shown)
    if old is not None:
        batch.replace_object(okey, old, None)
    return Deleted(shown is not None)


def change_object(
    batch: Batch, pool: Pool, bucket: BucketRecord, okey: bytes, change: ObjectChange, now_ms: int
) -> ObjectRecord:
    alive(batch, bucket)
    old = visible(pool, batch, okey, now_ms)
    if old is None:
        raise NoSuchKey(key=layout.split_object_key(okey)[1])
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
    pool.judge_pin(batch, new, old)
    batch.replace_object(okey, old, new)
    return new


def share_object(
    batch: Batch,
    pool: Pool,
    buckets: tuple[BucketRecord, BucketRecord],
    okeys: tuple[bytes, bytes],
    source_generation: int,
    record: ObjectRecord,
    wanted: Conditions | None,
    now_ms: int,
) -> ObjectRecord | None:
    """A copy inside a pool: the new record refers to the source's extents. None when the source has moved on."""
    source = visible(pool, batch, okeys[0], now_ms)
    if source is None or source.generation != source_generation or source.residency == Residency.COLD_ONLY:
        return None
    pool.judge_room(batch, record.size)
    record.extents = source.extents
    copied = put_object(batch, pool, buckets[1], okeys[1], record, wanted, now_ms)
    pool.heat.inherit(copied.generation, (source.generation,))
    return copied


# -- tiers -------------------------------------------------------------------------------------------------------


def demoted(batch: Batch, okey: bytes, generation: int, piece: ColdPiece) -> bool:
    """Notes the copy in the backing store; False (and a tombstone for it) when the object has moved on."""
    old = batch.object(okey)
    if old is None or old.generation != generation:
        if old is None or all(piece.name != other.name for other in old.cold):
            batch.put("tombstones", piece.name.encode())
        return False
    new: ObjectRecord = msgspec.structs.replace(old, residency=move(old.residency, "demote"), cold=(piece,))
    batch.replace_object(okey, old, new)
    return True


def evicted(batch: Batch, okey: bytes, generation: int, now_ms: int | None = None) -> bool:
    """Drops the hot copy of a demoted object; False when it has moved on or may not go.

    `now_ms`: spares an object that is held then, which its pin may have come to be since it was chosen; None: a person
    asked, or the bytes are damaged.
    """
    old = batch.object(okey)
    if old is None or old.generation != generation or old.residency != Residency.BOTH:
        return False
    if now_ms is not None and layout.hold_until_ms(old) > now_ms:
        return False
    new: ObjectRecord = msgspec.structs.replace(old, residency=move(old.residency, "evict"), extents=())
    batch.replace_object(okey, old, new)
    return True


def recalled(batch: Batch, okey: bytes, generation: int, extents: tuple[Extent, ...]) -> bool:
    """Notes the hot copy that has landed; False when the object has moved on or another process was first."""
    old = batch.object(okey)
    if old is None or old.generation != generation or old.residency != Residency.COLD_ONLY:
        return False
    new: ObjectRecord = msgspec.structs.replace(old, residency=move(old.residency, "recall"), extents=extents)
    batch.replace_object(okey, old, new)
    return True


def dropped(batch: Batch, pool: Pool, okey: bytes, generation: int, now_ms: int) -> bool:
    """Deletes an object of a cache bucket, or one past its deadline; False when it has moved on or has come to be held."""
    old = batch.object(okey)
    if old is None or old.generation != generation:
        return False
    if not pool.expired(old, now_ms) and (not old.cache or layout.hold_until_ms(old) > now_ms):
        return False
    batch.replace_object(okey, old, None)
    return True


def lost(batch: Batch, okey: bytes, generation: int) -> bool:
    """After a failed checksum: the cold copy takes over; without one the record goes. False when it has moved on."""
    old = batch.object(okey)
    if old is None or old.generation != generation:
        return False
    if old.residency == Residency.BOTH:
        return evicted(batch, okey, generation)
    batch.replace_object(okey, old, None)
    return True


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


def listed(batch: Batch, okey: bytes, generation: int) -> bool:
    """Notes that the manifest of an object in pieces is written."""
    old = batch.object(okey)
    if old is None or old.generation != generation:
        return False
    batch.replace_object(okey, old, msgspec.structs.replace(old, unlisted=False))
    return True


def expire_due(batch: Batch, pool: Pool, now_ms: int, limit: int) -> int:
    """Deletes objects past their deadline and ends lapsed pins and holds; returns how many rows it dealt with."""
    expired = due(batch, "expiry", now_ms, limit)
    for okey, generation in expired:
        old = batch.object(okey)
        if old is None or old.generation != generation:
            continue
        deadline_ms = pool.deadline_ms(old)
        later = None if now_ms >= deadline_ms else msgspec.structs.replace(old, expires_ms=deadline_ms)
        batch.replace_object(okey, old, later)
    lapsed = due(batch, "leases", now_ms, limit)
    for okey, generation in lapsed:
        old = batch.object(okey)
        if old is None or old.generation != generation:
            continue
        free: ObjectRecord = msgspec.structs.replace(old)
        if free.pin_until_ms <= now_ms:
            free.pin_until_ms = 0
        if free.restore_until_ms <= now_ms:
            free.restore_until_ms = 0
        batch.replace_object(okey, old, free)
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
    now = batch.object(okey)
    if now is None or now.generation != old.generation or now.extents != old.extents:
        return False
    batch.replace_object(okey, now, msgspec.structs.replace(now, extents=extents))
    return True


# -- buckets -----------------------------------------------------------------------------------------------------


def create_bucket(batch: Batch, record: BucketRecord) -> BucketRecord:
    if batch.bucket(record.name) is not None:
        raise BucketExists(bucket=record.name)
    counters = batch.counters()
    counters.bucket_number += 1
    record.number = counters.bucket_number
    batch.put("buckets", record.name.encode(), layout.BUCKET.encode(record))
    batch.put("stale_buckets", record.name.encode())
    return record


def delete_bucket(batch: Batch, pool: Pool, name: str, now_ms: int) -> None:
    """Removes an empty bucket; uploads under way in it are aborted. Objects past their deadline do not count."""
    record = batch.bucket(name)
    if record is None:
        raise NoSuchBucket(bucket=name)
    prefix = layout.bucket_prefix(record.number)
    dead = []
    for okey, value in batch.rows("objects", prefix=prefix):
        if not pool.expired(layout.OBJECT.decode(value), now_ms):
            raise BucketNotEmpty(bucket=name)
        dead.append(okey)
    for okey in dead:
        batch.replace_object(okey, batch.object(okey), None)
    for ukey, value in list(batch.rows("uploads", prefix=prefix)):
        batch.drop_upload(ukey, layout.UPLOAD.decode(value))
    batch.delete("buckets", name.encode())
    batch.put("stale_buckets", name.encode())


def change_bucket(batch: Batch, name: str, change: BucketChange) -> BucketRecord:
    record = batch.bucket(name)
    if record is None:
        raise NoSuchBucket(bucket=name)
    for document, text in change.documents.items():
        if text is None:
            record.documents.pop(document, None)
        else:
            record.documents[document] = text
    if change.versioning is not None:
        record.versioning = change.versioning
    if change.object_lock is not None:
        record.object_lock = change.object_lock
    batch.put("buckets", name.encode(), layout.BUCKET.encode(record))
    batch.put("stale_buckets", name.encode())
    return record


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
        found = int(checksums.combine_crc64nvme(found, part.crc64, part.size))
    return found


def complete_upload(
    batch: Batch,
    pool: Pool,
    bucket: BucketRecord,
    ukey: bytes,
    claims: Sequence[PartClaim],
    options: CompleteOptions,
    manifest: str,
    now_ms: int,
) -> ObjectRecord | list[bytes]:
    """Turns the named parts into the object, copying nothing. `manifest`: backing name to use if it is cold in pieces.

    When some named parts are cold, all must be: then the keys of those that are still hot-only are answered, to be
    demoted before trying again.
    """
    alive(batch, bucket)
    number, key, upload_id = layout.split_upload_key(ukey)
    okey = layout.object_key(number, key)
    upload = batch.upload(ukey)
    if upload is None:
        done = visible(pool, batch, okey, now_ms)
        if done is not None and done.upload_id == upload_id and done.etag == options.etag:
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
    if in_pieces:
        record.residency = Residency.COLD_ONLY
        record.cold = (ColdPiece(manifest, 0), *(part.cold for part in chosen if part.cold is not None))
        record.unlisted = True
    if not upload.internal:
        record.parts = tuple(
            PartInfo(part.number, part.size, part.etag, part.modified_ms, part.checksum) for part in chosen
        )
    put_object(batch, pool, bucket, okey, record, options.conditions, now_ms)
    pool.heat.inherit(record.generation, [part.generation for part in chosen])
    # The parts' rows go after the object's stand: a name in the backing store is never without an owner in between.
    batch.drop_upload(ukey, upload)
    for piece in record.cold:
        batch.delete("tombstones", piece.name.encode())
    return record
