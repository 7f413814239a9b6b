"""The eviction policy object, alone and on a small made-up workload. Kind: unit tests of `tiering.policy`."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.policy_sim import RegionSimulation, simulate_queue
from tiering.policy import HEAT_MAX, FifoReinsertion, cooled, warmed
from tiering.ports import Resident

REGION = 100


def resident(size: int = 10, heat: int = 0, held: bool = False) -> Resident:
    return Resident(size, heat, held)


def test_keep_cold_residents_all_go() -> None:
    assert FifoReinsertion().keep([resident()] * 10, REGION) == [False] * 10


def test_keep_read_residents_stay_and_others_go() -> None:
    found = FifoReinsertion().keep([resident(heat=1), resident(), resident(heat=3), resident(held=True)], REGION)
    assert found == [True, False, True, True]


def test_keep_empty_region_answers_nothing() -> None:
    assert FifoReinsertion().keep([], REGION) == []


def test_keep_over_the_share_drops_the_coolest_and_latest() -> None:
    residents = [resident(heat=1)] * 5 + [resident(heat=2)] * 5
    found = FifoReinsertion(survivor_share=0.7, burst_regions=0).keep(residents, REGION)
    assert found == [True, True, False, False, False] + [True] * 5


def test_keep_smaller_resident_takes_room_a_larger_one_cannot() -> None:
    residents = [resident(60, heat=2), resident(30, heat=2), resident(15, heat=1)]
    found = FifoReinsertion(survivor_share=0.75, burst_regions=0).keep(residents, REGION)
    assert found == [True, False, True]


def test_keep_held_stay_above_the_share_and_leave_no_room_for_warm_ones() -> None:
    residents = [resident(heat=3), *[resident(held=True)] * 9]
    found = FifoReinsertion(survivor_share=0.5, burst_regions=0).keep(residents, REGION)
    assert found == [False] + [True] * 9


def test_keep_a_burst_passes_whole_regions_then_the_share_holds() -> None:
    policy = FifoReinsertion(survivor_share=0.75, burst_regions=0.5)
    kept = [sum(policy.keep([resident(heat=3)] * 10, REGION)) for _ in range(5)]
    assert kept == [10, 10, 7, 8, 7]  # 0.75 of ten, the rounding carried over


def test_keep_credit_comes_back_with_cold_regions() -> None:
    policy = FifoReinsertion(survivor_share=0.75, burst_regions=0.25)
    hot, cold = [resident(heat=1)] * 10, [resident()] * 10
    assert [sum(policy.keep(region, REGION)) for region in (hot, hot, cold, hot)] == [10, 7, 0, 10]


def test_keep_held_above_the_share_leaves_no_debt() -> None:
    policy = FifoReinsertion(survivor_share=0.5, burst_regions=0)
    policy.keep([resident(held=True)] * 10, REGION)
    assert sum(policy.keep([resident(heat=1)] * 10, REGION)) == 5


@pytest.mark.parametrize(("share", "burst"), [(1.0, 0), (-0.1, 0), (0.5, -1)])
def test_policy_refuses_settings_that_could_stall(share: float, burst: float) -> None:
    with pytest.raises(ValueError, match=r"must (be in|not be)"):
        FifoReinsertion(share, burst)


def test_heat_saturates_and_cools_to_zero() -> None:
    heat, seen = 0, []
    for _ in range(HEAT_MAX + 2):
        heat = warmed(heat)
        seen.append(heat)
    assert seen == [1, 2, 3, 3, 3]
    assert [cooled(heat) for heat in range(HEAT_MAX + 1)] == [0, 0, 1, 2]
    assert cooled(255) == HEAT_MAX - 1, "a counter beyond the cap is one at the cap"


_regions = st.lists(
    st.lists(st.builds(Resident, st.integers(0, 40), st.integers(0, 255), st.booleans()), max_size=12), max_size=30
)


@given(_regions, st.sampled_from([0.0, 0.5, 0.75]), st.sampled_from([0, 1, 2]))
def test_keep_long_run_survivors_stay_within_share_and_burst(
    regions: list[list[Resident]], share: float, burst: int
) -> None:
    policy, again = FifoReinsertion(share, burst), FifoReinsertion(share, burst)
    warm = held = 0
    for region in regions:
        verdict = policy.keep(region, REGION)
        assert verdict == again.keep(region, REGION), "the same calls give the same verdicts"
        for one, stays in zip(region, verdict, strict=True):
            assert stays or not one.held
            assert one.held or one.heat > 0 or not stays
            held += one.size if one.held else 0
            warm += one.size if stays and not one.held else 0
    assert warm <= (share * len(regions) + burst) * REGION + 1e-6


def test_regions_beat_fifo_and_equal_lru_where_few_prefixes_are_shared_by_many() -> None:
    """64 prefixes of 8 blocks, most requests for a few of them, each with 8 blocks of its own: the trace's shape."""
    seed = 20251124
    rng = random.Random(seed)
    requests = []
    for number in range(4000):
        prefix = min(63, int(rng.expovariate(0.08))) * 8
        own = 1_000_000 + number * 8
        requests.append([*range(prefix, prefix + 8), *range(own, own + 8)])
    capacity = 640
    lru = simulate_queue(requests, capacity, recency=True).hit_rate
    fifo = simulate_queue(requests, capacity, recency=False).hit_rate
    found = RegionSimulation(capacity, FifoReinsertion()).run(requests)
    assert found.hit_rate > fifo + 0.02, f"seed {seed}: regions {found.hit_rate}, FIFO {fifo}"
    assert found.hit_rate > lru - 0.01, f"seed {seed}: regions {found.hit_rate}, LRU {lru}"


def test_region_simulation_wholly_hot_tier_still_takes_new_blocks() -> None:
    hot = list(range(128))
    requests = [hot] + [[*hot, 1000 + number] for number in range(200)]
    found = RegionSimulation(128, FifoReinsertion()).run(requests)
    assert found.puts >= 328
    assert found.moved < 4 * found.puts
