"""Server access logs of buckets: what one line says, and where a log is put.

Owns nothing. Does not know who collects the lines or when they are delivered (`gateway.accesslog`). Kind: pure.
Invariants: a line is one line, its fields are separated by single spaces, an unknown one is `-`; nothing a client sent
can end a quoted field or the line.
Spec: AWS S3 User Guide, "Amazon S3 server access log format", "Log object key format".
"""

from __future__ import annotations

import re
import time
from typing import Final
from urllib.parse import quote

import msgspec

from s3api.operations import BY_NAME
from s3api.settings import Logging

NONE: Final = "-"
BATCH_DELETE: Final = "BATCH.DELETE.OBJECT"
"""The operation of a line about one key of a request that deletes many."""
_MONTHS: Final = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_QUOTED: Final = re.compile(r'[\x00-\x1f\x7f"\\]')

_RESOURCES: Final = {
    "acl": "ACL",
    "delete": "MULTI_OBJECT_DELETE",
    "logging": "LOGGING_STATUS",
    "notification": "NOTIFICATION",
    "object-lock": "OBJECT_LOCK_CONFIGURATION",
    "partNumber": "PART",
    "policy": "BUCKETPOLICY",
    "policyStatus": "BUCKETPOLICYSTATUS",
    "publicAccessBlock": "PUBLIC_ACCESS_BLOCK",
    "requestPayment": "REQUEST_PAYMENT",
    "ownershipControls": "OWNERSHIP_CONTROLS",
    "uploadId": "UPLOAD",
    "versions": "BUCKETVERSIONS",
}
"""Sub-resources whose name in the log is not their own in capitals."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One request, as it was answered. "" and None are unknown."""

    owner: str
    bucket: str
    at_s: float
    peer: str = ""
    requester: str = ""
    request_id: str = ""
    operation: str = ""  # the AWS action
    method: str = ""
    key: str = ""
    target: str = ""  # the request target as sent
    status: int = 0
    error: str = ""
    sent_bytes: int = 0
    object_bytes: int | None = None
    total_ms: int = 0
    referer: str = ""
    agent: str = ""
    version: str = ""
    host_id: str = ""
    signature: str = ""  # SigV2 or SigV4
    authentication: str = ""  # AuthHeader or QueryString
    host: str = ""
    tls: str = ""  # as 1.3


def operation_name(operation: str, method: str) -> str:
    """`REST.GET.OBJECT` and its like: method and resource of an action."""
    row = BY_NAME.get(operation)
    if operation == BATCH_DELETE:
        return operation
    if method == "OPTIONS":
        return "REST.OPTIONS.PREFLIGHT"
    if row is None:
        return f"REST.{method or 'UNKNOWN'}.UNKNOWN"
    if row.copy:
        return f"REST.COPY.{'PART' if row.query else 'OBJECT'}"
    name = next((each for each in row.query if each != "list-type"), "")
    if not name:
        return f"REST.{row.method}.{row.scope.upper()}"
    resource = _RESOURCES.get(name, name.upper().replace("-", "_"))
    if row.scope == "object" and name in ("tagging", "acl"):
        resource = f"OBJECT_{resource}" if name == "tagging" else resource
    return f"REST.{row.method}.{resource}"


def _quoted(text: str) -> str:
    """A field in quotation marks; what would end it is percent-encoded."""
    if not text:
        return f'"{NONE}"'
    return '"' + _QUOTED.sub(lambda match: f"%{ord(match.group()):02X}", text) + '"'


def _bare(text: str) -> str:
    """A field without quotation marks: one word."""
    return quote(text, safe="/:.@+=*,;!'()~-_[]") if text else NONE


def line(entry: Entry) -> str:
    """One line with its end."""
    t = time.gmtime(entry.at_s)
    moment = f"[{t[2]:02d}/{_MONTHS[t[1]]}/{t[0]}:{t[3]:02d}:{t[4]:02d}:{t[5]:02d} +0000]"
    fields = (
        _bare(entry.owner),
        entry.bucket,
        moment,
        _bare(entry.peer),
        _bare(entry.requester),
        entry.request_id or NONE,
        operation_name(entry.operation, entry.method),
        quote(entry.key, safe="/") or NONE,
        _quoted(f"{entry.method} {entry.target} HTTP/1.1" if entry.target else ""),
        str(entry.status),
        entry.error or NONE,
        str(entry.sent_bytes) if entry.sent_bytes else NONE,
        NONE if entry.object_bytes is None else str(entry.object_bytes),
        str(entry.total_ms),
        NONE,  # turn-around: the reply begins when it is complete
        _quoted(entry.referer),
        _quoted(entry.agent),
        _bare(entry.version),
        _bare(entry.host_id),
        entry.signature or NONE,
        NONE,  # cipher suite: nobody keeps it
        entry.authentication or NONE,
        _bare(entry.host),
        f"TLSv{entry.tls}" if entry.tls else NONE,
        NONE,  # access point
        NONE,  # whether an ACL was required
    )
    return " ".join(fields) + "\n"


def object_key(
    logging: Logging, bucket: str, owner: str, region: str, events_s: float, now_s: float, unique: str
) -> str:
    """Where a log is put: `owner` and `region` of the logged bucket, `events_s` a time of its lines, `now_s` now."""
    delivered = time.strftime("%Y-%m-%d-%H-%M-%S", time.gmtime(now_s))
    if not logging.partitioned:
        return f"{logging.prefix}{delivered}-{unique}"
    if logging.partitioned == "EventTime":
        at = time.gmtime(events_s)
        delivered = time.strftime("%Y-%m-%d-00-00-00", at)
    else:
        at = time.gmtime(now_s)
    day = time.strftime("%Y/%m/%d", at)
    return f"{logging.prefix}{owner}/{region}/{bucket}/{day}/{delivered}-{unique}"
