"""Requests no SDK sends, over raw sockets: each malformed header, length, date, signature and body gets AWS's code.

Spec: AWS S3 API Reference, "Error responses"; RFC 9112.
"""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import time
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import pytest

from tests.s3.rawclient import SIGNED_CHUNKS, UNSIGNED_TRAILER, RawClient, Reply, Signer
from tests.support.gateway import Gateway

DATA = b"0123456789"
MD5 = base64.b64encode(hashlib.md5(DATA).digest()).decode()


@pytest.fixture
def key(s3: Any, bucket: str) -> str:
    """The path of an object of ten bytes."""
    s3.put_object(Bucket=bucket, Key="k", Body=DATA)
    return f"/{bucket}/k"


def sent(gateway: Gateway, request: bytes) -> Reply:
    """The one reply to raw bytes, after which both sides are done."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        whole = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = whole.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
    return Reply(int(line.split()[1]), headers, body)


def facts(reply: Reply) -> dict[str, str]:
    return {node.tag: node.text or "" for node in ElementTree.fromstring(reply.body)}


# heads


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET /\r\n\r\n", 400, "BadRequest"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "BadRequest"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400, "BadRequest"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400, "BadRequest"),
        (b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, "BadRequest"),
        (b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n", 400, "BadRequest"),
        (b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na", 400, "BadRequest"),
        (b"PUT /b/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400, "BadRequest"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nx-a: " + b"y" * 70_000 + b"\r\n\r\n", 400, "RequestHeaderSectionTooLarge"),
        (b"GET /" + b"k" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400, "InvalidURI"),
        (b"GET /b/%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400, "InvalidURI"),
        (b"GET /b/%ff HTTP/1.1\r\nHost: x\r\n\r\n", 400, "InvalidURI"),
        (b"GET /b/" + b"k" * 1025 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400, "KeyTooLongError"),
        (b"GET //k HTTP/1.1\r\nHost: x\r\n\r\n", 400, "InvalidBucketName"),
        (b"GET /b?prefix=a&prefix=b HTTP/1.1\r\nHost: x\r\n\r\n", 400, "InvalidArgument"),
        (b"PATCH /b/k HTTP/1.1\r\nHost: x\r\n\r\n", 405, "MethodNotAllowed"),
        (b"POST /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405, "MethodNotAllowed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: \r\n\r\n", 403, "AccessDenied"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer abc\r\n\r\n", 400, "InvalidArgument"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 403, "AccessDenied"),
    ],
)
def test_heads_that_are_refused(gateway: Gateway, request_bytes: bytes, status: int, code: str) -> None:
    reply = sent(gateway, request_bytes)
    assert (reply.status, reply.code) == (status, code)
    assert facts(reply)["RequestId"] == reply.headers["x-amz-request-id"]
    assert facts(reply)["HostId"] == reply.headers["x-amz-id-2"]


def test_errors_of_head_have_ids_and_no_body(gateway: Gateway, raw: RawClient, bucket: str) -> None:
    for path in (f"/{bucket}/none", "/no-such-bucket", "/no-such-bucket/k"):
        reply = raw.request("HEAD", path)
        assert (reply.status, reply.body) == (404, b"")
        assert reply.headers["x-amz-request-id"]
    unsigned = sent(gateway, f"HEAD /{bucket}/k HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert (unsigned.status, unsigned.body) == (403, b"")


def test_expectations_s3_does_not_know_are_ignored(raw: RawClient, bucket: str) -> None:
    assert raw.request("PUT", f"/{bucket}/k", headers={"Expect": "200-ok"}, body=DATA).status == 200


# keys


@pytest.mark.parametrize(
    "name",
    [
        ".", "..", "../x", "a/../b", "a/./b", "//", "/lead", "lead//", "a//b", "trail ", " lead", "a b+c%2Fd", "%", "%2F",
        "\0nul", "tab\tnew\nline\r", "😀/ü", "é", "e\u0301", "?", "#", "a?b=c&d", "&<>\"'", "\\", "x" * 1024, "é" * 512,
        "\u202e", "\ufffd", "~", "*", "a;b", "a:b", "minio", "recall",
    ],
)  # fmt: skip
def test_keys_of_any_text_are_kept_apart(raw: RawClient, s3: Any, bucket: str, name: str) -> None:
    body = name.encode()
    assert raw.request("PUT", f"/{bucket}/{name}", body=body).status == 200
    assert raw.request("GET", f"/{bucket}/{name}").body == body
    listed = raw.request("GET", f"/{bucket}", query=(("encoding-type", "url"), ("list-type", "2")))
    assert listed.texts("Key") == [quote(name, safe="/-_.~*")]
    copied = raw.request("PUT", f"/{bucket}/copy", headers={"x-amz-copy-source": quote(f"{bucket}/{name}", safe="")})
    assert copied.status == 200
    assert raw.request("DELETE", f"/{bucket}/{name}").status == 204
    assert [each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["copy"]


# lengths and digests


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"content-length": str(6 << 30)}, 400, "EntityTooLarge"),
        ({"content-md5": ""}, 400, "InvalidDigest"),
        ({"content-md5": "YWJyYWNhZGFicmE="}, 400, "InvalidDigest"),
        ({"content-md5": "not base64"}, 400, "InvalidDigest"),
        ({"content-md5": "rL0Y20xC+Fzt72VPzMSk2A=="}, 400, "BadDigest"),
        ({"x-amz-checksum-crc32": "AAAAAA=="}, 400, "BadDigest"),
        ({"x-amz-checksum-crc32": "AAAA"}, 400, "InvalidRequest"),
        ({"x-amz-checksum-crc33": "AAAAAA=="}, 400, "InvalidRequest"),
        ({"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-sha1": "2jmj7l5rSw0yVb/vlWAYkK/YBwk="}, 400, "InvalidRequest"),
        ({"x-amz-sdk-checksum-algorithm": "CRC32"}, 400, "InvalidRequest"),
        ({"x-amz-tagging": "a=1&a=2"}, 400, "InvalidArgument"),
        ({"x-amz-storage-class": "COLD"}, 400, "InvalidStorageClass"),
        ({"x-amz-meta-a": "x" * 2048}, 400, "MetadataTooLarge"),
        ({"if-none-match": "*"}, 412, "PreconditionFailed"),
        ({"if-match": '"none"'}, 412, "PreconditionFailed"),
        ({"x-amz-website-redirect-location": "here"}, 400, "InvalidRedirectLocation"),
        ({"x-amz-trailer": "x-amz-checksum-crc32"}, 400, "MalformedTrailerError"),
    ],
)  # fmt: skip
def test_puts_that_are_refused_change_nothing(
    gateway: Gateway, signer: Signer, s3: Any, bucket: str, key: str, headers: dict[str, str], status: int, code: str
) -> None:
    before = s3.head_object(Bucket=bucket, Key="k")["ETag"]
    with RawClient(gateway.port, signer) as client:
        reply = client.request("PUT", key, headers=headers, body=b"other", length="content-length" not in headers)
        assert (reply.status, reply.code) == (status, code)
    assert s3.head_object(Bucket=bucket, Key="k")["ETag"] == before


def test_length_that_is_not_stated_is_411(raw: RawClient, key: str) -> None:
    assert raw.request("PUT", key, length=False).status == 411
    chunked = raw.request(
        "PUT", key, headers={"transfer-encoding": "chunked"}, body=b"1\r\na\r\n0\r\n\r\n", length=False
    )
    assert (chunked.status, chunked.code) == (411, "MissingContentLength")


def test_body_that_ends_early_stores_nothing(gateway: Gateway, signer: Signer, s3: Any, bucket: str, key: str) -> None:
    signed = signer.sign("PUT", key, (), {"host": f"127.0.0.1:{gateway.port}"}, "UNSIGNED-PAYLOAD")
    lines = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(f"PUT {key} HTTP/1.1\r\n{lines}Content-Length: 100\r\n\r\nshort".encode())
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(65536) == b""  # nobody is there to be told
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == DATA


def test_content_hash_is_held_against_the_content(raw: RawClient, key: str) -> None:
    reply = raw.request("PUT", key, body=b"x", payload="0" * 64)
    assert (reply.status, reply.code) == (400, "XAmzContentSHA256Mismatch")
    assert facts(reply)["ClientComputedContentSHA256"] == "0" * 64
    assert facts(reply)["S3ComputedContentSHA256"] == hashlib.sha256(b"x").hexdigest()
    for word in ("nonsense", ""):
        assert raw.request("PUT", key, body=b"x", payload=word).code == "InvalidArgument"


# chunks


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda body: body.replace(b"0123", b"0124"), "SignatureDoesNotMatch"),
        (lambda body: re.sub(rb"chunk-signature=[0-9a-f]{4}", b"chunk-signature=0000", body, count=1), "SignatureDoesNotMatch"),
        (lambda body: body.replace(b"a;chunk", b"b;chunk", 1), "IncompleteBody"),
        (lambda body: body.replace(b";chunk-signature", b";chunk-sign", 1), "IncompleteBody"),
        (lambda body: body[:-20], "IncompleteBody"),
    ],
)  # fmt: skip
def test_signed_chunks_that_are_changed(gateway: Gateway, signer: Signer, key: str, change: Any, code: str) -> None:
    with RawClient(gateway.port, signer) as client:
        headers = {"host": client.host, "content-encoding": "aws-chunked", "x-amz-decoded-content-length": "10"}
        signed = signer.sign("PUT", key, (), headers, SIGNED_CHUNKS)
        body = change(signer.chunks(signed, [DATA]))
        reply = client.send("PUT", key, headers=signed, body=body)
        assert reply.code == code, reply.body
        assert reply.status in (400, 403)


def test_stated_decoded_length_counts(gateway: Gateway, signer: Signer, raw: RawClient, key: str) -> None:
    body = b"a\r\n0123456789\r\n0\r\nx-amz-checksum-crc32:pmhOmQ==\r\n\r\n"
    refused = {"9": (400, "IncompleteBody"), "11": (400, "IncompleteBody"), "x": (411, "MissingContentLength")}
    for stated, expected in refused.items():
        headers = {"x-amz-decoded-content-length": stated, "x-amz-trailer": "x-amz-checksum-crc32"}
        with RawClient(gateway.port, signer) as client:
            reply = client.request("PUT", key, headers=headers, body=body, payload=UNSIGNED_TRAILER)
        assert (reply.status, reply.code) == expected
    reply = raw.request(
        "PUT", key, headers={"x-amz-trailer": "x-amz-checksum-crc32"}, body=body, payload=UNSIGNED_TRAILER
    )
    assert (reply.status, reply.code) == (411, "MissingContentLength")


# signatures


def test_skewed_time_says_whose_clock_is_where(gateway: Gateway, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer(gateway.access_key, gateway.secret_key)
    then = time.gmtime(time.time() - 1000)
    with RawClient(gateway.port, signer) as client:
        with monkeypatch.context() as patched:
            patched.setattr(time, "gmtime", lambda: then)
            signed = signer.sign("GET", key, (), {"host": client.host}, "UNSIGNED-PAYLOAD")
        reply = client.send("GET", key, headers=signed)
    assert (reply.status, reply.code) == (403, "RequestTimeTooSkewed")
    assert facts(reply)["MaxAllowedSkewMilliseconds"] == "900000"
    assert facts(reply)["RequestTime"] == signed["x-amz-date"]
    assert re.fullmatch(r"\d{8}T\d{6}Z", facts(reply)["ServerTime"])


@pytest.mark.parametrize(
    ("header", "value", "status", "code"),
    [
        ("authorization", "AWS4-HMAC-SHA256", 400, "AuthorizationHeaderMalformed"),
        ("authorization", "AWS4-HMAC-SHA256 Credential=x, SignedHeaders=host, Signature=0", 400, "AuthorizationHeaderMalformed"),
        ("x-amz-date", "yesterday", 403, "AccessDenied"),
        ("x-amz-date", "", 403, "AccessDenied"),
        ("x-amz-content-sha256", "0", 400, "InvalidArgument"),
        ("x-amz-security-token", "token", 400, "InvalidToken"),
        ("x-amz-meta-added", "1", 403, "AccessDenied"),
        ("x-amz-copy-source", "/other/secret", 403, "AccessDenied"),
        ("host", "elsewhere", 403, "SignatureDoesNotMatch"),
        ("content-type", "added/later", 200, ""),
    ],
)  # fmt: skip
def test_signed_requests_that_are_changed(
    gateway: Gateway, signer: Signer, key: str, header: str, value: str, status: int, code: str
) -> None:
    with RawClient(gateway.port, signer) as client:
        signed = signer.sign("PUT", key, (), {"host": client.host}, "UNSIGNED-PAYLOAD")
        reply = client.send("PUT", key, headers=signed | {header: value}, body=DATA)
    assert reply.status == status, reply.body
    assert (reply.code if reply.body else "") == code


def test_unknown_key_and_wrong_secret(gateway: Gateway, key: str) -> None:
    for access_key, secret_key, code in (
        ("nobody", "x", "InvalidAccessKeyId"),
        (gateway.access_key, "wrong", "SignatureDoesNotMatch"),
    ):
        with RawClient(gateway.port, Signer(access_key, secret_key)) as client:
            reply = client.request("GET", key)
        assert (reply.status, reply.code) == (403, code)
        assert facts(reply)["AWSAccessKeyId"] == access_key
        if code == "SignatureDoesNotMatch":
            shown = facts(reply)
            assert shown["StringToSign"].startswith("AWS4-HMAC-SHA256\n")
            assert bytes.fromhex(shown["StringToSignBytes"]).decode() == shown["StringToSign"]
            assert shown["CanonicalRequest"].startswith(f"GET\n{key}\n")
            assert "wrong" not in reply.body.decode()


def test_header_and_query_signature_together_are_refused(gateway: Gateway, s3: Any, bucket: str, key: str) -> None:
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    target = url.partition(str(gateway.port))[2]
    reply = sent(
        gateway,
        f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nAuthorization: AWS4-HMAC-SHA256 x\r\n\r\n".encode(),
    )
    assert (reply.status, reply.code) == (400, "InvalidArgument")
    assert "Only one auth mechanism allowed" in facts(reply)["Message"]


# reads


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("bytes=0-3", 206, DATA[:4]),
        ("bytes=-4", 206, DATA[-4:]),
        ("bytes=-400", 206, DATA),
        ("bytes=5-", 206, DATA[5:]),
        ("bytes=5-500", 206, DATA[5:]),
        ("bytes=0-0,2-3", 200, DATA),
        ("bytes=3-1", 200, DATA),
        ("bytes=x-y", 200, DATA),
        ("bytes= -1", 200, DATA),
        ("bytes=0 -1", 200, DATA),
        ("bytes=--1", 200, DATA),
        ("bytes=,", 200, DATA),
        ("bytes=100-x", 200, DATA),
        ("bytes=00-01", 206, DATA[:2]),
        ("BYTES=0-1", 206, DATA[:2]),
        ("items=0-3", 200, DATA),
        ("bytes=", 200, DATA),
        ("bytes=10-", 416, None),
        ("bytes=-0", 416, None),
    ],
)
def test_ranges(raw: RawClient, key: str, asked: str, status: int, body: bytes | None) -> None:
    reply = raw.request("GET", key, headers={"range": asked})
    assert reply.status == status
    if body is None:
        assert (reply.code, reply.headers["content-range"]) == ("InvalidRange", "bytes */10")
        assert facts(reply)["ActualObjectSize"] == "10"
        assert facts(reply)["RangeRequested"] == asked
    else:
        assert reply.body == body


@pytest.mark.parametrize("number", ["0", "10001", "-1", "x", "", "1.0"])
def test_part_numbers_that_are_none(raw: RawClient, key: str, number: str) -> None:
    reply = raw.request("GET", key, query=(("partNumber", number),))
    assert (reply.status, reply.code) == (400, "InvalidArgument")
    assert facts(reply)["Message"] == "Part number must be an integer between 1 and 10000, inclusive"


def test_overrides_are_of_signed_reads_and_the_stored_expires_is_kept_as_sent(
    raw: RawClient, s3: Any, bucket: str
) -> None:
    assert raw.request("PUT", f"/{bucket}/k", headers={"expires": "not a date"}, body=DATA).status == 200
    assert raw.request("GET", f"/{bucket}/k").headers["expires"] == "not a date"
    query = (("response-cache-control", "no-store"), ("response-content-type", "a/b"), ("response-expires", "0"))
    reply = raw.request("GET", f"/{bucket}/k", query=query)
    assert [reply.headers[name] for name in ("cache-control", "content-type", "expires")] == ["no-store", "a/b", "0"]


@pytest.mark.parametrize(
    ("encoding", "stored"),
    [("aws-chunked", None), ("aws-chunked,gzip", "gzip"), ("gzip,aws-chunked,br", "gzip,br"), ("AWS-Chunked", None), ("aws-chunked-x", "aws-chunked-x")],
)  # fmt: skip
def test_transfer_coding_is_not_stored(raw: RawClient, bucket: str, encoding: str, stored: str | None) -> None:
    assert raw.request("PUT", f"/{bucket}/e", headers={"content-encoding": encoding}, body=DATA).status == 200
    assert raw.request("HEAD", f"/{bucket}/e").headers.get("content-encoding") == stored


# operations that are known and refused


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("POST", (("select", ""), ("select-type", "2"))),
        ("GET", (("torrent", ""),)),
        ("PUT", (("annotation", ""), ("annotationName", "a"))),
        ("DELETE", (("annotation", ""), ("annotationName", "a"))),
    ],
)
def test_operations_that_are_not_served_change_nothing(
    raw: RawClient, s3: Any, bucket: str, key: str, method: str, query: tuple[tuple[str, str], ...]
) -> None:
    reply = raw.request(method, key, query=query, body=b"<x/>" if method in ("POST", "PUT") else b"")
    assert (reply.status, reply.code) == (501, "NotImplemented")
    assert "is not implemented" in facts(reply)["Message"]
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == DATA


def test_object_lambda_and_sessions_are_refused_by_name(raw: RawClient, bucket: str) -> None:
    headers = {"x-amz-request-route": "r", "x-amz-request-token": "t"}
    reply = raw.request("POST", "/WriteGetObjectResponse", headers=headers, body=b"x")
    assert (reply.status, reply.code) == (501, "NotImplemented")
    assert "WriteGetObjectResponse" in facts(reply)["Message"]
    assert raw.request("GET", f"/{bucket}", query=(("session", ""),)).code == "NotImplemented"
