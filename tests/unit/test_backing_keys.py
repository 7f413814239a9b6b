"""Cold keys: readable, reversible, injective, and never outside their prefix."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiering.backing import keys

CASES = [
    ("simple.bin", "simple.bin"),
    ("a/b/c d+e&f=g", "a/b/c d+e&f=g"),
    ("日本/é", "日本/é"),
    ("100%", "100%25"),
    ("%41", "%2541"),
    ("a//b", "a/%_/b"),
    ("/a", "%_/a"),
    ("a/", "a/%_"),
    ("/", "%_/%_"),
    (".", "%2E"),
    ("../x/..", "%2E%2E/x/%2E%2E"),
    ("...", "..."),
    (".hidden", ".hidden"),
    ("a\\b", "a%5Cb"),
    ("\x00\x1f\x7f\x85\ufffe", "%00%1F%7F%C2%85%EF%BF%BE"),
    ("x" * 200, "x" * 200),
    ("x" * 201, "x" * 198 + "%+/xxx"),
    ("é" * 120, "é" * 99 + "%+/" + "é" * 21),
    ("x" * 198 + "y" * 198 + "..", "x" * 198 + "%+/" + "y" * 198 + "%+/%2E%2E"),
]


@pytest.mark.parametrize(("key", "escaped"), CASES)
def test_a_key_is_escaped_only_where_needed(key: str, escaped: str) -> None:
    name = keys.cold_key("bucket", key)
    assert name == f"bucket/{escaped}"
    assert keys.parse_cold_key(name) == ("bucket", key, "")
    assert keys.check_key(name) == name


def test_a_key_too_long_for_a_name_is_hashed_and_says_so() -> None:
    names = [keys.cold_key("bucket", "\x01" * 400 + tail) for tail in ("a", "b")]
    assert names[0] != names[1]
    for name in names:
        assert len(name) < 200
        assert keys.parse_cold_key(name) == ("bucket", None, "")
        assert keys.check_key(name) == name
    assert keys.cold_key("b", "long/key" * 128).startswith("b/%~/long_keylong_key")


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60) | st.lists(
    st.sampled_from(["/", ".", "%", "%_", "%+", "%~", "\\", "a", "é", "x" * 99, "\x01", "2E", "%2E"]),
    min_size=1,
    max_size=12,
).map("".join)


@settings(max_examples=500, deadline=None)
@given(text, text)
def test_cold_keys_are_reversible_injective_and_safe(one: str, other: str) -> None:
    name = keys.cold_key("bucket", one)
    keys.check_key(name)
    assert name.startswith("bucket/")
    assert not name.endswith("/")
    assert len(name.encode()) <= keys.COLD_KEY_BYTES_MAX
    assert keys.parse_cold_key(name) in (("bucket", one, ""), ("bucket", None, ""))
    assert (name == keys.cold_key("bucket", other)) == (one == other)
    assert not keys.is_reserved(name)


@settings(max_examples=300, deadline=None)
@given(text)
def test_every_name_is_a_cold_key_in_its_one_spelling_or_refused(name: str) -> None:
    try:
        bucket, key, version = keys.parse_cold_key(name)
    except ValueError:
        return
    assert key is None or keys.cold_key(bucket, key, version) == name


@pytest.mark.parametrize(
    "name",
    ["", "b", "b/", "/k", "b/a%", "b/a%2", "b/%2e", "b/%41", "b/a%+", "b/a%+/b", "b//k", "b/.", "b/%~/x", "b/%~/x/y"],
)
def test_a_name_that_is_no_cold_key_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        keys.parse_cold_key(name)


def test_bucket_records_have_names_of_their_own() -> None:
    name = keys.bucket_record_key("my-bucket.x")
    assert name == ".recall/buckets/my-bucket.x.json"
    assert name.startswith(keys.BUCKET_RECORDS)
    assert keys.parse_bucket_record_key(name) == "my-bucket.x"
    assert keys.is_reserved(name)
    with pytest.raises(ValueError):
        keys.parse_cold_key(name)
    with pytest.raises(ValueError, match="record"):
        keys.parse_bucket_record_key("b/k")


@pytest.mark.parametrize("bucket", ["", ".recall", ".", "a/b", "%x"])
def test_what_is_no_bucket_name_is_refused(bucket: str) -> None:
    with pytest.raises(ValueError, match="bucket name"):
        keys.cold_key(bucket, "k")


@pytest.mark.parametrize("prefix", ["/a", "a/", "a//b", "..", "a/../b", "a\\b", "a%b", "a\nb", "x" * 129])
def test_a_bad_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="key"):
        keys.check_prefix(prefix)
