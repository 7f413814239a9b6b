"""`python -m bench.overload`: what a gateway still answers in time when four times as much is asked as it can do.

For each case: its peak by a closed loop, then an open loop at a multiple of that rate, which asks whatever becomes of what was
asked before, and is counted once it has lasted for a client's patience; both interleaved, several rounds. Goodput is what is answered rightly and in time, counted from when it was sent: what
finds all connections taken is never sent, and counts as nothing. Worker and loader each have a core, where there are two, but share
the machine with all else: so goodput is compared by the worker's CPU second too.

Owns nothing but its arguments. Does not know how a request is sent (`bench.loader`) or made (`bench.peers`).
Kind: shell. Spec: bench/README.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench import loader
from bench.loader import Load, Open, Plan
from bench.measure import Measure, Sample
from bench.peers.gateway import GatewayPeer
from bench.peers.s3 import bucket
from bench.process import cpu_by_role
from bench.quantity import parse_size, size_text

TIMES = 4.0
PATIENCE_S = 1.0
"""An engine that waits longer for a block computes it."""
GOOD_SHARE = 0.8
PAGE_KEYS: Final = 1000
LISTED_KEYS: Final = 4 * PAGE_KEYS
CALM_STEPS: Final = 150
CALM_STEPS_IDLE: Final = 5
CALM_STEP_S: Final = 0.2
COLD_KEYS: Final = 2048
COLD_POOL: Final = {"POOLS_STANDARD_CAPACITY_BYTES": "24MiB", "POOLS_STANDARD_REGION_BYTES": "1MiB"}
"""Room for few of them: what is read has been evicted since it was read before."""


@dataclass(frozen=True)
class Case:
    """One kind of load. `connections` at the peak, and at the overload for a worker that has a core to itself: one that gets a part
    of one gets that part of them. `settings` over the defaults."""

    name: str
    operation: str
    size: int
    connections: tuple[int, int]
    settings: Mapping[str, str]


CASES = (
    Case("reads", "GET", 4 << 10, (64, 2000), {}),
    Case("reads, over the connections", "GET", 4 << 10, (64, 1000), {"HTTP_CONNECTIONS_MAX": "256"}),
    Case("writes", "PUT kv", 256 << 10, (16, 1000), {}),
    Case("writes, over those in flight", "PUT kv", 64 << 10, (16, 512), {"HTTP_REQUESTS_IN_FLIGHT_MAX": "64"}),
    Case("large writes", "PUT kv", 2 << 20, (4, 512), {}),
    Case("durable writes", "PUT standard", 256 << 10, (16, 1000), {}),
    Case("pages of a thousand keys", "LIST", 0, (4, 1000), {}),
    Case("cold reads", "COLD READ", 64 << 10, (64, 1000), COLD_POOL),
)


class LoadedPeer(GatewayPeer):
    """Our gateway, asked also for what can be asked for again and again only here: pages, and objects that are cold."""

    def start(self, sizes: Sequence[int], operations: Collection[str]) -> None:
        super().start(sizes, operations)
        if "LIST" in operations:
            self.fill("kv", "list", LISTED_KEYS, 64)
        for size in sizes if "COLD READ" in operations else ():
            self.fill("standard", f"cold-{size}", COLD_KEYS, size)

    def plan(self, operation: str, size: int) -> Plan:
        match operation:
            case "LIST":
                queries = [f"list-type=2&max-keys={PAGE_KEYS}&start-after=list-{number}" for number in range(1, 4)]
                return Plan([self.signer.head("GET", f"/{bucket('kv')}", query=query) for query in queries])
            case "COLD READ":
                return Plan(self.heads("GET", "standard", f"cold-{size}", COLD_KEYS), expect_bytes=size)
        return super().plan(operation, size)


@dataclass(frozen=True)
class Round:
    at_peak: Sample
    overloaded: Sample
    clients: int

    @property
    def peak(self) -> Load:
        return self.at_peak.load

    @property
    def over(self) -> Load:
        return self.overloaded.load

    @property
    def share(self) -> float:
        """Goodput under overload against the peak, by the clock."""
        return self.over.rate / self.peak.rate if self.peak.ok else 0.0

    @property
    def cpu_share(self) -> float:
        """The same for each second of the worker's CPU."""
        peak, over = self.at_peak.cpu_s["worker"], self.overloaded.cpu_s["worker"]
        return (self.over.answered / over) / (self.peak.ok / peak) if peak and over and self.peak.ok else 0.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=float, default=TIMES, help="the overload, in peaks")
    parser.add_argument("--patience", type=float, default=PATIENCE_S, help="seconds after which a reply is late")
    parser.add_argument("--case", type=int, action="append", help="only this one, from 1 on")
    args = parser.parse_args(argv)
    program = loader.build()
    cases = [CASES[number - 1] for number in args.case] if args.case else CASES
    print(
        f"{'case':<30}{'size':>8}{'peak/s':>8}{'asked/s':>9}{'sent/s':>8}{'conns':>7}{'good/s':>8}{'share':>7}{'by CPU':>8}{'p50 ms':>8}"
        f"{'p99':>6}{'503/s':>8}{'503 p50':>9}{'p99 ms':>8}{'late/s':>8}{'lost':>6}{'lag ms':>8}"
    )
    worst = 1.0
    for case in cases:
        rounds = _run(case, args, program)
        worst = min(worst, max(statistics.median(each.share for each in rounds), _median_cpu(rounds)))
        print(_line(case, rounds, args.times), flush=True)
    print("held" if worst >= GOOD_SHARE else f"NOT HELD: {worst:.2f} of the peak")
    return 0 if worst >= GOOD_SHARE else 1


def _median_cpu(rounds: Sequence[Round]) -> float:
    return statistics.median(each.cpu_share for each in rounds)


def _run(case: Case, args: argparse.Namespace, program: Path) -> list[Round]:
    settings = {f"RECALL_{name}": text for name, text in case.settings.items()}
    # All come from one address.
    settings |= {"RECALL_HTTP_PEER_FRACTION_MAX": "1", "RECALL_PIN_WORKERS": "yes"}
    cpus = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recall-bench-")))
        peer = LoadedPeer("recall", parse_size("1g"), limits=settings)
        stack.callback(peer.stop)
        peer.start([case.size] if case.size else [], (case.operation,))
        measure, plan = Measure(program, folder, cpus[1:]), peer.plan(case.operation, case.size)
        few, many = case.connections
        measure.load(peer, plan, few, args.seconds)
        rounds = []
        for _ in range(args.rounds):
            peak = measure.sample(peer, plan, few, args.seconds)
            asked = replace(plan, open_loop=Open(args.times * peak.load.rate, args.patience, args.patience))
            clients = max(2 * few, round(many * min(1.0, peak.cpu_s["worker"] / peak.load.seconds)))
            rounds.append(Round(peak, measure.sample(peer, asked, clients, args.seconds), clients))
            _calm(peer)
        # It stayed up, and serves as before.
        after = measure.load(peer, plan, few, 0.3)
        if after.bad or not after.ok:
            raise SystemExit(f"{case.name}: after the overload: {after.first_bad or 'no answer'}")
        return rounds


def _calm(peer: LoadedPeer) -> None:
    """Waits until the worker has been idle for a while: what an overload has left would be measured as a lower peak."""
    idle = 0
    for _ in range(CALM_STEPS):
        begin_s = cpu_by_role(peer.processes())["worker"]
        time.sleep(CALM_STEP_S)
        idle = idle + 1 if cpu_by_role(peer.processes())["worker"] - begin_s < CALM_STEP_S / 20 else 0
        if idle >= CALM_STEPS_IDLE:
            return


def _line(case: Case, rounds: Sequence[Round], times: float) -> str:
    median = statistics.median
    peak = median(each.peak.rate for each in rounds)

    def a_second(count: Callable[[Load], float]) -> float:
        return median(count(each.over) / each.over.seconds for each in rounds)

    return (
        f"{case.name:<30}{size_text(case.size):>8}{peak:>8.0f}{times * peak:>9.0f}{a_second(lambda load: load.sent):>8.0f}"
        f"{median(each.clients for each in rounds):>7.0f}"
        f"{median(each.over.rate for each in rounds):>8.0f}{median(each.share for each in rounds):>7.2f}"
        f"{_median_cpu(rounds):>8.2f}{median(each.over.p50_us for each in rounds) / 1e3:>8.0f}"
        f"{median(each.over.p99_us for each in rounds) / 1e3:>6.0f}{a_second(lambda load: load.refused):>8.0f}"
        f"{median(each.over.refused_p50_us for each in rounds) / 1e3:>9.1f}"
        f"{median(each.over.refused_p99_us for each in rounds) / 1e3:>8.1f}"
        f"{a_second(lambda load: load.late):>8.0f}{median(each.over.bad for each in rounds):>6.0f}"
        f"{median(each.over.lag_p99_us for each in rounds) / 1e3:>8.1f}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
