"""Growth and tail: the filled store, and what the reports say. Kind: unit tests of `bench.growth` and `bench.tail`."""

from __future__ import annotations

import asyncio
import mmap
import os
from pathlib import Path

import pytest

from bench import growth, tail
from bench.growth import Stage, StagePeer, parse_objects
from bench.loader import Load
from bench.measure import Cell, Sample, figures_of
from bench.process import Resident, resident
from bench.signing import Signer
from bench.tail import Tail


def load_of(p99_us: float) -> Load:
    return Load(1.0, 1000, 0, "", 0, 1, 5.0, 10.0, 20.0, p99_us, 2 * p99_us, 3 * p99_us)


def test_a_stage_is_filled_and_gives_its_regions_back(tmp_path: Path) -> None:
    stage = Stage(600, tmp_path)
    asyncio.run(stage.fill())
    assert stage.index_bytes > 0
    asyncio.run(stage.evict(2))
    assert len(stage.step_us) == 2


def test_what_is_asked_of_a_stage_is_in_it(tmp_path: Path) -> None:
    stage = Stage(300, tmp_path)
    peer = StagePeer(stage)
    peer.signer = Signer("127.0.0.1:1", "key", "secret")
    stored = {growth.block_key(number) for number in range(300)}
    for operation, there in (("GET", True), ("404", False), ("PUT kv", False)):
        paths = {head.split(b" ")[1].decode().replace("%40", "@") for head in peer.plan(operation, growth.SIZE).heads}
        keys = {path.removeprefix(f"/{growth.BUCKET}/") for path in paths}
        assert (keys <= stored, keys.isdisjoint(stored)) == (there, not there)
    assert all(b"max-keys=1000&start-after=" in head for head in peer.plan("LIST", growth.SIZE).heads)


def test_growth_is_told_as_times_of_the_smallest() -> None:
    small, large = Stage(10_000, Path()), Stage(1_000_000, Path())
    for stage, factor in ((small, 1), (large, 2)):
        stage.index_bytes = 300 * stage.objects
        stage.step_us, stage.start_s, stage.start_cpu_s = [100.0 * factor], [1.0], [0.5]
    samples = {
        Cell("10,000", "GET", 256, 8): [Sample(load_of(1.0), {"worker": 0.02})],
        Cell("1,000,000", "GET", 256, 8): [Sample(load_of(1.0), {"worker": 0.03})],
    }
    figures = figures_of(samples, lambda peer: "" if peer == "10,000" else "10,000")
    lines = growth.report(figures, [small, large]).splitlines()
    assert lines[0].split() == ["objects", "10,000", "1,000,000"]
    assert lines[1].endswith("30.0 (30.0-30.0) x1.50")
    assert any(line.startswith("eviction step") and line.endswith("x2.00") for line in lines)
    assert any(line.startswith("index, bytes") and line.split()[-2:] == ["300", "300"] for line in lines)


@pytest.mark.parametrize(("text", "number"), [("10k", 10_000), ("1m", 1_000_000), ("7", 7)])
def test_numbers_of_objects_are_read(text: str, number: int) -> None:
    assert parse_objects(text) == number


def test_tail_is_held_against_the_quiet_round_beside_it() -> None:
    quiet = [Sample(load_of(100.0), {}), Sample(load_of(200.0), {})]
    churn = [Sample(load_of(300.0), {}), Sample(load_of(400.0), {})]
    found = Tail.of("churn", 4096, churn, quiet)
    assert (found.p99_ratio.least, found.p99_ratio.most, found.p99.median) == (2.0, 3.0, 350.0)
    text = tail.report([found], {"evictions": 3.0}, {"idle": (Resident(200 << 20, 1 << 20), 0)})
    assert "2.50 (2.00-3.00)" in text
    assert "evictions 3" in text
    assert "200 MiB + 1 mapped  over 120 MiB" in text


def test_memory_of_mapped_files_in_a_folder_is_counted_apart(tmp_path: Path) -> None:
    size = 4 << 20
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) > 0
        found = resident(os.getpid(), tmp_path)
    assert found.mapped >= size
    assert found.own > size
    assert resident(1 << 30, tmp_path) == Resident(0, 0)


def test_settings_of_the_stages_are_accepted_by_the_gateway(tmp_path: Path) -> None:
    assert growth.config.load(Stage(1000, tmp_path).settings).pools["kv"].region_bytes == growth.REGION_BYTES
