"""Judges preconditions, ranges and completions against stored records; every store calls these, inside its transaction.

The promise: two stores given the same `Conditions` and the same record answer alike, in the order RFC 9110 prescribes.

Owns nothing. Does not know HTTP headers, S3 codes, transactions or where a record came from.
Kind: pure. Invariants: dates compare in whole seconds, because HTTP dates have no fraction; ranges are half-open.
Spec: RFC 9110 §13.2.2 (precedence), §14.1.2 (byte ranges); AWS "Conditional requests", "CopyObject".
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TypeVar

from tiering.contract import (
    PART_BYTES_MIN,
    ByteRange,
    Conditions,
    InvalidPart,
    InvalidPartNumber,
    InvalidPartOrder,
    InvalidRange,
    NoSuchKey,
    NotModified,
    ObjectInfo,
    PartClaim,
    PartInfo,
    PartTooSmall,
    PreconditionFailed,
)

_Part = TypeVar("_Part", bound=PartInfo)


def _named(etags: tuple[str, ...], etag: str) -> bool:
    return etag in etags or "*" in etags


def judge_read(conditions: Conditions | None, info: ObjectInfo) -> None:
    """Judges a GET or HEAD. Raises PreconditionFailed, NotModified."""
    if conditions is None:
        return
    modified_s = info.modified_ms // 1000
    if conditions.if_match is not None:  # then If-Unmodified-Since is not looked at
        if not _named(conditions.if_match, info.etag):
            raise PreconditionFailed(condition="If-Match")
    elif conditions.if_unmodified_since_s is not None and modified_s > conditions.if_unmodified_since_s:
        raise PreconditionFailed(condition="If-Unmodified-Since")
    if conditions.if_none_match is not None:  # then If-Modified-Since is not looked at
        if _named(conditions.if_none_match, info.etag):
            raise NotModified(info=info)
    elif conditions.if_modified_since_s is not None and modified_s <= conditions.if_modified_since_s:
        raise NotModified(info=info)


def judge_source(conditions: Conditions | None, info: ObjectInfo) -> None:
    """Judges the source of a copy: as a read, but "not modified" is a failed precondition. Raises PreconditionFailed."""
    try:
        judge_read(conditions, info)
    except NotModified:
        assert conditions is not None
        name = "If-None-Match" if conditions.if_none_match is not None else "If-Modified-Since"
        raise PreconditionFailed(condition="x-amz-copy-source-" + name) from None
    except PreconditionFailed as failed:
        raise PreconditionFailed(condition="x-amz-copy-source-" + failed.facts["condition"]) from None


def judge_write(conditions: Conditions | None, info: ObjectInfo | None) -> None:
    """Judges a write, copy target, change or completion; `info` is what stands there now, None for nothing.

    Raises PreconditionFailed; NoSuchKey when the object that must match is missing.
    """
    if conditions is None:
        return
    if conditions.if_none_match is not None and info is not None and _named(conditions.if_none_match, info.etag):
        raise PreconditionFailed(condition="If-None-Match")
    if conditions.if_match is not None:
        if info is None:
            raise NoSuchKey(condition="If-Match")
        if not _named(conditions.if_match, info.etag):
            raise PreconditionFailed(condition="If-Match")
    if conditions.if_match_size is not None:
        if info is None:
            raise NoSuchKey(condition="x-amz-if-match-size")
        if info.size != conditions.if_match_size:
            raise PreconditionFailed(condition="x-amz-if-match-size")
    if conditions.if_match_modified_s is not None:
        if info is None:
            raise NoSuchKey(condition="x-amz-if-match-last-modified-time")
        if info.modified_ms // 1000 != conditions.if_match_modified_s:
            raise PreconditionFailed(condition="x-amz-if-match-last-modified-time")


def judge_delete(conditions: Conditions | None, info: ObjectInfo | None) -> None:
    """Judges a delete. Raises as `judge_write`."""
    judge_write(conditions, info)


def clip(wanted: ByteRange | None, size: int) -> tuple[int, int]:
    """The half-open range of an object of `size` bytes that answers `wanted`. Raises InvalidRange (fact: size)."""
    if wanted is None:
        return 0, size
    if wanted.suffix:
        length = min(wanted.stop or 0, size)
        if length <= 0:
            raise InvalidRange(size=size)
        return size - length, size
    stop = size if wanted.stop is None else min(wanted.stop, size)
    if wanted.start >= stop:  # also every range of an empty object
        raise InvalidRange(size=size)
    return wanted.start, stop


def clip_part(number: int, info: ObjectInfo) -> tuple[int, int]:
    """Where part `number` lies in the object; one stored whole has the single part 1. Raises InvalidPartNumber.

    Parts keep the numbers they were uploaded under, which may have gaps. Cost: one pass over the parts.
    """
    if not info.parts and number == 1:
        return 0, info.size
    start = 0
    for part in info.parts:
        if part.number == number:
            return start, start + part.size
        start += part.size
    raise InvalidPartNumber(parts=len(info.parts) or 1)


def resolve(info: ObjectInfo, wanted: ByteRange | None, part_number: int | None) -> tuple[int, int]:
    """The half-open range of a read that names a range, a part, or neither."""
    return clip(wanted, info.size) if part_number is None else clip_part(part_number, info)


def judge_claims(
    stored: Mapping[int, _Part], claims: Sequence[PartClaim], part_bytes_min: int = PART_BYTES_MIN
) -> list[_Part]:
    """The stored parts (by number) that a completion names, in order.

    Raises InvalidPartOrder, InvalidPart (none, unknown, or another ETag or checksum), PartTooSmall for any but the last.
    """
    if not claims:
        raise InvalidPart("no parts named")
    if any(later.number <= earlier.number for earlier, later in itertools.pairwise(claims)):
        raise InvalidPartOrder()
    chosen = []
    for claim in claims:
        part = stored.get(claim.number)
        if part is None or part.etag != claim.etag:
            raise InvalidPart(number=claim.number, etag=claim.etag)
        if claim.checksum is not None and (part.checksum is None or part.checksum.value != claim.checksum.value):
            raise InvalidPart(number=claim.number, etag=claim.etag)
        chosen.append(part)
    for part in chosen[:-1]:
        if part.size < part_bytes_min:
            raise PartTooSmall(number=part.number, size=part.size)
    return chosen
