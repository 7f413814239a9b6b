"""One keep-alive HTTP/1.1 connection for a closed-loop client: a request, its whole reply, the next request.

Small on purpose: no pool, no redirects, no chunked replies (the gateway states every length). Replies land in one
reused buffer.

Owns one socket at a time. Does not know S3. Kind: shell (asyncio). Spec: RFC 9112.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

_HEAD_BYTES_MAX = 64 << 10


class ClientError(Exception):
    """The connection failed or the reply cannot be understood; the connection is of no further use."""


@dataclass(frozen=True)
class Reply:
    """`body` is borrowed until the next request on the connection; names of `headers` are lower case."""

    status: int
    headers: Mapping[str, str]
    body: memoryview


class Connection:
    """A connection that opens when it is needed and opens again after a failure."""

    def __init__(self, host: str, port: int, body_bytes_max: int, timeout_s: float) -> None:
        self._host = host
        self._port = port
        self._timeout_s = timeout_s
        self._buffer = bytearray(_HEAD_BYTES_MAX + body_bytes_max)
        self._wire: _Wire | None = None

    async def ask(self, head: bytes, body: bytes | bytearray = b"") -> Reply:
        """Sends one request and returns its reply. Raises ClientError, after which the next call opens anew."""
        loop = asyncio.get_running_loop()
        try:
            if self._wire is None or self._wire.transport.is_closing():
                async with asyncio.timeout(self._timeout_s):
                    _, self._wire = await loop.create_connection(lambda: _Wire(self._buffer), self._host, self._port)
            waiter = self._wire.begin(loop.create_future(), bodiless=head.startswith(b"HEAD "))
            self._wire.transport.writelines((head, body) if body else (head,))
            # A timer instead of wait_for: no task for each of some hundred thousand requests.
            timer = loop.call_later(self._timeout_s, self._wire.fail, f"no reply in {self._timeout_s:g} s")
            try:
                reply = await waiter
            finally:
                timer.cancel()
        except (OSError, TimeoutError) as error:
            self.close()
            raise ClientError(f"connection: {error or 'timed out'}") from error
        except BaseException:
            self.close()
            raise
        if reply.headers.get("connection") == "close":
            self.close()
        return reply

    def close(self) -> None:
        """Drops the connection."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.transport.abort()


class _Wire(asyncio.BufferedProtocol):
    """One socket's life. A late loss of an old socket must not end a request on the new one, hence its own object."""

    transport: asyncio.Transport

    def __init__(self, buffer: bytearray) -> None:
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._waiter: asyncio.Future[Reply] | None = None
        self._used = 0
        self._body_start = 0  # 0: the head is not complete
        self._stop = 0
        self._status = 0
        self._bodiless = False
        self._headers: dict[str, str] = {}

    def begin(self, waiter: asyncio.Future[Reply], bodiless: bool) -> asyncio.Future[Reply]:
        self._used = self._body_start = 0
        self._bodiless = bodiless  # a reply to HEAD states a length and has none
        self._waiter = waiter
        return waiter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._used :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._waiter is None or self._waiter.done():
            self.transport.abort()  # bytes nobody asked for
            return
        self._used += nbytes
        if not self._body_start:
            end = self._buffer.find(b"\r\n\r\n", 0, self._used)
            if end < 0:
                if self._used > _HEAD_BYTES_MAX:
                    self.fail("a reply's head does not end")
                return
            try:
                self._parse(bytes(self._view[:end]).decode("latin-1"), end + 4)
            except (ValueError, KeyError, IndexError) as error:
                self.fail(f"a reply cannot be understood: {error!r}")
                return
        if self._used > self._stop:
            self.fail("a reply is longer than it says")
        elif self._used == self._stop:
            self._waiter.set_result(Reply(self._status, self._headers, self._view[self._body_start : self._stop]))

    def _parse(self, head: str, body_start: int) -> None:
        lines = head.split("\r\n")
        self._status = int(lines[0].split(" ", 2)[1])
        self._headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = 0 if self._bodiless or self._status in (204, 304) else int(self._headers["content-length"])
        if body_start + length > len(self._buffer):
            raise ValueError(f"a body of {length} bytes")
        self._body_start = body_start
        self._stop = body_start + length

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(f"the connection was lost: {exc or 'closed by the server'}")

    def fail(self, why: str) -> None:
        """Ends the request under way."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ClientError(why))
