"""Cold objects over a backing: exact sizes, few requests, and nothing wrong is stored or given out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from awscrt.checksums import crc64nvme

from tiering import coldstream
from tiering.backing import coldobject
from tiering.backing.coldobject import ColdSource, read_head, read_layout, read_object, read_range
from tiering.backing.memory import MemoryBacking
from tiering.backing.streams import BytesSource, closing
from tiering.backing.wrappers import Fault, Faulty, Retrying
from tiering.coldstream import ColdCorrupt, ColdReader
from tiering.contract import Buffer, Corrupt
from tiering.ports import Backing, BackingCorrupt

META = {"bucket": "b", "key": "k", "generation": 3}
NOISE = random.Random(11).randbytes(300_000)
TEXT = b"the same words again and again; " * 10_000
MIXED = TEXT[:100_000] + NOISE[:100_000] + TEXT[:100_000]


class Hot:
    """Content as flash gives it: pieces of odd sizes in one reused buffer. Counts the bytes read."""

    def __init__(self, data: bytes, piece_bytes: int = 7_001) -> None:
        self.data = data
        self.read_bytes = 0
        self._piece_bytes = piece_bytes

    async def __call__(self, start: int, stop: int) -> AsyncIterator[Buffer]:
        buffer = bytearray(self._piece_bytes)
        for at in range(start, stop, self._piece_bytes):
            piece = self.data[at : min(stop, at + self._piece_bytes)]
            buffer[: len(piece)] = piece
            self.read_bytes += len(piece)
            yield memoryview(buffer)[: len(piece)]


async def source_of(data: bytes, content: Hot | None = None, frame_bytes: int = 50_000) -> ColdSource:
    return await ColdSource.prepare(META, len(data), crc64nvme(data), content or Hot(data), frame_bytes=frame_bytes)


async def stream_of(source: ColdSource) -> bytes:
    return b"".join([bytes(chunk) async for chunk in source.chunks()])


async def drain(chunks: AsyncIterator[Buffer], into: bytearray) -> None:
    """Keeps what came before an error."""
    async for chunk in chunks:
        into += chunk


async def gather(chunks: AsyncIterator[Buffer]) -> bytes:
    async with closing(chunks) as open_chunks:
        return b"".join([bytes(chunk) async for chunk in open_chunks])


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    asyncio.run(main())


@pytest.mark.parametrize("kept_bytes", [coldobject.KEPT_BYTES_MAX, 1000], ids=["kept", "compressed-again"])
@pytest.mark.parametrize("data", [b"", b"x", NOISE, TEXT, MIXED], ids=["empty", "one", "noise", "text", "mixed"])
def test_the_announced_size_is_the_size_and_every_pass_is_the_same(
    data: bytes, kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coldobject, "KEPT_BYTES_MAX", kept_bytes)

    async def check() -> None:
        source = await source_of(data)
        first, second = await stream_of(source), await stream_of(source)
        assert len(first) == source.size
        assert first == second
        assert source.layout == coldstream.parse_seek_table(first, len(first))
        reader = ColdReader()
        assert b"".join(bytes(piece) for piece in reader.feed(first)) == data
        reader.finish()

    run(check)


def test_noise_is_read_once_and_text_shrinks() -> None:
    async def check() -> None:
        hot = Hot(NOISE)
        source = await source_of(NOISE, hot)
        assert hot.read_bytes <= coldobject.SAMPLES * coldobject.SAMPLE_BYTES
        await stream_of(source)
        assert hot.read_bytes <= len(NOISE) + coldobject.SAMPLES * coldobject.SAMPLE_BYTES
        assert (await source_of(TEXT)).size < len(TEXT) // 20
        assert (await source_of(MIXED)).size < len(NOISE[:100_000]) + 10_000

    run(check)


def test_compression_goes_through_the_offload() -> None:
    async def check() -> None:
        calls = 0

        async def offload(call: Callable[[], Buffer]) -> Buffer:
            nonlocal calls
            calls += 1
            return await asyncio.to_thread(call)

        text = await ColdSource.prepare(
            META, len(TEXT), crc64nvme(TEXT), Hot(TEXT), offload=offload, frame_bytes=100_000
        )
        assert calls == 4
        assert len(await stream_of(text)) == text.size

    run(check)


@pytest.mark.parametrize("data", [NOISE, TEXT], ids=["noise", "text"])
@pytest.mark.parametrize("change", ["flip", "shorter", "longer"])
def test_content_that_is_not_what_was_announced_is_never_stored(data: bytes, change: str) -> None:
    async def check() -> None:
        wrong = {"flip": data[:-1] + bytes((data[-1] ^ 1,)), "shorter": data[:-1], "longer": data + b"x"}[change]
        memory = MemoryBacking()
        hot = Hot(data)
        source = await source_of(data, hot)
        hot.data = wrong
        source._kept = None  # as for a large object, or rot after sizing
        if change == "longer":
            source._content_bytes += 1
        with pytest.raises(Corrupt):
            await memory.put("k", source)
        assert [stat async for stat in memory.list("")] == []

    run(check)


async def stored(data: bytes, frame_bytes: int = 50_000) -> tuple[Faulty, coldstream.ColdLayout]:
    faulty = Faulty(MemoryBacking())
    source = await source_of(data, frame_bytes=frame_bytes)
    await faulty.put("k", source)
    assert source.layout is not None
    faulty.calls.clear()
    return faulty, source.layout


@pytest.mark.parametrize("data", [b"", NOISE, TEXT, MIXED], ids=["empty", "noise", "text", "mixed"])
def test_what_was_stored_is_read_back_with_few_requests(data: bytes) -> None:
    async def check() -> None:
        backing, layout = await stored(data)
        reader = ColdReader()
        assert await gather(read_object(backing, "k", reader)) == data
        assert reader.finish() == layout
        assert len(backing.calls) == 1
        backing.calls.clear()
        head = await read_head(backing, "k")
        assert (head.meta, head.size, head.crc64) == (META, len(data), crc64nvme(data))
        assert len(backing.calls) <= 2
        backing.calls.clear()
        assert await read_layout(backing, "k") == layout
        assert len(backing.calls) <= 3

    run(check)


@pytest.mark.parametrize("data", [NOISE, TEXT, MIXED], ids=["noise", "text", "mixed"])
@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 1), (0, 300_000), (49_999, 50_001), (50_000, 100_000), (123_456, 234_567), (299_999, 300_000), (5, 5)],
)
def test_a_range_read_fetches_only_the_frames_it_needs(data: bytes, start: int, stop: int) -> None:
    async def check() -> None:
        backing, layout = await stored(data[:300_000])
        tally: list[tuple[int, int | None]] = []

        class Watched(Faulty):
            def get(self, key: str, first: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
                tally.append((first, end))
                return super().get(key, first, end)

        watched = Watched(backing)
        assert await gather(read_range(watched, "k", start, stop, layout)) == data[start:stop]
        assert len(tally) == (0 if start == stop else 1)
        if start != stop:
            span = coldstream.frames_for_range(layout, start, stop)
            assert tally == [(span.encoded_start, span.encoded_stop)]
            assert span.stop - span.first <= (stop - start) // 50_000 + 2
        assert await gather(read_range(watched, "k", start, stop)) == data[start:stop]
        assert len(watched.calls) <= 4 + 1

    run(check)


def test_long_heads_and_tables_cost_one_request_more() -> None:
    async def check() -> None:
        meta = {"parts": [{"n": index, "etag": "e" * 32} for index in range(2000)]}
        data = NOISE[:200_000]
        source = await ColdSource.prepare(meta, len(data), crc64nvme(data), Hot(data), frame_bytes=100)
        faulty = Faulty(MemoryBacking())
        await faulty.put("k", source)
        faulty.calls.clear()
        assert (await read_head(faulty, "k")).meta == meta
        assert len(faulty.calls) == 3
        faulty.calls.clear()
        assert (await read_layout(faulty, "k")).frames == 2000
        assert len(faulty.calls) == 3

    run(check)


def test_a_changed_byte_is_never_given_out_by_a_range_read() -> None:
    async def check() -> None:
        backing, layout = await stored(NOISE)
        span = coldstream.frames_for_range(layout, 0, 120_000)
        for at in random.Random(4).sample(range(span.encoded_stop - span.encoded_start), 60):
            backing.script.append(Fault("flip", "get", at=at))
            got = bytearray()
            with pytest.raises(ColdCorrupt):
                await drain(read_range(backing, "k", 0, 120_000, layout), got)
            assert NOISE.startswith(got)
            assert len(got) <= at  # nothing of the frame that was hurt

    run(check)


def test_a_changed_or_missing_byte_is_found_by_a_whole_read() -> None:
    async def check() -> None:
        backing, layout = await stored(MIXED)
        for at in random.Random(5).sample(range(layout.encoded_bytes), 60):
            backing.script.append(Fault("flip", "get", at=at))
            with pytest.raises(ColdCorrupt):
                await gather(read_object(backing, "k"))
        backing.script.append(Fault("short", "get", at=1000))
        with pytest.raises(BackingCorrupt):
            await gather(read_object(backing, "k"))

    run(check)


def test_a_read_goes_on_over_a_cut_connection() -> None:
    async def check() -> None:
        backing, layout = await stored(MIXED)

        async def no_wait(_: float) -> None:
            pass

        patient = Retrying(backing, sleep=no_wait)
        backing.script.extend(Fault("cut", "get", at=at) for at in (0, 10, 9_000, 77_777))
        assert await gather(read_object(patient, "k")) == MIXED
        backing.script.extend(Fault("cut", "get", at=at) for at in (0, 10, 9_000))
        assert await gather(read_range(patient, "k", 1, 299_999, layout)) == MIXED[1:299_999]

    run(check)


def test_a_layout_of_an_older_object_is_found_out() -> None:
    async def check() -> None:
        backing, old = await stored(NOISE)
        newer = bytes(reversed(NOISE))
        await backing.put("k", await source_of(newer))
        with pytest.raises(BackingCorrupt):
            await gather(read_range(backing, "k", 10, 20, old))
        assert await gather(read_range(backing, "k", 10, 20)) == newer[10:20]

    run(check)


def test_a_foreign_object_is_refused() -> None:
    async def check() -> None:
        memory: Backing = MemoryBacking()
        for junk in (b"", b"x", b"not a cold object" * 100):
            await memory.put("k", BytesSource(junk))
            for call in (read_head(memory, "k"), read_layout(memory, "k"), gather(read_object(memory, "k"))):
                with pytest.raises(ColdCorrupt):
                    await call

    run(check)
