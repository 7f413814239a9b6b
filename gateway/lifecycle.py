"""Carrying out lifecycle rules: the keeper's walk over the buckets that have them.

Promise: a bucket is walked from end to end once an interval, and soon after its rules change; every step looks at a
bounded page and goes on where the last one ended, also after a restart, so no bucket waits for ever on another. What a
rule does to an object is conditional on the object it judged: one written meanwhile stays. Locked versions stay.

Owns the place of the walk, and the small file that keeps it. Does not know tiers or the index: it is given a Store.
Kind: duty; the keeper's loop. Spec: AWS S3 User Guide, "Managing the lifecycle of objects"; docs/SEMANTICS.md.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from s3api import lifecycle
from s3api.lifecycle import DAY_MS, Rules
from tiering.contract import (
    BucketInfo,
    Clock,
    Conditions,
    DeleteOptions,
    IsMarker,
    ListOptions,
    ListVersionsOptions,
    Locked,
    NoSuchBucket,
    NoSuchKey,
    NoSuchUpload,
    NoSuchVersion,
    ObjectChange,
    ObjectInfo,
    Origin,
    PendingOptions,
    PreconditionFailed,
    Store,
    StoreError,
    Version,
)

DOCUMENT: Final = "lifecycle"
PAGE_KEYS: Final = 200
"""Versions or uploads one step looks at."""
ACTIONS_AT_ONCE: Final = 32
"""Deletes and transitions under way together: they share group commits, and leave the committer to clients."""
WALKS_A_DAY: Final = 24
LOOK_MS_MIN: Final = 200
LOOK_MS_MAX: Final = 10_000
"""How often the buckets' rules are looked at, for ones that are new or have changed."""
IDLE_SHARE: Final = 4.0
"""A step that took a second is followed by so many seconds of rest: a walk takes a fifth of the keeper's core at most."""
PRINCIPAL: Final = "s3.amazonaws.com"
"""Who S3 says did it, in the events about it."""

Count = Callable[[str, int], None]
"""Told of what was done: one of the actions of `recall_lifecycle_actions_total`, and how often."""

_MOVED_ON: Final = (PreconditionFailed, NoSuchKey, NoSuchVersion, NoSuchUpload, IsMarker, Locked, NoSuchBucket)
"""The object is no longer the one that was judged, or may not go: nothing is wrong."""
_DELETE: Final = Origin("LifecycleExpiration:Delete", PRINCIPAL)
_TRANSITION: Final = Origin("LifecycleTransition", PRINCIPAL)

_log = logging.getLogger("recall.lifecycle")


class _Place(msgspec.Struct):
    """Where a walk is: after which key and version of a bucket's objects, then of its uploads."""

    bucket: str
    text: str  # the rules it is walked by
    uploads: bool = False
    key: str = ""
    version: str | None = None
    upload_id: str = ""
    newer: int = 0  # noncurrent versions of `key` already passed
    done: str = ""  # the last key of which every version was looked at


class LifecycleDuty:
    """`path`: where the place of the walk is kept; None keeps it in memory. `rest`: sleeps between steps."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        day_ms: int = DAY_MS,
        path: Path | None = None,
        count: Count = lambda action, number: None,
        rest: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = "lifecycle"
        self._store = store
        self._clock = clock
        self._day_ms = day_ms
        self._path = path
        self._count = count
        self._rest = rest
        self._walk_every_ms = max(1, day_ms // WALKS_A_DAY)
        self._look_every_ms = min(max(self._walk_every_ms // 8, LOOK_MS_MIN), LOOK_MS_MAX)
        self._next_look_ms = 0
        self._walked: dict[str, tuple[str, int]] = {}  # bucket → rules and begin of its last walk
        self._waiting: list[tuple[str, str]] = []  # buckets and their rules, the next one last
        self._last = ""
        self._place = self._kept_place()

    async def step(self) -> int:
        """Looks at one page of one bucket; 0 when no bucket is to be walked now."""
        began_s = time.monotonic()
        if self._place is None:
            self._place = self._next_bucket()
        place = self._place
        if place is None:
            return 0
        try:
            self._place = await (self._step_uploads(place) if place.uploads else self._step_objects(place))
        except NoSuchBucket:
            self._place = None
        self._keep_place()
        await self._rest((time.monotonic() - began_s) * IDLE_SHARE)
        return 1

    def _next_bucket(self) -> _Place | None:
        """The bucket with rules whose walk is longest ago, if it is time."""
        now_ms = self._clock.now_ms()
        if not self._waiting:
            if now_ms < self._next_look_ms:
                return None
            self._waiting = self._look(now_ms)
        if not self._waiting:
            self._next_look_ms = now_ms + self._look_every_ms
            return None
        name, text = self._waiting.pop()
        self._last = name
        self._walked[name] = (text, now_ms)
        return _Place(name, text)

    def _look(self, now_ms: int) -> list[tuple[str, str]]:
        """The buckets to be walked now, the first one last."""
        with_rules = {bucket.name: bucket for bucket in self._store.buckets() if DOCUMENT in bucket.documents}
        self._walked = {name: walk for name, walk in self._walked.items() if name in with_rules}
        waiting: list[tuple[int, bool, str, str]] = []
        for name, bucket in with_rules.items():
            text = bucket.documents[DOCUMENT]
            known, began_ms = self._walked.get(name, ("", 0))
            if known != text or now_ms - began_ms >= self._walk_every_ms:
                # Of several that wait as long, the next in name order comes first: a keeper that restarts often must not
                # begin at the first bucket each time.
                waiting.append((began_ms, name <= self._last, name, text))
        return [(name, text) for _, _, name, text in sorted(waiting, reverse=True)]

    # -- objects -------------------------------------------------------------------------------------------------

    async def _step_objects(self, place: _Place) -> _Place | None:
        bucket = self._store.bucket(place.bucket)
        rules = self._rules(bucket)
        if rules is None:
            return None
        page, after = self._page(bucket, place)
        actions: list[Coroutine[Any, Any, str]] = []
        key, newer, done = place.key, place.newer, place.done
        for version in page:
            if version.key != key:
                key, newer, done = version.key, 0, key
            action = self._judge(bucket, rules, version, newer)
            if action is not None:
                actions.append(action)
            if not version.latest:
                newer += 1
        await self._carry_out(actions)
        if after is None:
            return _Place(place.bucket, place.text, uploads=True, done=key)
        after.newer = newer if after.key == key else 0
        after.done = done if bucket.versioning else after.key
        return after

    def _rules(self, bucket: BucketInfo) -> Rules | None:
        text = bucket.documents.get(DOCUMENT)
        return None if text is None else lifecycle.load(text)

    def _page(self, bucket: BucketInfo, place: _Place) -> tuple[Sequence[Version], _Place | None]:
        """The versions from `place` on, and the place after them; None at the end."""
        if not bucket.versioning:
            found = self._store.list(bucket.name, ListOptions(after=place.key, limit=PAGE_KEYS))
            page = [Version(key, info, True) for key, info in found.objects]
            return page, _Place(place.bucket, place.text, key=found.next_after) if found.truncated else None
        listed = self._store.list_versions(
            bucket.name, ListVersionsOptions(key_after=place.key, version_after=place.version, limit=PAGE_KEYS)
        )
        if not listed.truncated:
            return listed.versions, None
        return listed.versions, _Place(place.bucket, place.text, key=listed.next_key, version=listed.next_version)

    def _judge(self, bucket: BucketInfo, rules: Rules, version: Version, newer: int) -> Coroutine[Any, Any, str] | None:
        """What the rules do to one version now; `newer`: how many noncurrent ones of its key are younger."""
        key, info, now_ms = version.key, version.info, self._clock.now_ms()
        if not version.latest:
            if lifecycle.noncurrent_due(rules, key, info, newer, now_ms, self._day_ms):
                return None if _locked(info, now_ms) else self._remove(bucket, version, "version_expired")
        elif info.marker:
            alone = lifecycle.marker_due(rules, key, info, now_ms, self._day_ms) and self._stands_alone(bucket, key)
            return self._remove(bucket, version, "marker_removed") if alone else None
        else:
            due = lifecycle.expiration(rules, key, info, self._day_ms)
            if due is not None and due.at_ms <= now_ms:
                return self._expire(bucket, key, info)
        storage_class = lifecycle.transition_due(rules, key, info, newer, now_ms, self._day_ms)
        return self._move(bucket, key, info, storage_class) if storage_class else None

    def _stands_alone(self, bucket: BucketInfo, key: str) -> bool:
        """Whether the current version of `key` is its only one."""
        found = self._store.list_versions(bucket.name, ListVersionsOptions(prefix=key, limit=2)).versions
        return sum(version.key == key for version in found) == 1

    async def _expire(self, bucket: BucketInfo, key: str, info: ObjectInfo) -> str:
        """Ends the current version, as the bucket's versioning says."""
        deleted = await self._store.delete(bucket.name, key, DeleteOptions(conditions=_same(info), origin=_DELETE))
        return "marker_added" if deleted.marker else "expired"

    async def _remove(self, bucket: BucketInfo, version: Version, action: str) -> str:
        """Takes one version away for good: the very one that was judged, as long as it has not become the current one."""
        key, info, latest = version
        options = DeleteOptions(_same(info), info.version, origin=_DELETE, noncurrent=not latest)
        await self._store.delete(bucket.name, key, options)
        return action

    async def _move(self, bucket: BucketInfo, key: str, info: ObjectInfo, storage_class: str) -> str:
        change = ObjectChange(
            storage_class=storage_class,
            conditions=_same(info),
            version=info.version if bucket.versioning else None,
            origin=_TRANSITION,
        )
        await self._store.change(bucket.name, key, change)
        return "transitioned"

    # -- uploads -------------------------------------------------------------------------------------------------

    async def _step_uploads(self, place: _Place) -> _Place | None:
        bucket = self._store.bucket(place.bucket)
        rules = self._rules(bucket)
        if rules is None or all(rule.abort_days is None for rule in rules.rules):
            return None
        options = PendingOptions(key_after=place.key, upload_id_after=place.upload_id, limit=PAGE_KEYS)
        found = self._store.pending(bucket.name, options)
        now_ms = self._clock.now_ms()
        actions = []
        for upload in found.uploads:
            due = lifecycle.abortion(rules, upload.key, upload.initiated_ms, self._day_ms)
            if due is not None and due.at_ms <= now_ms:
                actions.append(self._abort(bucket, upload.key, upload.upload_id))
        await self._carry_out(actions)
        if not found.truncated:
            return None
        return msgspec.structs.replace(place, key=found.next_key, upload_id=found.next_upload_id)

    async def _abort(self, bucket: BucketInfo, key: str, upload_id: str) -> str:
        await self._store.abort_upload(bucket.name, key, upload_id)
        return "upload_aborted"

    # -- both ----------------------------------------------------------------------------------------------------

    async def _carry_out(self, actions: Sequence[Coroutine[Any, Any, str]]) -> None:
        """Does all of them. One that fails is tried again on the next walk: the others must not wait for it."""
        for at in range(0, len(actions), ACTIONS_AT_ONCE):
            outcomes = await asyncio.gather(*actions[at : at + ACTIONS_AT_ONCE], return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, str):
                    self._count(outcome, 1)
                elif isinstance(outcome, _MOVED_ON):
                    continue
                elif isinstance(outcome, StoreError):
                    self._count("failed", 1)
                    _log.warning("a lifecycle rule could not be carried out: %s", outcome, extra={"once": "lifecycle"})
                else:
                    raise outcome

    def _kept_place(self) -> _Place | None:
        """Where the walk was when the last keeper ended, from the beginning of a key: of its versions nothing is kept."""
        if self._path is None:
            return None
        try:
            self._last, done = json.loads(self._path.read_bytes())
            text = self._store.bucket(self._last).documents[DOCUMENT]
        except (OSError, ValueError, TypeError, KeyError, NoSuchBucket):
            return None
        # Its walk counts as begun now, so that the buckets behind it come before it is walked again.
        self._walked[self._last] = (text, self._clock.now_ms())
        return None if done is None else _Place(self._last, text, key=done, done=done)

    def _keep_place(self) -> None:
        """Writes the place down. Not synced: losing it costs a walk from the beginning, and so does a disk that refuses."""
        if self._path is None:
            return
        place = self._place
        beside = self._path.with_suffix(".new")
        try:
            beside.write_text(json.dumps([self._last, None if place is None or place.uploads else place.done]))
            os.replace(beside, self._path)
        except OSError as error:
            why = error.strerror
            _log.warning("%s is left as it was: %s", self._path, why, extra={"once": f"lifecycle place {why}"})


def _same(info: ObjectInfo) -> Conditions:
    """That the object is still the one that was judged: written again later, even with the same bytes, it is not."""
    return Conditions(if_match=(info.etag,), if_match_modified_s=info.modified_ms // 1000)


def _locked(info: ObjectInfo, now_ms: int) -> bool:
    """Whether object lock keeps the version; the store judges it again."""
    return info.lock is not None and (info.lock.legal_hold or info.lock.until_ms > now_ms)
