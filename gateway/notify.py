"""Telling webhooks of events: from the pools' journals into a durable queue for each webhook, and from there by HTTP.

Promise: each event is sent at least once, in order, to each webhook that its bucket's configuration names when the event
is looked at; a webhook that is away, slow or failing is tried again for ever, with back-off, and holds up no other.
Nothing is lost when a process is killed or the machine loses power: an event leaves the journal when it is in the queues,
and a queue when the webhook has answered 2xx, or has refused it REFUSALS_MAX times. A queue is bounded: events for a full one
are dropped. What is dropped is counted.

Owns nothing but the time of the next try. Does not know the index or HTTP: both are handed in (`PoolJournal`, `Webhook`).
Kind: duty; the keeper's loop. Spec: docs/EXTENSIONS.md, "Notifications".
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

from gateway.spool import Spool
from s3api import notification
from tiering import journal, layout
from tiering.contract import Buckets, EventRecord, NoSuchBucket
from tiering.pool import Pool

ROUTE_MAX: Final = 256
"""Events one step takes out of a journal; they share one sync of each queue."""
TRY_FIRST_S: Final = 0.5
TRY_MAX_S: Final = 60.0
"""The first pause after a failure, and the longest; each is as long again as the one before, and up to half of it less."""
REFUSALS_MAX: Final = 8
"""Refusals in a row after which an event is given up, so that what waits behind it goes on. With the pauses between them that
is a minute: a receiver whose token or path is wrong loses one event a minute, not its queue."""

Answer = Literal["taken", "refused", "away"]
"""What a webhook made of a message: 2xx; another answer that speaks of the message; no answer, or one that speaks of itself."""
Count = Callable[[str, int], None]
"""Told of messages by their fate: delivered, failed (to be tried again), dropped, refused (given up)."""

_log = logging.getLogger("recall.notify")


class Journal(Protocol):
    """The events of one pool that wait, oldest first, each with a number that grows."""

    def oldest(self, limit: int) -> Sequence[tuple[int, EventRecord]]: ...

    async def forget(self, numbers: Sequence[int]) -> None: ...


class PoolJournal:
    """The Journal of one pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def oldest(self, limit: int) -> Sequence[tuple[int, EventRecord]]:
        with self._pool.index.view() as view:
            return [(layout.unpack_u64(key), event) for key, event in journal.oldest(view, limit)]

    async def forget(self, numbers: Sequence[int]) -> None:
        keys = [layout.u64_key(number) for number in numbers]
        await self._pool.committer.submit(lambda batch: journal.forget(batch, keys))


def _uncounted(fate: str, number: int) -> None:
    """The Count of tests that do not count."""


class RouteDuty:
    """Takes events out of the journals and queues a message for each webhook that is to be told.

    `owner`: canonical id of the root account, who owns buckets that name nobody. `owners`: whose buckets some webhooks are for
    alone. `wake`: rings for the deliveries.
    """

    def __init__(
        self,
        journals: Sequence[Journal],
        buckets: Buckets,
        spools: Mapping[str, Spool],
        region: str,
        owner: str,
        host_id: str,
        wake: Callable[[], None] = lambda: None,
        count: Count = _uncounted,
        owners: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.name = "notify"
        self._owners = owners or {}
        self._journals = journals
        self._buckets = buckets
        self._spools = spools
        self._region = region
        self._owner = owner
        self._host_id = host_id
        self._wake = wake
        self._count = count
        self._queued: dict[tuple[int, str], int] = {}
        """By journal and webhook, the last event that was looked at for its queue: one that the journal, or another's queue, could
        not let go of is not queued again each time that is tried."""

    async def step(self) -> int:
        done = 0
        for at, rows in enumerate(self._journals):
            events = rows.oldest(ROUTE_MAX)
            if not events:
                continue
            messages: dict[str, list[bytes]] = {}
            for number, event in events:
                for target, message in self._messages(number, event):
                    if number > self._queued.get((at, target), 0):
                        messages.setdefault(target, []).append(message)
            for target, queued in messages.items():
                self._queue(target, queued)
                self._queued[at, target] = events[-1][0]
            # Only now: killed before, the next keeper queues them again.
            await rows.forget([number for number, _ in events])
            done += len(events)
        if done:
            self._wake()
        return done

    def _messages(self, number: int, event: EventRecord) -> list[tuple[str, bytes]]:
        try:
            bucket = self._buckets.bucket(event.bucket)
        except NoSuchBucket:
            return []  # and its configuration with it
        text = bucket.documents.get("notification")
        if text is None or event.bucket_ms not in (0, bucket.created_ms):  # of one of that name that was deleted
            return []
        owner = bucket.owner or self._owner
        return [
            (target, notification.message(event, number, notice, self._region, owner, self._host_id))
            for target, notice in notification.receivers(notification.load(text), event)
            if notification.is_for(target, owner, self._owners)  # also where it was not yet, when it was named
        ]

    def _queue(self, target: str, messages: Sequence[bytes]) -> None:
        spool = self._spools.get(target)
        taken = 0 if spool is None else spool.append(messages)
        if taken < len(messages):
            why = "its queue is full" if spool is not None else "notify_webhooks does not have it"
            _log.error("events for webhook %s are dropped: %s", target, why, extra={"once": f"dropped-{target}"})
            self._count("dropped", len(messages) - taken)


class DeliveryDuty:
    """Sends the queue of one webhook, one message at a time. `send` does not raise."""

    def __init__(
        self,
        target: str,
        spool: Spool,
        send: Callable[[bytes], Awaitable[Answer]],
        count: Count = _uncounted,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.name = f"notify-{target}"
        self._target = target
        self._spool = spool
        self._send = send
        self._count = count
        self._monotonic = monotonic
        self._jitter = jitter
        self._pause_s = TRY_FIRST_S
        self._next_try_s = 0.0
        self._refusals = 0  # of the message that is next

    async def step(self) -> int:
        if self._monotonic() < self._next_try_s:
            return 0
        message = self._spool.peek()
        if message is None:
            return 0
        answer = await self._send(message)
        self._refusals = self._refusals + 1 if answer == "refused" else 0
        if answer == "taken" or self._refusals == REFUSALS_MAX:
            self._spool.advance()
            self._pause_s = TRY_FIRST_S
            self._count("delivered" if answer == "taken" else "refused", 1)
            if self._refusals:
                self._refusals = 0
                _log.error("webhook %s refuses an event, which is given up", self._target)
            return 1
        self._count("failed", 1)
        self._next_try_s = self._monotonic() + self._pause_s * (1 - self._jitter() / 2)
        self._pause_s = min(self._pause_s * 2, TRY_MAX_S)
        return 0
