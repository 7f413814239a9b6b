"""What the command line asks of a running gateway: requests to the endpoint its data directory names.

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
HEALTH_S: Final = 3.0
"""Who asks how it is asks again soon: an answer that takes longer is a bad one."""
REPLY_BYTES_MAX: Final = 64 << 20


class ClientError(Exception):
    """The gateway does not run, or refuses."""


class Line:
    """A connection to one gateway, found through the endpoint file of its data directory; opened by the first `ask`."""

    def __init__(self, data_dir: Path, timeout_s: float = TIMEOUT_S) -> None:
        """Raises ClientError when no gateway runs on the directory."""
        try:
            self._endpoint = (data_dir / "endpoint").read_text().strip()
        except FileNotFoundError:
            raise ClientError(
                f"no gateway runs on {data_dir}: start it with `recall serve --data-dir {data_dir}`"
            ) from None
        except OSError as error:
            raise ClientError(f"{data_dir / 'endpoint'} cannot be read: {error.strerror}") from None
        self.authority = urlsplit(self._endpoint).netloc
        if self._endpoint.startswith("https:"):
            self._connection: http.client.HTTPConnection = _Pinned(self.authority, data_dir, timeout_s)
        else:
            self._connection = http.client.HTTPConnection(self.authority, timeout=timeout_s)

    def ask(self, method: str, target: str, headers: dict[bytes, bytes]) -> tuple[int, bytes]:
        """Status and content of the answer. Raises ClientError."""
        named = {name.decode(): text.decode() for name, text in headers.items()}
        try:
            self._connection.request(method, target, headers=named)
            response = self._connection.getresponse()
            return response.status, response.read(REPLY_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ClientError(f"the gateway at {self._endpoint} does not answer: {error}") from None

    def close(self) -> None:
        self._connection.close()


def check_health(data_dir: Path, writes: bool) -> None:
    """Whether the gateway serves reads, and writes too where that is asked. Needs no credentials. Raises ClientError."""
    line = Line(data_dir, HEALTH_S)
    try:
        status, _ = line.ask("GET", "/minio/health/cluster" if writes else "/minio/health/ready", {})
    finally:
        line.close()
    if status != 200:
        raise ClientError(f"the gateway does not serve {'writes' if writes else 'reads'}: HTTP status {status}")


class Client:
    """Signed requests to one gateway."""

    def __init__(self, data_dir: Path, credentials: Credentials, region: str) -> None:
        """Raises ClientError when no gateway runs on the directory."""
        self._line = Line(data_dir)
        self._credentials = credentials
        self._region = region

    def change(self, bucket: str, key: str, headers: dict[bytes, bytes]) -> None:
        """`POST /bucket/key?recall` with the given x-recall headers. Raises ClientError."""
        path = f"/{quote(bucket)}/{quote(key, safe='/-_.~')}".encode()
        signed = sign_headers(
            "POST",
            path,
            b"recall",
            {b"host": self._line.authority.encode(), **headers},
            access_key=self._credentials.access_key,
            secret_key=self._credentials.secret_key,
            now_s=int(time.time()),
            region=self._region,
        )
        status, content = self._line.ask("POST", f"{path.decode()}?recall", signed)
        if status >= 300:
            raise ClientError(_reason(status, content))

    def metrics(self) -> str:
        """The gateway's metrics in Prometheus's text format. Raises ClientError."""
        bearer = token.make(self._credentials, time.time())
        status, content = self._line.ask("GET", "/recall/metrics", {b"authorization": b"Bearer " + bearer.encode()})
        if status != 200:
            raise ClientError(f"the metrics cannot be read: {_reason(status, content)}")
        return content.decode()

    def close(self) -> None:
        self._line.close()


class _Pinned(http.client.HTTPSConnection):
    """Trusts the certificate that the data directory names and no other, whatever names and dates are in it: the endpoint is
    an address of this machine, which certificates seldom name."""

    def __init__(self, authority: str, data_dir: Path, timeout_s: float) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # `connect` compares
        super().__init__(authority, timeout=timeout_s, context=context)
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
