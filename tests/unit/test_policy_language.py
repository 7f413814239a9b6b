"""The policy language: AWS's worked examples, what AWS refuses, and what no wildcard may cost."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3api.condition import Pattern
from s3api.errors import S3Error
from s3api.identity import Identity
from s3api.policy import Policy, Verdict, check_bucket_policy, check_identity_policy, compiled

BUCKET = "arn:aws:s3:::b"
ROOT = Identity("k", owner_id="canon1", account_id="111122223333", arn="arn:aws:iam::111122223333:root", root=True)
ALICE = Identity("a", owner_id="canon1", account_id="111122223333", arn="arn:aws:iam::111122223333:user/alice")
OTHER = Identity("o", owner_id="canon2", account_id="999988887777", arn="arn:aws:iam::999988887777:root", root=True)
NOBODY = Identity("")


def text(*statements: dict[str, Any], version: str = "2012-10-17") -> str:
    return json.dumps({"Version": version, "Statement": list(statements)})


def allow(**fields: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": [BUCKET, BUCKET + "/*"]} | fields


def own(**fields: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "s3:*", "Resource": "*"} | fields


def judged(
    policy: str,
    who: Identity | None = NOBODY,
    action: str = "s3:GetObject",
    resource: str = BUCKET + "/k",
    **context: Any,
) -> Verdict:
    values = {
        name.replace("__", ":").replace("_", "-"): (value,) if isinstance(value, str) else value
        for name, value in context.items()
    }
    return compiled(policy).judge(who, action, resource, values.get)


def holds(operator: str, key: str, wanted: Any, given: Any) -> bool:
    policy = compiled(text(own(Condition={operator: {key: wanted}})))
    values = {} if given is None else {key.lower(): (given,) if isinstance(given, str) else given}
    return policy.judge(None, "s3:GetObject", BUCKET, values.get) is Verdict.ALLOW


# --- elements ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "value", "fits"),
    [
        ("*", "", True),
        ("a*", "a", True),
        ("a*c", "abc", True),
        ("a*c", "ab", False),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("*ab*ab", "ab", False),
        ("*ab*ab", "abab", True),
        ("a*a", "a", False),
        ("a.c", "abc", False),
        ("*b*d*", "abcde", True),
        ("*d*b*", "abcde", False),
        ("x*", "y\nx", False),
        ("a*z", "a\n\nz", True),
    ],
)
def test_pattern_matches_whole_value(pattern: str, value: str, fits: bool) -> None:
    assert Pattern(pattern).match(value, {}.get) is fits


@given(st.text("ab*?", max_size=12), st.text("ab", max_size=12))
def test_pattern_agrees_with_slow_definition(pattern: str, value: str) -> None:
    def slow(p: str, v: str) -> bool:
        if not p:
            return not v
        if p[0] == "*":
            return slow(p[1:], v) or (bool(v) and slow(p, v[1:]))
        return bool(v) and p[0] in ("?", v[0]) and slow(p[1:], v[1:])

    assert Pattern(pattern).match(value, {}.get) is slow(pattern, value)


def test_pattern_of_many_stars_costs_no_more_than_its_length() -> None:
    began = time.process_time()
    assert not Pattern("*a" * 2000 + "b").match("a" * 5000, {}.get)
    assert time.process_time() - began < 5.0


def test_pattern_of_many_single_wildcards_costs_no_more_than_its_length() -> None:
    began = time.process_time()
    assert not Pattern("*" + "a?" * 20_000 + "b*").match("a" * 120_000, {}.get)
    assert Pattern("*" + "a?" * 20_000 + "b*").match("a" * 120_000 + "b", {}.get)
    assert time.process_time() - began < 5.0


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("?${k}?", True),
        ("*${k}${k}*", False),
        ("*b${k}d", False),
        ("a${k}d*", True),
        ("*?${k}*", True),
        ("*a${k}?*", True),
    ],
)
def test_pattern_joins_a_variable_to_what_stands_beside_it(pattern: str, fits: bool) -> None:
    assert Pattern(pattern, variables=True).match("abcd", {"k": ["bc"]}.get) is fits


@pytest.mark.parametrize(
    ("principal", "who", "verdict"),
    [
        ("*", NOBODY, Verdict.ALLOW),
        ({"AWS": "*"}, NOBODY, Verdict.ALLOW),
        ({"AWS": "*"}, OTHER, Verdict.ALLOW),
        ({"AWS": "111122223333"}, ROOT, Verdict.ALLOW),
        ({"AWS": "111122223333"}, ALICE, Verdict.DELEGATED),
        ({"AWS": "arn:aws:iam::111122223333:root"}, ALICE, Verdict.DELEGATED),
        ({"AWS": ["111122223333", "arn:aws:iam::111122223333:user/alice"]}, ALICE, Verdict.ALLOW),
        ({"AWS": "arn:aws:iam::111122223333:user/bob"}, ALICE, Verdict.SILENT),
        ({"CanonicalUser": "canon2"}, OTHER, Verdict.ALLOW),
        ({"CanonicalUser": "canon2"}, ROOT, Verdict.SILENT),
        ({"AWS": "111122223333"}, NOBODY, Verdict.SILENT),
        ({"Service": "logging.s3.amazonaws.com"}, ROOT, Verdict.SILENT),
    ],
)
def test_principal(principal: Any, who: Identity, verdict: Verdict) -> None:
    assert judged(text(allow(Principal=principal)), who) is verdict


def test_a_name_without_an_account_is_one_users_or_an_accounts() -> None:
    named = Identity("k", owner_id="canon1", display_name="team", user_name="alice", account_id="111122223333")
    root = Identity("k", owner_id="canon1", display_name="team", root=True, account_id="111122223333")
    other = Identity("k", owner_id="canon2", display_name="", user_name="bob", account_id="444455556666")

    def verdicts(name: str) -> list[Verdict]:
        document = text(allow(Principal={"AWS": f"arn:aws:iam:::user/{name}"}))
        return [judged(document, who) for who in (named, root, other)]

    assert verdicts("alice") == [Verdict.ALLOW, Verdict.SILENT, Verdict.SILENT]
    for name in ("team", "canon1"):
        assert verdicts(name) == [Verdict.DELEGATED, Verdict.ALLOW, Verdict.SILENT]
    assert verdicts("") == [Verdict.SILENT] * 3


def test_not_principal_denies_all_others() -> None:
    policy = text(
        allow(), {"Effect": "Deny", "NotPrincipal": {"AWS": ALICE.arn}, "Action": "s3:*", "Resource": BUCKET + "/*"}
    )
    assert judged(policy, ALICE) is Verdict.ALLOW
    assert judged(policy, ROOT) is Verdict.DENY
    assert judged(policy, NOBODY) is Verdict.DENY


def test_deny_outranks_allow_in_any_order() -> None:
    deny = allow(Effect="Deny", Resource=BUCKET + "/secret/*")
    for statements in ((allow(), deny), (deny, allow())):
        assert judged(text(*statements), resource=BUCKET + "/secret/x") is Verdict.DENY
        assert judged(text(*statements), resource=BUCKET + "/open") is Verdict.ALLOW


@pytest.mark.parametrize(
    ("element", "action", "verdict"),
    [
        ({"Action": "S3:getobject"}, "s3:GetObject", Verdict.ALLOW),
        ({"Action": "s3:Get*"}, "s3:GetObjectAcl", Verdict.ALLOW),
        ({"Action": "s3:Get*"}, "s3:PutObject", Verdict.SILENT),
        ({"Action": "*"}, "s3:PutObject", Verdict.ALLOW),
        ({"NotAction": "s3:DeleteObject"}, "s3:PutObject", Verdict.ALLOW),
        ({"NotAction": "s3:DeleteObject"}, "s3:DeleteObject", Verdict.SILENT),
    ],
)
def test_action(element: dict[str, str], action: str, verdict: Verdict) -> None:
    statement = {name: value for name, value in own().items() if name != "Action"} | element
    assert judged(text(statement), None, action) is verdict


@pytest.mark.parametrize(
    ("element", "resource", "verdict"),
    [
        ({"Resource": BUCKET + "/*"}, BUCKET, Verdict.SILENT),
        ({"Resource": BUCKET + "*"}, BUCKET, Verdict.ALLOW),
        ({"Resource": BUCKET + "/a/?"}, BUCKET + "/a/b", Verdict.ALLOW),
        ({"Resource": BUCKET + "/a/?"}, BUCKET + "/A/b", Verdict.SILENT),
        ({"NotResource": BUCKET + "/a/*"}, BUCKET + "/a/b", Verdict.SILENT),
        ({"NotResource": BUCKET + "/a/*"}, BUCKET + "/b", Verdict.ALLOW),
        ({"Resource": "arn:aws-cn:s3:::b/*"}, BUCKET + "/b", Verdict.ALLOW),
    ],
)
def test_resource(element: dict[str, str], resource: str, verdict: Verdict) -> None:
    statement = {name: value for name, value in own().items() if name != "Resource"} | element
    assert judged(text(statement), None, resource=resource) is verdict


# --- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "key", "wanted", "given", "expected"),
    [
        ("StringEquals", "s3:prefix", "a", "a", True),
        ("StringEquals", "s3:prefix", "a", "A", False),
        ("StringEquals", "s3:prefix", ["a", "b"], "b", True),
        ("StringEquals", "s3:prefix", "a", None, False),
        ("StringEquals", "s3:prefix", "a*", "ab", False),
        ("StringNotEquals", "s3:prefix", ["a", "b"], "b", False),
        ("StringNotEquals", "s3:prefix", "a", "c", True),
        ("StringNotEquals", "s3:prefix", "a", None, True),
        ("StringEqualsIgnoreCase", "s3:prefix", "a", "A", True),
        ("StringNotEqualsIgnoreCase", "s3:prefix", "a", "A", False),
        ("StringLike", "s3:prefix", "home/*", "home/x", True),
        ("StringNotLike", "s3:prefix", "home/*", "home/x", False),
        ("StringLikeIfExists", "s3:prefix", "home/*", None, True),
        ("StringLikeIfExists", "s3:prefix", "home/*", "x", False),
        ("NumericLessThanEquals", "s3:max-keys", "10", "10", True),
        ("NumericLessThan", "s3:max-keys", 10, "10", False),
        ("NumericGreaterThan", "s3:max-keys", "10", "11", True),
        ("NumericNotEquals", "s3:max-keys", "10", "11", True),
        ("NumericEquals", "s3:max-keys", "10", "ten", False),
        ("DateGreaterThan", "aws:CurrentTime", "2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z", True),
        ("DateLessThan", "aws:CurrentTime", "2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z", False),
        ("DateLessThan", "aws:EpochTime", "1577836800", "1577836799", True),
        ("Bool", "aws:SecureTransport", "false", "false", True),
        ("Bool", "aws:SecureTransport", True, "false", False),
        ("BinaryEquals", "s3:prefix", "YQ==", "YQ==", True),
        ("IpAddress", "aws:SourceIp", "192.0.2.0/24", "192.0.2.7", True),
        ("IpAddress", "aws:SourceIp", ["10.0.0.0/8", "2001:db8::/32"], "2001:db8::1", True),
        ("IpAddress", "aws:SourceIp", "192.0.2.0/24", "::ffff:192.0.2.7", True),
        ("NotIpAddress", "aws:SourceIp", "192.0.2.188/32", "192.0.2.188", False),
        ("ArnLike", "aws:PrincipalArn", "arn:aws:iam::*:user/a*", "arn:aws:iam::1:user/al", True),
        ("ArnEquals", "aws:PrincipalArn", "arn:aws:iam:*:user/a", "arn:aws:iam::1:user/a", False),
        ("ArnNotLike", "aws:PrincipalArn", "arn:aws:iam::*:user/a*", "arn:aws:iam::1:user/al", False),
        ("Null", "s3:x-amz-acl", "true", None, True),
        ("Null", "s3:x-amz-acl", "true", "private", False),
        ("Null", "s3:x-amz-acl", "false", "private", True),
        ("ForAllValues:StringEquals", "s3:RequestObjectTagKeys", ["a", "b"], ["a"], True),
        ("ForAllValues:StringEquals", "s3:RequestObjectTagKeys", ["a", "b"], ["a", "c"], False),
        ("ForAllValues:StringEquals", "s3:RequestObjectTagKeys", ["a", "b"], None, True),
        ("ForAnyValue:StringEquals", "s3:RequestObjectTagKeys", ["a", "b"], ["c", "a"], True),
        ("ForAnyValue:StringEquals", "s3:RequestObjectTagKeys", ["a", "b"], None, False),
        ("ForAnyValue:StringNotEquals", "s3:RequestObjectTagKeys", ["a"], ["a", "c"], True),
        ("ForAllValues:StringNotEquals", "s3:RequestObjectTagKeys", ["a"], ["a", "c"], False),
    ],
)
def test_condition(operator: str, key: str, wanted: Any, given: Any, expected: bool) -> None:
    assert holds(operator, key, wanted, given) is expected


def test_conditions_of_one_statement_must_all_hold() -> None:
    condition = {"StringEquals": {"s3:prefix": "a", "s3:delimiter": "/"}}
    policy = text(own(Condition=condition))
    assert judged(policy, None, s3__prefix="a", s3__delimiter="/") is Verdict.ALLOW
    assert judged(policy, None, s3__prefix="a") is Verdict.SILENT


@pytest.mark.parametrize(
    ("resource", "name", "value", "verdict"),
    [
        ("arn:aws:s3:::b/${aws:username}/*", "alice", "alice/x", Verdict.ALLOW),
        ("arn:aws:s3:::b/${aws:username}/*", "alice", "bob/x", Verdict.SILENT),
        ("arn:aws:s3:::b/${aws:username}/*", None, "alice/x", Verdict.SILENT),
        ("arn:aws:s3:::b/${aws:username, 'guest'}/*", None, "guest/x", Verdict.ALLOW),
        ("arn:aws:s3:::b/${aws:username}", "*", "bob", Verdict.SILENT),
        ("arn:aws:s3:::b/a${*}", "alice", "a*", Verdict.ALLOW),
        ("arn:aws:s3:::b/a${*}", "alice", "abc", Verdict.SILENT),
        ("arn:aws:s3:::b/${$}{x}", "alice", "${x}", Verdict.ALLOW),
    ],
)
def test_policy_variables(resource: str, name: str | None, value: str, verdict: Verdict) -> None:
    context = {} if name is None else {"aws__username": name}
    assert judged(text(own(Resource=resource)), None, resource=f"{BUCKET}/{value}", **context) is verdict


def test_old_version_has_no_variables() -> None:
    policy = text(own(Resource="arn:aws:s3:::b/${aws:username}"), version="2008-10-17")
    assert judged(policy, None, resource=BUCKET + "/${aws:username}", aws__username="alice") is Verdict.ALLOW


# --- AWS's worked examples --------------------------------------------------------------------------------------------


def test_example_restrict_to_addresses() -> None:
    policy = text(
        {
            "Sid": "IPAllow",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [BUCKET, BUCKET + "/*"],
            "Condition": {"NotIpAddress": {"aws:SourceIp": "192.0.2.0/24"}},
        }
    )
    check_bucket_policy(policy, "b")
    assert judged(policy, ROOT, **{"aws:sourceip": "203.0.113.1"}) is Verdict.DENY
    assert judged(policy, ROOT, **{"aws:sourceip": "192.0.2.1"}) is Verdict.SILENT


def test_example_https_only() -> None:
    condition = {"Bool": {"aws:SecureTransport": "false"}}
    policy = text(allow(Effect="Deny", Action="s3:*", Condition=condition))
    assert judged(policy, ROOT, **{"aws:securetransport": "false"}) is Verdict.DENY
    assert judged(policy, ROOT, **{"aws:securetransport": "true"}) is Verdict.SILENT


def test_example_uploads_must_give_the_bucket_owner_control() -> None:
    grant = {"StringEquals": {"s3:x-amz-acl": "bucket-owner-full-control"}}
    policy = text(
        allow(Principal={"AWS": "999988887777"}, Action="s3:PutObject", Resource=BUCKET + "/*", Condition=grant)
    )
    assert judged(policy, OTHER, "s3:PutObject") is Verdict.SILENT
    assert judged(policy, OTHER, "s3:PutObject", **{"s3:x-amz-acl": "bucket-owner-full-control"}) is Verdict.ALLOW


def test_example_users_home_folder() -> None:
    policy = text(
        own(
            Action="s3:ListBucket",
            Resource=BUCKET,
            Condition={"StringLike": {"s3:prefix": ["", "home/", "home/${aws:username}/*"]}},
        ),
        own(Action="s3:*", Resource=BUCKET + "/home/${aws:username}/*"),
    )
    check_identity_policy(policy)
    who = {"aws__username": "alice"}
    assert judged(policy, None, "s3:ListBucket", BUCKET, s3__prefix="home/alice/x", **who) is Verdict.ALLOW
    assert judged(policy, None, "s3:ListBucket", BUCKET, s3__prefix="home/bob/", **who) is Verdict.SILENT
    assert judged(policy, None, "s3:PutObject", BUCKET + "/home/alice/x", **who) is Verdict.ALLOW
    assert judged(policy, None, "s3:PutObject", BUCKET + "/home/bob/x", **who) is Verdict.SILENT


def test_resource_may_name_the_bucket_by_wildcards() -> None:
    for resource in ("arn:aws:s3:::*", "arn:aws:s3:::b*", "arn:aws:s3::*:b"):
        check_bucket_policy(text(allow(Action="s3:ListBucket", Resource=resource)), "b")
    for resource in ("arn:aws:s3:::*/*", "arn:aws:s3:::?/x"):
        check_bucket_policy(text(allow(Action="s3:GetObject", Resource=resource)), "b")


def test_example_read_by_tag() -> None:
    policy = text(
        allow(
            Action="s3:GetObject",
            Resource=BUCKET + "/*",
            Condition={"StringEquals": {"s3:ExistingObjectTag/environment": "production"}},
        )
    )
    check_bucket_policy(policy, "b")
    assert judged(policy, **{"s3:existingobjecttag/environment": "production"}) is Verdict.ALLOW
    assert judged(policy, **{"s3:existingobjecttag/environment": "test"}) is Verdict.SILENT


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(policy: str) -> S3Error:
    with pytest.raises(S3Error) as caught:
        check_bucket_policy(policy, "b")
    return caught.value


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("", "Policies must be valid JSON and the first byte must be '{'"),
        ("[]", "Policies must be valid JSON and the first byte must be '{'"),
        ("{", "This policy contains invalid Json"),
        ("{" * 100_00, "This policy contains invalid Json"),
        ('{"Version": "2012-10-17", "Version": "2012-10-17"}', "This policy contains invalid Json"),
        ("{}", "Missing required field Statement"),
        (text(), "Could not parse the policy: Statement is empty!"),
        (text(allow(), version="2020-01-01"), "The policy must contain a valid version string"),
        (json.dumps({"Statement": [allow()], "More": 1}), "Unknown field More"),
        (text(allow(More=1)), "Unknown field More"),
        (text(allow(Effect="allow")), "Invalid effect: allow"),
        (text(own()), "Missing required field Principal"),
        (text(allow(Principal="nobody")), "Invalid principal in policy"),
        (text(allow(Principal={"AWS": "nobody"})), "Invalid principal in policy"),
        (text(allow(Principal={})), "Invalid principal in policy"),
        (text(allow(Principal={"AWS": "arn:aws:iam::1:user/*"})), "Invalid principal in policy"),
        (text(allow(NotPrincipal="*")), "Principal and NotPrincipal cannot both be given in one statement"),
        (text(allow(Action="s3:Fly")), "Policy has invalid action"),
        (text(allow(Action="ec2:RunInstances")), "Policy has invalid action"),
        (text(allow(Action=[])), "Policy has invalid action"),
        (text(allow(Action="GetObject")), "Policy has invalid action"),
        (text(allow(Resource="arn:aws:s3:::other/*")), "Policy has invalid resource"),
        (text(allow(Resource="arn:aws:s3:::bb/*")), "Policy has invalid resource"),
        (text(allow(Resource="*")), "Policy has invalid resource"),
        (text(allow(Resource="b/*")), "Policy has invalid resource"),
        (text(allow(Action="s3:GetObject", Resource=BUCKET)), "Action does not apply to any resource(s) in statement"),
        (
            text(allow(Action=["s3:GetObject", "s3:ListBucket"], Resource=BUCKET + "/*")),
            "Action does not apply to any resource(s) in statement",
        ),
        (text(allow(Condition={"StringLikes": {"s3:prefix": "a"}})), "Invalid Condition type : StringLikes"),
        (
            text(allow(Condition={"ForSome:StringLike": {"s3:prefix": "a"}})),
            "Invalid Condition type : ForSome:StringLike",
        ),
        (text(allow(Condition={"StringLike": {"s3:what": "a"}})), "Policy has an invalid condition key"),
        (text(allow(Condition={"StringLike": {"prefix": "a"}})), "Policy has an invalid condition key"),
        (text(allow(Sid="a"), allow(Sid="a")), "Statement IDs (SID) in a single policy must be unique."),
    ],
)
def test_refused_with_awss_message(policy: str, message: str) -> None:
    error = refused(policy)
    assert (error.spec.code, error.message) == ("MalformedPolicy", message)


def test_allow_of_not_principal_is_refused() -> None:
    statement = {name: value for name, value in allow().items() if name != "Principal"} | {"NotPrincipal": "*"}
    assert "NotPrincipal" in refused(text(statement)).message


@pytest.mark.parametrize("missing", ["Effect", "Action", "Resource"])
def test_missing_field_is_named(missing: str) -> None:
    statement = {name: value for name, value in allow().items() if name != missing}
    assert refused(text(statement)).message == f"Missing required field {missing}"


def test_too_large_is_refused() -> None:
    assert refused(text(allow(Sid="x" * 20_480))).spec.code == "PolicyTooLarge"


def test_identity_policy_names_no_principal() -> None:
    with pytest.raises(S3Error):
        check_identity_policy(text(allow()))
    check_identity_policy(text(own(Action=["admin:*", "s3:*"])))


@given(st.recursive(st.none() | st.booleans() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["Version", "Statement", "Effect", "Allow", "Principal", "AWS", "*", "Action", "Resource", "Condition", "StringLike", "s3:prefix"]), inner, max_size=4), max_leaves=12))  # fmt: skip
def test_any_json_is_read_or_refused(value: Any) -> None:
    try:
        assert isinstance(check_bucket_policy(json.dumps(value), "b"), Policy)
    except S3Error:
        pass


# --- public -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "public"),
    [
        (allow(), True),
        (allow(Principal={"AWS": "*"}), True),
        (allow(Effect="Deny"), False),
        (allow(Principal={"AWS": "111122223333"}), False),
        (allow(Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/32"}}), False),
        (allow(Condition={"IpAddress": {"aws:SourceIp": "0.0.0.0/0"}}), True),
        (allow(Condition={"NotIpAddress": {"aws:SourceIp": "10.0.0.0/32"}}), True),
        (allow(Condition={"StringEquals": {"aws:SourceVpc": "vpc-91237329"}}), False),
        (allow(Condition={"StringLike": {"aws:SourceVpc": "vpc-*"}}), True),
        (allow(Condition={"StringEqualsIfExists": {"aws:SourceVpc": "vpc-91237329"}}), True),
        (allow(Condition={"StringEquals": {"aws:Referer": "x"}}), True),
        (allow(Condition={"StringEquals": {"aws:PrincipalOrgID": "o-1"}}), False),
    ],
)
def test_public(statement: dict[str, Any], public: bool) -> None:
    assert compiled(text(statement)).public is public
