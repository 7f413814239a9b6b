"""Versions of a bucket: whether it keeps them, and all of them listed.

Owns nothing. Does not know how versions are kept. Kind: shell (the loop). Invariants: a page never holds more than its
limit; what a marker names, a version deleted since included, is a place in the order of the listing.
Spec: AWS ListObjectVersions, GetBucketVersioning, PutBucketVersioning; S3 User Guide, "Using versioning in S3 buckets".
"""

from __future__ import annotations

from typing import Final

from s3api import xml
from s3api.call import Call
from s3api.errors import S3Error
from s3api.handlers.body import document
from s3api.handlers.buckets import owner
from s3api.handlers.fields import kept_checksum, storage_class
from s3api.handlers.listing import Page, restore_status, restore_wanted
from s3api.handlers.objects import bucket_of
from s3api.message import Response
from s3api.moment import iso_date
from s3api.versions import NULL, parse_version, spelled
from tiering.contract import BucketChange, ListVersionsOptions, Version, VersionListing, content_bytes

_NOTHING: Final = VersionListing((), (), False)
MARKER: Final = "version-id-marker"


async def put_bucket_versioning(call: Call) -> Response:
    """Enables or suspends versioning.

    Deleting with a second factor and keys without versions (MinIO's) are not served, so only their absence can be said.
    """
    bucket_of(call)
    root = xml.parse(await document(call), "VersioningConfiguration")
    root.only("Status", "MfaDelete", "ExcludeFolders", "ExcludedPrefixes")
    for name, asked in (
        ("MfaDelete", root.text("MfaDelete", "Disabled").strip() != "Disabled"),
        ("ExcludeFolders", root.boolean("ExcludeFolders")),
        ("ExcludedPrefixes", any(node.children for node in root.all("ExcludedPrefixes"))),
    ):
        if asked:
            raise S3Error("NotImplemented", f"VersioningConfiguration/{name} is not served.")
    status = root.text("Status").strip()
    if root.find("Status") is None:
        raise S3Error("IllegalVersioningConfigurationException")
    if status == "Enabled":
        await call.store.change_bucket(call.bucket, BucketChange(versioning="Enabled"))
    elif status == "Suspended":
        await call.store.change_bucket(call.bucket, BucketChange(versioning="Suspended"))
    else:
        raise S3Error("MalformedXML")
    return Response(200)


def get_bucket_versioning(call: Call) -> Response:
    """The state; an empty document where versioning was never enabled."""
    writer = xml.XmlWriter("VersioningConfiguration")
    writer.leaf("Status", bucket_of(call).versioning or None)
    return Response(200, xml.CONTENT_TYPE, writer.finish())


def _markers(call: Call) -> tuple[str, str | None]:
    """Where the page begins. Raises InvalidArgument for a version without its key."""
    key = call.query.get("key-marker", "")
    text = call.query.get(MARKER)
    if text is None or (not text and not key):  # some clients send both empty for the first page
        return key, None
    if not text:
        raise S3Error("InvalidArgument", "A version-id marker cannot be empty.", ArgumentName=MARKER, ArgumentValue="")
    if not key:
        raise S3Error(
            "InvalidArgument",
            "A version-id marker cannot be specified without a key marker.",
            ArgumentName=MARKER,
            ArgumentValue=text[:256],
        )
    return key, parse_version(text, MARKER)


def list_object_versions(call: Call) -> Response:
    """All versions and delete markers: by key, those of a key from the newest to the oldest."""
    page = Page(call.query, "max-keys")
    key_after, version_after = _markers(call)
    if page.limit:
        options = ListVersionsOptions(page.prefix, page.delimiter, key_after, version_after, page.limit)
        listing = call.store.list_versions(call.bucket, options)
    else:
        bucket_of(call)
        listing = _NOTHING
    writer = xml.XmlWriter("ListVersionsResult")
    writer.leaf("Name", call.bucket)
    writer.leaf("Prefix", page.text(page.prefix))
    writer.leaf("KeyMarker", page.text(key_after))
    writer.leaf("VersionIdMarker", "" if version_after is None else spelled(version_after))
    if listing.truncated:
        writer.leaf("NextKeyMarker", page.text(listing.next_key))
        writer.leaf("NextVersionIdMarker", None if listing.next_version is None else spelled(listing.next_version))
    writer.leaf("MaxKeys", page.limit)
    writer.leaf("Delimiter", page.optional(page.delimiter))
    writer.leaf("EncodingType", page.encoding)
    writer.leaf("IsTruncated", listing.truncated)
    restore = restore_wanted(call)
    for version in listing.versions:
        _entry(writer, call, page, version, restore)
    page.prefixes(writer, listing.prefixes)
    return Response(200, xml.CONTENT_TYPE, writer.finish())


def _entry(writer: xml.XmlWriter, call: Call, page: Page, version: Version, restore: bool) -> None:
    info = version.info
    with writer.nested("DeleteMarker" if info.marker else "Version"):
        if not info.marker:
            checksum = kept_checksum(info)
            writer.leaf("ETag", f'"{info.etag}"')
            writer.leaf("ChecksumAlgorithm", checksum.algorithm)
            writer.leaf("ChecksumType", checksum.kind)
            writer.leaf("Size", content_bytes(info))
            writer.leaf("StorageClass", storage_class(info))
            if restore:
                restore_status(writer, call, info)
        writer.leaf("Key", page.text(version.key))
        writer.leaf("VersionId", info.version or NULL)
        writer.leaf("IsLatest", version.latest)
        writer.leaf("LastModified", iso_date(info.modified_ms))
        owner(writer, call, owner_id=info.owner)
