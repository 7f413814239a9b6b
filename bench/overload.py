"""`python -m bench.overload`: what a gateway still answers in time when four times as much is asked as it can do.

For each case: its peak by a closed loop, then an open loop at a multiple of that rate, which asks whatever becomes of what was
asked before; both interleaved, several rounds. Goodput is what is answered rightly and in time. Loader and gateway share the
machine, and the loader of an overload takes more of it: so goodput is compared by the worker's CPU second too.

Owns nothing but its arguments. Does not know how a request is sent (`bench.loader`) or made (`bench.peers`).
Kind: shell. Spec: bench/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from bench import loader
from bench.loader import Load, Open
from bench.measure import Measure, Sample
from bench.peers.gateway import GatewayPeer
from bench.quantity import parse_size, size_text

TIMES = 4.0
PATIENCE_S = 1.0
"""An engine that waits longer for a block computes it."""
GOOD_SHARE = 0.8


@dataclass(frozen=True)
class Case:
    """One kind of load. `connections` at the peak and at the overload; `limits`: settings over the defaults."""

    name: str
    operation: str
    size: int
    connections: tuple[int, int]
    limits: Mapping[str, str]


CASES = (
    Case("reads, more at once", "GET", 4 << 10, (64, 2000), {}),
    Case("reads, over the connections", "GET", 4 << 10, (64, 1000), {"CONNECTIONS_MAX": "256"}),
    Case("writes, over those in flight", "PUT kv", 64 << 10, (16, 512), {"REQUESTS_IN_FLIGHT_MAX": "64"}),
    Case("large writes, over those in flight", "PUT kv", 2 << 20, (4, 64), {"REQUESTS_IN_FLIGHT_MAX": "8"}),
    Case("durable writes, over those in flight", "PUT standard", 64 << 10, (16, 512), {"REQUESTS_IN_FLIGHT_MAX": "64"}),
)


@dataclass(frozen=True)
class Round:
    at_peak: Sample
    overloaded: Sample

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
        return (self.over.ok / over) / (self.peak.ok / peak) if peak and over and self.peak.ok else 0.0


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
        f"{'case':<38}{'size':>8}{'peak/s':>9}{'asked/s':>9}{'good/s':>9}{'share':>7}{'by CPU':>8}{'p99 ms':>8}"
        f"{'503':>8}{'503 p50':>9}{'p99 ms':>8}{'late':>8}{'lost':>7}"
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
    limits = {f"RECALL_HTTP_{name}": text for name, text in case.limits.items()}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recall-bench-")))
        # All come from one address.
        peer = GatewayPeer("recall", parse_size("1g"), limits=limits | {"RECALL_HTTP_PEER_FRACTION_MAX": "1"})
        stack.callback(peer.stop)
        peer.start([case.size], (case.operation,))
        measure, plan = Measure(program, folder), peer.plan(case.operation, case.size)
        few, many = case.connections
        measure.load(peer, plan, few, args.seconds)
        rounds = []
        for _ in range(args.rounds):
            peak = measure.sample(peer, plan, few, args.seconds)
            asked = replace(plan, open_loop=Open(args.times * peak.load.rate, args.patience))
            rounds.append(Round(peak, measure.sample(peer, asked, many, args.seconds)))
        # It stayed up, and serves as before.
        after = measure.load(peer, plan, few, 0.3)
        if after.bad or not after.ok:
            raise SystemExit(f"{case.name}: after the overload: {after.first_bad or 'no answer'}")
        return rounds


def _line(case: Case, rounds: Sequence[Round], times: float) -> str:
    median = statistics.median
    peak = median(each.peak.rate for each in rounds)
    return (
        f"{case.name:<38}{size_text(case.size):>8}{peak:>9.0f}{times * peak:>9.0f}"
        f"{median(each.over.rate for each in rounds):>9.0f}{median(each.share for each in rounds):>7.2f}"
        f"{_median_cpu(rounds):>8.2f}{median(each.over.p99_us for each in rounds) / 1e3:>8.0f}"
        f"{median(each.over.refused for each in rounds):>8.0f}"
        f"{median(each.over.refused_p50_us for each in rounds) / 1e3:>9.1f}"
        f"{median(each.over.refused_p99_us for each in rounds) / 1e3:>8.1f}"
        f"{median(each.over.late for each in rounds):>8.0f}{median(each.over.bad for each in rounds):>7.0f}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
