"""`s3api.ranges`: RFC 9110 §14.1.2's forms, what S3 ignores, and the strict copy range."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3api.errors import S3Error
from s3api.ranges import content_range, parse_copy_range, parse_range
from tiering.contract import ByteRange


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-8388607", ByteRange(0, 8388608)),
        ("bytes=0-0", ByteRange(0, 1)),
        ("bytes=5-", ByteRange(5)),
        ("bytes=-7", ByteRange(0, 7, suffix=True)),
        ("bytes=-0", ByteRange(0, 0, suffix=True)),
        (" bytes=1-2 ", ByteRange(1, 3)),
        ("Bytes=1-2", ByteRange(1, 3)),
        ("bytes=00001-2", ByteRange(1, 3)),
        ("bytes=0-" + "9" * 5000, ByteRange(0, 10**18 + 1)),
        # ignored: the whole object
        ("", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=5-2", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("bytes 0-1", None),
        ("bytes=a-b", None),
        ("bytes=1-2-3", None),
        ("bytes=+1-2", None),
        ("bytes=٣-4", None),
    ],
)
def test_parse_range(value: str, expected: ByteRange | None) -> None:
    assert parse_range(value) == expected


@given(st.integers(0, 1 << 45), st.integers(0, 1 << 45))
def test_any_range_round_trips(start: int, length: int) -> None:
    stop = start + length + 1
    assert parse_range(f"bytes={start}-{stop - 1}") == ByteRange(start, stop)
    assert content_range(start, stop, stop) == f"bytes {start}-{stop - 1}/{stop}"


def test_copy_range() -> None:
    assert parse_copy_range("bytes=0-9") == ByteRange(0, 10)


@pytest.mark.parametrize("value", ["", "bytes=0-", "bytes=-5", "bytes=5-2", "0-9", "bytes=0-1,2-3", "bytes=a-b"])
def test_copy_range_is_strict(value: str) -> None:
    with pytest.raises(S3Error) as caught:
        parse_copy_range(value)
    assert caught.value.spec.code == "InvalidArgument"
    assert caught.value.fields["ArgumentName"] == "x-amz-copy-source-range"
