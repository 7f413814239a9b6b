"""Chunked transfer coding: content and end whatever the cuts; strictness."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.chunked import ChunkedDecoder, FramingError


def decode(data: bytes, cuts: list[int]) -> tuple[bytes, int, bool]:
    """Content, bytes used, ended; each cut lies in a buffer of its own."""
    decoder = ChunkedDecoder()
    content = b""
    used = 0
    for start, stop in itertools.pairwise([0, *sorted(cuts), len(data)]):
        if decoder.ended:
            break
        buffer = bytearray(b"??" + data[start:stop])
        pieces: list[tuple[int, int]] = []
        used += decoder.feed(buffer, 2, len(buffer), pieces) - 2
        content += b"".join(bytes(buffer[first:last]) for first, last in pieces)
    return content, used, decoder.ended


GOOD = b'5\r\nhello\r\n00A;name="v" ; x\r\n0123456789\r\n1;\r\n!\r\n0\r\nX-Trailer: a\r\nY:\r\n\r\n'


@pytest.mark.parametrize("cut", range(len(GOOD) + 1))
def test_decode_gives_the_content_at_every_cut(cut: int) -> None:
    assert decode(GOOD + b"GET /", [cut]) == (b"hello0123456789!", len(GOOD), True)


def test_decode_gives_the_content_byte_by_byte() -> None:
    assert decode(GOOD, list(range(len(GOOD)))) == (b"hello0123456789!", len(GOOD), True)


@given(st.lists(st.binary(min_size=1, max_size=9000), max_size=6), st.lists(st.integers(0, 30000), max_size=6))
def test_decode_undoes_encode(chunks: list[bytes], cuts: list[int]) -> None:
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    inside = [cut for cut in cuts if cut < len(data)]
    assert decode(data, inside) == (b"".join(chunks), len(data), True)


def test_large_chunks_are_lent_where_they_lie() -> None:
    data = bytearray(b"2000\r\n" + bytes(8192) + b"\r\n2000\r\n" + bytes(8192) + b"\r\n")
    pieces: list[tuple[int, int]] = []
    ChunkedDecoder().feed(data, 0, len(data), pieces)
    assert pieces == [(6, 8198), (8206, 16398)]


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\n",
        b"1 \r\n",
        b"1\n",
        b"1\r\r\n",
        b"00000000000000001\r\n",
        b"1;a\x00b\r\n",
        b"1;a\rb\r\n",
        b"1;" + b"a" * 1100,
        b"1\r\nab\r\n",
        b"1\r\na\n",
        b"1\r\naX",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nA: b\r\n folded\r\n\r\n",
        b"0\r\nA: b\nC: d\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\n" + b"A: bbbbbbbbbbbb\r\n" * 2000,
        b"0\r\n" + b"A" * 20000,
    ],
)
def test_bad_framing_is_refused_whole_and_byte_by_byte(data: bytes) -> None:
    with pytest.raises(FramingError):
        decode(data, [])
    with pytest.raises(FramingError):
        decode(data, list(range(len(data))))


@given(st.binary(max_size=64))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        content, used, ended = decode(data, [])
    except FramingError:
        return
    assert used <= len(data)
    assert len(content) <= used
    assert ended or used == len(data)
