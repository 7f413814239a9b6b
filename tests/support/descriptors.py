"""`descriptors(more)`: a process that may open only so many files more.

Promise: the limit is as it was when the block ends. Owns nothing. Kind: shell (test support; Linux).
"""

from __future__ import annotations

import itertools
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


def opened(pid: int) -> set[int]:
    """The numbers of the descriptors it has."""
    listed = [int(name) for name in os.listdir(f"/proc/{pid}/fd")]
    return {
        number for number in listed if os.path.lexists(f"/proc/{pid}/fd/{number}")
    }  # not that of the listing itself


@contextmanager
def descriptors(more: int, pid: int | None = None) -> Iterator[None]:
    """Process `pid`, this one by default, may have `more` descriptors beside those it has now."""
    pid = pid or os.getpid()
    have = opened(pid)
    free = (number for number in itertools.count() if number not in have)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (next(itertools.islice(free, more, None)), before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
