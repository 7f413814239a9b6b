"""Several accounts, users and nobody in particular, against a real gateway: who may do what, and who owns what."""

from __future__ import annotations

import itertools
import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from botocore import UNSIGNED
from botocore.exceptions import ClientError

from tests.support.gateway import Gateway, wait_for

ALT: Final = ("altkey", "altsecret-altsecret")
ALT_ID: Final = "56789abcdef0123456789abcdef0123456789abcdef0123456789abcdef01234"
ALT_ACCOUNT: Final = "222222222222"
ALICE: Final = ("alicekey", "alicesecret")
BOB: Final = ("bobkey", "bobsecret-bob")
_numbers = itertools.count(1)


def command(gateway: Gateway, *arguments: str, secret: str = "") -> str:
    done = gateway.command(*arguments, env={"RECALL_USER_SECRET_KEY": secret} if secret else None)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def people() -> Iterator[Gateway]:
    """A gateway of two workers, with the account `alt` and the users alice (no policy) and bob (readwrite)."""
    with Gateway(workers=2) as gateway:
        command(
            gateway, "user", "add", "alt", "--account", "alt", "--access-key", ALT[0], "--canonical-id", ALT_ID,
            "--account-id", ALT_ACCOUNT, "--display-name", "john.doe", "--email", "john.doe@example.com", secret=ALT[1],
        )  # fmt: skip
        command(gateway, "user", "add", "alice", "--access-key", ALICE[0], secret=ALICE[1])
        command(gateway, "user", "add", "bob", "--access-key", BOB[0], "--policy", "readwrite", secret=BOB[1])
        wait_for(lambda: works(gateway, BOB), "the users are known")
        yield gateway


def works(gateway: Gateway, keys: tuple[str, str]) -> bool:
    """Whether every worker knows the keys, as far as a few connections can tell."""
    for _ in range(6):
        client = gateway.boto3_client(keys=keys)
        try:
            client.list_buckets()
        except ClientError as error:
            if error.response["Error"]["Code"] != "AccessDenied":
                return False
        finally:
            client.close()
    return True


@pytest.fixture(scope="module")
def main(people: Gateway) -> Any:
    return people.boto3_client()


@pytest.fixture(scope="module")
def alt(people: Gateway) -> Any:
    return people.boto3_client(keys=ALT)


@pytest.fixture(scope="module")
def alice(people: Gateway) -> Any:
    return people.boto3_client(keys=ALICE)


@pytest.fixture(scope="module")
def bob(people: Gateway) -> Any:
    return people.boto3_client(keys=BOB)


@pytest.fixture(scope="module")
def nobody(people: Gateway) -> Any:
    return people.boto3_client(signature_version=UNSIGNED)


@pytest.fixture
def bucket(main: Any) -> str:
    name = f"people-{next(_numbers)}"
    main.create_bucket(Bucket=name)
    return name


def code(call: Callable[..., Any], **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return str(caught.value.response["Error"]["Code"])


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(bucket: str, *actions: str, principal: Any = "*", effect: str = "Allow", **fields: Any) -> dict[str, Any]:
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    return {"Effect": effect, "Principal": principal, "Action": list(actions), "Resource": resources} | fields


# --- accounts ---------------------------------------------------------------------------------------------------------


def test_buckets_belong_to_the_account_that_made_them(main: Any, alt: Any, bucket: str) -> None:
    assert code(alt.create_bucket, Bucket=bucket) == "BucketAlreadyExists"
    alt.create_bucket(Bucket=f"{bucket}-alt")
    assert [each["Name"] for each in alt.list_buckets()["Buckets"]] == [f"{bucket}-alt"]
    assert alt.list_buckets()["Owner"] == {"ID": ALT_ID, "DisplayName": "john.doe"}
    assert f"{bucket}-alt" not in {each["Name"] for each in main.list_buckets()["Buckets"]}
    assert alt.get_bucket_acl(Bucket=f"{bucket}-alt")["Owner"]["ID"] == ALT_ID
    assert code(main.delete_bucket, Bucket=f"{bucket}-alt") == "AccessDenied"
    alt.delete_bucket(Bucket=f"{bucket}-alt")


def test_others_are_denied_by_default(main: Any, alt: Any, nobody: Any, bucket: str) -> None:
    main.put_object(Bucket=bucket, Key="k", Body=b"x")
    for other in (alt, nobody):
        assert code(other.get_object, Bucket=bucket, Key="k") == "AccessDenied"
        assert code(other.get_object, Bucket=bucket, Key="missing") == "AccessDenied"
        assert code(other.head_object, Bucket=bucket, Key="k") == "403"
        assert code(other.put_object, Bucket=bucket, Key="k", Body=b"") == "AccessDenied"
        assert code(other.delete_object, Bucket=bucket, Key="k") == "AccessDenied"
        assert code(other.list_objects_v2, Bucket=bucket) == "AccessDenied"
        assert code(other.get_bucket_acl, Bucket=bucket) == "AccessDenied"
        assert code(other.get_object, Bucket="no-such-bucket", Key="k") == "NoSuchBucket"
    assert code(nobody.create_bucket, Bucket="nobodys") == "AccessDenied"


def test_expected_bucket_owner(alt: Any, main: Any, bucket: str) -> None:
    assert code(main.list_objects_v2, Bucket=bucket, ExpectedBucketOwner=ALT_ACCOUNT) == "AccessDenied"
    main.list_objects_v2(Bucket=bucket, ExpectedBucketOwner="100000000001")
    main.put_object(Bucket=bucket, Key="k", Body=b"x")
    source = {"Bucket": bucket, "Key": "k"}
    assert (
        code(main.copy_object, Bucket=bucket, Key="c", CopySource=source, ExpectedSourceBucketOwner=ALT_ACCOUNT)
        == "AccessDenied"
    )


# --- access lists -----------------------------------------------------------------------------------------------------


def test_public_object(main: Any, alt: Any, nobody: Any, bucket: str) -> None:
    main.put_object(Bucket=bucket, Key="open", Body=b"x", ACL="public-read")
    assert nobody.get_object(Bucket=bucket, Key="open")["Body"].read() == b"x"
    assert alt.get_object(Bucket=bucket, Key="open")["Body"].read() == b"x"
    assert code(nobody.put_object, Bucket=bucket, Key="open", Body=b"") == "AccessDenied"
    main.put_object(Bucket=bucket, Key="open", Body=b"y")
    assert code(nobody.get_object, Bucket=bucket, Key="open") == "AccessDenied"
    main.put_object(Bucket=bucket, Key="known", Body=b"x", ACL="authenticated-read")
    assert code(nobody.get_object, Bucket=bucket, Key="known") == "AccessDenied"
    assert alt.get_object(Bucket=bucket, Key="known")["Body"].read() == b"x"


def test_missing_key_is_told_to_who_may_list(main: Any, nobody: Any, bucket: str) -> None:
    main.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert code(nobody.get_object, Bucket=bucket, Key="missing") == "NoSuchKey"
    assert nobody.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    main.put_bucket_acl(Bucket=bucket, ACL="private")
    assert code(nobody.get_object, Bucket=bucket, Key="missing") == "AccessDenied"
    by_prefix = allow(bucket, "s3:ListBucket", Condition={"StringLike": {"s3:prefix": "public/*"}})
    main.put_bucket_policy(Bucket=bucket, Policy=policy(by_prefix))
    for key, status in (("public/k", "404"), ("private/k", "403")):
        assert code(nobody.head_object, Bucket=bucket, Key=key) == status


def test_public_bucket_is_written_by_anybody_and_each_owns_its_own(
    main: Any, alt: Any, nobody: Any, bucket: str
) -> None:
    main.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    nobody.put_object(Bucket=bucket, Key="anon", Body=b"a")
    assert main.get_object(Bucket=bucket, Key="anon")["Body"].read() == b"a"
    alt.put_object(Bucket=bucket, Key="alts", Body=b"b")
    assert code(main.get_object, Bucket=bucket, Key="alts") == "AccessDenied"
    assert code(main.get_object_acl, Bucket=bucket, Key="alts") == "AccessDenied"
    assert alt.get_object_acl(Bucket=bucket, Key="alts")["Owner"]["ID"] == ALT_ID
    owners = {each["Key"]: each["Owner"]["ID"] for each in main.list_objects(Bucket=bucket)["Contents"]}
    assert owners["alts"] == ALT_ID != owners["anon"]
    alt.put_object(Bucket=bucket, Key="given", Body=b"c", ACL="bucket-owner-full-control")
    assert main.get_object(Bucket=bucket, Key="given")["Body"].read() == b"c"
    main.delete_object(Bucket=bucket, Key="alts")


def test_grants_by_header_and_email(main: Any, alt: Any, bucket: str) -> None:
    main.put_object(Bucket=bucket, Key="k", Body=b"x", GrantRead=f"id={ALT_ID}")
    assert alt.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    assert code(alt.get_object_acl, Bucket=bucket, Key="k") == "AccessDenied"
    main.put_object(Bucket=bucket, Key="m", Body=b"x", GrantFullControl="emailAddress=john.doe@example.com")
    assert alt.get_object_acl(Bucket=bucket, Key="m")["Grants"][0]["Grantee"]["ID"] == ALT_ID
    assert code(main.put_object, Bucket=bucket, Key="n", GrantRead="id=unknown") == "InvalidArgument"


def test_bucket_owner_enforced(main: Any, alt: Any, nobody: Any, bucket: str) -> None:
    main.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    controls = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    main.put_bucket_acl(Bucket=bucket, ACL="private")
    main.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=controls)
    main.put_bucket_policy(Bucket=bucket, Policy=policy(allow(bucket, "s3:PutObject", "s3:PutObjectAcl")))
    assert code(alt.put_object, Bucket=bucket, Key="k", ACL="public-read") == "AccessControlListNotSupported"
    alt.put_object(Bucket=bucket, Key="k", Body=b"x", ACL="bucket-owner-full-control")
    alt.put_object(Bucket=bucket, Key="l", Body=b"x")
    assert main.get_object(Bucket=bucket, Key="l")["Body"].read() == b"x"


def test_public_access_block(main: Any, nobody: Any, bucket: str) -> None:
    main.put_object(Bucket=bucket, Key="k", Body=b"x", ACL="public-read")
    block = {
        "BlockPublicAcls": True,
        "IgnorePublicAcls": True,
        "BlockPublicPolicy": True,
        "RestrictPublicBuckets": True,
    }
    main.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=block)
    assert code(nobody.get_object, Bucket=bucket, Key="k") == "AccessDenied"
    assert code(main.put_object, Bucket=bucket, Key="l", ACL="public-read") == "AccessDenied"
    public = policy(allow(bucket, "s3:GetObject"))
    assert code(main.put_bucket_policy, Bucket=bucket, Policy=public) == "AccessDenied"
    main.delete_public_access_block(Bucket=bucket)
    main.put_bucket_policy(Bucket=bucket, Policy=public)
    assert nobody.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    restrict = {"RestrictPublicBuckets": True, "IgnorePublicAcls": True}
    main.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=restrict)
    assert code(nobody.get_object, Bucket=bucket, Key="k") == "AccessDenied"


# --- policies ---------------------------------------------------------------------------------------------------------


def test_bucket_policy_lets_others_in(main: Any, alt: Any, nobody: Any, bucket: str) -> None:
    main.put_object(Bucket=bucket, Key="k", Body=b"x")
    main.put_bucket_policy(
        Bucket=bucket,
        Policy=policy(
            allow(bucket, "s3:ListBucket", "s3:GetObject", principal={"AWS": f"arn:aws:iam::{ALT_ACCOUNT}:root"})
        ),
    )
    assert alt.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    assert alt.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
    assert code(alt.get_object, Bucket=bucket, Key="missing") == "NoSuchKey"
    assert code(alt.put_object, Bucket=bucket, Key="k") == "AccessDenied"
    assert code(nobody.get_object, Bucket=bucket, Key="k") == "AccessDenied"


def test_deny_binds_the_owner_but_not_the_policy_itself(main: Any, bucket: str) -> None:
    main.put_object(Bucket=bucket, Key="k", Body=b"x")
    main.put_bucket_policy(Bucket=bucket, Policy=policy(allow(bucket, "s3:*", effect="Deny")))
    assert code(main.get_object, Bucket=bucket, Key="k") == "AccessDenied"
    assert code(main.list_objects_v2, Bucket=bucket) == "AccessDenied"
    main.get_bucket_policy(Bucket=bucket)
    main.delete_bucket_policy(Bucket=bucket)
    main.get_object(Bucket=bucket, Key="k")


def test_policy_by_existing_tag(main: Any, nobody: Any, bucket: str) -> None:
    main.put_object(Bucket=bucket, Key="open", Body=b"x", Tagging="security=public")
    main.put_object(Bucket=bucket, Key="shut", Body=b"x", Tagging="security=private")
    condition = {"StringEquals": {"s3:ExistingObjectTag/security": "public"}}
    statement = allow(bucket, "s3:GetObject", Condition=condition)
    main.put_bucket_policy(Bucket=bucket, Policy=policy(statement))
    assert nobody.get_object(Bucket=bucket, Key="open")["Body"].read() == b"x"
    assert code(nobody.get_object, Bucket=bucket, Key="shut") == "AccessDenied"
    assert code(nobody.get_object, Bucket=bucket, Key="missing") == "AccessDenied"


def test_policy_by_request_tags(main: Any, alt: Any, bucket: str) -> None:
    condition = {"StringEquals": {"s3:RequestObjectTag/security": "public"}}
    statement = allow(bucket, "s3:PutObject", "s3:PutObjectTagging", Condition=condition)
    main.put_bucket_policy(Bucket=bucket, Policy=policy(statement))
    alt.put_object(Bucket=bucket, Key="k", Tagging="security=public", ACL="bucket-owner-full-control")
    assert code(alt.put_object, Bucket=bucket, Key="k", Tagging="security=private") == "AccessDenied"
    assert code(alt.put_object, Bucket=bucket, Key="k") == "AccessDenied"
    tags = {"TagSet": [{"Key": "security", "Value": "public"}]}
    alt.put_object_tagging(Bucket=bucket, Key="k", Tagging=tags)
    tags = {"TagSet": [{"Key": "security", "Value": "other"}]}
    assert code(alt.put_object_tagging, Bucket=bucket, Key="k", Tagging=tags) == "AccessDenied"


def test_deletes_of_many_keys_are_judged_one_by_one(main: Any, alt: Any, bucket: str) -> None:
    for key in ("a/1", "b/1"):
        main.put_object(Bucket=bucket, Key=key, Body=b"x")
    statement = allow(bucket, "s3:DeleteObject", Resource=f"arn:aws:s3:::{bucket}/a/*")
    main.put_bucket_policy(Bucket=bucket, Policy=policy(statement))
    reply = alt.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a/1"}, {"Key": "b/1"}]})
    assert [each["Key"] for each in reply["Deleted"]] == ["a/1"]
    assert [(each["Key"], each["Code"]) for each in reply["Errors"]] == [("b/1", "AccessDenied")]


def test_writers_by_list_delete_what_is_theirs(main: Any, alt: Any, bucket: str) -> None:
    main.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    main.put_object(Bucket=bucket, Key="mains", Body=b"x")
    for key in ("one", "two"):
        alt.put_object(Bucket=bucket, Key=key, Body=b"x")
    assert code(alt.delete_object, Bucket=bucket, Key="mains") == "AccessDenied"
    alt.delete_object(Bucket=bucket, Key="one")
    reply = alt.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "two"}, {"Key": "mains"}]})
    assert [each["Key"] for each in reply["Deleted"]] == ["two"]
    assert [each["Key"] for each in reply["Errors"]] == ["mains"]


def test_copy_needs_the_source(main: Any, alt: Any, bucket: str) -> None:
    main.put_object(Bucket=bucket, Key="shut", Body=b"x")
    main.put_object(Bucket=bucket, Key="open", Body=b"x", ACL="public-read")
    mine = f"{bucket}-copies"
    alt.create_bucket(Bucket=mine)
    alt.copy_object(Bucket=mine, Key="c", CopySource={"Bucket": bucket, "Key": "open"})
    for key in ("shut", "missing"):
        source = {"Bucket": bucket, "Key": key}
        assert code(alt.copy_object, Bucket=mine, Key="c", CopySource=source) == "AccessDenied"
    upload = alt.create_multipart_upload(Bucket=mine, Key="m")["UploadId"]
    source = {"Bucket": bucket, "Key": "shut"}
    assert (
        code(alt.upload_part_copy, Bucket=mine, Key="m", UploadId=upload, PartNumber=1, CopySource=source)
        == "AccessDenied"
    )


def test_policy_by_copy_source(main: Any, alt: Any, bucket: str) -> None:
    for key in ("public/a b", "private/c"):
        main.put_object(Bucket=bucket, Key=key, Body=b"x")
    main.put_bucket_policy(Bucket=bucket, Policy=policy(allow(bucket, "s3:GetObject")))
    target = f"{bucket}-copies"
    main.create_bucket(Bucket=target)
    condition = {"StringLike": {"s3:x-amz-copy-source": f"{bucket}/public/*"}}
    main.put_bucket_policy(Bucket=target, Policy=policy(allow(target, "s3:PutObject", Condition=condition)))
    alt.copy_object(Bucket=target, Key="c", CopySource={"Bucket": bucket, "Key": "public/a b"})
    assert alt.get_object(Bucket=target, Key="c")["Body"].read() == b"x"  # who wrote it owns it
    source = {"Bucket": bucket, "Key": "private/c"}
    assert code(alt.copy_object, Bucket=target, Key="d", CopySource=source) == "AccessDenied"
    assert code(alt.put_object, Bucket=target, Key="d") == "AccessDenied"


def test_uploader_gives_the_bucket_owner_control(main: Any, alt: Any, bucket: str) -> None:
    owner = f"id={main.list_buckets()['Owner']['ID']}"
    condition = {"StringEquals": {"s3:x-amz-grant-full-control": owner}}
    main.put_bucket_policy(Bucket=bucket, Policy=policy(allow(bucket, "s3:PutObject", Condition=condition)))
    assert code(alt.put_object, Bucket=bucket, Key="k") == "AccessDenied"
    alt.put_object(Bucket=bucket, Key="k", Body=b"x", GrantFullControl=owner)
    assert main.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    assert main.get_object_acl(Bucket=bucket, Key="k")["Owner"]["ID"] == ALT_ID


def test_multipart_upload_into_anothers_bucket(main: Any, alt: Any, nobody: Any, bucket: str) -> None:
    main.put_bucket_policy(
        Bucket=bucket, Policy=policy(allow(bucket, "*", principal={"AWS": f"arn:aws:iam::{ALT_ACCOUNT}:root"}))
    )
    upload = alt.create_multipart_upload(Bucket=bucket, Key="m", ACL="public-read")["UploadId"]
    part = alt.upload_part(Bucket=bucket, Key="m", UploadId=upload, PartNumber=1, Body=b"part")
    listed = alt.list_parts(Bucket=bucket, Key="m", UploadId=upload)
    assert listed["Owner"]["ID"] == listed["Initiator"]["ID"] == ALT_ID
    assert code(nobody.list_parts, Bucket=bucket, Key="m", UploadId=upload) == "AccessDenied"
    assert code(nobody.abort_multipart_upload, Bucket=bucket, Key="m", UploadId=upload) == "AccessDenied"
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    alt.complete_multipart_upload(Bucket=bucket, Key="m", UploadId=upload, MultipartUpload=parts)
    assert nobody.get_object(Bucket=bucket, Key="m")["Body"].read() == b"part"
    assert code(nobody.get_object, Bucket=bucket, Key="n") == "AccessDenied"


# --- users ------------------------------------------------------------------------------------------------------------


def test_user_without_policy_may_do_nothing(alice: Any, main: Any, bucket: str) -> None:
    main.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert code(alice.list_buckets) == "AccessDenied"
    assert code(alice.get_object, Bucket=bucket, Key="k") == "AccessDenied"
    assert code(alice.create_bucket, Bucket="alices") == "AccessDenied"
    principal = {"AWS": "arn:aws:iam::100000000001:user/alice"}
    main.put_bucket_policy(Bucket=bucket, Policy=policy(allow(bucket, "s3:GetObject", principal=principal)))
    assert alice.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    main.put_bucket_policy(
        Bucket=bucket, Policy=policy(allow(bucket, "s3:GetObject", principal={"AWS": "100000000001"}))
    )
    assert code(alice.get_object, Bucket=bucket, Key="k") == "AccessDenied"  # the account may, but says nothing of her


def test_user_with_policy_works_in_the_account(bob: Any, main: Any, alt: Any, bucket: str) -> None:
    bob.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=b")
    assert main.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    assert bucket in {each["Name"] for each in bob.list_buckets()["Buckets"]}
    alt.create_bucket(Bucket=f"{bucket}-alt")
    assert code(bob.list_objects_v2, Bucket=f"{bucket}-alt") == "AccessDenied"
    main.put_bucket_policy(
        Bucket=bucket,
        Policy=policy(
            allow(bucket, "s3:DeleteObject", effect="Deny", principal={"AWS": "arn:aws:iam::100000000001:user/bob"})
        ),
    )
    assert code(bob.delete_object, Bucket=bucket, Key="k") == "AccessDenied"


def test_changes_are_in_force_without_a_restart(people: Gateway, main: Any, bucket: str) -> None:
    keys = ("carolkey", "carolsecret")
    command(people, "user", "add", "carol", "--access-key", keys[0], secret=keys[1])
    command(people, "group", "add", "readers", "carol")
    command(people, "policy", "attach", "readwrite", "--group", "readers")
    carol = people.boto3_client(keys=keys)

    def writes() -> bool:
        try:
            carol.put_object(Bucket=bucket, Key="c", Body=b"x")
        except ClientError:
            return False
        return True

    wait_for(writes, "carol may write")  # known a moment before her group's policy is
    command(people, "user", "disable", "carol")
    wait_for(lambda: not works(people, keys), "carol is kept out")
    assert "carolsecret" not in command(people, "user", "list")
    command(people, "user", "rm", "carol")
    assert json.loads(command(people, "group", "info", "readers"))["users"] == []


def test_a_broken_file_keeps_no_restarted_worker_down_and_brings_nobody_back(people: Gateway) -> None:
    """What was known before counts for a worker that is started again too: who was let in, and who was taken out."""
    keys = ("davekey", "davesecret")
    command(people, "user", "add", "dave", "--access-key", keys[0], secret=keys[1])
    wait_for(lambda: works(people, keys), "dave is known")
    command(people, "user", "rm", "dave")
    wait_for(lambda: not works(people, keys), "dave is kept out")
    path = people.data_dir / "identities.json"
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    try:
        people.wait_restarted("worker-1", people.kill("worker-1"))
        assert works(people, BOB)
        assert not works(people, keys)
        assert 'proc=worker-1 log=recall.identities msg="what was known before stays in force"' in people.log
    finally:
        path.write_bytes(good)
    command(people, "user", "add", "erin", "--access-key", "erinkey", secret="erinsecret")
    wait_for(lambda: works(people, ("erinkey", "erinsecret")), "the mended file is read")


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_sessions(people: Gateway, main: Any, bucket: str) -> None:
    main.put_object(Bucket=bucket, Key="k", Body=b"x")
    sts = people.boto3_client(service="sts", keys=BOB)
    assert sts.get_caller_identity()["Arn"] == "arn:aws:iam::100000000001:user/bob"
    narrow = policy({"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"})
    begun = sts.assume_role(RoleArn="arn:aws:iam::1:role/x-role-name", RoleSessionName="s1", Policy=narrow)[
        "Credentials"
    ]
    keys = (begun["AccessKeyId"], begun["SecretAccessKey"])
    session = people.boto3_client(keys=keys, token=begun["SessionToken"])
    assert session.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    assert code(session.put_object, Bucket=bucket, Key="k") == "AccessDenied"
    url = session.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    with urllib.request.urlopen(url) as reply:
        assert reply.read() == b"x"
    assert code(people.boto3_client(keys=keys).list_buckets) == "InvalidAccessKeyId"
    assert code(people.boto3_client(keys=keys, token="forged").list_buckets) == "InvalidToken"
    assert code(people.boto3_client(token=begun["SessionToken"]).list_buckets) == "InvalidToken"
    again = people.boto3_client(service="sts", keys=keys, token=begun["SessionToken"])
    assert code(again.get_session_token) == "AccessDenied"
    assert again.get_caller_identity()["Arn"] == "arn:aws:sts::100000000001:assumed-role/bob/s1"


def test_sts_refusals(people: Gateway) -> None:
    sts = people.boto3_client(service="sts", keys=(BOB[0], "wrong-secret"))
    assert code(sts.get_caller_identity) == "SignatureDoesNotMatch"
    sts = people.boto3_client(service="sts", keys=("nobody", "wrong-secret"))
    assert code(sts.get_caller_identity) == "InvalidClientTokenId"
    sts = people.boto3_client(service="sts", keys=BOB)
    role = {"RoleArn": "arn:aws:iam::1:role/x-role-name", "RoleSessionName": "s1"}
    assert code(sts.assume_role, **role, DurationSeconds=604_801) == "ValidationError"
    assert code(sts.assume_role, **role, Policy="{}") == "MalformedPolicyDocument"
    assert code(sts.assume_role, **role, PolicyArns=[{"arn": "arn:aws:iam::1:policy/narrow"}]) == "ValidationError"
    assert code(sts.assume_role_with_saml, RoleArn=role["RoleArn"], PrincipalArn=role["RoleArn"], SAMLAssertion="AAAA") in ("InvalidAction", "AccessDenied")  # fmt: skip


def test_minio_py_assumes_a_role(people: Gateway, main: Any, bucket: str) -> None:
    minio = pytest.importorskip("minio")
    provider = minio.credentials.AssumeRoleProvider(
        sts_endpoint=people.endpoint, access_key=BOB[0], secret_key=BOB[1], duration_seconds=900
    )
    client = minio.Minio(endpoint=people.endpoint.removeprefix("http://"), credentials=provider, secure=False)
    assert client.bucket_exists(bucket_name=bucket)


# --- requester pays ---------------------------------------------------------------------------------------------------


def test_others_must_say_that_they_pay(
    main: Any, alt: Any, alice: Any, nobody: Any, people: Gateway, bucket: str
) -> None:
    main.put_object(Bucket=bucket, Key="k", Body=b"x")
    main.put_bucket_policy(Bucket=bucket, Policy=policy(allow(bucket, "s3:GetObject", "s3:ListBucket", "s3:PutObject")))
    for other in (alt, nobody):
        assert "RequestCharged" not in other.get_object(Bucket=bucket, Key="k")
    main.put_bucket_request_payment(Bucket=bucket, RequestPaymentConfiguration={"Payer": "Requester"})
    for other in (alt, nobody):
        assert code(other.get_object, Bucket=bucket, Key="k") == "AccessDenied"
        assert code(other.list_objects_v2, Bucket=bucket) == "AccessDenied"
    assert code(nobody.get_object, Bucket=bucket, Key="k", RequestPayer="requester") == "AccessDenied"
    assert alt.get_object(Bucket=bucket, Key="k", RequestPayer="requester")["RequestCharged"] == "requester"
    assert alt.put_object(Bucket=bucket, Key="a", Body=b"", RequestPayer="requester")["RequestCharged"] == "requester"
    assert alt.list_objects_v2(Bucket=bucket, RequestPayer="requester")["KeyCount"] == 2
    parameters = {"Bucket": bucket, "Key": "k", "RequestPayer": "requester"}
    with urllib.request.urlopen(alt.generate_presigned_url("get_object", Params=parameters)) as reply:
        assert (reply.read(), reply.headers["x-amz-request-charged"]) == (b"x", "requester")
    for own in (main, alice):
        assert "RequestCharged" not in own.get_object(Bucket=bucket, Key="k")
    main.put_bucket_request_payment(Bucket=bucket, RequestPaymentConfiguration={"Payer": "BucketOwner"})
    assert "RequestCharged" not in nobody.get_object(Bucket=bucket, Key="k")
