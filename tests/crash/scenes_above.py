"""Scenes of what is done with the tiers: lifecycle rules, webhooks, batches, relaxed pools, rebuilds, each up to its kill.

Kind: shell of the tests. Spec: docs/SEMANTICS.md, "Durability", "Rebuild"; docs/EXTENSIONS.md, "Notifications".
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Final

import lmdb.verify

from gateway.spool import MESSAGE_BYTES_MAX
from s3api import frames, lifecycle, notification
from tests.conformance import steps
from tests.crash.scenes import (
    demoted_before_the_mark,
    recall_landed_before_the_mark,
    region_freed_before_it_is_recycled,
    region_recycled_before_it_is_written,
)
from tests.crash.stage import (
    BUCKET,
    COMMIT,
    DAY_S,
    HOOK,
    Receiver,
    Scene,
    has,
    has_not,
    loses,
    may,
    may_not,
    open_engine,
    rebuild,
    take_back,
    tells,
    walker,
)
from tests.model.world import pattern
from tests.unit.handler_harness import Harness
from tiering import journal
from tiering.contract import (
    BucketChange,
    ObjectChange,
    Origin,
    PutOptions,
)

PAGE: Final = 4096


async def marked(scene: Scene, *rules: str) -> None:
    """Gives the bucket lifecycle rules."""
    body = f"<LifecycleConfiguration>{''.join(rules)}</LifecycleConfiguration>".encode()
    await scene.engine.store.change_bucket(
        BUCKET, BucketChange(documents={"lifecycle": lifecycle.store(lifecycle.parse(body))})
    )


DAY_OLD: Final = """<Rule><ID>1</ID><Status>Enabled</Status><Filter><Prefix>due/</Prefix></Filter>
<Expiration><Days>1</Days></Expiration></Rule>"""


async def due(scene: Scene, count: int) -> None:
    """Objects that a rule ends now, and one that it does not."""
    await marked(scene, DAY_OLD)
    await scene.put("a", 1, 50_000)
    await asyncio.gather(*(steps.put(scene.engine.store, f"due/{each:03}", b"x") for each in range(count)))
    await scene.engine.store.change(BUCKET, "due/001", ObjectChange(tier="cold"))
    for each in range(count):
        loses(f"due/{each:03}")
    scene.engine.clock.advance(3 * DAY_S)


async def lifecycle_deletes_half_of_a_page(scene: Scene) -> None:
    await due(scene, 40)
    scene.die_at(COMMIT, after="delete_object")
    await walker(scene.path, scene.engine).step()


async def lifecycle_deleted_before_the_place_is_kept(scene: Scene) -> None:
    await due(scene, 10)
    scene.die_at("LifecycleDuty._keep_place", "call")
    await walker(scene.path, scene.engine).step()


async def lifecycle_place_written_beside_the_old_one(scene: Scene) -> None:
    await due(scene, 210)
    scene.die_at("Path.write_text", after="LifecycleDuty._keep_place")
    await walker(scene.path, scene.engine).step()


async def lifecycle_place_kept_in_the_middle_of_a_bucket(scene: Scene) -> None:
    await due(scene, 210)
    scene.die_at("LifecycleDuty._keep_place")
    await walker(scene.path, scene.engine).step()


async def watched(scene: Scene) -> Receiver:
    """Two changes of a bucket that a webhook is told of."""
    document = notification.parse(
        f"""<NotificationConfiguration><QueueConfiguration><Queue>arn:minio:sqs::{HOOK}:webhook</Queue>
        <Event>s3:ObjectCreated:*</Event></QueueConfiguration></NotificationConfiguration>""".encode(),
        (HOOK,),
    )
    change = BucketChange(documents={journal.DOCUMENT: notification.store(document)})
    await scene.engine.store.change_bucket(BUCKET, change)
    for each in range(2):
        options = PutOptions(origin=Origin("ObjectCreated:Put"))
        await steps.put(scene.engine.store, f"told/{each}", pattern(1000, each), options)
        has(f"told/{each}", each, 1000)
        tells(f"told/{each}")
    return Receiver(scene.path, scene.engine)


def _long_message() -> bytes:
    """Fills a file of the queue."""
    empty = json.dumps({"Records": [{"s3": {"object": {"key": "filler"}}}], "x": ""}).encode()
    return empty[:-2] + b"x" * (MESSAGE_BYTES_MAX - len(empty)) + empty[-2:]


async def event_queued_before_its_row_goes(scene: Scene) -> None:
    receiver = await watched(scene)
    scene.die_at("PoolJournal.forget", "call")
    await receiver.settle()


async def event_of_whom_the_row_is_gone(scene: Scene) -> None:
    receiver = await watched(scene)
    scene.die_at(COMMIT, after="forget")
    await receiver.settle()


async def event_delivered_before_the_cursor(scene: Scene) -> None:
    receiver = await watched(scene)
    scene.die_at("Spool.advance", "call")
    await receiver.settle()


async def event_delivered_and_the_cursor_advanced(scene: Scene) -> None:
    receiver = await watched(scene)
    scene.die_at("Spool.advance")
    await receiver.settle()


async def queue_begun_in_a_new_file(scene: Scene) -> None:
    """The file is there, and empty."""
    receiver = await watched(scene)
    receiver.spool.append([_long_message()])
    scene.die_at("Spool._open_to_append")
    await receiver.settle()


async def queue_file_read_to_its_end_before_it_goes(scene: Scene) -> None:
    receiver = await watched(scene)
    receiver.spool.append([_long_message()])
    scene.die_at("Path.unlink", "call", after="Spool._end_segment")
    await receiver.settle()


def put_of_many(*entries: tuple[str, bytes]) -> bytes:
    table = json.dumps({"objects": [{"key": key, "size": len(data)} for key, data in entries]}).encode()
    return frames.TABLE.pack(len(table)) + table + b"".join(data for _, data in entries)


MANY: Final = [f"many/{each:02}" for each in range(30)]


async def many(scene: Scene) -> None:
    """Keys that a request over all of them is about to change."""
    for each, key in enumerate(MANY[:10]):
        await scene.put(key, each, 4000)
    for key in MANY[10:]:
        has_not(key)


async def put_many(scene: Scene) -> None:
    """Overwrites the first ten and makes the rest, in one request that is never answered."""
    for each, key in enumerate(MANY):
        may(key, each + 100, 5000)
    body = put_of_many(*((key, pattern(5000, each + 100)) for each, key in enumerate(MANY)))
    await Harness(store=scene.engine.store).request("POST", f"/{BUCKET}?recall=put", {}, body)


async def delete_many(scene: Scene) -> None:
    for key in MANY[:10]:
        may_not(key)
    body = json.dumps({"keys": MANY[:10]}).encode()
    await Harness(store=scene.engine.store).request("POST", f"/{BUCKET}?recall=delete", {}, body)


async def batch_put_half_received(scene: Scene) -> None:
    await many(scene)
    scene.die_at("_Put.receive", count=15)
    await put_many(scene)


async def batch_put_half_in_the_transaction(scene: Scene) -> None:
    await many(scene)
    scene.die_at("put_object", count=15)
    await put_many(scene)


async def batch_put_half_committed(scene: Scene) -> None:
    """The committer takes what has come when it is free: the first commit has some of them, the next the others."""
    await many(scene)
    scene.die_at(COMMIT, after="put_object")
    await put_many(scene)


async def batch_put_committed_before_the_answer(scene: Scene) -> None:
    await many(scene)
    scene.die_at("_outcomes", "call")
    await put_many(scene)


async def batch_delete_half_committed(scene: Scene) -> None:
    await many(scene)
    await scene.engine.store.change(BUCKET, MANY[0], ObjectChange(tier="both"))
    scene.die_at("delete_object", count=5)
    await delete_many(scene)


async def relaxed_put_in_the_transaction_on_the_loop(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    scene.die_at("put_object", after="Committer._commit_here")
    may("a", 2, 60_000)
    await steps.put(scene.engine.store, "a", pattern(60_000, 2))


async def relaxed_put_committed_on_the_loop_before_the_answer(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    has("a", 2, 60_000)
    scene.die_at(COMMIT, after="Committer._commit_here")
    await steps.put(scene.engine.store, "a", pattern(60_000, 2))


async def relaxed_batch_put_half_committed(scene: Scene) -> None:
    """There are more in it than one transaction on the loop takes."""
    await many(scene)
    scene.die_at(COMMIT, after="Committer._commit_here")
    await put_many(scene)


async def relaxed_demoted_before_the_mark(scene: Scene) -> None:
    await demoted_before_the_mark(scene)


async def relaxed_settled_before_the_copy_is_written_over(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="cold"))
    await scene.put("a", 2, 60_000)
    scene.die_at("Pool.settle")
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="cold"))


async def relaxed_settled_before_the_copy_goes(scene: Scene) -> None:
    await scene.put("a", 1, 50_000)
    await scene.engine.store.change(BUCKET, "a", ObjectChange(tier="cold"))
    has_not("a")
    scene.die_at("Pool.settle")
    await scene.engine.store.delete(BUCKET, "a")
    await scene.engine.settle()


async def relaxed_region_freed_before_it_is_recycled(scene: Scene) -> None:
    await region_freed_before_it_is_recycled(scene)


async def relaxed_region_recycled_before_it_is_written(scene: Scene) -> None:
    await region_recycled_before_it_is_written(scene)


async def relaxed_recall_landed_before_the_mark(scene: Scene) -> None:
    await recall_landed_before_the_mark(scene)


async def taken_back_dying_at(scene: Scene, function: str, after: str = "") -> None:
    """A start without the index of a relaxed pool, which may lose what it has not copied."""
    for each, tier in enumerate(("both", "cold", "cold")):
        await scene.put(f"k{each}", each, 40_000)
        await scene.engine.store.change(BUCKET, f"k{each}", ObjectChange(tier=tier))
    await scene.engine.settle()
    await scene.engine.close()
    shutil.rmtree(scene.path / "pools" / "small" / "index")
    engine = await open_engine(scene.path, scene.engine.backing, "relaxed_start")
    scene.die_at(function, after=after)
    await take_back(engine)


async def relaxed_taken_back_by_half(scene: Scene) -> None:
    await taken_back_dying_at(scene, COMMIT, after="_restore")


async def relaxed_taken_back_before_it_is_paid(scene: Scene) -> None:
    await taken_back_dying_at(scene, "paid")


async def damaged(scene: Scene) -> None:
    """An engine that has ended, with objects in every state and an index whose list of free pages is no list: every row can be
    read, and no more may be written."""
    await scene.engine.store.begin_upload(BUCKET, "upload", PutOptions())
    for key, tier in (("both", "both"), ("cold", "cold"), ("gone", "cold")):
        await scene.put(key, 2, 40_000)
        await scene.engine.store.change(BUCKET, key, ObjectChange(tier=tier))
    await scene.engine.stop_keeper()
    await scene.fill(12, 20_000)  # which stay hot-only
    await scene.engine.store.delete(BUCKET, "gone")
    has_not("gone")
    await scene.engine.close()
    lose_the_free_pages(scene.path / "pools" / "small" / "index" / "data.mdb")


def lose_the_free_pages(data: Path) -> None:
    with open(data, "r+b") as file:
        walk = lmdb.verify._Verifier(file, data.stat().st_size)
        assert walk.verify() == []
        file.seek(walk.meta.free.root * PAGE + PAGE // 2)
        file.write(bytes(PAGE // 2))


async def rebuild_dying_at(scene: Scene, function: str, event: str = "return", after: str = "", count: int = 1) -> None:
    await damaged(scene)
    scene.die_at(function, event, after, count)
    await asyncio.to_thread(rebuild, scene.path)


async def rebuild_with_the_index_set_aside(scene: Scene) -> None:
    await rebuild_dying_at(scene, "_set_aside")


async def rebuild_with_a_new_index_of_no_shape(scene: Scene) -> None:
    await rebuild_dying_at(scene, "Index.__init__")


async def rebuild_with_a_new_index(scene: Scene) -> None:
    await rebuild_dying_at(scene, COMMIT, after="_adopt_shape")


async def rebuild_with_the_deletions(scene: Scene) -> None:
    await rebuild_dying_at(scene, COMMIT, after="owed_deletions")


async def rebuild_with_half_of_what_the_backing_store_has(scene: Scene) -> None:
    await rebuild_dying_at(scene, COMMIT, after="_restore")


async def rebuild_with_all_the_backing_store_has(scene: Scene) -> None:
    await rebuild_dying_at(scene, "restore", "call")


async def rebuild_with_half_of_what_was_only_on_flash(scene: Scene) -> None:
    await rebuild_dying_at(scene, COMMIT, after="restore", count=6)


async def rebuild_before_it_is_paid(scene: Scene) -> None:
    await rebuild_dying_at(scene, "paid")


async def rebuild_paid(scene: Scene) -> None:
    await rebuild_dying_at(scene, COMMIT, after="paid")


SCENES: Final = (
    lifecycle_deletes_half_of_a_page,
    lifecycle_deleted_before_the_place_is_kept,
    lifecycle_place_written_beside_the_old_one,
    lifecycle_place_kept_in_the_middle_of_a_bucket,
    event_queued_before_its_row_goes,
    event_of_whom_the_row_is_gone,
    event_delivered_before_the_cursor,
    event_delivered_and_the_cursor_advanced,
    queue_begun_in_a_new_file,
    queue_file_read_to_its_end_before_it_goes,
    batch_put_half_received,
    batch_put_half_in_the_transaction,
    batch_put_half_committed,
    batch_put_committed_before_the_answer,
    batch_delete_half_committed,
    relaxed_put_in_the_transaction_on_the_loop,
    relaxed_put_committed_on_the_loop_before_the_answer,
    relaxed_batch_put_half_committed,
    relaxed_demoted_before_the_mark,
    relaxed_settled_before_the_copy_is_written_over,
    relaxed_settled_before_the_copy_goes,
    relaxed_region_freed_before_it_is_recycled,
    relaxed_region_recycled_before_it_is_written,
    relaxed_recall_landed_before_the_mark,
    relaxed_taken_back_by_half,
    relaxed_taken_back_before_it_is_paid,
    rebuild_with_the_index_set_aside,
    rebuild_with_a_new_index_of_no_shape,
    rebuild_with_a_new_index,
    rebuild_with_the_deletions,
    rebuild_with_half_of_what_the_backing_store_has,
    rebuild_with_all_the_backing_store_has,
    rebuild_with_half_of_what_was_only_on_flash,
    rebuild_before_it_is_paid,
    rebuild_paid,
)
