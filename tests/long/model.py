"""The model of the tiers for as long as you like: `make model ARGS='--minutes 10 --operations 0 --seed 1'`.

Batches of long histories of each kind of world (`tests/model/test_model.py`), in several processes. A batch's seed repeats it:
`--only standard:17`. A history that goes wrong is printed with its batch, and the run goes on; exit status 1 at the end.

Kind: shell of the tests. Spec: docs/RELIABILITY.md.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count
from multiprocessing import get_context
from typing import Final, NamedTuple

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.test_model import Machine, Tiers, TiersOfBlocks, TiersOfCache, TiersOfVersions

KINDS: Final[dict[str, type[Machine]]] = {
    "standard": Tiers,
    "kv": TiersOfBlocks,
    "cache": TiersOfCache,
    "versions": TiersOfVersions,
}
HISTORIES: Final = 12
STEPS: Final = 500
"""Of a batch, and of a history."""
AUDIT_EVERY: Final = 20
SPACE_WAIT_S: Final = 0.1


class Batch(NamedTuple):
    """What became of a batch: `operations` are calls of the engine, `failure` "" when nothing went wrong."""

    name: str
    histories: int
    steps: int
    operations: int
    failure: str


def batch(kind: str, number: int, histories: int = HISTORIES, steps: int = STEPS) -> Batch:
    """Runs one batch."""
    found: Counter[str] = Counter()

    class Counted(KINDS[kind]):  # type: ignore[misc]
        audit_every = AUDIT_EVERY
        space_wait_s = SPACE_WAIT_S

        def teardown(self) -> None:
            if hasattr(self, "world"):
                found.update(histories=1, steps=self.steps, operations=self.world.calls)
            super().teardown()

    bounds = settings(
        max_examples=histories,
        stateful_step_count=steps,
        phases=(Phase.generate,),  # a history of threads and disks is seldom the same twice: shortening one takes hours
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    failure = ""
    try:
        run_state_machine_as_test(seed(number)(Counted), settings=bounds)
    except Exception:
        failure = traceback.format_exc()
    return Batch(f"{kind}:{number}", found["histories"], found["steps"], found["operations"], failure)


class Run:
    """Sums of the batches that are done."""

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()
        self.failed: list[str] = []

    def note(self, done: Batch) -> None:
        self.sums.update(histories=done.histories, steps=done.steps, operations=done.operations)
        self.sums[done.name.partition(":")[0]] += done.operations
        if done.failure:
            self.failed.append(done.name)
            print(f"--- {done.name} ---\n{done.failure}", flush=True)

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {self.sums[kind]}" for kind in KINDS)
        return f"{self.sums['operations']} operations ({kinds}) in {self.sums['steps']} steps of {self.sums['histories']} histories"


def drive(first: int, minutes: float, operations: int, jobs: int) -> bool:
    """Batches until the time is over and so many operations were done; True when no history went wrong."""
    begun_s = said_s = time.monotonic()
    run = Run()
    numbers: Iterator[tuple[str, int]] = ((kind, number) for number in count(first) for kind in KINDS)
    # A process is of no further use after some batches: hypothesis keeps what it has tried.
    with ProcessPoolExecutor(jobs, get_context("spawn"), max_tasks_per_child=4) as pool:
        running: set[Future[Batch]] = set()
        while running or not run.sums["operations"]:
            more = run.sums["operations"] < operations or time.monotonic() - begun_s < 60 * minutes
            while more and len(running) < jobs:
                running.add(pool.submit(batch, *next(numbers)))
            done, running = wait(running, timeout=60, return_when=FIRST_COMPLETED)
            for each in done:
                run.note(each.result())
            if time.monotonic() - said_s >= 60:
                said_s = time.monotonic()
                print(f"{(said_s - begun_s) / 60:.1f} min: {run}", flush=True)
    verdict = f"FAILED in {', '.join(run.failed)}" if run.failed else "nothing lost"
    print(f"{verdict}: seed {first}, {(time.monotonic() - begun_s) / 60:.1f} min, {run}", flush=True)
    return not run.failed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--operations", type=int, default=1, help="go on until so many were done, however long it takes"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--only", default="", metavar="KIND:SEED", help="repeat one batch")
    options = parser.parse_args()
    if options.only:
        kind, _, number = options.only.partition(":")
        done = batch(kind, int(number))
        print(done.failure or done)
        return bool(done.failure)
    print(f"seed {options.seed}", flush=True)
    return not drive(options.seed, options.minutes, options.operations, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
