"""Pace of what is written to a pool's data file: on its way to the device before the kernel stops whoever writes.

Above its background limit of unwritten memory the kernel writes all files back, ours of a few pages too, which whoever touches
them then waits for; above its second limit it holds up every `pwrite`. Both would be the loop, with all its requests. So once
much is unwritten, the oldest of it is started on its way by a thread; and when that is not enough, writers are told to wait,
which costs nobody but them. A burst that stays below START_SHARE starts nothing: what is overwritten soon is never written.

Promise: `held` is true only while this pool's own bytes are behind; durability is not its matter, and no error of the
device is lost by it (sync_file_range takes none from those that a later fdatasync reports).
Owns its thread, which exists once there was something to do, and how far write-back is behind. Does not know regions or objects.
Kind: owner + one thread; `wrote` from any thread, `wait` on a loop. Spec: docs/ARCHITECTURE.md, "The way of a PUT".
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from tiering.contract import Busy
from tiering.held import Held

CHUNK_BYTES: Final = 8 << 20
"""Started at once, and then the level is looked at again."""
START_SHARE: Final = 0.5
"""Of the background limit: unwritten bytes from which on write-back is started."""
HOLD_SHARE: Final = 0.85
"""Of the background limit: unwritten bytes above which writers wait. Between two looks a chunk or two may come."""
FLIGHT_SHARE: Final = 0.9
"""Of what the kernel lets pass freely: unwritten bytes and those on their way, above which writers wait."""

_WRITE: Final = 2  # SYNC_FILE_RANGE_WRITE
_LEVEL: Final = re.compile(rb"^nr_(dirty|writeback|dirty_threshold|dirty_background_threshold) (\d+)$", re.MULTILINE)


class Level(NamedTuple):
    """Bytes of the machine's memory: unwritten, on their way, and the kernel's limits."""

    dirty: int
    flight: int
    background: int
    limit: int


def machine_level() -> Level | None:
    """As the kernel counts now; None where it does not say."""
    try:
        fd = os.open("/proc/vmstat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.pread(fd, 1 << 16, 0)
        finally:
            os.close(fd)
    except OSError:
        return None
    pages = {name: int(count) * os.sysconf("SC_PAGESIZE") for name, count in _LEVEL.findall(text)}
    if len(pages) != len(Level._fields):
        return None
    return Level(pages[b"dirty"], pages[b"writeback"], pages[b"dirty_background_threshold"], pages[b"dirty_threshold"])


_sync_file_range = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)  # not on every system
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def start_range(fd: int, at: int, length: int) -> bool:
    """Starts write-back of a part of a file. Waits while the device's queue is full. False where it cannot be done."""
    return _sync_file_range is not None and bool(_sync_file_range(fd, at, length, _WRITE) == 0)


class Writeback:
    """Of one open file. `level`, `start`: the kernel."""

    def __init__(
        self,
        fd: int,
        name: str,
        level: Callable[[], Level | None] = machine_level,
        start: Callable[[int, int, int], bool] = start_range,
    ) -> None:
        self._fd = fd
        self._name = name
        self._level = level
        self._start = start
        self._lock = threading.RLock()
        self._more = threading.Condition(self._lock)
        self._chunks: dict[int, int] = {}  # of the file: bytes written there since it was started last; oldest first
        self._behind = 0
        first = level()
        self._start_bytes = -1 if first is None else int(first.background * START_SHARE)
        self._starter: threading.Thread | None = None
        self._idle = True
        self._closing = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self.held = False
        """Whether whoever can wait should, before more is written."""
        self._times = Held()

    @property
    def pressed(self) -> bool:
        """Whether more is written than the device has taken, so that others may wait for what it does."""
        return not self._idle

    def held_s(self) -> float:
        """How long writers were told to wait, until now."""
        with self._lock:
            return self._times.seconds()

    def wrote(self, at: int, length: int) -> None:
        """Counts bytes just written."""
        if self._start_bytes < 0:
            return
        chunk = at // CHUNK_BYTES
        with self._lock:
            before = self._chunks.get(chunk, 0)
            # What is written over before it has left counts once.
            after = self._chunks[chunk] = min(CHUNK_BYTES, before + length)
            self._behind += after - before
            if self._idle and self._behind > self._start_bytes:
                self._idle = False
                if self._starter is None:
                    self._starter = threading.Thread(target=self._work, name=f"writeback-{self._name}", daemon=True)
                    self._starter.start()
                self._more.notify()

    async def wait(self, limit_s: float) -> None:
        """Returns when writers may go on. Raises Busy when that takes longer than `limit_s`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if not self.held:
                return
            self._waiting.append((loop, future))
        timer = loop.call_later(limit_s, _give_up, future)
        try:
            await future
        finally:
            timer.cancel()

    def close(self) -> None:
        """Ends the thread; nothing is started on its way after."""
        with self._lock:
            self._closing = True
            self._more.notify()
        if self._starter is not None:
            self._starter.join()
        self._hold(False)

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._closing and self._behind <= self._start_bytes:
                    self._hold(False)
                    self._idle = True
                    self._more.wait()
                if self._closing:
                    return
                chunk = next(iter(self._chunks))
                self._behind -= self._chunks.pop(chunk)
            level = self._level()
            if level is None:
                self._end()
                return
            self._start_bytes = int(level.background * START_SHARE)
            self._judge(level)
            # Below it the kernel has written what was counted here: it does so by itself after half a minute.
            if level.dirty > self._start_bytes and not self._start(self._fd, chunk * CHUNK_BYTES, CHUNK_BYTES):
                self._end()
                return

    def _judge(self, level: Level) -> None:
        free = (level.background + level.limit) // 2
        over = level.dirty > level.background * HOLD_SHARE or level.dirty + level.flight > free * FLIGHT_SHARE
        if over != self.held:
            self._hold(over)

    def _hold(self, held: bool) -> None:
        with self._lock:
            if held and not self.held:
                self._times.begin()
            elif self.held and not held:
                self._times.end()
            self.held = held
            waiting, self._waiting = self._waiting, []
        if held:
            return
        for loop, future in waiting:
            try:
                loop.call_soon_threadsafe(_let_go, future)
            except RuntimeError:  # the loop was closed while its waiter was cancelled
                pass

    def _end(self) -> None:
        """The kernel does not say or do what this needs: as if it were not there."""
        with self._lock:
            self._start_bytes = -1
            self._idle = True
            self._chunks.clear()
            self._behind = 0
        self._hold(False)


def _let_go(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _give_up(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(Busy("the device does not keep up with what is written", retry_s=1))
