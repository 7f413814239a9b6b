"""Batch calls against a real gateway over a socket: hot blocks out of files, cold ones recalled, keys judged one by one."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import struct
from contextlib import ExitStack, closing
from typing import Any

import pytest

from s3api import frames
from tests.s3.rawclient import UNSIGNED, RawClient, Reply
from tests.support.descriptors import descriptors
from tests.support.gateway import Gateway

BLOCK = bytes(range(256)) * 1024
"""256 KiB: sent out of the file; shorter ones are read into memory."""


def ask(raw: RawClient, bucket: str, verb: str, body: bytes = b"", **document: Any) -> Reply:
    body = body or json.dumps(document).encode()
    reply = raw.request("POST", f"/{bucket}", query=(("recall", verb),), body=body)
    assert reply.status == 200, reply.body
    return reply


def objects(reply: Reply) -> Any:
    return json.loads(reply.body)["objects"]


def cut(body: bytes) -> list[tuple[int, bytes]]:
    """(status, content) of each frame."""
    found = []
    while body:
        head = frames.unpack(body)
        found.append((head.status, body[frames.HEAD_BYTES : frames.HEAD_BYTES + head.length]))
        body = body[frames.HEAD_BYTES + head.length :]
    return found


def put_body(blocks: dict[str, bytes]) -> bytes:
    table = json.dumps({"objects": [{"key": key, "size": len(data)} for key, data in blocks.items()]}).encode()
    return struct.pack("<I", len(table)) + table + b"".join(blocks.values())


def blocks(count: int) -> dict[str, bytes]:
    """Short and long ones in turn, none alike."""
    return {f"block/{n:03d}": struct.pack("<I", n) + (BLOCK if n % 2 else BLOCK[:1000]) for n in range(count)}


@pytest.mark.parametrize("pool", ["standard", "kv"])
def test_blocks_put_together_are_found_and_read_back_in_order(raw: RawClient, s3: Any, pool: str) -> None:
    bucket = f"batch-{pool}"
    raw.request("PUT", f"/{bucket}", headers={"x-recall-pool": pool})
    stored = blocks(40)
    assert all("etag" in outcome for outcome in objects(ask(raw, bucket, "put", put_body(stored))))
    keys = [*stored, "block/none"]
    found = json.loads(ask(raw, bucket, "lookup", keys=keys).body)
    assert found["run"] == 40
    assert [entry and entry["size"] for entry in found["objects"]] == [*map(len, stored.values()), None]
    reply = ask(raw, bucket, "get", keys=keys[::-1])
    assert cut(reply.body) == [(404, b""), *((200, data) for data in list(stored.values())[::-1])]
    short = [key for key, data in stored.items() if len(data) < 2000]
    assert cut(ask(raw, bucket, "get", keys=short).body) == [(200, stored[key]) for key in short]
    assert s3.get_object(Bucket=bucket, Key=keys[1])["Body"].read() == stored[keys[1]]
    assert objects(ask(raw, bucket, "delete", keys=keys)) == [{}] * 41
    assert json.loads(ask(raw, bucket, "lookup", keys=keys).body)["run"] == 0


def test_cold_blocks_are_recalled_in_their_turn(raw: RawClient, bucket: str) -> None:
    stored = blocks(24)
    ask(raw, bucket, "put", put_body(stored))
    for key in list(stored)[::3]:
        assert (
            raw.request("POST", f"/{bucket}/{key}", query=(("recall", ""),), headers={"x-recall-tier": "cold"}).status
            == 200
        )
    tiers = [entry["tier"] for entry in objects(ask(raw, bucket, "lookup", keys=list(stored)))]
    assert tiers == ["cold" if n % 3 == 0 else "hot" for n in range(24)]
    hot_only = cut(ask(raw, bucket, "get", keys=list(stored), hot_only=True).body)
    assert [status for status, _ in hot_only] == [404 if n % 3 == 0 else 200 for n in range(24)]
    reply = ask(raw, bucket, "get", keys=list(stored), stop_at_miss=True)
    assert cut(reply.body) == [(200, data) for data in stored.values()]


def test_pins_leases_and_touches(raw: RawClient, bucket: str) -> None:
    ask(raw, bucket, "put", put_body(blocks(3)))
    keys = list(blocks(3))
    assert objects(ask(raw, bucket, "pin", keys=keys, pin=900)) == [{}, {}, {}]
    assert all(0 < entry["pin_ms"] <= 900_000 for entry in objects(ask(raw, bucket, "lookup", keys=keys)))
    assert objects(ask(raw, bucket, "unpin", keys=keys)) == [{}, {}, {}]
    assert objects(ask(raw, bucket, "touch", keys=keys, ttl="60; sliding")) == [{}, {}, {}]
    assert all(0 < entry["ttl_ms"] <= 60_000 for entry in objects(ask(raw, bucket, "lookup", keys=keys)))
    assert objects(ask(raw, bucket, "touch", keys=[keys[0], "none"]))[1]["code"] == "NoSuchKey"


def test_a_put_cut_short_stores_nothing(raw: RawClient, bucket: str) -> None:
    body = put_body(blocks(4))
    reply = raw.request("POST", f"/{bucket}", query=(("recall", "put"),), body=body[:-1])
    assert (reply.status, reply.code) == (400, "InvalidRequest")
    assert json.loads(ask(raw, bucket, "lookup", keys=list(blocks(4))).body)["run"] == 0


def test_the_whole_request_is_refused_before_its_keys(raw: RawClient) -> None:
    reply = raw.request("POST", "/no-such-bucket", query=(("recall", "lookup"),), body=b'{"keys": ["a"]}')
    assert (reply.status, reply.code) == (404, "NoSuchBucket")


def test_a_bucket_that_encrypts_does_so_for_batches(raw: RawClient, s3: Any, bucket: str) -> None:
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    stored = blocks(6)
    ask(raw, bucket, "put", put_body(stored))
    assert s3.head_object(Bucket=bucket, Key="block/001")["ServerSideEncryption"] == "AES256"
    assert [entry["size"] for entry in objects(ask(raw, bucket, "lookup", keys=list(stored)))] == [
        *map(len, stored.values())
    ]
    assert cut(ask(raw, bucket, "get", keys=list(stored)).body) == [(200, data) for data in stored.values()]
    sealed = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": b"k" * 32}
    s3.put_object(Bucket=bucket, Key="own-key", Body=b"secret", **sealed)
    assert cut(ask(raw, bucket, "get", keys=["own-key", "block/000"]).body) == [(400, b""), (200, stored["block/000"])]


def test_a_put_of_many_takes_no_headers_that_need_other_rights(raw: RawClient, bucket: str) -> None:
    for name, value in (
        ("x-amz-acl", "public-read"),
        ("x-amz-tagging", "a=b"),
        ("x-amz-server-side-encryption", "AES256"),
    ):
        reply = raw.request(
            "POST", f"/{bucket}", query=(("recall", "put"),), headers={name: value}, body=put_body({"k": b"x"})
        )
        assert (reply.status, reply.code) == (400, "InvalidRequest")
        assert name in reply.texts("Message")[0]


def test_long_blocks_are_read_without_a_descriptor_left(raw: RawClient, bucket: str, gateway: Gateway) -> None:
    stored = blocks(4)
    ask(raw, bucket, "put", put_body(stored))
    with ExitStack() as taken:
        for name, pid in gateway.pids().items():
            if name.startswith("worker-"):
                taken.enter_context(descriptors(0, pid))
        reply = ask(raw, bucket, "get", keys=list(stored))
    assert cut(reply.body) == [(200, data) for data in stored.values()]


@pytest.mark.parametrize("verb", ["put", "delete"])
def test_a_batch_that_is_not_what_its_digest_says_does_nothing(raw: RawClient, bucket: str, verb: str) -> None:
    ask(raw, bucket, "put", put_body({"k": b"stays"}))
    body = put_body({"k": b"x"}) if verb == "put" else b'{"keys": ["k"]}'
    for digest, code in ((hashlib.md5(body + b"?").digest(), "BadDigest"), (b"?", "InvalidDigest")):
        headers = {"content-md5": base64.b64encode(digest).decode()}
        reply = raw.request("POST", f"/{bucket}", query=(("recall", verb),), headers=headers, body=body)
        assert (reply.status, reply.code) == (400, code)
    assert cut(ask(raw, bucket, "get", keys=["k"]).body) == [(200, b"stays")]
    headers = {"content-md5": base64.b64encode(hashlib.md5(body).digest()).decode()}
    assert raw.request("POST", f"/{bucket}", query=(("recall", verb),), headers=headers, body=body).status == 200


def test_a_block_that_vanishes_does_not_take_those_before_it_along(raw: RawClient, s3: Any, bucket: str) -> None:
    """Opened ahead of its turn, but missed in it."""
    stored = {f"block/{n:02d}": struct.pack("<I", n) + BLOCK * 8 for n in range(24)}
    s3.put_object(Bucket=bucket, Key="block/00", Body=stored["block/00"], ServerSideEncryption="AES256")
    ask(raw, bucket, "put", put_body({key: data for key, data in stored.items() if key != "block/00"}))
    document = json.dumps({"keys": list(stored)}).encode()
    headers = raw.signer.sign("POST", f"/{bucket}", (("recall", "get"),), {"host": raw.host}, UNSIGNED)
    with closing(http.client.HTTPConnection(raw.host, timeout=30)) as connection:
        connection.request("POST", f"/{bucket}?recall=get", document, headers)
        reply = connection.getresponse()
        s3.delete_object(Bucket=bucket, Key="block/20")  # more lies before it than sockets hold, so it is not open yet
        with pytest.raises(http.client.IncompleteRead) as broken:
            reply.read()
    got = broken.value.partial
    found = cut(got)
    assert [data for _, data in found] == [*list(stored.values())[:20], b""]
