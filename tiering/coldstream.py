"""The container of one cold object: a standard Zstandard stream that also carries its metadata and can be read in parts.

`zstd -d` of the whole gives the object's exact bytes. In order:

    head         skippable frame: magic, version, frame size, object size and CRC64NVME, metadata as JSON, its own CRC
    data frames  `frame_bytes` of content each, the last one less; none for an empty object. Either zstd-compressed with
                 zstd's content checksum, or *raw*: one valid frame of raw blocks with a fixed 9-byte header, built here
    sums         skippable frame: CRC64NVME of each data frame's content, and its own CRC
    seek table   of the zstd seekable format, over all the frames above: the last bytes tell where everything is

Why frames of 4 MiB: a range read fetches whole frames and so wastes at most two; a reader of compressed data holds one
at a time; and 32 MiB blocks get a table of eight entries. Why sums of our own when the seekable format has a checksum
field: that is XXH64, which the gateway has no fast code for, and raw frames would otherwise be checked only by reading
the whole object. KV-cache blocks are close to random, so raw frames are the common case and cost a memcpy.

Promise: a reader gives back what was written or raises ColdCorrupt; memory is bounded by one frame whatever the stream
claims. Content is passed on while it lands, so a whole read is only vouched for when `finish` returns; a range read
(`decode_frame`) is vouched for before the first byte leaves.

Owns: nothing. Does not know: where streams are kept, LMDB, asyncio. Kind: pure.
Spec: RFC 8878 (Zstandard), zstd seekable format 0.1.0, docs/FORMAT.md. A changed byte needs a new FORMAT_VERSION.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import zstandard

from tiering.contract import Buffer
from tiering.crc64 import combine_crc64nvme, crc64nvme
from tiering.ports import BackingCorrupt

FORMAT_VERSION: Final = 1
FRAME_BYTES: Final = 4 << 20
"""Content of one data frame."""
FRAME_BYTES_MAX: Final = 8 << 20
"""Largest frame a reader takes: also the window every zstd decoder must support (RFC 8878 §3.1.1.1.2)."""
META_BYTES_MAX: Final = 4 << 20
"""Largest metadata: 10,000 parts with their checksums are about 2 MiB of JSON."""
FRAMES_MAX: Final = 0x8000000
"""The seekable format's own limit on frames."""
PAGE_BYTES: Final = 4096
LEVEL: Final = 1
"""zstd level: cold objects are written once and read under pressure; higher levels cost more than they save here."""

HEAD_MAGIC: Final = 0x184D2A50
SUMS_MAGIC: Final = 0x184D2A51
SEEK_MAGIC: Final = 0x184D2A5E
SEEKABLE_MAGIC: Final = 0x8F92EAB1
ZSTD_MAGIC: Final = 0xFD2FB528
HEAD_SIGNATURE: Final = b"RECLcold"
SUMS_SIGNATURE: Final = b"RECLsums"

SKIP_BYTES: Final = 8
FOOTER_BYTES: Final = 9
_BLOCK_BYTES: Final = 128 << 10  # the largest block of a zstd frame
_RAW_HEADER: Final = struct.Struct("<IBI")  # magic, descriptor, content size
_RAW_DESCRIPTOR: Final = 0xA0  # 4-byte content size, single segment, no checksum, no dictionary
_CHECKSUM_FLAG: Final = 0x04
_SKIP: Final = struct.Struct("<II")
_HEAD: Final = struct.Struct("<8sHHIQQI")  # signature, version, 0, frame_bytes, size, crc64, JSON bytes
_CRC: Final = struct.Struct("<Q")
_FOOTER: Final = struct.Struct("<IBI")
_ENTRY: Final = struct.Struct("<II")
_FRAME_HEADER_BYTES_MAX: Final = 18

HEAD_BYTES_MIN: Final = SKIP_BYTES + _HEAD.size + 2 + _CRC.size
HEAD_BYTES_MAX: Final = SKIP_BYTES + _HEAD.size + META_BYTES_MAX + _CRC.size


class ColdCorrupt(BackingCorrupt):
    """Not a cold stream, or not the one that was written: what is wrong, never the content."""


class ColdHead(msgspec.Struct, frozen=True):
    """What the leading frame says. `encoded_bytes`: the length of that frame itself."""

    meta: dict[str, Any]
    size: int
    crc64: int
    frame_bytes: int
    encoded_bytes: int


class ColdLayout(msgspec.Struct, frozen=True, array_like=True):
    """Where the frames of one stream are: enough for a range read without asking for the tail first.

    `encoded`: the data frames' stored lengths, u32 little-endian each, "" when all are raw (then a formula gives them).
    `sums`: the CRC64NVME of each frame's content, u64 little-endian each. About 12 bytes per 4 MiB: a caller that finds
    this too large for its record (see `pack_layout`) drops it and reads the tail again.
    """

    size: int
    head_bytes: int
    frame_bytes: int
    encoded: bytes
    sums: bytes

    @property
    def frames(self) -> int:
        """Number of data frames."""
        return _frame_count(self.size, self.frame_bytes)

    @property
    def encoded_bytes(self) -> int:
        """Length of the whole stream. O(frames) when compressed."""
        data = sum(self.lengths()) if self.encoded else _raw_data_bytes(self.size, self.frame_bytes)
        return self.head_bytes + data + tail_bytes(self.frames)

    def lengths(self) -> Sequence[int]:
        """Stored length of each data frame."""
        if self.encoded:
            return (
                memoryview(self.encoded).cast("I")
                if _NATIVE_LITTLE
                else struct.unpack(f"<{self.frames}I", self.encoded)
            )
        full, rest = divmod(self.size, self.frame_bytes)
        lengths = [raw_frame_bytes(self.frame_bytes)] * full
        if rest:
            lengths.append(raw_frame_bytes(rest))
        return lengths

    def content_bytes(self, frame: int) -> int:
        """Content length of data frame `frame`."""
        return min(self.frame_bytes, self.size - frame * self.frame_bytes)

    def sum_of(self, frame: int) -> int:
        """CRC64NVME of the content of data frame `frame`."""
        (value,) = _CRC.unpack_from(self.sums, frame * _CRC.size)
        return int(value)

    @property
    def crc64(self) -> int:
        """CRC64NVME of all the content. O(frames)."""
        found = 0
        for frame in range(self.frames):
            found = combine_crc64nvme(found, self.sum_of(frame), self.content_bytes(frame))
        return found

    def validate(self) -> None:
        """Raises ColdCorrupt when the numbers contradict each other: a layout may come from a stream or a record."""
        if not 0 < self.frame_bytes <= FRAME_BYTES_MAX or not self.size >= 0 or self.frames > FRAMES_MAX:
            raise ColdCorrupt("the frame size or object size is out of bounds")
        if not HEAD_BYTES_MIN <= self.head_bytes <= HEAD_BYTES_MAX:
            raise ColdCorrupt("the head's length is out of bounds")
        if len(self.sums) != 8 * self.frames or len(self.encoded) not in (0, 4 * self.frames):
            raise ColdCorrupt("the number of frames does not fit the object size")
        for frame, length in enumerate(self.lengths() if self.encoded else ()):
            if not 0 < length <= raw_frame_bytes(self.content_bytes(frame)):
                raise ColdCorrupt("a frame's length is out of bounds")


class FrameSpan(msgspec.Struct, frozen=True):
    """The data frames `first:stop` of a stream, the bytes they occupy, and the content offset where they begin."""

    first: int
    stop: int
    encoded_start: int
    encoded_stop: int
    content_start: int


_NATIVE_LITTLE: Final = struct.pack("=I", 1) == struct.pack("<I", 1)


def raw_frame_bytes(content_bytes: int) -> int:
    """Length of a raw frame holding that much content."""
    return _RAW_HEADER.size + content_bytes + 3 * max(1, -(-content_bytes // _BLOCK_BYTES))


def tail_bytes(frames: int) -> int:
    """Length of the sums and the seek table of a stream of that many data frames: what a reader fetches from its end."""
    sums = SKIP_BYTES + len(SUMS_SIGNATURE) + 8 * frames + _CRC.size
    return sums + SKIP_BYTES + _ENTRY.size * (frames + 2) + FOOTER_BYTES


def seek_table_bytes(footer: Buffer) -> int:
    """How many bytes at the end of a stream hold the sums and the seek table, from its last `FOOTER_BYTES` bytes."""
    count, descriptor, magic = _FOOTER.unpack(bytes(footer[-FOOTER_BYTES:]))
    if magic != SEEKABLE_MAGIC or descriptor != 0 or not 2 <= count <= FRAMES_MAX:
        raise ColdCorrupt("no seek table at the end")
    return tail_bytes(count - 2)


def build_head(meta: Mapping[str, Any], size: int, crc64: int, frame_bytes: int = FRAME_BYTES) -> bytes:
    """The leading frame. `meta` must be JSON; raises ValueError when it is over META_BYTES_MAX."""
    text = msgspec.json.encode(meta)
    if len(text) > META_BYTES_MAX:
        raise ValueError(f"metadata of {len(text)} bytes is over {META_BYTES_MAX}")
    payload = _HEAD.pack(HEAD_SIGNATURE, FORMAT_VERSION, 0, frame_bytes, size, crc64, len(text)) + text
    return _skippable(HEAD_MAGIC, payload + _CRC.pack(crc64nvme(payload)))


def head_bytes(prefix: Buffer) -> int:
    """Length of the leading frame from its first 8 bytes; raises ColdCorrupt for anything that is not a cold stream."""
    if len(prefix) < SKIP_BYTES:
        raise ColdCorrupt("too short to be a cold object")
    magic, length = _SKIP.unpack_from(prefix)
    if magic != HEAD_MAGIC or not HEAD_BYTES_MIN <= SKIP_BYTES + length <= HEAD_BYTES_MAX:
        raise ColdCorrupt("not a cold object: no leading metadata frame")
    return SKIP_BYTES + int(length)


def parse_head(prefix: Buffer) -> ColdHead:
    """The leading frame; `prefix` holds at least `head_bytes(prefix)` bytes. Raises ColdCorrupt."""
    total = head_bytes(prefix)
    if len(prefix) < total:
        raise ColdCorrupt("the metadata frame is cut short")
    payload = memoryview(prefix)[SKIP_BYTES : total - _CRC.size]
    signature, version, zero, frame_bytes, size, crc64, length = _HEAD.unpack_from(payload)
    if signature != HEAD_SIGNATURE:
        raise ColdCorrupt("not a cold object: foreign metadata frame")
    if version != FORMAT_VERSION:
        raise ColdCorrupt(f"format version {version}; this release reads {FORMAT_VERSION}")
    if _CRC.unpack_from(prefix, total - _CRC.size)[0] != crc64nvme(payload):
        raise ColdCorrupt("the metadata frame fails its checksum")
    if zero != 0 or length != len(payload) - _HEAD.size or not 0 < frame_bytes <= FRAME_BYTES_MAX:
        raise ColdCorrupt("the metadata frame contradicts itself")
    if _frame_count(size, frame_bytes) > FRAMES_MAX - 2:
        raise ColdCorrupt("the object size is out of bounds")
    try:
        meta = msgspec.json.decode(payload[_HEAD.size :], type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ColdCorrupt("the metadata is not a JSON object") from error
    return ColdHead(meta, size, crc64, frame_bytes, total)


def build_tail(layout: ColdLayout) -> bytes:
    """The sums and the seek table."""
    payload = SUMS_SIGNATURE + layout.sums
    sums = _skippable(SUMS_MAGIC, payload + _CRC.pack(crc64nvme(payload)))
    entries = [_ENTRY.pack(layout.head_bytes, 0)]
    entries += (_ENTRY.pack(length, layout.content_bytes(frame)) for frame, length in enumerate(layout.lengths()))
    entries.append(_ENTRY.pack(len(sums), 0))
    table = b"".join(entries) + _FOOTER.pack(len(entries), 0, SEEKABLE_MAGIC)
    return sums + _skippable(SEEK_MAGIC, table)


def parse_seek_table(tail: Buffer, encoded_bytes: int) -> ColdLayout:
    """The layout, from the end of a stream of `encoded_bytes`; `tail` holds at least `seek_table_bytes` of it.

    Raises ColdCorrupt, also when the parts do not add up to `encoded_bytes`. O(frames).
    """
    if len(tail) < FOOTER_BYTES:
        raise ColdCorrupt("too short to be a cold object")
    length = seek_table_bytes(tail)
    if len(tail) < length or encoded_bytes < length:
        raise ColdCorrupt("the seek table is cut short")
    view = memoryview(tail)[len(tail) - length :]
    frames = (length - tail_bytes(0)) // 16
    sums_length = tail_bytes(frames) - (SKIP_BYTES + _ENTRY.size * (frames + 2) + FOOTER_BYTES)
    sums = _parse_sums(view[:sums_length], frames)
    table = view[sums_length:]
    if _SKIP.unpack_from(table) != (SEEK_MAGIC, len(table) - SKIP_BYTES):
        raise ColdCorrupt("the seek table's frame is wrong")
    numbers = struct.unpack(f"<{2 * (frames + 2)}I", table[SKIP_BYTES : len(table) - FOOTER_BYTES])
    encoded, content = numbers[0::2], numbers[1::2]
    if content[0] != 0 or content[-1] != 0 or encoded[-1] != sums_length:
        raise ColdCorrupt("the seek table does not describe a cold object")
    frame_bytes = content[1] if frames else FRAME_BYTES
    size = sum(content)
    packed = _pack_lengths(encoded[1:-1], size, frame_bytes) if 0 < frame_bytes <= FRAME_BYTES_MAX else b""
    layout = ColdLayout(size, encoded[0], frame_bytes, packed, sums)
    layout.validate()
    if any(layout.content_bytes(frame) != content[frame + 1] for frame in range(frames)):
        raise ColdCorrupt("the seek table's frames are uneven")
    if layout.encoded_bytes != encoded_bytes:
        raise ColdCorrupt("the seek table does not add up to the stream")
    return layout


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """A layout as a record keeps it: what follows from the object's size and checksum is left off."""

    head_bytes: int
    encoded: bytes = b""
    sums: bytes = b""
    frame_bytes: int = 0


def pack_layout(layout: ColdLayout, crc64: int | None) -> bytes:
    """A layout for a record that also has the content's size and, unless that is None, its checksum: some four bytes for
    one raw frame."""
    sums = b"" if crc64 is not None and layout.sums == _CRC.pack(crc64) else layout.sums
    frame_bytes = 0 if layout.frame_bytes == _usual_frame(layout.size) else layout.frame_bytes
    fields = (layout.head_bytes, layout.encoded, sums, frame_bytes)
    kept = 4 if frame_bytes else 3 if sums else 2 if layout.encoded else 1
    return msgspec.msgpack.encode(fields[:kept])


def unpack_layout(kept: bytes, size: int, crc64: int | None) -> ColdLayout:
    """What `pack_layout` was given; `size` and `crc64` from the record."""
    found = msgspec.msgpack.decode(kept, type=_Kept)
    frame_bytes = found.frame_bytes or _usual_frame(size)
    sums = found.sums
    if not sums and size and crc64 is not None:
        sums = _CRC.pack(crc64)
    return ColdLayout(size, found.head_bytes, frame_bytes, found.encoded, sums)


def frames_for_range(layout: ColdLayout, start: int, stop: int) -> FrameSpan:
    """The frames that hold content `start:stop`, which must lie in the object and not be empty."""
    if not 0 <= start < stop <= layout.size:
        raise ValueError(f"{start}:{stop} is not a range of {layout.size} bytes")
    first, end = start // layout.frame_bytes, -(-stop // layout.frame_bytes)
    if layout.encoded:
        lengths = layout.lengths()
        begin = layout.head_bytes + sum(lengths[:first])
        finish = begin + sum(lengths[first:end])
    else:
        begin = layout.head_bytes + first * raw_frame_bytes(layout.frame_bytes)
        finish = layout.head_bytes + _raw_data_bytes(min(end * layout.frame_bytes, layout.size), layout.frame_bytes)
    return FrameSpan(first, end, begin, finish, first * layout.frame_bytes)


def decode_frame(encoded: Buffer, content_bytes: int, crc64: int) -> list[Buffer]:
    """The content of one whole data frame, checked against its sum before any of it is given out. Raises ColdCorrupt.

    A raw frame gives views into `encoded`; nothing is copied.
    """
    pieces = _decode_whole(memoryview(encoded), content_bytes)
    found = 0
    for piece in pieces:
        found = crc64nvme(piece, found)
    if found != crc64:
        raise ColdCorrupt("a frame fails its checksum")
    return pieces


def worth_compressing(samples: Iterable[Buffer]) -> bool:
    """Whether an object is worth zstd's time, from a few samples of it: True when they shrink by an eighth or more."""
    plain = packed = 0
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    for sample in samples:
        plain += len(sample)
        packed += len(compressor.compress(sample))
    return packed * 8 < plain * 7


class ColdWriter:
    """Encodes one object. Feed its content with `fill`, `take` a frame whenever `full`, end with `finish`.

    `compress` False: every frame is raw and `encoded_bytes` is known from the start. True: a frame is compressed unless
    that gains nothing. Not for two threads at once, but the calls may come from different ones.
    """

    def __init__(
        self,
        meta: Mapping[str, Any],
        size: int,
        crc64: int,
        *,
        compress: bool = False,
        frame_bytes: int = FRAME_BYTES,
    ) -> None:
        if not 0 < frame_bytes <= FRAME_BYTES_MAX:
            raise ValueError(f"frames of {frame_bytes} bytes")
        self.head = build_head(meta, size, crc64, frame_bytes)
        self._size = size
        self._want_crc64 = crc64
        self._frame_bytes = frame_bytes
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True) if compress else None
        self._slot = bytearray(raw_frame_bytes(min(frame_bytes, size)))
        self._view = memoryview(self._slot)
        self._taken = 0  # content bytes of the frames already taken
        self._filled = 0  # content bytes in the slot
        self._frame_crc = 0
        self._crc64 = 0
        self._lengths: list[int] = []
        self._sums: list[int] = []

    @property
    def full(self) -> bool:
        """True when a frame is complete and must be taken before `fill` is called again."""
        return self._filled > 0 and self._filled == self._frame_size()

    @property
    def encoded_bytes(self) -> int:
        """Length of the whole stream when every frame is raw: the most it can be otherwise."""
        data = _raw_data_bytes(self._size, self._frame_bytes)
        return len(self.head) + data + tail_bytes(_frame_count(self._size, self._frame_bytes))

    @property
    def compresses(self) -> bool:
        """Whether `take` runs zstd."""
        return self._compressor is not None

    def fill(self, data: Buffer) -> int:
        """Copies content into the frame under way; returns how much of `data` it took."""
        room = self._frame_size() - self._filled
        view = memoryview(data)[:room]
        self._frame_crc = crc64nvme(view, self._frame_crc)
        if self._compressor is not None:
            self._view[self._filled : self._filled + len(view)] = view
        else:
            _fill_blocks(self._view, self._filled, view)
        self._filled += len(view)
        return len(view)

    def take(self) -> Buffer:
        """The full frame, encoded. Borrowed until the next `fill`. The slow call when compressing; holds no interpreter lock."""
        assert self.full
        content = self._filled
        encoded: Buffer | None = None
        if self._compressor is not None:
            encoded = self._compressor.compress(self._view[:content])
            if len(encoded) >= raw_frame_bytes(content):
                encoded = None
        if encoded is None:
            if self._compressor is not None:
                _spread_blocks(self._view, content)
            _write_raw_headers(self._slot, content)
            encoded = self._view[: raw_frame_bytes(content)]
        self._lengths.append(len(encoded))
        self._sums.append(self._frame_crc)
        self._crc64 = combine_crc64nvme(self._crc64, self._frame_crc, content)
        self._taken += content
        self._filled = self._frame_crc = 0
        return encoded

    def feed(self, data: Buffer) -> Iterator[Buffer]:
        """`fill` and `take` in one: the frames that `data` completes, each borrowed until the next. Must be run to its end."""
        view = memoryview(data)
        while len(view):
            taken = self.fill(view)
            if taken == 0:
                raise ValueError(f"more content than the {self._size} bytes announced")
            view = view[taken:]
            if self.full:
                yield self.take()

    def finish(self) -> bytes:
        """The tail. Raises ValueError when the content was not the announced bytes: such a stream must not be kept."""
        if self._taken != self._size or self._crc64 != self._want_crc64:
            raise ValueError("the content is not what the metadata announces")
        return build_tail(self.layout)

    @property
    def layout(self) -> ColdLayout:
        """Where the frames went; complete once all the content has been taken."""
        return _layout(self._size, len(self.head), self._frame_bytes, self._lengths, self._sums)

    def _frame_size(self) -> int:
        return min(self._frame_bytes, self._size - self._taken)


class ColdReader:
    """Decodes a stream that comes in pieces of any size. `feed` each, then `finish`.

    `head` is set as soon as the leading frame is complete. Raw frames are passed on while they land, in pieces that end on a page
    of the content; a compressed frame when it is complete.
    """

    def __init__(self) -> None:
        self.head: ColdHead | None = None
        self._held = bytearray()  # the part of a header, block header, compressed frame or tail that has come so far
        self._need = SKIP_BYTES  # `_held` is acted upon at this length
        self._step = self._on_skip_header
        self._raw_left = 0  # content bytes of the raw block under way
        self._frame_left = 0  # content bytes the raw frame under way still owes
        self._last_block = False
        self._content = 0
        self._frame_start = 0
        self._crc64 = 0  # of the complete frames
        self._frame_crc = 0
        self._lengths: list[int] = []
        self._sums: list[int] = []
        self._encoded_frame = 0
        self._plain: Buffer | None = None  # the content of a compressed frame that has just come
        self._rest = b""  # raw content that is not passed on yet: less than a page
        self._layout: ColdLayout | None = None

    def feed(self, data: Buffer) -> Iterator[Buffer]:
        """The content that `data` brought, in order: a piece for all that is raw, one for each compressed frame, which is only
        decompressed once it is asked for. Must be run to its end. Raises ColdCorrupt.
        """
        view = memoryview(data)
        raw: list[Buffer] = []
        while len(view):
            if self._raw_left:
                piece = view[: self._raw_left]
                view = view[len(piece) :]
                self._raw_left -= len(piece)
                self._passed(piece)
                raw.append(piece)
                if not self._raw_left:
                    self._end_raw_block()
                continue
            if self._layout is not None:
                raise ColdCorrupt("bytes after the end of the stream")
            taken = view[: self._need - len(self._held)]
            view = view[len(taken) :]
            self._held += taken
            if len(self._held) == self._need:
                self._step()
            if self._plain is not None:
                plain, self._plain = self._plain, None
                before = self._gathered(raw, all_of_it=True)
                if len(before):
                    yield before
                raw = []
                yield plain
        assert self.head is not None or not raw
        gathered = self._gathered(raw, all_of_it=self.head is None or self._content == self.head.size)
        if len(gathered):
            yield gathered

    def _gathered(self, pieces: list[Buffer], all_of_it: bool) -> Buffer:
        """Raw pieces in one, up to the last page of the content that is full; the rest comes with the next.

        What each further piece costs its writer, its readers and the system is several times a copy within the cache. And a page
        that is written in two goes is read from the device in between.
        """
        if len(self._rest):
            pieces.insert(0, self._rest)
        self._rest = b""
        if not pieces:
            return b""
        joined = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        over = 0 if all_of_it else min(self._content % PAGE_BYTES, len(joined))
        if not over:
            return joined
        view = memoryview(joined)
        self._rest = bytes(view[len(view) - over :])
        return view[: len(view) - over]

    def finish(self) -> ColdLayout:
        """Vouches for all that was given out, or raises ColdCorrupt. Returns the layout for later range reads."""
        if self.head is None or self._layout is None:
            raise ColdCorrupt("the stream is cut short")
        return self._layout

    def _passed(self, piece: Buffer) -> None:
        self._content += len(piece)
        self._frame_crc = crc64nvme(piece, self._frame_crc)

    def _await(self, step: Any, need: int) -> None:
        self._step, self._need = step, need

    def _on_skip_header(self) -> None:
        self._await(self._on_head, head_bytes(self._held))

    def _on_head(self) -> None:
        self.head = parse_head(self._held)
        self._held = bytearray()
        self._next_frame()

    def _next_frame(self) -> None:
        assert self.head is not None
        if self._content < self.head.size:
            self._await(self._on_frame_header, _RAW_HEADER.size)
            return
        if self._crc64 != self.head.crc64:
            raise ColdCorrupt("the content fails its checksum")
        self._await(self._on_tail, tail_bytes(len(self._sums)))

    def _expected(self) -> int:
        assert self.head is not None
        return min(self.head.frame_bytes, self.head.size - self._content)

    def _on_frame_header(self) -> None:
        # Nine bytes are a whole raw header, and less than any compressed frame with its checksum.
        magic, descriptor, content = _RAW_HEADER.unpack(self._held)
        if magic != ZSTD_MAGIC:
            raise ColdCorrupt("a data frame does not begin where it should")
        self._frame_crc, self._frame_start = 0, self._content
        if descriptor == _RAW_DESCRIPTOR:
            if content != self._expected():
                raise ColdCorrupt("a frame's content size is wrong")
            self._frame_left = content
            self._encoded_frame = raw_frame_bytes(content)
            self._held = bytearray()
            self._await(self._on_raw_block, 3)
            return
        if not descriptor & _CHECKSUM_FLAG:
            raise ColdCorrupt("a compressed frame without checksum")
        header = zstandard.frame_header_size(bytes(self._held) + bytes(_FRAME_HEADER_BYTES_MAX - len(self._held)))
        if header + 3 <= len(self._held):
            self._on_packed_block_at(header)
        else:
            self._await(self._on_packed_block, header + 3)

    def _on_raw_block(self) -> None:
        last, kind, length = _block_header(self._held)
        if kind != 0 or length != min(_BLOCK_BYTES, self._frame_left) or last != (length == self._frame_left):
            raise ColdCorrupt("a raw block's header is wrong")
        self._held = bytearray()
        self._frame_left -= length
        self._last_block = last
        self._raw_left = length

    def _end_raw_block(self) -> None:
        if self._last_block:
            self._end_frame()
        else:
            self._await(self._on_raw_block, 3)

    def _on_packed_block(self) -> None:
        self._on_packed_block_at(len(self._held) - 3)

    def _on_packed_block_at(self, offset: int) -> None:
        """A block header at `offset` of the frame held so far says how much more belongs to the frame."""
        last, kind, length = _block_header(self._held[offset : offset + 3])
        if kind == 3:
            raise ColdCorrupt("a block of a reserved kind")
        end = offset + 3 + (1 if kind == 1 else length) + (4 if last else 3)
        if end > raw_frame_bytes(self._expected()) or end < len(self._held):
            raise ColdCorrupt("a compressed frame is longer than its content")
        self._await(self._on_packed_frame if last else self._on_packed_block, end)

    def _on_packed_frame(self) -> None:
        encoded, self._held = self._held, bytearray()
        self._encoded_frame = len(encoded)
        self._plain = _decompress(memoryview(encoded), self._expected())
        self._passed(self._plain)
        self._end_frame()

    def _end_frame(self) -> None:
        self._lengths.append(self._encoded_frame)
        self._sums.append(self._frame_crc)
        self._crc64 = combine_crc64nvme(self._crc64, self._frame_crc, self._content - self._frame_start)
        self._next_frame()

    def _on_tail(self) -> None:
        assert self.head is not None
        head = self.head
        layout = _layout(head.size, head.encoded_bytes, head.frame_bytes, self._lengths, self._sums)
        # Closed world: the tail has exactly one right form, so it is compared, not parsed.
        if self._held != build_tail(layout):
            raise ColdCorrupt("the seek table does not match the frames")
        self._layout = layout


def _frame_count(size: int, frame_bytes: int) -> int:
    return -(-size // frame_bytes)


def _raw_data_bytes(size: int, frame_bytes: int) -> int:
    full, rest = divmod(size, frame_bytes)
    return full * raw_frame_bytes(frame_bytes) + (raw_frame_bytes(rest) if rest else 0)


def _skippable(magic: int, payload: bytes) -> bytes:
    return _SKIP.pack(magic, len(payload)) + payload


def _layout(size: int, head: int, frame_bytes: int, lengths: Sequence[int], sums: Sequence[int]) -> ColdLayout:
    """One object, one layout: the frame size is cut to the object's, as a reader of the seek table alone sees it."""
    frame_bytes = _usual_frame(size, frame_bytes)
    packed = _pack_lengths(lengths, size, frame_bytes)
    return ColdLayout(size, head, frame_bytes, packed, struct.pack(f"<{len(sums)}Q", *sums))


def _usual_frame(size: int, frame_bytes: int = FRAME_BYTES) -> int:
    return min(frame_bytes, size) or FRAME_BYTES


def _pack_lengths(lengths: Sequence[int], size: int, frame_bytes: int) -> bytes:
    """As ColdLayout.encoded: "" when every frame has the length of a raw one."""
    full, rest = divmod(size, frame_bytes)
    raw = raw_frame_bytes(frame_bytes)
    if (
        all(length == raw for length in lengths[:full])
        and list(lengths[full:]) == [raw_frame_bytes(rest)][: bool(rest)]
    ):
        return b""
    return struct.pack(f"<{len(lengths)}I", *lengths)


def _parse_sums(frame: memoryview, frames: int) -> bytes:
    payload = frame[SKIP_BYTES : len(frame) - _CRC.size]
    if _SKIP.unpack_from(frame) != (SUMS_MAGIC, len(frame) - SKIP_BYTES) or bytes(payload[:8]) != SUMS_SIGNATURE:
        raise ColdCorrupt("no checksums before the seek table")
    if _CRC.unpack_from(frame, len(frame) - _CRC.size)[0] != crc64nvme(payload):
        raise ColdCorrupt("the checksums fail their checksum")
    return bytes(payload[8:])


def _block_header(three: Buffer) -> tuple[bool, int, int]:
    """(last, kind, length) of a zstd block: kind 0 raw, 1 one repeated byte, 2 compressed, 3 reserved."""
    value = int.from_bytes(three, "little")
    return bool(value & 1), value >> 1 & 3, value >> 3


def _fill_blocks(slot: memoryview, filled: int, data: memoryview) -> None:
    """Writes content at content offset `filled` of a raw frame, around the places of the block headers."""
    while len(data):
        block, within = divmod(filled, _BLOCK_BYTES)
        piece = data[: _BLOCK_BYTES - within]
        at = _RAW_HEADER.size + 3 * (block + 1) + filled
        slot[at : at + len(piece)] = piece
        filled += len(piece)
        data = data[len(piece) :]


def _spread_blocks(slot: memoryview, content: int) -> None:
    """Moves contiguous content to where a raw frame has it: from the last block back, so that nothing is overwritten."""
    for start in range((max(content, 1) - 1) // _BLOCK_BYTES * _BLOCK_BYTES, -1, -_BLOCK_BYTES):
        stop = min(start + _BLOCK_BYTES, content)
        at = _RAW_HEADER.size + 3 * (start // _BLOCK_BYTES + 1) + start
        slot[at : at + stop - start] = slot[start:stop]


def _write_raw_headers(slot: bytearray, content: int) -> None:
    _RAW_HEADER.pack_into(slot, 0, ZSTD_MAGIC, _RAW_DESCRIPTOR, content)
    for start in range(0, content, _BLOCK_BYTES):
        length = min(_BLOCK_BYTES, content - start)
        at = _RAW_HEADER.size + 3 * (start // _BLOCK_BYTES) + start
        slot[at : at + 3] = (length << 3 | (start + length == content)).to_bytes(3, "little")


def _decode_whole(encoded: memoryview, content_bytes: int) -> list[Buffer]:
    """The content of one complete data frame, its structure and size checked."""
    if len(encoded) < _RAW_HEADER.size:
        raise ColdCorrupt("a frame is cut short")
    magic, descriptor, content = _RAW_HEADER.unpack_from(encoded)
    if magic != ZSTD_MAGIC:
        raise ColdCorrupt("a data frame does not begin where it should")
    if descriptor != _RAW_DESCRIPTOR:
        return [_decompress(encoded, content_bytes)]
    if content != content_bytes or len(encoded) != raw_frame_bytes(content_bytes):
        raise ColdCorrupt("a frame's content size is wrong")
    pieces: list[Buffer] = []
    at = _RAW_HEADER.size
    for start in range(0, content_bytes, _BLOCK_BYTES):
        length = min(_BLOCK_BYTES, content_bytes - start)
        if _block_header(encoded[at : at + 3]) != (start + length == content_bytes, 0, length):
            raise ColdCorrupt("a raw block's header is wrong")
        pieces.append(encoded[at + 3 : at + 3 + length])
        at += 3 + length
    return pieces


def _decompress(encoded: memoryview, content_bytes: int) -> bytes:
    """Refused before anything is allocated when the frame claims another content size or a larger window."""
    try:
        facts = zstandard.get_frame_parameters(encoded)
        if facts.content_size != content_bytes or facts.dict_id or not facts.has_checksum:
            raise ColdCorrupt("a frame's content size is wrong")
        if facts.window_size > FRAME_BYTES_MAX:
            raise ColdCorrupt("a frame's window is out of bounds")
        plain: bytes = zstandard.ZstdDecompressor(max_window_size=FRAME_BYTES_MAX).decompress(
            encoded, max_output_size=content_bytes, read_across_frames=False, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise ColdCorrupt("a frame does not decompress") from error
    if len(plain) != content_bytes:
        raise ColdCorrupt("a frame's content size is wrong")
    return plain
