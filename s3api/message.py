"""What the protocol layer asks of a transport: the request and response values, and who answers them.

Owns nothing. Does not know sockets, parsers or S3: `gateway.http` makes requests and sends responses, `s3api.pipeline`
turns one into the other. It stands here, below the transport, because imports go one way.

Kind: tables and protocols. Invariants: header names are lower-case bytes; repeated headers are joined with a comma by
the transport, which refuses repeats of Host, Content-Length and Authorization.
Spec: RFC 9110, RFC 9112.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, Protocol

from tiering.contract import Buffer, FileSpans

Headers = dict[bytes, bytes]

PLAIN_HEADERS: Final = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"amz-sdk-invocation-id",
        b"amz-sdk-request",
        b"authorization",
        b"connection",
        b"content-length",
        b"content-type",
        b"date",
        b"expect",
        b"host",
        b"transfer-encoding",
        b"user-agent",
        b"x-amz-content-sha256",
        b"x-amz-date",
        b"x-amz-security-token",
        b"x-amz-user-agent",
    }
)
"""Of the connection, the client and who signed: beyond the content type they say nothing of an object or its content. Most
writes carry no others, and need not be asked for each that they might."""


class BodyError(Exception):
    """The request body cannot be read to its end. `kind`: "gone" (peer closed), "slow" (minimum rate), "framing"."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class RequestBody(Protocol):
    """The raw body: transfer coding removed, content untouched."""

    length: int | None
    """Content-Length; None for a chunked body."""

    async def read(self) -> memoryview:
        """The next bytes, as many as have arrived; empty at the end. Borrowed until the next call.

        The first call answers `Expect: 100-continue`. Raises BodyError.
        """

    def whole(self) -> memoryview | None:
        """All of a body of stated length, in the place of the first `read`, if it has arrived; borrowed until `done`."""

    def done(self) -> None:
        """What `whole` lent is not looked at any more: what is waited for now needs no buffer. Without it that ends with the response."""


class Hole:
    """A header's value that differs from head to head: where it lies in the header lines."""

    __slots__ = ("name", "start", "stop")

    def __init__(self, name: bytes, start: int, stop: int) -> None:
        self.name = name
        self.start = start
        self.stop = stop


class Shape:
    """Header lines that one request after another has, but for their holes; and what else a transport read of them.

    `precedent` is the application's own: what it keeps for the next request of this shape.
    """

    __slots__ = ("expect", "fixed", "headers", "holes", "length", "lines", "precedent")

    def __init__(self, lines: bytes, headers: Headers, length: int, expect: bool, holes: list[Hole]) -> None:
        self.lines = lines  # as they were last
        self.headers = headers
        self.length = length  # of the body,
        self.expect = expect  # which is sent when 100 has come
        self.holes = holes  # in the order of the lines
        self.precedent: Any = None
        self.fixed: list[bytes] = []  # the pieces between the holes
        at = 0
        for hole in holes:
            self.fixed.append(lines[at : hole.start])
            at = hole.stop
        self.fixed.append(lines[at:])

    def fill(self, head: bytes, start: int) -> Headers:
        """The headers of a head of this shape, whose lines begin at `start`."""
        headers = self.headers.copy()
        for hole in self.holes:
            headers[hole.name] = head[start + hole.start : start + hole.stop]
        return headers


class Request:
    """One parsed request head and its body."""

    __slots__ = (
        "_headers",
        "at",
        "body",
        "head",
        "method",
        "path",
        "peer",
        "query",
        "shape",
        "started_s",
        "state",
        "tls",
    )

    def __init__(
        self,
        method: str,
        path: bytes,
        query: bytes,
        headers: Headers | None,
        body: RequestBody,
        peer: str = "",
        tls: str = "",
        started_s: float = 0.0,
        shape: Shape | None = None,
        head: bytes = b"",
        at: int = 0,
    ) -> None:
        self.method = method  # upper case
        self.path = path  # as sent, percent-encoded; scheme and authority of an absolute-form target removed
        self.query = query  # as sent, without `?`
        self._headers = headers  # None: as `shape` reads them when they are asked for
        self.shape = shape
        self.head = head  # with a shape: the bytes as they came,
        self.at = at  # of which the header lines begin here
        self.body = body
        self.peer = peer  # address without port
        self.tls = tls  # its version, as 1.3; empty over plain TCP
        self.started_s = started_s  # monotonic
        self.state: Any = None  # the application's own, from handle() to finished()

    @property
    def headers(self) -> Headers:
        """By lower-case name."""
        headers = self._headers
        if headers is None:
            assert self.shape is not None
            headers = self._headers = self.shape.fill(self.head, self.at)
        return headers

    @headers.setter
    def headers(self, headers: Headers) -> None:
        self._headers = headers

    @property
    def secure(self) -> bool:
        """Whether it came over TLS."""
        return bool(self.tls)


class StreamBody:
    """A body of known length made while it is sent. Ending early aborts the connection."""

    __slots__ = ("chunks", "length")

    def __init__(self, chunks: AsyncIterator[Buffer], length: int) -> None:
        self.chunks = chunks
        self.length = length


class Response:
    """A reply. `headers`: rendered lines, each ended by CRLF, without Content-Length, Date and Connection.

    `length`: the Content-Length to state when the body is not sent (HEAD) ; None takes the body's own. 204 and 304 have none.
    `close`: end the connection afterwards.
    """

    __slots__ = ("body", "close", "headers", "length", "status")

    def __init__(
        self,
        status: int,
        headers: bytes = b"",
        body: bytes | FileSpans | StreamBody = b"",
        length: int | None = None,
        close: bool = False,
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.length = length
        self.close = close


class Application(Protocol):
    """Answers requests. A response at once where nothing waits; a coroutine where something does."""

    def handle(self, request: Request) -> Response | Coroutine[Any, Any, Response]:
        """Never raises: every error is a response."""

    def refusal(self, status: int) -> Response:
        """The reply to bytes that are no request, for which the transport would say `status`; the connection ends with
        it. Its body is bytes. Never raises."""

    def finished(self, request: Request, response: Response, sent_bytes: int, complete: bool) -> None:
        """Called once a response's last byte is handed to the kernel, or the connection is lost before that."""
