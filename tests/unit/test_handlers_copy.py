"""CopyObject through the handlers."""

from __future__ import annotations

import asyncio

import pytest

from s3api.errors import S3Error
from s3api.handlers.copy import copy_source
from tests.unit.handler_harness import Body, Harness

SOURCE = {"x-amz-copy-source": "/bucket/old"}


@pytest.fixture
def s3() -> Harness:
    harness = Harness()
    harness("PUT", "/bucket")
    harness(
        "PUT",
        "/bucket/old",
        {"content-type": "a/b", "x-amz-meta-m": "1", "x-amz-tagging": "t=1", "x-recall-pin": "true"},
        b"data",
    )
    return harness


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"bucket/key", ("bucket", "key", None)),
        (b"/bucket/key", ("bucket", "key", None)),
        (b"bucket/a%2Fb/c%20d", ("bucket", "a/b/c d", None)),
        (b"bucket%2Fkey", ("bucket", "key", None)),
        (b"%2Fbucket%2Fkey", ("bucket", "key", None)),
        (b"bucket//lead", ("bucket", "/lead", None)),
        (b"bucket/a+b%2Bc", ("bucket", "a b+c", None)),
        (b"bucket/k?versionId=null", ("bucket", "k", "")),
        (b"bucket/k?versionId=3HL4kqtJvjVBH40NrjfkdABCDEFGHIJK", ("bucket", "k", "3HL4kqtJvjVBH40NrjfkdABCDEFGHIJK")),
        (b"bucket/k%3FversionId=3", ("bucket", "k?versionId=3", None)),
        ("bucket/ü".encode(), ("bucket", "ü", None)),
    ],
)
def test_copy_source(sent: bytes, expected: tuple[str, str, str | None]) -> None:
    assert copy_source({b"x-amz-copy-source": sent}) == expected


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"", "InvalidArgument"),
        (b"bucket", "InvalidArgument"),
        (b"bucket/", "InvalidArgument"),
        (b"/", "InvalidArgument"),
        (b"bucket/%ff", "InvalidArgument"),
        (b"arn:aws:s3:us-east-1:1:accesspoint/x/object/k", "InvalidArgument"),
        (b"bucket/k?versionId=", "InvalidArgument"),
        (b"bucket/k?versionId=3", "InvalidArgument"),
        (b"bucket/" + b"k" * 1025, "KeyTooLongError"),
    ],
)
def test_bad_copy_source(sent: bytes, code: str) -> None:
    with pytest.raises(S3Error) as caught:
        copy_source({b"x-amz-copy-source": sent})
    assert caught.value.spec.code == code


def test_copy_keeps_metadata_and_tags_but_not_the_pin(s3: Harness) -> None:
    s3.clock.advance(1)
    reply = s3("PUT", "/bucket/new", SOURCE)
    root = reply.xml("CopyObjectResult")
    assert root.text("ETag") == '"8d777f385d3dfec8815d20f7496026dc"'
    assert root.text("LastModified") == "2026-01-01T00:00:01.000Z"
    assert (root.text("ChecksumCRC64NVME"), root.text("ChecksumType")) != ("", "")
    seen = s3("GET", "/bucket/new")
    assert seen.body == b"data"
    assert (seen.headers["content-type"], seen.headers["x-amz-meta-m"]) == ("a/b", "1")
    assert seen.headers["x-amz-tagging-count"] == "1"
    assert "x-recall-pinned-until" not in seen.headers


def test_copy_may_come_without_a_length(s3: Harness) -> None:
    reply = asyncio.run(s3.request("PUT", "/bucket/new", SOURCE, Body(b"", chunked=True)))
    assert reply.status == 200


def test_directives_replace(s3: Harness) -> None:
    headers = {
        **SOURCE,
        "x-amz-metadata-directive": "REPLACE",
        "x-amz-tagging-directive": "REPLACE",
        "x-amz-tagging": "u=2&v=3",
        "content-type": "c/d",
        "x-amz-meta-n": "2",
        "x-amz-storage-class": "STANDARD_IA",
    }
    s3("PUT", "/bucket/new", headers)
    seen = s3("HEAD", "/bucket/new").headers
    assert (seen["content-type"], seen["x-amz-meta-n"], seen["x-amz-tagging-count"]) == ("c/d", "2", "2")
    assert seen["x-amz-storage-class"] == "STANDARD_IA"
    assert "x-amz-meta-m" not in seen
    # metadata sent under COPY is not taken
    s3("PUT", "/bucket/third", {**SOURCE, "x-amz-meta-n": "2", "x-amz-tagging": "u=2&v=3"})
    seen = s3("HEAD", "/bucket/third").headers
    assert "x-amz-meta-n" not in seen
    assert seen["x-amz-tagging-count"] == "1"
    # tags are replaced without metadata
    s3("PUT", "/bucket/fourth", {**SOURCE, "x-amz-tagging-directive": "REPLACE"})
    seen = s3("HEAD", "/bucket/fourth").headers
    assert seen["x-amz-meta-m"] == "1"
    assert "x-amz-tagging-count" not in seen
    # metadata is replaced and the tags stay
    s3("PUT", "/bucket/fifth", {**SOURCE, "x-amz-metadata-directive": "REPLACE"})
    assert s3("HEAD", "/bucket/fifth").headers["x-amz-tagging-count"] == "1"
    for name in ("metadata", "tagging"):
        assert s3("PUT", "/bucket/x", {**SOURCE, f"x-amz-{name}-directive": "MERGE"}).code == "InvalidArgument"


def test_copy_onto_itself_must_change_something(s3: Harness) -> None:
    assert s3("PUT", "/bucket/old", SOURCE).code == "InvalidRequest"
    assert s3("PUT", "/bucket/old", {**SOURCE, "x-amz-metadata-directive": "COPY"}).code == "InvalidRequest"
    for change in (
        {"x-amz-metadata-directive": "REPLACE", "x-amz-meta-n": "2"},
        {"x-amz-storage-class": "STANDARD_IA"},
        {"x-recall-ttl": "60"},
        {"x-amz-checksum-algorithm": "SHA256"},
        {"x-amz-tagging-directive": "REPLACE"},
    ):
        assert s3("PUT", "/bucket/old", {**SOURCE, **change}).status == 200
    assert s3("GET", "/bucket/old").body == b"data"


def test_copy_takes_intent_from_its_own_request(s3: Harness) -> None:
    reply = s3("PUT", "/bucket/new", {**SOURCE, "x-recall-pin": "60", "x-recall-ttl": "90"})
    assert reply.headers["x-recall-pinned-until"] == "2026-01-01T00:01:00.000Z"
    assert s3("HEAD", "/bucket/new").headers["x-recall-expires"] == "2026-01-01T00:01:30.000Z"
    s3("PUT", "/bucket/two", {**SOURCE, "x-amz-tagging-directive": "REPLACE", "x-amz-tagging": "recall%3Apin=true"})
    assert s3("HEAD", "/bucket/two").headers["x-recall-pinned-until"] == "forever"


def test_copy_can_add_a_checksum(s3: Harness) -> None:
    reply = s3("PUT", "/bucket/new", {**SOURCE, "x-amz-checksum-algorithm": "sha256"})
    value = reply.xml("CopyObjectResult").text("ChecksumSHA256")
    seen = s3("HEAD", "/bucket/new", {"x-amz-checksum-mode": "ENABLED"}).headers
    assert value == seen["x-amz-checksum-sha256"] != ""
    assert s3("PUT", "/bucket/new", {**SOURCE, "x-amz-checksum-algorithm": "md4"}).code == "InvalidRequest"


def test_copy_conditions(s3: Harness) -> None:
    etag = s3("HEAD", "/bucket/old").headers["etag"]
    good = {
        "x-amz-copy-source-if-match": etag,
        "x-amz-copy-source-if-unmodified-since": "Thu, 01 Jan 2015 00:00:00 GMT",
    }
    assert s3("PUT", "/bucket/new", {**SOURCE, **good}).status == 200
    for bad in (
        {"x-amz-copy-source-if-none-match": etag},
        {"x-amz-copy-source-if-match": '"x"'},
        {"x-amz-copy-source-if-modified-since": "Thu, 01 Jan 2026 00:00:00 GMT"},
        {"if-none-match": "*"},
        {"if-match": '"x"'},
    ):
        assert s3("PUT", "/bucket/new", {**SOURCE, **bad}).code == "PreconditionFailed"


def test_copy_of_and_to_nothing(s3: Harness) -> None:
    assert s3("PUT", "/bucket/new", {"x-amz-copy-source": "bucket/none"}).code == "NoSuchKey"
    assert s3("PUT", "/bucket/new", {"x-amz-copy-source": "none/old"}).code == "NoSuchBucket"
    assert s3("PUT", "/none/new", SOURCE).code == "NoSuchBucket"


def test_redirect_is_stored_shown_and_never_copied(s3: Harness) -> None:
    name = "x-amz-website-redirect-location"
    s3(
        "PUT",
        "/bucket/r",
        {name: "https://h.test/x", "content-type": "a/b", "cache-control": "c", "x-amz-meta-m": "1"},
        b"1",
    )
    assert s3("HEAD", "/bucket/r").headers[name] == "https://h.test/x"
    for headers, expected in (
        ({}, None),
        ({name: "/other"}, "/other"),
        ({"x-amz-metadata-directive": "REPLACE"}, None),
        ({"x-amz-metadata-directive": "REPLACE", name: "http://h/"}, "http://h/"),
    ):
        assert s3("PUT", "/bucket/c", {"x-amz-copy-source": "bucket/r", **headers}).status == 200
        copied = s3("GET", "/bucket/c").headers
        assert copied.get(name) == expected
        if "x-amz-metadata-directive" not in headers:
            assert (copied["content-type"], copied["cache-control"], copied["x-amz-meta-m"]) == ("a/b", "c", "1")
    assert s3("PUT", "/bucket/r", {"x-amz-copy-source": "bucket/r", name: "/moved"}).status == 200
    assert s3("HEAD", "/bucket/r").headers[name] == "/moved"
    assert s3("PUT", "/bucket/r", {"x-amz-copy-source": "bucket/r", name: "moved"}).code == "InvalidRedirectLocation"


def test_directives_are_spelled_as_aws_spells_them(s3: Harness) -> None:
    for header, message in (
        ("x-amz-metadata-directive", "Unknown metadata directive."),
        ("x-amz-tagging-directive", "Unknown tagging directive."),
    ):
        reply = s3("PUT", "/bucket/new", SOURCE | {header: "copy"})
        assert (reply.code, reply.body.decode()) == ("InvalidArgument", message)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"bucket/%ZZ", "Invalid copy source encoding"),
        (b"bucket/%C3%", "Invalid copy source encoding"),
        (b"bucket/%ff", "Invalid copy source encoding"),
        (b"192.168.1.1/foo", "Invalid copy source bucket name"),
        (b"my-buc@k&()t/obj", "Invalid copy source bucket name"),
        (b"arn:aws:s3:::x/k", "Invalid copy source bucket name"),
        (b"bucket", "Invalid copy source object key"),
        (b"bucket/", "Invalid copy source object key"),
    ],
)
def test_what_is_wrong_with_a_copy_source_is_said(sent: bytes, message: str) -> None:
    with pytest.raises(S3Error) as caught:
        copy_source({b"x-amz-copy-source": sent})
    assert caught.value.message == message
    assert caught.value.fields == {"ArgumentName": "x-amz-copy-source", "ArgumentValue": sent.decode("latin-1")}
