"""What the figures of the comparison are held against.

Owns the table of aims. Does not know how anything is measured. Kind: table; pure. Spec: bench/README.md, "Aims".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.measure import Cell, Figure
from bench.peers.peer import KIB, LOOKUP_KEYS, MIB

Figures = Mapping[Cell, Figure]


class Unknown(Exception):
    """A cell that an aim needs was not measured."""


@dataclass(frozen=True)
class Aim:
    """`of` gives the figure; `at_most` False: the limit is the least it should be."""

    says: str
    of: Callable[[Figures], float]
    limit: float
    at_most: bool = True

    def met(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


def _figure(figures: Figures, peer: str, operation: str, size: int, connections: int) -> Figure:
    found = figures.get(Cell(peer, operation, size, connections))
    if found is None:
        raise Unknown
    return found


def _cpu(operation: str, size: int, connections: int = 8, peer: str = "recall") -> Callable[[Figures], float]:
    return lambda figures: _figure(figures, peer, operation, size, connections).cpu_us.median


def _cpu_over(peer: str, operation: str, size: int, connections: int = 8) -> Callable[[Figures], float]:
    """Our CPU over a peer's."""

    def ratio(figures: Figures) -> float:
        spread = _figure(figures, peer, operation, size, connections).cpu_ratio
        if spread is None:
            raise Unknown
        return spread.median

    return ratio


def _rate_over(peer: str, operation: str, size: int, connections: int = 8) -> Callable[[Figures], float]:
    def ratio(figures: Figures) -> float:
        spread = _figure(figures, peer, operation, size, connections).rate_ratio
        if spread is None:
            raise Unknown
        return spread.median

    return ratio


def _scaling(figures: Figures) -> float:
    two, one = (_figure(figures, peer, "GET", 4 * KIB, 64).rate.median for peer in ("recall x2", "recall"))
    return two / one


def _gigabytes_a_core(figures: Figures) -> float:
    return 2 * MIB / (1e3 * _cpu("PUT kv", 2 * MIB)(figures))


def _first_byte(figures: Figures, bucket: str) -> float:
    """By how much our first byte of a cold object comes later than the bucket's own, in µs."""
    ours = _figure(figures, "recall", "COLD", 2 * MIB, 1).first_byte_us.median
    return ours - _figure(figures, bucket, "GET", 2 * MIB, 1).first_byte_us.median


def aims(bucket: str = "") -> Sequence[Aim]:
    """`bucket`: the peer that is the backing store."""
    from_bucket = (
        [Aim(f"COLD 2 MiB, first byte after {bucket}'s own, µs", lambda figures: _first_byte(figures, bucket), 300)]
        if bucket
        else []
    )
    return (
        Aim("GET 4 KiB, CPU µs", _cpu("GET", 4 * KIB), 20),
        Aim("GET 4 KiB, CPU over nginx's", _cpu_over("nginx", "GET", 4 * KIB), 1 / 0.75),
        Aim("GET 2 MiB, CPU over nginx's", _cpu_over("nginx", "GET", 2 * MIB), 1),
        Aim("GET 2 MiB, CPU over Redis's", _cpu_over("redis", "GET", 2 * MIB), 1 / 2.5),
        Aim("404, CPU µs", _cpu("404", 0), 18),
        Aim("HEAD 4 KiB, CPU µs", _cpu("HEAD", 4 * KIB), 18),
        Aim("LOOKUP, CPU µs a key", lambda figures: _cpu("LOOKUP", 0)(figures) / LOOKUP_KEYS, 2),
        Aim("PUT kv 2 MiB, CPU over Redis's", _cpu_over("redis", "PUT kv", 2 * MIB), 1),
        Aim("PUT kv 2 MiB, GB a second of CPU", _gigabytes_a_core, 1.25, at_most=False),
        Aim("PUT kv 4 KiB x64, CPU µs", _cpu("PUT kv", 4 * KIB, 64), 40),
        Aim("PUT standard 2 MiB, rate over Ceph's", _rate_over("ceph", "PUT standard", 2 * MIB), 3, at_most=False),
        *from_bucket,
        Aim("GET 4 KiB x64, rate of two workers over one's", _scaling, 1.8, at_most=False),
    )


def report(figures: Sequence[Figure], bucket: str = "") -> str:
    """One line for each aim that was measured."""
    by_cell = {figure.cell: figure for figure in figures}
    lines = []
    for aim in aims(bucket):
        try:
            value = aim.of(by_cell)
        except Unknown:
            continue
        sign = "≤" if aim.at_most else "≥"
        lines.append(f"{aim.says:<48}{value:>9.2f}  {sign} {aim.limit:.4g}  {'met' if aim.met(value) else 'MISSED'}")
    return "\n".join(lines)
