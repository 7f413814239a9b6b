"""boto3 against the gateway: every operation it serves, with the corners where stores differ from S3.

Random bytes come from a seed that is part of each value, so every run stores the same.
"""

from __future__ import annotations

import base64
import hashlib
import io
import random
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

import boto3.s3.transfer
import pytest
from awscrt.checksums import crc32, crc32c, crc64nvme
from botocore.exceptions import ClientError

from tests.s3.rawclient import RawClient
from tests.support.gateway import Gateway

MIB: Final = 1 << 20
SEED: Final = 31_337


def content(size: int, name: object = "") -> bytes:
    return random.Random(f"{SEED} {name} {size}").randbytes(size)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def coded(value: int, size: int) -> str:
    return base64.b64encode(value.to_bytes(size, "big")).decode()


CHECKSUM: Final[dict[str, Callable[[bytes], str]]] = {
    "CRC32": lambda data: coded(crc32(data), 4),
    "CRC32C": lambda data: coded(crc32c(data), 4),
    "CRC64NVME": lambda data: coded(crc64nvme(data), 8),
    "SHA1": lambda data: base64.b64encode(hashlib.sha1(data).digest()).decode(),
    "SHA256": lambda data: base64.b64encode(hashlib.sha256(data).digest()).decode(),
}


class refused:
    """The block must fail with this code and status."""

    def __init__(self, code: str, status: int) -> None:
        self.wanted = (code, status)
        self.error: dict[str, Any] = {}

    def __enter__(self) -> refused:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        assert error is not None, f"not refused: wanted {self.wanted}"
        if not isinstance(error, ClientError):
            return False
        self.error = error.response
        assert (self.error["Error"]["Code"], self.error["ResponseMetadata"]["HTTPStatusCode"]) == self.wanted
        return True


# --- buckets ------------------------------------------------------------------------------------------------------------


def test_bucket_is_made_found_listed_and_removed(s3: Any) -> None:
    assert s3.create_bucket(Bucket="life")["Location"] == "/life"
    assert s3.head_bucket(Bucket="life")["BucketRegion"] == "us-east-1"
    assert "life" in {row["Name"] for row in s3.list_buckets()["Buckets"]}
    assert s3.get_bucket_location(Bucket="life")["LocationConstraint"] is None
    s3.create_bucket(Bucket="life")  # one's own again is no error in us-east-1
    s3.delete_bucket(Bucket="life")
    with refused("404", 404):
        s3.head_bucket(Bucket="life")
    with refused("NoSuchBucket", 404):
        s3.delete_bucket(Bucket="life")


def test_list_buckets_in_pages(s3: Any) -> None:
    names = [f"paged-{number}" for number in range(5)]
    for name in names:
        s3.create_bucket(Bucket=name)
    pages = s3.get_paginator("list_buckets").paginate(Prefix="paged-", PaginationConfig={"PageSize": 2})
    found = [[row["Name"] for row in page["Buckets"]] for page in pages]
    assert found == [names[0:2], names[2:4], names[4:5]]


def test_bucket_with_objects_is_not_removed(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with refused("BucketNotEmpty", 409):
        s3.delete_bucket(Bucket=bucket)
    s3.delete_object(Bucket=bucket, Key="k")
    s3.delete_bucket(Bucket=bucket)


@pytest.mark.parametrize("name", ["Upper", "ab", "a" * 64, "double..dot", "192.168.0.1", "-dash", "minio"])
def test_bad_bucket_name_is_refused(gateway: Gateway, name: str) -> None:
    client = gateway.boto3_client()
    client.meta.events.unregister("before-parameter-build.s3", boto3_name_check())
    with refused("InvalidBucketName", 400):
        client.create_bucket(Bucket=name)
    client.close()


def boto3_name_check() -> Any:
    from botocore.handlers import validate_bucket_name

    return validate_bucket_name


def test_bucket_remembers_the_region_it_was_made_in(s3: Any) -> None:
    s3.create_bucket(Bucket="far", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    assert s3.get_bucket_location(Bucket="far")["LocationConstraint"] == "eu-central-1"
    s3.put_object(Bucket="far", Key="k", Body=b"here all the same")
    assert s3.get_object(Bucket="far", Key="k")["Body"].read() == b"here all the same"
    with refused("InvalidLocationConstraint", 400):
        s3.create_bucket(Bucket="farther", CreateBucketConfiguration={"LocationConstraint": "no region"})


@pytest.mark.parametrize(
    ("call", "code", "status"),
    [
        ("get_bucket_policy", "NoSuchBucketPolicy", 404),
        ("get_bucket_cors", "NoSuchCORSConfiguration", 404),
        ("get_bucket_tagging", "NoSuchTagSet", 404),
        ("get_bucket_lifecycle_configuration", "NoSuchLifecycleConfiguration", 404),
        ("get_object_lock_configuration", "ObjectLockConfigurationNotFoundError", 404),
        ("get_bucket_encryption", "ServerSideEncryptionConfigurationNotFoundError", 404),
        ("get_bucket_website", "NoSuchWebsiteConfiguration", 404),
        ("get_bucket_replication", "ReplicationConfigurationNotFoundError", 404),
    ],
)
def test_bucket_setting_that_is_not_there_says_so(s3: Any, bucket: str, call: str, code: str, status: int) -> None:
    with refused(code, status):
        getattr(s3, call)(Bucket=bucket)


def test_bucket_is_unversioned_and_its_owners(s3: Any, bucket: str) -> None:
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    acl = s3.get_bucket_acl(Bucket=bucket)
    assert [grant["Permission"] for grant in acl["Grants"]] == ["FULL_CONTROL"]


def test_setting_a_bucket_up_in_ways_not_served_is_refused(s3: Any, bucket: str) -> None:
    rule = {"Status": "Enabled", "Destination": {"Bucket": "arn:aws:s3:::other"}}
    with refused("NotImplemented", 501):
        s3.put_bucket_replication(Bucket=bucket, ReplicationConfiguration={"Role": "r", "Rules": [rule]})
    with refused("NotImplemented", 501):
        s3.put_bucket_website(Bucket=bucket, WebsiteConfiguration={"IndexDocument": {"Suffix": "index.html"}})


# --- objects ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4096, 65_537, 5 * MIB], ids=str)
def test_object_is_put_found_read_and_deleted(s3: Any, bucket: str, size: int) -> None:
    data = content(size)
    put = s3.put_object(Bucket=bucket, Key="some/key", Body=data)
    assert put["ETag"] == f'"{md5(data)}"'
    head = s3.head_object(Bucket=bucket, Key="some/key")
    assert (head["ContentLength"], head["ETag"], head["ContentType"]) == (size, put["ETag"], "binary/octet-stream")
    assert abs(head["LastModified"] - datetime.now(UTC)) < timedelta(minutes=5)
    got = s3.get_object(Bucket=bucket, Key="some/key")
    assert got["Body"].read() == data
    assert got["ETag"] == put["ETag"]
    assert got["ResponseMetadata"]["HTTPHeaders"]["x-recall-tier"] == "hot"
    assert s3.delete_object(Bucket=bucket, Key="some/key")["ResponseMetadata"]["HTTPStatusCode"] == 204
    with refused("NoSuchKey", 404):
        s3.get_object(Bucket=bucket, Key="some/key")
    with refused("404", 404):
        s3.head_object(Bucket=bucket, Key="some/key")
    s3.delete_object(Bucket=bucket, Key="some/key")


def test_overwriting_leaves_the_last_one(s3: Any, bucket: str) -> None:
    for size in (100, 70_000, 0, 5):
        s3.put_object(Bucket=bucket, Key="k", Body=content(size))
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == content(size)


@pytest.mark.parametrize("how", [{}, {"IfMatch": '"other"'}], ids=["stored", "refused"])
def test_empty_put_leaves_its_connection_usable(gateway: Gateway, bucket: str, how: dict[str, str]) -> None:
    """botocore sends Expect with an empty body too, and loses count of replies if no 100 comes before the final one."""
    client = gateway.boto3_client(max_pool_connections=1, read_timeout=10)
    client.put_object(Bucket=bucket, Key="empty", Body=b"")
    for _ in range(3):
        try:
            client.put_object(Bucket=bucket, Key="empty", Body=b"", **how)
        except ClientError as error:
            if error.response["Error"]["Code"] != "PreconditionFailed" or not how:
                raise
        client.put_object(Bucket=bucket, Key="full", Body=b"x" * 1000)
    assert client.get_object(Bucket=bucket, Key="full")["Body"].read() == b"x" * 1000
    client.close()


def test_both_workers_see_a_write_at_once(gateway: Gateway, s3: Any, bucket: str) -> None:
    """Each new connection may go to the other worker."""
    for number in range(20):
        s3.put_object(Bucket=bucket, Key="turn", Body=str(number).encode())
        other = gateway.boto3_client()
        assert other.get_object(Bucket=bucket, Key="turn")["Body"].read() == str(number).encode()
        other.close()


@pytest.mark.parametrize(
    "key",
    [
        "plain",
        "sp ace",
        "uni/ço∂é/日本語/🦊",
        "model@1@0@ff:=&+",
        "?query&uploads",
        "#fragment",
        "%2F%41",
        "a//b",
        "trailing/",
        "quote'\"<>&",
        "tilde~star*(paren)!",
        "x" * 1024,
        "日" * 341,
    ],
)
def test_any_key_is_kept_as_it_is(s3: Any, bucket: str, key: str) -> None:
    s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    assert [row["Key"] for row in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    assert [row["Key"] for row in s3.list_objects(Bucket=bucket)["Contents"]] == [key]
    deleted = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key}]})
    assert [row["Key"] for row in deleted["Deleted"]] == [key]
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_key_of_1025_bytes_is_refused(s3: Any, bucket: str) -> None:
    with refused("KeyTooLongError", 400):
        s3.put_object(Bucket=bucket, Key="x" * 1025, Body=b"")


def test_metadata_and_headers_come_back(s3: Any, bucket: str) -> None:
    s3.put_object(
        Bucket=bucket,
        Key="k",
        Body=b"x",
        ContentType="text/plain; charset=utf-8",
        CacheControl="max-age=60",
        ContentDisposition='attachment; filename="a b.txt"',
        ContentEncoding="gzip",
        ContentLanguage="de",
        Expires=datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC),
        Metadata={"Owner": "me", "empty": "", "spaced": "a  b"},
        Tagging="a=1&b=two%20words",
    )
    for found in (s3.head_object(Bucket=bucket, Key="k"), s3.get_object(Bucket=bucket, Key="k")):
        assert found["ContentType"] == "text/plain; charset=utf-8"
        assert found["CacheControl"] == "max-age=60"
        assert found["ContentDisposition"] == 'attachment; filename="a b.txt"'
        assert found["ContentEncoding"] == "gzip"
        assert found["ContentLanguage"] == "de"
        assert found["ExpiresString"] == "Thu, 02 Jan 2031 03:04:05 GMT"
        assert found["Metadata"]["owner"] == "me" and found["Metadata"]["empty"] == ""
        assert found["TagCount"] == 2


def test_response_headers_are_overridden(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentType="text/plain", CacheControl="no-store")
    got = s3.get_object(
        Bucket=bucket,
        Key="k",
        ResponseContentType="application/json",
        ResponseContentDisposition="inline",
        ResponseCacheControl="max-age=1",
        ResponseContentLanguage="fr",
        ResponseContentEncoding="identity",
    )
    assert (got["ContentType"], got["ContentDisposition"], got["CacheControl"]) == (
        "application/json",
        "inline",
        "max-age=1",
    )
    assert s3.head_object(Bucket=bucket, Key="k")["ContentType"] == "text/plain"


def test_metadata_above_two_kib_is_refused(s3: Any, bucket: str) -> None:
    with refused("MetadataTooLarge", 400):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"m": "v" * 2048})


def test_wrong_content_md5_stores_nothing(s3: Any, bucket: str) -> None:
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    with refused("BadDigest", 400):
        s3.put_object(Bucket=bucket, Key="k", Body=b"these", ContentMD5=wrong)
    with refused("InvalidDigest", 400):
        s3.put_object(Bucket=bucket, Key="k", Body=b"these", ContentMD5="no md5")
    with refused("404", 404):
        s3.head_object(Bucket=bucket, Key="k")
    right = base64.b64encode(hashlib.md5(b"these").digest()).decode()
    s3.put_object(Bucket=bucket, Key="k", Body=b"these", ContentMD5=right)


def test_delete_many_at_once(s3: Any, bucket: str) -> None:
    keys = [f"{number:04d}" for number in range(120)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: s3.put_object(Bucket=bucket, Key=key, Body=b"x"), keys))
    objects = [{"Key": key} for key in [*keys, "never-there"]]
    outcome = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects})
    assert {row["Key"] for row in outcome["Deleted"]} == {*keys, "never-there"}
    assert "Errors" not in outcome
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    with refused("MalformedXML", 400):
        s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": str(n)} for n in range(1001)]})


def test_delete_many_reports_each_failure(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="kept", Body=b"x")
    objects = [{"Key": "gone"}, {"Key": "kept", "ETag": "0" * 32}, {"Key": "x" * 1025}]
    outcome = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
    assert "Deleted" not in outcome
    assert {row["Key"][:4]: row["Code"] for row in outcome["Errors"]} == {
        "kept": "PreconditionFailed",
        "xxxx": "KeyTooLongError",
    }
    s3.head_object(Bucket=bucket, Key="kept")


def test_unknown_bucket_is_named(s3: Any) -> None:
    for call in (
        lambda: s3.put_object(Bucket="not-there", Key="k", Body=b"x"),
        lambda: s3.get_object(Bucket="not-there", Key="k"),
        lambda: s3.delete_object(Bucket="not-there", Key="k"),
        lambda: s3.list_objects_v2(Bucket="not-there"),
        lambda: s3.create_multipart_upload(Bucket="not-there", Key="k"),
        lambda: s3.delete_objects(Bucket="not-there", Delete={"Objects": [{"Key": "k"}]}),
    ):
        with refused("NoSuchBucket", 404):
            call()


def test_version_null_is_the_only_one(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert s3.get_object(Bucket=bucket, Key="k", VersionId="null")["Body"].read() == b"x"
    with refused("InvalidArgument", 400):
        s3.get_object(Bucket=bucket, Key="k", VersionId="abc")
    with refused("NoSuchVersion", 404):
        s3.get_object(Bucket=bucket, Key="k", VersionId="a" * 32)
    s3.delete_object(Bucket=bucket, Key="k", VersionId="null")


def test_expected_owner_must_be_ours(s3: Any, bucket: str) -> None:
    with refused("403", 403):
        s3.head_bucket(Bucket=bucket, ExpectedBucketOwner="123456789012")


# --- who calls ----------------------------------------------------------------------------------------------------------


def test_wrong_credentials_are_refused(gateway: Gateway, bucket: str) -> None:
    from boto3 import client

    for access, secret, code in (
        (gateway.access_key, "wrong", "SignatureDoesNotMatch"),
        ("unknown", gateway.secret_key, "InvalidAccessKeyId"),
    ):
        other = client(
            "s3",
            endpoint_url=gateway.endpoint,
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            region_name="us-east-1",
        )
        with refused(code, 403):
            other.list_objects_v2(Bucket=bucket)
        other.close()


def test_anonymous_is_refused(gateway: Gateway, bucket: str) -> None:
    from botocore import UNSIGNED

    client = gateway.boto3_client(signature_version=UNSIGNED)
    with refused("AccessDenied", 403):
        client.list_objects_v2(Bucket=bucket)
    client.close()


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-3", "local"])
def test_any_region_may_be_signed_for(gateway: Gateway, bucket: str, region: str) -> None:
    from boto3 import client

    other = client(
        "s3",
        endpoint_url=gateway.endpoint,
        aws_access_key_id=gateway.access_key,
        aws_secret_access_key=gateway.secret_key,
        region_name=region,
    )
    other.put_object(Bucket=bucket, Key=region, Body=b"x")
    assert other.get_object(Bucket=bucket, Key=region)["Body"].read() == b"x"
    other.close()


# --- presigned URLs -----------------------------------------------------------------------------------------------------


def fetch(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.parametrize("key", ["plain", "a//b c+d", "日本語@x"])
def test_presigned_urls_read_write_and_delete(gateway: Gateway, bucket: str, key: str) -> None:
    client = gateway.boto3_client(signature_version="s3v4")

    def url(call: str, **parameters: str) -> str:
        return client.generate_presigned_url(call, Params={"Bucket": bucket, "Key": key, **parameters}, ExpiresIn=60)

    assert fetch(url("put_object"), "PUT", b"presigned")[0] == 200
    assert fetch(url("get_object")) == (200, b"presigned")
    assert fetch(url("get_object"), Range="bytes=3-5") == (206, b"sig")
    assert fetch(url("head_object"), "HEAD") == (200, b"")
    shown = url("get_object", ResponseContentType="text/x-shown")
    with urllib.request.urlopen(shown, timeout=20) as reply:
        assert reply.headers["content-type"] == "text/x-shown"
    assert fetch(url("delete_object"), "DELETE")[0] == 204
    assert fetch(url("get_object"))[0] == 404
    client.close()


def test_presigned_url_is_for_one_method_key_and_time(gateway: Gateway, bucket: str) -> None:
    client = gateway.boto3_client(signature_version="s3v4")
    client.put_object(Bucket=bucket, Key="k", Body=b"x")
    url = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=60)
    assert fetch(url, "DELETE")[0] == 403
    assert fetch(url.replace("/k?", "/other?"))[0] == 403
    assert fetch(url.replace("X-Amz-Expires=60", "X-Amz-Expires=6000"))[0] == 403
    old = datetime.now(UTC) - timedelta(minutes=5)
    assert fetch(backdated(client, bucket, old))[0] == 403
    too_long = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=604_801)
    assert fetch(too_long)[0] == 400
    client.close()


def backdated(client: Any, bucket: str, at: datetime) -> str:
    """A URL presigned at another time, good for a minute from then."""
    from unittest import mock

    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest

    request = AWSRequest("GET", f"{client.meta.endpoint_url}/{bucket}/k")
    auth = S3SigV4QueryAuth(client._request_signer._credentials, "s3", "us-east-1", expires=60)
    with mock.patch("botocore.auth.get_current_datetime", return_value=at):  # botocore takes no clock
        auth.add_auth(request)
    return str(request.url)


def test_presigned_put_holds_what_was_signed(gateway: Gateway, bucket: str) -> None:
    client = gateway.boto3_client(signature_version="s3v4")
    parameters = {"Bucket": bucket, "Key": "k", "ContentType": "text/plain", "Metadata": {"a": "b"}}
    url = client.generate_presigned_url("put_object", Params=parameters, ExpiresIn=60)
    assert fetch(url, "PUT", b"x")[0] == 403
    headers = {"Content-Type": "text/plain", "x-amz-meta-a": "b"}
    assert fetch(url, "PUT", b"x", **headers)[0] == 200
    assert client.head_object(Bucket=bucket, Key="k")["Metadata"] == {"a": "b"}
    client.close()


# --- conditions ---------------------------------------------------------------------------------------------------------


def test_conditional_reads(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    before, after = modified - timedelta(hours=1), modified + timedelta(hours=1)
    for call, head in ((s3.get_object, False), (s3.head_object, True)):
        call(Bucket=bucket, Key="k", IfMatch=etag)
        call(Bucket=bucket, Key="k", IfNoneMatch='"other"')
        call(Bucket=bucket, Key="k", IfModifiedSince=before)
        call(Bucket=bucket, Key="k", IfUnmodifiedSince=after)
        call(Bucket=bucket, Key="k", IfMatch=etag, IfUnmodifiedSince=before)  # If-Match decides
        with refused("412" if head else "PreconditionFailed", 412):
            call(Bucket=bucket, Key="k", IfMatch='"other"')
        with refused("412" if head else "PreconditionFailed", 412):
            call(Bucket=bucket, Key="k", IfUnmodifiedSince=before)
        for condition in ({"IfNoneMatch": etag}, {"IfNoneMatch": "*"}, {"IfModifiedSince": modified}):
            with refused("304", 304) as unchanged:
                call(Bucket=bucket, Key="k", **condition)
            assert unchanged.error["ResponseMetadata"]["HTTPHeaders"]["etag"] == etag


def test_conditional_writes(s3: Any, bucket: str) -> None:
    first = s3.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
    with refused("PreconditionFailed", 412):
        s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*")
    second = s3.put_object(Bucket=bucket, Key="k", Body=b"3", IfMatch=first)["ETag"]
    with refused("PreconditionFailed", 412):
        s3.put_object(Bucket=bucket, Key="k", Body=b"4", IfMatch=first)
    with refused("NoSuchKey", 404):
        s3.put_object(Bucket=bucket, Key="none", Body=b"5", IfMatch=first)
    with refused("PreconditionFailed", 412):
        s3.delete_object(Bucket=bucket, Key="k", IfMatch=first)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"3"
    s3.delete_object(Bucket=bucket, Key="k", IfMatch=second)


def race(gateway: Gateway, attempt: Callable[[Any, int], Any], writers: int = 16) -> list[int]:
    """Runs `attempt` from that many clients with connections of their own, at once; returns who won."""
    clients = [gateway.boto3_client() for _ in range(writers)]

    def run(number: int) -> int | None:
        try:
            attempt(clients[number], number)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (409, 412):
                raise
            return None
        return number

    try:
        for client in clients:
            client.list_buckets(MaxBuckets=1)  # connected, so that all start at once
        with ThreadPoolExecutor(writers) as pool:
            return [winner for winner in pool.map(run, range(writers)) if winner is not None]
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize("size", [10, 3 * MIB], ids=str)
def test_one_of_sixteen_creators_wins(gateway: Gateway, s3: Any, bucket: str, size: int) -> None:
    def create(client: Any, number: int) -> None:
        client.put_object(Bucket=bucket, Key="lock", Body=content(size, number), IfNoneMatch="*")

    for _ in range(3):
        winners = race(gateway, create)
        assert len(winners) == 1
        assert s3.get_object(Bucket=bucket, Key="lock")["Body"].read() == content(size, winners[0])
        s3.delete_object(Bucket=bucket, Key="lock")


@pytest.mark.parametrize("size", [10, 3 * MIB], ids=str)
def test_one_of_sixteen_replacers_wins(gateway: Gateway, s3: Any, bucket: str, size: int) -> None:
    etag = s3.put_object(Bucket=bucket, Key="lock", Body=b"first")["ETag"]
    for turn in range(3):

        def replace(client: Any, number: int, etag: str = etag, turn: int = turn) -> None:
            client.put_object(Bucket=bucket, Key="lock", Body=content(size, (turn, number)), IfMatch=etag)

        winners = race(gateway, replace)
        assert len(winners) == 1
        now = s3.get_object(Bucket=bucket, Key="lock")
        assert now["Body"].read() == content(size, (turn, winners[0]))
        etag = now["ETag"]


def test_one_of_sixteen_completions_wins(gateway: Gateway, s3: Any, bucket: str) -> None:
    uploads = []
    for number in range(16):
        upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
        part = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=content(100, number))
        uploads.append((upload, {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}))

    def complete(client: Any, number: int) -> None:
        upload, parts = uploads[number]
        client.complete_multipart_upload(
            Bucket=bucket, Key="k", UploadId=upload, MultipartUpload=parts, IfNoneMatch="*"
        )

    winners = race(gateway, complete)
    assert len(winners) == 1
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == content(100, winners[0])


def test_one_of_sixteen_copies_wins(gateway: Gateway, s3: Any, bucket: str) -> None:
    for number in range(16):
        s3.put_object(Bucket=bucket, Key=f"from-{number}", Body=content(100, number))

    def copy(client: Any, number: int) -> None:
        source = {"Bucket": bucket, "Key": f"from-{number}"}
        client.copy_object(Bucket=bucket, Key="to", CopySource=source, IfNoneMatch="*")

    winners = race(gateway, copy)
    assert len(winners) == 1
    assert s3.get_object(Bucket=bucket, Key="to")["Body"].read() == content(100, winners[0])


# --- ranges -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=990-", 990, 1000),
        ("bytes=990-2000", 990, 1000),
        ("bytes=-10", 990, 1000),
        ("bytes=-5000", 0, 1000),
        ("bytes=999-999", 999, 1000),
    ],
)
def test_range_is_clipped(s3: Any, bucket: str, asked: str, start: int, stop: int) -> None:
    data = content(1000)
    s3.put_object(Bucket=bucket, Key="k", Body=data)
    got = s3.get_object(Bucket=bucket, Key="k", Range=asked)
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert got["Body"].read() == data[start:stop]
    assert got["ContentRange"] == f"bytes {start}-{stop - 1}/1000"


@pytest.mark.parametrize("asked", ["bytes=1000-", "bytes=1000-2000", "bytes=-0"])
def test_range_outside_is_416(s3: Any, bucket: str, asked: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=content(1000))
    with refused("InvalidRange", 416):
        s3.get_object(Bucket=bucket, Key="k", Range=asked)


@pytest.mark.parametrize("asked", ["bytes=5-2", "lines=1-2", "bytes=a-b", "bytes=0-1,5-6"])
def test_range_that_is_none_is_ignored(s3: Any, bucket: str, asked: str) -> None:
    """RFC 9110 §14.2: an invalid or unsupported Range is no Range; S3 serves one range at most."""
    s3.put_object(Bucket=bucket, Key="k", Body=content(1000))
    got = s3.get_object(Bucket=bucket, Key="k", Range=asked)
    assert (got["ResponseMetadata"]["HTTPStatusCode"], got["Body"].read()) == (200, content(1000))


def test_range_of_nothing_is_416(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    with refused("InvalidRange", 416):
        s3.get_object(Bucket=bucket, Key="k", Range="bytes=0-")


# --- checksums ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", CHECKSUM)
def test_checksum_is_kept_and_verified(s3: Any, bucket: str, algorithm: str) -> None:
    data = content(100_000)
    field, value = f"Checksum{algorithm}", CHECKSUM[algorithm](data)
    put = s3.put_object(Bucket=bucket, Key="k", Body=data, ChecksumAlgorithm=algorithm)
    assert (put[field], put["ChecksumType"]) == (value, "FULL_OBJECT")
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (head[field], head["ChecksumType"]) == (value, "FULL_OBJECT")
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert got["Body"].read() == data  # botocore verifies what it can compute
    assert got[field] == value
    part = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED", Range="bytes=0-9")
    assert field not in part
    told = s3.put_object(Bucket=bucket, Key="told", Body=data, **{field: value})
    assert told[field] == value
    with refused("BadDigest", 400):
        s3.put_object(Bucket=bucket, Key="lie", Body=data, **{field: CHECKSUM[algorithm](b"other")})
    with refused("404", 404):
        s3.head_object(Bucket=bucket, Key="lie")
    attributes = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["Checksum"])
    assert attributes["Checksum"] == {field: value, "ChecksumType": "FULL_OBJECT"}


PARTS: Final = (content(5 * MIB, 1), content(5 * MIB + 1, 2), content(77, 3))
WHOLE: Final = b"".join(PARTS)


def upload_parts(s3: Any, bucket: str, key: str, **begin: Any) -> tuple[str, list[dict[str, Any]]]:
    """Begins an upload and stores PARTS; what completing it takes."""
    upload = s3.create_multipart_upload(Bucket=bucket, Key=key, **begin)["UploadId"]
    parts = []
    how = {"ChecksumAlgorithm": begin["ChecksumAlgorithm"]} if "ChecksumAlgorithm" in begin else {}
    for number, body in enumerate(PARTS, start=1):
        part = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=body, **how)
        kept = {name: part[name] for name in part if name.startswith("Checksum") and name != "ChecksumType"}
        parts.append({"PartNumber": number, "ETag": part["ETag"], **kept})
    return upload, parts


def composite(algorithm: str) -> str:
    raw = b"".join(base64.b64decode(CHECKSUM[algorithm](part)) for part in PARTS)
    return f"{CHECKSUM[algorithm](raw)}-{len(PARTS)}"


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        ("CRC32", "COMPOSITE"),
        ("CRC32C", "COMPOSITE"),
        ("SHA1", "COMPOSITE"),
        ("SHA256", "COMPOSITE"),
        ("CRC32", "FULL_OBJECT"),
        ("CRC32C", "FULL_OBJECT"),
        ("CRC64NVME", "FULL_OBJECT"),
    ],
)
def test_multipart_checksums(s3: Any, bucket: str, algorithm: str, kind: str) -> None:
    field = f"Checksum{algorithm}"
    value = composite(algorithm) if kind == "COMPOSITE" else CHECKSUM[algorithm](WHOLE)
    upload, parts = upload_parts(s3, bucket, "k", ChecksumAlgorithm=algorithm, ChecksumType=kind)
    assert [part[field] for part in parts] == [CHECKSUM[algorithm](part) for part in PARTS]
    lying = [{**parts[0], field: CHECKSUM[algorithm](b"other")}, *parts[1:]]
    with refused("InvalidPart", 400):
        s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload, MultipartUpload={"Parts": lying})
    done = s3.complete_multipart_upload(
        Bucket=bucket, Key="k", UploadId=upload, MultipartUpload={"Parts": parts}, ChecksumType=kind
    )
    assert (done[field], done["ChecksumType"]) == (value, kind)
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (head[field], head["ChecksumType"]) == (value, kind)
    assert s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")["Body"].read() == WHOLE
    attributes = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["Checksum", "ObjectParts"])
    assert attributes["Checksum"] == {field: value.partition("-")[0], "ChecksumType": kind}  # here without the count
    assert [part[field] for part in attributes["ObjectParts"]["Parts"]] == [part[field] for part in parts]


@pytest.mark.parametrize(("algorithm", "kind"), [("SHA256", "FULL_OBJECT"), ("CRC64NVME", "COMPOSITE")])
def test_checksum_type_its_algorithm_cannot_have_is_refused(s3: Any, bucket: str, algorithm: str, kind: str) -> None:
    with refused("InvalidRequest", 400):
        s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm=algorithm, ChecksumType=kind)


def test_part_with_another_checksum_than_the_upload_is_refused(s3: Any, bucket: str) -> None:
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="SHA256")["UploadId"]
    with refused("InvalidRequest", 400):
        s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=b"x", ChecksumAlgorithm="CRC32")


# --- multipart ----------------------------------------------------------------------------------------------------------


def test_multipart_from_begin_to_end(s3: Any, bucket: str) -> None:
    upload, parts = upload_parts(s3, bucket, "k", ContentType="text/x", Metadata={"a": "b"}, Tagging="t=1")
    assert [row["UploadId"] for row in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [upload]
    listed = s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)
    assert [(row["PartNumber"], row["Size"]) for row in listed["Parts"]] == [
        (number, len(part)) for number, part in enumerate(PARTS, start=1)
    ]
    with refused("404", 404):
        s3.head_object(Bucket=bucket, Key="k")
    named = {"Parts": [{"PartNumber": part["PartNumber"], "ETag": part["ETag"]} for part in parts]}
    done = s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload, MultipartUpload=named)
    etag = f'"{md5(b"".join(hashlib.md5(part).digest() for part in PARTS))}-3"'
    assert done["ETag"] == etag
    again = s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload, MultipartUpload=named)
    assert again["ETag"] == etag, "a completion whose answer was lost is repeated"
    head = s3.head_object(Bucket=bucket, Key="k")
    assert (head["ETag"], head["ContentLength"], head["ContentType"]) == (etag, len(WHOLE), "text/x")
    assert (head["Metadata"], head["TagCount"]) == ({"a": "b"}, 1)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == WHOLE
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_reading_by_part_number(s3: Any, bucket: str) -> None:
    upload, parts = upload_parts(s3, bucket, "k")
    s3.complete_multipart_upload(
        Bucket=bucket,
        Key="k",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": p["PartNumber"], "ETag": p["ETag"]} for p in parts]},
    )
    at = 0
    for number, part in enumerate(PARTS, start=1):
        got = s3.get_object(Bucket=bucket, Key="k", PartNumber=number)
        assert (got["PartsCount"], got["ContentRange"]) == (3, f"bytes {at}-{at + len(part) - 1}/{len(WHOLE)}")
        assert got["Body"].read() == part
        head = s3.head_object(Bucket=bucket, Key="k", PartNumber=number)
        assert (head["PartsCount"], head["ContentLength"]) == (3, len(part))
        at += len(part)
    with refused("InvalidPartNumber", 416):
        s3.get_object(Bucket=bucket, Key="k", PartNumber=4)
    s3.put_object(Bucket=bucket, Key="single", Body=b"whole")
    assert s3.get_object(Bucket=bucket, Key="single", PartNumber=1)["Body"].read() == b"whole"
    attributes = s3.get_object_attributes(
        Bucket=bucket, Key="k", ObjectAttributes=["ETag", "ObjectParts", "ObjectSize", "StorageClass"], MaxParts=2
    )
    assert attributes["ObjectParts"]["TotalPartsCount"] == 3
    assert attributes["ObjectParts"]["IsTruncated"] is True
    assert [part["Size"] for part in attributes["ObjectParts"]["Parts"]] == [len(part) for part in PARTS[:2]]
    assert attributes["ObjectSize"] == len(WHOLE) and attributes["ETag"].endswith("-3")


def test_bad_completions_are_refused(s3: Any, bucket: str) -> None:
    upload, parts = upload_parts(s3, bucket, "k")

    def complete(chosen: list[dict[str, Any]], **how: Any) -> None:
        s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload, MultipartUpload={"Parts": chosen}, **how)

    with refused("InvalidPartOrder", 400):
        complete([parts[1], parts[0]])
    with refused("InvalidPart", 400):
        complete([parts[0], {"PartNumber": 9, "ETag": parts[1]["ETag"]}])
    with refused("InvalidPart", 400):
        complete([{"PartNumber": 1, "ETag": parts[1]["ETag"]}])
    with refused("MalformedXML", 400):
        complete([])
    with refused("InvalidRequest", 400):
        complete(parts, MpuObjectSize=len(WHOLE) + 1)
    small = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=b"small")
    with refused("EntityTooSmall", 400):
        complete([{"PartNumber": 1, "ETag": small["ETag"]}, {"PartNumber": 2, "ETag": parts[1]["ETag"]}])
    complete([{"PartNumber": 3, "ETag": parts[2]["ETag"]}])  # parts may be left out
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == PARTS[2]


def test_aborted_upload_is_gone(s3: Any, bucket: str) -> None:
    upload, parts = upload_parts(s3, bucket, "k")
    s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload)
    with refused("NoSuchUpload", 404):
        s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)
    with refused("NoSuchUpload", 404):
        s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=b"x")
    with refused("NoSuchUpload", 404):
        s3.complete_multipart_upload(
            Bucket=bucket,
            Key="k",
            UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": parts[0]["ETag"]}]},
        )
    with refused("NoSuchUpload", 404):
        s3.abort_multipart_upload(Bucket=bucket, Key="other", UploadId="x" * 32)


@pytest.mark.parametrize("number", [0, 10_001])
def test_part_number_outside_is_refused(s3: Any, bucket: str, number: int) -> None:
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    with refused("InvalidArgument", 400):
        s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=number, Body=b"x")


def test_parts_copied_from_objects(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="from", Body=WHOLE)
    upload = s3.create_multipart_upload(Bucket=bucket, Key="to")["UploadId"]
    source = {"Bucket": bucket, "Key": "from"}
    cuts = [(0, 6 * MIB), (6 * MIB, len(WHOLE))]
    parts = []
    for number, (start, stop) in enumerate(cuts, start=1):
        copied = s3.upload_part_copy(
            Bucket=bucket,
            Key="to",
            UploadId=upload,
            PartNumber=number,
            CopySource=source,
            CopySourceRange=f"bytes={start}-{stop - 1}",
        )["CopyPartResult"]
        assert copied["ETag"] == f'"{md5(WHOLE[start:stop])}"'
        parts.append({"PartNumber": number, "ETag": copied["ETag"]})
    with refused("InvalidArgument", 400):
        s3.upload_part_copy(
            Bucket=bucket,
            Key="to",
            UploadId=upload,
            PartNumber=3,
            CopySource=source,
            CopySourceRange=f"bytes=0-{len(WHOLE)}",
        )
    with refused("PreconditionFailed", 412):
        s3.upload_part_copy(
            Bucket=bucket, Key="to", UploadId=upload, PartNumber=3, CopySource=source, CopySourceIfMatch='"other"'
        )
    s3.complete_multipart_upload(Bucket=bucket, Key="to", UploadId=upload, MultipartUpload={"Parts": parts})
    assert s3.get_object(Bucket=bucket, Key="to")["Body"].read() == WHOLE


def test_pending_uploads_are_listed_in_pages(s3: Any, bucket: str) -> None:
    keys = ["a/1", "a/2", "b", "b", "c/x"]
    begun = [(key, s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]) for key in keys]
    found: list[tuple[str, str]] = []
    markers: dict[str, str] = {}
    while True:
        page = s3.list_multipart_uploads(Bucket=bucket, MaxUploads=2, **markers)
        found += [(row["Key"], row["UploadId"]) for row in page.get("Uploads", ())]
        if not page["IsTruncated"]:
            break
        markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
    assert sorted(found) == sorted(begun)
    assert [key for key, _ in found] == keys
    grouped = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [row["Prefix"] for row in grouped["CommonPrefixes"]] == ["a/", "c/"]
    assert [row["Key"] for row in grouped["Uploads"]] == ["b", "b"]
    assert [row["Key"] for row in s3.list_multipart_uploads(Bucket=bucket, Prefix="a")["Uploads"]] == ["a/1", "a/2"]


def test_parts_are_listed_in_pages(s3: Any, bucket: str) -> None:
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    for number in (1, 5, 7, 10_000):
        s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=number, Body=b"x")
    pages = s3.get_paginator("list_parts").paginate(
        Bucket=bucket, Key="k", UploadId=upload, PaginationConfig={"PageSize": 3}
    )
    assert [[row["PartNumber"] for row in page["Parts"]] for page in pages] == [[1, 5, 7], [10_000]]


# --- transfer manager ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 100, 8 * MIB, 8 * MIB + 1, 25 * MIB], ids=str)
def test_transfer_manager_up_and_down(s3: Any, bucket: str, size: int) -> None:
    data = content(size)
    config = boto3.s3.transfer.TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=5 * MIB)
    s3.upload_fileobj(io.BytesIO(data), bucket, "k", Config=config, ExtraArgs={"Metadata": {"size": str(size)}})
    into = io.BytesIO()
    s3.download_fileobj(bucket, "k", into, Config=config)
    assert into.getvalue() == data
    assert s3.head_object(Bucket=bucket, Key="k")["Metadata"] == {"size": str(size)}
    s3.copy({"Bucket": bucket, "Key": "k"}, bucket, "copied", Config=config)
    assert s3.get_object(Bucket=bucket, Key="copied")["Body"].read() == data


# --- copies -------------------------------------------------------------------------------------------------------------


def test_copy_takes_or_replaces_metadata_and_tags(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="from", Body=b"x", ContentType="text/a", Metadata={"a": "1"}, Tagging="t=1")
    source = {"Bucket": bucket, "Key": "from"}
    copied = s3.copy_object(Bucket=bucket, Key="same", CopySource=source)["CopyObjectResult"]
    same = s3.head_object(Bucket=bucket, Key="same")
    assert (same["ContentType"], same["Metadata"], same["TagCount"]) == ("text/a", {"a": "1"}, 1)
    assert copied["ETag"] == same["ETag"] == f'"{md5(b"x")}"'
    s3.copy_object(
        Bucket=bucket,
        Key="other",
        CopySource=source,
        MetadataDirective="REPLACE",
        ContentType="text/b",
        Metadata={"b": "2"},
        TaggingDirective="REPLACE",
        Tagging="u=2&v=3",
    )
    other = s3.head_object(Bucket=bucket, Key="other")
    assert (other["ContentType"], other["Metadata"], other["TagCount"]) == ("text/b", {"b": "2"}, 2)
    s3.delete_object(Bucket=bucket, Key="from")
    assert s3.get_object(Bucket=bucket, Key="same")["Body"].read() == b"x", "the copy is its own object"


@pytest.mark.parametrize("key", ["a b+c", "日本/語", "q?versionId=null", "%41", "x/../y"])
def test_copy_source_is_decoded_once(s3: Any, raw: RawClient, bucket: str, key: str) -> None:
    s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    s3.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": bucket, "Key": key})
    assert s3.get_object(Bucket=bucket, Key="to")["Body"].read() == key.encode()
    source = f"/{bucket}/{quote(key)}"  # botocore sends no leading slash; others do
    assert raw.request("PUT", f"/{bucket}/to2", headers={"x-amz-copy-source": source}).status == 200
    assert s3.get_object(Bucket=bucket, Key="to2")["Body"].read() == key.encode()


def test_copy_onto_itself_must_change_something(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"a": "1"})
    source = {"Bucket": bucket, "Key": "k"}
    with refused("InvalidRequest", 400):
        s3.copy_object(Bucket=bucket, Key="k", CopySource=source)
    s3.copy_object(Bucket=bucket, Key="k", CopySource=source, MetadataDirective="REPLACE", Metadata={"a": "2"})
    assert s3.get_object(Bucket=bucket, Key="k")["Metadata"] == {"a": "2"}


def test_conditional_copies(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="from", Body=b"x")["ETag"]
    source = {"Bucket": bucket, "Key": "from"}
    s3.copy_object(Bucket=bucket, Key="to", CopySource=source, CopySourceIfMatch=etag, IfNoneMatch="*")
    for condition in (
        {"CopySourceIfMatch": '"other"'},
        {"CopySourceIfNoneMatch": etag},
        {"CopySourceIfModifiedSince": datetime.now(UTC) + timedelta(hours=-1), "CopySourceIfNoneMatch": etag},
        {"CopySourceIfUnmodifiedSince": datetime(2020, 1, 1, tzinfo=UTC)},
        {"IfNoneMatch": "*"},
        {"IfMatch": '"other"'},
    ):
        with refused("PreconditionFailed", 412):
            s3.copy_object(Bucket=bucket, Key="to", CopySource=source, **condition)
    with refused("NoSuchKey", 404):
        s3.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": bucket, "Key": "none"})
    with refused("NoSuchBucket", 404):
        s3.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": "not-there", "Key": "k"})


def test_copy_between_pools_moves_bytes(s3: Any, bucket: str, kv_bucket: str) -> None:
    data = content(3 * MIB)
    etag = s3.put_object(Bucket=bucket, Key="from", Body=data)["ETag"]
    copied = s3.copy_object(Bucket=kv_bucket, Key="to", CopySource={"Bucket": bucket, "Key": "from"})
    assert copied["CopyObjectResult"]["ETag"] == etag
    assert s3.get_object(Bucket=kv_bucket, Key="to")["Body"].read() == data


@pytest.mark.parametrize("algorithm", CHECKSUM)
def test_copy_with_another_checksum(s3: Any, bucket: str, algorithm: str) -> None:
    data = content(2 * MIB)
    s3.put_object(Bucket=bucket, Key="from", Body=data)
    s3.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": bucket, "Key": "from"}, ChecksumAlgorithm=algorithm)
    head = s3.head_object(Bucket=bucket, Key="to", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"] == CHECKSUM[algorithm](data)


# --- tags ---------------------------------------------------------------------------------------------------------------


def test_tags_are_set_replaced_and_removed(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1")
    before = s3.head_object(Bucket=bucket, Key="k")
    tags = [{"Key": "b", "Value": "2"}, {"Key": "ключ", "Value": "зн ач"}, {"Key": "empty", "Value": ""}]
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": tags})
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == sorted(tags, key=lambda tag: tag["Key"])
    after = s3.head_object(Bucket=bucket, Key="k")
    assert (after["ETag"], after["LastModified"], after["TagCount"]) == (before["ETag"], before["LastModified"], 3)
    s3.delete_object_tagging(Bucket=bucket, Key="k")
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []


@pytest.mark.parametrize(
    "tags",
    [
        [{"Key": str(number), "Value": "x"} for number in range(11)],
        [{"Key": "k" * 129, "Value": "x"}],
        [{"Key": "k", "Value": "v" * 257}],
        [{"Key": "twice", "Value": "1"}, {"Key": "twice", "Value": "2"}],
        [{"Key": "aws:mine", "Value": "x"}],
    ],
    ids=["eleven", "long key", "long value", "twice", "reserved"],
)
def test_bad_tags_are_refused(s3: Any, bucket: str, tags: list[dict[str, str]]) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with refused("BadRequest" if len(tags) > 10 else "InvalidTag", 400):
        s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": tags})


# --- listings -----------------------------------------------------------------------------------------------------------

TREE: Final = sorted(
    ["a", "a/", "a/1", "a/2", "a/b/3", "a0", "b c/+x", "b/4", "z", "é", "日", "\U0001f98a", "￿"],
    key=lambda key: key.encode(),
)


@pytest.fixture(scope="module")
def tree(shared_s3: Any) -> str:
    """A bucket with the keys of TREE."""
    shared_s3.create_bucket(Bucket="tree")
    for key in TREE:
        shared_s3.put_object(Bucket="tree", Key=key, Body=key.encode())
    return "tree"


def test_list_is_in_utf8_order(s3: Any, tree: str) -> None:
    for page in (s3.list_objects_v2(Bucket=tree), s3.list_objects(Bucket=tree)):
        assert [row["Key"] for row in page["Contents"]] == TREE
        assert page["IsTruncated"] is False
    row = s3.list_objects_v2(Bucket=tree)["Contents"][0]
    assert (row["Size"], row["ETag"], row["StorageClass"]) == (1, f'"{md5(b"a")}"', "STANDARD")
    assert "Owner" not in row
    assert "Owner" in s3.list_objects_v2(Bucket=tree, FetchOwner=True)["Contents"][0]


def expected(prefix: str, delimiter: str, after: str = "") -> tuple[list[str], list[str]]:
    """Keys and common prefixes of a listing, by its definition."""
    keys, prefixes = [], []
    for key in TREE:
        if not key.startswith(prefix) or key.encode() <= after.encode():
            continue
        rest = key[len(prefix) :]
        if delimiter and delimiter in rest:
            group = prefix + rest[: rest.index(delimiter) + len(delimiter)]
            if group not in prefixes and not (after and group.encode() <= after.encode()):
                prefixes.append(group)
        else:
            keys.append(key)
    return keys, prefixes


@pytest.mark.parametrize("size", [1, 2, 1000])
@pytest.mark.parametrize("delimiter", ["", "/", "b"])
@pytest.mark.parametrize("prefix", ["", "a", "a/", "a/b", "none", "b c/"])
def test_list_by_prefix_and_delimiter_in_pages(s3: Any, tree: str, prefix: str, delimiter: str, size: int) -> None:
    keys, prefixes = expected(prefix, delimiter)
    for call in ("list_objects_v2", "list_objects"):
        arguments = {"Bucket": tree, "Prefix": prefix, **({"Delimiter": delimiter} if delimiter else {})}
        found_keys: list[str] = []
        found_prefixes: list[str] = []
        for page in s3.get_paginator(call).paginate(**arguments, PaginationConfig={"PageSize": size}):
            rows = [row["Key"] for row in page.get("Contents", ())]
            groups = [row["Prefix"] for row in page.get("CommonPrefixes", ())]
            assert len(rows) + len(groups) <= size
            found_keys += rows
            found_prefixes += groups
        assert (found_keys, found_prefixes) == (keys, prefixes)


@pytest.mark.parametrize("after", ["a", "a/", "a/1", "a/zzz", "b", "~", "￿"])
def test_list_starts_after(s3: Any, tree: str, after: str) -> None:
    keys, _ = expected("", "", after)
    assert [row["Key"] for row in s3.list_objects_v2(Bucket=tree, StartAfter=after).get("Contents", ())] == keys
    assert [row["Key"] for row in s3.list_objects(Bucket=tree, Marker=after).get("Contents", ())] == keys


def test_list_of_no_keys(s3: Any, tree: str) -> None:
    page = s3.list_objects_v2(Bucket=tree, MaxKeys=0)
    assert (page["KeyCount"], page["IsTruncated"]) == (0, False)


def test_list_with_bad_arguments_is_refused(s3: Any, tree: str) -> None:
    with refused("InvalidArgument", 400):
        s3.list_objects_v2(Bucket=tree, ContinuationToken="no token of ours")
    with refused("InvalidArgument", 400):
        s3.list_objects_v2(Bucket=tree, MaxKeys=-1)
    with refused("InvalidArgument", 400):
        s3.list_objects_v2(Bucket=tree, EncodingType="base64")


def test_list_in_url_encoding(gateway: Gateway, tree: str) -> None:
    client = gateway.boto3_client()
    raw = client.list_objects_v2(Bucket=tree, EncodingType="url", Prefix="b c/")  # botocore leaves it when asked for
    assert (raw["Prefix"], [row["Key"] for row in raw["Contents"]]) == ("b%20c/", ["b%20c/%2Bx"]) or (
        raw["Prefix"],
        [row["Key"] for row in raw["Contents"]],
    ) == ("b+c/", ["b+c/%2Bx"])
    client.close()


# --- what a request must never be taken for -----------------------------------------------------------------------------


def test_half_of_an_operation_is_never_a_simpler_one(gateway: Gateway, s3: Any, bucket: str) -> None:
    """`PUT ?partNumber` without uploadId must not overwrite the object."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"kept")
    client = gateway.boto3_client(signature_version="s3v4")
    url = client.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=60)
    client.close()
    presigned_parts = url.replace("?", "?partNumber=1&")
    assert fetch(presigned_parts, "PUT", b"overwritten")[0] in (400, 403)
    with refused("NotImplemented", 501):
        s3.put_object_annotation(Bucket=bucket, Key="k", AnnotationName="a", AnnotationPayload=b"overwritten")
    with refused("NotImplemented", 501):
        s3.delete_object_annotation(Bucket=bucket, Key="k", AnnotationName="a")
    with refused("NotImplemented", 501):
        s3.select_object_content(
            Bucket=bucket,
            Key="k",
            Expression="select * from s3object",
            ExpressionType="SQL",
            InputSerialization={"CSV": {}},
            OutputSerialization={"CSV": {}},
        )
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"kept"


def test_object_settings_that_are_not_there(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with refused("InvalidRequest", 400):
        s3.get_object_retention(Bucket=bucket, Key="k")
    assert [grant["Permission"] for grant in s3.get_object_acl(Bucket=bucket, Key="k")["Grants"]] == ["FULL_CONTROL"]
