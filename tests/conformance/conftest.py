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
from tiering.contract import BucketInfo, Store
from tiering.memory import MemoryStore


@asynccontextmanager
async def memory(clock: ManualClock, path: Path) -> AsyncIterator[Store]:
    yield MemoryStore(clock, pin_bytes_max=PIN_BYTES_MAX)


PIN_BYTES_MAX = 1 << 20
"""Every store under test is opened with this pin limit for its pools."""

Opener = Callable[[ManualClock, Path], AbstractAsyncContextManager[Store]]
OPENERS: dict[str, Opener] = {"memory": memory}
"""Name → how to open a store with the pools `standard` (default, MD5 ETags) and `kv` (opaque ETags)."""


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
