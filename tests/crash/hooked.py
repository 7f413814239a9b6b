"""A backing that tells when it has done a write: where a test stops, waits or kills.

Owns nothing. Does not know what the hook does. Kind: wrapper of the Backing port. Spec: tiering.ports.Backing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from tiering.ports import Backing, BackingSource, BackingStat


class Hooked:
    """`hook(verb, key)` is awaited after each put and delete has been done, before its answer is given."""

    def __init__(self, inner: Backing, hook: Callable[[str, str], Awaitable[None]]) -> None:
        self.inner = inner
        self._hook = hook

    async def put(self, key: str, source: BackingSource) -> BackingStat:
        stat = await self.inner.put(key, source)
        await self._hook("put", key)
        return stat

    def get(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        return self.inner.get(key, start, stop)

    async def delete(self, key: str) -> None:
        await self.inner.delete(key)
        await self._hook("delete", key)

    def list(self, prefix: str) -> AsyncIterator[BackingStat]:
        return self.inner.list(prefix)

    async def stat(self, key: str) -> BackingStat:
        return await self.inner.stat(key)

    async def close(self) -> None:
        await self.inner.close()
