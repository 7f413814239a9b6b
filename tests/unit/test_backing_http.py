"""The HTTP client of the bucket against servers that frame their replies in every way, refuse early, stay silent, or show
certificates: bytes exactly, or an error that names nobody."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.support.certificates import Certificates
from tiering.backing.address import MinioLimits
from tiering.backing.http import HEAD_BYTES_MAX, Client

HEAD = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
LIMITS = MinioLimits(streams=2, connect_s=60.0, read_s=60.0)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(
    serve: Serve,
    test: Callable[[Client], Awaitable[None]],
    limits: MinioLimits = LIMITS,
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
    runner: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
) -> None:
    """`tls`: the server's and the client's."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls[0] if tls else None)
        client = Client(
            "localhost" if tls else "127.0.0.1", server.sockets[0].getsockname()[1], tls[1] if tls else None, limits
        )
        try:
            await asyncio.wait_for(test(client), 60)
        finally:
            client.close()
            server.close()
            await server.wait_closed()
            await asyncio.sleep(0.01)

    runner(main())


def says(*pieces: bytes, closes: bool = False) -> Serve:
    """Answers each request with these pieces, one a packet."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.001)
            if closes:
                return

    return serve


async def whole(client: Client, method: str = "GET") -> tuple[int, bytes]:
    reply = await client.ask(method, HEAD)
    try:
        return reply.status, await reply.read(1 << 30)
    finally:
        reply.close()


async def until_gone(client: Client) -> None:
    """`run` has the deadline."""
    while client._all:  # noqa: ASYNC110  plain state, without an event
        await asyncio.sleep(0.001)


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + LENGTH


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, INTERIM], ids=["length", "chunked", "interim"])
@pytest.mark.parametrize("cut", [1, 2, 7, 1000])
def test_body_is_exact_however_it_is_framed_and_cut(answer: bytes, cut: int) -> None:
    pieces = [answer[at : at + cut] for at in range(0, len(answer), cut)]

    async def check(client: Client) -> None:
        for _ in range(2):  # the second on the connection that was kept
            assert await whole(client) == (403 if answer is CHUNKED else 200, b"hello world")

    run(says(*pieces), check)


def test_body_without_a_length_ends_with_the_connection() -> None:
    async def check(client: Client) -> None:
        for _ in range(2):
            assert await whole(client) == (200, b"hello world")

    run(says(b"HTTP/1.1 200 OK\r\n\r\nhello", b" world", closes=True), check)


def test_head_of_an_object_has_no_body() -> None:
    async def check(client: Client) -> None:
        reply = await client.ask("HEAD", HEAD)
        assert (reply.headers[b"content-length"], await reply.next()) == (b"11", b"")
        reply.close()
        assert await whole(client, "HEAD") == (200, b"")

    run(says(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n"), check)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", ConnectionResetError),
        (b"HTTP/1.1 200 OK\r\nContent-", ConnectionAbortedError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhello", ConnectionAbortedError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello", ConnectionAbortedError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", ConnectionAbortedError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello", ConnectionAbortedError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello", ConnectionAbortedError),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello", ConnectionAbortedError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_BYTES_MAX, ConnectionAbortedError),
        (b"SSH-2.0-OpenSSH\r\n\r\n", ConnectionAbortedError),
    ],
    ids=range(10),
)
def test_broken_replies_are_errors_and_leave_the_client_usable(answer: bytes, error: type[Exception]) -> None:
    async def check(client: Client) -> None:
        for _ in range(LIMITS.streams + 1):  # none of them keeps its place
            with pytest.raises(error):
                await whole(client)

    run(says(answer, closes=True), check)


def test_more_than_the_length_is_not_taken_for_the_next_reply() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await says(LENGTH + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake")(reader, writer)

    async def check(client: Client) -> None:
        for _ in range(3):
            assert await whole(client) == (200, b"hello world")

    run(serve, check)
    assert connections == 3


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_connection_that_ends_before_its_reply_was_read_is_not_kept(
    runner: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    # The reply said nothing of closing. The next request was written to what was gone, and waited for as long as one may be silent.
    async def test(client: Client) -> None:
        for _ in range(2):
            reply = await client.ask("GET", HEAD)
            await until_gone(client)
            assert await reply.read(1 << 30) == b"hello world"
            reply.close()
            assert not client._idle

    run(says(LENGTH, closes=True), test, runner=runner)


def test_silence_is_a_timeout_at_the_head_and_in_the_body() -> None:
    for answer in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello"):

        async def check(client: Client) -> None:
            with pytest.raises(TimeoutError):
                await whole(client)

        run(says(answer), check, MinioLimits(read_s=0.05))


def test_reader_that_does_not_read_holds_the_server_back() -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
        while sent < 64 << 20:
            writer.write(bytes(1 << 20))
            await writer.drain()
            sent += 1 << 20

    async def check(client: Client) -> None:
        reply = await client.ask("GET", HEAD)
        first = await reply.next()
        await asyncio.sleep(0.1)
        assert sent < 32 << 20
        total = len(first)
        while piece := await reply.next():
            total += len(piece)
        assert total == 64 << 20
        reply.close()

    run(serve, check)


def test_body_is_sent_whole_and_a_refusal_ends_the_sending() -> None:
    body = bytes(range(256)) * (32 << 10)  # 8 MiB

    async def takes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            good = await reader.readexactly(len(body)) == body
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % (200 if good else 500))

    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 4\r\n\r\nslow")
        await writer.drain()
        await reader.read()

    async def put(client: Client, status: int) -> None:
        for _ in range(2):
            reply = await client.ask("PUT", HEAD, body)
            assert reply.status == status
            reply.close()

    run(takes, lambda client: put(client, 200))
    run(refuses, lambda client: put(client, 503))


def test_no_more_connections_than_allowed_and_who_is_cancelled_leaves_none() -> None:
    open_now = most = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(0.01)
                writer.write(LENGTH)
        finally:
            open_now -= 1

    async def check(client: Client) -> None:
        asking = [asyncio.create_task(whole(client)) for _ in range(8)]
        await asyncio.sleep(0.005)
        asking[0].cancel()
        asking[-1].cancel()
        done = await asyncio.gather(*asking, return_exceptions=True)
        assert [each for each in done if isinstance(each, tuple)] == [(200, b"hello world")] * 6

    run(serve, check)
    assert most <= LIMITS.streams + 1  # one may be on its way out


def test_certificate_is_checked(tmp_path: Path) -> None:
    files = Certificates(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(files.cert, files.key)

    async def good(client: Client) -> None:
        for _ in range(2):
            assert await whole(client) == (200, b"hello world" * 100_000)

    async def bad(client: Client) -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            await whole(client)

    body = b"hello world" * 100_000
    answer = says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    run(answer, good, tls=(server, ssl.create_default_context(cafile=str(files.ca))))
    run(answer, bad, tls=(server, ssl.create_default_context()))


def test_long_body_is_exact_and_a_reset_within_it_is_an_error() -> None:
    body = bytes(range(256)) * (3 << 12)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(body) + 1) + body)
        await writer.drain()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def check(client: Client) -> None:
        assert await whole(client) == (200, body)
        with pytest.raises(OSError):
            await whole(client)

    run(serve, check)
