"""A world with a bucket that has versions: each operation done on the engine and on lists of what was acknowledged.

Owns the model of that bucket: of each key its versions, newest first. Does not know hypothesis.
Kind: shell of the tests. Spec: docs/SEMANTICS.md, "Versions", "Locks", "Rebuild".
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from tests.conformance import steps
from tests.model.world import World
from tiering.contract import (
    BucketChange,
    BucketInfo,
    Busy,
    ColdUnavailable,
    CopyOptions,
    Corrupt,
    Deleted,
    DeleteOptions,
    IsMarker,
    ListOptions,
    ListVersionsOptions,
    Locked,
    LockNeedsVersions,
    NoSuchKey,
    NoSuchVersion,
    ObjectChange,
    ObjectInfo,
    PutOptions,
    ReadOptions,
    Residency,
    TierFull,
    Version,
)
from tiering.rebuild import rebuild

BUCKET: Final = "v"
_SAME: Final = ("generation", "size", "modified_ms", "etag", "crc64", "metadata", "tags", "version", "marker", "lock")


@dataclass
class Kept:
    """An acknowledged version; `data` None: a delete marker."""

    version: str
    data: bytes | None
    info: ObjectInfo | None = None  # of a marker nothing is told

    def locked(self, now_ms: int, bypass: bool) -> bool:
        lock = self.info.lock if self.info is not None else None
        if lock is None:
            return False
        retained = lock.until_ms > now_ms and not (bypass and lock.mode == "GOVERNANCE")
        return bool(lock.legal_hold) or retained


class Versioned(World):
    """A world of kind `standard`, and in its small pool the versioned bucket."""

    def __init__(self, **fields: Any) -> None:
        super().__init__("standard", **fields)
        self.history: dict[str, list[Kept]] = {}
        self.state: Literal["Enabled", "Suspended"] = "Enabled"
        self.lock_found = False
        made = BucketInfo(name=BUCKET, created_ms=self.now, pool="", versioning="Enabled")
        self.do(self.engine.store.create_bucket(made))

    def close(self) -> None:
        try:
            self.backing.down = False
            self.backing.script.clear()
            self.settle()
            self.look()
            for key, versions in self.history.items():
                for kept in versions:
                    self.read_version(key, kept)
        except BaseException:
            self.discard()
            raise
        super().close()

    # -- what is expected ----------------------------------------------------------------------------------------

    def current(self, key: str) -> Kept | None:
        versions = self.history.get(key)
        return versions[0] if versions else None

    def nth(self, key: str, at: int) -> Kept | None:
        versions = self.history.get(key)
        return versions[at % len(versions)] if versions else None

    def _add(self, key: str, kept: Kept) -> None:
        versions = self.history.setdefault(key, [])
        if not kept.version:
            versions[:] = [each for each in versions if each.version]
        versions.insert(0, kept)

    def _gone(self, bucket: str, key: str) -> None:
        assert bucket != BUCKET, f"{key} is gone"
        super()._gone(bucket, key)

    def _equal(self, kept: Kept, info: ObjectInfo) -> None:
        assert (info.version, info.marker) == (kept.version, kept.data is None)
        if kept.info is not None:
            for name in _SAME:
                assert getattr(info, name) == getattr(kept.info, name), (name, info, kept.info)

    # -- writing -------------------------------------------------------------------------------------------------

    def set_versioning(self, state: Literal["Enabled", "Suspended"]) -> None:
        try:
            self.do(self.engine.store.change_bucket(BUCKET, BucketChange(versioning=state)))
        except LockNeedsVersions:
            assert self.lock_found and state == "Suspended"
            return
        self.state = state

    def _judge_version(self, version: str | None) -> None:
        assert version is not None and bool(version) == (self.state == "Enabled"), version

    def put_version(self, key: str, data: bytes, options: PutOptions | None = None) -> None:
        null = next((kept for kept in self.history.get(key, []) if not kept.version), None)
        barred = self.state == "Suspended" and null is not None and null.locked(self.now, False)
        try:
            info = self.do(steps.put(self.engine.store, key, data, options or PutOptions(), bucket=BUCKET))
        except Locked:
            assert barred
            return
        except (Busy, TierFull):
            return
        assert not barred
        self._judge_version(info.version)
        self._add(key, Kept(info.version, data, info))

    def copy_version(self, key: str, at: int, target: str) -> None:
        kept = self.nth(key, at)
        version = kept.version if kept is not None else "0" * 32
        call = self.engine.store.copy((BUCKET, key), (BUCKET, target), CopyOptions(source_version=version))
        try:
            info = self.do(call)
        except NoSuchVersion:
            assert kept is None
            return
        except IsMarker:
            assert kept is not None and kept.data is None
            return
        except Locked:
            assert self.state == "Suspended"
            return
        except (Busy, TierFull):
            return
        except (ColdUnavailable, Corrupt):
            assert self._troubled()
            return
        assert kept is not None and kept.data is not None
        self._judge_version(info.version)
        self._add(target, Kept(info.version, kept.data, info))

    def delete_key(self, key: str) -> None:
        current = self.current(key)
        null = next((kept for kept in self.history.get(key, []) if not kept.version), None)
        barred = self.state == "Suspended" and null is not None and null.locked(self.now, False)
        try:
            answer = self.do(self.engine.store.delete(BUCKET, key))
        except Locked:
            assert barred
            return
        assert not barred and answer.marker
        assert answer.found == (current is not None and current.data is not None)
        self._judge_version(answer.version)
        self._add(key, Kept(answer.version or "", None))

    def delete_version(self, key: str, at: int, bypass: bool = False) -> None:
        kept = self.nth(key, at)
        version = kept.version if kept is not None else ""
        options = DeleteOptions(version=version, bypass_governance=bypass)
        try:
            answer = self.do(self.engine.store.delete(BUCKET, key, options))
        except Locked:
            assert kept is not None and kept.locked(self.now, bypass)
            return
        assert kept is None or not kept.locked(self.now, bypass)
        assert answer == Deleted(kept is not None, version, kept is not None and kept.data is None)
        if kept is not None:
            self.history[key].remove(kept)

    def change_version(self, key: str, at: int, change: ObjectChange) -> None:
        """Tags and locks."""
        kept = self.nth(key, at)
        if kept is None or kept.data is None:
            return
        assert kept.info is not None
        try:
            call = self.engine.store.change(BUCKET, key, msgspec.structs.replace(change, version=kept.version))
            info = self.do(call)
        except Locked:
            assert kept.locked(self.now, change.bypass_governance)
            return
        if change.tags is not None:
            assert info.tags == change.tags
        kept.info = info

    def tier_version(self, key: str, at: int, tier: Literal["hot", "cold", "both"]) -> None:
        kept = self.nth(key, at)
        if kept is None or kept.data is None:
            return
        was_cold = self._info(key, kept).residency == Residency.COLD_ONLY
        troubled = self._troubled()
        try:
            info = self.do(self.engine.store.change(BUCKET, key, ObjectChange(tier=tier, version=kept.version)))
        except (ColdUnavailable, Corrupt):
            assert troubled or (tier == "hot" and was_cold)
            return
        self._equal(kept, info)
        assert tier != "cold" or info.residency == Residency.COLD_ONLY
        assert tier != "hot" or info.residency != Residency.COLD_ONLY

    def together(self, key: str, data: bytes, at: int, tier: Literal["hot", "cold", "both"], turns: list[int]) -> None:
        """A new version, the end of an old one, a move and a read of others, all at once: each does what it does alone."""
        gone, moved, read = self.nth(key, at), self.nth(key, at + 1), self.nth(key, at + 2)
        if gone is not None and not gone.version and self.state == "Suspended":
            gone = None  # both mean the null version: whether the new one goes depends on who is first
        self.backing.script.clear()
        options = ReadOptions(version=read.version) if read is not None else ReadOptions()
        answers = self.do(self._together(key, data, gone, moved, options, tier, turns))
        put, deletion, move, reading = answers
        if isinstance(put, ObjectInfo):
            self._add(key, Kept(put.version, data, put))
        elif isinstance(put, Locked):
            assert self.state == "Suspended"
        else:
            assert isinstance(put, Busy | TierFull), repr(put)
        if isinstance(deletion, Deleted) and gone is not None:
            self.history[key] = [kept for kept in self.history[key] if kept is not gone]
        else:
            assert gone is None or isinstance(deletion, Locked), repr(deletion)
        allowed = (ColdUnavailable, Corrupt, NoSuchVersion, NoSuchKey, IsMarker)
        assert not isinstance(move, Exception) or isinstance(move, allowed), repr(move)
        if isinstance(reading, Exception):
            assert isinstance(reading, allowed), repr(reading)
            marker = read is None or read.data is None
            missing = read is gone or marker or (read is not None and not read.version)  # written over by the put
            assert missing or isinstance(reading, ColdUnavailable | Corrupt), repr(reading)
            assert missing or self.backing.down, repr(reading)
        elif read is not None and reading[0].info.generation == getattr(read.info, "generation", None):
            assert reading[1] == read.data

    async def _together(
        self,
        key: str,
        data: bytes,
        gone: Kept | None,
        moved: Kept | None,
        options: ReadOptions,
        tier: Literal["hot", "cold", "both"],
        turns: list[int],
    ) -> list[Any]:
        store = self.engine.store

        async def nothing() -> None:
            return None

        async def late(count: int, call: Any) -> Any:
            for _ in range(count):
                await asyncio.sleep(0)
            return await call

        calls = [
            steps.put(store, key, data, bucket=BUCKET),
            store.delete(BUCKET, key, DeleteOptions(version=gone.version)) if gone is not None else nothing(),
            store.change(BUCKET, key, ObjectChange(tier=tier, version=moved.version))
            if moved is not None
            else nothing(),
            self._get(BUCKET, key, options),
        ]
        late_calls = [late(count, call) for count, call in zip(turns, calls, strict=True)]
        answers = await asyncio.gather(*late_calls, self._turn(), return_exceptions=True)
        if isinstance(answers[-1], BaseException):
            raise answers[-1]
        return list(answers[:-1])

    # -- reading -------------------------------------------------------------------------------------------------

    def _info(self, key: str, kept: Kept) -> ObjectInfo:
        options = ReadOptions(head=True, version=kept.version)
        return self.do(self._get_head(key, options))

    async def _get_head(self, key: str, options: ReadOptions) -> ObjectInfo:
        return (await steps.settled(self.engine.store.open(BUCKET, key, options))).info

    def read_version(self, key: str, kept: Kept) -> None:
        try:
            reading, data = self.do(self._get(BUCKET, key, ReadOptions(version=kept.version)))
        except IsMarker:
            assert kept.data is None
            return
        except (ColdUnavailable, Corrupt):
            assert self._troubled()
            return
        self._equal(kept, reading.info)
        assert data == kept.data

    def read_key(self, key: str) -> None:
        current = self.current(key)
        try:
            reading, data = self.do(self._get(BUCKET, key, ReadOptions()))
        except NoSuchKey as answer:
            assert current is None or current.data is None
            assert answer.facts.get("version") == (current.version if current is not None else None)
            return
        except (ColdUnavailable, Corrupt):
            assert self._troubled()
            return
        assert current is not None
        self._equal(current, reading.info)
        assert data == current.data and reading.info.noncurrent_ms == 0

    def look(self, limit: int = 1000) -> None:
        """All versions, page by page, and what is listed of objects."""
        found: list[Version] = []
        options = ListVersionsOptions(limit=limit)
        while True:
            page = self.engine.store.list_versions(BUCKET, options)
            found += page.versions
            if not page.truncated:
                break
            options = ListVersionsOptions(limit=limit, key_after=page.next_key, version_after=page.next_version)
        wanted = [
            (key, kept.version, kept.data is None, at == 0)
            for key in sorted(self.history, key=str.encode)
            for at, kept in enumerate(self.history[key])
        ]
        assert [(each.key, each.info.version, each.info.marker, each.latest) for each in found] == wanted
        for each in found:
            kept = next(kept for kept in self.history[each.key] if kept.version == each.info.version)
            self._equal(kept, each.info)
            assert (each.info.noncurrent_ms == 0) == each.latest
        keys = [key for key, _ in self.engine.store.list(BUCKET, ListOptions()).objects]
        assert keys == [key for key, _, marker, latest in wanted if latest and not marker]

    # -- everything lost but the backing store ---------------------------------------------------------------------

    def rebuild(self) -> None:
        """The index and the flash file are thrown away and made again: all of the bucket comes back as it was."""
        self.backing.down = False
        self.backing.script.clear()
        self.settle()
        self._let_go()
        self.uploads.clear()
        self.runner.run(self.engine.crash())
        shutil.rmtree(self.path / "pools")
        self.engine = self._opened()
        found = self.runner.run(rebuild(self.engine.pools, self.engine.buckets, self.engine.cold))
        assert not found.unreadable, found.unreadable
        self.things = {at: thing for at, thing in self.things.items() if thing.seen(self.now)}
        # Locks are put on versions here without asking whether the bucket has object lock; a rebuild sees that it must.
        every = [kept for versions in self.history.values() for kept in versions]
        self.lock_found = self.lock_found or any(kept.info is not None and kept.info.lock for kept in every)
        bucket = self.engine.store.bucket(BUCKET)
        assert bucket.object_lock == self.lock_found
        self.state = "Enabled" if self.lock_found else self.state
        assert bucket.versioning == self.state
        self.audit()
        self.look()
