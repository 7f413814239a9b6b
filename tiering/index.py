"""One pool's LMDB environment: every record, hot or cold, and the rows derived from it.

Promise: a write transaction changes a record and all rows derived from it together (`Batch.replace_object` is the only
place that does), so no reader ever sees one without the other.
Owns the environment, its sub-databases and its reader table. Does not know files, sockets, or what a record means.
Kind: owner; read views on any thread, one write batch at a time (LMDB's own lock, across processes). The only module
that imports lmdb. Invariants: a `View` is short-lived except for the epochs. Rows are copied out of LMDB's pages: of short
ones that costs less than a buffer does.
Spec: docs/FORMAT.md; LMDB 1.0.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import lmdb

from tiering import device, layout
from tiering.backing import keys
from tiering.contract import NoSuchBucket, Residency
from tiering.layout import (
    BucketRecord,
    Counters,
    Extent,
    ObjectRecord,
    PartRecord,
    RegionRecord,
    RegionState,
    UploadRecord,
)

READERS_MAX: Final = 1 << 15
MAP_BYTES_DEFAULT: Final = 1 << 40
"""Address space, not disk: the file grows as records are written."""


_LOCK_BYTES: Final = READERS_MAX * 64 + 128
"""The table of readers, as LMDB lays it out. It would make the file longer if this were too little."""

VIEW_TRIES: Final = 16
"""Commits would have to fall between two calls this many times in a row for a snapshot to be taken unchecked."""


RECENT_S: Final = 0.01
"""How old the sums may be for a judgement that another process may be ahead of in any case."""

COUNTERS_KEY: Final = b"counters"
_FEW: Final = 8
"""Extents that are compared one by one: up to here a set costs more than it spares."""

_COLD_ONLY: Final = Residency.COLD_ONLY
_HOT_ONLY: Final = Residency.HOT_ONLY
_decode_object = layout.OBJECT.decode
_encode_object = layout.OBJECT.encode
_RACES: Final = (lmdb.BadTxnError, lmdb.PageNotFoundError, lmdb.CorruptedError, lmdb.PanicError)
"""What `view` is asked about: it takes another snapshot, or says that there will be none."""


class IndexCorrupt(Exception):
    """The environment cannot be opened or read."""


class Index:
    """An opened environment. `synced`: commits are on the device when they return."""

    def __init__(self, path: Path, *, synced: bool, map_bytes: int = MAP_BYTES_DEFAULT, readonly: bool = False) -> None:
        self.path = path
        self.synced = synced
        self.failed = False
        """LMDB has lost an update of its first pages: it serves nothing more in this process. Stays so."""
        self._what = f"{path.parent.name}/{path.name}"
        if not readonly:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            # LMDB writes it through a mapping. Before LMDB opens it: closing it later would give up LMDB's own locks.
            device.mapped(path / "lock.mdb", _LOCK_BYTES).close()
        try:
            self._env = lmdb.open(
                str(path),
                map_size=map_bytes,
                max_dbs=len(layout.DATABASES),
                max_readers=READERS_MAX,
                sync=synced,
                metasync=synced,
                readonly=readonly,
                lib_version=1,
                mode=0o600,
                readahead=False,
            )
            self.db: dict[str, Any] = {
                name: self._env.open_db(name.encode(), create=not readonly) for name in layout.DATABASES
            }
        except lmdb.Error as error:
            raise IndexCorrupt(f"{error}: run `recall rebuild`") from error
        self.objects_db = self.db["objects"]
        self._begin = self._env.begin
        """Called with positions (database, parent, write, buffers): by name, and ended by `with`, it costs twice as much."""
        self._meta_db = self.db["meta"]
        self.extents_db = self.db["extents"]
        self._recent: tuple[Counters, float] = Counters(), 0.0  # and until when they may be used
        # LMDB's own write lock can only be waited for. These two stand before it, so that a loop can see that it is free:
        # the folder's lock keeps other processes out (and is the kernel's to give up when one dies), the other one threads.
        self._lock_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._writing = threading.Lock()

    def close(self) -> None:
        self._env.close()
        os.close(self._lock_fd)

    def view(self) -> View:
        """A snapshot of now. Use as a context manager, or end it with `close`.

        LMDB copies the snapshot's roots from a page that the commit after next overwrites: a reader held up in between
        gets roots and file length of different commits, and fails later with BAD_TXN. When the newest commit is still
        the snapshot's own, the copy was whole; else another one is taken. See docs/decisions/0002.
        """
        begin, info = self._env.begin, self._env.info
        try:
            txn = begin()
        except lmdb.PanicError as error:
            raise self.storage_error(error) from error
        for _ in range(VIEW_TRIES):
            if info()["last_txnid"] == txn.id():
                break
            txn.abort()
            txn = begin()
        return View(self, txn)

    def get_object(self, okey: bytes) -> ObjectRecord | None:
        """The record as of now, in a transaction of its own: the hot path's one look-up."""
        try:
            txn = self._begin(None, None, False, False)
        except lmdb.PanicError as error:
            raise self.storage_error(error) from error
        try:
            data = txn.get(okey, None, self.objects_db)
            return None if data is None else _decode_object(data)
        except _RACES:
            # The race `view` guards against, here without its price: it shows as an error, never as wrong data.
            with self.view() as view:
                return view.object(okey)
        finally:
            txn.abort()

    def get_objects(self, okeys: Sequence[bytes]) -> list[ObjectRecord | None]:
        """As `get_object`, for many keys, all of one snapshot."""
        decode = layout.OBJECT.decode
        try:
            with self._env.begin() as txn:
                get, db = txn.get, self.objects_db
                # By position, as `_begin`: by name a key costs a third more.
                return [None if (data := get(okey, None, db)) is None else decode(data) for okey in okeys]
        except _RACES:
            with self.view() as view:
                return [view.object(okey) for okey in okeys]

    def standing(self, okey: bytes, generation: int) -> tuple[bytes, ObjectRecord] | None:
        """As `View.standing`, as of now."""
        with self.view() as view:
            return view.standing(okey, generation)

    def cold_names(self, okey: bytes, record: ObjectRecord) -> tuple[str, ...]:
        """As `View.cold_names`, as of now."""
        with self.view() as view:
            return view.cold_names(okey, record)

    def counters(self) -> Counters:
        """The sums as of now, like `get_object`."""
        try:
            txn = self._begin(None, None, False, False)
        except lmdb.PanicError as error:
            raise self.storage_error(error) from error
        try:
            data = txn.get(COUNTERS_KEY, None, self._meta_db)
            return Counters() if data is None else layout.COUNTERS.decode(data)
        except _RACES:
            with self.view() as view:
                return view.counters()
        finally:
            txn.abort()

    def recent_counters(self) -> Counters:
        """As `counters`, but of this process's last commit if that is not older than RECENT_S. Not to be changed."""
        counters, until_s = self._recent
        return counters if time.monotonic() < until_s else self.counters()

    def committed(self, counters: Counters) -> None:
        """Notes the sums that were just committed: called by the batch."""
        self._recent = counters, time.monotonic() + RECENT_S

    def batch(self) -> Batch:
        """A write transaction; waits for other writers of any process. End it with `commit` or `abort`."""
        self._writing.acquire()
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
            return self._begin_batch()
        except BaseException:
            self._writing.release()
            raise

    def try_batch(self) -> Batch | None:
        """As `batch`, but None instead of a wait when another writer, of any process, is inside."""
        if not self._writing.acquire(blocking=False):
            return None
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return self._begin_batch()
        except BlockingIOError:
            self._writing.release()
            return None
        except BaseException:
            self._writing.release()
            raise

    def _begin_batch(self) -> Batch:
        try:
            return Batch(self, self._begin(None, None, True, False))
        except BaseException as error:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
            if isinstance(error, lmdb.Error):
                raise self.storage_error(error) from error
            raise

    def batch_ended(self) -> None:
        """Lets the next writer in: called by the batch."""
        fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
        self._writing.release()

    def sync(self) -> None:
        """Forces everything committed so far to the device. Raises DeviceFailed."""
        try:
            self._env.sync(True)
        except lmdb.Error as error:
            raise self.storage_error(error) from error

    def oldest_reader(self) -> int | None:
        """The transaction id of the oldest live snapshot in any process; None without readers. Sweeps dead processes."""
        self._env.reader_check()
        oldest: int | None = None
        for line in self._env.readers().splitlines():
            fields = line.split()
            if len(fields) == 3 and fields[2].isdigit():
                txn_id = int(fields[2])
                oldest = txn_id if oldest is None else min(oldest, txn_id)
        return oldest

    def storage_error(self, error: BaseException) -> BaseException:
        """DiskFull or DeviceFailed for what LMDB says when the device does not take its pages; any other unchanged."""
        if isinstance(error, lmdb.PanicError):
            self.failed = True
            return device.failed(self._what, "an update of the index's first pages was lost")
        if isinstance(error, lmdb.MapFullError | lmdb.DiskError):
            return device.no_room(self._what)
        if isinstance(error, lmdb.Error):
            text = str(error)
            if any(sign in text for sign in _NO_ROOM):
                return device.no_room(self._what)
            for number in _REFUSALS:
                if os.strerror(number) in text:
                    return device.failed(self._what, os.strerror(number))
        return error


_NO_ROOM: Final = ("No space left", "Disk quota", "File too large", "MDB_SHORT_WRITE")
"""LMDB reports most of these as the plain text of errno."""
_REFUSALS: Final = (errno.EIO, errno.EROFS, errno.ENXIO, errno.ENODEV, errno.EPERM, errno.EACCES)


class View:
    """A consistent snapshot. What it returns is decoded and stays valid after it is closed."""

    __slots__ = ("_index", "_txn", "db")

    def __init__(self, index: Index, txn: Any) -> None:
        self._index = index
        self._txn = txn
        self.db = index.db

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._txn.abort()

    def txn_id(self) -> int:
        return int(self._txn.id())

    def get(self, database: str, key: bytes) -> bytes | None:
        data: bytes | None = self._txn.get(key, None, self.db[database])
        return data

    def count(self, database: str) -> int:
        return int(self._txn.stat(self.db[database])["entries"])

    def used_bytes(self) -> int:
        """What rows take of the file, which never shrinks: the rest of it waits to be written again."""
        return sum(map(self.table_bytes, self.db))

    def table_bytes(self, database: str) -> int:
        """What the rows of one database take."""
        found = self._txn.stat(self.db[database])
        return int(found["psize"] * (found["leaf_pages"] + found["branch_pages"] + found["overflow_pages"]))

    def object(self, okey: bytes) -> ObjectRecord | None:
        data = self._txn.get(okey, None, self._index.objects_db)
        return None if data is None else _decode_object(data)

    def standing(self, okey: bytes, generation: int) -> tuple[bytes, ObjectRecord] | None:
        """Where that generation is now: under `okey`, or where a version goes that ceases to be the current one or
        becomes it."""
        record = self.object(okey)
        if record is not None and record.generation == generation:
            return okey, record
        okey = layout.other_key(okey, generation)
        record = self.object(okey)
        return None if record is None or record.generation != generation else (okey, record)

    def oldest_dirty_ms(self) -> int | None:
        """When the oldest object was written that waits for demotion; None when none does."""
        first = self.first("dirty")
        found = None if first is None else self.owed(layout.unpack_u64(first[0]), first[1])
        return None if found is None else found[1].modified_ms

    def owed(self, generation: int, owed: bytes) -> tuple[bytes, ObjectRecord] | None:
        """What a row in `dirty` stands for: the record of that generation, and its object key."""
        place = layout.place_owed(owed)
        if place is None:
            record = self.object(owed)
            return None if record is None or record.generation != generation else (owed, record)
        with self._txn.cursor(self._index.extents_db) as cursor:
            found = cursor.set_range(place)
            while found:
                key = cursor.key()
                if not key.startswith(place):
                    break
                if key[8:9] == layout.OWNER_OBJECT:
                    record = self.object(key[9:])
                    if record is not None and record.generation == generation:
                        return key[9:], record
                found = cursor.next()
        return None

    def bucket(self, name: str) -> BucketRecord | None:
        record: BucketRecord | None = self._decode("buckets", name.encode(), layout.BUCKET)
        return record

    def bucket_name(self, okey: bytes) -> str:
        """The name of the bucket whose number an object key has. Raises NoSuchBucket."""
        number = layout.number_key(okey)
        name = self.get("numbers", number)
        if name is None:
            raise NoSuchBucket(bucket=f"number {layout.unpack_region(number)}")
        return name.decode()

    def cold_names(self, okey: bytes, record: ObjectRecord) -> tuple[str, ...]:
        """The names of a record's cold streams, in their order. Raises NoSuchBucket."""
        return layout.cold_names(self.bucket_name(okey), okey, record) if record.cold else ()

    def note_name(self, okey: bytes, record: ObjectRecord) -> str:
        """Where the note of a record is, or would be. Raises NoSuchBucket."""
        return keys.note_key(layout.cold_name(self.bucket_name(okey), okey, record.version))

    def names(self, okey: bytes, record: ObjectRecord) -> tuple[str, ...]:
        """All that a record has in the backing store. Raises NoSuchBucket."""
        names = self.cold_names(okey, record)
        if record.note:
            names = (*names, self.note_name(okey, record))
        return (*names, record.former) if record.former else names

    def upload(self, ukey: bytes) -> UploadRecord | None:
        record: UploadRecord | None = self._decode("uploads", ukey, layout.UPLOAD)
        return record

    def part(self, pkey: bytes) -> PartRecord | None:
        record: PartRecord | None = self._decode("parts", pkey, layout.PART)
        return record

    def region(self, region: int) -> RegionRecord | None:
        record: RegionRecord | None = self._decode("regions", layout.region_key(region), layout.REGION)
        return record

    def counters(self) -> Counters:
        return self._decode("meta", COUNTERS_KEY, layout.COUNTERS) or Counters()

    def _decode(self, database: str, key: bytes, codec: layout.Codec) -> Any:
        data = self._txn.get(key, None, self.db[database])
        return None if data is None else codec.decode(data)

    def rows(self, database: str, start: bytes = b"", prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Rows from `start` (or `prefix`) on, in key order, while they have `prefix`. Lazy; do not write meanwhile."""
        with self._txn.cursor(self.db[database]) as cursor:
            first = max(start, prefix)
            found = cursor.set_range(first) if first else cursor.first()
            while found:
                key = cursor.key()
                if prefix and not key.startswith(prefix):
                    return
                yield key, cursor.value()
                found = cursor.next()

    def first(self, database: str, prefix: bytes = b"") -> tuple[bytes, bytes] | None:
        """The first row with `prefix`."""
        with self._txn.cursor(self.db[database]) as cursor:
            if cursor.set_range(prefix) if prefix else cursor.first():
                key = cursor.key()
                if key.startswith(prefix):
                    return key, cursor.value()
        return None

    def cursor(self, database: str) -> Any:
        """A raw cursor for callers that skip (listings). Close it before the view."""
        return self._txn.cursor(self.db[database])

    def region_refs(self, region: int) -> list[tuple[int, bytes]]:
        """(offset, owner) of every reference into a region, by offset."""
        found = []
        for key, _ in self.rows("extents", prefix=layout.region_key(region)):
            _, offset, owner = layout.split_extent_key(key)
            found.append((offset, owner))
        return found


class Batch(View):
    """One write transaction. Counters and region rows are changed in memory and written once, at the commit."""

    __slots__ = ("_buckets", "_counters", "_regions")

    def __init__(self, index: Index, txn: Any) -> None:
        super().__init__(index, txn)
        self._counters: Counters | None = None
        self._regions: dict[int, RegionRecord] = {}
        self._buckets: dict[str, BucketRecord | None] = {}  # as read; every mutation of a group asks for its bucket

    def commit(self) -> None:
        """Makes it all visible at once. Raises DiskFull, DeviceFailed."""
        try:
            for number, record in self._regions.items():
                self.put("regions", layout.region_key(number), layout.REGION.encode(record))
            if self._counters is not None:
                self.put("meta", COUNTERS_KEY, layout.COUNTERS.encode(self._counters))
            self._txn.commit()
            if self._counters is not None:
                self._index.committed(self._counters)
        except BaseException as error:
            self._txn.abort()
            if isinstance(error, lmdb.Error):
                raise self._index.storage_error(error) from error
            raise
        finally:
            self._index.batch_ended()

    def abort(self) -> None:
        self._txn.abort()
        self._index.batch_ended()

    def put(self, database: str, key: bytes, value: bytes = b"") -> None:
        # By position (duplicates, overwriting, appending): by name it costs twice as much.
        self._txn.put(key, value, True, True, False, self.db[database])

    def delete(self, database: str, key: bytes) -> bool:
        return bool(self._txn.delete(key, b"", self.db[database]))

    def bucket(self, name: str) -> BucketRecord | None:
        """As `View.bucket`; the record is shared by the whole batch, and not to be changed."""
        if name in self._buckets:
            return self._buckets[name]
        record = self._buckets[name] = super().bucket(name)
        return record

    def put_bucket(self, record: BucketRecord) -> None:
        self._buckets[record.name] = record
        self.put("buckets", record.name.encode(), layout.BUCKET.encode(record))
        self.put("numbers", layout.bucket_prefix(record.number), record.name.encode())

    def delete_bucket(self, record: BucketRecord) -> None:
        self._buckets[record.name] = None
        self.delete("buckets", record.name.encode())
        self.delete("numbers", layout.bucket_prefix(record.number))

    def counters(self) -> Counters:
        if self._counters is None:
            self._counters = super().counters()
        return self._counters

    def region(self, region: int) -> RegionRecord | None:
        record = self._regions.get(region)
        if record is None:
            record = super().region(region)
            if record is not None:
                self._regions[region] = record
        return record

    def next_generation(self) -> int:
        counters = self.counters()
        counters.generation += 1
        return counters.generation

    # -- objects -------------------------------------------------------------------------------------------------

    def replace_object(self, okey: bytes, old: ObjectRecord | None, new: ObjectRecord | None) -> None:
        """Writes `new` where `old` stood (either may be None) with every derived row. The only place that does."""
        if old is not None:
            self._count(old, -1)
        if new is not None:
            self._count(new, 1)
        self._move_extents(
            layout.OWNER_OBJECT + okey, old.extents if old is not None else (), new.extents if new is not None else ()
        )
        before = _derived(old) if old is not None else []
        after = _derived(new) if new is not None else []
        if before != after:
            for database, key in before:
                if (database, key) not in after:
                    self.delete(database, key)
            for database, key in after:
                if (database, key) not in before:
                    self.put(database, key, okey if database != "dirty" else _owed(okey, new))
        if old is not None and new is not None and old.extents != new.extents and layout.is_dirty(new):
            self._follow_place(old, new)
        if not (_is_plain(old) and _is_plain(new)):
            self._bury_object(okey, old, new)
        if okey[0] >= 0x80:
            if new is None and old is not None and not old.version:
                self.delete("nulls", layout.current_key(okey))
            elif new is not None and not new.version:
                self.put("nulls", layout.current_key(okey), okey)
        if new is not None:
            self._txn.put(okey, _encode_object(new), True, True, False, self._index.objects_db)
        elif old is not None:
            self.delete("objects", okey)

    def move_object(self, okey: bytes, old: ObjectRecord, to: bytes, new: ObjectRecord) -> None:
        """Puts a record under another object key, where none stands."""
        owed = self.get("dirty", layout.u64_key(old.generation))
        self.replace_object(okey, old, None)
        self.replace_object(to, None, new)
        if owed is not None and layout.place_owed(owed) is None:
            self.owe_by_key(to, new)

    def owe_by_key(self, okey: bytes, record: ObjectRecord) -> None:
        """Has a dirty record's row name its key, and keep to that: the record is a copy, which shares its bytes. By their
        place it would be looked for among all of their owners, which are as many as a client likes."""
        if layout.is_dirty(record):
            self.put("dirty", layout.u64_key(record.generation), okey)

    def _follow_place(self, old: ObjectRecord, new: ObjectRecord) -> None:
        """A record that was dirty, and still is, has been moved on flash: so has its row, if that goes by the place."""
        if old.generation == new.generation and layout.is_dirty(old):
            key, owed = layout.u64_key(new.generation), layout.owed_by_place(new)
            if owed is not None and self.get("dirty", key) == layout.owed_by_place(old):
                self.put("dirty", key, owed)

    def _bury_object(self, okey: bytes, old: ObjectRecord | None, new: ObjectRecord | None) -> None:
        if old is not None and new is not None and (
            (old.cold, old.note, old.former, old.version) == (new.cold, new.note, new.former, new.version)
        ):  # fmt: skip
            return
        self._bury(
            self.names(okey, old) if old is not None else (),
            self.names(okey, new) if new is not None else (),
        )

    def _bury(self, old: tuple[str, ...], new: tuple[str, ...]) -> None:
        """Names in the backing store that nothing refers to any more get a tombstone; names in use lose theirs."""
        kept = set(new)
        for name in old:
            if name not in kept:
                self.put("tombstones", name.encode())
        for name in kept:
            self.delete("tombstones", name.encode())

    def _count(self, record: ObjectRecord, sign: int) -> None:
        counters = self.counters()
        size = record.size * sign
        counters.objects += sign
        counters.object_bytes += size
        residency = record.residency
        if residency is not _COLD_ONLY:
            counters.hot_bytes += size
        if residency is _HOT_ONLY and not record.cache:
            counters.dirty_bytes += size
        if record.pin_until_ms or record.restore_until_ms:
            counters.pinned_bytes += size

    def _move_extents(self, owner: bytes, old: tuple[Extent, ...], new: tuple[Extent, ...]) -> None:
        if old == new:
            return
        few = len(old) + len(new) <= _FEW
        before, after = (old, new) if few else (frozenset(old), frozenset(new))
        db = self._index.extents_db
        for extent in old:
            if extent not in after:
                self._txn.delete(layout.extent_key(extent, owner), b"", db)
                self._live(extent, -1)
        for extent in new:
            if extent not in before:
                self._txn.put(layout.extent_key(extent, owner), b"", True, True, False, db)
                self._live(extent, 1)

    def _live(self, extent: Extent, sign: int) -> None:
        record = self.region(extent.region)
        assert record is not None, extent
        record.live_bytes += sign * extent.length

    # -- parts ---------------------------------------------------------------------------------------------------

    def replace_part(self, pkey: bytes, old: PartRecord | None, new: PartRecord | None) -> None:
        """As replace_object, for a part of an upload. Parts count as dirty and hot bytes while they are hot."""
        counters = self.counters()
        for record, sign in ((old, -1), (new, 1)):
            if record is not None and record.extents:
                counters.hot_bytes += sign * record.size
                if not record.cache:
                    counters.dirty_bytes += sign * record.size
        self._move_extents(
            layout.OWNER_PART + pkey, old.extents if old is not None else (), new.extents if new is not None else ()
        )
        if old is not None and layout.is_dirty_part(old):
            self.delete("dirty_parts", layout.u64_key(old.generation))
        if new is not None and layout.is_dirty_part(new):
            self.put("dirty_parts", layout.u64_key(new.generation), pkey)
        self._bury(
            (old.cold.name,) if old is not None and old.cold is not None else (),
            (new.cold.name,) if new is not None and new.cold is not None else (),
        )
        if new is not None:
            self.put("parts", pkey, layout.PART.encode(new))
        elif old is not None:
            self.delete("parts", pkey)

    def drop_upload(self, ukey: bytes, upload: UploadRecord) -> None:
        """Removes an upload with its parts."""
        for pkey, value in list(self.rows("parts", prefix=upload.upload_id.encode())):
            self.replace_part(pkey, layout.PART.decode(value), None)
        self.delete("uploads", ukey)

    # -- regions -------------------------------------------------------------------------------------------------

    def add_region(self, region: int) -> None:
        self._regions[region] = RegionRecord()
        self.put("free", layout.region_key(region))

    def claim_region(self, slot: int) -> int | None:
        """Takes a free region for one process to append to; None when there is none."""
        for key, _ in self.rows("free"):
            region = layout.unpack_region(key)
            record = self.region(region)
            assert record is not None and record.state == RegionState.FREE, region
            record.state = RegionState.OPEN
            record.slot = slot
            record.live_bytes = 0
            self.delete("free", key)
            return region
        return None

    def seal_region(self, region: int) -> None:
        """Ends appending: the region joins the end of the eviction queue."""
        record = self.region(region)
        assert record is not None and record.state == RegionState.OPEN, region
        counters = self.counters()
        counters.region_sequence += 1
        record.state = RegionState.SEALED
        record.sequence = counters.region_sequence
        self.put("queue", layout.u64_key(record.sequence), layout.region_key(region))

    def requeue_region(self, region: int) -> None:
        """Moves a sealed region to the young end of the queue without touching its bytes."""
        record = self.region(region)
        assert record is not None and record.state == RegionState.SEALED, region
        self.delete("queue", layout.u64_key(record.sequence))
        record.state = RegionState.OPEN
        self.seal_region(region)

    def free_region(self, region: int) -> None:
        """Takes an unreferenced sealed region out of the queue; it is recycled when no older snapshot is left."""
        record = self.region(region)
        assert record is not None and record.state == RegionState.SEALED, region
        assert not any(True for _ in self.rows("extents", prefix=layout.region_key(region))), region
        self.delete("queue", layout.u64_key(record.sequence))
        record.state = RegionState.FREED
        record.live_bytes = 0
        self.put("freed", layout.freed_key(self.txn_id(), region))

    def recycle(self, oldest_reader: int | None) -> int:
        """Makes freed regions that no snapshot older than their freeing can see free again; returns how many."""
        done = []
        for key, _ in self.rows("freed"):
            txn_id, region = layout.unpack_freed_key(key)
            if oldest_reader is not None and oldest_reader < txn_id:
                break
            done.append((key, region))
        for key, region in done:
            record = self.region(region)
            assert record is not None and record.state == RegionState.FREED, region
            record.state = RegionState.FREE
            self.delete("freed", key)
            self.put("free", layout.region_key(region))
        return len(done)


def _derived(record: ObjectRecord) -> list[tuple[str, bytes]]:
    """The rows that follow from a record, as (sub-database, key); the value of each is the object key, but for `dirty`."""
    rows: list[tuple[str, bytes]] = []
    generation = record.generation
    if record.residency is _HOT_ONLY and not record.cache:
        rows.append(("dirty", layout.u64_key(generation)))
    if record.unlisted:
        rows.append(("manifests", layout.u64_key(generation)))
    if record.unnoted:
        rows.append(("unnoted", layout.u64_key(generation)))
    if record.chill and layout.is_leaving(record):
        rows.append(("chills", layout.u64_key(generation)))
    if record.expires_ms:
        rows.append(("expiry", layout.time_key(record.expires_ms, generation)))
    if record.pin_until_ms or record.restore_until_ms:
        end_ms = layout.lease_end_ms(record)
        if end_ms:
            rows.append(("leases", layout.time_key(end_ms, generation)))
    return rows


def _owed(okey: bytes, record: ObjectRecord | None) -> bytes:
    assert record is not None
    return layout.owed_by_place(record) or okey


def _is_plain(record: ObjectRecord | None) -> bool:
    """Whether a record has nothing in the backing store."""
    return record is None or not (record.cold or record.note or record.former)
