"""A process killed at each point where one store knows what another does not yet: reopened, everything agrees again.

Kind: tests. Spec: docs/SEMANTICS.md, "Durability"; the points are those of `tests.crash.child`.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance import steps
from tests.crash.child import POINTS
from tests.crash.stage import DAY_S, Receiver, is_rebuild, open_engine, rebuild, take_back, walker
from tests.model.world import compare_backing, pattern
from tests.support.engine import Engine
from tests.support.gateway import ROOT
from tiering.backing.directory import DirectoryBacking
from tiering.contract import NoSuchKey
from tiering.index import IndexCorrupt


def run(path: Path, *points: str) -> dict[str, int]:
    """How the children ended, by point."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.crash.child", str(path), *points],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=True,
    )
    return {point: int(status) for point, status in map(str.split, child.stdout.splitlines())}


def kill_at(point: str, path: Path) -> None:
    """One point, from the start to the verdict. Raises AssertionError."""
    judge(path / point, run(path, point)[point])


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """All points, killed by forks of one process: most of a child's time would be its imports."""
    path = tmp_path_factory.mktemp("stops")
    return path, run(path, *POINTS)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_named_point_everything_agrees_again(point: str, ended: tuple[Path, dict[str, int]]) -> None:
    judge(ended[0] / point, ended[1][point])


def judge(path: Path, status: int) -> None:
    """Opens again what a process has left that was killed at the point the folder is named after."""
    assert status == -signal.SIGKILL, "the point was never reached"
    promised = Promised()
    for line in (path / "said").read_text().splitlines():
        promised.note(*line.split())
    assert promised.contents
    asyncio.run(_judge(path, promised))


class Promised:
    """What the killed process was told, or may find."""

    def __init__(self) -> None:
        self.contents: dict[str, list[bytes | None]] = {}
        """What a key may give; None: that it is not there. The last one is what it was promised, if it was."""
        self.lost: set[str] = set()
        self.told: list[str] = []

    def note(self, verb: str, *words: str) -> None:
        if verb == "loses":
            self.lost.add(words[0])
        elif verb == "tells":
            self.told.append(words[0])
        else:
            key, content = (words[1], None) if words[0] == "not" else (words[0], pattern(int(words[2]), int(words[1])))
            self.contents[key] = [*(self.contents.get(key, ()) if verb == "may" else ()), content]


async def _judge(path: Path, promised: Promised) -> None:
    backing = DirectoryBacking(str(path / "backing"), create=True)  # some die before anything is put there
    if is_rebuild(path.name):
        await _start_and_rebuild(path, backing)
    engine = await open_engine(path, backing, path.name)
    await take_back(engine)
    await engine.audit()
    await _compare(engine, promised)
    await engine.settle()
    if promised.lost:
        await _walk(path, engine, promised)
    if promised.told:
        await _tell(path, engine, promised)
    await engine.settle()
    await engine.audit()
    await compare_backing(engine)
    await _compare(engine, promised)
    await engine.close()
    await backing.close()


async def _start_and_rebuild(path: Path, backing: DirectoryBacking) -> None:
    """A start in between, which would serve what is back as if it were all, is refused."""
    if path.name != "rebuild_paid":
        with pytest.raises(IndexCorrupt, match="run `recall rebuild`"):
            await open_engine(path, backing, path.name)
    said = await asyncio.to_thread(rebuild, path)
    assert " 0 unreadable" in said and "gone: " not in said, said


async def _walk(path: Path, engine: Engine, promised: Promised) -> None:
    engine.clock.advance(4 * DAY_S)
    duty = walker(path, engine)
    while await duty.step():
        pass
    for key in promised.lost:
        promised.contents[key] = [None]


async def _tell(path: Path, engine: Engine, promised: Promised) -> None:
    receiver = Receiver(path, engine)
    await receiver.settle()
    assert receiver.spool.waiting_bytes() == 0
    receiver.spool.close()
    first = dict.fromkeys((path / "told").read_text().splitlines())  # an event may come again, never be left out
    assert [key for key in first if key != "filler"] == promised.told


async def _compare(engine: Engine, promised: Promised) -> None:
    for key, contents in promised.contents.items():
        try:
            data = await steps.get(engine.store, key)
        except NoSuchKey:
            data = None
        assert data in contents, key
