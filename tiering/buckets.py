"""Which bucket is where: the bucket rows of all pools, cached by one process.

Promise: a look-up sees every bucket change that was acknowledged before it, in any process, at the price of comparing
one shared word; a bucket name stands in at most one pool.
Owns the cache, the shared word and the lock file that makes creation exclusive across pools. Does not know objects.
Kind: owner; one thread (the loop's). Spec: docs/ARCHITECTURE.md, "Buckets and pools".
"""

from __future__ import annotations

import asyncio
import fcntl
import fnmatch
import mmap
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tiering import conditions, device, layout, mutations
from tiering.committer import Mutation
from tiering.contract import BucketChange, BucketExists, BucketInfo, NoSuchBucket, UnknownPool
from tiering.layout import BucketRecord
from tiering.pool import Pool

T = TypeVar("T")


class Buckets:
    """`pools`: by name, in configuration order; the first is where a bucket goes that no pattern claims."""

    def __init__(self, pools: Mapping[str, Pool], directory: Path) -> None:
        self._pools = pools
        self._lock_path = directory / "buckets.lock"
        self._map = device.mapped(directory / "buckets.version", mmap.PAGESIZE)
        self._version = memoryview(self._map).cast("Q")
        self._seen = -1
        self._known: dict[str, tuple[Pool, BucketRecord]] = {}
        self._numbers: dict[tuple[str, int], BucketRecord] = {}
        self._numbers_seen = -1
        self.changed()  # a process killed between its commit and this step may have left the others' caches behind

    def close(self) -> None:
        self._version.release()
        self._map.close()

    def changed(self) -> None:
        """Tells every process to look again."""
        # Not counted up: of two that count at once one may write, late, what somebody has seen and is to see again.
        self._version[0] = secrets.randbits(64)

    def route(self, name: str) -> tuple[Pool, BucketRecord]:
        """The bucket and its pool. Raises NoSuchBucket. Costs a dictionary look-up when nothing changed."""
        version = self._version[0]
        if version != self._seen:
            self._known.clear()
            self._seen = version
        found = self._known.get(name)
        if found is None:
            found = self.find(name)
            if found is None:
                raise NoSuchBucket(bucket=name)
            self._known[name] = found
        return found

    def find(self, name: str) -> tuple[Pool, BucketRecord] | None:
        """As `route`, always from the index; None when there is no such bucket."""
        if not name:  # LMDB takes no empty key; requests of no bucket come here too
            return None
        for pool in self._pools.values():
            with pool.index.view() as view:
                record = view.bucket(name)
            if record is not None:
                return pool, record
        return None

    def by_number(self, pool: Pool, number: int) -> BucketRecord | None:
        """The bucket whose keys carry `number` in that pool; None when it was deleted."""
        version = self._version[0]
        if version != self._numbers_seen:
            self._numbers.clear()
            self._numbers_seen = version
        if (pool.config.name, number) not in self._numbers:
            with pool.index.view() as view:
                name = view.get("numbers", layout.bucket_prefix(number))
                record = view.bucket(name.decode()) if name is not None else None
            if record is None:
                return None
            self._numbers[pool.config.name, number] = record
        return self._numbers[pool.config.name, number]

    def all(self) -> Sequence[BucketInfo]:
        found: list[BucketInfo] = []
        for pool in self._pools.values():
            with pool.index.view() as view:
                found += [layout.BUCKET.decode(value) for _, value in view.rows("buckets")]
        return sorted(found, key=lambda bucket: bucket.name)

    def pool_for(self, name: str, wanted: str) -> Pool:
        """The pool of a new bucket: the one asked for, else the first whose pattern fits, else the first."""
        if wanted:
            pool = self._pools.get(wanted)
            if pool is None:
                raise UnknownPool(f"there is no pool named {wanted}", pools=tuple(self._pools))
            return pool
        for pool in self._pools.values():
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in pool.config.bucket_patterns):
                return pool
        return next(iter(self._pools.values()))

    async def create(self, bucket: BucketInfo) -> BucketRecord:
        """Raises BucketExists, UnknownPool, NoVersioning, LockNeedsVersions, DiskFull, DeviceFailed."""
        pool = self.pool_for(bucket.name, bucket.pool)
        record = BucketRecord(
            name=bucket.name,
            created_ms=bucket.created_ms,
            pool=pool.config.name,
            opaque_etag=pool.config.opaque_etag,
            cache=bucket.cache or pool.config.demote == "never",
            location=bucket.location,
            documents=dict(bucket.documents),
            owner=bucket.owner,
            versioning=bucket.versioning,
            object_lock=bucket.object_lock,
        )
        conditions.changed_bucket(record, BucketChange(), mutations.keeps_versions(pool, record))
        # Shielded: a client that leaves must not take the lock's only descriptor with it.
        return await asyncio.shield(asyncio.ensure_future(self._create_alone(pool, record)))

    async def _create_alone(self, pool: Pool, record: BucketRecord) -> BucketRecord:
        """The lock is held over the commit: it orders creations in different pools, which no one transaction covers."""
        lock = await asyncio.to_thread(_locked, self._lock_path)
        try:
            if self.find(record.name) is not None:
                raise BucketExists(bucket=record.name)
            made = await pool.committer.submit(lambda batch: mutations.create_bucket(batch, record))
            if not pool.index.synced:  # a bucket is never as disposable as its blocks
                await asyncio.to_thread(pool.index.sync)
        finally:
            os.close(lock)
        self.changed()
        return made

    async def delete(self, name: str, now_ms: int) -> None:
        """Raises NoSuchBucket, BucketNotEmpty."""
        pool, _ = self.route(name)
        await self._commit(pool, lambda batch: mutations.delete_bucket(batch, pool, name, now_ms))

    async def change(self, name: str, change: BucketChange) -> BucketRecord:
        pool, _ = self.route(name)
        now_ms = pool.clock.now_ms()
        return await self._commit(pool, lambda batch: mutations.change_bucket(batch, pool, name, change, now_ms))

    async def _commit(self, pool: Pool, mutation: Mutation[T]) -> T:
        async def commit() -> T:
            done = await pool.committer.submit(mutation)
            self.changed()
            return done

        # Shielded: a client that leaves does not undo the change, of which every process must hear.
        return await asyncio.shield(asyncio.ensure_future(commit()))


def _locked(path: Path) -> int:
    """Raises DiskFull, DeviceFailed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise device.refusal(error, path.name) from error
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd
