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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import loader
from bench.compare import gateway_settings
from bench.cpu import children, command_line, cpu_by_role, cpu_s
from bench.loader import Load, Plan
from bench.measure import Cell, Sample, cells, parse_size, size_text, summarise, table
from bench.peers import NginxPeer, RedisPeer, content, installed
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
        load = loader.run(loader.build(), port, plan, connections, 0.05, tmp_path)
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
        (Plan([b"PING\r\n"], resp=True), b"-ERR no\r\n", "status: -ERR no"),
    ],
    ids=["status", "length", "no length", "too much", "redis error"],
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
@pytest.mark.parametrize(
    ("reply", "status", "size"), [(b"+OK\r\n", 200, 0), (b"$3\r\nabc\r\n", 200, 3), (b"$-1\r\n", 404, 0)]
)
def test_loader_understands_redis(tmp_path: Path, reply: bytes, status: int, size: int) -> None:
    plan = Plan([b"*1\r\n$4\r\nPING\r\n"], resp=True, expect_status=status, expect_bytes=size)
    load = loaded(tmp_path, plan, reply)
    assert load.ok >= 2
    assert load.bad == 0


@needs_cc
def test_loader_gives_up_when_nobody_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    load = loader.run(loader.build(), port, Plan(GETS), 1, 0.05, tmp_path)
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


def peers(tmp_path: Path) -> list[NginxPeer | RedisPeer]:
    return [NginxPeer("nginx", tmp_path), RedisPeer("redis-server", tmp_path)]


def test_cells_put_peers_beside_each_other_and_leave_out_what_one_cannot(tmp_path: Path) -> None:
    assert cells(peers(tmp_path), ["GET", "HEAD", "404"], [10, 20]) == [
        Cell("nginx", "GET", 10),
        Cell("redis", "GET", 10),
        Cell("nginx", "GET", 20),
        Cell("redis", "GET", 20),
        Cell("nginx", "HEAD", 10),
        Cell("nginx", "HEAD", 20),
        Cell("nginx", "404", 0),
        Cell("redis", "404", 0),
    ]


def test_installed_names_what_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program, path=None: "/bin/nginx" if program == "nginx" else None)
    found, absent = installed(["nginx", "redis"], tmp_path)
    assert ([peer.name for peer in found], absent) == (["nginx"], ["redis"])


def test_redis_plan_spells_a_set(tmp_path: Path) -> None:
    plan = RedisPeer("redis-server", tmp_path).plan("PUT kv", 4)
    assert plan.heads[0] + plan.body == b"*3\r\n$3\r\nSET\r\n$9\r\nwrite/4/0\r\n$4\r\n%b\r\n" % content(4)


def load_of(ok: int, bad: int = 0, seconds: float = 1.0) -> Load:
    return Load(seconds, ok, bad, "status: 500" if bad else "", 0, 1, 10.0, 20.0, 30.0, 40.0)


def test_summary_is_the_median_and_the_range_of_the_rounds() -> None:
    samples = [
        Sample(load_of(1000), {"worker": 0.03, "keeper": 0.001}),
        Sample(load_of(500, bad=500), {"worker": 0.01, "keeper": 0.002}),
        Sample(load_of(2000, seconds=2.0), {"worker": 0.04, "keeper": 0.003}),
    ]
    figure = summarise(Cell("recall", "GET", 4096), samples)
    assert (figure.cpu_us, figure.cpu_us_min, figure.cpu_us_max) == pytest.approx((20, 10, 30))
    assert figure.other_cpu_us == pytest.approx({"keeper": 1.5})
    assert (figure.rate, figure.bad, figure.first_bad, figure.rounds) == (1000, 500, "status: 500", 3)
    assert figure.as_json()["operation"] == "GET"


def test_table_gives_ours_over_the_others_and_names_what_was_bad() -> None:
    ours = summarise(Cell("recall", "GET", 4096), [Sample(load_of(1000), {"worker": 0.03})])
    theirs = summarise(Cell("redis", "GET", 4096), [Sample(load_of(1000, bad=500), {"worker": 0.0225})])
    lines = table([ours, theirs], "recall").splitlines()
    assert "30.0" in lines[1]
    assert "2.00" in lines[2]
    assert lines[3] == "bad: redis GET 4 KiB: status: 500"


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
    for module in ("bench.load", "bench.compare", "bench.replay", "bench.policy"):
        done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"python -m {module}" in done.stdout
