"""Lifecycle configuration and `x-amz-expiration` through the handlers."""

from __future__ import annotations

import base64
import hashlib

import pytest

from tests.unit.handler_harness import Harness, Reply

RULES = (
    b"<LifecycleConfiguration><Rule><ID>r 1</ID><Filter><Prefix>a/</Prefix></Filter><Status>Enabled</Status>"
    b"<Expiration><Days>1</Days></Expiration></Rule><Rule><ID>mpu</ID><Filter/><Status>Enabled</Status>"
    b"<AbortIncompleteMultipartUpload><DaysAfterInitiation>2</DaysAfterInitiation></AbortIncompleteMultipartUpload>"
    b"</Rule></LifecycleConfiguration>"
)
EXPIRES = 'expiry-date="Sat, 03 Jan 2026 00:00:00 GMT", rule-id="r%201"'


def put(s3: Harness, body: bytes, **headers: str) -> Reply:
    digest = base64.b64encode(hashlib.md5(body).digest()).decode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return s3("PUT", "/bucket?lifecycle", {"content-md5": digest, **named}, body)


@pytest.fixture
def s3() -> Harness:
    harness = Harness()
    harness("PUT", "/bucket")
    return harness


def test_rules_are_kept_and_given_back(s3: Harness) -> None:
    assert s3("GET", "/bucket?lifecycle").code == "NoSuchLifecycleConfiguration"
    reply = put(s3, RULES)
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["x-amz-transition-default-minimum-object-size"] == "all_storage_classes_128K"
    found = s3("GET", "/bucket?lifecycle").xml("LifecycleConfiguration")
    assert [node.required("ID") for node in found.all("Rule")] == ["r 1", "mpu"]
    assert s3("DELETE", "/bucket?lifecycle").status == 204
    assert s3("DELETE", "/bucket?lifecycle").status == 204
    assert s3("GET", "/bucket?lifecycle").code == "NoSuchLifecycleConfiguration"


def test_least_size_header_is_kept(s3: Harness) -> None:
    put(s3, RULES, x_amz_transition_default_minimum_object_size="varies_by_storage_class")
    headers = s3("GET", "/bucket?lifecycle").headers
    assert headers["x-amz-transition-default-minimum-object-size"] == "varies_by_storage_class"


def test_refused_rules_change_nothing(s3: Harness) -> None:
    put(s3, RULES)
    assert put(s3, RULES.replace(b">1<", b">0<")).code == "InvalidArgument"
    assert s3("PUT", "/bucket?lifecycle", {}, RULES).code == "InvalidRequest"
    assert s3("GET", "/bucket?lifecycle").status == 200
    assert s3("GET", "/none?lifecycle").code == "NoSuchBucket"
    assert s3("DELETE", "/none?lifecycle").code == "NoSuchBucket"


def test_expiration_is_told_with_the_object(s3: Harness) -> None:
    put(s3, RULES)
    s3.clock.advance(60)
    for reply in (
        s3("PUT", "/bucket/a/k", {}, b"data"),
        s3("GET", "/bucket/a/k"),
        s3("HEAD", "/bucket/a/k"),
        s3("PUT", "/bucket/a/c", {"x-amz-copy-source": "/bucket/a/k"}),
    ):
        assert reply.headers["x-amz-expiration"] == EXPIRES
    s3("PUT", "/bucket/k", {}, b"data")
    assert "x-amz-expiration" not in s3("GET", "/bucket/k").headers


def test_earlier_of_rule_and_ttl_is_told_once(s3: Harness) -> None:
    put(s3, RULES)
    s3.clock.advance(60)
    hour = s3("PUT", "/bucket/a/k", {"x-recall-ttl": "3600"}, b"data").headers
    assert hour["x-amz-expiration"].endswith('rule-id="x-recall-ttl"')
    year = s3("PUT", "/bucket/a/k", {"x-recall-ttl": "31536000"}, b"data").headers
    assert year["x-amz-expiration"].endswith('rule-id="r%201"')


def test_uploads_say_when_they_are_aborted(s3: Harness) -> None:
    put(s3, RULES)
    reply = s3("POST", "/bucket/k?uploads")
    upload_id = reply.xml("InitiateMultipartUploadResult").required("UploadId")
    for headers in (reply.headers, s3("GET", f"/bucket/k?uploadId={upload_id}").headers):
        assert headers["x-amz-abort-date"] == "Sat, 03 Jan 2026 00:00:00 GMT"
        assert headers["x-amz-abort-rule-id"] == "mpu"
