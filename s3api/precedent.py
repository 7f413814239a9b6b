"""Requests whose head is like one that was judged before: the signature is checked anew, what else was judged stands.

Promise: a request that this answers for would have been judged the same way without it. Whatever is in doubt, a signature that does
not hold included, is None here, and the long way judges it.
Owns nothing: a precedent lies in the shape of the heads it is of, and goes with it. Does not know what the operations do.
Kind: pure. Invariants: what differs from the head that was judged is part of no judgement but the signature; who calls and the bucket
are the very objects that were judged, which a change of either replaces.
Spec: AWS S3 API Reference, "Authenticating Requests (AWS Signature Version 4)"; docs/decisions/0025-precedents.md.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Mapping
from typing import Final

from s3api.errors import S3Error
from s3api.identity import Identity
from s3api.message import Headers, Request, Shape
from s3api.operations import TABLE, Operation
from s3api.sigv4 import (
    Credential,
    SigningKey,
    SigV4,
    Verified,
    canonical_path,
    canonical_query,
    canonical_tail,
    parse_timestamp,
    payload_of,
    text_to_sign,
)
from s3api.target import decode_path
from tiering.contract import KEY_BYTES_MAX, BucketInfo

_AUTHORIZATION: Final = b"authorization"
_CONTENT: Final = b"x-amz-content-sha256"
_DATE: Final = b"x-amz-date"
_SILENT: Final = frozenset({_AUTHORIZATION, b"amz-sdk-invocation-id", b"amz-sdk-request"})
"""Of what means nothing but who signed, nobody looks at more than whether it is there and how it begins."""
_JUDGED: Final = frozenset({b"x-amz-security-token", b"x-amz-expected-bucket-owner"})
"""What is judged with each request, and no precedent can stand for."""
STANDING_QUERIES: Final = frozenset(
    {b"", *(f"recall={row.values['recall']}".encode() for row in TABLE if "recall" in row.values)}
)
"""Those that are the same from request to request; others name a part or a version."""
_SIGNATURE: Final = b"Signature="
_SIGNATURE_BYTES: Final = 64
_KEPT_MAX: Final = 64
"""Buckets of one operation."""
_SLASH: Final = 0x2F


class Repeated:
    """A signature that held, as a measure for those of other heads of its shape."""

    __slots__ = (
        "_begins",
        "_content_start",
        "_content_stop",
        "_date_start",
        "_date_stop",
        "_day",
        "_fixed",
        "_payload",
        "_prefix",
        "_scope",
        "_sent_s",
        "_signature_start",
        "_skew_s",
        "_start",
        "_stop",
        "_timestamp",
        "_varying",
        "headers",
        "key",
    )

    def __init__(self, credential: Credential, verified: Verified, request: Request, shape: Shape, skew_s: int) -> None:
        """Of a request that was verified. Raises LookupError where others of its shape cannot be checked so."""
        lines, headers = request.head[request.at :], request.headers
        holes = {hole.name: hole for hole in shape.holes}
        self.headers: Headers | None = None  # that will do for the request that was verified last
        if _SILENT.issuperset(holes.keys() - {_DATE}):
            self.headers = headers
        self.key = verified.key
        self._skew_s = skew_s
        self._scope = credential.scope
        self._day = credential.date
        hole = holes[_AUTHORIZATION]
        self._start, self._stop = hole.start, hole.stop
        self._signature_start = hole.stop - _SIGNATURE_BYTES
        self._prefix = lines[hole.start : self._signature_start]
        if not self._prefix.endswith(_SIGNATURE) or lines[self._signature_start : hole.stop] != verified.signature:
            raise LookupError("the signature does not come last")
        date = holes.get(_DATE)
        self._date_start, self._date_stop = (0, 0) if date is None else (date.start, date.stop)
        self._timestamp = self._begins = b""
        self._sent_s = 0
        if not self._renew(headers[_DATE]):
            raise LookupError("signed at no time")
        self._payload = verified.payload
        content = holes.get(_CONTENT)
        self._content_start, self._content_stop = (0, 0) if content is None else (content.start, content.stop)
        # The canonical request from its headers on, as the pieces between what varies in it.
        if len(credential.signed_set) != len(credential.signed):
            raise LookupError("a header is signed twice")
        varying = [name for name in credential.signed if name in holes]
        marks: Headers = {name: b"\0%d\0" % place for place, name in enumerate(varying)}
        last = headers[_CONTENT] if content is None else b"\0"
        tail = canonical_tail(headers | marks, credential.signed, last)
        self._fixed: list[bytes] = []
        self._varying: list[tuple[int, int]] = []
        for name in varying:
            before, _, tail = tail.partition(marks[name])
            self._fixed.append(before)
            self._varying.append((holes[name].start, holes[name].stop))
        if content is not None:
            self._fixed.append(tail[:-1])
            self._varying.append((content.start, content.stop))
            tail = b""
        self._fixed.append(tail)

    def verify(
        self, method: str, path: bytes, coded_query: bytes, head: bytes, at: int, now_s: int, access_key: str
    ) -> Verified | None:
        """What `SigV4.verify` says of the head of that shape whose lines begin at `at`; None where it has to be asked.

        `path`: as sent; `coded_query`: in canonical form. `access_key`: of the signature that held.
        """
        mark = at + self._signature_start
        if head[at + self._start : mark] != self._prefix:
            return None
        if self._date_stop:
            timestamp = head[at + self._date_start : at + self._date_stop]
            if timestamp != self._timestamp and not self._renew(timestamp):
                return None
        if abs(now_s - self._sent_s) > self._skew_s:
            return None
        pieces = [method.encode(), b"\n", canonical_path(path), b"\n", coded_query, b"\n"]
        place = 0
        for start, stop in self._varying:
            value = head[at + start : at + stop]
            if b"  " in value:
                return None  # signed as one space
            pieces.append(self._fixed[place])
            pieces.append(value)
            place += 1
        pieces.append(self._fixed[place])
        signature = head[mark : at + self._stop]
        if not hmac.compare_digest(self.key.sign_request(self._begins, b"".join(pieces)).encode(), signature):
            return None
        payload = self._payload
        if self._content_stop:
            try:
                payload = payload_of(head[at + self._content_start : at + self._content_stop])
            except S3Error:
                return None
        return Verified(access_key, payload, self.key, self._timestamp, self._scope, signature, False)

    def _renew(self, timestamp: bytes) -> bool:
        sent_s = parse_timestamp(timestamp)
        if sent_s is None or timestamp[:8] != self._day:
            return False
        self._timestamp, self._sent_s = timestamp, sent_s
        self._begins = text_to_sign(timestamp, self._scope)
        if self.headers is not None:
            self.headers = {**self.headers, _DATE: timestamp}
        return True


class Place:
    """A bucket, and how many characters of a path name it."""

    __slots__ = ("_characters", "bucket")

    def __init__(self, bucket: BucketInfo, characters: int) -> None:
        self.bucket = bucket
        self._characters = characters

    def key(self, path: bytes) -> str | None:
        """The key that a path names, "" for none; None where it has to be asked what it names."""
        if len(path) - self._characters > KEY_BYTES_MAX:
            return None
        try:
            return decode_path(path)[self._characters :]
        except S3Error:
            return None


class Asked:
    """An operation, with the query it was asked for by, and the buckets of which it was judged."""

    __slots__ = ("_places", "coded_query", "operation", "query")

    def __init__(self, operation: Operation, query: Mapping[str, str], coded_query: bytes) -> None:
        self.operation = operation
        self.query = query
        self.coded_query = coded_query
        self._places: dict[bytes, Place] = {}  # by how a path begins

    def learn(self, path: bytes, bucket: BucketInfo, key: str) -> None:
        """Takes in the path of a request that was judged."""
        begins = _beginning(path, bucket.name, key)
        if begins:
            if len(self._places) >= _KEPT_MAX:
                self._places.clear()
            self._places[begins] = Place(bucket, len(begins))

    def place(self, path: bytes) -> Place | None:
        """Of which bucket a path is, if the operation was judged of it."""
        end = path.find(_SLASH, 1) + 1
        return self._places.get(path[:end] if end else path) or self._places.get(b"/")


class Precedent:
    """What was judged of the requests of one shape: who calls, what they ask for, and of which buckets."""

    __slots__ = ("_asked", "_queries", "access_key", "identity", "owner", "signature")

    def __init__(
        self, owner: object, identity: Identity, verified: Verified, verifier: SigV4, request: Request, shape: Shape
    ) -> None:
        self.owner = owner  # who judged
        self.identity = identity
        self.access_key = identity.access_key
        self.signature: Repeated | None = None  # the shape allows of no precedent
        if _JUDGED.isdisjoint(request.headers):
            with contextlib.suppress(LookupError):
                credential = verifier.credential(request.headers)
                self.signature = Repeated(credential, verified, request, shape, verifier.skew_s)
        self._asked: dict[str, Asked] = {}  # without a query, by method
        self._queries: dict[bytes, Asked] = {}

    def is_of(self, owner: object, identity: Identity, key: SigningKey) -> bool:
        """Whether it was `owner` who judged, and this caller with this key who was judged."""
        if self.owner is not owner or self.identity is not identity:
            return False
        return self.signature is None or self.signature.key is key

    def learn(
        self, request: Request, bucket: BucketInfo, key: str, operation: Operation, query: Mapping[str, str]
    ) -> None:
        """Takes in one request that was judged, of which nothing would be judged for another key of that bucket.

        Its query is one of `STANDING_QUERIES`.
        """
        documents = bucket.documents
        if self.signature is None or "requestPayment" in documents or "logging" in documents:
            return  # a log tells what stood in each head
        asked = self.asked(request)
        if asked is None or asked.operation is not operation:
            asked = Asked(operation, query, canonical_query(request.query))
            if not request.query:
                self._asked[request.method] = asked
            else:
                self._queries[request.query] = asked
        asked.learn(request.path, bucket, key)

    def asked(self, request: Request) -> Asked | None:
        """What a request of the shape asks for, if that was judged."""
        if not request.query:
            return self._asked.get(request.method)
        asked = self._queries.get(request.query)
        return asked if asked is not None and asked.operation.method == request.method else None


def _beginning(path: bytes, bucket: str, key: str) -> bytes:
    """The path up to its key, where that names the bucket, or nothing; b"" where it is spelled in another way."""
    name = bucket.encode()
    for begins in (b"/%b/" % name, b"/%b" % name, b"/"):
        if path.startswith(begins) and decode_path(path) == begins.decode() + key:
            return begins
    return b""
