"""`python -m bench.growth`: what a request, a start and an eviction step cost with ever more objects.

A gateway for each number of objects, all up at once, each over a data directory that was filled in this process (with
the mutations of a worker, without HTTP), and measured side by side as the peers of `bench.compare` are. Objects are tiny, so
it is the index that grows.

Owns the data directories and gateways. Does not know how a cell is measured. Kind: shell. Spec: bench/README.md, "Growth".
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import tempfile
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

from bench import loader
from bench.block import block_key
from bench.compare import circumstances, progress, say, write
from bench.loader import Plan
from bench.measure import Figure, Measure, cell_text, cells, figures_of
from bench.peers.peer import content
from bench.peers.s3 import Running, S3Peer, bucket
from bench.process import cpu_by_role, end_orderly, resident
from bench.quantity import Spread
from bench.server import Gateway
from gateway import config, engine
from tiering import mutations
from tiering.contract import BucketInfo, PutOptions
from tiering.crc64 import crc64nvme
from tiering.duties.evict import EvictDuty
from tiering.layout import BucketRecord, Extent, object_key
from tiering.orders import Orders
from tiering.pool import Pool
from tiering.space import KEEPER_SLOT
from tiering.store import TieredStore

OBJECTS = "10k,100k,1m"
SIZE = 256
REGION_BYTES = 64 << 10
SPARE_REGIONS = 1024
"""Beside the room for the objects: for what the measured PUTs write, so that nothing is evicted meanwhile."""
SAMPLE_KEYS = 4096
READING = 8
PAGE_KEYS = 1000
PAGES = 64
A_REGION = REGION_BYTES // SIZE
TOGETHER = A_REGION
"""Objects that share a commit while a store is filled. What one commit gives up, LMDB keeps as one list, and writes what is left of
it with each small commit that follows: PUTs after commits of 1,024 objects wrote 37 KB each, after these 22 KB."""
PUT = PutOptions()
EVICTION_STEPS = 8
NEW = 1 << 40
"""Numbers of keys from here on are not stored by the filling."""
BUCKET = bucket("kv")
_KEY = re.compile("<Key>([^<]*)</Key>")


@dataclass
class Stage:
    """One number of objects."""

    objects: int
    folder: Path
    fill_s: float = 0.0
    index_bytes: int = 0
    start_s: list[float] = field(default_factory=list)
    start_cpu_s: list[float] = field(default_factory=list)
    own_bytes: int = 0
    mapped_bytes: int = 0
    step_us: list[float] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, str]:
        regions = self.objects * SIZE // REGION_BYTES + SPARE_REGIONS
        return {
            "RECALL_DATA_DIR": str(self.folder),
            "RECALL_POOLS_KV_CAPACITY_BYTES": str(regions * REGION_BYTES),
            "RECALL_POOLS_KV_REGION_BYTES": str(REGION_BYTES),
            "RECALL_POOLS_KV_DEMOTE": "never",
            "RECALL_POOLS_STANDARD_CAPACITY_BYTES": "64MiB",
        }

    async def fill(self) -> None:
        """Stores the objects, and says how much the index takes."""
        begun_s = time.monotonic()
        clock = engine.SystemClock()
        pools = engine.open_pools(config.load(self.settings), 1, clock, lambda: None)
        store = TieredStore(pools, self.folder, None, Orders(lambda: None), clock, 1)
        await store.create_bucket(BucketInfo(name=BUCKET, created_ms=clock.now_ms(), pool="kv"))
        await store.close()
        pool = pools["kv"]
        with pool.index.view() as view:
            owner = view.bucket(BUCKET)
        assert owner is not None
        for first in range(0, self.objects, TOGETHER):
            if first % (100 * TOGETHER) == 0:
                progress(f"storing {first} of {self.objects}")
            self._commit(pool, owner, range(first, min(first + TOGETHER, self.objects)), clock.now_ms())
            pool.epochs.rotate()  # as a worker does: what it may still be reading is not written over
        pool.heat.adopt()  # as the keeper does: without that the first start takes it that the power was lost, and audits
        pool.index.sync()
        for each in pools.values():
            each.close()
        index = self.folder / "pools" / "kv" / "index"
        self.index_bytes = sum(path.stat().st_blocks * 512 for path in index.iterdir())
        self.fill_s = time.monotonic() - begun_s

    def _commit(self, pool: Pool, owner: BucketRecord, numbers: range, now_ms: int) -> None:
        """Some objects in one transaction: what the writers of a worker do for each, without their tasks and buffers, which
        is four times as fast."""
        data = content(SIZE)
        crc64 = crc64nvme(data)
        etag = mutations.opaque_etag(crc64)
        batch = pool.index.batch()
        for first in range(numbers.start, numbers.stop, A_REGION):
            region = batch.claim_region(pool.space.slot)
            assert region is not None
            mine = range(first, min(first + A_REGION, numbers.stop))
            pool.flash.write(region, 0, data * len(mine))
            for place, number in enumerate(mine):
                extents = (Extent(region, place * SIZE, SIZE, crc64),)
                record = mutations.new_record(PUT, size=SIZE, etag=etag, crc64=crc64, extents=extents, now_ms=now_ms)
                mutations.put_object(
                    batch, pool, owner, object_key(owner.number, block_key(number)), record, None, now_ms
                )
            batch.seal_region(region)
        batch.commit()

    async def evict(self, steps: int) -> None:
        """Frees some regions as the keeper does; the gateway is down."""
        pools = engine.open_pools(config.load(self.settings), KEEPER_SLOT, engine.SystemClock(), lambda: None)
        with pools["kv"].index.view() as view, view.cursor("objects") as rows:
            for _ in rows.iternext(True, False):  # as its scrub does: a keeper has touched every page
                pass
        duty = EvictDuty(pools["kv"], None)
        duty.low = 1 << 30
        for _ in range(steps):
            begun_s = time.process_time()
            await duty.step()
            self.step_us.append((time.process_time() - begun_s) * 1e6)
        for pool in pools.values():
            pool.close()


class StagePeer(S3Peer):
    """A gateway over a stage's data."""

    operations: Collection[str] = ("GET", "404", "PUT kv", "LIST")

    def __init__(self, stage: Stage) -> None:
        super().__init__(name_of(stage.objects), self._started)
        self.stage = stage

    def _started(self) -> Running:
        begun_s = time.monotonic()
        gateway = Gateway(self.stage.settings, self.stage.folder).__enter__()
        self.stage.start_s.append(time.monotonic() - begun_s)
        self.stage.start_cpu_s.append(sum(cpu_by_role(gateway.processes()).values()))
        address = (gateway.host, gateway.port)
        return Running(address, gateway.access_key, gateway.secret_key, gateway.processes, gateway.stop)

    def _sample(self) -> list[int]:
        chosen = random.Random(self.stage.objects)
        return [chosen.randrange(self.stage.objects) for _ in range(SAMPLE_KEYS)]

    def warm(self) -> None:
        """Reads the sample once, as the first read of an object after a start checks its bytes, and lists all there is: the
        first touch of a page of the index by a process costs a fault, and there are more pages the more objects."""
        start: str | None = ""
        while start is not None:
            query = f"list-type=2&max-keys={PAGE_KEYS}&start-after={quote(start, safe='')}"
            keys = _KEY.findall(self.ask("GET", f"/{BUCKET}", query=query).decode())
            start = keys[-1] if len(keys) == PAGE_KEYS else None
        with ThreadPoolExecutor(READING) as threads:
            list(threads.map(lambda number: self.ask("GET", f"/{BUCKET}/{block_key(number)}"), self._sample()))

    def plan(self, operation: str, size: int) -> Plan:
        chosen = random.Random(self.stage.objects)
        head = self.signer.head
        match operation:
            case "GET":
                return Plan([head("GET", f"/{BUCKET}/{block_key(n)}") for n in self._sample()], expect_bytes=size)
            case "404":
                numbers = range(NEW, NEW + SAMPLE_KEYS)
                return Plan([head("GET", f"/{BUCKET}/{block_key(n)}") for n in numbers], expect_status=404)
            case "PUT kv":
                numbers = range(2 * NEW, 2 * NEW + SAMPLE_KEYS)
                return Plan([head("PUT", f"/{BUCKET}/{block_key(n)}", size) for n in numbers], body=content(size))
            case "LIST":
                starts = [block_key(chosen.randrange(self.stage.objects)) for _ in range(PAGES)]
                # A page that begins near the end would be short: keys are hashes, so this is where the first tenth is.
                starts = [start for start in starts if start.split("@")[3] < "e"]
                queries = [f"list-type=2&max-keys={PAGE_KEYS}&start-after={quote(start, safe='')}" for start in starts]
                return Plan([head("GET", f"/{BUCKET}", query=query) for query in queries])
        raise AssertionError(operation)

    def look_at_memory(self) -> None:
        [worker] = self.processes()["worker"]
        found = resident(worker, self.stage.folder)
        self.stage.own_bytes, self.stage.mapped_bytes = found.own, found.mapped


def name_of(objects: int) -> str:
    return f"{objects:,}"


def parse_objects(text: str) -> int:
    """`10k`, `1m` or a number; thousands and millions of ten. Raises ValueError."""
    unit = {"k": 1000, "m": 1_000_000}.get(text[-1:].lower(), 1)
    return int(text if unit == 1 else text[:-1]) * unit


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", default=OBJECTS, help=f"numbers of objects (default {OBJECTS}; 10m takes long)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each cell in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument(
        "--data-dir", type=Path, help="where the data directories are made (default: a temporary folder)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures there")
    parser.add_argument("--save", action="store_true", help="also write them to the kept results, named by date")
    parser.add_argument("--smoke", action="store_true", help="a few seconds: does everything still run?")
    args = parser.parse_args(argv)
    if args.smoke:
        args.objects, args.seconds, args.rounds = "1k,2k", 0.05, 1
    objects = [parse_objects(text) for text in args.objects.split(",")]
    say(f"about {sum(objects) * 3e-5 / 60 + len(objects) * args.rounds * (4 * args.seconds + 4) / 60 + 1:.0f} minutes")
    end_orderly()
    with ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recall-bench-", dir=args.data_dir)))
        stages = [Stage(count, top / str(count)) for count in objects]
        for stage in stages:
            stage.folder.mkdir()
            asyncio.run(stage.fill())
        peers = [StagePeer(stage) for stage in stages]
        for peer in peers:
            stack.callback(peer.stop)
        for _ in range(args.rounds - 1):
            for peer in peers:
                progress(f"starting {peer.name}")
                peer.up()
                peer.stop()
        for peer in peers:
            peer.up()
            progress(f"reading from {peer.name}")
            peer.warm()
        todo = cells(peers, StagePeer.operations, [SIZE], [args.connections])
        samples = Measure(loader.build(), top).rounds(
            peers, todo, seconds=args.seconds, rounds=args.rounds, progress=progress
        )
        for peer in peers:
            peer.look_at_memory()
            peer.stop()
        for _ in range(args.rounds):
            for stage in stages:
                progress(f"evicting from {stage.objects}")
                asyncio.run(stage.evict(EVICTION_STEPS))
    progress("")
    smallest = peers[0].name
    figures = figures_of(samples, lambda peer: smallest if peer != smallest else "")
    print(report(figures, stages))
    document = {
        **circumstances(),
        "figures": [figure.as_json() for figure in figures],
        "stages": [{**asdict(stage), "folder": ""} for stage in stages],
    }
    write(document, [args.json] if args.json else [], "growth" if args.save else "")
    return 1 if any(figure.bad for figure in figures) else 0


def report(figures: Sequence[Figure], stages: Sequence[Stage]) -> str:
    """A column for each number of objects; in brackets the ranges, behind x what it is of the smallest's."""
    rows = {"objects": [name_of(stage.objects) for stage in stages]}
    for operation in StagePeer.operations:
        rows[f"{operation}, CPU µs"] = [_costs(figure) for figure in figures if figure.cell.operation == operation]
    steps = [Spread.of(stage.step_us) for stage in stages]
    rows |= {
        "eviction step, CPU µs": [f"{step.text(0)} x{step.median / steps[0].median:.2f}" for step in steps],
        "CPU until ready, s": [Spread.of(stage.start_cpu_s).text(2) for stage in stages],
        "ready after, s": [Spread.of(stage.start_s).text(2) for stage in stages],
        "index, bytes an object": [f"{stage.index_bytes / stage.objects:.0f}" for stage in stages],
        "worker's memory, MiB": [f"{stage.own_bytes / 2**20:.0f}" for stage in stages],
        "and of mapped files": [f"{stage.mapped_bytes / 2**20:.0f}" for stage in stages],
    }
    lines = ["".join((f"{name:<24}", *(f"{text:>32}" for text in row))) for name, row in rows.items()]
    return "\n".join(lines + [f"bad: {cell_text(each.cell)}: {each.first_bad}" for each in figures if each.bad])


def _costs(figure: Figure) -> str:
    ratio = figure.cpu_ratio
    return figure.cpu_us.text(1) + (f" x{1 / ratio.median:.2f}" if ratio else "")


if __name__ == "__main__":
    raise SystemExit(main())
