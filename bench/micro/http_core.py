"""Server CPU per request of the HTTP core alone: no S3, no index, one worker, keep-alive connections on loopback.

    python -m bench.micro.http_core [--seconds 3] [--connections 8] [--case tiny]

A child process serves; `wrk` drives the reads, a small sender in this process the PUTs. CPU is the child's user and
system time (/proc/<pid>/stat) over the requests it answered, so the client's share of the machine does not count.
Kind: shell.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Coroutine
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from gateway.http.limits import Limits
from gateway.http.protocol import listen
from s3api.message import Request, Response
from tiering.contract import FileSpans

SIZES = {
    "tiny": 200,
    "file-4k": 4 << 10,
    "file-16k": 16 << 10,
    "file-32k": 32 << 10,
    "file-64k": 64 << 10,
    "file-256k": 256 << 10,
    "file-2m": 2 << 20,
}
PUT_BYTES = {"put-4k": 4 << 10, "put-256k": 256 << 10, "put-2m": 2 << 20, "put-chunked-2m": 2 << 20}
HEADERS = (
    b'ETag: "0123456789abcdef"\r\nAccept-Ranges: bytes\r\nServer: Recall\r\nx-amz-request-id: 0123456789ABCDEF\r\n'
)


def _released() -> None:
    pass


class BenchApp:
    """GET /<size case> answers bytes or a span of a file; PUT drops its body."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.tiny = b"x" * SIZES["tiny"]

    def handle(self, request: Request) -> Response | Coroutine[Any, Any, Response]:
        if request.method == "PUT":
            return self._put(request)
        name = request.path[1:].decode()
        if name == "tiny":
            return Response(200, HEADERS, self.tiny)
        size = SIZES[name]
        return Response(200, HEADERS, FileSpans(((self.fd, 4096, size),), size, _released))

    async def _put(self, request: Request) -> Response:
        while await request.body.read():
            pass
        return Response(200, HEADERS)

    def refusal(self, status: int) -> Response:
        return Response(status)

    def finished(self, request: Request, response: Response, sent_bytes: int, complete: bool) -> None:
        pass


def _serve(ready: Connection, path: str, limits: Limits) -> None:
    async def main() -> None:
        fd = os.open(path, os.O_RDONLY)
        listener = await listen(BenchApp(fd), "127.0.0.1", 0, limits)
        ready.send(listener.port)
        await asyncio.get_running_loop().run_in_executor(None, ready.recv)
        await listener.drain(1.0)

    profile = os.environ.get("HTTP_CORE_PROFILE")
    if not profile:
        uvloop.run(main())
        return
    import cProfile

    with cProfile.Profile() as profiler:
        uvloop.run(main())
    profiler.dump_stats(profile)


def _cpu_s(pid: int) -> tuple[float, float]:
    """User and system seconds so far."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    tick = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / tick, int(fields[12]) / tick


def _wrk(port: int, case: str, seconds: int, connections: int) -> int:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"http://127.0.0.1:{port}/{case}"]
    command += ["-H", "x-amz-date: 20260101T000000Z", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]
    command += [
        "-H",
        "Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20260101/us-east-1/s3/aws4_request,"
        " SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=" + "0" * 64,
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    match = re.search(r"(\d+) requests in", output)
    assert match is not None, output
    assert "Non-2xx" not in output, output
    return int(match[1])


def _chunked(body: bytes) -> bytes:
    step = 0xFFF4
    pieces = [b"%x\r\n%b\r\n" % (len(body[at : at + step]), body[at : at + step]) for at in range(0, len(body), step)]
    return b"".join(pieces) + b"0\r\n\r\n"


def _put(port: int, case: str, seconds: int) -> int:
    size = PUT_BYTES[case]
    body = bytes(size)
    framing = b"Content-Length: %d" % size
    if "chunked" in case:
        framing, body = b"Transfer-Encoding: chunked", _chunked(body)
    head = b"PUT /k HTTP/1.1\r\nHost: bench\r\n" + framing + b"\r\n\r\n"
    count = 0
    deadline = time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while time.monotonic() < deadline:
            sock.sendall(head, socket.MSG_MORE)
            sock.sendall(body)
            reply = sock.recv(65536)
            assert reply.startswith(b"HTTP/1.1 200"), reply
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--case", action="append", choices=[*SIZES, *PUT_BYTES])
    parser.add_argument("--buffer-kib", type=int, default=Limits().receive_buffer_bytes >> 10)
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is needed")
    limits = Limits(receive_buffer_bytes=arguments.buffer_kib << 10)
    with tempfile.NamedTemporaryFile() as file:
        file.write(os.urandom(4 << 20))
        file.flush()
        ours, theirs = multiprocessing.Pipe()
        server = multiprocessing.get_context("fork").Process(
            target=_serve, args=(theirs, file.name, limits), daemon=True
        )
        server.start()
        port = ours.recv()
        assert server.pid is not None
        print(f"{'case':<16}{'req/s':>10}{'us/req':>10}{'user':>10}{'system':>10}")
        for case in arguments.case or [*SIZES, *PUT_BYTES]:
            before, start = _cpu_s(server.pid), time.monotonic()
            if case in SIZES:
                count = _wrk(port, case, arguments.seconds, arguments.connections)
            else:
                count = _put(port, case, arguments.seconds)
            wall_s = time.monotonic() - start
            user, system = ((after - was) / count * 1e6 for was, after in zip(before, _cpu_s(server.pid), strict=True))
            print(f"{case:<16}{count / wall_s:>10.0f}{user + system:>10.1f}{user:>10.1f}{system:>10.1f}", flush=True)
        ours.send(None)
        server.join(10)


if __name__ == "__main__":
    main()
