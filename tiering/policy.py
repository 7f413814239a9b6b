"""Which sealed region is looked at next, and which of its objects stay hot.

Regions are in two queues, each first in, first out: *fresh* regions hold what writers and recalls put, *kept* ones what
stayed when its region was looked at. Of the two oldest the older is taken, unless one queue's regions have lately had many
times fewer reads for each byte and each moment they stood: then that queue's. In the region taken, held objects stay, and
objects read since they were last looked at do, one step cooler. An object that was evicted not long ago and came back counts as
read once more: a chain of blocks that returns is worth more than one seen for the first time. A kept object that nobody has
read for a round goes in spite of the heat it has left, where such ones are read less often than evicted ones come back. A
region in which nearly everything stays is left as it is, with all that is in it: dropping the rest would gain no room.
Looking makes progress even when everything is hot: what stays beyond a long-run share of what is looked at is refused, the
coolest first.

Owns the credits, the densities, the rates and the memory of evicted and kept objects of one pool (losing them in a restart is
harmless), and the rule for heat. Does not know regions, keys, LMDB, nor where the heat counters are mapped.
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

SPAN_SHARE: Final = 0.25
SPAN_MIN: Final = 8
SPAN_MAX: Final = 64
"""How many regions are judged together: a share of the tier, within bounds. What lies in a small region was written, is read and dies
together, so that runs of hot regions are long. With regions of four objects averages over a third as many lose 0.03 of hit rate
at 5 % of half the recorded trace; in a pool of few regions long ones follow too late."""

BURST_SHARE: Final = 0.25
"""Spans' worth of survivors above the share that are let through before the share is enforced.

A conversation's blocks are written together and get hot together, so single regions are often wholly hot while the
average is not: enforcing the share region by region costs hit rate, with this burst little: four times as much gains 0.008
where few documents are read by many, in half the tier.
A wholly hot tier frees no byte in `burst / (1 - share)` regions at the very most before the share holds.
"""

STAY_SHARE: Final = 0.9
"""A region of which at least this much stays is not copied. A quarter fewer bytes move, and no hit is lost."""

STAY_SHARE_MIN: Final = 0.3
"""What is enough of a region to leave it, when most was moved: room is given away to spare the drive."""

MOVED_SHARE: Final = 0.3
"""Bytes copied on for each byte gained, above which regions stay as they are of which less and less stays. Saved up over about one
lap of the queues, from nothing."""

DENSITY_RATIO: Final = 3.5
"""How many times fewer reads make a fresh region go before an older kept one. At 1 the fresh queue starves where a block's
second read takes longer than the queue is long; far above 6 the queues' lengths no longer follow the load. From 2.5 to 6 hit rates
differ by 0.006 at most: less is better at 5 and 10 % of the recorded trace, more at 25 %. The other way round, kept before older
fresh ones, changed nothing."""

DENSITY_FADE: Final = 0.4
"""Of the newest region in a queue's density, for a span of one."""

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

RETURN_LAPS: Final = 0.5
"""How soon an evicted object must come back to count against idle ones that were kept."""

RETURN_RATIO: Final = 0.6
"""How many times less often than that idle ones must be read to go. From 0.5 to 1 hit rates differ by 0.001, but for 0.01 where few
documents are read by many: 1 there drops documents that are read every other round."""

RATE_FADE: Final = 0.016
"""Of what a rate has seen, lost at each look, for a span of one."""

TRIAL_LOOKS: Final = 8
"""Every so many looks idle ones stay whatever their rate, so that it is known when it rises."""

_LOW32: Final = (1 << 32) - 1


def span_of(regions: int) -> int:
    """How many regions of a pool are judged together: the length of averages, and of a run in which nothing need be gained."""
    return min(SPAN_MAX, max(SPAN_MIN, int(SPAN_SHARE * regions)))


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

    def take(self, name: int, now: int) -> int | None:
        """How many looks ago it was evicted; None: not lately. Asked once, it is forgotten."""
        if not self._table or not name:
            return None
        slot = name % len(self._table)
        found = self._table[slot]
        if not found or found >> 32 != name >> 32:
            return None
        self._table[slot] = 0
        since = (now - found) & _LOW32
        return since if since <= self._span else None


class Rate:
    """How often something came true of what was tried lately; `assumed` counts as four tries."""

    def __init__(self, assumed: float) -> None:
        self._tried = 4.0
        self._true = 4 * assumed
        self._assumed = assumed

    def add(self, tried: float, true: float) -> None:
        self._tried += tried
        self._true += true

    def fade(self, left: float) -> None:
        """`left`: the share of what was seen that goes on counting."""
        self._tried = 4 + (self._tried - 4) * left
        self._true = 4 * self._assumed + (self._true - 4 * self._assumed) * left

    @property
    def value(self) -> float:
        return self._true / self._tried


class Idlers:
    """Kept objects that were not read for a round, and whether they are worth another.

    By name, in a byte each: the heat an object went on with, and what it had when it was found idle. Two objects in one byte only
    blur the rates.
    """

    def __init__(self, slots: int, span: float, fade: float) -> None:
        """`span`: looks within which a return counts. `fade`: what the rates lose at each look."""
        self._left = bytearray(slots)
        self._span = span
        self._fade = fade
        self._read = [Rate(0.5) for _ in range(HEAT_MAX + 1)]  # by the heat they had; after 0 nobody is kept
        self._returned = Rate(0)

    def judge(self, name: int, heat: int) -> int:
        """Of a kept object: the heat it has left if nobody read it since the last look, else 0. Learns from it."""
        if not self._left or not name:
            return 0
        left = self._left[name % len(self._left)]
        read = heat > left & 3
        if left >> 2:
            self._read[left >> 2].add(1, read)
        return 0 if read else heat

    def settle(self, name: int, heat: int, idle: int) -> None:
        """It stays, with `heat`; `idle` as judged."""
        if self._left and name:
            self._left[name % len(self._left)] = heat | idle << 2

    def evicted(self, count: int) -> None:
        self._returned.add(count, 0)

    def returned(self, looks: int) -> None:
        """An evicted object came back after so many looks."""
        if looks <= self._span:
            self._returned.add(0, 1)

    def worth(self, idle: int) -> bool:
        return self._read[idle].value >= RETURN_RATIO * self._returned.value

    def fade(self) -> None:
        for rate in (*self._read, self._returned):
            rate.fade(1 - self._fade)


class Density:
    """Reads a region of one queue had, for each regionful of bytes and each region sealed since it was; newest weigh most."""

    def __init__(self, span: int) -> None:
        self._span = span
        self.samples = 0
        self.value = 0.0

    def add(self, value: float) -> None:
        self.samples += 1
        self.value = value if self.samples == 1 else self.value + (value - self.value) * DENSITY_FADE / self._span

    @property
    def known(self) -> bool:
        return self.samples >= self._span


class TwoQueues:
    """The eviction policy of one pool of `regions` regions. `keep` is called once for each region that is then emptied."""

    def __init__(
        self,
        regions: int,
        survivor_share: float = SURVIVOR_SHARE,
        burst_regions: float | None = None,
        density_ratio: float = DENSITY_RATIO,
        stay_share: float = STAY_SHARE,
        ghosts: int = GHOSTS,
    ) -> None:
        """`survivor_share`: 0 ≤ share < 1, of the bytes looked at; `burst_regions` ≥ 0, None: a share of the pool's span.
        `stay_share` infinite: no region stays as it is. `ghosts` 0: nothing is remembered."""
        if not 0 <= survivor_share < 1:
            raise ValueError(f"survivor_share must be in [0, 1), not {survivor_share}")
        span = span_of(regions)
        burst_regions = BURST_SHARE * span if burst_regions is None else burst_regions
        if burst_regions < 0:
            raise ValueError(f"burst_regions must not be negative, not {burst_regions}")
        self._share = survivor_share
        self._burst = float(burst_regions)
        self._credit = self._burst  # in regions, so that pools may change their region size
        self._moves_max = MOVED_SHARE * regions
        self._moves = 0.0  # regions that may be copied before that is made rarer
        self._ratio = density_ratio
        self._stay_share = stay_share
        self._looked = 0
        self._fresh = Density(span)
        self._kept = Density(span)
        self._ghosts = Ghosts(ghosts, GHOST_LAPS * regions)
        self._idlers = Idlers(ghosts, RETURN_LAPS * regions, RATE_FADE / span)

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
        levels: list[list[int]] = [[] for _ in range(HEAT_MAX + 1)]
        idle = [0] * len(residents)
        held = reads = 0
        for place, resident in enumerate(residents):
            heat = min(resident.heat, HEAT_MAX)
            reads += resident.size * heat
            if fresh:
                heat = self._came_back(resident.name, heat, age)
            else:
                idle[place] = self._idlers.judge(resident.name, heat)
            if resident.held:
                held += resident.size
            elif self._looked % TRIAL_LOOKS == 0 or not idle[place] or self._idlers.worth(idle[place]):
                levels[heat].append(place)
        (self._fresh if fresh else self._kept).add(reads / region_bytes / max(1, age))
        stays = [resident.held for resident in residents]
        room = int((self._share + self._credit) * region_bytes)
        survivors = _seat(residents, levels, stays, held, room)
        refused = sum(map(len, levels[1:])) + sum(resident.held for resident in residents) > sum(stays)
        whole = self._settle(survivors / region_bytes)
        if whole and not refused:
            stays = [True] * len(residents)
        self._part(residents, stays, idle)
        return Verdict(stays, whole)

    def _came_back(self, name: int, heat: int, age: int) -> int:
        """The heat of a fresh object, with what it gains if it was evicted not long ago."""
        since = self._ghosts.take(name, self._looked)
        if since is None:
            return heat
        self._idlers.returned(since - age)
        return warmed(heat)

    def _part(self, residents: Sequence[Resident], stays: Sequence[bool], idle: Sequence[int]) -> None:
        """Remembers who goes and who stays."""
        for resident, stay, heat in zip(residents, stays, idle, strict=True):
            if stay:
                self._idlers.settle(resident.name, cooled(resident.heat), heat)
            else:
                self._ghosts.add(resident.name, self._looked)
        self._idlers.evicted(len(stays) - sum(stays))
        self._idlers.fade()

    def _settle(self, survivors: float) -> bool:
        """Books what stays of a region, as a share of it; whether it stays where it is."""
        overdrawn = max(0.0, -self._moves / self._moves_max)
        whole = survivors >= max(self._stay_share * (1 - overdrawn), STAY_SHARE_MIN)
        if not whole:
            moves = self._moves + MOVED_SHARE * (1 - survivors) - survivors
            self._moves = min(self._moves_max, max(-self._moves_max, moves))
        self._credit = min(self._burst, max(0.0, self._credit + self._share - survivors))
        return whole


def _seat(
    residents: Sequence[Resident], levels: Sequence[Sequence[int]], stays: list[bool], taken: int, room: int
) -> int:
    """Marks in `stays` who fits into `room` beside the bytes that are taken, by `levels` of heat; returns all bytes taken."""
    for level in reversed(levels[1:]):
        for place in level:
            size = residents[place].size
            if taken + size <= room:
                stays[place] = True
                taken += size
    return taken
