"""Whether several workers are one store: `make linear ARGS='--minutes 10 --seed 1 --kill'`.

A round: client processes, with several connections each, write, delete and read the same few keys in every way there is, with and
without conditions, one by one and in batches, while the objects are moved between the tiers; with `--kill` workers are killed
meanwhile. Each request is noted with the moments of the machine's monotonic clock at which it was sent and answered, and the
history of each key must have an order (`tests/model/linear.py`); with versions, that in which they are listed. A key lives for
`SLOT_S`, so that a history stays short. Exit status 1 at the first fault; the histories at fault are printed.

Kind: shell of the tests. Spec: docs/SEMANTICS.md, "Consistency".
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from itertools import count
from math import inf
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from bench.client import ClientError
from tests.crash.load import Caller, Target, body
from tests.long.mixed import ENABLED, NAMESPACE, SETTINGS, Reader, must
from tests.model.linear import ABSENT, Op, explain
from tests.support.gateway import ROOT, Gateway

WORKERS: Final = 3
PROCESSES: Final = 3
CLIENTS: Final = 4
"""Connections of each process."""
KEYS: Final = 2
SLOT_S: Final = 1.0
BUCKETS: Final = {"plain": False, "kv-plain": False, "versioned": True}
"""One in each pool, and one with versions, which pool `kv` does not keep."""
Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body of a reply."""
START_S: Final = 120.0
ROUND_S: Final = 12.0
SIZES: Final = (8, 8, 3000, 60_000)
_STEP: Final = 1_000_000
"""The serial numbers of one process of one round."""


class Spec(msgspec.Struct):
    """What a client process is told."""

    port: int
    access_key: str
    secret_key: str
    seed: str
    first: int
    until_s: float


class Note(msgspec.Struct, array_like=True):
    """One operation on one key, as `Op`. A value is "#7", the body of serial number 7, or an ETag, or ABSENT."""

    bucket: str
    key: str
    what: str
    begun_s: float
    ended_s: float | None
    needs: str | None = None
    avoids: list[str] = []
    writes: str | None = None


class Log(msgspec.Struct):
    """What a client process has to tell. `etags`: of bodies, as far as it was told."""

    notes: list[Note] = []
    etags: list[tuple[str, str]] = []
    counts: dict[str, int] = {}
    faults: list[str] = []


class Client(Caller):
    """One connection."""

    def __init__(self, spec: Spec, number: int, log: Log, serials: count[int]) -> None:
        super().__init__(Target(spec.access_key, spec.secret_key, spec.port))
        self._spec = spec
        self._log = log
        self._serials = serials
        self._random = random.Random(f"{spec.seed}/{number}")
        self._seen: dict[str, str] = {}  # the ETag last seen under a key
        self._bucket = self._key = ""
        self._begun_s = 0.0
        self._operations: Final[list[tuple[int, Callable[[], Awaitable[None]]]]] = [
            (16, self._get),
            (8, self._get_conditionally),
            (8, self._head),
            (6, self._list),
            (6, self._lookup),
            (6, self._get_many),
            (12, self._put),
            (12, self._create),
            (18, self._replace),
            (4, self._put_many),
            (5, self._delete),
            (7, self._delete_matching),
            (2, self._delete_many),
            (4, self._move),
        ]

    async def run(self) -> None:
        weights = [weight for weight, _ in self._operations]
        while time.monotonic() < self._spec.until_s:
            slot = int(time.monotonic() / SLOT_S)
            self._bucket = list(BUCKETS)[slot % len(BUCKETS)]
            self._key = f"{slot}/{self._random.randrange(KEYS)}"
            (_, operation), *_ = self._random.choices(self._operations, weights)
            try:
                await operation()
            except ClientError:
                self._count("lost")
                self.close()
                await asyncio.sleep(0.02)
        self.close()

    # what is noted

    def _count(self, what: str) -> None:
        self._log.counts[what] = self._log.counts.get(what, 0) + 1

    def _note(self, what: str, key: str = "", **fields: object) -> None:
        note = Note(self._bucket, key or self._key, what, self._begun_s, time.monotonic(), **fields)  # type: ignore[arg-type]
        self._log.notes.append(note)

    def _odd(self, what: str, status: int, text: bytes) -> None:
        self._count(f"{what} {status}")
        if status not in (503, 507):
            self._log.faults.append(f"{what} {self._bucket}/{self._key}: status {status}: {text[:300]!r}")

    async def _send(
        self, method: str, content: bytes = b"", query: str = "", path: str | None = None, **headers: str
    ) -> Answer:
        self._begun_s = time.monotonic()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        where = f"/{self._bucket}/{self._key}" if path is None else path
        reply = await self.reply(method, where, content, query, named)
        return reply.status, dict(reply.headers), bytes(reply.body)

    async def _write(
        self, what: str, writes: list[tuple[str, str]], needs: str | None, sending: Awaitable[Answer]
    ) -> Answer:
        """A write of (key, value)s: noted as lost when it has no reply."""
        try:
            return await sending
        except ClientError:
            for key, value in writes:
                lost = Note(self._bucket, key, what, self._begun_s, None, needs, [], value)
                self._log.notes.append(lost)
            raise

    # reading

    def _found(self, what: str, content: bytes, etag: str, key: str = "") -> None:
        serial = int.from_bytes(content[:8], "big")
        if content != body((serial, len(content))):
            self._log.faults.append(f"{what} {self._bucket}/{key or self._key}: torn bytes, serial {serial}")
        self._note(what, key, needs=f"#{serial}")
        if etag:
            self._seen[key or self._key] = etag
            self._log.etags.append((etag, f"#{serial}"))

    async def _get(self) -> None:
        status, headers, content = await self._send("GET")
        if status == 200:
            self._found("get", content, headers["etag"])
        elif status == 404:
            self._note("get", needs=ABSENT)
        else:
            self._odd("get", status, content)

    async def _get_conditionally(self) -> None:
        etag = self._seen.get(self._key)
        if etag is None:
            return
        match = self._random.random() < 0.5
        status, headers, content = await self._send("GET", **{"if_match" if match else "if_none_match": etag})
        what = f"get if-{'' if match else 'none-'}match"
        if status == 200:
            self._found(what, content, headers["etag"])
            self._note(what, **({"needs": etag} if match else {"avoids": [etag]}))
        elif status == 404:
            self._note(what, needs=ABSENT)
        elif status == 304 and not match:
            self._note(what, needs=etag)
        elif status == 412 and match:
            self._note(what, avoids=[etag, ABSENT])
        else:
            self._odd(what, status, content)

    async def _head(self) -> None:
        status, headers, _ = await self._send("HEAD")
        if status in (200, 404):
            self._note("head", needs=headers["etag"] if status == 200 else ABSENT)
        else:
            self._odd("head", status, b"")

    async def _list(self) -> None:
        prefix = quote(self._key.partition("/")[0] + "/", safe="")
        status, _, text = await self._send("GET", b"", f"list-type=2&prefix={prefix}", f"/{self._bucket}")
        if status != 200:
            self._odd("list", status, text)
            return
        listed = {
            str(entry.findtext(f"{NAMESPACE}Key")): str(entry.findtext(f"{NAMESPACE}ETag"))
            for entry in ElementTree.fromstring(text).iter(f"{NAMESPACE}Contents")
        }
        for key in self._keys():
            self._note("list", key, needs=listed.get(key, ABSENT))

    def _keys(self) -> list[str]:
        return [f"{self._key.partition('/')[0]}/{number}" for number in range(KEYS)]

    async def _batch(self, verb: str, content: bytes) -> Answer:
        return await self._send("POST", content, f"recall={verb}", f"/{self._bucket}")

    async def _lookup(self) -> None:
        keys = self._keys()
        status, _, text = await self._batch("lookup", json.dumps({"keys": keys}).encode())
        if status != 200:
            self._odd("lookup", status, text)
            return
        for key, entry in zip(keys, json.loads(text)["objects"], strict=True):
            self._note("lookup", key, needs=f'"{entry["etag"].strip(chr(34))}"' if entry else ABSENT)

    async def _get_many(self) -> None:
        keys = self._keys()
        status, _, content = await self._batch("get", json.dumps({"keys": keys}).encode())
        if status != 200:
            self._odd("get many", status, content)
            return
        at = 0
        for key in keys:
            found, _, _, length = struct.unpack_from("<HHIQ", content, at)
            at += 16 + length
            if found == 200:
                self._found("get many", content[at - length : at], "", key)
            elif found == 404:
                self._note("get many", key, needs=ABSENT)
            else:
                self._odd("get many", found, b"")

    # writing

    def _new(self) -> tuple[bytes, str]:
        serial = next(self._serials)
        content = body((serial, self._random.choice(SIZES)))
        if not self._bucket.startswith("kv"):  # there it is no MD5
            self._log.etags.append((f'"{hashlib.md5(content).hexdigest()}"', f"#{serial}"))
        return content, f"#{serial}"

    def _stored(self, what: str, value: str, headers: dict[str, str], needs: str | None = None) -> None:
        self._note(what, needs=needs, writes=value)
        self._seen[self._key] = headers["etag"]
        self._log.etags.append((headers["etag"], value))

    async def _put(self) -> None:
        content, value = self._new()
        status, headers, text = await self._write("put", [(self._key, value)], None, self._send("PUT", content))
        if status == 200:
            self._stored("put", value, headers)
        else:
            self._odd("put", status, text)

    async def _create(self) -> None:
        content, value = self._new()
        sending = self._send("PUT", content, if_none_match="*")
        status, headers, text = await self._write("create", [(self._key, value)], ABSENT, sending)
        if status == 200:
            self._stored("create", value, headers, ABSENT)
        elif status == 412:
            self._note("create", avoids=[ABSENT])
        else:
            self._odd("create", status, text)

    async def _replace(self) -> None:
        etag = self._seen.get(self._key)
        if etag is None:
            await self._get()
            return
        content, value = self._new()
        sending = self._send("PUT", content, if_match=etag)
        status, headers, text = await self._write("replace", [(self._key, value)], etag, sending)
        if status == 200:
            self._stored("replace", value, headers, etag)
        elif status == 404:
            self._note("replace", needs=ABSENT)
        elif status == 412:
            self._note("replace", avoids=[etag, ABSENT])
        else:
            self._odd("replace", status, text)

    async def _put_many(self) -> None:
        """All keys at once, each only where nothing stands, or all as they are."""
        keys, absent = self._keys(), self._random.random() < 0.5
        contents, values = zip(*(self._new() for _ in keys), strict=True)
        named = [
            {"key": key, "size": len(content), "if_absent": absent} for key, content in zip(keys, contents, strict=True)
        ]
        table = json.dumps({"objects": named}).encode()
        sending = self._batch("put", b"".join((struct.pack("<I", len(table)), table, *contents)))
        writes = [*zip(keys, values, strict=True)]
        status, _, text = await self._write("put many", writes, ABSENT if absent else None, sending)
        if status != 200:
            self._odd("put many", status, text)
            return
        for (key, value), entry in zip(writes, json.loads(text)["objects"], strict=True):
            if "etag" in entry:
                self._log.etags.append((f'"{entry["etag"].strip(chr(34))}"', value))
                self._note("put many", key, needs=ABSENT if absent else None, writes=value)
            elif entry["status"] == 412 and absent:
                self._note("put many", key, avoids=[ABSENT])
            else:
                self._odd("put many", entry["status"], text)

    async def _delete(self) -> None:
        status, _, text = await self._write("delete", [(self._key, ABSENT)], None, self._send("DELETE"))
        if status == 204:
            self._note("delete", writes=ABSENT)
        else:
            self._odd("delete", status, text)

    async def _delete_matching(self) -> None:
        etag = self._seen.get(self._key)
        if etag is None:
            return
        sending = self._send("DELETE", if_match=etag)
        status, _, text = await self._write("delete matching", [(self._key, ABSENT)], etag, sending)
        if status == 204:
            self._note("delete matching", needs=etag, writes=ABSENT)
        elif status == 404:
            self._note("delete matching", needs=ABSENT)
        elif status == 412:  # a delete marker is refused like another object
            self._note("delete matching", avoids=[etag] if BUCKETS[self._bucket] else [etag, ABSENT])
        else:
            self._odd("delete matching", status, text)

    async def _delete_many(self) -> None:
        sending = self._batch("delete", json.dumps({"keys": [self._key]}).encode())
        status, _, text = await self._write("delete many", [(self._key, ABSENT)], None, sending)
        if status == 200 and not json.loads(text)["objects"][0]:
            self._note("delete many", writes=ABSENT)
        else:
            self._odd("delete many", status, text)

    async def _move(self) -> None:
        """To another tier, which nobody can see."""
        status, _, text = await self._send("POST", b"", "recall=", x_recall_tier=self._random.choice(("cold", "hot")))
        if status not in (200, 202, 404):
            self._odd("move", status, text)


async def serve_clients(spec: Spec) -> Log:
    log = Log()
    serials = count(spec.first)
    await asyncio.gather(*(Client(spec, number, log, serials).run() for number in range(CLIENTS)))
    return log


class Run:
    """The gateway, its clients, and what came of their histories."""

    def __init__(self, seed: int, path: Path) -> None:
        self.seed = seed
        self._random = random.Random(seed)
        self._path = path
        self.gateway = Gateway(data_dir=path / "data", workers=WORKERS, settings=SETTINGS, start_s=START_S)
        self.counts: Counter[str] = Counter()
        self.rounds = self.keys = self.operations = self.lost = self.kills = self.unknown = 0
        self.faults: list[str] = []

    @property
    def target(self) -> Target:
        return Target(self.gateway.access_key, self.gateway.secret_key, self.gateway.port)

    async def create_buckets(self) -> None:
        caller = Caller(self.target)
        for bucket, versioned in BUCKETS.items():
            await must(caller, "PUT", f"/{bucket}")
            if versioned:
                await must(caller, "PUT", f"/{bucket}", ENABLED, "versioning=")
        caller.close()

    async def round(self, seconds: float, kill: bool) -> None:
        """So long under load, then every history is judged; `faults` has what is wrong."""
        until_s = time.monotonic() + seconds
        logs = await asyncio.gather(self._kill(until_s, kill), *(self._process(n, until_s) for n in range(PROCESSES)))
        self.rounds += 1
        merged = Log()
        for log in logs:
            if log is not None:
                merged.notes += log.notes
                merged.etags += log.etags
                merged.faults += log.faults
                self.counts.update(log.counts)
        self.faults += merged.faults
        await self.judge(merged)

    async def _process(self, number: int, until_s: float) -> Log:
        """A client process: its interpreter starts within its time."""
        first = 1 + (self.rounds * PROCESSES + number) * _STEP
        target = self.target
        spec = Spec(target.port, target.access_key, target.secret_key, f"{self.seed}/{first}", first, until_s)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.long.linear", "--client", msgspec.json.encode(spec).decode()),
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        told, _ = await process.communicate()
        assert process.returncode == 0, "a client process failed"
        return msgspec.json.decode(told, type=Log)

    async def _kill(self, until_s: float, kill: bool) -> None:
        while kill and (left_s := until_s - time.monotonic()) > 0:
            await asyncio.sleep(min(left_s, 1 + self._random.random()))  # the load's time, not a wait for something
            running = sorted(name for name in self.gateway.running() if name.startswith("worker"))
            if running:
                self.gateway.kill(self._random.choice(running))
                self.kills += 1

    async def judge(self, log: Log) -> None:
        """Adds to `faults` each history without an order."""
        values: dict[str, str] = {}
        for etag, value in log.etags:
            if values.setdefault(etag, value) != value:
                self.faults.append(f"ETag {etag} is of {value} and of {values[etag]}")
        histories: dict[tuple[str, str], list[Note]] = defaultdict(list)
        for note in log.notes:
            histories[note.bucket, note.key].append(note)
        for (bucket, key), notes in histories.items():
            order = await self._written(bucket, key, values) if BUCKETS[bucket] else None
            ops = [op for note in notes if (op := self._known(note, values)) is not None]
            self.keys += 1
            self.operations += len(ops)
            self.lost += sum(op.ended == inf for op in ops)
            wrong = await asyncio.to_thread(explain, ops, order)
            if wrong:
                self.faults.append(f"{bucket}/{key}, {len(ops)} operations, versions {order}: {wrong}")
                self.faults += [f"  {op}" for op in sorted(ops, key=lambda op: op.begun)]

    def _known(self, note: Note, values: dict[str, str]) -> Op | None:
        """What is noted, told of bodies instead of ETags. An ETag of a lost write that nobody has read is of no body known: then
        None, or less is asked."""

        def known(value: str | None) -> str | None:
            return value if value is None or value == ABSENT or value[0] == "#" else values.get(value)

        needs = known(note.needs)
        if needs is None and note.needs is not None:
            self.unknown += 1
            if note.writes is None:
                return None
        avoids = frozenset(value for each in note.avoids if (value := known(each)) is not None)
        return Op(note.begun_s, inf if note.ended_s is None else note.ended_s, note.what, needs, avoids, note.writes)

    async def _written(self, bucket: str, key: str, values: dict[str, str]) -> list[str]:
        """What was written under a key with versions, the first first."""
        reader = Reader(self.target)
        status, text = await reader.patient(f"/{bucket}", f"prefix={quote(key, safe='')}&versions=")
        assert status == 200, text
        found = []
        for entry in ElementTree.fromstring(text):
            if entry.tag == f"{NAMESPACE}DeleteMarker":
                found.append(ABSENT)
            elif entry.tag == f"{NAMESPACE}Version":
                etag, version = (str(entry.findtext(f"{NAMESPACE}{name}")) for name in ("ETag", "VersionId"))
                if etag not in values:
                    status, content = await reader.patient(f"/{bucket}/{key}", f"versionId={version}")
                    values[etag] = f"#{int.from_bytes(content[:8], 'big')}" if status == 200 else f"status {status}"
                found.append(values[etag])
        reader.close()
        return found[::-1]

    def __str__(self) -> str:
        return (
            f"{self.operations} operations on {self.keys} keys by {PROCESSES * CLIENTS} clients of {WORKERS} workers in "
            f"{self.rounds} rounds, {self.lost} without a reply, {self.kills} workers killed, {self.unknown} ETags of no known body"
        )


async def watch(run: Run, minutes: float, kill: bool) -> bool:
    """Rounds until the time is over, at least one; True when every history has an order."""
    begun_s = said_s = time.monotonic()
    with run.gateway:
        await run.create_buckets()
        while not run.faults and (not run.rounds or time.monotonic() - begun_s < 60 * minutes):
            await run.round(max(4.0, min(ROUND_S, 60 * minutes)), kill)
            if time.monotonic() - said_s >= 60:
                said_s = time.monotonic()
                print(f"{(said_s - begun_s) / 60:.1f} min: {run}", flush=True)
    print(", ".join(f"{what}: {number}" for what, number in sorted(run.counts.items())))
    for fault in run.faults[:1000]:
        print(fault)
    verdict = "FAILED" if run.faults else "every history has an order"
    print(f"{verdict}: seed {run.seed}, {(time.monotonic() - begun_s) / 60:.1f} min, {run}", flush=True)
    return not run.faults


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--kill", action="store_true", help="kill workers meanwhile")
    parser.add_argument("--client", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        log = asyncio.run(serve_clients(msgspec.json.decode(options.client, type=Spec)))
        sys.stdout.buffer.write(msgspec.json.encode(log))
        return 0
    print(f"seed {options.seed}", flush=True)
    path = Path(tempfile.mkdtemp(prefix="recall-linear-"))
    if asyncio.run(watch(Run(options.seed, path), options.minutes, options.kill)):
        shutil.rmtree(path)
        return 0
    print(f"kept: {path}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
