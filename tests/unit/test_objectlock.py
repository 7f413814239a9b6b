"""Object lock as headers and documents say it."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from s3api import objectlock
from s3api.errors import S3Error
from s3api.objectlock import Default, headers_lock, load, parse_configuration, parse_legal_hold, parse_retention
from tiering.contract import Lock

NOW_MS = 1_700_000_000_000
LATER, LATER_MS = "2030-01-01T00:00:00Z", 1_893_456_000_000
DAY_MS = 86_400_000


def headers(mode: str = "", until: str = "", hold: str = "") -> dict[bytes, bytes]:
    named = {objectlock.MODE: mode, objectlock.UNTIL: until, objectlock.HOLD: hold, b"host": "x"}
    return {name: value.encode() for name, value in named.items() if value}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"hold": "ON"}, Lock("", 0, True)),
        ({"hold": "OFF"}, Lock("", 0, False)),
        ({"mode": "GOVERNANCE", "until": LATER}, Lock("GOVERNANCE", LATER_MS)),
        (
            {"mode": "COMPLIANCE", "until": "2030-01-01T01:00:00.250+01:00", "hold": "ON"},
            Lock("COMPLIANCE", LATER_MS + 250, True),
        ),
    ],
)
def test_headers(given: dict[str, str], expected: Lock | None) -> None:
    assert headers_lock(headers(**given), NOW_MS) == expected


@pytest.mark.parametrize(
    ("given", "argument"),
    [
        ({"mode": "GOVERNANCE"}, "x-amz-object-lock-retain-until-date"),
        ({"until": LATER}, "x-amz-object-lock-mode"),
        ({"mode": "governance", "until": LATER}, "x-amz-object-lock-mode"),
        ({"mode": "GOVERNANCE", "until": "2030-01-01"}, "x-amz-object-lock-retain-until-date"),
        ({"mode": "GOVERNANCE", "until": "2030-01-01T00:00:00"}, "x-amz-object-lock-retain-until-date"),
        ({"mode": "GOVERNANCE", "until": "tomorrow"}, "x-amz-object-lock-retain-until-date"),
        ({"mode": "GOVERNANCE", "until": "2020-01-01T00:00:00Z"}, "x-amz-object-lock-retain-until-date"),
        ({"hold": "on"}, "x-amz-object-lock-legal-hold"),
    ],
)
def test_bad_headers(given: dict[str, str], argument: str) -> None:
    with pytest.raises(S3Error) as failed:
        headers_lock(headers(**given), NOW_MS)
    assert (failed.value.spec.code, failed.value.fields["ArgumentName"]) == ("InvalidArgument", argument)


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("", Lock()),
        (f"<Mode>GOVERNANCE</Mode><RetainUntilDate>{LATER}</RetainUntilDate>", Lock("GOVERNANCE", LATER_MS)),
        ("<Mode>governance</Mode><RetainUntilDate>2030-01-01T00:00:00Z</RetainUntilDate>", "MalformedXML"),
        ("<Mode>COMPLIANCE</Mode>", "MalformedXML"),
        (f"<RetainUntilDate>{LATER}</RetainUntilDate>", "MalformedXML"),
        ("<Mode>COMPLIANCE</Mode><RetainUntilDate>soon</RetainUntilDate>", "MalformedXML"),
        ("<Mode>COMPLIANCE</Mode><RetainUntilDate>2020-01-01T00:00:00Z</RetainUntilDate>", "InvalidArgument"),
    ],
)
def test_retention_documents(inner: str, expected: Any) -> None:
    outcome(lambda: parse_retention(f"<Retention>{inner}</Retention>".encode(), NOW_MS), expected)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<LegalHold><Status>ON</Status></LegalHold>", True),
        ("<LegalHold><Status>OFF</Status></LegalHold>", False),
        ("<LegalHold><Status>abc</Status></LegalHold>", "MalformedXML"),
        ("<LegalHold/>", "MalformedXML"),
        ("", "MalformedXML"),
    ],
)
def test_legal_hold_documents(body: str, expected: Any) -> None:
    outcome(lambda: parse_legal_hold(body.encode()), expected)


def rule(inner: str) -> str:
    return f"<ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>{inner}</DefaultRetention></Rule>"


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("<ObjectLockEnabled>Enabled</ObjectLockEnabled>", None),
        (rule("<Mode>GOVERNANCE</Mode><Days>1</Days>"), Default("GOVERNANCE", days=1)),
        (rule("<Mode>COMPLIANCE</Mode><Years>100</Years>"), Default("COMPLIANCE", years=100)),
        (rule("<Mode>COMPLIANCE</Mode><Years>1</Years><Days>1</Days>"), "MalformedXML"),
        (rule("<Mode>COMPLIANCE</Mode>"), "MalformedXML"),
        (rule("<Days>1</Days>"), "MalformedXML"),
        (rule("<Mode>abc</Mode><Days>1</Days>"), "MalformedXML"),
        (rule("<Mode>COMPLIANCE</Mode><Days>one</Days>"), "MalformedXML"),
        (rule("<Mode>COMPLIANCE</Mode><Days>0</Days>"), "InvalidArgument"),
        (rule("<Mode>COMPLIANCE</Mode><Years>-3</Years>"), "InvalidArgument"),
        (rule("<Mode>COMPLIANCE</Mode><Days>36501</Days>"), "InvalidArgument"),
        (rule("<Mode>COMPLIANCE</Mode><Years>101</Years>"), "InvalidArgument"),
        ("<ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule/>", "MalformedXML"),
        ("<ObjectLockEnabled>Disabled</ObjectLockEnabled>", "MalformedXML"),
        ("", "MalformedXML"),
    ],
)
def test_configurations(inner: str, expected: Any) -> None:
    outcome(
        lambda: parse_configuration(f"<ObjectLockConfiguration>{inner}</ObjectLockConfiguration>".encode()), expected
    )


def outcome(parse: Any, expected: Any) -> None:
    if isinstance(expected, str):
        with pytest.raises(S3Error) as failed:
            parse()
        assert failed.value.spec.code == expected
    else:
        assert parse() == expected


@pytest.mark.parametrize("default", [None, Default("GOVERNANCE", days=7), Default("COMPLIANCE", years=3)])
def test_kept_documents(default: Default | None) -> None:
    assert load(objectlock.render(default)) == default
    assert load("") is None


def test_a_year_is_a_calendar_year() -> None:
    def ms(*date: int) -> int:
        return int(datetime.datetime(*date, tzinfo=datetime.UTC).timestamp() * 1000)  # type: ignore[misc,arg-type]

    assert Default("GOVERNANCE", days=2).until_ms(NOW_MS) == NOW_MS + 2 * DAY_MS
    assert Default("GOVERNANCE", years=1).until_ms(ms(2023, 6, 5)) == ms(2024, 6, 5)
    assert Default("GOVERNANCE", years=1).until_ms(ms(2024, 2, 29)) == ms(2025, 3, 1)
    assert Default("GOVERNANCE", years=4).until_ms(ms(2024, 2, 29)) == ms(2028, 2, 29)
