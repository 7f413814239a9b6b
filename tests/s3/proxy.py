"""`Proxy`: a TCP address in front of a server, that can go away and come back, or pass on other bytes than it was given.

    with Proxy(("127.0.0.1", 9000)) as proxy:
        proxy.down()  # connections are cut, new ones refused
        proxy.up()    # at the same port
        with proxy.failing(Fault("flip", at=100)):
            ...

Owns its threads and sockets. Of HTTP it knows heads and where bodies begin, and it treats the first request of each
connection only. Kind: shell (test support; one thread an accepted connection and way).
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self

_PIECE_BYTES: Final = 1 << 16
_RESET: Final = struct.pack("ii", 1, 0)
_TRICKLE_S: Final = 0.02


@dataclass(frozen=True)
class Fault:
    """What happens to requests whose method is one of `methods`.

    answer: `status` and `code`, instead of the server. reset: the connection is reset once the request is read. stall: no
    answer ever. trickle: the answer comes byte by byte. cut: the connection ends `at` bytes into the body. short: the body
    has only `at` bytes, and says so. flip: the byte `at` of the body is another one. etag: the answer names another ETag.
    """

    kind: Literal["answer", "reset", "stall", "trickle", "cut", "short", "flip", "etag"]
    methods: tuple[str, ...] = ("GET", "HEAD", "PUT", "POST", "DELETE")
    at: int = 0
    status: int = 503
    code: str = "SlowDown"


class Proxy:
    """Up when the block begins. `port` stays the same through outages."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        # Never listens: while the proxy is down, the port is nobody else's and connections to it are refused.
        self._held = _bound(0)
        self.port: int = self._held.getsockname()[1]
        self._fault: Fault | None = None
        self._over = threading.Event()  # of the fault: what stalls goes on

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """While the block runs, requests meet `fault`. Connections that were open are cut, so that none escapes it."""
        self._over.clear()
        self._fault = fault
        self._cut_all()
        try:
            yield
        finally:
            self._fault = None
            self._over.set()

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
        self._held.close()

    def up(self) -> None:
        """Accepts connections; does nothing when it does already."""
        if self._listener is not None:
            return
        listener = _bound(self.port)
        listener.listen(128)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def down(self) -> None:
        """Cuts every connection and refuses new ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._over.set()
        self._cut_all()

    def _cut_all(self) -> None:
        with self._lock:
            for each in self._open:
                _cut(each)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return  # down
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            if self._listener is not listener:  # it went down while this connection was made
                _cut(near)
                _cut(far)
            threading.Thread(target=self._serve, args=(near, far), daemon=True).start()

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        fault = self._fault
        if fault is not None:
            self._serve_badly(fault, near, far)
        else:
            _pass_both(near, far)
        with self._lock:
            self._open -= {near, far}
        near.close()
        _cut(far)
        far.close()

    def _serve_badly(self, fault: Fault, near: socket.socket, far: socket.socket) -> None:
        head, rest = _head(near)
        method = head.partition(b" ")[0].decode()
        try:
            if method not in fault.methods:
                far.sendall(head + rest)
                _pass_both(near, far)
            elif fault.kind == "answer":
                _read_body(near, head, rest)  # an answer before the request's end would be a reset to its sender
                near.sendall(_answer(method, fault))
            elif fault.kind == "reset":
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            elif fault.kind == "stall":
                self._over.wait()
            else:
                far.sendall(head + rest)
                threading.Thread(target=_pass, args=(near, far), daemon=True).start()
                self._answer_badly(fault, near, far)
        except OSError:
            pass  # the other side has had enough

    def _answer_badly(self, fault: Fault, near: socket.socket, far: socket.socket) -> None:
        head, body = _head(far)
        while head.startswith(b"HTTP/1.1 100"):
            near.sendall(head)
            head, body = _head(far, body)
        if fault.kind == "etag":
            head = re.sub(rb'(?im)^(etag: *)"[^"]*"', rb'\1"00000000000000000000000000000000"', head)
        elif fault.kind == "short":
            head = re.sub(rb"(?im)^content-length:.*?\r\n", b"Content-Length: %d\r\n" % fault.at, head)
        near.sendall(head)
        sent = 0
        while body or (body := far.recv(_PIECE_BYTES)):
            if fault.kind in ("cut", "short") and sent + len(body) >= fault.at:
                near.sendall(body[: fault.at - sent])
                return
            if fault.kind == "flip" and sent <= fault.at < sent + len(body):
                at = fault.at - sent
                body = body[:at] + bytes((body[at] ^ 0xFF,)) + body[at + 1 :]
            if fault.kind == "trickle":
                for at in range(len(body)):
                    near.sendall(body[at : at + 1])
                    if self._over.wait(_TRICKLE_S):
                        return
            else:
                near.sendall(body)
            sent, body = sent + len(body), b""


def _head(source: socket.socket, begun: bytes = b"") -> tuple[bytes, bytes]:
    """A message's head, and what came behind it."""
    while b"\r\n\r\n" not in begun:
        piece = source.recv(_PIECE_BYTES)
        if not piece:
            return begun, b""
        begun += piece
    head, _, rest = begun.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


def _read_body(source: socket.socket, head: bytes, begun: bytes) -> None:
    found = re.search(rb"(?im)^content-length: *(\d+)", head)
    left = (int(found[1]) if found else 0) - len(begun)
    while left > 0 and (piece := source.recv(_PIECE_BYTES)):
        left -= len(piece)


def _answer(method: str, fault: Fault) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>scripted</Message></Error>".encode()
    head = f"HTTP/1.1 {fault.status} X\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: application/xml\r\n\r\n".encode() + (b"" if method == "HEAD" else body)


def _pass_both(near: socket.socket, far: socket.socket) -> None:
    back = threading.Thread(target=_pass, args=(far, near), daemon=True)
    back.start()
    _pass(near, far)
    back.join()


def _pass(source: socket.socket, sink: socket.socket) -> None:
    try:
        while piece := source.recv(_PIECE_BYTES):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        _cut(source)
        _cut(sink)


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    return made


def _cut(each: socket.socket) -> None:
    try:
        each.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
