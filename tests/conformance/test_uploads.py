"""Every store is a store: multipart uploads."""

from __future__ import annotations

import hashlib

import pytest
from awscrt.checksums import crc64nvme

from tests.conformance.steps import get, head, md5, put, put_part
from tests.support.clock import ManualClock
from tiering import contract as c
from tiering.contract import CompleteOptions, Conditions, PartClaim, PendingOptions, PutOptions, ReadOptions, Store

PARTS = [hashlib.shake_128(b"%d" % n).digest(c.PART_BYTES_MIN) for n in range(2)] + [b"the last part is short"]


async def begun(store: Store, key: str = "k", options: PutOptions | None = None) -> str:
    return (await store.begin_upload("b", key, options or PutOptions())).upload_id


async def full(store: Store, options: PutOptions | None = None) -> tuple[str, list[PartClaim]]:
    """An upload with three good parts, and the claims that complete it."""
    upload_id = await begun(store, options=options)
    stored = [await put_part(store, "k", upload_id, n, data) for n, data in enumerate(PARTS, start=1)]
    return upload_id, [PartClaim(part.number, part.etag) for part in stored]


async def test_completed_parts_are_one_object(store: Store, clock: ManualClock) -> None:
    options = PutOptions(content_type="x/y", metadata={"m": "1"}, tags={"t": "1"}, ttl=c.Ttl(60_000), pin_ms=0)
    upload_id, claims = await full(store, options)
    clock.advance(2)
    info = await store.complete_upload("b", "k", upload_id, claims, CompleteOptions("etag-3"))
    whole = b"".join(PARTS)
    assert (info.size, info.etag, info.crc64) == (len(whole), "etag-3", crc64nvme(whole))
    assert (info.content_type, info.metadata, info.tags) == ("x/y", {"m": "1"}, {"t": "1"})
    assert info.modified_ms == clock.now_ms()
    assert info.expires_ms == clock.now_ms() + 60_000
    assert [(part.number, part.size) for part in info.parts] == [(n, len(p)) for n, p in enumerate(PARTS, start=1)]
    assert await get(store, "k") == whole
    assert await get(store, "k", ReadOptions(part_number=2)) == PARTS[1]
    at = len(PARTS[0]) - 5
    assert await get(store, "k", ReadOptions(range=c.ByteRange(at, at + 10))) == whole[at : at + 10]
    with pytest.raises(c.InvalidPartNumber):
        await get(store, "k", ReadOptions(part_number=4))
    with pytest.raises(c.NoSuchUpload):
        store.upload("b", "k", upload_id)


async def test_completing_twice_answers_the_object_again(store: Store) -> None:
    options = CompleteOptions("etag-3", conditions=Conditions(if_none_match=("*",)))
    upload_id, claims = await full(store)
    first = await store.complete_upload("b", "k", upload_id, claims, options)
    again = await store.complete_upload("b", "k", upload_id, claims, options)
    assert again == first
    with pytest.raises(c.NoSuchUpload):
        await store.complete_upload("b", "k", upload_id, claims[:1], CompleteOptions("another-1"))


async def test_completed_object_survives_demotion_with_its_parts(store: Store) -> None:
    upload_id, claims = await full(store)
    first = await store.complete_upload("b", "k", upload_id, claims, CompleteOptions("etag-3"))
    info = await store.change("b", "k", c.ObjectChange(tier="cold"))
    assert (info.etag, info.parts, info.modified_ms) == (first.etag, first.parts, first.modified_ms)
    assert await get(store, "k", ReadOptions(part_number=3)) == PARTS[2]
    assert await get(store, "k") == b"".join(PARTS)


async def test_parts_are_listed_replaced_and_left_out(store: Store) -> None:
    upload_id = await begun(store)
    for number, data in ((5, b"five"), (1, b"one"), (9, b"nine"), (1, b"uno")):
        part = await put_part(store, "k", upload_id, number, data)
        assert (part.number, part.size, part.etag) == (number, len(data), md5(data))
    parts = store.parts("b", "k", upload_id)
    assert [(part.number, part.etag) for part in parts] == [(1, md5(b"uno")), (5, md5(b"five")), (9, md5(b"nine"))]
    assert [part.number for part in store.parts("b", "k", upload_id, after=1, limit=1)] == [5]
    await store.complete_upload("b", "k", upload_id, [PartClaim(5, md5(b"five"))], CompleteOptions("e-1"))
    assert await get(store, "k") == b"five"
    assert await get(store, "k", ReadOptions(part_number=5)) == b"five"


async def test_empty_part_alone_makes_an_empty_object(store: Store) -> None:
    upload_id = await begun(store)
    part = await put_part(store, "k", upload_id, 1, b"")
    info = await store.complete_upload("b", "k", upload_id, [PartClaim(1, part.etag)], CompleteOptions("e-1"))
    assert info.size == 0
    assert await get(store, "k") == b""


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda claims: [claims[1], claims[0]], c.InvalidPartOrder),
        (lambda claims: [claims[0], claims[0]], c.InvalidPartOrder),
        (lambda claims: [], c.InvalidPart),
        (lambda claims: [*claims, PartClaim(4, "x")], c.InvalidPart),
        (lambda claims: [PartClaim(1, "wrong"), *claims[1:]], c.InvalidPart),
        (lambda claims: [PartClaim(1, claims[0].etag, c.Checksum("CRC32", "AAAAAA=="))], c.InvalidPart),
    ],
    ids=["order", "twice", "none", "missing", "etag", "checksum"],
)
async def test_wrong_claims_are_refused_and_leave_the_upload(store: Store, change, error) -> None:  # type: ignore[no-untyped-def]
    upload_id, claims = await full(store)
    with pytest.raises(error):
        await store.complete_upload("b", "k", upload_id, change(claims), CompleteOptions("e"))
    with pytest.raises(c.NoSuchKey):
        await head(store, "k")
    assert len(store.parts("b", "k", upload_id)) == 3


async def test_small_part_before_the_last_is_refused(store: Store) -> None:
    upload_id = await begun(store)
    claims = [PartClaim(n, (await put_part(store, "k", upload_id, n, b"small")).etag) for n in (1, 2)]
    with pytest.raises(c.PartTooSmall) as caught:
        await store.complete_upload("b", "k", upload_id, claims, CompleteOptions("e"))
    assert caught.value.facts == {"number": 1, "size": 5, "etag": claims[0].etag}


async def test_stated_size_must_be_the_sum(store: Store) -> None:
    upload_id, claims = await full(store)
    size = sum(map(len, PARTS))
    with pytest.raises(c.SizeMismatch):
        await store.complete_upload("b", "k", upload_id, claims, CompleteOptions("e", object_size=size - 1))
    await store.complete_upload("b", "k", upload_id, claims, CompleteOptions("e", object_size=size))


async def test_completion_is_conditional(store: Store) -> None:
    upload_id, claims = await full(store)
    await put(store, "k", b"stands")
    with pytest.raises(c.PreconditionFailed):
        await store.complete_upload(
            "b", "k", upload_id, claims, CompleteOptions("e", conditions=Conditions(if_none_match=("*",)))
        )
    assert await get(store, "k") == b"stands"


async def test_aborted_and_foreign_uploads_are_unknown(store: Store) -> None:
    upload_id = await begun(store)
    await put_part(store, "k", upload_id, 1, b"x")
    for key, named in (("other", upload_id), ("k", "0" * 32), ("k", "nonsense")):
        with pytest.raises(c.NoSuchUpload):
            store.upload("b", key, named)
        with pytest.raises(c.NoSuchUpload):
            store.parts("b", key, named)
        with pytest.raises(c.NoSuchUpload):
            await put_part(store, key, named, 1, b"x")
        with pytest.raises(c.NoSuchUpload):
            await store.complete_upload("b", key, named, [PartClaim(1, "x")], CompleteOptions("e"))
        with pytest.raises(c.NoSuchUpload):
            await store.abort_upload("b", key, named)
    await store.abort_upload("b", "k", upload_id)
    with pytest.raises(c.NoSuchUpload):
        store.parts("b", "k", upload_id)
    with pytest.raises(c.NoSuchKey):
        await head(store, "k")


async def test_upload_remembers_what_it_was_begun_with(store: Store, clock: ManualClock) -> None:
    options = PutOptions(metadata={"m": "1"}, storage_class="STANDARD_IA")
    upload = await store.begin_upload("b", "k", options, "CRC32", "COMPOSITE")
    seen = store.upload("b", "k", upload.upload_id)
    assert seen == upload
    assert (seen.bucket, seen.key, seen.initiated_ms) == ("b", "k", clock.now_ms())
    assert (seen.checksum_algorithm, seen.checksum_kind) == ("CRC32", "COMPOSITE")
    assert dict(seen.options.metadata) == {"m": "1"}


async def test_pending_uploads_are_paged(store: Store, clock: ManualClock) -> None:
    begun_ids = []
    for key in ("a", "k", "k", "k", "p/1", "p/2"):
        begun_ids.append((key, await begun(store, key)))
        clock.advance(1)
    page = store.pending("b", PendingOptions())
    assert [(upload.key, upload.upload_id) for upload in page.uploads] == begun_ids
    assert not page.truncated
    for limit in (1, 2, 4):
        seen: list[tuple[str, str]] = []
        key = upload_id = ""
        for _ in range(20):
            page = store.pending("b", PendingOptions(key_after=key, upload_id_after=upload_id, limit=limit))
            assert len(page.uploads) <= limit
            seen += [(upload.key, upload.upload_id) for upload in page.uploads]
            if not page.truncated:
                break
            key, upload_id = page.next_key, page.next_upload_id
        assert seen == begun_ids
    page = store.pending("b", PendingOptions(delimiter="/"))
    assert ([upload.key for upload in page.uploads], list(page.prefixes)) == (["a", "k", "k", "k"], ["p/"])
    page = store.pending("b", PendingOptions(prefix="p/"))
    assert [upload.key for upload in page.uploads] == ["p/1", "p/2"]
    page = store.pending("b", PendingOptions(key_after="k"))
    assert [upload.key for upload in page.uploads] == ["p/1", "p/2"]
