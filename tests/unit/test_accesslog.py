"""Server access logs: the line of a request and the key of a log (AWS, "Amazon S3 server access log format")."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway import accesslog as collector
from gateway.accesslog import AccessLog
from s3api import accesslog, settings, xml
from s3api.accesslog import Entry
from s3api.encryption import DefaultEncryption, default_encryption_document
from s3api.message import Request, Response
from s3api.pipeline import Trace
from s3api.sealing import KeyRing
from s3api.settings import Logging
from s3api.target import Target
from tests.support.clock import ManualClock
from tests.unit.handler_harness import Body
from tiering.contract import BucketChange, BucketInfo, ListOptions, ReadOptions
from tiering.memory import MemoryStore

AT_S = 1_549_411_238  # 2019-02-06T00:00:38Z, of AWS's example


def entry(**fields: Any) -> Entry:
    plain: dict[str, Any] = {"owner": "79a5", "bucket": "amzn-s3-demo-bucket1", "at_s": AT_S}
    return Entry(**{**plain, **fields})


def test_line_has_the_fields_of_aws_in_order() -> None:
    found = accesslog.line(
        entry(
            peer="192.0.2.3",
            requester="79a5",
            request_id="3E57427F3EXAMPLE",
            operation="GetBucketVersioning",
            method="GET",
            target="/amzn-s3-demo-bucket1?versioning",
            status=200,
            sent_bytes=113,
            total_ms=7,
            agent="S3Console/0.4",
            host_id="s9lzHYrFp76ZVxRcpX9+5cjAnEH2ROuNkd2BHfIa6UkFVdtjf5mKR3/eTPFvsiP/XV/VLi31234=",
            signature="SigV4",
            authentication="AuthHeader",
            host="amzn-s3-demo-bucket1.s3.us-west-1.amazonaws.com",
            tls="1.2",
        )
    )
    assert found == (
        "79a5 amzn-s3-demo-bucket1 [06/Feb/2019:00:00:38 +0000] 192.0.2.3 79a5 3E57427F3EXAMPLE REST.GET.VERSIONING - "
        '"GET /amzn-s3-demo-bucket1?versioning HTTP/1.1" 200 - 113 - 7 - "-" "S3Console/0.4" - '
        "s9lzHYrFp76ZVxRcpX9+5cjAnEH2ROuNkd2BHfIa6UkFVdtjf5mKR3/eTPFvsiP/XV/VLi31234= SigV4 - AuthHeader "
        "amzn-s3-demo-bucket1.s3.us-west-1.amazonaws.com TLSv1.2 - -\n"
    )


def test_nothing_sent_can_end_a_field_or_the_line() -> None:
    found = accesslog.line(entry(agent='a" 200\nb\\', referer="\x7f", key="a b\n", host="h i", version="v w"))
    assert found.count("\n") == 1 and found.endswith("\n")
    assert '"a%22 200%0Ab%5C"' in found
    assert " a%20b%0A " in found
    assert len(found.split('"')) == 7


@pytest.mark.parametrize(
    ("operation", "method", "expected"),
    [
        ("GetObject", "GET", "REST.GET.OBJECT"),
        ("HeadObject", "HEAD", "REST.HEAD.OBJECT"),
        ("PutObject", "PUT", "REST.PUT.OBJECT"),
        ("CopyObject", "PUT", "REST.COPY.OBJECT"),
        ("UploadPart", "PUT", "REST.PUT.PART"),
        ("UploadPartCopy", "PUT", "REST.COPY.PART"),
        ("CreateMultipartUpload", "POST", "REST.POST.UPLOADS"),
        ("CompleteMultipartUpload", "POST", "REST.POST.UPLOAD"),
        ("ListObjects", "GET", "REST.GET.BUCKET"),
        ("ListObjectsV2", "GET", "REST.GET.BUCKET"),
        ("DeleteObjects", "POST", "REST.POST.MULTI_OBJECT_DELETE"),
        ("GetObjectTagging", "GET", "REST.GET.OBJECT_TAGGING"),
        ("GetBucketLifecycleConfiguration", "GET", "REST.GET.LIFECYCLE"),
        ("Preflight", "OPTIONS", "REST.OPTIONS.PREFLIGHT"),
        ("", "GET", "REST.GET.UNKNOWN"),
    ],
)
def test_operations(operation: str, method: str, expected: str) -> None:
    assert accesslog.operation_name(operation, method) == expected


@pytest.mark.parametrize(
    ("partitioned", "expected"),
    [
        ("", "logs/2019-02-08-00-00-38-AB"),
        ("DeliveryTime", "logs/79a5/us-east-1/b/2019/02/08/2019-02-08-00-00-38-AB"),
        ("EventTime", "logs/79a5/us-east-1/b/2019/02/06/2019-02-06-00-00-00-AB"),
    ],
)
def test_keys(partitioned: str, expected: str) -> None:
    wanted = Logging("target", "logs/", partitioned)
    assert accesslog.object_key(wanted, "b", "79a5", "us-east-1", AT_S, AT_S + 2 * 86_400, "AB") == expected


def logged_store(target: str = "target") -> MemoryStore:
    store = MemoryStore(ManualClock())
    body = f"<LoggingEnabled><TargetBucket>{target}</TargetBucket><TargetPrefix>p/</TargetPrefix></LoggingEnabled>"
    text = settings.check_logging(
        xml.parse(f"<BucketLoggingStatus>{body}</BucketLoggingStatus>".encode(), "BucketLoggingStatus")
    )

    async def make() -> None:
        for name in ("b", "plain", "target"):
            await store.create_bucket(BucketInfo(name=name, created_ms=0, pool=""))
        await store.change_bucket("b", BucketChange({"logging": text}))

    asyncio.run(make())
    return store


def record(log: AccessLog, bucket: str, key: str, response: Response | None = None) -> None:
    trace = Trace("REQUEST", "HOST")
    trace.target = Target("object", bucket, key)
    trace.operation = "GetObject"
    request = Request("GET", f"/{bucket}/{key}".encode(), b"versionId=v1", {b"host": b"h"}, Body(b""), "127.0.0.1")
    log.record(request, response or Response(200, b"", b"12345"), trace, 5, 0.25)


def logs(store: MemoryStore) -> list[str]:
    async def read() -> list[str]:
        found = []
        for key, _ in store.list("target", ListOptions()).objects:
            body: Any = store.open("target", key, ReadOptions()).body
            assert key.startswith("p/2")
            found.append(b"".join([bytes(piece) async for piece in body]).decode())
        return found

    return asyncio.run(read())


def test_requests_of_logged_buckets_are_delivered() -> None:
    store = logged_store()
    log = AccessLog(store, "us-east-1", "root")
    record(log, "b", "k1")
    part = Response(206, b"content-range: bytes 0-4/77\r\netag: x\r\n", b"12345")
    record(log, "b", "k2", part)
    record(log, "plain", "k")
    record(log, "none", "k")
    asyncio.run(log.flush())
    asyncio.run(log.flush())
    (text,) = logs(store)
    first, second = text.splitlines()
    assert first.startswith("root b [") and ' k1 "GET /b/k1?versionId=v1 HTTP/1.1" 200 - 5 5 250 - ' in first
    assert " v1 HOST " in first
    assert " 206 - 5 77 " in second


def test_log_that_cannot_be_put_is_lost_quietly() -> None:
    store = logged_store("gone")
    log = AccessLog(store, "us-east-1", "root")
    record(log, "b", "k")
    asyncio.run(log.flush())
    assert logs(store) == []


@pytest.mark.parametrize("bucket", ["target", "b"])
def test_log_goes_to_nobody_else_who_has_made_the_bucket_again(bucket: str) -> None:
    store = logged_store()
    log = AccessLog(store, "us-east-1", "root")
    record(log, "b", "k")
    asyncio.run(store.delete_bucket(bucket))
    asyncio.run(store.create_bucket(BucketInfo(name=bucket, created_ms=0, pool="", owner="other")))
    asyncio.run(log.flush())
    assert logs(store) == []


def test_lines_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "LINES_BYTES_MAX", 1000)
    store = logged_store()
    log = AccessLog(store, "us-east-1", "root")
    for _ in range(100):
        record(log, "b", "k")
    asyncio.run(log.flush())
    (text,) = logs(store)
    assert 1 <= len(text.splitlines()) < 10


def test_a_target_that_encrypts_gets_its_logs_encrypted() -> None:
    store = logged_store()
    text = default_encryption_document(DefaultEncryption("AES256")).decode()
    asyncio.run(store.change_bucket("target", BucketChange({"encryption": text})))
    log = AccessLog(store, "us-east-1", "root", KeyRing({"k": bytes(32)}))
    record(log, "b", "a key that would be seen")
    asyncio.run(log.flush())
    ((key, info),) = store.list("target", ListOptions()).objects
    assert info.encryption is not None and info.encryption.mode == "AES256"
    assert b"would be seen" not in store._objects["target"][key][0].data


def test_a_customers_key_in_a_query_is_left_out() -> None:
    store = logged_store()
    log = AccessLog(store, "us-east-1", "root")
    request = Request("GET", b"/b/k", b"a=1&x-amz-server-side-encryption-customer-key=SECRET%3D&b=2", {}, Body(b""))
    trace = Trace("R", "HOST")
    trace.target = Target("object", "b", "k")
    log.record(request, Response(200), trace, 0, 0.0)
    asyncio.run(log.flush())
    (text,) = logs(store)
    assert "SECRET" not in text and "-customer-key=-&b=2" in text
