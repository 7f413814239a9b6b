"""Byte ranges of requests: HTTP's inclusive form in, half-open `ByteRange` out, and Content-Range back.

Owns nothing. Does not know object sizes: clipping and 416 are judged by the store.
Kind: pure. Spec: RFC 9110 §14; AWS S3 GetObject, UploadPartCopy.
"""

from __future__ import annotations

import re
from typing import Final

from s3api.errors import S3Error
from tiering.contract import ByteRange

_SPEC = re.compile(r"bytes=([0-9]*)-([0-9]*)\Z", re.ASCII | re.IGNORECASE)
_OFFSET_DIGITS_MAX: Final = 18
_OFFSET_MAX: Final = 10**_OFFSET_DIGITS_MAX


def _offset(digits: str) -> int:
    """Offsets beyond any object are all one: a longer number must not cost a longer conversion."""
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _OFFSET_DIGITS_MAX else _OFFSET_MAX


def parse_range(value: str) -> ByteRange | None:
    """The one range a `Range` header asks for; None (the whole object) for none, several, another unit or nonsense.

    `bytes=-0` is a range no object satisfies: a suffix of zero bytes.
    """
    match = _SPEC.match(value.strip()) if value else None
    if match is None:
        return None
    first, last = match.groups()
    if first:
        start = _offset(first)
        if not last:
            return ByteRange(start)
        stop = _offset(last) + 1
        return ByteRange(start, stop) if start < stop else None
    return ByteRange(0, _offset(last), suffix=True) if last else None


def content_range(start: int, stop: int, size: int) -> str:
    """The Content-Range value of a 206 that carries `start:stop` of `size` bytes."""
    return f"bytes {start}-{stop - 1}/{size}"


def parse_copy_range(value: str) -> ByteRange:
    """`x-amz-copy-source-range`: `bytes=first-last`, both stated. Anything else is refused, as AWS does."""
    match = _SPEC.match(value.strip())
    if match is not None and match.group(1) and match.group(2):
        start, stop = _offset(match.group(1)), _offset(match.group(2)) + 1
        if start < stop:
            return ByteRange(start, stop)
    raise S3Error(
        "InvalidArgument",
        "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the "
        "zero-based offsets of the first and last bytes to copy",
        ArgumentName="x-amz-copy-source-range",
        ArgumentValue=value[:256],
    )
