"""Making the index again from the backing store alone.

Promise: every object whose cold stream (and, if it is in pieces, manifest and pieces) is whole comes back cold-only,
with its metadata, ETag and dates; what cannot be read is named, never guessed. An index that already holds a newer
generation of a key keeps it.
Owns nothing. Does not know processes; the gateway must not run. Kind: shell.
Spec: docs/FORMAT.md, "Cold objects"; docs/OPERATIONS.md, "recall rebuild".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from tiering import layout, mutations, versions
from tiering.backing import keys
from tiering.backing.coldobject import read_head
from tiering.buckets import Buckets
from tiering.cold import ColdSide, apply_note, record_of
from tiering.contract import BucketInfo, NoVersioning
from tiering.index import Batch
from tiering.layout import BucketRecord, ColdPiece, ObjectRecord
from tiering.pool import Pool, paid
from tiering.ports import BackingCorrupt, BackingStat, NotFound

BUCKET_RECORD_BYTES_MAX: Final = 16 << 20


class Rebuilt(msgspec.Struct):
    """What was found. `unreadable`: names in the backing store that are no whole cold object, with the reason."""

    buckets: int = 0
    objects: int = 0
    kept: int = 0
    unreadable: list[str] = []


async def rebuild(
    pools: Mapping[str, Pool],
    buckets: Buckets,
    cold: ColdSide,
    only: Collection[str] | None = None,
    *,
    pay: bool = True,
) -> Rebuilt:
    """Adds to the pools what the backing store holds; to those named by `only`, if given. Raises BackingUnavailable.

    What a surviving index has deleted, and not yet from the backing store, stays deleted. `pay` False: the pools still
    await more than this.
    """
    found = Rebuilt()
    targets = {name: pool for name, pool in pools.items() if only is None or name in only}
    async for stat in cold.backing.list(keys.BUCKET_RECORDS):
        bucket = await _bucket_record(cold, stat, found)
        if bucket is not None and not _marked(pools, "stale_buckets", bucket.name):
            await _bucket(buckets, targets, bucket, found)
    async for stat in cold.backing.list(""):
        if keys.is_reserved(stat.key) or _marked(pools, "tombstones", stat.key):
            continue
        about = keys.noted_name(stat.key)
        if about is None:
            await _object(targets, buckets, cold, stat.key, found)
        else:  # its object's name sorts before it
            await _note(targets, buckets, cold, about, stat, found)
    for pool in targets.values() if pay else ():
        await pool.committer.submit(paid)
    return found


def _marked(pools: Mapping[str, Pool], database: str, name: str) -> bool:
    """Whether a pool still owes the backing store the news of a deletion."""
    for pool in pools.values():
        with pool.index.view() as view:
            if view.get(database, name.encode()) is not None:
                return True
    return False


async def _bucket_record(cold: ColdSide, stat: BackingStat, found: Rebuilt) -> BucketInfo | None:
    """What a bucket's record says; None for one that cannot be read: its objects then make the bucket, without documents."""
    try:
        name = keys.parse_bucket_record_key(stat.key)
        if stat.size > BUCKET_RECORD_BYTES_MAX:
            raise ValueError(f"it is longer than {BUCKET_RECORD_BYTES_MAX} bytes")
        data = b"".join([bytes(chunk) async for chunk in cold.backing.get(stat.key, 0, stat.size)])
        fields = msgspec.json.decode(data, type=dict[str, Any])
        known = {field: fields[field] for field in BucketInfo.__struct_fields__ if field in fields}
        bucket = msgspec.convert(
            msgspec.structs.astuple(BucketInfo(**known)), BucketInfo
        )  # which judges the values too
        if bucket.name != name:
            raise ValueError("it describes another bucket")
        return bucket
    except (BackingCorrupt, NotFound, RecursionError, TypeError, ValueError) as error:  # msgspec's are ValueErrors
        found.unreadable.append(f"{stat.key}: {error or type(error).__name__}")
        return None


async def _bucket(buckets: Buckets, pools: Mapping[str, Pool], bucket: BucketInfo, found: Rebuilt) -> None:
    """Makes a bucket again: in its own pool, else in the first that keeps what it has."""
    if buckets.find(bucket.name) is not None:
        return
    own = pools.get(bucket.pool)
    if own is None or (bucket.versioning and not own.keeps_versions):
        fit = [name for name, pool in pools.items() if pool.keeps_versions or not bucket.versioning]
        bucket = msgspec.structs.replace(bucket, pool=next(iter(fit), next(iter(pools))))
    try:
        await buckets.create(bucket)
    except NoVersioning:
        found.unreadable.append(f"bucket {bucket.name}: no pool keeps versions")
        await buckets.create(msgspec.structs.replace(bucket, versioning="", object_lock=False))
    found.buckets += 1


async def _object(pools: Mapping[str, Pool], buckets: Buckets, cold: ColdSide, name: str, found: Rebuilt) -> None:
    try:
        head = await read_head(cold.backing, name)
        meta: dict[str, Any] = head.meta
        pieces = [ColdPiece("", head.size), *(ColdPiece(str(at), int(size)) for at, size in meta.get("pieces", ()))]
        record = record_of(meta, tuple(pieces))
        bucket_name, key, pool_name = str(meta["bucket"]), str(meta["key"]), str(meta["pool"])
        if (
            keys.cold_key(bucket_name, key, record.version) != name
            or sum(piece.size for piece in pieces) != record.size
        ):
            raise BackingCorrupt("it describes another object")
        for piece in pieces[1:]:
            await cold.backing.stat(piece.name)
    except (BackingCorrupt, NotFound, KeyError, TypeError, ValueError) as error:
        found.unreadable.append(f"{name}: {error or type(error).__name__}")
        return
    if buckets.find(bucket_name) is None:
        await _bucket(
            buckets, pools, BucketInfo(name=bucket_name, created_ms=record.modified_ms, pool=pool_name), found
        )
    target = buckets.find(bucket_name)
    assert target is not None
    pool, bucket = target
    if pool.config.name not in pools:
        found.kept += 1
    elif await pool.committer.submit(lambda batch: _restore(batch, bucket, key, record)):
        found.objects += 1
    else:
        found.kept += 1


async def _note(
    pools: Mapping[str, Pool], buckets: Buckets, cold: ColdSide, about: str, stat: BackingStat, found: Rebuilt
) -> None:
    """Brings the object that was made again from `about` to what its note says."""
    try:
        bucket_name, key, version = keys.parse_cold_key(about)
        if key is None:
            key = str((await read_head(cold.backing, about)).meta["key"])
        data = b"".join([bytes(chunk) async for chunk in cold.backing.get(stat.key, 0, stat.size)])
        target = buckets.find(bucket_name)
        if target is None or target[0].config.name not in pools:
            return
        pool, bucket = target
        okey = layout.object_key(bucket.number, key)
        await pool.committer.submit(lambda batch: _restore_note(batch, bucket, okey, version, data))
    except (BackingCorrupt, NotFound, KeyError, TypeError, ValueError) as error:
        found.unreadable.append(f"{stat.key}: {error or type(error).__name__}")


def _restore_note(batch: Batch, bucket: BucketRecord, okey: bytes, version: str, data: bytes) -> None:
    """A record that a surviving index has kept knows of its note, and newer things than it."""
    standing = versions.find(batch, okey, version)
    if standing is None or standing[1].note or not standing[1].cold:
        return
    row, old = standing
    new: ObjectRecord = msgspec.structs.replace(old)
    if apply_note(new, data):
        new.note = True
        batch.replace_object(row, old, new)
        _suit(batch, bucket, new)


def _restore(batch: Batch, bucket: BucketRecord, key: str, record: ObjectRecord) -> bool:
    okey = layout.object_key(bucket.number, key)
    counters = batch.counters()
    counters.generation = max(counters.generation, record.generation)
    if not versions.insert(batch, okey, record):
        return False
    _suit(batch, bucket, record)
    return True


def _suit(batch: Batch, bucket: BucketRecord, record: ObjectRecord) -> None:
    """Makes the bucket one that may have the object in it: its own record may be lost, or older."""
    now = batch.bucket(bucket.name)
    if now is None:
        return
    locked = now.object_lock or record.lock is not None
    versioning = "Enabled" if locked or (record.version and not now.versioning) else now.versioning
    if (locked, versioning) != (now.object_lock, now.versioning):
        mutations.write_bucket(batch, msgspec.structs.replace(now, object_lock=locked, versioning=versioning))
