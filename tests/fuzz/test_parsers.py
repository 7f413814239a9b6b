"""Every parser that wire bytes reach: whatever comes, it parses or raises S3Error, and nothing else.

Inputs are free bytes, and bytes near the grammar: pieces of it shuffled, cut and flipped. Found inputs are kept as
explicit examples beside the property that failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from s3api import checksums, cors, params, ranges, settings, sigv2, target, xml
from s3api.chunked import ChunkedDecoder, encode
from s3api.config import ApiConfig
from s3api.errors import S3Error
from s3api.handlers import sts
from s3api.handlers.settings import SETTINGS, Setting
from s3api.identity import Identity
from s3api.message import Request, Response
from s3api.operations import DISCRIMINATORS, resolve
from s3api.payload import open_payload
from s3api.pipeline import Pipeline
from s3api.sigv4 import ChunkSigner, SigningKey, SigV4, presign, sign_headers
from tests.support.clock import NEW_YEAR_MS, ManualClock
from tiering.memory import MemoryStore

CONFIG = ApiConfig(domains=("s3.example.com",), host_buckets={"kv": "kv"})
NOW_S = NEW_YEAR_MS // 1000
HOST = {b"host": b"h"}
SIGNED = sign_headers("GET", b"/b/k", b"", HOST, access_key="a", secret_key="s", now_s=NOW_S)
PRESIGNED = presign("GET", b"/b/k", b"", HOST, access_key="a", secret_key="s", now_s=NOW_S, expires_s=60)


V2_TEXT = b"GET\n\n\n%d\nx-amz-meta-a:1\n/b/k?acl" % (NOW_S + 60)
PRESIGNED_V2 = b"acl&x-amz-meta-a=1&AWSAccessKeyId=a&Expires=%d&Signature=%b" % (
    NOW_S + 60,
    sigv2.sign("s", V2_TEXT).replace(b"+", b"%2B").replace(b"=", b"%3D"),
)


def answers(call: Callable[[], Any]) -> Any:
    """The result, or the S3Error that was raised; anything else fails the test."""
    try:
        return call()
    except S3Error as error:
        return error


def near(*words: bytes) -> st.SearchStrategy[bytes]:
    """Words of a grammar in any order and number, with free bytes between."""
    return st.lists(st.sampled_from(words) | st.binary(max_size=4), max_size=12).map(b"".join)


def flipped(whole: bytes) -> st.SearchStrategy[bytes]:
    """`whole` with one stretch replaced."""
    spans = st.tuples(st.integers(0, len(whole)), st.integers(0, 12), st.binary(max_size=6))
    return spans.map(lambda span: whole[: span[0]] + span[2] + whole[span[0] + span[1] :])


paths = st.binary(max_size=60) | near(b"/", b"//", b"bucket", b"%2F", b"%", b"%00", b"%e2%82", b"..", b"@", b"+")
queries = st.binary(max_size=60) | near(
    b"&", b"=", b"%", b"+", b"uploads", b"partNumber=1", b"X-Amz-Signature=", b"Signature=", b"list-type=2", b"%26",
    b"AWSAccessKeyId=a", b"Expires=9999999999", b"x-amz-copy-source=", b"\n"
)  # fmt: skip
texts = st.text(max_size=40) | st.binary(max_size=40).map(lambda raw: raw.decode("latin-1"))


@given(paths, st.binary(max_size=20) | near(b".s3.example.com", b"kv", b":9000", b"[::1]", b"."))
def test_target(path: bytes, host: bytes) -> None:
    found = answers(lambda: target.parse_target(path, host, CONFIG))
    if isinstance(found, target.Target):
        assert len(found.key.encode()) <= 1024
        assert (found.scope == "object") == bool(found.key)
        assert (found.scope == "service") == (not found.bucket)


@given(queries)
def test_query(raw: bytes) -> None:
    answers(lambda: params.parse_query(raw))
    answers(lambda: params.query_pairs(raw))


@given(
    st.text(max_size=8),
    st.sampled_from(["service", "bucket", "object"]),
    st.dictionaries(st.sampled_from(sorted(DISCRIMINATORS)) | st.text(max_size=5), st.text(max_size=5), max_size=5),
    st.booleans(),
)
def test_resolve(method: str, scope: str, query: dict[str, str], copy: bool) -> None:
    answers(lambda: resolve(method, scope, query, {b"x-amz-copy-source": b""} if copy else {}))


@given(flipped(SIGNED[b"authorization"]) | st.binary(max_size=80), flipped(SIGNED[b"x-amz-date"]), paths, queries)
@example(
    b"AWS4-HMAC-SHA256 Credential=a/20260101/r/s3/aws4_request,SignedHeaders=host,Signature=\xff", b"\xff", b"/", b""
)
@example(b"AWS4-HMAC-SHA256 Credential=\xff/20260101/r/s3/aws4_request,SignedHeaders=host,Signature=0", b"", b"/%", b"")
def test_sigv4_header(authorization: bytes, date: bytes, path: bytes, query: bytes) -> None:
    headers = SIGNED | {b"authorization": authorization, b"x-amz-date": date}
    verified = answers(lambda: SigV4({"a": "s"}.get).verify("GET", path, query, headers, NOW_S))
    assert verified is None or isinstance(verified, S3Error) or headers == SIGNED or path == b"/b/k"


@given(flipped(SIGNED[b"authorization"]))
def test_sigv4_header_changed_never_verifies_as_another(authorization: bytes) -> None:
    verified = answers(
        lambda: SigV4({"a": "s"}.get).verify("GET", b"/b/k", b"", SIGNED | {b"authorization": authorization}, NOW_S)
    )
    if not isinstance(verified, S3Error):
        assert verified is not None
        # Only blanks around the commas are free; the signature is the one that was made.
        assert b"".join(authorization.split()) == b"".join(SIGNED[b"authorization"].split())


@given(flipped(PRESIGNED) | queries)
def test_presigned_query(query: bytes) -> None:
    verified = answers(lambda: SigV4({"a": "s"}.get).verify("GET", b"/b/k", query, HOST, NOW_S))
    if verified is not None and not isinstance(verified, S3Error):
        assert sorted(params.query_pairs(query)) == sorted(params.query_pairs(PRESIGNED))


@given(flipped(PRESIGNED_V2) | st.tuples(queries, st.just(PRESIGNED_V2)).map(b"&".join))
@example(PRESIGNED_V2)
def test_presigned_query_of_version_2(query: bytes) -> None:
    def verify() -> str:
        names = params.parse_query(query)
        if sigv2.ACCESS_KEY not in names:
            return ""
        headers = sigv2.with_query_headers(HOST, names)
        return sigv2.verify("GET", b"/b/k", "", names, headers, NOW_S, {"a": "s"}.get)

    verified = answers(verify)
    assert query != PRESIGNED_V2 or verified == "a"
    if verified == "a":
        # Names that select nothing may be added; none of those that count is another.
        signed, sent = params.parse_query(PRESIGNED_V2), params.parse_query(query)
        assert {name: sent[name].strip() for name in signed if name in sent} | {"x-amz-meta-a": "1"} == signed
        assert not (sent.keys() - signed.keys()) & DISCRIMINATORS - {"list-type"}


BODIES = st.sampled_from(
    [encode([b"hello", b"world"], None, {b"x-amz-checksum-crc32": b"AAAAAA=="}), encode([b"hello" * 9], None, {})]
)


@given(
    BODIES.flatmap(flipped)
    | st.binary(max_size=80)
    | near(b"5\r\n", b"hello", b"\r\n", b"0\r\n", b"0;chunk-signature="),
    st.integers(0, 50),
    st.booleans(),
    st.integers(1, 20),
)
def test_chunked(body: bytes, length: int, signed: bool, step: int) -> None:
    signer = ChunkSigner(SigningKey("s", b"20260101", b"r", b"s3"), b"t", b"scope", "0" * 64) if signed else None
    decoder = ChunkedDecoder(length, signer, {b"x-amz-checksum-crc32"})

    def run() -> int:
        given_out = 0
        for at in range(0, len(body), step):
            given_out += sum(len(piece) for piece in decoder.feed(memoryview(body)[at : at + step]))
            assert given_out <= length
        decoder.finish()
        return given_out

    assert isinstance(found := answers(run), S3Error) or found == length


@given(texts | st.text("bytes=-,0123456789 ", max_size=30))
def test_ranges(value: str) -> None:
    found = ranges.parse_range(value)
    assert found is None or found.stop is None or found.suffix or found.start < found.stop
    answers(lambda: ranges.parse_copy_range(value))


DOCUMENT = b"<?xml version='1.0'?><Delete xmlns='x'><Object><Key>a&amp;b</Key></Object><Quiet>true</Quiet></Delete>"


@given(
    flipped(DOCUMENT)
    | st.binary(max_size=80)
    | near(b"<Delete>", b"</Delete>", b"<!DOCTYPE", b"&#0;", b"<![CDATA[", b"]]>", b"<?x?>")
)
@example(b"<?xml version='1.0' encoding='no-such'?><Delete/>")
@example(b"\xfe\xff<Delete/>")
def test_xml(body: bytes) -> None:
    found = answers(lambda: xml.parse(body, "Delete"))
    if isinstance(found, xml.Node):
        answers(lambda: found.integer("Key", 0, 5))
        answers(lambda: found.text("Object"))


@given(texts)
def test_params(value: str) -> None:
    for call in (
        lambda: params.integer("n", value, 0, 5),
        lambda: params.query_integer({"n": value}, "n", 1, 0, 5),
        lambda: params.boolean("n", value),
        lambda: params.choice("n", value, ("a",), fold=True),
        lambda: params.date("n", value),
        lambda: params.base64_exact("n", value, 4),
        lambda: params.etags("n", value),
        lambda: xml.escape(value),
    ):
        answers(call)


header_names = st.sampled_from(
    [
        b"content-md5", b"x-amz-checksum-crc32", b"x-amz-checksum-sha256", b"x-amz-sdk-checksum-algorithm",
        b"x-amz-trailer", b"x-amz-checksum-zzz", b"x-amz-decoded-content-length", b"content-length", b"host",
        b"x-amz-content-sha256", b"x-amz-date", b"authorization", b"date", b"x-amz-copy-source", b"range",
    ]
)  # fmt: skip
header_values = st.binary(max_size=30) | st.sampled_from(
    [b"AAAAAA==", b"CRC32", b"x-amz-checksum-crc32", b"5", b"STREAMING-UNSIGNED-PAYLOAD-TRAILER", b"UNSIGNED-PAYLOAD"]
)
header_sets = st.dictionaries(header_names, header_values, max_size=6)


@given(header_sets)
def test_requested_checksum(headers: dict[bytes, bytes]) -> None:
    found = answers(lambda: checksums.requested_checksum(headers))
    if isinstance(found, checksums.Requested):
        checksums.Digest(checksums.wanted(found))


class _Body:
    length: int | None = 3

    def __init__(self) -> None:
        self._left = b"abc"

    async def read(self) -> memoryview:
        left, self._left = self._left, b""
        return memoryview(left)

    def done(self) -> None: ...

    def whole(self) -> memoryview | None:
        return None


@given(
    header_sets,
    st.sampled_from(["UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"]),
)
def test_payload(headers: dict[bytes, bytes], kind: str) -> None:
    sent = sign_headers("PUT", b"/b/k", b"", HOST, access_key="a", secret_key="s", now_s=NOW_S, payload=kind)
    verified = SigV4({"a": "s"}.get).verify("PUT", b"/b/k", b"", sent, NOW_S)
    answers(lambda: asyncio.run(open_payload(_Body(), headers, verified, 100).document()))


async def _settled(reply: Coroutine[Any, Any, Response]) -> Response:
    return await reply


def _pipeline() -> Pipeline:
    clock = ManualClock()
    return Pipeline(
        MemoryStore(clock), CONFIG, {"a": Identity("a", "s", root=True)}.get, {"AssumeRole": sts.answer}, clock
    )


@given(st.sampled_from(["GET", "PUT", "POST", "HEAD", "DELETE", "PATCH", "\xff"]), paths, queries, header_sets)
@example("GET", b"/b/%01\xef\xbf\xbf", b"", {})
def test_pipeline_always_answers(method: str, path: bytes, query: bytes, headers: dict[bytes, bytes]) -> None:
    reply = _pipeline().handle(Request(method, path, query, headers, _Body()))
    response = reply if isinstance(reply, Response) else asyncio.run(_settled(reply))  # the token service reads a body
    assert 400 <= response.status < 500 or response.status == 501
    assert isinstance(response.body, bytes)
    if response.body:
        forms = b"<ErrorResponse" in response.body  # of the token service
        error = xml.parse(response.body, "ErrorResponse").find("Error") if forms else xml.parse(response.body, "Error")
        assert error is not None and error.required("Code") not in ("InternalError", "InternalFailure")


@given(paths, queries)
def test_pipeline_answers_any_signed_target(path: bytes, query: bytes) -> None:
    headers = answers(lambda: sign_headers("GET", path, query, HOST, access_key="a", secret_key="s", now_s=NOW_S))
    if isinstance(headers, S3Error):
        return
    response = _pipeline().handle(Request("GET", path, query, headers, _Body()))
    assert isinstance(response, Response)
    # A target that can be read is verified as it was signed, whatever its spelling.
    assert isinstance(response.body, bytes)
    assert b"SignatureDoesNotMatch" not in response.body
    assert response.status != 500


# documents of buckets

_ELEMENTS = (
    "CORSRule", "ID", "AllowedOrigin", "AllowedMethod", "AllowedHeader", "ExposeHeader", "MaxAgeSeconds", "TagSet", "Tag",
    "Key", "Value", "Rule", "ObjectOwnership", "BlockPublicAcls", "RestrictPublicBuckets", "BucketKeyEnabled",
    "ApplyServerSideEncryptionByDefault", "SSEAlgorithm", "KMSMasterKeyID", "LoggingEnabled", "TargetBucket", "TargetPrefix",
    "TargetGrants", "Grant", "Grantee", "Permission", "TargetObjectKeyFormat", "PartitionedPrefix", "PartitionDateSource",
    "SimplePrefix", "Payer", "Status",
)  # fmt: skip
_TEXTS = (
    "",
    "GET",
    "*",
    "a*b",
    "**",
    "x-amz-*",
    "1",
    "-1",
    "true",
    "aws:k",
    "aws:kms",
    "AES256",
    "ObjectWriter",
    "Enabled",
    "READ",
)


def _element(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    inner = st.sampled_from(_TEXTS) | st.lists(children, max_size=4).map("".join)
    return st.tuples(st.sampled_from(_ELEMENTS), inner).map(lambda pair: f"<{pair[0]}>{pair[1]}</{pair[0]}>")


_TREES = st.recursive(st.sampled_from([f"<{name}/>" for name in _ELEMENTS]), _element, max_leaves=12)


@given(st.sampled_from(SETTINGS), st.lists(_TREES, max_size=3).map("".join))
def test_a_bucket_document_is_refused_or_read_back_as_one_that_checks_to_itself(setting: Setting, inner: str) -> None:
    found = answers(
        lambda: setting.check(xml.parse(f"<{setting.root}>{inner}</{setting.root}>".encode(), setting.root))
    )
    if isinstance(found, str):
        shown = setting.show(found)
        assert setting.check(xml.parse(shown.encode(), setting.root)) == found
        settings.bucket_tags(shown if setting.root == "Tagging" else "")
        settings.bucket_logging(shown if setting.root == "BucketLoggingStatus" else "")


@given(_TREES, st.text(max_size=8), st.sampled_from(("GET", "PUT", "PATCH")), st.text(max_size=12))
def test_cross_origin_rules_answer_any_request(tree: str, origin: str, method: str, names: str) -> None:
    body = f"<CORSConfiguration><CORSRule>{tree}<AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>"
    found = answers(lambda: cors.check(xml.parse(body.encode(), "CORSConfiguration")))
    if isinstance(found, str):
        asked = cors.requested(names)
        rule = cors.match(found, origin, method, asked)
        assert rule is None or "\r\n" in cors.lines(rule, origin, asked)
