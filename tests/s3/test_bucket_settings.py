"""Buckets' documents with boto3 against a running gateway, and a browser's questions over raw connections."""

from __future__ import annotations

import http.client
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.gateway import Gateway

CORS = {
    "CORSRules": [
        {
            "ID": "one",
            "AllowedHeaders": ["x-amz-*"],
            "AllowedMethods": ["GET", "PUT"],
            "AllowedOrigins": ["http://*.example"],
            "ExposeHeaders": ["ETag"],
            "MaxAgeSeconds": 60,
        }
    ]
}
KMS = {
    "Rules": [
        {
            "ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "k1"},
            "BucketKeyEnabled": True,
        }
    ]
}
BLOCK = {
    "BlockPublicAcls": True,
    "IgnorePublicAcls": False,
    "BlockPublicPolicy": False,
    "RestrictPublicBuckets": True,
}
LIMITS = {"Rules": [{"ObjectOwnership": "BucketOwnerPreferred"}]}
TAGS = {"TagSet": [{"Key": "team", "Value": "ml"}, {"Key": "empty", "Value": ""}]}


def code(call: Any, **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return str(caught.value.response["Error"]["Code"])


@pytest.mark.parametrize(
    ("name", "argument", "answer", "value", "unset"),
    [
        ("bucket_cors", "CORSConfiguration", "CORSRules", CORS, "NoSuchCORSConfiguration"),
        ("bucket_tagging", "Tagging", "TagSet", TAGS, "NoSuchTagSet"),
        (
            "bucket_encryption",
            "ServerSideEncryptionConfiguration",
            "",
            KMS,
            "ServerSideEncryptionConfigurationNotFoundError",
        ),
        ("public_access_block", "PublicAccessBlockConfiguration", "", BLOCK, "NoSuchPublicAccessBlockConfiguration"),
        ("bucket_ownership_controls", "OwnershipControls", "", LIMITS, "OwnershipControlsNotFoundError"),
    ],
)
def test_documents_come_back(
    s3: Any, bucket: str, name: str, argument: str, answer: str, value: Any, unset: str
) -> None:
    get = getattr(s3, f"get_{name}")
    assert code(get, Bucket=bucket) == unset
    getattr(s3, f"put_{name}")(Bucket=bucket, **{argument: value})
    found = get(Bucket=bucket)
    assert (found[answer] if answer else found[argument]) == (value[answer] if answer else value)
    getattr(s3, f"delete_{name}")(Bucket=bucket)
    assert code(get, Bucket=bucket) == unset


def test_documents_that_are_never_gone(s3: Any, bucket: str) -> None:
    assert s3.get_bucket_request_payment(Bucket=bucket)["Payer"] == "BucketOwner"
    s3.put_bucket_request_payment(Bucket=bucket, RequestPaymentConfiguration={"Payer": "Requester"})
    assert s3.get_bucket_request_payment(Bucket=bucket)["Payer"] == "Requester"
    assert "Status" not in s3.get_bucket_accelerate_configuration(Bucket=bucket)
    s3.put_bucket_accelerate_configuration(Bucket=bucket, AccelerateConfiguration={"Status": "Enabled"})
    assert s3.get_bucket_accelerate_configuration(Bucket=bucket)["Status"] == "Enabled"
    assert "LoggingEnabled" not in s3.get_bucket_logging(Bucket=bucket)
    wanted = {"TargetBucket": bucket, "TargetPrefix": "logs/"}
    s3.put_bucket_logging(Bucket=bucket, BucketLoggingStatus={"LoggingEnabled": wanted})
    assert s3.get_bucket_logging(Bucket=bucket)["LoggingEnabled"] == wanted
    s3.put_bucket_logging(Bucket=bucket, BucketLoggingStatus={})
    assert "LoggingEnabled" not in s3.get_bucket_logging(Bucket=bucket)
    missing = {"LoggingEnabled": {"TargetBucket": "no-such-bucket", "TargetPrefix": ""}}
    assert code(s3.put_bucket_logging, Bucket=bucket, BucketLoggingStatus=missing) == "InvalidTargetBucketForLogging"


def test_what_cannot_be_set(s3: Any, bucket: str) -> None:
    assert code(s3.get_bucket_website, Bucket=bucket) == "NoSuchWebsiteConfiguration"
    assert code(s3.get_bucket_replication, Bucket=bucket) == "ReplicationConfigurationNotFoundError"
    s3.delete_bucket_website(Bucket=bucket)
    s3.delete_bucket_replication(Bucket=bucket)
    website = {"IndexDocument": {"Suffix": "index.html"}}
    assert code(s3.put_bucket_website, Bucket=bucket, WebsiteConfiguration=website) == "NotImplemented"
    for family in ("analytics", "inventory", "metrics", "intelligent_tiering"):
        assert getattr(s3, f"list_bucket_{family}_configurations")(Bucket=bucket)["IsTruncated"] is False
        assert code(getattr(s3, f"get_bucket_{family}_configuration"), Bucket=bucket, Id="x") == "NoSuchConfiguration"


def test_documents_are_seen_by_every_worker_and_go_with_the_bucket(s3: Any, gateway: Gateway, bucket: str) -> None:
    s3.put_bucket_tagging(Bucket=bucket, Tagging=TAGS)
    for _ in range(8):  # each a connection of its own, which either worker may take
        other = gateway.boto3_client()
        assert other.get_bucket_tagging(Bucket=bucket)["TagSet"] == TAGS["TagSet"]
        other.close()
    s3.delete_bucket(Bucket=bucket)
    s3.create_bucket(Bucket=bucket)
    assert code(s3.get_bucket_tagging, Bucket=bucket) == "NoSuchTagSet"


def test_a_bucket_is_made_with_tags_and_ownership(s3: Any) -> None:
    s3.create_bucket(
        Bucket="made-with-tags",
        ObjectOwnership="ObjectWriter",
        CreateBucketConfiguration={"LocationConstraint": "eu-west-1", "Tags": TAGS["TagSet"]},
    )
    assert s3.get_bucket_tagging(Bucket="made-with-tags")["TagSet"] == TAGS["TagSet"]
    controls = s3.get_bucket_ownership_controls(Bucket="made-with-tags")["OwnershipControls"]
    assert controls["Rules"] == [{"ObjectOwnership": "ObjectWriter"}]
    assert s3.get_bucket_location(Bucket="made-with-tags")["LocationConstraint"] == "eu-west-1"


def ask(gateway: Gateway, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """An unsigned request; header names with `_` for `-`."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    finally:
        connection.close()


def test_preflight_and_shared_replies(s3: Any, gateway: Gateway, bucket: str) -> None:
    path, origin = f"/{bucket}/a/key", "http://www.example"
    status, _, body = ask(gateway, "OPTIONS", path, Origin=origin, Access_Control_Request_Method="PUT")
    assert (status, b"CORS is not enabled" in body) == (403, True)
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration=CORS)
    for target in (path, f"/{bucket}", f"{path}?uploads&X-Amz-Signature=bad"):
        status, headers, body = ask(
            gateway,
            "OPTIONS",
            target,
            Origin=origin,
            Access_Control_Request_Method="PUT",
            Access_Control_Request_Headers="X-Amz-Date,x-amz-content-sha256",
        )
        assert (status, body, headers["content-length"]) == (200, b"", "0")
        assert headers["access-control-allow-origin"] == origin
        assert headers["access-control-allow-methods"] == "GET, PUT"
        assert headers["access-control-allow-headers"] == "x-amz-date, x-amz-content-sha256"
        assert headers["access-control-expose-headers"] == "ETag"
        assert headers["access-control-max-age"] == "60"
        assert headers["access-control-allow-credentials"] == "true"
    assert ask(gateway, "OPTIONS", path)[0] == 400
    status, _, body = ask(gateway, "OPTIONS", "/", Origin=origin, Access_Control_Request_Method="GET")
    assert (status, b"Bucket not found" in body) == (403, True)
    status, headers, body = ask(gateway, "GET", "/", Origin=origin)  # a page may ask for the buckets, and is answered
    assert (status, b"AccessDenied" in body, "access-control-allow-origin" in headers) == (403, True, False)
    status, headers, _ = ask(gateway, "OPTIONS", path, Origin="http://other", Access_Control_Request_Method="GET")
    assert (status, "access-control-allow-origin" in headers) == (403, False)
    s3.put_object(Bucket=bucket, Key="a/key", Body=b"shared")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a/key"})
    signed = url.partition(f":{gateway.port}")[2]
    status, headers, body = ask(gateway, "GET", signed, Origin=origin)
    assert (status, body, headers["access-control-allow-origin"]) == (200, b"shared", origin)
    status, headers, _ = ask(gateway, "GET", path, Origin=origin)
    assert (status, headers["access-control-allow-origin"]) == (403, origin)
