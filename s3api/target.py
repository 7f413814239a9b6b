"""Host and path of a request → scope, bucket and key; and the rules for bucket names.

Owns nothing but a bounded memory of Host values. Does not know operations, nor whether a bucket exists.
Kind: pure. Invariants: the path is percent-decoded once and folded never; a target depends on the decoded path alone,
so that what was signed (decode, then encode) and what is done cannot differ.
Spec: AWS S3 User Guide, "Virtual hosting of buckets", "General purpose bucket naming rules", "Naming objects".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

from s3api.config import ApiConfig
from s3api.errors import S3Error
from s3api.params import PERCENT, percent_decode
from tiering.contract import KEY_BYTES_MAX

Scope = Literal["service", "bucket", "object"]

BUCKET_CHARS_MAX: Final = 255
"""Longest bucket name looked up at all (the old us-east-1 limit); creation is stricter."""
_HOSTS_MAX: Final = 1024

RESERVED_BUCKETS: Final = frozenset({"minio", "recall"})
"""Names whose path-style address is the gateway's own: MinIO's and Recall's admin calls."""

_NAME = re.compile(r"(?=.{3,63}\Z)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*\Z", re.ASCII)
"""Labels between dots begin and end with a letter or digit: AWS refuses `.-` and `-.` as it does `..`."""
_ONCE_A_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{BUCKET_CHARS_MAX - 1}}}\Z", re.ASCII)
_IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}\Z", re.ASCII)
_PREFIXES: Final = ("xn--", "sthree-", "amzn-s3-demo-")
_SUFFIXES: Final = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")


class Target:
    """What a request is about: `bucket` is "" in scope service, `key` is "" unless the scope is object."""

    __slots__ = ("bucket", "key", "scope")

    def __init__(self, scope: Scope, bucket: str, key: str) -> None:
        self.scope = scope
        self.bucket = bucket
        self.key = key


SERVICE: Final = Target("service", "", "")


def check_bucket_name(name: str) -> None:
    """Raises InvalidBucketName unless AWS would create a general purpose bucket of that name here."""
    if (
        not _NAME.match(name)
        or _IPV4.match(name)
        or name.startswith(_PREFIXES)
        or name.endswith(_SUFFIXES)
        or name in RESERVED_BUCKETS
    ):
        raise S3Error("InvalidBucketName", BucketName=name[:BUCKET_CHARS_MAX])


def may_be_bucket(name: str) -> bool:
    """Whether a bucket could ever have had that name: looser than what is created now."""
    return _ONCE_A_NAME.match(name) is not None and not _IPV4.match(name)


def decode_path(path: bytes) -> str:
    """A request path percent-decoded once, as text. Raises InvalidURI: no leading slash, broken escape, not UTF-8."""
    if not path.startswith(b"/"):
        raise S3Error("InvalidURI", "The request path must begin with a slash.")
    if PERCENT in path:
        path = percent_decode(path)
    try:
        return path.decode()
    except UnicodeDecodeError:
        raise S3Error("InvalidURI", "The request path is not UTF-8.") from None


def check_key(key: str) -> str:
    """The key, if it is short enough; raises KeyTooLongError."""
    # A character is one to four bytes: only in between must the bytes be counted.
    if len(key) > KEY_BYTES_MAX or (len(key) * 4 > KEY_BYTES_MAX and len(key.encode()) > KEY_BYTES_MAX):
        raise S3Error("KeyTooLongError", Size=len(key.encode()), MaxSizeAllowed=KEY_BYTES_MAX)
    return key


def split_bucket(path: str) -> Target:
    """A decoded path-style path cut into bucket and key."""
    bucket, slash, key = path[1:].partition("/")
    if not bucket:
        if slash:
            raise S3Error("InvalidBucketName", BucketName="")
        return SERVICE
    if len(bucket) > BUCKET_CHARS_MAX or "\0" in bucket:
        raise S3Error("InvalidBucketName", BucketName=bucket[:BUCKET_CHARS_MAX])
    return Target("object", bucket, check_key(key)) if key else Target("bucket", bucket, "")


class Targets:
    """Reads targets under one configuration; remembers what the Host values it saw mean."""

    __slots__ = ("_bound", "_domains", "_every", "_hosts")

    def __init__(self, config: ApiConfig) -> None:
        self._bound: Mapping[str, str] = {host.lower(): bucket for host, bucket in config.host_buckets.items()}
        self._domains = tuple(domain.lower().strip(".") for domain in config.domains)
        self._every = config.every_host_bucket
        self._hosts: dict[bytes, str] = {}

    def parse(self, path: bytes, host: bytes) -> Target:
        """Raises InvalidURI, InvalidBucketName, InvalidHostHeader, KeyTooLongError."""
        bucket = self._hosts.get(host)
        if bucket is None:
            bucket = self._learn(host)
        text = decode_path(path)
        if not bucket:
            return split_bucket(text)
        return Target("object", bucket, check_key(text[1:])) if len(text) > 1 else Target("bucket", bucket, "")

    def _learn(self, host: bytes) -> str:
        bucket = self.host_bucket(host)
        if len(self._hosts) >= _HOSTS_MAX:  # wire input names the entries: forget all rather than grow
            self._hosts.clear()
        self._hosts[host] = bucket
        return bucket

    def host_bucket(self, host: bytes) -> str:
        """The bucket a Host value stands for; "" where the path names it."""
        try:
            name = host.decode("ascii").strip().lower()
        except UnicodeDecodeError:
            raise S3Error("InvalidHostHeader") from None
        if self._every:
            return self._every
        bound = self._bound.get(name)
        if bound is not None:
            return bound
        bare = _without_port(name)
        bound = self._bound.get(bare)
        if bound is not None:
            return bound
        for domain in self._domains:
            suffix = f".{_without_port(domain)}"
            if bare.endswith(suffix):
                bucket = bare[: -len(suffix)]
                if not bucket or len(bucket) > BUCKET_CHARS_MAX:
                    raise S3Error("InvalidBucketName", BucketName=bucket[:BUCKET_CHARS_MAX])
                return bucket
        return ""


def _without_port(host: str) -> str:
    """The name of a Host value; an IPv6 literal keeps its brackets."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def parse_target(path: bytes, host: bytes, config: ApiConfig) -> Target:
    """One target, nothing remembered. The pipeline keeps a `Targets` instead."""
    return Targets(config).parse(path, host)
