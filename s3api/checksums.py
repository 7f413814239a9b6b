"""Checksums of S3: computing them while bytes pass, combining those of parts, and reading what a request asks for.

Owns nothing. Does not know bodies, stores or XML.
Kind: pure, but for `Digest.update`, which hands slow hashes of large pieces to the loop's thread pool.
Invariants: values on the wire are base64 of big-endian bytes; CRCs are computed by awscrt, the rest by hashlib.
Spec: AWS S3 User Guide, "Checking object integrity"; RFC 1864 (Content-MD5).
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Literal

import msgspec
from awscrt import checksums as crt

from s3api import md5
from s3api.errors import S3Error
from s3api.md5 import Hash
from s3api.message import PLAIN_HEADERS, Headers
from s3api.params import base64_exact
from tiering.contract import Buffer, Checksum

INLINE_BYTES_MAX: Final = 64 << 10
"""Largest piece a slow hash takes on the event loop: 40 µs of SHA-256. MD5 has a limit of its own."""

Kind = Literal["FULL_OBJECT", "COMPOSITE"]

crc64nvme: Final[Callable[[Buffer, int], int]] = crt.crc64nvme
"""The next CRC64NVME of bytes, from the last."""


class _XxHash:
    """awscrt's xxHash in hashlib's form; it can be finished only once."""

    __slots__ = ("_digest", "_state")

    def __init__(self, state: crt.XXHash) -> None:
        self._state = state
        self._digest: bytes | None = None

    def update(self, data: Buffer, /) -> None:
        self._state.update(bytes(data))  # it takes no buffer but bytes

    def digest(self) -> bytes:
        if self._digest is None:
            self._digest = self._state.finalize()
        return self._digest


class Algorithm(msgspec.Struct, frozen=True):
    """One row: AWS's name, header, raw length, and how it is computed: a CRC by its function and reflected polynomial, a
    hash by what makes a new one."""

    name: str
    header: bytes
    length: int
    crc: Callable[[Buffer, int], int] | None = None
    polynomial: int = 0
    new: Callable[[], Hash] | None = None


ALGORITHMS: Final[dict[str, Algorithm]] = {
    row.name: row
    for row in (
        Algorithm("CRC32", b"x-amz-checksum-crc32", 4, crt.crc32, 0xEDB88320),
        Algorithm("CRC32C", b"x-amz-checksum-crc32c", 4, crt.crc32c, 0x82F63B78),
        Algorithm("CRC64NVME", b"x-amz-checksum-crc64nvme", 8, crt.crc64nvme, 0x9A6C9329AC4BC9B5),
        Algorithm("SHA1", b"x-amz-checksum-sha1", 20, new=lambda: hashlib.sha1(usedforsecurity=False)),
        Algorithm("SHA256", b"x-amz-checksum-sha256", 32, new=hashlib.sha256),
        Algorithm("SHA512", b"x-amz-checksum-sha512", 64, new=hashlib.sha512),
        Algorithm("MD5", b"x-amz-checksum-md5", 16, new=md5.new),
        Algorithm("XXHASH64", b"x-amz-checksum-xxhash64", 8, new=lambda: _XxHash(crt.XXHash.new_xxhash64())),
        Algorithm("XXHASH3", b"x-amz-checksum-xxhash3", 8, new=lambda: _XxHash(crt.XXHash.new_xxhash3_64())),
        Algorithm("XXHASH128", b"x-amz-checksum-xxhash128", 16, new=lambda: _XxHash(crt.XXHash.new_xxhash3_128())),
    )
}
BY_HEADER: Final = {row.header: row for row in ALGORITHMS.values()}
CLAIMS: Final = frozenset(BY_HEADER) | {
    b"content-md5",
    b"x-amz-decoded-content-length",
    b"x-amz-sdk-checksum-algorithm",
    b"x-amz-trailer",
}
"""Headers that say how content comes and is checked, and nothing else."""
_NOT_VALUES: Final = frozenset({b"x-amz-checksum-mode", b"x-amz-checksum-algorithm", b"x-amz-checksum-type"})


SINGLE_CHECKSUM: Final = "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."


class Digest:
    """Any set of `ALGORITHMS` over the same bytes."""

    __slots__ = ("_crcs", "_hashes", "size")

    def __init__(self, algorithms: Iterable[str]) -> None:
        self.size = 0
        self._crcs: dict[str, int] = {}
        self._hashes: dict[str, Hash] = {}
        for name in algorithms:
            new = ALGORITHMS[name].new
            if new is None:
                self._crcs[name] = 0
            else:
                self._hashes[name] = new()

    def update(self, view: Buffer) -> Awaitable[Any] | None:
        """Takes `view`; borrows it until this returns or the awaitable, already under way, is done.

        CRCs and small pieces are done at once. Hashes of a large piece run in threads, each its own, at the same time; MD5 of
        pieces of several contents in one.
        One update at a time: await the last before the next.
        """
        self.size += len(view)
        for name, value in self._crcs.items():
            self._crcs[name] = ALGORITHMS[name].crc(view, value)  # type: ignore[misc]  # a row of a CRC has its function
        if not self._hashes:
            return None
        running: list[Awaitable[Any]] = []
        for name, each in self._hashes.items():
            if name == "MD5" and len(view) > md5.ALONE_BYTES_MAX:
                running.append(md5.together.update(each, view))
            elif len(view) <= INLINE_BYTES_MAX:
                each.update(view)
            else:
                running.append(asyncio.get_running_loop().run_in_executor(None, each.update, view))
        if not running:
            return None
        return running[0] if len(running) == 1 else asyncio.gather(*running)

    def raw(self, name: str) -> bytes:
        """The value so far as bytes, big-endian."""
        if name in self._crcs:
            return self._crcs[name].to_bytes(ALGORITHMS[name].length, "big")
        return self._hashes[name].digest()

    def base64(self, name: str) -> str:
        """The value so far as `x-amz-checksum-*` and Content-MD5 carry it."""
        return base64.b64encode(self.raw(name)).decode()

    def hex(self, name: str) -> str:
        """The value so far in lower-case hex, as ETags carry MD5."""
        return self.raw(name).hex()


class Requested(msgspec.Struct, frozen=True):
    """What a request's headers say of its content's checksum.

    `algorithm` "" when none is named. `value`: base64, None when a trailer will carry it (`trailer`) or none is given.
    `content_md5`: 16 raw bytes.
    """

    algorithm: str = ""
    value: str | None = None
    trailer: bool = False
    content_md5: bytes | None = None


NOTHING_REQUESTED: Final = Requested()


def requested_checksum(headers: Headers) -> Requested:
    """Reads Content-MD5, x-amz-checksum-*, x-amz-sdk-checksum-algorithm and x-amz-trailer.

    Raises InvalidDigest for Content-MD5; InvalidRequest for a value that is none of its algorithm, several values, a
    named algorithm without its value, an unknown one.
    """
    if PLAIN_HEADERS.issuperset(headers):
        return NOTHING_REQUESTED
    md5 = headers.get(b"content-md5")
    content_md5 = None if md5 is None else base64_exact("Content-MD5", _text(md5), 16, "InvalidDigest")
    found: list[tuple[Algorithm, str | None]] = []
    for name, value in headers.items():
        if name.startswith(b"x-amz-checksum-") and name not in _NOT_VALUES:
            row = BY_HEADER.get(name)
            if row is None:
                raise S3Error(
                    "InvalidRequest", "The algorithm type you specified in x-amz-checksum- header is invalid."
                )
            text = _text(value)
            base64_exact(_text(name), text, row.length)
            found.append((row, text))
    found.extend((row, None) for row in declared_trailers(headers))
    if len(found) > 1:
        raise S3Error("InvalidRequest", SINGLE_CHECKSUM)
    named = _text(headers.get(b"x-amz-sdk-checksum-algorithm", b"")).upper()
    if named:
        if named not in ALGORITHMS:
            raise S3Error("InvalidRequest", "Value for x-amz-sdk-checksum-algorithm header is invalid.")
        if not found:
            raise S3Error(
                "InvalidRequest",
                "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer "
                "headers were found.",
            )
        if found[0][0].name != named:
            raise S3Error("InvalidRequest", "Value for x-amz-sdk-checksum-algorithm header is invalid.")
    if not found:
        return NOTHING_REQUESTED if content_md5 is None else Requested(content_md5=content_md5)
    row, given = found[0]
    return Requested(row.name, given, given is None, content_md5)


def declared_trailers(headers: Headers) -> list[Algorithm]:
    """The checksum trailers `x-amz-trailer` announces; any other trailer is refused with InvalidRequest."""
    value = headers.get(b"x-amz-trailer")
    if value is None:
        return []
    rows = []
    for item in value.lower().split(b","):
        row = BY_HEADER.get(item.strip())
        if row is None:
            raise S3Error("InvalidRequest", "The value specified in the x-amz-trailer header is not supported.")
        rows.append(row)
    return rows


def conclude(requested: Requested, digest: Digest, trailer: Checksum | None = None) -> Checksum | None:
    """The checksum to keep, once `digest` has seen the whole content; raises BadDigest where a claim is wrong.

    The digest must hold the requested algorithm (and MD5 under Content-MD5). None when the request asked for none.
    """
    if requested.content_md5 is not None and digest.raw("MD5") != requested.content_md5:
        raise S3Error(
            "BadDigest",
            "The Content-MD5 you specified did not match what we received.",
            ExpectedDigest=base64.b64encode(requested.content_md5).decode(),
            CalculatedDigest=digest.base64("MD5"),
        )
    if not requested.algorithm:
        return None
    claimed = requested.value
    if requested.trailer:
        if trailer is None or trailer.algorithm != requested.algorithm:
            raise S3Error("MalformedTrailerError")
        claimed = trailer.value
    computed = digest.base64(requested.algorithm)
    if claimed is not None and claimed != computed:
        raise S3Error("BadDigest", f"The {requested.algorithm} you specified did not match the calculated checksum.")
    return Checksum(requested.algorithm, computed)


def wanted(requested: Requested) -> set[str]:
    """The algorithms a `Digest` needs for `conclude`."""
    names = {requested.algorithm} if requested.algorithm else set()
    if requested.content_md5 is not None:
        names.add("MD5")
    return names


def default_kind(algorithm: str) -> Kind:
    """The checksum type of an upload that names none: AWS's table. Hashes are composite, CRC64NVME full-object."""
    return "FULL_OBJECT" if algorithm == "CRC64NVME" else "COMPOSITE"


def check_kind(algorithm: str, kind: Kind) -> None:
    """Raises InvalidRequest for the pairs AWS refuses: a hash cannot be combined, CRC64NVME is never composite."""
    possible = (
        ("FULL_OBJECT",)
        if algorithm == "CRC64NVME"
        else (("FULL_OBJECT", "COMPOSITE") if ALGORITHMS[algorithm].crc is not None else ("COMPOSITE",))
    )
    if kind not in possible:
        raise S3Error(
            "InvalidRequest",
            f"The {kind} checksum type cannot be used with the {algorithm.lower()} checksum algorithm.",
        )


def composite(algorithm: str, values: Sequence[str]) -> Checksum:
    """The checksum of the parts' checksums (base64, in part order), with `-N`."""
    digest = Digest((algorithm,))
    for value in values:
        digest.update(base64.b64decode(value))
    return Checksum(algorithm, f"{digest.base64(algorithm)}-{len(values)}", "COMPOSITE")


def full_object(algorithm: str, parts: Sequence[tuple[str, int]]) -> Checksum:
    """The CRC of the whole from (base64 CRC, size) of its parts in order. Cost: O(1) a part for parts of one size."""
    row = ALGORITHMS[algorithm]
    value = 0
    for text, size in parts:
        value = combine(algorithm, value, int.from_bytes(base64.b64decode(text), "big"), size)
    return Checksum(algorithm, base64.b64encode(value.to_bytes(row.length, "big")).decode())


def combine(algorithm: str, first: int, second: int, second_bytes: int) -> int:
    """The CRC of A followed by B, from CRC(A), CRC(B) and the length of B.

    With initial and final inversion alike, CRC(AB) = CRC(A)·x^(8|B|) + CRC(B) over GF(2) modulo the polynomial.
    """
    row = ALGORITHMS[algorithm]
    top = 1 << (row.length * 8 - 1)
    value = second
    for term in _power(row.polynomial, top, second_bytes * 8):
        if first & top:
            value ^= term
        first <<= 1
    return value


def _times_x(value: int, polynomial: int) -> int:
    """value·x in reflected form, where the highest bit stands for x^0."""
    return (value >> 1) ^ polynomial if value & 1 else value >> 1


def _multiply(a: int, b: int, polynomial: int, top: int) -> int:
    product = 0
    while a:
        if a & top:
            product ^= b
        a = (a << 1) & ((top << 1) - 1)
        b = _times_x(b, polynomial)
    return product


@functools.lru_cache(maxsize=256)
def _power(polynomial: int, top: int, exponent: int) -> tuple[int, ...]:
    """x^exponent · x^k modulo the polynomial, for k from 0 to the width: the terms a product by x^exponent adds up.

    Remembered, since the parts of an upload mostly have one size: 10,000 of them then combine in under 0.1 s.
    """
    value, square = top, top >> 1  # x^0 and x^1
    while exponent:
        if exponent & 1:
            value = _multiply(value, square, polynomial, top)
        square = _multiply(square, square, polynomial, top)
        exponent >>= 1
    terms = []
    for _ in range(top.bit_length()):
        terms.append(value)
        value = _times_x(value, polynomial)
    return tuple(terms)


def multipart_etag(etags: Sequence[str]) -> str:
    """The ETag of an object completed from parts: MD5 over the parts' raw MD5s, with `-N`.

    A part's ETag that is no MD5 (a pool with opaque ETags) goes in as text.
    """
    digest = hashlib.md5(usedforsecurity=False)
    for etag in etags:
        try:
            raw = bytes.fromhex(etag)
        except ValueError:
            raw = etag.encode()
        digest.update(raw)
    return f"{digest.hexdigest()}-{len(etags)}"


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip()
