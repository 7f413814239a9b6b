"""`s3api.params`: each reader on good values, on bad ones, and that the error names the parameter."""

from __future__ import annotations

import calendar
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3api import params
from s3api.errors import S3Error

EPOCH = calendar.timegm((1994, 11, 6, 8, 49, 37))


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",  # RFC 9110 §5.6.7, the three forms
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "1994-11-06T08:49:37Z",
        "1994-11-06T08:49:37.123Z",
        "  Sun, 06 Nov 1994 08:49:37 UTC ",
        "Sun, 06 Nov 1994 08:49:37 -0000",  # RFC 5322: what Python's own writer makes, and with it botocore
        "Sun, 06 Nov 1994 10:49:37 +0200",
        "Sun, 06 Nov 1994 04:19:37 -0430",
    ],
)
def test_http_time_takes_all_forms(text: str) -> None:
    assert params.http_time(text) == EPOCH


@pytest.mark.parametrize(
    "text",
    ["", "now", "0", "Sun, 31 Feb 1994 08:49:37 GMT", "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 1994 25:49:37 GMT", "1994-13-06T08:49:37Z", "Sun, 06 Nov 1994 08:49:37 PST", "Sun, 06 Nov 1994 08:49:37 +2400", "Sun, 06 Nov 1994 08:49:37 +0160", "Sun, 06 Nov 1994 08:49:37 +02", "1994-11-06"],
)  # fmt: skip
def test_not_a_date(text: str) -> None:
    assert params.http_time(text) is None
    with pytest.raises(S3Error) as caught:
        params.date("If-Modified-Since", text)
    assert caught.value.fields["ArgumentName"] == "If-Modified-Since"


@given(st.integers(0, 4_000_000_000))
def test_http_time_reads_what_is_written(seconds: int) -> None:
    for gmt in (True, False):
        assert params.http_time(formatdate(seconds, usegmt=gmt)) == seconds


def test_integer() -> None:
    assert params.integer("partNumber", "10000", 1, 10_000) == 10_000
    for bad in ("", "0", "10001", "1.0", "x", " 1", "1\n", "٣", "9" * 40):
        with pytest.raises(S3Error, match="partNumber"):
            params.integer("partNumber", bad, 1, 10_000)


def test_query_integer_lowers_and_defaults() -> None:
    assert params.query_integer({}, "max-keys", 1000, 0, 1000) == 1000
    assert params.query_integer({"max-keys": ""}, "max-keys", 1000, 0, 1000) == 1000
    assert params.query_integer({"max-keys": "5000"}, "max-keys", 1000, 0, 1000) == 1000
    assert params.query_integer({"max-keys": "0"}, "max-keys", 1000, 0, 1000) == 0
    for bad in ("-1", "x", "1e3", "9" * 30):
        with pytest.raises(S3Error, match="max-keys"):
            params.query_integer({"max-keys": bad}, "max-keys", 1000, 0, 1000)


def test_boolean_and_choice() -> None:
    assert params.boolean("fetch-owner", "True")
    assert not params.boolean("fetch-owner", "false")
    assert params.choice("encoding-type", "url", {"url"}) == "url"
    assert params.choice("directive", "copy", ("COPY", "REPLACE"), fold=True) == "COPY"
    for call in (
        lambda: params.boolean("fetch-owner", "1"),
        lambda: params.choice("encoding-type", "URL", {"url"}),
        lambda: params.choice("directive", "move", ("COPY", "REPLACE"), fold=True),
    ):
        with pytest.raises(S3Error, match="InvalidArgument"):
            call()


def test_base64_exact() -> None:
    assert (
        params.base64_exact("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg==", 16).hex() == "d41d8cd98f00b204e9800998ecf8427e"
    )
    for bad in ("", "1B2M2Y8AsgTpgAmY7PhCfg", "1B2M2Y8AsgTpgAmY7PhCfh==", "AAAA", "1B2M2Y8AsgTpgAmY7PhCfg==\n", "é"):
        with pytest.raises(S3Error) as caught:
            params.base64_exact("Content-MD5", bad, 16, "InvalidDigest")
        assert caught.value.spec.code == "InvalidDigest"
        assert "Content-MD5" in caught.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*", ("*",)),
        ('"abc"', ("abc",)),
        ("abc", ("abc",)),
        ('"a", "b",c', ("a", "b", "c")),
        ('W/"abc"', ("abc",)),
        ('"a,b"', ("a,b",)),
        ('""', ("",)),
        ('"d41d-3"', ("d41d-3",)),
        # AWS was recorded to take these: with one quote, and what is no tag, which matches nothing.
        ('abc"', ("abc",)),
        ('"abc', ("abc",)),
        (' W/abc , "d" ', ("abc", "d")),
        ("unknown etag", ("unknown etag",)),
        ('"a" "b"', ('a" "b',)),
        ('a"b', ('a"b',)),
        ("a,,b,", ("a", "b")),
    ],
)
def test_etags(text: str, expected: tuple[str, ...]) -> None:
    assert params.etags("If-Match", text) == expected


@pytest.mark.parametrize("text", ["", " ", '"', ","])
def test_bad_etags(text: str) -> None:
    with pytest.raises(S3Error, match="If-Match"):
        params.etags("If-Match", text)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", {}),
        (b"uploads", {"uploads": ""}),
        (b"a=1&b=", {"a": "1", "b": ""}),
        (b"prefix=a%2Fb+c%2B", {"prefix": "a/b c+"}),
        (b"&&a=1&", {"a": "1"}),
        (b"a=b=c", {"a": "b=c"}),
        ("k=é".encode(), {"k": "é"}),
    ],
)
def test_parse_query(raw: bytes, expected: dict[str, str]) -> None:
    assert params.parse_query(raw) == expected


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"a=%", "InvalidURI"),
        (b"a=%g0", "InvalidURI"),
        (b"a=%ff", "InvalidURI"),
        (b"partNumber=1&partNumber=2", "InvalidArgument"),
        (b"a=1&%61=2", "InvalidArgument"),
        (b"&".join(b"%d" % number for number in range(200)), "InvalidURI"),
    ],
)
def test_refused_query(raw: bytes, code: str) -> None:
    with pytest.raises(S3Error) as caught:
        params.parse_query(raw)
    assert caught.value.spec.code == code


@given(st.binary(max_size=50))
def test_percent_decode_reads_every_byte(raw: bytes) -> None:
    assert params.percent_decode(b"".join(b"%%%02x" % byte for byte in raw)) == raw
    assert params.percent_decode(b"".join(b"%%%02X" % byte for byte in raw)) == raw
