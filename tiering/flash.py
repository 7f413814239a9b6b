"""One pool's data file, cut into regions: append, read, sync, and whether bytes are in memory.

Promise: what `write` returned from is seen by every process; what `sync` returned from survives power loss.
Owns the file, its size and its mapping. Does not know objects, records or who may still read a region.
Kind: owner; any thread. Invariants: the file is preallocated, so a write inside it never needs new blocks; nobody
writes where a live extent lies.
Spec: docs/FORMAT.md, "flash"; why one file: docs/ARCHITECTURE.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import re
import time
from pathlib import Path
from typing import Final

from tiering import device
from tiering.contract import Buffer, Corrupt, DeviceFailed
from tiering.crc64 import crc64nvme
from tiering.layout import Extent
from tiering.writeback import Writeback

try:
    from tiering._resident import resident_bytes  # type: ignore[import-not-found]
except ImportError:

    def resident_bytes(fd: int, offset: int, length: int) -> bytes | None:
        """`length` bytes of a file from `offset` on; None where not all of them are in memory, or the file system cannot tell."""
        data = bytearray(length)
        try:
            found = os.preadv(fd, (data,), offset, os.RWF_NOWAIT)
        except OSError:
            return None
        return bytes(data) if found == length else None


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_MAP_FAILED: Final = ctypes.c_void_p(-1).value
_PAGE: Final = mmap.PAGESIZE


READ_CHUNK: Final = 1 << 20
RESIDENT_S: Final = 0.2
"""How long an answer of mincore is believed: it walks every page (20 µs for 2 MiB), and a page just read stays a while."""
RESIDENT_MAX: Final = 8192
"""Answers remembered."""


class Flash:
    """A file of `regions` regions of `region_bytes` each."""

    def __init__(self, path: Path, region_bytes: int, regions: int, *, readonly: bool = False) -> None:
        self.path = path
        self.region_bytes = region_bytes
        self.regions = regions
        self.fd = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR | os.O_CREAT) | os.O_CLOEXEC, 0o600)
        self._size = region_bytes * regions
        before = os.fstat(self.fd).st_size
        try:
            if not readonly and before < self._size:
                os.posix_fallocate(self.fd, 0, self._size)
                os.fsync(self.fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, before)  # what it got would leave nothing to anybody, and be of no use
            os.close(self.fd)
            raise device.refusal(error, f"{self._size} bytes of flash at {path}") from error
        # No reading ahead: what the kernel would bring into memory beside what was asked for has passed no checksum, and
        # `resident` would take it for what its own reader had checked.
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_RANDOM)
        # A mapping of our own instead of `mmap.mmap`: mincore needs its address, which a read-only mmap does not tell.
        self._address = _libc.mmap(None, self._size, mmap.PROT_READ, mmap.MAP_SHARED, self.fd, 0)
        if self._address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), f"cannot map {path}")
        self._pages = (ctypes.c_ubyte * (region_bytes // _PAGE + 2))()
        self._pages_view = memoryview(self._pages).cast("B")
        self._resident: dict[tuple[int, int, int, int], float] = {}
        self._unsynced = False
        self._what = f"{path.parent.name}/{path.name}"
        self.writeback = Writeback(self.fd, path.parent.name)
        self.failed = False
        """A sync has failed: what was written through this object and not synced before may be gone. Stays so."""

    def close(self) -> None:
        self.writeback.close()
        _libc.munmap(self._address, self._size)
        os.close(self.fd)

    def write(self, region: int, offset: int, data: Buffer) -> None:
        """Puts all of `data` at a place inside a region. Raises DiskFull, DeviceFailed."""
        at = region * self.region_bytes + offset
        assert offset >= 0 and offset + len(data) <= self.region_bytes, (region, offset, len(data))
        try:
            written = os.pwrite(self.fd, data, at)
            while written < len(data):
                written += os.pwrite(self.fd, memoryview(data)[written:], at + written)
        except OSError as error:
            raise device.refusal(error, self._what) from error
        # After the write: set before, a sync on the committer's thread could clear it between the two.
        self._unsynced = True
        self.writeback.wrote(at, len(data))

    def sync(self) -> None:
        """Forces all that was written through this object before the call to the device. Raises DeviceFailed, and for ever
        once it has."""
        if self.failed:
            raise DeviceFailed(f"{self._what}: an earlier write did not reach the device", retry_s=device.RETRY_S)
        if self._unsynced:
            self._unsynced = False
            try:
                os.fdatasync(self.fd)
            except OSError as error:
                # The kernel drops what it could not write and reports it once: a second try would succeed for nothing.
                self.failed = True
                raise device.failed(self._what, error.strerror or "") from error

    def read(self, extent: Extent, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes `start:stop` of an extent, through the page cache. Raises Corrupt when the device cannot read them."""
        stop = extent.length if stop is None else stop
        at = extent.region * self.region_bytes + extent.offset + start
        try:
            data = os.pread(self.fd, stop - start, at)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise Corrupt(f"{self._what}: the device cannot read the bytes") from error
        if len(data) != stop - start:
            raise Corrupt(f"{self._what} is shorter than an extent")
        return data

    def read_now(self, extent: Extent) -> bytes | None:
        """All of a short extent if it is in memory and passes its checksum; None when the long way must be taken."""
        region, offset, length, checksum = extent
        data: bytes | None = resident_bytes(self.fd, region * self.region_bytes + offset, length)
        return data if data is not None and crc64nvme(data) == checksum else None

    def span(self, extent: Extent, start: int, stop: int) -> tuple[int, int, int]:
        """(file descriptor, file offset, length) of bytes `start:stop` of an extent."""
        return (self.fd, extent.region * self.region_bytes + extent.offset + start, stop - start)

    def resident(self, extent: Extent, start: int, stop: int) -> bool:
        """Whether reading bytes `start:stop` would not wait for the device: now, or within RESIDENT_S before now.

        Looks at a page more at either end: a page that is shared with a neighbour may be there by the neighbour's doing.
        """
        now_s = time.monotonic()
        place = (extent.region, extent.offset, start, stop)
        if self._resident.get(place, 0.0) > now_s:
            return True
        base = extent.region * self.region_bytes + extent.offset
        first = max(base, base + start - _PAGE) // _PAGE * _PAGE
        end = min(base + extent.length, base + stop + _PAGE)
        pages = -(-(end - first) // _PAGE)
        if _libc.mincore(self._address + first, end - first, self._pages) != 0:
            return False
        if bytes(self._pages_view[:pages]).translate(None, _RESIDENT) != b"":
            return False
        if len(self._resident) >= RESIDENT_MAX:
            self._resident.clear()
        self._resident[place] = now_s + RESIDENT_S
        return True

    def passes(self, extent: Extent) -> bool:
        """Reads the whole extent and compares its checksum. Waits for the device: call it in a thread.

        What the device cannot read does not pass.
        """
        found = 0
        for at in range(0, extent.length, READ_CHUNK):
            try:
                found = crc64nvme(self.read(extent, at, min(extent.length, at + READ_CHUNK)), found)
            except Corrupt:
                return False
        return found == extent.crc64

    def passes_aside(self, extent: Extent) -> bool:
        """As `passes`, for a look that no reader asked for: pages that were not in memory before are not there after.

        What does not pass is read once more from the device, because a page may have been damaged in memory; what the
        device cannot read does not pass.
        """
        if self._sums_up(extent):
            return True
        base = extent.region * self.region_bytes + extent.offset
        os.posix_fadvise(self.fd, base // _PAGE * _PAGE, extent.length + _PAGE, os.POSIX_FADV_DONTNEED)
        return self._sums_up(extent)

    def _sums_up(self, extent: Extent) -> bool:
        base, found = extent.region * self.region_bytes + extent.offset, 0
        for at in range(base, base + extent.length, READ_CHUNK):
            stop = min(base + extent.length, at + READ_CHUNK)
            first = at // _PAGE * _PAGE
            before = self._in_memory(first, stop)
            try:
                data = os.pread(self.fd, stop - at, at)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                return False
            found = crc64nvme(data, found)
            for gap in _NOT_RESIDENT.finditer(before):
                start, length = first + gap.start() * _PAGE, (gap.end() - gap.start()) * _PAGE
                os.posix_fadvise(self.fd, start, length, os.POSIX_FADV_DONTNEED)
        return found == extent.crc64

    def _in_memory(self, first: int, stop: int) -> bytes:
        """A byte a page of the file from `first` on, even where it is not in memory; b"" when that cannot be told."""
        pages = ctypes.create_string_buffer(-(-(stop - first) // _PAGE))
        return pages.raw if _libc.mincore(self._address + first, stop - first, pages) == 0 else b""


_NOT_RESIDENT: Final = re.compile(rb"[%s]+" % re.escape(bytes(range(0, 256, 2))))
_RESIDENT: Final = bytes(range(1, 256, 2))
