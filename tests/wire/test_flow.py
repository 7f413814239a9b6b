"""`gateway.http.flow`: where body bytes are received."""

from __future__ import annotations

import asyncio

import pytest

from gateway.http.flow import PAGE_BYTES, Blocks, InboundBody

BLOCK = 64 << 10


class _Source:
    def send_continue(self) -> None: ...

    def receive_now(self, view: memoryview) -> int:
        return len(view)  # a sender faster than we are

    def behind(self, extra: memoryview) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


@pytest.mark.parametrize("first", [0, 1, 1000, PAGE_BYTES, PAGE_BYTES + 1, BLOCK - 1, BLOCK])
@pytest.mark.parametrize("length", [BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK - 7])
def test_pieces_of_a_fast_body_end_on_its_pages(first: int, length: int) -> None:
    async def main() -> list[int]:
        blocks = Blocks(BLOCK, 4)
        body = InboundBody(_Source(), asyncio.get_running_loop(), blocks, length, False)
        if first:
            body.adopt(blocks.take_current(), 0, first)
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
        blocks = Blocks(BLOCK, 4)
        body = InboundBody(_Source(), asyncio.get_running_loop(), blocks, 9, expecting)
        block = blocks.take_current()
        block.data[3:12] = b"some body"
        body.adopt(block, 3, 3 + arrived)
        found = body.whole()
        return None if found is None else bytes(found), bytes(await body.read())

    found, rest = asyncio.run(main())
    assert found == whole
    assert rest == (b"" if whole is not None else b"some body"[:arrived])
