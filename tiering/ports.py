"""The protocols inside the engine: what the tiers ask of time, of a backing store, of a policy and of a duty.

Owns nothing; knows no implementation. Kind: protocols.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import msgspec

from tiering.contract import Buffer


class BackingError(Exception):
    """Base of the three things a backing may raise; nothing else passes its border."""


class NotFound(BackingError):
    """No such key in the backing store."""


class BackingUnavailable(BackingError):
    """Refused, timed out, overloaded, credentials or bucket missing: the bytes may be there; try again."""


class BackingCorrupt(BackingError):
    """What came back is not what was stored."""


class BackingStat(msgspec.Struct, frozen=True):
    """One stored key. `etag` as the store gives it, unquoted; "" when it has none."""

    key: str
    size: int
    etag: str = ""


class BackingSource(Protocol):
    """Bytes to upload, re-readable, so that a retry starts again."""

    size: int

    def chunks(self) -> AsyncIterator[Buffer]:
        """From the first byte, each time it is called; `size` bytes in all. A chunk is borrowed until the next."""


class Backing(Protocol):
    """Five calls on whole keys. Keys are text, already escaped by the caller, `/`-separated, without leading slash.

    Idempotent: repeating a call gives the same result. Raises NotFound, BackingUnavailable, BackingCorrupt only.
    """

    async def put(self, key: str, source: BackingSource) -> BackingStat:
        """Stores all bytes or nothing: a reader never sees a part of them."""

    def get(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Streams bytes `start:stop`; raises BackingCorrupt when it ends early. Closing the iterator frees the connection."""

    async def delete(self, key: str) -> None:
        """Removes it; a missing key is success."""

    def list(self, prefix: str) -> AsyncIterator[BackingStat]:
        """Every key under `prefix`, in key order."""

    async def stat(self, key: str) -> BackingStat: ...

    async def close(self) -> None:
        """Frees connections and threads."""


Meter = Callable[[str, str, int], None]
"""Counts events: (event, pool, amount). Events are the rows of `tiering.events`; called on the loop's thread only."""


class Duty(Protocol):
    """A background job. `step` does one bounded unit and returns the number of things changed; 0 means idle."""

    name: str

    async def step(self) -> int: ...


class Resident(msgspec.Struct, frozen=True):
    """What an eviction policy may know of one object in the region it is asked about."""

    size: int
    heat: int
    held: bool  # pinned, restored, or part of an upload: must stay hot
    name: int = 0  # 64 bits that follow from the key, so that an object that comes back is known again; 0: not known


class QueueHead(msgspec.Struct, frozen=True):
    """What an eviction policy may know of one queue of regions. `age`: regions sealed since its oldest was."""

    age: int
    regions: int


class Verdict(msgspec.Struct, frozen=True):
    """`stays`: one a resident, in order. `whole`: what stays is left where it is, and the region joins the kept ones: no room is
    gained, so that as a rule all of it stays."""

    stays: Sequence[bool]
    whole: bool = False


class EvictionPolicy(Protocol):
    """Which region is emptied next, and which of its objects stay. Pure, deterministic, O(1) an object.

    A region is fresh when writers filled it, kept when it holds what stayed of others. Neither queue is empty when asked.
    """

    def fresh_next(self, fresh: QueueHead, kept: QueueHead) -> bool:
        """Whether the oldest fresh region is next, not the oldest kept one."""

    def keep(self, residents: Sequence[Resident], region_bytes: int, age: int, fresh: bool) -> Verdict:
        """`residents` in the order they were written. What stays is lowered in heat by one."""
