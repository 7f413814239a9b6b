"""`s3api.post_policy`: AWS's worked example, every kind of condition, and every refusal with its words."""

from __future__ import annotations

import base64
import calendar
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3api.errors import S3Error
from s3api.post_policy import judge, parse_policy, require_key, verify

NOW_S = calendar.timegm((2030, 1, 1, 0, 0, 0))
LATER = "2030-01-02T00:00:00Z"
BUCKET = {"bucket": "b"}


def encoded(document: object) -> str:
    return base64.b64encode((document if isinstance(document, str) else json.dumps(document)).encode()).decode()


def policy_of(*conditions: Any, expiration: Any = LATER) -> str:
    return encoded({"expiration": expiration, "conditions": [BUCKET, *conditions]})


def caught(*arguments: Any) -> S3Error:
    with pytest.raises(S3Error) as failed:
        arguments[0](*arguments[1:])
    return failed.value


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("", "Expecting '{' but found End-of-Input"),
        ("[]", "Invalid JSON."),
        ("{", "Invalid JSON."),
        ("[" * 15_000, "Invalid JSON."),
        ({"conditions": []}, "Policy missing expiration."),
        ({"expiration": LATER}, "Policy missing conditions."),
        ({"EXPIRATION": LATER, "conditions": []}, "Unexpected: 'EXPIRATION'."),
        ({"expiration": LATER, "CONDITIONS": []}, "Unexpected: 'CONDITIONS'."),
        ({"expiration": True, "conditions": []}, "Invalid JSON."),
        ({"expiration": "2030-01-02 00:00:00", "conditions": []}, "Invalid 'expiration' value: '2030-01-02 00:00:00'"),
        ({"expiration": "1767225600", "conditions": []}, "Invalid 'expiration' value: '1767225600'"),
        ({"expiration": LATER, "conditions": True}, "Invalid 'conditions' value: must be a List."),
        ({"expiration": LATER, "conditions": [True]}, "Invalid condition test: must be a List or Object."),
        ({"expiration": LATER, "conditions": [{}]}, "Invalid Simple-Condition: Simple-Conditions must have exactly one property specified."),
        ({"expiration": LATER, "conditions": [{"a": "b", "c": "d"}]}, "Invalid Simple-Condition: Simple-Conditions must have exactly one property specified."),
        ({"expiration": LATER, "conditions": [{"a": 1}]}, "Invalid Simple-Condition: value must be a string."),
        ({"expiration": LATER, "conditions": [[]]}, "Invalid Condition: missing operation identifier."),
        ({"expiration": LATER, "conditions": [["in", "$a", "b"]]}, "Invalid Condition: unknown operation 'in'."),
        ({"expiration": LATER, "conditions": [[7, "$a", "b"]]}, "Invalid Condition: unknown operation '7'."),
        ({"expiration": LATER, "conditions": [["eq", "$a"]]}, "Invalid eq: wrong number of arguments."),
        ({"expiration": LATER, "conditions": [["starts-with", "$a", "b", "c"]]}, "Invalid starts-with: wrong number of arguments."),
        ({"expiration": LATER, "conditions": [["eq", False, "b"]]}, "Invalid JSON."),
        ({"expiration": LATER, "conditions": [["eq", "$a", None]]}, "Invalid JSON."),
        ({"expiration": LATER, "conditions": [["content-length-range", 0]]}, "Invalid content-length-range: wrong number of arguments."),
        ({"expiration": LATER, "conditions": [["content-length-range", -1, 0]]}, "Invalid JSON."),
        ({"expiration": LATER, "conditions": [["content-length-range", 1, False]]}, "Invalid JSON."),
        ({"expiration": LATER, "conditions": [["content-length-range", "x", "14"]]}, "Invalid JSON."),
    ],
)  # fmt: skip
def test_documents_that_are_refused(document: object, why: str) -> None:
    failed = caught(parse_policy, encoded(document))
    assert (failed.spec.code, failed.spec.status) == ("InvalidPolicyDocument", 400)
    assert failed.message == f"Invalid Policy: {why}"


def test_not_base64() -> None:
    for text in ("invalid_base64", "////", "YQ"):
        assert caught(parse_policy, text).message == "Invalid Policy: invalid Base64 encoding."


def test_base64_may_be_broken_into_lines_and_a_dollar_escaped() -> None:
    text = f'{{"expiration": "{LATER}", "conditions": [["starts-with", "$key", "\\$a\\\\$b"]]}}'
    lines = encoded(text)
    policy = parse_policy("\r\n".join(lines[at : at + 60] for at in range(0, len(lines), 60)))
    assert policy.conditions[0].value == "$a\\$b"


@given(st.text(max_size=60), st.booleans())
def test_any_text_is_a_policy_or_refused(text: str, as_json: bool) -> None:
    try:
        parse_policy(encoded(text) if as_json else text)
    except S3Error as failed:
        assert failed.spec.code == "InvalidPolicyDocument"


@pytest.mark.parametrize(
    ("conditions", "fields"),
    [
        ([["eq", "$content-type", "text/plain"]], {"content-type": "text/plain"}),
        ([["StArTs-WiTh", "$KeY", "foo"]], {"key": "foo.txt"}),
        ([["starts-with", "$x-amz-meta-tag", ""]], {"x-amz-meta-tag": "anything"}),
        ([["starts-with", "$x-amz-meta-tag", ""]], {}),
        ([{"aCl": "public-read"}], {"acl": "public-read"}),
        ([["eq", "$bucket", "b"]], {}),
        ([], {"x-ignore-this": "1", "policy": "p", "signature": "s", "awsaccesskeyid": "a", "x-amz-signature": "v"}),
        ([], {"x-amz-checksum-sha256": "c"}),
        ([["starts-with", "$content-type", "text/"]], {"content-type": "text/plain, text/html"}),
        ([["eq", "$key", "a"], ["starts-with", "$key", ""]], {"key": "a"}),
    ],
)
def test_forms_a_policy_lets_in(conditions: list[Any], fields: dict[str, str]) -> None:
    judge(parse_policy(policy_of(*conditions)), fields, "b", NOW_S)


@pytest.mark.parametrize(
    ("conditions", "fields", "why"),
    [
        ([["eq", "$content-type", "text/plain"]], {"content-type": "image/png"}, 'Policy Condition failed: ["eq","$content-type","text/plain"]'),
        ([{"content-type": "a/b"}], {"content-type": "c/d"}, 'Policy Condition failed: ["eq", "$content-type", "a/b"]'),
        ([["starts-with", "$content-type", "text/"]], {"content-type": "text/a, image/b"}, 'Policy Condition failed: ["starts-with","$content-type","text/"]'),
        ([["eq", "$bucket", "other"]], {}, 'Policy Condition failed: ["eq","$bucket","other"]'),
        ([["eq", "content-type", "a/b"]], {"content-type": "a/b"}, 'Policy Condition failed: ["eq","content-type","a/b"]'),
        ([["eq", "$x-amz-meta-foo", ""]], {"x-amz-meta-foo": "bar"}, 'Policy Condition failed: ["eq","$x-amz-meta-foo",""]'),
        ([["starts-with", "$x-amz-meta-foo", "bar"]], {}, 'Policy Condition failed: ["starts-with","$x-amz-meta-foo","bar"]'),
        ([["eq", "$key", "a"]], {"key": "A"}, 'Policy Condition failed: ["eq","$key","a"]'),
        ([], {"x-amz-meta-custom": "v"}, "Extra input fields: x-amz-meta-custom"),
        ([], {"x-amz-date": "v", "x-amz-security-token": "t"}, "Extra input fields: x-amz-date, x-amz-security-token"),
    ],
)  # fmt: skip
def test_forms_a_policy_keeps_out(conditions: list[Any], fields: dict[str, str], why: str) -> None:
    failed = caught(judge, parse_policy(policy_of(*conditions)), fields, "b", NOW_S)
    assert (failed.spec.code, failed.spec.status) == ("AccessDenied", 403)
    assert failed.message == f"Invalid according to Policy: {why}"


def test_bucket_must_be_covered_and_the_form_cannot_name_another() -> None:
    bare = parse_policy(encoded({"expiration": LATER, "conditions": []}))
    assert caught(judge, bare, {}, "b", NOW_S).message.endswith("Extra input fields: bucket")
    judge(parse_policy(policy_of()), {"bucket": "b"}, "b", NOW_S)
    for named, bucket in (("b", "other"), ("other", "b"), ("other", "other")):
        assert caught(judge, parse_policy(policy_of()), {"bucket": named}, bucket, NOW_S).spec.code == "AccessDenied"


def test_policy_ends_at_its_expiration() -> None:
    policy = parse_policy(policy_of(expiration="2030-01-01T00:00:00.000Z"))
    judge(policy, {}, "b", NOW_S - 1)
    assert caught(judge, policy, {}, "b", NOW_S).message == "Invalid according to Policy: Policy expired."


def test_ranges_bound_the_file_and_the_narrower_counts() -> None:
    both = ["content-length-range", 1, 100], ["content-length-range", "5", "50"]
    policy = parse_policy(policy_of(*both))
    assert (policy.size_min, policy.size_max) == (5, 50)
    assert parse_policy(policy_of()).size_max is None


# signatures: AWS's example, "Examples: Browser-Based Upload using HTTP POST (Using AWS Signature Version 4)"

EXAMPLE_KEY = "AKIAIOSFODNN7EXAMPLE"
EXAMPLE_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
EXAMPLE_S = calendar.timegm((2015, 12, 29, 0, 0, 0))
EXAMPLE_POLICY = (
    "eyAiZXhwaXJhdGlvbiI6ICIyMDE1LTEyLTMwVDEyOjAwOjAwLjAwMFoiLA0KICAiY29uZGl0aW9ucyI6IFsNCiAgICB7ImJ1Y2tldCI6ICJzaWd2NGV4"
    "YW1wbGVidWNrZXQifSwNCiAgICBbInN0YXJ0cy13aXRoIiwgIiRrZXkiLCAidXNlci91c2VyMS8iXSwNCiAgICB7ImFjbCI6ICJwdWJsaWMtcmVhZCJ9LA0"
    "KICAgIHsic3VjY2Vzc19hY3Rpb25fcmVkaXJlY3QiOiAiaHR0cDovL3NpZ3Y0ZXhhbXBsZWJ1Y2tldC5zMy5hbWF6b25hd3MuY29tL3N1Y2Nlc3NmdWxfdX"
    "Bsb2FkLmh0bWwifSwNCiAgICBbInN0YXJ0cy13aXRoIiwgIiRDb250ZW50LVR5cGUiLCAiaW1hZ2UvIl0sDQogICAgeyJ4LWFtei1tZXRhLXV1aWQiOiAiMT"
    "QzNjUxMjM2NTEyNzQifSwNCiAgICB7IngtYW16LXNlcnZlci1zaWRlLWVuY3J5cHRpb24iOiAiQUVTMjU2In0sDQogICAgWyJzdGFydHMtd2l0aCIsICIkeC"
    "1hbXotbWV0YS10YWciLCAiIl0sDQoNCiAgICB7IngtYW16LWNyZWRlbnRpYWwiOiAiQUtJQUlPU0ZPRE5ON0VYQU1QTEUvMjAxNTEyMjkvdXMtZWFzdC0xL3"
    "MzL2F3czRfcmVxdWVzdCJ9LA0KICAgIHsieC1hbXotYWxnb3JpdGhtIjogIkFXUzQtSE1BQy1TSEEyNTYifSwNCiAgICB7IngtYW16LWRhdGUiOiAiMjAxNT"
    "EyMjlUMDAwMDAwWiIgfQ0KICBdDQp9"
)
EXAMPLE = {
    "policy": EXAMPLE_POLICY,
    "x-amz-algorithm": "AWS4-HMAC-SHA256",
    "x-amz-credential": f"{EXAMPLE_KEY}/20151229/us-east-1/s3/aws4_request",
    "x-amz-date": "20151229T000000Z",
    "x-amz-signature": "8afdbf4008c03f22c2cd3cdb72e4afbb1f6a588f3255ac628749a66d7f09699e",
}


def secret_of(access_key: str) -> str | None:
    return {EXAMPLE_KEY: EXAMPLE_SECRET}.get(access_key)


def check(fields: dict[str, str], now_s: int = EXAMPLE_S) -> str:
    return verify(fields, now_s, 900, secret_of)


def test_aws_example_is_verified_and_its_policy_lets_the_example_form_in() -> None:
    assert check(EXAMPLE) == EXAMPLE_KEY
    fields = EXAMPLE | {
        "key": "user/user1/photo.png",
        "acl": "public-read",
        "success_action_redirect": "http://sigv4examplebucket.s3.amazonaws.com/successful_upload.html",
        "content-type": "image/jpeg",
        "x-amz-meta-uuid": "14365123651274",
        "x-amz-server-side-encryption": "AES256",
        "x-amz-meta-tag": "",
    }
    judge(parse_policy(EXAMPLE_POLICY), fields, "sigv4examplebucket", EXAMPLE_S)


@pytest.mark.parametrize(
    ("changed", "code", "argument"),
    [
        ({"x-amz-signature": "0" * 64}, "SignatureDoesNotMatch", ""),
        ({"policy": EXAMPLE_POLICY[:-4]}, "SignatureDoesNotMatch", ""),
        ({"x-amz-credential": "unknown/20151229/us-east-1/s3/aws4_request"}, "InvalidAccessKeyId", ""),
        ({"x-amz-credential": f"{EXAMPLE_KEY}/20151229/eu-west-1/s3/aws4_request"}, "SignatureDoesNotMatch", ""),
        (
            {"x-amz-credential": f"{EXAMPLE_KEY}/20151229/us-east-1/sts/aws4_request"},
            "InvalidArgument",
            "X-Amz-Credential",
        ),
        ({"x-amz-credential": f"{EXAMPLE_KEY}/20151229/us-east-1/s3/aws2"}, "InvalidArgument", "X-Amz-Credential"),
        (
            {"x-amz-credential": f"{EXAMPLE_KEY}/2015-12-29/us-east-1/s3/aws4_request"},
            "InvalidArgument",
            "X-Amz-Credential",
        ),
        (
            {"x-amz-credential": f"{EXAMPLE_KEY}/20151230/us-east-1/s3/aws4_request"},
            "InvalidArgument",
            "X-Amz-Credential",
        ),
        ({"x-amz-credential": "no-slashes"}, "InvalidArgument", "X-Amz-Credential"),
        ({"x-amz-date": "yesterday"}, "InvalidArgument", "X-Amz-Date"),
        ({"x-amz-algorithm": "AWS4"}, "InvalidArgument", "X-Amz-Algorithm"),
    ],
)
def test_signatures_that_are_refused(changed: dict[str, str], code: str, argument: str) -> None:
    failed = caught(check, EXAMPLE | changed)
    assert failed.spec.code == code
    assert failed.fields.get("ArgumentName", "") == argument


@pytest.mark.parametrize("name", sorted(EXAMPLE))
def test_a_signed_form_lacks_nothing(name: str) -> None:
    failed = caught(check, {field: value for field, value in EXAMPLE.items() if field != name})
    spelled = name.title() if name.startswith("x-amz-") else name
    assert failed.fields["ArgumentName"] == spelled
    assert failed.message.startswith(f"Bucket POST must contain a field named '{spelled}'.")


def test_signature_of_version_4_signs_for_seven_days() -> None:
    assert check(EXAMPLE, EXAMPLE_S + 7 * 86_400) == EXAMPLE_KEY
    assert caught(check, EXAMPLE, EXAMPLE_S + 7 * 86_400 + 1).message.endswith("Policy expired.")
    assert check(EXAMPLE, EXAMPLE_S - 900) == EXAMPLE_KEY
    assert caught(check, EXAMPLE, EXAMPLE_S - 901).message == "Request is not valid yet."


def test_version_2() -> None:
    # AWS, "Creating HTML forms (using AWS Signature Version 2)": HMAC-SHA1 of the encoded policy
    import hashlib
    import hmac

    signature = base64.b64encode(hmac.digest(EXAMPLE_SECRET.encode(), EXAMPLE_POLICY.encode(), hashlib.sha1)).decode()
    fields = {"policy": EXAMPLE_POLICY, "awsaccesskeyid": EXAMPLE_KEY, "signature": signature}
    assert check(fields) == EXAMPLE_KEY
    assert caught(check, fields | {"signature": "AAAA"}).spec.code == "SignatureDoesNotMatch"
    assert caught(check, fields | {"awsaccesskeyid": "other"}).spec.code == "InvalidAccessKeyId"
    for name, spelled in (("policy", "policy"), ("awsaccesskeyid", "AWSAccessKeyId"), ("signature", "Signature")):
        rest = {field: value for field, value in fields.items() if field != name}
        assert caught(check, rest).fields["ArgumentName"] == spelled


def test_form_that_claims_nothing_is_anonymous_and_needs_a_key() -> None:
    assert check({"key": "k", "acl": "public-read"}) == ""
    assert caught(check, {"policy": EXAMPLE_POLICY}).fields["ArgumentName"] == "AWSAccessKeyId"
    assert require_key({"key": "k"}) == "k"
    for fields in ({}, {"key": ""}):
        assert caught(require_key, fields).fields["ArgumentName"] == "key"
