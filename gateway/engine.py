"""The storage engine as the settings describe it: what worker, keeper and tools open alike.

Owns nothing beyond what it returns. Does not know HTTP or which process it is in. Kind: composition.
Spec: docs/ARCHITECTURE.md, "Processes".
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from gateway import tls
from gateway.admin.calls import Facts, PoolFacts
from gateway.admin.routes import Health
from gateway.config import Settings
from gateway.metrics import Metrics
from gateway.version import package_version
from tiering import events
from tiering.backing import BackingOptions, open_backing
from tiering.backing.wrappers import Outcome, Record, RetryPolicy, TimeLimits, Verb
from tiering.cold import ColdSide
from tiering.contract import Clock
from tiering.duties.scrub import ScrubRates, standing_damages, stored
from tiering.pool import Pool, PoolConfig, open_pool
from tiering.ports import Meter

_EVENT_METRICS: Final[Mapping[str, tuple[str, ...]]] = {
    events.HIT_HOT: ("recall_reads_total", "hot"),
    events.HIT_COLD: ("recall_reads_total", "cold"),
    events.MISS: ("recall_reads_total", "miss"),
    events.DEMOTED: ("recall_demotions_total",),
    events.DEMOTED_BYTES: ("recall_demoted_bytes_total",),
    events.EVICTED: ("recall_evictions_total",),
    events.EVICTED_BYTES: ("recall_evicted_bytes_total",),
    events.SURVIVED: ("recall_survivors_total",),
    events.SURVIVED_BYTES: ("recall_survivor_bytes_total",),
    events.RECALLED: ("recall_recalls_total",),
    events.RECALLED_BYTES: ("recall_recalled_bytes_total",),
    events.EXPIRED: ("recall_expired_total",),
    **{events.scrubbed_bytes(side): ("recall_scrubbed_bytes_total", side) for side in events.SIDES},
    **{
        events.damage(side, fate): ("recall_scrub_damage_total", side, fate)
        for side in events.SIDES
        for fate in events.FATES
    },
}


_log = logging.getLogger("recall.engine")


class SystemClock:
    """The machine's wall clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


def pool_configs(settings: Settings) -> list[PoolConfig]:
    """The engine's view of the pools, the default pool first."""
    configs = [
        PoolConfig(
            name=pool.name,
            path=Path(settings.data_dir) / "pools" / pool.name,
            capacity_bytes=pool.capacity_bytes,
            region_bytes=pool.region_bytes,
            durability=pool.durability,
            opaque_etag=pool.etag == "opaque",
            demote=pool.demote,
            demote_after_ms=round(pool.demote_after_s * 1000),
            pin_fraction_max=pool.pin_fraction_max,
            dirty_fraction_max=pool.dirty_fraction_max,
            space_wait_s=pool.space_wait_s,
            free_regions_low=pool.free_regions_low,
            bucket_patterns=pool.buckets,
        )
        for pool in settings.pools.values()
    ]
    return sorted(configs, key=lambda config: config.name != "standard")


def scrub_rates(settings: Settings) -> ScrubRates:
    return ScrubRates(settings.scrub_every_s, settings.scrub_bytes_per_s, settings.scrub_backing_bytes_per_s)


def open_pools(
    settings: Settings, slot: int, clock: Clock, wake_keeper: Callable[[], None], *, anew: bool = False
) -> dict[str, Pool]:
    """Opens every pool for the process in `slot`. Raises IndexCorrupt, DiskFull, ValueError.

    `anew`: one whose index is lost as well. A relaxed pool is always opened: losing its index is what it may do.
    """
    return {
        config.name: open_pool(config, slot, clock, wake_keeper, anew=anew or config.durability == "relaxed")
        for config in pool_configs(settings)
    }


def open_cold(settings: Settings, environ: Mapping[str, str], record: Record | None = None) -> ColdSide:
    """The cold side the settings name; the backing store need not be up. Raises ValueError."""
    options = BackingOptions(
        retry=RetryPolicy(attempts=settings.backing_retry_attempts),
        limits=TimeLimits(call_s=settings.backing_timeout_s),
        active=settings.backing_concurrency,
    )
    url = settings.backing
    return ColdSide(open_backing(url, environ, options=options, record=record))


def meter(metrics: Metrics) -> Meter:
    """Counts the tiers' events in this process's metric cells."""
    cells = metrics.cells
    at: dict[tuple[str, str], int] = {}

    def add(event: str, pool: str, amount: int) -> None:
        cell = at.get((event, pool))
        if cell is None:
            name, *labels = _EVENT_METRICS[event]
            cell = at[event, pool] = metrics.cell(name, pool, *labels)
        cells[cell] += amount

    return add


def action_count(metrics: Metrics) -> Callable[[str, int], None]:
    """Counts what lifecycle rules do in this process's metric cells."""

    def add(action: str, number: int) -> None:
        metrics.cells[metrics.cell("recall_lifecycle_actions_total", action)] += number

    return add


def backing_record(metrics: Metrics) -> Record:
    """Counts calls to the backing store in this process's metric cells."""
    cells = metrics.cells

    def add(verb: Verb, outcome: Outcome, seconds: float, moved: int) -> None:
        cells[metrics.cell("recall_backing_calls_total", verb, outcome)] += 1
        cells[metrics.cell("recall_backing_seconds_total", verb)] += round(seconds * 1e6)

    return add


def shared_gauges(pools: Mapping[str, Pool], data_dir: Path) -> Iterable[tuple[str, str, float]]:
    """The metrics of kind `shared`, read when somebody asks."""
    yield "recall_disk_free_bytes", "", shutil.disk_usage(data_dir).free
    certificate_ends_s = tls.ends_s(data_dir)
    if certificate_ends_s is not None:
        yield "recall_tls_certificate_end_timestamp_seconds", "", certificate_ends_s
    for name, pool in pools.items():
        with pool.index.view() as view:
            counters = view.counters()
            free_regions = view.count("free")
            scrubbed_ms = {side: stored(view, side).completed_ms for side in events.SIDES}
            damages = len(standing_damages(view))
            used_bytes = view.used_bytes()
            oldest_ms = view.oldest_dirty_ms() if pool.config.demote != "never" else None
            now_ms = pool.clock.now_ms()
        yield "recall_pool_capacity_bytes", name, pool.capacity_bytes
        yield "recall_pool_free_bytes", name, free_regions * pool.flash.region_bytes
        yield "recall_pool_hot_bytes", name, counters.hot_bytes
        yield "recall_pool_pinned_bytes", name, counters.pinned_bytes
        yield "recall_pool_dirty_bytes", name, counters.dirty_bytes
        yield (
            "recall_pool_dirty_age_seconds",
            name,
            max(0, now_ms - (now_ms if oldest_ms is None else oldest_ms)) / 1000,
        )
        yield "recall_pool_writable", name, float(_health_of(pool).writable)
        yield "recall_pool_objects", name, counters.objects
        yield "recall_pool_index_bytes", name, (pool.index.path / "data.mdb").stat().st_size
        yield "recall_pool_index_used_bytes", name, used_bytes
        yield "recall_pool_damaged", name, damages
        for side, at_ms in scrubbed_ms.items():
            yield f"recall_pool_{side}_scrubbed_timestamp_seconds", name, at_ms / 1000


def admin_facts(settings: Settings, pools: Mapping[str, Pool], up_s: float, endpoint: str) -> Facts:
    """What MinIO's tools are told of the gateway. `endpoint`: as the client calls it."""
    told, buckets = [], 0
    for name, pool in pools.items():
        with pool.index.view() as view:
            counters, free_regions = view.counters(), view.count("free")
            buckets += view.count("buckets")
        told.append(
            PoolFacts(
                name=name,
                path=str(pool.config.path),
                capacity_bytes=pool.capacity_bytes,
                free_bytes=free_regions * pool.flash.region_bytes,
                objects=counters.objects,
                object_bytes=counters.object_bytes,
                works=not pool.failed,
            )
        )
    return Facts(
        endpoint=endpoint,
        secure=bool(settings.tls_cert),
        region=settings.region,
        version=package_version(),
        up_s=int(up_s),
        buckets=buckets,
        pools=told,
        webhooks=tuple(settings.notify_webhooks),
    )


def held_times(pools: Mapping[str, Pool], metrics: Metrics) -> Callable[[], None]:
    """Brings the counters of how long writes waited up to date, when it is called."""
    seen = {(name, by): 0 for name, pool in pools.items() for by in pool.held_s()}
    at = {(name, by): metrics.cell("recall_writes_held_seconds_total", name, by) for name, by in seen}

    def count() -> None:
        for name, pool in pools.items():
            for by, seconds in pool.held_s().items():
                now = round(seconds * 1e6)
                metrics.cells[at[name, by]] += now - seen[name, by]
                seen[name, by] = now

    return count


ROOM_BYTES_MIN: Final = 64 << 10
"""Free bytes of a disk below which an index can hardly grow: the next writes will be refused."""
MEND_S: Final = 0.5
"""How often a process looks whether it should give way to a new one."""


async def until_over(pools: Mapping[str, Pool]) -> None:
    """Waits until this process should end because a device lost a write of it, and a new one would do better."""
    while True:
        await asyncio.sleep(MEND_S)
        for pool in pools.values():
            if pool.failed and await asyncio.to_thread(pool.is_over):
                _log.error("pool %s: the device lost a write; a new process takes over", pool.config.name)
                return


def health(pools: Mapping[str, Pool]) -> Health:
    """Writes are refused, and the probe for them fails, once a pool has too much that waits for the backing store, while its
    device has lost a write, and while the disk has no room for its index."""
    found = [_health_of(pool) for pool in pools.values()]
    return Health(readable=all(each.readable for each in found), writable=all(each.writable for each in found))


def _health_of(pool: Pool) -> Health:
    if pool.failed:
        return Health(readable=not pool.index.failed, writable=False)
    if shutil.disk_usage(pool.index.path).free < ROOM_BYTES_MIN:
        return Health(writable=False)
    with pool.index.view() as view:
        dirty_bytes = view.counters().dirty_bytes
    return Health(writable=pool.config.demote == "never" or dirty_bytes < pool.dirty_bytes_max)


class KeeperBell:
    """How other processes wake the keeper: a datagram on an abstract socket named after the data directory (a path would
    be cut at 108 bytes). Lost rings do no harm, and neither do a stranger's."""

    def __init__(self, data_dir: str) -> None:
        self._name = b"\0recall-keeper-" + hashlib.sha256(data_dir.encode()).hexdigest()[:32].encode()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def ring(self) -> None:
        try:
            self._socket.sendto(b"!", self._name)
        except OSError:
            pass  # no keeper just now, or it has rings enough

    def listen(self) -> socket.socket:
        """The keeper's end."""
        self._socket.bind(self._name)
        return self._socket

    def close(self) -> None:
        self._socket.close()
