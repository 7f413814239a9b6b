"""kill -9 for as long as you like: `make crash ARGS='--minutes 10 --seed 1'`.

A round: the mixed load, a random process (or all of them) killed once or twice under it, everything read back and compared with
the ledger, `recall check`, and a child killed at the next of the named stop points. Exit status 1 at the first loss, error
that nobody promised, or fault; the data directory is then kept.

Kind: shell of the tests. Spec: docs/RELIABILITY.md.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Final

from tests.crash.child import POINTS
from tests.crash.test_kill import _start_again
from tests.crash.test_stops import test_killed_at_a_named_point_everything_agrees_again as kill_at
from tests.long.mixed import SETTINGS, Mixed
from tests.support.gateway import Gateway

WORKERS: Final = 2
PATIENCE_S: Final = 120.0
"""For a start on a machine that does other things beside: a run shall not end with that."""
VICTIMS: Final = ("worker-0", "worker-1", "keeper", "supervisor", "everything")


class Run:
    """The gateway under attack, and what has been done to it."""

    def __init__(self, seed: int, path: Path) -> None:
        self._random = random.Random(seed)
        self._path = path
        self.gateway = Gateway(data_dir=path / "data", workers=WORKERS, settings=SETTINGS, start_s=PATIENCE_S)
        self.mixed = Mixed(seed, (self.gateway.access_key, self.gateway.secret_key))
        self.kills: Counter[str] = Counter()
        self.rounds = self.read = self.stops = 0
        self._points = cycle(POINTS)

    async def round(self) -> None:
        """Raises AssertionError with what was lost."""
        self.mixed.start()
        for _ in range(self._random.choice((1, 1, 2))):
            await asyncio.sleep(0.5 + self._random.random())  # the load's time, not a wait for something
            await self._kill(self._random.choice(VICTIMS))
        await asyncio.sleep(self._random.random())
        await self.mixed.stop()
        self.read += await self.mixed.verify()
        assert not self.mixed.faults, "\n".join(self.mixed.faults[:20])
        checked = await asyncio.to_thread(self.gateway.command, "check")
        assert checked.returncode == 0, f"recall check: {checked.stdout}{checked.stderr}"
        await self._stop_point()
        self.rounds += 1

    async def _kill(self, victim: str) -> None:
        self.kills[victim] += 1
        if victim == "everything":
            await asyncio.to_thread(self.gateway.kill_all)
            await asyncio.to_thread(self.gateway.start)
        else:
            pid = self.gateway.kill(victim)
            if victim == "supervisor":
                await asyncio.to_thread(_start_again, self.gateway)
            else:
                await asyncio.to_thread(self.gateway.wait_restarted, victim, pid, PATIENCE_S)
        self.mixed.target.port = self.gateway.port

    async def _stop_point(self) -> None:
        path = self._path / f"stop-{self.stops}"
        path.mkdir()
        await asyncio.to_thread(kill_at, next(self._points), path)
        shutil.rmtree(path)
        self.stops += 1

    def __str__(self) -> str:
        acknowledged = sum(number for what, number in self.mixed.counts.items() if what.endswith((" 200", " 204")))
        kills = ", ".join(f"{victim} {number}" for victim, number in sorted(self.kills.items()))
        return (
            f"{self.rounds} rounds, kills: {kills}; {self.stops} stop points; {acknowledged} requests acknowledged, "
            f"{self.mixed.counts['lost 0']} lost their connection; {self.read} versions read back"
        )


async def attack(seed: int, minutes: float, path: Path) -> bool:
    """Rounds until the time is over, at least one; True when nothing was lost."""
    begun_s = said_s = time.monotonic()
    run = Run(seed, path)
    try:
        with run.gateway as gateway:
            run.mixed.target.port = gateway.port
            await run.mixed.create_buckets()
            while not run.rounds or time.monotonic() - begun_s < 60 * minutes:
                await run.round()
                if time.monotonic() - said_s >= 60:
                    said_s = time.monotonic()
                    print(f"{(said_s - begun_s) / 60:.1f} min: {run}", flush=True)
    except AssertionError as error:
        print(error)
        print(f"FAILED: seed {seed}, {run}", flush=True)
        return False
    print(", ".join(f"{what}: {number}" for what, number in sorted(run.mixed.counts.items())))
    print(f"nothing lost: seed {seed}, {(time.monotonic() - begun_s) / 60:.1f} min, {run}", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    path = Path(tempfile.mkdtemp(prefix="recall-crash-"))
    if asyncio.run(attack(options.seed, options.minutes, path)):
        shutil.rmtree(path)
        return 0
    print(f"kept: {path}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
