"""Preconditions and ranges against a record: RFC 9110 §13.2.2 as a table, and the corners S3 adds."""

from __future__ import annotations

import pytest

from tiering import contract as c
from tiering.conditions import (
    clip,
    clip_part,
    judge_claims,
    judge_delete,
    judge_read,
    judge_source,
    judge_write,
)
from tiering.contract import ByteRange, Conditions, PartClaim, PartInfo

MODIFIED_S = 1_700_000_000
INFO = c.ObjectInfo(generation=1, size=10, modified_ms=MODIFIED_S * 1000 + 999, etag="tag", crc64=0)
YES, NO = ("x", "tag"), ("x",)
BEFORE, AT, AFTER = MODIFIED_S - 1, MODIFIED_S, MODIFIED_S + 1


@pytest.mark.parametrize(
    ("conditions", "outcome"),
    [
        (None, "read"),
        (Conditions(), "read"),
        (Conditions(if_match=YES), "read"),
        (Conditions(if_match=("*",)), "read"),
        (Conditions(if_match=NO), "If-Match"),
        (Conditions(if_match=()), "If-Match"),
        (Conditions(if_unmodified_since_s=AT), "read"),
        (Conditions(if_unmodified_since_s=BEFORE), "If-Unmodified-Since"),
        (Conditions(if_match=YES, if_unmodified_since_s=BEFORE), "read"),
        (Conditions(if_match=NO, if_unmodified_since_s=AFTER), "If-Match"),
        (Conditions(if_none_match=NO), "read"),
        (Conditions(if_none_match=YES), "unchanged"),
        (Conditions(if_none_match=("*",)), "unchanged"),
        (Conditions(if_modified_since_s=BEFORE), "read"),
        (Conditions(if_modified_since_s=AT), "unchanged"),
        (Conditions(if_none_match=NO, if_modified_since_s=AFTER), "read"),
        (Conditions(if_none_match=YES, if_modified_since_s=BEFORE), "unchanged"),
        (Conditions(if_match=NO, if_none_match=YES), "If-Match"),
        (Conditions(if_match=YES, if_none_match=YES), "unchanged"),
    ],
)
def test_read_precedence(conditions: Conditions | None, outcome: str) -> None:
    if outcome == "read":
        judge_read(conditions, INFO)
    elif outcome == "unchanged":
        with pytest.raises(c.NotModified) as unchanged:
            judge_read(conditions, INFO)
        assert unchanged.value.facts["info"] == INFO
    else:
        with pytest.raises(c.PreconditionFailed) as failed:
            judge_read(conditions, INFO)
        assert failed.value.facts["condition"] == outcome


@pytest.mark.parametrize(
    ("conditions", "failed"),
    [
        (Conditions(if_match=YES, if_unmodified_since_s=BEFORE), None),  # the two rows AWS documents
        (Conditions(if_none_match=YES, if_modified_since_s=BEFORE), "x-amz-copy-source-If-None-Match"),
        (Conditions(if_modified_since_s=AT), "x-amz-copy-source-If-Modified-Since"),
        (Conditions(if_match=NO), "x-amz-copy-source-If-Match"),
        (Conditions(if_unmodified_since_s=BEFORE), "x-amz-copy-source-If-Unmodified-Since"),
    ],
)
def test_source_never_answers_unchanged(conditions: Conditions, failed: str | None) -> None:
    if failed is None:
        judge_source(conditions, INFO)
        return
    with pytest.raises(c.PreconditionFailed) as caught:
        judge_source(conditions, INFO)
    assert caught.value.facts["condition"] == failed


def test_write_conditions_on_something_and_nothing() -> None:
    judge_write(None, None)
    judge_write(Conditions(if_none_match=("*",)), None)
    judge_write(Conditions(if_match=YES), INFO)
    for conditions in (Conditions(if_none_match=("*",)), Conditions(if_match=NO), Conditions(if_none_match=YES)):
        with pytest.raises(c.PreconditionFailed):
            judge_write(conditions, INFO)
    with pytest.raises(c.NoSuchKey):
        judge_write(Conditions(if_match=("*",)), None)


def test_delete_conditions_size_and_date() -> None:
    judge_delete(Conditions(if_match_size=10, if_match_modified_s=AT), INFO)
    for conditions in (Conditions(if_match_size=9), Conditions(if_match_modified_s=AFTER)):
        with pytest.raises(c.PreconditionFailed):
            judge_delete(conditions, INFO)
        judge_delete(conditions, None)  # what is gone already is success, as S3 has it
    with pytest.raises(c.NoSuchKey):
        judge_delete(Conditions(if_match=("*",), if_match_size=9), None)
    judge_delete(None, None)
    judge_delete(None, None, marker=True)
    for conditions in (Conditions(if_match=("*",)), Conditions(if_match_size=9), Conditions(if_match_modified_s=AT)):
        with pytest.raises(c.PreconditionFailed):
            judge_delete(conditions, None, marker=True)


@pytest.mark.parametrize(
    ("wanted", "size", "expected"),
    [
        (None, 0, (0, 0)),
        (None, 5, (0, 5)),
        (ByteRange(0, 5), 5, (0, 5)),
        (ByteRange(4, 99), 5, (4, 5)),
        (ByteRange(2), 5, (2, 5)),
        (ByteRange(0, 2, suffix=True), 5, (3, 5)),
        (ByteRange(0, 9, suffix=True), 5, (0, 5)),
        (ByteRange(5), 5, None),
        (ByteRange(0), 0, None),
        (ByteRange(0, 0, suffix=True), 5, None),
        (ByteRange(0, 3, suffix=True), 0, None),
    ],
)
def test_clip(wanted: ByteRange | None, size: int, expected: tuple[int, int] | None) -> None:
    if expected is not None:
        assert clip(wanted, size) == expected
        return
    with pytest.raises(c.InvalidRange) as caught:
        clip(wanted, size)
    assert caught.value.facts == {"size": size}


def test_clip_part_finds_parts_by_number() -> None:
    parts = (PartInfo(2, 4, "a"), PartInfo(7, 0, "b"), PartInfo(9, 6, "c"))
    info = c.ObjectInfo(generation=1, size=10, modified_ms=0, etag="t-3", crc64=0, parts=parts)
    assert [clip_part(number, info) for number in (2, 7, 9)] == [(0, 4), (4, 4), (4, 10)]
    assert clip_part(1, INFO) == (0, 10)
    for number, of in ((1, info), (3, info), (2, INFO)):
        with pytest.raises(c.InvalidPartNumber):
            clip_part(number, of)


def test_judge_claims_keeps_the_claimed_order_and_subset() -> None:
    big = c.PART_BYTES_MIN
    stored = {1: PartInfo(1, big, "a"), 2: PartInfo(2, 3, "b"), 3: PartInfo(3, 1, "c")}
    assert judge_claims(stored, [PartClaim(1, "a"), PartClaim(3, "c")]) == [stored[1], stored[3]]
    with pytest.raises(c.PartTooSmall):
        judge_claims(stored, [PartClaim(2, "b"), PartClaim(3, "c")])
    with pytest.raises(c.InvalidPart):
        judge_claims(stored, [PartClaim(4, "d")])
    with pytest.raises(c.InvalidPartOrder):
        judge_claims(stored, [PartClaim(3, "c"), PartClaim(1, "a")])
