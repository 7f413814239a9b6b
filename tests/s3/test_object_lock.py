"""boto3 over object lock on a running gateway: what is locked stays, until it may go."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.s3.test_boto3 import refused

_numbers = itertools.count(1)


@pytest.fixture
def locked(s3: Any) -> str:
    """A bucket with object lock."""
    name = f"locked-{next(_numbers)}"
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


def soon(days: float) -> datetime:
    return (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)


def put(s3: Any, bucket: str, **more: Any) -> str:
    return str(s3.put_object(Bucket=bucket, Key="k", Body=b"data", **more)["VersionId"])


def configuration(**default: Any) -> dict[str, Any]:
    return {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": default}}


def test_configuration(s3: Any, locked: str, bucket: str) -> None:
    assert s3.get_bucket_versioning(Bucket=locked)["Status"] == "Enabled"
    assert s3.get_object_lock_configuration(Bucket=locked)["ObjectLockConfiguration"] == {
        "ObjectLockEnabled": "Enabled"
    }
    wanted = configuration(Mode="COMPLIANCE", Years=1)
    s3.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration=wanted)
    assert s3.get_object_lock_configuration(Bucket=locked)["ObjectLockConfiguration"] == wanted
    with refused("InvalidBucketState", 409):
        s3.put_bucket_versioning(Bucket=locked, VersioningConfiguration={"Status": "Suspended"})
    with refused("ObjectLockConfigurationNotFoundError", 404):
        s3.get_object_lock_configuration(Bucket=bucket)
    with refused("InvalidBucketState", 409):
        s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=wanted)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=wanted)
    assert s3.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"] == wanted


@pytest.mark.parametrize(
    ("default", "code"),
    [
        ({"Mode": "GOVERNANCE", "Days": 1, "Years": 1}, "MalformedXML"),
        ({"Mode": "governance", "Years": 1}, "MalformedXML"),
        ({"Mode": "GOVERNANCE"}, "MalformedXML"),
        ({"Mode": "GOVERNANCE", "Days": 0}, "InvalidArgument"),
        ({"Mode": "GOVERNANCE", "Years": -1}, "InvalidArgument"),
    ],
)
def test_bad_configurations(s3: Any, locked: str, default: dict[str, Any], code: str) -> None:
    with refused(code, 400):
        s3.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration=configuration(**default))


def test_retention(s3: Any, locked: str) -> None:
    version = put(s3, locked)
    with refused("NoSuchObjectLockConfiguration", 404):
        s3.get_object_retention(Bucket=locked, Key="k")
    wanted = {"Mode": "GOVERNANCE", "RetainUntilDate": soon(3)}
    s3.put_object_retention(Bucket=locked, Key="k", Retention=wanted)
    assert s3.get_object_retention(Bucket=locked, Key="k", VersionId=version)["Retention"] == wanted
    head = s3.head_object(Bucket=locked, Key="k")
    assert (head["ObjectLockMode"], head["ObjectLockRetainUntilDate"]) == ("GOVERNANCE", wanted["RetainUntilDate"])
    shorter = {"Mode": "GOVERNANCE", "RetainUntilDate": soon(1)}
    with refused("AccessDenied", 403):
        s3.put_object_retention(Bucket=locked, Key="k", Retention=shorter)
    with refused("AccessDenied", 403):
        s3.delete_object(Bucket=locked, Key="k", VersionId=version)
    s3.put_object_retention(Bucket=locked, Key="k", Retention=shorter, BypassGovernanceRetention=True)
    s3.delete_object(Bucket=locked, Key="k", VersionId=version, BypassGovernanceRetention=True)
    assert "Versions" not in s3.list_object_versions(Bucket=locked)


def test_compliance_yields_to_nobody(s3: Any, locked: str) -> None:
    version = put(s3, locked, ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=soon(1))
    for more in ({}, {"BypassGovernanceRetention": True}):
        with refused("AccessDenied", 403):
            s3.delete_object(Bucket=locked, Key="k", VersionId=version, **more)
        weaker = {"Mode": "GOVERNANCE", "RetainUntilDate": soon(2)}
        with refused("AccessDenied", 403):
            s3.put_object_retention(Bucket=locked, Key="k", Retention=weaker, **more)
    reply = s3.delete_objects(Bucket=locked, Delete={"Objects": [{"Key": "k", "VersionId": version}]})
    assert [each["Code"] for each in reply["Errors"]] == ["AccessDenied"]
    assert s3.delete_object(Bucket=locked, Key="k")["DeleteMarker"]  # a marker may always be added


def test_compliance_ends_with_its_time(s3: Any, locked: str) -> None:
    until = soon(0) + timedelta(seconds=2)
    version = put(s3, locked, ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until)
    deadline = time.monotonic() + 60
    while True:  # until the retention has ended
        try:
            s3.delete_object(Bucket=locked, Key="k", VersionId=version)
            break
        except s3.exceptions.ClientError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert datetime.now(UTC) >= until


def test_legal_hold(s3: Any, locked: str) -> None:
    version = put(s3, locked)
    s3.put_object_legal_hold(Bucket=locked, Key="k", LegalHold={"Status": "ON"})
    assert s3.get_object_legal_hold(Bucket=locked, Key="k")["LegalHold"] == {"Status": "ON"}
    with refused("AccessDenied", 403):
        s3.delete_object(Bucket=locked, Key="k", VersionId=version, BypassGovernanceRetention=True)
    s3.put_object_legal_hold(Bucket=locked, Key="k", VersionId=version, LegalHold={"Status": "OFF"})
    assert s3.get_object_legal_hold(Bucket=locked, Key="k")["LegalHold"] == {"Status": "OFF"}
    s3.delete_object(Bucket=locked, Key="k", VersionId=version)


def test_defaults_and_uploads(s3: Any, locked: str) -> None:
    s3.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration=configuration(Mode="GOVERNANCE", Days=2))
    put(s3, locked)
    head = s3.head_object(Bucket=locked, Key="k")
    assert head["ObjectLockMode"] == "GOVERNANCE"
    assert abs(head["ObjectLockRetainUntilDate"] - datetime.now(UTC) - timedelta(days=2)) < timedelta(minutes=5)
    upload = s3.create_multipart_upload(Bucket=locked, Key="parts", ObjectLockLegalHoldStatus="ON")["UploadId"]
    part = s3.upload_part(Bucket=locked, Key="parts", UploadId=upload, PartNumber=1, Body=b"data")
    parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
    s3.complete_multipart_upload(Bucket=locked, Key="parts", UploadId=upload, MultipartUpload={"Parts": parts})
    head = s3.head_object(Bucket=locked, Key="parts")
    assert (head["ObjectLockMode"], head["ObjectLockLegalHoldStatus"]) == ("GOVERNANCE", "ON")


def test_without_object_lock(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"data")
    retention = {"Mode": "GOVERNANCE", "RetainUntilDate": soon(1)}
    for call in (
        lambda: s3.put_object_retention(Bucket=bucket, Key="k", Retention=retention),
        lambda: s3.get_object_retention(Bucket=bucket, Key="k"),
        lambda: s3.put_object_legal_hold(Bucket=bucket, Key="k", LegalHold={"Status": "ON"}),
        lambda: s3.get_object_legal_hold(Bucket=bucket, Key="k"),
        lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"x", ObjectLockLegalHoldStatus="ON"),
    ):
        with refused("InvalidRequest", 400):
            call()
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"data"
