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


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_named_point_everything_agrees_again(point: str, tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "tests.crash.child", str(tmp_path), point],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, "the point was never reached"
    promised = {}
    for line in child.stdout.splitlines():
        words = line.split()
        if words[1] == "not":
            promised[words[2]] = None
        else:
            promised[words[1]] = pattern(int(words[3]), int(words[2]))
    assert promised
    asyncio.run(_judge(tmp_path, promised))


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
