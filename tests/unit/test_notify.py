"""Routing events to queues and delivering them: order, back-off, kills between the steps, full queues."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.config import load
from gateway.keeper import receivers
from gateway.notify import REFUSALS_MAX, Answer, DeliveryDuty, RouteDuty
from gateway.spool import Spool
from s3api import notification
from tests.support.clock import ManualClock
from tiering.contract import BucketChange, BucketInfo, EventRecord
from tiering.memory import MemoryStore

DOCUMENT = b"""<NotificationConfiguration><QueueConfiguration><Queue>arn:minio:sqs::one:webhook</Queue>
<Event>s3:ObjectCreated:*</Event></QueueConfiguration><QueueConfiguration><Queue>arn:minio:sqs::two:webhook</Queue>
<Event>s3:ObjectRemoved:*</Event></QueueConfiguration></NotificationConfiguration>"""


class Rows:
    """A journal in memory. `dies`: raises before events are forgotten, as a kill would."""

    def __init__(self) -> None:
        self.events: dict[int, EventRecord] = {}
        self.number = 0
        self.dies = False

    def add(self, event: str, key: str, bucket: str = "b") -> None:
        self.number += 1
        self.events[self.number] = EventRecord(event=event, bucket=bucket, key=key, at_ms=0)

    def oldest(self, limit: int) -> Sequence[tuple[int, EventRecord]]:
        return list(self.events.items())[:limit]

    async def forget(self, numbers: Sequence[int]) -> None:
        if self.dies:
            raise RuntimeError("killed")
        for number in numbers:
            del self.events[number]


class World:
    def __init__(self, path: Path, bytes_max: int = 1 << 20) -> None:
        self.store = MemoryStore(ManualClock())
        self.rows = Rows()
        self.spools = {name: Spool(path / name, bytes_max) for name in ("one", "two")}
        self.counts: Counter[str] = Counter()
        self.sent: list[str] = []
        self.answers: list[Answer] = []
        self.now_s = 0.0
        self.route = RouteDuty([self.rows], self.store, self.spools, "us-east-1", "root", "host", count=self.count)
        self.deliveries = [
            DeliveryDuty(name, spool, self.send, self.count, lambda: self.now_s, lambda: 0.0)
            for name, spool in self.spools.items()
        ]

    def count(self, fate: str, number: int) -> None:
        self.counts[fate] += number

    async def bucket(self) -> None:
        await self.store.create_bucket(BucketInfo(name="b", created_ms=0, pool=""))
        text = notification.store(notification.parse(DOCUMENT, ("one", "two")))
        await self.store.change_bucket("b", BucketChange({"notification": text}))

    async def send(self, message: bytes) -> Answer:
        answer: Answer = self.answers.pop(0) if self.answers else "taken"
        if answer == "taken":
            record = json.loads(message)["Records"][0]
            self.sent.append(f"{record['eventName']} {record['s3']['object']['key']}")
        return answer

    async def deliver(self) -> None:
        while any([await duty.step() for duty in self.deliveries]):
            pass


def test_events_of_others_buckets_are_not_told_to_a_webhook_of_some(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path)
        await world.bucket()
        for owners in ({"one": ("another",)}, {"one": ("another", "root")}, {}):
            world.route = RouteDuty(
                [world.rows], world.store, world.spools, "us-east-1", "root", "host", count=world.count, owners=owners
            )
            world.rows.add("ObjectCreated:Put", f"a{len(owners)}{sum(map(len, owners.values()))}")
            await world.route.step()
        await world.deliver()
        assert world.sent == ["ObjectCreated:Put a12", "ObjectCreated:Put a00"]
        assert world.counts == {"delivered": 2}

    asyncio.run(run())


def test_events_reach_whom_they_concern_in_order(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path)
        await world.bucket()
        for number in range(5):
            world.rows.add("ObjectCreated:Put", f"k{number}")
        world.rows.add("ObjectRemoved:Delete", "k0")
        world.rows.add("ObjectTagging:Put", "k1")
        world.rows.add("ObjectCreated:Put", "k", bucket="gone")
        assert await world.route.step() == 8
        assert not world.rows.events
        assert await world.route.step() == 0
        await world.deliver()
        assert sorted(world.sent) == [*(f"ObjectCreated:Put k{n}" for n in range(5)), "ObjectRemoved:Delete k0"]
        assert [each for each in world.sent if "Created" in each] == [f"ObjectCreated:Put k{n}" for n in range(5)]
        assert world.counts == {"delivered": 6}

    asyncio.run(run())


def test_bucket_that_was_made_again_is_told_nothing_of_the_one_before(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path)
        await world.store.create_bucket(BucketInfo(name="b", created_ms=7, pool=""))
        text = notification.store(notification.parse(DOCUMENT, ("one", "two")))
        await world.store.change_bucket("b", BucketChange({"notification": text}))
        for key, bucket_ms in (("old", 5), ("new", 7)):
            world.rows.add("ObjectCreated:Put", key)
            world.rows.events[world.rows.number].bucket_ms = bucket_ms
        assert await world.route.step() == 2
        await world.deliver()
        assert world.sent == ["ObjectCreated:Put new"]

    asyncio.run(run())


def test_webhook_that_is_away_is_tried_again_with_longer_pauses_and_holds_up_no_other(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path)
        await world.bucket()
        world.rows.add("ObjectCreated:Put", "k")
        world.rows.add("ObjectCreated:Put", "l")
        await world.route.step()
        (one, two) = world.deliveries
        world.answers = ["away"] * 20
        tries = []
        for _ in range(400):
            if world.answers:
                before = len(world.answers)
                await one.step()
                if len(world.answers) < before:
                    tries.append(world.now_s)
            world.now_s += 1.0
        assert tries[:8] == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
        assert tries[9] - tries[8] == 60.0
        world.answers = []
        world.rows.add("ObjectRemoved:Delete", "k")
        await world.route.step()
        assert await two.step() == 1
        world.now_s += 60
        await world.deliver()
        assert world.sent == ["ObjectRemoved:Delete k", "ObjectCreated:Put k", "ObjectCreated:Put l"]

    asyncio.run(run())


def test_event_that_is_refused_again_and_again_is_given_up_and_the_next_one_goes(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path)
        await world.bucket()
        for key in ("poison", "k", "l"):
            world.rows.add("ObjectCreated:Put", key)
        await world.route.step()
        one = world.deliveries[0]
        # What speaks of the receiver, not of the event, starts the count again.
        world.answers = ["refused"] * (REFUSALS_MAX - 1) + ["away"] + ["refused"] * REFUSALS_MAX
        for _ in range(1000):
            await one.step()
            world.now_s += 1.0
        assert world.sent == ["ObjectCreated:Put k", "ObjectCreated:Put l"]
        assert world.counts == {"failed": 2 * REFUSALS_MAX - 1, "refused": 1, "delivered": 2}

    asyncio.run(run())


def test_kill_before_the_journal_forgets_repeats_and_loses_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path)
        await world.bucket()
        world.rows.add("ObjectCreated:Put", "k")
        world.rows.dies = True
        try:
            await world.route.step()
        except RuntimeError:
            pass
        for spool in world.spools.values():
            spool.close()
        after = World(tmp_path)
        await after.bucket()
        after.rows.events = world.rows.events
        await after.route.step()
        await after.deliver()
        assert after.sent == ["ObjectCreated:Put k"] * 2

    asyncio.run(run())


def test_journal_that_cannot_forget_repeats_nothing_while_the_keeper_lives(tmp_path: Path) -> None:
    """A disk that takes the queues and not the index: the step is tried again every few seconds."""

    async def run() -> None:
        world = World(tmp_path)
        await world.bucket()
        world.rows.dies = True
        for key in ("a", "b", "c"):
            world.rows.add("ObjectCreated:Put", key)
            with pytest.raises(RuntimeError):
                await world.route.step()
        world.rows.dies = False
        world.rows.add("ObjectCreated:Put", "d")
        await world.route.step()
        await world.deliver()
        assert world.sent == [f"ObjectCreated:Put {key}" for key in "abcd"]

    asyncio.run(run())


def test_full_queue_drops_and_counts_the_newest(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path, 2000)
        await world.bucket()
        for number in range(10):
            world.rows.add("ObjectCreated:Put", f"k{number}")
        await world.route.step()
        await world.deliver()
        delivered = world.counts["delivered"]
        assert 1 <= delivered < 10
        assert world.counts["dropped"] == 10 - delivered
        assert world.sent == [f"ObjectCreated:Put k{number}" for number in range(delivered)]

    asyncio.run(run())


def test_a_token_of_no_webhook_is_said_without_its_value(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = load({"RECALL_DATA_DIR": str(tmp_path), "RECALL_NOTIFY_WEBHOOKS": "audit-1=http://127.0.0.1:9/"})
    environ = {"RECALL_NOTIFY_TOKEN_AUDIT_1": "good-token", "RECALL_NOTIFY_TOKEN_ADUIT_1": "lost-token"}
    spools, webhooks = receivers(settings, environ)
    assert spools.keys() == webhooks.keys() == {"audit-1"}
    assert "RECALL_NOTIFY_TOKEN_ADUIT_1 is set, and notify_webhooks has no such webhook" in caplog.text
    assert "TOKEN_AUDIT_1" not in caplog.text and "lost-token" not in caplog.text
    for spool in spools.values():
        spool.close()
