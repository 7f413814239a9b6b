"""One request from start to end: target, operation, who calls, may they, body, handler, reply.

Owns the border between the protocol and everything behind it: the only place that turns an S3Error, a StoreError or a
fault of ours into a reply. Does not know sockets, nor how any operation is done.
Kind: shell of the protocol layer, on the event loop. Invariants: `handle` never raises; a handler that answers at once
costs no task; every reply names its request id; a secret never reaches a reply or the log.
Spec: AWS S3 API Reference, "Error responses", "Common response headers"; RFC 9110 §15.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from s3api import acl, cors, post_policy, sigv2, sigv4, xml
from s3api.access import READS, Directory, OneAccount, Rights
from s3api.call import Answer, Call, Handler, KeyOutcome, Payload
from s3api.config import ApiConfig
from s3api.errors import ERRORS, ONE_MECHANISM, S3Error, from_store
from s3api.extensions import check_headers
from s3api.form import FormPayload, boundary_of, headers_of
from s3api.handlers import sts
from s3api.handlers.tagging import read_tagging
from s3api.identity import Identity
from s3api.message import BodyError, Request, Response, Shape
from s3api.moment import http_date
from s3api.operations import Operation, resolve
from s3api.params import parse_query
from s3api.payload import open_payload
from s3api.precedent import STANDING_QUERIES, Precedent
from s3api.session import Sessions
from s3api.settings import REQUESTER_PAYS
from s3api.sigv4 import EMPTY_SHA256, SIGNATURE, UNSIGNED, SigV4, Verified
from s3api.target import RESERVED_BUCKETS, Target, Targets, check_key
from s3api.versions import parse_version
from tiering.contract import (
    BucketInfo,
    Checksum,
    Clock,
    IsMarker,
    NoSuchBucket,
    NoSuchKey,
    NoSuchUpload,
    NoSuchVersion,
    NotModified,
    ObjectInfo,
    Reading,
    ReadOptions,
    Store,
    StoreError,
)

_log = logging.getLogger("recall.s3api")

Observer = Callable[[str, int, float, int, int, bool, str], None]
"""Told of each finished request: operation name ("" unresolved), status, seconds, content bytes in, body bytes out, whether
the answer went out whole, and the code of its error or ""."""

AccessLogger = Callable[[Request, Response, "Trace", int, float], None]
"""Told of each finished request: what was kept of it, body bytes out, seconds."""

UNRESOLVED: Final = ""
PREFLIGHT: Final = "Preflight"
"""The operation name of OPTIONS requests, which the table does not know: a browser's question, unsigned, of any target."""
_BODY_ERRORS: Final = {"gone": "IncompleteBody", "slow": "RequestTimeout", "framing": "IncompleteBody"}
_TRANSPORT_ERRORS: Final = {
    408: "RequestTimeout",
    414: "InvalidURI",
    431: "RequestHeaderSectionTooLarge",
    501: "NotImplemented",
    503: "SlowDown",
}
"""What S3 calls that which makes bytes no request, by the status HTTP has for it."""
_MESSAGES: Final = {row.code: xml.escape_readable(row.message) for row in ERRORS.values()}
_UNKNOWN: Final = frozenset({404, 405, 411})
_NO_ADMIN: Final = (
    "Of MinIO's calls beside S3 only health, metrics and info are served here; for everything else see `recall --help`."
)
"""Said where a path is one of `mc admin`'s, instead of that there is no bucket `minio`."""
_READS: Final = ("GET", "HEAD")
_LOW: Final = [f"{number:02X}" for number in range(256)]
_LENGTHLESS: Final = frozenset({204, 304})
_EXPECTED_OWNER: Final = b"x-amz-expected-bucket-owner"
TOKEN_SERVICE: Final = "AssumeRole"
DELETE_MANY: Final = "DeleteObjects"
FORM_BYTES_MAX: Final = 64 << 10
"""Largest form of the token service."""
TOKEN_PARAMETER: Final = "X-Amz-Security-Token"
ANONYMOUS: Final = Identity("")
_FURTHER: Final = (
    (b"x-amz-tagging", "s3:PutObjectTagging"),
    (b"x-amz-object-lock-mode", "s3:PutObjectRetention"),
    (b"x-amz-object-lock-retain-until-date", "s3:PutObjectRetention"),
    (b"x-amz-object-lock-legal-hold", "s3:PutObjectLegalHold"),
)
_UNCHUNKED: Final = frozenset({UNSIGNED, EMPTY_SHA256})
_UNREAD: Any = None
"""Stands for a call's payload until the call may be made."""


class Trace:
    """What the pipeline keeps of a request from `handle` to `finished`; lives in `request.state`."""

    __slots__ = (
        "bucket",
        "call",
        "charged",
        "error",
        "host_id",
        "identity",
        "operation",
        "outcomes",
        "payload",
        "request_id",
        "target",
    )

    def __init__(self, request_id: str, host_id: str) -> None:
        self.request_id = request_id
        self.host_id = host_id
        self.bucket: BucketInfo | None = None  # once it was found
        self.identity = ANONYMOUS  # until it is known who calls
        self.error = ""  # code
        self.charged = False  # the requester said it pays, as the bucket wants
        self.operation = UNRESOLVED
        self.target: Target | None = None
        self.payload: Any = None
        self.call: Call | None = None  # only where a missing key may have to be denied instead
        self.outcomes: Sequence[KeyOutcome] = ()  # of the keys of a DeleteObjects


class _ReadPayload:
    """A Payload that was read, and checked, before its call was made."""

    __slots__ = ("_body", "length", "trailer")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length: int | None = len(body)
        self.trailer: Checksum | None = None

    async def read(self) -> memoryview:
        """See `Payload`."""
        view, self._body = memoryview(self._body), b""
        return view

    def at_hand(self) -> Sequence[memoryview] | None:
        """See `Payload`."""
        return None

    def done(self) -> None:
        """See `Payload`."""

    async def document(self) -> bytes:
        """See `Payload`."""
        return self._body


class _RequestIds:
    """Unique over processes by their random half; the other half counts, and all but its end is written once for 256."""

    __slots__ = ("_begun", "_count", "_random")

    def __init__(self) -> None:
        self._random = os.urandom(4).hex().upper()
        self._count = int.from_bytes(os.urandom(3), "big") << 8
        self._begun = ""

    def new(self) -> str:
        """16 hexadecimal digits."""
        low = self._count & 0xFF
        if not low:
            self._begun = f"{self._random}{self._count >> 8 & 0xFFFFFF:06X}"
        self._count += 1
        return self._begun + _LOW[low]


class Pipeline:
    """Implements `s3api.message.Application`. One per worker.

    `identities` answers the identity of an access key, None if unknown. `handlers`: by operation name; one for a row the
    table answers itself replaces that answer. `observer` is told of every finished request. `directory` knows accounts;
    without one there is a single, nameless one. `sessions`: without, none is ever begun.
    """

    def __init__(
        self,
        store: Store,
        config: ApiConfig,
        identities: Callable[[str], Identity | None],
        handlers: Mapping[str, Handler],
        clock: Clock,
        observer: Observer | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        directory: Directory | None = None,
        sessions: Sessions | None = None,
        access_log: AccessLogger | None = None,
    ) -> None:
        self._access_log = access_log
        self._store = store
        self._config = config
        self._identities = identities
        self._access = Rights(directory or OneAccount(ANONYMOUS), sessions)
        self._handlers = dict(handlers)
        self._clock = clock
        self._observer = observer
        self._monotonic = monotonic
        self._targets = Targets(config)
        self._sigv4 = SigV4(self._secret, skew_s=config.clock_skew_s, expires_max_s=config.presign_expires_max_s)
        self._sts_sigv4 = SigV4(self._secret, skew_s=config.clock_skew_s, services=("sts", "s3"))
        self._ids = _RequestIds()
        self._host_id = base64.b64encode(os.urandom(24)).decode()
        self._common = f"\r\nx-amz-id-2: {self._host_id}\r\nserver: Recall\r\n".encode()

    def _secret(self, access_key: str) -> str | None:
        identity = self._identities(access_key)
        return None if identity is None else identity.secret_key

    def handle(self, request: Request) -> Response | Coroutine[Any, Any, Response]:
        """See `Application`: a Response at once unless the handler waits."""
        trace = request.state = Trace(self._ids.new(), self._host_id)
        try:
            reply = self._start(request, trace)
        except Exception as error:
            return self._finish(request, trace, self._failed(request, trace, error))
        if reply.__class__ is Response:
            return self._finish(request, trace, reply)
        if isinstance(reply, NoSuchKey):
            return self._finish(request, trace, self._failed(request, trace, reply))
        return self._wait(request, trace, reply)  # type: ignore[arg-type]  # not a Response, hence a coroutine

    async def _wait(self, request: Request, trace: Trace, reply: Coroutine[Any, Any, Response]) -> Response:
        try:
            return self._finish(request, trace, await reply)
        except Exception as error:
            return self._finish(request, trace, self._failed(request, trace, error))

    def refusal(self, status: int) -> Response:
        """See `Application`: an error document like every other, with a request id of its own."""
        trace = Trace(self._ids.new(), self._host_id)
        code = _TRANSPORT_ERRORS.get(status)
        failure = S3Error(code) if code else S3Error("BadRequest", "An error occurred when parsing the HTTP request.")
        lines = f"x-amz-request-id: {trace.request_id}".encode()
        return Response(failure.spec.status, xml.CONTENT_TYPE + lines + self._common, self._document(trace, failure))

    def finished(self, request: Request, response: Response, sent_bytes: int, complete: bool) -> None:
        """See `Application`: forwards to the observer, and to the access log beside it."""
        if self._observer is not None:
            trace: Trace | None = request.state
            if trace is None:
                return
            read_bytes = 0 if trace.payload is None else trace.payload.read_bytes
            seconds = self._monotonic() - request.started_s
            self._observer(trace.operation, response.status, seconds, read_bytes, sent_bytes, complete, trace.error)
            bucket = trace.bucket  # of one that was refused before it was found, the log looks itself
            if self._access_log is not None and (bucket is None or "logging" in bucket.documents):
                self._access_log(request, response, trace, sent_bytes, seconds)

    def _start(self, request: Request, trace: Trace) -> Answer:
        shape = request.shape
        if shape is not None and isinstance(shape.precedent, Precedent):
            answer = self._again(request, trace, shape.precedent)
            if answer is not None:
                return answer
        headers = request.headers
        target = self._targets.parse(request.path, headers.get(b"host", b""))
        trace.target = target
        if request.method == "OPTIONS":
            trace.operation = PREFLIGHT
            return self._preflight(target, headers)
        query = parse_query(request.query)
        presigned_v2 = sigv2.ACCESS_KEY in query
        if presigned_v2:
            headers = request.headers = sigv2.with_query_headers(headers, query)
        elif SIGNATURE in query:
            headers = sigv4.with_query_headers(headers, query)
        operation = resolve(request.method, target.scope, query, headers)
        trace.operation = operation.name
        if operation.header:  # it has no bucket that could be judged
            raise S3Error("NotImplemented", f"{operation.name} is not implemented.")
        now_ms = self._clock.now_ms()
        if operation.name == TOKEN_SERVICE:
            return self._token_service(request, trace, operation, query, now_ms)
        if operation.body == "form":
            return self._post_form(request, trace, target, operation, query, now_ms)
        verified = None  # of version 2: its content is unsigned
        if presigned_v2 or headers.get(b"authorization", b"").startswith(sigv2.SCHEME):
            identity = self._verify_v2(request, query, now_ms // 1000)
        elif query or b"x-amz-security-token" in headers:
            verified, identity = self._verify(request, query, now_ms // 1000)
            request.headers = headers
        else:  # as `_verify` without a session, and without a step between: most requests come here
            verified = self._sigv4.verify(request.method, request.path, b"", headers, now_ms // 1000)
            identity = ANONYMOUS if verified is None else self._known(verified.access_key)
        call = self._call(request, trace, operation, target.bucket, target.key, query, identity, _UNREAD, now_ms)
        judging = self._authorise(call, operation, trace)
        if judging is not None:
            return self._answer_after(judging, call, operation, verified, trace)
        if shape is not None and verified is not None and request.query in STANDING_QUERIES:
            self._set_precedent(call, operation, verified, shape)
        return self._answer(call, operation, verified, trace)

    def _again(self, request: Request, trace: Trace, precedent: Precedent) -> Answer | None:
        """The answer to a request like one that was judged before; None where this one must be judged itself."""
        signature = precedent.signature
        asked = precedent.asked(request)
        place = None if asked is None else asked.place(request.path)
        if signature is None or asked is None or place is None or precedent.owner is not self:
            return None
        bucket, operation = place.bucket, asked.operation
        key = place.key(request.path)
        if key is None or bool(key) != (operation.scope == "object"):
            return None
        now_ms = self._clock.now_ms()
        verified = signature.verify(
            request.method,
            request.path,
            asked.coded_query,
            request.head,
            request.at,
            now_ms // 1000,
            precedent.access_key,
        )
        if verified is None:
            return None
        name, identity = bucket.name, precedent.identity
        try:
            if self._identities(precedent.access_key) is not identity or self._store.bucket(name) is not bucket:
                return None
        except NoSuchBucket:
            return None
        if signature.headers is not None:
            request.headers = signature.headers
        trace.target = Target(operation.scope, name, key)
        trace.operation = operation.name
        trace.identity = identity
        trace.bucket = bucket
        call = self._call(request, trace, operation, name, key, asked.query, identity, _UNREAD, now_ms)
        call.bucket_info = bucket
        return self._answer(call, operation, verified, trace)

    def _set_precedent(self, call: Call, operation: Operation, verified: Verified, shape: Shape) -> None:
        """Keeps what was judged of a request for the next one of its shape, where nothing more would have to be judged of that."""
        bucket, identity = call.bucket_info, call.identity
        if bucket is None or not (operation.by_key or self._access.is_plain(identity, operation.action, bucket)):
            return
        precedent = shape.precedent
        if not isinstance(precedent, Precedent) or not precedent.is_of(self, identity, verified.key):
            precedent = shape.precedent = Precedent(self, identity, verified, self._sigv4, call.request, shape)
        precedent.learn(call.request, bucket, call.key, operation, call.query)

    def _call(
        self,
        request: Request,
        trace: Trace,
        operation: Operation,
        bucket: str,
        key: str,
        query: Mapping[str, str],
        identity: Identity,
        payload: Payload,
        now_ms: int,
    ) -> Call:
        # By position: by name it costs twice as much, and every request makes one.
        return Call(
            request,
            trace.request_id,
            operation.name,
            bucket,
            key,
            query,
            identity,
            payload,
            self._store,
            self._config,
            now_ms,
            self._access,
        )

    async def _answer_after(
        self,
        judging: Coroutine[Any, Any, None],
        call: Call,
        operation: Operation,
        verified: Verified | None,
        trace: Trace,
    ) -> Response:
        await judging
        return await _arrived(self._answer(call, operation, verified, trace))

    def _answer(self, call: Call, operation: Operation, verified: Verified | None, trace: Trace) -> Answer:
        """What comes after the judgement: the payload, and the handler."""
        handler = self._handlers.get(operation.name)
        if handler is None:
            return self._answer_from_table(operation, call.bucket)
        headers = call.request.headers
        if operation.method not in _READS:
            check_headers(operation.name, headers)
        if operation.body == "none" and (verified is None or verified.payload in _UNCHUNKED):
            return handler(call)  # whatever comes as a body is not looked at
        payload = open_payload(call.request.body, headers, verified, self._config.document_bytes_max)
        call.payload = trace.payload = payload
        if operation.name == DELETE_MANY:
            call.outcomes = trace.outcomes = []
        if operation.body == "stream" and payload.length is None:
            raise S3Error("MissingContentLength")
        return handler(call)

    async def _token_service(
        self, request: Request, trace: Trace, operation: Operation, query: Mapping[str, str], now_ms: int
    ) -> Response:
        """Another service on the same port: its clients sign the content's hash without stating it."""
        opened = open_payload(request.body, request.headers, None, FORM_BYTES_MAX)
        trace.payload = opened
        body = await opened.document()
        digest = hashlib.sha256(body).hexdigest()
        verified, identity = self._verify(request, query, now_ms // 1000, digest, self._sts_sigv4)
        if verified is not None and verified.payload != digest:
            raise S3Error("XAmzContentSHA256Mismatch")
        call = self._call(request, trace, operation, "", "", query, identity, _ReadPayload(body), now_ms)
        return await _arrived(self._handlers[operation.name](call))

    # who calls

    def _known(self, access_key: str) -> Identity:
        identity = self._identities(access_key)
        if identity is None:  # it was there when the signature was verified
            raise S3Error("InvalidAccessKeyId", AWSAccessKeyId=access_key[:128])
        return identity

    def _session(self, headers: Mapping[bytes, bytes], query: Mapping[str, str], now_s: int) -> Identity | None:
        """Whose session's token a request carries, None without one. Raises InvalidToken, ExpiredToken."""
        token = headers.get(b"x-amz-security-token")
        if token:
            return self._access.open_session(token.decode("latin-1"), now_s)
        text = query.get(TOKEN_PARAMETER) if query else None
        return self._access.open_session(text, now_s) if text else None

    def _verify(
        self,
        request: Request,
        query: Mapping[str, str],
        now_s: int,
        body_sha256: str | None = None,
        by: SigV4 | None = None,
    ) -> tuple[Verified | None, Identity]:
        """The signature and whose it is; ANONYMOUS for a request without one."""
        headers = request.headers
        session = None
        if b"x-amz-security-token" in headers or (query and TOKEN_PARAMETER in query):
            session = self._session(headers, query, now_s)
        verified = (by or self._sigv4).verify(
            request.method,
            request.path,
            request.query,
            headers,
            now_s,
            body_sha256,
            None if session is None else (session.access_key, session.secret_key),
        )
        if verified is None:
            if session is not None:
                raise S3Error("AccessDenied")
            return None, ANONYMOUS
        return verified, session or self._known(verified.access_key)

    async def _post_form(
        self,
        request: Request,
        trace: Trace,
        target: Target,
        operation: Operation,
        query: Mapping[str, str],
        now_ms: int,
    ) -> Response:
        """A form brings its own signature, in the fields before its file; then it is a PUT of that file."""
        headers, now_s = request.headers, now_ms // 1000
        boundary = boundary_of(headers)
        verified, identity = self._verify(request, query, now_s)
        opened = open_payload(request.body, headers, verified, self._config.document_bytes_max)
        payload = trace.payload = FormPayload(opened, boundary)
        fields = await payload.begin()
        signer = self._verify_form(fields, now_s)
        key = post_policy.require_key(fields)
        trace.target = target = Target("object", target.bucket, check_key(key))
        self._store.bucket(target.bucket)
        if signer is not None:
            if verified is not None:
                raise S3Error("InvalidArgument", ONE_MECHANISM)
            identity = signer
            policy = post_policy.parse_policy(fields[post_policy.POLICY])
            post_policy.judge(policy, fields, target.bucket, now_s)
            payload.bounds = (policy.size_min, policy.size_max)
        as_put = Request(
            request.method,
            request.path,
            request.query,
            headers_of(fields, headers),
            request.body,
            request.peer,
            request.tls,
            request.started_s,
        )
        call = self._call(as_put, trace, operation, target.bucket, target.key, query, identity, payload, now_ms)
        if fields.get("tagging"):
            call.tags = read_tagging(fields["tagging"].encode())
        judging = self._authorise(call, operation, trace)
        if judging is not None:
            await judging
        check_headers(operation.name, as_put.headers)
        return await _arrived(self._handlers[operation.name](call))

    def _verify_form(self, fields: Mapping[str, str], now_s: int) -> Identity | None:
        """Who signed a form's policy; None where nobody did."""
        skew_s = self._config.clock_skew_s
        token = fields.get(TOKEN_PARAMETER.lower())
        if token:
            session = self._access.open_session(token, now_s)
            secrets = {session.access_key: session.secret_key}
            return session if post_policy.verify(fields, now_s, skew_s, secrets.get) else None
        access_key = post_policy.verify(fields, now_s, skew_s, self._secret)
        return self._known(access_key) if access_key else None

    def _verify_v2(self, request: Request, query: Mapping[str, str], now_s: int) -> Identity:
        headers = request.headers
        session = self._session(headers, query, now_s)
        secret_of = self._secret if session is None else {session.access_key: session.secret_key}.get
        bucket = self._targets.host_bucket(headers.get(b"host", b""))
        if sigv2.ACCESS_KEY in query:
            key = sigv2.verify(request.method, request.path, bucket, query, headers, now_s, secret_of)
        else:
            skew_s = self._config.clock_skew_s
            key = sigv2.verify_header(request.method, request.path, bucket, query, headers, now_s, skew_s, secret_of)
        return session or self._known(key)

    # what they may

    def _authorise(self, call: Call, operation: Operation, trace: Trace) -> Coroutine[Any, Any, None] | None:
        """Raises AccessDenied, or NoSuchBucket. A coroutine where the object must be seen first: it is to be awaited."""
        access, who = self._access, call.identity
        trace.identity = who
        if not call.bucket:
            if not access.judge_unbound(call, operation.action, "arn:aws:s3:::*"):
                raise S3Error("AccessDenied")
            return None
        if operation.name == "CreateBucket":
            if access.by_location(who):
                call.asked = operation.action  # where is in the document: the handler asks
            elif not access.judge_unbound(call, operation.action, f"arn:aws:s3:::{call.bucket}"):
                raise S3Error("AccessDenied")
            return None
        bucket = call.bucket_info = trace.bucket = self._store.bucket(call.bucket)
        if _EXPECTED_OWNER in call.request.headers:
            access.check_owner(_EXPECTED_OWNER.decode(), call.header(_EXPECTED_OWNER), bucket)
        if "requestPayment" in bucket.documents:
            trace.charged = _pays(call, bucket)
        action = operation.action
        if operation.version_action and "versionId" in call.query:
            action = operation.version_action
        if operation.by_key:
            # Before the document is read: who may surely do nothing has nothing to say either.
            if not who.access_key and access.shuts_out_strangers(action, bucket):
                raise S3Error("AccessDenied")
            return None
        if access.is_plain(who, action, bucket):
            return None
        trace.call = call
        if operation.name == "PutObjectTagging" and access.by_request_tags(who, bucket):
            call.asked = action  # the tags are in the document: the handler asks
            return None
        if call.key and (access.by_list(action, bucket) or access.by_tags(who, action, bucket)):
            # A reader whom policies allow needs no list; an object of another owner is judged when it is read.
            seen_later = action in READS and not access.by_tags(who, action, bucket)
            if not (seen_later and access.judge(call, action, bucket, call.key)):
                return self._judge_object(call, action, bucket)
            return None
        if not access.judge(call, action, bucket, call.key, own=self._is_own(call)):
            if access.by_owner(action, bucket):
                return self._judge_object(call, action, bucket)
            raise S3Error("AccessDenied")
        if operation.action == "s3:PutObject":
            self._check_further(call, bucket)
        return None

    def _is_own(self, call: Call) -> bool:
        """Whether the call is about an upload that the caller began."""
        upload_id = call.query.get("uploadId")
        if not upload_id or not call.identity.access_key:
            return False
        try:
            owner = self._store.upload(call.bucket, call.key, upload_id).options.owner
        except NoSuchUpload:
            return False
        return owner == call.identity.owner_id

    async def _judge_object(self, call: Call, action: str, bucket: BucketInfo) -> None:
        """Judges by the object as it is now. Of one that is not there, only who may list the bucket is told so.

        Raises what finding it does: no handler runs that was not judged, also if the object comes a moment later.
        """
        version = call.query.get("versionId")
        options = ReadOptions(head=True, version=None if version is None else parse_version(version))
        info = None
        try:
            opened = self._store.open(call.bucket, call.key, options)
            info = (opened if isinstance(opened, Reading) else await opened).info
        except (NoSuchKey, NoSuchVersion, IsMarker):
            if action == "s3:DeleteObject":  # of what is nobody's: it may make a delete marker
                may = self._access.judge(call, action, bucket, call.key, own=True)
            else:
                may = call.may_list(call.bucket, call.key)
            if not may:
                raise S3Error("AccessDenied") from None
            if action == "s3:DeleteObject":
                return
            raise
        if not self._access.judge(call, action, bucket, call.key, info):
            raise S3Error("AccessDenied")
        call.asked = action

    def _check_further(self, call: Call, bucket: BucketInfo) -> None:
        """The rights that a write's headers need beyond the write itself. Raises AccessDenied."""
        headers = call.request.headers
        wanted = {action for header, action in _FURTHER if header in headers}
        if call.tags is not None:  # those of a form
            wanted.add("s3:PutObjectTagging")
        if acl.asked(headers):
            wanted.add("s3:PutObjectAcl")
        for action in sorted(wanted):
            if not self._access.judge(call, action, bucket, call.key, own=True):
                raise S3Error("AccessDenied")

    def _answer_from_table(self, operation: Operation, bucket: str) -> Response:
        """Operations without a handler: not served, or truly answered by their row once the bucket is known to exist."""
        if operation.unset or operation.document:
            if operation.document:
                writer = xml.XmlWriter(operation.document)
                for name, value in operation.document_fields.items():
                    writer.leaf(name, value)
                return Response(200, xml.CONTENT_TYPE, writer.finish())
            raise S3Error(operation.unset, operation.unset_message, **_about(bucket, operation.unset))
        raise S3Error("NotImplemented", f"{operation.name} is not implemented.")

    def _preflight(self, target: Target, headers: Mapping[bytes, bytes]) -> Response:
        """Whether a browser may send the request it asks about. The answer's lines come with `_finish`."""
        if b"origin" not in headers:
            raise S3Error("BadRequest", "Insufficient information. Origin request header needed.")
        asked = headers.get(b"access-control-request-method", b"").decode("latin-1")
        names = headers.get(b"access-control-request-headers", b"").decode("latin-1")
        if asked:
            cors.check_request(asked, names)
        try:
            text = self._store.bucket(target.bucket).documents.get("cors", "")
        except NoSuchBucket:
            raise _forbidden("Bucket not found", asked) from None
        if not text:
            raise _forbidden("CORS is not enabled for this bucket.", asked)
        cors.check_request(asked, names)
        if _shared(text, "OPTIONS", headers) is None:
            raise _forbidden(
                "This CORS request is not allowed. This is usually because the evalution of Origin, request method / "
                "Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the resource's "
                "CORS spec.",
                asked,
                target.scope,
            )
        return Response(200)

    def _share(self, request: Request, trace: Trace, response: Response) -> None:
        """Adds what lets a browser show the reply to the page that asked, error or not."""
        try:
            text = self._store.bucket(trace.target.bucket).documents.get("cors") if trace.target else None
        except StoreError:
            return
        if text:
            found = _shared(text, request.method, request.headers)
            # A reply without the lines must not stand for one with them in a cache either.
            response.headers += (cors.VARY if found is None else found).encode("latin-1")

    def _finish(self, request: Request, trace: Trace, response: Response) -> Response:
        if b"origin" in request.headers:
            self._share(request, trace, response)
        if trace.charged and response.status < 400:
            response.headers += b"x-amz-request-charged: requester\r\n"
        told = (response.headers, b"x-amz-request-id: ", trace.request_id.encode(), self._common)
        response.headers = b"".join(told)  # three quarters of what a format costs
        return response

    def _failed(self, request: Request, trace: Trace, error: Exception) -> Response:
        """The one border: every failure becomes a reply."""
        if trace.call is not None and isinstance(error, (NoSuchKey, NoSuchVersion)) and self._is_hidden(trace):
            error = S3Error("AccessDenied")
        if isinstance(error, S3Error):
            failure = error
        elif isinstance(error, StoreError):
            failure = from_store(error)
            _name_subject(failure, request, trace.target)
            if isinstance(error, NotModified):
                failure.headers += _validators(error.facts.get("info"))
        elif isinstance(error, BodyError):
            failure = S3Error(_BODY_ERRORS.get(error.kind, "IncompleteBody"))
        else:
            failure = S3Error("InternalError")
            once = f"failed {trace.operation} {type(error).__name__}"
            _log.error(
                "request %s (%s) failed", trace.request_id, trace.operation, exc_info=error, extra={"once": once}
            )
        if isinstance(error, StoreError) and failure.spec is ERRORS["InternalError"]:
            about = "" if trace.target is None else f"{trace.target.bucket}/{trace.target.key}"
            extra = {"about": about, "once": f"failed {about}"}
            _log.error("request %s (%s): %s", trace.request_id, trace.operation, error, extra=extra)
        target = trace.target
        if target is not None and target.bucket in RESERVED_BUCKETS and target.key and failure.spec.status in _UNKNOWN:
            failure = S3Error("NotImplemented", _NO_ADMIN)
        return self._render(request, trace, failure)

    def _is_hidden(self, trace: Trace) -> bool:
        """Whether the caller may not know that a key is missing: that takes the right to list the bucket."""
        call = trace.call
        if call is None or call.bucket_info is None:
            return False
        return not call.may_list(call.bucket, call.key)

    def _render(self, request: Request, trace: Trace, failure: S3Error) -> Response:
        spec = failure.spec
        trace.error = spec.code
        headers = failure.headers
        # Batch calls are for clients of ours, behind a proxy that may put its own name into Server.
        if request.method == "POST" and trace.operation.startswith("Batch"):
            headers += f"x-recall-refused: {spec.code}\r\n".encode()
        if failure.retry_s:
            headers += b"retry-after: %d\r\n" % failure.retry_s
        if spec.status in _LENGTHLESS:
            return Response(spec.status, headers)
        # KV clients write the body of a GET, error or not, into the caller's fixed buffer and cannot retry after that:
        # what they will retry goes out empty.
        if request.method == "HEAD" or (request.method == "GET" and spec.status >= 500 and spec.status != 501):
            return Response(spec.status, headers, close=spec.close)
        if trace.operation == TOKEN_SERVICE:
            body = sts.error_document(spec.code, failure.message, trace.request_id)
        else:
            body = self._document(trace, failure)
        return Response(spec.status, headers + xml.CONTENT_TYPE, body, close=spec.close)

    def _document(self, trace: Trace, failure: S3Error) -> bytes:
        escape = xml.escape_readable
        spec, target = failure.spec, trace.target
        message = _MESSAGES[spec.code] if failure.message is spec.message else escape(failure.message)
        resource = key = ""
        if target is not None:
            key = escape(target.key)
            resource = f"/{escape(target.bucket)}/{key}" if key else f"/{escape(target.bucket)}"
        extra = ""
        for name, value in failure.fields.items():
            # A miss names its key, which is the longest of a KV client's texts: it is looked through once.
            text = key if target is not None and value is target.key else escape(str(value))
            extra += f"<{name}>{text}</{name}>"
        return (
            f"{xml.HEAD}<Error><Code>{spec.code}</Code><Message>{message}</Message>{extra}"
            f"<Resource>{resource}</Resource><RequestId>{trace.request_id}</RequestId>"
            f"<HostId>{self._host_id}</HostId></Error>"
        ).encode()


async def _arrived(answer: Answer) -> Response:
    """A handler's response, waited for where it has to be; what it was refused is raised."""
    if isinstance(answer, Response):
        return answer
    if isinstance(answer, NoSuchKey):
        raise answer
    return await answer


def _pays(call: Call, bucket: BucketInfo) -> bool:
    """Whether the caller is one who pays for requests to `bucket`. Raises AccessDenied for who should and does not say so.

    Nobody is charged: the bucket's owner keeps out who does not agree to be, as on AWS.
    """
    who = call.identity
    if bucket.documents["requestPayment"] != REQUESTER_PAYS or (who.access_key and who.owner == bucket.owner):
        return False
    said = call.header(b"x-amz-request-payer") or call.query.get("x-amz-request-payer", "")
    if not who.access_key or said.lower() != "requester":
        raise S3Error("AccessDenied")
    return True


def _forbidden(why: str, method: str, scope: str = "bucket") -> S3Error:
    """The refusal of a preflight."""
    resource = "OBJECT" if scope == "object" else "BUCKET"
    return S3Error("AccessForbidden", f"CORSResponse: {why}", Method=method[:64] or "OPTIONS", ResourceType=resource)


def _shared(text: str, method: str, headers: Mapping[bytes, bytes]) -> str | None:
    """The lines the cross-origin rules `text` give a request, None for none.

    A stated Access-Control-Request-Method counts for the method, and the headers asked for count, in a preflight and in
    the request itself alike.
    """
    origin = headers[b"origin"].decode("latin-1")
    method = headers.get(b"access-control-request-method", b"").decode("latin-1") or method
    names = cors.requested(headers.get(b"access-control-request-headers", b"").decode("latin-1"))
    rule = cors.match(text, origin, method, names)
    return None if rule is None else cors.lines(rule, origin, names)


def _name_subject(failure: S3Error, request: Request, target: Target | None) -> None:
    """What the request was about, in the elements AWS names it in, where the store's facts do not say it."""
    fields = failure.fields
    match failure.spec.code:
        case "NoSuchKey" if target is not None:
            fields.setdefault("Key", target.key)
        case "NoSuchBucket" | "BucketNotEmpty" | "BucketAlreadyOwnedByYou" if target is not None:
            fields.setdefault("BucketName", target.bucket)
        case "MethodNotAllowed":
            fields.setdefault("Method", request.method[:32])
        case "NoSuchUpload" | "InvalidPart" | "InvalidPartOrder":
            upload_id = parse_query(request.query).get("uploadId")
            if upload_id is not None:
                fields.setdefault("UploadId", upload_id[:256])
        case "InvalidPartNumber":
            fields["PartNumberRequested"] = parse_query(request.query).get("partNumber", "")
        case "InvalidRange":
            asked = request.headers.get(b"range")
            if asked is not None:
                fields.setdefault("RangeRequested", asked.decode("latin-1")[:256])


def _about(bucket: str, code: str) -> dict[str, Any]:
    return {"BucketName": bucket} if ERRORS[code].status == 404 else {}


def _validators(info: object) -> bytes:
    """The headers a 304 must carry (RFC 9110 §15.4.5) of the object it is about."""
    if not isinstance(info, ObjectInfo):
        return b""
    modified = http_date(info.modified_ms)
    return f'etag: "{info.etag}"\r\nlast-modified: {modified}\r\n'.encode()
