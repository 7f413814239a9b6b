"""What a PUT costs one worker without sockets: pipeline, index and flash, µs of CPU; least and median of the runs.

    python -m bench.micro.put [--size 4096] [--together 32] [--form plain|signed|header|trailer] [--runs N]

`--form`: how the content is vouched for. `plain`: UNSIGNED-PAYLOAD. `signed`: its SHA-256 is signed. `header`: as boto3
sends over HTTP, signed and with a CRC32 in a header. `trailer`: as boto3 sends over HTTPS, aws-chunked with a CRC32 behind it.
Other load on the machine only ever adds: compare two trees by runs in turn. Kind: shell.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import itertools
import os
import tempfile
import time
import zlib
from pathlib import Path

import uvloop

from gateway.engine import SystemClock
from s3api.chunked import encode
from s3api.config import ApiConfig
from s3api.handlers import HANDLERS
from s3api.identity import Identity
from s3api.message import Headers, Request, Response
from s3api.pipeline import Pipeline
from s3api.sigv4 import STREAMING_UNSIGNED_TRAILER, UNSIGNED, sign_headers
from tiering.contract import BucketInfo
from tiering.orders import Orders
from tiering.pool import Pool, PoolConfig, open_pool, recover
from tiering.store import TieredStore

KEYS = 256
PUTS = 1600
CHUNK_BYTES = 64 << 10
CAPACITY_BYTES = 1 << 30
FORMS = ("plain", "signed", "header", "trailer")


class _Body:
    """A body that has arrived whole."""

    def __init__(self, data: bytes) -> None:
        self.length: int | None = len(data)
        self._view = memoryview(data)

    async def read(self) -> memoryview:
        view, self._view = self._view, self._view[:0]
        return view

    def done(self) -> None: ...

    def whole(self) -> memoryview | None:
        view, self._view = self._view, self._view[:0]
        return view


def _form(name: str, content: bytes) -> tuple[bytes, str, Headers]:
    """Bytes sent, what is signed for them, and headers beside."""
    crc32 = base64.b64encode(zlib.crc32(content).to_bytes(4, "big"))
    if name == "trailer":
        pieces = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
        sent = encode(pieces, None, {b"x-amz-checksum-crc32": crc32})
        extra = {
            b"content-encoding": b"aws-chunked",
            b"x-amz-decoded-content-length": b"%d" % len(content),
            b"x-amz-sdk-checksum-algorithm": b"CRC32",
            b"x-amz-trailer": b"x-amz-checksum-crc32",
        }
        return sent, STREAMING_UNSIGNED_TRAILER, extra
    if name == "plain":
        return content, UNSIGNED, {}
    claim = {b"x-amz-checksum-crc32": crc32, b"x-amz-sdk-checksum-algorithm": b"CRC32"} if name == "header" else {}
    return content, hashlib.sha256(content).hexdigest(), claim


def cache_pool(folder: Path, clock: SystemClock) -> Pool:
    """An empty pool as `kv` is, in `folder`."""
    config = PoolConfig(
        name="kv",
        path=folder / "kv",
        capacity_bytes=CAPACITY_BYTES,
        durability="relaxed",
        opaque_etag=True,
        demote="never",
        bucket_patterns=("kv-*",),
    )
    pool = open_pool(config, 1, clock)
    recover(pool)
    return pool


async def _measure(folder: Path, size: int, together: int, form: str, runs: int) -> list[float]:
    clock = SystemClock()
    pool = cache_pool(folder, clock)
    store = TieredStore({"kv": pool}, folder, None, Orders(lambda: None), clock, 1)
    await store.create_bucket(BucketInfo(name="kv-cache", created_ms=1, pool="kv"))
    root = Identity("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "owner", "root", root=True)
    pipeline = Pipeline(store, ApiConfig(), {root.access_key: root}.get, HANDLERS, clock)
    sent, payload, extra = _form(form, os.urandom(size))
    extra |= {b"host": b"127.0.0.1:9000", b"user-agent": b"x", b"content-length": b"%d" % len(sent)}
    requests = []
    for number in range(KEYS):
        path = b"/kv-cache/meta-llama_Llama-3.1-8B-Instruct%%401%%400%%40%032x%%40bfloat16" % number
        headers = sign_headers(
            "PUT",
            path,
            b"",
            extra,
            access_key=root.access_key,
            secret_key=root.secret_key,
            now_s=int(time.time()),
            payload=payload,
        )
        requests.append((path, headers))
    turn = itertools.cycle(requests)

    async def one() -> None:
        path, headers = next(turn)
        request = Request("PUT", path, b"", dict(headers), _Body(sent))
        answer = pipeline.handle(request)
        reply = answer if isinstance(answer, Response) else await answer
        assert reply.status == 200, reply.body
        pipeline.finished(request, reply, 0, True)

    count = max(together, min(PUTS, CAPACITY_BYTES // 64 // size) // together * together)

    async def many() -> None:
        for _ in range(0, count, together):
            await asyncio.gather(*(one() for _ in range(together)))

    found = []
    try:
        await many()
        for _ in range(runs):
            start_s = time.process_time()
            await many()
            found.append((time.process_time() - start_s) / count * 1e6)
    finally:
        await store.close()
        pool.close()
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--together", type=int, default=32)
    parser.add_argument("--form", choices=FORMS)
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    for form in [arguments.form] if arguments.form else FORMS:
        with tempfile.TemporaryDirectory() as folder:
            found = uvloop.run(_measure(Path(folder), arguments.size, arguments.together, form, arguments.runs))
        print(f"PUT {arguments.size} {form:8} least {found[0]:.1f} median {found[len(found) // 2]:.1f}", flush=True)


if __name__ == "__main__":
    main()
