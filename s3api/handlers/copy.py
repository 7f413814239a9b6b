"""CopyObject, and what it shares with UploadPartCopy: the reading of `x-amz-copy-source`.

Owns nothing. Does not know how bytes are copied, or whether they are. Kind: shell (the loop).
Spec: AWS CopyObject, UploadPartCopy; docs/EXTENSIONS.md (a copy's pin and TTL come from its own request).
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Final, NamedTuple

import msgspec

from s3api import xml
from s3api.access import ownership_for
from s3api.call import Call
from s3api.checksums import ALGORITHMS, Requested
from s3api.encryption import SOURCE_CUSTOMER, Asked
from s3api.errors import S3Error
from s3api.extensions import PIN_HEADER, TTL_HEADER, write_intent
from s3api.handlers.archive import judge_readable
from s3api.handlers.body import Intake, arrived
from s3api.handlers.fields import kept_checksum, lease_lines
from s3api.handlers.lifecycle import expiry_of
from s3api.handlers.objects import bucket_of
from s3api.handlers.options import (
    REDIRECT,
    SINGLE_PUT_BYTES_MAX,
    lock_of,
    put_options,
    redirect_of,
    storage_class_of,
    tags_of,
)
from s3api.handlers.sealed import (
    Seal,
    as_content,
    content_pieces,
    has_md5,
    invalid_range,
    make_seal,
    put_content,
    wanted_of,
    written_lines,
)
from s3api.message import Headers, Response
from s3api.moment import iso_date
from s3api.operations import COPY_SOURCE
from s3api.params import percent_decode
from s3api.preconditions import source_conditions, write_conditions
from s3api.target import check_key, may_be_bucket
from s3api.versions import parse_version, version_line, written_line
from tiering.contract import (
    Checksum,
    Conditions,
    CopyOptions,
    InvalidRange,
    IsMarker,
    NoSuchKey,
    NoSuchVersion,
    NotModified,
    ObjectInfo,
    PreconditionFailed,
    PutOptions,
    Reading,
    ReadOptions,
    copied_options,
)

SOURCE_OWNER: Final = b"x-amz-source-expected-bucket-owner"
_DIRECTIVES: Final = ("", "COPY", "REPLACE")
_CHANGES: Final = (
    REDIRECT,
    b"x-amz-storage-class",
    b"x-amz-checksum-algorithm",
    PIN_HEADER.encode(),
    TTL_HEADER.encode(),
)
"""Headers whose presence makes a copy of an object onto itself a change."""


class Source(NamedTuple):
    """What is copied. `version` as `ReadOptions.version`: None is the current one."""

    bucket: str
    key: str
    version: str | None = None

    @property
    def place(self) -> tuple[str, str]:
        return self.bucket, self.key

    @property
    def action(self) -> str:
        """The right that reading it asks for."""
        return "s3:GetObject" if self.version is None else "s3:GetObjectVersion"


def copy_source(headers: Headers) -> Source:
    """What `x-amz-copy-source` names: percent-encoded, `+` for a space, leading slash optional, `?versionId=` allowed.

    Raises InvalidArgument, KeyTooLongError.
    """
    raw = headers[COPY_SOURCE].strip()
    path, question, named = raw.partition(b"?versionId=")  # a question mark of the key is sent as %3F
    version = parse_version(named.decode("latin-1")) if question else None
    try:
        text = percent_decode(path.replace(b"+", b" ")).decode()
    except (S3Error, UnicodeDecodeError):
        raise _bad_source("Invalid copy source encoding", raw) from None
    bucket, _, key = text.removeprefix("/").partition("/")
    if not may_be_bucket(bucket):
        raise _bad_source("Invalid copy source bucket name", raw)
    if not key:
        raise _bad_source("Invalid copy source object key", raw)
    return Source(bucket, check_key(key), version)


def check_bodiless(call: Call) -> None:
    """Raises InvalidRequest for a copy that brings content of its own: which of the two is meant must not be a guess."""
    if call.request.body.length:
        raise S3Error(
            "InvalidRequest", "The request included a body. Requests of this type must not include a non-empty body."
        )


def _bad_source(why: str, raw: bytes) -> S3Error:
    return S3Error("InvalidArgument", why, ArgumentName="x-amz-copy-source", ArgumentValue=raw.decode("latin-1")[:256])


async def look_at_source(call: Call, source: Source, options: ReadOptions) -> Reading:
    """Opens the source without a body, in terms of its content, once the caller may read it. Raises as `Objects.open`;
    InvalidRequest for a delete marker that is named, and for a customer's key that is missing; AccessDenied."""
    bucket = call.store.bucket(source.bucket)
    if SOURCE_OWNER in call.request.headers:
        call.access.check_owner(SOURCE_OWNER.decode(), call.header(SOURCE_OWNER), bucket)
    judged = call.access.is_plain(call.identity, source.action, bucket)
    try:
        if not judged:  # before ranges and conditions, whose refusals would tell of the object
            await _judge_source(call, source)
        reading = await arrived(call.store.open(*source.place, options))
    except InvalidRange as error:
        raise await invalid_range(call, source.place, options, error) from None
    except IsMarker:
        raise S3Error(
            "InvalidRequest",
            "The source of a copy request may not specifically refer to a delete marker by version id.",
        ) from None
    if judged and reading.info.owner:
        call.require(source.action, *source, reading.info)
    judge_readable(reading.info, call.now_ms, "ObjectNotInActiveTierError")
    return await as_content(call, source.place, reading, options, SOURCE_CUSTOMER)


async def _judge_source(call: Call, source: Source) -> None:
    """Raises AccessDenied, also for a key that is missing where the caller may not list its bucket."""
    try:
        opened = await arrived(call.store.open(*source.place, ReadOptions(head=True, version=source.version)))
    except (NoSuchKey, NoSuchVersion):
        if not call.may_list(*source.place):
            raise S3Error("AccessDenied") from None
        raise
    call.require(source.action, *source, opened.info)


def _require_tags(call: Call, source: Source) -> None:
    """Copying tags is reading them there and writing them here. Raises AccessDenied."""
    call.require("s3:GetObjectTagging" if source.version is None else "s3:GetObjectVersionTagging", *source)
    call.require("s3:PutObjectTagging")


def source_line(call: Call, source: Source, info: ObjectInfo) -> str:
    """`x-amz-copy-source-version-id`, where the source's bucket has versions."""
    line = version_line(info.version, call.store.bucket(source.bucket))
    return line.replace("x-amz-version-id", "x-amz-copy-source-version-id")


def checksum_leaves(writer: xml.XmlWriter, checksum: Checksum, with_type: bool = True) -> None:
    """`ChecksumCRC32` and its like, then the type."""
    writer.leaf(f"Checksum{checksum.algorithm}", checksum.value)
    if with_type:
        writer.leaf("ChecksumType", checksum.kind)


def algorithm_of(headers: Headers) -> str:
    """`x-amz-checksum-algorithm` as AWS spells it, "" when absent. Raises InvalidRequest."""
    raw = headers.get(b"x-amz-checksum-algorithm")
    if raw is None:
        return ""
    named = raw.decode("latin-1").strip().upper()
    if named not in ALGORITHMS:
        raise S3Error(
            "InvalidRequest",
            f"Checksum algorithm provided is unsupported. Please try again with any of the valid types: "
            f"[{', '.join(ALGORITHMS)}]",
        )
    return named


def _directive(call: Call, name: str) -> bool:
    """Whether a directive header says REPLACE."""
    value = call.header(name.encode())
    if value not in _DIRECTIVES:
        kind = name.removeprefix("x-amz-").replace("-", " ")
        raise S3Error("InvalidArgument", f"Unknown {kind}.", ArgumentName=name, ArgumentValue=value[:256])
    return value == "REPLACE"


def _redirected(options: CopyOptions, headers: Headers, seen: ObjectInfo) -> CopyOptions:
    """The options of a copy that keeps its source's metadata but for the redirect, which is never copied: it is the
    request's own, or none."""
    name = REDIRECT.decode()
    named = redirect_of(headers)
    if not named and name not in seen.headers:
        return options
    kept = {header: value for header, value in seen.headers.items() if header != name}
    replace = PutOptions(content_type=seen.content_type, headers=kept | named, metadata=seen.metadata)
    wanted = options.source_conditions or Conditions()
    if wanted.if_match is None:  # the words of the object that was looked at must not go with other bytes
        wanted = msgspec.structs.replace(wanted, if_match=(seen.etag,))
    return msgspec.structs.replace(options, replace=replace, source_conditions=wanted)


async def copy_object(call: Call) -> Response:
    """Copies within the gateway; metadata and tags are the source's unless a directive replaces them."""
    headers = call.request.headers
    source = copy_source(headers)
    check_bodiless(call)
    replace_metadata = _directive(call, "x-amz-metadata-directive")
    replace_tags = _directive(call, "x-amz-tagging-directive")
    algorithm = algorithm_of(headers)
    bucket = bucket_of(call)
    wanted = wanted_of(call, bucket, headers)
    if source == (call.bucket, call.key, None):
        changes = replace_metadata or replace_tags or wanted is not None or any(name in headers for name in _CHANGES)
        if not changes:
            raise S3Error(
                "InvalidRequest",
                "This copy request is illegal because it is trying to copy an object to itself without changing the "
                "object's metadata, storage class, website redirect location or encryption attributes.",
            )
    tags = tags_of(headers) if replace_tags else None
    if replace_metadata:
        replace = put_options(call, tags or {})
        pin_ms, ttl = replace.pin_ms, replace.ttl
    else:
        intent = write_intent(headers, {}, tags or {}, call.bucket, call.key, call.config.key_rules)
        replace, pin_ms = None, intent.pin_ms or 0
        ttl = intent.ttl if intent.ttl is not None and intent.ttl.ttl_ms else None
    ownership = ownership_for(call, bucket)
    opened = await _opened_source(call, source)
    seen = opened.info
    if seen.tags and tags is None:
        _require_tags(call, source)
    if seen.size > SINGLE_PUT_BYTES_MAX:
        raise S3Error(
            "InvalidRequest",
            "The specified copy source is larger than the maximum allowable size for a copy source: "
            f"{SINGLE_PUT_BYTES_MAX}",
        )
    options = CopyOptions(
        source_conditions=source_conditions(headers, call.now_ms),
        conditions=write_conditions(headers),
        replace=replace,
        tags=tags,
        storage_class=storage_class_of(headers),
        pin_ms=pin_ms,
        ttl=ttl,
        checksum_algorithm=algorithm or None,
        source_version=seen.version or source.version,  # the very version that the reply will name
        owner=ownership.owner,
        acl=ownership.acl,
        lock=replace.lock if replace is not None else lock_of(call, headers),
        origin=call.origin("ObjectCreated:Copy"),
    )
    if replace is None:
        options = _redirected(options, headers, seen)
    if _shares_bytes(seen, wanted, algorithm):
        info = await _copy_shared(call, source, seen, options)
    else:
        seal = None if wanted is None else make_seal(call.config.keys, wanted)
        info = await _copy_content(call, source, opened, options, seal)
    writer = xml.XmlWriter("CopyObjectResult")
    writer.leaf("LastModified", iso_date(info.modified_ms))
    writer.leaf("ETag", f'"{info.etag}"')
    checksum_leaves(writer, kept_checksum(info))
    lines = lease_lines(info, call.now_ms, expiry_of(call, info))
    lines += written_line(info.version) + source_line(call, source, seen) + written_lines(call, info)
    return Response(200, xml.CONTENT_TYPE + lines.encode(), writer.finish())


async def _opened_source(call: Call, source: Source) -> Reading:
    """The head of the source. Raises as `look_at_source`; PreconditionFailed."""
    conditions = source_conditions(call.request.headers, call.now_ms)
    try:
        return await look_at_source(call, source, ReadOptions(head=True, conditions=conditions, version=source.version))
    except (NotModified, PreconditionFailed) as failed:
        raise source_refused(conditions, failed) from None


def source_refused(conditions: Conditions | None, failed: NotModified | PreconditionFailed) -> S3Error:
    """What a copy answers whose source does not meet the conditions: also where a read would have been 304."""
    name = failed.facts.get("condition")
    if name is None:
        tagged = conditions is not None and conditions.if_none_match is not None
        name = "If-None-Match" if tagged else "If-Modified-Since"
    return S3Error("PreconditionFailed", Condition=f"x-amz-copy-source-{name}")


def _shares_bytes(seen: ObjectInfo, wanted: Asked | None, algorithm: str) -> bool:
    """Whether the copy is stored in the source's very bytes, so that the store may make it without moving any."""
    kept = seen.encryption
    if kept is None or wanted is None:
        return kept is None and wanted is None
    same = (kept.mode, kept.key_id, kept.context, kept.bucket_key)
    if wanted.customer is not None or same != (wanted.mode, wanted.key_id, wanted.context, wanted.bucket_key):
        return False
    return not algorithm or (seen.checksum is not None and seen.checksum.algorithm == algorithm)


async def _copy_shared(call: Call, source: Source, seen: ObjectInfo, options: CopyOptions) -> ObjectInfo:
    """A copy by the store. Where the caller's right to read may hang on the very object, of that object and no other.

    Raises OperationAborted once it has been written over.
    """
    target, wanted = (call.bucket, call.key), options.source_conditions or Conditions()
    plain = call.access.is_plain(call.identity, source.action, call.store.bucket(source.bucket)) and not seen.owner
    if plain or wanted.if_match is not None:
        return await call.store.copy(source.place, target, options)
    wanted = msgspec.structs.replace(wanted, if_match=(seen.etag,))
    try:
        return await call.store.copy(source.place, target, msgspec.structs.replace(options, source_conditions=wanted))
    except PreconditionFailed as failed:
        if failed.facts.get("condition") != "x-amz-copy-source-If-Match":
            raise
        raise S3Error("OperationAborted", f"{source.key} was written while it was copied.") from None


async def _copy_content(
    call: Call, source: Source, opened: Reading, options: CopyOptions, seal: Seal | None
) -> ObjectInfo:
    """A copy that is sealed in another way than its source. Raises PreconditionFailed once the source is another object."""
    seen, bucket = opened.info, bucket_of(call)
    described = copied_options(seen, options)
    size = opened.stop - opened.start
    writer = await arrived(put_content(call.store, (call.bucket, call.key), size, described, seal))
    try:
        kept = "" if seen.checksum is None else seen.checksum.algorithm
        requested = Requested(options.checksum_algorithm or kept)
        intake = Intake(writer, requested, md5=has_md5(bucket, seal))
        pieces = content_pieces(call.store, source.place, opened, options.source_version)
        async with aclosing(pieces) as found:
            async for piece in found:
                await intake.take(piece)
        return await writer.commit(intake.conclude())
    except BaseException:  # cancellation too
        writer.abort()
        raise
