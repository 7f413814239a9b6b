"""Requests whose head is like one that was judged before: the signature is checked anew, what else was judged stands.

Promise: a request that this answers for would have been judged the same way without it. Whatever is in doubt, a signature that does
not hold included, is None here, and the long way judges it.
Owns nothing: a precedent lies in the shape of the heads it is of, and goes with it. Does not know what the operations do.
Kind: pure. Invariants: of a head only its target and what `_VARYING` names may differ from the one that was judged; who called and
the bucket are compared by being the same objects, which a change of either ends.
Spec: AWS S3 API Reference, "Authenticating Requests (AWS Signature Version 4)".
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from typing import Final

from s3api.call import Handler
from s3api.errors import S3Error
from s3api.identity import Identity
from s3api.message import Headers, Request, Shape
from s3api.operations import Operation
from s3api.sigv4 import (
    Credential,
    SigningKey,
    SigV4,
    Verified,
    canonical_path,
    canonical_tail,
    parse_timestamp,
    text_to_sign,
)
from s3api.target import decode_path
from tiering.contract import KEY_BYTES_MAX, BucketInfo

_AUTHORIZATION: Final = b"authorization"
_DATE: Final = b"x-amz-date"
_VARYING: Final = frozenset({_AUTHORIZATION, _DATE, b"amz-sdk-invocation-id", b"amz-sdk-request"})
"""What may differ from head to head and means nothing but who signed and when; nobody looks at it once that is known."""
_JUDGED: Final = frozenset({b"x-amz-security-token", b"x-amz-expected-bucket-owner"})
"""What is judged with each request, and no precedent can stand for."""
_SIGNATURE: Final = b"Signature="
_SIGNATURE_BYTES: Final = 64
_BUCKETS_MAX: Final = 64
_SLASH: Final = 0x2F

_sha256 = hashlib.sha256


class Repeated:
    """A signature that held, and what of the next head must be the same for the next one to be checked like it."""

    __slots__ = (
        "_date_start",
        "_date_stop",
        "_day",
        "_fixed",
        "_prefix",
        "_primed",
        "_scope",
        "_sent_s",
        "_signature_start",
        "_skew_s",
        "_start",
        "_stop",
        "_timestamp",
        "_varying",
        "key",
    )

    def __init__(self, credential: Credential, key: SigningKey, request: Request, shape: Shape, skew_s: int) -> None:
        """Of a request that was verified. Raises LookupError where others of its shape cannot be checked so."""
        lines, headers = request.head[request.at :], request.headers
        self.key = key
        self._skew_s = skew_s
        self._scope = credential.scope
        self._day = credential.date
        holes = {hole.name: hole for hole in shape.holes}
        hole = holes[_AUTHORIZATION]
        self._start, self._stop = hole.start, hole.stop
        self._signature_start = hole.stop - _SIGNATURE_BYTES
        self._prefix = lines[hole.start : self._signature_start]
        if not self._prefix.endswith(_SIGNATURE) or b"," in lines[self._signature_start : hole.stop]:
            raise LookupError("the signature does not come last")
        date = holes.get(_DATE)
        self._date_start, self._date_stop = (0, 0) if date is None else (date.start, date.stop)
        self._timestamp = b""
        self._sent_s = 0
        self._primed = key.after(b"")
        if date is None and not self._renew(headers[_DATE]):
            raise LookupError("signed at no time")
        # The canonical request from its headers on, as the pieces between the holes in it.
        self._varying: list[tuple[int, int]] = []
        marks: Headers = {}
        if len(credential.signed_set) != len(credential.signed):
            raise LookupError("a header is signed twice")
        for name in credential.signed:
            if name in holes:
                marks[name] = b"\0%d\0" % len(self._varying)
                self._varying.append((holes[name].start, holes[name].stop))
        tail = canonical_tail(headers | marks, credential.signed, headers[b"x-amz-content-sha256"])
        self._fixed: list[bytes] = []
        for mark in marks.values():
            before, _, tail = tail.partition(mark)
            self._fixed.append(before)
        self._fixed.append(tail)

    def holds(self, method: str, path: bytes, head: bytes, at: int, now_s: int) -> bool:
        """Whether the head of that shape whose lines begin at `at` is signed, by the same key. `path`: in canonical form."""
        mark = at + self._signature_start
        if head[at + self._start : mark] != self._prefix:
            return False
        if self._date_stop:
            timestamp = head[at + self._date_start : at + self._date_stop]
            if timestamp != self._timestamp and not self._renew(timestamp):
                return False
        if abs(now_s - self._sent_s) > self._skew_s:
            return False
        pieces = [method.encode(), b"\n", path, b"\n\n"]
        place = 0
        for start, stop in self._varying:
            value = head[at + start : at + stop]
            if b"  " in value:
                return False  # signed as one space
            pieces.append(self._fixed[place])
            pieces.append(value)
            place += 1
        pieces.append(self._fixed[place])
        digest = _sha256(b"".join(pieces)).hexdigest()
        found = self.key.sign_after(self._primed, digest.encode())
        return hmac.compare_digest(found.encode(), head[mark : at + self._stop])

    def _renew(self, timestamp: bytes) -> bool:
        sent_s = parse_timestamp(timestamp)
        if sent_s is None or timestamp[:8] != self._day:
            return False
        self._timestamp, self._sent_s = timestamp, sent_s
        self._primed = self.key.after(text_to_sign(timestamp, self._scope))
        return True


class Precedent:
    """What was judged of the requests of one shape: who calls, by which method, and which buckets."""

    __slots__ = ("_places", "access_key", "headers", "identity", "operations", "owner", "signature")

    def __init__(
        self, owner: object, identity: Identity, verified: Verified, verifier: SigV4, request: Request, shape: Shape
    ) -> None:
        self.owner = owner  # who judged
        self.identity = identity
        self.access_key = identity.access_key
        self.headers = request.headers  # those of `_VARYING` are another request's
        self.operations: dict[str, tuple[Operation, Handler]] = {}  # by method
        self._places: dict[
            bytes, tuple[BucketInfo, int]
        ] = {}  # by how a path begins: the bucket, characters before the key
        self.signature: Repeated | None = None  # the shape allows of no precedent
        if all(hole.name in _VARYING for hole in shape.holes) and _JUDGED.isdisjoint(self.headers):
            with contextlib.suppress(LookupError):
                credential = verifier.credential(self.headers)
                self.signature = Repeated(credential, verified.key, request, shape, verifier.skew_s)

    def is_of(self, owner: object, identity: Identity, key: SigningKey) -> bool:
        """Whether it was `owner` who judged, and this caller with this key who was judged."""
        return (
            self.owner is owner and self.identity is identity and (self.signature is None or self.signature.key is key)
        )

    def learn(self, request: Request, bucket: BucketInfo, key: str, operation: Operation, handler: Handler) -> None:
        """Takes in one request that was judged: of an object that its caller may read whatever is known of it."""
        documents = bucket.documents
        if self.signature is None or "requestPayment" in documents or "logging" in documents:
            return  # a log tells what stood in each head
        begins = _beginning(request.path, bucket.name, key)
        if begins:
            self.operations[request.method] = operation, handler
            if len(self._places) >= _BUCKETS_MAX:
                self._places.clear()
            self._places[begins] = bucket, len(begins)

    def place(self, path: bytes) -> tuple[BucketInfo, str] | None:
        """Bucket and key that a path in canonical form names, where the bucket is known."""
        end = path.find(_SLASH, 1) + 1
        found = self._places.get(path[:end]) or self._places.get(b"/")
        if found is None or canonical_path(path) is not path:
            return None
        bucket, characters = found
        try:
            key = decode_path(path)[characters:]
        except S3Error:
            return None
        return (bucket, key) if key and len(path) - characters <= KEY_BYTES_MAX else None


def _beginning(path: bytes, bucket: str, key: str) -> bytes:
    """The path up to its key, where that names the bucket, or nothing; b"" where it is spelled in another way."""
    for begins in (b"/%b/" % bucket.encode(), b"/"):
        if path.startswith(begins) and decode_path(path) == begins.decode() + key:
            return begins
    return b""
