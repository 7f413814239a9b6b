"""Bytes that decay under a real gateway: found and mended before a reader meets them, and by `recall scrub`.

Kind: tests. Spec: docs/SEMANTICS.md, "Bytes"; docs/OPERATIONS.md, "The scrub".
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.support.gateway import Gateway, wait_for

ALWAYS = {
    "scrub_every_s": "1s",
    "scrub_bytes_per_s": "64MiB",
    "scrub_backing_bytes_per_s": "64MiB",
    "pools.standard.capacity_bytes": "16MiB",
    "pools.standard.demote_after_s": "0s",
    "pools.kv.capacity_bytes": "16MiB",
}
NEVER = {**ALWAYS, "scrub_every_s": "0"}


def flip(path: Path, at: int) -> None:
    with open(path, "r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)
        stream.seek(at)
        stream.write(bytes((byte[0] ^ 0xFF,)))


def flip_on_flash(gateway: Gateway, pool: str, body: bytes) -> None:
    path = gateway.data_dir / "pools" / pool / "flash"
    flip(path, path.read_bytes().index(body[:4096]) + 2000)


def copy_of(gateway: Gateway, bucket: str, key: str) -> Path:
    return gateway.data_dir / "backing" / bucket / f"{key}.obj"


def test_running_gateway_mends_what_it_finds_and_says_so(tmp_path: Path) -> None:
    body, block = os.urandom(50_000), os.urandom(50_000)
    with Gateway(data_dir=tmp_path / "data", settings=ALWAYS) as gateway:
        s3 = gateway.boto3_client()
        for bucket, key, data in (("docs", "both", body), ("docs", "cold", body), ("kv-b", "block", block)):
            if key != "cold":
                s3.create_bucket(Bucket=bucket)
            s3.put_object(Bucket=bucket, Key=key, Body=data)
        for key in ("both", "cold"):
            wait_for(copy_of(gateway, "docs", key).exists, f"{key} is demoted")
        assert gateway.command("evict", "docs/cold").returncode == 0
        flip_on_flash(gateway, "kv", block)
        wait_for(lambda: "kv-b/block: bytes on flash: damaged, dropped" in gateway.log, "the block is found")
        with pytest.raises(ClientError) as gone:
            s3.get_object(Bucket="kv-b", Key="block")
        assert gone.value.response["Error"]["Code"] == "NoSuchKey"
        flip(copy_of(gateway, "docs", "both"), 20_000)
        wait_for(
            lambda: "docs/both: the copy in the backing store: damaged, repaired" in gateway.log, "a copy is found"
        )
        flip_on_flash(gateway, "standard", body)
        wait_for(lambda: "docs/both: bytes on flash: damaged, repaired" in gateway.log, "bytes on flash are found")
        assert s3.get_object(Bucket="docs", Key="both")["Body"].read() == body
        assert "2 repaired, 1 dropped; 0 damaged now" in gateway.command("stats").stdout
        assert gateway.command("check").returncode == 0
        flip(copy_of(gateway, "docs", "cold"), 20_000)
        wait_for(lambda: "docs/cold: the copy in the backing store: damaged, unrepairable" in gateway.log, "a lost one")
        wait_for(lambda: "1 damaged now, named by recall check" in gateway.command("stats").stdout, "stats know")
        checked = gateway.command("check")
        assert checked.returncode == 1
        assert "docs/cold" in checked.stdout
        with pytest.raises(ClientError):
            s3.get_object(Bucket="docs", Key="cold")["Body"].read()
        assert gateway.log.count("docs/cold: the copy") == 1


def test_command_scrubs_a_stopped_gateway(tmp_path: Path) -> None:
    body, other = os.urandom(50_000), os.urandom(50_000)
    with Gateway(data_dir=tmp_path / "data", settings=NEVER) as gateway:
        s3 = gateway.boto3_client()
        s3.create_bucket(Bucket="docs")
        for key, data in (("mended", body), ("lost", other)):
            s3.put_object(Bucket="docs", Key=key, Body=data)
            wait_for(copy_of(gateway, "docs", key).exists, f"{key} is demoted")
        assert gateway.command("evict", "docs/lost").returncode == 0
        refused = gateway.command("scrub")
        assert (refused.returncode, refused.stdout) == (3, "")
    done = gateway.command("scrub")
    assert done.returncode == 0, done.stdout + done.stderr
    flip_on_flash(gateway, "standard", body)
    flip(copy_of(gateway, "docs", "lost"), 20_000)
    done = gateway.command("scrub", "--names")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "docs/mended: damaged (flash), repaired" in done.stdout
    done = gateway.command("scrub")
    assert done.returncode == 1
    assert "1 cannot be repaired\n  docs/lost\n" in done.stdout
    assert "docs/mended" not in done.stdout
