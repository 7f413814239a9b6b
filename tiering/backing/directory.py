"""A backing in a directory: the embedded default, so that one command starts everything.

A key's last segment is the file `<segment>.obj`, the others are directories; a directory segment that itself ends in
`.obj` (any number of `~` after it) gets one `~` more. So no file is ever named like a directory, and `a` and `a/b` can
both be stored, as in a bucket. A put writes `.incoming/<random>`, syncs it, renames it into place and syncs the
directories: a reader sees the old bytes or the new ones, and an acknowledged put survives power loss.

Owns: a thread pool and, through it, all file calls; no call blocks the loop. Several processes may use one directory.
Does not know: what is stored. Kind: owner (calls on one loop, file work on its own threads). Invariant: a descriptor or
a borrowed chunk is in use by at most one thread, and is not freed while it is, cancelled or not.
Spec: docs/FORMAT.md, cold objects. The file system must tell upper from lower case and keep names as given.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from tiering.backing.keys import check_key
from tiering.backing.streams import Blocks, closing
from tiering.contract import Buffer
from tiering.folder import make_folder, sync_folder
from tiering.ports import BackingCorrupt, BackingError, BackingSource, BackingStat, BackingUnavailable, NotFound

THREADS: Final = 8
CHUNK_BYTES: Final = 1 << 20
"""Read or written by one trip to a thread."""
LIST_BATCH: Final = 256
STALE_S: Final = 24 * 3600
SWEEP_S: Final = 3600
"""Age at which an unfinished upload in `.incoming` is a crash's remains, for no put takes a day; and how often such are looked for."""
SYNCED_MAX: Final = 100_000
"""Folders remembered as being on the device; one that is not is synced once more."""
_MKDIR_TRIES: Final = 32  # a put whose directory a delete keeps removing
_SUFFIX: Final = ".obj"
_INCOMING: Final = ".incoming"
_MARKED: Final = re.compile(r"\.obj~*$")
_GONE: Final = frozenset((errno.ENOENT, errno.ENOTDIR))

R = TypeVar("R")


class DirectoryBacking:
    """A Backing over `root`. A missing root is BackingUnavailable, never NotFound, unless `create` makes it."""

    def __init__(self, root: str, *, create: bool = False, wall_s: Callable[[], float] = time.time) -> None:
        self._root = os.path.abspath(root)
        self._create = create
        self._ready = False
        self._wall_s = wall_s
        self._synced: set[str] = set()
        self._swept_s = -math.inf
        self._blocks = Blocks()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="backing-dir")

    async def ensure_root(self) -> None:
        """Makes the directory."""
        await self._call(self._make_root)

    async def put(self, key: str, source: BackingSource) -> BackingStat:
        self._path(key)
        await self._prepare()
        upload = _Upload()
        try:
            written = 0
            async with closing(self._blocks.of(source, CHUNK_BYTES)) as blocks:
                async for block in blocks:
                    written += len(block)
                    await self._call(self._write, upload, key, block, written == source.size)
        finally:
            upload.end()  # cheap, and with nobody left to wait for it
        return BackingStat(key, written)

    async def get(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        path = self._path(key)
        await self._prepare()
        fd, size = await self._call(self._open, path, undo=lambda opened: os.close(opened[0]))
        try:
            end = size if stop is None else stop
            if start > size:
                raise BackingCorrupt(f"{size} bytes are stored, {start}:{end} was asked for")
            at = start
            while at < end:
                chunk = await self._call(os.pread, fd, min(CHUNK_BYTES, end - at), at)
                if not chunk:
                    raise BackingCorrupt(f"{at} bytes are stored, {start}:{end} was asked for")
                yield chunk
                at += len(chunk)
        finally:
            os.close(fd)

    async def delete(self, key: str) -> None:
        self._path(key)
        await self._prepare()
        await self._call(self._remove, key)

    async def list(self, prefix: str) -> AsyncIterator[BackingStat]:
        await self._prepare()
        walk = self._walk(prefix)
        while batch := await self._call(_take, walk):
            for stat in batch:
                yield stat

    async def stat(self, key: str) -> BackingStat:
        path = self._path(key)
        await self._prepare()
        return BackingStat(key, await self._call(self._size, path))

    async def close(self) -> None:
        """Waits for the file call under way, if any."""
        await asyncio.to_thread(self._threads.shutdown)

    def _path(self, key: str) -> str:
        *folders, name = check_key(key).split("/")
        if (folders or [name])[0] == _INCOMING:
            raise ValueError(f"{_INCOMING} is the directory's own")
        parts = [folder + "~" if _MARKED.search(folder) else folder for folder in folders]
        return os.path.join(self._root, *parts, name + _SUFFIX)

    async def _prepare(self) -> None:
        if self._create and not self._ready:
            await self.ensure_root()
            self._ready = True

    async def _call(self, function: Callable[..., R], *args: Any, undo: Callable[[R], object] | None = None) -> R:
        """Runs a file call on a thread. Outlives a cancellation until the thread is done, and then undoes its result."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, self._translated, function, *args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait((future,))
            if not future.cancelled() and future.exception() is None and undo is not None:
                undo(future.result())
            raise

    # Below: blocking, on a thread of the pool.

    def _translated(self, function: Callable[..., R], *args: Any) -> R:
        try:
            return function(*args)
        except OSError as error:
            raise self._translate(error) from None

    def _translate(self, error: OSError) -> BackingError:
        if error.errno in _GONE and os.path.isdir(self._root):
            return NotFound("no such file")
        if error.errno in _GONE:
            return BackingUnavailable("the backing directory is missing")
        # The name of the fault only: the message of an OSError holds a path of this host.
        return BackingUnavailable(f"backing directory: {errno.errorcode.get(error.errno or 0, 'I/O error')}")

    def _make_root(self) -> None:
        make_folder(Path(self._root))
        sync_folder(os.path.dirname(self._root))

    def _write(self, upload: _Upload, key: str, block: Buffer, last: bool) -> None:
        """All of an upload that a block allows: to go to a thread costs more than to write a small object."""
        if upload.fd < 0:
            self._begin(upload)
        view = memoryview(block)
        while len(view):
            view = view[os.write(upload.fd, view) :]
        if last:
            os.fsync(upload.fd)
            self._publish(upload.path, key)
            upload.path = ""

    def _begin(self, upload: _Upload) -> None:
        folder = os.path.join(self._root, _INCOMING)
        if not os.path.isdir(folder):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)
        if self._wall_s() - self._swept_s >= SWEEP_S:
            self._swept_s = self._wall_s()
            self._sweep(folder)
        path = os.path.join(folder, secrets.token_hex(16))
        upload.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        upload.path = path

    def _sweep(self, folder: str) -> None:
        """Removes the remains of crashed puts. One that does not go (as a file that NFS keeps for who has it open) keeps no put from
        being made."""
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.stat().st_mtime < self._wall_s() - STALE_S:
                        os.unlink(entry.path)

    def _publish(self, temporary: str, key: str) -> None:
        path = self._path(key)
        for attempt in range(_MKDIR_TRIES):
            try:
                self._make_folders(os.path.dirname(path))
                os.replace(temporary, path)
            except FileNotFoundError:
                # A delete took the emptied directory, or the one above, away between two calls.
                if not os.path.isdir(self._root):
                    raise
                if attempt == _MKDIR_TRIES - 1:
                    raise OSError(errno.EBUSY, "directory keeps vanishing") from None
            else:
                break
        with contextlib.suppress(FileNotFoundError):  # deleted already: that delete came after us
            sync_folder(os.path.dirname(path))

    def _make_folders(self, folder: str) -> None:
        # One that is there may have been made by another put that has not synced it yet, or by a process that has died
        # before it did: only what this process has synced itself is known to stay.
        if folder == self._root or (folder in self._synced and os.path.isdir(folder)):
            return
        parent = os.path.dirname(folder)
        self._make_folders(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        with contextlib.suppress(FileNotFoundError):
            sync_folder(parent)
            if len(self._synced) >= SYNCED_MAX:
                self._synced.clear()
            self._synced.add(folder)

    def _open(self, path: str) -> tuple[int, int]:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return fd, os.fstat(fd).st_size

    def _size(self, path: str) -> int:
        return os.stat(path).st_size

    def _remove(self, key: str) -> None:
        path = self._path(key)
        try:
            os.unlink(path)
        except OSError as error:
            if error.errno in _GONE and os.path.isdir(self._root):
                return
            raise
        folder = os.path.dirname(path)
        with contextlib.suppress(FileNotFoundError):
            sync_folder(folder)
        while folder != self._root:
            self._synced.discard(folder)
            try:
                os.rmdir(folder)
            except OSError:
                return  # not empty, or somebody else was quicker
            folder = os.path.dirname(folder)

    def _walk(self, prefix: str) -> Iterator[BackingStat]:
        """In key order. Holds the names of one directory a level, so a flat million of objects is a list of a million."""
        if not os.path.isdir(self._root):
            raise FileNotFoundError(errno.ENOENT, "no root")
        yield from self._walk_folder(self._root, "", prefix)

    def _walk_folder(self, folder: str, inner: str, prefix: str) -> Iterator[BackingStat]:
        # A directory sorts as its segment with the slash: `a` < `a-b` < `a/b`, as the keys do.
        found: list[tuple[str, str, bool]] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    is_folder = entry.is_dir(follow_symlinks=False)
                    if is_folder and (inner or entry.name != _INCOMING):
                        segment = entry.name[:-1] if re.search(r"\.obj~+$", entry.name) else entry.name
                        found.append((f"{inner}{segment}/", entry.path, True))
                    elif not is_folder and entry.name.endswith(_SUFFIX):
                        found.append((inner + entry.name[: -len(_SUFFIX)], entry.path, False))
        except FileNotFoundError:
            return  # emptied and removed while we walked
        for key, path, is_folder in sorted(found):
            if is_folder and (key.startswith(prefix) or prefix.startswith(key)):
                yield from self._walk_folder(path, key, prefix)
            elif not is_folder and key.startswith(prefix):
                with contextlib.suppress(FileNotFoundError):
                    yield BackingStat(key, os.stat(path).st_size)


def _take(walk: Iterator[BackingStat]) -> list[BackingStat]:
    return list(islice(walk, LIST_BATCH))


class _Upload:
    """A file that is being written: its descriptor and its path, until it has its name. Of one thread at a time."""

    __slots__ = ("fd", "path")

    def __init__(self) -> None:
        self.fd = -1
        self.path = ""

    def end(self) -> None:
        """Closes the file, and removes it unless it was given its name."""
        if self.fd >= 0:
            os.close(self.fd)
        if self.path:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
