"""`python -m bench.micro.overload`: what one worker's line makes of an overload, in virtual time.

The real connections, line and protocol over transports of its own; the clock moves by what each step is taken to cost (the table
below, measured in the HTTP layer, compiled), never by itself. So it says the same on any machine, however busy, of a worker that has a
core to itself or `--share` of one. Clients are the loader's of `bench.overload`: an open loop at a multiple of the peak, who leave when
their patience is over and come back with new connections. What it cannot say: what caches, the disk and the loader make of it.

Owns its world. Does not know S3. Kind: shell. Spec: bench/README.md, "Overload".
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import random
import selectors
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.http.connections import Connections
from gateway.http.limits import Limits
from gateway.http.protocol import HttpProtocol
from s3api.message import Request, Response

READ_S: Final = 9e-6  # an event and its recv
READ_BYTES_PER_S: Final = 9e9
WRITE_S: Final = 14e-6
POLL_S: Final = 1.5e-6  # reading is paused or resumed
ACCEPT_S: Final = 35e-6
CLOSE_S: Final = 15e-6
LOOK_S: Final = 3e-6  # at what the kernel knows of a connection
WINDOW_BYTES: Final = 128 << 10
"""Whose body has more to come than this when it is refused stops sending, and comes back with a new connection."""
READS_MAX: Final = 32  # of one connection in one event, as libuv does
PEAK_S: Final = 0.5


@dataclass(frozen=True)
class Case:
    """`work_s`: of the handler. `connections`: at the peak and at the overload."""

    name: str
    size: int
    work_s: float
    connections: tuple[int, int]
    limits: Mapping[str, Any] = field(default_factory=dict)


CASES: Final = (
    Case("4 KiB reads", 0, 20e-6, (64, 2000)),
    Case("4 KiB reads, 256 places", 0, 20e-6, (64, 1000), {"connections_max": 256}),
    Case("256 KiB writes", 256 << 10, 90e-6, (16, 1000)),
    Case("256 KiB writes, 64 in flight", 256 << 10, 90e-6, (16, 512), {"requests_in_flight_max": 64}),
    Case("the same, 4,000 clients", 256 << 10, 90e-6, (16, 4000), {"requests_in_flight_max": 64}),
    Case("2 MiB writes", 2 << 20, 250e-6, (4, 512)),
    Case("256 KiB durable writes", 256 << 10, 350e-6, (16, 1000)),
    Case("pages", 0, 3500e-6, (4, 1000)),
)


class _Selector(selectors.SelectSelector):
    """Waits for nothing: time is the world's."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, world: World) -> None:
        self._world = world
        super().__init__(_Selector())

    def time(self) -> float:
        return self._world.now_s


class _Transport:
    """A connection as the worker sees it, and what the kernel holds of it: `unread` bytes, the first of them `head`."""

    def __init__(self, world: World, client: _Client) -> None:
        self.world = world
        self.client = client
        self.protocol = HttpProtocol(world, world.connections.limits, world.connections)
        self.reading = True
        self.closing = False
        self.left = False
        self.head = b""
        self.unread = 0
        self.came_s = world.now_s

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.world.spend(POLL_S)

    def pause_reading(self) -> None:
        self.reading = False
        self.world.spend(POLL_S)

    def resume_reading(self) -> None:
        self.reading = True
        self.world.spend(POLL_S)

    def write(self, data: bytes) -> None:
        self.world.spend(WRITE_S)
        self.client.answered(self, bytes(data))

    def writelines(self, parts: Sequence[bytes]) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self.world.loop.call_soon(self._gone)

    abort = close

    def _gone(self) -> None:
        self.world.spend(CLOSE_S)
        self.world.open.pop(self, None)
        self.protocol.connection_lost(None)
        self.client.closed(self)

    def read(self) -> bool:
        """One event of the loop for it, if there is one."""
        if not self.reading or self.closing:
            return False
        if not self.unread:
            if self.left:
                self.world.spend(READ_S)
                self.protocol.eof_received()
                self.close()
            return self.left
        for _ in range(READS_MAX):
            if not self.unread or not self.reading or self.closing:
                break
            view = self.protocol.get_buffer(65536)
            count = min(len(view), self.unread)
            told = self.head[:count]
            view[: len(told)] = told
            self.head = self.head[len(told) :]
            self.unread -= count
            self.world.spend(READ_S + count / READ_BYTES_PER_S)
            full = count == len(view)
            self.protocol.buffer_updated(count)
            if not full:
                break
        return True


class _Client:
    def __init__(self, world: World) -> None:
        self._world = world
        self._transport: _Transport | None = None
        self._busy = False
        self._asked = 0
        self._sent_s = 0.0

    def connect(self) -> None:
        self._transport = None
        self._world.backlog.append(self)

    def accepted(self, transport: _Transport) -> None:
        self._transport = transport
        if self._busy:
            self._put(transport)

    def ask(self) -> None:
        world = self._world
        self._busy = True
        self._asked += 1
        self._sent_s = world.now_s
        heapq.heappush(world.patience, (self._sent_s + world.patience_s, id(self), self._asked, self))
        if self._transport is not None:
            self._put(self._transport)

    def _put(self, transport: _Transport) -> None:
        transport.head = self._world.head
        transport.unread = len(transport.head) + self._world.case.size
        transport.came_s = self._world.now_s

    def answered(self, transport: _Transport, data: bytes) -> None:
        if transport is not self._transport or not self._busy:
            return
        self._done(self._world.refused_s if data.startswith(b"HTTP/1.1 503") else self._world.good_s)
        if b"Connection: close" in data or transport.unread > WINDOW_BYTES:
            self._leave(transport)

    def give_up(self, asked: int) -> None:
        if self._busy and asked == self._asked:
            self._done(self._world.late_s)
            if self._transport is not None:
                self._leave(self._transport)

    def closed(self, transport: _Transport) -> None:
        if transport is self._transport:
            if self._busy:
                self._done(self._world.lost_s)
            self.connect()

    def _leave(self, transport: _Transport) -> None:
        transport.left = True
        self.connect()

    def _done(self, fate: list[float]) -> None:
        fate.append(self._world.now_s - self._sent_s)
        self._busy = False
        self._world.idle.append(self)


class World:
    """One worker and its clients; `rate` 0 is a closed loop."""

    def __init__(self, case: Case, clients: int, rate: float, patience_s: float, share: float) -> None:
        self.case = case
        self.patience_s = patience_s
        self.now_s = 1000.0
        self.cpu_s = 0.0
        self._rate = rate
        self._share = share
        self._starved_s = 0.0
        self._random = random.Random(1)
        length = b"Content-Length: %d\r\n" % case.size if case.size else b""
        method = b"PUT" if case.size else b"GET"
        self.head = b"%b /b/k HTTP/1.1\r\nHost: h\r\n%bX: %b\r\n\r\n" % (method, length, b"x" * 400)
        self.loop = _Loop(self)
        self.connections = Connections(
            Limits(**{"peer_fraction_max": 1.0, **case.limits}),
            self.loop,
            clock_s=lambda: self.now_s,
            wall_s=lambda: 0.0,
            silent_s=lambda transport: self.now_s - transport.came_s,  # type: ignore[attr-defined]
            has_left=self._has_left,
            cpu_s=lambda: self.cpu_s,
            process_s=lambda: self.cpu_s,
            starved_s=lambda: self._starved_s,
        )
        self.connections.start()
        self.open: dict[_Transport, None] = {}
        self.backlog: deque[_Client] = deque()
        self.patience: list[tuple[float, int, int, _Client]] = []
        self.good_s: list[float] = []
        self.refused_s: list[float] = []
        self.late_s: list[float] = []
        self.lost_s: list[float] = []
        self.idle = deque(_Client(self) for _ in range(clients))
        for client in self.idle:
            client.connect()

    def spend(self, seconds: float) -> None:
        """The worker's processor is used so long, which takes longer where it has only a part of it."""
        self.cpu_s += seconds
        self.now_s += seconds / self._share
        self._starved_s += seconds / self._share - seconds

    def _has_left(self, transport: Any) -> bool:
        self.spend(LOOK_S)
        return bool(transport.left)

    def handle(self, request: Request) -> Response | Coroutine[Any, Any, Response]:
        if self.case.size and request.body.whole() is None:
            return self._store(request)
        self.spend(self.case.work_s)
        return Response(200)

    async def _store(self, request: Request) -> Response:
        while await request.body.read():
            pass
        self.spend(self.case.work_s)
        return Response(200)

    def refusal(self, status: int) -> Response:
        return Response(status, b"", b"<Error/>")

    def finished(self, request: Request, response: Response, sent_bytes: int, complete: bool) -> None:
        pass

    def run(self, seconds: float) -> float:
        """Returns how long it took."""
        begin_s = due_s = self.now_s
        stop_s = begin_s + seconds
        while self.now_s < stop_s:
            while self._rate and due_s <= self.now_s:
                if self.idle:  # else it is never sent
                    self.idle.pop().ask()
                due_s += self._random.expovariate(self._rate)
            while not self._rate and self.idle:
                self.idle.pop().ask()
            while self.patience and self.patience[0][0] <= self.now_s:
                _, _, asked, client = heapq.heappop(self.patience)
                client.give_up(asked)
            self._turn()
            worked = self._accept()
            for transport in list(self.open):
                worked |= transport.read()
            if not worked and self._rate:
                times = [due_s, stop_s, self.now_s + self.connections.limits.queue_s / 100]
                self.now_s = max(self.now_s, min(times))
        took_s = self.now_s - begin_s
        lost = len(self.lost_s)
        self._end()
        del self.lost_s[lost:]
        return took_s

    def _turn(self) -> None:
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def _accept(self) -> bool:
        waiting, self.backlog = self.backlog, deque()
        for client in waiting:
            self.spend(ACCEPT_S)
            transport = _Transport(self, client)
            self.open[transport] = None
            client.accepted(transport)
            transport.protocol.connection_made(transport)  # type: ignore[arg-type]
        return bool(waiting)

    def _end(self) -> None:
        self.connections.stop()
        while self.open:
            for transport in list(self.open):
                transport.close()
            self._turn()
        for _ in range(3):
            self._turn()
        self.loop.close()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.micro.overload", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--times", type=float, default=4.0, help="the overload, in peaks")
    parser.add_argument("--patience", type=float, default=1.0)
    parser.add_argument("--share", type=float, default=1.0, help="of a core, that the worker gets")
    parser.add_argument("--all", action="store_true", help="as many clients whatever the share")
    args = parser.parse_args(argv)
    print(
        f"{'case':<30}{'peak/s':>8}{'good/s':>8}{'share':>7}{'p50 ms':>8}{'p99':>6}{'503/s':>7}{'p50 ms':>8}{'p99':>6}{'late/s':>8}{'lost':>6}"
    )
    for case in CASES:
        few, many = case.connections
        if not args.all:
            many = max(2 * few, round(many * args.share))
        calm = World(case, few, 0.0, 10 * args.patience, args.share)
        calm_s = calm.run(PEAK_S)
        peak = len(calm.good_s) / calm_s
        world = World(case, many, args.times * peak, args.patience, args.share)
        took_s = world.run(args.seconds)
        print(
            f"{case.name:<30}{peak:>8.0f}{len(world.good_s) / took_s:>8.0f}{len(world.good_s) / took_s / peak:>7.2f}"
            f"{_ms(world.good_s, 0.5):>8.0f}{_ms(world.good_s, 0.99):>6.0f}{len(world.refused_s) / took_s:>7.0f}"
            f"{_ms(world.refused_s, 0.5):>8.0f}{_ms(world.refused_s, 0.99):>6.0f}{len(world.late_s) / took_s:>8.0f}"
            f"{len(world.lost_s):>6}",
            flush=True,
        )
    return 0


def _ms(times_s: list[float], share: float) -> float:
    return sorted(times_s)[int(share * (len(times_s) - 1))] * 1e3 if times_s else 0.0


if __name__ == "__main__":
    raise SystemExit(main())
