"""One connection over a fake transport: request streams in every cut, responses, pipelining, 100-continue."""

from __future__ import annotations

import asyncio
import logging

import pytest

from s3api.message import Request, Response, StreamBody
from tests.wire.harness import Answer, App, Chunks, Wire, parse_replies
from tiering.contract import FileSpans

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
PUT = b"PUT /k HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\nhello\r\n\r\nGE"
AWS = b"5;chunk-signature=0a\r\nhello\r\n0;chunk-signature=0b\r\n\r\n"
CHUNKED = (
    b"PUT /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"7\r\n"
    + AWS[:7]
    + b"\r\n11;x=y\r\n"
    + AWS[7:24]
    + b"\r\n%x\r\n" % len(AWS[24:])
    + AWS[24:]
    + b"\r\n0\r\nT: 1\r\n\r\n"
)

STREAMS: dict[str, tuple[bytes, list[tuple[str, bytes]], list[bytes]]] = {
    "one get": (GET, [("GET", b"/a")], [b"GET"]),
    "empty lines before": (b"\r\n" + GET + b"\r\n\r\n" + GET, [("GET", b"/a")] * 2, [b"GET"] * 2),
    "put": (PUT, [("PUT", b"/k")], [b"hello\r\n\r\nGE"]),
    "chunked with aws chunks not aligned": (CHUNKED, [("PUT", b"/c")], [AWS]),
    "head": (b"HEAD /h HTTP/1.1\r\nHost: h\r\n\r\n", [("HEAD", b"/h")], [b""]),
    "mixed and pipelined": (
        GET + PUT + b"HEAD /h HTTP/1.1\r\nHost: h\r\n\r\n" + CHUNKED + GET,
        [("GET", b"/a"), ("PUT", b"/k"), ("HEAD", b"/h"), ("PUT", b"/c"), ("GET", b"/a")],
        [b"GET", b"hello\r\n\r\nGE", b"", AWS, b"GET"],
    ),
    "absolute form": (
        b"PUT http://127.0.0.1:1/b/k?x HTTP/1.1\r\nHost: z\r\nContent-Length: 0\r\n\r\n",
        [("PUT", b"/b/k")],
        [b"PUT"],
    ),
    "many pipelined": (GET * 40, [("GET", b"/a")] * 40, [b"GET"] * 40),
}


def check(wire: Wire, requests: list[tuple[str, bytes]], bodies: list[bytes]) -> None:
    assert [(request.method, request.path) for request in wire.app.requests] == requests
    assert [(status, body) for status, _, body in wire.replies()] == [(200, body) for body in bodies]
    assert all(complete for _, _, complete in wire.app.finishes)
    assert len(wire.app.finishes) == len(requests)
    assert not wire.transport.closing


@pytest.mark.parametrize(("stream", "requests", "bodies"), STREAMS.values(), ids=STREAMS.keys())
def test_stream_whole_and_byte_by_byte(stream: bytes, requests: list[tuple[str, bytes]], bodies: list[bytes]) -> None:
    with Wire() as wire:
        wire.feed(stream)
        check(wire, requests, bodies)
    with Wire() as wire:
        wire.feed(*(stream[at : at + 1] for at in range(len(stream))))
        check(wire, requests, bodies)


@pytest.mark.parametrize("name", ["put", "chunked with aws chunks not aligned", "absolute form"])
def test_stream_cut_anywhere(name: str) -> None:
    stream, requests, bodies = STREAMS[name]
    for cut in range(1, len(stream)):
        with Wire() as wire:
            wire.feed(stream[:cut], stream[cut:])
            check(wire, requests, bodies)


def test_mixed_stream_cut_every_seven_bytes() -> None:
    stream, requests, bodies = STREAMS["mixed and pipelined"]
    for first in range(7):
        with Wire() as wire:
            wire.feed(stream[:first], *(stream[at : at + 7] for at in range(first, len(stream), 7)))
            check(wire, requests, bodies)


def test_small_response_is_one_write_without_a_task() -> None:
    with Wire() as wire:
        view = wire.protocol.get_buffer(65536)
        view[: len(GET)] = GET
        wire.protocol.buffer_updated(len(GET))  # the loop has not run
        assert wire.transport.writes == 1
        assert wire.out == (
            b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nX-Seen: /a\r\nContent-Length: 3\r\n\r\nGET"
        )
        assert wire.app.finishes == [(200, 3, True)]


def test_request_carries_peer_security_and_start() -> None:
    with Wire(secure=True) as wire:
        wire.feed(GET)
        request = wire.app.requests[0]
        assert (request.peer, request.tls, request.secure, request.started_s) == ("192.0.2.7", "1.3", True, 1000.0)


@pytest.mark.parametrize(
    ("request_head", "response", "head", "body"),
    [
        (b"HEAD", Response(200, b"A: b\r\n", b"", length=2097152), b"A: b\r\nContent-Length: 2097152\r\n\r\n", b""),
        (b"HEAD", Response(404, b"", b"<Error/>"), b"Content-Length: 8\r\n\r\n", b""),
        (b"GET", Response(404, b"", b"<Error/>"), b"Content-Length: 8\r\n\r\n", b"<Error/>"),
        (b"GET", Response(304, b"ETag: x\r\n"), b"ETag: x\r\n\r\n", b""),
        (b"DELETE", Response(204), b"GMT\r\n\r\n", b""),
        (b"GET", Response(200, b"", b"x" * 200_000), b"Content-Length: 200000\r\n\r\n", b"x" * 200_000),
        (b"GET", Response(599), b"Content-Length: 0\r\n\r\n", b""),
    ],
)
def test_response_framing(request_head: bytes, response: Response, head: bytes, body: bytes) -> None:
    with Wire(App(lambda request: response)) as wire:
        wire.feed(request_head + b" / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert wire.out.endswith(head + body)
        assert wire.app.finishes == [(response.status, len(body), True)]
        wire.feed(request_head + b" / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert len(wire.app.finishes) == 2


@pytest.mark.parametrize(
    ("head", "connection", "kept"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", b"close", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", b"keep-alive", True),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"close", False),
        (GET, None, True),
    ],
)
def test_connection_header_says_what_happens(head: bytes, connection: bytes | None, kept: bool) -> None:
    with Wire() as wire:
        wire.feed(head)
        assert wire.replies()[0][1].get(b"connection") == connection
        assert wire.transport.closing is not kept


def test_response_asking_for_close_closes() -> None:
    with Wire(App(lambda request: Response(403, close=True))) as wire:
        wire.feed(GET)
        assert wire.replies()[0][1][b"connection"] == b"close"
        assert wire.transport.closing


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\nHost: h\n",
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/1.1\r\nA: b\rc",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_hopeless_head_is_refused_before_it_ends(head: bytes) -> None:
    for pieces in ([head], [head[at : at + 1] for at in range(len(head))]):
        with Wire() as wire:
            wire.feed(*pieces)
            assert [status for status, _, _ in wire.replies()] == [400]
            assert wire.transport.eof_sent
            assert wire.app.requests == []


def test_refusal_after_a_good_request_answers_both_in_order() -> None:
    with Wire() as wire:
        wire.feed(GET + b"GET / HTTP/1.1\r\nHost : h\r\n\r\n" + GET)
        assert [status for status, _, _ in wire.replies()] == [200, 400]
        assert len(wire.app.requests) == 1
        assert wire.transport.eof_sent
        wire.feed(GET)
        assert len(wire.app.requests) == 1
        wire.eof()
        assert wire.transport.lost


# ---------------------------------------------------------------- request bodies


def test_borrowed_bytes_stay_until_the_next_read_and_reading_pauses() -> None:
    seen: list[bytes] = []
    step = asyncio.Event()

    async def slow(request: Request) -> Response:
        while data := await request.body.read():
            before = bytes(data)
            await step.wait()
            step.clear()
            assert bytes(data) == before
            seen.append(before)
        return Response(200)

    body = bytes(range(256)) * 3072  # three buffers
    with Wire(App(slow)) as wire:
        wire.feed(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body))
        rest = body
        for _ in range(100):
            while rest and wire.transport.reading:
                rest = rest[wire.feed(rest[:60_000]) :]
            if rest:
                assert len(body) - len(rest) - sum(map(len, seen)) <= 2 * wire.connections.limits.receive_buffer_bytes
            step.set()
            wire.settle()
            if wire.app.finishes:
                break
        assert b"".join(seen) == body
        assert wire.app.finishes == [(200, 0, True)]


def test_whole_small_body_behind_its_head_needs_no_wait() -> None:
    with Wire() as wire:
        wire.feed(PUT + GET)
        assert wire.app.bodies == [b"hello\r\n\r\nGE"]
        assert [body for _, _, body in wire.replies()] == [b"hello\r\n\r\nGE", b"GET"]


def test_bad_chunk_is_a_framing_error_for_the_handler_and_closes() -> None:
    with Wire() as wire:
        wire.feed(b"PUT /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n" + GET)
        assert wire.app.body_errors == ["framing"]
        assert [status for status, _, _ in wire.replies()] == [400]
        assert wire.replies()[0][1][b"connection"] == b"close"
        assert wire.transport.eof_sent  # not closed: unread bytes would turn the answer into a reset
        assert len(wire.app.requests) == 1


def test_continue_is_sent_at_the_first_read_only() -> None:
    go = asyncio.Event()

    async def answer(request: Request) -> Response:
        await go.wait()
        return await wire.app.read_then_echo(request)

    with Wire(App(answer)) as wire:
        wire.feed(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert wire.out == b""
        go.set()
        wire.settle()
        assert wire.out == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.feed(b"hel", b"lo")
        assert [(status, body) for status, _, body in wire.replies()] == [(100, b""), (200, b"hello")]
        assert not wire.transport.closing
        wire.feed(PUT)
        assert wire.replies()[-1][2] == b"hello\r\n\r\nGE"


def test_refusal_instead_of_continue_closes() -> None:
    with Wire(App(lambda request: Response(412))) as wire:
        wire.feed(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert [(status, headers[b"connection"]) for status, headers, _ in wire.replies()] == [(412, b"close")]
        assert wire.transport.eof_sent


def test_expect_without_a_body_is_answered_at_once() -> None:
    with Wire() as wire:
        wire.feed(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n" + GET)
        assert [status for status, _, _ in wire.replies()] == [100, 200, 200]


@pytest.mark.parametrize("expectation", [b"tea", b"200", b""])
def test_other_expectation_is_ignored(expectation: bytes) -> None:
    with Wire() as wire:
        wire.feed(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: %b\r\n\r\ntea" % expectation)
        assert [status for status, _, _ in wire.replies()] == [200]


def test_unread_body_is_read_away_and_the_connection_kept() -> None:
    with Wire(App(lambda request: Response(403))) as wire:
        for cut in (1, 60, 70, 300_000):
            body = bytes(400_000)
            stream = b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body + GET
            before = len(wire.app.requests)
            wire.feed(stream[:cut], stream[cut:])
            assert len(wire.app.requests) == before + 2
        assert {status for status, _, _ in wire.replies()} == {403}
        assert not wire.transport.closing


@pytest.mark.parametrize("framing", [b"Content-Length: 1048577", b"Transfer-Encoding: chunked"])
def test_long_unread_body_closes_gracefully(framing: bytes) -> None:
    with Wire(App(lambda request: Response(403))) as wire:
        wire.feed(b"PUT / HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n")
        assert wire.replies()[0][1][b"connection"] == b"close"
        assert wire.transport.eof_sent
        wire.feed(bytes(300_000))
        assert not wire.transport.closing
        wire.eof()
        assert wire.transport.lost
        assert wire.app.finishes == [(403, 0, True)]


# ---------------------------------------------------------------- response bodies


def stream_app(chunks: Chunks, length: int) -> App:
    return App(lambda request: Response(200, b"", chunks.body(length)))


def test_stream_body_is_sent_and_the_connection_kept() -> None:
    chunks = Chunks(b"ab", b"", b"cde")
    with Wire(stream_app(chunks, 5)) as wire:
        wire.feed(GET)
        assert [body for _, _, body in wire.replies()] == [b"abcde"]
        assert (chunks.closed, wire.app.finishes) == (1, [(200, 5, True)])
        assert not wire.transport.closing


def test_empty_stream_body_is_a_whole_response() -> None:
    with Wire(stream_app(Chunks(), 0)) as wire:
        wire.feed(GET)
        assert wire.replies()[0][2] == b""
        assert wire.app.finishes == [(200, 0, True)]


@pytest.mark.parametrize(
    "chunks",
    [Chunks(b"ab", OSError("backing")), Chunks(b"ab"), Chunks(b"ab", b"cdef"), Chunks(OSError("at once"))],
    ids=["fails", "short", "long", "fails at once"],
)
def test_bad_stream_never_looks_whole(chunks: Chunks, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL), Wire(stream_app(chunks, 5)) as wire:
        wire.feed(GET + GET)
        assert wire.transport.lost
        assert len(wire.out.partition(b"\r\n\r\n")[2]) < 5
        assert chunks.closed == 1
        assert [complete for _, _, complete in wire.app.finishes] == [False]


def test_stream_waits_for_the_peer_and_is_closed_when_it_leaves() -> None:
    chunks = Chunks(b"ab", b"cd")
    with Wire(stream_app(chunks, 4)) as wire:
        wire.transport.blocked = True
        wire.feed(GET)
        assert chunks.chunks == [b"cd"]
        wire.transport.unblock()
        wire.settle()
        assert wire.replies()[0][2] == b"abcd"
    chunks = Chunks(b"ab", b"cd")
    with Wire(stream_app(chunks, 4)) as wire:
        wire.transport.blocked = True
        wire.feed(GET)
        wire.transport.abort()
        wire.settle()
        assert (chunks.closed, chunks.chunks) == (1, [b"cd"])
        assert [complete for _, _, complete in wire.app.finishes] == [False]
        assert len(wire.connections) == 0


def test_stream_of_a_connection_lost_at_once_is_closed() -> None:
    chunks = Chunks(b"ab")
    with Wire(stream_app(chunks, 2)) as wire:
        view = wire.protocol.get_buffer(65536)
        view[: len(GET)] = GET
        wire.protocol.buffer_updated(len(GET))
        wire.transport.lost = True
        wire.protocol.connection_lost(None)  # before the task has started
        wire.settle()
        assert chunks.closed == 1
        assert [complete for _, _, complete in wire.app.finishes] == [False]
        assert len(wire.connections) == 0


def test_head_of_a_stream_closes_it_unsent() -> None:
    chunks = Chunks(b"ab")
    with Wire(stream_app(chunks, 2)) as wire:
        wire.feed(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert wire.replies()[0][1][b"content-length"] == b"2"
        assert (chunks.closed, chunks.chunks) == (1, [b"ab"])
        assert wire.app.finishes == [(200, 0, True)]


def test_blocked_small_response_finishes_when_it_is_gone() -> None:
    with Wire() as wire:
        wire.transport.blocked = True
        wire.feed(GET + GET)
        assert wire.app.finishes == []
        wire.transport.unblock()
        wire.settle()
        assert len(wire.app.finishes) == 2
        assert len(wire.replies()) == 2


def test_spans_of_a_head_request_are_released_unsent() -> None:
    released: list[int] = []
    body = FileSpans(((-1, 0, 7),), 7, lambda: released.append(1))
    with Wire(App(lambda request: Response(200, b"", body))) as wire:
        wire.feed(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert wire.replies()[0][1][b"content-length"] == b"7"
        assert released == [1]


# ---------------------------------------------------------------- handlers and disconnects


class Waiting:
    """A handler that waits until it is cancelled or told to go on."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.go = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Response(200)


@pytest.mark.parametrize("how", ["eof", "reset"])
def test_disconnect_cancels_the_handler(how: str) -> None:
    handler = Waiting()
    with Wire(App(handler)) as wire:
        wire.feed(GET)
        assert wire.connections.in_flight == 1
        if how == "eof":
            wire.eof()
        else:
            wire.transport.abort()
            wire.settle()
        assert handler.cancelled == 1
        assert wire.app.finishes == [(499, 0, False)]
        assert len(wire.connections) == 0


def test_disconnect_within_a_body_cancels_the_handler() -> None:
    with Wire() as wire:
        wire.feed(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhel")
        wire.eof()
        assert wire.app.bodies == []
        assert wire.app.finishes == [(499, 0, False)]


def test_handler_that_finishes_despite_its_cancellation_is_accounted() -> None:
    released: list[int] = []

    async def stubborn(request: Request) -> Response:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return Response(200, b"", FileSpans((), 0, lambda: released.append(1)))

    with Wire(App(stubborn)) as wire:
        wire.feed(GET)
        wire.transport.abort()
        wire.settle()
        assert wire.app.finishes == [(200, 0, False)]
        assert released == [1]
        assert len(wire.connections) == 0


def test_pipelined_requests_wait_for_a_running_handler_within_a_bound() -> None:
    handler = Waiting()
    with Wire(App(handler), head_bytes_max=1 << 14) as wire:
        wire.feed(GET)
        sent = 1
        while wire.transport.reading:
            delivered = wire.feed(GET * 100)
            sent += delivered // len(GET)
            assert sent < 5000
        assert len(wire.app.requests) == 1
        assert delivered % len(GET) == 0
        handler.go.set()
        wire.settle()
        for _ in range(200):
            wire.settle()
        assert len(wire.replies()) == sent
        assert wire.transport.reading


@pytest.mark.parametrize("kind", ["sync", "coroutine"])
def test_broken_handler_is_500_and_close(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    def answer(request: Request) -> Answer:
        if kind == "sync":
            raise RuntimeError("bug")
        return later()

    async def later() -> Response:
        raise RuntimeError("bug")

    with Wire(App(answer)) as wire:
        wire.feed(GET)
        assert [(status, body) for status, _, body in wire.replies()] == [(500, b"")]
        assert wire.transport.closing
        assert wire.app.finishes == [(500, 0, True)]
    assert "bug" in caplog.text


def test_application_that_raises_after_a_response_does_not_end_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    class Raising(App):
        def finished(self, request: Request, response: Response, sent_bytes: int, complete: bool) -> None:
            raise RuntimeError("bug in accounting")

    with Wire(Raising()) as wire:
        wire.feed(GET + GET)
        assert len(wire.replies()) == 2
        assert wire.connections.in_flight == 0
    assert "bug in accounting" in caplog.text


def test_half_closed_peer_still_gets_its_response() -> None:
    with Wire() as wire:
        wire.transport.blocked = True
        wire.feed(GET + GET)
        wire.eof()
        assert not wire.transport.closing
        wire.transport.unblock()
        wire.settle()
        assert len(parse_replies(wire.out, ["GET", "GET"])) == 2
        assert wire.transport.lost


def test_stream_body_type_is_what_the_application_sends() -> None:
    assert isinstance(Chunks().body(0), StreamBody)
