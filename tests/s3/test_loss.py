"""Files that are lost or damaged under a stopped gateway: what is left is served, and everything that is gone is named.

Kind: tests. Spec: docs/SEMANTICS.md, "Losses"; docs/OPERATIONS.md, "Backup and restore".
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import lmdb.verify
import pytest
from botocore.exceptions import ClientError
from recall_client.local import LocalError, LocalReader

from tests.crash.scenes_above import lose_the_free_pages
from tests.support.gateway import Gateway, GatewayFailed, wait_for

PAGE = 4096
BODY = 150_000
SETTINGS = {  # in the environment: the commands see it too
    "RECALL_SCRUB_EVERY_S": "0",
    "RECALL_POOLS_STANDARD_CAPACITY_BYTES": "16MiB",
    "RECALL_POOLS_STANDARD_DEMOTE_AFTER_S": "1h",
    "RECALL_POOLS_KV_CAPACITY_BYTES": "16MiB",
    "RECALL_POOLS_KV_DEMOTE": "eager",
    "RECALL_POOLS_KV_DEMOTE_AFTER_S": "1h",
}


class World:
    """A gateway that has objects in every state, stopped; `bodies` by bucket, key and version."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path / "data"
        self.bodies: dict[tuple[str, str, str | None], bytes] = {}

    def gateway(self, backing: str = "?create=true") -> Gateway:
        return Gateway(data_dir=self.data, env=SETTINGS | {"RECALL_BACKING": f"file://{self.path}/cold{backing}"})

    def fill(self) -> None:
        with self.gateway() as gateway:
            s3 = gateway.boto3_client()
            for bucket in ("docs", "kv-b", "versioned"):
                s3.create_bucket(Bucket=bucket)
            s3.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
            for bucket in ("docs", "kv-b"):
                for tier in ("hot", "both", "cold"):
                    self.put(s3, bucket, tier)
            for number in range(40):
                self.put(s3, "docs", f"many/{number:02}", 3000)
            for _ in range(2):
                self.put(s3, "versioned", "hot")
            self.put(s3, "versioned", "cold")
            for bucket in ("docs", "kv-b"):
                assert gateway.command("evict", f"{bucket}/cold").returncode == 0
                assert gateway.command("demote", f"{bucket}/both").returncode == 0
            assert gateway.command("evict", "versioned/cold").returncode == 0
            records = self.path / "cold" / ".recall" / "buckets"
            wait_for(lambda: len([*records.glob("*")]) == 3, "the records of the buckets are in the backing store")

    def put(self, s3: Any, bucket: str, key: str, size: int = BODY) -> None:
        body = os.urandom(size)
        version = s3.put_object(Bucket=bucket, Key=key, Body=body).get("VersionId")
        self.bodies[bucket, key, version] = body

    def index(self, pool: str) -> Path:
        return self.data / "pools" / pool / "index"

    def names(self, *, hot: bool = False, pool: str = "") -> set[str]:
        """How reports call them; `hot`: those that are nowhere else."""
        return {
            f"{bucket}/{key} version {version}" if version else f"{bucket}/{key}"
            for bucket, key, version in self.bodies
            if (not hot or not key.startswith(("both", "cold")))
            and pool in ("", "kv" if bucket == "kv-b" else "standard")
        }

    def judge(self, gateway: Gateway, gone: set[str] = frozenset(), status: int = 404) -> None:  # type: ignore[assignment]
        """Everything is served but what is gone."""
        s3 = gateway.boto3_client()
        for (bucket, key, version), body in self.bodies.items():
            chosen = {"VersionId": version} if version else {}
            name = f"{bucket}/{key} version {version}" if version else f"{bucket}/{key}"
            try:
                assert s3.get_object(Bucket=bucket, Key=key, **chosen)["Body"].read() == body, name
                assert name not in gone, name
            except ClientError as error:
                assert name in gone, (name, error)
                assert error.response["ResponseMetadata"]["HTTPStatusCode"] == status, (name, error)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("filled"))
    world.fill()
    return world


@pytest.fixture
def world(filled: World, tmp_path: Path) -> World:
    """A copy: filling it takes longer than most of what is done to it."""
    world = World(tmp_path)
    shutil.copytree(filled.data, world.data)
    shutil.copytree(filled.path / "cold", world.path / "cold")
    world.bodies = dict(filled.bodies)
    return world


def said(text: str, word: str) -> set[str]:
    return set(re.findall(rf"^  {word}: (.*)$", text, re.MULTILINE))


def test_lost_index_is_not_taken_for_an_empty_pool(world: World) -> None:
    shutil.rmtree(world.index("standard"))
    with pytest.raises(GatewayFailed, match="the index is gone and flash is not: run `recall rebuild`"):
        world.gateway().start()
    done = world.gateway().command("rebuild")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pool standard: there was no index: what had no copy in the backing store has no name either" in done.stdout
    gone = world.names(hot=True, pool="standard")
    with world.gateway() as gateway:
        world.judge(gateway, gone)
        s3 = gateway.boto3_client()
        world.put(s3, "docs", "cold")  # newer than the copy that came back, whatever the lost index had counted
    done = world.gateway().command("rebuild")
    assert done.returncode == 0, done.stdout + done.stderr
    with world.gateway() as gateway:
        world.judge(gateway, gone)
        assert gateway.command("check").returncode == 0


def test_lost_relaxed_index_is_taken_back_by_itself(world: World) -> None:
    shutil.rmtree(world.index("kv"))
    cold = world.path / "cold"
    cold.rename(world.path / "away")
    with world.gateway("") as gateway:
        assert "the backing store does not answer" in gateway.log
    (world.path / "away").rename(cold)
    with world.gateway() as gateway:  # still owed
        world.judge(gateway, world.names(hot=True, pool="kv"))
        assert gateway.command("check").returncode == 0


def test_damaged_index_gives_back_what_it_still_says(world: World) -> None:
    data = world.index("standard") / "data.mdb"
    with LocalReader(world.data, "docs") as reader, reader.lease() as lease:
        wrecked = wreck_a_leaf(data)
        assert wrecked
        done = world.gateway().command("rebuild")  # nothing would keep what the lease shows from being written over
        assert (done.returncode, done.stdout) == (1, "") and f"process {os.getpid()} reads it" in done.stderr
        assert data.exists()
        with pytest.raises(LocalError, match="MDB_"):
            for _, key, _ in world.bodies:
                lease.read(key)
    done = world.gateway().command("rebuild")
    assert done.returncode == 1
    counted = re.search(
        r"pool standard: the index was damaged, and is kept as index.broken-1: (\d+) objects taken from it and flash, "
        r"0 gone, (\d+) records unreadable",
        done.stdout,
    )
    assert counted, done.stdout + done.stderr
    restored, unread = map(int, counted.groups())
    hot = world.names(hot=True, pool="standard")
    assert unread >= 1
    with world.gateway() as gateway:
        assert gateway.command("check").returncode == 0
        s3 = gateway.boto3_client()
        there = {
            f"docs/{entry['Key']}" for page in s3.get_paginator("list_objects_v2").paginate(Bucket="docs")
            for entry in page.get("Contents", ())
        } | {
            f"versioned/{entry['Key']} version {entry['VersionId']}"
            for entry in s3.list_object_versions(Bucket="versioned")["Versions"]
        }  # fmt: skip
        assert len(hot & there) == restored
        assert len(world.names(pool="standard") - there) <= unread
        world.judge(gateway, world.names(pool="standard") - there)
        world.put(s3, "docs", "after")
        world.judge(gateway, world.names(pool="standard") - there - {"docs/after"})
    assert world.gateway().command("check").returncode == 0


def test_rebuild_that_was_cut_short_is_finished_before_anything_is_served(world: World) -> None:
    """A gateway would take back what the backing store has, serve the rest as gone, and write where its bytes are."""
    data = world.index("standard") / "data.mdb"
    lose_the_free_pages(data)
    cold = world.path / "cold"
    cold.rename(world.path / "away")
    done = world.gateway("").command("rebuild")
    assert (done.returncode, done.stdout) == (1, "") and "the backing store does not answer" in done.stderr
    (world.path / "away").rename(cold)
    with pytest.raises(GatewayFailed, match="was cut short: run `recall rebuild`"):
        world.gateway().start()
    done = world.gateway().command("rebuild")
    assert done.returncode == 0, done.stdout + done.stderr
    with world.gateway() as gateway:
        world.judge(gateway)
        assert gateway.command("check").returncode == 0


def wreck_a_leaf(data: Path) -> bool:
    """Flips bits in a page of the tree of objects; which of them is the walk's choice: the last it comes by."""
    with open(data, "rb") as file:
        walk = lmdb.verify._Verifier(file, data.stat().st_size)
        pages: list[int] = []
        inner = walk._walk_leaf

        def note(ctx: Any, pgno: int, buf: bytes) -> None:
            if ctx["name"] == "main/" + b"objects\0".hex():
                pages.append(pgno)
            inner(ctx, pgno, buf)

        walk._walk_leaf = note
        assert walk.verify() == []
    with open(data, "r+b") as file:
        file.seek(pages[-1] * PAGE)
        page = file.read(64)
        file.seek(pages[-1] * PAGE)
        file.write(bytes(byte ^ 0x5A for byte in page))
    return len(pages) > 1


def test_index_without_a_page_left_is_rebuilt_from_the_backing(world: World) -> None:
    data = world.index("standard") / "data.mdb"
    data.write_bytes(os.urandom(data.stat().st_size))
    with pytest.raises(GatewayFailed, match="recall rebuild"):
        world.gateway().start()
    done = world.gateway().command("rebuild")
    assert done.returncode == 1
    assert "0 gone, an unknown number of records unreadable, whose names cannot be known" in done.stdout
    with world.gateway() as gateway:
        world.judge(gateway, world.names(hot=True, pool="standard"))
        assert gateway.command("check").returncode == 0


@pytest.mark.parametrize("loss", ["removed", "emptied", "cut", "another's"])
def test_lost_flash_is_never_served_and_every_key_is_named(world: World, loss: str) -> None:
    for pool in ("standard", "kv"):
        flash = world.data / "pools" / pool / "flash"
        if loss == "removed":
            flash.unlink()
        elif loss == "emptied":
            os.truncate(flash, 0)
        elif loss == "cut":
            os.truncate(flash, 4096)
        else:
            flash.write_bytes(os.urandom(flash.stat().st_size))
    checked = world.gateway().command("check")
    assert checked.returncode == 1
    if loss == "another's":
        assert said(checked.stdout, "lost") == world.names(hot=True)
    with world.gateway() as gateway:
        checked = gateway.command("check")
        assert said(checked.stdout, "lost") == world.names(hot=True), checked.stdout
        relaxed = world.names(hot=True, pool="kv")
        s3 = gateway.boto3_client()
        for (bucket, key, version), body in world.bodies.items():
            chosen = {"VersionId": version} if version else {}
            if key in ("both", "cold"):
                assert s3.get_object(Bucket=bucket, Key=key, **chosen)["Body"].read() == body
                continue
            with pytest.raises(ClientError) as refused:
                s3.get_object(Bucket=bucket, Key=key, **chosen)
            status = refused.value.response["ResponseMetadata"]["HTTPStatusCode"]
            assert status == (404 if f"{bucket}/{key}" in relaxed else 500)
        checked = gateway.command("check")
        assert said(checked.stdout, "lost") == world.names(hot=True, pool="standard"), checked.stdout


def test_index_of_another_time_than_flash_serves_no_wrong_bytes(world: World) -> None:
    """A backup of the index alone: what was written over meanwhile is found by its checksum, on the same boot too."""
    shutil.copytree(world.index("standard"), world.path / "backup")
    with world.gateway() as gateway:
        s3 = gateway.boto3_client()
        world.judge(gateway)
        for round_ in range(3):  # over all of the tier
            for number in range(60):
                s3.put_object(Bucket="docs", Key=f"other/{round_}/{number}", Body=os.urandom(BODY))
                s3.delete_object(Bucket="docs", Key=f"other/{round_}/{number}")
    shutil.rmtree(world.index("standard"))
    (world.path / "backup").rename(world.index("standard"))
    with world.gateway() as gateway:
        checked = gateway.command("check")
        gone = said(checked.stdout, "lost")
        s3 = gateway.boto3_client()
        for (bucket, key, version), body in world.bodies.items():
            chosen = {"VersionId": version} if version else {}
            name = f"{bucket}/{key} version {version}" if version else f"{bucket}/{key}"
            try:
                assert s3.get_object(Bucket=bucket, Key=key, **chosen)["Body"].read() == body, name
                assert name not in gone
            except ClientError as error:
                assert name in gone, (name, error)


def test_lost_data_directory_is_rebuilt_from_the_backing(world: World) -> None:
    shutil.rmtree(world.data)
    world.data.mkdir(0o700)
    done = world.gateway().command("rebuild")
    assert done.returncode == 0, done.stdout + done.stderr
    for pool in ("standard", "kv"):
        assert f"pool {pool}: there was no index: what had no copy" in done.stdout
    with world.gateway() as gateway:
        world.judge(gateway, world.names(hot=True))
        assert gateway.command("check").returncode == 0


def test_files_of_the_keeper_are_made_again(world: World) -> None:
    for name in ("lifecycle.json", "buckets.version", "buckets.lock", "lock"):
        (world.data / name).unlink(missing_ok=True)
    for pool in ("standard", "kv"):
        for name in ("heat", "recalls", "readers", "index/lock.mdb"):
            (world.data / "pools" / pool / name).unlink()
    with world.gateway() as gateway:
        world.judge(gateway)
        assert gateway.command("check").returncode == 0


def test_emptied_backing_is_named_key_by_key(world: World) -> None:
    for path in (world.path / "cold").iterdir():
        if path.name != ".recall":
            shutil.rmtree(path)
    with world.gateway() as gateway:
        checked = gateway.command("check")
        assert said(checked.stdout, "lost") == {name for name in world.names() if "/cold" in name}
        world.judge(gateway, said(checked.stdout, "lost"), 500)
