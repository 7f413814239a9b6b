"""Byte streams as the backing port speaks of them: closing one for sure, a source made of bytes at hand, and one cut into blocks.

Owns: the memory of blocks, some of which is kept. Does not know: any backing. Kind: pure, but for that memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Final, Generic, TypeVar

from tiering.contract import Buffer
from tiering.ports import BackingSource

SPARE_BYTES_MAX: Final = 4 << 20
SPARES_BYTES: Final = 8 << 20
"""What is kept of the memory of uploads that are over: of one at most, and of all."""

T = TypeVar("T")


class closing(Generic[T]):
    """`async with closing(backing.get(…)) as chunks`: the stream's connection is free when the block ends.

    As `contextlib.aclosing`, for any async iterator: the port promises no `aclose`, and has none to give when the
    stream is not a generator.
    """

    def __init__(self, inner: AsyncIterator[T]) -> None:
        self._inner = inner

    async def __aenter__(self) -> AsyncIterator[T]:
        return self._inner

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        close = getattr(self._inner, "aclose", None)
        if close is not None:
            await close()


class BytesSource:
    """A BackingSource of bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    async def chunks(self) -> AsyncIterator[Buffer]:
        if self._data:
            yield self._data


class Blocks:
    """Cuts sources into blocks of one size, for stores that are cheaper to write to in few large pieces. One loop."""

    def __init__(self) -> None:
        self._spares: list[bytearray] = []

    async def of(self, source: BackingSource, block_bytes: int) -> AsyncIterator[memoryview]:
        """All of a source in blocks of that size, the last one less; one empty one of an empty source. Borrowed until the next.

        The last comes after the source's own last word: it may yet say that what it gave was wrong. Raises ValueError when it gave
        another size than it announced.
        """
        left, filled = source.size, 0
        memory = self._memory(min(block_bytes, left))
        try:
            block = memoryview(memory)[: min(block_bytes, left)]
            async with closing(source.chunks()) as chunks:
                async for chunk in chunks:
                    view = memoryview(chunk)
                    if len(view) > left:
                        raise ValueError(f"the source gave more than the {source.size} bytes it announced")
                    left -= len(view)
                    while len(view):
                        if filled == len(block):
                            yield block
                            filled = 0
                        piece = view[: len(block) - filled]
                        block[filled : filled + len(piece)] = piece
                        filled += len(piece)
                        view = view[len(piece) :]
            if left:
                raise ValueError(f"the source gave {source.size - left} bytes and announced {source.size}")
            yield block[:filled]
        finally:
            if len(memory) <= SPARE_BYTES_MAX and len(memory) + sum(map(len, self._spares)) <= SPARES_BYTES:
                self._spares.append(memory)

    def _memory(self, length: int) -> bytearray:
        """At least that much. Used again: the system's fresh pages cost twice as much as all else of an upload of 2 MiB."""
        for at, spare in enumerate(self._spares):
            if len(spare) >= length:
                return self._spares.pop(at)
        if length <= SPARE_BYTES_MAX:
            self._spares.clear()  # shorter than is asked for now
            length = 1 << (length - 1).bit_length() if length else 0
        return bytearray(length)
