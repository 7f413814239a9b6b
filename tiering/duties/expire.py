"""Deadlines: deletes what has expired and ends pins and holds that have lapsed.

Promise: only tidies up — readers judge the deadline themselves, so nothing depends on when this runs.
Owns nothing. Does not know the backing store. Kind: duty; the keeper's loop. Spec: docs/SEMANTICS.md, "Time to live".
"""

from __future__ import annotations

from typing import Final

from tiering import events, mutations
from tiering.pool import Pool
from tiering.ports import Meter

STEP_MAX: Final = 256
STALE_EVERY_MS: Final = 60_000
"""How often uploads are looked through: their age is counted in days."""


class ExpireDuty:
    """One transaction a step, of at most STEP_MAX objects and as many leases."""

    def __init__(self, pool: Pool, meter: Meter = events.uncounted) -> None:
        self.name = f"expire-{pool.config.name}"
        self._pool = pool
        self._count = meter

    async def step(self) -> int:
        pool = self._pool
        now_ms = pool.clock.now_ms()
        with pool.index.view() as view:
            if not any(mutations.due(view, rows, now_ms, 1) for rows in ("expiry", "leases")):
                return 0
        done = await pool.committer.submit(lambda batch: mutations.expire_due(batch, pool, now_ms, STEP_MAX))
        self._count(events.EXPIRED, pool.config.name, done)
        return done


class StaleUploadDuty:
    """Aborts uploads that were begun longer than `age_ms` ago; 0 keeps them for ever."""

    def __init__(self, pool: Pool, age_ms: int) -> None:
        self.name = f"stale-uploads-{pool.config.name}"
        self._pool = pool
        self._age_ms = age_ms
        self._next_ms = 0

    async def step(self) -> int:
        now_ms = self._pool.clock.now_ms()
        if not self._age_ms or now_ms < self._next_ms:
            return 0
        self._next_ms = now_ms + STALE_EVERY_MS
        before_ms = now_ms - self._age_ms
        return await self._pool.committer.submit(lambda batch: mutations.drop_uploads(batch, before_ms, STEP_MAX))
