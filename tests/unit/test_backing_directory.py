"""The directory backing: what lies on disk, crashes, faults of the file system."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tiering.backing.directory import CHUNK_BYTES, STALE_S, SWEEP_S, DirectoryBacking, _Upload
from tiering.backing.streams import BytesSource, closing
from tiering.contract import Buffer
from tiering.ports import BackingUnavailable, NotFound


def run(root: Path, test: Callable[[DirectoryBacking], Awaitable[None]], **options: object) -> None:
    async def main() -> None:
        backing = DirectoryBacking(str(root), **{"create": True, **options})  # type: ignore[arg-type]
        try:
            await test(backing)
        finally:
            await backing.close()

    asyncio.run(main())


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_keys_are_readable_paths_and_a_file_may_be_a_folder_too(tmp_path: Path) -> None:
    async def check(backing: DirectoryBacking) -> None:
        for key in ("b/a", "b/a/b", "b/a.obj/c", "b/a.obj~/d"):
            await backing.put(key, BytesSource(key.encode()))
        assert files(tmp_path) == ["b/a.obj", "b/a.obj~/c.obj", "b/a.obj~~/d.obj", "b/a/b.obj"]
        assert (tmp_path / "b/a.obj").read_bytes() == b"b/a"

    run(tmp_path, check)


def test_delete_takes_emptied_folders_along_but_not_the_root(tmp_path: Path) -> None:
    async def check(backing: DirectoryBacking) -> None:
        await backing.put("b/x/y/z", BytesSource(b""))
        await backing.put("b/w", BytesSource(b""))
        await backing.delete("b/x/y/z")
        assert (tmp_path / "b").is_dir()
        assert not (tmp_path / "b/x").exists()
        await backing.delete("b/w")
        assert os.listdir(tmp_path) == [".incoming"]

    run(tmp_path, check)


def test_puts_and_deletes_of_one_folder_race_without_loss(tmp_path: Path) -> None:
    async def check(backing: DirectoryBacking) -> None:
        async def churn(index: int) -> None:
            for _ in range(25):
                await backing.put(f"b/d/e/{index}", BytesSource(b"x"))
                await backing.delete(f"b/d/e/{index}")
            await backing.put(f"b/d/e/{index}", BytesSource(b"last"))

        await asyncio.gather(*(churn(index) for index in range(4)))
        assert files(tmp_path) == [f"b/d/e/{index}.obj" for index in range(4)]

    run(tmp_path, check)


def test_an_unfinished_put_is_not_seen_and_its_remains_go(tmp_path: Path) -> None:
    (tmp_path / ".incoming").mkdir()
    for name, age_s in (("old", STALE_S + 60), ("young", 60)):
        path = tmp_path / ".incoming" / name
        path.write_bytes(b"half")
        os.utime(path, (1e9 - age_s, 1e9 - age_s))

    async def check(backing: DirectoryBacking) -> None:
        assert [stat.key async for stat in backing.list("")] == []
        await backing.put("k", BytesSource(b"x"))
        assert files(tmp_path) == [".incoming/young", "k.obj"]

    run(tmp_path, check, wall_s=lambda: 1e9)


def test_remains_are_looked_for_again_after_a_while(tmp_path: Path) -> None:
    now_s = [1e9]

    async def check(backing: DirectoryBacking) -> None:
        await backing.put("k", BytesSource(b"x"))
        path = tmp_path / ".incoming" / "old"
        path.write_bytes(b"half")
        os.utime(path, (1e9 - STALE_S - 60, 1e9 - STALE_S - 60))
        now_s[0] += SWEEP_S - 1
        await backing.put("k", BytesSource(b"x"))
        assert path.exists()
        now_s[0] += 1
        await backing.put("k", BytesSource(b"x"))
        assert not path.exists()

    run(tmp_path, check, wall_s=lambda: now_s[0])


@pytest.mark.parametrize("size", [0, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
def test_a_put_of_whole_blocks_ends_where_its_source_does(tmp_path: Path, size: int) -> None:
    async def check(backing: DirectoryBacking) -> None:
        data = os.urandom(size)
        await backing.put("k", BytesSource(data))
        assert (tmp_path / "k.obj").read_bytes() == data
        assert files(tmp_path) == ["k.obj"]

    run(tmp_path, check)


def test_remains_that_do_not_go_keep_no_put_from_being_made(tmp_path: Path) -> None:
    path = tmp_path / ".incoming" / "as good as one"
    path.mkdir(parents=True)
    os.utime(path, (1, 1))

    async def check(backing: DirectoryBacking) -> None:
        await backing.put("k", BytesSource(b"x"))
        assert files(tmp_path) == ["k.obj"]

    run(tmp_path, check)


def test_foreign_files_are_left_out_of_lists(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("not ours")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "lost+found").mkdir()

    async def check(backing: DirectoryBacking) -> None:
        await backing.put("b/k", BytesSource(b"x"))
        assert [stat.key async for stat in backing.list("")] == ["b/k"]

    run(tmp_path, check)


def test_a_reader_keeps_the_bytes_it_began_with(tmp_path: Path) -> None:
    async def check(backing: DirectoryBacking) -> None:
        old = b"old" * 1_000_000
        await backing.put("k", BytesSource(old))
        async with closing(backing.get("k")) as chunks:
            got = await anext(chunks)
            await backing.put("k", BytesSource(b"new"))
            async for chunk in chunks:
                got += chunk
        assert got == old

    run(tmp_path, check)


@pytest.mark.parametrize("key", ["../escape", "a/../../escape", "/etc/passwd", ".incoming/x", ".incoming"])
def test_a_key_cannot_leave_the_root(tmp_path: Path, key: str) -> None:
    root = tmp_path / "root"

    async def check(backing: DirectoryBacking) -> None:
        for call in (backing.put(key, BytesSource(b"x")), backing.stat(key), backing.delete(key)):
            with pytest.raises(ValueError):
                await call

    run(root, check)
    assert files(tmp_path) == []


def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    async def check(backing: DirectoryBacking) -> None:
        await backing.put("k", BytesSource(b"x" * 3_000_000))
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            async with closing(backing.get("k")) as chunks:
                await anext(chunks)
            with pytest.raises(NotFound):
                await anext(backing.get("missing"))
            task = asyncio.ensure_future(backing.put("c", BytesSource(b"y" * 1_000_000)))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            reading = asyncio.ensure_future(anext(backing.get("k")))
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        assert len(os.listdir("/proc/self/fd")) <= before
        assert files(tmp_path) in (["k.obj"], ["c.obj", "k.obj"])

    run(tmp_path, check)


class FullDisk(DirectoryBacking):
    """A directory on a file system that has run full: every write says so."""

    def _begin(self, upload: _Upload) -> None:
        super()._begin(upload)
        os.close(upload.fd)
        upload.fd = os.open("/dev/full", os.O_WRONLY)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_unavailable_and_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        backing = FullDisk(str(tmp_path))
        with pytest.raises(BackingUnavailable, match="ENOSPC") as caught:
            await backing.put("k", BytesSource(b"x"))
        assert str(tmp_path) not in str(caught.value)
        assert files(tmp_path) == []
        await backing.close()

    asyncio.run(main())


def test_the_name_of_a_fault_is_told_and_no_path(tmp_path: Path) -> None:
    async def check(backing: DirectoryBacking) -> None:
        error = backing._translate(OSError(errno.EIO, "Input/output error", str(tmp_path)))
        assert str(error) == "backing directory: EIO"
        assert isinstance(error, BackingUnavailable)

    run(tmp_path, check)


def test_a_root_that_vanishes_is_unavailable_not_empty(tmp_path: Path) -> None:
    root = tmp_path / "mount"

    async def check(backing: DirectoryBacking) -> None:
        await backing.put("b/k", BytesSource(b"x"))
        os.rename(root, tmp_path / "elsewhere")
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: backing.stat("b/k"),
            lambda: anext(backing.get("b/k")),
            lambda: backing.delete("b/k"),
            lambda: anext(backing.list("")),
            lambda: backing.put("b/k", BytesSource(b"x")),
        ]
        for call in calls:
            with pytest.raises(BackingUnavailable, match="missing"):
                await call()
        os.rename(tmp_path / "elsewhere", root)
        assert (await backing.stat("b/k")).size == 1

    run(root, check)


def test_a_borrowed_chunk_is_written_before_it_is_given_back(tmp_path: Path) -> None:
    class Reused:
        size = 400

        async def chunks(self) -> AsyncIterator[Buffer]:
            buffer = bytearray(100)
            for index in range(4):
                buffer[:] = bytes((index,)) * 100
                yield buffer

    async def check(backing: DirectoryBacking) -> None:
        await backing.put("k", Reused())
        assert (tmp_path / "k.obj").read_bytes() == b"".join(bytes((index,)) * 100 for index in range(4))

    run(tmp_path, check)
