"""Which index of a relaxed pool is taken as whole after a restart of the operating system. Kind: tests.

Spec: docs/SEMANTICS.md, "Power loss".
"""

from __future__ import annotations

from pathlib import Path

import lmdb.verify
import pytest

from tests.support.clock import ManualClock
from tests.support.engine import pool_config
from tiering import layout, whole
from tiering.heat import stamp_of, used_since_boot
from tiering.layout import RegionState
from tiering.pool import PoolConfig, open_pool, recover
from tiering.recovery import set_aside_if_broken

PAGE = 4096


@pytest.fixture
def config(tmp_path: Path) -> PoolConfig:
    """A pool with some commits behind it, and of another boot."""
    config = pool_config(tmp_path, "kv", durability="relaxed")
    pool = open_pool(config, 0, ManualClock())
    recover(pool)
    for region in range(5):
        pool.committer.run(lambda batch, at=region: batch.put("orders", layout.u64_key(at)))  # type: ignore[misc]
        pool.committer.run(lambda batch, at=region: batch.delete("orders", layout.u64_key(at)))  # type: ignore[misc]
    with pool.index.view() as view:
        assert {layout.REGION.decode(value).state for _, value in view.rows("regions")} == {RegionState.FREE}
    pool.close()
    assert used_since_boot(config.path / "heat")
    overwrite(config.path / "heat", 0, stamp_of(b"another boot").ljust(64, b"\0"))
    return config


def overwrite(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def test_whole_index_stays(config: PoolConfig) -> None:
    assert set_aside_if_broken(config) is None


def test_index_whose_free_pages_are_lost_is_set_aside(config: PoolConfig) -> None:
    """No row is there: everything can be read, until a commit writes over what is in use."""
    data = config.path / "index" / "data.mdb"
    with open(data, "rb") as file:
        walk = lmdb.verify._Verifier(file, data.stat().st_size)
        assert walk.verify() == []
    root = walk.meta.free.root
    overwrite(data, root * PAGE + PAGE // 2, bytes(PAGE // 2))
    assert set_aside_if_broken(config) == config.path / "index.broken-1"


def test_index_that_was_noted_as_whole_is_not_looked_at(config: PoolConfig) -> None:
    whole.note(config.path)
    overwrite(config.path / "index" / "data.mdb", 2 * PAGE, bytes(8 * PAGE))  # who looked would see that
    assert set_aside_if_broken(config) is None


@pytest.mark.parametrize("slot", [0, 1])
def test_note_is_gone_once_anybody_opens_the_pool(config: PoolConfig, slot: int) -> None:
    whole.note(config.path)
    open_pool(config, slot, ManualClock()).close()
    assert not whole.is_noted(config.path)


def test_index_is_looked_at_when_the_stamp_of_the_boot_is_lost(config: PoolConfig) -> None:
    (config.path / "heat").unlink()
    overwrite(config.path / "index" / "data.mdb", 2 * PAGE, bytes(8 * PAGE))
    assert set_aside_if_broken(config) == config.path / "index.broken-1"
