"""Presigned URLs of AWS Signature Version 2: who made the URL, and what of the request it covers.

Still what the AWS CLI of version 1 and boto3 make by default for us-east-1. Only the query form is read; a header
`Authorization: AWS …` is refused by `s3api.sigv4`.

Owns nothing. Does not know what an identity may do, nor bodies: the content is never signed.
Kind: pure. Invariants: what selects an operation is signed, or refused; an `x-amz-` query parameter counts as the
header of that name, for the signature and for the operation alike; signatures are compared in constant time; a secret
never reaches a message.
Spec: AWS S3 User Guide, "Signing and authenticating REST requests" (Signature Version 2), "Query string request
authentication alternative".
"""

from __future__ import annotations

import base64
import hmac
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from s3api.errors import S3Error
from s3api.message import Headers
from s3api.operations import DISCRIMINATORS
from s3api.params import invalid

ACCESS_KEY: Final = "AWSAccessKeyId"
"""The query name a request is known by as one of these."""

SIGNED_NAMES: Final = frozenset(
    {
        "accelerate", "acl", "analytics", "cors", "defaultObjectAcl", "delete", "inventory", "lifecycle", "location",
        "logging", "metrics", "notification", "object-lock", "partNumber", "policy", "replication", "requestPayment",
        "restore", "select", "select-type", "storageClass", "tagging", "torrent", "uploadId", "uploads", "versionId",
        "versioning", "versions", "website",
        "response-cache-control", "response-content-disposition", "response-content-encoding",
        "response-content-language", "response-content-type", "response-expires",
    }
)  # fmt: skip
"""Query names that are part of the signed resource: AWS's list, with what its SDKs added to it."""

_UNSIGNABLE: Final = DISCRIMINATORS - SIGNED_NAMES - {"list-type"}
"""Names that select an operation and no signer covers: the holder of a URL could add them. `list-type` selects only
the form of a listing, and clients send it unsigned."""

_HEADER_NAME: Final = re.compile(r"x-amz-[a-z0-9!#$%&'*+.^_`|~-]+|content-(?:md5|type)")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_DIGITS: Final = re.compile(r"[0-9]{1,12}", re.ASCII)


def with_query_headers(headers: Headers, query: Mapping[str, str]) -> Headers:
    """`headers` and those that such a URL carries in its query: x-amz-*, Content-MD5, Content-Type.

    A header that was sent stands; the signature then judges whether it is the one meant. To be called before the
    operation is resolved: x-amz-copy-source makes another one. Raises InvalidArgument for what cannot be a header.
    """
    out: Headers = {}
    for name, value in query.items():
        lowered = name.lower()
        if lowered.startswith("x-amz-") or lowered in ("content-md5", "content-type"):
            # A line feed would let two values be read as one, or one as two, under the same signature.
            if not _HEADER_NAME.fullmatch(lowered) or lowered.encode() in out or _CONTROL.search(value):
                raise invalid(name, value, "it must be one valid header")
            out[lowered.encode()] = value.strip().encode()
    return out | headers


def verify(
    method: str,
    path: bytes,
    bucket: str,
    query: Mapping[str, str],
    headers: Headers,
    now_s: int,
    secret_of: Callable[[str], str | None],
) -> str:
    """The access key that signed.

    `path` as sent; `bucket`: the one the Host stands for, "" where the path names it; `headers` as
    `with_query_headers` gives them. Raises AccessDenied for what is missing, expired or not covered, InvalidArgument,
    InvalidToken, InvalidAccessKeyId, SignatureDoesNotMatch.
    """
    _check_form(query, headers)
    access_key, given, expires = query[ACCESS_KEY], query["Signature"], query["Expires"]
    if not _DIGITS.fullmatch(expires):
        raise S3Error("AccessDenied", "Expires must be a time in whole seconds since 1970-01-01T00:00:00Z.")
    if now_s > int(expires):
        raise S3Error("AccessDenied", "Request has expired.", Expires=_iso(int(expires)), ServerTime=_iso(now_s))
    secret = secret_of(access_key)
    if secret is None:
        raise S3Error("InvalidAccessKeyId", AWSAccessKeyId=access_key[:128])
    text = b""
    for text in _strings_to_sign(method, path, bucket, query, headers, expires):
        if hmac.compare_digest(sign(secret, text), given.encode()):
            return access_key
    raise S3Error(
        "SignatureDoesNotMatch",
        AWSAccessKeyId=access_key[:128],
        StringToSign=text[:8192].decode("utf-8", "replace"),
        SignatureProvided=given[:128],
    )


def sign(secret: str, text: bytes) -> bytes:
    """Base64 of HMAC-SHA1 of `text`."""
    return base64.b64encode(hmac.digest(secret.encode("utf-8", "surrogateescape"), text, "sha1"))


def _check_form(query: Mapping[str, str], headers: Headers) -> None:
    """Everything the URL must have and must not, but for its time and signature."""
    if b"authorization" in headers or "X-Amz-Signature" in query or "X-Amz-Algorithm" in query:
        raise S3Error("InvalidArgument", "Only one auth mechanism allowed; use the header or the query.")
    if not (query[ACCESS_KEY] and query.get("Signature") and query.get("Expires")):
        raise S3Error(
            "AccessDenied",
            "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters.",
        )
    if headers.get(b"x-amz-security-token"):
        raise S3Error("InvalidToken")
    uncovered = min(_UNSIGNABLE.intersection(query), default="")
    if uncovered:
        raise S3Error("AccessDenied", f"Signature Version 2 does not cover the parameter {uncovered}.")
    for name in headers:
        # As in URLs of version 4: what its holder adds, and its maker did not sign, must not widen it.
        if name.startswith(b"x-recall-"):
            raise S3Error(
                "AccessDenied",
                "There were headers present in the request which were not signed.",
                HeadersNotSigned=name.decode("latin-1"),
            )
    content = headers.get(b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD")
    if content != b"UNSIGNED-PAYLOAD":
        raise S3Error(
            "InvalidArgument",
            "The content of a URL presigned with Signature Version 2 is unsigned: x-amz-content-sha256 must be "
            "absent or UNSIGNED-PAYLOAD.",
            ArgumentName="x-amz-content-sha256",
            ArgumentValue=content[:128].decode("latin-1"),
        )


def _strings_to_sign(
    method: str, path: bytes, bucket: str, query: Mapping[str, str], headers: Headers, expires: str
) -> Iterator[bytes]:
    """The texts a client may have signed for this request: one, or a few that say the same."""
    head = [
        method.encode("latin-1", "replace"),
        headers.get(b"content-md5", b"").strip(),
        headers.get(b"content-type", b"").strip(),
        expires.encode(),
        *(name + b":" + headers[name].strip() for name in sorted(headers) if name.startswith(b"x-amz-")),
    ]
    whole = b"/" + bucket.encode() + path if bucket else path
    paths = [whole]
    # Of a bucket, some sign the path with its slash and send it without.
    bare = whole.removesuffix(b"/")
    if bare.count(b"/") == 1:
        paths = [bare, bare + b"/"]
    names = sorted(SIGNED_NAMES.intersection(query))
    as_sent = b"&".join([_resource(name, query[name], b"") for name in names])
    # A name without a value is signed bare, or with the equals sign it may have been sent with.
    with_equals = b"&".join([_resource(name, query[name], b"=") for name in names])
    for resource in paths:
        for subs in dict.fromkeys((as_sent, with_equals)):
            yield b"\n".join((*head, resource + b"?" + subs if subs else resource))


def _resource(name: str, value: str, empty: bytes) -> bytes:
    return f"{name}={value}".encode() if value else name.encode() + empty


def _iso(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
