"""Sealed content: round trips, every range, and every way of tampering that must be found."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3api import sealing
from s3api.sealing import OVERHEAD_BYTES, PACKAGE_BYTES, SEALED_BYTES, Opener, Sealer, content_of, sealed_bytes, window
from tiering.contract import Corrupt

KEY = bytes(range(32))
SIZES = (0, 1, 13, 1024, PACKAGE_BYTES - 1, PACKAGE_BYTES, PACKAGE_BYTES + 1, 3 * PACKAGE_BYTES, 3 * PACKAGE_BYTES + 7)


def content(size: int, seed: int = 1) -> bytes:
    return bytes((index * 7 + seed + index // 251) & 0xFF for index in range(size))


def seal(data: bytes, number: int = 0, key: bytes = KEY, piece: int = 1 << 30) -> bytes:
    sealer = Sealer(key, number)
    out = [sealer.feed(data[at : at + piece]) for at in range(0, len(data), piece)]
    return b"".join([*out, sealer.finish()])


def unseal(
    sealed: bytes, streams: list[tuple[int, int]], start: int, stop: int, key: bytes = KEY, piece: int = 1 << 30
) -> bytes:
    found = window(streams, start, stop)
    opener = Opener(key, found.packages)
    part = sealed[found.start : found.stop]
    out = [opener.feed(part[at : at + piece]) for at in range(0, len(part), piece)]
    opener.finish()
    return b"".join(out)


def whole(sealed: bytes, size: int, number: int = 0, key: bytes = KEY) -> bytes:
    return unseal(sealed, [(number, sealed_bytes(size))], 0, size, key)


@pytest.mark.parametrize("size", SIZES)
def test_round_trip(size: int) -> None:
    data = content(size)
    sealed = seal(data)
    assert len(sealed) == sealed_bytes(size)
    assert content_of(len(sealed)) == size
    assert whole(sealed, size) == data
    if size > 16:
        assert data[:16] not in sealed


@given(size=st.integers(0, 1 << 43))
def test_sizes_both_ways(size: int) -> None:
    assert content_of(sealed_bytes(size)) == size


@pytest.mark.parametrize("sealed", [0, 1, OVERHEAD_BYTES - 1, SEALED_BYTES + 1, SEALED_BYTES + OVERHEAD_BYTES])
def test_lengths_no_stream_has(sealed: int) -> None:
    with pytest.raises(Corrupt):
        content_of(sealed)


@pytest.mark.parametrize("piece", [1, 23, 24, 1000, PACKAGE_BYTES, SEALED_BYTES, SEALED_BYTES + 1])
def test_pieces_of_any_length_make_no_difference(piece: int) -> None:
    data = content(PACKAGE_BYTES + 100 if piece < 100 else 3 * PACKAGE_BYTES + 100)
    sealed = seal(data, piece=piece)
    assert unseal(sealed, [(0, len(sealed))], 0, len(data), piece=piece) == data


@settings(deadline=None, max_examples=200)
@given(
    sizes=st.lists(st.sampled_from(SIZES), min_size=1, max_size=4),
    cut=st.tuples(st.integers(0, 10 * PACKAGE_BYTES), st.integers(0, 10 * PACKAGE_BYTES)),
)
def test_every_range_of_parts(sizes: list[int], cut: tuple[int, int]) -> None:
    parts = [(number, content(size, number)) for number, size in enumerate(sizes, start=3)]
    sealed = b"".join(seal(data, number) for number, data in parts)
    streams = [(number, sealed_bytes(len(data))) for number, data in parts]
    data = b"".join(each for _, each in parts)
    start, stop = sorted(min(each, len(data)) for each in cut)
    if start == stop:
        start, stop = 0, len(data)
    assert unseal(sealed, streams, start, stop) == data[start:stop]


@pytest.mark.parametrize(
    ("start", "stop", "packages"),
    [(0, 1, 1), (PACKAGE_BYTES - 1, PACKAGE_BYTES, 1), (PACKAGE_BYTES - 1, PACKAGE_BYTES + 1, 2), (70_000, 70_001, 1)],
)
def test_a_range_takes_only_its_packages(start: int, stop: int, packages: int) -> None:
    found = window([(0, sealed_bytes(5 * PACKAGE_BYTES))], start, stop)
    assert found.stop - found.start == packages * SEALED_BYTES


def test_two_sealings_of_one_content_differ() -> None:
    assert seal(b"same") != seal(b"same")


@pytest.mark.parametrize("size", [1, PACKAGE_BYTES + 5])
def test_every_changed_byte_is_found(size: int) -> None:
    sealed = seal(content(size))
    for at in {0, 7, 8, len(sealed) // 2, len(sealed) - 17, len(sealed) - 1}:
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(Corrupt):
            whole(bytes(changed), size)


def test_nothing_is_given_out_of_a_package_that_fails() -> None:
    size = 2 * PACKAGE_BYTES
    sealed = bytearray(seal(content(size)))
    sealed[-1] ^= 1
    opener = Opener(KEY, window([(0, len(sealed))], 0, size).packages)
    assert opener.feed(sealed[:SEALED_BYTES]) == content(size)[:PACKAGE_BYTES]
    with pytest.raises(Corrupt):
        opener.feed(sealed[SEALED_BYTES:])


def test_packages_in_another_order_are_found() -> None:
    size = 3 * PACKAGE_BYTES
    sealed = seal(content(size))
    pieces = [sealed[at : at + SEALED_BYTES] for at in range(0, len(sealed), SEALED_BYTES)]
    for order in itertools.permutations(range(3)):
        if order != (0, 1, 2):
            with pytest.raises(Corrupt):
                whole(b"".join(pieces[each] for each in order), size)


def test_a_stream_cut_at_a_package_is_found() -> None:
    """With the record changed too, so that the shorter length is the one that is expected."""
    sealed = seal(content(3 * PACKAGE_BYTES))
    with pytest.raises(Corrupt):
        whole(sealed[: 2 * SEALED_BYTES], 2 * PACKAGE_BYTES)
    with pytest.raises(Corrupt):
        whole(seal(content(PACKAGE_BYTES)) + sealed[:SEALED_BYTES], 2 * PACKAGE_BYTES)


def test_a_short_delivery_is_found_at_its_end() -> None:
    sealed = seal(content(2 * PACKAGE_BYTES))
    opener = Opener(KEY, window([(0, len(sealed))], 0, 2 * PACKAGE_BYTES).packages)
    opener.feed(sealed[:-1])
    with pytest.raises(Corrupt):
        opener.finish()


def test_more_than_there_was_is_found() -> None:
    sealed = seal(b"abc")
    opener = Opener(KEY, window([(0, len(sealed))], 0, 3).packages)
    opener.feed(sealed)
    with pytest.raises(Corrupt):
        opener.feed(b"x")


def test_packages_of_another_part_or_another_upload_of_the_part_are_found() -> None:
    data = content(2 * PACKAGE_BYTES)
    first, again = seal(data, 1), seal(data, 1)
    with pytest.raises(Corrupt):
        whole(seal(data, 2), len(data), 1)
    with pytest.raises(Corrupt):
        whole(first[:SEALED_BYTES] + again[SEALED_BYTES:], len(data), 1)


def test_another_object_key_opens_nothing() -> None:
    with pytest.raises(Corrupt):
        whole(seal(b"abc"), 3, key=bytes(32))


def test_a_wrapped_key_opens_with_its_key_and_context_only() -> None:
    object_key = sealing.new_key()
    wrapped = sealing.wrap(KEY, ("aws:kms", "a"), object_key)
    assert object_key not in wrapped
    assert sealing.unwrap(KEY, ("aws:kms", "a"), wrapped) == object_key
    assert sealing.wrap(KEY, ("aws:kms", "a"), object_key) != wrapped
    for key, context, given_key in (
        (bytes(32), ("aws:kms", "a"), wrapped),
        (KEY[:16], ("aws:kms", "a"), wrapped),
        (KEY, ("aws:kms", "b"), wrapped),
        (KEY, ("aws:kms,", "a"), wrapped),
        (KEY, ("aws:kms", "a"), wrapped[:-1]),
        (KEY, ("aws:kms", "a"), wrapped[:-1] + bytes((wrapped[-1] ^ 1,))),
        (KEY, ("aws:kms", "a"), b"\x02" + wrapped[1:]),
        (KEY, ("aws:kms", "a"), b""),
    ):
        with pytest.raises(sealing.WrongKey):
            sealing.unwrap(key, context, given_key)


def test_a_key_ring_shows_no_key_and_its_newest_is_the_default() -> None:
    ring = sealing.KeyRing({"old": bytes(32), "new": KEY})
    assert ring.default == "new"
    assert sealing.KeyRing().default == ""
    assert repr(ring) == "KeyRing(old, new)"


def test_what_this_version_sealed_opens_for_ever() -> None:
    """The format of docs/FORMAT.md, "Sealed content", as bytes."""
    assert whole(bytes.fromhex("00010203040506075dabb4353e83094b8a722d78a1f0aa3d4def6ef4df"), 5) == b"hello"
    empty = bytes.fromhex("000102030405060798948e428d6a36b3378bab31e00f7957")
    assert whole(empty, 0, number=7) == b""
    wrapped = bytes.fromhex(
        "01000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f7f7f40a34f1b6d3228a4c520a922de25"
        "4b47963d052f0e7b6afcba9e2f94a5918eea2b1f9b4e9d3a961d470dcba98ee9"
    )
    assert sealing.unwrap(KEY, ("aws:kms", "k", "c"), wrapped) == bytes(32)
