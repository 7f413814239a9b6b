"""What the command line asks of a running gateway: signed requests to the endpoint its data directory names.

Promise: a gateway that does not run is said so in one sentence, and so is one that refuses.

Owns one connection. Does not know commands. Kind: shell.
Spec: docs/EXTENSIONS.md, "POST /bucket/key?recall".
"""

from __future__ import annotations

import http.client
import ssl
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from gateway import tls
from gateway.admin import token
from gateway.credentials import Credentials
from s3api.sigv4 import sign_headers

TIMEOUT_S: Final = 60.0
REPLY_BYTES_MAX: Final = 64 << 20


class ClientError(Exception):
    """The gateway does not run, or refuses."""


class Client:
    """One gateway, reached through the endpoint file of its data directory."""

    def __init__(self, data_dir: Path, credentials: Credentials, region: str) -> None:
        """Raises ClientError when no gateway runs on the directory."""
        try:
            endpoint = (data_dir / "endpoint").read_text().strip()
        except FileNotFoundError:
            raise ClientError(
                f"no gateway runs on {data_dir}: start it with `recall serve --data-dir {data_dir}`"
            ) from None
        except OSError as error:
            raise ClientError(f"{data_dir / 'endpoint'} cannot be read: {error.strerror}") from None
        self._endpoint = endpoint
        self._authority = urlsplit(endpoint).netloc
        if endpoint.startswith("https:"):
            self._connection: http.client.HTTPConnection = _Pinned(self._authority, data_dir)
        else:
            self._connection = http.client.HTTPConnection(self._authority, timeout=TIMEOUT_S)
        self._credentials = credentials
        self._region = region

    def change(self, bucket: str, key: str, headers: dict[bytes, bytes]) -> None:
        """`POST /bucket/key?recall` with the given x-recall headers. Raises ClientError."""
        path = f"/{quote(bucket)}/{quote(key, safe='/-_.~')}".encode()
        signed = sign_headers(
            "POST",
            path,
            b"recall",
            {b"host": self._authority.encode(), **headers},
            access_key=self._credentials.access_key,
            secret_key=self._credentials.secret_key,
            now_s=int(time.time()),
            region=self._region,
        )
        status, content = self._ask("POST", f"{path.decode()}?recall", signed)
        if status >= 300:
            raise ClientError(_reason(status, content))

    def metrics(self) -> str:
        """The gateway's metrics in Prometheus's text format. Raises ClientError."""
        bearer = token.make(self._credentials, time.time())
        status, content = self._ask("GET", "/recall/metrics", {b"authorization": b"Bearer " + bearer.encode()})
        if status != 200:
            raise ClientError(f"the metrics cannot be read: {_reason(status, content)}")
        return content.decode()

    def close(self) -> None:
        self._connection.close()

    def _ask(self, method: str, target: str, headers: dict[bytes, bytes]) -> tuple[int, bytes]:
        named = {name.decode(): text.decode() for name, text in headers.items()}
        try:
            self._connection.request(method, target, headers=named)
            response = self._connection.getresponse()
            return response.status, response.read(REPLY_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ClientError(f"the gateway at {self._endpoint} does not answer: {error}") from None


class _Pinned(http.client.HTTPSConnection):
    """Trusts the certificate that the data directory names and no other, whatever names and dates are in it: the endpoint is
    an address of this machine, which certificates seldom name."""

    def __init__(self, authority: str, data_dir: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # `connect` compares
        super().__init__(authority, timeout=TIMEOUT_S, context=context)
        self._data_dir = data_dir

    def connect(self) -> None:
        super().connect()
        try:
            known = tls.pinned(self._data_dir)
        except (OSError, ValueError):
            known = b""
        if not known or self.sock.getpeercert(binary_form=True) != known:
            self.close()
            raise ssl.SSLError(f"it does not show the certificate in {self._data_dir / tls.PINNED_NAME}")


def _reason(status: int, content: bytes) -> str:
    try:
        document = ElementTree.fromstring(content)
    except ElementTree.ParseError:
        return f"HTTP status {status}"
    return f"{document.findtext('Code', str(status))}: {document.findtext('Message', '')}"
