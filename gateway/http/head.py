"""Request heads: the bytes up to the empty line → method, target, headers, framing; anything doubtful is refused.

Promise: a head this accepts has one meaning. llhttp (strict) does the tokenizing; what it lets pass and two
implementations could read differently (runs of spaces in the request line, HTTP/0.9, repeated Host or Authorization,
codings other than `chunked`, a preface of HTTP/2) is refused here.
**Owns** one parser, used for every head of the worker: heads are always fed whole, so no state lives between calls.
**Does not know** connections, bodies, S3.
Kind: pure (results lie in attributes until the next call: a tuple a request is measurable).
Spec: RFC 9112 sections 2.2, 3, 5, 6; RFC 9110 sections 5.3, 7.2, 10.1.1.
"""

from __future__ import annotations

from typing import Final

import httptools

from gateway.http.alike import Shapes, is_like, is_target
from s3api.message import PLAIN_HEADERS, Headers, Shape

CHUNKED: Final = -1
"""`HeadParser.length` of a body in chunked transfer coding."""

_SINGLE: Final = frozenset((b"host", b"content-length", b"authorization"))
_METHODS: Final = {
    name.encode(): name for name in ("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE")
}
_METHODS_REFUSED: Final = frozenset((b"CONNECT", b"PRI"))
_NAMES: Final = {
    spelled: name
    for name in (*PLAIN_HEADERS, b"content-md5", b"if-match", b"if-none-match", b"range")
    for spelled in (name, name.title(), name.replace(b"x-amz", b"X-Amz"), name.capitalize())
}
"""The names nearly all requests have, as clients spell them: one object a name, of known hash, makes what looks for names faster."""
_HOST_BYTES: Final = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._~%!$&'()*+,;=:[]"
_LENGTH_DIGITS_MAX: Final = 19


class HeadParser:
    """Parses one whole head a call; after `parse` returned 0 the attributes describe it until the next call."""

    __slots__ = (
        "_alone",
        "_complete",
        "_fields",
        "_header_count_max",
        "_heads",
        "_host_checked",
        "_parser",
        "_remembers_nothing",
        "_repeated",
        "_shapes",
        "_target",
        "at",
        "expect",
        "head",
        "keep_alive",
        "length",
        "method",
        "path",
        "query",
        "shape",
        "version_1_0",
    )

    def __init__(self, header_count_max: int) -> None:
        self.method = ""
        self.path = b""
        self.query = b""
        self.shape: Shape | None = None  # that the head is of: its headers are not read yet,
        self.head = b""  # but lie in these bytes
        self.at = 0  # from here on
        self._fields: Headers = {}  # the headers of a head without a shape
        self.length = 0  # body bytes, or CHUNKED
        self.keep_alive = False
        self.version_1_0 = False
        self.expect = False
        self._target = b""
        self._repeated = False
        self._complete = False
        self._alone = False
        self._heads = 0  # begun in the data fed
        self._header_count_max = header_count_max
        self._remembers_nothing = False  # llhttp is as new after this head
        self._host_checked: bytes | None = b""  # the last good one: nearly all requests repeat it
        self._shapes = Shapes()
        self._parser = httptools.HttpRequestParser(self)

    @property
    def headers(self) -> Headers:
        """By lower-case name."""
        return self._fields if self.shape is None else self.shape.fill(self.head, self.at)

    def on_url(self, url: bytes) -> None:
        self._target = url
        self._heads += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        name = _NAMES.get(name) or name.lower()
        headers = self._fields
        if name in headers:
            if name in _SINGLE:
                self._repeated = True
            headers[name] += b"," + value.strip(b" \t")
        else:
            headers[name] = value.strip(b" \t")

    def on_message_complete(self) -> None:
        self._complete = True

    def parse_alone(self, data: bytes | bytearray) -> bool:
        """True when `data` is one good head and nothing more: no body follows and no second request.

        After False, nothing is known: find the head's end and call `parse`. Spares the search, which costs as much as
        parsing (before Python 3.13 a search for several bytes takes 2 ns a byte).
        """
        if self._alike(data):
            return not self.length
        return self._read(data) == 0 and self._alone and not self.length

    def parse(self, head: bytes | bytearray) -> int:
        """Reads `head`, which ends with its empty line. Returns 0, or the status of the refusal."""
        return 0 if self._alike(head) else self._read(head)

    def _alike(self, head: bytes | bytearray) -> bool:
        """Reads a head whose header lines are like ones read before."""
        raw = bytes(head)
        end = raw.find(b"\r") + 2
        shape = self._shapes.get(len(raw) - end)
        if shape is None:
            return False
        start = raw.find(b" ") + 1
        method = _METHODS.get(raw[: start - 1])
        target = raw[start : end - 11]
        if method is None or raw[end - 11 : end] != b" HTTP/1.1\r\n" or not is_target(target):
            return False
        if not is_like(shape, raw, end):
            return False
        self.shape = shape
        self.head = raw
        self.at = end
        self.method = method
        self.path, _, self.query = target.partition(b"?")
        self.length = shape.length
        self.expect = shape.expect
        self.keep_alive = True
        self.version_1_0 = False
        return True

    def _read(self, head: bytes | bytearray) -> int:
        # The shortest header line has four bytes: most heads need no count.
        if len(head) > 4 * self._header_count_max and head.count(b"\n") - 2 > self._header_count_max:
            return 431
        self.shape = None
        self._fields = {}
        self._heads = 0
        self._repeated = self._complete = self._alone = False
        try:
            self._parser.feed_data(head)
            status = self._judge(head)
            if self._complete and self._remembers_nothing and not status:
                self._alone = self._heads == 1
                if self._alone:
                    self._learn(head)
                    return 0
                # What follows may be a second head of no version, after which llhttp takes nothing more.
        except httptools.HttpParserUpgrade:
            status = self._judge(head)  # an offer to change protocol may be ignored (RFC 9110 section 7.8)
        except httptools.HttpParserError:
            status = 400
        if self.length > 0 and self._remembers_nothing and not status:
            self._learn(head)
        # llhttp now waits for a body, or refuses data after `Connection: close`: it remembers, we must not.
        self._parser = httptools.HttpRequestParser(self)
        return status

    def _learn(self, head: bytes | bytearray) -> None:
        """Remembers a good head after which the connection stays, for those like it."""
        if not self.version_1_0 and self._target[:1] == b"/" and b"connection" not in self._fields:
            after_line = head.find(b"\r") + 2
            self._shapes.learn(bytes(head[after_line:]), self._fields, self.length, self.expect)

    def _judge(self, head: bytes | bytearray) -> int:
        wire_method = self._parser.get_method()
        target = self._target
        headers = self._fields
        method = _METHODS.get(wire_method)
        if method is None:
            if wire_method in _METHODS_REFUSED:
                return 400
            method = wire_method.decode("ascii")
        self.method = method
        # llhttp passes runs of spaces and a missing version: the line must be exactly what we understood.
        end = len(wire_method) + 1 + len(target)
        if head.startswith(b" HTTP/1.1\r\n", end):
            self.version_1_0 = False
        elif head.startswith(b" HTTP/1.0\r\n", end):
            self.version_1_0 = True
        else:
            return 400
        if target[0] != 47:
            target = self._origin_form(target)
        host = headers.get(b"host")
        if host != self._host_checked:
            if host is None:
                if not self.version_1_0:
                    return 400
            elif host.translate(None, _HOST_BYTES):
                return 400
            else:
                self._host_checked = host
        if self._repeated or not target or b"#" in target:
            return 400
        self.path, _, self.query = target.partition(b"?")
        connection = headers.get(b"connection")
        if connection is None and not self.version_1_0:
            self.keep_alive = self._remembers_nothing = True
        else:
            options = [option.strip(b" \t") for option in (connection or b"").lower().split(b",")]
            self.keep_alive = b"close" not in options and (not self.version_1_0 or b"keep-alive" in options)
            self._remembers_nothing = self.keep_alive and not self.version_1_0
        # It means nothing (RFC 9112 appendix C.2.2), but to llhttp what Connection does: after `close` it reads nothing more.
        if b"proxy-connection" in headers:
            self._remembers_nothing = False
        return self._framing()

    def _origin_form(self, target: bytes) -> bytes:
        """Turns an absolute-form target into its path and query; its authority replaces Host. Empty when malformed."""
        if target == b"*":
            return target
        scheme, mark, rest = target.partition(b"://")
        if not mark or scheme.lower() not in (b"http", b"https"):
            return b""
        cut = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
        authority = rest[:cut]
        if not authority or b"@" in authority or (b"host" not in self._fields and not self.version_1_0):
            return b""
        self._fields[b"host"] = authority
        path = rest[cut:]
        return path if path[:1] == b"/" else b"/" + path

    def _framing(self) -> int:
        headers = self._fields
        self.length = 0
        self.expect = False
        if b"transfer-encoding" in headers:
            if b"content-length" in headers or self.version_1_0:
                return 400
            if headers[b"transfer-encoding"].lower() != b"chunked":
                return 400
            self.length = CHUNKED
        elif b"content-length" in headers:
            stated = headers[b"content-length"]
            if not stated.isdigit() or len(stated) > _LENGTH_DIGITS_MAX:
                return 400
            self.length = int(stated)
        if b"expect" in headers and not self.version_1_0:
            # Another expectation is not met and not refused either: S3 answers such a request as any other.
            self.expect = headers[b"expect"].lower() == b"100-continue"
        return 0
