"""A backing in an S3 bucket: MinIO, or any server that speaks S3, through the `minio` SDK.

Reads, looks and deletes are requests of our own over `http.py`: recalled bytes reach the loop without a
thread, and their first one waits for nothing else. Uploads and what is rare are the SDK's, blocking, on a bounded pool of
threads. Nothing is retried here: the wrapper above retries, knows the caller's patience and can resume a stream.

Owns: the SDK client with its connection pool, the threads, one HTTP client; one loop. Opening does no I/O.
Does not know: what is stored. Kind: owner. Invariants: an upload becomes visible whole or not at all (one PUT, or a
multipart upload that is aborted on failure); no error text holds a URL, a signature or a credential.
Spec: S3 API reference; quirks of the servers are noted where they matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError as FutureCancelled
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, BinaryIO, Final, TypeVar, cast
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error, ServerError

from tiering.backing import http
from tiering.backing.address import BucketAddress, MinioLimits
from tiering.backing.keys import check_key, check_prefix
from tiering.backing.signature import Signer
from tiering.backing.streams import closing
from tiering.contract import Buffer
from tiering.ports import BackingCorrupt, BackingError, BackingSource, BackingStat, BackingUnavailable, NotFound

PART_BYTES: Final = 16 << 20
"""Objects up to this go in one PUT. The SDK holds one part in memory per upload."""
PARTS_MAX: Final = 10_000
LIST_BATCH: Final = 250
_ERROR_BODY_BYTES: Final = 16 << 10
_MISSING: Final = frozenset(("NoSuchKey", "NoSuchObject", "NoSuchVersion"))

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
        self._root = url.path.removesuffix("x")
        tls = ssl.create_default_context() if address.secure else None
        port = url.port or (443 if address.secure else 80)
        self._http = http.Client(url.hostname or "", port, tls, limits)

    async def ensure_bucket(self) -> None:
        """Makes the bucket when it is missing."""
        try:
            if not await self._call(self._client.bucket_exists, self._bucket):
                await self._call(self._client.make_bucket, self._bucket)
        except _BucketThere:
            pass

    async def put(self, key: str, source: BackingSource) -> BackingStat:
        name = self._name(key)
        await self._prepare()
        reader = _SourceReader(source, asyncio.get_running_loop())
        try:
            etag = await self._call(self._upload, name, reader, source.size, on_cancel=reader.cancel)
        except BackingError:
            reader.reraise()
            raise
        finally:
            await reader.close()
        reader.reraise()
        if not etag:
            # Ceph RGW's CompleteMultipartUpload answers an empty ETag; its HEAD has it.
            return await self.stat(key)
        return BackingStat(key, source.size, etag)

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
                yield BackingStat(name[len(self._prefix) :], entry.size or 0, _unquoted(entry.etag))

    async def stat(self, key: str) -> BackingStat:
        name = self._name(key)
        await self._prepare()
        async with self._asked("HEAD", name) as reply:
            if reply.status != 200:
                raise await self._refusal(reply)
            size = reply.headers.get(b"content-length", b"")
            if not size.isdigit():
                raise BackingUnavailable("the backing bucket's answer is not S3's (no length)")
            return BackingStat(key, int(size), _unquoted(reply.headers.get(b"etag", b"").decode("latin-1")))

    async def close(self) -> None:
        """Ends the connections and waits for the threads: as long as one call of theirs lasts."""
        self._http.close()
        await asyncio.to_thread(self._threads.shutdown)
        self._pool.clear()

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    @contextlib.asynccontextmanager
    async def _asked(self, method: str, name: str, span: str = "") -> AsyncIterator[http.Exchange]:
        """The reply to a request for a key, "" for the bucket itself; `span`: a Range. Raises BackingUnavailable."""
        reply: http.Exchange | None = None
        try:
            reply = await self._http.ask(method, self._head(method, name, span))
            yield reply
        except OSError as error:
            # A cut connection: the bytes are there, so not Corrupt. Never str(error): it may hold an address.
            raise BackingUnavailable(_reason(error)) from None
        finally:
            if reply is not None:
                reply.close()

    def _head(self, method: str, name: str, span: str) -> bytes:
        path = self._root + quote(name, safe="/-_.~") if name else self._root.rstrip("/") or "/"
        signed = self._signer.sign(
            method, path, "", {"host": self._host, "range": span} if span else {"host": self._host}
        )
        # Not signed, since a proxy may change it: a stored byte is a byte; one that is compressed would break ranges.
        lines = [f"{each}: {text}\r\n" for each, text in signed.items()]
        return f"{method} {path} HTTP/1.1\r\n{''.join(lines)}accept-encoding: identity\r\n\r\n".encode("latin-1")

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

    async def _call(self, function: Callable[..., R], *args: Any, on_cancel: Callable[[], None] | None = None) -> R:
        """Runs an SDK call on a thread and translates its errors; outlives a cancellation until the thread is done."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, _translated, function, *args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if on_cancel is not None:
                on_cancel()
            while not future.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait((future,))
            if not future.cancelled():
                future.exception()
            raise

    def _upload(self, name: str, reader: _SourceReader, size: int) -> str:
        """On a thread."""
        mebibytes = -(-size // (PARTS_MAX << 20))
        part_bytes = max(PART_BYTES, mebibytes << 20)
        # One part at a time: `num_parallel_uploads` would hold as many parts in memory. The SDK only ever calls `read`.
        result = self._client.put_object(
            self._bucket, name, cast(BinaryIO, reader), size, part_size=part_bytes, num_parallel_uploads=1
        )
        return _unquoted(result.etag)


class _SourceReader:
    """The blocking `read` the SDK wants, over chunks that come on the loop. `read` is called by one thread."""

    def __init__(self, source: BackingSource, loop: asyncio.AbstractEventLoop) -> None:
        self._source = source
        self._loop = loop
        self._chunks: AsyncIterator[Buffer] | None = None
        self._rest = memoryview(b"")
        self._seen = 0  # bytes that came from the source
        self._given = 0  # bytes that went to the SDK
        self._stopped = False
        self._pulling: asyncio.Task[Any] | None = None  # set on the loop, so that `cancel` cannot miss it
        self._fault: Exception | None = None

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, or fails the upload: the SDK glues short reads together at quadratic cost."""
        joined = bytearray(size)
        filled = 0
        while filled < size:
            if not len(self._rest):
                self._rest = memoryview(self._pull())
            piece = self._rest[: size - filled]
            joined[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._rest = self._rest[len(piece) :]
        self._given += filled
        if self._given == self._source.size:
            self._pull()  # the source's own last word: it may yet say that what it gave was wrong
        return bytes(joined)

    def cancel(self) -> None:
        """The `read` under way or the next one fails, and with it the upload. On the loop."""
        self._stopped = True
        if self._pulling is not None:
            self._pulling.cancel()

    def reraise(self) -> None:
        """Raises the source's own error, if it had one: it is the caller's, not the backing's."""
        if self._fault is not None:
            raise self._fault

    async def close(self) -> None:
        if self._chunks is not None:
            async with closing(self._chunks):
                pass

    def _pull(self) -> Buffer:
        """The next chunk, b"" at the announced end. On the SDK's thread."""
        try:
            return asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
        except FutureCancelled:
            raise BackingUnavailable("the upload was given up") from None

    async def _next(self) -> Buffer:
        if self._stopped:
            raise BackingUnavailable("the upload was given up")
        self._pulling = asyncio.current_task()
        if self._chunks is None:
            self._chunks = self._source.chunks()
        try:
            chunk = await anext(self._chunks, b"")
            while not len(chunk) and self._seen < self._source.size:
                chunk = await anext(self._chunks)
            self._seen += len(chunk)
            if self._seen > self._source.size:
                raise ValueError(f"the source gave more than the {self._source.size} bytes it announced")
        except StopAsyncIteration:
            self._fault = ValueError(f"the source gave {self._seen} bytes and announced {self._source.size}")
        except Exception as error:
            self._fault = error
        if self._fault is not None:
            raise BackingUnavailable("the upload's source failed")
        return chunk


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
        code = next((e.text or "" for e in ElementTree.fromstring(body).iter() if e.tag.endswith("Code")), "")
    except ElementTree.ParseError:
        return ""
    return code if code.isalnum() and len(code) <= 64 else ""


def _unquoted(etag: str | None) -> str:
    return (etag or "").strip('"')
