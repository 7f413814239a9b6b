"""Backings that let others in between: one tells what it is asked, where a test stops, waits or kills; one takes its time.

Own nothing. Do not know what the hook does. Kind: wrappers of the Backing port. Spec: tiering.ports.Backing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from tiering.backing.streams import closing
from tiering.contract import Buffer
from tiering.ports import Backing, BackingSource, BackingStat


class Hooked:
    """`hook(verb, key)` is awaited before each get, and after each put and delete but before its answer is given."""

    def __init__(self, inner: Backing, hook: Callable[[str, str], Awaitable[None]]) -> None:
        self.inner = inner
        self._hook = hook

    async def put(self, key: str, source: BackingSource) -> BackingStat:
        stat = await self.inner.put(key, source)
        await self._hook("put", key)
        return stat

    async def get(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        await self._hook("get", key)
        async with closing(self.inner.get(key, start, stop)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def delete(self, key: str) -> None:
        await self.inner.delete(key)
        await self._hook("delete", key)

    def list(self, prefix: str) -> AsyncIterator[BackingStat]:
        return self.inner.list(prefix)

    async def stat(self, key: str) -> BackingStat:
        return await self.inner.stat(key)

    async def close(self) -> None:
        await self.inner.close()


PACE_BYTES = 40_000


class Paced:
    """Streams in small chunks, and gives everybody else some turns after each: a backing in memory never waits otherwise."""

    def __init__(self, inner: Backing) -> None:
        self.inner = inner

    async def put(self, key: str, source: BackingSource) -> BackingStat:
        return await self.inner.put(key, _PacedSource(source))

    async def get(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        async with closing(self.inner.get(key, start, stop)) as chunks:
            async for chunk in chunks:
                for at in range(0, len(chunk), PACE_BYTES):
                    yield chunk[at : at + PACE_BYTES]
                    await _turns()

    async def delete(self, key: str) -> None:
        await _turns()
        await self.inner.delete(key)
        await _turns()

    def list(self, prefix: str) -> AsyncIterator[BackingStat]:
        return self.inner.list(prefix)

    async def stat(self, key: str) -> BackingStat:
        return await self.inner.stat(key)

    async def close(self) -> None:
        await self.inner.close()


class _PacedSource:
    def __init__(self, inner: BackingSource) -> None:
        self.inner = inner
        self.size = inner.size

    async def chunks(self) -> AsyncIterator[Buffer]:
        async with closing(self.inner.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk
                await _turns()


async def _turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)
