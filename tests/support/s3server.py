"""An S3 server to put behind the gateway in tests: moto's, or a real one named by the environment.

`RECALL_TEST_S3_ENDPOINT` (with `RECALL_TEST_S3_ACCESS_KEY` and `RECALL_TEST_S3_SECRET_KEY`) names a running server;
without it, moto's server is started as a child process on a free port and ended with the block.

    with s3_server() as server:
        bucket = server.new_bucket()
        backing = open_backing(server.url(bucket), server.env())

moto checks no signature and closes every connection: what depends on either needs the real server.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import urllib3
from minio import Minio

START_S = 180.0
REGION = "us-east-1"


@dataclass(frozen=True)
class S3Server:
    """A running server and root credentials for it. `real` False: moto."""

    endpoint: str  # http://host:port
    access_key: str
    secret_key: str
    real: bool

    def client(self, retries: urllib3.Retry | bool = False) -> Minio:
        """An SDK client, by default without retries. Its pool is closed with it."""
        parts = urlsplit(self.endpoint)
        return Minio(
            parts.netloc,
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=parts.scheme == "https",
            region=REGION,
            http_client=urllib3.PoolManager(timeout=10.0, retries=retries),
        )

    def new_bucket(self) -> str:
        """Makes a bucket that no other test has."""
        bucket = f"recall-test-{secrets.token_hex(8)}"
        self.client().make_bucket(bucket)
        return bucket

    def names(self, bucket: str, prefix: str = "") -> set[str]:
        """What lies in a bucket. moto answers 500 when a name comes or goes while it lists: it is asked again."""
        client = self.client(urllib3.Retry(total=50, backoff_factor=0.01, backoff_max=0.1, status_forcelist=[500]))
        return {str(row.object_name) for row in client.list_objects(bucket, prefix=prefix, recursive=True)}

    def url(self, bucket: str, prefix: str = "", *, create: bool = False) -> str:
        """The bucket as a backing URL; the credentials are in `env`."""
        path = f"{bucket}/{quote(prefix)}" if prefix else bucket
        return f"s3://{path}?endpoint={self.endpoint}&region={REGION}{'&create=true' if create else ''}"

    def env(self) -> dict[str, str]:
        """The environment that goes with `url`."""
        return {"RECALL_BACKING_ACCESS_KEY": self.access_key, "RECALL_BACKING_SECRET_KEY": self.secret_key}


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """The server of the environment, or a moto server of our own for as long as the block runs."""
    endpoint = os.environ.get("RECALL_TEST_S3_ENDPOINT")
    if endpoint:
        access, secret = os.environ["RECALL_TEST_S3_ACCESS_KEY"], os.environ["RECALL_TEST_S3_SECRET_KEY"]
        yield S3Server(endpoint.rstrip("/"), access, secret, real=True)
        return
    with moto_process() as endpoint:
        yield S3Server(endpoint, "test-access", "test-secret-key", real=False)


@contextmanager
def moto_process() -> Iterator[str]:
    """A moto server as a child process; yields its endpoint. Killed at the end: it has nothing to keep."""
    # Its log goes to a file: it says the chosen port there, and a pipe nobody reads would block it one day.
    with tempfile.TemporaryFile() as log:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MOTO_")}
        child = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )
        try:
            yield f"http://127.0.0.1:{_port(child, log.fileno())}"
        finally:
            child.kill()
            child.wait()


def _port(child: subprocess.Popen[bytes], log: int) -> int:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        text = os.pread(log, 1 << 16, 0).decode(errors="replace")
        found = re.search(r"Running on http://127\.0\.0\.1:(\d+)", text)
        if found:
            return int(found[1])
        if child.poll() is not None:
            break
        time.sleep(0.02)  # polling, with the deadline above
    raise RuntimeError(f"moto's server did not start:\n{os.pread(log, 1 << 16, 0).decode(errors='replace')}")
