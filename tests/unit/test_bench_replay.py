"""The replay, its blocks and its client, against a store of a few lines. Kind: unit tests of `bench`."""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Iterator

import pytest

from bench.block import BlockMaker, block_key
from bench.client import ClientError, Connection
from bench.replay import capacity_bytes, gateway_settings, region_bytes, replay, tier_moves
from bench.signing import Signer
from bench.trace import Trace, parse_trace
from gateway import config
from s3api.sigv4 import SigV4
from tiering.pool import REGION_BYTES_MAX, REGIONS_MIN

KIB = 1 << 10


# --- the trace --------------------------------------------------------------------------------------------------------


def test_parse_trace_reads_blocks_and_arrivals() -> None:
    trace = parse_trace(
        ['{"timestamp": 0, "hash_ids": [1, 2]}', '{"timestamp": 1500, "input_length": 9, "hash_ids": [1]}']
    )
    assert trace.requests == ((1, 2), (1,))
    assert trace.arrivals_s == (0.0, 1.5)
    assert (trace.references, trace.distinct) == (3, 2)


@pytest.mark.parametrize("line", ["{", "[]", '{"hash_ids": [1]}', '{"timestamp": 0, "hash_ids": ["a"]}'])
def test_parse_trace_names_the_line_that_is_no_request(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 of the trace"):
        parse_trace(['{"timestamp": 0, "hash_ids": []}', line])


# --- blocks -----------------------------------------------------------------------------------------------------------


def test_block_is_the_same_each_time_and_told_apart_in_every_64_bytes() -> None:
    one, again, other = BlockMaker(4 * KIB).make(7), BlockMaker(4 * KIB).make(7), BlockMaker(4 * KIB).make(8)
    assert one == again
    assert len(one) == 4 * KIB
    assert all(one[at : at + 64] != other[at : at + 64] for at in range(0, 4 * KIB, 64))
    windows = {bytes(one[at : at + 64]) for at in range(0, 4 * KIB, 64)}
    assert len(windows) == 64, "and says from where in the block a piece is"


@pytest.mark.parametrize("size", [1, 7, 8, 63, 64, 65, 1000])
def test_block_has_the_size_asked_for(size: int) -> None:
    assert len(BlockMaker(size).make(3)) == size


def test_block_key_has_lmcaches_form() -> None:
    assert re.fullmatch(r"[^/@]+@1@0@[0-9a-f]{16}@bfloat16", block_key(12))
    assert block_key(12) != block_key(21)


# --- signing ----------------------------------------------------------------------------------------------------------


def test_signer_head_is_accepted_by_the_gateways_verifier() -> None:
    now_s = 1_800_000_000
    head = Signer("127.0.0.1:9000", "someone", "secret-of-someone", lambda: now_s).head(
        "PUT", f"/kv/{block_key(1)}", 10, (("x-recall-pool", "kv"),)
    )
    line, _, rest = head.partition(b"\r\n")
    assert line.endswith(b"@bfloat16 HTTP/1.1".replace(b"@", b"%40"))
    assert rest.endswith(b"\r\n\r\n")
    headers = {name: value for name, _, value in (field.partition(b": ") for field in rest[:-4].split(b"\r\n"))}
    assert headers[b"content-length"] == b"10"
    secrets = {"someone": "secret-of-someone"}
    verified = SigV4(secrets.get, skew_s=900).verify("PUT", line.split(b" ")[1], b"", headers, now_s)
    assert verified is not None
    assert verified.access_key == "someone"
    assert verified.payload == "UNSIGNED-PAYLOAD"


# --- sizes and figures ------------------------------------------------------------------------------------------------


def trace_of(*requests: tuple[int, ...]) -> Trace:
    return Trace(requests, tuple(0.0 for _ in requests))


@pytest.mark.parametrize(("text", "wanted"), [("50%", 5000), ("0.5", 5000), ("64k", 64 * KIB), ("123", 123)])
def test_capacity_is_a_share_of_the_distinct_bytes_or_a_size(text: str, wanted: int) -> None:
    assert capacity_bytes(text, trace_of(tuple(range(10)), (1, 2)), 1000) == wanted


@pytest.mark.parametrize(
    ("block", "capacity", "wanted"),
    [
        (64 * KIB, 1 << 30, 256 * KIB),
        (2 << 20, 8 << 30, 8 << 20),
        (100_000, 1 << 30, 512 * KIB),  # rounded up to a power of two
        (512, 1 << 30, 64 * KIB),  # the gateway's smallest
        (64 * KIB, REGIONS_MIN << 17, 128 * KIB),  # a pool's least number of regions must be left
        (64 << 20, 1 << 40, REGION_BYTES_MAX),  # the gateway's largest
    ],
)
def test_region_holds_few_blocks_within_the_gateways_bounds(block: int, capacity: int, wanted: int) -> None:
    assert region_bytes(block, capacity) == wanted


@pytest.mark.parametrize("capacity", [1 << 20, 100 << 20, 1 << 30])
@pytest.mark.parametrize("cold_reads", [False, True])
def test_gateway_settings_are_accepted_by_the_gateway(capacity: int, cold_reads: bool) -> None:
    settings = config.load(gateway_settings(capacity, region_bytes(64 * KIB, capacity), cold_reads))
    assert settings.pools["kv"].demote == ("pressure" if cold_reads else "never")
    assert settings.pools["kv"].capacity_bytes == capacity


def test_tier_moves_sum_over_labels_and_leave_the_rest() -> None:
    text = (
        "# HELP recall_demotions_total Objects.\n# TYPE recall_demotions_total counter\n"
        'recall_demotions_total{pool="kv"} 3.0\nrecall_demotions_total{pool="standard"} 4\n'
        'recall_requests_total{operation="GetObject",status="2xx"} 9.0\nrecall_recalls_total{pool="kv"} 1.0\n'
    )
    assert tier_moves(text) == {"demotions": 7.0, "recalls": 1.0}


# --- the replay against a store of a few lines ------------------------------------------------------------------------


class TinyStore(asyncio.Protocol):
    """PUT and GET of whole objects. `room`: the oldest go when there are more. `spoil`: keys whose last byte is wrong."""

    def __init__(self, room: int, spoil: str = "", busy: int = 0) -> None:
        self.room = room
        self.spoil = spoil
        self.busy = busy
        self.objects: dict[str, bytes] = {}
        self.log: list[tuple[str, str]] = []

    def connection(self) -> asyncio.Protocol:
        return _TinyConnection(self)

    def answer(self, method: str, path: str, body: bytes) -> bytes:
        self.log.append((method, path))
        if self.busy and path.startswith("/kv-replay/"):
            self.busy -= 1
            return b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n"
        if method == "PUT":
            self.objects.pop(path, None)
            self.objects[path] = body
            while len(self.objects) > self.room:
                del self.objects[next(iter(self.objects))]
            return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        found = self.objects.get(path)
        if found is None:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnone"
        if self.spoil and self.spoil in path:
            found = found[:-1] + bytes([found[-1] ^ 1])
        return b"HTTP/1.1 200 OK\r\nX-Recall-Tier: hot\r\nContent-Length: %d\r\n\r\n" % len(found) + found


class _TinyConnection(asyncio.Protocol):
    def __init__(self, store: TinyStore) -> None:
        self._store = store
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, end, rest = self._got.partition(b"\r\n\r\n")
        if not end:
            return
        length = int((re.search(rb"content-length: (\d+)", head) or [b"", b"0"])[1])
        if len(rest) < length:
            return
        self._got = rest[length:]
        method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
        reply = self._store.answer(method, path, rest[:length])
        self._transport.write(reply)
        if b"Connection: close" in reply:
            self._transport.close()


def replayed(store: TinyStore, trace: Trace, clients: int = 1, cold_reads: str = "off") -> dict[str, object]:
    async def run() -> dict[str, object]:
        server = await asyncio.get_running_loop().create_server(store.connection, "127.0.0.1", 0)
        async with server:
            args = argparse.Namespace(
                trace="made up", block_bytes=4 * KIB, clients=clients, speed="max", cold_reads=cold_reads, pool="kv"
            )
            port = server.sockets[0].getsockname()[1]
            return await replay(args, trace, f"http://127.0.0.1:{port}", ("someone", "secret"))

    return asyncio.run(run())


TRACE = trace_of((0, 1, 2), (0, 1, 3), (4,), (0, 1, 2, 5))


def test_replay_counts_prefix_hits_and_stores_the_rest() -> None:
    result = replayed(TinyStore(room=100), TRACE)
    assert result["hits"] == 0 + 2 + 0 + 3
    assert result["puts"] == 3 + 1 + 1 + 1
    assert result["references"] == 11
    assert result["bytes read by tier"] == {"hot": 5 * 4 * KIB}
    assert result["errors"] == {}


def test_replay_stores_present_blocks_behind_the_first_miss_again() -> None:
    store = TinyStore(room=2)
    result = replayed(store, trace_of((0, 1, 2), (0, 1, 2)))  # 1 and 2 are left, 0 is missing
    assert (result["hits"], result["puts"]) == (0, 6)
    methods = [method for method, path in store.log if block_key(1).split("@")[3] in path]
    assert methods == ["PUT", "PUT"]


def test_replay_reports_bytes_that_are_not_the_blocks() -> None:
    result = replayed(TinyStore(room=100, spoil=block_key(1).split("@")[3]), TRACE)
    assert result["errors"] == {"GET: the bytes are not the block's": 2}


def test_replay_reads_back_every_block_ever_written_when_cold_reads_are_on() -> None:
    result = replayed(TinyStore(room=100), TRACE, clients=3, cold_reads="on")
    assert result["verified at the end"] == TRACE.distinct
    assert result["errors"] == {}


def test_replay_tells_of_acknowledged_blocks_that_are_gone() -> None:
    result = replayed(TinyStore(room=4), TRACE, cold_reads="on")
    assert result["errors"] == {"an acknowledged block is missing": 2}


def test_replay_asks_again_when_the_gateway_is_busy() -> None:
    result = replayed(TinyStore(room=100, busy=2), TRACE)
    assert (result["busy (503, retried)"], result["errors"], result["hits"]) == (2, {}, 5)


# --- the client -------------------------------------------------------------------------------------------------------


class Script(asyncio.Protocol):
    """Answers each connection's first bytes with the next of `replies`, piece by piece, and then closes it or not."""

    def __init__(self, replies: Iterator[tuple[list[bytes], bool]]) -> None:
        self._replies = replies

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        pieces, closes = next(self._replies)
        for piece in pieces:
            self._transport.write(piece)
        if closes:
            self._transport.close()


async def asked(replies: list[tuple[list[bytes], bool]], times: int) -> list[tuple[int, bytes] | str]:
    script = iter(replies)
    server = await asyncio.get_running_loop().create_server(lambda: Script(script), "127.0.0.1", 0)
    found: list[tuple[int, bytes] | str] = []
    async with server:
        connection = Connection("127.0.0.1", server.sockets[0].getsockname()[1], 100, 10.0)
        for _ in range(times):
            try:
                reply = await connection.ask(b"GET / HTTP/1.1\r\n\r\n")
                found.append((reply.status, bytes(reply.body)))
            except ClientError as error:
                found.append(str(error))
        connection.close()
    return found


OK = [b"HTTP/1.1 200 OK\r\nContent-", b"Length: 5\r\n\r\nab", b"cde"]


def test_connection_puts_a_reply_together_and_stays_open() -> None:
    assert asyncio.run(asked([(OK, False), (OK, False)], 2)) == [(200, b"abcde")] * 2


@pytest.mark.parametrize(
    ("reply", "closes", "told"),
    [
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"], True, "the connection was lost"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcdefg"], False, "longer than it says"),
        ([b"HTTP/1.1 200 OK\r\n\r\n"], False, "cannot be understood"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"], False, "cannot be understood"),
    ],
    ids=["cut", "too long", "no length", "more than the buffer"],
)
def test_connection_tells_of_a_bad_reply_and_opens_anew(reply: list[bytes], closes: bool, told: str) -> None:
    first, second = asyncio.run(asked([(reply, closes), (OK, False)], 2))
    assert told in first
    assert second == (200, b"abcde")
