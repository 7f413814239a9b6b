"""A pool of HTTP connections to one server: a request in, a reply whose body is read by the caller out.

Promise: a connection is used by one request at a time, and used again only after its reply was read to the end; a
request that a kept-alive connection lost before any reply came is sent once more on a new one. A forked child has
connections of its own: two processes on one would read each other's replies.
Owns the idle connections. Does not know signatures or S3. Kind: owner; any thread.
Spec: RFC 9110 §9.2.2, RFC 9112 §9.3.1.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pickle import PickleBuffer
from typing import Any, Final
from urllib.parse import urlsplit

from recall_client.errors import RecallError, ReplyBroken

Buffer = Any
"""Whatever holds its bytes in one piece: bytes, bytearray, mmap, memoryview, an array of ctypes or NumPy of any type."""
SEND_BYTES: Final = 4 << 20
"""Bytes given to the socket at once: its time limit is that of a whole call."""


def flat(buffer: Buffer) -> memoryview:
    """The bytes of a buffer as they lie, whatever their type and shape. Raises BufferError if they are not in one piece."""
    if isinstance(buffer, memoryview) and buffer.format == "B" and buffer.ndim == 1 and buffer.c_contiguous:
        return buffer  # a view of a view is lent: CPython 3.11 crashes where such a pair is garbage in a cycle, as of a traceback
    return PickleBuffer(buffer).raw()  # a cast of memoryview refuses half precision, byte orders and empty shapes


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
        # One for all connections: each would read the certificates of the system anew.
        self._context = ssl.create_default_context() if self._secure and context is None else context
        self._size = size
        self._closed = False
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._idle: list[HTTPConnection] = []
        self._turn = threading.BoundedSemaphore(self._size)
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
        pieces = [flat(piece) for piece in body]
        with self._turn:
            connection, response = self._exchange(method, target, headers, pieces)
            whole = False
            try:
                yield response
                whole = response.isclosed() or response.read() == b""
            except TimeoutError as error:  # asked again it would be waited for again
                raise RecallError(f"the reply broke off: {error}") from error
            except (OSError, HTTPException) as error:
                raise ReplyBroken(f"the reply broke off: {error}") from error
            finally:
                # Also after an error of the caller's: what is left of a reply must not be taken for the next one.
                with self._lock:
                    again = whole and not response.will_close and not self._closed
                    if again:
                        self._idle.append(connection)
                if not again:
                    connection.close()
                    response.close()  # a server that does not keep connections has left its end to the reply

    def _exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: Sequence[memoryview]
    ) -> tuple[HTTPConnection, HTTPResponse]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        while True:
            kept = connection is not None
            if connection is None:
                connection = self._connect()
            try:
                connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
                for name, value in headers.items():
                    connection.putheader(name, value)
                if method in ("PUT", "POST"):
                    connection.putheader("content-length", str(sum(piece.nbytes for piece in body)))
                connection.endheaders()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused early: the reply says why
                    for piece in body:
                        for at in range(0, len(piece), SEND_BYTES):
                            connection.send(piece[at : at + SEND_BYTES])
                return connection, connection.getresponse()
            except (OSError, HTTPException) as error:
                connection.close()
                if not kept or isinstance(error, TimeoutError):
                    raise RecallError(f"no reply from {self.host}: {error}") from error
                connection = None  # a new one: the others are as old
            except BaseException:
                connection.close()
                raise

    def _connect(self) -> HTTPConnection:
        if self._secure:
            return _SecureWire(self._host, self._port, timeout=self._timeout_s, context=self._context)
        return _Wire(self._host, self._port, timeout=self._timeout_s)

    def forget(self) -> None:
        """In a forked child: what is open belongs to the parent, and its locks may be held by threads that are not here."""
        for connection in self._idle:
            connection.close()  # the child's descriptor; nothing is sent
        self._begin()


class _Wire(HTTPConnection):
    """To a gateway on the same machine bytes go without a pace: there is nothing between that could be congested."""

    def connect(self) -> None:
        super().connect()
        with contextlib.suppress(OSError, AttributeError):  # not Linux, or gone again
            if self.sock.getpeername()[0] == self.sock.getsockname()[0]:
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


class _SecureWire(_Wire, HTTPSConnection):
    pass


_all: weakref.WeakSet[Connections] = weakref.WeakSet()


def _in_child() -> None:
    for connections in _all:
        connections.forget()


os.register_at_fork(after_in_child=_in_child)
