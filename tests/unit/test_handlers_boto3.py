"""boto3 against the pipeline and the handlers, without a socket: every request it signs is answered in process.

What it shows: botocore's own models read our replies, its checksums and signatures hold, and its errors carry our codes.
Kind: tests. Owns no server.
"""

from __future__ import annotations

import asyncio
import datetime
import inspect
import io
import time
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError

from s3api.config import ApiConfig
from s3api.handlers import HANDLERS
from s3api.identity import Identity
from s3api.message import Request, StreamBody
from s3api.pipeline import Pipeline
from tests.unit.handler_harness import Body
from tiering.memory import MemoryStore

ROOT = Identity("access", "secret", "owner-id", "owner-name", root=True)


class WallClock:
    """boto3 signs with the real time, so the gateway must live in it."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


class Raw(io.BytesIO):
    """What botocore expects of a urllib3 response."""

    def stream(self, amt: int = 1 << 16, decode_content: bool | None = None) -> Any:
        while piece := self.read(amt):
            yield piece


class InProcess:
    """Answers botocore's prepared requests with the pipeline."""

    def __init__(self, scheme: str) -> None:
        clock = WallClock()
        identities = {ROOT.access_key: ROOT}
        self.pipeline = Pipeline(MemoryStore(clock), ApiConfig(), identities.get, HANDLERS, clock)
        self._scheme = scheme

    def send(self, request: Any, **_: Any) -> AWSResponse:
        return asyncio.run(self._send(request))

    async def _send(self, prepared: Any) -> AWSResponse:
        url = urlsplit(prepared.url)
        content = prepared.body or b""
        data = (
            content.encode() if isinstance(content, str) else content if isinstance(content, bytes) else content.read()
        )
        headers = {
            name.lower().encode(): value if isinstance(value, bytes) else value.encode()
            for name, value in prepared.headers.items()
        }
        headers.setdefault(b"host", url.netloc.encode())
        chunked = headers.get(b"transfer-encoding") == b"chunked"
        if not chunked and prepared.method in ("PUT", "POST"):
            headers.setdefault(b"content-length", str(len(data)).encode())
        request = Request(
            prepared.method,
            url.path.encode(),
            url.query.encode(),
            headers,
            Body(data, chunked=chunked),
            tls="1.3" if self._scheme == "https" else "",
            started_s=time.monotonic(),
        )
        answer = self.pipeline.handle(request)
        response = await answer if inspect.isawaitable(answer) else answer
        body = response.body
        if isinstance(body, StreamBody):
            body = b"".join([bytes(piece) async for piece in body.chunks])
        assert isinstance(body, bytes)
        lines = dict(line.split(": ", 1) for line in response.headers.decode().split("\r\n")[:-1])
        length = response.length if response.length is not None else len(body)
        return AWSResponse(prepared.url, response.status, {**lines, "content-length": str(length)}, Raw(body))


@pytest.fixture(params=["http", "https"])  # over https boto3 sends its checksums as trailers
def s3(request: pytest.FixtureRequest) -> Any:
    client = boto3.client(
        "s3",
        endpoint_url=f"{request.param}://gateway.test:9000",
        aws_access_key_id=ROOT.access_key,
        aws_secret_access_key=ROOT.secret_key,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )
    client.meta.events.register("before-send.s3", InProcess(request.param).send)
    client.create_bucket(Bucket="bucket")
    return client


def code(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


def test_objects(s3: Any) -> None:
    s3.put_object(
        Bucket="bucket", Key="a b/ü+%", Body=b"hello", ContentType="text/plain", Metadata={"m": "1"}, Tagging="t=1"
    )
    got = s3.get_object(Bucket="bucket", Key="a b/ü+%", ChecksumMode="ENABLED")
    assert got["Body"].read() == b"hello"
    assert (got["ContentType"], got["Metadata"], got["TagCount"]) == ("text/plain", {"m": "1"}, 1)
    assert got["ChecksumCRC32"] == "NhCmhg=="
    head = s3.head_object(Bucket="bucket", Key="a b/ü+%")
    assert (head["ContentLength"], head["ETag"]) == (5, '"5d41402abc4b2a76b9719d911017c592"')
    assert abs((head["LastModified"] - datetime.datetime.now(datetime.UTC)).total_seconds()) < 60
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket="bucket", Key="a b/ü+%", IfMatch='"x"')
    assert code(caught) == "PreconditionFailed"
    with pytest.raises(ClientError) as caught:
        s3.head_object(Bucket="bucket", Key="none")
    assert code(caught) == "404"
    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket="bucket", Key="none")
    s3.copy_object(Bucket="bucket", Key="copy", CopySource={"Bucket": "bucket", "Key": "a b/ü+%"})
    assert s3.get_object(Bucket="bucket", Key="copy", Range="bytes=1-2")["Body"].read() == b"el"
    names = [entry["Key"] for entry in s3.list_objects_v2(Bucket="bucket")["Contents"]]
    assert names == ["a b/ü+%", "copy"]
    deleted = s3.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": name} for name in names]})
    assert [entry["Key"] for entry in deleted["Deleted"]] == names
    s3.delete_bucket(Bucket="bucket")


def test_buckets(s3: Any) -> None:
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["bucket"]
    assert s3.get_bucket_location(Bucket="bucket")["LocationConstraint"] is None
    assert s3.head_bucket(Bucket="bucket")["BucketRegion"] == "us-east-1"
    assert "Status" not in s3.get_bucket_versioning(Bucket="bucket")
    assert s3.get_bucket_acl(Bucket="bucket")["Grants"][0]["Grantee"]["Type"] == "CanonicalUser"
    with pytest.raises(s3.exceptions.NoSuchBucket):
        s3.list_objects(Bucket="none")


def test_listing_pages(s3: Any) -> None:
    for n in range(7):
        s3.put_object(Bucket="bucket", Key=f"d{n % 3}/ k+{n}", Body=b"")
    for operation in ("list_objects", "list_objects_v2"):
        pages = s3.get_paginator(operation).paginate(Bucket="bucket", PaginationConfig={"PageSize": 2})
        assert [entry["Key"] for page in pages for entry in page["Contents"]] == sorted(
            f"d{n % 3}/ k+{n}" for n in range(7)
        )
        pages = s3.get_paginator(operation).paginate(Bucket="bucket", Delimiter="/", PaginationConfig={"PageSize": 1})
        assert [each["Prefix"] for page in pages for each in page["CommonPrefixes"]] == ["d0/", "d1/", "d2/"]


def test_transfer_manager_multipart(s3: Any) -> None:
    data = bytes(range(256)) * (50 << 10)  # 12.5 MiB
    config = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, use_threads=False)
    s3.upload_fileobj(io.BytesIO(data), "bucket", "big", Config=config)
    head = s3.head_object(Bucket="bucket", Key="big", ChecksumMode="ENABLED")
    assert head["ETag"].endswith('-3"')
    assert head["ChecksumType"] == "COMPOSITE"
    out = io.BytesIO()
    s3.download_fileobj("bucket", "big", out, Config=config)
    assert out.getvalue() == data
    s3.copy({"Bucket": "bucket", "Key": "big"}, "bucket", "copied", Config=config)
    assert s3.get_object(Bucket="bucket", Key="copied")["Body"].read() == data
    attributes = s3.get_object_attributes(
        Bucket="bucket", Key="big", ObjectAttributes=["ETag", "Checksum", "ObjectParts", "ObjectSize"]
    )
    assert (attributes["ObjectSize"], attributes["ObjectParts"]["TotalPartsCount"]) == (len(data), 3)
    part = s3.get_object(Bucket="bucket", Key="big", PartNumber=3, ChecksumMode="ENABLED")
    assert part["PartsCount"] == 3
    assert part["Body"].read() == data[10 << 20 :]


def test_multipart_by_hand(s3: Any) -> None:
    upload = s3.create_multipart_upload(Bucket="bucket", Key="k")["UploadId"]
    part = s3.upload_part(Bucket="bucket", Key="k", UploadId=upload, PartNumber=1, Body=b"data")
    assert s3.list_parts(Bucket="bucket", Key="k", UploadId=upload)["Parts"][0]["Size"] == 4
    assert s3.list_multipart_uploads(Bucket="bucket")["Uploads"][0]["UploadId"] == upload
    done = s3.complete_multipart_upload(
        Bucket="bucket", Key="k", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    )
    assert done["ETag"].endswith('-1"')
    other = s3.create_multipart_upload(Bucket="bucket", Key="k")["UploadId"]
    s3.abort_multipart_upload(Bucket="bucket", Key="k", UploadId=other)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="bucket")


def test_tags_and_restore(s3: Any) -> None:
    s3.put_object(Bucket="bucket", Key="k", Body=b"x")
    s3.put_object_tagging(Bucket="bucket", Key="k", Tagging={"TagSet": [{"Key": "recall:pin", "Value": "true"}]})
    assert s3.get_object_tagging(Bucket="bucket", Key="k")["TagSet"] == [{"Key": "recall:pin", "Value": "true"}]
    head = s3.head_object(Bucket="bucket", Key="k")
    assert head["ResponseMetadata"]["HTTPHeaders"]["x-recall-pinned-until"] == "forever"
    s3.delete_object_tagging(Bucket="bucket", Key="k")
    s3.restore_object(Bucket="bucket", Key="k", RestoreRequest={"Days": 1})
    assert s3.head_object(Bucket="bucket", Key="k")["Restore"].startswith('ongoing-request="false"')


def test_response_overrides(s3: Any) -> None:
    s3.put_object(Bucket="bucket", Key="k", Body=b"x")
    got = s3.get_object(Bucket="bucket", Key="k", ResponseContentType="a/b", ResponseCacheControl="no-store")
    assert (got["ContentType"], got["CacheControl"]) == ("a/b", "no-store")


def test_create_only_and_swap(s3: Any) -> None:
    first = s3.put_object(Bucket="bucket", Key="lock", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket="bucket", Key="lock", Body=b"2", IfNoneMatch="*")
    assert code(caught) == "PreconditionFailed"
    s3.put_object(Bucket="bucket", Key="lock", Body=b"2", IfMatch=first["ETag"])
    with pytest.raises(ClientError) as caught:
        s3.delete_object(Bucket="bucket", Key="lock", IfMatch=first["ETag"])
    assert code(caught) == "PreconditionFailed"
