"""The content of one request: transfer and aws-chunked coding removed, length, hashes, signatures and trailers checked.

Owns the reading of one body; implements `s3api.call.Payload`. Does not know what the content is for.
Kind: owner of one body, on the event loop; large pieces are hashed in the loop's thread pool.
Invariants: views are borrowed from the transport until the next read, never copied; the empty view that ends the content
is given out only after everything claimed about it held.
Spec: AWS S3 API Reference, "Authenticating Requests"; RFC 9112 §6.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, Final

from s3api.checksums import ALGORITHMS, INLINE_BYTES_MAX, declared_trailers
from s3api.chunked import ChunkedDecoder
from s3api.errors import S3Error
from s3api.message import Headers, RequestBody
from s3api.params import base64_exact
from s3api.sigv4 import (
    EMPTY_SHA256,
    STREAMING_SIGNED,
    STREAMING_SIGNED_TRAILER,
    STREAMING_UNSIGNED_TRAILER,
    UNSIGNED,
    Verified,
)
from tiering.contract import OBJECT_BYTES_MAX, Checksum

_END: Final = memoryview(b"")


class RawPayload:
    """Content sent as it is: with a hash to check (`sha256`, hex), or none (""). `length` None: HTTP-chunked."""

    __slots__ = ("_body", "_digest", "_document_bytes_max", "_sha256", "length", "read_bytes", "trailer")

    def __init__(self, body: RequestBody, length: int | None, sha256: str, document_bytes_max: int) -> None:
        self.length = length
        self.trailer: Checksum | None = None
        self.read_bytes = 0
        self._body = body
        self._sha256 = sha256
        self._digest: Any = None
        self._document_bytes_max = document_bytes_max

    async def read(self) -> memoryview:
        """See `s3api.call.Payload`. Raises IncompleteBody, XAmzContentSHA256Mismatch, BodyError."""
        view = await self._body.read()
        size = len(view)
        if not size:
            self._finish()
            return _END
        self.read_bytes += size
        if self._sha256:
            if self._digest is None:
                self._digest = hashlib.sha256()
            if size <= INLINE_BYTES_MAX:
                self._digest.update(view)
            else:
                await asyncio.get_running_loop().run_in_executor(None, self._digest.update, view)
        return view

    def at_hand(self) -> Sequence[memoryview] | None:
        """See `s3api.call.Payload`. Raises IncompleteBody, XAmzContentSHA256Mismatch."""
        if self.length is None or self.length > INLINE_BYTES_MAX:
            return None
        view = self._body.whole()
        if view is None:
            return None
        self.read_bytes = len(view)
        if self._sha256:
            self._digest = hashlib.sha256(view)
        self._finish()
        return (view,)

    def done(self) -> None:
        """See `s3api.call.Payload`."""
        self._body.done()

    def _finish(self) -> None:
        if self.length is not None and self.read_bytes != self.length:
            raise S3Error("IncompleteBody")
        if self._sha256:
            computed = EMPTY_SHA256 if self._digest is None else self._digest.hexdigest()
            if computed != self._sha256:
                raise S3Error(
                    "XAmzContentSHA256Mismatch",
                    ClientComputedContentSHA256=self._sha256,
                    S3ComputedContentSHA256=computed,
                )

    async def document(self) -> bytes:
        """See `s3api.call.Payload`. Raises MaxMessageLengthExceeded, before reading where the length says so."""
        return await _collect(self, self._document_bytes_max)


class ChunkedPayload:
    """Content in aws-chunked frames; `length` is x-amz-decoded-content-length."""

    __slots__ = (
        "_announced",
        "_body",
        "_decoder",
        "_document_bytes_max",
        "_is_signed",
        "_pending",
        "length",
        "read_bytes",
        "trailer",
    )

    def __init__(
        self,
        body: RequestBody,
        decoder: ChunkedDecoder,
        signed: bool,
        announced: dict[bytes, str],
        document_bytes_max: int,
    ) -> None:
        self.length: int | None = decoder.length
        self.trailer: Checksum | None = None
        self.read_bytes = 0
        self._body = body
        self._decoder = decoder
        self._is_signed = signed
        self._announced = announced  # trailer header → checksum algorithm
        self._pending: list[memoryview] = []  # slices of the view last read, in reverse
        self._document_bytes_max = document_bytes_max

    async def read(self) -> memoryview:
        """See `s3api.call.Payload`. Raises what `ChunkedDecoder` does, and BodyError."""
        while not self._pending:
            view = await self._body.read()
            if not len(view):
                self._finish()
                return _END
            if self._is_signed and len(view) > INLINE_BYTES_MAX:
                slices = await asyncio.get_running_loop().run_in_executor(None, self._decoder.feed, view)
            else:
                slices = self._decoder.feed(view)
            slices.reverse()
            self._pending = slices
        piece = self._pending.pop()
        self.read_bytes += len(piece)
        return piece

    def at_hand(self) -> Sequence[memoryview] | None:
        """See `s3api.call.Payload`. Raises what `ChunkedDecoder` does."""
        if self._decoder.length > INLINE_BYTES_MAX:
            return None
        view = self._body.whole()
        if view is None:
            return None
        pieces = self._decoder.feed(view)
        self._finish()
        self.read_bytes = self._decoder.decoded
        return pieces

    def done(self) -> None:
        """See `s3api.call.Payload`."""
        self._body.done()

    def _finish(self) -> None:
        self._decoder.finish()
        for name, algorithm in self._announced.items():
            value = self._decoder.trailers[name].decode("ascii")
            base64_exact(f"{name.decode()} trailing", value, ALGORITHMS[algorithm].length)
            self.trailer = Checksum(algorithm, value)

    async def document(self) -> bytes:
        """See `s3api.call.Payload`. Raises MaxMessageLengthExceeded."""
        return await _collect(self, self._document_bytes_max)


async def _collect(payload: RawPayload | ChunkedPayload, bytes_max: int) -> bytes:
    if payload.length is not None and payload.length > bytes_max:
        raise S3Error("MaxMessageLengthExceeded", MaxMessageLengthBytes=bytes_max)
    out = bytearray()
    while len(view := await payload.read()):
        if len(out) + len(view) > bytes_max:
            raise S3Error("MaxMessageLengthExceeded", MaxMessageLengthBytes=bytes_max)
        out += view
    return bytes(out)


def open_payload(
    body: RequestBody, headers: Headers, verified: Verified | None, document_bytes_max: int
) -> RawPayload | ChunkedPayload:
    """The payload a request's headers describe, under the signature that covers them; nothing is read yet.

    Raises MissingContentLength where a length that must be stated is not, InvalidArgument where it is no number,
    EntityTooLarge above S3's largest object, InvalidRequest for trailers that do not fit.
    """
    kind = UNSIGNED if verified is None else verified.payload
    if not kind.startswith("STREAMING-"):
        # Without a Content-Length nothing is stated, even where the transport knows there is no body.
        stated = body.length if b"content-length" in headers else None
        if stated is not None and stated > OBJECT_BYTES_MAX:
            raise S3Error("EntityTooLarge", ProposedSize=stated, MaxSizeAllowed=OBJECT_BYTES_MAX)
        return RawPayload(body, stated, "" if kind == UNSIGNED else kind, document_bytes_max)
    assert verified is not None
    length = decoded_length(headers)
    signed = kind in (STREAMING_SIGNED, STREAMING_SIGNED_TRAILER)
    announced = {row.header: row.name for row in declared_trailers(headers)}
    if kind in (STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER):
        trailers: frozenset[bytes] | None = frozenset(announced)
    elif announced:
        raise S3Error("InvalidRequest", "x-amz-trailer needs a payload kind that ends in -TRAILER.")
    else:
        trailers = None
    decoder = ChunkedDecoder(length, verified.chunk_signer() if signed else None, trailers)
    return ChunkedPayload(body, decoder, signed, announced, document_bytes_max)


def decoded_length(headers: Headers) -> int:
    """x-amz-decoded-content-length, which a streaming body must state."""
    value = headers.get(b"x-amz-decoded-content-length", b"").strip()
    if not value:
        raise S3Error("MissingContentLength", Detail="x-amz-decoded-content-length must be given.")
    if not value.isdigit() or len(value) > 18:
        raise S3Error("MissingContentLength", Detail="The value of x-amz-decoded-content-length is not valid.")
    length = int(value)
    if length > OBJECT_BYTES_MAX:
        raise S3Error("EntityTooLarge", ProposedSize=length, MaxSizeAllowed=OBJECT_BYTES_MAX)
    return length


def stored_content_encoding(value: str) -> str:
    """A Content-Encoding as it belongs to the object: `aws-chunked` names the transfer only, and is taken off."""
    if "aws-chunked" not in value.lower():
        return value
    return ",".join(item.strip() for item in value.split(",") if item.strip().lower() not in ("", "aws-chunked"))
