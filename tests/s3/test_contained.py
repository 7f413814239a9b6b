"""What the image promises, tried without one: all that is written is in the data directory, nobody else can read it, nothing
needs root, no process leaves a core, and `recall health` knows the port and TLS by itself."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Final

import pytest

from tests.support.certificates import Certificates
from tests.support.gateway import ROOT, Gateway, wait_for

SMALL: Final = {"pools.standard.capacity_bytes": "8MiB", "pools.kv.capacity_bytes": "8MiB"}
READ_ONLY: Final = """
set -e
mount --bind "$1" "$1"
for at in / /tmp /var/tmp /dev/shm; do
    if mountpoint -q "$at"; then mount -o remount,bind,ro "$at"; fi
done
if touch "$2/written" 2>/dev/null; then exit 77; fi
shift 2
exec "$@"
"""
"""Everything but the first argument becomes read-only, for what is run and its children. 77: it did not."""


def open_to_others(directory: Path) -> list[str]:
    return [
        f"{path.relative_to(directory)} {stat.S_IMODE(path.lstat().st_mode):o}"
        for path in (directory, *directory.rglob("*"))
        if path.lstat().st_mode & 0o077
    ]


def test_health_is_asked_without_port_or_credentials_also_under_tls(tmp_path: Path) -> None:
    with Gateway(data_dir=tmp_path / "data", settings=SMALL | Certificates(tmp_path).settings) as gateway:
        assert gateway.endpoint.startswith("https://")
        nothing = {"RECALL_ROOT_USER": "", "RECALL_ROOT_PASSWORD": ""}
        for more in ((), ("--writes",)):
            done = gateway.command("health", *more, env=nothing)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        gateway.stop()
        done = gateway.command("health", env=nothing)
        assert done.returncode == 1 and "no gateway runs" in done.stderr


def test_what_is_written_is_for_nobody_else_and_no_process_leaves_a_core(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o755)  # somebody's umask
    with Gateway(data_dir=data_dir, settings=SMALL) as gateway:
        s3 = gateway.boto3_client()
        s3.create_bucket(Bucket="names")
        s3.put_object(Bucket="names", Key="secret/name", Body=b"x")
        assert gateway.command("demote", "names/secret/name").returncode == 0
        assert gateway.command("user", "add", "somebody").returncode == 0
        assert list(data_dir.glob("backing/names/**/*.obj"))
        assert open_to_others(data_dir) == []
        for name, pid in gateway.pids().items():
            (line,) = [row for row in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core" in row]
            assert line.split()[-3:-1] in (["1", "1"], ["0", "0"]), name


def test_gateway_needs_one_writable_directory(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    serve = [sys.executable, "-m", "gateway", "serve", "--data-dir", str(data_dir), "--listen", "127.0.0.1:0"]
    serve += [f"--set={name}={value}" for name, value in SMALL.items()]
    wrapped = [unshare, "-rm", "sh", "-c", READ_ONLY, "sh", str(data_dir), str(tmp_path), *serve]
    environ = {"PATH": os.environ["PATH"], "HOME": str(data_dir)}
    process = subprocess.Popen(
        wrapped, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        endpoint = data_dir / "endpoint"
        wait_for(lambda: endpoint.exists() or process.poll() is not None, "the gateway is ready")
        if process.poll() == 77:
            pytest.skip("this file system cannot be made read-only")
        assert process.poll() is None, process.stdout and process.stdout.read()
        with urllib.request.urlopen(f"{endpoint.read_text().strip()}/minio/health/cluster", timeout=10) as reply:
            assert reply.status == 200
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert "Read-only" not in output and "Traceback" not in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
