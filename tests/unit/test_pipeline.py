"""`s3api.pipeline`: one request from start to end, with handlers of the test's own and the memory store behind."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from s3api import xml
from s3api.access import OneAccount
from s3api.call import Call, Handler
from s3api.config import ApiConfig
from s3api.errors import ERRORS, S3Error
from s3api.identity import Identity
from s3api.message import BodyError, Request, Response
from s3api.operations import TABLE
from s3api.pipeline import Pipeline
from s3api.sigv4 import presign, sign_headers
from tests.support.clock import NEW_YEAR_MS, ManualClock
from tiering import contract
from tiering.contract import BucketInfo, ObjectInfo
from tiering.memory import MemoryStore

ROOT = Identity("root", "topsecret", "owner", "root", root=True)
NOW_S = NEW_YEAR_MS // 1000


class Body:
    def __init__(self, data: bytes = b"", fails: str = "") -> None:
        self.length: int | None = len(data)
        self._data = data
        self._fails = fails

    async def read(self) -> memoryview:
        if self._fails:
            raise BodyError(self._fails)
        data, self._data = self._data, b""
        return memoryview(data)

    def done(self) -> None: ...

    def whole(self) -> memoryview | None:
        return None


class Edge:
    """A pipeline with what it is given, and requests signed as root."""

    def __init__(self, handlers: dict[str, Handler] | None = None, config: ApiConfig | None = None) -> None:
        self.seen: list[Call] = []
        self.observed: list[tuple[str, int, int, int, float]] = []
        clock = ManualClock()
        self.store = MemoryStore(clock)
        asyncio.run(self.store.create_bucket(BucketInfo(name="b", created_ms=0, pool="")))
        table: dict[str, Handler] = {row.handler: self.answer for row in TABLE if row.handler}
        self.pipeline = Pipeline(
            self.store,
            config or ApiConfig(),
            {ROOT.access_key: ROOT}.get,
            table | (handlers or {}),
            clock,
            lambda *facts: self.observed.append(facts),
            monotonic=lambda: 12.5,
            directory=OneAccount(ROOT),
        )

    def answer(self, call: Call) -> Response:
        self.seen.append(call)
        return Response(200, b"x-test: 1\r\n", b"body")

    def request(
        self,
        method: str,
        path: bytes,
        query: bytes = b"",
        headers: dict[bytes, bytes] | None = None,
        body: Body | None = None,
    ) -> Request:
        body = body or Body()
        base = {b"host": b"h:9000", **(headers or {})}
        if method in ("PUT", "POST"):
            base.setdefault(b"content-length", b"%d" % (body.length or 0))
        sent = sign_headers(method, path, query, base, access_key="root", secret_key="topsecret", now_s=NOW_S)
        return Request(method, path, query, sent, body, started_s=12.0)

    def __call__(self, *arguments: Any, **options: Any) -> Response:
        return self.send(self.request(*arguments, **options))

    def send(self, request: Request) -> Response:
        result = self.pipeline.handle(request)
        response = asyncio.run(result) if inspect.iscoroutine(result) else result
        assert isinstance(response, Response)
        return response


def lines(response: Response) -> dict[str, str]:
    pairs = [line.partition(": ") for line in response.headers.decode().split("\r\n")[:-1]]
    assert len({name for name, _, _ in pairs}) == len(pairs)
    return {name: value for name, _, value in pairs}


def error(response: Response) -> xml.Node:
    assert isinstance(response.body, bytes)
    return xml.parse(response.body, "Error")


def raising(failure: BaseException) -> Handler:
    def handler(call: Call) -> Response:
        raise failure

    return handler


def test_handler_is_called_with_the_whole_request() -> None:
    edge = Edge()
    response = edge("GET", b"/b/a%40b//c", b"partNumber=2&response-content-type=text%2Fplain")
    assert (response.status, response.body) == (200, b"body")
    call = edge.seen[0]
    assert (call.operation, call.bucket, call.key) == ("GetObject", "b", "a@b//c")
    assert call.query == {"partNumber": "2", "response-content-type": "text/plain"}
    assert call.identity is ROOT
    assert call.now_ms == NEW_YEAR_MS
    assert call.store is edge.store
    assert call.request_id == lines(response)["x-amz-request-id"]


def test_every_reply_carries_ids_and_server() -> None:
    edge = Edge()
    replies = [edge("GET", b"/b/k"), edge("GET", b"/"), edge("POST", b"/b/k"), edge("PUT", b"/b/%ff")]
    found = [lines(reply) for reply in replies]
    assert {each["server"] for each in found} == {"Recall"}
    assert len({each["x-amz-request-id"] for each in found}) == len(found)
    assert len({each["x-amz-id-2"] for each in found}) == 1
    assert all(len(each["x-amz-request-id"]) == 16 for each in found)


def test_handler_that_answers_at_once_makes_no_coroutine() -> None:
    edge = Edge()
    assert isinstance(edge.pipeline.handle(edge.request("GET", b"/b/k")), Response)
    assert isinstance(edge.pipeline.handle(edge.request("POST", b"/b/k")), Response)


def test_handler_that_waits_is_awaited() -> None:
    async def wait() -> Response:
        await asyncio.sleep(0)
        return Response(204)

    def handler(call: Call) -> Coroutine[Any, Any, Response]:
        return wait()

    edge = Edge({"GetObject": handler})
    response = edge("GET", b"/b/k")
    assert response.status == 204
    assert "x-amz-request-id" in lines(response)


def test_error_while_waiting_is_rendered() -> None:
    async def wait() -> Response:
        await asyncio.sleep(0)
        raise contract.NoSuchKey

    response = Edge({"GetObject": lambda call: wait()})("GET", b"/b/k")
    assert response.status == 404
    assert error(response).text("Code") == "NoSuchKey"


def test_cancellation_is_not_swallowed() -> None:
    edge = Edge({"GetObject": raising(asyncio.CancelledError())})
    with pytest.raises(asyncio.CancelledError):
        edge.pipeline.handle(edge.request("GET", b"/b/k"))


# Who calls.


def test_anonymous_is_denied() -> None:
    edge = Edge()
    response = edge.send(Request("GET", b"/b/k", b"", {b"host": b"h"}, Body()))
    assert response.status == 403
    assert error(response).text("Code") == "AccessDenied"
    assert not edge.seen


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        (lambda headers: headers | {b"range": b"bytes=0-1", b"host": b"other"}, 403, "SignatureDoesNotMatch"),
        (lambda headers: headers | {b"authorization": headers[b"authorization"].replace(b"root/", b"toor/")}, 403, "InvalidAccessKeyId"),
        (lambda headers: headers | {b"authorization": b"AWS root:x"}, 403, "AccessDenied"),
        (lambda headers: headers | {b"x-amz-acl": b"public-read"}, 403, "AccessDenied"),
    ],
)  # fmt: skip
def test_bad_signature_reaches_no_handler(
    change: Callable[[dict[bytes, bytes]], dict[bytes, bytes]], status: int, code: str
) -> None:
    edge = Edge()
    request = edge.request("GET", b"/b/k")
    request.headers = change(request.headers)
    response = edge.send(request)
    assert (response.status, error(response).text("Code")) == (status, code)
    assert not edge.seen
    assert b"topsecret" not in response.headers + bytes(response.body)  # type: ignore[arg-type]


def test_presigned_url_is_served_and_its_parameters_are_no_operation() -> None:
    edge = Edge()
    host = {b"host": b"h:9000"}
    query = presign("GET", b"/b/k", b"", host, access_key="root", secret_key="topsecret", now_s=NOW_S, expires_s=60)
    assert edge.send(Request("GET", b"/b/k", query, host, Body())).status == 200
    assert edge.send(Request("PUT", b"/b/k", query, host | {b"content-length": b"0"}, Body())).status == 403
    assert len(edge.seen) == 1


def test_expected_bucket_owner_must_be_ours() -> None:
    edge = Edge()
    assert edge("GET", b"/b/k", headers={b"x-amz-expected-bucket-owner": b"owner"}).status == 200
    assert edge("GET", b"/b/k", headers={b"x-amz-expected-bucket-owner": b"111122223333"}).status == 403


# What the table answers.


def test_known_operation_that_is_not_served() -> None:
    edge = Edge()
    response = edge("PUT", b"/b", b"replication")
    assert response.status == 501
    assert error(response).text("Code") == "NotImplemented"
    assert not edge.seen


def test_half_of_an_operation_reaches_no_handler() -> None:
    edge = Edge()
    for query in (b"partNumber=1", b"uploadId=u", b"acl&tagging", b"versionId=null", b"tagging=&tagging="):
        assert edge("PUT", b"/b/k", query, body=Body(b"data")).status == 400
    assert not edge.seen


@pytest.mark.parametrize("row", [row for row in TABLE if row.unset or row.document], ids=lambda row: row.name)
def test_unset_configuration_says_so(row: Any) -> None:
    edge = Edge()
    path, gone = (b"/b", b"/nothere") if row.scope == "bucket" else (b"/b/k", b"/nothere/k")
    query = "&".join(row.query).encode()
    response = edge(row.method, path, query)
    if row.document:
        assert response.status == 200
        assert isinstance(response.body, bytes)
        said = {child.name: child.own for child in xml.parse(response.body, row.document).children}
        assert said == row.document_fields
    else:
        assert response.status == ERRORS[row.unset].status
        assert error(response).text("Code") == row.unset
    response = edge(row.method, gone, query)
    assert (response.status, error(response).text("Code")) == (404, "NoSuchBucket")


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
def test_admin_calls_of_minio_are_refused_as_such(method: str) -> None:
    """And not by saying that there is no bucket of that name, which sends an operator elsewhere."""
    response = Edge()(method, b"/minio/admin/v3/service", b"action=restart")
    assert (response.status, error(response).text("Code")) == (501, "NotImplemented")
    assert "recall --help" in error(response).text("Message")
    assert error(Edge()("GET", b"/minio", b"")).text("Code") == "NoSuchBucket"


def test_handler_may_replace_an_answer_of_the_table() -> None:
    edge = Edge({"GetBucketWebsite": lambda call: Response(200, b"", b"site")})
    assert edge("GET", b"/b", b"website").body == b"site"


# Bodies.


@pytest.mark.parametrize("extra", [{}, {b"transfer-encoding": b"chunked"}])
def test_stream_without_a_length_is_refused(extra: dict[bytes, bytes]) -> None:
    edge = Edge()
    request = edge.request("PUT", b"/b/k", headers=extra)
    del request.headers[b"content-length"]
    response = edge.send(request)
    assert (response.status, error(response).text("Code")) == (411, "MissingContentLength")
    request = edge.request("PUT", b"/b/k", headers={b"x-amz-copy-source": b"/b/k"})
    del request.headers[b"content-length"]
    assert edge.send(request).status == 200


@pytest.mark.parametrize(
    ("kind", "code"), [("gone", "IncompleteBody"), ("slow", "RequestTimeout"), ("framing", "IncompleteBody")]
)
def test_body_that_does_not_come_closes_the_connection(kind: str, code: str) -> None:
    async def read(call: Call) -> Response:
        await call.payload.read()
        return Response(200)

    response = Edge({"PutObject": read})("PUT", b"/b/k", body=Body(b"x", fails=kind))
    assert (response.status, response.close) == (400, True)
    assert error(response).text("Code") == code


# Errors.


def test_error_document_has_the_shape_of_aws() -> None:
    edge = Edge({"GetObject": raising(S3Error("InvalidArgument", "No <good>.", b"x-more: 1\r\n", ArgumentName="a&b"))})
    response = edge("GET", b"/b/k%26")
    assert isinstance(response.body, bytes)
    assert response.body.startswith(b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>InvalidArgument</Code>')
    document = error(response)
    found = lines(response)
    assert [child.name for child in document.children] == [
        "Code",
        "Message",
        "ArgumentName",
        "Resource",
        "RequestId",
        "HostId",
    ]
    assert document.text("Message") == "No <good>."
    assert document.text("ArgumentName") == "a&b"
    assert document.text("Resource") == "/b/k&"
    assert document.text("RequestId") == found["x-amz-request-id"]
    assert document.text("HostId") == found["x-amz-id-2"]
    assert found["content-type"] == "application/xml"
    assert found["x-more"] == "1"


def test_head_errors_have_no_body() -> None:
    edge = Edge({"HeadObject": raising(contract.NoSuchKey())})
    response = edge("HEAD", b"/b/k")
    assert (response.status, response.body) == (404, b"")
    assert "content-type" not in lines(response)


@pytest.mark.parametrize(
    ("failure", "status", "retry"),
    [
        (contract.ColdUnavailable(retry_s=4), 503, "4"),
        (contract.Busy(), 503, "1"),
        (contract.Corrupt(), 500, "1"),
        (RuntimeError("bug"), 500, "1"),
        (S3Error("SlowDown", retry_s=9), 503, "9"),
    ],
)
def test_get_that_will_be_tried_again_has_an_empty_body(failure: Exception, status: int, retry: str) -> None:
    response = Edge({"GetObject": raising(failure)})("GET", b"/b/k")
    assert (response.status, response.body) == (status, b"")
    assert lines(response)["retry-after"] == retry
    response = Edge({"PutObject": raising(failure)})("PUT", b"/b/k")
    assert (response.status, error(response).text("Code")) == (status, "InternalError" if status == 500 else "SlowDown")
    assert lines(response)["retry-after"] == retry
    assert "retry_s" not in {child.name for child in error(response).children}


def test_not_modified_carries_the_validators() -> None:
    info = ObjectInfo(generation=1, size=3, modified_ms=784_111_777_000, etag="abc", crc64=0)
    response = Edge({"GetObject": raising(contract.NotModified(info=info))})("GET", b"/b/k")
    assert (response.status, response.body) == (304, b"")
    assert lines(response)["etag"] == '"abc"'
    assert lines(response)["last-modified"] == "Sun, 06 Nov 1994 08:49:37 GMT"


def test_unsatisfiable_range_states_the_size() -> None:
    response = Edge({"GetObject": raising(contract.InvalidRange(size=7))})("GET", b"/b/k")
    assert response.status == 416
    assert lines(response)["content-range"] == "bytes */7"


@pytest.mark.parametrize(
    ("failure", "query", "elements"),
    [
        (contract.NoSuchKey(condition="If-Match"), b"", {"Key": "a&b"}),
        (contract.NoSuchKey(key="source"), b"", {"Key": "source"}),
        (contract.NoSuchBucket(), b"", {"BucketName": "b"}),
        (contract.NoSuchUpload(), b"uploadId=u%2F1", {"UploadId": "u/1"}),
        (contract.InvalidPart(number=3, etag="e"), b"uploadId=u", {"UploadId": "u", "PartNumber": "3", "ETag": "e"}),
        (contract.InvalidRange(size=7), b"", {"RangeRequested": "bytes=9-", "ActualObjectSize": "7"}),
    ],
)
def test_error_document_names_its_subject(failure: Exception, query: bytes, elements: dict[str, str]) -> None:
    handlers = dict.fromkeys(("GetObject", "ListParts"), raising(failure))
    document = error(Edge(handlers)("GET", b"/b/a%26b", query, {b"range": b"bytes=9-"}))
    assert {name: document.text(name) for name in elements} == elements


@pytest.mark.parametrize(
    ("method", "path", "query", "header"),
    [
        ("PUT", b"/b/k", b"", b"x-recall-pinn"),
        ("PUT", b"/b/k", b"", b"x-recall-tier"),
        ("PUT", b"/b/k", b"", b"x-recall-pool"),
        ("PUT", b"/b", b"", b"x-recall-pin"),
        ("POST", b"/b/k", b"recall", b"x-recall-pool"),
        ("POST", b"/b/k", b"uploads", b"x-recall-tier"),
        ("DELETE", b"/b/k", b"", b"x-recall-pin"),
    ],
)
def test_header_of_ours_the_operation_does_not_take_is_refused(
    method: str, path: bytes, query: bytes, header: bytes
) -> None:
    edge = Edge()
    response = edge(method, path, query, {header: b"true"})
    assert (response.status, error(response).text("Code")) == (400, "InvalidArgument")
    assert error(response).text("ArgumentName") == header.decode()
    assert header.decode() in error(response).text("Message")
    assert edge.seen == []


@pytest.mark.parametrize(
    ("method", "path", "query", "header"),
    [
        ("PUT", b"/b/k", b"", b"x-recall-pin"),
        ("PUT", b"/b", b"", b"x-recall-pool"),
        ("POST", b"/b/k", b"uploads", b"x-recall-ttl"),
        ("POST", b"/b/k", b"recall", b"x-recall-tier"),
        ("PUT", b"/b/k", b"", b"x-amz-meta-x-recall-pinn"),
    ],
)
def test_header_of_ours_the_operation_takes_reaches_it(method: str, path: bytes, query: bytes, header: bytes) -> None:
    assert Edge()(method, path, query, {header: b"true"}).status == 200


def test_what_a_head_said_of_us_may_come_back_with_a_copy_and_nothing_else_of_ours() -> None:
    """As s3cmd sends it: a copy onto itself with all that HEAD told."""
    echoed = {b"x-amz-copy-source": b"/b/k", b"x-recall-tier": b"hot", b"x-recall-expires": b"x"}
    assert Edge()("PUT", b"/b/k", b"", echoed).status == 200
    assert Edge()("PUT", b"/b/k", b"", echoed | {b"x-recall-pinn": b"1"}).status == 400


def test_our_own_fault_is_logged_with_the_request_id_and_told_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="recall.s3api"):
        response = Edge({"PutObject": raising(RuntimeError("/secret/path"))})("PUT", b"/b/k")
    assert lines(response)["x-amz-request-id"] in caplog.text
    assert "/secret/path" in caplog.text
    assert b"/secret/path" not in response.body  # type: ignore[operator]


def test_refused_request_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="recall.s3api"):
        Edge({"GetObject": raising(contract.NoSuchKey())})("GET", b"/b/k")
    assert not caplog.records


def test_path_that_cannot_be_read_is_still_answered() -> None:
    for path in (b"", b"*", b"/b/%", b"/b/%ff", b"//k", b"/b/" + b"k" * 1025):
        response = Edge().send(Request("GET", path, b"", {}, Body()))
        assert response.status == 400
        assert error(response).text("Code") in ("InvalidURI", "InvalidBucketName", "KeyTooLongError")


# Metrics.


def test_finished_tells_the_observer() -> None:
    async def read(call: Call) -> Response:
        while len(await call.payload.read()):
            pass
        return Response(200)

    edge = Edge({"PutObject": read})
    request = edge.request("PUT", b"/b/k", body=Body(b"hello"))
    edge.pipeline.finished(request, edge.send(request), 0, True)
    request = edge.request("GET", b"/b/k")
    edge.pipeline.finished(request, edge.send(request), 4, True)
    request = Request("GET", b"/b/%", b"", {}, Body(), started_s=12.0)
    edge.pipeline.finished(request, edge.send(request), 9, False)
    assert edge.observed == [
        ("PutObject", 200, 0.5, 5, 0, True, ""),
        ("GetObject", 200, 0.5, 0, 4, True, ""),
        ("", 400, 0.5, 0, 9, False, "InvalidURI"),
    ]


def test_request_the_pipeline_never_saw_is_not_observed() -> None:
    edge = Edge()
    edge.pipeline.finished(Request("GET", b"/", b"", {}, Body()), Response(400), 0, True)
    assert not edge.observed


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "BadRequest"),
        (408, "RequestTimeout"),
        (414, "InvalidURI"),
        (431, "RequestHeaderSectionTooLarge"),
        (501, "NotImplemented"),
        (503, "SlowDown"),
        (505, "BadRequest"),
    ],
)
def test_what_is_no_request_gets_an_error_document_too(status: int, code: str) -> None:
    edge = Edge()
    reply = edge.pipeline.refusal(status)
    document = error(reply)
    assert document.text("Code") == code
    assert reply.status == ERRORS[code].status
    assert document.text("RequestId") == lines(reply)["x-amz-request-id"]
