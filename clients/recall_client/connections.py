"""A pool of HTTP connections to one server: a request in, a reply whose body is read by the caller out.

Promise: a connection is used by one request at a time, and used again only after its reply was read to the end; a
request that a kept-alive connection lost before any reply came is sent once more on a new one.
Owns the idle connections. Does not know signatures or S3. Kind: owner; any thread.
Spec: RFC 9110 §9.2.2, RFC 9112 §9.3.1.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from recall_client.errors import RecallError

Buffer = bytes | bytearray | memoryview


class Connections:
    """`size`: connections kept, and requests under way together. `timeout_s` is that of each wait on a socket."""

    def __init__(self, endpoint: str, size: int, timeout_s: float, context: ssl.SSLContext | None) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise ValueError(f"an endpoint is http(s)://host[:port], not {endpoint!r}")
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if self._secure else 80)
        default = self._port == (443 if self._secure else 80)
        name = f"[{self._host}]" if ":" in self._host else self._host
        self.host = name if default else f"{name}:{self._port}"
        self._timeout_s = timeout_s
        self._context = context
        self._idle: list[HTTPConnection] = []
        self._closed = False
        self._turn = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Closes what is idle. Requests under way end on their own, and their connections with them."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextlib.contextmanager
    def request(
        self, method: str, target: str, headers: Mapping[str, str], body: Sequence[Buffer] = ()
    ) -> Iterator[HTTPResponse]:
        """Sends a request and lends its reply. Raises RecallError where none comes."""
        with self._turn:
            connection, response = self._exchange(method, target, headers, body)
            whole = False
            try:
                yield response
                whole = response.isclosed() or response.read() == b""
            except (OSError, HTTPException) as error:
                raise RecallError(f"the reply broke off: {error}") from error
            finally:
                # Also after an error of the caller's: what is left of a reply must not be taken for the next one.
                with self._lock:
                    again = whole and not response.will_close and not self._closed
                    if again:
                        self._idle.append(connection)
                if not again:
                    connection.close()

    def _exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: Sequence[Buffer]
    ) -> tuple[HTTPConnection, HTTPResponse]:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            kept = connection is not None
            if connection is None:
                connection = self._connect()
            try:
                connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
                for name, value in headers.items():
                    connection.putheader(name, value)
                if method in ("PUT", "POST"):
                    connection.putheader("content-length", str(sum(memoryview(piece).nbytes for piece in body)))
                connection.endheaders()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused early: the reply says why
                    for piece in body:
                        connection.send(piece)
                return connection, connection.getresponse()
            except (OSError, HTTPException) as error:
                connection.close()
                if not kept or isinstance(error, TimeoutError):
                    raise RecallError(f"no reply from {self.host}: {error}") from error

    def _connect(self) -> HTTPConnection:
        if self._secure:
            return HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._context)
        return HTTPConnection(self._host, self._port, timeout=self._timeout_s)
