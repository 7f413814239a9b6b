"""The stores the suite runs over, and the loop it runs on.

A test is an `async def` that takes `store` (any `tiering.contract.Store`, with a bucket `b` in the default pool) and,
where time matters, `clock`. To add a store, add a row to `OPENERS`.

Kind: shell of the tests. Spec: tiering/contract.py.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.support.clock import ManualClock
from tests.support.engine import Engine, default_configs
from tests.support.s3server import S3Server, s3_server
from tiering.backing import open_backing, open_store
from tiering.contract import BucketInfo, Store
from tiering.memory import MemoryStore
from tiering.ports import Backing


@asynccontextmanager
async def memory(clock: ManualClock, path: Path) -> AsyncIterator[Store]:
    yield MemoryStore(clock, pin_bytes_max=PIN_BYTES_MAX)


PIN_BYTES_MAX = 1 << 20
"""Every store under test is opened with this pin limit for its pools."""

Opener = Callable[[ManualClock, Path], AbstractAsyncContextManager[Store]]


@asynccontextmanager
async def _pools(clock: ManualClock, path: Path, backing: Backing) -> AsyncIterator[Store]:
    region = 256 << 10
    configs = default_configs(
        path, capacity_bytes=128 * region, region_bytes=region, pin_fraction_max=PIN_BYTES_MAX / (128 * region)
    )
    engine = await Engine.open(path, clock, backing, configs)
    engine.start_keeper()
    yield engine.store
    await engine.audit()
    await engine.close()


@asynccontextmanager
async def pools_and_directory(clock: ManualClock, path: Path) -> AsyncIterator[Store]:
    backing = open_store(f"file://{path}/backing?create=true", {})
    async with _pools(clock, path / "data", backing) as store:
        yield store
    await backing.close()


@asynccontextmanager
async def pools_and_bucket(clock: ManualClock, path: Path) -> AsyncIterator[Store]:
    server = _SERVERS[0]
    backing = open_backing(server.url(server.new_bucket()), server.env())
    async with _pools(clock, path / "data", backing) as store:
        yield store
    await backing.close()


_SERVERS: list[S3Server] = []
"""The one S3 server of the session, while it runs: starting one takes seconds."""


@pytest.fixture(scope="session", autouse=True)
def bucket_server() -> Iterator[None]:
    with s3_server() as server:
        _SERVERS.append(server)
        yield
    _SERVERS.clear()


OPENERS: dict[str, Opener] = {
    "memory": memory,
    "directory": pools_and_directory,
    "bucket": pools_and_bucket,
}
"""Name → how to open a store with the pools `standard` (default, MD5 ETags) and `kv` (opaque ETags)."""

VERSIONED = sorted(OPENERS)
"""The stores that keep versions, locks, appends and renames: what `test_versions.py` runs over. A store that has learnt
them is added here; when all have, this is `sorted(OPENERS)`."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as each:
        yield each


@pytest.fixture(params=sorted(OPENERS))
def store(
    request: pytest.FixtureRequest, runner: asyncio.Runner, clock: ManualClock, tmp_path: Path
) -> Iterator[Store]:
    opened = OPENERS[request.param](clock, tmp_path)
    each = runner.run(opened.__aenter__())
    runner.run(each.create_bucket(BucketInfo(name="b", created_ms=clock.now_ms(), pool="")))
    yield each
    runner.run(opened.__aexit__(None, None, None))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs an `async def` test on the loop its store was opened on."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj) or "runner" not in pyfuncitem.funcargs:
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    pyfuncitem.funcargs["runner"].run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True
