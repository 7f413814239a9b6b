"""Mooncake Store, where its wheel can be imported: a master, an owner of memory, and a client that is a library.

Nothing speaks its protocol but that library, so it drives itself (`bench.mooncake`). What counts as the server is the
master and the owner; the library works in the client and is not counted, although much of the work is there. Transport
is TCP.

Owns their processes. Kind: shell. Spec: bench/README.md, "The peers".
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from bench.loader import Plan
from bench.peers.peer import Child, free_port


class MooncakePeer:
    """PUT is `upsert`: `put` of a key that is there does nothing."""

    operations = ("GET", "404", "PUT kv", "DELETE", "LOOKUP", "BATCH")
    connections_max = 8  # its client waits by spinning: with more threads than cores calls take seconds
    cores = 0

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder
        self._master: Child | None = None
        self._owner: Child | None = None
        self.address = ("127.0.0.1", 0)

    def start(self, sizes: Sequence[int], operations: Collection[str]) -> None:
        (self._folder / "owner").mkdir()
        port, owner = free_port(), free_port()
        ports = [f"--rpc_port={port}", f"--metrics_port={free_port()}"]
        command = [sys.executable, "-m", "mooncake.cli", "--rpc_address=127.0.0.1", *ports]
        self._master = Child(self.name, command, port, self._folder)
        self.address = self._master.address
        filled = ",".join(map(str, sizes))
        command = [sys.executable, "-m", "bench.mooncake", "own", "--master", str(port), "--sizes", filled]
        self._owner = Child(self.name, [*command, "--ready", str(owner)], owner, self._folder / "owner")

    def plan(self, operation: str, size: int) -> Plan:
        before = Plan(driver=self._driver("FILL", size)) if operation == "DELETE" else None
        return Plan(driver=self._driver(operation, size), before=before)

    def _driver(self, operation: str, size: int) -> tuple[str, ...]:
        command = (sys.executable, "-m", "bench.mooncake", "load", "--master", str(self.address[1]))
        return (*command, "--operation", operation, "--size", str(size))

    def processes(self) -> Mapping[str, Sequence[int]]:
        return {"worker": [child.pid for child in (self._master, self._owner) if child is not None]}

    def stop(self) -> None:
        for child in (self._owner, self._master):
            if child is not None:
                child.stop()
