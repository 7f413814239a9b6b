"""What a worker asks of the keeper, and waiting until it is done.

Promise: only the keeper writes to the backing store, so writes to one name are never concurrent; an order survives the
worker that gave it.
Owns nothing: orders are rows in the index. Does not know how they are carried out (`tiering.duties.demote`).
Kind: shell; one thread (the loop's). Spec: docs/ARCHITECTURE.md, "Orders".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from tiering import layout
from tiering.contract import ColdUnavailable
from tiering.index import Batch
from tiering.layout import ObjectRecord, Order
from tiering.pool import Pool

_POLL_S: Final = 0.005


class Orders:
    """`wake_keeper` tells it to look; `wait_s` bounds the wait."""

    def __init__(self, wake_keeper: Callable[[], None], wait_s: float = 60.0) -> None:
        self._wake_keeper = wake_keeper
        self._wait_s = wait_s

    async def demoted(self, pool: Pool, okey: bytes, generation: int, *, evict: bool = False) -> None:
        """Returns when the keeper has dealt with the object, done or not: look at its record. Raises ColdUnavailable."""
        await self._carried_out(pool, [Order("evict" if evict else "demote", okey, generation)])

    async def backed(self, pool: Pool, okey: bytes, record: ObjectRecord) -> None:
        """In a pool of durability `backing`: returns when the backing store has all of the object. Raises ColdUnavailable."""
        if pool.config.durability != "backing" or not _owed(record):
            return
        verb = "manifest" if record.unlisted else "note" if record.unnoted else "demote"
        await self._carried_out(pool, [Order(verb, okey, record.generation)])
        now = pool.index.standing(okey, record.generation)
        if now is not None and _owed(now[1]):
            raise ColdUnavailable("stored here, but the backing store did not take its copy", retry_s=2)

    async def parts_demoted(self, pool: Pool, pkeys: Sequence[bytes]) -> None:
        """Returns when every part has its cold copy (or is gone). Raises ColdUnavailable."""
        await self._carried_out(pool, [Order("part", pkey, 0) for pkey in pkeys])
        with pool.index.view() as view:
            for pkey in pkeys:
                part = view.part(pkey)
                if part is not None and part.cold is None:
                    raise ColdUnavailable("a part could not be copied to the backing store", retry_s=2)

    async def _carried_out(self, pool: Pool, orders: list[Order]) -> None:
        def mutation(batch: Batch) -> list[bytes]:
            counters = batch.counters()
            keys = []
            for order in orders:
                counters.order += 1
                key = layout.u64_key(counters.order)
                batch.put("orders", key, layout.ORDER.encode(order))
                keys.append(key)
            return keys

        keys = await pool.committer.submit(mutation)
        self._wake_keeper()
        deadline = asyncio.get_running_loop().time() + self._wait_s
        while True:
            with pool.index.view() as view:
                keys = [key for key in keys if view.get("orders", key) is not None]
            if not keys:
                return
            if asyncio.get_running_loop().time() > deadline:
                raise ColdUnavailable("the keeper did not get to it in time", retry_s=5)
            await asyncio.sleep(_POLL_S)


def _owed(record: ObjectRecord) -> bool:
    """Whether a lost machine would lose the object or a change of it: it has no cold copy, or nothing in the bucket names
    its pieces or tells what changed."""
    return record.unlisted or record.unnoted or layout.is_dirty(record)
