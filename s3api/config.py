"""What the protocol layer is told when it is made: its part of the settings.

Owns nothing. Does not know where settings come from. Kind: value types.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from s3api.sealing import NO_KEYS, KeyRing


class KeyRule(msgspec.Struct, frozen=True):
    """A settings row that gives intent to clients that cannot send headers: the first matching row of each kind counts.

    `bucket` and `key` are shell patterns (fnmatch, case-sensitive) on the bucket name and the whole key; "" matches all.
    `pin`, `ttl`: values as in the `x-recall-pin` / `x-recall-ttl` headers. `pool`: for buckets at creation.
    """

    bucket: str = ""
    key: str = ""
    pin: str = ""
    ttl: str = ""
    pool: str = ""


class ApiConfig(msgspec.Struct, frozen=True):
    """The part of the settings the protocol layer reads."""

    region: str = "us-east-1"
    domains: tuple[str, ...] = ()  # virtual-host style: <bucket>.<domain>[:port]
    host_buckets: Mapping[str, str] = {}  # Host value (with or without port) → the bucket it is bound to
    every_host_bucket: str = ""  # a listener bound to one bucket: whatever Host says
    key_rules: tuple[KeyRule, ...] = ()
    clock_skew_s: int = 900
    document_bytes_max: int = 8 << 20
    buckets_max: int = 10_000
    object_ownership: str = ""  # of new buckets whose maker says nothing; "" gives them no document
    presign_expires_max_s: int = 604_800
    notify_targets: tuple[str, ...] = ()  # names of the webhooks that notifications may be sent to
    notify_owners: Mapping[str, tuple[str, ...]] = {}  # whose buckets' alone, by canonical id, for some of them
    keys: KeyRing = NO_KEYS  # the master keys of sealed objects
    day_ms: int = 86_400_000  # what rules and restores count as a day; another length is for tests
