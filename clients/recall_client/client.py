"""`RecallClient`: many blocks of one bucket in one round trip, read straight into the caller's buffers.

Promise: a block that is reported as read is whole; keys have outcomes of their own, and only a request that failed as a
whole raises. Against a server that is not Recall the same calls are made of plain S3 requests, as far as S3 has them.
Owns its connections. Does not know engines, or how a gateway stores blocks.
Kind: shell; any thread. Spec: docs/EXTENSIONS.md, "Many keys at once"; AWS S3 API Reference.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any, Final, Literal, TypeVar
from xml.etree import ElementTree

from recall_client.connections import Buffer, Connections
from recall_client.errors import BufferTooSmall, NotSupported, RecallError
from recall_client.signing import Credentials, path_of

KEYS_MAX: Final = 4096
"""Keys the gateway takes in one request; more are asked for in several."""
PUT_BYTES_MAX: Final = 256 << 20
"""Bytes of blocks in one request of `put`: what a failure makes you send again."""

_HEAD = struct.Struct("<HHIQ")
_TABLE = struct.Struct("<I")
_AWAY: Final = frozenset((429, 502, 503, 504))
"""What proxies answer for a server that cannot be asked: it says nothing of whether that is a gateway."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A block that is there. `ttl_ms`, `pin_ms`: what is left of them, None without one; -1 is a pin for ever."""

    size: int
    tier: Literal["hot", "cold"]
    etag: str
    ttl_ms: int | None = None
    pin_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Lookup:
    """`run`: how many keys from the first on are there without a gap. `entries`: None where there is nothing."""

    run: int
    entries: Sequence[Entry | None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one key: `code` "" is success, else S3's error code with its status."""

    etag: str = ""
    code: str = ""
    message: str = ""
    status: int = 200

    @property
    def ok(self) -> bool:
        return not self.code


class RecallClient:
    """Blocks of `bucket`. `connections`: requests under way together; calls may come from any number of threads.

    `credentials` None sends anonymous requests. `context`: for https. Use as a context manager, or `close()` it.
    """

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        credentials: Credentials | None,
        *,
        connections: int = 8,
        timeout_s: float = 30.0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.bucket = bucket
        self._credentials = credentials
        self._connections = Connections(endpoint, connections, timeout_s, context)
        self._threads = ThreadPoolExecutor(connections, "recall-client")
        self._plain = False

    def __enter__(self) -> RecallClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._threads.shutdown(wait=True)
        self._connections.close()

    # -- reading -------------------------------------------------------------------------------------------------

    def lookup(self, keys: Sequence[str]) -> Lookup:
        """What is there of `keys`; one round trip. Counts as no read."""
        entries: list[Entry | None] = []
        for some in _portions(keys):
            reply = self._ask("lookup", {"keys": some})
            if reply is None:
                entries += self._threads.map(self._head, some)
            else:
                entries += [None if each is None else Entry(**each) for each in reply["objects"]]
        run = next((at for at, entry in enumerate(entries) if entry is None), len(entries))
        return Lookup(run, entries)

    def get_into(
        self, keys: Sequence[str], buffers: Sequence[Any], *, stop_at_miss: bool = True, hot_only: bool = False
    ) -> list[int | None]:
        """Reads each block into the writable buffer beside it; answers the sizes, None where there was nothing.

        `stop_at_miss`: the first key that is not there ends it, and those behind it are None too. `hot_only`: a cold
        block is a miss instead of a wait. Raises BufferTooSmall, and RecallError when the reply breaks off.
        """
        if len(keys) != len(buffers):
            raise ValueError("a buffer for each key")
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        sizes: list[int | None] = []
        for at in range(0, len(keys), KEYS_MAX):
            some = keys[at : at + KEYS_MAX]
            got = self._get_frames(some, views[at : at + len(some)], stop_at_miss, hot_only)
            if got is None:
                got = self._get_plain(some, views[at : at + len(some)], stop_at_miss)
            sizes += got
            if stop_at_miss and (not got or got[-1] is None or len(got) < len(some)):
                break
        return sizes + [None] * (len(keys) - len(sizes))

    def get(self, keys: Sequence[str], *, stop_at_miss: bool = True, hot_only: bool = False) -> list[bytes | None]:
        """As `get_into`, into memory of its own."""
        found = self.lookup(keys)
        stop = found.run if stop_at_miss else len(keys)
        buffers = [bytearray(0 if entry is None else entry.size) for entry in found.entries[:stop]]
        sizes = self.get_into(keys[:stop], buffers, stop_at_miss=stop_at_miss, hot_only=hot_only)
        blocks = [None if n is None else bytes(buffer[:n]) for n, buffer in zip(sizes, buffers, strict=True)]
        return blocks + [None] * (len(keys) - stop)

    def _get_frames(
        self, keys: Sequence[str], views: Sequence[memoryview], stop_at_miss: bool, hot_only: bool
    ) -> list[int | None] | None:
        document = {"keys": list(keys), "stop_at_miss": stop_at_miss, "hot_only": hot_only}

        def read(response: HTTPResponse) -> list[int | None]:
            head = bytearray(_HEAD.size)
            sizes: list[int | None] = []
            for view in views:
                if _fill(response, memoryview(head)) == 0:
                    break  # the frame before was the last: a miss
                status, _, _, length = _HEAD.unpack(head)
                if status == 200 and length > len(view):
                    raise BufferTooSmall(f"{keys[len(sizes)]} is {length} bytes long, its buffer {len(view)}")
                if status == 200:
                    _fill(response, view[:length], whole=True)
                sizes.append(length if status == 200 else None)
            return sizes

        return self._batch("get", (json.dumps(document).encode(),), read)

    # -- writing -------------------------------------------------------------------------------------------------

    def put(
        self,
        blocks: Iterable[tuple[str, Buffer]],
        *,
        pin: float | bool | None = None,
        ttl: float | str | None = None,
        if_absent: bool = False,
    ) -> list[Outcome]:
        """Stores (key, bytes) pairs; buffers are read while it runs. The blocks are stored when it returns.

        `pin`: True, or seconds. `ttl`: seconds, or `"3600; sliding"`. `if_absent`: a key that is taken stays as it is
        (`PreconditionFailed`, 412).
        """
        said = {"pin": pin, "ttl": ttl, "if_absent": if_absent or None}
        extra = {name: value for name, value in said.items() if value is not None}
        outcomes: list[Outcome] = []
        for some in _bodies(blocks):
            sizes = [memoryview(data).nbytes for _, data in some]
            table = json.dumps(
                {"objects": [{"key": key, "size": size, **extra} for (key, _), size in zip(some, sizes, strict=True)]}
            ).encode()
            body = (_TABLE.pack(len(table)) + table, *(data for _, data in some))
            reply = self._batch("put", body, _json)
            if reply is None:
                outcomes += self._threads.map(lambda each: self._put_one(each[0], each[1], extra), some)
            else:
                outcomes += map(_outcome, reply["objects"])
        return outcomes

    def delete(self, keys: Sequence[str]) -> list[Outcome]:
        """Deletes; a key that is not there is success."""
        return self._each("delete", keys, {}, self._delete_one)

    # -- leases --------------------------------------------------------------------------------------------------

    def pin(self, keys: Sequence[str], seconds: float | None = None) -> list[Outcome]:
        """Keeps blocks in the tier, for `seconds` or until they are unpinned. Raises NotSupported on plain S3."""
        return self._each("pin", keys, {"pin": True if seconds is None else seconds}, None)

    def unpin(self, keys: Sequence[str]) -> list[Outcome]:
        """Ends pins. Raises NotSupported on plain S3."""
        return self._each("unpin", keys, {}, None)

    def touch(self, keys: Sequence[str], ttl: float | str | None = None) -> list[Outcome]:
        """Counts as a read: sliding TTLs start again; `ttl` gives a new one. Raises NotSupported on plain S3."""
        return self._each("touch", keys, {} if ttl is None else {"ttl": ttl}, None)

    @contextlib.contextmanager
    def lease(self, keys: Sequence[str], seconds: float) -> Iterator[list[Outcome]]:
        """Pins blocks for at most `seconds`, and unpins them when the block ends: a caller that dies holds nothing long."""
        outcomes = self.pin(keys, seconds)
        try:
            yield outcomes
        finally:
            self.unpin([key for key, outcome in zip(keys, outcomes, strict=True) if outcome.ok])

    # -- the gateway's calls ---------------------------------------------------------------------------------------

    def _each(
        self, verb: str, keys: Sequence[str], extra: dict[str, Any], one: Callable[[str], Outcome] | None
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for some in _portions(keys):
            reply = self._ask(verb, {"keys": some, **extra})
            if reply is not None:
                outcomes += map(_outcome, reply["objects"])
            elif one is not None:
                outcomes += self._threads.map(one, some)
            else:
                raise NotSupported(f"{self._connections.host} is plain S3, which has no {verb}")
        return outcomes

    def _ask(self, verb: str, document: dict[str, Any]) -> Any:
        """The JSON reply of a batch call; None where the server has none."""
        return self._batch(verb, (json.dumps(document).encode(),), _json)

    def _batch(self, verb: str, body: Sequence[Buffer], read: Callable[[HTTPResponse], T]) -> T | None:
        if self._plain:
            return None
        with self._request("POST", "", f"recall={verb}", {}, body) as response:
            if response.status == 200:
                return read(response)
            error = _failure(response)
            if response.status in _AWAY or response.getheader("server", "").startswith("Recall"):
                raise error
        self._plain = True  # whatever it answered, it was not the gateway
        return None

    @contextlib.contextmanager
    def _request(
        self, method: str, key: str, query: str = "", headers: dict[str, str] | None = None, body: Sequence[Buffer] = ()
    ) -> Iterator[HTTPResponse]:
        path = path_of(self.bucket, key)
        host = self._connections.host
        if self._credentials is None:
            signed = {**(headers or {}), "host": host}
        else:
            signed = self._credentials.sign(method, path, query, host, headers or {})
        with self._connections.request(method, f"{path}?{query}" if query else path, signed, body) as response:
            yield response

    # -- the same of plain S3 ----------------------------------------------------------------------------------------

    def _head(self, key: str) -> Entry | None:
        with self._request("HEAD", key) as response:
            response.read()
            if response.status == 404:
                return None
            if response.status != 200:
                raise RecallError(f"HEAD of {key} answered {response.status}", status=response.status)
            return Entry(
                int(response.getheader("content-length", "0")), "hot", response.getheader("etag", "").strip('"')
            )

    def _get_plain(self, keys: Sequence[str], views: Sequence[memoryview], stop_at_miss: bool) -> list[int | None]:
        if not stop_at_miss:
            return list(self._threads.map(self._get_one, keys, views))
        sizes: list[int | None] = []
        for at in range(0, len(keys), 32):  # a few together; those behind a miss were asked for in vain
            sizes += self._threads.map(self._get_one, keys[at : at + 32], views[at : at + 32])
            if None in sizes:
                return sizes[: sizes.index(None) + 1]
        return sizes

    def _get_one(self, key: str, view: memoryview) -> int | None:
        with self._request("GET", key) as response:
            if response.status == 404:
                response.read()
                return None
            if response.status != 200:
                raise _failure(response)
            length = int(response.getheader("content-length", "0"))
            if length > len(view):
                raise BufferTooSmall(f"{key} is {length} bytes long, its buffer {len(view)}")
            _fill(response, view[:length], whole=True)
            return length

    def _put_one(self, key: str, data: Buffer, extra: Mapping[str, Any]) -> Outcome:
        headers = {f"x-amz-meta-recall-{name}": _text(extra[name]) for name in ("pin", "ttl") if name in extra}
        if "if_absent" in extra:
            headers["if-none-match"] = "*"
        return self._outcome_of("PUT", key, headers, (data,))

    def _delete_one(self, key: str) -> Outcome:
        return self._outcome_of("DELETE", key, {}, ())

    def _outcome_of(self, method: str, key: str, headers: dict[str, str], body: Sequence[Buffer]) -> Outcome:
        with self._request(method, key, "", headers, body) as response:
            if response.status in (200, 204):
                response.read()
                return Outcome(etag=response.getheader("etag", "").strip('"'))
            error = _failure(response)
        return Outcome(code=error.code or str(error.status), message=str(error), status=error.status)


def _portions(keys: Sequence[str]) -> Iterator[list[str]]:
    for at in range(0, len(keys), KEYS_MAX):
        yield list(keys[at : at + KEYS_MAX])


def _bodies(blocks: Iterable[tuple[str, Buffer]]) -> Iterator[list[tuple[str, Buffer]]]:
    """Blocks in portions of at most PUT_BYTES_MAX (or one block) and KEYS_MAX."""
    some: list[tuple[str, Buffer]] = []
    size = 0
    for key, data in blocks:
        length = memoryview(data).nbytes
        if some and (size + length > PUT_BYTES_MAX or len(some) == KEYS_MAX):
            yield some
            some, size = [], 0
        some.append((key, data))
        size += length
    if some:
        yield some


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _json(response: HTTPResponse) -> Any:
    return json.loads(response.read())


def _outcome(said: Mapping[str, Any]) -> Outcome:
    return Outcome(said.get("etag", ""), said.get("code", ""), said.get("message", ""), said.get("status", 200))


def _fill(response: HTTPResponse, view: memoryview, whole: bool = False) -> int:
    """Reads until `view` is full; 0 at the end of the reply, if it may be there. Raises RecallError at an early end."""
    at = 0
    while at < len(view):
        got = response.readinto(view[at:])
        if not got:
            if at or whole or response.length:  # what was announced and did not come is no miss
                raise RecallError("the reply broke off")
            return 0
        at += got
    return at


def _failure(response: HTTPResponse) -> RecallError:
    """The error a reply tells, as XML where it does."""
    body = response.read()
    try:
        root = ElementTree.fromstring(body)
        code, message = root.findtext("Code") or "", root.findtext("Message") or ""
    except ElementTree.ParseError:
        code = message = ""
    return RecallError(message or f"status {response.status}", code, response.status)
