"""One input given to one target, under a limit of processor time; and the shortest input that shows the same fault.

Owns the process's SIGVTALRM while an input runs: for the main thread of a process of its own. Kind: shell.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Final

INPUT_CPU_S: Final = 2.0
"""What one input may take: a thousand times what most do."""


class TooSlow(BaseException):
    """An input took longer than it may. No Exception: no target may take it for a refusal."""


def _over(number: int, frame: object) -> None:
    raise TooSlow(f"more than {INPUT_CPU_S} s of processor time")


def run(target: Callable[[bytes], object], data: bytes) -> None:
    """Raises what leaves the target, or TooSlow."""
    signal.signal(signal.SIGVTALRM, _over)
    signal.setitimer(signal.ITIMER_VIRTUAL, INPUT_CPU_S)
    try:
        target(data)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def fault_of(target: Callable[[bytes], object], data: bytes) -> BaseException | None:
    """What is wrong with the target, going by this input."""
    try:
        run(target, data)
    except (Exception, TooSlow) as error:
        return error
    return None


def shortest(target: Callable[[bytes], object], data: bytes, seconds: float) -> bytes:
    """The shortest input found within `seconds` that shows a fault of the kind that `data` shows."""
    kind = type(fault_of(target, data))
    until = time.monotonic() + seconds
    step = len(data) // 2
    while step:
        at = 0
        while at < len(data) and time.monotonic() < until:
            less = data[:at] + data[at + step :]
            if type(fault_of(target, less)) is kind:
                data = less
            else:
                at += step
        step //= 2
    return data
