"""Epochs: regions wait for their readers, the index's pages do not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import lmdb
import pytest

from tests.support.clock import ManualClock
from tests.support.engine import pool_config
from tiering.epochs import EPOCHS_MAX, LONG_TURNS, Epochs
from tiering.index import Batch, Index, View
from tiering.pool import Pool, open_pool
from tiering.readers import SLOTS, LongReaders
from tiering.space import KEEPER_SLOT

COMMITS = 3000


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = open_pool(pool_config(tmp_path, "small"), KEEPER_SLOT, ManualClock())
    yield pool
    pool.close()


def _write(pool: Pool, commits: int) -> None:
    for number in range(commits):
        pool.committer.run(lambda batch, number=number: batch.put("tombstones", b"name", b"%d" % number))
        pool.epochs.rotate()


def _sealed(batch: Batch) -> int:
    region = batch.claim_region(KEEPER_SLOT)
    assert region is not None
    batch.seal_region(region)
    return region


def _recycled(pool: Pool) -> int:
    pool.epochs.rotate()
    oldest = pool.epochs.oldest_reader()
    return pool.committer.run(lambda batch: batch.recycle(oldest))


def test_a_reader_that_takes_long_does_not_make_the_index_grow(pool: Pool) -> None:
    _write(pool, 100)
    before = pool.index.path.joinpath("data.mdb").stat().st_size
    epoch = pool.epochs.current
    epoch.acquire()
    _write(pool, COMMITS)
    grown = pool.index.path.joinpath("data.mdb").stat().st_size - before
    assert grown < 1 << 20, "the index grew while somebody read"
    epoch.release()


def test_a_region_waits_for_a_reader_that_takes_long(pool: Pool) -> None:
    region = pool.committer.run(_sealed)
    epoch = pool.epochs.current
    epoch.acquire()
    pool.committer.run(lambda batch: batch.free_region(region))
    for _ in range(3):
        assert _recycled(pool) == 0
        _write(pool, LONG_TURNS)
    younger = pool.epochs.current
    younger.acquire()
    _write(pool, 2 * LONG_TURNS)
    assert _recycled(pool) == 0
    epoch.release()
    assert _recycled(pool) == 1, "the younger reader began after it was freed"
    younger.release()


class Crowded:
    """An index whose table of readers is full for a while."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.full = False

    def view(self) -> View:
        if self.full:
            raise lmdb.ReadersFullError("mdb_txn_begin", -30790)
        return self._index.view()


def test_turns_that_find_no_snapshot_leave_the_next_ones_theirs(pool: Pool, tmp_path: Path) -> None:
    index = Crowded(pool.index)
    epochs = Epochs(cast(Index, index), LongReaders(tmp_path, 3))
    first = epochs.current
    index.full = True
    for _ in range(EPOCHS_MAX):
        with pytest.raises(lmdb.ReadersFullError):
            epochs.rotate()
    assert epochs.current is first
    index.full = False
    epochs.rotate()
    assert epochs.current is not first
    epochs.close()


def test_the_oldest_of_long_readers_counts_in_whatever_order_they_leave(pool: Pool) -> None:
    epochs = []
    for _ in range(3):
        _write(pool, 2)
        epochs.append(pool.epochs.current)
        epochs[-1].acquire()
    _write(pool, 2 * LONG_TURNS)
    ids = [epoch.txn_id for epoch in epochs]
    assert pool.epochs.oldest_reader() == ids[0]
    epochs[1].release()
    assert pool.epochs.oldest_reader() == ids[0]
    epochs[0].release()
    assert pool.epochs.oldest_reader() == ids[2]
    epochs[2].release()
    assert pool.epochs.oldest_reader() == pool.epochs.current.txn_id


def test_long_readers_of_other_processes_count_while_they_live(tmp_path: Path) -> None:
    keeper, worker = LongReaders(tmp_path, 0), LongReaders(tmp_path, 7)
    assert keeper.oldest() is None
    worker.say(12)
    keeper.say(30)
    assert keeper.oldest() == 12
    gone = LongReaders(tmp_path, 9)
    gone.say(3)
    gone._cells[SLOTS + 9] = 1 << 22  # no process has that number
    assert keeper.oldest() == 12
    LongReaders(tmp_path, 7).close()  # one that takes its place
    assert keeper.oldest() == 30
    keeper.forget_all()
    assert worker.oldest() is None
    for each in (keeper, worker, gone):
        each.close()
