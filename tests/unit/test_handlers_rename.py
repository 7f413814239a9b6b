"""Appends and renames over the handlers, as S3 Express documents them."""

from __future__ import annotations

import hashlib
from email.utils import formatdate

import pytest

from s3api.access import OneAccount, Rights
from s3api.call import Call
from tests.unit.handler_harness import ROOT, Harness, Reply
from tiering.contract import ObjectInfo

OFFSET = "x-amz-write-offset-bytes"
SOURCE = "x-amz-rename-source"


@pytest.fixture
def s3() -> Harness:
    harness = Harness()
    assert harness("PUT", "/bkt").status == 200
    return harness


# -- appends


def append(s3: Harness, offset: int | str, data: bytes, headers: dict[str, str] | None = None) -> Reply:
    return s3("PUT", "/bkt/log", {OFFSET: str(offset), **(headers or {})}, data)


def test_appends_add_up(s3: Harness) -> None:
    made = append(s3, 0, b"one,", {"content-type": "text/csv", "x-amz-meta-a": "b"})
    assert (made.status, made.headers["x-amz-object-size"]) == (200, "4")
    added = append(s3, 4, b"two", {"content-type": "ignored/then"})
    assert (added.status, added.headers["x-amz-object-size"]) == (200, "7")
    read = s3("GET", "/bkt/log")
    assert (read.body, read.headers["content-type"], read.headers["x-amz-meta-a"]) == (b"one,two", "text/csv", "b")
    assert read.headers["etag"] == added.headers["etag"] != made.headers["etag"]
    whole = s3("GET", "/bkt/log", {"x-amz-checksum-mode": "ENABLED"})
    assert whole.headers["x-amz-checksum-crc64nvme"] == added.headers["x-amz-checksum-crc64nvme"]
    assert "x-amz-object-size" not in s3("PUT", "/bkt/log", {}, b"x").headers


@pytest.mark.parametrize("offset", [1, 2, 4])
def test_appends_elsewhere_change_nothing(s3: Harness, offset: int) -> None:
    s3("PUT", "/bkt/log", {}, b"one")
    refused = append(s3, offset, b"x")
    assert (refused.status, refused.code) == (400, "InvalidWriteOffset")
    assert append(s3, 0, b"x").code == "InvalidWriteOffset"
    assert s3("GET", "/bkt/log").body == b"one"
    assert s3("PUT", "/bkt/none", {OFFSET: "3"}, b"x").code == "InvalidWriteOffset"
    assert s3("HEAD", "/bkt/none").status == 404


@pytest.mark.parametrize("offset", ["", "-1", "x", "1.5", str(1 << 60)])
def test_offsets_that_are_none(s3: Harness, offset: str) -> None:
    assert append(s3, offset, b"x").code == "InvalidArgument"


def test_an_append_is_verified_and_conditional(s3: Harness) -> None:
    append(s3, 0, b"one")
    assert append(s3, 3, b"two", {"x-amz-checksum-crc32": "AAAAAA=="}).code == "BadDigest"
    assert append(s3, 3, b"two", {"if-match": '"other"'}).code == "PreconditionFailed"
    assert s3("GET", "/bkt/log").body == b"one"
    assert append(s3, 3, b"two", {"if-match": hashlib.md5(b"one").hexdigest()}).status == 200


def test_what_cannot_be_appended_to(s3: Harness) -> None:
    append(s3, 0, b"one")
    assert append(s3, 3, b"x", {"x-amz-server-side-encryption": "AES256"}).code in ("InvalidRequest", "NotImplemented")
    for other in ("/bkt/log?uploads", "/bkt/log?restore"):
        assert s3("POST", other, {OFFSET: "3"}).code == "NotImplemented"
    assert s3("PUT", "/bkt/to", {OFFSET: "3", "x-amz-copy-source": "bkt/log"}).code == "NotImplemented"
    s3("PUT", "/bkt?versioning", {}, b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
    assert append(s3, 3, b"x").code == "InvalidRequest"
    assert s3("GET", "/bkt/log").body == b"one"


# -- renames


def rename(s3: Harness, source: str, target: str, headers: dict[str, str] | None = None) -> Reply:
    return s3("PUT", f"/bkt/{target}?renameObject", {SOURCE: source, **(headers or {})})


@pytest.mark.parametrize(
    ("sent", "key"),
    [
        ("from", "from"),
        ("bkt/from", "from"),
        ("/bkt/from", "from"),
        ("a%20b/c", "a b/c"),
        ("/lead", "/lead"),
        ("%C3%BC", "ü"),
        ("bkt/bkt/x", "bkt/x"),
        ("bktx/y", "bktx/y"),
    ],
)
def test_rename_moves_the_object(s3: Harness, sent: str, key: str) -> None:
    headers = {"content-type": "a/b", "x-amz-meta-m": "1", "x-amz-tagging": "t=1"}
    path = "/bkt/" + "".join(f"%{byte:02X}" for byte in key.encode())
    was = s3("PUT", path, headers, b"data")
    seen = s3("HEAD", path).headers
    s3.clock.advance(5000)
    assert rename(s3, sent, "to", {"x-amz-client-token": "token-1"}).status == 200
    now = s3("GET", "/bkt/to")
    assert (now.body, now.headers["etag"], now.headers["last-modified"]) == (
        b"data",
        was.headers["etag"],
        seen["last-modified"],
    )
    assert (now.headers["content-type"], now.headers["x-amz-meta-m"]) == ("a/b", "1")
    assert s3("HEAD", path).status == 404
    assert rename(s3, sent, "to").code == "NoSuchKey"


def test_rename_overwrites_unless_told_not_to(s3: Harness) -> None:
    s3("PUT", "/bkt/from", {}, b"data")
    there = s3("PUT", "/bkt/to", {}, b"there").headers["etag"]
    past, now = (formatdate(s3.clock.now_ms() / 1000 + off, usegmt=True) for off in (-60, 0))
    for headers in (
        {"if-none-match": "*"},
        {"if-match": '"other"'},
        {"if-unmodified-since": past},
        {"if-modified-since": now},
        {"x-amz-rename-source-if-match": '"other"'},
        {"x-amz-rename-source-if-none-match": "*"},
        {"x-amz-rename-source-if-unmodified-since": past},
        {"x-amz-rename-source-if-modified-since": now},
    ):
        refused = rename(s3, "from", "to", headers)
        assert (refused.status, refused.code) == (412, "PreconditionFailed"), headers
    assert rename(s3, "from", "to", {"if-modified-since": "yesterday"}).code == "InvalidArgument"
    assert s3("GET", "/bkt/to").body == b"there"
    assert rename(s3, "from", "to", {"if-match": there, "x-amz-rename-source-if-modified-since": past}).status == 200
    assert s3("GET", "/bkt/to").body == b"data"


def test_what_cannot_be_renamed(s3: Harness) -> None:
    s3("PUT", "/bkt/from", {}, b"data")
    assert s3("PUT", "/bkt/to?renameObject").code == "InvalidRequest"
    assert rename(s3, "from", "from").code == "InvalidRequest"
    assert rename(s3, "from", "to/").code == "InvalidRequest"
    assert rename(s3, "dir/", "to").code == "InvalidRequest"
    assert rename(s3, "%ff", "to").code == "InvalidArgument"
    assert rename(s3, "/bkt/", "to").code == "InvalidArgument"
    assert rename(s3, "k" * 1025, "to").code == "KeyTooLongError"
    assert rename(s3, "from", "to", {"x-amz-client-token": "x" * 65}).code == "InvalidArgument"
    assert rename(s3, "from", "to", {"x-amz-client-token": "a b"}).code == "InvalidArgument"
    assert s3("PUT", "/bkt/to", {SOURCE: "from"}, b"x").code == "NotImplemented"
    assert s3("PUT", "/none/to?renameObject", {SOURCE: "from"}).code == "NoSuchBucket"
    assert s3("GET", "/bkt/from").body == b"data"
    s3("PUT", "/bkt?versioning", {}, b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
    assert rename(s3, "from", "to").code == "InvalidRequest"


class Refusing(Rights):
    """Denies one action."""

    def __init__(self, denied: str) -> None:
        super().__init__(OneAccount(ROOT))
        self.denied = denied

    def allows(self, call: Call, action: str, bucket: str, key: str = "", info: ObjectInfo | None = None) -> bool:
        return (action, key) != (self.denied, "from")


@pytest.mark.parametrize("action", ["s3:GetObject", "s3:DeleteObject"])
def test_rename_asks_for_the_rights_of_reading_and_deleting(s3: Harness, action: str) -> None:
    s3("PUT", "/bkt/from", {}, b"data")
    s3.access = Refusing(action)
    assert rename(s3, "from", "to").code == "AccessDenied"
    assert s3("HEAD", "/bkt/from").status == 200
