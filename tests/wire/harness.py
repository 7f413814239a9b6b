"""A connection over a fake transport and a manual clock, and an application whose answers a test chooses.

Kind: fakes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from gateway.http.connections import Connections
from gateway.http.limits import Limits
from gateway.http.protocol import HttpProtocol
from s3api.message import BodyError, Request, Response, StreamBody

Answer = Response | Coroutine[Any, Any, Response]


LOOK_S = 0.05
"""How often a test whose time passes looks at the line."""


class FakeChannel:
    """The TLS of a connection."""

    def version(self) -> str:
        return "TLSv1.3"


class FakeTransport:
    """Keeps what is written; `blocked` makes it buffer like a transport whose peer does not read."""

    def __init__(self, loop: asyncio.AbstractEventLoop, secure: bool = False) -> None:
        self.loop = loop
        self.protocol: HttpProtocol | None = None
        self.out = bytearray()
        self.writes = 0
        self.blocked = False
        self.unsent = bytearray()
        self.reading = True
        self.eof_sent = False
        self.closing = False
        self.lost = False
        self.secure = secure
        self.peer = "192.0.2.7"
        self.silent_s = 0.0  # what the kernel would say: see `gateway.http.tcp`
        self.left = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "peername":
            return (self.peer, 50000)
        return FakeChannel() if name == "ssl_object" and self.secure else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert (high, low) == (1, 0)

    def write(self, data: Any) -> None:
        if self.closing:
            return
        self.writes += 1
        if not self.blocked:
            self.out += data
        else:
            was = len(self.unsent)
            self.unsent += data
            if not was and self.unsent:
                assert self.protocol is not None
                self.protocol.pause_writing()

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(bytes(part) for part in parts))

    def get_write_buffer_size(self) -> int:
        return len(self.unsent)

    def unblock(self) -> None:
        assert self.protocol is not None
        self.blocked = False
        self.out += self.unsent
        self.unsent.clear()
        self.protocol.resume_writing()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def can_write_eof(self) -> bool:
        return not self.secure

    def write_eof(self) -> None:
        self.eof_sent = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self.loop.call_soon(self._lose, None)

    abort = close

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            assert self.protocol is not None
            self.protocol.connection_lost(error)


class App:
    """Answers with `answer(request)`; by default echoes. Records requests, bodies and `finished` calls."""

    def __init__(self, answer: Callable[[Request], Answer] | None = None) -> None:
        self.answer = answer or self.echo
        self.requests: list[Request] = []
        self.bodies: list[bytes] = []
        self.body_errors: list[str] = []
        self.finishes: list[tuple[int, int, bool]] = []

    def handle(self, request: Request) -> Answer:
        self.requests.append(request)
        return self.answer(request)

    def refusal(self, status: int) -> Response:
        return Response(status)

    def finished(self, request: Request, response: Response, sent_bytes: int, complete: bool) -> None:
        assert request in self.requests
        self.finishes.append((response.status, sent_bytes, complete))

    def echo(self, request: Request) -> Answer:
        if request.body.length == 0:
            return Response(200, b"X-Seen: %b\r\n" % request.path, request.method.encode())
        return self.read_then_echo(request)

    async def read_then_echo(self, request: Request) -> Response:
        body = bytearray()
        try:
            while data := await request.body.read():
                body += data
        except BodyError as error:
            self.body_errors.append(error.kind)
            return Response(400, close=True)
        self.bodies.append(bytes(body))
        return Response(200, b"", bytes(body))


class Wire:
    """One connection of a worker of its own."""

    def __init__(self, app: App | None = None, secure: bool = False, **limits: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop_errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda loop, context: self.loop_errors.append(context))
        self.now_s = 1000.0
        self.cpu_s = 0.0
        self.app = app or App()
        self._transports: list[FakeTransport] = []
        self.connections = Connections(
            Limits(**limits),
            self.loop,
            clock_s=lambda: self.now_s,
            wall_s=lambda: 784111777.0,
            silent_s=lambda transport: transport.silent_s,  # type: ignore[attr-defined]
            has_left=lambda transport: transport.left,  # type: ignore[attr-defined]
            cpu_s=lambda: self.cpu_s,
            process_s=lambda: self.cpu_s,
            starved_s=lambda: 0.0,
        )
        self.connections._lag_due_s = self.now_s  # the timers are the test's
        self.transport, self.protocol = self.connect(secure)

    def connect(self, secure: bool = False, peer: str = "192.0.2.7") -> tuple[FakeTransport, HttpProtocol]:
        transport = FakeTransport(self.loop, secure)
        transport.peer = peer
        self._transports.append(transport)
        protocol = HttpProtocol(self.app, self.connections.limits, self.connections)
        transport.protocol = protocol
        protocol.connection_made(transport)  # type: ignore[arg-type]
        return transport, protocol

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for transport in self._transports:
                transport.close()
            self.settle()
            assert self.connections.in_flight == 0
            assert len(self.connections) == 0
            assert self.connections.blocks.busy == 0
            assert self.loop_errors == []
        finally:
            self.loop.close()

    def settle(self) -> None:
        """Runs the loop until nothing is ready."""
        for _ in range(12):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def feed(self, *pieces: bytes) -> int:
        """Delivers each piece by itself, as far as the connection reads, letting handlers run when it does not.

        Returns how many bytes of the last piece were delivered.
        """
        at = 0
        for piece in pieces:
            at = 0
            while at < len(piece) and not self.transport.closing:
                if not self.transport.reading:
                    self.settle()
                    if not self.transport.reading:
                        return at
                view = self.protocol.get_buffer(65536)
                count = min(len(view), len(piece) - at)
                assert count, "an empty receive buffer"
                view[:count] = piece[at : at + count]
                self.protocol.buffer_updated(count)
                at += count
        self.settle()
        return at

    def lag(self, seconds: float, cpu_s: float = 0.0) -> None:
        """The worker comes so late to see whether it is behind, and has used so much of its processor since it last did."""
        self.cpu_s += cpu_s
        self.connections.note_lag(self.now_s + seconds)

    def eof(self) -> None:
        if not self.protocol.eof_received():
            self.transport.close()
        self.settle()

    def pass_time(self, seconds: float) -> None:
        """Lets time pass in sweeps."""
        while seconds > 0:
            step = min(seconds, self.connections.limits.sweep_s)
            seconds -= step
            begin_s = self.now_s
            for number in range(1, int(step / LOOK_S)):
                self.now_s = begin_s + number * LOOK_S
                self.connections.look_at_line()
                self.settle()
            self.now_s = begin_s + step
            self.connections.sweep()
            self.connections.look_at_line()
            self.settle()

    @property
    def out(self) -> bytes:
        return bytes(self.transport.out)

    def replies(self) -> list[tuple[int, dict[bytes, bytes], bytes]]:
        """What was written, as (status, headers, body); asserts that it is well-formed."""
        return parse_replies(self.out, [request.method for request in self.app.requests])


def parse_replies(data: bytes, methods: list[str]) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    """Splits a stream of responses. `methods` tell which have no body; those beyond them are taken as GET's."""
    replies = []
    while data:
        head, mark, data = data.partition(b"\r\n\r\n")
        assert mark, head
        line, *lines = head.split(b"\r\n")
        assert line.startswith(b"HTTP/1.1 "), line
        status = int(line[9:12])
        headers: dict[bytes, bytes] = {}
        for each in lines:
            name, colon, value = each.partition(b": ")
            assert colon and name.lower() not in headers, each
            headers[name.lower()] = value
        if status == 100:
            replies.append((status, headers, b""))
            continue
        final = sum(reply[0] != 100 for reply in replies)
        method = methods[final] if final < len(methods) else "GET"
        assert b"date" in headers
        length = 0
        if method != "HEAD" and status not in (204, 304):
            length = int(headers[b"content-length"])
        assert len(data) >= length
        replies.append((status, headers, data[:length]))
        data = data[length:]
    return replies


class Chunks:
    """An async iterator of given chunks; an exception among them is raised. Records whether it was closed."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self.chunks = list(chunks)
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self.chunks:
            raise StopAsyncIteration
        chunk = self.chunks.pop(0)
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    async def aclose(self) -> None:
        self.closed += 1

    def body(self, length: int) -> StreamBody:
        return StreamBody(self, length)
