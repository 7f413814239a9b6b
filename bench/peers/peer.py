"""What a peer is: a server that says how it is filled and what to send it for an operation at a size.

Owns nothing but the processes of `Child`. Does not know rounds, CPU or tables.
Kind: shell. Spec: bench/README.md, "The peers".
"""

from __future__ import annotations

import functools
import random
import socket
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from bench.loader import Plan

KIB, MIB = 1 << 10, 1 << 20
READ_BYTES_MAX = 64 * MIB
READ_KEYS_MAX = 256
"""A read cell goes round this many objects at most, and this many bytes: hot data, but not one object in the CPU's cache."""
WRITE_BYTES_MAX = 128 * MIB
WRITE_KEYS_MAX = 4096
"""A write cell goes round this many keys, then overwrites them."""
ONCE_BYTES_MAX = 128 * MIB
ONCE_KEYS_MAX = 512
"""What a cell whose objects are of use only once (deleted, recalled) makes for each round."""
LOOKUP_KEYS: Final = 256
LOOKUP_BYTES: Final = 4096
BATCH_KEYS_MAX = 16
BATCH_BYTES_MAX = 32 * MIB
ABSENT_KEYS = 64
CONNECTIONS_MAX: Final = 4096
"""Of the native loader."""
START_S = 30.0
_POLL_S = 0.02


class PeerFailed(Exception):
    """A peer did not start or answered a probe wrongly."""


def read_keys(size: int) -> int:
    """How many objects a read cell goes round."""
    return max(4, min(READ_KEYS_MAX, READ_BYTES_MAX // size))


def write_keys(size: int) -> int:
    """How many keys a write cell goes round."""
    return max(4, min(WRITE_KEYS_MAX, WRITE_BYTES_MAX // size))


def once_keys(size: int) -> int:
    """How many objects a cell uses up in a round."""
    return max(4, min(ONCE_KEYS_MAX, ONCE_BYTES_MAX // size))


def batch_keys(size: int) -> int:
    """How many objects are asked for in one request."""
    return max(2, min(BATCH_KEYS_MAX, BATCH_BYTES_MAX // size))


@functools.lru_cache(maxsize=8)
def content(size: int) -> bytes:
    """The bytes of every object of a size: incompressible, the same for all peers and runs."""
    return random.Random(size).randbytes(size)


class Peer(Protocol):
    """A server to load. `operations`: what `plan` knows."""

    @property
    def name(self) -> str: ...

    @property
    def operations(self) -> Collection[str]: ...

    @property
    def connections_max(self) -> int:
        """It is not measured with more."""

    @property
    def cores(self) -> int:
        """How many it keeps busy at most; 0: as many as there are."""

    @property
    def address(self) -> tuple[str, int]:
        """IPv4 address and port."""

    def start(self, sizes: Sequence[int], operations: Collection[str]) -> None:
        """Starts it and stores what these cells read; raises PeerFailed, also when something reads back wrong."""

    def plan(self, operation: str, size: int) -> Plan:
        """What to send. Signed requests are signed now and good for 15 minutes."""

    def processes(self) -> Mapping[str, Sequence[int]]:
        """Pids by role; `worker` is what serves. Empty when they are not on this machine."""

    def stop(self) -> None: ...


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Child:
    """A server process on the loopback, started when it is made; it is there once its port takes connections."""

    def __init__(self, name: str, command: Sequence[str], port: int, folder: Path) -> None:
        """Raises PeerFailed with the end of what it said."""
        with open(folder / "output", "wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        self.address = ("127.0.0.1", port)
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(self.address, timeout=1).close()
                return
            except OSError:
                if self._process.poll() is None and time.monotonic() < deadline:
                    time.sleep(_POLL_S)
                    continue
            said = (folder / "output").read_text(encoding="utf-8", errors="replace")[-500:]
            self.stop()
            raise PeerFailed(f"{name} does not listen on port {port}: {said}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
