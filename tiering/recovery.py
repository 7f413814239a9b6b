"""Is the index of a pool still one: after a restart of the operating system, or when somebody doubts it?

Promise: an index that contradicts itself is set aside, never served; what the backing store holds of it is taken back by
`tiering.rebuild`, and what it still says itself by `tiering.salvage`.
Owns nothing. Does not know who runs it; nobody may have the pool open. Kind: shell; blocking.
Spec: docs/SEMANTICS.md, "Power loss".
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import struct
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Final

from tiering import pages, whole
from tiering.check import check_pool
from tiering.folder import sync_folder
from tiering.heat import used_since_boot
from tiering.index import Index
from tiering.pool import PoolConfig, has_index

_FLOCK: Final = struct.Struct("hhqqi4x")
"""The kernel's `struct flock`: type, whence, first byte, length, process."""


class PoolRead(Exception):
    """An index cannot be replaced while somebody has it open: what its leases show would be written over."""


def set_aside_if_broken(config: PoolConfig) -> Path | None:
    """Where the index of a relaxed pool was moved to because it did not survive a power loss; None when all is well."""
    index, heat = config.path / "index", config.path / "heat"
    if config.durability != "relaxed" or not index.exists() or used_since_boot(heat):
        return None
    if whole.is_noted(config.path) or _is_sound(index):
        return None
    return _set_aside(config)


def set_aside_if_faulty(config: PoolConfig) -> Path | None:
    """The same for a pool of any durability, whatever has become of its index: for who wants to make it anew.

    Raises PoolRead: the index stays where it is then.
    """
    if not has_index(config.path) or _is_sound(config.path / "index"):
        return None
    aside = _set_aside(config)
    reader = _reader(aside)  # only now nobody opens it any more
    if reader:
        aside.rename(config.path / "index")
        sync_folder(config.path)
        raise PoolRead(
            f"pool {config.name}: process {reader} reads it on this host (recall_client.local): what it has leased would be "
            "written over; end it and run this again"
        )
    return aside


def last_set_aside(config: PoolConfig) -> Path | None:
    """The index that was set aside last."""
    found = sorted(config.path.glob("index.broken-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return found[-1] if found else None


def _reader(index: Path) -> int:
    """A process that has an index open, 0 for none, -1 for one of another container: LMDB keeps a lock on the first byte for each.
    This one must not have it."""
    try:
        fd = os.open(index / "lock.mdb", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_, process = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    finally:
        os.close(fd)
    return 0 if kind == fcntl.F_UNLCK else int(process) or -1


def _set_aside(config: PoolConfig) -> Path:
    aside = _free_name(config.path)
    (config.path / "index").rename(aside)
    sync_folder(config.path)
    return aside


def _is_sound(index: Path) -> bool:
    """Audits in a process of its own: reading through a broken B-tree may end in a signal."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        try:
            return apart.submit(count_faults, index).result() == 0
        except BrokenProcessPool:
            return False


def count_faults(index: Path) -> int:
    """Faults of an index by itself; an index that cannot be read counts as one."""
    if pages.faults(index):
        return 1
    try:
        opened = Index(index, synced=False, readonly=True)
        report, _ = check_pool(index.parent.name, opened, None)
        opened.close()
    except Exception:
        return 1
    return report.fault_count


def _free_name(path: Path) -> Path:
    number = 1
    while (path / f"index.broken-{number}").exists():
        number += 1
    return path / f"index.broken-{number}"
