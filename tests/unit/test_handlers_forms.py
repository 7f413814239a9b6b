"""PostObject from bytes to object: the pipeline with its real handlers over the memory store."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import time
from typing import Any

import pytest

from s3api import xml
from s3api.config import ApiConfig
from s3api.handlers import HANDLERS
from s3api.identity import Identity
from s3api.message import Request, Response
from s3api.pipeline import Pipeline
from s3api.sigv4 import SigningKey, sign_headers
from tests.support.clock import NEW_YEAR_MS, ManualClock
from tests.unit.handler_harness import Body, Reply
from tiering.contract import BucketInfo, ReadOptions
from tiering.memory import MemoryStore

ROOT = Identity("root", "topsecret", "owner", "root", root=True)
NOW_S = NEW_YEAR_MS // 1000
DAY = time.strftime("%Y%m%d", time.gmtime(NOW_S))
B = "XxFormBoundaryxX"


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    named = "" if filename is None else f'; filename="{filename}"'
    return f'--{B}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + value + b"\r\n"


def signed(fields: dict[str, str], *conditions: Any, expires_s: int = 600, bucket: str = "b") -> dict[str, str]:
    """The fields and those that sign them, under a policy that has each of them."""
    fields = fields | {
        "x-amz-algorithm": "AWS4-HMAC-SHA256",
        "x-amz-credential": f"root/{DAY}/us-east-1/s3/aws4_request",
        "x-amz-date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(NOW_S)),
    }
    exact = [{name: value} for name, value in fields.items() if "${filename}" not in value]
    expiration = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW_S + expires_s))
    document = {"expiration": expiration, "conditions": [{"bucket": bucket}, *exact, *conditions]}
    policy = base64.b64encode(json.dumps(document).encode()).decode()
    key = SigningKey("topsecret", DAY.encode(), b"us-east-1", b"s3")
    return fields | {"policy": policy, "x-amz-signature": key.sign(policy.encode())}


class Browser:
    def __init__(self) -> None:
        clock = ManualClock()
        self.store = MemoryStore(clock)
        asyncio.run(self.store.create_bucket(BucketInfo(name="b", created_ms=0, pool="")))
        asyncio.run(self.store.create_bucket(BucketInfo(name="kv", created_ms=0, pool="kv")))
        self.pipeline = Pipeline(self.store, ApiConfig(), {"root": ROOT}.get, HANDLERS, clock)

    def post(
        self,
        fields: dict[str, str],
        file: bytes | None = b"hello",
        filename: str = "up.txt",
        *,
        path: bytes = b"/b",
        tail: bytes = b"",
        content_type: bytes = b"multipart/form-data; boundary=" + B.encode(),
        chunked: bool = False,
        piece: int = 1 << 16,
        headers: dict[bytes, bytes] | None = None,
    ) -> Reply:
        form = b"".join(part(name, value.encode()) for name, value in fields.items())
        if file is not None:
            form += part("file", file, filename)
        form += f"--{B}--\r\n".encode() + tail
        sent = {b"host": b"h:9000", b"content-type": content_type, **(headers or {})}
        if not chunked:
            sent[b"content-length"] = b"%d" % len(form)
        return self.send(Request("POST", path, b"", sent, Body(form, piece, chunked)))

    def send(self, request: Request) -> Reply:
        answer = self.pipeline.handle(request)
        response = asyncio.run(answer) if inspect.iscoroutine(answer) else answer
        assert isinstance(response, Response)
        assert isinstance(response.body, bytes)
        failed = response.body.startswith(xml.HEAD.encode()) and b"<Error>" in response.body
        code = xml.parse(response.body, "Error").text("Code") if failed else ""
        return Reply(response.status, response.headers, response.body, response.length, code)

    def content(self, key: str, bucket: str = "b") -> bytes:
        reading = self.store.open(bucket, key, ReadOptions())

        async def whole() -> bytes:
            assert reading.body is not None
            return b"".join([bytes(each) async for each in reading.body])  # type: ignore[union-attr]

        return asyncio.run(whole())


def test_signed_form_stores_the_file() -> None:
    browser = Browser()
    reply = browser.post(signed({"key": "a/b c.txt", "Content-Type": "text/plain", "x-amz-meta-colour": "grün"}))
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["location"] == "http://h:9000/b/a%2Fb%20c.txt"
    assert browser.content("a/b c.txt") == b"hello"
    info = browser.store.open("b", "a/b c.txt", ReadOptions(head=True)).info
    assert reply.headers["etag"] == f'"{info.etag}"'
    assert (info.content_type, info.metadata, info.size) == ("text/plain", {"colour": "grün"}, 5)


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
@pytest.mark.parametrize("piece", [997, 1 << 16])
def test_files_of_any_size_in_any_pieces(size: int, piece: int) -> None:
    browser = Browser()
    data = b"\r\n--Xx" * (size // 6 + 1)
    assert browser.post(signed({"key": "k"}), data[:size], piece=piece, tail=b"epilogue" * 100).status == 204
    assert browser.content("k") == data[:size]


def test_system_headers_tags_and_storage_class_are_fields() -> None:
    browser = Browser()
    tagging = "<Tagging><TagSet><Tag><Key>env</Key><Value>ü 1</Value></Tag></TagSet></Tagging>"
    fields = {
        "key": "k",
        "Cache-Control": "no-cache",
        "Content-Disposition": "inline",
        "Content-Encoding": "gzip",
        "Content-Language": "de",
        "Expires": "whenever",
        "tagging": tagging,
        "x-amz-storage-class": "STANDARD_IA",
        "acl": "private",
    }
    assert browser.post(signed(fields)).status == 204
    info = browser.store.open("b", "k", ReadOptions(head=True)).info
    assert info.headers == {
        "cache-control": "no-cache",
        "content-disposition": "inline",
        "content-encoding": "gzip",
        "content-language": "de",
        "expires": "whenever",
    }
    assert (info.tags, info.storage_class, info.content_type) == ({"env": "ü 1"}, "STANDARD_IA", "")
    assert browser.post(signed({"key": "k", "tagging": "env=1"})).code == "MalformedXML"


def test_statuses_and_the_document_of_201() -> None:
    browser = Browser()
    for asked, status in (("200", 200), ("204", 204), ("404", 204), ("", 204)):
        reply = browser.post(signed({"key": "k", "success_action_status": asked}))
        assert (reply.status, reply.body) == (status, b"")
    reply = browser.post(signed({"key": "a/k", "success_action_status": "201"}))
    assert reply.status == 201
    document = reply.xml("PostResponse")
    assert b"xmlns" not in reply.body
    assert [document.text(name) for name in ("Location", "Bucket", "Key", "ETag")] == [
        "http://h:9000/b/a%2Fk",
        "b",
        "a/k",
        reply.headers["etag"],
    ]


def test_redirect_carries_bucket_key_and_etag() -> None:
    browser = Browser()
    for name in ("success_action_redirect", "redirect"):
        reply = browser.post(
            signed({"key": "a b", name: "https://h.test/done?x=1#top", "success_action_status": "201"})
        )
        etag = reply.headers["etag"].strip('"')
        assert reply.status == 303
        assert reply.headers["location"] == f"https://h.test/done?x=1&bucket=b&key=a%20b&etag=%22{etag}%22#top"
    for url in ("javascript:alert(1)", "/relative", "http://", "http://[", "http://h/\r\nset-cookie: x"):
        assert browser.post(signed({"key": "k", "success_action_redirect": url})).status == 204


def test_filename_takes_its_place_in_every_field() -> None:
    browser = Browser()
    fields = signed(
        {"key": "up/${filename}", "x-amz-meta-name": "is ${filename}"},
        ["starts-with", "$key", "up/"],
        ["starts-with", "$x-amz-meta-name", "is "],
    )
    assert browser.post(fields, filename="C:\\x\\Bericht ä.txt").status == 204
    assert browser.content("up/Bericht ä.txt") == b"hello"
    assert browser.store.open("b", "up/Bericht ä.txt", ReadOptions(head=True)).info.metadata == {
        "name": "is Bericht ä.txt"
    }
    wrong = signed({"key": "${filename}"}, ["starts-with", "$key", "up/"])
    assert browser.post(wrong, filename="other/x.txt").code == "AccessDenied"


@pytest.mark.parametrize(
    ("low", "high", "code"), [(0, 4, "EntityTooLarge"), (5, 5, ""), (6, 10, "EntityTooSmall"), (0, 0, "EntityTooLarge")]
)
def test_content_length_range_bounds_the_file(low: int, high: int, code: str) -> None:
    browser = Browser()
    reply = browser.post(signed({"key": "k"}, ["content-length-range", low, high]))
    assert reply.code == code
    assert (reply.status == 204) == (not code)
    if code:
        with pytest.raises(Exception, match="NoSuchKey"):
            browser.store.open("b", "k", ReadOptions())


def test_checksums_are_verified_and_need_no_condition() -> None:
    browser = Browser()
    right = {
        "x-amz-checksum-sha256": "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=",
        "Content-MD5": "XUFAKrxLKna5cZ2REBfFkg==",
    }
    assert browser.post(signed({"key": "k"} | right)).status == 204
    assert (
        browser.post(signed({"key": "k"}) | {"x-amz-checksum-crc32": "NhCmhg=="}).headers["x-amz-checksum-crc32"]
        == "NhCmhg=="
    )
    assert browser.post(signed({"key": "n"}) | {"x-amz-checksum-crc32": "AAAAAA=="}).code == "BadDigest"
    assert browser.post(signed({"key": "n", "Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="})).code == "BadDigest"
    assert browser.post(signed({"key": "n", "x-amz-checksum-none": "x"})).code == "InvalidRequest"
    with pytest.raises(Exception, match="NoSuchKey"):
        browser.store.open("b", "n", ReadOptions())


def test_what_is_refused() -> None:
    browser = Browser()
    good = signed({"key": "k"})
    assert (
        browser.post({"acl": "private"} | {name: good[name] for name in good if name != "key"}).code
        == "InvalidArgument"
    )
    assert browser.post(good, None).code == "InvalidArgument"
    assert browser.post(good | {"x-amz-signature": "0" * 64}).code == "SignatureDoesNotMatch"
    assert browser.post(good | {"x-amz-meta-more": "1"}).code == "AccessDenied"
    assert browser.post(signed({"key": "k"}, expires_s=-1)).code == "AccessDenied"
    assert browser.post(signed({"key": "k"}, bucket="kv")).code == "AccessDenied"
    assert browser.post({"key": "k"}).code == "AccessDenied"
    assert browser.post(good | {"policy": ""}).code == "SignatureDoesNotMatch"
    assert browser.post(good, path=b"/none").code == "NoSuchBucket"
    assert browser.post(good | {"x-amz-signature": "0" * 64}, path=b"/none").code == "SignatureDoesNotMatch"
    assert browser.post(good, path=b"/none", content_type=b"text/plain").code == "PreconditionFailed"
    assert browser.post(good, content_type=b"application/json").code == "PreconditionFailed"
    assert browser.post(good, content_type=b"multipart/form-data").code == "MalformedPOSTRequest"
    assert browser.post(good | {"pad": "x" * 20_480}).code == "MaxPostPreDataLengthExceededError"
    assert browser.post(signed({"key": "k" * 1025})).code == "KeyTooLongError"
    assert browser.post(signed({"key": "k", "if-none-match": "*"})).code == "NotImplemented"
    assert browser.post(signed({"key": "k", "x-recall-tier": "hot"})).code == "InvalidArgument"
    with pytest.raises(Exception, match="NoSuchKey"):
        browser.store.open("b", "k", ReadOptions())


def test_length_must_be_bounded_by_the_request_or_by_the_policy() -> None:
    browser = Browser()
    assert browser.post(signed({"key": "k"}), chunked=True).code == "MissingContentLength"
    assert browser.post(signed({"key": "k"}, ["content-length-range", 0, 1 << 20]), chunked=True).status == 204
    assert browser.content("k") == b"hello"


def test_form_of_a_signed_request_needs_no_policy_and_takes_none() -> None:
    browser = Browser()
    form = part("key", b"k") + part("file", b"data", "f") + f"--{B}--\r\n".encode()
    base = {
        b"host": b"h:9000",
        b"content-type": f"multipart/form-data; boundary={B}".encode(),
        b"content-length": b"%d" % len(form),
    }
    sent = sign_headers("POST", b"/b", b"", base, access_key="root", secret_key="topsecret", now_s=NOW_S)
    assert browser.send(Request("POST", b"/b", b"", sent, Body(form))).status == 204
    assert browser.content("k") == b"data"
    both = browser.post(
        signed({"key": "k"}),
        headers=sign_headers(
            "POST", b"/b", b"", {b"host": b"h:9000"}, access_key="root", secret_key="topsecret", now_s=NOW_S
        ),
    )
    assert both.code == "InvalidArgument"


def test_key_is_the_subject_of_errors_and_pools_with_opaque_etags_are_served() -> None:
    browser = Browser()
    reply = browser.post(signed({"key": "a<b", "x-amz-meta-x": "1\n2"}))
    assert xml.parse(reply.body, "Error").text("Resource") == "/b/a<b"
    reply = browser.post(signed({"key": "k"}, bucket="kv"), path=b"/kv")
    assert reply.status == 204
    assert len(reply.headers["etag"]) > 34
    assert browser.content("k", "kv") == b"hello"
