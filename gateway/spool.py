"""What one receiver is still to be told: a durable queue of messages in a folder of its own.

Promise: a message that `append` has taken is given out by `peek`, in order, until `advance` was called for it, also over
restarts and power losses; after a crash the last ones may be given out again, never skipped. The folder holds at most
`bytes_max`: what comes when it is full is refused, so what has waited longest is told first.

Owns the folder: segments `<number>.log`, each message as length, CRC-32 and bytes; `cursor`, the segment and offset
of the next one. Does not know what messages say. Kind: owner; one caller at a time.
Invariants: a segment is only ever appended to, and goes when it was read to its end; there is always one; a torn last
message, which nobody was promised, is cut off at the opening.
"""

from __future__ import annotations

import itertools
import logging
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tiering.folder import make_folder, sync_folder

SEGMENT_BYTES: Final = 1 << 20
"""A segment is closed beyond this: what was delivered is freed by so much at a time."""
MESSAGE_BYTES_MAX: Final = 1 << 20
_HEAD: Final = struct.Struct(">II")
_CURSOR: Final = struct.Struct(">QQ")

_log = logging.getLogger("recall.spool")


class Spool:
    """Opens or makes the folder. Raises OSError."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        make_folder(path)
        self._cursor = os.open(path / "cursor", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        kept = os.pread(self._cursor, _CURSOR.size, 0)
        at, offset = _CURSOR.unpack(kept) if len(kept) == _CURSOR.size else (0, 0)
        self._offset: int = offset
        self._lengths: dict[int, int] = {}  # segment → bytes of whole messages, oldest first
        for number in sorted(int(each.stem, 16) for each in path.glob("*.log")):
            if number < at:
                self._name(number).unlink()
            else:
                self._lengths[number] = _whole_bytes(self._name(number))
        self._at = next(iter(self._lengths), at)
        if self._at != at:
            self._offset = 0
        if not self._lengths:
            self._lengths[self._at] = self._offset = 0
        last = next(reversed(self._lengths))
        self._writing = self._open_to_append(last)
        os.ftruncate(self._writing, self._lengths[last])
        self._offset = min(self._offset, self._lengths[self._at])
        self._reading = os.open(self._name(self._at), os.O_RDONLY | os.O_CLOEXEC)
        self._next: bytes | None = None

    def waiting_bytes(self) -> int:
        """Bytes of the messages that wait, heads included."""
        return sum(self._lengths.values()) - self._offset

    def append(self, messages: Sequence[bytes]) -> int:
        """Takes as many as there is room for, from the first on, and returns how many; they are on the device then.

        Raises OSError, and has taken none.
        """
        room = self._bytes_max - self.waiting_bytes()
        taken: list[bytes] = []
        for message in messages:
            room -= _HEAD.size + len(message)
            if room < 0 or len(message) > MESSAGE_BYTES_MAX:
                break
            taken.append(_HEAD.pack(len(message), zlib.crc32(message)) + message)
        if not taken:
            return 0
        last = next(reversed(self._lengths))
        if self._lengths[last] >= SEGMENT_BYTES:
            last += 1
            opened = self._open_to_append(
                last
            )  # before the old one goes: a number that is closed will be another file's
            os.close(self._writing)
            self._writing = opened
            self._lengths[last] = 0
        # What an append that failed has left behind the last whole message: with it there, what comes now would not be found. Now,
        # and not when it failed, since a disk that refuses the one refuses the other.
        if os.fstat(self._writing).st_size != self._lengths[last]:
            os.ftruncate(self._writing, self._lengths[last])
        data = memoryview(b"".join(taken))
        at = 0
        while at < len(data):
            at += os.write(self._writing, data[at:])
        os.fdatasync(self._writing)
        self._lengths[last] += len(data)
        return len(taken)

    def peek(self) -> bytes | None:
        """The next message, None when there is none. The same one until `advance`."""
        while self._next is None:
            if self._offset < self._lengths[self._at]:
                self._next = self._read()
                if self._next is None:  # damaged on the device: the rest of the segment is lost
                    self._offset = self._lengths[self._at]
            elif len(self._lengths) == 1:
                return None
            else:
                self._end_segment()
        return self._next

    def advance(self) -> None:
        """The message that `peek` gave was delivered."""
        assert self._next is not None
        self._offset += _HEAD.size + len(self._next)
        self._next = None
        self._keep_cursor()

    def _keep_cursor(self) -> None:
        """Not synced: a power loss repeats the last messages. So does a restart after a disk that refused."""
        try:
            os.pwrite(self._cursor, _CURSOR.pack(self._at, self._offset), 0)
        except OSError as error:
            why = error.strerror
            _log.warning("%s/cursor is left behind: %s", self._path, why, extra={"once": f"cursor {self._path} {why}"})

    def _read(self) -> bytes | None:
        head = os.pread(self._reading, _HEAD.size, self._offset)
        if len(head) < _HEAD.size:
            return None
        length, crc = _HEAD.unpack(head)
        message = os.pread(self._reading, min(length, MESSAGE_BYTES_MAX), self._offset + _HEAD.size)
        return message if len(message) == length and zlib.crc32(message) == crc else None

    def _end_segment(self) -> None:
        """Goes on to the next segment, which there is."""
        done, following = itertools.islice(self._lengths, 2)
        opened = os.open(self._name(following), os.O_RDONLY | os.O_CLOEXEC)  # first, as in `append`
        os.close(self._reading)
        self._reading = opened
        del self._lengths[done]
        self._at, self._offset = following, 0
        self._keep_cursor()
        try:
            self._name(done).unlink()
        except OSError as error:  # the next start takes it away
            _log.warning("%s was read and stays: %s", self._name(done), error.strerror)

    def _open_to_append(self, number: int) -> int:
        """A segment, made if need be, that will be found after a power loss."""
        fd = os.open(self._name(number), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            sync_folder(self._path)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _name(self, number: int) -> Path:
        return self._path / f"{number:016x}.log"

    def close(self) -> None:
        for fd in (self._cursor, self._reading, self._writing):
            os.close(fd)


def _whole_bytes(path: Path) -> int:
    """The bytes of whole messages in a segment; what follows was cut off by a crash."""
    data = path.read_bytes()
    at = 0
    while at + _HEAD.size <= len(data):
        length, crc = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length
        if end > len(data) or zlib.crc32(data[at + _HEAD.size : end]) != crc:
            break
        at = end
    return at
