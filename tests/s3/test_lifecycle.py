"""Lifecycle rules on a real gateway whose days last a second, through boto3."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import Gateway, wait_for


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway(settings={"lifecycle_day_s": "1s"}) as running:
        yield running


@pytest.fixture(scope="module")
def s3(gateway: Gateway) -> Iterator[Any]:
    client = gateway.boto3_client()
    yield client
    client.close()


def rules(s3: Any, bucket: str, *given: dict[str, Any]) -> None:
    configuration = {"Rules": [{"Status": "Enabled", "Filter": {}, **rule} for rule in given]}
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=configuration)


def keys(s3: Any, bucket: str) -> list[str]:
    return [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket).get("Contents", ())]


def test_objects_and_uploads_end(s3: Any, gateway: Gateway) -> None:
    s3.create_bucket(Bucket="ends")
    abort = {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}}
    soon = {"ID": "one", "Filter": {"Prefix": "a/"}, "Expiration": {"Days": 1}}
    late = {"ID": "three", "Filter": {"Prefix": "late/"}, "Expiration": {"Days": 10_000}}
    rules(s3, "ends", soon, {"ID": "two", **abort}, late)
    s3.create_multipart_upload(Bucket="ends", Key="m")
    s3.put_object(Bucket="ends", Key="keep", Body=b"1")
    assert s3.put_object(Bucket="ends", Key="a/1", Body=b"1")["Expiration"].endswith('rule-id="one"')
    reply = s3.put_object(Bucket="ends", Key="late/1", Body=b"1")
    assert s3.head_object(Bucket="ends", Key="late/1")["Expiration"] == reply["Expiration"]
    wait_for(lambda: keys(s3, "ends") == ["keep", "late/1"], "the object to expire")
    wait_for(lambda: "Uploads" not in s3.list_multipart_uploads(Bucket="ends"), "the upload to be aborted")


def test_rules_come_back(s3: Any) -> None:
    s3.create_bucket(Bucket="rules")
    rules(s3, "rules", {"Expiration": {"Days": 3}})
    (rule,) = s3.get_bucket_lifecycle_configuration(Bucket="rules")["Rules"]
    assert rule.pop("ID")
    assert rule == {"Status": "Enabled", "Filter": {}, "Expiration": {"Days": 3}}
    s3.delete_bucket_lifecycle(Bucket="rules")
    with pytest.raises(s3.exceptions.ClientError, match="NoSuchLifecycleConfiguration"):
        s3.get_bucket_lifecycle_configuration(Bucket="rules")


def test_versions_end_as_their_rules_say(s3: Any) -> None:
    s3.create_bucket(Bucket="versions")
    s3.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    for _ in range(3):
        s3.put_object(Bucket="versions", Key="k", Body=b"1")

    def left() -> tuple[int, int]:
        found = s3.list_object_versions(Bucket="versions")
        return len(found.get("Versions", ())), len(found.get("DeleteMarkers", ()))

    assert left() == (3, 0)
    current, noncurrent = {"Expiration": {"Days": 1}}, {"NoncurrentVersionExpiration": {"NoncurrentDays": 1}}
    rules(s3, "versions", current)
    wait_for(lambda: left() == (3, 1), "the delete marker")
    rules(s3, "versions", {**current, **noncurrent})
    wait_for(lambda: left() == (0, 0), "the versions and the marker to go")


def test_archived_object_is_cold_and_comes_back_for_its_days(s3: Any) -> None:
    s3.create_bucket(Bucket="archive")
    s3.put_object(Bucket="archive", Key="k", Body=b"content", StorageClass="GLACIER")

    def tier() -> str:
        headers: dict[str, str] = s3.head_object(Bucket="archive", Key="k")["ResponseMetadata"]["HTTPHeaders"]
        return headers["x-recall-tier"]

    wait_for(lambda: tier() == "cold", "the object to leave the hot tier")
    with pytest.raises(s3.exceptions.InvalidObjectState):
        s3.get_object(Bucket="archive", Key="k")
    for days in (3, 15, 60):  # seconds; more on a machine that needs all of them before it has looked
        until_s = time.monotonic() + days - 1
        restored = s3.restore_object(Bucket="archive", Key="k", RestoreRequest={"Days": days})
        assert restored["ResponseMetadata"]["HTTPStatusCode"] == 202
        try:
            assert s3.get_object(Bucket="archive", Key="k")["Body"].read() == b"content"
            assert 'ongoing-request="false"' in s3.head_object(Bucket="archive", Key="k").get("Restore", "")
            break
        except (AssertionError, s3.exceptions.InvalidObjectState):
            if time.monotonic() < until_s:
                raise
            wait_for(lambda: tier() == "cold", "the restore to end")
    wait_for(lambda: tier() == "cold", "the restore to end")
