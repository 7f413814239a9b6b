"""`RawClient`: requests byte for byte as a client library puts them on the wire, signed by code of its own.

The signer shares nothing with `s3api.sigv4`: a test must not be verified by what it is to verify. The caller says what is
sent and what is signed, separately, because real clients differ exactly there.

Owns one connection, kept alive. Does not know S3 operations. Kind: shell (test support).
Spec: AWS S3 API Reference, "Authenticating Requests (AWS Signature Version 4)"; RFC 9112.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote
from xml.etree import ElementTree

UNSIGNED: Final = "UNSIGNED-PAYLOAD"
UNSIGNED_TRAILER: Final = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
SIGNED_CHUNKS: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_CHUNKS_TRAILER: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
TIMEOUT_S: Final = 20.0
_NEVER_SIGNED: Final = frozenset({"expect", "transfer-encoding", "connection", "user-agent"})

Headers = Mapping[str, str]
Query = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Reply:
    """One final response; header names in lower case. `continued`: a 100 came before it."""

    status: int
    headers: dict[str, str]
    body: bytes
    continued: bool = False

    @property
    def code(self) -> str:
        """The error code of an error document."""
        return ElementTree.fromstring(self.body).findtext("Code") or ""

    @property
    def etag(self) -> str:
        return self.headers["etag"]

    def checksum_headers(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name.startswith("x-amz-checksum-")}

    def texts(self, name: str) -> list[str]:
        """The text of every element of that name, namespace or not."""
        return [node.text or "" for node in ElementTree.fromstring(self.body).iter() if node.tag.endswith(name)]


def coded_path(path: str) -> str:
    """Percent-encoded as it is signed: all but unreserved characters and slashes."""
    return quote(path, safe="/-_.~")


def coded_query(query: Query) -> str:
    return "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query))


class Signer:
    """SigV4 with one key pair."""

    def __init__(self, access_key: str, secret_key: str, region: str = "us-east-1") -> None:
        self._access_key, self._secret_key, self._region = access_key, secret_key, region

    def _key(self, date: str) -> bytes:
        key = b"AWS4" + self._secret_key.encode()
        for word in (date, self._region, "s3", "aws4_request"):
            key = hmac.digest(key, word.encode(), "sha256")
        return key

    def sign(self, method: str, path: str, query: Query, headers: Headers, payload: str) -> dict[str, str]:
        """`headers` and the three that sign them. `path`: decoded."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        out = {**headers, "x-amz-date": stamp, "x-amz-content-sha256": payload}
        lower = {name.lower(): " ".join(value.split()) for name, value in out.items()}
        signed = sorted(name for name in lower if name not in _NEVER_SIGNED)
        canonical = "\n".join(
            (
                method,
                coded_path(path),
                coded_query(query),
                *(f"{name}:{lower[name]}" for name in signed),
                "",
                ";".join(signed),
                payload,
            )
        )
        scope = f"{stamp[:8]}/{self._region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.new(self._key(stamp[:8]), text.encode(), "sha256").hexdigest()
        out["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._access_key}/{scope}, "
            f"SignedHeaders={';'.join(signed)}, Signature={signature}"
        )
        return out

    def chunks(self, headers: Headers, pieces: Iterable[bytes], trailer: tuple[str, str] | None = None) -> bytes:
        """Signed aws-chunks after signed `headers`, each over the signature before; the last one is added here."""
        stamp = headers["x-amz-date"]
        scope = f"{stamp[:8]}/{self._region}/s3/aws4_request"
        key = self._key(stamp[:8])
        previous = headers["authorization"].rpartition("Signature=")[2]
        out = bytearray()
        for piece in (*pieces, b""):
            text = f"AWS4-HMAC-SHA256-PAYLOAD\n{stamp}\n{scope}\n{previous}\n{EMPTY_SHA256}\n"
            text += hashlib.sha256(piece).hexdigest()
            previous = hmac.new(key, text.encode(), "sha256").hexdigest()
            out += b"%x;chunk-signature=%b\r\n%b" % (len(piece), previous.encode(), piece)
            if piece or trailer is None:
                out += b"\r\n"
        if trailer is not None:
            line = f"{trailer[0]}:{trailer[1]}\n"
            text = (
                f"AWS4-HMAC-SHA256-TRAILER\n{stamp}\n{scope}\n{previous}\n{hashlib.sha256(line.encode()).hexdigest()}"
            )
            signature = hmac.new(key, text.encode(), "sha256").hexdigest()
            out += f"{trailer[0]}:{trailer[1]}\r\nx-amz-trailer-signature:{signature}\r\n\r\n".encode()
        return bytes(out)


def aws_chunks(pieces: Iterable[bytes], trailer: tuple[str, str] | None) -> bytes:
    """Unsigned aws-chunked frames, the end and the trailer."""
    out = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n"
    return out + (f"{trailer[0]}:{trailer[1]}\r\n\r\n".encode() if trailer else b"\r\n")


def http_chunks(body: bytes, size: int) -> bytes:
    """HTTP's own chunked coding over any bytes, whatever is framed inside."""
    cut = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in cut) + b"0\r\n\r\n"


class RawClient:
    """One keep-alive connection. `host`: the Host header, which need not be where the socket goes. `tls`: for HTTPS."""

    def __init__(self, port: int, signer: Signer, host: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.signer = signer
        self.host = host or f"127.0.0.1:{port}"
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname="127.0.0.1")
        self._input = self._socket.makefile("rb")
        self.requests = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._input.close()
        self._socket.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        headers: Headers | None = None,
        body: bytes = b"",
        payload: str = UNSIGNED,
        raw_path: str | None = None,
        length: bool | None = None,
        expect: bool = False,
    ) -> Reply:
        """Sends one request and reads its reply.

        `path` is decoded and is what is signed; `raw_path` is what goes on the wire instead of its encoding. `length`:
        send Content-Length (None: when there is a body). `expect`: wait for 100 before the body goes, and never send
        it when something else comes.
        """
        signed = self.signer.sign(method, path, query, {"host": self.host, **(headers or {})}, payload)
        return self.send(
            method, path, query=query, headers=signed, body=body, raw_path=raw_path, length=length, expect=expect
        )

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        headers: Headers,
        body: bytes = b"",
        raw_path: str | None = None,
        length: bool | None = None,
        expect: bool = False,
    ) -> Reply:
        """As `request`, with headers that are signed already, or deliberately not."""
        target = coded_path(path) if raw_path is None else raw_path
        if query:
            target += "?" + coded_query(query)
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        if length or (length is None and body):
            lines.append(f"content-length: {len(body)}")
        if expect:
            lines.append("expect: 100-continue")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        self.requests += 1
        if not expect:
            self._socket.sendall(head + body)
            return self._read(method)
        self._socket.sendall(head)
        reply = self._read(method)
        if reply.status != 100:
            return reply
        self._socket.sendall(body)
        final = self._read(method)
        return Reply(final.status, final.headers, final.body, continued=True)

    def _read(self, method: str) -> Reply:
        line = self._input.readline()
        assert line.startswith(b"HTTP/1.1 "), f"no status line but {line!r}"
        status = int(line.split()[1])
        headers: dict[str, str] = {}
        while (line := self._input.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            assert name.lower() not in headers, f"header {name} came twice"
            headers[name.lower()] = value.strip()
        assert line == b"\r\n", "the connection ended inside a head"
        if method == "HEAD" or status in (100, 204, 304):
            return Reply(status, headers, b"")
        assert "content-length" in headers, f"a reply without Content-Length: {status} {headers}"
        size = int(headers["content-length"])
        body = self._input.read(size)
        assert len(body) == size, f"the body was cut: {len(body)} of {size} bytes"
        return Reply(status, headers, body)

    def at_end(self) -> bool:
        """Whether the server closed the connection; waits for it."""
        return self._input.read(1) == b""
