"""Moments as replies write them: HTTP dates, and ISO 8601 in the spellings of S3 and its neighbours.

Owns nothing but what it remembers of recent seconds. Does not know where they are written. Kind: pure.
Invariant: what lies behind the year 9999 is written as its end, since no form can say more.
Spec: RFC 9110 §5.6.7; AWS S3 API Reference, "Common response headers"; `s3api.params` reads what clients write.
"""

from __future__ import annotations

import functools
import time
from typing import Final

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FAR_MS: Final = 253_402_300_799_999  # the last moment of year 9999


def http_date(at_ms: int) -> str:
    """IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT`."""
    return _http_date(min(at_ms, _FAR_MS) // 1000)


@functools.lru_cache(maxsize=1024)  # blocks are written in bursts: many objects share a second (2 µs become 0.1)
def _http_date(at_s: int) -> str:
    t = time.gmtime(at_s)
    return f"{_DAYS[t[6]]}, {t[2]:02d} {_MONTHS[t[1]]} {t[0]} {t[3]:02d}:{t[4]:02d}:{t[5]:02d} GMT"


def iso_second(at_ms: int) -> str:
    """`1994-11-06T08:49:37Z`: policies, the token service, errors about clocks."""
    return _iso_second(min(at_ms, _FAR_MS) // 1000)


@functools.lru_cache(maxsize=1024)  # as above: a listing names a thousand moments
def _iso_second(at_s: int) -> str:
    t = time.gmtime(at_s)
    return f"{t[0]:04d}-{t[1]:02d}-{t[2]:02d}T{t[3]:02d}:{t[4]:02d}:{t[5]:02d}Z"


def iso_date(at_ms: int) -> str:
    """`1994-11-06T08:49:37.000Z`, as S3 writes whole seconds: a listing and a HEAD then name the same moment."""
    return f"{iso_second(at_ms)[:-1]}.000Z"


def iso_moment(at_ms: int) -> str:
    """`1994-11-06T08:49:37.123Z`, with milliseconds: deadlines, events."""
    return f"{iso_second(at_ms)[:-1]}.{min(at_ms, _FAR_MS) % 1000:03d}Z"
