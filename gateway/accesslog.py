"""Server access logs of buckets: this worker's lines, collected and put into the buckets that want them.

Promise: best effort, as AWS's — a line is delivered within about `flush_s`, or lost with its process; a log never keeps
a request waiting, nor does it take more memory than LINES_BYTES_MAX.

Owns the lines not yet delivered. Does not know sockets; it is told of requests that were answered.
Kind: owner; one thread (the loop's). Spec: AWS S3 User Guide, "Logging requests with server access logging".
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from typing import Final, NamedTuple

import msgspec

from s3api import accesslog
from s3api.accesslog import Entry
from s3api.call import KeyOutcome
from s3api.errors import S3Error
from s3api.handlers.body import arrived
from s3api.handlers.sealed import default_seal, put_content
from s3api.message import Request, Response, StreamBody
from s3api.params import parse_query
from s3api.pipeline import Trace
from s3api.sealing import NO_KEYS, KeyRing
from s3api.settings import bucket_logging
from tiering.contract import BucketInfo, FileSpans, NoSuchBucket, PutOptions, PutResult, Store, StoreError

LINES_BYTES_MAX: Final = 8 << 20
"""Lines that wait for their delivery; beyond it they are left out."""
QUERY_SIGNED: Final = (b"X-Amz-Signature=", b"Signature=")

_log = logging.getLogger("recall.accesslog")
_HIDDEN: Final = re.compile(
    r"((?:-customer-key|\bsignature|x-amz-signature|x-amz-security-token)=)[^&]*", re.IGNORECASE
)
"""What a query may hold that is nobody else's: a customer's key (URLs of Signature Version 2 carry headers there), and what makes
a presigned URL good for whoever reads it. # differs from AWS: it logs signatures."""


class _Place(NamedTuple):
    """Lines that go into one object: of one bucket, under one setting, of one day."""

    bucket: str
    document: str
    day: int


class AccessLog:
    """`root`: canonical id of the account that owns buckets which name nobody. `keys`: for targets that encrypt."""

    def __init__(self, store: Store, region: str, root: str, keys: KeyRing = NO_KEYS) -> None:
        self._store = store
        self._region = region
        self._root = root
        self._keys = keys
        self._lines: dict[_Place, list[str]] = {}
        self._bytes = 0

    def record(self, request: Request, response: Response, trace: Trace, sent_bytes: int, seconds: float) -> None:
        """Notes an answered request, if its bucket is logged. Costs a look-up where it is not."""
        bucket = trace.bucket
        if bucket is None:  # of a request that was refused before it was found
            if trace.target is None or not trace.target.bucket:
                return
            try:
                bucket = self._store.bucket(trace.target.bucket)
            except NoSuchBucket:
                return
        document = bucket.documents.get("logging")
        if document is None or bucket_logging(document) is None:
            return
        now_s = time.time()
        at_s = now_s - seconds
        entry = self._entry(bucket, request, response, trace, sent_bytes, at_s, seconds)
        line = "".join(map(accesslog.line, [entry, *(_of_key(entry, outcome) for outcome in trace.outcomes)]))
        if self._bytes + len(line) > LINES_BYTES_MAX:
            _log.warning("access logs are left out: too much waits", extra={"once": "accesslog-full"})
            return
        self._bytes += len(line)
        self._lines.setdefault(_Place(bucket.name, document, int(at_s // 86_400)), []).append(line)

    def _entry(
        self,
        bucket: BucketInfo,
        request: Request,
        response: Response,
        trace: Trace,
        sent_bytes: int,
        at_s: float,
        seconds: float,
    ) -> Entry:
        headers = request.headers
        signature, authentication = _signed(request)
        who = trace.identity
        query = request.query.decode("latin-1")
        path = request.path.decode("latin-1")
        return Entry(
            owner=bucket.owner or self._root,
            bucket=bucket.name,
            at_s=at_s,
            peer=request.peer,
            tls=request.tls,
            requester=who.owner_id if who.root or not who.arn else who.arn,
            request_id=trace.request_id,
            operation=trace.operation,
            method=request.method,
            key="" if trace.target is None else trace.target.key,
            target=f"{path}?{_HIDDEN.sub(_hide, query)}" if query else path,
            status=response.status,
            error=trace.error,
            sent_bytes=sent_bytes,
            object_bytes=_object_bytes(request, response, trace),
            total_ms=round(seconds * 1000),
            referer=_HIDDEN.sub(_hide, headers.get(b"referer", b"").decode("latin-1")),
            agent=headers.get(b"user-agent", b"").decode("latin-1"),
            version=parse_query(request.query).get("versionId", "") if b"versionId" in request.query else "",
            host_id=trace.host_id,
            signature=signature,
            authentication=authentication,
            host=headers.get(b"host", b"").decode("latin-1"),
        )

    async def flush(self) -> None:
        """Delivers what waits. A log that cannot be put is lost, and said so."""
        lines, self._lines = self._lines, {}
        self._bytes = 0
        for place, found in lines.items():
            try:
                await self._put(place, "".join(found).encode())
            except (StoreError, S3Error) as error:
                _log.warning(
                    "the access log of %s is not delivered: %s", place.bucket, error, extra={"once": "accesslog"}
                )

    async def _put(self, place: _Place, data: bytes) -> None:
        wanted = bucket_logging(place.document)
        assert wanted is not None
        target, source = self._store.bucket(wanted.bucket), self._store.bucket(place.bucket)
        if target.owner != source.owner:  # one of the two was made again by somebody else, who is not to read this
            raise S3Error("InvalidTargetBucketForLogging", TargetBucket=wanted.bucket)
        owner = source.owner or self._root
        events_s = place.day * 86_400
        unique = secrets.token_hex(8).upper()
        key = accesslog.object_key(wanted, place.bucket, owner, self._region, events_s, time.time(), unique)
        etag = None if target.opaque_etag else hashlib.md5(data, usedforsecurity=False).hexdigest()
        options = PutOptions(content_type="text/plain", acl=wanted.acl)
        seal = default_seal(self._keys, target)
        writer = await arrived(put_content(self._store, (wanted.bucket, key), len(data), options, seal))
        try:
            writing = writer.write(data)
            if writing is not None:
                await writing
            await writer.commit(PutResult(etag))
        except BaseException:
            writer.abort()
            raise


def _of_key(entry: Entry, outcome: KeyOutcome) -> Entry:
    """The line about one key of the request that `entry` is about."""
    return msgspec.structs.replace(
        entry,
        operation=accesslog.BATCH_DELETE,
        key=outcome.key,
        version=outcome.version,
        target="",
        status=outcome.status,
        error=outcome.code,
        sent_bytes=0,
    )


def _hide(found: re.Match[str]) -> str:
    return f"{found.group(1)}-"


def _signed(request: Request) -> tuple[str, str]:
    """Signature version and where it was."""
    authorization = request.headers.get(b"authorization", b"")
    if authorization:
        return ("SigV4" if authorization.startswith(b"AWS4-") else "SigV2"), "AuthHeader"
    if QUERY_SIGNED[0] in request.query:
        return "SigV4", "QueryString"
    if QUERY_SIGNED[1] in request.query:
        return "SigV2", "QueryString"
    return "", ""


def _object_bytes(request: Request, response: Response, trace: Trace) -> int | None:
    """The size of the object, as far as the reply or the body told it."""
    if trace.operation in ("PutObject", "UploadPart", "PostObject"):
        return None if trace.payload is None else int(trace.payload.read_bytes)
    if trace.operation not in ("GetObject", "HeadObject"):
        return None
    if response.status == 206:
        _, _, rest = response.headers.partition(b"content-range: bytes ")
        size = rest.partition(b"\r\n")[0].rpartition(b"/")[2]
        return int(size) if size.isdigit() else None
    if response.status != 200:
        return None
    body = response.body
    if response.length is not None:
        return response.length
    return body.length if isinstance(body, FileSpans | StreamBody) else len(body)
