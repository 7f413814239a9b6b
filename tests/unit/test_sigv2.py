"""`s3api.sigv2` against AWS's worked example, botocore's signer and client, and the ways in which a URL is wrong."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
import pytest
from botocore.auth import HmacV1Auth, HmacV1QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from s3api import sigv2, xml
from s3api.call import Call
from s3api.config import ApiConfig
from s3api.errors import S3Error
from s3api.identity import Identity
from s3api.message import Request, Response
from s3api.operations import BY_NAME, DISCRIMINATORS, TABLE, resolve
from s3api.params import parse_query
from s3api.pipeline import Pipeline
from tests.support.clock import ManualClock
from tests.vectors.sigv4_aws import ACCESS_KEY, SECRET_KEY
from tiering.contract import BucketInfo
from tiering.memory import MemoryStore

SECRETS = {ACCESS_KEY: SECRET_KEY}
HOST = {b"host": b"h:9000"}
NOW_S = 1175139000
EXAMPLE = b"AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Signature=NpgCjnDzrM%2BWFzoENXmpNDUsSn8%3D&Expires=1175139620"
"""AWS's example of query string authentication, for the key photos/puppy.jpg of the bucket johnsmith."""


def verify(
    query: bytes,
    method: str = "GET",
    path: bytes = b"/johnsmith/photos/puppy.jpg",
    headers: dict[bytes, bytes] = HOST,
    *,
    bucket: str = "",
    now_s: int = NOW_S,
) -> str:
    names = parse_query(query)
    return sigv2.verify(method, path, bucket, names, sigv2.with_query_headers(headers, names), now_s, SECRETS.get)


def refusal(query: bytes, **options: Any) -> S3Error:
    with pytest.raises(S3Error) as caught:
        verify(query, **options)
    assert SECRET_KEY not in f"{caught.value} {caught.value.fields}"
    return caught.value


def presigned(
    text: bytes, query: bytes = b"", *, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY, expires: str = ""
) -> bytes:
    """`query` with the signature of `text`, of which `%E` is the expiry."""
    expires = expires or str(NOW_S + 60)
    signature = quote(sigv2.sign(secret_key, text.replace(b"%E", expires.encode())), safe="")
    own = f"AWSAccessKeyId={access_key}&Signature={signature}&Expires={expires}".encode()
    return query + b"&" + own if query else own


def test_aws_example() -> None:
    assert verify(EXAMPLE) == ACCESS_KEY
    assert verify(EXAMPLE, path=b"/photos/puppy.jpg", bucket="johnsmith") == ACCESS_KEY, "in virtual-host style"


def test_valid_until_it_expires() -> None:
    assert verify(EXAMPLE, now_s=1175139620)
    error = refusal(EXAMPLE, now_s=1175139621)
    assert (error.spec.code, error.message) == ("AccessDenied", "Request has expired.")
    assert error.fields == {"Expires": "2007-03-29T03:40:20Z", "ServerTime": "2007-03-29T03:40:21Z"}


@pytest.mark.parametrize(
    "options",
    [
        {"method": "PUT"},
        {"method": "HEAD"},
        {"path": b"/johnsmith/photos/puppy.jpeg"},
        {"path": b"/johnsmith/photos/pupp%79.jpg"},
        {"bucket": "johnsmith"},
        {"bucket": "other", "path": b"/photos/puppy.jpg"},
        {"headers": HOST | {b"content-type": b"text/plain"}},
        {"headers": HOST | {b"content-md5": b"x"}},
        {"headers": HOST | {b"x-amz-acl": b"public-read"}},
        {"query": EXAMPLE + b"&acl"},
        {"query": EXAMPLE + b"&versionId=null"},
        {"query": EXAMPLE + b"&response-expires=x"},
        {"query": EXAMPLE + b"&x-amz-acl=public-read"},
        {"query": EXAMPLE + b"&content-type=x"},
        {"query": EXAMPLE.replace(b"1175139620", b"1175139621")},
        {"query": EXAMPLE.replace(b"NpgC", b"NpgD")},
        {"query": EXAMPLE.replace(b"NpgC", b"%C3%A9")},
    ],
    ids=str,
)
def test_any_signed_part_changed_is_refused(options: dict[str, Any]) -> None:
    error = refusal(**{"query": EXAMPLE, **options})
    assert error.spec.code == "SignatureDoesNotMatch"
    assert "\n1175139" in error.fields["StringToSign"]


def test_unknown_key_and_wrong_secret() -> None:
    text = b"GET\n\n\n%E\n/johnsmith/photos/puppy.jpg"
    assert verify(presigned(text)) == ACCESS_KEY
    assert refusal(presigned(text, access_key="nobody")).spec.code == "InvalidAccessKeyId"
    assert refusal(presigned(text, secret_key="wrong")).spec.code == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (b"AWSAccessKeyId=x", "AccessDenied"),
        (b"AWSAccessKeyId=x&Signature=y", "AccessDenied"),
        (b"AWSAccessKeyId=x&Signature=&Expires=2000000000", "AccessDenied"),
        (b"AWSAccessKeyId=&Signature=y&Expires=2000000000", "AccessDenied"),
        (b"AWSAccessKeyId=x&Signature=y&Expires=tomorrow", "AccessDenied"),
        (b"AWSAccessKeyId=x&Signature=y&Expires=-1", "AccessDenied"),
        (b"AWSAccessKeyId=x&Signature=y&Expires=9999999999999", "AccessDenied"),
        (b"AWSAccessKeyId=x&Signature=y&Expires=%D9%A1", "AccessDenied"),
        (EXAMPLE + b"&X-Amz-Signature=0", "InvalidArgument"),
        (EXAMPLE + b"&X-Amz-Algorithm=AWS4-HMAC-SHA256", "InvalidArgument"),
        (EXAMPLE + b"&Expires=2000000000", "InvalidArgument"),
        (EXAMPLE + b"&x-amz-security-token=t", "SignatureDoesNotMatch"),
        (EXAMPLE + b"&x-amz-meta-a=1%0Ax-amz-acl:private", "InvalidArgument"),
        (EXAMPLE + b"&x-amz-meta-a%3A1=2", "InvalidArgument"),
        (EXAMPLE + b"&x-amz-meta-a=1&X-Amz-Meta-A=1", "InvalidArgument"),
        (EXAMPLE + b"&x-amz-content-sha256=STREAMING-UNSIGNED-PAYLOAD-TRAILER", "InvalidArgument"),
    ],
)
def test_malformed(query: bytes, code: str) -> None:
    assert refusal(query).spec.code == code


def test_header_signature_beside_it_is_refused() -> None:
    assert refusal(EXAMPLE, headers=HOST | {b"authorization": b"AWS a:b"}).spec.code == "InvalidArgument"


DATE_S = 1175024202
OLD_HOST = {b"host": b"johnsmith.s3.amazonaws.com", b"date": b"Tue, 27 Mar 2007 19:36:42 GMT"}


def header(signature: bytes, access_key: str = ACCESS_KEY) -> dict[bytes, bytes]:
    return {b"authorization": b"AWS %b:%b" % (access_key.encode(), signature)}


def verify_header(
    method: str,
    path: bytes,
    headers: dict[bytes, bytes],
    *,
    bucket: str = "",
    query: bytes = b"",
    now_s: int = DATE_S,
) -> str:
    return sigv2.verify_header(method, path, bucket, parse_query(query), headers, now_s, 900, SECRETS.get)


@pytest.mark.parametrize(
    ("method", "path", "query", "text", "more"),
    [
        ("GET", b"/photos/puppy.jpg", b"", b"GET\n\n\n%D\n/johnsmith/photos/puppy.jpg", {}),
        (
            "PUT",
            b"/photos/puppy.jpg",
            b"",
            b"PUT\n\nimage/jpeg\n%D\n/johnsmith/photos/puppy.jpg",
            {b"content-type": b"image/jpeg", b"content-length": b"94328"},
        ),
        ("GET", b"/", b"prefix=photos&max-keys=50&marker=puppy", b"GET\n\n\n%D\n/johnsmith/", {}),
        ("GET", b"/", b"acl", b"GET\n\n\n%D\n/johnsmith/?acl", {}),
        (
            "DELETE",
            b"/photos/puppy.jpg",
            b"",
            b"DELETE\n\n\n\nx-amz-date:%D\n/johnsmith/photos/puppy.jpg",
            {b"x-amz-date": OLD_HOST[b"date"], b"date": b"another"},
        ),
    ],
    ids=["get", "put", "list", "acl", "x-amz-date"],
)
def test_header_form_signs_as_aws_says(
    method: str, path: bytes, query: bytes, text: bytes, more: dict[bytes, bytes]
) -> None:
    """The requests of AWS's worked examples; their strings to sign, with the date written as HTTP has it."""
    text = text.replace(b"%D", OLD_HOST[b"date"])
    headers = OLD_HOST | more | header(sigv2.sign(SECRET_KEY, text))
    assert verify_header(method, path, headers, bucket="johnsmith", query=query) == ACCESS_KEY
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        verify_header(method, path, headers | {b"x-amz-acl": b"private"}, bucket="johnsmith", query=query)


@pytest.mark.parametrize(
    ("headers", "query", "code"),
    [
        ({b"authorization": b"AWS HAHAHA"}, b"", "InvalidArgument"),
        ({b"authorization": b"AWS :x"}, b"", "InvalidArgument"),
        ({b"authorization": b"AWS x:"}, b"", "InvalidArgument"),
        (header(b"\xff"), b"", "SignatureDoesNotMatch"),
        (header(b"x", "nobody"), b"", "InvalidAccessKeyId"),
        (header(b"x") | {b"x-amz-date": b"Bad Date"}, b"", "AccessDenied"),
        (header(b"x") | {b"x-amz-date": b""}, b"", "AccessDenied"),
        (header(b"x") | {b"x-amz-date": b"Tue, 07 Jul 1950 21:53:04 GMT"}, b"", "AccessDenied"),
        (header(b"x") | {b"x-amz-date": b"Tue, 07 Jul 2010 21:53:04 GMT"}, b"", "RequestTimeTooSkewed"),
        (header(b"x") | {b"x-amz-date": b"Tue, 07 Jul 9999 21:53:04 GMT"}, b"", "RequestTimeTooSkewed"),
        (header(b"x") | {b"x-amz-security-token": b"t"}, b"", "SignatureDoesNotMatch"),
        (header(b"x") | {b"x-amz-content-sha256": b"STREAMING-UNSIGNED-PAYLOAD-TRAILER"}, b"", "InvalidArgument"),
        (header(b"x") | {b"x-amz-content-sha256": b"0" * 64}, b"", "SignatureDoesNotMatch"),
        (header(b"x"), b"X-Amz-Signature=0", "InvalidArgument"),
        (header(b"x"), b"encryption", "AccessDenied"),
    ],
)
def test_header_form_is_refused(headers: dict[bytes, bytes], query: bytes, code: str) -> None:
    with pytest.raises(S3Error) as caught:
        verify_header("GET", b"/b/k", OLD_HOST | headers, query=query)
    assert caught.value.spec.code == code
    assert SECRET_KEY not in f"{caught.value} {caught.value.fields}"


def test_header_form_without_any_date_is_refused() -> None:
    with pytest.raises(S3Error, match="AccessDenied"):
        verify_header("GET", b"/b/k", HOST | header(b"x"))


def test_intent_headers_cannot_be_signed_and_are_refused() -> None:
    error = refusal(EXAMPLE, headers=HOST | {b"x-recall-pin": b"true"})
    assert error.spec.code == "AccessDenied"
    assert error.fields == {"HeadersNotSigned": "x-recall-pin"}


@pytest.mark.parametrize("name", sorted(DISCRIMINATORS))
def test_no_parameter_that_selects_an_operation_can_be_added(name: str) -> None:
    if name == "list-type":
        assert verify(EXAMPLE + b"&list-type=2")
    else:
        assert refusal(EXAMPLE + b"&" + name.encode()).spec.code in ("AccessDenied", "SignatureDoesNotMatch")


def test_names_of_the_url_select_no_operation() -> None:
    plain = resolve("GET", "object", {}, {})
    assert resolve("GET", "object", parse_query(EXAMPLE), {}) is plain


def test_headers_of_the_query_count_as_headers() -> None:
    names = parse_query(b"X-Amz-Meta-A=%20%C3%A9%20&content-type=a/b&content-md5=c&x-amz-acl=d&prefix=e")
    assert sigv2.with_query_headers(HOST | {b"x-amz-acl": b"sent"}, names) == HOST | {
        b"x-amz-meta-a": "é".encode(),
        b"content-type": b"a/b",
        b"content-md5": b"c",
        b"x-amz-acl": b"sent",
    }


def test_headers_are_signed_in_order_and_stripped() -> None:
    query = presigned(b"PUT\nm\nt\n%E\nx-amz-acl:private\nx-amz-meta-a:1,2\n/b/k", b"x-amz-acl=private")
    headers = HOST | {b"content-md5": b"m", b"content-type": b" t", b"x-amz-meta-a": b" 1,2 "}
    assert verify(query, "PUT", b"/b/k", headers)


@pytest.mark.parametrize("signed", [b"uploads", b"uploads="])
@pytest.mark.parametrize("sent", [b"uploads", b"uploads="])
def test_empty_value_is_signed_bare_or_with_its_equals_sign(signed: bytes, sent: bytes) -> None:
    assert verify(presigned(b"POST\n\n\n%E\n/b/k?" + signed, sent), "POST", b"/b/k")


@pytest.mark.parametrize("signed", [b"/b", b"/b/"])
@pytest.mark.parametrize(("path", "bucket"), [(b"/b", ""), (b"/b/", ""), (b"/", "b")])
def test_bucket_is_signed_with_or_without_its_slash(signed: bytes, path: bytes, bucket: str) -> None:
    assert verify(presigned(b"GET\n\n\n%E\n" + signed), path=path, bucket=bucket)


def test_service_and_folder_keys_keep_their_slash() -> None:
    assert verify(presigned(b"GET\n\n\n%E\n/"), path=b"/")
    assert refusal(presigned(b"GET\n\n\n%E\n/b/k"), path=b"/b/k/").spec.code == "SignatureDoesNotMatch"


# botocore


KEYS = ["k", "a b/ü+@", "a//b", "~x!*'()", "100%", "q?=&;:,$"]


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "DELETE"])
@pytest.mark.parametrize("key", KEYS)
def test_botocore_signer(method: str, key: str) -> None:
    url = f"http://h:9000/b/{quote(key, safe='/~')}?response-content-type=text%2Fplain%3B%20charset%3Dx&x-id=y"
    headers = {"x-amz-meta-a": "1 ü", "Content-Type": "a/b"} if method == "PUT" else {}
    request = AWSRequest(method=method, url=url, headers=headers)
    HmacV1QueryAuth(Credentials(ACCESS_KEY, SECRET_KEY), expires=60).add_auth(request)
    parts = urlsplit(request.url)
    now_s = int(time.time())
    options: dict[str, Any] = {"method": method, "path": parts.path.encode(), "now_s": now_s}
    assert verify(parts.query.encode(), **options) == ACCESS_KEY
    assert refusal(parts.query.encode(), **options | {"now_s": now_s + 62}).message == "Request has expired."
    tampered = parts.query.replace("text%2Fplain", "text%2Fhtml")
    assert refusal(tampered.encode(), **options).spec.code == "SignatureDoesNotMatch"


class _Body:
    length: int | None = 4

    def __init__(self) -> None:
        self._left = b"body"

    async def read(self) -> memoryview:
        left, self._left = self._left, b""
        return memoryview(left)

    def done(self) -> None: ...

    def whole(self) -> memoryview | None:
        return None


class Edge:
    """A pipeline under the wall clock, since botocore signs by it, with one handler for all."""

    def __init__(self) -> None:
        self.seen: list[Call] = []
        clock = ManualClock(int(time.time()) * 1000)
        store = MemoryStore(clock)
        asyncio.run(store.create_bucket(BucketInfo(name="bucket", created_ms=0, pool="")))
        self.pipeline = Pipeline(
            store,
            ApiConfig(domains=("s3.test",), host_buckets={"bound": "bucket"}),
            {ACCESS_KEY: Identity(ACCESS_KEY, SECRET_KEY, root=True)}.get,
            {row.handler: self._answer for row in TABLE if row.handler},
            clock,
        )

    def _answer(self, call: Call) -> Response:
        self.seen.append(call)
        return Response(200)

    def send(self, method: str, url: str, headers: dict[bytes, bytes] | None = None) -> Response:
        parts = urlsplit(url)
        sent = {b"host": parts.netloc.encode(), b"content-length": b"4", **(headers or {})}
        request = Request(method, parts.path.encode() or b"/", parts.query.encode(), sent, _Body())
        reply = self.pipeline.handle(request)
        response = asyncio.run(reply) if inspect.iscoroutine(reply) else reply
        assert isinstance(response, Response)
        return response


@pytest.fixture(scope="module")
def edge() -> Edge:
    return Edge()


@pytest.fixture(params=["path", "virtual"])
def client(request: pytest.FixtureRequest) -> Any:
    return boto3.client(
        "s3",
        endpoint_url="http://s3.test:9000",
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(s3={"addressing_style": request.param}),
    )


OBJECT = {"Bucket": "bucket", "Key": "a b/ü+@"}
CALLS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("get_object", "GET", "GetObject", OBJECT | {"ResponseContentDisposition": 'attachment; filename="ü &.txt"'}),
    ("get_object", "GET", "GetObject", OBJECT | {"ResponseContentType": "text/plain", "PartNumber": 1}),
    ("head_object", "HEAD", "HeadObject", OBJECT),
    ("put_object", "PUT", "PutObject", OBJECT | {"Metadata": {"a": "1"}, "ContentType": "a/b", "Tagging": "x=1&y=2"}),
    ("delete_object", "DELETE", "DeleteObject", OBJECT),
    ("copy_object", "PUT", "CopyObject", OBJECT | {"CopySource": "bucket/o ther"}),
    ("create_multipart_upload", "POST", "CreateMultipartUpload", OBJECT),
    ("upload_part", "PUT", "UploadPart", OBJECT | {"UploadId": "u+/=", "PartNumber": 3}),
    ("list_parts", "GET", "ListParts", OBJECT | {"UploadId": "u"}),
    ("get_object_tagging", "GET", "GetObjectTagging", OBJECT),
    ("list_objects", "GET", "ListObjects", {"Bucket": "bucket", "Prefix": "a b/", "Delimiter": "/"}),
    ("list_objects_v2", "GET", "ListObjectsV2", {"Bucket": "bucket", "Prefix": "a b/"}),
    ("list_multipart_uploads", "GET", "ListMultipartUploads", {"Bucket": "bucket"}),
    ("head_bucket", "HEAD", "HeadBucket", {"Bucket": "bucket"}),
    ("get_bucket_location", "GET", "GetBucketLocation", {"Bucket": "bucket"}),
    ("list_buckets", "GET", "ListBuckets", {}),
]


@pytest.mark.parametrize(("name", "method", "operation", "parameters"), CALLS, ids=lambda value: str(value)[:20])
def test_boto3_by_default(
    edge: Edge, client: Any, name: str, method: str, operation: str, parameters: dict[str, Any]
) -> None:
    url = client.generate_presigned_url(name, Params=parameters, ExpiresIn=60)
    assert "AWSAccessKeyId=" in url
    reply = edge.send(method, url)
    assert reply.status == 200, reply.body
    call = edge.seen[-1]
    assert call.operation == operation
    assert (call.bucket, call.key) == (parameters.get("Bucket", ""), parameters.get("Key", ""))
    if BY_NAME[operation].body != "none":
        assert asyncio.run(call.payload.document()) == b"body"
    if name == "put_object":
        assert [call.header(each) for each in (b"x-amz-meta-a", b"x-amz-tagging", b"content-type")] == [
            "1",
            "x=1&y=2",
            "a/b",
        ]
    wrong = edge.send(method, url.replace("Signature=", "Signature=0"))
    assert wrong.status == 403


def test_url_of_one_bucket_opens_no_other(edge: Edge) -> None:
    """The same path means another object under a Host that is bound to a bucket."""
    query = presigned(b"GET\n\n\n%E\n/bucket/k", expires=str(int(time.time()) + 60)).decode()
    assert edge.send("GET", f"http://s3.test/bucket/k?{query}").status == 200
    assert edge.send("GET", f"http://bound/k?{query}").status == 200
    for host in ("bound", "other.s3.test"):
        reply = edge.send("GET", f"http://{host}/bucket/k?{query}")
        assert isinstance(reply.body, bytes)
        assert xml.parse(reply.body, "Error").text("Code") == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda query: query.replace("Expires=", "Expires=1"), "SignatureDoesNotMatch"),
        (lambda query: query.replace(ACCESS_KEY, "nobody"), "InvalidAccessKeyId"),
        (lambda query: query.partition("&Expires")[0], "AccessDenied"),
        (lambda query: query.replace("AWSAccessKeyId", "x"), "AccessDenied"),
    ],
)
def test_refusals_by_the_pipeline(edge: Edge, spoil: Callable[[str], str], code: str) -> None:
    query = presigned(b"GET\n\n\n%E\n/bucket/k", expires=str(int(time.time()) + 60)).decode()
    reply = edge.send("GET", f"http://s3.test/bucket/k?{spoil(query)}")
    assert isinstance(reply.body, bytes)
    assert xml.parse(reply.body, "Error").text("Code") == code
    assert reply.status == 403


def test_boto3_by_header(edge: Edge) -> None:
    headers = {"x-amz-meta-a": "1", "Content-Type": "a/b"}
    request = AWSRequest(method="PUT", url="http://s3.test/bucket/k?tagging", headers=headers)
    HmacV1Auth(Credentials(ACCESS_KEY, SECRET_KEY)).add_auth(request)
    sent = {name.lower().encode(): value.encode() for name, value in request.headers.items()}
    assert edge.send("PUT", request.url, sent).status == 200
    assert edge.seen[-1].operation == "PutObjectTagging"
    reply = edge.send("PUT", request.url, sent | {b"x-amz-meta-a": b"2"})
    assert isinstance(reply.body, bytes)
    assert xml.parse(reply.body, "Error").text("Code") == "SignatureDoesNotMatch"
