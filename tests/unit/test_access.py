"""The judgement of rights: who owns, who asks, and what policies, lists and settings say, case by case."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3api.access import ENFORCED, PREFERRED, Ownership, Rights, ownership_for, public_access_of
from s3api.call import Call
from s3api.errors import S3Error
from s3api.identity import Identity
from s3api.operations import TABLE
from s3api.policy import BUCKET_ACTIONS, OBJECT_ACTIONS
from tests.unit.handler_harness import Harness
from tiering.contract import BucketInfo, ObjectInfo

IDS = {"": "main-id", "alt-id": "alt-id"}
ACCOUNTS = {"": "111111111111", "main-id": "111111111111", "alt-id": "222222222222"}


class People:
    """A Directory of two accounts."""

    def display_name(self, owner_id: str) -> str:
        return IDS.get(owner_id, owner_id)

    def canonical_id(self, owner_id: str) -> str:
        return owner_id or "main-id"

    def account_id(self, owner_id: str) -> str | None:
        return ACCOUNTS.get(owner_id)

    def account_of_email(self, email: str) -> str | None:
        return None


def policy(effect: str = "Allow", action: str = "s3:*", principal: Any = None, **fields: Any) -> dict[str, Any]:
    who = {} if principal is None else {"Principal": principal}
    return {"Effect": effect, "Action": action, "Resource": ["arn:aws:s3:::b", "arn:aws:s3:::b/*"], **who, **fields}


def text(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def person(
    key: str, owner: str = "", *, root: bool = False, policies: tuple[str, ...] = (), session: str = ""
) -> Identity:
    account = ACCOUNTS[owner]
    arn = f"arn:aws:iam::{account}:{'root' if root else 'user/' + key}"
    return Identity(
        key, owner_id=owner or "main-id", root=root, owner=owner, account_id=account, arn=arn,
        user_name="" if root else key, policies=policies, session_policy=session,
    )  # fmt: skip


MAIN = person("main", root=True)
ALT = person("alt", "alt-id", root=True)
USER = person("user")
ABLE = person("able", policies=(text(policy()),))
ALT_ABLE = person("hand", "alt-id", policies=(text(policy()),))
NOBODY = Identity("")
RIGHTS = Rights(People())


def call_of(who: Identity, method: str = "GET", path: str = "/b/k", **headers: str) -> Call:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    made = Harness().call(method, path, named, identity=who)
    made.access = RIGHTS
    return made


def bucket(**documents: str) -> BucketInfo:
    return BucketInfo(name="b", created_ms=0, pool="", documents=documents)


def info(owner: str = "", acl: str = "", **tags: str) -> ObjectInfo:
    return ObjectInfo(generation=1, size=1, modified_ms=0, etag="", crc64=0, owner=owner, acl=acl, tags=tags)


def may(
    who: Identity,
    action: str = "s3:GetObject",
    where: BucketInfo | None = None,
    what: ObjectInfo | None = None,
    key: str = "k",
    **headers: str,
) -> bool:
    return RIGHTS.judge(call_of(who, **headers), action, where or bucket(), key, what or info())


@pytest.mark.parametrize(
    ("who", "own"), [(MAIN, True), (ABLE, True), (USER, False), (ALT, False), (ALT_ABLE, False), (NOBODY, False)]
)
def test_without_any_policy_only_the_account_may(who: Identity, own: bool) -> None:
    for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:GetObjectAcl"):
        assert may(who, action) is own
    assert may(who, "s3:ListBucket", key="") is own


@pytest.mark.parametrize(
    ("principal", "allowed"),
    [
        ("*", {"main", "user", "able", "alt", "hand", ""}),
        ({"AWS": "222222222222"}, {"main", "able", "alt", "hand"}),
        ({"AWS": "arn:aws:iam::222222222222:user/hand"}, {"main", "able", "hand"}),
        ({"AWS": "111111111111"}, {"main", "able"}),
        ({"AWS": "arn:aws:iam::111111111111:user/user"}, {"main", "able", "user"}),
        ({"CanonicalUser": "alt-id"}, {"main", "able", "alt", "hand"}),
    ],
)
def test_bucket_policy_lets_in(principal: Any, allowed: set[str]) -> None:
    where = bucket(policy=text(policy(principal=principal)))
    everybody = (MAIN, USER, ABLE, ALT, ALT_ABLE, NOBODY)
    assert {who.access_key for who in everybody if may(who, where=where)} == allowed


def test_user_of_another_account_needs_both_sides() -> None:
    where = bucket(policy=text(policy(principal={"AWS": "arn:aws:iam::222222222222:user/poor"})))
    assert not may(person("poor", "alt-id"), where=where)
    assert may(person("poor", "alt-id", policies=(text(policy()),)), where=where)


@given(
    st.lists(st.sampled_from(["*", {"AWS": "111111111111"}, {"AWS": "222222222222"}]), max_size=4), st.integers(0, 4)
)
def test_deny_of_everybody_outranks_all(principals: list[Any], at: int) -> None:
    statements = [policy(principal=principal) for principal in principals]
    statements.insert(at, policy("Deny", principal="*"))
    where = bucket(policy=text(*statements), acl="F R* W*")
    for who in (MAIN, USER, ABLE, ALT, ALT_ABLE, NOBODY):
        assert not may(who, where=where, what=info(acl="F R*"))


def test_account_can_always_mend_its_bucket_policy() -> None:
    where = bucket(policy=text(policy("Deny", principal="*")))
    for action in ("s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy"):
        assert may(MAIN, action, where, key="")
        assert not may(ABLE, action, where, key="")
    assert not may(MAIN, "s3:DeleteBucket", where, key="")


def test_identity_policy_denies_its_user() -> None:
    who = person("able", policies=(text(policy()), text(policy("Deny", "s3:DeleteObject"))))
    assert may(who) and not may(who, "s3:DeleteObject")
    where = bucket(policy=text(policy(principal="*")))
    assert not may(who, "s3:DeleteObject", where)


def test_session_is_narrowed_even_for_root() -> None:
    session = person("main", root=True, session=text(policy(action="s3:GetObject")))
    assert may(session) and not may(session, "s3:PutObject")
    assert not RIGHTS.is_plain(session, "s3:GetObject", bucket())
    where = bucket(policy=text(policy(principal="*")))
    assert not may(session, "s3:PutObject", where)


# --- access lists -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("acl", "who", "allowed"),
    [
        ("F R*", NOBODY, {"s3:GetObject"}),
        ("F R+", NOBODY, set()),
        ("F R+", ALT, {"s3:GetObject"}),
        ("F Ralt-id", ALT, {"s3:GetObject"}),
        ("F Falt-id", ALT, {"s3:GetObject", "s3:GetObjectAcl", "s3:PutObjectAcl"}),
        ("F ralt-id", ALT_ABLE, {"s3:GetObjectAcl"}),
        ("F walt-id", ALT, {"s3:PutObjectAcl"}),
        ("F Falt-id", person("poor", "alt-id"), set()),
    ],
)
def test_object_list(acl: str, who: Identity, allowed: set[str]) -> None:
    actions = ("s3:GetObject", "s3:GetObjectAcl", "s3:PutObjectAcl", "s3:PutObjectTagging", "s3:DeleteObject")
    assert {action for action in actions if may(who, action, what=info(acl=acl))} == allowed


@pytest.mark.parametrize(
    ("acl", "who", "allowed"),
    [
        ("F R*", NOBODY, {"s3:ListBucket"}),
        ("F R* W*", NOBODY, {"s3:ListBucket", "s3:PutObject"}),
        ("F ralt-id", ALT, {"s3:GetBucketAcl"}),
        ("F Falt-id", ALT, {"s3:ListBucket", "s3:PutObject", "s3:GetBucketAcl", "s3:PutBucketAcl"}),
    ],
)
def test_bucket_list(acl: str, who: Identity, allowed: set[str]) -> None:
    actions = (
        "s3:ListBucket", "s3:PutObject", "s3:DeleteObject", "s3:GetBucketAcl", "s3:PutBucketAcl", "s3:GetBucketPolicy",
        "s3:GetObject",
    )  # fmt: skip
    assert {action for action in actions if may(who, action, bucket(acl=acl))} == allowed


def test_writers_by_list_delete_what_is_theirs() -> None:
    where = bucket(acl="F W+")
    assert may(ALT, "s3:DeleteObject", where, info(owner="alt-id"))
    assert not may(ALT, "s3:DeleteObject", where)
    assert not may(ALT, "s3:DeleteObject", what=info(owner="alt-id"))


def test_uploads_are_their_beginners() -> None:
    made = call_of(ALT, "DELETE", "/b/k?uploadId=u")
    for action in ("s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"):
        assert RIGHTS.judge(made, action, bucket(), "k", own=True)
        assert not RIGHTS.judge(made, action, bucket(acl="F W+"), "k")
        assert not RIGHTS.judge(made, action, bucket(policy=text(policy("Deny", principal="*"))), "k", own=True)


def test_lists_do_not_count_where_the_owner_is_enforced() -> None:
    where = bucket(acl="F R* W*", ownershipControls=ENFORCED)
    assert not may(NOBODY, "s3:PutObject", where)
    assert not may(NOBODY, where=where, what=info(acl="F R*"))
    assert may(MAIN, where=where, what=info(owner="alt-id"))


def test_owner_of_the_bucket_is_not_owner_of_all_in_it() -> None:
    foreign = info(owner="alt-id")
    assert may(ALT, what=foreign) and not may(MAIN, what=foreign) and not may(ABLE, what=foreign)
    assert may(MAIN, "s3:DeleteObject", what=foreign)
    assert may(MAIN, what=info(owner="alt-id", acl="F Fmain-id"))
    where = bucket(policy=text(policy(principal="*")))
    assert not may(NOBODY, where=where, what=foreign)  # the policy is for what the bucket's owner owns


def test_owner_can_mend_a_list_that_grants_nothing() -> None:
    lost = info(owner="alt-id", acl="-")
    assert may(ALT, "s3:PutObjectAcl", what=lost) and may(ALT, "s3:GetObjectAcl", what=lost)
    assert not may(ALT, what=lost)


def test_public_access_block() -> None:
    public = bucket(policy=text(policy(principal="*")), publicAccessBlock="RestrictPublicBuckets IgnorePublicAcls")
    assert not may(NOBODY, where=public) and not may(ALT, where=public) and may(USER, where=public)
    assert not may(NOBODY, where=bucket(publicAccessBlock="IgnorePublicAcls"), what=info(acl="F R*"))
    assert may(ALT, where=bucket(publicAccessBlock="IgnorePublicAcls"), what=info(acl="F Ralt-id"))
    named = bucket(policy=text(policy(principal={"AWS": "222222222222"})), publicAccessBlock="RestrictPublicBuckets")
    assert may(ALT, where=named)
    assert public_access_of(bucket(publicAccessBlock="BlockPublicAcls")).block_acls


# --- what a request says ----------------------------------------------------------------------------------------------


def conditional(who: Identity = NOBODY, what: ObjectInfo | None = None, **condition: Any) -> Any:
    """Whether a policy under the condition lets `who` in, by request headers."""
    where = bucket(policy=text(policy(principal="*", Condition=condition)))

    def judged(path: str = "/b/k", method: str = "GET", **headers: str) -> bool:
        made = call_of(who, method, path, **headers)
        return RIGHTS.judge(made, "s3:GetObject", where, "k", what)

    return judged


def test_condition_keys_come_from_the_request() -> None:
    assert conditional(StringEquals={"s3:prefix": "a"})("/b?prefix=a")
    assert not conditional(StringEquals={"s3:prefix": "a"})("/b")
    assert conditional(NumericLessThanEquals={"s3:max-keys": 5})("/b?max-keys=5")
    assert conditional(StringLike={"aws:Referer": "http://a/*"})(referer="http://a/b")
    assert conditional(StringEquals={"s3:x-amz-acl": "private"})(x_amz_acl="private")
    assert conditional(Null={"s3:x-amz-server-side-encryption": "true"})()
    assert conditional(StringLike={"s3:x-amz-copy-source": "b/a b*"})(
        method="PUT", x_amz_copy_source="/b/a%20bc?versionId=null"
    )
    assert conditional(StringEquals={"s3:RequestObjectTag/a": "1"})(x_amz_tagging="a=1&b=2")
    assert conditional(**{"ForAllValues:StringEquals": {"s3:RequestObjectTagKeys": ["a", "b"]}})(x_amz_tagging="a=1")
    assert conditional(what=info(a="1"), StringEquals={"s3:ExistingObjectTag/a": "1"})()
    assert not conditional(what=info(A="1"), StringEquals={"s3:ExistingObjectTag/a": "1"})()
    assert conditional(Bool={"aws:SecureTransport": "false"})()
    assert conditional(StringEquals={"aws:PrincipalType": "Anonymous"})()
    assert conditional(DateGreaterThan={"aws:CurrentTime": "2020-01-01T00:00:00Z"})()
    assert conditional(StringEquals={"s3:ResourceAccount": "111111111111"})()
    assert conditional(ALT, ArnLike={"aws:PrincipalArn": "arn:aws:iam::222222222222:*"})()
    assert not conditional(StringEquals={"aws:username": "x"})(aws_username="x")


# --- what is kept with a new object -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "rule", "acl", "kept"),
    [
        (MAIN, "", "", Ownership()),
        (MAIN, "", "public-read", Ownership("", "F R*")),
        (USER, "", "", Ownership()),
        (NOBODY, "", "", Ownership()),
        (ALT, "", "", Ownership("alt-id", "")),
        (ALT, "", "bucket-owner-full-control", Ownership("alt-id", "F Fmain-id")),
        (ALT, PREFERRED, "", Ownership("alt-id", "")),
        (ALT, PREFERRED, "bucket-owner-full-control", Ownership()),
        (ALT, ENFORCED, "", Ownership()),
        (ALT, ENFORCED, "bucket-owner-full-control", Ownership()),
    ],
)
def test_owner_of_what_is_written(who: Identity, rule: str, acl: str, kept: Ownership) -> None:
    where = bucket(**({"ownershipControls": rule} if rule else {}))
    assert ownership_for(call_of(who, "PUT", **({"x_amz_acl": acl} if acl else {})), where) == kept


@pytest.mark.parametrize(
    ("documents", "acl", "code"),
    [
        ({"ownershipControls": ENFORCED}, "public-read", "AccessControlListNotSupported"),
        ({"ownershipControls": ENFORCED}, "private", "AccessControlListNotSupported"),
        ({"publicAccessBlock": "BlockPublicAcls"}, "public-read", "AccessDenied"),
        ({}, "mine", "InvalidArgument"),
    ],
)
def test_lists_that_are_not_kept(documents: dict[str, str], acl: str, code: str) -> None:
    with pytest.raises(S3Error) as caught:
        ownership_for(call_of(MAIN, "PUT", x_amz_acl=acl), bucket(**documents))
    assert caught.value.spec.code == code


def test_stated_owner_is_compared() -> None:
    for stated in ("111111111111", "main-id"):
        RIGHTS.check_owner("x", stated, bucket())
    with pytest.raises(S3Error):
        RIGHTS.check_owner("x", "222222222222", bucket())


def test_policies_can_name_the_right_of_every_operation() -> None:
    unnamed = {
        (row.name, action)
        for row in TABLE
        if row.served and row.scope != "service"
        for action in (row.action, row.version_action)
        if action and action.removeprefix("s3:") not in OBJECT_ACTIONS | BUCKET_ACTIONS
    }
    assert not unnamed
