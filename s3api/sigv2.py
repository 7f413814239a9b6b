"""AWS Signature Version 2, in a URL or a header: who signed, and what of the request the signature covers.

URLs are still what the AWS CLI of version 1 and boto3 make by default for us-east-1; the header `Authorization: AWS …`
is what clients of an older day send, and what some are told to fall back to.

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
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from s3api.errors import ONE_MECHANISM, S3Error
from s3api.message import Headers
from s3api.moment import iso_second
from s3api.operations import DISCRIMINATORS
from s3api.params import http_time, query_headers

ACCESS_KEY: Final = "AWSAccessKeyId"
"""The query name a presigned URL is known by."""
SCHEME: Final = b"AWS "
"""How the Authorization header of such a request begins; that of version 4 does not."""

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

_IN_QUERY: Final = re.compile(r"x-amz-|content-md5\Z|content-type\Z")
_DIGITS: Final = re.compile(r"[0-9]{1,12}", re.ASCII)


def with_query_headers(headers: Headers, query: Mapping[str, str]) -> Headers:
    """`headers` and those that such a URL carries in its query: x-amz-*, Content-MD5, Content-Type.

    A header that was sent stands; the signature then judges whether it is the one meant. To be called before the
    operation is resolved: x-amz-copy-source makes another one. Raises InvalidArgument for what cannot be a header.
    """
    return query_headers(query, _IN_QUERY) | headers


def verify_header(
    method: str,
    path: bytes,
    bucket: str,
    query: Mapping[str, str],
    headers: Headers,
    now_s: int,
    skew_s: int,
    secret_of: Callable[[str], str | None],
) -> str:
    """The access key that signed a request whose Authorization header begins with `SCHEME`.

    `path` and `bucket` as for `verify`. Raises InvalidArgument for a header that holds no key and signature,
    AccessDenied for a missing date or what is not covered, RequestTimeTooSkewed, and as `verify`.
    """
    authorization = headers[b"authorization"].decode("latin-1")
    access_key, colon, given = authorization[len(SCHEME) :].strip().partition(":")
    if not (access_key and colon and given):
        raise S3Error(
            "InvalidArgument",
            "AWS authorization header is invalid. Expected AwsAccessKeyId:signature",
            ArgumentName="Authorization",
        )
    _check_alone(query)
    _check_covered(query, headers, presigned=False)
    amz_date = headers.get(b"x-amz-date")
    date = headers.get(b"date", b"") if amz_date is None else amz_date
    sent_s = http_time(date.decode("latin-1"))
    if sent_s is None:
        raise S3Error("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header.")
    if abs(now_s - sent_s) > skew_s:
        raise S3Error(
            "RequestTimeTooSkewed",
            RequestTime=iso_second(sent_s * 1000),
            ServerTime=iso_second(now_s * 1000),
            MaxAllowedSkewMilliseconds=skew_s * 1000,
        )
    # With x-amz-date, which stands among the headers, the place of the date stays empty.
    place = date.strip() if amz_date is None else b""
    return _signer(access_key, given, _strings_to_sign(method, path, bucket, query, headers, place), secret_of)


def verify(
    method: str,
    path: bytes,
    bucket: str,
    query: Mapping[str, str],
    headers: Headers,
    now_s: int,
    secret_of: Callable[[str], str | None],
) -> str:
    """The access key that signed a URL.

    `path` as sent; `bucket`: the one the Host stands for, "" where the path names it; `headers` as
    `with_query_headers` gives them. Raises AccessDenied for what is missing, expired or not covered, InvalidArgument,
    InvalidAccessKeyId, SignatureDoesNotMatch.
    """
    _check_form(query, headers)
    access_key, given, expires = query[ACCESS_KEY], query["Signature"], query["Expires"]
    if not _DIGITS.fullmatch(expires):
        raise S3Error("AccessDenied", "Expires must be a time in whole seconds since 1970-01-01T00:00:00Z.")
    if now_s > int(expires):
        raise S3Error(
            "AccessDenied",
            "Request has expired.",
            Expires=iso_second(int(expires) * 1000),
            ServerTime=iso_second(now_s * 1000),
        )
    texts = _strings_to_sign(method, path, bucket, query, headers, expires.encode())
    return _signer(access_key, given, texts, secret_of)


def _signer(access_key: str, given: str, texts: Iterator[bytes], secret_of: Callable[[str], str | None]) -> str:
    """The access key, when `given` is its signature of one of `texts`."""
    secret = secret_of(access_key)
    if secret is None:
        raise S3Error("InvalidAccessKeyId", AWSAccessKeyId=access_key[:128])
    text = b""
    for text in texts:
        if hmac.compare_digest(sign(secret, text), given.encode("utf-8", "replace")):
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
    _check_alone(query, b"authorization" in headers)
    if not (query[ACCESS_KEY] and query.get("Signature") and query.get("Expires")):
        raise S3Error(
            "AccessDenied",
            "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters.",
        )
    _check_covered(query, headers, presigned=True)
    for name in headers:
        # As in URLs of version 4: what its holder adds, and its maker did not sign, must not widen it.
        if name.startswith(b"x-recall-"):
            raise S3Error(
                "AccessDenied",
                "There were headers present in the request which were not signed.",
                HeadersNotSigned=name.decode("latin-1"),
            )


def _check_alone(query: Mapping[str, str], header_too: bool = False) -> None:
    if header_too or "X-Amz-Signature" in query or "X-Amz-Algorithm" in query:
        raise S3Error("InvalidArgument", ONE_MECHANISM)


def _check_covered(query: Mapping[str, str], headers: Headers, presigned: bool) -> None:
    """Nothing is asked for that version 2 does not sign."""
    uncovered = min(_UNSIGNABLE.intersection(query), default="")
    if uncovered:
        raise S3Error("AccessDenied", f"Signature Version 2 does not cover the parameter {uncovered}.")
    content = headers.get(b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD")
    if content != b"UNSIGNED-PAYLOAD" and (presigned or content.startswith(b"STREAMING-")):
        # In a header some clients leave the hash of version 4: it is signed, but nothing here is promised of it.
        raise S3Error(
            "InvalidArgument",
            "The content of a request signed with Signature Version 2 is unsigned: x-amz-content-sha256 must be "
            "absent or UNSIGNED-PAYLOAD.",
            ArgumentName="x-amz-content-sha256",
            ArgumentValue=content[:128].decode("latin-1"),
        )


def _strings_to_sign(
    method: str, path: bytes, bucket: str, query: Mapping[str, str], headers: Headers, date: bytes
) -> Iterator[bytes]:
    """The texts a client may have signed for this request: one, or a few that say the same. `date`: or the expiry."""
    head = [
        method.encode("latin-1", "replace"),
        headers.get(b"content-md5", b"").strip(),
        headers.get(b"content-type", b"").strip(),
        date,
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
