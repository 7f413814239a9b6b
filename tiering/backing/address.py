"""Where a bucket is and how patiently it is asked: values apart from the SDK, which is only loaded when a bucket is used.

Owns: nothing. Does not know: the SDK (`minio.py`). Kind: pure.
"""

from __future__ import annotations

import msgspec


class BucketAddress(msgspec.Struct, frozen=True):
    """Where a bucket is and how to sign for it. `prefix` "" or segments without slashes at the ends."""

    endpoint: str  # host:port
    bucket: str
    access_key: str
    secret_key: str
    prefix: str = ""
    region: str = "us-east-1"
    secure: bool = False

    def __repr__(self) -> str:
        return f"BucketAddress({self.endpoint!r}, {self.bucket!r}, prefix={self.prefix!r})"


class MinioLimits(msgspec.Struct, frozen=True):
    """`streams`: requests under way; `threads`: listings. `read_s` is the longest silence of the server."""

    threads: int = 8
    streams: int = 64
    connect_s: float = 5.0
    read_s: float = 30.0
