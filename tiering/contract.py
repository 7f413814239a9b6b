"""The promise of the storage engine to its callers: value types, protocols and error kinds.

The only module of `tiering` that `s3api` may import. It speaks of objects, buckets and uploads; it does not know HTTP,
XML, signatures or status codes, and names no implementation.

Kind: tables and protocols. Invariants: values are immutable; times are Unix milliseconds; byte ranges are half-open;
keys are text whose UTF-8 form is the stored form; a generation never changes and grows with every write in a pool.
Spec: docs/SEMANTICS.md.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec

FOREVER_MS: Final = (1 << 63) - 1
"""`pin_until_ms` of an object that is pinned until somebody unpins it."""

PART_BYTES_MIN: Final = 5 << 20
"""Smallest part but the last of a completed upload (AWS: multipart upload limits)."""
PARTS_MAX: Final = 10_000
OBJECT_BYTES_MAX: Final = 5 << 40
KEY_BYTES_MAX: Final = 1024

COLD_CLASSES: Final = frozenset({"STANDARD_IA", "ONEZONE_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects are copied to the backing store and lose their hot copy as soon as they get the class, and
again when a restore ends, unless they are held. Reading one brings it back as any other."""

Buffer = bytes | bytearray | memoryview
"""What a writer takes and a body yields: contiguous bytes, borrowed until the call returns."""


class Residency(enum.IntEnum):
    """Where an object's bytes are. The legal moves are in `tiering.residency`."""

    HOT_ONLY = 0
    BOTH = 1
    COLD_ONLY = 2


class Checksum(msgspec.Struct, frozen=True, array_like=True):
    """A checksum as S3 names it: algorithm `CRC32|CRC32C|CRC64NVME|SHA1|SHA256|SHA512|MD5|XXHASH64|XXHASH3|XXHASH128`,
    base64 value (composite: with `-N`)."""

    algorithm: str
    value: str
    kind: Literal["FULL_OBJECT", "COMPOSITE"] = "FULL_OBJECT"


class PartInfo(msgspec.Struct, frozen=True, array_like=True):
    """One part of an upload, or of an object that was completed from parts."""

    number: int
    size: int
    etag: str
    modified_ms: int = 0
    checksum: Checksum | None = None


class Lock(msgspec.Struct, frozen=True, array_like=True):
    """Object lock of one version (AWS S3 Object Lock): a retention `mode` with its end, and a legal hold, which is off
    or, as None, was never spoken of."""

    mode: Literal["", "GOVERNANCE", "COMPLIANCE"] = ""
    until_ms: int = 0
    legal_hold: bool | None = None


class Encryption(msgspec.Struct, frozen=True, array_like=True):
    """How the caller sealed the bytes it stored. The store keeps it and never looks inside: its `size`, `crc64` and
    extents are those of the sealed bytes.

    `mode`: `SSE-C`, `AES256` or `aws:kms`. `key_id`: of the master key; "" where the key is the customer's.
    `sealed_key`: the object's own key, wrapped. `size`: bytes of the content before sealing.
    """

    mode: str
    key_id: str = ""
    sealed_key: bytes = b""
    size: int = 0
    context: str = ""  # the KMS encryption context, as the client sent it
    bucket_key: bool = False  # the client or its bucket asked for an S3 Bucket Key


class ObjectInfo(msgspec.Struct, array_like=True, kw_only=True):
    """What is known of one stored object. Everything but leases, tags, lock and ACL is fixed for a generation."""

    generation: int
    size: int
    modified_ms: int
    etag: str  # without quotes
    crc64: int  # CRC64NVME of the whole object
    residency: Residency = Residency.HOT_ONLY
    content_type: str = ""
    headers: dict[str, str] = {}  # system metadata, by lower-case header name: cache-control, content-encoding, …
    metadata: dict[str, str] = {}  # user metadata, by lower-case name without `x-amz-meta-`
    tags: dict[str, str] = {}
    checksum: Checksum | None = None  # what the client asked to be kept
    parts: tuple[PartInfo, ...] = ()  # empty unless completed from parts
    storage_class: str = ""
    pin_until_ms: int = 0  # 0: not pinned; FOREVER_MS: until unpinned
    ttl_ms: int = 0  # 0: never expires
    sliding: bool = False  # the TTL starts again at each read
    expires_ms: int = 0  # the deadline as of the last write or recorded read; 0: none
    restore_until_ms: int = 0  # RestoreObject holds the object hot until then
    version: str = ""  # version id, 20 to 64 of `A-Za-z0-9._-`; "" is the null version
    marker: bool = False  # a delete marker: a version without bytes
    noncurrent_ms: int = 0  # when a newer version took its place; 0: it is the current one
    lock: Lock | None = None
    owner: str = ""  # canonical id of the account that wrote it; "" means the bucket's owner
    acl: str = ""  # the caller's own text; "" is private
    encryption: Encryption | None = None


def content_bytes(info: ObjectInfo) -> int:
    """The object's length as a client knows it; `size` is that of the stored bytes, which may be sealed."""
    return info.size if info.encryption is None else info.encryption.size


Versioning = Literal["", "Enabled", "Suspended"]
"""Of a bucket; "" is one in which versioning was never enabled."""


class BucketInfo(msgspec.Struct, array_like=True, kw_only=True):
    """A bucket. `opaque_etag`: ETags come from the CRC64 of the bytes, not from MD5. `cache`: evicting loses the object."""

    name: str
    created_ms: int
    pool: str
    opaque_etag: bool = False
    cache: bool = False
    location: str = ""
    documents: dict[str, str] = {}  # sub-resource name → its stored document
    owner: str = ""  # canonical id of the account that owns it; "" is the root account
    versioning: Versioning = ""
    object_lock: bool = False  # enabled for good; needs versioning


class BucketChange(msgspec.Struct, frozen=True):
    """`documents`: sub-resource → text, None removes one. `versioning`, `object_lock`: None leaves them as they are.

    `origin`: of an event about the bucket itself (key ""), recorded with the change if the bucket notifies after it.
    """

    documents: Mapping[str, str | None] = {}
    versioning: Literal["Enabled", "Suspended"] | None = None
    object_lock: Literal[True] | None = None
    origin: Origin | None = None


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """Who caused a change, for the event that is recorded with it. `event`: S3's name without `s3:`, as
    `ObjectCreated:Put`."""

    event: str
    principal: str = ""
    source_ip: str = ""
    request_id: str = ""


class EventRecord(msgspec.Struct, array_like=True, kw_only=True):
    """One change in a bucket that has a notification document, recorded in the transaction that made it.

    `event`: as Origin's, also the engine's own: `ObjectRecall:Pin|Demote|Evict|Recall`, `LifecycleExpiration:Delete`, …
    """

    event: str
    bucket: str
    key: str
    at_ms: int
    size: int = 0
    etag: str = ""
    version: str = ""
    generation: int = 0
    principal: str = ""
    source_ip: str = ""
    request_id: str = ""
    bucket_ms: int = 0  # when the bucket was made: another of its name is not to be told


def event_of(origin: Origin, bucket: str, key: str, info: ObjectInfo, now_ms: int, bucket_ms: int = 0) -> EventRecord:
    """What is to be told of a change; `info`: what it made, or what it removed. Making a delete marker is told as that."""
    event = origin.event
    if info.marker and event.endswith(":Delete"):
        event = event.removesuffix("Delete") + "DeleteMarkerCreated"
    return EventRecord(
        event=event,
        bucket=bucket,
        key=key,
        at_ms=now_ms,
        size=content_bytes(info),
        etag=info.etag,
        version=info.version,
        generation=info.generation,
        principal=origin.principal,
        source_ip=origin.source_ip,
        request_id=origin.request_id,
        bucket_ms=bucket_ms,
    )


class Conditions(msgspec.Struct, frozen=True):
    """Preconditions of a read, write, copy source or delete (RFC 9110 §13, S3 conditional requests).

    ETags are unquoted; `("*",)` means any existing object. Judged inside the write's transaction.
    """

    if_match: tuple[str, ...] | None = None
    if_none_match: tuple[str, ...] | None = None
    if_modified_since_s: int | None = None
    if_unmodified_since_s: int | None = None
    if_match_size: int | None = None
    if_match_modified_s: int | None = None


class Ttl(msgspec.Struct, frozen=True):
    """A time to live. `ttl_ms` 0 removes one."""

    ttl_ms: int
    sliding: bool = False


class ByteRange(msgspec.Struct, frozen=True):
    """A requested range, half-open; `suffix`: the last `stop` bytes. `stop` None: to the end. Clipped by the store."""

    start: int = 0
    stop: int | None = None
    suffix: bool = False

    def clip(self, size: int) -> tuple[int, int]:
        """The half-open range of `size` bytes that answers it. Raises InvalidRange (fact: size)."""
        if self.suffix:
            length = min(self.stop or 0, size)
            if length <= 0:
                raise InvalidRange(size=size)
            return size - length, size
        stop = size if self.stop is None else min(self.stop, size)
        if self.start >= stop:  # also every range of an empty object
            raise InvalidRange(size=size)
        return self.start, stop


class ReadOptions(msgspec.Struct, frozen=True):
    """How to open an object. At most one of `range` and `part_number`. `head`: no body, no waiting, no heat."""

    head: bool = False
    range: ByteRange | None = None
    part_number: int | None = None
    conditions: Conditions | None = None
    version: str | None = None  # "" the null version; None the current one


class PutOptions(msgspec.Struct, frozen=True):
    """What is stored with the bytes. `pin_ms`: lease length, FOREVER_MS for ever, 0 none.

    `append_at`: the bytes are added to the object that stands there, which must be this long (S3 Express
    `x-amz-write-offset-bytes`); what is said of the object then stays, and `0` makes a new one if there is none.
    """

    content_type: str = ""
    headers: Mapping[str, str] = {}
    metadata: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}
    storage_class: str = ""
    pin_ms: int = 0
    ttl: Ttl | None = None
    conditions: Conditions | None = None
    lock: Lock | None = None
    owner: str = ""
    acl: str = ""
    encryption: Encryption | None = None
    append_at: int | None = None
    origin: Origin | None = None


class PutResult(msgspec.Struct, frozen=True):
    """What the reader of the body found: the ETag (None: the store derives an opaque one) and the checksum to keep.

    `short`: the announced size was only a bound, and what was written is the whole body. `encryption`: in the place of
    the options', where its size was not known then. `parts`: those of the object that the bytes are a copy of.
    """

    etag: str | None = None
    checksum: Checksum | None = None
    short: bool = False
    encryption: Encryption | None = None
    parts: tuple[PartInfo, ...] = ()


class CopyOptions(msgspec.Struct, frozen=True):
    """A server-side copy. `replace`: options that replace content type, headers and metadata; None keeps the source's.

    `tags` None keeps the source's. Class, pin and TTL of the copy come from `storage_class`, `pin_ms` and `ttl` alone.
    """

    source_conditions: Conditions | None = None
    conditions: Conditions | None = None
    replace: PutOptions | None = None
    tags: Mapping[str, str] | None = None
    storage_class: str = ""
    pin_ms: int = 0
    ttl: Ttl | None = None
    checksum_algorithm: str | None = None  # the copy keeps a checksum of this kind instead of the source's
    source_version: str | None = None  # as ReadOptions.version
    lock: Lock | None = None  # of the copy: a source's lock is never copied
    owner: str = ""
    acl: str = ""
    origin: Origin | None = None


def copied_options(source: ObjectInfo, options: CopyOptions, encryption: Encryption | None = None) -> PutOptions:
    """What a copy is stored with: the source's description unless replaced; never its class, lock, pin or TTL.

    `encryption`: the source's where the bytes are taken over as they are.
    """
    described: ObjectInfo | PutOptions = options.replace or source
    return PutOptions(
        content_type=described.content_type,
        headers=described.headers,
        metadata=described.metadata,
        tags=source.tags if options.tags is None else options.tags,
        storage_class=options.storage_class,
        pin_ms=options.pin_ms,
        ttl=options.ttl,
        conditions=options.conditions,
        lock=options.lock,
        owner=options.owner,
        acl=options.acl,
        encryption=encryption,
        origin=options.origin,
    )


class ObjectChange(msgspec.Struct, frozen=True):
    """A change that leaves bytes, ETag and Last-Modified alone. None leaves a field as it is.

    `pin_ms`: from now; 0 unpins; FOREVER_MS for ever. `restore_ms`: recall it and hold it hot that long.
    `tier`: "hot" recalls now, "cold" demotes now and drops the hot copy, "both" demotes and keeps it.
    `storage_class`: its class from now on; one of COLD_CLASSES has it demoted and dropped soon, and nobody waits for that.
    """

    pin_ms: int | None = None
    ttl: Ttl | None = None
    tags: Mapping[str, str] | None = None
    restore_ms: int | None = None
    tier: Literal["hot", "cold", "both"] | None = None
    storage_class: str | None = None
    conditions: Conditions | None = None
    version: str | None = None  # as ReadOptions.version
    lock: Lock | None = None  # the retention from now on (mode "" ends it); its legal_hold is not looked at
    legal_hold: bool | None = None
    bypass_governance: bool = False
    acl: str | None = None
    origin: Origin | None = None


class DeleteOptions(msgspec.Struct, frozen=True):
    """`version` None deletes as the bucket's versioning says: enabled adds a delete marker, suspended puts one in the
    place of the null version, else the object goes. A named version ("" the null one) goes for good; `noncurrent`: only
    while it is not the current one, else PreconditionFailed."""

    conditions: Conditions | None = None
    version: str | None = None
    bypass_governance: bool = False
    origin: Origin | None = None
    noncurrent: bool = False


class Deleted(msgspec.Struct, frozen=True):
    """`found`: there was something. `version`: of the marker that was made, or of the version that went; None in a
    bucket without versions. `marker`: that version is a delete marker."""

    found: bool
    version: str | None = None
    marker: bool = False


class RenameOptions(msgspec.Struct, frozen=True):
    source_conditions: Conditions | None = None
    conditions: Conditions | None = None
    origin: Origin | None = None


DELETE: Final = DeleteOptions()


class ListOptions(msgspec.Struct, frozen=True):
    """One page of keys in UTF-8 byte order. `after` is exclusive and may be a common prefix already given
    out; a common prefix it lies in is not listed (again), as S3 has it."""

    prefix: str = ""
    delimiter: str = ""
    after: str = ""
    limit: int = 1000


class Listing(msgspec.Struct, frozen=True):
    """`objects` and `prefixes` together number at most `limit`; `next_after` continues when `truncated`."""

    objects: Sequence[tuple[str, ObjectInfo]]
    prefixes: Sequence[str]
    truncated: bool
    next_after: str = ""


class ListVersionsOptions(msgspec.Struct, frozen=True):
    """One page of all versions: keys in UTF-8 order, the versions of a key from the newest to the oldest.

    `key_after` is exclusive, unless `version_after` is given: then that key's versions older than it are listed first.
    """

    prefix: str = ""
    delimiter: str = ""
    key_after: str = ""
    version_after: str | None = None  # "" is the null version
    limit: int = 1000


class Version(NamedTuple):
    key: str
    info: ObjectInfo
    latest: bool


class VersionListing(msgspec.Struct, frozen=True):
    """`versions` (delete markers among them) and `prefixes` number at most `limit`. `next_version` None: after a prefix."""

    versions: Sequence[Version]
    prefixes: Sequence[str]
    truncated: bool
    next_key: str = ""
    next_version: str | None = None


class UploadInfo(msgspec.Struct, array_like=True, kw_only=True):
    """A multipart upload under way. `checksum_algorithm` "" when the client named none."""

    bucket: str
    key: str
    upload_id: str
    initiated_ms: int
    options: PutOptions
    checksum_algorithm: str = ""
    checksum_kind: Literal["FULL_OBJECT", "COMPOSITE"] | None = None


class PendingOptions(msgspec.Struct, frozen=True):
    """One page of pending uploads, ordered by key, then by upload id (which grows with time)."""

    prefix: str = ""
    delimiter: str = ""
    key_after: str = ""
    upload_id_after: str = ""  # only with key_after: also the uploads of that key after this id
    limit: int = 1000


class PendingListing(msgspec.Struct, frozen=True):
    uploads: Sequence[UploadInfo]
    prefixes: Sequence[str]
    truncated: bool
    next_key: str = ""
    next_upload_id: str = ""


class PartClaim(msgspec.Struct, frozen=True):
    """A part as the completing client names it."""

    number: int
    etag: str  # without quotes
    checksum: Checksum | None = None


class CompleteOptions(msgspec.Struct, frozen=True):
    """`etag` and `checksum` of the whole are computed by the caller from the stored parts (`Uploads.parts`)."""

    etag: str
    checksum: Checksum | None = None
    object_size: int | None = None  # x-amz-mp-object-size: must equal the sum when given
    conditions: Conditions | None = None
    encryption: Encryption | None = None  # of the whole; None: that of the upload's options
    origin: Origin | None = None
    lock: Lock | None = None  # None: that of the upload's options
    parts: tuple[PartInfo, ...] = ()  # of an upload of the store's own, whose pieces are no client's parts


class FileSpans:
    """Body bytes that lie in files: `(fd, offset, length)` in order. `release` must be called exactly once, always.

    `seen`: all of them were in memory a moment ago.
    """

    __slots__ = ("length", "release", "seen", "spans")

    def __init__(
        self,
        spans: tuple[tuple[int, int, int], ...],
        length: int,
        release: Callable[[], None],
        seen: bool = False,
    ) -> None:
        self.spans = spans
        self.length = length
        self.release = release
        self.seen = seen


class Reading:
    """An opened object: `info`, the range `start:stop` actually answered, and the body (None for a HEAD).

    A body is bytes (a short one, already checked), a `FileSpans`, or an async iterator of buffers (each borrowed until the next is asked for) whose early end
    is raised as a StoreError. A body that is not sent must be given back with `close()`.
    """

    __slots__ = ("body", "info", "start", "stop", "tier")

    def __init__(
        self,
        info: ObjectInfo,
        start: int,
        stop: int,
        body: bytes | FileSpans | AsyncIterator[Buffer] | None,
        tier: Literal["hot", "cold"],
    ) -> None:
        self.info = info
        self.start = start
        self.stop = stop
        self.body = body
        self.tier = tier

    def close(self) -> None:
        """Gives an unsent body back; an iterator nobody has begun holds nothing and is only let go."""
        if isinstance(self.body, FileSpans):
            self.body.release()
        self.body = None


class Opening:
    """A read that has to wait, of an object that is known: `info` is the current version's as it was looked up; what is read in
    the end may be a newer one. Await it once, or `close` it."""

    __slots__ = ("_rest", "info")

    def __init__(self, info: ObjectInfo, rest: Coroutine[Any, Any, Reading]) -> None:
        self.info = info
        self._rest = rest

    def __await__(self) -> Generator[Any, Any, Reading]:
        return self._rest.__await__()

    def close(self) -> None:
        """Instead of awaiting it."""
        self._rest.close()


class Writer(Protocol):
    """The body of one object or part on its way in. Exactly one of `commit` and `abort` ends it."""

    @property
    def crc64(self) -> int:
        """CRC64NVME of the bytes written so far."""

    def write(self, data: Buffer) -> Awaitable[None] | None:
        """Appends; borrows `data` until it returns or the awaitable it returns is done. Raises TierFull, DiskFull, Busy."""

    async def commit(self, result: PutResult) -> ObjectInfo:
        """Makes it visible under the pool's durability; raises PreconditionFailed, PinLimit, NoSuchBucket, NoSuchUpload,
        SizeMismatch (bytes are missing and the result does not say `short`)."""

    def abort(self) -> None:
        """Frees what was written. Safe after a failed write or commit."""


class PartWriter(Protocol):
    """As Writer, for one part of an upload."""

    @property
    def crc64(self) -> int: ...
    def write(self, data: Buffer) -> Awaitable[None] | None: ...
    async def commit(self, result: PutResult) -> PartInfo: ...
    def abort(self) -> None: ...


class Objects(Protocol):
    """Objects of buckets. Every call raises NoSuchBucket; sync results are preferred, awaitables mean a real wait."""

    def open(self, bucket: str, key: str, options: ReadOptions) -> Reading | Awaitable[Reading]:
        """One open for GET, HEAD, ranges and preconditions. Raises NoSuchKey (facts `marker`, `version` where a delete
        marker is the newest version), NoSuchVersion, IsMarker, PreconditionFailed, NotModified, InvalidRange,
        InvalidPartNumber, ColdUnavailable, Corrupt. What waits is an `Opening` where the object is known by then."""

    def look(self, bucket: str, keys: Sequence[str]) -> Sequence[ObjectInfo | None]:
        """What stands at each key, None for nothing, all of one moment. Counts neither as a read nor as a miss. Never
        waits: about a microsecond a key."""

    def put(self, bucket: str, key: str, size: int, options: PutOptions) -> Writer | Awaitable[Writer]:
        """Judges the preconditions a first time and reserves room for `size` bytes, before any byte is read. Raises
        PreconditionFailed, WrongOffset, NotAppendable, TierFull, DiskFull, Busy."""

    async def copy(self, source: tuple[str, str], target: tuple[str, str], options: CopyOptions) -> ObjectInfo:
        """Copies (bucket, key) to (bucket, key); no bytes move when both are in one pool and the source is hot."""

    async def change(self, bucket: str, key: str, change: ObjectChange) -> ObjectInfo:
        """Pins, TTLs, tags, tiers, locks, ACLs. Raises NoSuchKey, NoSuchVersion, IsMarker, PinLimit, PreconditionFailed,
        Locked, ColdUnavailable."""

    async def delete(self, bucket: str, key: str, options: DeleteOptions = DELETE) -> Deleted:
        """Deletes, or adds a delete marker: a version that is not there is success. Raises PreconditionFailed, Locked;
        NoSuchKey only under `if_match`."""

    async def rename(self, bucket: str, source: str, target: str, options: RenameOptions) -> ObjectInfo:
        """Moves an object to another key of its bucket, at once and for all readers. Raises NoSuchKey,
        PreconditionFailed, NotRenamable (a bucket with versions)."""

    def list(self, bucket: str, options: ListOptions) -> Listing: ...

    def list_versions(self, bucket: str, options: ListVersionsOptions) -> VersionListing: ...


class Buckets(Protocol):
    async def create_bucket(self, bucket: BucketInfo) -> None:
        """Raises BucketExists, UnknownPool; NoVersioning for a bucket with versions in a pool that keeps one a key. `pool`
        "" takes the first pool whose rule matches, else the default."""

    async def delete_bucket(self, name: str) -> None:
        """Raises NoSuchBucket, BucketNotEmpty."""

    def bucket(self, name: str) -> BucketInfo:
        """Raises NoSuchBucket. Cheap: called for every request."""

    def buckets(self) -> Sequence[BucketInfo]:
        """All, in name order."""

    async def change_bucket(self, name: str, change: BucketChange) -> BucketInfo:
        """Raises NoSuchBucket; NoVersioning where the bucket's pool keeps one version a key; LockNeedsVersions."""


class Uploads(Protocol):
    """Multipart uploads. Calls that name an upload raise NoSuchUpload when it is unknown for that bucket and key."""

    async def begin_upload(
        self,
        bucket: str,
        key: str,
        options: PutOptions,
        checksum_algorithm: str = "",
        checksum_kind: Literal["FULL_OBJECT", "COMPOSITE"] | None = None,
    ) -> UploadInfo: ...

    def put_part(
        self, bucket: str, key: str, upload_id: str, number: int, size: int
    ) -> PartWriter | Awaitable[PartWriter]: ...

    def upload(self, bucket: str, key: str, upload_id: str) -> UploadInfo: ...

    def parts(
        self, bucket: str, key: str, upload_id: str, after: int = 0, limit: int = PARTS_MAX
    ) -> Sequence[PartInfo]:
        """Stored parts with number > `after`, in order."""

    async def complete_upload(
        self, bucket: str, key: str, upload_id: str, parts: Sequence[PartClaim], options: CompleteOptions
    ) -> ObjectInfo:
        """Copies no bytes. Raises InvalidPart, InvalidPartOrder, PartTooSmall, SizeMismatch, PreconditionFailed. Repeating
        a completion that already won answers the object again."""

    async def abort_upload(self, bucket: str, key: str, upload_id: str) -> None: ...

    def pending(self, bucket: str, options: PendingOptions) -> PendingListing: ...


class Store(Objects, Buckets, Uploads, Protocol):
    """All that the S3 layer is given."""


class Clock(Protocol):
    """The only source of time below the shell."""

    def now_ms(self) -> int:
        """Unix time in milliseconds."""


class StoreError(Exception):
    """A fact about storage that stops a call. `facts` are safe to show to a client."""

    def __init__(self, message: str = "", **facts: Any) -> None:
        self.message = message
        self.facts: dict[str, Any] = facts

    def __str__(self) -> str:
        return self.message or self.__class__.__name__


class NoSuchBucket(StoreError): ...


class BucketExists(StoreError): ...


class BucketNotEmpty(StoreError): ...


class UnknownPool(StoreError): ...


class NoSuchKey(StoreError): ...


class NoSuchVersion(StoreError):
    """Facts: key, version."""


class IsMarker(StoreError):
    """The version that was named is a delete marker. Facts: version, modified_ms."""


class Locked(StoreError):
    """Object lock forbids it. Facts: mode, until_ms, legal_hold."""


class NoVersioning(StoreError):
    """The pool of the bucket keeps one version a key."""


class LockNeedsVersions(StoreError):
    """A bucket with object lock has versioning enabled, and keeps it so."""


class NotRenamable(StoreError): ...


class NotAppendable(StoreError):
    """Bytes cannot be added: the bucket has versions, or the object that stands is sealed."""


class WrongOffset(StoreError):
    """`append_at` is not the object's length. Facts: size."""


class NoSuchUpload(StoreError): ...


class InvalidPart(StoreError): ...


class InvalidPartOrder(StoreError): ...


class InvalidPartNumber(StoreError):
    """`part_number` of a read is beyond the object's parts."""


class PartTooSmall(StoreError):
    """Facts: number, size."""


class SizeMismatch(StoreError): ...


class PreconditionFailed(StoreError):
    """Facts: condition (the header's name)."""


class NotModified(StoreError):
    """Facts: info (ObjectInfo)."""


class InvalidRange(StoreError):
    """Facts: size."""


class TierFull(StoreError):
    """The hot tier is full of what may not be evicted (pins)."""


class PinLimit(StoreError):
    """The pin would exceed the pool's pin limit."""


class DiskFull(StoreError): ...


class DeviceFailed(StoreError):
    """The device under a pool refuses writes, or did not keep one: nothing was stored. Facts: retry_s."""


class Busy(StoreError):
    """No room in time, or too much waits to be demoted: try again. Facts: retry_s."""


class ColdUnavailable(StoreError):
    """The backing store does not answer: try again. Facts: retry_s."""


class Corrupt(StoreError):
    """No copy passes its checksum."""
