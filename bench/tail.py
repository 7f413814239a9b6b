"""`python -m bench.tail`: the tail of hot GETs while the keeper evicts, demotes and expires; and a worker's memory.

Three states of one gateway, in interleaved rounds: *quiet*, nothing but the GETs; *writes*, with a steady stream of PUTs
into a pool with room; *churn*, the same stream into a small pool, where all of it is demoted, evicted or expired. So the
second says what the writes cost a reader, and the third what the duties add. The objects read are pinned: they are hot.
With `--flood` a fourth: PUTs of 2 MiB as fast as they are taken, more than a drive takes when it lasts.

Owns the gateway and the stream. Does not know how a cell is measured. Kind: shell (asyncio, and a thread for the loader).
Spec: bench/README.md, "Tail and memory".
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import threading
import urllib.request
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench import loader
from bench.client import Connection
from bench.compare import circumstances, progress, say, write
from bench.loader import Load, Plan
from bench.measure import Measure, Sample
from bench.peers.peer import MIB, content, read_keys
from bench.peers.s3 import PINNED, Running, S3Peer, bucket
from bench.process import Resident, end_orderly, resident
from bench.quantity import Spread, parse_size, size_text
from bench.replay import tier_moves
from bench.server import Gateway

SIZES = "4k,2m"
STATES = ("quiet", "writes", "churn")
FLOOD = "flood"
FLOOD_BYTES = 2 * MIB
FLOOD_CONNECTIONS = 4
FLOOD_KEYS = 20_000
POOL_OF = {"writes": "kv", "churn": "standard"}
SMALL_BYTES = 256 * MIB
LARGE_BYTES = 4096 * MIB
WRITTEN_BYTES = 256 << 10
WRITES_PER_S = 200
"""Fifty megabytes a second: the small pool is written through once in five."""
TTL_EVERY = 3
TTL_S = 2
MANY_CONNECTIONS = 1000
LARGE_OBJECT = 64 * MIB
MEMORY_POLL_S = 0.1
OWN_BYTES_MAX = 120 * MIB


class TailPeer(S3Peer):
    """The gateway of one run: a large pool that keeps what it has, a small one that demotes at once."""

    pooled = True
    operations: Collection[str] = ("GET",)

    def __init__(self, folder: Path) -> None:
        super().__init__("recall", self._started)
        self.folder = folder

    def _started(self) -> Running:
        settings = {
            "RECALL_POOLS_KV_CAPACITY_BYTES": str(LARGE_BYTES),
            "RECALL_POOLS_KV_DEMOTE": "never",
            "RECALL_POOLS_STANDARD_CAPACITY_BYTES": str(SMALL_BYTES),
            "RECALL_POOLS_STANDARD_DEMOTE": "eager",
            "RECALL_POOLS_STANDARD_DEMOTE_AFTER_S": "1s",
            "RECALL_POOLS_STANDARD_DURABILITY": "relaxed",
            "RECALL_POOLS_STANDARD_ETAG": "opaque",
        }
        gateway = Gateway(settings, self.folder).__enter__()
        return Running(
            (gateway.host, gateway.port), gateway.access_key, gateway.secret_key, gateway.processes, gateway.stop
        )

    def reads(self, size: int) -> Plan:
        return Plan(self.heads("GET", "standard", f"read-{size}", keys_of(size)), expect_bytes=size)

    def fill_pinned(self, size: int) -> None:
        for number in range(keys_of(size)):
            path = f"/{bucket('standard')}/read-{size}-{number}"
            self.ask("PUT", path, content(size), PINNED)

    def resident(self) -> Resident:
        """Of the largest worker."""
        found = [resident(pid, self.folder) for pid in self.processes()["worker"]]
        return max(found, key=lambda each: each.own)

    def moves(self) -> Mapping[str, float]:
        """The gateway's counters of tier moves."""
        # Unsigned: a signed request there asks for an object of that name.
        with urllib.request.urlopen("http://{}:{}/recall/metrics".format(*self.address), timeout=30) as reply:
            return tier_moves(reply.read().decode())


def keys_of(size: int) -> int:
    """Pins may hold half of the pool; these hold an eighth."""
    return min(read_keys(size), SMALL_BYTES // 8 // size)


async def writing(peer: TailPeer, pool: str, stop: asyncio.Event) -> int:
    """PUTs at a steady pace until told to stop; returns how many were taken."""
    connection = Connection(*peer.address, 64 << 10, 30.0)
    data = content(WRITTEN_BYTES)
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    number = taken = 0
    while not stop.is_set():
        expires = pool == "standard" and number % TTL_EVERY == 0
        headers = (("x-recall-ttl", str(TTL_S)),) if expires else ()
        path = f"/{bucket(pool)}/written-{number % 20_000}"
        reply = await connection.ask(peer.signer.head("PUT", path, len(data), headers), data)
        taken += reply.status == 200
        number += 1
        await asyncio.sleep(max(0.0, begun_s + number / WRITES_PER_S - loop.time()))
    connection.close()
    return taken


def flooding(peer: TailPeer, measure: Measure, connections: int, seconds: float) -> Load:
    """PUTs without a pause for so long."""
    heads = peer.heads("PUT", POOL_OF["writes"], "flood", FLOOD_KEYS, FLOOD_BYTES)
    return measure.load(peer, Plan(heads, body=content(FLOOD_BYTES)), connections, seconds)


async def during(peer: TailPeer, state: str, measure: Measure, plan: Plan, connections: int, seconds: float) -> Sample:
    """One round of GETs in one state."""
    if state == FLOOD:
        flood = asyncio.create_task(asyncio.to_thread(flooding, peer, measure, FLOOD_CONNECTIONS, seconds))
        sample = await asyncio.to_thread(measure.sample, peer, plan, connections, seconds)
        load = await flood
        progress(
            f"flood of {load.rate * FLOOD_BYTES / 1e6:.0f} MB/s, PUT p99 {load.p99_us / 1e3:.0f} ms, bad {load.bad}"
        )
        return replace(sample, load=replace(sample.load, bad=sample.load.bad + load.bad))
    stop = asyncio.Event()
    task = asyncio.create_task(writing(peer, POOL_OF[state], stop)) if state in POOL_OF else None
    if task is not None:
        await asyncio.sleep(SETTLE_S)
    try:
        return await asyncio.to_thread(measure.sample, peer, plan, connections, seconds)
    finally:
        stop.set()
        if task is not None:
            await task


SETTLE_S = 0.5
"""The stream runs for so long before it is measured."""


@dataclass(frozen=True)
class Tail:
    """GETs of a size in a state; times in µs. `p99_ratio`: over the p99 of the quiet round beside it."""

    state: str
    size: int
    rate: Spread
    p50: Spread
    p99: Spread
    p999: Spread
    p99_ratio: Spread
    bad: int

    @classmethod
    def of(cls, state: str, size: int, samples: Sequence[Sample], quiet: Sequence[Sample]) -> Tail:
        loads = [sample.load for sample in samples]
        return cls(
            state,
            size,
            Spread.of([load.rate for load in loads]),
            Spread.of([load.p50_us for load in loads]),
            Spread.of([load.p99_us for load in loads]),
            Spread.of([load.p999_us for load in loads]),
            Spread.of([load.p99_us / still.load.p99_us for load, still in zip(loads, quiet, strict=True)]),
            sum(load.bad for load in loads),
        )


def watched(peer: TailPeer, measure: Measure, plan: Plan, connections: int, seconds: float) -> tuple[Resident, int]:
    """The most a worker had in memory while it was loaded, and how many requests went wrong."""
    most = Resident(0, 0)
    done = threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(MEMORY_POLL_S):
            now = peer.resident()
            most = Resident(max(most.own, now.own), max(most.mapped, now.mapped))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        load = measure.load(peer, plan, connections, seconds)
    finally:
        done.set()
        watcher.join()
    return most, load.bad


def memory(peer: TailPeer, measure: Measure, seconds: float) -> dict[str, tuple[Resident, int]]:
    """What a worker holds when it is idle, with many connections and with large objects."""
    large = [peer.signer.head("PUT", f"/{bucket('kv')}/large-{number}", LARGE_OBJECT) for number in range(8)]
    put = Plan(large, body=content(LARGE_OBJECT))
    get = Plan(peer.heads("GET", "kv", "large", 8), expect_bytes=LARGE_OBJECT)
    some = peer.reads(parse_size(SIZES.split(",")[0]))
    found = {"after the rounds": (peer.resident(), 0)}
    for says, plan, connections in (
        (f"{MANY_CONNECTIONS} connections, GET 4 KiB", some, MANY_CONNECTIONS),
        (f"PUT {size_text(LARGE_OBJECT)} x8", put, 8),
        (f"GET {size_text(LARGE_OBJECT)} x8", get, 8),
        (f"{MANY_CONNECTIONS} connections, PUT 256 KiB", _puts(peer), MANY_CONNECTIONS),
    ):
        progress(says)
        found[says] = watched(peer, measure, plan, connections, seconds)
    return found


def _puts(peer: TailPeer) -> Plan:
    return Plan(peer.heads("PUT", "kv", "many", 2000, WRITTEN_BYTES), body=content(WRITTEN_BYTES))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tail", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default=SIZES, help=f"of the objects that are read (default {SIZES})")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each state in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flood", action="store_true", help="also beside PUTs as fast as they are taken")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures there")
    parser.add_argument("--save", action="store_true", help="also write them to the kept results, named by date")
    parser.add_argument("--smoke", action="store_true", help="a few seconds: does everything still run?")
    args = parser.parse_args(argv)
    if args.smoke:
        args.sizes, args.seconds, args.rounds = "4k", 0.5, 1
    sizes = [parse_size(text) for text in args.sizes.split(",")]
    states = (*STATES, FLOOD) if args.flood else STATES
    say(f"about {args.rounds * len(sizes) * len(states) * (args.seconds + 1) / 60 + 0.5:.0f} minutes")
    end_orderly()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recall-bench-")))
        peer = TailPeer(folder / "data")
        stack.callback(peer.stop)
        peer.start([], ())
        measure = Measure(loader.build(), folder)
        for size in sizes:
            peer.fill_pinned(size)
        samples: dict[tuple[int, str], list[Sample]] = {(size, state): [] for size in sizes for state in states}
        moved: dict[str, float] = {}
        for number in range(args.rounds):
            for size, state in samples:
                progress(f"round {number + 1}/{args.rounds}: {state} {size_text(size)}")
                before = peer.moves()
                plan = peer.reads(size)
                sample = asyncio.run(during(peer, state, measure, plan, args.connections, args.seconds))
                samples[size, state].append(sample)
                if state == "churn":
                    for name, count in peer.moves().items():
                        moved[name] = moved.get(name, 0.0) + count - before.get(name, 0.0)
        held = memory(peer, measure, min(args.seconds, 3.0))
    progress("")
    tails = [Tail.of(state, size, taken, samples[size, "quiet"]) for (size, state), taken in samples.items()]
    print(report(tails, moved, held))
    document = {
        **circumstances(),
        "tails": [asdict(tail) for tail in tails],
        "moved": moved,
        "memory": {says: {**asdict(most), "bad": bad} for says, (most, bad) in held.items()},
    }
    write(document, [args.json] if args.json else [], "tail" if args.save else "")
    return 1 if any(tail.bad for tail in tails) or any(bad for _, bad in held.values()) else 0


def report(tails: Sequence[Tail], moved: Mapping[str, float], held: Mapping[str, tuple[Resident, int]]) -> str:
    lines = [
        f"{'GET':>8}  {'state':<8}{'req/s':>8}{'p50 µs':>22}{'p99 µs':>26}{'p99.9 µs':>28}{'p99 / quiet':>20}{'bad':>5}"
    ]
    for tail in tails:
        lines.append(
            f"{size_text(tail.size):>8}  {tail.state:<8}{tail.rate.median:>8.0f}{tail.p50.text(0):>22}"
            f"{tail.p99.text(0):>26}{tail.p999.text(0):>28}{tail.p99_ratio.text(2):>20}{tail.bad or '':>5}"
        )
    lines.append(
        "moved meanwhile, in churn: " + ", ".join(f"{name} {count:.0f}" for name, count in moved.items() if count)
    )
    lines.append("")
    for says, (most, bad) in held.items():
        verdict = "" if most.own <= OWN_BYTES_MAX else f"  over {size_text(OWN_BYTES_MAX)}"
        lines.append(
            f"worker, {says:<34}{most.own / MIB:>7.0f} MiB + {most.mapped / MIB:.0f} mapped{verdict}{f'  bad {bad}' if bad else ''}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
