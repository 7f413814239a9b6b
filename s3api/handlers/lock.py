"""Object lock: a bucket's configuration, and the retention and legal hold of its versions.

Owns nothing. Does not know how a lock is kept. Kind: shell (the loop). Invariants: whether a retention may become weaker
is judged by the store, in the transaction; here only whether the caller may bypass governance.
Spec: AWS PutObjectLockConfiguration, GetObjectLockConfiguration, PutObjectRetention, GetObjectRetention,
PutObjectLegalHold, GetObjectLegalHold.
"""

from __future__ import annotations

from s3api import objectlock, xml
from s3api.call import Call
from s3api.errors import S3Error
from s3api.handlers.body import arrived, document
from s3api.handlers.objects import bucket_of, bypasses_governance
from s3api.handlers.options import check_lockable
from s3api.message import Response
from s3api.moment import iso_moment
from s3api.versions import named_version
from tiering.contract import BucketChange, Lock, ObjectChange, ReadOptions


async def put_object_lock_configuration(call: Call) -> Response:
    """Sets the bucket's default, and enables object lock for good if it was not. Needs versioning."""
    bucket = bucket_of(call)
    default = objectlock.parse_configuration(await document(call, checksum_required=True))
    if bucket.versioning != "Enabled":
        raise S3Error(
            "InvalidBucketState", "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration"
        )
    documents = {objectlock.DOCUMENT: objectlock.render(default) if default is not None else None}
    await call.store.change_bucket(call.bucket, BucketChange(documents, object_lock=True))
    return Response(200)


def get_object_lock_configuration(call: Call) -> Response:
    """What was set; only that it is enabled, where there is no default."""
    bucket = bucket_of(call)
    if not bucket.object_lock:
        raise S3Error("ObjectLockConfigurationNotFoundError", BucketName=call.bucket)
    text = bucket.documents.get(objectlock.DOCUMENT) or objectlock.render(None)
    return Response(200, xml.CONTENT_TYPE, text.encode())


async def put_object_retention(call: Call) -> Response:
    """Sets, lengthens or, with the right to, weakens the retention of a version."""
    version = named_version(call.query)
    bucket = bucket_of(call)
    lock = objectlock.parse_retention(await document(call, checksum_required=True), call.now_ms)
    check_lockable(bucket)
    bypass = bypasses_governance(call, call.key, version)
    change = ObjectChange(version=version, lock=lock, bypass_governance=bypass)
    await call.store.change(call.bucket, call.key, change)
    return Response(200)


async def put_object_legal_hold(call: Call) -> Response:
    """Places or lifts the legal hold of a version."""
    version = named_version(call.query)
    bucket = bucket_of(call)
    held = objectlock.parse_legal_hold(await document(call, checksum_required=True))
    check_lockable(bucket)
    await call.store.change(call.bucket, call.key, ObjectChange(version=version, legal_hold=held))
    return Response(200)


async def _lock(call: Call) -> Lock:
    """Of the version the call is about: as AWS has it, one that is not there is named before a bucket without locks."""
    options = ReadOptions(head=True, version=named_version(call.query))
    info = (await arrived(call.store.open(call.bucket, call.key, options))).info
    check_lockable(bucket_of(call))
    return info.lock or Lock()


async def get_object_retention(call: Call) -> Response:
    """Mode and end of a version's retention, also of one that has ended."""
    lock = await _lock(call)
    if not lock.mode:
        raise S3Error("NoSuchObjectLockConfiguration")
    writer = xml.XmlWriter("Retention")
    writer.leaf("Mode", lock.mode)
    writer.leaf("RetainUntilDate", iso_moment(lock.until_ms))
    return Response(200, xml.CONTENT_TYPE, writer.finish())


async def get_object_legal_hold(call: Call) -> Response:
    """Whether a version is held; of one nobody ever spoke of a hold of, NoSuchObjectLockConfiguration."""
    lock = await _lock(call)
    if lock.legal_hold is None:
        raise S3Error("NoSuchObjectLockConfiguration")
    writer = xml.XmlWriter("LegalHold")
    writer.leaf("Status", "ON" if lock.legal_hold else "OFF")
    return Response(200, xml.CONTENT_TYPE, writer.finish())
