"""Access lists and bucket policies through the handlers."""

from __future__ import annotations

import json

import pytest

from s3api import xml
from s3api.acl import EXEC_READER
from tests.unit.handler_harness import Harness

XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
ALL_USERS = "http://acs.amazonaws.com/groups/global/AllUsers"


@pytest.fixture
def s3() -> Harness:
    harness = Harness()
    harness("PUT", "/bucket")
    harness("PUT", "/bucket/k", {}, b"x")
    return harness


def listed(s3: Harness, path: str) -> list[tuple[str, str]]:
    root = s3("GET", f"{path}?acl").xml("AccessControlPolicy")
    owner, holder = root.find("Owner"), root.find("AccessControlList")
    assert owner is not None
    assert holder is not None
    assert (owner.text("ID"), owner.text("DisplayName")) == ("owner-id", "owner-name")
    found = []
    for grant in holder.children:
        grantee = grant.find("Grantee")
        assert grantee is not None
        found.append((grant.text("Permission"), grantee.text("ID") or grantee.text("URI")))
    return found


def document(*grants: str, owner: str = "owner-id") -> bytes:
    rows = "".join(
        f'<Grant><Grantee {XSI} xsi:type="Group"><URI>{ALL_USERS}</URI></Grantee><Permission>{each}</Permission></Grant>'
        for each in grants
    )
    return (
        f"<AccessControlPolicy><Owner><ID>{owner}</ID></Owner><AccessControlList>{rows}</AccessControlList>"
        "</AccessControlPolicy>"
    ).encode()


OWN = ("FULL_CONTROL", "owner-id")


@pytest.mark.parametrize("path", ["/bucket", "/bucket/k"])
def test_lists_by_canned_name_header_and_document(s3: Harness, path: str) -> None:
    assert listed(s3, path) == [OWN]
    assert s3("PUT", f"{path}?acl", {"x-amz-acl": "public-read"}).status == 200
    assert listed(s3, path) == [("READ", ALL_USERS), OWN]
    assert s3("PUT", f"{path}?acl", {"x-amz-grant-read-acp": f'uri="{ALL_USERS}"'}).status == 200
    assert listed(s3, path) == [("READ_ACP", ALL_USERS)]
    assert s3("PUT", f"{path}?acl", {}, document("WRITE", "READ")).status == 200
    assert listed(s3, path) == [("WRITE", ALL_USERS), ("READ", ALL_USERS)]
    kept = s3("GET", f"{path}?acl").body
    assert s3("PUT", f"{path}?acl", {}, kept).status == 200
    assert s3("GET", f"{path}?acl").body == kept
    assert s3("PUT", f"{path}?acl", {"x-amz-acl": "private"}).status == 200
    assert listed(s3, path) == [OWN]
    assert s3("GET", "/bucket/k").body == b"x"


@pytest.mark.parametrize("path", ["/bucket", "/bucket/k"])
@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ({}, b"", "MissingSecurityHeader"),
        ({"x-amz-acl": "no-such"}, b"", "InvalidArgument"),
        ({"x-amz-acl": "private"}, document("READ"), "UnexpectedContent"),
        ({"x-amz-acl": "private", "x-amz-grant-read": "id=owner-id"}, b"", "InvalidRequest"),
        ({"x-amz-grant-read": "id=nobody"}, b"", "InvalidArgument"),
        ({"x-amz-grant-read": "emailAddress=a@b"}, b"", "UnresolvableGrantByEmailAddress"),
        ({}, document("EVERYTHING"), "MalformedACLError"),
        ({}, document("READ", owner="somebody"), "InvalidArgument"),
        ({}, document("READ", owner=EXEC_READER), "AccessDenied"),
        ({}, b"<AccessControlPolicy/>", "MalformedACLError"),
        ({}, b"junk", "MalformedACLError"),
    ],
)
def test_lists_that_are_refused(s3: Harness, path: str, headers: dict[str, str], body: bytes, code: str) -> None:
    assert s3("PUT", f"{path}?acl", headers, body).code == code
    assert listed(s3, path) == [OWN]


def test_lists_of_nothing(s3: Harness) -> None:
    private = {"x-amz-acl": "private"}
    assert s3("GET", "/none?acl").code == s3("PUT", "/none?acl", private).code == "NoSuchBucket"
    assert s3("GET", "/bucket/none?acl").code == s3("PUT", "/bucket/none?acl", private).code == "NoSuchKey"


def test_where_the_owner_is_enforced_lists_do_not_count(s3: Harness) -> None:
    for path in ("/bucket", "/bucket/k"):
        s3("PUT", f"{path}?acl", {"x-amz-acl": "public-read"})
    enforced = (
        b"<OwnershipControls><Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule></OwnershipControls>"
    )
    assert s3("PUT", "/bucket?ownershipControls", {}, enforced).code == "InvalidBucketAclWithObjectOwnership"
    s3("PUT", "/bucket?acl", {"x-amz-acl": "private"})
    assert s3("PUT", "/bucket?ownershipControls", {}, enforced).status == 200
    for path in ("/bucket", "/bucket/k"):
        assert s3("PUT", f"{path}?acl", {"x-amz-acl": "private"}).code == "AccessControlListNotSupported"
        assert listed(s3, path) == [OWN]
    s3("DELETE", "/bucket?ownershipControls")
    assert listed(s3, "/bucket/k") == [("READ", ALL_USERS), OWN]


BLOCK = "<PublicAccessBlockConfiguration><{0}>true</{0}></PublicAccessBlockConfiguration>"


def test_public_lists_can_be_blocked(s3: Harness) -> None:
    s3("PUT", "/bucket?publicAccessBlock", {}, BLOCK.format("BlockPublicAcls").encode())
    for path in ("/bucket", "/bucket/k"):
        assert s3("PUT", f"{path}?acl", {"x-amz-acl": "public-read"}).code == "AccessDenied"
        assert s3("PUT", f"{path}?acl", {}, document("READ")).code == "AccessDenied"
        assert s3("PUT", f"{path}?acl", {"x-amz-acl": "private"}).status == 200
    assert s3("PUT", "/bucket", {"x-amz-acl": "public-read"}).code == "AccessDenied"


def policy(principal: str | dict[str, str] = "*", bucket: str = "bucket") -> bytes:
    statement = {
        "Effect": "Allow",
        "Principal": principal,
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/*",
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]}).encode()


def test_a_bucket_is_public_by_its_policy_or_its_list(s3: Harness) -> None:
    def is_public() -> str:
        return s3("GET", "/bucket?policyStatus").xml("PolicyStatus").text("IsPublic")

    assert is_public() == "false"
    for name, public in (("public-read", "true"), ("authenticated-read", "true"), ("aws-exec-read", "false")):
        assert s3("PUT", "/bucket?acl", {"x-amz-acl": name}).status == 200
        assert is_public() == public
    for sent, public in ((policy({"AWS": "222222222222"}), "false"), (policy(), "true")):
        assert s3("PUT", "/bucket?policy", {}, sent).status == 204
        assert is_public() == public
    assert s3("PUT", "/bucket?acl", {"x-amz-acl": "private"}).status == 200
    assert is_public() == "true"
    assert s3("GET", "/none?policyStatus").code == "NoSuchBucket"


def test_a_policy_comes_back_as_sent(s3: Harness) -> None:
    reply = s3("GET", "/bucket?policy")
    assert (reply.code, reply.fields) == ("NoSuchBucketPolicy", {"BucketName": "bucket"})
    sent = policy()
    assert s3("PUT", "/bucket?policy", {}, sent).status == 204
    reply = s3("GET", "/bucket?policy")
    assert (reply.body, reply.headers) == (sent, {"content-type": "application/json"})
    for _ in range(2):
        assert s3("DELETE", "/bucket?policy").status == 204
    assert s3("GET", "/bucket?policy").code == "NoSuchBucketPolicy"
    assert s3("PUT", "/none?policy", {}, sent).code == s3("DELETE", "/none?policy").code == "NoSuchBucket"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "MalformedPolicy"),
        (b"invalid json", "MalformedPolicy"),
        (b"{}", "MalformedPolicy"),
        (b'{"a": "\xff"}', "MalformedPolicy"),
        (policy(bucket="other"), "MalformedPolicy"),
        (policy().replace(b"}]}", b'}], "Id": "' + b"x" * 20_480 + b'"}'), "PolicyTooLarge"),
    ],
)
def test_policies_that_are_refused(s3: Harness, body: bytes, code: str) -> None:
    assert s3("PUT", "/bucket?policy", {}, body).code == code
    assert s3("GET", "/bucket?policy").code == "NoSuchBucketPolicy"


def test_public_policies_can_be_blocked(s3: Harness) -> None:
    s3("PUT", "/bucket?publicAccessBlock", {}, BLOCK.format("BlockPublicPolicy").encode())
    assert s3("PUT", "/bucket?policy", {}, policy()).code == "AccessDenied"
    assert xml.parse(s3("GET", "/bucket?publicAccessBlock").body, "PublicAccessBlockConfiguration").children
