"""minio-py against the gateway: payload hashes over http, Content-MD5 on deletes and completions, `delimiter=` empty."""

from __future__ import annotations

import hashlib
import io
import json
import random
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

import pytest
import urllib3
from minio import Minio, MinioAdmin
from minio.commonconfig import REPLACE, ComposeSource, CopySource, Tags
from minio.credentials import StaticProvider
from minio.deleteobjects import DeleteObject
from minio.error import MinioAdminException, S3Error

from tests.support.gateway import Gateway

MIB: Final = 1 << 20


@pytest.fixture(scope="module")
def minio(gateway: Gateway) -> Iterator[Minio]:
    pool = urllib3.PoolManager(timeout=20.0, retries=False, maxsize=8)
    yield Minio(
        f"127.0.0.1:{gateway.port}",
        access_key=gateway.access_key,
        secret_key=gateway.secret_key,
        secure=False,
        http_client=pool,
    )
    pool.clear()


def content(size: int) -> bytes:
    return random.Random(f"minio {size}").randbytes(size)


def read(client: Minio, bucket: str, key: str, **how: Any) -> bytes:
    reply = client.get_object(bucket, key, **how)
    try:
        return reply.read()
    finally:
        reply.close()
        reply.release_conn()


def test_admin_info(gateway: Gateway) -> None:
    """As `mc admin info` asks: signed for no region, and the body hashed."""
    given = StaticProvider(gateway.access_key, gateway.secret_key)
    admin = MinioAdmin(endpoint=f"127.0.0.1:{gateway.port}", credentials=given, secure=False)
    info = json.loads(admin.info())
    assert info["servers"][0]["state"] == "online"
    assert {drive["state"] for drive in info["servers"][0]["drives"]} == {"ok"}
    assert json.loads(admin.get_data_usage_info())["bucketsCount"] == info["buckets"]["count"]
    with pytest.raises(MinioAdminException, match=r"(?s)501.*health, metrics and info"):
        admin.user_list()


def test_buckets(minio: Minio) -> None:
    assert not minio.bucket_exists("minio-py")
    minio.make_bucket("minio-py")
    assert minio.bucket_exists("minio-py")
    assert "minio-py" in {bucket.name for bucket in minio.list_buckets()}
    minio.remove_bucket("minio-py")
    with pytest.raises(S3Error) as refused:
        minio.remove_bucket("minio-py")
    assert refused.value.code == "NoSuchBucket"


@pytest.mark.parametrize("size", [0, 1000, 12 * MIB], ids=str)
def test_objects(minio: Minio, bucket: str, size: int) -> None:
    data = content(size)
    put = minio.put_object(bucket, "a/b c", io.BytesIO(data), size, "text/x", {"who": "me"}, part_size=5 * MIB)
    stat = minio.stat_object(bucket, "a/b c")
    assert (stat.size, stat.etag, stat.content_type) == (size, put.etag, "text/x")
    assert stat.metadata is not None and stat.metadata["x-amz-meta-who"] == "me"
    assert stat.last_modified is not None
    if size <= 5 * MIB:
        assert put.etag == hashlib.md5(data).hexdigest()
    assert read(minio, bucket, "a/b c") == data
    if size:
        assert read(minio, bucket, "a/b c", offset=size // 2, length=10) == data[size // 2 : size // 2 + 10]
    minio.remove_object(bucket, "a/b c")
    with pytest.raises(S3Error) as missing:
        minio.stat_object(bucket, "a/b c")
    assert missing.value.code == "NoSuchKey"


def test_stream_of_unknown_length(minio: Minio, bucket: str) -> None:
    data = content(11 * MIB)
    minio.put_object(bucket, "stream", io.BytesIO(data), -1, part_size=5 * MIB)
    assert read(minio, bucket, "stream") == data


def test_lists_and_deletes_many(minio: Minio, bucket: str) -> None:
    keys = [f"dir/{number:03d}" for number in range(30)] + ["top"]
    for key in keys:
        minio.put_object(bucket, key, io.BytesIO(b"x"), 1)
    assert {found.object_name for found in minio.list_objects(bucket)} == {"dir/", "top"}
    assert [found.object_name for found in minio.list_objects(bucket, recursive=True)] == keys
    v1 = minio.list_objects(bucket, prefix="dir/", recursive=True, use_api_v1=True)
    assert [found.object_name for found in v1] == keys[:-1]
    after = minio.list_objects(bucket, recursive=True, start_after="dir/027", include_user_meta=False)
    assert [found.object_name for found in after] == ["dir/028", "dir/029", "top"]
    assert list(minio.remove_objects(bucket, [DeleteObject(key) for key in keys])) == []
    assert list(minio.list_objects(bucket, recursive=True)) == []


def test_copy_compose_and_tags(minio: Minio, bucket: str) -> None:
    data = content(6 * MIB)
    minio.put_object(bucket, "one", io.BytesIO(data), len(data))
    minio.put_object(bucket, "two", io.BytesIO(b"tail"), 4)
    minio.copy_object(bucket, "copy", CopySource(bucket, "one"), metadata={"a": "b"}, metadata_directive=REPLACE)
    assert read(minio, bucket, "copy") == data
    minio.compose_object(bucket, "both", [ComposeSource(bucket, "one"), ComposeSource(bucket, "two")])
    assert read(minio, bucket, "both") == data + b"tail"
    tags = Tags.new_object_tags()
    tags["team"] = "kv cache"
    minio.set_object_tags(bucket, "one", tags)
    assert minio.get_object_tags(bucket, "one") == {"team": "kv cache"}
    minio.delete_object_tags(bucket, "one")
    assert not minio.get_object_tags(bucket, "one")


def test_presigned(minio: Minio, bucket: str) -> None:
    url = minio.presigned_put_object(bucket, "p q", expires=timedelta(minutes=1))
    with urllib.request.urlopen(urllib.request.Request(url, data=b"sent", method="PUT"), timeout=20) as reply:
        assert reply.status == 200
    with urllib.request.urlopen(minio.presigned_get_object(bucket, "p q"), timeout=20) as reply:
        assert reply.read() == b"sent"


def test_wrong_secret(gateway: Gateway, bucket: str) -> None:
    pool = urllib3.PoolManager(timeout=20.0, retries=False)
    other = Minio(
        f"127.0.0.1:{gateway.port}", access_key=gateway.access_key, secret_key="wrong", secure=False, http_client=pool
    )
    with pytest.raises(S3Error) as refused:
        list(other.list_objects(bucket))
    assert refused.value.code == "SignatureDoesNotMatch"
    pool.clear()
