"""Byte streams as the backing port speaks of them: closing one for sure, and a source made of bytes at hand.

Owns: nothing. Does not know: any backing. Kind: pure.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Generic, TypeVar

from tiering.contract import Buffer

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
