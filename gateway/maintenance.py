"""`recall check`, `recall rebuild` and `recall scrub`: the engine's tools under the gateway's settings.

Owns nothing. Does not know processes: check runs beside a gateway, the others only instead of one (the caller holds the
lock). Kind: shell. Spec: docs/OPERATIONS.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections import Counter
from pathlib import Path
from typing import IO, Final

from gateway import engine, owner
from gateway.config import Settings
from tiering import events, salvage
from tiering.buckets import Buckets
from tiering.check import Copy, Report, check_cold, check_pool
from tiering.cold import ColdSide
from tiering.contract import DiskFull
from tiering.duties.coldscrub import ColdScrubDuty
from tiering.duties.demote import Demoter
from tiering.duties.scrub import ScrubDuty, ScrubRates, Tell, standing_damages
from tiering.flash import Flash
from tiering.index import Index, IndexCorrupt
from tiering.pool import PoolConfig, has_index, paid, read_shape, recover
from tiering.ports import BackingUnavailable, Meter
from tiering.rebuild import rebuild as rebuild_pools
from tiering.recovery import PoolRead, last_set_aside, set_aside_if_faulty
from tiering.space import KEEPER_SLOT

_REFUSALS: Final = (BackingUnavailable, IndexCorrupt, DiskFull, PoolRead, ValueError, OSError)
FAULTS_SHOWN: Final = 20
"""Faults printed a pool; the number of all is always said."""


class MaintenanceError(Exception):
    """A tool cannot do its work. The message is one line for who called it."""


def check(settings: Settings, output: IO[str], *, backing: bool = True) -> int:
    """Audits every pool and prints what it found; returns the number of faults. Raises MaintenanceError.

    A pool whose index or flash cannot be read is a fault; the others are audited all the same.
    """
    try:
        return asyncio.run(_check(settings, output, backing))
    except BrokenPipeError:
        raise
    except _REFUSALS as error:
        raise MaintenanceError(_line(error)) from error


async def _check(settings: Settings, output: IO[str], backing: bool) -> int:
    cold = engine.open_cold(settings, os.environ) if backing else None
    faults = 0
    try:
        for config in engine.pool_configs(settings):
            try:
                report = await _check_pool(config, cold)
            except Exception as error:  # a damaged file fails in many ways, and each of them is what an audit is for
                faults += 1
                output.write(f"pool {config.name}: cannot be read: 1 fault\n  {_line(error)}\n")
                continue
            faults += report.fault_count
            _print(report, output)
    finally:
        if cold is not None:
            await cold.backing.close()
    return faults


async def _check_pool(config: PoolConfig, cold: ColdSide | None) -> Report:
    with contextlib.ExitStack() as opened:
        index = Index(config.path / "index", synced=False, readonly=True)
        opened.callback(index.close)
        shape = read_shape(index, config.path)
        flash = Flash(config.path / "flash", shape.region_bytes, shape.regions, readonly=True)
        opened.callback(flash.close)
        report, copies = check_pool(config.name, index, flash)
        if cold is not None:
            await _check_cold(report, cold, copies)
        return report


async def _check_cold(report: Report, cold: ColdSide, copies: dict[str, Copy]) -> None:
    try:
        await check_cold(report, cold, copies)
    except BackingUnavailable as error:
        report.fault(f"the backing store does not answer: {error}")


def _print(report: Report, output: IO[str]) -> None:
    output.write(
        f"pool {report.pool}: {report.objects} objects, {report.extents} extents of {report.extent_bytes} bytes, "
        f"{report.cold_copies} cold copies: {report.fault_count} faults\n"
    )
    for fault in report.faults[:FAULTS_SHOWN]:
        output.write(f"  {fault}\n")
    for name in report.lost():
        output.write(f"  lost: {name}\n")


def rebuild(settings: Settings, output: IO[str]) -> int:
    """Adds to the index what the backing store holds; one that is damaged is made anew, also from what it still says.

    Prints what is gone; returns how many names could not be read or are gone, and counts what is gone without a name as one.

    Raises MaintenanceError: what was taken back until then stays, and the next run adds the rest.
    """
    try:
        return asyncio.run(_rebuild(settings, output))
    except BrokenPipeError:
        raise
    except BackingUnavailable as error:
        raise MaintenanceError(f"the backing store does not answer: {_line(error)}") from error
    except _REFUSALS as error:
        raise MaintenanceError(_line(error)) from error


async def _rebuild(settings: Settings, output: IO[str]) -> int:
    aside: dict[str, Path] = {}
    lost = set()
    for config in engine.pool_configs(settings):
        if not has_index(config.path):
            lost.add(config.name)
        elif (path := set_aside_if_faulty(config)) is not None:
            aside[config.name] = path
    pools = engine.open_pools(settings, KEEPER_SLOT, engine.SystemClock(), _nobody, anew=True)
    cold = engine.open_cold(settings, os.environ)
    buckets = Buckets(pools, Path(settings.data_dir))
    missed = 0
    try:
        for pool in pools.values():
            recover(pool)
        # An earlier run may have been cut short: what it set aside is still owed.
        for name, pool in pools.items():
            if name not in aside and pool.is_owed() and (path := last_set_aside(pool.config)) is not None:
                aside[name] = path
        damaged = {name: salvage.read(path) for name, path in aside.items()}
        for name, rows in damaged.items():
            await pools[name].committer.submit(functools.partial(salvage.owed_deletions, rows=rows))
        found = await rebuild_pools(pools, buckets, cold, pay=False)
        await owner.claim(cold.backing, owner.own_id(Path(settings.data_dir)), take=True)
        output.write(
            f"{found.buckets} buckets and {found.objects} objects taken from the backing store, "
            f"{found.kept} already known, {len(found.unreadable)} unreadable\n"
        )
        for line in found.unreadable:
            output.write(f"  unreadable: {line}\n")
        for name, rows in damaged.items():
            left = await salvage.restore(pools[name], buckets, cold, rows)
            missed += len(left.gone) + (left.unread is None or left.unread > 0)
            _print_left(name, aside[name], left, output)
        for name in lost:
            output.write(f"pool {name}: there was no index: what had no copy in the backing store has no name either\n")
        for pool in pools.values():
            await pool.committer.submit(paid)
    finally:
        await cold.backing.close()
        buckets.close()
        for pool in pools.values():
            pool.index.sync()
            pool.close()
    return len(found.unreadable) + missed


def _print_left(pool: str, aside: Path, left: salvage.Left, output: IO[str]) -> None:
    """Every name, however many: they are nowhere else."""
    unread = "an unknown number of" if left.unread is None else str(left.unread)
    output.write(
        f"pool {pool}: the index was damaged, and is kept as {aside.name}: {left.restored} objects taken from it and "
        f"flash, {len(left.gone)} gone, {unread} records unreadable, whose names cannot be known; "
        f"{left.uploads} uploads dropped\n"
    )
    for name in left.gone:
        output.write(f"  gone: {name}\n")


def scrub(settings: Settings, output: IO[str], *, read_cold: bool = True) -> int:
    """One pass over everything stored, now; prints what was found and returns how much of it could not be mended.

    `read_cold` False: copies in the backing store are asked for, not read. Raises MaintenanceError: what was mended until
    then stays so.
    """
    try:
        return asyncio.run(_scrub(settings, output, read_cold))
    except BrokenPipeError:
        raise
    except BackingUnavailable as error:
        raise MaintenanceError(f"the backing store does not answer: {_line(error)}") from error
    except _REFUSALS as error:
        raise MaintenanceError(_line(error)) from error


async def _scrub(settings: Settings, output: IO[str], read_cold: bool) -> int:
    pools = engine.open_pools(settings, KEEPER_SLOT, engine.SystemClock(), _nobody)
    cold = engine.open_cold(settings, os.environ)
    buckets = Buckets(pools, Path(settings.data_dir))
    demoter = Demoter(pools, buckets, cold)
    rates = ScrubRates(cold_bytes_per_s=int(read_cold))
    unmended = 0
    try:
        for pool in pools.values():
            recover(pool)
        for pool in pools.values():
            counts: Counter[str] = Counter()
            meter, tell = _count_in(counts), _print_to(output)
            await ScrubDuty(pool, buckets, cold, rates, meter, tell).whole_pass()
            await ColdScrubDuty(pool, buckets, cold, demoter, rates, meter, tell).whole_pass()
            with pool.index.view() as view:
                damages = standing_damages(view)
            unmended += len(damages) + _sum(counts, "dropped")
            sizes = ", ".join(f"{counts[events.scrubbed_bytes(side)]} bytes {side}" for side in events.SIDES)
            output.write(
                f"pool {pool.config.name}: {sizes}: {_sum(counts, 'repaired')} repaired, "
                f"{_sum(counts, 'dropped')} dropped, {len(damages)} cannot be repaired\n"
            )
            for damage in damages:
                output.write(f"  {damage.what}\n")
    finally:
        await cold.backing.close()
        buckets.close()
        for pool in pools.values():
            pool.index.sync()
            pool.close()
    return unmended


def _count_in(counts: Counter[str]) -> Meter:
    def count(event: str, pool: str, amount: int) -> None:
        counts[event] += amount

    return count


def _print_to(output: IO[str]) -> Tell:
    """What was mended or dropped is said when it is; what was not stands in the list at the end."""

    def tell(pool: str, side: str, what: str, fate: str) -> None:
        if fate != "unrepairable":
            output.write(f"pool {pool}: {what}: damaged ({side}), {fate}\n")

    return tell


def _sum(counts: Counter[str], fate: str) -> int:
    return sum(counts[events.damage(side, fate)] for side in events.SIDES)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _nobody() -> None:
    """There is no keeper to wake."""
