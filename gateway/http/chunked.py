"""Chunked transfer coding: framed bytes in a buffer → the places of the content in that same buffer.

Promise: strict. A size is 1 to 16 hex digits, lines end with CRLF, extensions are ignored and trailers skipped within
bounds; anything else is a FramingError. Content is not copied, except that pieces too small to be worth a call are
moved down to touch the piece before.
**Owns** the state of one body between calls. **Does not know** sockets, aws-chunked framing (`s3api.chunked`), S3.
Kind: pure. Spec: RFC 9112 section 7.1.
"""

from __future__ import annotations

import re
from collections.abc import MutableSequence
from typing import Final

_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER_LINE: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
_SIZE_LINE_BYTES_MAX: Final = 1024
_TRAILER_BYTES_MAX: Final = 16 << 10
_JOIN_BYTES: Final = 4096

_SIZE, _DATA, _DATA_END, _TRAILER, _END = range(5)


class FramingError(Exception):
    """The bytes are not chunked coding."""


class ChunkedDecoder:
    """Decodes one body, fed in any cuts. `ended` is True after the last trailer line."""

    __slots__ = ("_left", "_line", "_state", "_trailer_bytes", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._state = _SIZE
        self._left = 0  # of the chunk under way
        self._line = b""  # the part of a framing line seen so far
        self._trailer_bytes = 0

    def feed(self, data: bytearray, start: int, stop: int, pieces: MutableSequence[tuple[int, int]]) -> int:
        """Reads `data[start:stop]`, appends the content's `(start, stop)` places to `pieces` and returns how far it
        read: `stop`, or less when the body ended before. Pieces already there may grow; bytes after them may move.
        """
        at = start
        while at < stop and not self.ended:
            if self._state != _DATA:
                at = self._framing(data, at, stop)
                continue
            taken = min(self._left, stop - at)
            if pieces and taken < _JOIN_BYTES:
                first, last = pieces[-1]
                data[last : last + taken] = data[at : at + taken]
                pieces[-1] = (first, last + taken)
            else:
                pieces.append((at, at + taken))
            at += taken
            self._left -= taken
            if not self._left:
                self._state = _DATA_END
        return at

    def _framing(self, data: bytearray, at: int, stop: int) -> int:
        """Reads one framing line, or the part of it that is there."""
        end = data.find(b"\n", at, stop)
        seen = self._line + bytes(data[at : stop if end < 0 else end])
        if end < 0:
            self._line = seen
            self._check_partial(seen)
            return stop
        self._line = b""
        if seen[-1:] != b"\r":
            raise FramingError("line without CR")
        self._take(seen[:-1])
        return end + 1

    def _check_partial(self, seen: bytes) -> None:
        if self._state == _DATA_END:
            fine = seen == b"\r"
        elif self._state == _SIZE:
            fine = len(seen) <= _SIZE_LINE_BYTES_MAX and (
                seen == b"\r" or _SIZE_LINE.fullmatch(seen.removesuffix(b"\r").rstrip(b" \t")) is not None
            )
        else:
            fine = len(seen) + self._trailer_bytes <= _TRAILER_BYTES_MAX
        if not fine:
            raise FramingError("not a chunk")

    def _take(self, line: bytes) -> None:
        if self._state == _DATA_END:
            if line:
                raise FramingError("chunk longer than its size")
            self._state = _SIZE
        elif self._state == _SIZE:
            match = _SIZE_LINE.fullmatch(line)
            if match is None or len(line) > _SIZE_LINE_BYTES_MAX:
                raise FramingError("bad chunk size")
            self._left = int(match[1], 16)
            self._state = _DATA if self._left else _TRAILER
        else:
            self._trailer_bytes += len(line) + 2
            if not line:
                self._state = _END
                self.ended = True
            elif self._trailer_bytes > _TRAILER_BYTES_MAX or _TRAILER_LINE.fullmatch(line) is None:
                raise FramingError("bad trailer")
