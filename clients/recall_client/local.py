"""`LocalReader`: blocks of a gateway on the same host, straight out of its flash, without a copy or a server in the way.

Promise: bytes seen through a lease are a stored block's and stay so until the lease ends; what is not there, expired,
cold, encrypted, or not compared with its checksum since the gateway started reads as None. Nothing is ever written but the heat
that keeps a block that is read in the tier.
Owns its mappings and read transactions. Does not know HTTP; access is permission on the data directory's files.
Kind: owner; any thread, a lease in one at a time. Invariants: a lease is an LMDB read transaction, and the gateway writes no
region again that a transaction older than its freeing may see. A lease held long keeps flash from being freed: end it. A process
has an index open once, however many readers it has, since LMDB's locks are the process's; a forked child opens it anew and never
ends what its parent began, since both have one reader table.
Spec: docs/FORMAT.md of the gateway, which this reads on its own.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import struct
import threading
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
_TRIES: Final = 16
SLOTS_MAX: Final = 1 << 14
"""Of the places for snapshots, which the gateway's processes need too, those that readers take without a look at who has them."""
LEASES_MAX: Final = 1024
"""Leases a process may have open in a pool once so many places are taken."""
_number = struct.Struct(">I")
_decode = msgspec.msgpack.Decoder().decode


class LocalError(Exception):
    """The data directory cannot be read as a gateway's."""


_life = 0
"""How many forks away from the first process this one is."""
_lock = threading.Lock()
"""Of what is open in this process."""
_open: dict[tuple[int, int], _Pool] = {}


def _in_child() -> None:
    global _life, _lock, _open
    _life, _lock, _open = _life + 1, threading.Lock(), {}


os.register_at_fork(after_in_child=_in_child)


def _disown() -> None:
    """Lets go of what the parent had open, without ending it: then this process may open the same."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()  # servers freeze what they have before they fork, and what is frozen is not among the objects
    for each in gc.get_objects():
        if type(each) is Lease and each._life != _life:
            each._txn = None
        elif type(each) is _Pool and each.life != _life:
            each.__dict__.pop("env", None)
    if frozen:
        gc.freeze()


class _Pool:
    """One pool's index and flash, opened for reading by `users` readers of this process."""

    def __init__(self, path: Path, index: tuple[int, int]) -> None:
        self.path = path
        self.users = 0
        self.life = _life
        self.slots = SLOTS_MAX
        self._index = index
        try:
            self.env = lmdb.open(
                str(path / "index"),
                readonly=True,
                lock=True,
                map_size=0,  # as the gateway has it: what is less would be outgrown
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
        self.heat, self.warms = _heat(path / "heat")
        self._map()

    def check_slots(self, taken: int) -> None:
        """Called when more places were ever taken than at the last look. Raises LocalError if this process has too many."""
        mine = str(os.getpid())
        rows = [line.split() for line in self.env.readers().splitlines()]
        leases = sum(len(row) == 3 and row[0] == mine and row[2].isdigit() for row in rows)
        if leases > LEASES_MAX:
            raise LocalError(f"{self.path}: {leases} leases are open in this process: end those that are used no more")
        self.slots = taken + LEASES_MAX

    def _map(self) -> None:
        with open(self.path / "flash", "rb") as flash:
            self._flash_file = _file(os.fstat(flash.fileno()))
            self._flash = mmap.mmap(flash.fileno(), 0, prot=mmap.PROT_READ)
        self.flash = memoryview(self._flash)

    def follow(self) -> bool:
        """Goes along with a flash that has grown, or is another. False when the index was replaced: this one is nobody's then."""
        if _identity(self.path) != self._index:
            return False
        if _file(os.stat(self.path / "flash")) != self._flash_file:
            self._map()  # the views of leases keep the former mapping
        return True

    def close(self) -> None:
        if self.life == _life:
            self.env.close()  # in a child it would end the parent's leases
        with contextlib.suppress(BufferError):  # somebody holds a view still: the mapping goes with it
            self.flash.release()
            self._flash.close()


def _acquire(path: Path) -> _Pool:
    """The pool as this process has it open, or opened now. Under the lock."""
    index = _identity(path)  # before it is opened: one that is replaced meanwhile is opened again
    pool = _open.get(index)
    if pool is None:
        pool = _open[index] = _Pool(path, index)
    pool.users += 1
    return pool


def _release(pool: _Pool) -> None:
    """Under the lock."""
    pool.users -= 1
    if not pool.users:
        for index, each in list(_open.items()):
            if each is pool:
                del _open[index]
        pool.close()


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path / "index" / "data.mdb")
    return found.st_dev, found.st_ino


def _file(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_dev, found.st_ino, found.st_size


def _heat(path: Path) -> tuple[mmap.mmap, bool]:
    """The heat table, and whether it may be written: a reader without that right leaves blocks as cold as it found them."""
    warms = os.access(path, os.W_OK)
    with open(path, "r+b" if warms else "rb", buffering=0) as table:
        access = mmap.ACCESS_WRITE if warms else mmap.ACCESS_READ
        return mmap.mmap(table.fileno(), _HEAT_HEADER + _HEAT_SLOTS, access=access), warms


class Lease:
    """Blocks of one moment. End it with `close`, or use it as a context manager; its views are invalid afterwards.

    It is that of its process: a forked child takes one of its own.
    """

    __slots__ = ("__weakref__", "_life", "_number", "_pool", "_txn")

    def __init__(self, pool: _Pool, number: int, txn: Any) -> None:
        self._life = pool.life
        self._pool = pool
        self._number = number
        self._txn = txn

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._life == _life:
            self._txn.abort()

    def read(self, key: str) -> Sequence[memoryview] | None:
        """The block in as many pieces as it was stored in, usually one; None for a miss. About 1.3 µs.

        Raises LocalError in another process than the lease's, and where the index is damaged.
        """
        if self._life != _life:
            raise LocalError("a lease of the process that forked this one keeps nothing here")
        try:
            data = self._txn.get(_number.pack(self._number) + key.encode(), db=self._pool.objects)
        except lmdb.BadValsizeError:  # longer than any key
            return None
        except lmdb.Error as error:
            raise LocalError(f"{self._pool.path}: {error}") from error
        if data is None:
            return None
        record = _decode(data)
        if record[_RESIDENCY] == _COLD_ONLY or (len(record) > _EXPIRES and _is_withheld(record)):
            return None
        pool = self._pool
        heat = pool.heat
        at = _HEAT_HEADER + record[_GENERATION] % _HEAT_SLOTS
        value = heat[at]
        if value < _CHECKED:
            return None  # what a power loss or another hand has left on flash: the gateway's next read tells
        if value < _CHECKED + _HEAT_MAX and pool.warms:
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
        try:
            with open(Path(data_dir, "buckets.version"), "rb") as version:
                self._map = mmap.mmap(version.fileno(), mmap.PAGESIZE, prot=mmap.PROT_READ)
        except FileNotFoundError:
            raise LocalError(f"{data_dir}: no pools here") from None
        self._version = memoryview(self._map).cast("Q")
        try:
            self._place = self._find()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LocalReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends what is open of leases; their views must be gone."""
        self._version.release()
        self._map.close()
        with _lock:
            for pool in (*self._pools.values(), *self._former):
                _release(pool)
            self._pools, self._former = {}, []

    @property
    def flash(self) -> memoryview:
        """All of the flash in which the bucket's blocks lie, mapped: leases give out pieces of it. For making it known to a
        device, which then fetches blocks by itself. Another object after the gateway has started again with a larger pool."""
        return self._place[1].flash

    def lease(self) -> Lease:
        """A moment of the store, to read any number of blocks from. Raises KeyError when the bucket is gone, LocalError when the
        gateway's data is, and when this process has far too many leases open."""
        while True:
            seen, pool, number = self._place
            if pool.life == _life:
                try:
                    txn, slots = _snapshot(pool.env)
                except lmdb.Error as error:
                    raise LocalError(f"{pool.path}: {error}") from error
                if slots > pool.slots:
                    try:
                        pool.check_slots(slots)
                    except LocalError:
                        txn.abort()
                        raise
                # After the snapshot: what it sees was written by a gateway that had told of its start, and of the bucket.
                if self._version[0] == seen:
                    return Lease(pool, number, txn)
                txn.abort()
            self._place = self._find()

    def _find(self) -> tuple[int, _Pool, int]:
        """Where the bucket is: as of which version of the map of buckets, its pool, its number."""
        with _lock:
            seen = self._version[0]
            self._follow()
            for pool in self._pools.values():
                txn, _ = _snapshot(pool.env)
                try:
                    row = txn.get(self._bucket, db=pool.buckets)
                    if row is not None:
                        return seen, pool, _decode(row)[_BUCKET_NUMBER]
                finally:
                    txn.abort()
        raise KeyError(self._bucket.decode())

    def _follow(self) -> None:
        """Opens the pools there are: a gateway that has started again may have made some larger, or anew. Under the lock."""
        if any(pool.life != _life for pool in self._pools.values()):
            self._pools, self._former = {}, []
            _disown()
        paths = [found.parent.parent for found in sorted(self._data_dir.glob("pools/*/index/data.mdb"))]
        if not paths:
            raise LocalError(f"{self._data_dir}: no pools here")
        for path in paths:
            pool = self._pools.get(path)
            if pool is None or not pool.follow():
                self._pools[path] = _acquire(path)
                self._former += () if pool is None else (pool,)


def _snapshot(env: Any) -> tuple[Any, int]:
    """A read transaction whose roots are of one commit: LMDB's copy of them can be overtaken by two commits. And how many places
    for snapshots were ever taken at once."""
    for _ in range(_TRIES):
        txn = env.begin(buffers=True)
        info = env.info()
        if info["last_txnid"] == txn.id():
            break
        txn.abort()
    else:
        txn = env.begin(buffers=True)
    return txn, info["num_readers"]
