"""What is measured: our gateway, and the servers beside it, each as the same small set of calls.

A peer says how it is loaded with objects and what to send it for an operation at a size; it never measures. nginx and
Redis are Debian's, set up as well as they can be for the task, so that the comparison is not against a straw man.

Owns the peers' processes and folders. Does not know rounds, CPU or tables.
Kind: shell. Spec: bench/README.md, "The peers".
"""

from __future__ import annotations

import http.client
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from bench.cpu import children
from bench.loader import Plan
from bench.server import Gateway
from bench.signing import Signer

KIB, MIB = 1 << 10, 1 << 20
READ_BYTES_MAX = 64 * MIB
READ_KEYS_MAX = 64
"""A read cell goes round this many objects at most, and this many bytes: hot data, but not one object in the CPU's cache."""
WRITE_BYTES_MAX = 128 * MIB
WRITE_KEYS_MAX = 16_384
"""A write cell goes round this many keys, then overwrites them."""
POOLS = ("kv", "standard")
_START_S = 20.0
_POLL_S = 0.02


class PeerFailed(Exception):
    """A peer did not start or answered a probe wrongly."""


def read_keys(size: int) -> int:
    """How many objects a read cell goes round."""
    return max(2, min(READ_KEYS_MAX, READ_BYTES_MAX // size))


def write_keys(size: int) -> int:
    """How many keys a write cell goes round."""
    return max(4, min(WRITE_KEYS_MAX, WRITE_BYTES_MAX // size))


def content(size: int) -> bytes:
    """The bytes of every object of a size: incompressible, the same for all peers and runs."""
    return random.Random(size).randbytes(size)


class Peer(Protocol):
    """A server to load. `operations`: what `plan` knows, in order of the table."""

    @property
    def name(self) -> str: ...

    @property
    def operations(self) -> Sequence[str]: ...

    @property
    def port(self) -> int: ...

    def start(self, sizes: Sequence[int]) -> None:
        """Starts it and stores the objects the read cells ask for; raises PeerFailed, also when one reads back wrong."""

    def plan(self, operation: str, size: int) -> Plan:
        """What to send. Signed requests are signed now and good for 15 minutes."""

    def processes(self) -> dict[str, list[int]]:
        """Pids by role; `worker` is what serves."""

    def stop(self) -> None: ...


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int, process: subprocess.Popen[bytes], name: str) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise PeerFailed(f"{name} does not listen on port {port}") from None
            time.sleep(_POLL_S)


def _stop(process: subprocess.Popen[bytes] | None) -> None:
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class GatewayPeer:
    """Our gateway. `kv` and `standard` are its two pools; reads are from `kv`."""

    name = "recall"
    operations = ("GET", "HEAD", "404", "PUT kv", "PUT standard")

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.port = 0

    def start(self, sizes: Sequence[int]) -> None:
        self._gateway.__enter__()
        self.port = self._gateway.port
        self._signer = Signer(f"127.0.0.1:{self.port}", self._gateway.access_key, self._gateway.secret_key)
        for pool in POOLS:
            self._ask("PUT", f"/bench-{pool}", b"", (("x-recall-pool", pool),))
        for size in sizes:
            data = content(size)
            for number in range(read_keys(size)):
                self._ask("PUT", f"/bench-kv/read/{size}/{number}", data)
            if self._ask("GET", f"/bench-kv/read/{size}/0") != data:
                raise PeerFailed(f"recall: an object of {size} bytes reads back wrong")

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: tuple[tuple[str, str], ...] = ()
    ) -> bytes:
        """One request on its own connection, over the raw head, so that what is signed is what is sent."""
        length = None if body is None else len(body)
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(self._signer.head(method, path, length, headers) + (body or b""))
            reply = http.client.HTTPResponse(connection, method=method)
            reply.begin()
            data = reply.read()
        if reply.status != 200:
            raise PeerFailed(f"recall: {method} {path}: {reply.status} {data[:300]!r}")
        return data

    def plan(self, operation: str, size: int) -> Plan:
        head = self._signer.head
        match operation:
            case "GET" | "HEAD":
                paths = [f"/bench-kv/read/{size}/{number}" for number in range(read_keys(size))]
                heads = [head(operation, path) for path in paths]
                return Plan(heads, head_only=operation == "HEAD", expect_bytes=size)
            case "404":
                return Plan([head("GET", f"/bench-kv/absent/{number}") for number in range(64)], expect_status=404)
            case "PUT kv" | "PUT standard":
                bucket = operation.replace("PUT ", "bench-")
                paths = [f"/{bucket}/write/{size}/{number}" for number in range(write_keys(size))]
                return Plan([head("PUT", path, size) for path in paths], body=content(size))
        raise AssertionError(operation)

    def processes(self) -> dict[str, list[int]]:
        return self._gateway.processes()

    def stop(self) -> None:
        self._gateway.stop()


_NGINX_CONF = """\
user {user};
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; multi_accept on; }}
http {{
    access_log off;
    sendfile on;
    keepalive_timeout 65;
    keepalive_requests 1000000000;
    open_file_cache max=10000 inactive=600s;
    open_file_cache_valid 600s;
    open_file_cache_errors on;
    default_type application/octet-stream;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        root {folder}/www;
        log_not_found off;
    }}
}}
"""


class NginxPeer:
    """nginx serving the same bytes as static files: one worker, sendfile, open file cache, no log, no authentication.

    `tcp_nopush` stays off, nginx's own default: Debian's `on` corks the socket, which doubles the cost of 2 MiB on loopback.
    """

    name = "nginx"
    operations = ("GET", "HEAD", "404")

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self, sizes: Sequence[int]) -> None:
        www = self._folder / "www"
        for size in sizes:
            (www / str(size)).mkdir(parents=True, exist_ok=True)
            for number in range(read_keys(size)):
                (www / str(size) / str(number)).write_bytes(content(size))
        self.port = _free_port()
        conf = self._folder / "nginx.conf"
        user = "root" if os.getuid() == 0 else "nobody"
        conf.write_text(_NGINX_CONF.format(folder=self._folder, port=self.port, user=user), encoding="ascii")
        self._process = subprocess.Popen(
            [self._program, "-p", str(self._folder), "-c", str(conf), "-e", str(self._folder / "error.log")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_for_port(self.port, self._process, self.name)
        for size in sizes:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            connection.request("GET", f"/{size}/0")
            if connection.getresponse().read() != content(size):
                raise PeerFailed(f"nginx: an object of {size} bytes reads back wrong")
            connection.close()

    def plan(self, operation: str, size: int) -> Plan:
        form = "{} {} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        if operation == "404":
            return Plan([form.format("GET", f"/absent/{number}").encode() for number in range(64)], expect_status=404)
        heads = [form.format(operation, f"/{size}/{number}").encode() for number in range(read_keys(size))]
        return Plan(heads, head_only=operation == "HEAD", expect_bytes=size)

    def processes(self) -> dict[str, list[int]]:
        if self._process is None:
            return {}
        return {"worker": children(self._process.pid), "supervisor": [self._process.pid]}

    def stop(self) -> None:
        _stop(self._process)


class RedisPeer:
    """Redis without persistence and without authentication: SET for PUT, GET of an absent key for 404."""

    name = "redis"
    operations = ("GET", "404", "PUT kv")

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self, sizes: Sequence[int]) -> None:
        self.port = _free_port()
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [self._program, *arguments, "--dir", str(self._folder), "--loglevel", "warning"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_for_port(self.port, self._process, self.name)
        for size in sizes:
            data = content(size)
            with (
                socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection,
                connection.makefile("rb") as replies,
            ):
                for number in range(read_keys(size)):
                    connection.sendall(_resp_set(f"read/{size}/{number}", size) + data + b"\r\n")
                    if replies.readline() != b"+OK\r\n":
                        raise PeerFailed("redis refuses a SET")
                connection.sendall(_resp(b"GET", f"read/{size}/0".encode()))
                if int(replies.readline()[1:]) != size or replies.read(size) != data:
                    raise PeerFailed(f"redis: an object of {size} bytes reads back wrong")

    def plan(self, operation: str, size: int) -> Plan:
        match operation:
            case "GET":
                heads = [_resp(b"GET", f"read/{size}/{number}".encode()) for number in range(read_keys(size))]
                return Plan(heads, resp=True, expect_bytes=size)
            case "404":
                heads = [_resp(b"GET", f"absent/{number}".encode()) for number in range(64)]
                return Plan(heads, resp=True, expect_status=404)
            case "PUT kv":
                heads = [_resp_set(f"write/{size}/{number}", size) for number in range(write_keys(size))]
                return Plan(heads, body=content(size) + b"\r\n", resp=True)
        raise AssertionError(operation)

    def processes(self) -> dict[str, list[int]]:
        return {} if self._process is None else {"worker": [self._process.pid]}

    def stop(self) -> None:
        _stop(self._process)


def _resp(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _resp_set(key: str, size: int) -> bytes:
    return b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(key), key.encode(), size)


def installed(names: Sequence[str], folder: Path) -> tuple[list[Peer], list[str]]:
    """The named peers that this machine has, and the names of those it has not."""
    programs: dict[str, tuple[str, Callable[[str, Path], Peer]]] = {
        "nginx": ("nginx", NginxPeer),
        "redis": ("redis-server", RedisPeer),
    }
    found: list[Peer] = []
    absent: list[str] = []
    for name in names:
        program, kind = programs[name]
        # Debian keeps nginx in sbin, which is not on every user's path.
        path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if path is None:
            absent.append(name)
            continue
        home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder))
        found.append(kind(path, home))
    return found, absent
