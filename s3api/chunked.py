"""aws-chunked content coding: frames in, content slices and trailers out; chunk and trailer signatures checked.

Owns the state of one body. Does not know sockets, HTTP's own chunking (whose borders do not line up with these), nor
what a trailer means. Kind: pure, sans-I/O. Invariants: content is handed out as slices of what was fed, never copied;
how the body was cut changes nothing; no content beyond the stated length leaves; `finish` passes only after every frame,
signature and trailer was good, so the consumer must not act on the content before it.
Spec: AWS S3 API Reference, "Transferring Payload in Multiple Chunks (Chunked Upload)", "… with trailing headers".
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from s3api.errors import S3Error
from s3api.sigv4 import ChunkSigner
from tiering.contract import Buffer

LINE_BYTES_MAX: Final = 512
"""A chunk head is at most 16 + 17 + 64 bytes; a trailer line carries a checksum or a signature."""
TRAILERS_MAX: Final = 8

_UNSIGNED_HEAD = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*\Z")
_SIGNED_HEAD = re.compile(rb"([0-9A-Fa-f]{1,16});chunk-signature=([0-9a-f]{64})[ \t]*\Z")
_TRAILER = re.compile(rb"([A-Za-z0-9-]{1,64})[ \t]*:[ \t]*([\x21-\x7e]{0,256})[ \t]*\Z")
_SIGNATURE: Final = b"x-amz-trailer-signature"
_LENGTH: Final = "You did not provide the number of bytes specified by the Content-Length HTTP header"

_HEAD, _DATA, _DATA_END, _TRAILERS, _END = range(5)


class ChunkedDecoder:
    """Decodes one body of `length` content bytes. `signer`: chunks must be signed. `trailers`: names that must follow.

    `trailers` None: the form without trailers, which ends with an empty line.
    """

    __slots__ = (
        "_digest",
        "_divided",
        "_expected",
        "_left",
        "_line",
        "_signature",
        "_signer",
        "_state",
        "_trailer_lines",
        "decoded",
        "length",
        "trailers",
    )

    def __init__(self, length: int, signer: ChunkSigner | None = None, trailers: Iterable[bytes] | None = None) -> None:
        self.length = length
        self.decoded = 0  # content bytes handed out
        self.trailers: dict[bytes, bytes] = {}
        self._signer = signer
        self._expected = None if trailers is None else frozenset(trailers)
        self._state = _HEAD
        self._line = bytearray()  # the start of a line whose end has not come
        self._left = 0  # bytes of the current chunk still to come
        self._digest: Any = None
        self._signature = ""
        self._trailer_lines: list[bytes] = []
        self._divided = False  # an empty line stood between the trailers and their signature

    @property
    def ended(self) -> bool:
        """Whether the last frame has been read."""
        return self._state == _END

    def feed(self, data: memoryview) -> list[memoryview]:
        """The content in `data`, as slices of it. Raises IncompleteBody for what is no such body,
        SignatureDoesNotMatch, MalformedTrailerError. With a signer, costs a SHA-256 of the content."""
        content = []
        at, size = 0, len(data)
        while at < size:
            if self._state == _DATA:
                piece = data[at : at + self._left]
                at += len(piece)
                self._take(piece)
                content.append(piece)
            elif self._state == _END:
                raise S3Error("IncompleteBody", Detail="There are bytes after the last chunk of the aws-chunked body.")
            else:
                at = self._line_from(data, at)
        return content

    def finish(self) -> None:
        """The body has ended: raises IncompleteBody unless the last frame was read and every stated byte came."""
        if self._state != _END or self.decoded != self.length:
            raise S3Error("IncompleteBody")

    def _take(self, piece: memoryview) -> None:
        if self._digest is not None:
            self._digest.update(piece)
        self.decoded += len(piece)
        self._left -= len(piece)
        if self._left == 0:
            self._state = _DATA_END

    def _line_from(self, data: memoryview, at: int) -> int:
        """Collects one line from `data[at:]`, hands it on when its LF is there, and answers where the next byte is."""
        room = LINE_BYTES_MAX - len(self._line)
        window = bytes(data[at : at + room])
        cut = window.find(b"\n")
        if cut < 0:
            if len(window) == room:
                raise S3Error("IncompleteBody", Detail="A line of the aws-chunked body is too long.")
            self._line += window
            return at + len(window)
        line = bytes(self._line) + window[:cut]
        self._line.clear()
        self._on_line(line)
        return at + cut + 1

    def _on_line(self, line: bytes) -> None:
        if line.endswith(b"\r"):
            line = line[:-1]
        elif self._state != _TRAILERS:
            # AWS's own worked example ends trailer lines with a bare LF before the CRLF; nothing else may.
            raise S3Error("IncompleteBody", Detail="A line of the aws-chunked body does not end with CRLF.")
        if self._state == _HEAD:
            self._on_head(line)
        elif self._state == _DATA_END:
            if line:
                raise S3Error(
                    "IncompleteBody", Detail="A chunk of the aws-chunked body is longer than its stated size."
                )
            self._end_chunk()
            self._state = _HEAD
        else:
            self._on_trailer(line)

    def _on_head(self, line: bytes) -> None:
        match = (_UNSIGNED_HEAD if self._signer is None else _SIGNED_HEAD).match(line)
        if match is None:
            raise S3Error("IncompleteBody", Detail="A chunk head of the aws-chunked body is malformed.")
        size = int(match.group(1), 16)
        if self._signer is not None:
            self._signature = match.group(2).decode()
            self._digest = hashlib.sha256()
        if size > self.length - self.decoded:
            raise S3Error("IncompleteBody", _LENGTH, Detail="It holds more bytes than x-amz-decoded-content-length.")
        if size:
            self._left = size
            self._state = _DATA
            return
        self._end_chunk()
        if self.decoded != self.length:
            raise S3Error("IncompleteBody", _LENGTH)
        self._state = _TRAILERS

    def _end_chunk(self) -> None:
        if self._signer is not None and not hmac.compare_digest(
            self._signer.chunk(self._digest.hexdigest()), self._signature
        ):
            raise S3Error("SignatureDoesNotMatch", "The signature of a chunk does not match.")

    def _on_trailer(self, line: bytes) -> None:
        if not line:
            # The worked example has an empty line between the trailers and their signature.
            if self._signer is None or self._expected is None or _SIGNATURE in self.trailers:
                self._end_trailers()
            elif not self._trailer_lines or self._divided:
                raise S3Error("MalformedTrailerError")
            else:
                self._divided = True
            return
        match = _TRAILER.match(line)
        if self._expected is None or match is None or len(self.trailers) >= TRAILERS_MAX:
            raise S3Error("MalformedTrailerError")
        name, value = match.group(1).lower(), match.group(2)
        signing = name == _SIGNATURE
        if name in self.trailers or not (name in self._expected or (signing and self._signer is not None)):
            raise S3Error(
                "MalformedTrailerError", Detail=f"The trailer {name.decode()} was not announced, or is repeated."
            )
        if _SIGNATURE in self.trailers:
            raise S3Error("MalformedTrailerError", Detail="The signature must be the last trailer.")
        self.trailers[name] = value
        if not signing:
            self._trailer_lines.append(b"%b:%b\n" % (name, value))

    def _end_trailers(self) -> None:
        if self._expected is not None:
            signature = self.trailers.pop(_SIGNATURE, b"")
            if self.trailers.keys() != self._expected:
                raise S3Error("MalformedTrailerError", Detail="A trailer announced by x-amz-trailer did not come.")
            if self._signer is not None:
                text = b"".join(self._trailer_lines)
                computed = self._signer.trailer(hashlib.sha256(text).hexdigest())
                if not hmac.compare_digest(computed.encode(), signature):
                    raise S3Error("SignatureDoesNotMatch", "The signature of the trailer does not match.")
        self._state = _END


def encode(
    pieces: Iterable[Buffer], signer: ChunkSigner | None = None, trailers: Mapping[bytes, bytes] | None = None
) -> bytes:
    """The body a client would send: one chunk a piece. `trailers` None is the form without. For tests and benchmarks."""
    out = bytearray()
    for piece in (*(piece for piece in pieces if len(piece)), b""):
        out += b"%x" % len(piece)
        if signer is not None:
            out += b";chunk-signature=" + signer.chunk(hashlib.sha256(piece).hexdigest()).encode()
        out += b"\r\n"
        if len(piece):
            out += piece
            out += b"\r\n"
    lines = b"".join(b"%b:%b\n" % pair for pair in (trailers or {}).items())
    out += lines.replace(b"\n", b"\r\n")
    if trailers is not None and signer is not None:
        out += _SIGNATURE + b":" + signer.trailer(hashlib.sha256(lines).hexdigest()).encode() + b"\r\n"
    out += b"\r\n"
    return bytes(out)
