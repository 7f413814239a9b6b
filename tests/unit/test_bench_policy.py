"""The simulated policies by hand, and the made-up traces. Kind: unit tests of `bench.policy` and `bench.synthetic`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.policy import POLICIES, Regions, compare, gap_closed, one_queue, optimum, replay
from bench.synthetic import SHAPES, synthetic
from bench.trace import Trace


def hits(name: str, requests: Sequence[Sequence[int]], capacity: int) -> int:
    return replay(requests, POLICIES[name](capacity)).hits


def test_policies_by_hand() -> None:
    """Room for two, or three. LRU keeps what was read last, FIFO what was stored last; CLOCK and SIEVE spare the read once."""
    requests = [(1,), (2,), (1,), (3,), (1,)]
    assert {name: hits(name, requests, 2) for name in ("LRU", "FIFO", "CLOCK", "SIEVE", "ARC")} == {
        "LRU": 2,
        "FIFO": 1,
        "CLOCK": 2,
        "SIEVE": 2,
        "ARC": 2,
    }


@pytest.mark.parametrize("name", ["CLOCK", "S3-FIFO", "SIEVE", "ARC"])
def test_policies_without_pressure_find_every_repeat(name: str) -> None:
    assert hits(name, [(0, 1), (0, 1), (0, 2), (3,), (0, 2, 3)], 100) == 6


@pytest.mark.parametrize("name", ["S3-FIFO", "ARC"])
def test_policies_against_scans_keep_what_is_read_again(name: str) -> None:
    requests = [(0,), (1,), (0,), (1,), (0,), (1,)] + [(each,) for each in range(10, 40)] + [(0,), (1,)]
    assert hits(name, requests, 10) == 6
    assert hits("LRU", requests, 10) == 4


@pytest.mark.parametrize("name", POLICIES)
def test_policies_hold_no_more_than_they_may(name: str) -> None:
    seed = 20251124
    rng = random.Random(seed)
    requests = [[rng.randrange(400) for _ in range(4)] for _ in range(1500)]
    cache = POLICIES[name](100)
    for blocks in requests:
        replay([blocks], cache)
        assert sum(block in cache for block in range(400)) <= 100, f"seed {seed}"


def test_simulation_hits_end_at_the_first_miss() -> None:
    found = replay([(1, 2, 3), (9, 2, 3), (1, 9, 3)], POLICIES["LRU"](100))
    assert (found.hits, found.references, found.puts) == (3, 9, 6)


def test_simulation_regions_move_what_was_read() -> None:
    """Three regions of two, two of them open: 1 was read and moves on, 2 was not and goes."""
    cache = Regions(6, one_queue, region_blocks=2)
    found = replay([(1, 2), (1,), (3, 4), (1,), (2,)], cache)
    assert (found.hits, found.moved) == (2, 1)


def test_optimum_by_hand_keeps_fronts_and_bypasses() -> None:
    """Room for two: 0 and 1 stay, 2 of the same chain does not, and 9 is never stored."""
    assert optimum([(0, 1, 2), (9,), (0, 1, 2), (0, 1, 2)], 2).hits == 4


def test_optimum_is_beaten_by_none() -> None:
    trace = synthetic(replace(SHAPES["scans"], requests=400), 20251124)
    for share in (0.02, 0.1, 0.5):
        found = compare(trace, share)
        assert max(outcome.hits for outcome in found.values()) == found["optimum"].hits
        assert gap_closed(found, "LRU") == 0


@pytest.mark.parametrize("name", SHAPES)
def test_synthetic_traces_are_chains_and_the_same_each_time(name: str) -> None:
    shape = replace(SHAPES[name], requests=300)
    trace = synthetic(shape, 1)
    assert trace == synthetic(shape, 1)
    assert trace != synthetic(shape, 2)
    before: dict[int, int] = {}
    for blocks in trace.requests:
        assert len(set(blocks)) == len(blocks)
        for block, previous in zip(blocks, (-1, *blocks), strict=False):
            assert before.setdefault(block, previous) == previous, "a block comes after the same one each time"


def test_simulation_compare_without_pressure_finds_every_repeat() -> None:
    trace = Trace(((0, 1), (0, 1), (0, 2)), (0.0, 0.0, 0.0))
    assert {outcome.hits for outcome in compare(trace, 100.0).values()} == {3}
