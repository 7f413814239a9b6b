"""A bucket that misbehaves behind a running gateway: what its clients see, and that it all comes right again.

Each row of docs/SEMANTICS.md, "Faults", that is about the backing store. Kind: tests.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError
from minio.error import S3Error

from tests.s3.proxy import Fault, Proxy
from tests.s3.rawclient import RawClient, Reply, Signer
from tests.support.gateway import Gateway, wait_for
from tests.support.s3server import S3Server

SHORT: Final = 3000
LONG: Final = 3 << 20
"""Larger than what may come back (a quarter of the pool), in frames of its own."""
SETTINGS: Final = {
    "pools.standard.capacity_bytes": "8MiB",
    "pools.standard.demote_after_s": "0",
    "pools.safe.capacity_bytes": "8MiB",
    "pools.safe.durability": "backing",
    "pools.safe.buckets": "safe-*",
    "backing_timeout_s": "1",
    "backing_retry_attempts": "2",
}


@dataclass(frozen=True)
class Behind:
    """A gateway, the proxy between it and its bucket, and the bucket."""

    gateway: Gateway
    proxy: Proxy
    server: S3Server
    bucket: str
    s3: Any
    short: bytes
    long: bytes

    def client(self) -> RawClient:
        return RawClient(self.gateway.port, Signer(self.gateway.access_key, self.gateway.secret_key))

    def get(self, key: str, **headers: str) -> Reply | None:
        """The reply, None when the connection was cut on the way: what came is not the object then."""
        with self.client() as client:
            try:
                return client.request("GET", f"/docs/{key}", headers=headers)
            except (OSError, EOFError, AssertionError):
                return None

    def put(self, path: str, body: bytes) -> int:
        with self.client() as client:
            return client.request("PUT", path, body=body).status

    def chill(self, key: str) -> None:
        """Makes it cold; waits for a backing store that was just away."""

        def cold() -> bool:
            with self.client() as client:
                said = {"x-recall-tier": "cold"}
                return (
                    client.request("POST", f"/docs/{key}", query=(("recall", ""),), headers=said, length=True).status
                    == 200
                )

        wait_for(cold, f"{key} is cold")


@pytest.fixture(scope="module")
def behind(backing_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    parts = urlsplit(backing_server.endpoint)
    assert parts.hostname and parts.port
    bucket = backing_server.new_bucket()
    data_dir: Path = tmp_path_factory.mktemp("behind") / "data"
    with Proxy((parts.hostname, parts.port)) as proxy:
        through = S3Server(
            f"http://127.0.0.1:{proxy.port}", backing_server.access_key, backing_server.secret_key, backing_server.real
        )
        url = through.url(bucket)
        with Gateway(data_dir=data_dir, backing=url, env=through.env(), settings=SETTINGS) as gateway:
            s3 = gateway.boto3_client()
            for name in ("docs", "safe-b"):
                s3.create_bucket(Bucket=name)
            found = Behind(gateway, proxy, backing_server, bucket, s3, os.urandom(SHORT), os.urandom(LONG))
            for key, body in (("short", found.short), ("long", found.long)):
                s3.put_object(Bucket="docs", Key=key, Body=body)
                found.chill(key)
            s3.put_object(Bucket="docs", Key="hot", Body=b"hot")
            yield found
            s3.close()
            checked = gateway.command("check", "--backing", backing_server.url(bucket))
            assert checked.returncode == 0, checked.stdout
            gateway.stop()


UNAVAILABLE: Final = {
    "reset": Fault("reset"),
    "500": Fault("answer", status=500, code="InternalError"),
    "503": Fault("answer", status=503, code="SlowDown"),
    "unknown key": Fault("answer", status=403, code="InvalidAccessKeyId"),
    "denied": Fault("answer", status=403, code="AccessDenied"),
    "clock": Fault("answer", status=403, code="RequestTimeTooSkewed"),
    "no bucket": Fault("answer", status=404, code="NoSuchBucket"),
    "stall": Fault("stall"),
}


@pytest.mark.parametrize("fault", UNAVAILABLE)
def test_bucket_that_refuses_is_503_and_nothing_is_lost(behind: Behind, fault: str) -> None:
    key = f"late-{fault}".replace(" ", "-")
    with behind.proxy.failing(UNAVAILABLE[fault]):
        for asked in ("short", "long"):
            reply = behind.get(asked, **({"range": "bytes=9-99"} if asked == "long" else {}))
            assert reply is not None and (reply.status, reply.body) == (503, b"")
            assert int(reply.headers["retry-after"]) >= 1
        hot = behind.get("hot")
        assert hot is not None and hot.body == b"hot"
        assert behind.put(f"/docs/{key}", b"late") == 200
        assert behind.put(f"/safe-b/{key}", b"late") == 503
    behind.chill(key)
    wait_for(lambda: whole(behind, key, b"late"), "what was written meanwhile is read from the bucket")
    wait_for(lambda: whole(behind, "long", behind.long), "cold reads again")


def whole(behind: Behind, key: str, body: bytes) -> bool:
    """False while the backing store is still held to be away."""
    reply = behind.get(key)
    if reply is None or reply.status == 503:
        return False
    assert reply.body == body
    return True


DAMAGED: Final = {
    "short by all": Fault("short", ("GET",), at=0),
    "short by some": Fault("short", ("GET",), at=1000),
    "flipped early": Fault("flip", ("GET",), at=100),
    "flipped late": Fault("flip", ("GET",), at=1500),
}


@pytest.mark.parametrize("fault", DAMAGED)
@pytest.mark.parametrize("key", ["short", "long"])
@pytest.mark.parametrize("part", ["", "bytes=100-1999"])
def test_damage_on_the_way_is_never_given_out(behind: Behind, key: str, part: str, fault: str) -> None:
    body = behind.short if key == "short" else behind.long
    behind.chill(key)
    with behind.proxy.failing(DAMAGED[fault]):
        reply = behind.get(key, **({"range": part} if part else {}))
        if reply is not None and reply.status < 300:
            assert reply.body == (body[100:2000] if part else body), "a fault that did not touch these bytes"
            assert fault.startswith("flipped") and key == "long" and part
        elif reply is not None:
            assert reply.status in (500, 503)
            assert reply.body == b""
    wait_for(lambda: whole(behind, key, body), "the same object is read once the way is good")


def test_cut_body_is_gone_on_with(behind: Behind) -> None:
    behind.chill("short")
    with behind.proxy.failing(Fault("cut", ("GET",), at=1 << 20)):
        wait_for(lambda: whole(behind, "long", behind.long), "it is read whole")
    with behind.proxy.failing(Fault("cut", ("GET",), at=0)):
        reply = behind.get("short")
        assert reply is not None and reply.status == 503
    wait_for(lambda: whole(behind, "short", behind.short), "it is read again")


def test_trickle_is_ended(behind: Behind) -> None:
    behind.chill("short")
    with behind.proxy.failing(Fault("trickle", ("GET",))):
        for key in ("short", "long"):
            reply = behind.get(key)
            assert reply is None or (reply.status, reply.body) == (503, b"")
        hot = behind.get("hot")
        assert hot is not None and hot.body == b"hot"
    wait_for(lambda: whole(behind, "short", behind.short), "it is read again")


def test_other_etags_are_not_believed_in(behind: Behind) -> None:
    """What the bucket says of an object's ETag decides nothing: bytes are judged by the object's own checksums."""
    with behind.proxy.failing(Fault("etag")):
        wait_for(lambda: behind.put("/safe-b/etag", b"kept") == 200, "it is kept")
        assert behind.put("/docs/etag", b"kept") == 200
        behind.chill("etag")
        wait_for(lambda: whole(behind, "etag", b"kept"), "it is read")


def test_deleted_bucket_is_503_until_it_is_there_again(behind: Behind) -> None:
    """A bucket that comes back empty is another matter: what was only there is gone, is a 500, and is named."""
    behind.chill("short")
    client = behind.server.client()
    kept: dict[str, bytes] = {}
    wait_for(lambda: emptied(behind, kept), "the bucket is deleted")
    try:
        reply = behind.get("short")
        assert reply is not None and reply.status == 503
        assert behind.put("/docs/beside", b"beside") == 200
        assert behind.s3.head_object(Bucket="docs", Key="short")["ContentLength"] == SHORT
    finally:
        client.make_bucket(behind.bucket)
    wait_for(lambda: (reply := behind.get("short")) is not None and reply.status == 500, "a copy is found missing")
    with pytest.raises(ClientError):
        behind.s3.get_object(Bucket="docs", Key="short")
    for name, body in kept.items():
        put(client, behind.bucket, name, body)
    wait_for(lambda: whole(behind, "short", behind.short), "it is read again")
    behind.chill("beside")
    wait_for(lambda: whole(behind, "beside", b"beside"), "so is what was written meanwhile")


def emptied(behind: Behind, kept: dict[str, bytes]) -> bool:
    """Deletes the bucket with all it has, which goes to `kept`; False when the keeper put something there meanwhile."""
    client = behind.server.client()
    for name in behind.server.names(behind.bucket):
        try:
            kept[name] = client.get_object(behind.bucket, name).read()
        except S3Error as error:
            if error.code != "NoSuchKey":  # the keeper was quicker
                raise
        client.remove_object(behind.bucket, name)
    try:
        client.remove_bucket(behind.bucket)
    except S3Error as error:
        if error.code != "BucketNotEmpty":
            raise
        return False
    return True


def put(client: Any, bucket: str, name: str, body: bytes) -> None:
    client.put_object(bucket, name, io.BytesIO(body), len(body))
