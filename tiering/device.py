"""What the device under a pool answers, in the contract's words; and files that are written through a mapping.

Promise: whatever a write fails of is DiskFull or DeviceFailed, said in the log once a minute; a file that `mapped` opened
has its blocks, so that no later store through the mapping can meet a full disk (which would be a signal, not an error).
Owns nothing. Does not know what is written. Kind: shell; any thread. Spec: docs/SEMANTICS.md, "Faults".
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
from pathlib import Path
from typing import Final

from tiering.contract import DeviceFailed, DiskFull, StoreError

_NO_ROOM: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
RETRY_S: Final = 5
"""What a client is told to wait when the device refuses: about as long as a process needs to be replaced."""
_PROBE_BYTES: Final = 4096

_log = logging.getLogger("recall.device")


def refusal(error: OSError, what: str) -> StoreError:
    """What a failed write, sync or allocation is to the caller. `what`: which file, for the log."""
    return no_room(what) if error.errno in _NO_ROOM else failed(what, error.strerror or "")


def no_room(what: str) -> DiskFull:
    _log.error("%s: the disk is full", what, extra={"once": f"full {what}"})
    return DiskFull(f"{what}: no room")


def failed(what: str, why: str) -> DeviceFailed:
    _log.error("%s: the device refuses: %s", what, why, extra={"once": f"device {what} {why}"})
    return DeviceFailed(f"{what}: {why}", retry_s=RETRY_S)


def runs(pid: int) -> bool:
    """Whether there is such a process: of one that is gone, what it left in a mapped table says nothing."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def keeps_writes(folder: Path) -> bool:
    """Whether the device takes a write and a sync now. A full disk says nothing about that, and counts as yes."""
    path = folder / "probe"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, os.urandom(_PROBE_BYTES), 0)
            os.fsync(fd)
        finally:
            os.close(fd)
            path.unlink()
    except OSError as error:
        return error.errno in _NO_ROOM
    return True


def allocate(fd: int, size: int, what: str) -> None:
    """Gives the file `size` bytes of room; what it holds already stays. Raises DiskFull, DeviceFailed."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        raise refusal(error, what) from error


def mapped(path: Path, size: int) -> mmap.mmap:
    """A file of `size` bytes, made if need be, mapped for reading and writing. Raises DiskFull, DeviceFailed."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise refusal(error, str(path)) from error
    try:
        allocate(fd, size, str(path))
        return mmap.mmap(fd, size)
    finally:
        os.close(fd)
