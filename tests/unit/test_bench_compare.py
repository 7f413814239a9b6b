"""The load generator, CPU accounting and summaries of the benchmarks. Kind: unit tests of `bench`."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import aims, loader
from bench.compare import base_of
from bench.loader import Load, Plan
from bench.measure import Cell, Measure, Sample, cells, estimate_s, figures_of, summarise, table
from bench.operation import OPERATIONS
from bench.peers import found, known
from bench.peers.gateway import GatewayPeer, gateway_settings
from bench.peers.keyvalue import KeyValuePeer, MemcachedWire, RedisWire
from bench.peers.nginx import NginxPeer
from bench.peers.peer import Peer, content, once_keys, read_keys, write_keys
from bench.peers.s3 import S3Peer, bucket, endpoints
from bench.process import children, command_line, cpu_by_role, cpu_s, named
from bench.quantity import Spread, parse_size, percentiles, size_text
from bench.server import split_endpoint
from gateway import config

# --- the native loader ------------------------------------------------------------------------------------------------

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="the load generator needs a C compiler")


@contextmanager
def answering(reply: bytes, request_bytes: int, closes: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers each `request_bytes` bytes with `reply`; yields its port and what it was sent first."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[bytes] = []
    stopping = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            got = b""
            while data := connection.recv(1 << 20):
                got += data
                while len(got) >= request_bytes:
                    seen.append(got[:request_bytes])
                    got = got[request_bytes:]
                    connection.sendall(reply)
                    if closes:
                        return

    def accept() -> None:
        threads = []
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                break
            if stopping.is_set():
                connection.close()
                break
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1], seen
    finally:
        stopping.set()
        socket.create_connection(listener.getsockname()).close()
        acceptor.join()
        listener.close()


def loaded(tmp_path: Path, plan: Plan, reply: bytes, connections: int = 2, closes: bool = False) -> Load:
    request_bytes = len(plan.heads[0]) + len(plan.body)
    with answering(reply, request_bytes, closes) as (port, seen):
        load = loader.run(loader.build(), ("127.0.0.1", port), plan, connections, 0.05, tmp_path)
    assert set(seen) <= {head + plan.body for head in plan.heads}, "what is sent is what was prepared"
    # Two connections begin with different requests, however slow the machine is.
    assert len(set(seen)) >= min(connections, len(plan.heads)), "the prepared requests are gone round"
    return load


GETS = [b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(3)]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde"


@needs_cc
def test_loader_counts_whole_replies_and_their_bytes(tmp_path: Path) -> None:
    load = loaded(tmp_path, Plan(GETS, expect_bytes=5), OK)
    assert load.ok >= 2
    assert (load.bad, load.first_bad, load.body_bytes, load.connects) == (0, "", 5 * load.ok, 2)
    assert 0 < load.p50_us <= load.p90_us <= load.p99_us <= load.max_us
    assert load.seconds >= 0.05


@needs_cc
def test_loader_sends_a_body_larger_than_the_socket_takes(tmp_path: Path) -> None:
    load = loaded(tmp_path, Plan(GETS[:1], body=content(8 << 20)), b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    assert load.ok >= 1
    assert load.bad == 0


@needs_cc
def test_loader_reads_a_head_without_its_body(tmp_path: Path) -> None:
    load = loaded(tmp_path, Plan(GETS, head_only=True, expect_bytes=5), b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert load.ok >= 2
    assert (load.bad, load.body_bytes) == (0, 0)


@needs_cc
@pytest.mark.parametrize(
    ("plan", "reply", "told"),
    [
        (Plan(GETS), b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "status: HTTP/1.1 403 Forbidden"),
        (Plan(GETS, expect_bytes=6), OK, "length: HTTP/1.1 200 OK"),
        (Plan(GETS), b"HTTP/1.1 200 OK\r\n\r\nabcde", "not understood"),
        (Plan(GETS), OK + b"more", "not understood"),
        (Plan([b"PING\r\n"], reply=b"+OK", reply_bytes=5), b"-ERR no\r\n", "not understood: -ERR no"),
    ],
    ids=["status", "length", "no length", "too much", "not as told"],
)
def test_loader_counts_wrong_replies_as_bad(tmp_path: Path, plan: Plan, reply: bytes, told: str) -> None:
    load = loaded(tmp_path, plan, reply)
    assert load.ok == 0
    assert load.bad > 0
    assert told in load.first_bad


@needs_cc
def test_loader_opens_closed_connections_again(tmp_path: Path) -> None:
    reply = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    load = loaded(tmp_path, Plan(GETS), reply, closes=True)
    assert load.ok >= 2
    assert load.bad == 0
    assert load.connects >= load.ok


@needs_cc
@pytest.mark.parametrize("reply", [b"+OK\r\n", b"$3\r\nabc\r\n", b"$" + b"x" * 200_000], ids=["all", "begins", "long"])
def test_loader_knows_another_protocol_by_how_its_replies_begin(tmp_path: Path, reply: bytes) -> None:
    load = loaded(tmp_path, Plan([b"PING\r\n"], reply=reply[:5], reply_bytes=len(reply)), reply)
    assert load.ok >= 2
    assert load.bad == 0
    assert 0 < load.first_byte_us <= load.p50_us


@needs_cc
def test_loader_sends_each_request_once_if_told(tmp_path: Path) -> None:
    with answering(OK, len(GETS[0])) as (port, seen):
        load = loader.run(loader.build(), ("127.0.0.1", port), Plan(GETS, once=True), 2, 0.01, tmp_path)
    assert (load.ok, load.bad) == (3, 0)
    assert sorted(seen) == GETS


@needs_cc
@pytest.mark.parametrize(("wanted", "ok"), [(2, True), (4, False), (204, True), (200, False)])
def test_loader_takes_a_class_of_statuses(tmp_path: Path, wanted: int, ok: bool) -> None:
    load = loaded(tmp_path, Plan(GETS, expect_status=wanted), b"HTTP/1.1 204 No Content\r\n\r\n")
    assert (load.ok > 0, load.bad == 0) == (ok, ok)


def test_a_terminated_run_cleans_up() -> None:
    script = "import time; from bench.process import end_orderly; end_orderly()\ntry:\n print('up', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", script + "\nfinally:\n print('cleaned')"], stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        run.terminate()
        assert run.stdout.read() == "cleaned\n"
    assert run.returncode == 143


def test_a_driver_takes_the_loaders_place_and_its_failure_is_told(tmp_path: Path) -> None:
    said = '{"seconds":1,"ok":2,"bad":0,"first_bad":"","body_bytes":0,"connects":1,"first_byte_us":1,"p50_us":1,'
    said += '"p90_us":1,"p99_us":1,"p999_us":1,"max_us":1}'
    script = f"import sys; print('log'); print({said!r}) if '--connections' in sys.argv else 0"
    plan = Plan(driver=(sys.executable, "-c", script))
    assert loader.run(Path("none"), ("", 0), plan, 1, 0.1, tmp_path).ok == 2
    broken = loader.run(
        Path("none"), ("", 0), Plan(driver=(sys.executable, "-c", "raise OSError('no')")), 1, 0.1, tmp_path
    )
    assert (broken.ok, broken.bad, broken.first_bad) == (0, 1, "OSError: no")


@needs_cc
def test_loader_gives_up_when_nobody_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    load = loader.run(loader.build(), ("127.0.0.1", port), Plan(GETS), 1, 0.05, tmp_path)
    assert load.ok == 0
    assert load.first_bad.startswith("connect: ")


@needs_cc
@pytest.mark.parametrize("file", [b"", struct.pack("<I", 0), struct.pack("<2I", 1, 100) + b"short"])
def test_loader_refuses_a_requests_file_that_is_not_one(tmp_path: Path, file: bytes) -> None:
    (tmp_path / "requests").write_bytes(file)
    done = subprocess.run(
        [loader.build(), "--port", "1", "--requests", tmp_path / "requests"], capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"requests file" in done.stderr


# --- CPU --------------------------------------------------------------------------------------------------------------


def test_cpu_grows_while_a_process_works() -> None:
    before = cpu_s(os.getpid())
    deadline = time.monotonic() + 20
    while cpu_s(os.getpid()) < before + 0.02:
        assert time.monotonic() < deadline, "20 s of work are not counted"
    assert cpu_by_role({"worker": [os.getpid()], "keeper": []})["keeper"] == 0


def test_children_and_command_line_of_a_child() -> None:
    with subprocess.Popen(["cat", "-", "(a) b"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        assert child.pid in children(os.getpid())
        deadline = time.monotonic() + 20
        while command_line(child.pid)[:1] != ["cat"]:
            assert time.monotonic() < deadline, "the child does not start"
        assert command_line(child.pid) == ["cat", "-", "(a) b"]
        child.terminate()
    assert (cpu_s(child.pid), children(child.pid), command_line(child.pid)) == (0.0, [], [])


# --- cells and summaries ----------------------------------------------------------------------------------------------


def peers(tmp_path: Path) -> list[Peer]:
    return [
        NginxPeer("nginx", "nginx", 1, tmp_path),
        KeyValuePeer("redis", RedisWire(), "redis-server", 1, tmp_path),
    ]


def test_cells_put_peers_beside_each_other_and_leave_out_what_one_cannot(tmp_path: Path) -> None:
    assert cells(peers(tmp_path), ["GET", "HEAD", "404"], [10, 20], [1]) == [
        Cell("nginx", "GET", 10, 1),
        Cell("redis", "GET", 10, 1),
        Cell("nginx", "GET", 20, 1),
        Cell("redis", "GET", 20, 1),
        Cell("nginx", "HEAD", 10, 1),
        Cell("nginx", "HEAD", 20, 1),
        Cell("nginx", "404", 0, 1),
        Cell("redis", "404", 0, 1),
    ]
    assert [cell.connections for cell in cells(peers(tmp_path)[:1], ["404"], [10], [1, 8, 5000])] == [1, 8]


def test_the_estimate_grows_with_rounds_and_cells(tmp_path: Path) -> None:
    few, many = (cells(peers(tmp_path), ["GET"], [10], counts) for counts in ([1], [1, 8]))
    assert 0 < estimate_s(few, 0.3, 2) < estimate_s(few, 0.3, 3) < estimate_s(many, 0.3, 3)


def test_found_says_what_is_absent_and_makes_one_for_each_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program, path=None: "/bin/nginx" if program == "nginx" else None)
    environ = {"RECALL_BENCH_S3": "store=http://key:secret@127.0.0.1:9"}
    there, absent = found(["nginx", "redis", "store"], [1, 2], tmp_path, environ)
    assert [peer.name for peer in there] == ["nginx", "nginx x2", "store"]
    assert absent == {"redis": "no redis-server on the path"}
    assert known(environ)[-1] == "store"


@pytest.mark.parametrize("text", ["http://k:s@h:1", "a=https://k:s@h", "a=http://h:1", "a=http://k@h:1"])
def test_an_endpoint_that_cannot_be_used_is_refused_without_its_secret(text: str) -> None:
    with pytest.raises(ValueError, match="RECALL_BENCH_S3 holds NAME") as refused:
        endpoints(text)
    assert "k:s" not in str(refused.value)


def test_an_endpoint_names_the_processes_that_count() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        deadline = time.monotonic() + 20
        while child.pid not in named("cat"):
            assert time.monotonic() < deadline
        running = endpoints("a=http://k%3A:s@127.0.0.1:9/#cat,nosuchprogram")["a"]()
        assert (running.address, running.access_key, running.secret_key) == (("127.0.0.1", 9), "k:", "s")
        assert child.pid in running.processes()["worker"]
        child.terminate()


def test_redis_and_memcached_plans_spell_their_protocols() -> None:
    redis, memcached = RedisWire(), MemcachedWire()
    plan = redis.store(["k/0"], 4)
    assert plan.heads[0] + plan.body == b"*3\r\n$3\r\nSET\r\n$3\r\nk/0\r\n$4\r\n%b\r\n" % content(4)
    plan = redis.gather(["a", "b"], 4)
    assert (plan.heads, plan.reply) == ([b"*3\r\n$4\r\nMGET\r\n$1\r\na\r\n$1\r\nb\r\n"], b"*2\r\n")
    assert plan.reply_bytes == len(b"*2\r\n" + b"$4\r\n0123\r\n" * 2)
    plan = memcached.store(["k/0"], 4)
    assert plan.heads[0] + plan.body == b"set k/0 0 0 4\r\n%b\r\n" % content(4)
    plan = memcached.gather(["a", "b"], 4)
    assert (plan.heads, plan.reply) == ([b"get a b\r\n"], b"VALUE ")
    assert plan.reply_bytes == len(b"VALUE a 0 4\r\n0123\r\nVALUE b 0 4\r\n0123\r\nEND\r\n")
    assert memcached.lookup(["a", "b"]).heads == [b"mg a\r\nmg b\r\n"]


def test_every_operation_of_a_peer_is_in_the_table_and_ours_has_all(tmp_path: Path) -> None:
    for peer in peers(tmp_path):
        assert set(peer.operations) <= set(OPERATIONS)
    assert set(GatewayPeer.operations) == set(OPERATIONS) - {"LIST"}
    assert set(S3Peer.operations) < set(OPERATIONS)


@pytest.mark.parametrize("count", [read_keys, write_keys, once_keys])
def test_working_sets_are_bounded_at_every_size(count: Callable[[int], int]) -> None:
    for size in (1, 4 << 10, 2 << 20, 16 << 20):
        assert 4 <= count(size) <= 4096
        assert count(size) * size <= 128 << 20


@needs_cc
@pytest.mark.parametrize("name", ["recall", "nginx", "redis", "memcached"])
def test_a_peer_answers_every_operation_rightly(tmp_path: Path, name: str) -> None:
    there, _ = found([name], [1], tmp_path) if name != "recall" else ([GatewayPeer(name, 64 << 20)], {})
    if not there:
        pytest.skip(f"no {name}")
    [peer] = there
    try:
        # What waits for the drive is left to `--smoke`.
        operations = [each for each in peer.operations if each not in ("PUT standard", "COLD")]
        peer.start([4096], operations)
        measure = Measure(loader.build(), tmp_path)
        for operation in operations:
            plan = peer.plan(operation, 4096 if OPERATIONS[operation].sized else 0)
            sample = measure.sample(peer, plan, 2, 0.02)
            assert sample.load.ok > 0
            assert (sample.load.bad, sample.load.first_bad) == (0, "")
            assert sample.cpu_us("worker") > 0
    finally:
        peer.stop()


@needs_cc
def test_what_is_looked_up_is_there_whatever_was_put_meanwhile_and_a_miss_is_a_wrong_answer(tmp_path: Path) -> None:
    peer = GatewayPeer("recall", 64 << 20)
    try:
        peer.start([], ["LOOKUP"])
        measure, plan = Measure(loader.build(), tmp_path), peer.plan("LOOKUP", 0)
        peer.fill("kv", "more", 96, 1 << 20)
        assert measure.sample(peer, plan, 1, 0.02).load.bad == 0
        peer.ask("DELETE", f"/{bucket('kv')}/look-200", fine=(204,))
        assert measure.sample(peer, plan, 1, 0.02).load.ok == 0
    finally:
        peer.stop()


@pytest.mark.parametrize(
    "command",
    [
        "local --sizes 4k --blocks 4 --rounds 1",
        "overload --seconds 0.2",
        "pipeline --runs 1",
        "put --together 2 --runs 1",
        "read --runs 1",
        "rows --objects 200 --keys 16 --etag md5",
    ],
)
def test_a_benchmark_of_one_layer_runs(command: str) -> None:
    name, *arguments = command.split()
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(["clients", os.environ.get("PYTHONPATH", "")])}
    program = [sys.executable, "-m", f"bench.micro.{name}", *arguments]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False, env=environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n" in done.stdout


def load_of(ok: int, bad: int = 0, seconds: float = 1.0) -> Load:
    return Load(seconds, ok, bad, "status: 500" if bad else "", 0, 1, 5.0, 10.0, 20.0, 30.0, 35.0, 40.0)


def test_summary_is_the_median_and_the_range_of_the_rounds() -> None:
    samples = [
        Sample(load_of(1000), {"worker": 0.03, "keeper": 0.001}),
        Sample(load_of(500, bad=500), {"worker": 0.01, "keeper": 0.002}),
        Sample(load_of(2000, seconds=2.0), {"worker": 0.04, "keeper": 0.003}),
    ]
    figure = summarise(Cell("recall", "GET", 4096, 8), samples)
    assert figure.cpu_us == Spread(pytest.approx(20), pytest.approx(10), pytest.approx(30))
    assert figure.other_cpu_us == pytest.approx({"keeper": 1.5})
    assert (figure.rate.median, figure.bad, figure.first_bad, figure.rounds) == (1000, 500, "status: 500", 3)
    assert figure.as_json()["operation"] == "GET"
    assert figure.cpu_ratio is None


def test_ratios_are_made_round_by_round_with_the_gateway_of_as_many_workers() -> None:
    def rounds(*cpus: float) -> list[Sample]:
        return [Sample(load_of(1000), {"worker": cpu}) for cpu in cpus]

    samples = {
        Cell("recall", "GET", 4096, 8): rounds(0.03, 0.06, 0.03),
        Cell("recall x2", "GET", 4096, 8): rounds(0.01, 0.01, 0.01),
        Cell("redis", "GET", 4096, 8): rounds(0.015, 0.02, 0.03),
        Cell("nginx x2", "GET", 4096, 8): rounds(0.02, 0.02, 0.02),
    }
    ours = ["recall", "recall x2"]

    def base(peer: str) -> str:
        return "" if peer in ours else base_of(peer, ours)

    figures = {figure.cell.peer: figure for figure in figures_of(samples, base)}
    assert figures["recall"].cpu_ratio is None
    assert figures["redis"].cpu_ratio == Spread(pytest.approx(2), pytest.approx(1), pytest.approx(3))
    assert figures["nginx x2"].cpu_ratio == Spread(*[pytest.approx(0.5)] * 3)
    assert base_of("nginx x2", ["recall"]) == "recall"


def test_table_gives_ours_over_the_others_and_names_what_was_bad() -> None:
    base = [Sample(load_of(1000), {"worker": 0.03})]
    ours = summarise(Cell("recall", "GET", 4096, 8), base)
    theirs = summarise(Cell("redis", "GET", 4096, 8), [Sample(load_of(1000, bad=500), {"worker": 0.0225})], base)
    lines = table([ours, theirs]).splitlines()
    assert "30.0" in lines[1]
    assert "2.00 (2.00-2.00)" in lines[2]
    assert lines[3] == "bad: redis GET 4 KiB x8: status: 500"


def test_aims_are_reported_where_their_cells_were_measured() -> None:
    figure = summarise(Cell("recall", "404", 0, 8), [Sample(load_of(1000), {"worker": 0.017})])
    [line] = aims.report([figure]).splitlines()
    assert line.startswith("404, CPU µs")
    assert line.endswith("17.00  ≤ 18  met")
    assert len({aim.says for aim in aims.aims("ceph")}) == len(aims.aims("ceph"))


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentiles([]) == {}
    assert percentiles([5.0]) == dict.fromkeys(("p50", "p90", "p99", "p999", "max"), 5.0)
    assert percentiles(range(1, 1001)) == {"p50": 500, "p90": 900, "p99": 990, "p999": 999, "max": 1000}


@pytest.mark.parametrize(
    ("text", "size"), [("4k", 4096), ("256KiB", 256 << 10), ("2m", 2 << 20), ("1GiB", 1 << 30), ("7", 7)]
)
def test_sizes_are_read_and_written(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_size(size_text(size)) == size


def test_endpoint_is_split_and_https_refused() -> None:
    assert split_endpoint("http://127.0.0.1:9000\n".strip()) == ("127.0.0.1", 9000)
    with pytest.raises(ValueError, match="http://host:port"):
        split_endpoint("https://127.0.0.1:9000")


def test_settings_of_the_comparison_are_accepted_by_the_gateway() -> None:
    assert config.load(gateway_settings(1 << 30)).pools["kv"].demote == "never"


def test_modules_run_as_commands() -> None:
    for module in ("bench.load", "bench.compare", "bench.growth", "bench.tail", "bench.replay", "bench.policy"):
        done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"python -m {module}" in done.stdout
