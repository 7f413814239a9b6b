"""Backing URLs: what each means, and the fault that a bad one names."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tiering.backing import open_backing, open_store
from tiering.backing.directory import DirectoryBacking
from tiering.backing.memory import MemoryBacking
from tiering.backing.minio import MinioBacking
from tiering.backing.streams import BytesSource
from tiering.backing.wrappers import Guarded, Tally
from tiering.ports import Backing, BackingUnavailable

ENV = {"RECALL_BACKING_ACCESS_KEY": "a", "RECALL_BACKING_SECRET_KEY": "s"}
ENDPOINT = "endpoint=http://127.0.0.1:1"


def closed(backing: Backing) -> Backing:
    asyncio.run(backing.close())
    return backing


def test_each_scheme_opens_its_store_without_touching_it(tmp_path: Path) -> None:
    assert isinstance(closed(open_store("memory:", {})), MemoryBacking)
    assert isinstance(closed(open_store(f"file://{tmp_path}/not%20there", {})), DirectoryBacking)
    assert isinstance(closed(open_store(f"s3://bucket/a/b/?{ENDPOINT}&region=", ENV)), MinioBacking)
    assert list(tmp_path.iterdir()) == []


def test_the_older_names_of_the_credentials_are_taken_second() -> None:
    aws = {"AWS_ACCESS_KEY_ID": "aws", "AWS_SECRET_ACCESS_KEY": "s"}
    closed(open_store(f"s3://bucket?{ENDPOINT}", aws))
    backing = open_store(f"s3://bucket?{ENDPOINT}", {**aws, **ENV})
    assert isinstance(closed(backing), MinioBacking)
    assert backing._client._provider.retrieve().access_key == "a"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "scheme ''"),
        ("/var/lib", "scheme ''"),
        ("ftp://x/y", "scheme 'ftp'"),
        ("file://host/dir", "names a host"),
        ("file:relative", "absolute directory"),
        ("file:///d?bogus=1", "unknown option 'bogus'"),
        ("file:///d?endpoint=http://x", "unknown option 'endpoint'"),
        ("file:///d?create=yes", "create=yes"),
        ("file:///d#x", "#fragment"),
        ("s3://?" + ENDPOINT, "s3://bucket"),
        ("s3://key:secret@bucket?" + ENDPOINT, "credentials come from the environment"),
        (f"s3://Bucket_1?{ENDPOINT}", "not a bucket name"),
        ("s3://bucket", "endpoint="),
        ("s3://bucket?endpoint=host:9000", "endpoint="),
        ("s3://bucket?endpoint=http://u:p@host:9000", "endpoint="),
        ("s3://bucket?endpoint=http://host:9000/path", "only scheme, host and port"),
        (f"s3://bucket?{ENDPOINT}&{ENDPOINT}", "given twice"),
        (f"s3://bucket/a//b?{ENDPOINT}", "segment"),
        (f"s3://bucket/../b?{ENDPOINT}", "segment"),
    ],
)
def test_a_bad_url_is_refused_by_its_fault(url: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault.replace("?", r"\?")):
        open_store(url, ENV)


@pytest.mark.parametrize(
    ("env", "fault"),
    [
        ({}, "no credentials"),
        ({"RECALL_BACKING_ACCESS_KEY": "a"}, "RECALL_BACKING_ACCESS_KEY and RECALL_BACKING_SECRET_KEY only one"),
        ({"AWS_SECRET_ACCESS_KEY": "s"}, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one"),
    ],
)
def test_missing_credentials_are_named(env: dict[str, str], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        open_store(f"s3://bucket?{ENDPOINT}", env)


def test_open_backing_wraps_and_meters(tmp_path: Path) -> None:
    async def main() -> None:
        tally = Tally()
        backing = open_backing(f"file://{tmp_path}/made?create=true", {}, record=tally)
        assert isinstance(backing, Guarded)
        await backing.put("k", BytesSource(b"x"))
        assert tally.calls == {("put", "ok"): 1}
        await backing.close()
        plain = open_backing(f"file://{tmp_path}/missing", {})
        with pytest.raises(BackingUnavailable, match="directory is missing"):
            await plain.stat("k")
        await plain.close()

    asyncio.run(main())
