"""s3fs (aiobotocore) against the gateway: the file-system view of a bucket."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Final

import pytest
import s3fs

from tests.support.gateway import Gateway

MIB: Final = 1 << 20


@pytest.fixture(scope="module")
def fs(gateway: Gateway) -> Any:
    return s3fs.S3FileSystem(
        key=gateway.access_key,
        secret=gateway.secret_key,
        client_kwargs={"endpoint_url": gateway.endpoint, "region_name": "us-east-1"},
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def content(size: int) -> bytes:
    return random.Random(f"s3fs {size}").randbytes(size)


@pytest.mark.parametrize("size", [0, 1000, 12 * MIB], ids=str)
def test_files_are_written_and_read(fs: Any, bucket: str, size: int) -> None:
    data = content(size)
    path = f"{bucket}/dir/a b"
    with fs.open(path, "wb", block_size=5 * MIB) as file:
        file.write(data)
    assert fs.exists(path) and not fs.exists(path + "c")
    assert fs.info(path)["size"] == size
    assert fs.cat_file(path) == data
    with fs.open(path, "rb") as file:
        file.seek(size // 2)
        assert file.read(100) == data[size // 2 : size // 2 + 100]


def test_directories(fs: Any, bucket: str) -> None:
    for name in ("a/1", "a/2", "b/c/3"):
        fs.pipe_file(f"{bucket}/{name}", name.encode())
    assert fs.ls(bucket) == [f"{bucket}/a", f"{bucket}/b"]
    assert fs.find(bucket) == [f"{bucket}/a/1", f"{bucket}/a/2", f"{bucket}/b/c/3"]
    assert fs.glob(f"{bucket}/a/*") == [f"{bucket}/a/1", f"{bucket}/a/2"]
    assert fs.isdir(f"{bucket}/b/c") and fs.isfile(f"{bucket}/b/c/3")
    assert fs.exists(f"{bucket}/b/c"), "asked with ListObjectsV2 max-keys=1"
    fs.mv(f"{bucket}/a/1", f"{bucket}/a/9")
    assert fs.cat_file(f"{bucket}/a/9") == b"a/1"
    fs.rm(bucket + "/a", recursive=True)
    assert fs.find(bucket) == [f"{bucket}/b/c/3"]


def test_put_and_get_trees(fs: Any, bucket: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(5):
        (source / f"{number}").write_bytes(content(1000 + number))
    fs.put(str(source), f"{bucket}/tree", recursive=True)
    fs.get(f"{bucket}/tree", str(tmp_path / "back"), recursive=True)
    for number in range(5):
        assert (tmp_path / "back" / f"{number}").read_bytes() == content(1000 + number)


def test_attributes_are_set_by_copying_onto_itself(fs: Any, bucket: str) -> None:
    fs.pipe_file(f"{bucket}/k", b"x")
    fs.setxattr(f"{bucket}/k", colour="blue")
    assert fs.getxattr(f"{bucket}/k", "colour") == "blue"
    assert fs.cat_file(f"{bucket}/k") == b"x"


def test_ranges_and_many_at_once(fs: Any, bucket: str) -> None:
    data = {f"{bucket}/{number}": content(2000 + number) for number in range(20)}
    fs.pipe(data)
    assert fs.cat(list(data)) == data
    starts = [100] * len(data)
    assert fs.cat_ranges(list(data), starts, [200] * len(data)) == [body[100:200] for body in data.values()]
    with pytest.raises(FileNotFoundError):
        fs.cat_file(f"{bucket}/none")


def test_exclusive_create(fs: Any, bucket: str) -> None:
    fs.pipe_file(f"{bucket}/once", b"first", mode="create")
    with pytest.raises(FileExistsError):
        fs.pipe_file(f"{bucket}/once", b"second", mode="create")
    assert fs.cat_file(f"{bucket}/once") == b"first"
