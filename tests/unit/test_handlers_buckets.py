"""Bucket operations and access lists through the handlers."""

from __future__ import annotations

import json

import pytest

from s3api.config import ApiConfig, KeyRule
from s3api.identity import Identity
from tests.unit.handler_harness import Harness


@pytest.fixture
def s3() -> Harness:
    return Harness()


def names(s3: Harness, query: str = "") -> tuple[list[str], str]:
    root = s3("GET", "/" + query).xml("ListAllMyBucketsResult")
    holder = root.find("Buckets")
    assert holder is not None
    return [node.text("Name") for node in holder.all("Bucket")], root.text("ContinuationToken")


def test_create_head_delete(s3: Harness) -> None:
    reply = s3("PUT", "/bucket")
    assert (reply.status, reply.headers["location"]) == (200, "/bucket")
    reply = s3("HEAD", "/bucket")
    assert (reply.status, reply.headers["x-amz-bucket-region"]) == (200, "us-east-1")
    assert reply.headers["x-recall-pool"] == "standard"
    assert reply.headers["content-type"] == "application/xml"
    s3("PUT", "/bucket/k", {}, b"x")
    assert s3("DELETE", "/bucket").code == "BucketNotEmpty"
    s3("DELETE", "/bucket/k")
    assert s3("DELETE", "/bucket").status == 204
    assert s3("HEAD", "/bucket").code == s3("DELETE", "/bucket").code == "NoSuchBucket"


@pytest.mark.parametrize(
    "name",
    ["Upper", "ab", "a" * 64, "a..b", "foo.-bar", "foo-.bar", "foo_bar", "-foo", "foo-", ".foo", "foo.", "192.168.0.1",
     "xn--xyz", "sthree-xyz", "amzn-s3-demo-x", "foo-s3alias", "foo--ol-s3", "foo.mrap", "foo--x-s3", "foo--table-s3",
     "minio", "recall"],
)  # fmt: skip
def test_bad_names(s3: Harness, name: str) -> None:
    reply = s3("PUT", f"/{name}")
    assert (reply.code, reply.fields) == ("InvalidBucketName", {"BucketName": name})
    assert s3("GET", f"/{name}").code == "NoSuchBucket"  # only making one is refused


@pytest.mark.parametrize("name", ["abc", "a" * 63, "a.b.c", "1.2.3", "my-bucket.2", "a--b", "192.168.0.1.2", "s3alias"])
def test_good_names(s3: Harness, name: str) -> None:
    assert s3("PUT", f"/{name}").status == 200


def test_there_are_only_so_many_buckets() -> None:
    s3 = Harness(ApiConfig(buckets_max=1))
    assert s3("PUT", "/one").status == 200
    assert s3("PUT", "/two").code == "TooManyBuckets"
    assert s3("PUT", "/one").status == 200
    s3("DELETE", "/one")
    assert s3("PUT", "/two").status == 200


def test_making_ones_own_bucket_again() -> None:
    home, abroad = Harness(), Harness(ApiConfig(region="eu-west-1"))
    for s3 in (home, abroad):
        assert s3("PUT", "/bucket").status == 200
    assert home("PUT", "/bucket").status == 200
    assert home("PUT", "/bucket", {"x-recall-pool": "kv"}).code == "BucketAlreadyOwnedByYou"
    assert home("PUT", "/bucket", {"x-recall-pool": "standard"}).status == 200
    assert abroad("PUT", "/bucket").code == "BucketAlreadyOwnedByYou"
    # What counts is where the bucket is: MinIO's own client tests ask this of every server.
    assert home("PUT", "/far", {}, location("eu-west-1")).status == 200
    for body in (location("eu-west-1"), b""):
        assert home("PUT", "/far", {}, body).code == "BucketAlreadyOwnedByYou"
    assert home("PUT", "/bucket", {}, location("eu-west-1")).code == "BucketAlreadyOwnedByYou"


def location(name: str) -> bytes:
    return f"<CreateBucketConfiguration><LocationConstraint>{name}</LocationConstraint></CreateBucketConfiguration>".encode()


def test_location_constraint() -> None:
    s3 = Harness()
    for bad in ("US West", "-x", "a" * 64, "x\ny"):
        assert s3("PUT", "/other", {}, location(bad)).code == "InvalidLocationConstraint"
    assert s3("PUT", "/elsewhere", {}, location("us-west-2")).status == 200
    assert s3("GET", "/elsewhere?location").xml("LocationConstraint").own == "us-west-2"
    assert s3("HEAD", "/elsewhere").headers["x-amz-bucket-region"] == "us-west-2"
    listed = s3("GET", "/?bucket-region=us-west-2").xml("ListAllMyBucketsResult").all("Buckets")[0].all("Bucket")
    assert [(one.text("Name"), one.text("BucketRegion")) for one in listed] == [("elsewhere", "us-west-2")]
    for body in (b"", location("us-east-1"), location(""), b"<CreateBucketConfiguration/>"):
        assert s3("PUT", "/home", {}, body).status == 200
        assert s3("GET", "/home?location").xml("LocationConstraint").own == ""
    assert s3("GET", "/none?location").code == "NoSuchBucket"


def test_location_constraint_away_from_home() -> None:
    s3 = Harness(ApiConfig(region="eu-west-1"))
    for number, body in enumerate((location("eu-west-1"), location("EU"), location(""), b"")):
        assert s3("PUT", f"/bucket{number}", {}, body).status == 200
        assert s3("GET", f"/bucket{number}?location").xml("LocationConstraint").own == "eu-west-1"
    for other in ("us-west-2", "us-east-1"):
        assert s3("PUT", "/other", {}, location(other)).code == "IllegalLocationConstraintException"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"not xml", "MalformedXML"),
        (b"<Other/>", "MalformedXML"),
        (b"<CreateBucketConfiguration><Other/></CreateBucketConfiguration>", "MalformedXML"),
        (b"<CreateBucketConfiguration><Bucket/></CreateBucketConfiguration>", "NotImplemented"),
        (b"<CreateBucketConfiguration><Tags><Tag/></Tags></CreateBucketConfiguration>", "MalformedXML"),
        (
            b"<CreateBucketConfiguration><Tags><Tag><Key>aws:a</Key><Value/></Tag></Tags></CreateBucketConfiguration>",
            "InvalidTag",
        ),
    ],
)
def test_bad_create_bucket_documents(s3: Harness, body: bytes, code: str) -> None:
    assert s3("PUT", "/bucket", {}, body).code == code
    assert s3("HEAD", "/bucket").code == "NoSuchBucket"


def test_tags_and_ownership_at_creation(s3: Harness) -> None:
    tags = b"<Tags><Tag><Key>a</Key><Value>1</Value></Tag></Tags>"
    body = b"<CreateBucketConfiguration>" + tags + b"</CreateBucketConfiguration>"
    assert s3("PUT", "/bucket", {"x-amz-object-ownership": "BucketOwnerPreferred"}, body).status == 200
    holder = s3("GET", "/bucket?tagging").xml("Tagging").find("TagSet")
    assert holder is not None
    assert [(tag.text("Key"), tag.text("Value")) for tag in holder.children] == [("a", "1")]
    rule = s3("GET", "/bucket?ownershipControls").xml("OwnershipControls").find("Rule")
    assert rule is not None
    assert rule.text("ObjectOwnership") == "BucketOwnerPreferred"
    for value in ("RandomValue", ""):
        assert s3("PUT", "/other", {"x-amz-object-ownership": value}).code == "InvalidArgument"


def test_pools_by_header_and_rule() -> None:
    s3 = Harness(ApiConfig(key_rules=(KeyRule(bucket="kv-*", pool="kv"),)))
    s3("PUT", "/kv-one")
    s3("PUT", "/kv-two", {"x-recall-pool": "standard"})
    s3("PUT", "/three", {"x-recall-pool": "kv"})
    pools = [s3("HEAD", path).headers["x-recall-pool"] for path in ("/kv-one", "/kv-two", "/three")]
    assert pools == ["kv", "standard", "kv"]
    assert s3("PUT", "/four", {"x-recall-pool": "no-such"}).code == "InvalidArgument"
    assert s3("PUT", "/four", {"x-recall-pool": ""}).code == "InvalidArgument"


def test_list_buckets_pages(s3: Harness) -> None:
    for name in ("bbb", "aaa", "abc", "ccc"):
        s3("PUT", f"/{name}")
    assert names(s3) == (["aaa", "abc", "bbb", "ccc"], "")
    first, token = names(s3, "?max-buckets=3")
    assert first == ["aaa", "abc", "bbb"]
    assert names(s3, f"?max-buckets=3&continuation-token={token}") == (["ccc"], "")
    assert names(s3, "?prefix=a&max-buckets=2") == (["aaa", "abc"], "")
    assert names(s3, "?bucket-region=us-east-1")[0] == ["aaa", "abc", "bbb", "ccc"]
    assert names(s3, "?bucket-region=eu-west-1") == ([], "")
    assert s3("GET", "/?continuation-token=bad").code == "InvalidArgument"
    for asked in ("0", "10001", "-1", "x"):
        reply = s3("GET", f"/?max-buckets={asked}")
        assert (reply.code, reply.fields["ArgumentName"]) == ("InvalidArgument", "max-buckets")
        assert reply.body == b"Argument max-buckets must be an integer between 1 and 10000."


def test_list_buckets_document(s3: Harness) -> None:
    s3("PUT", "/bucket")
    root = s3("GET", "/").xml("ListAllMyBucketsResult")
    owner, holder = root.find("Owner"), root.find("Buckets")
    assert owner is not None
    assert holder is not None
    assert (owner.text("ID"), owner.text("DisplayName")) == ("owner-id", "owner-name")
    assert holder.all("Bucket")[0].text("CreationDate") == "2026-01-01T00:00:00.000Z"


def grants(s3: Harness, bucket: str) -> list[str]:
    return [
        grant.text("Permission")
        for grant in s3("GET", f"/{bucket}?acl").xml("AccessControlPolicy").all("AccessControlList")[0].children
    ]


def test_access_list_at_creation(s3: Harness) -> None:
    assert s3("PUT", "/bucket", {"x-amz-acl": "public-read"}).status == 200
    assert grants(s3, "bucket") == ["READ", "FULL_CONTROL"]
    assert s3("PUT", "/bucket").status == 200  # again, as AWS has it: the list is set again
    assert grants(s3, "bucket") == ["FULL_CONTROL"]
    assert s3("PUT", "/two", {"x-amz-grant-read": "id=owner-id"}).status == 200
    assert grants(s3, "two") == ["READ"]
    for headers, code in (
        ({"x-amz-acl": "no-such"}, "InvalidArgument"),
        ({"x-amz-grant-write": "id=1"}, "InvalidArgument"),
        ({"x-amz-acl": "private", "x-amz-grant-read": "id=owner-id"}, "InvalidRequest"),
        (
            {"x-amz-acl": "public-read", "x-amz-object-ownership": "BucketOwnerEnforced"},
            "InvalidBucketAclWithObjectOwnership",
        ),
    ):
        assert s3("PUT", "/three", headers).code == code
    assert s3("HEAD", "/three").code == "NoSuchBucket"


def test_another_accounts_bucket() -> None:
    s3 = Harness()
    other = Identity("other", "secret", "other-id", "other", root=True, owner="other-id")
    assert s3("PUT", "/bucket").status == 200
    reply = s3("PUT", "/bucket", identity=other)
    assert (reply.code, reply.fields) == ("BucketAlreadyExists", {"BucketName": "bucket"})
    assert s3("PUT", "/other", identity=other).status == 200
    assert s3.store.bucket("other").owner == "other-id"
    assert names(s3) == (["bucket"], "")
    assert s3("PUT", "/other").code == "BucketAlreadyExists"


def test_what_a_new_bucket_brings_needs_rights_of_its_own(s3: Harness) -> None:
    statement = {"Effect": "Allow", "Action": "s3:CreateBucket", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    user = Identity("user", "secret", "owner-id", "owner-name", policies=(policy,))
    tags = b"<CreateBucketConfiguration><Tags><Tag><Key>a</Key><Value/></Tag></Tags></CreateBucketConfiguration>"
    for headers, body in (
        ({"x-amz-acl": "public-read"}, b""),
        ({"x-amz-grant-read": "id=owner-id"}, b""),
        ({"x-amz-object-ownership": "ObjectWriter"}, b""),
        ({"x-amz-bucket-object-lock-enabled": "true"}, b""),
        ({}, tags),
    ):
        assert s3("PUT", "/bucket", headers, body, identity=user).code == "AccessDenied"
        assert s3("HEAD", "/bucket").code == "NoSuchBucket"
    assert s3("PUT", "/bucket", identity=user).status == 200


def test_the_settings_may_name_an_ownership() -> None:
    s3 = Harness(ApiConfig(object_ownership="BucketOwnerEnforced"))
    assert s3("PUT", "/bucket").status == 200
    assert s3("PUT", "/other", {"x-amz-object-ownership": "ObjectWriter"}).status == 200
    assert s3("PUT", "/third", {"x-amz-acl": "public-read"}).code == "InvalidBucketAclWithObjectOwnership"
    kept = [s3.store.bucket(name).documents["ownershipControls"] for name in ("bucket", "other")]
    assert kept == ["BucketOwnerEnforced", "ObjectWriter"]
