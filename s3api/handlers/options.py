"""What a write request says of the object it makes: headers → `PutOptions`, tags and storage class.

Owns nothing. Does not know bodies or objects that stand. Kind: pure. Invariants: nothing with a control character is let
through, so no stored value can break a reply's header block; what S3 knows and is not served here is refused.
Spec: AWS PutObject (request headers), "Working with object metadata", "Categorizing your storage using tags"; RFC 2047.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.errors import MessageError
from email.header import decode_header, make_header
from typing import Final
from urllib.parse import unquote_plus

from s3api.access import ownership_for
from s3api.call import Call
from s3api.checksums import CLAIMS
from s3api.errors import S3Error
from s3api.extensions import write_intent
from s3api.message import PLAIN_HEADERS, Headers
from s3api.objectlock import DOCUMENT, headers_lock, load
from s3api.params import invalid
from s3api.payload import stored_content_encoding
from s3api.preconditions import write_conditions
from tiering.contract import BucketInfo, Lock, PutOptions, Ttl

SINGLE_PUT_BYTES_MAX: Final = 5 << 30
"""Largest body of one PUT or part, and largest source of one copy (AWS: multipart upload limits)."""
METADATA_BYTES_MAX: Final = 2048
REDIRECT: Final = b"x-amz-website-redirect-location"
REDIRECT_BYTES_MAX: Final = 2048
TAGS_MAX: Final = 10
TAG_KEY_CHARS_MAX: Final = 128
TAG_VALUE_CHARS_MAX: Final = 256

CONTENT_TYPES_MAX: Final = 64
CONTENT_TYPE_BYTES_MAX: Final = 128
"""How many options are kept for the next request that says the same, and of what content types."""
_NO_OPTIONS: Final = PLAIN_HEADERS | CLAIMS | {b"content-encoding"}
_AWS_CHUNKED: Final = b"aws-chunked"
"""What writes carry that say nothing of their object but its type: the encoding only if it is of the transfer alone."""
_PLAIN_OPTIONS: dict[bytes, PutOptions] = {}

_META: Final = b"x-amz-meta-"
_SYSTEM: Final = frozenset(
    {b"cache-control", b"content-disposition", b"content-encoding", b"content-language", b"expires", REDIRECT}
)
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+\Z", re.ASCII)
_ENCODED_WORD = re.compile(r"=\?[^?\s]+\?[bqBQ]\?[^?\s]*\?=")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_TAG_TEXT = re.compile(r"[\w \-+=.:/@]*\Z")
STORAGE_CLASSES: Final = frozenset(
    {
        "STANDARD",
        "REDUCED_REDUNDANCY",
        "STANDARD_IA",
        "ONEZONE_IA",
        "INTELLIGENT_TIERING",
        "GLACIER",
        "GLACIER_IR",
        "DEEP_ARCHIVE",
        "EXPRESS_ONEZONE",
    }
)


def checked(name: str, value: str) -> str:
    """`value`, if it can stand in a header line; raises InvalidArgument naming the header."""
    if _CONTROL.search(value):
        raise invalid(name, _CONTROL.sub("?", value), "control characters are not allowed")
    return value


def _text(name: bytes, raw: bytes) -> str:
    """A header value as text: UTF-8 where it is that, else Latin-1, the historical reading of HTTP."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return checked(name.decode("latin-1"), text.strip())


def _metadata_text(name: bytes, raw: bytes) -> str:
    """As `_text`, with RFC 2047 encoded words decoded before they are stored, as S3 does."""
    text = _text(name, raw)
    # The library looks for the end of a word from each beginning of one: what is too long anyway stays as it is.
    if "=?" in text and len(text) <= 4 * METADATA_BYTES_MAX and _ENCODED_WORD.search(text):
        try:
            text = checked(name.decode("latin-1"), str(make_header(decode_header(text))))
        except (MessageError, LookupError, UnicodeError):
            pass  # no encoded word after all, or a charset nobody knows: it is stored as it was sent
    return text


def metadata_of(headers: Headers) -> dict[str, str]:
    """User metadata by lower-case name without its prefix. Raises InvalidArgument, MetadataTooLarge."""
    metadata: dict[str, str] = {}
    size = 0
    for header, raw in headers.items():
        if header.startswith(_META):
            name = header[len(_META) :].decode("latin-1").lower()
            if not _TOKEN.match(name):
                raise invalid(header.decode("latin-1"), "", "it is not a header name")
            value = _metadata_text(header, raw)
            metadata[name] = value
            size += len(name) + len(value.encode())
    if size > METADATA_BYTES_MAX:
        raise S3Error("MetadataTooLarge", Size=size, MaxSizeAllowed=METADATA_BYTES_MAX)
    return metadata


def system_of(headers: Headers) -> dict[str, str]:
    """System metadata but the content type, by header name."""
    found: dict[str, str] = {}
    for header in _SYSTEM.intersection(headers):
        value = _text(header, headers[header])
        if header == b"content-encoding":
            value = stored_content_encoding(value)
        elif header == REDIRECT:
            _check_redirect(value)
        if value:
            found[header.decode()] = value
    return found


def _check_redirect(location: str) -> None:
    """Raises InvalidRedirectLocation: a place in the bucket, or a web address, and no longer than AWS takes."""
    if not location.startswith(("/", "http://", "https://")) or len(location.encode()) > REDIRECT_BYTES_MAX:
        raise S3Error("InvalidRedirectLocation")


def redirect_of(headers: Headers) -> dict[str, str]:
    """The redirect alone, as `system_of` has it."""
    return system_of({REDIRECT: headers[REDIRECT]}) if REDIRECT in headers else {}


def storage_class_of(headers: Headers) -> str:
    """The class named, "" for none or STANDARD. Raises InvalidStorageClass."""
    raw = headers.get(b"x-amz-storage-class")
    if raw is None:
        return ""
    value = raw.decode("latin-1").strip()
    if value not in STORAGE_CLASSES:
        raise S3Error("InvalidStorageClass", StorageClassRequested=value[:64])
    return "" if value == "STANDARD" else value


def check_tags(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Tags in the order given. Raises BadRequest: too many; InvalidTag: too long, twice, reserved, characters S3 refuses."""
    if len(pairs) > TAGS_MAX:
        raise S3Error("BadRequest", f"Object tags cannot be greater than {TAGS_MAX}")
    tags: dict[str, str] = {}
    for key, value in pairs:
        if not 1 <= len(key) <= TAG_KEY_CHARS_MAX or not _TAG_TEXT.match(key):
            raise S3Error("InvalidTag", "The TagKey you have provided is invalid", TagKey=key[:TAG_KEY_CHARS_MAX])
        if len(value) > TAG_VALUE_CHARS_MAX or not _TAG_TEXT.match(value):
            shown = value[:TAG_VALUE_CHARS_MAX]
            raise S3Error("InvalidTag", "The TagValue you have provided is invalid", TagKey=key, TagValue=shown)
        if key.lower().startswith("aws:"):
            raise S3Error("InvalidTag", "Your TagKey cannot be prefixed with aws:", TagKey=key)
        if key in tags:
            raise S3Error("InvalidTag", "Cannot provide multiple Tags with the same key", TagKey=key)
        tags[key] = value
    return tags


def tags_of(headers: Headers) -> dict[str, str]:
    """The tags of `x-amz-tagging`: `key=value&key2=value2`, percent-encoded. Raises InvalidArgument, InvalidTag, BadRequest."""
    raw = headers.get(b"x-amz-tagging")
    if not raw:
        return {}
    text = raw.decode("latin-1").strip()
    pairs = [piece.partition("=") for piece in text.split("&") if piece]
    if _BROKEN_ESCAPE.search(text) or any(not key or "=" in value for key, _, value in pairs):
        raise _bad_tagging(text)
    try:
        decoded = [
            (unquote_plus(key, errors="strict"), unquote_plus(value, errors="strict")) for key, _, value in pairs
        ]
    except UnicodeDecodeError:
        raise _bad_tagging(text) from None
    if len({key for key, _ in decoded}) < len(decoded):
        raise _bad_tagging(text)
    return check_tags(decoded)


def _bad_tagging(text: str) -> S3Error:
    return S3Error(
        "InvalidArgument",
        "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name "
        "duplicates.",
        ArgumentName="x-amz-tagging",
        ArgumentValue=text[:256],
    )


def check_lockable(bucket: BucketInfo, why: str = "Bucket is missing Object Lock Configuration") -> None:
    """Raises InvalidRequest for a bucket without object lock."""
    if not bucket.object_lock:
        raise S3Error("InvalidRequest", why)


def lock_of(call: Call, headers: Headers) -> Lock | None:
    """The lock of a new object: what the headers say, else the bucket's default. Raises InvalidArgument, InvalidRequest
    for a bucket without object lock, AccessDenied."""
    bucket = call.store.bucket(call.bucket)
    lock = headers_lock(headers, call.now_ms)
    if lock is not None:
        check_lockable(bucket, "Bucket is missing ObjectLockConfiguration")  # S3 writes it so of writes
        if lock.mode:
            call.require("s3:PutObjectRetention")
        if lock.legal_hold is not None:
            call.require("s3:PutObjectLegalHold")
    return with_default(call, bucket, lock)


def with_default(call: Call, bucket: BucketInfo, lock: Lock | None) -> Lock | None:
    """A lock with the retention that the bucket gives to objects which name none."""
    if not bucket.object_lock or (lock is not None and lock.mode):
        return lock
    default = load(bucket.documents.get(DOCUMENT, ""))
    if default is None:
        return lock
    return Lock(default.mode, default.until_ms(call.now_ms), None if lock is None else lock.legal_hold)


def check_deadline(call: Call, ttl: Ttl | None, version: str | None = None) -> None:
    """Raises AccessDenied for a deadline that the caller may not set on what stands: in a bucket with versions it takes
    one away for good, which is more than to write."""
    if ttl is not None and ttl.ttl_ms and (call.bucket_info or call.store.bucket(call.bucket)).versioning:
        call.require("s3:DeleteObjectVersion", version=version)


def _plain_options(content_type: bytes) -> PutOptions:
    """What a request says of its object that names a content type, and nothing else."""
    known = _PLAIN_OPTIONS.get(content_type)
    if known is None:
        known = PutOptions(content_type=_text(b"content-type", content_type))
        if len(_PLAIN_OPTIONS) < CONTENT_TYPES_MAX and len(content_type) <= CONTENT_TYPE_BYTES_MAX:
            _PLAIN_OPTIONS[content_type] = known
    return known


def put_options(call: Call, tags: Mapping[str, str] | None = None, event: str = "") -> PutOptions:
    """All that the headers of PUT, CreateMultipartUpload or a replacing copy say. `tags` None reads x-amz-tagging.
    `event`: what to record with the object, as `Call.origin`."""
    headers = call.request.headers
    if tags is None and _NO_OPTIONS.issuperset(headers) and not call.config.key_rules:
        bucket, who = call.bucket_info or call.store.bucket(call.bucket), call.identity
        if (who.owner == bucket.owner or not who.access_key) and not bucket.object_lock:
            origin = call.origin(event) if event else None
            if origin is None and headers.get(b"content-encoding", _AWS_CHUNKED) == _AWS_CHUNKED:
                return _plain_options(headers.get(b"content-type", b""))
    metadata = metadata_of(headers)
    kept_tags = tags_of(headers) if tags is None else tags
    intent = write_intent(headers, metadata, kept_tags, call.bucket, call.key, call.config.key_rules)
    ownership = ownership_for(call, call.bucket_info or call.store.bucket(call.bucket))
    return PutOptions(
        content_type=_text(b"content-type", headers.get(b"content-type", b"")),
        headers=system_of(headers),
        metadata=metadata,
        tags=kept_tags,
        storage_class=storage_class_of(headers),
        pin_ms=intent.pin_ms or 0,
        ttl=intent.ttl if intent.ttl is not None and intent.ttl.ttl_ms else None,  # a new object has no TTL to remove
        conditions=write_conditions(headers),
        owner=ownership.owner,
        acl=ownership.acl,
        lock=lock_of(call, headers),
        origin=call.origin(event) if event else None,
    )
