"""One worker: the composition root of a process that serves requests.

Promise: can serve every request; holds nothing whose loss loses an acknowledged write.
Owns the loop, the listeners, the store and the pipeline of its process. Does not know other workers.
Kind: shell; composition root. Spec: docs/ARCHITECTURE.md, "Processes".
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from gateway import engine, tls
from gateway.accesslog import AccessLog
from gateway.admin.calls import AdminCalls
from gateway.admin.routes import AdminRoutes
from gateway.config import Settings
from gateway.http.connections import Connections, Listener
from gateway.http.limits import Limits
from gateway.http.protocol import listen
from gateway.http.tls import Gate
from gateway.identities import ROOT_CANONICAL_ID, Identities
from gateway.metrics import Metrics
from gateway.pulse import Pulse
from gateway.runner import Briefing, Ready
from gateway.tls import Pair, TlsError
from s3api.config import ApiConfig
from s3api.handlers import HANDLERS
from s3api.operations import BY_NAME
from s3api.pipeline import PREFLIGHT, Pipeline
from s3api.session import Sessions
from s3api.target import Targets
from tiering.contract import DeviceFailed
from tiering.orders import Orders
from tiering.store import TieredStore

EPOCH_S: Final = 0.02
"""How often a read epoch starts: freed regions wait about this long before they can be written again. A turn costs 5 µs."""
SLOW_TURNS: Final = 20
"""After how many turns the file of identities is looked at, and the open regions: well within a second."""
GARBAGE_OBJECTS: Final = 20_000
"""New objects between two collections. Python's 700 are those of a turn of the loop with some dozen PUTs under way, all still
in use: looking at them cost 3 µs a PUT, and cycles are only made by what goes wrong."""
DRAIN_SHARE: Final = 0.8
"""Of `drain_s`, for requests under way; the rest is for closing before the supervisor loses patience."""
SWITCH_S: Final = 0.0005
"""How long the committer's thread may keep the loop's from running; Python's default would be seen as latency."""


_log = logging.getLogger("recall.worker")


def run(briefing: Briefing, slot: int, ready: Ready) -> None:
    """Serves until SIGTERM, then drains. Raises what keeps it from starting."""
    sys.setswitchinterval(SWITCH_S)
    if briefing.settings.pin_workers == "yes":
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[slot % len(cpus)]})  # threads that are started later inherit it
    uvloop.run(_serve(briefing, slot, ready))


async def _serve(briefing: Briefing, slot: int, ready: Ready) -> None:
    settings, credentials, keys = briefing.settings, briefing.credentials, briefing.keys
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    clock = engine.SystemClock()
    bell = engine.KeeperBell(settings.data_dir)
    pools = engine.open_pools(settings, slot + 1, clock, bell.ring)
    metrics = Metrics(settings.run_dir, f"worker-{slot}", OPERATION_NAMES, tuple(settings.pools))
    metrics.cells[metrics.cell("recall_restarts_total", "worker")] += not briefing.first
    cold = engine.open_cold(settings, briefing.environ, engine.backing_record(metrics))
    store = TieredStore(pools, Path(settings.data_dir), cold, Orders(bell.ring), clock, slot + 1, engine.meter(metrics))
    config = ApiConfig(
        region=settings.region,
        domains=settings.domains,
        host_buckets=settings.host_buckets,
        key_rules=settings.key_rules,
        notify_targets=tuple(settings.notify_webhooks),
        notify_owners=settings.notify_owners,
        keys=keys,
        buckets_max=settings.buckets_max,
        object_ownership=settings.object_ownership,
        day_ms=round(settings.lifecycle_day_s * 1000),
    )
    access_log = AccessLog(store, settings.region, ROOT_CANONICAL_ID, keys)
    connections = Connections(_limits(settings), loop)
    gate = _gate(settings, briefing.tls, metrics, connections) if briefing.tls else None
    if gate is not None:
        loop.add_signal_handler(signal.SIGHUP, _renew, gate, settings)
    listeners: list[Listener] = []
    places = [(settings.listen, "")] + [(bound.address, bound.bucket) for bound in settings.bucket_listeners]
    known = Identities(settings.identities_path, credentials, briefing.kept_fd)
    sessions = Sessions(credentials.secret_key, known.get)
    targets, started_s = Targets(config), time.monotonic()
    calls = AdminCalls(
        known.get,
        targets.host_bucket,
        lambda host: engine.admin_facts(settings, pools, time.monotonic() - started_s, host),
        time.time,
    )
    lent = [socket.socket(fileno=descriptor) for descriptor in briefing.listening_fds]
    for (address, bucket), sock in itertools.zip_longest(places, lent):
        pipeline = Pipeline(
            store,
            msgspec.structs.replace(config, every_host_bucket=bucket),
            known.get,
            HANDLERS,
            clock,
            metrics.request,
            access_log=access_log.record,
            directory=known,
            sessions=sessions,
        )
        app = AdminRoutes(
            pipeline,
            metrics,
            credentials,
            metrics_auth=settings.metrics_auth,
            shared_gauges=lambda: engine.shared_gauges(pools, Path(settings.data_dir)),
            health=lambda: engine.health(pools),
            admin_calls=None if bucket else calls,
        )
        listeners.append(
            await listen(
                app,
                address.host,
                address.port,
                connections.limits,
                reuse_port=True,
                sock=sock,
                ssl_context=gate,
                connections=connections,
            )
        )
    turning = [
        loop.create_task(_turn(store, connections, metrics, known, Pulse(briefing.pulse_fd))),
        loop.create_task(_deliver(access_log, settings.access_log_s)),
    ]
    # What exists now lives as long as the process: collections need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)
    ready(listeners[0].port)
    over = loop.create_task(engine.until_over(pools))
    over.add_done_callback(lambda _: stop.set())
    await stop.wait()
    over.cancel()
    for listener in listeners:
        listener.stop_accepting()
    await connections.drain(settings.drain_s * DRAIN_SHARE)
    connections.stop()
    await access_log.flush()
    for task in turning:
        task.cancel()
    await asyncio.gather(*turning, return_exceptions=True)
    for pool in pools.values():
        pool.flush_touches()
    await store.close()
    await cold.backing.close()
    for pool in pools.values():
        pool.close()
    bell.close()


async def _turn(
    store: TieredStore, connections: Connections, metrics: Metrics, known: Identities, pulse: Pulse
) -> None:
    """What a worker does by the clock: epochs, the reads of sliding TTLs, its gauges, and a look at who is who."""
    turns = itertools.count(1)
    cells = metrics.cells
    open_connections = metrics.cell("recall_connections")
    in_flight = metrics.cell("recall_requests_in_flight")
    waiting = metrics.cell("recall_requests_waiting")
    refusals, slow = metrics.cell("recall_overload_refusals_total"), metrics.cell("recall_slow_peers_total")
    refused_before, slow_before = cells[refusals], cells[slow]
    held_times = engine.held_times(store.pools, metrics)
    while True:
        await asyncio.sleep(EPOCH_S)
        pulse.beat()
        try:
            for pool in store.pools.values():
                pool.epochs.rotate()
                pool.flush_touches()
            if next(turns) % SLOW_TURNS == 0:
                known.refresh()
                held_times()
                for pool in store.pools.values():
                    pool.rest()
        except DeviceFailed:
            pass  # said, and soon the end of this process
        except Exception:
            _log.exception("an epoch did not turn", extra={"once": "epochs"})
        cells[open_connections] = len(connections)
        cells[in_flight] = connections.in_flight
        cells[waiting] = connections.waiting
        cells[refusals] = refused_before + connections.refused_requests
        cells[slow] = slow_before + connections.cut_slow


async def _deliver(access_log: AccessLog, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        try:
            await access_log.flush()
        except Exception:
            _log.exception("access logs were not delivered", extra={"once": "accesslog"})


def _gate(settings: Settings, pair: Pair, metrics: Metrics, connections: Connections) -> Gate:
    """What the listeners shake hands with. Raises TlsError."""
    failures = metrics.cell("recall_tls_handshakes_failed_total")

    def failed(why: str) -> None:
        metrics.cells[failures] += 1
        if why != Gate.ABANDONED:  # a balancer that only looks whether the port is open does so every few seconds
            _log.info("a TLS handshake failed", extra={"once": f"tls {why}", "why": why})

    return Gate.over(tls.context(pair, settings.tls_min_version), connections.limits.connections_max, failed)


def _renew(gate: Gate, settings: Settings) -> None:
    """Takes the certificate that the files hold now, which the supervisor has judged already."""
    try:
        pair = tls.load(settings)
        assert pair is not None
        gate.current = tls.context(pair, settings.tls_min_version)
    except TlsError as error:
        _log.error("the certificate stays as it was", extra={"why": str(error)})


def _limits(settings: Settings) -> Limits:
    return Limits(**msgspec.structs.asdict(settings.http))


OPERATION_NAMES: Final = (*BY_NAME, PREFLIGHT)
