"""Room for new bytes: the regions this process has open in one pool.

Promise: a reservation is exclusively the caller's until it gives it back, and the region it lies in is not sealed
before that — so no duty ever looks at a region that is still being written. One that nobody writes to any more is sealed, too,
when others have gone far beyond it, so that what lies in it has its turn.
Owns this process's open region and the ones waiting for their last writer. Does not know objects or what is evicted to
make room: it asks the index for a free region, wakes the keeper when there is none, and waits a bounded time.
Kind: owner; one thread (the loop's). Spec: docs/ARCHITECTURE.md, "Regions".
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from typing import Final, NamedTuple

from tiering import layout
from tiering.committer import Committer
from tiering.contract import Busy, DeviceFailed, DiskFull
from tiering.flash import Flash
from tiering.held import Held
from tiering.index import Batch

KEEPER_SLOT: Final = 0
"""The keeper's process slot; workers count from 1."""
KEEPER_REGIONS: Final = 2
"""Free regions only the keeper may take: without room for survivors it could never free anything."""
SPLIT_SHARE: Final = 16
"""An object longer than a region / SPLIT_SHARE may be cut to fill a region's tail; a shorter one starts the next region,
which wastes less than that share and keeps a block in one extent."""

PASSED_SHARE: Final = 2
"""An open region is given up when a pool's regions / PASSED_SHARE were sealed since it was claimed: by then its oldest objects
would soon be looked at, and the room behind them costs less than that share of one region in each."""

_POLL_S: Final = 0.004


class Piece(NamedTuple):
    """A reservation: `length` bytes at `offset` of `region`."""

    region: int
    offset: int
    length: int


class _OpenRegion:
    __slots__ = ("number", "pending", "position", "sequence")

    def __init__(self, number: int, sequence: int) -> None:
        self.number = number
        self.sequence = sequence  # how many regions had been sealed when it was claimed
        self.position = 0
        self.pending = 0


class Space:
    """`slot`: which process this is. `wake_keeper`: asks for regions to be freed. `wait_s`: how long a writer waits."""

    def __init__(
        self, committer: Committer, flash: Flash, slot: int, wake_keeper: Callable[[], None], wait_s: float
    ) -> None:
        self._committer = committer
        self._flash = flash
        self.slot = slot
        self._wake_keeper = wake_keeper
        self._wait_s = wait_s
        self._open: _OpenRegion | None = None
        self._full: dict[int, _OpenRegion] = {}
        self._claim: asyncio.Task[None] | None = None
        self._unsealed: list[int] = []  # for which the device had no room
        self.held = Held()
        """For want of a free region."""

    def reserve(self, length: int) -> Piece | None:
        """Room for up to `length` bytes (at least one) in the open region; None when a new region is needed first."""
        region = self._open
        if region is None:
            return None
        size = self._flash.region_bytes
        offset = layout.aligned(region.position, length)
        room = size - offset
        if room < length and (room <= 0 or length <= size // SPLIT_SHARE or room < min(length, size // SPLIT_SHARE)):
            return None
        piece = Piece(region.number, offset, min(room, length))
        region.position = offset + piece.length
        region.pending += 1
        return piece

    def pieces_max(self, length: int) -> int:
        """How many pieces `length` bytes may come in: each but the last has a region's share at least."""
        return length // (self._flash.region_bytes // SPLIT_SHARE) + 2

    async def reserve_waiting(self, length: int) -> Piece:
        """As `reserve`, claiming a region when needed. Raises Busy when none is freed in time."""
        while True:
            piece = self.reserve(length)
            if piece is not None:
                return piece
            # A claim that is done, but whose callback has not run, has been used up by others: waiting for it would not
            # give the loop a turn, and so never end.
            if self._claim is None or self._claim.done():
                self._claim = asyncio.get_running_loop().create_task(self._next_region())
                self._claim.add_done_callback(self._claimed)
            # Shielded: one writer's cancellation must not fail the others that wait for the same region.
            await asyncio.shield(self._claim)

    def _claimed(self, task: asyncio.Task[None]) -> None:
        if self._claim is task:
            self._claim = None
        if not task.cancelled():
            task.exception()  # seen by the waiters; none may be left when all were cancelled

    async def _next_region(self) -> None:
        claimed = await self._committer.submit(self._claim_mutation)
        if claimed is None:
            self.held.begin()
            try:
                claimed = await self._freed_region()
            finally:
                self.held.end()
        unsealed, self._unsealed = self._unsealed, []
        for each in unsealed:
            self._seal(each)
        self._retire()
        self._open = _OpenRegion(*claimed)
        self._wake_keeper()  # one free region less: it may be time to free more

    async def _freed_region(self) -> tuple[int, int]:
        deadline = asyncio.get_running_loop().time() + self._wait_s
        while True:
            self._wake_keeper()
            if asyncio.get_running_loop().time() >= deadline:
                raise Busy("no region became free in time", retry_s=max(1, round(self._wait_s)))
            await asyncio.sleep(_POLL_S)
            claimed = await self._committer.submit(self._claim_mutation)
            if claimed is not None:
                return claimed

    def _claim_mutation(self, batch: Batch) -> tuple[int, int] | None:
        """The region's number, and how many regions have been sealed."""
        if self.slot != KEEPER_SLOT and batch.count("free") <= KEEPER_REGIONS:
            return None
        region = batch.claim_region(self.slot)
        return None if region is None else (region, batch.counters().region_sequence)

    @property
    def rests(self) -> bool:
        """Whether a region is open and nobody writes to it just now."""
        return self._open is not None and not self._open.pending

    def give_up(self, sequence: int) -> None:
        """Seals the open region if nobody writes to it and others have passed it; `sequence`: how many were sealed until now."""
        region = self._open
        if region is None or region.pending or self._claim is not None:
            return
        if sequence - region.sequence >= self._flash.regions // PASSED_SHARE:
            self._retire()

    def _retire(self) -> None:
        region, self._open = self._open, None
        if region is None:
            return
        if region.pending:
            self._full[region.number] = region
        else:
            self._seal(region.number)

    def _seal(self, number: int) -> None:
        def done(future: asyncio.Future[None]) -> None:
            if not future.cancelled() and future.exception() is not None:
                self._unsealed.append(number)  # with the next one; an open region is of no use to anybody

        self._committer.submit(lambda batch: batch.seal_region(number)).add_done_callback(done)

    def ring(self) -> None:
        """Asks the keeper to make room."""
        self._wake_keeper()

    def give_back(self, piece: Piece) -> None:
        """Ends a reservation, after its bytes are referred to by a committed record or are of no use."""
        region = self._open
        if region is None or region.number != piece.region:
            region = self._full[piece.region]
        region.pending -= 1
        assert region.pending >= 0
        if region.pending == 0 and region is not self._open:
            del self._full[region.number]
            self._seal(region.number)

    def close(self) -> None:
        """Seals what is open; bytes still reserved are given up. What cannot be sealed now is sealed at the next start."""
        numbers = [*self._full, *self._unsealed]
        if self._open is not None:
            numbers.append(self._open.number)
        self._open = None
        self._full.clear()
        with contextlib.suppress(DiskFull, DeviceFailed):
            for number in numbers:
                self._committer.run(functools.partial(Batch.seal_region, region=number))
