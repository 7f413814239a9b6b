"""Notification configuration: the document both ways, its refusals, who is told, and the messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from s3api import notification
from s3api.config import ApiConfig
from s3api.errors import S3Error
from tests.support.clock import NEW_YEAR_MS
from tests.unit.handler_harness import ROOT, Harness
from tiering.contract import EventRecord

HOOK = "arn:minio:sqs:us-east-1:hook:webhook"
OTHER = "arn:minio:sqs::other:webhook"
TARGETS = ("hook", "other")


def document(*configurations: str) -> bytes:
    return f"<NotificationConfiguration>{''.join(configurations)}</NotificationConfiguration>".encode()


def queue(*events: str, arn: str = HOOK, identity: str = "", kind: str = "Queue", **rules: str) -> str:
    named = f"<Id>{identity}</Id>" if identity else ""
    listed = "".join(f"<Event>{event}</Event>" for event in events)
    filters = "".join(
        f"<FilterRule><Name>{name}</Name><Value>{value}</Value></FilterRule>" for name, value in rules.items()
    )
    held = f"<Filter><S3Key>{filters}</S3Key></Filter>" if rules else ""
    return f"<{kind}Configuration>{named}<{kind}>{arn}</{kind}>{listed}{held}</{kind}Configuration>"


CREATED = "s3:ObjectCreated:*"
EVERYTHING = document(
    queue(CREATED, identity="one", Prefix="a/", Suffix=".jpg"),
    queue("s3:ObjectRemoved:Delete", arn="arn:aws:sns:us-east-1:1234:other", identity="two", kind="Topic"),
    queue(
        "s3:LifecycleTransition",
        "s3:ObjectRecall:*",
        arn="arn:aws:lambda:us-east-1:1234:function:hook",
        identity="three",
        kind="CloudFunction",
        Suffix="x",
    ),
)


def test_document_comes_back_as_it_was_given() -> None:
    found = notification.parse(EVERYTHING, TARGETS)
    assert notification.load(notification.store(found)) == found
    text = notification.render(found).decode().partition("?>")[2].strip()
    assert text.replace(' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', "") == EVERYTHING.decode()


def test_ids_are_made_and_stay() -> None:
    body = document(queue(CREATED), queue("s3:ObjectAcl:Put"))
    one, two = notification.parse(body, TARGETS).notices
    assert one.id and two.id and one.id != two.id
    assert notification.parse(body, TARGETS).notices == (one, two)


REFUSED = {
    "unknown element": (document("<Other/>"), "MalformedXML"),
    "event bridge": (document("<EventBridgeConfiguration/>"), "NotImplemented"),
    "no event": (document(queue()), "MalformedXML"),
    "unknown event": (document(queue("s3:ObjectAccessed:Get")), "InvalidArgument"),
    "everything": (document(queue("s3:*")), "InvalidArgument"),
    "test event": (document(queue("s3:TestEvent")), "InvalidArgument"),
    "filter name": (document(queue(CREATED, infix="x")), "InvalidArgument"),
    "filter twice": (document(queue(CREATED, prefix="x", Prefix="y")), "InvalidArgument"),
    "filter too long": (document(queue(CREATED, prefix="x" * 1025)), "InvalidArgument"),
    "id twice": (
        document(queue(CREATED, identity="x"), queue("s3:ObjectAcl:Put", identity="x")),
        "InvalidArgument",
    ),
    "unknown webhook": (document(queue(CREATED, arn="arn:minio:sqs::none:webhook")), "InvalidArgument"),
    "topic's ARN in a queue": (document(queue(CREATED, arn="arn:aws:sns:r:1:hook")), "InvalidArgument"),
    "no ARN": (document(queue(CREATED, arn="hook")), "InvalidArgument"),
}


@pytest.mark.parametrize(("body", "code"), REFUSED.values(), ids=REFUSED)
def test_refused(body: bytes, code: str) -> None:
    with pytest.raises(S3Error) as caught:
        notification.parse(body, TARGETS)
    assert caught.value.spec.code == code


# AWS, "Examples of valid/invalid configurations with object key name filtering".
@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (queue(CREATED, prefix="images/"), queue(CREATED, prefix="logs/"), False),
        (queue(CREATED, suffix=".jpg"), queue(CREATED, suffix=".png"), False),
        (queue(CREATED, prefix="images", suffix=".jpg"), queue(CREATED, prefix="images", suffix=".png"), False),
        (queue(CREATED), queue(CREATED), True),
        (queue(CREATED, prefix="images"), queue(CREATED, prefix="images/sub"), True),
        (queue(CREATED, suffix="jpg"), queue("s3:ObjectCreated:Put", suffix=".jpg", arn=OTHER), True),
        (queue(CREATED, prefix="images"), queue(CREATED, suffix=".jpg"), True),
        (queue(CREATED), queue("s3:ObjectRemoved:*"), False),
        (queue("s3:ObjectCreated:Put"), queue("s3:ObjectCreated:Copy"), False),
    ],
)
def test_overlaps(one: str, other: str, overlap: bool) -> None:
    body = document(one, other)
    if not overlap:
        assert len(notification.parse(body, TARGETS).notices) == 2
        return
    with pytest.raises(S3Error, match="Configurations overlap"):
        notification.parse(body, TARGETS)


def event(**fields: Any) -> EventRecord:
    plain: dict[str, Any] = {"event": "ObjectCreated:Put", "bucket": "b", "key": "k", "at_ms": NEW_YEAR_MS + 7}
    return EventRecord(**{**plain, **fields})


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"key": "a/x.jpg"}, ["hook"]),
        ({"key": "a/x.jpg", "event": "ObjectCreated:CompleteMultipartUpload"}, ["hook"]),
        ({"key": "b/x.jpg"}, []),
        ({"key": "a/x.png"}, []),
        ({"event": "ObjectRemoved:Delete"}, ["other"]),
        ({"event": "ObjectRemoved:DeleteMarkerCreated"}, []),
        ({"event": "LifecycleTransition", "key": "x"}, ["hook"]),
        ({"event": "ObjectRecall:Evict", "key": "x"}, ["hook"]),
        ({"event": "ObjectRecall:Evict", "key": "y"}, []),
        ({"event": "TestEvent", "key": ""}, ["hook", "other", "hook"]),
    ],
)
def test_receivers(fields: dict[str, Any], told: list[str]) -> None:
    found = notification.receivers(notification.parse(EVERYTHING, TARGETS), event(**fields))
    assert [target for target, _ in found] == told


def message(given: EventRecord, number: int = 3) -> Any:
    notice = notification.parse(document(queue(CREATED, identity="one")), TARGETS).notices[0]
    return json.loads(notification.message(given, number, notice, "us-east-1", "owner", "host"))


def test_message_has_the_structure_of_aws() -> None:
    given = event(
        key="a b/ü+.jpg",
        size=4,
        etag="e",
        version="v1",
        generation=9,
        principal="p",
        source_ip="1.2.3.4",
        request_id="R",
    )
    assert message(given) == {
        "Records": [
            {
                "eventVersion": "2.2",
                "eventSource": "aws:s3",
                "awsRegion": "us-east-1",
                "eventTime": "2026-01-01T00:00:00.007Z",
                "eventName": "ObjectCreated:Put",
                "userIdentity": {"principalId": "p"},
                "requestParameters": {"sourceIPAddress": "1.2.3.4"},
                "responseElements": {"x-amz-request-id": "R", "x-amz-id-2": "host"},
                "s3": {
                    "s3SchemaVersion": "1.0",
                    "configurationId": "one",
                    "bucket": {"name": "b", "ownerIdentity": {"principalId": "owner"}, "arn": "arn:aws:s3:::b"},
                    "object": {
                        "key": "a+b/%C3%BC%2B.jpg",
                        "size": 4,
                        "eTag": "e",
                        "versionId": "v1",
                        "sequencer": "000000000000000900000003",
                    },
                },
            }
        ]
    }


def test_removals_have_no_size_and_come_after_what_they_remove() -> None:
    made = message(event(generation=9, size=4, etag="e"))["Records"][0]["s3"]["object"]
    gone = message(event(event="ObjectRemoved:Delete", generation=9, size=4, etag="e"), 4)["Records"][0]["s3"]["object"]
    assert set(gone) == {"key", "sequencer"}
    assert made["sequencer"] < gone["sequencer"]


def test_test_message() -> None:
    assert message(event(event="TestEvent", key="", request_id="R")) == {
        "Service": "Amazon S3",
        "Event": "s3:TestEvent",
        "Time": "2026-01-01T00:00:00.007Z",
        "Bucket": "b",
        "RequestId": "R",
        "HostId": "host",
    }


def test_a_webhook_of_some_accounts_is_unknown_to_others() -> None:
    target, arn = TARGETS[0], f"arn:minio:sqs::{TARGETS[0]}:webhook"
    wanted = document(queue(CREATED, arn=arn))
    s3 = Harness(ApiConfig(notify_targets=TARGETS, notify_owners={target: ("another", ROOT.owner_id)}))
    s3("PUT", "/bucket")
    assert s3("PUT", "/bucket?notification", {}, wanted).status == 200
    s3.config = ApiConfig(notify_targets=TARGETS, notify_owners={target: ("another",)})
    for headers in ({}, {"x-amz-skip-destination-validation": "true"}):
        reply = s3("PUT", "/bucket?notification", headers, wanted)
        assert (reply.code, reply.fields["ArgumentName1"]) == ("InvalidArgument", arn)
    assert (
        s3(
            "PUT", "/bucket?notification", {}, document(queue(CREATED, arn=f"arn:minio:sqs::{TARGETS[1]}:webhook"))
        ).status
        == 200
    )


def test_configuration_through_the_handlers() -> None:
    s3 = Harness(ApiConfig(notify_targets=TARGETS))
    s3("PUT", "/bucket")
    assert s3("GET", "/bucket?notification").xml("NotificationConfiguration").children == []
    assert s3("PUT", "/bucket?notification", {}, EVERYTHING).status == 200
    found = s3("GET", "/bucket?notification").xml("NotificationConfiguration")
    assert [node.required("Id") for node in found.children] == ["one", "two", "three"]
    assert [(each.event, each.key) for each in s3.store.events] == [("TestEvent", "")]  # type: ignore[attr-defined]
    unknown = document(queue(CREATED, arn="arn:minio:sqs::none:webhook"))
    reply = s3("PUT", "/bucket?notification", {}, unknown)
    assert (reply.code, reply.fields["ArgumentName1"]) == ("InvalidArgument", "arn:minio:sqs::none:webhook")
    assert s3("PUT", "/bucket?notification", {"x-amz-skip-destination-validation": "true"}, unknown).status == 200
    assert s3("PUT", "/bucket?notification", {}, document()).status == 200
    assert s3("GET", "/bucket?notification").xml("NotificationConfiguration").children == []
    assert s3("GET", "/none?notification").code == "NoSuchBucket"
