"""`python -m bench.compare`: server CPU per request and rate of the gateway beside nginx and Redis, in one run.

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
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import loader, memory
from bench.measure import Figure, cells, measure, parse_size, size_text, summarise, table
from bench.peers import GatewayPeer, Peer, installed
from bench.server import Gateway

SIZES = "4k,256k,2m,16m"
SMOKE_SIZES = "4k,2m"
PEERS = ("nginx", "redis")
OPERATIONS = GatewayPeer.operations
RESULTS = Path(__file__).parent / "results"
BIG_CONNECTIONS = 4
"""At most so many connections from 2 MiB on: more of them only fill socket buffers."""


def arguments(program: str, summary: str) -> argparse.ArgumentParser:
    """The arguments that `bench.load` has too."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=summary)
    parser.add_argument("--sizes", help=f"object sizes (default {SIZES})")
    parser.add_argument("--operations", default=",".join(OPERATIONS), help="default: all")
    parser.add_argument("--connections", type=int, default=8, help=f"(from 2 MiB on at most {BIG_CONNECTIONS})")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each cell in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--capacity", default="4g", help="flash of each of the gateway's pools")
    parser.add_argument("--data-dir", type=Path, help="the gateway's data (default: a temporary folder)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures there")
    parser.add_argument("--save", action="store_true", help=f"also write them to {RESULTS.name}/, named by date")
    parser.add_argument("--smoke", action="store_true", help="a few seconds in all: does everything still run?")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments("bench.compare", (__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", default=",".join(PEERS), help="of nginx,redis; or none")
    args = parser.parse_args(argv)
    peers = () if args.peers == "none" else tuple(args.peers.split(","))
    if unknown := set(peers) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    return run(args, peers)


def gateway_settings(capacity_bytes: int) -> dict[str, str]:
    """The gateway as it is measured: no demotion in `kv`, late demotion in `standard`, so that writes are what is seen."""
    return {
        "RECALL_POOLS_KV_CAPACITY_BYTES": str(capacity_bytes),
        "RECALL_POOLS_KV_DEMOTE": "never",
        "RECALL_POOLS_STANDARD_CAPACITY_BYTES": str(capacity_bytes),
        "RECALL_POOLS_STANDARD_DEMOTE": "pressure",
    }


def run(args: argparse.Namespace, peer_names: Sequence[str]) -> int:
    """Measures, prints, writes; 1 when any request was answered wrongly."""
    args.sizes = args.sizes or (SMOKE_SIZES if args.smoke else SIZES)
    if args.smoke:
        args.seconds, args.rounds, args.capacity = 0.1, 1, "512m"
    sizes = [parse_size(text) for text in args.sizes.split(",")]
    program = loader.build()
    if not args.smoke:
        _progress("touching memory")
        memory.touch(3 * parse_size(args.capacity))  # two pools' files and what the peers keep
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recall-bench-")))
        beside, absent = installed(peer_names, folder)
        gateway = Gateway(gateway_settings(parse_size(args.capacity)), data_dir=args.data_dir)
        peers: list[Peer] = [GatewayPeer(gateway), *beside]
        for peer in peers:
            stack.callback(peer.stop)
            peer.start(sizes)
        todo = cells(peers, args.operations.split(","), sizes)
        samples = measure(
            peers,
            todo,
            program=program,
            folder=folder,
            connections=lambda size: min(args.connections, BIG_CONNECTIONS) if size >= 2 << 20 else args.connections,
            seconds=args.seconds,
            rounds=args.rounds,
            progress=_progress,
        )
    _progress("")
    figures = [summarise(cell, samples[cell]) for cell in todo]
    print(table(figures, GatewayPeer.name))
    for name in absent:
        print(f"{name}: absent (not installed)")
    document = _document(args, figures, absent)
    for path in _outputs(args):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(f"written: {path}")
    return 1 if any(figure.bad for figure in figures) else 0


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _outputs(args: argparse.Namespace) -> list[Path]:
    saved = [RESULTS / f"compare-{time.strftime('%Y%m%d-%H%M%S')}.json"] if args.save else []
    return ([args.json] if args.json else []) + saved


def _document(args: argparse.Namespace, figures: Sequence[Figure], absent: Sequence[str]) -> dict[str, object]:
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "cpu": _cpu_model(), "kernel": platform.release()},
        "python": platform.python_version(),
        "versions": {"nginx": _version("nginx", "-v"), "redis": _version("redis-server", "--version")},
        "settings": {name: str(value) for name, value in vars(args).items()},
        "sizes": [size_text(parse_size(text)) for text in args.sizes.split(",")],
        "absent": list(absent),
        "figures": [figure.as_json() for figure in figures],
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(program: str, option: str) -> str:
    try:
        done = subprocess.run([program, option], capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ""
    return (done.stdout + done.stderr).strip()


if __name__ == "__main__":
    raise SystemExit(main())
