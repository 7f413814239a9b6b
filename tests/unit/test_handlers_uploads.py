"""The multipart family, and GetObjectAttributes of what it makes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from pathlib import Path

import pytest
from awscrt import checksums

from s3api import checksums as checksum_module
from s3api import xml
from s3api.handlers.body import COPY_PIECE_BYTES, pieces, source_pieces
from tests.support.clock import ManualClock
from tests.unit.handler_harness import Body, Harness, Reply
from tiering.contract import (
    PART_BYTES_MIN,
    ByteRange,
    FileSpans,
    ObjectInfo,
    PutOptions,
    Reading,
    ReadOptions,
)
from tiering.memory import MemoryStore

BIG = hashlib.shake_128(b"first part").digest(PART_BYTES_MIN)
SMALL = b"the last part"
WHOLE = BIG + SMALL


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def crc(name: str, data: bytes) -> str:
    return b64(getattr(checksums, name.lower())(data).to_bytes(8 if name == "CRC64NVME" else 4, "big"))


def digest(name: str, data: bytes) -> str:
    if name.startswith("CRC"):
        return crc(name, data)
    if name.startswith("XX"):
        one_shot = {"XXHASH64": "xxhash64", "XXHASH3": "xxhash3_64", "XXHASH128": "xxhash3_128"}[name]
        return b64(getattr(checksums.XXHash, f"compute_{one_shot}")(data))
    return b64(hashlib.new(name.lower(), data).digest())


@pytest.fixture
def s3() -> Harness:
    harness = Harness()
    harness("PUT", "/bucket")
    return harness


def begin(s3: Harness, key: str = "k", **headers: str) -> str:
    reply = s3("POST", f"/bucket/{key}?uploads", {name.replace("_", "-"): text for name, text in headers.items()})
    root = reply.xml("InitiateMultipartUploadResult")
    assert (root.text("Bucket"), root.text("Key")) == ("bucket", key)
    return root.text("UploadId")


def part(s3: Harness, upload_id: str, number: int, data: bytes, **headers: str) -> Reply:
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    return s3("PUT", f"/bucket/k?partNumber={number}&uploadId={upload_id}", sent, data)


def document(*parts: tuple[int, str] | tuple[int, str, str, str]) -> bytes:
    text = ""
    for number, etag, *checksum in parts:
        extra = f"<Checksum{checksum[0]}>{checksum[1]}</Checksum{checksum[0]}>" if checksum else ""
        text += f"<Part><PartNumber>{number}</PartNumber><ETag>{xml.escape(etag)}</ETag>{extra}</Part>"
    return f"<CompleteMultipartUpload>{text}</CompleteMultipartUpload>".encode()


def complete(s3: Harness, upload_id: str, body: bytes, **headers: str) -> Reply:
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    return s3("POST", f"/bucket/k?uploadId={upload_id}", sent, body)


def two_parts(s3: Harness, **headers: str) -> tuple[str, bytes]:
    """An upload of WHOLE in two parts, and the document that completes it."""
    upload_id = begin(s3, **headers)
    etags = [part(s3, upload_id, n, data).headers["etag"] for n, data in ((1, BIG), (2, SMALL))]
    return upload_id, document((1, etags[0]), (2, etags[1]))


def test_upload_from_begin_to_end(s3: Harness) -> None:
    upload_id, body = two_parts(s3, content_type="x/y", x_amz_meta_m="1", x_recall_pin="true")
    assert s3("HEAD", "/bucket/k").code == "NoSuchKey"
    reply = complete(s3, upload_id, body, x_amz_mp_object_size=str(len(WHOLE)))
    root = reply.xml("CompleteMultipartUploadResult")
    joined = hashlib.md5(BIG).digest() + hashlib.md5(SMALL).digest()
    etag = f'"{hashlib.md5(joined).hexdigest()}-2"'
    assert root.text("ETag") == etag
    assert root.text("Location") == "http://s3.test:9000/bucket/k"
    assert (root.text("ChecksumCRC64NVME"), root.text("ChecksumType")) == (crc("CRC64NVME", WHOLE), "FULL_OBJECT")
    seen = s3("GET", "/bucket/k")
    assert seen.body == WHOLE
    assert (seen.headers["etag"], seen.headers["content-type"], seen.headers["x-amz-meta-m"]) == (etag, "x/y", "1")
    assert seen.headers["x-recall-pinned-until"] == "forever"
    assert s3("GET", f"/bucket/k?uploadId={upload_id}").code == "NoSuchUpload"


def test_completing_again_answers_again(s3: Harness) -> None:
    upload_id, body = two_parts(s3)
    first = complete(s3, upload_id, body, if_none_match="*")
    again = complete(s3, upload_id, body, if_none_match="*")
    assert (first.status, again.status, again.body) == (200, 200, first.body)
    s3("PUT", "/bucket/k", {}, b"overwritten")
    assert complete(s3, upload_id, body).code == "NoSuchUpload"


def test_parts_are_read_by_number(s3: Harness) -> None:
    upload_id, body = two_parts(s3)
    complete(s3, upload_id, body)
    for number, data, where in ((1, BIG, f"0-{len(BIG) - 1}"), (2, SMALL, f"{len(BIG)}-{len(WHOLE) - 1}")):
        reply = s3("GET", f"/bucket/k?partNumber={number}", {"x-amz-checksum-mode": "ENABLED"})
        assert (reply.status, reply.body) == (206, data)
        assert reply.headers["content-range"] == f"bytes {where}/{len(WHOLE)}"
        assert reply.headers["x-amz-mp-parts-count"] == "2"
        assert reply.headers["x-amz-checksum-crc64nvme"] == crc("CRC64NVME", data)
    assert s3("HEAD", "/bucket/k?partNumber=2").length == len(SMALL)
    assert s3("GET", "/bucket/k?partNumber=3").code == "InvalidPartNumber"
    assert "x-amz-mp-parts-count" not in s3("HEAD", "/bucket/k").headers


@pytest.mark.parametrize("algorithm", [name for name in checksum_module.ALGORITHMS if name != "CRC64NVME"])
def test_composite_checksums(s3: Harness, algorithm: str) -> None:
    name = f"x_amz_checksum_{algorithm.lower()}"
    header = name.replace("_", "-")
    reply = s3("POST", "/bucket/k?uploads", {"x-amz-checksum-algorithm": algorithm})
    assert (reply.headers["x-amz-checksum-algorithm"], reply.headers["x-amz-checksum-type"]) == (algorithm, "COMPOSITE")
    upload_id = reply.xml("InitiateMultipartUploadResult").text("UploadId")
    one, two = digest(algorithm, BIG), digest(algorithm, SMALL)
    sent = part(s3, upload_id, 1, BIG, **{name: one})
    lacking = part(s3, upload_id, 2, SMALL)
    expected = (
        f"Checksum Type mismatch occurred, expected checksum Type: {algorithm.lower()}, actual checksum Type: null"
    )
    assert (lacking.code, lacking.body.decode()) == ("InvalidRequest", expected)
    unsent = part(s3, upload_id, 2, SMALL, **{name: two})
    assert (sent.headers[header], unsent.headers[header]) == (one, two)
    assert part(s3, upload_id, 3, SMALL, **{name: one}).code == "BadDigest"
    other = "crc32" if algorithm != "CRC32" else "crc32c"
    mixed = {f"x_amz_checksum_{other}": digest(other.upper(), SMALL)}
    assert part(s3, upload_id, 3, SMALL, **mixed).code == "InvalidRequest"
    claims = [(1, sent.headers["etag"], algorithm, one), (2, unsent.headers["etag"], algorithm, two)]
    wrong = document(claims[0], (2, unsent.headers["etag"], algorithm, one))
    assert complete(s3, upload_id, wrong).code == "InvalidPart"
    lacking = complete(s3, upload_id, document(claims[0], (2, unsent.headers["etag"])))
    assert (lacking.code, b"It was missing for part 2 in the request" in lacking.body) == ("InvalidRequest", True)
    whole = digest(algorithm, base64.b64decode(one) + base64.b64decode(two))
    assert complete(s3, upload_id, document(*claims), **{name: one}).code == "BadDigest"
    assert complete(s3, upload_id, document(*claims), x_amz_checksum_type="FULL_OBJECT").code == "InvalidRequest"
    root = complete(s3, upload_id, document(*claims), **{name: whole}).xml("CompleteMultipartUploadResult")
    assert (root.text(f"Checksum{algorithm}"), root.text("ChecksumType")) == (f"{whole}-2", "COMPOSITE")
    seen = s3("HEAD", "/bucket/k", {"x-amz-checksum-mode": "ENABLED"}).headers
    assert (seen[header], seen["x-amz-checksum-type"]) == (f"{whole}-2", "COMPOSITE")


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME"])
def test_full_object_checksums(s3: Harness, algorithm: str) -> None:
    name = f"x_amz_checksum_{algorithm.lower()}"
    upload_id, body = two_parts(s3, x_amz_checksum_algorithm=algorithm, x_amz_checksum_type="FULL_OBJECT")
    assert complete(s3, upload_id, body, **{name: digest(algorithm, BIG)}).code == "BadDigest"
    reply = complete(s3, upload_id, body, **{name: digest(algorithm, WHOLE)}, x_amz_checksum_type="FULL_OBJECT")
    root = reply.xml("CompleteMultipartUploadResult")
    assert (root.text(f"Checksum{algorithm}"), root.text("ChecksumType")) == (digest(algorithm, WHOLE), "FULL_OBJECT")


def test_upload_without_algorithm_keeps_crc64nvme(s3: Harness) -> None:
    upload_id = begin(s3)
    first = part(s3, upload_id, 1, BIG, x_amz_checksum_crc32=crc("CRC32", BIG))
    assert first.headers["x-amz-checksum-crc32"] == crc("CRC32", BIG)
    second = part(s3, upload_id, 2, SMALL)
    assert second.headers["x-amz-checksum-crc64nvme"] == crc("CRC64NVME", SMALL)
    body = document((1, first.headers["etag"], "CRC32", crc("CRC32", BIG)), (2, second.headers["etag"]))
    assert complete(s3, upload_id, body, x_amz_checksum_crc64nvme=crc("CRC64NVME", BIG)).code == "BadDigest"
    assert complete(s3, upload_id, body, x_amz_checksum_crc64nvme=crc("CRC64NVME", WHOLE)).status == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-amz-checksum-algorithm": "MD4"}, "InvalidRequest"),
        ({"x-amz-checksum-type": "COMPOSITE"}, "InvalidRequest"),
        ({"x-amz-checksum-algorithm": "SHA256", "x-amz-checksum-type": "FULL_OBJECT"}, "InvalidRequest"),
        ({"x-amz-checksum-algorithm": "CRC64NVME", "x-amz-checksum-type": "COMPOSITE"}, "InvalidRequest"),
        ({"x-amz-checksum-algorithm": "CRC32", "x-amz-checksum-type": "HALF"}, "InvalidRequest"),
        ({"x-amz-meta-m": "v" * 3000}, "MetadataTooLarge"),
    ],
)
def test_bad_beginnings(s3: Harness, headers: dict[str, str], code: str) -> None:
    assert s3("POST", "/bucket/k?uploads", headers).code == code


def test_bad_parts(s3: Harness) -> None:
    upload_id = begin(s3)
    for number in ("0", "10001", "x", "-1"):
        assert s3("PUT", f"/bucket/k?partNumber={number}&uploadId={upload_id}", {}, b"x").code == "InvalidArgument"
    assert part(s3, "unknown", 1, b"x").code == "NoSuchUpload"
    assert part(s3, upload_id, 1, b"x", content_md5=b64(hashlib.md5(b"y").digest())).code == "BadDigest"
    body = Body(b"")
    body.length = 6 << 30
    path = f"/bucket/k?partNumber=1&uploadId={upload_id}"
    assert asyncio.run(s3.request("PUT", path, {}, body)).code == "EntityTooLarge"
    assert body.reads == 0
    assert s3.store.parts("bucket", "k", upload_id) == []


def test_bad_completions(s3: Harness) -> None:
    upload_id, body = two_parts(s3)
    etags = [f'"{hashlib.md5(data).hexdigest()}"' for data in (BIG, SMALL)]
    for bad, code in (
        (document(), "MalformedXML"),
        (b"", "MalformedXML"),
        (b"<CompleteMultipartUpload><Part><ETag>x</ETag></Part></CompleteMultipartUpload>", "MalformedXML"),
        (document((0, "x")), "InvalidArgument"),
        (document((2, etags[1]), (1, etags[0])), "InvalidPartOrder"),
        (document((1, etags[0]), (3, etags[1])), "InvalidPart"),
        (document((1, etags[1])), "InvalidPart"),
    ):
        assert complete(s3, upload_id, bad).code == code
    assert complete(s3, upload_id, body, x_amz_mp_object_size="5").code == "InvalidRequest"
    assert complete(s3, upload_id, body, x_amz_mp_object_size="-1").code == "InvalidRequest"
    s3("PUT", "/bucket/k", {}, b"stands")
    assert complete(s3, upload_id, body, if_none_match="*").code == "PreconditionFailed"
    assert complete(s3, "unknown", body).code == "NoSuchUpload"
    assert s3("GET", "/bucket/k").body == b"stands"
    assert complete(s3, upload_id, body).status == 200


def test_small_part_before_the_last(s3: Harness) -> None:
    upload_id = begin(s3)
    etags = [part(s3, upload_id, n, SMALL).headers["etag"] for n in (1, 2)]
    reply = complete(s3, upload_id, document((1, etags[0]), (2, etags[1])))
    assert (reply.code, reply.fields["PartNumber"], reply.fields["ProposedSize"]) == ("EntityTooSmall", 1, len(SMALL))
    assert complete(s3, upload_id, document((2, etags[1]))).status == 200
    assert s3("GET", "/bucket/k?partNumber=2").body == SMALL


def test_etags_may_come_without_quotes(s3: Harness) -> None:
    upload_id = begin(s3)
    etag = part(s3, upload_id, 1, SMALL).headers["etag"].strip('"')
    assert complete(s3, upload_id, document((1, etag))).status == 200


def test_opaque_bucket_has_opaque_parts_and_a_counted_whole(s3: Harness) -> None:
    s3("PUT", "/kv-blocks", {"x-recall-pool": "kv"})
    upload_id = s3("POST", "/kv-blocks/k?uploads").xml("InitiateMultipartUploadResult").text("UploadId")
    etag = s3("PUT", f"/kv-blocks/k?partNumber=1&uploadId={upload_id}", {}, SMALL).headers["etag"]
    assert etag != f'"{hashlib.md5(SMALL).hexdigest()}"'
    reply = s3("POST", f"/kv-blocks/k?uploadId={upload_id}", {}, document((1, etag)))
    whole = reply.xml("CompleteMultipartUploadResult").text("ETag")
    assert whole == s3("HEAD", "/kv-blocks/k").headers["etag"]
    assert whole.endswith('-1"')


def test_abort(s3: Harness) -> None:
    upload_id, body = two_parts(s3)
    assert s3("DELETE", f"/bucket/k?uploadId={upload_id}").status == 204
    assert s3("DELETE", f"/bucket/k?uploadId={upload_id}").code == "NoSuchUpload"
    assert complete(s3, upload_id, body).code == part(s3, upload_id, 1, b"x").code == "NoSuchUpload"


def test_list_parts(s3: Harness) -> None:
    upload_id = begin(s3, x_amz_checksum_algorithm="CRC32")
    for number in (1, 3, 7):
        part(s3, upload_id, number, b"%d" % number, x_amz_checksum_crc32=crc("CRC32", b"%d" % number))

    def parts(query: str = "") -> tuple[list[int], xml.Node]:
        root = s3("GET", f"/bucket/k?uploadId={upload_id}{query}").xml("ListPartsResult")
        return [node.integer("PartNumber", 1, 10_000) for node in root.all("Part")], root

    numbers, root = parts()
    assert (numbers, root.text("IsTruncated"), root.text("MaxParts")) == ([1, 3, 7], "false", "1000")
    assert (root.text("ChecksumAlgorithm"), root.text("ChecksumType")) == ("CRC32", "COMPOSITE")
    first = root.all("Part")[0]
    assert (first.text("ETag"), first.text("Size")) == (f'"{hashlib.md5(b"1").hexdigest()}"', "1")
    assert (first.text("ChecksumCRC32"), first.find("ChecksumType")) == (crc("CRC32", b"1"), None)
    numbers, root = parts("&max-parts=2")
    assert (numbers, root.text("IsTruncated"), root.text("NextPartNumberMarker")) == ([1, 3], "true", "3")
    assert parts("&max-parts=2&part-number-marker=3")[0] == [7]
    assert parts("&max-parts=0")[0] == []
    assert s3("GET", f"/bucket/k?uploadId={upload_id}&max-parts=x").code == "InvalidArgument"


# -- copies into parts


def test_upload_part_copy(s3: Harness) -> None:
    s3("PUT", "/bucket/source", {}, WHOLE)
    upload_id = begin(s3)
    source = {"x-amz-copy-source": "/bucket/source"}
    path = f"/bucket/k?partNumber={{}}&uploadId={upload_id}"
    one = s3("PUT", path.format(1), source).xml("CopyPartResult")
    assert one.text("ETag") == f'"{hashlib.md5(WHOLE).hexdigest()}"'
    assert one.text("ChecksumCRC64NVME") == crc("CRC64NVME", WHOLE)
    assert one.text("LastModified") == "2026-01-01T00:00:00.000Z"
    two = s3("PUT", path.format(2), {**source, "x-amz-copy-source-range": "bytes=10-29"}).xml("CopyPartResult")
    assert complete(s3, upload_id, document((1, one.text("ETag")), (2, two.text("ETag")))).status == 200
    assert s3("GET", "/bucket/k").body == WHOLE + WHOLE[10:30]


def test_bad_upload_part_copies(s3: Harness) -> None:
    s3("PUT", "/bucket/source", {}, b"0123456789")
    etag = s3("HEAD", "/bucket/source").headers["etag"]
    upload_id = begin(s3)
    for headers, code in (
        ({"x-amz-copy-source-range": "bytes=0-10"}, "InvalidArgument"),
        ({"x-amz-copy-source-range": "bytes=10-19"}, "InvalidRequest"),
        ({"x-amz-copy-source-range": "bytes=20-30"}, "InvalidRequest"),
        ({"x-amz-copy-source-range": "bytes=0-"}, "InvalidArgument"),
        ({"x-amz-copy-source-range": "bytes=-5"}, "InvalidArgument"),
        ({"x-amz-copy-source": "bucket/none"}, "NoSuchKey"),
        ({"x-amz-copy-source-if-match": '"x"'}, "PreconditionFailed"),
        ({"x-amz-copy-source-if-none-match": etag}, "PreconditionFailed"),
        ({"if-match": "a", "if-none-match": "b"}, "NotImplemented"),
        ({"if-none-match": "*"}, "NotImplemented"),
    ):
        sent = {"x-amz-copy-source": "bucket/source", **headers}
        reply = s3("PUT", f"/bucket/k?partNumber=1&uploadId={upload_id}", sent)
        assert reply.code == code, headers
        if code == "PreconditionFailed":
            assert reply.fields["Condition"].startswith("x-amz-copy-source-If-")
    sent = {"x-amz-copy-source": "bucket/source"}
    assert s3("PUT", "/bucket/k?partNumber=1&uploadId=unknown", sent).code == "NoSuchUpload"
    # A condition on a part is not dropped: AWS, too, says that it has none.
    assert s3("PUT", f"/bucket/k?partNumber=1&uploadId={upload_id}", {"if-match": etag}, b"x").code == "NotImplemented"
    assert s3.store.parts("bucket", "k", upload_id) == []


class Watched(MemoryStore):
    """Serves files in windows as a tiered pool does, and runs `before[n]` ahead of the n-th open of a body."""

    def __init__(self) -> None:
        super().__init__(ManualClock())
        self.opened: list[tuple[int, int]] = []
        self.held = 0  # readings that are open now
        self.before: dict[int, bytes] = {}

    def open(self, bucket: str, key: str, options: ReadOptions) -> Reading:
        if not options.head and (data := self.before.get(len(self.opened))) is not None:
            self.overwrite(data)
        reading = super().open(bucket, key, options)
        if options.head:
            return reading
        self.opened.append((reading.start, reading.stop))
        self.held += 1
        fd = os.memfd_create("flash")
        os.write(fd, self._find(bucket, key).data[reading.start : reading.stop])
        length = reading.stop - reading.start

        def release() -> None:
            os.close(fd)
            self.held -= 1

        return Reading(reading.info, reading.start, reading.stop, FileSpans(((fd, 0, length),), length, release), "hot")

    def overwrite(self, data: bytes) -> None:
        self._store("bucket", "source", data, 0, PutOptions(), etag="same")


def watched() -> tuple[Harness, Watched]:
    store = Watched()
    s3 = Harness(store=store)
    s3("PUT", "/bucket")
    return s3, store


def test_upload_part_copy_holds_no_reading_while_it_writes() -> None:
    s3, store = watched()
    store.overwrite(WHOLE)
    first, last = 10, len(WHOLE) - 5
    reading = store.open("bucket", "source", ReadOptions(head=True, range=ByteRange(first, last)))

    async def run() -> bytes:
        data = b""
        async for piece in source_pieces(store, ("bucket", "source"), reading):
            assert store.held == 0
            assert len(piece) <= COPY_PIECE_BYTES
            data += piece
        return data

    assert asyncio.run(run()) == WHOLE[first:last]
    assert store.opened[0] == (first, first + COPY_PIECE_BYTES)
    assert store.opened[-1][1] == last
    assert len(store.opened) == 5
    upload_id = begin(s3)
    reply = s3("PUT", f"/bucket/k?partNumber=1&uploadId={upload_id}", {"x-amz-copy-source": "bucket/source"})
    assert reply.xml("CopyPartResult").text("ETag") == f'"{hashlib.md5(WHOLE).hexdigest()}"'
    assert store.held == 0


@pytest.mark.parametrize(("window", "data"), [(0, WHOLE), (2, WHOLE), (2, BIG[::-1]), (4, WHOLE)])
def test_upload_part_copy_of_a_source_overwritten_meanwhile(window: int, data: bytes) -> None:
    """Also where the new bytes have the ETag of the old: another generation is another object."""
    s3, store = watched()
    store.overwrite(WHOLE)
    store.before[window] = data
    upload_id = begin(s3)
    reply = s3("PUT", f"/bucket/k?partNumber=1&uploadId={upload_id}", {"x-amz-copy-source": "bucket/source"})
    assert (reply.status, reply.code) == (412, "PreconditionFailed")
    assert reply.fields["Condition"] == "x-amz-copy-source-If-Match"
    assert store.held == 0
    assert store.parts("bucket", "k", upload_id) == []


def test_upload_part_copy_of_an_empty_source() -> None:
    s3, store = watched()
    store.overwrite(b"")
    upload_id = begin(s3)
    reply = s3("PUT", f"/bucket/k?partNumber=1&uploadId={upload_id}", {"x-amz-copy-source": "bucket/source"})
    assert reply.xml("CopyPartResult").text("ETag") == f'"{hashlib.md5(b"").hexdigest()}"'
    assert store.opened == []


def test_pieces_reads_file_spans(tmp_path: Path) -> None:
    path = tmp_path / "flash"
    path.write_bytes(WHOLE)
    released = []
    fd = os.open(path, os.O_RDONLY)
    spans = ((fd, 5, 2_500_000), (fd, 0, 3), (fd, len(BIG), len(SMALL)))
    length = sum(span[2] for span in spans)
    info = ObjectInfo(generation=1, size=length, modified_ms=0, etag="", crc64=0)
    reading = Reading(info, 0, length, FileSpans(spans, length, lambda: released.append(1)), "hot")

    async def run() -> bytes:
        return b"".join([bytes(piece) async for piece in pieces(reading)])

    try:
        assert asyncio.run(run()) == WHOLE[5:2_500_005] + WHOLE[:3] + SMALL
        assert not released
        reading.close()
        reading.close()
        assert released == [1]
    finally:
        os.close(fd)


# -- attributes


def attributes(s3: Harness, names: str, **headers: str) -> Reply:
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    return s3("GET", "/bucket/k?attributes", {"x-amz-object-attributes": names, **sent})


def test_attributes_of_a_whole_object(s3: Harness) -> None:
    s3("PUT", "/bucket/k", {}, SMALL)
    reply = attributes(s3, "ETag,Checksum,ObjectParts,StorageClass,ObjectSize")
    assert reply.headers["last-modified"] == "Thu, 01 Jan 2026 00:00:00 GMT"
    root = reply.xml("GetObjectAttributesResponse")
    assert root.text("ETag") == hashlib.md5(SMALL).hexdigest()
    checksum = root.find("Checksum")
    assert checksum is not None
    assert checksum.text("ChecksumCRC64NVME") == crc("CRC64NVME", SMALL)
    assert (root.text("StorageClass"), root.text("ObjectSize")) == ("STANDARD", str(len(SMALL)))
    assert root.find("ObjectParts") is None
    only = attributes(s3, "ObjectSize").xml("GetObjectAttributesResponse")
    assert [child.name for child in only.children] == ["ObjectSize"]
    assert attributes(s3, "").code == "InvalidRequest"
    assert attributes(s3, "ETag,Colour").code == "InvalidArgument"
    assert attributes(s3, "ETag", if_match='"x"').code == "PreconditionFailed"
    assert s3("GET", "/bucket/none?attributes", {"x-amz-object-attributes": "ETag"}).code == "NoSuchKey"


def test_attributes_of_parts(s3: Harness) -> None:
    upload_id = begin(s3, x_amz_checksum_algorithm="SHA256")
    claims = [
        (
            number,
            part(s3, upload_id, number, data, x_amz_checksum_sha256=digest("SHA256", data)).headers["etag"],
            "SHA256",
            digest("SHA256", data),
        )
        for number, data in ((1, BIG), (2, SMALL))
    ]
    complete(s3, upload_id, document(*claims))
    parts = attributes(s3, "ObjectParts").xml("GetObjectAttributesResponse").find("ObjectParts")
    assert parts is not None
    assert (parts.text("PartsCount"), parts.text("IsTruncated")) == ("2", "false")
    entries = [(n.text("PartNumber"), n.text("Size"), n.text("ChecksumSHA256")) for n in parts.all("Part")]
    assert entries == [("1", str(len(BIG)), digest("SHA256", BIG)), ("2", str(len(SMALL)), digest("SHA256", SMALL))]
    reply = attributes(s3, "ObjectParts", x_amz_max_parts="1")
    parts = reply.xml("GetObjectAttributesResponse").find("ObjectParts")
    assert parts is not None
    assert (len(parts.all("Part")), parts.text("IsTruncated"), parts.text("NextPartNumberMarker")) == (1, "true", "1")
    reply = attributes(s3, "ObjectParts", x_amz_part_number_marker="1")
    parts = reply.xml("GetObjectAttributesResponse").find("ObjectParts")
    assert parts is not None
    assert [node.text("PartNumber") for node in parts.all("Part")] == ["2"]


def test_checksum_of_another_kind_is_ignored_where_the_upload_named_none(s3: Harness) -> None:
    upload_id, body = two_parts(s3)
    assert complete(s3, upload_id, body, x_amz_checksum_crc32=crc("CRC32", BIG)).status == 200


def test_checksums_of_a_completion_that_are_none(s3: Harness) -> None:
    upload_id = begin(s3, x_amz_checksum_algorithm="SHA256")
    sha = digest("SHA256", BIG)
    etag = part(s3, upload_id, 1, BIG, x_amz_checksum_sha256=sha).headers["etag"]
    good = document((1, etag, "SHA256", sha))
    header = "Value for x-amz-checksum-sha256 header is invalid."
    for body, headers, code, message in (
        (good, {"x_amz_checksum_type": "HALF"}, "InvalidRequest", "Value for x-amz-checksum-type header is invalid."),
        (good, {"x_amz_checksum_sha256": "invalid"}, "InvalidRequest", header),
        (good, {"x_amz_checksum_sha256": sha + "-smth"}, "InvalidRequest", header),
        (good, {"x_amz_checksum_sha256": sha + "-10-20"}, "InvalidRequest", header),
        (good, {"x_amz_checksum_sha256": sha + "--3"}, "InvalidRequest", header),
        (good, {"x_amz_checksum_sha256": sha, "x_amz_checksum_crc32": "AAAAAA=="}, "InvalidRequest", checksum_module.SINGLE_CHECKSUM),
        (good, {"x_amz_checksum_sha256": sha}, "BadDigest", "The SHA256 you specified did not match the calculated checksum."),
        (document((1, etag, "SHA256", "invalid")), {}, "InvalidArgument", "Invalid Base64 or multiple checksums present in request"),
        (document((1, etag, "CRC32", "AAAAAA==")), {}, "BadDigest", "The crc32 you specified for part 1 did not match what we received."),
        (document((1, etag, "SHA256", digest("SHA256", SMALL))), {}, "InvalidPart", ""),
        (document((1, etag)), {}, "InvalidRequest", "The upload was created using a sha256 checksum. The complete request must include the checksum for each part. It was missing for part 1 in the request."),
    ):  # fmt: skip
        reply = complete(s3, upload_id, body, **headers)
        assert reply.code == code, headers
        assert reply.body.decode() == message or not message
    assert complete(s3, upload_id, good).status == 200
