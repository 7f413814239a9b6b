"""Which objects of the oldest region stay hot: first in, first out, with reinsertion of what was read.

The keeper frees the oldest sealed region of a pool and asks this module, once a region, who moves on to a survivor
region. Held objects always do. An object that was read since it was last looked at does too, one step cooler. The rest
leave the hot tier. Freeing makes progress even when everything is hot: survivors beyond a long-run share of the
regions freed are refused, the coolest first.

Owns the survivor credit of one pool (the only state; losing it in a restart is harmless) and the rule for heat.
Does not know regions, keys, LMDB, nor where the heat counters are mapped.
Kind: pure (no I/O, no time, no randomness; the same calls give the same verdicts). Invariants: a held object is never
refused; the credit is never negative and never above its burst.
Spec: docs/ARCHITECTURE.md; checked against the production trace by `python -m bench.policy_sim`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tiering.ports import Resident

HEAT_MAX: Final = 3
"""Where heat saturates. On the trace 1 loses 0.004 of hit rate at 10 % capacity; 2, 4 and 7 are within 0.001 of 3, and each
step up moves more blocks. 3 lets a system prompt outlive two quiet passes of the queue."""

SURVIVOR_SHARE: Final = 0.75
"""Long-run share of the freed bytes that may be copied on: at most 3 bytes move for each byte that is gained."""

BURST_REGIONS: Final = 2
"""Regions' worth of survivors above the share that are let through before the share is enforced.

A conversation's blocks are written together and get hot together, so single regions are often wholly hot while the
average is not: enforcing the share region by region costs 0.010 of hit rate at 10 % capacity, with this burst nothing.
A wholly hot tier frees no byte in `burst / (1 - share)` regions at the very most before the share holds.
"""


def warmed(heat: int) -> int:
    """The counter after one more read. Saturates, so racing bumps without a lock lose little and never overflow."""
    return heat + 1 if heat < HEAT_MAX else HEAT_MAX


def cooled(heat: int) -> int:
    """The counter a survivor takes along."""
    return min(heat, HEAT_MAX) - 1 if heat > 0 else 0


class FifoReinsertion:
    """The eviction policy of one pool. `keep` is called once for each region that is then really freed."""

    def __init__(self, survivor_share: float = SURVIVOR_SHARE, burst_regions: float = BURST_REGIONS) -> None:
        """`survivor_share`: 0 ≤ share < 1, of the freed bytes; `burst_regions` ≥ 0, in regions."""
        if not 0 <= survivor_share < 1:
            raise ValueError(f"survivor_share must be in [0, 1), not {survivor_share}")
        if burst_regions < 0:
            raise ValueError(f"burst_regions must not be negative, not {burst_regions}")
        self._share = survivor_share
        self._burst = burst_regions
        self._credit = float(burst_regions)  # in regions, so that pools may change their region size

    def keep(self, residents: Sequence[Resident], region_bytes: int) -> list[bool]:
        """One verdict a resident, in order; `residents` are in the order they were written.

        The hottest are seated first. Among equals the earlier written win: an engine stores a prefix front to back, and
        a block is of no use once one before it is gone (0.014 of hit rate against the reverse, where the share binds).
        A resident that does not fit does not stop a smaller one behind it. Cost: O(1) a resident, a pass a heat level.
        """
        verdict = [False] * len(residents)
        levels: list[list[int]] = [[] for _ in range(HEAT_MAX + 1)]
        survivors = 0
        for place, resident in enumerate(residents):
            if resident.held:
                verdict[place] = True
                survivors += resident.size
            elif resident.heat > 0:
                levels[min(resident.heat, HEAT_MAX)].append(place)
        room = int((self._share + self._credit) * region_bytes)
        for level in reversed(levels):
            for place in level:
                size = residents[place].size
                if survivors + size <= room:
                    verdict[place] = True
                    survivors += size
        credit = self._credit + self._share - survivors / region_bytes
        self._credit = min(self._burst, max(0.0, credit))
        return verdict
