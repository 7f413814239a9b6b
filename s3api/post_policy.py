"""POST policies: what the holder of a signed form may upload, and who signed it.

A policy is a base64 JSON document: a deadline and conditions. Whoever signed it lets anybody who holds it make one
object that meets every condition, so each field of the form must be covered by one.

Owns nothing. Does not know forms' wire format, nor what a field does. Kind: pure. Invariants: a form is either anonymous
(no trace of a policy or signature), verified, or refused; signatures are compared in constant time; a secret never
reaches a message.
Spec: AWS S3 API Reference, "Creating a POST policy", "Authenticating HTTP POST requests (AWS Signature Version 4)"; AWS
S3 User Guide, "Creating HTML forms (using AWS Signature Version 2)".
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from s3api.errors import S3Error
from s3api.params import iso_time
from s3api.sigv2 import sign as sign_v2
from s3api.sigv4 import ALGORITHM, SigningKey, parse_timestamp

POLICY: Final = "policy"
LIFETIME_S: Final = 7 * 86_400
"""How long a signing key of version 4 signs for."""

_V4: Final = ("x-amz-signature", "x-amz-credential", "x-amz-date", "x-amz-algorithm")
_V2: Final = ("awsaccesskeyid", "signature")
_SPELLED: Final = {
    "awsaccesskeyid": "AWSAccessKeyId",
    "signature": "Signature",
    "x-amz-signature": "X-Amz-Signature",
    "x-amz-credential": "X-Amz-Credential",
    "x-amz-date": "X-Amz-Date",
    "x-amz-algorithm": "X-Amz-Algorithm",
}
_UNCOVERED: Final = frozenset({"file", POLICY, "x-amz-signature", *_V2})
_UNCOVERED_PREFIXES: Final = ("x-ignore-", "x-amz-checksum-")
"""Fields that need no condition. # differs from AWS: checksums neither: they allow nothing, and clients send them so."""

_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_SIZE = re.compile(r"[0-9]{1,18}\Z", re.ASCII)
_DATE = re.compile(r"[0-9]{8}\Z", re.ASCII)


class Condition(NamedTuple):
    """`operator` is `eq` or `starts-with`; `field` in lower case without its `$`, "" where that is missing."""

    operator: str
    field: str
    value: str
    shown: str  # as AWS repeats it in the error


class Policy(NamedTuple):
    expires_s: int
    conditions: tuple[Condition, ...]
    size_min: int
    size_max: int | None


def _invalid(why: str) -> S3Error:
    return S3Error("InvalidPolicyDocument", f"Invalid Policy: {why}")


def _denied(why: str) -> S3Error:
    return S3Error("AccessDenied", f"Invalid according to Policy: {why}")


def parse_policy(encoded: str) -> Policy:
    """The policy in a form's field. Raises InvalidPolicyDocument, nothing else. Names in it are case-sensitive."""
    try:
        text = base64.b64decode("".join(encoded.split()), validate=True).decode()
    except (binascii.Error, ValueError):
        raise _invalid("invalid Base64 encoding.") from None
    if not text.strip():
        raise _invalid("Expecting '{' but found End-of-Input")
    try:
        # `\$` is an escape of policies that JSON does not have.
        document = json.loads(_ESCAPE.sub(lambda match: "$" if match[1] == "$" else match[0], text))
    except (ValueError, RecursionError):
        raise _invalid("Invalid JSON.") from None
    if not isinstance(document, dict):
        raise _invalid("Invalid JSON.")
    for name in document:
        if name not in ("expiration", "conditions"):
            raise _invalid(f"Unexpected: '{name[:64]}'.")
    expires_s = _expiration(document)
    if "conditions" not in document:
        raise _invalid("Policy missing conditions.")
    if not isinstance(document["conditions"], list):
        raise _invalid("Invalid 'conditions' value: must be a List.")
    conditions: list[Condition] = []
    size_min, size_max = 0, None
    for each in document["conditions"]:
        if _is_range(each):
            low, high = _range(each)
            size_min, size_max = max(size_min, low), high if size_max is None else min(size_max, high)
        else:
            conditions.append(_condition(each))
    return Policy(expires_s, tuple(conditions), size_min, size_max)


def _expiration(document: Mapping[str, Any]) -> int:
    if "expiration" not in document:
        raise _invalid("Policy missing expiration.")
    given = document["expiration"]
    if not isinstance(given, str):
        raise _invalid("Invalid JSON.")
    expires_s = iso_time(given)
    if expires_s is None:
        raise _invalid(f"Invalid 'expiration' value: '{given[:64]}'")
    return expires_s


def _is_range(condition: object) -> bool:
    return isinstance(condition, list) and bool(condition) and str(condition[0]).lower() == "content-length-range"


def _range(condition: list[Any]) -> tuple[int, int]:
    if len(condition) != 3:
        raise _invalid("Invalid content-length-range: wrong number of arguments.")
    low, high = (_size(each) for each in condition[1:])
    return low, high


def _size(value: object) -> int:
    if isinstance(value, int | str) and not isinstance(value, bool) and _SIZE.match(str(value)):
        return int(value)
    raise _invalid("Invalid JSON.")


def _condition(condition: object) -> Condition:
    if isinstance(condition, dict):
        if len(condition) != 1:
            raise _invalid("Invalid Simple-Condition: Simple-Conditions must have exactly one property specified.")
        field, value = next(iter(condition.items()))
        if not isinstance(value, str):
            raise _invalid("Invalid Simple-Condition: value must be a string.")
        return Condition("eq", field.lower(), value, json.dumps(["eq", f"${field}", value]))
    if not isinstance(condition, list):
        raise _invalid("Invalid condition test: must be a List or Object.")
    if not condition:
        raise _invalid("Invalid Condition: missing operation identifier.")
    operator = condition[0].lower() if isinstance(condition[0], str) else condition[0]
    if operator not in ("eq", "starts-with"):
        raise _invalid(f"Invalid Condition: unknown operation '{str(operator)[:64]}'.")
    if len(condition) != 3:
        raise _invalid(f"Invalid {operator}: wrong number of arguments.")
    field, value = condition[1:]
    if not isinstance(field, str) or not isinstance(value, str):
        raise _invalid("Invalid JSON.")
    name = field[1:].lower() if field.startswith("$") else ""
    return Condition(operator, name, value, json.dumps(condition, separators=(",", ":"), ensure_ascii=False))


def judge(policy: Policy, fields: Mapping[str, str], bucket: str, now_s: int) -> None:
    """Whether the policy lets this form into `bucket`; the file's size is judged while it comes.

    `fields` by lower-case name, `${filename}` replaced; one that names a bucket must name this one. Raises AccessDenied, saying which condition failed.
    """
    if now_s >= policy.expires_s:
        raise _denied("Policy expired.")
    given = {"bucket": bucket, **fields}
    if given["bucket"] != bucket:
        raise _denied(f"Policy Condition failed: {json.dumps(['eq', '$bucket', bucket])}")
    for condition in policy.conditions:
        if not _holds(condition, given.get(condition.field, "")):
            raise _denied(f"Policy Condition failed: {condition.shown}")
    covered = {condition.field for condition in policy.conditions}
    extra = [
        name
        for name in given
        if name not in covered and name not in _UNCOVERED and not name.startswith(_UNCOVERED_PREFIXES)
    ]
    if extra:
        raise _denied(f"Extra input fields: {', '.join(name[:64] for name in extra)}")


def _holds(condition: Condition, value: str) -> bool:
    if not condition.field:
        return False
    if condition.operator == "eq":
        return value == condition.value
    if condition.field == "content-type":  # a list of types: each must begin so
        return all(each.strip().startswith(condition.value) for each in value.split(","))
    return value.startswith(condition.value)


def verify(fields: Mapping[str, str], now_s: int, skew_s: int, secret_of: Callable[[str], str | None]) -> str:
    """The access key that signed the policy; "" where nothing in the form claims to be signed.

    Raises InvalidArgument for what is missing or malformed, InvalidAccessKeyId, SignatureDoesNotMatch, AccessDenied.
    """
    names = _V4 if any(name in fields for name in _V4) else _V2 if any(name in fields for name in _V2) else ()
    if not names:
        if POLICY in fields:
            raise _missing("AWSAccessKeyId")
        return ""
    for name in (POLICY, *names):
        if name not in fields:
            raise _missing(_SPELLED.get(name, name))
    return _verify_v4(fields, now_s, skew_s, secret_of) if names is _V4 else _verify_v2(fields, secret_of)


def _missing(field: str) -> S3Error:
    return S3Error(
        "InvalidArgument",
        f"Bucket POST must contain a field named '{field}'.  If it is specified, please check the order of the fields.",
        ArgumentName=field,
        ArgumentValue="",
    )


def require_key(fields: Mapping[str, str]) -> str:
    """The key the form names. Raises InvalidArgument."""
    if not fields.get("key"):
        raise _missing("key")
    return fields["key"]


def _verify_v4(fields: Mapping[str, str], now_s: int, skew_s: int, secret_of: Callable[[str], str | None]) -> str:
    if fields["x-amz-algorithm"] != ALGORITHM.decode():
        raise S3Error(
            "InvalidArgument",
            "Only AWS4-HMAC-SHA256 is supported",
            ArgumentName="X-Amz-Algorithm",
            ArgumentValue=fields["x-amz-algorithm"][:128],
        )
    date = fields["x-amz-date"]
    signed_s = parse_timestamp(date.encode())
    if signed_s is None:
        raise S3Error(
            "InvalidArgument",
            "X-Amz-Date must be formated via ISO8601 Long format",
            ArgumentName="X-Amz-Date",
            ArgumentValue=date[:128],
        )
    access_key, day, region, service = _credential(fields["x-amz-credential"])
    if day != date[:8]:
        raise _bad_credential(fields, "the date of the Credential is not that of X-Amz-Date.")
    if service != "s3":
        raise _bad_credential(fields, f'incorrect service "{service[:64]}". This endpoint belongs to "s3".')
    secret = secret_of(access_key)
    if secret is None:
        raise S3Error("InvalidAccessKeyId", AWSAccessKeyId=access_key[:128])
    text = fields[POLICY].encode()
    key = SigningKey(secret, day.encode(), region.encode(), service.encode())
    _compare(access_key, text, key.sign(text), fields["x-amz-signature"])
    if now_s > signed_s + LIFETIME_S:
        raise _denied("Policy expired.")
    if signed_s > now_s + skew_s:
        raise S3Error("AccessDenied", "Request is not valid yet.")
    return access_key


def _credential(text: str) -> tuple[str, str, str, str]:
    """Access key, day, region, service. Raises InvalidArgument."""
    parts = text.rsplit("/", 4)
    if len(parts) != 5 or not parts[0]:
        raise _bad_credential(
            {"x-amz-credential": text},
            'the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".',
        )
    access_key, day, region, service, terminal = parts
    if terminal != "aws4_request":
        raise _bad_credential(
            {"x-amz-credential": text}, f'incorrect terminal "{terminal[:64]}". This endpoint uses "aws4_request".'
        )
    if not _DATE.match(day):
        raise _bad_credential(
            {"x-amz-credential": text},
            f'incorrect date format "{day[:64]}". This date in the credential must be in the format "yyyyMMdd".',
        )
    return access_key, day, region, service


def _bad_credential(fields: Mapping[str, str], why: str) -> S3Error:
    return S3Error(
        "InvalidArgument", why, ArgumentName="X-Amz-Credential", ArgumentValue=fields["x-amz-credential"][:256]
    )


def _verify_v2(fields: Mapping[str, str], secret_of: Callable[[str], str | None]) -> str:
    access_key = fields["awsaccesskeyid"]
    secret = secret_of(access_key)
    if secret is None:
        raise S3Error("InvalidAccessKeyId", AWSAccessKeyId=access_key[:128])
    text = fields[POLICY].encode()
    _compare(access_key, text, sign_v2(secret, text).decode(), fields["signature"])
    return access_key


def _compare(access_key: str, text: bytes, wanted: str, given: str) -> None:
    if not hmac.compare_digest(wanted.encode(), given.encode()):
        raise S3Error(
            "SignatureDoesNotMatch",
            AWSAccessKeyId=access_key[:128],
            StringToSign=text.decode(),
            SignatureProvided=given[:128],
            StringToSignBytes=text.hex(" "),
        )
