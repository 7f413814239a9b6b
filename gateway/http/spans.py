"""Sending `FileSpans`: sendfile on plain TCP without a task, copies under TLS.

Promise: the loop does not wait for the device: what is not in the page cache is read by a thread first. What its maker has seen
there a moment ago is believed to be there still, until the peer or a thread had to be waited for. Head and body
leave without a pause between them. `release` is the caller's: it is called when `done` was, or after `stop`.
**Owns** the progress of one body and the writability watch on the connection's second descriptor.
**Does not know** requests, keep-alive, S3.
Kind: owner, on the loop's thread. Spec: sendfile(2), preadv2(2) RWF_NOWAIT, tcp(7).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from tiering.contract import Buffer, FileSpans

_WINDOW_BYTES: Final = 2 << 20
"""Probed and sent by one call, and read by the thread when it is not resident."""
_TURN_BYTES: Final = 4 << 20
"""Sent without going back to the loop."""
_COPY_BYTES: Final = 128 << 10
"""One read and write where the bytes must pass through us."""
_COPY_TURN_BYTES: Final = 1 << 20
"""Copied without going back to the loop: a peer that reads as fast as we encrypt would keep everybody else waiting."""

_PROBE: Final = memoryview(bytearray(1))
_NOT_NOW: Final = frozenset((errno.EAGAIN, errno.EWOULDBLOCK))


def read_resident(fd: int, view: memoryview, offset: int) -> int:
    """Reads into `view` what is in the page cache. Returns less than asked for where the device would be needed."""
    try:
        return os.preadv(fd, [view], offset, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno in _NOT_NOW:
            return 0
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
            return os.preadv(fd, [view], offset)  # a file system without the flag: tmpfs on older kernels, overlays
        raise


def _is_resident(fd: int, offset: int, length: int) -> bool:
    """Samples the last and the first byte, as the kernel caches and drops runs of pages."""
    return bool(read_resident(fd, _PROBE, offset + length - 1)) and (
        length <= 4096 or bool(read_resident(fd, _PROBE, offset))
    )


def _read_all(fd: int, offset: int, length: int) -> bytes:
    """In a thread: brings a window into the page cache. Returns it, for those who must copy anyway."""
    return os.pread(fd, length, offset)


class SpanSender:
    """Sends one head and one body to `sock`, a non-blocking second descriptor of the transport's socket.

    Calls `done(True)` after the last byte, `done(False)` when the connection or a file failed; from within `start` too.
    """

    __slots__ = (
        "_at",
        "_done",
        "_head",
        "_loop",
        "_seen",
        "_sock",
        "_span",
        "_spans",
        "_stopped",
        "_warm_stop",
        "_watching",
        "blocked",
        "sent_bytes",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        head: bytes,
        body: FileSpans,
        done: Callable[[bool], None],
    ) -> None:
        self.sent_bytes = 0  # of the body
        self.blocked = False  # waiting for the peer
        self._loop = loop
        self._sock = sock
        self._head = head
        self._spans = body.spans
        self._span = 0  # the one that is being sent
        self._at = 0  # bytes of it already sent
        self._done = done
        self._seen = body.seen  # until the peer or a thread had to be waited for
        self._warm_stop = 0  # of this span: read by the thread up to here, not probed again
        self._watching = False
        self._stopped = False

    def start(self) -> None:
        self._pump()

    def stop(self) -> None:
        """Ends without calling `done`. Idempotent."""
        self._stopped = True
        if self._watching:
            self._watching = False
            self._loop.remove_writer(self._sock.fileno())

    def _pump(self) -> None:
        if self._stopped:
            return
        self.blocked = False
        try:
            ended = self._send()
        except (BlockingIOError, InterruptedError):
            self.blocked = True
            self._seen = False
            if not self._watching:
                self._watching = True
                self._loop.add_writer(self._sock.fileno(), self._pump)
            return
        except OSError:
            self._finish(False)
            return
        if ended:
            self._finish(True)

    def _finish(self, complete: bool) -> None:
        self.stop()
        self._done(complete)

    def _send(self) -> bool:
        """Sends until all is sent (True), a turn is over or a thread must read first. Raises BlockingIOError, OSError."""
        sock = self._sock
        while self._head:
            # MSG_MORE: the head waits in the socket for the first body bytes and leaves in one segment with them.
            sent = sock.send(self._head, socket.MSG_MORE)
            self._head = self._head[sent:]
        out = sock.fileno()
        turn_bytes = 0
        while self._span < len(self._spans):
            fd, offset, length = self._spans[self._span]
            if self._at == length:
                self._span += 1
                self._at = self._warm_stop = 0
                continue
            offset += self._at
            window = min(length - self._at, _WINDOW_BYTES)
            if turn_bytes >= _TURN_BYTES:
                self._unwatch_for(self._loop.call_soon, self._pump)
                return False
            if self._at < self._warm_stop:
                window = min(window, self._warm_stop - self._at)  # what is behind it was not read
            elif not self._seen and not _is_resident(fd, offset, window):
                self._warm_stop = self._at + window
                self._warm(fd, offset, window)
                return False
            sent = os.sendfile(out, fd, offset, window)
            if not sent:
                raise OSError(errno.EIO, "file shorter than its span")
            self._at += sent
            self.sent_bytes += sent
            turn_bytes += sent
        return True

    def _warm(self, fd: int, offset: int, length: int) -> None:
        self._seen = False
        reading = self._loop.run_in_executor(None, _read_all, fd, offset, length)
        self._unwatch_for(reading.add_done_callback, self._warmed)

    def _unwatch_for(self, schedule: Callable[..., object], callback: Callable[..., None]) -> None:
        """A writable socket would call us in a circle while something else is awaited."""
        if self._watching:
            self._watching = False
            self._loop.remove_writer(self._sock.fileno())
        schedule(callback)

    def _warmed(self, reading: asyncio.Future[bytes]) -> None:
        if reading.cancelled() or reading.exception() is not None or not reading.result():
            if not self._stopped:
                self._finish(False)
            return
        self._pump()


async def copy_spans(
    loop: asyncio.AbstractEventLoop, head: bytes, body: FileSpans, write: Callable[[Buffer], Awaitable[None] | None]
) -> None:
    """Sends through memory, where the socket is not ours to give to sendfile. Raises OSError when a file is short."""
    pending = head
    turn_bytes = 0
    for fd, start, length in body.spans:
        at, stop = start, start + length
        while at < stop:
            size = min(stop - at, _COPY_BYTES)
            data: Buffer = bytearray(size)  # a new one each time: the transport may keep it
            if read_resident(fd, memoryview(data), at) < size:
                data = await loop.run_in_executor(None, _read_all, fd, at, size)
            if len(data) < size:
                raise OSError(errno.EIO, "file shorter than its span")
            waiting = write(pending + data if pending else data)
            pending = b""
            at += size
            turn_bytes += size
            if waiting is not None:
                await waiting
                turn_bytes = 0
            elif turn_bytes >= _COPY_TURN_BYTES:
                await asyncio.sleep(0)
                turn_bytes = 0
    if pending:
        waiting = write(pending)
        if waiting is not None:
            await waiting
