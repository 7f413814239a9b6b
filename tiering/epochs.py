"""Which regions may still be read: the read epochs of one process.

Promise: a location found by a look-up stays valid until the epoch acquired in the same loop step is released, because
an epoch is an LMDB snapshot older than that look-up, and a region is recycled only when no snapshot older than its
freeing is left in any process, and no reader that began in one.
Owns this process's epoch transactions, and its part of the table of long readers. Does not know regions or clocks: somebody calls `rotate` now and then.
Kind: owner; one thread (the loop's). Invariants: `current` is always open; at most `EPOCHS_MAX` are. An epoch that is read in
for longer than LONG_TURNS turns is closed, and stands in the table of long readers until its last reader leaves: an open
snapshot keeps the index from using any page again that was given up since, and an index never shrinks.
Spec: docs/ARCHITECTURE.md, "Epochs".
"""

from __future__ import annotations

from collections import deque
from typing import Final

from tiering.index import Index, View
from tiering.readers import LongReaders

EPOCHS_MAX: Final = 64
"""Open at once; beyond this many, no new one starts until one ends."""
LONG_TURNS: Final = 25
"""Half a second, as often as processes turn."""


class Epoch:
    """A snapshot with a count of the responses that read under it."""

    __slots__ = ("_epochs", "_readers", "turn", "txn_id", "view")

    def __init__(self, epochs: Epochs, view: View, turn: int) -> None:
        self._epochs = epochs
        self._readers = 0
        self.view: View | None = view  # None: it stands in the table
        self.turn = turn
        self.txn_id = view.txn_id()

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

    def __init__(self, index: Index, long: LongReaders) -> None:
        self._index = index
        self._long = long
        self._turn = 0
        self._open = 1
        self._read_in: deque[Epoch] = deque()  # no longer current; oldest first
        self._in_table: deque[Epoch] = deque()  # older ones still
        self.current = Epoch(self, index.view(), 0)

    def rotate(self) -> None:
        """Starts a new epoch, so that what was freed since the last one can be recycled."""
        self._turn += 1
        self._close_long()
        if self._open >= EPOCHS_MAX:
            return
        old = self.current
        self.current = Epoch(self, self._index.view(), self._turn)
        self._open += 1  # only now: a snapshot that could not be had is not open
        if old.idle:
            self._close(old)
        else:
            self._read_in.append(old)

    def oldest_reader(self) -> int | None:
        """The transaction id of the oldest snapshot that any process reads in; None without readers. Sweeps dead processes."""
        short = self._index.oldest_reader()  # first: a reader goes from there to the table
        long = self._long.oldest()
        return short if long is None else long if short is None else min(short, long)

    def _close_long(self) -> None:
        while self._read_in and self._turn - self._read_in[0].turn >= LONG_TURNS:
            epoch = self._read_in.popleft()
            self._in_table.append(epoch)
            self._long.say(self._in_table[0].txn_id)
            self._close(epoch)

    def _close(self, epoch: Epoch) -> None:
        view, epoch.view = epoch.view, None
        assert view is not None
        self._open -= 1
        view.close()

    def end(self, epoch: Epoch) -> None:
        """Its last reader has left."""
        if epoch.view is not None:
            self._read_in.remove(epoch)
            self._close(epoch)
        else:
            self._in_table.remove(epoch)
            self._long.say(self._in_table[0].txn_id if self._in_table else 0)

    def adopt(self) -> None:
        """At a start of the gateway, before any other process reads."""
        self._long.forget_all()

    def close(self) -> None:
        """Ends the current epoch; the others end with their readers."""
        if self.current.idle:
            self._close(self.current)
            if not self._read_in and not self._in_table:
                self._long.close()
