"""Rights of versions and locks on a running gateway: each is a right of its own, and the simpler one is not enough."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.s3.test_identity import alice, allow, bucket, code, main, people, policy
from tests.support.gateway import Gateway

__all__ = ["alice", "bucket", "main", "people"]
ALICE = {"AWS": "arn:aws:iam::100000000001:user/alice"}


def grant(main: Any, bucket: str, *actions: str) -> None:
    main.put_bucket_policy(Bucket=bucket, Policy=policy(allow(bucket, *actions, principal=ALICE)))


def versioned(main: Any, bucket: str) -> str:
    main.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return str(main.put_object(Bucket=bucket, Key="k", Body=b"x")["VersionId"])


def test_a_named_version_asks_for_its_own_right(main: Any, alice: Any, bucket: str) -> None:
    version = versioned(main, bucket)
    grant(main, bucket, "s3:GetObject", "s3:DeleteObject", "s3:GetObjectTagging", "s3:ListBucket", "s3:PutObject")
    named = {"Bucket": bucket, "Key": "k", "VersionId": version}
    assert alice.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    for call in (alice.get_object, alice.delete_object, alice.get_object_tagging):
        assert code(call, **named) == "AccessDenied"
    assert code(alice.list_object_versions, Bucket=bucket) == "AccessDenied"
    source = {"Bucket": bucket, "Key": "k", "VersionId": version}
    assert code(alice.copy_object, Bucket=bucket, Key="to", CopySource=source) == "AccessDenied"
    objects = [{"Key": "k", "VersionId": version}, {"Key": "new"}]
    reply = alice.delete_objects(Bucket=bucket, Delete={"Objects": objects})
    assert [(each["Key"], each["Code"]) for each in reply["Errors"]] == [("k", "AccessDenied")]
    assert [each["Key"] for each in reply["Deleted"]] == ["new"]
    grant(main, bucket, "s3:GetObjectVersion", "s3:DeleteObjectVersion", "s3:ListBucketVersions", "s3:PutObject")
    assert alice.get_object(**named)["Body"].read() == b"x"
    assert code(alice.get_object, Bucket=bucket, Key="k") == "AccessDenied"
    alice.copy_object(Bucket=bucket, Key="to", CopySource=source)
    assert len(alice.list_object_versions(Bucket=bucket)["Versions"]) == 2
    alice.delete_object(**named)
    assert len(main.list_object_versions(Bucket=bucket)["Versions"]) == 1


def test_a_policy_may_speak_of_one_version(main: Any, alice: Any, bucket: str) -> None:
    first = versioned(main, bucket)
    second = main.put_object(Bucket=bucket, Key="k", Body=b"y")["VersionId"]
    only = {"StringEquals": {"s3:VersionId": first}}
    statement = allow(bucket, "s3:GetObjectVersion", principal=ALICE, Condition=only)
    main.put_bucket_policy(Bucket=bucket, Policy=policy(statement))
    assert alice.get_object(Bucket=bucket, Key="k", VersionId=first)["Body"].read() == b"x"
    assert code(alice.get_object, Bucket=bucket, Key="k", VersionId=second) == "AccessDenied"


def test_locks_ask_for_their_own_rights(main: Any, alice: Any, people: Gateway, bucket: str) -> None:
    locked = f"{bucket}-locked"
    main.create_bucket(Bucket=locked, ObjectLockEnabledForBucket=True)
    until = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    lock = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}
    retention = {"Mode": "GOVERNANCE", "RetainUntilDate": until}
    rights = ["s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:DeleteObjectVersion"]
    grant(main, locked, *rights)
    put = {"Bucket": locked, "Key": "k", "Body": b"x"}
    assert code(alice.put_object, **put, **lock) == "AccessDenied"
    assert code(alice.put_object, **put, ObjectLockLegalHoldStatus="ON") == "AccessDenied"
    assert code(alice.create_multipart_upload, Bucket=locked, Key="k", **lock) == "AccessDenied"
    rights += ["s3:PutObjectRetention"]
    grant(main, locked, *rights)
    version = alice.put_object(**put, **lock)["VersionId"]
    assert "ObjectLockMode" not in alice.head_object(Bucket=locked, Key="k")
    assert main.head_object(Bucket=locked, Key="k")["ObjectLockMode"] == "GOVERNANCE"
    named = {"Bucket": locked, "Key": "k", "VersionId": version}
    assert code(alice.get_object_retention, **named) == "AccessDenied"
    assert code(alice.put_object_legal_hold, **named, LegalHold={"Status": "ON"}) == "AccessDenied"
    assert code(alice.delete_object, **named, BypassGovernanceRetention=True) == "AccessDenied"
    shorter = {**retention, "RetainUntilDate": until - timedelta(hours=1)}
    weaker = {"Retention": shorter, "BypassGovernanceRetention": True}
    assert code(alice.put_object_retention, **named, **weaker) == "AccessDenied"
    rights += ["s3:BypassGovernanceRetention", "s3:GetObjectRetention"]
    grant(main, locked, *rights)
    assert alice.head_object(Bucket=locked, Key="k")["ObjectLockMode"] == "GOVERNANCE"
    alice.put_object_retention(**named, **weaker)
    assert alice.get_object_retention(**named)["Retention"] == shorter
    alice.delete_object(**named, BypassGovernanceRetention=True)


def test_a_rename_asks_for_reading_writing_and_deleting(main: Any, alice: Any, bucket: str) -> None:
    main.put_object(Bucket=bucket, Key="from", Body=b"x")
    rights = ["s3:PutObject", "s3:GetObject", "s3:DeleteObject"]
    for missing in rights:
        grant(main, bucket, *(each for each in rights if each != missing))
        assert code(alice.rename_object, Bucket=bucket, Key="to", RenameSource="from") == "AccessDenied"
    grant(main, bucket, *rights)
    alice.rename_object(Bucket=bucket, Key="to", RenameSource="from")
    assert main.get_object(Bucket=bucket, Key="to")["Body"].read() == b"x"
