"""The backing store: where cold objects are. `open_backing` turns a URL into a Backing with its wrappers on.

    file:///var/lib/recall/cold              a directory
    s3://bucket/prefix?endpoint=http://host:9000&region=us-east-1
    memory:                                  tests

`?create=true` makes a missing directory or bucket on first use; without it, missing is BackingUnavailable, because a
typing mistake or an unmounted disk must not look like an empty store.

Owns: nothing. Does not know: what is stored. Kind: shell (the one place that knows which store a URL means).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from tiering.backing.address import BucketAddress, MinioLimits
from tiering.backing.directory import DirectoryBacking
from tiering.backing.keys import check_prefix
from tiering.backing.memory import MemoryBacking
from tiering.backing.wrappers import (
    Breaker,
    Guarded,
    Limited,
    Metered,
    Record,
    Retrying,
    RetryPolicy,
    TimeLimited,
    TimeLimits,
)
from tiering.ports import Backing

CREDENTIALS: Final = (
    ("RECALL_BACKING_ACCESS_KEY", "RECALL_BACKING_SECRET_KEY"),
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
)
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class BackingOptions(msgspec.Struct, frozen=True):
    """How patient the wrappers are."""

    retry: RetryPolicy = RetryPolicy()
    limits: TimeLimits = TimeLimits()
    breaker: Breaker = Breaker()
    minio: MinioLimits = MinioLimits()
    active: int = 32
    waiting: int = 1024


def open_store(url: str, env: Mapping[str, str], options: BackingOptions | None = None) -> Backing:
    """The store a URL names, bare. No I/O: the store need not be up. Raises ValueError naming the fault."""
    options = options or BackingOptions()
    parts = urlsplit(url)
    query = dict(_query(parts.query, {"s3": ("create", "endpoint", "region")}.get(parts.scheme, ("create",))))
    create = _flag("create", query.get("create", "false"))
    if parts.fragment:
        raise ValueError("backing URL: no #fragment is known")
    if parts.scheme == "memory":
        return MemoryBacking()
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"backing URL: file://{parts.netloc}… names a host; write file:///directory")
        if not parts.path.startswith("/"):
            raise ValueError("backing URL: file:// needs an absolute directory, as file:///directory")
        return DirectoryBacking(unquote(parts.path), create=create)
    if parts.scheme == "s3":
        # Loading the SDK and its HTTP clients is a third of a process's start and a fifth of its memory.
        from tiering.backing.minio import MinioBacking

        # A thread of the SDK cannot be interrupted: it must not wait for a silent server longer than its caller does.
        call_s = options.limits.call_s
        limits = msgspec.structs.replace(
            options.minio, connect_s=min(options.minio.connect_s, call_s), read_s=min(options.minio.read_s, call_s)
        )
        return MinioBacking(_address(parts.netloc, parts.path, query, env), limits, create=create)
    raise ValueError(f"backing URL: scheme {parts.scheme!r} is not one of file, s3, memory")


def open_backing(
    url: str,
    env: Mapping[str, str],
    *,
    options: BackingOptions | None = None,
    record: Record | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Guarded:
    """The store a URL names, with retries, limits, circuit breaker and (when `record` is given) meter.

    `healthy` and `retry_s()` of the result say whether the store answers and when it is tried again.
    """
    return wrap_backing(open_store(url, env, options), options=options, record=record, monotonic=monotonic)


def wrap_backing(
    store: Backing,
    *,
    options: BackingOptions | None = None,
    record: Record | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Guarded:
    """Puts the wrappers around a store."""
    options = options or BackingOptions()
    limited = Limited(TimeLimited(store, options.limits), options.active, options.waiting)
    tried: Backing = Retrying(limited, options.retry)
    if record is not None:
        tried = Metered(tried, record, monotonic=monotonic)
    return Guarded(tried, options.breaker, monotonic=monotonic)


def _query(text: str, known: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = parse_qsl(text, keep_blank_values=True)
    names = [name for name, _ in pairs]
    for name in names:
        if name not in known:
            raise ValueError(f"backing URL: unknown option {name!r}; known are {', '.join(known)}")
        if names.count(name) > 1:
            raise ValueError(f"backing URL: option {name!r} is given twice")
    return pairs


def _flag(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"backing URL: {name}={text} is neither true nor false")
    return text == "true"


def _address(netloc: str, path: str, query: Mapping[str, str], env: Mapping[str, str]) -> BucketAddress:
    if not netloc or "@" in netloc or ":" in netloc:
        raise ValueError("backing URL: s3://bucket/prefix?endpoint=… ; credentials come from the environment")
    if not _BUCKET.fullmatch(netloc):
        raise ValueError(f"backing URL: {netloc!r} is not a bucket name")
    endpoint = urlsplit(query.get("endpoint", ""))
    if endpoint.scheme not in ("http", "https") or not endpoint.hostname:
        raise ValueError("backing URL: endpoint= must be http://host:port or https://host:port")
    if endpoint.username or endpoint.path not in ("", "/") or endpoint.query:
        raise ValueError("backing URL: endpoint= is only scheme, host and port")
    for access_name, secret_name in CREDENTIALS:
        access, secret = env.get(access_name, ""), env.get(secret_name, "")
        if bool(access) != bool(secret):
            raise ValueError(f"of {access_name} and {secret_name} only one is set")
        if access:
            break
    else:
        raise ValueError("no credentials for the backing bucket: set RECALL_BACKING_ACCESS_KEY and _SECRET_KEY")
    return BucketAddress(
        endpoint=endpoint.netloc,
        bucket=netloc,
        access_key=access,
        secret_key=secret,
        prefix=check_prefix(unquote(path).strip("/")),
        region=query.get("region") or "us-east-1",
        secure=endpoint.scheme == "https",
    )
