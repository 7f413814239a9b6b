"""Which regions may still be read: the read epochs of one process.

Promise: a location found by a look-up stays valid until the epoch acquired in the same loop step is released, because
an epoch is an LMDB snapshot older than that look-up, and a region is recycled only when no snapshot older than its
freeing is left in any process.
Owns this process's epoch transactions. Does not know regions or clocks: somebody calls `rotate` now and then.
Kind: owner; one thread (the loop's). Invariants: `current` is always open; at most `EPOCHS_MAX` are.
Spec: docs/ARCHITECTURE.md, "Epochs".
"""

from __future__ import annotations

from typing import Final

from tiering.index import Index, View

EPOCHS_MAX: Final = 64
"""Slow readers can keep old epochs alive; beyond this many, no new one starts until one ends."""


class Epoch:
    """A snapshot with a count of the responses that read under it."""

    __slots__ = ("_epochs", "_readers", "view")

    def __init__(self, epochs: Epochs, view: View) -> None:
        self._epochs = epochs
        self._readers = 0
        self.view = view

    def acquire(self) -> None:
        self._readers += 1

    def release(self) -> None:
        self._readers -= 1
        assert self._readers >= 0
        if self._readers == 0 and self is not self._epochs.current:
            self._epochs.end(self)

    @property
    def idle(self) -> bool:
        return self._readers == 0


class Epochs:
    """The process's epochs in one pool; `current` is the youngest."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._alive = 1
        self.current = Epoch(self, index.view())

    def rotate(self) -> None:
        """Starts a new epoch, so that what was freed since the last one can be recycled."""
        if self._alive >= EPOCHS_MAX:
            return
        old = self.current
        self._alive += 1
        self.current = Epoch(self, self._index.view())
        if old.idle:
            self.end(old)

    def end(self, epoch: Epoch) -> None:
        self._alive -= 1
        epoch.view.close()

    def close(self) -> None:
        """Ends the current epoch; the others end with their readers."""
        if self.current.idle:
            self.end(self.current)
