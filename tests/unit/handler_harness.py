"""Runs handlers without a transport: a request in, a reply out, over the memory store and a manual clock.

It resolves the operation by the real table, opens the real payload and translates errors as the border does; only
signatures and identities are left out. Owns its store and clock. Kind: shell of the tests.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any

from s3api import xml
from s3api.access import OneAccount, Rights
from s3api.call import Access, Call, Payload
from s3api.config import ApiConfig
from s3api.errors import S3Error, from_store
from s3api.handlers import HANDLERS
from s3api.identity import Identity
from s3api.message import Request, StreamBody
from s3api.operations import resolve
from s3api.params import parse_query
from s3api.payload import open_payload
from s3api.target import parse_target
from tests.support.clock import ManualClock
from tiering.contract import FileSpans, NoSuchKey, Store, StoreError
from tiering.memory import MemoryStore

ROOT = Identity("root", "secret", "owner-id", "owner-name", root=True)
ANONYMOUS = Identity("")


class Body:
    """A RequestBody over bytes, `piece` at a time. `reads` counts how often it was asked."""

    def __init__(self, data: bytes, piece: int = 1 << 16, chunked: bool = False) -> None:
        self.length: int | None = None if chunked else len(data)
        self.reads = 0
        self._data, self._at, self._piece = data, 0, piece

    async def read(self) -> memoryview:
        self.reads += 1
        view = memoryview(self._data)[self._at : self._at + self._piece]
        self._at += len(view)
        return view

    def done(self) -> None: ...

    def whole(self) -> memoryview | None:
        """What fits one piece has arrived."""
        if self.length is None or self.reads or len(self._data) > self._piece:
            return None
        self.reads = 1
        self._at = len(self._data)
        return memoryview(self._data)


class Reply:
    """A response taken apart. `code` is the error's, "" for a success."""

    def __init__(self, status: int, lines: bytes, body: bytes, length: int | None, code: str = "") -> None:
        self.status, self.body, self.length, self.code, self.lines = status, body, length, code, lines
        self.headers: dict[str, str] = {}
        for line in lines.decode().split("\r\n")[:-1]:
            name, colon, value = line.partition(": ")
            assert colon and name == name.lower() and name not in self.headers, line
            self.headers[name] = value
        assert not lines or lines.endswith(b"\r\n")
        self.fields: dict[str, Any] = {}

    def xml(self, root: str) -> xml.Node:
        return xml.parse(self.body, root)


class Harness:
    """`harness("PUT", "/b/k", {...}, b"body")`; paths as on the wire, header names in lower case."""

    def __init__(self, config: ApiConfig | None = None, store: Store | None = None) -> None:
        self.clock = ManualClock()
        self.store: Store = store or MemoryStore(self.clock)
        self.config = config or ApiConfig()
        self.access: Access = Rights(OneAccount(ROOT))

    def __call__(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str | bytes] | None = None,
        body: bytes = b"",
        *,
        payload: Payload | None = None,
        identity: Identity = ROOT,
    ) -> Reply:
        return asyncio.run(self.request(method, path, headers, body, payload=payload, identity=identity))

    async def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str | bytes] | None = None,
        body: bytes | Body = b"",
        *,
        payload: Payload | None = None,
        identity: Identity = ROOT,
    ) -> Reply:
        try:
            call = self.call(method, path, headers, body, payload=payload, identity=identity)
            answer = HANDLERS[call.operation](call)
            if isinstance(answer, NoSuchKey):
                raise answer
            response = await answer if inspect.isawaitable(answer) else answer
        except StoreError as error:
            return self._failed(from_store(error))
        except S3Error as error:
            return self._failed(error)
        content = await content_of(response.body)
        return Reply(response.status, response.headers, content, response.length)

    @staticmethod
    def _failed(error: S3Error) -> Reply:
        reply = Reply(error.spec.status, error.headers, error.message.encode(), None, error.spec.code)
        reply.fields = error.fields
        return reply

    def call(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str | bytes] | None = None,
        body: bytes | Body = b"",
        *,
        payload: Payload | None = None,
        identity: Identity = ROOT,
    ) -> Call:
        raw = {b"host": b"s3.test:9000"}
        for name, value in (headers or {}).items():
            raw[name.encode()] = value.encode() if isinstance(value, str) else value
        raw_path, _, raw_query = path.encode().partition(b"?")
        carrier = Body(body) if isinstance(body, bytes) else body
        if carrier.length is not None and method in ("PUT", "POST"):
            raw.setdefault(b"content-length", str(carrier.length).encode())
        request = Request(method, raw_path, raw_query, raw, carrier)
        target = parse_target(raw_path, raw[b"host"], self.config)
        query = parse_query(raw_query)
        return Call(
            request=request,
            request_id="TEST",
            operation=resolve(method, target.scope, query, raw).name,
            bucket=target.bucket,
            key=target.key,
            query=query,
            identity=identity,
            payload=payload or open_payload(carrier, raw, None, self.config.document_bytes_max),
            store=self.store,
            config=self.config,
            now_ms=self.clock.now_ms(),
            access=self.access,
        )


async def content_of(body: bytes | FileSpans | StreamBody) -> bytes:
    if isinstance(body, bytes):
        return body
    assert isinstance(body, StreamBody)
    content = b"".join([bytes(piece) async for piece in body.chunks])
    assert len(content) == body.length
    return content
