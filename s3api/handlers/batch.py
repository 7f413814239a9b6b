"""Many keys in one request: `POST /bucket?recall=lookup|get|put|pin|unpin|touch|delete`.

Made for engines that ask for a run of blocks: one signature, one head and one round trip for all of them. Each key has
its own outcome; only what concerns the whole request (its document, its signature, the bucket) is an error of the reply.

Owns nothing between calls. Does not know storage or sockets: a hot `get` is handed to the transport as places in files,
heads of frames included, so that its bytes are never copied here.
Kind: shell (the loop). Invariants: an opened object is sent or closed; a writer is committed or aborted; at most AHEAD
objects that must be waited for are open at once, and about HELD_BYTES of a reply are in memory.
Spec: docs/EXTENSIONS.md, "Many keys at once".
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeVar

import msgspec

from s3api import frames
from s3api.call import Call
from s3api.checksums import NOTHING_REQUESTED, Digest, conclude, requested_checksum, wanted
from s3api.errors import S3Error, from_store
from s3api.extensions import parse_pin, parse_ttl
from s3api.handlers.archive import is_archived
from s3api.handlers.body import Intake, arrived, document, pieces
from s3api.handlers.objects import bucket_of, delete_key
from s3api.handlers.options import check_deadline, put_options
from s3api.handlers.sealed import has_md5, new_seal, object_key_of, open_sealed, put_content
from s3api.message import Response, StreamBody
from s3api.target import check_key
from tiering.contract import (
    FOREVER_MS,
    OBJECT_BYTES_MAX,
    Buffer,
    Busy,
    Conditions,
    Encryption,
    FileSpans,
    NoSuchKey,
    ObjectChange,
    ObjectInfo,
    Opening,
    PutOptions,
    Reading,
    ReadOptions,
    Residency,
    StoreError,
    Ttl,
    Writer,
    content_bytes,
)

_log = logging.getLogger(__name__)

KEYS_MAX: Final = 4096
"""Keys of one request: the blocks of two million tokens at 512 a block."""
TABLE_BYTES_MAX: Final = 8 << 20
"""The JSON before the bytes of a `put`: KEYS_MAX keys of the longest length, and what is said of them."""
AHEAD: Final = 8
"""Objects of one `get` that are recalled, or read from the device, before their turn has come."""
HELD_BYTES: Final = 4 << 20
"""Of objects so short that they are read at once: a reply that has more of them is made while it is sent."""
TOGETHER_BYTES: Final = 256 << 10
"""Frames of short objects that are handed to the transport in one piece."""
AT_ONCE: Final = 128
"""Changes of one request under way together: they share group commits without filling the committer's queue."""

_GET: Final = ReadOptions()
_HEAD: Final = ReadOptions(head=True)
_JSON: Final = b"content-type: application/json\r\n"
_FRAMES: Final = f"content-type: {frames.FRAMES_TYPE}\r\n".encode()
_TAKEN: Final = frozenset(
    {
        b"x-amz-content-sha256",
        b"x-amz-date",
        b"x-amz-decoded-content-length",
        b"x-amz-expected-bucket-owner",
        b"x-amz-security-token",
        b"x-amz-storage-class",
        b"x-amz-user-agent",
    }
)
"""The headers of S3 that a `put` of many takes, beside x-amz-meta-."""
_ABSENT: Final = Conditions(if_none_match=("*",))
_COLD_ONLY: Final = Residency.COLD_ONLY
"""By this name where it is asked for each key: a look-up of a member in its class costs five times one of a module's name."""
T = TypeVar("T")


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The document of lookup, unpin, touch and delete."""

    keys: list[str]


class GetKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`stop_at_miss`: the reply ends with the first key that is not there, which is all an engine can use.

    `hot_only`: a cold object counts as a miss, and nothing is recalled.
    """

    keys: list[str]
    stop_at_miss: bool = False
    hot_only: bool = False


class PinKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`pin`: as the header `x-recall-pin`."""

    keys: list[str]
    pin: str | float | bool = True


class TouchKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`ttl`: as the header `x-recall-ttl`; without one a sliding TTL starts again and an absolute one stays."""

    keys: list[str]
    ttl: str | float | None = None


class PutEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One object of a `put`: `size` bytes of the body are its content. `if_absent`: not stored if the key is taken."""

    key: str
    size: int
    pin: str | float | bool | None = None
    ttl: str | float | None = None
    if_absent: bool = False


class PutTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    objects: list[PutEntry]


class Found(msgspec.Struct, omit_defaults=True):
    """What `lookup` says of a key that is there. `ttl_ms`, `pin_ms`: what is left of them; -1 is a pin for ever."""

    size: int
    tier: str
    etag: str
    ttl_ms: int | None = None
    pin_ms: int | None = None


class Outcome(msgspec.Struct, omit_defaults=True):
    """What became of one key: nothing to say, the ETag of what was written, or why not."""

    etag: str | None = None
    code: str | None = None
    message: str | None = None
    status: int | None = None


async def batch_lookup(call: Call) -> Response:
    """How long the leading run of keys that are there is, and what stands at each key. One snapshot for all."""
    keys = (await _document(call, Keys)).keys
    _check_keys(keys)
    may = _judge(call, "s3:GetObject")
    infos = call.store.look(call.bucket, keys)
    now_ms = call.now_ms
    entries = [
        None if info is None or not may(key, info) else _found(info, now_ms)
        for key, info in zip(keys, infos, strict=True)
    ]
    run = entries.index(None) if None in entries else len(entries)
    return Response(200, _JSON, msgspec.json.encode({"run": run, "objects": entries}))


def _found(info: ObjectInfo, now_ms: int) -> Found:
    found = Found(content_bytes(info), "cold" if info.residency is _COLD_ONLY else "hot", info.etag)
    if info.expires_ms:
        found.ttl_ms = max(0, info.expires_ms - now_ms)
    if info.pin_until_ms > now_ms:
        found.pin_ms = -1 if info.pin_until_ms == FOREVER_MS else info.pin_until_ms - now_ms
    return found


async def batch_get(call: Call) -> Response:
    """The objects' bytes in the order asked, each behind a head that says what it is."""
    asked = await _document(call, GetKeys)
    _check_keys(asked.keys)
    may = _judge(call, "s3:GetObject")
    infos = call.store.look(call.bucket, asked.keys)
    wanted: list[_Wanted] = []
    for key, info in zip(asked.keys, infos, strict=True):
        cold = info is not None and info.residency is _COLD_ONLY
        if not may(key, info) or (info is not None and _is_shut(call, info)):
            status = 403
        elif info is None or (cold and asked.hot_only):
            status = 404
        else:
            status = 200 if info.encryption is None else _sealed_status(call, info.encryption)
        wanted.append(_Wanted(key, status, info if status == 200 else None))
        if status != 200 and asked.stop_at_miss:
            break
    return _Gathered(call, wanted, asked.stop_at_miss).response()


def _is_shut(call: Call, info: ObjectInfo) -> bool:
    return bool(info.storage_class) and is_archived(info, call.now_ms)


def _may_read(call: Call, key: str, info: ObjectInfo) -> bool:
    return not _is_shut(call, info) and call.access.allows(call, "s3:GetObject", call.bucket, key, info)


def _sealed_status(call: Call, kept: Encryption) -> int:
    """200 where the request can open what is sealed: with a customer's key it opens what has it, and only that."""
    try:
        object_key_of(call, kept)
    except S3Error as error:
        return error.spec.status
    return 200


class _Wanted:
    """One key of a `get`: what was found at the look-up, and how far it has come."""

    __slots__ = ("info", "key", "opening", "reading", "status")

    def __init__(self, key: str, status: int, info: ObjectInfo | None) -> None:
        self.key, self.status, self.info = key, status, info
        self.reading: Reading | None = None
        self.opening: asyncio.Future[Reading] | None = None

    @property
    def size(self) -> int:
        return 0 if self.info is None else content_bytes(self.info)

    @property
    def generation(self) -> int:
        return 0 if self.info is None else self.info.generation


class _Gathered:
    """The reply of a `get`, opened as far as nothing must be waited for.

    Lengths are those of the look-up. An object that is another generation when its turn comes cannot be sent any more,
    nor another length announced: the connection ends, and the client has what came before.
    """

    def __init__(self, call: Call, wanted: list[_Wanted], stop_at_miss: bool) -> None:
        self._call = call
        self._wanted = wanted
        self._stop_at_miss = stop_at_miss

    def response(self) -> Response:
        """A reply out of memory and files when all of it is hot and not too much, else one that waits for what is not."""
        ready, held = True, 0
        try:
            for at, each in enumerate(self._wanted):
                if each.info is None:
                    continue
                ready = self._open_now(each)
                if each.reading is not None and isinstance(each.reading.body, bytes):
                    held += len(each.reading.body)
                if not ready or held > HELD_BYTES:
                    ready = False
                    break
                if each.status != 200 and self._stop_at_miss:  # gone since the look-up
                    del self._wanted[at + 1 :]
                    break
        except BaseException:
            self._close()
            raise
        if not ready:
            self._close()  # opened again when it is sent: until then a reply that is never begun holds nothing
        length = sum(frames.HEAD_BYTES + each.size for each in self._wanted)
        if not ready:
            return self._streamed(length)
        readings = [each.reading for each in self._wanted if each.reading is not None]
        if all(isinstance(reading.body, bytes) for reading in readings):
            return Response(200, _FRAMES, b"".join([piece for each in self._wanted for piece in _short(each)]))
        try:
            return Response(200, _FRAMES, self._spans(length))
        except OSError:  # no descriptor, or no memory, for the heads
            self._close()
            return self._streamed(length)

    def _streamed(self, length: int) -> Response:
        return Response(200, _FRAMES, StreamBody(self._frames(), length))

    def _open_now(self, each: _Wanted) -> bool:
        """Opens one object; False when it must be waited for."""
        try:
            opened = self._call.store.open(self._call.bucket, each.key, _GET)
        except NoSuchKey:  # deleted since the look-up, an instant ago: nothing is announced yet
            each.status, each.info = 404, None
            return True
        if not isinstance(opened, Reading):
            if isinstance(opened, (Coroutine, Opening)):
                opened.close()
            return False
        if opened.info.encryption is not None:
            opened.close()
            return False
        if opened.info.generation != each.generation and not _may_read(self._call, each.key, opened.info):
            opened.close()  # another object since the look-up, an instant ago
            each.status, each.info = 403, None
            return True
        each.reading, each.info = opened, opened.info
        return isinstance(opened.body, bytes | FileSpans)

    def _spans(self, length: int) -> FileSpans:
        """Heads and short bodies in an anonymous file, the rest where it lies."""
        fd = os.memfd_create("recall-frames", os.MFD_CLOEXEC)
        spans: list[tuple[int, int, int]] = []
        releases: list[Callable[[], None]] = []
        between = bytearray()
        begun = 0
        for each in self._wanted:
            between += _head(each)
            body = None if each.reading is None else each.reading.body
            if isinstance(body, bytes):
                between += body
            elif isinstance(body, FileSpans):
                releases.append(body.release)
                spans.append((fd, begun, len(between) - begun))
                spans += body.spans
                begun = len(between)
        if len(between) > begun:
            spans.append((fd, begun, len(between) - begun))

        def release() -> None:
            os.close(fd)
            for each in releases:
                each()

        try:
            os.pwrite(fd, between, 0)
        except OSError:
            os.close(fd)
            raise
        return FileSpans(tuple(spans), length, release)

    async def _frames(self) -> AsyncGenerator[Buffer, None]:
        """Frame by frame, AHEAD objects opened before their turn; what is short goes together."""
        waiting = deque(self._wanted)
        ahead: deque[_Wanted] = deque()
        held = bytearray()
        try:
            while waiting or ahead:
                while waiting and len(ahead) < AHEAD:
                    each = waiting.popleft()
                    if each.info is not None:
                        self._begin(each)
                    ahead.append(each)
                each = ahead.popleft()
                held += _head(each)
                if each.info is not None:
                    if each.opening is not None:
                        yield held  # while this one is waited for
                        held = bytearray()
                        each.reading, each.opening = await each.opening, None
                    reading = each.reading
                    assert reading is not None
                    if reading.info.generation != each.info.generation:
                        if held:
                            yield held
                        raise S3Error("OperationAborted", f"{each.key} was written while the reply was under way.")
                    if isinstance(reading.body, bytes):
                        held += reading.body
                    else:
                        if held:
                            yield held
                            held = bytearray()
                        async with aclosing(pieces(reading)) as parts:
                            async for part in parts:
                                yield part
                    reading.close()
                    each.reading = None
                if len(held) >= TOGETHER_BYTES:
                    yield held
                    held = bytearray()
            if held:
                yield held
        finally:
            self._close()

    def _begin(self, each: _Wanted) -> None:
        """Opens an object before its turn. What is wrong with it is told in its turn, behind whole frames."""
        loop = asyncio.get_running_loop()
        try:
            opened = self._call.store.open(self._call.bucket, each.key, _GET)
        except (S3Error, StoreError) as error:
            each.opening = loop.create_future()
            each.opening.set_exception(error)
            return
        if isinstance(opened, Reading) and opened.info.encryption is None:
            each.reading = opened
        else:
            each.opening = loop.create_task(self._content(each.key, opened))

    async def _content(self, key: str, opened: Reading | Awaitable[Reading]) -> Reading:
        reading = await arrived(opened)
        if reading.info.encryption is None:
            return reading
        return await open_sealed(self._call, (self._call.bucket, key), reading, _GET)

    def _close(self) -> None:
        for each in self._wanted:
            if each.reading is not None:
                each.reading.close()
                each.reading = None
            if each.opening is not None:
                each.opening.add_done_callback(_close_late)
                each.opening = None


def _close_late(opening: asyncio.Future[Reading]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _head(each: _Wanted) -> bytes:
    cold = each.info is not None and each.info.residency is _COLD_ONLY
    return frames.pack(each.status, each.size, frames.COLD if cold else 0)


def _short(each: _Wanted) -> tuple[bytes, ...]:
    body = None if each.reading is None else each.reading.body
    return (_head(each), body) if isinstance(body, bytes) else (_head(each),)


async def batch_put(call: Call) -> Response:
    """Stores the objects whose bytes follow the table one after the other; each is acknowledged or refused on its own.

    The request's other headers (metadata, storage class) are said of every object. Bytes are written as they come; the
    commits of all run together at the end, so they share one.
    """
    _check_headers(call)
    source = _Source(call)
    prefix = bytes(await source.take(frames.TABLE.size))
    (table_bytes,) = frames.TABLE.unpack(prefix)
    if table_bytes > TABLE_BYTES_MAX:
        raise S3Error("MaxMessageLengthExceeded", MaxMessageLengthBytes=TABLE_BYTES_MAX)
    entries = _decoded(bytes(await source.take(table_bytes)), PutTable).objects
    _check_keys([entry.key for entry in entries])
    for entry in entries:
        if not 0 <= entry.size <= OBJECT_BYTES_MAX:
            raise S3Error("InvalidRequest", f"The size of an object must be between 0 and {OBJECT_BYTES_MAX}.")
    length = call.payload.length
    stated = frames.TABLE.size + table_bytes + sum(entry.size for entry in entries)
    if length is not None and length != stated:
        raise S3Error("InvalidRequest", f"The body must be {stated} bytes long, as its table says.")
    may = _judge(call, "s3:PutObject")
    puts = [_Put(call.at(entry.key), entry, may(entry.key, None)) for entry in entries]
    full: Busy | None = None
    try:
        for put in puts:
            if full is not None:  # the rest would wait as long, each, for room that this very request may hold
                put.refuse(full)
            await put.receive(source)
            full = full or put.full
        await source.end()
        outcomes = [
            outcome
            for some in _together(puts)
            for outcome in await asyncio.gather(*(_outcome(call, put.commit()) for put in some))
        ]
    finally:
        for put in puts:
            put.abort()
    return _outcomes(outcomes)


def _together(puts: Sequence[_Put]) -> Iterator[list[_Put]]:
    """At most AT_ONCE, and none of a key that is among them already: of one that is named again the last one stays."""
    some: dict[str, _Put] = {}
    for put in puts:
        if put.key in some or len(some) == AT_ONCE:
            yield list(some.values())
            some = {}
        some[put.key] = put
    yield list(some.values())


class _Source:
    """A request's content, taken in the sizes a batch says it has, and held against what its headers claim of all of it."""

    def __init__(self, call: Call) -> None:
        self._payload = call.payload
        self._view = memoryview(b"")
        self._claimed = requested_checksum(call.request.headers)
        self._digest = Digest(wanted(self._claimed))

    async def some(self, most: int) -> memoryview:
        """The next bytes, at least one and at most `most`, borrowed until the next call. Raises IncompleteBody."""
        if not self._view:
            self._view = await self._payload.read()
            if not self._view:
                raise S3Error("IncompleteBody")
            hashing = self._digest.update(self._view)
            if hashing is not None:
                await hashing
        taken, self._view = self._view[:most], self._view[most:]
        return taken

    async def take(self, size: int) -> bytearray:
        held = bytearray()
        while len(held) < size:
            held += await self.some(size - len(held))
        return held

    async def end(self) -> None:
        """The verified end of the body. Raises what its signature or length does, and BadDigest."""
        if self._view or await self._payload.read():
            raise S3Error("InvalidRequest", "The body goes on after the last object of its table.")
        conclude(self._claimed, self._digest, self._payload.trailer)


class _Put:
    """One object of a `put`. A refused one lets its bytes pass."""

    def __init__(self, call: Call, entry: PutEntry, allowed: bool) -> None:
        self._call, self._entry = call, entry
        self._writer: Writer | None = None
        self._intake: Intake | None = None
        self._refused: Exception | None = None if allowed else S3Error("AccessDenied")

    @property
    def key(self) -> str:
        return self._entry.key

    async def receive(self, source: _Source) -> None:
        if self._refused is None:
            try:
                await self._open()
            except (S3Error, StoreError) as error:
                self._refused = error
        left = self._entry.size
        while left:
            view = await source.some(left)
            left -= len(view)
            if self._intake is None:
                continue
            try:
                await self._intake.take(view)
            except StoreError as error:
                self._refused = error
                self.abort()

    async def _open(self) -> None:
        call, entry = self._call, self._entry
        options, bucket = _said(put_options(call, event="ObjectCreated:Put"), entry), bucket_of(call)
        seal = new_seal(call, bucket)
        self._writer = await arrived(put_content(call.store, (call.bucket, call.key), entry.size, options, seal))
        self._intake = Intake(self._writer, NOTHING_REQUESTED, md5=has_md5(bucket, seal))

    def refuse(self, why: Busy) -> None:
        """Lets it not begin."""
        self._refused = self._refused or why

    @property
    def full(self) -> Busy | None:
        """Set once there was no room for it in time."""
        return self._refused if isinstance(self._refused, Busy) else None

    async def commit(self) -> Outcome:
        if self._refused is not None:
            raise self._refused
        assert self._writer is not None and self._intake is not None
        info = await self._writer.commit(self._intake.conclude())
        self._writer = self._intake = None
        return Outcome(etag=info.etag)

    def abort(self) -> None:
        """Gives back what a put that was not committed holds. Idempotent."""
        if self._writer is not None:
            self._writer.abort()
        self._writer = self._intake = None


def _said(options: PutOptions, entry: PutEntry) -> PutOptions:
    """What the request says of every object, and the table of this one; the type of the frames is nobody's content."""
    changed: dict[str, Any] = {"content_type": ""}
    if entry.pin is not None:
        changed["pin_ms"] = parse_pin(_text(entry.pin), "pin")
    if entry.ttl is not None:
        ttl = parse_ttl(_text(entry.ttl), "ttl")
        changed["ttl"] = ttl if ttl.ttl_ms else None
    if entry.if_absent:
        changed["conditions"] = _ABSENT
    return msgspec.structs.replace(options, **changed)


def _text(value: str | float | bool) -> str:
    """A JSON value as the header would say it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


async def batch_pin(call: Call) -> Response:
    """Pins each key, for ever or as a lease."""
    asked = await _document(call, PinKeys)
    change = ObjectChange(pin_ms=parse_pin(_text(asked.pin), "pin"))
    return await _each(call, asked.keys, "s3:PutObject", lambda key: call.store.change(call.bucket, key, change))


async def batch_unpin(call: Call) -> Response:
    """Ends the pin of each key."""
    keys = (await _document(call, Keys)).keys
    change = ObjectChange(pin_ms=0)
    return await _each(call, keys, "s3:PutObject", lambda key: call.store.change(call.bucket, key, change))


async def batch_touch(call: Call) -> Response:
    """Counts as a read of each key without reading it: heat grows and sliding TTLs start again, or all get `ttl`."""
    asked = await _document(call, TouchKeys)
    ttl = None if asked.ttl is None else parse_ttl(_text(asked.ttl), "ttl")
    action = "s3:GetObject" if ttl is None else "s3:PutObject"
    return await _each(call, asked.keys, action, lambda key: _touch(call, key, ttl))


async def _touch(call: Call, key: str, ttl: Ttl | None) -> None:
    check_deadline(call.at(key), ttl)
    info = (await arrived(call.store.open(call.bucket, key, _HEAD))).info
    if ttl is None and info.sliding:
        ttl = Ttl(info.ttl_ms, sliding=True)
    if info.residency is not _COLD_ONLY:
        opened = call.store.open(call.bucket, key, _GET)
        if isinstance(opened, Reading):
            opened.close()
        else:
            (await opened).close()
    if ttl is not None:
        await call.store.change(call.bucket, key, ObjectChange(ttl=ttl))


async def batch_delete(call: Call) -> Response:
    """Deletes each key; one that is not there is success."""
    keys = (await _document(call, Keys)).keys
    return await _each(call, keys, "s3:DeleteObject", lambda key: delete_key(call, key))


# -- what they share ---------------------------------------------------------------------------------------------


async def _document(call: Call, kind: type[T]) -> T:
    return _decoded(await document(call), kind)


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise S3Error("InvalidRequest", f"The document of the batch cannot be read: {error}") from None


def _check_keys(keys: Sequence[str]) -> None:
    if not 1 <= len(keys) <= KEYS_MAX:
        raise S3Error("InvalidRequest", f"Between 1 and {KEYS_MAX} keys can be named in one request.")
    if not all(keys):
        raise S3Error("InvalidRequest", "A key is empty.")
    for key in keys:
        check_key(key)


def _judge(call: Call, action: str) -> Callable[[str, ObjectInfo | None], bool]:
    """Whether the caller may do `action` to a key and what stands there; key by key, since policies speak of prefixes.

    Raises NoSuchBucket.
    """
    allows, bucket = call.access.allows, call.bucket
    # What is the same for all is asked once: of a key that is looked up, the two calls were a fifth.
    plain = call.access.is_plain(call.identity, action, bucket_of(call))
    return lambda key, info: (plain and (info is None or not info.owner)) or allows(call, action, bucket, key, info)


def _check_headers(call: Call) -> None:
    """Refuses headers that a single write takes and a batch does not: rights of their own come with them."""
    for name in call.request.headers:
        if name.startswith(b"x-amz-") and name not in _TAKEN and not name.startswith(b"x-amz-meta-"):
            raise S3Error("InvalidRequest", f"A batch takes no {name.decode('latin-1')[:64]}.")


async def _each(
    call: Call, keys: Sequence[str], action: str, change: Callable[[str], Coroutine[Any, Any, object]]
) -> Response:
    """Applies `change` to every key, AT_ONCE together, and answers each outcome."""
    _check_keys(keys)
    may = _judge(call, action)

    async def one(key: str) -> Outcome:
        if not may(key, None):
            raise S3Error("AccessDenied")
        await change(key)
        return Outcome()

    outcomes: list[Outcome] = []
    for at in range(0, len(keys), AT_ONCE):
        outcomes += await asyncio.gather(*(_outcome(call, one(key)) for key in keys[at : at + AT_ONCE]))
    return _outcomes(outcomes)


async def _outcome(call: Call, doing: Coroutine[Any, Any, Outcome]) -> Outcome:
    """The outcome of one key. Per-key errors cannot pass the border: the reply is a 200."""
    try:
        return await doing
    except S3Error as error:
        failure = error
    except StoreError as error:
        failure = from_store(error)
    except Exception:
        _log.exception("one of many keys failed (request %s)", call.request_id)
        failure = S3Error("InternalError")
    return Outcome(code=failure.spec.code, message=failure.message, status=failure.spec.status)


def _outcomes(outcomes: Sequence[Outcome]) -> Response:
    return Response(200, _JSON, msgspec.json.encode({"objects": outcomes}))
