"""The connections of one worker: how many, whose turn it is, their clock, their common buffers; listening and draining.

Promise: one periodic sweep keeps every time limit of every connection; who comes above a limit, or was read late because the
worker is behind, waits in line, and is answered 503 if that takes too long, never left in silence; refusing takes no more than its
part of the worker's time; no address takes all there is; idle connections make room for new ones; after `drain` no connection and
no handler is left.
**Owns** the set of connections, who holds a place or a turn, the lines, whether the worker is behind, the timers, the receive
blocks, the head parser and renderer, the listening socket. **Does not know** what a request means.
Kind: owner and shell, on the loop's thread. Spec: none.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

from gateway.http import processor, tcp
from gateway.http.flow import ROOMY, Block, Blocks
from gateway.http.head import HeadParser
from gateway.http.limits import Limits
from gateway.http.line import Line
from gateway.http.render import HeadRenderer

SMALL_SPANS_BYTES: Final = 32 << 10
"""`FileSpans` up to this are read and sent with their head in one write. Against MSG_MORE and sendfile (which also need
a second descriptor) that saved about 8 us of 31 at 4 KiB, 5 at 16 KiB, 3 at 32 KiB and nothing at 64 KiB: the best of
three interleaved runs of bench/micro/http_core.py."""
_HEAD_BYTES_MAX: Final = 64 << 10
"""Room for a response head in the scratch block."""
SPARE_S: Final = 1.0
"""A connection that has done nothing for so long may be closed when others need its place. Under load, clients leave theirs
idle for milliseconds: closing such a one would lose the request that is on its way."""
FAR_MORE: Final = 8
"""An address with so many times the places of another, and more, is flooding us, or can spare some."""
_LINE_S: Final = 0.02
"""How often it is looked whether somebody has waited in line for too long."""
_LAG_S: Final = 0.05
"""How often it is looked whether the worker is behind."""
_BEHIND_S: Final = 0.02
"""A worker that comes so late to that is. By itself that refuses nothing: requests are then asked for how long they have waited."""
_AT_EASE_S: Final = 0.001
_AT_EASE_TIMES: Final = 5
"""One that comes no later than that so many times on end waits for something else than its processor, and may take more bodies.
Once says little: whoever has much to do in each turn also comes in time now and then."""
_AT_EASE_CPU: Final = 0.9
"""Nor does its process use so much of a processor: what it hashes and writes beside the loop does not make the loop late."""
_BODIES_MORE: Final = ROOMY // 4
_WORTH_S: Final = 200e-6
"""Requests that cost so much of the processor's time, or more, are refused for a fifth of it and less. Shorter ones are always
begun: letting them wait and refusing them would cost as much, and as many as there may be connections do not take long."""
_ADMITTING_S: Final = 0.01
"""Given to those in line whose turn has come before others have theirs on the loop."""
_CATCH_UP_S: Final = 0.01
"""Given to those in line who were late, each time everybody else has had their turn on the loop."""
_REFUSAL_S: Final = 60e-6
"""A refusal is taken to cost this, besides the answer that is timed: reading the head, the line, what the loop and the kernel do.
What is read away of a body takes one second for each _DISCARDED_BYTES."""
_DISCARDED_BYTES: Final = 2 << 30
_RECONNECT_S: Final = 100e-6
"""Who is refused a place comes back with a new connection, which costs as much."""
_STAY: Final = 8
"""Unless one in so many of those who waited for a turn lately has left, they are taken to be patient."""
_PATIENT_S: Final = 10.0
"""How long those wait at most: clients give up after some tens of seconds."""
_LATELY: Final = 0.97
"""What counts lately is so much less with each look at the line: half after half a second."""
_REFUSALS_AHEAD_S: Final = 0.1
"""The time for so many seconds' refusals may be used at once."""
_YIELD_S: Final = 0.05
"""Who has had a place for so long, and was just answered, makes it free for one in line."""
_PAUSE_S: Final = 0.1
"""When the worker does not run at all for longer, the rest does not count as waiting in line: nobody had the chance to be served."""
PLACE, TURN, LATE = range(3)
"""What is waited for: a place; a turn; that a worker that is behind has time."""
_IN_VAIN_MAX: Final = 32
"""Addresses for which all connections are looked at in vain between two sweeps."""
_ROOM_PART: Final = 16
"""When all places are taken, up to one in so many is made free by one look at all connections."""


class Connection(Protocol):
    """What the owner asks of a connection. `unused`: it has not had a whole request yet."""

    unused: bool

    def sweep(self, now_s: float, elapsed_s: float) -> None:
        """Applies the time limits."""

    def begin_drain(self) -> None:
        """Closes now if idle, else after the request under way."""

    def abort(self) -> None:
        """Ends at once; a running handler is cancelled."""

    def peer_address(self) -> str: ...

    def spare_since_s(self) -> float | None:
        """Since when it does nothing for anybody, so that it may be closed at once; None while it does."""

    def begin(self, look: bool) -> bool:
        """Its turn has come: goes on with the request it waits with. `look`: unless it has left meanwhile, which returns False."""

    def turn_away(self) -> int | None:
        """It has waited long enough: answers that request 503. Returns how many bytes of a body will be read away for it; None when
        there was nobody to be answered."""


class Connections:
    """State shared by the connections of a worker. `clock_s` is monotonic, `wall_s` is Unix time, `cpu_s` what this
    thread has used, `process_s` all of its process, `starved_s` how long this one wanted to run and could not; the others are
    `gateway.http.tcp`'s."""

    def __init__(
        self,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        clock_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
        silent_s: Callable[[asyncio.BaseTransport], float] = tcp.silent_s,
        has_left: Callable[[asyncio.BaseTransport], bool] = tcp.has_left,
        cpu_s: Callable[[], float] = time.thread_time,
        process_s: Callable[[], float] = time.process_time,
        starved_s: Callable[[], float] = processor.starved_s,
    ) -> None:
        if limits.receive_buffer_bytes < 2 * limits.head_bytes_max:
            raise ValueError("receive_buffer_bytes must be at least twice head_bytes_max")
        self.limits = limits
        self.loop = loop
        self.clock_s = clock_s
        self.silent_s = silent_s
        self.has_left = has_left
        self.now_s = clock_s()  # as of the last sweep: good enough for limits in seconds, and free
        self.in_flight = 0
        self.begun = 0  # requests, ever
        self.draining = False
        self.refused_requests = 0
        self.cut_slow = 0
        self.blocks = Blocks(
            limits.receive_buffer_bytes, limits.receive_buffers_free_max, limits.receive_buffer_small_bytes, clock_s
        )
        self.blocks.on_less = self._fewer_bodies
        self.parser = HeadParser(limits.header_count_max)
        self.renderer = HeadRenderer(wall_s())
        self.scratch = Block(_HEAD_BYTES_MAX + SMALL_SPANS_BYTES)
        self._wall_s = wall_s
        self._open: dict[Connection, None] = {}  # in the order they came
        self.pressed = False  # some requests may have to wait
        self.places_wanted = False  # or was: see `yield_place`
        self.behind = False  # the loop takes long from one turn to the next, or did, and some still wait for that
        self._lags = False  # the former alone
        self.lag_alarm_s = float("inf")  # if it is later than this, `note_lag` wants to know
        self._bodies_max = ROOMY  # of `Blocks.busy`
        self._at_ease = 0  # times on end
        self._places = 0  # taken, of connections_max
        self._held = 0  # requests with a body, of requests_in_flight_max
        self._held_by: Counter[str] = Counter()
        self._placed_by: Counter[str] = Counter()
        self._over_by: Counter[str] = Counter()
        self._peer_places_max = max(1, int(limits.connections_max * limits.peer_fraction_max))
        self._peer_held_max = max(1, int(limits.requests_in_flight_max * limits.peer_fraction_max))
        self._full_peers: set[str] = set()  # hold all they may of requests
        # Served in order as long as all can be served in time: to refuse one costs as much as to serve it, or nearly.
        self._for_place: Line[Connection] = Line(limits.queue_s, limits.queue_s, 1.0)
        self._for_turn: Line[Connection] = Line(limits.queue_s, limits.queue_s, 1.0)
        self._late: Line[Connection] = Line(limits.queue_s, limits.queue_overload_s, 0.5)
        self._lines = (self._for_place, self._for_turn, self._late)  # by PLACE, TURN, LATE
        self._refusals_s = limits.refusal_fraction_max * _REFUSALS_AHEAD_S  # left for refusing those in line,
        self._at_once_s = self._refusals_s  # and newcomers
        self._refusals_seen_s = self._line_seen_s = self.now_s
        self._starved_s = starved_s
        self._starved_seen_s = starved_s()
        self._line_s = 0.0  # time as the lines count it
        self._came = self._left = 0.0  # for a turn, lately
        self._unasked = 0  # turns since it was last looked whether one has left
        self._admitting = False
        self._admitted_s = 0.0  # when it was last looked who may begin
        self._ending: set[Connection] = set()  # closed to make room, and not gone yet
        self._in_vain: set[str] = set()  # addresses for which no room was found since the last sweep
        self._line_timer: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lag_timer: asyncio.TimerHandle | None = None
        self._lag_due_s = 0.0
        self._cpu_s = cpu_s
        self._cpu_seen_s = cpu_s()
        self._process_s = process_s
        self._process_seen_s = process_s()
        self._begun_seen = 0
        self._empty: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def start(self) -> None:
        """Starts the sweep. Idempotent."""
        if self._timer is None:
            self._timer = self.loop.call_later(self.limits.sweep_s, self._tick)
            self._expect_lag()

    def stop(self) -> None:
        for timer in (self._timer, self._line_timer, self._lag_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._line_timer = self._lag_timer = None

    # places: who may have a connection at all

    def add(self, connection: Connection) -> bool:
        """Counts a connection in. False when there is no place for it: its first request waits, or is refused."""
        peer = connection.peer_address()
        if not self._may_have_place(peer):
            self._make_room(peer)
        self._open[connection] = None
        placed = self._take_place(peer)
        if not placed:
            self._over_by[peer] += 1
        return placed

    def is_crowded(self, peer: str) -> bool:
        """Whether even the line is full, and its end is not for an address of which few wait."""
        over = len(self._open) - self._places
        room = self.limits.connections_refused_max
        return over > room and (over > 2 * room or self._over_by[peer] > room // FAR_MORE)

    def _take_place(self, peer: str) -> bool:
        if not self._may_have_place(peer):
            return False
        self._places += 1
        self._placed_by[peer] += 1
        return True

    def yield_place(self, peer: str, since_s: float) -> bool:
        """Whether a connection that has just been answered, and has had a place since then, gives it to one in line. Its next
        request waits for another: so all are served in turn, where those without a place would be refused, or leave."""
        self.places_wanted = bool(self._for_place)
        free = min(self.limits.connections_max - self._places, self._peer_places_max - self._placed_by[peer])
        if free >= len(self._for_place) or self.clock_s() - since_s < _YIELD_S:
            return False
        self._places -= 1
        _less(self._placed_by, peer)
        self._over_by[peer] += 1
        self._admit_soon()
        return True

    def _may_have_place(self, peer: str) -> bool:
        return self._places < self.limits.connections_max and self._placed_by[peer] < self._peer_places_max

    def discard(self, connection: Connection, placed: bool) -> None:
        """Counts a connection out: it is closed and its handler has ended. `placed`: it had a place."""
        self._open.pop(connection, None)
        self._ending.discard(connection)
        peer = connection.peer_address()
        if placed:
            self._places -= 1
            _less(self._placed_by, peer)
            self._admit_soon()
        else:
            _less(self._over_by, peer)
        if not self._open and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    def _make_room(self, peer: str) -> None:
        """Closes connections that are of no use to anybody now: of the address that has most of them, or of `peer` where that
        has all it may have; the oldest first. Of an address with many times more places than `peer`, also those that have
        just come and have not asked for anything yet.

        One look at all of them is for many places, and is not repeated before they are free, or before the next sweep when it
        was in vain.
        """
        now_s = self.clock_s()
        if self._ending or peer in self._in_vain or len(self._in_vain) >= _IN_VAIN_MAX:
            return
        own = self._places < self.limits.connections_max
        few = 0 if own else self._placed_by[peer] * FAR_MORE + FAR_MORE
        spare: dict[str, list[tuple[float, int, Connection]]] = {}
        for number, connection in enumerate(self._open):
            since_s = connection.spare_since_s()
            address = connection.peer_address()
            if since_s is None or (own and address != peer):
                continue
            if now_s - since_s >= SPARE_S or (few and connection.unused and self._placed_by[address] > few):
                spare.setdefault(address, []).append((since_s, number, connection))
        if not spare:
            self._in_vain.add(peer)
            return
        most = max(spare.values(), key=len)
        count = max(1, self.limits.connections_max // _ROOM_PART)
        self._ending = {connection for _, _, connection in sorted(most)[:count]}
        for connection in self._ending:
            connection.abort()

    # turns: who may have a request under way

    def hold(self, peer: str) -> None:
        """Counts a request in that has a body and was not answered at once."""
        self._held += 1
        self._held_by[peer] += 1
        if self._held_by[peer] >= self._peer_held_max:
            self._full_peers.add(peer)
        self._press()

    def let_go(self, peer: str) -> None:
        """Counts it out."""
        self._held -= 1
        if _less(self._held_by, peer) < self._peer_held_max:
            self._full_peers.discard(peer)
        if self.pressed:
            self._press()
            self._admit_soon()

    def _fewer_bodies(self) -> None:
        """Slow senders that begin give their blocks back at once: who waits for a turn need not wait for the next look."""
        if self.pressed:
            self._press()
            self._admit_soon()

    def _press(self) -> None:
        full = bool(self._full_peers) or self._held >= self.limits.requests_in_flight_max
        self.pressed = full or self.behind or self.blocks.busy >= self._bodies_max or bool(self._for_turn)

    def may_begin(self, peer: str) -> bool:
        """Whether a request with a body that has just come from there may begin. True unless `pressed`.

        Who comes just when there is room need not stand in line, which costs time, as long as nobody has been in it for long.
        """
        if not self._has_room(peer):
            return False
        line = self._for_turn
        return not line or line.waited_s(peer, self._line_time_s()) < self.limits.queue_s / 2

    def _has_room(self, peer: str) -> bool:
        """Whether one more request with a body may be under way from there.

        No more bodies are taken at once than get large blocks, unless the processor has time left: of many each would take so long
        that all are late, and cost more. Bodies of slow senders, which hold no block, do not count for that, nor do those that were
        taken whole.
        """
        if self.blocks.busy >= self._bodies_max or self._held >= self.limits.requests_in_flight_max:
            return False
        return peer not in self._full_peers

    def is_late(self, waited_s: float) -> bool:
        """Whether a request that has waited so long to be read must wait further, since the worker is behind."""
        return self.behind and waited_s > self._late.patience_s(self._line_time_s()) / 2

    def _line_time_s(self) -> float:
        now_s = self.clock_s()
        passed_s, self._line_seen_s = now_s - self._line_seen_s, now_s
        self._line_s += min(passed_s, _PAUSE_S) if self._waits() else passed_s
        return self._line_s

    def wait(self, connection: Connection, what: int, waited_s: float, body_bytes: int) -> bool:
        """Puts a connection into the line: for PLACE, TURN, or LATE. It has `waited_s` for it already. False when it is to be refused
        at once, with a body of `body_bytes`: its turn would come too late, and there is time for that."""
        line, now_s = self._lines[what], self._line_time_s()
        peer = connection.peer_address()
        if self._comes_too_late(line, peer, now_s):
            self._at_once_s -= self._count_refusal(line, body_bytes)
            return False
        line.join(peer, connection, now_s, waited_s)
        self.places_wanted |= what == PLACE
        self.pressed |= what == TURN
        if what == TURN:
            self._came += 1
        if self._line_timer is None:
            self._line_timer = self.loop.call_later(_LINE_S, self._line_tick)
        self._admit_soon()
        return True

    def _comes_too_late(self, line: Line[Connection], peer: str, now_s: float) -> bool:
        """Whether a newcomer would wait too long behind the others of its address, and there is time to say so."""
        if self._at_once_s <= 0 or line.waited_s(peer, now_s) <= line.patience_s(now_s) / 2:
            return False
        return line is not self._for_turn or not self.all_stay()

    def _count_refusal(self, line: Line[Connection], body_bytes: int) -> float:
        """Returns what it takes besides what is timed."""
        self.refused_requests += 1
        return _REFUSAL_S + body_bytes / _DISCARDED_BYTES + (_RECONNECT_S if line is self._for_place else 0.0)

    def stop_waiting(self, connection: Connection, what: int) -> None:
        """The connection is gone."""
        self._lines[what].leave(connection.peer_address(), connection)
        if what == TURN:
            self._left += 1

    def all_stay(self) -> bool:
        """Whether who waits for a turn may wait on, first come, first served: the limits are kept, those in line counted, and they
        stay. Many clients that wait for each other's uploads are no overload; of one, they say so by leaving."""
        waiting = self._held + len(self._for_turn)
        return not self._full_peers and waiting <= self.limits.requests_in_flight_max and self._stay()

    def _stay(self) -> bool:
        """Whether hardly anybody has left lately who waited for a turn."""
        return self._left * _STAY <= self._came

    def _asks_next(self) -> bool:
        """Whether it is looked if the next whose turn has come has left. That costs as much as all else of the line: as long as they
        stay, one in so many speaks for all."""
        self._unasked = 0 if self._unasked >= _STAY or not self._stay() else self._unasked + 1
        return not self._unasked

    @property
    def waiting(self) -> int:
        """How many are in line."""
        return len(self._for_turn) + len(self._for_place) + len(self._late)

    def _waits(self) -> bool:
        return bool(self._for_turn or self._for_place or self._late)

    def _admit_soon(self) -> None:
        if not self._admitting and self._waits():
            self._admitting = True
            self.loop.call_soon(self._admit)

    def _admit(self) -> None:
        """Lets in line as many begin as there is room for, but only for a while before others have their turn on the loop."""
        self._admitting = False
        now_s = self._line_time_s()
        if self._late:
            self._catch_up(now_s)
        self._admitted_s = now_s
        stop_s = self.clock_s() + _ADMITTING_S
        while self.clock_s() <= stop_s:
            connection = self._for_place.next(self._may_have_place, now_s)
            look = connection is not None
            if connection is not None:
                self._take_place(connection.peer_address())
                _less(self._over_by, connection.peer_address())
            else:
                connection = self._for_turn.next(self._has_room, now_s, self.all_stay())
            if connection is None:
                self._press()
                return
            if not connection.begin(look or self._asks_next()):
                self._left += _STAY if self._stay() else 1
        self._admit_soon()

    def _catch_up(self, now_s: float) -> None:
        """Begins with those who are late: one, or for a while when the loop has time. Called in every turn while there is one."""
        stop_s = self.clock_s()
        if now_s - self._admitted_s < self._late.patience_s(now_s) / 2:
            stop_s += _CATCH_UP_S
        while (connection := self._late.next(_anybody, now_s)) is not None:
            connection.begin(True)
            if self.clock_s() >= stop_s:
                break
        if self._late:
            self._admit_soon()

    def _line_tick(self) -> None:
        self.look_at_line()
        self._line_timer = self.loop.call_later(_LINE_S, self._line_tick) if self._waits() else None

    def look_at_line(self) -> None:
        """Turns away who has waited for too long, as many as there is time for; called every _LINE_S while anybody waits."""
        now_s, starved_s = self.clock_s(), self._starved_s()
        # On a busy machine a worker has less time than passes.
        passed_s = max(0.0, now_s - self._refusals_seen_s - (starved_s - self._starved_seen_s))
        self._refusals_seen_s, self._starved_seen_s = now_s, starved_s
        self._share_out(passed_s)
        line_time_s = self._line_time_s()
        self.blocks.judge()
        self._came *= _LATELY
        self._left *= _LATELY
        for line in self._lines:
            if self._refusals_s > 0:
                patient = line is self._for_turn and self.all_stay()
                self._turn_away(line, line_time_s, _PATIENT_S if patient else 0.0)
        self._admit_soon()

    def _share_out(self, passed_s: float) -> None:
        """Of the time there is for refusals half is for newcomers, who hear at once, and half for those in line, who have waited; what
        the ones do not need is for the others."""
        earned_s = self.limits.refusal_fraction_max * passed_s
        most_s = self.limits.refusal_fraction_max * _REFUSALS_AHEAD_S
        at_once_s, refusals_s = self._at_once_s + earned_s / 2, self._refusals_s + earned_s / 2
        self._at_once_s = min(most_s, at_once_s + max(0.0, refusals_s - most_s))
        self._refusals_s = min(most_s, refusals_s + max(0.0, at_once_s - most_s))

    def _turn_away(self, line: Line[Connection], now_s: float, least_s: float) -> None:
        begin_s = self._cpu_s()
        for connection in line.impatient(now_s, least_s):
            discarded = connection.turn_away()
            if discarded is None:
                self._left += line is self._for_turn
                continue
            end_s = self._cpu_s()
            self._refusals_s -= end_s - begin_s + self._count_refusal(line, discarded)
            begin_s = end_s
            if self._refusals_s <= 0:
                return

    # whether the worker is behind

    def _expect_lag(self) -> None:
        self._lag_due_s = self.clock_s() + _LAG_S
        self.lag_alarm_s = self._lag_due_s + _BEHIND_S
        self._lag_timer = self.loop.call_later(_LAG_S, self._lag_tick)

    def _lag_tick(self) -> None:
        now_s = self.clock_s()
        self.note_lag(now_s)
        lag_s, process_s = now_s - self._lag_due_s, self._process_s()
        self.note_ease(lag_s, (process_s - self._process_seen_s) / (_LAG_S + lag_s))
        self._process_seen_s = process_s
        self._expect_lag()

    def note_lag(self, now_s: float) -> None:
        """Judges whether the worker is behind: called when that is due, and by the first request that comes when it is overdue."""
        cpu_s, begun = self._cpu_s(), self.begun
        costly = cpu_s - self._cpu_seen_s >= _WORTH_S * max(1, begun - self._begun_seen)
        self._cpu_seen_s, self._begun_seen = cpu_s, begun
        self.lag_alarm_s = float("inf")
        self._lags = now_s - self._lag_due_s >= _BEHIND_S
        self.behind = bool(self._late) or (costly and self._lags)
        self._press()

    def note_ease(self, lag_s: float, cpu: float) -> None:
        """The loop came so late to what was due, and the process used so many processors meanwhile: lets more bodies wait for something
        else at once, if that is what they do."""
        self._at_ease = self._at_ease + 1 if lag_s < _AT_EASE_S and cpu < _AT_EASE_CPU else 0
        if not self._for_turn:
            self._bodies_max = ROOMY
        elif self._at_ease >= _AT_EASE_TIMES:
            self._at_ease = 0
            self._bodies_max += _BODIES_MORE
            self._press()
            self._admit_soon()

    def new_scratch(self) -> None:
        """The transport kept the scratch block: makes another."""
        self.scratch = Block(len(self.scratch.data))

    def sweep(self) -> None:
        """One check of every connection's time limits."""
        now_s = self.clock_s()
        elapsed_s, self.now_s = now_s - self.now_s, now_s
        self._in_vain.clear()
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


def _anybody(peer: str) -> bool:
    return True


def _less(counts: Counter[str], name: str) -> int:
    """One less of `name`; keeps no zeros, since addresses are as many as there are clients."""
    counts[name] -= 1
    left = counts[name]
    if not left:
        del counts[name]
    return left


class Listener:
    """One listening socket and its connections. `lent`: the socket, where another process has it too."""

    def __init__(self, server: asyncio.Server, connections: Connections, lent: socket.socket | None) -> None:
        self.connections = connections
        self._lent = lent
        sockets: Sequence[socket.socket] = cast(Any, server).sockets  # asyncio's are a tuple, uvloop's a list
        self.port: int = sockets[0].getsockname()[1]
        self._server = server

    def stop_accepting(self) -> None:
        """New connections are refused by the kernel from now on. Idempotent."""
        if self._lent is not None:
            tcp.quiet(self._lent)
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
        tcp.prepare_listening(sock)
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
    return Listener(server, connections, sock)
