"""A load that remembers what it was promised: clients of a running gateway and the ledger of their acknowledged writes.

Promise: `Ledger` knows, for every key, the versions that may be there. An acknowledged write leaves exactly one; a write
whose reply was lost leaves the old and the new one, until a read has shown which it is; a refused write leaves the old.
A key is written by one client and read by all.

Owns the clients' connections and the ledger. Does not know processes: somebody else kills them.
Kind: shell of the tests (asyncio). Spec: docs/SEMANTICS.md, "Durability".
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote
from xml.sax.saxutils import unescape

from bench.client import ClientError, Connection, Reply
from s3api.sigv4 import sign_headers

SIZES: Final = (0, 1, 700, 4096, 4096, 30_000, 65_536, 100_000, 300_000, 600_000)
PART_BYTES: Final = 5 << 20
BODY_BYTES_MAX: Final = 12 << 20
REPLY_S: Final = 30.0
SETTLE_S: Final = 30.0
"""How long a read may be told to try again after the load has ended."""
_NOISE: Final = random.Random(7).randbytes(BODY_BYTES_MAX + (1 << 16))

Version = tuple[int, int] | None
"""Serial number and size of a body, or None where there is no object."""


def body(version: tuple[int, int]) -> bytes:
    """The bytes of a version: its serial number, then noise from a place that only this serial number begins at."""
    serial, size = version
    start = serial * 613 % (1 << 16)
    return (serial.to_bytes(8, "big") + _NOISE[start : start + size])[:size]


@dataclass
class Entry:
    """What may stand under one key. `tried`: every version that was ever begun, in order."""

    bucket: str
    key: str
    allowed: set[Version] = field(default_factory=lambda: {None})
    tried: list[Version] = field(default_factory=list)

    def begin(self, version: Version) -> None:
        self.allowed.add(version)
        self.tried.append(version)

    def acknowledged(self, version: Version) -> None:
        self.allowed = {version}

    def refused(self, version: Version, before: set[Version]) -> None:
        self.allowed = before


class Ledger:
    """All entries, by bucket and key, and what went wrong. `counts`: replies by operation and status."""

    def __init__(self, buckets: tuple[str, ...], clients: int, keys: int) -> None:
        self.entries = {
            (bucket, key): Entry(bucket, key)
            for bucket in buckets
            for client in range(clients)
            for key in (f"{client}/{number:02d}" for number in range(keys))
        }
        self.faults: list[str] = []
        self.counts: dict[str, int] = {}
        self._serial = 0

    def next_version(self, size: int) -> tuple[int, int]:
        self._serial += 1
        return self._serial, size

    def count(self, operation: str, status: int) -> None:
        name = f"{operation} {status}"
        self.counts[name] = self.counts.get(name, 0) + 1

    def judge(self, entry: Entry, since: set[Version], tried: int, status: int, content: bytes) -> None:
        """A read's reply against what was allowed when it was sent and what was begun since."""
        versions = since | set(entry.tried[tried:]) | entry.allowed
        what = f"{entry.bucket}/{entry.key}"
        if status == 404:
            if None not in versions:
                self.faults.append(f"{what} is gone; there should be {sorted(versions, key=str)}")
        elif status == 200:
            if not any(version is not None and content == body(version) for version in versions):
                serial = int.from_bytes(content[:8], "big")
                known = f"serial {serial}, {len(content)} bytes, begun before: {(serial, len(content)) in entry.tried}"
                self.faults.append(f"{what} holds other bytes ({known}) than {sorted(versions, key=str)}")
        else:
            self.faults.append(f"GET {what}: status {status}: {content[:300]!r}")


@dataclass
class Target:
    """Where a gateway listens now, and as whom it is asked."""

    access_key: str
    secret_key: str
    port: int = 0


class Caller:
    """One keep-alive connection to a gateway, wherever that listens now."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection: Connection | None = None
        self._port = 0

    async def ask(
        self, method: str, path: str, content: bytes = b"", query: str = "", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of one signed request. Raises ClientError."""
        reply = await self.reply(method, path, content, query, headers)
        return reply.status, bytes(reply.body)

    async def reply(
        self, method: str, path: str, content: bytes = b"", query: str = "", headers: dict[str, str] | None = None
    ) -> Reply:
        """The same with the headers; the body is borrowed until the next request."""
        if self._connection is None or self._port != self._target.port:
            self.close()
            self._port = self._target.port
            self._connection = Connection("127.0.0.1", self._port, BODY_BYTES_MAX, REPLY_S)
        target = quote(path, safe="/-_.~")
        named = {name.encode(): value.encode() for name, value in (headers or {}).items()}
        signed = sign_headers(
            method,
            target.encode(),
            query.encode(),
            {b"host": f"127.0.0.1:{self._port}".encode(), **named},
            access_key=self._target.access_key,
            secret_key=self._target.secret_key,
            now_s=int(time.time()),
        )
        signed[b"content-length"] = b"%d" % len(content)
        lines = b"".join(b"%b: %b\r\n" % pair for pair in signed.items())
        line = f"{method} {target}{'?' if query else ''}{query} HTTP/1.1\r\n".encode()
        return await self._connection.ask(line + lines + b"\r\n", content)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Client(Caller):
    """One keep-alive client."""

    def __init__(self, load: Load, name: int) -> None:
        super().__init__(load.target)
        self._load = load
        self._name = name
        self._random = random.Random(f"{load.seed}/{name}")

    async def run(self) -> None:
        """Operations at random until the load stops."""
        while not self._load.stopping:
            try:
                await self._one()
            except ClientError:
                self._load.ledger.count("lost", 0)
                self.close()
                await asyncio.sleep(0.02)
        self.close()

    async def _one(self) -> None:
        entries = self._load.ledger.entries
        rng = self._random
        if rng.random() < 0.3:
            await self.read(rng.choice(list(entries.values())))
            return
        own = [entry for entry in entries.values() if entry.key.startswith(f"{self._name}/")]
        entry = rng.choice(own)
        dice = rng.random()
        if dice < 0.12:
            await self._write(entry, None, "DELETE")
        elif dice < 0.20:
            await self._multipart(entry)
        elif dice < 0.24:
            path = f"/{entry.bucket}/{entry.key}"
            pin = rng.choice(["2", "false"])
            status, _ = await self.ask("POST", path, query="recall", headers={"x-recall-pin": pin})
            self._load.ledger.count("pin", status)
        else:
            # Once in a while one that is too long to be held in the tier at once.
            size = 9 << 20 if rng.random() < 0.01 else rng.choice(SIZES)
            await self._write(entry, self._load.ledger.next_version(size), "PUT")

    async def _write(self, entry: Entry, version: Version, method: str) -> None:
        before = set(entry.allowed)
        headers = {"x-recall-pin": "2"} if version is not None and self._random.random() < 0.03 else {}
        entry.begin(version)
        content = body(version) if version is not None else b""
        status, text = await self.ask(method, f"/{entry.bucket}/{entry.key}", content, headers=headers)
        self._settled(entry, version, before, method, status, text)

    def _settled(
        self, entry: Entry, version: Version, before: set[Version], what: str, status: int, text: bytes
    ) -> None:
        ledger = self._load.ledger
        ledger.count(what, status)
        if status in (200, 204):
            entry.acknowledged(version)
        elif status in (503, 507):
            entry.refused(version, before)
        else:
            ledger.faults.append(f"{what} {entry.bucket}/{entry.key}: status {status}: {text[:300]!r}")

    async def _multipart(self, entry: Entry) -> None:
        path = f"/{entry.bucket}/{entry.key}"
        before = set(entry.allowed)
        status, text = await self.ask("POST", path, query="uploads=")
        self._load.ledger.count("begin", status)
        if status != 200:
            return
        upload_id = re.search(rb"<UploadId>(.*?)</UploadId>", text)[1].decode()  # type: ignore[index]
        sizes = [self._random.choice(SIZES[4:])]
        if self._random.random() < 0.2:
            sizes.insert(0, PART_BYTES)
        version = self._load.ledger.next_version(sum(sizes))
        content, claims, at = body(version), b"", 0
        for number, size in enumerate(sizes, 1):
            query = f"partNumber={number}&uploadId={upload_id}"
            for _ in range(1 + (self._random.random() < 0.2)):  # now and then a part is sent again
                status, text = await self.ask("PUT", path, content[at : at + size], query=query)
            self._load.ledger.count("part", status)
            if status != 200:
                await self.ask("DELETE", path, query=f"uploadId={upload_id}")
                return
            parts = (await self.ask("GET", path, query=f"uploadId={upload_id}"))[1]
            etag = re.findall(rb"<ETag>(.*?)</ETag>", parts)[number - 1]
            claims += b"<Part><PartNumber>%d</PartNumber><ETag>%b</ETag></Part>" % (number, etag)
            at += size
        document = b"<CompleteMultipartUpload>%b</CompleteMultipartUpload>" % claims
        entry.begin(version)
        status, text = await self.ask("POST", path, document, query=f"uploadId={upload_id}")
        if status == 200 and b"<Error>" in text:
            status = 500
        self._settled(entry, version, before, "complete", status, text)

    async def read(self, entry: Entry) -> None:
        """One GET while the load runs."""
        since, tried = set(entry.allowed), len(entry.tried)
        status, content = await self.ask("GET", f"/{entry.bucket}/{entry.key}")
        self._load.ledger.count("GET", status)
        if status != 503:
            self._load.ledger.judge(entry, since, tried, status, content)

    async def verify(self, entry: Entry) -> None:
        """One GET with the load ended: exactly one of the allowed versions, which is the only one from then on."""
        deadline_s = time.monotonic() + SETTLE_S
        while True:
            status, content = await self.ask("GET", f"/{entry.bucket}/{entry.key}")
            if status != 503 or time.monotonic() > deadline_s:
                break
            await asyncio.sleep(0.05)  # polling, with the deadline above
        self._load.ledger.judge(entry, set(), len(entry.tried), status, content)
        found: Version = (int.from_bytes(content[:8], "big"), len(content)) if status == 200 else None
        matching = {version for version in entry.allowed if (version is None) == (found is None)}
        if found is not None:
            matching = {version for version in matching if version is not None and content == body(version)}
        if matching:
            entry.allowed = {max(matching, key=lambda version: version or (0, 0))}

    async def listed(self, bucket: str) -> set[str]:
        """All keys of a bucket."""
        found: set[str] = set()
        token = ""
        while True:
            query = f"continuation-token={quote(token, safe='')}&list-type=2" if token else "list-type=2"
            status, text = await self.ask("GET", f"/{bucket}", query=query)
            assert status == 200, text
            found |= {unescape(key.decode()) for key in re.findall(rb"<Key>(.*?)</Key>", text)}
            following = re.search(rb"<NextContinuationToken>(.*?)</NextContinuationToken>", text)
            if following is None:
                return found
            token = unescape(following[1].decode())


ENABLED = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"


class Load:
    """A bucket whose name begins with `versioned` has versioning. `clients` clients with `keys` keys each in every
    bucket. `target.port` is where the gateway listens now."""

    def __init__(
        self, seed: int, buckets: tuple[str, ...], credentials: tuple[str, str], *, clients: int = 6, keys: int = 20
    ) -> None:
        self.seed = seed
        self.target = Target(*credentials)
        self.stopping = False
        self.buckets = buckets
        self.ledger = Ledger(buckets, clients, keys)
        self.activity: Counter[str] = Counter()
        self._clients = clients
        self._tasks: list[asyncio.Task[None]] = []

    async def create_buckets(self) -> None:
        client = Client(self, -1)
        for bucket in self.buckets:
            status, text = await client.ask("PUT", f"/{bucket}")
            assert status == 200, text
            if bucket.startswith("versioned"):
                status, text = await client.ask("PUT", f"/{bucket}", ENABLED, "versioning=")
                assert status == 200, text
        client.close()

    def start(self) -> None:
        self.stopping = False
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(Client(self, name).run()) for name in range(self._clients)]

    async def stop(self) -> None:
        """Ends the load; raises what a client stumbled over."""
        self.stopping = True
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)

    async def note_activity(self) -> None:
        """Adds up what the tiers have done since the gateway's last start."""
        connection = Connection("127.0.0.1", self.target.port, BODY_BYTES_MAX, REPLY_S)
        reply = await connection.ask(b"GET /recall/metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        text = bytes(reply.body)
        connection.close()
        assert reply.status == 200, text
        for name, count in re.findall(rb"^recall_(demotions|evictions|recalls)_total\S* (\S+)$", text, re.MULTILINE):
            self.activity[name.decode()] += float(count)

    async def verify(self) -> None:
        """Every entry is read and compared, and the listings with them."""
        entries = iter(list(self.ledger.entries.values()))

        async def work() -> None:
            client = Client(self, -1)
            for entry in entries:
                await client.verify(entry)
            client.close()

        await asyncio.gather(*(work() for _ in range(self._clients)))
        client = Client(self, -1)
        for bucket in self.buckets:
            wanted = {e.key for e in self.ledger.entries.values() if e.bucket == bucket and None not in e.allowed}
            found = await client.listed(bucket)
            if found != wanted:
                self.ledger.faults.append(f"{bucket} lists {found - wanted} too many and misses {wanted - found}")
        client.close()
