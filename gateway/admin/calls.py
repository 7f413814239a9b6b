"""The admin calls of MinIO's tools that only ask: `mc admin info` and what else reads the same facts.

Promise: answers in the form MinIO gives it, from what the gateway knows; a number it does not know is not invented. Only who
may is told: the gateway's root, or a user whose policies allow the call's `admin:` action. Nothing is changed by any of them.

Owns nothing but a verifier of signatures. Does not know pools or the store (`engine.admin_facts`), nor other paths
(`gateway.admin.routes`). Kind: shell, without I/O of its own. Invariant: answers at once, never waits.
Spec: docs/OPERATIONS.md, "aws, boto3, rclone and others"; MinIO's admin API, versions 3 and 4, as madmin-go decodes it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from s3api.condition import Context
from s3api.errors import S3Error
from s3api.identity import Identity
from s3api.message import Request, Response
from s3api.policy import Verdict, compiled
from s3api.sigv4 import EMPTY_SHA256, UNSIGNED, SigV4

_CALLS: Final = {"info": "ServerInfo", "storageinfo": "StorageInfo", "datausageinfo": "DataUsageInfo"}
"""Call to the right it needs, which is `admin:` and this."""
PATHS: Final = {
    f"/minio/admin/{version}/{call}".encode(): (call, f"admin:{right}")
    for version in ("v3", "v4")
    for call, right in _CALLS.items()
}
_JSON: Final = b"Content-Type: application/json\r\n"


class PoolFacts(msgspec.Struct, frozen=True):
    """A pool, which MinIO's tools see as a drive."""

    name: str
    path: str
    capacity_bytes: int
    free_bytes: int
    objects: int
    object_bytes: int
    works: bool


class Facts(msgspec.Struct, frozen=True):
    """What is told of the gateway."""

    endpoint: str
    secure: bool
    region: str
    version: str
    up_s: int
    buckets: int
    pools: Sequence[PoolFacts]
    webhooks: Sequence[str]


class AdminCalls:
    """`identities`: who has an access key. `host_bucket`: the bucket a Host value names, whose keys these paths are then."""

    def __init__(
        self,
        identities: Callable[[str], Identity | None],
        host_bucket: Callable[[bytes], str],
        facts: Callable[[str], Facts],
        now_s: Callable[[], float],
    ) -> None:
        self._identities = identities
        self._host_bucket = host_bucket
        self._facts = facts
        self._now_s = now_s
        self._sigv4 = SigV4(self._secret)

    def _secret(self, access_key: str) -> str | None:
        identity = self._identities(access_key)
        return None if identity is None else identity.secret_key

    def answer(self, request: Request) -> Response | None:
        """The answer to one of PATHS; None where the request is about an object."""
        call, right = PATHS[request.path]
        host = request.headers.get(b"host", b"")
        try:
            if request.method != "GET" or self._host_bucket(host):
                return None
            self._authorise(request, right)
        except S3Error as error:
            said = {"Code": error.spec.code, "Message": error.message, "Resource": request.path.decode()}
            return Response(error.spec.status, _JSON, msgspec.json.encode(said))
        facts = self._facts(host.decode("latin-1"))
        made = {"info": _info, "storageinfo": _storage, "datausageinfo": _usage}[call](facts)
        return Response(200, _JSON, msgspec.json.encode(made))

    def _authorise(self, request: Request, right: str) -> None:
        """Raises S3Error. A session is nobody here: MinIO's tools sign with the keys themselves."""
        now_s = int(self._now_s())
        verified = self._sigv4.verify(request.method, request.path, request.query, request.headers, now_s)
        identity = None if verified is None else self._identities(verified.access_key)
        if verified is None or identity is None or b"x-amz-security-token" in request.headers:
            raise S3Error("AccessDenied")
        if verified.payload not in (EMPTY_SHA256, UNSIGNED) or request.body.length not in (0, None):
            raise S3Error("XAmzContentSHA256Mismatch")
        if not _may(identity, right, lambda key: _fact(request, key)):
            raise S3Error("AccessDenied")


def _fact(request: Request, key: str) -> Sequence[str] | None:
    """What a condition may ask of such a call: where it came from, and how. Other keys are of buckets and objects."""
    if key == "aws:sourceip":
        return (request.peer,) if request.peer else None
    return ("true" if request.secure else "false",) if key == "aws:securetransport" else None


def _may(who: Identity, right: str, context: Context) -> bool:
    if who.root and not who.owner:
        return True
    if who.owner:  # accounts beside the gateway's own have their buckets, and no gateway
        return False
    verdicts = [compiled(text).judge(None, right, "arn:aws:s3:::*", context) for text in who.policies]
    return Verdict.ALLOW in verdicts and Verdict.DENY not in verdicts


def _drives(facts: Facts) -> list[dict[str, Any]]:
    return [
        {
            "endpoint": pool.path,
            "path": pool.path,
            "state": "ok" if pool.works else "faulty",
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, pool.path)),
            "totalspace": pool.capacity_bytes,
            "usedspace": pool.capacity_bytes - pool.free_bytes,
            "availspace": pool.free_bytes,
            "pool_index": 0,
            "set_index": 0,
            "disk_index": number,
        }
        for number, pool in enumerate(facts.pools)
    ]


def _info(facts: Facts) -> dict[str, Any]:
    """Objects are counted with all their versions; what else has a count in MinIO's form is not known apart."""
    objects, size = _sums(facts)
    drives = _drives(facts)
    online = sum(pool.works for pool in facts.pools)
    capacity = sum(pool.capacity_bytes for pool in facts.pools)
    used = capacity - sum(pool.free_bytes for pool in facts.pools)
    return {
        "mode": "online",
        "region": facts.region,
        "deploymentID": str(uuid.uuid5(uuid.NAMESPACE_URL, facts.pools[0].path)),
        "sqsARN": [f"arn:minio:sqs:{facts.region}:{name}:webhook" for name in facts.webhooks],
        "buckets": {"count": facts.buckets},
        "objects": {"count": objects},
        "versions": {"count": objects},
        "usage": {"size": size},
        "services": {"ldap": {}},
        "backend": {
            "backendType": "Erasure",
            "onlineDisks": online,
            "offlineDisks": len(drives) - online,
            "standardSCParity": 0,
            "rrSCParity": 0,
            "totalSets": [1],
            "totalDrivesPerSet": [len(drives)],
        },
        "servers": [
            {
                "state": "online",
                "endpoint": facts.endpoint,
                "scheme": "https" if facts.secure else "http",
                "uptime": facts.up_s,
                "version": facts.version,
                "commitID": "",
                "network": {facts.endpoint: "online"},
                "poolNumber": 1,
                "poolNumbers": [1],
                "mem_stats": {"Alloc": 0, "TotalAlloc": 0, "Mallocs": 0, "Frees": 0, "HeapAlloc": 0},
                "drives": drives,
            }
        ],
        "pools": {
            "0": {
                "0": {
                    "id": 0,
                    "rawUsage": used,
                    "rawCapacity": capacity,
                    "usage": size,
                    "objectsCount": objects,
                    "versionsCount": objects,
                    "healDisks": 0,
                }
            }
        },
    }


def _storage(facts: Facts) -> dict[str, Any]:
    drives = _drives(facts)
    return {
        "Disks": drives,
        "Backend": {
            "Type": 2,
            "OnlineDisks": {facts.endpoint: sum(pool.works for pool in facts.pools)},
            "OfflineDisks": {facts.endpoint: sum(not pool.works for pool in facts.pools)},
            "StandardSCData": [len(drives)],
            "StandardSCParity": 0,
            "RRSCData": [len(drives)],
            "RRSCParity": 0,
            "TotalSets": [1],
            "DrivesPerSet": [len(drives)],
        },
    }


def _usage(facts: Facts) -> dict[str, Any]:
    """The gateway keeps sums of pools, not of buckets: those are left out."""
    objects, size = _sums(facts)
    capacity = sum(pool.capacity_bytes for pool in facts.pools)
    free = sum(pool.free_bytes for pool in facts.pools)
    return {
        "objectsCount": objects,
        "objectsTotalSize": size,
        "bucketsCount": facts.buckets,
        "bucketsUsageInfo": {},
        "bucketsSizes": {},
        "capacity": capacity,
        "freeCapacity": free,
        "usedCapacity": capacity - free,
    }


def _sums(facts: Facts) -> tuple[int, int]:
    return sum(pool.objects for pool in facts.pools), sum(pool.object_bytes for pool in facts.pools)
