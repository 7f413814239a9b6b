"""`tiering.committer`: order, group commit, and commits on the loop that never wait for another writer."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tiering.committer import HERE_MAX, Committer
from tiering.contract import NoSuchKey
from tiering.index import Batch, Index
from tiering.layout import BucketRecord

WAIT_S = 20


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(tmp_path / "index", synced=False, map_bytes=1 << 24)
    yield opened
    opened.close()


@pytest.fixture
def committer(index: Index) -> Iterator[Committer]:
    made = Committer(index, None)
    yield made
    made.close()


def _noting(notes: list[tuple[int, str]], number: int) -> Callable[[Batch], int]:
    def mutation(batch: Batch) -> int:
        notes.append((number, threading.current_thread().name))
        batch.put("orders", b"%d" % number)
        return number

    return mutation


def _rows(index: Index) -> int:
    with index.view() as view:
        return view.count("orders")


def test_short_mutations_of_an_unsynced_index_are_committed_on_the_loop_in_order(
    index: Index, committer: Committer
) -> None:
    notes: list[tuple[int, str]] = []
    count = 2 * HERE_MAX + 1

    async def main() -> list[int]:
        return await asyncio.gather(*(committer.submit_short(_noting(notes, n)) for n in range(count)))

    assert asyncio.run(main()) == list(range(count))
    assert notes == [(n, threading.current_thread().name) for n in range(count)]
    assert _rows(index) == count


def test_short_mutations_of_a_synced_index_are_left_to_the_thread(tmp_path: Path) -> None:
    index = Index(tmp_path / "index", synced=True, map_bytes=1 << 24)
    committer = Committer(index, None)
    notes: list[tuple[int, str]] = []

    async def main() -> None:
        await committer.submit_short(_noting(notes, 1))

    asyncio.run(main())
    committer.close()
    index.close()
    assert notes == [(1, "committer-pool")]


def test_loop_goes_on_while_another_writer_is_inside(tmp_path: Path, index: Index, committer: Committer) -> None:
    other = os.open(tmp_path / "index", os.O_RDONLY)
    notes: list[tuple[int, str]] = []

    async def main() -> None:
        fcntl.flock(other, fcntl.LOCK_EX)  # as another process's batch does
        assert index.try_batch() is None
        waiting = committer.submit_short(_noting(notes, 1))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not waiting.done()
        later = committer.submit_short(_noting(notes, 2))
        fcntl.flock(other, fcntl.LOCK_UN)
        async with asyncio.timeout(WAIT_S):
            assert (await waiting, await later) == (1, 2)

    asyncio.run(main())
    os.close(other)
    assert [number for number, _ in notes] == [1, 2]
    assert notes[0][1] == "committer-pool"


def test_what_is_handed_in_between_keeps_its_place(index: Index, committer: Committer) -> None:
    notes: list[tuple[int, str]] = []

    async def main() -> None:
        futures = [committer.submit_short(_noting(notes, 0)), committer.submit(_noting(notes, 1))]
        futures += [committer.submit_short(_noting(notes, 2))]
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*futures)

    asyncio.run(main())
    assert [number for number, _ in notes] == [0, 1, 2]


def test_faulty_mutation_fails_alone(index: Index, committer: Committer) -> None:
    notes: list[tuple[int, str]] = []

    def faulty(batch: Batch) -> int:
        batch.put("orders", b"half done")
        raise RuntimeError("ours")

    def refused(batch: Batch) -> int:
        raise NoSuchKey(key="k")

    async def main() -> None:
        mutations = (_noting(notes, 1), faulty, refused, _noting(notes, 2))
        async with asyncio.timeout(WAIT_S):
            outcomes = await asyncio.gather(*map(committer.submit_short, mutations), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [int, RuntimeError, NoSuchKey, int]

    asyncio.run(main())
    assert _rows(index) == 2


def test_close_commits_what_waits_for_the_loop(index: Index) -> None:
    committer = Committer(index, None)
    notes: list[tuple[int, str]] = []

    async def main() -> int:
        waiting = committer.submit_short(_noting(notes, 7))
        committer.close()
        with pytest.raises(RuntimeError):
            committer.submit_short(_noting(notes, 8))
        async with asyncio.timeout(WAIT_S):
            return await waiting

    assert asyncio.run(main()) == 7
    assert _rows(index) == 1


def test_failed_begin_lets_the_next_writer_in(index: Index) -> None:
    batch = index.batch()
    assert index.try_batch() is None
    batch.abort()
    again = index.try_batch()
    assert again is not None
    again.commit()


def test_sums_at_hand_are_those_of_the_last_commit(index: Index, committer: Committer) -> None:
    committer.run(lambda batch: batch.next_generation())
    assert index.recent_counters().generation == index.counters().generation == 1
    with pytest.raises(RuntimeError):
        committer.run(_give_up)
    assert index.recent_counters().generation == 1  # what was not committed does not count


def _give_up(batch: Batch) -> None:
    batch.next_generation()
    raise RuntimeError("after a change")


def test_a_bucket_is_seen_as_its_own_batch_left_it(index: Index, committer: Committer) -> None:
    record = BucketRecord(name="b", created_ms=1, pool="p", number=1)

    def come_and_go(batch: Batch) -> tuple[BucketRecord | None, ...]:
        before = batch.bucket("b")
        batch.put_bucket(record)
        between = batch.bucket("b")
        batch.delete_bucket(record)
        return before, between, batch.bucket("b")

    assert committer.run(come_and_go) == (None, record, None)
    committer.run(lambda batch: batch.put_bucket(record))
    with index.view() as view:
        assert view.bucket("b") == record
