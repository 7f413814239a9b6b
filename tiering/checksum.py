"""A checksum of stored bytes in one of S3's algorithms, for copies that ask for another one than their source has.

Owns nothing. Does not know headers: what clients send with their bytes is `s3api.checksums`. Kind: pure.
Spec: AWS "Checking object integrity".
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Final

from awscrt import checksums

from tiering.contract import Buffer, Checksum
from tiering.crc64 import crc64nvme

_CRCS: Final[dict[str, tuple[Any, int]]] = {
    "CRC32": (checksums.crc32, 4),
    "CRC32C": (checksums.crc32c, 4),
    "CRC64NVME": (crc64nvme, 8),
}


class _XxHash:
    """awscrt's xxHash in hashlib's form."""

    def __init__(self, state: checksums.XXHash) -> None:
        self._state = state
        self.digest = state.finalize

    def update(self, data: Buffer) -> None:
        self._state.update(bytes(data))  # it takes no buffer but bytes


_XXHASHES: Final[dict[str, Any]] = {
    "XXHASH64": checksums.XXHash.new_xxhash64,
    "XXHASH3": checksums.XXHash.new_xxhash3_64,
    "XXHASH128": checksums.XXHash.new_xxhash3_128,
}


def _hash(algorithm: str) -> Any:
    new = _XXHASHES.get(algorithm)
    return hashlib.new(algorithm.lower(), usedforsecurity=False) if new is None else _XxHash(new())


class Summer:
    """Feed it all the bytes with `update`; `checksum` is of what it was fed."""

    def __init__(self, algorithm: str) -> None:
        """`algorithm`: one of S3's names. Raises ValueError."""
        self._algorithm = algorithm
        self._crc = 0
        self._hash = None if algorithm in _CRCS else _hash(algorithm)

    def update(self, data: Buffer) -> None:
        if self._hash is not None:
            self._hash.update(data)
        else:
            self._crc = _CRCS[self._algorithm][0](data, self._crc)

    def checksum(self) -> Checksum:
        width = _CRCS[self._algorithm][1] if self._hash is None else 0
        raw = self._hash.digest() if self._hash is not None else self._crc.to_bytes(width, "big")
        return Checksum(self._algorithm, base64.b64encode(raw).decode())
