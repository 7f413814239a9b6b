"""`s3api.target`: addressing styles, keys kept to the byte, bucket names."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3api import target
from s3api.config import ApiConfig
from s3api.errors import S3Error
from s3api.target import Target, Targets, check_bucket_name, parse_target

CONFIG = ApiConfig(
    domains=("s3.example.com", "localhost:9000"),
    host_buckets={"127.0.0.1:9001": "kv", "kv.internal": "kvcache"},
)
HOST = b"127.0.0.1:9000"


def encode_path(key: str) -> bytes:
    return quote(key, safe="").encode()


def parts(found: Target) -> tuple[str, str, str]:
    return found.scope, found.bucket, found.key


@pytest.mark.parametrize(
    ("path", "host", "expected"),
    [
        (b"/", HOST, ("service", "", "")),
        (b"/b", HOST, ("bucket", "b", "")),
        (b"/b/", HOST, ("bucket", "b", "")),
        (b"/b/k", HOST, ("object", "b", "k")),
        (b"/b/k/", HOST, ("object", "b", "k/")),
        (b"/b//lead", HOST, ("object", "b", "/lead")),
        (b"/b/a//b///", HOST, ("object", "b", "a//b///")),
        (b"/b/./../x", HOST, ("object", "b", "./../x")),
        (b"/b/%2e%2e/x", HOST, ("object", "b", "../x")),
        (b"/b/a+b%20c%2B", HOST, ("object", "b", "a+b c+")),
        (b"/b/%2525", HOST, ("object", "b", "%25")),
        (b"/b%2Fk", HOST, ("object", "b", "k")),
        (b"/kvtest/model@tp0@a:b=c&d", HOST, ("object", "kvtest", "model@tp0@a:b=c&d")),
        ("/b/é".encode(), HOST, ("object", "b", "é")),
        (b"/b/%C3%A9%F0%9F%98%80", HOST, ("object", "b", "é😀")),
        (b"/b/k", b"", ("object", "b", "k")),
        # virtual host, with and without port
        (b"/", b"bkt.s3.example.com", ("bucket", "bkt", "")),
        (b"/k", b"bkt.s3.example.com:9000", ("object", "bkt", "k")),
        (b"//k", b"BKT.S3.Example.Com", ("object", "bkt", "/k")),
        (b"/k", b"a.b.s3.example.com", ("object", "a.b", "k")),
        (b"/k", b"bkt.localhost:1234", ("object", "bkt", "k")),
        (b"/b/k", b"s3.example.com", ("object", "b", "k")),
        (b"/b/k", b"xs3.example.com", ("object", "b", "k")),
        (b"/b/k", b"[::1]:9000", ("object", "b", "k")),
        # a Host bound to one bucket
        (b"/", b"127.0.0.1:9001", ("bucket", "kv", "")),
        (b"/a/b", b"127.0.0.1:9001", ("object", "kv", "a/b")),
        (b"/a", b"kv.internal:80", ("object", "kvcache", "a")),
        (b"/a", b"KV.internal", ("object", "kvcache", "a")),
        (b"/a/b", b"127.0.0.1:9002", ("object", "a", "b")),
    ],
)
def test_target(path: bytes, host: bytes, expected: tuple[str, str, str]) -> None:
    assert parts(parse_target(path, host, CONFIG)) == expected
    remembered = Targets(CONFIG)
    assert parts(remembered.parse(path, host)) == parts(remembered.parse(path, host)) == expected


@pytest.mark.parametrize(
    ("path", "host", "code"),
    [
        (b"", HOST, "InvalidURI"),
        (b"*", HOST, "InvalidURI"),
        (b"b/k", HOST, "InvalidURI"),
        (b"/b/%", HOST, "InvalidURI"),
        (b"/b/%4", HOST, "InvalidURI"),
        (b"/b/%zz", HOST, "InvalidURI"),
        (b"/b/%ff", HOST, "InvalidURI"),
        (b"/b/%ED%A0%80", HOST, "InvalidURI"),
        (b"//k", HOST, "InvalidBucketName"),
        (b"/b%00/k", HOST, "InvalidBucketName"),
        (b"/" + b"b" * 256, HOST, "InvalidBucketName"),
        (b"/b/" + b"k" * 1025, HOST, "KeyTooLongError"),
        (b"/b/" + b"%C3%A9" * 513, HOST, "KeyTooLongError"),
        (b"/k", b".s3.example.com", "InvalidBucketName"),
        (b"/k", b"\xff", "InvalidHostHeader"),
    ],
)
def test_refused_target(path: bytes, host: bytes, code: str) -> None:
    with pytest.raises(S3Error) as caught:
        parse_target(path, host, CONFIG)
    assert caught.value.spec.code == code


@pytest.mark.parametrize("key", ["k" * 1024, "é" * 512, "😀" * 256])
def test_longest_key(key: str) -> None:
    assert parse_target(b"/b/" + encode_path(key), HOST, CONFIG).key == key


@given(st.text(min_size=1, max_size=64))
def test_any_key_comes_through_as_it_was(key: str) -> None:
    assert parts(parse_target(b"/b/" + encode_path(key), HOST, CONFIG)) == ("object", "b", key)
    assert parts(parse_target(b"/" + encode_path(key), b"bkt.s3.example.com", CONFIG)) == ("object", "bkt", key)


def test_hosts_remembered_are_bounded() -> None:
    targets = Targets(CONFIG)
    for number in range(target._HOSTS_MAX + 5):
        targets.parse(b"/", b"h%d" % number)
    assert len(targets._hosts) <= target._HOSTS_MAX


@pytest.mark.parametrize("name", ["abc", "a-b.c", "0ab", "a" * 63, "my.bucket-1", "1.2.3", "1.2.3.4.5"])
def test_good_bucket_name(name: str) -> None:
    check_bucket_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "", "ab", "a" * 64, "Abc", "a_b", "-abc", "abc-", ".abc", "abc.", "a..b", "a.-b", "a-.b", "192.168.5.4", "xn--abc", "sthree-a",
        "amzn-s3-demo-x", "abc-s3alias", "abc--ol-s3", "abc.mrap", "abc--x-s3", "abc--table-s3", "minio", "recall",
        "abc\n", "a/b", "åbc", "a b",
    ],
)  # fmt: skip
def test_bad_bucket_name(name: str) -> None:
    with pytest.raises(S3Error, match="InvalidBucketName"):
        check_bucket_name(name)
