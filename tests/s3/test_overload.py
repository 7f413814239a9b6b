"""Clients with their own retries against a gateway above its limits: they are told 503, come again, and everything is done."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import boto3

from tests.s3.rawclient import RawClient, Signer
from tests.s3.test_awscli import AWS, LIMIT_S
from tests.support.gateway import Gateway

CLIENTS: Final = 4
BODY: Final = b"block" * 100_000


@contextmanager
def held(gateway: Gateway) -> Iterator[threading.Event]:
    """An upload that has the only place there is, until the event is set."""
    release = threading.Event()
    signer = Signer(gateway.access_key, gateway.secret_key)
    with RawClient(gateway.port, signer) as holder, ThreadPoolExecutor(1) as thread:
        assert holder.request("PUT", "/busy", length=True).status == 200
        headers = signer.sign("PUT", "/busy/held", (), {"host": holder.host}, "UNSIGNED-PAYLOAD")
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        holder._socket.sendall(
            f"PUT /busy/held HTTP/1.1\r\n{lines}content-length: 1\r\nexpect: 100-continue\r\n\r\n".encode()
        )
        assert holder._read("PUT").status == 100

        def finish() -> int:
            release.wait(LIMIT_S)
            holder._socket.sendall(b"x")
            return holder._read("PUT").status

        done = thread.submit(finish)
        try:
            yield release
        finally:
            release.set()
            assert done.result() == 200


def test_clients_that_are_refused_come_again_and_all_is_done(tmp_path: Path) -> None:
    """boto3 and the aws command line with their retries as they come."""
    limits = {"http.requests_in_flight_max": "1", "http.peer_fraction_max": "1", "http.queue_s": "200ms"}
    limits["http.body_grace_s"] = "10m"  # the one upload is slow on purpose
    source = tmp_path / "file"
    source.write_bytes(BODY)
    with Gateway(data_dir=tmp_path / "data", settings=limits) as gateway, held(gateway) as release:
        told = threading.Barrier(CLIENTS + 2)

        def put(number: int) -> Any:
            client = boto3.Session(gateway.access_key, gateway.secret_key, region_name="us-east-1").client(
                "s3", endpoint_url=gateway.endpoint
            )
            statuses: list[int] = []

            def seen(response: Any, **_: Any) -> None:
                statuses.append(response[0].status_code)
                if len(statuses) == 1:
                    told.wait(LIMIT_S)

            client.meta.events.register("needs-retry.s3.PutObject", seen)
            client.put_object(Bucket="busy", Key=f"boto3-{number}", Body=BODY)
            return statuses, client.get_object(Bucket="busy", Key=f"boto3-{number}")["Body"].read()

        def copy() -> tuple[bool, int]:
            arguments = [str(AWS), "--debug", "s3", "cp", str(source), "s3://busy/cli"]
            with subprocess.Popen(
                arguments,
                env=gateway.aws_environment(tmp_path),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            ) as process:
                assert process.stderr is not None
                refused = False
                for line in process.stderr:
                    if not refused and b"SlowDown" in line:
                        refused = True
                        told.wait(LIMIT_S)
                return refused, process.wait(LIMIT_S)

        with ThreadPoolExecutor(CLIENTS + 1) as threads:
            copied = threads.submit(copy)
            uploads = [threads.submit(put, number) for number in range(CLIENTS)]
            told.wait(LIMIT_S)  # all of them have been told
            release.set()
            for upload in uploads:
                statuses, data = upload.result(LIMIT_S)
                assert (statuses[0], statuses[-1], data) == (503, 200, BODY)
            assert copied.result(LIMIT_S) == (True, 0)
