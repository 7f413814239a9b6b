"""What a GET costs one worker from received bytes to the write, without sockets: µs of CPU, least and median of the runs.

    python -m bench.micro.read [--operation GET|HEAD|404] [--size 4096] [--runs N]

Head parser, pipeline, index and flash as a worker has them; a transport that takes everything. Other load on the machine only ever
adds: compare two trees by runs in turn. Kind: shell.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import uvloop

from bench.micro.put import cache_pool
from gateway import engine
from gateway.admin.routes import AdminRoutes
from gateway.credentials import Credentials
from gateway.http.connections import Connections
from gateway.http.limits import Limits
from gateway.http.protocol import HttpProtocol
from gateway.metrics import Metrics
from gateway.worker import OPERATION_NAMES
from s3api.config import ApiConfig
from s3api.handlers import HANDLERS
from s3api.identity import Identity
from s3api.pipeline import Pipeline
from s3api.sigv4 import UNSIGNED, sign_headers
from tiering.contract import BucketInfo, Buffer, PutOptions, PutResult
from tiering.orders import Orders
from tiering.store import TieredStore

KEYS = 256
READS = 4096
OPERATIONS = ("GET", "HEAD", "404")
ROOT = Identity("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "owner", "root", root=True)


class _Transport(asyncio.Transport):
    """Takes everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self.begins = b""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def write(self, data: Buffer) -> None:
        self.begins = bytes(data[:12])

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        for data in list_of_data:
            self.write(data)


def _heads(operation: str) -> list[bytes]:
    heads = []
    for number in range(KEYS):
        path = b"/kv-cache/%s-%032x" % (b"gone" if operation == "404" else b"here", number)
        method = "HEAD" if operation == "HEAD" else "GET"
        named = {b"host": b"127.0.0.1:9000", b"user-agent": b"x", b"accept": b"*/*"}
        secret = {"access_key": ROOT.access_key, "secret_key": ROOT.secret_key}
        sent = sign_headers(method, path, b"", named, now_s=int(time.time()), payload=UNSIGNED, **secret)
        lines = b"".join([b"%b: %b\r\n" % pair for pair in sent.items()])
        heads.append(b"%b %b HTTP/1.1\r\n%b\r\n" % (method.encode(), path, lines))
    return heads


async def _measure(folder: Path, operation: str, size: int, runs: int) -> list[float]:
    clock = engine.SystemClock()
    pool = cache_pool(folder, clock)
    metrics = Metrics(folder, "worker-0", OPERATION_NAMES, ("kv",))
    store = TieredStore({"kv": pool}, folder, None, Orders(lambda: None), clock, 1, engine.meter(metrics))
    await store.create_bucket(BucketInfo(name="kv-cache", created_ms=1, pool="kv"))
    for number in range(KEYS):
        opened = store.put("kv-cache", f"here-{number:032x}", size, PutOptions())
        writer: Any = await opened if asyncio.iscoroutine(opened) else opened
        writer.write(os.urandom(size))
        await writer.commit(PutResult())
    pipeline = Pipeline(store, ApiConfig(), {ROOT.access_key: ROOT}.get, HANDLERS, clock, metrics.request)
    app = AdminRoutes(pipeline, metrics, Credentials(ROOT.access_key, ROOT.secret_key), metrics_auth="public")
    connections = Connections(Limits(), asyncio.get_running_loop())
    protocol = HttpProtocol(app, connections.limits, connections)
    transport = _Transport()
    protocol.connection_made(transport)
    heads = _heads(operation)
    expected = b"HTTP/1.1 404" if operation == "404" else b"HTTP/1.1 200"

    def many() -> None:
        for at in range(READS):
            head = heads[at % KEYS]
            count = len(head)
            protocol.get_buffer(-1)[:count] = head
            protocol.buffer_updated(count)

    found = []
    try:
        many()
        for _ in range(runs):
            start_s = time.process_time()
            many()
            found.append((time.process_time() - start_s) / READS * 1e6)
            assert transport.begins == expected, transport.begins
    finally:
        connections.stop()
        await store.close()
        pool.close()
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operation", choices=OPERATIONS)
    parser.add_argument("--size", type=int, default=4096, help="of the objects, at most 32 KiB")
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    for operation in [arguments.operation] if arguments.operation else OPERATIONS:
        with tempfile.TemporaryDirectory() as folder:
            found = uvloop.run(_measure(Path(folder), operation, arguments.size, arguments.runs))
        print(f"{operation} {arguments.size} least {found[0]:.2f} median {found[len(found) // 2]:.2f}", flush=True)


if __name__ == "__main__":
    main()
