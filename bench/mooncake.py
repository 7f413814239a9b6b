"""`python -m bench.mooncake own|load`: Mooncake Store's library at work, as the owner of memory and as the loader.

Owns a client of the store. Does not know what is measured. Kind: shell; `load` runs a thread for each connection.
Spec: bench/peers/mooncake.py; Mooncake's Python API.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import mmap
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.peers.peer import (
    ABSENT_KEYS,
    LOOKUP_BYTES,
    LOOKUP_KEYS,
    MIB,
    PeerFailed,
    batch_keys,
    content,
    free_port,
    once_keys,
    read_keys,
    write_keys,
)
from bench.quantity import percentiles

SEGMENT_BYTES = 2048 * MIB
CLIENT_BYTES = 256 * MIB


def _store(master: int, segment_bytes: int, client_bytes: int) -> Any:
    """A client; with a segment it also owns memory of the store. Raises PeerFailed."""
    from mooncake.store import MooncakeDistributedStore  # only where it is asked for, and in a process of its own

    store = MooncakeDistributedStore()
    host, at = f"127.0.0.1:{free_port()}", f"127.0.0.1:{master}"
    if status := store.setup(host, "P2PHANDSHAKE", segment_bytes, client_bytes, "tcp", "", at):
        raise PeerFailed(f"mooncake: setup: {status}")
    return store


class _Memory:
    """Memory that the library may send from and receive into, for as long as the process lives."""

    _kept: list[mmap.mmap] = []

    def __init__(self, store: Any, size: int, data: bytes = b"") -> None:
        self._memory = mmap.mmap(-1, max(size, mmap.PAGESIZE))
        self._memory[: len(data)] = data
        self._kept.append(self._memory)  # freed and mapped again at the same place, it would be registered twice
        self.place = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        if status := store.register_buffer(self.place, len(self._memory)):
            raise PeerFailed(f"mooncake: register_buffer: {status}")

    def holds(self, data: bytes) -> bool:
        return self._memory[: len(data)] == data


def _own(master: int, sizes: Sequence[int], ready: int) -> None:
    """Holds the store's memory, filled with what is read; listens on `ready` when it is."""
    store = _store(master, SEGMENT_BYTES, CLIENT_BYTES)
    for size in sizes:
        memory = _Memory(store, size, content(size))
        for key in _keys("read", size, read_keys(size)):
            if store.put_from(key, memory.place, size):
                raise PeerFailed("mooncake refuses a put")
        back = _Memory(store, size)
        if store.get_into(_keys("read", size, 1)[0], back.place, size) != size or not back.holds(content(size)):
            raise PeerFailed(f"mooncake: an object of {size} bytes reads back wrong")
    memory = _Memory(store, LOOKUP_BYTES, content(LOOKUP_BYTES))
    for key in _keys("look", 0, LOOKUP_KEYS):
        store.put_from(key, memory.place, LOOKUP_BYTES)
    with socket.create_server(("127.0.0.1", ready)) as listener:
        while True:
            listener.accept()[0].close()


def _keys(kind: str, size: int, count: int) -> list[str]:
    return [f"{kind}/{size}/{number:06}" for number in range(count)]


def _calls(store: Any, operation: str, size: int) -> tuple[int, Callable[[int], bool]]:
    """How many different calls there are, and one of them, by its number: was it right? For one thread."""
    match operation:
        case "GET":
            keys = _keys("read", size, read_keys(size))
            into = _Memory(store, size)
            return len(keys), lambda number: bool(store.get_into(keys[number], into.place, size) == size)
        case "404":
            keys = _keys("none", 0, ABSENT_KEYS)
            into = _Memory(store, LOOKUP_BYTES)
            return len(keys), lambda number: bool(store.get_into(keys[number], into.place, LOOKUP_BYTES) < 0)
        case "PUT kv" | "FILL":
            keys = (
                _keys("write", size, write_keys(size))
                if operation == "PUT kv"
                else _keys("gone", size, once_keys(size))
            )
            source = _Memory(store, size, content(size))
            return len(keys), lambda number: not store.upsert_from(keys[number], source.place, size)
        case "DELETE":
            keys = _keys("gone", size, once_keys(size))
            return len(keys), lambda number: not store.remove(keys[number], True)
        case "LOOKUP":
            asked = _keys("look", 0, LOOKUP_KEYS)
            return 1, lambda _: bool(store.batch_is_exist(asked) == [1] * len(asked))
        case "BATCH":
            asked = _keys("read", size, batch_keys(size))
            memories = [_Memory(store, size) for _ in asked]
            places, sizes = [memory.place for memory in memories], [size] * len(asked)
            return 1, lambda _: bool(store.batch_get_into(asked, places, sizes) == sizes)
    raise AssertionError(operation)


def _load(master: int, operation: str, size: int, connections: int, seconds: float) -> dict[str, object]:
    """As the native loader: a closed loop of `connections` threads."""
    store = _store(master, 0, CLIENT_BYTES)
    once = operation in ("DELETE", "FILL")
    numbers = itertools.count()
    took_us: list[float] = []
    wrong: list[int] = []
    loops = [_calls(store, operation, size) for _ in range(connections)]
    begun = time.perf_counter()

    def work(count: int, call: Callable[[int], bool]) -> None:
        while (now := time.perf_counter()) < begun + seconds:
            number = next(numbers)
            if once and number >= count:
                return
            right = call(number % count)
            if right:
                took_us.append((time.perf_counter() - now) * 1e6)
            else:
                wrong.append(number)
                if len(wrong) > 1000:
                    return

    threads = [threading.Thread(target=work, args=loop) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - begun
    store.close()
    took = percentiles(took_us)
    return {
        "seconds": spent,
        "ok": len(took_us),
        "bad": len(wrong),
        "first_bad": f"{operation} was refused" if wrong else "",
        "body_bytes": 0,
        "connects": connections,
        "first_byte_us": took.get("p50", 0.0),
        **{f"{name}_us": took.get(name, 0.0) for name in ("p50", "p90", "p99", "p999", "max")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.mooncake", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("role", choices=("own", "load"))
    parser.add_argument("--master", type=int, required=True)
    parser.add_argument("--sizes", default="")
    parser.add_argument("--ready", type=int, default=0)
    parser.add_argument("--operation", default="")
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    args = parser.parse_args()
    if args.role == "own":
        _own(args.master, [int(size) for size in args.sizes.split(",")], args.ready)
    # The library writes its log to the standard output: the figures are the last line.
    print("\n" + json.dumps(_load(args.master, args.operation, args.size, args.connections, args.seconds)), flush=True)
    os._exit(0)  # its threads do not always end


if __name__ == "__main__":
    main()
