"""The data directory of a running gateway: made, locked, and holding the small files that say who runs here.

Promise: one gateway a directory. The lock is held by the supervisor *and* its children (they inherit the descriptor), so a
directory is free only when the last process that might write to it is gone, also after a kill -9 of the supervisor.

Owns `<data-dir>/lock`, `endpoint` and `run/`; sees whether there is room for the pools. Does not know processes or addresses.
Kind: owner (process: the supervisor).
Spec: docs/OPERATIONS.md, "The data directory".
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gateway.config import Settings, with_capacities
from gateway.value import format_size
from tiering.folder import make_folder
from tiering.heat import HEAT_BYTES

EXIT_FAILED: Final = 1
EXIT_BAD: Final = 2
EXIT_IN_USE: Final = 3
BESIDE_BYTES: Final = HEAT_BYTES + (3 << 20)
"""What a new pool takes beside its flash: heat, the table of the index's readers, the recall board."""
LOCK_WAIT_S: Final = 5.0
"""How long a start waits for the children of a killed supervisor to be gone."""


_log = logging.getLogger("recall.datadir")


class StartError(Exception):
    """The gateway cannot start. `status` is the exit status."""

    def __init__(self, message: str, status: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.status = status


class DataDir:
    """A data directory held by this process: made if need be, locked until `close`, its run files removed then."""

    def __init__(self, settings: Settings) -> None:
        """Raises StartError when it cannot be made or another gateway uses it."""
        self.path = Path(settings.data_dir)
        self.run_dir = settings.run_dir
        try:
            make_folder(self.path)
            self._shut()
            self.lock_fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(f"data directory {self.path} cannot be used: {error.strerror}") from None
        try:
            self._lock()
            self._clean()
        except OSError as error:
            os.close(self.lock_fd)
            raise StartError(f"data directory {self.path} cannot be used: {error.strerror}") from None
        except StartError:
            os.close(self.lock_fd)
            raise

    def _shut(self) -> None:
        """One that was there before may be open to others, who could read the names of objects in it."""
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if mode & 0o077:
            try:
                self.path.chmod(mode & 0o700)
            except PermissionError:  # somebody else's, who lets us write there
                _log.warning("others may look into %s: its mode is %o", self.path, mode)

    def _lock(self) -> None:
        deadline_s = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(self.lock_fd, 32, 0).decode("ascii", "replace").strip()
                # The children hold the lock too: one whose supervisor was killed dies in a moment, which is worth a wait.
                if _alive(holder) or time.monotonic() > deadline_s:
                    raise StartError(
                        f"data directory {self.path} is in use by process {holder or 'unknown'}: stop that gateway, or "
                        f"choose another directory with --data-dir",
                        EXIT_IN_USE,
                    ) from None
                select.select((), (), (), 0.02)  # flock has no wait with a time limit
        os.ftruncate(self.lock_fd, 0)
        os.pwrite(self.lock_fd, b"%d\n" % os.getpid(), 0)

    def _clean(self) -> None:
        (self.path / "endpoint").unlink(missing_ok=True)
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self.run_dir.mkdir(mode=0o700, exist_ok=True)

    def fitted(self, settings: Settings) -> Settings:
        """The settings with capacities taken from the disk, which has the room. Raises StartError.

        Looked at before anything is made: what has been allocated of a pool stays, so half of one would leave a full disk and a
        pool of the wrong size. Pools may be links to other file systems.
        """
        refuse_unknown_pools(settings)
        places = {name: self.path / "pools" / name for name in settings.pools}
        have = {name: _size(place / "flash") for name, place in places.items()}
        settings = with_capacities(settings, shutil.disk_usage(self.path).free, have)
        wanted: dict[int, list[tuple[str, int]]] = {}
        for name, pool in settings.pools.items():
            if pool.capacity_bytes < have[name]:
                _log.warning("pool %s keeps its %s: a pool never shrinks", name, format_size(have[name]))
            missing = max(0, pool.capacity_bytes - have[name]) + (0 if _size(places[name] / "heat") else BESIDE_BYTES)
            if missing:
                wanted.setdefault(_standing(places[name]).stat().st_dev, []).append((name, missing))
        for needs in wanted.values():
            free = shutil.disk_usage(_standing(places[needs[0][0]])).free
            if sum(missing for _, missing in needs) > free:
                pools = ", ".join(f"{name} {_rounded(missing)}" for name, missing in needs)
                raise StartError(
                    f"the disk of {self.path} has no room for the pools: {pools} more, and {_rounded(free)} are free: lower "
                    f"pools.<pool>.capacity_bytes, or free some"
                )
        return settings

    def publish(self, name: str, text: str) -> None:
        """Writes a small file that clients on this machine look for, whole or not at all. Raises StartError."""
        try:
            self._write(name, text)
        except OSError as error:
            raise StartError(f"{self.path / name} cannot be written: {error.strerror}") from None

    def note(self, name: str, text: str) -> None:
        """`publish`, of what a running gateway can do without: a disk that refuses is logged."""
        with self._left(name):
            self._write(name, text)

    def remove(self, name: str) -> None:
        """Removes a small file if it is there; one that the disk does not let go is logged and left to the next start."""
        with self._left(name):
            (self.path / name).unlink(missing_ok=True)

    def _write(self, name: str, text: str) -> None:
        partial = self.path / (name + ".new")
        partial.write_text(text)
        os.replace(partial, self.path / name)

    @contextmanager
    def _left(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _log.warning("%s is left as it was: %s", self.path / name, error.strerror)

    def close(self) -> None:
        """Removes what says that a gateway runs here, then unlocks."""
        self.remove("endpoint")
        for kind in ("pid", "endpoint", "pem"):
            for path in self.run_dir.glob(f"*.{kind}"):
                self.remove(f"{self.run_dir.name}/{path.name}")
        with self._left("lock"):
            os.ftruncate(self.lock_fd, 0)
        os.close(self.lock_fd)


def refuse_unknown_pools(settings: Settings) -> None:
    """A pool that a start leaves out would hide its buckets, whose names could then be given again. Raises StartError."""
    for index in sorted(Path(settings.data_dir, "pools").glob("*/index/data.mdb")):
        name = index.parent.parent.name
        if name not in settings.pools:
            raise StartError(
                f"{index.parent.parent} is a pool that the settings do not have: give it any setting, as [pools.{name}], or, if "
                f"nothing in it is needed, move the folder away",
                EXIT_BAD,
            )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _standing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    while not path.exists():
        path = path.parent
    return path


def _rounded(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB" if size < 10 << 30 else f"{size / (1 << 30):.0f} GiB"


def _alive(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
