"""obstore (the Rust object_store crate) against the gateway: copies without Content-Length, conditional puts, suffix ranges."""

from __future__ import annotations

import random
from typing import Final

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, NotModifiedError, PreconditionError
from obstore.store import S3Store

from tests.support.gateway import Gateway

MIB: Final = 1 << 20


@pytest.fixture
def store(gateway: Gateway, bucket: str) -> S3Store:
    return S3Store(
        bucket,
        endpoint=gateway.endpoint,
        access_key_id=gateway.access_key,
        secret_access_key=gateway.secret_key,
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )


def content(size: int) -> bytes:
    return random.Random(f"obstore {size}").randbytes(size)


@pytest.mark.parametrize("size", [0, 1000, 12 * MIB], ids=str)
def test_objects(store: S3Store, size: int) -> None:
    data = content(size)
    put = obstore.put(store, "a/b c@1:2", data, chunk_size=5 * MIB)
    head = obstore.head(store, "a/b c@1:2")
    assert (head["size"], head["e_tag"]) == (size, put["e_tag"])
    got = obstore.get(store, "a/b c@1:2")
    assert bytes(got.bytes()) == data
    obstore.delete(store, "a/b c@1:2")
    with pytest.raises(FileNotFoundError):
        obstore.get(store, "a/b c@1:2")


def test_ranges(store: S3Store) -> None:
    data = content(1000)
    obstore.put(store, "k", data)
    assert bytes(obstore.get_range(store, "k", start=10, end=20)) == data[10:20]
    assert bytes(obstore.get(store, "k", options={"range": {"suffix": 7}}).bytes()) == data[-7:]
    assert bytes(obstore.get(store, "k", options={"range": {"offset": 990}}).bytes()) == data[990:]
    many = obstore.get_ranges(store, "k", starts=[0, 500, 999], lengths=[5, 5, 1])
    assert [bytes(part) for part in many] == [data[:5], data[500:505], data[999:]]


def test_conditional_puts(store: S3Store) -> None:
    first = obstore.put(store, "lock", b"1", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "lock", b"2", mode="create")
    obstore.put(store, "lock", b"3", mode={"e_tag": first["e_tag"]})
    with pytest.raises(PreconditionError):
        obstore.put(store, "lock", b"4", mode={"e_tag": first["e_tag"]})
    assert bytes(obstore.get(store, "lock").bytes()) == b"3"


def test_conditional_reads(store: S3Store) -> None:
    etag = obstore.put(store, "k", b"x")["e_tag"]
    assert etag is not None
    assert bytes(obstore.get(store, "k", options={"if_match": etag}).bytes()) == b"x"
    with pytest.raises(NotModifiedError):
        obstore.get(store, "k", options={"if_none_match": etag})
    with pytest.raises(PreconditionError):
        obstore.get(store, "k", options={"if_match": '"other"'})


def test_copy_and_rename(store: S3Store) -> None:
    obstore.put(store, "from@x", b"moved")
    obstore.copy(store, "from@x", "copy")
    obstore.rename(store, "from@x", "to")
    assert bytes(obstore.get(store, "copy").bytes()) == bytes(obstore.get(store, "to").bytes()) == b"moved"
    with pytest.raises(FileNotFoundError):
        obstore.head(store, "from@x")


def test_list_and_bulk_delete(store: S3Store) -> None:
    keys = [f"dir/{number:03d}" for number in range(20)] + ["top"]
    for key in keys:
        obstore.put(store, key, b"x")
    found = [row["path"] for batch in obstore.list(store, chunk_size=7) for row in batch]
    assert sorted(found) == keys
    grouped = obstore.list_with_delimiter(store)
    assert list(grouped["common_prefixes"]) == ["dir"]
    assert [row["path"] for row in grouped["objects"]] == ["top"]
    after = [row["path"] for batch in obstore.list(store, offset="dir/017") for row in batch]
    assert sorted(after) == ["dir/018", "dir/019", "top"]
    obstore.delete(store, keys)
    assert [row for batch in obstore.list(store) for row in batch] == []


def test_attributes(store: S3Store) -> None:
    obstore.put(store, "k", b"x", attributes={"Content-Type": "text/x", "who": "me"})
    attributes = obstore.get(store, "k").attributes
    assert attributes["Content-Type"] == "text/x" and attributes["who"] == "me"


def test_writer_and_reader(store: S3Store) -> None:
    data = content(11 * MIB)
    with obstore.open_writer(store, "file", buffer_size=5 * MIB) as writer:
        for at in range(0, len(data), MIB):
            writer.write(data[at : at + MIB])
    reader = obstore.open_reader(store, "file", buffer_size=MIB)
    reader.seek(5 * MIB)
    assert bytes(reader.read(100)) == data[5 * MIB : 5 * MIB + 100]
    reader.close()
