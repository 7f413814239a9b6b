"""Response heads: status, date, framing → bytes.

**Owns** the cached status lines with their Date, renewed when told the time. **Does not know** connections.
Kind: owner (one a worker). Spec: RFC 9112 section 4; RFC 9110 section 5.6.7 (IMF-fixdate).
"""

from __future__ import annotations

import http
import time
from typing import Final

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
BODYLESS: Final = frozenset((204, 304))


def imf_fixdate(unix_s: int) -> str:
    """HTTP's date, in English whatever the locale says."""
    t = time.gmtime(unix_s)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02d} {_MONTHS[t.tm_mon - 1]} {t.tm_year:04d} "
        f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} GMT"
    )


class HeadRenderer:
    """Renders response heads; `set_time` is called at least once a second."""

    __slots__ = ("_date", "_lines", "_unix_s")

    def __init__(self, unix_s: float) -> None:
        self._unix_s = -1
        self._date = b""
        self._lines: dict[int, bytes] = {}
        self.set_time(unix_s)

    def set_time(self, unix_s: float) -> None:
        """Renews the Date when the second has changed."""
        if int(unix_s) != self._unix_s:
            self._unix_s = int(unix_s)
            self._date = imf_fixdate(self._unix_s).encode()
            self._lines.clear()

    def head(self, status: int, headers: bytes, length: int, connection: bytes) -> bytes:
        """A whole head with its empty line. `length` is left out for statuses that have no body; `connection` is a
        rendered line or empty."""
        line = self._lines.get(status) or self._line(status)
        if status in BODYLESS:
            return b"%b%b%b\r\n" % (line, headers, connection)
        return b"%b%bContent-Length: %d\r\n%b\r\n" % (line, headers, length, connection)

    def _line(self, status: int) -> bytes:
        try:
            phrase = http.HTTPStatus(status).phrase
        except ValueError:
            phrase = ""
        line = self._lines[status] = b"HTTP/1.1 %d %b\r\nDate: %b\r\n" % (status, phrase.encode(), self._date)
        return line
