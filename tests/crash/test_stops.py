"""A process killed at each point where one store knows what another does not yet: reopened, everything agrees again.

Kind: tests. Spec: docs/SEMANTICS.md, "Durability"; the points are `tests.crash.child`'s.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance import steps
from tests.crash.child import POINTS, open_engine
from tests.model.world import compare_backing, pattern
from tests.support.engine import Engine
from tests.support.gateway import ROOT
from tiering.backing.directory import DirectoryBacking
from tiering.contract import NoSuchKey


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
    assert status == -signal.SIGKILL, "the point was never reached"
    promised = {}
    for line in (path / "said").read_text().splitlines():
        words = line.split()
        if words[1] == "not":
            promised[words[2]] = None
        else:
            promised[words[1]] = pattern(int(words[3]), int(words[2]))
    assert promised
    asyncio.run(_judge(path, promised))


async def _judge(path: Path, promised: dict[str, bytes | None]) -> None:
    backing = DirectoryBacking(str(path / "backing"))
    engine = await open_engine(path, backing)
    await engine.audit()
    await _compare(engine, promised)
    await engine.settle()
    await engine.audit()
    await compare_backing(engine)
    await _compare(engine, promised)
    await engine.close()
    await backing.close()


async def _compare(engine: Engine, promised: dict[str, bytes | None]) -> None:
    for key, data in promised.items():
        if data is None:
            with pytest.raises(NoSuchKey):
                await steps.get(engine.store, key)
        else:
            assert await steps.get(engine.store, key) == data, key
