"""Access lists of buckets and objects, and the policies of buckets: read, written, removed.

Owns nothing. Does not know what a list or a policy says (`s3api.acl`, `s3api.policy`), nor who may do what by it
(`s3api.access`). Kind: shell (the loop). Invariants: what is kept was checked; where lists do not count none is set; a
bucket that blocks public lists or policies gets none.
Spec: AWS GetBucketAcl, PutBucketAcl, GetObjectAcl, PutObjectAcl, GetBucketPolicy, PutBucketPolicy,
GetBucketPolicyStatus; "Controlling ownership of objects"; "Blocking public access".
"""

from __future__ import annotations

from s3api import acl, xml
from s3api.access import ENFORCED, check_public_list, is_listed_publicly, ownership_of, public_access_of
from s3api.call import Call
from s3api.condition import malformed
from s3api.errors import S3Error
from s3api.handlers.body import arrived
from s3api.handlers.objects import bucket_of
from s3api.handlers.settings import small_document
from s3api.message import Response
from s3api.policy import check_bucket_policy, compiled
from s3api.versions import named_version, version_line
from tiering.contract import (
    BucketChange,
    BucketInfo,
    Conditions,
    ObjectChange,
    ObjectInfo,
    PreconditionFailed,
    ReadOptions,
)


def get_bucket_acl(call: Call) -> Response:
    """Who is granted what; where lists do not count, the owner alone."""
    bucket = bucket_of(call)
    text = "" if ownership_of(bucket) == ENFORCED else bucket.documents.get("acl", "")
    return Response(200, xml.CONTENT_TYPE, acl.document(text, call.access, call.access.canonical_id(bucket.owner)))


async def put_bucket_acl(call: Call) -> Response:
    """Replaces the list, by a canned one, by grants in headers, or by a document."""
    bucket = bucket_of(call)
    text = await _wanted(call, bucket, call.access.canonical_id(bucket.owner), of_object=False)
    await call.store.change_bucket(call.bucket, BucketChange({"acl": text or None}))
    return Response(200)


async def get_object_acl(call: Call) -> Response:
    """As the bucket's, of an object or one version of it."""
    bucket = bucket_of(call)
    info = await _seen(call, named_version(call.query))
    owner, text = (bucket.owner, "") if ownership_of(bucket) == ENFORCED else (info.owner or bucket.owner, info.acl)
    lines = xml.CONTENT_TYPE + version_line(info.version, bucket).encode()
    return Response(200, lines, acl.document(text, call.access, call.access.canonical_id(owner)))


async def put_object_acl(call: Call) -> Response:
    """As the bucket's, of an object or one version of it."""
    bucket, version = bucket_of(call), named_version(call.query)
    info = await _seen(call, version)
    owner_id = call.access.canonical_id(info.owner or bucket.owner)
    text = await _wanted(call, bucket, owner_id, of_object=True)
    # Whose the list is, and who may set it, is known of the object that was looked at, and of no other.
    version = info.version if version is None and bucket.versioning else version
    same = Conditions(if_match=(info.etag,), if_match_modified_s=info.modified_ms // 1000)
    change = ObjectChange(version=version, acl=text, conditions=same, origin=call.origin("ObjectAcl:Put"))
    try:
        changed = await call.store.change(call.bucket, call.key, change)
    except PreconditionFailed:
        raise S3Error("OperationAborted", f"{call.key} was written while its access list was set.") from None
    return Response(200, version_line(changed.version, bucket).encode())


async def _seen(call: Call, version: str | None) -> ObjectInfo:
    """The object, or a version of it, once the caller may do to it what was asked."""
    info = (await arrived(call.store.open(call.bucket, call.key, ReadOptions(head=True, version=version)))).info
    if call.asked:
        call.check_object(info)
    return info


async def _wanted(call: Call, bucket: BucketInfo, owner_id: str, *, of_object: bool) -> str:
    """The text of the list a request sets on something of `owner_id`.

    Raises AccessControlListNotSupported, AccessDenied (public lists are blocked), UnexpectedContent,
    MissingSecurityHeader, and what `s3api.acl` does.
    """
    body = await small_document(call)
    if ownership_of(bucket) == ENFORCED:
        raise S3Error("AccessControlListNotSupported")
    headers = call.request.headers
    bucket_owner = call.access.canonical_id(bucket.owner)
    text = acl.from_headers(headers, call.access, owner_id, bucket_owner, of_object=of_object)
    if text is None:
        if not body.strip():
            raise S3Error("MissingSecurityHeader", MissingHeaderName="x-amz-acl")
        text = acl.from_document(body, call.access, owner_id)
    elif body.strip():
        raise S3Error("UnexpectedContent")
    check_public_list(text, bucket)
    return text


# -- policies


def _policy(call: Call) -> str:
    text = bucket_of(call).documents.get("policy")
    if text is None:
        raise S3Error("NoSuchBucketPolicy", BucketName=call.bucket)
    return text


def get_bucket_policy(call: Call) -> Response:
    """The policy, as it was sent."""
    return Response(200, b"content-type: application/json\r\n", _policy(call).encode())


def get_bucket_policy_status(call: Call) -> Response:
    """Whether AWS would call the policy, or the access list, public."""
    # differs from AWS: the list counts too, and a bucket without a policy has a status: to be public is to be public.
    bucket = bucket_of(call)
    text = bucket.documents.get("policy")
    writer = xml.XmlWriter("PolicyStatus")
    writer.leaf("IsPublic", (text is not None and compiled(text).public) or is_listed_publicly(bucket))
    return Response(200, xml.CONTENT_TYPE, writer.finish())


async def put_bucket_policy(call: Call) -> Response:
    """Replaces the policy."""
    bucket = bucket_of(call)
    try:
        text = (await small_document(call)).decode()
    except UnicodeDecodeError:
        raise malformed("Policies must be valid JSON and the first byte must be '{'") from None
    policy = check_bucket_policy(text, call.bucket)
    if policy.public and public_access_of(bucket).block_policy:
        raise S3Error("AccessDenied")
    await call.store.change_bucket(call.bucket, BucketChange({"policy": text}))
    return Response(204)


async def delete_bucket_policy(call: Call) -> Response:
    """204, whether or not there was one."""
    await call.store.change_bucket(call.bucket, BucketChange({"policy": None}))
    return Response(204)
