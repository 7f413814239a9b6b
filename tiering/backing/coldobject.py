"""Cold objects over the backing port: what is uploaded, and reads of the head, of the whole and of a range.

The format is `tiering.coldstream`'s; this module adds only when to ask the backing for which bytes. Requests a call:
`read_head` and `read_layout` at most three, `read_object` one, `read_range` one with a layout, else four.

Owns: nothing between calls. Does not know: which backing, residency, LMDB. Kind: shell (async over the port; the
caller's `offload` decides which thread compresses). Spec: docs/FORMAT.md, cold objects.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from tiering import coldstream
from tiering.backing.streams import closing
from tiering.coldstream import ColdCorrupt, ColdHead, ColdLayout, ColdReader, ColdWriter
from tiering.contract import Buffer, Corrupt
from tiering.ports import Backing

KEPT_BYTES_MAX: Final = 16 << 20
"""Compressed frames up to this are kept between sizing an object and sending it; above it they are compressed again."""
SAMPLES: Final = 8
SAMPLE_BYTES: Final = 8 << 10
_HEAD_GUESS_BYTES: Final = 8 << 10
_TAIL_GUESS_BYTES: Final = 16 << 10


class Content(Protocol):
    """The object's content `start:stop`, afresh at each call; a chunk is borrowed until the next is asked for."""

    def __call__(self, start: int, stop: int) -> AsyncIterator[Buffer]: ...


Offload = Callable[[Callable[[], Buffer]], Awaitable[Buffer]]
"""Runs a slow call that needs no loop, such as `asyncio.to_thread`."""


async def inline(call: Callable[[], Buffer]) -> Buffer:
    """The Offload for callers whose loop may wait: tests, command-line tools."""
    return call()


class ColdSource:
    """A BackingSource whose `size` is exact before the first byte is sent; made by `prepare`.

    A few samples decide for the whole object. Raw: the size is a formula, the content is read once. Compressed: the size
    is known only when every frame has been compressed, so `prepare` does that; frames up to KEPT_BYTES_MAX are kept and
    sent, those of larger objects are compressed again for each pass. A temporary file instead would need disk space
    exactly when demotion runs to free some; zstd gives the same bytes again for the same input and level.
    """

    def __init__(self, make: Callable[[], ColdWriter], content: Content, content_bytes: int, offload: Offload) -> None:
        self._make = make
        self._content = content
        self._content_bytes = content_bytes
        self._offload = offload
        self._kept: list[bytes] | None = None
        self.size = make().encoded_bytes
        self.layout: ColdLayout | None = None
        """Where the frames are: set once all content has been encoded."""

    @classmethod
    async def prepare(
        cls,
        meta: Mapping[str, Any],
        size: int,
        crc64: int,
        content: Content,
        *,
        offload: Offload = inline,
        frame_bytes: int = coldstream.FRAME_BYTES,
    ) -> ColdSource:
        """Decides raw or compressed and sizes the stream. Raises Corrupt when the content is not `size`, `crc64`."""
        samples = [await _sample(content, start, size) for start in _sample_starts(size)]
        compress = coldstream.worth_compressing(samples)

        def make() -> ColdWriter:
            return ColdWriter(meta, size, crc64, compress=compress, frame_bytes=frame_bytes)

        source = cls(make, content, size, offload)
        if compress:
            await source._size_up()
        return source

    async def chunks(self) -> AsyncIterator[Buffer]:
        """The stream. Raises Corrupt instead of the last chunk when the content is not what the metadata announces."""
        if self._kept is not None:
            for kept in self._kept:
                yield kept
            return
        left = self.size
        async with closing(self._encode()) as encoded:
            async for chunk in encoded:
                left -= len(chunk)
                if left < 0:
                    break
                yield chunk
        if left:
            # Another content, or another zstd: the uploader has not been given the whole, so nothing is stored.
            raise Corrupt("the object changed while it was being copied to the backing store")

    async def _size_up(self) -> None:
        total, kept = 0, []
        async with closing(self._encode()) as encoded:
            async for chunk in encoded:
                total += len(chunk)
                if total <= KEPT_BYTES_MAX:
                    kept.append(bytes(chunk))
        self.size = total
        self._kept = kept if total <= KEPT_BYTES_MAX else None

    async def _encode(self) -> AsyncIterator[Buffer]:
        writer = self._make()
        yield writer.head
        if self._content_bytes:
            async with closing(self._content(0, self._content_bytes)) as content:
                async for data in content:
                    view = memoryview(data)
                    while len(view):
                        taken = writer.fill(view)
                        if not taken:
                            raise Corrupt("the object holds more bytes than its record says")
                        view = view[taken:]
                        if writer.full:
                            # A raw frame is ready: only zstd is worth a trip to another thread.
                            yield await self._offload(writer.take) if writer.compresses else writer.take()
        try:
            tail = writer.finish()
        except ValueError:
            raise Corrupt("the object's bytes fail their checksum") from None
        self.layout = writer.layout
        yield tail


async def read_head(backing: Backing, key: str) -> ColdHead:
    """The metadata of a cold object. Raises ColdCorrupt and what the backing raises."""
    stat = await backing.stat(key)
    prefix = await _read(backing, key, 0, min(stat.size, _HEAD_GUESS_BYTES))
    need = coldstream.head_bytes(prefix)
    if need > stat.size:
        raise ColdCorrupt("the metadata frame is cut short")
    if need > len(prefix):
        prefix += await _read(backing, key, len(prefix), need)
    return coldstream.parse_head(prefix)


async def read_layout(backing: Backing, key: str) -> ColdLayout:
    """Where the frames are, from the end of the stream. Raises ColdCorrupt and what the backing raises."""
    size = (await backing.stat(key)).size
    tail = await _read(backing, key, max(0, size - _TAIL_GUESS_BYTES), size)
    if len(tail) < coldstream.FOOTER_BYTES:
        raise ColdCorrupt("too short to be a cold object")
    need = coldstream.seek_table_bytes(tail)
    if need > size:
        raise ColdCorrupt("the seek table is cut short")
    if need > len(tail):
        tail = await _read(backing, key, size - need, size - len(tail)) + tail
    return coldstream.parse_seek_table(tail, size)


async def read_object(backing: Backing, key: str, reader: ColdReader | None = None) -> AsyncIterator[Buffer]:
    """The content while it lands. Raises ColdCorrupt, at the end at the latest: only then is all of it vouched for.

    Give a `reader` of your own to look at its `head` after the first chunk and at `finish()` after the last.
    """
    reader = reader or ColdReader()
    async with closing(backing.get(key)) as stored:
        async for data in stored:
            for piece in reader.feed(data):
                yield piece
    reader.finish()


async def read_range(
    backing: Backing, key: str, start: int, stop: int, layout: ColdLayout | None = None
) -> AsyncIterator[Buffer]:
    """Content `start:stop` from the frames that hold it; every frame is checked before any of it is given out.

    Holds one encoded frame. A layout that is not of the object now stored under `key` ends in ColdCorrupt.
    """
    layout = layout or await read_layout(backing, key)
    if start == stop:
        return
    span = coldstream.frames_for_range(layout, start, stop)
    lengths = layout.lengths()
    held, frame = bytearray(), span.first
    async with closing(backing.get(key, span.encoded_start, span.encoded_stop)) as stored:
        async for data in stored:
            view = memoryview(data)
            while len(view):
                if frame == span.stop:
                    raise ColdCorrupt("the backing store sent more than was asked for")
                taken = view[: lengths[frame] - len(held)]
                view = view[len(taken) :]
                held += taken
                if len(held) < lengths[frame]:
                    break
                offset = frame * layout.frame_bytes
                pieces = coldstream.decode_frame(held, layout.content_bytes(frame), layout.sum_of(frame))
                for piece in pieces:
                    clipped = memoryview(piece)[max(0, start - offset) : max(0, stop - offset)]
                    offset += len(piece)
                    if len(clipped):
                        yield clipped
                held = bytearray()
                frame += 1
    if frame != span.stop:
        raise ColdCorrupt("the stream is cut short")


async def _read(backing: Backing, key: str, start: int, stop: int) -> bytes:
    if start == stop:
        return b""
    async with closing(backing.get(key, start, stop)) as stored:
        return b"".join([bytes(chunk) async for chunk in stored])


async def _sample(content: Content, start: int, size: int) -> bytes:
    async with closing(content(start, min(size, start + SAMPLE_BYTES))) as chunks:
        return b"".join([bytes(chunk) async for chunk in chunks])


def _sample_starts(size: int) -> list[int]:
    """Spread evenly, the first and the last bytes included; the whole of a small object."""
    if size <= SAMPLES * SAMPLE_BYTES:
        return list(range(0, size, SAMPLE_BYTES))
    return [index * (size - SAMPLE_BYTES) // (SAMPLES - 1) for index in range(SAMPLES)]
