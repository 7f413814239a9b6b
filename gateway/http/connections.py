"""The connections of one worker: how many, their clock, their common buffers; listening and draining.

Promise: one periodic sweep keeps every time limit of every connection; over a limit the answer is 503, never silence;
after `drain` no connection and no handler is left.
**Owns** the set of connections, the count of requests in flight, the sweep timer, the receive blocks, the head parser
and renderer, the listening socket. **Does not know** what a request means.
Kind: owner and shell, on the loop's thread. Spec: none.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

from gateway.http.flow import Block, Blocks
from gateway.http.head import HeadParser
from gateway.http.limits import Limits
from gateway.http.render import HeadRenderer

SMALL_SPANS_BYTES: Final = 32 << 10
"""`FileSpans` up to this are read and sent with their head in one write. Against MSG_MORE and sendfile (which also need
a second descriptor) that saved about 8 us of 31 at 4 KiB, 5 at 16 KiB, 3 at 32 KiB and nothing at 64 KiB: the best of
three interleaved runs of bench/micro/http_core.py."""
_HEAD_BYTES_MAX: Final = 64 << 10
"""Room for a response head in the scratch block."""


class Connection(Protocol):
    """What the owner asks of a connection."""

    def sweep(self, now_s: float, elapsed_s: float) -> None:
        """Applies the time limits."""

    def begin_drain(self) -> None:
        """Closes now if idle, else after the request under way."""

    def abort(self) -> None:
        """Ends at once; a running handler is cancelled."""


class Connections:
    """State shared by the connections of a worker. `clock_s` is monotonic, `wall_s` is Unix time."""

    def __init__(
        self,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        clock_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        if limits.receive_buffer_bytes < 2 * limits.head_bytes_max:
            raise ValueError("receive_buffer_bytes must be at least twice head_bytes_max")
        self.limits = limits
        self.loop = loop
        self.clock_s = clock_s
        self.now_s = clock_s()  # as of the last sweep: good enough for limits in seconds, and free
        self.in_flight = 0
        self.draining = False
        self.refused_requests = 0
        self.cut_slow = 0
        self.blocks = Blocks(
            limits.receive_buffer_bytes, limits.receive_buffers_free_max, limits.receive_buffer_small_bytes
        )
        self.parser = HeadParser(limits.header_count_max)
        self.renderer = HeadRenderer(wall_s())
        self.scratch = Block(_HEAD_BYTES_MAX + SMALL_SPANS_BYTES)
        self._wall_s = wall_s
        self._open: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._empty: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def start(self) -> None:
        """Starts the sweep. Idempotent."""
        if self._timer is None:
            self._timer = self.loop.call_later(self.limits.sweep_s, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def add(self, connection: Connection) -> bool:
        """Counts a connection in. False when it is over the limit: it is to be refused, and leaves by `discard` too."""
        self._open.add(connection)
        return len(self._open) <= self.limits.connections_max

    def discard(self, connection: Connection) -> None:
        """Counts a connection out: it is closed and its handler has ended."""
        self._open.discard(connection)
        if not self._open and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    def new_scratch(self) -> None:
        """The transport kept the scratch block: makes another."""
        self.scratch = Block(len(self.scratch.data))

    def sweep(self) -> None:
        """One check of every connection's time limits."""
        now_s = self.clock_s()
        elapsed_s, self.now_s = now_s - self.now_s, now_s
        self.renderer.set_time(self._wall_s())
        for connection in list(self._open):
            connection.sweep(now_s, elapsed_s)

    def _tick(self) -> None:
        self._timer = self.loop.call_later(self.limits.sweep_s, self._tick)
        self.sweep()

    async def drain(self, seconds: float) -> int:
        """Ends keep-alive, waits for the requests under way, then aborts the rest. Returns how many it aborted."""
        self.draining = True
        for connection in list(self._open):
            connection.begin_drain()
        if await self._emptied(seconds):
            return 0
        rest = list(self._open)
        for connection in rest:
            connection.abort()
        await self._emptied(seconds)
        return len(rest)

    async def _emptied(self, seconds: float) -> bool:
        if not self._open:
            return True
        self._empty = self.loop.create_future()
        done, _ = await asyncio.wait((self._empty,), timeout=seconds)
        self._empty = None
        return bool(done)


class Listener:
    """One listening socket and its connections."""

    def __init__(self, server: asyncio.Server, connections: Connections) -> None:
        self.connections = connections
        sockets: Sequence[socket.socket] = cast(Any, server).sockets  # asyncio's are a tuple, uvloop's a list
        self.port: int = sockets[0].getsockname()[1]
        self._server = server

    def stop_accepting(self) -> None:
        """New connections are refused by the kernel from now on. Idempotent."""
        self._server.close()

    async def drain(self, seconds: float) -> int:
        """Stops accepting, lets what runs finish for `seconds`, aborts the rest. Returns how many it aborted."""
        self.stop_accepting()
        aborted = await self.connections.drain(seconds)
        self.connections.stop()
        return aborted


async def serve(
    protocol: Callable[[], asyncio.BufferedProtocol],
    connections: Connections,
    host: str,
    port: int,
    *,
    reuse_port: bool,
    ssl_context: ssl.SSLContext | None,
    sock: socket.socket | None,
) -> Listener:
    """Listens on `sock`, or on host and port (0 takes a free one)."""
    loop = connections.loop
    limits = connections.limits
    handshake_s = limits.head_s if ssl_context is not None else None
    if sock is not None:
        server = await loop.create_server(
            protocol, sock=sock, backlog=limits.backlog, ssl=ssl_context, ssl_handshake_timeout=handshake_s
        )
    else:
        server = await loop.create_server(
            protocol,
            host,
            port,
            backlog=limits.backlog,
            reuse_port=reuse_port,
            ssl=ssl_context,
            ssl_handshake_timeout=handshake_s,
        )
    connections.start()
    return Listener(server, connections)
