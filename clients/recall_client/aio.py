"""`AsyncRecallClient`: the same calls for asyncio, each in a thread of the client's own.

Blocks are megabytes that the kernel copies; a thread does that as fast as a loop would, and leaves the loop alone.
Owns its threads. Does not know HTTP. Kind: shell; one loop. Spec: clients/README.md.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from recall_client.client import Lookup, Outcome, RecallClient, forkable
from recall_client.connections import Buffer

P = ParamSpec("P")
T = TypeVar("T")


class AsyncRecallClient:
    """Takes what `RecallClient` takes. A cancelled call goes on in its thread: its buffers are in use until then."""

    def __init__(self, *args: Any, connections: int = 8, **options: Any) -> None:
        self.client = RecallClient(*args, connections=connections, **options)
        self._size = connections
        self._begin()
        forkable.add(self)

    def _begin(self) -> None:
        self._threads = ThreadPoolExecutor(self._size, "recall-async")

    async def __aenter__(self) -> AsyncRecallClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Waits for calls under way."""
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self.client.close)

    async def _run(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: call(*args, **options))

    async def lookup(self, keys: Sequence[str]) -> Lookup:
        return await self._run(self.client.lookup, keys)

    async def get_into(
        self, keys: Sequence[str], buffers: Sequence[Any], *, stop_at_miss: bool = True, hot_only: bool = False
    ) -> list[int | None]:
        return await self._run(self.client.get_into, keys, buffers, stop_at_miss=stop_at_miss, hot_only=hot_only)

    async def get(
        self, keys: Sequence[str], *, stop_at_miss: bool = True, hot_only: bool = False
    ) -> list[bytes | None]:
        return await self._run(self.client.get, keys, stop_at_miss=stop_at_miss, hot_only=hot_only)

    async def put(
        self,
        blocks: Iterable[tuple[str, Buffer]],
        *,
        pin: float | bool | None = None,
        ttl: float | str | None = None,
        if_absent: bool = False,
    ) -> list[Outcome]:
        return await self._run(self.client.put, blocks, pin=pin, ttl=ttl, if_absent=if_absent)

    async def delete(self, keys: Sequence[str]) -> list[Outcome]:
        return await self._run(self.client.delete, keys)

    async def pin(self, keys: Sequence[str], seconds: float | None = None) -> list[Outcome]:
        return await self._run(self.client.pin, keys, seconds)

    async def unpin(self, keys: Sequence[str]) -> list[Outcome]:
        return await self._run(self.client.unpin, keys)

    async def touch(self, keys: Sequence[str], ttl: float | str | None = None) -> list[Outcome]:
        return await self._run(self.client.touch, keys, ttl)

    @contextlib.asynccontextmanager
    async def lease(self, keys: Sequence[str], seconds: float) -> AsyncIterator[list[Outcome]]:
        """As `RecallClient.lease`."""
        outcomes = await self.pin(keys, seconds)
        try:
            yield outcomes
        finally:
            await self.unpin([key for key, outcome in zip(keys, outcomes, strict=True) if outcome.ok])
