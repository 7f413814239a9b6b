"""POST policy forms against a real process: what boto3 and minio-py sign, and what a browser would send."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import minio
import pytest

from tests.support.gateway import Gateway

BOUNDARY = "----WebKitFormBoundaryABCDEFG"


def form(fields: dict[str, str], file: bytes, filename: str = "up.bin", tail: str = "") -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return "".join([*parts, head]).encode() + file + f"\r\n{tail}--{BOUNDARY}--\r\n".encode()


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def post(gateway: Gateway, path: str, body: bytes) -> Answer:
    with closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)) as connection:
        connection.request("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
        reply = connection.getresponse()
        return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())


@pytest.mark.parametrize("size", [0, 5, 100_000, 9_000_001])
def test_boto3_presigned_post(gateway: Gateway, s3: Any, bucket: str, size: int) -> None:
    data = hashlib.shake_128(b"form").digest(size)
    signed = s3.generate_presigned_post(
        bucket,
        "up/${filename}",
        Fields={"Content-Type": "image/png", "x-amz-meta-a": "b"},
        Conditions=[{"Content-Type": "image/png"}, {"x-amz-meta-a": "b"}, ["content-length-range", 0, 10_000_000]],
    )
    assert signed["url"].endswith(f"/{bucket}")
    after = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="submit"\r\n\r\nUpload\r\n'
    reply = post(gateway, f"/{bucket}", form(signed["fields"], data, "né.bin", after))
    assert (reply.status, reply.body) == (204, b"")
    stored = s3.get_object(Bucket=bucket, Key="up/né.bin")
    assert stored["Body"].read() == data
    assert stored["ETag"] == reply.headers["etag"] == f'"{hashlib.md5(data).hexdigest()}"'
    assert (stored["ContentType"], stored["Metadata"]) == ("image/png", {"a": "b"})


def test_boto3_presigned_post_of_version_2(gateway: Gateway, s3: Any, bucket: str) -> None:
    client = gateway.boto3_client(signature_version="s3")
    signed = client.generate_presigned_post(bucket, "k", Conditions=[["content-length-range", 3, 4]])
    assert "AWSAccessKeyId" in signed["fields"]
    assert post(gateway, f"/{bucket}", form(signed["fields"], b"1234")).status == 204
    small = post(gateway, f"/{bucket}", form(signed["fields"], b"12"))
    assert (small.status, b"<Code>EntityTooSmall</Code>" in small.body) == (400, True)
    large = post(gateway, f"/{bucket}", form(signed["fields"], b"x" * 3_000_000))
    assert (large.status, b"<ProposedSize>3000000</ProposedSize>" in large.body) == (400, True)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"1234"


def test_minio_presigned_post_policy(gateway: Gateway, s3: Any, bucket: str) -> None:
    client = minio.Minio(
        endpoint=f"127.0.0.1:{gateway.port}",
        access_key=gateway.access_key,
        secret_key=gateway.secret_key,
        secure=False,
        region="us-east-1",
    )
    policy = minio.datatypes.PostPolicy(bucket, datetime.now(UTC) + timedelta(hours=1))
    policy.add_starts_with_condition("key", "my/")
    policy.add_content_length_range_condition(1, 1 << 20)
    fields = dict(client.presigned_post_policy(policy)) | {"key": "my/object"}
    assert post(gateway, f"/{bucket}", form(fields, b"data")).status == 204
    assert s3.get_object(Bucket=bucket, Key="my/object")["Body"].read() == b"data"
    fields["key"] = "other"
    denied = post(gateway, f"/{bucket}", form(fields, b"data"))
    assert denied.status == 403
    assert b"Invalid according to Policy: Policy Condition failed" in denied.body


def test_policy_signed_by_hand_with_success_document(gateway: Gateway, s3: Any, bucket: str) -> None:
    expiration = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 600))
    conditions = [{"bUcKeT": bucket}, ["StArTs-WiTh", "$KeY", "foo"], {"sUcCeSs_AcTiOn_StAtUs": "201"}]
    policy = base64.b64encode(json.dumps({"expiration": expiration, "conditions": conditions}).encode()).decode()
    signature = base64.b64encode(hmac.digest(gateway.secret_key.encode(), policy.encode(), "sha1")).decode()
    fields = {
        "kEy": "foo.txt",
        "AWSAccessKeyId": gateway.access_key,
        "signature": signature,
        "pOLICy": policy,
        "success_action_status": "201",
    }
    reply = post(gateway, f"/{bucket}", form(fields, b"bar"))
    assert reply.status == 201
    assert b"<Key>foo.txt</Key>" in reply.body
    assert s3.get_object(Bucket=bucket, Key="foo.txt")["Body"].read() == b"bar"


def test_form_that_breaks_off_stores_nothing(gateway: Gateway, s3: Any, bucket: str) -> None:
    signed = s3.generate_presigned_post(bucket, "k")
    body = form(signed["fields"], b"x" * 500_000)
    cut = post(gateway, f"/{bucket}", body[:-10])
    assert (cut.status, b"<Code>MalformedPOSTRequest</Code>" in cut.body) == (400, True)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_anonymous_form_where_the_bucket_is_open_to_all(gateway: Gateway, s3: Any, bucket: str) -> None:
    closed = post(gateway, f"/{bucket}", form({"key": "k", "acl": "public-read"}, b"data"))
    assert (closed.status, b"<Code>AccessDenied</Code>" in closed.body) == (403, True)
    s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls={"Rules": [{"ObjectOwnership": "ObjectWriter"}]})
    s3.delete_public_access_block(Bucket=bucket)
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    opened = post(
        gateway, f"/{bucket}", form({"key": "k", "acl": "public-read", "Content-Type": "text/plain"}, b"data")
    )
    assert (opened.status, opened.body) == (204, b"")
    stored = s3.get_object(Bucket=bucket, Key="k")
    assert (stored["Body"].read(), stored["ContentType"]) == (b"data", "text/plain")
    tagging = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"
    assert post(gateway, f"/{bucket}", form({"key": "t", "tagging": tagging}, b"data")).status == 204
    assert s3.get_object_tagging(Bucket=bucket, Key="t")["TagSet"] == [{"Key": "a", "Value": "b"}]


def test_form_of_a_sealed_bucket_and_of_a_versioned_one(gateway: Gateway, s3: Any, bucket: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    fields = {"x-amz-server-side-encryption": "AES256"}
    signed = s3.generate_presigned_post(bucket, "k", Fields=fields, Conditions=[fields])
    ids = set()
    for data in (b"first" * 70_000, b""):
        reply = post(gateway, f"/{bucket}", form(signed["fields"], data))
        assert reply.status == 204, reply.body
        assert reply.headers["x-amz-server-side-encryption"] == "AES256"
        ids.add(reply.headers["x-amz-version-id"])
        stored = s3.get_object(Bucket=bucket, Key="k")
        assert (stored["Body"].read(), stored["ContentLength"]) == (data, len(data))
        assert stored["ServerSideEncryption"] == "AES256"
    assert len(ids) == 2
