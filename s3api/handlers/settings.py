"""The sub-resources of a bucket that are documents: read, written and removed alike, one row each.

Owns SETTINGS. Does not know what a document may say (`s3api.settings`, `s3api.cors`) nor its effects.
Kind: table, and shell (the loop). Invariants: what is stored passed its check; a GET answers what is stored, as a document.
Spec: AWS S3 API Reference, GetBucketCors and its like; docs/S3.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from s3api import acl, cors, settings, xml
from s3api.access import ENFORCED, check_public_list, ownership_of
from s3api.call import Call, Handler
from s3api.errors import ERRORS, S3Error
from s3api.handlers.body import document
from s3api.handlers.objects import bucket_of
from s3api.message import Response
from s3api.operations import BY_NAME
from tiering.contract import BucketChange, NoSuchBucket

DOCUMENT_BYTES_MAX: Final = 64 << 10
"""Largest document of one setting (AWS: 64 KB of cross-origin rules): a bucket is read at every request."""


def _any(call: Call, text: str | None) -> None:
    """No judgement beyond the document itself."""


def _as_kept(text: str) -> str:
    return text


class Setting(msgspec.Struct, frozen=True):
    """One sub-resource. `name` names the operations, `root` the document's element.

    `check` takes the root and answers what is stored, None for nothing; `show` makes the document of it; `judge` refuses
    what this bucket cannot have. `unset` is the error of a GET where nothing is stored, else `blank` its document.
    """

    name: str
    root: str
    check: Callable[[xml.Node], str | None]
    unset: str = ""
    blank: str = ""
    show: Callable[[str], str] = _as_kept
    judge: Callable[[Call, str | None], None] = _any


def _undotted(call: Call, text: str | None) -> None:
    if "." in call.bucket:
        raise S3Error(
            "InvalidRequest",
            "S3 Transfer Acceleration is not supported for buckets with periods (.) in their names",
        )


def _unlisted(call: Call, text: str | None) -> None:
    """The owner cannot be enforced over a bucket that grants others anything."""
    if text == ENFORCED and bucket_of(call).documents.get("acl"):
        raise S3Error("InvalidBucketAclWithObjectOwnership")


def _log_target(call: Call, text: str | None) -> None:
    """The log goes to a bucket of the same owner, into which whoever asks for it may write, and its readers are known.

    Raises InvalidTargetBucketForLogging, AccessControlListNotSupported, InvalidArgument, AccessDenied.
    """
    if text is None:
        return
    name = settings.log_target(text)
    try:
        target = call.store.bucket(name)
    except NoSuchBucket:
        raise S3Error("InvalidTargetBucketForLogging", TargetBucket=name[:256]) from None
    if target.owner != bucket_of(call).owner:
        raise S3Error(
            "InvalidTargetBucketForLogging",
            "The owner for the bucket to be logged and the target bucket must be the same.",
            TargetBucket=name,
        )
    grants = settings.log_grants(text)
    if grants and ownership_of(target) == ENFORCED:
        raise S3Error("AccessControlListNotSupported")
    list(acl.document_grants(grants, call.access, ""))
    wanted = settings.bucket_logging(text)
    assert wanted is not None
    # differs from AWS: there the target lets the log delivery in; here the gateway writes for who asks it to.
    call.require("s3:PutObject", name, f"{wanted.prefix}log")
    if grants:
        call.require("s3:PutObjectAcl", name, f"{wanted.prefix}log")
    check_public_list(wanted.acl, target)


def _empty(root: str) -> str:
    return xml.XmlWriter(root).finish().decode()


SETTINGS: Final = (
    Setting("BucketCors", "CORSConfiguration", cors.check, "NoSuchCORSConfiguration"),
    Setting("BucketTagging", "Tagging", settings.check_tagging, "NoSuchTagSet"),
    # differs from AWS: a bucket without a default says so, where AWS names AES256, because nothing is sealed here unasked.
    Setting(
        "BucketEncryption",
        "ServerSideEncryptionConfiguration",
        settings.check_encryption,
        "ServerSideEncryptionConfigurationNotFoundError",
    ),
    Setting(
        "PublicAccessBlock",
        "PublicAccessBlockConfiguration",
        settings.check_public_access,
        "NoSuchPublicAccessBlockConfiguration",
        show=settings.public_access_document,
    ),
    Setting(
        "BucketOwnershipControls",
        "OwnershipControls",
        settings.check_ownership,
        "OwnershipControlsNotFoundError",
        show=settings.ownership_document,
        judge=_unlisted,
    ),
    Setting(
        "BucketLogging",
        "BucketLoggingStatus",
        settings.check_logging,
        blank=_empty("BucketLoggingStatus"),
        judge=_log_target,
    ),
    Setting(
        "BucketRequestPayment",
        "RequestPaymentConfiguration",
        settings.check_payer,
        blank=settings.PAYER_UNSET,
    ),
    Setting(
        "BucketAccelerateConfiguration",
        "AccelerateConfiguration",
        settings.check_acceleration,
        blank=_empty("AccelerateConfiguration"),
        judge=_undotted,
    ),
    Setting("BucketAbac", "AbacStatus", settings.check_abac, blank=settings.ABAC_UNSET),
)


async def small_document(call: Call) -> bytes:
    """The request's document, of a bucket that exists. Raises NoSuchBucket, MaxMessageLengthExceeded."""
    bucket_of(call)
    body = await document(call)
    if len(body) > DOCUMENT_BYTES_MAX:
        raise S3Error("MaxMessageLengthExceeded", MaxMessageLengthBytes=DOCUMENT_BYTES_MAX)
    return body


def _operations(setting: Setting) -> Iterator[tuple[str, Handler]]:
    key = BY_NAME[f"Get{setting.name}"].query[0]
    assert not setting.unset or setting.unset in ERRORS

    def get(call: Call) -> Response:
        kept = bucket_of(call).documents.get(key)
        if kept is None and setting.unset:
            raise S3Error(setting.unset, BucketName=call.bucket)
        text = setting.blank if kept is None else setting.show(kept)
        return Response(200, xml.CONTENT_TYPE, text.encode())

    async def put(call: Call) -> Response:
        text = setting.check(xml.parse(await small_document(call), setting.root))
        setting.judge(call, text)
        await call.store.change_bucket(call.bucket, BucketChange({key: text}))
        return Response(200)

    async def delete(call: Call) -> Response:
        await call.store.change_bucket(call.bucket, BucketChange({key: None}))
        return Response(204)

    yield f"Get{setting.name}", get
    yield f"Put{setting.name}", put
    if f"Delete{setting.name}" in BY_NAME:
        yield f"Delete{setting.name}", delete


def delete_nothing(call: Call) -> Response:
    """204: what cannot be set is gone already, as removing twice is on AWS."""
    bucket_of(call)
    return Response(204)


HANDLERS: Final[dict[str, Handler]] = {
    **{name: handler for setting in SETTINGS for name, handler in _operations(setting)},
    "DeleteBucketReplication": delete_nothing,
    "DeleteBucketWebsite": delete_nothing,
}
