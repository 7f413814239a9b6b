"""`LocalReader`: blocks of a gateway on the same host, straight out of its flash, without a copy or a server in the way.

Promise: bytes seen through a lease are a stored block's and stay so until the lease ends; what is not there, expired,
cold or encrypted reads as None. Nothing is ever written but the heat that keeps a block that is read in the tier.
Owns its mappings and read transactions. Does not know HTTP; access is permission on the data directory's files.
Kind: owner; one thread a reader. Invariants: a lease is an LMDB read transaction, and the gateway writes no region again
that a transaction older than its freeing may see. A lease held long keeps flash from being freed: end it.
Spec: docs/FORMAT.md of the gateway, which this reads on its own.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec

FORMAT_VERSION: Final = 4
# Where the fields of an object's and a bucket's record stand (docs/FORMAT.md, "Records").
_EXTENTS, _GENERATION, _SIZE, _RESIDENCY, _EXPIRES, _MARKER, _ENCRYPTION = 0, 3, 4, 8, 19, 22, 27
_BUCKET_NUMBER: Final = 10
_COLD_ONLY: Final = 2
_HEAT_HEADER: Final = 4096
_HEAT_SLOTS: Final = 1 << 24
_HEAT_MAX: Final = 3
_CHECKED: Final = 0x80
_RACES: Final = (lmdb.BadTxnError, lmdb.PageNotFoundError, lmdb.CorruptedError)
_TRIES: Final = 16
_number = struct.Struct(">I")
_decode = msgspec.msgpack.Decoder().decode


class LocalError(Exception):
    """The data directory cannot be read as a gateway's."""


class _Pool:
    """One pool's index and flash, opened for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index = _identity(path)  # before it is opened: one that is replaced meanwhile is opened again
        try:
            self.env = lmdb.open(
                str(path / "index"),
                readonly=True,
                lock=True,
                max_dbs=64,
                max_readers=1 << 15,
                lib_version=1,
                readahead=False,
            )
            self.objects = self.env.open_db(b"objects", create=False)
            self.buckets = self.env.open_db(b"buckets", create=False)
            meta = self.env.open_db(b"meta", create=False)
            with self.env.begin() as txn:
                shape = json.loads(txn.get(b"shape", db=meta) or b"null")
        except lmdb.Error as error:
            raise LocalError(f"{path}: {error}") from error
        if not shape or shape["version"] != FORMAT_VERSION:
            raise LocalError(f"{path}: another format than {FORMAT_VERSION}")
        self.region_bytes: int = shape["region_bytes"]
        self.heat = _heat(path / "heat")
        self._map()

    def _map(self) -> None:
        with open(self.path / "flash", "rb") as flash:
            self._flash = mmap.mmap(flash.fileno(), 0, prot=mmap.PROT_READ)
        self.flash = memoryview(self._flash)

    def follow(self) -> bool:
        """Goes along with a flash that has grown. False when the index was replaced: this one is nobody's any more."""
        if _identity(self.path) != self._index:
            return False
        if os.stat(self.path / "flash").st_size > len(self.flash):
            self._map()  # the views of leases keep the former mapping
        return True

    def close(self) -> None:
        self.env.close()
        self.flash.release()
        self._flash.close()


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path / "index" / "data.mdb")
    return found.st_dev, found.st_ino


def _heat(path: Path) -> mmap.mmap | None:
    """The heat table, if it may be written: a reader without that right leaves blocks as cold as it found them."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return mmap.mmap(fd, _HEAT_HEADER + _HEAT_SLOTS)
    finally:
        os.close(fd)


class Lease:
    """Blocks of one moment. End it with `close`, or use it as a context manager; its views are invalid afterwards."""

    __slots__ = ("_number", "_pool", "_txn")

    def __init__(self, pool: _Pool, number: int, txn: Any) -> None:
        self._pool = pool
        self._number = number
        self._txn = txn

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._txn.abort()

    def read(self, key: str) -> Sequence[memoryview] | None:
        """The block in as many pieces as it was stored in, usually one; None for a miss. About 1.3 µs."""
        data = self._txn.get(_number.pack(self._number) + key.encode(), db=self._pool.objects)
        if data is None:
            return None
        record = _decode(data)
        if record[_RESIDENCY] == _COLD_ONLY or (len(record) > _EXPIRES and _is_withheld(record)):
            return None
        pool = self._pool
        heat = pool.heat
        if heat is not None:
            at = _HEAT_HEADER + record[_GENERATION] % _HEAT_SLOTS
            value = heat[at]
            if value & ~_CHECKED < _HEAT_MAX:
                heat[at] = value + 1
        flash, region_bytes = pool.flash, pool.region_bytes
        views = []
        for region, offset, length, _ in record[_EXTENTS]:
            start = region * region_bytes + offset
            views.append(flash[start : start + length])
        return views


def _is_withheld(record: Sequence[Any]) -> bool:
    """Whether there are no bytes to be had for what the end of a record says, which ends where only defaults would follow."""
    if record[_EXPIRES] and record[_EXPIRES] <= time.time() * 1000:
        return True  # a sliding deadline may have moved on since: a miss too many, never a stale block
    if len(record) <= _MARKER:
        return False
    return bool(record[_MARKER]) or (len(record) > _ENCRYPTION and record[_ENCRYPTION] is not None)


class LocalReader:
    """Reads `bucket` of the gateway whose data directory is `data_dir`. Raises LocalError, KeyError for the bucket."""

    def __init__(self, data_dir: str | Path, bucket: str) -> None:
        self._bucket = bucket.encode()
        self._data_dir = Path(data_dir)
        self._pools: dict[Path, _Pool] = {}
        self._former: list[_Pool] = []  # leases may still look at them
        self._follow()
        with open(Path(data_dir, "buckets.version"), "rb") as version:
            self._map = mmap.mmap(version.fileno(), mmap.PAGESIZE, prot=mmap.PROT_READ)
        self._version = memoryview(self._map).cast("Q")
        self._seen = -1
        self._pool, self._number = self._find()

    def __enter__(self) -> LocalReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leases must have ended, and their views be gone."""
        self._version.release()
        self._map.close()
        for pool in (*self._pools.values(), *self._former):
            pool.close()

    @property
    def flash(self) -> memoryview:
        """All of the flash in which the bucket's blocks lie, mapped: leases give out pieces of it. For making it known to a
        device, which then fetches blocks by itself. Another object after the gateway has started again with a larger pool."""
        return self._pool.flash

    def lease(self) -> Lease:
        """A moment of the store, to read any number of blocks from. Raises KeyError when the bucket is gone, LocalError when the
        gateway's data is."""
        while True:
            pool = self._pool
            txn = _snapshot(pool.env)
            # After the snapshot: what it sees was written by a gateway that had told of its start, and of the bucket.
            if self._version[0] == self._seen:
                return Lease(pool, self._number, txn)
            txn.abort()
            self._pool, self._number = self._find()

    def _find(self) -> tuple[_Pool, int]:
        seen = self._version[0]
        self._follow()
        for pool in self._pools.values():
            txn = _snapshot(pool.env)
            try:
                row = txn.get(self._bucket, db=pool.buckets)
                if row is not None:
                    self._seen = seen
                    return pool, _decode(row)[_BUCKET_NUMBER]
            finally:
                txn.abort()
        raise KeyError(self._bucket.decode())

    def _follow(self) -> None:
        """Opens the pools there are: a gateway that has started again may have made some larger, or anew."""
        paths = [found.parent.parent for found in sorted(self._data_dir.glob("pools/*/index/data.mdb"))]
        if not paths:
            raise LocalError(f"{self._data_dir}: no pools here")
        for path in paths:
            pool = self._pools.get(path)
            if pool is None or not pool.follow():
                self._pools[path] = _Pool(path)
                self._former += () if pool is None else (pool,)


def _snapshot(env: Any) -> Any:
    """A read transaction whose roots are of one commit: LMDB's copy of them can be overtaken by two commits."""
    for _ in range(_TRIES):
        txn = env.begin(buffers=True)
        if env.info()["last_txnid"] == txn.id():
            return txn
        txn.abort()
    return env.begin(buffers=True)
