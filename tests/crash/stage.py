"""What scenes that end in a kill are played with: an engine, and a wire that kills at a named point.

A point is either a place in a scene, or a `Stop`: the call of one of our functions, or the return from it, wherever it is made.
What is promised before the end is told line by line: `has KEY SEED SIZE`, `has not KEY`; `may KEY SEED SIZE`, `may not KEY`:
that as well, for what was not answered; `loses KEY`: once the lifecycle rules have been carried out; `tells KEY`: an event that
the webhook gets, in this order. What the webhook got is in the file `told` of the scene's folder.

Owns the wire. Does not know the scenes. Kind: shell of the tests. Spec: docs/SEMANTICS.md, "Durability".
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

from gateway import maintenance
from gateway.config import PoolSettings, Settings
from gateway.lifecycle import LifecycleDuty
from gateway.notify import Answer, DeliveryDuty, PoolJournal, RouteDuty
from gateway.spool import Spool
from tests.conformance import steps
from tests.model.world import pattern
from tests.support.clock import ManualClock
from tests.support.engine import REGION, Engine, pool_config
from tiering.duties.evict import EvictDuty
from tiering.policy import TwoQueues
from tiering.ports import Backing
from tiering.rebuild import rebuild as rebuild_pools

BUCKET: Final = "b"
COMMIT: Final = "Batch.commit"
HOOK: Final = "hook"
"""The webhook of the scenes with events."""
SPOOL_BYTES: Final = 16 << 20
DAY_S: Final = 24 * 3600


def die() -> None:
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


class Stop(NamedTuple):
    """`event`: "call" or "return". `after`: a function that must have been called before. `count`: the how manieth time."""

    function: str
    event: str
    after: str = ""
    count: int = 1


class Tripwire:
    """Watches every call in every thread and dies at the `stop`, once it is set."""

    def __init__(self) -> None:
        self.stop: Stop | None = None
        self._passed = False
        self._seen = 0

    def watch(self) -> None:
        """Before the threads that are to be watched are started."""
        threading.setprofile(self._look)
        sys.setprofile(self._look)

    def _look(self, frame: FrameType, event: str, argument: Any) -> None:
        stop = self.stop
        if stop is None:
            return
        name = frame.f_code.co_qualname
        if stop.after and not self._passed:
            self._passed = name == stop.after
        elif name == stop.function and event == stop.event:
            self._seen += 1
            if self._seen == stop.count:
                die()


def has(key: str, seed: int, size: int) -> None:
    print(f"has {key} {seed} {size}", flush=True)


def has_not(key: str) -> None:
    print(f"has not {key}", flush=True)


def may(key: str, seed: int, size: int) -> None:
    print(f"may {key} {seed} {size}", flush=True)


def may_not(key: str) -> None:
    print(f"may not {key}", flush=True)


def loses(key: str) -> None:
    print(f"loses {key}", flush=True)


def tells(key: str) -> None:
    print(f"tells {key}", flush=True)


def is_relaxed(point: str) -> bool:
    """Whether its scene is played in a pool whose commits wait for no device."""
    return point.startswith("relaxed_")


def is_rebuild(point: str) -> bool:
    """Whether its scene ends in a rebuild that is cut short: another one, and nothing less, brings everything back."""
    return point.startswith("rebuild_")


async def open_engine(path: Path, backing: Backing, point: str) -> Engine:
    relaxed: dict[str, Any] = {"durability": "relaxed", "opaque_etag": True} if is_relaxed(point) else {}
    anew = is_relaxed(point)  # as a gateway does
    # The prefix of a gateway, whose tools some scenes use.
    return await Engine.open(path, ManualClock(), backing, [pool_config(path, "small", **relaxed)], anew=anew)


async def take_back(engine: Engine) -> None:
    """What a keeper does first: pools whose index was lost get what the backing store has."""
    owed = [name for name, pool in engine.pools.items() if pool.is_owed()]
    if owed:
        await rebuild_pools(engine.pools, engine.buckets, engine.cold, owed)


def settings(path: Path) -> Settings:
    """The same engine, as a gateway's settings say it."""
    small = PoolSettings(name="small", capacity_bytes=32 * REGION, region_bytes=REGION)
    return Settings(data_dir=str(path), backing=f"file://{path}/backing", pools={"small": small})


def rebuild(path: Path) -> str:
    """`recall rebuild`; returns what it prints."""
    output = io.StringIO()
    maintenance.rebuild(settings(path), output)
    return output.getvalue()


def walker(path: Path, engine: Engine) -> LifecycleDuty:
    """The duty that carries out the rules, without rests."""

    async def rest(seconds: float) -> None:
        pass

    return LifecycleDuty(engine.store, engine.clock, DAY_S * 1000, path / "lifecycle.json", rest=rest)


class Receiver:
    """A webhook that answers 2xx, and the duties that tell it what happened."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self._path = path
        self.spool = Spool(path / "notify" / HOOK, SPOOL_BYTES)
        journals = [PoolJournal(pool) for pool in engine.pools.values()]
        self._route = RouteDuty(journals, engine.store, {HOOK: self.spool}, "us-east-1", "root", "host")
        self._deliver = DeliveryDuty(HOOK, self.spool, self._take)

    async def _take(self, message: bytes) -> Answer:
        self._note(json.loads(message)["Records"][0]["s3"]["object"]["key"])
        return "taken"

    def _note(self, key: str) -> None:
        with open(self._path / "told", "a") as told:
            told.write(f"{key}\n")

    async def settle(self) -> None:
        while await self._route.step() + await self._deliver.step():
            pass


class Scene:
    """An engine whose backing store and meters can be told when to die."""

    def __init__(self, path: Path, engine: Engine, wire: Tripwire) -> None:
        self.path = path
        self.engine = engine
        self._wire = wire
        self._die_at: tuple[str, str] | None = None

    def die_after(self, verb: str, name_part: str) -> None:
        """At the next such write to the backing store: done there, not noted here."""
        self._die_at = (verb, name_part)

    def die_at(self, function: str, event: str = "return", after: str = "", count: int = 1) -> None:
        """At the next call of a function of ours, or return from it; or at the `count`th."""
        self._wire.stop = Stop(function, event, after, count)

    async def hook(self, verb: str, name: str) -> None:
        if self._die_at is not None and verb == self._die_at[0] and self._die_at[1] in name:
            die()

    async def put(self, key: str, seed: int, size: int) -> None:
        await steps.put(self.engine.store, key, pattern(size, seed))
        has(key, seed, size)

    async def fill(self, count: int, size: int = 60_000) -> None:
        for each in range(count):
            await self.put(f"fill/{each}", each, size)

    def evict_dying_at(self, event: str, count: int) -> EvictDuty:
        """An eviction that dies when it counts the event for the `count`th time: after earlier marks, before this one's."""
        left = [count]

        def meter(name: str, pool: str, amount: int) -> None:
            if name == event:
                left[0] -= 1
                if left[0] == 0:
                    die()

        pool = self.engine.pools["small"]
        duty = EvictDuty(pool, self.engine.demoter, TwoQueues(pool.flash.regions), meter)
        duty.low = pool.flash.regions
        return duty
