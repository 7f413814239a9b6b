"""A complete store in one process's memory: the reference for what `tiering.contract` means, and a store for tests.

The promise: every call of the contract, with the same judgements and errors as the pool-based stores, and the simplest
code that gives them. Nothing survives the process; nothing is ever evicted unless asked (`ObjectChange.tier`).

Owns every record and byte it is given. Does not know files, LMDB, the backing store, HTTP.
Kind: owner (one thread: the loop). Invariants: an `ObjectInfo` handed out never changes; no `await` inside a call, so
every call is atomic. Spec: tiering/contract.py, docs/SEMANTICS.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from tiering import conditions
from tiering import contract as c
from tiering.checksum import Summer
from tiering.crc64 import crc64nvme

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
        self.crc64 = crc64nvme(bytes(data), self.crc64)

    async def commit(self, result: c.PutResult) -> T:
        return self._finish(bytes(self._data), self.crc64, result)

    def abort(self) -> None:
        self._data.clear()


async def _chunks(data: bytes, start: int, stop: int) -> AsyncIterator[c.Buffer]:
    for at in range(start, stop, _CHUNK_BYTES):
        yield memoryview(data)[at : min(at + _CHUNK_BYTES, stop)]


def _checksum(algorithm: str, data: bytes) -> c.Checksum:
    summer = Summer(algorithm)
    summer.update(data)
    return summer.checksum()


def _opaque_etag(crc64: int, size: int) -> str:
    return f"{crc64:016x}{size:x}".ljust(33, "x")  # 33 or more characters: nobody takes it for an MD5


class MemoryStore:
    """`tiering.contract.Store` over dictionaries. `pools`: name → whether its buckets have opaque ETags, and one version a
    key; the first is the default.

    `capacity_bytes` bounds all objects (TierFull above it), `pin_bytes_max` the pinned ones (PinLimit).
    `events`: what changes that named an Origin would have recorded, oldest first.
    """

    def __init__(
        self,
        clock: c.Clock,
        pools: Mapping[str, bool] | None = None,
        capacity_bytes: int = 1 << 60,
        pin_bytes_max: int = 1 << 60,
    ) -> None:
        self.events: list[c.EventRecord] = []
        self._clock = clock
        self._pools = pools or {"standard": False, "kv": True}
        self._capacity_bytes, self._pin_bytes_max = capacity_bytes, pin_bytes_max
        self._buckets: dict[str, c.BucketInfo] = {}
        self._objects: dict[str, dict[str, list[_Stored]]] = {}  # the versions of a key from the newest to the oldest
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
        made = msgspec.structs.replace(bucket, pool=pool, opaque_etag=opaque)
        self._buckets[bucket.name] = conditions.changed_bucket(made, c.BucketChange(), not self._pools[pool])
        self._objects[bucket.name] = {}

    async def delete_bucket(self, name: str) -> None:
        if self.list_versions(name, c.ListVersionsOptions(limit=1)).versions:
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
        info = self.bucket(name)
        changed = self._buckets[name] = conditions.changed_bucket(info, change, not self._pools[info.pool])
        if "notification" in changed.documents:
            self._record(change.origin, name, "", c.ObjectInfo(generation=0, size=0, modified_ms=0, etag="", crc64=0))
        return changed

    # -- versions of a key

    def _versions(self, bucket: str, key: str) -> list[_Stored]:
        """All that stand at a key, newest first; one that has expired is gone at its deadline, unless it is locked. A delete
        marker hides what is older than a current one."""
        self.bucket(bucket)
        versions = self._objects[bucket].get(key, [])
        for stored in [each for each in versions if 0 < each.info.expires_ms <= self._clock.now_ms()]:
            current = not stored.info.noncurrent_ms
            try:
                self._remove(bucket, key, stored, bypass_governance=False)
            except c.Locked:
                continue
            rest = self._objects[bucket].get(key)
            if current and rest and not rest[0].info.marker:
                self._add(bucket, key, _Stored(self._marker(self._next()), b""))
        return self._objects[bucket].get(key, [])

    def _look(self, bucket: str, key: str) -> _Stored | None:
        """The object that stands at a key now: its newest version, unless that is a delete marker."""
        versions = self._versions(bucket, key)
        return versions[0] if versions and not versions[0].info.marker else None

    def _find(self, bucket: str, key: str, version: str | None = None) -> _Stored:
        """The current object, or the version that is named. Raises NoSuchKey, NoSuchVersion, IsMarker."""
        versions = self._versions(bucket, key)
        if version is None:
            if not versions:
                raise c.NoSuchKey(key=key)
            info = versions[0].info
            if info.marker:
                raise c.NoSuchKey(key=key, marker=True, version=info.version, modified_ms=info.modified_ms)
            return versions[0]
        for stored in versions:
            if stored.info.version == version:
                if stored.info.marker:
                    raise c.IsMarker(key=key, version=version, modified_ms=stored.info.modified_ms)
                return stored
        raise c.NoSuchVersion(key=key, version=version)

    def _remove(self, bucket: str, key: str, stored: _Stored, bypass_governance: bool) -> None:
        """Takes one version away for good; the next older one becomes current if it was. Raises Locked."""
        conditions.judge_locked(stored.info.lock, bypass_governance, self._clock.now_ms())
        rest = [each for each in self._objects[bucket][key] if each.info.generation != stored.info.generation]
        if rest:
            rest[0] = rest[0]._replace(info=msgspec.structs.replace(rest[0].info, noncurrent_ms=0))
            self._objects[bucket][key] = rest
        else:
            del self._objects[bucket][key]

    def _add(self, bucket: str, key: str, stored: _Stored) -> None:
        """Makes `stored` the newest version; without versioning, or while it is suspended, in the null version's place."""
        versions = self._objects[bucket].get(key, [])
        if not stored.info.version:
            for old in [each for each in versions if not each.info.version]:
                conditions.judge_locked(old.info.lock, False, self._clock.now_ms())
            versions = [each for each in versions if each.info.version]
        if versions and not versions[0].info.noncurrent_ms:
            left = msgspec.structs.replace(versions[0].info, noncurrent_ms=self._clock.now_ms())
            versions = [versions[0]._replace(info=left), *versions[1:]]
        self._objects[bucket][key] = [stored, *versions]

    def _marker(self, generation: int, version: str | None = None) -> c.ObjectInfo:
        """A delete marker; `version` None gives it an id of its own, whatever the bucket's versioning."""
        return c.ObjectInfo(
            generation=generation,
            size=0,
            modified_ms=self._clock.now_ms(),
            etag="",
            crc64=0,
            version=f"{generation:032x}" if version is None else version,
            marker=True,
        )

    def _new_version(self, bucket: str, generation: int) -> str:
        return f"{generation:032x}" if self._buckets[bucket].versioning == "Enabled" else ""

    def _record(self, origin: c.Origin | None, bucket: str, key: str, info: c.ObjectInfo) -> None:
        if origin is not None:
            self.events.append(c.event_of(origin, bucket, key, info, self._clock.now_ms()))

    # -- objects

    def _judged(self, bucket: str, key: str, wanted: c.Conditions | None) -> c.ObjectInfo | None:
        stored = self._look(bucket, key)
        info = stored.info if stored else None
        conditions.judge_write(wanted, info)
        return info

    def _fitting(self, info: c.ObjectInfo) -> c.ObjectInfo:
        """`info`, unless its pin does not fit beside the others'. Raises PinLimit."""
        now_ms = self._clock.now_ms()
        if info.pin_until_ms > now_ms:
            all_ = (each.info for keys in self._objects.values() for versions in keys.values() for each in versions)
            pinned = sum(o.size for o in all_ if o.pin_until_ms > now_ms and o.generation != info.generation)
            if pinned + info.size > self._pin_bytes_max:
                raise c.PinLimit(limit_bytes=self._pin_bytes_max)
        return info

    def _keep(self, bucket: str, key: str, stored: _Stored, **fields: Any) -> c.ObjectInfo:
        """Changes fields of one version, in its place."""
        info = msgspec.structs.replace(stored.info, **fields)
        if fields.get("pin_until_ms"):
            self._fitting(info)
        versions = self._objects[bucket][key]
        at = next(i for i, each in enumerate(versions) if each.info.generation == info.generation)
        versions[at] = stored._replace(info=info)
        return info

    def _room(self, size: int) -> None:
        every = (each for keys in self._objects.values() for versions in keys.values() for each in versions)
        if sum(len(each.data) for each in every) + size > self._capacity_bytes:
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
        """Makes a new generation. `fields`: etag, checksum, parts, encryption, lock, upload_id, origin."""
        upload_id, origin = fields.pop("upload_id", ""), fields.pop("origin", put.origin)
        if fields.get("etag") is None:
            fields["etag"] = _opaque_etag(crc64, len(data))
        generation = self._next()
        info = c.ObjectInfo(
            generation=generation,
            version=self._new_version(bucket, generation),
            size=len(data),
            modified_ms=self._clock.now_ms(),
            crc64=crc64,
            content_type=put.content_type,
            headers=dict(put.headers),
            metadata=dict(put.metadata),
            tags=dict(put.tags),
            storage_class=put.storage_class,
            owner=put.owner,
            acl=put.acl,
            **{"encryption": put.encryption, "lock": put.lock} | fields | self._leases(put.pin_ms, put.ttl),
        )
        self._add(bucket, key, _Stored(self._fitting(info), data, upload_id))
        self._record(origin, bucket, key, info)
        return info

    def open(self, bucket: str, key: str, options: c.ReadOptions) -> c.Reading:
        stored = self._find(bucket, key, options.version)
        info, cold = stored.info, stored.info.residency is c.Residency.COLD_ONLY
        conditions.judge_read(options.conditions, info)
        start, stop = conditions.resolve(info, options.range, options.part_number)
        tier: Literal["hot", "cold"] = "cold" if cold else "hot"
        if options.head:
            return c.Reading(info, start, stop, None, tier)
        fields = dict[str, Any]()
        if cold:
            fields["residency"] = c.Residency.BOTH
        if info.sliding:
            fields["expires_ms"] = self._clock.now_ms() + info.ttl_ms
        if fields:
            info = self._keep(bucket, key, stored, **fields)
        return c.Reading(info, start, stop, _chunks(stored.data, start, stop), tier)

    def look(self, bucket: str, keys: Sequence[str]) -> Sequence[c.ObjectInfo | None]:
        found = [self._look(bucket, key) for key in keys]
        return [None if stored is None or stored.info.marker else stored.info for stored in found]

    def put(self, bucket: str, key: str, size: int, options: c.PutOptions) -> c.Writer:
        self._judged_put(bucket, key, options)
        self._room(size)

        def finish(data: bytes, crc64: int, result: c.PutResult) -> c.ObjectInfo:
            standing = self._judged_put(bucket, key, options)
            if options.append_at is not None and standing is not None:
                return self._append(bucket, key, data, options)
            sealed = result.encryption or options.encryption
            found = {"etag": result.etag, "checksum": result.checksum, "encryption": sealed, "parts": result.parts}
            return self._store(bucket, key, data, crc64, options, **found)

        return _Writer(size, finish)

    def _judged_put(self, bucket: str, key: str, options: c.PutOptions) -> c.ObjectInfo | None:
        standing = self._judged(bucket, key, options.conditions)
        if options.append_at is not None:
            conditions.judge_append(self._buckets[bucket], standing, options.append_at)
        return standing

    def _append(self, bucket: str, key: str, data: bytes, options: c.PutOptions) -> c.ObjectInfo:
        """A new generation with the bytes of both; no checksum but its CRC64NVME is known of it."""
        old = self._find(bucket, key)
        whole, now_ms = old.data + data, self._clock.now_ms()
        crc64 = crc64nvme(whole)
        info = msgspec.structs.replace(
            old.info,
            generation=self._next(),
            size=len(whole),
            modified_ms=now_ms,
            crc64=crc64,
            etag=_opaque_etag(crc64, len(whole)),
            checksum=None,
            parts=(),
            residency=c.Residency.HOT_ONLY,
            expires_ms=now_ms + old.info.ttl_ms if old.info.ttl_ms else 0,
        )
        self._add(bucket, key, _Stored(self._fitting(info), whole))
        self._record(options.origin, bucket, key, info)
        return info

    async def copy(self, source: tuple[str, str], target: tuple[str, str], options: c.CopyOptions) -> c.ObjectInfo:
        self.bucket(target[0])
        stored = self._find(*source, options.source_version)
        old = stored.info
        conditions.judge_source(options.source_conditions, old)
        self._judged(*target, options.conditions)
        self._room(old.size)
        put = c.copied_options(old, options, old.encryption)
        wanted = options.checksum_algorithm
        checksum = _checksum(wanted, stored.data) if wanted else old.checksum
        return self._store(*target, stored.data, old.crc64, put, etag=old.etag, checksum=checksum, parts=old.parts)

    async def change(self, bucket: str, key: str, change: c.ObjectChange) -> c.ObjectInfo:
        stored = self._find(bucket, key, change.version)
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
        fields["lock"] = conditions.changed_lock(stored.info.lock, change, self._clock.now_ms())
        if change.acl is not None:
            fields["acl"] = change.acl
        if change.storage_class is not None:
            fields["storage_class"] = change.storage_class
            if change.storage_class in c.COLD_CLASSES and "residency" not in fields:
                fields["residency"] = c.Residency.COLD_ONLY
        info = self._keep(bucket, key, stored, **fields)
        self._record(change.origin, bucket, key, info)
        return info

    async def delete(self, bucket: str, key: str, options: c.DeleteOptions = c.DELETE) -> c.Deleted:
        if options.version is not None:
            return self._delete_version(bucket, key, options.version, options)
        versions = self._versions(bucket, key)
        marked = bool(versions) and versions[0].info.marker
        standing = versions[0].info if versions and not marked else None
        conditions.judge_delete(options.conditions, standing, marked)
        if not self._buckets[bucket].versioning:
            return self._delete_version(bucket, key, "", msgspec.structs.replace(options, conditions=None))
        generation = self._next()
        marker = self._marker(generation, self._new_version(bucket, generation))
        self._add(bucket, key, _Stored(marker, b""))
        self._record(options.origin, bucket, key, marker)
        return c.Deleted(standing is not None, marker.version, marker=True)

    def _delete_version(self, bucket: str, key: str, version: str, options: c.DeleteOptions) -> c.Deleted:
        stored = next((each for each in self._versions(bucket, key) if each.info.version == version), None)
        conditions.judge_delete(options.conditions, None if stored is None else stored.info)
        named = version if self._buckets[bucket].versioning else None
        if stored is None:
            return c.Deleted(False, named)
        conditions.judge_noncurrent(options, current=stored is self._versions(bucket, key)[0])
        self._remove(bucket, key, stored, options.bypass_governance)
        self._record(options.origin, bucket, key, stored.info)
        return c.Deleted(True, named, stored.info.marker)

    async def rename(self, bucket: str, source: str, target: str, options: c.RenameOptions) -> c.ObjectInfo:
        conditions.judge_renamable(self.bucket(bucket))
        stored = self._find(bucket, source)
        conditions.judge_source(options.source_conditions, stored.info, "x-amz-rename-source-")
        self._judged(bucket, target, options.conditions)
        info = msgspec.structs.replace(stored.info, generation=self._next())
        self._objects[bucket].pop(source)
        self._objects[bucket][target] = [stored._replace(info=info, upload_id="")]
        self._record(options.origin, bucket, target, info)
        return info

    def list(self, bucket: str, options: c.ListOptions) -> c.Listing:
        self.bucket(bucket)
        found = {key: s.info for key in list(self._objects[bucket]) if (s := self._look(bucket, key))}
        page = _page(found, options.prefix, options.delimiter, options.after, options.limit)
        return c.Listing([(key, found[key]) for key in page.keys], page.prefixes, page.truncated, page.last)

    def list_versions(self, bucket: str, options: c.ListVersionsOptions) -> c.VersionListing:
        self.bucket(bucket)
        # As for uploads, "\0" sorts below every other character, and the later a version the earlier it is listed.
        found = {
            f"{key}\0{c.FOREVER_MS - stored.info.generation:019}": c.Version(key, stored.info, at == 0)
            for key in list(self._objects[bucket])
            for at, stored in enumerate(self._versions(bucket, key))
        }
        after = options.key_after
        if after and options.version_after is None:
            found = {text: each for text, each in found.items() if each.key > after}
        elif after and options.version_after is not None:
            after = f"{after}\0{self._place(bucket, after, options.version_after)}"
        page = _page(found, options.prefix, options.delimiter, after, options.limit, tagged=True)
        versions = [found[text] for text in page.keys]
        key, last = page.last, None
        if page.last in found:
            key, last = found[page.last].key, found[page.last].info.version
        return c.VersionListing(versions, page.prefixes, page.truncated, key, last)

    def _place(self, bucket: str, key: str, version: str) -> str:
        """Where a version stands, or stood, among those of its key: one deleted since it was listed still names a place."""
        for stored in self._versions(bucket, key):
            if stored.info.version == version:
                return f"{c.FOREVER_MS - stored.info.generation:019}"
        try:
            return f"{c.FOREVER_MS - int(version, 16):019}"
        except ValueError:  # a null version that is gone: every version is listed, rather than one forgotten
            return ""

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
        for standing in self._versions(bucket, key):
            if standing.upload_id == upload_id and standing.info.etag == options.etag:
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
            crc64nvme(data),
            pending.info.options,
            etag=options.etag,
            checksum=options.checksum,
            parts=tuple(chosen),
            upload_id=upload_id,
            encryption=options.encryption or pending.info.options.encryption,
            lock=options.lock or pending.info.options.lock,
            origin=options.origin,
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
        else:
            mine = [pair for pair in mine if pair[0] > options.key_after]
        # "\0" sorts below every other character, so (key, id) pairs keep their order as one text.
        found = {f"{key}\0{i}": i for key, i in mine}
        page = _page(found, options.prefix, options.delimiter, options.key_after, options.limit, tagged=True)
        uploads = [self._uploads[found[text]].info for text in page.keys]
        key, _, upload_id = page.last.rpartition("\0") if page.last in found else (page.last, "", "")
        return c.PendingListing(uploads, page.prefixes, page.truncated, key, upload_id)


class _Page(NamedTuple):
    keys: list[str]
    prefixes: list[str]
    truncated: bool
    last: str


def _page(found: Mapping[str, Any], prefix: str, delimiter: str, after: str, limit: int, tagged: bool = False) -> _Page:
    """One page: keys in order (code point order is UTF-8 byte order), rolled up to common prefixes. `tagged`: each key
    is followed by "\0" and what tells it from others of its name."""
    keys, prefixes, last = list[str](), list[str](), ""
    ordered = sorted(found)
    for key in ordered[bisect_right(ordered, after) if after else 0 :]:
        name = key.rpartition("\0")[0] if tagged else key
        if not name.startswith(prefix):
            continue
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        common = name[: cut + len(delimiter)] if cut >= 0 else ""
        if common and (after.startswith(common) or (prefixes and prefixes[-1] == common)):
            continue
        if len(keys) + len(prefixes) == limit:
            return _Page(keys, prefixes, limit > 0, last)
        (prefixes if common else keys).append(common or key)
        last = common or key
    return _Page(keys, prefixes, False, "")
