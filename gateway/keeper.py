"""The keeper: the composition root of the background process, and the runner of its duties.

Promise: recovers the pools before it reports ready; then demotes, evicts, expires and keeps the backing store true,
without ever owning a request. Killed at any moment, the next one goes on where the index says.
Owns the duties' tasks. Does not know HTTP. Kind: shell; composition root.
Spec: docs/ARCHITECTURE.md, "Duties".
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import logging
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop

from gateway import engine, owner
from gateway.config import NOTIFY_TOKEN_PREFIX, Settings
from gateway.identities import ROOT_CANONICAL_ID
from gateway.lifecycle import LifecycleDuty
from gateway.metrics import Metrics
from gateway.notify import DeliveryDuty, PoolJournal, RouteDuty
from gateway.pulse import Pulse
from gateway.runner import KEEPER_STOP, Briefing, Ready
from gateway.spool import Spool
from gateway.worker import EPOCH_S, OPERATION_NAMES, SLOW_TURNS, SWITCH_S
from tiering.buckets import Buckets
from tiering.cold import ColdSide
from tiering.contract import Busy, DeviceFailed, DiskFull
from tiering.duties.coldscrub import ColdScrubDuty
from tiering.duties.demote import ChillDuty, DemoteDuty, Demoter, OrderDuty, UpkeepDuty
from tiering.duties.evict import EvictDuty
from tiering.duties.expire import ExpireDuty, StaleUploadDuty
from tiering.duties.scrub import ScrubDuty, ScrubRates
from tiering.orders import Orders
from tiering.pool import Pool, recover
from tiering.ports import BackingUnavailable, Duty, Meter
from tiering.rebuild import rebuild
from tiering.recovery import set_aside_if_broken
from tiering.space import KEEPER_SLOT
from tiering.store import TieredStore

if TYPE_CHECKING:
    from gateway.webhook import Webhook

IDLE_S: Final = 0.25
"""How long an idle duty sleeps when nobody rings; workers ring for orders and whenever they take a region."""
FAILED_WAIT_FIRST_S: Final = 0.1
FAILED_WAIT_MAX_S: Final = 5.0
STALE_UPLOAD_MS: Final = 7 * 24 * 3600 * 1000
"""Uploads nobody completes are aborted after this: an engine that dies leaves its parts in the tier otherwise."""
SYNC_S: Final = 5.0
"""How often the index of a relaxed pool is forced to the device: what a power loss can take back at most."""

_log = logging.getLogger("recall.keeper")


def run(briefing: Briefing, ready: Ready) -> None:
    """Runs the duties until KEEPER_STOP. Raises what keeps it from starting."""
    sys.setswitchinterval(SWITCH_S)
    uvloop.run(_keep(briefing.settings, briefing.environ, ready, briefing.first, Pulse(briefing.pulse_fd)))


async def _keep(settings: Settings, environ: Mapping[str, str], ready: Ready, first: bool, pulse: Pulse) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(KEEPER_STOP, stop.set)
    bell = engine.KeeperBell(settings.data_dir)
    if first:
        await asyncio.to_thread(_set_aside_broken, settings)
    clock = engine.SystemClock()
    pools = engine.open_pools(settings, KEEPER_SLOT, clock, lambda: None)
    if first:  # workers may be inside when only the keeper was restarted
        for name, pool in pools.items():
            recover(pool)
            if settings.pools[name].region_bytes not in (0, pool.flash.region_bytes):
                _log.warning("pool %s keeps its regions of %d bytes, as it was made", name, pool.flash.region_bytes)
    metrics = Metrics(settings.run_dir, "keeper", OPERATION_NAMES, tuple(settings.pools))
    metrics.cells[metrics.cell("recall_restarts_total", "keeper")] += not first
    cold = engine.open_cold(settings, environ, engine.backing_record(metrics))
    buckets = Buckets(pools, Path(settings.data_dir))
    owed = [name for name, pool in pools.items() if pool.is_owed()] if first else []
    if owed:
        await _take_back(pools, buckets, cold, owed)
    wake = asyncio.Event()
    ears = bell.listen()
    loop.add_reader(ears, _hear, ears, wake)
    duties = make_duties(pools, buckets, cold, engine.meter(metrics), engine.scrub_rates(settings))
    # Rules speak of objects and versions, so they are carried out through the store; it reads no bytes, hence no cold side.
    store = TieredStore(pools, Path(settings.data_dir), None, Orders(wake.set), clock, KEEPER_SLOT)
    duties.append(
        LifecycleDuty(
            store,
            clock,
            round(settings.lifecycle_day_s * 1000),
            Path(settings.data_dir, "lifecycle.json"),
            engine.action_count(metrics),
        )
    )
    spools, webhooks = receivers(settings, environ)
    duties += _notify_duties(settings, pools, store, metrics, spools, webhooks, wake)
    tasks = [loop.create_task(_repeat(duty, wake)) for duty in duties]
    tasks.append(loop.create_task(_turn_epochs(pools, pulse)))
    tasks += [loop.create_task(_sync(pool)) for pool in pools.values() if not pool.index.synced]
    tasks.append(loop.create_task(_probe(cold, settings)))
    over = loop.create_task(engine.until_over(pools))
    over.add_done_callback(lambda _: stop.set())
    ready(None)
    await stop.wait()
    over.cancel()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    loop.remove_reader(ears)
    for webhook in webhooks.values():
        await webhook.close()
    for spool in spools.values():
        spool.close()
    await store.close()
    await cold.backing.close()
    buckets.close()
    for pool in pools.values():
        with contextlib.suppress(DiskFull, DeviceFailed):
            pool.index.sync()
        pool.close()
    bell.close()


def _set_aside_broken(settings: Settings) -> None:
    """Lets pools start anew whose unsynced index a power loss broke."""
    for config in engine.pool_configs(settings):
        aside = set_aside_if_broken(config)
        if aside is not None:
            _log.error("pool %s: the index did not survive; set aside as %s", config.name, aside.name)


async def _take_back(pools: Mapping[str, Pool], buckets: Buckets, cold: ColdSide, owed: list[str]) -> None:
    """Fills pools that start anew with what the backing store has; without it they start empty, and the next start tries
    again."""
    try:
        found = await rebuild(pools, buckets, cold, owed)
    except BackingUnavailable:
        _log.error("the backing store does not answer: restart, or run `recall rebuild`, when it does")
        return
    _log.info("took back %d buckets and %d objects from the backing store", found.buckets, found.objects)


def make_duties(
    pools: Mapping[str, Pool], buckets: Buckets, cold: ColdSide, meter: Meter, scrub: ScrubRates
) -> list[Duty]:
    """Every duty of every pool."""
    demoter = Demoter(pools, buckets, cold, meter)
    duties: list[Duty] = []
    for pool in pools.values():
        keeps_copies = pool.config.demote != "never"
        duties += [
            OrderDuty(demoter, pool),
            EvictDuty(pool, demoter if keeps_copies else None, meter=meter),
            ExpireDuty(pool, meter),
            StaleUploadDuty(pool, STALE_UPLOAD_MS),
            UpkeepDuty(demoter, pool),
            ScrubDuty(pool, buckets, cold, scrub, meter),
            ColdScrubDuty(pool, buckets, cold, demoter, scrub, meter),
        ]
        if keeps_copies:
            duties += [DemoteDuty(demoter, pool), ChillDuty(demoter, pool)]
    return duties


def receivers(settings: Settings, environ: Mapping[str, str]) -> tuple[dict[str, Spool], dict[str, Webhook]]:
    """The queue and the sender of each webhook. What waits for one that is no longer in the settings is kept, and said."""
    folder = Path(settings.data_dir, "notify")
    known = settings.notify_webhooks
    for path in folder.glob("*"):
        if path.name not in known:
            _log.warning("%s keeps events for a webhook that notify_webhooks does not have", path)
    tokens = {name: NOTIFY_TOKEN_PREFIX + name.upper().replace("-", "_") for name in known}
    for variable in environ:
        if variable.startswith(NOTIFY_TOKEN_PREFIX) and variable not in tokens.values():
            _log.warning("%s is set, and notify_webhooks has no such webhook", variable)
    spools = {name: Spool(folder / name, settings.notify_queue_bytes) for name in known}
    webhooks: dict[str, Webhook] = {}
    for name, url in known.items():
        from gateway.webhook import Webhook  # its HTTP client costs each start time and memory

        webhooks[name] = Webhook(name, url, environ.get(tokens[name], ""), settings.notify_timeout_s)
    return spools, webhooks


def _notify_duties(
    settings: Settings,
    pools: Mapping[str, Pool],
    store: TieredStore,
    metrics: Metrics,
    spools: Mapping[str, Spool],
    webhooks: Mapping[str, Webhook],
    wake: asyncio.Event,
) -> list[Duty]:
    """Those that tell webhooks of events; the first runs without any too, so that no journal grows."""
    waiting = metrics.cell("recall_notifications_waiting_bytes")

    def look() -> None:
        metrics.cells[waiting] = sum(spool.waiting_bytes() for spool in spools.values())

    def count(fate: str, number: int) -> None:
        metrics.cells[metrics.cell("recall_notifications_total", fate)] += number
        look()

    def queued() -> None:
        look()
        wake.set()

    host_id = base64.b64encode(os.urandom(24)).decode()
    journals = [PoolJournal(pool) for pool in pools.values()]
    route = RouteDuty(
        journals, store, spools, settings.region, ROOT_CANONICAL_ID, host_id, queued, count, settings.notify_owners
    )
    return [route, *(DeliveryDuty(name, spools[name], webhooks[name].send, count) for name in spools)]


async def _repeat(duty: Duty, wake: asyncio.Event) -> None:
    """Steps a duty for ever: at once while there is work, after a pause or a ring when idle, with back-off when it fails."""
    failed_wait_s = FAILED_WAIT_FIRST_S
    while True:
        try:
            done = await duty.step()
            failed_wait_s = FAILED_WAIT_FIRST_S
        except (BackingUnavailable, Busy, DiskFull, DeviceFailed):  # the guard and the device say it once a minute
            await asyncio.sleep(failed_wait_s)
            failed_wait_s = min(failed_wait_s * 2, FAILED_WAIT_MAX_S)
            continue
        except Exception:
            _log.exception("duty %s failed", duty.name, extra={"once": duty.name})
            await asyncio.sleep(failed_wait_s)
            failed_wait_s = min(failed_wait_s * 2, FAILED_WAIT_MAX_S)
            continue
        if done:
            await asyncio.sleep(0)
            continue
        try:
            async with asyncio.timeout(IDLE_S):
                await wake.wait()
        except TimeoutError:
            pass
        wake.clear()


async def _probe(cold: ColdSide, settings: Settings) -> None:
    """Says at the start that the backing store cannot be used, or is not ours alone; hot work goes on."""
    url = settings.backing.partition("?")[0]
    try:
        own = await asyncio.to_thread(owner.own_id, Path(settings.data_dir))
        other = await owner.claim(cold.backing, own)
    except BackingUnavailable as error:
        _log.warning("the backing store %s is unavailable: %s; hot objects are served", url, error)
        return
    except OSError as error:  # a full disk: the next start makes the id
        _log.warning("%s has no id: %s", settings.data_dir, error.strerror)
        return
    if other:
        _log.error(
            "the backing store %s is that of another data directory: of a gateway that runs, it takes the objects of both; of one "
            "that is lost, `recall rebuild` brings them back",
            url,
            extra={"owner": other, "own": own},
        )


async def _turn_epochs(pools: Mapping[str, Pool], pulse: Pulse) -> None:
    for turn in itertools.count(1):
        await asyncio.sleep(EPOCH_S)
        pulse.beat()
        try:
            for pool in pools.values():
                pool.epochs.rotate()
                if turn % SLOW_TURNS == 0:
                    pool.rest()
        except DeviceFailed:
            pass  # said, and soon the end of this process
        except Exception:
            _log.exception("an epoch did not turn", extra={"once": "epochs"})


async def _sync(pool: Pool) -> None:
    while True:
        await asyncio.sleep(SYNC_S)
        try:
            await asyncio.to_thread(pool.index.sync)
        except (DiskFull, DeviceFailed):
            pass  # said
        except Exception:
            _log.exception("pool %s was not synced", pool.config.name, extra={"once": "sync"})


def _hear(ears: socket.socket, wake: asyncio.Event) -> None:
    try:
        while ears.recv(64):
            pass
    except BlockingIOError:
        pass
    wake.set()
