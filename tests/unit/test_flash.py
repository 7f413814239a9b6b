"""`Flash.read_now`: with the compiled part where it is built, else with what stands in for it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiering import flash as module
from tiering.crc64 import crc64nvme
from tiering.flash import Flash
from tiering.layout import Extent

REGION_BYTES = 1 << 16
compiled = pytest.mark.skipif(not hasattr(module.resident_bytes, "__self__"), reason="not compiled here")


@pytest.fixture
def flash(tmp_path: Path) -> Iterator[Flash]:
    made = Flash(tmp_path / "flash", REGION_BYTES, 4)
    yield made
    made.close()


@pytest.mark.parametrize("length", [1, 4095, 4096, 32 << 10])
def test_what_is_in_memory_and_whole_is_read(flash: Flash, length: int) -> None:
    data = random.Random(length).randbytes(length)
    flash.write(2, 77, data)
    assert flash.read_now(Extent(2, 77, length, crc64nvme(data))) == data
    assert flash.read_now(Extent(2, 77, length, crc64nvme(data) ^ 1)) is None
    assert flash.read_now(Extent(2, 78, length, crc64nvme(data))) is None


def test_what_does_not_lie_there_is_not_read(flash: Flash) -> None:
    assert flash.read_now(Extent(4, 0, 1, 0)) is None, "behind the file's end"
    assert flash.read_now(Extent(3, REGION_BYTES - 1, 2, 0)) is None
    os.close(flash.fd)
    flash.fd = os.open(os.devnull, os.O_WRONLY)
    assert flash.read_now(Extent(0, 0, 1, 0)) is None


def test_what_is_not_in_memory_is_not_waited_for(flash: Flash) -> None:
    data = random.Random(1).randbytes(REGION_BYTES)
    extent = Extent(1, 0, REGION_BYTES, crc64nvme(data))
    flash.write(1, 0, data)
    os.fsync(flash.fd)
    os.posix_fadvise(flash.fd, REGION_BYTES, REGION_BYTES, os.POSIX_FADV_DONTNEED)
    if flash.resident(extent, 0, REGION_BYTES):
        pytest.skip("this file system keeps files in memory")
    assert flash.read_now(extent) is None
    assert flash.read(extent) == data
    assert flash.read_now(extent) == data


@compiled
def test_what_cannot_be_read_is_refused() -> None:
    for bad in ((), (0, 0), ("0", 0, 1), (0, None, 1), (0, 0, "1"), (0, 0, 1, 2)):
        with pytest.raises(TypeError):
            module.resident_bytes(*bad)
    with pytest.raises(SystemError):
        module.resident_bytes(0, 0, -1)
