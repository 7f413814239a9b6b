"""Any bytes give well-formed responses to well-formed requests, or a 4xx and an end; never an exception."""

from __future__ import annotations

import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.wire.harness import Wire, parse_replies

PIECES = [
    b"GET ", b"HEAD ", b"PUT ", b"PRI * HTTP/2.0\r\n\r\n", b"/", b"/a?b", b"http://h/x", b"*", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n",
    b"Host: h\r\n", b"Host:\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: 2000000\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Connection: close\r\n",
    b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"Connection: upgrade\r\n",
    b" folded\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b"5\r\nhello\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"hello",
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
]  # fmt: skip

streams = st.lists(st.sampled_from(PIECES) | st.binary(max_size=12), max_size=14).map(b"".join)


@settings(max_examples=200, deadline=None)
@given(streams, st.lists(st.integers(1, 200), max_size=4), st.booleans())
@example(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nPUT", [], True)
def test_any_bytes_are_answered_in_form(stream: bytes, cuts: list[int], end: bool) -> None:
    answered_in_form(stream, cuts, end)


def answered_in_form(stream: bytes, cuts: list[int], end: bool) -> None:
    """What must hold of the answers to `stream`, delivered in the pieces that `cuts` make; `end`: then the peer closes."""
    problems: list[object] = []
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    with Wire() as wire:
        wire.loop.set_exception_handler(lambda loop, context: problems.append(context))
        wire.feed(*(stream[start:stop] for start, stop in itertools.pairwise(edges)))
        if end and not wire.transport.closing:
            wire.eof()
        replies = parse_replies(wire.out, [request.method for request in wire.app.requests])
        final = [status for status, _, _ in replies if status != 100]
        refused = [status for status in final if status != 200]
        assert refused == [] or (len(refused) == 1 and final[-1] == refused[0] and 400 <= refused[0] < 500)
        assert not refused or wire.transport.eof_sent or wire.transport.closing
        for request in wire.app.requests:
            assert request.path[:1] in (b"/", b"*")
            assert b"host" in request.headers or b"HTTP/1.0" in stream
        for _ in range(4):  # idle, or a head or a body never ended; then its linger
            wire.now_s += 100
            wire.connections.sweep()
            wire.settle()
        assert wire.transport.lost
        assert len(wire.app.finishes) == len(wire.app.requests)
    assert problems == []
