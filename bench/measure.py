"""Rounds of measurements over cells (peer, operation, size, connections), and what is said of them.

Promise: the cells of one round run one after another, a peer beside a peer, and the rounds are interleaved, so that a
machine that gets slower for a while slows everybody. A figure is the median of its rounds; the spread is their range. A
ratio is made in each round, of cells that ran close together.

Owns nothing. Does not know how a peer is started. Kind: shell (runs the loader); the summary is pure.
Spec: bench/README.md, "What a figure means".
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench import loader
from bench.loader import Load, Plan
from bench.operation import OPERATIONS
from bench.peers.peer import Peer, batch_keys
from bench.process import cpu_by_role
from bench.quantity import Spread, size_text

WARM_UP_S = 0.2
"""Before a cell's first round. Writes warm up for a whole round's time: until every key has been written once, a server
pays for memory and disk blocks that it has for good afterwards."""
PLAN_GOOD_S = 600
"""Signatures are good for 15 minutes; a plan is made again before."""
DRAIN_BYTES_PER_S = 1e9
"""At about this rate what is under way at a cell's end is finished; slow peers take longer."""
ROUND_EXTRA_S = 0.12
"""What a round of a cell takes beside its seconds: starting the loader, signing, and what a DELETE or COLD prepares."""


@dataclass(frozen=True)
class Cell:
    """One thing to measure. `size` 0 where there is none."""

    peer: str
    operation: str
    size: int
    connections: int


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
    """A cell over all rounds. `cpu_ratio` and `rate_ratio`: ours over its; None for the one it is compared with."""

    cell: Cell
    cpu_us: Spread
    other_cpu_us: Mapping[str, float]
    rate: Spread
    megabytes_per_s: float
    first_byte_us: Spread
    p50_us: Spread
    p99_us: Spread
    cpu_ratio: Spread | None
    rate_ratio: Spread | None
    bad: int
    first_bad: str
    rounds: int

    def as_json(self) -> dict[str, object]:
        return {**asdict(self.cell), **{name: value for name, value in asdict(self).items() if name != "cell"}}


def cells(
    peers: Iterable[Peer], operations: Sequence[str], sizes: Sequence[int], connections: Sequence[int]
) -> list[Cell]:
    """Every cell, peers innermost: what is compared is measured close together."""
    peers = list(peers)
    return [
        Cell(peer.name, operation, size, count)
        for operation in operations
        for size in (sizes if OPERATIONS[operation].sized else (0,))
        for count in connections
        for peer in peers
        if operation in peer.operations and count <= peer.connections_max
    ]


def estimate_s(todo: Sequence[Cell], seconds: float, rounds: int) -> float:
    """About how long `measure` will take: a guess, since slow peers finish late what is under way at the end."""
    warm_up = {True: seconds, False: min(WARM_UP_S, seconds)}
    return sum(
        rounds * (seconds + ROUND_EXTRA_S + cell.connections * cell.size / DRAIN_BYTES_PER_S)
        + warm_up[OPERATIONS[cell.operation].writes]
        for cell in todo
    )


class Measure:
    """Takes samples of peers with the native loader."""

    def __init__(self, program: Path, folder: Path, cpus: Collection[int] = ()) -> None:
        """`cpus`: where the loader may run."""
        self._program = program
        self._folder = folder
        self._cpus = cpus
        self._plans: dict[tuple[str, str, int], tuple[float, Plan]] = {}
        self._cores = 0  # of the peer that keeps most busy: what is compared is loaded in the same way

    def rounds(
        self,
        peers: Sequence[Peer],
        todo: Sequence[Cell],
        *,
        seconds: float,
        rounds: int,
        progress: Callable[[str], None],
    ) -> dict[Cell, list[Sample]]:
        """All cells, all rounds."""
        by_name = {peer.name: peer for peer in peers}
        self._cores = max(peer.cores for peer in peers)
        samples: dict[Cell, list[Sample]] = {cell: [] for cell in todo}
        for number in range(rounds):
            for cell in todo:
                progress(f"round {number + 1}/{rounds}: {cell_text(cell)}")
                peer = by_name[cell.peer]
                plan = self._plan(peer, cell)
                if number == 0 and not plan.once:
                    writes = OPERATIONS[cell.operation].writes
                    self.load(peer, plan, cell.connections, seconds if writes else min(WARM_UP_S, seconds))
                samples[cell].append(self.sample(peer, plan, cell.connections, seconds))
        return samples

    def sample(self, peer: Peer, plan: Plan, connections: int, seconds: float) -> Sample:
        """One round of one plan."""
        bad_before = 0
        first_bad = ""
        if plan.before is not None:
            before = self.load(peer, replace(plan.before, once=True), 8, seconds)
            bad_before, first_bad = before.bad, f"before it, {before.first_bad}"
        roles = peer.processes()
        begin = cpu_by_role(roles)
        load = self.load(peer, plan, connections, seconds)
        end = cpu_by_role(roles)
        if bad_before:
            load = replace(load, bad=load.bad + bad_before, first_bad=first_bad)
        return Sample(load, {role: end[role] - begin[role] for role in roles})

    def load(self, peer: Peer, plan: Plan, connections: int, seconds: float) -> Load:
        awake = peer.cores > 0 and max(peer.cores, self._cores) < len(os.sched_getaffinity(0))
        return loader.run(self._program, peer.address, plan, connections, seconds, self._folder, self._cpus, awake)

    def _plan(self, peer: Peer, cell: Cell) -> Plan:
        key = (cell.peer, cell.operation, cell.size)
        made_s, plan = self._plans.get(key, (0.0, None))
        if plan is None or time.monotonic() > made_s + PLAN_GOOD_S:
            plan = peer.plan(cell.operation, cell.size)
            self._plans[key] = (time.monotonic(), plan)
        return plan


def summarise(cell: Cell, samples: Sequence[Sample], base: Sequence[Sample] = ()) -> Figure:
    """Medians and ranges over the rounds. `base`: the same rounds of our own cell; without any there are no ratios."""
    roles = {role for sample in samples for role in sample.cpu_s}
    spread = Spread.of
    pairs = list(zip(base, samples, strict=False))
    cpu_ratios = [ours.cpu_us("worker") / cpu for ours, its in pairs if (cpu := its.cpu_us("worker"))]
    rate_ratios = [ours.load.rate / its.load.rate for ours, its in pairs if its.load.rate]
    items = batch_keys(cell.size) if cell.operation == "BATCH" else 1
    rate = spread([sample.load.rate for sample in samples])
    return Figure(
        cell=cell,
        cpu_us=spread([sample.cpu_us("worker") for sample in samples]),
        other_cpu_us={
            role: Spread.of([sample.cpu_us(role) for sample in samples]).median for role in sorted(roles - {"worker"})
        },
        rate=rate,
        megabytes_per_s=rate.median * cell.size * items / 1e6 if cell.operation not in ("HEAD", "DELETE") else 0.0,
        first_byte_us=spread([sample.load.first_byte_us for sample in samples]),
        p50_us=spread([sample.load.p50_us for sample in samples]),
        p99_us=spread([sample.load.p99_us for sample in samples]),
        cpu_ratio=spread(cpu_ratios) if cpu_ratios else None,
        rate_ratio=spread(rate_ratios) if rate_ratios else None,
        bad=sum(sample.load.bad for sample in samples),
        first_bad=next((sample.load.first_bad for sample in samples if sample.load.bad), ""),
        rounds=len(samples),
    )


def figures_of(samples: Mapping[Cell, Sequence[Sample]], base_of: Callable[[str], str]) -> list[Figure]:
    """A figure for each cell. `base_of` a peer: whom its ratios are to, at the same cell; for that one itself "" ."""
    return [
        summarise(cell, taken, samples.get(replace(cell, peer=base_of(cell.peer)), ()))
        for cell, taken in samples.items()
    ]


def cell_text(cell: Cell) -> str:
    return f"{cell.peer} {cell.operation} {size_text(cell.size)} x{cell.connections}"


_COLUMNS = (
    ("operation", -13),
    ("size", 7),
    ("conns", 6),
    ("  peer", -15),
    ("CPU µs", 9),
    ("(range)", 18),
    ("other", 7),
    ("req/s", 8),
    ("MB/s", 7),
    ("1st byte", 9),
    ("p50 µs", 9),
    ("p99 µs", 9),
    ("CPU ours/it", 21),
    ("rate ours/it", 21),
    ("bad", 5),
)


def table(figures: Sequence[Figure]) -> str:
    """The figures as text, one line a cell."""
    lines = [_line([name for name, _ in _COLUMNS])]
    previous: tuple[str, int, int] | None = None
    for figure in figures:
        cell = figure.cell
        name = (cell.operation, cell.size, cell.connections)
        label = ["", "", ""] if name == previous else [cell.operation, size_text(cell.size), str(cell.connections)]
        previous = name
        known = figure.cpu_us.most > 0
        lines.append(
            _line(
                [
                    *label,
                    "  " + cell.peer,
                    f"{figure.cpu_us.median:.1f}" if known else "-",
                    f"{figure.cpu_us.least:.1f}-{figure.cpu_us.most:.1f}" if known else "-",
                    f"{sum(figure.other_cpu_us.values()):.1f}",
                    f"{figure.rate.median:.0f}",
                    f"{figure.megabytes_per_s:.0f}" if figure.megabytes_per_s else "",
                    f"{figure.first_byte_us.median:.0f}",
                    f"{figure.p50_us.median:.0f}",
                    f"{figure.p99_us.median:.0f}",
                    figure.cpu_ratio.text(2) if figure.cpu_ratio else "",
                    figure.rate_ratio.text(2) if figure.rate_ratio else "",
                    str(figure.bad or ""),
                ]
            )
        )
    lines += [f"bad: {cell_text(figure.cell)}: {figure.first_bad}" for figure in figures if figure.bad]
    return "\n".join(lines)


def _line(values: Sequence[str]) -> str:
    pairs = zip(values, _COLUMNS, strict=True)
    return "".join(f"{text:<{-width}}" if width < 0 else f"{text:>{width}}" for text, (_, width) in pairs).rstrip()
