"""Signed HTTP/1.1 request heads, as bytes ready to send. UNSIGNED-PAYLOAD, as the KV-cache clients sign.

Owns nothing. Does not know sockets; the signature itself is `s3api.sigv4`'s. Kind: pure but for the clock handed in.
Spec: AWS Signature Version 4; a signature is good for 15 minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import quote

from s3api.sigv4 import sign_headers


class Signer:
    """Makes request heads for one host (`host:port`) and one pair of credentials; `clock_s` gives Unix time."""

    def __init__(self, host: str, access_key: str, secret_key: str, clock_s: Callable[[], float] = time.time) -> None:
        self._host = host.encode()
        self._access_key = access_key
        self._secret_key = secret_key
        self._clock_s = clock_s

    def head(
        self,
        method: str,
        path: str,
        length: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        query: str = "",
    ) -> bytes:
        """One head with its blank line. `path` is unescaped, with its leading slash; `length` states Content-Length.

        Extra `headers` have lower-case names and are signed. `query` is escaped already.
        """
        target = quote(path, safe="/-_.~").encode()
        signed = sign_headers(
            method,
            target,
            query.encode(),
            {b"host": self._host, **{name.encode(): value.encode() for name, value in headers}},
            access_key=self._access_key,
            secret_key=self._secret_key,
            now_s=int(self._clock_s()),
        )
        if length is not None:
            signed[b"content-length"] = b"%d" % length
        lines = b"".join(b"%b: %b\r\n" % pair for pair in signed.items())
        target += b"?" + query.encode() if query else b""
        return b"%b %b HTTP/1.1\r\n%b\r\n" % (method.encode(), target, lines)
