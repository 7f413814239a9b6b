"""Everything at once, for as long as you like: `make soak ARGS='--minutes 10'`.

The mixed load beside objects that end by a TTL or by lifecycle rules of short days, notifications to a webhook, pools far
smaller than the load, and a worker killed every minute. Each minute all is read back and compared with the ledger. Sampled
meanwhile: memory, descriptors, size and readers of the indexes, what waits for webhooks and to be deleted in the backing store.
Exit status 1 when something was lost, an error came that nobody promised, or a straight line through the samples rises.

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
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

from bench.client import ClientError
from tests.crash.load import Caller
from tests.long.mixed import SETTINGS, Mixed, Reader, must
from tests.s3.test_notifications import ARN, Receiver
from tests.support.gateway import Gateway
from tiering.index import Index

WORKERS: Final = 2
START_S: Final = 120.0
PERIOD_S: Final = 60.0
"""Between two kills, two verifications, and two lines of progress."""
SAMPLE_S: Final = 2.0
RESTART_S: Final = 5.0
"""How long after a kill connections may be lost."""
CHURNERS: Final = 2
CHURNED: Final = 300
END_S: Final = 60.0
"""Time for what is to end, and for what waits, when the load is over."""
_MIB: Final = 1 << 20
GROWTH: Final = {
    "keeper RSS": 16 * _MIB,
    "worker RSS": 32 * _MIB,
    "descriptors": 48,
    "index bytes": 8 * _MIB,
    "index file bytes": 64 * _MIB,
    "index readers": 32,
    "events": 2000,
    "tombstones": 2000,
}
"""What each series may rise along its line within the run after the warm-up; or by a quarter of its mean, if that is more.

The file of an index is as long as it ever was: it holds what was written in the longest moment a reader was held up, on a
busy machine hundreds of commits. What may not grow is what rows take of it.
"""
_VERSIONS: Final = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
_RULES: Final = (
    b"<LifecycleConfiguration><Rule><ID>r</ID><Status>Enabled</Status><Filter/><Expiration><Days>1</Days></Expiration>"
    b"<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration></Rule>"
    b"</LifecycleConfiguration>"
)
_NOTIFY: Final = (
    f"<NotificationConfiguration><QueueConfiguration><Queue>{ARN}</Queue><Event>s3:ObjectCreated:*</Event>"
    "<Event>s3:ObjectRemoved:*</Event></QueueConfiguration></NotificationConfiguration>"
).encode()


def rise(samples: list[tuple[float, float]]) -> float:
    """How far the least-squares line through (time, value) rises from the first sample to the last."""
    if len(samples) < 8:
        return 0.0
    mean_s = sum(at for at, _ in samples) / len(samples)
    mean = sum(value for _, value in samples) / len(samples)
    spread = sum((at - mean_s) ** 2 for at, _ in samples)
    slope = sum((at - mean_s) * (value - mean) for at, value in samples) / spread
    return slope * (samples[-1][0] - samples[0][0])


class Samples:
    """Series by name. The first third of a run is its warm-up."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._pools = sorted((gateway.data_dir / "pools").iterdir())
        self._indexes = [Index(path / "index", synced=False, readonly=True) for path in self._pools]
        self.series: dict[str, list[tuple[float, float]]] = {name: [] for name in GROWTH}

    def take(self) -> None:
        now = time.monotonic()
        memory: dict[str, list[float]] = {"keeper": [], "worker": []}
        descriptors = 0
        for name, pid in self._gateway.pids().items():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just been killed
            found = re.search(r"VmRSS:\s+(\d+) kB", status)
            memory.setdefault(name.partition("-")[0], []).append(1024 * int(found[1]) if found else 0)
        for name, values in memory.items():
            if values and f"{name} RSS" in self.series:
                self.series[f"{name} RSS"].append((now, max(values)))
        self.series["descriptors"].append((now, descriptors))
        self.series["index file bytes"].append(
            (now, sum((path / "index/data.mdb").stat().st_size for path in self._pools))
        )
        self.series["index bytes"].append((now, self.used_bytes()))
        readers = sum(index._env.info()["num_readers"] for index in self._indexes)
        self.series["index readers"].append((now, readers))
        for name in ("events", "tombstones"):
            self.series[name].append((now, self.rows(name)))

    def used_bytes(self) -> int:
        """What the rows of all indexes take."""
        total = 0
        for index in self._indexes:
            with index.view() as view:
                total += view.used_bytes()
        return total

    def rows(self, name: str) -> int:
        """How many rows a table has, in all pools."""
        total = 0
        for index in self._indexes:
            with index.view() as view:
                total += view.count(name)
        return total

    def faults(self) -> list[str]:
        return [
            f"{name} rose by {rose:.0f}, its mean is {mean:.0f}"
            for name, (mean, rose, most) in self._lines()
            if rose > most
        ]

    def __str__(self) -> str:
        """Means and rises; what is in bytes in MiB."""
        units = {name: _MIB if name.endswith(("RSS", "bytes")) else 1 for name in GROWTH}
        return ", ".join(
            f"{name} {mean / units[name]:.1f} {rose / units[name]:+.1f}" for name, (mean, rose, _) in self._lines()
        )

    def _lines(self) -> list[tuple[str, tuple[float, float, float]]]:
        lines = []
        for name, samples in self.series.items():
            judged = samples[len(samples) // 3 :]
            if judged:
                mean = sum(value for _, value in judged) / len(judged)
                rose = rise(judged)
                lines.append((name, (mean, rose, max(GROWTH[name], mean / 4))))
        return lines

    def close(self) -> None:
        for index in self._indexes:
            index.close()


class Churn(Caller):
    """Writes what ends by itself, and reads it back while it is there."""

    def __init__(self, soak: Soak, name: int) -> None:
        super().__init__(soak.mixed.target)
        self._mixed = soak.mixed
        self._random = random.Random(f"{soak.mixed.seed}/churn/{name}")

    async def run(self) -> None:
        while not self._mixed.stopping:
            bucket = self._random.choice(("short", "ruled"))
            path = f"/{bucket}/{self._random.randrange(CHURNED)}"
            ttl = {"x-recall-ttl": str(self._random.randint(1, 4))} if bucket == "short" else {}
            size = self._random.choice((10, 3000, 40_000))
            writes = self._random.random() < 0.5
            try:
                if writes:
                    status, text = await self.ask("PUT", path, bytes(size), headers=ttl)
                else:
                    status, text = await self.ask("GET", path)
            except ClientError as error:
                self._mixed.lose(error, cut=not writes)
                self.close()
                await asyncio.sleep(0.05)
                continue
            self._mixed.counts[f"churn {status}"] += 1
            if status not in (200, 404, 503):
                self._mixed.faults.append(f"{path}: status {status}: {text[:300]!r}")
        self.close()


class Soak:
    """The gateway, its load, and what has been sampled."""

    def __init__(self, seed: int, path: Path) -> None:
        self._random = random.Random(seed)
        self.receiver = Receiver()
        more = {"lifecycle_day_s": "2s", "notify_webhooks": f"hook=http://127.0.0.1:{self.receiver.port}/events"}
        self.gateway = Gateway(data_dir=path / "data", workers=WORKERS, settings={**SETTINGS, **more}, start_s=START_S)
        self.mixed = Mixed(seed, (self.gateway.access_key, self.gateway.secret_key))
        self.kills: list[float] = []
        self.read = 0
        self.tiers: Counter[str] = Counter()

    async def prepare(self) -> None:
        await self.mixed.create_buckets()
        caller = Caller(self.mixed.target)
        for bucket in ("short", "ruled"):
            await must(caller, "PUT", f"/{bucket}")
        await must(caller, "PUT", "/ruled", _VERSIONS, "versioning=")
        await must(caller, "PUT", "/ruled", _RULES, "lifecycle=")
        for bucket in ("plain", "versioned", "short"):
            await must(caller, "PUT", f"/{bucket}", _NOTIFY, "notification=")
        caller.close()

    async def period(self, seconds: float, samples: Samples) -> None:
        """Load for so long with one kill in the middle, then everything is read back."""
        self.mixed.start()
        churners = [asyncio.create_task(Churn(self, name).run()) for name in range(CHURNERS)]
        kill_s, end_s = time.monotonic() + seconds / 2, time.monotonic() + seconds
        while (now_s := time.monotonic()) < end_s:
            if now_s >= kill_s:
                kill_s = end_s
                self.kills.append(now_s)
                self.gateway.kill(f"worker-{self._random.randrange(WORKERS)}")
            await asyncio.to_thread(samples.take)
            await asyncio.sleep(min(SAMPLE_S, max(0.0, end_s - now_s)))
        await self.mixed.stop()
        await asyncio.gather(*churners)
        self.read += await self.mixed.verify()

    async def settle(self, samples: Samples) -> None:
        """What ends by itself has ended, every event is delivered, nothing waits to be deleted in the backing store."""
        reader = Reader(self.mixed.target)
        waiting: dict[str, Any] = {}
        deadline_s = time.monotonic() + END_S
        while time.monotonic() < deadline_s:
            for bucket in ("short", "ruled"):
                waiting[bucket] = (await reader.patient(f"/{bucket}", "versions="))[1].count(b"<Key>")
            waiting |= {name: samples.rows(name) for name in ("events", "tombstones")}
            if not any(waiting.values()):
                break
            await asyncio.sleep(0.5)  # polling, with the deadline above
        else:
            self.mixed.faults.append(f"still there {END_S:.0f} s after the load: {waiting}")
        with await asyncio.to_thread(urlopen, f"{self.gateway.endpoint}/recall/metrics", timeout=30) as reply:
            text = reply.read()
        for name, number in re.findall(rb"^recall_(demotions|evictions|recalls|expired|lifecycle_actions)_total\S* (\S+)$", text, re.M):  # fmt: skip
            self.tiers[name.decode()] += int(float(number))
        reader.close()

    def faults(self) -> list[str]:
        odd = [
            f"a connection was lost without a kill: {why}"
            for at_s, why in self.mixed.losses
            if not any(0 <= at_s - kill_s < RESTART_S for kill_s in self.kills)
        ]
        return self.mixed.faults + odd

    def __str__(self) -> str:
        counts = self.mixed.counts
        acknowledged = sum(number for what, number in counts.items() if what.endswith((" 200", " 204")))
        slow = sum(number for what, number in counts.items() if what.endswith((" 503", " 507")))
        return (
            f"{acknowledged} requests acknowledged, {slow} told to come again, {counts['lost 0']} lost their connection "
            f"at {len(self.kills)} kills; {self.read} versions read back; {len(self.receiver.taken)} events delivered"
        )


async def soak(seed: int, minutes: float, path: Path) -> bool:
    """True when nothing was lost, nothing odd was answered and nothing grew."""
    begun_s = time.monotonic()
    run = Soak(seed, path)
    faults: list[str] = []
    lines = ""
    try:
        with run.gateway as gateway:
            run.mixed.target.port = gateway.port
            await run.prepare()
            samples = Samples(gateway)
            while not faults and (left_s := 60 * minutes - (time.monotonic() - begun_s)) > 0:
                await run.period(min(PERIOD_S, max(2.0, left_s)), samples)
                faults, lines = run.faults(), str(samples)
                print(f"{(time.monotonic() - begun_s) / 60:.1f} min: {run}; {lines}", flush=True)
            if not faults:
                await run.settle(samples)
                faults = run.faults() + samples.faults()
            checked = await asyncio.to_thread(gateway.command, "check")
            if checked.returncode:
                faults.append(f"recall check: {checked.stdout}{checked.stderr}")
            samples.close()
    finally:
        run.receiver.stop()
    print(", ".join(f"{what}: {number}" for what, number in sorted((run.mixed.counts + run.tiers).items())))
    for fault in faults[:20]:
        print(fault)
    verdict = "FAILED" if faults else "nothing lost, nothing grew"
    print(
        f"{verdict}: seed {seed}, {(time.monotonic() - begun_s) / 60:.1f} min, {run}; mean and rise: {lines}",
        flush=True,
    )
    return not faults


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    path = Path(tempfile.mkdtemp(prefix="recall-soak-"))
    if asyncio.run(soak(options.seed, options.minutes, path)):
        shutil.rmtree(path)
        return 0
    print(f"kept: {path}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
