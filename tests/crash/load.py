"""What the loads of long runs are made of: bodies that say which write they are of, and a connection to a gateway that may go away.

Owns the connection. Does not know what is written where. Kind: shell of the tests (asyncio).
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from bench.client import Connection, Reply
from s3api.sigv4 import sign_headers

SIZES: Final = (0, 1, 700, 4096, 4096, 30_000, 65_536, 100_000, 300_000, 600_000)
PART_BYTES: Final = 5 << 20
BODY_BYTES_MAX: Final = 12 << 20
REPLY_S: Final = 30.0
SETTLE_S: Final = 30.0
"""How long a read may be told to try again after the load has ended."""
_NOISE: Final = random.Random(7).randbytes(BODY_BYTES_MAX + (1 << 16))


def body(version: tuple[int, int]) -> bytes:
    """The bytes of a version: its serial number, then noise from a place that only this serial number begins at."""
    serial, size = version
    start = serial * 613 % (1 << 16)
    return (serial.to_bytes(8, "big") + _NOISE[start : start + size])[:size]


@dataclass
class Target:
    """Where a gateway listens now, and as whom it is asked."""

    access_key: str
    secret_key: str
    port: int = 0


class Caller:
    """One keep-alive connection to a gateway, wherever that listens now."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection: Connection | None = None
        self._port = 0

    async def ask(
        self, method: str, path: str, content: bytes = b"", query: str = "", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of one signed request. Raises ClientError."""
        reply = await self.reply(method, path, content, query, headers)
        return reply.status, bytes(reply.body)

    async def reply(
        self, method: str, path: str, content: bytes = b"", query: str = "", headers: dict[str, str] | None = None
    ) -> Reply:
        """The same with the headers; the body is borrowed until the next request."""
        if self._connection is None or self._port != self._target.port:
            self.close()
            self._port = self._target.port
            self._connection = Connection("127.0.0.1", self._port, BODY_BYTES_MAX, REPLY_S)
        target = quote(path, safe="/-_.~")
        named = {name.encode(): value.encode() for name, value in (headers or {}).items()}
        signed = sign_headers(
            method,
            target.encode(),
            query.encode(),
            {b"host": f"127.0.0.1:{self._port}".encode(), **named},
            access_key=self._target.access_key,
            secret_key=self._target.secret_key,
            now_s=int(time.time()),
        )
        signed[b"content-length"] = b"%d" % len(content)
        lines = b"".join(b"%b: %b\r\n" % pair for pair in signed.items())
        line = f"{method} {target}{'?' if query else ''}{query} HTTP/1.1\r\n".encode()
        return await self._connection.ask(line + lines + b"\r\n", content)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
