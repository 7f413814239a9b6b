"""Folders that are still there after a power loss.

Promise: a name is on the device when `sync_folder` of its folder has returned, a new folder when
`make_folder` has. The sync of a file
promises its bytes, not that anybody finds them.
Owns nothing. Does not know what is in a folder. Kind: shell; blocking.
Spec: POSIX fsync and its rationale; docs/SEMANTICS.md, "Durability".
"""

from __future__ import annotations

import errno
import os
from pathlib import Path


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, which only we may enter; one that is there stays as it is."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(path: str | Path) -> None:
    """Forces the names in a folder to the device."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
