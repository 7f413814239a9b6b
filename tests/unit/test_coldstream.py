"""The container of a cold object: exact bytes, any split, every corruption, bounds."""

from __future__ import annotations

import io
import itertools
import shutil
import struct
import subprocess

import pytest
import zstandard
from awscrt.checksums import crc64nvme
from hypothesis import given, settings
from hypothesis import strategies as st

from tiering import coldstream
from tiering.coldstream import PAGE_BYTES, ColdCorrupt, ColdReader, ColdWriter

ZSTD = shutil.which("zstd")
META = {"bucket": "b", "key": "k", "generation": 7}


def noise(size: int) -> bytes:
    """Bytes that do not compress, the same each time."""
    state, out = 0x9E3779B97F4A7C15, bytearray()
    while len(out) < size:
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        out += (state >> 24).to_bytes(5, "little")
    return bytes(out[:size])


def encode(data: bytes, *, compress: bool = False, frame_bytes: int = 1000) -> tuple[bytes, coldstream.ColdLayout]:
    writer = ColdWriter(META, len(data), crc64nvme(data), compress=compress, frame_bytes=frame_bytes)
    stream = b"".join([writer.head, *(bytes(piece) for piece in writer.feed(data)), writer.finish()])
    return stream, writer.layout


def decode(stream: bytes, splits: tuple[int, ...] = ()) -> tuple[bytes, coldstream.ColdLayout]:
    reader, content = ColdReader(), bytearray()
    cuts = [0, *sorted(splits), len(stream)]
    for start, stop in itertools.pairwise(cuts):
        for piece in reader.feed(stream[start:stop]):
            content += piece
    return bytes(content), reader.finish()


def ranged(stream: bytes, start: int, stop: int) -> bytes:
    layout = coldstream.parse_seek_table(stream, len(stream))
    span = coldstream.frames_for_range(layout, start, stop)
    at, content = span.encoded_start, bytearray()
    for frame in range(span.first, span.stop):
        length = layout.lengths()[frame]
        for piece in coldstream.decode_frame(
            stream[at : at + length], layout.content_bytes(frame), layout.sum_of(frame)
        ):
            content += piece
        at += length
    assert at == span.encoded_stop
    return bytes(content[start - span.content_start : stop - span.content_start])


SIZES = [0, 1, 255, 256, 999, 1000, 1001, 65_791, 65_792, 131_071, 131_072, 131_073, 300_000]
FRAMES = [1000, 131_072, 200_000, coldstream.FRAME_BYTES]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("frame_bytes", FRAMES)
@pytest.mark.parametrize("size", SIZES)
def test_round_trip_by_every_reader(size: int, frame_bytes: int, compress: bool) -> None:
    data = (noise(size // 2) + b"abc" * size)[:size]
    stream, layout = encode(data, compress=compress, frame_bytes=frame_bytes)
    assert decode(stream) == (data, layout)
    assert coldstream.parse_seek_table(stream, len(stream)) == layout
    assert layout.encoded_bytes == len(stream)
    assert coldstream.parse_head(stream).meta == META
    if size:
        assert ranged(stream, 0, size) == data
        assert ranged(stream, size // 3, size // 3 + 1) == data[size // 3 : size // 3 + 1]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("size", [0, 1, 1000, 300_000])
def test_the_whole_is_a_standard_zstandard_stream(size: int, compress: bool) -> None:
    data = (noise(size // 2) + b"abc" * size)[:size]
    stream, _ = encode(data, compress=compress, frame_bytes=70_000)
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(stream), read_across_frames=True)
    assert reader.read() == data
    if ZSTD:
        assert subprocess.run([ZSTD, "-dc"], input=stream, capture_output=True, check=True).stdout == data


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_content_any_split_round_trips(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.binary(max_size=300) | st.integers(1, 400).map(lambda n: b"\0" * n), max_size=5))
    content = b"".join(parts)
    frame_bytes = data.draw(st.integers(1, 700))
    compress = data.draw(st.booleans())
    writer = ColdWriter(META, len(content), crc64nvme(content), compress=compress, frame_bytes=frame_bytes)
    stream = bytearray(writer.head)
    for part in parts:
        for piece in writer.feed(part):
            stream += piece
    stream += writer.finish()
    splits = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    assert decode(bytes(stream), tuple(splits)) == (content, writer.layout)
    if content:
        start = data.draw(st.integers(0, len(content) - 1))
        stop = data.draw(st.integers(start + 1, len(content)))
        assert ranged(bytes(stream), start, stop) == content[start:stop]


@pytest.mark.parametrize("compress", [False, True])
def test_byte_by_byte_is_the_same(compress: bool) -> None:
    data = noise(500) + b"x" * 2500
    stream, layout = encode(data, compress=compress)
    assert decode(stream, tuple(range(1, len(stream)))) == (data, layout)


def test_content_comes_while_it_lands_and_in_whole_pages() -> None:
    data = noise(3 * PAGE_BYTES + 500)
    stream, layout = encode(data, frame_bytes=1 << 20)
    reader = ColdReader()
    assert list(reader.feed(stream[: layout.head_bytes])) == []
    assert reader.head is not None
    assert (reader.head.size, reader.head.meta) == (len(data), META)
    assert list(reader.feed(stream[layout.head_bytes : layout.head_bytes + 100])) == []
    at = layout.head_bytes + 12 + PAGE_BYTES + 1
    assert list(reader.feed(stream[layout.head_bytes + 100 : at])) == [data[:PAGE_BYTES]]
    at_last = layout.head_bytes + 12 + len(data) - 1
    assert list(reader.feed(stream[at:at_last])) == [data[PAGE_BYTES : 3 * PAGE_BYTES]]
    assert list(reader.feed(stream[at_last:])) == [data[3 * PAGE_BYTES :]]
    reader.finish()


def test_compressed_frames_that_come_at_once_are_decompressed_one_by_one() -> None:
    stream, layout = encode(bytes(64_000), compress=True, frame_bytes=1000)
    damaged = bytearray(stream)
    damaged[layout.head_bytes + sum(layout.lengths()[:50]) - 1] ^= 1  # the checksum of the 50th
    pieces = ColdReader().feed(damaged)
    assert [next(pieces) for _ in range(49)] == [bytes(1000)] * 49
    with pytest.raises(ColdCorrupt):
        next(pieces)


def test_raw_size_is_known_before_the_first_byte() -> None:
    data = noise(10_500)
    writer = ColdWriter(META, len(data), crc64nvme(data), frame_bytes=1000)
    announced = writer.encoded_bytes
    stream, layout = encode(data)
    assert announced == len(stream)
    assert layout.encoded == b""  # a formula, not a list


def test_compressing_shrinks_and_never_grows_a_frame() -> None:
    data = noise(1000) + bytes(1000)
    stream, layout = encode(data, compress=True)
    first, second = layout.lengths()
    assert first == coldstream.raw_frame_bytes(1000)
    assert second < 100
    assert decode(stream)[0] == data


# The pinned bytes. If this test fails, the format has changed: raise FORMAT_VERSION, keep reading the old one.

PINNED = (
    "502a4d18470000005245434c636f6c64010000000800000014000000000000008253838e7bede7ba1b0000007b226275636b"
    "6574223a2262222c226b6579223a226b20c3a9227d553e001320720e1f28b52ffda008000000410000616263646566676828"
    "b52ffda008000000410000696a6b6c6d6e6f7028b52ffda00400000021000071727374512a4d18280000005245434c73756d"
    "73e6bd2201970ad6a433f275de6301813ba58ea8b799171e65186eedeb0965a2a45e2a4d18310000004f0000000000000014"
    "000000080000001400000008000000100000000400000030000000000000000500000000b1ea928f"
)


def test_the_format_is_pinned_byte_for_byte() -> None:
    data = b"abcdefghijklmnopqrst"
    writer = ColdWriter({"bucket": "b", "key": "k é"}, 20, crc64nvme(data), frame_bytes=8)
    stream = b"".join([writer.head, *(bytes(piece) for piece in writer.feed(data)), writer.finish()])
    text = '{"bucket":"b","key":"k é"}'.encode()
    payload = b"RECLcold" + struct.pack("<HHIQQI", 1, 0, 8, 20, crc64nvme(data), len(text)) + text
    head = struct.pack("<II", 0x184D2A50, len(payload) + 8) + payload + struct.pack("<Q", crc64nvme(payload))
    frames = [
        bytes.fromhex("28b52ffda008000000410000") + b"abcdefgh",
        bytes.fromhex("28b52ffda008000000410000") + b"ijklmnop",
        bytes.fromhex("28b52ffda004000000210000") + b"qrst",
    ]
    summed = b"RECLsums" + b"".join(struct.pack("<Q", crc64nvme(part)) for part in (data[:8], data[8:16], data[16:]))
    sums = struct.pack("<II", 0x184D2A51, len(summed) + 8) + summed + struct.pack("<Q", crc64nvme(summed))
    table = struct.pack("<10I", len(head), 0, 20, 8, 20, 8, 16, 4, len(sums), 0)
    footer = struct.pack("<IBI", 5, 0, 0x8F92EAB1)
    seek = struct.pack("<II", 0x184D2A5E, len(table) + 9) + table + footer
    assert stream == head + b"".join(frames) + sums + seek
    # And once in numbers that owe nothing to struct or crc64nvme:
    assert stream.hex() == PINNED


@pytest.mark.parametrize("compress", [False, True])
def test_every_changed_byte_is_found(compress: bool) -> None:
    data = noise(30) + b"z" * 90
    stream, _ = encode(data, compress=compress, frame_bytes=50)
    for at in range(len(stream)):
        for bit in (0x01, 0x80):
            changed = bytearray(stream)
            changed[at] ^= bit
            with pytest.raises(ColdCorrupt):
                decode(bytes(changed))


@pytest.mark.parametrize("compress", [False, True])
def test_every_cut_is_found(compress: bool) -> None:
    stream, _ = encode(noise(30) + b"z" * 90, compress=compress, frame_bytes=50)
    for stop in range(len(stream)):
        with pytest.raises(ColdCorrupt):
            decode(stream[:stop])
    for extra in (b"\0", stream[:12]):
        with pytest.raises(ColdCorrupt, match="after the end"):
            decode(stream + extra)


@pytest.mark.parametrize("compress", [False, True])
def test_every_changed_byte_of_a_range_read_is_found_or_harmless(compress: bool) -> None:
    data = noise(30) + b"z" * 90
    stream, _ = encode(data, compress=compress, frame_bytes=50)
    for at in range(len(stream)):
        changed = bytearray(stream)
        changed[at] ^= 0x10
        try:
            assert ranged(bytes(changed), 20, 110) == data[20:110]
        except ColdCorrupt:
            continue


def test_a_frame_of_another_place_is_found() -> None:
    data = noise(3000)
    stream, layout = encode(data)
    length = layout.lengths()[0]
    second = stream[layout.head_bytes + length : layout.head_bytes + 2 * length]
    with pytest.raises(ColdCorrupt, match="checksum"):
        coldstream.decode_frame(second, 1000, layout.sum_of(0))


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("empty", b""),
        ("text", b"hello, this is not a cold object at all"),
        ("zstd", zstandard.compress(b"plain zstd" * 10)),
        ("other-skippable", struct.pack("<II", 0x184D2A50, 60) + bytes(60)),
        ("huge-head", struct.pack("<II", 0x184D2A50, 0xFFFFFFF0) + bytes(60)),
        ("seekable-only", struct.pack("<II", 0x184D2A5E, 9) + struct.pack("<IBI", 0, 0, 0x8F92EAB1)),
    ],
)
def test_a_foreign_stream_is_refused(name: str, stream: bytes) -> None:
    with pytest.raises(ColdCorrupt):
        decode(stream)
    with pytest.raises(ColdCorrupt):
        coldstream.parse_seek_table(stream, len(stream))


def test_another_version_is_refused_by_number() -> None:
    payload = b"RECLcold" + struct.pack("<HHIQQI", 2, 0, 8, 0, 0, 2) + b"{}"
    head = struct.pack("<II", 0x184D2A50, len(payload) + 8) + payload + struct.pack("<Q", crc64nvme(payload))
    with pytest.raises(ColdCorrupt, match="version 2"):
        coldstream.parse_head(head)


@pytest.mark.parametrize("text", [b'{"a":"\xff"}', b'{"a":' + b"[" * 100_000, b"[]", b"{ "])
def test_metadata_that_is_no_json_is_corrupt(text: bytes) -> None:
    payload = b"RECLcold" + struct.pack("<HHIQQI", 1, 0, 8, 0, 0, len(text)) + text
    head = struct.pack("<II", 0x184D2A50, len(payload) + 8) + payload + struct.pack("<Q", crc64nvme(payload))
    with pytest.raises(ColdCorrupt, match="not a JSON object"):
        coldstream.parse_head(head)


def bomb(content_size: int, frame: bytes) -> bytes:
    """A stream whose head announces `content_size` in frames of 8 MiB, followed by a frame of the attacker's."""
    return coldstream.build_head({}, content_size, 0, coldstream.FRAME_BYTES_MAX) + frame


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    huge = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(64 << 20))
    with pytest.raises(ColdCorrupt, match="content size"):
        decode(bomb(8 << 20, huge))
    unsized = zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(bytes(1000))
    with pytest.raises(ColdCorrupt, match="content size"):
        decode(bomb(1000, unsized))
    # By hand: window descriptor 0x88 asks for 128 MiB, content size 1,000, one repeated byte, a checksum.
    wide = bytes.fromhex("28b52ffd8488") + struct.pack("<I", 1000) + (1000 << 3 | 3).to_bytes(3, "little")
    with pytest.raises(ColdCorrupt, match="window"):
        decode(bomb(1000, wide + bytes(5)))


def test_a_frame_that_never_ends_is_refused_within_its_bound() -> None:
    # Empty blocks that are never the last one: legal zstd, no content, as long as the sender likes.
    header = bytes.fromhex("28b52ffd2400")[:6]
    stream = bomb(1 << 20, header + bytes(3) * 1_000_000)
    with pytest.raises(ColdCorrupt, match="longer than its content"):
        decode(stream)


def test_a_dictionary_or_missing_checksum_is_refused() -> None:
    plain = zstandard.ZstdCompressor(write_checksum=False).compress(b"ab" * 500)
    with pytest.raises(ColdCorrupt, match="without checksum"):
        decode(bomb(1000, plain))


def test_the_writer_refuses_other_content_than_announced() -> None:
    writer = ColdWriter(META, 10, crc64nvme(b"0123456789"))
    with pytest.raises(ValueError, match="more content"):
        list(writer.feed(b"01234567890"))
    writer = ColdWriter(META, 10, crc64nvme(b"0123456789"))
    list(writer.feed(b"012345678"))
    with pytest.raises(ValueError, match="not what"):
        writer.finish()
    writer = ColdWriter(META, 10, crc64nvme(b"0123456789"))
    list(writer.feed(b"0123456780"))
    with pytest.raises(ValueError, match="not what"):
        writer.finish()
    with pytest.raises(ValueError, match="metadata"):
        coldstream.build_head({"x": "y" * (coldstream.META_BYTES_MAX + 1)}, 0, 0)
    with pytest.raises(ValueError, match="frames of"):
        ColdWriter(META, 0, 0, frame_bytes=coldstream.FRAME_BYTES_MAX + 1)


def test_frames_for_range_names_only_what_is_needed() -> None:
    _, layout = encode(noise(3500))
    length = coldstream.raw_frame_bytes(1000)
    span = coldstream.frames_for_range(layout, 1500, 2000)
    assert (span.first, span.stop, span.content_start) == (1, 2, 1000)
    assert (span.encoded_start, span.encoded_stop) == (layout.head_bytes + length, layout.head_bytes + 2 * length)
    assert coldstream.frames_for_range(layout, 999, 1001).stop == 2
    last = coldstream.frames_for_range(layout, 3499, 3500)
    assert last.encoded_stop - last.encoded_start == coldstream.raw_frame_bytes(500)
    for start, stop in ((-1, 1), (5, 5), (6, 5), (3499, 3501)):
        with pytest.raises(ValueError, match="not a range"):
            coldstream.frames_for_range(layout, start, stop)


def test_only_what_shrinks_is_worth_compressing() -> None:
    assert not coldstream.worth_compressing([])
    assert not coldstream.worth_compressing([noise(8192)])
    assert not coldstream.worth_compressing([noise(8192)] * 3 + [noise(7800) + bytes(392)])
    assert coldstream.worth_compressing([noise(8192), bytes(8192)])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_parsers_parse_or_raise_cold_corrupt(junk: bytes) -> None:
    for parse in (coldstream.parse_head, lambda tail: coldstream.parse_seek_table(tail, len(tail)), decode):
        try:
            parse(junk)
        except ColdCorrupt:
            continue


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.binary(max_size=40), st.booleans())
def test_overwritten_streams_decode_right_or_raise(at: int, junk: bytes, compress: bool) -> None:
    data = noise(400) + b"q" * 700
    stream = bytearray(encode(data, compress=compress, frame_bytes=300)[0])
    at %= len(stream)
    stream[at : at + len(junk)] = junk
    try:
        assert decode(bytes(stream))[0] == data
    except ColdCorrupt:
        pass
    try:
        assert ranged(bytes(stream), 100, 900) == data[100:900]
    except ColdCorrupt:
        pass


@pytest.mark.parametrize("size", [0, 1, 700, 1000, 4500])
@pytest.mark.parametrize("compress", [False, True], ids=["raw", "compressed"])
@pytest.mark.parametrize("frame_bytes", [1000, coldstream.FRAME_BYTES])
def test_layout_comes_back_from_what_a_record_keeps_of_it(size: int, compress: bool, frame_bytes: int) -> None:
    data = bytes(size)
    _, layout = encode(data, compress=compress, frame_bytes=frame_bytes)
    for crc64 in (crc64nvme(data), None):
        kept = coldstream.pack_layout(layout, crc64)
        assert coldstream.unpack_layout(kept, size, crc64) == layout
        if crc64 is not None and not compress and frame_bytes > size:
            assert len(kept) <= 4
