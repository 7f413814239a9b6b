"""What a block costs that is read on the same host without a server: µs from key to bytes, by size.

    PYTHONPATH=clients python -m bench.micro.local [--sizes 4k,64k,2m] [--blocks N] [--rounds N]

A gateway of its own holds the blocks. In each round, for each size, every block is read once: with a lease of its own, with
one lease for all, and, as a yardstick, its row alone is fetched by plain `lmdb` in a transaction of its own. Wall clock, since a
reader waits for nobody; a median over the blocks, then median and range over the rounds. Kind: shell.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import statistics
import time
from collections.abc import Callable

from recall_client import RecallClient
from recall_client.local import LocalReader
from recall_client.signing import Credentials

from bench.quantity import Spread, parse_size, size_text
from bench.server import Gateway

BUCKET = "kv-local"


def _median_us(read: Callable[[str], None], keys: list[str]) -> float:
    times = []
    for key in keys:
        begun = time.perf_counter_ns()
        read(key)
        times.append(time.perf_counter_ns() - begun)
    return statistics.median(times) / 1e3


def _measure(gateway: Gateway, size: int, blocks: int, rounds: int) -> dict[str, list[float]]:
    keys = [f"{size}/{number:032x}" for number in range(blocks)]
    content = os.urandom(size)
    with RecallClient(gateway.endpoint, BUCKET, Credentials(gateway.access_key, gateway.secret_key)) as client:
        for at in range(0, blocks, 16):
            outcomes = client.put([(key, content) for key in keys[at : at + 16]])
            assert all(outcome.status == 200 for outcome in outcomes), outcomes
    found: dict[str, list[float]] = {"a lease a block": [], "one lease": [], "lmdb": []}
    random.shuffle(keys)
    with LocalReader(gateway.data_dir, BUCKET) as reader:
        _, pool, number = reader._find()
        prefix = number.to_bytes(4, "big")

        def alone(key: str) -> None:
            with reader.lease() as lease:
                views = lease.read(key)
                assert views is not None and views[0][0] == content[0]

        def row(key: str) -> None:
            with pool.env.begin(buffers=True) as txn:
                assert txn.get(prefix + key.encode(), db=pool.objects) is not None

        for _ in range(rounds):
            found["a lease a block"].append(_median_us(alone, keys))
            with reader.lease() as lease:

                def together(key: str, lease: object = lease) -> None:
                    views = lease.read(key)  # type: ignore[attr-defined]
                    assert views is not None and views[0][0] == content[0]

                found["one lease"].append(_median_us(together, keys))
            found["lmdb"].append(_median_us(row, keys))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", default="4k,64k,2m")
    parser.add_argument("--blocks", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    settings = {"RECALL_POOLS_KV_CAPACITY_BYTES": "2GiB", "RECALL_POOLS_STANDARD_CAPACITY_BYTES": "64MiB"}
    with Gateway(settings) as gateway:
        connection = http.client.HTTPConnection(gateway.host, gateway.port)
        host = f"{gateway.host}:{gateway.port}"
        credentials = Credentials(gateway.access_key, gateway.secret_key)
        connection.request("PUT", f"/{BUCKET}", headers=credentials.sign("PUT", f"/{BUCKET}", "", host, {}))
        assert connection.getresponse().status == 200
        connection.close()
        for text in arguments.sizes.split(","):
            size = parse_size(text)
            for way, figures in _measure(gateway, size, arguments.blocks, arguments.rounds).items():
                print(f"{size_text(size):>8}  {way:<16} {Spread.of(figures).text(2)} µs")


if __name__ == "__main__":
    main()
