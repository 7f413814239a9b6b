"""boto3 over versions on a running gateway: ids, markers, pages, copies, uploads, tiers, appends, renames."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.s3.rawclient import RawClient, Reply
from tests.s3.test_boto3 import MIB, content, md5, refused

UNKNOWN = "3HL4kqtJvjVBH40NrjfkdABCDEFGHIJK"


@pytest.fixture
def versioned(s3: Any, bucket: str) -> str:
    """A bucket that keeps versions."""
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket


def put(s3: Any, bucket: str, key: str, data: bytes = b"data", **more: Any) -> str:
    return str(s3.put_object(Bucket=bucket, Key=key, Body=data, **more)["VersionId"])


def listed(s3: Any, bucket: str, **more: Any) -> tuple[list[tuple[str, str, bool]], list[tuple[str, str, bool]]]:
    """(key, version, latest) of all versions, and of all markers, page by page."""
    versions, markers = [], []
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, **more):
        versions += [(each["Key"], each["VersionId"], each["IsLatest"]) for each in page.get("Versions", ())]
        markers += [(each["Key"], each["VersionId"], each["IsLatest"]) for each in page.get("DeleteMarkers", ())]
    return versions, markers


def body(s3: Any, bucket: str, key: str, **more: Any) -> bytes:
    return bytes(s3.get_object(Bucket=bucket, Key=key, **more)["Body"].read())


def cool(raw: RawClient, bucket: str, key: str, *more: tuple[str, str]) -> Reply:
    """Leaves an object in the backing store alone."""
    query = (("recall", ""), *more)
    return raw.request("POST", f"/{bucket}/{key}", query=query, headers={"x-recall-tier": "cold"})


def empty(s3: Any, bucket: str) -> None:
    """As clients empty a bucket: list a page, delete it, go on from its markers."""
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, PaginationConfig={"PageSize": 3}):
        found = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
        objects = [{"Key": each["Key"], "VersionId": each["VersionId"]} for each in found]
        if objects:
            assert "Errors" not in s3.delete_objects(Bucket=bucket, Delete={"Objects": objects})


def test_versioning_states(s3: Any, bucket: str) -> None:
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    for state in ("Enabled", "Suspended", "Enabled"):
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": state, "MFADelete": "Disabled"})
        assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == state
    with refused("InvalidBucketState", 409):
        s3.create_bucket(Bucket="kv-versions")
        s3.put_bucket_versioning(Bucket="kv-versions", VersioningConfiguration={"Status": "Enabled"})


@pytest.mark.parametrize("size", [0, 5, 300_000])
def test_every_version_is_kept_and_read(s3: Any, versioned: str, size: int) -> None:
    contents = {put(s3, versioned, "k", content(size, n), Metadata={"n": str(n)}): n for n in range(5)}
    assert len(contents) == 5
    assert [each[1] for each in listed(s3, versioned)[0]] == list(contents)[::-1]
    for version, n in contents.items():
        reply = s3.get_object(Bucket=versioned, Key="k", VersionId=version)
        assert reply["Body"].read() == content(size, n)
        assert (reply["VersionId"], reply["Metadata"]) == (version, {"n": str(n)})
        assert s3.head_object(Bucket=versioned, Key="k", VersionId=version)["ETag"] == f'"{md5(content(size, n))}"'
    assert s3.head_object(Bucket=versioned, Key="k")["VersionId"] == list(contents)[-1]
    for version in reversed(contents):  # from the newest on, each next one becomes current
        assert s3.get_object(Bucket=versioned, Key="k")["VersionId"] == version
        s3.delete_object(Bucket=versioned, Key="k", VersionId=version)
    with refused("NoSuchKey", 404):
        s3.get_object(Bucket=versioned, Key="k")
    s3.delete_bucket(Bucket=versioned)


def test_null_versions_before_and_after(s3: Any, bucket: str) -> None:
    assert "VersionId" not in s3.put_object(Bucket=bucket, Key="k", Body=b"before")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert s3.head_object(Bucket=bucket, Key="k")["VersionId"] == "null"
    version = put(s3, bucket, "k", b"version")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    assert "VersionId" not in s3.put_object(Bucket=bucket, Key="k", Body=b"after")
    assert listed(s3, bucket)[0] == [("k", "null", True), ("k", version, False)]
    assert body(s3, bucket, "k", VersionId="null") == b"after"
    gone = s3.delete_object(Bucket=bucket, Key="k")
    assert (gone["DeleteMarker"], gone["VersionId"]) == (True, "null")
    assert listed(s3, bucket) == ([("k", version, False)], [("k", "null", True)])
    s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    assert body(s3, bucket, "k") == b"version"


def test_delete_markers(s3: Any, versioned: str) -> None:
    version = put(s3, versioned, "k")
    gone = s3.delete_object(Bucket=versioned, Key="k")
    assert gone["DeleteMarker"] is True
    with refused("NoSuchKey", 404) as missing:
        s3.get_object(Bucket=versioned, Key="k")
    headers = missing.error["ResponseMetadata"]["HTTPHeaders"]
    assert (headers["x-amz-delete-marker"], headers["x-amz-version-id"]) == ("true", gone["VersionId"])
    with refused("404", 404):
        s3.head_object(Bucket=versioned, Key="k")
    with refused("MethodNotAllowed", 405) as named:
        s3.get_object(Bucket=versioned, Key="k", VersionId=gone["VersionId"])
    headers = named.error["ResponseMetadata"]["HTTPHeaders"]
    assert headers["allow"] == "DELETE" and "last-modified" in headers and headers["x-amz-delete-marker"] == "true"
    with refused("405", 405):
        s3.head_object(Bucket=versioned, Key="k", VersionId=gone["VersionId"])
    assert "Contents" not in s3.list_objects_v2(Bucket=versioned)
    with refused("BucketNotEmpty", 409) as named:
        s3.delete_bucket(Bucket=versioned)
    assert "all versions" in named.error["Error"]["Message"]
    back = s3.delete_object(Bucket=versioned, Key="k", VersionId=gone["VersionId"])
    assert (back["DeleteMarker"], back["VersionId"]) == (True, gone["VersionId"])
    assert s3.get_object(Bucket=versioned, Key="k")["VersionId"] == version


def test_versions_that_are_not_there(s3: Any, versioned: str) -> None:
    put(s3, versioned, "k")
    with refused("NoSuchVersion", 404):
        s3.get_object(Bucket=versioned, Key="k", VersionId=UNKNOWN)
    with refused("InvalidArgument", 400):
        s3.get_object(Bucket=versioned, Key="k", VersionId="bogus")
    s3.delete_object(Bucket=versioned, Key="k", VersionId=UNKNOWN)
    with refused("InvalidArgument", 400):
        s3.list_object_versions(Bucket=versioned, VersionIdMarker=UNKNOWN)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_pages_of_versions(s3: Any, versioned: str, size: int) -> None:
    for key in ("a/1", "a/2", "b", "c/1"):
        for n in range(2):
            put(s3, versioned, key, bytes([n]))
        s3.delete_object(Bucket=versioned, Key=key)
    whole = listed(s3, versioned)
    assert (len(whole[0]), len(whole[1])) == (8, 4) and all(each[2] for each in whole[1])
    assert listed(s3, versioned, PaginationConfig={"PageSize": size}) == whole
    page = s3.list_object_versions(Bucket=versioned, Delimiter="/", MaxKeys=1)
    assert [each["Prefix"] for each in page["CommonPrefixes"]] == ["a/"] and "NextVersionIdMarker" not in page
    page = s3.list_object_versions(Bucket=versioned, Delimiter="/", KeyMarker=page["NextKeyMarker"])
    assert {each["Key"] for each in page["Versions"]} == {"b"}
    assert [each["Prefix"] for each in page["CommonPrefixes"]] == ["c/"]
    assert {each[0] for each in listed(s3, versioned, Prefix="a/")[0]} == {"a/1", "a/2"}
    empty(s3, versioned)
    assert listed(s3, versioned) == ([], [])
    s3.delete_bucket(Bucket=versioned)


def test_concurrent_writers_each_get_a_version(s3: Any, versioned: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda n: put(s3, versioned, "k", content(1000, n)), range(40)))
    assert len(set(ids)) == 40
    assert {each[1] for each in listed(s3, versioned)[0]} == set(ids)
    for n, version in enumerate(ids):
        assert body(s3, versioned, "k", VersionId=version) == content(1000, n)


def test_copies_and_uploads_of_versions(s3: Any, versioned: str) -> None:
    data = content(6 * MIB)
    first = put(s3, versioned, "k", data)
    second = put(s3, versioned, "k", b"second")
    copied = s3.copy_object(
        Bucket=versioned, Key="to", CopySource={"Bucket": versioned, "Key": "k", "VersionId": first}
    )
    assert copied["CopySourceVersionId"] == first and copied["VersionId"] not in (first, second)
    assert body(s3, versioned, "to") == data
    upload = s3.create_multipart_upload(Bucket=versioned, Key="parts")["UploadId"]
    part = s3.upload_part_copy(
        Bucket=versioned,
        Key="parts",
        UploadId=upload,
        PartNumber=1,
        CopySource={"Bucket": versioned, "Key": "k", "VersionId": first},
    )
    assert part["CopySourceVersionId"] == first
    parts = [{"PartNumber": 1, "ETag": part["CopyPartResult"]["ETag"]}]
    done = s3.complete_multipart_upload(
        Bucket=versioned, Key="parts", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    assert body(s3, versioned, "parts", VersionId=done["VersionId"]) == data
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    with refused("InvalidRequest", 400):
        s3.copy_object(Bucket=versioned, Key="to", CopySource={"Bucket": versioned, "Key": "k", "VersionId": marker})
    with refused("NoSuchKey", 404):
        s3.copy_object(Bucket=versioned, Key="to", CopySource={"Bucket": versioned, "Key": "k"})


def test_deletes_of_many_versions(s3: Any, versioned: str) -> None:
    version = put(s3, versioned, "k")
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    objects = [{"Key": "new"}, {"Key": "k", "VersionId": marker}, {"Key": "k", "VersionId": version}]
    reply = s3.delete_objects(Bucket=versioned, Delete={"Objects": objects})
    found = {each.get("VersionId", ""): each for each in reply["Deleted"]}
    assert found[""]["DeleteMarker"] and found[""]["DeleteMarkerVersionId"]
    assert found[marker]["DeleteMarkerVersionId"] == marker and "DeleteMarker" not in found[version]
    etag = md5(b"data")
    version = put(s3, versioned, "k")
    wrong = {"Key": "k", "VersionId": version, "ETag": "other"}
    reply = s3.delete_objects(Bucket=versioned, Delete={"Objects": [wrong]})
    assert [each["Code"] for each in reply["Errors"]] == ["PreconditionFailed"]
    s3.delete_object(Bucket=versioned, Key="k", VersionId=version, IfMatch=etag)


def test_tags_and_attributes_of_versions(s3: Any, versioned: str) -> None:
    first = put(s3, versioned, "k", b"first")
    second = put(s3, versioned, "k", b"second!")
    tags = {"TagSet": [{"Key": "a", "Value": "1"}]}
    assert s3.put_object_tagging(Bucket=versioned, Key="k", VersionId=first, Tagging=tags)["VersionId"] == first
    assert s3.get_object_tagging(Bucket=versioned, Key="k", VersionId=first)["TagSet"] == tags["TagSet"]
    assert s3.get_object_tagging(Bucket=versioned, Key="k")["TagSet"] == []
    assert s3.delete_object_tagging(Bucket=versioned, Key="k", VersionId=first)["VersionId"] == first
    found = s3.get_object_attributes(Bucket=versioned, Key="k", VersionId=first, ObjectAttributes=["ObjectSize"])
    assert (found["ObjectSize"], found["VersionId"]) == (5, first)
    assert s3.get_object_acl(Bucket=versioned, Key="k", VersionId=second)["Grants"]


def test_cold_versions_come_back(s3: Any, raw: RawClient, versioned: str) -> None:
    data = [content(100_000, n) for n in range(3)]
    ids = [put(s3, versioned, "k", each) for each in data]
    for version in ids:
        reply = cool(raw, versioned, "k", ("versionId", version))
        assert reply.status == 200, reply
    for version, each in zip(ids, data, strict=True):
        assert body(s3, versioned, "k", VersionId=version) == each
    assert body(s3, versioned, "k") == data[-1]


# --- appends and renames ------------------------------------------------------------------------------------------------


def test_appends(s3: Any, bucket: str) -> None:
    data = content(3 * MIB)
    at = 0
    for size in (1000, MIB, 17, 2 * MIB - 1017):
        reply = s3.put_object(Bucket=bucket, Key="log", Body=data[at : at + size], WriteOffsetBytes=at)
        at += size
        assert reply["Size"] == at
    assert body(s3, bucket, "log") == data[:at]
    assert body(s3, bucket, "log", Range="bytes=990-1009") == data[990:1010]
    with refused("InvalidWriteOffset", 400):
        s3.put_object(Bucket=bucket, Key="log", Body=b"x", WriteOffsetBytes=5)
    assert s3.head_object(Bucket=bucket, Key="log")["ContentLength"] == at
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    with refused("InvalidRequest", 400):
        s3.put_object(Bucket=bucket, Key="log", Body=b"x", WriteOffsetBytes=at)


def test_of_many_appends_at_once_one_wins(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="log", Body=b"start")

    def append(n: int) -> bool:
        try:
            s3.put_object(Bucket=bucket, Key="log", Body=bytes([n]) * 3, WriteOffsetBytes=5)
        except s3.exceptions.InvalidWriteOffset:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(append, range(16))).count(True) == 1
    assert s3.head_object(Bucket=bucket, Key="log")["ContentLength"] == 8


def test_renames(s3: Any, raw: RawClient, bucket: str) -> None:
    data = content(100_000)
    etag = s3.put_object(Bucket=bucket, Key="dir/a b", Body=data, ContentType="a/b", Metadata={"m": "1"})["ETag"]
    s3.put_object(Bucket=bucket, Key="there", Body=b"there")
    with refused("PreconditionFailed", 412):
        s3.rename_object(Bucket=bucket, Key="there", RenameSource="dir/a%20b", DestinationIfNoneMatch="*")
    s3.rename_object(Bucket=bucket, Key="there", RenameSource=f"{bucket}/dir/a%20b", SourceIfMatch=etag)
    reply = s3.get_object(Bucket=bucket, Key="there")
    assert (reply["Body"].read(), reply["ETag"], reply["ContentType"]) == (data, etag, "a/b")
    assert [each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["there"]
    assert cool(raw, bucket, "there").status == 200
    s3.rename_object(Bucket=bucket, Key="cold", RenameSource="there")
    assert body(s3, bucket, "cold") == data
    with refused("NoSuchKey", 404):
        s3.rename_object(Bucket=bucket, Key="x", RenameSource="there")
