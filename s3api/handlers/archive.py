"""Archived objects: which may be read, and RestoreObject, which recalls and holds any object.

An object is archived when its class is one AWS keeps offline: its content is refused until it is restored, wherever its
bytes are, because clients and policies rely on that. Every other cold object is read at once.

Owns nothing. Does not know tiers' workings. Kind: shell (the loop).
Spec: AWS RestoreObject, "Restoring an archived object", GetObject (InvalidObjectState); docs/EXTENSIONS.md.
"""

from __future__ import annotations

from typing import Final

from s3api import xml
from s3api.call import Call
from s3api.errors import S3Error
from s3api.handlers.body import arrived, document
from s3api.handlers.fields import lease_lines
from s3api.lifecycle import later
from s3api.message import Response
from s3api.versions import named_version, version_line
from tiering.contract import ObjectChange, ObjectInfo, ReadOptions, Residency

ARCHIVE_CLASSES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
TIERS: Final = ("Standard", "Bulk", "Expedited")
DAYS_MAX: Final = 36_500
_SELECT: Final = ("Type", "SelectParameters", "OutputLocation")


def is_archived(info: ObjectInfo, now_ms: int) -> bool:
    """Whether the content may not be read now."""
    return info.storage_class in ARCHIVE_CLASSES and info.restore_until_ms <= now_ms


def judge_readable(info: ObjectInfo, now_ms: int, code: str = "InvalidObjectState") -> None:
    """Raises `code` for an archived object that is not restored."""
    if is_archived(info, now_ms):
        raise S3Error(code, StorageClass=info.storage_class)


async def restore_object(call: Call) -> Response:
    """Recalls the object and holds it hot for `Days`. 202 the first time, 200 when that only makes it longer.

    # differs from AWS: any object can be held, whatever its storage class; when the reply comes, the recall is done.
    """
    days, tier = _request(xml.parse(await document(call), "RestoreRequest"))
    version = named_version(call.query)
    seen = (await arrived(call.store.open(call.bucket, call.key, ReadOptions(head=True, version=version)))).info
    if seen.storage_class == "DEEP_ARCHIVE" and tier == "Expedited":
        raise S3Error("InvalidArgument", "Retrieval option is not supported by this storage class", ArgumentName="Tier")
    restore_ms = later(call.now_ms, days, call.config.day_ms) - call.now_ms
    change = ObjectChange(restore_ms=restore_ms, version=version, origin=call.origin("ObjectRestore:Post"))
    info = await call.store.change(call.bucket, call.key, change)
    archived = seen.storage_class in ARCHIVE_CLASSES
    begun = seen.restore_until_ms <= call.now_ms if archived else seen.residency is Residency.COLD_ONLY
    lines = lease_lines(info, call.now_ms) + version_line(info.version, call.store.bucket(call.bucket))
    return Response(202 if begun else 200, lines.encode())


def _request(root: xml.Node) -> tuple[int, str]:
    """Days and speed; the speed changes nothing here. Raises MalformedXML; NotImplemented for a query of the content."""
    for child in root.children:
        if child.name in _SELECT:
            raise S3Error("NotImplemented", f"RestoreRequest/{child.name} is not served.")
        if child.name not in ("Days", "GlacierJobParameters", "Tier", "Description"):
            raise S3Error("MalformedXML", f"A RestoreRequest has no element {child.name}.")
    parameters = root.find("GlacierJobParameters")
    tier = root.text("Tier").strip() if parameters is None else parameters.required("Tier").strip()
    if tier and tier not in TIERS:
        raise S3Error("MalformedXML", f"Tier must be one of {', '.join(TIERS)}.")
    return root.integer("Days", 1, DAYS_MAX), tier
