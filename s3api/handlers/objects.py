"""GET, HEAD, PUT and DELETE of objects.

Reading a hot object is the hot path: no task, no await, one look into the store, one header block joined and encoded.
Writing asks the store first (preconditions, room) and reads the body after, so that a refused block is never sent.

Owns nothing between calls. Does not know storage, transports or signatures.
Kind: shell (the loop). Invariants: an opened object is answered or closed; a writer is committed or aborted.
Spec: AWS GetObject, HeadObject, PutObject, DeleteObject, DeleteObjects; RFC 9110 §13.2.2, §14.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Final

import msgspec

from s3api import xml
from s3api.call import Answer, Call, KeyOutcome
from s3api.checksums import requested_checksum
from s3api.encryption import CUSTOMER_ALGORITHM, CUSTOMER_KEY, SSE
from s3api.errors import S3Error, from_store
from s3api.handlers.archive import judge_readable
from s3api.handlers.body import Intake, arrived, document
from s3api.handlers.fields import checksum_lines, kept_checksum, lease_lines, object_lines, unchanged_lines
from s3api.handlers.lifecycle import expiry_of
from s3api.handlers.options import SINGLE_PUT_BYTES_MAX, checked, put_options
from s3api.handlers.sealed import (
    check_plain,
    check_reading,
    has_md5,
    new_seal,
    open_sealed,
    put_content,
    written_lines,
)
from s3api.message import Response, StreamBody
from s3api.moment import iso_moment
from s3api.objectlock import BYPASS, HEADERS, HOLD, MODE, UNTIL
from s3api.operations import WRITE_OFFSET
from s3api.params import boolean, date, etags, http_time, integer, part_number
from s3api.preconditions import delete_conditions, read_conditions, unconditional
from s3api.ranges import content_range, parse_range
from s3api.target import check_key
from s3api.versions import named_version, parse_version, spelled, version_line, written_line
from tiering.contract import (
    OBJECT_BYTES_MAX,
    BucketInfo,
    Conditions,
    Deleted,
    DeleteOptions,
    FileSpans,
    InvalidRange,
    Lock,
    NoSuchKey,
    NotModified,
    ObjectInfo,
    Opening,
    PreconditionFailed,
    PutOptions,
    Reading,
    ReadOptions,
    StoreError,
    content_bytes,
)

_log = logging.getLogger(__name__)

DELETE_KEYS_MAX: Final = 1000
DELETES_AT_ONCE: Final = 128
"""Deletes of one request under way together: they share group commits without filling the committer's queue."""

_AT_HAND: Final = (bytes, FileSpans)
"""Bodies that need not be waited for; a tuple, since a union would be made anew for each reply."""
_GET: Final = ReadOptions()
_HEAD: Final = ReadOptions(head=True)
_OVERRIDES: Final = {
    f"response-{name}": name
    for name in (
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-type",
        "expires",
    )
}


def get_object(call: Call) -> Answer:
    """200, 206 or 304 with the body; 412, 416 and most 404 are raised."""
    return _read(call, head=False)


def head_object(call: Call) -> Answer:
    """As GET, without the body."""
    return _read(call, head=True)


def _read(call: Call, head: bool) -> Answer:
    headers = call.request.headers
    overrides: dict[str, str] | None = None
    part = version = None
    if call.query:
        overrides = _overrides(call)
        version = named_version(call.query)
        if "partNumber" in call.query:
            part = part_number(call.query["partNumber"])
    wanted = parse_range(headers[b"range"].decode("latin-1")) if b"range" in headers else None
    if wanted is not None and part is not None:
        raise S3Error("InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
    if SSE in headers:
        check_reading(headers)
    conditions = read_conditions(headers, call.now_ms)
    if wanted is None and part is None and conditions is None and version is None:
        options = _HEAD if head else _GET
    else:
        options = ReadOptions(head, wanted, part, conditions, version)
        if wanted is not None and b"if-range" in headers:
            return _read_if_range(call, options, overrides)
    try:
        opened = call.store.open(call.bucket, call.key, options)
    except NoSuchKey as missing:
        return missing
    except NotModified as unchanged:
        return _unchanged(call, unchanged)
    except (InvalidRange, PreconditionFailed) as error:
        return _refused(call, options, error)
    if isinstance(opened, Reading):
        if opened.info.encryption is not None:
            return _reply_sealed(call, opened, options, overrides)
        return _reply(call, opened, options, overrides)
    return _read_later(call, opened, options, overrides)


async def _read_later(
    call: Call, opened: Awaitable[Reading], options: ReadOptions, overrides: Mapping[str, str] | None
) -> Response:
    try:
        # Looked at first: an archived object that may not be read must not be recalled for nothing.
        if isinstance(opened, Opening):
            seen = opened.info
        else:
            looking = ReadOptions(head=True, version=options.version)
            seen = (await arrived(call.store.open(call.bucket, call.key, looking))).info
        if seen.owner or call.asked:
            call.check_object(seen)
        judge_readable(seen, call.now_ms)
    except BaseException:
        if isinstance(opened, (Coroutine, Opening)):
            opened.close()
        raise
    try:
        reading = await opened
    except NotModified as unchanged:
        return _unchanged(call, unchanged)
    except InvalidRange as error:
        refused = _refused(call, options, error)  # awaited below: see docs/decisions/0014
    else:
        return await _reply_any(call, reading, options, overrides)
    return await refused


async def _reply_sealed(
    call: Call, reading: Reading, options: ReadOptions, overrides: Mapping[str, str] | None
) -> Response:
    if reading.info.owner or call.asked:  # before the key is asked for, which would tell of the object
        try:
            call.check_object(reading.info)
        except BaseException:
            reading.close()
            raise
    opened = await open_sealed(call, (call.bucket, call.key), reading, options)
    return _reply(call, opened, options, overrides, opened.lines)


async def _reply_any(
    call: Call, reading: Reading, options: ReadOptions, overrides: Mapping[str, str] | None
) -> Response:
    if reading.info.encryption is not None:
        return await _reply_sealed(call, reading, options, overrides)
    return _reply(call, reading, options, overrides)


async def _refused(call: Call, options: ReadOptions, error: InvalidRange | PreconditionFailed) -> Response:
    """Raises what a read deserves that the store refused; AccessDenied where the refusal would tell of an object that the
    caller may not read."""
    looking = ReadOptions(head=True, version=options.version)
    seen = (await arrived(call.store.open(call.bucket, call.key, looking))).info
    if seen.owner or call.asked:
        call.check_object(seen)
    if isinstance(error, InvalidRange) and seen.encryption is not None:
        raise InvalidRange(size=content_bytes(seen))
    raise error


async def _read_if_range(call: Call, options: ReadOptions, overrides: Mapping[str, str] | None) -> Response:
    """The range if the object is still the one If-Range names, else all of it (RFC 9110 §13.1.5)."""
    whole = ReadOptions(options.head, None, None, options.conditions, options.version)
    try:
        looking = ReadOptions(head=True, version=options.version)
        seen = (await arrived(call.store.open(call.bucket, call.key, looking))).info
        if seen.owner or call.asked:
            call.check_object(seen)
        if not options.head:
            judge_readable(seen, call.now_ms)
        if _is_named(call.header(b"if-range"), seen):
            reading = await arrived(call.store.open(call.bucket, call.key, options))
            if reading.info.generation == seen.generation:
                return await _reply_any(call, reading, options, overrides)
            reading.close()
        return await _reply_any(call, await arrived(call.store.open(call.bucket, call.key, whole)), whole, overrides)
    except NotModified as unchanged:
        return _unchanged(call, unchanged)
    except InvalidRange as error:
        refused = _refused(call, options, error)  # awaited below: see docs/decisions/0014
    return await refused


def _is_named(if_range: str, info: ObjectInfo) -> bool:
    """Strong comparison: a weak tag names nothing, a date must be the very one."""
    if if_range.startswith("W/"):
        return False
    at_s = http_time(if_range)
    if at_s is not None:
        return info.modified_ms // 1000 == at_s
    return info.etag in etags("If-Range", if_range)


def _overrides(call: Call) -> dict[str, str] | None:
    found = {_OVERRIDES[name]: checked(name, value) for name, value in call.query.items() if name in _OVERRIDES}
    if found and not call.identity.access_key:
        raise S3Error(
            "InvalidRequest",
            "Request specific response headers cannot be used for anonymous GET requests.",
        )
    return found or None


def _unchanged(call: Call, unchanged: NotModified) -> Response:
    info: ObjectInfo = unchanged.facts["info"]
    if info.owner or call.asked:
        call.check_object(info)
    return Response(304, unchanged_lines(info).encode())


def _reply(
    call: Call, reading: Reading, options: ReadOptions, overrides: Mapping[str, str] | None, sealed_lines: str = ""
) -> Response:
    try:
        info, start, stop = reading.info, reading.start, reading.stop
        if info.owner or call.asked:
            call.check_object(info)
        if info.storage_class and not options.head:
            judge_readable(info, call.now_ms)
        bucket = call.bucket_info or bucket_of(call)
        rule = expiry_of(call, info) if bucket.documents else None
        lines = object_lines(info, reading.tier, call.now_ms, overrides, rule)
        if bucket.versioning:
            lines += version_line(info.version, bucket)
        headers = call.request.headers
        if sealed_lines:
            lines += sealed_lines
        elif CUSTOMER_ALGORITHM in headers or CUSTOMER_KEY in headers:
            check_plain(headers)
        if info.lock is not None:
            lines += _lock_lines(call, info, info.lock)
        status = 200
        if options.range is not None or (options.part_number is not None and info.size):
            status = 206
            lines += f"content-range: {content_range(start, stop, info.size)}\r\n"
            if options.part_number is not None and info.parts:
                lines += f"x-amz-mp-parts-count: {len(info.parts)}\r\n"
        if b"x-amz-checksum-mode" in headers and headers[b"x-amz-checksum-mode"].lower() == b"enabled":
            lines += _read_checksum_lines(info, start, stop, options.part_number)
        length = stop - start
        body = reading.body
        if body is None:
            return Response(status, lines.encode(), length=length)
        if not length:
            reading.close()
            return Response(status, lines.encode())
        sent = body if isinstance(body, _AT_HAND) else StreamBody(body, length)
        return Response(status, lines.encode(), sent)
    except BaseException:
        reading.close()
        raise


def _lock_lines(call: Call, info: ObjectInfo, lock: Lock) -> str:
    """Retention and legal hold, as far as the caller may know them."""
    lines = ""
    may = call.access.allows
    if lock.mode and may(call, "s3:GetObjectRetention", call.bucket, call.key, info):
        lines = f"{MODE.decode()}: {lock.mode}\r\n{UNTIL.decode()}: {iso_moment(lock.until_ms)}\r\n"
    if lock.legal_hold is not None and may(call, "s3:GetObjectLegalHold", call.bucket, call.key, info):
        lines += f"{HOLD.decode()}: {'ON' if lock.legal_hold else 'OFF'}\r\n"
    return lines


def _read_checksum_lines(info: ObjectInfo, start: int, stop: int, part_number: int | None) -> str:
    """Only of exactly the bytes sent: clients check a reply against whatever checksum it carries."""
    checksum = kept_checksum(info)
    if stop - start == info.size:
        return checksum_lines(checksum)
    if part_number is not None:
        part = next((part for part in info.parts if part.number == part_number), None)
        if part is not None and part.checksum is not None:
            return checksum_lines(part.checksum, checksum.kind)
    return ""


def bucket_of(call: Call) -> BucketInfo:
    """The call's bucket. Raises NoSuchBucket."""
    return call.bucket_info or call.store.bucket(call.bucket)


def check_length(call: Call) -> int:
    """The content's length in bytes. Raises MissingContentLength, EntityTooLarge."""
    size = call.payload.length
    if size is None:
        raise S3Error("MissingContentLength")
    if size > SINGLE_PUT_BYTES_MAX:
        raise S3Error("EntityTooLarge", ProposedSize=size, MaxSizeAllowed=SINGLE_PUT_BYTES_MAX)
    return size


async def stored(call: Call, options: PutOptions, size: int, short: bool = False) -> ObjectInfo:
    """Stores the body; nothing is visible unless all of it came and was right. `short`: `size` is only a bound."""
    requested = requested_checksum(call.request.headers)
    bucket = bucket_of(call)
    seal = new_seal(call, bucket)
    writer = await arrived(put_content(call.store, (call.bucket, call.key), size, options, seal))
    try:
        intake = Intake(writer, requested, md5=has_md5(bucket, seal))
        draining = intake.drain(call.payload)
        if draining is not None:
            await draining
        return await writer.commit(intake.conclude(call.payload.trailer, short=short))
    except BaseException:  # cancellation too: the room it holds must come back
        writer.abort()
        raise


def _check_vouched(call: Call) -> None:
    """Raises InvalidRequest where nothing vouches for the content of an object that its headers lock.

    # differs from AWS: a signature that covers the content will do, as clients rely on elsewhere; and an object that is
    # locked by its bucket's default alone needs none.
    """
    headers = call.request.headers
    requested = requested_checksum(headers)
    signed = not headers.get(b"x-amz-content-sha256", b"UNSIGNED").removeprefix(b"STREAMING-").startswith(b"UNSIGNED")
    if not requested.algorithm and requested.content_md5 is None and not signed:
        raise S3Error(
            "InvalidRequest",
            "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters",
        )


async def put_object(call: Call) -> Response:
    """Stores the body, or appends it. 200 with ETag and checksum, of the whole also after an append."""
    options = put_options(call, event="ObjectCreated:Put")
    appending = WRITE_OFFSET in call.request.headers
    if appending:
        offset = integer(WRITE_OFFSET.decode(), call.header(WRITE_OFFSET), 0, OBJECT_BYTES_MAX)
        options = msgspec.structs.replace(options, append_at=offset)
    if not HEADERS.isdisjoint(call.request.headers):
        _check_vouched(call)
    info = await stored(call, options, check_length(call))
    bucket = bucket_of(call)
    lines = f'etag: "{info.etag}"\r\n{checksum_lines(kept_checksum(info))}'
    if info.pin_until_ms or info.expires_ms or bucket.documents:
        lines += lease_lines(info, call.now_ms, expiry_of(call, info))
    if info.version:
        lines += written_line(info.version)
    if info.encryption is not None:
        lines += written_lines(call, info)
    if appending:
        lines += f"x-amz-object-size: {info.size}\r\n"
    return Response(200, lines.encode())


async def delete_object(call: Call) -> Response:
    """204, whether or not there was anything: deletes, or adds a delete marker; a named version goes for good."""
    version = named_version(call.query)
    _check_bypass(call)
    deleted = await delete_key(call, call.key, version, delete_conditions(call.request.headers))
    lines = "x-amz-delete-marker: true\r\n" if deleted.marker else ""
    told = deleted.version if deleted.version is not None else version  # what was named, also where there are none
    if told is not None:
        lines += f"x-amz-version-id: {spelled(told)}\r\n"
    return Response(204, lines.encode())


async def delete_key(call: Call, key: str, version: str | None = None, conditions: Conditions | None = None) -> Deleted:
    """One key of the call's bucket. Governance is bypassed only where the caller says so and may."""
    bypass = version is not None and bypasses_governance(call, key, version)
    event = "ObjectRemoved:Delete"
    if version is None and bucket_of(call).versioning:
        event = "ObjectRemoved:DeleteMarkerCreated"
    options = DeleteOptions(conditions, version, bypass, call.origin(event))
    return await call.store.delete(call.bucket, key, options)


def _check_bypass(call: Call) -> None:
    """Raises InvalidArgument for a delete that speaks of bypassing governance, yes or no, where nothing can be locked.

    # differs from AWS: DeleteObjects is not asked. Ceph's suite empties each of its buckets with that header.
    """
    if BYPASS in call.request.headers and not bucket_of(call).object_lock:
        name = BYPASS.decode()
        message = f"{name} is only applicable to Object Lock enabled buckets."
        raise S3Error("InvalidArgument", message, ArgumentName=name)


def bypasses_governance(call: Call, key: str, version: str | None) -> bool:
    """Whether x-amz-bypass-governance-retention is set. Raises AccessDenied where the caller may not."""
    if BYPASS not in call.request.headers or not boolean(BYPASS.decode(), call.header(BYPASS)):
        return False
    call.require("s3:BypassGovernanceRetention", call.bucket, key, version)
    return True


async def delete_objects(call: Call) -> Response:
    """Deletes up to a thousand keys or versions; each has its own outcome in the reply."""
    unconditional(call.request.headers)
    root = xml.parse(await document(call, checksum_required=True), "Delete")
    entries = root.all("Object")
    if not 1 <= len(entries) <= DELETE_KEYS_MAX:
        raise S3Error("MalformedXML", f"Between 1 and {DELETE_KEYS_MAX} objects can be deleted in one request.")
    wanted = [(entry.required("Key"), entry.text("VersionId"), _entry_conditions(entry)) for entry in entries]
    if any(not key for key, _, _ in wanted):
        raise S3Error("MalformedXML", "A key to delete is empty.")
    quiet = root.text("Quiet").strip().lower() == "true"
    bucket_of(call)
    writer = xml.XmlWriter("DeleteResult")
    for at in range(0, len(wanted), DELETES_AT_ONCE):
        batch = wanted[at : at + DELETES_AT_ONCE]
        outcomes = await asyncio.gather(*(_delete_one(call, *each) for each in batch))
        for (key, version, _), outcome in zip(batch, outcomes, strict=True):
            if call.outcomes is not None:
                failed = outcome.spec if isinstance(outcome, S3Error) else None
                noted = (204, "") if failed is None else (failed.status, failed.code)
                call.outcomes.append(KeyOutcome(key, version, *noted))
            if isinstance(outcome, S3Error):
                with writer.nested("Error"):
                    writer.leaf("Key", key)
                    writer.leaf("VersionId", version or None)
                    writer.leaf("Code", outcome.spec.code)
                    writer.leaf("Message", outcome.message)
            elif not quiet:
                with writer.nested("Deleted"):
                    writer.leaf("Key", key)
                    writer.leaf("VersionId", version or None)
                    if outcome.marker and outcome.version is not None:
                        writer.leaf("DeleteMarker", True)
                        writer.leaf("DeleteMarkerVersionId", spelled(outcome.version))
    return Response(200, xml.CONTENT_TYPE, writer.finish())


def _entry_conditions(entry: xml.Node) -> Conditions | None:
    etag, size, modified = entry.find("ETag"), entry.find("Size"), entry.find("LastModifiedTime")
    if etag is None and size is None and modified is None:
        return None
    return Conditions(
        if_match=None if etag is None else etags("ETag", etag.own),
        if_match_size=None if size is None else entry.integer("Size", 0, OBJECT_BYTES_MAX),
        if_match_modified_s=None if modified is None else date("LastModifiedTime", modified.own),
    )


def _listed_version(named: str) -> str | None:
    """A version of a delete document: one that cannot exist is unknown there, not malformed."""
    try:
        return parse_version(named) if named else None
    except S3Error:
        raise S3Error("NoSuchVersion") from None


async def _check_delete(call: Call, key: str, version: str | None) -> None:
    """Raises AccessDenied unless the caller may delete the key, be it only as the owner of what is there."""
    action = "s3:DeleteObject" if version is None else "s3:DeleteObjectVersion"
    bucket, info = bucket_of(call), None
    if not call.access.is_plain(call.identity, action, bucket) and call.access.by_owner(action, bucket):
        with contextlib.suppress(NoSuchKey):
            info = (await arrived(call.store.open(call.bucket, key, _HEAD))).info
    call.require(action, call.bucket, key, version, info)


async def _delete_one(call: Call, key: str, named: str, conditions: Conditions | None) -> Deleted | S3Error:
    """What became of one key, or its error. Per-key errors cannot pass the border: the reply is a 200."""
    try:
        check_key(key)
        version = _listed_version(named)
        await _check_delete(call, key, version)
        return await delete_key(call, key, version, conditions)
    except S3Error as error:
        return error
    except StoreError as error:
        return from_store(error)
    except Exception:
        _log.exception("deleting one of many keys failed (request %s)", call.request_id)
        return S3Error("InternalError")
