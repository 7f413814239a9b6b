"""Conditional request headers → `Conditions`, and nothing judged: the store does that, inside its transaction.

Owns nothing. Does not know objects. Kind: pure. Invariants: a request without such headers gives None at the cost of a
few look-ups; a date that is none is ignored on reads, as RFC 9110 has it, and so is an If-Modified-Since that is still
to come; a condition a write does not serve is refused, never dropped.
Spec: RFC 9110 §13.1; AWS "Conditional reads", "Conditional writes", "Conditional deletes", CopyObject.
"""

from __future__ import annotations

from typing import Final

from s3api.errors import S3Error
from s3api.message import Headers
from s3api.params import date, etags, http_time, integer
from tiering.contract import OBJECT_BYTES_MAX, Conditions

_READ: Final = frozenset({b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"})
_SOURCE: Final = b"x-amz-copy-source-"


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _tags(headers: Headers, name: bytes) -> tuple[str, ...] | None:
    value = headers.get(name)
    return None if value is None else etags(_text(name), _text(value))


def _date(headers: Headers, name: bytes) -> int | None:
    value = headers.get(name)
    return None if value is None else http_time(_text(value))


def _conditions(headers: Headers, prefix: bytes, now_ms: int) -> Conditions:
    since_s = _date(headers, prefix + b"if-modified-since")
    return Conditions(
        if_match=_tags(headers, prefix + b"if-match"),
        if_none_match=_tags(headers, prefix + b"if-none-match"),
        if_modified_since_s=None if since_s is None or since_s * 1000 > now_ms else since_s,
        if_unmodified_since_s=_date(headers, prefix + b"if-unmodified-since"),
    )


def read_conditions(headers: Headers, now_ms: int) -> Conditions | None:
    """Of a GET or HEAD."""
    return None if _READ.isdisjoint(headers) else _conditions(headers, b"", now_ms)


def source_conditions(headers: Headers, now_ms: int) -> Conditions | None:
    """Of the source of a copy: `x-amz-copy-source-if-*`."""
    if not any(_SOURCE + name in headers for name in _READ):
        return None
    return _conditions(headers, _SOURCE, now_ms)


def _refuse(headers: Headers, *names: bytes) -> None:
    for name in names:
        if name in headers:
            raise S3Error("NotImplemented", Header=_text(name))


def write_conditions(headers: Headers) -> Conditions | None:
    """Of a PUT, copy target or completion: `If-Match` or `If-None-Match`. Raises NotImplemented for others, as S3."""
    if _READ.isdisjoint(headers):
        return None
    _refuse(headers, b"if-modified-since", b"if-unmodified-since")
    if_match, if_none_match = _tags(headers, b"if-match"), _tags(headers, b"if-none-match")
    if if_none_match is not None and if_match is not None:
        raise S3Error("NotImplemented", Header="If-None-Match")
    # differs from AWS: `If-None-Match` with entity tags, not only `*`, is served, as other stores do.
    return Conditions(if_match=if_match, if_none_match=if_none_match)


def unconditional(headers: Headers) -> None:
    """Of a write that serves no condition: a part, many deletions at once. Raises NotImplemented, as S3."""
    if not _READ.isdisjoint(headers):
        _refuse(headers, b"if-none-match", b"if-match", b"if-modified-since", b"if-unmodified-since")


def rename_conditions(headers: Headers, prefix: bytes = b"") -> Conditions | None:
    """Of the target of a rename or, with the `prefix` of its headers, of the source. A date that is none is refused: this
    is no read."""
    if not any(prefix + name in headers for name in _READ):
        return None
    since, until = (headers.get(prefix + name) for name in (b"if-modified-since", b"if-unmodified-since"))
    return Conditions(
        if_match=_tags(headers, prefix + b"if-match"),
        if_none_match=_tags(headers, prefix + b"if-none-match"),
        if_modified_since_s=None if since is None else date("If-Modified-Since", _text(since)),
        if_unmodified_since_s=None if until is None else date("If-Unmodified-Since", _text(until)),
    )


def delete_conditions(headers: Headers) -> Conditions | None:
    """Of a DELETE: `If-Match`, `x-amz-if-match-size`, `x-amz-if-match-last-modified-time`."""
    size = headers.get(b"x-amz-if-match-size")
    modified = headers.get(b"x-amz-if-match-last-modified-time")
    if size is None and modified is None and _READ.isdisjoint(headers):
        return None
    _refuse(headers, b"if-none-match", b"if-modified-since", b"if-unmodified-since")
    return Conditions(
        if_match=_tags(headers, b"if-match"),
        if_match_size=None if size is None else integer("x-amz-if-match-size", _text(size), 0, OBJECT_BYTES_MAX),
        if_match_modified_s=None if modified is None else date("x-amz-if-match-last-modified-time", _text(modified)),
    )
