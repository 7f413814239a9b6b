"""What the index holds of an object: its key no more often than it must, and every row that leaves it off leads to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conformance import steps
from tests.support.clock import ManualClock
from tests.support.engine import Engine, pool_config
from tiering import layout, mutations
from tiering.backing.memory import MemoryBacking
from tiering.contract import (
    BucketChange,
    BucketInfo,
    CopyOptions,
    DeleteOptions,
    ObjectChange,
    PutOptions,
    RenameOptions,
    Residency,
)
from tiering.duties.demote import DemoteDuty
from tiering.index import IndexCorrupt
from tiering.pool import Pool, open_pool

KEY = "a-key-that-is-found-nowhere-else"
Body = Callable[[Path], Coroutine[Any, Any, None]]


def looped(body: Body) -> Callable[[Path], None]:
    def run(tmp_path: Path) -> None:
        asyncio.run(body(tmp_path))

    run.__name__ = body.__name__
    return run


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[Engine, Pool]]:
    engine = await Engine.open(path, ManualClock(), MemoryBacking(), [pool_config(path, "p")])
    await engine.store.create_bucket(BucketInfo(name="b", created_ms=1, pool=""))
    try:
        yield engine, engine.pools["p"]
    finally:
        await engine.audit()
        await engine.close()


def owed(pool: Pool) -> dict[str, bytes]:
    """What the rows in `dirty` lead to, by key, and how they say it."""
    found = {}
    with pool.index.view() as view:
        for generation, row in view.rows("dirty"):
            standing = view.owed(layout.unpack_u64(generation), row)
            assert standing is not None
            okey, record = standing
            assert view.object(okey) == record
            found[layout.split_object_key(okey)[1]] = row
    return found


def times(pool: Pool, text: str) -> int:
    with pool.index.view() as view:
        return sum(
            (key + value).count(text.encode()) for database in layout.DATABASES for key, value in view.rows(database)
        )


@looped
async def test_a_key_stands_in_the_index_once_and_once_more_while_it_is_hot(path: Path) -> None:
    async with opened(path) as (engine, pool):
        made = await steps.put(engine.store, KEY, b"bytes")
        okey = layout.object_key(1, KEY)
        assert times(pool, KEY) == 2 and list(owed(pool)) == [KEY]
        assert await engine.demoter.demote(pool, okey, made.generation)
        assert times(pool, KEY) == 2 and not owed(pool)
        assert await engine.demoter.drop(pool, okey, made.generation)
        assert times(pool, KEY) == 1
        assert await steps.get(engine.store, KEY) == b"bytes"


@looped
async def test_row_of_what_is_owed_goes_by_the_place_and_follows_the_bytes(path: Path) -> None:
    async with opened(path) as (engine, pool):
        await steps.put(engine.store, "k", b"bytes")
        old = pool.index.get_object(layout.object_key(1, "k"))
        assert old is not None
        row = owed(pool)["k"]
        assert len(row) == 8 and row == layout.owed_by_place(old)
        await steps.put(engine.store, "other", b"bytes")
        other = pool.index.get_object(layout.object_key(1, "other"))
        assert other is not None
        moved = await pool.committer.submit(
            lambda batch: mutations.moved(batch, layout.object_key(1, "k"), old, other.extents)
        )
        assert moved
        rows = owed(pool)  # two are at one place now, and each is the one that it was
        assert rows["k"] == rows["other"] != row


@looped
async def test_row_of_what_shares_its_bytes_names_the_key(path: Path) -> None:
    async with opened(path) as (engine, pool):
        await steps.put(engine.store, "k", b"bytes")
        for number in range(3):
            await engine.store.copy(("b", "k"), ("b", f"copy-{number}"), CopyOptions())
        await engine.store.rename("b", "copy-1", "renamed", RenameOptions())
        await steps.put(engine.store, "copy-2", b" more", PutOptions(append_at=5))
        await engine.store.delete("b", "k", DeleteOptions())
        rows = owed(pool)
        assert rows.keys() == {"copy-0", "renamed", "copy-2"}
        assert rows == {key: layout.object_key(1, key) for key in rows}


@looped
async def test_row_of_a_version_leads_to_it_when_it_is_no_longer_the_current_one(path: Path) -> None:
    async with opened(path) as (engine, pool):
        await engine.store.change_bucket("b", BucketChange(versioning="Enabled"))
        await steps.put(engine.store, "k", b"first")
        await engine.store.copy(("b", "k"), ("b", "copy"), CopyOptions())
        for key in ("k", "copy"):
            await steps.put(engine.store, key, b"second")
        with pool.index.view() as view:
            rows = [(layout.unpack_u64(key), row) for key, row in view.rows("dirty")]
            found = [view.owed(*row) for row in rows]
        assert [layout.place_owed(row) is not None for _, row in rows] == [True, False, True, True]
        assert [standing and layout.is_older(standing[0]) for standing in found] == [True, True, False, False]
        assert await engine.duty("p", DemoteDuty).step() == 4


@looped
async def test_row_of_an_object_without_bytes_names_the_key(path: Path) -> None:
    async with opened(path) as (engine, pool):
        await steps.put(engine.store, "empty", b"")
        assert owed(pool) == {"empty": layout.object_key(1, "empty")}


@looped
async def test_what_is_deleted_goes_from_the_backing_store_under_the_name_that_no_row_had(path: Path) -> None:
    async with opened(path) as (engine, pool):
        await steps.put(engine.store, "a//ü", b"bytes")
        await engine.settle()
        await engine.store.change("b", "a//ü", ObjectChange(tags={"a": "1"}))
        await engine.settle()
        names = {"b/a/%_/ü", "b/a/%_/ü%!"}
        assert names <= {stat.key async for stat in engine.backing.list("")}
        await engine.store.delete("b", "a//ü", DeleteOptions())
        with pool.index.view() as view:
            assert {name.decode() for name, _ in view.rows("tombstones")} == names
        await engine.settle()
        assert not names & {stat.key async for stat in engine.backing.list("")}


@looped
async def test_number_of_a_bucket_leads_to_its_name_while_there_is_one(path: Path) -> None:
    async with opened(path) as (engine, pool):
        found = engine.buckets.by_number(pool, 1)
        assert found is not None and found.name == "b"
        await engine.store.delete_bucket("b")
        engine.buckets.changed()
        assert engine.buckets.by_number(pool, 1) is None
        with pool.index.view() as view:
            assert view.get("numbers", layout.bucket_prefix(1)) is None


@looped
async def test_md5_and_checksum_come_back_in_every_residency(path: Path) -> None:
    async with opened(path) as (engine, pool):
        made = await steps.put(engine.store, "k", b"bytes")
        okey = layout.object_key(1, "k")
        for step in (engine.demoter.demote, engine.demoter.drop):
            assert await step(pool, okey, made.generation)
            now = pool.index.get_object(okey)
            assert now is not None and (now.etag, now.crc64) == (steps.md5(b"bytes"), made.crc64)
        assert now.residency == Residency.COLD_ONLY


@looped
async def test_index_of_another_format_is_refused_by_name(path: Path) -> None:
    async with opened(path) as (_, pool):
        with pool.index.view() as view:
            shape = msgspec.json.decode(view.get("meta", b"shape") or b"")
        older = msgspec.json.encode(shape | {"version": layout.FORMAT_VERSION - 1})
        await pool.committer.submit(lambda batch: batch.put("meta", b"shape", older))
    with pytest.raises(IndexCorrupt, match=f"format {layout.FORMAT_VERSION - 1}, .* reads {layout.FORMAT_VERSION}"):
        open_pool(pool_config(path, "p"), 1, ManualClock())
