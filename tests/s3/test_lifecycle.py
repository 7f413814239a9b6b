"""Lifecycle rules on a real gateway whose days last a second, through boto3."""

from __future__ import annotations

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
    rules(s3, "ends", {"ID": "one", "Filter": {"Prefix": "a/"}, "Expiration": {"Days": 1}}, {"ID": "two", **abort})
    s3.create_multipart_upload(Bucket="ends", Key="m")
    s3.put_object(Bucket="ends", Key="keep", Body=b"1")
    reply = s3.put_object(Bucket="ends", Key="a/1", Body=b"1")
    assert reply["Expiration"].endswith('rule-id="one"')
    assert s3.head_object(Bucket="ends", Key="a/1")["Expiration"] == reply["Expiration"]
    wait_for(lambda: keys(s3, "ends") == ["keep"], "the object to expire")
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
