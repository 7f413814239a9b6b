"""Multipart uploads: begin, put parts, copy parts, list, complete, abort.

The ETag and checksum of the whole are computed here from those of the parts; no byte is read again.

Owns nothing between calls. Does not know where parts lie. Kind: shell (the loop).
Invariants: a part writer is committed or aborted; completing twice answers the object again.
Spec: AWS CreateMultipartUpload, UploadPart, UploadPartCopy, ListParts, CompleteMultipartUpload,
AbortMultipartUpload; "Checking object integrity for multipart uploads".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from s3api import xml
from s3api.call import Call
from s3api.checksums import (
    ALGORITHMS,
    NOTHING_REQUESTED,
    SINGLE_CHECKSUM,
    Kind,
    Requested,
    check_kind,
    composite,
    default_kind,
    full_object,
    multipart_etag,
    requested_checksum,
)
from s3api.errors import S3Error
from s3api.handlers.body import AnyWriter, Intake
from s3api.handlers.buckets import owner
from s3api.handlers.copy import (
    Source,
    algorithm_of,
    check_bodiless,
    checksum_leaves,
    copy_source,
    look_at_source,
    source_line,
    source_refused,
)
from s3api.handlers.fields import STANDARD, checksum_line, crc64_text, kept_checksum, lease_lines
from s3api.handlers.lifecycle import abort_lines, expiry_of
from s3api.handlers.objects import bucket_of, check_length
from s3api.handlers.options import SINGLE_PUT_BYTES_MAX, put_options, with_default
from s3api.handlers.sealed import (
    completing_lines,
    content_pieces,
    has_md5,
    new_seal,
    put_part,
    sealed_whole,
    shown_part,
    upload_seal,
    written_lines,
)
from s3api.message import Response
from s3api.moment import iso_date
from s3api.params import base64_exact, part_number, query_integer
from s3api.preconditions import source_conditions, unconditional, write_conditions
from s3api.ranges import parse_copy_range
from s3api.versions import written_line
from tiering.contract import (
    PARTS_MAX,
    Checksum,
    CompleteOptions,
    InvalidRange,
    NoSuchUpload,
    NotModified,
    PartClaim,
    PartInfo,
    PreconditionFailed,
    PutResult,
    Reading,
    ReadOptions,
    UploadInfo,
    content_bytes,
)

PAGE_PARTS_MAX: Final = 1000
DEFAULT_ALGORITHM: Final = "CRC64NVME"
"""Kept of every part when the upload names none: the writer has it for nothing."""
_COUNTED: Final = re.compile(r"-[0-9]{1,5}\Z")
"""The number of parts at the end of a checksum of checksums."""
_KINDS: Final[tuple[Kind, ...]] = ("FULL_OBJECT", "COMPOSITE")


def _kind(call: Call, algorithm: str) -> Kind | None:
    """`x-amz-checksum-type`, else the algorithm's own. Raises InvalidRequest."""
    named = call.header(b"x-amz-checksum-type")
    if not algorithm:
        if named:
            raise S3Error(
                "InvalidRequest",
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
            )
        return None
    kind = default_kind(algorithm)
    if named:
        if named.upper() not in _KINDS:
            raise S3Error("InvalidRequest", "Value for x-amz-checksum-type header is invalid.")
        kind = "FULL_OBJECT" if named.upper() == "FULL_OBJECT" else "COMPOSITE"
        check_kind(algorithm, kind)
    return kind


async def create_multipart_upload(call: Call) -> Response:
    """Begins an upload; what the headers say is kept for the object it will become."""
    options = msgspec.structs.replace(put_options(call), conditions=None)  # they count when it is completed
    seal = new_seal(call, bucket_of(call))
    if seal is not None:
        options = msgspec.structs.replace(options, encryption=seal.encryption)
    algorithm = algorithm_of(call.request.headers)
    kind = _kind(call, algorithm)
    upload = await call.store.begin_upload(call.bucket, call.key, options, algorithm, kind)
    writer = xml.XmlWriter("InitiateMultipartUploadResult")
    writer.leaf("Bucket", call.bucket)
    writer.leaf("Key", call.key)
    writer.leaf("UploadId", upload.upload_id)
    lines = f"x-amz-checksum-algorithm: {algorithm}\r\nx-amz-checksum-type: {kind}\r\n" if algorithm else ""
    lines += abort_lines(call, upload.initiated_ms)
    if seal is not None:
        lines += seal.lines(context=True)
    return Response(200, xml.CONTENT_TYPE + lines.encode(), writer.finish())


def _part_request(call: Call) -> tuple[str, int, UploadInfo]:
    unconditional(call.request.headers)
    number = part_number(call.query["partNumber"])
    upload_id = call.query["uploadId"]
    return upload_id, number, call.store.upload(call.bucket, call.key, upload_id)


def _part_checksum(requested: Requested, upload: UploadInfo, copied: bool = False) -> Requested:
    """What to compute of a part: what it claims, else what the upload was begun with. Raises InvalidRequest.

    `copied`: the bytes are ours already, so nobody has to vouch for them.

    # differs from AWS: a part with a claim is taken under an upload that named no algorithm: it is verified, and
    # CRC64NVME is kept.
    """
    vouched = copied or upload.checksum_kind != "COMPOSITE"
    if upload.checksum_algorithm and requested.algorithm not in ("" if vouched else None, upload.checksum_algorithm):
        raise S3Error(
            "InvalidRequest",
            f"Checksum Type mismatch occurred, expected checksum Type: {upload.checksum_algorithm.lower()}, "
            f"actual checksum Type: {requested.algorithm.lower() or 'null'}",
        )
    if requested.algorithm:
        return requested
    return Requested(upload.checksum_algorithm, content_md5=requested.content_md5)


def _part_result(upload: UploadInfo, writer: AnyWriter, result: PutResult) -> PutResult:
    if upload.checksum_algorithm:
        return result
    return PutResult(result.etag, Checksum(DEFAULT_ALGORITHM, crc64_text(writer.crc64)))


async def upload_part(call: Call) -> Response:
    """Stores one part; the same number again replaces it."""
    size = check_length(call)
    claimed = requested_checksum(call.request.headers)
    upload_id, number, upload = _part_request(call)
    requested = _part_checksum(claimed, upload)
    bucket = bucket_of(call)
    seal = upload_seal(call, upload)
    writer = await put_part(call, upload_id, number, size, seal)
    try:
        intake = Intake(writer, requested, md5=has_md5(bucket, seal))
        draining = intake.drain(call.payload)
        if draining is not None:
            await draining
        result = intake.conclude(call.payload.trailer)
        part = await writer.commit(_part_result(upload, writer, result))
    except BaseException:  # cancellation too
        writer.abort()
        raise
    shown = result.checksum or part.checksum
    lines = f'etag: "{part.etag}"\r\n'
    if shown is not None:
        lines += checksum_line(shown)
    if seal is not None:
        lines += seal.lines()
    return Response(200, lines.encode())


async def _open_source(call: Call, source: Source) -> Reading:
    """What is to become a part, without a body. Raises InvalidArgument for a range beyond it, PreconditionFailed."""
    headers = call.request.headers
    raw = headers.get(b"x-amz-copy-source-range")
    wanted = parse_copy_range(raw.decode("latin-1")) if raw is not None else None
    conditions = source_conditions(headers, call.now_ms)
    try:
        options = ReadOptions(head=True, range=wanted, conditions=conditions, version=source.version)
        reading = await look_at_source(call, source, options)
    except (NotModified, PreconditionFailed) as failed:
        raise source_refused(conditions, failed) from None
    except InvalidRange as beyond:
        raise S3Error("InvalidRequest", "The specified copy range is invalid for the source object size") from beyond
    size = reading.stop - reading.start
    if wanted is not None and reading.stop != wanted.stop:
        # Not the 416 of a read, and not clipped as there.
        raise S3Error(
            "InvalidArgument",
            f"Range specified is not valid for source object of size: {content_bytes(reading.info)}",
            ArgumentName="x-amz-copy-source-range",
            ArgumentValue=call.header(b"x-amz-copy-source-range")[:256],
        )
    if size > SINGLE_PUT_BYTES_MAX:
        raise S3Error("EntityTooLarge", ProposedSize=size, MaxSizeAllowed=SINGLE_PUT_BYTES_MAX)
    return reading


async def upload_part_copy(call: Call) -> Response:
    """Makes a part of an object's bytes, or a range of them."""
    source = copy_source(call.request.headers)
    check_bodiless(call)
    upload_id, number, upload = _part_request(call)
    bucket = bucket_of(call)
    seal = upload_seal(call, upload)
    opened = await _open_source(call, source)
    size = opened.stop - opened.start
    writer = await put_part(call, upload_id, number, size, seal)
    try:
        intake = Intake(writer, _part_checksum(NOTHING_REQUESTED, upload, copied=True), md5=has_md5(bucket, seal))
        version = opened.info.version or source.version  # read on under its id, whatever becomes current
        async with aclosing(content_pieces(call.store, source.place, opened, version)) as found:
            async for piece in found:
                await intake.take(piece)
        part = await writer.commit(_part_result(upload, writer, intake.conclude()))
    except BaseException:
        writer.abort()
        raise
    document = xml.XmlWriter("CopyPartResult")
    document.leaf("LastModified", iso_date(part.modified_ms))
    document.leaf("ETag", f'"{part.etag}"')
    if part.checksum is not None:
        checksum_leaves(document, part.checksum, with_type=False)
    lines = source_line(call, source, opened.info) + ("" if seal is None else seal.lines())
    return Response(200, xml.CONTENT_TYPE + lines.encode(), document.finish())


def list_parts(call: Call) -> Response:
    """Stored parts by number."""
    upload_id = call.query["uploadId"]
    after = query_integer(call.query, "part-number-marker", 0, 0, PARTS_MAX)
    limit = query_integer(call.query, "max-parts", PAGE_PARTS_MAX, 0, PAGE_PARTS_MAX)
    upload = call.store.upload(call.bucket, call.key, upload_id)
    found = call.store.parts(call.bucket, call.key, upload_id, after, limit + 1) if limit else ()
    page = found[:limit]
    writer = xml.XmlWriter("ListPartsResult")
    writer.leaf("Bucket", call.bucket)
    writer.leaf("Key", call.key)
    writer.leaf("UploadId", upload_id)
    owner(writer, call, "Initiator", upload.options.owner)
    owner(writer, call, owner_id=upload.options.owner)
    writer.leaf("StorageClass", upload.options.storage_class or STANDARD)
    writer.leaf("PartNumberMarker", after)
    writer.leaf("NextPartNumberMarker", page[-1].number if page else 0)
    writer.leaf("MaxParts", limit)
    writer.leaf("IsTruncated", len(found) > limit)
    writer.leaf("ChecksumAlgorithm", upload.checksum_algorithm or DEFAULT_ALGORITHM)
    writer.leaf("ChecksumType", upload.checksum_kind or default_kind(DEFAULT_ALGORITHM))
    for part in page:
        with writer.nested("Part"):
            writer.leaf("PartNumber", part.number)
            writer.leaf("LastModified", iso_date(part.modified_ms))
            writer.leaf("ETag", f'"{part.etag}"')
            writer.leaf("Size", shown_part(upload, part).size)
            if part.checksum is not None:
                checksum_leaves(writer, part.checksum, with_type=False)
    lines = abort_lines(call, upload.initiated_ms)
    return Response(200, xml.CONTENT_TYPE + lines.encode(), writer.finish())


def _claims(body: bytes) -> list[PartClaim]:
    """The parts a completion names. Raises MalformedXML, InvalidArgument."""
    if not body.strip():  # S3 says so of this operation alone
        raise S3Error("MalformedXML")
    root = xml.parse(body, "CompleteMultipartUpload")
    nodes = root.all("Part")
    if not 1 <= len(nodes) <= PARTS_MAX:
        raise S3Error("MalformedXML", f"An upload is completed from 1 to {PARTS_MAX} parts.")
    claims = []
    for node in nodes:
        given = [(name, text) for name in ALGORITHMS if (text := node.text(f"Checksum{name}").strip())]
        number = _claimed_number(node)
        if len(given) > 1 or not all(_is_value(name, text) for name, text in given):
            raise S3Error(
                "InvalidArgument",
                "Invalid Base64 or multiple checksums present in request",
                ArgumentName="Checksum",
            )
        etag = node.required("ETag").strip().strip('"')
        claims.append(PartClaim(number, etag, Checksum(*given[0]) if given else None))
    return claims


def _is_value(algorithm: str, text: str) -> bool:
    try:
        base64_exact(algorithm, text, ALGORITHMS[algorithm].length)
    except S3Error:
        return False
    return True


def _claimed_number(node: xml.Node) -> int:
    text = node.required("PartNumber").strip()
    if not re.fullmatch("-?[0-9]{1,9}", text):
        raise S3Error("MalformedXML")
    if int(text) < 1:
        raise S3Error("InvalidArgument", "PartNumber must be >= 1", ArgumentName="PartNumber", ArgumentValue=text)
    return part_number(text)


def _object_size(call: Call) -> int | None:
    """`x-amz-mp-object-size`. Raises InvalidRequest."""
    text = call.header(b"x-amz-mp-object-size")
    if not text:
        return None
    if re.fullmatch("-[0-9]{1,18}", text):
        raise S3Error("InvalidRequest", f"Value for x-amz-mp-object-size header is less than zero: '{text}'")
    if not re.fullmatch("[0-9]{1,18}", text):
        raise S3Error("InvalidRequest", "Value for x-amz-mp-object-size header is invalid.")
    return int(text)


def _whole_checksum(upload: UploadInfo, chosen: Sequence[PartInfo]) -> Checksum | None:
    """The object's checksum from its parts'; None for the one every object has anyway, CRC64NVME of the whole, unless its
    bytes are sealed: then what the store has is not of the content."""
    if not upload.checksum_algorithm and upload.options.encryption is None:
        return None
    parts = [(part.checksum.value, part.size) for part in chosen if part.checksum is not None]
    if upload.checksum_kind == "COMPOSITE":
        return composite(upload.checksum_algorithm, [value for value, _ in parts])
    return full_object(upload.checksum_algorithm or DEFAULT_ALGORITHM, parts)


def _claimed_whole(call: Call) -> tuple[str, str] | None:
    """Algorithm and value of the checksum that a completion states of the object. Raises InvalidRequest."""
    if call.header(b"x-amz-checksum-type").upper() not in ("", *_KINDS):
        raise S3Error("InvalidRequest", "Value for x-amz-checksum-type header is invalid.")
    found = [(row, text) for row in ALGORITHMS.values() if (text := call.header(row.header))]
    if not found:
        return None
    if len(found) > 1:
        raise S3Error("InvalidRequest", SINGLE_CHECKSUM)
    row, text = found[0]
    base64_exact(row.header.decode(), _COUNTED.sub("", text), row.length)
    return row.name, text


def _check_claimed(
    call: Call,
    claimed: tuple[str, str] | None,
    upload: UploadInfo,
    chosen: Sequence[PartInfo],
    whole: Checksum | None,
) -> None:
    """Holds the checksum the completing client states against the parts. Raises BadDigest, InvalidRequest."""
    kind = upload.checksum_kind or default_kind(DEFAULT_ALGORITHM)
    named = call.header(b"x-amz-checksum-type")
    if named and named.upper() != kind:
        raise S3Error(
            "InvalidRequest",
            f"The upload was created using the {kind} checksum mode. The complete request must use the same "
            "checksum mode.",
        )
    if claimed is None:
        return
    algorithm, value = claimed
    if algorithm != (upload.checksum_algorithm or DEFAULT_ALGORITHM):
        if not upload.checksum_algorithm:  # S3 ignores it: there is nothing of the kind to hold it against
            return
        raise S3Error(
            "InvalidRequest",
            f"The upload was created using the {upload.checksum_algorithm} checksum algorithm. The complete request "
            f"names {algorithm}.",
        )
    if whole is None:
        pairs = [(part.checksum.value, part.size) for part in chosen if part.checksum is not None]
        whole = full_object(DEFAULT_ALGORITHM, pairs)
    if value != whole.value and f"{value}-{len(chosen)}" != whole.value:
        raise S3Error("BadDigest", f"The {algorithm} you specified did not match the calculated checksum.")


def _kept_algorithm(claim: PartClaim, stored: PartInfo | None) -> PartClaim:
    """A claim without a checksum of another kind than the stored one: it was verified when the part came."""
    kept = stored.checksum if stored is not None else None
    if claim.checksum is None or kept is None or claim.checksum.algorithm == kept.algorithm:
        return claim
    return PartClaim(claim.number, claim.etag)


def _check_complete(upload: UploadInfo, claims: Sequence[PartClaim]) -> None:
    """A checksum of checksums is only as good as those the client vouches for. Raises InvalidRequest, BadDigest."""
    for claim in claims:
        named = claim.checksum.algorithm if claim.checksum is not None else ""
        if named and upload.checksum_algorithm not in ("", named):
            raise S3Error(
                "BadDigest",
                f"The {named.lower()} you specified for part {claim.number} did not match what we received.",
            )
    if upload.checksum_kind != "COMPOSITE":
        return
    for claim in claims:
        if claim.checksum is None:
            raise S3Error(
                "InvalidRequest",
                f"The upload was created using a {upload.checksum_algorithm.lower()} checksum. The complete request "
                f"must include the checksum for each part. It was missing for part {claim.number} in the request.",
            )


async def complete_multipart_upload(call: Call) -> Response:
    """Makes the object. Order, sizes, ETags and preconditions are judged by the store, all at once."""
    headers = call.request.headers
    conditions = write_conditions(headers)
    object_size, claimed = _object_size(call), _claimed_whole(call)
    upload_id = call.query["uploadId"]
    # The checksum headers of this request are about the object, not about this document.
    claims = _claims(await call.payload.document())
    whole, encryption, lock, sealed_lines = None, None, None, ""
    try:
        upload = call.store.upload(call.bucket, call.key, upload_id)
        stored = {part.number: part for part in call.store.parts(call.bucket, call.key, upload_id)}
    except NoSuchUpload:
        pass  # perhaps completed already: the store knows, and answers the object again
    else:
        # A default that came after the upload was begun holds for what is made now.
        lock = with_default(call, bucket_of(call), upload.options.lock)
        if not upload.checksum_algorithm:
            claims = [_kept_algorithm(claim, stored.get(claim.number)) for claim in claims]
        _check_complete(upload, claims)
        chosen = [shown_part(upload, stored[claim.number]) for claim in claims if claim.number in stored]
        if len(chosen) == len(claims):  # else the store refuses it, with the part's number
            whole = _whole_checksum(upload, chosen)
            _check_claimed(call, claimed, upload, chosen, whole)
            size = sum(part.size for part in chosen)
            if object_size not in (None, size):
                raise S3Error(
                    "InvalidRequest",
                    f"The provided 'x-amz-mp-object-size' header value {object_size} does not match what was "
                    f"computed: {size}",
                )
            if upload.options.encryption is not None:
                sealed_lines = completing_lines(call, upload)
                encryption = sealed_whole(upload, chosen)
                object_size = None  # judged: the store knows sealed sizes only
    etag = multipart_etag([claim.etag for claim in claims])
    info = await call.store.complete_upload(
        call.bucket,
        call.key,
        upload_id,
        claims,
        CompleteOptions(
            etag,
            whole,
            object_size,
            conditions,
            encryption,
            call.origin("ObjectCreated:CompleteMultipartUpload"),
            lock,
        ),
    )
    writer = xml.XmlWriter("CompleteMultipartUploadResult")
    scheme = "https" if call.request.secure else "http"
    path = call.request.path.decode("ascii", "replace")
    writer.leaf("Location", f"{scheme}://{call.header(b'host')}{path}")
    writer.leaf("Bucket", call.bucket)
    writer.leaf("Key", call.key)
    writer.leaf("ETag", f'"{info.etag}"')
    checksum_leaves(writer, kept_checksum(info))
    lines = lease_lines(info, call.now_ms, expiry_of(call, info)) + written_line(info.version)
    lines += sealed_lines or written_lines(call, info)
    return Response(200, xml.CONTENT_TYPE + lines.encode(), writer.finish())


async def abort_multipart_upload(call: Call) -> Response:
    """204; its parts are gone."""
    await call.store.abort_upload(call.bucket, call.key, call.query["uploadId"])
    return Response(204)
