"""One pool: an index, a flash file, heat, epochs, a committer and this process's room in it, put together.

Promise: after `open_pool` (and `recover`, which the keeper runs before any worker starts) every acknowledged record is
readable and every region is accounted for.
Owns the life of its parts. Does not know buckets' pools, S3 or the backing store.
Kind: owner; one per process and pool. Spec: docs/ARCHITECTURE.md, "Pools"; docs/SEMANTICS.md, "Durability".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import msgspec

from tiering import board, device, layout, whole
from tiering.committer import Committer
from tiering.contract import Busy, Clock, ObjectInfo, PinLimit, TierFull
from tiering.epochs import Epochs
from tiering.flash import Flash
from tiering.folder import make_folder, sync_folder
from tiering.heat import Heat
from tiering.held import Held
from tiering.index import Batch, Index, IndexCorrupt, View
from tiering.layout import Counters, ObjectRecord, RegionState
from tiering.readers import LongReaders
from tiering.space import KEEPER_REGIONS, Space

REGION_BYTES_MAX: Final = 64 << 20
REGION_BYTES_MIN: Final = 64 << 10
REGIONS_MIN: Final = 16
"""Fewer leave no room for the writers, the keeper's survivors and regions that wait for readers, all at once."""

ROOM_POLL_S: Final = 0.01
GENERATION_SHIFT: Final = 12
"""A new pool counts generations from the time in ms, shifted by this: whatever a lost index has counted and the backing store
still knows is older, unless more than 4,096 were taken a millisecond."""
_OWED: Final = b"owed"

_log = logging.getLogger("recall.pool")


class PoolConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A pool's shape and rules; see docs/OPERATIONS.md for each."""

    name: str
    path: Path
    capacity_bytes: int
    region_bytes: int = 0  # 0: chosen from the capacity
    durability: Literal["relaxed", "flash", "backing"] = "flash"
    opaque_etag: bool = False
    demote: Literal["eager", "pressure", "never"] = "eager"
    demote_after_ms: int = 0
    pin_fraction_max: float = 0.5
    dirty_fraction_max: float = 0.75
    space_wait_s: float = 5.0
    free_regions_low: int = 0  # 0: chosen from the number of regions
    bucket_patterns: tuple[str, ...] = ()


class PoolShape(msgspec.Struct, frozen=True):
    """What is fixed when the pool is made, kept in its index."""

    version: int
    region_bytes: int
    regions: int


def region_bytes_for(capacity_bytes: int) -> int:
    """The largest power of two up to REGION_BYTES_MAX that still gives 64 regions, at least REGION_BYTES_MIN."""
    size = REGION_BYTES_MAX
    while size > REGION_BYTES_MIN and capacity_bytes // size < 64:
        size //= 2
    return size


class Pool:
    """The open parts of one pool. Built by `open_pool`."""

    def __init__(
        self,
        config: PoolConfig,
        index: Index,
        flash: Flash,
        heat: Heat,
        committer: Committer,
        space: Space,
        clock: Clock,
    ) -> None:
        self.config = config
        self.index = index
        self.flash = flash
        self.heat = heat
        self.committer = committer
        self.space = space
        self.clock = clock
        self.epochs = Epochs(index, LongReaders(config.path, space.slot))
        self.capacity_bytes = flash.region_bytes * flash.regions
        self.room_bytes = self.capacity_bytes - flash.region_bytes * (KEEPER_REGIONS + 1)
        """What pinned objects may take at most: the keeper's regions, and one to write to, are never theirs."""
        self.pinned_bytes_max = int(self.capacity_bytes * config.pin_fraction_max)
        self.dirty_bytes_max = int(self.capacity_bytes * config.dirty_fraction_max)
        self.stream_bytes = self.capacity_bytes // 4
        """A PUT longer than this is stored piece by piece, so that it never needs this much room at once."""
        self.held = Held()
        """Since too much waits for demotion."""
        self._touches: dict[int, tuple[bytes, int]] = {}
        self._settling = asyncio.Lock()
        self._settled = 0

    def close(self) -> None:
        self.space.close()
        self.epochs.close()
        self.committer.close()
        self.index.close()
        self.flash.close()
        self.heat.close()

    # -- the device ----------------------------------------------------------------------------------------------

    @property
    def failed(self) -> bool:
        """Whether the device has lost a write of this process, which therefore acknowledges no other; see `is_over`."""
        return self.flash.failed or self.index.failed

    def is_over(self) -> bool:
        """Whether a new process would do better in this pool than this one. May wait for the device.

        Without its index a process serves nothing. One that only lost bytes on flash serves reads, so it stays until the
        device keeps writes again.
        """
        return self.index.failed or (self.flash.failed and device.keeps_writes(self.config.path))

    async def settle(self) -> None:
        """Returns when all that is committed now is on the device. One sync serves everybody who waits at once.

        A relaxed pool's commits are not there by themselves, and what is about to go elsewhere may be what the index on the
        device still relies on.
        """
        if self.index.synced:
            return
        with self.index.view() as view:
            wanted = view.txn_id()
        async with self._settling:
            if self._settled < wanted:
                with self.index.view() as view:
                    reached = view.txn_id()
                await asyncio.to_thread(self.index.sync)
                self._settled = reached

    def is_owed(self) -> bool:
        """Whether the index was made anew where one was lost, and has not got back yet what the backing store has."""
        with self.index.view() as view:
            return view.get("meta", _OWED) is not None

    # -- deadlines -----------------------------------------------------------------------------------------------

    def deadline_ms(self, record: ObjectInfo) -> int:
        """When the object expires, with reads that are not in its record yet; 0: never."""
        if not record.sliding:
            return record.expires_ms
        touched = self.heat.touched_ms(record.generation)
        return max(record.expires_ms, touched + record.ttl_ms) if touched else record.expires_ms

    def expired(self, record: ObjectInfo, now_ms: int) -> bool:
        """Whether readers may no longer see it. The deadline itself is already too late; a lock outranks it."""
        if not record.expires_ms or now_ms < record.expires_ms:
            return False
        lock = record.lock
        if lock is not None and (lock.legal_hold or lock.until_ms > now_ms):
            return False
        return now_ms >= self.deadline_ms(record)

    def touch(self, okey: bytes, record: ObjectRecord, now_ms: int) -> None:
        """A read of an object with a sliding TTL: seen by every process at once, written to the index soon."""
        self.heat.touch(record.generation, now_ms)
        self._touches[record.generation] = (okey, now_ms)

    def flush_touches(self) -> None:
        """Hands the reads since the last call to the committer. Called every epoch turn."""
        if self._touches:
            touches, self._touches = self._touches, {}
            self.committer.submit(lambda batch: _write_touches(batch, touches)).add_done_callback(_seen)

    def rest(self) -> None:
        """Gives the open region up where this process has written nothing while others wrote much. Called now and then."""
        if self.space.rests:
            with self.index.view() as view:
                sequence = view.counters().region_sequence
            self.space.give_up(sequence)

    @property
    def keeps_versions(self) -> bool:
        """Whether its buckets may have versions: what a power loss or an eviction may take must not be a version."""
        return self.config.durability != "relaxed" and self.config.demote != "never"

    # -- limits --------------------------------------------------------------------------------------------------

    def judge_room(self, counters: Counters, size: int, replaced: ObjectRecord | None = None) -> None:
        """Whether `size` more hot-only bytes may begin to arrive, by the pool's sums. Raises Busy, TierFull.

        Not judged again when they have arrived: what was let in at once with others may pass the limit by that much.
        """
        if counters.pinned_bytes + min(size, self.stream_bytes) > self.room_bytes:
            raise TierFull(f"pool {self.config.name} is full of pinned objects")
        if self.config.demote == "never":
            return
        gone = replaced.size if replaced is not None and layout.is_dirty(replaced) else 0
        if counters.dirty_bytes - gone + min(size, self.stream_bytes) > self.dirty_bytes_max:
            raise Busy(f"pool {self.config.name} has too much that waits to be demoted", retry_s=1)

    async def wait_for_room(self, judge: Callable[[], None]) -> None:
        """Repeats `judge` while it raises Busy, for `space_wait_s`: the keeper may be about to make the room."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self.config.space_wait_s
        self.held.begin()
        try:
            while True:
                try:
                    return judge()
                except Busy:
                    if loop.time() >= deadline_s:
                        raise
                self.space.ring()
                await asyncio.sleep(ROOM_POLL_S)
        finally:
            self.held.end()

    def held_s(self) -> dict[str, float]:
        """How long this process's writes waited, by what for: the drive to take what is written, a free region, demotion."""
        return {
            "drive": self.flash.writeback.held_s(),
            "regions": self.space.held.seconds(),
            "demotion": self.held.seconds(),
        }

    def judge_pin(self, batch: Batch, info: ObjectInfo, replaced: ObjectInfo | None) -> None:
        """Whether the object may be held. Raises PinLimit."""
        if not layout.hold_until_ms(info):
            return
        held = replaced.size if replaced is not None and layout.hold_until_ms(replaced) else 0
        if batch.counters().pinned_bytes - held + info.size > self.pinned_bytes_max:
            raise PinLimit(f"the pin would exceed the limit of pool {self.config.name}: {self.pinned_bytes_max} bytes")


def _seen(written: asyncio.Future[None]) -> None:
    """What a device that refuses takes of reads, it has said; readers of this start go by the table of touches."""
    if not written.cancelled():
        written.exception()


def _write_touches(batch: Batch, touches: dict[int, tuple[bytes, int]]) -> None:
    for generation, (okey, at_ms) in touches.items():
        found = batch.standing(okey, generation)
        if found is not None and found[1].sliding:
            record = found[1]
            later = msgspec.structs.replace(record, expires_ms=max(record.expires_ms, at_ms + record.ttl_ms))
            batch.replace_object(found[0], record, later)


def open_pool(
    config: PoolConfig,
    slot: int,
    clock: Clock,
    wake_keeper: Callable[[], None] = lambda: None,
    *,
    anew: bool = False,
) -> Pool:
    """Opens (and on first use makes) a pool for one process. Raises IndexCorrupt, DiskFull, ValueError.

    `anew`: also where its index is lost, or has not got back all there was. Without it that is refused: a pool that starts
    empty over bytes that were its objects' looks like one that has lost nothing, and writes where they are.
    """
    make_folder(config.path)
    bytes_left = not _is_blank(config.path / "flash")
    if bytes_left and not anew and not has_index(config.path):
        raise IndexCorrupt(f"{config.path}: the index is gone and flash is not: run `recall rebuild`")
    whole.forget(config.path)
    index = Index(config.path / "index", synced=config.durability != "relaxed")
    with index.view() as view:
        shape = _planned(view, config)
        made = view.get("meta", b"shape") is None
        owed = view.get("meta", _OWED) is not None
    if owed and not anew:
        index.close()
        raise IndexCorrupt(f"{config.path}: a rebuild of the index was cut short: run `recall rebuild`")
    if made and bytes_left and not anew:
        index.close()
        raise IndexCorrupt(f"{config.path}: the index is empty and flash is not: run `recall rebuild`")
    # Flash first: a shape that is committed must have its file, or the pool could not be opened again.
    flash = Flash(config.path / "flash", shape.region_bytes, shape.regions)
    heat = Heat(config.path / "heat")
    # Their names too, or an index that is told to the device with every commit would be there for nobody to find.
    sync_folder(index.path)
    sync_folder(config.path)
    committer = Committer(index, flash, config.name)
    space = Space(committer, flash, slot, wake_keeper, config.space_wait_s)
    committer.run(lambda batch: _adopt_shape(batch, shape, clock.now_ms() << GENERATION_SHIFT, made and bytes_left))
    pool = Pool(config, index, flash, heat, committer, space, clock)
    committer.run(lambda batch: reclaim(batch, slot))
    return pool


def read_shape(index: Index, path: Path) -> PoolShape:
    """The shape of a pool that exists. Raises IndexCorrupt."""
    with index.view() as view:
        stored = view.get("meta", b"shape")
    if stored is None:
        raise IndexCorrupt(f"{path}: no pool here")
    return _decode_shape(stored, path)


def _decode_shape(stored: bytes, path: Path) -> PoolShape:
    shape = msgspec.json.decode(stored, type=PoolShape)
    if shape.version != layout.FORMAT_VERSION:
        raise IndexCorrupt(
            f"{path}: format {shape.version}, this program reads {layout.FORMAT_VERSION}: start on a new data directory and run "
            f"`recall rebuild` (docs/OPERATIONS.md, Upgrade)"
        )
    return shape


def _planned(view: View, config: PoolConfig) -> PoolShape:
    """The stored shape, made or grown to the configured capacity. A pool never shrinks."""
    stored = view.get("meta", b"shape")
    if stored is None:
        region_bytes, have = config.region_bytes or region_bytes_for(config.capacity_bytes), 0
    else:
        shape = _decode_shape(stored, config.path)
        region_bytes, have = shape.region_bytes, shape.regions
    regions = max(have, config.capacity_bytes // region_bytes)
    if regions < REGIONS_MIN:
        raise ValueError(
            f"pool {config.name}: capacity {config.capacity_bytes} gives {regions} regions of {region_bytes} bytes; "
            f"{REGIONS_MIN} are needed"
        )
    return PoolShape(layout.FORMAT_VERSION, region_bytes, regions)


def has_index(path: Path) -> bool:
    """Whether a pool has an index, good or bad."""
    return (path / "index" / "data.mdb").exists()


def _is_blank(flash: Path) -> bool:
    """Whether nothing was ever written to a flash file: the first region is the first that is taken."""
    try:
        with open(flash, "rb") as stream:
            head = stream.read(REGION_BYTES_MIN)
    except FileNotFoundError:
        return True
    return head.count(0) == len(head)


def paid(batch: Batch) -> None:
    """The index has got back what there was."""
    batch.delete("meta", _OWED)


def _adopt_shape(batch: Batch, shape: PoolShape, generation: int, owed: bool) -> None:
    """`generation`: where a new pool begins to count. `owed`: it is new in place of one that was lost."""
    if batch.get("meta", b"shape") is None:
        batch.counters().generation = generation
        if owed:
            batch.put("meta", _OWED)
    for region in range(batch.count("regions"), shape.regions):
        batch.add_region(region)
    batch.put("meta", b"shape", msgspec.json.encode(shape))


def reclaim(batch: Batch, slot: int | None) -> int:
    """Ends what a dead process of `slot` (None: of any) left open: its regions are sealed, its long PUTs dropped.

    Returns how many regions were sealed.
    """
    sealed = 0
    for key, value in list(batch.rows("regions")):
        record = layout.REGION.decode(value)
        if record.state == RegionState.OPEN and slot in (None, record.slot):
            batch.seal_region(layout.unpack_region(key))
            sealed += 1
    for ukey, value in list(batch.rows("uploads")):
        upload = layout.UPLOAD.decode(value)
        if upload.internal and slot in (None, upload.slot):  # its one writer is gone
            batch.drop_upload(ukey, upload)
    return sealed


def recover(pool: Pool) -> None:
    """Run by the keeper before any other process opens the pool: nobody else is inside, whatever the rows say."""
    pool.heat.adopt()
    pool.epochs.adopt()
    board.remove(pool.config.path)
    sealed = pool.committer.run(lambda batch: reclaim(batch, None))
    if sealed:
        _log.info("pool %s: sealed %d regions left open", pool.config.name, sealed)
