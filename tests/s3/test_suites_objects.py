"""What the public conformance suites ask of objects, listings and conditions, as boto3 sends it: one table a topic."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from botocore.exceptions import ClientError

from tests.s3.rawclient import RawClient

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


@pytest.mark.parametrize(
    ("method", "query", "headers", "code", "message", "elements"),
    [
        ("GET", "", {"range": "bytes=10-"}, "InvalidRange", "The requested range is not satisfiable", {"ActualObjectSize": "10", "RangeRequested": "bytes=10-"}),
        ("GET", "partNumber=2", {}, "InvalidPartNumber", "The requested partnumber is not satisfiable", {"ActualPartCount": "1", "PartNumberRequested": "2"}),
        ("GET", "", {"if-match": "no"}, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold", {"Condition": "If-Match"}),
        ("GET", "uploads", {}, "InvalidRequest", "Key is not expected for the GET method ?uploads subresource", {}),
        ("GET", "versions", {}, "InvalidRequest", "There is no such thing as the ?versions sub-resource for a key", {}),
        ("GET", "uploadId=x", {}, "NoSuchUpload", "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.", {"UploadId": "x"}),
        ("PUT", "", {"content-md5": "AAAA"}, "InvalidDigest", "The Content-MD5 you specified was invalid.", {"Content-MD5": "AAAA"}),
        ("PUT", "", {"x-amz-storage-class": "COLD"}, "InvalidStorageClass", "The storage class you specified is not valid", {"StorageClassRequested": "COLD"}),
        ("PUT", "", {"x-amz-tagging": "aws:a=1"}, "InvalidTag", "Your TagKey cannot be prefixed with aws:", {"TagKey": "aws:a"}),
        ("PUT", "", {"x-amz-copy-source": "BUCKET/k"}, "InvalidRequest", "The request included a body. Requests of this type must not include a non-empty body.", {}),
        ("DELETE", "", {"x-amz-bypass-governance-retention": "true"}, "InvalidArgument", "x-amz-bypass-governance-retention is only applicable to Object Lock enabled buckets.", {}),
    ],
)  # fmt: skip
def test_errors_are_in_the_words_of_s3(
    raw: RawClient,
    s3: Any,
    bucket: str,
    method: str,
    query: str,
    headers: dict[str, str],
    code: str,
    message: str,
    elements: dict[str, str],
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    sent = {name: value.replace("BUCKET", bucket) for name, value in headers.items()}
    name, _, value = query.partition("=")
    reply = raw.request(
        method,
        f"/{bucket}/k",
        query=((name, value),) if query else (),
        headers=sent,
        body=b"x" if method == "PUT" else b"",
    )
    document = {node.tag: node.text for node in ElementTree.fromstring(reply.body)}
    assert (document["Code"], document["Message"]) == (code, message)
    assert document.items() >= elements.items()


def test_a_date_to_come_modifies_no_read(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    to_come, source = datetime.now(UTC) + timedelta(days=1), {"Bucket": bucket, "Key": "k"}
    assert code(s3.get_object, Bucket=bucket, Key="k", IfModifiedSince=to_come) == ""
    assert code(s3.copy_object, Bucket=bucket, Key="c", CopySource=source, CopySourceIfModifiedSince=to_come) == ""
    since = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    assert code(s3.get_object, Bucket=bucket, Key="k", IfModifiedSince=since) == "304"
    with pytest.raises(ClientError) as caught:
        s3.copy_object(Bucket=bucket, Key="c", CopySource=source, CopySourceIfModifiedSince=since)
    assert caught.value.response["Error"]["Condition"] == "x-amz-copy-source-If-Modified-Since"


@pytest.mark.parametrize(
    ("wanted", "refusal"),
    [("bytes=0-9", ""), ("bytes=9-9", ""), ("bytes=9-10", "InvalidArgument"), ("bytes=10-10", "InvalidRequest"), ("bytes=1-0", "InvalidArgument"), ("bytes=5-", "InvalidArgument")],
)  # fmt: skip
def test_ranges_of_copied_parts(s3: Any, bucket: str, wanted: str, refusal: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"]
    arguments = {"Bucket": bucket, "Key": "m", "UploadId": upload, "PartNumber": 1, "CopySource": f"{bucket}/k"}
    assert code(s3.upload_part_copy, CopySourceRange=wanted, **arguments) == refusal


def test_uploads_are_listed_with_markers_also_at_the_end(s3: Any, bucket: str) -> None:
    empty = s3.list_multipart_uploads(Bucket=bucket)
    assert (empty["NextKeyMarker"], empty["NextUploadIdMarker"]) == ("", "")
    uploads = [s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"] for key in "ab"]
    last = s3.list_multipart_uploads(Bucket=bucket)
    assert (last["IsTruncated"], last["NextKeyMarker"], last["NextUploadIdMarker"]) == (False, "b", uploads[1])
    assert code(s3.list_multipart_uploads, Bucket=bucket, KeyMarker="a", UploadIdMarker="not_one") == "InvalidArgument"


@pytest.mark.parametrize(
    "operation", ["list_objects", "list_objects_v2", "list_object_versions", "list_multipart_uploads"]
)
def test_an_encoding_that_is_none_is_refused(s3: Any, bucket: str, operation: str) -> None:
    for encoding in ("value", ""):
        assert code(getattr(s3, operation), Bucket=bucket, EncodingType=encoding) == "InvalidArgument"
    listed = getattr(s3, operation)(Bucket=bucket)
    assert ("x-amz-bucket-region" in listed["ResponseMetadata"]["HTTPHeaders"]) == operation.startswith("list_objects")
