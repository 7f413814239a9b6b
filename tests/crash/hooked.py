"""A backing that tells what it is asked: where a test stops, waits or kills.

Owns nothing. Does not know what the hook does. Kind: wrapper of the Backing port. Spec: tiering.ports.Backing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from tiering.backing.streams import closing
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
