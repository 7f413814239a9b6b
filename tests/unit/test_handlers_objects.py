"""GET, HEAD, PUT, DELETE and DeleteObjects through the handlers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Sequence
from email.header import decode_header, make_header

import pytest
from awscrt.checksums import crc32, crc64nvme

from s3api.config import ApiConfig, KeyRule
from s3api.handlers import HANDLERS
from s3api.handlers.options import METADATA_BYTES_MAX, SINGLE_PUT_BYTES_MAX
from s3api.message import Response, StreamBody
from s3api.operations import unhandled
from tests.support.clock import ManualClock
from tests.unit.handler_harness import ANONYMOUS, Body, Harness
from tiering.contract import Checksum, ObjectChange
from tiering.memory import MemoryStore

DATA = bytes(range(256)) * 16
ETAG = f'"{hashlib.md5(DATA).hexdigest()}"'
DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


CRC64 = b64(crc64nvme(DATA).to_bytes(8, "big"))
CRC32 = b64(crc32(DATA).to_bytes(4, "big"))


@pytest.fixture
def s3() -> Harness:
    harness = Harness()
    assert harness("PUT", "/bkt").status == 200
    return harness


def test_every_served_operation_has_a_handler() -> None:
    assert unhandled(HANDLERS) == []


def test_put_and_get(s3: Harness) -> None:
    reply = s3("PUT", "/bkt/k", {}, DATA)
    assert (reply.status, reply.headers["etag"], reply.body) == (200, ETAG, b"")
    assert reply.headers["x-amz-checksum-crc64nvme"] == CRC64
    assert reply.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    reply = s3("GET", "/bkt/k")
    assert (reply.status, reply.body) == (200, DATA)
    assert reply.headers == {
        "etag": ETAG,
        "last-modified": DATE,
        "accept-ranges": "bytes",
        "content-type": "binary/octet-stream",
        "x-recall-tier": "hot",
    }


def test_hot_reads_answer_at_once(s3: Harness) -> None:
    s3("PUT", "/bkt/k", {}, DATA)
    for method in ("GET", "HEAD"):
        call = s3.call(method, "/bkt/k", {"range": "bytes=0-9", "if-match": ETAG})
        response = HANDLERS[call.operation](call)
        assert isinstance(response, Response)
        assert isinstance(response.body, StreamBody if method == "GET" else bytes)


def test_head_states_the_length_and_sends_nothing(s3: Harness) -> None:
    s3("PUT", "/bkt/k", {}, DATA)
    reply = s3("HEAD", "/bkt/k")
    assert (reply.status, reply.body, reply.length) == (200, b"", len(DATA))
    assert reply.headers["etag"] == ETAG
    reply = s3("HEAD", "/bkt/k", {"range": "bytes=5-9"})
    assert (reply.status, reply.length, reply.headers["content-range"]) == (206, 5, "bytes 5-9/4096")


def test_misses(s3: Harness) -> None:
    assert s3("GET", "/bkt/none").code == s3("HEAD", "/bkt/none").code == "NoSuchKey"
    assert s3("GET", "/none/k").code == s3("PUT", "/none/k", {}, b"x").code == "NoSuchBucket"
    assert s3("DELETE", "/none/k").code == "NoSuchBucket"


def test_empty_object(s3: Harness) -> None:
    assert s3("PUT", "/bkt/meta").headers["etag"] == '"d41d8cd98f00b204e9800998ecf8427e"'
    reply = s3("GET", "/bkt/meta", {"x-amz-checksum-mode": "ENABLED"})
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["x-amz-checksum-crc64nvme"] == "AAAAAAAAAAA="
    assert s3("HEAD", "/bkt/meta").length == 0
    assert s3("GET", "/bkt/meta", {"range": "bytes=0-"}).status == 416
    assert s3("GET", "/bkt/meta?partNumber=1").status == 200


# -- ranges and parts


@pytest.mark.parametrize(
    ("wanted", "content_range", "start", "stop"),
    [
        ("bytes=0-9", "bytes 0-9/4096", 0, 10),
        ("bytes=0-8388607", "bytes 0-4095/4096", 0, 4096),
        ("bytes=4090-", "bytes 4090-4095/4096", 4090, 4096),
        ("bytes=-7", "bytes 4089-4095/4096", 4089, 4096),
        ("bytes=-9999", "bytes 0-4095/4096", 0, 4096),
    ],
)
def test_ranges(s3: Harness, wanted: str, content_range: str, start: int, stop: int) -> None:
    s3("PUT", "/bkt/k", {}, DATA)
    reply = s3("GET", "/bkt/k", {"range": wanted})
    assert (reply.status, reply.headers["content-range"], reply.body) == (206, content_range, DATA[start:stop])
    assert reply.headers["etag"] == ETAG


@pytest.mark.parametrize("wanted", ["bytes=4096-", "bytes=5000-6000", "bytes=-0"])
def test_range_outside_is_416_with_the_size(s3: Harness, wanted: str) -> None:
    s3("PUT", "/bkt/k", {}, DATA)
    reply = s3("GET", "/bkt/k", {"range": wanted})
    assert (reply.status, reply.code, reply.headers["content-range"]) == (416, "InvalidRange", "bytes */4096")


@pytest.mark.parametrize("wanted", ["bytes=0-1,3-4", "lines=0-1", "bytes=9-5", "bytes", ""])
def test_ranges_that_are_none_give_the_whole(s3: Harness, wanted: str) -> None:
    s3("PUT", "/bkt/k", {}, DATA)
    reply = s3("GET", "/bkt/k", {"range": wanted})
    assert (reply.status, reply.body) == (200, DATA)


def test_if_range(s3: Harness) -> None:
    s3("PUT", "/bkt/k", {}, DATA)
    for same in (ETAG, DATE):
        assert s3("GET", "/bkt/k", {"range": "bytes=0-1", "if-range": same}).status == 206
    for other in ('"other"', f"W/{ETAG}", "Wed, 31 Dec 2025 23:59:59 GMT"):
        reply = s3("GET", "/bkt/k", {"range": "bytes=0-1", "if-range": other})
        assert (reply.status, reply.body) == (200, DATA)
    assert s3("GET", "/bkt/k", {"range": "bytes=9999-", "if-range": '"other"'}).status == 200
    assert s3("GET", "/bkt/k", {"range": "bytes=0-1", "if-range": ETAG, "if-none-match": ETAG}).status == 304


def test_part_number_of_a_whole_object(s3: Harness) -> None:
    s3("PUT", "/bkt/k", {}, DATA)
    reply = s3("GET", "/bkt/k?partNumber=1", {"x-amz-checksum-mode": "ENABLED"})
    assert (reply.status, reply.body) == (206, DATA)
    assert reply.headers["content-range"] == "bytes 0-4095/4096"
    assert reply.headers["x-amz-checksum-crc64nvme"] == CRC64
    assert "x-amz-mp-parts-count" not in reply.headers
    assert s3("GET", "/bkt/k?partNumber=2").code == "InvalidPartNumber"
    assert s3("GET", "/bkt/k?partNumber=0").code == "InvalidArgument"
    assert s3("GET", "/bkt/k?partNumber=1", {"range": "bytes=0-1"}).code == "InvalidRequest"


# -- conditions, overrides, checksums


def test_not_modified_repeats_the_validators(s3: Harness) -> None:
    s3("PUT", "/bkt/k", {"cache-control": "max-age=5"}, DATA)
    for method in ("GET", "HEAD"):
        for headers in ({"if-none-match": ETAG}, {"if-modified-since": DATE}):
            reply = s3(method, "/bkt/k", headers)
            assert (reply.status, reply.body) == (304, b"")
            assert reply.headers == {"etag": ETAG, "last-modified": DATE, "cache-control": "max-age=5"}


def test_precondition_failed(s3: Harness) -> None:
    s3("PUT", "/bkt/k", {}, DATA)
    reply = s3("GET", "/bkt/k", {"if-match": '"other"'})
    assert (reply.status, reply.fields["Condition"]) == (412, "If-Match")
    assert s3("GET", "/bkt/k", {"if-unmodified-since": "Wed, 31 Dec 2025 23:59:59 GMT"}).status == 412
    assert s3("GET", "/bkt/k", {"if-match": "not a tag list, really"}).code == "PreconditionFailed"
    assert s3("GET", "/bkt/k", {"if-match": ""}).code == "InvalidArgument"


def test_response_overrides_need_a_signature(s3: Harness) -> None:
    s3("PUT", "/bkt/k", {"content-type": "a/b", "content-language": "de"}, DATA)
    path = "/bkt/k?response-content-type=text%2Fplain&response-content-disposition=attachment%3B%20filename%3Dx"
    reply = s3("GET", path)
    assert reply.headers["content-type"] == "text/plain"
    assert reply.headers["content-disposition"] == "attachment; filename=x"
    assert reply.headers["content-language"] == "de"
    assert s3("GET", path, identity=ANONYMOUS).code == "InvalidRequest"
    assert s3("GET", "/bkt/k?response-expires=a%0d%0ax-evil:%201").code == "InvalidArgument"


def test_checksums_only_when_asked_and_only_of_what_is_sent(s3: Harness) -> None:
    s3("PUT", "/bkt/k", {"x-amz-checksum-crc32": CRC32}, DATA)
    assert "x-amz-checksum-crc32" not in s3("GET", "/bkt/k").headers
    for headers in ({}, {"range": "bytes=0-4095"}, {"range": "bytes=0-8388607"}):
        reply = s3("GET", "/bkt/k", {"x-amz-checksum-mode": "enabled", **headers})
        assert reply.headers["x-amz-checksum-crc32"] == CRC32
        assert reply.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    reply = s3("GET", "/bkt/k", {"x-amz-checksum-mode": "ENABLED", "range": "bytes=0-4094"})
    assert not [name for name in reply.headers if name.startswith("x-amz-checksum")]
    assert s3("HEAD", "/bkt/k", {"x-amz-checksum-mode": "ENABLED"}).headers["x-amz-checksum-crc32"] == CRC32


@pytest.mark.parametrize("algorithm", ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"])
def test_requested_checksum_is_verified_kept_and_answered(s3: Harness, algorithm: str) -> None:
    name = f"x-amz-checksum-{algorithm}"
    wrong = s3("PUT", "/bkt/k", {name: s3("PUT", "/bkt/other", {}, b"").headers.get(name, _zero(algorithm))}, DATA)
    assert wrong.code == "BadDigest"
    assert s3("GET", "/bkt/k").code == "NoSuchKey"

    class Trailing(Body):
        trailer: Checksum | None = None

        def done(self) -> None: ...

        def at_hand(self) -> Sequence[memoryview] | None:
            return None

        async def document(self) -> bytes:
            raise AssertionError

    right = s3("PUT", "/bkt/k", {name: _value(algorithm)}, DATA)
    assert (right.status, right.headers[name]) == (200, _value(algorithm))
    body = Trailing(DATA)
    body.trailer = Checksum(algorithm.upper(), _value(algorithm))
    reply = s3("PUT", "/bkt/t", {"x-amz-trailer": name}, payload=body)
    assert reply.headers[name] == _value(algorithm)
    body = Trailing(DATA)
    body.trailer = Checksum(algorithm.upper(), _zero(algorithm))
    assert s3("PUT", "/bkt/u", {"x-amz-trailer": name}, payload=body).code == "BadDigest"
    assert s3("GET", "/bkt/u").code == "NoSuchKey"


def _value(algorithm: str) -> str:
    from awscrt import checksums

    if algorithm.startswith("crc"):
        return b64(getattr(checksums, algorithm)(DATA).to_bytes(8 if algorithm == "crc64nvme" else 4, "big"))
    return b64(hashlib.new(algorithm, DATA).digest())


def _zero(algorithm: str) -> str:
    return b64(bytes(len(base64.b64decode(_value(algorithm)))))


def test_content_md5(s3: Harness) -> None:
    md5 = b64(hashlib.md5(DATA).digest())
    assert s3("PUT", "/bkt/k", {"content-md5": md5}, DATA).status == 200
    assert s3("PUT", "/bkt/k2", {"content-md5": md5}, DATA + b"x").code == "BadDigest"
    assert s3("PUT", "/bkt/k2", {"content-md5": "nonsense"}, DATA).code == "InvalidDigest"
    assert s3("HEAD", "/bkt/k2").code == "NoSuchKey"


def test_opaque_bucket_never_hashes_md5_unless_asked(s3: Harness) -> None:
    s3("PUT", "/kvb", {"x-recall-pool": "kv"})
    etag = s3("PUT", "/kvb/k", {}, DATA).headers["etag"]
    assert etag != ETAG
    md5 = b64(hashlib.md5(DATA).digest())
    reply = s3("PUT", "/kvb/k2", {"content-md5": md5}, DATA)
    assert reply.headers["etag"] == etag
    assert s3("PUT", "/kvb/k3", {"content-md5": md5}, DATA + b"x").code == "BadDigest"
    assert s3("GET", "/kvb/k", {"if-match": etag}).status == 200


# -- what is stored with the bytes


def test_metadata_comes_back(s3: Harness) -> None:
    headers = {
        "content-type": "text/plain",
        "content-encoding": "aws-chunked,gzip",
        "content-language": "de",
        "cache-control": "no-store",
        "content-disposition": 'attachment; filename="ü.txt"',
        "expires": "Thu, 01 Dec 2027 16:00:00 GMT",
        "x-amz-meta-plain": "value",
        "x-amz-meta-empty": "",
        "x-amz-tagging": "a=1&b%20c=d%2Be",
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-acl": "private",
    }
    assert s3("PUT", "/bkt/k", headers, DATA).status == 200
    seen = s3("HEAD", "/bkt/k").headers
    for name in ("content-type", "content-language", "cache-control", "content-disposition", "expires"):
        assert seen[name] == headers[name]
    assert seen["content-encoding"] == "gzip"
    assert (seen["x-amz-meta-plain"], seen["x-amz-meta-empty"]) == ("value", "")
    assert seen["x-amz-tagging-count"] == "2"
    assert seen["x-amz-storage-class"] == "STANDARD_IA"
    assert s3("GET", "/bkt/k").headers == seen


@pytest.mark.parametrize(
    "sent", ["grün".encode(), "grün".encode("latin-1"), b"=?UTF-8?B?Z3LDvG4=?=", b"=?utf-8?q?gr=C3=BCn?="]
)
def test_other_than_ascii_metadata_is_stored_as_text_and_sent_encoded(s3: Harness, sent: bytes) -> None:
    s3("PUT", "/bkt/k", {"x-amz-meta-colour": sent}, DATA)
    assert s3("HEAD", "/bkt/k").headers["x-amz-meta-colour"] == "=?UTF-8?B?Z3LDvG4=?="


@pytest.mark.parametrize("sent", [b"=?", b"=?no?x?=", b"=?nocharset?b?Z3I=?=", b"a =? b ?= c"])
def test_what_is_no_encoded_word_is_kept_as_sent(s3: Harness, sent: bytes) -> None:
    s3("PUT", "/bkt/k", {"x-amz-meta-colour": sent}, DATA)
    assert s3("HEAD", "/bkt/k").headers["x-amz-meta-colour"] == sent.decode()


def test_an_encoded_word_of_a_charset_that_is_no_name_is_kept_as_sent(s3: Harness) -> None:
    assert s3("PUT", "/bkt/k", {"x-amz-meta-colour": b"=?\xca?q??="}, DATA).status == 200
    sent = s3("HEAD", "/bkt/k").headers["x-amz-meta-colour"]
    assert str(make_header(decode_header(sent))) == "=?\u00ca?q??="


@pytest.mark.parametrize("value", [b"a\r\nx-evil: 1", b"a\nb", b"a\0b", b"=?utf-8?q?a=0D=0Ax-evil:_1?=", b"a\x7f"])
@pytest.mark.parametrize("name", ["x-amz-meta-m", "content-type", "cache-control", "content-disposition"])
def test_header_injection_is_refused_when_written(s3: Harness, name: str, value: bytes) -> None:
    reply = s3("PUT", "/bkt/k", {name: value}, DATA)
    if value.startswith(b"=?") and name != "x-amz-meta-m":
        assert reply.status == 200  # not decoded there: plain ASCII
        return
    assert (reply.code, reply.fields["ArgumentName"]) == ("InvalidArgument", name)
    assert s3("HEAD", "/bkt/k").code == "NoSuchKey"


def test_metadata_limit(s3: Harness) -> None:
    room = METADATA_BYTES_MAX - len("abc")
    assert s3("PUT", "/bkt/k", {"x-amz-meta-abc": "v" * room}, b"x").status == 200
    assert s3("PUT", "/bkt/k", {"x-amz-meta-abc": "v" * (room + 1)}, b"x").code == "MetadataTooLarge"
    assert s3("PUT", "/bkt/k", {"x-amz-meta-abc": "ü" * (room // 2 + 1)}, b"x").code == "MetadataTooLarge"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-amz-storage-class": "COLDISH"}, "InvalidStorageClass"),
        ({"x-amz-server-side-encryption": "aws:kms:dsse"}, "NotImplemented"),
        ({"x-amz-object-lock-legal-hold": "ON"}, "InvalidRequest"),
        ({"x-amz-acl": "mine"}, "InvalidArgument"),
        ({"x-amz-grant-read": "id=1"}, "InvalidArgument"),
        ({"x-amz-tagging": "a=1&a=2"}, "InvalidArgument"),
        ({"x-amz-tagging": "&".join(f"k{n}=v" for n in range(11))}, "BadRequest"),
        ({"x-amz-tagging": "a=%ff"}, "InvalidArgument"),
        ({"x-amz-tagging": "key%=1"}, "InvalidArgument"),
        ({"x-amz-tagging": "="}, "InvalidArgument"),
        ({"x-amz-tagging": "key?=1"}, "InvalidTag"),
        ({"x-amz-tagging": "key=1!"}, "InvalidTag"),
        ({"x-amz-tagging": "aws:x=1"}, "InvalidTag"),
        ({"x-amz-website-redirect-location": "ftp://h/"}, "InvalidRedirectLocation"),
        ({"x-amz-website-redirect-location": "/" + "x" * 2048}, "InvalidRedirectLocation"),
        ({"if-none-match": "*", "if-match": '"x"'}, "NotImplemented"),
        ({"x-amz-meta-snowball-auto-extract": "true"}, "NotImplemented"),  # MinIO unpacks the archive
        ({"x-recall-pin": "maybe"}, "InvalidArgument"),
        ({"x-recall-ttl": "-1"}, "InvalidArgument"),
        ({"x-amz-meta-recall-ttl": "soon"}, "InvalidArgument"),
        ({"x-amz-checksum-crc32": "short"}, "InvalidRequest"),
    ],
)
def test_refused_puts_store_nothing(s3: Harness, headers: dict[str, str], code: str) -> None:
    assert s3("PUT", "/bkt/k", headers, DATA).code == code
    assert s3("HEAD", "/bkt/k").code == "NoSuchKey"


# -- order of a PUT


class Unread(Body):
    """A body that must not be asked for: reading it would answer `100 Continue`."""

    async def read(self) -> memoryview:
        raise AssertionError("the body was asked for")

    def done(self) -> None: ...

    def whole(self) -> memoryview | None:
        raise AssertionError("the body was asked for")


def refused(s3: Harness, headers: dict[str, str], size: int = 100) -> str:
    body = Unread(b"")
    body.length = size
    return asyncio.run(s3.request("PUT", "/bkt/k", {**headers, "content-length": str(size)}, body)).code


def test_refused_puts_never_ask_for_the_body() -> None:
    clock = ManualClock()
    s3 = Harness(store=MemoryStore(clock, capacity_bytes=5000))
    s3("PUT", "/bkt")
    s3("PUT", "/bkt/k", {}, b"x")
    assert refused(s3, {"if-none-match": "*"}) == "PreconditionFailed"
    assert refused(s3, {"if-match": '"other"'}) == "PreconditionFailed"
    assert refused(s3, {}, size=6000) == "TierFullOfPins"
    assert refused(s3, {}, size=SINGLE_PUT_BYTES_MAX + 1) == "EntityTooLarge"
    assert refused(s3, {"x-amz-meta-a": "v" * 3000}) == "MetadataTooLarge"
    assert refused(s3, {"content-md5": "?"}) == "InvalidDigest"
    assert s3("GET", "/bkt/k").body == b"x"


def test_length_must_be_stated(s3: Harness) -> None:
    body = Body(DATA, chunked=True)
    assert asyncio.run(s3.request("PUT", "/bkt/k", {}, body)).code == "MissingContentLength"
    assert body.reads == 0


class Failing(Body):
    """Fails after its first piece."""

    def __init__(self, data: bytes, error: BaseException) -> None:
        super().__init__(data, piece=10)
        self._error = error

    async def read(self) -> memoryview:
        if self.reads:
            raise self._error
        return await super().read()

    def done(self) -> None: ...

    def whole(self) -> memoryview | None:
        return None


class WatchedStore(MemoryStore):
    """Counts writers opened and ended."""

    opened = ended = 0

    def put(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        writer = super().put(*args, **kwargs)
        self.opened += 1
        whole_abort, whole_commit = writer.abort, writer.commit

        def abort() -> None:
            self.ended += 1
            whole_abort()

        async def commit(result):  # type: ignore[no-untyped-def]
            info = await whole_commit(result)
            self.ended += 1
            return info

        writer.abort, writer.commit = abort, commit  # type: ignore[method-assign]
        return writer


@pytest.mark.parametrize("error", [asyncio.CancelledError(), ConnectionError(), KeyboardInterrupt()])
def test_writer_is_ended_whatever_happens(error: BaseException) -> None:
    clock = ManualClock()
    store = WatchedStore(clock)
    s3 = Harness(store=store)
    s3("PUT", "/bkt")
    s3("PUT", "/bkt/good", {}, DATA)
    s3("PUT", "/bkt/bad", {"x-amz-checksum-crc32": "AAAAAA=="}, DATA)

    async def run() -> None:
        with pytest.raises(type(error)):
            await s3.request("PUT", "/bkt/k", {"content-length": "4096"}, Failing(DATA, error))

    asyncio.run(run())
    assert (store.opened, store.ended) == (3, 3)
    assert s3("HEAD", "/bkt/k").code == "NoSuchKey"


# -- context memory on replies


def test_pin_and_ttl_are_answered(s3: Harness) -> None:
    reply = s3("PUT", "/bkt/k", {"x-recall-pin": "true", "x-recall-ttl": "3600.5; sliding"}, DATA)
    for answer in (reply, s3("HEAD", "/bkt/k"), s3("GET", "/bkt/k")):
        assert answer.headers["x-recall-pinned-until"] == "forever"
        assert answer.headers["x-recall-expires"] == "2026-01-01T01:00:00.500Z"
        assert answer.headers["x-amz-expiration"] == (
            'expiry-date="Thu, 01 Jan 2026 01:00:00 GMT", rule-id="x-recall-ttl"'
        )
    s3("PUT", "/bkt/k", {"x-recall-pin": "60"}, DATA)
    headers = s3("HEAD", "/bkt/k").headers
    assert headers["x-recall-pinned-until"] == "2026-01-01T00:01:00.000Z"
    assert "x-recall-expires" not in headers
    s3.clock.advance(60)
    assert "x-recall-pinned-until" not in s3("HEAD", "/bkt/k").headers


def test_ttl_ends_the_object(s3: Harness) -> None:
    s3("PUT", "/bkt/k", {"x-amz-meta-recall-ttl": "10"}, DATA)
    assert s3("HEAD", "/bkt/k").headers["x-amz-meta-recall-ttl"] == "10"
    s3.clock.advance(10)
    assert s3("GET", "/bkt/k").code == "NoSuchKey"
    s3("PUT", "/bkt/zero", {"x-recall-ttl": "0"}, DATA)
    s3.clock.advance(1000)
    assert s3("GET", "/bkt/zero").status == 200


def test_key_rules_give_intent() -> None:
    s3 = Harness(ApiConfig(key_rules=(KeyRule(key="*@pin%1*", pin="true"), KeyRule(bucket="bkt", ttl="5"))))
    s3("PUT", "/bkt")
    s3("PUT", "/bkt/model%401%400%40hash%40pin%251", {}, b"x")
    headers = s3("HEAD", "/bkt/model%401%400%40hash%40pin%251").headers
    assert headers["x-recall-pinned-until"] == "forever"
    assert headers["x-recall-expires"] == "2026-01-01T00:00:05.000Z"
    s3("PUT", "/bkt/other", {"x-recall-ttl": "0"}, b"x")
    headers = s3("HEAD", "/bkt/other").headers
    assert "x-recall-pinned-until" not in headers
    assert "x-recall-expires" not in headers


def test_pin_beyond_the_limit_is_507_and_stores_nothing() -> None:
    clock = ManualClock()
    s3 = Harness(store=MemoryStore(clock, pin_bytes_max=1000))
    s3("PUT", "/bkt")
    reply = s3("PUT", "/bkt/k", {"x-recall-pin": "true"}, DATA)
    assert (reply.status, reply.code) == (507, "PinLimitExceeded")
    assert s3("HEAD", "/bkt/k").code == "NoSuchKey"


def test_cold_objects_say_so_and_keep_their_names(s3: Harness) -> None:
    s3("PUT", "/bkt/k", {}, DATA)
    hot = s3("HEAD", "/bkt/k").headers
    asyncio.run(s3.store.change("bkt", "k", ObjectChange(tier="cold")))
    cold = s3("HEAD", "/bkt/k").headers
    assert (cold.pop("x-recall-tier"), cold.pop("x-amz-storage-class")) == ("cold", "GLACIER_IR")
    assert hot.pop("x-recall-tier") == "hot"
    assert cold == hot
    assert s3("GET", "/bkt/k", {"if-match": ETAG}).body == DATA
    assert s3("GET", "/bkt/k").headers["x-recall-tier"] == "hot"


# -- deletes


def test_delete(s3: Harness) -> None:
    s3("PUT", "/bkt/k", {}, DATA)
    assert s3("DELETE", "/bkt/k", {"if-match": '"other"'}).code == "PreconditionFailed"
    assert s3("DELETE", "/bkt/k", {"if-match": ETAG, "x-amz-if-match-size": "4096"}).status == 204
    assert s3("DELETE", "/bkt/k").status == 204
    assert s3("DELETE", "/bkt/k", {"if-match": ETAG}).code == "NoSuchKey"


def delete(s3: Harness, document: str, **headers: str) -> tuple[list[str], list[tuple[str, str]]]:
    body = document.encode()
    reply = s3("POST", "/bkt?delete", {"content-md5": b64(hashlib.md5(body).digest()), **headers}, body)
    assert reply.status == 200, reply.code
    root = reply.xml("DeleteResult")
    return (
        [node.text("Key") for node in root.all("Deleted")],
        [(node.text("Key"), node.text("Code")) for node in root.all("Error")],
    )


def test_delete_objects(s3: Harness) -> None:
    for key in "abc":
        s3("PUT", f"/bkt/{key}", {}, DATA)
    deleted, errors = delete(
        s3,
        "<Delete><Object><Key>a</Key></Object><Object><Key>none</Key></Object>"
        "<Object><Key>b</Key><ETag>other</ETag></Object>"
        f"<Object><Key>c</Key><ETag>{ETAG}</ETag><Size>4096</Size></Object>"
        "<Object><Key>v</Key><VersionId>abc</VersionId></Object>"
        f"<Object><Key>{'k' * 1025}</Key></Object></Delete>",
    )
    assert deleted == ["a", "none", "c"]
    assert errors == [("b", "PreconditionFailed"), ("v", "NoSuchVersion"), ("k" * 1025, "KeyTooLongError")]
    assert [s3("HEAD", f"/bkt/{key}").status for key in "abc"] == [404, 200, 404]


def test_delete_objects_quiet_and_many(s3: Harness) -> None:
    for n in range(300):
        s3("PUT", f"/bkt/{n}", {}, b"")
    objects = "".join(f"<Object><Key>{n}</Key></Object>" for n in range(300))
    assert delete(s3, f"<Delete><Quiet>true</Quiet>{objects}</Delete>") == ([], [])
    assert s3.store.buckets()[0].name == "bkt"
    assert s3("DELETE", "/bkt").status == 204


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ("", "MissingRequestBodyError"),
        ("<Delete></Delete>", "MalformedXML"),
        ("<Delete><Object></Object></Delete>", "MalformedXML"),
        ("<Delete><Object><Key></Key></Object></Delete>", "MalformedXML"),
        ("<Remove/>", "MalformedXML"),
        ("<Delete>" + "<Object><Key>k</Key></Object>" * 1001 + "</Delete>", "MalformedXML"),
    ],
)
def test_bad_delete_documents(s3: Harness, document: str, code: str) -> None:
    body = document.encode()
    assert s3("POST", "/bkt?delete", {"content-md5": b64(hashlib.md5(body).digest())}, body).code == code


def test_delete_objects_needs_a_true_checksum(s3: Harness) -> None:
    body = b"<Delete><Object><Key>k</Key></Object></Delete>"
    s3("PUT", "/bkt/k", {}, DATA)
    assert s3("POST", "/bkt?delete", {}, body).code == "InvalidRequest"
    for condition in ({"if-match": "a", "if-none-match": "*"}, {"if-match": '"a"'}):  # a condition is not dropped
        assert (
            s3("POST", "/bkt?delete", {"content-md5": b64(hashlib.md5(body).digest()), **condition}, body).code
            == "NotImplemented"
        )
    assert s3("POST", "/bkt?delete", {"content-md5": b64(hashlib.md5(b"x").digest())}, body).code == "BadDigest"
    assert s3("POST", "/bkt?delete", {"x-amz-checksum-crc32": "AAAAAA=="}, body).code == "BadDigest"
    assert s3("HEAD", "/bkt/k").status == 200
    right = b64(crc32(body).to_bytes(4, "big"))
    assert s3("POST", "/bkt?delete", {"x-amz-checksum-crc32": right}, body).status == 200
    assert s3("POST", "/none?delete", {"x-amz-checksum-crc32": right}, body).code == "NoSuchBucket"


# -- plain writes


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "text/" + "x" * 200},
        {"user-agent": "x", "amz-sdk-request": "attempt=1", "x-amz-user-agent": "y"},
        {"content-encoding": "aws-chunked", "x-amz-checksum-crc32": _value("crc32")},
        {"content-encoding": "gzip,aws-chunked", "content-md5": base64.b64encode(hashlib.md5(DATA).digest()).decode()},
    ],
    ids=["bare", "type", "long type", "clients", "checksum", "encoding"],
)
def test_a_plain_put_stores_what_one_with_more_headers_does(s3: Harness, headers: dict[str, str]) -> None:
    """Plain writes go a short way; `cache-control` sends the second the long one."""
    for _ in range(2):  # the second is answered from what the first left
        assert s3("PUT", "/bkt/plain", headers, DATA).status == 200
    assert s3("PUT", "/bkt/long", {**headers, "cache-control": "no-cache"}, DATA).status == 200
    plain, long = s3("HEAD", "/bkt/plain").headers, s3("HEAD", "/bkt/long").headers
    assert long.pop("cache-control") == "no-cache"
    changing = {"last-modified", "x-amz-request-id"}
    assert {name: value for name, value in plain.items() if name not in changing} == {
        name: value for name, value in long.items() if name not in changing
    }


def test_a_plain_put_with_a_bad_content_type_is_refused(s3: Harness) -> None:
    assert s3("PUT", "/bkt/k", {"content-type": "a\x01b"}, DATA).code == "InvalidArgument"
