"""Readers that stay long: which snapshot the longest of each process began in, without that snapshot being kept open.

Promise: `oldest` is no younger than any long read that some process has under way.
Owns a pool's mapped table of them. Does not know what is read. Kind: owner; one thread a slot. Invariants: a slot is written by
its process only, before the snapshot it stands for is closed; so who asks looks at LMDB's own reader table first, and here then.
Spec: docs/FORMAT.md, "Long readers"; docs/ARCHITECTURE.md, "Epochs".
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tiering import device

NAME: Final = "readers"
SLOTS: Final = 512
"""Process slots: the keeper's and those of as many workers as there may be are fewer."""


class LongReaders:
    """The table in a pool's folder, made if need be. Ends whatever a process before this one left in `slot`.

    Raises DiskFull, DeviceFailed.
    """

    def __init__(self, folder: Path, slot: int) -> None:
        assert slot < SLOTS, slot
        self._map = device.mapped(folder / NAME, 2 * 8 * SLOTS)
        self._cells = memoryview(self._map).cast("Q")  # a transaction id a slot, 0 for none; then the process ids
        self._slot = slot
        self.say(0)
        self._cells[SLOTS + slot] = os.getpid()

    def close(self) -> None:
        self._cells.release()
        self._map.close()

    def forget_all(self) -> None:
        """At a start of the gateway: no other process reads."""
        for slot in range(SLOTS):
            self._cells[slot] = 0

    def say(self, txn_id: int) -> None:
        """The snapshot this process's longest reader began in; 0: there is none."""
        self._cells[self._slot] = txn_id

    def oldest(self) -> int | None:
        """Of all live processes; None without a long reader."""
        found: int | None = None
        for slot, txn_id in enumerate(self._cells[:SLOTS].tolist()):
            if txn_id and (found is None or txn_id < found) and device.runs(self._cells[SLOTS + slot]):
                found = txn_id
        return found
