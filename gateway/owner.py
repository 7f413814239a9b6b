"""Whose a backing store is: a mark in it that names the data directory which writes there.

Promise: a store that another data directory has marked is never marked silently anew; who is told of it decides. Two gateways on
one store would write over each other's copies and delete them, and an empty data directory over the store of a lost one looks
as if nothing had been there.

Owns `<data-dir>/id` and the mark. Does not know what else is in the store. Kind: shell (one small file, three calls).
Spec: docs/decisions/0022-whose-a-backing-store-is.md; docs/FORMAT.md, "Cold objects".
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Final

from tiering.backing.keys import OWNER
from tiering.backing.streams import BytesSource
from tiering.folder import sync_folder
from tiering.ports import Backing, BackingCorrupt, NotFound

ID_BYTES_MAX: Final = 64


def own_id(data_dir: Path) -> str:
    """The id of a data directory, made when it is first asked for. Raises OSError."""
    path = data_dir / "id"
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        pass
    partial = path.with_name("id.new")
    with open(partial, "w", encoding="ascii") as stream:
        stream.write(f"{uuid.uuid4()}\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)
    sync_folder(data_dir)
    return path.read_text("ascii").strip()


async def claim(backing: Backing, own: str, *, take: bool = False) -> str:
    """Marks a store that nobody has marked; answers "", or the id of whom it is marked for. `take`: in any case. Raises
    BackingUnavailable."""
    found = "" if take else await _marked(backing)
    if not found:
        await backing.put(OWNER, BytesSource(own.encode()))
    return "" if found in ("", own) else found


async def _marked(backing: Backing) -> str:
    try:
        stop = min((await backing.stat(OWNER)).size, ID_BYTES_MAX)
        return b"".join([bytes(chunk) async for chunk in backing.get(OWNER, 0, stop)]).decode("ascii", "replace")
    except (NotFound, BackingCorrupt):
        return ""
