"""Notification configuration of a bucket: the document both ways, who is told of an event, and what they are told.

Promise: `parse` takes what AWS takes and refuses what it refuses, overlaps among it; `receivers` is the only judgement
of who is told. Destinations are names of webhooks in the settings, given as ARNs: MinIO's
`arn:minio:sqs:REGION:NAME:webhook`, or AWS's of a topic, queue or function called NAME.

Owns nothing. Does not know queues or how a message is sent. Kind: pure. Invariants: the text `store` makes is what
`load` reads; messages are JSON in UTF-8, one event each.
Spec: AWS S3 User Guide, "Event message structure", "Supported event types", "Configuring notifications with object key
name filtering"; PutBucketNotificationConfiguration.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, Literal
from urllib.parse import quote_plus

import msgspec

from s3api import xml
from s3api.errors import S3Error
from s3api.moment import iso_moment
from tiering.contract import EventRecord

ID_CHARS_MAX: Final = 255
VALUE_BYTES_MAX: Final = 1024
CONFIGURATIONS_MAX: Final = 100
TEST_EVENT: Final = "TestEvent"
"""What a new configuration is tried with; never asked for by name."""

EVENTS: Final = (
    "s3:ObjectCreated:Put",
    "s3:ObjectCreated:Post",
    "s3:ObjectCreated:Copy",
    "s3:ObjectCreated:CompleteMultipartUpload",
    "s3:ObjectRemoved:Delete",
    "s3:ObjectRemoved:DeleteMarkerCreated",
    "s3:ObjectTagging:Put",
    "s3:ObjectTagging:Delete",
    "s3:ObjectAcl:Put",
    "s3:ObjectRestore:Post",
    "s3:ObjectRestore:Completed",
    "s3:ObjectRestore:Delete",
    "s3:LifecycleExpiration:Delete",
    "s3:LifecycleExpiration:DeleteMarkerCreated",
    "s3:LifecycleTransition",
    "s3:ObjectRecall:Pin",
    "s3:ObjectRecall:Demote",
    "s3:ObjectRecall:Evict",
    "s3:ObjectRecall:Recall",
    # AWS's, of what does not happen here: a configuration may name them and nothing comes
    "s3:ReducedRedundancyLostObject",
    "s3:Replication:OperationFailedReplication",
    "s3:Replication:OperationMissedThreshold",
    "s3:Replication:OperationReplicatedAfterThreshold",
    "s3:Replication:OperationNotTracked",
    "s3:IntelligentTiering",
)
_ANY: Final = frozenset(f"{name.rpartition(':')[0]}:*" for name in EVENTS if name.count(":") == 2)
_KNOWN: Final = frozenset(EVENTS) | _ANY

Kind = Literal["Topic", "Queue", "CloudFunction"]
_SERVICES: Final[dict[Kind, str]] = {"Topic": "sns", "Queue": "sqs", "CloudFunction": "lambda"}
_ELEMENTS: Final[dict[str, Kind]] = {f"{kind}Configuration": kind for kind in _SERVICES}
_MINIO_ARN: Final = re.compile(r"arn:minio:sqs:[^:]*:([A-Za-z0-9_-]{1,64}):webhook\Z")
_AWS_ARN: Final = re.compile(r"arn:aws[a-z-]*:(sns|sqs|lambda):[^:]*:[^:]*:(?:function:)?([A-Za-z0-9_-]{1,64})\Z")


class Notice(msgspec.Struct, frozen=True, omit_defaults=True):
    """One configuration: who (`arn`) is told of which `events` of keys with `prefix` and `suffix`. None: no such rule."""

    id: str
    kind: Kind
    arn: str
    events: tuple[str, ...]
    prefix: str | None = None
    suffix: str | None = None


class Notices(msgspec.Struct, frozen=True):
    notices: tuple[Notice, ...] = ()


# -- the document ------------------------------------------------------------------------------------------------


def _invalid(message: str, **fields: str) -> S3Error:
    return S3Error("InvalidArgument", message, b"", **fields)


def target_name(arn: str, kind: Kind) -> str:
    """The webhook an ARN names; "" when it names none, or something of another kind."""
    if match := _MINIO_ARN.match(arn):
        return match.group(1)
    if (match := _AWS_ARN.match(arn)) and match.group(1) == _SERVICES[kind]:
        return match.group(2)
    return ""


def is_for(target: str, owner: str, owners: Mapping[str, Collection[str]]) -> bool:
    """Whether a webhook takes events of the buckets of `owner`, a canonical id. `owners`: whom some are for alone."""
    return target not in owners or owner in owners[target]


def parse(
    body: bytes, targets: Collection[str], validate: bool = True, refused: Collection[str] = frozenset()
) -> Notices:
    """A NotificationConfiguration document. `targets`: names of webhooks there are; `validate` False takes any ARN, but
    those of the webhooks named in `refused`.

    Raises MalformedXML, InvalidArgument, NotImplemented.
    """
    root = xml.parse(body, "NotificationConfiguration")
    notices = []
    for number, node in enumerate(root.children, start=1):
        if node.name == "EventBridgeConfiguration":
            raise S3Error(
                "NotImplemented", "There is no Amazon EventBridge here: name a webhook of this gateway instead."
            )
        kind = _ELEMENTS.get(node.name)
        if kind is None:
            raise S3Error("MalformedXML", f"A notification configuration has no element {node.name}.")
        notices.append(_notice(node, kind, number))
    if len(notices) > CONFIGURATIONS_MAX:
        raise _invalid(f"A bucket has at most {CONFIGURATIONS_MAX} notification configurations.")
    if len({notice.id for notice in notices}) != len(notices):
        raise _invalid("Same ID used for multiple configurations. IDs must be unique.")
    _check_overlaps(notices)
    _check_targets(notices, lambda name: name in targets if validate else name not in refused)
    return Notices(tuple(notices))


def _notice(node: xml.Node, kind: Kind, number: int) -> Notice:
    for child in node.children:
        if child.name not in ("Id", kind, "Event", "Filter"):
            raise S3Error("MalformedXML", f"{node.name} has no element {child.name}.")
    identity = node.text("Id")
    if len(identity) > ID_CHARS_MAX:
        raise _invalid(f"ID must be at most {ID_CHARS_MAX} characters long.")
    events = tuple(dict.fromkeys(event.own.strip() for event in node.all("Event")))
    if not events:
        raise S3Error("MalformedXML", f"{node.name} names no Event.")
    for event in events:
        if event not in _KNOWN:
            raise _invalid(
                "A specified event is not supported for notifications.", ArgumentName="Event", ArgumentValue=event[:128]
            )
    rules = _filter_rules(node.find("Filter"))
    notice = Notice(identity, kind, node.required(kind).strip(), events, rules.get("prefix"), rules.get("suffix"))
    if identity:
        return notice
    digest = hashlib.sha256(b"%d:%b" % (number, msgspec.json.encode(notice))).digest()
    return msgspec.structs.replace(notice, id=base64.urlsafe_b64encode(digest[:30]).decode())


def _filter_rules(node: xml.Node | None) -> dict[str, str]:
    rules: dict[str, str] = {}
    holder = None if node is None else node.find("S3Key")
    for rule in () if holder is None else holder.all("FilterRule"):
        name, value = rule.required("Name").strip().lower(), rule.text("Value")
        if name not in ("prefix", "suffix"):
            raise _invalid("filter rule name must be either prefix or suffix", ArgumentName="FilterRule.Name")
        if name in rules:
            raise _invalid(f"Cannot specify more than one {name} rule in a filter.", ArgumentName="FilterRule.Name")
        if len(value.encode()) > VALUE_BYTES_MAX:
            raise _invalid(
                f"Size of filter rule value cannot exceed {VALUE_BYTES_MAX} bytes in UTF-8 representation",
                ArgumentName="FilterRule.Value",
            )
        rules[name] = value
    return rules


def _check_overlaps(notices: list[Notice]) -> None:
    for at, one in enumerate(notices):
        for other in notices[:at]:
            if _share_keys(one, other) and _share_events(one.events, other.events):
                raise _invalid(
                    "Configurations overlap. Configurations on the same bucket cannot share a common event type."
                )


def _share_keys(one: Notice, other: Notice) -> bool:
    """Whether some key has both prefixes and both suffixes."""
    prefixes = one.prefix or "", other.prefix or ""
    suffixes = one.suffix or "", other.suffix or ""
    return (prefixes[0].startswith(prefixes[1]) or prefixes[1].startswith(prefixes[0])) and (
        suffixes[0].endswith(suffixes[1]) or suffixes[1].endswith(suffixes[0])
    )


def _share_events(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return any(_covers(a, b) or _covers(b, a) for a in one for b in other)


def _covers(pattern: str, event: str) -> bool:
    return pattern == event or (pattern.endswith(":*") and event.startswith(pattern[:-1]))


def _check_targets(notices: list[Notice], is_known: Callable[[str], bool]) -> None:
    unknown = [notice.arn for notice in notices if not is_known(target_name(notice.arn, notice.kind))]
    if unknown:
        fields: dict[str, str] = {}
        for number, arn in enumerate(dict.fromkeys(unknown), start=1):
            fields[f"ArgumentName{number}"] = arn[:256]
            fields[f"ArgumentValue{number}"] = (
                "The destination does not exist: notify_webhooks has no such name for this bucket."
            )
        raise _invalid("Unable to validate the following destination configurations", **fields)


def store(notices: Notices) -> str:
    """The text kept as the bucket's document."""
    return msgspec.json.encode(notices).decode()


@functools.lru_cache(maxsize=1024)
def load(text: str) -> Notices:
    """What `store` made the text of."""
    return msgspec.json.decode(text, type=Notices)


def render(notices: Notices) -> bytes:
    """The document as a reader of the configuration is given it."""
    writer = xml.XmlWriter("NotificationConfiguration")
    for notice in notices.notices:
        with writer.nested(f"{notice.kind}Configuration"):
            writer.leaf("Id", notice.id)
            writer.leaf(notice.kind, notice.arn)
            for event in notice.events:
                writer.leaf("Event", event)
            if notice.prefix is not None or notice.suffix is not None:
                with writer.nested("Filter"), writer.nested("S3Key"):
                    for name, value in (("Prefix", notice.prefix), ("Suffix", notice.suffix)):
                        if value is not None:
                            with writer.nested("FilterRule"):
                                writer.leaf("Name", name)
                                writer.leaf("Value", value)
    return writer.finish()


# -- events ------------------------------------------------------------------------------------------------------


def receivers(notices: Notices, event: EventRecord) -> Iterator[tuple[str, Notice]]:
    """The webhooks that are told of an event, each by the configuration that says so; one of a test all are told."""
    name = f"s3:{event.event}"
    for notice in notices.notices:
        if event.event != TEST_EVENT:
            if not any(_covers(pattern, name) for pattern in notice.events):
                continue
            if not event.key.startswith(notice.prefix or "") or not event.key.endswith(notice.suffix or ""):
                continue
        target = target_name(notice.arn, notice.kind)
        if target:
            yield target, notice


def message(event: EventRecord, number: int, notice: Notice, region: str, owner: str, host_id: str) -> bytes:
    """What a webhook is sent. `number` grows with each event of a pool; `owner`: canonical id of the bucket's owner."""
    if event.event == TEST_EVENT:
        test = {
            "Service": "Amazon S3",
            "Event": "s3:TestEvent",
            "Time": iso_moment(event.at_ms),
            "Bucket": event.bucket,
            "RequestId": event.request_id,
            "HostId": host_id,
        }
        return msgspec.json.encode(test)
    return msgspec.json.encode({"Records": [_record(event, number, notice, region, owner, host_id)]})


def _record(event: EventRecord, number: int, notice: Notice, region: str, owner: str, host_id: str) -> dict[str, Any]:
    subject: dict[str, Any] = {"key": quote_plus(event.key, safe="/")}
    if not event.event.startswith(("ObjectRemoved:", "LifecycleExpiration:")):  # there is no object any more
        subject |= {"size": event.size, "eTag": event.etag}
    if event.version:
        subject["versionId"] = event.version
    # Of two events of a key the later compares greater, as text: the generation, then the order within it.
    subject["sequencer"] = f"{event.generation:016X}{number & 0xFFFFFFFF:08X}"
    return {
        "eventVersion": "2.2",
        "eventSource": "aws:s3",
        "awsRegion": region,
        "eventTime": iso_moment(event.at_ms),
        "eventName": event.event,
        "userIdentity": {"principalId": event.principal or "Anonymous"},
        "requestParameters": {"sourceIPAddress": event.source_ip},
        "responseElements": {"x-amz-request-id": event.request_id, "x-amz-id-2": host_id},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": notice.id,
            "bucket": {
                "name": event.bucket,
                "ownerIdentity": {"principalId": owner},
                "arn": f"arn:aws:s3:::{event.bucket}",
            },
            "object": subject,
        },
    }
