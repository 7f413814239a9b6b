"""The events of buckets that somebody watches: recorded in the transaction of the change, delivered by the keeper later.

Promise: an event is recorded exactly when its change is committed, in the order of the changes; a bucket without a
notification document costs one comparison a change. What nobody takes is dropped, oldest first, beyond EVENTS_MAX.
Owns nothing: events are rows. Does not know who is told, or how. Kind: pure functions of a Batch or View.
Spec: AWS "Event notification types and destinations".
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

from tiering import layout
from tiering.contract import EventRecord, ObjectInfo, Origin, event_of
from tiering.index import Batch, View
from tiering.layout import BucketRecord

EVENTS_MAX: Final = 1 << 20
"""Events a pool keeps for a receiver that is away: some hundred bytes each."""
DOCUMENT: Final = "notification"
"""The bucket document that has its changes recorded."""

PIN: Final = Origin("ObjectRecall:Pin")
DEMOTE: Final = Origin("ObjectRecall:Demote")
EVICT: Final = Origin("ObjectRecall:Evict")
RECALL: Final = Origin("ObjectRecall:Recall")
RESTORED: Final = Origin("ObjectRestore:Completed")
RESTORE_ENDED: Final = Origin("ObjectRestore:Delete")
EXPIRE: Final = Origin("LifecycleExpiration:Delete")
"""What the engine does of itself."""


def record(batch: Batch, okey: bytes, info: ObjectInfo, origin: Origin | None, now_ms: int) -> None:
    """Records a change of the object under `okey` if its bucket is watched; `info`: as for `event_of`."""
    counters = batch.counters()
    if not counters.watched or origin is None:
        return
    name = batch.get("watched", layout.number_key(okey))
    bucket = None if name is None else batch.bucket(name.decode())
    if bucket is None:
        return
    if batch.count("events") >= EVENTS_MAX:
        oldest = batch.first("events")
        assert oldest is not None
        batch.delete("events", oldest[0])
    counters.event += 1
    row = event_of(origin, bucket.name, layout.split_object_key(okey)[1], info, now_ms, bucket.created_ms)
    batch.put("events", layout.u64_key(counters.event), layout.EVENT.encode(row))


def record_bucket(batch: Batch, bucket: BucketRecord, origin: Origin | None, now_ms: int) -> None:
    """As `record`, of a change of the bucket itself: an event without a key. After `watch`."""
    blank = ObjectInfo(generation=0, size=0, modified_ms=0, etag="", crc64=0)
    record(batch, layout.bucket_prefix(bucket.number), blank, origin, now_ms)


def watch(batch: Batch, bucket: BucketRecord, gone: bool = False) -> None:
    """Notes whether a bucket is watched, after it was made, changed or deleted."""
    key = layout.number_key(layout.bucket_prefix(bucket.number))
    wanted = DOCUMENT in bucket.documents and not gone
    if (batch.get("watched", key) is not None) == wanted:
        return
    batch.counters().watched += 1 if wanted else -1
    if wanted:
        batch.put("watched", key, bucket.name.encode())
    else:
        batch.delete("watched", key)


def oldest(view: View, limit: int) -> list[tuple[bytes, EventRecord]]:
    """The first events that wait, with their keys for `forget`."""
    return [(key, layout.EVENT.decode(value)) for key, value in itertools.islice(view.rows("events"), limit)]


def forget(batch: Batch, keys: Sequence[bytes]) -> None:
    """Takes events away that were delivered, or that nobody wants."""
    for key in keys:
        batch.delete("events", key)
