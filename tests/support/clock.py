"""A clock that stands still until a test moves it. Owns its time. Kind: owner. Spec: tiering.contract.Clock."""

from __future__ import annotations

NEW_YEAR_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z."""


class ManualClock:
    """Implements `tiering.contract.Clock`."""

    def __init__(self, now_ms: int = NEW_YEAR_MS) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def advance(self, seconds: float) -> None:
        """Moves forward; never back."""
        assert seconds >= 0
        self._now_ms += round(seconds * 1000)
