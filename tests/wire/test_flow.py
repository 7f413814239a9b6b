"""`gateway.http.flow`: where body bytes are received."""

from __future__ import annotations

import asyncio

import pytest

from gateway.http.flow import PAGE_BYTES, ROOMY, Block, Blocks, InboundBody

BLOCK = 64 << 10
SMALL = 8 << 10


class _Source:
    """A sender that is faster than we are, for `arrivals` asks; then nothing is there yet."""

    def __init__(self, arrivals: int = 1 << 30) -> None:
        self.arrivals = arrivals

    def send_continue(self) -> None: ...

    def receive_now(self, view: memoryview) -> int:
        self.arrivals -= 1
        return len(view) if self.arrivals >= 0 else 0

    def behind(self, extra: memoryview) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


@pytest.mark.parametrize("first", [0, 1, 1000, PAGE_BYTES, PAGE_BYTES + 1, BLOCK - 1, BLOCK])
@pytest.mark.parametrize("length", [BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK - 7])
def test_pieces_of_a_fast_body_end_on_its_pages(first: int, length: int) -> None:
    async def main() -> list[int]:
        blocks = Blocks(BLOCK, 4, SMALL)
        body = InboundBody(_Source(), asyncio.get_running_loop(), blocks, length, False)
        if first:
            body.adopt(*blocks.take_current(0, first))
        sizes = []
        while view := await body.read():
            sizes.append(len(view))
        return sizes

    sizes = asyncio.run(main())
    assert sum(sizes) == length
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    assert all(end % PAGE_BYTES == 0 for end in ends[(1 if first else 0) : -1])
    assert len(sizes) <= 2 + -(-length // (BLOCK - PAGE_BYTES))


@pytest.mark.parametrize(
    ("arrived", "expecting", "whole"), [(9, False, b"some body"), (8, False, None), (9, True, None)]
)
def test_a_body_is_had_at_once_when_all_of_it_is_there(arrived: int, expecting: bool, whole: bytes | None) -> None:
    async def main() -> tuple[bytes | None, bytes]:
        blocks = Blocks(BLOCK, 4, SMALL)
        body = InboundBody(_Source(), asyncio.get_running_loop(), blocks, 9, expecting)
        blocks.current.data[3:12] = b"some body"
        body.adopt(*blocks.take_current(3, 3 + arrived))
        found = body.whole()
        return None if found is None else bytes(found), bytes(await body.read())

    found, rest = asyncio.run(main())
    assert found == whole
    assert rest == (b"" if whole is not None else b"some body"[:arrived])


def test_a_body_read_to_its_end_holds_no_block() -> None:
    async def main() -> list[int]:
        blocks = Blocks(BLOCK, 4, SMALL)
        body = InboundBody(_Source(), asyncio.get_running_loop(), blocks, 9, False)
        body.adopt(*blocks.take_current(0, 9))
        held = [blocks._out]
        while await body.read():
            held.append(blocks._out)
        held.append(blocks._out)
        body.close(True)
        return [*held, blocks._out]

    assert asyncio.run(main()) == [1, 1, 0, 0]


def test_a_body_had_at_once_holds_no_block_once_it_is_done_with() -> None:
    async def main() -> list[int]:
        blocks = Blocks(BLOCK, 4, SMALL)
        body = InboundBody(_Source(), asyncio.get_running_loop(), blocks, 9, False)
        body.adopt(*blocks.take_current(0, 9))
        assert body.whole() is not None
        held = [blocks.busy]
        body.done()
        held.append(blocks.busy)
        body.close(True)
        return [*held, blocks.busy, blocks._out]

    assert asyncio.run(main()) == [1, 0, 0, 0]


def test_with_many_bodies_each_has_a_small_block() -> None:
    blocks = Blocks(BLOCK, 4, SMALL)
    large = [blocks.take() for _ in range(ROOMY)]
    assert blocks.crowded
    assert {len(block.view) for block in large} == {BLOCK}
    small = blocks.take()
    assert len(small.view) == SMALL
    assert len(blocks.take(large=True).view) == BLOCK
    blocks.current.view[5:9] = b"body"
    copied, start, stop = blocks.take_current(5, 9)
    assert (bytes(copied.view[start:stop]), len(copied.view)) == (b"body", SMALL)
    for block in (small, copied, Block(BLOCK), *large[1:]):
        blocks.give(block)
    assert not blocks.crowded
    assert len(blocks.take().view) == BLOCK


@pytest.mark.parametrize("crowd", [0, ROOMY])
def test_a_body_that_waits_for_its_sender_holds_no_block(crowd: int) -> None:
    async def main() -> tuple[bytes, int]:
        blocks = Blocks(BLOCK, 4, SMALL)
        others = [blocks.take() for _ in range(crowd)]
        length = 3 * BLOCK
        body = InboundBody(_Source(0), asyncio.get_running_loop(), blocks, length, False)
        got = b""
        reading = asyncio.ensure_future(body.read())
        while len(got) < length:
            await asyncio.sleep(0)
            assert (body._block, len(others)) == (None, crowd)  # what is counted is what is held
            assert blocks.crowded == (crowd > 0)
            room = body.room()
            count = min(len(room), 5000)
            room[:count] = bytes((at * 7) % 251 for at in range(len(got), len(got) + count))
            body.received(count)
            got += await reading
            reading = asyncio.ensure_future(body.read())
        assert not await reading
        body.close(True)
        return got, blocks._out

    got, out = asyncio.run(main())
    assert got == bytes((at * 7) % 251 for at in range(3 * BLOCK))
    assert out == crowd
