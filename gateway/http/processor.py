"""What the kernel knows of a thread that wants to run and cannot, since others have the processor.

Promise: where the kernel does not say, it never had to wait.
Owns nothing. Does not know what the time is for. Kind: shell. Spec: Documentation/scheduler/sched-stats.rst of Linux.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_STATISTICS: Final = Path("/proc/thread-self/schedstat")


def starved_s() -> float:
    """How long this thread has been ready to run and did not, in all."""
    try:
        return int(_STATISTICS.read_bytes().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
