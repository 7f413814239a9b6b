"""The paths beside S3: MinIO's health probes, its questions about a server, the metrics; everything else goes on behind.

Promise: a request that is not exactly one of these paths passes untouched, so buckets named `minio` or `recall` work but for
these keys. The check costs one comparison of bytes on every other request.

Owns nothing. Does not know S3. Kind: shell, without I/O of its own. Invariant: answers at once, never waits.
Spec: MinIO health check API; docs/OPERATIONS.md, "Health" and "Metrics".
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal

import msgspec

from gateway.admin import calls, token
from gateway.admin.calls import AdminCalls
from gateway.credentials import Credentials
from gateway.metrics import CONTENT_TYPE, Metrics, SharedGauges
from s3api.message import Application, Request, Response

HEALTH_PATHS: Final = frozenset(
    {b"/minio/health/live", b"/minio/health/ready", b"/minio/health/cluster", b"/minio/health/cluster/read"}
)
METRICS_PATHS: Final = frozenset({b"/minio/v2/metrics/cluster", b"/recall/metrics"})
_ALL: Final = HEALTH_PATHS | METRICS_PATHS | calls.PATHS.keys()
_PLAIN: Final = b"Content-Type: text/plain; charset=utf-8\r\n"


class Health(msgspec.Struct, frozen=True):
    """What the probes are told. `writable` False: reads are served, writes are not (no room, backing down too long)."""

    readable: bool = True
    writable: bool = True


class AdminRoutes:
    """An Application in front of another."""

    def __init__(
        self,
        application: Application,
        metrics: Metrics,
        credentials: Credentials,
        *,
        metrics_auth: Literal["auto", "public", "jwt"],
        shared_gauges: SharedGauges = lambda: (),
        health: Callable[[], Health] = Health,
        now_s: Callable[[], float] = time.time,
        admin_calls: AdminCalls | None = None,
    ) -> None:
        self._application = application
        self._metrics = metrics
        self._credentials = credentials
        self._metrics_auth = metrics_auth
        self._shared_gauges = shared_gauges
        self._health = health
        self._now_s = now_s
        self._admin_calls = admin_calls

    def handle(self, request: Request) -> Response | Coroutine[Any, Any, Response]:
        """Never raises, given an application that does not."""
        if request.path not in _ALL:
            return self._application.handle(request)
        if request.path in calls.PATHS:
            answer = None if self._admin_calls is None else self._admin_calls.answer(request)
            return answer or self._application.handle(request)
        if not self._is_admin(request):
            return self._application.handle(request)
        response = self._probe(request.path) if request.path in HEALTH_PATHS else self._scrape(request)
        if request.method == "HEAD":
            assert isinstance(response.body, bytes)
            response.length, response.body = len(response.body), b""
        return response

    def refusal(self, status: int) -> Response:
        """Passed on: what is no request asks for nothing of ours."""
        return self._application.refusal(status)

    def finished(self, request: Request, response: Response, sent_bytes: int, complete: bool) -> None:
        """Passed on, but for our own paths: scrapes and probes would drown the requests that are counted."""
        # Of an admin call the application has seen nothing, and says nothing.
        if request.path not in _ALL or request.path in calls.PATHS or not self._is_admin(request):
            self._application.finished(request, response, sent_bytes, complete)

    @staticmethod
    def _is_admin(request: Request) -> bool:
        """A GET or HEAD that carries no S3 signature: a signed one means an object that has such a name."""
        return (
            request.method in ("GET", "HEAD")
            and not request.headers.get(b"authorization", b"").startswith(b"AWS")
            and b"X-Amz-" not in request.query
        )

    def _probe(self, path: bytes) -> Response:
        """live: the process answers. ready and cluster/read: reads are served. cluster: writes too."""
        if path == b"/minio/health/live":
            return Response(200)
        health = self._health()
        good = health.readable and (health.writable or path != b"/minio/health/cluster")
        return Response(200 if good else 503)

    def _scrape(self, request: Request) -> Response:
        if not self._may_scrape(request):
            body = b"The metrics ask for a bearer token: see `recall metrics-token`.\n"
            return Response(401, b'WWW-Authenticate: Bearer realm="recall"\r\n' + _PLAIN, body)
        return Response(200, b"Content-Type: " + CONTENT_TYPE + b"\r\n", self._metrics.text(self._shared_gauges))

    def _may_scrape(self, request: Request) -> bool:
        if self._metrics_auth == "public" or (self._metrics_auth == "auto" and _is_loopback(request.peer)):
            return True
        scheme, _, given = request.headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        return scheme.lower() == "bearer" and token.accepts(self._credentials, given.strip(), self._now_s())


def _is_loopback(peer: str) -> bool:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False  # no address, so no peer we know to be near
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
