"""`tiering.writeback`: when write-back is started, when writers wait, and that the kernel really can be asked."""

from __future__ import annotations

import asyncio
import os
import queue
from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest

from tests.support.clock import ManualClock
from tests.support.engine import Engine
from tiering.backing.memory import MemoryBacking
from tiering.contract import BucketInfo, Busy, PutOptions, PutResult, Writer
from tiering.held import Held
from tiering.writeback import CHUNK_BYTES, Level, Writeback, machine_level, start_range

BACKGROUND = 8 * CHUNK_BYTES
START = 4
"""Chunks from which on write-back is started."""
LOW = Level(0, 0, BACKGROUND, 2 * BACKGROUND)
SOME = LOW._replace(dirty=5 * CHUNK_BYTES)
HIGH = LOW._replace(dirty=7 * CHUNK_BYTES)
IN_FLIGHT = SOME._replace(flight=7 * CHUNK_BYTES)
WAIT_S = 20


class Kernel:
    """Says `now` of memory; a start tells its chunk and waits for `go`, whose value is its outcome."""

    def __init__(self) -> None:
        self.now: Level | None = LOW
        self.started: queue.Queue[int] = queue.Queue()
        self.go: queue.Queue[bool] = queue.Queue()

    def level(self) -> Level | None:
        return self.now

    def start(self, fd: int, at: int, length: int) -> bool:
        assert (at % CHUNK_BYTES, length) == (0, CHUNK_BYTES)
        self.started.put(at // CHUNK_BYTES)
        return self.go.get(timeout=WAIT_S)

    def next_chunk(self) -> int:
        return self.started.get(timeout=WAIT_S)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def writeback(kernel: Kernel) -> Iterator[Writeback]:
    made = Writeback(-1, "pool", kernel.level, kernel.start)
    yield made
    for _ in range(100):
        kernel.go.put(True)
    made.close()


def _write(writeback: Writeback, *chunks: int) -> None:
    for chunk in chunks:
        for part in range(8):
            writeback.wrote(chunk * CHUNK_BYTES + part * CHUNK_BYTES // 8, CHUNK_BYTES // 8)


def _rest(writeback: Writeback) -> None:
    while writeback.pressed:
        os.sched_yield()


async def _opened(engine: Engine, size: int) -> Writer:
    opened = engine.store.put("kv-b", "k", size, PutOptions())
    return await opened if isinstance(opened, Awaitable) else opened


def test_up_to_the_share_nothing_is_started(kernel: Kernel, writeback: Writeback) -> None:
    kernel.now = HIGH
    _write(writeback, 7, 3, 5, 1)
    assert not writeback.pressed
    assert not writeback.held


def test_the_oldest_is_started_until_the_share_is_left(kernel: Kernel, writeback: Writeback) -> None:
    kernel.now = SOME
    _write(writeback, 7, 3, 5, 1, 2)
    assert kernel.next_chunk() == 7
    _write(writeback, 9)
    kernel.go.put(True)
    assert kernel.next_chunk() == 3
    kernel.go.put(True)
    _rest(writeback)
    assert kernel.started.empty()
    assert not writeback.held


def test_what_is_written_over_again_and_again_is_not_started(kernel: Kernel, writeback: Writeback) -> None:
    kernel.now = HIGH
    _write(writeback, *[0, 1, 2, 3] * 5)
    assert not writeback.pressed


def test_what_the_kernel_has_written_by_itself_is_not_started(kernel: Kernel, writeback: Writeback) -> None:
    _write(writeback, *range(20))
    _rest(writeback)
    assert kernel.started.empty()


@pytest.mark.parametrize("level", [HIGH, IN_FLIGHT], ids=["unwritten", "on its way"])
def test_writers_wait_while_there_is_too_much(kernel: Kernel, writeback: Writeback, level: Level) -> None:

    async def main() -> None:
        kernel.now = level
        _write(writeback, *range(START + 3))
        assert await asyncio.to_thread(kernel.next_chunk) == 0
        assert writeback.held
        waiting = [asyncio.ensure_future(writeback.wait(WAIT_S)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        kernel.now = SOME
        kernel.go.put(True)
        assert writeback.held_s() > 0
        await asyncio.gather(*waiting[1:])
        assert not writeback.held
        assert writeback.held_s() == writeback.held_s()
        await writeback.wait(0.0)

    asyncio.run(main())


def test_time_that_many_wait_at_once_counts_once() -> None:
    clock = ManualClock()
    held = Held(lambda: clock.now_ms() / 1000)
    clock.advance(1)
    held.begin()
    clock.advance(1)
    held.begin()
    clock.advance(1)
    held.end()
    clock.advance(1)
    assert held.seconds() == 3
    held.end()
    clock.advance(1)
    assert held.seconds() == 3


def test_writers_go_on_when_no_more_is_behind(kernel: Kernel, writeback: Writeback) -> None:
    """Others may have filled memory: that is not for a pool to wait for."""

    async def main() -> None:
        kernel.now = HIGH
        _write(writeback, *range(START + 1))
        assert await asyncio.to_thread(kernel.next_chunk) == 0
        assert writeback.held
        kernel.go.put(True)
        await writeback.wait(WAIT_S)
        assert not writeback.held

    asyncio.run(main())


def test_a_wait_has_an_end(kernel: Kernel, writeback: Writeback) -> None:

    async def main() -> None:
        kernel.now = HIGH
        _write(writeback, *range(START + 3))
        await asyncio.to_thread(kernel.next_chunk)
        with pytest.raises(Busy, match="keep up"):
            await writeback.wait(0.0)

    asyncio.run(main())


@pytest.mark.parametrize("refusal", ["start", "level"])
def test_where_the_kernel_refuses_nobody_waits(kernel: Kernel, writeback: Writeback, refusal: str) -> None:

    async def main() -> None:
        kernel.now = HIGH
        _write(writeback, *range(START + 3))
        await asyncio.to_thread(kernel.next_chunk)
        waiting = asyncio.ensure_future(writeback.wait(WAIT_S))
        await asyncio.sleep(0)
        if refusal == "level":
            kernel.now = None
        kernel.go.put(refusal == "level")
        await waiting
        _write(writeback, *range(50, 90))
        assert not writeback.pressed

    asyncio.run(main())


def test_where_the_kernel_says_nothing_there_is_no_thread(kernel: Kernel) -> None:
    kernel.now = None
    made = Writeback(-1, "pool", kernel.level, kernel.start)
    _write(made, *range(50))
    assert not made.pressed
    made.close()


def test_an_end_lets_all_go(kernel: Kernel, writeback: Writeback) -> None:

    async def main() -> None:
        kernel.now = HIGH
        _write(writeback, *range(START + 3))
        await asyncio.to_thread(kernel.next_chunk)
        waiting = asyncio.ensure_future(writeback.wait(WAIT_S))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(asyncio.to_thread(writeback.close))
        for _ in range(START + 3):
            kernel.go.put(True)
        await asyncio.gather(closing, waiting)

    asyncio.run(main())


@pytest.mark.parametrize("size", [1000, 200_000], ids=["in one extent", "over regions"])
def test_a_put_waits_while_writers_are_held(tmp_path: Path, size: int) -> None:

    async def main() -> None:
        engine = await Engine.open(tmp_path, ManualClock(), MemoryBacking())
        await engine.store.create_bucket(BucketInfo(name="kv-b", created_ms=0, pool=""))
        writer = await _opened(engine, size)
        flash = engine.pools["kv"].flash
        flash.writeback.held = True
        writing = writer.write(bytes(size))
        assert writing is not None
        task = asyncio.ensure_future(writing)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        flash.writeback._hold(False)
        await task
        assert (await writer.commit(PutResult())).size == size
        # And where it does not end, the writer is told, and leaves nothing.
        writer = await _opened(engine, size)
        flash.writeback.held = True
        with pytest.raises(Busy):
            await writer.write(bytes(size))
        writer.abort()
        await engine.close()

    asyncio.run(main())


def test_this_kernel_can_be_asked(tmp_path: Path) -> None:
    level = machine_level()
    if level is None:
        pytest.skip("this kernel does not say how much is unwritten")
    assert 0 < level.background <= level.limit
    with open(tmp_path / "file", "wb+") as file:
        file.write(bytes(CHUNK_BYTES))
        file.flush()
        assert start_range(file.fileno(), 0, CHUNK_BYTES)
    assert not start_range(-1, 0, 1)
