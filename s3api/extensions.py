"""What Recall adds to S3, read from a request: pins, times to live, tiers and pools as typed options.

One intent can be given four ways, so that any client can give it. For the pin and for the TTL, each on its own, the
first that is present counts:

1. the header `x-recall-pin` / `x-recall-ttl`,
2. its user-metadata twin `x-amz-meta-recall-pin` / `x-amz-meta-recall-ttl` (which is also stored, as any metadata),
3. its object-tag twin `recall:pin` / `recall:ttl`,
4. the first row of the settings' key rules that matches bucket and key and has a value.

So `x-recall-pin: false` overrides a tag or a rule that would pin. Only what the request itself carries counts: a copy
does not inherit intent with the metadata or tags it takes over from its source.

Owns nothing. Does not know the store or how a pin is kept. Kind: pure. Invariants: a bad value raises InvalidArgument
naming the header, metadata or tag it came in; times are whole milliseconds, rounded up, so that no TTL becomes 0.
Spec: docs/EXTENSIONS.md.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from fnmatch import translate
from typing import Final, Literal, NamedTuple

import msgspec

from s3api.config import KeyRule
from s3api.errors import S3Error
from s3api.message import PLAIN_HEADERS, Headers
from s3api.params import invalid
from tiering.contract import FOREVER_MS, Ttl

PIN_HEADER: Final = "x-recall-pin"
TTL_HEADER: Final = "x-recall-ttl"
TIER_HEADER: Final = "x-recall-tier"
POOL_HEADER: Final = "x-recall-pool"
PIN_META: Final = "recall-pin"
TTL_META: Final = "recall-ttl"
PIN_TAG: Final = "recall:pin"
TTL_TAG: Final = "recall:ttl"

TTL_CHARS_MAX: Final = 256
"""Of a TTL's text. Blanks count, and are looked through from each of them on."""
SECONDS_MAX: Final = 10**10
"""Longest lease or TTL, in seconds: 317 years, and far from the end of 64-bit milliseconds."""

Tier = Literal["hot", "cold", "both"]
_TIERS: Final[dict[str, Tier]] = {"hot": "hot", "cold": "cold", "both": "both"}
_SLIDING = re.compile(r"(?:\s*;\s*|\s+)sliding\Z", re.IGNORECASE)
_SECONDS = re.compile(r"([0-9]{1,11})(?:\.([0-9]{1,9}))?\Z", re.ASCII)


_ON_WRITE: Final = frozenset({PIN_HEADER.encode(), TTL_HEADER.encode()})
TAKEN: Final[Mapping[str, frozenset[bytes]]] = {
    "PutObject": _ON_WRITE,
    "PostObject": _ON_WRITE,
    "CopyObject": _ON_WRITE,
    "CreateMultipartUpload": _ON_WRITE,
    "ChangeObject": _ON_WRITE | {TIER_HEADER.encode()},
    "CreateBucket": frozenset({POOL_HEADER.encode()}),
}
"""The headers of ours that each operation takes; one without a row takes none."""
_KNOWN: Final = frozenset().union(*TAKEN.values())
_ECHOED: Final = frozenset({TIER_HEADER.encode(), b"x-recall-expires", b"x-recall-pinned-until"})
"""What a HEAD says of an object: clients that change metadata by a copy send all of it back, and mean nothing by it."""


class Intent(msgspec.Struct, frozen=True):
    """What a request says of an object's life. None: it says nothing. `pin_ms` 0 unpins, FOREVER_MS pins for ever."""

    pin_ms: int | None = None
    ttl: Ttl | None = None


NOTHING: Final = Intent()


def check_headers(operation: str, headers: Headers) -> None:
    """Refuses an `x-recall-` header that `operation` does not take: what was asked for would silently not happen.

    Raises InvalidArgument naming the header. Costs about half a microsecond where there is none.
    """
    if PLAIN_HEADERS.issuperset(headers) or b"x-recall-" not in b"\n".join(headers):
        return
    taken = TAKEN.get(operation, frozenset())
    for header in headers:
        if header.startswith(b"x-recall-") and header not in taken:
            if operation == "CopyObject" and header in _ECHOED:
                continue
            name = header.decode("latin-1")[:64]
            if header in _KNOWN:
                message = f"{operation} does not take {name}."
            else:
                message = f"There is no {name}; known are {', '.join(sorted(each.decode() for each in _KNOWN))}."
            raise S3Error("InvalidArgument", message, ArgumentName=name)


def parse_pin(value: str, name: str = PIN_HEADER) -> int:
    """`true` → FOREVER_MS, `false` → 0, seconds (fractions allowed) → milliseconds. Raises InvalidArgument."""
    text = value.strip().lower()
    if text in ("true", "false"):
        return FOREVER_MS if text == "true" else 0
    return _milliseconds(name, value, text, "true, false or a number of seconds")


def parse_ttl(value: str, name: str = TTL_HEADER) -> Ttl:
    """`<seconds>` or `<seconds>; sliding`; 0 removes a TTL. Raises InvalidArgument.

    A space may stand for the semicolon, which S3 does not allow in a tag's value.
    """
    number, sliding = value.strip(), False
    if len(number) > TTL_CHARS_MAX:
        raise invalid(name, value, f"it has more than {TTL_CHARS_MAX} characters")
    if match := _SLIDING.search(number):
        number, sliding = number[: match.start()], True
    ttl_ms = _milliseconds(name, value, number, "a number of seconds, or one with '; sliding' behind it")
    return Ttl(ttl_ms, sliding=sliding and ttl_ms > 0)


def _milliseconds(name: str, value: str, text: str, form: str) -> int:
    match = _SECONDS.match(text)
    if match is None:
        raise invalid(name, value, f"it must be {form}")
    whole, fraction = match.groups("")
    if int(whole) > SECONDS_MAX:
        raise invalid(name, value, f"at most {SECONDS_MAX} seconds")
    nanoseconds = int(fraction.ljust(9, "0")) if fraction else 0
    return int(whole) * 1000 - (-nanoseconds // 1_000_000)


def write_intent(
    headers: Headers,
    metadata: Mapping[str, str],
    tags: Mapping[str, str],
    bucket: str,
    key: str,
    rules: tuple[KeyRule, ...],
) -> Intent:
    """The intent of a write, by the order this module states. `metadata` and `tags` are those the request carries."""
    pin, pin_name = _first(headers, metadata, tags, PIN_HEADER, PIN_META, PIN_TAG)
    ttl, ttl_name = _first(headers, metadata, tags, TTL_HEADER, TTL_META, TTL_TAG)
    if pin is None and ttl is None and not rules:
        return NOTHING
    ruled = rule_intent(rules, bucket, key) if rules else NOTHING
    return Intent(
        ruled.pin_ms if pin is None else parse_pin(pin, pin_name),
        ruled.ttl if ttl is None else parse_ttl(ttl, ttl_name),
    )


def _first(
    headers: Headers, metadata: Mapping[str, str], tags: Mapping[str, str], header: str, meta: str, tag: str
) -> tuple[str | None, str]:
    sent = headers.get(header.encode())
    if sent is not None:
        return sent.decode("latin-1"), header
    if meta in metadata:
        return metadata[meta], "x-amz-meta-" + meta
    return tags.get(tag), "the tag " + tag


def tag_intent(old: Mapping[str, str], new: Mapping[str, str]) -> Intent:
    """What replacing an object's tags means: a twin that is there sets, one that was there and is gone removes.

    Tags that never spoke of pins leave alone a pin that was set in another way.
    """
    pin, ttl = new.get(PIN_TAG), new.get(TTL_TAG)
    return Intent(
        parse_pin(pin, "the tag " + PIN_TAG) if pin is not None else 0 if PIN_TAG in old else None,
        parse_ttl(ttl, "the tag " + TTL_TAG) if ttl is not None else Ttl(0) if TTL_TAG in old else None,
    )


def parse_tier(headers: Headers) -> Tier | None:
    """`x-recall-tier` of a change request; None when absent. Raises InvalidArgument."""
    sent = headers.get(TIER_HEADER.encode())
    if sent is None:
        return None
    value = sent.decode("latin-1").strip()
    tier = _TIERS.get(value.lower())
    if tier is None:
        raise invalid(TIER_HEADER, value, "it must be hot, cold or both")
    return tier


class _Rule(NamedTuple):
    bucket: re.Pattern[str]
    key: re.Pattern[str]
    pin_ms: int | None
    ttl: Ttl | None


@functools.lru_cache(maxsize=8)  # one configuration a process; a few in tests
def _compiled(rules: tuple[KeyRule, ...]) -> tuple[_Rule, ...]:
    """Rules that say something of keys. Raises S3Error InvalidArgument for a bad value."""
    return tuple(
        _Rule(
            re.compile(translate(rule.bucket or "*")),
            re.compile(translate(rule.key or "*")),
            parse_pin(rule.pin, "pin of a key rule") if rule.pin else None,
            parse_ttl(rule.ttl, "ttl of a key rule") if rule.ttl else None,
        )
        for rule in rules
        if rule.pin or rule.ttl
    )


def check_rules(rules: tuple[KeyRule, ...]) -> list[str]:
    """One line for each row with a bad value; empty when all are good. For reading settings, before any request."""
    faults = []
    for number, rule in enumerate(rules, start=1):
        try:
            _compiled((rule,))
        except S3Error as error:
            faults.append(f"key rule {number}: {error.message}")
    return faults


def rule_intent(rules: tuple[KeyRule, ...], bucket: str, key: str) -> Intent:
    """The intent the key rules give: for pin and TTL each, the first matching row that has a value.

    Patterns see the decoded key: LMCache's tag arrives as `@pin%1`, so `*@pin%1*` matches it. Cost: one match a row.
    """
    pin_ms: int | None = None
    ttl: Ttl | None = None
    for rule in _compiled(rules):
        adds = (rule.pin_ms is not None and pin_ms is None) or (rule.ttl is not None and ttl is None)
        if adds and rule.bucket.match(bucket) and rule.key.match(key):
            pin_ms = rule.pin_ms if pin_ms is None else pin_ms
            ttl = rule.ttl if ttl is None else ttl
    return Intent(pin_ms, ttl)


def rule_pool(rules: tuple[KeyRule, ...], bucket: str) -> str:
    """The pool the rules give a new bucket: the first row with a pool whose bucket pattern matches; "" for none."""
    for rule in rules:
        if rule.pool and re.match(translate(rule.bucket or "*"), bucket):
            return rule.pool
    return ""
