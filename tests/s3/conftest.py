"""What the S3 tests share: one gateway with two workers in front of one S3 server, and a bucket a test.

The pools of this gateway are far larger than all tests together, so that nothing is demoted unless a test asks for it;
tests of the tiers start a gateway of their own.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.s3.rawclient import RawClient, Signer
from tests.support.gateway import Gateway
from tests.support.s3server import S3Server, s3_server

DOMAIN: Final = "s3.recall.test"
LISTENER_BUCKET: Final = "bound-listener"
HOST_BUCKET: Final = "bound-host"
BOUND_HOST: Final = "cache.recall.test"
KEY_RULES: Final = [
    {"bucket": "*", "key": "*@pin%1*", "pin": "true"},
    {"bucket": "*", "key": "*@ttl%hour*", "ttl": "3600; sliding"},
]
SETTINGS: Final = {
    "pools.standard.capacity_bytes": "1GiB",
    "pools.kv.capacity_bytes": "512MiB",
    "domains": DOMAIN,
    "host_buckets": f"{BOUND_HOST}={HOST_BUCKET}",
    "bucket_listeners": f"127.0.0.1:0={LISTENER_BUCKET}",
}
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def backing_server() -> Iterator[S3Server]:
    """The S3 server behind the gateways: moto's, or the one the environment names."""
    with s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def gateway(backing_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    url = backing_server.url(backing_server.new_bucket())
    env = {**backing_server.env(), "RECALL_KEY_RULES": json.dumps(KEY_RULES)}
    directory: Path = tmp_path_factory.mktemp("gateway")
    with Gateway(data_dir=directory / "data", workers=2, backing=url, env=env, settings=SETTINGS) as running:
        yield running


@pytest.fixture(scope="session")
def signer(gateway: Gateway) -> Signer:
    return Signer(gateway.access_key, gateway.secret_key)


@pytest.fixture(scope="session")
def shared_s3(gateway: Gateway) -> Iterator[Any]:
    client = gateway.boto3_client(max_pool_connections=32)
    yield client
    client.close()


@pytest.fixture
def s3(shared_s3: Any) -> Any:
    """A boto3 client in path style that does not retry."""
    return shared_s3


@pytest.fixture
def bucket(s3: Any) -> str:
    """A new bucket in the pool `standard`."""
    name = f"test-{next(_numbers)}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def kv_bucket(s3: Any) -> str:
    """A new bucket in the pool `kv`."""
    name = f"kv-test-{next(_numbers)}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def raw(gateway: Gateway, signer: Signer) -> Iterator[RawClient]:
    """A connection to the gateway's S3 port, path style."""
    with RawClient(gateway.port, signer) as client:
        yield client
