"""`s3api.payload`: each way content can be carried, and what ends it with an error instead of the empty view."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from s3api.checksums import INLINE_BYTES_MAX
from s3api.chunked import encode
from s3api.errors import S3Error
from s3api.message import BodyError
from s3api.payload import ChunkedPayload, RawPayload, decoded_length, open_payload, stored_content_encoding
from s3api.sigv4 import (
    STREAMING_SIGNED,
    STREAMING_SIGNED_TRAILER,
    STREAMING_UNSIGNED_TRAILER,
    UNSIGNED,
    SigV4,
    Verified,
    chunk_signer,
    sign_headers,
)
from tiering.contract import OBJECT_BYTES_MAX, Checksum

NOW_S = 1_780_000_000
CRC = b"x-amz-checksum-crc32c"
BIG = bytes(range(256)) * 1200  # above the size that is hashed on the loop


class Body:
    """A RequestBody over bytes, given out in one reused buffer, as a transport does: `piece` bytes at a time.

    `arrived`: all of it can be had at once.
    """

    def __init__(
        self, data: bytes, length: int | None, piece: int = 1 << 20, fails: str = "", arrived: bool = False
    ) -> None:
        self.length = length
        self.arrived = arrived
        self.reads = 0
        self._left = data
        self._buffer = bytearray(piece)
        self._fails = fails

    async def read(self) -> memoryview:
        self.reads += 1
        piece, self._left = self._left[: len(self._buffer)], self._left[len(self._buffer) :]
        if not piece and self._fails:
            raise BodyError(self._fails)
        self._buffer[: len(piece)] = piece
        return memoryview(self._buffer)[: len(piece)]

    def done(self) -> None: ...

    def whole(self) -> memoryview | None:
        if not self.arrived:
            return None
        whole, self._left = self._left, b""
        return memoryview(whole)


def signed(payload: str, headers: dict[bytes, bytes]) -> tuple[dict[bytes, bytes], Verified]:
    sent = sign_headers(
        "PUT", b"/b/k", b"", {b"host": b"h"} | headers, access_key="a", secret_key="s", now_s=NOW_S, payload=payload
    )
    verified = SigV4({"a": "s"}.get).verify("PUT", b"/b/k", b"", sent, NOW_S)
    assert verified is not None
    return sent, verified


async def drain(payload: RawPayload | ChunkedPayload) -> bytes:
    content = bytearray()
    while len(view := await payload.read()):
        content += view
    return bytes(content)


def read(
    payload: str,
    body: bytes,
    headers: dict[bytes, bytes],
    length: int | None = -1,
    piece: int = 1 << 20,
    fails: str = "",
) -> tuple[bytes, RawPayload | ChunkedPayload]:
    if length == -1:
        length = len(body)
    if length is not None:
        headers = headers | {b"content-length": b"%d" % length}
    sent, verified = signed(payload, headers)
    opened = open_payload(Body(body, length, piece, fails), sent, verified, 1000)
    at_hand = open_payload(Body(body, length, arrived=length == len(body) and not fails), sent, verified, 1000)
    try:
        content = asyncio.run(drain(opened))
    except S3Error as error:
        if at_hand.length is not None and at_hand.length <= INLINE_BYTES_MAX and length == len(body) and not fails:
            with pytest.raises(S3Error) as caught:
                at_hand.at_hand()
            assert caught.value.spec.code == error.spec.code
        raise
    pieces = at_hand.at_hand()
    if pieces is not None:
        assert b"".join(pieces) == content
        assert (at_hand.trailer, at_hand.read_bytes) == (opened.trailer, opened.read_bytes)
    return content, opened


def test_a_long_content_is_not_verified_at_once() -> None:
    """Hashing it would hold the loop."""
    for length, taken in ((INLINE_BYTES_MAX, True), (INLINE_BYTES_MAX + 1, False)):
        sent, verified = signed(UNSIGNED, {b"content-length": b"%d" % length})
        opened = open_payload(Body(bytes(length), length, arrived=True), sent, verified, 1000)
        assert (opened.at_hand() is not None) == taken


def refusal(*arguments: object, **options: object) -> str:
    with pytest.raises(S3Error) as caught:
        read(*arguments, **options)  # type: ignore[arg-type]
    return caught.value.spec.code


@pytest.mark.parametrize("piece", [7, 1 << 20])
@pytest.mark.parametrize("content", [b"", b"hello", BIG[: 1 << 17]], ids=["empty", "small", "big"])
@pytest.mark.parametrize("hashed", [False, True])
def test_content_as_it_is(content: bytes, hashed: bool, piece: int) -> None:
    if piece == 7:
        content = content[:2000]
    got, payload = read(hashlib.sha256(content).hexdigest() if hashed else UNSIGNED, content, {}, piece=piece)
    assert got == content
    assert payload.length == payload.read_bytes == len(content)
    assert payload.trailer is None


@pytest.mark.parametrize("content", [b"", b"hellp", BIG], ids=["empty", "small", "big"])
def test_wrong_sha256_is_refused_at_the_end(content: bytes) -> None:
    assert refusal(hashlib.sha256(b"hello").hexdigest(), content, {}) == "XAmzContentSHA256Mismatch"


def test_short_body_is_incomplete() -> None:
    assert refusal(UNSIGNED, b"hell", {}, length=5) == "IncompleteBody"


def test_body_errors_pass_through() -> None:
    with pytest.raises(BodyError):
        read(UNSIGNED, b"hell", {}, length=5, fails="gone")


@pytest.mark.parametrize("piece", [1, 13, 1 << 20])
@pytest.mark.parametrize("kind", [STREAMING_UNSIGNED_TRAILER, STREAMING_SIGNED_TRAILER, STREAMING_SIGNED])
@pytest.mark.parametrize("stated", [True, False], ids=["content-length", "transfer-chunked"])
def test_aws_chunked_content(kind: str, piece: int, stated: bool) -> None:
    content = BIG if piece > 13 else BIG[:500]
    headers = {b"x-amz-decoded-content-length": b"%d" % len(content), b"content-encoding": b"aws-chunked"}
    trailers = None
    if kind.endswith("TRAILER"):
        headers[b"x-amz-trailer"] = CRC
        trailers = {CRC: b"AAAAAA=="}
    sent, verified = signed(kind, headers)
    signer = None if "UNSIGNED" in kind else chunk_signer(sent, secret_key="s")
    body = encode([content[:300], content[300:]], signer, trailers)
    payload = open_payload(Body(body, len(body) if stated else None, piece), sent, verified, 1000)
    assert payload.length == len(content)
    assert asyncio.run(drain(payload)) == content
    assert payload.trailer == (Checksum("CRC32C", "AAAAAA==") if trailers else None)
    assert payload.read_bytes == len(content)


def test_wrong_chunk_signature_is_refused() -> None:
    headers = {b"x-amz-decoded-content-length": b"%d" % len(BIG)}
    sent, verified = signed(STREAMING_SIGNED, headers)
    body = bytearray(encode([BIG], chunk_signer(sent, secret_key="s")))
    body[1000] ^= 1
    payload = open_payload(Body(bytes(body), len(body)), sent, verified, 1000)
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        asyncio.run(drain(payload))


@pytest.mark.parametrize("value", [b"AAAA", b"AAAAAAA=", b"nothing"])
def test_trailer_must_be_a_checksum(value: bytes) -> None:
    headers = {b"x-amz-decoded-content-length": b"5", b"x-amz-trailer": CRC}
    assert refusal(STREAMING_UNSIGNED_TRAILER, encode([b"hello"], None, {CRC: value}), headers) == "InvalidRequest"


def test_aws_chunked_body_cut_short_is_incomplete() -> None:
    body = encode([b"hello"], None, {CRC: b"AAAAAA=="})
    headers = {b"x-amz-decoded-content-length": b"5", b"x-amz-trailer": CRC}
    for size in (0, 3, 8, len(body) - 1):
        assert refusal(STREAMING_UNSIGNED_TRAILER, body[:size], headers) == "IncompleteBody"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "MissingContentLength"),
        (b"", "MissingContentLength"),
        (b"x", "MissingContentLength"),
        (b"-1", "MissingContentLength"),
        (b"1" * 30, "MissingContentLength"),
        (b"%d" % (OBJECT_BYTES_MAX + 1), "EntityTooLarge"),
    ],
)
def test_decoded_length_must_be_stated(value: bytes | None, code: str) -> None:
    with pytest.raises(S3Error) as caught:
        decoded_length({} if value is None else {b"x-amz-decoded-content-length": value})
    assert caught.value.spec.code == code


def test_trailer_needs_its_payload_kind() -> None:
    assert (
        refusal(STREAMING_SIGNED, b"", {b"x-amz-decoded-content-length": b"0", b"x-amz-trailer": CRC})
        == "InvalidRequest"
    )


def test_unstated_length_is_none() -> None:
    sent, verified = signed(UNSIGNED, {})
    assert open_payload(Body(b"", 0), sent, verified, 10).length is None
    assert open_payload(Body(b"", None), sent, verified, 10).length is None


def test_too_large_is_refused_before_reading() -> None:
    sent, verified = signed(UNSIGNED, {b"content-length": b"%d" % (OBJECT_BYTES_MAX + 1)})
    with pytest.raises(S3Error, match="EntityTooLarge"):
        open_payload(Body(b"", OBJECT_BYTES_MAX + 1), sent, verified, 10)


def test_document_is_bounded() -> None:
    sent, verified = signed(UNSIGNED, {})
    stated = sent | {b"content-length": b"11"}
    assert asyncio.run(open_payload(Body(b"x" * 10, None, 3), sent, verified, 10).document()) == b"x" * 10
    with pytest.raises(S3Error, match="MaxMessageLengthExceeded"):
        asyncio.run(open_payload(Body(b"x" * 11, None, 3), sent, verified, 10).document())
    body = Body(b"x" * 11, 11)
    with pytest.raises(S3Error, match="MaxMessageLengthExceeded"):
        asyncio.run(open_payload(body, stated, verified, 10).document())
    assert body.reads == 0  # so no 100 Continue went out


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("aws-chunked", ""),
        ("aws-chunked, aws-chunked", ""),
        ("aws-chunked,gzip", "gzip"),
        ("gzip , AWS-Chunked", "gzip"),
        ("gzip", "gzip"),
        ("deflate, gzip", "deflate, gzip"),
        ("", ""),
    ],
)
def test_stored_content_encoding(value: str, stored: str) -> None:
    assert stored_content_encoding(value) == stored
