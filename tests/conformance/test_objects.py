"""Every store is a store: objects written, read, copied, changed, deleted."""

from __future__ import annotations

import asyncio
import base64
import hashlib

import pytest
from awscrt.checksums import crc64nvme

from tests.conformance.steps import HEAD, content, get, head, md5, put, put_part, settled
from tests.support.clock import ManualClock
from tiering import contract as c
from tiering.contract import (
    ByteRange,
    Conditions,
    CopyOptions,
    DeleteOptions,
    ObjectChange,
    PutOptions,
    PutResult,
    ReadOptions,
    Store,
)

DATA = bytes(range(256)) * 40


async def test_put_then_get_gives_the_same_bytes(store: Store, clock: ManualClock) -> None:
    info = await put(store, "a/key", DATA)
    assert (info.size, info.etag, info.crc64) == (len(DATA), md5(DATA), crc64nvme(DATA))
    assert info.modified_ms == clock.now_ms()
    assert await get(store, "a/key") == DATA
    assert await head(store, "a/key") == info


async def test_writer_counts_crc64_while_it_writes(store: Store) -> None:
    writer = await settled(store.put("b", "k", len(DATA), PutOptions()))
    waiting = writer.write(DATA[:1000])
    if waiting is not None:
        await waiting
    assert writer.crc64 == crc64nvme(DATA[:1000])
    writer.abort()


@pytest.mark.parametrize("size", [0, 1, 4096, 3_000_001])
async def test_sizes_come_back_whole(store: Store, size: int) -> None:
    data = hashlib.shake_128(b"seed").digest(size)
    await put(store, "k", data, piece=70_001)
    assert await get(store, "k") == data


@pytest.mark.parametrize(
    ("size", "bound"),
    [
        (0, 1),
        (0, 20_000_000),
        (5, 100),
        (5, 20_000_000),
        (262_144, 20_000_000),
        (3_000_001, 3_500_000),
        (3_000_001, 20_000_000),
    ],
)
async def test_body_shorter_than_its_announced_bound_is_whole_when_its_writer_says_so(
    store: Store, size: int, bound: int
) -> None:
    data = hashlib.shake_128(b"short").digest(size)
    writer = await settled(store.put("b", "k", bound, PutOptions()))
    for at in range(0, size, 70_001):
        waiting = writer.write(data[at : at + 70_001])
        if waiting is not None:
            await waiting
    info = await writer.commit(PutResult(md5(data), short=True))
    assert (info.size, info.etag, info.crc64) == (size, md5(data), crc64nvme(data))
    await put(store, "after", DATA)
    assert await get(store, "k") == data
    assert await get(store, "after") == DATA


async def test_empty_object_has_an_empty_body(store: Store) -> None:
    await put(store, "empty", b"")
    reading = await settled(store.open("b", "empty", c.ReadOptions()))
    assert (reading.start, reading.stop) == (0, 0)
    assert await content(reading) == b""


async def test_what_is_stored_with_the_bytes_comes_back(store: Store) -> None:
    options = PutOptions(
        content_type="text/plain",
        headers={"cache-control": "no-cache"},
        metadata={"colour": "grün"},
        tags={"team": "x"},
        storage_class="STANDARD_IA",
    )
    checksum = c.Checksum("SHA256", base64.b64encode(hashlib.sha256(DATA).digest()).decode())
    await put(store, "k", DATA, options, result=PutResult(md5(DATA), checksum))
    info = await head(store, "k")
    assert info.content_type == "text/plain"
    assert info.headers == {"cache-control": "no-cache"}
    assert info.metadata == {"colour": "grün"}
    assert info.tags == {"team": "x"}
    assert info.storage_class == "STANDARD_IA"
    assert info.checksum == checksum


async def test_overwriting_makes_a_larger_generation(store: Store) -> None:
    first = await put(store, "k", b"one")
    second = await put(store, "k", b"second")
    assert second.generation > first.generation
    assert await get(store, "k") == b"second"


async def test_reader_of_an_overwritten_object_keeps_its_bytes(store: Store) -> None:
    await put(store, "k", DATA)
    reading = await settled(store.open("b", "k", c.ReadOptions()))
    await put(store, "k", b"new")
    await store.delete("b", "k")
    assert await content(reading) == DATA


async def test_nothing_is_visible_before_commit_nor_after_abort(store: Store) -> None:
    writer = await settled(store.put("b", "k", 4, PutOptions()))
    waiting = writer.write(b"data")
    if waiting is not None:
        await waiting
    with pytest.raises(c.NoSuchKey):
        await head(store, "k")
    writer.abort()
    with pytest.raises(c.NoSuchKey):
        await head(store, "k")


async def test_missing_bucket_is_named_before_a_missing_key(store: Store) -> None:
    for call in (
        lambda: settled(store.open("none", "k", HEAD)),
        lambda: settled(store.put("none", "k", 1, PutOptions())),
        lambda: store.delete("none", "k"),
        lambda: store.change("none", "k", ObjectChange(pin_ms=0)),
        lambda: store.copy(("none", "k"), ("b", "k"), CopyOptions()),
        lambda: store.copy(("b", "k"), ("none", "k"), CopyOptions()),
        lambda: store.begin_upload("none", "k", PutOptions()),
    ):
        with pytest.raises(c.NoSuchBucket):
            await call()
    with pytest.raises(c.NoSuchBucket):
        store.list("none", c.ListOptions())
    with pytest.raises(c.NoSuchKey):
        await get(store, "k")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (ByteRange(0, 1), (0, 1)),
        (ByteRange(10, 20), (10, 20)),
        (ByteRange(100), (100, 1000)),
        (ByteRange(990, 5000), (990, 1000)),
        (ByteRange(0, 10, suffix=True), (990, 1000)),
        (ByteRange(0, 5000, suffix=True), (0, 1000)),
    ],
)
@pytest.mark.parametrize("is_head", [False, True])
async def test_range_is_clipped(store: Store, wanted: ByteRange, expected: tuple[int, int], is_head: bool) -> None:
    await put(store, "k", DATA[:1000])
    reading = await settled(store.open("b", "k", ReadOptions(head=is_head, range=wanted)))
    assert (reading.start, reading.stop) == expected
    if not is_head:
        assert await content(reading) == DATA[:1000][slice(*expected)]


@pytest.mark.parametrize("wanted", [ByteRange(1000), ByteRange(2000, 3000), ByteRange(0, 0, suffix=True)])
async def test_range_outside_the_object_is_refused(store: Store, wanted: ByteRange) -> None:
    await put(store, "k", DATA[:1000])
    with pytest.raises(c.InvalidRange) as caught:
        await settled(store.open("b", "k", ReadOptions(range=wanted)))
    assert caught.value.facts["size"] == 1000


async def test_part_number_of_a_whole_object_is_one(store: Store) -> None:
    await put(store, "k", DATA)
    assert await get(store, "k", ReadOptions(part_number=1)) == DATA
    with pytest.raises(c.InvalidPartNumber):
        await settled(store.open("b", "k", ReadOptions(part_number=2)))


# -- preconditions


async def test_read_conditions_are_judged(store: Store) -> None:
    info = await put(store, "k", DATA)
    good, bad = (info.etag,), ("other",)
    assert await get(store, "k", ReadOptions(conditions=Conditions(if_match=good))) == DATA
    with pytest.raises(c.PreconditionFailed) as caught:
        await get(store, "k", ReadOptions(conditions=Conditions(if_match=bad)))
    assert caught.value.facts["condition"] == "If-Match"
    with pytest.raises(c.NotModified) as unchanged:
        await get(store, "k", ReadOptions(conditions=Conditions(if_none_match=good)))
    assert unchanged.value.facts["info"] == info


async def test_create_only_put_is_refused_before_any_byte(store: Store) -> None:
    only_new = PutOptions(conditions=Conditions(if_none_match=("*",)))
    await put(store, "k", b"first", only_new)
    with pytest.raises(c.PreconditionFailed):
        await settled(store.put("b", "k", 5, only_new))
    assert await get(store, "k") == b"first"


async def test_one_of_many_create_only_writers_wins(store: Store) -> None:
    only_new = PutOptions(conditions=Conditions(if_none_match=("*",)))
    writers = [await settled(store.put("b", "lock", 1, only_new)) for _ in range(8)]
    for number, writer in enumerate(writers):
        waiting = writer.write(b"%d" % number)
        if waiting is not None:
            await waiting
    outcomes = await asyncio.gather(
        *(writer.commit(PutResult(md5(b"%d" % n))) for n, writer in enumerate(writers)), return_exceptions=True
    )
    won = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, c.ObjectInfo)]
    assert len(won) == 1
    for n, outcome in enumerate(outcomes):
        if n not in won:
            assert isinstance(outcome, c.PreconditionFailed)
            writers[n].abort()
    assert await get(store, "lock") == b"%d" % won[0]


async def test_one_of_many_swapping_writers_wins(store: Store) -> None:
    first = await put(store, "lock", b"0")
    swap = PutOptions(conditions=Conditions(if_match=(first.etag,)))

    async def attempt(n: int) -> bool:
        try:
            await put(store, "lock", b"n%d" % n, swap)
        except c.PreconditionFailed:
            return False
        return True

    assert sum(await asyncio.gather(*(attempt(n) for n in range(6)))) == 1


async def test_match_on_nothing_is_a_missing_key(store: Store) -> None:
    with pytest.raises(c.NoSuchKey):
        await settled(store.put("b", "k", 1, PutOptions(conditions=Conditions(if_match=("x",)))))
    with pytest.raises(c.NoSuchKey):
        await store.delete("b", "k", DeleteOptions(Conditions(if_match=("x",))))


async def test_delete_says_whether_there_was_something(store: Store) -> None:
    await put(store, "k")
    assert (await store.delete("b", "k")).found is True
    assert (await store.delete("b", "k")).found is False
    with pytest.raises(c.NoSuchKey):
        await head(store, "k")


async def test_delete_conditions_are_judged(store: Store) -> None:
    info = await put(store, "k", b"1234")
    for wrong in (
        Conditions(if_match=("x",)),
        Conditions(if_match_size=5),
        Conditions(if_match_modified_s=info.modified_ms // 1000 + 1),
    ):
        with pytest.raises(c.PreconditionFailed):
            await store.delete("b", "k", DeleteOptions(wrong))
    right = Conditions(if_match=(info.etag,), if_match_size=4, if_match_modified_s=info.modified_ms // 1000)
    assert (await store.delete("b", "k", DeleteOptions(right))).found is True


# -- copies


async def test_copy_takes_everything_but_the_lease(store: Store, clock: ManualClock) -> None:
    options = PutOptions(content_type="text/x", metadata={"m": "1"}, tags={"t": "1"}, pin_ms=c.FOREVER_MS)
    old = await put(store, "old", DATA, options)
    clock.advance(5)
    info = await store.copy(("b", "old"), ("b", "new"), CopyOptions())
    assert (info.etag, info.crc64, info.size) == (old.etag, old.crc64, old.size)
    assert (info.content_type, info.metadata, info.tags) == ("text/x", {"m": "1"}, {"t": "1"})
    assert info.modified_ms == clock.now_ms()
    assert info.generation > old.generation
    assert info.pin_until_ms == 0
    assert await get(store, "new") == DATA
    await store.delete("b", "old")
    assert await get(store, "new") == DATA


async def test_copy_replaces_what_it_is_told_to(store: Store) -> None:
    await put(store, "old", DATA, PutOptions(content_type="a/b", metadata={"m": "1"}, tags={"t": "1"}))
    info = await store.copy(
        ("b", "old"),
        ("b", "old"),
        CopyOptions(replace=PutOptions(content_type="c/d", metadata={"n": "2"}), pin_ms=60_000, ttl=c.Ttl(5000)),
    )
    assert (info.content_type, info.metadata, info.tags) == ("c/d", {"n": "2"}, {"t": "1"})
    assert info.pin_until_ms == info.modified_ms + 60_000
    assert info.expires_ms == info.modified_ms + 5000
    info = await store.copy(("b", "old"), ("b", "new"), CopyOptions(tags={"u": "3"}))
    assert (info.metadata, info.tags) == ({"n": "2"}, {"u": "3"})


async def test_copy_between_pools_moves_the_bytes(store: Store) -> None:
    await store.create_bucket(c.BucketInfo(name="kv-bucket", created_ms=0, pool="kv"))
    await put(store, "k", DATA)
    await store.copy(("b", "k"), ("kv-bucket", "k"), CopyOptions())
    await store.delete("b", "k")
    assert await get(store, "k", bucket="kv-bucket") == DATA


@pytest.mark.parametrize(
    ("sizes", "bucket", "cold"), [((5 << 20, 9), "b", True), ((4000,), "b", True), ((4000,), "kv-bucket", False)]
)
async def test_copy_keeps_the_parts_wherever_its_source_lies(
    store: Store, sizes: tuple[int, ...], bucket: str, cold: bool
) -> None:
    # What is sealed is sealed part by part: a copy that forgets them cannot be opened.
    await store.create_bucket(c.BucketInfo(name="kv-bucket", created_ms=0, pool="kv"))
    upload = await store.begin_upload("b", "old", PutOptions())
    parts = [
        await put_part(store, "old", upload.upload_id, number, DATA[:1] * size) for number, size in enumerate(sizes, 1)
    ]
    claims = [c.PartClaim(part.number, part.etag) for part in parts]
    old = await store.complete_upload("b", "old", upload.upload_id, claims, c.CompleteOptions("whole-2"))
    if cold:
        await store.change("b", "old", c.ObjectChange(tier="cold"))
    copied = await store.copy(("b", "old"), (bucket, "new"), CopyOptions())
    assert copied.parts == old.parts
    assert await get(store, "new", c.ReadOptions(part_number=1), bucket=bucket) == DATA[:1] * sizes[0]


async def test_copy_can_keep_another_checksum(store: Store) -> None:
    await put(store, "old", DATA)
    info = await store.copy(("b", "old"), ("b", "new"), CopyOptions(checksum_algorithm="SHA256"))
    assert info.checksum == c.Checksum("SHA256", base64.b64encode(hashlib.sha256(DATA).digest()).decode())


async def test_copy_judges_both_sides(store: Store) -> None:
    info = await put(store, "old", DATA)
    await put(store, "new", b"x")
    with pytest.raises(c.PreconditionFailed):
        await store.copy(("b", "old"), ("b", "new"), CopyOptions(source_conditions=Conditions(if_match=("no",))))
    with pytest.raises(c.PreconditionFailed):
        await store.copy(
            ("b", "old"), ("b", "new"), CopyOptions(source_conditions=Conditions(if_none_match=(info.etag,)))
        )
    with pytest.raises(c.PreconditionFailed):
        await store.copy(("b", "old"), ("b", "new"), CopyOptions(conditions=Conditions(if_none_match=("*",))))
    with pytest.raises(c.NoSuchKey):
        await store.copy(("b", "missing"), ("b", "new"), CopyOptions())
    assert await get(store, "new") == b"x"


# -- leases and tiers


async def test_pin_for_ever_as_a_lease_and_removed(store: Store, clock: ManualClock) -> None:
    info = await put(store, "k", DATA, PutOptions(pin_ms=c.FOREVER_MS))
    assert info.pin_until_ms == c.FOREVER_MS
    info = await store.change("b", "k", ObjectChange(pin_ms=90_000))
    assert info.pin_until_ms == clock.now_ms() + 90_000
    info = await store.change("b", "k", ObjectChange(pin_ms=0))
    assert info.pin_until_ms == 0
    assert await head(store, "k") == info


async def test_pin_above_the_limit_stores_nothing(store: Store, clock: ManualClock) -> None:
    half = bytes(600 << 10)  # two do not fit under the limit of 1 MiB
    await put(store, "one", half, PutOptions(pin_ms=60_000))
    with pytest.raises(c.PinLimit):
        await put(store, "two", half, PutOptions(pin_ms=60_000))
    with pytest.raises(c.NoSuchKey):
        await head(store, "two")
    await put(store, "two", half)
    with pytest.raises(c.PinLimit):
        await store.change("b", "two", ObjectChange(pin_ms=c.FOREVER_MS))
    assert (await head(store, "two")).pin_until_ms == 0
    await store.change("b", "one", ObjectChange(pin_ms=0))
    assert (await store.change("b", "two", ObjectChange(pin_ms=60_000))).pin_until_ms == clock.now_ms() + 60_000


async def test_expired_object_is_gone_at_its_deadline_exactly(store: Store, clock: ManualClock) -> None:
    await put(store, "k", DATA, PutOptions(ttl=c.Ttl(10_000)))
    clock.advance(9.999)
    assert await get(store, "k") == DATA
    assert [key for key, _ in store.list("b", c.ListOptions()).objects] == ["k"]
    clock.advance(0.001)
    with pytest.raises(c.NoSuchKey):
        await get(store, "k")
    assert store.list("b", c.ListOptions()).objects == []
    assert (await store.delete("b", "k")).found is False
    await put(store, "k", b"again", PutOptions(conditions=Conditions(if_none_match=("*",))))


async def test_sliding_ttl_starts_again_at_a_read_but_not_at_a_head(store: Store, clock: ManualClock) -> None:
    await put(store, "k", DATA, PutOptions(ttl=c.Ttl(10_000, sliding=True)))
    clock.advance(8)
    assert await get(store, "k") == DATA
    clock.advance(8)
    await head(store, "k")
    clock.advance(1.999)
    assert (await head(store, "k")).sliding
    clock.advance(0.001)
    with pytest.raises(c.NoSuchKey):
        await head(store, "k")


async def test_absolute_ttl_is_not_moved_by_reads(store: Store, clock: ManualClock) -> None:
    await put(store, "k", DATA, PutOptions(ttl=c.Ttl(10_000)))
    clock.advance(8)
    await get(store, "k")
    clock.advance(2)
    with pytest.raises(c.NoSuchKey):
        await get(store, "k")


async def test_ttl_is_set_and_removed_later(store: Store, clock: ManualClock) -> None:
    await put(store, "k", DATA)
    info = await store.change("b", "k", ObjectChange(ttl=c.Ttl(5000)))
    assert (info.ttl_ms, info.expires_ms) == (5000, clock.now_ms() + 5000)
    info = await store.change("b", "k", ObjectChange(ttl=c.Ttl(0)))
    assert (info.ttl_ms, info.expires_ms, info.sliding) == (0, 0, False)
    clock.advance(60)
    assert await get(store, "k") == DATA


async def test_change_leaves_bytes_etag_and_date_alone(store: Store, clock: ManualClock) -> None:
    old = await put(store, "k", DATA, PutOptions(tags={"a": "1"}))
    clock.advance(3)
    info = await store.change("b", "k", ObjectChange(tags={"b": "2"}, pin_ms=1000))
    assert (info.etag, info.modified_ms, info.generation) == (old.etag, old.modified_ms, old.generation)
    assert info.tags == {"b": "2"}
    with pytest.raises(c.PreconditionFailed):
        await store.change("b", "k", ObjectChange(pin_ms=0, conditions=Conditions(if_match=("no",))))
    with pytest.raises(c.NoSuchKey):
        await store.change("b", "none", ObjectChange(pin_ms=0))


async def test_demoted_object_is_recalled_unchanged(store: Store) -> None:
    old = await put(store, "k", DATA, PutOptions(metadata={"m": "1"}))
    info = await store.change("b", "k", ObjectChange(tier="both"))
    assert info.residency is c.Residency.BOTH
    info = await store.change("b", "k", ObjectChange(tier="cold"))
    assert info.residency is c.Residency.COLD_ONLY
    reading = await settled(store.open("b", "k", HEAD))
    assert reading.tier == "cold"
    assert (reading.info.etag, reading.info.modified_ms, reading.info.crc64) == (old.etag, old.modified_ms, old.crc64)
    assert await get(store, "k") == DATA
    await store.change("b", "k", ObjectChange(tier="cold"))
    info = await store.change("b", "k", ObjectChange(tier="hot"))
    assert info.residency is c.Residency.BOTH
    assert (await settled(store.open("b", "k", HEAD))).tier == "hot"
    assert await get(store, "k", ReadOptions(range=ByteRange(100, 200))) == DATA[100:200]


async def test_range_of_a_cold_object_is_right(store: Store) -> None:
    await put(store, "k", DATA)
    await store.change("b", "k", ObjectChange(tier="cold"))
    assert await get(store, "k", ReadOptions(range=ByteRange(1000, 5000))) == DATA[1000:5000]


async def test_restore_recalls_and_holds(store: Store, clock: ManualClock) -> None:
    await put(store, "k", DATA)
    await store.change("b", "k", ObjectChange(tier="cold"))
    info = await store.change("b", "k", ObjectChange(restore_ms=86_400_000))
    assert info.residency is c.Residency.BOTH
    assert info.restore_until_ms == clock.now_ms() + 86_400_000
    assert info.pin_until_ms == 0


async def test_overwriting_and_deleting_a_cold_object(store: Store) -> None:
    await put(store, "k", DATA)
    await store.change("b", "k", ObjectChange(tier="cold"))
    await put(store, "k", b"new")
    assert await get(store, "k") == b"new"
    await store.change("b", "k", ObjectChange(tier="cold"))
    assert (await store.delete("b", "k")).found is True
    with pytest.raises(c.NoSuchKey):
        await head(store, "k")


async def test_opaque_etag_follows_the_bytes_and_is_no_md5(store: Store) -> None:
    await store.create_bucket(c.BucketInfo(name="kv-bucket", created_ms=0, pool="kv"))
    assert store.bucket("kv-bucket").opaque_etag
    one = await put(store, "1", DATA, bucket="kv-bucket")
    same = await put(store, "2", DATA, bucket="kv-bucket")
    other = await put(store, "3", DATA + b"x", bucket="kv-bucket")
    assert one.etag == same.etag != other.etag
    assert one.etag not in ("", md5(DATA))
    assert '"' not in one.etag


async def test_a_delete_of_nothing_is_conditional_on_an_etag_alone(store: Store) -> None:
    for conditions in (None, Conditions(if_match_size=1), Conditions(if_match_modified_s=1)):
        assert not (await store.delete("b", "k", DeleteOptions(conditions))).found
    with pytest.raises(c.NoSuchKey):
        await store.delete("b", "k", DeleteOptions(Conditions(if_match=("*",))))
