"""Bringing cold objects back: one fetch for many waiters, in any number of processes, streamed while it lands.

Promise: however many clients ask for a cold object at once, the backing store is asked once for the whole (a range of a
long object also asks for the frames it needs); what a client is given in full passed the object's checksum, because the last piece is withheld until it did.
Owns this process's landings and its places of the pool's board. Does not know HTTP or eviction.
Kind: owner; one thread (the loop's) and its own tasks, ended by `close`. Invariants: nothing that waits for the device stands
before the first byte; a follower finds and reads each piece in one loop step; when a landing fails, its followers go on
reading from the backing store.
Spec: docs/ARCHITECTURE.md, "Recall".
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Final

from tiering import board, events, layout, mutations
from tiering.board import Board, Claim
from tiering.cold import ColdSide
from tiering.coldstream import FRAME_BYTES
from tiering.contract import Buffer, Busy, ColdUnavailable, Corrupt, Reading, Residency, StoreError
from tiering.crc64 import crc64nvme
from tiering.layout import Extent, ObjectRecord
from tiering.pool import Pool
from tiering.ports import Meter
from tiering.writer import FlashBody

LANDINGS_MAX: Final = 64
"""Recalls under way a process and pool; beyond it, reads pass through without landing."""
PARTS_MAX: Final = 16
"""A part of at least such a share of its object is read from the landing: 8 MiB, as clients ask for them, of 128 MiB."""
PARTED_BYTES_MAX: Final = 256 << 20
"""Of what is longer each part is asked for by itself: the landing could outlast the minute in which clients want a first byte."""
_POLL_S: Final = 0.002
_CLAIM_S: Final = 1.0
_CLAIM_POLL_S: Final = 0.0002
_CHUNK: Final = 256 << 10
_FRESH_BYTES: Final = 512 << 10
"""Of a landing, what came last is passed on from memory: a follower that keeps up needs no look at flash."""
_UNWRITTEN_BYTES: Final = 64 << 20
"""What a process's landings may hold while they wait for room on flash, since a new region takes a commit, which is longer than a
recall. Beyond it the device is slower than the backing store, and readers pass through without landing."""

_HOT: Final = (Residency.HOT_ONLY, Residency.BOTH)

_log = logging.getLogger("recall.recall")


class _Landing:
    """One object on its way into flash. `extents` None until it is known where; `failed` ends the following."""

    __slots__ = (
        "_fresh",
        "_fresh_bytes",
        "_waiting",
        "come",
        "extents",
        "failed",
        "landed",
        "number",
        "over",
        "remote",
        "size",
        "slot",
        "task",
        "writing",
    )

    def __init__(self, size: int, slot: int, number: int) -> None:
        self.size = size
        self.slot = slot  # of the board
        self.number = number  # no other landing has it, of whatever process
        self.extents: tuple[Extent, ...] | None = None
        self.come = 0  # content that may be passed on; of what is not on flash yet, all is held
        self.landed = 0  # content that is on flash and may be passed on
        self.over = False  # landed, failed, or found to be hot already
        self.failed: Exception | None = None
        self.remote: int | None = None  # the number of another process's landing that this one follows
        self.task: asyncio.Task[None] | None = None
        self.writing: asyncio.Task[None] | None = None  # what has come, once it had to wait for room
        self._waiting: list[asyncio.Future[None]] = []
        self._fresh: dict[int, tuple[Buffer, int]] = {}  # pieces by where they begin, and the CRC64 of all before
        self._fresh_bytes = 0

    def keep(self, piece: Buffer, crc64_before: int) -> None:
        """Holds what has just come, instead of what came longest ago and is on flash."""
        self._fresh[self.come] = piece, crc64_before
        self._fresh_bytes += len(piece)
        self.come += len(piece)
        while self._fresh_bytes > _FRESH_BYTES:
            start = next(iter(self._fresh))
            length = len(self._fresh[start][0])
            if start + length > self.landed:
                break
            del self._fresh[start]
            self._fresh_bytes -= length

    def fresh(self, at: int) -> tuple[Buffer, int] | None:
        """The piece that begins at `at`, if it is held, and the CRC64 of all before: who took all before comes to its beginning."""
        return self._fresh.get(at)

    def forget(self) -> None:
        self._fresh.clear()

    def notify(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    def changed(self) -> asyncio.Future[None]:
        """Done with the next `notify`."""
        change = asyncio.get_running_loop().create_future()
        self._waiting.append(change)
        return change


class Recalls:
    """The recalls of one process in one pool. `slot`: the process's, which gives it its part of the board."""

    def __init__(self, pool: Pool, cold: ColdSide, slot: int, meter: Meter = events.uncounted) -> None:
        self._pool = pool
        self._cold = cold
        self._slot = slot
        self._board = Board(pool.config.path, pool.space.pieces_max(pool.stream_bytes))
        first = slot * LANDINGS_MAX % board.SLOTS
        self._free_slots = list(range(first, first + LANDINGS_MAX))
        self._board.wipe(first, LANDINGS_MAX)
        self._landings: dict[tuple[bytes, int], _Landing] = {}
        self._numbers = itertools.count(secrets.randbits(63))  # far from those of others
        self._count = meter

    async def close(self) -> None:
        """Cancels what is under way; waiters go on from the backing store or are cut off with their connections."""
        tasks = [landing.task for landing in self._landings.values() if landing.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._board.close()

    async def read(self, okey: bytes, record: ObjectRecord, start: int, stop: int) -> Reading:
        """Opens `start:stop` of a cold object; returns when the first bytes are there. Raises ColdUnavailable, Corrupt."""
        if start == stop:
            return Reading(record, start, stop, b"", "cold")
        landing = self._landings.get((okey, record.generation))
        if landing is None and self._has_room(record.size):
            landing = self.land(okey, record)
        if landing is None or not _waits(record.size, stop - start):
            body: AsyncGenerator[Buffer, None] = self._through(okey, record, start, stop)
        else:
            body = self._follow(landing, okey, record, start, stop)
        return Reading(record, start, stop, _Begun(await anext(body, b""), body), "cold")

    async def bring(self, okey: bytes, record: ObjectRecord) -> bool:
        """Recalls an object and waits until it is hot or has moved on; False when it is too large to land or there was no room."""
        if not record.size:
            return await self._pool.committer.submit(
                lambda batch: mutations.recalled(batch, okey, record.generation, (), self._pool.clock.now_ms())
            )
        landing = self.land(okey, record)
        if landing is None:
            return False
        while not landing.over:
            await landing.changed()
        if isinstance(landing.failed, Corrupt) and self._residency(okey, record) != Residency.COLD_ONLY:
            return True  # overwritten or deleted: its copy goes, or is another generation's
        if isinstance(landing.failed, (ColdUnavailable, Corrupt)):
            raise landing.failed
        return landing.failed is None

    async def ended(self, okey: bytes, generation: int) -> None:
        """Returns when no recall of it is under way, in this process or another."""
        while (landing := self._landings.get((okey, generation))) is not None:
            await landing.changed()
        while self._board.claimed(generation) is not None:  # noqa: ASYNC110  another process rings no bell here
            await asyncio.sleep(_POLL_S)

    def land(self, okey: bytes, record: ObjectRecord) -> _Landing | None:
        """Starts or joins the object's recall; None when it only passes through: too large, or too many already."""
        known = self._landings.get((okey, record.generation))
        if known is not None:
            return known
        if record.size > self._pool.stream_bytes or not self._free_slots or not record.size:
            return None
        landing = _Landing(record.size, self._free_slots.pop(), next(self._numbers))
        self._landings[okey, record.generation] = landing
        landing.task = asyncio.get_running_loop().create_task(self._land(landing, okey, record))
        return landing

    # -- landing -------------------------------------------------------------------------------------------------

    async def _land(self, landing: _Landing, okey: bytes, record: ObjectRecord) -> None:
        pool, slot = self._pool, landing.slot
        body = FlashBody(pool, record.size)
        try:
            other = await self._claim(landing, record.generation)
            if other is not None:
                await self._watch(landing, other, okey, record)
                return
            if self._residency(okey, record) in _HOT:
                self._board.post(slot, landing.number, record.size, board.DONE)  # by another, before this one's claim
                return
            await self._fetch(landing, body, okey, record)
            await pool.committer.submit(
                lambda batch: mutations.recalled(batch, okey, record.generation, body.extents, pool.clock.now_ms())
            )
            self._count(events.RECALLED, pool.config.name, 1)
            self._count(events.RECALLED_BYTES, pool.config.name, record.size)
            pool.heat.fresh(record.generation)
            self._board.post(slot, landing.number, record.size, board.DONE)
        except BaseException as error:
            self._board.post(slot, landing.number, 0, board.FAILED)
            landing.failed = error if isinstance(error, Exception) else ColdUnavailable("stopping", retry_s=1)
            if not isinstance(error, StoreError | asyncio.CancelledError):
                _log.exception("recall failed")
            if isinstance(error, Corrupt):
                self._damaged(okey, record)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            if landing.writing is not None:
                landing.writing.cancel()
                await asyncio.gather(landing.writing, return_exceptions=True)
            self._board.release(slot)
            body.settle()
            self._free_slots.append(slot)
            landing.over = True
            landing.forget()
            del self._landings[okey, record.generation]
            landing.notify()

    async def _claim(self, landing: _Landing, generation: int) -> Claim | None:
        """Takes the recall for this process; the other's claim when another has it. Raises Busy."""
        deadline_s = asyncio.get_running_loop().time() + _CLAIM_S
        while not self._board.lock():
            if asyncio.get_running_loop().time() > deadline_s:
                raise Busy("the recall board is held", retry_s=1)
            await asyncio.sleep(_CLAIM_POLL_S)
        try:
            return self._board.claim(landing.slot, landing.number, generation)
        finally:
            self._board.unlock()

    async def _fetch(self, landing: _Landing, body: FlashBody, okey: bytes, record: ObjectRecord) -> None:
        names = self._pool.index.cold_names(okey, record)
        found = 0
        last: Buffer = b""
        async with aclosing(self._cold.read(record, names, 0, record.size)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                if len(last):
                    raise Corrupt("the cold copy is not this object's")
                if landing.come + len(chunk) < record.size:
                    await self._pass(landing, body, chunk, found)
                    found = crc64nvme(chunk, found)
                else:
                    last = chunk  # stays back until the whole is checked
        if landing.come + len(last) != record.size or crc64nvme(last, found) != record.crc64:
            raise Corrupt("the cold copy is not this object's")
        await self._pass(landing, body, last, found)
        if landing.writing is not None:
            await landing.writing
        if body.crc64 != record.crc64:
            raise Corrupt("what went to flash is not this object")
        landing.notify()  # those who wait for the whole to be on flash

    async def _pass(self, landing: _Landing, body: FlashBody, piece: Buffer, crc64_before: int) -> None:
        """Gives a piece to the followers here, who do not wait for room on flash, and then to flash."""
        landing.keep(piece, crc64_before)
        landing.notify()
        await asyncio.sleep(0)  # their turn
        if landing.writing is not None:
            if self._unwritten_bytes() > _UNWRITTEN_BYTES:
                await landing.writing
            if not landing.writing.done():
                return  # it goes on with what has come meanwhile
            landing.writing.result()
            landing.writing = None
        waiting = body.begin() if landing.extents is None else None
        if waiting is None:
            self._place(landing, body)
            if body.written < landing.come:
                waiting = body.write(piece)
        if waiting is None:
            self._wrote(landing, body)
        else:
            landing.writing = asyncio.get_running_loop().create_task(self._write(landing, body, waiting))
            await asyncio.sleep(0)  # it begins: what has been begun can be cancelled

    async def _write(self, landing: _Landing, body: FlashBody, waiting: Awaitable[None]) -> None:
        """Puts what has come to flash; `waiting`: what that had to wait for first."""
        await waiting
        self._wrote(landing, body)
        while body.written < landing.come:
            piece = landing.fresh(body.written)
            assert piece is not None
            again = body.write(piece[0])
            if again is not None:
                await again
            self._wrote(landing, body)

    def _wrote(self, landing: _Landing, body: FlashBody) -> None:
        self._place(landing, body)
        landing.landed = body.written
        if body.written < body.size:  # then others look where the record says, once the board says that it is committed
            self._board.post(landing.slot, landing.number, landing.landed, board.LANDING)

    def _place(self, landing: _Landing, body: FlashBody) -> None:
        if len(places := body.places) != len(landing.extents or ()):
            landing.extents = places
            self._board.place(landing.slot, landing.number, places)

    def _unwritten_bytes(self) -> int:
        return sum(each.come - each.landed for each in self._landings.values() if each.remote is None)

    def _has_room(self, size: int) -> bool:
        """Whether flash keeps up, or another landing's bytes can be held until it does."""
        landings = [each for each in self._landings.values() if each.remote is None]
        if all(each.writing is None or each.writing.done() for each in landings):
            return True
        return sum(each.size - each.landed for each in landings) + size <= _UNWRITTEN_BYTES

    def _residency(self, okey: bytes, record: ObjectRecord) -> Residency | None:
        """Where that generation is now; None when it is gone."""
        now = self._pool.index.standing(okey, record.generation)
        return None if now is None else now[1].residency

    async def _watch(self, landing: _Landing, other: Claim, okey: bytes, record: ObjectRecord) -> None:
        """Follows another process's landing on the board."""
        landing.remote = other.landing
        while landing.landed < record.size:
            landed = self._board.landed(other.slot, other.landing)
            if landed is None and self._residency(okey, record) in _HOT:
                return  # it was committed, and its slot has another by now
            if landed is None:
                raise Busy("the process that recalled it is gone", retry_s=1)
            if landed > landing.landed:
                landing.extents = self._board.places(other.slot, other.landing)
                landing.landed = landed
                landing.notify()
            else:
                await asyncio.sleep(_POLL_S)

    # -- following -----------------------------------------------------------------------------------------------

    async def _follow(
        self, landing: _Landing, okey: bytes, record: ObjectRecord, start: int, stop: int
    ) -> AsyncGenerator[Buffer, None]:
        """Content `start:stop` as it lands; from the backing store itself if the landing fails on the way.

        The whole object is passed on while it lands, but for its last piece; a part is given out when all has landed.
        Each piece is found and read in one step, under the process's current epoch, so none has to be held: the reader may
        itself be what the landing, or the reader's own writer, waits for room for.
        """
        whole = stop - start == record.size
        at = start
        # The CRC64 of what was given out, but for what is yet to be summed; what never left memory the landing has summed.
        unsummed: Buffer = b""
        found, summed = 0, True
        while at < stop:
            fresh = landing.fresh(at) if whole or landing.come == record.size else None
            if fresh is not None:
                piece, before = fresh
                if summed:
                    found, unsummed = before, piece
                else:
                    found, unsummed = crc64nvme(piece, found), b""
                if len(piece) > stop - at:
                    piece = memoryview(piece)[: stop - at]
            else:
                try:
                    read = self._read_landed(landing, okey, record, at, stop, whole)
                except Corrupt:
                    break  # the device cannot read what it was given: the rest comes from the backing store
                if read is None and landing.over:
                    break
                if read is None:
                    await landing.changed()
                    continue
                piece = read
                found, unsummed, summed = crc64nvme(piece, crc64nvme(unsummed, found)), b"", False
            # What came before may be of a landing that has failed since: another one brought what is read on flash now.
            if whole and not summed and at + len(piece) == stop and found != record.crc64:
                raise Corrupt("what had landed is not this object's")
            yield piece
            at += len(piece)
        if at < stop:
            apart = not whole and record.size > FRAME_BYTES  # what is damaged may lie in other frames
            if isinstance(landing.failed, ColdUnavailable) or (isinstance(landing.failed, Corrupt) and not apart):
                raise landing.failed
            last: Buffer = b""
            found = crc64nvme(unsummed, found)
            async with aclosing(self._through(okey, record, at, stop)) as rest:
                async for chunk in rest:
                    if len(last):
                        yield last
                    last = bytes(chunk)
                    found = crc64nvme(last, found)
            # The frames were checked as they came; what had landed before was not, and only the whole tells.
            if whole and found != record.crc64:
                raise Corrupt("what had landed is not this object's")
            yield last

    def _read_landed(
        self, landing: _Landing, okey: bytes, record: ObjectRecord, at: int, stop: int, whole: bool
    ) -> bytes | None:
        """The next bytes that have landed, from flash, at most _CHUNK; None when there are none (yet)."""
        whole = whole or landing.come == record.size  # which is vouched for
        if landing.over or (landing.remote is not None and landing.landed == record.size):
            now = self._pool.index.standing(okey, record.generation)
            if now is None or not now[1].extents:
                return None
            extents, stop = now[1].extents, min(stop, at + _CHUNK)
        elif landing.extents is not None and whole and landing.landed > at:
            extents, stop = landing.extents, min(stop, landing.landed, at + _CHUNK)
        else:
            return None
        extent, first, last = layout.slices(extents, at, stop)[0]
        return self._pool.flash.read(extent, first, last)

    async def _through(self, okey: bytes, record: ObjectRecord, start: int, stop: int) -> AsyncGenerator[Buffer, None]:
        names = self._pool.index.cold_names(okey, record)
        try:
            async with aclosing(self._cold.read(record, names, start, stop)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    yield chunk
        except Corrupt:
            self._damaged(okey, record)
            raise

    def _damaged(self, okey: bytes, record: ObjectRecord) -> None:
        """Tells and counts that a cold copy is not the object's, unless the object has moved on."""
        name, generation = self._pool.config.name, record.generation
        if self._residency(okey, record) != Residency.COLD_ONLY:
            return
        said = {"once": f"damaged cold {name} {generation}"}
        _log.error("pool %s: the cold copy of generation %d is missing or damaged", name, generation, extra=said)
        for fate in ("found", "unrepairable"):
            self._count(events.damage("cold", fate), name, 1)


def _waits(size: int, length: int) -> bool:
    """Whether a part of an object is read from its landing.

    A small part of a long object is asked for by itself: its frames are checked before they are given out, while what has
    landed is checked at the object's end, which its reader would not wait for. One that is no small part comes with others:
    clients load a long object so, and asked for by themselves they would be fetched beside the landing once more.
    """
    if size <= FRAME_BYTES or length == size:
        return True
    return size <= PARTED_BYTES_MAX and length * PARTS_MAX >= size


class _Begun:
    """A stream whose first piece was taken. Not a generator around it: that would be one more step for each piece."""

    __slots__ = ("_first", "_rest")

    def __init__(self, first: Buffer, rest: AsyncGenerator[Buffer, None]) -> None:
        self._first = first if len(first) else None
        self._rest = rest

    def __aiter__(self) -> AsyncIterator[Buffer]:
        return self

    def __anext__(self) -> Awaitable[Buffer]:
        if self._first is not None:
            return self._again()
        return self._rest.__anext__()

    async def _again(self) -> Buffer:
        first, self._first = self._first, None
        assert first is not None
        return first

    async def aclose(self) -> None:
        await self._rest.aclose()
