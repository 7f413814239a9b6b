"""How records, keys and rows look in the index: the encodings, both ways, and the format version.

Promise: a key compares in LMDB as its fields compare (big-endian integers, UTF-8 text), every row decodes to what was
encoded, and records of an older minor shape still decode (fields are only ever appended, with defaults).
Of an object's row, there being more of those than of all others, defaults at its end are left off, and an MD5 is bytes.
Owns nothing. Does not know LMDB or files. Kind: pure. Spec: docs/FORMAT.md.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from tiering.backing import keys
from tiering.contract import (
    COLD_CLASSES,
    FOREVER_MS,
    BucketInfo,
    EventRecord,
    ObjectInfo,
    PartInfo,
    Residency,
    UploadInfo,
)

FORMAT_VERSION: Final = 4
EXTENT_ALIGN: Final = 64
PAGE_ALIGN: Final = 4096
PAGE_ALIGN_FROM: Final = 64 << 10
"""Extents at least this long start on a page: readers that map or register memory want it, and it wastes < 1/16."""

UPLOAD_ID_CHARS: Final = 32
_MD5_BYTES: Final = 16

_u32 = struct.Struct(">I")
_u64 = struct.Struct(">Q")
_u32x2 = struct.Struct(">II")
_u64x2 = struct.Struct(">QQ")
_u64u32 = struct.Struct(">QI")


class Extent(NamedTuple):
    """Bytes of one object in one region: `offset` and `length` in bytes, `crc64` (CRC64NVME) of exactly these bytes."""

    region: int
    offset: int
    length: int
    crc64: int


class ColdPiece(msgspec.Struct, frozen=True, array_like=True):
    """One cold stream holding `size` content bytes; `name` is its key in the backing store, "" for the object's own.

    An object's first (or only) stream is under its own name, which follows from bucket, key and version (`cold_names`).
    One stored in several pieces has its manifest, a stream without content, as the first.
    """

    name: str = ""
    size: int = 0
    layout: bytes = b""  # coldstream.pack_layout: lets a range be read without asking for the seek table


class _Seldom(ObjectInfo, array_like=True, kw_only=True):
    """What the index adds to few objects. These fields stand behind ObjectInfo's, where a row can do without them."""

    etag: Any  # a str, as in ObjectInfo, where it stands; in a row, an MD5 is its 16 bytes
    upload_id: str = ""  # the upload it was completed from: makes completing idempotent
    unlisted: bool = False  # cold in pieces, and the manifest that names them is not written yet
    note: bool = False  # its description has changed since it was demoted: a note beside its copy tells what it is
    unnoted: bool = False  # the note is not written yet, or out of date
    chill: bool = False  # its storage class sends it out of the tier, unless it is held
    former: str = ""  # backing name of a copy under the key it was renamed from: kept until it has one of its own


class ObjectRecord(_Seldom, array_like=True):
    """The whole row of an object. `cold` in content order, empty while hot-only; `extents` empty while cold-only.

    These three are not `kw_only` as the others are, which is how msgspec has them stand first.
    """

    extents: tuple[Extent, ...] = ()
    cold: tuple[ColdPiece, ...] = ()
    cache: bool = False  # evicting it loses it: its bucket is a cache


class BucketRecord(BucketInfo, array_like=True, kw_only=True):
    """A bucket's row. `number` prefixes its keys and is never used again after the bucket is deleted."""

    number: int = 0


class PartRecord(PartInfo, frozen=True, array_like=True, kw_only=True):
    """The row of a stored part; like an object it is hot (`extents`) or, once demoted, cold (`cold`)."""

    generation: int
    crc64: int
    extents: tuple[Extent, ...] = ()
    cold: ColdPiece | None = None
    cache: bool = False


class UploadRecord(UploadInfo, array_like=True, kw_only=True):
    """An upload's row. `internal`: the store's own, for one PUT larger than it wants to hold in the tier at once.

    `slot`: the process that writes an internal one; it is of no use to anybody else.
    """

    internal: bool = False
    slot: int = 0


class RegionState(enum.IntEnum):
    FREE = 0
    OPEN = 1
    SEALED = 2
    FREED = 3  # no longer referenced; some reader may still be inside


class RegionRecord(msgspec.Struct, array_like=True):
    """A region's row. `sequence` orders sealed regions by age; `slot` is the process that appends to an open one."""

    state: RegionState = RegionState.FREE
    slot: int = 0
    sequence: int = 0
    live_bytes: int = 0  # bytes of extents that rows refer to; counted once a reference


class Counters(msgspec.Struct, array_like=True):
    """Sums kept in the transaction that changes them; `check` recomputes them."""

    generation: int = 0
    bucket_number: int = 0
    region_sequence: int = 0
    order: int = 0
    objects: int = 0
    object_bytes: int = 0
    hot_bytes: int = 0
    dirty_bytes: int = 0
    pinned_bytes: int = 0
    event: int = 0
    watched: int = 0  # buckets whose changes are recorded as events


class Order(msgspec.Struct, array_like=True):
    """A request to the keeper: `verb` is "demote" (copy to the backing store), "evict" (and drop the hot copy), "part",
    "manifest" or "note" (write that)."""

    verb: str
    okey: bytes
    generation: int


class Damage(msgspec.Struct, frozen=True, array_like=True):
    """An object, or a part of an upload, whose bytes a scrub found damaged and could not mend. `key`: its index key.

    `read`: its bytes had to be read for that, so a pass that reads none cannot take it back.
    """

    what: str
    key: bytes
    generation: int
    part: bool = False
    read: bool = True

    def same(self, other: Damage) -> bool:
        """Whether both are about the same bytes."""
        return (self.key, self.generation, self.part) == (other.key, other.generation, other.part)


class ScrubRecord(msgspec.Struct, array_like=True):
    """How far a scrub is on one side of a pool. `at`: the first index key it has not looked at yet.

    `damages`: what this pass has found; `before`: what the last complete one did.
    """

    begun_ms: int = 0
    at: bytes = b""
    under_way: bool = False
    completed_ms: int = 0
    damages: list[Damage] = []
    before: list[Damage] = []


class Codec:
    """A msgpack encoder and decoder for one row type. `encode`, `decode`: of its own, for rows that leave something off."""

    __slots__ = ("decode", "encode")

    def __init__(
        self, kind: Any, encode: Callable[[Any], bytes] | None = None, decode: Callable[[Any], Any] | None = None
    ) -> None:
        self.encode = encode or _encode
        self.decode: Any = decode or msgspec.msgpack.Decoder(kind).decode


_encode: Final = msgspec.msgpack.Encoder().encode
_values: Final = msgspec.structs.astuple
_BLANK: Final = _values(ObjectRecord(generation=0, size=0, modified_ms=0, etag="", crc64=0))
_ENDS: Final = tuple((end, _BLANK[end:]) for end in map(ObjectRecord.__struct_fields__.index, ("parts", "upload_id")))
"""Where the row of an object with metadata may end, and what is left off there."""


_ETAG_AT: Final = ObjectRecord.__struct_fields__.index("etag")
_decode_row: Final = msgspec.msgpack.Decoder(ObjectRecord).decode


def _decode_object(data: bytes | memoryview) -> ObjectRecord:
    record = _decode_row(data)
    if record.etag.__class__ is not str:
        if record.etag.__class__ is not bytes:
            raise msgspec.ValidationError("the ETag is neither text nor bytes")
        record.etag = record.etag.hex()
    return record


def _short_etag(etag: str) -> str | bytes:
    if len(etag) == 2 * _MD5_BYTES:
        try:
            short = bytes.fromhex(etag)
        except ValueError:
            return etag
        if short.hex() == etag:
            return short
    return etag


def _encode_object(r: ObjectRecord) -> bytes:
    etag = _short_etag(r.etag)
    # A block has none of these. Asked one by one: cutting and comparing tuples costs three times as much.
    if not (
        r.content_type or r.headers or r.metadata or r.tags or r.checksum or r.parts or r.storage_class or r.pin_until_ms
        or r.ttl_ms or r.sliding or r.expires_ms or r.restore_until_ms or r.version or r.marker or r.noncurrent_ms
        or r.lock or r.owner or r.acl or r.encryption or r.upload_id or r.unlisted or r.note or r.unnoted or r.chill
        or r.former
    ):  # fmt: skip
        return _encode((r.extents, r.cold, r.cache, r.generation, r.size, r.modified_ms, etag, r.crc64, r.residency))
    values = _values(r)
    values = (*values[:_ETAG_AT], etag, *values[_ETAG_AT + 1 :])
    for end, defaults in _ENDS:
        if values[end:] == defaults:
            return _encode(values[:end])
    return _encode(values)


OBJECT: Final = Codec(ObjectRecord, _encode_object, _decode_object)
BUCKET: Final = Codec(BucketRecord)
PART: Final = Codec(PartRecord)
UPLOAD: Final = Codec(UploadRecord)
REGION: Final = Codec(RegionRecord)
COUNTERS: Final = Codec(Counters)
ORDER: Final = Codec(Order)
EVENT: Final = Codec(EventRecord)
SCRUB: Final = Codec(ScrubRecord)

DATABASES: Final = (
    "meta",  # name → value: format, counters, pool shape, how far the scrubs are
    "buckets",  # bucket name → BucketRecord
    "objects",  # object key → ObjectRecord: of each key the current version, and apart from those all older ones
    "numbers",  # bucket number → bucket name
    "nulls",  # object key → object key of its null version, while that is not the current one
    "extents",  # region, offset, owner → empty: who refers to these bytes
    "regions",  # region → RegionRecord
    "free",  # region → empty
    "queue",  # sequence → region: sealed regions, oldest first
    "freed",  # transaction id, region → empty: waits for readers to leave
    "dirty",  # generation → where its object key is found (`owed_by_place`): hot-only, to be demoted, oldest first
    "dirty_parts",  # generation → part key: parts of uploads that have no cold copy
    "expiry",  # deadline ms, generation → object key
    "leases",  # end of pin or hold ms, generation → object key
    "tombstones",  # backing name → empty: to be deleted from the backing store
    "uploads",  # bucket number, key, upload id → UploadRecord
    "parts",  # upload id, part number → PartRecord
    "manifests",  # generation → object key: cold in pieces, manifest to be written
    "unnoted",  # generation → object key: its description has changed since its copy was made, note to be written
    "chills",  # generation → object key: its storage class sends it out of the tier
    "orders",  # number → Order
    "stale_buckets",  # bucket name → empty: its record in the backing store is out of date
    "watched",  # bucket number → bucket name: its changes are recorded as events
    "events",  # number → EventRecord: to be delivered, oldest first
)


_COLD_ONLY: Final = Residency.COLD_ONLY
_HOT_ONLY: Final = Residency.HOT_ONLY
"""By these names: a look-up of a member in its class costs five times one of a module's name."""

_OLDER: Final = 1 << 31
"""Set in the bucket number of the object key of a version that is not the current one."""
_PLACE: Final = 1 << 31
"""Set in the number of a region where a place stands that might be an object key. No pool has so many regions."""
_GENERATION_TOP: Final = (1 << 64) - 1
_AGE_BYTES: Final = 9


def object_key(bucket_number: int, key: str) -> bytes:
    """The index key of the current version; a bucket's keys are contiguous and in UTF-8 order."""
    return _u32.pack(bucket_number) + key.encode()


def older_key(okey: bytes, generation: int) -> bytes:
    """The index key of a version that is not the current one of `okey`, the current one's key."""
    return older_prefix(okey)[:-1] + _u64.pack(_GENERATION_TOP - generation)


def older_prefix(okey: bytes) -> bytes:
    """What the keys of all older versions begin with, and no others; they sort from the newest to the oldest.

    A key may hold NUL, but no text holds the byte FF, with which every inverted generation begins.
    """
    return _u32.pack(_u32.unpack_from(okey)[0] | _OLDER) + bytes(okey[4:]) + b"\0\xff"


def is_older(okey: bytes) -> bool:
    return okey[0] >= 0x80


def current_key(okey: bytes) -> bytes:
    """The index key of the current version of the same key."""
    return _u32.pack(_u32.unpack_from(okey)[0] ^ _OLDER) + bytes(okey[4:-_AGE_BYTES]) if is_older(okey) else okey


def other_key(okey: bytes, generation: int) -> bytes:
    """Where a version has gone that was under `okey`: it ceased to be the current one, or became it."""
    return current_key(okey) if is_older(okey) else older_key(okey, generation)


def split_object_key(okey: bytes) -> tuple[int, str]:
    """Bucket number and key."""
    okey = current_key(okey)
    return _u32.unpack_from(okey)[0], bytes(okey[4:]).decode()


def bucket_prefix(bucket_number: int) -> bytes:
    return _u32.pack(bucket_number)


def older_bucket_prefix(bucket_number: int) -> bytes:
    """As `bucket_prefix`, of the versions that are not current."""
    return _u32.pack(bucket_number | _OLDER)


def number_key(okey: bytes) -> bytes:
    """The key in `watched` and `numbers` of the bucket of an object."""
    return _u32.pack(_u32.unpack_from(okey)[0] & ~_OLDER)


def region_key(region: int) -> bytes:
    return _u32.pack(region)


def unpack_region(data: bytes) -> int:
    return int(_u32.unpack(data)[0])


def u64_key(value: int) -> bytes:
    return _u64.pack(value)


def unpack_u64(data: bytes) -> int:
    return int(_u64.unpack_from(data)[0])


def time_key(ms: int, generation: int) -> bytes:
    return _u64x2.pack(ms, generation)


def unpack_time_key(data: bytes) -> tuple[int, int]:
    ms, generation = _u64x2.unpack(data)
    return ms, generation


def freed_key(txn_id: int, region: int) -> bytes:
    return _u64u32.pack(txn_id, region)


def unpack_freed_key(data: bytes) -> tuple[int, int]:
    txn_id, region = _u64u32.unpack(data)
    return txn_id, region


OWNER_OBJECT: Final = b"o"
OWNER_PART: Final = b"p"


def extent_key(extent: Extent, owner: bytes) -> bytes:
    """The reverse row of an extent. `owner`: OWNER_OBJECT + object key, or OWNER_PART + part key."""
    return _u32x2.pack(extent.region, extent.offset) + owner


def place_key(region: int, offset: int) -> bytes:
    """What the reverse rows of the extent at a place begin with; those of the places behind it sort after it."""
    return _u32x2.pack(region, offset)


def split_extent_key(data: bytes) -> tuple[int, int, bytes]:
    """Region, offset, owner."""
    region, offset = _u32x2.unpack_from(data)
    return region, offset, bytes(data[8:])


def owed_by_place(record: ObjectRecord) -> bytes | None:
    """The row in `dirty` of a record with bytes: the place they begin at, which the reverse rows lead on from. It is an
    eighth of a key that would stand in the index for the third time."""
    if not record.extents:
        return None
    extent = record.extents[0]
    return _u32x2.pack(extent.region | _PLACE, extent.offset)


def place_owed(owed: bytes) -> bytes | None:
    """The place (as `place_key`) that a row in `dirty` has; None when it is an object key, as of a record without bytes, or
    whose bytes have other owners."""
    if len(owed) != _u32x2.size or owed[0] < 0x80:  # with that bit set, an object key is longer
        return None
    region, offset = _u32x2.unpack(owed)
    return _u32x2.pack(region & ~_PLACE, offset)


def cold_name(bucket: str, okey: bytes, version: str) -> str:
    """An object's own name in the backing store. A null version keeps it wherever it stands."""
    return keys.cold_key(bucket, split_object_key(okey)[1], version)


def cold_names(bucket: str, okey: bytes, record: ObjectRecord) -> tuple[str, ...]:
    """The names of a record's cold streams, in their order."""
    if not record.cold:
        return ()
    own = cold_name(bucket, okey, record.version)
    return (own,) if len(record.cold) == 1 else tuple([piece.name or own for piece in record.cold])


def piece_name(upload_id: str, number: int) -> str:
    """Where a part goes that must leave the tier before its object is complete."""
    return f"{keys.RESERVED}/pieces/{upload_id}/{number:05d}"


def upload_key(bucket_number: int, key: str, upload_id: str) -> bytes:
    return _u32.pack(bucket_number) + key.encode() + b"\0" + upload_id.encode()


def split_upload_key(data: bytes) -> tuple[int, str, str]:
    raw = bytes(data)
    return (
        _u32.unpack_from(raw)[0],
        raw[4 : -UPLOAD_ID_CHARS - 1].decode(),
        raw[-UPLOAD_ID_CHARS:].decode(),
    )


def part_key(upload_id: str, number: int) -> bytes:
    return upload_id.encode() + number.to_bytes(2, "big")


def split_part_key(data: bytes) -> tuple[str, int]:
    return bytes(data[:-2]).decode(), int.from_bytes(data[-2:], "big")


def aligned(offset: int, length: int) -> int:
    """The first place at or after `offset` where an extent of `length` bytes may start."""
    align = PAGE_ALIGN if length >= PAGE_ALIGN_FROM else EXTENT_ALIGN
    return -(-offset // align) * align


def hold_until_ms(info: ObjectInfo) -> int:
    """Until when the object must stay hot: the later of pin and restore; 0: it need not."""
    return max(info.pin_until_ms, info.restore_until_ms)


def lease_end_ms(info: ObjectInfo) -> int:
    """When the keeper must next look at pin and hold; 0: never."""
    ends = [t for t in (info.pin_until_ms, info.restore_until_ms) if 0 < t < FOREVER_MS]
    return min(ends, default=0)


def is_dirty(record: ObjectRecord) -> bool:
    """Whether the keeper owes it a copy in the backing store."""
    return record.residency is _HOT_ONLY and not record.cache


def is_leaving(record: ObjectRecord) -> bool:
    """Whether the keeper owes it to its storage class to take it out of the tier. A hold puts that off to its end."""
    return record.chill and record.residency is not _COLD_ONLY and not hold_until_ms(record)


def has_cold_class(record: ObjectRecord) -> bool:
    return record.storage_class in COLD_CLASSES and not record.cache


def is_dirty_part(part: PartRecord) -> bool:
    """Whether the part's only bytes are hot ones that may not be lost."""
    return bool(part.extents) and not part.cache


def slices(extents: Sequence[Extent], start: int, stop: int) -> list[tuple[Extent, int, int]]:
    """The extents that hold content bytes `start:stop`, each with the half-open range inside it."""
    found = []
    at = 0
    for extent in extents:
        if at >= stop:
            break
        if at + extent.length > start:
            found.append((extent, max(0, start - at), min(extent.length, stop - at)))
        at += extent.length
    return found
