"""`POST /bucket?recall=…` through the handlers, over the memory store."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import pytest

from s3api import frames
from s3api.handlers import HANDLERS
from s3api.handlers.batch import HELD_BYTES, TOGETHER_BYTES
from s3api.message import StreamBody
from tests.unit.handler_harness import Harness, Reply
from tiering.contract import (
    OBJECT_BYTES_MAX,
    Busy,
    NoSuchKey,
    ObjectInfo,
    PutOptions,
    PutResult,
    Reading,
    ReadOptions,
    Writer,
)
from tiering.memory import MemoryStore

MISSING = {"code": "NoSuchKey", "message": "The specified key does not exist.", "status": 404}


@pytest.fixture
def s3() -> Harness:
    harness = Harness()
    harness("PUT", "/bucket")
    for key, data in (("a", b"first"), ("b", b""), ("c", b"third")):
        harness("PUT", f"/bucket/{key}", {}, data)
    return harness


def ask(s3: Harness, verb: str, **document: Any) -> Reply:
    return s3("POST", f"/bucket?recall={verb}", {}, json.dumps(document).encode())


def answers(reply: Reply) -> Any:
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def cut(body: bytes) -> list[tuple[int, bytes]]:
    """(status, content) of each frame."""
    found = []
    while body:
        head = frames.unpack(body)
        found.append((head.status, body[frames.HEAD_BYTES : frames.HEAD_BYTES + head.length]))
        body = body[frames.HEAD_BYTES + head.length :]
    return found


def put_body(*entries: tuple[dict[str, Any], bytes]) -> bytes:
    table = json.dumps({"objects": [{"size": len(data), **said} for said, data in entries]}).encode()
    return struct.pack("<I", len(table)) + table + b"".join(data for _, data in entries)


def test_lookup_says_the_leading_run_and_each_key(s3: Harness) -> None:
    s3("POST", "/bucket/c?recall", {"x-recall-ttl": "60", "x-recall-pin": "true"})
    s3("POST", "/bucket/b?recall", {"x-recall-tier": "cold", "x-recall-pin": "5"})
    found = answers(ask(s3, "lookup", keys=["a", "b", "none", "c"]))
    assert found["run"] == 2
    a, b, none, c = found["objects"]
    assert (a["size"], a["tier"], none) == (5, "hot", None)
    assert (b["size"], b["tier"], b["pin_ms"]) == (0, "cold", 5000)
    assert (c["size"], c["ttl_ms"], c["pin_ms"]) == (5, 60_000, -1)
    assert set(a) == {"size", "tier", "etag"}
    assert answers(ask(s3, "lookup", keys=["none", "a"]))["run"] == 0
    assert answers(ask(s3, "lookup", keys=["a", "c"]))["run"] == 2


def test_lookup_sees_no_expired_object(s3: Harness) -> None:
    s3("POST", "/bucket/a?recall", {"x-recall-ttl": "60"})
    s3.clock.advance(60)
    assert answers(ask(s3, "lookup", keys=["a", "c"])) == {
        "run": 0,
        "objects": [None, answers(ask(s3, "lookup", keys=["c"]))["objects"][0]],
    }


def test_get_frames_the_objects_in_the_order_asked(s3: Harness) -> None:
    reply = ask(s3, "get", keys=["c", "a", "none", "b", "a"])
    assert reply.headers["content-type"] == frames.FRAMES_TYPE
    assert cut(reply.body) == [(200, b"third"), (200, b"first"), (404, b""), (200, b""), (200, b"first")]


def test_get_stops_at_the_first_miss_when_asked(s3: Harness) -> None:
    reply = ask(s3, "get", keys=["a", "b", "none", "c"], stop_at_miss=True)
    assert cut(reply.body) == [(200, b"first"), (200, b""), (404, b"")]


def test_get_takes_cold_objects_for_misses_when_asked(s3: Harness) -> None:
    s3("POST", "/bucket/c?recall", {"x-recall-tier": "cold"})
    assert cut(ask(s3, "get", keys=["c", "a"], hot_only=True).body) == [(404, b""), (200, b"first")]
    reply = ask(s3, "get", keys=["a", "c"])
    assert cut(reply.body) == [(200, b"first"), (200, b"third")]
    assert frames.unpack(reply.body[frames.HEAD_BYTES + 5 :]).flags == frames.COLD


def test_put_stores_each_object_on_its_own(s3: Harness) -> None:
    body = put_body(
        ({"key": "new", "pin": 900, "ttl": "60; sliding"}, b"n" * 70_000),
        ({"key": "a", "if_absent": True}, b"other"),
        ({"key": "c"}, b"replaced"),
        ({"key": "bad", "pin": "maybe"}, b"xyz"),
        ({"key": "empty"}, b""),
    )
    reply = s3("POST", "/bucket?recall=put", {"x-amz-meta-model": "m", "content-type": frames.FRAMES_TYPE}, body)
    new, a, c, bad, empty = answers(reply)["objects"]
    assert (a["code"], a["status"], bad["code"]) == ("PreconditionFailed", 412, "InvalidArgument")
    head = s3("HEAD", "/bucket/new")
    assert head.headers["etag"] == f'"{new["etag"]}"'
    assert head.headers["x-amz-meta-model"] == "m"
    assert head.headers["content-type"] == "binary/octet-stream"
    assert "x-recall-pinned-until" in head.headers and "x-recall-expires" in head.headers
    assert s3("GET", "/bucket/new").body == b"n" * 70_000
    assert s3("GET", "/bucket/a").body == b"first"
    assert s3("GET", "/bucket/c").body == b"replaced" and c["etag"]
    assert s3("HEAD", "/bucket/bad").status == 404
    assert s3("HEAD", "/bucket/empty").length == 0 and empty["etag"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "IncompleteBody"),
        (b"\1\0\0\0{", "InvalidRequest"),
        (put_body(({"key": "x"}, b"abc"))[:-1], "InvalidRequest"),
        (put_body(({"key": "x"}, b"abc")) + b"!", "InvalidRequest"),
        (put_body(({"key": "x", "size": -1}, b"")), "InvalidRequest"),
        (put_body(({"key": ""}, b"")), "InvalidRequest"),
        (put_body(({"key": "k" * 1025}, b"")), "KeyTooLongError"),
        (put_body(({"key": "x", "colour": 1}, b"")), "InvalidRequest"),
        (struct.pack("<I", 1 << 31), "MaxMessageLengthExceeded"),
    ],
)
def test_bad_puts_store_nothing(s3: Harness, body: bytes, code: str) -> None:
    assert s3("POST", "/bucket?recall=put", {}, body).code == code
    assert s3("HEAD", "/bucket/x").status == 404


def test_pin_unpin_touch_and_delete_say_each_outcome(s3: Harness) -> None:
    assert answers(ask(s3, "pin", keys=["a", "none"], pin=900))["objects"] == [{}, MISSING]
    assert "x-recall-pinned-until" in s3("HEAD", "/bucket/a").headers
    assert answers(ask(s3, "unpin", keys=["a"]))["objects"] == [{}]
    assert "x-recall-pinned-until" not in s3("HEAD", "/bucket/a").headers
    assert answers(ask(s3, "delete", keys=["a", "none"]))["objects"] == [{}, {}]
    assert s3("HEAD", "/bucket/a").status == 404


def test_touch_starts_a_sliding_ttl_again_and_leaves_an_absolute_one(s3: Harness) -> None:
    s3("POST", "/bucket/a?recall", {"x-recall-ttl": "60; sliding"})
    s3("POST", "/bucket/c?recall", {"x-recall-ttl": "60"})
    s3.clock.advance(40)
    assert answers(ask(s3, "touch", keys=["a", "b", "c"]))["objects"] == [{}, {}, {}]
    s3.clock.advance(40)
    assert [s3("HEAD", f"/bucket/{key}").status for key in "abc"] == [200, 200, 404]
    assert answers(ask(s3, "touch", keys=["b"], ttl=5))["objects"] == [{}]
    s3.clock.advance(5)
    assert s3("HEAD", "/bucket/b").status == 404


@pytest.mark.parametrize("verb", ["lookup", "get", "pin", "unpin", "touch", "delete"])
@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"keys": []}, "InvalidRequest"),
        ({"keys": [""]}, "InvalidRequest"),
        ({"keys": ["a"] * 4097}, "InvalidRequest"),
        ({"keys": "a"}, "InvalidRequest"),
        ({"keys": ["k" * 1025]}, "KeyTooLongError"),
        ({"keys": ["a"], "colour": 1}, "InvalidRequest"),
        ({}, "InvalidRequest"),
    ],
)
def test_bad_documents(s3: Harness, verb: str, document: dict[str, Any], code: str) -> None:
    assert ask(s3, verb, **document).code == code


def test_other_verbs_and_buckets_are_refused(s3: Harness) -> None:
    reply = ask(s3, "list", keys=["a"])
    assert (reply.code, reply.fields["ArgumentName"]) == ("InvalidArgument", "recall")
    for verb in ("lookup", "get", "pin", "unpin", "touch", "delete"):
        body = json.dumps({"keys": ["a"]}).encode()
        assert s3("POST", f"/nowhere?recall={verb}", {}, body).code == "NoSuchBucket"
    assert s3("POST", "/nowhere?recall=put", {}, put_body(({"key": "x"}, b""))).code == "NoSuchBucket"


@pytest.mark.parametrize("size", ["9" * 4300, "-1", str(OBJECT_BYTES_MAX + 1), "9" * 5000])
def test_put_refuses_a_size_that_no_object_has(s3: Harness, size: str) -> None:
    entry = f'{{"key":"x","size":{size}}}'
    table = f'{{"objects":[{entry},{entry}]}}'.encode()
    reply = s3("POST", "/bucket?recall=put", {}, struct.pack("<I", len(table)) + table)
    assert (reply.status, reply.code) == (400, "InvalidRequest")


def test_touch_refuses_a_ttl_of_blanks_at_once(s3: Harness) -> None:
    reply = ask(s3, "touch", keys=["a"], ttl="1" + " " * 1_000_000 + "x")
    assert (reply.status, reply.code) == (400, "InvalidArgument")


class Elsewhere(MemoryStore):
    """Used by others too: room for `room` more objects, and keys that vanish between look-up and opening. Bodies are bytes."""

    room = 1 << 30
    asked = 0
    vanishing: frozenset[str] = frozenset()

    def put(self, bucket: str, key: str, size: int, options: PutOptions) -> Writer:
        self.asked += 1
        self.room -= 1
        if self.room < 0:
            raise Busy("no region became free in time", retry_s=5)
        return super().put(bucket, key, size, options)

    def open(self, bucket: str, key: str, options: ReadOptions) -> Reading:
        if key in self.vanishing:
            raise NoSuchKey(bucket=bucket, key=key)
        reading = super().open(bucket, key, options)
        if reading.body is not None:  # at hand, as the short ones of a hot store
            reading.body = self._find(bucket, key, None).data[reading.start : reading.stop]
        return reading


def test_a_put_waits_for_room_once(s3: Harness) -> None:
    """Each that follows would wait as long for what this request itself may hold, and the client's patience is one request's."""
    store = s3.store = Elsewhere(s3.clock)
    s3("PUT", "/bucket")
    store.room, store.asked = 3, 0
    reply = s3("POST", "/bucket?recall=put", {}, put_body(*[({"key": f"k{n}"}, b"x") for n in range(10)]))
    outcomes = answers(reply)["objects"]
    assert [outcome.get("code") for outcome in outcomes] == [None] * 3 + ["SlowDown"] * 7
    assert store.asked == 4
    assert answers(ask(s3, "lookup", keys=[f"k{n}" for n in range(10)]))["run"] == 3


class Laggard(MemoryStore):
    """Of two writes the earlier one takes longer."""

    turns = 8

    def put(self, bucket: str, key: str, size: int, options: PutOptions) -> Writer:
        writer = super().put(bucket, key, size, options)
        commit, turns = writer.commit, self.turns
        self.turns //= 2

        async def late(result: PutResult) -> ObjectInfo:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await commit(result)

        writer.commit = late  # type: ignore[method-assign]
        return writer


def test_of_a_key_that_is_put_twice_the_last_one_stays(s3: Harness) -> None:
    store = s3.store = Laggard(s3.clock)
    s3("PUT", "/bucket")
    store.turns = 8
    twice = put_body(({"key": "k"}, b"1"), ({"key": "other"}, b"2"), ({"key": "k"}, b"3"), ({"key": "k"}, b"4"))
    assert [set(outcome) for outcome in answers(s3("POST", "/bucket?recall=put", {}, twice))["objects"]] == [
        {"etag"}
    ] * 4
    assert s3("GET", "/bucket/k").body == b"4"
    store.turns = 8
    absent = put_body(({"key": "n", "if_absent": True}, b"1"), ({"key": "n", "if_absent": True}, b"2"))
    outcomes = answers(s3("POST", "/bucket?recall=put", {}, absent))["objects"]
    assert [outcome.get("code") for outcome in outcomes] == [None, "PreconditionFailed"]
    assert s3("GET", "/bucket/n").body == b"1"


def test_get_stops_at_what_has_gone_since_the_look_up(s3: Harness) -> None:
    store = s3.store = Elsewhere(s3.clock)
    s3("PUT", "/bucket")
    for key in "abc":
        s3("PUT", f"/bucket/{key}", {}, key.encode())
    store.vanishing = frozenset("b")
    assert cut(ask(s3, "get", keys=["a", "b", "c"]).body) == [(200, b"a"), (404, b""), (200, b"c")]
    assert cut(ask(s3, "get", keys=["a", "b", "c"], stop_at_miss=True).body) == [(200, b"a"), (404, b"")]


def test_many_short_objects_are_not_held_in_memory_together(s3: Harness) -> None:
    """A reply of all the keys there may be would be 128 MiB."""
    s3.store = Elsewhere(s3.clock)
    s3("PUT", "/bucket")
    s3("PUT", "/bucket/a", {}, b"first")
    data = {f"k{n}": bytes([n]) * 32_000 for n in range(200)}
    assert sum(map(len, data.values())) > HELD_BYTES
    s3("POST", "/bucket?recall=put", {}, put_body(*[({"key": key}, value) for key, value in data.items()]))
    body = json.dumps({"keys": ["none", *data, "a", "none"]}).encode()

    async def pieces() -> list[bytes]:
        response = await HANDLERS["BatchGet"](s3.call("POST", "/bucket?recall=get", {}, body))
        assert isinstance(response.body, StreamBody)
        return [bytes(piece) async for piece in response.body.chunks]

    found = asyncio.run(pieces())
    assert max(map(len, found)) < 2 * TOGETHER_BYTES
    assert cut(b"".join(found)) == [(404, b""), *((200, value) for value in data.values()), (200, b"first"), (404, b"")]
