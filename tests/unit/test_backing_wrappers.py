"""The wrappers: what is retried and resumed, what is cut off, what is counted, when the breaker opens."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tiering.backing.memory import MemoryBacking
from tiering.backing.streams import BytesSource, closing
from tiering.backing.wrappers import (
    Breaker,
    Fault,
    Faulty,
    Guarded,
    Limited,
    Metered,
    Retrying,
    RetryPolicy,
    Tally,
    TimeLimited,
    TimeLimits,
)
from tiering.ports import Backing, BackingCorrupt, BackingError, BackingStat, BackingUnavailable, NotFound

DATA = random.Random(1).randbytes(600_000)


class Waits:
    """A sleep that takes no time and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)


class Ticks:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def filled() -> MemoryBacking:
    memory = MemoryBacking()
    await memory.put("k", BytesSource(DATA))
    for index in range(5):
        await memory.put(f"n/{index}", BytesSource(b"x"))
    return memory


async def read(backing: Backing, key: str = "k", start: int = 0, stop: int | None = None) -> bytes:
    async with closing(backing.get(key, start, stop)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def drain(chunks: AsyncIterator[bytes], into: bytearray) -> None:
    """Keeps what came before an error."""
    async for chunk in chunks:
        into += chunk


async def names(backing: Backing, prefix: str) -> list[str]:
    return [stat.key async for stat in backing.list(prefix)]


VERBS: dict[str, Callable[[Backing], Awaitable[object]]] = {
    "put": lambda backing: backing.put("new", BytesSource(b"x")),
    "get": read,
    "delete": lambda backing: backing.delete("gone"),
    "list": lambda backing: names(backing, "n/"),
    "stat": lambda backing: backing.stat("k"),
}


def retrying(faulty: Faulty, waits: Waits, attempts: int = 3) -> Retrying:
    policy = RetryPolicy(attempts=attempts, base_s=1.0, cap_s=3.0)
    return Retrying(faulty, policy, rng=random.Random(7), sleep=waits)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", ["refuse", "lose"])
def test_unavailable_is_retried_and_the_result_is_the_same(verb: str, kind: str) -> None:
    async def main() -> None:
        waits = Waits()
        faulty = Faulty(await filled(), [Fault(kind), Fault(kind)])  # type: ignore[arg-type]
        plain = await VERBS[verb](Faulty(await filled()))
        assert await VERBS[verb](retrying(faulty, waits)) == plain
        assert len(faulty.calls) == 3 if kind == "refuse" or verb != "get" else len(faulty.calls) >= 2

    asyncio.run(main())


@pytest.mark.parametrize("verb", VERBS)
def test_retries_end_and_wait_longer_each_time(verb: str) -> None:
    async def main() -> None:
        waits = Waits()
        faulty = Faulty(await filled())
        faulty.down = True
        with pytest.raises(BackingUnavailable, match="down"):
            await VERBS[verb](retrying(faulty, waits, attempts=6))
        assert len(faulty.calls) == 6
        expected = random.Random(7)
        assert waits.asked == [expected.uniform(0, limit) for limit in (1.0, 2.0, 3.0, 3.0, 3.0)]

    asyncio.run(main())


@pytest.mark.parametrize(("kind", "error"), [("missing", NotFound), ("short", BackingCorrupt)])
def test_nothing_else_is_retried(kind: str, error: type[BackingError]) -> None:
    async def main() -> None:
        waits = Waits()
        faulty = Faulty(await filled(), [Fault(kind, at=10)])  # type: ignore[arg-type]
        with pytest.raises(error):
            await read(retrying(faulty, waits))
        assert (len(faulty.calls), waits.asked) == (1, [])

    asyncio.run(main())


@pytest.mark.parametrize("cuts", [[0], [1], [262_144], [300_000], [100, 5, 299_000, 7, 8, 9, 10], [600_000]])
@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, len(DATA)), (1000, 599_999)])
def test_a_cut_stream_goes_on_at_the_byte_it_reached(cuts: list[int], start: int, stop: int | None) -> None:
    async def main() -> None:
        faulty = Faulty(await filled(), [Fault("cut", "get", at=at) for at in cuts])
        assert await read(retrying(faulty, Waits()), "k", start, stop) == DATA[start:stop]

    asyncio.run(main())


def test_a_stream_that_never_moves_ends() -> None:
    async def main() -> None:
        faulty = Faulty(await filled(), [Fault("cut", "get", at=50), *[Fault("cut", "get", at=0)] * 3])
        got = bytearray()
        with pytest.raises(BackingUnavailable):
            await drain(retrying(faulty, Waits()).get("k"), got)
        assert got == DATA[:50]
        assert len(faulty.calls) == 3

    asyncio.run(main())


def test_a_stream_that_hardly_moves_ends() -> None:
    async def main() -> None:
        faulty = Faulty(await filled(), [Fault("cut", "get", at=50)] * 10)
        got = bytearray()
        with pytest.raises(BackingUnavailable):
            await drain(retrying(faulty, Waits()).get("k"), got)
        assert got == DATA[:150]
        assert len(faulty.calls) == 3

    asyncio.run(main())


class Trickle(MemoryBacking):
    """Gives a byte at a time, each after a moment."""

    async def get(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.001)
            yield b"x"


def test_a_stream_that_trickles_ends_and_is_not_taken_up_again() -> None:
    async def main() -> None:
        limited = TimeLimited(Trickle(), TimeLimits(call_s=0.05, get_bytes_s=10_000))
        faulty = Faulty(limited)
        with pytest.raises(BackingUnavailable, match="bytes a second"):
            await read(retrying(faulty, Waits()))
        assert len(faulty.calls) == 1

    asyncio.run(main())


def test_a_cut_listing_goes_on_after_the_key_it_reached() -> None:
    async def main() -> None:
        faulty = Faulty(
            await filled(), [Fault("cut", "list", at=2), Fault("cut", "list", at=3), Fault("refuse", "list")]
        )
        assert await names(retrying(faulty, Waits()), "n/") == [f"n/{index}" for index in range(5)]

    asyncio.run(main())


def test_a_put_is_retried_from_its_first_byte() -> None:
    async def main() -> None:
        memory = MemoryBacking()
        await retrying(Faulty(memory, [Fault("refuse", "put"), Fault("lose", "put")]), Waits()).put(
            "p", BytesSource(DATA)
        )
        assert await read(memory, "p") == DATA

    asyncio.run(main())


class Stuck:
    """A backing that never answers; says when it was asked and when it was let go."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.active = 0
        self.most = 0

    async def put(self, key: str, source: object) -> BackingStat:
        return await self.stat(key)

    async def get(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        yield b"first"
        await self.stat(key)

    async def delete(self, key: str) -> None:
        await self.stat(key)

    async def list(self, prefix: str) -> AsyncIterator[BackingStat]:
        yield await self.stat(prefix)

    async def stat(self, key: str) -> BackingStat:
        self.active += 1
        self.most = max(self.most, self.active)
        self.asked.set()
        try:
            await asyncio.Event().wait()
            raise AssertionError("never set")
        finally:
            self.active -= 1

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("verb", VERBS)
def test_a_call_that_takes_too_long_is_unavailable_and_let_go(verb: str) -> None:
    async def main() -> None:
        stuck = Stuck()
        limited = TimeLimited(stuck, TimeLimits(call_s=0.01, put_bytes_s=1000))
        with pytest.raises(BackingUnavailable, match="took more than"):
            await VERBS[verb](limited)
        assert stuck.active == 0

    asyncio.run(main())


def test_only_so_many_calls_run_and_only_so_many_wait() -> None:
    async def main() -> None:
        stuck = Stuck()
        limited = Limited(stuck, active=2, waiting=1)
        tasks = [asyncio.ensure_future(limited.stat("k")) for _ in range(3)]
        await stuck.asked.wait()
        with pytest.raises(BackingUnavailable, match="too many"):
            await limited.stat("k")
        with pytest.raises(BackingUnavailable, match="too many"):
            await read(limited)
        assert stuck.most == 2
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert stuck.active == 0

    asyncio.run(main())


def test_a_stream_holds_its_slot_until_it_is_closed() -> None:
    async def main() -> None:
        limited = Limited(await filled(), active=1, waiting=0)
        async with closing(limited.get("k")) as chunks:
            await anext(chunks)
            with pytest.raises(BackingUnavailable, match="too many"):
                await limited.stat("k")
        assert (await limited.stat("k")).size == len(DATA)

    asyncio.run(main())


def test_every_call_is_metered_with_its_outcome() -> None:
    async def main() -> None:
        tally, ticks = Tally(), Ticks()
        faulty = Faulty(await filled())
        metered = Metered(faulty, tally, monotonic=ticks)
        for call in VERBS.values():
            await call(metered)
        with pytest.raises(NotFound):
            await metered.stat("missing")
        faulty.down = True
        with pytest.raises(BackingUnavailable):
            await metered.put("new", BytesSource(b"xyz"))
        faulty.down = False
        async with closing(metered.get("n/1")) as chunks:
            ticks.now += 2.5
            await anext(chunks)
            ticks.now += 1.5
        faulty.script.append(Fault("short", "get"))
        with pytest.raises(BackingCorrupt):
            await read(metered, "n/1")
        assert tally.calls == {
            ("put", "ok"): 1,
            ("get", "ok"): 1,
            ("delete", "ok"): 1,
            ("list", "ok"): 1,
            ("stat", "ok"): 1,
            ("stat", "not_found"): 1,
            ("put", "unavailable"): 1,
            ("get", "abandoned"): 1,
            ("get", "corrupt"): 1,
        }
        assert tally.bytes["put"] == 1
        assert tally.bytes["get"] == len(DATA) + 1
        assert tally.seconds["get"] == pytest.approx(1.5)

    asyncio.run(main())


def guarded(faulty: Faulty, ticks: Ticks) -> Guarded:
    return Guarded(faulty, Breaker(failures=3, open_s=5.0, log_s=60.0), monotonic=ticks)


@pytest.mark.parametrize("verb", VERBS)
def test_the_breaker_opens_refuses_tries_once_and_closes(verb: str) -> None:
    async def main() -> None:
        ticks, faulty = Ticks(), Faulty(await filled())
        guard = guarded(faulty, ticks)
        faulty.down = True
        for _ in range(3):
            with pytest.raises(BackingUnavailable, match="scripted"):
                await VERBS[verb](guard)
        assert not guard.healthy
        assert guard.retry_s() == 5.0
        with pytest.raises(BackingUnavailable, match="not tried"):
            await VERBS[verb](guard)
        assert len(faulty.calls) == 3
        ticks.now += 5.0
        with pytest.raises(BackingUnavailable, match="scripted"):
            await VERBS[verb](guard)
        with pytest.raises(BackingUnavailable, match="not tried"):
            await VERBS[verb](guard)
        ticks.now += 5.0
        faulty.down = False
        await VERBS[verb](guard)
        assert guard.healthy
        assert guard.retry_s() == 0.0

    asyncio.run(main())


def test_only_one_call_tries_a_store_that_was_down() -> None:
    async def main() -> None:
        ticks = Ticks()
        faulty = Faulty(Stuck(), [Fault("refuse")] * 3)
        guard = guarded(faulty, ticks)
        for _ in range(3):
            with pytest.raises(BackingUnavailable):
                await guard.stat("k")
        ticks.now += 6.0
        probe = asyncio.ensure_future(guard.stat("k"))
        await asyncio.sleep(0)
        with pytest.raises(BackingUnavailable, match="not tried"):
            await guard.stat("k")
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        assert not guard.healthy
        again = asyncio.ensure_future(guard.stat("k"))  # a cancelled try leaves the place to the next
        await asyncio.sleep(0)
        assert len(faulty.calls) == 5
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)

    asyncio.run(main())


def test_answers_of_a_living_store_do_not_open_the_breaker() -> None:
    async def main() -> None:
        faulty = Faulty(await filled())
        guard = guarded(faulty, Ticks())
        for _ in range(5):
            with pytest.raises(NotFound):
                await guard.stat("missing")
        for _ in range(4):
            faulty.script.extend((Fault("refuse"), Fault("refuse"), Fault("missing")))
            for _ in range(3):
                with pytest.raises((BackingUnavailable, NotFound)):
                    await guard.stat("k")
        assert guard.healthy

    asyncio.run(main())


def test_trouble_is_logged_once_a_minute_and_its_end_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        ticks, faulty = Ticks(), Faulty(await filled())
        guard = guarded(faulty, ticks)
        faulty.down = True
        for _ in range(119):  # two minutes
            with pytest.raises(BackingUnavailable):
                await guard.stat("k")
            ticks.now += 1.0
        ticks.now += 10.0
        faulty.down = False
        for _ in range(5):
            await guard.stat("k")

    with caplog.at_level(logging.INFO, "recall.backing"):
        asyncio.run(main())
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert said[0] == "the backing store is unavailable: scripted: down (1 calls failed)"
    assert said[2] == "the backing store answers again"


def test_a_flipped_byte_is_flipped_once() -> None:
    async def main() -> None:
        faulty = Faulty(await filled(), [Fault("flip", "get", at=300_000)])
        got = await read(faulty)
        assert [index for index in range(len(DATA)) if got[index] != DATA[index]] == [300_000]
        assert await read(faulty) == DATA

    asyncio.run(main())
