"""kill -9 for as long as you like: `make crash ARGS='--minutes 10 --rounds 0 --seed 1'`.

A round: the mixed load, one process, several, or all of them killed under it, and what the load has touched read back and
compared with the ledger. The load reads as well, and each of those reads is compared. A killed worker or keeper is not waited
for: the load and the reading go on with what is left, and the next kill may find it at its start. Every `FULL_EVERY` rounds and at
the end everything is read back and listed, `recall check` runs, and a child is killed at the next of the named stop points.
Exit status 1 at the first loss, error that nobody promised, or fault; the data directory is then kept.

Kind: shell of the tests. Spec: docs/RELIABILITY.md.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

from tests.crash.child import POINTS
from tests.crash.test_stops import kill_at
from tests.long.mixed import SETTINGS, Mixed
from tests.support.gateway import Gateway, wait_for

WORKERS: Final = 2
FULL_EVERY: Final = 10
"""Rounds from one look at everything to the next."""
PATIENCE_S: Final = 120.0
"""For a start on a machine that does other things beside: a run shall not end with that."""
VICTIMS: Final = ("worker-0", "worker-1", "keeper", "worker-0", "worker-1", "keeper", "supervisor", "everything")
"""In these proportions: the last two take a whole start, in which nothing else can be tried."""


class Run:
    """The gateway under attack, and what has been done to it."""

    def __init__(self, seed: int, path: Path) -> None:
        self._random = random.Random(seed)
        self._path = path
        self.gateway = Gateway(data_dir=path / "data", workers=WORKERS, settings=SETTINGS, start_s=PATIENCE_S)
        self.mixed = Mixed(seed, (self.gateway.access_key, self.gateway.secret_key))
        self.kills: Counter[str] = Counter()
        self.tiers: Counter[str] = Counter()
        self.rounds = self.read = self.stops = 0
        self._points = cycle(POINTS)
        self._victims: list[str] = []

    async def round(self) -> None:
        """Raises AssertionError with what was lost."""
        self.mixed.start()
        for _ in range(self._random.choice((1, 1, 2))):
            await asyncio.sleep(0.3 + 0.7 * self._random.random())  # the load's time, not a wait for something
            await self._kill()
        await asyncio.sleep(0.5 * self._random.random())
        await self.mixed.stop()
        self.rounds += 1
        await self._read_back(all_of_it=False)
        if self.rounds % FULL_EVERY == 0:
            await self.judge()

    async def judge(self) -> None:
        """Looks at everything. Raises AssertionError with what is wrong."""
        await self._read_back(all_of_it=True)
        checked = await asyncio.to_thread(self.gateway.command, "check")
        assert checked.returncode == 0, f"recall check: {checked.stdout}{checked.stderr}"
        await self._stop_point()

    async def _read_back(self, *, all_of_it: bool) -> None:
        self.read += await self.mixed.verify(all_of_it=all_of_it)
        assert not self.mixed.faults, "\n".join(self.mixed.faults[:20])

    async def _kill(self) -> None:
        """Kills the next victim: all of `VICTIMS` before one comes again, and only who runs."""
        if not self._victims:
            self._victims = self._random.sample(VICTIMS, len(VICTIMS))
        running = self.gateway.running() | {"everything"}
        victim = next((victim for victim in self._victims if victim in running), "everything")
        if victim in self._victims:
            self._victims.remove(victim)
        self.kills[victim] += 1
        if victim in ("supervisor", "everything"):
            await self.note_tiers()
            await asyncio.to_thread(self._restart, victim)
            self.mixed.target.port = self.gateway.port
        else:
            self.gateway.kill(victim)

    def _restart(self, victim: str) -> None:
        if victim == "everything":
            self.gateway.kill_all()
        else:
            self.gateway.kill(victim)
            wait_for(lambda: not self.gateway.running(), "the children have ended with it")
        self.gateway.start()

    async def note_tiers(self) -> None:
        """Adds up what the tiers have done since the gateway's last start, which is about to end."""

        def page() -> bytes:
            with urlopen(f"{self.gateway.endpoint}/recall/metrics", timeout=PATIENCE_S) as reply:
                return bytes(reply.read())

        try:
            text = await asyncio.to_thread(page)
        except (URLError, ConnectionError):
            return  # no worker is left to ask
        for name, number in re.findall(rb"^recall_(demotions|evictions|recalls)_total\S* (\S+)$", text, re.MULTILINE):
            self.tiers[name.decode()] += int(float(number))

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


async def attack(run: Run, minutes: float, rounds: int) -> bool:
    """Rounds until the time is over and so many were done; True when nothing was lost."""
    begun_s = said_s = time.monotonic()
    try:
        with run.gateway as gateway:
            run.mixed.target.port = gateway.port
            await run.mixed.create_buckets()
            while run.rounds < rounds or time.monotonic() - begun_s < 60 * minutes:
                await run.round()
                if time.monotonic() - said_s >= 60:
                    said_s = time.monotonic()
                    print(f"{(said_s - begun_s) / 60:.1f} min: {run}", flush=True)
            if run.rounds % FULL_EVERY:  # the last round has not looked at everything
                await run.judge()
            await run.note_tiers()
    except AssertionError as error:
        print(error)
        print(f"FAILED: {run}", flush=True)
        return False
    counts = run.mixed.counts + run.tiers
    print(", ".join(f"{what}: {number}" for what, number in sorted(counts.items())))
    print(f"nothing lost: seed {run.mixed.seed}, {(time.monotonic() - begun_s) / 60:.1f} min, {run}", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=1, help="go on until so many were done, however long it takes")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    path = Path(tempfile.mkdtemp(prefix="recall-crash-"))
    if asyncio.run(attack(Run(options.seed, path), options.minutes, options.rounds)):
        shutil.rmtree(path)
        return 0
    print(f"kept: {path}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
