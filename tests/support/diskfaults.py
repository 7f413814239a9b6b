"""`DiskFaults`: a disk that fails as told, for a gateway's processes and no other.

    faults = DiskFaults(tmp_path)
    with Gateway(env=faults.env) as gateway:
        with faults.on(SYNC, errno.EIO, "/pools/standard/flash"):
            ...

A library that is preloaded into the processes answers the calls named here with an error, by the path of their file. It is
compiled from `diskfaults.c` once a run; without a C compiler the tests that need it are skipped. What is read through a
mapping (LMDB's pages) is no call and cannot be made to fail so.

Owns the compiled library and one file of rules. Does not know the gateway. Kind: shell (test support).
"""

from __future__ import annotations

import atexit
import functools
import mmap
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

WRITE: Final = 1
SYNC: Final = 2
READ: Final = 4
SEND: Final = 8
OPEN: Final = 16  # for writing
NAME: Final = 32  # rename, mkdir, unlink
SIZE: Final = 64  # truncate, allocate
CHANGE: Final = WRITE | OPEN | NAME | SIZE
"""All that changes a file system: what a read-only one refuses, and a full one cannot do."""

_RULE: Final = struct.Struct("<IiiIqq224s")
_RULES: Final = 16


@functools.cache
def _library() -> Path | None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    folder = Path(tempfile.mkdtemp(prefix="recall-diskfaults-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = folder / "diskfaults.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(target), str(source), "-ldl"], check=True)
    return target


class DiskFaults:
    """The rules of one or more gateways that were started with `env`."""

    def __init__(self, directory: Path) -> None:
        library = _library()
        if library is None:
            pytest.skip("no C compiler: a failing disk cannot be had")
        path = directory / "disk-faults"
        path.write_bytes(bytes(_RULE.size * _RULES))
        self.env: Final = {"LD_PRELOAD": str(library), "RECALL_TEST_FAULTS": str(path)}
        with open(path, "r+b") as stream:
            self._map = mmap.mmap(stream.fileno(), 0)

    @contextmanager
    def on(
        self, calls: int, error: int, path: str, *, times: int = -1, start: int = 0, stop: int = 0
    ) -> Iterator[Rule]:
        """While the block runs, `calls` on files whose path has `path` in it fail with `error`, `times` times (or for ever).

        `start`, `stop`: only calls that name an offset in between."""
        place = next(at for at in range(_RULES) if not self._read(at)[0])
        # The call comes last: a process that looks in between finds no rule.
        _RULE.pack_into(self._map, place * _RULE.size, 0, error, times, 0, start, stop, path.encode())
        struct.pack_into("<I", self._map, place * _RULE.size, calls)
        try:
            yield Rule(self, place)
        finally:
            struct.pack_into("<I", self._map, place * _RULE.size, 0)

    def _read(self, place: int) -> tuple[int, int, int, int]:
        calls, error, left, hits, *_ = _RULE.unpack_from(self._map, place * _RULE.size)
        return calls, error, left, hits

    def hits(self, place: int) -> int:
        return self._read(place)[3]


class Rule:
    """One rule in force."""

    def __init__(self, faults: DiskFaults, place: int) -> None:
        self._faults = faults
        self._place = place

    @property
    def hits(self) -> int:
        """How many calls it has made fail."""
        return self._faults.hits(self._place)
