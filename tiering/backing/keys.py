"""Where things are called in a backing store: object keys to cold keys and back, and the names of bucket records.

A cold key is `<bucket>/<key>`, the key as its owner wrote it wherever a backing store can hold it so. Escapes,
per `/`-separated segment, with `%` as the only escape character:

    %25, %5C, %01, …  one byte of UTF-8: `%`, backslash, control characters, U+FFFE and U+FFFF (no XML listing has them)
    %2E, %2E%2E       the segments `.` and `..`
    %_                an empty segment (`a//b`, a leading or a trailing slash)
    …%+/…             a segment over `SEGMENT_BYTES_MAX`, cut in pieces: file names end at 255 bytes
    %~/head/sha256    the whole key, when its escaped form is over `COLD_KEY_BYTES_MAX`: stores take keys of 1,024 bytes.
                      The name is then in the object's metadata only
    …%@version        at the end: a version of the key that has a version id of its own
    …%!               at the very end: not the object, but a note of what changed of it since its copy was made

The mapping is injective (the last form under SHA-256's collision resistance); order is not kept. Names under `.recall/`
are the gateway's own records: no bucket name begins with a dot. What a backing puts before all of it is its own affair.

Owns: nothing. Does not know: which backing, what is stored. Kind: pure. Spec: docs/FORMAT.md, cold objects.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

SEGMENT_BYTES_MAX: Final = 200
"""Longest segment of a cold key: 255 is the limit of file systems, and the directory backing adds a suffix."""
COLD_KEY_BYTES_MAX: Final = 880
"""Longest `<bucket>/<key>` form, so that with the backing's prefix it stays within S3's 1,024 bytes."""
BACKING_SEGMENT_BYTES_MAX: Final = SEGMENT_BYTES_MAX + 36
"""Longest segment a backing is given: a cold key's, with the marks of a version and of a note."""
PREFIX_BYTES_MAX: Final = 128
RESERVED: Final = ".recall"
BUCKET_RECORDS: Final = f"{RESERVED}/buckets/"
"""What every bucket record's name begins with."""
OWNER: Final = f"{RESERVED}/owner"
"""The mark of the data directory that writes to the store."""

_ESCAPE: Final = re.compile("[%\\\\\x00-\x1f\x7f-\x9f\ufffe\uffff]")
_ODD: Final = re.compile(_ESCAPE.pattern + r"|(?:\A|/)\.{0,2}(?:/|\Z)")
"""In keys that are not the same in the backing store, but for long ones."""
_UNESCAPE: Final = re.compile(rb"%([0-9A-F]{2})")
_ATOM: Final = re.compile(r"%[0-9A-F]{2}|.", re.DOTALL)
_BROKEN: Final = re.compile(r"%(?![0-9A-F]{2})")
_VERSION: Final = re.compile(r"%@([0-9a-f]{32})\Z")
_NOTE: Final = "%!"
_BUCKET_RECORD: Final = re.compile(r"\.recall/buckets/([^/]+)\.json")


def cold_key(bucket: str, key: str, version: str = "") -> str:
    """The name of an object in the backing store. `version`: 32 hexadecimal digits, "" for the null version."""
    if not bucket or bucket.startswith((".", "%")) or "/" in bucket:
        raise ValueError(f"not a bucket name: {bucket!r}")
    if not key:
        raise ValueError("an object key is not empty")
    mark = f"%@{version}" if version else ""
    if len(key) <= SEGMENT_BYTES_MAX and key.isascii() and _ODD.search(key) is None:
        return f"{bucket}/{key}{mark}"  # most are so, and this is a tenth of the way below
    name = f"{bucket}/{'/'.join(_escape_segment(segment) for segment in key.split('/'))}"
    if len(name.encode()) + len(mark) > COLD_KEY_BYTES_MAX:
        raw = key.encode()
        # The first bytes are for the reader's eye; ASCII letters only, so that nothing in it needs an escape.
        head = re.sub(r"[^A-Za-z0-9_-]", "_", raw[:40].decode("utf-8", "ignore"))
        name = f"{bucket}/%~/{head}/{hashlib.sha256(raw).hexdigest()}"
    return name + mark


def note_key(name: str) -> str:
    """The name of the note beside a cold object."""
    return name + _NOTE


def noted_name(name: str) -> str | None:
    """The cold key that a note's name is about; None when it is no note's."""
    return name.removesuffix(_NOTE) if name.endswith(_NOTE) else None


def parse_cold_key(name: str) -> tuple[str, str | None, str]:
    """The bucket, key and version of a cold key; key None: too long to be in the name, read the object's metadata.

    Raises ValueError for every name that `cold_key` does not make (notes and bucket records included).
    """
    found = _VERSION.search(name)
    version = found[1] if found is not None else ""
    inner = name if found is None else name[: found.start()]
    bucket, slash, rest = inner.partition("/")
    if not slash or not rest:
        raise ValueError(f"not a cold key: {name!r}")
    if rest.startswith("%~/"):
        if re.fullmatch(r"%~/[A-Za-z0-9_-]*/[0-9a-f]{64}", rest) is None or bucket.startswith((".", "%")):
            raise ValueError(f"not a cold key: {name!r}")
        return bucket, None, version
    key = "/".join(_unescape_segment(segment) for segment in rest.replace("%+/", "").split("/"))
    if cold_key(bucket, key, version) != name:
        # Closed world: one name, one spelling. A second spelling would let one object be found twice.
        raise ValueError(f"not a cold key: {name!r}")
    return bucket, key, version


def bucket_record_key(bucket: str) -> str:
    """The name of a bucket's own record."""
    if not bucket or bucket.startswith(".") or "/" in bucket:
        raise ValueError(f"not a bucket name: {bucket!r}")
    return f"{BUCKET_RECORDS}{bucket}.json"


def parse_bucket_record_key(name: str) -> str:
    """The bucket of a bucket record's name; ValueError for any other name."""
    found = _BUCKET_RECORD.fullmatch(name)
    if found is None or found[1].startswith("."):
        raise ValueError(f"not a bucket record: {name!r}")
    return found[1]


def is_reserved(name: str) -> bool:
    """True for the gateway's own records: a walk over the objects leaves them out."""
    return name.startswith(f"{RESERVED}/")


def check_key(key: str) -> str:
    """The rule for keys given to a backing: segments without traversal. ValueError says which rule; returns the key."""
    if not key:
        raise ValueError("a backing key is not empty")
    for segment in key.split("/"):
        if segment in ("", ".", ".."):
            raise ValueError(f"a backing key has no empty, . or .. segment: {key!r}")
        if "\0" in segment or "\\" in segment:
            raise ValueError(f"a backing key has no NUL and no backslash: {key!r}")
        if len(segment.encode()) > BACKING_SEGMENT_BYTES_MAX:
            raise ValueError(f"a segment of a backing key is over {BACKING_SEGMENT_BYTES_MAX} bytes: {key!r}")
    return key


def check_prefix(prefix: str) -> str:
    """A usable key prefix without slashes at its ends, or ValueError naming the fault. "" is one."""
    if not prefix:
        return ""
    if _ESCAPE.search(prefix):
        raise ValueError(f"a key prefix has no percent sign, backslash or control character: {prefix!r}")
    if len(prefix.encode()) > PREFIX_BYTES_MAX:
        raise ValueError(f"a key prefix is at most {PREFIX_BYTES_MAX} bytes")
    return check_key(prefix)


def _escape_segment(segment: str) -> str:
    if not segment:
        return "%_"
    if segment in (".", ".."):
        return "%2E" * len(segment)
    escaped = _ESCAPE.sub(lambda m: "".join(f"%{byte:02X}" for byte in m[0].encode()), segment)
    return escaped if len(escaped.encode()) <= SEGMENT_BYTES_MAX else _split(escaped)


def _split(escaped: str) -> str:
    """Cuts before the limit, never inside an escape or a character; `%+` counts as part of its piece."""
    pieces: list[str] = []
    piece, room = "", SEGMENT_BYTES_MAX - 2
    for atom in _ATOM.findall(escaped):
        cost = len(atom.encode())
        if cost > room:
            pieces.append(piece)
            piece, room = "", SEGMENT_BYTES_MAX - 2
        piece += atom
        room -= cost
    pieces.append("%2E" * len(piece) if piece in (".", "..") else piece)
    return "%+/".join(pieces)


def _unescape_segment(segment: str) -> str:
    if segment == "%_":
        return ""
    if not segment or _BROKEN.search(segment):
        raise ValueError(f"not an escaped segment: {segment!r}")
    plain = _UNESCAPE.sub(lambda m: bytes((int(m[1], 16),)), segment.encode())
    try:
        return plain.decode()
    except UnicodeDecodeError:
        raise ValueError(f"not an escaped segment: {segment!r}") from None
