"""Whether what several clients saw of one key can have happened one thing after the other: a check of linearizability.

Promise: `explain` says "" exactly when there is an order of the operations in which each takes effect at one moment between its
begin and its end, and each reply is that of a register which holds one value or none and is read, written, and written under
conditions. An operation whose reply was lost may have taken effect at any moment since its begin, or never.

The search is that of Wing and Gong with Lowe's memory of states already tried; operations that only look are taken as soon as
they fit, since that never stands in another's way. Its cost grows with how many writes are under way at once, not with how long
the history is. Lost ones are under way for ever: of those that could stand for one another, only the first to begin is tried, and
no state is that another is but for more of them: whatever could follow it, could follow that.

Owns nothing. Does not know HTTP. Kind: pure. Spec: Herlihy and Wing, "Linearizability"; Lowe, "Testing for linearizability".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from typing import Final, NamedTuple

ABSENT: Final = ""
"""The value of a key under which nothing stands."""
STATES_MAX: Final = 20_000
"""More states tried than these: the history is given up, which counts as a fault."""


class Op(NamedTuple):
    """One operation on a key. `ended` inf: the reply was lost, so that it may not have happened at all.

    `needs`: the value it found, None if its reply does not tell. `avoids`: values it cannot have found. `writes`: the value
    it left, None if it changed nothing. Each write but of ABSENT has a value of its own.
    """

    begun: float
    ended: float
    what: str
    needs: str | None = None
    avoids: frozenset[str] = frozenset()
    writes: str | None = None

    def fits(self, value: str) -> bool:
        return (self.needs is None or self.needs == value) and value not in self.avoids


class _State(NamedTuple):
    """`done`: the operations that have happened, a bit each. `written`: how many of them were writes."""

    done: int
    value: str
    written: int


def explain(operations: Sequence[Op], writes: Sequence[str] | None = None) -> str:
    """Why there is no such order, or "". `writes`: the values of all writes that happened in the order in which they did,
    where that is known: then it must be this one."""
    ops = sorted((op for op in operations if op.ended < inf or op.writes is not None), key=lambda op: op.begun)
    search = _Search(ops, writes)
    return "" if search.found() else search.why()


_UNSEEN: Final = "?"
"""What any lost write left that nobody has seen: whichever it was, it makes no difference."""


def _told_apart(ops: list[Op], writes: Sequence[str] | None) -> list[Op]:
    """The same with lost writes as far as they can be told apart; without those of which it is known that they did not happen."""
    seen = {ABSENT, *(op.needs for op in ops), *(value for op in ops for value in op.avoids)}
    if writes is not None:
        return [op for op in ops if op.ended < inf or op.writes in writes]
    return [op if op.ended < inf or op.writes in seen else op._replace(writes=_UNSEEN) for op in ops]


def _twins(ops: list[Op]) -> list[int]:
    """For each lost write the one before it that would do the same, else -1."""
    last: dict[tuple[str | None, frozenset[str], str | None], int] = {}
    found = []
    for at, op in enumerate(ops):
        alike = op.needs, op.avoids, op.writes
        found.append(last.get(alike, -1) if op.ended == inf else -1)
        if op.ended == inf:
            last[alike] = at
    return found


class _Search:
    def __init__(self, ops: list[Op], writes: Sequence[str] | None) -> None:
        self._ops = ops = _told_apart(ops, writes)
        self._writes = writes
        self._twin = _twins(ops)
        self._needed = sum(1 << at for at, op in enumerate(ops) if op.ended < inf)
        self._farthest = _State(0, ABSENT, 0)
        # The lost ones that had happened, by all else of a state.
        self._tried: dict[_State, list[int]] = {}
        self._states = 0

    def found(self) -> bool:
        start = self._looked(_State(0, ABSENT, 0))
        if self._over(start):
            return True
        stack = [self._next(start)]
        while stack:
            state = next(stack[-1], None)
            if state is None:
                stack.pop()
                continue
            state = self._looked(state)
            if self._over(state):
                return True
            if self._is_vain(state):
                continue
            self._states += 1
            if self._states > STATES_MAX:
                return False
            if state.done.bit_count() > self._farthest.done.bit_count():
                self._farthest = state
            stack.append(self._next(state))
        return False

    def _is_vain(self, state: _State) -> bool:
        """Whether a state was tried in which the same has happened, or the same without some of the lost ones. Remembers it."""
        lost = state.done & ~self._needed
        written = 0 if self._writes is None else state.written
        tried = self._tried.setdefault(_State(state.done & self._needed, state.value, written), [])
        if any(other & ~lost == 0 for other in tried):
            return True
        tried.append(lost)
        return False

    def _over(self, state: _State) -> bool:
        return state.done & self._needed == self._needed and (
            self._writes is None or state.written == len(self._writes)
        )

    def _open(self, done: int) -> list[int]:
        """What may come next: whatever began before anything that has not happened yet had ended, the first to end first."""
        at = (~done & (done + 1)).bit_length() - 1  # the first that has not happened
        earliest, found = inf, []
        while at < len(self._ops) and self._ops[at].begun <= earliest:
            if not done >> at & 1:
                found.append(at)
                earliest = min(earliest, self._ops[at].ended)
            at += 1
        # Whatever has begun by the earliest end; that came down on the way.
        return sorted((at for at in found if self._ops[at].begun <= earliest), key=lambda at: self._ops[at].ended)

    def _looked(self, state: _State) -> _State:
        """The state after everything that only looks and fits."""
        done = state.done
        while True:
            fit = [at for at in self._open(done) if self._ops[at].writes is None and self._ops[at].fits(state.value)]
            if not fit:
                return state._replace(done=done)
            for at in fit:
                done |= 1 << at

    def _next(self, state: _State) -> Iterator[_State]:
        for at in self._open(state.done):
            op = self._ops[at]
            if op.writes is None or not op.fits(state.value):
                continue
            if self._twin[at] >= 0 and not state.done >> self._twin[at] & 1:
                continue
            if self._writes is not None and self._writes[state.written : state.written + 1] != [op.writes]:
                continue
            yield _State(state.done | 1 << at, op.writes, state.written + 1)

    def why(self) -> str:
        state = self._farthest
        if self._states > STATES_MAX:
            return f"given up after {STATES_MAX} states"
        left = [self._ops[at] for at in self._open(state.done)]
        begin = self._ops[0].begun if self._ops else 0
        lines = [
            f"  {op.begun - begin:.6f} to {op.ended - begin:.6f} s: {op.what} found {op.needs!r}, not {sorted(op.avoids)}, left {op.writes!r}"
            for op in left
        ]
        happened = f"{state.done.bit_count()} of {len(self._ops)} operations happen, then it is {state.value!r}"
        return "\n".join((f"{happened}, and none of these can be next:", *lines))
