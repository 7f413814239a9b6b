"""Which sealed region is looked at next, and which of its objects stay hot.

Regions are in two queues, each first in, first out: *fresh* regions hold what writers and recalls put, *kept* ones what
stayed when its region was looked at. Of the two oldest the older is taken, unless one queue's regions have lately had many
times fewer reads for each byte and each moment they stood: then that queue's. In the region taken, held objects stay, and
objects read since they were last looked at do, one step cooler. An object that was evicted not long ago and came back counts as
read once more: a chain of blocks that returns is worth more than one seen for the first time. A region in which nearly
everything stays is left as it is, so that nothing of it is copied. Looking makes progress even when everything is hot:
what stays beyond a long-run share of what is looked at is refused, the coolest first.

Owns the credits, the densities and the memory of evicted objects of one pool (losing them in a restart is harmless), and
the rule for heat. Does not know regions, keys, LMDB, nor where the heat counters are mapped.
Kind: pure (no I/O, no time, no randomness; the same calls give the same verdicts). Invariants: a held object is never
refused; the credit is never negative and never above its burst.
Spec: docs/ARCHITECTURE.md, "Eviction"; checked against traces by `python -m bench.policy`.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

from tiering.ports import QueueHead, Resident, Verdict

HEAT_MAX: Final = 3
"""Where heat saturates. On the recorded trace 1 loses 0.005 of hit rate at 10 % capacity; 2 and 7 are within 0.002 of 3, and each
step up moves more blocks. 3 lets a system prompt outlive two quiet passes of the queue."""

SURVIVOR_SHARE: Final = 0.9
"""Long-run share of the bytes looked at that may stay: at most 9 bytes stay for each byte that is gained, most of them in
place. Where few documents are read by many, 0.75 loses 0.02 of hit rate; on the recorded trace the two are equal."""

BURST_REGIONS: Final = 2
"""Regions' worth of survivors above the share that are let through before the share is enforced.

A conversation's blocks are written together and get hot together, so single regions are often wholly hot while the
average is not: enforcing the share region by region costs hit rate, with this burst nothing.
A wholly hot tier frees no byte in `burst / (1 - share)` regions at the very most before the share holds.
"""

STAY_SHARE: Final = 0.9
"""A region of which at least this much stays is not copied. A quarter fewer bytes move, and no hit is lost."""

STAY_SHARE_MIN: Final = 0.3
"""What is enough of a region to leave it, when most was moved: room is given away to spare the drive."""

MOVED_SHARE: Final = 0.3
"""Bytes copied on for each byte gained, above which regions stay as they are of which less and less stays. Counted over about one lap of
the queues."""

DENSITY_RATIO: Final = 4
"""How many times fewer reads make a fresh region go before an older kept one. At 1 the fresh queue starves where a block's
second read takes longer than the queue is long; far above 6 the queues' lengths no longer follow the load. From 3 to 6 hit rates
differ by 0.004 at most. The other way round, kept before older fresh ones, changed nothing."""

DENSITY_WEIGHT: Final = 0.05
"""Of the newest region in a queue's density."""

DENSITY_SAMPLES: Final = 8
"""Regions of a queue looked at before its density counts."""

FRESH_SHARE_MIN: Final = 0.05
"""Of all regions: new objects keep this much room to be read a second time."""

KEPT_LAPS_MAX: Final = 8
"""A kept region is looked at once so many times all regions were sealed, however much kept ones were read before: what was
hot need not be so for ever. On the recorded trace at 2 % capacity 4 loses 0.017 of hit rate, 8 nothing."""

GHOSTS: Final = 1 << 19
"""Slots for evicted objects, eight bytes each. Where more were evicted the memory is shorter, nothing else."""

GHOST_LAPS: Final = 5
"""An evicted object is remembered while the tier is looked at so many times over. One lap of them passes between the
object's return and the look at it."""

_LOW32: Final = (1 << 32) - 1


def warmed(heat: int) -> int:
    """The counter after one more read. Saturates, so racing bumps without a lock lose little and never overflow."""
    return heat + 1 if heat < HEAT_MAX else HEAT_MAX


def cooled(heat: int) -> int:
    """The counter a survivor takes along."""
    return min(heat, HEAT_MAX) - 1 if heat > 0 else 0


class Ghosts:
    """Evicted objects by name (64 bits; 0 is nobody's), forgotten when `span` more regions were looked at or another takes the slot."""

    def __init__(self, slots: int, span: int) -> None:
        self._table = array("Q", bytes(8 * slots))
        self._span = span

    def add(self, name: int, now: int) -> None:
        """`now`: how many regions have been looked at; from 1."""
        if self._table and name:
            self._table[name % len(self._table)] = (name >> 32) << 32 | now & _LOW32

    def take(self, name: int, now: int) -> bool:
        """Whether it was evicted not long ago; asked once, it is forgotten."""
        if not self._table or not name:
            return False
        slot = name % len(self._table)
        found = self._table[slot]
        if not found or found >> 32 != name >> 32:
            return False
        self._table[slot] = 0
        return (now - found) & _LOW32 <= self._span


class Density:
    """Reads a region of one queue had, for each regionful of bytes and each region sealed since it was; newest weigh most."""

    def __init__(self) -> None:
        self.samples = 0
        self.value = 0.0

    def add(self, value: float) -> None:
        self.samples += 1
        self.value = value if self.samples == 1 else self.value + (value - self.value) * DENSITY_WEIGHT

    @property
    def known(self) -> bool:
        return self.samples >= DENSITY_SAMPLES


class TwoQueues:
    """The eviction policy of one pool of `regions` regions. `keep` is called once for each region that is then emptied."""

    def __init__(
        self,
        regions: int,
        survivor_share: float = SURVIVOR_SHARE,
        burst_regions: float = BURST_REGIONS,
        density_ratio: float = DENSITY_RATIO,
        stay_share: float = STAY_SHARE,
        ghosts: int = GHOSTS,
    ) -> None:
        """`survivor_share`: 0 ≤ share < 1, of the bytes looked at; `burst_regions` ≥ 0, in regions. `stay_share` infinite: no
        region stays as it is. `ghosts` 0: nothing is remembered."""
        if not 0 <= survivor_share < 1:
            raise ValueError(f"survivor_share must be in [0, 1), not {survivor_share}")
        if burst_regions < 0:
            raise ValueError(f"burst_regions must not be negative, not {burst_regions}")
        self._share = survivor_share
        self._burst = burst_regions
        self._credit = float(burst_regions)  # in regions, so that pools may change their region size
        self._moves_max = MOVED_SHARE * regions
        self._moves = self._moves_max  # regions that may be copied before that is made rarer
        self._ratio = density_ratio
        self._stay_share = stay_share
        self._looked = 0
        self._fresh = Density()
        self._kept = Density()
        self._ghosts = Ghosts(ghosts, GHOST_LAPS * regions)

    def fresh_next(self, fresh: QueueHead, kept: QueueHead) -> bool:
        """Whether the oldest fresh region is the next to go, not the oldest kept one."""
        regions = fresh.regions + kept.regions
        if fresh.regions < FRESH_SHARE_MIN * regions or kept.age > KEPT_LAPS_MAX * regions:
            return False
        if fresh.age >= kept.age:
            return True
        return self._fresh.known and self._kept.known and self._fresh.value * self._ratio < self._kept.value

    def keep(self, residents: Sequence[Resident], region_bytes: int, age: int, fresh: bool) -> Verdict:
        """The hottest are seated first. Among equals the earlier written win: an engine stores a prefix front to back, and
        a block is of no use once one before it is gone (0.014 of hit rate against the reverse, where the share binds).
        A resident that does not fit does not stop a smaller one behind it. Cost: O(1) a resident, a pass a heat level.
        """
        self._looked += 1
        stays = [False] * len(residents)
        levels: list[list[int]] = [[] for _ in range(HEAT_MAX + 1)]
        survivors = reads = 0
        for place, resident in enumerate(residents):
            heat = min(resident.heat, HEAT_MAX)
            reads += resident.size * heat
            if fresh and self._ghosts.take(resident.name, self._looked):
                heat = warmed(heat)
            if resident.held:
                stays[place] = True
                survivors += resident.size
            elif heat > 0:
                levels[heat].append(place)
        (self._fresh if fresh else self._kept).add(reads / region_bytes / max(1, age))
        room = int((self._share + self._credit) * region_bytes)
        for level in reversed(levels):
            for place in level:
                size = residents[place].size
                if survivors + size <= room:
                    stays[place] = True
                    survivors += size
        for resident, stay in zip(residents, stays, strict=True):
            if not stay:
                self._ghosts.add(resident.name, self._looked)
        return Verdict(stays, self._settle(survivors / region_bytes))

    def _settle(self, survivors: float) -> bool:
        """Books what stays of a region, as a share of it; whether it stays where it is."""
        overdrawn = max(0.0, -self._moves / self._moves_max)
        whole = survivors >= max(self._stay_share * (1 - overdrawn), STAY_SHARE_MIN)
        if not whole:
            moves = self._moves + MOVED_SHARE * (1 - survivors) - survivors
            self._moves = min(self._moves_max, max(-self._moves_max, moves))
        self._credit = min(self._burst, max(0.0, self._credit + self._share - survivors))
        return whole
