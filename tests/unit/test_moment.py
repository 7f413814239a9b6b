"""Moments as replies write them, against the library's own forms."""

from __future__ import annotations

import datetime
from email.utils import formatdate

from hypothesis import given
from hypothesis import strategies as st

from s3api import moment, params

FAR_MS = 253_402_300_800_000  # one second behind what the forms can say
MOMENTS = st.integers(0, FAR_MS - 1)


def test_forms_of_one_moment() -> None:
    at_ms = 784_111_777_123
    assert moment.http_date(at_ms) == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert moment.iso_second(at_ms) == "1994-11-06T08:49:37Z"
    assert moment.iso_date(at_ms) == "1994-11-06T08:49:37.000Z"
    assert moment.iso_moment(at_ms) == "1994-11-06T08:49:37.123Z"


@given(MOMENTS)
def test_forms_are_those_of_the_library(at_ms: int) -> None:
    at = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(milliseconds=at_ms)
    assert moment.http_date(at_ms) == formatdate(at_ms // 1000, usegmt=True)
    assert datetime.datetime.fromisoformat(moment.iso_moment(at_ms)) == at
    assert datetime.datetime.fromisoformat(moment.iso_date(at_ms)) == at.replace(microsecond=0)


@given(MOMENTS)
def test_what_is_written_is_read_again(at_ms: int) -> None:
    assert params.http_time(moment.http_date(at_ms)) == at_ms // 1000
    assert params.iso_time(moment.iso_second(at_ms)) == params.iso_time(moment.iso_date(at_ms)) == at_ms // 1000


def test_what_lies_too_far_is_the_last_moment() -> None:
    assert moment.http_date(FAR_MS * 9) == "Fri, 31 Dec 9999 23:59:59 GMT"
    assert moment.iso_second(FAR_MS * 9) == "9999-12-31T23:59:59Z"
