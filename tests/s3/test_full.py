"""No room: a full disk and a tier full of pins are refused with 507 and a clear code, and nothing is half-written.

The disk is made full for the worker alone, by the kernel's limit on the size of a file: LMDB's file may not grow any more.
"""

from __future__ import annotations

import functools
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.support.gateway import Gateway, wait_for

KIB = 1024


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    settings = {
        "RECALL_POOLS_STANDARD_CAPACITY_BYTES": "4MiB",
        "RECALL_POOLS_KV_CAPACITY_BYTES": "4MiB",
        "RECALL_POOLS_KV_SPACE_WAIT_S": "1s",
    }
    with Gateway(env=settings) as running:
        yield running


def code(error: ClientError) -> tuple[str, int]:
    return error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]


def test_full_disk_refuses_writes_and_serves_reads(gateway: Gateway) -> None:
    s3 = gateway.boto3_client()
    s3.create_bucket(Bucket="docs")
    s3.put_object(Bucket="docs", Key="before", Body=b"kept")
    index = Path(gateway.data_dir) / "pools" / "standard" / "index" / "data.mdb"
    worker = gateway.pids()["worker-0"]
    unlimited = resource.prlimit(worker, resource.RLIMIT_FSIZE)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (os.stat(index).st_size, unlimited[1]))
    refused = None
    stored = []
    for number in range(2000):
        key = f"{number}-{'k' * 900}"
        try:
            s3.put_object(Bucket="docs", Key=key, Body=b"x" * 100)
            stored.append(key)
        except ClientError as error:
            refused = error
            break
    assert refused is not None
    assert code(refused) == ("DiskFull", 507)
    assert s3.get_object(Bucket="docs", Key="before")["Body"].read() == b"kept"
    for key in stored:
        assert s3.head_object(Bucket="docs", Key=key)["ContentLength"] == 100
    resource.prlimit(worker, resource.RLIMIT_FSIZE, unlimited)
    s3.put_object(Bucket="docs", Key="after", Body=b"again")
    assert s3.get_object(Bucket="docs", Key="after")["Body"].read() == b"again"
    assert gateway.command("check").returncode == 0


def test_tier_full_of_pins_refuses_pins_and_then_writes(gateway: Gateway) -> None:
    s3 = gateway.boto3_client()
    s3.create_bucket(Bucket="kv-pins")
    block = os.urandom(256 * KIB)
    pinned = 0
    with pytest.raises(ClientError) as caught:
        while True:
            s3.put_object(Bucket="kv-pins", Key=f"pin-{pinned}", Body=block, Metadata={"recall-pin": "true"})
            pinned += 1
    assert code(caught.value) == ("PinLimitExceeded", 507)
    assert pinned == 8  # half of the pool, the default limit
    with pytest.raises(ClientError) as missing:
        s3.head_object(Bucket="kv-pins", Key=f"pin-{pinned}")
    assert code(missing.value)[1] == 404
    # Unpinned blocks still come and go in the other half.
    for number in range(24):
        wait_for(functools.partial(stored, s3, f"plain-{number}", block), f"plain-{number} is stored")
    for number in range(pinned):
        reply = s3.get_object(Bucket="kv-pins", Key=f"pin-{number}")
        assert reply["Body"].read() == block
        assert reply["ResponseMetadata"]["HTTPHeaders"]["x-recall-tier"] == "hot"
    assert gateway.command("check").returncode == 0


def stored(s3: object, key: str, block: bytes) -> bool:
    """Tries one PUT; a 503 is asked again."""
    try:
        s3.put_object(Bucket="kv-pins", Key=key, Body=block)  # type: ignore[attr-defined]
    except ClientError as error:
        assert code(error)[1] == 503
        return False
    return True
