"""The framing of batch bodies: what lies before each object's bytes, so that a client can place them as they arrive.

A reply of `get` is frames: a head of HEAD_BYTES (status, flags, length) and `length` bytes, one frame a key, in the
order asked. A request of `put` is a prefix with the length of a JSON table, the table, and the objects' bytes in its
order.

Owns the layout. Does not know the store, HTTP or JSON's fields. Kind: pure. Integers are little-endian.
Spec: docs/EXTENSIONS.md, "Many keys at once".
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

FRAMES_TYPE: Final = "application/vnd.recall.frames"
HEAD: Final = struct.Struct("<HHIQ")
HEAD_BYTES: Final = HEAD.size
TABLE: Final = struct.Struct("<I")

COLD: Final = 1
"""Flag: the bytes came from the backing store."""


class FrameHead(NamedTuple):
    """`status` as an HTTP status of this key alone; `length` of what follows: content, or the error code's name."""

    status: int
    flags: int
    length: int


def pack(status: int, length: int, flags: int = 0) -> bytes:
    """The head of one frame."""
    return HEAD.pack(status, flags, 0, length)


def unpack(data: bytes | memoryview) -> FrameHead:
    """The head at the beginning of `data`."""
    status, flags, _, length = HEAD.unpack_from(data)
    return FrameHead(status, flags, length)
