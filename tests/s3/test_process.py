"""The gateway as a process: start, port 0, credentials, bad settings, second start, kill -9, drain, commands."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import botocore.exceptions
import pytest

from tests.support.gateway import ACCESS_KEY, ROOT, Gateway, GatewayFailed, wait_for

SMALL = {"pools.standard.capacity_bytes": "8MiB", "pools.kv.capacity_bytes": "8MiB"}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway(workers=2, settings=SMALL | {"pin_workers": "yes"}) as running:
        running.boto3_client().create_bucket(Bucket="shared")
        yield running


def refused(arguments: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]} | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def get(url: str, method: str = "GET") -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_port_0_is_bound_printed_and_written(gateway: Gateway) -> None:
    assert gateway.endpoint.startswith("http://127.0.0.1:")
    assert gateway.port > 0
    assert f"Recall is ready at {gateway.endpoint}" in gateway.log
    assert set(gateway.pids()) == {"supervisor", "keeper", "worker-0", "worker-1"}


def test_pinned_workers_keep_to_a_cpu_each(gateway: Gateway) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    pids = gateway.pids()
    for slot in range(2):
        for thread in os.listdir(f"/proc/{pids[f'worker-{slot}']}/task"):
            assert os.sched_getaffinity(int(thread)) == {allowed[slot % len(allowed)]}, (slot, thread)
    assert os.sched_getaffinity(pids["keeper"]) == set(allowed)


def test_health_and_metrics_answer_without_a_signature(gateway: Gateway) -> None:
    for path in ("/minio/health/live", "/minio/health/ready", "/minio/health/cluster", "/minio/health/cluster/read"):
        assert get(gateway.endpoint + path) == 200
        assert get(gateway.endpoint + path, "HEAD") == 200
    assert get(gateway.endpoint + "/recall/metrics") == 200
    assert get(gateway.endpoint + "/minio/v2/metrics/cluster") == 200
    assert get(gateway.endpoint + "/minio/health") == 501


def test_metrics_say_how_large_each_index_is(gateway: Gateway) -> None:
    with urllib.request.urlopen(f"{gateway.endpoint}/recall/metrics", timeout=30) as reply:
        lines = dict(line.rsplit(" ", 1) for line in reply.read().decode().splitlines() if not line.startswith("#"))
    for pool in ("standard", "kv"):
        of_pool = f'{{pool="{pool}"}}'
        size = (gateway.data_dir / "pools" / pool / "index" / "data.mdb").stat().st_size
        assert float(lines[f"recall_pool_index_bytes{of_pool}"]) <= size
        assert (
            0
            < float(lines[f"recall_pool_index_used_bytes{of_pool}"])
            < float(lines[f"recall_pool_index_bytes{of_pool}"])
        )


def test_commands_change_objects_of_the_running_gateway(gateway: Gateway) -> None:
    client = gateway.boto3_client()
    key = "a/b c+ü"
    client.put_object(Bucket="shared", Key=key, Body=b"block" * 1000)
    for command in (
        ["pin", f"shared/{key}"],
        ["pin", "--for", "15m", f"shared/{key}"],
        ["unpin", f"shared/{key}"],
        ["ttl", "--for", "1h", "--sliding", f"shared/{key}"],
        ["ttl", "--remove", f"shared/{key}"],
        ["demote", f"s3://shared/{key}"],
        ["evict", f"shared/{key}"],
    ):
        done = gateway.command(*command)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert done.stdout == f"{command[0]} shared/{key}\n"
    headers = client.head_object(Bucket="shared", Key=key)["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-recall-tier"] == "cold"
    assert client.get_object(Bucket="shared", Key=key)["Body"].read() == b"block" * 1000


def test_commands_name_what_was_refused_and_go_on(gateway: Gateway) -> None:
    gateway.boto3_client().put_object(Bucket="shared", Key="there", Body=b"x")
    done = gateway.command("pin", "shared/missing", "shared/there")
    assert done.returncode == 1
    assert "pin shared/missing: NoSuchKey" in done.stderr
    assert done.stdout == "pin shared/there\n"


def test_stats_count_what_was_done(gateway: Gateway) -> None:
    gateway.boto3_client().put_object(Bucket="shared", Key="counted", Body=b"x" * 4096)
    with pytest.raises(botocore.exceptions.ClientError):
        gateway.boto3_client().get_object(Bucket="shared", Key="not there")
    summary = gateway.command("stats").stdout
    assert "PutObject" in summary
    assert " NoSuchKey" in summary
    listed = json.loads(gateway.command("stats", "--json").stdout)
    puts = [
        row["value"]
        for row in listed
        if row["name"] == "recall_requests_total" and row["labels"]["operation"] == "PutObject"
    ]
    assert sum(puts) >= 1
    assert {"name": "recall_pool_capacity_bytes", "labels": {"pool": "kv"}, "value": float(8 << 20)} in listed


def test_check_is_clean_beside_the_running_gateway(gateway: Gateway) -> None:
    done = gateway.command("check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_second_start_is_refused_by_name(gateway: Gateway) -> None:
    done = gateway.command("serve", "--listen", "127.0.0.1:0")
    assert done.returncode == 3
    assert f"data directory {gateway.data_dir} is in use by process {gateway.pids()['supervisor']}" in done.stderr


def test_commands_say_that_no_gateway_runs(tmp_path: Path) -> None:
    secrets = {"RECALL_ROOT_USER": ACCESS_KEY, "RECALL_ROOT_PASSWORD": "whatever-it-is"}
    done = refused(["pin", "--data-dir", str(tmp_path), "b/k"], secrets)
    assert done.returncode == 1
    assert f"no gateway runs on {tmp_path}" in done.stderr
    (tmp_path / "endpoint").write_text("http://127.0.0.1:9\n")  # left behind by a killed one
    done = refused(["stats", "--data-dir", str(tmp_path)], secrets)
    assert done.returncode == 1
    assert "the gateway at http://127.0.0.1:9 does not answer" in done.stderr


def test_commands_with_other_credentials_are_refused(gateway: Gateway) -> None:
    other = {"RECALL_ROOT_USER": ACCESS_KEY, "RECALL_ROOT_PASSWORD": "not-the-secret"}
    done = refused(["pin", "--data-dir", str(gateway.data_dir), "shared/x"], other)
    assert done.returncode == 1
    assert "SignatureDoesNotMatch" in done.stderr


def test_check_of_an_unused_directory_says_so(tmp_path: Path) -> None:
    done = refused(["check", "--data-dir", str(tmp_path)], {})
    assert done.returncode == 1
    assert "nothing to check" in done.stderr


def test_commands_for_the_gateway_need_no_backing_settings(gateway: Gateway, tmp_path: Path) -> None:
    env = {
        "RECALL_ROOT_USER": ACCESS_KEY,
        "RECALL_ROOT_PASSWORD": "whatever-it-is",
        "RECALL_BACKING": "s3://cold?endpoint=http://127.0.0.1:9",  # without its credentials
    }
    assert "no credentials for the backing" in refused(["check", "--data-dir", str(tmp_path)], env).stderr
    for command in (["stats"], ["pin", "b/k"]):
        done = refused([command[0], "--data-dir", str(tmp_path), *command[1:]], env)
        assert f"no gateway runs on {tmp_path}" in done.stderr
    assert refused(["metrics-token", "--data-dir", str(tmp_path)], env).returncode == 0


def test_rebuild_makes_no_data_directory(tmp_path: Path) -> None:
    done = refused(["rebuild", "--data-dir", str(tmp_path / "typo")], {})
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"there is no data directory {tmp_path / 'typo'}" in done.stderr
    assert not (tmp_path / "typo").exists()


def test_rebuild_without_a_backing_store_is_one_line(tmp_path: Path) -> None:
    small = [f"--set={name}={size}" for name, size in SMALL.items()]
    done = refused(["rebuild", "--data-dir", str(tmp_path), "--backing", f"file://{tmp_path}/none", *small], {})
    assert done.returncode == 1
    assert "recall: rebuild: the backing store does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_names_an_index_that_cannot_be_read(tmp_path: Path) -> None:
    for pool, content in (("standard", b"\xff" * 8192), ("kv", b"")):
        folder = tmp_path / "pools" / pool / "index"
        folder.mkdir(parents=True)
        (folder / "data.mdb").write_bytes(content)
    done = refused(["check", "--data-dir", str(tmp_path)], {})
    assert done.returncode == 1
    assert "pool standard: cannot be read" in done.stdout
    assert "pool kv: cannot be read" in done.stdout
    assert done.stderr == ""


def test_stats_into_a_closed_pipe_ends_quietly(gateway: Gateway) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "stats", "--json", "--data-dir", str(gateway.data_dir)],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "RECALL_ROOT_USER": gateway.access_key,
                "RECALL_ROOT_PASSWORD": gateway.secret_key,
            },
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_unavailable_backing_is_said_at_the_start_and_hot_work_goes_on(tmp_path: Path) -> None:
    env = {"RECALL_BACKING": f"file://{tmp_path}/none"}
    with Gateway(settings=SMALL, env=env) as gateway:
        wait_for(lambda: f"the backing store file://{tmp_path}/none is unavailable" in gateway.log, "the warning")
        client = gateway.boto3_client()
        client.create_bucket(Bucket="hot")
        client.put_object(Bucket="hot", Key="k", Body=b"x")
        assert client.get_object(Bucket="hot", Key="k")["Body"].read() == b"x"
        assert gateway.log.count(f"the backing store file://{tmp_path}/none is unavailable: ") == 1


def test_bad_settings_are_all_listed(tmp_path: Path) -> None:
    done = refused(
        [
            "serve",
            "--data-dir",
            str(tmp_path / "data"),
            "--workers",
            "none",
            "--set",
            "pools.kv.etag=x",
            "--set",
            "bare",
        ],
        {"RECALL_LISTEN": "nowhere", "RECALL_TYPO": "1"},
    )
    assert done.returncode == 2
    for part in ("workers", "pools.kv.etag", "RECALL_LISTEN", "RECALL_TYPO", "--set bare"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["serve", "--worker", "2"],
        ["pin"],
        ["pin", "nokey"],
        ["ttl", "b/k"],
        ["pin", "--for", "0", "b/k"],
        ["settings", "--workers", "none"],
        ["ttl", "--for", "0", "b/k"],
        ["ttl", "--remove", "--sliding", "b/k"],
    ],
)
def test_bad_arguments_end_with_status_2(arguments: list[str]) -> None:
    done = refused(arguments, {})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_half_credentials_are_refused(tmp_path: Path) -> None:
    done = refused(["serve", "--data-dir", str(tmp_path / "data")], {"RECALL_ROOT_USER": "alice"})
    assert done.returncode == 2
    assert "RECALL_ROOT_PASSWORD is not" in done.stderr


def test_accounts_that_cannot_be_used_are_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "identities.json").write_text("{")
    (tmp_path / "identities.json").chmod(0o600)
    done = refused(["serve", "--data-dir", str(tmp_path), "--listen", "127.0.0.1:0"], {})
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"recall: {tmp_path}/identities.json cannot be understood")
    assert "msg=starting" not in done.stderr


def test_generated_credentials_are_shown_once_kept_and_guarded(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with Gateway(data_dir=data_dir, settings=SMALL, credentials=None) as first:
        secret = first.secret_key
        assert secret in first.log
        assert stat.S_IMODE((data_dir / "credentials.json").stat().st_mode) == 0o600
        first.boto3_client().create_bucket(Bucket="kept")
        first.stop()
        shown = first.log.count(secret)
    with Gateway(data_dir=data_dir, settings=SMALL, credentials=None) as second:
        assert [bucket["Name"] for bucket in second.boto3_client().list_buckets()["Buckets"]] == ["kept"]
        assert second.log.count(secret) == shown
        second.stop()
    (data_dir / "credentials.json").chmod(0o644)
    with pytest.raises(GatewayFailed, match="mode 0644") as caught:
        Gateway(data_dir=data_dir, settings=SMALL, credentials=None).__enter__()
    assert caught.value.status == 2


def test_settings_come_from_file_environment_and_command_line(tmp_path: Path) -> None:
    (tmp_path / "recall.toml").write_text('log_level = "error"\nregion = "file"\n')
    env = {
        "RECALL_CONFIG": str(tmp_path / "recall.toml"),
        "RECALL_REGION": "eu-central-1",
        "RECALL_LOG_LEVEL": "warning",
    }
    with Gateway(settings=SMALL | {"log_level": "info"}, env=env) as gateway:
        client = gateway.boto3_client()
        client.create_bucket(Bucket="where")
        assert client.get_bucket_location(Bucket="where")["LocationConstraint"] == "eu-central-1"
        assert "level=info" in gateway.log


def test_a_bucket_listener_serves_one_bucket(tmp_path: Path) -> None:
    with Gateway(
        data_dir=tmp_path / "data", settings=SMALL | {"bucket_listeners": "127.0.0.1:0=kv-lmcache"}
    ) as gateway:
        client = gateway.boto3_client()
        client.create_bucket(Bucket="kv-lmcache")
        client.put_object(Bucket="kv-lmcache", Key="some/key", Body=b"value")
        bound = (tmp_path / "data/run/kv-lmcache.endpoint").read_text().strip()
        assert f"kv-lmcache alone at {bound}" in gateway.log
        assert bound != gateway.endpoint
        with urllib.request.urlopen(_signed_for(gateway, bound), timeout=10) as reply:
            assert reply.read() == b"value"
        assert get(_signed_for(gateway, gateway.endpoint)) == 404  # there `some` is a bucket


def _signed_for(gateway: Gateway, endpoint: str) -> str:
    """A presigned GET of /some/key at an address: in path style the bucket `some` and the key `key`."""
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=gateway.access_key,
        aws_secret_access_key=gateway.secret_key,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, signature_version="s3v4"),
    )
    return str(client.generate_presigned_url("get_object", Params={"Bucket": "some", "Key": "key"}))


def test_objects_survive_kill_9_of_each_process_and_of_all(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with Gateway(data_dir=data_dir, workers=2, settings=SMALL) as gateway:
        client = gateway.boto3_client()
        client.create_bucket(Bucket="kv-b")
        written = 0
        for name in ("worker-0", "keeper", "worker-1"):
            for _ in range(5):
                wait_for(lambda number=written: _put(client, number), "a write succeeds")
                written += 1
            gateway.wait_restarted(name, gateway.kill(name))
        _expect(client, written)
        restarts = {
            row["labels"]["process"]: row["value"]
            for row in json.loads(gateway.command("stats", "--json").stdout)
            if row["name"] == "recall_restarts_total"
        }
        assert restarts == {"keeper": 1, "worker": 2}
        gateway.kill_all()
    with Gateway(data_dir=data_dir, workers=2, settings=SMALL) as again:
        _expect(again.boto3_client(), written)
        assert again.command("check").returncode == 0
        again.stop()


def _put(client: object, number: int) -> bool:
    """False when the connection was lost: its worker has just been killed."""
    try:
        client.put_object(Bucket="kv-b", Key=f"{number}", Body=b"%d" % number * 5000)  # type: ignore[attr-defined]
    except botocore.exceptions.BotoCoreError:
        return False
    return True


def _expect(client: object, written: int) -> None:
    for number in range(written):

        def body(number: int = number) -> bytes:
            try:
                return bytes(client.get_object(Bucket="kv-b", Key=f"{number}")["Body"].read())  # type: ignore[attr-defined]
            except botocore.exceptions.BotoCoreError:
                return b""

        assert wait_for(body, f"object {number} is read") == b"%d" % number * 5000


def test_sigint_ends_with_status_0_too(tmp_path: Path) -> None:
    with Gateway(data_dir=tmp_path / "data", settings=SMALL) as gateway:
        gateway.kill("supervisor", signal.SIGINT)
        assert gateway.wait() == 0
        assert "msg=stopped" in gateway.log
        assert not (tmp_path / "data/endpoint").exists()
