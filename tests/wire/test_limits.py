"""The bounds: sizes, counts, times, rates; draining."""

from __future__ import annotations

import asyncio

import pytest

from gateway.http.connections import Connections
from gateway.http.flow import AWAITED_BYTES, ROOMY, Pace
from gateway.http.limits import Limits
from gateway.http.line import Line
from gateway.http.protocol import HttpProtocol
from s3api.message import Request, Response
from tests.wire.harness import Answer, App, Chunks, FakeTransport, Wire, parse_replies

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


class Doors:
    """An application that answers `PUT /slow` when told to, and anything else at once."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    def answer(self, request: Request) -> Answer:
        return self.wait() if request.path == b"/slow" else Response(200, b"", b"quick")

    async def wait(self) -> Response:
        await self.open.wait()
        return Response(200, b"", b"slow")


SLOW = b"PUT /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"
WRITE = b"PUT /w HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"


def another(wire: Wire, peer: str = "192.0.2.7", request: bytes = WRITE) -> FakeTransport:
    """A further connection with a request on it."""
    wire.transport, wire.protocol = wire.connect(peer=peer)
    wire.feed(request)
    return wire.transport


def statuses(transport: FakeTransport) -> list[int]:
    return [status for status, _, _ in parse_replies(bytes(transport.out), [])]


def test_request_above_the_limit_in_flight_waits_unread_and_is_answered_in_its_turn() -> None:
    doors = Doors()
    with Wire(App(doors.answer), requests_in_flight_max=1) as wire:
        wire.feed(SLOW)
        assert wire.connections.pressed
        first = another(wire)
        second = another(wire, request=WRITE + GET)
        reader = another(wire, request=GET)
        assert statuses(reader) == [200]  # holds no buffer
        assert (first.out, first.reading, len(wire.app.requests)) == (b"", False, 2)
        doors.open.set()
        wire.settle()
        assert (statuses(first), statuses(second)) == ([200], [200, 200])
        assert first.reading and second.reading and not wire.connections.pressed


def test_who_waits_too_long_for_a_turn_is_told_503_with_retry_after_and_may_ask_again() -> None:
    doors = Doors()
    with Wire(App(doors.answer), requests_in_flight_max=1, queue_s=0.5) as wire:
        wire.feed(SLOW)
        another(wire)
        wire.pass_time(0.4)
        assert wire.out == b""
        wire.pass_time(0.2)
        status, headers, body = wire.replies()[0]
        assert (status, headers[b"retry-after"], body) == (503, b"1", b"")
        assert (len(wire.app.requests), wire.connections.refused_requests) == (1, 1)
        assert not wire.transport.closing and wire.transport.reading
        doors.open.set()
        wire.settle()
        wire.feed(GET)
        assert statuses(wire.transport) == [503, 200]


def test_refusals_are_no_more_than_leave_time_to_serve() -> None:
    with Wire(App(Doors().answer), requests_in_flight_max=1, queue_s=0.5, refusal_fraction_max=0.001) as wire:
        wire.feed(SLOW)
        waiting = [another(wire) for _ in range(5)]
        wire.pass_time(0.5)
        assert [statuses(each) for each in waiting] == [[503], [503], [], [], []]
        wire.protocol.connection_lost(None)  # one that waits leaves
        wire.connections.look_at_line()
        wire.settle()
        assert [statuses(each) for each in waiting] == [[503], [503], [], [], []]
        wire.pass_time(0.1)
        assert [statuses(each) for each in waiting] == [[503], [503], [503], [503], []]


def test_newcomer_whose_turn_would_come_too_late_is_told_503_at_once() -> None:
    with Wire(App(Doors().answer), requests_in_flight_max=1, queue_s=0.5) as wire:
        wire.feed(SLOW)
        first = another(wire)
        wire.pass_time(0.2)
        second = another(wire)
        wire.pass_time(0.1)
        third, other = another(wire), another(wire, peer="192.0.2.9")
        assert [statuses(each) for each in (first, second, third, other)] == [[], [], [503], []]
        assert third.reading and not third.closing
        wire.pass_time(0.2)
        assert [statuses(each) for each in (first, second)] == [[503], []]
        assert wire.connections.refused_requests == 2


@pytest.mark.parametrize(("waited_s", "ahead"), [(0.1, True), (0.3, False)])
def test_nobody_gets_ahead_of_who_has_waited_long(waited_s: float, ahead: bool) -> None:
    doors = Doors()
    with Wire(App(doors.answer), requests_in_flight_max=1, queue_s=0.5, refusal_fraction_max=1e-9) as wire:
        wire.feed(SLOW)
        first = another(wire)
        wire.pass_time(waited_s)
        wire.connections._at_once_s = 0.0
        newcomer, protocol = wire.connect()
        doors.open.set()
        wire.loop.call_soon(wire.loop.stop)
        wire.loop.run_forever()  # now there is room, and who waits has not been asked yet
        view = protocol.get_buffer(65536)
        view[: len(WRITE)] = WRITE
        protocol.buffer_updated(len(WRITE))
        assert (statuses(first), statuses(newcomer)) == ([], [200] if ahead else [])
        wire.settle()
        assert (statuses(first), statuses(newcomer)) == ([200], [200])


def test_newcomers_and_those_who_wait_share_the_time_for_refusals() -> None:
    with Wire(App(Doors().answer), requests_in_flight_max=1, queue_s=0.5, refusal_fraction_max=0.0005) as wire:
        wire.feed(SLOW)
        waiting = [another(wire) for _ in range(3)]
        wire.pass_time(0.3)
        assert [statuses(another(wire)) for _ in range(2)] == [[503], []]
        wire.pass_time(0.2)
        assert [statuses(each) for each in waiting] == [[503], [], []]
        assert [statuses(another(wire)) for _ in range(2)] == [[503], []]


def test_peer_that_left_while_it_waited_is_not_served() -> None:
    doors = Doors()
    with Wire(App(doors.answer), requests_in_flight_max=1, queue_s=0.5) as wire:
        wire.feed(SLOW)
        gone = [another(wire) for _ in range(3)]
        stays = another(wire)
        gone[0].left = True
        wire.connections.sweep()
        wire.settle()
        assert [each.lost for each in gone] == [True, False, False]
        gone[1].left = True
        wire.pass_time(0.5)
        assert [each.lost for each in gone] == [True, True, False]
        assert [statuses(each) for each in (*gone, stays)] == [[], [], [503], [503]]
        late = another(wire)
        last = another(wire)
        late.left = True
        doors.open.set()
        wire.settle()
        assert (late.lost, statuses(late), statuses(last)) == (True, [], [200])
        assert len(wire.app.requests) == 2 and wire.connections.refused_requests == 2


def test_of_many_that_left_few_are_served_before_the_others_are_asked() -> None:
    doors = Doors()
    with Wire(App(doors.answer), requests_in_flight_max=1, queue_s=0.5) as wire:
        wire.feed(SLOW)
        waiting = [another(wire) for _ in range(30)]
        for each in waiting[:-1]:
            each.left = True
        doors.open.set()
        wire.settle()
        served = [bool(statuses(each)) for each in waiting]
        assert served[-1]
        assert sum(served) <= 1 + 8, "they were taken to stay"


def late(wire: Wire, request: bytes = GET, silent_s: float = 0.3) -> FakeTransport:
    """A further connection whose request has waited in the kernel, and has just been read."""
    wire.transport, wire.protocol = wire.connect()
    wire.transport.silent_s = silent_s
    view = wire.protocol.get_buffer(65536)
    view[: len(request)] = request
    wire.protocol.buffer_updated(len(request))
    return wire.transport


def test_request_read_late_by_a_worker_that_is_behind_waits_until_there_is_time() -> None:
    with Wire(queue_s=0.5) as wire:
        assert statuses(late(wire)) == [200]  # it is not behind
        wire.lag(0.05, cpu_s=1e-3)
        assert wire.connections.pressed
        assert statuses(late(wire, silent_s=0.2)) == [200]
        upload = late(wire, WRITE)
        wire.settle()
        assert statuses(upload) == [200]  # below the limits uploads only wait for each other
        waiting = late(wire)
        assert (statuses(waiting), waiting.reading, len(wire.app.requests)) == ([], False, 3)
        wire.lag(0.0)
        assert wire.connections.behind  # somebody waits
        wire.settle()
        assert (statuses(waiting), waiting.reading) == ([200], True)
        wire.lag(0.0)
        assert not wire.connections.pressed
        assert statuses(late(wire)) == [200]


def test_worker_is_found_behind_by_the_first_request_after_a_long_one() -> None:
    def answer(request: Request) -> Response:
        wire.now_s += 0.2
        wire.cpu_s += 0.2
        return Response(200)

    with Wire(App(answer)) as wire:
        wire.connections.start()
        first, second = late(wire), late(wire)
        assert (statuses(first), statuses(second)) == ([200], [200])
        assert statuses(late(wire)) == []
        wire.connections.stop()


def test_short_requests_are_begun_however_late() -> None:
    with Wire(queue_s=0.5) as wire:
        for _ in range(20):
            wire.feed(GET)
        wire.lag(1.0, cpu_s=1e-3)
        assert statuses(late(wire, silent_s=3.0)) == [200]


def test_worker_that_stays_behind_refuses_soon() -> None:
    with Wire(queue_s=0.5, queue_overload_s=0.1) as wire:
        wire.lag(0.05, cpu_s=1e-3)
        first = late(wire)
        for _ in range(8):  # the loop does nothing else meanwhile
            assert statuses(first) == []
            wire.now_s += 0.0625
            wire.connections.look_at_line()
        assert statuses(first) == [503]
        second = late(wire)
        assert statuses(late(wire, silent_s=0.04)) == [200]
        wire.connections.look_at_line()
        assert statuses(second) == [503]  # what it waited before it was read counts now
        assert wire.connections.refused_requests == 2


def test_pause_of_the_whole_worker_is_no_waiting() -> None:
    with Wire(queue_s=0.5) as wire:
        wire.lag(0.05, cpu_s=1e-3)
        waiting = late(wire, silent_s=3.0)
        wire.now_s += 3
        wire.connections.look_at_line()
        assert statuses(waiting) == []
        wire.settle()
        assert statuses(waiting) == [200]


def test_no_more_bodies_are_taken_than_have_large_blocks_unless_the_processor_has_time() -> None:
    doors = Doors()
    held = b"PUT /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nx"
    with Wire(App(doors.answer)) as wire:
        first = [another(wire, request=held) for _ in range(ROOMY)]
        assert len(wire.app.requests) == ROOMY
        more = [another(wire) for _ in range(ROOMY)]
        assert statuses(another(wire, request=GET)) == [200]
        assert len(wire.app.requests) == ROOMY + 1
        for lag_s, cpu in ((0.0, 0.1), (0.01, 0.1), *[(0.0, 0.1)] * 4, (0.0, 1.3), *[(0.0, 0.1)] * 4):
            wire.connections.note_ease(lag_s, cpu)
        wire.settle()
        assert [statuses(each) for each in more] == [[]] * ROOMY
        wire.connections.note_ease(0.0, 0.1)
        wire.settle()
        assert [statuses(each) for each in more] == [[200]] * ROOMY
        doors.open.set()
        wire.settle()
        assert [statuses(each) for each in first] == [[200]] * ROOMY


def test_large_bodies_on_their_way_hold_back_others_unless_they_come_slowly() -> None:
    length = 2 * AWAITED_BYTES
    begun = b"PUT /w HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % length
    with Wire() as wire:
        *first, more = connections = [wire.connect() for _ in range(ROOMY + 1)]

        def feed(connection: tuple[FakeTransport, HttpProtocol], count: int, head: bytes = b"") -> None:
            wire.transport, wire.protocol = connection
            wire.feed(head + bytes(count))

        for each in connections:
            feed(each, 1000, begun)
        assert (len(wire.app.requests), wire.connections.blocks.busy) == (ROOMY, ROOMY)
        for each in first[1:]:
            feed(each, length // 4)
        wire.now_s += 0.01
        wire.connections.look_at_line()
        wire.settle()
        assert len(wire.app.requests) == ROOMY  # all of them hold back the last
        wire.pass_time(0.04)
        assert len(wire.app.requests) == ROOMY + 1  # one is slow
        feed(more, length - 1000)
        feed(first[0], length - 1000)
        for each in first[1:]:
            feed(each, length - 1000 - length // 4)
        assert [statuses(transport) for transport, _ in connections] == [[200]] * (ROOMY + 1)
        assert not wire.connections.blocks.awaited


HALF = b"PUT /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nx"


def test_uploads_below_the_limits_wait_for_each_other_in_order_and_are_not_refused() -> None:
    """Many that each wait for an answer before they ask again, as any client does, are no overload."""
    doors = Doors()
    with Wire(App(doors.answer), queue_s=0.5, queue_overload_s=0.1) as wire:
        for _ in range(ROOMY):
            another(wire, request=HALF)
        waiting = [another(wire) for _ in range(ROOMY)]
        wire.pass_time(3.0)
        assert [statuses(each) for each in waiting] == [[]] * ROOMY
        assert wire.connections.refused_requests == 0
        begun = len(wire.app.requests)
        wire.connections._bodies_max += 1
        wire.connections._fewer_bodies()
        wire.settle()
        answered = [bool(statuses(each)) for each in waiting]
        assert answered == sorted(answered, reverse=True) and len(wire.app.requests) > begun, (
            "the first to come is the first to begin"
        )
        doors.open.set()
        wire.settle()
        assert [statuses(each) for each in waiting] == [[200]] * ROOMY


def test_uploads_below_the_limits_are_refused_once_others_leave() -> None:
    with Wire(App(Doors().answer), queue_s=0.5, queue_overload_s=0.1) as wire:
        for _ in range(ROOMY):
            another(wire, request=HALF)
        waiting = [another(wire) for _ in range(16)]
        wire.pass_time(0.3)
        for each in waiting[:4]:
            each.left = True
        wire.connections.sweep()
        wire.pass_time(0.3)
        assert [statuses(each) for each in waiting[4:]] == [[503]] * 12


def test_no_upload_waits_for_ever() -> None:
    with Wire(App(Doors().answer), queue_s=0.5) as wire:
        for _ in range(ROOMY):
            another(wire, request=HALF)
        last = another(wire)
        wire.pass_time(9.0)
        assert statuses(last) == []
        wire.pass_time(2.0)
        assert statuses(last) == [503]


def test_no_address_takes_all_turns() -> None:
    with Wire(App(Doors().answer), requests_in_flight_max=4, peer_fraction_max=0.5) as wire:
        wire.feed(SLOW)
        another(wire, request=SLOW)
        greedy = another(wire, request=SLOW)
        other = another(wire, peer="192.0.2.9")
        assert (statuses(greedy), statuses(other)) == ([], [200])
        assert len(wire.app.requests) == 3


def test_connection_above_the_limit_takes_the_place_of_an_idle_one() -> None:
    with Wire(connections_max=2, peer_fraction_max=1.0) as wire:
        idle = wire.transport
        begun = another(wire, request=b"GET / HT")  # a head that does not end is no use either, but newer
        wire.pass_time(0.5)
        busy = another(wire)
        assert busy.out == b""  # so short a time is none: a request may be on its way
        busy.close()
        wire.pass_time(0.5)
        late = another(wire)
        assert (statuses(late), idle.lost, begun.lost) == ([200], True, False)
        assert len(wire.connections) == 2


def test_connection_above_the_limit_waits_for_a_place_and_is_told_503_and_closed() -> None:
    doors = Doors()
    with Wire(App(doors.answer), connections_max=1, connections_refused_max=1, queue_s=0.5) as wire:
        wire.feed(SLOW)
        first = wire.transport
        second = another(wire)
        assert second.out == b""
        another(wire)  # above both limits
        assert statuses(wire.transport) == [503]
        wire.transport.close()
        wire.transport = second
        wire.pass_time(0.6)
        assert [(status, headers[b"connection"]) for status, headers, _ in wire.replies()] == [(503, b"close")]
        second.close()
        wire.settle()
        third = another(wire)
        first.close()
        wire.settle()
        assert statuses(third) == [200]
        assert len(wire.connections) == 1


def test_who_was_answered_and_had_a_place_for_a_while_gives_it_to_who_waits_for_one() -> None:
    doors = Doors()
    with Wire(App(doors.answer), connections_max=1, queue_s=0.5) as wire:
        wire.feed(SLOW)
        first, waiting = wire.transport, wire.connect()
        protocol = wire.protocol
        wire.transport, wire.protocol = waiting
        wire.feed(GET)
        wire.pass_time(0.1)
        assert statuses(wire.transport) == []
        doors.open.set()
        wire.settle()
        assert (statuses(first), statuses(wire.transport)) == ([200], [200])
        second = wire.transport
        wire.transport, wire.protocol = first, protocol
        wire.feed(GET)
        assert statuses(first) == [200]  # it has none now, and the other has just got one
        wire.transport, wire.protocol = waiting
        wire.feed(GET)
        assert statuses(first) == [200]
        wire.pass_time(0.1)
        wire.feed(GET)
        assert (statuses(first), statuses(second)) == ([200, 200], [200, 200, 200])
        assert wire.connections.refused_requests == 0


def test_address_with_all_places_it_may_have_gives_up_one_of_its_own() -> None:
    with Wire(connections_max=4, peer_fraction_max=0.5) as wire:
        first = wire.transport
        other, _ = wire.connect(peer="192.0.2.9")
        another(wire)
        wire.pass_time(1)
        last = another(wire)
        assert (first.lost, other.lost, statuses(last)) == (True, False, [200])


def test_line_serves_addresses_in_turns_and_the_newest_first_when_the_oldest_may_have_given_up() -> None:
    line: Line[str] = Line(1.0, 1.0, 0.5)
    for number, name in enumerate(("a1", "a2", "a3", "b1", "b2")):
        line.join(name[0], name, number / 100)

    def anybody(peer: str) -> bool:
        return True

    assert [line.next(anybody, 0.1) for _ in range(3)] == ["a1", "b1", "a2"]
    line.join("a", "a4", 0.8)
    assert line.next(lambda peer: peer == "a", 0.9) == "a4"
    assert [*line.impatient(1.03)] == ["a3"]
    assert [*line.impatient(1.05)] == ["b2"]
    assert line.next(anybody, 2.0) is None and len(line) == 0


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
        wire.pass_time(30)  # nor does what it still owes arrive
        assert wire.transport.lost
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


def test_address_that_floods_makes_room_for_another_at_once() -> None:
    with Wire(connections_max=20, connections_refused_max=4, peer_fraction_max=1.0) as wire:
        flood = [wire.transport, *(wire.connect()[0] for _ in range(21))]
        other = another(wire, peer="192.0.2.9", request=GET)
        assert statuses(other) == [200]
        assert statuses(another(wire, request=GET)) == []  # one more of the flood's address
        assert [each.lost for each in flood[:2]] == [True, False]
        crowd = [wire.connect()[0] for _ in range(4)]
        assert statuses(crowd[-1]) == [503]  # the line is full too


def test_slow_bodies_begin_by_the_hundred() -> None:
    begun = b"PUT /w HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nx"
    with Wire() as wire:
        connections = [wire.connect() for _ in range(8 * ROOMY)]
        for _, protocol in connections:  # all at once: the loop has no turn meanwhile
            view = protocol.get_buffer(65536)
            view[: len(begun)] = begun
            protocol.buffer_updated(len(begun))
        assert len(wire.app.requests) == ROOMY
        wire.settle()
        wire.settle()
        assert len(wire.app.requests) == 8 * ROOMY and not wire.connections.pressed
