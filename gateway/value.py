"""Readers of one setting's value: sizes, durations, addresses, lists, from TOML's types or from text.

Each takes what was found and returns the typed value, or raises ValueError saying what is wrong and how to write it.

Owns nothing. Does not know which settings there are (`gateway.config`).
Kind: pure, but that `~` is looked up. Spec: docs/OPERATIONS.md, "How values are written".
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from typing import Final

import msgspec

from s3api.config import KeyRule


class Address(msgspec.Struct, frozen=True):
    """Where to listen. `host` without brackets; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class BucketListener(msgspec.Struct, frozen=True):
    """An extra listening address on which every path is a key of one bucket."""

    address: Address
    bucket: str

    def __str__(self) -> str:
        return f"{self.address}={self.bucket}"


_SIZE_UNITS: Final = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
    "TIB": 1 << 40,
}
_TIME_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SIZE_MAX: Final = 1 << 60
DURATION_MAX_S: Final = 100 * 365 * 86_400.0
"""Above them is only what somebody has mistyped, and what clocks and files cannot count."""
_NUMBER: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")


def parse_size(value: object) -> int:
    """`64MiB`, `10GiB`, `1.5GB`, or plain bytes. Raises ValueError."""
    size = _size(value)
    if size > SIZE_MAX:
        raise ValueError(f"must be at most {format_size(SIZE_MAX)}")
    return size


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2].upper() not in _SIZE_UNITS:
        raise ValueError("not a size; write it as 64MiB, 10GiB or plain bytes")
    size = float(match[1]) * _SIZE_UNITS[match[2].upper()] if "." in match[1] else 0
    return int(size) if "." in match[1] else int(match[1]) * _SIZE_UNITS[match[2].upper()]


def parse_duration(value: object) -> float:
    """`250ms`, `30s`, `5m`, `2h`, `7d`, or plain seconds; in seconds. Raises ValueError."""
    seconds = _seconds(value)
    if seconds > DURATION_MAX_S:
        raise ValueError(f"must be at most {DURATION_MAX_S / _TIME_UNITS['d']:.0f}d")
    return seconds


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and math.isfinite(value):
        return float(value)
    match = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2].lower() not in _TIME_UNITS:
        raise ValueError("not a duration; write it as 250ms, 30s, 5m or plain seconds")
    return float(match[1]) * _TIME_UNITS[match[2].lower()]


def parse_address(value: object) -> Address:
    """`host:port` or `[v6]:port`. Raises ValueError."""
    text = value.strip() if isinstance(value, str) else ""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("not an address; write it as host:port, port 0 to 65535")
    if ":" in host and not bracketed:
        raise ValueError("an IPv6 address goes in brackets: [::1]:9000")
    return Address(host[1:-1] if bracketed else host, int(port))


def parse_positive_duration(value: object) -> float:
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError("must be more than 0")
    return seconds


def whole_between(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        number = int(value) if isinstance(value, str) and re.fullmatch(r"\s*[0-9]+\s*", value) else value
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return number

    return parse


def size_between(low: int, high: int = SIZE_MAX) -> Callable[[object], int]:
    def parse(value: object) -> int:
        size = parse_size(value)
        if not low <= size <= high:
            raise ValueError(f"must be from {format_size(low)} to {format_size(high)}")
        return size

    return parse


def parse_fraction(value: object) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:  # also false for NaN
        raise ValueError("must be a fraction from 0 to 1")
    return number


def one_of(*names: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return str(value)

    return parse


def parse_yes(value: object) -> str:
    """`yes` or `no`, or a truth value as TOML has it. Raises ValueError."""
    said = str(value).lower() if isinstance(value, bool | str) else value
    return one_of("no", "yes")({"true": "yes", "false": "no"}.get(str(said), said))


def parse_tls_version(value: object) -> str:
    """`1.2` or `1.3`, as text or as TOML's number. Raises ValueError."""
    return one_of("1.2", "1.3")(str(value) if isinstance(value, float) else value)


def parse_text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("must be a text that is not empty")
    return value.strip()


def parse_path(value: object) -> str:
    """A place in the file system; `~` is whoever starts the gateway, where no shell has replaced it. Raises ValueError."""
    return os.path.expanduser(parse_text(value))


def parse_region(value: object) -> str:
    """A region's name: it stands in signatures' scopes, between slashes. Raises ValueError."""
    text = parse_text(value)
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise ValueError("must be up to 64 letters, digits, - and _")
    return text


def parse_patterns(value: object) -> tuple[str, ...]:
    """Shell patterns of bucket names. Raises ValueError for one that no name can match."""
    patterns = parse_texts(value)
    for pattern in patterns:
        if not re.fullmatch(r"[a-z0-9.*?\[\]!-]+", pattern):
            raise ValueError(f"no bucket's name can match {pattern}: they are of a-z, 0-9, . and -")
    return patterns


def parse_texts(value: object) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise ValueError("must be a list of texts (in the environment: separated by commas)")
    return tuple(item.strip() for item in items if item.strip())


def parse_pairs(value: object) -> dict[str, str]:
    if isinstance(value, dict):
        pairs = list(value.items())
    else:
        pairs = [(name, bucket) for name, _, bucket in (item.partition("=") for item in parse_texts(value))]
    if not all(isinstance(bucket, str) and name and bucket for name, bucket in pairs):
        raise ValueError("must be Host=bucket pairs (in TOML also a table)")
    return {name.lower(): bucket for name, bucket in pairs}


def parse_webhooks(value: object) -> dict[str, str]:
    """Webhooks by name, in the order given."""
    if isinstance(value, dict):
        pairs = list(value.items())
    else:
        pairs = [(name, url) for name, _, url in (item.partition("=") for item in parse_texts(value))]
    for name, url in pairs:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name, re.ASCII):
            raise ValueError(f"{name!r}: a webhook's name is up to 64 of A-Z, a-z, 0-9, - and _")
        if not isinstance(url, str) or not re.fullmatch(r"https?://[^\s/?#@]+(?:[/?][^\s#]*)?", url):
            raise ValueError(f"{name}: must be an http:// or https:// URL, without user or password")
    return dict(pairs)


def parse_owners(value: object) -> dict[str, tuple[str, ...]]:
    """Canonical ids by the name of the webhook that is for their buckets alone."""
    if isinstance(value, dict):
        pairs = [(name, ids if isinstance(ids, list) else [ids]) for name, ids in value.items()]
    else:
        pairs = [(name, ids.split("+")) for name, _, ids in (item.partition("=") for item in parse_texts(value))]
    if not all(name and ids and all(isinstance(each, str) and each for each in ids) for name, ids in pairs):
        raise ValueError("must be NAME=ID+ID pairs (in TOML also a table of lists)")
    return {name: tuple(ids) for name, ids in pairs}


def parse_bucket_listeners(value: object) -> tuple[BucketListener, ...]:
    listeners = []
    for item in parse_texts(value):
        address, _, bucket = item.partition("=")
        if not bucket:
            raise ValueError("must be host:port=bucket")
        listeners.append(BucketListener(parse_address(address), bucket))
    return tuple(listeners)


def parse_backing_url(value: object) -> str:
    """The scheme only; `tiering.backing` judges the rest. Its `memory:` is for tests: each process would have its own."""
    text = parse_text(value)
    if not text.startswith(("file://", "s3://")):
        raise ValueError("must be file:///dir or s3://bucket/prefix?endpoint=http://host:9000&region=…")
    return text


def parse_key_rules(value: object) -> tuple[KeyRule, ...]:
    try:
        raw = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    try:
        rules = msgspec.convert(raw, type=tuple[_StrictKeyRule, ...])
    except msgspec.ValidationError as error:
        raise ValueError(f"must be a list of tables with bucket, key, pin, ttl, pool: {error}") from None
    if any(not (rule.pin or rule.ttl or rule.pool) for rule in rules):
        raise ValueError("a rule must give at least one of pin, ttl, pool")
    return tuple(KeyRule(rule.bucket, rule.key, rule.pin, rule.ttl, rule.pool) for rule in rules)


class _StrictKeyRule(KeyRule, frozen=True, forbid_unknown_fields=True):
    pass


def format_size(size: int) -> str:
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
