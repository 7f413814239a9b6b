"""What is put around a backing: retries, time limits, a concurrency limit, a meter, a circuit breaker, faults for tests.

Each is a Backing around a Backing and implements every call by hand, so that a call added to the port is a type error
here and not a hole. Around a store they are stacked, outermost first, as

    Guarded(Metered(Retrying(Limited(TimeLimited(store)))))

so that the breaker counts calls that failed for good, the meter counts calls that were really tried, a slot is not held
while a retry waits, and the time limit does not run while a call waits for its slot.

Owns: its own counters; one loop. Does not know: any store. Kind: owner. Time, randomness and sleep come in through the
constructor.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import types
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from types import TracebackType
from typing import Any, Final, Literal, TypeVar, cast

import msgspec

from tiering.backing.streams import closing
from tiering.ports import (
    Backing,
    BackingCorrupt,
    BackingError,
    BackingSource,
    BackingStat,
    BackingUnavailable,
    NotFound,
)

log: Final = logging.getLogger("recall.backing")

Verb = Literal["put", "get", "delete", "list", "stat"]
Outcome = Literal["ok", "not_found", "unavailable", "corrupt", "abandoned", "error"]
"""`abandoned`: the caller closed the stream or was cancelled. `error`: anything else, a source's own failure mostly."""

R = TypeVar("R")

PROGRESS_BYTES: Final = 32 << 10
"""A stream that is cut again and again may be taken up once more for every so many bytes it has moved."""


class _TooSlow(BackingUnavailable):
    """A stream that moves, but not fast enough: taking it up again would be as slow."""


class RetryPolicy(msgspec.Struct, frozen=True):
    """`attempts` in all; before the n-th retry a wait between 0 and min(cap_s, base_s · 2ⁿ⁻¹), evenly drawn."""

    attempts: int = 4
    base_s: float = 0.1
    cap_s: float = 2.0


class Retrying:
    """Repeats a call that ended in BackingUnavailable; nothing else is repeated.

    A stream goes on at the byte it reached, a listing after the key it reached, and progress starts the count of
    attempts again; but of a stream that moves next to nothing between its cuts enough is enough. A stream resumed after an overwrite mixes two objects: the reader's checksum finds that.
    """

    def __init__(
        self,
        inner: Backing,
        policy: RetryPolicy | None = None,
        *,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._inner = inner
        self._policy = policy or RetryPolicy()
        self._rng = rng or random.Random()
        self._sleep = sleep

    async def put(self, key: str, source: BackingSource) -> BackingStat:
        return await self._repeat(lambda: self._inner.put(key, source))

    async def get(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        at, failed, cuts = start, 0, 0
        while True:
            try:
                async with closing(self._inner.get(key, at, stop)) as chunks:
                    async for chunk in chunks:
                        at, failed = at + len(chunk), 0
                        yield chunk
                return
            except _TooSlow:
                raise
            except BackingUnavailable:
                if start < at == stop:
                    return  # cut after its last byte
                failed, cuts = failed + 1, cuts + 1
                if failed >= self._policy.attempts or cuts >= self._policy.attempts + (at - start) // PROGRESS_BYTES:
                    raise
                await self._wait(failed)

    async def delete(self, key: str) -> None:
        await self._repeat(lambda: self._inner.delete(key))

    async def list(self, prefix: str) -> AsyncIterator[BackingStat]:
        last, failed = "", 0
        while True:
            try:
                async with closing(self._inner.list(prefix)) as stats:
                    async for stat in stats:
                        if stat.key > last:
                            last, failed = stat.key, 0
                            yield stat
                return
            except BackingUnavailable:
                failed += 1
                if failed >= self._policy.attempts:
                    raise
                await self._wait(failed)

    async def stat(self, key: str) -> BackingStat:
        return await self._repeat(lambda: self._inner.stat(key))

    async def close(self) -> None:
        await self._inner.close()

    async def _repeat(self, call: Callable[[], Awaitable[R]]) -> R:
        for failed in range(1, self._policy.attempts):
            try:
                return await call()
            except BackingUnavailable:
                await self._wait(failed)
        return await call()

    async def _wait(self, failed: int) -> None:
        # Full jitter: many processes that lost one server at once must not come back at once.
        await self._sleep(self._rng.uniform(0, min(self._policy.cap_s, self._policy.base_s * 2 ** (failed - 1))))


class TimeLimits(msgspec.Struct, frozen=True):
    """`call_s`: a control call, or the wait for the next piece of a stream. A put may also take size / `put_bytes_s`.

    `get_bytes_s`: what a stream must move at least, its first `call_s` aside. Only waiting for the store counts.
    """

    call_s: float = 30.0
    put_bytes_s: int = 1 << 20
    get_bytes_s: int = 16 << 10


class TimeLimited:
    """Ends a call that takes too long as BackingUnavailable, and a stream that trickles."""

    def __init__(self, inner: Backing, limits: TimeLimits | None = None) -> None:
        self._inner = inner
        self._limits = limits or TimeLimits()

    async def put(self, key: str, source: BackingSource) -> BackingStat:
        limit_s = self._limits.call_s + source.size / self._limits.put_bytes_s
        return await self._within(self._inner.put(key, source), limit_s)

    async def get(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        limits, now_s = self._limits, asyncio.get_running_loop().time
        left_s = limits.call_s
        async with closing(self._inner.get(key, start, stop)) as chunks:
            while True:
                asked_s = now_s()
                chunk = await self._within(anext(chunks, None), limits.call_s)
                if chunk is None:
                    return
                # Never more to spend than at the start: a fast beginning does not pay for a trickle.
                left_s = min(limits.call_s, left_s - (now_s() - asked_s) + len(chunk) / limits.get_bytes_s)
                if left_s < 0:
                    raise _TooSlow(f"the backing store sends less than {limits.get_bytes_s} bytes a second")
                yield chunk

    async def delete(self, key: str) -> None:
        await self._within(self._inner.delete(key), self._limits.call_s)

    async def list(self, prefix: str) -> AsyncIterator[BackingStat]:
        async with closing(self._inner.list(prefix)) as stats:
            while (stat := await self._within(anext(stats, None), self._limits.call_s)) is not None:
                yield stat

    async def stat(self, key: str) -> BackingStat:
        return await self._within(self._inner.stat(key), self._limits.call_s)

    async def close(self) -> None:
        await self._inner.close()

    async def _within(self, call: Awaitable[R], limit_s: float) -> R:
        steps = call.__await__()
        try:
            waits = next(steps)
        except StopIteration as done:  # at once, as most pieces of a stream: no timer was needed
            return cast(R, done.value)
        try:
            async with asyncio.timeout(limit_s):
                return await _rest(steps, waits)
        except TimeoutError:
            raise BackingUnavailable(f"the backing store took more than {limit_s:g} s") from None


@types.coroutine
def _rest(steps: Generator[Any, Any, R], waits: Any) -> Generator[Any, Any, R]:
    """What is left of an awaitable whose first step has been made: as `yield from`, which would make another first."""
    try:
        while True:
            try:
                got = yield waits
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as error:
                waits = steps.throw(error)
            else:
                waits = steps.send(got)
    except StopIteration as done:
        return cast(R, done.value)


class Limited:
    """At most `active` calls at once; at most `waiting` more queue for a slot, the next is BackingUnavailable at once.

    A stream holds its slot until it is closed: a reader that stops reading must close it.
    """

    def __init__(self, inner: Backing, active: int = 32, waiting: int = 1024) -> None:
        self._inner = inner
        self._slots = asyncio.Semaphore(active)
        self._waiting = 0
        self._waiting_max = waiting

    async def put(self, key: str, source: BackingSource) -> BackingStat:
        async with self._slot():
            return await self._inner.put(key, source)

    async def get(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        async with self._slot(), closing(self._inner.get(key, start, stop)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def delete(self, key: str) -> None:
        async with self._slot():
            await self._inner.delete(key)

    async def list(self, prefix: str) -> AsyncIterator[BackingStat]:
        async with self._slot(), closing(self._inner.list(prefix)) as stats:
            async for stat in stats:
                yield stat

    async def stat(self, key: str) -> BackingStat:
        async with self._slot():
            return await self._inner.stat(key)

    async def close(self) -> None:
        await self._inner.close()

    async def _enter(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        if self._waiting >= self._waiting_max:
            raise BackingUnavailable("too many calls wait for the backing store")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1

    def _slot(self) -> _Slot:
        return _Slot(self._enter, self._slots.release)


class _Slot:
    """Contexts here are classes: those that `contextlib` makes of generators take twice as long, and a read enters four."""

    __slots__ = ("_enter", "_leave")

    def __init__(self, enter: Callable[[], Awaitable[None]], leave: Callable[[], None]) -> None:
        self._enter = enter
        self._leave = leave

    async def __aenter__(self) -> None:
        await self._enter()

    async def __aexit__(self, *_: object) -> None:
        self._leave()


Record = Callable[[Verb, Outcome, float, int], None]
"""Called once a call: verb, outcome, seconds, bytes moved (a put's size when it succeeded, what a get gave out)."""


class Tally:
    """A Record that adds up: for tests and the status page."""

    def __init__(self) -> None:
        self.calls: dict[tuple[Verb, Outcome], int] = {}
        self.seconds: dict[Verb, float] = {}
        self.bytes: dict[Verb, int] = {}

    def __call__(self, verb: Verb, outcome: Outcome, seconds: float, moved: int) -> None:
        self.calls[verb, outcome] = self.calls.get((verb, outcome), 0) + 1
        self.seconds[verb] = self.seconds.get(verb, 0.0) + seconds
        self.bytes[verb] = self.bytes.get(verb, 0) + moved


class Metered:
    """Reports every call. A stream's seconds are from its first request to its end, its reader's own time included."""

    def __init__(self, inner: Backing, record: Record, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._inner = inner
        self._record = record
        self._monotonic = monotonic

    async def put(self, key: str, source: BackingSource) -> BackingStat:
        with self._call("put") as call:
            stat = await self._inner.put(key, source)
            call.moved = source.size
            return stat

    async def get(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        with self._call("get") as call:
            async with closing(self._inner.get(key, start, stop)) as chunks:
                async for chunk in chunks:
                    call.moved += len(chunk)
                    yield chunk

    async def delete(self, key: str) -> None:
        with self._call("delete"):
            await self._inner.delete(key)

    async def list(self, prefix: str) -> AsyncIterator[BackingStat]:
        with self._call("list"):
            async with closing(self._inner.list(prefix)) as stats:
                async for stat in stats:
                    yield stat

    async def stat(self, key: str) -> BackingStat:
        with self._call("stat"):
            return await self._inner.stat(key)

    async def close(self) -> None:
        await self._inner.close()

    def _call(self, verb: Verb) -> _Call:
        return _Call(self._record, self._monotonic, verb)


class _Call:
    """Reports one call when its block ends; `moved` is set inside."""

    __slots__ = ("_begun", "_monotonic", "_record", "_verb", "moved")

    def __init__(self, record: Record, monotonic: Callable[[], float], verb: Verb) -> None:
        self._record = record
        self._monotonic = monotonic
        self._verb: Verb = verb
        self._begun = monotonic()
        self.moved = 0

    def __enter__(self) -> _Call:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outcome: Outcome = "ok" if error is None else _outcome(error)
        self._record(self._verb, outcome, self._monotonic() - self._begun, self.moved)


def _outcome(error: BaseException) -> Outcome:
    if isinstance(error, NotFound):
        return "not_found"
    if isinstance(error, BackingUnavailable):
        return "unavailable"
    if isinstance(error, BackingCorrupt):
        return "corrupt"
    if isinstance(error, GeneratorExit | asyncio.CancelledError):
        return "abandoned"
    return "error"


class Breaker(msgspec.Struct, frozen=True):
    """After `failures` in a row, `open_s` of immediate refusals, then one call is let through to try. One log line a `log_s`."""

    failures: int = 5
    open_s: float = 5.0
    log_s: float = 60.0


class Guarded:
    """A circuit breaker: while the store is down, cold reads fail in microseconds instead of after every retry.

    Only BackingUnavailable counts as a failure; NotFound and Corrupt come from a store that answers.
    """

    def __init__(
        self, inner: Backing, breaker: Breaker | None = None, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner = inner
        self._breaker = breaker or Breaker()
        self._monotonic = monotonic
        self._failed = 0
        self._open_until = 0.0
        self._probing = False
        self._logged_at: float | None = None
        self._unlogged = 0
        self._reported = False

    @property
    def healthy(self) -> bool:
        """False while calls are refused, and until one has succeeded again."""
        return self._failed < self._breaker.failures

    def retry_s(self) -> float:
        """How long calls are still refused; 0 when the next one is tried."""
        return max(0.0, self._open_until - self._monotonic())

    async def put(self, key: str, source: BackingSource) -> BackingStat:
        with self._watch():
            return await self._inner.put(key, source)

    async def get(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        with self._watch() as passed:
            async with closing(self._inner.get(key, start, stop)) as chunks:
                async for chunk in chunks:
                    passed()
                    yield chunk

    async def delete(self, key: str) -> None:
        with self._watch():
            await self._inner.delete(key)

    async def list(self, prefix: str) -> AsyncIterator[BackingStat]:
        with self._watch() as passed:
            async with closing(self._inner.list(prefix)) as stats:
                async for stat in stats:
                    passed()
                    yield stat

    async def stat(self, key: str) -> BackingStat:
        with self._watch():
            return await self._inner.stat(key)

    async def close(self) -> None:
        await self._inner.close()

    def _watch(self) -> _Watch:
        if not self.healthy:
            if self._probing or self._monotonic() < self._open_until:
                raise BackingUnavailable("the backing store is down; not tried again yet")
            self._probing = True
        return _Watch(self._passed, self._ended)

    def _ended(self, error: BaseException | None) -> None:
        if error is None or isinstance(error, NotFound | BackingCorrupt):
            self._passed()
            return
        self._probing = False
        if isinstance(error, BackingUnavailable):
            self._count(error)  # anything else: cancelled, or the source's own fault, and nothing learnt

    def _passed(self) -> None:
        self._probing = False
        if self._failed == 0:
            return
        self._failed = 0
        if self._reported:
            self._reported = False
            log.warning("the backing store answers again")

    def _count(self, error: BackingUnavailable) -> None:
        self._failed += 1
        now = self._monotonic()
        if not self.healthy:
            self._open_until = now + self._breaker.open_s
        self._unlogged += 1
        if self._logged_at is None or now - self._logged_at >= self._breaker.log_s:
            # Raised as well, for the caller's answer; said here because only here once a minute is possible.
            log.warning("the backing store is unavailable: %s (%d calls failed)", error, self._unlogged)
            self._logged_at, self._unlogged, self._reported = now, 0, True


class _Watch:
    """One call under the breaker: gives out what tells it that the store answers, and tells it how the call ended."""

    __slots__ = ("_ended", "_passed")

    def __init__(self, passed: Callable[[], None], ended: Callable[[BaseException | None], None]) -> None:
        self._passed = passed
        self._ended = ended

    def __enter__(self) -> Callable[[], None]:
        return self._passed

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended(error)


class Fault(msgspec.Struct, frozen=True):
    """One scripted fault. `verb` None: whichever call comes next. `at`: the byte (get) or entry (list) it happens at.

    refuse: BackingUnavailable before anything happens. lose: the call is done, its answer is lost. cut: a stream ends in
    BackingUnavailable at `at`. short: it ends there as if that were all, in BackingCorrupt. flip: the byte there is
    changed. missing: NotFound. delay: waits `delay_s` first.
    """

    kind: Literal["refuse", "lose", "cut", "short", "flip", "missing", "delay"]
    verb: Verb | None = None
    at: int = 0
    delay_s: float = 0.0


class Faulty:
    """For tests: a backing that fails as told. `script` is used up in order; `down` refuses everything while it is set."""

    def __init__(
        self,
        inner: Backing,
        script: Iterable[Fault] = (),
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._inner = inner
        self._sleep = sleep
        self.script: deque[Fault] = deque(script)
        self.down = False
        self.calls: list[tuple[Verb, str]] = []

    async def put(self, key: str, source: BackingSource) -> BackingStat:
        fault = await self._next("put", key)
        stat = await self._inner.put(key, source)
        self._lose(fault)
        return stat

    async def get(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        fault = await self._next("get", key)
        at = fault.at if fault is not None and fault.kind in ("cut", "short", "flip") else None
        given = 0
        async with closing(self._inner.get(key, start, stop)) as chunks:
            async for chunk in chunks:
                if at is None or at >= given + len(chunk):
                    given += len(chunk)
                    yield chunk
                    continue
                assert fault is not None
                if fault.kind == "flip":
                    chunk = chunk[: at - given] + bytes((chunk[at - given] ^ 0x01,)) + chunk[at - given + 1 :]
                    at, given = None, given + len(chunk)
                    yield chunk
                    continue
                if at > given:
                    yield chunk[: at - given]
                raise _broken_stream(fault)
        if at is not None and fault is not None and fault.kind != "flip":
            raise _broken_stream(fault)
        self._lose(fault)

    async def delete(self, key: str) -> None:
        fault = await self._next("delete", key)
        await self._inner.delete(key)
        self._lose(fault)

    async def list(self, prefix: str) -> AsyncIterator[BackingStat]:
        fault = await self._next("list", prefix)
        given = 0
        async with closing(self._inner.list(prefix)) as stats:
            async for stat in stats:
                if fault is not None and fault.kind == "cut" and given == fault.at:
                    raise _broken_stream(fault)
                given += 1
                yield stat
        self._lose(fault)

    async def stat(self, key: str) -> BackingStat:
        fault = await self._next("stat", key)
        stat = await self._inner.stat(key)
        self._lose(fault)
        return stat

    async def close(self) -> None:
        await self._inner.close()

    async def _next(self, verb: Verb, key: str) -> Fault | None:
        self.calls.append((verb, key))
        if self.down:
            raise BackingUnavailable("scripted: down")
        if not self.script or self.script[0].verb not in (None, verb):
            return None
        fault = self.script.popleft()
        if fault.kind == "refuse":
            raise BackingUnavailable("scripted: refused")
        if fault.kind == "missing":
            raise NotFound("scripted: missing")
        if fault.kind == "delay":
            await self._sleep(fault.delay_s)
        return fault

    def _lose(self, fault: Fault | None) -> None:
        if fault is not None and fault.kind == "lose":
            raise BackingUnavailable("scripted: the answer was lost")


def _broken_stream(fault: Fault) -> BackingError:
    if fault.kind == "short":
        return BackingCorrupt("scripted: the stream ends early")
    return BackingUnavailable("scripted: the stream was cut")
