"""Bytes on their way into flash: one body at a time, cut into extents, checksummed as they pass.

Promise: a writer that is not committed leaves nothing behind but room its region gets back when it is freed; a body
that does not have exactly its announced size is never committed, unless its reader says that the size was a bound.
Owns the reservations of one body. Does not know HTTP, hashes a client asked for, or what the record says.
Kind: owner; one thread (the loop's). Writes go to the page cache inside the loop: measured cheaper than a thread hop.
Spec: docs/ARCHITECTURE.md, "The way of a PUT".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from tiering.contract import Buffer, PutResult, SizeMismatch
from tiering.crc64 import crc64nvme
from tiering.layout import Extent
from tiering.pool import Pool
from tiering.space import Piece

_T = TypeVar("_T")


class FlashBody:
    """`size` bytes being appended to a pool's regions. Call `begin` first, `settle` last, always."""

    __slots__ = (
        "_ahead",
        "_at",
        "_piece",
        "_piece_crc",
        "_pieces",
        "_pool",
        "_room",
        "crc64",
        "extents",
        "size",
        "written",
    )

    def __init__(self, pool: Pool, size: int) -> None:
        self._pool = pool
        self.size = size
        self.written = 0
        self.crc64 = 0
        self.extents: tuple[Extent, ...] = ()
        self._pieces: list[Piece] = []
        self._ahead: deque[Piece] = deque()
        self._piece: Piece | None = None
        self._piece_crc = 0
        self._at = 0
        self._room = 0

    def begin(self) -> Awaitable[None] | None:
        """Reserves the first room. Raises (or its awaitable does) Busy."""
        if self.size == 0:
            return None
        piece = self._pool.space.reserve(self.size)
        if piece is None:
            return self._begin_waiting()
        self._take(piece)
        return None

    async def _begin_waiting(self) -> None:
        self._take(await self._pool.space.reserve_waiting(self.size))

    async def begin_whole(self) -> None:
        """Reserves room for all of it at once, so that `places` is known before the first byte. Raises Busy."""
        left = self.size
        while left:
            piece = await self._pool.space.reserve_waiting(left)
            self._pieces.append(piece)
            self._ahead.append(piece)
            left -= piece.length

    @property
    def places(self) -> tuple[Extent, ...]:
        """Where the bytes are, and will be as far as there is room reserved; checksums still unknown."""
        return tuple(Extent(*piece, 0) for piece in self._pieces)

    def _take(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self._enter(piece)

    def _enter(self, piece: Piece) -> None:
        self._piece = piece
        self._piece_crc = 0
        self._at = piece.offset
        self._room = piece.length

    def write(self, data: Buffer) -> Awaitable[None] | None:
        """Appends `data`. Raises SizeMismatch, DiskFull; the awaitable also Busy."""
        length = len(data)
        if self.written + length > self.size:
            raise SizeMismatch(f"more than the announced {self.size} bytes")
        if length <= self._room:
            self._append(data, length)
            writeback = self._pool.flash.writeback
            return writeback.wait(self._pool.config.space_wait_s) if writeback.held else None
        return self._spill(memoryview(data))

    async def _spill(self, data: memoryview) -> None:
        while len(data):
            if self._room == 0 and self._ahead:
                self._enter(self._ahead.popleft())
            elif self._room == 0:
                self._take(await self._pool.space.reserve_waiting(self.size - self.written))
            head = data[: self._room]
            self._append(head, len(head))
            data = data[len(head) :]
        writeback = self._pool.flash.writeback
        if writeback.held:
            await writeback.wait(self._pool.config.space_wait_s)

    def _append(self, data: Buffer, length: int) -> None:
        piece = self._piece
        assert piece is not None or length == 0
        if piece is None:
            return
        self._pool.flash.write(piece.region, self._at, data)
        self.crc64 = crc64nvme(data, self.crc64)
        self._piece_crc = crc64nvme(data, self._piece_crc) if self.extents else self.crc64
        self._at += length
        self._room -= length
        self.written += length
        if self._room == 0:
            self.extents = (*self.extents, Extent(piece.region, piece.offset, piece.length, self._piece_crc))
            self._piece = None  # a write of no bytes must not end it again

    def judge_complete(self) -> None:
        """Raises SizeMismatch when bytes are missing."""
        if self.written != self.size:
            raise SizeMismatch(f"{self.written} bytes of the announced {self.size}")

    def end_here(self) -> None:
        """What was written is the whole body; the room behind it in its last piece is dead space."""
        if self.written < self.size:
            piece = self._piece
            if piece is not None and self._room and self._at > piece.offset:
                self.extents = (
                    *self.extents,
                    Extent(piece.region, piece.offset, self._at - piece.offset, self._piece_crc),
                )
                self._piece, self._room = None, 0
            self.size = self.written

    def settle(self) -> None:
        """Gives the reservations back: the regions may be sealed. Safe to repeat."""
        pieces, self._pieces = self._pieces, []
        self._room = 0
        for piece in pieces:
            self._pool.space.give_back(piece)


class BodyWriter(Generic[_T]):
    """A Writer or PartWriter of the contract: a body and the commit that gives it a record."""

    __slots__ = ("_body", "_commit")

    def __init__(self, body: FlashBody, commit: Callable[[FlashBody, PutResult], Awaitable[_T]]) -> None:
        self._body = body
        self._commit = commit

    @property
    def crc64(self) -> int:
        return self._body.crc64

    def write(self, data: Buffer) -> Awaitable[None] | None:
        return self._body.write(data)

    async def commit(self, result: PutResult) -> _T:
        try:
            if result.short:
                self._body.end_here()
            self._body.judge_complete()
            return await self._commit(self._body, result)
        finally:
            self._body.settle()

    def abort(self) -> None:
        self._body.settle()
