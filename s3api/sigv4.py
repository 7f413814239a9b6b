"""AWS Signature Version 4: who signed a request, by header or by query, and the chain of chunk signatures after it.

Owns a bounded memory of signing keys and parsed credentials. Does not know what an identity may do, nor bodies: it
answers who called, and how the content is to be checked. Also the signing side, for tests, benchmarks and the CLI.
Kind: pure, but for that memory (one owner, one thread). Invariants: a request is either anonymous (no trace of a
signature), verified, or refused; signatures are compared in constant time; a secret never reaches a message; only
verified requests leave anything in the memory. URLs presigned with version 2 are `s3api.sigv2`'s.
Spec: AWS S3 API Reference, "Authenticating Requests (AWS Signature Version 4)". One canonical form fits every client
seen: the path percent-decoded once, then encoded, nothing folded (docs/S3.md).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from operator import itemgetter
from typing import Any, Final

from s3api.errors import ONE_MECHANISM, S3Error
from s3api.message import Headers
from s3api.params import PERCENT, epoch_s, http_time, percent_decode, query_headers, query_pairs

try:
    from s3api import _sha256 as native  # type: ignore[attr-defined]
except ImportError:
    native = None

ALGORITHM: Final = b"AWS4-HMAC-SHA256"
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
STREAMING_SIGNED: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_SIGNED_TRAILER: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
STREAMING_UNSIGNED_TRAILER: Final = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
PAYLOAD_WORDS: Final = {
    word.encode(): word for word in (UNSIGNED, STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER)
}

_MEMORY_MAX: Final = 1024
"""Entries of each memory before it forgets all of them."""

_UNRESERVED: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_ESCAPES: Final = "[0189A-F][0-9A-F]|2[0-9A-C]|3[A-F]|[46]0|5[B-E]|7[BCDF]"
"""Of all bytes but unreserved ones and `/`, as few branches: what the search tries costs more than what it finds."""
_CANONICAL_PATH = re.compile(rf"[A-Za-z0-9\-._~/]*+(?:%(?:{_ESCAPES})[A-Za-z0-9\-._~/]*+)*+".encode())
_PLAIN_IN_PATH: Final = _UNRESERVED + b"/"
_CANONICAL_QUERY = re.compile(rf"[A-Za-z0-9\-._~=&]*+(?:%(?:2F|{_ESCAPES})[A-Za-z0-9\-._~=&]*+)*+".encode())
_RESERVED = re.compile(rb"[^A-Za-z0-9\-._~]")
_RESERVED_IN_PATH = re.compile(rb"[^A-Za-z0-9\-._~/]")
_SPACES = re.compile(rb" {2,}")
_TIMESTAMP = re.compile(rb"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z")
_HEX_SHA256 = re.compile(rb"[0-9a-f]{64}")
_DATE = re.compile(rb"[0-9]{8}")

_QUERY_NAMES: Final = (
    b"X-Amz-Algorithm",
    b"X-Amz-Credential",
    b"X-Amz-Date",
    b"X-Amz-Expires",
    b"X-Amz-SignedHeaders",
    b"X-Amz-Signature",
)
_CONTENT_SHA256: Final = b"x-amz-content-sha256"
_IN_SIGNATURE: Final = frozenset({_CONTENT_SHA256, b"x-amz-date"})
"""Headers whose values are in the signed text of header authentication even when not named as signed."""

SIGNATURE: Final = "X-Amz-Signature"
"""The query name a presigned URL is known by."""
_IN_QUERY: Final = re.compile(
    r"x-amz-(?!(?:algorithm|content-sha256|credential|date|decoded-content-length|expires|sdk-checksum-algorithm|"
    r"security-token|signature|signedheaders|trailer)\Z)(?!checksum-(?!(?:algorithm|mode|type)\Z))"
)

_sha256 = hashlib.sha256


class SigningKey:
    """The key of one secret, date, region and service, held as the two keyed states of HMAC: a signature then costs
    two short hashes (0.9 µs; `hmac.digest` 2.8 µs), or where the C of it was compiled, one call."""

    __slots__ = ("_inner", "_native", "_outer", "secret")

    def __init__(self, secret: str, date: bytes, region: bytes, service: bytes) -> None:
        self.secret = secret
        key = b"AWS4" + secret.encode("utf-8", "surrogateescape")
        for word in (date, region, service, b"aws4_request"):
            key = hmac.digest(key, word, "sha256")
        block = key.ljust(64, b"\0")
        self._native = None if native is None else native.Key(block)
        self._inner = _sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = _sha256(bytes(byte ^ 0x5C for byte in block))

    def sign(self, text: bytes) -> str:
        """Lower-case hex HMAC-SHA256 of `text`."""
        if self._native is not None:
            signature: str = self._native.sign(text)
            return signature
        inner = self._inner.copy()
        inner.update(text)
        outer = self._outer.copy()
        outer.update(inner.digest())
        found: str = outer.hexdigest()
        return found

    def sign_request(self, begins: bytes, canonical: bytes) -> str:
        """The signature of a canonical request. `begins`: the text to sign up to that one's hash."""
        if self._native is not None:
            signature: str = self._native.sign_hash(begins, canonical)
            return signature
        return self.sign(begins + _sha256(canonical).hexdigest().encode())


class ChunkSigner:
    """The chain of signatures of a signed aws-chunked body; each signs over the one before."""

    __slots__ = ("_key", "_scope", "_timestamp", "previous")

    def __init__(self, key: SigningKey, timestamp: bytes, scope: bytes, seed: str) -> None:
        self._key = key
        self._timestamp = timestamp
        self._scope = scope
        self.previous = seed

    def chunk(self, sha256_hex: str) -> str:
        """The signature of the next chunk, of whose bytes `sha256_hex` is the hash; it becomes the previous one."""
        return self._next(b"AWS4-HMAC-SHA256-PAYLOAD", f"{EMPTY_SHA256}\n{sha256_hex}")

    def trailer(self, sha256_hex: str) -> str:
        """The signature of the trailer, of whose canonical lines `sha256_hex` is the hash."""
        return self._next(b"AWS4-HMAC-SHA256-TRAILER", sha256_hex)

    def _next(self, kind: bytes, rest: str) -> str:
        text = b"%b\n%b\n%b\n%b" % (kind, self._timestamp, self._scope, f"{self.previous}\n{rest}".encode())
        self.previous = self._key.sign(text)
        return self.previous


class Verified:
    """A signature that holds. `payload`: hex SHA-256, UNSIGNED-PAYLOAD or a STREAMING- word, as signed."""

    __slots__ = ("access_key", "key", "payload", "presigned", "scope", "signature", "timestamp")

    def __init__(
        self,
        access_key: str,
        payload: str,
        key: SigningKey,
        timestamp: bytes,
        scope: bytes,
        signature: bytes,
        presigned: bool,
    ) -> None:
        self.access_key = access_key
        self.payload = payload
        self.key = key
        self.timestamp = timestamp
        self.scope = scope
        self.signature = signature
        self.presigned = presigned

    def chunk_signer(self) -> ChunkSigner:
        """The chain that starts with this request's signature."""
        return ChunkSigner(self.key, self.timestamp, self.scope, self.signature.decode())


_MALFORMED: Final = "AuthorizationHeaderMalformed"
_BAD_QUERY: Final = "AuthorizationQueryParametersError"
_ABOUT_CREDENTIAL: Final = {
    _MALFORMED: "The authorization header is malformed",
    _BAD_QUERY: "Error parsing the X-Amz-Credential parameter",
}


def _fault(credential: bytes, parts: list[bytes], services: frozenset[bytes]) -> str:
    """What is wrong with a credential cut at its last four slashes, in AWS's words and order; "" for nothing."""
    if len(parts) != 5 or not parts[0] or (parts[4] != b"aws4_request" and credential.count(b"/") != 4):
        return 'the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".'
    _, date, _, service, terminal = (part[:64].decode("utf-8", "replace") for part in parts)
    if terminal != "aws4_request":
        return f'incorrect terminal "{terminal}". This endpoint uses "aws4_request".'
    if parts[3] not in services:
        belongs = min(name.decode() for name in services)
        return f'incorrect service "{service}". This endpoint belongs to "{belongs}".'
    if not _DATE.fullmatch(parts[1]):
        return f'incorrect date format "{date}". This date in the credential must be in the format "yyyyMMdd".'
    return ""


class Credential:
    """The part of an authorisation that repeats from request to request: credential and signed header names.

    And what the last good request made of them: the next one mostly differs in its path and signature alone.
    """

    __slots__ = (
        "access_key",
        "begins",
        "content",
        "date",
        "names",
        "pick",
        "region",
        "scope",
        "service",
        "signed",
        "signed_set",
        "tail",
        "text",
        "timestamp",
        "values",
    )

    def __init__(self, credential: bytes, signed_line: bytes, code: str, services: frozenset[bytes]) -> None:
        self.text = credential
        parts = credential.rsplit(b"/", 4)
        fault = _fault(credential, parts, services)
        if fault:
            raise S3Error(code, f"{_ABOUT_CREDENTIAL[code]}; {fault}")
        self.access_key = parts[0].decode("utf-8", "replace")
        self.date, self.region, self.service = parts[1:4]
        self.scope = credential[len(parts[0]) + 1 :]
        self.signed = tuple(signed_line.split(b";"))
        self.signed_set = frozenset(self.signed)
        self.pick: Callable[[Headers], Any] = itemgetter(*self.signed)
        # Of the last good request:
        self.names: tuple[bytes, ...] = ()  # all its headers': none of them lacked a signature
        self.values: Any = None  # its signed headers', as `pick` gives them
        self.content = b""
        self.tail = b""  # the canonical request from the headers on, made of these two
        self.timestamp = b""
        self.begins = b""  # the text to sign up to the hash, made of it
        if b"host" not in self.signed_set:
            raise S3Error(code, "The Host header must be among the SignedHeaders.")


class SigV4:
    """Verifies requests. One per process and thread; `secret_of` answers the secret of an access key, None if unknown."""

    __slots__ = ("_credentials", "_expires_max_s", "_keys", "_secret_of", "_services", "_skew_s", "_times")

    def __init__(
        self,
        secret_of: Callable[[str], str | None],
        *,
        skew_s: int = 900,
        expires_max_s: int = 604_800,
        services: Collection[str] = ("s3",),
    ) -> None:
        self._secret_of = secret_of
        self._skew_s = skew_s
        self._expires_max_s = expires_max_s
        self._services = frozenset(service.encode() for service in services)
        self._credentials: dict[bytes, Credential] = {}
        self._keys: dict[bytes, SigningKey] = {}
        self._times: dict[bytes, int] = {}

    @property
    def skew_s(self) -> int:
        """How far a request's time may be from ours."""
        return self._skew_s

    def credential(self, headers: Headers) -> Credential:
        """What a request whose header was verified names: credential and signed headers. Raises S3Error."""
        return parse_authorization(headers[b"authorization"], self._services)[0]

    def verify(
        self,
        method: str,
        path: bytes,
        query: bytes,
        headers: Headers,
        now_s: int,
        body_sha256: str | None = None,
        session: tuple[str, str] | None = None,
    ) -> Verified | None:
        """Who signed; None when nothing in the request claims to be a signature.

        `path` and `query` as sent. `body_sha256`: hash of the content for services whose clients send no
        x-amz-content-sha256 (sts). `session`: access key and secret of the session whose token the request carries; a
        token without one is refused. Raises S3Error with AWS's code for what is wrong. About 6 µs for a GET.
        """
        authorization = headers.get(b"authorization")
        # Names spelled with escapes are not looked for: such a request is anonymous here, and refused as that.
        if query and b"X-Amz-" in query:
            pairs = query_pairs(query)
            if any(name in _QUERY_NAMES for name, _ in pairs):
                if authorization is not None:
                    raise S3Error("InvalidArgument", ONE_MECHANISM)
                return self._verify_query(method, path, pairs, headers, now_s, session)
        if not authorization:  # an empty header is no trace of a signature
            return None
        return self._verify_header(method, path, query, headers, now_s, authorization, body_sha256, session)

    def _verify_header(
        self,
        method: str,
        path: bytes,
        query: bytes,
        headers: Headers,
        now_s: int,
        authorization: bytes,
        body_sha256: str | None,
        session: tuple[str, str] | None,
    ) -> Verified:
        head, _, signature = authorization.rpartition(b"Signature=")
        credential = self._credentials.get(head)
        known = credential is not None
        if credential is None:
            credential, signature = parse_authorization(authorization, self._services)
        timestamp = headers.get(b"x-amz-date")
        if timestamp is None:
            timestamp = _timestamp_of_date(headers.get(b"date", b""))
        sent_s = self._times.get(timestamp)
        if sent_s is None:
            sent_s = parse_timestamp(timestamp)
            if sent_s is None:
                raise S3Error("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header.")
        if session is None and b"x-amz-security-token" in headers:
            _no_token(headers[b"x-amz-security-token"])
        key = self._key(credential, session)
        if timestamp[:8] != credential.date:
            raise S3Error(
                _MALFORMED,
                f'The authorization header is malformed; Invalid credential date "{credential.date.decode()}". This date '
                f'is not the same as X-Amz-Date: "{timestamp[:8].decode()}".',
            )
        if abs(now_s - sent_s) > self._skew_s:
            raise S3Error(
                "RequestTimeTooSkewed",
                RequestTime=timestamp.decode("latin-1"),
                ServerTime=_timestamp(now_s).decode(),
                MaxAllowedSkewMilliseconds=self._skew_s * 1000,
            )
        content = headers.get(b"x-amz-content-sha256")
        if content is None:
            if body_sha256 is None:
                raise S3Error("InvalidRequest", "Missing required header for this request: x-amz-content-sha256.")
            content = body_sha256.encode()
        payload = payload_of(content)
        names = tuple(headers)
        if names != credential.names:
            added = headers.keys() - credential.signed_set - _IN_SIGNATURE
            if unsigned := [name for name in added if name.startswith(b"x-amz-")]:
                raise _not_signed(unsigned)
        try:
            values = credential.pick(headers)
        except KeyError:
            values = None
        tail = credential.tail
        if values is None or values != credential.values or content != credential.content:
            tail = canonical_tail(headers, credential.signed, content)
        begins = credential.begins
        if timestamp != credential.timestamp:
            begins = text_to_sign(timestamp, credential.scope)
        spelled = method.encode("latin-1", "replace")
        canonical = b"\n".join((spelled, canonical_path(path), canonical_query(query), tail))
        if not hmac.compare_digest(key.sign_request(begins, canonical).encode(), signature):
            text = begins + _sha256(canonical).hexdigest().encode()
            raise _mismatch(credential.access_key, text, canonical, signature)
        credential.names, credential.values, credential.content, credential.tail = names, values, content, tail
        credential.timestamp, credential.begins = timestamp, begins
        if not known:
            _remember(self._credentials, head, credential)
        if timestamp not in self._times:
            _remember(self._times, timestamp, sent_s)
        if self._keys.get(credential.text) is not key:
            _remember(self._keys, credential.text, key)
        return Verified(credential.access_key, payload, key, timestamp, credential.scope, signature, False)

    def _verify_query(
        self,
        method: str,
        path: bytes,
        pairs: list[tuple[bytes, bytes]],
        headers: Headers,
        now_s: int,
        session: tuple[str, str] | None,
    ) -> Verified:
        given: dict[bytes, bytes] = {}
        for name, value in pairs:
            if name.startswith(b"X-Amz-") and given.setdefault(name, value) is not value:
                raise _bad_query(f"{name.decode('latin-1')} is given more than once.")
        if any(name not in given for name in _QUERY_NAMES):
            raise _bad_query(
                "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, "
                "X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."
            )
        if given[b"X-Amz-Algorithm"] != ALGORITHM:
            raise _bad_query('X-Amz-Algorithm only supports "AWS4-HMAC-SHA256"')
        timestamp = given[b"X-Amz-Date"]
        sent_s = parse_timestamp(timestamp)
        if sent_s is None:
            raise _bad_query("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"")
        expires_s = self._expires(given[b"X-Amz-Expires"])
        credential = Credential(given[b"X-Amz-Credential"], given[b"X-Amz-SignedHeaders"], _BAD_QUERY, self._services)
        if session is None:
            _no_token(given.get(b"X-Amz-Security-Token"))
        key = self._key(credential, session)
        if timestamp[:8] != credential.date:
            raise _bad_query(
                f'Invalid credential date "{credential.date.decode()}". This date is not the same as X-Amz-Date: '
                f'"{timestamp[:8].decode()}".'
            )
        if sent_s > now_s + self._skew_s:
            raise S3Error("AccessDenied", "Request is not valid yet", ServerTime=_timestamp(now_s).decode())
        if now_s >= sent_s + expires_s:
            fields: dict[str, Any] = {
                "X-Amz-Expires": expires_s,
                "Expires": _timestamp(sent_s + expires_s).decode(),
                "ServerTime": _timestamp(now_s).decode(),
            }
            raise S3Error("AccessDenied", "Request has expired", **fields)
        # The URL is the grant: what its holder adds, and its maker did not sign, must not widen it.
        added = headers.keys() - credential.signed_set
        sent = headers.get(_CONTENT_SHA256, b"")
        # As AWS has it, a hash may be added unsigned: it narrows what may be sent. Another framing may not.
        claim = sent if _CONTENT_SHA256 in added and not sent.startswith(b"STREAMING-") else b""
        excepted = _CONTENT_SHA256 if claim else b""
        if unsigned := [name for name in added if name.startswith((b"x-amz-", b"x-recall-")) and name != excepted]:
            raise _not_signed(unsigned)
        content = (b"" if claim else sent) or given.get(b"X-Amz-Content-Sha256") or UNSIGNED.encode()
        payload = payload_of(content)
        signature = given[b"X-Amz-Signature"]
        coded = encode_query(pair for pair in pairs if pair[0] != b"X-Amz-Signature")
        canonical = canonical_request(method, path, coded, headers, credential.signed, content)
        text = _string_to_sign(timestamp, credential.scope, canonical)
        if not hmac.compare_digest(key.sign(text).encode(), signature):
            raise _mismatch(credential.access_key, text, canonical, signature)
        if claim and claim != content:
            if payload != UNSIGNED or not _HEX_SHA256.fullmatch(claim):
                raise S3Error("XAmzContentSHA256Mismatch", ClientComputedContentSHA256=claim[:128].decode("latin-1"))
            payload = claim.decode()
        if self._keys.get(credential.text) is not key:
            _remember(self._keys, credential.text, key)
        return Verified(credential.access_key, payload, key, timestamp, credential.scope, signature, True)

    def _expires(self, value: bytes) -> int:
        digits = value[1:] if value[:1] == b"-" else value
        if not digits.isdigit() or len(digits) > 12:
            raise _bad_query("X-Amz-Expires should be a number")
        expires_s = int(value)
        if expires_s < 0:
            raise _bad_query("X-Amz-Expires must be non-negative")
        if expires_s > self._expires_max_s:
            raise _bad_query(
                f"X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less "
                f"than {self._expires_max_s} seconds"
            )
        return expires_s

    def _key(self, credential: Credential, session: tuple[str, str] | None) -> SigningKey:
        if session is None:
            secret = self._secret_of(credential.access_key)
        elif session[0] == credential.access_key:
            secret = session[1]
        else:
            raise S3Error("InvalidToken")
        held = self._keys.get(credential.text)
        if held is not None and held.secret == secret:  # a changed secret must not live on here
            return held
        if secret is None:
            raise S3Error("InvalidAccessKeyId", AWSAccessKeyId=credential.access_key[:128])
        return SigningKey(secret, credential.date, credential.region, credential.service)


def _escape(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match.group()[0]


def with_query_headers(headers: Headers, query: Mapping[str, str]) -> Headers:
    """`headers` and those that a URL's maker put into its query, as some SDKs do with x-amz- headers: what is signed there
    counts, an access list or a lock no less than a name. A header that was sent stands. Raises InvalidArgument.

    # differs from AWS: a checksum is left out. The SDK of JavaScript puts that of an empty body into each URL for a PUT.
    """
    return query_headers(query, _IN_QUERY) | headers


def canonical_path(path: bytes) -> bytes:
    """The path decoded once, then each byte but unreserved ones and `/` encoded."""
    if PERCENT not in path:
        if not path.translate(None, _PLAIN_IN_PATH):
            return path
    elif _CANONICAL_PATH.fullmatch(path):
        return path
    return _RESERVED_IN_PATH.sub(_escape, percent_decode(path))


def canonical_query(query: bytes) -> bytes:
    """The query decoded, encoded again, and sorted by name, then by value."""
    if not query:
        return b""
    if _CANONICAL_QUERY.fullmatch(query):
        parts = [piece.partition(b"=") for piece in query.split(b"&") if piece]
        if not any(b"=" in value for _, _, value in parts):
            return b"&".join([name + b"=" + value for name, _, value in sorted(parts)])
    return encode_query(query_pairs(query))


def encode_query(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Decoded pairs as a canonical query."""
    coded = sorted([(_RESERVED.sub(_escape, name), _RESERVED.sub(_escape, value)) for name, value in pairs])
    return b"&".join([name + b"=" + value for name, value in coded])


def canonical_request(
    method: str,
    path: bytes,
    coded_query: bytes,
    headers: Mapping[bytes, bytes],
    signed: tuple[bytes, ...],
    content: bytes,
) -> bytes:
    """The text whose hash is signed."""
    return b"%b\n%b\n%b\n%b" % (
        method.encode("latin-1", "replace"),
        canonical_path(path),
        coded_query,
        canonical_tail(headers, signed, content),
    )


def canonical_tail(headers: Mapping[bytes, bytes], signed: tuple[bytes, ...], content: bytes) -> bytes:
    """The canonical request after its query. A signed header the request lacks counts as empty, and so as a mismatch."""
    lines = b"\n".join([name + b":" + headers.get(name, b"") for name in signed])
    # The search for one byte first: most values have no space, and each search for two costs four times as much.
    if b" " in lines and (b"  " in lines or b": " in lines or b" \n" in lines or lines.endswith(b" ")):
        lines = b"\n".join([name + b":" + _SPACES.sub(b" ", headers.get(name, b"").strip()) for name in signed])
    return b"%b\n\n%b\n%b" % (lines, b";".join(signed), content)


def text_to_sign(timestamp: bytes, scope: bytes) -> bytes:
    """The text to sign up to the hash of the canonical request."""
    return b"AWS4-HMAC-SHA256\n%b\n%b\n" % (timestamp, scope)


def _string_to_sign(timestamp: bytes, scope: bytes, canonical: bytes) -> bytes:
    return text_to_sign(timestamp, scope) + _sha256(canonical).hexdigest().encode()


def parse_authorization(value: bytes, services: frozenset[bytes]) -> tuple[Credential, bytes]:
    """Algorithm, Credential, SignedHeaders and Signature, in any order, with or without spaces after the commas."""
    algorithm, space, rest = value.strip().partition(b" ")
    if algorithm != ALGORITHM:
        if algorithm in (b"AWS", b"AWS4-ECDSA-P256-SHA256"):
            raise _unsupported()
        why = "Unsupported Authorization Type"
        if not space:
            why, algorithm = "Authorization header is invalid -- one and only one ' ' (space) required", value
        raise S3Error(
            "InvalidArgument", why, ArgumentName="Authorization", ArgumentValue=algorithm[:256].decode("latin-1")
        )
    items = [item.strip() for item in rest.split(b",")]
    if len(items) != 3:
        raise _malformed(
            "the authorization header requires three components: Credential, SignedHeaders, and Signature."
        )
    fields: dict[bytes, bytes] = {}
    for item in items:
        name, equals, text = item.partition(b"=")
        if not equals:
            raise _malformed(f'the authorization component "{item[:256].decode("latin-1")}" is malformed.')
        fields[name] = text
    for needed in (b"Credential", b"SignedHeaders", b"Signature"):
        if needed not in fields:
            raise _malformed(f"missing {needed.decode()}.")
    credential = Credential(fields[b"Credential"], fields[b"SignedHeaders"], _MALFORMED, services)
    return credential, fields[b"Signature"]


def _malformed(why: str) -> S3Error:
    return S3Error(_MALFORMED, f"The authorization header is malformed; {why}")


def parse_timestamp(value: bytes) -> int | None:
    """`YYYYMMDDTHHMMSSZ` as Unix seconds; None where it is none."""
    match = _TIMESTAMP.fullmatch(value)
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups())
    return epoch_s(year, month, day, hour, minute, second)


def _timestamp(seconds: int) -> bytes:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds)).encode()


def _timestamp_of_date(value: bytes) -> bytes:
    """A Date header stands in for x-amz-date: an HTTP date, or already the basic ISO form."""
    if _TIMESTAMP.fullmatch(value.strip()):
        return value.strip()
    seconds = http_time(value.decode("latin-1"))
    return b"" if seconds is None else _timestamp(seconds)


def payload_of(content: bytes) -> str:
    word = PAYLOAD_WORDS.get(content)
    if word is not None:
        return word
    if not _HEX_SHA256.fullmatch(content):
        if content.startswith(b"STREAMING-AWS4-ECDSA-"):
            raise S3Error("NotImplemented", "Chunk signatures by AWS4-ECDSA-P256-SHA256 are not implemented.")
        raise S3Error(
            "InvalidArgument",
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, "
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value.",
            ArgumentName="x-amz-content-sha256",
            ArgumentValue=content[:128].decode("latin-1"),
        )
    return content.decode()


def _no_token(token: bytes | None) -> None:
    """A session token that was not opened belongs to somebody else's credentials."""
    if token:
        raise S3Error("InvalidToken")


def _unsupported() -> S3Error:
    return S3Error(
        "InvalidRequest",
        "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
    )


def _bad_query(message: str) -> S3Error:
    return S3Error(_BAD_QUERY, message)


def _not_signed(names: list[bytes]) -> S3Error:
    return S3Error(
        "AccessDenied",
        "There were headers present in the request which were not signed",
        HeadersNotSigned=", ".join(sorted(name.decode("latin-1") for name in names)),
    )


def _mismatch(access_key: str, text: bytes, canonical: bytes, signature: bytes) -> S3Error:
    return S3Error(
        "SignatureDoesNotMatch",
        AWSAccessKeyId=access_key[:128],
        StringToSign=text.decode("latin-1"),
        SignatureProvided=signature[:128].decode("latin-1"),
        StringToSignBytes=text.hex(" "),
        CanonicalRequest=canonical[:8192].decode("utf-8", "replace"),
        CanonicalRequestBytes=canonical[:8192].hex(" "),
    )


def _remember(memory: dict[Any, Any], key: Any, value: Any) -> None:
    if len(memory) >= _MEMORY_MAX:
        memory.clear()
    memory[key] = value


# The signing side.

_NEVER_SIGNED: Final = frozenset(
    {b"authorization", b"connection", b"expect", b"transfer-encoding", b"user-agent", b"content-length"}
)


def sign_headers(
    method: str,
    path: bytes,
    query: bytes,
    headers: Mapping[bytes, bytes],
    *,
    access_key: str,
    secret_key: str,
    now_s: int,
    region: str = "us-east-1",
    service: str = "s3",
    payload: str = UNSIGNED,
) -> Headers:
    """`headers` (lower-case names, `host` among them) with x-amz-date, x-amz-content-sha256 and authorization added."""
    timestamp = _timestamp(now_s)
    out: Headers = {**headers, b"x-amz-date": timestamp, b"x-amz-content-sha256": payload.encode()}
    signed = tuple(sorted(name for name in out if name not in _NEVER_SIGNED))
    scope = b"%b/%b/%b/aws4_request" % (timestamp[:8], region.encode(), service.encode())
    canonical = canonical_request(method, path, canonical_query(query), out, signed, payload.encode())
    key = SigningKey(secret_key, timestamp[:8], region.encode(), service.encode())
    signature = key.sign(_string_to_sign(timestamp, scope, canonical))
    out[b"authorization"] = b"AWS4-HMAC-SHA256 Credential=%b/%b, SignedHeaders=%b, Signature=%b" % (
        access_key.encode(),
        scope,
        b";".join(signed),
        signature.encode(),
    )
    return out


def presign(
    method: str,
    path: bytes,
    query: bytes,
    headers: Mapping[bytes, bytes],
    *,
    access_key: str,
    secret_key: str,
    now_s: int,
    expires_s: int,
    region: str = "us-east-1",
) -> bytes:
    """The query string of a presigned URL; every one of `headers` (`host` among them) is signed."""
    timestamp = _timestamp(now_s)
    scope = b"%b/%b/s3/aws4_request" % (timestamp[:8], region.encode())
    signed = tuple(sorted(headers))
    pairs = [
        *query_pairs(query),
        (b"X-Amz-Algorithm", ALGORITHM),
        (b"X-Amz-Credential", access_key.encode() + b"/" + scope),
        (b"X-Amz-Date", timestamp),
        (b"X-Amz-Expires", b"%d" % expires_s),
        (b"X-Amz-SignedHeaders", b";".join(signed)),
    ]
    coded = encode_query(pairs)
    content = headers.get(b"x-amz-content-sha256", UNSIGNED.encode())
    canonical = canonical_request(method, path, coded, headers, signed, content)
    key = SigningKey(secret_key, timestamp[:8], region.encode(), b"s3")
    return coded + b"&X-Amz-Signature=" + key.sign(_string_to_sign(timestamp, scope, canonical)).encode()


_S3: Final = frozenset({b"s3"})


def chunk_signer(headers: Headers, *, secret_key: str) -> ChunkSigner:
    """The chunk signatures that follow headers made by `sign_headers`."""
    credential, signature = parse_authorization(headers[b"authorization"], _S3)
    key = SigningKey(secret_key, credential.date, credential.region, credential.service)
    return ChunkSigner(key, headers[b"x-amz-date"], credential.scope, signature.decode())
