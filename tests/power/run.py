"""The power goes: a gateway under load is recorded, and started again on what its disk may hold at any point of the record.

Promise: at each point `recall check` is clean, what was acknowledged in a pool of durability `flash` is there, and what a
`relaxed` pool has is what somebody once wrote. The ledger of the load is in the same log as the writes, so that which of them
came first is known.

Owns the recorder, the images and the gateways started on them. Does not know what is in the files. Kind: shell of the tests
(Linux, a C compiler). Spec: docs/SEMANTICS.md, "Durability".
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import pickle
import random
import shutil
import signal
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway import config, keeper, keys, log, maintenance, worker
from gateway.credentials import Credentials
from gateway.datadir import DataDir
from gateway.runner import KEEPER_STOP, Briefing, Ready, _die_with
from tests.long.mixed import Mixed, Pair, Pieces, Reader, State, unnumbered
from tests.power.disk import Disk, Kind, differences, events, mark
from tests.support.gateway import ACCESS_KEY, SECRET_KEY, Gateway
from tiering.heat import stamp_of

CLIENTS: Final = 4
PAIRS: Final = 2
START_S: Final = 120.0
RELAXED: Final = "kv-blocks"
EARLIER_BOOT: Final = b"00000000-0000-4000-8000-000000000000"
SETTINGS: Final = {
    name: value
    for pool in ("standard", "kv")
    for name, value in {
        f"pools.{pool}.capacity_bytes": "12MiB",
        f"pools.{pool}.region_bytes": "128KiB",
        f"pools.{pool}.demote_after_s": "200ms",
        f"pools.{pool}.space_wait_s": "2s",
    }.items()
}


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc")


def build_recorder(path: Path) -> Path:
    """Compiles the recorder into a folder. Raises CalledProcessError."""
    library = path / "recorder.so"
    source = Path(__file__).with_name("recorder.c")
    command = [str(compiler()), "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library


class MarkedPair(Pair):
    """Writes every change of what is allowed into the log: before the request, and after its reply."""

    number = -1
    log_fd = -1

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "allowed" and self.log_fd >= 0:
            mark(self.log_fd, pickle.dumps((self.number, value)))


class Ledger:
    """What may be there at a point of the log, for each pair; of relaxed pools all that may ever have been there."""

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = pairs
        self.allowed: list[set[State]] = [set(pair.allowed) for pair in pairs]
        self.ever: list[set[Pieces]] = [set() for _ in pairs]
        for number in range(len(pairs)):
            self._note(number)

    def _note(self, number: int) -> None:
        for state in self.allowed[number]:
            self.ever[number] |= {kept.pieces for versions in state for kept in versions if kept.pieces is not None}

    def apply(self, payload: bytes) -> None:
        number, allowed = pickle.loads(payload)
        self.allowed[number] = allowed
        self._note(number)

    def fault(self, number: int, state: State) -> str | None:
        """What is wrong with a state that was found."""
        pair = self.pairs[number]
        if pair.bucket == RELAXED:
            for versions in state:
                for kept in versions:
                    if kept.pieces not in self.ever[number]:
                        return f"{pair.bucket}/{pair.keys} is {state}, which nobody wrote"
            return None
        if any(unnumbered(allowed) == state for allowed in self.allowed[number]):
            return None
        states = " or ".join(str(unnumbered(allowed)) for allowed in self.allowed[number])
        return f"{pair.bucket}/{pair.keys} is {state}, should be {states}"


@dataclass
class Recording:
    """A load that has been recorded. `data`: the folder; `settings` as the gateway was given them."""

    data: Path
    log: Path
    mixed: Mixed
    start: Disk
    ledger: Ledger
    settings: dict[str, str]


def record(
    library: Path, path: Path, data: Path, seconds: float, mixed: Mixed, settings: dict[str, str], fresh: bool
) -> Recording:
    """Runs a gateway with two workers on `data` under load. Raises AssertionError when the load saw a fault by itself."""
    log_path = path / "log"
    start = Disk(data)
    pairs = mixed.everything
    ledger = Ledger(pairs)
    environment = {"LD_PRELOAD": str(library), "RECORDER_LOG": str(log_path), "RECORDER_ROOT": str(data)}
    gateway = Gateway(data_dir=data, workers=2, settings=settings, env=environment, start_s=START_S)
    log_fd = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with gateway:
            for pair in pairs:
                assert isinstance(pair, MarkedPair)
                pair.log_fd = log_fd
            asyncio.run(_load(mixed, gateway, seconds, fresh, log_fd))
    finally:
        for pair in pairs:
            if isinstance(pair, MarkedPair):
                pair.log_fd = -1
        os.close(log_fd)
    assert not mixed.faults, "\n".join(mixed.faults[:20])
    return Recording(data, log_path, mixed, start, ledger, settings)


READY: Final = b"the buckets are there"


async def _load(mixed: Mixed, gateway: Gateway, seconds: float, fresh: bool, log_fd: int) -> None:
    mixed.target.port = gateway.port
    if fresh:
        await mixed.create_buckets()
    mark(log_fd, READY)
    mixed.start()
    await asyncio.sleep(seconds)  # the load's time, not a wait for something
    await mixed.stop()


@dataclass
class Trial:
    """What was tried and found."""

    points: int = 0
    read: int = 0
    records: int = 0
    set_aside: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.points} points in {self.records} records, {self.read} versions read back, "
            f"{self.set_aside} times a relaxed index set aside"
        )


def try_points(
    recording: Recording, path: Path, rng: random.Random, count: int, trial: Trial, more: Callable[[], bool]
) -> Path | None:
    """Cuts the power at `count` points, in their order; the last image is left, to go on from. None: a fault was found."""
    with open(recording.log, "rb") as stream:
        chosen = _choose(stream, rng, count)
    disk, ledger = recording.start, recording.ledger
    image: Path | None = None
    with open(recording.log, "rb") as stream:
        for number, event in enumerate(events(stream)):
            if event.kind != Kind.MARK:
                disk.apply(event)
            elif event.payload != READY:
                ledger.apply(event.payload)
            if number in chosen and more():
                if image is not None:
                    shutil.rmtree(image)
                image = path / f"image-{trial.points}"
                if not _try(recording, disk, ledger, image, rng, trial, number):
                    return None
        else:
            trial.faults += differences(disk.root, recording.data)
            if trial.faults:
                return None
    trial.records += disk.sequence
    return image


def _choose(stream: Any, rng: random.Random, count: int) -> set[int]:
    """Half of the points anywhere, half just behind what order hangs on."""
    numbers: list[int] = []
    telling: list[int] = []
    began = False
    for number, event in enumerate(events(stream)):
        began = began or (event.kind == Kind.MARK and event.payload == READY)
        if began:
            numbers.append(number)
            if event.kind not in (Kind.WRITTEN, Kind.SYNC_BEGUN):
                telling.append(number)
    half = rng.sample(telling, min(len(telling), count // 2))
    return set(half) | set(rng.sample(numbers, min(len(numbers), count - len(half))))


def _try(
    recording: Recording, disk: Disk, ledger: Ledger, image: Path, rng: random.Random, trial: Trial, number: int
) -> bool:
    dice = rng.getstate()
    fate = disk.write_image(image, rng, stamp_of(EARLIER_BOOT))
    aside_before = len(list(image.glob("pools/*/index.broken-*")))
    trial.points += 1
    output = io.StringIO()
    try:
        with revived(image, recording.settings) as (port, settings):
            faults = asyncio.run(_judge(ledger, recording.mixed, port, trial))
        faults += _audited(settings, output)
        if not faults and rng.random() < 0.2:  # and once more, with what the duties have done since
            with revived(image, recording.settings) as (port, settings):
                faults = asyncio.run(_judge(ledger, recording.mixed, port, trial))
            faults += _audited(settings, output)
    except Exception:
        faults = [traceback.format_exc()]
    trial.set_aside += len(list(image.glob("pools/*/index.broken-*"))) - aside_before
    if faults:
        again, kept = random.Random(), image.with_name("kept")
        again.setstate(dice)
        disk.write_image(kept, again, stamp_of(EARLIER_BOOT))
        log_text = image.with_name(image.name + ".log")
        said = log_text.read_text()[-4000:] if log_text.exists() else ""
        trial.faults += [f"record {number}, {fate}, kept as {kept}", *faults, said]
    return not faults


async def _judge(ledger: Ledger, mixed: Mixed, port: int, trial: Trial) -> list[str]:
    """Reads everything that the gateway on an image has."""
    mixed.target.port = port
    numbers = iter(range(len(ledger.pairs)))
    faults: list[str] = []

    async def work() -> None:
        reader = Reader(mixed.target)
        for number in numbers:
            state, ids = await reader.observe(ledger.pairs[number])
            trial.read += len(ids)
            fault = ledger.fault(number, state)
            if fault is not None:
                faults.append(fault)
        reader.close()

    await asyncio.gather(*(work() for _ in range(4)))
    return faults


def _audited(settings: config.Settings, output: io.StringIO) -> list[str]:
    """The faults of `recall check`, but for bytes of a relaxed pool that nobody has asked for: those may be torn, and what has
    no others is lost, such as a part of an upload under way."""
    maintenance.check(settings, output)
    pool = ""
    faults = []
    for line in output.getvalue().splitlines():
        if line.startswith("pool "):
            pool = line.split()[1].rstrip(":")
            if "cannot be read" in line:
                faults.append(line)
        elif not (pool == "kv" and ("bytes fail their checksum" in line or line.startswith("  lost: "))):
            faults.append(f"{pool}: {line}")
    return faults


@contextlib.contextmanager
def revived(data: Path, settings: dict[str, str]) -> Iterator[tuple[int, config.Settings]]:
    """A keeper and a worker on a folder, as the supervisor starts them, but forked: a start costs no imports."""
    overrides = [("data_dir", str(data)), ("listen", "127.0.0.1:0"), *settings.items()]
    loaded = config.load({}, overrides=overrides)
    credentials = Credentials(ACCESS_KEY, SECRET_KEY)
    held = DataDir(loaded)
    children: list[int] = []
    try:
        ring = keys.load(held.path, "", {})
        briefing = Briefing(loaded, credentials, keys=ring)
        said = data.with_name(data.name + ".log")
        _fork(children, said, lambda ready: keeper.run(briefing, ready), "keeper")
        port = _fork(children, said, lambda ready: worker.run(briefing, 0, ready), "worker-0")
        yield port, loaded
        for pid, number in ((children[1], signal.SIGTERM), (children[0], KEEPER_STOP)):
            os.kill(pid, number)
            _, status = os.waitpid(pid, 0)
            children.remove(pid)
            assert status == 0, f"a process ended with {status}"
        said.unlink(missing_ok=True)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        held.close()


def _fork(children: list[int], said: Path, run: Callable[[Ready], None], name: str) -> int:
    """Starts a child and waits until it is ready; returns its port, 0 without one."""
    reading, writing = os.pipe()
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            _die_with(parent)
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
            log.start(name, "info")

            def ready(port: int | None) -> None:
                os.write(writing, b"%d\n" % (port or 0))
                os.close(writing)

            run(ready)
            status = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)
    children.append(pid)
    os.close(writing)
    with open(reading, "rb") as stream:
        line = stream.readline()
    assert line, f"the {name} did not start"
    return int(line)


def make_mixed(seed: int) -> Mixed:
    """A load whose pairs are marked in the log."""
    mixed = Mixed(seed, (ACCESS_KEY, SECRET_KEY), clients=CLIENTS, pairs=PAIRS)
    mixed.pairs = [[MarkedPair(pair.bucket, pair.keys, pair.versioned) for pair in pairs] for pairs in mixed.pairs]
    mixed.everything = [pair for pairs in mixed.pairs for pair in pairs]
    for number, pair in enumerate(mixed.everything):
        pair.number = number  # type: ignore[attr-defined]
    return mixed


def attack(seed: int, minutes: float, path: Path, seconds: float, points: int) -> bool:
    """Segments until the time is over, at least one; True when nothing was lost. Prints its progress and a verdict."""
    begun_s = time.monotonic()
    rng = random.Random(seed)
    library = build_recorder(path)
    trial = Trial()
    counts: Counter[str] = Counter()
    segments = 0
    mixed, data = make_mixed(seed), None

    def more() -> bool:
        return segments == 0 or time.monotonic() - begun_s < 60 * minutes

    while more():
        fresh = data is None or rng.random() < 0.3
        if fresh:
            mixed = make_mixed(rng.getrandbits(32))
            shutil.rmtree(path / "data", ignore_errors=True)
            data = path / "data"
            data.mkdir(0o700)
            chosen = {"pools.kv.demote": rng.choice(("eager", "pressure"))}
            settings = SETTINGS | chosen
        recording = record(library, path, path / "data", seconds, mixed, settings, fresh)
        counts.update(mixed.counts)
        mixed.counts.clear()
        image = try_points(recording, path, rng, points, trial, more)
        if trial.faults:
            print("\n".join(trial.faults))
            print(f"FAILED: seed {seed}, segment {segments}, {trial}", flush=True)
            return False
        segments += 1
        recording.log.unlink()
        shutil.rmtree(path / "data")
        data = None
        if image is not None:
            data = image.rename(path / "data")
            _settle(mixed, data, settings)
        print(f"{(time.monotonic() - begun_s) / 60:.1f} min: {segments} segments, {trial}", flush=True)
    acknowledged = sum(number for what, number in counts.items() if what.endswith((" 200", " 204")))
    print(", ".join(f"{what}: {number}" for what, number in sorted(counts.items())))
    print(
        f"nothing lost: seed {seed}, {(time.monotonic() - begun_s) / 60:.1f} min, {segments} segments, "
        f"{acknowledged} requests acknowledged, {trial}",
        flush=True,
    )
    return True


def _settle(mixed: Mixed, data: Path, settings: dict[str, str]) -> None:
    """What is there after the power loss is what the next segment begins with."""

    async def look(port: int) -> None:
        mixed.target.port = port
        reader = Reader(mixed.target)
        # It was made by an early load, and a relaxed index that is younger than its last sync may be gone with all it said.
        status, text = await reader.ask("PUT", f"/{RELAXED}")
        assert status in (200, 409), text
        for pair in mixed.everything:
            state, _ = await reader.observe(pair)
            same = [allowed for allowed in pair.allowed if unnumbered(allowed) == state]
            pair.allowed, pair.begun = {same[0] if same else state}, []
        reader.close()

    with revived(data, settings) as (port, _):
        asyncio.run(look(port))
