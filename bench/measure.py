"""Rounds of measurements over cells (peer, operation, size), and what is said of them.

Promise: the cells of one round run one after another, a peer beside a peer, and the rounds are interleaved, so that a
machine that gets slower for a while slows everybody. A figure is the median of its rounds; the spread is their range.

Owns nothing. Does not know how a peer is started. Kind: shell (runs the loader); the summary is pure.
Spec: bench/README.md, "What a figure means".
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import loader
from bench.cpu import cpu_by_role
from bench.loader import Load
from bench.peers import Peer

SIZELESS = ("404",)
"""Operations that do not depend on a size: measured once."""
WARM_UP_S = 0.3
"""Before a cell's first round. Writes warm up for a whole round's time: until every key has been written once, a server
pays for memory and disk blocks that it has for good afterwards."""


@dataclass(frozen=True)
class Cell:
    """One thing to measure. `size` 0 where there is none."""

    peer: str
    operation: str
    size: int


@dataclass(frozen=True)
class Sample:
    """One round of one cell: what the loader saw and the CPU seconds each role used meanwhile."""

    load: Load
    cpu_s: Mapping[str, float]

    def cpu_us(self, role: str) -> float:
        """CPU microseconds of a role for each request answered (rightly or not)."""
        return 1e6 * self.cpu_s.get(role, 0.0) / max(1, self.load.ok + self.load.bad)


@dataclass(frozen=True)
class Figure:
    """A cell over all rounds: medians, and the range of the worker's CPU."""

    cell: Cell
    cpu_us: float
    cpu_us_min: float
    cpu_us_max: float
    other_cpu_us: Mapping[str, float]
    rate: float
    megabytes_per_s: float
    p50_us: float
    p99_us: float
    bad: int
    first_bad: str
    rounds: int

    def as_json(self) -> dict[str, object]:
        return {**asdict(self.cell), **{name: value for name, value in asdict(self).items() if name != "cell"}}


def cells(peers: Iterable[Peer], operations: Sequence[str], sizes: Sequence[int]) -> list[Cell]:
    """Every cell, peers innermost: what is compared is measured close together."""
    peers = list(peers)
    return [
        Cell(peer.name, operation, size)
        for operation in operations
        for size in ((0,) if operation in SIZELESS else sizes)
        for peer in peers
        if operation in peer.operations
    ]


def measure(
    peers: Sequence[Peer],
    todo: Sequence[Cell],
    *,
    program: Path,
    folder: Path,
    connections: Callable[[int], int],
    seconds: float,
    rounds: int,
    progress: Callable[[str], None],
) -> dict[Cell, list[Sample]]:
    """Runs all rounds. `connections`: how many, for a size."""
    by_name = {peer.name: peer for peer in peers}
    samples: dict[Cell, list[Sample]] = {cell: [] for cell in todo}
    for number in range(rounds):
        for cell in todo:
            progress(f"round {number + 1}/{rounds}: {cell.peer} {cell.operation} {size_text(cell.size)}")
            peer = by_name[cell.peer]
            plan = peer.plan(cell.operation, cell.size)
            count = connections(cell.size)
            if number == 0:
                warm_up_s = seconds if cell.operation.startswith("PUT") else min(WARM_UP_S, seconds)
                loader.run(program, peer.port, plan, count, warm_up_s, folder)
            roles = peer.processes()
            before = cpu_by_role(roles)
            load = loader.run(program, peer.port, plan, count, seconds, folder)
            after = cpu_by_role(roles)
            samples[cell].append(Sample(load, {role: after[role] - before[role] for role in roles}))
    return samples


def summarise(cell: Cell, samples: Sequence[Sample]) -> Figure:
    """Medians over the rounds."""
    worker = [sample.cpu_us("worker") for sample in samples]
    others = sorted({role for sample in samples for role in sample.cpu_s} - {"worker"})
    median = statistics.median
    return Figure(
        cell=cell,
        cpu_us=median(worker),
        cpu_us_min=min(worker),
        cpu_us_max=max(worker),
        other_cpu_us={role: median(sample.cpu_us(role) for sample in samples) for role in others},
        rate=median(sample.load.rate for sample in samples),
        megabytes_per_s=median(sample.load.rate * cell.size / 1e6 for sample in samples),
        p50_us=median(sample.load.p50_us for sample in samples),
        p99_us=median(sample.load.p99_us for sample in samples),
        bad=sum(sample.load.bad for sample in samples),
        first_bad=next((sample.load.first_bad for sample in samples if sample.load.bad), ""),
        rounds=len(samples),
    )


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


def table(figures: Sequence[Figure], base: str) -> str:
    """The figures as text, one line a cell; `ratio` is the base peer's CPU over this one's for the same cell."""
    bases = {(figure.cell.operation, figure.cell.size): figure.cpu_us for figure in figures if figure.cell.peer == base}
    lines = [
        f"{'operation':<13}{'size':>8}  {'peer':<8}{'CPU µs':>9}{'(range)':>17}{'other µs':>10}{'req/s':>9}{'MB/s':>8}"
        f"{'p50 µs':>9}{'p99 µs':>9}{'ours/it':>9}{'bad':>6}"
    ]
    previous: tuple[str, int] | None = None
    for figure in figures:
        cell = figure.cell
        name = (cell.operation, cell.size)
        label = f"{cell.operation:<13}{size_text(cell.size):>8}" if name != previous else " " * 21
        previous = name
        ratio = f"{bases[name] / figure.cpu_us:.2f}" if cell.peer != base and name in bases and figure.cpu_us else ""
        spread = f"{figure.cpu_us_min:.1f}-{figure.cpu_us_max:.1f}"
        lines.append(
            f"{label}  {cell.peer:<8}{figure.cpu_us:>9.1f}{spread:>17}{sum(figure.other_cpu_us.values()):>10.1f}"
            f"{figure.rate:>9.0f}{figure.megabytes_per_s:>8.0f}{figure.p50_us:>9.0f}{figure.p99_us:>9.0f}{ratio:>9}"
            f"{figure.bad or '':>6}"
        )
    lines += [
        f"bad: {figure.cell.peer} {figure.cell.operation} {size_text(figure.cell.size)}: {figure.first_bad}"
        for figure in figures
        if figure.bad
    ]
    return "\n".join(lines)
