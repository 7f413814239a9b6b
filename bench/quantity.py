"""Numbers as benchmarks say them: sizes as text, percentiles, a median with its range.

Owns nothing. Kind: pure.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, and the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int) -> str:
        return f"{self.median:.{digits}f} ({self.least:.{digits}f}-{self.most:.{digits}f})"


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99, p999 and max by nearest rank; empty for no values."""
    if not values:
        return {}
    ordered = sorted(values)
    ranks = {"p50": 0.50, "p90": 0.90, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in ranks.items()}


def size_text(size: int) -> str:
    """4096 → `4 KiB`; 0 → `-`."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B" if size else "-"


def parse_size(text: str) -> int:
    """`4k`, `256KiB`, `2m`, `16MiB` or bytes. Raises ValueError."""
    text = text.strip().lower().removesuffix("ib").removesuffix("b")
    unit = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(text[-1:], 1)
    return int(text if unit == 1 else text[:-1]) * unit
