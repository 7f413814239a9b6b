"""Lifecycle rules: the document both ways, its refusals, and what is due when (AWS S3 User Guide, lifecycle)."""

from __future__ import annotations

from typing import Any

import pytest

from s3api import lifecycle
from s3api.errors import S3Error
from s3api.lifecycle import DAY_MS, Due
from tests.support.clock import NEW_YEAR_MS
from tiering.contract import ObjectInfo

NOON_MS = NEW_YEAR_MS + DAY_MS // 2
DAYS1 = "<Expiration><Days>1</Days></Expiration>"


def document(*rules: str) -> bytes:
    return f"<LifecycleConfiguration>{''.join(rules)}</LifecycleConfiguration>".encode()


def rule(actions: str = DAYS1, which: str = "<Filter/>", identity: str = "r", status: str = "Enabled") -> str:
    return f"<Rule><ID>{identity}</ID>{which}<Status>{status}</Status>{actions}</Rule>"


def rules(*texts: str, minimum: str = "") -> lifecycle.Rules:
    return lifecycle.parse(document(*texts), minimum)


def info(**fields: Any) -> ObjectInfo:
    plain: dict[str, Any] = {"generation": 1, "size": 1 << 20, "modified_ms": NOON_MS, "etag": "e", "crc64": 0}
    return ObjectInfo(**{**plain, **fields})


EVERYTHING = document(
    rule(
        "<Transition><Days>30</Days><StorageClass>STANDARD_IA</StorageClass></Transition>"
        "<Transition><Days>60</Days><StorageClass>GLACIER</StorageClass></Transition>"
        "<Expiration><Days>90</Days></Expiration>"
        "<NoncurrentVersionTransition><NoncurrentDays>3</NoncurrentDays>"
        "<StorageClass>GLACIER_IR</StorageClass></NoncurrentVersionTransition>"
        "<NoncurrentVersionExpiration><NoncurrentDays>7</NoncurrentDays>"
        "<NewerNoncurrentVersions>2</NewerNoncurrentVersions></NoncurrentVersionExpiration>",
        "<Filter><And><Prefix>logs/</Prefix><Tag><Key>a</Key><Value>1</Value></Tag>"
        "<ObjectSizeGreaterThan>10</ObjectSizeGreaterThan></And></Filter>",
        "one",
    ),
    rule("<Expiration><Date>2026-03-01T00:00:00.000Z</Date></Expiration>", "<Prefix>old/</Prefix>", "two", "Disabled"),
    rule("<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>", identity="three"),
    rule(
        "<AbortIncompleteMultipartUpload><DaysAfterInitiation>2</DaysAfterInitiation></AbortIncompleteMultipartUpload>",
        "<Filter><Prefix></Prefix></Filter>",
        "four &amp; five",
    ),
)


def test_document_comes_back_as_it_was_given() -> None:
    found = lifecycle.parse(EVERYTHING)
    text = lifecycle.render(found).decode()
    assert text.partition("?>")[2].strip().replace(' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', "") == (
        EVERYTHING.decode().replace("<Filter/>", "<Filter></Filter>")
    )
    assert lifecycle.load(lifecycle.store(found)) == found
    assert lifecycle.parse(text.encode()) == found


def test_rules_without_an_id_get_different_ones_that_stay() -> None:
    bare = f"<Rule><Prefix/><Status>Enabled</Status>{DAYS1}</Rule>"
    first, second = lifecycle.parse(document(bare, bare)).rules
    assert first.id and second.id and first.id != second.id and len(first.id) <= 255
    assert lifecycle.parse(document(bare, bare)).rules == (first, second)


A_TAG = "<Tag><Key>a</Key><Value>1</Value></Tag>"
ABORT = "<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload>"
GLACIER = "<Transition><Days>5</Days><StorageClass>GLACIER</StorageClass></Transition>"
REFUSED = {
    "no rule": (document(), "MalformedXML"),
    "too many rules": (document(*(rule(identity=str(n)) for n in range(1001))), "InvalidRequest"),
    "unknown element": (document("<Ruler/>"), "MalformedXML"),
    "unknown element of a rule": (document(rule(DAYS1 + "<Colour/>")), "MalformedXML"),
    "long id": (document(rule(identity="x" * 256)), "InvalidArgument"),
    "id twice": (document(rule(), rule()), "InvalidArgument"),
    "status in lower case": (document(rule(status="enabled")), "MalformedXML"),
    "no action": (document(rule("")), "InvalidRequest"),
    "no filter": (document(rule(which="")), "MalformedXML"),
    "filter and prefix": (document(rule(which="<Filter/><Prefix/>")), "MalformedXML"),
    "two predicates": (document(rule(which=f"<Filter><Prefix>a</Prefix>{A_TAG}</Filter>")), "MalformedXML"),
    "and of one": (document(rule(which=f"<Filter><And>{A_TAG}</And></Filter>")), "MalformedXML"),
    "and beside another": (
        document(rule(which=f"<Filter><And><Prefix/>{A_TAG}</And>{A_TAG}</Filter>")),
        "MalformedXML",
    ),
    "tag twice": (document(rule(which=f"<Filter><And>{A_TAG}{A_TAG}</And></Filter>")), "InvalidRequest"),
    "sizes crossed": (
        document(
            rule(
                which="<Filter><And><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan>"
                "<ObjectSizeLessThan>5</ObjectSizeLessThan></And></Filter>"
            )
        ),
        "InvalidRequest",
    ),
    "no days": (document(rule("<Expiration/>")), "MalformedXML"),
    "days 0": (document(rule("<Expiration><Days>0</Days></Expiration>")), "InvalidArgument"),
    "days -1": (document(rule("<Expiration><Days>-1</Days></Expiration>")), "InvalidArgument"),
    "days x": (document(rule("<Expiration><Days>x</Days></Expiration>")), "MalformedXML"),
    "days and date": (
        document(rule("<Expiration><Days>1</Days><Date>2026-01-01</Date></Expiration>")),
        "MalformedXML",
    ),
    "days and marker": (
        document(
            rule("<Expiration><Days>1</Days><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>")
        ),
        "MalformedXML",
    ),
    "date not midnight": (
        document(rule("<Expiration><Date>2026-01-01T01:00:00Z</Date></Expiration>")),
        "InvalidArgument",
    ),
    "date 20200101": (document(rule("<Expiration><Date>20200101</Date></Expiration>")), "MalformedXML"),
    "date that is none": (document(rule("<Expiration><Date>2026-02-30</Date></Expiration>")), "MalformedXML"),
    "marker and tag": (
        document(
            rule(
                "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>",
                f"<Filter>{A_TAG}</Filter>",
            )
        ),
        "InvalidRequest",
    ),
    "abort and tag": (document(rule(ABORT, f"<Filter>{A_TAG}</Filter>")), "InvalidRequest"),
    "abort after 0": (document(rule(ABORT.replace(">1<", ">0<"))), "InvalidArgument"),
    "noncurrent days 0": (
        document(rule("<NoncurrentVersionExpiration><NoncurrentDays>0</NoncurrentDays></NoncurrentVersionExpiration>")),
        "InvalidArgument",
    ),
    "101 newer": (
        document(
            rule(
                "<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays>"
                "<NewerNoncurrentVersions>101</NewerNoncurrentVersions></NoncurrentVersionExpiration>"
            )
        ),
        "InvalidArgument",
    ),
    "transition to nothing": (document(rule(GLACIER.replace("GLACIER", "STANDARD"))), "MalformedXML"),
    "transition without a time": (
        document(rule("<Transition><StorageClass>GLACIER</StorageClass></Transition>")),
        "MalformedXML",
    ),
    "transition twice": (document(rule(GLACIER + GLACIER)), "InvalidRequest"),
    "expired before the transition": (
        document(rule(GLACIER + "<Expiration><Days>5</Days></Expiration>")),
        "InvalidArgument",
    ),
    "days and date mixed": (
        document(rule(GLACIER + "<Expiration><Date>2026-01-01</Date></Expiration>")),
        "InvalidRequest",
    ),
}


@pytest.mark.parametrize(("body", "code"), REFUSED.values(), ids=REFUSED)
def test_refused(body: bytes, code: str) -> None:
    with pytest.raises(S3Error) as caught:
        lifecycle.parse(body)
    assert caught.value.spec.code == code


@pytest.mark.parametrize(
    "which",
    [
        "<Prefix/>",
        "<Filter/>",
        "<Filter><Prefix/></Filter>",
        f"<Filter>{A_TAG}</Filter>",
        "<Filter><Prefix/><ObjectSizeGreaterThan>1</ObjectSizeGreaterThan></Filter>",
        f"<Filter><And><Prefix/>{A_TAG}</And></Filter>",
    ],
)
def test_filters_that_are_taken(which: str) -> None:
    assert len(rules(rule(which=which)).rules) == 1


def test_least_size_of_transitions_is_named_by_a_header() -> None:
    assert rules(rule()).minimum == "all_storage_classes_128K"
    assert rules(rule(), minimum="varies_by_storage_class").minimum == "varies_by_storage_class"
    with pytest.raises(S3Error, match="InvalidArgument"):
        rules(rule(), minimum="small")


# AWS, "Lifecycle rules: based on an object's age": created 1/15/2014 10:30 UTC, three days → 1/19/2014 00:00 UTC.
CREATED_MS = 1_389_781_800_000


@pytest.mark.parametrize(
    ("at_ms", "days", "day_ms", "expected_ms"),
    [
        (CREATED_MS, 3, DAY_MS, 1_390_089_600_000),
        (NEW_YEAR_MS, 1, DAY_MS, NEW_YEAR_MS + DAY_MS),
        (NOON_MS, 0, DAY_MS, NEW_YEAR_MS + DAY_MS),
        (NOON_MS + 1, 3, 1000, NOON_MS + 3001),
    ],
)
def test_days_are_counted_as_aws_does(at_ms: int, days: int, day_ms: int, expected_ms: int) -> None:
    assert lifecycle.later(at_ms, days, day_ms) == expected_ms


def test_earliest_rule_expires() -> None:
    found = rules(
        rule("<Expiration><Days>9</Days></Expiration>", identity="nine"),
        rule("<Expiration><Days>2</Days></Expiration>", "<Filter><Prefix>a/</Prefix></Filter>", "two"),
        rule("<Expiration><Days>1</Days></Expiration>", identity="off", status="Disabled"),
        rule("<Expiration><Date>2026-01-02</Date></Expiration>", "<Filter><Prefix>b/</Prefix></Filter>", "date"),
    )
    assert lifecycle.expiration(found, "a/k", info()) == Due(NEW_YEAR_MS + 3 * DAY_MS, "two")
    assert lifecycle.expiration(found, "b/k", info()) == Due(NEW_YEAR_MS + DAY_MS, "date")
    assert lifecycle.expiration(found, "k", info()) == Due(NEW_YEAR_MS + 10 * DAY_MS, "nine")
    assert lifecycle.expiration(found, "k", info(noncurrent_ms=NOON_MS)) is None
    assert lifecycle.expiration(found, "k", info(marker=True)) is None


@pytest.mark.parametrize(
    ("which", "fields", "matches"),
    [
        (f"<Filter>{A_TAG}</Filter>", {"tags": {"a": "1", "b": "2"}}, True),
        (f"<Filter>{A_TAG}</Filter>", {"tags": {"a": "2"}}, False),
        ("<Filter><ObjectSizeGreaterThan>10</ObjectSizeGreaterThan></Filter>", {"size": 10}, False),
        ("<Filter><ObjectSizeGreaterThan>10</ObjectSizeGreaterThan></Filter>", {"size": 11}, True),
        ("<Filter><ObjectSizeLessThan>10</ObjectSizeLessThan></Filter>", {"size": 10}, False),
        ("<Filter><ObjectSizeLessThan>10</ObjectSizeLessThan></Filter>", {"size": 9}, True),
        (f"<Filter><And><Prefix>x</Prefix>{A_TAG}</And></Filter>", {"tags": {"a": "1"}}, False),
        (f"<Filter><And><Prefix>k</Prefix>{A_TAG}</And></Filter>", {"tags": {"a": "1"}}, True),
    ],
)
def test_filters(which: str, fields: dict[str, Any], matches: bool) -> None:
    assert (lifecycle.expiration(rules(rule(which=which)), "key", info(**fields)) is not None) is matches


def test_noncurrent_versions_go_by_age_and_by_number() -> None:
    found = rules(
        rule(
            "<NoncurrentVersionExpiration><NoncurrentDays>2</NoncurrentDays>"
            "<NewerNoncurrentVersions>3</NewerNoncurrentVersions></NoncurrentVersionExpiration>"
        )
    )
    old = info(modified_ms=0, noncurrent_ms=NOON_MS)
    due_ms = NEW_YEAR_MS + 3 * DAY_MS
    assert lifecycle.noncurrent_due(found, "k", old, 3, due_ms)
    assert not lifecycle.noncurrent_due(found, "k", old, 2, due_ms)
    assert not lifecycle.noncurrent_due(found, "k", old, 3, due_ms - 1)
    assert lifecycle.noncurrent_due(found, "k", info(marker=True, noncurrent_ms=NOON_MS), 3, due_ms)


def test_number_alone_is_enough() -> None:
    found = rules(
        rule(
            "<NoncurrentVersionExpiration><NewerNoncurrentVersions>1</NewerNoncurrentVersions>"
            "</NoncurrentVersionExpiration>"
        )
    )
    assert lifecycle.noncurrent_due(found, "k", info(noncurrent_ms=NEW_YEAR_MS), 1, NEW_YEAR_MS)
    assert not lifecycle.noncurrent_due(found, "k", info(noncurrent_ms=NEW_YEAR_MS), 0, NOON_MS * 2)


def test_markers_with_nothing_behind_them() -> None:
    asked = rules(rule("<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"))
    refused = rules(rule("<Expiration><ExpiredObjectDeleteMarker>false</ExpiredObjectDeleteMarker></Expiration>"))
    aged = rules(rule())
    marker = info(marker=True, size=0)
    assert lifecycle.marker_due(asked, "k", marker, NOON_MS)
    assert not lifecycle.marker_due(refused, "k", marker, NOON_MS)
    assert not lifecycle.marker_due(aged, "k", marker, NOON_MS)
    assert lifecycle.marker_due(aged, "k", marker, NEW_YEAR_MS + 2 * DAY_MS)
    assert not lifecycle.marker_due(rules(rule(which=f"<Filter>{A_TAG}</Filter>")), "k", marker, 2 * NOON_MS)


def test_uploads_are_aborted() -> None:
    found = rules(rule(ABORT, "<Filter><Prefix>a/</Prefix></Filter>"))
    assert lifecycle.abortion(found, "a/k", NOON_MS, 1000) == Due(NOON_MS + 1000, "r")
    assert lifecycle.abortion(found, "k", NOON_MS, 1000) is None


TIERED = (
    "<Transition><Days>1</Days><StorageClass>STANDARD_IA</StorageClass></Transition>"
    "<Transition><Days>2</Days><StorageClass>GLACIER</StorageClass></Transition>"
)


@pytest.mark.parametrize(
    ("days", "fields", "expected"),
    [
        (0.5, {}, ""),
        (1, {}, "STANDARD_IA"),
        (2, {}, "GLACIER"),
        (2, {"storage_class": "STANDARD_IA"}, "GLACIER"),
        (2, {"storage_class": "DEEP_ARCHIVE"}, ""),
        (1, {"storage_class": "STANDARD_IA"}, ""),
        (2, {"size": 100}, ""),
        (2, {"marker": True}, ""),
        (2, {"noncurrent_ms": NOON_MS}, ""),
    ],
)
def test_objects_move_to_the_coldest_class_that_is_due(days: float, fields: dict[str, Any], expected: str) -> None:
    now_ms = NOON_MS + round(days * 1000)
    assert lifecycle.transition_due(rules(rule(TIERED)), "k", info(**fields), 0, now_ms, 1000) == expected


def test_small_objects_move_where_the_rule_or_the_header_says_so() -> None:
    small, later_ms = info(size=100), NOON_MS + 2000
    varies = rules(rule(TIERED), minimum="varies_by_storage_class")
    assert lifecycle.transition_due(varies, "k", small, 0, later_ms, 1000) == "GLACIER"
    assert lifecycle.transition_due(varies, "k", small, 0, later_ms - 1000, 1000) == ""
    sized = rules(rule(TIERED, "<Filter><ObjectSizeGreaterThan>1</ObjectSizeGreaterThan></Filter>"))
    assert lifecycle.transition_due(sized, "k", small, 0, later_ms, 1000) == "GLACIER"


def test_noncurrent_versions_move_by_their_own_rule() -> None:
    found = rules(
        rule(
            "<NoncurrentVersionTransition><NoncurrentDays>0</NoncurrentDays><StorageClass>GLACIER_IR</StorageClass>"
            "<NewerNoncurrentVersions>1</NewerNoncurrentVersions></NoncurrentVersionTransition>"
        )
    )
    old = info(modified_ms=0, noncurrent_ms=NOON_MS)
    assert lifecycle.transition_due(found, "k", old, 1, NOON_MS, 1000) == "GLACIER_IR"
    assert lifecycle.transition_due(found, "k", old, 0, NOON_MS, 1000) == ""
    assert lifecycle.transition_due(found, "k", info(), 1, NOON_MS, 1000) == ""
