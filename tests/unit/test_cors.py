"""Cross-origin rules: which rule fits, what it says; and preflights and replies through the pipeline."""

from __future__ import annotations

import asyncio

import pytest

from s3api import cors, xml
from s3api.message import Request, Response
from tests.unit.test_pipeline import Body, Edge, error, lines
from tiering.contract import BucketChange


def document(*rules: str) -> str:
    body = "".join(f"<CORSRule>{rule}</CORSRule>" for rule in rules)
    return cors.check(xml.parse(f"<CORSConfiguration>{body}</CORSConfiguration>".encode(), "CORSConfiguration"))


def rule(origin: str, method: str = "GET", rest: str = "") -> str:
    return f"<AllowedOrigin>{origin}</AllowedOrigin><AllowedMethod>{method}</AllowedMethod>{rest}"


PATTERNS = document(rule("*suffix"), rule("start*end"), rule("prefix*"), rule("*.put", "PUT"))


@pytest.mark.parametrize(
    ("origin", "method", "fits"),
    [
        ("foo.suffix", "GET", True),
        ("suffix", "GET", True),
        ("foo.suffix.get", "GET", False),
        ("startend", "GET", True),
        ("start1end", "GET", True),
        ("0start12end", "GET", False),
        ("prefix", "GET", True),
        ("bla.prefix", "GET", False),
        ("foo.put", "GET", False),
        ("foo.put", "PUT", True),
        ("FOO.SUFFIX", "GET", False),
    ],
)
def test_an_origin_is_matched_whole(origin: str, method: str, fits: bool) -> None:
    assert (cors.match(PATTERNS, origin, method, ()) is not None) is fits


def test_a_star_does_not_use_a_character_twice() -> None:
    assert cors.match(document(rule("ab*ba")), "aba", "GET", ()) is None


def test_no_rule_lets_more_names_pass_than_a_request_has_lines() -> None:
    text = document(rule("*", rest="<AllowedHeader>*</AllowedHeader>"))
    names = tuple(f"x-{number}" for number in range(cors.HEADERS_MAX + 1))
    assert cors.match(text, "o", "GET", names[:-1]) is not None
    assert cors.match(text, "o", "GET", names) is None


def test_the_first_rule_that_fits_counts() -> None:
    text = document(rule("a", "PUT"), rule("a", "GET", "<ID>one</ID>"), rule("*", "GET", "<ID>two</ID>"))
    found = cors.match(text, "a", "GET", ())
    assert found is not None
    assert found.id == "one"


@pytest.mark.parametrize(
    ("allowed", "asked", "fits"),
    [
        ((), "", True),
        ((), "x-a", False),
        (("*",), "x-a, X-B", True),
        (("x-amz-*",), "x-amz-date,X-AMZ-META-A", True),
        (("x-amz-*",), "x-amz-date,content-type", False),
        (("X-A", "content-type"), " x-a ,, Content-Type", True),
    ],
)
def test_every_header_asked_for_must_be_allowed(allowed: tuple[str, ...], asked: str, fits: bool) -> None:
    text = document(rule("*", "GET", "".join(f"<AllowedHeader>{name}</AllowedHeader>" for name in allowed)))
    assert (cors.match(text, "x", "GET", cors.requested(asked)) is not None) is fits


def test_lines_name_the_origin_or_all() -> None:
    text = document(
        rule("http://*.a", "GET", "<AllowedMethod>PUT</AllowedMethod><AllowedHeader>*</AllowedHeader>"
             "<ExposeHeader>ETag</ExposeHeader><ExposeHeader>x-b</ExposeHeader><MaxAgeSeconds>0</MaxAgeSeconds>"),
        rule("*"),
    )  # fmt: skip
    first, second = cors.rules(text)
    assert cors.lines(first, "http://x.a", ("x-c", "x-d")) == (
        "access-control-allow-origin: http://x.a\r\naccess-control-allow-credentials: true\r\n"
        "access-control-allow-methods: GET, PUT\r\naccess-control-allow-headers: x-c, x-d\r\n"
        "access-control-expose-headers: ETag, x-b\r\naccess-control-max-age: 0\r\n" + cors.VARY
    )
    assert cors.lines(second, "http://x.a", ()) == (
        "access-control-allow-origin: *\r\naccess-control-allow-methods: GET\r\n" + cors.VARY
    )


# -- through the pipeline


@pytest.fixture
def edge() -> Edge:
    edge = Edge()
    put(edge, document(rule("http://a", "GET"), rule("*", "PUT")))
    return edge


def put(edge: Edge, text: str | None) -> None:
    asyncio.run(edge.store.change_bucket("b", BucketChange({"cors": text})))


def options(edge: Edge, path: bytes = b"/b/k", **headers: str) -> Response:
    sent = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return edge.send(Request("OPTIONS", path, b"", {b"host": b"h:9000", **sent}, Body()))


def access(response: Response) -> dict[str, str]:
    return {name: value for name, value in lines(response).items() if name.startswith("access-control")}


GET = {"access_control_request_method": "GET"}


def test_preflight_is_answered_unsigned_and_counted(edge: Edge) -> None:
    for path in (b"/b", b"/b/k", b"/b/no/such?uploads".partition(b"?")[0]):
        reply = options(edge, path, origin="http://a", **GET)
        assert (reply.status, reply.body) == (200, b"")
        assert access(reply) == {
            "access-control-allow-origin": "http://a",
            "access-control-allow-credentials": "true",
            "access-control-allow-methods": "GET",
        }
        assert "x-amz-request-id" in lines(reply)
    assert edge.seen == []


@pytest.mark.parametrize(
    ("path", "headers", "status", "code", "fields"),
    [
        (b"/b/k", {}, 400, "BadRequest", {}),
        (b"/b/k", {"origin": "http://a"}, 400, "BadRequest", {}),
        (b"/b/k", {"origin": "http://a", "access_control_request_method": "PATCH"}, 400, "BadRequest", {}),
        (b"/b/k", {"origin": "http://b", **GET}, 403, "AccessForbidden", {"Method": "GET", "ResourceType": "OBJECT"}),
        (b"/b", {"origin": "http://b", **GET}, 403, "AccessForbidden", {"Method": "GET", "ResourceType": "BUCKET"}),
        (b"/b", {"origin": "http://a", "access_control_request_headers": "x", **GET}, 403, "AccessForbidden", {}),
        (b"/none", {"origin": "http://a", "access_control_request_method": "get"}, 400, "BadRequest", {}),
        (b"/b", {"origin": "http://a", "access_control_request_headers": "a b", **GET}, 400, "BadRequest", {}),
        (b"/b", {"origin": "http://a", "access_control_request_headers": "ok,bad/name", **GET}, 400, "BadRequest", {}),
        (b"/none/k", {"origin": "http://a"}, 403, "AccessForbidden", {"Method": "OPTIONS", "ResourceType": "BUCKET"}),
        (b"/", {"origin": "http://a", **GET}, 403, "AccessForbidden", {}),
    ],
)  # fmt: skip
def test_preflight_refusals(
    edge: Edge, path: bytes, headers: dict[str, str], status: int, code: str, fields: dict[str, str]
) -> None:
    reply = options(edge, path, **headers)
    document = error(reply)
    assert (reply.status, document.text("Code")) == (status, code)
    for name, value in fields.items():
        assert document.text(name) == value
    assert access(reply) == {}


def test_a_preflight_is_told_the_name_as_it_sent_it(edge: Edge) -> None:
    document = error(options(edge, origin="http://a", access_control_request_headers="X-Ok, X(Bad)", **GET))
    assert document.text("Message") == 'Access-Control-Request-Headers "X(Bad)" contains invalid character.'


def test_preflight_without_rules(edge: Edge) -> None:
    put(edge, None)
    document = error(options(edge, origin="http://a", **GET))
    assert document.text("Message") == "CORSResponse: CORS is not enabled for this bucket."
    assert (document.text("Method"), document.text("ResourceType")) == ("GET", "BUCKET")


def test_replies_are_shared_errors_too(edge: Edge) -> None:
    reply = edge("GET", b"/b/k", headers={b"origin": b"http://a"})
    assert (reply.status, access(reply)["access-control-allow-origin"]) == (200, "http://a")
    unsigned = Request("GET", b"/b/k", b"", {b"host": b"h:9000", b"origin": b"http://a"}, Body())
    reply = edge.send(unsigned)
    assert (reply.status, access(reply)["access-control-allow-origin"]) == (403, "http://a")


def test_replies_that_are_not_shared(edge: Edge) -> None:
    for headers in (
        {b"origin": b"http://b"},
        {b"origin": b"http://a", b"access-control-request-method": b"DELETE"},
        {b"origin": b"http://a", b"access-control-request-headers": b"x-a"},
    ):
        reply = edge("GET", b"/b/k", headers=headers)
        assert (reply.status, access(reply)) == (200, {})
        assert lines(reply)["vary"].startswith("Origin")
    assert "vary" not in lines(edge("GET", b"/b/k"))
    put(edge, None)
    assert "vary" not in lines(edge("GET", b"/b/k", headers={b"origin": b"http://a"}))
    edge("GET", b"/none/k", headers={b"origin": b"http://a"})
    edge("GET", b"/", headers={b"origin": b"http://a"})


def test_a_stated_request_method_decides_for_the_request_itself(edge: Edge) -> None:
    reply = edge("PUT", b"/b/k", headers={b"origin": b"http://a", b"access-control-request-method": b"GET"})
    assert access(reply)["access-control-allow-methods"] == "GET"
