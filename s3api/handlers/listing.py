"""Listings of objects, both versions, and of uploads under way.

Owns nothing. Does not know how a store finds keys. Kind: shell (the loop), without a wait.
Invariants: a page never holds more than its limit; a token or marker names a place in key order.
Spec: AWS ListObjects, ListObjectsV2, ListMultipartUploads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from s3api import xml
from s3api.call import Call
from s3api.errors import S3Error
from s3api.handlers.buckets import owner, region_line
from s3api.handlers.fields import STANDARD, shown_checksum, storage_class
from s3api.handlers.objects import bucket_of
from s3api.message import Response
from s3api.moment import iso_date
from s3api.paging import PAGE_KEYS_MAX, decode_token, encode_token
from s3api.params import query_integer
from tiering.contract import Listing, ListOptions, ObjectInfo, PendingListing, PendingOptions, content_bytes

_NOTHING: Final = Listing((), (), False)
_NOTHING_PENDING: Final = PendingListing((), (), False)
_UPLOAD_ID: Final = re.compile(r"[0-9a-f]+\Z", re.ASCII)
"""An upload that has ended since may still be a marker, so that listings go on; what never was one may not."""


class Page:
    """What listings read alike from a query, and write alike."""

    def __init__(self, query: Mapping[str, str], limit_name: str) -> None:
        self.prefix = query.get("prefix", "")
        self.delimiter = query.get("delimiter", "")
        self.limit = query_integer(query, limit_name, PAGE_KEYS_MAX, 0, PAGE_KEYS_MAX)
        self.encoding = query.get("encoding-type")
        if self.encoding not in (None, "url"):
            raise S3Error(
                "InvalidArgument",
                "Invalid Encoding Method specified in Request",
                ArgumentName="encoding-type",
                ArgumentValue=self.encoding[:256],
            )

    def text(self, value: str) -> str:
        """A key, prefix or marker as the client wants it."""
        return xml.url_encode(value) if self.encoding else value

    def optional(self, value: str) -> str | None:
        return self.text(value) if value else None

    def prefixes(self, writer: xml.XmlWriter, prefixes: Sequence[str]) -> None:
        for prefix in prefixes:
            with writer.nested("CommonPrefixes"):
                writer.leaf("Prefix", self.text(prefix))


def _contents(writer: xml.XmlWriter, call: Call, page: Page, listing: Listing, owners: bool) -> None:
    restore = restore_wanted(call)
    for key, info in listing.objects:
        checksum = shown_checksum(info)
        with writer.nested("Contents"):
            writer.leaf("Key", page.text(key))
            writer.leaf("LastModified", iso_date(info.modified_ms))
            writer.leaf("ETag", f'"{info.etag}"')
            writer.leaf("ChecksumAlgorithm", checksum.algorithm)
            writer.leaf("ChecksumType", checksum.kind)
            writer.leaf("Size", content_bytes(info))
            if owners:
                owner(writer, call, owner_id=info.owner)
            writer.leaf("StorageClass", storage_class(info))
            if restore:
                restore_status(writer, call, info)
    page.prefixes(writer, listing.prefixes)


def restore_wanted(call: Call) -> bool:
    """Whether x-amz-optional-object-attributes asks for RestoreStatus."""
    return "restorestatus" in call.header(b"x-amz-optional-object-attributes").lower()


def restore_status(writer: xml.XmlWriter, call: Call, info: ObjectInfo) -> None:
    if info.restore_until_ms > call.now_ms:
        with writer.nested("RestoreStatus"):
            writer.leaf("IsRestoreInProgress", False)
            writer.leaf("RestoreExpiryDate", iso_date(info.restore_until_ms))


def _page_of(call: Call, page: Page, after: str) -> Listing:
    if not page.limit:  # an empty page is complete, as S3 has it
        bucket_of(call)
        return _NOTHING
    return call.store.list(call.bucket, ListOptions(page.prefix, page.delimiter, after, page.limit))


def list_objects(call: Call) -> Response:
    """Version 1: continued by marker; NextMarker only under a delimiter, else the last key is the next marker."""
    page = Page(call.query, "max-keys")
    marker = call.query.get("marker", "")
    listing = _page_of(call, page, marker)
    writer = xml.XmlWriter("ListBucketResult")
    writer.leaf("Name", call.bucket)
    writer.leaf("Prefix", page.text(page.prefix))
    writer.leaf("Marker", page.text(marker))
    if listing.truncated and page.delimiter:
        writer.leaf("NextMarker", page.text(listing.next_after))
    writer.leaf("MaxKeys", page.limit)
    writer.leaf("Delimiter", page.optional(page.delimiter))
    writer.leaf("EncodingType", page.encoding)
    writer.leaf("IsTruncated", listing.truncated)
    _contents(writer, call, page, listing, owners=True)
    return Response(200, xml.CONTENT_TYPE + region_line(call).encode(), writer.finish())


def list_objects_v2(call: Call) -> Response:
    """Version 2: continued by an opaque token, which outranks start-after."""
    query = call.query
    page = Page(query, "max-keys")
    start_after, token = query.get("start-after", ""), query.get("continuation-token")
    listing = _page_of(call, page, decode_token(token) if token else start_after)
    writer = xml.XmlWriter("ListBucketResult")
    writer.leaf("Name", call.bucket)
    writer.leaf("Prefix", page.text(page.prefix))
    writer.leaf("StartAfter", page.optional(start_after))
    writer.leaf("ContinuationToken", token)
    if listing.truncated:
        writer.leaf("NextContinuationToken", encode_token(listing.next_after))
    writer.leaf("KeyCount", len(listing.objects) + len(listing.prefixes))
    writer.leaf("MaxKeys", page.limit)
    writer.leaf("Delimiter", page.optional(page.delimiter))
    writer.leaf("EncodingType", page.encoding)
    writer.leaf("IsTruncated", listing.truncated)
    _contents(writer, call, page, listing, owners=query.get("fetch-owner", "").lower() == "true")
    return Response(200, xml.CONTENT_TYPE + region_line(call).encode(), writer.finish())


def list_multipart_uploads(call: Call) -> Response:
    """Uploads under way, by key and then by age."""
    query = call.query
    page = Page(query, "max-uploads")
    key_after = query.get("key-marker", "")
    upload_after = query.get("upload-id-marker", "") if key_after else ""  # without a key it says nothing
    if upload_after and not _UPLOAD_ID.match(upload_after):
        raise S3Error(
            "InvalidArgument",
            "Invalid uploadId marker",
            ArgumentName="upload-id-marker",
            ArgumentValue=upload_after[:256],
        )
    if page.limit:
        options = PendingOptions(page.prefix, page.delimiter, key_after, upload_after, page.limit)
        listing = call.store.pending(call.bucket, options)
    else:
        bucket_of(call)
        listing = _NOTHING_PENDING
    writer = xml.XmlWriter("ListMultipartUploadsResult")
    writer.leaf("Bucket", call.bucket)
    writer.leaf("KeyMarker", page.text(key_after))
    writer.leaf("UploadIdMarker", upload_after)
    next_key, next_upload_id = listing.next_key, listing.next_upload_id
    if not listing.truncated and listing.uploads:  # S3 names the last upload, whether or not there are more
        next_key, next_upload_id = listing.uploads[-1].key, listing.uploads[-1].upload_id
    writer.leaf("NextKeyMarker", page.text(next_key))
    writer.leaf("NextUploadIdMarker", next_upload_id)
    writer.leaf("Prefix", page.text(page.prefix))
    writer.leaf("Delimiter", page.optional(page.delimiter))
    writer.leaf("EncodingType", page.encoding)
    writer.leaf("MaxUploads", page.limit)
    writer.leaf("IsTruncated", listing.truncated)
    for upload in listing.uploads:
        with writer.nested("Upload"):
            writer.leaf("Key", page.text(upload.key))
            writer.leaf("UploadId", upload.upload_id)
            owner(writer, call, "Initiator", upload.options.owner)
            owner(writer, call, owner_id=upload.options.owner)
            writer.leaf("StorageClass", upload.options.storage_class or STANDARD)
            writer.leaf("Initiated", iso_date(upload.initiated_ms))
            writer.leaf("ChecksumAlgorithm", upload.checksum_algorithm or None)
            writer.leaf("ChecksumType", upload.checksum_kind)
    page.prefixes(writer, listing.prefixes)
    return Response(200, xml.CONTENT_TYPE, writer.finish())
