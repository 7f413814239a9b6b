"""Flow of body bytes: the receive buffers, the body a handler pulls from, and the minimum rate.

Promise: a body costs one fixed buffer whatever its length; reading pauses when the buffer is full and nobody pulls;
what `read` lends is not overwritten before the next `read`.
**Owns** the worker's receive blocks (`Blocks`) and, for each request with a body, its block and place in it.
**Does not know** parsing, responses, S3.
Kind: owner, on the loop's thread. Spec: RFC 9112 sections 6 and 7.1.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from gateway.http.chunked import ChunkedDecoder, FramingError
from s3api.message import BodyError

EMPTY: Final = memoryview(b"")
PAGE_BYTES: Final = 4096
ROOMY: Final = 64
"""So many bodies are received, hashed and written at once, in large blocks; with a thousand of them those would be most of a worker's
memory."""

AWAITED_BYTES: Final = 32 << 10
"""A body of which more is to come counts as on its way also while it waits for its sender: many large ones at once are each so
much later, and are read in small pieces. Of shorter ones the sender is soon done."""
BRISK_BYTES_PER_S: Final = 1 << 20
_JUDGED_S: Final = 0.02
"""One that has waited for so long and come more slowly than that no longer counts: hundreds of slow senders are no burden."""
_TURN_BYTES: Final = 4 << 20
"""Received without going back to the loop: a fast sender and a handler that never waits must not starve the others."""


class Block:
    """A receive buffer and the view of it that is lent."""

    __slots__ = ("data", "view")

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.view = memoryview(self.data)


class Blocks:
    """The receive blocks of a worker.

    One block, `current`, receives the heads of all connections: loops ask for the buffer when bytes are there and
    hand them over before they read from another connection, so an idle connection needs none. Bodies have blocks of
    `size`, or, while more than ROOMY of them have bytes at hand, of `small_size`: then it is their number that counts.
    """

    __slots__ = (
        "_free",
        "_free_max",
        "_out",
        "awaited",
        "busy",
        "clock_s",
        "current",
        "on_less",
        "size",
        "small_size",
    )

    def __init__(
        self, size: int, free_max: int, small_size: int, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock_s = clock_s
        self.size = size
        self.small_size = small_size
        self._free_max = free_max
        self._free: list[Block] = []
        self._out = 0
        self.busy = 0  # bodies that have one, or are large and come quickly
        self.awaited: dict[InboundBody, None] = {}  # the latter
        self.on_less: Callable[[], None] | None = None  # called when one is less
        self.current = Block(size)

    @property
    def crowded(self) -> bool:
        """Whether bodies get small blocks now."""
        return self._out >= ROOMY

    def count(self, more: bool) -> None:
        """One more body is busy, or one less."""
        self.busy += 1 if more else -1
        if not more and self.on_less is not None:
            self.on_less()

    def judge(self) -> None:
        """Looks which large bodies come slowly after all."""
        now_s = self.clock_s()
        for body in list(self.awaited):
            body.judge(now_s)

    def take(self, large: bool = False) -> Block:
        """A block for one body."""
        self._out += 1
        if self._out > ROOMY and not large:
            return Block(self.small_size)
        return self._free.pop() if self._free else Block(self.size)

    def take_current(self, start: int, stop: int) -> tuple[Block, int, int]:
        """A block with what lies behind the head just parsed, and where: the one it arrived in, so that it is not copied."""
        block = self.current
        if self.crowded and stop - start <= self.small_size:
            taken = self.take()
            taken.view[: stop - start] = block.view[start:stop]
            return taken, 0, stop - start
        self._out += 1
        self.current = self._free.pop() if self._free else Block(self.size)
        return block, start, stop

    def give(self, block: Block, reuse: bool = True) -> None:
        """Takes a block back. `reuse` False: something may still read from it."""
        self._out -= 1
        if reuse and len(block.view) == self.size and len(self._free) < self._free_max:
            self._free.append(block)


class Pace:
    """The minimum rate as a bucket of seconds: waiting drains it, bytes fill it at the minimum rate, up to the grace.

    So a peer that stands still is cut after the grace, one above the rate never, and a transfer of n bytes ends within
    grace + n / rate.
    """

    __slots__ = ("_credit_s", "_grace_s", "_rate")

    def __init__(self, rate_bytes_min: int, grace_s: float) -> None:
        self._rate = rate_bytes_min
        self._grace_s = grace_s
        self._credit_s = grace_s

    def step(self, waited_s: float, moved_bytes: int) -> bool:
        """Counts a span in which we waited for the peer. False when the peer is too slow."""
        earned = moved_bytes / self._rate if self._rate else self._grace_s
        self._credit_s = min(self._grace_s, self._credit_s + earned - waited_s)
        return self._credit_s >= 0 or not self._rate


class BodySource(Protocol):
    """What a body asks of its connection."""

    def send_continue(self) -> None:
        """Writes the interim response."""

    def receive_now(self, view: memoryview) -> int:
        """Reads what has arrived into `view` without waiting; 0 when nothing has or this cannot be known."""

    def behind(self, extra: memoryview) -> None:
        """Takes bytes that arrived behind the body's end: the next request. Borrowed for the call."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class NoBody:
    """The body of a request without one."""

    __slots__ = ()
    length: int | None = 0

    async def read(self) -> memoryview:
        return EMPTY

    def whole(self) -> memoryview | None:
        return EMPTY

    def done(self) -> None:
        """See `s3api.message.RequestBody`."""


class InboundBody:
    """A request body on its way in: filled by the connection, pulled by the handler.

    `receiving`: bytes of it are still to come. `waiting`: the handler waits for the peer. Received bytes lie in the
    block up to `_stop`; those from `_start` (or the chunked `_pieces`) are not lent yet.
    """

    __slots__ = (
        "_awaited",
        "_awaited_bytes",
        "_awaited_since_s",
        "_block",
        "_blocks",
        "_counted",
        "_decoder",
        "_discarding",
        "_error",
        "_left",
        "_loop",
        "_pieces",
        "_source",
        "_start",
        "_stop",
        "_turn_bytes",
        "_waiter",
        "expecting",
        "length",
        "receiving",
    )

    def __init__(
        self, source: BodySource, loop: asyncio.AbstractEventLoop, blocks: Blocks, length: int | None, expecting: bool
    ) -> None:
        self.length = length
        self.expecting = expecting  # the client waits for 100 Continue
        self.receiving = True
        self._source = source
        self._loop = loop
        self._blocks = blocks
        self._decoder = ChunkedDecoder() if length is None else None
        self._left = length or 0  # of a body of known length: not received yet
        self._block: Block | None = None
        self._start = self._stop = 0
        self._pieces: deque[tuple[int, int]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._counted = False  # among `Blocks.busy`
        self._awaited = False  # among `Blocks.awaited`
        self._awaited_since_s = 0.0  # when it first waited; 0 when it has not
        self._awaited_bytes = 0  # of it were there then
        self._error = ""
        self._discarding = False
        self._turn_bytes = 0

    @property
    def waiting(self) -> bool:
        return self._waiter is not None

    @property
    def broken(self) -> bool:
        """Where the body ends can no longer be known."""
        return bool(self._error)

    @property
    def left(self) -> int | None:
        """Bytes still to come; None for a chunked body that has not ended."""
        return self._left if self._decoder is None or not self.receiving else None

    def adopt(self, block: Block, start: int, stop: int) -> None:
        """Takes over a block that holds the first bytes, which arrived behind the head."""
        self._block = block
        self._start = self._stop = start
        self.received(stop - start)

    def room(self, large: bool = False) -> memoryview:
        """Where the next bytes go; never empty while `receiving` and not paused. `large`: a block that is new is large."""
        if self._discarding and self._decoder is None:
            return self._blocks.current.view[
                : self._left
            ]  # they go nowhere: all share it, and it is the largest there is
        block = self._block
        if block is None:
            block = self._block = self._blocks.take(large)
            self._count()
        stop = self._stop
        if self._decoder is not None:
            return block.view[stop:]
        count = min(self._left, len(block.view) - stop)
        if count < self._left:
            # What fills its room ends on a page of the body, so that a consumer who writes it to a file writes whole pages.
            over = (self._at + count) % PAGE_BYTES
            if over < count:
                count -= over
        return block.view[stop : stop + count]

    @property
    def _at(self) -> int:
        """Bytes of a body of known length received so far."""
        return (self.length or 0) - self._left

    def received(self, count: int) -> None:
        """Counts `count` bytes just put into `room()`."""
        if self._discarding and self._decoder is None:
            self._left -= count
            self.receiving = self._left > 0
            return
        block = self._block
        assert block is not None
        end = self._stop + count
        if self._decoder is None:
            used = min(end, self._stop + self._left)
            self._left -= used - self._stop
            self.receiving = self._left > 0
        else:
            try:
                used = self._decoder.feed(block.data, self._stop, end, self._pieces)
                self.receiving = not self._decoder.ended
            except FramingError:
                used = end
                self.fail("framing")
        self._stop = used
        self._count()
        if self._discarding:
            self._start = self._stop = 0
            self._pieces.clear()
        if not self.receiving:
            self._source.resume()
        elif self._stop == len(block.view):
            self._source.pause()
        if used < end:
            self._source.behind(block.view[used:end])
        self._wake()

    async def read(self) -> memoryview:
        if self.expecting and not self._error:
            self.expecting = False
            self._source.send_continue()
        while True:
            if self._error:
                raise BodyError(self._error)
            block = self._block
            if block is not None:
                if self._decoder is None:
                    start, stop = self._start, self._stop
                    if start != stop:
                        self._start = stop
                        return block.view[start:stop]
                elif self._pieces:
                    start, stop = self._pieces.popleft()
                    return block.view[start:stop]
            if not self.receiving:
                self._let_go()  # what is done with it now, as waiting for the disk, needs no block
                return EMPTY
            # All that was lent is given back by this call, so the whole block is free again.
            self._start = self._stop = 0
            await self._arrival()

    def whole(self) -> memoryview | None:
        """See `s3api.message.RequestBody`."""
        block, start, stop = self._block, self._start, self._stop
        if block is None or self.receiving or self.expecting or stop - start != self.length or self._error:
            return None
        self._start = stop
        return block.view[start:stop]

    def done(self) -> None:
        """See `s3api.message.RequestBody`."""
        if not self.receiving:
            self._let_go()

    async def _arrival(self) -> None:
        """Returns when more has arrived, or there is an error or an end to report."""
        if self._turn_bytes >= _TURN_BYTES:
            self._turn_bytes = 0
            await asyncio.sleep(0)
            if self._stop or not self.receiving:
                return
        # Asking the socket first: with a fast sender the bytes are there, and a wake-up by the loop costs 10 times a
        # call that finds them.
        count = self._source.receive_now(self.room())
        if count:
            self._turn_bytes += count
            self.received(count)
            return
        self._turn_bytes = 0
        if self._left > AWAITED_BYTES and not self._awaited_since_s:
            self._awaited_since_s = self._blocks.clock_s()
            self._awaited_bytes = self._at
            self._awaited = True
            self._blocks.awaited[self] = None
        self._let_go()
        self._waiter = self._loop.create_future()
        self._source.resume()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _count(self) -> None:
        """Called when it may have got or lost its block, or no more is to come."""
        if self._awaited and not self.receiving:
            self._await_no_more()
        counts = self._block is not None or self._awaited
        if counts != self._counted:
            self._counted = counts
            self._blocks.count(counts)

    def _await_no_more(self) -> None:
        self._awaited = False
        del self._blocks.awaited[self]

    def judge(self, now_s: float) -> None:
        """Counts no longer while it waits, if it comes slowly."""
        waited_s = now_s - self._awaited_since_s
        if waited_s >= _JUDGED_S and self._at - self._awaited_bytes < waited_s * BRISK_BYTES_PER_S:
            self._await_no_more()
            self._count()

    def _let_go(self) -> None:
        """Waiting, it needs no block: slow senders cost none."""
        block, self._block = self._block, None
        if block is not None:
            self._blocks.give(block)
            self._count()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, kind: str) -> None:
        """The rest will not come: the next `read` raises BodyError(kind)."""
        self._error = self._error or kind
        self.receiving = False
        self._count()
        self._wake()

    def discard(self) -> None:
        """The answer is sent: what is left is read away."""
        self._discarding = True
        self._start = self._stop = 0
        self._pieces.clear()
        if self._awaited:
            self._await_no_more()
        if self._decoder is None:
            self._let_go()
        self._count()
        self._source.resume()

    def close(self, reuse: bool) -> None:
        """Gives the block back. `reuse` is False when a cancelled handler's thread may still read from it."""
        block, self._block = self._block, None
        if block is not None:
            self._blocks.give(block, reuse)
        self.receiving = False
        self._count()
        self._pieces.clear()
