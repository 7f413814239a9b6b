"""The security token service, on the S3 port: AssumeRole, GetSessionToken, GetCallerIdentity.

Owns nothing. Does not know how tokens are made, nor signatures. Kind: shell (the loop).
Spec: AWS STS API Reference (2011-06-15); MinIO, "AssumeRole": the session is the caller's own, narrowed by its policy, and
the role that is named says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from s3api import xml
from s3api.call import Call
from s3api.errors import S3Error
from s3api.identity import Begun
from s3api.message import Response
from s3api.moment import iso_second
from s3api.params import parse_query
from s3api.policy import check_identity_policy

NAMESPACE: Final = "https://sts.amazonaws.com/doc/2011-06-15/"
DURATION_S_MIN: Final = 900
DURATION_S_MAX: Final = 7 * 86_400
DURATION_S: Final = 3600
POLICY_CHARS_MAX: Final = 2048
_VERSION: Final = "2011-06-15"
_NAME: Final = re.compile(r"[\w+=,.@-]{2,64}\Z", re.ASCII)
_DIGITS: Final = re.compile(r"[0-9]{1,9}\Z", re.ASCII)
DEFAULT_NAME: Final = "session"

CODES: Final[Mapping[str, str]] = {
    "InvalidAccessKeyId": "InvalidClientTokenId",
    "InvalidToken": "InvalidClientTokenId",
    "ExpiredToken": "ExpiredTokenException",
    "InvalidArgument": "ValidationError",
    "MalformedPolicy": "MalformedPolicyDocument",
    "RequestTimeTooSkewed": "SignatureDoesNotMatch",
}
"""How this service calls some of S3's errors."""


async def answer(call: Call) -> Response:
    """One action of the service, which the form in the body names."""
    form = parse_query((await call.payload.document()).strip())
    if form.get("Version", _VERSION) != _VERSION:
        raise S3Error("InvalidArgument", f"The version of the service must be {_VERSION}.")
    action = form.get("Action", "")
    act = _ACTIONS.get(action)
    if act is None:
        raise S3Error("InvalidAction", f"Could not find operation {action[:128] or '(none)'} for version {_VERSION}.")
    if not call.identity.access_key:
        raise S3Error("AccessDenied", "The request must be signed.")
    writer = xml.XmlWriter(f"{action}Response", NAMESPACE)
    with writer.nested(f"{action}Result"):
        act(call, form, writer)
    with writer.nested("ResponseMetadata"):
        writer.leaf("RequestId", call.request_id)
    return Response(200, xml.CONTENT_TYPE, writer.finish())


def _begin(call: Call, form: Mapping[str, str]) -> Begun:
    who = call.identity
    if who.session_token:
        raise S3Error("AccessDenied", "A session cannot begin another one.")
    text = form.get("DurationSeconds", str(DURATION_S))
    if not _DIGITS.match(text) or not DURATION_S_MIN <= int(text) <= DURATION_S_MAX:
        raise S3Error(
            "InvalidArgument", f"DurationSeconds must be a number between {DURATION_S_MIN} and {DURATION_S_MAX}."
        )
    name = form.get("RoleSessionName") or DEFAULT_NAME
    if not _NAME.match(name):
        raise S3Error("InvalidArgument", "RoleSessionName must be 2 to 64 letters, digits, and any of _+=,.@-")
    if any(field.startswith("PolicyArns.") for field in form):  # left out, the session could do more than was asked
        raise S3Error("InvalidArgument", "PolicyArns are not served: state the policy itself in Policy.")
    policy = form.get("Policy", "")
    if policy:
        if len(policy) > POLICY_CHARS_MAX:
            raise S3Error("MalformedPolicy", f"The session policy has more than {POLICY_CHARS_MAX} characters.")
        check_identity_policy(policy)
    return call.access.begin_session(who, int(text), policy, name, call.now_ms // 1000)


def _credentials(writer: xml.XmlWriter, begun: Begun) -> None:
    with writer.nested("Credentials"):
        writer.leaf("AccessKeyId", begun.access_key)
        writer.leaf("SecretAccessKey", begun.secret_key)
        writer.leaf("SessionToken", begun.token)
        writer.leaf("Expiration", iso_second(begun.expires_s * 1000))


def _assume_role(call: Call, form: Mapping[str, str], writer: xml.XmlWriter) -> None:
    who, begun = call.identity, _begin(call, form)
    name = form.get("RoleSessionName") or DEFAULT_NAME
    with writer.nested("AssumedRoleUser"):
        writer.leaf("Arn", f"arn:aws:sts::{who.account_id}:assumed-role/{who.user_name or 'root'}/{name}")
        writer.leaf("AssumedRoleId", f"{who.user_id}:{name}")
    _credentials(writer, begun)


def _get_session_token(call: Call, form: Mapping[str, str], writer: xml.XmlWriter) -> None:
    _credentials(writer, _begin(call, {name: form[name] for name in ("DurationSeconds",) if name in form}))


def _get_caller_identity(call: Call, form: Mapping[str, str], writer: xml.XmlWriter) -> None:
    writer.leaf("Arn", call.identity.arn)
    writer.leaf("UserId", call.identity.user_id)
    writer.leaf("Account", call.identity.account_id)


_ACTIONS: Final[Mapping[str, Callable[[Call, Mapping[str, str], xml.XmlWriter], None]]] = {
    "AssumeRole": _assume_role,
    "GetSessionToken": _get_session_token,
    "GetCallerIdentity": _get_caller_identity,
}


def error_document(code: str, message: str, request_id: str) -> bytes:
    """An error as clients of this service read it."""
    writer = xml.XmlWriter("ErrorResponse", NAMESPACE)
    with writer.nested("Error"):
        writer.leaf("Type", "Sender")
        writer.leaf("Code", CODES.get(code, code))
        writer.leaf("Message", message)
    writer.leaf("RequestId", request_id)
    return writer.finish()
