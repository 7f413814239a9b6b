"""Scenes of the tiers: writes, demotion, eviction, recall, scrub, each up to the point where it is killed.

Kind: shell of the tests. Spec: docs/SEMANTICS.md, "Durability".
"""

from __future__ import annotations

import asyncio
from typing import Final

from tests.conformance import steps
from tests.crash.stage import (
    BUCKET,
    COMMIT,
    Scene,
    die,
    has,
    has_not,
)
from tests.model.world import pattern
from tests.support.engine import REGION
from tiering import events, journal, layout
from tiering.backing import keys
from tiering.contract import (
    BucketChange,
    BucketInfo,
    ByteRange,
    CompleteOptions,
    CopyOptions,
    DeleteOptions,
    ObjectChange,
    PartClaim,
    PutOptions,
    PutResult,
    ReadOptions,
    RenameOptions,
    Ttl,
)
from tiering.duties.coldscrub import ColdScrubDuty
from tiering.duties.scrub import ScrubDuty, ScrubRates
from tiering.space import Space


async def data_written(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    writer = await steps.settled(scene.engine.store.put(BUCKET, "a", 50_000, PutOptions()))
    await steps.settled(writer.write(pattern(50_000, 2)))
    die()


async def index_committed(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    await scene.put("a", 2, 150_000)
    die()


async def half_of_a_long_put(scene: Scene) -> None:
    await scene.put("a", 1, 1000)
    writer = await steps.settled(scene.engine.store.put(BUCKET, "a", 900_000, PutOptions()))
    await steps.settled(writer.write(pattern(500_000, 2)))
    die()


async def demoted_before_the_mark(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    scene.die_after("put", "/a")
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="cold"))


async def overwritten_while_demoted(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    scene.die_after("put", "/a")
    scene.engine.wake()
    pool, okey = scene.engine.pools["small"], layout.object_key(1, "a")
    await scene.put("a", 2, 60_000)
    record = pool.index.get_object(okey)
    assert record is not None
    await scene.engine.demoter.demote(pool, okey, record.generation)


async def part_demoted_before_the_mark(scene: Scene) -> None:
    await scene.put("a", 1, 1000)
    upload = await scene.engine.store.begin_upload(BUCKET, "a", PutOptions())
    await steps.put_part(scene.engine.store, "a", upload.upload_id, 1, pattern(50_000, 2))
    scene.die_after("put", "pieces")
    await scene.engine.demoter.demote_part(scene.engine.pools["small"], layout.part_key(upload.upload_id, 1))


async def between_evict_marks(scene: Scene) -> None:
    await scene.fill(20, 20_000)
    await scene.engine.store.change(BUCKET, "fill/0", ObjectChange(tier="both"))
    await scene.evict_dying_at(events.EVICTED, 2).step()


async def survivor_copied_before_the_mark(scene: Scene) -> None:
    await scene.fill(20, 20_000)
    for each in range(2):  # not all of its region: that would stay as it is
        await steps.get(scene.engine.store, f"fill/{each}")
    await scene.evict_dying_at(events.SURVIVED, 2).step()


async def tombstone_carried_out_before_its_row_is_gone(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="cold"))
    scene.die_after("delete", "/a")
    await scene.engine.store.delete(BUCKET, "a")
    has_not("a")
    await scene.engine.settle()


async def recall_under_way(scene: Scene) -> None:
    await scene.put("a", 1, 300_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="cold"))
    reading = await steps.settled(scene.engine.store.open(BUCKET, "a", ReadOptions(range=ByteRange(0, 10))))
    await steps.content(reading)
    die()


async def note_written_before_the_mark(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="both"))
    scene.die_after("put", "/a%!")
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tags={"a": "b"}))
    await scene.engine.settle()


async def renamed_and_copied_before_the_mark(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="cold"))
    scene.die_after("put", "/renamed")
    await scene.engine.store.rename(BUCKET, "a", "renamed", RenameOptions())
    has("renamed", 1, 50_000)
    has_not("a")
    await scene.engine.settle()


async def marker_copied_before_the_mark(scene: Scene) -> None:
    await scene.engine.store.change_bucket(BUCKET, BucketChange(versioning="Enabled"))
    await scene.put("a", 1, 50_000)
    await scene.engine.settle()
    scene.die_after("put", "/a%@")
    await scene.engine.store.delete(BUCKET, "a")
    has_not("a")
    await scene.engine.settle()


async def older_version_made_current(scene: Scene) -> None:
    await scene.engine.store.change_bucket(BUCKET, BucketChange(versioning="Enabled"))
    await scene.put("a", 1, 50_000)
    info = await steps.put(scene.engine.store, "a", pattern(60_000, 2))
    await scene.engine.settle()
    scene.die_after("delete", "/a%@")
    await scene.engine.store.delete(BUCKET, "a", DeleteOptions(version=info.version))
    has("a", 1, 50_000)
    await scene.engine.settle()


async def flash_synced_before_the_index(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    scene.die_at("Flash.sync", after="BodyWriter.commit")
    await steps.put(scene.engine.store, "a", pattern(50_000, 2))


async def index_committed_before_the_answer(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    has("a", 2, 60_000)
    scene.die_at(COMMIT, after="put_object")
    await steps.put(scene.engine.store, "a", pattern(60_000, 2))


async def long_put_completed_before_the_answer(scene: Scene) -> None:
    await scene.put("a", 1, 1000)
    has("a", 2, 900_000)
    scene.die_at(COMMIT, after="complete_upload")
    await steps.put(scene.engine.store, "a", pattern(900_000, 2))


async def append_written_before_the_index(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    scene.die_at("Flash.sync", after="BodyWriter.commit")
    await steps.put(scene.engine.store, "a", pattern(30_000, 2), PutOptions(append_at=50_000), result=PutResult("x"))


async def copy_shared_before_the_answer(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    has("b", 1, 50_000)
    scene.die_at(COMMIT, after="share_object")
    await scene.engine.store.copy((BUCKET, "a"), (BUCKET, "b"), CopyOptions())


async def delete_committed_before_the_answer(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="both"))
    has_not("a")
    scene.die_at(COMMIT, after="delete_object")
    await scene.engine.store.delete(BUCKET, "a")


async def rename_committed_before_the_answer(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="both"))
    has("b", 1, 50_000)
    has_not("a")
    scene.die_at(COMMIT, after="rename_object")
    await scene.engine.store.rename(BUCKET, "a", "b", RenameOptions())


async def upload_of(scene: Scene, key: str) -> tuple[str, list[PartClaim]]:
    upload = await scene.engine.store.begin_upload(BUCKET, key, PutOptions())
    part = await steps.put_part(scene.engine.store, key, upload.upload_id, 1, pattern(70_000, 2))
    return upload.upload_id, [PartClaim(1, part.etag)]


async def upload_completed_before_the_answer(scene: Scene) -> None:
    await scene.put("a", 1, 1000)
    upload_id, claims = await upload_of(scene, "a")
    has("a", 2, 70_000)
    scene.die_at(COMMIT, after="complete_upload")
    await scene.engine.store.complete_upload(BUCKET, "a", upload_id, claims, CompleteOptions("e-1"))


async def upload_judged_before_the_index(scene: Scene) -> None:
    await scene.put("a", 1, 1000)
    upload_id, claims = await upload_of(scene, "a")
    scene.die_at("complete_upload")
    await scene.engine.store.complete_upload(BUCKET, "a", upload_id, claims, CompleteOptions("e-1"))


async def manifest_written_before_the_mark(scene: Scene) -> None:
    upload_id, claims = await upload_of(scene, "a")
    await scene.engine.demoter.demote_part(scene.engine.pools["small"], layout.part_key(upload_id, 1))
    has("a", 2, 70_000)
    scene.die_after("put", "/a")
    await scene.engine.store.complete_upload(BUCKET, "a", upload_id, claims, CompleteOptions("e-1"))
    await scene.engine.settle()


async def tombstone_set_before_the_copy(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    scene.die_at("ColdSide.store", "call")
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="both"))


async def demoted_before_the_hot_copy_goes(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    scene.die_at(COMMIT, after="demoted")
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="cold"))


async def evicted_before_the_order_goes(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    scene.die_at(COMMIT, after="evicted")
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="cold"))


async def region_claimed_before_it_is_written(scene: Scene) -> None:
    await scene.put("a", 1, 1000)
    scene.die_at(COMMIT, after="Batch.claim_region")
    await scene.fill(20, 20_000)


async def region_sealed(scene: Scene) -> None:
    await scene.put("a", 1, 1000)
    scene.die_at(COMMIT, after="Batch.seal_region")
    await scene.fill(20, 20_000)


async def region_given_up_by_a_writer_that_rests(scene: Scene) -> None:
    await scene.put("a", 1, 1000)
    pool = scene.engine.pools["small"]
    others = Space(pool.committer, pool.flash, 2, scene.engine.wake, 5.0)
    scene.die_at(COMMIT, after="Space.give_up")
    for _ in range(pool.flash.regions):
        others.give_back(await others.reserve_waiting(REGION))


async def region_freed_before_it_is_recycled(scene: Scene) -> None:
    await scene.fill(20, 20_000)
    scene.die_at(COMMIT, after="Batch.free_region")
    await scene.evict_dying_at("", 1).step()


async def region_recycled_before_it_is_written(scene: Scene) -> None:
    await scene.fill(20, 20_000)
    duty = scene.evict_dying_at("", 1)
    await duty.step()
    scene.die_at(COMMIT, after="Batch.recycle")
    for _ in range(50):
        await asyncio.sleep(0.005)
        await duty.step()


async def survivors_marked_before_their_region_is_freed(scene: Scene) -> None:
    await scene.fill(20, 20_000)
    for each in range(2):
        await steps.get(scene.engine.store, f"fill/{each}")
    scene.die_at("_free_if_empty", "call")
    await scene.evict_dying_at("", 1).step()


async def recall_landed_before_the_mark(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="cold"))
    scene.die_at("recalled", "call")
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="hot"))


async def restored_before_the_answer(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="cold"))
    scene.die_at(COMMIT, after="recalled")
    await scene.engine.store.change(BUCKET, "a", ObjectChange(restore_ms=60_000))


async def tombstone_taken_before_the_answer(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="cold"))
    has_not("a")
    scene.die_at(COMMIT, after="_unbury")
    await scene.engine.store.delete(BUCKET, "a")
    await scene.engine.settle()


async def expired_before_its_copy_goes(scene: Scene) -> None:
    await steps.put(scene.engine.store, "a", pattern(50_000, 1), PutOptions(ttl=Ttl(1000)))
    await scene.put("b", 2, 1000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="cold"))
    scene.engine.clock.advance(2)
    scene.die_at(COMMIT, after="expire_due")
    await scene.engine.settle()


async def retag_committed_before_its_note(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="both"))
    scene.die_at("Demoter.write_note", "call")
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tags={"a": "b"}))
    await scene.engine.settle()


async def note_marked(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="both"))
    scene.die_at(COMMIT, after="noted")
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tags={"a": "b"}))
    await scene.engine.settle()


async def version_made_before_the_answer(scene: Scene) -> None:
    await scene.engine.store.change_bucket(BUCKET, BucketChange(versioning="Enabled"))
    await scene.put("a", 1, 50_000)
    has("a", 2, 60_000)
    scene.die_at(COMMIT, after="retire")
    await steps.put(scene.engine.store, "a", pattern(60_000, 2))


async def event_recorded_before_the_answer(scene: Scene) -> None:
    await scene.engine.store.change_bucket(BUCKET, BucketChange(documents={journal.DOCUMENT: "{}"}))
    has("a", 1, 50_000)
    scene.die_at(COMMIT, after="put_object")
    await steps.put(scene.engine.store, "a", pattern(50_000, 1))


async def bucket_written_before_the_mark(scene: Scene) -> None:
    await scene.put("a", 1, 1000)
    scene.die_after("put", "buckets/other")
    await scene.engine.store.create_bucket(BucketInfo(name="other", created_ms=1, pool=""))
    await scene.engine.settle()


async def bucket_gone_before_its_record(scene: Scene) -> None:
    await scene.put("a", 1, 1000)
    await scene.engine.store.create_bucket(BucketInfo(name="other", created_ms=1, pool=""))
    await scene.engine.settle()
    scene.die_at(COMMIT, after="delete_bucket")
    await scene.engine.store.delete_bucket("other")


async def rotten(scene: Scene, side: str) -> None:
    """An object in both tiers, one of whose copies is damaged, and a scrub under way."""
    await scene.put("a", 1, 50_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="both"))
    pool = scene.engine.pools["small"]
    if side == "flash":
        record = pool.index.get_object(layout.object_key(1, "a"))
        assert record is not None
        extent = record.extents[0]
        pool.flash.write(extent.region, extent.offset, bytes(100))
    else:
        await scene.engine.backing.delete(keys.cold_key(BUCKET, "a"))


async def damaged_hot_copy_dropped(scene: Scene) -> None:
    await rotten(scene, "flash")
    scene.die_at(COMMIT, after="evicted")
    engine = scene.engine
    await ScrubDuty(engine.pools["small"], engine.buckets, engine.cold, ScrubRates(1)).whole_pass()


async def lost_copy_written_again_before_the_mark(scene: Scene) -> None:
    await rotten(scene, "cold")
    scene.die_after("put", "/a")
    engine = scene.engine
    duty = ColdScrubDuty(engine.pools["small"], engine.buckets, engine.cold, engine.demoter, ScrubRates(1))
    await duty.whole_pass()
    await engine.settle()


SCENES: Final = (
    data_written,
    index_committed,
    half_of_a_long_put,
    demoted_before_the_mark,
    overwritten_while_demoted,
    part_demoted_before_the_mark,
    between_evict_marks,
    survivor_copied_before_the_mark,
    tombstone_carried_out_before_its_row_is_gone,
    recall_under_way,
    note_written_before_the_mark,
    renamed_and_copied_before_the_mark,
    marker_copied_before_the_mark,
    older_version_made_current,
    flash_synced_before_the_index,
    index_committed_before_the_answer,
    long_put_completed_before_the_answer,
    append_written_before_the_index,
    copy_shared_before_the_answer,
    delete_committed_before_the_answer,
    rename_committed_before_the_answer,
    upload_completed_before_the_answer,
    upload_judged_before_the_index,
    manifest_written_before_the_mark,
    tombstone_set_before_the_copy,
    demoted_before_the_hot_copy_goes,
    evicted_before_the_order_goes,
    region_claimed_before_it_is_written,
    region_sealed,
    region_given_up_by_a_writer_that_rests,
    region_freed_before_it_is_recycled,
    region_recycled_before_it_is_written,
    survivors_marked_before_their_region_is_freed,
    recall_landed_before_the_mark,
    restored_before_the_answer,
    tombstone_taken_before_the_answer,
    expired_before_its_copy_goes,
    retag_committed_before_its_note,
    note_marked,
    version_made_before_the_answer,
    event_recorded_before_the_answer,
    bucket_written_before_the_mark,
    bucket_gone_before_its_record,
    damaged_hot_copy_dropped,
    lost_copy_written_again_before_the_mark,
)
