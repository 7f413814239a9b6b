"""A power loss, as far as a test can make one: the operating system's boot id changes and unsynced pages are lost.

The stamp of the last boot is taken out of the pool's heat file; pages of the index or of flash are overwritten.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.support.gateway import Gateway, wait_for

SETTINGS = {
    "RECALL_POOLS_STANDARD_CAPACITY_BYTES": "4MiB",
    "RECALL_POOLS_KV_CAPACITY_BYTES": "4MiB",
    "RECALL_POOLS_KV_DEMOTE": "eager",
    "RECALL_POOLS_KV_DEMOTE_AFTER_S": "0s",
}


def overwrite(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def another_boot(pool: Path) -> None:
    overwrite(pool / "heat", 0, bytes(64))
    (pool / "whole").unlink(missing_ok=True)  # the tests stop in order, which a power loss is not


def demoted(gateway: Gateway, count: int) -> bool:
    """Whether so many objects have their copy: under its name, not one that is still being written (`.incoming`)."""
    backing = gateway.data_dir / "backing"
    names = [path.relative_to(backing) for path in backing.rglob("*") if path.is_file()]
    return sum(1 for name in names if not name.parts[0].startswith(".")) >= count


def test_broken_relaxed_index_is_set_aside_and_taken_back_from_the_backing(tmp_path: Path) -> None:
    blocks = {f"block-{number}": os.urandom(20_000) for number in range(12)}
    with Gateway(data_dir=tmp_path / "data", env=SETTINGS) as gateway:
        s3 = gateway.boto3_client()
        s3.create_bucket(Bucket="kv-one")
        etags = {key: s3.put_object(Bucket="kv-one", Key=key, Body=block)["ETag"] for key, block in blocks.items()}
        wait_for(lambda: demoted(gateway, len(blocks)), "every block is in the backing store")
        wait_for(lambda: (gateway.data_dir / "backing" / ".recall").exists(), "so is the bucket")
    pool = tmp_path / "data" / "pools" / "kv"
    another_boot(pool)
    size = os.path.getsize(pool / "index" / "data.mdb")
    overwrite(pool / "index" / "data.mdb", 8192, os.urandom(size - 8192))
    with Gateway(data_dir=tmp_path / "data", env=SETTINGS) as gateway:
        s3 = gateway.boto3_client()
        for key, block in blocks.items():
            reply = s3.get_object(Bucket="kv-one", Key=key)
            assert reply["Body"].read() == block
            assert reply["ETag"] == etags[key]
        assert (pool / "index.broken-1").exists()
        assert gateway.command("check").returncode == 0


def test_torn_blocks_are_never_served(tmp_path: Path) -> None:
    settings = {**SETTINGS, "RECALL_POOLS_KV_DEMOTE": "never", "RECALL_POOLS_STANDARD_DEMOTE_AFTER_S": "1h"}
    small, large = os.urandom(5000), os.urandom(100_000)
    with Gateway(data_dir=tmp_path / "data", env=settings) as gateway:
        s3 = gateway.boto3_client()
        for bucket in ("kv-torn", "docs"):
            s3.create_bucket(Bucket=bucket)
            s3.put_object(Bucket=bucket, Key="small", Body=small)
            s3.put_object(Bucket=bucket, Key="large", Body=large)
    for name in ("kv", "standard"):
        pool = tmp_path / "data" / "pools" / name
        another_boot(pool)
        flash = (pool / "flash").read_bytes()
        for body in (small, large):
            at = flash.index(body)
            overwrite(pool / "flash", at + len(body) // 2, bytes(64))
    with Gateway(data_dir=tmp_path / "data", env=settings) as gateway:
        s3 = gateway.boto3_client()
        for key in ("small", "large"):
            # A relaxed pool may lose its newest blocks; a durable one says that it has lost one.
            with pytest.raises(ClientError) as gone:
                s3.get_object(Bucket="kv-torn", Key=key)
            assert gone.value.response["Error"]["Code"] == "NoSuchKey"
            with pytest.raises(ClientError) as damaged:
                s3.get_object(Bucket="docs", Key=key)
            assert damaged.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
        assert gateway.command("check").returncode == 1
