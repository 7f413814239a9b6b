"""A backing in memory: the reference for the others, and the store behind tests (`memory:`).

Owns: its dict; one loop. Does not know: files, networks. Kind: owner. Invariant: a value is replaced whole, never
changed, so a stream begun before an overwrite goes on with the old bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from tiering.backing.keys import check_key
from tiering.backing.streams import closing
from tiering.ports import BackingCorrupt, BackingSource, BackingStat, NotFound

CHUNK_BYTES: Final = 256 << 10


class MemoryBacking:
    """A Backing over a dict."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    async def put(self, key: str, source: BackingSource) -> BackingStat:
        check_key(key)
        data = bytearray()
        async with closing(source.chunks()) as chunks:
            async for chunk in chunks:
                data += chunk
        if len(data) != source.size:
            raise ValueError(f"the source gave {len(data)} bytes and announced {source.size}")
        self._objects[key] = bytes(data)
        return BackingStat(key, len(data))

    async def get(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        data = self._objects.get(check_key(key))
        if data is None:
            raise NotFound(key)
        end = len(data) if stop is None else stop
        for at in range(start, min(end, len(data)), CHUNK_BYTES):
            yield data[at : min(at + CHUNK_BYTES, end)]
        if end > len(data) or start > len(data):
            raise BackingCorrupt(f"{len(data)} bytes are stored, {start}:{end} was asked for")

    async def delete(self, key: str) -> None:
        self._objects.pop(check_key(key), None)

    async def list(self, prefix: str) -> AsyncIterator[BackingStat]:
        for key in sorted(key for key in self._objects if key.startswith(prefix)):
            if key in self._objects:
                yield BackingStat(key, len(self._objects[key]))

    async def stat(self, key: str) -> BackingStat:
        data = self._objects.get(check_key(key))
        if data is None:
            raise NotFound(key)
        return BackingStat(key, len(data))

    async def close(self) -> None:
        pass
