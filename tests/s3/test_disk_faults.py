"""A disk that fails under a running gateway: no room, errors on write, sync and read, read-only; and no descriptors.

Each row of docs/SEMANTICS.md, "Faults", that is about the disk: what a client is told, that nothing acknowledged is lost,
that it ends when the fault does. Kind: tests.
"""

from __future__ import annotations

import errno
import functools
import http.client
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from botocore.exceptions import ClientError, HTTPClientError

from tests.s3.rawclient import RawClient, Signer
from tests.support.descriptors import descriptors
from tests.support.diskfaults import CHANGE, READ, SEND, SYNC, WRITE, DiskFaults
from tests.support.gateway import Gateway, GatewayFailed, wait_for
from tiering.contract import DiskFull
from tiering.flash import Flash

KIB: Final = 1 << 10
SETTINGS: Final = {
    "pools.standard.capacity_bytes": "16MiB",
    "pools.standard.demote_after_s": "0",
    "pools.standard.space_wait_s": "20s",
    "pools.kv.capacity_bytes": "4MiB",
    "pools.kv.space_wait_s": "20s",
}
POOLS: Final = {"docs": "standard", "kv-b": "kv"}
META_BYTES: Final = 8192
"""LMDB's two first pages, one of which each commit writes last."""


def probe(gateway: Gateway, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


@dataclass(frozen=True)
class Failing:
    """A gateway on a disk that fails as told."""

    gateway: Gateway
    faults: DiskFaults
    s3: Any

    def put(self, bucket: str, key: str, body: bytes = b"new") -> tuple[str, int]:
        return told(lambda: self.s3.put_object(Bucket=bucket, Key=key, Body=body))

    def get(self, bucket: str, key: str) -> bytes:
        body: bytes = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        return body

    def status(self, bucket: str, key: str) -> int:
        return told(lambda: self.s3.head_object(Bucket=bucket, Key=key))[1]

    def probe(self, path: str) -> int:
        return probe(self.gateway, path)

    def move(self, bucket: str, key: str, tier: str) -> None:
        with RawClient(self.gateway.port, signer(self.gateway)) as client:
            said = {"x-recall-tier": tier}
            reply = client.request("POST", f"/{bucket}/{key}", query=(("recall", ""),), headers=said, length=True)
            assert reply.status == 200, reply

    def copy(self, bucket: str, key: str) -> Path:
        return self.gateway.data_dir / "backing" / bucket / f"{key}.obj"

    def drop_pages(self, pool: str) -> None:
        """Puts the flash file out of memory, so that the next read is one of the device."""
        fd = os.open(self.gateway.data_dir / "pools" / pool / "flash", os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
        time.sleep(0.25)  # what mincore said is believed that long


def told(call: Callable[[], Any]) -> tuple[str, int]:
    """The code and status of a reply."""
    try:
        return "", call()["ResponseMetadata"]["HTTPStatusCode"]
    except ClientError as error:
        return error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Failing]:
    directory = tmp_path_factory.mktemp("failing")
    faults = DiskFaults(directory)
    with Gateway(data_dir=directory / "data", env=faults.env, settings=SETTINGS) as gateway:
        s3 = gateway.boto3_client(read_timeout=20)
        found = Failing(gateway, faults, s3)
        for bucket in POOLS:
            s3.create_bucket(Bucket=bucket)
            assert found.put(bucket, "kept", b"kept") == ("", 200)
        yield found
        s3.close()
        checked = gateway.command("check")
        assert checked.returncode == 0, checked.stdout
        gateway.stop()


WRITE_FAULTS: Final = {
    "no room on flash": (WRITE, errno.ENOSPC, "/flash", ("DiskFull", 507)),
    "no room in the index": (WRITE, errno.ENOSPC, "/index/", ("DiskFull", 507)),
    "over quota": (WRITE, errno.EDQUOT, "/index/", ("DiskFull", 507)),
    "flash refuses": (WRITE, errno.EIO, "/flash", ("ServiceUnavailable", 503)),
    "the index refuses": (WRITE, errno.EIO, "/index/", ("ServiceUnavailable", 503)),
    "read-only": (CHANGE, errno.EROFS, "/data/", ("ServiceUnavailable", 503)),
}


@pytest.mark.parametrize("bucket", POOLS)
@pytest.mark.parametrize("fault", WRITE_FAULTS)
def test_refused_write_is_told_and_leaves_all_as_it_was(failing: Failing, bucket: str, fault: str) -> None:
    calls, number, path, expected = WRITE_FAULTS[fault]
    key = f"{fault}-{bucket}"
    with failing.faults.on(calls, number, path) as rule:
        for size in (3, 20 * KIB, 900 * KIB):  # one extent, several, and what a large PUT does
            assert failing.put(bucket, key, bytes(size)) == expected
        assert failing.put(bucket, "kept") == expected
        assert rule.hits
        assert failing.get(bucket, "kept") == b"kept"
        assert failing.status(bucket, key) == 404
        assert failing.probe("/minio/health/live") == 200
    assert failing.put(bucket, key, b"later") == ("", 200)
    assert failing.get(bucket, key) == b"later"


def test_bucket_that_cannot_be_made_is_told(failing: Failing) -> None:
    def made() -> tuple[str, int]:
        return told(lambda: failing.s3.create_bucket(Bucket="later"))

    with failing.faults.on(CHANGE, errno.EROFS, "/data/"):
        assert made() == ("ServiceUnavailable", 503)
    assert made() == ("", 200)


def test_sync_of_the_index_that_fails_is_no_acknowledgement(failing: Failing) -> None:
    """The next commit writes and syncs every page it has again, so one process may go on."""
    worker = failing.gateway.pids()["worker-0"]
    with failing.faults.on(SYNC, errno.EIO, "/standard/index/"):
        assert failing.put("docs", "unsynced") == ("ServiceUnavailable", 503)
        assert failing.status("docs", "unsynced") == 404
        assert failing.put("kv-b", "relaxed") == ("", 200)
    assert failing.put("docs", "unsynced", b"later") == ("", 200)
    assert failing.get("docs", "unsynced") == b"later"
    assert failing.gateway.pids()["worker-0"] == worker


def test_failed_sync_of_flash_is_not_tried_again_by_the_same_process(failing: Failing) -> None:
    """The kernel tells it once, so a second sync would succeed for nothing: only a new process acknowledges writes again."""
    gateway = failing.gateway
    worker = gateway.pids()["worker-0"]
    with failing.faults.on(WRITE, errno.EIO, "/probe") as probed:
        with failing.faults.on(SYNC, errno.EIO, "/standard/flash", times=1):
            assert failing.put("docs", "lost") == ("ServiceUnavailable", 503)
        wait_for(lambda: probed.hits >= 2, "the device is looked at")
        for _ in range(3):
            assert failing.put("docs", "lost") == ("ServiceUnavailable", 503)
        assert told(lambda: failing.s3.delete_object(Bucket="docs", Key="kept")) == ("ServiceUnavailable", 503)
        assert failing.get("docs", "kept") == b"kept"
        assert failing.put("kv-b", "other pool") == ("", 200)
        assert failing.probe("/minio/health/cluster") == 503
        assert failing.probe("/minio/health/cluster/read") == 200
        assert gateway.pids()["worker-0"] == worker, "it stays and serves reads while the device does not keep writes"
    gateway.wait_restarted("worker-0", worker)
    assert "the device lost a write; a new process takes over" in gateway.log
    assert failing.status("docs", "lost") == 404
    assert failing.put("docs", "lost", b"later") == ("", 200)
    assert failing.get("docs", "lost") == b"later"
    assert failing.get("docs", "kept") == b"kept"
    assert failing.probe("/minio/health/cluster") == 200


@pytest.mark.parametrize("bucket", POOLS)
def test_lost_first_page_of_the_index_ends_the_process(failing: Failing, bucket: str) -> None:
    """LMDB serves nothing more in a process that could not write one of them."""
    gateway = failing.gateway
    worker = gateway.pids()["worker-0"]
    with failing.faults.on(WRITE, errno.EIO, f"/{POOLS[bucket]}/index/", stop=META_BYTES):
        assert failing.put(bucket, "lost") == ("ServiceUnavailable", 503)
    gateway.wait_restarted("worker-0", worker)
    assert failing.put(bucket, "lost", b"later") == ("", 200)
    assert failing.get(bucket, "lost") == b"later"
    assert failing.get(bucket, "kept") == b"kept"


def test_read_only_disk_takes_one_process_and_not_the_gateway(failing: Failing) -> None:
    """The supervisor cannot even take its note of the process away."""
    gateway = failing.gateway
    ended = gateway.log.count("msg=ended child=keeper")
    with failing.faults.on(CHANGE, errno.EROFS, "/data/"):
        keeper = gateway.kill("keeper")
        wait_for(lambda: gateway.log.count("msg=ended child=keeper") > ended + 1, "it is tried again, in vain")
        assert failing.get("docs", "kept") == b"kept"
        assert failing.probe("/minio/health/live") == 200
    gateway.wait_restarted("keeper", keeper)
    assert failing.put("docs", "writable again") == ("", 200)


def test_read_only_disk_lets_the_gateway_stop(tmp_path: Path) -> None:
    faults = DiskFaults(tmp_path)
    with Gateway(data_dir=tmp_path / "data", env=faults.env, settings=SETTINGS) as gateway:
        with faults.on(CHANGE, errno.EROFS, "/data/"):
            gateway.stop()
        assert "endpoint is left as it was: Read-only file system" in gateway.log
        assert gateway.start().command("health").returncode == 0


def test_index_that_refuses_the_keeper_puts_its_work_off(failing: Failing) -> None:
    with failing.faults.on(WRITE, errno.EIO, "/backing/"):
        assert failing.put("docs", "late", b"late") == ("", 200)
        with failing.faults.on(WRITE | SYNC, errno.EIO, "/standard/index/") as rule:
            wait_for(lambda: rule.hits, "the keeper meets it")
    wait_for(failing.copy("docs", "late").exists, "it is demoted all the same")
    assert failing.gateway.command("evict", "docs/late").returncode == 0
    assert failing.get("docs", "late") == b"late"


LONG: Final = 300 * KIB


def test_unreadable_flash_gives_way_to_the_cold_copy(failing: Failing) -> None:
    data = {"short": os.urandom(2000), "long": os.urandom(LONG)}
    for key, body in data.items():
        assert failing.put("docs", key, body) == ("", 200)
        failing.move("docs", key, "both")
    failing.drop_pages("standard")
    with failing.faults.on(READ | SEND, errno.EIO, "/standard/flash") as rule:
        for key, body in data.items():
            assert failing.get("docs", key) == body
        assert rule.hits
    for key, body in data.items():
        assert failing.get("docs", key) == body


@pytest.mark.parametrize("size", [2000, LONG])
def test_unreadable_flash_without_a_copy_is_never_wrong_bytes(failing: Failing, size: int) -> None:
    body = os.urandom(size)
    with failing.faults.on(WRITE, errno.EIO, "/backing/"):
        assert failing.put("docs", f"only-{size}", body) == ("", 200)
        assert failing.put("kv-b", f"only-{size}", body) == ("", 200)
        with failing.faults.on(READ | SEND, errno.EIO, "/flash"):
            failing.drop_pages("standard")  # only now: the keeper, whose copies fail, reads them again and again
            failing.drop_pages("kv")
            with RawClient(failing.gateway.port, signer(failing.gateway)) as client:
                reply = client.request("GET", f"/docs/only-{size}")
                assert (reply.status, reply.body) == (500, b"")
                assert client.request("GET", f"/kv-b/only-{size}").status == 404, "a relaxed pool has it computed again"
        assert failing.get("docs", f"only-{size}") == body, "kept, for the device may read it again"


def test_read_that_fails_on_its_way_out_cuts_the_connection(failing: Failing) -> None:
    body = os.urandom(LONG)
    assert failing.put("docs", "cut", body) == ("", 200)
    assert failing.get("docs", "cut") == body
    with failing.faults.on(SEND, errno.EIO, "/standard/flash") as rule:
        with pytest.raises((HTTPClientError, ClientError)):
            failing.get("docs", "cut")
        assert rule.hits
        assert failing.get("docs", "kept") == b"kept"
    assert failing.get("docs", "cut") == body


# --- descriptors ---------------------------------------------------------------------------------------------------------


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def signer(gateway: Gateway) -> Signer:
    return Signer(gateway.access_key, gateway.secret_key)


def test_no_descriptors_refuses_connections_and_serves_those_there_are(failing: Failing) -> None:
    gateway = failing.gateway
    worker = gateway.pids()["worker-0"]
    crowd: list[socket.socket] = []
    body = os.urandom(LONG)
    assert failing.put("docs", "long", body) == ("", 200)
    with RawClient(gateway.port, signer(gateway)) as neighbour, RawClient(gateway.port, signer(gateway)) as reader:
        assert neighbour.request("GET", "/docs/kept").body == b"kept"
        assert reader.request("GET", "/docs/kept").body == b"kept"
        with descriptors(8, worker):
            for _ in range(64):
                crowd.append(socket.create_connection(("127.0.0.1", gateway.port), 10))
            before_s = cpu_s(worker)
            time.sleep(0.5)
            spent_s = cpu_s(worker) - before_s
            assert neighbour.request("PUT", "/docs/beside", body=b"beside").status == 200
            assert neighbour.request("GET", "/docs/beside").body == b"beside"
            assert reader.request("GET", "/docs/long").body == body
            assert neighbour.request("PUT", "/docs/long beside", body=body).status == 200
            assert spent_s < 0.25, "it does not spin on what it cannot accept"
            for each in crowd:
                each.close()
            wait_for(functools.partial(connects, failing), "new connections are served again")
        assert failing.get("docs", "beside") == b"beside"
    assert gateway.pids()["worker-0"] == worker


def connects(failing: Failing) -> bool:
    try:
        return failing.probe("/minio/health/live") == 200
    except (OSError, http.client.HTTPException):
        return False


# --- a disk that is really full ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 160 MiB; only root can have one."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", place]).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_pools_that_do_not_fit_are_refused_and_take_nothing(small_disk: Path) -> None:
    """Nor is anything made of them: a smaller capacity would find them in the larger size."""
    free = os.statvfs(small_disk).f_bavail
    for large in ({"pools.standard.capacity_bytes": "140MiB"}, {"pools.kv.capacity_bytes": "1000TiB"}):
        with pytest.raises(GatewayFailed, match="has no room for the pools: ") as caught:
            Gateway(data_dir=small_disk / "data", settings=SETTINGS | large).__enter__()
        assert (caught.value.status, "Traceback" in str(caught.value)) == (1, False)
        assert os.statvfs(small_disk).f_bavail > free - 256
    with pytest.raises(DiskFull):
        Flash(small_disk / "flash", 1 << 20, 200)  # as where somebody else takes the room in between
    assert os.statvfs(small_disk).f_bavail > free - 256
    with Gateway(data_dir=small_disk / "data", settings=SETTINGS) as gateway:
        gateway.stop()


def test_full_disk_kills_nobody(small_disk: Path, tmp_path: Path) -> None:
    """What is written through a mapping has its room from the start: a hole in it would be a SIGBUS now."""
    backing = tmp_path / "backing"
    backing.mkdir()
    with Gateway(data_dir=small_disk / "data", backing=backing.as_uri(), settings=SETTINGS) as gateway:
        s3 = gateway.boto3_client()
        for bucket in POOLS:
            s3.create_bucket(Bucket=bucket)
            s3.put_object(Bucket=bucket, Key="hot", Body=b"hot")
        s3.put_object(Bucket="docs", Key="cold", Body=b"cold", Metadata={"recall-ttl": "3600; sliding"})
        assert gateway.command("evict", "docs/cold").returncode == 0, gateway.log
        pids = gateway.pids()
        filler = small_disk / "filler"
        with pytest.raises(OSError), open(filler, "wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        refused = ("", 200)
        while refused[1] == 200:
            refused = told(lambda: s3.put_object(Bucket="docs", Key="k" * 900 + os.urandom(8).hex(), Body=b"x"))
        assert refused == ("DiskFull", 507)
        assert [probe(gateway, f"/minio/health/{name}") for name in ("ready", "cluster")] == [200, 503]
        assert s3.get_object(Bucket="docs", Key="cold")["Body"].read() == b"cold"
        for bucket in POOLS:
            assert s3.get_object(Bucket=bucket, Key="hot")["Body"].read() == b"hot"
        clients = [gateway.boto3_client() for _ in range(4)]
        for client in clients:
            assert client.get_object(Bucket="docs", Key="hot")["Body"].read() == b"hot"
            client.close()
        filler.unlink()
        assert probe(gateway, "/minio/health/cluster") == 200
        wait_for(lambda: told(lambda: s3.put_object(Bucket="docs", Key="after", Body=b"a"))[1] == 200, "it goes on")
        assert gateway.pids() == pids
        checked = gateway.command("check", "--backing", backing.as_uri())
        assert checked.returncode == 0, checked.stdout
        s3.close()
