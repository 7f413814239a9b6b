"""Lifecycle rules of a bucket: put, get, delete; and what replies about an object say of the rule that will end it.

Owns nothing. Does not know how rules are carried out (`gateway.lifecycle`). Kind: shell (the loop).
Spec: AWS PutBucketLifecycleConfiguration, GetBucketLifecycleConfiguration, DeleteBucketLifecycle; RestoreObject.
"""

from __future__ import annotations

from s3api import lifecycle, xml
from s3api.call import Call
from s3api.errors import S3Error
from s3api.handlers.body import document
from s3api.message import Response
from s3api.moment import http_date
from tiering.contract import BucketChange, ObjectInfo

DOCUMENT = "lifecycle"


async def put_bucket_lifecycle_configuration(call: Call) -> Response:
    """Replaces the rules; those without an id get one."""
    call.store.bucket(call.bucket)
    minimum = call.header(lifecycle.MINIMUM_HEADER)
    rules = lifecycle.parse(await document(call, checksum_required=True), minimum)
    await call.store.change_bucket(call.bucket, BucketChange({DOCUMENT: lifecycle.store(rules)}))
    return Response(200, _minimum_line(rules))


def get_bucket_lifecycle_configuration(call: Call) -> Response:
    """The rules as they were given, with their ids."""
    text = call.store.bucket(call.bucket).documents.get(DOCUMENT)
    if text is None:
        raise S3Error("NoSuchLifecycleConfiguration", BucketName=call.bucket)
    rules = lifecycle.load(text)
    return Response(200, xml.CONTENT_TYPE + _minimum_line(rules), lifecycle.render(rules))


async def delete_bucket_lifecycle(call: Call) -> Response:
    """204, whether or not there were any."""
    if DOCUMENT in call.store.bucket(call.bucket).documents:
        await call.store.change_bucket(call.bucket, BucketChange({DOCUMENT: None}))
    return Response(204)


def _minimum_line(rules: lifecycle.Rules) -> bytes:
    return lifecycle.MINIMUM_HEADER + b": " + rules.minimum.encode() + b"\r\n"


def expiry_of(call: Call, info: ObjectInfo) -> lifecycle.Due | None:
    """When a rule of the call's bucket ends the object the call is about; costs a look-up where there is no rule."""
    text = (call.bucket_info or call.store.bucket(call.bucket)).documents.get(DOCUMENT)
    if text is None:
        return None
    return lifecycle.expiration(lifecycle.load(text), call.key, info, call.config.day_ms)


def abort_lines(call: Call, initiated_ms: int) -> str:
    """`x-amz-abort-date` and its rule, of an upload that a rule would abort."""
    text = (call.bucket_info or call.store.bucket(call.bucket)).documents.get(DOCUMENT)
    if text is None:
        return ""
    due = lifecycle.abortion(lifecycle.load(text), call.key, initiated_ms, call.config.day_ms)
    if due is None:
        return ""
    return f"x-amz-abort-date: {http_date(due.at_ms)}\r\nx-amz-abort-rule-id: {lifecycle.header_id(due.rule_id)}\r\n"
