"""The note that an index lies whole on the device, so that a start after a restart of the operating system need not audit it.

Promise: it is there only while nobody has opened the pool for writing since all of its index was told to the device.
Owns the file `whole` of a pool. Does not know LMDB, or who stops a gateway. Kind: shell; blocking.
Spec: docs/SEMANTICS.md, "Power loss".
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tiering.folder import sync_folder

_NAME: Final = "whole"


def note(pool: Path) -> None:
    """Tells the index to the device, then notes it. Nobody may have the pool open. Raises OSError."""
    index = os.open(pool / "index" / "data.mdb", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(index)
    finally:
        os.close(index)
    os.close(os.open(pool / _NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    sync_folder(pool)


def is_noted(pool: Path) -> bool:
    return (pool / _NAME).exists()


def forget(pool: Path) -> None:
    """Before the pool is written to. The note does not come back with a power loss either."""
    if is_noted(pool):
        (pool / _NAME).unlink(missing_ok=True)
        sync_folder(pool)
