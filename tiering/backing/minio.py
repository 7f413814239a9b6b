"""A backing in an S3 bucket: MinIO, or any server that speaks S3.

Objects are read and written with requests of our own over `http.py`, on the loop: a recall's first byte waits for no thread, and
an upload's bytes pass through none. Listings and the making of the bucket are the `minio` SDK's, blocking, on a bounded pool of
threads. Nothing is retried here: the wrapper above retries, knows the caller's patience and can resume a stream.

Owns: one HTTP client, the SDK client with its connection pool, the threads; one loop. Opening does no I/O.
Does not know: what is stored. Kind: owner. Invariants: an upload becomes visible whole or not at all (one PUT, or a
multipart upload that is aborted on failure); no error text holds a URL, a signature or a credential.
Spec: S3 API reference; quirks of the servers are noted where they matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error, ServerError

from tiering.backing import http
from tiering.backing.address import BucketAddress, MinioLimits
from tiering.backing.keys import check_key, check_prefix
from tiering.backing.signature import UNSIGNED, Signer
from tiering.backing.streams import Blocks, closing
from tiering.contract import Buffer
from tiering.ports import BackingCorrupt, BackingError, BackingSource, BackingStat, BackingUnavailable, NotFound

PART_BYTES: Final = 16 << 20
"""Objects up to this go in one PUT; longer ones in parts of at least this. An upload holds one in memory."""
PARTS_MAX: Final = 10_000
LIST_BATCH: Final = 250
_ERROR_BODY_BYTES: Final = 16 << 10
_MISSING: Final = frozenset(("NoSuchKey", "NoSuchObject", "NoSuchVersion"))

_PLAIN: Final = re.compile("[A-Za-z0-9/_.~-]*").fullmatch

R = TypeVar("R")


class MinioBacking:
    """A Backing over `<bucket>/<prefix>/`. A missing bucket is BackingUnavailable unless `create` makes it on first use."""

    def __init__(self, address: BucketAddress, limits: MinioLimits | None = None, *, create: bool = False) -> None:
        limits = limits or MinioLimits()
        check_prefix(address.prefix)
        self._bucket = address.bucket
        self._prefix = f"{address.prefix}/" if address.prefix else ""
        self._limits = limits
        self._create = create
        self._blocks = Blocks()
        self._ready = False
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=limits.connect_s, read=limits.read_s),
            maxsize=limits.threads,
            retries=False,
            block=False,
        )
        self._client = Minio(
            address.endpoint,
            access_key=address.access_key,
            secret_key=address.secret_key,
            region=address.region,  # given, so that no call has to ask for it
            secure=address.secure,
            http_client=self._pool,
        )
        self._threads = ThreadPoolExecutor(limits.threads, thread_name_prefix="backing-s3")
        self._signer = Signer(address.access_key, address.secret_key, address.region)
        # The SDK knows which servers want the bucket in the host's name. This is no I/O, since the region is given.
        url = urlsplit(self._client.presigned_get_object(address.bucket, "x"))
        self._host = url.netloc
        self._secure = address.secure
        self._root = url.path.removesuffix("x")
        tls = ssl.create_default_context() if address.secure else None
        port = url.port or (443 if address.secure else 80)
        self._http = http.Client(url.hostname or "", port, tls, limits)

    async def ensure_bucket(self) -> None:
        """Makes the bucket when it is missing."""
        async with self._asked("HEAD", "") as reply:
            if reply.status == 200:
                return
            if reply.status != 404:
                raise await self._refusal(reply)
        with contextlib.suppress(_BucketThere):
            await self._call(self._client.make_bucket, self._bucket)

    async def put(self, key: str, source: BackingSource) -> BackingStat:
        name = self._name(key)
        await self._prepare()
        etag = await (self._put_whole(name, source) if source.size <= PART_BYTES else self._put_parts(name, source))
        if not etag:
            # Ceph RGW's CompleteMultipartUpload answers an empty ETag; its HEAD has it.
            return await self.stat(key)
        return BackingStat(key, source.size, etag)

    async def _put_whole(self, name: str, source: BackingSource) -> str:
        async with closing(self._blocks.of(source, PART_BYTES)) as blocks:
            async for block in blocks:
                return await self._put_block(name, "", block)
        raise AssertionError("a source has one block at least")

    async def _put_block(self, name: str, query: str, block: Buffer) -> str:
        """The stored block's ETag."""
        async with self._asked("PUT", name, query=query, body=block) as reply:
            if reply.status != 200:
                raise await self._refusal(reply)
            return _unquoted(reply.headers.get(b"etag"))

    async def _put_parts(self, name: str, source: BackingSource) -> str:
        mebibytes = -(-source.size // (PARTS_MAX << 20))
        upload = _text_of(await self._posted(name, "uploads="), "UploadId")
        upload_id = f"uploadId={quote(upload, safe='-_.~')}"
        try:
            etags: list[str] = []
            async with closing(self._blocks.of(source, max(PART_BYTES, mebibytes << 20))) as blocks:
                async for block in blocks:  # one at a time: that much memory an upload has
                    etags.append(await self._put_block(name, f"partNumber={len(etags) + 1}&{upload_id}", block))
            done = await self._posted(name, upload_id, _parts_xml(etags))
        except BaseException:
            await self._abort(name, upload_id)
            raise
        return _unquoted(_text_of(done, "ETag").encode())

    async def _abort(self, name: str, upload_id: str) -> None:
        """Gives an upload up, if the server can be told; a cancelled caller waits for that too, and is cancelled then."""
        telling = asyncio.ensure_future(self._told_to_abort(name, upload_id))
        cancelled: asyncio.CancelledError | None = None
        while not telling.done():
            try:
                await asyncio.shield(telling)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    async def _told_to_abort(self, name: str, upload_id: str) -> None:
        with contextlib.suppress(BackingError):
            async with self._asked("DELETE", name, query=upload_id):
                pass

    async def _posted(self, name: str, query: str, body: bytes = b"") -> ElementTree.Element:
        """The document that a POST answers; an error may come with status 200, when it took the server long to see it."""
        async with self._asked("POST", name, query=query, body=body) as reply:
            if reply.status != 200:
                raise await self._refusal(reply)
            text = await reply.read(_ERROR_BODY_BYTES)
        try:
            document = ElementTree.fromstring(text)
        except ElementTree.ParseError:
            raise BackingUnavailable("the backing bucket's answer is not S3's (ParseError)") from None
        if document.tag.endswith("Error"):
            raise _fault(_error_code(text), 200)
        return document

    async def get(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        name = self._name(key)
        await self._prepare()
        if start == stop:
            await self.stat(key)
            return
        span = f"bytes={start}-{'' if stop is None else stop - 1}" if start or stop is not None else ""
        async with self._asked("GET", name, span) as reply:
            if reply.status == 416:
                reply.close()  # first, so that it holds no place from the next
                await self._check_end(key, start, stop)
                return
            if reply.status not in (200, 206):
                raise await self._refusal(reply)
            if reply.status == 200 and span:
                raise BackingUnavailable("the backing bucket ignores ranges")
            got = 0
            while chunk := await reply.next():
                got += len(chunk)
                yield chunk
        if stop is not None and got != stop - start:
            raise BackingCorrupt(f"{got} bytes came of the {stop - start} asked for")

    async def delete(self, key: str) -> None:
        name = self._name(key)
        await self._prepare()
        async with self._asked("DELETE", name) as reply:
            if reply.status not in (200, 204):
                refusal = await self._refusal(reply)
                if not isinstance(refusal, NotFound):
                    raise refusal

    async def list(self, prefix: str) -> AsyncIterator[BackingStat]:
        await self._prepare()
        pages = self._client.list_objects(self._bucket, prefix=self._prefix + prefix, recursive=True)
        while batch := await self._call(_take, pages):
            for entry in batch:
                name = entry.object_name or ""
                yield BackingStat(name[len(self._prefix) :], entry.size or 0, (entry.etag or "").strip('"'))

    async def stat(self, key: str) -> BackingStat:
        name = self._name(key)
        await self._prepare()
        async with self._asked("HEAD", name) as reply:
            if reply.status != 200:
                raise await self._refusal(reply)
            size = reply.headers.get(b"content-length", b"")
            if not size.isdigit():
                raise BackingUnavailable("the backing bucket's answer is not S3's (no length)")
            return BackingStat(key, int(size), _unquoted(reply.headers.get(b"etag")))

    async def close(self) -> None:
        """Ends the connections and waits for the threads: as long as one call of theirs lasts."""
        self._http.close()
        await asyncio.to_thread(self._threads.shutdown)
        self._pool.clear()

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _asked(self, method: str, name: str, span: str = "", *, query: str = "", body: Buffer = b"") -> _Asked:
        """The reply to a request for a key, "" for the bucket itself; `span`: a Range. Raises BackingUnavailable."""
        return _Asked(lambda: self._ask(method, name, span, query, body))

    async def _ask(self, method: str, name: str, span: str, query: str, body: Buffer) -> http.Exchange:
        payload = UNSIGNED
        if len(body) and not self._secure:
            # In the clear, the hash is what says that these bytes were sent. In a thread, which needs no interpreter for it.
            payload = await asyncio.to_thread(lambda: hashlib.sha256(body).hexdigest())
        return await self._http.ask(method, self._head(method, name, span, query, payload, len(body)), body)

    def _head(self, method: str, name: str, span: str, query: str, payload: str, length: int) -> bytes:
        path = (
            self._root + (name if _PLAIN(name) else quote(name, safe="/-_.~"))
            if name
            else self._root.rstrip("/") or "/"
        )
        headers = {"host": self._host, "range": span} if span else {"host": self._host}
        lines = [
            f"{each}: {text}\r\n" for each, text in self._signer.sign(method, path, query, headers, payload).items()
        ]
        if method in ("PUT", "POST"):
            lines.append(f"content-length: {length}\r\ncontent-type: application/octet-stream\r\n")
        # Not signed, since a proxy may change it: a stored byte is a byte; one that is compressed would break ranges.
        lines.append("accept-encoding: identity\r\n\r\n")
        target = f"{path}?{query}" if query else path
        return f"{method} {target} HTTP/1.1\r\n{''.join(lines)}".encode("latin-1")

    async def _prepare(self) -> None:
        if self._create and not self._ready:
            await self.ensure_bucket()
            self._ready = True

    async def _check_end(self, key: str, start: int, stop: int | None) -> None:
        """After 416: asking for nothing at the very end is legal here, though HTTP cannot say it."""
        size = (await self.stat(key)).size
        if start != size or stop is not None:
            raise BackingCorrupt(f"{size} bytes are stored, {start}:{stop} was asked for")

    async def _refusal(self, reply: http.Exchange) -> BackingError:
        code = _error_code(await reply.read(_ERROR_BODY_BYTES))
        if reply.status == 404 and not code:
            # A HEAD has no body to say which of the two is missing, and "no such object" is said only when sure.
            reply.close()  # first, so that it holds no place from the next
            async with self._asked("HEAD", "") as bucket:
                code = "NoSuchKey" if bucket.status == 200 else "NoSuchBucket" if bucket.status == 404 else ""
        return _fault(code, reply.status)

    async def _call(self, function: Callable[..., R], *args: Any) -> R:
        """Runs an SDK call on a thread and translates its errors; outlives a cancellation until the thread is done."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, _translated, function, *args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait((future,))
            if not future.cancelled():
                future.exception()
            raise


class _Asked:
    """A request while its reply is read."""

    __slots__ = ("_ask", "_reply")

    def __init__(self, ask: Callable[[], Awaitable[http.Exchange]]) -> None:
        self._ask = ask
        self._reply: http.Exchange | None = None

    async def __aenter__(self) -> http.Exchange:
        try:
            self._reply = await self._ask()
        except OSError as error:
            raise BackingUnavailable(_reason(error)) from None
        return self._reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reply is not None:
            self._reply.close()
        if isinstance(error, OSError):
            # A cut connection: the bytes are there, so not Corrupt. Never str(error): it may hold an address.
            raise BackingUnavailable(_reason(error)) from None


def _parts_xml(etags: Sequence[str]) -> bytes:
    document = ElementTree.Element("CompleteMultipartUpload", xmlns="http://s3.amazonaws.com/doc/2006-03-01/")
    for number, etag in enumerate(etags, 1):
        part = ElementTree.SubElement(document, "Part")
        ElementTree.SubElement(part, "PartNumber").text = str(number)
        ElementTree.SubElement(part, "ETag").text = f'"{etag}"'
    return ElementTree.tostring(document)


def _text_of(document: ElementTree.Element, name: str) -> str:
    """Of the element called `name`, whatever its namespace; "" when there is none."""
    return next((each.text or "" for each in document.iter() if each.tag.rpartition("}")[2] == name), "")


def _take(pages: Iterator[Any]) -> list[Any]:
    return list(islice(pages, LIST_BATCH))


def _translated(function: Callable[..., R], *args: Any) -> R:
    try:
        return function(*args)
    except S3Error as error:
        raise _fault(error.code or "", getattr(error.response, "status", 0)) from None
    except ServerError as error:
        raise BackingUnavailable(f"the backing bucket answered {error.status_code}") from None
    except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
        raise BackingUnavailable(_reason(error)) from None
    except (ElementTree.ParseError, ValueError) as error:
        # What the SDK raises for a document it cannot read; names and sizes were checked before it was called.
        raise BackingUnavailable(f"the backing bucket's answer is not S3's ({type(error).__name__})") from None


class _BucketThere(BackingUnavailable):
    """Another process made the bucket first."""


def _fault(code: str, status: int) -> BackingError:
    if code in _MISSING:
        return NotFound("no such object")
    if code == "NoSuchBucket":
        return BackingUnavailable("the backing bucket is missing")
    if code in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
        return _BucketThere(code)
    return BackingUnavailable(f"the backing bucket answered {status} {code}".rstrip())


def _reason(error: Exception) -> str:
    """What kind of trouble, without the error's own words."""
    return f"the backing bucket cannot be reached ({type(error).__name__})"


def _error_code(body: bytes) -> str:
    """The `<Code>` of an S3 error document, "" when it has none. Only letters and digits: it goes into a log."""
    try:
        code = _text_of(ElementTree.fromstring(body), "Code")
    except ElementTree.ParseError:
        return ""
    return code if code.isalnum() and len(code) <= 64 else ""


def _unquoted(etag: bytes | None) -> str:
    return (etag or b"").decode("latin-1").strip('"')
