"""recall_client against a real gateway, the same calls against plain S3, and the reader on the same host."""

from __future__ import annotations

import array
import asyncio
import ctypes
import mmap
import os
import re
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from recall_client import AsyncRecallClient, BufferTooSmall, Entry, NotSupported, RecallClient, RecallError
from recall_client import client as client_module
from recall_client import local as local_module
from recall_client.client import AGAIN_MAX
from recall_client.connections import flat
from recall_client.local import Lease, LocalError, LocalReader
from recall_client.signing import Credentials

from tests.s3.rawclient import RawClient
from tests.support.gateway import Gateway, wait_for
from tests.support.s3server import S3Server
from tiering.layout import BucketRecord, ObjectRecord

ROOT = Path(__file__).resolve().parents[2]
SHORT, LONG = os.urandom(3000), os.urandom(1 << 20)


@pytest.fixture
def client(gateway: Gateway, kv_bucket: str) -> Iterator[RecallClient]:
    with RecallClient(gateway.endpoint, kv_bucket, Credentials(gateway.access_key, gateway.secret_key)) as made:
        yield made


@pytest.fixture
def plain(backing_server: S3Server) -> Iterator[RecallClient]:
    """A client of the server behind the gateway, which knows nothing of Recall."""
    keys = Credentials(backing_server.access_key, backing_server.secret_key)
    with RecallClient(backing_server.endpoint, backing_server.new_bucket(), keys) as made:
        yield made


def store(client: RecallClient) -> list[str]:
    """Six blocks, short and long."""
    keys = [f"model@1@0@{n:04x}@bf16 +%" for n in range(6)]
    outcomes = client.put((key, LONG if n % 2 else SHORT) for n, key in enumerate(keys))
    assert all(outcome.ok and outcome.etag for outcome in outcomes)
    return keys


@pytest.mark.parametrize("which", ["client", "plain"])
def test_blocks_are_stored_found_and_read_into_buffers(which: str, request: pytest.FixtureRequest) -> None:
    client: RecallClient = request.getfixturevalue(which)
    keys = store(client)
    found = client.lookup([*keys[:3], "none", *keys[3:]])
    assert found.run == 3
    assert [entry and entry.size for entry in found.entries] == [3000, 1 << 20, 3000, None, 1 << 20, 3000, 1 << 20]
    buffers = [bytearray(2 << 20) for _ in range(7)]
    sizes = client.get_into([*keys[:3], "none", *keys[3:]], buffers)
    assert sizes == [3000, 1 << 20, 3000, None, None, None, None]
    assert (buffers[0][:3000], buffers[1][: 1 << 20]) == (SHORT, LONG)
    assert client.get([*keys, "none"], stop_at_miss=False) == [SHORT, LONG] * 3 + [None]
    kept = client.put([(keys[0], b"other"), ("new", b"")], if_absent=True)
    assert [(outcome.code, outcome.status) for outcome in kept] == [("PreconditionFailed", 412), ("", 200)]
    assert all(outcome.ok for outcome in client.delete([*keys, "none"]))
    assert client.lookup(keys).run == 0


def test_leases_pins_and_ttls(client: RecallClient) -> None:
    keys = store(client)
    with client.lease([*keys, "none"], 60) as outcomes:
        assert [outcome.code for outcome in outcomes] == [""] * 6 + ["NoSuchKey"]
        assert all(0 < (entry.pin_ms or 0) <= 60_000 for entry in client.lookup(keys).entries if entry)
    assert all(entry and entry.pin_ms is None for entry in client.lookup(keys).entries)
    client.pin(keys[:1])
    client.touch(keys[1:], "60; sliding")
    first, second, *_ = client.lookup(keys).entries
    assert first and second and (first.pin_ms, 0 < (second.ttl_ms or 0) <= 60_000) == (-1, True)
    client.put([("leased", SHORT)], pin=5, ttl=60)
    (leased,) = client.lookup(["leased"]).entries
    assert leased and (leased.pin_ms or 0) > 0 and (leased.ttl_ms or 0) > 0


def test_plain_s3_has_no_pins(plain: RecallClient) -> None:
    keys = store(plain)
    with pytest.raises(NotSupported):
        plain.pin(keys, 60)
    with pytest.raises(NotSupported):
        plain.touch(keys)


def test_a_buffer_too_small_and_a_refused_request_leave_the_client_usable(
    client: RecallClient, gateway: Gateway
) -> None:
    keys = store(client)
    with pytest.raises(BufferTooSmall):
        client.get_into(keys, [bytearray(100)] * 6)
    assert client.get(keys[:1]) == [SHORT]
    with RecallClient(gateway.endpoint, "no-such-bucket", Credentials(gateway.access_key, gateway.secret_key)) as lost:
        with pytest.raises(RecallError) as caught:
            lost.lookup(["k"])
        assert (caught.value.code, caught.value.status, caught.value.retryable) == ("NoSuchBucket", 404, False)
    with RecallClient(gateway.endpoint, client.bucket, Credentials(gateway.access_key, "wrong")) as stranger:
        with pytest.raises(RecallError, match="SignatureDoesNotMatch"):
            stranger.get(["k"])
    with RecallClient("http://127.0.0.1:9", "b", None) as nobody, pytest.raises(RecallError) as caught:
        nobody.lookup(["k"])
    assert caught.value.retryable


FRAMES, JSON = b"application/vnd.recall.frames", b"application/json"


def ok(kind: bytes, body: bytes, length: int | None = None) -> bytes:
    """A 200 as it comes through a proxy, which ends the connection."""
    said = len(body) if length is None else length
    head = b"HTTP/1.1 200 OK\r\nServer: proxy\r\nContent-Type: %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    return head % (kind, said) + body


def refusal(status: str, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\nServer: proxy\r\n%bConnection: close\r\nContent-Length: 0\r\n\r\n" % (status.encode(), more)


@contextmanager
def replying(*replies: bytes) -> Iterator[str]:
    """The endpoint of a server that answers each connection's one request so, and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for reply in replies:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return  # nobody came
                with peer, peer.makefile("rb") as requests:
                    sent = re.findall(rb"content-length: (\d+)", b"".join(iter(requests.readline, b"\r\n")))
                    requests.read(int(sent[0]) if sent else 0)
                    peer.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_reply_that_ends_between_two_blocks_is_no_miss() -> None:
    frame = struct.pack("<HHIQ", 200, 0, 0, 5) + b"block"
    short = ok(FRAMES, 2 * frame, 3 * len(frame))
    with replying(short, ok(FRAMES, frame)) as endpoint, RecallClient(endpoint, "b", None) as client:
        assert client.get(["a", "b", "c"], stop_at_miss=False) == [b"block"] * 3  # the next request goes on from there
    none = ok(FRAMES, b"", len(frame))
    with replying(short, *[none] * AGAIN_MAX) as endpoint, RecallClient(endpoint, "b", None) as client:
        with pytest.raises(RecallError, match="broke off"):
            client.get_into(["a", "b", "c"], [bytearray(8)] * 3, stop_at_miss=False)


def test_a_reply_that_stalls_is_waited_for_once() -> None:
    """Who asked again would wait as long again, and the caller said how long."""
    frame = struct.pack("<HHIQ", 200, 0, 0, 5) + b"block"
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as peers:

        def serve() -> None:
            peers.enter_context(server.accept()[0]).sendall(ok(FRAMES, frame, 2 * len(frame)))

        thread = threading.Thread(target=serve)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        with RecallClient(endpoint, "b", None, timeout_s=0.2) as client, pytest.raises(RecallError, match="timed out"):
            client.get(["a", "b"])
        thread.join()
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_proxy_whose_gateway_is_away_makes_nobody_take_it_for_plain_s3() -> None:
    away = refusal("503 Service Unavailable")
    with replying(away, ok(JSON, b'{"objects": [{}]}')) as endpoint, RecallClient(endpoint, "b", None) as client:
        with pytest.raises(RecallError) as caught:
            client.pin(["k"])
        assert (caught.value.status, caught.value.retryable) == (503, True)
        assert client.pin(["k"])[0].ok


def test_a_refusal_through_a_proxy_makes_nobody_take_the_gateway_for_plain_s3(raw: RawClient) -> None:
    """Whose name is in Server, and whose own refusals know nothing of batches."""
    reply = raw.request("POST", "/no-such-bucket", query=(("recall", "pin"),), body=b'{"keys": ["k"]}')
    assert reply.headers["x-recall-refused"] == "NoSuchBucket"
    told = refusal("404 Not Found", b"x-recall-refused: NoSuchBucket\r\n")
    with replying(told, told) as endpoint, RecallClient(endpoint, "b", None) as client:
        for _ in range(2):
            with pytest.raises(RecallError, match="404"):
                client.pin(["k"])
    found = ok(JSON, b'{"run": 0, "objects": [null]}')
    too_long = refusal("413 Request Entity Too Large")
    with replying(too_long, found, too_long) as endpoint, RecallClient(endpoint, "b", None) as client:
        for _ in range(2):
            with pytest.raises(RecallError, match="413"):
                client.put([("k", LONG)])


def test_what_was_taken_for_plain_s3_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    astray = refusal("404 Not Found")
    with (
        replying(astray, astray, ok(JSON, b'{"objects": [{}]}')) as endpoint,
        RecallClient(endpoint, "b", None) as client,
    ):
        assert client.lookup(["k"]).run == 0  # a HEAD of plain S3
        with pytest.raises(NotSupported):
            client.pin(["k"])
        monkeypatch.setattr(client, "_plain_until_s", 0.0)
        assert client.pin(["k"])[0].ok


def test_a_block_is_read_whole_however_long_it_has_become() -> None:
    """Into memory of its own; nothing is looked up before, which might be another block by then."""
    frame = struct.pack("<HHIQ", 200, 0, 0, len(LONG)) + LONG
    with replying(ok(FRAMES, frame + struct.pack("<HHIQ", 404, 0, 0, 0))) as endpoint:
        with RecallClient(endpoint, "b", None) as client:
            assert client.get(["a", "b", "c"]) == [LONG, None, None]


def test_what_a_later_gateway_says_besides_is_passed_over() -> None:
    said = b'{"run": 1, "objects": [{"size": 3, "tier": "hot", "etag": "e", "pool": "kv"}], "took_us": 1}'
    with replying(ok(JSON, said)) as endpoint, RecallClient(endpoint, "b", None) as client:
        assert client.lookup(["k"]).entries[0] == Entry(3, "hot", "e")


def test_blocks_come_from_and_go_to_any_memory_in_one_piece(client: RecallClient) -> None:
    """As engines hold it: pinned memory behind ctypes, shared mappings, arrays of any type and shape."""
    data = os.urandom(4096)
    mapped = mmap.mmap(-1, 4096)
    mapped[:] = data
    reversed_order = (ctypes.c_uint16.__ctype_be__ * 2048).from_buffer_copy(data)
    square = memoryview(bytearray(data)).cast("B", (64, 64))
    given = [mapped, reversed_order, square, memoryview(data).cast("d"), array.array("f", data)]
    keys = [f"memory-{n}" for n in range(len(given))]
    for _ in range(2):  # a mapping has a place that reading it as a file would move
        assert all(outcome.ok for outcome in client.put(zip(keys, given, strict=True)))
        assert client.get(keys) == [data] * len(given)
    mapped[:] = bytes(4096)
    into = [mapped, (ctypes.c_uint16.__ctype_be__ * 2048)(), memoryview(bytearray(4096)).cast("B", (64, 64))]
    assert client.get_into(keys[:3], into) == [4096] * 3
    assert [bytes(memoryview(each)) for each in into] == [data] * 3
    with pytest.raises(ValueError, match="read-only"):
        client.get_into(keys[:1], [bytes(4096)])
    for refused in (lambda: client.put([("k", memoryview(data)[::2])]), lambda: client.get_into(["k"], [square[::2]])):
        with pytest.raises(BufferError):
            refused()
    assert client.put([("none", b""), ("nothing", memoryview(b"").cast("B"))])[1].ok
    mapped.close()


def test_a_view_of_bytes_is_no_view_of_a_view() -> None:
    """A view that is lent to another crashes CPython 3.11 when both are garbage in a cycle, as of a traceback."""
    view = memoryview(bytearray(10))[2:]
    assert flat(view) is view
    for odd in (view[::2], view.cast("H"), view.cast("B", (2, 4)), memoryview(b"ab").cast("c")):
        if odd.c_contiguous:
            assert flat(odd).format == "B"
            assert flat(odd) == bytes(odd)
        else:
            with pytest.raises(BufferError):
                flat(odd)


@pytest.fixture(params=["client, many cores", "client, few cores", "plain, many cores", "plain, few cores"])
def spreading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RecallClient:
    """One for which three short blocks are many bytes."""
    monkeypatch.setattr(client_module, "SPREAD_BYTES", 3 * len(SHORT))
    which, cores = request.param.split(", ")
    made: RecallClient = request.getfixturevalue(which)
    made._spreads = cores == "many cores"
    return made


def test_many_bytes_come_over_several_connections(spreading: RecallClient) -> None:
    client = spreading
    keys = [f"spread/{n:02}" for n in range(40)]
    assert all(outcome.ok for outcome in client.put((key, key.encode() + SHORT) for key in keys))
    buffers = [bytearray(len(SHORT) + 9) for _ in keys]

    def read(asked: list[str], **options: Any) -> list[bytes | None]:
        for buffer in buffers:
            buffer[:] = bytes(len(buffer))
        sizes = client.get_into(asked, buffers[: len(asked)], **options)
        return [None if n is None else bytes(buffer[:n]) for n, buffer in zip(sizes, buffers, strict=False)]

    whole = [key.encode() + SHORT for key in keys]
    assert read(keys) == whole
    for gap in (0, 1, 20, 39):
        some = [*keys[:gap], "none", *keys[gap + 1 :]]
        assert read(some) == whole[:gap] + [None] * (40 - gap)
        assert read(some, stop_at_miss=False) == [*whole[:gap], None, *whole[gap + 1 :]]
    buffers[30] = bytearray(10)
    with pytest.raises(BufferTooSmall, match="spread/30"):
        read(keys)
    assert read(["none", *keys[1:]]) == [None] * 40  # what is behind a miss is not there, nor too long
    buffers[30] = bytearray(len(SHORT) + 9)
    assert read(keys) == whole


def test_many_bytes_go_over_several_connections(spreading: RecallClient) -> None:
    client = spreading
    client.lookup(["none"])
    keys = [f"spread/put/{n:02}" for n in range(40)]
    first, second = ({key: os.urandom(len(SHORT)) for key in keys} for _ in range(2))
    blocks = [*first.items(), *second.items()]  # the same keys again: the later block stays
    outcomes = client.put(iter(blocks))
    assert (len(outcomes), all(outcome.ok for outcome in outcomes)) == (80, True)
    if client._known:  # the other server closes each
        assert (len(client._connections._idle) > 1) == client._spreads
    assert client.get(keys) == list(second.values())
    again = client.put([*first.items(), ("spread/new", b"new"), *first.items()], if_absent=True)
    assert [outcome.status for outcome in again] == [412] * 40 + [200] + [412] * 40
    assert client.get([*keys, "spread/new"]) == [*second.values(), b"new"]
    assert len(client.put([("spread/twice", b"%d" % n) for n in range(20)])) == 20
    assert client.get(["spread/twice"]) == [b"19"]


def test_a_put_that_fails_leaves_nobody_reading_its_buffers(
    client: RecallClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "SPREAD_BYTES", len(LONG))
    client._spreads = True
    client.lookup(["none"])
    buffers = [bytearray(LONG) for _ in range(4)]

    def blocks() -> Iterator[tuple[str, bytearray]]:
        for number, buffer in enumerate(buffers):
            yield f"failing/{number}", buffer
        raise RuntimeError("no more of them")

    with pytest.raises(RuntimeError, match="no more of them"):
        client.put(blocks())
    for buffer in buffers:
        buffer.append(0)  # a buffer that is lent cannot change its size
    assert client.get(["failing/0", "failing/1"]) == [LONG, LONG]


@pytest.mark.parametrize("which", ["client", "plain"])
def test_an_empty_key_names_no_bucket(which: str, request: pytest.FixtureRequest) -> None:
    """In plain S3 DELETE of it would be that of the bucket."""
    client: RecallClient = request.getfixturevalue(which)
    for use in (client.delete, client.lookup, client.get, client.pin):
        with pytest.raises(ValueError, match="empty"):
            use(["k", ""])
    with pytest.raises(ValueError, match="empty"):
        client.put([("", b"x")])
    assert client.put([("k", b"x")])[0].ok


def test_odd_keys_are_the_same_everywhere(client: RecallClient, plain: RecallClient, s3: Any) -> None:
    keys = [
        "a b",
        "a+b",
        "a%2Fb",
        "a//b",
        "x/./y",
        "x/../y",
        "ü/☃",
        "q?r=s&t",
        "h#i",
        "@:=,;!'()*~",
        "\\",
        '"',
        "tail/",
    ]
    for each in (client, plain):
        assert all(outcome.ok for outcome in each.put((key, key.encode()) for key in keys))
        assert each.get(keys) == [key.encode() for key in keys]
    assert {key: s3.get_object(Bucket=client.bucket, Key=key)["Body"].read().decode() for key in keys} == {
        key: key for key in keys
    }


def test_a_request_is_sent_once_more_and_not_on_every_connection_there_was() -> None:
    """One that takes a worker of the gateway with it must not have them all."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peers = [server.accept()[0] for _ in range(3)]
            for peer in peers:
                while not peer.recv(1 << 16).endswith(b"]}"):
                    pass
            for peer in peers:  # not before all have asked, so that each has a connection of its own, which is kept
                peer.sendall(ok(JSON, b'{"run": 0, "objects": [null]}').replace(b"Connection: close\r\n", b""))
            while True:
                for peer in select.select([server, *peers], [], [])[0]:
                    if peer is server:
                        try:
                            peers.append(server.accept()[0])
                        except OSError:
                            for left in peers:
                                left.close()
                            return
                    else:
                        requests.append(peer.recv(1 << 16))
                        peer.close()
                        peers.remove(peer)

        thread = threading.Thread(target=serve)
        thread.start()
        with RecallClient(f"http://127.0.0.1:{server.getsockname()[1]}", "b", None) as client:
            with ThreadPoolExecutor(3) as threads:
                list(threads.map(lambda _: client.lookup(["k"]), range(3)))
            with pytest.raises(RecallError, match="no reply"):
                client.lookup(["k"])
            asked = len(requests)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert asked == 2


def test_a_forked_process_has_connections_and_threads_of_its_own(client: RecallClient, gateway: Gateway) -> None:
    """On those of its parent each would read the other's replies."""
    keys = store(client)
    code = f"""
import asyncio, os, sys
from recall_client import AsyncRecallClient, RecallClient
from recall_client.signing import Credentials
keys = {keys!r}
loops = AsyncRecallClient({gateway.endpoint!r}, {client.bucket!r}, Credentials(*sys.argv[1:]), connections=1)
assert asyncio.run(loops.lookup(keys)).run == 6
with RecallClient({gateway.endpoint!r}, {client.bucket!r}, Credentials(*sys.argv[1:])) as client:
    whole = client.get(keys)
    sockets = [connection.sock for connection in client._connections._idle]
    with client._connections._lock:  # as a thread that is not in the child may have it
        child = os.fork()
    if not child:
        assert client._connections._idle == [] and all(each.fileno() == -1 for each in sockets)
    for _ in range(20):
        assert client.get(keys) == whole
    assert asyncio.run(loops.lookup(keys)).run == 6
    if not child:
        client._known, client._plain_until_s = False, float("inf")
        assert client.get(keys) == whole  # by threads
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
    environment = {"PYTHONPATH": str(ROOT / "clients"), "PATH": os.environ["PATH"]}
    arguments = [sys.executable, "-S", "-c", code, gateway.access_key, gateway.secret_key]
    subprocess.run(arguments, env=environment, check=True, timeout=60)


def test_a_request_that_outlives_its_client_leaves_no_connection(client: RecallClient) -> None:
    with client._request("GET", "none") as response:
        client.close()
        response.read()
    assert client._connections._idle == []


def test_what_stays_on_this_machine_has_no_pace(client: RecallClient) -> None:
    client.put([("k", SHORT)])
    (connection,) = client._connections._idle
    chosen = connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    assert chosen.rstrip(b"\0") == b"reno"


def test_threads_share_a_client(client: RecallClient) -> None:
    keys = store(client)
    found: list[list[bytes | None]] = []

    def read() -> None:
        for _ in range(10):
            found.append(client.get(keys))

    threads = [threading.Thread(target=read) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[SHORT, LONG] * 3] * 120


def test_the_same_calls_for_asyncio(client: RecallClient, gateway: Gateway) -> None:
    async def use() -> None:
        keys = store(client)
        credentials = Credentials(gateway.access_key, gateway.secret_key)
        async with AsyncRecallClient(gateway.endpoint, client.bucket, credentials) as other:
            assert (await other.lookup(keys)).run == 6
            reads = await asyncio.gather(*(other.get(keys) for _ in range(10)))
            assert reads == [[SHORT, LONG] * 3] * 10
            async with other.lease(keys, 30) as outcomes:
                assert all(outcome.ok for outcome in outcomes)
            assert all(outcome.ok for outcome in await other.delete(keys))

    asyncio.run(use())


# -- on the same host


def test_records_stand_where_the_local_reader_looks() -> None:
    fields = ObjectRecord.__struct_fields__
    places = {
        name: getattr(local_module, f"_{name.upper()}")
        for name in ("generation", "size", "residency", "marker", "encryption", "extents")
    }
    assert places == {name: fields.index(name) for name in places}
    assert fields.index("expires_ms") == local_module._EXPIRES
    assert BucketRecord.__struct_fields__.index("number") == local_module._BUCKET_NUMBER


def test_a_local_reader_sees_the_gateways_blocks_as_they_are(client: RecallClient, gateway: Gateway) -> None:
    keys = store(client)
    with LocalReader(gateway.data_dir, client.bucket) as reader:
        with reader.lease() as lease:
            for n, key in enumerate(keys):
                views = lease.read(key)
                assert views is not None and b"".join(views) == (LONG if n % 2 else SHORT)
                assert all(view.obj is reader.flash.obj for view in views)  # what was registered with a device
                del views
            assert lease.read("none") is None
            client.put([(keys[0], b"another generation")])
            old = lease.read(keys[0])
            assert old is not None and b"".join(old) == SHORT  # a lease is a moment
            del old
        with reader.lease() as lease:
            new = lease.read(keys[0])
            assert new is not None and b"".join(new) == b"another generation"
            del new
        client.put([("short-lived", b"x")], ttl=0.001)
        wait_for(lambda: client.lookup(["short-lived"]).run == 0, "it expires")
        with reader.lease() as lease:
            assert lease.read("short-lived") is None


def test_a_lease_keeps_bytes_while_the_gateway_needs_the_room(tmp_path: Path) -> None:
    settings = {
        "pools.kv.capacity_bytes": "16MiB",
        "pools.kv.demote": "never",
        "pools.kv.space_wait_s": "0.05",
    }
    with Gateway(data_dir=tmp_path / "data", settings=settings) as gateway:
        credentials = Credentials(gateway.access_key, gateway.secret_key)
        gateway.boto3_client().create_bucket(Bucket="kv-held")
        with (
            RecallClient(gateway.endpoint, "kv-held", credentials) as client,
            LocalReader(gateway.data_dir, "kv-held") as reader,
        ):
            client.put([("held", LONG)])
            with reader.lease() as lease:
                views = lease.read("held")
                assert views is not None
                fills = [client.put([(f"fill-{n}", os.urandom(1 << 20))])[0] for n in range(24)]
                assert client.lookup(["held"]).run == 0, "it should have been evicted"
                assert not fills[-1].ok and fills[-1].status == 503, "what the lease may see is not written again"
                assert b"".join(views) == LONG
                del views
            wait_for(lambda: client.put([("after", LONG)])[0].ok, "the lease's end gives the room back")


def test_readers_of_several_buckets_share_what_the_process_has_open(
    client: RecallClient, gateway: Gateway, s3: Any
) -> None:
    keys = store(client)
    s3.create_bucket(Bucket="in-standard")
    s3.put_object(Bucket="in-standard", Key="k", Body=SHORT)
    with LocalReader(gateway.data_dir, client.bucket) as first, first.lease() as lease:
        with LocalReader(gateway.data_dir, "in-standard") as second, second.lease() as other:
            assert read(other, "k") == SHORT
        with LocalReader(gateway.data_dir, client.bucket) as third, third.lease() as other:
            assert read(other, keys[0]) == SHORT
        assert read(lease, keys[1]) == LONG
        assert oldest_lease(gateway, "kv") <= lease._txn.id()  # closing the others gave up nothing
    with pytest.raises(KeyError):
        LocalReader(gateway.data_dir, "no-such-bucket")
    assert not local_module._open


def test_a_reader_goes_along_with_an_index_that_grows(client: RecallClient, gateway: Gateway) -> None:
    with LocalReader(gateway.data_dir, client.bucket) as reader:
        for n in range(3):
            assert all(
                outcome.ok for outcome in client.put((f"{n}{i:05d}".ljust(1000, "x"), b"x") for i in range(2048))
            )
        with reader.lease() as lease:
            assert read(lease, "200000".ljust(1000, "x")) == b"x"
            assert lease.read("x" * 4000) is None  # longer than any key


def test_threads_share_a_reader_while_buckets_come_and_go(client: RecallClient, gateway: Gateway, s3: Any) -> None:
    keys = store(client)
    with LocalReader(gateway.data_dir, client.bucket) as reader, ThreadPoolExecutor(4) as threads:

        def look(_: int) -> list[bytes]:
            with reader.lease() as lease:
                return [read(lease, key) for key in keys]

        found = threads.map(look, range(100))
        for n in range(10):
            s3.create_bucket(Bucket=f"come-and-gone-{n}")
        assert list(found) == [[SHORT, LONG] * 3] * 100


def test_a_forked_process_leases_anew_and_ends_no_lease_of_its_parent(client: RecallClient, gateway: Gateway) -> None:
    keys = store(client)
    code = f"""
import gc, os
from recall_client.local import LocalError, LocalReader
with LocalReader({str(gateway.data_dir)!r}, {client.bucket!r}) as reader:
    with reader.lease() as lease:
        gc.freeze()  # as servers do that fork: what is frozen is in no list of objects
        child = os.fork()
        if not child:
            try:
                lease.read({keys[0]!r})
            except LocalError:
                with reader.lease() as own:
                    assert sum(map(len, own.read({keys[1]!r}))) == {len(LONG)}
        else:
            assert os.waitpid(child, 0)[1] == 0
            assert sum(map(len, lease.read({keys[1]!r}))) == {len(LONG)}
            print(lease._txn.id(), flush=True)
            input()
"""
    environment = {"PYTHONPATH": str(ROOT / "clients"), "PATH": os.environ["PATH"]}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        leased = int(process.stdout.readline())
        client.put([("newer", b"x")])
        assert oldest_lease(gateway, "kv") <= leased
        process.stdin.write("\n")
    assert process.returncode == 0


def test_leases_that_nobody_ends_leave_room_for_the_gateway(
    client: RecallClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of snapshots is one for all: once it is full nothing can be read any more."""
    monkeypatch.setattr(local_module, "SLOTS_MAX", 40)
    monkeypatch.setattr(local_module, "LEASES_MAX", 25)
    keys = store(client)
    with LocalReader(gateway.data_dir, client.bucket) as reader, ExitStack() as leases:
        with pytest.raises(LocalError, match="leases are open in this process"):
            for _ in range(200):
                leases.enter_context(reader.lease())
        leases.close()
        with reader.lease() as lease:
            assert read(lease, keys[0]) == SHORT


def test_a_reader_ends_while_somebody_still_looks(client: RecallClient, gateway: Gateway) -> None:
    """Nothing says that the bytes stay, but it is no crash and hides no other error."""
    keys = store(client)
    with pytest.raises(ZeroDivisionError), LocalReader(gateway.data_dir, client.bucket) as reader:
        with reader.lease() as lease:
            views = lease.read(keys[1])
            raise ZeroDivisionError
    assert views is not None and b"".join(views) == LONG


def oldest_lease(gateway: Gateway, pool: str) -> int:
    """The oldest snapshot that the gateway's own processes do not hold, as they see it."""
    code = (
        "import sys, lmdb; env = lmdb.open(sys.argv[1], readonly=True, max_dbs=64, lib_version=1); env.reader_check();"
        "ours = set(sys.argv[2:]); rows = [line.split() for line in env.readers().splitlines()];"
        "print(min((int(row[2]) for row in rows if len(row) == 3 and row[2].isdigit() and row[0] not in ours), default=1 << 62))"
    )
    pids = [str(pid) for pid in gateway.pids().values()]
    index = str(gateway.data_dir / "pools" / pool / "index")
    return int(subprocess.check_output([sys.executable, "-c", code, index, *pids], text=True))


def test_what_is_no_gateways_data_is_said(client: RecallClient, gateway: Gateway, tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="no pools"):
        LocalReader(tmp_path, "b")
    with pytest.raises(KeyError):
        LocalReader(gateway.data_dir, "no-such-bucket")


def test_the_client_needs_nothing_of_the_gateway() -> None:
    """Imported where only the client is on the path, without site packages."""
    code = "import recall_client, sys; assert not {'gateway', 's3api', 'tiering', 'msgspec'} & set(sys.modules)"
    found = {"PYTHONPATH": str(ROOT / "clients")}
    subprocess.run([sys.executable, "-S", "-c", code], env=found, check=True, timeout=60)


@contextmanager
def serving(data_dir: Path, capacity: str, blocks: dict[str, bytes]) -> Iterator[RecallClient]:
    """A gateway on `data_dir` that has just been given blocks."""
    settings = {"pools.kv.capacity_bytes": capacity, "pools.kv.demote": "never"}
    with Gateway(data_dir=data_dir, settings=settings) as gateway:
        s3 = gateway.boto3_client()
        if not s3.list_buckets()["Buckets"]:
            s3.create_bucket(Bucket="kv-again")
        with RecallClient(gateway.endpoint, "kv-again", Credentials(gateway.access_key, gateway.secret_key)) as client:
            assert all(outcome.ok for outcome in client.put(blocks.items()))
            yield client


def read(lease: Lease, key: str) -> bytes:
    return b"".join(lease.read(key) or ())


def test_a_local_reader_goes_along_with_a_gateway_that_starts_again(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with serving(data_dir, "16MiB", {"first": LONG}):
        reader = LocalReader(data_dir, "kv-again")
        lease = reader.lease()
        first = lease.read("first")
    blocks = {f"block-{n}": os.urandom(1 << 20) for n in range(30)}
    (data_dir / "pools/kv/flash").unlink()  # and the new one is larger
    with serving(data_dir, "48MiB", blocks) as client, reader.lease() as newer:
        assert {key: read(newer, key) for key in blocks} == blocks
        assert first is not None and b"".join(first) == LONG
        assert newer.read("first") is lease.read("first") is None, "nobody has compared it since the start"
        del first
        lease.close()
        # Announced, found damaged when its turn came, and given up: the client asks again for what came behind it.
        assert client.get(["block-1", "first", "block-2"], stop_at_miss=False) == [
            blocks["block-1"],
            None,
            blocks["block-2"],
        ]
    (data_dir / "pools/kv/index").rename(data_dir / "pools/kv/index.broken-1")
    # As after an index that did not survive.
    with serving(data_dir, "48MiB", {"other": SHORT}), reader.lease() as newer:
        assert (read(newer, "other"), newer.read("first")) == (SHORT, None)
    reader.close()


def test_the_examples_of_the_readme_run_as_they_stand(gateway: Gateway, s3: Any, tmp_path: Path) -> None:
    text = (ROOT / "clients" / "README.md").read_text()
    examples = [
        each for each in re.findall(r"```python\n(.*?)```", text, re.S) if "numpy" not in each and "torch" not in each
    ]
    assert len(examples) == 2
    s3.create_bucket(Bucket="kv-llama")
    (tmp_path / "data").symlink_to(gateway.data_dir)
    printed = []
    for example in examples:
        code = example.replace("http://127.0.0.1:9000", gateway.endpoint)
        code = code.replace('"access", "secret"', f'"{gateway.access_key}", "{gateway.secret_key}"')
        environment = {"PYTHONPATH": str(ROOT / "clients"), "PATH": os.environ["PATH"]}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed == [f"8 {[1 << 20] * 8}\n", f"{1 << 20}\n"]
