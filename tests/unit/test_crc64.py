"""`tiering.crc64` against awscrt: with the compiled part where it is built and used, else what stands in for it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from awscrt import checksums

from tiering import crc64 as module
from tiering.crc64 import combine_crc64nvme, crc64nvme

compiled = pytest.mark.skipif(module.crc64nvme is checksums.crc64nvme, reason="not compiled here, or awscrt is as fast")


def test_known_values() -> None:
    """Of the NVM Command Set Specification: 4 KiB of zeros, of ones, and of bytes that count up and down."""
    assert crc64nvme(bytes(4096)) == 0x6482D367EB22B64E
    assert crc64nvme(b"\xff" * 4096) == 0xC0DDBA7302ECA3AC
    assert crc64nvme(bytes(range(256)) * 16) == 0x3E729F5F6750449C
    assert crc64nvme(b"") == 0


@pytest.mark.parametrize("before", [0, 1, 0xFFFFFFFFFFFFFFFF, 0x0123456789ABCDEF])
def test_every_length_and_alignment(before: int) -> None:
    data = random.Random(before).randbytes(700)
    for size in range(640):
        piece = memoryview(data)[size % 37 : size % 37 + size]
        assert crc64nvme(piece, before) == checksums.crc64nvme(piece, before), size


def test_a_content_in_pieces_of_any_length() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for size in (1, 100, 4096, 32 << 10, (32 << 10) + 1, 1_000_003):
        content, found, at = rng.randbytes(size), 0, 0
        while at < size:
            step = rng.choice((1, 15, 16, 17, 127, 128, 129, 5000, 200_000))
            piece = bytearray(content[at : at + step])
            found, before = crc64nvme(piece, found), found
            assert found == combine_crc64nvme(before, crc64nvme(bytes(piece)), len(piece))
            at += step
        assert found == crc64nvme(content) == checksums.crc64nvme(content)


@compiled
def test_what_cannot_be_summed_is_refused() -> None:
    call: Any = crc64nvme
    for bad in ((), ("text",), (b"", "0"), (b"", None), (b"", 0, 0), (None,), (memoryview(b"abcd")[::2],)):
        with pytest.raises((TypeError, BufferError)):
            call(*bad)
    for beyond in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            call(b"", beyond)
