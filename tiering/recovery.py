"""After a restart of the operating system: is the index of a pool that was not synced still one?

Promise: an unsynced index that contradicts itself is set aside, never served; the pool starts empty and what the
backing store holds of it is taken back by `tiering.rebuild`.
Owns nothing. Does not know who runs it; nobody may have the pool open. Kind: shell; blocking.
Spec: docs/SEMANTICS.md, "Power loss".
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tiering.check import check_pool
from tiering.heat import used_since_boot
from tiering.index import Index, page_faults
from tiering.pool import PoolConfig


def set_aside_if_broken(config: PoolConfig) -> Path | None:
    """Where the index of a relaxed pool was moved to because it did not survive a power loss; None when all is well."""
    index, heat = config.path / "index", config.path / "heat"
    if config.durability != "relaxed" or not index.exists() or used_since_boot(heat) or _is_sound(index):
        return None
    aside = _free_name(config.path)
    index.rename(aside)
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
    if page_faults(index):
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
