"""What the protocol layer costs one request, without socket, handler work or store: µs of one core, best of several runs.

    python -m bench.micro.pipeline [--runs N]

Kind: shell. Each line is one step or one whole request through `s3api.pipeline.Pipeline` with a handler that answers at
once. Best of the runs, since other load on the machine only ever adds.
"""

from __future__ import annotations

import argparse
import time
import timeit
from collections.abc import Callable
from typing import Any, cast

from s3api.call import Call
from s3api.config import ApiConfig
from s3api.identity import Identity
from s3api.message import Request, Response
from s3api.operations import resolve
from s3api.pipeline import Pipeline
from s3api.sigv4 import SigV4, sign_headers
from s3api.target import Targets
from tiering.contract import BucketInfo, Store

NOW_S = 1_780_000_000
CALLS = 5_000
PATH = b"/kvcache/meta-llama_Llama-3.1-8B-Instruct%401%400%406f3a9c01d2e4b587%40bfloat16"
HEADERS = {
    b"host": b"127.0.0.1:9000",
    b"user-agent": b"CRTS3NativeClient/1.5.1",
    b"accept": b"*/*",
    b"range": b"bytes=0-8388607",
}


class _Clock:
    def now_ms(self) -> int:
        return NOW_S * 1000


class _NoBody:
    length: int | None = 0

    async def read(self) -> memoryview:
        return memoryview(b"")

    def done(self) -> None: ...

    def whole(self) -> memoryview | None:
        return None


class _Buckets:
    """The one thing the protocol layer asks a store for itself."""

    def __init__(self) -> None:
        self._known = {"kvcache": BucketInfo(name="kvcache", created_ms=0, pool="kv")}

    def bucket(self, name: str) -> BucketInfo:
        return self._known[name]


def _handler(call: Call) -> Response:
    return Response(200, b"etag: x\r\n")


def _steps() -> list[tuple[str, Callable[[], Any]]]:
    root = Identity("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "owner", "root", root=True)
    config = ApiConfig()
    identities = {root.access_key: root}.get
    names = ("GetObject", "HeadObject", "PutObject", "UploadPart", "ListObjectsV2")
    pipeline = Pipeline(cast(Store, _Buckets()), config, identities, dict.fromkeys(names, _handler), _Clock())
    verifier = SigV4({root.access_key: root.secret_key}.get)
    targets = Targets(config)
    body = _NoBody()

    def signed(
        method: str, path: bytes, query: bytes = b"", extra: dict[bytes, bytes] | None = None
    ) -> dict[bytes, bytes]:
        return sign_headers(
            method,
            path,
            query,
            HEADERS | (extra or {}),
            access_key=root.access_key,
            secret_key=root.secret_key,
            now_s=NOW_S,
        )

    def whole(
        method: str, path: bytes, query: bytes = b"", extra: dict[bytes, bytes] | None = None
    ) -> Callable[[], Any]:
        headers = signed(method, path, query, extra)

        def one() -> None:
            request = Request(method, path, query, headers, body)
            response = pipeline.handle(request)
            assert isinstance(response, Response)
            assert response.status == 200, response.body
            pipeline.finished(request, response, 0, True)

        return one

    get = signed("GET", PATH)
    wrong = get | {b"authorization": get[b"authorization"][:-1] + b"!"}

    def refused() -> None:
        response = pipeline.handle(Request("GET", PATH, b"", wrong, body))
        assert isinstance(response, Response)
        assert response.status == 403

    plain = b"/kvcache/0123456789abcdef0123456789abcdef"
    return [
        ("target", lambda: targets.parse(PATH, b"127.0.0.1:9000")),
        ("resolve, no query", lambda: resolve("GET", "object", {}, get)),
        ("resolve, part", lambda: resolve("PUT", "object", {"partNumber": "1", "uploadId": "x"}, get)),
        ("sigv4 header, GET", lambda: verifier.verify("GET", PATH, b"", get, NOW_S)),
        ("GET, escaped key", whole("GET", PATH)),
        ("GET, plain key", whole("GET", plain)),
        ("GET, raw @ in key", whole("GET", PATH.replace(b"%40", b"@"))),
        ("HEAD", whole("HEAD", PATH)),
        ("PUT", whole("PUT", PATH, b"", {b"content-length": b"0"})),
        ("UploadPart", whole("PUT", PATH, b"partNumber=7&uploadId=abcdef0123", {b"content-length": b"0"})),
        ("ListObjectsV2", whole("GET", b"/kvcache", b"list-type=2&max-keys=100&prefix=model%2Fa%40")),
        ("GET refused (403, rendered)", refused),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    for name, call in _steps():
        best = min(timeit.repeat(call, timer=time.process_time, number=CALLS, repeat=arguments.runs)) / CALLS
        print(f"{name:30} {best * 1e6:7.2f} µs")


if __name__ == "__main__":
    main()
