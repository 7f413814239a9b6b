"""S3 servers: one that runs somewhere, given by URL, or one that is started here; every request is signed.

Owns the processes it starts, and leaves its buckets behind at a server it did not start. Kind: shell.
Spec: bench/README.md, "The peers".
"""

from __future__ import annotations

import http.client
import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from bench.loader import Plan
from bench.peers.peer import (
    ABSENT_KEYS,
    CONNECTIONS_MAX,
    Child,
    PeerFailed,
    content,
    free_port,
    once_keys,
    read_keys,
    write_keys,
)
from bench.process import named
from bench.signing import Signer

_PATIENCE_S: Final = 60.0
_AGAIN_S: Final = 0.1

ENDPOINTS: Final = "RECALL_BENCH_S3"
"""The environment variable with S3 servers that run already: `NAME=http://KEY:SECRET@HOST:PORT#PROCESS,… …`."""
FILLING: Final = 8
"""Requests at once while a peer is filled."""
KEY, SECRET = "bench", "bench-secret-key"
PINNED: Final = (("x-recall-pin", "true"),)
"""Of what the gateway is to have all the time: PUTs measured beside are more than a pool holds, and would push it out."""


@dataclass(frozen=True)
class Running:
    """An S3 server that answers: where, who may ask, and whose CPU counts."""

    address: tuple[str, int]
    access_key: str
    secret_key: str
    processes: Callable[[], Mapping[str, Sequence[int]]] = field(default=dict)
    stop: Callable[[], None] = lambda: None
    host: str = ""

    def __post_init__(self) -> None:
        if not self.host:
            object.__setattr__(self, "host", "{}:{}".format(*self.address))


def endpoints(text: str) -> dict[str, Callable[[], Running]]:
    """The servers that `ENDPOINTS` names. Raises ValueError for anything else."""
    found: dict[str, Callable[[], Running]] = {}
    for word in text.split():
        name, _, url = word.partition("=")
        parts = urlsplit(url)
        if not name or parts.scheme != "http" or not parts.hostname or not parts.username or not parts.password:
            raise ValueError(f"{ENDPOINTS} holds NAME=http://KEY:SECRET@HOST:PORT, parted by spaces")
        port = parts.port or 80
        running = (
            unquote(parts.username),
            unquote(parts.password),
            [each for each in parts.fragment.split(",") if each],
        )
        found[name] = lambda at=(parts.hostname, port), running=running: _reached(*at, *running)
    return found


def _reached(host: str, port: int, access_key: str, secret_key: str, names: Sequence[str]) -> Running:
    pids = [pid for name in names for pid in named(name)]
    return Running(
        (socket.gethostbyname(host), port),
        access_key,
        secret_key,
        processes=lambda: {"worker": pids} if pids else {},
        host=f"{host}:{port}",
    )


def rclone(program: str, folder: Path) -> Running:
    """`rclone serve s3` over files."""
    (folder / "files").mkdir()
    port = free_port()
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}"]
    return _own(Child("rclone", [*command, "--config", str(folder / "none"), str(folder / "files")], port, folder))


def moto(folder: Path) -> Running:
    """moto's server; it verifies no signature and closes each connection."""
    port = free_port()
    return _own(Child("moto", [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, folder))


def _own(child: Child) -> Running:
    return Running(child.address, KEY, SECRET, lambda: {"worker": [child.pid]}, child.stop)


class S3Peer:
    """`durable`: it may be held against our durable pool. `pooled`: it is our gateway, whose buckets name their pool."""

    operations: Collection[str] = ("GET", "HEAD", "404", "PUT kv", "DELETE")
    connections_max = CONNECTIONS_MAX
    pooled = False
    cores = 0

    def __init__(self, name: str, launch: Callable[[], Running], durable: bool = False) -> None:
        self.name = name
        if durable:
            self.operations = (*self.operations, "PUT standard")
        self._launch = launch
        self.running: Running | None = None

    @property
    def address(self) -> tuple[str, int]:
        return self._up().address

    def _up(self) -> Running:
        assert self.running is not None, "the peer is not started"
        return self.running

    def up(self) -> None:
        """Starts it, with whatever it holds."""
        running = self.running = self._launch()
        self.signer = Signer(running.host, running.access_key, running.secret_key)

    def start(self, sizes: Sequence[int], operations: Collection[str]) -> None:
        self.up()
        for pool in ("kv", "standard"):
            self.ask("PUT", f"/{bucket(pool)}", b"", (("x-recall-pool", pool),) if self.pooled else (), fine=(200, 409))
        for size in sizes:
            self.fill("kv", f"read-{size}", read_keys(size), size, PINNED if self.pooled else ())
            if self.ask("GET", f"/{bucket('kv')}/read-{size}-0") != content(size):
                raise PeerFailed(f"{self.name}: an object of {size} bytes reads back wrong")

    def fill(self, pool: str, begin: str, count: int, size: int, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Stores `count` objects whose keys begin alike, several at once."""
        paths = [f"/{bucket(pool)}/{begin}-{number}" for number in range(count)]
        with ThreadPoolExecutor(FILLING) as threads:
            list(threads.map(lambda path: self.ask("PUT", path, content(size), headers), paths))

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        fine: Collection[int] = (200,),
        query: str = "",
    ) -> bytes:
        """One request on its own connection, over the raw head, so that what is signed is what is sent. Again where it is told
        to come later, as a busy server does."""
        length = None if body is None else len(body)
        deadline_s = time.monotonic() + _PATIENCE_S
        while True:
            with socket.create_connection(self.address, timeout=60) as connection:
                connection.sendall(self.signer.head(method, path, length, headers, query) + (body or b""))
                reply = http.client.HTTPResponse(connection, method=method)
                reply.begin()
                data = reply.read()
            if reply.status != 503 or 503 in fine or time.monotonic() > deadline_s:
                break
            time.sleep(_AGAIN_S)
        if reply.status not in fine:
            raise PeerFailed(f"{self.name}: {method} {path}: {reply.status} {data[:300]!r}")
        return data

    def plan(self, operation: str, size: int) -> Plan:
        match operation:
            case "GET" | "HEAD":
                heads = self.heads(operation, "kv", f"read-{size}", read_keys(size))
                return Plan(heads, head_only=operation == "HEAD", expect_bytes=size)
            case "404":
                return Plan(self.heads("GET", "kv", "absent", ABSENT_KEYS), expect_status=404)
            case "PUT kv" | "PUT standard":
                return self._put(operation.removeprefix("PUT "), f"write-{size}", size, write_keys(size))
            case "DELETE":
                heads = self.heads("DELETE", "kv", f"gone-{size}", once_keys(size))
                before = self._put("kv", f"gone-{size}", size, once_keys(size))
                return Plan(heads, expect_status=2, once=True, before=before)
        raise AssertionError(operation)

    def _put(self, pool: str, begin: str, size: int, count: int) -> Plan:
        return Plan(self.heads("PUT", pool, begin, count, size), body=content(size))

    def heads(
        self,
        method: str,
        pool: str,
        begin: str,
        count: int,
        length: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        query: str = "",
    ) -> list[bytes]:
        """Signed heads for `count` keys that begin alike. No folders: rclone fails where several make one at once."""
        paths = [f"/{bucket(pool)}/{begin}-{number}" for number in range(count)]
        return [self.signer.head(method, path, length, headers, query) for path in paths]

    def processes(self) -> Mapping[str, Sequence[int]]:
        return {} if self.running is None else self.running.processes()

    def stop(self) -> None:
        running, self.running = self.running, None
        if running is not None:
            running.stop()


def bucket(pool: str) -> str:
    """The bucket of a pool; at a server without pools, of what is compared with it."""
    return f"recall-bench-{pool}"
