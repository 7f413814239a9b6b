"""Settings: one row a setting, read from defaults < TOML file < `RECALL_…` environment < command line.

Promise: `load` returns a complete, frozen `Settings`, or raises `SettingsError` naming *every* fault it found. Unknown
names are faults too: a misspelt limit must not be a limit that is silently off.

A row is the field itself: its name (with the unit), type, default, and the `Row` in its annotation. The command line's
help and the tables in docs/OPERATIONS.md are made from these fields.

Owns nothing. Does not know secrets (`gateway.credentials`), sockets or processes; the only file it reads is the TOML one.
Kind: table and pure, but for `load`, which reads the settings file.
Spec: docs/OPERATIONS.md.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from gateway import value as v
from gateway.http.limits import Limits
from gateway.value import Address, BucketListener
from s3api.access import OWNERSHIPS
from s3api.config import KeyRule
from s3api.errors import S3Error
from s3api.extensions import check_rules
from s3api.target import check_bucket_name
from tiering.pool import REGION_BYTES_MAX, REGION_BYTES_MIN, REGIONS_MIN

CAPACITY_AUTOMATIC_BYTES_MAX: Final = 4 << 30
CAPACITY_AUTOMATIC_FREE_PART: Final = 8
"""An automatic capacity takes at most one part in this many of the free space of the disk, for each pool."""
POOLS_MAX: Final = 16
DEFAULT_POOL: Final = "standard"

_ENVIRONMENT_KNOWN: Final = frozenset(
    {
        "RECALL_CONFIG",
        "RECALL_ROOT_USER",
        "RECALL_ROOT_PASSWORD",
        "RECALL_BACKING_ACCESS_KEY",
        "RECALL_BACKING_SECRET_KEY",
        "RECALL_USER_SECRET_KEY",
        "RECALL_KMS_SECRET_KEY",
    }
)
"""Names that are no settings: the settings file, and secrets, which must never be in a Settings."""
BACKING_SECRETS: Final = (
    "RECALL_BACKING_ACCESS_KEY",
    "RECALL_BACKING_SECRET_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
)
"""Where the backing bucket's credentials are looked for: `tiering.backing.CREDENTIALS`, which costs half a second to import."""
NOTIFY_TOKEN_PREFIX: Final = "RECALL_NOTIFY_TOKEN_"
"""With the name of a webhook behind it: the secret it is sent."""
_ENVIRONMENT_KNOWN_PREFIXES: Final = ("RECALL_TEST_", NOTIFY_TOKEN_PREFIX)
_USERINFO: Final = re.compile(r"//[^/@\s\"]*@")
"""Where a URL has a password, which the message that refuses it must not repeat."""
_LIMITS: Final = Limits()


class SettingsError(Exception):
    """The settings cannot be used. `faults`: one line each, every one that was found."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class Row(msgspec.Struct, frozen=True):
    """What a field's annotation adds to its name, type and default: section, reader, form, help, reason of the default.

    `parse` raises ValueError saying what is wrong; `form` is how a value is written, for the help.
    """

    section: str
    parse: Callable[[object], object]
    form: str
    help: str
    reason: str = ""


# A table: the formatter would spread each row over ten lines.
# fmt: off


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the HTTP edge; TOML table `[http]`. The defaults are those of `gateway.http.limits`."""

    head_bytes_max: Annotated[int, Row("HTTP limits", v.size_between(1024, _LIMITS.receive_buffer_bytes // 2), "SIZE",
        "request line and headers together; above it the reply is 400 RequestHeaderSectionTooLarge",
        "AWS allows 8 KiB of headers with 2 KiB of metadata; presigned URLs and long keys take the rest")] = _LIMITS.head_bytes_max
    request_line_bytes_max: Annotated[int, Row("HTTP limits", v.size_between(1024, _LIMITS.receive_buffer_bytes // 2), "SIZE",
        "the request line alone; above it the reply is 400 InvalidURI",
        "a key of 1,024 bytes, all percent-encoded, and a presigned query fit")] = _LIMITS.request_line_bytes_max
    header_count_max: Annotated[int, Row("HTTP limits", v.whole_between(8, 1000), "N",
        "header fields in one request",
        "the SDKs send at most 30, user metadata comes on top")] = _LIMITS.header_count_max
    head_s: Annotated[float, Row("HTTP limits", v.parse_positive_duration, "DURATION",
        "time for a request's head to arrive once it began",
        "a head is one packet; whoever needs longer holds a connection on purpose")] = _LIMITS.head_s
    idle_s: Annotated[float, Row("HTTP limits", v.parse_positive_duration, "DURATION",
        "how long a connection without a request is kept",
        "longer than SDK connection pools keep theirs, so that the client closes first")] = _LIMITS.idle_s
    body_rate_bytes_min: Annotated[int, Row("HTTP limits", v.parse_size, "SIZE",
        "bytes a second below which a body, either way, is cut off; 0 is no limit",
        "a reader holds the regions it reads: the slowest one decides when space can be used again")] = _LIMITS.body_rate_bytes_min
    body_grace_s: Annotated[float, Row("HTTP limits", v.parse_positive_duration, "DURATION",
        "how long a peer may stand still before body_rate_bytes_min cuts it off",
        "rides out a pause of the engine or of the network")] = _LIMITS.body_grace_s
    connections_max: Annotated[int, Row("HTTP limits", v.whole_between(1, 1_000_000), "N",
        "connections one worker holds; above it new ones take the place of idle ones, else wait for one",
        "an engine opens 64 a GPU; each costs a file descriptor")] = _LIMITS.connections_max
    requests_in_flight_max: Annotated[int, Row("HTTP limits", v.whole_between(1, 1_000_000), "N",
        "requests with a body one worker has under way; those above wait their turn, unread",
        "each may hold a receive buffer: the product bounds a worker's memory")] = _LIMITS.requests_in_flight_max
    peer_fraction_max: Annotated[float, Row("HTTP limits", v.parse_fraction, "FRACTION",
        "of connections_max and requests_in_flight_max, what one address may hold; 1 behind a proxy, where all come from one",
        "whoever takes all there is, on purpose or not, leaves a quarter to others")] = _LIMITS.peer_fraction_max
    queue_s: Annotated[float, Row("HTTP limits", v.parse_positive_duration, "DURATION",
        "how long a request above a limit waits for its turn, or a connection for a place, before it is answered 503 SlowDown",
        "waiting costs nothing, and being refused nearly as much as being served; SDKs wait for seconds")] = _LIMITS.queue_s
    queue_overload_s: Annotated[float, Row("HTTP limits", v.parse_positive_duration, "DURATION",
        "the same for requests that lay unread since the worker is behind, once some have done so for all of queue_s",
        "a line that does not become empty is no burst: waiting helps nobody then, and these cost far more than their refusal")] = _LIMITS.queue_overload_s


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One pool; TOML table `[pools.<name>]`. `capacity_bytes` 0 lasts only until `with_capacities`."""

    name: str
    buckets: Annotated[tuple[str, ...], Row("Pools", v.parse_patterns, "PATTERN,…",
        "shell patterns: a new bucket with a matching name goes into this pool; the first pool that matches, else standard")] = ()
    capacity_bytes: Annotated[int, Row("Pools", v.parse_size, "SIZE",
        "flash the pool takes; a pool grows when this grows, and never shrinks; 0 is automatic: 4 GiB, or an eighth of the "
        "disk's free space if that is less",
        "room for a first test on any machine without filling its disk; in earnest, size it to the drive")] = 0
    region_bytes: Annotated[int, Row("Pools", v.parse_size, "SIZE",
        "unit of eviction, a power of two, fixed when the pool is made; 0 is automatic: the largest up to 64 MiB that gives "
        "64 regions",
        "large regions are sequential on flash and cheap to free; small ones, of about four objects, keep a few hundredths more "
        "of the reads hot")] = 0
    durability: Annotated[Literal["relaxed", "flash", "backing"], Row("Pools", v.one_of("relaxed", "flash", "backing"),
        "relaxed|flash|backing",
        "what a write waits for: the page cache, the drive, or the copy in the backing store",
        "S3 promises that an acknowledged object is there; a KV block can be computed again")] = "flash"
    etag: Annotated[Literal["md5", "opaque"], Row("Pools", v.one_of("md5", "opaque"), "md5|opaque",
        "ETag of a new object: MD5 as AWS, or made from the CRC64 of the bytes",
        "tools compare MD5 ETags; a KV block must not wait for MD5")] = "md5"
    demote: Annotated[Literal["eager", "pressure", "never"], Row("Pools", v.one_of("eager", "pressure", "never"),
        "eager|pressure|never",
        "when objects are copied to the backing store: after demote_after_s, only when space is needed, or never (a pure "
        "cache: evicting loses the object)",
        "a standard object should be safe soon; most KV blocks die before their region is needed")] = "eager"
    demote_after_s: Annotated[float, Row("Pools", v.parse_duration, "DURATION",
        "age at which an eager pool demotes an object",
        "what is overwritten or deleted within it is never uploaded")] = 60.0
    pin_fraction_max: Annotated[float, Row("Pools", v.parse_fraction, "FRACTION",
        "part of the capacity that pins may hold; a pin above it is refused with 507",
        "the other half keeps the pool a cache")] = 0.5
    dirty_fraction_max: Annotated[float, Row("Pools", v.parse_fraction, "FRACTION",
        "part of the capacity that may wait for demotion; above it writes are answered 503",
        "what waits cannot be evicted: this is how long writes go on without the backing store")] = 0.75
    free_regions_low: Annotated[int, Row("Pools", v.whole_between(0, 1 << 20), "N",
        "free regions below which the keeper frees more; 0 is automatic: from the number of regions",
        "early enough that writers do not wait, though a free region serves no hits")] = 0
    space_wait_s: Annotated[float, Row("Pools", v.parse_duration, "DURATION",
        "how long a write waits for a free region, or a drive that is behind, before it is answered 503",
        "longer than freeing a region takes, shorter than a client's own time limit")] = 5.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the processes are told but secrets. Safe to log."""

    data_dir: Annotated[str, Row("Process", v.parse_path, "DIR",
        "where index, flash, credentials and run files are",
        "beside the clone, easy to remove")] = "./data"
    listen: Annotated[Address, Row("Process", v.parse_address, "HOST:PORT",
        "address of the S3 port; port 0 lets the system choose (the endpoint file in the data directory has it)",
        "nothing beyond this machine until somebody decides so; MinIO's port")] = Address("127.0.0.1", 9000)
    workers: Annotated[int, Row("Process", v.whole_between(1, 256), "N",
        "worker processes; one uses about one core",
        "one worker serves gigabytes a second; add them as cores are to spare")] = 1
    pin_workers: Annotated[Literal["no", "yes"], Row("Process", v.parse_yes, "yes|no",
        "whether each worker, with its threads, keeps to one of the CPUs that the gateway may use, the next one the next",
        "the kernel places them well on a machine that does other things too")] = "no"
    start_s: Annotated[float, Row("Process", v.parse_positive_duration, "DURATION",
        "time a child process has to become ready",
        "after a crash the keeper verifies the index, which takes minutes for millions of objects")] = 300.0
    drain_s: Annotated[float, Row("Process", v.parse_duration, "DURATION",
        "at SIGTERM, time for the requests in flight, and then again for the keeper, before they are killed",
        "both together stay below the 30 s that Kubernetes waits")] = 10.0
    hang_s: Annotated[float, Row("Process", v.parse_duration, "DURATION",
        "how long the loop of a child process may stand still before it is killed and started again; 0: for ever",
        "a loop that is only busy, or waits for a slow drive, turns many times a second, or at least every few")] = 60.0
    log_level: Annotated[Literal["debug", "info", "warning", "error"],
        Row("Process", v.one_of("debug", "info", "warning", "error"), "LEVEL",
        "debug, info, warning or error")] = "info"
    metrics_auth: Annotated[Literal["auto", "public", "jwt"], Row("Process", v.one_of("auto", "public", "jwt"),
        "auto|public|jwt",
        "who may read the metrics: jwt asks everyone for a bearer token (`recall metrics-token`), auto only peers that are "
        "not on the loopback, public nobody",
        "traffic is nobody else's business, while a scraper on the machine just works")] = "auto"
    region: Annotated[str, Row("S3", v.parse_region, "NAME",
        "region that is reported; requests signed for any region are accepted",
        "the SDKs' default")] = "us-east-1"
    buckets_max: Annotated[int, Row("S3", v.whole_between(1, 1_000_000), "N",
        "buckets there can be; above it CreateBucket is 400 TooManyBuckets",
        "AWS's own, and one page of ListBuckets")] = 10_000
    object_ownership: Annotated[str, Row("S3", v.one_of(*OWNERSHIPS), "|".join(OWNERSHIPS),
        "object ownership of new buckets whose maker names none (`x-amz-object-ownership`); AWS's is BucketOwnerEnforced",
        "without any, writers own what they write and access lists count, which clients older than 2023 rely on")] = ""
    domains: Annotated[tuple[str, ...], Row("S3", v.parse_texts, "NAME,…",
        "domains of virtual-host style, <bucket>.<domain>")] = ()
    host_buckets: Annotated[Mapping[str, str], Row("S3", v.parse_pairs, "HOST=BUCKET,…",
        "Host values, with or without port, that are bound to one bucket")] = {}
    bucket_listeners: Annotated[tuple[BucketListener, ...], Row("S3", v.parse_bucket_listeners, "HOST:PORT=BUCKET,…",
        "extra listening addresses, each bound to one bucket, for clients that know no path style (LMCache)")] = ()
    key_rules: Annotated[tuple[KeyRule, ...], Row("S3", v.parse_key_rules, "[[key_rules]]",
        "intent for clients that cannot send headers: tables with patterns `bucket` and `key` that give `pin`, `ttl` or "
        "`pool` (JSON in the environment)")] = ()
    notify_webhooks: Annotated[Mapping[str, str], Row("S3", v.parse_webhooks, "NAME=URL,…",
        "where notifications of buckets may be sent; a configuration names one as arn:minio:sqs::NAME:webhook, or as a topic, "
        "queue or function NAME")] = {}
    notify_owners: Annotated[Mapping[str, tuple[str, ...]], Row("S3", v.parse_owners, "NAME=ID+ID,…",
        "canonical ids of the accounts whose buckets a webhook is for; one that is not named here is for every bucket")] = {}
    notify_timeout_s: Annotated[float, Row("S3", v.parse_positive_duration, "DURATION",
        "time a webhook has to answer; without a 2xx by then the event is sent again later",
        "a receiver only has to take a kilobyte")] = 10.0
    notify_queue_bytes: Annotated[int, Row("S3", v.parse_size, "SIZE",
        "what may wait for one webhook; beyond it new events for it are dropped, and counted",
        "about a hundred thousand events: hours of a receiver's absence, and no danger to the disk")] = 64 << 20
    access_log_s: Annotated[float, Row("S3", v.parse_positive_duration, "DURATION",
        "how often a worker delivers the access logs of buckets that have logging enabled",
        "few objects, and not much to lose with a worker")] = 60.0
    lifecycle_day_s: Annotated[float, Row("S3", v.parse_positive_duration, "DURATION",
        "what lifecycle rules and RestoreObject count as a day; any other length than 24 h is for tests, and then nothing is "
        "rounded to midnight",
        "a day")] = 86_400.0
    kms_key_file: Annotated[str, Row("S3", v.parse_path, "FILE",
        "file of further master keys for server-side encryption, a line name:key each, mode 0600; the last one is the default",
        "without any the gateway makes one key in its data directory")] = ""
    tls_cert: Annotated[str, Row("TLS", v.parse_path, "FILE",
        "certificate in PEM, then the chain up to its authority; with tls_key, every listener speaks HTTPS and nothing else",
        "plain HTTP, as long as it stays on this machine")] = ""
    tls_key: Annotated[str, Row("TLS", v.parse_path, "FILE",
        "key of the certificate in PEM, without a passphrase, mode 0600")] = ""
    tls_min_version: Annotated[str, Row("TLS", v.parse_tls_version, "1.2|1.3",
        "lowest version of TLS a client may speak",
        "some SDKs in use do not have 1.3")] = "1.2"
    identities: Annotated[str, Row("Process", v.parse_path, "FILE",
        "accounts, users, groups and policies; empty is identities.json in the data directory",
        "beside the data they guard; one file can serve several gateways")] = ""
    backing: Annotated[str, Row("Backing store", v.parse_backing_url, "URL",
        "file:///dir or s3://bucket/prefix?endpoint=http://host:9000&region=…",
        "a directory, so that one command starts everything")] = ""
    backing_timeout_s: Annotated[float, Row("Backing store", v.parse_positive_duration, "DURATION",
        "time limit of one call, and of a pause within a stream",
        "a bucket answers in tenths of a second; an engine gives a block up after about ten")] = 10.0
    backing_retry_attempts: Annotated[int, Row("Backing store", v.whole_between(1, 20), "N",
        "tries of one call, the first included",
        "rides out a restart")] = 4
    backing_concurrency: Annotated[int, Row("Backing store", v.whole_between(1, 1024), "N",
        "calls one process has under way",
        "fills a 10 Gbit/s link at the usual latency of a bucket")] = 32
    scrub_every_s: Annotated[float, Row("Scrubbing", v.parse_duration, "DURATION",
        "how often a pass over everything stored begins, on flash and in the backing store; 0 is never",
        "bytes decay in months")] = 7 * 86_400.0
    scrub_bytes_per_s: Annotated[int, Row("Scrubbing", v.parse_size, "SIZE",
        "bytes a second of each pool's flash that are compared with their checksums; 0 leaves flash alone",
        "a thousandth of a drive, yet two terabytes a week")] = 4 << 20
    scrub_backing_bytes_per_s: Annotated[int, Row("Scrubbing", v.parse_size, "SIZE",
        "bytes a second of each pool's cold copies that are read and compared; 0 only asks whether they are there, in their "
        "size",
        "reading may cost money, and a bucket guards its own bytes")] = 0
    http: HttpSettings = HttpSettings()
    pools: Mapping[str, PoolSettings] = {}

    @property
    def identities_path(self) -> Path:
        """Where accounts and users are kept."""
        return Path(self.identities) if self.identities else Path(self.data_dir) / "identities.json"

    @property
    def run_dir(self) -> Path:
        """Where the processes of one start keep pid files, metrics and the like; emptied at each start."""
        return Path(self.data_dir) / "run"


# fmt: on

POOL_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    DEFAULT_POOL: {},
    "kv": {"buckets": ("kv-*",), "durability": "relaxed", "etag": "opaque", "demote": "pressure"},
}
"""The pools there are without any setting, and where they differ from PoolSettings's defaults."""


class Known(msgspec.Struct, frozen=True):
    """A setting as the tables and the readers see it. `path` is dotted; `<pool>` stands for a pool's name."""

    path: str
    default: Any
    row: Row

    @property
    def environment(self) -> str:
        return "RECALL_" + self.path.replace(".", "_").replace("-", "_").upper()


def _rows(kind: type[msgspec.Struct], prefix: str) -> Iterator[Known]:
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in msgspec.structs.fields(kind):
        for extra in getattr(hints[field.name], "__metadata__", ()):
            if isinstance(extra, Row):
                default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
                yield Known(prefix + field.name, default, extra)


SETTINGS: Final[Mapping[str, Known]] = {
    known.path: known for known in (*_rows(Settings, ""), *_rows(HttpSettings, "http."))
}
POOL_SETTINGS: Final[Mapping[str, Known]] = {
    known.path.rpartition(".")[2]: known for known in _rows(PoolSettings, "pools.<pool>.")
}
_POOL_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")


Given = tuple[str, object, str]
"""One value as found: dotted name, raw value, where it was found (for the fault's text)."""


def load(
    environ: Mapping[str, str],
    *,
    file: str | None = None,
    overrides: Sequence[tuple[str, str]] = (),
    backing: bool = True,
    faults: Sequence[str] = (),
) -> Settings:
    """The settings of this start; `overrides` are (dotted name, text) from the command line. Raises SettingsError.

    `backing` False takes the backing store's URL as it is, for who will not open it. `faults`: found already, raised with ours.
    """
    faults = list(faults)
    file = file or environ.get("RECALL_CONFIG")
    given = [
        *(_from_toml(file, faults) if file else ()),
        *_from_environment(environ, faults),
        *((name, value, "command line") for name, value in overrides),
    ]
    values = _parse(given, faults)
    pools: dict[str, dict[str, Any]] = {name: dict(defaults) for name, defaults in POOL_DEFAULTS.items()}
    http: dict[str, Any] = {}
    top: dict[str, Any] = {}
    for path, item in values.items():
        table, _, field = path.rpartition(".")
        if table == "http":
            http[field] = item
        elif table:
            pools.setdefault(table.partition(".")[2], {})[field] = item
        else:
            top[field] = item
    top["data_dir"] = os.path.abspath(top.get("data_dir", SETTINGS["data_dir"].default))
    if "backing" in top:
        faults += _backing_faults(top["backing"], environ) if backing else ()
    else:
        top["backing"] = Path(top["data_dir"], "backing").as_uri() + "?create=true"
    settings = Settings(
        **top,
        http=HttpSettings(**http),
        pools={name: PoolSettings(name=name, **fields) for name, fields in pools.items()},
    )
    faults += _combinations(settings)
    if faults:
        raise SettingsError(faults)
    return settings


def _from_toml(file: str, faults: list[str]) -> Iterator[Given]:
    try:
        with open(file, "rb") as stream:
            document = tomllib.load(stream)
    except OSError as error:
        faults.append(f"{file}: cannot be read: {error.strerror}")
        return
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        faults.append(f"{file}: is not TOML: {error}")
        return
    for name, value in document.items():
        if name not in ("http", "pools"):
            yield name, value, file
        elif not isinstance(value, dict):
            faults.append(f"{file}: {name}: must be a table")
        elif name == "http":
            yield from ((f"http.{field}", item, file) for field, item in value.items())
        else:
            yield from _pool_tables(value, file, faults)


def _pool_tables(pools: Mapping[str, object], file: str, faults: list[str]) -> Iterator[Given]:
    for pool, fields in pools.items():
        if not isinstance(fields, dict):
            faults.append(f"{file}: pools.{pool}: must be a table [pools.{pool}]")
        elif not fields:
            yield f"pools.{pool}.buckets", (), file  # an empty table still makes the pool
        else:
            yield from ((f"pools.{pool}.{field}", value, file) for field, value in fields.items())


def _from_environment(environ: Mapping[str, str], faults: list[str]) -> Iterator[Given]:
    names = {known.environment: path for path, known in SETTINGS.items()}
    for name in sorted(environ):
        if not name.startswith("RECALL_"):
            continue
        if name in names:
            yield names[name], environ[name], name
        elif path := _pool_variable(name):
            yield path, environ[name], name
        elif name not in _ENVIRONMENT_KNOWN and not name.startswith(_ENVIRONMENT_KNOWN_PREFIXES):
            faults.append(f"{name}: no such setting{_suggestion(name, names)}")


def _pool_variable(name: str) -> str | None:
    """`RECALL_POOLS_KV_CAPACITY_BYTES` → `pools.kv.capacity_bytes`; a `-` of a pool's name is written `_`."""
    if name.startswith("RECALL_POOLS_"):
        rest = name.removeprefix("RECALL_POOLS_")
        for field in POOL_SETTINGS:
            if rest.endswith("_" + field.upper()):
                return f"pools.{rest[: -len(field) - 1].lower().replace('_', '-')}.{field}"
    return None


def _parse(given: Sequence[Given], faults: list[str]) -> dict[str, Any]:
    """Reads every value, the overridden ones too: a bad line in the file is a fault whoever wins."""
    values: dict[str, Any] = {}
    for path, raw, where in given:
        table, _, field = path.rpartition(".")
        pool = table.removeprefix("pools.") if table.startswith("pools.") else None
        known = SETTINGS.get(path) if pool is None else POOL_SETTINGS.get(field)
        if known is None:
            faults.append(f"{where}: {path}: no such setting{_suggestion(path, _names(pool))}")
            continue
        if pool is not None and not _POOL_NAME.fullmatch(pool):
            faults.append(f"{where}: {path}: a pool's name is up to 32 of a-z, 0-9 and -, a letter first")
            continue
        try:
            values[path] = known.row.parse(raw)
        except ValueError as error:
            shown = where if where == known.environment else f"{where}: {path}"
            faults.append(f"{shown}: {_USERINFO.sub('//…@', json.dumps(raw, default=str))}: {error}")
    return values


def _names(pool: str | None) -> Sequence[str]:
    return (*SETTINGS, "http", "pools") if pool is None else tuple(f"pools.{pool}.{field}" for field in POOL_SETTINGS)


def _suggestion(name: str, names: Mapping[str, Any] | Sequence[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""


def _backing_faults(url: str, environ: Mapping[str, str]) -> Iterator[str]:
    from tiering.backing import open_store  # late: half a second of imports that `recall stats` need not pay

    try:
        open_store(url, environ)
    except ValueError as error:
        yield str(error)


def _combinations(settings: Settings) -> Iterator[str]:
    """Faults that no value shows alone."""
    if len(settings.pools) > POOLS_MAX:
        yield f"pools: {len(settings.pools)} are too many; at most {POOLS_MAX}"
    patterns: dict[str, str] = {}
    for pool in settings.pools.values():
        yield from _pool_faults(pool)
        for pattern in pool.buckets:
            if patterns.setdefault(pattern, pool.name) != pool.name:
                yield f"pools.{pool.name}.buckets: {pattern} is already claimed by pools.{patterns[pattern]}"
    yield from check_rules(settings.key_rules)
    for rule in settings.key_rules:
        if rule.pool and rule.pool not in settings.pools:
            yield f"key_rules: there is no pool {rule.pool}"
        if rule.pool and rule.key:
            yield f"key_rules: a pool is chosen for a bucket: the rule for key {rule.key} cannot give one"
    for name in settings.notify_owners.keys() - settings.notify_webhooks.keys():
        yield f"notify_owners: notify_webhooks has no {name}"
    for bucket in (*settings.host_buckets.values(), *(listener.bucket for listener in settings.bucket_listeners)):
        try:
            check_bucket_name(bucket)
        except S3Error:
            yield f"host_buckets, bucket_listeners: {bucket} is no valid bucket name"
    if bool(settings.tls_cert) != bool(settings.tls_key):
        given, missing = ("tls_cert", "tls_key") if settings.tls_cert else ("tls_key", "tls_cert")
        yield f"{given}: is set but {missing} is not: give both or neither"
    addresses = [settings.listen, *(listener.address for listener in settings.bucket_listeners)]
    for number, address in enumerate(addresses):
        if address.port and address in addresses[:number]:
            yield f"bucket_listeners: {address} is used twice"


def _pool_faults(pool: PoolSettings) -> Iterator[str]:
    at = f"pools.{pool.name}"
    region_bytes = pool.region_bytes or REGION_BYTES_MIN
    if region_bytes & (region_bytes - 1) or not REGION_BYTES_MIN <= region_bytes <= REGION_BYTES_MAX:
        yield f"{at}.region_bytes: {pool.region_bytes}: must be a power of two from {v.format_size(REGION_BYTES_MIN)} to {v.format_size(REGION_BYTES_MAX)}"
    elif pool.capacity_bytes and pool.capacity_bytes < REGIONS_MIN * region_bytes:
        yield f"{at}.capacity_bytes: {pool.capacity_bytes}: must be at least {REGIONS_MIN} regions of {v.format_size(region_bytes)}"
    if pool.dirty_fraction_max <= 0:
        yield f"{at}.dirty_fraction_max: {pool.dirty_fraction_max}: must be more than 0, or nothing could be written"
    if pool.durability == "backing" and pool.demote == "never":
        yield f"{at}.demote: a pool of durability backing copies each object to the backing store: it cannot be never"


def with_capacities(settings: Settings, free_bytes: int, have: Mapping[str, int]) -> Settings:
    """Replaces automatic capacities, given the free bytes of the disk, and the flash that pools have already: that stays.

    Done once a start, by the supervisor: the pools themselves change what is free, and all processes must agree.
    """
    automatic = min(CAPACITY_AUTOMATIC_BYTES_MAX, free_bytes // CAPACITY_AUTOMATIC_FREE_PART)
    pools = {
        name: msgspec.structs.replace(
            pool,
            capacity_bytes=pool.capacity_bytes
            or have.get(name)
            or max(automatic, REGIONS_MIN * (pool.region_bytes or REGION_BYTES_MIN)),
        )
        for name, pool in settings.pools.items()
    }
    return msgspec.structs.replace(settings, pools=pools)


def format_value(known: Known, value: Any) -> str:
    """A value as it may be written in the TOML file or on the command line; "" for nothing."""
    if known.path == "backing" and not value:
        return "file://<data-dir>/backing?create=true"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | dict):
        return ",".join(str(item) for item in (value.items() if isinstance(value, dict) else value))
    if known.row.form == "SIZE":
        return v.format_size(value)
    if known.row.form == "DURATION":
        return f"{value:g}s"
    return str(value)


def as_toml(settings: Settings) -> str:
    """All settings as a file that `load` reads to the same; those at their default are marked, those of no value left out."""
    lines = [*_toml_lines(SETTINGS, "", settings, {}), "", "[http]", *_toml_lines(SETTINGS, "http.", settings.http, {})]
    for name, pool in settings.pools.items():
        lines += ["", f"[pools.{name}]", *_toml_lines(POOL_SETTINGS, "", pool, POOL_DEFAULTS.get(name, {}))]
    return "\n".join(lines) + "\n"


def _toml_lines(
    rows: Mapping[str, Known], prefix: str, values: msgspec.Struct, defaults: Mapping[str, Any]
) -> Iterator[str]:
    for path, known in rows.items():
        name = path.removeprefix(prefix)
        if "." in name or not path.startswith(prefix):
            continue
        value = getattr(values, name)
        default = value == defaults.get(name, known.default)
        if value not in ("", (), {}):
            yield f"{name} = {_toml_value(known, value)}" + ("  # default" if default else "")
        elif not default:
            yield f"{name} = []"


def _toml_value(known: Known, value: Any) -> str:
    if isinstance(value, Mapping):
        fields = (f"{json.dumps(name)} = {_toml_value(known, item)}" for name, item in value.items())
        return f"{{ {', '.join(fields)} }}"
    if isinstance(value, KeyRule):
        return _toml_value(known, {name: item for name, item in msgspec.structs.asdict(value).items() if item})
    if isinstance(value, tuple):
        return f"[{', '.join(_toml_value(known, item) for item in value)}]"
    if isinstance(value, int | float) and known.row.form not in ("SIZE", "DURATION"):
        return str(value)
    return json.dumps(format_value(known, value), ensure_ascii=False)
