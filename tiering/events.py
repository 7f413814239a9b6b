"""What the tiers count, by name; each event is counted with the pool it happens in.

Owns the table. Does not know where the counts go: a `Meter` is handed in. Kind: table.
"""

from __future__ import annotations

from typing import Final

HIT_HOT: Final = "hit_hot"
HIT_COLD: Final = "hit_cold"
MISS: Final = "miss"
DEMOTED: Final = "demoted"
DEMOTED_BYTES: Final = "demoted_bytes"
EVICTED: Final = "evicted"
EVICTED_BYTES: Final = "evicted_bytes"
SURVIVED: Final = "survived"
SURVIVED_BYTES: Final = "survived_bytes"
RECALLED: Final = "recalled"
RECALLED_BYTES: Final = "recalled_bytes"
EXPIRED: Final = "expired"

SIDES: Final = ("flash", "cold")
"""Where a scrub looks: at the bytes on flash, at the copies in the backing store."""
FATES: Final = ("found", "repaired", "dropped", "unrepairable")
"""What becomes of damage: all of it is found, then one of the others."""


def scrubbed_bytes(side: str) -> str:
    """The event of bytes compared with their checksum."""
    return f"scrubbed_{side}_bytes"


def damage(side: str, fate: str) -> str:
    """The event of one damaged object, part, note or manifest."""
    return f"damage_{side}_{fate}"


EVENTS: Final = (
    HIT_HOT,
    HIT_COLD,
    MISS,
    DEMOTED,
    DEMOTED_BYTES,
    EVICTED,
    EVICTED_BYTES,
    SURVIVED,
    SURVIVED_BYTES,
    RECALLED,
    RECALLED_BYTES,
    EXPIRED,
    *(scrubbed_bytes(side) for side in SIDES),
    *(damage(side, fate) for side in SIDES for fate in FATES),
)


def uncounted(event: str, pool: str, amount: int) -> None:
    """The Meter of tools and tests that do not count."""
