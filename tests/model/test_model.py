"""The tiers together against a dict: hypothesis drives one engine through every operation, fault, crash and clock jump.

`RECALL_TEST_EXAMPLES` and `RECALL_TEST_STEPS` make the run longer, `make model` runs it in several processes for as long as you
like. A failure prints its steps and a blob to repeat it.

Kind: tests. Spec: docs/SEMANTICS.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.model.versioned import Versioned
from tests.model.world import BIG, SMALL, Pending, World, pattern
from tiering.backing.wrappers import Fault
from tiering.contract import FOREVER_MS, ByteRange, Conditions, Lock, ObjectChange, PutOptions, Ttl

EXAMPLES = int(os.environ.get("RECALL_TEST_EXAMPLES", "25"))
STEPS = int(os.environ.get("RECALL_TEST_STEPS", "40"))

keys = st.sampled_from(["a", "a/1", "a/2", "a/b/c", "b", "zü"])
seeds = st.integers(0, 9)
sizes = st.sampled_from([0, 1, 4096, 30_000, 65_536, 100_000, 200_000, 400_000, 700_000])
"""Regions are 64 KiB; what is longer than 512 KiB is stored piece by piece."""
ttls = st.sampled_from([None, None, Ttl(60_000), Ttl(60_000, sliding=True)])
pins = st.sampled_from([0, 0, 0, 30_000, FOREVER_MS])
ranges = st.one_of(
    st.builds(ByteRange, st.integers(0, 710_000), st.none()),
    st.builds(ByteRange, st.sampled_from([0, 1, 65_535, 65_536]), st.sampled_from([65_537, 100_000])),
    st.builds(ByteRange, st.just(0), st.sampled_from([0, 1, 70_000]), st.just(True)),
)
turns = st.integers(0, 12)


class Machine(RuleBasedStateMachine):
    """What every machine has: a world that is audited between its steps, and looked at for the last time at the end."""

    world: World
    audit_every = 1
    """Long runs look less often: an audit costs as much as a step."""
    space_wait_s = 0.2
    """How long a write waits for room; with the backing store down none comes, and the keeper is busy all that time."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()

    @invariant()
    def audited(self) -> None:
        if hasattr(self, "world"):
            self.steps += 1
            if self.steps % self.audit_every == 0:
                self.world.audit()


class Tiers(Machine):
    """One world of the class's kind; each rule is one operation done on the engine and the model."""

    kind = "standard"

    @initialize()
    def begin(self) -> None:
        self.world = World(self.kind, space_wait_s=self.space_wait_s)

    # -- objects

    @rule(key=keys, size=sizes, seed=seeds, ttl=ttls, pin_ms=pins)
    def put(self, key: str, size: int, seed: int, ttl: Ttl | None, pin_ms: int) -> None:
        options = PutOptions(content_type="text/x", metadata={"seed": str(seed)}, pin_ms=pin_ms, ttl=ttl)
        self.world.put(SMALL, key, pattern(size, seed), options)

    @rule(key=keys, size=sizes, seed=seeds)
    def put_new(self, key: str, size: int, seed: int) -> None:
        self.world.put(SMALL, key, pattern(size, seed), PutOptions(conditions=Conditions(if_none_match=("*",))))

    @rule(key=keys, other=keys, size=sizes, seed=seeds)
    def put_matching(self, key: str, other: str, size: int, seed: int) -> None:
        thing = self.world.thing(SMALL, other)
        etag = thing.info.etag if thing is not None else "none"
        self.world.put(SMALL, key, pattern(size, seed), PutOptions(conditions=Conditions(if_match=(etag,))))

    @rule(count=st.integers(4, 14), seed=seeds)
    def fill(self, count: int, seed: int) -> None:
        for each in range(count):
            self.world.put(SMALL, f"fill/{each}", pattern(100_000, seed + each))

    @rule(key=keys, size=sizes, seed=seeds, count=turns)
    def put_cancelled(self, key: str, size: int, seed: int, count: int) -> None:
        self.world.put_cancelled(SMALL, key, pattern(size, seed + 100), count)

    @rule(key=keys)
    def read(self, key: str) -> None:
        self.world.read(SMALL, key)

    @rule(key=keys, wanted=ranges)
    def read_range(self, key: str, wanted: ByteRange) -> None:
        self.world.read(SMALL, key, wanted)

    @rule(key=keys)
    def head(self, key: str) -> None:
        self.world.head(SMALL, key)
        self.world.revalidate(SMALL, key)

    @rule(key=keys)
    def hold(self, key: str) -> None:
        if len(self.world.held) < 3:
            self.world.hold(SMALL, key)

    @rule()
    def finish_held(self) -> None:
        self.world.finish_held()

    @precondition(lambda self: not self.world.backing.down)
    @rule(
        key=keys,
        fault=st.sampled_from(
            [Fault(kind, "get", at=at) for kind in ("flip", "short", "cut") for at in (1000, 90_000)]
        ),
        size=st.sampled_from([30_000, 100_000, 400_000]),
        seed=seeds,
        looks=st.lists(st.sampled_from(["hold", "hold", "read", "part", "hot", "finish"]), min_size=3, max_size=8),
    )
    def crowd(self, key: str, size: int, seed: int, fault: Fault, looks: Sequence[str]) -> None:
        """Several readers of one cold object, and one transfer that goes wrong: who goes on from whose bytes?"""
        self.world.put(SMALL, key, pattern(size, seed))
        self.world.tier(SMALL, key, "cold")
        self.world.backing.script.clear()
        self.world.backing.script.append(fault)
        for look in looks:
            match look:
                case "hold":
                    self.hold(key)
                case "read":
                    self.read(key)
                case "part":
                    self.read_range(key, ByteRange(1, 70_000))
                case "hot":
                    self.world.tier(SMALL, key, "hot")
                case "finish":
                    self.finish_held()
        self.world.backing.script.clear()

    @rule(
        prefix=st.sampled_from(["", "a", "a/", "a/b", "fill/1"]),
        delimiter=st.sampled_from(["", "/"]),
        limit=st.sampled_from([1, 2, 1000]),
    )
    def list(self, prefix: str, delimiter: str, limit: int) -> None:
        self.world.list(SMALL, prefix, delimiter, limit)

    @rule(key=keys)
    def delete(self, key: str) -> None:
        self.world.delete(SMALL, key)

    @rule(key=keys, size=st.sampled_from([0, 1, 5000, 100_000]), seed=seeds)
    def append(self, key: str, size: int, seed: int) -> None:
        self.world.append(SMALL, key, pattern(size, seed))

    @rule(source=keys, renamed=keys)
    def rename(self, source: str, renamed: str) -> None:
        self.world.rename(SMALL, source, renamed)

    @rule(source=keys, copied=keys, bucket=st.sampled_from([SMALL, SMALL, BIG]))
    def copy(self, source: str, copied: str, bucket: str) -> None:
        self.world.copy((SMALL, source), (bucket, copied))

    @rule(key=keys, pin_ms=st.sampled_from([0, 30_000, FOREVER_MS]))
    def pin(self, key: str, pin_ms: int) -> None:
        self.world.change(SMALL, key, ObjectChange(pin_ms=pin_ms))

    @rule(key=keys, ttl=st.sampled_from([Ttl(0), Ttl(90_000), Ttl(90_000, sliding=True)]))
    def live(self, key: str, ttl: Ttl) -> None:
        self.world.change(SMALL, key, ObjectChange(ttl=ttl, tags={"ttl": str(ttl.ttl_ms)}))

    @rule(key=keys, tier=st.sampled_from(["cold", "cold", "both", "hot"]))
    def tier(self, key: str, tier: str) -> None:
        self.world.tier(SMALL, key, tier)

    @rule(
        key=keys,
        writer=st.sampled_from(["put", "delete", "cold", "hot"]),
        size=sizes,
        seed=seeds,
        waits=st.lists(turns, min_size=4, max_size=4),
        delays=st.integers(0, 3),
    )
    def race(self, key: str, writer: str, size: int, seed: int, waits: Any, delays: int) -> None:
        self.world.race(SMALL, key, writer, pattern(size, seed + 200), waits, delays)

    # -- uploads

    # Not by preconditions: how many there are depends on what a busy machine let happen, and hypothesis wants those to be
    # the same whenever a history is begun again.

    @rule(key=keys, bucket=st.sampled_from([SMALL, BIG]), ttl=ttls)
    def begin_upload(self, key: str, bucket: str, ttl: Ttl | None) -> None:
        if len(self.world.uploads) < 2:
            self.world.begin_upload(bucket, key, PutOptions(ttl=ttl))

    @rule(number=st.sampled_from([1, 2, 3, 10_000]), size=sizes, seed=seeds, which=st.integers(0, 1))
    def put_part(self, number: int, size: int, seed: int, which: int) -> None:
        for upload in self._one_of(self.world.uploads, which):
            self.world.put_part(
                upload, number, pattern(size + (5 << 20 if upload.bucket == BIG and number < 3 else 0), seed)
            )

    @rule(which=st.integers(0, 1))
    def complete(self, which: int) -> None:
        for upload in self._one_of([upload for upload in self.world.uploads if upload.parts], which):
            self.world.complete(upload)

    @rule(which=st.integers(0, 1))
    def abort_upload(self, which: int) -> None:
        for upload in self._one_of(self.world.uploads, which):
            self.world.abort_upload(upload)

    @staticmethod
    def _one_of(uploads: Sequence[Pending], which: int) -> Sequence[Pending]:
        """One, if there is one."""
        return [uploads[which % len(uploads)]] if uploads else []

    @rule(key=keys)
    def read_big(self, key: str) -> None:
        self.world.read(BIG, key)

    @rule(key=keys, tier=st.sampled_from(["cold", "hot"]))
    def tier_big(self, key: str, tier: str) -> None:
        self.world.tier(BIG, key, tier)

    # -- the world around

    @rule(seconds=st.sampled_from([1, 29, 61, 3600]))
    def advance(self, seconds: int) -> None:
        self.world.clock.advance(seconds)

    @rule()
    def settle(self) -> None:
        self.world.settle()

    @rule()
    def backing_down(self) -> None:
        self.world.backing.down = True

    @rule()
    def backing_up(self) -> None:
        self.world.backing.down = False

    @precondition(lambda self: not self.world.backing.down)
    @rule(fault=st.sampled_from([Fault("lose", "put"), Fault("lose", "delete"), Fault("flip", "get", at=1000)]))
    def break_next(self, fault: Fault) -> None:
        self.world.backing.script.clear()
        self.world.backing.script.append(fault)

    @rule(key=keys)
    def rot(self, key: str) -> None:
        self.world.rot(SMALL, key)

    @rule(key=keys)
    def lose_copy(self, key: str) -> None:
        self.world.lose_copy(SMALL, key)

    @rule()
    def crash(self) -> None:
        self.world.crash()

    @rule(key=keys, size=sizes, seed=seeds)
    def crash_inside_put(self, key: str, size: int, seed: int) -> None:
        self.world.put_torn_by_crash(SMALL, key, pattern(size, seed))


class TiersOfBlocks(Tiers):
    kind = "kv"


class TiersOfCache(Tiers):
    kind = "cache"


locks = st.sampled_from([None, None, None, Lock("GOVERNANCE", 1 << 45), Lock("", 0, True)])
versions = st.integers(0, 5)


class TiersOfVersions(Machine):
    """A bucket with versions, and beside it writes that push it out of the tier."""

    world: Versioned

    @initialize()
    def begin(self) -> None:
        self.world = Versioned(space_wait_s=self.space_wait_s)

    @rule(key=keys, size=sizes, seed=seeds, lock=locks)
    def put(self, key: str, size: int, seed: int, lock: Lock | None) -> None:
        self.world.put_version(key, pattern(size, seed), PutOptions(metadata={"seed": str(seed)}, lock=lock))

    @rule(key=keys, at=versions, copied=keys)
    def copy(self, key: str, at: int, copied: str) -> None:
        self.world.copy_version(key, at, copied)

    @rule(key=keys)
    def delete(self, key: str) -> None:
        self.world.delete_key(key)

    @rule(key=keys, at=versions, bypass=st.booleans())
    def delete_version(self, key: str, at: int, bypass: bool) -> None:
        self.world.delete_version(key, at, bypass)

    @rule(state=st.sampled_from(["Enabled", "Enabled", "Suspended"]))
    def versioning(self, state: Any) -> None:
        self.world.set_versioning(state)

    @rule(key=keys, at=versions, seed=seeds, hold=st.sampled_from([None, True, False]))
    def change(self, key: str, at: int, seed: int, hold: bool | None) -> None:
        self.world.change_version(key, at, ObjectChange(tags={"seed": str(seed)}, legal_hold=hold))

    @rule(key=keys, at=versions, tier=st.sampled_from(["cold", "cold", "both", "hot"]))
    def tier(self, key: str, at: int, tier: Any) -> None:
        self.world.tier_version(key, at, tier)

    @rule(
        key=keys,
        at=versions,
        tier=st.sampled_from(["cold", "hot"]),
        size=sizes,
        seed=seeds,
        waits=st.lists(turns, min_size=4, max_size=4),
    )
    def together(self, key: str, at: int, tier: Any, size: int, seed: int, waits: list[int]) -> None:
        self.world.together(key, pattern(size, seed + 300), at, tier, waits)

    @rule(key=keys)
    def read(self, key: str) -> None:
        self.world.read_key(key)

    @rule(key=keys, at=versions)
    def read_version(self, key: str, at: int) -> None:
        kept = self.world.nth(key, at)
        if kept is not None:
            self.world.read_version(key, kept)

    @rule(limit=st.sampled_from([1, 2, 1000]))
    def look(self, limit: int) -> None:
        self.world.look(limit)

    @rule(count=st.integers(4, 14), seed=seeds)
    def fill(self, count: int, seed: int) -> None:
        for each in range(count):
            self.world.put(SMALL, f"fill/{each}", pattern(100_000, seed + each))

    @rule()
    def settle(self) -> None:
        self.world.settle()

    @rule()
    def backing_down(self) -> None:
        self.world.backing.down = True

    @rule()
    def backing_up(self) -> None:
        self.world.backing.down = False

    @precondition(lambda self: not self.world.backing.down)
    @rule(fault=st.sampled_from([Fault("lose", "put"), Fault("lose", "delete")]))
    def break_next(self, fault: Fault) -> None:
        self.world.backing.script.clear()
        self.world.backing.script.append(fault)

    @rule()
    def crash(self) -> None:
        self.world.crash()

    @rule()
    def rebuild(self) -> None:
        self.world.rebuild()


_bounds = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    print_blob=True,
    verbosity=Verbosity.normal,
    suppress_health_check=list(HealthCheck),
)

TestStandard = Tiers.TestCase
TestStandard.settings = _bounds
TestKv = TiersOfBlocks.TestCase
TestKv.settings = _bounds
TestVersions = TiersOfVersions.TestCase
TestVersions.settings = _bounds
TestCache = TiersOfCache.TestCase
TestCache.settings = _bounds
