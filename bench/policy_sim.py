"""Hit rates of eviction policies on a trace of prefix requests, without a gateway: the yardstick for `tiering.policy`.

Replays the trace against LRU, FIFO and this project's own policy object with unit-size blocks, and prints one line a
capacity. Promises to ask `tiering.policy` exactly what the keeper asks it, so a change there shows here first.

Owns nothing. Does not know the store: regions here are lists of block ids.
Kind: shell around pure simulations. Spec: bench/README.md, "The serving rule".
"""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.trace import Trace, read_trace
from tiering.policy import BURST_REGIONS, SURVIVOR_SHARE, FifoReinsertion, cooled, warmed
from tiering.ports import Resident

REGION_BLOCKS = 32
CAPACITIES = (0.02, 0.05, 0.10, 0.25, 0.50)


@dataclass(frozen=True)
class Outcome:
    """What one policy did: prefix hits, references, blocks put, and blocks moved to survivor regions."""

    hits: int
    references: int
    puts: int
    moved: int = 0

    @property
    def hit_rate(self) -> float:
        return self.hits / self.references

    @property
    def moved_per_put(self) -> float:
        return self.moved / self.puts


def simulate_queue(requests: Iterable[Sequence[int]], capacity: int, recency: bool) -> Outcome:
    """LRU (`recency`) or FIFO over blocks.

    Storing a block that is there (it lies behind the first miss) refreshes it under LRU and leaves its place alone
    under FIFO.
    """
    queue: OrderedDict[int, None] = OrderedDict()
    hits = references = puts = 0
    for blocks in requests:
        references += len(blocks)
        run = 0
        while run < len(blocks) and blocks[run] in queue:
            if recency:
                queue.move_to_end(blocks[run])
            run += 1
        hits += run
        for block in blocks[run:]:
            puts += 1
            if block in queue:
                if recency:
                    queue.move_to_end(block)
                continue
            queue[block] = None
            if len(queue) > capacity:
                queue.popitem(last=False)
    return Outcome(hits, references, puts)


class RegionSimulation:
    """A hot tier of `capacity` blocks in regions of `region_blocks`, freed oldest first under `tiering.policy`.

    Storing a block that is there overwrites it, as the gateway does: a new generation in the open region with no heat;
    the old copy is dead space until its region is freed. Survivors go to the open region, which counts as a region.
    """

    def __init__(self, capacity: int, policy: FifoReinsertion, region_blocks: int = REGION_BLOCKS) -> None:
        self._policy = policy
        self._region_blocks = region_blocks
        self._regions_max = max(2, capacity // region_blocks)
        self._sealed: deque[list[int]] = deque()
        self._open: list[int] = []
        self._serial = 0  # of the open region; sealed regions have consecutive smaller ones
        self._home: dict[int, int] = {}  # block → serial of the region that holds its live copy
        self._heat: dict[int, int] = {}
        self._moved = 0

    def run(self, requests: Iterable[Sequence[int]]) -> Outcome:
        hits = references = puts = 0
        for blocks in requests:
            references += len(blocks)
            run = 0
            while run < len(blocks) and blocks[run] in self._home:
                self._heat[blocks[run]] = warmed(self._heat[blocks[run]])
                run += 1
            hits += run
            for block in blocks[run:]:
                puts += 1
                self._append(block, 0)
                while len(self._sealed) + 1 > self._regions_max:
                    self._free_oldest()
        return Outcome(hits, references, puts, self._moved)

    def _append(self, block: int, heat: int) -> None:
        self._home[block] = self._serial
        self._heat[block] = heat
        self._open.append(block)
        if len(self._open) == self._region_blocks:
            self._sealed.append(self._open)
            self._open = []
            self._serial += 1

    def _free_oldest(self) -> None:
        serial = self._serial - len(self._sealed)
        # A block overwritten within one region stands there twice and counts once.
        live = [block for block in dict.fromkeys(self._sealed.popleft()) if self._home.get(block) == serial]
        verdicts = self._policy.keep([Resident(1, self._heat[block], False) for block in live], self._region_blocks)
        for block, stays in zip(live, verdicts, strict=True):
            heat = self._heat.pop(block)
            del self._home[block]
            if stays:
                self._moved += 1
                self._append(block, cooled(heat))


def compare(
    trace: Trace, share: float, policy: FifoReinsertion, region_blocks: int = REGION_BLOCKS
) -> dict[str, Outcome]:
    """The three policies at a capacity of `share` of the trace's distinct blocks."""
    capacity = int(share * trace.distinct)
    return {
        "lru": simulate_queue(trace.requests, capacity, recency=True),
        "fifo": simulate_queue(trace.requests, capacity, recency=False),
        "regions": RegionSimulation(capacity, policy, region_blocks).run(trace.requests),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.policy_sim", description=__doc__.splitlines()[0])
    parser.add_argument("trace")
    parser.add_argument("--capacity", default=",".join(map(str, CAPACITIES)), help="shares of the distinct blocks")
    parser.add_argument("--region-blocks", type=int, default=REGION_BLOCKS)
    parser.add_argument("--survivor-share", type=float, default=SURVIVOR_SHARE)
    parser.add_argument("--burst-regions", type=float, default=BURST_REGIONS)
    parser.add_argument("--requests", type=int, default=None, help="only the first N requests of the trace")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    args = parser.parse_args(argv)
    trace = read_trace(args.trace, args.requests)
    print(f"{len(trace.requests)} requests, {trace.references} references, {trace.distinct} distinct blocks")
    print(f"{'capacity':>9}  {'LRU':>6}  {'FIFO':>6}  {'regions':>7}  {'moved/put':>9}")
    rows = []
    for share in (float(text) for text in args.capacity.split(",")):
        found = compare(trace, share, FifoReinsertion(args.survivor_share, args.burst_regions), args.region_blocks)
        row = {name: outcome.hit_rate for name, outcome in found.items()}
        row |= {"capacity": share, "moved_per_put": found["regions"].moved_per_put}
        rows.append(row)
        print(
            f"{share:>9.1%}  {row['lru']:>6.4f}  {row['fifo']:>6.4f}  {row['regions']:>7.4f}  {row['moved_per_put']:>9.2f}"
        )
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"trace": args.trace, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
