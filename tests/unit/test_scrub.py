"""The scrubs over a real engine: bytes are flipped on flash and in the backing store, and the duties are stepped.

Kind: tests. Spec: docs/SEMANTICS.md, "Bytes"; docs/OPERATIONS.md, "The scrub".
"""

from __future__ import annotations

import asyncio
import itertools
import mmap
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conformance import steps
from tests.support.clock import ManualClock
from tests.support.engine import Engine, pool_config
from tiering import events, layout
from tiering.backing import keys
from tiering.backing.directory import DirectoryBacking
from tiering.check import check_pool
from tiering.contract import (
    FOREVER_MS,
    BucketChange,
    BucketInfo,
    CompleteOptions,
    CopyOptions,
    Corrupt,
    NoSuchKey,
    NoSuchUpload,
    ObjectChange,
    PartClaim,
    PutOptions,
    Residency,
)
from tiering.duties.coldscrub import NAMES_PER_S, ColdScrubDuty
from tiering.duties.demote import UpkeepDuty
from tiering.duties.scrub import SAVE_MS, SEEK_BYTES, Pace, ScrubDuty, ScrubRates, standing_damages
from tiering.layout import Extent, ObjectRecord
from tiering.ports import BackingUnavailable

RELAXED: dict[str, Any] = {"durability": "relaxed", "opaque_etag": True, "demote": "pressure"}
WEEK_S = 7 * 86_400.0
FULL = ScrubRates(WEEK_S, 64 << 20, 64 << 20)
NAMES = ScrubRates(WEEK_S, 64 << 20, 0)
ROOMY = {"capacity_bytes": 32 << 20, "region_bytes": 1 << 20}
"""Regions in which an object of up to 64 KiB is one extent."""
BOTH, COLD, HOT = Residency.BOTH, Residency.COLD_ONLY, Residency.HOT_ONLY


class Rig:
    """An engine of one pool `p` with a bucket `b` over a directory, and the scrubs of that pool."""

    def __init__(self, engine: Engine, path: Path, rates: ScrubRates) -> None:
        self.engine = engine
        self.path = path
        self.pool = engine.pools["p"]
        self.counts: Counter[str] = Counter()
        self.told: list[tuple[str, str, str]] = []
        self.slept: list[float] = []
        self.renew(rates)

    def renew(self, rates: ScrubRates) -> None:
        """The duties as a keeper has them that was just started."""
        e = self.engine
        self.flash = ScrubDuty(self.pool, e.buckets, e.cold, rates, self._count, self._tell)
        self.cold = ColdScrubDuty(self.pool, e.buckets, e.cold, e.demoter, rates, self._count, self._tell, self._sleep)

    def _count(self, event: str, pool: str, amount: int) -> None:
        self.counts[event] += amount

    def _tell(self, pool: str, side: str, what: str, fate: str) -> None:
        self.told.append((side, what, fate))

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    @property
    def store(self) -> Any:
        return self.engine.store

    def okey(self, key: str) -> bytes:
        found = self.engine.buckets.find("b")
        assert found is not None
        return layout.object_key(found[1].number, key)

    def record(self, key: str) -> ObjectRecord:
        record = self.pool.index.get_object(self.okey(key))
        assert record is not None
        return record

    async def put(self, key: str, size: int = 5000, **options: Any) -> bytes:
        data = os.urandom(size)
        await steps.put(self.store, key, data, PutOptions(**options))
        return data

    async def demote(self, key: str) -> None:
        record = self.record(key)
        assert await self.engine.demoter.demote(self.pool, self.okey(key), record.generation)

    async def evict(self, key: str) -> None:
        record = self.record(key)
        assert await self.engine.demoter.drop(self.pool, self.okey(key), record.generation)

    def flip(self, extent: Extent, at: int = 0) -> None:
        place = extent.region * self.pool.flash.region_bytes + extent.offset + at
        flip(self.pool.config.path / "flash", place)

    def flip_hot(self, key: str, at: int = 0) -> None:
        self.flip(self.record(key).extents[0], at)

    def copy_path(self, key: str) -> Path:
        return self.name_path(self.pool.index.cold_names(self.okey(key), self.record(key))[0])

    def name_path(self, name: str) -> Path:
        return self.path / "backing" / f"{name}.obj"

    async def flash_pass(self) -> None:
        await self.flash.whole_pass()

    async def cold_pass(self) -> None:
        await self.cold.whole_pass()

    def damages(self) -> list[str]:
        with self.pool.index.view() as view:
            return [damage.what for damage in standing_damages(view)]

    def faults(self) -> list[str]:
        return check_pool("p", self.pool.index, self.pool.flash)[0].faults


def flip(path: Path, at: int) -> None:
    with open(path, "r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte[0] ^ 0xFF]))


@asynccontextmanager
async def rig(
    path: Path, rates: ScrubRates = FULL, clock: ManualClock | None = None, **fields: Any
) -> AsyncIterator[Rig]:
    backing = DirectoryBacking(str(path / "backing"), create=True)
    engine = await Engine.open(path, clock or ManualClock(), backing, [pool_config(path, "p", **fields)])
    try:
        if engine.buckets.find("b") is None:
            await engine.store.create_bucket(BucketInfo(name="b", created_ms=1, pool=""))
        yield Rig(engine, path, rates)
    finally:
        await engine.close()
        await backing.close()


def run(body: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(body, 60))


def looped(body: Callable[[Path], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    """A test of a coroutine."""

    def wrapped(tmp_path: Path) -> None:
        run(body(tmp_path))

    wrapped.__name__ = body.__name__
    return wrapped


# -- flash -------------------------------------------------------------------------------------------------------


@looped
async def test_whole_bytes_are_left_alone(path: Path) -> None:
    async with rig(path) as r:
        data = {f"k{n}": await r.put(f"k{n}", 30_000) for n in range(5)}
        await r.demote("k1")
        await r.evict("k2")
        await r.flash_pass()
        await r.cold_pass()
        assert r.counts[events.scrubbed_bytes("flash")] == 4 * 30_000
        assert r.counts[events.scrubbed_bytes("cold")] == 2 * 30_000
        assert not r.told
        assert r.record("k2").residency == COLD
        for key, each in data.items():
            assert await steps.get(r.store, key) == each


@looped
async def test_damaged_hot_copy_gives_way_to_the_cold_one(path: Path) -> None:
    async with rig(path) as r:
        data = await r.put("k", 50_000)
        await r.demote("k")
        r.flip_hot("k", 33_000)
        await r.flash_pass()
        assert r.record("k").residency == COLD
        assert r.told == [("flash", "b/k", "repaired")]
        assert await steps.get(r.store, "k") == data
        assert not r.faults()


@looped
async def test_held_object_is_written_anew_from_its_cold_copy(path: Path) -> None:
    async with rig(path) as r:
        data = await r.put("k", 100_000, pin_ms=FOREVER_MS)
        await r.demote("k")
        before = r.record("k").extents
        r.flip_hot("k")
        await r.flash_pass()
        record = r.record("k")
        assert record.residency == BOTH
        assert record.extents != before
        assert r.told == [("flash", "b/k", "repaired")]
        assert r.counts[events.damage("flash", "found")] == r.counts[events.damage("flash", "repaired")] == 1
        assert not r.faults()
        assert await steps.get(r.store, "k") == data


@looped
async def test_both_copies_damaged_are_kept_and_named(path: Path) -> None:
    async with rig(path) as r:
        await r.put("k", 50_000)
        await r.demote("k")
        r.flip_hot("k")
        flip(r.copy_path("k"), 20_000)
        await r.flash_pass()
        await r.cold_pass()
        assert r.record("k").residency == BOTH
        assert r.damages() == ["b/k"]
        assert r.told == [("flash", "b/k", "unrepairable"), ("cold", "b/k", "unrepairable")]


@looped
async def test_hot_only_in_a_durable_pool_is_named_once_and_never_deleted(path: Path) -> None:
    async with rig(path) as r:
        await r.put("k", 50_000)
        await steps.get(r.store, "k")
        assert r.pool.heat.is_checked(r.record("k").generation)
        r.flip_hot("k", 40_000)
        await r.flash_pass()
        await r.flash_pass()
        assert r.record("k").residency == HOT
        assert r.told == [("flash", "b/k", "unrepairable")]
        assert r.counts[events.damage("flash", "unrepairable")] == 1
        assert r.damages() == ["b/k"]
        assert any("object b/k " in fault and "checksum" in fault for fault in r.faults())
        with pytest.raises(Corrupt):  # which a long object that had passed before would not have told
            await steps.get(r.store, "k")
        data = await r.put("k", 50_000)
        assert not r.damages()
        assert await steps.get(r.store, "k") == data


@looped
async def test_hot_only_in_a_relaxed_pool_is_dropped(path: Path) -> None:
    async with rig(path, **RELAXED) as r:
        await r.put("k")
        await r.put("other")
        r.flip_hot("k")
        await r.flash_pass()
        assert r.told == [("flash", "b/k", "dropped")]
        with pytest.raises(NoSuchKey):
            await steps.get(r.store, "k")
        assert r.record("other").residency == HOT
        assert not r.damages()


@looped
async def test_shared_bytes_are_read_once_and_damage_all_who_share_them(path: Path) -> None:
    async with rig(path) as r:
        await r.put("k", 20_000)
        await r.store.copy(("b", "k"), ("b", "copy"), CopyOptions())
        await r.demote("copy")
        assert r.record("k").extents == r.record("copy").extents
        r.flip_hot("k")
        await r.flash_pass()
        assert r.counts[events.scrubbed_bytes("flash")] == 20_000
        assert sorted(r.told) == [("flash", "b/copy", "repaired"), ("flash", "b/k", "unrepairable")]
        assert r.record("copy").residency == COLD


@pytest.mark.parametrize("relaxed", [False, True])
def test_damaged_part_of_an_upload(tmp_path: Path, relaxed: bool) -> None:
    async def body() -> None:
        async with rig(tmp_path, **(RELAXED if relaxed else {})) as r:
            upload = await r.store.begin_upload("b", "k", PutOptions())
            part = await steps.put_part(r.store, "k", upload.upload_id, 1, os.urandom(5000))
            with r.pool.index.view() as view:
                stored = view.part(layout.part_key(upload.upload_id, 1))
            assert stored is not None
            r.flip(stored.extents[0])
            await r.flash_pass()
            fate = "dropped" if relaxed else "unrepairable"
            assert r.told == [("flash", f"part 1 of upload {upload.upload_id}", fate)]
            assert len(r.damages()) == (0 if relaxed else 1)
            assert len(r.store.parts("b", "k", upload.upload_id)) == (0 if relaxed else 1)
            if not relaxed:
                await r.store.abort_upload("b", "k", upload.upload_id)
                assert not r.damages()
                with pytest.raises(NoSuchUpload):
                    claims = [PartClaim(1, part.etag)]
                    await r.store.complete_upload("b", "k", upload.upload_id, claims, CompleteOptions(etag="e-1"))

    run(body())


@looped
async def test_older_version_is_scrubbed_like_the_current_one(path: Path) -> None:
    async with rig(path) as r:
        await r.store.change_bucket("b", BucketChange(versioning="Enabled"))
        first = await steps.put(r.store, "k", os.urandom(9000))
        older = r.record("k").extents[0]
        data = await r.put("k", 9000)
        r.flip(older)
        await r.flash_pass()
        assert r.told == [("flash", f"b/k version {first.version}", "unrepairable")]
        assert await steps.get(r.store, "k") == data


@looped
async def test_what_is_overwritten_while_it_is_read_is_no_damage(path: Path) -> None:
    async with rig(path) as r:
        await r.put("k")
        await r.demote("k")
        extent = r.record("k").extents[0]
        r.flip(extent)
        await r.put("k")  # between the look and the act
        await r.flash._mend_all(extent)
        await r.flash._mend(layout.OWNER_OBJECT + r.okey("k"), extent)
        assert not r.told
        assert r.record("k").residency == HOT


@looped
async def test_absent_backing_store_puts_the_mending_off(path: Path) -> None:
    async with rig(path) as r:
        await r.put("k", 50_000)
        await r.demote("k")
        r.flip_hot("k")
        (path / "backing").rename(path / "away")
        r.engine.cold.backing._create = False  # type: ignore[attr-defined]
        with pytest.raises(BackingUnavailable):
            await r.flash.step()
        assert r.record("k").residency == BOTH
        (path / "away").rename(path / "backing")
        await r.flash.step()
        assert r.record("k").residency == COLD


@looped
async def test_scrub_leaves_memory_as_it_was(path: Path) -> None:
    async with rig(path, **ROOMY) as r:
        await r.put("hot", 128 << 10)
        await r.put("k", 128 << 10)
        r.pool.flash.sync()
        hot, asleep = r.record("hot").extents[0], r.record("k").extents[0]
        flash = r.pool.flash
        start = asleep.region * flash.region_bytes + asleep.offset
        os.posix_fadvise(flash.fd, start, asleep.length, os.POSIX_FADV_DONTNEED)
        if flash._in_memory(start, start + mmap.PAGESIZE) != b"\0":
            pytest.skip("this file system keeps its pages")
        await r.flash_pass()
        assert r.counts[events.scrubbed_bytes("flash")] == 256 << 10
        assert not any(flash._in_memory(start, start + asleep.length))
        assert flash.resident(hot, 0, hot.length)
        assert r.pool.heat.heat(r.record("k").generation) == 0


# -- the walk ----------------------------------------------------------------------------------------------------


async def exhaust(duty: ScrubDuty | ColdScrubDuty) -> int:
    """Steps a duty until it has to wait; how many steps it took."""
    for count in range(1000):
        if not await duty.step():
            return count
    raise AssertionError("it never waits")


@looped
async def test_rate_is_kept(path: Path) -> None:
    clock = ManualClock()
    async with rig(path, ScrubRates(WEEK_S, 200_000, 0), clock, **ROOMY) as r:
        for n in range(20):
            await r.put(f"k{n}", 60_000)
        seen = []
        for _ in range(6):
            await exhaust(r.flash)
            seen.append(r.counts[events.scrubbed_bytes("flash")])
            clock.advance(1)
        assert seen[0] <= 400_000  # what was saved up, and a step
        assert all(later - sooner <= 260_000 for sooner, later in itertools.pairwise(seen))
        assert seen[-1] >= 900_000


def test_pace_goes_on_when_the_clock_is_set_back() -> None:
    pace = Pace(10)
    pace.spend(1000, 1_000_000)
    assert not pace.due(1_050_000)
    assert pace.due(900_000)
    pace.spend(10, 900_000)
    assert pace.due(901_000)


@looped
async def test_short_extents_cost_a_seek(path: Path) -> None:
    clock = ManualClock()
    async with rig(path, ScrubRates(WEEK_S, 4 * SEEK_BYTES, 0), clock) as r:
        for n in range(40):
            await r.put(f"k{n}", 100)
        await exhaust(r.flash)
        assert r.counts[events.scrubbed_bytes("flash")] <= 100 * 12


@looped
async def test_pass_goes_on_after_a_restart_and_repeats_when_it_is_time(path: Path) -> None:
    clock = ManualClock()
    rates = ScrubRates(WEEK_S, SEEK_BYTES, 0)
    async with rig(path, rates, clock, **ROOMY) as r:
        for n in range(8):
            await r.put(f"k{n}", 60_000)
        for _ in range(4):
            await r.flash.step()
            clock.advance(1 + SAVE_MS / 1000)
        begun_ms = r.flash.walk.state.begun_ms
        assert r.counts[events.scrubbed_bytes("flash")] == 4 * 60_000
    async with rig(path, rates, clock, **ROOMY) as r:
        for _ in range(6):
            await r.flash.step()
            clock.advance(2)
        assert r.counts[events.scrubbed_bytes("flash")] == 4 * 60_000  # the other half
        with r.pool.index.view() as view:
            state = layout.SCRUB.decode(view.get("meta", b"scrub-flash"))
        assert (state.under_way, state.begun_ms) == (False, begun_ms)
        assert state.completed_ms > begun_ms
        await exhaust(r.flash)
        assert r.counts[events.scrubbed_bytes("flash")] == 4 * 60_000
        clock.advance(WEEK_S)
        await r.flash.step()
        assert r.counts[events.scrubbed_bytes("flash")] > 4 * 60_000


@looped
async def test_zeros_switch_it_off(path: Path) -> None:
    async with rig(path, ScrubRates(0, 1 << 20, 1 << 20)) as r:
        await r.put("k")
        await r.demote("k")
        assert await r.flash.step() == await r.cold.step() == 0
        r.renew(ScrubRates(WEEK_S, 0, 0))
        assert await r.flash.step() == 0
        assert not r.counts


@looped
async def test_damage_that_was_mended_otherwise_is_forgotten_by_the_next_pass(path: Path) -> None:
    async with rig(path) as r:
        data = await r.put("k")
        r.flip_hot("k")
        await r.flash_pass()
        assert r.damages() == ["b/k"]
        r.flip_hot("k")
        await r.flash_pass()
        assert not r.damages()
        assert await steps.get(r.store, "k") == data


# -- the backing store -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rates", [FULL, NAMES], ids=["read", "asked"])
@pytest.mark.parametrize("damage", ["missing", "short"])
def test_copy_that_is_not_there_is_made_again(tmp_path: Path, rates: ScrubRates, damage: str) -> None:
    async def body() -> None:
        async with rig(tmp_path, rates) as r:
            data = await r.put("k", 50_000)
            await r.demote("k")
            path = r.copy_path("k")
            if damage == "missing":
                path.unlink()
            else:
                os.truncate(path, 40_000)
            await r.cold_pass()
            assert r.told == [("cold", "b/k", "repaired")]
            assert r.record("k").residency == BOTH
            await r.engine.settle()
            await r.evict("k")
            assert await steps.get(r.store, "k") == data

    run(body())


@looped
async def test_flipped_copy_is_found_when_it_is_read(path: Path) -> None:
    async with rig(path) as r:
        data = await r.put("k", 50_000)
        await r.demote("k")
        flip(r.copy_path("k"), 20_000)
        r.renew(NAMES)
        await r.cold_pass()
        assert not r.told
        r.renew(FULL)
        await r.cold_pass()
        assert r.told == [("cold", "b/k", "repaired")]
        await r.evict("k")
        assert await steps.get(r.store, "k") == data


@looped
async def test_cold_only_damage_is_named_and_the_object_kept(path: Path) -> None:
    async with rig(path) as r:
        await r.put("k", 50_000)
        await r.evict("k")
        flip(r.copy_path("k"), 20_000)
        await r.cold_pass()
        await r.cold_pass()
        assert r.told == [("cold", "b/k", "unrepairable")]
        assert r.damages() == ["b/k"]
        assert "b/k: a scrub has found its cold copy damaged" in r.faults()
        assert r.record("k").residency == COLD
        with pytest.raises(Corrupt):
            await steps.get(r.store, "k")
        await r.store.delete("b", "k")
        assert not r.damages()


@looped
async def test_only_reading_takes_back_what_only_reading_shows(path: Path) -> None:
    async with rig(path) as r:
        for key in ("flipped", "gone"):
            await r.put(key, 50_000)
            await r.evict(key)
        flip(r.copy_path("flipped"), 20_000)
        await r.cold_pass()
        assert r.damages() == ["b/flipped"]
        r.copy_path("gone").rename(path / "gone")
        r.renew(NAMES)
        await r.cold_pass()
        assert sorted(r.damages()) == ["b/flipped", "b/gone"]
        (path / "gone").rename(r.copy_path("gone"))
        await r.cold_pass()
        assert r.damages() == ["b/flipped"]
        flip(r.copy_path("flipped"), 20_000)
        await r.cold_pass()
        assert r.damages() == ["b/flipped"]
        r.renew(FULL)
        await r.cold_pass()
        assert not r.damages()
        assert r.told == [("cold", "b/flipped", "unrepairable"), ("cold", "b/gone", "unrepairable")]


@looped
async def test_copy_of_nothing_is_always_made_again(path: Path) -> None:
    async with rig(path) as r:
        await r.put("k", 0)
        await r.evict("k")
        r.copy_path("k").unlink()
        await r.cold_pass()
        assert r.told == [("cold", "b/k", "repaired")]
        assert r.copy_path("k").exists()
        assert await steps.get(r.store, "k") == b""


@pytest.mark.parametrize("rates", [FULL, NAMES], ids=["read", "asked"])
def test_note_is_written_again(tmp_path: Path, rates: ScrubRates) -> None:
    async def body() -> None:
        async with rig(tmp_path, rates) as r:
            await r.put("k")
            await r.evict("k")
            await r.store.change("b", "k", ObjectChange(tags={"a": "1"}))
            await r.engine.settle()
            path = r.name_path(keys.note_key(keys.cold_key("b", "k")))
            told = path.read_bytes()
            if rates is FULL:
                path.write_bytes(b"{" + told)
            else:
                path.unlink()
            await r.cold_pass()
            assert r.told == [("cold", "b/k, its note", "repaired")]
            await r.engine.settle()
            assert path.read_bytes() == told
            await r.cold_pass()
            assert len(r.told) == 1

    run(body())


@looped
async def test_piece_and_manifest_of_an_object_in_pieces(path: Path) -> None:
    async with rig(path) as r:
        upload = await r.store.begin_upload("b", "k", PutOptions())
        data = os.urandom(60_000)
        part = await steps.put_part(r.store, "k", upload.upload_id, 1, data)
        pkey = layout.part_key(upload.upload_id, 1)
        assert await r.engine.demoter.demote_part(r.pool, pkey)
        await r.cold_pass()
        assert r.counts[events.scrubbed_bytes("cold")] == 60_000
        claims = [PartClaim(1, part.etag)]
        await r.store.complete_upload("b", "k", upload.upload_id, claims, CompleteOptions(etag="e-1"))
        await r.engine.settle()
        record = r.record("k")
        assert len(record.cold) == 2 and not record.unlisted
        await r.cold_pass()
        assert not r.told
        manifest, piece = map(r.name_path, r.pool.index.cold_names(r.okey("k"), record))
        flip(manifest, manifest.stat().st_size // 2)
        await r.cold_pass()
        assert r.told == [("cold", "b/k, its manifest", "repaired")]
        await r.engine.duty("p", UpkeepDuty).step()
        await r.cold_pass()
        assert len(r.told) == 1
        flip(piece, 30_000)
        await r.cold_pass()
        assert r.told[1:] == [("cold", "b/k", "unrepairable")]


@looped
async def test_damaged_part_in_the_backing_store_is_named(path: Path) -> None:
    async with rig(path) as r:
        upload = await r.store.begin_upload("b", "k", PutOptions())
        await steps.put_part(r.store, "k", upload.upload_id, 1, os.urandom(60_000))
        pkey = layout.part_key(upload.upload_id, 1)
        assert await r.engine.demoter.demote_part(r.pool, pkey)
        with r.pool.index.view() as view:
            part = view.part(pkey)
        assert part is not None and part.cold is not None
        flip(r.name_path(part.cold.name), 30_000)
        await r.cold_pass()
        assert r.told == [("cold", f"part 1 of upload {upload.upload_id}", "unrepairable")]


@looped
async def test_object_that_moved_on_while_its_copy_was_read_is_no_damage(path: Path) -> None:
    async with rig(path) as r:
        await r.put("k", 50_000)
        await r.evict("k")
        old = r.record("k")
        flip(r.copy_path("k"), 20_000)
        await r.put("k", 50_000)
        await r.demote("k")  # the same name, another generation
        await r.cold._object(r.okey("k"), old)
        assert not r.told
        assert r.record("k").residency == BOTH


@looped
async def test_sealed_and_versioned_copies_are_found_under_their_names(path: Path) -> None:
    async with rig(path) as r:
        await r.store.change_bucket("b", BucketChange(versioning="Enabled"))
        first = await steps.put(r.store, "k", os.urandom(9000))
        await r.evict("k")
        cold = r.copy_path("k")
        await r.put("k", 9000)
        await r.evict("k")
        await r.store.delete("b", "k")  # a delete marker, demoted like the others
        await r.engine.settle()
        await r.cold_pass()
        assert not r.told
        flip(cold, cold.stat().st_size // 2)
        await r.cold_pass()
        assert r.told == [("cold", f"b/k version {first.version}", "unrepairable")]


@looped
async def test_copies_are_asked_for_at_a_rate(path: Path) -> None:
    clock = ManualClock()
    async with rig(path, NAMES, clock) as r:
        for n in range(3 * NAMES_PER_S):
            await r.put(f"k{n:03}", 100)
            await r.evict(f"k{n:03}")
        first = await exhaust(r.cold)
        assert first <= NAMES_PER_S + 1
        clock.advance(1)
        assert await exhaust(r.cold) <= NAMES_PER_S + 1
        assert r.cold.walk.state.under_way
        for _ in range(4):
            clock.advance(1)
            await exhaust(r.cold)
        assert not r.cold.walk.state.under_way


@looped
async def test_long_copy_is_not_read_in_one_rush(path: Path) -> None:
    async with rig(path, ScrubRates(WEEK_S, 0, 1 << 20), capacity_bytes=64 << 20, region_bytes=1 << 20) as r:
        await r.put("k", 4 << 20)
        await r.evict("k")
        await r.cold.step()
        assert 2 <= sum(r.slept) <= 4
        assert not r.told


def test_records_of_a_scrub_stay_small() -> None:
    state = layout.ScrubRecord(1, b"k", True, 2, [layout.Damage("b/k", b"k", 3)])
    assert msgspec.structs.asdict(layout.SCRUB.decode(layout.SCRUB.encode(state))) == msgspec.structs.asdict(state)
