"""Where an object's bytes may be, and which event is legal where.

Owns the table. Kind: table. Spec: docs/SEMANTICS.md, "Residency".
"""

from __future__ import annotations

from typing import Final

from tiering.contract import Residency

_HOT, _BOTH, _COLD = Residency.HOT_ONLY, Residency.BOTH, Residency.COLD_ONLY

MOVES: Final[dict[tuple[Residency, str], Residency]] = {
    (_HOT, "demote"): _BOTH,
    (_BOTH, "demote"): _BOTH,
    (_BOTH, "evict"): _COLD,
    (_COLD, "recall"): _BOTH,
    (_BOTH, "recall"): _BOTH,
    (_BOTH, "lose"): _HOT,  # its cold copy was found damaged, and it is owed another one
}
"""There is no evicting of a hot-only object: only a cache bucket loses one, and that is a delete."""


def move(now: Residency, event: str) -> Residency:
    """The residency after `event`; a move that is not in the table is our mistake."""
    after = MOVES.get((now, event))
    assert after is not None, (now, event)
    return after
