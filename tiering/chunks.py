"""The bytes of an opened object, whatever its body is.

Owns nothing. Does not know objects. Kind: shell; what must be read is read by the caller's threads.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

from tiering.contract import FileSpans, Reading


async def body_chunks(reading: Reading, threads: ThreadPoolExecutor, chunk_bytes: int = 1 << 20) -> Any:
    """The bytes of an opened object, whatever its body is."""
    body = reading.body
    if isinstance(body, bytes):
        yield body
    elif isinstance(body, FileSpans):
        loop = asyncio.get_running_loop()
        for fd, offset, length in body.spans:
            for at in range(offset, offset + length, chunk_bytes):
                size = min(chunk_bytes, offset + length - at)
                yield await loop.run_in_executor(threads, os.pread, fd, size, at)
    elif body is not None:
        async with aclosing(body) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk
