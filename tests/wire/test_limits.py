"""The bounds: sizes, counts, times, rates; draining."""

from __future__ import annotations

import asyncio

import pytest

from gateway.http.connections import Connections
from gateway.http.flow import Pace
from gateway.http.limits import Limits
from s3api.message import Request, Response
from tests.wire.harness import App, Chunks, Wire

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
PUT = b"PUT /k HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"a" * 16_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 200),
        (b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
        (b"GET /" + b"a" * 17_000, 414),
        (b"GET /" + b"a" * 200_000, 414),
        (b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"a" * 30_000 + b"\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"a" * 33_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"a" * 33_000, 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 127 + b"\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 128 + b"\r\n", 431),
    ],
)
@pytest.mark.parametrize("step", [1 << 20, 1000])
def test_head_sizes(head: bytes, status: int, step: int) -> None:
    with Wire() as wire:
        wire.feed(*(head[at : at + step] for at in range(0, len(head), step)))
        assert [reply[0] for reply in wire.replies()] == [status]
        assert wire.transport.eof_sent is (status != 200)


def test_buffer_too_small_for_heads_is_refused_at_start() -> None:
    loop = asyncio.new_event_loop()
    with pytest.raises(ValueError, match="receive_buffer_bytes"):
        Connections(Limits(receive_buffer_bytes=60_000), loop)
    loop.close()


def test_idle_connection_is_closed_in_silence() -> None:
    with Wire() as wire:
        wire.pass_time(70)
        wire.feed(GET)
        wire.pass_time(74)
        assert not wire.transport.lost
        wire.pass_time(1)
        assert wire.transport.lost
        assert len(wire.replies()) == 1


def test_head_time_runs_from_its_first_byte_and_ends_in_408() -> None:
    with Wire() as wire:
        wire.pass_time(60)
        for _ in range(14):
            wire.feed(b"G" if wire.protocol._stash == b"" else b"E")
            wire.pass_time(1)
        assert wire.out == b""
        wire.pass_time(1)
        assert [status for status, _, _ in wire.replies()] == [408]
        wire.pass_time(5)
        assert wire.transport.lost


def test_peer_that_does_not_close_after_a_refusal_is_dropped() -> None:
    with Wire() as wire:
        wire.feed(b"BAD\n")
        wire.pass_time(4.5)
        assert not wire.transport.lost
        wire.pass_time(0.5)
        assert wire.transport.lost


def test_lingering_connection_reads_only_so_much() -> None:
    with Wire(linger_bytes_max=500_000) as wire:
        wire.feed(b"BAD\n")
        wire.feed(bytes(500_000))
        assert not wire.transport.closing
        wire.feed(b"x")
        assert wire.transport.closing


def test_request_above_the_limit_in_flight_is_503_with_retry_after() -> None:
    async def forever(request: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    with Wire(App(forever), requests_in_flight_max=1) as wire:
        wire.feed(GET)
        assert wire.connections.in_flight == 1
        first, (wire.transport, wire.protocol) = wire.transport, wire.connect()
        wire.feed(GET)
        status, headers, body = wire.replies()[0]
        assert (status, headers[b"retry-after"], body) == (503, b"1", b"")
        assert not wire.transport.closing
        assert (len(wire.app.requests), wire.connections.refused_requests) == (1, 1)
        first.abort()
        wire.settle()
        assert wire.connections.in_flight == 0


def test_connection_above_the_limit_hears_503_at_its_first_request() -> None:
    with Wire(connections_max=1, connections_refused_max=1) as wire:
        first = wire.transport
        wire.transport, wire.protocol = second, _ = wire.connect()
        assert wire.out == b""
        wire.feed(GET)
        assert [(status, headers[b"connection"]) for status, headers, _ in wire.replies()] == [(503, b"close")]
        assert wire.app.requests == []
        wire.transport, wire.protocol = wire.connect()
        wire.settle()
        assert second.lost
        third = wire.transport
        wire.transport, wire.protocol = wire.connect()  # above both limits
        assert [status for status, _, _ in wire.replies()] == [503]
        for transport in (first, third):
            transport.close()
        wire.transport.close()
        wire.settle()
        assert len(wire.connections) == 0
        wire.transport, wire.protocol = wire.connect()
        wire.feed(GET)
        assert [status for status, _, _ in wire.replies()] == [200]


# ---------------------------------------------------------------- rates


def test_pace_cuts_after_the_grace_and_never_above_the_rate() -> None:
    pace = Pace(1000, 10.0)
    assert all(pace.step(1.0, 1000) for _ in range(100))
    assert [pace.step(1.0, 0) for _ in range(11)] == [True] * 10 + [False]
    burst = Pace(1000, 10.0)
    assert burst.step(1.0, 10_000_000)  # a burst earns no more than the grace
    assert [burst.step(1.0, 0) for _ in range(11)] == [True] * 10 + [False]
    half = Pace(1000, 10.0)
    steps = [half.step(1.0, 500) for _ in range(21)]
    assert steps == [True] * 20 + [False]
    assert all(Pace(0, 10.0).step(1e6, 0) for _ in range(3))


def test_slow_sender_is_told_to_the_handler() -> None:
    with Wire() as wire:
        wire.feed(PUT)
        for _ in range(19):
            wire.feed(b"x")
            wire.pass_time(1)
        assert wire.app.body_errors == []
        wire.pass_time(2)
        assert wire.app.body_errors == ["slow"]
        assert [(status, headers[b"connection"]) for status, headers, _ in wire.replies()] == [(400, b"close")]
        assert wire.connections.cut_slow == 1


def test_steady_sender_above_the_rate_is_served() -> None:
    with Wire(body_rate_bytes_min=1000) as wire:
        wire.feed(PUT)
        for _ in range(100):
            wire.pass_time(0.5)
            wire.feed(bytes(1000))
        assert [status for status, _, _ in wire.replies()] == [200]


def test_slow_handler_does_not_count_against_the_sender() -> None:
    go = asyncio.Event()

    async def slow(request: Request) -> Response:
        await request.body.read()
        await go.wait()
        return await wire.app.read_then_echo(request)

    with Wire(App(slow)) as wire:
        wire.feed(PUT, bytes(50_000))
        wire.pass_time(200)
        go.set()
        wire.feed(bytes(50_000))
        assert [status for status, _, _ in wire.replies()] == [200]


@pytest.mark.parametrize("kind", ["bytes", "stream"])
def test_slow_reader_is_cut_off(kind: str) -> None:
    chunks = Chunks(bytes(50_000), bytes(50_000))
    body = bytes(100_000) if kind == "bytes" else chunks.body(100_000)
    with Wire(App(lambda request: Response(200, b"", body))) as wire:
        wire.transport.blocked = True
        wire.feed(GET)
        wire.pass_time(20)
        assert not wire.transport.lost
        wire.pass_time(1)
        assert wire.transport.lost
        assert [complete for _, _, complete in wire.app.finishes] == [False]
        assert chunks.closed == (kind == "stream")
        assert wire.connections.cut_slow == 1


def test_slow_discarded_body_is_cut_off() -> None:
    with Wire(App(lambda request: Response(403))) as wire:
        wire.feed(PUT)
        wire.pass_time(21)
        assert wire.transport.lost


# ---------------------------------------------------------------- drain


def test_drain_closes_idle_finishes_running_and_aborts_the_rest() -> None:
    go = asyncio.Event()

    async def answer(request: Request) -> Response:
        await (go if request.path == b"/a" else asyncio.Event()).wait()
        return Response(200)

    with Wire(App(answer)) as wire:
        wire.feed(GET)
        running = wire.transport
        wire.transport, wire.protocol = wire.connect()
        idle = wire.transport
        wire.transport, wire.protocol = wire.connect()
        wire.feed(GET.replace(b"/a", b"/never"))
        stuck = wire.transport
        wire.transport, wire.protocol = wire.connect()
        wire.feed(GET[:10])
        half = wire.transport

        async def drain() -> int:
            draining = asyncio.create_task(wire.connections.drain(0.2))
            await asyncio.sleep(0)
            go.set()
            return await draining

        assert wire.loop.run_until_complete(drain()) == 2
        assert b"200 OK" in running.out
        assert b"Connection: close" in running.out
        assert (idle.out, stuck.out, half.out) == (b"", b"", b"")
        assert running.lost
        assert idle.lost
        assert stuck.lost
        assert half.lost
        assert sorted(wire.app.finishes) == [(200, 0, True), (499, 0, False)]
        assert len(wire.connections) == 0


def test_request_whose_head_was_under_way_at_drain_is_answered() -> None:
    with Wire() as wire:
        wire.feed(GET[:10])

        async def drain() -> int:
            draining = asyncio.create_task(wire.connections.drain(5.0))
            await asyncio.sleep(0)
            view = wire.protocol.get_buffer(100)
            view[: len(GET) - 10] = GET[10:]
            wire.protocol.buffer_updated(len(GET) - 10)
            return await draining

        assert wire.loop.run_until_complete(drain()) == 0
        assert [(status, headers[b"connection"]) for status, headers, _ in wire.replies()] == [(200, b"close")]


def test_connection_whose_response_was_under_way_at_drain_closes_after_it() -> None:
    with Wire() as wire:
        wire.transport.blocked = True
        wire.feed(GET)

        async def drain() -> int:
            draining = asyncio.create_task(wire.connections.drain(5.0))
            await asyncio.sleep(0)
            wire.transport.unblock()
            return await draining

        assert wire.loop.run_until_complete(drain()) == 0
        assert [status for status, _, _ in wire.replies()] == [200]
        assert wire.app.finishes == [(200, 3, True)]
