"""`RecallClient`: many blocks of one bucket in one round trip, read straight into the caller's buffers.

Promise: a block that is reported as read is whole; keys have outcomes of their own, and only a request that failed as a
whole raises. Against a server that is not Recall the same calls are made of plain S3 requests, as far as S3 has them.
Owns its connections. Does not know engines, or how a gateway stores blocks.
Kind: shell; any thread. Spec: docs/EXTENSIONS.md, "Many keys at once"; AWS S3 API Reference.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import ssl
import struct
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any, Final, Literal, TypeVar
from xml.etree import ElementTree

from recall_client.connections import Buffer, Connections, flat
from recall_client.errors import BufferTooSmall, NotSupported, RecallError, ReplyBroken
from recall_client.signing import Credentials, path_of

KEYS_MAX: Final = 4096
"""Keys the gateway takes in one request; more are asked for in several."""
SPREAD_BYTES: Final = 16 << 20
"""Bytes of blocks, or room of buffers, in one request; where there is more, other connections work beside it."""
CORES_MIN: Final = 3
"""With fewer they do not: two threads and a gateway on two cores move a fifth less than one thread does."""
ALONE_BYTES: Final = 256 << 20
"""As SPREAD_BYTES, where no other connection works beside it: what a failure makes you send again."""
AGAIN_MAX: Final = 4
"""How often a get goes on from where its reply broke off: the gateway cannot take a block back that it has announced, when it turns
out damaged or is deleted, and the next request finds it gone."""
PLAIN_S: Final = 60.0
"""How long a server is taken for plain S3 before it is asked again: a proxy may have answered for a gateway."""

_HEAD = struct.Struct("<HHIQ")
_TABLE = struct.Struct("<I")
_AWAY: Final = frozenset((429, 502, 503, 504))
"""What proxies answer for a server that cannot be asked: it says nothing of whether that is a gateway."""
_JSON: Final = "application/json"
_FRAMES: Final = "application/vnd.recall.frames"
_REFUSED: Final = "x-recall-refused"
"""The header in which the gateway says that it was the one who refused a batch: a proxy may put another name into Server."""
S = TypeVar("S")
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
        self._size = connections
        self._spreads = connections > 1 and _cores() >= CORES_MIN
        self._known = False  # to be a gateway
        self._plain_until_s = 0.0
        self._begin()
        forkable.add(self)

    def _begin(self) -> None:
        self._threads = ThreadPoolExecutor(self._size, "recall-client")

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
        _check(keys)
        entries: list[Entry | None] = []
        for some in _portions(keys):
            reply = self._ask("lookup", {"keys": some})
            if reply is None:
                entries += self._threads.map(self._head, some)
            else:
                entries += map(_entry, reply["objects"])
        run = next((at for at, entry in enumerate(entries) if entry is None), len(entries))
        return Lookup(run, entries)

    def get_into(
        self, keys: Sequence[str], buffers: Sequence[Any], *, stop_at_miss: bool = True, hot_only: bool = False
    ) -> list[int | None]:
        """Reads each block into the writable buffer beside it; answers the sizes, None where there was nothing.

        `stop_at_miss`: the first key that is not there ends it, and those behind it are None too, whatever came into their
        buffers. `hot_only`: a cold block is a miss instead of a wait. Many bytes come over several connections. Raises
        BufferTooSmall, and RecallError when replies break off again and again; blocks have been read then, but nothing says
        which.
        """
        if len(keys) != len(buffers):
            raise ValueError("a buffer for each key")
        views = [flat(buffer) for buffer in buffers]
        if any(view.readonly for view in views):
            raise ValueError("a buffer is read-only")

        def take(at: int, response: HTTPResponse, length: int) -> int:
            if length > len(views[at]):
                raise BufferTooSmall(f"{keys[at]} is {length} bytes long, its buffer {len(views[at])}")
            _fill(response, views[at][:length], whole=True)
            return length

        return self._read(
            keys, _spans([len(view) for view in views], self._request_bytes()), take, stop_at_miss, hot_only
        )

    def get(self, keys: Sequence[str], *, stop_at_miss: bool = True, hot_only: bool = False) -> list[bytes | None]:
        """As `get_into`, into memory of its own."""
        return self._read(keys, _spans([0] * len(keys), self._request_bytes()), _whole, stop_at_miss, hot_only)

    def _read(
        self, keys: Sequence[str], spans: Sequence[range], take: Take[T], stop_at_miss: bool, hot_only: bool
    ) -> list[T | None]:
        """What `take` makes of each block, None for what is not there; a request a span."""
        _check(keys)
        missed: list[int] = []

        def read(number: int) -> list[T | None]:
            if any(before < number for before in missed):
                return []
            some = keys[spans[number].start : spans[number].stop]
            got = self._read_span(some, spans[number].start, take, stop_at_miss, hot_only)
            if stop_at_miss and (len(got) < len(some) or None in got[-1:]):
                missed.append(number)
            return got

        blocks: list[T | None] = []
        rest = iter(range(len(spans)))
        if len(spans) == 1 or not self._known:  # plain S3 has those threads for a request a key
            blocks += itertools.chain.from_iterable(map(read, itertools.islice(rest, 1)))
        if self._known and self._spreads:
            futures = [self._threads.submit(read, number) for number in rest]
            wait(futures)  # an error must not leave anybody who still writes into the buffers
            for number, future in enumerate(futures, len(spans) - len(futures)):
                if any(before < number for before in missed):
                    break  # errors behind a miss are nobody's
                blocks += future.result()
        else:
            blocks += itertools.chain.from_iterable(map(read, rest))
        return blocks + [None] * (len(keys) - len(blocks))

    def _read_span(
        self, keys: Sequence[str], first: int, take: Take[T], stop_at_miss: bool, hot_only: bool
    ) -> list[T | None]:
        """The blocks of one request, up to the miss that ends it; what a reply that broke off lacks is asked for again."""
        got: list[T | None] = []
        for again in range(AGAIN_MAX + 1):
            rest, at = keys[len(got) :], first + len(got)
            try:
                if not self._get_frames(rest, at, take, stop_at_miss, hot_only, got):
                    got += self._get_plain(rest, at, take, stop_at_miss)
                break
            except ReplyBroken:
                if len(got) == len(keys) or (stop_at_miss and None in got[-1:]):
                    break
                if again == AGAIN_MAX:
                    raise
        return got

    def _get_frames(
        self, keys: Sequence[str], first: int, take: Take[T], stop_at_miss: bool, hot_only: bool, blocks: list[T | None]
    ) -> bool:
        """Adds to `blocks` as they come. False where the server is plain S3."""
        document = {"keys": list(keys), "stop_at_miss": stop_at_miss, "hot_only": hot_only}

        def read(response: HTTPResponse) -> bool:
            head = memoryview(bytearray(_HEAD.size))
            for at in range(first, first + len(keys)):
                if _fill(response, head) == 0:
                    break  # the frame before was the last: a miss
                status, _, _, length = _HEAD.unpack(head)
                blocks.append(take(at, response, length) if status == 200 else None)
            return True

        return bool(self._batch("get", (_encoded(document),), _FRAMES, read))

    # -- writing -------------------------------------------------------------------------------------------------

    def put(
        self,
        blocks: Iterable[tuple[str, Buffer]],
        *,
        pin: float | bool | None = None,
        ttl: float | str | None = None,
        if_absent: bool = False,
    ) -> list[Outcome]:
        """Stores (key, bytes) pairs; buffers are read while it runs. The blocks are stored when it returns. Many bytes go over several
        connections. Raises RecallError where a request failed as a whole; those beside it may have stored their blocks.

        `pin`: True, or seconds. `ttl`: seconds, or `"3600; sliding"`. `if_absent`: a key that is taken stays as it is
        (`PreconditionFailed`, 412).
        """
        said = {"pin": pin, "ttl": ttl, "if_absent": if_absent or None}
        extra = {name: value for name, value in said.items() if value is not None}
        outcomes: list[Outcome] = []
        under_way: deque[Future[list[Outcome]]] = deque()
        begun: set[str] = set()

        def finish(but: int) -> None:
            while len(under_way) > but:
                outcomes.extend(under_way.popleft().result())

        def begin(some: Sequence[tuple[str, memoryview]]) -> None:
            if not begun.isdisjoint(key for key, _ in some):  # of two blocks of one key the later one stays
                finish(0)
                begun.clear()
            begun.update(key for key, _ in some)

        held: Sequence[tuple[str, memoryview]] = ()  # the last is for this thread
        try:
            for some in _bodies(blocks, self._request_bytes()):
                _check([key for key, _ in some])
                if not self._known or not self._spreads:  # plain S3 has those threads for a request a key
                    outcomes += self._put_some(some, extra)
                    continue
                if held:
                    begin(held)
                    under_way.append(self._threads.submit(self._put_some, held, extra))
                    finish(self._size - 1)
                held = some
            if held:
                begin(held)
                last = self._put_some(held, extra)
                finish(0)
                outcomes += last
        finally:
            wait(under_way)  # an error must not leave anybody who still reads the buffers
        return outcomes

    def _put_some(self, some: Sequence[tuple[str, memoryview]], extra: Mapping[str, Any]) -> list[Outcome]:
        """Stores blocks by one request."""
        table = _encoded({"objects": [{"key": key, "size": data.nbytes, **extra} for key, data in some]})
        body = (_TABLE.pack(len(table)) + table, *(data for _, data in some))
        reply = self._batch("put", body, _JSON, _json)
        if reply is None:
            return [future.result() for future in self._ended(lambda each: self._put_one(*each, extra), some)]
        return list(map(_outcome, reply["objects"]))

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

    def _request_bytes(self) -> int:
        return SPREAD_BYTES if self._spreads else ALONE_BYTES

    # -- the gateway's calls ---------------------------------------------------------------------------------------

    def _each(
        self, verb: str, keys: Sequence[str], extra: dict[str, Any], one: Callable[[str], Outcome] | None
    ) -> list[Outcome]:
        _check(keys)
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
        return self._batch(verb, (_encoded(document),), _JSON, _json)

    def _batch(self, verb: str, body: Sequence[Buffer], kind: str, read: Callable[[HTTPResponse], T]) -> T | None:
        """What `read` makes of a reply of content type `kind`; None from a server that is taken for plain S3."""
        if not self._known and time.monotonic() < self._plain_until_s:
            return None
        with self._request("POST", "", f"recall={verb}", {}, body) as response:
            if response.status == 200 and response.getheader("content-type", "").startswith(kind):
                self._known = True
                return read(response)
            error = _failure(response)
            if response.getheader(_REFUSED) or response.getheader("server", "").startswith("Recall"):
                self._known = True
            if self._known or response.status in _AWAY:
                raise error
        # Nobody we know. Perhaps a proxy that let this one not pass, as for the length of its body: a short question tells.
        if verb != "lookup" and self._batch("lookup", (_encoded({"keys": ["-"]}),), _JSON, _json) is not None:
            raise error
        self._plain_until_s = time.monotonic() + PLAIN_S
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

    def _get_plain(self, keys: Sequence[str], first: int, take: Take[T], stop_at_miss: bool) -> list[T | None]:
        def one(asked: tuple[int, str]) -> T | None:
            at, key = asked
            with self._request("GET", key) as response:
                if response.status == 404:
                    response.read()
                    return None
                if response.status != 200:
                    raise _failure(response)
                return take(at, response, int(response.getheader("content-length", "0")))

        blocks: list[T | None] = []
        step = 32 if stop_at_miss else len(keys)  # a few together; those behind a miss were asked for in vain
        for at in range(0, len(keys), step):
            for future in self._ended(one, enumerate(keys[at : at + step], first + at)):
                blocks.append(future.result())
                if stop_at_miss and blocks[-1] is None:
                    return blocks  # errors behind a miss are nobody's
        return blocks

    def _ended(self, one: Callable[[S], T], all_of: Iterable[S]) -> list[Future[T]]:
        """What became of each, once nobody reads or writes a buffer any more, whatever failed."""
        futures = [self._threads.submit(one, each) for each in all_of]
        wait(futures)
        return futures

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


Take = Callable[[int, HTTPResponse, int], T]
"""Reads the block of the key at a place in the caller's list, of a length, from a reply."""

forkable: weakref.WeakSet[Any] = weakref.WeakSet()
"""What has threads: `_begin` is called in a forked child, which has none of them."""


def _in_child() -> None:
    for each in forkable:
        each._begin()


os.register_at_fork(after_in_child=_in_child)


def _cores() -> int:
    """Those that this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(keys: Sequence[str]) -> None:
    """An empty key would name the bucket itself: DELETE of it is another thing."""
    if "" in keys:
        raise ValueError("a key is empty")


def _encoded(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()  # escapes are thrice as long, and the table has its limit


def _portions(keys: Sequence[str]) -> Iterator[list[str]]:
    for at in range(0, len(keys), KEYS_MAX):
        yield list(keys[at : at + KEYS_MAX])


def _spans(sizes: Sequence[int], bytes_max: int) -> list[range]:
    """Places of keys that are read in one request: up to KEYS_MAX, and as many as fill `bytes_max`."""
    spans: list[range] = []
    begin = size = 0
    for at, length in enumerate(sizes):
        if at > begin and (size + length > bytes_max or at - begin == KEYS_MAX):
            spans.append(range(begin, at))
            begin, size = at, 0
        size += length
    return [*spans, range(begin, len(sizes))] if sizes else []


def _bodies(blocks: Iterable[tuple[str, Buffer]], bytes_max: int) -> Iterator[list[tuple[str, memoryview]]]:
    """Blocks in portions of at most `bytes_max` (or one block) and KEYS_MAX; two of one key never go together, so that the later stays."""
    some: dict[str, memoryview] = {}
    size = 0
    for key, data in blocks:
        view = flat(data)
        if some and (size + view.nbytes > bytes_max or len(some) == KEYS_MAX or key in some):
            yield list(some.items())
            some, size = {}, 0
        some[key] = view
        size += view.nbytes
    if some:
        yield list(some.items())


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _json(response: HTTPResponse) -> Any:
    return json.loads(response.read())


def _entry(said: Mapping[str, Any] | None) -> Entry | None:
    """A later gateway may say more."""
    if said is None:
        return None
    return Entry(said["size"], said["tier"], said["etag"], said.get("ttl_ms"), said.get("pin_ms"))


def _outcome(said: Mapping[str, Any]) -> Outcome:
    return Outcome(said.get("etag", ""), said.get("code", ""), said.get("message", ""), said.get("status", 200))


def _whole(_: int, response: HTTPResponse, length: int) -> bytes:
    block = response.read(length)
    if len(block) < length:
        raise ReplyBroken("the reply broke off")
    return block


def _fill(response: HTTPResponse, view: memoryview, whole: bool = False) -> int:
    """Reads until `view` is full; 0 at the end of the reply, if it may be there. Raises RecallError at an early end."""
    at = 0
    while at < len(view):
        got = response.readinto(view[at:])
        if not got:
            if at or whole or response.length:  # what was announced and did not come is no miss
                raise ReplyBroken("the reply broke off")
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
