"""A complete store in one process's memory: the reference for what `tiering.contract` means, and a store for tests.

The promise: every call of the contract, with the same judgements and errors as the pool-based stores, and the simplest
code that gives them. Nothing survives the process; nothing is ever evicted unless asked (`ObjectChange.tier`).

Owns every record and byte it is given. Does not know files, LMDB, the backing store, HTTP.
Kind: owner (one thread: the loop). Invariants: an `ObjectInfo` handed out never changes; no `await` inside a call, so
every call is atomic. Spec: tiering/contract.py, docs/SEMANTICS.md.
"""

from __future__ import annotations

import base64
import hashlib
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec
from awscrt import checksums

from tiering import conditions
from tiering import contract as c

_CHUNK_BYTES = 1 << 20
T = TypeVar("T")


class _Stored(NamedTuple):
    info: c.ObjectInfo
    data: bytes
    upload_id: str = ""  # what it was completed from


class _Pending:
    def __init__(self, info: c.UploadInfo) -> None:
        self.info = info
        self.parts: dict[int, tuple[c.PartInfo, bytes]] = {}


class _Writer(Generic[T]):
    """Gathers a body; `finish` makes it visible."""

    def __init__(self, size: int, finish: Callable[[bytes, int, c.PutResult], T]) -> None:
        self.crc64 = 0
        self._room, self._data, self._finish = size, bytearray(), finish

    def write(self, data: c.Buffer) -> None:
        assert len(self._data) + len(data) <= self._room, "more bytes than were announced"
        self._data += data
        self.crc64 = checksums.crc64nvme(bytes(data), self.crc64)

    async def commit(self, result: c.PutResult) -> T:
        return self._finish(bytes(self._data), self.crc64, result)

    def abort(self) -> None:
        self._data.clear()


async def _chunks(data: bytes, start: int, stop: int) -> AsyncIterator[c.Buffer]:
    for at in range(start, stop, _CHUNK_BYTES):
        yield memoryview(data)[at : min(at + _CHUNK_BYTES, stop)]


def _checksum(algorithm: str, data: bytes) -> c.Checksum:
    if algorithm.startswith("CRC"):
        crc = getattr(checksums, algorithm.lower())(data)
        raw: bytes = crc.to_bytes(8 if algorithm == "CRC64NVME" else 4, "big")
    else:
        raw = hashlib.new(algorithm.lower(), data).digest()
    return c.Checksum(algorithm, base64.b64encode(raw).decode())


def _opaque_etag(crc64: int, size: int) -> str:
    return f"{crc64:016x}{size:x}".ljust(33, "x")  # 33 or more characters: nobody takes it for an MD5


class MemoryStore:
    """`tiering.contract.Store` over dictionaries. `pools`: name → whether its buckets have opaque ETags; first is default.

    `capacity_bytes` bounds all objects (TierFull above it), `pin_bytes_max` the pinned ones (PinLimit).
    """

    def __init__(
        self,
        clock: c.Clock,
        pools: Mapping[str, bool] | None = None,
        capacity_bytes: int = 1 << 60,
        pin_bytes_max: int = 1 << 60,
    ) -> None:
        self._clock = clock
        self._pools = pools or {"standard": False, "kv": True}
        self._capacity_bytes, self._pin_bytes_max = capacity_bytes, pin_bytes_max
        self._buckets: dict[str, c.BucketInfo] = {}
        self._objects: dict[str, dict[str, _Stored]] = {}
        self._uploads: dict[str, _Pending] = {}
        self._last = 0

    # -- buckets

    async def create_bucket(self, bucket: c.BucketInfo) -> None:
        pool = bucket.pool or next(iter(self._pools))
        if pool not in self._pools:
            raise c.UnknownPool(pool=pool)
        if bucket.name in self._buckets:
            raise c.BucketExists(bucket=bucket.name)
        opaque = bucket.opaque_etag or self._pools[pool]
        self._buckets[bucket.name] = msgspec.structs.replace(bucket, pool=pool, opaque_etag=opaque)
        self._objects[bucket.name] = {}

    async def delete_bucket(self, name: str) -> None:
        if self.list(name, c.ListOptions(limit=1)).objects:
            raise c.BucketNotEmpty(bucket=name)
        del self._buckets[name], self._objects[name]
        self._uploads = {i: up for i, up in self._uploads.items() if up.info.bucket != name}

    def bucket(self, name: str) -> c.BucketInfo:
        try:
            return self._buckets[name]
        except KeyError:
            raise c.NoSuchBucket(bucket=name) from None

    def buckets(self) -> Sequence[c.BucketInfo]:
        return [self._buckets[name] for name in sorted(self._buckets)]

    async def change_bucket(self, name: str, change: c.BucketChange) -> c.BucketInfo:
        merged = {**self.bucket(name).documents, **change.documents}
        kept = {key: text for key, text in merged.items() if text is not None}
        changed = msgspec.structs.replace(self._buckets[name], documents=kept)
        changed.versioning = change.versioning or changed.versioning
        changed.object_lock = change.object_lock or changed.object_lock
        self._buckets[name] = changed
        return self._buckets[name]

    # -- objects

    def _look(self, bucket: str, key: str) -> _Stored | None:
        """What stands at a key now; an expired object is gone at its deadline."""
        self.bucket(bucket)
        stored = self._objects[bucket].get(key)
        if stored is not None and 0 < stored.info.expires_ms <= self._clock.now_ms():
            del self._objects[bucket][key]
            return None
        return stored

    def _find(self, bucket: str, key: str) -> _Stored:
        stored = self._look(bucket, key)
        if stored is None:
            raise c.NoSuchKey(key=key)
        return stored

    def _judged(self, bucket: str, key: str, wanted: c.Conditions | None) -> _Stored | None:
        stored = self._look(bucket, key)
        conditions.judge_write(wanted, stored.info if stored else None)
        return stored

    def _keep(self, bucket: str, key: str, stored: _Stored, **leases: Any) -> c.ObjectInfo:
        """Stores a record with changed fields, unless its pin does not fit."""
        info = msgspec.structs.replace(stored.info, **leases)
        now_ms = self._clock.now_ms()
        if info.pin_until_ms > now_ms and leases.get("pin_until_ms"):
            others = (s for b in self._objects for k, s in self._objects[b].items() if (b, k) != (bucket, key))
            pinned = sum(s.info.size for s in others if s.info.pin_until_ms > now_ms)
            if pinned + info.size > self._pin_bytes_max:
                raise c.PinLimit(limit_bytes=self._pin_bytes_max)
        self._objects[bucket][key] = stored._replace(info=info)
        return info

    def _room(self, size: int) -> None:
        used = sum(len(s.data) for b in self._objects.values() for s in b.values())
        if used + size > self._capacity_bytes:
            raise c.TierFull(capacity_bytes=self._capacity_bytes)

    def _leases(self, pin_ms: int | None, ttl: c.Ttl | None) -> dict[str, Any]:
        now_ms, fields = self._clock.now_ms(), dict[str, Any]()
        if pin_ms is not None:
            fields["pin_until_ms"] = c.FOREVER_MS if pin_ms == c.FOREVER_MS else now_ms + pin_ms if pin_ms else 0
        if ttl is not None:
            fields |= {"ttl_ms": ttl.ttl_ms, "sliding": ttl.sliding and ttl.ttl_ms > 0}
            fields["expires_ms"] = now_ms + ttl.ttl_ms if ttl.ttl_ms else 0
        return fields

    def _next(self) -> int:
        self._last += 1
        return self._last

    def _store(self, bucket: str, key: str, data: bytes, crc64: int, put: c.PutOptions, **fields: Any) -> c.ObjectInfo:
        """Makes a new generation. `fields`: etag, checksum, parts, upload_id."""
        upload_id = fields.pop("upload_id", "")
        if fields.get("etag") is None:
            fields["etag"] = _opaque_etag(crc64, len(data))
        info = c.ObjectInfo(
            generation=self._next(),
            size=len(data),
            modified_ms=self._clock.now_ms(),
            crc64=crc64,
            content_type=put.content_type,
            headers=dict(put.headers),
            metadata=dict(put.metadata),
            tags=dict(put.tags),
            storage_class=put.storage_class,
            **fields,
        )
        return self._keep(bucket, key, _Stored(info, data, upload_id), **self._leases(put.pin_ms, put.ttl))

    def open(self, bucket: str, key: str, options: c.ReadOptions) -> c.Reading:
        stored = self._find(bucket, key)
        info, cold = stored.info, stored.info.residency is c.Residency.COLD_ONLY
        conditions.judge_read(options.conditions, info)
        start, stop = conditions.resolve(info, options.range, options.part_number)
        tier: Literal["hot", "cold"] = "cold" if cold else "hot"
        if options.head:
            return c.Reading(info, start, stop, None, tier)
        if cold:
            info = self._keep(bucket, key, stored, residency=c.Residency.BOTH)
        if info.sliding:
            info = self._keep(bucket, key, self._find(bucket, key), expires_ms=self._clock.now_ms() + info.ttl_ms)
        return c.Reading(info, start, stop, _chunks(stored.data, start, stop), tier)

    def put(self, bucket: str, key: str, size: int, options: c.PutOptions) -> c.Writer:
        self._judged(bucket, key, options.conditions)
        self._room(size)

        def finish(data: bytes, crc64: int, result: c.PutResult) -> c.ObjectInfo:
            self._judged(bucket, key, options.conditions)
            return self._store(bucket, key, data, crc64, options, etag=result.etag, checksum=result.checksum)

        return _Writer(size, finish)

    async def copy(self, source: tuple[str, str], target: tuple[str, str], options: c.CopyOptions) -> c.ObjectInfo:
        self.bucket(target[0])
        stored = self._find(*source)
        old = stored.info
        conditions.judge_source(options.source_conditions, old)
        self._judged(*target, options.conditions)
        self._room(old.size)
        kept = options.replace or c.PutOptions(
            content_type=old.content_type,
            headers=old.headers,
            metadata=old.metadata,
            storage_class=options.storage_class,
        )
        put = msgspec.structs.replace(
            kept,
            tags=old.tags if options.tags is None else options.tags,
            storage_class=options.storage_class or kept.storage_class,
            pin_ms=options.pin_ms,
            ttl=options.ttl,
        )
        wanted = options.checksum_algorithm
        checksum = _checksum(wanted, stored.data) if wanted else old.checksum
        return self._store(*target, stored.data, old.crc64, put, etag=old.etag, checksum=checksum, parts=old.parts)

    async def change(self, bucket: str, key: str, change: c.ObjectChange) -> c.ObjectInfo:
        stored = self._find(bucket, key)
        conditions.judge_write(change.conditions, stored.info)
        fields = self._leases(change.pin_ms, change.ttl)
        if change.tags is not None:
            fields["tags"] = dict(change.tags)
        if change.restore_ms is not None:
            fields["restore_until_ms"] = self._clock.now_ms() + change.restore_ms
        cold = stored.info.residency is c.Residency.COLD_ONLY
        if change.tier == "cold":
            fields["residency"] = c.Residency.COLD_ONLY
        elif change.tier == "both" or (cold and (change.tier == "hot" or change.restore_ms is not None)):
            fields["residency"] = c.Residency.BOTH
        return self._keep(bucket, key, stored, **fields)

    async def delete(self, bucket: str, key: str, options: c.DeleteOptions = c.DELETE) -> c.Deleted:
        self._judged(bucket, key, options.conditions)
        return c.Deleted(self._objects[bucket].pop(key, None) is not None)

    async def rename(self, bucket: str, source: str, target: str, options: c.RenameOptions) -> c.ObjectInfo:
        raise NotImplementedError

    def list_versions(self, bucket: str, options: c.ListVersionsOptions) -> c.VersionListing:
        raise NotImplementedError

    def list(self, bucket: str, options: c.ListOptions) -> c.Listing:
        self.bucket(bucket)
        found = {key: s.info for key in list(self._objects[bucket]) if (s := self._look(bucket, key))}
        page = _page(found, options.prefix, options.delimiter, options.after, options.limit)
        return c.Listing([(key, found[key]) for key in page.keys], page.prefixes, page.truncated, page.last)

    # -- uploads

    async def begin_upload(
        self,
        bucket: str,
        key: str,
        options: c.PutOptions,
        checksum_algorithm: str = "",
        checksum_kind: Literal["FULL_OBJECT", "COMPOSITE"] | None = None,
    ) -> c.UploadInfo:
        self.bucket(bucket)
        info = c.UploadInfo(
            bucket=bucket,
            key=key,
            upload_id=f"{self._next():016x}",
            initiated_ms=self._clock.now_ms(),
            options=options,
            checksum_algorithm=checksum_algorithm,
            checksum_kind=checksum_kind,
        )
        self._uploads[info.upload_id] = _Pending(info)
        return info

    def _upload(self, bucket: str, key: str, upload_id: str) -> _Pending:
        self.bucket(bucket)
        pending = self._uploads.get(upload_id)
        if pending is None or (pending.info.bucket, pending.info.key) != (bucket, key):
            raise c.NoSuchUpload(upload_id=upload_id)
        return pending

    def put_part(self, bucket: str, key: str, upload_id: str, number: int, size: int) -> c.PartWriter:
        self._upload(bucket, key, upload_id)
        self._room(size)

        def finish(data: bytes, crc64: int, result: c.PutResult) -> c.PartInfo:
            etag = result.etag if result.etag is not None else _opaque_etag(crc64, len(data))
            part = c.PartInfo(number, len(data), etag, self._clock.now_ms(), result.checksum)
            self._upload(bucket, key, upload_id).parts[number] = part, data
            return part

        return _Writer(size, finish)

    def upload(self, bucket: str, key: str, upload_id: str) -> c.UploadInfo:
        return self._upload(bucket, key, upload_id).info

    def parts(
        self, bucket: str, key: str, upload_id: str, after: int = 0, limit: int = c.PARTS_MAX
    ) -> Sequence[c.PartInfo]:
        parts = self._upload(bucket, key, upload_id).parts
        return [parts[number][0] for number in sorted(parts) if number > after][:limit]

    async def complete_upload(
        self, bucket: str, key: str, upload_id: str, parts: Sequence[c.PartClaim], options: c.CompleteOptions
    ) -> c.ObjectInfo:
        standing = self._look(bucket, key)
        if standing is not None and standing.upload_id == upload_id and standing.info.etag == options.etag:
            return standing.info
        pending = self._upload(bucket, key, upload_id)
        chosen = conditions.judge_claims({number: part for number, (part, _) in pending.parts.items()}, parts)
        data = b"".join(pending.parts[part.number][1] for part in chosen)
        if options.object_size not in (None, len(data)):
            raise c.SizeMismatch(stated=options.object_size, stored=len(data))
        self._judged(bucket, key, options.conditions)
        info = self._store(
            bucket,
            key,
            data,
            checksums.crc64nvme(data),
            pending.info.options,
            etag=options.etag,
            checksum=options.checksum,
            parts=tuple(chosen),
            upload_id=upload_id,
        )
        del self._uploads[upload_id]
        return info

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        self._upload(bucket, key, upload_id)
        del self._uploads[upload_id]

    def pending(self, bucket: str, options: c.PendingOptions) -> c.PendingListing:
        self.bucket(bucket)
        mine = sorted((u.info.key, i) for i, u in self._uploads.items() if u.info.bucket == bucket)
        if options.upload_id_after:
            floor = (options.key_after, options.upload_id_after)
            mine = [pair for pair in mine if pair > floor]
            after = ""
        else:
            after = options.key_after
        # "\0" sorts below every other character, so (key, id) pairs keep their order as one text.
        found = {f"{key}\0{i}": i for key, i in mine if not after or key > after}
        page = _page(found, options.prefix, options.delimiter, after, options.limit)
        uploads = [self._uploads[found[text]].info for text in page.keys]
        key, _, upload_id = page.last.rpartition("\0")
        return c.PendingListing(uploads, page.prefixes, page.truncated, key, upload_id)


class _Page(NamedTuple):
    keys: list[str]
    prefixes: list[str]
    truncated: bool
    last: str


def _page(found: Mapping[str, Any], prefix: str, delimiter: str, after: str, limit: int) -> _Page:
    """One page: keys in order (code point order is UTF-8 byte order), rolled up to common prefixes."""
    keys, prefixes, last = list[str](), list[str](), ""
    ordered = sorted(found)
    for key in ordered[bisect_right(ordered, after) if after else 0 :]:
        if not key.startswith(prefix):
            continue
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        common = key[: cut + len(delimiter)] if cut >= 0 else ""
        if common and (common == after or (prefixes and prefixes[-1] == common)):
            continue
        if len(keys) + len(prefixes) == limit:
            return _Page(keys, prefixes, limit > 0, last)
        (prefixes if common else keys).append(common or key)
        last = common or key
    return _Page(keys, prefixes, False, "")
