"""What an object takes in the index, table by table, in each state it can be in; and what a step from one to the next costs.

    python -m bench.micro.rows [--objects 1m] [--keys 62,16,200] [--etag opaque,md5] [--json FILE]

An index is filled in this process with a keeper's and a worker's mutations: objects of 256 bytes without metadata, keys in
random order. A pool that demotes has them waiting for their copy first, then in both places, then cold-only; a cache has them
hot. Bytes are whole pages of each table over the objects, as LMDB counts them, and what the file takes on disk; times are
CPU µs an object, with the commit of each group, the backing store's part left out. Kind: shell.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from bench.block import block_key
from bench.growth import parse_objects
from tiering import coldstream, layout, mutations
from tiering.cold import object_meta
from tiering.contract import BucketInfo, Clock, PutOptions
from tiering.crc64 import crc64nvme
from tiering.index import Batch
from tiering.layout import BucketRecord, ColdPiece, Extent
from tiering.pool import Pool, PoolConfig, open_pool

SIZE = 256
REGION_BYTES = 64 << 10
A_REGION = REGION_BYTES // SIZE
A_STEP = 32
"""Copies that the keeper makes at once, and notes each in a commit of its own: here they share one."""
LOOK_UPS = 20_000
TABLES_FROM = 0.05
"""Tables that take less an object are not shown."""


class _Now:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


def key_of(number: int, length: int) -> str:
    """A key of `length` bytes in random order; of 62, one as LMCache makes it."""
    if length == len(block_key(0)):
        return block_key(number)
    digest = hashlib.blake2b(b"%d" % number, digest_size=8).hexdigest()
    return digest[:length] if length <= 16 else digest + "/" + "k" * (length - 17)


class Rows:
    """One index. `cache`: of a pool that never demotes."""

    def __init__(self, path: Path, objects: int, key_bytes: int, md5: bool, cache: bool) -> None:
        clock: Clock = _Now()
        config = PoolConfig(
            name="p",
            path=path,
            capacity_bytes=objects * SIZE + 64 * REGION_BYTES,
            region_bytes=REGION_BYTES,
            durability="relaxed",
            opaque_etag=not md5,
            demote="never" if cache else "eager",
        )
        self.pool: Pool = open_pool(config, 1, clock)
        self.path, self.objects, self.key_bytes, self.cache = path, objects, key_bytes, cache
        data = bytes(SIZE)
        self.crc64 = crc64nvme(data)
        self.etag = hashlib.md5(data).hexdigest() if md5 else mutations.opaque_etag(self.crc64)
        info = BucketInfo(name="bench-rows", created_ms=clock.now_ms(), pool="p")
        record = BucketRecord(**{name: getattr(info, name) for name in BucketInfo.__struct_fields__}, number=0)
        record.cache = cache
        self.owner = self.pool.committer.run(lambda batch: mutations.create_bucket(batch, record))

    def grouped(self, work: Callable[[Batch, list[int]], None], together: int) -> float:
        """CPU µs an object of `work` on all of them, so many a commit."""
        spent_s = 0.0
        for first in range(0, self.objects, together):
            numbers = list(range(first, min(first + together, self.objects)))
            begun_s = time.process_time()
            batch = self.pool.index.batch()
            work(batch, numbers)
            batch.commit()
            spent_s += time.process_time() - begun_s
            self.pool.epochs.rotate()
        return spent_s * 1e6 / self.objects

    def okey(self, number: int) -> bytes:
        return layout.object_key(self.owner.number, key_of(number, self.key_bytes))

    def put(self, batch: Batch, numbers: list[int]) -> None:
        region = batch.claim_region(1)
        assert region is not None
        now_ms = self.pool.clock.now_ms()
        for place, number in enumerate(numbers):
            extents = (Extent(region, place * SIZE, SIZE, self.crc64),)
            record = mutations.new_record(
                PutOptions(), size=SIZE, etag=self.etag, crc64=self.crc64, extents=extents, now_ms=now_ms
            )
            mutations.put_object(batch, self.pool, self.owner, self.okey(number), record, None, now_ms)
        batch.seal_region(region)

    def demote(self, batch: Batch, numbers: list[int]) -> None:
        due = []
        for key, owed in batch.rows("dirty"):
            if len(due) == len(numbers):
                break
            found = batch.owed(layout.unpack_u64(key), owed)
            assert found is not None
            due.append(found)
        for okey, record in due:
            meta = object_meta(self.owner, layout.split_object_key(okey)[1], record)
            head = coldstream.build_head(meta, SIZE, self.crc64)
            frames = coldstream.ColdLayout(SIZE, len(head), SIZE, b"", self.crc64.to_bytes(8, "little"))
            piece = ColdPiece("", SIZE, coldstream.pack_layout(frames, self.crc64))
            mutations.demoted(batch, self.pool, okey, record, piece, 0)

    def evict(self, batch: Batch, numbers: list[int]) -> None:
        for number in numbers:
            okey = self.okey(number)
            record = batch.object(okey)
            assert record is not None
            mutations.evicted(batch, okey, record.generation)

    def look_up_us(self) -> float:
        """CPU µs of one look-up of an object that is there."""
        chosen = random.Random(1)
        okeys = [self.okey(chosen.randrange(self.objects)) for _ in range(LOOK_UPS)]
        get = self.pool.index.get_object
        times = []
        for _ in range(5):
            begun_s = time.process_time()
            for okey in okeys:
                get(okey)
            times.append((time.process_time() - begun_s) * 1e6 / LOOK_UPS)
        return min(times)

    def said(self, state: str, step_us: float) -> dict[str, float | str]:
        self.pool.index.sync()
        with self.pool.index.view() as view:
            tables = {name: view.table_bytes(name) / self.objects for name in layout.DATABASES}
        in_file = sum(path.stat().st_blocks * 512 for path in (self.path / "index").iterdir() if path.suffix == ".mdb")
        return {
            "state": state,
            "in use": round(sum(tables.values()), 1),
            "file": round(in_file / self.objects, 1),
            **{name: round(size, 1) for name, size in tables.items() if size >= TABLES_FROM},
            "step, CPU µs": round(step_us, 1),
            "look-up, CPU µs": round(self.look_up_us(), 2),
        }


def states(path: Path, objects: int, key_bytes: int, md5: bool, cache: bool) -> Iterator[dict[str, float | str]]:
    rows = Rows(path, objects, key_bytes, md5, cache)
    try:
        spent_us = rows.grouped(rows.put, A_REGION)
        yield rows.said("hot, a cache's" if cache else "hot-only", spent_us)
        if not cache:
            yield rows.said("both", rows.grouped(rows.demote, A_STEP))
            yield rows.said("cold-only", rows.grouped(rows.evict, A_REGION))
    finally:
        rows.pool.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=parse_objects, default=parse_objects("100k"))
    parser.add_argument("--keys", default="62", help="bytes of a key, more than one with commas between")
    parser.add_argument("--etag", default="opaque", help="opaque, md5 or both with a comma between")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = []
    for etag in arguments.etag.split(","):
        for key_bytes in map(int, arguments.keys.split(",")):
            for cache in (True, False):
                with tempfile.TemporaryDirectory(prefix="recall-rows-") as folder:
                    for row in states(Path(folder) / "p", arguments.objects, key_bytes, etag == "md5", cache):
                        row = {"keys": f"{key_bytes} B", "ETag": etag, **row}
                        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
                        found.append(row)
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(json.dumps(found).encode()))


if __name__ == "__main__":
    main()
