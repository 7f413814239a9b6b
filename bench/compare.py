"""`python -m bench.compare`: server CPU per request and rate of the gateway beside other servers, in one run.

Owns nothing but its arguments. Does not know how a cell is measured (`bench.measure`) or a peer is set up (`bench.peers`).
Kind: shell. Spec: bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import aims, loader, memory
from bench.measure import Figure, Measure, cells, estimate_s, figures_of, table
from bench.peers import found, known, scaled
from bench.peers.gateway import GatewayPeer
from bench.peers.peer import Peer, PeerFailed
from bench.peers.s3 import S3Peer
from bench.process import end_orderly
from bench.quantity import parse_size, size_text

OURS = "recall"
SIZES = "4k,64k,2m,16m"
CONNECTIONS = "1,8,64"
WORKERS = "1,2"
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Wanted:
    """What to measure, and how."""

    operations: Sequence[str]
    sizes: Sequence[int]
    connections: Sequence[int]
    workers: Sequence[int]
    peers: Sequence[str]
    backing: str
    seconds: float
    rounds: int
    capacity_bytes: int
    data_dir: Path | None
    smoke: bool


def arguments(program: str, summary: str) -> argparse.ArgumentParser:
    """The arguments that `bench.load` has too."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=summary)
    parser.add_argument("--operations", help=f"of {', '.join(GatewayPeer.operations)} (default: all)")
    parser.add_argument("--sizes", help=f"object sizes (default {SIZES})")
    parser.add_argument("--connections", help=f"(default {CONNECTIONS})")
    parser.add_argument("--workers", help=f"worker processes (default {WORKERS})")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each cell in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--capacity", default="2g", help="flash of each of the gateway's pools")
    parser.add_argument("--data-dir", type=Path, help="the gateway's data (default: a temporary folder)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures there")
    parser.add_argument("--save", action="store_true", help=f"also write them to {RESULTS.name}/, named by date")
    parser.add_argument("--estimate", action="store_true", help="only say how long it would take")
    parser.add_argument("--smoke", action="store_true", help="a quarter of a minute: does everything still run?")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments("bench.compare", (__doc__ or "").splitlines()[0])
    try:
        peers = known()
    except ValueError as error:
        parser.error(str(error))
    parser.add_argument("--peers", default=",".join(peers), help=f"of {', '.join(peers)}; or none")
    parser.add_argument("--backing", default="", help="the S3 peer whose bucket is the gateway's backing store")
    args = parser.parse_args(argv)
    return run(parser, args, [] if args.peers == "none" else args.peers.split(","), args.backing)


def run(parser: argparse.ArgumentParser, args: argparse.Namespace, peers: Sequence[str], backing: str = "") -> int:
    """Measures, prints, writes; 1 when the gateway answered any request wrongly (what a peer did is in the table)."""
    wanted = _wanted(parser, args, peers, backing)
    program = loader.build()
    begun_s = time.monotonic()
    end_orderly()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recall-bench-")))
        beside, absent = found(wanted.peers, wanted.workers, folder)
        buckets = {peer.name: peer for peer in beside if isinstance(peer, S3Peer)}
        if wanted.backing and wanted.backing not in buckets:
            parser.error(f"{wanted.backing} is no S3 peer that is there")
        ours = [
            GatewayPeer(
                scaled(OURS, count),
                wanted.capacity_bytes,
                count,
                wanted.data_dir / str(count) if wanted.data_dir else None,
                buckets.get(wanted.backing),
            )
            for count in wanted.workers
        ]
        peers_all: list[Peer] = [*ours, *beside]
        todo = cells(peers_all, wanted.operations, wanted.sizes, wanted.connections)
        say(f"{len(todo)} cells, about {estimate_s(todo, wanted.seconds, wanted.rounds) / 60 + 0.5:.0f} minutes")
        for name, why in absent.items():
            say(f"{name}: not there ({why})")
        if args.estimate:
            return 0
        if not wanted.smoke:
            progress("touching memory")
            memory.touch(2 * len(ours) * wanted.capacity_bytes)  # the pools' files and what the peers keep
        for peer in [*beside, *ours]:  # a backing store before the gateway
            progress(f"filling {peer.name}")
            stack.callback(peer.stop)
            try:
                peer.start(wanted.sizes, wanted.operations)
            except PeerFailed as error:
                if peer in ours:
                    raise
                absent[peer.name] = str(error)
        samples = Measure(program, folder).rounds(
            peers_all,
            [cell for cell in todo if cell.peer not in absent],
            seconds=wanted.seconds,
            rounds=wanted.rounds,
            progress=progress,
        )
    progress("")
    mine = [peer.name for peer in ours]
    figures = figures_of(samples, lambda peer: "" if peer in mine else base_of(peer, mine))
    print(table(figures))
    for name, why in absent.items():
        print(f"{name}: not there ({why})")
    if held := aims.report(figures, wanted.backing):
        print("\n" + held)
    _write(args, _document(wanted, figures, absent, time.monotonic() - begun_s))
    return 1 if any(figure.bad for figure in figures if figure.cell.peer in mine) else 0


def base_of(peer: str, ours: Collection[str]) -> str:
    """Which of our gateways a peer is compared with: the one of as many workers, else the first."""
    wanted = " ".join((OURS, *peer.split(" ")[1:]))
    return wanted if wanted in ours else next(iter(ours))


def _wanted(parser: argparse.ArgumentParser, args: argparse.Namespace, peers: Sequence[str], backing: str) -> Wanted:
    if args.smoke:
        args.seconds, args.rounds, args.capacity = 0.05, 1, "512m"
    operations = args.operations.split(",") if args.operations else list(GatewayPeer.operations)
    for what, asked, there in (("operation", operations, GatewayPeer.operations), ("peer", peers, known())):
        if unknown := set(asked) - set(there):
            parser.error(f"no such {what}: {', '.join(sorted(unknown))}")
    try:
        return Wanted(
            operations=operations,
            sizes=[parse_size(text) for text in (args.sizes or ("4k,2m" if args.smoke else SIZES)).split(",")],
            connections=_numbers(args.connections or ("8" if args.smoke else CONNECTIONS)),
            workers=_numbers(args.workers or ("1" if args.smoke else WORKERS)),
            peers=peers,
            backing=backing,
            seconds=args.seconds,
            rounds=args.rounds,
            capacity_bytes=parse_size(args.capacity),
            data_dir=args.data_dir,
            smoke=args.smoke,
        )
    except ValueError as error:
        parser.error(str(error))


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def say(text: str) -> None:
    """For whoever waits; figures go to the standard output."""
    print(text, file=sys.stderr, flush=True)


def progress(text: str) -> None:
    """The one line that says what is done now, where somebody looks."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _write(args: argparse.Namespace, document: Mapping[str, object]) -> None:
    write(document, [args.json] if args.json else [], "compare" if args.save else "")


def write(document: Mapping[str, object], paths: Sequence[Path], save_as: str) -> None:
    """Writes a result to `paths` and, under a name, to the kept results."""
    saved = [RESULTS / f"{save_as}-{time.strftime('%Y%m%d-%H%M%S')}.json"] if save_as else []
    for path in [*paths, *saved]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(f"written: {path}")


def circumstances() -> dict[str, object]:
    """When, where and of which commit a result is."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _said("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"),
        "machine": {"cores": os.cpu_count(), "cpu": _cpu_model(), "kernel": platform.release()},
        "python": platform.python_version(),
        "gateway": _said(sys.executable, "-m", "gateway", "version"),
        "load_average": os.getloadavg(),
    }


def _document(
    wanted: Wanted, figures: Sequence[Figure], absent: Mapping[str, str], seconds: float
) -> dict[str, object]:
    versions = {
        "nginx": _said("/usr/sbin/nginx", "-v"),
        "redis": _said("redis-server", "--version"),
        "memcached": _said("memcached", "-V"),
    }
    return {
        **circumstances(),
        "took_s": round(seconds),
        "versions": versions,
        "settings": {
            name: value if isinstance(value, int | float | str | list) else str(value)
            for name, value in vars(wanted).items()
        },
        "sizes": [size_text(size) for size in wanted.sizes],
        "absent": dict(absent),
        "figures": [figure.as_json() for figure in figures],
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False, cwd=RESULTS.parent)
    except OSError:
        return ""
    return (done.stdout + done.stderr).strip()


if __name__ == "__main__":
    raise SystemExit(main())
