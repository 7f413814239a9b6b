"""Every store is a store: buckets and listings."""

from __future__ import annotations

import random

import pytest

from tests.conformance.steps import put
from tiering import contract as c
from tiering.contract import BucketChange, BucketInfo, ListOptions, Store


def bucket(name: str, pool: str = "") -> BucketInfo:
    return BucketInfo(name=name, created_ms=5, pool=pool)


async def test_buckets_are_made_found_listed_and_removed(store: Store) -> None:
    await store.create_bucket(bucket("z"))
    await store.create_bucket(bucket("a", "kv"))
    assert [each.name for each in store.buckets()] == ["a", "b", "z"]
    assert (store.bucket("a").pool, store.bucket("a").opaque_etag) == ("kv", True)
    assert (store.bucket("z").pool, store.bucket("z").opaque_etag) == ("standard", False)
    assert store.bucket("z").created_ms == 5
    await store.delete_bucket("z")
    with pytest.raises(c.NoSuchBucket):
        store.bucket("z")
    with pytest.raises(c.NoSuchBucket):
        await store.delete_bucket("z")


@pytest.mark.parametrize("name", ["", "x" * 511, "x" * 512, "ü" * 600])
async def test_what_is_no_name_names_no_bucket(store: Store, name: str) -> None:
    with pytest.raises(c.NoSuchBucket):
        store.bucket(name)
    with pytest.raises(c.NoSuchBucket):
        store.list(name, ListOptions())


async def test_a_name_is_taken_once(store: Store) -> None:
    with pytest.raises(c.BucketExists):
        await store.create_bucket(bucket("b"))


async def test_unknown_pool_is_refused(store: Store) -> None:
    with pytest.raises(c.UnknownPool):
        await store.create_bucket(bucket("n", "no-such-pool"))
    with pytest.raises(c.NoSuchBucket):
        store.bucket("n")


async def test_bucket_with_objects_stays(store: Store) -> None:
    await put(store, "k")
    with pytest.raises(c.BucketNotEmpty):
        await store.delete_bucket("b")
    await store.delete("b", "k")
    upload = await store.begin_upload("b", "k", c.PutOptions())
    await store.delete_bucket("b")
    await store.create_bucket(bucket("b"))
    with pytest.raises(c.NoSuchUpload):
        store.upload("b", "k", upload.upload_id)
    assert store.list("b", ListOptions()).objects == []


async def test_documents_are_set_and_removed(store: Store) -> None:
    info = await store.change_bucket("b", BucketChange({"policy": "{}", "cors": "<x/>"}))
    assert info.documents == {"policy": "{}", "cors": "<x/>"}
    info = await store.change_bucket("b", BucketChange({"policy": None}))
    assert info.documents == store.bucket("b").documents == {"cors": "<x/>"}
    with pytest.raises(c.NoSuchBucket):
        await store.change_bucket("none", BucketChange())


# -- listings


async def keys(store: Store, *names: str) -> None:
    for name in names:
        await put(store, name, b"")


def listed(store: Store, **options: object) -> tuple[list[str], list[str], bool]:
    page = store.list("b", ListOptions(**options))  # type: ignore[arg-type]
    return [key for key, _ in page.objects], list(page.prefixes), page.truncated


async def test_keys_come_in_utf8_byte_order(store: Store) -> None:
    names = ["b", "a", "Z", "ä", "\U0001f600", "\uffee", "a b", "a/b", "a-b"]  # UTF-16 order would differ
    await keys(store, *names)
    assert listed(store)[0] == sorted(names, key=str.encode)


async def test_listing_carries_the_records(store: Store) -> None:
    info = await put(store, "k", b"12345")
    assert list(store.list("b", ListOptions()).objects) == [("k", info)]


async def test_prefix_and_delimiter_roll_up(store: Store) -> None:
    await keys(store, "a/1", "a/2", "a/x/3", "b", "c/", "c/4")
    assert listed(store, delimiter="/") == (["b"], ["a/", "c/"], False)
    assert listed(store, prefix="a/", delimiter="/") == (["a/1", "a/2"], ["a/x/"], False)
    assert listed(store, prefix="a/") == (["a/1", "a/2", "a/x/3"], [], False)
    assert listed(store, prefix="c/", delimiter="/") == (["c/", "c/4"], [], False)
    assert listed(store, prefix="none") == ([], [], False)


async def test_delimiter_may_have_several_characters(store: Store) -> None:
    await keys(store, "a::1", "a:2", "b::3")
    assert listed(store, delimiter="::") == (["a:2"], ["a::", "b::"], False)


async def test_after_is_exclusive(store: Store) -> None:
    await keys(store, "a", "b", "c")
    assert listed(store, after="a")[0] == ["b", "c"]
    assert listed(store, after="aa")[0] == ["b", "c"]
    assert listed(store, after="c")[0] == []
    assert listed(store, prefix="b", after="a")[0] == ["b"]


async def test_after_a_common_prefix_skips_what_it_stands_for(store: Store) -> None:
    await keys(store, "a/1", "a/2", "b/1", "c")
    assert listed(store, delimiter="/", after="a/") == (["c"], ["b/"], False)
    assert listed(store, after="a/")[0] == ["a/1", "a/2", "b/1", "c"]
    assert listed(store, delimiter="/", after="a/1") == (["c"], ["b/"], False)  # it lies in `a/`, which came before it


async def test_page_is_truncated_only_when_more_follows(store: Store) -> None:
    await keys(store, "a/1", "a/2", "b", "c/1")
    page = store.list("b", ListOptions(delimiter="/", limit=2))
    assert (list(page.prefixes), [key for key, _ in page.objects]) == (["a/"], ["b"])
    assert (page.truncated, page.next_after) == (True, "b")
    page = store.list("b", ListOptions(delimiter="/", limit=3))
    assert (list(page.prefixes), page.truncated) == (["a/", "c/"], False)


async def test_pages_of_any_size_together_are_the_whole(store: Store) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    source = random.Random(seed)
    names = sorted({"".join(source.choices("ab/", k=source.randint(1, 5))) for _ in range(60)})
    await keys(store, *names)
    for delimiter in ("", "/", "a"):
        for prefix in ("", "a", "a/", "/"):
            whole = listed(store, prefix=prefix, delimiter=delimiter)
            for limit in (1, 2, 3, 7):
                objects: list[str] = []
                prefixes: list[str] = []
                after = ""
                for _ in range(200):
                    page = store.list("b", ListOptions(prefix, delimiter, after, limit))
                    assert len(page.objects) + len(page.prefixes) <= limit
                    objects += [key for key, _ in page.objects]
                    prefixes += page.prefixes
                    if not page.truncated:
                        break
                    assert page.next_after > after
                    after = page.next_after
                assert (objects, prefixes, False) == whole, (seed, prefix, delimiter, limit)
