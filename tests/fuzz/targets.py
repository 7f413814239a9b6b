"""TARGETS: every parser that meets bytes a stranger wrote, as a function of bytes.

Promise: a target returns for every input, or shows a fault: whatever its parser may raise by its own word is taken here,
anything else leaves the target. What must hold of a good parse is asserted on the way.

An input of several parts has them divided by `CUT`. Shared by the tests and by `python -m tests.fuzz`, which runs them
for long. Owns nothing that outlives an input, but for a store nobody writes to. Kind: table.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import hashlib
import inspect
import itertools
import logging
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from awscrt.checksums import crc64nvme

from gateway import identities, keys
from gateway.admin import token
from gateway.credentials import Credentials
from gateway.http.chunked import ChunkedDecoder as TransferDecoder
from gateway.http.chunked import FramingError
from gateway.http.head import HeadParser
from s3api import (
    accesslog,
    acl,
    checksums,
    condition,
    cors,
    encryption,
    extensions,
    lifecycle,
    notification,
    objectlock,
    paging,
    params,
    policy,
    post_policy,
    preconditions,
    ranges,
    sealing,
    sigv2,
    versions,
    xml,
)
from s3api.access import OneAccount, Rights
from s3api.chunked import ChunkedDecoder, encode
from s3api.config import ApiConfig
from s3api.errors import S3Error
from s3api.form import FormParser, boundary_of, headers_of
from s3api.handlers import HANDLERS, archive, copy, options, tagging, uploads
from s3api.handlers.settings import SETTINGS
from s3api.identity import Identity
from s3api.message import Request, Response
from s3api.operations import resolve
from s3api.pipeline import Pipeline
from s3api.session import Sessions
from s3api.sigv4 import ChunkSigner, SigningKey, SigV4, presign, sign_headers
from s3api.target import Target as Place
from s3api.target import check_bucket_name, parse_target
from tests.support.clock import NEW_YEAR_MS, ManualClock
from tests.wire.test_fuzz import answered_in_form
from tiering import cold, coldstream, layout
from tiering.backing import keys as cold_keys
from tiering.contract import BucketChange, BucketInfo, Corrupt, FileSpans, ObjectInfo, PutResult
from tiering.memory import MemoryStore
from tiering.ports import BackingCorrupt

CUT = b"\x1e"
"""Divides the parts of an input."""
NOW_S = NEW_YEAR_MS // 1000
HOST = {b"host": b"h"}
CONFIG = ApiConfig(domains=("s3.example.com",), host_buckets={"kv": "kv"})
ROOT = Identity("a", "s", "owner", "owner", root=True, account_id="100000000001", arn="arn:aws:iam::100000000001:root")
RING = sealing.KeyRing({"old": bytes(32), "new": bytes(range(32))})


class Target(NamedTuple):
    """`run` takes any bytes. `seeds` lead into it; `words` are pieces of its grammar."""

    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()


TARGETS: dict[str, Target] = {}


def target(
    name: str, *seeds: bytes, words: tuple[bytes, ...] = ()
) -> Callable[[Callable[[bytes], object]], Callable[[bytes], object]]:
    """Adds a row."""

    def add(run: Callable[[bytes], object]) -> Callable[[bytes], object]:
        TARGETS[name] = Target(run, seeds, words)
        return run

    return add


def parts(data: bytes, count: int) -> list[bytes]:
    """The parts of an input; the last takes what is left, missing ones are empty."""
    found = data.split(CUT, count - 1)
    return found + [b""] * (count - len(found))


def text_of(data: bytes) -> str:
    """Any bytes as text: UTF-8 where they are that."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def headers_from(data: bytes) -> dict[bytes, bytes]:
    """`name: value` a line, as the HTTP edge would hand them on."""
    found = {}
    for line in data.split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon and name.strip():
            found[name.strip().lower()] = value.strip(b" \t")
    return found


def s3(call: Callable[[], Any], *codes: type[Exception]) -> Any:
    """What a call gives, None where it refuses as it may."""
    try:
        return call()
    except (S3Error, *codes):
        return None


def cuts(data: bytes, steps: bytes) -> list[bytes]:
    """`data` in pieces whose lengths are the bytes of `steps`, the last one repeated."""
    pieces, at, lengths = [], 0, [step or 1 for step in steps] or [len(data) or 1]
    for step in itertools.chain(lengths, itertools.repeat(lengths[-1])):
        if at >= len(data):
            return pieces
        pieces.append(data[at : at + step])
        at += step
    raise AssertionError


# --- HTTP -------------------------------------------------------------------------------------------------------------

_HTTP_WORDS = (
    b"GET ", b"PUT ", b"PRI * HTTP/2.0\r\n\r\n", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"Host: h\r\n", b"http://h/x",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\n",
    b"Proxy-Connection: close\r\n", b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b" folded\r\n",
)  # fmt: skip


@target(
    "http-head",
    b"GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n",
    b"PUT http://h/x HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
    words=_HTTP_WORDS,
)
def http_head(data: bytes) -> None:
    parser = HeadParser(128)
    head, _, _ = data.partition(b"\r\n\r\n")
    status = parser.parse(head + b"\r\n\r\n")
    assert status in (0, 400, 431)
    if not status:
        assert parser.path[:1] in (b"/", b"*") and b"?" not in parser.path
        assert parser.length >= -1
    if parser.parse_alone(data + b"\r\n\r\n"):
        assert not status and not data[len(head) :].strip(b"\r\n"), "more than one head was taken for one"
    assert parser.parse(b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n") == 0, "nothing may be remembered"
    assert (parser.path, parser.length, parser.headers) == (b"/next", 0, {b"host": b"h"})


def _facts(parser: HeadParser, head: bytes) -> tuple[Any, ...]:
    status = parser.parse(head)
    if status:
        return (status,)
    read = (parser.method, parser.path, parser.query, parser.headers, parser.length)
    return (*read, parser.keep_alive, parser.version_1_0, parser.expect)


@target(
    "http-head-alike",
    b"GET /a HTTP/1.1\r\nHost: h\r\nx-date: 01\r\nAuthorization: A, s=0f\r\n\r\n" + CUT + b"\x262\x37f\x262\x01\r",
    b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nx-a: 1\r\n\r\n" + CUT + b"\x2e7\x351\x352\x36 ",
    words=_HTTP_WORDS,
)
def http_head_alike(data: bytes) -> None:
    """A head, then others that differ from the one before in a byte each: all mean what they mean to a parser that saw none."""
    head, changes = parts(data, 2)
    parser = HeadParser(128)
    for at in range(0, min(len(changes), 64) - 1, 2):
        head = head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"  # as it is given to the parser: up to the first empty line
        assert _facts(parser, head) == _facts(HeadParser(128), head), "what was read before has changed what is read"
        if len(head) > changes[at]:
            head = head[: changes[at]] + changes[at + 1 : at + 2] + head[changes[at] + 1 :]


@target(
    "http-connection",
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\nPUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello" + CUT + b"\x05",
    b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + CUT + b"\x40\x01",
    words=_HTTP_WORDS,
)
def http_connection(data: bytes) -> None:
    stream, steps = parts(data, 2)
    answered_in_form(stream, list(itertools.accumulate(len(piece) for piece in cuts(stream, steps[:4])))[:50], True)


@target(
    "http-chunked",
    b'5\r\nhello\r\n00A;name="v" ; x\r\n0123456789\r\n1;\r\n!\r\n0\r\nX-Trailer: a\r\nY:\r\n\r\n' + CUT + b"\x03",
    words=(b"\r\n", b"0\r\n\r\n", b";", b"ffffffffffffffff"),
)
def http_chunked(data: bytes) -> None:
    body, steps = parts(data, 2)
    assert _transferred([body]) == _transferred(cuts(body, steps))


def _transferred(pieces: list[bytes]) -> bytes | None:
    """The content of a body; None for one that is refused or never ends."""
    decoder, content = TransferDecoder(), b""
    for piece in pieces:
        buffer, places = bytearray(piece), list[tuple[int, int]]()
        try:
            read = decoder.feed(buffer, 0, len(buffer), places)
        except FramingError:
            return None
        assert read == len(piece) or decoder.ended
        content += b"".join(bytes(buffer[start:stop]) for start, stop in places)
        if decoder.ended:
            return content
    return None


# --- aws-chunked, signatures ------------------------------------------------------------------------------------------

_SIGNER = (SigningKey("s", b"20260101", b"r", b"s3"), b"t", b"scope", "0" * 64)
_TRAILED = encode([b"hello", b"world"], None, {b"x-amz-checksum-crc32": b"AAAAAA=="})
_SIGNED_BODY = encode([b"hello" * 9], ChunkSigner(*_SIGNER), {})


@target(
    "aws-chunked",
    CUT.join((b"10", b"t", b"\x07", _TRAILED)),
    CUT.join((b"45", b"s", b"\x40", _SIGNED_BODY)),
    CUT.join((b"0", b"", b"", b"0\r\n\r\n")),
    words=(b"\r\n", b";chunk-signature=", b"x-amz-trailer-signature:", b"x-amz-checksum-crc32:", b"0\r\n"),
)
def aws_chunked(data: bytes) -> None:
    length, kind, steps, body = parts(data, 4)
    size = int(length) if length.isdigit() and len(length) < 4 else 10

    def run(pieces: list[bytes]) -> bytes | str:
        signer = ChunkSigner(*_SIGNER) if b"s" in kind else None
        decoder = ChunkedDecoder(size, signer, {b"x-amz-checksum-crc32"} if b"t" in kind else None)
        content = b""
        try:
            for piece in pieces:
                content += b"".join(decoder.feed(memoryview(piece)))
                assert len(content) <= size
            decoder.finish()
        except S3Error as error:
            return error.spec.code
        assert len(content) == size
        return content

    assert run([body]) == run(cuts(body, steps))


def _verify(method: str, path: bytes, query: bytes, headers: dict[bytes, bytes]) -> Any:
    return s3(lambda: SigV4({"a": "s"}.get).verify(method, path, query, headers, NOW_S))


def _lines(headers: Mapping[bytes, bytes]) -> bytes:
    return b"\n".join(name + b": " + value for name, value in headers.items())


_SIGNED = sign_headers("GET", b"/b/k", b"acl", HOST, access_key="a", secret_key="s", now_s=NOW_S)
_PRESIGNED = presign("GET", b"/b/k", b"", HOST, access_key="a", secret_key="s", now_s=NOW_S, expires_s=60)
_SIGNATURE_WORDS = (
    b"AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=",
    b"authorization: ", b"x-amz-date: ", b"x-amz-content-sha256: ", b"UNSIGNED-PAYLOAD", b"x-amz-security-token: ",
    b"20260101T000000Z", b"X-Amz-Credential=", b"X-Amz-Signature=", b"X-Amz-Expires=", b"X-Amz-SignedHeaders=host",
    b"AWS a:", b"AWSAccessKeyId=a", b"Signature=", b"Expires=9999999999", b"%", b"%2F", b"date: ",
)  # fmt: skip


@target("sigv4-header", CUT.join((b"GET", b"/b/k", b"acl", _lines(HOST | _SIGNED))), words=_SIGNATURE_WORDS)
def sigv4_header(data: bytes) -> None:
    method, path, query, lines = parts(data, 4)
    _verify(method.decode("latin-1"), path, query, HOST | headers_from(lines))


@target("sigv4-query", CUT.join((b"/b/k", _PRESIGNED, b"range: bytes=0-1")), words=_SIGNATURE_WORDS)
def sigv4_query(data: bytes) -> None:
    path, query, lines = parts(data, 3)
    if _verify("GET", path, query, HOST | headers_from(lines)) is not None:
        assert s3(lambda: params.query_pairs(query)) is not None


_V2_TEXT = b"GET\n\n\n%d\nx-amz-meta-a:1\n/b/k?acl" % (NOW_S + 60)
_PRESIGNED_V2 = b"acl&x-amz-meta-a=1&AWSAccessKeyId=a&Expires=%d&Signature=%b" % (
    NOW_S + 60,
    sigv2.sign("s", _V2_TEXT).replace(b"+", b"%2B").replace(b"=", b"%3D"),
)


@target("sigv2-query", CUT.join((b"/b/k", b"", _PRESIGNED_V2, b"")), words=_SIGNATURE_WORDS)
def sigv2_query(data: bytes) -> None:
    path, bucket, query, lines = parts(data, 4)

    def verify() -> str:
        names = params.parse_query(query)
        if sigv2.ACCESS_KEY not in names:
            return ""
        headers = sigv2.with_query_headers(HOST | headers_from(lines), names)
        return sigv2.verify("GET", path, text_of(bucket), names, headers, NOW_S, {"a": "s"}.get)

    s3(verify)


@target(
    "sigv2-header",
    CUT.join((b"/b/k", b"acl", b"authorization: AWS a:xxxx\ndate: Thu, 01 Jan 2026 00:00:00 GMT")),
    words=_SIGNATURE_WORDS,
)
def sigv2_header(data: bytes) -> None:
    path, query, lines = parts(data, 3)
    headers = {b"authorization": b"AWS a:x"} | headers_from(lines)
    s3(lambda: sigv2.verify_header("PUT", path, "", params.parse_query(query), headers, NOW_S, 900, {"a": "s"}.get))


# --- the target of a request, values in headers and query -------------------------------------------------------------


@target("target", CUT.join((b"/b/k%20+", b"b.s3.example.com:9000")), CUT.join((b"//x", b"[::1]:1")))
def place(data: bytes) -> None:
    path, host = parts(data, 2)
    found = s3(lambda: parse_target(path, host, CONFIG))
    if isinstance(found, Place):
        assert len(found.key.encode()) <= 1024
        assert (found.scope == "object") == bool(found.key)
        assert (found.scope == "service") == (not found.bucket)
    s3(lambda: check_bucket_name(text_of(path)))


@target(
    "query",
    CUT.join((b"GET", b"object", b"versionId=null&partNumber=1&max-keys=5")),
    CUT.join((b"POST", b"bucket", b"delete")),
    words=(
        b"uploads",
        b"versions",
        b"list-type=2",
        b"recall=get",
        b"x-id=",
        b"acl",
        b"tagging",
        b"select&select-type=2",
    ),
)
def query(data: bytes) -> None:
    method, scope, raw = parts(data, 3)
    found = s3(lambda: params.parse_query(raw))
    pairs = s3(lambda: params.query_pairs(raw))
    if found is not None:
        assert len(found) == len(pairs)
        kind = scope.decode("latin-1")
        if kind in ("service", "bucket", "object"):
            s3(lambda: resolve(method.decode("latin-1"), kind, found, {}))  # type: ignore[arg-type]
        s3(lambda: params.query_integer(found, "max-keys", 1, 0, 5))
        s3(lambda: versions.named_version(found))


@target(
    "values",
    b"bytes=0-5",
    b"Thu, 01 Jan 2026 00:00:00 GMT",
    b"Thursday, 01-Jan-26 00:00:00 GMT",
    b"Thu Jan  1 00:00:00 2026",
    b"2026-01-01T00:00:00.000Z",
    b'"a", W/"b", c, *',
    b"600; sliding",
    b"true",
    b"bucket/key%20?versionId=null",
    b"10000",
    b"AQ==",
    b"3sL4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY+MTRCxf3vjVBH40Nr8X8gdRQBpUMLUo",
    words=(b"bytes=", b"sliding", b"null", b"?versionId=", b"GMT", b"+00:00", b"AQ"),
)
def values(data: bytes) -> None:
    value = text_of(data)
    for call in (
        lambda: params.integer("n", value, 0, 5),
        lambda: params.part_number(value),
        lambda: params.boolean("n", value),
        lambda: params.choice("n", value, ("a",), fold=True),
        lambda: params.date("n", value),
        lambda: params.iso_time(value),
        lambda: params.base64_exact("n", value, 4),
        lambda: params.etags("n", value),
        lambda: xml.escape(value).encode(),
        lambda: xml.url_encode(value),
        lambda: extensions.parse_pin(value),
        lambda: extensions.parse_ttl(value),
        lambda: ranges.parse_copy_range(value),
        lambda: copy.copy_source({b"x-amz-copy-source": data}),
        lambda: encryption.parse_context(value),
    ):
        s3(call)
    found = ranges.parse_range(value)
    assert found is None or found.stop is None or found.suffix or found.start < found.stop
    version = s3(lambda: versions.parse_version(value))
    assert version is None or versions.spelled(version) == value
    token_place = s3(lambda: paging.decode_token(value))
    assert token_place is None or paging.decode_token(paging.encode_token(token_place)) == token_place
    assert s3(lambda: Sessions("k", {"a": ROOT}.get).open(value, NOW_S)) is None
    assert not token.accepts(Credentials("access", "secretsecret"), value, NOW_S)


@target(
    "headers",
    b"x-recall-pin: 60\nx-recall-ttl: 5; sliding\nx-amz-meta-recall-pin: true\nx-recall-tier: hot",
    b"x-amz-meta-a: =?utf-8?q?=E9?= b =?utf-8?b?w6k=?=\ncontent-type: text/plain\ncontent-encoding: aws-chunked,gzip",
    b"x-amz-tagging: a=b&c=%20+\nx-amz-storage-class: GLACIER\nx-amz-website-redirect-location: /x",
    b"x-amz-object-lock-mode: GOVERNANCE\nx-amz-object-lock-retain-until-date: 2027-01-01T00:00:00Z\n"
    b"x-amz-object-lock-legal-hold: ON",
    b"x-amz-server-side-encryption: aws:kms\nx-amz-server-side-encryption-context: eyJhIjoiYiJ9\n"
    b"x-amz-server-side-encryption-bucket-key-enabled: true",
    b"x-amz-server-side-encryption-customer-algorithm: AES256\n"
    b"x-amz-server-side-encryption-customer-key: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
    b"x-amz-server-side-encryption-customer-key-md5: cLwoQ9qs8BfLmCJ0uGuT4w==",
    b"content-md5: AAAAAAAAAAAAAAAAAAAAAA==\nx-amz-checksum-crc32: AAAAAA==\nx-amz-sdk-checksum-algorithm: CRC32",
    b"x-amz-trailer: x-amz-checksum-sha256\nx-amz-checksum-type: COMPOSITE",
    b'x-amz-grant-read: id="owner", uri=http://acs.amazonaws.com/groups/global/AllUsers\n'
    b'x-amz-grant-write: emailAddress="a@b"',
    b'x-amz-acl: public-read\nif-match: "a", *\nif-none-match: *\nif-modified-since: Thu, 01 Jan 2026 00:00:00 GMT',
    b"x-amz-copy-source-if-match: a\nx-amz-copy-source-if-unmodified-since: 2026-01-01T00:00:00Z",
    words=(b"x-amz-", b"x-recall-", b"x-amz-meta-", b"=?", b"?=", b"?q?", b"?b?", b"true", b"id=", b"\n"),
)
def headers(data: bytes) -> None:
    sent = headers_from(data)
    accounts = Rights(OneAccount(ROOT))
    metadata = s3(lambda: options.metadata_of(sent)) or {}
    for name, value in metadata.items():
        assert not set(name + value) & {"\r", "\n", "\0"}
    tags = s3(lambda: options.tags_of(sent)) or {}
    for call in (
        lambda: extensions.check_headers("PutObject", sent),
        lambda: extensions.write_intent(sent, metadata, tags, "b", "k", ()),
        lambda: extensions.tag_intent({}, tags),
        lambda: extensions.parse_tier(sent),
        lambda: options.system_of(sent),
        lambda: options.storage_class_of(sent),
        lambda: objectlock.headers_lock(sent, NEW_YEAR_MS),
        lambda: encryption.asked(sent, encryption.NO_DEFAULT, RING),
        lambda: encryption.customer_key(sent, reading=True),
        lambda: checksums.requested_checksum(sent),
        lambda: preconditions.source_conditions(sent, NEW_YEAR_MS),
        lambda: preconditions.write_conditions(sent),
        lambda: preconditions.read_conditions(sent, NEW_YEAR_MS),
        lambda: copy.algorithm_of(sent),
    ):
        s3(call)
    listed = s3(lambda: acl.from_headers(sent, accounts, "owner", "other", of_object=True))
    if listed is not None:
        acl.document(listed, accounts, "owner")


# --- documents --------------------------------------------------------------------------------------------------------


def _xml_words(*names: str) -> tuple[bytes, ...]:
    found = [f"<{name}>".encode() for name in names] + [f"</{name}>".encode() for name in names]
    return (*found, b"<!DOCTYPE", b"&#0;", b"<![CDATA[", b"]]>", b"xmlns='x'", b"<?xml version='1.0' encoding='x'?>")


@target(
    "xml",
    b"<?xml version='1.0'?><Delete xmlns='x'><Object><Key>a&amp;b</Key></Object><Quiet>true</Quiet></Delete>",
    b"\xff\xfe<\0D\0e\0l\0e\0t\0e\0/\0>\0",
    words=_xml_words("Delete", "Object", "Key"),
)
def document(data: bytes) -> None:
    found = s3(lambda: xml.parse(data, "Delete"))
    if found is not None:
        s3(lambda: found.integer("Key", 0, 5))
        s3(lambda: found.text("Object"))
        s3(lambda: found.boolean("Quiet"))


def _kept(setting: Any) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        found = s3(lambda: setting.check(xml.parse(data, setting.root)))
        if isinstance(found, str):
            assert setting.check(xml.parse(setting.show(found).encode(), setting.root)) == found

    return run


_SETTING_SEEDS = {
    "CORSConfiguration": "<CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod><AllowedHeader>a*"
    "</AllowedHeader><ExposeHeader>b</ExposeHeader><MaxAgeSeconds>5</MaxAgeSeconds><ID>i</ID></CORSRule>",
    "Tagging": "<TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet>",
    "OwnershipControls": "<Rule><ObjectOwnership>ObjectWriter</ObjectOwnership></Rule>",
    "PublicAccessBlockConfiguration": "<BlockPublicAcls>true</BlockPublicAcls>",
    "ServerSideEncryptionConfiguration": "<Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>aws:kms</SSEAlgorithm>"
    "<KMSMasterKeyID>new</KMSMasterKeyID></ApplyServerSideEncryptionByDefault><BucketKeyEnabled>true</BucketKeyEnabled>"
    "<BlockedEncryptionTypes><EncryptionType>SSE-C</EncryptionType></BlockedEncryptionTypes></Rule>",
    "BucketLoggingStatus": "<LoggingEnabled><TargetBucket>b</TargetBucket><TargetPrefix>p</TargetPrefix><TargetGrants>"
    '<Grant><Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser"><ID>owner</ID>'
    "</Grantee><Permission>READ</Permission></Grant></TargetGrants><TargetObjectKeyFormat><PartitionedPrefix>"
    "<PartitionDateSource>EventTime</PartitionDateSource></PartitionedPrefix></TargetObjectKeyFormat></LoggingEnabled>",
    "RequestPaymentConfiguration": "<Payer>Requester</Payer>",
    "AccelerateConfiguration": "<Status>Enabled</Status>",
    "AbacStatus": "<Status>Disabled</Status>",
}
for _setting in SETTINGS:
    _seed = f"<{_setting.root}>{_SETTING_SEEDS.get(_setting.root, '')}</{_setting.root}>".encode()
    target(f"xml-{_setting.root}", _seed, words=_xml_words(_setting.root))(_kept(_setting))


@target(
    "cors-preflight",
    CUT.join(
        (
            b"http://a.b",
            b"GET",
            b"x-a, x-b",
            f"<CORSConfiguration>{_SETTING_SEEDS['CORSConfiguration']}</CORSConfiguration>".encode(),
        )
    ),
)
def preflight(data: bytes) -> None:
    origin, method, names, body = parts(data, 4)
    kept = s3(lambda: cors.check(xml.parse(body, "CORSConfiguration")))
    if kept is None or set(origin) & set(b"\r\n"):
        return
    asked = cors.requested(names.decode("latin-1"))
    if s3(lambda: cors.check_request(method.decode("latin-1"), names.decode("latin-1")) or True):
        rule = cors.match(kept, origin.decode("latin-1"), method.decode("latin-1"), asked)
        if rule is not None:
            for line in cors.lines(rule, origin.decode("latin-1"), asked).split("\r\n"):
                assert "\r" not in line and "\n" not in line


@target(
    "xml-acl",
    b'<AccessControlPolicy><Owner><ID>owner</ID></Owner><AccessControlList><Grant><Grantee xmlns:xsi="http://www.w3.org/'
    b'2001/XMLSchema-instance" xsi:type="Group"><URI>http://acs.amazonaws.com/groups/global/AllUsers</URI></Grantee>'
    b"<Permission>READ</Permission></Grant></AccessControlList></AccessControlPolicy>",
    words=_xml_words(
        "Owner", "ID", "AccessControlList", "Grant", "Grantee", "Permission", "EmailAddress", "DisplayName"
    ),
)
def access_list(data: bytes) -> None:
    accounts = Rights(OneAccount(ROOT))
    found = s3(lambda: acl.from_document(data, accounts, "owner"))
    if found is not None:
        acl.permits(found, "R", ROOT, "owner")
        assert s3(lambda: acl.from_document(acl.document(found, accounts, "owner"), accounts, "owner")) is not None


@target(
    "xml-lifecycle",
    b"<LifecycleConfiguration><Rule><ID>i</ID><Status>Enabled</Status><Filter><And><Prefix>p</Prefix><Tag><Key>k</Key>"
    b"<Value>v</Value></Tag><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan></And></Filter><Expiration><Days>30</Days>"
    b"</Expiration><Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>"
    b"<NoncurrentVersionExpiration><NoncurrentDays>3</NoncurrentDays><NewerNoncurrentVersions>2</NewerNoncurrentVersions>"
    b"</NoncurrentVersionExpiration></Rule></LifecycleConfiguration>",
    b"<LifecycleConfiguration><Rule><Status>Disabled</Status><Prefix/><AbortIncompleteMultipartUpload>"
    b"<DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload><Expiration><Date>2027-01-01T00:00:00Z"
    b"</Date></Expiration></Rule></LifecycleConfiguration>",
    words=_xml_words("Rule", "Filter", "Expiration", "Date", "Days", "ExpiredObjectDeleteMarker", "Transition"),
)
def lifecycle_document(data: bytes) -> None:
    found = s3(lambda: lifecycle.parse(data))
    if found is None:
        return
    assert lifecycle.load(lifecycle.store(found)) == found
    assert lifecycle.parse(lifecycle.render(found)) == found
    info = ObjectInfo(generation=1, size=10, modified_ms=NEW_YEAR_MS, etag="e", crc64=0)
    lifecycle.expiration(found, "p/k", info, lifecycle.DAY_MS)


@target(
    "xml-notification",
    b"<NotificationConfiguration><QueueConfiguration><Id>i</Id><Queue>arn:minio:sqs::x:webhook</Queue><Event>"
    b"s3:ObjectCreated:*</Event><Filter><S3Key><FilterRule><Name>prefix</Name><Value>p</Value></FilterRule></S3Key>"
    b"</Filter></QueueConfiguration></NotificationConfiguration>",
    words=_xml_words(
        "QueueConfiguration", "TopicConfiguration", "Event", "Filter", "S3Key", "FilterRule", "Name", "Value"
    ),
)
def notification_document(data: bytes) -> None:
    found = s3(lambda: notification.parse(data, ("x",)))
    if found is not None:
        assert notification.load(notification.store(found)) == found
        assert notification.parse(notification.render(found), ("x",)) == found


@target(
    "xml-lock",
    b"<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>GOVERNANCE"
    b"</Mode><Days>5</Days></DefaultRetention></Rule></ObjectLockConfiguration>",
    b"<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2027-01-01T00:00:00.5+01:00</RetainUntilDate></Retention>",
    b"<LegalHold><Status>ON</Status></LegalHold>",
    words=_xml_words("Rule", "DefaultRetention", "Mode", "Days", "Years", "RetainUntilDate", "Status"),
)
def lock_documents(data: bytes) -> None:
    found = s3(lambda: objectlock.parse_configuration(data))
    if found is not None:
        assert objectlock.load(objectlock.render(found)) == found
        found.until_ms(NEW_YEAR_MS)
    s3(lambda: objectlock.parse_retention(data, NEW_YEAR_MS))
    s3(lambda: objectlock.parse_legal_hold(data))


@target(
    "xml-requests",
    b'<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>"a"</ETag><ChecksumCRC32>AAAAAA==</ChecksumCRC32>'
    b"</Part></CompleteMultipartUpload>",
    b"<RestoreRequest><Days>1</Days><GlacierJobParameters><Tier>Bulk</Tier></GlacierJobParameters></RestoreRequest>",
    b"<Tagging><TagSet><Tag><Key>recall:pin</Key><Value>60</Value></Tag></TagSet></Tagging>",
    b"<ServerSideEncryptionConfiguration><Rule><BucketKeyEnabled>true</BucketKeyEnabled></Rule>"
    b"</ServerSideEncryptionConfiguration>",
    words=_xml_words("Part", "PartNumber", "ETag", "ChecksumSHA256", "Days", "Tier", "SelectParameters", "Tag", "Key"),
)
def request_documents(data: bytes) -> None:
    s3(lambda: uploads._claims(data))
    s3(lambda: archive._request(xml.parse(data, "RestoreRequest")))
    tags = s3(lambda: tagging.read_tagging(data))
    if tags:
        s3(lambda: extensions.tag_intent({}, tags))
    s3(lambda: encryption.parse_default_encryption(data.decode("latin-1")))


# --- policies ---------------------------------------------------------------------------------------------------------

_BUCKET_POLICY = (
    b'{"Version":"2012-10-17","Id":"i","Statement":[{"Sid":"s","Effect":"Allow","Principal":{"AWS":["*","arn:aws:iam::'
    b'100000000001:user/u"]},"Action":"s3:Get*","Resource":"arn:aws:s3:::b/*${aws:username}?","Condition":{"StringLike":'
    b'{"s3:prefix":["a*b?c","${*}"]},"IpAddress":{"aws:SourceIp":"10.0.0.0/8"},"DateLessThan":{"aws:CurrentTime":'
    b'"2030-01-01T00:00:00Z"},"ForAllValues:NumericLessThanIfExists":{"s3:max-keys":5},"Null":{"s3:versionid":true}}}]}'
)
_POLICY_WORDS = (
    b'"Statement":', b'"NotPrincipal":', b'"NotAction":', b'"NotResource":', b'"Condition":', b"ForAnyValue:", b"${",
    b"ArnLike", b"BinaryEquals", b"StringNotEqualsIgnoreCase", b"IfExists", b"arn:aws:s3:::", b"NaN", b"1e999", b"\\ud800",
    b"9" * 30, b"[[[[[[[[", b'{"a":', b"NotIpAddress", b"DateEquals", b"Bool", b"::/0",
)  # fmt: skip


@target(
    "policy",
    CUT.join(
        (
            b"GetObject",
            b"b/k",
            b"s3:prefix=axbyc\naws:sourceip=10.1.1.1\naws:currenttime=2026-01-01T00:00:00Z",
            _BUCKET_POLICY,
        )
    ),
    CUT.join((b"PutObject", b"b/k", b"", b'{"Statement":{"Effect":"Deny","Action":"*","Resource":"*"}}')),
    words=_POLICY_WORDS,
)
def bucket_policy(data: bytes) -> None:
    action, resource, lines, text = parts(data, 4)
    known = dict(each.split("=", 1) for each in text_of(lines).split("\n") if "=" in each)

    def context(key: str) -> list[str] | None:
        return [known[key]] if key in known else None

    document_text = text_of(text)
    for check in (
        lambda: policy.check_bucket_policy(document_text, "b"),
        lambda: policy.check_identity_policy(document_text),
    ):
        found = s3(check)
        if found is not None:
            assert found.public in (True, False)
            for who in (ROOT, None, Identity("")):
                found.judge(who, f"s3:{text_of(action)}", f"arn:aws:s3:::{text_of(resource)}", context)


@target(
    "pattern", CUT.join((b"a*b?c*", b"axxbyc")), CUT.join((b"${a}*${*}", b"v*")), words=(b"*", b"?", b"${a}", b"${$}")
)
def pattern(data: bytes) -> None:
    wild, value = (text_of(part) for part in parts(data, 2))
    found = condition.Pattern(wild).match(value, lambda _: None)
    assert found == _globbed(wild[:200], value[:200]) or len(wild) > 200 or len(value) > 200
    condition.Pattern(wild, variables=True, fold=True).match(value, lambda key: [value] if key == "a" else None)


def _globbed(wild: str, value: str) -> bool:
    """Whether a value fits, by the table of all prefixes: slow and plain."""
    row = [True] + [False] * len(value)
    for sign in wild:
        if sign == "*":
            row = list(itertools.accumulate(row, lambda one, other: one or other))
        else:
            row = [False] + [row[at] and sign in ("?", value[at]) for at in range(len(value))]
    return row[-1]


@target(
    "post-policy",
    CUT.join(
        (
            b"key=a/b\nacl=private\nx-amz-meta-a=1",
            b'{"expiration":"2027-01-01T00:00:00Z","conditions":[{"acl":"private"},["starts-with","$key","a/"],["content-length-range",1,5],["eq","$x-amz-meta-a","1"]]}',
        )
    ),
    words=(
        b'"expiration":',
        b'"conditions":',
        b"starts-with",
        b"content-length-range",
        b"$",
        b"\\$",
        b"[[[[",
        b"9" * 20,
    ),
)
def post_policy_document(data: bytes) -> None:
    lines, text = parts(data, 2)
    fields = dict(each.split("=", 1) for each in text_of(lines).split("\n") if "=" in each)
    found = s3(lambda: post_policy.parse_policy(base64.b64encode(text).decode()))
    if found is not None:
        s3(lambda: post_policy.judge(found, fields, "b", NOW_S))
    s3(lambda: post_policy.parse_policy(text_of(text)))
    s3(lambda: post_policy.verify(fields, NOW_S, 900, {"a": "s"}.get))


_FORM = (
    b'--x\r\nContent-Disposition: form-data; name="key"\r\n\r\na/${filename}\r\n--x\r\nContent-Disposition: form-data; '
    b'name="x-amz-meta-a"\r\n\r\n1\r\n--x\r\nContent-Disposition: form-data; name="file"; filename="C:\\d\\f.txt"\r\n'
    b"Content-Type: text/plain\r\n\r\nhello\r\n--x--\r\n"
)


@target(
    "form",
    CUT.join((b"multipart/form-data; boundary=x", b"\x09", _FORM)),
    CUT.join((b'multipart/form-data; boundary="x"', b"", _FORM)),
    words=(
        b"--x\r\n",
        b"--x--",
        b"\r\n\r\n",
        b"Content-Disposition: form-data; name=",
        b'"file"',
        b"filename*=utf-8''%41",
        b"x-amz-",
    ),
)
def form(data: bytes) -> None:
    kind, steps, body = parts(data, 3)
    boundary = s3(lambda: boundary_of({b"content-type": kind}))
    if boundary is None:
        return

    def run(pieces: list[bytes]) -> tuple[dict[str, str], str, int | None, bytes] | str:
        parser, content = FormParser(boundary), b""
        try:
            for piece in pieces:
                content += b"".join(parser.feed(piece))
            parser.finish()
        except S3Error as error:
            return error.spec.code
        return parser.fields, parser.filename, parser.file_at, content

    found = run([body])
    again = run(cuts(body, steps))
    assert found == again or (isinstance(found, str) and isinstance(again, str))
    if not isinstance(found, str):
        sent = s3(lambda: headers_of(found[0], HOST))
        if sent is not None:
            s3(lambda: options.metadata_of(sent))
            s3(lambda: options.system_of(sent))
        s3(lambda: post_policy.verify(found[0], NOW_S, 900, {"a": "s"}.get))


# --- whole requests ---------------------------------------------------------------------------------------------------


class _Body:
    """A RequestBody over bytes."""

    def __init__(self, data: bytes) -> None:
        self.length: int | None = len(data)
        self._data = data

    async def read(self) -> memoryview:
        data, self._data = self._data, b""
        return memoryview(data)

    def done(self) -> None: ...

    def whole(self) -> memoryview | None:
        data, self._data = self._data, b""
        return memoryview(data)


class _Faults(logging.Handler):
    """Keeps what the border logs: there it is where an exception that is no S3Error ends."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record)


_ALL_FACTS = msgspec.json.encode(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": ["arn:aws:s3:::b", "arn:aws:s3:::b/*"],
                "Condition": {"StringEquals": dict.fromkeys(keys_, "never")},
            }
            for keys_ in (
                ["aws:CurrentTime"], ["aws:SourceIp"], ["aws:UserAgent"], ["aws:Referer"], ["s3:signatureAge"],
                ["s3:object-lock-remaining-retention-days"], ["s3:max-keys"], ["s3:RequestObjectTag/a"],
                ["s3:RequestObjectTagKeys"], ["s3:x-amz-copy-source"], ["s3:prefix"], ["s3:versionid"],
                ["s3:ExistingObjectTag/a"], ["s3:authType"], ["s3:signatureversion"],
            )
        ],
    }
).decode()  # fmt: skip
_NOTICE = notification.store(
    notification.Notices((notification.Notice("i", "Queue", "arn:minio:sqs::x:webhook", ("s3:ObjectCreated:*",)),))
)


async def _store(clock: ManualClock, rich: bool) -> MemoryStore:
    """A store with an object or two. `rich`: of a bucket that has everything set."""
    store = MemoryStore(clock)
    await store.create_bucket(
        BucketInfo(name="b", created_ms=0, pool="", versioning="Enabled" if rich else "", object_lock=rich)
    )
    if rich:
        documents: dict[str, str | None] = {"policy": _ALL_FACTS, "notification": _NOTICE}
        await store.change_bucket("b", BucketChange(documents))
    for key in ("k", "d/e"):
        writer = await _settled(store.put("b", key, 5, options.PutOptions()))
        await _settled(writer.write(b"hello"))
        await writer.commit(PutResult("5d41402abc4b2a76b9719d911017c592"))
    return store


async def _settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def _whole(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    if isinstance(body, FileSpans):
        body.release()
        return b""
    return b"".join([bytes(piece) async for piece in body.chunks])


_REQUESTS = (
    "PUT /b/n|x-amz-meta-a: 1\nx-recall-ttl: 60|hello",
    "GET /b/k?partNumber=1|range: bytes=1-2|",
    "GET /b?list-type=2&prefix=d&delimiter=%2F&max-keys=1&continuation-token=AQ%3D%3D||",
    "GET /b?versions&key-marker=a&version-id-marker=null||",
    "GET /b?uploads&prefix=a&max-uploads=2||",
    "GET /?max-buckets=1&prefix=b||",
    "DELETE /b/k?versionId=null||",
    "POST /b?delete|content-md5: x|<Delete><Object><Key>k</Key></Object></Delete>",
    "PUT /b/c|x-amz-copy-source: /b/k?versionId=null\nx-amz-metadata-directive: REPLACE|",
    "POST /b/u?uploads|x-amz-checksum-algorithm: CRC32|",
    "PUT /b/u?partNumber=1&uploadId=x||hello",
    "POST /b/u?uploadId=x||<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>a</ETag></Part></CompleteMultipartUpload>",
    "POST /b/k?select&select-type=2||<SelectObjectContentRequest/>",
    "POST /b/k?restore||<RestoreRequest><Days>1</Days></RestoreRequest>",
    "PUT /b/k?retention|content-md5: x|<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2027-01-01T00:00:00Z</RetainUntilDate></Retention>",
    "PUT /b?versioning||<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>",
    "PUT /b?policy||" + _BUCKET_POLICY.decode(),
    "PUT /b?lifecycle||<LifecycleConfiguration/>",
    "GET /b/k?attributes|x-amz-object-attributes: ETag,ObjectSize,ObjectParts\nx-amz-max-parts: 1|",
    "PUT /new||<CreateBucketConfiguration><LocationConstraint>eu</LocationConstraint></CreateBucketConfiguration>",
    'POST /b?recall=lookup||{"keys":["k","x"]}',
    'POST /b?recall=get||{"keys":["k","d/e"],"stop_at_miss":true}',
    'POST /b?recall=pin||{"keys":["k"],"pin":1.5}',
    'POST /b?recall=touch||{"keys":["k"],"ttl":"5; sliding"}',
    'POST /b?recall=put||+\0\0\0{"objects":[{"key":"z","size":5,"pin":"3"}]}hello',
    "POST /||Action=AssumeRole&Version=2011-06-15&DurationSeconds=900&Policy=%7B%7D",
    "POST /b/k?recall|x-recall-pin: 5\nx-recall-tier: cold|",
    "OPTIONS /b/k|origin: http://a\naccess-control-request-method: GET\naccess-control-request-headers: a,b|",
    "PUT /b/n?renameObject|x-amz-rename-source: k|",
    "PUT /b/n|x-amz-write-offset-bytes: 5|more",
    "GET /b/k?response-content-type=a%2Fb&response-expires=x||",
)  # fmt: skip


def _request(line: str, rich: bytes) -> bytes:
    start, lines, body = line.split("|", 2)
    return CUT.join((rich, start.encode(), lines.encode(), body.encode()))


@target(
    "request",
    *(_request(line, rich) for line in _REQUESTS for rich in (b"", b"r")),
    words=(
        b"PUT /b/k?", b"POST /b?", b"GET /b?", b"DELETE /b/k?", b"tagging", b"acl", b"legal-hold", b"versionId=null", b"uploadId=",
        b"recall=", b"x-amz-", b"x-recall-", b"encoding-type=url", b"max-keys=", b'{"keys":[', b"start-after=", b"marker=",
    ),
)  # fmt: skip
def request(data: bytes) -> None:
    """A request signed as root goes through the whole pipeline: whatever it says, it is answered, and never by 500."""
    rich, start, lines, body = parts(data, 4)
    method, _, whole = start.partition(b" ")
    path, _, raw_query = whole.partition(b"?")
    clock = ManualClock()
    faults, logger = _Faults(), logging.getLogger("s3api")
    kept = logger.propagate
    sent = {b"host": b"h", b"content-length": str(len(body)).encode()} | headers_from(lines)
    if b"content-md5" in sent and len(sent[b"content-md5"]) == 1:
        sent[b"content-md5"] = base64.b64encode(hashlib.md5(body).digest())
    named = text_of(method)
    if b"authorization" not in sent:
        service = "sts" if path == b"/" and method == b"POST" else "s3"
        signed = s3(
            lambda: sign_headers(
                named, path, raw_query, sent, access_key="a", secret_key="s", now_s=NOW_S, service=service,
                payload=hashlib.sha256(body).hexdigest(),
            )
        )  # fmt: skip
        if signed is None:
            return
        sent |= signed

    async def run() -> None:
        store = await _store(clock, bool(rich))
        sessions = Sessions("k", {"a": ROOT}.get)
        pipeline = Pipeline(
            store, CONFIG, {"a": ROOT}.get, HANDLERS, clock, directory=OneAccount(ROOT), sessions=sessions
        )
        reply = pipeline.handle(Request(named, path, raw_query, sent, _Body(body)))
        response = reply if isinstance(reply, Response) else await reply
        await _whole(response.body)
        assert response.status < 500 or response.status in (501, 503), response.body
        for line in response.headers.split(b"\r\n"):
            assert b"\n" not in line and b"\r" not in line and b"\0" not in line, line

    logger.addHandler(faults)
    logger.propagate = False
    try:
        asyncio.run(run())
    finally:
        logger.removeHandler(faults)
        logger.propagate = kept
        for record in faults.seen:
            error = record.exc_info[1] if record.exc_info else None
            raise AssertionError(record.getMessage()) from error


@target(
    "access-log", CUT.join((b"k", b"GET", b"/b/k?x", b"agent", b"referer", b"GetObject")), words=(b'"', b"\n", b" ")
)
def access_log(data: bytes) -> None:
    key, method, sent, agent, referer, operation = (text_of(part) for part in parts(data, 6))
    line = accesslog.line(
        accesslog.Entry(
            owner="o", bucket="b", at_s=NOW_S, key=key, method="".join(method.split()), target="".join(sent.split()),
            agent=agent, referer=referer, operation=operation, peer=agent, requester=referer, host=agent, version=key,
        )
    )  # fmt: skip
    assert line.count("\n") == 1 and line.endswith("\n") and "\r" not in line


# --- what comes back from disks and backing stores --------------------------------------------------------------------


def _sealed(content: bytes) -> bytes:
    sealer = sealing.Sealer(bytes(32), 0)
    return sealer.feed(content) + sealer.finish()


@target("sealed", CUT.join((b"3", b"5", b"\x04", _sealed(b"hello" * 3))))
def sealed(data: bytes) -> None:
    start, stop, steps, body = parts(data, 4)
    first, last = (int(each) if each.isdigit() and len(each) < 7 else 0 for each in (start, stop))
    try:
        found = sealing.window([(0, len(body))], first, max(first, last))
        opener = sealing.Opener(bytes(32), found.packages)
        content = b"".join(opener.feed(piece) for piece in cuts(body[found.start : found.stop], steps))
        opener.finish()
        assert len(content) <= len(body)
    except Corrupt:
        pass
    try:
        sealing.unwrap(bytes(32), ("a",), body)
    except sealing.WrongKey:
        pass


def _stream(content: bytes, compress: bool, frame: int = 16) -> bytes:
    writer = coldstream.ColdWriter({"a": 1}, len(content), crc64nvme(content), compress=compress, frame_bytes=frame)
    return b"".join((writer.head, *(bytes(each) for each in writer.feed(content)), writer.finish()))


@target(
    "cold-stream",
    CUT.join((b"\x05", _stream(b"hello" * 8, False))),
    CUT.join((b"\x40", _stream(b"a" * 300, True, 200))),
    CUT.join((b"", _stream(b"", False))),
)
def cold_stream(data: bytes) -> None:
    steps, body = parts(data, 2)
    assert _cold(_repaired(body), steps) == _cold(_repaired(body), b"")
    _cold(body, b"")
    for each in (body, _tail_repaired(body)):
        try:
            found = coldstream.parse_seek_table(each, len(each))
            if found.size:
                coldstream.frames_for_range(found, 0, 1)
        except coldstream.ColdCorrupt:
            pass


def _cold(body: bytes, steps: bytes) -> bytes | None:
    reader = coldstream.ColdReader()
    try:
        content = b"".join(bytes(part) for piece in cuts(body, steps) for part in reader.feed(piece))
        reader.finish()
    except coldstream.ColdCorrupt:
        return None
    return content


def _repaired(body: bytes) -> bytes:
    """With the head's own checksum made right, so that what it says is read."""
    try:
        end = coldstream.head_bytes(body)
    except coldstream.ColdCorrupt:
        return body
    return body[: end - 8] + struct.pack("<Q", crc64nvme(body[8 : end - 8])) + body[end:] if end <= len(body) else body


def _tail_repaired(body: bytes) -> bytes:
    try:
        length = coldstream.seek_table_bytes(body)
    except (coldstream.ColdCorrupt, struct.error):
        return body
    frames = (length - coldstream.tail_bytes(0)) // 16
    start, end = len(body) - length, len(body) - length + 16 + 8 * frames
    if start < 0 or end + 8 > len(body):
        return body
    return body[:end] + struct.pack("<Q", crc64nvme(body[start + 8 : end])) + body[end + 8 :]


@target(
    "cold-head",
    b'{"bucket":"b","key":"k","pool":"p","generation":1,"size":5,"modified_ms":1,"etag":"e","crc64":0}',
    words=(b"[[[[", b'"tags":{', b'"lock":'),
)
def cold_head(data: bytes) -> None:
    """A head whose checksum is right and whose metadata is anything."""
    payload = struct.pack("<8sHHIQQI", coldstream.HEAD_SIGNATURE, 1, 0, 1 << 20, 5, 0, len(data)) + data
    whole = (
        struct.pack("<II", coldstream.HEAD_MAGIC, len(payload) + 8) + payload + struct.pack("<Q", crc64nvme(payload))
    )
    try:
        meta = coldstream.parse_head(whole).meta
        cold.record_of(meta, ())
    except (BackingCorrupt, msgspec.ValidationError, KeyError):
        pass
    record = layout.ObjectRecord(generation=1, size=5, modified_ms=1, etag="e", crc64=0)
    try:
        cold.apply_note(record, data)
    except ValueError:  # of which msgspec's are
        pass
    layout.OBJECT.decode(layout.OBJECT.encode(record))


@target("cold-key", b"b/a%25/%2E%2E/%_/x%+/y%@" + b"0" * 32, b".recall/buckets/b.json", b"b/%~/a/" + b"0" * 64)
def cold_key(data: bytes) -> None:
    name = text_of(data)
    try:
        bucket, key, version = cold_keys.parse_cold_key(name)
        assert key is None or cold_keys.cold_key(bucket, key, version) == name
    except ValueError:
        pass
    try:
        cold_keys.parse_bucket_record_key(name)
    except ValueError:
        pass
    if name and len(name.encode()) <= 1024:
        made = cold_keys.cold_key("b", name)
        cold_keys.check_key(made)
        assert cold_keys.parse_cold_key(made)[1] in (name, None)


_CODECS = {
    b"o": layout.OBJECT, b"b": layout.BUCKET, b"p": layout.PART, b"u": layout.UPLOAD, b"r": layout.REGION,
    b"c": layout.COUNTERS, b"q": layout.ORDER, b"e": layout.EVENT,
}  # fmt: skip


@target(
    "rows",
    b"o" + CUT + layout.OBJECT.encode(layout.ObjectRecord(generation=1, size=5, modified_ms=1, etag="e", crc64=0)),
    b"b" + CUT + layout.BUCKET.encode(layout.BucketRecord(name="b", created_ms=0, pool="", number=3)),
    b"c" + CUT + layout.COUNTERS.encode(layout.Counters()),
)
def rows(data: bytes) -> None:
    kind, body = parts(data, 2)
    codec = _CODECS.get(kind[:1], layout.OBJECT)
    try:
        found = codec.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    assert codec.decode(codec.encode(found)) == found


_FOLDER = Path(tempfile.mkdtemp(prefix="recall-fuzz-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


def _private(name: str, content: bytes) -> Path:
    path = _FOLDER / name
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(content)
    return path


@target(
    "identities",
    b'{"accounts":{"x":{"account_id":"200000000002","canonical_id":"c","email":"a@b"}},"users":{"u":{"account":"x","keys":'
    b'[{"access_key":"abcdefgh","secret_key":"abcdefghijklmnop"}],"policies":["readonly","p"],"groups":["g"]}},"groups":'
    b'{"g":{"policies":["readwrite"]}},"policies":{"p":{"Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}}}',
    words=(b'"users":', b'"policies":{"p":{"a":', b"[[[[[[", b'"\\ud800"', b'"enabled":false', b"1e999", b"9" * 30),
)
def identities_file(data: bytes) -> None:
    try:
        identities.Identities(_private("identities.json", data), Credentials("rootroot", "secretsecret"))
    except identities.IdentitiesError:
        pass


@target(
    "key-file",
    b"# c\na:" + base64.b64encode(bytes(32)) + b"\nb:" + base64.b64encode(bytes(range(32))),
    words=(b":", b"\n"),
)
def key_file(data: bytes) -> None:
    path = _private("keys", data)
    own = _private(keys.FILE_NAME, b"own:" + base64.b64encode(bytes(32)))
    try:
        keys.load(own.parent, str(path), {})
    except keys.KeysError:
        pass
