"""Power losses, for a moment: the recorder sees what a gateway writes, and nothing acknowledged is lost. Kind: tests.

`RECALL_TEST_SEED` repeats a run. The long run is `python -m tests.power`. Spec: docs/RELIABILITY.md.
"""

from __future__ import annotations

import asyncio
import io
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conformance import steps
from tests.model.world import pattern
from tests.power.disk import Disk, Event, Kind, differences, events
from tests.power.run import attack, build_recorder, compiler
from tests.power.scenes import RELAXED, open_scene
from tests.support.gateway import ROOT
from tiering.contract import NoSuchKey

pytestmark = pytest.mark.skipif(compiler() is None or sys.platform != "linux", reason="the recorder is compiled here")

PROGRAM = """
import mmap, os, sys
root = sys.argv[1]
os.makedirs(root + "/a/b")
fd = os.open(root + "/a/b/file", os.O_RDWR | os.O_CREAT)
os.write(fd, b"one")
os.pwrite(fd, b"two", 10)
os.pwritev(fd, [b"three", b"four"], 20)
os.fdatasync(fd)
os.posix_fallocate(fd, 0, 100)
os.ftruncate(fd, 50)
os.pwrite(fd, b"five", 6000)
os.rename(root + "/a/b/file", root + "/a/moved")
with open(root + "/a/text", "w") as text:
    text.write("hello")
with open(root + "/a/text", "a") as text:
    text.write(" world")
os.replace(root + "/a/text", root + "/words")
os.rmdir(root + "/a/b")
synchronous = os.open(root + "/words", os.O_WRONLY | os.O_DSYNC)
os.pwrite(synchronous, b"H", 0)
os.unlink(root + "/a/moved")
table = os.open(root + "/table", os.O_RDWR | os.O_CREAT)
os.truncate(root + "/table", 4096)
mmap.mmap(table, 4096)[0] = 7
"""


def test_the_recorder_sees_every_change(tmp_path: Path) -> None:
    library = build_recorder(tmp_path)
    root = tmp_path / "root"
    root.mkdir()
    disk = Disk(root)
    environment = {**os.environ, "LD_PRELOAD": str(library), "RECORDER_LOG": str(tmp_path / "log")}
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root)], env=environment | {"RECORDER_ROOT": str(root)}, check=True
    )
    kinds = []
    for event in events(io.BytesIO((tmp_path / "log").read_bytes())):
        kinds.append(event.kind)
        disk.apply(event)
    assert [*differences(disk.root, root)] == []
    assert set(kinds) == set(Kind) - {Kind.MARK, Kind.UNKNOWN}
    (root / "words").write_text("unseen")
    assert len([*differences(disk.root, root)]) == 1


def test_what_was_synced_is_in_every_image_and_the_rest_in_some(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    disk = Disk(root)
    inode = root.stat().st_ino
    for event in (
        Event(Kind.CREATED, 0, 1, 0, f"{root}/kept".encode()),
        Event(Kind.SYNC_BEGUN, 0, inode, 9, b""),
        Event(Kind.CREATED, 0, 2, 0, f"{root}/late".encode()),  # too late for that sync
        Event(Kind.SYNC_ENDED, 0, inode, 9, b""),
        Event(Kind.WRITTEN, 0, 1, 0, b"a" * 8192),
        Event(Kind.SYNC_BEGUN, 0, 1, 9, b""),
        Event(Kind.WRITTEN, 0, 1, 0, b"b" * 4096),
        Event(Kind.SYNC_ENDED, 0, 1, 9, b""),
        Event(Kind.WRITTEN, 1, 1, 8192, b"c" * 10),
        Event(Kind.RENAMED, 0, 0, 0, f"{root}/late\0{root}/later".encode()),
    ):
        disk.apply(event)
    rng = random.Random(5)
    names, heads = set(), set()
    for number in range(500):
        image = tmp_path / "image"
        disk.write_image(image, rng)
        content = (image / "kept").read_bytes()
        assert content[4096:8192] == b"a" * 4096 and content[8192:] == b"c" * 10, number
        heads.add(content[:4096].count(b"b"))
        names.add(tuple(sorted(path.name for path in image.iterdir())))
        for path in image.iterdir():
            path.unlink()
        image.rmdir()
    assert names == {("kept",), ("kept", "late"), ("kept", "later")}
    assert {0, 4096} < heads  # and torn in between


def least(scene: str, path: Path) -> Path:
    """What must be on the device after one of `tests.power.scenes`."""
    library = build_recorder(path)
    root = path / "root"
    root.mkdir()
    disk = Disk(root)
    environment = {**os.environ, "LD_PRELOAD": str(library), "RECORDER_LOG": str(path / "log")}
    subprocess.run(
        [sys.executable, "-m", "tests.power.scenes", scene, str(root)],
        env=environment | {"RECORDER_ROOT": str(root)},
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    for event in events(io.BytesIO((path / "log").read_bytes())):
        disk.apply(event)
    disk.write_least(path / "image")
    return path / "image"


def test_a_copy_is_found_whoever_made_its_folder(tmp_path: Path) -> None:
    image = least("put_into_a_folder_that_another_has_made", tmp_path)
    assert (image / "backing/cold/a/b.obj").read_bytes() == b"content"


def test_a_new_pool_is_found(tmp_path: Path) -> None:
    image = least("put_into_a_new_pool", tmp_path)

    async def judge() -> None:
        engine = await open_scene(image)
        assert await steps.get(engine.store, "a") == pattern(50_000, 1)
        await engine.audit()
        await engine.close()

    asyncio.run(judge())


def test_a_relaxed_index_never_relies_on_a_copy_that_is_gone(tmp_path: Path) -> None:
    image = least("copy_over_a_copy", tmp_path)

    async def judge() -> None:
        engine = await open_scene(image)
        with pytest.raises(NoSuchKey):
            await steps.get(engine.store, "deleted", bucket=RELAXED)
        try:
            assert await steps.get(engine.store, "overwritten", bucket=RELAXED) == pattern(60_000, 2)
        except NoSuchKey:
            pass  # its bytes were not on the device, and its copy was not noted yet
        await engine.audit()
        await engine.close()

    asyncio.run(judge())


def test_no_power_loss_takes_what_was_acknowledged(tmp_path: Path) -> None:
    seed = int(os.environ.get("RECALL_TEST_SEED") or time.time_ns() % 1_000_000)
    print(f"RECALL_TEST_SEED={seed}")
    assert attack(seed, 0, tmp_path, seconds=1.5, points=5)
