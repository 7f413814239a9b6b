"""Stores that keep versions: versions and delete markers, locks, all versions listed, appends, renames."""

from __future__ import annotations

import pytest
from awscrt.checksums import crc64nvme

from tests.conformance.conftest import VERSIONED
from tests.conformance.steps import get, head, md5, put, put_part, settled
from tests.support.clock import ManualClock
from tiering import contract as c
from tiering.contract import (
    BucketChange,
    BucketInfo,
    Conditions,
    CopyOptions,
    DeleteOptions,
    ListVersionsOptions,
    Lock,
    ObjectChange,
    PutOptions,
    ReadOptions,
    RenameOptions,
    Store,
)

pytestmark = pytest.mark.parametrize("store", VERSIONED, indirect=True)

DAY_MS = 86_400_000


async def versions(store: Store, bucket: str = "b") -> list[tuple[str, str, bool, bool]]:
    """(key, version, marker, latest) of all."""
    listing = store.list_versions(bucket, ListVersionsOptions())
    assert not listing.truncated
    return [(key, info.version, info.marker, latest) for key, info, latest in listing.versions]


async def versioning(store: Store, state: str) -> None:
    assert state in ("Enabled", "Suspended")
    await store.change_bucket("b", BucketChange(versioning=state))  # type: ignore[arg-type]  # asserted above


async def named(store: Store, version: str, key: str = "k") -> bytes:
    return await get(store, key, ReadOptions(version=version))


async def seen(store: Store, version: str, key: str = "k") -> c.ObjectInfo:
    return (await settled(store.open("b", key, ReadOptions(head=True, version=version)))).info


# -- versions


async def test_without_versioning_there_is_only_the_null_version(store: Store) -> None:
    info = await put(store, "k", b"one")
    assert (info.version, info.noncurrent_ms, info.marker) == ("", 0, False)
    await put(store, "k", b"two")
    assert await named(store, "") == b"two"
    assert await versions(store) == [("k", "", False, True)]
    with pytest.raises(c.NoSuchVersion):
        await named(store, "0" * 32)
    assert await store.delete("b", "k") == c.Deleted(True)
    assert await store.delete("b", "k") == c.Deleted(False)
    with pytest.raises(c.NoSuchVersion):
        await named(store, "")
    with pytest.raises(c.NoSuchKey):
        await head(store, "k")


async def test_enabled_keeps_every_version(store: Store, clock: ManualClock) -> None:
    await put(store, "k", b"null")
    await versioning(store, "Enabled")
    first = await put(store, "k", b"first")
    clock.advance(1000)
    second = await put(store, "k", b"second")
    assert first.version and second.version and first.version != second.version
    assert await get(store, "k") == b"second"
    assert [await named(store, each) for each in ("", first.version, second.version)] == [b"null", b"first", b"second"]
    assert (await seen(store, first.version)).noncurrent_ms == clock.now_ms()
    assert (await seen(store, second.version)).noncurrent_ms == 0
    assert [each[1] for each in await versions(store)] == [second.version, first.version, ""]
    assert [key for key, _ in store.list("b", c.ListOptions()).objects] == ["k"]


async def test_suspended_replaces_the_null_version_and_no_other(store: Store) -> None:
    await versioning(store, "Enabled")
    first = await put(store, "k", b"first")
    await versioning(store, "Suspended")
    await put(store, "k", b"null one")
    await put(store, "k", b"null two")
    assert await versions(store) == [("k", "", False, True), ("k", first.version, False, False)]
    assert await named(store, "") == await get(store, "k") == b"null two"
    await versioning(store, "Enabled")
    last = await put(store, "k", b"last")
    await versioning(store, "Suspended")
    await put(store, "k", b"null three")  # the null version in the middle moves to the top
    assert [each[1] for each in await versions(store)] == ["", last.version, first.version]


async def test_delete_adds_a_marker(store: Store) -> None:
    await versioning(store, "Enabled")
    first = await put(store, "k", b"first")
    gone = await store.delete("b", "k")
    assert gone.found and gone.marker and gone.version
    with pytest.raises(c.NoSuchKey) as failed:
        await head(store, "k")
    assert (failed.value.facts["marker"], failed.value.facts["version"]) == (True, gone.version)
    with pytest.raises(c.IsMarker) as marked:
        await named(store, gone.version)
    assert marked.value.facts["version"] == gone.version and marked.value.facts["modified_ms"] > 0
    assert await named(store, first.version) == b"first"
    assert await versions(store) == [("k", gone.version, True, True), ("k", first.version, False, False)]
    assert list(store.list("b", c.ListOptions()).objects) == []
    again = await store.delete("b", "k")
    assert not again.found and again.marker and again.version not in (None, gone.version)
    never = await store.delete("b", "never")
    assert not never.found and never.marker and never.version
    assert len(await versions(store)) == 4


async def test_delete_while_suspended_puts_a_marker_in_the_place_of_the_null_version(store: Store) -> None:
    await put(store, "k", b"null")
    await versioning(store, "Enabled")
    first = await put(store, "k", b"first")
    await versioning(store, "Suspended")
    assert await store.delete("b", "k") == c.Deleted(True, "", True)
    assert await store.delete("b", "k") == c.Deleted(False, "", True)
    assert await versions(store) == [("k", "", True, True), ("k", first.version, False, False)]
    with pytest.raises(c.IsMarker):
        await named(store, "")
    await put(store, "k", b"null again")
    assert await versions(store) == [("k", "", False, True), ("k", first.version, False, False)]


async def test_a_named_version_goes_for_good_and_the_next_takes_its_place(store: Store) -> None:
    await versioning(store, "Enabled")
    first = await put(store, "k", b"first")
    second = await put(store, "k", b"second")
    marker = (await store.delete("b", "k")).version
    assert marker is not None
    assert await store.delete("b", "k", DeleteOptions(version=marker)) == c.Deleted(True, marker, True)
    assert await get(store, "k") == b"second"
    assert (await head(store, "k")).noncurrent_ms == 0
    assert await store.delete("b", "k", DeleteOptions(version=marker)) == c.Deleted(False, marker)
    assert await store.delete("b", "k", DeleteOptions(version=second.version)) == c.Deleted(True, second.version)
    assert await get(store, "k") == b"first"
    assert await versions(store) == [("k", first.version, False, True)]
    assert [key for key, _ in store.list("b", c.ListOptions()).objects] == ["k"]
    await store.delete("b", "k", DeleteOptions(version=first.version))
    assert await versions(store) == []
    with pytest.raises(c.NoSuchKey):
        await head(store, "k")


async def test_deleting_an_older_version_leaves_the_current_one(store: Store) -> None:
    await put(store, "k", b"null")
    await versioning(store, "Enabled")
    first = await put(store, "k", b"first")
    second = await put(store, "k", b"second")
    await store.delete("b", "k", DeleteOptions(version=first.version))
    assert await store.delete("b", "k", DeleteOptions(version="")) == c.Deleted(True, "")
    assert await versions(store) == [("k", second.version, False, True)]
    assert await get(store, "k") == b"second"


async def test_a_version_goes_only_while_it_is_an_older_one_if_asked(store: Store) -> None:
    await versioning(store, "Enabled")
    first, second = await put(store, "k", b"first"), await put(store, "k", b"second")
    await store.delete("b", "k", DeleteOptions(version=second.version))
    with pytest.raises(c.PreconditionFailed):
        await store.delete("b", "k", DeleteOptions(version=first.version, noncurrent=True))
    assert await get(store, "k") == b"first"
    await put(store, "k", b"third")
    assert (await store.delete("b", "k", DeleteOptions(version=first.version, noncurrent=True))).found


async def test_a_version_is_changed_without_touching_the_others(store: Store) -> None:
    await versioning(store, "Enabled")
    first = await put(store, "k", b"first")
    second = await put(store, "k", b"second")
    await store.change("b", "k", ObjectChange(tags={"old": "1"}, acl="text", version=first.version))
    assert ((await seen(store, first.version)).tags, (await seen(store, first.version)).acl) == ({"old": "1"}, "text")
    assert ((await head(store, "k")).tags, (await head(store, "k")).acl) == ({}, "")
    with pytest.raises(c.NoSuchVersion):
        await store.change("b", "k", ObjectChange(tags={}, version="0" * 32))
    marker = (await store.delete("b", "k")).version
    with pytest.raises(c.IsMarker):
        await store.change("b", "k", ObjectChange(tags={}, version=marker))
    with pytest.raises(c.NoSuchKey):
        await store.change("b", "k", ObjectChange(tags={}))
    assert (await seen(store, second.version)).tags == {}


async def test_conditions_are_judged_against_the_version_they_are_about(store: Store) -> None:
    await versioning(store, "Enabled")
    first = await put(store, "k", b"first")
    await put(store, "k", b"second")
    wrong, right = Conditions(if_match=(md5(b"second"),)), Conditions(if_match=(first.etag,))
    with pytest.raises(c.PreconditionFailed):
        await store.delete("b", "k", DeleteOptions(wrong, first.version))
    with pytest.raises(c.PreconditionFailed):
        await store.delete("b", "k", DeleteOptions(right))
    await store.delete("b", "k", DeleteOptions(right, first.version))
    await store.delete("b", "k", DeleteOptions(wrong))  # "second" is the current one: a marker is added
    for marked in (wrong, Conditions(if_match=("*",)), Conditions(if_match_size=1)):
        with pytest.raises(c.PreconditionFailed):  # a delete marker stands there now
            await store.delete("b", "k", DeleteOptions(marked))
    await put(store, "k", b"third", PutOptions(conditions=Conditions(if_none_match=("*",))))
    assert await get(store, "k") == b"third"


async def test_copies_of_versions(store: Store) -> None:
    await versioning(store, "Enabled")
    first = await put(store, "k", b"first")
    await put(store, "k", b"second")
    copied = await store.copy(("b", "k"), ("b", "to"), CopyOptions(source_version=first.version))
    assert copied.version not in ("", first.version)
    assert await get(store, "to") == b"first"
    restored = await store.copy(("b", "k"), ("b", "k"), CopyOptions(source_version=first.version))
    assert await get(store, "k") == b"first" and len(await versions(store)) == 4
    marker = (await store.delete("b", "k")).version
    with pytest.raises(c.IsMarker):
        await store.copy(("b", "k"), ("b", "to"), CopyOptions(source_version=marker))
    with pytest.raises(c.NoSuchKey):
        await store.copy(("b", "k"), ("b", "to"), CopyOptions())
    with pytest.raises(c.NoSuchVersion):
        await store.copy(("b", "k"), ("b", "to"), CopyOptions(source_version="0" * 32))
    assert await named(store, restored.version) == b"first"


async def test_a_completion_may_state_the_lock(store: Store) -> None:
    await store.change_bucket("b", BucketChange(versioning="Enabled", object_lock=True))
    for lock in (None, Lock("COMPLIANCE", 1 << 50, True)):
        upload = await store.begin_upload("b", "k", PutOptions(lock=Lock(legal_hold=True)))
        part = await put_part(store, "k", upload.upload_id, 1, b"data")
        options = c.CompleteOptions(etag="e", lock=lock)
        info = await store.complete_upload("b", "k", upload.upload_id, [c.PartClaim(1, part.etag)], options)
        assert info.lock == (lock or Lock(legal_hold=True))


async def test_completed_upload_is_a_version(store: Store) -> None:
    await versioning(store, "Enabled")
    await put(store, "k", b"first")
    upload = await store.begin_upload("b", "k", PutOptions(owner="someone", lock=Lock("", 0, True)))
    part = await put_part(store, "k", upload.upload_id, 1, b"part")
    claims = [c.PartClaim(1, part.etag)]
    info = await store.complete_upload("b", "k", upload.upload_id, claims, c.CompleteOptions("e-1"))
    assert info.version and (info.owner, info.lock) == ("someone", Lock("", 0, True))
    again = await store.complete_upload("b", "k", upload.upload_id, claims, c.CompleteOptions("e-1"))
    assert again.version == info.version
    assert len(await versions(store)) == 2


async def test_what_is_stored_of_a_version_comes_back(store: Store) -> None:
    sealed = c.Encryption("AES256", "key", b"wrapped", 3, "context")
    lock = Lock("GOVERNANCE", 1 << 42, False)
    await versioning(store, "Enabled")
    info = await put(store, "k", b"sealed", PutOptions(owner="o", acl="a", encryption=sealed, lock=lock))
    for each in (info, await head(store, "k"), await seen(store, info.version)):
        assert (each.owner, each.acl, each.encryption, each.lock, each.size) == ("o", "a", sealed, lock, 6)
    copied = await store.copy(("b", "k"), ("b", "to"), CopyOptions(owner="p", acl="c"))
    assert (copied.owner, copied.acl, copied.lock) == ("p", "c", None)
    await put(store, "k", b"plain")
    assert (await head(store, "k")).encryption is None


async def test_bucket_with_any_version_stays(store: Store) -> None:
    await versioning(store, "Enabled")
    marker = (await store.delete("b", "k")).version
    with pytest.raises(c.BucketNotEmpty):
        await store.delete_bucket("b")
    await store.delete("b", "k", DeleteOptions(version=marker))
    await store.delete_bucket("b")


async def test_buckets_remember_versioning_and_lock(store: Store) -> None:
    assert (store.bucket("b").versioning, store.bucket("b").object_lock) == ("", False)
    with pytest.raises(c.LockNeedsVersions):
        await store.change_bucket("b", BucketChange(object_lock=True))
    await versioning(store, "Enabled")
    await store.change_bucket("b", BucketChange(object_lock=True, documents={"object-lock": "text"}))
    with pytest.raises(c.LockNeedsVersions):
        await versioning(store, "Suspended")
    info = store.bucket("b")
    assert (info.versioning, info.object_lock, info.documents) == ("Enabled", True, {"object-lock": "text"})
    await store.create_bucket(
        BucketInfo(name="locked", created_ms=1, pool="", versioning="Enabled", object_lock=True, owner="me")
    )
    made = store.bucket("locked")
    assert (made.versioning, made.object_lock, made.owner) == ("Enabled", True, "me")


async def test_a_pool_without_versions_says_so(store: Store) -> None:
    await store.create_bucket(BucketInfo(name="kv", created_ms=1, pool="kv"))
    for change in (BucketChange(versioning="Enabled"), BucketChange(versioning="Suspended")):
        with pytest.raises(c.NoVersioning):
            await store.change_bucket("kv", change)
    with pytest.raises(c.NoVersioning):
        await store.create_bucket(BucketInfo(name="n", created_ms=1, pool="kv", versioning="Enabled"))
    with pytest.raises(c.NoSuchBucket):
        store.bucket("n")
    await put(store, "k", b"one", bucket="kv")
    assert await versions(store, "kv") == [("k", "", False, True)]


async def test_a_deadline_hides_older_versions_behind_a_marker(store: Store, clock: ManualClock) -> None:
    await versioning(store, "Enabled")
    first = await put(store, "k", b"first")
    second = await put(store, "k", b"second", PutOptions(ttl=c.Ttl(60_000)))
    alone = await put(store, "alone", b"alone", PutOptions(ttl=c.Ttl(60_000)))
    clock.advance(60)
    for key, version in (("k", second.version), ("alone", alone.version)):
        with pytest.raises(c.NoSuchKey):
            await head(store, key)
        with pytest.raises(c.NoSuchVersion):
            await named(store, version, key)
    assert await named(store, first.version) == b"first"
    assert list(store.list("b", c.ListOptions()).objects) == []
    assert (await store.delete("b", "k")).marker
    assert not (await store.delete("b", "alone", DeleteOptions(version=alone.version))).found


async def test_a_lock_outranks_a_deadline(store: Store, clock: ManualClock) -> None:
    info = await _locked(store, clock, "GOVERNANCE")
    await store.change("b", "k", ObjectChange(ttl=c.Ttl(1000), version=info.version))
    clock.advance(2)
    assert await get(store, "k") == b"locked"
    clock.advance(DAY_MS // 1000)
    with pytest.raises(c.NoSuchKey):
        await head(store, "k")


# -- locks


async def _locked(store: Store, clock: ManualClock, mode: str, hold: bool | None = None) -> c.ObjectInfo:
    await versioning(store, "Enabled")
    until_ms = clock.now_ms() + DAY_MS if mode else 0
    return await put(store, "k", b"locked", PutOptions(lock=Lock(mode, until_ms, hold)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "hold", "bypass", "goes"),
    [
        ("GOVERNANCE", False, False, False),
        ("GOVERNANCE", False, True, True),
        ("GOVERNANCE", True, True, False),
        ("COMPLIANCE", False, False, False),
        ("COMPLIANCE", False, True, False),
        ("", True, True, False),
        ("", False, False, True),
    ],
)
async def test_a_locked_version_stays(
    store: Store, clock: ManualClock, mode: str, hold: bool, bypass: bool, goes: bool
) -> None:
    info = await _locked(store, clock, mode, hold)
    wanted = DeleteOptions(version=info.version, bypass_governance=bypass)
    if goes:
        assert (await store.delete("b", "k", wanted)).found
        return
    with pytest.raises(c.Locked):
        await store.delete("b", "k", wanted)
    assert (await store.delete("b", "k")).marker  # a marker may always be added
    assert await named(store, info.version) == b"locked"
    clock.advance(DAY_MS + 1)
    if hold:
        with pytest.raises(c.Locked):
            await store.delete("b", "k", wanted)
        await store.change("b", "k", ObjectChange(legal_hold=False, version=info.version))
    assert (await store.delete("b", "k", wanted)).found


@pytest.mark.parametrize(
    ("mode", "to", "days", "bypass", "allowed"),
    [
        ("GOVERNANCE", "GOVERNANCE", 2, False, True),
        ("GOVERNANCE", "GOVERNANCE", 1, False, True),
        ("GOVERNANCE", "GOVERNANCE", 0.5, False, False),
        ("GOVERNANCE", "GOVERNANCE", 0.5, True, True),
        ("GOVERNANCE", "COMPLIANCE", 2, False, False),
        ("GOVERNANCE", "COMPLIANCE", 2, True, True),
        ("GOVERNANCE", "", 0, False, False),
        ("GOVERNANCE", "", 0, True, True),
        ("COMPLIANCE", "COMPLIANCE", 2, False, True),
        ("COMPLIANCE", "COMPLIANCE", 0.5, True, False),
        ("COMPLIANCE", "GOVERNANCE", 2, True, False),
        ("COMPLIANCE", "", 0, True, False),
        ("", "COMPLIANCE", 1, False, True),
    ],
)
async def test_retention_is_only_weakened_by_right(
    store: Store, clock: ManualClock, mode: str, to: str, days: float, bypass: bool, allowed: bool
) -> None:
    info = await _locked(store, clock, mode)
    until_ms = clock.now_ms() + int(days * DAY_MS) if to else 0
    wanted = Lock(to, until_ms)  # type: ignore[arg-type]
    change = ObjectChange(lock=wanted, bypass_governance=bypass, version=info.version)
    if allowed:
        assert (await store.change("b", "k", change)).lock == (wanted if to else None)
    else:
        with pytest.raises(c.Locked):
            await store.change("b", "k", change)
        assert (await head(store, "k")).lock == info.lock


async def test_hold_and_retention_leave_each_other_alone(store: Store, clock: ManualClock) -> None:
    info = await _locked(store, clock, "COMPLIANCE")
    assert info.lock is not None
    held = await store.change("b", "k", ObjectChange(legal_hold=True))
    assert held.lock == Lock("COMPLIANCE", info.lock.until_ms, True)
    longer = await store.change("b", "k", ObjectChange(lock=Lock("COMPLIANCE", info.lock.until_ms + 1)))
    assert longer.lock == Lock("COMPLIANCE", info.lock.until_ms + 1, True)
    tagged = await store.change("b", "k", ObjectChange(tags={"a": "b"}))
    assert tagged.lock == longer.lock
    freed = await store.change("b", "k", ObjectChange(legal_hold=False))
    assert freed.lock == Lock("COMPLIANCE", info.lock.until_ms + 1, False)
    assert (await head(store, "k")).lock == freed.lock


# -- listing versions


async def _many(store: Store) -> list[tuple[str, str]]:
    """Three versions of each of `a/1`, `a/2`, `b`, `c/1`, one of them a marker, as (key, version) in listing order."""
    await versioning(store, "Enabled")
    found = []
    for key in ("a/1", "a/2", "b", "c/1"):
        first, second = await put(store, key, b"1"), await put(store, key, b"2")
        marker = (await store.delete("b", key)).version
        assert marker is not None
        found += [(key, marker), (key, second.version), (key, first.version)]
    return found


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("delete", [False, True])
async def test_versions_are_listed_page_by_page(store: Store, limit: int, delete: bool) -> None:
    wanted = await _many(store)
    options, found = ListVersionsOptions(limit=limit), []
    while True:
        page = store.list_versions("b", options)
        assert len(page.versions) <= limit
        found += [(each.key, each.info.version) for each in page.versions]
        if delete:  # clients that empty a bucket name as marker what they have just deleted
            for each in page.versions:
                await store.delete("b", each.key, DeleteOptions(version=each.info.version))
        if not page.truncated:
            break
        assert (page.next_key, page.next_version) == found[-1]
        options = ListVersionsOptions(limit=limit, key_after=page.next_key, version_after=page.next_version)
    assert found == wanted


@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_versions_roll_up_to_prefixes(store: Store, limit: int) -> None:
    wanted = await _many(store)
    options, found = ListVersionsOptions(delimiter="/", limit=limit), list[str]()
    while True:
        page = store.list_versions("b", options)
        assert len(page.versions) + len(page.prefixes) <= limit
        found += [*(each.info.version for each in page.versions), *page.prefixes]
        if not page.truncated:
            break
        options = _next_page(options, page)
    assert sorted(found) == sorted([*(version for key, version in wanted if key == "b"), "a/", "c/"])


def _next_page(options: ListVersionsOptions, page: c.VersionListing) -> ListVersionsOptions:
    return ListVersionsOptions(
        options.prefix, options.delimiter, key_after=page.next_key, version_after=page.next_version, limit=options.limit
    )


async def test_versions_under_a_prefix_and_after_a_marker(store: Store) -> None:
    wanted = await _many(store)

    def listed(**options: str) -> list[tuple[str, str]]:
        page = store.list_versions("b", ListVersionsOptions(**options))  # type: ignore[arg-type]
        return [(each.key, each.info.version) for each in page.versions]

    assert listed(prefix="a/") == wanted[:6]
    assert listed(key_after="a/1") == wanted[3:]
    assert listed(key_after="a/1", version_after=wanted[1][1]) == wanted[2:]
    assert listed(key_after="a/1", version_after=wanted[2][1], prefix="b") == wanted[6:9]
    assert listed(prefix="none") == []
    assert store.list_versions("b", ListVersionsOptions(prefix="a/", delimiter="/")).prefixes == []
    with pytest.raises(c.NoSuchBucket):
        store.list_versions("none", ListVersionsOptions())


async def test_only_the_newest_version_is_latest(store: Store) -> None:
    await _many(store)
    listing = store.list_versions("b", ListVersionsOptions())
    assert [each.latest for each in listing.versions] == [True, False, False] * 4
    assert [each.info.marker for each in listing.versions] == [True, False, False] * 4


# -- appends


async def test_append_adds_to_the_end(store: Store) -> None:
    made = await put(store, "k", b"one,", PutOptions(append_at=0, content_type="text/csv", metadata={"a": "b"}))
    assert made.size == 4
    added = await put(store, "k", b"two", PutOptions(append_at=4, content_type="ignored"))
    assert (added.size, added.crc64, added.content_type) == (7, crc64nvme(b"one,two"), "text/csv")
    assert added.metadata == {"a": "b"} and added.etag != made.etag and added.generation > made.generation
    assert await get(store, "k") == b"one,two"
    assert await get(store, "k", ReadOptions(range=c.ByteRange(3, 5))) == b",t"


async def test_append_at_the_wrong_place_changes_nothing(store: Store) -> None:
    with pytest.raises(c.WrongOffset) as failed:
        await put(store, "k", b"x", PutOptions(append_at=1))
    assert failed.value.facts["size"] == 0
    await put(store, "k", b"one")
    for offset in (0, 2, 4):
        with pytest.raises(c.WrongOffset) as failed:
            await put(store, "k", b"x", PutOptions(append_at=offset))
        assert failed.value.facts["size"] == 3
    assert await get(store, "k") == b"one"


async def test_of_two_appends_at_one_place_one_wins(store: Store) -> None:
    await put(store, "k", b"one")
    writers = [await settled(store.put("b", "k", 2, PutOptions(append_at=3))) for _ in range(2)]
    for writer, data in zip(writers, (b"aa", b"bb"), strict=True):
        waiting = writer.write(data)
        if waiting is not None:
            await waiting
    await writers[0].commit(c.PutResult(md5(b"aa")))
    with pytest.raises(c.WrongOffset):
        await writers[1].commit(c.PutResult(md5(b"bb")))
    writers[1].abort()
    assert await get(store, "k") == b"oneaa"


async def test_nothing_is_appended_to_versions_or_sealed_objects(store: Store) -> None:
    await put(store, "k", b"sealed", PutOptions(encryption=c.Encryption("AES256", size=3)))
    with pytest.raises(c.NotAppendable):
        await put(store, "k", b"x", PutOptions(append_at=6))
    await versioning(store, "Enabled")
    with pytest.raises(c.NotAppendable):
        await put(store, "k", b"x", PutOptions(append_at=6))
    with pytest.raises(c.NotAppendable):
        await put(store, "new", b"x", PutOptions(append_at=0))


# -- renames


async def test_rename_moves_everything(store: Store) -> None:
    was = await put(store, "from", b"data", PutOptions(content_type="x/y", metadata={"a": "b"}, tags={"t": "1"}))
    await put(store, "to", b"in the way")
    info = await store.rename("b", "from", "to", RenameOptions())
    assert (info.etag, info.content_type, info.metadata, info.tags) == (was.etag, "x/y", {"a": "b"}, {"t": "1"})
    assert await get(store, "to") == b"data"
    assert [key for key, _ in store.list("b", c.ListOptions()).objects] == ["to"]
    with pytest.raises(c.NoSuchKey):
        await store.rename("b", "from", "to", RenameOptions())


async def test_rename_of_a_cold_object(store: Store) -> None:
    await put(store, "from", b"data")
    await store.change("b", "from", ObjectChange(tier="cold"))
    await store.rename("b", "from", "to", RenameOptions())
    assert await get(store, "to") == b"data"
    with pytest.raises(c.NoSuchKey):
        await head(store, "from")


async def test_rename_obeys_the_conditions_of_both_ends(store: Store, clock: ManualClock) -> None:
    was = await put(store, "from", b"data")
    there = await put(store, "to", b"there")
    modified_s = clock.now_ms() // 1000
    for source, target in (
        (Conditions(if_match=("other",)), None),
        (Conditions(if_none_match=(was.etag,)), None),
        (Conditions(if_unmodified_since_s=modified_s - 9), None),
        (Conditions(if_modified_since_s=modified_s), None),
        (None, Conditions(if_none_match=("*",))),
        (None, Conditions(if_match=("other",))),
        (None, Conditions(if_unmodified_since_s=modified_s - 9)),
        (None, Conditions(if_modified_since_s=modified_s)),
    ):
        with pytest.raises(c.PreconditionFailed):
            await store.rename("b", "from", "to", RenameOptions(source, target))
    assert await get(store, "to") == b"there"
    both = RenameOptions(Conditions(if_match=(was.etag,)), Conditions(if_match=(there.etag,)))
    await store.rename("b", "from", "to", both)
    assert await get(store, "to") == b"data"


async def test_no_rename_where_there_are_versions(store: Store) -> None:
    await put(store, "from", b"data")
    await versioning(store, "Suspended")
    with pytest.raises(c.NotRenamable):
        await store.rename("b", "from", "to", RenameOptions())
    with pytest.raises(c.NoSuchBucket):
        await store.rename("none", "from", "to", RenameOptions())
