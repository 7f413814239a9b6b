"""Conditional headers read into Conditions, and refused where S3 does not serve them."""

from __future__ import annotations

import pytest

from s3api.errors import S3Error
from s3api.preconditions import delete_conditions, read_conditions, source_conditions, write_conditions
from tiering.contract import Conditions

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
DATE_S = 784111777
NOW_MS = DATE_S * 1000


def test_no_header_is_no_condition() -> None:
    headers = {b"host": b"x"}
    assert read_conditions(headers, NOW_MS) is source_conditions(headers, NOW_MS) is None
    assert write_conditions(headers) is delete_conditions(headers) is None


def test_read_conditions() -> None:
    headers = {
        b"if-match": b'"a", "b"',
        b"if-none-match": b"*",
        b"if-modified-since": DATE,
        b"if-unmodified-since": b"yesterday",
    }
    assert read_conditions(headers, NOW_MS) == Conditions(
        if_match=("a", "b"), if_none_match=("*",), if_modified_since_s=DATE_S, if_unmodified_since_s=None
    )
    assert read_conditions({b"if-none-match": b'W/"a"'}, NOW_MS) == Conditions(if_none_match=("a",))
    assert read_conditions({b"if-match": b"unquoted"}, NOW_MS) == Conditions(if_match=("unquoted",))


def test_a_date_that_is_still_to_come_is_no_condition() -> None:
    for prefix, read in ((b"", read_conditions), (b"x-amz-copy-source-", source_conditions)):
        headers = {prefix + b"if-modified-since": DATE, prefix + b"if-unmodified-since": DATE}
        assert read(headers, NOW_MS - 1) == Conditions(if_unmodified_since_s=DATE_S)


def test_source_conditions() -> None:
    headers = {b"x-amz-copy-source-if-match": b'"a"', b"x-amz-copy-source-if-unmodified-since": DATE}
    assert source_conditions(headers, NOW_MS) == Conditions(if_match=("a",), if_unmodified_since_s=DATE_S)
    assert source_conditions({b"if-match": b'"a"'}, NOW_MS) is None


def test_write_conditions() -> None:
    assert write_conditions({b"if-none-match": b"*"}) == Conditions(if_none_match=("*",))
    assert write_conditions({b"if-match": b'"a"'}) == Conditions(if_match=("a",))
    assert write_conditions({b"if-none-match": b'"a"'}) == Conditions(if_none_match=("a",))


@pytest.mark.parametrize(
    "headers",
    [
        {b"if-none-match": b"*", b"if-match": b'"a"'},
        {b"if-modified-since": DATE},
        {b"if-unmodified-since": DATE},
    ],
)
def test_write_refuses_what_s3_does_not_serve(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(S3Error) as caught:
        write_conditions(headers)
    assert caught.value.spec.code == "NotImplemented"


def test_delete_conditions() -> None:
    headers = {
        b"if-match": b'"a"',
        b"x-amz-if-match-size": b"12",
        b"x-amz-if-match-last-modified-time": DATE,
    }
    assert delete_conditions(headers) == Conditions(if_match=("a",), if_match_size=12, if_match_modified_s=DATE_S)
    for bad in ({b"x-amz-if-match-size": b"-1"}, {b"x-amz-if-match-last-modified-time": b"now"}):
        with pytest.raises(S3Error) as caught:
            delete_conditions(bad)
        assert caught.value.spec.code == "InvalidArgument"
    with pytest.raises(S3Error) as caught:
        delete_conditions({b"if-none-match": b"*"})
    assert caught.value.spec.code == "NotImplemented"
