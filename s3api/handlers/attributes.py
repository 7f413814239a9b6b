"""GetObjectAttributes: what is known of an object, only what was asked for.

Owns nothing. Does not know storage. Kind: shell (the loop). Spec: AWS GetObjectAttributes.
"""

from __future__ import annotations

from typing import Final

from s3api import xml
from s3api.call import Call
from s3api.errors import S3Error
from s3api.handlers.copy import checksum_leaves
from s3api.handlers.fields import kept_checksum, storage_class
from s3api.handlers.sealed import open_object
from s3api.message import Response
from s3api.moment import http_date
from s3api.params import integer
from s3api.preconditions import read_conditions
from s3api.versions import named_version, version_line
from tiering.contract import PARTS_MAX, Checksum, ObjectInfo, ReadOptions

ATTRIBUTES: Final = frozenset({"ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"})
PAGE_PARTS_MAX: Final = 1000


def _wanted(call: Call) -> set[str]:
    value = call.header(b"x-amz-object-attributes")
    names = {name.strip() for name in value.split(",") if name.strip()}
    if not names:
        raise S3Error(
            "InvalidRequest",
            "The x-amz-object-attributes header specifying the attributes to be retrieved is either missing or empty",
        )
    if unknown := sorted(names - ATTRIBUTES):
        raise S3Error(
            "InvalidArgument",
            "Invalid attribute name specified.",
            ArgumentName="x-amz-object-attributes",
            ArgumentValue=unknown[0][:256],
        )
    return names


async def get_object_attributes(call: Call) -> Response:
    """The attributes named in x-amz-object-attributes, with Last-Modified as a header."""
    wanted = _wanted(call)
    raw_max, raw_marker = call.header(b"x-amz-max-parts"), call.header(b"x-amz-part-number-marker")
    limit = min(integer("x-amz-max-parts", raw_max, 0, 1 << 31), PAGE_PARTS_MAX) if raw_max else PAGE_PARTS_MAX
    after = integer("x-amz-part-number-marker", raw_marker, 0, PARTS_MAX) if raw_marker else 0
    options = ReadOptions(
        head=True, conditions=read_conditions(call.request.headers, call.now_ms), version=named_version(call.query)
    )
    info = (await open_object(call, options)).info
    if call.asked:
        call.check_object(info)
    call.require("s3:GetObject" if options.version is None else "s3:GetObjectVersion", info=info)
    writer = xml.XmlWriter("GetObjectAttributesResponse")
    if "ETag" in wanted:
        writer.leaf("ETag", info.etag)  # without quotes, unlike everywhere else in S3
    if "Checksum" in wanted:
        with writer.nested("Checksum"):
            kept = kept_checksum(info)
            # Here alone a checksum of checksums is without its `-N`, as AWS has it: the parts are counted below.
            checksum_leaves(writer, Checksum(kept.algorithm, kept.value.partition("-")[0], kept.kind))
    if "ObjectParts" in wanted and info.parts:
        _parts(writer, info, after, limit)
    if "StorageClass" in wanted:
        writer.leaf("StorageClass", storage_class(info))
    if "ObjectSize" in wanted:
        writer.leaf("ObjectSize", info.size)
    lines = f"last-modified: {http_date(info.modified_ms)}\r\n"
    lines += version_line(info.version, call.store.bucket(call.bucket))
    return Response(200, xml.CONTENT_TYPE + lines.encode(), writer.finish())


def _parts(writer: xml.XmlWriter, info: ObjectInfo, after: int, limit: int) -> None:
    rest = [part for part in info.parts if part.number > after]
    page = rest[:limit]
    with writer.nested("ObjectParts"):
        writer.leaf("PartsCount", len(info.parts))
        writer.leaf("PartNumberMarker", after)
        writer.leaf("NextPartNumberMarker", page[-1].number if page else 0)
        writer.leaf("MaxParts", limit)
        writer.leaf("IsTruncated", len(rest) > limit)
        for part in page:
            with writer.nested("Part"):
                writer.leaf("PartNumber", part.number)
                writer.leaf("Size", part.size)
                if part.checksum is not None:
                    checksum_leaves(writer, part.checksum, with_type=False)
