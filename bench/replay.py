"""`python -m bench.replay TRACE`: a production trace of prefix requests through a running gateway, every byte verified.

For each request of the trace: GET its blocks in order until the first that is missing, then PUT that one and the rest.
A block's bytes follow from its id and are compared in full at every read. With `--cold-reads on`, every block that was
ever written is read once more at the end.

Owns the counters of one run and the gateway it started. Does not know eviction: it sees what a client sees.
Kind: shell (asyncio). Spec: bench/README.md, "The serving rule".
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bench.block import BlockMaker, block_key
from bench.client import ClientError, Connection, Reply
from bench.policy import REGION_BLOCKS
from bench.quantity import parse_size, percentiles
from bench.server import Gateway, split_endpoint
from bench.signing import Signer
from bench.trace import Trace, read_trace
from tiering.pool import REGION_BYTES_MAX, REGION_BYTES_MIN, REGIONS_MIN

BUCKET = "kv-replay"
TIMEOUT_S = 60.0
BUSY_TRIES = 40
"""A 503 is asked again after a pause, as the SDKs do; this many in a row are an error."""
BUSY_PAUSE_S = 0.05
COUNTED = (
    "demotions",
    "demoted_bytes",
    "evictions",
    "evicted_bytes",
    "survivors",
    "survivor_bytes",
    "recalls",
    "recalled_bytes",
    "expired",
)
"""`recall_<name>_total` of the gateway's metrics."""


@dataclass
class Tally:
    """What the clients saw."""

    requests: int = 0
    references: int = 0
    hits: int = 0
    puts: int = 0
    busy: int = 0
    verified: int = 0  # blocks read back in the last pass
    bytes_by_tier: Counter[str] = field(default_factory=Counter)
    bytes_put: int = 0
    get_us: list[float] = field(default_factory=list)  # of hits
    miss_us: list[float] = field(default_factory=list)
    put_us: list[float] = field(default_factory=list)
    verify_us: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


class Replay:
    """The clients of one run. `speed` None: as fast as replies come; else the trace's clock runs `speed` times as fast."""

    def __init__(
        self, endpoint: str, access_key: str, secret_key: str, trace: Trace, block_bytes: int, speed: float | None
    ) -> None:
        self._host, self._port = split_endpoint(endpoint)
        self._signer = Signer(f"{self._host}:{self._port}", access_key, secret_key)
        self._trace = trace
        self._block_bytes = block_bytes
        self._maker = BlockMaker(block_bytes)
        self._speed = speed
        self._begun_s = 0.0
        self._written: dict[int, None] = {}  # blocks acknowledged, in order of their first write
        self.tally = Tally()

    async def prepare(self, pool: str) -> None:
        """Makes the bucket. Raises ClientError."""
        connection = self._connection()
        reply = await connection.ask(self._signer.head("PUT", f"/{BUCKET}", 0, (("x-recall-pool", pool),)))
        if reply.status not in (200, 409):
            raise ClientError(f"the bucket cannot be made: {reply.status} {bytes(reply.body[:300])!r}")
        connection.close()

    async def run(self, clients: int) -> float:
        """Replays the whole trace; returns its seconds. With one client the order is the trace's."""
        order = iter(range(len(self._trace.requests)))
        self._begun_s = time.perf_counter()
        await self._together(clients, lambda: self._client(order))
        return time.perf_counter() - self._begun_s

    async def verify_all(self, clients: int) -> float:
        """Reads every block ever acknowledged; one that is missing or differs is an error. Returns its seconds."""
        begun_s = time.perf_counter()
        todo = iter(tuple(self._written))
        await self._together(clients, lambda: self._verifier(todo))
        return time.perf_counter() - begun_s

    async def metrics(self) -> dict[str, float]:
        """The gateway's counters of tier moves, over all pools; empty when it does not give its metrics away."""
        connection = self._connection(4 << 20)
        try:
            # Unsigned: a signed request there asks for an object of that name.
            reply = await connection.ask(b"GET /recall/metrics HTTP/1.1\r\nHost: %b\r\n\r\n" % self._host.encode())
        except ClientError:
            return {}
        finally:
            connection.close()
        return tier_moves(bytes(reply.body).decode()) if reply.status == 200 else {}

    def _connection(self, bytes_max: int = 0) -> Connection:
        return Connection(self._host, self._port, bytes_max or max(self._block_bytes, 64 << 10), TIMEOUT_S)

    @staticmethod
    async def _together(clients: int, client: Callable[[], Coroutine[None, None, None]]) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())

    async def _client(self, order: Iterator[int]) -> None:
        connection = self._connection()
        for number in order:
            if self._speed is not None:
                due_s = self._begun_s + self._trace.arrivals_s[number] / self._speed
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            await self._serve(connection, self._trace.requests[number])
        connection.close()

    async def _serve(self, connection: Connection, blocks: Sequence[int]) -> None:
        tally = self.tally
        tally.requests += 1
        tally.references += len(blocks)
        run = 0
        while run < len(blocks) and await self._get(connection, blocks[run]):
            run += 1
        tally.hits += run
        for block in blocks[run:]:
            await self._put(connection, block)

    async def _verifier(self, todo: Iterator[int]) -> None:
        connection = self._connection()
        for block in todo:
            if await self._get(connection, block, last=True):
                self.tally.verified += 1
            else:
                self.tally.errors["an acknowledged block is missing"] += 1
        connection.close()

    async def _ask(
        self, connection: Connection, method: str, block: int, body: bytearray | None = None
    ) -> Reply | None:
        """One request, asked again while the gateway is busy. None after an error, which is counted."""
        path = f"/{BUCKET}/{block_key(block)}"
        for _ in range(BUSY_TRIES):
            head = self._signer.head(method, path, None if body is None else len(body))
            try:
                reply = await connection.ask(head, body or b"")
            except ClientError as error:
                self.tally.errors[f"{method}: {error}"] += 1
                return None
            if reply.status != 503:
                return reply
            self.tally.busy += 1
            await asyncio.sleep(BUSY_PAUSE_S)
        self.tally.errors[f"{method}: 503 {BUSY_TRIES} times"] += 1
        return None

    async def _get(self, connection: Connection, block: int, last: bool = False) -> bool:
        begun_s = time.perf_counter()
        reply = await self._ask(connection, "GET", block)
        took_us = 1e6 * (time.perf_counter() - begun_s)
        if reply is None:
            return False
        if reply.status == 404:
            self.tally.miss_us.append(took_us)
            return False
        if reply.status != 200:
            self.tally.errors[f"GET: {reply.status}"] += 1
            return False
        (self.tally.verify_us if last else self.tally.get_us).append(took_us)
        self.tally.bytes_by_tier[reply.headers.get("x-recall-tier", "unnamed")] += len(reply.body)
        # Through bytes: a memoryview compares item by item, bytes with memcmp.
        if bytes(reply.body) != self._maker.make(block):
            self.tally.errors["GET: the bytes are not the block's"] += 1
        return True

    async def _put(self, connection: Connection, block: int) -> None:
        body = self._maker.make(block)
        begun_s = time.perf_counter()
        reply = await self._ask(connection, "PUT", block, body)
        if reply is None:
            return
        if reply.status != 200:
            self.tally.errors[f"PUT: {reply.status}"] += 1
            return
        self.tally.put_us.append(1e6 * (time.perf_counter() - begun_s))
        self.tally.puts += 1
        self.tally.bytes_put += len(body)
        self._written.setdefault(block)


def tier_moves(text: str) -> dict[str, float]:
    """Sums of the counters in COUNTED over their labels, from the Prometheus text format."""
    wanted = {f"recall_{name}_total": name for name in COUNTED}
    sums: dict[str, float] = {}
    for line in text.splitlines():
        series, _, value = line.rpartition(" ")
        name = wanted.get(series.partition("{")[0])
        if name is not None:
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def region_bytes(block_bytes: int, capacity_bytes: int) -> int:
    """The region size that holds `REGION_BLOCKS` blocks, as a power of two within the gateway's bounds, and leaves the regions a pool needs."""
    wanted = 1 << (REGION_BLOCKS * block_bytes - 1).bit_length()
    while wanted > REGION_BYTES_MIN and capacity_bytes // wanted < REGIONS_MIN:
        wanted //= 2
    return min(REGION_BYTES_MAX, max(REGION_BYTES_MIN, wanted))


def capacity_bytes(text: str, trace: Trace, block_bytes: int) -> int:
    """`0.1` or `10%`: a share of the trace's distinct bytes; else a size. Raises ValueError."""
    if text.endswith("%"):
        share = float(text[:-1]) / 100
    elif "." in text:
        share = float(text)
    else:
        return parse_size(text)
    return int(share * trace.distinct) * block_bytes


def gateway_settings(capacity: int, region: int, cold_reads: bool) -> dict[str, str]:
    """The gateway as it is replayed against: a `kv` pool of that size; a pure cache when cold reads are off."""
    return {
        "RECALL_POOLS_KV_CAPACITY_BYTES": str(max(capacity, REGIONS_MIN * region)),
        "RECALL_POOLS_KV_REGION_BYTES": str(region),
        "RECALL_POOLS_KV_DEMOTE": "pressure" if cold_reads else "never",
        "RECALL_POOLS_KV_SPACE_WAIT_S": "10",
        "RECALL_POOLS_STANDARD_CAPACITY_BYTES": str(64 << 20),
    }


def report(result: dict[str, object]) -> str:
    """The result as text."""
    lines = []
    for name, value in result.items():
        if isinstance(value, dict):
            items = ", ".join(f"{key} {_number(item)}" for key, item in value.items())
            lines.append(f"{name:<22}{items or '-'}")
        else:
            lines.append(f"{name:<22}{_number(value)}")
    return "\n".join(lines)


def _number(value: object) -> str:
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


async def replay(
    args: argparse.Namespace, trace: Trace, endpoint: str, credentials: tuple[str, str]
) -> dict[str, object]:
    """Runs the clients against `endpoint` and returns the result for the report and the JSON file."""
    speed = None if args.speed == "max" else float(args.speed)
    run = Replay(endpoint, *credentials, trace, args.block_bytes, speed)
    await run.prepare(args.pool)
    before = await run.metrics()
    seconds = await run.run(args.clients)
    during = await run.metrics()
    verify_s = await run.verify_all(args.clients) if args.cold_reads == "on" else 0.0
    after = await run.metrics()
    tally = run.tally
    return {
        "trace": args.trace,
        "requests": tally.requests,
        "references": tally.references,
        "distinct blocks": trace.distinct,
        "block bytes": args.block_bytes,
        "clients": args.clients,
        "cold reads": args.cold_reads,
        "seconds": seconds,
        "hit rate": tally.hits / max(1, tally.references),
        "hits": tally.hits,
        "puts": tally.puts,
        "bytes put": tally.bytes_put,
        "bytes read by tier": dict(tally.bytes_by_tier),
        "GET hit us": percentiles(tally.get_us),
        "GET miss us": percentiles(tally.miss_us),
        "PUT us": percentiles(tally.put_us),
        "tier moves": {name: value - before.get(name, 0.0) for name, value in during.items()},
        "moved per put": (during.get("survivors", 0.0) - before.get("survivors", 0.0)) / max(1, tally.puts),
        "busy (503, retried)": tally.busy,
        "verified at the end": tally.verified,
        "verify seconds": verify_s,
        "verify GET us": percentiles(tally.verify_us),
        "moves in verify": {name: value - during.get(name, 0.0) for name, value in after.items()} if verify_s else {},
        "errors": dict(tally.errors),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.replay", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("trace")
    parser.add_argument("--block-bytes", type=parse_size, default=64 << 10, help="default 64k")
    parser.add_argument(
        "--capacity", default="10%", help="hot tier: a share of the distinct bytes (0.1, 10%%) or a size"
    )
    parser.add_argument("--clients", type=int, default=1, help="one keeps the trace's order (comparable hit rate)")
    parser.add_argument("--speed", default="max", help="the trace's clock times this; max: no waiting")
    parser.add_argument("--requests", type=int, help="only the first N of the trace")
    parser.add_argument(
        "--cold-reads", choices=("off", "on"), default="off", help="off: a pure cache; on: demote and recall"
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--backing", help="backing store of the gateway that is started (default: a directory)")
    parser.add_argument("--endpoint", help="a running gateway instead; credentials from RECALL_ROOT_USER and _PASSWORD")
    parser.add_argument("--pool", default="kv", help="pool of the bucket, for --endpoint")
    parser.add_argument("--data-dir", type=Path, help="of the gateway that is started (default: a temporary folder)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the result there")
    args = parser.parse_args(argv)
    trace = read_trace(args.trace, args.requests)
    capacity = capacity_bytes(args.capacity, trace, args.block_bytes)
    with ExitStack() as stack:
        if args.endpoint:
            endpoint = args.endpoint
            try:
                credentials = (os.environ["RECALL_ROOT_USER"], os.environ["RECALL_ROOT_PASSWORD"])
            except KeyError as error:
                parser.error(f"--endpoint needs {error.args[0]} in the environment")
        else:
            settings = gateway_settings(capacity, region_bytes(args.block_bytes, capacity), args.cold_reads == "on")
            if args.backing:
                settings["RECALL_BACKING"] = args.backing
            gateway = stack.enter_context(Gateway(settings, args.data_dir, args.workers))
            endpoint, credentials = gateway.endpoint, (gateway.access_key, gateway.secret_key)
        result = uvloop.run(replay(args, trace, endpoint, credentials))
    result |= {"capacity bytes": capacity}
    print(report(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if result["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
