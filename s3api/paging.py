"""The tokens and page sizes of listings: opaque text that carries where the next page begins.

A token names a place, not a state: it stays good across restarts, workers and writes, and costs the gateway nothing
while nobody uses it.

Owns nothing. Does not know listings' documents. Kind: pure. Invariants: `decode(encode(x)) == x` for every text;
anything else a client sends raises InvalidArgument.
Spec: AWS S3 ListObjectsV2, ListBuckets.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from s3api.errors import S3Error

PAGE_KEYS_MAX: Final = 1000
"""Most entries of one page; a larger request is answered with this many, as S3 does."""
BUCKETS_MAX: Final = 10_000
TOKEN_CHARS_MAX: Final = 4096

_MARK: Final = b"\x01"
"""First byte of a token: lets the form change, and tells a token from other base64."""


def encode_token(place: str) -> str:
    """The continuation token for "after `place`"."""
    return base64.urlsafe_b64encode(_MARK + place.encode()).decode()


def decode_token(token: str, name: str = "continuation-token") -> str:
    """The place a token names. Raises InvalidArgument."""
    try:
        raw = base64.b64decode(token, altchars=b"-_", validate=True) if len(token) <= TOKEN_CHARS_MAX else b""
        if raw[:1] == _MARK:
            return raw[1:].decode()
    except (binascii.Error, ValueError):  # UnicodeDecodeError is a ValueError
        pass
    raise S3Error(
        "InvalidArgument",
        "The continuation token provided is incorrect.",
        ArgumentName=name,
    )
