"""HTTPS against a real gateway: clients, versions, certificates replaced under way, what is said to who does not speak TLS."""

from __future__ import annotations

import http.client
import json
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import boto3
import pytest
import urllib3
from botocore.config import Config
from minio import Minio
from recall_client import RecallClient
from recall_client.signing import Credentials

from tests.s3.rawclient import RawClient, Reply, Signer
from tests.support.certificates import Certificates, new_key
from tests.support.gateway import Gateway, GatewayFailed, wait_for

BUCKET: Final = "sealed-lips"
BOUND: Final = "bound-tls"
DATA: Final = random.Random(11).randbytes(6 << 20)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secure(files: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    settings = {**files.settings, "bucket_listeners": f"127.0.0.1:0={BOUND}"}
    with Gateway(data_dir=tmp_path_factory.mktemp("tls") / "data", workers=2, settings=settings) as running:
        client = s3_client(running, files)
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="six", Body=DATA)
        yield running
        # Nothing any test did was worth a trace.
        assert "Traceback" not in running.log and "exc=" not in running.log


def s3_client(gateway: Gateway, files: Certificates) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=gateway.endpoint,
        aws_access_key_id=gateway.access_key,
        aws_secret_access_key=gateway.secret_key,
        region_name="us-east-1",
        verify=str(files.ca),
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


def trusting(files: Certificates, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(files.ca))
    if version is not None:
        context.maximum_version = context.minimum_version = version
    return context


def connected(gateway: Gateway, files: Certificates, version: ssl.TLSVersion | None = None) -> RawClient:
    signer = Signer(gateway.access_key, gateway.secret_key)
    return RawClient(gateway.port, signer, tls=trusting(files, version))


def shown(gateway: Gateway) -> str:
    """The certificate a new connection is shown."""
    return ssl.get_server_certificate(("127.0.0.1", gateway.port))


def failures(gateway: Gateway) -> float:
    done = wait_for(lambda: (asked := gateway.command("stats", "--json")).returncode == 0 and asked, "it is asked")
    samples = json.loads(done.stdout)
    return next(each["value"] for each in samples if each["name"] == "recall_tls_handshakes_failed_total")


# --- clients


def test_the_endpoint_says_https_everywhere(secure: Gateway) -> None:
    assert secure.endpoint.startswith("https://127.0.0.1:")
    assert f"ready at {secure.endpoint}" in secure.log and f"AWS_ENDPOINT_URL={secure.endpoint}" in secure.log
    bound = (secure.data_dir / f"run/{BOUND}.endpoint").read_text().strip()
    assert bound.startswith("https://") and f"{BOUND} alone at {bound}" in secure.log


def test_boto3_verifies_writes_and_reads(secure: Gateway, files: Certificates) -> None:
    client = s3_client(secure, files)
    client.put_object(
        Bucket=BUCKET, Key="boto", Body=DATA
    )  # over TLS boto3 leaves the payload unsigned, with a trailer
    assert client.get_object(Bucket=BUCKET, Key="boto")["Body"].read() == DATA
    part = client.get_object(Bucket=BUCKET, Key="boto", Range="bytes=5-70004")["Body"].read()
    assert part == DATA[5:70_005]
    with pytest.raises(Exception, match="certificate verify failed"):
        boto3.client(
            "s3", endpoint_url=secure.endpoint, aws_access_key_id="a", aws_secret_access_key="b"
        ).list_buckets()


def test_boto3_in_parts(secure: Gateway, files: Certificates, tmp_path: Path) -> None:
    client = s3_client(secure, files)
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(DATA * 3)
    client.upload_file(str(source), BUCKET, "parts")
    client.download_file(BUCKET, "parts", str(back))
    assert back.read_bytes() == DATA * 3


def test_aws_command_line_with_a_bundle(secure: Gateway, files: Certificates, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    environment = secure.aws_environment(tmp_path)
    aws = [str(Path(sys.executable).with_name("aws")), "--ca-bundle", str(files.ca)]
    for arguments in (["s3", "cp", "file", f"s3://{BUCKET}/cli"], ["s3", "cp", f"s3://{BUCKET}/cli", "back"]):
        done = subprocess.run(
            [*aws, *arguments], env=environment, cwd=tmp_path, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == DATA


def test_minio_py(secure: Gateway, files: Certificates) -> None:
    pool = urllib3.PoolManager(timeout=20.0, retries=False, ca_certs=str(files.ca))
    address = secure.endpoint.removeprefix("https://")
    client = Minio(address, access_key=secure.access_key, secret_key=secure.secret_key, secure=True, http_client=pool)
    assert client.bucket_exists(BUCKET)
    reply = client.get_object(BUCKET, "six")
    assert reply.read() == DATA
    reply.close()
    reply.release_conn()
    pool.clear()


def test_recall_client(secure: Gateway, files: Certificates) -> None:
    keys = Credentials(secure.access_key, secure.secret_key)
    with RecallClient(secure.endpoint, BUCKET, keys, context=trusting(files)) as client:
        blocks = {f"block/{number}": DATA[: 1000 << number] for number in range(8)}
        assert all(outcome.ok for outcome in client.put(blocks.items()))
        assert client.get(list(blocks)) == list(blocks.values())


def test_the_bound_listener_speaks_tls_too(secure: Gateway, files: Certificates) -> None:
    s3_client(secure, files).create_bucket(Bucket=BOUND)
    port = int((secure.data_dir / f"run/{BOUND}.endpoint").read_text().strip().rpartition(":")[2])
    with RawClient(port, Signer(secure.access_key, secure.secret_key), tls=trusting(files)) as client:
        assert client.request("PUT", "/key", body=b"bound").status == 200
        assert client.request("GET", "/key").body == b"bound"


def test_health_and_metrics(secure: Gateway, files: Certificates) -> None:
    for path in ("/minio/health/live", "/minio/health/ready", "/recall/metrics"):
        with urllib.request.urlopen(secure.endpoint + path, context=trusting(files), timeout=10) as reply:
            assert reply.status == 200


def test_commands_trust_the_gateways_own_certificate_and_no_other(secure: Gateway) -> None:
    assert secure.command("pin", f"{BUCKET}/six").returncode == 0
    assert secure.command("unpin", f"{BUCKET}/six").returncode == 0
    pinned = secure.data_dir / "run/tls.pem"
    before = pinned.read_text()
    try:
        pinned.write_text(Certificates(secure.data_dir.parent).cert.read_text())
        refused = secure.command("stats")
        assert refused.returncode == 1 and "does not show the certificate in" in refused.stderr
    finally:
        pinned.write_text(before)


# --- the wire


def test_keep_alive_continue_and_slow_readers(secure: Gateway, files: Certificates) -> None:
    with connected(secure, files) as client:
        put = client.request("PUT", f"/{BUCKET}/raw", body=DATA, expect=True)
        assert (put.status, put.continued) == (200, True)
        for _ in range(3):
            assert client.request("GET", f"/{BUCKET}/raw", headers={"range": "bytes=9-20008"}).body == DATA[9:20_009]
        signed = client.signer.sign("GET", f"/{BUCKET}/raw", (), {"host": client.host}, "UNSIGNED-PAYLOAD")
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
        client._socket.sendall(f"GET /{BUCKET}/raw HTTP/1.1\r\nconnection: close\r\n{lines}\r\n".encode())
        received = bytearray()
        while data := client._socket.recv(256 << 10):
            received += data
            time.sleep(0.01)
        assert received.partition(b"\r\n\r\n")[2] == DATA


def test_old_versions_are_refused(secure: Gateway, files: Certificates) -> None:
    before = failures(secure)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", secure.port), timeout=10) as plain:
        with pytest.raises(ssl.SSLError):
            old.wrap_socket(plain)
    wait_for(lambda: failures(secure) == before + 1, "the failure is counted")
    assert "why=UNSUPPORTED_PROTOCOL" in secure.log


def test_plain_http_is_closed(secure: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", secure.port), timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        try:
            assert b"HTTP" not in plain.recv(1000)
        except ConnectionResetError:
            pass
    wait_for(lambda: "why=HTTP_REQUEST" in secure.log, "the failure is in the log")


def test_who_says_nothing_is_closed_in_time(files: Certificates, tmp_path: Path) -> None:
    settings = {**files.settings, "http.head_s": "1s"}  # others could be late by as much on a busy machine
    with Gateway(data_dir=tmp_path / "data", settings=settings) as gateway:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as plain:
            try:
                assert plain.recv(1000) == b""
            except ConnectionResetError:
                pass
        wait_for(lambda: failures(gateway) >= 1, "the failure is counted")


def test_policies_know_the_transport(secure: Gateway, files: Certificates) -> None:
    client = s3_client(secure, files)

    def allow(prefix: str, condition: dict[str, Any]) -> dict[str, Any]:
        resource = f"arn:aws:s3:::{BUCKET}/{prefix}/*"
        rule = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": resource}
        return rule | {"Condition": condition}

    rules = [
        allow("any", {"Bool": {"aws:SecureTransport": "true"}}),
        allow("new", {"NumericGreaterThanEquals": {"s3:TlsVersion": "1.3"}}),
        allow("none", {"Bool": {"aws:SecureTransport": "false"}}),
    ]
    for prefix in ("any", "new", "none"):
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/k", Body=b"k")
    client.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": rules}))

    def status(prefix: str, version: ssl.TLSVersion) -> int:
        with connected(secure, files, version) as anonymous:
            reply: Reply = anonymous.send("GET", f"/{BUCKET}/{prefix}/k", headers={"host": "127.0.0.1"})
            return reply.status

    one_two, one_three = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    assert [status(prefix, one_two) for prefix in ("any", "new", "none")] == [200, 403, 403]
    assert [status(prefix, one_three) for prefix in ("any", "new", "none")] == [200, 200, 403]


# --- certificates that are replaced


def hang_up(gateway: Gateway, said: str) -> None:
    """SIGHUP, until `said` came once more than before."""
    before = gateway.log.count(said)
    gateway.kill("supervisor", signal.SIGHUP)
    wait_for(lambda: gateway.log.count(said) > before, said)


def test_a_new_certificate_is_shown_and_old_connections_go_on(secure: Gateway, files: Certificates) -> None:
    with connected(secure, files) as old:
        assert old.request("GET", f"/{BUCKET}/six").status == 200
        files.issue("rsa")
        hang_up(secure, "the certificate was read again")
        renewed = files.cert.read_text().split()
        wait_for(lambda: all(shown(secure).split() == renewed for _ in range(8)), "both workers show the new one")
        assert old.request("GET", f"/{BUCKET}/six").body == DATA
    assert s3_client(secure, files).head_object(Bucket=BUCKET, Key="six")["ContentLength"] == len(DATA)
    assert secure.command("stats").returncode == 0


def test_a_bad_new_pair_changes_nothing_not_even_for_a_worker_that_starts_again(
    secure: Gateway, files: Certificates
) -> None:
    before = shown(secure)
    good = files.key.read_bytes()
    try:
        files.write_key(new_key())
        hang_up(secure, "the certificate stays as it was")
        assert "is not the key of the first certificate" in secure.log
        assert all(shown(secure) == before for _ in range(4))
        for name in ("worker-0", "worker-1"):
            secure.wait_restarted(name, secure.kill(name))
        assert all(shown(secure) == before for _ in range(4))
    finally:
        files.key.write_bytes(good)


def test_drain_does_not_wait_for_resting_connections(files: Certificates, tmp_path: Path) -> None:
    with Gateway(data_dir=tmp_path / "data", settings=files.settings) as gateway:
        resting = http.client.HTTPSConnection("127.0.0.1", gateway.port, context=trusting(files), timeout=20)
        resting.request("GET", "/minio/health/live")
        assert resting.getresponse().read() == b""
        gateway.stop()
        resting.close()


@pytest.mark.parametrize("secured", [True, False], ids=["tls", "plain"])
def test_drain_finishes_what_is_under_way(files: Certificates, tmp_path: Path, secured: bool) -> None:
    settings = {**(files.settings if secured else {}), "pools.standard.capacity_bytes": "256MiB"}
    data = DATA * 5
    with Gateway(data_dir=tmp_path / "data", settings=settings) as gateway:
        client = s3_client(gateway, files)
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="long", Body=data)
        body = client.get_object(Bucket=BUCKET, Key="long")["Body"]  # the kernel's buffers do not hold that much
        assert gateway.process is not None
        gateway.kill("supervisor", signal.SIGTERM)
        wait_for(lambda: not (gateway.data_dir / "endpoint").exists(), "it is told to stop")
        assert body.read() == data
        assert gateway.wait() == 0


def test_open_connections_are_counted(secure: Gateway, files: Certificates) -> None:
    def gauge() -> float:
        samples = json.loads(secure.command("stats", "--json").stdout)
        return next(each["value"] for each in samples if each["name"] == "recall_connections")

    with connected(secure, files) as first, connected(secure, files) as second:
        assert first.request("GET", f"/{BUCKET}", query=(("location", ""),)).status == 200
        assert second.request("GET", f"/{BUCKET}", query=(("location", ""),)).status == 200
        wait_for(lambda: gauge() >= 2, "both are in the gauge")


# --- starts


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("half", "tls_cert: is set but tls_key is not: give both or neither"),
        ("open", "has mode 0644, so others on this machine may have read it"),
        ("other", "is not the key of the first certificate"),
        ("gone", "tls_cert: "),
    ],
)
def test_a_pair_that_cannot_be_used_stops_the_start(tmp_path: Path, damage: str, said: str) -> None:
    files = Certificates(tmp_path)
    settings = files.settings
    if damage == "half":
        del settings["tls_key"]
    elif damage == "open":
        files.key.chmod(0o644)
    elif damage == "other":
        files.write_key(new_key())
    else:
        files.cert.unlink()
    with pytest.raises(GatewayFailed, match=said) as caught:
        Gateway(data_dir=tmp_path / "data", settings=settings).__enter__()
    assert caught.value.status == 2


def test_a_certificate_of_its_own_that_has_ended_is_a_warning(tmp_path: Path) -> None:
    files = Certificates(tmp_path)
    files.issue(alone=True, days=-2)
    with Gateway(data_dir=tmp_path / "data", settings=files.settings) as gateway:
        assert "clients refuse it" in gateway.log
        assert f"export AWS_CA_BUNDLE={files.cert}" in gateway.log
        assert gateway.command("stats").returncode == 0
