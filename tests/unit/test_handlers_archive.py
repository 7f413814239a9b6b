"""Archived objects and RestoreObject through the handlers; and which event each write is recorded with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from s3api.config import ApiConfig
from tests.unit.handler_harness import Harness
from tiering.contract import BucketChange, Reading, ReadOptions
from tiering.memory import MemoryStore

RESTORE = b"<RestoreRequest><Days>2</Days></RestoreRequest>"


@pytest.fixture
def s3() -> Harness:
    harness = Harness()
    harness("PUT", "/bucket")
    for name in ("GLACIER", "DEEP_ARCHIVE", "GLACIER_IR", "STANDARD_IA"):
        harness("PUT", f"/bucket/{name}", {"x-amz-storage-class": name}, b"data")
    return harness


@pytest.mark.parametrize("name", ["GLACIER", "DEEP_ARCHIVE"])
def test_archived_object_is_read_only_while_it_is_restored(s3: Harness, name: str) -> None:
    path = f"/bucket/{name}"
    head = s3("HEAD", path)
    assert (head.status, head.headers["x-amz-storage-class"]) == (200, name)
    reply = s3("GET", path)
    assert (reply.status, reply.code, reply.fields["StorageClass"]) == (403, "InvalidObjectState", name)
    assert s3("GET", path, {"range": "bytes=0-1"}).code == "InvalidObjectState"
    assert s3("GET", path, {"range": "bytes=0-1", "if-range": head.headers["etag"]}).code == "InvalidObjectState"
    copied = s3("PUT", "/bucket/copy", {"x-amz-copy-source": path})
    assert (copied.status, copied.code) == (403, "ObjectNotInActiveTierError")
    assert s3("POST", f"{path}?restore", {}, RESTORE).status == 202
    assert s3("POST", f"{path}?restore", {}, RESTORE).status == 200
    restored = s3("HEAD", path).headers
    assert restored["x-amz-restore"] == 'ongoing-request="false", expiry-date="Sat, 03 Jan 2026 00:00:00 GMT"'
    assert restored["x-amz-storage-class"] == name
    assert s3("GET", path).body == b"data"
    assert s3("PUT", "/bucket/copy", {"x-amz-copy-source": path}).status == 200
    assert "x-amz-storage-class" not in s3("HEAD", "/bucket/copy").headers
    s3.clock.advance(2 * 86_400)
    assert s3("GET", path).code == "InvalidObjectState"
    assert "x-amz-restore" not in s3("HEAD", path).headers


@pytest.mark.parametrize("name", ["GLACIER_IR", "STANDARD_IA"])
def test_other_classes_are_read_at_once(s3: Harness, name: str) -> None:
    assert s3("GET", f"/bucket/{name}").body == b"data"


def test_restore_ends_at_midnight_or_after_days_of_another_length(s3: Harness) -> None:
    s3.clock.advance(3600)
    s3("POST", "/bucket/GLACIER?restore", {}, RESTORE)
    assert 'expiry-date="Sun, 04 Jan 2026 00:00:00 GMT"' in s3("HEAD", "/bucket/GLACIER").headers["x-amz-restore"]
    s3.config = ApiConfig(day_ms=1000)
    s3("POST", "/bucket/GLACIER?restore", {}, RESTORE)
    assert 'expiry-date="Thu, 01 Jan 2026 01:00:02 GMT"' in s3("HEAD", "/bucket/GLACIER").headers["x-amz-restore"]


@pytest.mark.parametrize(
    ("key", "body", "code"),
    [
        ("GLACIER", b"<RestoreRequest><Days>1</Days><Tier>Fast</Tier></RestoreRequest>", "MalformedXML"),
        ("GLACIER", b"<RestoreRequest><Days>1</Days><Colour/></RestoreRequest>", "MalformedXML"),
        ("GLACIER", b"<RestoreRequest><Type>SELECT</Type></RestoreRequest>", "NotImplemented"),
        (
            "DEEP_ARCHIVE",
            b"<RestoreRequest><Days>1</Days><GlacierJobParameters><Tier>Expedited</Tier></GlacierJobParameters>"
            b"</RestoreRequest>",
            "InvalidArgument",
        ),
    ],
)
def test_bad_restores(s3: Harness, key: str, body: bytes, code: str) -> None:
    assert s3("POST", f"/bucket/{key}?restore", {}, body).code == code
    assert s3("GET", f"/bucket/{key}").code == "InvalidObjectState"


def test_refused_read_of_cold_bytes_does_not_recall_them(s3: Harness) -> None:
    s3("POST", "/bucket/GLACIER?recall", {"x-recall-tier": "cold"})
    store: Any = s3.store
    recalled = 0
    opened = store.open

    def slow(bucket: str, key: str, options: ReadOptions) -> Reading | Awaitable[Reading]:
        if options.head:
            return opened(bucket, key, options)  # type: ignore[no-any-return]

        async def recall() -> Reading:
            nonlocal recalled
            recalled += 1
            return opened(bucket, key, options)  # type: ignore[no-any-return]

        return recall()

    store.open = slow
    assert s3("GET", "/bucket/GLACIER").code == "InvalidObjectState"
    assert recalled == 0
    assert s3("GET", "/bucket/GLACIER_IR").body == b"data"
    assert recalled == 1


def test_each_write_is_recorded_with_its_event() -> None:
    s3 = Harness()
    s3("PUT", "/bucket")
    asyncio.run(s3.store.change_bucket("bucket", BucketChange({"notification": "{}"})))
    s3("PUT", "/bucket/k", {"x-amz-storage-class": "GLACIER_IR"}, b"data")
    s3("PUT", "/bucket/c", {"x-amz-copy-source": "/bucket/k"})
    s3("PUT", "/bucket/c", {"x-amz-copy-source": "/bucket/k", "x-amz-metadata-directive": "REPLACE"})
    upload_id = s3("POST", "/bucket/m?uploads").xml("InitiateMultipartUploadResult").required("UploadId")
    etag = s3("PUT", f"/bucket/m?partNumber=1&uploadId={upload_id}", {}, b"part").headers["etag"]
    part = f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
    body = f"<CompleteMultipartUpload>{part}</CompleteMultipartUpload>".encode()
    assert s3("POST", f"/bucket/m?uploadId={upload_id}", {}, body).status == 200
    s3("PUT", "/bucket/k?tagging", {}, b"<Tagging><TagSet/></Tagging>")
    s3("DELETE", "/bucket/k?tagging")
    s3("POST", "/bucket/k?restore", {}, RESTORE)
    s3("DELETE", "/bucket/k")
    store = s3.store
    assert isinstance(store, MemoryStore)
    assert [f"{event.event} {event.key}" for event in store.events] == [
        "ObjectCreated:Put k",
        "ObjectCreated:Copy c",
        "ObjectCreated:Copy c",
        "ObjectCreated:CompleteMultipartUpload m",
        "ObjectTagging:Put k",
        "ObjectTagging:Delete k",
        "ObjectRestore:Post k",
        "ObjectRemoved:Delete k",
    ]
    assert {event.principal for event in store.events} == {"owner-id"}
