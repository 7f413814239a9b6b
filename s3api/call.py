"""One authenticated, authorised S3 call, as a handler receives it.

The seam between `s3api.pipeline` (which makes a Call) and `s3api.handlers` (which answer it).
Owns nothing. Does not know sockets. Kind: value types and protocols.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from s3api.config import ApiConfig
from s3api.errors import S3Error
from s3api.identity import Begun, Identity
from s3api.message import Request, Response
from tiering.contract import BucketInfo, Checksum, NoSuchKey, ObjectInfo, Origin, Store


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

        Borrowed until `done`. Raises S3Error.
        """

    def done(self) -> None:
        """What `at_hand` lent is not looked at any more."""

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
        other = Call(
            self.request,
            self.request_id,
            self.operation,
            self.bucket,
            key,
            self.query,
            self.identity,
            self.payload,
            self.store,
            self.config,
            self.now_ms,
            self.access,
        )
        other.bucket_info, other.asked, other.said = self.bucket_info, self.asked, self.said
        other.tags, other.outcomes = self.tags, self.outcomes
        return other

    def header(self, name: bytes) -> str:
        """A request header as text, stripped; "" when absent. `name` in lower case."""
        value = self.request.headers.get(name)
        return value.decode("utf-8", "surrogateescape").strip() if value else ""


Answer = Response | Coroutine[Any, Any, Response] | NoSuchKey
"""A NoSuchKey that is returned is one that would be raised, without the way up, which is a tenth of a miss."""


class Handler(Protocol):
    """Answers one operation; raises S3Error or a StoreError."""

    def __call__(self, call: Call) -> Answer: ...
