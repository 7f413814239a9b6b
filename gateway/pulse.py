"""How a supervisor sees that the loop of a child turns: a counter in memory that both have.

Promise: a beat is one store, and a look one read, whatever the other side does.
Owns nothing: the descriptor is the supervisor's. Does not know what a child does, nor how long it may stand still.
Kind: shell. Spec: docs/ARCHITECTURE.md, "Processes".
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Final

_COUNT: Final = struct.Struct("=Q")


def make() -> int:
    """A descriptor of a counter that stands at 0. Raises OSError."""
    fd = os.memfd_create("recall-pulse")
    try:
        os.ftruncate(fd, _COUNT.size)
    except OSError:
        os.close(fd)
        raise
    return fd


def beats(fd: int) -> int:
    """How far it has counted."""
    count: int = _COUNT.unpack(os.pread(fd, _COUNT.size, 0))[0]
    return count


class Pulse:
    """The child's side. `fd` -1: nobody looks."""

    def __init__(self, fd: int) -> None:
        self._cell = memoryview(mmap.mmap(fd, _COUNT.size) if fd >= 0 else bytearray(_COUNT.size)).cast("Q")

    def beat(self) -> None:
        self._cell[0] += 1
