"""Redis and memcached: key-value servers with protocols of their own, asked for what comes nearest.

Their replies have lengths known beforehand, so the loader is told how a right one begins and how long it is.
Owns their processes. Kind: shell; the wire formats are pure.
Spec: bench/README.md, "The peers"; Redis serialization protocol; memcached's doc/protocol.txt.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from bench.loader import Plan
from bench.peers.peer import (
    ABSENT_KEYS,
    CONNECTIONS_MAX,
    LOOKUP_BYTES,
    LOOKUP_KEYS,
    Child,
    PeerFailed,
    batch_keys,
    content,
    free_port,
    once_keys,
    read_keys,
    write_keys,
)


class Wire(Protocol):
    """One protocol: the plan for each thing that can be asked. All keys are of one length."""

    def command(self, program: str, port: int, workers: int, folder: Path) -> list[str]: ...
    def get(self, keys: Sequence[str], size: int) -> Plan:
        """Each key alone."""

    def gather(self, keys: Sequence[str], size: int) -> Plan:
        """All in one request."""

    def miss(self, keys: Sequence[str]) -> Plan: ...
    def lookup(self, keys: Sequence[str]) -> Plan: ...
    def store(self, keys: Sequence[str], size: int) -> Plan: ...
    def delete(self, keys: Sequence[str]) -> Plan: ...


class RedisWire:
    """RESP. No persistence, no authentication; EXISTS stands for a look-up."""

    def command(self, program: str, port: int, workers: int, folder: Path) -> list[str]:
        quiet = ["--dir", str(folder), "--loglevel", "warning"]
        return [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *quiet]

    def get(self, keys: Sequence[str], size: int) -> Plan:
        begin = b"$%d\r\n" % size
        return Plan([_resp("GET", key) for key in keys], reply=begin, reply_bytes=len(begin) + size + 2)

    def gather(self, keys: Sequence[str], size: int) -> Plan:
        begin, one = b"*%d\r\n" % len(keys), len(b"$%d\r\n" % size) + size + 2
        return Plan([_resp("MGET", *keys)], reply=begin, reply_bytes=len(begin) + one * len(keys))

    def miss(self, keys: Sequence[str]) -> Plan:
        return _fixed([_resp("GET", key) for key in keys], b"$-1\r\n")

    def lookup(self, keys: Sequence[str]) -> Plan:
        return _fixed([_resp("EXISTS", *keys)], b":%d\r\n" % len(keys))

    def store(self, keys: Sequence[str], size: int) -> Plan:
        heads = [_resp("SET", key, "")[:-6] + b"$%d\r\n" % size for key in keys]
        return replace(_fixed(heads, b"+OK\r\n"), body=content(size) + b"\r\n")

    def delete(self, keys: Sequence[str]) -> Plan:
        return _fixed([_resp("DEL", key) for key in keys], b":1\r\n")


def _resp(*words: str) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)


class MemcachedWire:
    """The text protocol; `mg` (meta get) without flags, pipelined, stands for a look-up."""

    def command(self, program: str, port: int, workers: int, folder: Path) -> list[str]:
        may_open = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # it refuses to start with more connections than that
        connections = 4096 if may_open == resource.RLIM_INFINITY else min(4096, may_open // 2)
        limits = ["-m", "2048", "-I", "64m", "-c", str(connections), "-t", str(workers)]
        return [program, "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-u", "root", *limits]

    def get(self, keys: Sequence[str], size: int) -> Plan:
        return self._values([b"get %b\r\n" % key.encode() for key in keys], keys[:1], size)

    def gather(self, keys: Sequence[str], size: int) -> Plan:
        return self._values([b"get %b\r\n" % " ".join(keys).encode()], keys, size)

    @staticmethod
    def _values(heads: Sequence[bytes], keys: Sequence[str], size: int) -> Plan:
        one = len(f"VALUE {keys[0]} 0 {size}\r\n") + size + 2
        return Plan(heads, reply=b"VALUE ", reply_bytes=one * len(keys) + len(b"END\r\n"))

    def miss(self, keys: Sequence[str]) -> Plan:
        return _fixed([b"get %b\r\n" % key.encode() for key in keys], b"END\r\n")

    def lookup(self, keys: Sequence[str]) -> Plan:
        return _fixed([b"".join(b"mg %b\r\n" % key.encode() for key in keys)], b"HD\r\n" * len(keys))

    def store(self, keys: Sequence[str], size: int) -> Plan:
        heads = [b"set %b 0 0 %d\r\n" % (key.encode(), size) for key in keys]
        return replace(_fixed(heads, b"STORED\r\n"), body=content(size) + b"\r\n")

    def delete(self, keys: Sequence[str]) -> Plan:
        return _fixed([b"delete %b\r\n" % key.encode() for key in keys], b"DELETED\r\n")


def _fixed(heads: Sequence[bytes], reply: bytes) -> Plan:
    return Plan(heads, reply=reply, reply_bytes=len(reply))


class KeyValuePeer:
    """A server that speaks `wire`."""

    operations = ("GET", "404", "PUT kv", "DELETE", "LOOKUP", "BATCH")
    connections_max = CONNECTIONS_MAX

    def __init__(self, name: str, wire: Wire, program: str, workers: int, folder: Path) -> None:
        self.name = name
        self._wire = wire
        self.cores = workers
        self._command = (program, workers, folder)
        self._child: Child | None = None
        self.address = ("127.0.0.1", 0)

    def start(self, sizes: Sequence[int], operations: Collection[str]) -> None:
        program, workers, folder = self._command
        port = free_port()
        self._child = Child(self.name, self._wire.command(program, port, workers, folder), port, folder)
        self.address = self._child.address
        for size in sizes:
            self._ask_each(self._wire.store(_keys("read", size, read_keys(size)), size))
            self._ask_each(self._wire.get(_keys("read", size, 1), size), content(size))
        self._ask_each(self._wire.store(_keys("look", 0, LOOKUP_KEYS), LOOKUP_BYTES))

    def _ask_each(self, plan: Plan, within: bytes = b"") -> None:
        """Sends each request of a plan once and looks at the replies. Raises PeerFailed."""
        with socket.create_connection(self.address, timeout=60) as connection, connection.makefile("rb") as replies:
            for head in plan.heads:
                connection.sendall(head + plan.body)
                reply = replies.read(plan.reply_bytes)
                if not reply.startswith(plan.reply) or within not in reply:
                    raise PeerFailed(f"{self.name}: {head[:60]!r}: {reply[:60]!r}")

    def plan(self, operation: str, size: int) -> Plan:
        wire = self._wire
        match operation:
            case "GET":
                return wire.get(_keys("read", size, read_keys(size)), size)
            case "404":
                return wire.miss(_keys("none", 0, ABSENT_KEYS))
            case "PUT kv":
                return wire.store(_keys("write", size, write_keys(size)), size)
            case "DELETE":
                keys = _keys("gone", size, once_keys(size))
                return replace(wire.delete(keys), once=True, before=wire.store(keys, size))
            case "LOOKUP":
                return wire.lookup(_keys("look", 0, LOOKUP_KEYS))
            case "BATCH":
                return wire.gather(_keys("read", size, batch_keys(size)), size)
        raise AssertionError(operation)

    def processes(self) -> Mapping[str, Sequence[int]]:
        return {} if self._child is None else {"worker": [self._child.pid]}

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()


def _keys(kind: str, size: int, count: int) -> list[str]:
    return [f"{kind}/{size}/{number:06}" for number in range(count)]
