"""One HTTP/1.1 connection: bytes → requests → the application → bytes.

Promise: requests are answered in order, one at a time; a handler that returns a Response costs no task; every response
is either sent whole or visibly cut (the connection ends); `finished` is called once for every `handle`, and `release`
once for every `FileSpans`, whatever happens; a peer that leaves cancels the handler.
**Owns** one connection's state; the rest is `Connections`'s. **Does not know** S3, heads' grammar (`head`), body
buffers (`flow`), sendfile (`spans`).
Kind: shell. Invariants: a response starts only when the transport holds nothing unsent; nothing of a request outlives
its `_finish`. Spec: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

from gateway.http import tcp
from gateway.http.connections import LATE, PLACE, SMALL_SPANS_BYTES, TURN, Connections, Listener, serve
from gateway.http.flow import InboundBody, NoBody, Pace
from gateway.http.head import CHUNKED
from gateway.http.limits import Limits
from gateway.http.render import BODYLESS, CONTINUE
from gateway.http.spans import SpanSender, copy_spans, read_resident
from gateway.http.tls import version_of
from s3api.message import Application, Request, Response, StreamBody
from tiering.contract import Buffer, FileSpans

log = logging.getLogger(__name__)

_HEAD, _BUSY, _DISCARD, _LINGER, _CLOSED = range(5)
"""Waiting for or reading a head; between a head and its response's last byte; reading an unread body away after the
response; half-closed, waiting for the peer; over."""

_TURN_REQUESTS: Final = 16
"""Pipelined requests answered before other connections have their turn."""
_JOIN_BYTES: Final = 64 << 10
"""Bodies up to this are joined to their head: one copy is cheaper than a second buffer in the write."""
_TLS_PIECE_BYTES: Final = 64 << 10
"""Under TLS a body is written in pieces of this: the transport below takes one write whole and says nothing of it, so it
would hold a whole body for a peer that does not read, and the minimum rate could not see it."""
_HURRY: Final = 4
"""So many times faster goes the patience with slow peers while others wait for their turn."""
_LINE_BYTES: Final = 4 << 10
"""Read of a request that may have to wait for its turn: a head, as a rule."""
_CROWD: Final = 128
_PROVEN_BYTES: Final = 1 << 20
_UNSENT_BYTES: Final = 128 << 10
"""What the kernel takes for a peer that does not read, beyond its window, until the connection has moved _PROVEN_BYTES, and while more
than _CROWD requests are under way. Left to itself it takes 4 MiB, which makes a transfer cheaper; but for a peer with a small window,
in pieces so small that the one call takes milliseconds, and a few hundred such peers bring the whole machine's TCP under memory
pressure. What is on its way to a peer that reads is not bounded by it."""
_TLS_GOODBYE_S: Final = 1.0
"""How long a peer has, while we drain, to answer that the connection is over. Clients do not while theirs rests in a pool."""
_CLIENT_GONE: Final = 499
"""Status told to `finished` when the peer left before there was a response. Never sent."""
_NO_BODY: Final = NoBody()
_CLOSE: Final = b"Connection: close\r\n"
_KEEP_ALIVE: Final = b"Connection: keep-alive\r\n"


class _Gone(asyncio.Transport):
    """The transport of a connection that is lost: takes everything and does nothing."""

    def is_closing(self) -> bool:
        return True

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def write(self, data: Buffer) -> None:
        pass

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


_GONE: Final = _Gone()


class HttpProtocol(asyncio.BufferedProtocol):
    """A connection of a worker. One request at a time; see the module's promise."""

    __slots__ = (
        "_active",
        "_after_drain",
        "_app",
        "_blocks",
        "_body",
        "_connections",
        "_eof",
        "_head_begun",
        "_keep",
        "_limits",
        "_lingered_bytes",
        "_loop",
        "_lost",
        "_method",
        "_moved_bytes",
        "_moved_seen_bytes",
        "_pace",
        "_peer",
        "_pending",
        "_placed",
        "_placed_s",
        "_reading_paused",
        "_request",
        "_response",
        "_sender",
        "_sent_bytes",
        "_serving",
        "_since_s",
        "_sock",
        "_stash",
        "_state",
        "_taken_bytes",
        "_task",
        "_task_started",
        "_thrifty",
        "_tls",
        "_transport",
        "_turn",
        "_turned_away",
        "_version_1_0",
        "_waited_s",
        "_waiting",
        "_waits_for",
        "_write_paused",
        "unused",
    )

    _transport: asyncio.Transport

    def __init__(self, app: Application, limits: Limits, connections: Connections) -> None:
        self._app = app
        self._limits = limits
        self._connections = connections
        self._loop = connections.loop
        self._blocks = connections.blocks
        self._state = _HEAD
        self._tls = ""
        self._peer = ""
        self._sock: socket.socket | None = None  # second descriptor: loops refuse theirs to sendfile and add_writer
        self._stash = bytearray()  # an incomplete head, or requests sent ahead
        self._reading_paused = False
        self._write_paused = False
        self._after_drain: Callable[[], None] | None = None
        self._eof = False
        self._serving = False
        self._since_s = connections.now_s  # start of the present wait for the peer
        self._moved_bytes = 0  # both ways, for the minimum rate
        self._moved_seen_bytes = 0
        self._lingered_bytes = 0
        self._taken_bytes = 0  # by the peer, when it was last looked after the end
        self._pace: Pace | None = None
        self._head_begun = False
        self.unused = True
        self._placed = False  # not above the limit of connections,
        self._placed_s = 0.0  # since then
        self._waiting = False  # in line with a request that is not read further
        self._waits_for = PLACE
        self._waited_s = 0.0  # what is read next has waited so long, if the worker is behind
        self._turn = False  # has come: the next request begins though others wait
        self._turned_away = False  # the next request is answered 503
        self._thrifty = False  # the kernel takes _UNSENT_BYTES only
        self._lost = False
        # Of the request under way:
        self._active = False
        self._pending = False  # it counts as held
        self._request: Request | None = None  # None also for one the application does not see
        self._response: Response | None = None
        self._body: InboundBody | None = None
        self._method = ""
        self._keep = False
        self._version_1_0 = False
        self._task: asyncio.Task[None] | None = None  # to be cancelled when the peer leaves
        self._task_started = False
        self._sender: SpanSender | None = None
        self._sent_bytes = 0

    # ---------------------------------------------------------------- transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are not subclasses of asyncio's
        # The smallest buffer limits: writing is "paused" exactly while the transport holds unsent bytes.
        self._transport.set_write_buffer_limits(high=1, low=0)
        self._tls = version_of(transport.get_extra_info("ssl_object"))
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else ""
        tcp.prepare(transport, self._peer)
        self._placed = self._connections.add(self)
        self._placed_s = self._connections.clock_s()
        if not self._placed and self._connections.is_crowded(self._peer):
            self._refuse(503)

    def get_buffer(self, sizehint: int) -> memoryview:
        body = self._body
        if body is not None and body.receiving:
            return body.room()
        view = self._blocks.current.view
        if self._state >= _LINGER:
            return view  # goes nowhere
        if self._stash or self._state == _BUSY:
            return view[: self._limits.head_bytes_max]  # goes to the stash, which has a bound
        connections = self._connections
        if connections.pressed:
            if connections.behind:
                self._waited_s = connections.silent_s(self._transport)
            if connections.is_late(self._waited_s) or not connections.may_begin(self._peer):
                return view[:_LINE_BYTES]  # it may have to wait, and as many may as there are connections
        if self._blocks.crowded:
            return view[: self._limits.head_bytes_max]  # goes to a small block
        return view

    def buffer_updated(self, nbytes: int) -> None:
        self._moved_bytes += nbytes
        body = self._body
        if body is not None and body.receiving:
            body.received(nbytes)
            if self._state == _DISCARD and not body.receiving:
                self._discarded(body)
            return
        block = self._blocks.current
        if self._state == _HEAD:
            if self._stash:
                self._stash += block.view[:nbytes]
                self._serve_stash()
            else:
                self._serve(block.data, nbytes, True)
        elif self._state == _LINGER:
            self._lingered_bytes += nbytes
            if self._lingered_bytes > self._limits.linger_bytes_max:
                self._close()
        elif self._state != _CLOSED:
            self.behind(block.view[:nbytes])

    def eof_received(self) -> bool:
        """The peer has finished sending. A response under way is still sent; anything else is over."""
        if self._state == _BUSY and self._response is not None and not self._tls:
            self._eof = True
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._state = _CLOSED
        self._after_drain = None
        if self._sender is not None:
            self._sender.stop()
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()
        if self._waiting:
            self._waiting = False
            self._connections.stop_waiting(self, self._waits_for)
        if self._body is not None:
            self._body.fail("gone")
        if self._task is None:
            self._finish(False)
            self._connections.discard(self, self._placed)
        elif self._task_started:
            self._task.cancel()
        # A task that has not started would, cancelled now, never run: it sees for itself, and ends us.
        # A loop's TLS holds on to us, and we to it: a thousand such pairs, 60 MiB, waited for a collection.
        self._transport = _GONE

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        after, self._after_drain = self._after_drain, None
        if after is not None:
            after()

    # ---------------------------------------------------------------- requests

    def _serve(self, data: bytearray, stop: int, shared: bool) -> None:
        """Answers the requests that lie whole in `data[:stop]`, in order, until one must wait; stashes the rest.

        `shared`: data is the worker's receive block.
        """
        parser = self._connections.parser
        line_max = self._limits.request_line_bytes_max
        start = 0
        turns = _TURN_REQUESTS
        self._serving = True
        while start < stop and self._state == _HEAD:
            if not turns:
                self._loop.call_soon(self._serve_stash)
                break
            turns -= 1
            if data[start] == 13 and data.startswith(b"\r\n", start, stop):
                start += 2  # an empty line before a request is tolerated: RFC 9112 section 2.2
                continue
            if stop - start > line_max or not data.endswith(b"\r\n\r\n", start, stop):
                alone = False
            else:
                alone = parser.parse_alone(data[start:stop])
            if alone:
                end = stop
            else:
                end = data.find(b"\r\n\r\n", start, stop) + 4
                if end == 3:
                    self._judge_partial(data, start, stop)
                    break
                status = self._too_long(data, start, end) or parser.parse(data[start:end])
                if status:
                    self._refuse(status)
                    break
            if (self._connections.pressed or not self._placed) and not self._may_begin(parser.length):
                break
            start = self._accept(data, end, stop, shared)
        self._serving = False
        if self._stash and self._state == _HEAD and not self._waiting:
            self._loop.call_soon(self._serve_stash)  # a body's last bytes came with the next request
        if start < stop and self._state < _LINGER:
            self._stash += memoryview(data)[start:stop]
            self._bound_stash()

    def _serve_stash(self) -> None:
        """Answers what was stashed. Called when something was added to it or a request has ended."""
        if self._waiting:
            return
        if self._state == _HEAD and self._stash:
            data, self._stash = self._stash, bytearray()
            self._serve(data, len(data), False)
            if not self._waiting and (self._body is None or not self._body.receiving):
                self.resume()
        if self._eof and self._state == _HEAD:
            self._close()

    def _may_begin(self, length: int) -> bool:
        """Whether the request whose head is there, with a body of `length`, may begin or is refused; if not, it is in line now, and
        read no further."""
        connections = self._connections
        waited_s, self._waited_s = self._waited_s, 0.0
        turn, self._turn = self._turn, False
        if self._turned_away:
            return True
        if not self._placed:
            self._waits_for = PLACE
        elif connections.is_late(waited_s) and not (length and connections.all_stay()):
            self._waits_for = LATE
        elif length and not turn and not connections.may_begin(self._peer):
            self._waits_for = TURN
        else:
            return True
        if not connections.wait(self, self._waits_for, waited_s, max(0, length)):
            self._turned_away = True
            return True
        self._waiting = True
        self.pause()
        return False

    def begin(self, look: bool) -> bool:
        """See `Connection`."""
        self._waiting = False
        self._turn = self._waits_for == TURN
        if not self._placed:
            self._placed = True
            self._placed_s = self._connections.clock_s()
        if look and self._end_if_left():
            return False
        self._serve_stash()
        return True

    def turn_away(self) -> int | None:
        """See `Connection`."""
        self._waiting = False
        if self._end_if_left():
            return None
        self._turned_away = True
        self._serve_stash()
        body = self._body
        if body is not None and body.receiving:
            return body.left or 0
        return 0

    def _end_if_left(self) -> bool:
        """Ends who has left. Nothing is read from who waits in line, and so the loop does not see it."""
        left = self._connections.has_left(self._transport)
        if left:
            self.abort()
        return left

    def peer_address(self) -> str:
        """See `Connection`."""
        return self._peer

    def spare_since_s(self) -> float | None:
        """See `Connection`. Also a head that does not end, and a peer that does not close, are nobody's use."""
        if not self._placed:
            return None
        idle = self._state == _HEAD and not self._waiting and (self._head_begun or not self._stash)
        return self._since_s if idle or self._state == _LINGER else None

    def _judge_partial(self, data: bytearray, start: int, stop: int) -> None:
        """Refuses early what can no longer become a request, so that it does not wait for the time limit."""
        if not self._head_begun:
            self._head_begun = True
            self._since_s = self._connections.now_s
        status = self._too_long(data, start, stop)
        lines = data.count(b"\r\n", start, stop)
        if not status and (
            not (65 <= data[start] <= 90 or data[start] == 13)  # a method's first letter, or an empty line's CR
            or data.count(b"\n", start, stop) != lines
            or data.count(b"\r", start, stop - 1) != lines
        ):
            status = 400
        if status:
            self._refuse(status)

    def _too_long(self, data: bytearray, start: int, stop: int) -> int:
        line_max = self._limits.request_line_bytes_max
        if stop - start > line_max and data.find(b"\r\n", start, start + line_max + 2) < 0:
            return 414
        return 431 if stop - start > self._limits.head_bytes_max else 0

    def _accept(self, data: bytearray, at: int, stop: int, shared: bool) -> int:
        """Gives the request just parsed to the application. Returns where the bytes not used yet begin."""
        connections = self._connections
        parser = connections.parser
        self._state = _BUSY
        self._active = True
        self.unused = False
        self._head_begun = False
        self._keep = parser.keep_alive
        self._version_1_0 = parser.version_1_0
        self._method = method = parser.method
        self._sent_bytes = 0
        now_s = connections.clock_s()
        if now_s > connections.lag_alarm_s:
            connections.note_lag(now_s)
        request = Request(
            method,
            parser.path,
            parser.query,
            None if parser.shape is not None else parser.headers,
            _NO_BODY,
            self._peer,
            self._tls,
            now_s,
            parser.shape,
            parser.head,
            parser.at,
        )
        if parser.length:
            length = None if parser.length == CHUNKED else parser.length
            body = InboundBody(self, self._loop, self._blocks, length, parser.expect)
            self._body = request.body = body
            at = self._first_bytes(body, data, at, stop, shared)
            if not shared and body.receiving and not body.expecting and not self._turned_away:
                # It has waited in line: all of it may be there, and then needs no task.
                count = self.receive_now(body.room())
                if count:
                    body.received(count)
        elif parser.expect:
            # No body, so nothing to hold back. botocore asks even then, and after a final reply without 100 takes the next
            # reply on this connection for a continuation of that one, and waits for ever.
            self.send_continue()
        if self._turned_away:
            self._turned_away = False
            retry = b"Retry-After: %d\r\n" % self._limits.retry_after_s
            refusal = self._app.refusal(503)
            # A GET has no body at 503, as from the application itself: some clients cannot take one.
            text = b"" if method in ("GET", "HEAD") else refusal.body
            self._respond(Response(503, refusal.headers + retry, text, close=not self._placed))
            return at
        connections.in_flight += 1
        connections.begun += 1
        self._request = request
        try:
            answer = self._app.handle(request)
        except Exception:
            log.exception("the application raised for %s", method)
            answer = Response(500, close=True)
        if isinstance(answer, Response):
            sending = self._respond(answer)
            if sending is not None:
                self._start(self._send(sending))
        else:
            self._start(self._run(answer))
        if self._active and self._body is not None:
            self._pending = True
            connections.hold(self._peer)
        return at

    def _first_bytes(self, body: InboundBody, data: bytearray, at: int, stop: int, shared: bool) -> int:
        """Hands over what arrived behind the head: with the block it lies in, or copied from the stash."""
        if at == stop:
            return at
        if shared:
            body.adopt(*self._blocks.take_current(at, stop))
            return stop
        room = body.room(large=stop - at > self._blocks.small_size)  # all of it fits: the stash is bounded
        count = min(len(room), stop - at)
        room[:count] = memoryview(data)[at : at + count]
        body.received(count)
        return at + count

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._task_started = False
        self._task = self._loop.create_task(work)

    async def _run(self, answer: Coroutine[Any, Any, Response]) -> None:
        """Awaits the handler's response and sends it."""
        self._task_started = True
        if self._lost:
            answer.close()
            self._give_up(None)
            return
        try:
            response = await answer
        except Exception:
            log.exception("the handler raised for %s", self._method)
            response = Response(500, close=True)
        except BaseException:
            self._give_up(None)
            raise
        if self._state == _CLOSED:
            await self._close_chunks(response)
            self._give_up(response)
            return
        # From here the response is not the handler's: where it needs no task, there is nothing to cancel.
        task, self._task = self._task, None
        sending = self._respond(response)
        if sending is not None:
            self._task = task
            await self._send(sending)

    async def _send(self, sending: Coroutine[Any, Any, None]) -> None:
        """Awaits the end of a response that needs a task."""
        self._task_started = True
        if self._lost:
            sending.close()
            await self._close_chunks(self._response)
            self._give_up(self._response)
            return
        try:
            await sending
        except Exception as error:
            log.warning("a response to %s was cut: %r", self._method, error)
            self._give_up(self._response)
        except BaseException:
            self._give_up(self._response)
            raise
        else:
            self._conclude(True)

    def _give_up(self, response: Response | None) -> None:
        """Ends the request and the connection: no whole response can be sent any more."""
        self._response = response
        self.abort()
        self._conclude(False)

    def _conclude(self, complete: bool) -> None:
        self._task = None
        self._finish(complete and not self._lost)
        if self._lost:
            self._connections.discard(self, self._placed)

    # ---------------------------------------------------------------- responses

    def _respond(self, response: Response) -> Coroutine[Any, Any, None] | None:
        """Starts the response and, where it need not wait, ends it. Returns the rest of the work if it needs a task."""
        self._response = response
        connections = self._connections
        keep = self._keep
        if keep and (
            response.close or connections.draining or (self._body is not None and not self._may_keep(self._body))
        ):
            keep = self._keep = False
        connection = b"" if keep else _CLOSE
        if self._version_1_0 and keep:
            connection = _KEEP_ALIVE
        body = response.body
        length = len(body) if isinstance(body, bytes) else body.length
        if self._method == "HEAD" or response.status in BODYLESS:
            if response.length is not None:
                length = response.length
            head = connections.renderer.head(response.status, response.headers, length, connection)
            if isinstance(body, StreamBody):
                return self._send_head_only(head, response)
            self._write_last(head)
            return None
        head = connections.renderer.head(response.status, response.headers, length, connection)
        if length > _UNSENT_BYTES:
            self._bound_unsent(self._moved_bytes)
        if isinstance(body, bytes):
            self._sent_bytes = length
            if length <= _JOIN_BYTES:
                self._write_last(head + body)
            elif self._tls:
                return self._send_pieces(head, body)
            else:
                self._transport.writelines((head, body))
                self._end_when_written(length)
        elif isinstance(body, FileSpans):
            return self._send_spans(head, body)
        else:
            return self._send_stream(head, body)
        return None

    def _bound_unsent(self, moved_bytes: int) -> None:
        """Bounds what the kernel takes for this peer, or no longer does."""
        thrifty = moved_bytes < _PROVEN_BYTES or self._connections.in_flight >= _CROWD
        if thrifty != self._thrifty:
            self._thrifty = thrifty
            tcp.bound_unsent(self._transport, _UNSENT_BYTES if thrifty else 0)

    def _may_keep(self, body: InboundBody) -> bool:
        """Whether the connection can be used again after a response made now."""
        if not body.receiving:
            return not body.broken
        # A client told no instead of 100 may send its body or not: what follows could not be told apart.
        return not body.expecting and body.left is not None and body.left <= self._limits.discard_bytes_max

    def _write_last(self, data: Buffer) -> None:
        self._transport.write(data)
        self._end_when_written(len(data))

    def _end_when_written(self, count: int) -> None:
        if self._write_paused:
            self._moved_bytes += count
            self._after_drain = self._ended
        else:
            self._finish(True)

    def _ended(self) -> None:
        self._finish(True)

    def _send_spans(self, head: bytes, body: FileSpans) -> Coroutine[Any, Any, None] | None:
        if body.length <= SMALL_SPANS_BYTES and self._send_resident(head, body):
            return None
        sock = self._own_socket()
        if sock is None:
            return copy_spans(self._loop, head, body, self._write)
        self._sender = sender = SpanSender(self._loop, sock, head, body, self._spans_sent)
        if self._write_paused:
            self._after_drain = sender.start  # an interim response is still in the transport
        else:
            sender.start()
        return None

    def _send_resident(self, head: bytes, body: FileSpans) -> bool:
        """Sends head and body in one write if the body is in the page cache: cheaper than sendfile for small ones."""
        scratch = self._connections.scratch.view
        at = len(head)
        if at + body.length > len(scratch):
            return False
        scratch[:at] = head
        try:
            for fd, offset, length in body.spans:
                if read_resident(fd, scratch[at : at + length], offset) != length:
                    return False
                at += length
        except OSError:
            return False  # the long way reports it
        self._sent_bytes = body.length
        self._transport.write(scratch[:at])
        if self._write_paused:
            self._connections.new_scratch()
        self._end_when_written(at)
        return True

    def _spans_sent(self, complete: bool) -> None:
        if not complete:
            self.abort()
        self._finish(complete)

    async def _send_pieces(self, head: bytes, body: bytes) -> None:
        await self._written((head, body))

    async def _send_stream(self, head: bytes, body: StreamBody) -> None:
        left = body.length
        pending = head  # leaves with the first chunk
        failure: BaseException | None = None
        try:
            async for chunk in body.chunks:
                size = len(chunk)
                left -= size
                if left < 0:
                    raise ValueError("the body is longer than its length")
                # No copy: all is with the kernel before the next chunk is asked for.
                await self._written((pending, chunk) if pending else (chunk,))
                pending = b""
                self._sent_bytes += size
        except BaseException as error:  # not `finally`: nothing may be awaited there, see docs/decisions/0014
            failure = error
        await self._close_chunks(self._response)
        if failure is not None:
            raise failure
        if left:
            raise ValueError(f"the body ended {left} bytes early")
        if pending:
            await self._written((pending,))

    async def _send_head_only(self, head: bytes, response: Response) -> None:
        await self._close_chunks(response)
        await self._written((head,))

    async def _close_chunks(self, response: Response | None) -> None:
        if response is not None and isinstance(response.body, StreamBody):
            aclose = getattr(response.body.chunks, "aclose", None)
            if aclose is not None:
                await aclose()

    def _write(self, data: Buffer) -> Awaitable[None] | None:
        """For `copy_spans`: writes, and says what to wait for."""
        self._transport.write(data)
        self._moved_bytes += len(data)
        self._sent_bytes += len(data)
        return self._drained() if self._write_paused else None

    async def _written(self, parts: Sequence[Buffer]) -> None:
        """Writes and returns when the transport holds nothing any more."""
        if self._tls:
            for part in parts:
                view = memoryview(part)
                for at in range(0, len(view), _TLS_PIECE_BYTES):
                    piece = view[at : at + _TLS_PIECE_BYTES]
                    self._transport.write(piece)
                    self._moved_bytes += len(piece)
                    if self._write_paused:
                        await self._drained()
            return
        for part in parts:
            self._moved_bytes += len(part)
        self._transport.writelines(parts)
        if self._write_paused:
            await self._drained()

    async def _drained(self) -> None:
        drained = self._loop.create_future()
        self._after_drain = lambda: None if drained.done() else drained.set_result(None)
        await drained

    def _finish(self, complete: bool) -> None:
        """Ends the request: gives everything back, tells the application, and says what the connection does next."""
        if not self._active:
            return
        self._active = False
        request, self._request = self._request, None
        response, self._response = self._response, None
        body = self._body
        unread = body is not None and (body.receiving or body.broken)
        self._pace = None
        sender = self._sender
        if sender is not None:
            self._sender = None
            self._moved_bytes += sender.sent_bytes
            self._sent_bytes = sender.sent_bytes
        if body is not None and not (complete and self._keep and unread):
            body.close(reuse=response is not None)
            self._body = None
        if request is not None:
            self._connections.in_flight -= 1
        if self._pending:
            self._pending = False
            self._connections.let_go(self._peer)
        try:
            if response is not None and isinstance(response.body, FileSpans):
                response.body.release()
            if request is not None:
                told = response or Response(_CLIENT_GONE, close=True)
                self._app.finished(request, told, self._sent_bytes, complete)
        except Exception:
            log.exception("the application raised after %s", self._method)
        if complete and self._state == _BUSY:
            self._go_on(unread)

    def _go_on(self, unread: bool) -> None:
        """After a whole response: the next request, or the end of the connection."""
        connections = self._connections
        self._since_s = connections.now_s
        if connections.places_wanted and self._keep and self._placed:
            self._placed = not connections.yield_place(self._peer, self._placed_s)
        if not self._keep:
            if unread or self._stash or tcp.has_unread(self._transport):
                self._linger()  # closing with unread bytes would send a reset, which can overtake the response
            else:
                self._close()
        elif self._body is not None:
            self._state = _DISCARD
            self._body.discard()
        else:
            self._ready()

    def _discarded(self, body: InboundBody) -> None:
        body.close(reuse=True)
        self._body = None
        self._ready()

    def _ready(self) -> None:
        """Waits for the next request, which may be there already."""
        self._state = _HEAD
        self._since_s = self._connections.now_s
        if self._serving:
            return
        if self._stash or self._eof:
            self._serve_stash()
        elif self._connections.draining:
            self._close()

    # ---------------------------------------------------------------- ends

    def _refuse(self, status: int) -> None:
        """Answers what is not a request, and ends the connection."""
        reply = self._app.refusal(status)
        assert isinstance(reply.body, bytes)
        headers = reply.headers
        if status == 503:
            headers += b"Retry-After: %d\r\n" % self._limits.retry_after_s
        head = self._connections.renderer.head(reply.status, headers, len(reply.body), _CLOSE)
        self._transport.write(head + reply.body)
        self._linger()

    def _linger(self) -> None:
        """Half-closes and reads what still comes, so that the peer sees the response and not a reset."""
        self._state = _LINGER
        self._since_s = self._connections.now_s
        self._stash.clear()
        if self._eof:
            self._close()
            return
        self.resume()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def _close(self) -> None:
        self._state = _CLOSED
        self._since_s = self._connections.now_s
        self._transport.close()

    def abort(self) -> None:
        """Ends the connection at once; a running handler is cancelled."""
        self._state = _CLOSED
        if not self._lost:
            self._transport.abort()

    def begin_drain(self) -> None:
        """Closes the connection if it is idle, else after the request under way."""
        if self._state == _HEAD and not self._stash:
            self._close()

    def sweep(self, now_s: float, elapsed_s: float) -> None:
        """Applies the time limits; called about every `sweep_s`."""
        limits = self._limits
        waited_s = now_s - self._since_s
        if self._state == _HEAD:
            if self._waiting:
                self._end_if_left()  # the wait is for us
            elif waited_s >= (limits.head_s if self._head_begun or not self._placed else limits.idle_s):
                if self._head_begun:
                    self._refuse(408)
                else:
                    self._close()
        elif self._state >= _LINGER:
            if self._tls and self._state == _CLOSED and self._takes_more(elapsed_s):
                self._since_s = now_s
                return
            hurried = self._tls and self._connections.draining and self._state == _CLOSED
            if waited_s >= (_TLS_GOODBYE_S if hurried else limits.linger_s) and not self._lost:
                self._transport.abort()
        else:
            self._sweep_rate(elapsed_s)

    def _keeps_pace(self, elapsed_s: float, moved: int) -> bool:
        if self._pace is None:
            self._pace = Pace(self._limits.body_rate_bytes_min, self._limits.body_grace_s)
        return self._pace.step(elapsed_s * (_HURRY if self._connections.pressed else 1), moved)

    def _takes_more(self, elapsed_s: float) -> bool:
        """Whether the peer has not taken all that was sent, and takes it fast enough. A loop's TLS says that it holds nothing when the
        transport below it does, and that would be lost."""
        before = self._taken_bytes
        self._taken_bytes, more = tcp.delivery(self._transport)
        return more and self._keeps_pace(elapsed_s, self._taken_bytes - before)

    def _sweep_rate(self, elapsed_s: float) -> None:
        sender, body = self._sender, self._body
        total = self._moved_bytes + (sender.sent_bytes if sender is not None else 0)
        if self._write_paused:
            total -= self._transport.get_write_buffer_size()
        if self._thrifty and self._response is not None:
            self._bound_unsent(total)  # it is long, and read
        moved, self._moved_seen_bytes = max(0, total - self._moved_seen_bytes), total
        receiving = body is not None and body.waiting
        if not (receiving or self._state == _DISCARD or self._write_paused or (sender is not None and sender.blocked)):
            return
        if self._keeps_pace(elapsed_s, moved):
            return
        self._connections.cut_slow += 1
        if body is not None and receiving:
            self._keep = False
            body.fail("slow")  # the handler still has an answer
        else:
            self.abort()

    # ---------------------------------------------------------------- for the body (flow.BodySource)

    def send_continue(self) -> None:
        self._transport.write(CONTINUE)

    def receive_now(self, view: memoryview) -> int:
        sock = self._own_socket()
        if sock is None:
            return 0
        try:
            count = sock.recv_into(view)
        except OSError:
            return 0  # nothing there, or an error that the transport will report
        self._moved_bytes += count
        return count

    def behind(self, extra: memoryview) -> None:
        self._stash += extra
        self._bound_stash()

    def _bound_stash(self) -> None:
        if len(self._stash) > self._limits.head_bytes_max:
            self.pause()

    def pause(self) -> None:
        if not self._reading_paused and not self._lost:
            self._reading_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._reading_paused and not self._lost and len(self._stash) <= self._limits.head_bytes_max:
            self._reading_paused = False
            self._transport.resume_reading()

    def _own_socket(self) -> socket.socket | None:
        """A second descriptor of the socket, made when first needed: loops keep theirs from other hands. None under
        TLS, when the connection is ending, or while there is no descriptor left: all goes through the transport then."""
        if self._sock is None and not self._tls and not self._transport.is_closing():
            sock = self._transport.get_extra_info("socket")
            if sock is not None:
                try:
                    own = os.dup(sock.fileno())
                except OSError:
                    return None
                self._sock = socket.socket(sock.family, sock.type, sock.proto, own)
                self._sock.setblocking(False)
        return self._sock


async def listen(
    app: Application,
    host: str,
    port: int,
    limits: Limits,
    *,
    reuse_port: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    sock: socket.socket | None = None,
    connections: Connections | None = None,
) -> Listener:
    """Serves `app` on host and port (0 takes a free one) or on `sock`. Listeners of one worker share `connections`."""
    # Not `or`: without a connection they are false.
    shared = connections if connections is not None else Connections(limits, asyncio.get_running_loop())
    return await serve(
        lambda: HttpProtocol(app, limits, shared),
        shared,
        host,
        port,
        reuse_port=reuse_port,
        ssl_context=ssl_context,
        sock=sock,
    )
