"""Version ids as requests and replies spell them."""

from __future__ import annotations

import pytest

from s3api.errors import S3Error
from s3api.versions import named_version, parse_version, spelled, version_line
from tiering.contract import BucketInfo

ID = "3HL4kqtJvjVBH40NrjfkdABCDEFGHIJK"


@pytest.mark.parametrize(
    ("text", "version"),
    [("null", ""), (ID, ID), ("0" * 32, "0" * 32), ("01G65Z755AFWAKHE12NY0CQ9FH",) * 2, ("a.b_c-d" * 4, "a.b_c-d" * 4)],
)
def test_both_ways(text: str, version: str) -> None:
    assert parse_version(text) == version
    assert spelled(version) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "Null",
        "invalid_version_id",
        "non_existing_version_id",
        "3HL4kqtJvjVBH40Nrjfkd",
        "../../etc/passwd",
        "a" * 65,
        "ü" * 32,
        ID + "\n",
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(S3Error) as failed:
        parse_version(text)
    assert (failed.value.spec.code, failed.value.fields["ArgumentName"]) == ("InvalidArgument", "versionId")


def test_named_in_a_query() -> None:
    assert named_version({}) is None
    assert named_version({"versionId": "null"}) == ""
    assert named_version({"versionId": ID}) == ID


def test_the_null_version_is_named_only_where_there_are_versions() -> None:
    bucket = BucketInfo(name="b", created_ms=0, pool="p")
    assert version_line("", bucket) == ""
    assert version_line(ID, bucket) == f"x-amz-version-id: {ID}\r\n"
    bucket.versioning = "Suspended"
    assert version_line("", bucket) == "x-amz-version-id: null\r\n"
