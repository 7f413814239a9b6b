"""The eviction policy object, alone and on a small made-up workload. Kind: unit tests of `tiering.policy`."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.policy import Fifo, Lru, Regions, replay
from tiering.policy import GHOST_LAPS, HEAT_MAX, KEPT_LAPS_MAX, SPAN_MAX, SPAN_MIN, TwoQueues, cooled, span_of, warmed
from tiering.ports import QueueHead, Resident, Verdict

REGION = 100
REGIONS = 100


def resident(size: int = 10, heat: int = 0, held: bool = False, name: int = 0) -> Resident:
    return Resident(size, heat, held, name)


def policy(
    survivor_share: float = 0.75, burst_regions: float = 2, stay_share: float = math.inf, density_ratio: float = 4
) -> TwoQueues:
    """By default with nothing left where it is, so that each verdict is about residents alone."""
    return TwoQueues(REGIONS, survivor_share, burst_regions, density_ratio, stay_share, ghosts=64)


def stays(one: TwoQueues, residents: Sequence[Resident], fresh: bool = True) -> list[bool]:
    verdict = one.keep(residents, REGION, 10, fresh)
    assert not verdict.whole
    return list(verdict.stays)


def test_keep_cold_residents_all_go() -> None:
    assert stays(policy(), [resident()] * 10) == [False] * 10


def test_keep_read_residents_stay_and_others_go() -> None:
    found = stays(policy(), [resident(heat=1), resident(), resident(heat=3), resident(held=True)])
    assert found == [True, False, True, True]


def test_keep_empty_region_answers_nothing() -> None:
    assert stays(policy(), []) == []


def test_keep_over_the_share_drops_the_coolest_and_latest() -> None:
    residents = [resident(heat=1)] * 5 + [resident(heat=2)] * 5
    assert stays(policy(0.7, 0), residents) == [True, True, False, False, False] + [True] * 5


def test_keep_smaller_resident_takes_room_a_larger_one_cannot() -> None:
    residents = [resident(60, heat=2), resident(30, heat=2), resident(15, heat=1)]
    assert stays(policy(0.75, 0), residents) == [True, False, True]


def test_keep_held_stay_above_the_share_and_leave_no_room_for_warm_ones() -> None:
    residents = [resident(heat=3), *[resident(held=True)] * 9]
    assert stays(policy(0.5, 0), residents) == [False] + [True] * 9


def test_keep_a_burst_passes_whole_regions_then_the_share_holds() -> None:
    one = policy(0.75, 0.5)
    kept = [sum(stays(one, [resident(heat=3)] * 10)) for _ in range(5)]
    assert kept == [10, 10, 7, 8, 7]  # 0.75 of ten, the rounding carried over


def test_keep_credit_comes_back_with_cold_regions() -> None:
    one = policy(0.75, 0.25)
    hot, cold = [resident(heat=1)] * 10, [resident()] * 10
    assert [sum(stays(one, region)) for region in (hot, hot, cold, hot)] == [10, 7, 0, 10]


def test_keep_held_above_the_share_leaves_no_debt() -> None:
    one = policy(0.5, 0)
    stays(one, [resident(held=True)] * 10)
    assert sum(stays(one, [resident(heat=1)] * 10)) == 5


def test_keep_region_of_which_nearly_all_stays_is_left_whole() -> None:
    one = policy(stay_share=0.9)
    found = one.keep([resident(heat=1)] * 9 + [resident()], REGION, 10, True)
    assert found == Verdict([True] * 10, whole=True), "nobody goes where no room is gained"
    assert not one.keep([resident(heat=1)] * 8 + [resident()] * 2, REGION, 10, True).whole


def test_keep_region_left_whole_still_loses_what_is_refused() -> None:
    """Else a tier whose objects are all read between two looks would never gain room."""
    one = policy(0.9, 0, stay_share=0.9)
    assert one.keep([resident(heat=3)] * 10, REGION, 10, True) == Verdict([True] * 9 + [False], whole=True)


def idle_for_a_round(one: TwoQueues, name: int) -> Resident:
    """A kept object, read twice long ago and not since."""
    one.keep([resident(heat=2, name=name)], REGION, 10, False)
    return resident(heat=1, name=name)


def test_keep_idle_objects_go_where_evicted_ones_come_back_more_often() -> None:
    one = policy()
    for number in range(30):
        stays(one, [resident(name=2 << 40 | 5)])
        stays(one, [resident(name=2 << 40 | 5)])  # back at once
        idle = idle_for_a_round(one, 3 << 40 | 8 + number)
        one.keep([idle], REGION, 10, False)
        one.keep([resident(name=idle.name)], REGION, 10, False)  # and not read for another round
    found = [stays(one, [idle_for_a_round(one, 1 << 40 | place)], False)[0] for place in range(40, 48)]
    assert 0 < sum(found) <= len(found) / 2, "some are tried again"


def test_keep_idle_objects_stay_where_nothing_evicted_comes_back() -> None:
    one = policy()
    assert stays(one, [idle_for_a_round(one, 1 << 40 | 3)], fresh=False) == [True]


def test_keep_leaves_more_whole_once_too_much_was_moved_and_less_again_later() -> None:
    one = policy(0.95, stay_share=0.9)
    warm, cold = [resident(heat=1)] * 7, [resident()] * 10
    first = next(number for number in range(1000) if one.keep(warm, REGION, 10, True).whole)
    assert 5 < first < 20, "some are let through, though nothing is saved up at the start"
    for _ in range(10):
        one.keep(cold, REGION, 10, True)
    assert not one.keep(warm, REGION, 10, True).whole


def test_keep_object_that_comes_back_counts_as_read_once() -> None:
    one = policy()
    gone, other = resident(name=1 << 40 | 3), resident(name=2 << 40 | 5)
    assert stays(one, [gone]) == [False]
    assert stays(one, [gone, other]) == [True, False]
    assert stays(one, [gone], fresh=False) == [False], "kept ones have been looked at since they came"


def test_keep_object_that_comes_back_too_late_is_a_new_one() -> None:
    one = TwoQueues(2)
    gone = resident(name=1 << 40 | 3)
    one.keep([gone], REGION, 1, True)
    for _ in range(GHOST_LAPS * 2):
        one.keep([resident()], REGION, 1, True)
    assert list(one.keep([gone], REGION, 1, True).stays) == [False]


def test_keep_residents_without_a_name_are_not_remembered() -> None:
    one = policy()
    assert [stays(one, [resident()]) for _ in range(2)] == [[False], [False]]


def test_fresh_next_is_the_older_of_the_two() -> None:
    one = policy()
    assert one.fresh_next(QueueHead(5, 50), QueueHead(4, 50))
    assert not one.fresh_next(QueueHead(4, 50), QueueHead(5, 50))


def test_fresh_next_is_the_younger_fresh_one_when_those_are_read_much_less() -> None:
    one = policy()
    for _ in range(span_of(REGIONS)):
        one.keep([resident(heat=1)] * 10, REGION, 10, False)
        one.keep([resident()] * 10, REGION, 10, True)
    assert one.fresh_next(QueueHead(1, 50), QueueHead(50, 50))
    assert one.fresh_next(QueueHead(1, 50), QueueHead(KEPT_LAPS_MAX * 100, 50))
    assert not one.fresh_next(QueueHead(1, 50), QueueHead(KEPT_LAPS_MAX * 100 + 1, 50)), "not for ever"


def test_fresh_next_is_the_older_one_when_both_are_read_alike() -> None:
    one = policy()
    for _ in range(span_of(REGIONS)):
        one.keep([resident(heat=1)] * 10, REGION, 10, False)
        one.keep([resident(heat=1)] * 3, REGION, 10, True)
    assert not one.fresh_next(QueueHead(1, 50), QueueHead(50, 50))


def test_fresh_next_leaves_new_objects_some_room() -> None:
    one = policy()
    for _ in range(span_of(REGIONS)):
        one.keep([resident(heat=1)] * 10, REGION, 10, False)
        one.keep([resident()] * 10, REGION, 10, True)
    assert one.fresh_next(QueueHead(1, 6), QueueHead(50, 94))
    assert not one.fresh_next(QueueHead(1, 4), QueueHead(50, 96))


@pytest.mark.parametrize(
    ("regions", "wanted"),
    [(1, SPAN_MIN), (4 * SPAN_MIN, SPAN_MIN), (100, 25), (4 * SPAN_MAX, SPAN_MAX), (1 << 20, SPAN_MAX)],
)
def test_span_is_a_share_of_the_tier_within_bounds(regions: int, wanted: int) -> None:
    assert span_of(regions) == wanted


def test_keep_a_longer_tier_lets_a_longer_run_of_hot_regions_through() -> None:
    """What lies in many small regions was written together and is hot together."""

    def whole_run(regions: int) -> int:
        one = TwoQueues(regions)
        return next(run for run in range(10_000) if not all(one.keep([resident(heat=1)] * 10, REGION, 10, True).stays))

    assert 10 < whole_run(16) < 40 < whole_run(1000) < 200, "and none for ever"


@pytest.mark.parametrize(("share", "burst"), [(1.0, 0), (-0.1, 0), (0.5, -1)])
def test_policy_refuses_settings_that_could_stall(share: float, burst: float) -> None:
    with pytest.raises(ValueError, match=r"must (be in|not be)"):
        policy(share, burst)


def test_heat_saturates_and_cools_to_zero() -> None:
    heat, seen = 0, []
    for _ in range(HEAT_MAX + 2):
        heat = warmed(heat)
        seen.append(heat)
    assert seen == [1, 2, 3, 3, 3]
    assert [cooled(heat) for heat in range(HEAT_MAX + 1)] == [0, 0, 1, 2]
    assert cooled(255) == HEAT_MAX - 1, "a counter beyond the cap is one at the cap"


_regions = st.lists(
    st.tuples(
        st.lists(st.builds(Resident, st.integers(0, 40), st.integers(0, 255), st.booleans()), max_size=12),
        st.booleans(),
    ),
    max_size=30,
)


@given(_regions, st.sampled_from([0.0, 0.5, 0.75]), st.sampled_from([0, 1, 2]), st.sampled_from([0.9, math.inf]))
def test_keep_long_run_survivors_stay_within_share_and_burst(
    regions: list[tuple[list[Resident], bool]], share: float, burst: int, stay_share: float
) -> None:
    one, again = policy(share, burst, stay_share), policy(share, burst, stay_share)
    warm = 0
    for region, fresh in regions:
        verdict = one.keep(region, REGION, 3, fresh)
        assert verdict == again.keep(region, REGION, 3, fresh), "the same calls give the same verdicts"
        for each, stay in zip(region, verdict.stays, strict=True):
            assert stay or not each.held
            assert each.held or each.heat > 0 or verdict.whole or not stay
            warm += each.size if stay and not each.held and each.heat > 0 else 0
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
    lru = replay(requests, Lru(capacity)).hit_rate
    fifo = replay(requests, Fifo(capacity)).hit_rate
    found = replay(requests, Regions(capacity))
    assert found.hit_rate > fifo + 0.02, f"seed {seed}: regions {found.hit_rate}, FIFO {fifo}"
    assert found.hit_rate > lru - 0.01, f"seed {seed}: regions {found.hit_rate}, LRU {lru}"


def test_regions_wholly_hot_tier_still_takes_new_blocks() -> None:
    hot = list(range(128))
    requests = [hot] + [[*hot, 1000 + number] for number in range(200)]
    found = replay(requests, Regions(128))
    assert found.puts >= 328
    assert found.moved < 4 * found.puts
