"""ChangeObject and RestoreObject through the handlers."""

from __future__ import annotations

import pytest

from tests.unit.handler_harness import Harness
from tiering.memory import MemoryStore

RESTORE = b"<RestoreRequest><Days>2</Days></RestoreRequest>"


@pytest.fixture
def s3() -> Harness:
    harness = Harness()
    harness("PUT", "/bucket")
    harness("PUT", "/bucket/k", {}, b"data")
    return harness


def test_pin_ttl_and_tier_are_changed_and_answered(s3: Harness) -> None:
    before = s3("HEAD", "/bucket/k").headers
    s3.clock.advance(5)
    reply = s3("POST", "/bucket/k?recall", {"x-recall-pin": "900", "x-recall-ttl": "3600; sliding"})
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["x-recall-pinned-until"] == "2026-01-01T00:15:05.000Z"
    assert reply.headers["x-recall-expires"] == "2026-01-01T01:00:05.000Z"
    assert (reply.headers["x-recall-tier"], reply.headers["etag"]) == ("hot", before["etag"])
    reply = s3("POST", "/bucket/k?recall", {"x-recall-pin": "false", "x-recall-ttl": "0"})
    assert not {"x-recall-pinned-until", "x-recall-expires"} & set(reply.headers)
    assert s3("HEAD", "/bucket/k").headers == before


def test_one_change_leaves_the_other_alone(s3: Harness) -> None:
    s3("POST", "/bucket/k?recall", {"x-recall-ttl": "60"})
    s3("POST", "/bucket/k?recall", {"x-recall-pin": "true"})
    headers = s3("HEAD", "/bucket/k").headers
    assert headers["x-recall-expires"] == "2026-01-01T00:01:00.000Z"
    assert headers["x-recall-pinned-until"] == "forever"


def test_tiers(s3: Harness) -> None:
    tiers = []
    for tier in ("both", "cold", "hot", "cold"):
        reply = s3("POST", "/bucket/k?recall", {"x-recall-tier": tier})
        tiers.append((reply.headers["x-recall-tier"], s3("HEAD", "/bucket/k").headers["x-recall-tier"]))
    assert tiers == [("hot", "hot"), ("cold", "cold"), ("hot", "hot"), ("cold", "cold")]
    assert s3("GET", "/bucket/k").body == b"data"


@pytest.mark.parametrize(
    ("headers", "code", "name"),
    [
        ({}, "InvalidRequest", None),
        ({"x-recall-tier": "warm"}, "InvalidArgument", "x-recall-tier"),
        ({"x-recall-pin": ""}, "InvalidArgument", "x-recall-pin"),
        ({"x-recall-ttl": "1h"}, "InvalidArgument", "x-recall-ttl"),
    ],
)
def test_bad_changes(s3: Harness, headers: dict[str, str], code: str, name: str | None) -> None:
    reply = s3("POST", "/bucket/k?recall", headers)
    assert (reply.code, reply.fields.get("ArgumentName")) == (code, name)


def test_change_is_conditional_and_needs_an_object(s3: Harness) -> None:
    assert s3("POST", "/bucket/k?recall", {"x-recall-pin": "1", "if-match": '"x"'}).code == "PreconditionFailed"
    assert s3("POST", "/bucket/none?recall", {"x-recall-pin": "1"}).code == "NoSuchKey"
    assert s3("POST", "/none/k?recall", {"x-recall-pin": "1"}).code == "NoSuchBucket"


def test_pin_beyond_the_limit_changes_nothing() -> None:
    s3 = Harness()
    s3.store = MemoryStore(s3.clock, pin_bytes_max=3)
    s3("PUT", "/bucket")
    s3("PUT", "/bucket/k", {}, b"data")
    reply = s3("POST", "/bucket/k?recall", {"x-recall-pin": "true", "x-recall-ttl": "5"})
    assert (reply.status, reply.code) == (507, "PinLimitExceeded")
    headers = s3("HEAD", "/bucket/k").headers
    assert not {"x-recall-pinned-until", "x-recall-expires"} & set(headers)


def test_restore_recalls_and_holds(s3: Harness) -> None:
    s3("POST", "/bucket/k?recall", {"x-recall-tier": "cold"})
    assert s3("POST", "/bucket/k?restore", {}, RESTORE).status == 202
    headers = s3("HEAD", "/bucket/k").headers
    assert headers["x-recall-tier"] == "hot"
    assert headers["x-amz-restore"] == 'ongoing-request="false", expiry-date="Sat, 03 Jan 2026 00:00:00 GMT"'
    assert s3("POST", "/bucket/k?restore", {}, RESTORE).status == 200
    s3.clock.advance(2 * 86_400)
    assert "x-amz-restore" not in s3("HEAD", "/bucket/k").headers


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "MissingRequestBodyError"),
        (b"<RestoreRequest/>", "MalformedXML"),
        (b"<RestoreRequest><Days>0</Days></RestoreRequest>", "MalformedXML"),
        (b"<RestoreRequest><Days>x</Days></RestoreRequest>", "MalformedXML"),
        (b"<RestoreRequest><Days>1</Days><OutputLocation/></RestoreRequest>", "NotImplemented"),
    ],
)
def test_bad_restores(s3: Harness, body: bytes, code: str) -> None:
    assert s3("POST", "/bucket/k?restore", {}, body).code == code
    assert s3("POST", "/bucket/none?restore", {}, RESTORE).code == "NoSuchKey"
