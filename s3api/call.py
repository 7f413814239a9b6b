"""One authenticated, authorised S3 call, as a handler receives it.

The seam between `s3api.pipeline` (which makes a Call) and `s3api.handlers` (which answer it).
Owns nothing. Does not know sockets. Kind: value types and protocols.
"""

from __future__ import annotations

import copy
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from s3api.errors import S3Error
from s3api.message import Request, Response
from s3api.sealing import NO_KEYS, KeyRing
from tiering.contract import BucketInfo, Checksum, ObjectInfo, Origin, Store


class Identity(msgspec.Struct, frozen=True):
    """Who calls. `access_key` "" is anonymous. `owner_id` is the canonical id of the account, shown in listings.

    `owner`: the account as the store keeps it in `BucketInfo.owner`, "" for the gateway's own. `root`: the account itself,
    which needs nobody's leave for what it owns; others may do what `policies`, IAM policy texts, say. `session_policy`
    narrows both; `parent_arn`: the user that a session is of. `session_token`: what the credentials are sent with.
    """

    access_key: str
    secret_key: str = ""
    owner_id: str = ""
    display_name: str = ""
    root: bool = False
    owner: str = ""
    account_id: str = ""
    arn: str = ""
    user_id: str = ""
    user_name: str = ""
    policies: tuple[str, ...] = ()
    session_policy: str = ""
    parent_arn: str = ""
    session_token: str = ""

    def __repr__(self) -> str:
        return f"Identity({self.access_key!r}, {self.arn!r})"


class Begun(NamedTuple):
    """A new session's credentials."""

    access_key: str
    secret_key: str
    token: str
    expires_s: int


class Access(Protocol):
    """Who may do what, beyond the operation itself, which the pipeline has already judged."""

    def allows(self, call: Call, action: str, bucket: str, key: str = "", info: ObjectInfo | None = None) -> bool:
        """Whether the caller may do `action` (`s3:GetObject`, …) to an object or, with `key` "", a bucket.

        `info`: the object as it is, where its owner, list or tags may decide. Raises NoSuchBucket.
        """

    def is_plain(self, who: Identity, action: str, bucket: BucketInfo) -> bool:
        """Whether nothing needs judging but what an object of another owner grants."""

    def by_owner(self, action: str, bucket: BucketInfo) -> bool:
        """Whether it may matter to `action` that the caller owns the object, so that `allows` should be told of it."""

    def check_owner(self, header: str, stated: str, bucket: BucketInfo) -> None:
        """Raises AccessDenied where a request states another owner of a bucket than it has."""

    def judge_unbound(self, call: Call, action: str, resource: str) -> bool:
        """Whether the caller may do `action` to `resource`, an ARN, by its own policies alone: no bucket has a say."""

    def begin_session(self, who: Identity, duration_s: int, policy: str, name: str, now_s: int) -> Begun:
        """Credentials that end, for what `who` may do and `policy`, where there is one, allows. Raises NotImplemented."""

    def display_name(self, owner_id: str) -> str:
        """The name shown for a canonical id; "" is the root account's."""

    def canonical_id(self, owner_id: str) -> str:
        """The id shown for one kept in the store, where "" is the root account."""

    def is_account(self, owner_id: str) -> bool:
        """Whether a canonical id is anybody's here."""

    def account_of_email(self, email: str) -> str | None:
        """The canonical id of who has that address; None for nobody."""


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


class Payload(Protocol):
    """The request's content: transfer and aws-chunked coding removed, hashes, chunk signatures and trailers checked.

    `length`: decoded bytes, None when the client stated none. `trailer`: the checksum a trailer carried, after the end.
    """

    length: int | None
    trailer: Checksum | None

    async def read(self) -> memoryview:
        """Next content bytes, borrowed until the next call; empty at the verified end. Raises S3Error, BodyError."""

    def at_hand(self) -> Sequence[memoryview] | None:
        """All of the content, verified as by `read`, where it has arrived and verifying it is short; None: it is to be read.

        Borrowed until the response. Raises S3Error.
        """

    async def document(self) -> bytes:
        """The whole of a small body. Raises S3Error above the configured bound."""


class KeyOutcome(NamedTuple):
    """What became of one key of a request that names many. `code`: of its error, "" without."""

    key: str
    version: str
    status: int
    code: str


class Call:
    """A resolved request: operation name, target, query, caller, payload. `query` values are percent-decoded text."""

    __slots__ = (
        "access",
        "asked",
        "bucket",
        "bucket_info",
        "config",
        "identity",
        "key",
        "now_ms",
        "operation",
        "outcomes",
        "payload",
        "query",
        "request",
        "request_id",
        "said",
        "store",
        "tags",
    )

    def __init__(
        self,
        request: Request,
        request_id: str,
        operation: str,
        bucket: str,
        key: str,
        query: Mapping[str, str],
        identity: Identity,
        payload: Payload,
        store: Store,
        config: ApiConfig,
        now_ms: int,
        access: Access,
    ) -> None:
        self.access = access
        self.request = request
        self.request_id = request_id
        self.operation = operation
        self.bucket = bucket
        self.key = key
        self.query = query
        self.identity = identity
        self.payload = payload
        self.store = store
        self.config = config
        self.now_ms = now_ms
        self.bucket_info: BucketInfo | None = None
        self.asked = ""  # the right that the object itself must still grant, once it is opened; see `check_object`
        self.said: Mapping[str, Sequence[str]] = {}  # condition keys that only the handler knows
        self.tags: Mapping[str, str] | None = None  # those a document or a form asks for
        self.outcomes: list[KeyOutcome] | None = None  # where what became of each of many keys is to be noted

    def require(
        self, action: str, bucket: str = "", key: str = "", version: str | None = None, info: ObjectInfo | None = None
    ) -> None:
        """Raises AccessDenied unless the caller may also do `action`; `bucket` "" is the call's own, with its key.

        `info`: the object, where it is at hand: its owner and its access list then count too.
        """
        if not bucket:
            bucket, key = self.bucket, self.key
        said = self.said
        if version is not None:
            self.said = {**said, "s3:versionid": (version or "null",)}
        try:
            if not self.access.allows(self, action, bucket, key, info):
                raise S3Error("AccessDenied")
        finally:
            self.said = said

    def may_list(self, bucket: str, key: str) -> bool:
        """Whether the caller may know whether `key` is there: may list the bucket, as far as that key goes."""
        said = self.said
        self.said = {**said, "s3:prefix": (key,)}
        try:
            return self.access.allows(self, "s3:ListBucket", bucket)
        finally:
            self.said = said

    def check_object(self, info: ObjectInfo) -> None:
        """Judges again by the very object that was opened: what was judged before it may have been another one.

        To be called where `asked` is set or the object has an owner of its own. Raises AccessDenied.
        """
        action = self.asked or "s3:GetObject"
        if not self.access.allows(self, action, self.bucket, self.key, info):
            raise S3Error("AccessDenied")

    def origin(self, event: str) -> Origin | None:
        """What to record of this call with the change it makes; None where the bucket notifies nobody."""
        bucket = self.bucket_info or self.store.bucket(self.bucket)
        if "notification" not in bucket.documents:
            return None
        return Origin(event, self.identity.owner_id, self.request.peer, self.request_id)

    def at(self, key: str) -> Call:
        """The same call about another key of its bucket, for requests that name many."""
        other = copy.copy(self)
        other.key = key
        return other

    def header(self, name: bytes) -> str:
        """A request header as text, stripped; "" when absent. `name` in lower case."""
        value = self.request.headers.get(name)
        return value.decode("utf-8", "surrogateescape").strip() if value else ""


class Handler(Protocol):
    """Answers one operation; raises S3Error or a StoreError."""

    def __call__(self, call: Call) -> Response | Coroutine[Any, Any, Response]: ...
