"""Logging of one process: one line an event on stderr, `key=value`, and no storm of equal lines.

A module logs with the standard library: `log.warning("backing unavailable", extra={"once": "backing", "error": text})`.
Everything in `extra` becomes a key of the line, but `once`: an event that carries it is written once a minute for each
value, and the next line that is written says how many were left out. So `tiering` need not know this module.

Owns the root logger's one handler. Does not know settings. Kind: shell. Spec: docs/OPERATIONS.md, "Log".
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from typing import IO, Any, Final

ONCE_S: Final = 60.0
ONCE_KEYS_MAX: Final = 1024
_STANDARD: Final = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    "message",
    "asctime",
    "taskName",
}
_PLAIN: Final = re.compile(r"[!#-<>-~]+")


class Line(logging.Formatter):
    """`t=2026-03-01T12:00:00.123Z level=info proc=worker-0 log=gateway.worker msg="ready" port=9000`."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        pairs: list[tuple[str, Any]] = [
            ("t", f"{seconds}.{int(record.msecs):03d}Z"),
            ("level", record.levelname.lower()),
            ("proc", self._process),
            ("log", record.name),
            ("msg", record.getMessage()),
        ]
        pairs += [(key, item) for key, item in record.__dict__.items() if key not in _STANDARD and key != "once"]
        if record.exc_info:
            pairs.append(("exc", self.formatException(record.exc_info)))
        return " ".join(f"{key}={_quoted(item)}" for key, item in pairs)


def _quoted(item: Any) -> str:
    """JSON's escapes keep a line one line: what a client sent cannot forge a second one."""
    text = str(item)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


class Once(logging.Filter):
    """Lets a record that carries `once` pass once a minute for each value of it; adds `suppressed` to the next that passes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}  # value → (written at, left out since)

    def filter(self, record: logging.LogRecord) -> bool:
        key = getattr(record, "once", None)
        if key is None:
            return True
        key, now = str(key), self._clock()
        written_s, left_out = self._seen.get(key, (-ONCE_S, 0))
        if now - written_s < ONCE_S:
            self._seen[key] = (written_s, left_out + 1)
            return False
        self._seen.pop(key, None)
        if len(self._seen) >= ONCE_KEYS_MAX:
            del self._seen[next(iter(self._seen))]  # the one written longest ago
        self._seen[key] = (now, 0)
        if left_out:
            record.suppressed = left_out
        return True


def start(process: str, level: str, stream: IO[str] | None = None) -> None:
    """Makes this process log to `stream` (stderr); replaces what was set up before."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Line(process))
    handler.addFilter(Once())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Each retried request to the bucket is a warning there; the backing's own line says it once a minute.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
