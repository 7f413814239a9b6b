"""The values of condition keys: what a policy may ask of a request, its caller and the object it is about.

Promise: a key costs nothing until a policy asks for it. Owns nothing. Does not know policies. Kind: pure.
Invariants: a key is None exactly where AWS leaves it out of the request; a value comes from what was signed, or from the
connection, and a caller cannot add one by a name of its own.
Spec: AWS IAM User Guide, "AWS global condition context keys"; Service Authorization Reference, "Amazon S3", condition keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl, unquote_plus

from s3api.call import Call
from s3api.moment import iso_second
from s3api.params import http_time
from tiering.contract import ObjectInfo

_QUERY: Final = {"s3:prefix": "prefix", "s3:delimiter": "delimiter", "s3:versionid": "versionId"}
_PAGE_SIZES: Final = ("max-keys", "max-uploads", "max-parts", "max-buckets")
_HEADERS: Final = {
    "aws:referer": b"referer",
    "aws:useragent": b"user-agent",
    "s3:if-match": b"if-match",
    "s3:if-none-match": b"if-none-match",
    "s3:object-lock-legal-hold": b"x-amz-object-lock-legal-hold",
    "s3:object-lock-mode": b"x-amz-object-lock-mode",
    "s3:object-lock-retain-until-date": b"x-amz-object-lock-retain-until-date",
    **{
        f"s3:{name}": name.encode()
        for name in (
            "x-amz-acl",
            "x-amz-content-sha256",
            "x-amz-grant-full-control",
            "x-amz-grant-read",
            "x-amz-grant-read-acp",
            "x-amz-grant-write",
            "x-amz-grant-write-acp",
            "x-amz-metadata-directive",
            "x-amz-object-ownership",
            "x-amz-server-side-encryption",
            "x-amz-server-side-encryption-aws-kms-key-id",
            "x-amz-server-side-encryption-customer-algorithm",
            "x-amz-storage-class",
            "x-amz-website-redirect-location",
        )
    },
}
_MAKES_OBJECTS: Final = frozenset(
    {"PutObject", "CopyObject", "CompleteMultipartUpload", "PostObject", "BatchPut", "RenameObject"}
)
_EXISTING_TAG: Final = "s3:existingobjecttag/"
_REQUEST_TAG: Final = "s3:requestobjecttag/"


class Facts:
    """The keys of one judgement. `info`: the object as it is, where it is known. Called with a key's name."""

    __slots__ = ("_call", "_info", "_owner_account", "_tags")

    def __init__(self, call: Call, owner_account: str, info: ObjectInfo | None = None) -> None:
        self._call = call
        self._owner_account = owner_account
        self._info = info
        self._tags: Mapping[str, str] | None = None

    def __call__(self, key: str) -> Sequence[str] | None:
        """None where the request has no such key."""
        said = self._call.said.get(key)
        if said is not None:
            return said
        header = _HEADERS.get(key)
        if header is not None:
            return (self._call.header(header),) if header in self._call.request.headers else None
        name = _QUERY.get(key)
        if name is not None:
            value = self._call.query.get(name)
            return None if value is None else (value,)
        if key.startswith(_EXISTING_TAG):
            found = self._info.tags.get(key[len(_EXISTING_TAG) :]) if self._info is not None else None
            return None if found is None else (found,)
        if key.startswith(_REQUEST_TAG):
            found = self._request_tags().get(key[len(_REQUEST_TAG) :])
            return None if found is None else (found,)
        make = _MADE.get(key)
        made = None if make is None else make(self)
        return (made,) if isinstance(made, str) else made

    # each answers one key; None where the request lacks it

    def _request_tags(self) -> Mapping[str, str]:
        if self._call.tags is not None:
            return self._call.tags
        if self._tags is None:
            text = self._call.header(b"x-amz-tagging")
            self._tags = dict(parse_qsl(text, keep_blank_values=True)) if text else {}
        return self._tags

    def request_tag_keys(self) -> Sequence[str] | None:
        return tuple(self._request_tags()) or None

    def max_keys(self) -> str | None:
        return next((self._call.query[name] for name in _PAGE_SIZES if name in self._call.query), None)

    def copy_source(self) -> str | None:
        """As policies write it: decoded, without a leading slash or a version."""
        text = self._call.header(b"x-amz-copy-source").partition("?versionId=")[0]
        return unquote_plus(text).removeprefix("/") or None

    def source_ip(self) -> str | None:
        return self._call.request.peer or None

    def secure(self) -> str:
        return "true" if self._call.request.secure else "false"

    def tls_version(self) -> str | None:
        return self._call.request.tls or None

    def now(self) -> str:
        return iso_second(self._call.now_ms)

    def epoch(self) -> str:
        return str(self._call.now_ms // 1000)

    def user_name(self) -> str | None:
        return self._call.identity.user_name or None

    def user_id(self) -> str:
        return self._call.identity.user_id or "anonymous"

    def principal_arn(self) -> str | None:
        return self._call.identity.parent_arn or self._call.identity.arn or None

    def principal_account(self) -> str | None:
        return self._call.identity.account_id or None

    def principal_type(self) -> str:
        who = self._call.identity
        if not who.access_key:
            return "Anonymous"
        return "AssumedRole" if who.session_token else "Account" if who.root else "User"

    def resource_account(self) -> str | None:
        return self._owner_account or None

    def region(self) -> str:
        return self._call.config.region

    def auth_type(self) -> str | None:
        if not self._call.identity.access_key:
            return None
        if self._call.operation == "PostObject":
            return "POST"
        return "REST-HEADER" if b"authorization" in self._call.request.headers else "REST-QUERY-STRING"

    def signature_version(self) -> str | None:
        if not self._call.identity.access_key:
            return None
        older = "AWSAccessKeyId" in self._call.query or self._call.header(b"authorization").startswith("AWS ")
        return "AWS" if older else "AWS4-HMAC-SHA256"

    def signature_age(self) -> str | None:
        """Milliseconds since the request was signed."""
        text = self._call.query.get("X-Amz-Date") or self._call.header(b"x-amz-date")
        if len(text) != 16:
            return None
        signed_s = http_time(f"{text[:4]}-{text[4:6]}-{text[6:11]}:{text[11:13]}:{text[13:]}")
        return None if signed_s is None else str(max(0, self._call.now_ms - signed_s * 1000))

    def lock_days(self) -> str | None:
        """Days the retention that is asked for would last."""
        until_s = http_time(self._call.header(b"x-amz-object-lock-retain-until-date"))
        return None if until_s is None else str(max(0, (until_s * 1000 - self._call.now_ms) // 86_400_000))

    def makes_object(self) -> str:
        return "true" if self._call.operation in _MAKES_OBJECTS else "false"


_MADE: Final[Mapping[str, Callable[[Facts], str | Sequence[str] | None]]] = {
    "aws:currenttime": Facts.now,
    "aws:epochtime": Facts.epoch,
    "aws:principalaccount": Facts.principal_account,
    "aws:principalarn": Facts.principal_arn,
    "aws:principalisawsservice": lambda _: "false",
    "aws:principaltype": Facts.principal_type,
    "aws:requestedregion": Facts.region,
    "aws:resourceaccount": Facts.resource_account,
    "aws:securetransport": Facts.secure,
    "aws:sourceip": Facts.source_ip,
    "aws:userid": Facts.user_id,
    "aws:username": Facts.user_name,
    "aws:viaawsservice": lambda _: "false",
    "s3:authtype": Facts.auth_type,
    "s3:x-amz-copy-source": Facts.copy_source,
    "s3:max-keys": Facts.max_keys,
    "s3:object-lock-remaining-retention-days": Facts.lock_days,
    "s3:objectcreationoperation": Facts.makes_object,
    "s3:requestobjecttagkeys": Facts.request_tag_keys,
    "s3:resourceaccount": Facts.resource_account,
    "s3:signatureage": Facts.signature_age,
    "s3:signatureversion": Facts.signature_version,
    "s3:tlsversion": Facts.tls_version,
}
