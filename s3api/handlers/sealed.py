"""Sealed objects between handlers and the store: content in, sealed bytes stored; sealed bytes out, content answered.

What a handler sees of a sealed object is its content: sizes, ranges, parts. Sealing is a writer around the store's writer,
opening a reading around the store's reading.

Owns what one write or one opened object needs to be sealed or opened, keys among it, for as long as that lasts. Does not
know which headers mean what (`s3api.encryption`) or how bytes are sealed (`s3api.sealing`). Kind: shell (the loop).
Invariants: a reading taken over is given back on every path; no content leaves before it was authenticated.
Spec: docs/SEMANTICS.md, "Encryption"; AWS S3 User Guide, "Protecting data with server-side encryption".
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from typing import Final, Generic, TypeVar

import msgspec

from s3api.call import Call
from s3api.checksums import crc64nvme
from s3api.encryption import (
    ASKING,
    CUSTOMER,
    CUSTOMER_TRIO,
    NO_DEFAULT,
    SSE,
    Asked,
    CustomerKey,
    asked,
    binding,
    customer_key,
    customer_key_missing,
    encryption_lines,
    master_key,
    parse_default_encryption,
    refuse_blocked,
    wrong_customer_key,
)
from s3api.errors import S3Error
from s3api.handlers.body import COPY_PIECE_BYTES, arrived, pieces, read_range, source_pieces
from s3api.handlers.fields import crc64_text
from s3api.message import Headers
from s3api.sealing import (
    WHOLE,
    KeyRing,
    Opener,
    Sealer,
    Window,
    WrongKey,
    content_of,
    new_key,
    sealed_bytes,
    unwrap,
    window,
    wrap,
)
from tiering.contract import (
    PART_BYTES_MIN,
    BucketInfo,
    Buffer,
    Busy,
    ByteRange,
    Checksum,
    Corrupt,
    Encryption,
    InvalidPartNumber,
    InvalidRange,
    ObjectInfo,
    Objects,
    PartInfo,
    PartTooSmall,
    PartWriter,
    PutOptions,
    PutResult,
    Reading,
    ReadOptions,
    UploadInfo,
    Writer,
)

AT_ONCE_BYTES: Final = 256 << 10
"""Content up to this is opened before the reply begins, so that what was tampered with is an error and not a torn body."""

T = TypeVar("T", ObjectInfo, PartInfo)

_NOT_APPLICABLE: Final = "The encryption parameters are not applicable to this object."
_KEY_NEEDED: Final = (
    "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve "
    "the object."
)


# --- writing ----------------------------------------------------------------------------------------------------------


class Seal:
    """How one object or upload is sealed. `encryption` is what is kept of it, but for the size of an object."""

    __slots__ = ("_customer", "_object_key", "encryption")

    def __init__(self, encryption: Encryption, object_key: bytes, customer: CustomerKey | None) -> None:
        self.encryption = encryption
        self._object_key = object_key
        self._customer = customer

    @property
    def md5(self) -> bool:
        """Whether the ETag is the MD5 of the content, which AWS has under keys of its own only."""
        return self.encryption.mode == "AES256"

    def of(self, size: int) -> Encryption:
        """What is kept of an object of `size` content bytes."""
        return msgspec.structs.replace(self.encryption, size=size)

    def lines(self, *, context: bool = False) -> str:
        """The header lines of a reply. `context`: with the encryption context, as the replies of writes have it."""
        return encryption_lines(self.encryption, self._customer, context=context)

    async def put(self, store: Objects, place: tuple[str, str], size: int, options: PutOptions) -> Writer:
        """As the store's `put` to (bucket, key), of `size` bytes of content. Raises InvalidRequest for an append."""
        if options.append_at is not None:
            raise S3Error("InvalidRequest", "Data cannot be appended to an object under server-side encryption.")
        options = msgspec.structs.replace(options, encryption=self.of(size))
        inner = await arrived(store.put(*place, sealed_bytes(size), options))
        writer: SealingWriter[ObjectInfo] = SealingWriter(inner, self, self._object_key, WHOLE)
        return writer

    async def put_part(self, call: Call, upload_id: str, number: int, size: int) -> PartWriter:
        """As the store's `put_part`, of `size` bytes of content."""
        inner = await arrived(call.store.put_part(call.bucket, call.key, upload_id, number, sealed_bytes(size)))
        writer: SealingWriter[PartInfo] = SealingWriter(inner, self, self._object_key, number)
        return writer


class SealingWriter(Generic[T]):
    """A Writer or PartWriter of the store's contract; `crc64` is the content's."""

    __slots__ = ("_inner", "_seal", "_sealer", "_size", "_whole", "crc64")

    def __init__(self, inner: Writer | PartWriter, seal: Seal, object_key: bytes, number: int) -> None:
        self._inner = inner
        self._seal = seal
        self._sealer = Sealer(object_key, number)
        self._whole = number == WHOLE
        self._size = 0
        self.crc64 = 0

    def write(self, data: Buffer) -> Awaitable[None] | None:
        self.crc64 = crc64nvme(data, self.crc64)
        self._size += len(data)
        sealed = self._sealer.feed(data)
        return self._inner.write(sealed) if sealed else None

    async def commit(self, result: PutResult) -> T:
        """As the inner writer's. The CRC of sealed bytes is nobody's checksum, so the content's is always kept."""
        writing = self._inner.write(self._sealer.finish())
        if writing is not None:
            await writing
        sealed = PutResult(
            etag=result.etag if self._seal.md5 else secrets.token_hex(16),
            checksum=result.checksum or Checksum("CRC64NVME", crc64_text(self.crc64)),
            short=result.short,
            encryption=self._seal.of(self._size) if self._whole else None,
        )
        return await self._inner.commit(sealed)  # type: ignore[return-value]  # what the inner writer makes

    def abort(self) -> None:
        self._inner.abort()


def has_md5(bucket: BucketInfo, seal: Seal | None) -> bool:
    """Whether the ETag of what is written to the bucket is to be an MD5."""
    return not bucket.opaque_etag and (seal is None or seal.md5)


def written_lines(call: Call, info: ObjectInfo) -> str:
    """What the reply to a write says of how the object it made is encrypted."""
    kept = info.encryption
    if kept is None:
        return ""
    customer = customer_key(call.request.headers) if kept.mode == "SSE-C" else None
    return encryption_lines(kept, customer, context=True)


def _ring(call: Call) -> KeyRing:
    return call.config.keys


def new_seal(call: Call, bucket: BucketInfo, headers: Headers | None = None) -> Seal | None:
    """How what a write makes is to be sealed: as its headers say, else as its bucket does; None: not at all.

    `headers`: in the place of the request's, such as the fields of a form. Raises as `encryption.asked`.
    """
    headers = call.request.headers if headers is None else headers
    wanted = wanted_of(call, bucket, headers)
    return None if wanted is None else make_seal(_ring(call), wanted)


def default_seal(ring: KeyRing, bucket: BucketInfo) -> Seal | None:
    """How what the gateway itself writes to a bucket is to be sealed. Raises KMS.NotFoundException."""
    text = bucket.documents.get("encryption")
    wanted = asked({}, parse_default_encryption(text), ring) if text else None
    return None if wanted is None else make_seal(ring, wanted)


def wanted_of(call: Call, bucket: BucketInfo, headers: Headers) -> Asked | None:
    """What `new_seal` makes a seal of."""
    text = bucket.documents.get("encryption")
    if text is None and headers.keys().isdisjoint(ASKING):
        return None
    return asked(headers, parse_default_encryption(text) if text else NO_DEFAULT, _ring(call))


def make_seal(ring: KeyRing, wanted: Asked) -> Seal:
    object_key = new_key()
    key = master_key(ring, wanted.key_id) if wanted.customer is None else wanted.customer.key
    wrapped = wrap(key, binding(wanted.mode, wanted.key_id, wanted.context), object_key)
    kept = Encryption(wanted.mode, wanted.key_id, wrapped, 0, wanted.context, wanted.bucket_key)
    return Seal(kept, object_key, wanted.customer)


def upload_seal(call: Call, upload: UploadInfo) -> Seal | None:
    """How the parts of an upload are sealed; None: not at all. Raises InvalidRequest for a key that is not the upload's."""
    kept = upload.options.encryption
    customer = customer_key(call.request.headers)
    if kept is None or kept.mode != "SSE-C":
        if customer is not None:
            raise _upload_key_needed()
        if kept is None:
            return None
        return Seal(kept, _unwrapped(master_key(_ring(call), kept.key_id), kept), None)
    if customer is None:
        raise _upload_key_needed()
    _refuse_blocked(call)
    try:
        object_key = unwrap(customer.key, binding(kept.mode, "", ""), kept.sealed_key)
    except WrongKey:
        raise S3Error(
            "InvalidRequest", "The provided encryption parameters did not match the ones used originally."
        ) from None
    return Seal(kept, object_key, customer)


def _refuse_blocked(call: Call) -> None:
    """An upload under a customer's key ends where its bucket comes to block them, as on S3. Raises AccessDenied."""
    text = call.store.bucket(call.bucket).documents.get("encryption")
    if text:
        refuse_blocked(parse_default_encryption(text))


def _upload_key_needed() -> S3Error:
    return S3Error(
        "InvalidRequest",
        "The multipart upload initiate requested encryption. Subsequent part requests must include the appropriate "
        "encryption parameters.",
    )


def put_content(
    store: Objects, place: tuple[str, str], size: int, options: PutOptions, seal: Seal | None
) -> Writer | Awaitable[Writer]:
    """The store's `put` to (bucket, key), sealed where `seal` says so; see `arrived`."""
    if seal is not None:
        return seal.put(store, place, size, options)
    return store.put(*place, size, options)


async def put_part(call: Call, upload_id: str, number: int, size: int, seal: Seal | None) -> PartWriter:
    """The store's `put_part`, sealed where the upload is."""
    if seal is not None:
        return await seal.put_part(call, upload_id, number, size)
    return await arrived(call.store.put_part(call.bucket, call.key, upload_id, number, size))


def completing_lines(call: Call, upload: UploadInfo) -> str:
    """What the completion of a sealed upload says of encryption; judges the key it was sent. Raises as `upload_seal`;
    InvalidArgument where the key is missing, which AWS asks for only where a checksum algorithm was named.
    """
    kept = upload.options.encryption
    assert kept is not None
    if kept.mode == "SSE-C":
        _refuse_blocked(call)
    sent = not call.request.headers.keys().isdisjoint(CUSTOMER_TRIO)
    if kept.mode == "SSE-C" and not sent and upload.checksum_algorithm:
        raise customer_key_missing()
    seal = upload_seal(call, upload) if sent else None
    return encryption_lines(kept) if seal is None else seal.lines()


def sealed_whole(upload: UploadInfo, chosen: Sequence[PartInfo]) -> Encryption:
    """What is kept of a sealed upload's object, made of parts in terms of their content.

    Judges here what the store would judge by sealed sizes. Raises PartTooSmall.
    """
    assert upload.options.encryption is not None
    for part in chosen[:-1]:
        if part.size < PART_BYTES_MIN:
            raise PartTooSmall(number=part.number, size=part.size)
    total = sum(part.size for part in chosen)
    return msgspec.structs.replace(upload.options.encryption, size=total)


# --- reading ----------------------------------------------------------------------------------------------------------


def shown(info: ObjectInfo) -> ObjectInfo:
    """An object as its readers know it: sizes are those of the content."""
    if info.encryption is None:
        return info
    parts = tuple(msgspec.structs.replace(part, size=content_of(part.size)) for part in info.parts)
    return msgspec.structs.replace(info, size=info.encryption.size, parts=parts)


def shown_part(upload: UploadInfo, part: PartInfo) -> PartInfo:
    """A part of an upload with the size of its content."""
    if upload.options.encryption is None:
        return part
    return msgspec.structs.replace(part, size=content_of(part.size))


def check_plain(headers: Headers, prefix: bytes = CUSTOMER) -> None:
    """Refuses a customer's key for an object that has none. Raises InvalidRequest, and what is wrong with the key itself."""
    if customer_key(headers, prefix, reading=True) is not None:
        raise S3Error("InvalidRequest", _NOT_APPLICABLE)


def check_reading(headers: Headers) -> None:
    """Refuses what asks for encryption where nothing is written. Raises InvalidArgument."""
    if SSE in headers:
        raise S3Error(
            "InvalidArgument",
            "x-amz-server-side-encryption header is not supported for this operation.",
            ArgumentName=SSE.decode(),
            ArgumentValue=headers[SSE].decode("latin-1")[:64],
        )


def object_key_of(call: Call, kept: Encryption, prefix: bytes = CUSTOMER) -> tuple[bytes, CustomerKey | None]:
    """The key of a sealed object, and the customer's key it came from.

    Raises InvalidRequest where a customer's key is missing or has no place; AccessDenied where it is wrong.
    """
    customer = customer_key(call.request.headers, prefix, reading=True)
    if kept.mode != "SSE-C":
        if customer is not None:
            raise S3Error("InvalidRequest", _NOT_APPLICABLE)
        return _unwrapped(master_key(_ring(call), kept.key_id), kept), None
    if customer is None:
        raise S3Error("InvalidRequest", _KEY_NEEDED)
    try:
        return unwrap(customer.key, binding(kept.mode, "", ""), kept.sealed_key), customer
    except WrongKey:
        raise wrong_customer_key() from None


def _unwrapped(key: bytes, kept: Encryption) -> bytes:
    try:
        return unwrap(key, binding(kept.mode, kept.key_id, kept.context), kept.sealed_key)
    except WrongKey:
        raise Corrupt(f"the key of the object does not open under the master key {kept.key_id}") from None


class Opened(Reading):
    """A reading of a sealed object in terms of its content. `lines` say how it is encrypted."""

    __slots__ = ("_inner", "_object_key", "lines")

    def __init__(self, inner: Reading, start: int, stop: int, object_key: bytes, lines: str) -> None:
        super().__init__(shown(inner.info), start, stop, None, inner.tier)
        self._inner = inner
        self._object_key = object_key
        self.lines = lines

    def close(self) -> None:
        self._inner.close()
        self.body = None

    async def _begin(self, found: Window) -> None:
        """Gives it the content of the inner reading, which is of the window's bytes."""
        opener = Opener(self._object_key, found.packages)
        if self.stop - self.start > AT_ONCE_BYTES:
            self.body = _Content(self._inner, opener)
            return
        content = _Content(self._inner, opener)
        async with aclosing(content):
            self.body = b"".join([piece async for piece in content])

    async def pieces(
        self, store: Objects, source: tuple[str, str], version: str | None
    ) -> AsyncGenerator[Buffer, None]:
        """As `body.source_pieces`: the content of a reading without a body, for a writer."""
        info = self._inner.info
        for start in range(self.start, self.stop, COPY_PIECE_BYTES):
            found = window(_streams(info), start, min(start + COPY_PIECE_BYTES, self.stop))
            opener = Opener(self._object_key, found.packages)
            yield opener.feed(await read_range(store, source, info, found.start, found.stop, version))
            opener.finish()


class _Content:
    """The content of a reading of sealed bytes; closing it gives the reading back, begun or not."""

    __slots__ = ("_content", "_reading")

    def __init__(self, reading: Reading, opener: Opener) -> None:
        self._reading = reading
        self._content = _opened_pieces(reading, opener)

    def __aiter__(self) -> _Content:
        return self

    async def __anext__(self) -> Buffer:
        try:
            return await anext(self._content)
        except BaseException:  # the end too
            await self.aclose()
            raise

    async def aclose(self) -> None:
        await self._content.aclose()
        self._reading.close()


async def _opened_pieces(reading: Reading, opener: Opener) -> AsyncGenerator[Buffer, None]:
    async with aclosing(pieces(reading)) as sealed:
        async for piece in sealed:
            content = opener.feed(piece)
            if content:
                yield content
    opener.finish()


async def open_sealed(
    call: Call, source: tuple[str, str], reading: Reading, options: ReadOptions, prefix: bytes = CUSTOMER
) -> Opened:
    """Takes over the `reading` of a sealed object (bucket, key) that `options` opened, and answers it as content.

    Raises as `object_key_of`; InvalidRange, Corrupt and what the store raises. A range is opened again, since only now is it
    known which sealed bytes hold it; an object written again meanwhile is answered as it is then.
    """
    while True:
        generation, broken = reading.info.generation, None
        try:
            opened = await _opened_once(call, source, reading, options, prefix)
            if opened is not None:
                return opened
        except Corrupt as error:
            # Written over or deleted meanwhile, its cold copy goes or is another generation's: look again.
            broken = error
        reading = await arrived(call.store.open(*source, options))
        if broken is not None and reading.info.generation == generation:
            reading.close()
            raise broken
        if reading.info.encryption is None:
            reading.close()
            raise Busy("the object was written while it was opened", retry_s=1)


async def _opened_once(
    call: Call, source: tuple[str, str], reading: Reading, options: ReadOptions, prefix: bytes
) -> Opened | None:
    """The content of a reading, which is taken over; None when a range was asked for and the object has changed."""
    try:
        info = reading.info
        assert info.encryption is not None
        object_key, customer = object_key_of(call, info.encryption, prefix)
        start, stop, found = _asked_window(info, options)
        opened = Opened(reading, start, stop, object_key, encryption_lines(info.encryption, customer))
        if reading.body is None:
            return opened
        if options.range is None:
            await opened._begin(found)
            return opened
    except BaseException:
        reading.close()
        raise
    reading.close()
    sealed = ReadOptions(range=ByteRange(found.start, found.stop), version=info.version)
    reading = await arrived(call.store.open(*source, sealed))
    if reading.info.generation != info.generation:
        reading.close()
        return None
    try:
        opened = Opened(reading, start, stop, object_key, opened.lines)
        await opened._begin(found)
        return opened
    except BaseException:
        reading.close()
        raise


def _streams(info: ObjectInfo) -> Sequence[tuple[int, int]]:
    return [(part.number, part.size) for part in info.parts] or [(WHOLE, info.size)]


def _asked_window(info: ObjectInfo, options: ReadOptions) -> tuple[int, int, Window]:
    """The content range that `options` ask for, and the sealed bytes that hold it: of the object, or of the one part.

    Raises InvalidRange, InvalidPartNumber; Corrupt for a record that contradicts itself.
    """
    assert info.encryption is not None
    size, streams, number = info.encryption.size, _streams(info), options.part_number
    if sum(content_of(sealed) for _, sealed in streams) != size:
        raise Corrupt("the sealed bytes do not hold what the record says")
    if number is None:
        start, stop = (0, size) if options.range is None else options.range.clip(size)
        return start, stop, window(streams, start, stop)
    start = 0
    for part, sealed in streams:
        stop = start + content_of(sealed)
        if part in (number, WHOLE):
            return start, stop, window([(part, sealed)], 0, stop - start)
        start = stop
    raise InvalidPartNumber(parts=len(streams))


async def open_object(call: Call, options: ReadOptions) -> Reading:
    """The call's object in terms of its content. Raises as `open_sealed`, `check_plain`, `check_reading`."""
    check_reading(call.request.headers)
    place = (call.bucket, call.key)
    return await as_content(call, place, await arrived(call.store.open(*place, options)), options)


async def as_content(
    call: Call, source: tuple[str, str], reading: Reading, options: ReadOptions, prefix: bytes = CUSTOMER
) -> Reading:
    """Takes over a `reading` that `options` opened, and answers it in terms of its content. Raises as `open_sealed`,
    `check_plain`. `prefix`: of the headers that carry the customer's key."""
    if reading.info.encryption is not None:
        return await open_sealed(call, source, reading, options, prefix)
    try:
        check_plain(call.request.headers, prefix)
    except BaseException:
        reading.close()
        raise
    return reading


def content_pieces(
    store: Objects, source: tuple[str, str], opened: Reading, version: str | None
) -> AsyncGenerator[Buffer, None]:
    """As `body.source_pieces`, of what `as_content` answered. Raises PreconditionFailed, Corrupt."""
    if isinstance(opened, Opened):
        return opened.pieces(store, source, version)
    return source_pieces(store, source, opened, version)


async def invalid_range(call: Call, source: tuple[str, str], options: ReadOptions, error: InvalidRange) -> InvalidRange:
    """The error a range deserves that the store could not satisfy: of a sealed object it states the content's size."""
    whole = ReadOptions(head=True, version=options.version)
    info = (await arrived(call.store.open(*source, whole))).info
    return error if info.encryption is None else InvalidRange(size=info.encryption.size)
