"""What replies say of an object: header lines and the values that also stand in documents.

The one place where an `ObjectInfo` becomes text, so that HEAD, GET, PUT, listings and attributes cannot disagree.

Owns nothing. Does not know requests or the store. Kind: pure. Invariants: lines are lower-case names ended by CRLF;
stored values hold no control characters (`options` refused them), so no line can break.
Spec: AWS GetObject, HeadObject (response headers); RFC 9110 §5.6.7; docs/EXTENSIONS.md.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final

from s3api.checksums import ALGORITHMS
from s3api.lifecycle import Due, header_id
from s3api.moment import http_date, iso_moment
from tiering.contract import FOREVER_MS, Checksum, ObjectInfo, Residency

_HEADER: Final = {name: row.header.decode() for name, row in ALGORITHMS.items()}
_NO_VALUE: Final = Checksum("CRC64NVME", "")
DEFAULT_CONTENT_TYPE: Final = "binary/octet-stream"
STANDARD: Final = "STANDARD"
EVICTED_CLASS: Final = "GLACIER_IR"
"""What a cold-only object is called: cold, yet readable at once. Clients refuse to fetch `GLACIER` unasked."""


def kept_checksum(info: ObjectInfo) -> Checksum:
    """The checksum S3 shows: the one asked for, else CRC64NVME of the whole, which every object has."""
    if info.checksum is not None:
        return info.checksum
    return Checksum("CRC64NVME", crc64_text(info.crc64))


def shown_checksum(info: ObjectInfo) -> Checksum:
    """As `kept_checksum` for those who show the algorithm and the type alone: the value may be missing."""
    return info.checksum or _NO_VALUE


def crc64_text(crc64: int) -> str:
    """A CRC64NVME as `x-amz-checksum-crc64nvme` carries it."""
    return base64.b64encode(crc64.to_bytes(8, "big")).decode()


def checksum_line(checksum: Checksum) -> str:
    """The value alone, as replies about a part carry it."""
    return f"{_HEADER[checksum.algorithm]}: {checksum.value}\r\n"


def checksum_lines(checksum: Checksum, kind: str = "") -> str:
    """Value and type. `kind`: the type of the object's checksum when `checksum` is that of one part."""
    return f"{checksum_line(checksum)}x-amz-checksum-type: {kind or checksum.kind}\r\n"


def storage_class(info: ObjectInfo) -> str:
    """The class the client named; else where the object is: an evicted one is not STANDARD."""
    if info.storage_class:
        return info.storage_class
    return EVICTED_CLASS if info.residency is Residency.COLD_ONLY else STANDARD


def lease_lines(info: ObjectInfo, now_ms: int, rule: Due | None = None) -> str:
    """Pin, deadline and restore, as far as there are any. `rule`: of the bucket's lifecycle, the one that ends the object."""
    lines = ""
    if info.pin_until_ms > now_ms:
        until = "forever" if info.pin_until_ms == FOREVER_MS else iso_moment(info.pin_until_ms)
        lines += f"x-recall-pinned-until: {until}\r\n"
    if info.expires_ms:
        lines += f"x-recall-expires: {iso_moment(info.expires_ms)}\r\n"
        if rule is None or info.expires_ms < rule.at_ms:
            rule = Due(info.expires_ms, "x-recall-ttl")
    if rule is not None:
        lines += f'x-amz-expiration: expiry-date="{http_date(rule.at_ms)}", rule-id="{header_id(rule.rule_id)}"\r\n'
    if info.restore_until_ms > now_ms:
        date = http_date(info.restore_until_ms)
        lines += f'x-amz-restore: ongoing-request="false", expiry-date="{date}"\r\n'
    return lines


def _meta(value: str) -> str:
    """Other than ASCII goes out as one RFC 2047 encoded word, which is what S3 does."""
    return value if value.isascii() else f"=?UTF-8?B?{base64.b64encode(value.encode()).decode()}?="


def object_lines(
    info: ObjectInfo,
    tier: str,
    now_ms: int,
    overrides: Mapping[str, str] | None = None,
    rule: Due | None = None,
) -> str:
    """The lines GET and HEAD share, without lengths, ranges and checksums. `overrides`: response-* by header name."""
    content_type, headers = info.content_type, info.headers
    if overrides:
        headers = {**headers, **overrides}
        content_type = headers.pop("content-type", content_type)
    lines = (
        f'etag: "{info.etag}"\r\nlast-modified: {http_date(info.modified_ms)}\r\naccept-ranges: bytes\r\n'
        f"content-type: {content_type or DEFAULT_CONTENT_TYPE}\r\nx-recall-tier: {tier}\r\n"
    )
    if headers:
        lines += "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if info.metadata:
        lines += "".join([f"x-amz-meta-{name}: {_meta(value)}\r\n" for name, value in info.metadata.items()])
    if info.tags:
        lines += f"x-amz-tagging-count: {len(info.tags)}\r\n"
    if info.storage_class or info.residency is Residency.COLD_ONLY:
        named = storage_class(info)
        if named != STANDARD:
            lines += f"x-amz-storage-class: {named}\r\n"
    if info.pin_until_ms or info.expires_ms or info.restore_until_ms or rule is not None:
        lines += lease_lines(info, now_ms, rule)
    return lines


def unchanged_lines(info: ObjectInfo) -> str:
    """What a 304 repeats of the 200 it stands for (RFC 9110 §15.4.5)."""
    lines = f'etag: "{info.etag}"\r\nlast-modified: {http_date(info.modified_ms)}\r\n'
    for name in ("cache-control", "expires"):
        if name in info.headers:
            lines += f"{name}: {info.headers[name]}\r\n"
    return lines
