"""Whose a backing store is: the mark, who is told of another's, and who takes a store over."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.owner import claim, own_id
from tests.support.gateway import Gateway, wait_for
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


def test_a_second_gateway_on_a_store_is_told_and_a_rebuild_takes_it_over(tmp_path: Path) -> None:
    cold = tmp_path / "cold"
    backing = cold.as_uri() + "?create=true"
    small = {"pools.standard.capacity_bytes": "1MiB", "pools.kv.capacity_bytes": "1MiB"}
    with Gateway(data_dir=tmp_path / "one", settings=small, backing=backing) as first:
        wait_for(lambda: list(cold.glob(".recall/owner*")), "the store is marked")
        first.stop()
    second = Gateway(data_dir=tmp_path / "two", settings=small, backing=backing)
    with second:
        wait_for(lambda: "is that of another data directory" in second.log, "it is said")
        second.stop()
    assert second.command("rebuild", "--backing", backing).returncode == 0
    assert (tmp_path / "two/id").read_text().strip() in next(cold.glob(".recall/owner*")).read_text()
