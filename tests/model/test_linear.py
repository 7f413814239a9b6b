"""The check of linearizability against histories known to be good and known to be bad, and against trying every order.

Kind: tests. Spec: tests/model/linear.py.
"""

from __future__ import annotations

import random
from itertools import combinations, permutations
from math import inf

import pytest

from tests.model.linear import ABSENT, Op, explain


def put(begun: float, ended: float, value: str, needs: str | None = None) -> Op:
    return Op(begun, ended, "put", needs, writes=value)


def get(begun: float, ended: float, value: str) -> Op:
    return Op(begun, ended, "get", value)


def refused(begun: float, ended: float, *values: str) -> Op:
    """A 412: what stood there was none of these."""
    return Op(begun, ended, "refused", avoids=frozenset(values))


def delete(begun: float, ended: float, needs: str | None = None) -> Op:
    return Op(begun, ended, "delete", needs, writes=ABSENT)


GOOD = {
    "nothing": [],
    "one after the other": [put(0, 1, "a"), get(2, 3, "a"), delete(4, 5), get(6, 7, ABSENT)],
    "a read during a write sees either": [put(0, 1, "a"), put(2, 6, "b"), get(3, 4, "a"), get(4.5, 5, "b")],
    "two writes at once, in the order of the second read": [put(0, 9, "a"), put(0, 9, "b"), get(10, 11, "a")],
    "a lost write that happened": [put(0, inf, "a"), get(1, 2, "a")],
    "a lost write that did not": [put(0, inf, "a"), get(1, 2, ABSENT)],
    "a lost write that happened late": [put(0, inf, "a"), get(1, 2, ABSENT), get(3, 4, "a")],
    "a lost conditional write that was too late": [put(0, 1, "a"), put(2, inf, "b", "a"), put(2, 3, "c", "a"), get(4, 5, "c")],
    "one of two creators": [put(0, 2, "a", ABSENT), refused(0, 2, ABSENT), get(3, 4, "a")],
    "a swap": [put(0, 1, "a"), put(2, 3, "b", "a"), refused(4, 5, "a", ABSENT), delete(6, 7, "b"), get(8, 9, ABSENT)],
    "a refusal while the other writes": [put(0, 1, "a"), put(2, 5, "b", "a"), refused(3, 4, "a", ABSENT)],
}  # fmt: skip
BAD = {
    "an overwritten value": [put(0, 1, "a"), put(2, 3, "b"), get(4, 5, "a")],
    "nothing where something was acknowledged": [put(0, 1, "a"), get(2, 3, ABSENT)],
    "what was deleted": [put(0, 1, "a"), delete(2, 3), get(4, 5, "a")],
    "what nobody wrote": [put(0, 1, "a"), get(2, 3, "x")],
    "what is only written later": [get(0, 1, "a"), put(2, 3, "a")],
    "new, then old": [put(0, 1, "a"), put(2, 9, "b"), get(3, 4, "b"), get(5, 6, "a")],
    "two in different orders": [put(0, 9, "a"), put(0, 9, "b"), get(1, 2, "a"), get(3, 4, "b"), get(5, 6, "a")],
    "a lost write that was seen and is gone": [put(0, inf, "a"), get(1, 2, "a"), get(3, 4, ABSENT)],
    "both creators": [put(0, 2, "a", ABSENT), put(0, 2, "b", ABSENT)],
    "no creator": [refused(0, 2, ABSENT), get(3, 4, ABSENT)],
    "both swaps of one value": [put(0, 1, "a"), put(2, 4, "b", "a"), put(2, 4, "c", "a")],
    "a swap of what is gone": [put(0, 1, "a"), delete(2, 3), put(4, 5, "b", "a")],
    "a refusal of what stands there": [put(0, 1, "a"), refused(2, 3, "a")],
    "a conditional delete of another": [put(0, 1, "a"), put(2, 3, "b"), delete(4, 5, "a")],
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_history_has_an_order(history: list[Op]) -> None:
    assert explain(history) == ""


@pytest.mark.parametrize("history", BAD.values(), ids=BAD)
def test_history_has_no_order(history: list[Op]) -> None:
    assert "none of these can be next" in explain(history)


def test_known_order_of_writes_must_be_the_one() -> None:
    both = [put(0, 9, "a"), put(0, 9, "b"), delete(10, 11), put(12, inf, "c")]
    assert explain(both, ["a", "b", ABSENT]) == ""
    assert explain(both, ["b", "a", ABSENT, "c"]) == ""
    assert explain(both, ["a", ABSENT, "b"])  # the delete came later
    assert explain(both, ["a", ABSENT])  # an acknowledged write is not among them
    assert explain(both, ["a", "b", ABSENT, "d"])  # nobody wrote that
    assert explain([*both, get(13, 14, "a")], ["b", "a", ABSENT, "c"])


def by_trying(ops: list[Op]) -> bool:
    """The definition: some order of the finished and some of the lost ones, of which no later one ended before an earlier one
    began."""
    finished = [op for op in ops if op.ended < inf]
    lost = [op for op in ops if op.ended == inf]
    for count in range(len(lost) + 1):
        for happened in combinations(lost, count):
            for order in permutations([*finished, *happened]):
                value, latest = ABSENT, 0.0
                for op in order:
                    latest = max(latest, op.begun)
                    if op.ended < latest or not op.fits(value):
                        break
                    value = value if op.writes is None else op.writes
                else:
                    return True
    return False


def test_agrees_with_trying_every_order() -> None:
    rng = random.Random(4)
    verdicts = []
    for trial in range(600):
        ops = []
        for number in range(rng.randrange(2, 7)):
            begun = rng.randrange(12)
            value = rng.choice([ABSENT, "0", "1", "2"])
            what = rng.randrange(5)
            ended = inf if what < 3 and rng.random() < (0.2 if trial % 2 else 0.7) else begun + rng.randrange(1, 6)
            ops.append(
                put(begun, ended, str(number), value if what == 1 else None) if what < 2
                else delete(begun, ended) if what == 2
                else get(begun, ended, value) if what == 3
                else refused(begun, ended, value)
            )  # fmt: skip
        verdicts.append(by_trying(ops))
        assert (explain(ops) == "") == verdicts[-1], ops
    assert 100 < sum(verdicts) < 500


def test_long_history_of_many_clients_is_cheap() -> None:
    rng = random.Random(1)
    value, ops = ABSENT, []
    for at in range(1000):
        begun, ended = at - 4 * rng.random(), at + 4 * rng.random()
        if rng.random() < 0.4:
            ops.append(put(begun, inf if rng.random() < 0.01 else ended, str(at)))
            value = str(at)
        else:
            ops.append(get(begun, ended, value))
    assert explain(ops) == ""
    assert explain([get(0, 5, "7"), *ops[20:]])


def test_many_lost_writes_are_cheap() -> None:
    # A worker was killed again and again: whatever was under way may have happened at any time since, or never.
    lost = [put(at / 10, inf, f"lost {at}") for at in range(30)] + [delete(at / 10, inf) for at in range(10)]
    seen = [put(0, 1, "a"), get(4, 5, "lost 7"), get(6, 7, ABSENT), put(8, 9, "b", ABSENT), get(10, 11, "lost 3")]
    assert explain([*lost, *seen]) == ""
    assert "none of these can be next" in explain([*lost, *seen, get(12, 13, "lost 7")])
