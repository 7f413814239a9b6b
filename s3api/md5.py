"""MD5 of contents that come at the same time, computed side by side where the C of it was compiled.

One content's MD5 is a chain that nothing shortens, 0.8 GB/s of a core. A vector takes a step of sixteen such chains at once,
which costs little more than one. So one thread takes whatever pieces wait for their MD5, up to sixteen at a time.
Owns that thread and what waits for it. Does not know requests, or what an MD5 is for.
Kind: shell (a thread, told of by futures of the caller's loop). Invariants: an MD5 is in one piece's hands at a time; a piece
is borrowed until its future is done. Without the compiled part hashlib does it, in the loop's thread pool.
Spec: RFC 1321; docs/decisions/0021-md5-of-many-contents-at-once.md
"""

from __future__ import annotations

import asyncio
import hashlib
import queue
import threading
from typing import Any, Final, Protocol

from tiering.contract import Buffer

try:
    from s3api import _md5 as native  # type: ignore[attr-defined]
except ImportError:
    native = None

ALONE_BYTES_MAX: Final = 64 << 10 if native is None else 16 << 10
"""Largest piece that is computed on the loop: longer ones cost less together, where there are others, than the way to the thread."""
SLICE_BLOCKS: Final = 2048
"""Blocks of 64 bytes that are computed without a look at what has come meanwhile: 0.15 ms alone, 0.3 ms of sixteen."""


class Hash(Protocol):
    """The part of hashlib's objects that is used."""

    def update(self, data: Buffer, /) -> None: ...
    def digest(self) -> bytes: ...


def new() -> Hash:
    """An MD5 of nothing yet."""
    made: Hash = hashlib.md5(usedforsecurity=False) if native is None else native.Md5()
    return made


class _Piece:
    """What is left of a piece: `blocks` from byte `start` of `view` on."""

    __slots__ = ("blocks", "done", "loop", "md5", "start", "view")

    def __init__(self, md5: Any, view: Buffer) -> None:
        self.start, self.blocks = md5.begin(view)
        self.md5 = md5
        self.view = memoryview(view)  # of our own: a lender who gives up may release his
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()

    def end(self, error: Exception | None) -> None:
        """In the loop."""
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)


class Together:
    """The thread and its queue. It starts with the first piece, and ends with the process."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[_Piece] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def update(self, md5: Hash, view: Buffer) -> asyncio.Future[Any]:
        """Takes `view` into `md5`; done when the future is. To be called in a loop."""
        if native is None:
            return asyncio.get_running_loop().run_in_executor(None, md5.update, view)
        piece = _Piece(md5, view)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="md5", daemon=True)
            self._thread.start()
        self._waiting.put(piece)
        return piece.done

    def _run(self) -> None:
        pieces: list[_Piece] = []
        while True:
            if not pieces:
                pieces.append(self._waiting.get())
            while len(pieces) < native.LANES:
                try:
                    pieces.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            pieces = self._advanced(pieces)

    def _advanced(self, pieces: list[_Piece]) -> list[_Piece]:
        """Computes a slice of each; those that are not at their end."""
        blocks = min(SLICE_BLOCKS, min(piece.blocks for piece in pieces))
        error: Exception | None = None
        try:
            native.advance([(piece.md5, piece.view, piece.start) for piece in pieces], blocks)
        except Exception as raised:
            error = raised
        left = []
        for piece in pieces:
            piece.start += 64 * blocks
            piece.blocks -= blocks
            if piece.blocks and error is None:
                left.append(piece)
                continue
            try:
                piece.loop.call_soon_threadsafe(piece.end, error)
            except RuntimeError:
                pass  # the loop is closed: nobody waits
        return left


together: Final = Together()
