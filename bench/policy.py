"""Hit rates of eviction policies on traces of prefix requests, without a gateway: the yardstick for `tiering.policy`.

Replays a trace, its halves and made-up ones against well-known policies, this project's own and the optimum, with unit-size
blocks. Promises to ask `tiering.policy` exactly what the keeper asks it, so a change there shows here first.

Owns nothing. Does not know the store: regions here are lists of block ids.
Kind: shell around pure simulations. Spec: bench/README.md, "The serving rule"; the papers are named at each policy.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Protocol

from bench.synthetic import SHAPES, synthetic
from bench.trace import Trace, read_trace
from tiering.policy import GHOST_LAPS, TwoQueues, cooled, span_of, warmed
from tiering.ports import EvictionPolicy, QueueHead, Resident

REGION_BLOCKS: Final = 4
CAPACITIES: Final = (0.02, 0.05, 0.10, 0.25, 0.50)
SEED: Final = 20251124


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
        return self.moved / max(1, self.puts)


class Cache(Protocol):
    """A policy with its blocks. `moved` counts copies made to keep blocks."""

    moved: int

    def __contains__(self, block: int) -> bool: ...

    def read(self, block: int) -> None:
        """A hit on a block that is there."""

    def put(self, block: int) -> None:
        """Stores a block; it may be there already, behind a miss in its chain."""


def replay(requests: Iterable[Sequence[int]], cache: Cache) -> Outcome:
    """Blocks are read in order until the first that is missing; that one and the rest are put."""
    hits = references = puts = 0
    for blocks in requests:
        references += len(blocks)
        run = 0
        while run < len(blocks) and blocks[run] in cache:
            cache.read(blocks[run])
            run += 1
        hits += run
        for block in blocks[run:]:
            puts += 1
            cache.put(block)
    return Outcome(hits, references, puts, cache.moved)


class Lru:
    """The block used longest ago goes. A put of a block that is there is a use."""

    moved = 0

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._queue: OrderedDict[int, None] = OrderedDict()

    def __contains__(self, block: int) -> bool:
        return block in self._queue

    def read(self, block: int) -> None:
        self._queue.move_to_end(block)

    def put(self, block: int) -> None:
        self._queue[block] = None
        self._queue.move_to_end(block)
        if len(self._queue) > self._capacity:
            self._queue.popitem(last=False)


class Fifo(Lru):
    """The block stored first goes."""

    def read(self, block: int) -> None:
        pass

    def put(self, block: int) -> None:
        if block not in self._queue:
            super().put(block)


class Clock:
    """FIFO; a block that was used since goes round once more."""

    moved = 0

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used: OrderedDict[int, bool] = OrderedDict()

    def __contains__(self, block: int) -> bool:
        return block in self._used

    def read(self, block: int) -> None:
        self._used[block] = True

    def put(self, block: int) -> None:
        if block in self._used:
            self._used[block] = True
            return
        while len(self._used) >= self._capacity:
            oldest, used = self._used.popitem(last=False)
            if used:
                self._used[oldest] = False
        self._used[block] = False


class Sieve:
    """Zhang et al., NSDI '24: like CLOCK, but blocks keep their places and the hand moves from old to young."""

    moved = 0

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used: dict[int, bool] = {}
        self._older: dict[int, int | None] = {}  # doubly linked, as the hand stands in the middle
        self._younger: dict[int, int | None] = {}
        self._oldest: int | None = None
        self._youngest: int | None = None
        self._hand: int | None = None

    def __contains__(self, block: int) -> bool:
        return block in self._used

    def read(self, block: int) -> None:
        self._used[block] = True

    def put(self, block: int) -> None:
        if block in self._used:
            self._used[block] = True
            return
        if len(self._used) >= self._capacity:
            self._evict()
        self._used[block] = False
        self._older[block], self._younger[block] = self._youngest, None
        if self._youngest is not None:
            self._younger[self._youngest] = block
        self._youngest = block
        if self._oldest is None:
            self._oldest = block

    def _evict(self) -> None:
        at = self._hand if self._hand is not None else self._oldest
        assert at is not None
        while self._used[at]:
            self._used[at] = False
            after = self._younger[at]
            at = after if after is not None else self._oldest
            assert at is not None
        del self._used[at]
        older, younger = self._older.pop(at), self._younger.pop(at)
        if older is None:
            self._oldest = younger
        else:
            self._younger[older] = younger
        if younger is None:
            self._youngest = older
        else:
            self._older[younger] = older
        self._hand = younger


class S3Fifo:
    """Yang et al., SOSP '23: a tenth for new blocks, the rest for those used twice there or known as ghosts."""

    moved = 0

    def __init__(self, capacity: int) -> None:
        self._small_max = max(1, capacity // 10)
        self._main_max = max(1, capacity - self._small_max)
        self._capacity = capacity
        self._uses: dict[int, int] = {}
        self._small: deque[int] = deque()
        self._main: deque[int] = deque()
        self._ghosts: OrderedDict[int, None] = OrderedDict()

    def __contains__(self, block: int) -> bool:
        return block in self._uses

    def read(self, block: int) -> None:
        self._uses[block] = min(3, self._uses[block] + 1)

    def put(self, block: int) -> None:
        if block in self._uses:
            self.read(block)
            return
        while len(self._uses) >= self._capacity:
            if len(self._small) >= self._small_max or not self._main:
                self._evict_small()
            else:
                self._evict_main()
        if block in self._ghosts:
            del self._ghosts[block]
            self._main.append(block)
        else:
            self._small.append(block)
        self._uses[block] = 0

    def _evict_small(self) -> None:
        block = self._small.popleft()
        if self._uses[block] > 1:
            self._uses[block] = 0
            self._main.append(block)
            return
        del self._uses[block]
        self._ghosts[block] = None
        if len(self._ghosts) > self._main_max:
            self._ghosts.popitem(last=False)

    def _evict_main(self) -> None:
        while True:
            block = self._main.popleft()
            if not self._uses[block]:
                del self._uses[block]
                return
            self._uses[block] -= 1
            self._main.append(block)


class Arc:
    """Megiddo and Modha, FAST '03: used once against used often, the border moved by returning ghosts."""

    moved = 0

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._once_target = 0.0
        self._once: OrderedDict[int, None] = OrderedDict()
        self._often: OrderedDict[int, None] = OrderedDict()
        self._once_ghosts: OrderedDict[int, None] = OrderedDict()
        self._often_ghosts: OrderedDict[int, None] = OrderedDict()

    def __contains__(self, block: int) -> bool:
        return block in self._once or block in self._often

    def read(self, block: int) -> None:
        self._once.pop(block, None)
        self._often[block] = None
        self._often.move_to_end(block)

    def put(self, block: int) -> None:
        if block in self:
            self.read(block)
            return
        once, often, capacity = len(self._once_ghosts), len(self._often_ghosts), self._capacity
        if block in self._once_ghosts:
            self._once_target = min(capacity, self._once_target + max(1.0, often / once))
            self._replace(False)
            del self._once_ghosts[block]
            self._often[block] = None
        elif block in self._often_ghosts:
            self._once_target = max(0.0, self._once_target - max(1.0, once / often))
            self._replace(True)
            del self._often_ghosts[block]
            self._often[block] = None
        else:
            self._make_room()
            self._once[block] = None

    def _make_room(self) -> None:
        once = len(self._once) + len(self._once_ghosts)
        known = once + len(self._often) + len(self._often_ghosts)
        if once >= self._capacity:
            if len(self._once) < self._capacity:
                self._once_ghosts.popitem(last=False)
                self._replace(False)
            else:
                self._once.popitem(last=False)
        elif known >= self._capacity:
            if known >= 2 * self._capacity:
                self._often_ghosts.popitem(last=False)
            self._replace(False)

    def _replace(self, often_returned: bool) -> None:
        if len(self._once) + len(self._often) < self._capacity:
            return
        over = len(self._once) > self._once_target
        if self._once and (over or (often_returned and len(self._once) == self._once_target) or not self._often):
            self._once_ghosts[self._once.popitem(last=False)[0]] = None
        else:
            self._often_ghosts[self._often.popitem(last=False)[0]] = None


@dataclass
class _Region:
    sealed: int = 0  # how many regions had been sealed when this one was
    blocks: list[int] = field(default_factory=list)


class Regions:
    """A hot tier of `capacity` blocks in regions of `region_blocks`, emptied one by one as `policy` says.

    Storing a block that is there overwrites it, as the gateway does: a new generation in the open region with no heat;
    the old copy is dead space until its region is freed. Both open regions count.
    """

    def __init__(
        self, capacity: int, policy: Callable[[int], EvictionPolicy] = TwoQueues, region_blocks: int = REGION_BLOCKS
    ) -> None:
        self.moved = 0
        self._region_blocks = region_blocks
        self._regions_max = max(3, capacity // region_blocks)
        self._policy = policy(self._regions_max)
        self._fresh: deque[_Region] = deque()
        self._kept: deque[_Region] = deque()
        self._open = {True: _Region(), False: _Region()}  # by whether fresh
        self._sealed = 0
        self._fruitless_max = span_of(self._regions_max)
        self._fruitless = 0
        self._home: dict[int, _Region] = {}  # block → the region that holds its live copy
        self._heat: dict[int, int] = {}

    def __contains__(self, block: int) -> bool:
        return block in self._home

    def read(self, block: int) -> None:
        self._heat[block] = warmed(self._heat[block])

    def put(self, block: int) -> None:
        self._append(block, 0, True)
        while len(self._fresh) + len(self._kept) + 2 > self._regions_max:
            self._empty_one()

    def _append(self, block: int, heat: int, fresh: bool) -> None:
        region = self._open[fresh]
        self._home[block] = region
        self._heat[block] = heat
        region.blocks.append(block)
        if len(region.blocks) == self._region_blocks:
            self._seal(region, fresh)
            self._open[fresh] = _Region()

    def _seal(self, region: _Region, fresh: bool) -> None:
        self._sealed += 1
        region.sealed = self._sealed
        (self._fresh if fresh else self._kept).append(region)

    def _next_fresh(self) -> bool:
        if not self._fresh or not self._kept:
            return bool(self._fresh)
        if self._fruitless >= self._fruitless_max:
            return self._fresh[0].sealed < self._kept[0].sealed
        heads = (QueueHead(self._sealed - queue[0].sealed, len(queue)) for queue in (self._fresh, self._kept))
        return self._policy.fresh_next(*heads)

    def _empty_one(self) -> None:
        fresh = self._next_fresh()
        region = (self._fresh if fresh else self._kept).popleft()
        # A block overwritten within one region stands there twice and counts once.
        live = [block for block in dict.fromkeys(region.blocks) if self._home.get(block) is region]
        residents = [Resident(1, self._heat[block], False, _name(block)) for block in live]
        verdict = self._policy.keep(residents, self._region_blocks, self._sealed - region.sealed, fresh)
        region.blocks = []
        for block, stays in zip(live, verdict.stays, strict=True):
            if not stays:
                del self._home[block], self._heat[block]
            elif verdict.whole:
                region.blocks.append(block)
                self._heat[block] = cooled(self._heat[block])
            else:
                self.moved += 1
                self._append(block, cooled(self._heat[block]), False)
        self._fruitless = self._fruitless + 1 if verdict.whole else 0
        if verdict.whole:
            self._seal(region, False)


class Filled:
    """What regions could do if the holes in them were written again in place, which the gateway's cannot: nothing is ever copied.

    One queue. In the oldest region blocks read since the last look stay, one step cooler, and one that was evicted in the last
    `GHOST_LAPS` rounds and came back counts as read once more; new blocks go where the others were.
    """

    moved = 0

    def __init__(self, capacity: int, region_blocks: int = REGION_BLOCKS) -> None:
        self._region_blocks = region_blocks
        self._regions_max = max(2, capacity // region_blocks)
        self._queue: deque[list[int]] = deque()
        self._open: list[int] = []
        self._home: dict[int, list[int]] = {}  # block → the region that holds its live copy
        self._heat: dict[int, int] = {}
        self._new: set[int] = set()  # not looked at since they came
        self._gone: dict[int, int] = {}  # evicted → how many regions had been looked at
        self._looked = 0

    def __contains__(self, block: int) -> bool:
        return block in self._home

    def read(self, block: int) -> None:
        self._heat[block] = warmed(self._heat[block])

    def put(self, block: int) -> None:
        while len(self._open) == self._region_blocks:
            self._queue.append(self._open)
            self._open = [] if len(self._queue) < self._regions_max else self._looked_at(self._queue.popleft())
        self._home[block] = self._open
        self._heat[block] = 0
        self._new.add(block)
        self._open.append(block)

    def _looked_at(self, region: list[int]) -> list[int]:
        self._looked += 1
        live = [block for block in dict.fromkeys(region) if self._home.get(block) is region]
        region.clear()
        for block in live:
            heat = self._heat[block]
            if block in self._new:
                self._new.discard(block)
                gone = self._gone.pop(block, None)
                if gone is not None and self._looked - gone <= GHOST_LAPS * self._regions_max:
                    heat = warmed(heat)
            if heat:
                self._heat[block] = cooled(self._heat[block])
                region.append(block)
            else:
                del self._home[block], self._heat[block]
                self._gone[block] = self._looked
        return region


def _name(block: int) -> int:
    """64 bits spread well, as a hash of the key is."""
    return (block + 1) * 0x9E3779B97F4A7C15 % (1 << 64)


def one_queue(regions: int) -> TwoQueues:
    """The simplest use of regions: one queue, first in, first out with reinsertion, no memory of what is gone."""
    return TwoQueues(regions, density_ratio=math.inf, stay_share=math.inf, ghosts=0)


POLICIES: Final[dict[str, Callable[[int], Cache]]] = {
    "LRU": Lru,
    "FIFO": Fifo,
    "CLOCK": Clock,
    "S3-FIFO": S3Fifo,
    "SIEVE": Sieve,
    "ARC": Arc,
    "one queue": lambda capacity: Regions(capacity, one_queue),
    "holes filled": Filled,
    "two queues": Regions,
}
OURS: Final = "two queues"


def optimum(requests: Sequence[Sequence[int]], capacity: int) -> Outcome:
    """Knows the future: of what is there or just came, the blocks used again soonest stay (Belady's rule, with bypass).

    Whoever asks for a block asks for those before it, so their next use is never later, and keeping the fronts among equals
    keeps every chain whole: the bound of Belady's rule is reached by prefix hits.
    """
    never = len(requests)
    after: dict[int, int] = {}
    next_use: list[list[int]] = []
    for number in range(never - 1, -1, -1):
        next_use.append([after.get(block, never) for block in requests[number]])
        after.update(dict.fromkeys(requests[number], number))
    next_use.reverse()
    due: dict[int, int] = {}  # of the blocks that are there
    latest: list[
        tuple[int, int, int]
    ] = []  # negative next use, negative place in the chain, block; stale ones are skipped
    hits = references = puts = 0
    for blocks, uses in zip(requests, next_use, strict=True):
        references += len(blocks)
        run = 0
        while run < len(blocks) and blocks[run] in due:
            run += 1
        hits += run
        puts += len(blocks) - run
        for place, (block, use) in enumerate(zip(blocks, uses, strict=True)):
            if use == never:
                due.pop(block, None)
            else:
                due[block] = use
                heapq.heappush(latest, (-use, -place, block))
        while len(due) > capacity:
            use, _, block = heapq.heappop(latest)
            if due.get(block) == -use:
                del due[block]
    return Outcome(hits, references, puts)


def compare(trace: Trace, share: float, names: Iterable[str] = POLICIES) -> dict[str, Outcome]:
    """The policies, and the optimum, at a capacity of `share` of the trace's distinct blocks."""
    capacity = max(1, int(share * trace.distinct))
    found = {name: replay(trace.requests, POLICIES[name](capacity)) for name in names}
    return found | {"optimum": optimum(trace.requests, capacity)}


def gap_closed(found: dict[str, Outcome], name: str) -> float:
    """Share of the way from LRU to the optimum that a policy goes; 0 where there is none."""
    lru, best = found["LRU"].hits, found["optimum"].hits
    return (found[name].hits - lru) / (best - lru) if best > lru else 0.0


def traces(args: argparse.Namespace) -> Iterator[tuple[str, Trace]]:
    """The trace named, each of its halves, and the made-up ones, as asked for."""
    if args.trace:
        whole = read_trace(args.trace, args.requests)
        yield "whole", whole
        if args.halves:
            middle = len(whole.requests) // 2
            for name, part in (("first half", slice(middle)), ("second half", slice(middle, None))):
                yield name, Trace(whole.requests[part], whole.arrivals_s[part])
    if args.synthetic:
        for name, shape in SHAPES.items():
            made = synthetic(shape, args.seed)
            yield name, Trace(tuple(islice(made.requests, args.requests)), made.arrivals_s[: args.requests])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.policy", description=__doc__.splitlines()[0])
    parser.add_argument("trace", nargs="?", help="a trace in Mooncake's format")
    parser.add_argument("--halves", action="store_true", help="also each half of the trace, each from an empty tier")
    parser.add_argument("--synthetic", action="store_true", help="also made-up traces of other shapes")
    parser.add_argument("--seed", type=int, default=SEED, help="of the made-up traces")
    parser.add_argument("--capacity", default=",".join(map(str, CAPACITIES)), help="shares of the distinct blocks")
    parser.add_argument("--policies", default=",".join(POLICIES), help="names; LRU is the yardstick and always there")
    parser.add_argument("--requests", type=int, default=None, help="only the first N requests of a trace")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    args = parser.parse_args(argv)
    if not args.trace and not args.synthetic:
        parser.error("a trace, --synthetic, or both")
    names = list(dict.fromkeys(["LRU", *args.policies.split(",")]))
    if unknown := set(names) - set(POLICIES):
        parser.error(f"no such policy: {', '.join(sorted(unknown))}; there are {', '.join(POLICIES)}")
    rows = []
    for title, trace in traces(args):
        print(
            f"\n{title}: {len(trace.requests)} requests, {trace.references} references, {trace.distinct} distinct blocks"
        )
        print("capacity" + "".join(f"{name:>13}" for name in [*names, "optimum"]) + "  ÷LRU   gap closed  moved/put")
        for share in (float(text) for text in args.capacity.split(",")):
            found = compare(trace, share, names)
            line = f"{share:>8.1%}" + "".join(f"{outcome.hit_rate:>13.4f}" for outcome in found.values())
            if OURS in found:
                ratio = found[OURS].hits / max(1, found["LRU"].hits)
                line += f"{ratio:>7.3f}{gap_closed(found, OURS):>12.1%}{found[OURS].moved_per_put:>11.2f}"
            print(line, flush=True)
            rows.append(
                {"trace": title, "capacity": share}
                | {name: {"hit_rate": o.hit_rate, "moved_per_put": o.moved_per_put} for name, o in found.items()}
            )
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
