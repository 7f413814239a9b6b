"""Whose a backing store is: the mark, who is told of another's, and who takes a store over."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.owner import claim, own_id
from tests.support.gateway import Gateway, wait_for
from tiering.backing import open_store
from tiering.backing.memory import MemoryBacking


def test_a_data_directory_keeps_its_id(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert own_id(tmp_path) == own_id(tmp_path)
    assert own_id(tmp_path) != own_id(tmp_path / "other")


def test_a_store_is_the_first_ones_until_another_takes_it() -> None:
    async def main() -> None:
        backing = MemoryBacking()
        assert await claim(backing, "one") == ""
        assert await claim(backing, "one") == ""
        assert await claim(backing, "two") == "one"
        assert await claim(backing, "one") == "", "to be told changes nothing"
        assert await claim(backing, "two", take=True) == ""
        assert await claim(backing, "one") == "two"

    asyncio.run(main())


def test_a_gateway_on_the_store_of_another_is_told(tmp_path: Path) -> None:
    backing = (tmp_path / "cold").as_uri() + "?create=true"
    small = {"pools.standard.capacity_bytes": "1MiB", "pools.kv.capacity_bytes": "1MiB"}
    assert asyncio.run(claim(open_store(backing, {}), "another")) == ""
    with Gateway(data_dir=tmp_path / "two", settings=small, backing=backing) as gateway:
        wait_for(lambda: "is that of another data directory" in gateway.log, "it is said")
        gateway.stop()
    assert gateway.command("rebuild", "--backing", backing).returncode == 0
    assert asyncio.run(claim(open_store(backing, {}), own_id(tmp_path / "two"))) == ""
