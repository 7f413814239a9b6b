"""The recall board of a pool: which process lands which object, where, and how far it is. In memory; no disk waits.

Promise: of all processes one at most has the claim of a generation, as long as it lives and has not released it.
Owns the pool's mapped board and the file of places beside it. Does not know objects, readers or the backing store.
Kind: owner; one thread. Invariants: what others read is written in whole words (`struct` first fills with zeroes, which a reader
may see); a slot is written by its process only; places are written before it is posted
that something is there; `claim` is called under `lock`, which is held for some µs and goes with the process that has it.
Spec: docs/FORMAT.md, "Recall board".

A claim was a row of the index before, and the first byte of every recall waited for the device to have it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tiering import device
from tiering.layout import Extent

SLOTS: Final = 1 << 14
"""LANDINGS_MAX for each of 256 processes, as many workers as there may be."""
LANDING, DONE, FAILED = 1, 2, 3

NAMES: Final = ("recalls", "recalls.places")
"""The second has only what was written of it: as many places as a long object may have are too many to allocate for all."""

_WORD: Final = 8
_LANDING, _LANDED, _STATE, _WORDS = range(4)
"""Of a slot, behind the generations of all: the last is the process id shifted by _STATE_BITS, and the state."""
_STATE_BITS: Final = 8
_COUNT: Final = struct.Struct("<QI")  # landing, places
_PLACE: Final = struct.Struct("<IQQ")  # region, offset, length


class Claim(NamedTuple):
    """A landing of some process. `landing` is a number no other has: a slot is soon used again, also for the same object."""

    slot: int
    landing: int


class Board:
    """The board in a pool's folder, made if need be; `places_max`: of one landing. Raises DiskFull, DeviceFailed."""

    def __init__(self, folder: Path, places_max: int) -> None:
        path = folder / NAMES[0]
        self._map = device.mapped(path, (1 + _WORDS) * SLOTS * _WORD)
        self._words = memoryview(self._map).cast("Q")
        self._stride = _COUNT.size + places_max * _PLACE.size
        self._what = f"{folder.name}/{NAMES[1]}"
        # An open file of its own: the lock is this Board's, not the process's.
        self._lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._places = os.open(folder / NAMES[1], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        self._words.release()
        self._map.close()
        os.close(self._lock)
        os.close(self._places)

    def lock(self) -> bool:
        """False while another process claims: it takes some µs, so ask again."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def claim(self, slot: int, landing: int, generation: int) -> Claim | None:
        """Takes `generation` for a landing in `slot`; the claim of whoever has it. Under `lock`."""
        held = self.claimed(generation, slot)
        if held is None:
            self.post(slot, landing, 0, LANDING)
            self._words[slot] = generation
        return held

    def claimed(self, generation: int, own: int = -1) -> Claim | None:
        """The claim of whoever lands `generation`, in another slot than `own`."""
        for held in self._slots_of(generation):
            owner, _, pid, state = self._read(held)
            if state == LANDING and held != own and device.runs(pid):
                return Claim(held, owner)
        return None

    def release(self, slot: int) -> None:
        """Others may claim what `slot` had; how its landing ended stays to be seen."""
        self._words[slot] = 0

    def wipe(self, first: int, count: int) -> None:
        """Ends whatever a process before this one left in its slots."""
        for slot in range(first, first + count):
            self.release(slot)
            self.post(slot, 0, 0, FAILED)

    def post(self, slot: int, landing: int, landed: int, state: int) -> None:
        """How far the landing in a slot of one's own is."""
        at = _at(slot)
        self._words[at + _LANDING] = (
            landing  # first: who reads of the landing before looks once more whether it is that
        )
        self._words[at + _LANDED] = landed
        self._words[at + _STATE] = os.getpid() << _STATE_BITS | state

    def landed(self, slot: int, landing: int) -> int | None:
        """How far that landing is; None when it failed, its process died, or the slot has another landing."""
        owner, landed, pid, state = self._read(slot)
        if owner != landing or state == FAILED or (state == LANDING and not device.runs(pid)):
            return None
        return landed if self._words[_at(slot) + _LANDING] == landing else None

    def _read(self, slot: int) -> tuple[int, int, int, int]:
        """Landing, landed bytes, process id, state."""
        at = _at(slot)
        landing, landed, last = self._words[at + _LANDING], self._words[at + _LANDED], self._words[at + _STATE]
        return landing, landed, last >> _STATE_BITS, last & (1 << _STATE_BITS) - 1

    def place(self, slot: int, landing: int, places: Sequence[Extent]) -> None:
        """Where the bytes of the landing in a slot of one's own go, as far as is known: before what is there is posted, and each
        time with more behind the same. Raises DiskFull, DeviceFailed."""
        data = b"".join([_PLACE.pack(place.region, place.offset, place.length) for place in places])
        assert len(data) <= self._stride - _COUNT.size
        try:
            os.pwrite(self._places, data, slot * self._stride + _COUNT.size)
            os.pwrite(
                self._places, _COUNT.pack(landing, len(places)), slot * self._stride
            )  # counts what is there already
        except OSError as error:
            raise device.refusal(error, self._what) from error

    def places(self, slot: int, landing: int) -> tuple[Extent, ...]:
        """Where that landing's bytes go, at least as far as `landed` said before; () when the slot has another by now."""
        data = os.pread(self._places, self._stride, slot * self._stride)
        if len(data) < _COUNT.size:
            return ()
        owner, count = _COUNT.unpack_from(data)
        if owner != landing:
            return ()
        view = memoryview(data)[_COUNT.size : _COUNT.size + count * _PLACE.size]
        return tuple(Extent(region, offset, length, 0) for region, offset, length in _PLACE.iter_unpack(view))

    def _slots_of(self, generation: int) -> Iterator[int]:
        claimed = self._map[: SLOTS * _WORD]
        sought = generation.to_bytes(_WORD, sys.byteorder)
        # By one byte that is not zero, as almost all others are: a search for several compares at each place.
        within = next((place for place, byte in enumerate(sought) if byte), 0)
        first = sought[within : within + 1]
        at = claimed.find(first)
        while at >= 0:
            begin = at - within
            if begin % _WORD == 0 and claimed[begin : begin + _WORD] == sought:
                yield begin // _WORD
            at = claimed.find(first, at + 1)


def remove(folder: Path) -> None:
    """Ends whatever claims there are. Only where no process has the pool open."""
    for name in NAMES:
        (folder / name).unlink(missing_ok=True)


def _at(slot: int) -> int:
    return SLOTS + slot * _WORDS
