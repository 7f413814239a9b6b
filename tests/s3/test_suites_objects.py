"""What the public conformance suites ask of objects, listings and conditions, as boto3 sends it: one table a topic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

Write = Callable[..., Any]


def code(call: Callable[..., Any], **arguments: Any) -> str:
    """The error code of a call, "" when it succeeds."""
    try:
        call(**arguments)
    except ClientError as failure:
        return str(failure.response["Error"]["Code"])
    return ""


def put(s3: Any, bucket: str, **conditions: str) -> Any:
    return s3.put_object(Bucket=bucket, Key="k", Body=b"value", **conditions)


def completed(s3: Any, bucket: str, **conditions: str) -> Any:
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    etag = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=b"value")["ETag"]
    parts = {"Parts": [{"ETag": etag.strip('"'), "PartNumber": 1}]}
    return s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload, MultipartUpload=parts, **conditions)


@pytest.mark.parametrize("write", [put, completed])
def test_writes_on_condition(s3: Any, bucket: str, write: Write) -> None:
    etag = write(s3, bucket, IfNoneMatch="*")["ETag"]
    for conditions, wanted in (
        ({"IfNoneMatch": "*"}, "PreconditionFailed"),
        ({"IfNoneMatch": etag}, "PreconditionFailed"),
        ({"IfNoneMatch": "other"}, ""),
        ({"IfMatch": etag.strip('"')}, ""),
        ({"IfMatch": "other"}, "PreconditionFailed"),
    ):
        assert code(write, s3=s3, bucket=bucket, **conditions) == wanted, conditions
    s3.delete_object(Bucket=bucket, Key="k")
    for conditions, wanted in (
        ({"IfMatch": "*"}, "NoSuchKey"),
        ({"IfMatch": "other"}, "NoSuchKey"),
        ({"IfNoneMatch": etag}, ""),
        ({"IfMatch": "*"}, ""),
    ):
        assert code(write, s3=s3, bucket=bucket, **conditions) == wanted, conditions


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("gzip", "gzip"),
        ("deflate, gzip", "deflate, gzip"),
        ("gzip, aws-chunked", "gzip"),
        ("aws-chunked, gzip", "gzip"),
        ("aws-chunked, aws-chunked", None),
    ],
)
def test_content_encoding_of_the_transfer_is_not_the_objects(
    s3: Any, bucket: str, sent: str, shown: str | None
) -> None:
    s3.put_object(Bucket=bucket, Key="k", ContentEncoding=sent)
    assert s3.head_object(Bucket=bucket, Key="k").get("ContentEncoding") == shown


def test_tags_are_listed_by_key(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Tagging="foo=bar&bar")
    tags = s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"]
    assert tags == [{"Key": "bar", "Value": ""}, {"Key": "foo", "Value": "bar"}]
