"""The line before a worker that has no room: who waits for a turn, by address.

Promise: addresses take turns, so that a long line of one does not make another wait; within an address it is first come, first
served, until the first has waited so long that it may have given up, and then the newest first: whoever serves in order under
lasting overload serves only those who no longer listen. Where waiting is not worth it once it lasts, a line that does not become
empty is no burst any more, and the patience with all in it is short (the controlled delay of Nichols and Jacobson).
**Owns** the line. **Does not know** what is waited for. Kind: owner, on the loop's thread. Spec: docs/decisions/0015.
"""

from __future__ import annotations

from collections import OrderedDict  # a dict takes the longer for its first the more went before it
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Line(Generic[T]):
    """`patience_s`: how long one may wait; `short_s`: the same when somebody has been waiting for so long, and until nobody has for
    as long. `in_order`: what part of it the first of an address waits before the newest goes first. Times are of one monotonic
    clock."""

    __slots__ = ("_busy_s", "_by_peer", "_count", "_in_order", "_patience_s", "_short_s", "_since_s")

    def __init__(self, patience_s: float, short_s: float, in_order: float) -> None:
        self._patience_s = patience_s
        self._short_s = min(short_s, patience_s)
        self._in_order = in_order
        self._since_s = 0.0  # somebody has been waiting since then, but for short whiles,
        self._busy_s = float("-inf")  # and was when it was last looked
        self._by_peer: OrderedDict[str, OrderedDict[T, float]] = (
            OrderedDict()
        )  # who → since when, in the order they came
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def patience_s(self, now_s: float) -> float:
        """How long one may wait now."""
        self._look(now_s)
        lasts = self._busy_s - self._since_s >= self._patience_s and now_s - self._busy_s < self._patience_s
        return self._short_s if lasts else self._patience_s

    def _look(self, now_s: float) -> None:
        if self._count:
            self._busy_s = now_s

    def join(self, peer: str, who: T, now_s: float, waited_s: float = 0.0) -> None:
        """`waited_s`: elsewhere, before. It counts only while the patience is short: by itself it may be a pause of ours."""
        if self.patience_s(now_s) == self._patience_s:
            waited_s = 0.0
        if not self._count and now_s - self._busy_s >= self._patience_s:
            self._since_s = now_s
        self._busy_s = now_s
        self._by_peer.setdefault(peer, OrderedDict())[who] = now_s - waited_s
        self._count += 1

    def waited_s(self, peer: str, now_s: float) -> float:
        """How long the first of an address has waited."""
        waiting = self._by_peer.get(peer)
        return now_s - next(iter(waiting.values())) if waiting else 0.0

    def leave(self, peer: str, who: T) -> None:
        """Takes one out, wherever it stands."""
        waiting = self._by_peer[peer]
        del waiting[who]
        self._count -= 1
        if not waiting:
            del self._by_peer[peer]

    def next(self, may: Callable[[str], bool], now_s: float, in_order: bool = False) -> T | None:
        """Takes out who is next among the addresses that `may`; None without any. `in_order`: nobody is taken to have given up."""
        late_s = float("inf") if in_order else self.patience_s(now_s) * self._in_order
        for peer, waiting in self._by_peer.items():
            if may(peer):
                oldest, since_s = next(iter(waiting.items()))
                late = now_s - since_s > late_s
                who = next(reversed(waiting)) if late else oldest
                self.leave(peer, who)
                if waiting:  # the others first
                    self._by_peer.move_to_end(peer)
                return who
        return None

    def impatient(self, now_s: float, least_s: float = 0.0) -> Iterator[T]:
        """Takes out, one by one, who has waited for the whole patience, address by address, the oldest first. `least_s`: or for so
        long, if that is longer."""
        patience_s = max(self.patience_s(now_s), least_s)
        for peer in list(self._by_peer):
            while waiting := self._by_peer.get(peer):
                who, since_s = next(iter(waiting.items()))
                if now_s - since_s < patience_s:
                    break
                self.leave(peer, who)
                yield who
