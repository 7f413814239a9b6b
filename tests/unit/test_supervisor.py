"""The supervisor over fake children: start, order, restart, drain, kill -9, and one gateway a data directory."""

from __future__ import annotations

import base64
import fcntl
import logging
import os
import resource
import signal
import socket
import stat
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.commands import DESCRIPTORS_BESIDE, banner
from gateway.config import load
from gateway.credentials import Credentials
from gateway.datadir import EXIT_BAD, EXIT_IN_USE, DataDir, StartError
from gateway.log import ONCE_KEYS_MAX, ONCE_S, Line, Once
from gateway.supervisor import hold, url
from gateway.value import Address
from tests.support.descriptors import descriptors, opened
from tests.support.gateway import ROOT, Gateway, GatewayFailed, _runs, wait_for
from tiering import whole

FAKE = "tests.support.fake_gateway"
SMALL = {f"RECALL_POOLS_{pool}_CAPACITY_BYTES": "1MiB" for pool in ("STANDARD", "KV")}


def fake(mode: str = "", env: Mapping[str, str] | None = None, **options: Any) -> Gateway:
    return Gateway(main=FAKE, env={**({"RECALL_TEST_FAKE": mode} if mode else {}), **(env or {})}, **options)


def fetch(endpoint: str) -> str:
    with urllib.request.urlopen(endpoint, timeout=10) as reply:
        body: bytes = reply.read()
    return body.decode()


def events(gateway: Gateway) -> list[str]:
    return (gateway.data_dir / "events").read_text().splitlines()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_keeper_is_ready_before_workers_and_stops_after_them(data_dir: Path) -> None:
    with fake(data_dir=data_dir, workers=2) as gateway:
        assert fetch(gateway.endpoint) in ("worker-0 recalltest", "worker-1 recalltest")
        assert set(gateway.pids()) == {"supervisor", "keeper", "worker-0", "worker-1"}
        gateway.stop()
        seen = events(gateway)
        assert seen[0] == "keeper ready, first"
        assert set(seen[1:3]) == {"worker-0 ready", "worker-1 ready"}
        assert set(seen[3:5]) == {"worker-0 told to stop", "worker-1 told to stop"}
        assert seen[5:] == ["keeper told to stop"]


def test_stop_leaves_nothing_that_says_it_runs(data_dir: Path) -> None:
    with fake(data_dir=data_dir, settings={"bucket_listeners": "127.0.0.1:0=b-b"}) as gateway:
        pids = gateway.pids()
        bound = (data_dir / "run/b-b.endpoint").read_text().strip()
        assert fetch(bound) == "bucket b-b"
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        gateway.stop()
        assert not [pid for pid in pids.values() if _runs(pid)]
        assert not (data_dir / "endpoint").exists()
        assert not list((data_dir / "run").iterdir())


@pytest.mark.parametrize("dies", [False, True])
def test_orderly_stop_notes_that_relaxed_indices_are_whole(data_dir: Path, dies: bool) -> None:
    with fake(data_dir=data_dir) as gateway:
        for pool in ("kv", "standard"):
            (data_dir / "pools" / pool / "index").mkdir(parents=True)
            (data_dir / "pools" / pool / "index" / "data.mdb").touch()
        if dies:
            gateway.wait_restarted("worker-0", gateway.kill("worker-0"))
        gateway.stop()
        assert [whole.is_noted(data_dir / "pools" / pool) for pool in ("kv", "standard")] == [not dies, False]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_stop_signals_drain(number: signal.Signals) -> None:
    with fake() as gateway:
        gateway.kill("supervisor", number)
        assert gateway.wait() == 0
        assert events(gateway)[-2:] == ["worker-0 told to stop", "keeper told to stop"]


def test_a_stop_that_all_processes_are_told_of_drains_and_ends_the_keeper_last() -> None:
    """As `timeout` tells the supervisor and then its group, and systemd by default: the writes that workers have under way may
    wait for the keeper, and what comes twice at once is one."""
    with fake("worker-slow") as gateway:
        pids = gateway.pids()
        for name in ("supervisor", "keeper", "worker-0", "supervisor"):
            os.kill(pids[name], signal.SIGTERM)
        assert gateway.wait() == 0
        assert events(gateway)[-2:] == ["worker-0 drained", "keeper told to stop"]


def test_files_are_allowed_as_connections_need_them() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
    try:
        with fake(settings={"http.connections_max": "300"}) as gateway:
            assert resource.prlimit(gateway.pids()["worker-0"], resource.RLIMIT_NOFILE)[0] == 300 + DESCRIPTORS_BESIDE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_service_manager_that_asks_is_told(tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(60)
        manager.bind("\0" + name)
        with fake(env={"NOTIFY_SOCKET": "@" + name}) as gateway:
            assert manager.recv(4096).decode() == f"READY=1\nSTATUS=serving at {gateway.endpoint}"
            gateway.stop()
            assert manager.recv(4096) == b"STOPPING=1"
            assert "msg=stopping signal=SIGTERM" in gateway.log


@pytest.mark.parametrize("end", ["a full disk", "nobody"])
def test_output_that_nothing_takes_ends_no_gateway(data_dir: Path, end: str) -> None:
    if end == "nobody":
        reader, output = os.pipe()
        os.close(reader)
    else:
        output = os.open("/dev/full", os.O_WRONLY)
    with fake(data_dir=data_dir, output=output) as gateway:
        os.close(output)
        assert fetch(gateway.endpoint) == "worker-0 recalltest"
        gateway.stop()
        assert "Traceback" not in gateway.log


def test_hangup_is_ignored() -> None:
    with fake() as gateway:
        for name in gateway.pids():
            gateway.kill(name, signal.SIGHUP)
        assert fetch(gateway.endpoint) == "worker-0 recalltest"
        wait_for(lambda: "settings are read at a start only" in gateway.log, "whoever expects more is told")


def test_a_child_that_cannot_start_again_says_why() -> None:
    with fake("worker-refuses-again") as gateway:
        gateway.kill("worker-0")
        wait_for(lambda: 'why="exit status 1: OSError: the fake worker refuses"' in gateway.log, "the reason")


def test_dead_children_are_started_again_on_the_same_port() -> None:
    with fake() as gateway:
        endpoint = gateway.endpoint
        gateway.wait_restarted("worker-0", gateway.kill("worker-0"))
        gateway.wait_restarted("keeper", gateway.kill("keeper"))
        assert fetch(endpoint) == "worker-0 recalltest"
        assert events(gateway)[-1] == "keeper ready, again"  # it must know that it is not alone this time


def test_restarts_back_off() -> None:
    with fake("worker-dies") as gateway:
        wait_for(lambda: gateway.log.count("restart_in_s") >= 4, "four restarts")
        waits = [line.partition("restart_in_s=")[2] for line in gateway.log.splitlines() if "restart_in_s" in line]
        assert waits[:4] == ["0.1", "0.2", "0.4", "0.8"]


def test_who_comes_while_the_only_worker_is_started_again_waits() -> None:
    """A client that is refused once may take the server for gone, for good."""
    with Gateway(settings={"bucket_listeners": "127.0.0.1:0=b-b"}) as gateway:
        bound = (gateway.data_dir / "run/b-b.endpoint").read_text().strip()
        for _ in range(2):  # the socket outlives each
            gateway.kill("worker-0")
            for endpoint in (gateway.endpoint, bound):
                assert fetch(f"{endpoint}/minio/health/live") == ""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_gateway_starts_again_at_a_port_whose_connections_it_has_just_closed(workers: int) -> None:
    with Gateway(workers=workers) as first:
        port = int(first.endpoint.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /minio/health/live HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            while connection.recv(4096):
                pass
        first.stop()
        with Gateway(workers=workers, listen=f"127.0.0.1:{port}") as second:
            assert fetch(f"{second.endpoint}/minio/health/live") == ""


def test_nobody_waits_for_a_worker_that_dies_again_and_again_and_its_port_is_kept() -> None:
    with fake("worker-dies") as gateway:
        address = gateway.endpoint.removeprefix("http://")
        wait_for(lambda: _is_refused(int(address.rpartition(":")[2])), "connections are refused")
        assert "restart_in_s=5" in gateway.log
        starts = gateway.log.count("msg=ready child=worker-0")
        with pytest.raises(GatewayFailed, match="already in use"), fake(listen=address):
            pass
        wait_for(lambda: gateway.log.count("msg=ready child=worker-0") > starts, "the next one listens all the same")


def test_connections_are_refused_while_the_only_worker_drains(data_dir: Path) -> None:
    with Gateway(data_dir=data_dir) as gateway:
        port = int(gateway.endpoint.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(b"PUT /b/k HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n1")
            time.sleep(0.3)  # it is read by then: a connection without a request would be closed
            os.kill(gateway.pids()["supervisor"], signal.SIGTERM)
            wait_for(lambda: _is_refused(port), "connections are refused", 5)


def _is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("name", ["worker-0", "keeper"])
def test_a_child_whose_loop_stands_still_says_where_and_is_started_again(name: str) -> None:
    role = name.partition("-")[0]
    with fake(f"{role}-hangs", settings={"hang_s": "0.3"}) as gateway:
        gateway.wait_restarted(name, gateway.pids()[name])
        wait_for(lambda: f'child={name} why="signal SIGKILL"' in gateway.log, "it is said what became of it")
        assert f'msg="its loop stands still: killed when it has said where" child={name}' in gateway.log
        assert f'fake_child.py", line {_line_of(role)} in {role}' in gateway.log
        assert fetch(gateway.endpoint) == "worker-0 recalltest"


def _line_of(role: str) -> int:
    """Where the fake child waits for its end."""
    lines = (ROOT / "tests/support/fake_child.py").read_text().splitlines()
    waits = {"worker": "signal.sigwait({signal.SIGTERM})", "keeper": "signal.sigwait({KEEPER_STOP})"}
    return next(number for number, line in enumerate(lines, 1) if line.strip() == waits[role])


def test_a_child_that_somebody_has_stopped_is_not_taken_for_one_that_hangs() -> None:
    with fake(settings={"hang_s": "0.3"}) as gateway:
        worker = gateway.pids()["worker-0"]
        os.kill(worker, signal.SIGSTOP)
        time.sleep(1.2)
        os.kill(worker, signal.SIGCONT)
        time.sleep(0.6)
        assert gateway.pids()["worker-0"] == worker
        assert "stands still" not in gateway.log


def test_without_a_limit_nothing_is_taken_for_hanging() -> None:
    with fake("worker-hangs", settings={"hang_s": "0"}) as gateway:
        worker = gateway.pids()["worker-0"]
        time.sleep(0.6)
        assert gateway.pids()["worker-0"] == worker


def test_the_loops_of_a_gateway_turn_while_it_has_nothing_to_do_and_say_where_they_are() -> None:
    with Gateway(settings={"hang_s": "1"}) as gateway:
        before = gateway.pids()
        for name in ("worker-0", "keeper"):
            os.kill(before[name], signal.SIGUSR2)
        time.sleep(3)
        assert gateway.log.count('gateway/runner.py", line') >= 2
        assert gateway.pids() == before
        assert "stands still" not in gateway.log


@pytest.mark.parametrize("more", [0, 2, 4])
def test_a_child_that_cannot_be_started_for_want_of_descriptors_is_started_later(more: int) -> None:
    """Whichever step finds none: the pipe, the process, or what tells how its start went. The dead child leaves one."""
    with fake() as gateway:
        supervisor = gateway.pids()["supervisor"]
        before = opened(supervisor)
        with descriptors(more, supervisor):
            worker = gateway.kill("worker-0")
            wait_for(lambda: gateway.log.count("cannot be started") > 1, "it was tried twice")
        gateway.wait_restarted("worker-0", worker)
        assert opened(supervisor) == before
        assert fetch(gateway.endpoint) == "worker-0 recalltest"


def test_children_die_with_a_killed_supervisor_and_the_next_start_succeeds(data_dir: Path) -> None:
    with fake(data_dir=data_dir, workers=2) as first:
        children = {name: pid for name, pid in first.pids().items() if name != "supervisor"}
        first.kill("supervisor")
        wait_for(lambda: not any(_runs(pid) for pid in children.values()), "the children die too")
        with fake(data_dir=data_dir) as second:
            assert set(second.pids()) == {"supervisor", "keeper", "worker-0"}
            assert fetch(second.endpoint) == "worker-0 recalltest"


def test_a_start_right_after_kill_9_waits_for_the_old_children(data_dir: Path) -> None:
    with fake(data_dir=data_dir, workers=2) as first:
        first.kill("supervisor")
        with fake(data_dir=data_dir) as second:
            assert fetch(second.endpoint) == "worker-0 recalltest"


def test_second_start_on_a_data_directory_is_refused_by_name(data_dir: Path) -> None:
    with fake(data_dir=data_dir) as first:
        result = first.command("serve", "--listen", "127.0.0.1:0")
        assert result.returncode == EXIT_IN_USE
        assert f"data directory {data_dir} is in use by process {first.pids()['supervisor']}" in result.stderr
        assert fetch(first.endpoint) == "worker-0 recalltest"


def test_port_in_use_is_refused_even_if_its_owner_shares_it(data_dir: Path) -> None:
    with (
        fake() as first
    ):  # its workers listen with SO_REUSEPORT: a second gateway could bind too, and get half the requests
        with pytest.raises(GatewayFailed, match=f"cannot listen on 127.0.0.1:{first.port}: Address already in use"):
            fake(data_dir=data_dir, listen=f"127.0.0.1:{first.port}").__enter__()


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("keeper-refuses", "keeper cannot start: ValueError: the fake keeper refuses"),
        ("worker-refuses", "worker-0 cannot start: OSError: the fake worker refuses"),
        ("keeper-mute", "keeper did not become ready within 0.5 s"),
    ],
)
def test_first_start_that_fails_ends_with_the_childs_message(data_dir: Path, mode: str, said: str) -> None:
    gateway = fake(mode, data_dir=data_dir, settings={"start_s": "0.5" if mode == "keeper-mute" else "30"})
    with pytest.raises(GatewayFailed) as caught:
        gateway.__enter__()
    assert caught.value.status == 1
    assert said in gateway.log
    assert not list((data_dir / "run").iterdir())
    assert not (data_dir / "endpoint").exists()


def test_a_child_that_does_not_drain_is_killed(data_dir: Path) -> None:
    with fake("worker-deaf", data_dir=data_dir, settings={"drain_s": "0.2"}) as gateway:
        pids = gateway.pids()
        with pytest.raises(GatewayFailed, match="status 0"):  # the helper takes it for a failure, the operator does not
            gateway.stop()
        assert not [pid for pid in pids.values() if _runs(pid)]
        assert 'msg="killed, it did not drain in time" child=worker-0' in gateway.log


def test_secrets_are_neither_in_arguments_nor_in_the_environment_of_children() -> None:
    key = base64.b64encode(bytes(range(32))).decode()
    told = {"RECALL_BACKING_SECRET_KEY": "backing-secret", "RECALL_NOTIFY_TOKEN_HOOK": "hook-token"}
    told["RECALL_BACKING_ACCESS_KEY"] = told["AWS_SECRET_ACCESS_KEY"] = told["AWS_ACCESS_KEY_ID"] = "aws-backing"
    with fake(env={"RECALL_KMS_SECRET_KEY": f"mine:{key}", **told}) as gateway:
        for name in ("keeper", "worker-0"):
            pid = gateway.pids()[name]
            for secret in (gateway.secret_key, key, *told.values()):
                for where in ("cmdline", "environ"):
                    assert secret.encode() not in Path(f"/proc/{pid}/{where}").read_bytes(), (name, where)
                assert secret not in gateway.log


# its parts


@pytest.fixture
def locked(data_dir: Path) -> Iterator[DataDir]:
    held = DataDir(load({"RECALL_DATA_DIR": str(data_dir)}))
    yield held
    held.close()


def test_data_dir_lock_is_shared_with_children(locked: DataDir) -> None:
    """flock belongs to the open file: a copy of the descriptor, as children inherit it, keeps it."""
    inherited = os.dup(locked.lock_fd)
    os.ftruncate(locked.lock_fd, 0)  # as if the holder were gone
    other = os.open(locked.path / "lock", os.O_RDWR)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(inherited)
        os.close(other)


def test_data_dir_refuses_a_second_owner_in_one_process(locked: DataDir) -> None:
    with pytest.raises(StartError, match=f"in use by process {os.getpid()}"):
        DataDir(load({"RECALL_DATA_DIR": str(locked.path)}))


def test_a_pool_that_the_settings_leave_out_is_refused(locked: DataDir) -> None:
    """Its buckets would be gone for clients, and their names free for others."""
    settings = load({"RECALL_DATA_DIR": str(locked.path)} | SMALL)
    (locked.path / "pools/scratch/index").mkdir(parents=True)
    assert locked.fitted(settings).pools.keys() == {"standard", "kv"}
    (locked.path / "pools/scratch/index/data.mdb").touch()
    with pytest.raises(StartError, match="pools/scratch is a pool that the settings do not have") as caught:
        locked.fitted(settings)
    assert caught.value.status == EXIT_BAD
    assert locked.fitted(
        load({"RECALL_DATA_DIR": str(locked.path), "RECALL_POOLS_SCRATCH_CAPACITY_BYTES": "1MiB"} | SMALL)
    )


def test_a_capacity_below_what_a_pool_has_is_said(locked: DataDir, caplog: pytest.LogCaptureFixture) -> None:
    (locked.path / "pools/kv").mkdir(parents=True)
    with open(locked.path / "pools/kv/flash", "wb") as flash:
        flash.truncate(2 << 20)
    locked.fitted(load({"RECALL_DATA_DIR": str(locked.path)} | SMALL))
    assert "pool kv keeps its 2MiB" in caplog.text
    assert locked.fitted(load({"RECALL_DATA_DIR": str(locked.path)})).pools["kv"].capacity_bytes == 2 << 20


def test_data_dir_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(StartError, match="cannot be used: Not a directory"):
            DataDir(load({"RECALL_DATA_DIR": str(path)}))


def test_hold_gives_a_port_that_others_can_share_only_by_asking() -> None:
    held, address = hold(Address("127.0.0.1", 0))
    with held, socket.socket() as polite, socket.socket() as worker:
        with pytest.raises(OSError, match="in use"):
            polite.bind((address.host, address.port))
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind((address.host, address.port))


def test_hold_refuses_a_host_that_does_not_exist() -> None:
    with pytest.raises(StartError, match="cannot listen on"):
        hold(Address("no.such.host.invalid", 0))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (Address("0.0.0.0", 1), "http://127.0.0.1:1"),
        (Address("::", 1), "http://[::1]:1"),
        (Address("10.0.0.7", 1), "http://10.0.0.7:1"),
    ],
)
def test_url_can_be_connected_to(address: Address, expected: str) -> None:
    assert url(address) == expected


def test_banner_shows_the_secret_only_when_it_was_made_now() -> None:
    settings = load({"RECALL_BACKING": "file:///cold?create=true"})
    assert "wonderland" in banner(settings, Credentials("alice", "wonderland", generated=True))
    assert "wonderland" not in banner(settings, Credentials("alice", "wonderland"))
    assert "AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1" in banner(settings, Credentials("alice", "wonderland"))


# the log


def record(text: str, **extra: object) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "recall.test", "levelname": "WARNING", "msg": text, "created": 0.0} | extra)


def test_log_lines_are_one_line_whatever_is_in_them() -> None:
    line = Line("worker-0").format(record("two\nlines", key='a "quoted"\r\nGET', size=3))
    assert line.startswith("t=1970-01-01T00:00:00.")
    assert line.endswith('proc=worker-0 log=recall.test msg="two\\nlines" key="a \\"quoted\\"\\r\\nGET" size=3')
    assert "\n" not in line


def test_log_lines_of_one_kind_are_written_once_a_minute() -> None:
    now_s = [100.0]
    once = Once(lambda: now_s[0])
    assert once.filter(record("down", once="backing"))
    assert not once.filter(record("down", once="backing"))
    assert not once.filter(record("down", once="backing"))
    assert once.filter(record("down", once="disk"))
    assert once.filter(record("down"))
    now_s[0] += ONCE_S
    third = record("down", once="backing")
    assert once.filter(third)
    assert third.__dict__["suppressed"] == 2


def test_log_remembers_a_bounded_number_of_kinds() -> None:
    once = Once(lambda: 0.0)
    for number in range(ONCE_KEYS_MAX + 10):
        assert once.filter(record("x", once=number))
    assert len(once._seen) == ONCE_KEYS_MAX
