"""Heads that differ from one read before in a few values alone, as those of one client do: known without reading them again.

Promise: what `Shapes` answers is what the parser would have answered: all bytes but those of the holes are the ones it passed,
and a hole's hold nothing that could end a value or be stripped from it.
**Owns** the shapes seen last. **Does not know** what any header means, but for those that can never be holes because they
decide where a request ends. Kind: owner (one a worker), bounded.
"""

from __future__ import annotations

from typing import Final

from s3api.message import Headers, Hole, Shape

_SHAPES_MAX: Final = 64
_BYTES_MAX: Final = 2 << 10
"""Of the header lines of a shape."""
_HOLES_MAX: Final = 6
_FIXED: Final = frozenset((b"host", b"connection", b"content-length", b"transfer-encoding", b"expect", b"upgrade"))
_PLAIN: Final = bytes(range(0x21, 0x7F))
_VALUE: Final = b" " + _PLAIN
_IN_TARGET: Final = _PLAIN.replace(b"#", b"")


class Shapes:
    """The shapes of heads, by the length of their header lines."""

    __slots__ = ("_shapes",)

    def __init__(self) -> None:
        self._shapes: dict[int, Shape] = {}

    def get(self, size: int) -> Shape | None:
        """The shape of so many bytes of header lines, the empty one included."""
        return self._shapes.get(size)

    def learn(self, lines: bytes, headers: Headers, length: int, expect: bool) -> None:
        """Remembers lines that were read: `headers` is what they say."""
        size = len(lines)
        if size > _BYTES_MAX:
            return
        known = self._shapes.get(size)
        holes = None if known is None or known.length != length else _differences(known, lines, headers)
        if holes is None and lines.count(b"\n") - 1 != len(headers):
            return  # a header was repeated
        if len(self._shapes) >= _SHAPES_MAX:
            self._shapes.clear()
        self._shapes[size] = Shape(lines, dict(headers), length, expect, holes or [])


def is_like(shape: Shape, head: bytes, start: int) -> bool:
    """Whether the header lines that begin at `start`, as many bytes as the shape's, are of that shape."""
    at = start
    place = 0
    for hole in shape.holes:
        first = start + hole.start
        if head[at:first] != shape.fixed[place]:
            return False
        at = start + hole.stop
        if not is_value(head[first:at]):
            return False
        place += 1
    return head[at:] == shape.fixed[place]


def is_value(value: bytes) -> bool:
    """Whether it can stand in the place of another value: nothing of it is stripped, and nothing is a control character."""
    return value.strip(b" ") == value and not value.translate(None, _VALUE)


def is_target(target: bytes) -> bool:
    """Whether the parser takes it for a target in origin form, as nearly all are."""
    return target.startswith(b"/") and not target.translate(None, _IN_TARGET)


def _differences(known: Shape, lines: bytes, headers: Headers) -> list[Hole] | None:
    """The holes of `known`, and those that `lines` shows; None where they are not alike."""
    old, new = known.lines.split(b"\r\n"), lines.split(b"\r\n")
    if len(old) != len(new) or len(headers) != len(known.headers):
        return None
    names = {hole.name for hole in known.holes}
    holes: list[Hole] = []
    at = 0
    for was, now in zip(old, new, strict=True):
        spelled, colon, value = now.partition(b": ")
        name = spelled.lower()
        if was != now or name in names:
            start, stop = at + len(spelled) + 2, at + len(now)
            if len(was) != len(now) or not was.startswith(spelled + colon) or not colon or name in _FIXED:
                return None
            if not value or headers.get(name) != value or not is_value(value):
                return None
            holes.append(Hole(name, start, stop))
        at += len(now) + 2
    return holes if len(holes) <= _HOLES_MAX else None
