"""Processes that run an engine and kill themselves at a named point: `python -m tests.crash.child DIRECTORY POINT…`.

Each is a fork with a folder of its own, DIRECTORY/POINT. What it was promised before its end is in the file `said` there
(`tests.crash.stage` says how). How each ended goes to stdout: `POINT STATUS`.

Kind: shell of the tests. Spec: docs/SEMANTICS.md, "Durability".
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from tests.crash import scenes, scenes_above
from tests.crash.hooked import Hooked
from tests.crash.stage import BUCKET, Scene, Tripwire, open_engine
from tiering.backing.directory import DirectoryBacking
from tiering.contract import BucketInfo

POINTS: Final[dict[str, Callable[[Scene], Awaitable[None]]]] = {
    scene.__name__: scene for scene in (*scenes.SCENES, *scenes_above.SCENES)
}
FORKS: Final = 4


async def main(path: Path, point: str) -> None:
    """Ends by a signal, or by returning when the point was never reached."""
    backing = Hooked(DirectoryBacking(str(path / "backing"), create=True), lambda verb, name: scene.hook(verb, name))
    wire = Tripwire()
    wire.watch()
    engine = await open_engine(path, backing, point)
    scene = Scene(path, engine, wire)
    engine.start_keeper()
    await engine.store.create_bucket(BucketInfo(name=BUCKET, created_ms=engine.clock.now_ms(), pool=""))
    await POINTS[point](scene)


def fork(path: Path, point: str) -> int:
    """Starts one in a process of its own; returns its number."""
    path.mkdir()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(path / "said", os.O_WRONLY | os.O_CREAT, 0o600), 1)
            asyncio.run(main(path, point))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return pid


def fork_all(path: Path, points: Sequence[str]) -> None:
    """FORKS at once: each waits for the device most of its time."""
    running: dict[int, str] = {}
    left = list(reversed(points))
    while left or running:
        while left and len(running) < FORKS:
            point = left.pop()
            running[fork(path / point, point)] = point
        pid, status = os.wait()
        print(running.pop(pid), os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    fork_all(Path(sys.argv[1]), sys.argv[2:])
