"""MD5 of contents side by side against hashlib: with the compiled part where it is built, else with what stands in for it."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from typing import Any

import pytest

from s3api import md5
from s3api.checksums import INLINE_BYTES_MAX, Digest

compiled = pytest.mark.skipif(md5.native is None, reason="not compiled here")


def expected(content: bytes) -> bytes:
    return hashlib.md5(content, usedforsecurity=False).digest()


@pytest.mark.parametrize("size", [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 128, 4096, 100_001])
def test_a_content_in_pieces_of_any_length(size: int) -> None:
    rng = random.Random(size)
    content = rng.randbytes(size)
    made, at = md5.new(), 0
    while at < size:
        step = rng.choice((1, 3, 63, 64, 65, 200, 5000))
        made.update(memoryview(content)[at : at + step])
        at += step
    assert made.digest() == expected(content)
    assert made.digest() == expected(content), "a value so far can be asked for again"
    made.update(b"more")
    assert made.digest() == expected(content + b"more")


@pytest.mark.parametrize("contents", [1, 2, 3, 5, 16, 40])
def test_contents_that_come_together_do_not_mix(contents: int) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)

    async def one(content: bytes) -> bytes:
        digest = Digest(("MD5", "SHA256"))
        at = 0
        while at < len(content):
            step = rng.choice((1, 64, 1000, 20_000, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 200_000, 262_144))
            piece = bytearray(content[at : at + step])
            hashing = digest.update(memoryview(piece))
            if hashing is not None:
                await hashing
            piece[:] = bytes(len(piece))  # borrowed no longer
            at += step
        assert digest.raw("SHA256") == hashlib.sha256(content).digest()
        return digest.raw("MD5")

    async def all_of(several: list[bytes]) -> list[bytes]:
        return await asyncio.gather(*map(one, several))

    several = [rng.randbytes(rng.randrange(700_000)) for _ in range(contents)]
    assert asyncio.run(all_of(several)) == [expected(content) for content in several]


def test_who_gives_up_disturbs_nobody() -> None:
    content = random.Random(3).randbytes(1 << 20)

    async def run() -> bytes:
        digest = Digest(("MD5",))
        kept = digest.update(content)
        left = Digest(("MD5",)).update(memoryview(bytearray(1 << 20)))
        assert kept is not None and left is not None
        asyncio.ensure_future(left).cancel()
        await kept
        return digest.raw("MD5")

    assert asyncio.run(run()) == expected(content)
    assert asyncio.run(run()) == expected(content), "in another loop"


@compiled
def test_what_cannot_be_computed_is_refused() -> None:
    native: Any = md5.native
    data = bytes(640)
    for jobs, blocks in (
        ([], 1),
        ([(native.Md5(), data, 0)] * 17, 1),
        ([(native.Md5(), data, 0)], 11),
        ([(native.Md5(), data, 1)], 10),
        ([(native.Md5(), data, -1)], 1),
        ([(native.Md5(), data, 641)], 0),
        ([(native.Md5(), data, 0)], -1),
    ):
        with pytest.raises(ValueError):
            native.advance(jobs, blocks)
    for jobs in ([(hashlib.md5(), data, 0)], [(native.Md5(), "text", 0)], [()], [None]):
        with pytest.raises((TypeError, SystemError)):
            native.advance(jobs, 1)
    with pytest.raises(TypeError):
        native.Md5(b"")
    with pytest.raises(TypeError):
        native.Md5().update("text")


@compiled
def test_every_number_of_lanes_and_every_alignment() -> None:
    native: Any = md5.native
    rng = random.Random(5)
    content = rng.randbytes(10_000)
    for count in range(1, native.LANES + 1):
        jobs, wanted = [], []
        for lane in range(count):
            made = native.Md5()
            made.update(content[:lane])
            start, blocks = made.begin(memoryview(content)[lane : lane + 6400])
            assert blocks >= 98
            jobs.append((made, memoryview(content)[lane : lane + 6400], start, blocks))
            wanted.append(expected(content[: lane + 6400]))
        native.advance([job[:3] for job in jobs], 50)
        for made, view, start, blocks in jobs:  # the rest alone
            native.advance([(made, view, start + 50 * 64)], blocks - 50)
        assert [job[0].digest() for job in jobs] == wanted


@compiled
def test_threads_may_each_have_their_own() -> None:
    content = random.Random(7).randbytes(300_000)
    found: list[bytes] = []

    def work() -> None:
        for _ in range(20):
            made = md5.new()
            made.update(content)
            found.append(made.digest())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected(content)] * 80
