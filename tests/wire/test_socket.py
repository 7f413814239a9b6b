"""The HTTP core over real loopback sockets, on uvloop and on asyncio's own loop: files, large bodies, ends, draining."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import hashlib
import os
import random
import socket
import ssl
import struct
import sys
import termios
import time
from asyncio.selector_events import _SelectorSocketTransport  # type: ignore[attr-defined]  # what loops are made of
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.http import spans as spans_module
from gateway.http.connections import SMALL_SPANS_BYTES, Connections, Listener
from gateway.http.limits import Limits
from gateway.http.protocol import HttpProtocol, listen
from gateway.http.tls import new_context
from s3api.message import Request, Response, StreamBody
from tests.support.certificates import Certificates
from tests.wire.harness import App, Chunks, parse_replies
from tiering.contract import FileSpans

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
DEADLINE_S = 60.0
"""For a machine that is slow or busy. Threads have it too: one that waits for a peer that is gone would hold up the end of its loop."""


@pytest.fixture(params=LOOPS)
def run(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """Runs a coroutine to its end on a loop of its own, within the deadline."""
    # asyncio's own, from 3.12.0 to 3.12.8 and 3.13.1, pauses nobody however much it holds (CVE-2024-12254). It is the tests' loop
    # only; without it there, the way of all other transports is taken.
    writelines = vars(_SelectorSocketTransport).get("writelines")
    if writelines is not None and "_maybe_pause_protocol" not in writelines.__code__.co_names:
        monkeypatch.delattr(_SelectorSocketTransport, "writelines")
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield lambda work: runner.run(asyncio.wait_for(work, DEADLINE_S))


class File:
    """An open file and the spans over it; counts releases."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.fd = os.open(path, os.O_RDONLY)
        self.released = 0

    def spans(self, *places: tuple[int, int]) -> FileSpans:
        return FileSpans(
            tuple((self.fd, offset, length) for offset, length in places),
            sum(place[1] for place in places),
            self.release,
        )

    def release(self) -> None:
        self.released += 1


@pytest.fixture(scope="module")
def data_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wire") / "data"
    path.write_bytes(random.Random(7).randbytes(24 << 20))
    return path


@pytest.fixture
def file(data_path: Path) -> Iterator[File]:
    made = File(data_path)
    yield made
    os.close(made.fd)


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  the conditions are plain state, without an event
        await asyncio.sleep(0.005)


async def closed(listener: Listener) -> None:
    """Drains and sees that nothing is left."""
    await listener.drain(2.0)
    assert len(listener.connections) == 0
    assert listener.connections.in_flight == 0


async def exchange(port: int, data: bytes, read_bytes: int = -1) -> bytes:
    """Sends, reads to the end (or `read_bytes`), closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    if read_bytes < 0:
        reply = await reader.read()
    else:
        reply = await reader.readexactly(read_bytes)
    writer.close()
    await writer.wait_closed()
    return reply


CLOSE = b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"

Runner = Callable[[Coroutine[Any, Any, None]], None]


@pytest.mark.parametrize(
    "places",
    [
        [(5, 4096)],
        [(0, SMALL_SPANS_BYTES)],
        [(0, 100), (9000, 50), (3, 0), (70_000, 1)],
        [(1, SMALL_SPANS_BYTES + 1)],
        [(0, 3 << 20), (5 << 20, 1), (7 << 20, 11 << 20)],
        [],
    ],
    ids=["4k", "largest small", "small pieces", "smallest large", "14m in pieces", "empty"],
)
def test_file_spans_arrive_whole_and_are_released_once(run: Runner, file: File, places: list[tuple[int, int]]) -> None:
    async def work() -> None:
        app = App(lambda request: Response(200, b"", file.spans(*places)))
        listener = await listen(app, "127.0.0.1", 0, Limits())
        replies = parse_replies(await exchange(listener.port, GET + GET + CLOSE), [])
        expected = b"".join(file.data[offset : offset + length] for offset, length in places)
        assert [body == expected for _, _, body in replies] == [True] * 3
        await closed(listener)
        assert file.released == 3
        assert app.finishes == [(200, len(expected), True)] * 3

    run(work())


@pytest.mark.interpreted
@pytest.mark.parametrize("size", [4096, 3 << 20])
def test_file_spans_not_in_the_page_cache_are_read_by_a_thread(
    run: Runner, file: File, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []

    def cold(fd: int, view: memoryview, offset: int) -> int:
        return 0

    real = spans_module._read_all

    def counted(fd: int, offset: int, length: int) -> bytes:
        reads.append(length)
        return real(fd, offset, length)

    monkeypatch.setattr("gateway.http.protocol.read_resident", cold)
    monkeypatch.setattr(spans_module, "read_resident", cold)
    monkeypatch.setattr(spans_module, "_read_all", counted)

    async def work() -> None:
        listener = await listen(
            App(lambda request: Response(200, b"", file.spans((8, size)))), "127.0.0.1", 0, Limits()
        )
        reply = await exchange(listener.port, CLOSE)
        assert parse_replies(reply, [])[0][2] == file.data[8 : 8 + size]
        assert sum(reads) == size
        await closed(listener)
        assert file.released == 1

    run(work())


@pytest.mark.interpreted
@pytest.mark.parametrize("seen", [True, False])
def test_what_was_just_seen_in_memory_is_not_looked_at_again(
    run: Runner, file: File, seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, looks = SMALL_SPANS_BYTES + 4096, list[int]()
    real = spans_module.read_resident

    def look(fd: int, view: memoryview, offset: int) -> int:
        looks.append(offset)
        return real(fd, view, offset)

    monkeypatch.setattr(spans_module, "read_resident", look)

    def answer(request: Request) -> Response:
        body = file.spans((4096, size))
        body.seen = seen
        return Response(200, b"", body)

    async def work() -> None:
        listener = await listen(App(answer), "127.0.0.1", 0, Limits())
        reply = await exchange(listener.port, CLOSE)
        assert parse_replies(reply, [])[0][2] == file.data[4096 : 4096 + size]
        await closed(listener)

    run(work())
    last = 4096 + size - 1
    assert looks == ([] if seen else [last, 4096])


@pytest.mark.parametrize("size", [1000, 2 << 20])
def test_file_shorter_than_its_span_cuts_the_connection(run: Runner, file: File, size: int) -> None:
    async def work() -> None:
        start = len(file.data) - size // 2
        app = App(lambda request: Response(200, b"", file.spans((start, size))))
        listener = await listen(app, "127.0.0.1", 0, Limits())
        try:
            reply = await exchange(listener.port, CLOSE)
        except ConnectionError:
            reply = b""
        assert len(reply.partition(b"\r\n\r\n")[2]) < size
        await closed(listener)
        assert file.released == 1
        assert [complete for _, _, complete in app.finishes] == [False]

    run(work())


def test_slow_reader_gets_all_of_a_large_file(run: Runner, file: File) -> None:
    async def work() -> None:
        app = App(lambda request: Response(200, b"", file.spans((0, 24 << 20))))
        listener = await listen(app, "127.0.0.1", 0, Limits())
        sock = socket.create_connection(("127.0.0.1", listener.port), DEADLINE_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, GET + CLOSE)
        await until(lambda: listener.connections.in_flight)
        assert (file.released, app.finishes) == (0, [])
        digest, seen, head = hashlib.sha256(), 0, b""
        while data := await loop.sock_recv(sock, 300_000):
            if not seen and b"\r\n\r\n" not in head:
                head += data
                data = head.partition(b"\r\n\r\n")[2] if b"\r\n\r\n" in head else b""
            take = data[: (24 << 20) - seen]
            digest.update(take)
            seen += len(take)
        sock.close()
        assert digest.digest() == hashlib.sha256(file.data).digest()
        await closed(listener)
        assert file.released == 2
        assert app.finishes == [(200, 24 << 20, True)] * 2

    run(work())


def test_reader_that_leaves_midway_releases_the_file_once(run: Runner, file: File) -> None:
    async def work() -> None:
        app = App(lambda request: Response(200, b"", file.spans((0, 24 << 20))))
        listener = await listen(app, "127.0.0.1", 0, Limits())
        await exchange(listener.port, GET, 100_000)
        await until(lambda: file.released)
        await until(lambda: not len(listener.connections))
        status, sent_bytes, complete = app.finishes[0]
        assert (status, complete) == (200, False)
        assert 0 < sent_bytes < 24 << 20
        await closed(listener)
        assert file.released == 1

    run(work())


def test_reader_that_stands_still_is_cut_off_and_the_file_released(run: Runner, file: File) -> None:
    async def work() -> None:
        app = App(lambda request: Response(200, b"", file.spans((0, 24 << 20))))
        limits = Limits(sweep_s=0.02, body_grace_s=0.1)
        listener = await listen(app, "127.0.0.1", 0, limits)
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, limit=1024)
        writer.write(GET)
        await until(lambda: listener.connections.cut_slow)
        await until(lambda: not len(listener.connections))
        assert (file.released, len(app.finishes)) == (1, 1)
        writer.transport.abort()
        await closed(listener)
        del reader

    run(work())


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_arrive_whole_in_both_framings(run: Runner, chunked: bool) -> None:
    async def work() -> None:
        listener = await listen(App(), "127.0.0.1", 0, Limits())
        body = random.Random(3).randbytes(5 << 20)
        framing, wire = b"Content-Length: %d" % len(body), body
        if chunked:
            framing = b"Transfer-Encoding: chunked"
            sizes = random.Random(4)
            wire, at = b"", 0
            parts = []
            while at < len(body):
                size = sizes.choice((1, 7, 4095, 0xFFF4, 300_000))
                part = body[at : at + size]
                parts.append(b"%x\r\n%b\r\n" % (len(part), part))
                at += size
            wire = b"".join(parts) + b"0\r\n\r\n"
        request = b"PUT /k HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n" + wire
        replies = parse_replies(await exchange(listener.port, request + request + CLOSE), [])
        assert [reply[2] == body for reply in replies[:2]] == [True, True]
        assert replies[2][2] == b"GET"
        await closed(listener)

    run(work())


def test_refusal_reaches_a_client_that_sends_everything_first(run: Runner) -> None:
    """Closing with unread bytes would send a reset, and the client would never see the 403."""

    async def work() -> None:
        app = App(lambda request: Response(403, b"", b"no"))
        listener = await listen(app, "127.0.0.1", 0, Limits())
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"PUT /k HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (16 << 20))
        for _ in range(16):
            writer.write(bytes(1 << 20))
            await writer.drain()
        assert parse_replies(await reader.read(), [])[0][0] == 403
        writer.close()
        await writer.wait_closed()
        await until(lambda: not len(listener.connections))
        await closed(listener)

    run(work())


def test_a_last_response_reaches_a_slow_client_that_has_sent_another_request(run: Runner) -> None:
    """One that lies in the kernel, behind a body that was read to its end."""

    async def work() -> None:
        last = os.urandom(100_000)

        async def answer(request: Request) -> Response:
            while await request.body.read():
                pass
            return Response(200, b"", last, close=True)

        app = App(answer)
        listener = await listen(app, "127.0.0.1", 0, Limits())
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            peer.connect(("127.0.0.1", listener.port))
            peer.send(b"PUT /k HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n")
            await until(lambda: app.requests)
            peer.send(bytes(60_000) + GET)
            await until(lambda: app.finishes)
            peer.settimeout(DEADLINE_S)
            reply = await asyncio.to_thread(lambda: b"".join(iter(lambda: peer.recv(65536), b"")))
        assert reply.endswith(last)
        await closed(listener)

    run(work())


def ours(listener: Listener) -> socket.socket:
    """A second descriptor of the only connection's socket, as the gateway has it."""
    (connection,) = listener.connections._open
    return socket.socket(fileno=os.dup(connection._transport.get_extra_info("socket").fileno()))  # type: ignore[attr-defined]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("kind", ["file", "bytes", "stream"])
def test_the_kernel_holds_little_for_who_reads_nothing(
    run: Runner, file: File, tmp_path: Path, kind: str, secure: bool
) -> None:
    """Left to itself it took 3 MiB of each such peer's reply, whatever the kind."""
    size = 8 << 20

    def answer(request: Request) -> Response:
        if kind == "file":
            return Response(200, b"", file.spans((0, size)))
        whole = file.data[:size]
        return Response(200, b"", whole) if kind == "bytes" else Response(200, b"", Chunks(whole).body(size))

    async def work() -> None:
        server, client = contexts(tmp_path) if secure else (None, None)
        listener = await listen(App(answer), "127.0.0.1", 0, Limits(), ssl_context=server)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", listener.port))
        name = "localhost" if secure else None
        _, writer = await asyncio.open_connection(sock=sock, ssl=client, server_hostname=name, limit=1024)
        writer.write(GET)
        await until(lambda: listener.connections.in_flight)
        (connection,) = listener.connections._open
        with ours(listener) as watched:
            await until(lambda: held(watched))
            for _ in range(20):  # what is taken after the first bytes is taken at once
                await asyncio.sleep(0.002)
            assert 0 < held(watched) < 1 << 20
        writer.transport.abort()
        await until(lambda: not len(listener.connections))
        await closed(listener)
        assert not connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]

    run(work())


def held(sock: socket.socket) -> int:
    """What the kernel has of the bytes sent, and the peer has not taken."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def test_who_has_read_a_good_deal_is_not_held_to_that(run: Runner, file: File) -> None:
    async def work() -> None:
        size = 2 << 20
        listener = await listen(
            App(lambda request: Response(200, b"", file.spans((0, size)))), "127.0.0.1", 0, Limits()
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        bounds = []
        for _ in range(2):
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n")
            with ours(listener) as watched:
                bounds.append(watched.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT))
            await reader.readexactly(size)
        assert bounds[0] > bounds[1] == 0
        writer.close()
        await closed(listener)

    run(work())


def test_stream_body_survives_a_slow_reader_and_reused_chunks(run: Runner) -> None:
    """The producer overwrites its buffer as soon as it is asked for the next chunk."""
    size, count = 1 << 20, 12

    class Reused:
        def __init__(self) -> None:
            self.buffer = bytearray(size)
            self.made = 0

        def __aiter__(self) -> Reused:
            return self

        async def __anext__(self) -> memoryview:
            if self.made == count:
                raise StopAsyncIteration
            self.made += 1
            self.buffer[:] = bytes([self.made]) * size
            return memoryview(self.buffer)

    async def work() -> None:
        app = App(lambda request: Response(200, b"", StreamBody(Reused(), size * count)))
        listener = await listen(app, "127.0.0.1", 0, Limits())
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, limit=1 << 16)
        writer.write(CLOSE)
        await reader.readuntil(b"\r\n\r\n")
        for number in range(count):
            assert await reader.readexactly(size) == bytes([number + 1]) * size
        writer.close()
        await writer.wait_closed()
        await closed(listener)

    run(work())


def test_reader_that_leaves_a_stream_closes_its_iterator(run: Runner) -> None:
    async def work() -> None:
        chunks = Chunks(*[bytes(1 << 20)] * 50)
        app = App(lambda request: Response(200, b"", chunks.body(50 << 20)))
        listener = await listen(app, "127.0.0.1", 0, Limits())
        await exchange(listener.port, GET, 1000)
        await until(lambda: chunks.closed)
        await closed(listener)
        assert chunks.closed == 1
        assert [complete for _, _, complete in app.finishes] == [False]

    run(work())


def test_disconnect_cancels_a_waiting_handler(run: Runner) -> None:
    async def work() -> None:
        cancelled: list[int] = []

        async def wait(request: Request) -> Response:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(1)
            raise AssertionError

        listener = await listen(App(wait), "127.0.0.1", 0, Limits())
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(GET)
        await until(lambda: listener.connections.in_flight)
        writer.close()
        await writer.wait_closed()
        await until(lambda: cancelled)
        await closed(listener)

    run(work())


def test_drain_finishes_what_runs_and_refuses_what_comes(run: Runner, file: File) -> None:
    async def work() -> None:
        go = asyncio.Event()

        async def answer(request: Request) -> Response:
            await go.wait()
            return Response(200, b"", file.spans((0, 8 << 20)))

        listener = await listen(App(answer), "127.0.0.1", 0, Limits())
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", listener.port)
        running = asyncio.create_task(exchange(listener.port, GET))
        await until(lambda: listener.connections.in_flight)
        draining = asyncio.create_task(listener.drain(10.0))
        assert await idle_reader.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", listener.port)
        go.set()
        reply = parse_replies(await running, [])[0]
        assert (reply[1][b"connection"], reply[2] == file.data[: 8 << 20]) == (b"close", True)
        assert await draining == 0
        idle_writer.close()
        await idle_writer.wait_closed()
        assert file.released == 1

    run(work())


def test_no_delay_is_set_and_a_bound_socket_can_be_given(run: Runner) -> None:
    async def work() -> None:
        delays: list[int] = []

        def answer(request: Request) -> Response:
            connection = next(iter(listener.connections._open))
            sock = connection._own_socket()  # type: ignore[attr-defined]
            delays.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            return Response(200, b"", request.peer.encode())

        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        listener = await listen(App(answer), "", 0, Limits(), sock=sock)
        assert listener.port == port
        assert parse_replies(await exchange(port, CLOSE), [])[0][2] == b"127.0.0.1"
        assert delays == [1]
        await closed(listener)

    run(work())


@pytest.mark.parametrize(("source", "kept"), [("127.0.0.1", False), ("127.0.0.2", True)], ids=["both ends", "a peer"])
def test_what_stays_on_this_machine_has_no_pace(run: Runner, source: str, kept: bool) -> None:
    async def work() -> None:
        listener = await listen(App(), "127.0.0.1", 0, Limits())
        with socket.create_server(("127.0.0.1", 0)) as other:
            usual = other.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port, local_addr=(source, 0))
        await until(lambda: len(listener.connections) == 1)
        with ours(listener) as watched:
            chosen = watched.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        assert chosen.rstrip(b"\0") == (usual.rstrip(b"\0") if kept else b"reno")
        writer.close()
        await closed(listener)

    run(work())


def test_two_listeners_share_a_port(run: Runner) -> None:
    async def work() -> None:
        first = await listen(App(), "127.0.0.1", 0, Limits(), reuse_port=True)
        second = await listen(App(), "127.0.0.1", first.port, Limits(), reuse_port=True)
        await closed(first)
        assert parse_replies(await exchange(second.port, CLOSE), [])[0][0] == 200
        await closed(second)

    run(work())


def test_listeners_of_a_worker_share_their_connections(run: Runner) -> None:
    async def work() -> None:
        shared = Connections(Limits(), asyncio.get_running_loop())
        listener = await listen(App(), "127.0.0.1", 0, shared.limits, connections=shared)
        assert listener.connections is shared  # though there are none, so that it is false
        await closed(listener)

    run(work())


def contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and its client's."""
    files = Certificates(directory)
    server = new_context("1.2")
    server.load_cert_chain(files.cert, files.key)
    return server, ssl.create_default_context(cafile=str(files.ca))


def test_tls_carries_files_bodies_and_security(run: Runner, file: File, tmp_path: Path) -> None:
    server, client = contexts(tmp_path)
    size = 3 << 20

    def answer(request: Request) -> Response | Coroutine[Any, Any, Response]:
        assert request.secure
        if request.method == "PUT":
            return app.read_then_echo(request)
        return Response(200, b"", file.spans((0, 10), (99, size if request.query else 4096)))

    app = App(answer)

    async def work() -> None:
        listener = await listen(app, "127.0.0.1", 0, Limits(), ssl_context=server)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", listener.port, ssl=client, server_hostname="localhost"
        )
        body = random.Random(5).randbytes(700_000)
        writer.write(GET + GET.replace(b"/a", b"/a?large"))
        writer.write(b"PUT /k HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body + CLOSE)
        replies = parse_replies(await reader.read(), [])
        small = file.data[:10] + file.data[99 : 99 + 4096]
        assert [reply[2] for reply in replies] == [small, file.data[:10] + file.data[99 : 99 + size], body, small]
        writer.close()
        await writer.wait_closed()
        await closed(listener)
        assert file.released == 3

    run(work())


def test_tls_connections_that_are_over_need_no_garbage_collection(run: Runner, tmp_path: Path) -> None:
    """A thousand of them, with their buffers, waited for one."""
    server, client = contexts(tmp_path)

    def living() -> int:
        return sum(isinstance(each, HttpProtocol) for each in gc.get_objects())

    async def work() -> None:
        listener = await listen(App(), "127.0.0.1", 0, Limits(), ssl_context=server)
        before = living()
        for asked in (b"", CLOSE, GET):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", listener.port, ssl=client, server_hostname="localhost"
            )
            if asked:
                writer.write(asked)
                await reader.readuntil(b"\r\n\r\n")
            else:
                await until(lambda: len(listener.connections))
            writer.transport.abort()
            await until(lambda: not len(listener.connections))
        await until(lambda: living() == before)
        await closed(listener)

    gc.collect()
    gc.disable()
    try:
        run(work())
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["file", "bytes", "stream"])
def test_tls_slow_reader_gets_all_of_a_last_response(run: Runner, file: File, tmp_path: Path, kind: str) -> None:
    size = 960 << 10  # of so much the kernel never takes more than a little
    server, client = contexts(tmp_path)

    def answer(request: Request) -> Response:
        if kind == "file":
            return Response(200, b"", file.spans((0, size)))
        if kind == "bytes":
            return Response(200, b"", file.data[:size])
        return Response(200, b"", Chunks(file.data[: size // 2], file.data[size // 2 : size]).body(size))

    async def work() -> None:
        limits = Limits(sweep_s=0.01, linger_s=0.05)  # much shorter than reading what is on its way by the end
        listener = await listen(App(answer), "127.0.0.1", 0, limits, ssl_context=server)
        raw = socket.socket()
        raw.settimeout(DEADLINE_S)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        raw.connect(("127.0.0.1", listener.port))

        def read() -> bytes:
            received = bytearray()
            with client.wrap_socket(raw, server_hostname="localhost") as channel:
                channel.sendall(CLOSE)
                while data := channel.recv(1 << 12):
                    received += data
                    time.sleep(0.002)
            return bytes(received)

        received = await asyncio.get_running_loop().run_in_executor(None, read)
        got = received.partition(b"\r\n\r\n")[2]
        assert len(got) == size
        assert got == file.data[:size]
        await closed(listener)

    run(work())


@pytest.mark.parametrize("kind", ["file", "bytes", "stream"])
def test_tls_reader_that_stands_still_is_cut_off(run: Runner, file: File, tmp_path: Path, kind: str) -> None:
    size = 24 << 20
    server, client = contexts(tmp_path)

    def answer(request: Request) -> Response:
        if kind == "file":
            return Response(200, b"", file.spans((0, size)))
        return Response(200, b"", file.data) if kind == "bytes" else Response(200, b"", Chunks(file.data).body(size))

    async def work() -> None:
        app = App(answer)
        limits = Limits(sweep_s=0.02, body_grace_s=0.1)
        listener = await listen(app, "127.0.0.1", 0, limits, ssl_context=server)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", listener.port, ssl=client, server_hostname="localhost", limit=1024
        )
        writer.write(GET)
        await until(lambda: listener.connections.cut_slow)
        await until(lambda: not len(listener.connections))
        assert [complete for _, _, complete in app.finishes] == [False]
        writer.transport.abort()
        await closed(listener)
        del reader

    run(work())


def test_tls_sender_that_stands_still_is_told(run: Runner, tmp_path: Path) -> None:
    server, client = contexts(tmp_path)

    async def work() -> None:
        app = App()
        limits = Limits(sweep_s=0.02, body_grace_s=0.1, linger_s=0.2)
        listener = await listen(app, "127.0.0.1", 0, limits, ssl_context=server)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", listener.port, ssl=client, server_hostname="localhost"
        )
        writer.write(b"PUT /k HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + bytes(5000))
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400 ")
        assert app.body_errors == ["slow"]
        writer.transport.abort()
        await closed(listener)

    run(work())


def test_tls_copies_leave_the_loop_to_others(run: Runner, file: File, tmp_path: Path) -> None:
    server, client = contexts(tmp_path)

    async def work() -> None:
        listener = await listen(
            App(lambda request: Response(200, b"", file.spans((0, 24 << 20)))),
            "127.0.0.1",
            0,
            Limits(),
            ssl_context=server,
        )
        raw = socket.create_connection(("127.0.0.1", listener.port), DEADLINE_S)

        def read() -> int:
            with client.wrap_socket(raw, server_hostname="localhost") as channel:
                channel.sendall(CLOSE)
                return sum(len(data) for data in iter(lambda: channel.recv(1 << 20), b""))

        turns = 0
        reading = asyncio.get_running_loop().run_in_executor(None, read)
        while not reading.done():
            turns += 1
            await asyncio.sleep(0)
        assert await reading > 24 << 20
        assert turns > 24
        await closed(listener)

    run(work())


def test_tls_connections_that_rest_end_soon_at_a_drain(run: Runner, tmp_path: Path) -> None:
    server, client = contexts(tmp_path)

    async def work() -> None:
        limits = Limits(sweep_s=0.02, linger_s=60.0)
        listener = await listen(App(), "127.0.0.1", 0, limits, ssl_context=server)

        def rest() -> ssl.SSLSocket:
            channel = client.wrap_socket(
                socket.create_connection(("127.0.0.1", listener.port), DEADLINE_S), server_hostname="localhost"
            )
            channel.sendall(GET)
            assert channel.recv(1000).startswith(b"HTTP/1.1 200")
            return channel

        channel = await asyncio.get_running_loop().run_in_executor(None, rest)
        assert await listener.drain(10.0) == 0
        assert len(listener.connections) == 0
        channel.close()

    run(work())


def test_who_leaves_while_in_line_is_not_served_and_frees_its_connection(run: Runner) -> None:
    async def work() -> None:
        go = asyncio.Event()

        async def answer(request: Request) -> Response:
            if request.path == b"/slow":
                await go.wait()
            return Response(200)

        app = App(answer)
        listener = await listen(app, "127.0.0.1", 0, Limits(requests_in_flight_max=1, queue_s=15.0, sweep_s=0.02))
        write = b"PUT /%b HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
        slow = asyncio.create_task(exchange(listener.port, write % b"slow"))
        await until(lambda: app.requests)
        _, closer = await asyncio.open_connection("127.0.0.1", listener.port)
        closer.write(write % b"closed" + bytes(100_000))  # more than is read of it
        waiting = asyncio.create_task(exchange(listener.port, write % b"waits"))
        reset = socket.create_connection(("127.0.0.1", listener.port), DEADLINE_S)
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reset.sendall(write % b"reset")
        await until(lambda: len(listener.connections) == 4)
        closer.close()
        reset.close()
        await until(lambda: len(listener.connections) == 2)
        go.set()
        assert [each[0] for each in parse_replies(await slow + await waiting, [])] == [200, 200]
        assert sorted(request.path for request in app.requests) == [b"/slow", b"/waits"]
        await closed(listener)

    run(work())


def test_body_that_nobody_wants_is_read_away_and_the_next_request_is_served(run: Runner) -> None:
    async def work() -> None:
        app = App(lambda request: Response(403 if request.method == "PUT" else 200, b"", b"x"))
        listener = await listen(app, "127.0.0.1", 0, Limits())
        head = b"PUT /k HTTP/1.1\r\nHost: h\r\nContent-Length: 900000\r\n\r\n"
        reply = await exchange(listener.port, head + bytes(900_000) + GET + head + bytes(900_000) + CLOSE)
        assert [each[0] for each in parse_replies(reply, [])] == [403, 200, 403, 200]
        await closed(listener)

    run(work())


def test_body_that_came_while_its_request_waited_is_whole_at_once(run: Runner) -> None:
    async def work() -> None:
        go = asyncio.Event()
        whole: list[bool] = []

        async def slow() -> Response:
            await go.wait()
            return Response(200)

        def answer(request: Request) -> Any:
            if request.path == b"/slow":
                return slow()
            data = request.body.whole()
            whole.append(data is not None and bytes(data) == b"y" * 100_000)
            return Response(200)

        app = App(answer)
        listener = await listen(app, "127.0.0.1", 0, Limits(requests_in_flight_max=1, queue_s=15.0))
        write = b"PUT /%b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        first = asyncio.create_task(exchange(listener.port, write % (b"slow", 1) + b"x"))
        await until(lambda: app.requests)
        second = asyncio.create_task(exchange(listener.port, write % (b"waits", 100_000) + b"y" * 100_000))
        await until(listener.connections._waits)
        go.set()
        assert [each[0] for each in parse_replies(await first + await second, [])] == [200, 200]
        assert len(whole) == 1
        await closed(listener)

    run(work())
