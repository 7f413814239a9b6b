"""An LMDB file read without LMDB: rows, and what is left of them when pages are damaged. Kind: tests."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tiering import layout, pages
from tiering.index import Index

PAGE = 4096
ROWS = {layout.u64_key(number): bytes([number % 251]) * (number % 90 * 70) for number in range(1500)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An index with long and short values in two databases."""
    index = Index(tmp_path / "index", synced=False)
    batch = index.batch()
    for key, value in ROWS.items():
        batch.put("events", key, value)
    batch.put("orders", b"12345678", b"order")
    batch.commit()
    index.close()
    return tmp_path / "index"


def test_whole_file_gives_every_row(path: Path) -> None:
    assert pages.faults(path) == []
    found = pages.salvage(path, ("events", "orders", "free"))
    assert found.rows == {"events": ROWS, "orders": {b"12345678": b"order"}, "free": {}}
    assert found.unread == {"events": 0, "orders": 0, "free": 0}


@pytest.mark.parametrize("seed", range(20))
def test_damaged_file_gives_what_it_can_and_counts_the_rest(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    data = path / "data.mdb"
    content = bytearray(data.read_bytes())
    for _ in range(rng.choice((1, 3, 30))):
        at = rng.randrange(2 * PAGE, len(content)) // PAGE * PAGE + rng.randrange(
            64
        )  # heads of pages: never in a value
        content[at] ^= 1 << rng.randrange(8)
    data.write_bytes(content)
    found = pages.salvage(path, ("events",))
    if found.unread["events"]:
        assert pages.faults(path)
    known = sum(ROWS.get(key) == value for key, value in found.rows["events"].items())
    assert found.unread["events"] in (None, len(ROWS) - len(found.rows["events"]))
    assert (
        known >= len(found.rows["events"]) - 40
    )  # a changed length or place shows other bytes, which the record's reader judges


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\0" * PAGE * 4, random.Random(3).randbytes(PAGE * 4)])
def test_what_is_no_environment_gives_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.mdb").write_bytes(content)
    assert pages.faults(tmp_path)
    assert pages.salvage(tmp_path, ("events",)) == pages.Salvage({"events": {}}, {"events": None})
    assert pages.faults(tmp_path / "missing")
    assert pages.salvage(tmp_path / "missing", ("events",)).unread == {"events": None}
