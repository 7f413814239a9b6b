"""CRC64NVME, by which every stored byte is known again: our own where that was compiled and is the faster one, else awscrt's.

Owns nothing. Does not know what is summed. Kind: pure. Spec: NVM Express NVM Command Set, "64b CRC".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from awscrt import checksums

try:
    from tiering._crc64 import crc64nvme as _sum  # type: ignore[import-not-found]
except ImportError:
    _sum = checksums.crc64nvme

crc64nvme: Final[Callable[..., int]] = _sum
"""Of a buffer: `crc64nvme(data)`, or `crc64nvme(data, previous)`, going on from the sum of what is before it."""
combine_crc64nvme: Final[Callable[[int, int, int], int]] = checksums.combine_crc64nvme
"""Of two pieces, from the sums of both and the length of the second in bytes."""
