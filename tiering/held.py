"""How long writes waited for one thing, of however many that waited at once: what an operator is told of it.

Owns one sum. Does not know what is waited for. Kind: owner; one thread, or under its owner's lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Held:
    """`clock_s` is monotonic."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._waiting = 0
        self._since_s = 0.0
        self._before_s = 0.0

    def begin(self) -> None:
        if self._waiting == 0:
            self._since_s = self._clock_s()
        self._waiting += 1

    def end(self) -> None:
        self._waiting -= 1
        if self._waiting == 0:
            self._before_s += self._clock_s() - self._since_s

    def seconds(self) -> float:
        """The time until now in which somebody waited."""
        return self._before_s + (self._clock_s() - self._since_s if self._waiting else 0.0)
