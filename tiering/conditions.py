"""Judges preconditions, ranges, locks and completions against stored records; every store calls these, inside its
transaction.

The promise: two stores given the same `Conditions` and the same record answer alike, in the order RFC 9110 prescribes.

Owns nothing. Does not know HTTP headers, S3 codes, transactions or where a record came from.
Kind: pure. Invariants: dates compare in whole seconds, because HTTP dates have no fraction; ranges are half-open.
Spec: RFC 9110 §13.2.2 (precedence), §14.1.2 (byte ranges); AWS "Conditional requests", "CopyObject", "Object Lock",
"RenameObject".
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from tiering.contract import (
    PART_BYTES_MIN,
    BucketChange,
    BucketInfo,
    ByteRange,
    Conditions,
    DeleteOptions,
    InvalidPart,
    InvalidPartNumber,
    InvalidPartOrder,
    Lock,
    Locked,
    LockNeedsVersions,
    NoSuchKey,
    NotAppendable,
    NotModified,
    NotRenamable,
    NoVersioning,
    ObjectChange,
    ObjectInfo,
    PartClaim,
    PartInfo,
    PartTooSmall,
    PreconditionFailed,
    WrongOffset,
    content_bytes,
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


def judge_source(conditions: Conditions | None, info: ObjectInfo, prefix: str = "x-amz-copy-source-") -> None:
    """Judges the source of a copy or rename: as a read, but "not modified" is a failed precondition. `prefix`: of the
    headers the conditions came in. Raises PreconditionFailed."""
    try:
        judge_read(conditions, info)
    except NotModified:
        assert conditions is not None
        name = "If-None-Match" if conditions.if_none_match is not None else "If-Modified-Since"
        raise PreconditionFailed(condition=prefix + name) from None
    except PreconditionFailed as failed:
        raise PreconditionFailed(condition=prefix + failed.facts["condition"]) from None


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
        if content_bytes(info) != conditions.if_match_size:
            raise PreconditionFailed(condition="x-amz-if-match-size")
    if conditions.if_match_modified_s is not None:
        if info is None:
            raise NoSuchKey(condition="x-amz-if-match-last-modified-time")
        if info.modified_ms // 1000 != conditions.if_match_modified_s:
            raise PreconditionFailed(condition="x-amz-if-match-last-modified-time")
    if info is None:
        return
    unmodified_s, modified_s = conditions.if_unmodified_since_s, conditions.if_modified_since_s
    if unmodified_s is not None and conditions.if_match is None and info.modified_ms // 1000 > unmodified_s:
        raise PreconditionFailed(condition="If-Unmodified-Since")
    if modified_s is not None and conditions.if_none_match is None and info.modified_ms // 1000 <= modified_s:
        raise PreconditionFailed(condition="If-Modified-Since")


def judge_delete(conditions: Conditions | None, info: ObjectInfo | None, marker: bool = False) -> None:
    """Judges a delete. Raises as `judge_write`, but that what is gone already has any size and date. `marker`: nothing is
    there because of a delete marker, which has no ETag, size or date that could match: PreconditionFailed."""
    if marker and conditions is not None:
        size = "x-amz-if-match-last-modified-time" if conditions.if_match_size is None else "x-amz-if-match-size"
        raise PreconditionFailed(condition=size if conditions.if_match is None else "If-Match")
    if info is not None or (conditions is not None and conditions.if_match is not None):
        judge_write(conditions, info)


def judge_noncurrent(options: DeleteOptions, current: bool) -> None:
    """Judges the removal of a version that may go only while it is not the current one. Raises PreconditionFailed."""
    if options.noncurrent and current:
        raise PreconditionFailed(condition="noncurrent")


def _locked(lock: Lock) -> Locked:
    return Locked(mode=lock.mode, until_ms=lock.until_ms, legal_hold=lock.legal_hold)


def judge_locked(lock: Lock | None, bypass_governance: bool, now_ms: int) -> None:
    """Judges the removal of a version. Raises Locked under a legal hold, or a retention that has not ended; the caller
    may bypass one of mode GOVERNANCE."""
    if lock is None:
        return
    retained = lock.until_ms > now_ms and not (bypass_governance and lock.mode == "GOVERNANCE")
    if lock.legal_hold or retained:
        raise _locked(lock)


def changed_lock(standing: Lock | None, change: ObjectChange, now_ms: int) -> Lock | None:
    """The lock of a version after `change`, None for none at all. Raises Locked.

    A retention that has not ended may only be made longer in its own mode; who may bypass GOVERNANCE may do anything to
    one of that mode. A legal hold comes and goes by itself.
    """
    old = standing or Lock()
    new = old
    if change.lock is not None:
        shorter = change.lock.mode != old.mode or change.lock.until_ms < old.until_ms
        bypassed = change.bypass_governance and old.mode == "GOVERNANCE"
        if shorter and old.until_ms > now_ms and not bypassed:
            raise _locked(old)
        new = Lock(change.lock.mode, change.lock.until_ms, old.legal_hold)
    if change.legal_hold is not None:
        new = Lock(new.mode, new.until_ms, change.legal_hold)
    return None if new == Lock() else new


def changed_bucket(info: BucketInfo, change: BucketChange, versions_kept: bool) -> BucketInfo:
    """A bucket after `change`. `versions_kept`: its pool keeps versions. Raises NoVersioning, LockNeedsVersions."""
    documents = {name: text for name, text in {**info.documents, **change.documents}.items() if text is not None}
    versioning = change.versioning or info.versioning
    object_lock = change.object_lock or info.object_lock
    if (versioning or object_lock) and not versions_kept:
        raise NoVersioning(pool=info.pool)
    if object_lock and versioning != "Enabled":
        raise LockNeedsVersions()
    return msgspec.structs.replace(info, documents=documents, versioning=versioning, object_lock=object_lock)


def judge_append(bucket: BucketInfo, info: ObjectInfo | None, append_at: int) -> None:
    """Judges bytes to be added at `append_at`; `info` is what stands there, None for nothing: only 0 then begins one.

    Raises NotAppendable, WrongOffset (fact: size).
    """
    if bucket.versioning or (info is not None and info.encryption is not None):
        raise NotAppendable()
    size = info.size if info is not None else 0
    if append_at != size:
        raise WrongOffset(size=size)


def judge_renamable(bucket: BucketInfo) -> None:
    """Raises NotRenamable in a bucket that has, or had, versions."""
    if bucket.versioning:
        raise NotRenamable(bucket=bucket.name)


def clip(wanted: ByteRange | None, size: int) -> tuple[int, int]:
    """The half-open range of an object of `size` bytes that answers `wanted`. Raises InvalidRange (fact: size)."""
    return (0, size) if wanted is None else wanted.clip(size)


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
            raise PartTooSmall(number=part.number, size=part.size, etag=part.etag)
    return chosen
