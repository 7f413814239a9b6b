"""One byte that decays on the device, under a reader: of short and long objects, of objects in many extents and in parts, of
sealed ones, read whole and in ranges. Found before it is served, mended from the other copy, counted and told.

The scrub is off: what it finds is in test_scrub. Kind: tests. Spec: docs/SEMANTICS.md, "Bytes".
"""

from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.s3.rawclient import RawClient, Reply, Signer
from tests.support.gateway import Gateway
from tiering.index import Index
from tiering.layout import Extent

KIB: Final = 1 << 10
PART: Final = 5 << 20
REGION: Final = 512 * KIB
RESIDENT_S: Final = 0.25
"""What the gateway believes of mincore's answers, and a little."""
POOL: Final = {"capacity_bytes": "32MiB", "region_bytes": str(REGION), "space_wait_s": "10s"}
SETTINGS: Final = {
    **{f"pools.{pool}.{name}": text for pool in ("standard", "only", "kv") for name, text in POOL.items()},
    "pools.standard.demote_after_s": "0",
    "pools.only.buckets": "only-*",
    "pools.only.demote": "pressure",
    "scrub_every_s": "0",
}
SIZES: Final = {"short": 2000, "long": 300 * KIB, "spread": 3 * REGION, "parts": PART + 1000, "sealed": 200 * KIB}
RANGES: Final = ("", "bytes=500-1499")
DAMAGED_AT: Final = 1000
"""In every range above."""


@dataclass(frozen=True)
class Rotting:
    """A gateway, and hands on what lies under it."""

    gateway: Gateway
    s3: Any

    def store(self, bucket: str, key: str) -> bytes:
        body = os.urandom(SIZES[key])
        if key == "parts":
            upload = self.s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
            told = {"Bucket": bucket, "Key": key, "UploadId": upload}
            parts = [
                {"PartNumber": number, "ETag": self.s3.upload_part(**told, PartNumber=number, Body=part)["ETag"]}
                for number, part in enumerate((body[:PART], body[PART:]), 1)
            ]
            self.s3.complete_multipart_upload(**told, MultipartUpload={"Parts": parts})
        elif key == "sealed":
            self.s3.put_object(Bucket=bucket, Key=key, Body=body, ServerSideEncryption="AES256")
        else:
            self.s3.put_object(Bucket=bucket, Key=key, Body=body)
        return body

    def get(self, bucket: str, key: str, part: str = "") -> Reply | None:
        """The reply; None when the connection was cut before its end."""
        with RawClient(self.gateway.port, Signer(self.gateway.access_key, self.gateway.secret_key)) as client:
            try:
                return client.request("GET", f"/{bucket}/{key}", headers={"range": part} if part else {})
            except (OSError, EOFError, AssertionError):
                return None

    def move(self, bucket: str, key: str, tier: str) -> None:
        with RawClient(self.gateway.port, Signer(self.gateway.access_key, self.gateway.secret_key)) as client:
            said = {"x-recall-tier": tier}
            reply = client.request("POST", f"/{bucket}/{key}", query=(("recall", ""),), headers=said, length=True)
            assert reply.status == 200, reply

    def extents(self, pool: str, size: int) -> tuple[Extent, ...]:
        """Where the only hot object of about that size lies: a sealed one is a little longer."""
        index = Index(self.gateway.data_dir / "pools" / pool / "index", synced=False, readonly=True)
        try:
            with index.view() as view:
                records = [view.object(key) for key, _ in view.rows("objects")]
        finally:
            index.close()
        (found,) = [each for each in records if each is not None and each.extents and size <= each.size <= size + 100]
        return found.extents

    def decay(self, pool: str, key: str, at: int = DAMAGED_AT) -> None:
        """Changes the byte `at` of an object on the device."""
        extents = list(self.extents(pool, SIZES[key]))
        while at >= extents[0].length:
            at -= extents.pop(0).length
        place = extents[0].region * REGION + extents[0].offset + at
        fd = os.open(self.gateway.data_dir / "pools" / pool / "flash", os.O_RDWR)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # else its neighbours would come into memory
            byte = os.pread(fd, 1, place)
            os.pwrite(fd, bytes((byte[0] ^ 0x10,)), place)
        finally:
            os.close(fd)

    def forget(self, pool: str) -> None:
        """Takes the pool's bytes out of memory: they are read from the device next."""
        fd = os.open(self.gateway.data_dir / "pools" / pool / "flash", os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
        time.sleep(RESIDENT_S)

    def counted(self, side: str, fate: str) -> float:
        with urllib.request.urlopen(f"{self.gateway.endpoint}/recall/metrics", timeout=10) as reply:
            text = reply.read().decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "recall_scrub_damage_total"
            and (sample.labels["side"], sample.labels["damage"]) == (side, fate)
        )


@pytest.fixture(scope="module")
def rotting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotting]:
    with Gateway(data_dir=tmp_path_factory.mktemp("rotting") / "data", settings=SETTINGS) as gateway:
        s3 = gateway.boto3_client()
        for bucket in ("docs", "only-b", "kv-b"):
            s3.create_bucket(Bucket=bucket)
        yield Rotting(gateway, s3)
        s3.close()


def of(body: bytes, part: str) -> bytes:
    return body[500:1500] if part else body


@pytest.mark.parametrize("part", RANGES)
def test_decay_on_flash_is_mended_from_the_cold_copy(rotting: Rotting, part: str) -> None:
    before = rotting.counted("flash", "repaired")
    bodies = {key: rotting.store("docs", key) for key in SIZES}
    for key in bodies:
        rotting.move("docs", key, "both")
        rotting.decay("standard", key)
    rotting.forget("standard")
    for key, body in bodies.items():
        reply = rotting.get("docs", key, part)
        assert reply is not None and reply.status in (200, 206), key
        assert reply.body == of(body, part), key
        again = rotting.get("docs", key)
        assert again is not None and again.body == body, key
    assert rotting.counted("flash", "repaired") == before + len(bodies)
    checked = rotting.gateway.command("check")
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("part", RANGES)
def test_decay_on_flash_without_another_copy_is_never_served(rotting: Rotting, part: str) -> None:
    before = rotting.counted("flash", "unrepairable")
    for key in SIZES:
        rotting.store("only-b", key)
        rotting.decay("only", key)
    rotting.forget("only")
    for key in SIZES:
        for _ in range(2):
            reply = rotting.get("only-b", key, part)
            assert reply is not None and (reply.status, reply.body) == (500, b""), key
        assert rotting.s3.head_object(Bucket="only-b", Key=key)["ContentLength"] == SIZES[key]
        rotting.decay("only", key)  # back again: nothing was thrown away
    assert rotting.counted("flash", "unrepairable") == before + 2 * len(SIZES)
    assert "fail their checksum" in rotting.gateway.log


def test_range_beside_the_decay_is_served(rotting: Rotting) -> None:
    """Of an object in several extents: what is compared is what is read."""
    body = rotting.store("only-b", "spread")
    rotting.decay("only", "spread", len(body) - 10)
    rotting.forget("only")
    reply = rotting.get("only-b", "spread", "bytes=500-1499")
    assert reply is not None and reply.body == body[500:1500]
    reply = rotting.get("only-b", "spread")
    assert reply is not None and reply.status == 500


@pytest.mark.parametrize("part", RANGES)
def test_decay_in_a_relaxed_pool_is_a_miss(rotting: Rotting, part: str) -> None:
    before = rotting.counted("flash", "dropped")
    for key in SIZES:
        rotting.store("kv-b", key)
        rotting.decay("kv", key)
    rotting.forget("kv")
    for key in SIZES:
        reply = rotting.get("kv-b", key, part)
        assert reply is not None and reply.status == 404, key
    assert rotting.counted("flash", "dropped") == before + len(SIZES)


@pytest.mark.parametrize("part", RANGES)
def test_decay_in_the_backing_store_is_never_served(rotting: Rotting, part: str) -> None:
    """Random bytes are stored as they are, so the byte of the object is one of the file's, behind its head."""
    bodies = {key: rotting.store("docs", key) for key in SIZES}
    for key, body in bodies.items():
        rotting.move("docs", key, "cold")
        before = rotting.counted("cold", "unrepairable")
        path = rotting.gateway.data_dir / "backing" / "docs" / f"{key}.obj"
        whole = path.read_bytes()
        at = whole.index(body[:64]) + DAMAGED_AT if key != "sealed" else len(whole) // 2
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 0x10,)) + whole[at + 1 :])
        reply = rotting.get("docs", key, part)
        if key == "sealed" and part and reply is not None and reply.status == 206:
            assert reply.body == of(body, part), "another package than the damaged one"
        else:
            assert reply is None or (reply.status, reply.body) == (500, b""), key
            assert rotting.counted("cold", "unrepairable") > before, key
        path.write_bytes(whole)
        reply = rotting.get("docs", key, part)
        assert reply is not None and reply.body == of(body, part), key
    assert "is missing or damaged" in rotting.gateway.log
