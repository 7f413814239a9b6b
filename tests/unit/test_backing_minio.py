"""The bucket backing against a server that misbehaves: every answer becomes one of three errors, and none tells secrets."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tiering.backing.address import BucketAddress, MinioLimits
from tiering.backing.minio import PART_BYTES, MinioBacking
from tiering.backing.streams import BytesSource, closing
from tiering.ports import Backing, BackingCorrupt, BackingError, BackingUnavailable, NotFound

ACCESS, SECRET = "the-access-key", "the-secret-key"


class Scripted:
    """Answers each request with what `answer` gives for its first line, byte for byte, then closes the connection."""

    def __init__(self, answer: Callable[[str], bytes]) -> None:
        self._answer = answer
        self.requests: list[str] = []
        self.heads: list[str] = []
        self.bodies: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                (int(line[15:]) for line in head.lower().split("\r\n") if line.startswith("content-length:")), 0
            )
            self.bodies.append(await reader.readexactly(length))
            self.heads.append(head)
            self.requests.append(head.split("\r\n")[0])
            writer.write(self._answer(self.requests[-1]))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def reply(status: int, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    lines = [
        f"HTTP/1.1 {status} X",
        "Connection: close",
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body


def error(status: int, code: str) -> bytes:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>m</Message></Error>'.encode()
    return reply(status, body, "Content-Type: application/xml")


def against(
    answer: Callable[[str], bytes], test: Callable[[MinioBacking], Awaitable[None]], read_s: float = 10.0
) -> Scripted:
    scripted = Scripted(answer)

    async def main() -> None:
        server = await asyncio.start_server(scripted, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        address = BucketAddress(f"127.0.0.1:{port}", "bucket", ACCESS, SECRET, prefix="pre")
        backing = MinioBacking(address, MinioLimits(threads=2, read_s=read_s))
        try:
            await asyncio.wait_for(test(backing), 60)
        finally:
            await backing.close()
            server.close()
            await server.wait_closed()

    asyncio.run(main())
    return scripted


async def read(backing: Backing, start: int = 0, stop: int | None = None) -> bytes:
    async with closing(backing.get("k", start, stop)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def drain(chunks: AsyncIterator[bytes], into: bytearray) -> None:
    """Keeps what came before an error."""
    async for chunk in chunks:
        into += chunk


CALLS: dict[str, Callable[[MinioBacking], Awaitable[object]]] = {
    "put": lambda backing: backing.put("k", BytesSource(b"data")),
    "get": read,
    "stat": lambda backing: backing.stat("k"),
    "delete": lambda backing: backing.delete("k"),
    "list": lambda backing: anext(backing.list("")),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "answer",
    [
        reply(500),
        reply(503),
        error(503, "SlowDown"),
        error(500, "InternalError"),
        error(403, "AccessDenied"),
        error(403, "SignatureDoesNotMatch"),
        error(400, "RequestTimeout"),
        error(404, "NoSuchBucket"),
        reply(302, b"", "Location: http://127.0.0.1:1/"),
        reply(502, b"<html>proxy says no</html>", "Content-Type: text/html"),
        reply(403, b"not <xml", "Content-Type: application/xml"),
        b"HTTP/1.1 garbage\r\n\r\n",
        b"",
    ],
    ids=lambda answer: answer[9:60].decode().replace("\r\n", " ") or "closed",
)
def test_every_refusal_is_unavailable(call: str, answer: bytes) -> None:
    async def check(backing: MinioBacking) -> None:
        with pytest.raises(BackingUnavailable) as caught:
            await CALLS[call](backing)
        text = str(caught.value)
        for secret in (ACCESS, SECRET, "Signature=", "http", "127.0.0.1"):
            assert secret not in text
        assert text

    against(lambda _: answer, check)


@pytest.mark.parametrize("call", ["get", "stat"])
def test_a_missing_object_is_not_found_only_in_a_bucket_that_is_there(call: str) -> None:
    there = against(
        lambda line: reply(200) if line.startswith("HEAD /bucket HTTP") else reply(404),
        lambda backing: _raises(CALLS[call](backing), NotFound),
    )
    assert len(there.requests) == 2
    against(lambda _: reply(404), lambda backing: _raises(CALLS[call](backing), BackingUnavailable))
    if call == "get":
        named = against(lambda _: error(404, "NoSuchKey"), lambda backing: _raises(read(backing), NotFound))
        assert len(named.requests) == 1


async def _raises(call: Awaitable[object], kind: type[BackingError]) -> None:
    with pytest.raises(kind):
        await call


def test_a_cut_body_is_unavailable_and_a_short_object_is_corrupt() -> None:
    async def cut(backing: MinioBacking) -> None:
        got = bytearray()
        with pytest.raises(BackingUnavailable, match="cannot be reached"):
            await drain(backing.get("k"), got)
        assert got == b"only this"

    against(lambda _: reply(200, b"only this", length=100), cut)

    async def short(backing: MinioBacking) -> None:
        with pytest.raises(BackingCorrupt, match="9 bytes came of the 20"):
            await read(backing, 0, 20)

    against(lambda _: reply(206, b"only this", "Content-Range: bytes 0-8/9"), short)


def test_a_server_that_ignores_ranges_is_not_believed() -> None:
    async def check(backing: MinioBacking) -> None:
        with pytest.raises(BackingUnavailable, match="ignores ranges"):
            await read(backing, 5, 9)

    against(lambda _: reply(200, b"the whole object"), check)


def test_reads_ask_for_identity_and_keep_encoded_bytes_as_they_are() -> None:
    async def check(backing: MinioBacking) -> None:
        assert await read(backing, 2, 6) == b"\x1f\x8b\x08\x00"

    answer = reply(206, b"\x1f\x8b\x08\x00", "Content-Encoding: gzip", "Content-Range: bytes 2-5/10")
    seen = against(lambda _: answer, check)
    assert seen.requests[0] == "GET /bucket/pre/k HTTP/1.1"
    head = seen.heads[0].lower()
    assert "\r\nauthorization: aws4-hmac-sha256 " in head
    assert "\r\nrange: bytes=2-5\r\n" in head
    assert "\r\naccept-encoding: identity\r\n" in head


def test_a_silent_server_is_unavailable_after_its_time() -> None:
    async def check(backing: MinioBacking) -> None:
        with pytest.raises(BackingUnavailable):
            await read(backing)

    against(lambda _: reply(200, b"", length=10)[:-2], check, read_s=0.05)


def test_an_upload_without_an_etag_asks_for_it() -> None:
    # Ceph RGW leaves it out of CompleteMultipartUpload's answer.
    async def check(backing: MinioBacking) -> None:
        stat = await backing.put("k", BytesSource(bytes(17 << 20)))
        assert (stat.size, stat.etag) == (17 << 20, "from-head")

    def answer(line: str) -> bytes:
        kind = "Content-Type: application/xml"
        space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
        if line.startswith("POST") and "uploads" in line:
            text = f"<InitiateMultipartUploadResult {space}><UploadId>u</UploadId></InitiateMultipartUploadResult>"
            return reply(200, text.encode(), kind)
        if line.startswith("POST"):
            text = f"<CompleteMultipartUploadResult {space}><ETag></ETag></CompleteMultipartUploadResult>"
            return reply(200, text.encode(), kind)
        if line.startswith("HEAD"):
            date = "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT"
            return reply(200, b"", 'ETag: "from-head"', date, length=17 << 20)
        return reply(200, b"", 'ETag: "part"')

    against(answer, check)


def test_an_address_does_not_show_its_secret() -> None:
    address = BucketAddress("host:1", "bucket", ACCESS, SECRET)
    assert SECRET not in repr(address)
    assert ACCESS not in repr(address)


def test_connection_that_the_server_has_closed_is_replaced() -> None:
    # Both as a surprise to the next request and seen before it.
    async def check(backing: MinioBacking) -> None:
        for _ in range(3):
            assert await read(backing) == b"data"
            await backing.delete("k")
        await asyncio.sleep(0.05)
        assert await read(backing) == b"data"

    def answer(line: str) -> bytes:
        said = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndata"
        return said if line.startswith("GET") else b"HTTP/1.1 204 No Content\r\n\r\n"

    seen = against(answer, check)
    assert len(seen.requests) == 7


@pytest.mark.parametrize(("says", "connections"), [("", 1), ("Connection: close\r\n", 3)])
def test_connection_is_kept_only_where_the_server_keeps_it(says: str, connections: int) -> None:
    """Also after a reply without a body, where the parser is at the next one before anybody asks it."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(f"HTTP/1.1 204 No Content\r\n{says}\r\n".encode())
                if says:
                    await reader.read()  # it says that it closes, and leaves that to its client
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = BucketAddress(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", "bucket", ACCESS, SECRET)
        backing = MinioBacking(address, MinioLimits(threads=2, read_s=60.0))
        for _ in range(3):
            await asyncio.wait_for(backing.delete("k"), 60)
        await backing.close()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert count == connections


BEGUN = "<InitiateMultipartUploadResult><UploadId>u/1+</UploadId></InitiateMultipartUploadResult>"


@pytest.mark.parametrize("refused", ["POST ?uploads=", "PUT part", "POST done", "200 with an error"])
def test_upload_in_parts_that_is_refused_is_given_up(refused: str) -> None:
    async def check(backing: MinioBacking) -> None:
        with pytest.raises(BackingUnavailable, match=r"SlowDown|InternalError"):
            await backing.put("k", BytesSource(bytes(17 << 20)))

    def answer(line: str) -> bytes:
        method, target, _ = line.split(" ")
        if method == "DELETE":
            return reply(204)
        if target.endswith("?uploads="):
            return error(503, "SlowDown") if refused.startswith("POST ?") else reply(200, BEGUN.encode())
        if method == "PUT":
            return error(503, "SlowDown") if refused == "PUT part" else reply(200, b"", 'ETag: "part"')
        return error(503, "SlowDown") if refused == "POST done" else error(200, "InternalError")

    seen = against(answer, check)
    given_up = "DELETE /bucket/pre/k?uploadId=u%2F1%2B HTTP/1.1"
    assert (given_up in seen.requests) == (not refused.startswith("POST ?"))


def test_cancelled_while_an_upload_is_given_up_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    # The refusal was raised in its place: whoever was told to stop took it for a reason to try again.
    async def check(backing: MinioBacking) -> None:
        telling, told = asyncio.Event(), asyncio.Event()

        async def tell(name: str, upload_id: str) -> None:
            telling.set()
            await told.wait()

        monkeypatch.setattr(backing, "_told_to_abort", tell)
        putting = asyncio.ensure_future(backing.put("k", BytesSource(bytes(PART_BYTES + 1))))
        await telling.wait()
        putting.cancel()
        await asyncio.sleep(0)
        assert not putting.done()
        told.set()
        with pytest.raises(asyncio.CancelledError):
            await putting

    against(lambda line: reply(200, BEGUN.encode()) if line.startswith("POST") else error(503, "SlowDown"), check)


def test_upload_in_parts_names_each_part_and_is_signed_over_its_bytes() -> None:
    async def check(backing: MinioBacking) -> None:
        assert (await backing.put("k", BytesSource(bytes(17 << 20)))).etag == "whole-2"

    def answer(line: str) -> bytes:
        if line.startswith("PUT"):
            return reply(200, b"", f'ETag: "part{line.partition("partNumber=")[2][0]}"')
        done = "<CompleteMultipartUploadResult><ETag>&quot;whole-2&quot;</ETag></CompleteMultipartUploadResult>"
        return reply(200, (BEGUN if "?uploads=" in line else done).encode())

    seen = against(answer, check)
    assert seen.requests[1:] == [
        "PUT /bucket/pre/k?partNumber=1&uploadId=u%2F1%2B HTTP/1.1",
        "PUT /bucket/pre/k?partNumber=2&uploadId=u%2F1%2B HTTP/1.1",
        "POST /bucket/pre/k?uploadId=u%2F1%2B HTTP/1.1",
    ]
    assert hashlib.sha256(bytes(1 << 20)).hexdigest() in seen.heads[2]
    assert seen.bodies[3].count(b"<Part>") == 2
    assert b'<PartNumber>2</PartNumber><ETag>"part2"</ETag>' in seen.bodies[3].replace(b"&quot;", b'"')
