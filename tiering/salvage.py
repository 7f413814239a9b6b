"""What a damaged index still says, put into a new one: objects whose only copy is on flash, deletions, and the names of what is
gone.

Promise: nothing comes back but records that can be read whole, with bytes that pass their checksums; everything else that the
damaged index names, and the new one does not have, is named. How many records could not be read is said, or that this is not
known: their names are in no other place.
Owns nothing. Does not know processes; the gateway must not run, and the new index has met no write yet but the rebuild's.
Kind: shell. Spec: docs/SEMANTICS.md, "Rebuild".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from tiering import layout, pages, versions
from tiering.buckets import Buckets
from tiering.cold import ColdSide
from tiering.contract import BucketInfo, Residency, StoreError
from tiering.index import Batch
from tiering.layout import BucketRecord, ObjectRecord, RegionState
from tiering.pool import Pool
from tiering.ports import BackingCorrupt, NotFound

DATABASES: Final = ("buckets", "objects", "tombstones", "stale_buckets", "uploads")


class Left(msgspec.Struct):
    """What came of a damaged index. `gone`: names of objects, or of generations of them, that are nowhere.

    `unread`: records of objects that could not be read; None when even their number could not. `uploads`: dropped.
    """

    restored: int = 0
    gone: list[str] = []
    unread: int | None = None
    uploads: int = 0


def read(path: Path) -> pages.Salvage:
    """The rows of an index that was set aside."""
    return pages.salvage(path, DATABASES)


def owed_deletions(batch: Batch, rows: pages.Salvage) -> None:
    """Before the rebuild: what was deleted, and not in the backing store yet, stays deleted."""
    for database in ("tombstones", "stale_buckets"):
        for key, value in rows.rows[database].items():
            batch.put(database, key, value)


async def restore(pool: Pool, buckets: Buckets, cold: ColdSide, rows: pages.Salvage) -> Left:
    """After the rebuild: brings back what is not in the backing store, and names the rest. Raises BackingUnavailable."""
    left = Left(unread=rows.unread["objects"], uploads=len(rows.rows["uploads"]))
    known = {number: bucket async for number, bucket in _buckets(pool, buckets, rows)}
    for okey, value in rows.rows["objects"].items():
        try:
            number, key = layout.split_object_key(okey)
            record: ObjectRecord = layout.OBJECT.decode(value)
        except (msgspec.MsgspecError, ValueError):
            left.unread = (left.unread or 0) + 1
            continue
        bucket = known.get(number)
        name = _name(bucket.name if bucket is not None else f"bucket number {number}", key, record)
        if bucket is None:
            left.gone.append(name)
            continue
        target = layout.object_key(bucket.number, key)
        if _stands(pool, target, record):
            continue
        if await _is_whole(pool, cold, target, record) and await _insert(pool, target, record):
            left.restored += 1
        elif not _stands(pool, target, record):
            left.gone.append(name)
    return left


def _name(bucket: str, key: str, record: ObjectRecord) -> str:
    version = f" version {record.version}" if record.version else ""
    return f"{bucket}/{key}{version}"


async def _buckets(pool: Pool, buckets: Buckets, rows: pages.Salvage) -> Any:
    """Number in the damaged index, and the bucket as it is now, made if need be."""
    for value in rows.rows["buckets"].values():
        try:
            old: BucketRecord = layout.BUCKET.decode(value)
            found = buckets.find(old.name)
            if found is None:
                info = {name: getattr(old, name) for name in BucketInfo.__struct_fields__}
                yield old.number, await buckets.create(BucketInfo(**info))
            elif found[0] is pool:
                yield old.number, found[1]
        except (msgspec.MsgspecError, StoreError, ValueError):
            continue


def _stands(pool: Pool, okey: bytes, record: ObjectRecord) -> bool:
    """Whether that generation is there, or a newer one where only one may be."""
    with pool.index.view() as view:
        found = versions.find(view, okey, record.version)
    return found is not None and found[1].generation >= record.generation


async def _is_whole(pool: Pool, cold: ColdSide, okey: bytes, record: ObjectRecord) -> bool:
    """Whether all bytes are where the record says."""
    if record.residency == Residency.HOT_ONLY:
        held = sum(extent.length for extent in record.extents)
        return held == record.size and all(map(pool.flash.passes, record.extents))
    try:
        for name in pool.index.cold_names(okey, record)[record.unlisted :]:
            await cold.backing.stat(name)
    except (NotFound, BackingCorrupt):
        return False
    return True


async def _insert(pool: Pool, okey: bytes, record: ObjectRecord) -> bool:
    if record.residency == Residency.BOTH:  # the rebuild did not know the copy; its hot twin is not needed
        record.residency, record.extents = Residency.COLD_ONLY, ()
    record.noncurrent_ms = 0

    def mutation(batch: Batch) -> bool:
        for extent in record.extents:
            if not _hold(batch, extent.region):
                return False
        counters = batch.counters()
        counters.generation = max(counters.generation, record.generation)
        if not versions.insert(batch, okey, record):
            return False
        standing = batch.standing(okey, record.generation)
        if standing is not None:
            batch.owe_by_key(*standing)  # it may be a copy
        return True

    return await pool.committer.submit(mutation)


def _hold(batch: Batch, region: int) -> bool:
    """Makes a free region one that has objects."""
    state = batch.region(region)
    if state is None:
        return False
    if state.state == RegionState.FREE:
        batch.delete("free", layout.region_key(region))
        state.state = RegionState.OPEN
        state.live_bytes = 0
        batch.seal_region(region)
    return True
