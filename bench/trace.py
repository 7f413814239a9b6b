"""Reads a trace of prefix requests (Mooncake's format: one JSON object a line with `timestamp` and `hash_ids`).

Owns nothing. Does not know what is done with the blocks.
Kind: pure but for opening the file. Spec: the trace's README: `timestamp` in ms from the start, equal ids = same block.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice


@dataclass(frozen=True)
class Trace:
    """Requests in order of arrival: block ids front to back, and the arrival times in seconds from the start."""

    requests: tuple[tuple[int, ...], ...]
    arrivals_s: tuple[float, ...]

    @property
    def references(self) -> int:
        return sum(map(len, self.requests))

    @cached_property
    def distinct(self) -> int:
        return len({block for blocks in self.requests for block in blocks})


def parse_trace(lines: Iterable[str]) -> Trace:
    """Raises ValueError naming the line that is no request."""
    requests, arrivals = [], []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            requests.append(tuple(map(int, row["hash_ids"])))
            arrivals.append(float(row["timestamp"]) / 1000)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number} of the trace is no request: {error}") from error
    return Trace(tuple(requests), tuple(arrivals))


def read_trace(path: str, limit: int | None = None) -> Trace:
    """The first `limit` requests (None: all)."""
    with open(path, encoding="utf-8") as file:
        return parse_trace(islice(file, limit))
