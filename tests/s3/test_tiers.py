"""The tiers as an S3 client sees them: fill, demote, evict, recall, pin, expire, lose the bucket, restart.

Everything goes through S3; the bucket behind is looked into only where its content is the promise. With
RECALL_TEST_S3_ENDPOINT set, that bucket is on the real server it names, and the tests are marked `rgw`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import os
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import boto3.s3.transfer
import pytest
import zstandard
from awscrt.checksums import crc64nvme
from botocore.exceptions import ClientError
from minio.error import S3Error
from prometheus_client.parser import text_string_to_metric_families

from tests.s3.proxy import Proxy
from tests.s3.rawclient import RawClient, Reply, Signer
from tests.support.gateway import Gateway, wait_for
from tests.support.s3server import S3Server

pytestmark = [pytest.mark.rgw] if os.environ.get("RECALL_TEST_S3_ENDPOINT") else []

KIB: Final = 1 << 10
MIB: Final = 1 << 20
CAPACITY: Final = 16 * MIB
PREFIX: Final = "cold/tier"
SETTINGS: Final = {
    "pools.standard.capacity_bytes": str(CAPACITY),
    "pools.standard.region_bytes": "256KiB",
    "pools.standard.demote_after_s": "0",
    "pools.kv.capacity_bytes": str(CAPACITY),
    "pools.kv.region_bytes": "256KiB",
    "pools.safe.capacity_bytes": str(CAPACITY),
    "pools.safe.region_bytes": "256KiB",
    "pools.safe.durability": "backing",
    "pools.safe.buckets": "safe-*",
}
SEED: Final = 20_261_124
PATIENCE_S: Final = 120.0
"""For what many writes through a slow bucket must bring about."""
_numbers = itertools.count(1)


def content(size: int, name: object = "") -> bytes:
    return random.Random(f"{SEED} {name} {size}").randbytes(size)


@dataclass(frozen=True)
class Tiered:
    """A gateway with small pools, the bucket behind it and clients of both."""

    gateway: Gateway
    server: S3Server
    cold_bucket: str
    s3: Any

    def signer(self) -> Signer:
        return Signer(self.gateway.access_key, self.gateway.secret_key)

    def raw(self) -> RawClient:
        return RawClient(self.gateway.port, self.signer())

    def new_bucket(self, pool: str = "tier") -> str:
        name = f"{pool}-{next(_numbers)}"
        self.s3.create_bucket(Bucket=name)
        return name

    def headers(self, bucket: str, key: str) -> dict[str, str]:
        found: dict[str, str] = self.s3.head_object(Bucket=bucket, Key=key)["ResponseMetadata"]["HTTPHeaders"]
        return found

    def tier(self, bucket: str, key: str) -> str:
        return self.headers(bucket, key)["x-recall-tier"]

    def change(self, bucket: str, key: str, **headers: str) -> Reply:
        """`POST ?recall` with `x-recall-<name>` headers."""
        said = {f"x-recall-{name}": value for name, value in headers.items()}
        with self.raw() as client:
            return client.request("POST", f"/{bucket}/{key}", query=(("recall", ""),), headers=said, length=True)

    def move(self, bucket: str, key: str, tier: str) -> None:
        reply = self.change(bucket, key, tier=tier)
        assert reply.status == 200, reply

    def get(self, bucket: str, key: str, **how: Any) -> bytes:
        body: bytes = self.s3.get_object(Bucket=bucket, Key=key, **how)["Body"].read()
        return body

    def cold_names(self, under: str = "") -> set[str]:
        """Names in the bucket behind, without the gateway's prefix."""
        found = self.server.names(self.cold_bucket, f"{PREFIX}/{under}")
        return {name.removeprefix(PREFIX + "/") for name in found}

    def cold_bytes(self, name: str) -> bytes | None:
        """The object behind as it lies there; None if there is none."""
        try:
            reply = self.server.client().get_object(self.cold_bucket, f"{PREFIX}/{name}")
        except S3Error as error:
            if error.code != "NoSuchKey":
                raise
            return None
        try:
            return reply.read()
        finally:
            reply.close()
            reply.release_conn()

    def metric(self, name: str, **labels: str) -> float:
        with urllib.request.urlopen(f"{self.gateway.endpoint}/recall/metrics", timeout=10) as reply:
            text = reply.read().decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and all(sample.labels.get(label) == value for label, value in labels.items())
        )

    def fill(self, times: float = 2.0, bucket: str | None = None) -> str:
        """Writes that many times the capacity, so that everything not held is evicted; returns the bucket."""
        bucket = bucket or self.new_bucket()
        for number in range(int(times * CAPACITY / (512 * KIB))):
            self.put(bucket, f"fill/{number:03d}", content(512 * KIB, number))
        return bucket

    def put(self, bucket: str, key: str, data: bytes, **how: Any) -> Any:
        """Puts, and again while the gateway says 503: writing faster than the bucket takes is answered so."""

        def attempt() -> Any:
            try:
                return self.s3.put_object(Bucket=bucket, Key=key, Body=data, **how)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 503:
                    raise
                return None

        return wait_for(attempt, f"room for {key}")

    def wait_cold(self, bucket: str, *keys: str) -> None:
        """Until pressure has evicted the keys; more is written meanwhile.

        Each write on a new connection, so through either worker: the region one has open is evicted half a round later.
        """
        filler = self.new_bucket()
        numbers = itertools.count()

        def evicted() -> bool:
            if all(self.tier(bucket, key) == "cold" for key in keys):
                return True
            number = next(numbers)
            with self.raw() as client:
                reply = client.request("PUT", f"/{filler}/{number}", body=content(512 * KIB, ("more", number)))
                assert reply.status in (200, 503), reply
            return False

        wait_for(evicted, f"{keys} evicted", PATIENCE_S)


def check(gateway: Gateway, backing: str) -> None:
    """`recall check` finds nothing wrong."""
    done = gateway.command("check", "--backing", backing)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def tiered(backing_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiered]:
    """Two workers over 16 MiB a pool; when all tests are done, it stops and the audit must be clean."""
    cold_bucket = backing_server.new_bucket()
    url = backing_server.url(cold_bucket, PREFIX)
    data_dir = tmp_path_factory.mktemp("tiers") / "data"
    with Gateway(data_dir=data_dir, workers=2, backing=url, env=backing_server.env(), settings=SETTINGS) as gateway:
        s3 = gateway.boto3_client(max_pool_connections=32)
        yield Tiered(gateway, backing_server, cold_bucket, s3)
        s3.close()
        gateway.stop()
        check(gateway, url)


@pytest.fixture
def bucket(tiered: Tiered) -> str:
    return tiered.new_bucket()


def status_of(error: pytest.ExceptionInfo[ClientError]) -> int:
    return int(error.value.response["ResponseMetadata"]["HTTPStatusCode"])


# --- demotion, eviction, recall -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["tier", "kv", "safe"])
def test_writing_past_the_capacity_loses_nothing(tiered: Tiered, pool: str) -> None:
    """2.5 times the capacity goes in; what is cold comes back right and hot, with the same ETag and date."""
    bucket = tiered.new_bucket(pool)
    sizes = [1, 4096, 70_000, 300 * KIB, 1 * MIB, 3 * MIB]
    blocks = {f"block-{number:03d}": content(sizes[number % 6], number) for number in range(55)}
    assert sum(map(len, blocks.values())) > 2.4 * CAPACITY
    written = {key: tiered.put(bucket, key, data)["ETag"] for key, data in blocks.items()}
    heads = {key: tiered.headers(bucket, key) for key in blocks}
    cold = [key for key in blocks if heads[key]["x-recall-tier"] == "cold"]
    assert cold, "nothing was evicted"
    for key, data in blocks.items():
        got = tiered.s3.get_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        assert got["Body"].read() == data
        assert got["ETag"] == written[key] == heads[key]["etag"]
        assert got["ResponseMetadata"]["HTTPHeaders"]["last-modified"] == heads[key]["last-modified"]
    listed = {row["Key"]: (row["Size"], row["ETag"]) for row in tiered.s3.list_objects_v2(Bucket=bucket)["Contents"]}
    assert listed == {key: (len(data), written[key]) for key, data in blocks.items()}


def test_cold_then_hot(tiered: Tiered, bucket: str) -> None:
    data = content(2 * MIB)
    tiered.put(bucket, "k", data)
    assert tiered.tier(bucket, "k") == "hot"
    tiered.move(bucket, "k", "cold")
    cold = tiered.headers(bucket, "k")
    assert (cold["x-recall-tier"], cold["x-amz-storage-class"]) == ("cold", "GLACIER_IR")
    first = tiered.s3.get_object(Bucket=bucket, Key="k")
    assert first["ResponseMetadata"]["HTTPHeaders"]["x-recall-tier"] == "cold"
    assert first["Body"].read() == data
    wait_for(lambda: tiered.tier(bucket, "k") == "hot", "recalled")
    again = tiered.s3.get_object(Bucket=bucket, Key="k")
    assert again["ResponseMetadata"]["HTTPHeaders"]["x-recall-tier"] == "hot"
    assert again["Body"].read() == data


def test_eviction_by_pressure_then_recall_by_reading(tiered: Tiered, bucket: str) -> None:
    data = content(700 * KIB)
    tiered.put(bucket, "k", data)
    tiered.wait_cold(bucket, "k")
    assert tiered.get(bucket, "k") == data
    wait_for(lambda: tiered.tier(bucket, "k") == "hot", "recalled")


def multipart(tiered: Tiered, bucket: str, key: str, **begin: Any) -> bytes:
    """An object of two parts; its bytes."""
    pieces = [content(5 * MIB, key), content(100 * KIB, key)]
    upload = tiered.s3.create_multipart_upload(Bucket=bucket, Key=key, **begin)["UploadId"]
    how = {"ChecksumAlgorithm": begin["ChecksumAlgorithm"]} if begin else {}
    parts = []
    for number, piece in enumerate(pieces, start=1):
        part = tiered.s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=piece, **how)
        kept = {name: part[name] for name in part if name.startswith("Checksum") and name != "ChecksumType"}
        parts.append({"PartNumber": number, "ETag": part["ETag"], **kept})
    tiered.s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
    return b"".join(pieces)


IDENTITY: Final = (
    "etag",
    "last-modified",
    "content-length",
    "content-type",
    "cache-control",
    "x-amz-meta-who",
    "x-amz-tagging-count",
    "x-amz-checksum-type",
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
    "x-amz-mp-parts-count",
)


def identity(tiered: Tiered, bucket: str, key: str) -> dict[str, Any]:
    """Everything of an object that no tier may change."""
    head = tiered.s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")["ResponseMetadata"]["HTTPHeaders"]
    part = tiered.s3.head_object(Bucket=bucket, Key=key, PartNumber=1)["ResponseMetadata"]["HTTPHeaders"]
    wanted = ["ETag", "Checksum", "ObjectParts", "ObjectSize"]
    attributes = tiered.s3.get_object_attributes(Bucket=bucket, Key=key, ObjectAttributes=wanted)
    return {
        **{name: head.get(name) for name in IDENTITY},
        "part": {name: part.get(name) for name in IDENTITY},
        "attributes": {name: attributes.get(name) for name in (*wanted, "LastModified")},
        "tags": tiered.s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"],
    }


KINDS: Final[dict[str, Callable[[Tiered, str], bytes]]] = {
    "plain": lambda t, b: stored(t, b, content(1 * MIB)),
    "empty": lambda t, b: stored(t, b, b""),
    "sha256": lambda t, b: stored(t, b, content(100 * KIB), ChecksumAlgorithm="SHA256"),
    "crc32c": lambda t, b: stored(t, b, content(100 * KIB), ChecksumAlgorithm="CRC32C"),
    "multipart": lambda t, b: multipart(t, b, "k"),
    "multipart composite": lambda t, b: multipart(t, b, "k", ChecksumAlgorithm="SHA256"),
    "multipart full": lambda t, b: multipart(t, b, "k", ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT"),
}


def stored(tiered: Tiered, bucket: str, data: bytes, **how: Any) -> bytes:
    tiered.put(
        bucket,
        "k",
        data,
        ContentType="text/x",
        CacheControl="no-cache",
        Metadata={"who": "me"},
        Tagging="a=1&b=2",
        **how,
    )
    return data


@pytest.mark.parametrize("kind", KINDS)
def test_no_tier_changes_what_an_object_is(tiered: Tiered, bucket: str, kind: str) -> None:
    data = KINDS[kind](tiered, bucket)
    before = identity(tiered, bucket, "k")
    assert before["etag"].endswith('-2"') == kind.startswith("multipart")
    for tier in ("both", "cold"):
        tiered.move(bucket, "k", tier)
        assert identity(tiered, bucket, "k") == before
    assert tiered.tier(bucket, "k") == "cold"
    got = tiered.s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert got["Body"].read() == data, "the client verifies the checksum it is given"
    assert identity(tiered, bucket, "k") == before
    if len(data) <= CAPACITY // 4:
        tiered.move(bucket, "k", "hot")
        assert tiered.tier(bucket, "k") == "hot"
    assert identity(tiered, bucket, "k") == before
    etag, modified = before["etag"], datetime.strptime(before["last-modified"], "%a, %d %b %Y %H:%M:%S GMT")
    assert tiered.get(bucket, "k", IfMatch=etag, IfUnmodifiedSince=modified.replace(tzinfo=UTC)) == data


def test_identity_holds_at_every_moment_of_a_move(tiered: Tiered, bucket: str) -> None:
    """Readers look on while the object goes down and comes back, ten times."""
    data = content(1 * MIB)
    etag = tiered.put(bucket, "k", data)["ETag"]
    modified = tiered.headers(bucket, "k")["last-modified"]
    done = threading.Event()
    failures: list[object] = []

    def watch() -> None:
        with tiered.raw() as client:
            while not done.is_set():
                reply = client.request("GET", f"/{bucket}/k", headers={"if-match": etag, "range": "bytes=0-8388607"})
                seen = (reply.status, reply.headers.get("etag"), reply.headers.get("last-modified"))
                if seen != (206, etag, modified) or reply.body != data:
                    failures.append(seen)
                    return

    threads = [threading.Thread(target=watch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        tiered.move(bucket, "k", "cold")
        tiered.move(bucket, "k", "hot")
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("size", [0, 5, 100_000, 5 * MIB], ids=str)
@pytest.mark.parametrize("compressible", [False, True], ids=["random", "text"])
def test_the_object_behind_is_a_zstandard_stream(tiered: Tiered, bucket: str, size: int, compressible: bool) -> None:
    """`mc cat bucket/key | zstd -d` gives the exact bytes."""
    data = (b"the same again and again, " * (size // 26 + 1))[:size] if compressible else content(size)
    tiered.put(bucket, "dir/readable key@1", data)
    tiered.move(bucket, "dir/readable key@1", "cold")
    cold = tiered.cold_bytes(f"{bucket}/dir/readable key@1")
    assert cold is not None
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(cold), read_across_frames=True)
    assert reader.read() == data
    if compressible and size >= 100_000:
        assert len(cold) < size // 10
    assert tiered.get(bucket, "dir/readable key@1") == data


@pytest.mark.parametrize("key", ["a//b", "/lead", "trail/", ".", "a/../b", "日本/ü+%41", "m@1@0@ff:=&", "x" * 1024])
def test_any_key_goes_down_and_comes_back(tiered: Tiered, bucket: str, key: str) -> None:
    tiered.put(bucket, key, key.encode())
    tiered.put(bucket, key + "!" if len(key) < 1000 else "other", b"another")
    tiered.move(bucket, key, "cold")
    assert len(tiered.cold_names(f"{bucket}/")) >= 1
    assert tiered.get(bucket, key) == key.encode()


def test_durability_backing_is_in_the_bucket_when_acknowledged(tiered: Tiered) -> None:
    bucket = tiered.new_bucket("safe")
    for size in (0, 1000, 2 * MIB):
        tiered.put(bucket, f"k-{size}", content(size))
        cold = tiered.cold_bytes(f"{bucket}/k-{size}")
        assert cold is not None
        reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(cold), read_across_frames=True)
        assert reader.read() == content(size)


def test_ranges_of_a_cold_object(tiered: Tiered, bucket: str) -> None:
    data = content(3 * MIB)
    tiered.put(bucket, "k", data)
    etag = tiered.headers(bucket, "k")["etag"]
    cuts = [(0, 1), (1_000_000, 1_000_010), (len(data) - 1, len(data)), (0, len(data)), (65_535, 2 * MIB + 7)]
    for start, stop in cuts:
        tiered.move(bucket, "k", "cold")
        got = tiered.s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={start}-{stop - 1}", IfMatch=etag)
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert got["ContentRange"] == f"bytes {start}-{stop - 1}/{len(data)}"
        assert got["Body"].read() == data[start:stop]
    tiered.move(bucket, "k", "cold")
    assert tiered.get(bucket, "k", Range="bytes=-7") == data[-7:]
    tiered.move(bucket, "k", "cold")
    with pytest.raises(ClientError) as beyond:
        tiered.get(bucket, "k", Range=f"bytes={len(data)}-")
    assert status_of(beyond) == 416
    with pytest.raises(ClientError) as changed:
        tiered.get(bucket, "k", IfMatch='"other"')
    assert status_of(changed) == 412
    assert tiered.tier(bucket, "k") == "cold", "a refused read recalls nothing"


def test_copy_and_parts_of_a_cold_object(tiered: Tiered, bucket: str) -> None:
    data = content(2 * MIB)
    etag = tiered.put(bucket, "k", data)["ETag"]
    tiered.move(bucket, "k", "cold")
    copied = tiered.s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "k"})
    assert copied["CopyObjectResult"]["ETag"] == etag
    tiered.move(bucket, "k", "cold")
    upload = tiered.s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    part = tiered.s3.upload_part_copy(
        Bucket=bucket, Key="parts", UploadId=upload, PartNumber=1, CopySource={"Bucket": bucket, "Key": "k"}
    )["CopyPartResult"]
    parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
    tiered.s3.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload={"Parts": parts})
    for key in ("copy", "parts"):
        tiered.move(bucket, key, "cold")
        assert tiered.get(bucket, key) == data


def test_one_fetch_for_sixteen_readers(tiered: Tiered, bucket: str) -> None:
    """Over both workers, each reader on a connection of its own."""
    data = content(3 * MIB)
    tiered.put(bucket, "k", data)
    for _ in range(3):
        tiered.move(bucket, "k", "cold")
        before = tiered.metric("recall_recalls_total"), tiered.metric("recall_backing_calls_total", call="get")
        clients = [tiered.raw() for _ in range(16)]
        gate = threading.Barrier(16)
        bodies: list[bytes] = []

        def read(client: RawClient, gate: threading.Barrier = gate, bodies: list[bytes] = bodies) -> None:
            client.request("HEAD", f"/{bucket}/k")  # connected and accepted
            gate.wait()
            bodies.append(client.request("GET", f"/{bucket}/k").body)

        threads = [threading.Thread(target=read, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for client in clients:
            client.close()
        assert [body == data for body in bodies] == [True] * 16
        wait_for(lambda: tiered.tier(bucket, "k") == "hot", "recalled")
        after = tiered.metric("recall_recalls_total"), tiered.metric("recall_backing_calls_total", call="get")
        assert (after[0] - before[0], after[1] - before[1]) == (1, 1)


def test_deleting_a_demoted_object_deletes_its_copy(tiered: Tiered, bucket: str) -> None:
    for tier in ("both", "cold"):
        tiered.put(bucket, tier, content(100 * KIB, tier))
        tiered.move(bucket, tier, tier)
        assert f"{bucket}/{tier}" in tiered.cold_names(f"{bucket}/")
    tiered.s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "both"}, {"Key": "cold"}]})
    wait_for(lambda: tiered.cold_names(f"{bucket}/") == set(), "copies deleted")
    with pytest.raises(ClientError) as gone:
        tiered.get(bucket, "cold")
    assert status_of(gone) == 404
    tiered.s3.delete_bucket(Bucket=bucket)


def test_overwriting_a_demoted_object_renews_its_copy(tiered: Tiered, bucket: str) -> None:
    for turn, tier in enumerate(("both", "cold", "both", "cold")):
        data = content(100 * KIB, turn)
        tiered.put(bucket, "k", data)
        assert tiered.get(bucket, "k") == data
        tiered.move(bucket, "k", tier)
        cold = tiered.cold_bytes(f"{bucket}/k")
        assert cold is not None
        reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(cold), read_across_frames=True)
        assert reader.read() == data
    assert tiered.get(bucket, "k") == content(100 * KIB, 3)


def test_overwriting_while_it_is_demoted_keeps_the_last(tiered: Tiered, bucket: str) -> None:
    """Writers against demotion of the same key: the copy behind is never an older object than the index says."""
    for turn in range(10):
        tiered.put(bucket, "k", content(200 * KIB, turn))
        mover = threading.Thread(target=tiered.change, args=(bucket, "k"), kwargs={"tier": "cold"})
        mover.start()
        last = content(200 * KIB, ("last", turn))
        tiered.put(bucket, "k", last)
        mover.join()
        tiered.move(bucket, "k", "cold")
        assert tiered.get(bucket, "k") == last


# --- objects larger than the tier ---------------------------------------------------------------------------------------

LARGE: Final = 2 * CAPACITY + 12_345


def check_large(tiered: Tiered, bucket: str, key: str, data: bytes) -> None:
    rng = random.Random(SEED)
    for _ in range(8):
        start = rng.randrange(len(data))
        stop = min(len(data), start + rng.choice((1, 1000, 5 * MIB)))
        assert tiered.get(bucket, key, Range=f"bytes={start}-{stop - 1}") == data[start:stop]
    assert hashlib.sha256(tiered.get(bucket, key)).digest() == hashlib.sha256(data).digest()


def test_single_put_larger_than_the_tier(tiered: Tiered, bucket: str) -> None:
    data = content(LARGE)
    put = tiered.put(bucket, "large", data, ChecksumAlgorithm="CRC64NVME")
    assert put["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    assert put["ChecksumCRC64NVME"] == base64.b64encode(crc64nvme(data).to_bytes(8, "big")).decode()
    check_large(tiered, bucket, "large", data)
    tiered.put(bucket, "large", b"small now")
    assert tiered.get(bucket, "large") == b"small now"
    tiered.s3.delete_object(Bucket=bucket, Key="large")
    wait_for(lambda: not tiered.cold_names(".recall/pieces/"), "its pieces are deleted")


def test_multipart_larger_than_the_tier_by_aws_cli(tiered: Tiered, bucket: str, tmp_path: Path) -> None:
    data = content(LARGE, "cli")
    (tmp_path / "large").write_bytes(data)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL": tiered.gateway.endpoint,
        "AWS_ACCESS_KEY_ID": tiered.gateway.access_key,
        "AWS_SECRET_ACCESS_KEY": tiered.gateway.secret_key,
        "AWS_REGION": "us-east-1",
    }
    aws = str(Path(sys.executable).with_name("aws"))
    for arguments in (("large", f"s3://{bucket}/large"), (f"s3://{bucket}/large", "back")):
        command = [aws, "s3", "cp", "--no-progress", *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == data
    assert tiered.headers(bucket, "large")["etag"].endswith('-5"')
    check_large(tiered, bucket, "large", data)
    assert tiered.get(bucket, "large", PartNumber=5) == data[4 * 8 * MIB :]
    tiered.s3.delete_object(Bucket=bucket, Key="large")
    wait_for(lambda: not tiered.cold_names(".recall/pieces/"), "its pieces are deleted")


def test_small_objects_stay_readable_beside_a_large_one(tiered: Tiered, bucket: str) -> None:
    small = {f"small/{number}": content(50 * KIB, number) for number in range(20)}
    for key, data in small.items():
        tiered.put(bucket, key, data)
    config = boto3.s3.transfer.TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=5 * MIB)
    patient = tiered.gateway.boto3_client(retries={"total_max_attempts": 5})  # writing faster than the bucket takes
    patient.upload_fileobj(io.BytesIO(content(LARGE)), bucket, "large", Config=config)
    patient.close()
    for key, data in small.items():
        assert tiered.get(bucket, key) == data
    tiered.s3.delete_object(Bucket=bucket, Key="large")


# --- pins ---------------------------------------------------------------------------------------------------------------

PINS: Final[dict[str, Callable[[Tiered, str, str, bytes], object]]] = {
    "header": lambda t, b, k, data: pin_by_header(t, b, k, data),
    "metadata": lambda t, b, k, data: t.put(b, k, data, Metadata={"recall-pin": "true"}),
    "tag": lambda t, b, k, data: t.put(b, k, data, Tagging="recall%3Apin=true"),
    "later tag": lambda t, b, k, data: (
        t.put(b, k, data),
        t.s3.put_object_tagging(Bucket=b, Key=k, Tagging={"TagSet": [{"Key": "recall:pin", "Value": "true"}]}),
    ),
    "POST ?recall": lambda t, b, k, data: (t.put(b, k, data), t.change(b, k, pin="true")),
    "multipart": lambda t, b, k, data: pin_by_upload(t, b, k, data),
    "copy": lambda t, b, k, data: pin_by_copy(t, b, k, data),
    "lease": lambda t, b, k, data: t.put(b, k, data, Metadata={"recall-pin": "900"}),
    "restore": lambda t, b, k, data: (
        t.put(b, k, data),
        t.s3.restore_object(Bucket=b, Key=k, RestoreRequest={"Days": 1}),
    ),
}


def pin_by_header(tiered: Tiered, bucket: str, key: str, data: bytes) -> None:
    with tiered.raw() as client:
        reply = client.request("PUT", f"/{bucket}/{key}", headers={"x-recall-pin": "true"}, body=data)
        assert (reply.status, reply.headers["x-recall-pinned-until"]) == (200, "forever")


def pin_by_upload(tiered: Tiered, bucket: str, key: str, data: bytes) -> None:
    upload = tiered.s3.create_multipart_upload(Bucket=bucket, Key=key, Metadata={"recall-pin": "true"})["UploadId"]
    part = tiered.s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=data)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    tiered.s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload=parts)


def pin_by_copy(tiered: Tiered, bucket: str, key: str, data: bytes) -> None:
    tiered.put(bucket, "source", data)
    headers = {"x-amz-copy-source": f"{bucket}/source", "x-recall-pin": "true"}
    with tiered.raw() as client:
        assert client.request("PUT", f"/{bucket}/{key}", headers=headers).status == 200


def test_pins_of_every_kind_stay_hot_while_the_rest_goes(tiered: Tiered, bucket: str) -> None:
    data = {way: content(200 * KIB, way) for way in PINS}
    for way, pin in PINS.items():
        pin(tiered, bucket, way.replace(" ?", "-"), data[way])
    tiered.put(bucket, "unpinned", content(200 * KIB))
    keys = {way: way.replace(" ?", "-") for way in PINS}
    for way, key in keys.items():
        held = tiered.headers(bucket, key)
        assert ("x-amz-restore" if way == "restore" else "x-recall-pinned-until") in held, way
    tiered.fill(2.5)
    tiered.wait_cold(bucket, "unpinned")
    assert {way: tiered.tier(bucket, key) for way, key in keys.items()} == dict.fromkeys(PINS, "hot")
    for way, key in keys.items():
        assert tiered.get(bucket, key) == data[way]
    for key in keys.values():
        assert tiered.change(bucket, key, pin="false").status == 200
        if key != "restore":
            assert "x-recall-pinned-until" not in tiered.headers(bucket, key)
    tiered.wait_cold(bucket, *(key for key in keys.values() if key != "restore"))
    tiered.s3.delete_object(Bucket=bucket, Key="restore")


def test_pin_taken_away_with_its_tag(tiered: Tiered, bucket: str) -> None:
    tiered.put(bucket, "k", content(10 * KIB), Tagging="recall%3Apin=true&other=1")
    assert tiered.headers(bucket, "k")["x-recall-pinned-until"] == "forever"
    tiered.s3.delete_object_tagging(Bucket=bucket, Key="k")
    assert "x-recall-pinned-until" not in tiered.headers(bucket, "k")


def test_pin_lease_lapses(tiered: Tiered, bucket: str) -> None:
    with tiered.raw() as client:
        client.request("PUT", f"/{bucket}/k", headers={"x-recall-pin": "1"}, body=content(200 * KIB))
    until = moment(tiered.headers(bucket, "k")["x-recall-pinned-until"])
    pinned = tiered.metric("recall_pool_pinned_bytes", pool="standard")
    assert pinned >= 200 * KIB
    wait_for(lambda: "x-recall-pinned-until" not in tiered.headers(bucket, "k"), "lapsed")
    assert time.time() >= until
    wait_for(lambda: tiered.metric("recall_pool_pinned_bytes", pool="standard") <= pinned - 200 * KIB, "not counted")
    tiered.wait_cold(bucket, "k")


def test_pin_over_the_limit_is_507_and_stores_nothing(tiered: Tiered) -> None:
    """Half of the pool may be pinned: 8 MiB."""
    bucket = tiered.new_bucket("kv")
    with tiered.raw() as client:
        pin = {"x-recall-pin": "true"}
        for number in range(2):
            assert client.request("PUT", f"/{bucket}/{number}", headers=pin, body=content(3 * MIB)).status == 200
        over = client.request("PUT", f"/{bucket}/over", headers=pin, body=content(3 * MIB))
        assert (over.status, over.code) == (507, "PinLimitExceeded")
        assert client.request("HEAD", f"/{bucket}/over").status == 404
        assert client.request("PUT", f"/{bucket}/1", headers=pin, body=content(3 * MIB, "new")).status == 200
        assert client.request("PUT", f"/{bucket}/plain", body=content(3 * MIB)).status == 200
        later = tiered.change(bucket, "plain", pin="true")
        assert (later.status, later.code) == (507, "PinLimitExceeded")
        assert "x-recall-pinned-until" not in client.request("HEAD", f"/{bucket}/plain").headers
        assert tiered.change(bucket, "0", pin="false").status == 200
        assert tiered.change(bucket, "plain", pin="true").status == 200
        for key in ("0", "1", "plain"):
            assert client.request("DELETE", f"/{bucket}/{key}").status == 204
    assert tiered.metric("recall_pool_pinned_bytes", pool="kv") == 0


@pytest.mark.parametrize("value", ["yes", "-1", "", "1e3", "99999999999"])
def test_bad_pin_is_refused_by_name(tiered: Tiered, bucket: str, value: str) -> None:
    with tiered.raw() as client:
        refused = client.request("PUT", f"/{bucket}/k", headers={"x-recall-pin": value}, body=b"x")
        assert (refused.status, refused.code) == (400, "InvalidArgument")
        assert b"x-recall-pin" in refused.body
    with tiered.raw() as client:
        assert client.request("HEAD", f"/{bucket}/k").status == 404


# --- time to live -------------------------------------------------------------------------------------------------------


def moment(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


TTLS_S: Final = (1.2, 6.0, 30.0)
"""Each is tried where the one before was over sooner than the machine had done what was to be seen within it."""


def saw_deadline(tiered: Tiered, bucket: str, key: str, deadline_s: float) -> bool:
    """Reads on both sides of the deadline: before it 200, from it on 404, nothing else. HEADs, so as not to slide. Whether there
    was one before it."""
    seen = set()

    def gone() -> bool:
        before_s = time.time()
        with tiered.raw() as client:  # a new connection each: either worker
            status = client.request("HEAD", f"/{bucket}/{key}").status
        after_s = time.time()
        if after_s < deadline_s:
            assert status == 200, f"{deadline_s - after_s} s early"
        # The header has milliseconds; the gateway's own reading of the clock is cut to them too.
        elif before_s >= deadline_s + 0.001:
            assert status == 404, f"{before_s - deadline_s} s late"
        seen.add(status)
        return status == 404

    wait_for(gone, "expired")
    return seen == {200, 404}


def put_short_lived(tiered: Tiered, bucket: str, way: str, tier: str, ttl_s: float) -> float | None:
    """The deadline; None when it was over before all was as it should be."""
    how: dict[str, Any] = {
        "metadata": {"Metadata": {"recall-ttl": str(ttl_s)}},
        "tag": {"Tagging": f"recall%3Attl={ttl_s}"},
    }.get(way, {})
    began_s = time.time()
    if way == "header":
        with tiered.raw() as client:
            put = client.request("PUT", f"/{bucket}/k", headers={"x-recall-ttl": str(ttl_s)}, body=b"short")
            assert "x-recall-expires" in put.headers and "expiry-date=" in put.headers["x-amz-expiration"]
    else:
        tiered.put(bucket, "k", b"short", **how)
    statuses = [200]
    if way == "POST ?recall":
        statuses.append(tiered.change(bucket, "k", ttl=str(ttl_s)).status)
    if tier == "cold":
        statuses.append(tiered.change(bucket, "k", tier="cold").status)
    with tiered.raw() as client:
        head = client.request("HEAD", f"/{bucket}/k")
        read = client.request("GET", f"/{bucket}/k")
    statuses += [head.status, read.status]
    if time.time() - began_s >= ttl_s:
        assert set(statuses) <= {200, 404}
        return None
    assert set(statuses) == {200} and read.body == b"short"
    return moment(head.headers["x-recall-expires"])


@pytest.mark.parametrize("tier", ["hot", "cold"])
@pytest.mark.parametrize("way", ["header", "metadata", "tag", "POST ?recall"])
def test_absolute_ttl_ends_at_its_deadline(tiered: Tiered, bucket: str, way: str, tier: str) -> None:
    for ttl_s in TTLS_S:
        deadline_s = put_short_lived(tiered, bucket, way, tier, ttl_s)
        if deadline_s is not None and saw_deadline(tiered, bucket, "k", deadline_s):
            break
    else:
        raise AssertionError("too slow to be seen")
    assert "Contents" not in tiered.s3.list_objects_v2(Bucket=bucket)
    for call in (tiered.s3.get_object, tiered.s3.get_object_tagging):
        with pytest.raises(ClientError) as gone:
            call(Bucket=bucket, Key="k")
        assert status_of(gone) == 404
    tiered.s3.put_object(Bucket=bucket, Key="k", Body=b"again", IfNoneMatch="*")
    assert tiered.get(bucket, "k") == b"again"
    tiered.s3.delete_object(Bucket=bucket, Key="k")
    wait_for(lambda: not tiered.cold_names(f"{bucket}/"), "the cold copy goes too")


def kept_alive(tiered: Tiered, bucket: str, ttl_s: float) -> float | None:
    """Reads a sliding object for three times its life; when the last read began. None where two reads were too far apart."""
    last_s = time.time()
    with tiered.raw() as client:
        client.request("PUT", f"/{bucket}/k", headers={"x-recall-ttl": f"{ttl_s}; sliding"}, body=b"session")
    end_s = time.time() + 3 * ttl_s
    while last_s < end_s:
        began_s = time.time()
        with tiered.raw() as reader:
            reply = reader.request("GET", f"/{bucket}/k")
        if time.time() - last_s >= ttl_s:
            return None
        assert reply.body == b"session"
        last_s = began_s
    return last_s


def test_sliding_ttl_is_renewed_by_reads_through_either_worker(tiered: Tiered, bucket: str) -> None:
    for ttl_s in (0.8, 4.0, 20.0):
        last_s = kept_alive(tiered, bucket, ttl_s)
        if last_s is not None:
            break
    else:
        raise AssertionError("too slow to be seen")
    read_s = time.time()

    def gone() -> bool:
        before_s = time.time()
        with tiered.raw() as client:
            status = client.request("HEAD", f"/{bucket}/k").status  # a HEAD is no use of the object
        if time.time() < last_s + ttl_s - 0.001:
            assert status == 200
        elif before_s > read_s + ttl_s + 0.001:
            assert status == 404
        return status == 404

    wait_for(gone, "expired")


def test_ttl_is_changed_and_removed(tiered: Tiered, bucket: str) -> None:
    tiered.put(bucket, "k", b"x", Metadata={"recall-ttl": "3600"})
    first = moment(tiered.headers(bucket, "k")["x-recall-expires"])
    assert tiered.change(bucket, "k", ttl="7200").status == 200
    assert moment(tiered.headers(bucket, "k")["x-recall-expires"]) > first + 3000
    assert tiered.change(bucket, "k", ttl="0").status == 200
    assert "x-recall-expires" not in tiered.headers(bucket, "k")


# --- RestoreObject and POST ?recall -------------------------------------------------------------------------------------


def test_restore_recalls_and_holds(tiered: Tiered, bucket: str) -> None:
    data = content(300 * KIB)
    tiered.put(bucket, "k", data)
    tiered.move(bucket, "k", "cold")
    restored = tiered.s3.restore_object(Bucket=bucket, Key="k", RestoreRequest={"Days": 1})
    assert restored["ResponseMetadata"]["HTTPStatusCode"] == 202
    wait_for(lambda: tiered.tier(bucket, "k") == "hot", "recalled without a read")
    assert 'ongoing-request="false", expiry-date="' in tiered.headers(bucket, "k")["x-amz-restore"]
    again = tiered.s3.restore_object(Bucket=bucket, Key="k", RestoreRequest={"Days": 2})
    assert again["ResponseMetadata"]["HTTPStatusCode"] == 200
    filled = tiered.fill(2.5)
    tiered.wait_cold(filled, "fill/000")
    assert tiered.tier(bucket, "k") == "hot"
    assert tiered.get(bucket, "k") == data
    tiered.s3.delete_object(Bucket=bucket, Key="k")


def test_restore_of_nothing(tiered: Tiered, bucket: str) -> None:
    with pytest.raises(ClientError) as missing:
        tiered.s3.restore_object(Bucket=bucket, Key="none", RestoreRequest={"Days": 1})
    assert status_of(missing) == 404
    tiered.put(bucket, "k", b"x")
    with pytest.raises(ClientError) as bad:
        tiered.s3.restore_object(Bucket=bucket, Key="k", RestoreRequest={"Days": 0})
    assert status_of(bad) == 400


def test_change_request_refuses_what_it_cannot_do(tiered: Tiered, bucket: str) -> None:
    tiered.put(bucket, "k", b"x")
    assert (tiered.change(bucket, "k").status, tiered.change(bucket, "k").code) == (400, "InvalidRequest")
    for bad in ({"tier": "warm"}, {"pin": "maybe"}, {"ttl": "soon"}):
        reply = tiered.change(bucket, "k", **bad)
        assert (reply.status, reply.code) == (400, "InvalidArgument")
    assert tiered.change(bucket, "none", tier="hot").status == 404
    assert tiered.change(bucket, "k", tier="both", pin="900", ttl="3600").status == 200
    headers = tiered.headers(bucket, "k")
    assert "x-recall-pinned-until" in headers and "x-recall-expires" in headers
    tiered.s3.delete_object(Bucket=bucket, Key="k")


def test_recall_command_moves_objects(tiered: Tiered, bucket: str) -> None:
    tiered.put(bucket, "k", content(10 * KIB))
    for command, tier in (("demote", "hot"), ("evict", "cold")):
        done = tiered.gateway.command(command, f"{bucket}/k")
        assert done.returncode == 0, done.stderr
        assert tiered.tier(bucket, "k") == tier
        assert tiered.cold_names(f"{bucket}/") == {f"{bucket}/k"}
    assert tiered.get(bucket, "k") == content(10 * KIB)


# --- outage of the bucket -----------------------------------------------------------------------------------------------


@dataclass
class Outage:
    """A gateway whose bucket can go away: `down`, `up`."""

    gateway: Gateway
    s3: Any
    backing: str
    down: Callable[[], None]
    up: Callable[[], None]


OUTAGE_SETTINGS: Final = {**SETTINGS, "backing_retry_attempts": "2", "backing_timeout_s": "2"}


@pytest.fixture(params=["bucket", "directory"])
def outage(request: pytest.FixtureRequest, backing_server: S3Server, tmp_path: Path) -> Iterator[Outage]:
    """Behind it a proxy in front of the S3 server, or a directory that is renamed away and back."""
    if request.param == "directory":
        here, away = tmp_path / "backing", tmp_path / "away"
        here.mkdir()
        url = here.as_uri()
        with Gateway(data_dir=tmp_path / "data", workers=2, backing=url, settings=OUTAGE_SETTINGS) as gateway:
            s3 = gateway.boto3_client()
            yield Outage(gateway, s3, url, lambda: here.rename(away), lambda: away.rename(here))
            s3.close()
            gateway.stop()
            check(gateway, url)
        return
    parts = urlsplit(backing_server.endpoint)
    assert parts.hostname and parts.port
    with Proxy((parts.hostname, parts.port)) as proxy:
        through = S3Server(
            f"http://127.0.0.1:{proxy.port}", backing_server.access_key, backing_server.secret_key, backing_server.real
        )
        url = through.url(backing_server.new_bucket(), PREFIX)
        env = through.env()
        data_dir = tmp_path / "data"
        with Gateway(data_dir=data_dir, workers=2, backing=url, env=env, settings=OUTAGE_SETTINGS) as gateway:
            s3 = gateway.boto3_client()
            yield Outage(gateway, s3, url, proxy.down, proxy.up)
            s3.close()
            gateway.stop()
            check(gateway, url)


def test_outage_of_the_backing_store(outage: Outage) -> None:
    """Hot work goes on, cold reads are an empty 503, nothing is lost, and the log says it now and then."""
    s3, gateway = outage.s3, outage.gateway
    s3.create_bucket(Bucket="first")
    cold, hot, late = content(200 * KIB, "cold"), content(200 * KIB, "hot"), content(200 * KIB, "late")
    for key in ("cold", "deleted", "overwritten"):
        s3.put_object(Bucket="first", Key=key, Body=cold)
    s3.put_object(Bucket="first", Key="hot", Body=hot)
    for key in ("cold", "deleted", "overwritten"):
        assert gateway.command("evict", f"first/{key}").returncode == 0
    etag = s3.head_object(Bucket="first", Key="cold")["ETag"]
    outage.down()
    try:
        before = len(gateway.log.splitlines())
        with RawClient(gateway.port, Signer(gateway.access_key, gateway.secret_key)) as client:
            for asked in ({}, {"range": "bytes=0-8388607"}, {"range": "bytes=100-199", "if-match": etag}):
                refused = client.request("GET", "/first/cold", headers=asked)
                assert (refused.status, refused.body) == (503, b""), "an error body would land in a KV slot"
                assert int(refused.headers["retry-after"]) >= 1
            head = client.request("HEAD", "/first/cold")
            assert (head.status, head.etag, head.headers["x-recall-tier"]) == (200, etag, "cold")
            move = client.request(
                "POST", "/first/cold", query=(("recall", ""),), headers={"x-recall-tier": "hot"}, length=True
            )
            assert move.status == 503
            assert client.request("GET", "/first/cold", headers={"if-none-match": etag}).status == 304
            assert client.request("GET", "/first/hot").body == hot
            assert client.request("GET", "/first/none").status == 404
            assert client.request("PUT", "/first/late", body=late).status == 200
            assert client.request("GET", "/first/late").body == late
            assert client.request("PUT", "/first/overwritten", body=late).status == 200
            assert client.request("GET", "/first/overwritten").body == late
            assert client.request("DELETE", "/first/deleted").status == 204
            assert client.request("GET", "/first/deleted").status == 404
        listed = [row["Key"] for row in s3.list_objects_v2(Bucket="first")["Contents"]]
        assert listed == ["cold", "hot", "late", "overwritten"]
        said = gateway.log.splitlines()[before:]
        assert len(said) <= 12, "\n".join(said)
        assert any("backing" in line for line in said)
    finally:
        outage.up()

    def served() -> bytes | None:
        try:
            body: bytes = s3.get_object(Bucket="first", Key="cold")["Body"].read()
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 503:
                raise
            return None
        return body

    assert wait_for(served, "cold reads again") == cold
    for key in ("late", "overwritten"):
        wait_for(lambda key=key: gateway.command("evict", f"first/{key}").returncode == 0, f"{key} can be evicted")
        assert s3.get_object(Bucket="first", Key=key)["Body"].read() == late


def test_outage_while_the_tier_fills_refuses_writes_and_loses_nothing(outage: Outage) -> None:
    """Writes go on until the dirty limit, then they are 503; when the bucket is back, all that was taken is there."""
    s3 = outage.s3
    s3.create_bucket(Bucket="first")
    outage.down()
    taken: dict[str, bytes] = {}
    try:
        for number in range(3 * CAPACITY // (512 * KIB)):
            data = content(512 * KIB, number)
            try:
                s3.put_object(Bucket="first", Key=f"{number:03d}", Body=data)
            except ClientError as error:
                refused = error.response["ResponseMetadata"]
                break
            taken[f"{number:03d}"] = data
        else:
            raise AssertionError("three times the capacity was taken with nowhere to put it")
        assert refused["HTTPStatusCode"] == 503 and "retry-after" in refused["HTTPHeaders"]
        assert sum(map(len, taken.values())) > CAPACITY // 2
        for key, data in taken.items():
            assert s3.get_object(Bucket="first", Key=key)["Body"].read() == data
    finally:
        outage.up()

    def accepted() -> bool:
        try:
            s3.put_object(Bucket="first", Key="after", Body=content(512 * KIB))
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 503:
                raise
            return False
        return True

    wait_for(accepted, "writes are taken again")
    for key, data in taken.items():
        assert s3.get_object(Bucket="first", Key=key)["Body"].read() == data


# --- restart ------------------------------------------------------------------------------------------------------------


def test_restart_keeps_everything(backing_server: S3Server, tmp_path: Path) -> None:
    """SIGTERM, and a start on the same data directory: hot, cold, pinned, expiring, half-uploaded, larger than the tier."""
    url = backing_server.url(backing_server.new_bucket(), PREFIX)
    how: dict[str, Any] = {
        "data_dir": tmp_path / "data",
        "workers": 2,
        "backing": url,
        "env": backing_server.env(),
        "settings": SETTINGS,
    }
    data = {key: content(300 * KIB, key) for key in ("hot", "both", "cold", "pinned", "expiring", "tagged")}
    large = content(LARGE)
    with Gateway(**how) as gateway:
        s3 = gateway.boto3_client()
        first = Tiered(gateway, backing_server, "", s3)
        for bucket in ("first", "kv-first", "safe-first"):
            s3.create_bucket(Bucket=bucket)
            first.put(bucket, "large", large)
            for key, body in data.items():
                first.put(bucket, key, body, Metadata={"name": key})
            first.move(bucket, "both", "both")
            first.move(bucket, "cold", "cold")
            assert first.change(bucket, "pinned", pin="3600").status == 200
            assert first.change(bucket, "expiring", ttl="3600; sliding").status == 200
            s3.put_object_tagging(Bucket=bucket, Key="tagged", Tagging={"TagSet": [{"Key": "a", "Value": "1"}]})
        upload = s3.create_multipart_upload(Bucket="first", Key="half")["UploadId"]
        part = s3.upload_part(Bucket="first", Key="half", UploadId=upload, PartNumber=1, Body=data["hot"])
        heads = {(b, k): first.headers(b, k) for b in ("first", "kv-first", "safe-first") for k in (*data, "large")}
        check(gateway, url)  # beside a running gateway too
        s3.close()
    with Gateway(**how) as gateway:
        s3 = gateway.boto3_client()
        second = Tiered(gateway, backing_server, "", s3)
        kept = (
            "etag",
            "last-modified",
            "content-length",
            "x-recall-pinned-until",
            "x-recall-expires",
            "x-amz-meta-name",
        )
        for (bucket, key), before in heads.items():
            now = second.headers(bucket, key)
            assert [now.get(name) for name in kept] == [before.get(name) for name in kept]
        for bucket in ("first", "kv-first", "safe-first"):
            for key, body in data.items():
                assert second.get(bucket, key) == body
            assert s3.get_object_tagging(Bucket=bucket, Key="tagged")["TagSet"] == [{"Key": "a", "Value": "1"}]
            assert second.get(bucket, "large") == large
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        s3.complete_multipart_upload(Bucket="first", Key="half", UploadId=upload, MultipartUpload=parts)
        assert second.get("first", "half") == data["hot"]
        s3.close()
        gateway.stop()
        check(gateway, url)
