"""A client of one HTTP/1.1 server: kept connections, and replies that are passed on while they come.

Promise: a reply's body is exactly as long as it said, or the reader is told that it broke off; of a body no more is taken from
the socket than one read that nobody has asked for yet; a server that is silent for `read_s` has failed. Errors name nobody: ConnectionResetError if the
connection ended before a byte of the reply, as a kept one does that the server had closed; ConnectionAbortedError if it ended too
soon, or what came is not HTTP; TimeoutError; what opening a connection raises, any OSError.
Owns its connections, at most `streams`; one loop. Does not know S3: heads come ready and signed.
Kind: owner. Invariants: a connection serves one exchange at a time; it is kept only after a reply that ended where it should.
Spec: RFC 9112.

Each read stops the reading, until its piece was taken: otherwise the loop would read on as long as there is something to read,
and the first byte would leave when the last has come. The next piece is asked of the socket itself first: from a fast server it
is there, and the loop's way to it takes several times as long.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from typing import Final, cast

import httptools

from tiering.backing.address import MinioLimits
from tiering.contract import Buffer

KEPT_S: Final = 15.0
"""How long a connection may have rested to be used again: servers close theirs sooner or later, without a word."""
HEAD_BYTES_MAX: Final = 64 << 10
_SEND_BYTES: Final = 256 << 10
_RECEIVE_BYTES: Final = 256 << 10
_TURN_BYTES: Final = 1 << 20
"""Taken from the socket without going back to the loop, which has others to serve."""
_HEAD_END: Final = b"\r\n\r\n"


class Exchange:
    """A reply whose head is there. `headers`: names in lower case. Close it, always."""

    def __init__(self, client: Client, wire: _Wire) -> None:
        self._client = client
        self._wire: _Wire | None = wire
        self._read_s = client.read_s
        self.status = wire.status
        self.headers: Mapping[bytes, bytes] = wire.headers

    async def next(self) -> bytes:
        """What has come of the body, b"" at its end. Raises OSError."""
        assert self._wire is not None
        return await self._wire.piece(self._read_s)

    async def read(self, bytes_max: int) -> bytes:
        """The body, or its first `bytes_max`. Raises OSError."""
        body = b""
        while len(body) < bytes_max and (piece := await self.next()):
            body += piece
        return body[:bytes_max]

    def close(self) -> None:
        """Frees the connection; it is given up unless the body was read to its end."""
        wire, self._wire = self._wire, None
        if wire is not None:
            self._client.give_back(wire)


class Client:
    """`tls` None: in the clear. No I/O before the first `ask`."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, limits: MinioLimits) -> None:
        self._place = (host, port)
        self._tls = tls
        self._connect_s = limits.connect_s
        self.read_s = limits.read_s
        self._slots = asyncio.Semaphore(limits.streams)
        self._all: set[_Wire] = set()
        self._idle: list[_Wire] = []

    async def ask(self, method: str, head: bytes, body: Buffer = b"") -> Exchange:
        """Sends a request and waits for the head of its reply. `head`: up to and with its blank line. Raises OSError."""
        await self._slots.acquire()
        wire: _Wire | None = None
        try:
            wire = self._kept()
            if wire is not None:
                try:
                    await wire.ask(method, head, body, self.read_s)
                except ConnectionResetError:
                    if method == "POST":  # the others may be repeated
                        raise
                    wire = None
            if wire is None:
                wire = await self._connect()
                await wire.ask(method, head, body, self.read_s)
            return Exchange(self, wire)
        except BaseException:
            if wire is not None:
                wire.abort()
            self._slots.release()
            raise

    def give_back(self, wire: _Wire) -> None:
        """The end of an exchange."""
        self._slots.release()
        if wire.rest():
            self._idle.append(wire)
        else:
            wire.abort()

    def close(self) -> None:
        """Ends all connections."""
        for wire in list(self._all):
            wire.abort()

    def forget(self, wire: _Wire) -> None:
        """A connection is gone."""
        self._all.discard(wire)
        if wire in self._idle:
            self._idle.remove(wire)

    def _kept(self) -> _Wire | None:
        """The connection that was used last, if it may still be used."""
        if not self._idle:
            return None
        wire = self._idle.pop()
        if wire.rested_s() < KEPT_S:
            return wire
        for old in (wire, *self._idle):
            old.abort()
        self._idle.clear()
        return None

    async def _connect(self) -> _Wire:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_s):
            _, wire = await loop.create_connection(
                lambda: _Wire(self, loop),
                *self._place,
                ssl=self._tls,
                server_hostname=self._place[0] if self._tls else None,
            )
        self._all.add(wire)
        return wire


class _Wire(asyncio.Protocol):
    """One connection. Everything that may end a wait calls `_wake`; the one task that uses it looks what it was."""

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._sock: socket.socket | None = None
        self._turn_bytes = 0
        self._full = False  # of what is to be sent
        self._rests = True
        self._rested_s = 0.0
        self._begin("GET")

    def _begin(self, method: str) -> None:
        self._bodiless = method == "HEAD"
        self._parser = httptools.HttpResponseParser(self)
        self._come = b""  # of the head
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._headed = False
        self._left: int | None = None  # of the body; None: as long as the connection lasts
        self._chunked = False
        self._over = False
        self._keeps = False
        self._pieces: deque[bytes] = deque()
        self._paused = False

    # -- the task's side -----------------------------------------------------------------------------------------

    async def ask(self, method: str, head: bytes, body: Buffer, limit_s: float) -> None:
        """Sends a request and returns when the reply's head has come."""
        self._begin(method)
        self._rests = False
        assert self._transport is not None
        self._transport.write(head)
        view = memoryview(body)
        while not self._headed:
            if self._error is not None:
                raise self._error
            if len(view) and not self._full:
                self._transport.write(view[:_SEND_BYTES])
                view = view[_SEND_BYTES:]
            else:
                await self._changed(limit_s)
        self._keeps = self._keeps and not len(view) and not self._full  # a refusal may come before all was sent

    async def piece(self, limit_s: float) -> bytes:
        """The next of the body, b"" at its end."""
        while not self._pieces:
            if self._over:
                return b""
            if self._error is not None:
                raise self._error
            if self._receive_now():
                continue
            self._turn_bytes = 0
            self._resume()
            await self._changed(limit_s)
        return self._pieces.popleft()

    def _receive_now(self) -> bool:
        """Takes what the socket has. False when that is nothing, cannot be known, or others have their turn first."""
        left, sock = self._left, self._sock
        if sock is None or not self._paused or left is None or self._turn_bytes >= _TURN_BYTES:
            return False
        try:
            data = sock.recv(min(left, _RECEIVE_BYTES))
        except BlockingIOError:
            return False
        except OSError as error:  # told once only: the transport would take what follows for the end
            self._fail(ConnectionAbortedError(type(error).__name__))
            return True
        self._turn_bytes += len(data)
        self._take(data)
        return bool(data)

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            assert self._transport is not None
            self._transport.resume_reading()

    def rest(self) -> bool:
        """Whether the connection may be kept for another exchange."""
        if not self._over or not self._keeps or self._pieces or self._error is not None:
            return False
        self._resume()
        self._rests = True
        self._rested_s = self._loop.time()
        return True

    def rested_s(self) -> float:
        return self._loop.time() - self._rested_s

    def abort(self) -> None:
        self._rests = True
        if self._transport is not None:
            self._transport.abort()
        self._client.forget(self)

    async def _changed(self, limit_s: float) -> None:
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(limit_s, self._fail, TimeoutError("silent"))
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    # -- the loop's side -----------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._wake()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(0)
        sock = transport.get_extra_info("socket")
        if sock is not None and transport.get_extra_info("ssl_object") is None:
            # A second descriptor: loops keep theirs from other hands.
            self._sock = socket.socket(sock.family, sock.type, sock.proto, os.dup(sock.fileno()))
            self._sock.setblocking(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.forget(self)
        self._keeps = False  # its reply may be whole, and not read yet
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._headed and self._left is None and not self._chunked and exc is None:
            self._over = True
        if not self._over:
            # Only the kind of an error is kept: its words may name an address.
            self._fail(ConnectionAbortedError("cut") if self._come or self._headed else ConnectionResetError("closed"))
        self._wake()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake()

    def data_received(self, data: bytes) -> None:
        if self._rests:
            self.abort()  # nobody asked
            return
        if not self._headed:
            self._come += data
            data = self._parse_head()
        if self._headed and data:
            self._take(data)
        if self._headed:
            self._wake()

    def _parse_head(self) -> bytes:
        """Parses what has come of the head; the rest once it is whole."""
        while True:
            end = self._come.find(_HEAD_END)
            if end < 0:
                if len(self._come) > HEAD_BYTES_MAX:
                    self._fail(ConnectionAbortedError("a head without end"))
                return b""
            end += len(_HEAD_END)
            self._feed(self._come[:end])
            if self._error is not None:
                return b""
            rest = self._come[end:]
            status = self._parser.get_status_code()
            if status >= 200:
                self._start_body(status)
                return rest
            self._come = rest  # an interim answer
            self._parser = httptools.HttpResponseParser(self)
            self.headers.clear()

    def _start_body(self, status: int) -> None:
        self.status, self._headed = status, True
        length = self.headers.get(b"content-length")
        if self._bodiless or status in (204, 304):
            self._left = 0
        elif b"transfer-encoding" in self.headers:
            self._chunked = True
        elif length is not None:
            self._left = int(length)
        self._over = self._left == 0

    def _take(self, data: bytes) -> None:
        if self._chunked:
            self._feed(data)
        elif self._left is None:
            self._pieces.append(data)
        else:
            if len(data) > self._left:
                self._keeps = False  # more than the reply said
                data = data[: self._left]
            self._left -= len(data)
            self._over = self._left == 0
            if data:
                self._pieces.append(data)
        if self._pieces and not self._over and not self._paused:
            self._paused = True
            assert self._transport is not None
            self._transport.pause_reading()

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeDecodeError, ValueError):
            self._fail(ConnectionAbortedError("not HTTP"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._keeps = (
            self._parser.should_keep_alive()
        )  # here: where no body follows, the parser is at the next reply by then

    def on_body(self, body: bytes) -> None:
        if self._chunked:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self._chunked:
            self._over = True
