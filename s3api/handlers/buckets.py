"""Buckets: making, finding, listing and removing them.

Owns nothing. Does not know objects. Kind: shell (the loop).
Spec: AWS ListBuckets, CreateBucket, HeadBucket, DeleteBucket, GetBucketLocation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from s3api import acl, xml
from s3api.access import ENFORCED, OWNERSHIPS, check_public_list, ownership_of
from s3api.call import Call
from s3api.errors import S3Error
from s3api.extensions import POOL_HEADER, rule_pool
from s3api.handlers.body import document
from s3api.handlers.objects import bucket_of
from s3api.message import Response
from s3api.moment import iso_date
from s3api.paging import BUCKETS_MAX, decode_token, encode_token
from s3api.params import boolean, counted
from s3api.settings import tagging_document, tags_of
from s3api.target import check_bucket_name
from tiering.contract import BucketChange, BucketExists, BucketInfo, BucketNotEmpty

HOME_REGION: Final = "us-east-1"
"""The region whose location constraint is empty, and where making one's own bucket again succeeds."""
_REGION: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z", re.ASCII)
_OLD_NAMES: Final = {"EU": "eu-west-1"}
OWNERSHIP_HEADER: Final = b"x-amz-object-ownership"
LOCK_HEADER: Final = b"x-amz-bucket-object-lock-enabled"


def owner(writer: xml.XmlWriter, call: Call, element: str = "Owner", owner_id: str = "") -> None:
    """Who owns something in the call's bucket, as it is shown; `owner_id` as the store keeps it: "" is the bucket's."""
    with writer.nested(element):
        acl.write_user(writer, call.access, call.access.canonical_id(owner_id or bucket_of(call).owner))


def list_buckets(call: Call) -> Response:
    """The buckets of the caller's account in name order, paged when asked."""
    query = call.query
    prefix, region = query.get("prefix", ""), query.get("bucket-region", "")
    asked = query.get("max-buckets", "")
    said = f"Argument max-buckets must be an integer between 1 and {BUCKETS_MAX}."
    limit = counted("max-buckets", asked, BUCKETS_MAX, said) if asked else BUCKETS_MAX
    after = decode_token(query["continuation-token"]) if query.get("continuation-token") else ""
    found = [
        bucket
        for bucket in call.store.buckets()
        if bucket.owner == call.identity.owner
        and bucket.name.startswith(prefix)
        and bucket.name > after
        and region in ("", _region(bucket, call))
    ]
    page = found[:limit]
    writer = xml.XmlWriter("ListAllMyBucketsResult")
    with writer.nested("Owner"):
        acl.write_user(writer, call.access, call.access.canonical_id(call.identity.owner))
    with writer.nested("Buckets"):
        for bucket in page:
            with writer.nested("Bucket"):
                writer.leaf("Name", bucket.name)
                writer.leaf("CreationDate", iso_date(bucket.created_ms))
                if query:
                    writer.leaf("BucketRegion", _region(bucket, call))
    if len(found) > limit:
        writer.leaf("ContinuationToken", encode_token(page[-1].name))
    writer.leaf("Prefix", prefix or None)
    return Response(200, xml.CONTENT_TYPE, writer.finish())


async def create_bucket(call: Call) -> Response:
    """Makes a bucket. Making one's own again is 200 in us-east-1 and 409 elsewhere, as AWS has it."""
    check_bucket_name(call.bucket)
    wanted = _wanted(call, await document(call))
    names = [bucket.name for bucket in call.store.buckets() if bucket.owner == wanted.owner]
    # Counted without a lock: of creations at once a few may pass, which a bound against runaways can bear.
    if len(names) >= call.config.buckets_max and call.bucket not in names:
        raise S3Error("TooManyBuckets")
    try:
        await call.store.create_bucket(wanted)
    except BucketExists:
        await _again(call, wanted)
    return Response(200, f"location: /{call.bucket}\r\n".encode())


def _wanted(call: Call, body: bytes) -> BucketInfo:
    """The bucket that a request asks for. Raises AccessDenied where the caller may make one, but not such a one."""
    headers = call.request.headers
    locked = LOCK_HEADER in headers and boolean(LOCK_HEADER.decode(), call.header(LOCK_HEADER))
    documents = _ownership(call)
    location, tags = _configuration(body, call.config.region)
    if call.asked:
        call.said = {"s3:locationconstraint": (location,)}
    further = {
        call.asked: bool(call.asked),
        "s3:PutBucketObjectLockConfiguration": locked,
        "s3:PutBucketVersioning": locked,
        "s3:PutBucketOwnershipControls": OWNERSHIP_HEADER in headers,
        "s3:PutBucketAcl": acl.asked(headers),
        "s3:TagResource": tags is not None,
    }
    for action, asked in further.items():
        if asked and not call.access.judge_unbound(call, action, f"arn:aws:s3:::{call.bucket}"):
            raise S3Error("AccessDenied")
    pool = call.header(POOL_HEADER.encode())
    if not pool and POOL_HEADER.encode() in headers:
        raise S3Error("InvalidArgument", f"The value of {POOL_HEADER} is empty.", ArgumentName=POOL_HEADER)
    access_list = _access_list(call, documents)
    if access_list:
        documents["acl"] = access_list
    if tags is not None:
        documents["tagging"] = tags
    return BucketInfo(
        name=call.bucket,
        created_ms=call.now_ms,
        pool=pool or rule_pool(call.config.key_rules, call.bucket),
        location=location,
        documents=documents,
        owner=call.identity.owner,
        versioning="Enabled" if locked else "",
        object_lock=locked,
    )


async def _again(call: Call, wanted: BucketInfo) -> None:
    """Making what stands: one's own bucket of us-east-1 is as new, but for its access list, which is set again.

    Raises BucketAlreadyExists for another account's, BucketExists.
    """
    standing, pool = call.store.bucket(call.bucket), call.header(POOL_HEADER.encode())
    if standing.owner != call.identity.owner:
        raise S3Error("BucketAlreadyExists", BucketName=call.bucket)
    elsewhere = _region(standing, call) != HOME_REGION or wanted.location != HOME_REGION
    if elsewhere or (pool and pool != standing.pool):
        raise BucketExists(bucket=call.bucket)
    access_list = wanted.documents.get("acl", "")
    if access_list != standing.documents.get("acl", ""):
        if access_list and ownership_of(standing) == ENFORCED:
            raise S3Error("InvalidBucketAclWithObjectOwnership")
        check_public_list(access_list, standing)
        await call.store.change_bucket(call.bucket, BucketChange({"acl": access_list or None}))


def _access_list(call: Call, documents: Mapping[str, str]) -> str:
    """The list x-amz-acl or x-amz-grant-… gives a new bucket. Raises InvalidBucketAclWithObjectOwnership."""
    owner_id = call.access.canonical_id(call.identity.owner)
    text = acl.from_headers(call.request.headers, call.access, owner_id, owner_id, of_object=False) or ""
    if text and documents.get("ownershipControls") == ENFORCED:
        raise S3Error("InvalidBucketAclWithObjectOwnership")
    return text


def _ownership(call: Call) -> dict[str, str]:
    """The documents that x-amz-object-ownership asks for, or the settings in its place. Raises InvalidArgument."""
    if OWNERSHIP_HEADER not in call.request.headers:
        default = call.config.object_ownership
        return {"ownershipControls": default} if default else {}
    value = call.header(OWNERSHIP_HEADER)
    if value not in OWNERSHIPS:
        name = OWNERSHIP_HEADER.decode()
        raise S3Error("InvalidArgument", f"Invalid {name} header: {value[:64]}", ArgumentName=name)
    return {"ownershipControls": value}


def _configuration(body: bytes, region: str) -> tuple[str, str | None]:
    """The location a CreateBucket document names, else this gateway's region, and its tags as a document.

    Raises MalformedXML, NotImplemented (directory buckets), InvalidTag, InvalidLocationConstraint and, away from
    us-east-1, IllegalLocationConstraintException for any other region.

    # differs from AWS: a gateway of us-east-1 takes and remembers any region, as signatures of any region are taken; the
    # bytes are here all the same. A missing constraint means here, instead of being refused outside us-east-1.
    """
    if not body.strip():
        return region, None
    root = xml.parse(body, "CreateBucketConfiguration").only("LocationConstraint", "Tags", "Location", "Bucket")
    for child in root.children:
        if child.name in ("Location", "Bucket"):
            raise S3Error("NotImplemented", f"CreateBucketConfiguration/{child.name} is of directory buckets.")
    tags = tagging_document(tags_of(root.find("Tags"))) if root.find("Tags") is not None else None
    named = root.text("LocationConstraint").strip()
    if not named:
        return region, tags
    if named not in _OLD_NAMES and not _REGION.match(named):
        raise S3Error("InvalidLocationConstraint", LocationConstraint=named[:64])
    named = _OLD_NAMES.get(named, named)
    if region not in (HOME_REGION, named):
        raise S3Error(
            "IllegalLocationConstraintException",
            f"The {named} location constraint is incompatible for the region specific endpoint this request was sent to.",
        )
    return named, tags


def _region(bucket: BucketInfo, call: Call) -> str:
    """Where the bucket says it is."""
    return bucket.location or call.config.region


def region_line(call: Call) -> str:
    """Where the call's bucket is, as replies about the bucket say it."""
    return f"x-amz-bucket-region: {_region(bucket_of(call), call)}\r\n"


def head_bucket(call: Call) -> Response:
    """200 with region and pool."""
    bucket = bucket_of(call)
    lines = f"{region_line(call)}x-amz-access-point-alias: false\r\n{POOL_HEADER}: {bucket.pool}\r\n"
    return Response(200, xml.CONTENT_TYPE + lines.encode())  # a type without content, as AWS sends it


async def delete_bucket(call: Call) -> Response:
    """204; uploads under way do not keep a bucket, objects do."""
    try:
        await call.store.delete_bucket(call.bucket)
    except BucketNotEmpty:
        if not bucket_of(call).versioning:
            raise
        why = "The bucket you tried to delete is not empty. You must delete all versions in the bucket."
        raise S3Error("BucketNotEmpty", why, BucketName=call.bucket) from None
    return Response(204)


def get_bucket_location(call: Call) -> Response:
    """The region the bucket was made in; empty for us-east-1."""
    named = _region(bucket_of(call), call)
    region = "" if named == HOME_REGION else xml.escape(named)
    element = f'<LocationConstraint xmlns="{xml.NAMESPACE}">{region}</LocationConstraint>'
    return Response(200, xml.CONTENT_TYPE, (xml.HEAD + element).encode())
