"""x-recall-* values, their twins, their precedence, and key rules."""

from __future__ import annotations

import pytest

from s3api.config import KeyRule
from s3api.errors import S3Error
from s3api.extensions import (
    Intent,
    check_rules,
    parse_pin,
    parse_tier,
    parse_ttl,
    rule_intent,
    rule_pool,
    tag_intent,
    write_intent,
)
from tiering.contract import FOREVER_MS, Ttl


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", FOREVER_MS),
        ("TRUE", FOREVER_MS),
        (" false ", 0),
        ("0", 0),
        ("900", 900_000),
        ("0.5", 500),
        ("1.0001", 1001),
        ("0.000000001", 1),
        ("10000000000", 10**13),
    ],
)
def test_pin_values(text: str, expected: int) -> None:
    assert parse_pin(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3600", Ttl(3_600_000)),
        ("3600; sliding", Ttl(3_600_000, True)),
        ("3600;SLIDING", Ttl(3_600_000, True)),
        ("3600 sliding", Ttl(3_600_000, True)),
        (" 0.25 ; sliding", Ttl(250, True)),
        ("0", Ttl(0)),
        ("0; sliding", Ttl(0)),
    ],
)
def test_ttl_values(text: str, expected: Ttl) -> None:
    assert parse_ttl(text) == expected


@pytest.mark.parametrize(
    "text", ["", "yes", "-1", "1e3", "1.", ".5", "nan", "inf", "10000000001", "9" * 40, "٣", "1 2", "60; sliding"]
)
def test_bad_pin_names_the_header(text: str) -> None:
    with pytest.raises(S3Error) as caught:
        parse_pin(text)
    assert caught.value.spec.code == "InvalidArgument"
    assert caught.value.fields["ArgumentName"] == "x-recall-pin"


@pytest.mark.parametrize("text", ["", "true", "60; absolute", "60; sliding; x", "sliding", "60;", "-5", "60sliding"])
def test_bad_ttl_names_the_header(text: str) -> None:
    with pytest.raises(S3Error) as caught:
        parse_ttl(text)
    assert caught.value.fields["ArgumentName"] == "x-recall-ttl"


RULES = (
    KeyRule(bucket="llm-*", key="*@pin%1*", pin="true"),
    KeyRule(key="session/*", ttl="60; sliding"),
    KeyRule(key="session/keep/*", pin="5", ttl="9"),
)


def test_precedence_is_header_metadata_tag_rule() -> None:
    def intent(headers: dict[bytes, bytes], metadata: dict[str, str], tags: dict[str, str]) -> Intent:
        return write_intent(headers, metadata, tags, "b", "session/keep/x", RULES)

    header = {b"x-recall-pin": b"1", b"x-recall-ttl": b"10"}
    metadata = {"recall-pin": "2", "recall-ttl": "20"}
    tags = {"recall:pin": "3", "recall:ttl": "30"}
    assert intent(header, metadata, tags) == Intent(1000, Ttl(10_000))
    assert intent({}, metadata, tags) == Intent(2000, Ttl(20_000))
    assert intent({}, {}, tags) == Intent(3000, Ttl(30_000))
    assert intent({}, {}, {}) == Intent(5000, Ttl(60_000, True))
    assert intent({b"x-recall-pin": b"false"}, metadata, {}) == Intent(0, Ttl(20_000))
    assert write_intent({}, {}, {}, "b", "k", ()) == Intent()


def test_bad_twin_names_where_it_came_from() -> None:
    for metadata, tags, name in (
        ({"recall-ttl": "x"}, {}, "x-amz-meta-recall-ttl"),
        ({}, {"recall:pin": "x"}, "the tag recall:pin"),
    ):
        with pytest.raises(S3Error) as caught:
            write_intent({}, metadata, tags, "b", "k", ())
        assert caught.value.fields["ArgumentName"] == name


def test_key_rules_match_lmcache_tags_in_keys() -> None:
    key = "meta-llama_Llama-3.1-8B-Instruct@1@0@5f3a@bfloat16@pin%1"
    assert rule_intent(RULES, "llm-blocks", key) == Intent(FOREVER_MS)
    assert rule_intent(RULES, "llm-blocks", key.replace("pin%1", "pin%0")) == Intent()
    assert rule_intent(RULES, "other", key) == Intent()


def test_first_matching_rule_of_each_kind_counts() -> None:
    rules = (KeyRule(pin="1"), KeyRule(pin="2", ttl="3"), KeyRule(ttl="4"))
    assert rule_intent(rules, "b", "k") == Intent(1000, Ttl(3000))
    assert rule_intent((KeyRule(bucket="B"),), "b", "k") == Intent()


def test_rules_are_case_sensitive_and_match_whole_names() -> None:
    rules = (KeyRule(bucket="b", key="K*", pin="1"),)
    assert rule_intent(rules, "b", "Key") == Intent(1000)
    assert rule_intent(rules, "b", "key") == rule_intent(rules, "bb", "Key") == Intent()
    assert rule_intent((KeyRule(key="a*c", pin="1"),), "b", "a\n/c") == Intent(1000)


def test_pool_rules() -> None:
    rules = (KeyRule(bucket="kv-*", pool="kv"), KeyRule(pool="standard"))
    assert rule_pool(rules, "kv-1") == "kv"
    assert rule_pool(rules, "x") == "standard"
    assert rule_pool(rules[:1], "x") == ""


def test_check_rules_lists_every_fault() -> None:
    faults = check_rules((KeyRule(pin="true"), KeyRule(pin="x"), KeyRule(ttl="-1", pin="1")))
    assert [fault.split(":")[0] for fault in faults] == ["key rule 2", "key rule 3"]
    assert check_rules(RULES) == []


def test_tags_set_and_take_away_what_they_said() -> None:
    assert tag_intent({}, {"recall:pin": "true", "recall:ttl": "5"}) == Intent(FOREVER_MS, Ttl(5000))
    assert tag_intent({"recall:pin": "true"}, {}) == Intent(0)
    assert tag_intent({"recall:ttl": "5"}, {"x": "1"}) == Intent(None, Ttl(0))
    assert tag_intent({"x": "1"}, {"y": "1"}) == Intent()


def test_tier_values() -> None:
    assert parse_tier({}) is None
    assert [parse_tier({b"x-recall-tier": value}) for value in (b"hot", b"Cold", b" both ")] == ["hot", "cold", "both"]
    with pytest.raises(S3Error) as caught:
        parse_tier({b"x-recall-tier": b"warm"})
    assert caught.value.fields["ArgumentName"] == "x-recall-tier"
