"""Request heads: what is accepted and how it reads; what is refused."""

from __future__ import annotations

from random import Random

import pytest

from gateway.http.head import CHUNKED, HeadParser


def parse(head: bytes) -> tuple[int, HeadParser]:
    parser = HeadParser(8)
    return parser.parse(head), parser


def test_parse_reads_a_signed_get_whole() -> None:
    status, head = parse(
        b"GET /b/model%40x?versionId=1&x= HTTP/1.1\r\nHost: h:9000\r\nX-Amz-Date:20260101T000000Z \t\r\nEmpty:\r\n\r\n"
    )
    assert status == 0
    assert (head.method, head.path, head.query) == ("GET", b"/b/model%40x", b"versionId=1&x=")
    assert head.headers == {b"host": b"h:9000", b"x-amz-date": b"20260101T000000Z", b"empty": b""}
    assert (head.length, head.keep_alive, head.expect, head.version_1_0) == (0, True, False, False)


def test_parse_joins_repeated_headers_with_a_comma() -> None:
    status, head = parse(b"GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\na: 2\r\n\r\n")
    assert status == 0
    assert head.headers[b"a"] == b"1,2"


@pytest.mark.parametrize(
    ("target", "host", "path", "query"),
    [
        (
            b"http://127.0.0.1:36435/kvtest/key?partNumber=1&uploadId=u",
            b"127.0.0.1:36435",
            b"/kvtest/key",
            b"partNumber=1&uploadId=u",
        ),
        (b"HTTPS://b.example", b"b.example", b"/", b""),
        (b"http://b.example?list-type=2", b"b.example", b"/", b"list-type=2"),
        (b"http://h/a://b", b"h", b"/a://b", b""),
        (b"/http://h/a", b"other", b"/http://h/a", b""),
        (b"//x/y", b"other", b"//x/y", b""),
        (b"/kvtest/model@tp0@a=b&c:d", b"other", b"/kvtest/model@tp0@a=b&c:d", b""),
        (b"*", b"other", b"*", b""),
    ],
)
def test_target_forms_give_path_and_host(target: bytes, host: bytes, path: bytes, query: bytes) -> None:
    status, head = parse(b"PUT " + target + b" HTTP/1.1\r\nHost: other\r\n\r\n")
    assert status == 0
    assert (head.headers[b"host"], head.path, head.query) == (host, path, query)


REFUSED = {
    "both lengths": b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    "both lengths, other order": b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
    "two lengths": b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
    "two equal lengths": b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
    "length list": b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\n",
    "signed length": b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\n",
    "hex length": b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x3\r\n\r\n",
    "empty length": b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n",
    "huge length": b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "gzip coding": b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
    "gzip, chunked": b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "chunked twice": b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunked, identity": b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
    "xchunked": b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "chunked in 1.0": b"PUT / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
    "vertical tab coding": b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two authorizations": b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\nA: b\r\n\r\n",
    "host with a path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "host with a user": b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "host list": b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost : h\r\n\r\n",
    "obs-fold": b"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c: d\r\n\r\n",
    "obs-fold of the first line": b"GET / HTTP/1.1\r\n Host: h\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\r\nHost: h\nA: b\r\n\r\n",
    "bare LF in the request line": b"GET / HTTP/1.1\nHost: h\r\n\r\n",
    "bare CR": b"GET / HTTP/1.1\r\nHost: h\rA: b\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: h\r\nA: b\0c\r\n\r\n",
    "NUL in a name": b"GET / HTTP/1.1\r\nHost: h\r\nA\0: b\r\n\r\n",
    "header without colon": b"GET / HTTP/1.1\r\nHost: h\r\nAAA\r\n\r\n",
    "empty header name": b"GET / HTTP/1.1\r\nHost: h\r\n: b\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: h\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: h\r\n\r\n",
    "http/1.1": b"GET / http/1.1\r\nHost: h\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
    "two spaces before the version": b"GET /  HTTP/1.1\r\nHost: h\r\n\r\n",
    "space after the version": b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n",
    "tab": b"GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
    "raw byte in the target": b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n",
    "unknown method": b"FETCH / HTTP/1.1\r\nHost: h\r\n\r\n",
    "lower-case method": b"get / HTTP/1.1\r\nHost: h\r\n\r\n",
    "CONNECT": b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n",
    "other scheme": b"GET ftp://h/x HTTP/1.1\r\nHost: h\r\n\r\n",
    "user in the target": b"GET http://u@h/x HTTP/1.1\r\nHost: h\r\n\r\n",
    "target without a slash": b"GET x HTTP/1.1\r\nHost: h\r\n\r\n",
    "no authority": b"GET http:///x HTTP/1.1\r\nHost: h\r\n\r\n",
    "nothing": b"\r\n\r\n",
}


@pytest.mark.parametrize("head", REFUSED.values(), ids=REFUSED.keys())
def test_doubtful_head_is_refused_and_the_parser_stays_usable(head: bytes) -> None:
    status, parser = parse(head)
    assert status == 400
    assert parser.parse(b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n") == 0
    assert parser.path == b"/next"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 8 + b"\r\n", 431),
    ],
)
def test_other_refusals_have_their_status(head: bytes, status: int) -> None:
    assert parse(head)[0] == status


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: foo, Close\r\n", False),
        (b"1.1", b"Connection: keep-alive\r\n", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
def test_keep_alive_follows_version_and_connection(version: bytes, connection: bytes, kept: bool) -> None:
    status, head = parse(b"GET / HTTP/" + version + b"\r\nHost: h\r\n" + connection + b"\r\n")
    assert (status, head.keep_alive, head.version_1_0) == (0, kept, version == b"1.0")


def test_host_may_be_missing_in_http_1_0() -> None:
    assert parse(b"GET / HTTP/1.0\r\n\r\n")[0] == 0


def test_framing_is_read_from_the_head() -> None:
    status, head = parse(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 33554432\r\nExpect: 100-Continue\r\n\r\n")
    assert (status, head.length, head.expect) == (0, 33554432, True)
    status, head = parse(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n")
    assert (status, head.length, head.expect) == (0, CHUNKED, False)
    status, head = parse(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n")
    assert (status, head.length, head.expect) == (0, 0, True)


def test_upgrade_offer_is_ignored() -> None:
    parser = HeadParser(8)
    head = b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    assert (parser.parse(head), parser.path, parser.length) == (0, b"/a", 0)
    assert not parser.parse_alone(head + b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n")
    assert parser.parse(b"GET /c HTTP/1.1\r\nHost: h\r\n\r\n") == 0


def test_parse_alone_is_true_only_for_one_whole_bodyless_head() -> None:
    get = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
    put = b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n"
    parser = HeadParser(8)
    assert parser.parse_alone(get)
    assert parser.parse_alone(get + b"\r\n\r\n")  # empty lines before the next request
    for data in (get + get, put + b"\r\n\r\n", put, b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + get):
        assert not parser.parse_alone(data), data
        assert parser.parse_alone(get)


@pytest.mark.parametrize("line", [b"Proxy-Connection: close", b"proxy-connection: Keep-Alive, Close", b"Upgrade: h2c"])
def test_no_line_of_a_head_harms_the_next_one(line: bytes) -> None:
    """llhttp takes Proxy-Connection for Connection, and after `close` nothing more."""
    parser = HeadParser(8)
    parser.parse_alone(b"GET /a HTTP/1.1\r\nHost: h\r\n" + line + b"\r\n\r\n")
    assert parser.keep_alive
    assert parser.parse(b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n") == 0


def test_a_second_head_without_version_does_not_harm_the_first() -> None:
    parser = HeadParser(8)
    head = b"GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n"
    assert not parser.parse_alone(head + b"GET ///x\r\n\r\n")  # as long as the first target, so it passes for its line
    assert (parser.parse(head), parser.path, parser.query) == (0, b"/a", b"b")


def _near(random: Random) -> bytes:
    """A head of a client that repeats itself; now and then with something in it that a parser must stumble over."""

    def mostly(usual: bytes, *others: bytes) -> bytes:
        return usual if random.random() < 0.9 else random.choice(others)

    date = random.choice((b"20260101T000000Z", b"20260101T000001Z"))
    date = mostly(date, b"20260101T00000 Z", b" 0260101T000000Z", b"20260101T000000 ", b"2026\t101T000000Z")
    signature = bytes(random.choices(mostly(b"0123456789abcdef", b"0a \r\n\x00:\xe9"), k=8))
    lines = [
        mostly(b"Host: h", b"Host: i", b"Host: h\xe9"),
        b"x-amz-date: " + date,
        mostly(b"Accept: */*", b"Accept:*/* ", b"aCCept: */*", b"Accept : */*"),
        b"Authorization: AWS Signature=" + signature,
        mostly(
            b"Range: bytes=0-4", b"Content-Length: 5", b"Content-Length: 7", b"Content-Length: +", b"Connection: close"
        ),
        mostly(b"a: b", b"Transfer-Encoding: chunked", b"x-amz-date: " + date, b"Expect: 100-continue"),
    ]
    start = mostly(b"GET", b"PUT", b"HEAD", b"get", b"QUX") + b" "
    target = b"/b/k" + bytes(random.choices(mostly(b"abc%?&=", b"# \t\x7f\xe9"), k=3))
    version = mostly(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/1.1\n", b"  HTTP/1.1\r\n")
    return start + target + version + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_head_like_others_means_what_it_means_alone(seed: int) -> None:
    """What was read before never changes what is read: the head is one of few shapes, so most are known."""

    def facts(parser: HeadParser, head: bytes) -> tuple[object, ...]:
        status = parser.parse(bytearray(head))
        if status:
            return (status,)
        read = (parser.method, parser.path, parser.query, parser.headers, list(parser.headers))
        return (*read, parser.length, parser.keep_alive, parser.version_1_0, parser.expect)

    random = Random(seed)
    seasoned, seasoned_alone = HeadParser(16), HeadParser(16)
    known = 0
    for _ in range(2000):
        head = _near(random)
        shape = seasoned._shapes.get(len(head) - head.find(b"\r") - 2)
        known += shape is not None and bool(shape.holes)
        assert facts(seasoned, head) == facts(HeadParser(16), head), head
        assert seasoned_alone.parse_alone(head) == HeadParser(16).parse_alone(head), head
    assert known > 300
