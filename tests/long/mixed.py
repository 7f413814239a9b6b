"""Everything a client can change, asked of a gateway at random by many clients, and the ledger of what was promised.

Promise: a `Pair` is two keys of one client, and `allowed` the states they may be in. Every operation is a function from state
to state: acknowledged, it has happened; refused, it has not; with its reply lost, either may be, until a read has shown which
it is. A state has every version with its bytes, tag, pin and hold, so that `verify` compares all of that. A `Contest` is a key
that all clients write under conditions: its history must be one chain in which nothing is older than what preceded it.

Owns the connections and the ledger. Does not know processes: somebody else kills them. Kind: shell of the tests (asyncio).
Spec: docs/SEMANTICS.md, "Durability" and "Consistency".
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import struct
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Final, NamedTuple
from urllib.parse import quote

from bench.client import ClientError, Reply
from tests.crash.load import PART_BYTES, SETTLE_S, SIZES, Caller, Target, body

BUCKETS: Final = ("plain", "kv-blocks", "versioned", "locked", "sealed")
SETTINGS: Final = {
    name: value
    for pool in ("standard", "kv")
    for name, value in {
        f"pools.{pool}.capacity_bytes": "24MiB",
        f"pools.{pool}.region_bytes": "256KiB",
        f"pools.{pool}.demote_after_s": "200ms",
        f"pools.{pool}.space_wait_s": "2s",
    }.items()
}
"""Pools that hold a fraction of the load, so that all tiers work."""
VERSIONS_MAX: Final = 5
STATES_MAX: Final = 8
"""With more states than these, a pair is left alone until it has been read."""
CONTESTS: Final = 3
CONTESTED: Final = "contested/"
NAMESPACE: Final = "{http://s3.amazonaws.com/doc/2006-03-01/}"
ENABLED: Final = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
_SEALED: Final = (
    "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm>"
    "</ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>"
)

Pieces = tuple[tuple[int, int], ...]


class Kept(NamedTuple):
    """One version: `pieces` are what its bytes were written from, None for a delete marker. `number`: 0 when observed."""

    pieces: Pieces | None
    number: int = 0
    tag: str = ""
    pinned: bool = False
    held: bool = False


State = tuple[tuple[Kept, ...], ...]
"""For each key of a pair its versions, the current one first."""
Effect = Callable[[State], State]


def content_of(pieces: Pieces) -> bytes:
    return b"".join(map(body, pieces))


def unnumbered(state: State) -> State:
    return tuple(tuple(kept._replace(number=0) for kept in versions) for versions in state)


@dataclass
class Pair:
    """`begun`: every state that was ever possible since the last verification."""

    bucket: str
    keys: tuple[str, str]
    versioned: bool
    allowed: set[State] = field(default_factory=lambda: {((), ())})
    begun: list[State] = field(default_factory=list)
    touched: bool = False
    """Whether anything was begun since it was read back."""
    told: deque[str] = field(default_factory=lambda: deque(maxlen=12))
    """The last operations and how they ended, for who has to find out what went wrong."""

    def begin(self, states: Iterable[State]) -> None:
        states = set(states)
        self.touched = True
        self.allowed = self.allowed | states
        self.begun += states

    def head(self, slot: int) -> Kept | None:
        """The current object under a key, if that is certain."""
        heads = {state[slot][0] if state[slot] else None for state in self.allowed}
        head = next(iter(heads)) if len(heads) == 1 else None
        return head if head is not None and head.pieces is not None else None

    def with_versions(self, slot: int, change: Callable[[tuple[Kept, ...]], tuple[Kept, ...]]) -> Effect:
        return lambda state: (*state[:slot], change(state[slot]), *state[slot + 1 :])

    def writes(self, slot: int, kept: Kept) -> Effect:
        return self.with_versions(slot, lambda old: (kept, *old) if self.versioned else (kept,))

    def erases(self, slot: int, number: int) -> Effect:
        return self.with_versions(slot, lambda old: (Kept(None, number), *old) if self.versioned else ())

    def alters(self, slot: int, **fields: object) -> Effect:
        return self.with_versions(slot, lambda old: (old[0]._replace(**fields), *old[1:]))  # type: ignore[arg-type]


class Move(NamedTuple):
    """A conditional write: from the object of one serial number (0: none) to that of another. `ended_s` inf: reply lost."""

    expected: int
    serial: int
    begun_s: float
    ended_s: float


class Glance(NamedTuple):
    serial: int
    begun_s: float
    ended_s: float


@dataclass
class Contest:
    """One key and what all clients have done to it and seen there. Refused writes are not in it."""

    key: str
    moves: list[Move] = field(default_factory=list)
    glances: list[Glance] = field(default_factory=list)

    def faults(self, final: int) -> list[str]:
        """What contradicts a single history that ends at `final`."""
        by_serial = {move.serial: move for move in self.moves}
        chain: list[Move] = []
        at = final
        while at:
            if at not in by_serial or len(chain) > len(by_serial):
                return [f"{self.key}: serial {at} was never written"]
            chain.insert(0, by_serial[at])
            at = chain[0].expected
        place = {0: 0, **{move.serial: index for index, move in enumerate(chain, 1)}}
        found = [f"{self.key}: {move} was acknowledged and is not in the history" for move in self.moves
                 if move.ended_s < inf and move.serial not in place]  # fmt: skip
        latest = 0.0
        for move in chain:
            if move.ended_s < latest:
                found.append(f"{self.key}: {move} had ended before what precedes it began")
            latest = max(latest, move.begun_s)
        for glance in self.glances:
            if glance.serial not in place:
                found.append(f"{self.key}: {glance} saw what is in no history")
                continue
            seen = place[glance.serial]
            if any(move.ended_s < glance.begun_s and place[move.serial] > seen for move in chain):
                found.append(f"{self.key}: {glance} saw what was overwritten before")
            if any(move.begun_s > glance.ended_s and place[move.serial] <= seen for move in chain):
                found.append(f"{self.key}: {glance} saw what was only written later")
        return found


class Mixed:
    """The load. `counts`: replies by operation and status; `losses`: when and why connections were lost;
    `faults`: what must not be. `target.port` follows the gateway."""

    def __init__(self, seed: int, credentials: tuple[str, str], *, clients: int = 8, pairs: int = 5) -> None:
        self.seed = seed
        self.target = Target(*credentials)
        self.stopping = False
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self.losses: list[tuple[float, str]] = []
        self.ids: dict[int, str] = {}
        self.numbers = count(1)
        self.contests: list[Contest] = []
        self.pairs = [
            [
                Pair(bucket, (f"{client}/{number}a", f"{client}/{number}b"), bucket in ("versioned", "locked"))
                for bucket in BUCKETS
                for number in range(pairs)
            ]
            for client in range(clients)
        ]
        self.everything = [pair for pairs in self.pairs for pair in pairs]
        self._tasks: list[asyncio.Task[None]] = []

    async def create_buckets(self) -> None:
        caller = Caller(self.target)
        for bucket in BUCKETS:
            lock = {"x-amz-bucket-object-lock-enabled": "true"} if bucket == "locked" else {}
            await must(caller, "PUT", f"/{bucket}", headers=lock)
        await must(caller, "PUT", "/versioned", ENABLED, "versioning=")
        await must(caller, "PUT", "/sealed", _SEALED.encode(), "encryption=")
        caller.close()

    def start(self) -> None:
        """Begins a round, with contested keys of its own."""
        self.stopping = False
        self.contests = [Contest(f"{CONTESTED}{next(self.numbers)}") for _ in range(CONTESTS)]
        self._tasks = [asyncio.create_task(Client(self, name).run()) for name in range(len(self.pairs))]

    async def stop(self) -> None:
        self.stopping = True
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)

    def lose(self, why: ClientError, cut: bool = False) -> None:
        """A request that got no reply, or only part of one. `cut`: it read what may have been written over or ended meanwhile,
        and a cold one is then cut short."""
        self.counts["lost 0"] += 1
        if not cut:
            self.losses.append((time.monotonic(), str(why)))

    async def verify(self, *, all_of_it: bool = True) -> int:
        """Reads everything back, or what was touched since that was done, and compares, with the load ended; returns how
        many versions were read."""
        rest = iter([pair for pair in self.everything if all_of_it or pair.touched])
        read = 0

        async def work() -> None:
            nonlocal read
            reader = Reader(self.target)
            for pair in rest:
                state, ids = await reader.observe(pair)
                read += len(ids)
                found = next((allowed for allowed in pair.allowed if unnumbered(allowed) == state), None)
                if found is None:
                    states = " or ".join(str(unnumbered(allowed)) for allowed in pair.allowed)
                    self.faults.append(f"{pair.bucket}/{pair.keys} is {state}, should be {states}; {[*pair.told]}")
                    found = state
                pair.allowed, pair.begun, pair.touched = {found}, [], False
                self.ids |= zip((kept.number for versions in found for kept in versions), ids, strict=True)
            reader.close()

        await asyncio.gather(*(work() for _ in range(len(self.pairs))))
        reader = Reader(self.target)
        for contest in self.contests:
            status, content = await reader.patient("/plain/" + contest.key)
            self.faults += contest.faults(int.from_bytes(content[:8], "big") if status == 200 else 0)
        for bucket in BUCKETS if all_of_it else ():
            self.faults += await self._listed(reader, bucket)
        reader.close()
        return read

    async def _listed(self, reader: Reader, bucket: str) -> list[str]:
        """What is wrong with a listing of a bucket whose pairs have all been read back."""
        there = {
            key
            for pair in self.everything
            if pair.bucket == bucket
            for slot, key in enumerate(pair.keys)
            if pair.head(slot) is not None
        }
        listed = {key for key in await reader.keys(bucket) if not key.startswith(CONTESTED)}
        return [f"{bucket} lists {listed - there} too many and misses {there - listed}"] if listed != there else []


async def must(caller: Caller, method: str, path: str, content: bytes = b"", query: str = "", headers: dict[str, str] | None = None) -> bytes:  # fmt: skip
    status, text = await caller.ask(method, path, content, query, {**_summed(content), **(headers or {})})
    assert status in (200, 204), (method, path, query, status, text)
    return text


def _summed(content: bytes) -> dict[str, str]:
    return {"content-md5": base64.b64encode(hashlib.md5(content).digest()).decode()} if content else {}


class Reader(Caller):
    """Reads with the load ended, as often as it is told to come again."""

    async def patient(self, path: str, query: str = "") -> tuple[int, bytes]:
        reply = await self._patient(path, query)
        return reply.status, bytes(reply.body)

    async def _patient(self, path: str, query: str = "") -> Reply:
        deadline_s = time.monotonic() + SETTLE_S
        while True:
            try:
                reply = await self.reply("GET", path, query=query)
                if reply.status != 503 or time.monotonic() > deadline_s:
                    return reply
            except ClientError:
                if time.monotonic() > deadline_s:
                    raise
            await asyncio.sleep(0.05)  # polling, with the deadline above

    async def observe(self, pair: Pair) -> tuple[State, list[str]]:
        """The state a pair is in, and the version ids in its order."""
        state, ids = [], []
        for key in pair.keys:
            versions = []
            for version, marker in await self._versions(pair.bucket, key) if pair.versioned else [("", False)]:
                kept = Kept(None) if marker else await self._kept(pair.bucket, key, version)
                if kept is not None:
                    versions.append(kept)
                    ids.append(version)
            state.append(tuple(versions))
        return tuple(state), ids

    async def keys(self, bucket: str) -> set[str]:
        """All keys that a bucket lists, page by page."""
        found: set[str] = set()
        after = ""
        while True:
            query = f"continuation-token={quote(after, safe='')}&list-type=2&max-keys=50"
            status, text = await self.patient(f"/{bucket}", query if after else query.partition("&")[2])
            assert status == 200, text
            page = ElementTree.fromstring(text)
            found |= {str(entry.findtext(f"{NAMESPACE}Key")) for entry in page.iter(f"{NAMESPACE}Contents")}
            after = page.findtext(f"{NAMESPACE}NextContinuationToken") or ""
            if not after:
                return found

    async def _versions(self, bucket: str, key: str) -> list[tuple[str, bool]]:
        status, text = await self.patient(f"/{bucket}", f"prefix={quote(key, safe='')}&versions=")
        assert status == 200, text
        return [
            (str(entry.findtext(f"{NAMESPACE}VersionId")), entry.tag == f"{NAMESPACE}DeleteMarker")
            for entry in ElementTree.fromstring(text)
            if entry.tag in (f"{NAMESPACE}Version", f"{NAMESPACE}DeleteMarker")
        ]

    async def _kept(self, bucket: str, key: str, version: str) -> Kept | None:
        query = f"versionId={version}" if version else ""
        reply = await self._patient(f"/{bucket}/{key}", query)
        if reply.status == 404 and not version:
            return None
        content, headers = bytes(reply.body), reply.headers
        if reply.status != 200:
            return Kept(((reply.status, -1),))  # it is nobody's: a fault
        tag = ""
        if "x-amz-tagging-count" in headers:
            status, text = await self.patient(f"/{bucket}/{key}", f"tagging=&{query}".rstrip("&"))
            tag = str(ElementTree.fromstring(text).findtext(f".//{NAMESPACE}Value")) if status == 200 else str(status)
        return Kept(
            pieces_of(content),
            tag=tag,
            pinned="x-recall-pinned-until" in headers,
            held=headers.get("x-amz-object-lock-legal-hold") == "ON",
        )


_LENGTHS: dict[int, int] = {}
"""The length of each serial number's body, so that bytes can be taken apart again."""


def pieces_of(content: bytes) -> Pieces:
    """What bytes were written from; a piece of length -1 where they are nobody's."""
    found, at = [], 0
    while at < len(content) or not found:
        serial = int.from_bytes(content[at : at + 8], "big")
        size = _LENGTHS.get(serial, -1)
        if size < 0 or content[at : at + size] != body((serial, size)):
            return (*found, (serial, -1))
        found.append((serial, size))
        at += size
    return tuple(found)


class Client(Caller):
    """One client: writes its own pairs, reads all, and takes part in the contests."""

    def __init__(self, mixed: Mixed, name: int) -> None:
        super().__init__(mixed.target)
        self._mixed = mixed
        self._pairs = mixed.pairs[name]
        self._random = random.Random(f"{mixed.seed}/{name}/{next(mixed.numbers)}")
        self._operations: Final[list[tuple[int, Callable[[Pair, int], Awaitable[None]]]]] = [
            (30, self._put),
            (8, self._delete),
            (6, self._delete_version),
            (6, self._copy),
            (5, self._multipart),
            (6, self._append),
            (5, self._rename),
            (4, self._pin),
            (6, self._tag),
            (4, self._hold),
            (5, self._put_many),
            (4, self._delete_many),
        ]

    async def run(self) -> None:
        """Operations at random until the load stops."""
        weights = [weight for weight, _ in self._operations]
        while not self._mixed.stopping:
            try:
                dice = self._random.random()
                if dice < 0.3:
                    await self._read(self._random.choice(self._mixed.everything))
                    continue
                if dice < 0.4:
                    await self._contend(self._random.choice(self._mixed.contests))
                    continue
                pair = self._random.choice(self._pairs)
                (_, operation), *_ = self._random.choices(self._operations, weights)
                if len(pair.allowed) <= STATES_MAX:
                    await operation(pair, self._random.randrange(2))
                else:
                    await asyncio.sleep(0.02)
            except ClientError as error:
                self._mixed.lose(error)
                self.close()
                await asyncio.sleep(0.1)  # not a busy loop while nobody listens
        self.close()

    def _new(self, size: int | None = None) -> tuple[int, int]:
        # At least the serial number's own bytes, so that every body is of one operation alone.
        version = next(self._mixed.numbers), max(8, self._random.choice(SIZES) if size is None else size)
        _LENGTHS[version[0]] = version[1]
        return version

    async def _change(
        self,
        pair: Pair,
        effects: list[Effect],
        name: str,
        request: tuple[str, str, bytes, str, dict[str, str]],
        numbers: tuple[int, ...] = (),
    ) -> None:
        """Sends what has these effects, each of which may come about or not while there is no reply."""
        before = pair.allowed
        possible = set(before)
        for effect in effects:
            possible |= {effect(state) for state in possible}
        pair.begin(possible)
        pair.told.append(f"{name} {request[1]}: no reply")
        reply = await self.reply(*request)
        pair.told[-1] = f"{name} {request[1]}: {reply.status}"
        text = bytes(reply.body[:2000])
        self._mixed.counts[f"{name} {reply.status}"] += 1
        partly = b"<Error>" in text or b'"code"' in text
        if reply.status in (200, 204) and not partly:
            for effect in effects:
                before = {effect(state) for state in before}
            pair.allowed = before
            if numbers and "x-amz-version-id" in reply.headers:
                self._mixed.ids[numbers[0]] = reply.headers["x-amz-version-id"]
        elif reply.status in (503, 507):
            pair.allowed = before
        elif partly and (b"SlowDown" in text or b'"status": 503' in text or b'"status":503' in text):
            self._mixed.counts[f"{name} partly"] += 1
        else:
            self._mixed.faults.append(f"{name} {pair.bucket}/{pair.keys}: status {reply.status}: {text[:300]!r}")

    async def _put(self, pair: Pair, slot: int) -> None:
        kept = Kept((self._new(9 << 20 if self._random.random() < 0.004 else None),), next(self._mixed.numbers))
        headers = {}
        if self._random.random() < 0.1:
            kept = kept._replace(tag=str(kept.number))
            headers["x-amz-tagging"] = f"n={kept.tag}"
        if self._random.random() < 0.05:
            kept = kept._replace(pinned=True)
            headers["x-recall-pin"] = "true"
        assert kept.pieces
        path = f"/{pair.bucket}/{pair.keys[slot]}"
        request = "PUT", path, content_of(kept.pieces), "", headers
        await self._change(pair, [pair.writes(slot, kept)], "put", request, (kept.number,))

    async def _delete(self, pair: Pair, slot: int) -> None:
        number = next(self._mixed.numbers)
        request = "DELETE", f"/{pair.bucket}/{pair.keys[slot]}", b"", "", {}
        await self._change(pair, [pair.erases(slot, number)], "delete", request, (number,))

    async def _delete_version(self, pair: Pair, slot: int) -> None:
        while pair.versioned and len(pair.allowed) == 1:
            versions = next(iter(pair.allowed))[slot]
            known = [kept for kept in versions if kept.number in self._mixed.ids]
            if not known:
                return
            kept = self._random.choice(known)
            path, query = f"/{pair.bucket}/{pair.keys[slot]}", f"versionId={self._mixed.ids[kept.number]}"
            if kept.held:
                status, text = await self.ask("DELETE", path, query=query)
                self._mixed.counts[f"delete held {status}"] += 1
                if status not in (403, 503):
                    self._mixed.faults.append(f"a held version of {path} was deleted: {status} {text[:300]!r}")
                return
            left = pair.with_versions(slot, lambda old, gone=kept.number: tuple(v for v in old if v.number != gone))  # type: ignore[misc]
            await self._change(pair, [left], "delete version", ("DELETE", path, b"", query, {}))
            if len(versions) <= VERSIONS_MAX:
                return

    async def _copy(self, pair: Pair, slot: int) -> None:
        source = pair.head(slot)
        if source is None:
            return
        kept = Kept(source.pieces, next(self._mixed.numbers), source.tag)
        headers = {"x-amz-copy-source": f"/{pair.bucket}/{pair.keys[slot]}"}
        request = "PUT", f"/{pair.bucket}/{pair.keys[1 - slot]}", b"", "", headers
        await self._change(pair, [pair.writes(1 - slot, kept)], "copy", request, (kept.number,))

    async def _multipart(self, pair: Pair, slot: int) -> None:
        path = f"/{pair.bucket}/{pair.keys[slot]}"
        sizes = [self._random.choice(SIZES[4:])]
        if self._random.random() < 0.2:
            sizes.insert(0, PART_BYTES)
        kept = Kept(tuple(map(self._new, sizes)), next(self._mixed.numbers))
        begun = await self.reply("POST", path, query="uploads=")
        self._mixed.counts[f"begin {begun.status}"] += 1
        if begun.status != 200:
            return
        upload_id = ElementTree.fromstring(bytes(begun.body)).findtext(f"{NAMESPACE}UploadId")
        assert kept.pieces
        claims = ""
        for number, piece in enumerate(kept.pieces, 1):
            for _ in range(1 + (self._random.random() < 0.2)):  # now and then a part is sent again
                part = await self.reply("PUT", path, body(piece), f"partNumber={number}&uploadId={upload_id}")
            self._mixed.counts[f"part {part.status}"] += 1
            if part.status != 200:
                await self.ask("DELETE", path, query=f"uploadId={upload_id}")
                return
            claims += f"<Part><PartNumber>{number}</PartNumber><ETag>{part.headers['etag']}</ETag></Part>"
        document = f"<CompleteMultipartUpload>{claims}</CompleteMultipartUpload>".encode()
        request = "POST", path, document, f"uploadId={upload_id}", {}
        await self._change(pair, [pair.writes(slot, kept)], "complete", request, (kept.number,))

    async def _append(self, pair: Pair, slot: int) -> None:
        head = pair.head(slot)
        if head is None or pair.bucket not in ("plain", "kv-blocks"):
            return
        assert head.pieces
        size = sum(size for _, size in head.pieces)
        if size > 1 << 20:
            return
        piece = self._new()
        headers = {"x-amz-write-offset-bytes": str(size)}
        request = "PUT", f"/{pair.bucket}/{pair.keys[slot]}", body(piece), "", headers
        await self._change(pair, [pair.alters(slot, pieces=(*head.pieces, piece))], "append", request)

    async def _rename(self, pair: Pair, slot: int) -> None:
        head = pair.head(slot)
        if head is None or pair.versioned or sum(size for _, size in head.pieces or ()) > 4 << 20:
            return
        headers = {"x-amz-rename-source": quote(f"/{pair.bucket}/{pair.keys[slot]}")}
        request = "PUT", f"/{pair.bucket}/{pair.keys[1 - slot]}", b"", "renameObject=", headers
        renamed: State = ((), (head,)) if slot == 0 else ((head,), ())
        await self._change(pair, [lambda _: renamed], "rename", request)

    async def _pin(self, pair: Pair, slot: int) -> None:
        if pair.head(slot) is not None:
            pinned = self._random.random() < 0.3
            request = "POST", f"/{pair.bucket}/{pair.keys[slot]}", b"", "recall=", {"x-recall-pin": str(pinned).lower()}
            await self._change(pair, [pair.alters(slot, pinned=pinned)], "pin", request)

    async def _tag(self, pair: Pair, slot: int) -> None:
        if pair.head(slot) is not None:
            tag = str(next(self._mixed.numbers))
            document = f"<Tagging><TagSet><Tag><Key>n</Key><Value>{tag}</Value></Tag></TagSet></Tagging>".encode()
            request = "PUT", f"/{pair.bucket}/{pair.keys[slot]}", document, "tagging=", _summed(document)
            await self._change(pair, [pair.alters(slot, tag=tag)], "tag", request)

    async def _hold(self, pair: Pair, slot: int) -> None:
        if pair.bucket == "locked" and pair.head(slot) is not None:
            held = self._random.random() < 0.4
            document = f"<LegalHold><Status>{'ON' if held else 'OFF'}</Status></LegalHold>".encode()
            request = "PUT", f"/{pair.bucket}/{pair.keys[slot]}", document, "legal-hold=", _summed(document)
            await self._change(pair, [pair.alters(slot, held=held)], "hold", request)

    async def _put_many(self, pair: Pair, _: int) -> None:
        both = [Kept((self._new(),), next(self._mixed.numbers)) for _ in pair.keys]
        contents = [content_of(kept.pieces or ()) for kept in both]
        named = [{"key": key, "size": len(content)} for key, content in zip(pair.keys, contents, strict=True)]
        table = json.dumps({"objects": named}).encode()
        request = (
            "POST",
            f"/{pair.bucket}",
            b"".join((struct.pack("<I", len(table)), table, *contents)),
            "recall=put",
            {},
        )
        await self._change(pair, [pair.writes(slot, kept) for slot, kept in enumerate(both)], "put many", request)

    async def _delete_many(self, pair: Pair, _: int) -> None:
        effects = [pair.erases(slot, next(self._mixed.numbers)) for slot in range(2)]
        keys = "".join(f"<Object><Key>{key}</Key></Object>" for key in pair.keys)
        document = f"<Delete>{keys}</Delete>".encode()
        request = "POST", f"/{pair.bucket}", document, "delete=", _summed(document)
        await self._change(pair, effects, "delete many", request)

    async def _read(self, pair: Pair) -> None:
        """One GET while the load runs: of what was allowed when it was sent, or begun since."""
        slot, since, begun = self._random.randrange(2), pair.allowed, len(pair.begun)
        try:
            status, content = await self.ask("GET", f"/{pair.bucket}/{pair.keys[slot]}")
        except ClientError as error:
            self._mixed.lose(error, cut=len(since) > 1 or len(pair.begun) > begun)
            self.close()
            return
        self._mixed.counts[f"get {status}"] += 1
        states = since | set(pair.begun[begun:]) | pair.allowed
        heads = {state[slot][0].pieces if state[slot] else None for state in states}
        found = pieces_of(content) if status == 200 else None
        if status not in (200, 404, 503) or (status != 503 and found not in heads):
            what = f"{found}" if status == 200 else f"status {status} {content[:300]!r}"
            self._mixed.faults.append(
                f"GET {pair.bucket}/{pair.keys[slot]}: {what}, should be of {heads}; {[*pair.told]}"
            )

    async def _contend(self, contest: Contest) -> None:
        """Reads a contested key and overwrites what it found there, if nobody was faster."""
        path, begun_s = f"/plain/{contest.key}", time.monotonic()
        try:
            reply = await self.reply("GET", path)
        except ClientError as error:
            self._mixed.lose(error, cut=True)  # the others write it over all the time
            self.close()
            return
        self._mixed.counts[f"get {reply.status}"] += 1
        if reply.status not in (200, 404):
            return
        expected = int.from_bytes(reply.body[:8], "big") if reply.status == 200 else 0
        contest.glances.append(Glance(expected, begun_s, time.monotonic()))
        headers = {"if-match": reply.headers["etag"]} if expected else {"if-none-match": "*"}
        piece, begun_s = self._new(self._random.choice((8, 5000, 90_000))), time.monotonic()
        lost = Move(expected, piece[0], begun_s, inf)
        contest.moves.append(lost)
        status, text = await self.ask("PUT", path, body(piece), headers=headers)
        self._mixed.counts[f"conditional put {status}"] += 1
        contest.moves.remove(lost)
        if status == 200:
            contest.moves.append(lost._replace(ended_s=time.monotonic()))
        elif status not in (412, 503):
            self._mixed.faults.append(f"conditional put of {contest.key}: status {status}: {text[:300]!r}")
