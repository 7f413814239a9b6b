"""What readers leave behind without a lock or a transaction: heat, the checked mark, and the time of the last read.

Promise: bumping costs well under a microsecond and is seen by every process at once; a lost or
mixed-up byte of heat only changes which block is evicted. The checked mark only spares a long object its checksum: short ones
are checked at every read. Of objects a table's length apart, one's mark may stand for the other's.
Owns one mapped file a pool. Does not know records: everything is indexed by generation modulo the table's size, so
two objects a table's length apart share a byte.
Kind: owner; any thread, any process, unlocked single-byte and 16-byte writes.
Spec: docs/FORMAT.md, "heat".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tiering import device
from tiering.policy import HEAT_MAX

HEAT_SLOTS: Final = 1 << 24
TOUCH_SLOTS: Final = 1 << 18
_HEADER: Final = 4096
_MAGIC: Final = b"recallheat1\0"
_CHECKED: Final = 0x80
_HEAT: Final = 0x7F
_UNCHECKED: Final = bytes(value & _HEAT for value in range(256))
_STRIDE: Final = 1 << 16
"""Slots taken together. Of a stride that has nothing to forget nothing is written: it takes no room."""
_COLD: Final = bytes(_STRIDE)
_TOUCH = struct.Struct("<QQ")
HEAT_BYTES: Final = _HEADER + HEAT_SLOTS + TOUCH_SLOTS * _TOUCH.size
"""Length of the file, whatever the pool's."""


def boot_id() -> bytes:
    """Changes when the operating system starts again: what was only in the page cache before is gone after."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return b"unknown"


def stamp_of(boot: bytes) -> bytes:
    """How a table begins that was last in use when the operating system had this boot id."""
    return _MAGIC + boot


def used_since_boot(path: Path) -> bool:
    """Whether the table at `path` was last in use since the operating system started. False when there is none: a pool
    has one, so it was lost, or has never been told to the device."""
    stamp = stamp_of(boot_id())
    try:
        with open(path, "rb") as table:
            return table.read(len(stamp)) == stamp
    except FileNotFoundError:
        return False


class Heat:
    """The mapped table. `same_boot`: it was last used since the operating system started."""

    def __init__(self, path: Path) -> None:
        self._map = device.mapped(path, HEAT_BYTES)
        stamp = stamp_of(boot_id())
        self.same_boot = self._map[: len(stamp)] == stamp

    def adopt(self) -> None:
        """At a start of the gateway, before readers: forgets every checked mark, since somebody may have exchanged files
        meanwhile; and after a restart of the operating system all heat, of which nobody knows what is left."""
        if self.same_boot:
            for at in range(_HEADER, _HEADER + HEAT_SLOTS, _STRIDE):
                marks = self._map[at : at + _STRIDE]
                if not marks.isascii():
                    self._map[at : at + _STRIDE] = marks.translate(_UNCHECKED)
            return
        for at in range(_HEADER, HEAT_BYTES, _STRIDE):  # in place: a file cut off would have to find its blocks again
            if self._map[at : at + _STRIDE] != _COLD:
                self._map[at : at + _STRIDE] = _COLD
        stamp = stamp_of(boot_id())
        self._map[: len(stamp)] = stamp
        self.same_boot = True

    def close(self) -> None:
        self._map.close()

    def fresh(self, generation: int) -> None:
        """A generation just written from checked bytes: no heat yet."""
        self._map[_HEADER + generation % HEAT_SLOTS] = _CHECKED

    def bump(self, generation: int) -> bool:
        """One read more; returns whether the bytes were checked since the operating system started."""
        at = _HEADER + generation % HEAT_SLOTS
        value = self._map[at]
        if value & _HEAT < HEAT_MAX:
            self._map[at] = value + 1
        return value >= _CHECKED

    def heat(self, generation: int) -> int:
        return self._map[_HEADER + generation % HEAT_SLOTS] & _HEAT

    def cool(self, generation: int) -> None:
        at = _HEADER + generation % HEAT_SLOTS
        value = self._map[at]
        if value & _HEAT:
            self._map[at] = value - 1

    def is_checked(self, generation: int) -> bool:
        """Whether the bytes passed their checksum, or were written, since the operating system started."""
        return self._map[_HEADER + generation % HEAT_SLOTS] >= _CHECKED

    def inherit(self, generation: int, sources: Iterable[int]) -> None:
        """A generation made of others' bytes: checked only if all of those are."""
        self._map[_HEADER + generation % HEAT_SLOTS] = _CHECKED if all(map(self.is_checked, sources)) else 0

    def checked(self, generation: int) -> None:
        """The bytes on flash passed their checksum."""
        self._map[_HEADER + generation % HEAT_SLOTS] |= _CHECKED

    def doubt(self, generation: int) -> None:
        """The bytes on flash were found damaged: the next reader checks them."""
        self._map[_HEADER + generation % HEAT_SLOTS] &= _HEAT

    def touch(self, generation: int, now_ms: int) -> None:
        """Remembers a read of an object with a sliding TTL."""
        at = _HEADER + HEAT_SLOTS + generation % TOUCH_SLOTS * _TOUCH.size
        _TOUCH.pack_into(self._map, at, generation, now_ms)

    def touched_ms(self, generation: int) -> int:
        """The last remembered read of this generation, 0 when none is (or another generation's took its place)."""
        at = _HEADER + HEAT_SLOTS + generation % TOUCH_SLOTS * _TOUCH.size
        owner, at_ms = _TOUCH.unpack_from(self._map, at)
        return at_ms if owner == generation else 0
