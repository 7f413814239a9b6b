"""Objects under server-side encryption, through the handlers: every operation, in terms of their content."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from s3api.checksums import Digest
from s3api.config import ApiConfig
from s3api.encryption import DefaultEncryption, default_encryption_document
from s3api.sealing import PACKAGE_BYTES, SEALED_BYTES, KeyRing, sealed_bytes
from tests.support.clock import ManualClock
from tests.unit.handler_harness import Harness, Reply
from tests.unit.test_handlers_batch import cut, put_body
from tiering.contract import BucketChange, BucketInfo, Buffer, Corrupt, Reading, ReadOptions
from tiering.memory import MemoryStore, _Stored

KEY_A, KEY_B = bytes(range(32)), bytes(range(1, 33))
SSE = "x-amz-server-side-encryption"
RING = KeyRing({"old": bytes(32), "new": KEY_B})
MIB = 1 << 20
CONTENT = bytes((index * 7 + index // 251) & 0xFF for index in range(3 * PACKAGE_BYTES + 100))
MODES = ("SSE-C", "AES256", "aws:kms")
CONTEXT = base64.b64encode(b'{"a":"b"}').decode()


def customer(key: bytes = KEY_A, prefix: str = f"{SSE}-customer-") -> dict[str, str]:
    return {
        f"{prefix}algorithm": "AES256",
        f"{prefix}key": base64.b64encode(key).decode(),
        f"{prefix}key-md5": base64.b64encode(hashlib.md5(key).digest()).decode(),
    }


def source(key: bytes = KEY_A) -> dict[str, str]:
    return customer(key, "x-amz-copy-source-server-side-encryption-customer-")


def writing(mode: str) -> dict[str, str]:
    return customer() if mode == "SSE-C" else {SSE: mode} if mode else {}


def reading(mode: str) -> dict[str, str]:
    return customer() if mode == "SSE-C" else {}


@pytest.fixture
def s3() -> Harness:
    harness = Harness(ApiConfig(keys=RING))
    asyncio.run(harness.store.create_bucket(BucketInfo(name="b", created_ms=0, pool="")))
    return harness


def versions(s3: Harness, key: str = "k") -> list[_Stored]:
    assert isinstance(s3.store, MemoryStore)
    return s3.store._objects["b"][key]


def stored(s3: Harness, key: str = "k") -> bytes:
    """The bytes as they lie in the store."""
    return versions(s3, key)[0].data


def tamper(s3: Harness, data: bytes, key: str = "k") -> None:
    found = versions(s3, key)
    found[0] = found[0]._replace(data=data)


def put(
    s3: Harness, mode: str, data: bytes = CONTENT, key: str = "k", headers: Mapping[str, str] | None = None
) -> Reply:
    reply = s3("PUT", f"/b/{key}", {**writing(mode), **(headers or {})}, data)
    assert reply.status == 200, reply.body
    return reply


def set_default(s3: Harness, default: DefaultEncryption) -> None:
    text = default_encryption_document(default).decode()
    asyncio.run(s3.store.change_bucket("b", BucketChange({"encryption": text})))


def check_lines(reply: Reply, mode: str) -> None:
    assert reply.headers.get(SSE) == (mode if mode in ("AES256", "aws:kms") else None)
    assert reply.headers.get(f"{SSE}-aws-kms-key-id") == ("new" if mode == "aws:kms" else None)
    assert reply.headers.get(f"{SSE}-customer-algorithm") == ("AES256" if mode == "SSE-C" else None)
    md5 = customer()[f"{SSE}-customer-key-md5"]
    assert reply.headers.get(f"{SSE}-customer-key-md5") == (md5 if mode == "SSE-C" else None)


# --- PUT, GET, HEAD ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [0, 1, 13, 1024, PACKAGE_BYTES, MIB, MIB + 1])
def test_round_trip(s3: Harness, mode: str, size: int) -> None:
    data = (CONTENT * 6)[:size]
    reply = put(s3, mode, data)
    check_lines(reply, mode)
    got = s3("GET", "/b/k", reading(mode))
    assert (got.status, got.body) == (200, data)
    check_lines(got, mode)
    head = s3("HEAD", "/b/k", reading(mode))
    assert (head.status, head.length) == (200, size)
    check_lines(head, mode)
    sealed = stored(s3)
    assert len(sealed) == sealed_bytes(size)
    assert size < 16 or data[:16] not in sealed


@pytest.mark.parametrize("mode", ["", *MODES])
def test_the_etag_is_an_md5_only_under_keys_of_the_service(s3: Harness, mode: str) -> None:
    etag = put(s3, mode).headers["etag"].strip('"')
    assert len(bytes.fromhex(etag)) == 16
    assert (etag == hashlib.md5(CONTENT).hexdigest()) == (mode in ("", "AES256"))
    again = put(s3, mode).headers["etag"].strip('"')
    assert (again == etag) == (mode in ("", "AES256"))
    assert s3("HEAD", "/b/k", reading(mode)).headers["etag"] == f'"{again}"'


@pytest.mark.parametrize("mode", MODES)
def test_checksums_are_of_the_content(s3: Harness, mode: str) -> None:
    digest = Digest(("CRC64NVME",))
    digest.update(CONTENT)
    sha256 = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
    reply = put(s3, mode)
    assert reply.headers["x-amz-checksum-crc64nvme"] == digest.base64("CRC64NVME")
    got = s3("GET", "/b/k", {**reading(mode), "x-amz-checksum-mode": "ENABLED"})
    assert got.headers["x-amz-checksum-crc64nvme"] == digest.base64("CRC64NVME")
    named = put(s3, mode, headers={"x-amz-checksum-sha256": sha256})
    assert named.headers["x-amz-checksum-sha256"] == sha256
    md5 = base64.b64encode(hashlib.md5(CONTENT + b"x").digest()).decode()
    assert s3("PUT", "/b/k", {**writing(mode), "content-md5": md5}, CONTENT).code == "BadDigest"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=65535-65536", 65535, 65537),
        ("bytes=70000-", 70000, len(CONTENT)),
        ("bytes=-1", len(CONTENT) - 1, len(CONTENT)),
        ("bytes=-9999999", 0, len(CONTENT)),
        (f"bytes={len(CONTENT) - 1}-{len(CONTENT) + 5}", len(CONTENT) - 1, len(CONTENT)),
    ],
)
def test_ranges(s3: Harness, mode: str, wanted: str, start: int, stop: int) -> None:
    put(s3, mode)
    got = s3("GET", "/b/k", {**reading(mode), "range": wanted})
    assert (got.status, got.body) == (206, CONTENT[start:stop])
    assert got.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"
    head = s3("HEAD", "/b/k", {**reading(mode), "range": wanted})
    assert (head.status, head.length) == (206, stop - start)
    named = s3("GET", "/b/k", {**reading(mode), "range": wanted, "if-range": got.headers["etag"]})
    assert named.body == CONTENT[start:stop]
    other = s3("GET", "/b/k", {**reading(mode), "range": wanted, "if-range": '"other"'})
    assert other.body == CONTENT


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wanted", [f"bytes={len(CONTENT)}-", f"bytes={sealed_bytes(len(CONTENT))}-", "bytes=-0"])
def test_a_range_beyond_the_content_states_its_size(s3: Harness, mode: str, wanted: str) -> None:
    put(s3, mode)
    got = s3("GET", "/b/k", {**reading(mode), "range": wanted})
    assert got.code == "InvalidRange"
    assert got.headers["content-range"] == f"bytes */{len(CONTENT)}"
    put(s3, mode, b"")
    assert s3("GET", "/b/k", {**reading(mode), "range": "bytes=0-0"}).code == "InvalidRange"


def test_conditions_and_parts_of_a_whole_object(s3: Harness) -> None:
    etag = put(s3, "SSE-C").headers["etag"]
    assert s3("GET", "/b/k", {**customer(), "if-none-match": etag}).status == 304
    assert s3("GET", "/b/k", {**customer(), "if-match": '"x"'}).code == "PreconditionFailed"
    got = s3("GET", "/b/k?partNumber=1", customer())
    assert (got.status, got.body) == (206, CONTENT)
    assert s3("GET", "/b/k?partNumber=2", customer()).code == "InvalidPartNumber"


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_customers_object_needs_its_key(s3: Harness) -> None:
    put(s3, "SSE-C")
    for method, path, headers in (
        ("GET", "/b/k", {}),
        ("HEAD", "/b/k", {}),
        ("GET", "/b/k", {"range": "bytes=0-1"}),
        ("GET", "/b/k?attributes", {"x-amz-object-attributes": "ETag"}),
        ("PUT", "/b/copy", {"x-amz-copy-source": "/b/k"}),
    ):
        reply = s3(method, path, headers)
        assert (reply.status, reply.code) == (400, "InvalidRequest"), (method, path)
        assert b"stored using a form of Server Side Encryption" in reply.body
        sent = source if method == "PUT" else customer
        wrong = s3(method, path, {**headers, **sent(KEY_B)})
        assert (wrong.status, wrong.code) == (403, "AccessDenied"), (method, path)
        short = s3(method, path, {**headers, **sent(b"short")})
        assert (short.status, short.code) == (403, "AccessDenied"), (method, path)
    assert s3("DELETE", "/b/k").status == 204


@pytest.mark.parametrize("mode", ["", "AES256", "aws:kms"])
def test_a_key_for_what_has_none_is_refused(s3: Harness, mode: str) -> None:
    put(s3, mode)
    for method, path, headers in (
        ("GET", "/b/k", customer()),
        ("HEAD", "/b/k", customer()),
        ("GET", "/b/k?attributes", {"x-amz-object-attributes": "ETag", **customer()}),
        ("PUT", "/b/copy", {"x-amz-copy-source": "/b/k", **source()}),
    ):
        reply = s3(method, path, headers)
        assert (reply.status, reply.code) == (400, "InvalidRequest"), (method, path)
        assert b"not applicable to this object" in reply.body


@pytest.mark.parametrize("mode", ["", "AES256", "aws:kms"])
@pytest.mark.parametrize("asked", ["AES256", "aws:kms"])
def test_reads_do_not_ask_for_encryption(s3: Harness, mode: str, asked: str) -> None:
    put(s3, mode)
    for method in ("GET", "HEAD"):
        assert (reply := s3(method, "/b/k", {SSE: asked})).status == 400
        assert reply.code == "InvalidArgument"


def test_nothing_is_stored_when_the_headers_are_wrong(s3: Harness) -> None:
    assert s3("PUT", "/b/k", {SSE: "AES256", **customer()}, b"x").code == "InvalidArgument"
    assert s3("PUT", "/b/k", {SSE: "aws:kms", f"{SSE}-aws-kms-key-id": "x"}, b"x").code == "KMS.NotFoundException"
    assert s3("GET", "/b/k").code == "NoSuchKey"


def test_a_lost_or_another_master_key_opens_nothing(s3: Harness) -> None:
    put(s3, "AES256")
    s3.config = ApiConfig(keys=KeyRing({"other": KEY_A}))
    assert s3("GET", "/b/k").code == "KMS.NotFoundException"
    s3.config = ApiConfig(keys=KeyRing({"new": KEY_A}))
    assert s3("GET", "/b/k").code == "InternalError"


def test_older_keys_open_what_they_wrapped(s3: Harness) -> None:
    put(s3, "AES256")
    put(s3, "aws:kms", key="kms")
    s3.config = ApiConfig(keys=KeyRing({**RING.keys, "newest": KEY_A}))
    assert s3("GET", "/b/k").body == CONTENT
    assert s3("GET", "/b/kms").headers[f"{SSE}-aws-kms-key-id"] == "new"
    assert put(s3, "aws:kms").headers[f"{SSE}-aws-kms-key-id"] == "newest"


@pytest.mark.parametrize("mode", MODES)
def test_tampering_is_an_error_before_any_content(s3: Harness, mode: str) -> None:
    put(s3, mode)
    sealed = stored(s3)
    tamper(s3, sealed[:-1] + bytes((sealed[-1] ^ 1,)))
    assert s3("GET", "/b/k", reading(mode)).code == "InternalError"
    assert s3("GET", "/b/k", {**reading(mode), "range": "bytes=0-0"}).body == CONTENT[:1]
    tamper(s3, sealed[SEALED_BYTES : 2 * SEALED_BYTES] + sealed[:SEALED_BYTES] + sealed[2 * SEALED_BYTES :])
    assert s3("GET", "/b/k", {**reading(mode), "range": "bytes=0-0"}).code == "InternalError"


def test_a_long_body_ends_where_it_was_tampered_with(s3: Harness) -> None:
    put(s3, "AES256", CONTENT * 4)
    sealed = bytearray(stored(s3))
    sealed[-1] ^= 1
    tamper(s3, bytes(sealed))
    with pytest.raises(Corrupt):
        s3("GET", "/b/k")


class Fading(MemoryStore):
    """Whose first body that is read breaks off half way, after `meanwhile`: as that of a cold object whose copy goes."""

    meanwhile: Callable[[Harness], object] | None = None
    harness: Harness

    def open(self, bucket: str, key: str, options: ReadOptions) -> Reading:
        found = super().open(bucket, key, options)
        if found.body is None or self.meanwhile is None:
            return found
        happens = self.meanwhile

        async def body() -> AsyncIterator[Buffer]:
            yield self._objects[bucket][key][0].data[found.start : (found.start + found.stop) // 2]
            self.meanwhile = None
            happens(self.harness)
            raise Corrupt("the cold copy is missing from the backing store")

        return Reading(found.info, found.start, found.stop, body(), "cold")


@pytest.mark.parametrize(
    ("meanwhile", "wanted", "ranged"),
    [
        (lambda s3: asyncio.run(s3.store.delete("b", "k")), (404, "NoSuchKey"), CONTENT[:0]),
        (lambda s3: put(s3, "AES256", b"new"), (200, ""), b"new"),
        (lambda s3: None, (500, "InternalError"), CONTENT[:0]),
    ],
)
@pytest.mark.parametrize("headers", [{}, {"range": "bytes=0-9"}])
def test_a_cold_copy_that_goes_while_it_is_read_is_looked_for_again(
    meanwhile: Callable[[Harness], object], wanted: tuple[int, str], ranged: bytes, headers: dict[str, str]
) -> None:
    clock = ManualClock()
    store = Fading(clock)
    s3 = store.harness = Harness(ApiConfig(keys=RING), store)
    asyncio.run(store.create_bucket(BucketInfo(name="b", created_ms=0, pool="")))
    put(s3, "AES256")
    store.meanwhile = lambda harness: in_a_thread(lambda: meanwhile(harness))
    reply = s3("GET", "/b/k", headers)
    assert (reply.status if reply.status != 206 else 200, reply.code) == wanted
    assert reply.status >= 300 or reply.body == ranged


def in_a_thread(work: Callable[[], object]) -> None:
    """Runs what starts a loop of its own while this thread's runs."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


# --- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["", *MODES])
@pytest.mark.parametrize("after", ["", *MODES])
@pytest.mark.parametrize("size", [0, 1, MIB + 1])
def test_copies_between_all_modes(s3: Harness, before: str, after: str, size: int) -> None:
    data = (CONTENT * 6)[:size]
    put(s3, before, data, headers={"x-amz-meta-a": "1", "content-type": "text/x", "x-amz-tagging": "t=1"})
    headers = {"x-amz-copy-source": "/b/k", **(source() if before == "SSE-C" else {})}
    target = customer(KEY_B) if after == "SSE-C" else writing(after)
    reply = s3("PUT", "/b/copy", {**headers, **target})
    assert reply.status == 200, reply.body
    assert reply.headers.get(SSE) == (after if after in ("AES256", "aws:kms") else None)
    got = s3("GET", "/b/copy", customer(KEY_B) if after == "SSE-C" else {})
    assert (got.status, got.body) == (200, data)
    assert got.headers["x-amz-meta-a"] == "1"
    assert got.headers["content-type"] == "text/x"
    assert got.headers["x-amz-tagging-count"] == "1"
    assert got.headers["etag"] == reply.xml("CopyObjectResult").text("ETag")
    assert got.headers.get(SSE) == reply.headers.get(SSE)
    if after in ("", "AES256") and before in ("", "AES256"):
        assert got.headers["etag"] == f'"{hashlib.md5(data).hexdigest()}"'


def test_a_copy_under_the_same_master_key_moves_no_bytes(s3: Harness) -> None:
    put(s3, "aws:kms")
    assert s3("PUT", "/b/copy", {"x-amz-copy-source": "/b/k", SSE: "aws:kms"}).status == 200
    assert stored(s3, "copy") == stored(s3)
    assert s3("GET", "/b/copy").body == CONTENT
    old = {"x-amz-copy-source": "/b/k", SSE: "aws:kms", f"{SSE}-aws-kms-key-id": "old"}
    assert s3("PUT", "/b/copy", old).headers[f"{SSE}-aws-kms-key-id"] == "old"
    assert stored(s3, "copy") != stored(s3)
    named = {"x-amz-copy-source": "/b/k", SSE: "aws:kms", "x-amz-checksum-algorithm": "SHA256"}
    checksum = s3("PUT", "/b/copy", named).xml("CopyObjectResult").text("ChecksumSHA256")
    assert checksum == base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()


def test_a_copy_onto_itself_changes_the_encryption(s3: Harness) -> None:
    put(s3, "")
    assert s3("PUT", "/b/k", {"x-amz-copy-source": "/b/k"}).code == "InvalidRequest"
    assert s3("PUT", "/b/k", {"x-amz-copy-source": "/b/k", SSE: "AES256"}).status == 200
    assert s3("GET", "/b/k").headers[SSE] == "AES256"
    assert s3("PUT", "/b/k", {"x-amz-copy-source": "/b/k", **customer()}).status == 200
    rotated = {"x-amz-copy-source": "/b/k", **source(), **customer(KEY_B)}
    assert s3("PUT", "/b/k", rotated).status == 200
    assert s3("GET", "/b/k", customer(KEY_B)).body == CONTENT
    assert s3("GET", "/b/k", customer()).code == "AccessDenied"


def test_preconditions_of_a_sealed_source(s3: Harness) -> None:
    etag = put(s3, "AES256").headers["etag"]
    copying = {"x-amz-copy-source": "/b/k", **customer()}
    assert s3("PUT", "/b/copy", {**copying, "x-amz-copy-source-if-match": '"x"'}).code == "PreconditionFailed"
    assert s3("PUT", "/b/copy", {**copying, "x-amz-copy-source-if-none-match": etag}).code == "PreconditionFailed"
    assert s3("PUT", "/b/copy", {**copying, "x-amz-copy-source-if-match": etag}).status == 200
    assert s3("PUT", "/b/copy", {**copying, "if-none-match": "*"}).code == "PreconditionFailed"


# --- uploads ----------------------------------------------------------------------------------------------------------


def begin(s3: Harness, headers: Mapping[str, str], key: str = "k") -> str:
    reply = s3("POST", f"/b/{key}?uploads", headers)
    assert reply.status == 200, reply.body
    return reply.xml("InitiateMultipartUploadResult").text("UploadId")


def complete(s3: Harness, upload: str, etags: list[str], headers: Mapping[str, str] | None = None) -> Reply:
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        for number, etag in enumerate(etags, start=1)
    )
    body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    return s3("POST", f"/b/k?uploadId={upload}", headers or {}, body)


@pytest.mark.parametrize("mode", MODES)
def test_an_upload(s3: Harness, mode: str) -> None:
    parts = [bytes((number,)) * (5 * MIB + number) for number in (1, 2)] + [b"the end"]
    data = b"".join(parts)
    upload = begin(s3, {**writing(mode), "x-amz-meta-a": "1"})
    etags = []
    for number, part in enumerate(parts, start=1):
        reply = s3("PUT", f"/b/k?partNumber={number}&uploadId={upload}", reading(mode), part)
        assert reply.status == 200, reply.body
        check_lines(reply, mode)
        etags.append(reply.headers["etag"].strip('"'))
    listed = s3("GET", f"/b/k?uploadId={upload}").xml("ListPartsResult").all("Part")
    assert [int(part.text("Size")) for part in listed] == [len(part) for part in parts]
    reply = complete(s3, upload, etags, {"x-amz-mp-object-size": str(len(data)), **reading(mode)})
    assert reply.status == 200, reply.body
    check_lines(reply, mode)
    digest = Digest(("CRC64NVME",))
    digest.update(data)
    assert reply.xml("CompleteMultipartUploadResult").text("ChecksumCRC64NVME") == digest.base64("CRC64NVME")
    got = s3("GET", "/b/k", reading(mode))
    assert got.body == data
    assert got.headers["etag"].endswith('-3"')
    for start, stop in ((0, 1), (5 * MIB - 1, 5 * MIB + 9), (len(data) - 8, len(data)), (100, len(data) - 1)):
        ranged = s3("GET", "/b/k", {**reading(mode), "range": f"bytes={start}-{stop - 1}"})
        assert ranged.body == data[start:stop]
        assert ranged.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(data)}"
    second = s3("GET", "/b/k?partNumber=2", reading(mode))
    assert second.body == parts[1]
    assert second.headers["content-range"] == f"bytes {5 * MIB + 1}-{10 * MIB + 2}/{len(data)}"
    assert second.headers["x-amz-mp-parts-count"] == "3"
    listing = s3("GET", "/b").xml("ListBucketResult").all("Contents")
    assert [int(each.text("Size")) for each in listing] == [len(data)]
    wanted = {"x-amz-object-attributes": "ObjectSize,ObjectParts,Checksum,ETag", **reading(mode)}
    attributes = s3("GET", "/b/k?attributes", wanted).xml("GetObjectAttributesResponse")
    assert int(attributes.text("ObjectSize")) == len(data)
    shown_parts = attributes.find("ObjectParts")
    assert shown_parts is not None
    assert [int(part.text("Size")) for part in shown_parts.all("Part")] == [len(part) for part in parts]


def test_parts_are_judged_by_their_content(s3: Harness) -> None:
    upload = begin(s3, writing("AES256"))
    path = f"/b/k?partNumber={{}}&uploadId={upload}"
    etags = [
        s3("PUT", path.format(number), {}, part).headers["etag"].strip('"')
        for number, part in enumerate((bytes(5 * MIB - 1), b""), start=1)
    ]
    small = complete(s3, upload, etags)
    assert small.code == "EntityTooSmall"
    assert small.fields["ProposedSize"] == 5 * MIB - 1
    etags[0] = s3("PUT", path.format(1), {}, bytes(5 * MIB)).headers["etag"].strip('"')
    sized = {"x-amz-mp-object-size": str(sealed_bytes(5 * MIB))}
    assert complete(s3, upload, etags, sized).code == "InvalidRequest"
    assert complete(s3, upload, etags).status == 200
    assert s3("GET", "/b/k").body == bytes(5 * MIB)
    assert s3("GET", "/b/k", {"range": "bytes=-1"}).body == b"\0"


def test_parts_of_a_customers_upload_bring_its_key(s3: Harness) -> None:
    upload = begin(s3, customer())
    path = f"/b/k?partNumber=1&uploadId={upload}"
    put(s3, "", key="plain")
    copying = {"x-amz-copy-source": "/b/plain"}
    for headers, words in (
        ({}, b"Subsequent part requests must include"),
        (customer(KEY_B), b"did not match the ones used originally"),
    ):
        for more in ({}, copying):
            reply = s3("PUT", path, {**headers, **more}, b"" if more else b"x")
            assert (reply.status, reply.code) == (400, "InvalidRequest")
            assert words in reply.body
    bad = {**customer(), f"{SSE}-customer-key-md5": "AAAAAAAAAAAAAAAAAAAAAA=="}
    assert s3("PUT", path, bad, b"x").code == "InvalidArgument"
    etag = s3("PUT", path, {**customer(), **copying}).xml("CopyPartResult").text("ETag").strip('"')
    assert complete(s3, upload, [etag], customer(KEY_B)).code == "InvalidRequest"
    assert complete(s3, upload, [etag]).status == 200
    assert s3("GET", "/b/k", customer()).body == CONTENT


def test_a_customers_upload_with_checksums_is_completed_with_its_key(s3: Harness) -> None:
    upload = begin(s3, {**customer(), "x-amz-checksum-algorithm": "CRC32", "x-amz-checksum-type": "FULL_OBJECT"})
    part = s3("PUT", f"/b/k?partNumber=1&uploadId={upload}", customer(), b"abc")
    etag = part.headers["etag"].strip('"')
    assert complete(s3, upload, [etag]).code == "InvalidArgument"
    done = complete(s3, upload, [etag], customer())
    assert done.status == 200
    assert done.headers[f"{SSE}-customer-algorithm"] == "AES256"


def test_a_key_for_parts_of_another_upload_is_refused(s3: Harness) -> None:
    for headers in ({}, writing("AES256")):
        upload = begin(s3, headers)
        reply = s3("PUT", f"/b/k?partNumber=1&uploadId={upload}", customer(), b"x")
        assert (reply.status, reply.code) == (400, "InvalidRequest")


@pytest.mark.parametrize("before", ["", *MODES])
@pytest.mark.parametrize("after", ["", *MODES])
def test_parts_copied_between_all_modes(s3: Harness, before: str, after: str) -> None:
    put(s3, before)
    upload = begin(s3, customer(KEY_B) if after == "SSE-C" else writing(after), "copy")
    headers = {
        "x-amz-copy-source": "/b/k",
        "x-amz-copy-source-range": "bytes=65530-65540",
        **(source() if before == "SSE-C" else {}),
        **(customer(KEY_B) if after == "SSE-C" else {}),
    }
    path = f"/b/copy?partNumber=1&uploadId={upload}"
    reply = s3("PUT", path, headers)
    assert reply.status == 200, reply.body
    part = s3("GET", f"/b/copy?uploadId={upload}").xml("ListPartsResult").all("Part")[0]
    assert part.text("Size") == "11"
    beyond = {**headers, "x-amz-copy-source-range": f"bytes=0-{len(CONTENT)}"}
    assert s3("PUT", path, beyond).code == "InvalidArgument"


# --- defaults of buckets ----------------------------------------------------------------------------------------------


def test_a_bucket_seals_what_says_nothing(s3: Harness) -> None:
    set_default(s3, DefaultEncryption("AES256"))
    assert put(s3, "").headers[SSE] == "AES256"
    assert CONTENT[:16] not in stored(s3)
    assert put(s3, "aws:kms").headers[SSE] == "aws:kms"
    assert put(s3, "SSE-C").headers.get(SSE) is None
    upload = begin(s3, {})
    part = s3("PUT", f"/b/k?partNumber=1&uploadId={upload}", {}, b"abc")
    assert part.headers[SSE] == "AES256"
    assert complete(s3, upload, [part.headers["etag"].strip('"')]).headers[SSE] == "AES256"
    assert s3("PUT", "/b/k", {"x-amz-copy-source": "/b/k"}).headers[SSE] == "AES256"
    set_default(s3, DefaultEncryption("aws:kms", "old", True))
    kms = put(s3, "")
    assert kms.headers[f"{SSE}-aws-kms-key-id"] == "old"
    assert kms.headers[f"{SSE}-bucket-key-enabled"] == "true"
    assert s3("HEAD", "/b/k").headers[f"{SSE}-bucket-key-enabled"] == "true"


def test_a_bucket_refuses_customers_keys(s3: Harness) -> None:
    put(s3, "SSE-C")
    upload = begin(s3, customer())
    path = f"/b/k?partNumber=1&uploadId={upload}"
    etag = s3("PUT", path, customer(), b"x").headers["etag"].strip('"')
    set_default(s3, DefaultEncryption(blocks_customer_keys=True))
    assert s3("PUT", path, customer(), b"x").code == "AccessDenied"
    assert complete(s3, upload, [etag]).code == "AccessDenied"
    assert s3("DELETE", f"/b/k?uploadId={upload}").status == 204
    assert s3("PUT", "/b/k", customer(), b"x").code == "AccessDenied"
    assert s3("POST", "/b/k?uploads", customer()).code == "AccessDenied"
    assert s3("PUT", "/b/k", {"x-amz-copy-source": "/b/k", **source(), **customer()}).code == "AccessDenied"
    assert s3("GET", "/b/k", customer()).body == CONTENT
    assert put(s3, "", key="plain").headers.get(SSE) is None


def test_the_context_is_repeated_by_writes_only(s3: Harness) -> None:
    reply = put(s3, "aws:kms", headers={f"{SSE}-context": CONTEXT})
    assert reply.headers[f"{SSE}-context"] == CONTEXT
    got = s3("GET", "/b/k")
    assert got.body == CONTENT
    assert f"{SSE}-context" not in got.headers
    assert f"{SSE}-context" not in s3("PUT", "/b/c", {"x-amz-copy-source": "/b/k", SSE: "aws:kms"}).headers
    assert s3("GET", "/b/c").body == CONTENT


# --- what else touches objects ----------------------------------------------------------------------------------------


def test_many_keys_at_once(s3: Harness) -> None:
    put(s3, "AES256", key="a")
    put(s3, "SSE-C", CONTENT * 4, key="c")
    put(s3, "", b"plain", key="p")
    keys = json.dumps({"keys": ["a", "c", "p"]}).encode()
    found = json.loads(s3("POST", "/b?recall=lookup", {}, keys).body)
    assert [each["size"] for each in found["objects"]] == [len(CONTENT), 4 * len(CONTENT), 5]
    for headers, wanted in (
        ({}, [(200, CONTENT), (400, b""), (200, b"plain")]),
        (customer(KEY_B), [(400, b""), (403, b""), (200, b"plain")]),
        (customer(), [(400, b""), (200, CONTENT * 4), (200, b"plain")]),
    ):
        assert cut(s3("POST", "/b?recall=get", headers, keys).body) == wanted
    set_default(s3, DefaultEncryption("AES256"))
    stored_now = json.loads(s3("POST", "/b?recall=put", {}, put_body(({"key": "new"}, CONTENT))).body)
    assert "code" not in stored_now["objects"][0]
    assert s3("HEAD", "/b/new").headers[SSE] == "AES256"
    assert s3("GET", "/b/new").body == CONTENT


def test_recalls_own_verbs(s3: Harness) -> None:
    put(s3, "SSE-C")
    assert s3("POST", "/b/k?recall", {"x-recall-tier": "cold", "x-recall-pin": "60"}).status == 200
    assert s3("GET", "/b/k", customer()).body == CONTENT
    assert s3("POST", "/b/k?restore", {}, b"<RestoreRequest><Days>1</Days></RestoreRequest>").status in (200, 202)
    assert s3("PUT", "/b/k?tagging", {}, b"<Tagging><TagSet/></Tagging>").status == 200


def test_appends_are_refused(s3: Harness) -> None:
    put(s3, "AES256")
    appending = {"x-amz-write-offset-bytes": str(len(CONTENT))}
    assert s3("PUT", "/b/k", appending, b"x").status in (400, 501)
    assert s3("PUT", "/b/new", {"x-amz-write-offset-bytes": "0", **writing("AES256")}, b"x").status in (400, 501)
    assert s3("GET", "/b/k").body == CONTENT


def test_each_version_has_a_key_of_its_own(s3: Harness) -> None:
    asyncio.run(s3.store.change_bucket("b", BucketChange(versioning="Enabled")))
    ids = [
        put(s3, "", data, headers=customer(key)).headers["x-amz-version-id"]
        for data, key in ((b"a", KEY_A), (b"bb", KEY_B))
    ]
    for version, data, key, other in ((ids[0], b"a", KEY_A, KEY_B), (ids[1], b"bb", KEY_B, KEY_A)):
        path = f"/b/k?versionId={version}"
        assert s3("GET", path, customer(key)).body == data
        assert s3("GET", path, {**customer(key), "range": "bytes=-1"}).body == data[-1:]
        assert s3("GET", path, customer(other)).code == "AccessDenied"
        copying = {"x-amz-copy-source": path, **source(key), SSE: "AES256"}
        assert s3("PUT", "/b/copy", copying).headers["x-amz-copy-source-version-id"] == version
        assert s3("GET", "/b/copy").body == data
    sizes = [each.text("Size") for each in s3("GET", "/b?versions&prefix=k").xml("ListVersionsResult").all("Version")]
    assert sizes == ["2", "1"]


def test_a_part_beyond_a_sealed_source_states_the_contents_size(s3: Harness) -> None:
    put(s3, "AES256")
    upload = begin(s3, {}, "copy")
    for first, code in ((len(CONTENT) - 1, "InvalidArgument"), (len(CONTENT), "InvalidRequest")):
        headers = {
            "x-amz-copy-source": "/b/k",
            "x-amz-copy-source-range": f"bytes={first}-{sealed_bytes(len(CONTENT)) - 1}",
        }
        reply = s3("PUT", f"/b/copy?partNumber=1&uploadId={upload}", headers)
        assert reply.code == code
        assert (f"of size: {len(CONTENT)}".encode() in reply.body) == (code == "InvalidArgument")


def test_a_completion_that_is_repeated_says_the_same(s3: Harness) -> None:
    upload = begin(s3, writing("aws:kms"))
    part = s3("PUT", f"/b/k?partNumber=1&uploadId={upload}", {SSE: "aws:kms"}, b"abc")  # said again, as some clients do
    etag = part.headers["etag"].strip('"')
    for _ in range(2):
        check_lines(complete(s3, upload, [etag]), "aws:kms")
