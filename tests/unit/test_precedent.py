"""`s3api.precedent`: what a request is answered that is like one before, against what it is answered when nothing came before."""

from __future__ import annotations

import asyncio
import base64
import inspect
import random
import zlib
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from gateway.http.head import HeadParser
from s3api.access import OneAccount
from s3api.config import ApiConfig
from s3api.handlers import HANDLERS
from s3api.identity import Identity
from s3api.message import Request, Response
from s3api.pipeline import Pipeline
from s3api.sigv4 import UNSIGNED, SigV4, Verified, sign_headers
from tests.support.clock import NEW_YEAR_MS, ManualClock
from tests.unit.test_pipeline import Body
from tiering.contract import BucketChange, BucketInfo, PutOptions, PutResult
from tiering.memory import MemoryStore

ROOT = Identity("root", "topsecret", "owner", "root", root=True, account_id="123456789012")
USER = Identity("user", "sosecret", "owner2", "user")
NOON_S = 12 * 3600
NOW_S = NEW_YEAR_MS // 1000 + NOON_S
DENY = '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*"}]}'


@dataclass
class Asked:
    """One head to be sent."""

    method: str = "GET"
    path: bytes = b"/b/k"
    query: bytes = b""
    at_s: int = NOW_S
    host: bytes = b"h:9000"
    who: Identity = ROOT
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    payload: str = UNSIGNED

    def head(self) -> bytes:
        named = {b"host": self.host, **self.headers}
        if self.method in ("PUT", "POST"):
            named[b"content-length"] = b"%d" % len(self.body)
        secret = {"access_key": self.who.access_key, "secret_key": self.who.secret_key}
        sent = sign_headers(self.method, self.path, self.query, named, now_s=self.at_s, payload=self.payload, **secret)
        target = self.path + (b"?" + self.query if self.query else b"")
        lines = [b"%b: %b\r\n" % pair for pair in sent.items()]
        return b"%b %b HTTP/1.1\r\n%b\r\n" % (self.method.encode(), target, b"".join(lines))


class Verifier(SigV4):
    """Counts the requests that were verified the long way."""

    __slots__ = ("asked",)
    asked: int

    def verify(self, *arguments: Any, **options: Any) -> Verified | None:
        self.asked += 1
        return super().verify(*arguments, **options)


class Both:
    """The same pipeline twice over one store: one is given the shapes of heads, the other reads each as the first."""

    def __init__(self, config: ApiConfig | None = None) -> None:
        self.clock = ManualClock()
        self.clock.advance(NOON_S)
        self.store = MemoryStore(self.clock)
        self.known = {ROOT.access_key: ROOT, USER.access_key: USER}
        self.parser = HeadParser(100)
        self.pipeline, self.other = (
            Pipeline(
                self.store, config or ApiConfig(), self.known.get, HANDLERS, self.clock, directory=OneAccount(ROOT)
            )
            for _ in range(2)
        )
        self.verifier = self.pipeline._sigv4 = Verifier(self.pipeline._secret)
        self.verifier.asked = 0
        for name in ("b", "c"):
            asyncio.run(self.store.create_bucket(BucketInfo(name=name, created_ms=0, pool="", owner=ROOT.owner)))
        for key in ("k", "a@b", "deep/er"):
            asyncio.run(self.put("b", key))

    async def put(self, bucket: str, key: str) -> None:
        writer = self.store.put(bucket, key, 7, PutOptions())
        writer.write(b"content")
        await writer.commit(PutResult(etag="0" * 32))

    def send(self, head: bytes, body: bytes = b"") -> tuple[tuple[Any, ...], bool]:
        """What it was answered, and whether by precedent; after it was seen that the other pipeline says the same."""
        asked = self.verifier.asked
        one = self._answer(self.pipeline, self.parser, head, body)
        two = self._answer(self.other, HeadParser(100), head, body)
        assert one == two, head
        return one, self.verifier.asked == asked

    def __call__(self, **asked: Any) -> tuple[int, bool]:
        wanted = Asked(**asked)
        answer, precedent = self.send(wanted.head(), wanted.body)
        return answer[0], precedent

    def warm(self, **asked: Any) -> None:
        """Lets a precedent come to be: of heads that differ in their signature, then in their time."""
        for at_s in (NOW_S, NOW_S - 1, NOW_S - 2):
            for key in (b"/b/k", b"/b/deep/er"):
                self(**{"path": key, "at_s": at_s, **asked})

    def _answer(self, pipeline: Pipeline, parser: HeadParser, head: bytes, body: bytes) -> tuple[Any, ...]:
        assert parser.parse(head) == 0, head
        fields = None if parser.shape is not None else parser.headers
        place = (parser.shape, parser.head, parser.at)
        request = Request(parser.method, parser.path, parser.query, fields, Body(body), "127.0.0.1", "", 0.0, *place)
        result = pipeline.handle(request)
        response = asyncio.run(result) if inspect.iscoroutine(result) else result
        assert isinstance(response, Response)
        own = (b"x-amz-request-id", b"x-amz-id-2")
        lines = [line for line in response.headers.split(b"\r\n") if not line.startswith(own)]
        sent = response.body
        content = sent.partition(b"<RequestId>")[0] if isinstance(sent, bytes) else sent.length
        return response.status, lines, content, response.length


def test_the_next_request_of_a_shape_is_answered_by_precedent() -> None:
    both = Both()
    both.warm()
    assert both() == (200, True)
    assert both(path=b"/b/a%40b") == (200, True)
    assert both(path=b"/b/none") == (404, True)
    assert both(at_s=NOW_S + 3) == (200, True)
    assert both(path=b"/b/a@b") == (200, True)  # signed as another spelling
    assert both(path=b"/b/%6b") == (200, True)
    assert both(path=b"/%62/k") == (200, False)
    assert both(path=b"/b/k", query=b"versionId=null")[1] is False
    assert both(method="HEAD") == (200, False)
    assert both(method="HEAD") == (200, True)


def test_a_changed_head_of_the_shape_is_refused() -> None:
    both = Both()
    both.warm()
    good = Asked().head()
    assert both.send(good)[1]
    places = [good.index(b"Signature=") + 10, good.index(b"Signature=") + 73, good.index(b"/b/k") + 3]
    for at in places:
        changed = good[:at] + (b"0" if good[at : at + 1] != b"0" else b"1") + good[at + 1 :]
        answer, precedent = both.send(changed)
        assert answer[0] == 403
        assert not precedent
    assert both.send(good.replace(b"GET", b"HEAD"))[0][0] == 403
    assert both.send(good)[1], "and it stands after those"


@pytest.mark.parametrize("far_s", [901, -901, 86400])
def test_a_time_that_is_too_far_is_refused(far_s: int) -> None:
    both = Both()
    both.warm()
    assert both(at_s=NOW_S + far_s) == (403, False)
    both.clock.advance(1000)
    assert both(at_s=NOW_S) == (403, False)


def test_a_precedent_ends_with_the_day() -> None:
    both = Both()
    both.warm()
    both.clock.advance(NOON_S)
    assert both(at_s=NOW_S + NOON_S - 1) == (200, True)
    assert both(at_s=NOW_S + NOON_S) == (200, False)
    assert both(at_s=NOW_S + NOON_S) == (200, True)


def test_a_precedent_ends_with_the_caller_the_key_or_the_bucket() -> None:
    both = Both()
    both.warm()
    assert both() == (200, True)
    both.known["root"] = msgspec.structs.replace(ROOT, secret_key="another")
    assert both() == (403, False)
    both.known["root"] = ROOT
    assert both() == (200, True)
    del both.known["root"]
    assert both() == (403, False)
    both.known["root"] = ROOT
    asyncio.run(both.store.change_bucket("b", BucketChange(documents={"policy": DENY})))
    assert both() == (403, False)
    asyncio.run(both.store.change_bucket("b", BucketChange(documents={"policy": None})))
    assert both()[0] == 200
    assert both() == (200, True)
    assert both(path=b"/gone/k") == (404, False)


def test_what_is_judged_each_time_has_no_precedent() -> None:
    both = Both()
    for _ in range(4):
        both.warm(headers={b"x-amz-expected-bucket-owner": ROOT.account_id.encode()})
        assert both(headers={b"x-amz-security-token": b"token"})[0] == 400
    assert both(headers={b"x-amz-expected-bucket-owner": ROOT.account_id.encode()}) == (200, False)
    assert both(headers={b"x-amz-expected-bucket-owner": b"210987654321"}) == (403, False)


def test_a_range_that_varies_is_the_one_that_was_asked_for() -> None:
    both = Both()
    answers = [both.send(Asked(headers={b"range": b"bytes=%d-6" % (at % 7)}).head()) for at in range(14)]
    assert [(answer[0], answer[2]) for answer, _ in answers] == [(206, 7 - at % 7) for at in range(14)]
    assert all(precedent for _, precedent in answers[4:])


def test_writes_have_precedents_of_their_own() -> None:
    both = Both()

    def put(content: bytes, **asked: Any) -> tuple[int, bool]:
        crc = {b"x-amz-checksum-crc32": base64.b64encode(zlib.crc32(content).to_bytes(4, "big"))}
        crc[b"expect"] = b"100-continue"  # as boto3 sends
        return both(method="PUT", body=content, payload=sha256(content).hexdigest(), headers=crc, **asked)

    answers = [put(b"content %d" % number, path=b"/b/%d" % number) for number in range(8)]
    assert answers[4:] == [(200, True)] * 4
    assert put(b"content 8", path=b"/none/k") == (404, False)
    wrong = Asked(method="PUT", body=b"content 9", payload=sha256(b"content 9").hexdigest())
    wrong.headers = {b"x-amz-checksum-crc32": b"AAAAAA==", b"expect": b"100-continue"}
    answer, precedent = both.send(wrong.head(), wrong.body)
    assert (answer[0], precedent) == (400, True)
    assert b"<Code>BadDigest</Code>" in answer[2]
    wrong.headers[b"x-amz-checksum-crc32"] = base64.b64encode(zlib.crc32(b"Content 9").to_bytes(4, "big"))
    answer, precedent = both.send(wrong.head(), b"Content 9")
    assert (answer[0], precedent) == (400, True)
    assert b"<Code>XAmzContentSHA256Mismatch</Code>" in answer[2]
    assert put(b"another 9") == (200, True)


def test_the_batch_api_has_precedents() -> None:
    both = Both()
    for number in range(6):
        body = msgspec.json.encode({"keys": ["k", f"none{number}"]})
        answer, precedent = both.send(
            Asked(
                method="POST", path=b"/b", query=b"recall=lookup", body=body, payload=sha256(body).hexdigest()
            ).head(),
            body,
        )
        assert answer[0] == 200
        assert precedent == (number > 2)
    assert both(method="POST", path=b"/b", query=b"recall=unknown", body=body)[0] >= 400
    assert both(method="POST", path=b"/b/k", query=b"recall=lookup", body=body)[0] >= 400


def test_a_header_that_varies_may_be_signed() -> None:
    both = Both()
    for number in range(8):
        both(headers={b"amz-sdk-invocation-id": b"%032d" % number}, at_s=NOW_S - number)
    assert both(headers={b"amz-sdk-invocation-id": b"%032d" % 77}) == (200, True)
    assert both(headers={b"amz-sdk-invocation-id": b"%030d 1" % 77}) == (200, True)
    assert both(headers={b"amz-sdk-invocation-id": b"%029d  1" % 77}) == (200, False)  # signed as one space
    forged = Asked(headers={b"amz-sdk-invocation-id": b"%032d" % 77}).head().replace(b"077\r\n", b"078\r\n")
    assert both.send(forged)[0][0] == 403


def test_what_was_judged_of_one_operation_is_not_of_another() -> None:
    """A batch judges its keys itself, so it may be asked of a bucket whose policy a GET would have to be judged by."""
    both = Both()
    asyncio.run(both.put("c", "k"))
    asyncio.run(both.store.change_bucket("c", BucketChange(documents={"policy": DENY.replace(":::b/", ":::c/")})))
    body = b'{"keys":["k"]}'
    same: dict[str, Any] = {"headers": {b"content-length": b"%d" % len(body)}, "body": body}
    for number in range(3):
        assert both(path=b"/b/k", **same) == (200, number > 1)
        assert both(method="POST", path=b"/c/", query=b"recall=lookup", **same) == (200, number > 1)
    assert both(path=b"/c/k", **same) == (403, False)


def test_headers_of_a_query_are_not_those_of_the_next_request() -> None:
    """A URL's maker may put headers into it, which then count; also in one that is signed by header, if its own name is escaped."""
    both = Both()
    for number in range(4):
        both(query=b"X%2DAmz-Signature=1&x-amz-checksum-mode=ENABLED", at_s=NOW_S - number)
    for _ in range(3):
        answer, _ = both.send(Asked().head())
        assert not any(line.startswith(b"x-amz-checksum") for line in answer[1])
    for number in range(4):
        query = b"recall=lookup&X%2DAmz-Signature=1&x-amz-acl=public-read"
        both(method="POST", path=b"/b", query=query, body=b'{"keys":["k"]}', at_s=NOW_S - number)


def test_a_policy_that_asks_how_old_a_signature_is_sees_this_one() -> None:
    both = Both()
    asyncio.run(both.put("c", "k"))
    old = DENY.replace(":::b/", ":::c/").replace(
        '"Resource"', '"Condition":{"NumericGreaterThan":{"s3:signatureAge":"60000"}},"Resource"'
    )
    asyncio.run(both.store.change_bucket("c", BucketChange(documents={"policy": old})))
    copy: dict[str, Any] = {"method": "PUT", "path": b"/b/z", "headers": {b"x-amz-copy-source": b"/c/k"}}
    for number in range(4):
        assert both(at_s=NOW_S - number, **copy)[0] == 200
    assert both(at_s=NOW_S - 800, **copy) == (403, True)
    both.clock.advance(100)
    assert both(at_s=NOW_S + 100, **copy) == (200, True)


def test_what_differs_from_query_to_query_is_not_kept() -> None:
    both = Both()
    body = b'{"keys":["k"]}'
    for number in range(8):
        query = b"recall=lookup&z=%d" % number
        both(method="POST", path=b"/b", query=query, body=body)
        assert both(method="POST", path=b"/b", query=query, body=body)[1] is False
        assert both(query=b"versionId=null&xrecall=lookup")[1] is False


def test_a_header_that_varies_may_be_unsigned() -> None:
    """As boto3 adds them, after the signature."""
    both = Both()

    def traced(number: int) -> tuple[Any, bool]:
        head = Asked(at_s=NOW_S - number % 3).head()
        added = b"\r\namz-sdk-invocation-id: %032d\r\namz-sdk-request: attempt=1\r\n\r\n" % number
        return both.send(head.replace(b"\r\n\r\n", added))

    assert [traced(number)[1] for number in range(10)][4:] == [True] * 6


def test_what_a_precedent_keeps_is_bounded() -> None:
    both = Both()
    for number in range(100):
        bucket = f"bucket-{number:03d}"
        asyncio.run(both.store.create_bucket(BucketInfo(name=bucket, created_ms=0, pool="", owner=ROOT.owner)))
        for _ in range(2):
            both(path=b"/%b/k" % bucket.encode(), at_s=NOW_S - number % 2)
    assert both(path=b"/bucket-099/k") == (404, True)
    assert both(path=b"/bucket-000/k") == (404, False)


def test_the_bucket_may_be_the_host() -> None:
    both = Both(ApiConfig(domains=("s3.test",)))
    host = b"b.s3.test"
    both.warm(host=host, path=b"/k")
    assert both(host=host, path=b"/deep/er") == (200, True)
    assert both(host=host, path=b"/b/k") == (404, True)
    assert both(host=b"c.s3.test", path=b"/k") == (404, False)


def test_no_two_callers_are_taken_for_each_other() -> None:
    both = Both()
    both.warm()
    for _ in range(3):
        assert both(who=USER) == (403, False)
        assert both() == (200, True)


@pytest.mark.parametrize("seed", range(6))
def test_any_requests_are_answered_as_if_none_had_come_before(seed: int) -> None:
    print("seed", seed)
    chance = random.Random(seed)
    both = Both(ApiConfig(domains=("s3.test",)))
    escaped = (b"a%40b", b"a@b", b"a%2Fb", b"%6b", b"%ff", b"k%00", b"%20" * 400, b"l" * 1025, b"/k", b"")
    paths = [
        b"/b/k",
        b"/b/k",
        b"/b/deep/er",
        b"/b",
        b"/c/k",
        b"/none/k",
        b"/",
        b"/minio/k",
        *(b"/b/" + key for key in escaped),
    ]
    told = 0
    for _ in range(40):
        host = chance.choice((b"h:9000", b"h:9000", b"b.s3.test"))
        who = chance.choice((ROOT, ROOT, ROOT, USER))
        traced = chance.random() < 0.4
        for _ in range(20):
            headers = {b"amz-sdk-invocation-id": b"%08d" % chance.randrange(10**8)} if traced else {}
            if chance.random() < 0.05:
                headers[b"range"] = b"bytes=1-%d" % chance.randrange(2, 9)
            head = Asked(
                method=chance.choice(("GET", "GET", "HEAD")),
                path=chance.choice(paths),
                query=b"partNumber=1" if chance.random() < 0.1 else b"",
                at_s=NOW_S + chance.choice((0, 0, 0, 1, -700, 2000, NOON_S)),
                host=host,
                who=who,
                headers=headers,
            ).head()
            if chance.random() < 0.2:
                head = changed(head, chance)
            told += both.send(head)[1]
        policy = DENY if chance.random() < 0.2 else None
        asyncio.run(both.store.change_bucket("b", BucketChange(documents={"policy": policy})))
    assert told > 20


def changed(head: bytes, chance: random.Random) -> bytes:
    """The head with another byte somewhere, if it still is one."""
    at = chance.randrange(4, len(head) - 4)
    other = head[:at] + bytes([chance.choice(b"0aA%/ .")]) + head[at + 1 :]
    good = HeadParser(100).parse(other) == 0 and other.endswith(b"\r\n\r\n") and other.count(b"\r\n\r\n") == 1
    return other if good else head
