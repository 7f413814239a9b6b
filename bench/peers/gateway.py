"""Our gateway as a peer: S3, and what only it is asked for: many keys at once, and objects that are cold.

Owns the gateway's processes. Kind: shell. Spec: bench/README.md, "The peers"; docs/EXTENSIONS.md.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.loader import Plan
from bench.peers.peer import LOOKUP_BYTES, LOOKUP_KEYS, PeerFailed, batch_keys, once_keys
from bench.peers.s3 import PINNED, Running, S3Peer, bucket
from bench.server import Gateway

POOLS = ("kv", "standard")
FRAME_HEAD_BYTES: Final = 16
BACKING_BUCKET: Final = "recall-bench-backing"


def gateway_settings(capacity_bytes: int) -> dict[str, str]:
    """The gateway as it is measured: no demotion in `kv`, late demotion in `standard`, so that writes are what is seen."""
    return {
        "RECALL_POOLS_KV_CAPACITY_BYTES": str(capacity_bytes),
        "RECALL_POOLS_KV_DEMOTE": "never",
        "RECALL_POOLS_STANDARD_CAPACITY_BYTES": str(capacity_bytes),
        "RECALL_POOLS_STANDARD_DEMOTE": "pressure",
    }


def backing_settings(bucket_at: Running) -> dict[str, str]:
    """A peer's bucket as the backing store."""
    host, port = bucket_at.address
    return {
        "RECALL_BACKING": f"s3://{BACKING_BUCKET}?endpoint=http://{host}:{port}&create=true",
        "RECALL_BACKING_ACCESS_KEY": bucket_at.access_key,
        "RECALL_BACKING_SECRET_KEY": bucket_at.secret_key,
    }


class GatewayPeer(S3Peer):
    """`backing`: the started peer whose bucket is the backing store; None is a directory. `limits`: further settings."""

    operations: Collection[str] = (*S3Peer.operations, "PUT standard", "LOOKUP", "BATCH", "COLD")
    pooled = True

    def __init__(
        self,
        name: str,
        capacity_bytes: int,
        workers: int = 1,
        data_dir: Path | None = None,
        backing: S3Peer | None = None,
        limits: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, self._started)
        self.cores = workers if backing is None else 0
        self._shape = (capacity_bytes, workers, data_dir)
        self._backing = backing
        self._limits = limits or {}

    def _started(self) -> Running:
        capacity_bytes, workers, data_dir = self._shape
        settings = gateway_settings(capacity_bytes) | self._limits
        if self._backing is not None and self._backing.running is not None:
            settings |= backing_settings(self._backing.running)
        gateway = Gateway(settings, data_dir, workers).__enter__()
        address = (gateway.host, gateway.port)
        return Running(address, gateway.access_key, gateway.secret_key, gateway.processes, gateway.stop)

    def start(self, sizes: Sequence[int], operations: Collection[str]) -> None:
        super().start(sizes, operations)
        if "LOOKUP" in operations:
            self.fill("kv", "look", LOOKUP_KEYS, LOOKUP_BYTES, PINNED)
        if "COLD" in operations:
            for size in sizes:
                self.fill("standard", f"cold-{size}", once_keys(size), size)

    def plan(self, operation: str, size: int) -> Plan:
        match operation:
            case "LOOKUP":
                plan = self._many("lookup", _keys("look", LOOKUP_KEYS))
                found = self.ask("POST", f"/{bucket('kv')}", plan.body, query="recall=lookup")
                if json.loads(found)["run"] != LOOKUP_KEYS:
                    raise PeerFailed(f"{self.name}: looked up: {found[:300]!r}")
                return replace(plan, expect_bytes=len(found))
            case "BATCH":
                count = batch_keys(size)
                return self._many("get", _keys(f"read-{size}", count), (FRAME_HEAD_BYTES + size) * count)
            case "COLD":
                count, begin = once_keys(size), f"cold-{size}"
                drop = self.heads("POST", "standard", begin, count, 0, (("x-recall-tier", "cold"),), "recall")
                heads = self.heads("GET", "standard", begin, count)
                return Plan(heads, expect_bytes=size, once=True, before=Plan(drop))
        return super().plan(operation, size)

    def _many(self, verb: str, keys: Sequence[str], expect_bytes: int = -1) -> Plan:
        body = json.dumps({"keys": keys}).encode()
        head = self.signer.head("POST", f"/{bucket('kv')}", len(body), query=f"recall={verb}")
        return Plan([head], body=body, expect_bytes=expect_bytes)


def _keys(begin: str, count: int) -> list[str]:
    return [f"{begin}-{number}" for number in range(count)]
