"""A whole storage engine in the test's own process: store and keeper over real files, clock and duties in the test's hands.

Store and keeper share one index, as they must in one process, but have room and epochs of their own, as two processes have.
`crash()` ends it as SIGKILL would: nothing is sealed, flushed or synced; what was written stays, as in the page cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.clock import ManualClock
from tiering.buckets import Buckets
from tiering.check import Report, check_cold, check_pool
from tiering.cold import ColdSide
from tiering.duties.demote import ChillDuty, DemoteDuty, Demoter, OrderDuty, UpkeepDuty
from tiering.duties.evict import EvictDuty
from tiering.duties.expire import ExpireDuty
from tiering.orders import Orders
from tiering.pool import Pool, PoolConfig, open_pool, recover
from tiering.ports import Backing, BackingUnavailable, Duty
from tiering.space import KEEPER_SLOT, Space
from tiering.store import TieredStore

REGION = 64 << 10
WORKER_SLOT = 1
ORDER_S = 60.0
"""For a machine that is slow or busy; a duty that cannot do what it is told says so at once."""


def pool_config(path: Path, name: str, **fields: Any) -> PoolConfig:
    """A small pool: 32 regions of 64 KiB, writers that do not wait long."""
    shape: dict[str, Any] = {"capacity_bytes": 32 * REGION, "region_bytes": REGION, "space_wait_s": 0.2, **fields}
    return PoolConfig(name=name, path=path / "pools" / name, **shape)


def default_configs(path: Path, **fields: Any) -> list[PoolConfig]:
    """The two pools there are by default."""
    return [
        pool_config(path, "standard", **fields),
        pool_config(
            path, "kv", durability="relaxed", opaque_etag=True, demote="pressure", bucket_patterns=("kv-*",), **fields
        ),
    ]


class Engine:
    """Open with `await Engine.open(…)`; `store` is the store, `duties` the keeper's by pool and kind."""

    def __init__(
        self,
        path: Path,
        clock: ManualClock,
        backing: Backing,
        configs: list[PoolConfig],
        anew: bool = False,
    ) -> None:
        self.path = path
        self.clock = clock
        self.backing = backing
        self.cold = ColdSide(backing)
        self.pools: dict[str, Pool] = {
            config.name: open_pool(config, KEEPER_SLOT, clock, self.wake, anew=anew) for config in configs
        }
        for pool in self.pools.values():
            recover(pool)
        self._rung = asyncio.Event()
        self.served = {name: self._served(pool) for name, pool in self.pools.items()}
        self.store = TieredStore(self.served, path, self.cold, Orders(self.wake, ORDER_S), clock, WORKER_SLOT)
        self.buckets = Buckets(self.pools, path)
        self.demoter = Demoter(self.pools, self.buckets, self.cold)
        self.duties: dict[str, list[Duty]] = {name: self._duties(pool) for name, pool in self.pools.items()}
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        path: Path,
        clock: ManualClock,
        backing: Backing,
        configs: list[PoolConfig] | None = None,
        *,
        anew: bool = False,
    ) -> Engine:
        """`anew`: as for `open_pool`."""
        await asyncio.to_thread(path.mkdir, parents=True, exist_ok=True)
        return cls(path, clock, backing, configs or default_configs(path), anew)

    def _duties(self, pool: Pool) -> list[Duty]:
        keeps_copies = pool.config.demote != "never"
        duties: list[Duty] = [
            OrderDuty(self.demoter, pool),
            EvictDuty(pool, self.demoter if keeps_copies else None),
            ExpireDuty(pool),
            UpkeepDuty(self.demoter, pool),
        ]
        return [*duties, ChillDuty(self.demoter, pool), DemoteDuty(self.demoter, pool)] if keeps_copies else duties

    def _served(self, pool: Pool) -> Pool:
        """The pool as a worker has it: the regions reserved for the keeper are not its."""
        space = Space(pool.committer, pool.flash, WORKER_SLOT, self.wake, pool.config.space_wait_s)
        return Pool(pool.config, pool.index, pool.flash, pool.heat, pool.committer, space, pool.clock)

    def wake(self) -> None:
        self._rung.set()

    def start_keeper(self) -> None:
        """Runs the duties in the background, so that calls which wait for the keeper get their answer."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            await self.settle(rounds=1)
            try:
                async with asyncio.timeout(0.002):
                    await self._rung.wait()
            except TimeoutError:
                pass
            self._rung.clear()

    async def settle(self, rounds: int = 50) -> None:
        """Steps every duty until nothing is left to do (or `rounds` passes); an absent backing store ends a duty's turn."""
        for _ in range(rounds):
            done = 0
            for name, duties in self.duties.items():
                self.pools[name].epochs.rotate()
                self.served[name].epochs.rotate()
                self.served[name].flush_touches()
                self.served[name].rest()
                self.pools[name].rest()
                for duty in duties:
                    try:
                        done += await duty.step()
                    except BackingUnavailable:
                        continue
            if not done:
                return

    def duty(self, pool: str, kind: type) -> Any:
        return next(duty for duty in self.duties[pool] if isinstance(duty, kind))

    async def audit(self) -> Mapping[str, Report]:
        """`recall check` on every pool; asserts that nothing is wrong."""
        reports = {}
        for name, pool in self.pools.items():
            report, copies = check_pool(name, pool.index, pool.flash)
            try:
                await check_cold(report, self.cold, copies)
            except BackingUnavailable:
                pass
            assert not report.faults, report.faults
            reports[name] = report
        return reports

    async def stop_keeper(self) -> None:
        """Its duties take no further step by themselves."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def close(self) -> None:
        await self.stop_keeper()
        await self.store.close()
        self.buckets.close()
        for name, pool in self.pools.items():
            self.served[name].space.close()
            self.served[name].epochs.close()
            pool.close()

    async def crash(self) -> None:
        """Ends without any of the orderly steps. What was queued for the committer is committed: it was acknowledged."""
        await self.stop_keeper()
        await self.store.close()
        self.buckets.close()
        for name, pool in self.pools.items():
            pool.committer.close()
            self.served[name].epochs.close()
            pool.epochs.close()
            pool.index.close()
            pool.flash.close()
            pool.heat.close()
