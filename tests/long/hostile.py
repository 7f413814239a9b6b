"""Attacks, one after the other, on a gateway that others use meanwhile: `make hostile ARGS='--seconds 10'`.

Promise: each attack's answers are judged, and so is what it does to others: two neighbours at another address, one that keeps its
connections and one that opens one a request, count errors and times before and during it; the worker's own memory is sampled.
Exit status 1 when an answer is wrong, a neighbour has an error, or memory grows beyond the attack's bound.

Neighbours are processes of their own, so that the attack's own work does not delay them, though all share the machine.

Owns the gateways it starts. Kind: shell of the tests. Spec: docs/RELIABILITY.md, "Hostile input".
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from bench import loader
from bench.loader import Load, Open, Plan
from tests.s3.rawclient import UNSIGNED, Query, RawClient, Signer, coded_path, coded_query
from tests.support.gateway import ACCESS_KEY, ROOT, SECRET_KEY, Gateway

NEIGHBOUR_RATE: Final = 100
NEIGHBOUR_CONNECTIONS: Final = 64
NEWCOMER_PAUSE_S: Final = 0.02
REPLY_S: Final = 10.0
CALM_S: Final = 20.0
SAMPLE_S: Final = 0.1
ATTACKERS: Final = 8
"""Source addresses of the attacker, 127.0.1.1 and on; the neighbours are at 127.0.0.1."""
GROWTH_MIB: Final = 48
BUCKET: Final = "kv-hostile"
BIG_BYTES: Final = 16 << 20
_MIB: Final = 1 << 20
SETTINGS: Final = {
    "pools.standard.capacity_bytes": "64MiB",
    "pools.kv.capacity_bytes": "128MiB",
    "http.head_s": "5s",
    "http.body_grace_s": "5s",
}
"""Shorter limits than the defaults, so that a run of seconds sees what they do."""

_THREADS: Final = ThreadPoolExecutor(1)

Outcome = Counter[str]


@dataclass
class Target:
    """What is attacked. `count`: connections of the attacks that are about many."""

    gateway: Gateway
    signer: Signer
    count: int
    seconds: float

    @property
    def port(self) -> int:
        return self.gateway.port

    def head(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        query: Query = (),
        length: int | None = None,
    ) -> bytes:
        """A signed head as it goes on the wire."""
        signed = self.signer.sign(method, path, query, {"host": f"127.0.0.1:{self.port}", **(headers or {})}, UNSIGNED)
        if length is not None:
            signed["content-length"] = str(length)
        target = coded_path(path) + (f"?{coded_query(query)}" if query else "")
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in signed.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def client(self) -> RawClient:
        return RawClient(self.port, self.signer)


@dataclass(frozen=True)
class Attack:
    name: str
    run: Callable[[Target], Outcome]
    growth_mib: int = GROWTH_MIB
    secure: bool = False


@dataclass
class Verdict:
    """What an attack did. `faults`: what must not be."""

    attack: str
    outcome: Outcome = field(default_factory=Counter)
    before: Load | None = None
    during: Load | None = None
    newcomer_before: dict[str, float] = field(default_factory=dict)
    newcomer: dict[str, float] = field(default_factory=dict)
    memory_mib: tuple[float, float, float] = (0.0, 0.0, 0.0)
    faults: list[str] = field(default_factory=list)


# --- sockets of an attacker -------------------------------------------------------------------------------------------


def connect(port: int, number: int, receive_bytes: int = 0) -> socket.socket:
    """A connection begun, from one of the attacker's addresses."""
    made = socket.socket()
    made.setblocking(False)
    if receive_bytes:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    made.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: ports are chosen with both ends known
    made.bind((f"127.0.1.{1 + number % ATTACKERS}", 0))
    with suppress(BlockingIOError):
        made.connect(("127.0.0.1", port))
    return made


@contextmanager
def many(target: Target, receive_bytes: int = 0) -> Iterator[list[socket.socket]]:
    held: list[socket.socket] = []
    try:
        for number in range(target.count):
            held.append(connect(target.port, number, receive_bytes))
            if number % 64 == 63:
                time.sleep(0.002)  # lets the kernel's queue of new connections be emptied
        yield held
    finally:
        for each in held:
            each.close()


def trickle(held: Sequence[socket.socket], pieces: Callable[[int], bytes], pause_s: float, seconds: float) -> Outcome:
    """Sends `pieces(round)` on all of them every so often, and counts at the end how many are open, closed, or answered."""
    stop_s = time.monotonic() + seconds
    gone: set[int] = set()
    outcome: Outcome = Counter()
    turn = 0
    while time.monotonic() < stop_s:
        for number, each in enumerate(held):
            if number in gone:
                continue
            try:
                piece = pieces(turn)
                if piece:
                    each.send(piece)
                reply = each.recv(4096)
            except BlockingIOError:
                continue
            except OSError:
                gone.add(number)
                outcome["reset"] += 1
                continue
            gone.add(number)
            outcome[reply[9:12].decode("latin-1") if reply.startswith(b"HTTP/1.1 ") else "closed"] += 1
        turn += 1
        time.sleep(pause_s)
    outcome["held"] = len(held) - len(gone)
    return outcome


def exchange(port: int, data: bytes) -> list[int]:
    """Sends bytes, half-closes, and returns the statuses of all that is answered."""
    with socket.create_connection(("127.0.0.1", port), REPLY_S, source_address=("127.0.1.1", 0)) as connection:
        with suppress(OSError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        whole = bytearray()
        with suppress(ConnectionResetError):
            while part := connection.recv(65536):
                whole += part
    return statuses(bytes(whole))


def statuses(data: bytes) -> list[int]:
    found = []
    while data.startswith(b"HTTP/1.1 "):
        head, _, rest = data.partition(b"\r\n\r\n")
        found.append(int(head[9:12]))
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        data = rest[length:]
    return found


# --- what is asked wrongly --------------------------------------------------------------------------------------------


def smuggling(target: Target) -> Outcome:
    """Heads with two readings, each before a signed write that must not be taken for a request of its own."""
    from tests.wire.test_head import REFUSED  # here and below: neighbours are to start fast

    outcome: Outcome = Counter()
    smuggled = target.head("PUT", f"/{BUCKET}/smuggled", length=1) + b"x"
    heads = dict(REFUSED)
    chunked = b"PUT /%b/k HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" % BUCKET.encode()
    for name, frames in {
        "bare LF in a chunk size": b"1\nx\r\n0\r\n\r\n",
        "chunk size with a sign": b"+1\r\nx\r\n0\r\n\r\n",
        "chunk size with 0x": b"0x1\r\nx\r\n0\r\n\r\n",
        "chunk without its end": b"1\r\nxx0\r\n\r\n",
        "huge chunk size": b"FFFFFFFFFFFFFFFFF\r\n",
        "bare CR in an extension": b"1;a\rb\r\nx\r\n0\r\n\r\n",
    }.items():
        heads[name] = chunked + frames
    for name, head in heads.items():
        if name == "nothing":  # an empty line before a request is allowed
            continue
        answers = exchange(target.port, head + smuggled)
        if not answers or any(status < 400 for status in answers):
            outcome[f"WRONG: {name}: {answers}"] += 1
        else:
            outcome[str(answers[0])] += 1
    with target.client() as client:
        if client.request("HEAD", f"/{BUCKET}/smuggled").status != 404:
            outcome["WRONG: the smuggled write was done"] += 1
    return outcome


def injection(target: Target) -> Outcome:
    """Line ends in keys, metadata and what replies repeat: no line of a reply's head may come of them."""
    outcome: Outcome = Counter()
    evil = "k\r\nx-evil: 1\r\n\r\n<html>"
    asked: list[tuple[str, str, Query, dict[str, str]]] = [
        ("PUT", f"/{BUCKET}/{evil}", (), {}),
        ("GET", f"/{BUCKET}/{evil}", (), {}),
        ("GET", f"/{BUCKET}/{evil}-absent", (), {}),
        ("GET", f"/{BUCKET}", (("list-type", "2"), ("prefix", evil)), {}),
        ("POST", f"/{BUCKET}/{evil}", (("uploads", ""),), {}),
        *(
            ("GET", f"/{BUCKET}/small", ((f"response-{name}", evil),), {})
            for name in ("content-disposition", "content-type", "cache-control", "expires", "content-language")
        ),
        ("PUT", f"/{BUCKET}/meta", (), {"x-amz-meta-a": quote(evil)}),
        ("PUT", f"/{BUCKET}/meta", (), {"x-amz-meta-a": "=?UTF-8?Q?k=0D=0Ax-evil:_1?="}),
        ("PUT", f"/{BUCKET}/meta", (), {"x-amz-website-redirect-location": "/a\x7f"}),
        ("HEAD", f"/{BUCKET}/meta", (), {}),
        ("PUT", f"/{BUCKET}/tagged", (), {"x-amz-tagging": f"a={quote(evil, safe='')}"}),
        ("PUT", f"/{BUCKET}/copied", (), {"x-amz-copy-source": quote(f"{BUCKET}/{evil}", safe="")}),
    ]
    for method, path, query, headers in asked:
        with target.client() as client:  # some are refused as no request, and the connection with them
            body = b"x" if method == "PUT" else b""
            reply = client.request(method, path, query=query, headers=headers, body=body)
        if "x-evil" in reply.headers:
            outcome[f"WRONG: {method} {path!r} {query}"] += 1
        outcome[str(reply.status)] += 1
    return outcome


def traversal(target: Target) -> Outcome:
    """Keys that are paths: what is copied to the directory of the backing store stays in it, and reads back."""
    outcome: Outcome = Counter()
    keys = [
        "../up",
        "../../../../../../../../tmp/recall-traversal",
        "a/../../../b",
        "./.",
        "..",
        "/etc/passwd",
        "//",
        "a//b",
    ]
    keys += [
        "a\0b",
        "\\..\\..\\up",
        "%2e%2e/%2e%2e/up",
        "..%2f..%2fup",
        "a/" * 300 + "deep",
        "é" * 500,
        "~",
        "CON",
        "a/..",
    ]
    before = _outside(target.gateway.data_dir)
    with target.client() as client:
        for number, key in enumerate(keys):
            body = b"traversal %d" % number
            status = client.request("PUT", f"/{BUCKET}/{key}", body=body).status
            outcome[str(status)] += 1
            if status != 200:
                continue
            moved = client.request(
                "POST", f"/{BUCKET}/{key}", query=(("recall", ""),), headers={"x-recall-tier": "cold"}
            )
            reply = client.request("GET", f"/{BUCKET}/{key}")
            if moved.status != 200 or reply.status != 200 or reply.body != body:
                outcome[f"WRONG: {key!r}: {moved.status}, then {reply.status}"] += 1
    for path in _outside(target.gateway.data_dir) - before:
        outcome[f"WRONG: outside the backing store: {path}"] += 1
    return outcome


def _outside(data_dir: Path) -> set[str]:
    """Files around and in the data directory, but for those of the backing store."""
    around = {*data_dir.parent.rglob("*"), *Path("/tmp").glob("recall-traversal*"), *Path("/tmp").glob("up*")}
    backing = data_dir / "backing"
    return {str(path) for path in around if path != backing and backing not in path.parents}


def xml_bombs(target: Target) -> Outcome:
    """Entities, depth, attributes and length, to every kind of document."""
    outcome: Outcome = Counter()
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    bombs = [
        f'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY l0 "lol">{laughs}]><Delete><Object><Key>&l9;</Key></Object></Delete>',
        '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><Delete><Object><Key>&x;</Key></Object></Delete>',
        "<a>" * 100_000 + "</a>" * 100_000,
        "<Delete " + " ".join(f'a{n}="1"' for n in range(60_000)) + "/>",
        '<Delete xmlns:a="' + "u" * 900_000 + '"/>',
        "<Delete>" + "<Object><Key>k</Key></Object>" * 30_000 + "</Delete>",
        "<Delete><Object><Key>" + "k" * 1_000_000 + "</Key></Object></Delete>",
        "<Delete><!--" + "-" * 1_000_000,
    ]
    with target.client() as client:
        for bomb in bombs:
            body = bomb.encode()
            for method, path, name in (
                ("POST", f"/{BUCKET}", "delete"),
                ("PUT", f"/{BUCKET}", "lifecycle"),
                ("PUT", f"/{BUCKET}", "cors"),
                ("PUT", f"/{BUCKET}", "tagging"),
                ("PUT", f"/{BUCKET}/small", "acl"),
            ):
                reply = client.request(
                    method, path, query=((name, ""),), headers={"content-md5": _md5(body)}, body=body
                )
                outcome[str(reply.status)] += 1
                # A key that is too long is an error of that key.
                if not 400 <= reply.status < 500 and not (name == "delete" and b"<Error>" in reply.body):
                    outcome[f"WRONG: {name} {bomb[:40]!r}: {reply.status}"] += 1
                if reply.headers.get("connection") == "close":
                    client.close()
                    client.__init__(target.port, target.signer)  # type: ignore[misc]  # a new connection
    return outcome


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body).digest()).decode()


def zstd_bombs(target: Target) -> Outcome:
    """Cold copies that were replaced by streams that unpack to a thousand times their length, or claim to."""
    import zstandard

    outcome: Outcome = Counter()
    data = os.urandom(1000) * 200
    with target.client() as client:
        for number in range(4):
            path = f"/{BUCKET}/bomb-{number}"
            client.request("PUT", path, body=data)
            client.request("POST", path, query=(("recall", ""),), headers={"x-recall-tier": "cold"})
            (copy,) = (target.gateway.data_dir / "backing" / BUCKET).rglob(f"bomb-{number}*")
            whole = copy.read_bytes()
            skip = 8 + int.from_bytes(whole[4:8], "little")  # the leading frame, with the object's metadata
            zeros = zstandard.ZstdCompressor(level=19).compress(bytes(256 * _MIB))
            copy.write_bytes(
                (
                    whole[:skip] + zeros,
                    whole[:skip] + zeros * 8 + whole[skip:],
                    whole[:4] + b"\xff\xff\xff\x7f" + whole[8:],
                    whole[:skip] + whole[skip : skip + 5] + b"\xff" * 9 + whole[skip + 14 :],
                )[number]
            )
            try:
                reply = client.request("GET", path)
                outcome[str(reply.status)] += 1
                if reply.status == 200 and reply.body != data:
                    outcome[f"WRONG: {path} reads other bytes"] += 1
            except (AssertionError, OSError):  # the reply had begun: it can only be cut
                outcome["cut"] += 1
                client.close()
                client.__init__(target.port, target.signer)  # type: ignore[misc]  # a new connection
            client.request("DELETE", path)
    return outcome


def header_sets(target: Target) -> Outcome:
    """Very many header lines, very long ones, and heads that go on for megabytes."""
    outcome: Outcome = Counter()
    for _ in range(max(1, target.count // 100)):
        for lines in (
            b"a: b\r\n" * 100_000,
            b"a: " + b"b" * 4_000_000 + b"\r\n",
            b"x-amz-meta-%d: a\r\n" * 127 + b"a" * 40_000,
        ):
            answers = exchange(target.port, b"GET / HTTP/1.1\r\nHost: h\r\n" + lines + b"\r\n")
            outcome[str(answers[0] if answers else "cut")] += 1
            if any(status not in (400, 431) for status in answers):
                outcome[f"WRONG: {answers}"] += 1
    return outcome


# --- who takes what others need ---------------------------------------------------------------------------------------


def slow_heads(target: Target) -> Outcome:
    head = b"GET /%b/small HTTP/1.1\r\nHost: h\r\nX: " % BUCKET.encode() + b"y" * 1000
    with many(target) as held:
        return trickle(held, lambda turn: head[turn : turn + 1], 0.2, target.seconds)


def slow_bodies(target: Target) -> Outcome:
    """Writes that fill a receive buffer each, and then trickle."""
    length = 8 << 20
    begun = [
        target.head("PUT", f"/{BUCKET}/slow-{number}", length=length) + bytes(60_000) for number in range(target.count)
    ]
    with many(target) as held:
        for each, data in zip(held, begun, strict=True):
            with suppress(OSError):
                each.send(data)
        return trickle(held, lambda turn: b"x" * 64, 0.2, target.seconds)


def slow_readers(target: Target) -> Outcome:
    """Reads of a large object by who takes nothing of it."""
    head = target.head("GET", f"/{BUCKET}/big")
    with many(target, receive_bytes=4096) as held:
        for each in held:
            with suppress(OSError):
                each.send(head)
        time.sleep(target.seconds)
        outcome: Outcome = Counter()
        for each in held:
            try:
                answer = each.recv(16, socket.MSG_PEEK)
                outcome["refused" if answer.startswith(b"HTTP/1.1 503") else "held" if answer else "cut"] += 1
            except BlockingIOError:
                outcome["unanswered"] += 1
            except OSError:
                outcome["cut"] += 1
        return outcome


def idle(target: Target) -> Outcome:
    with many(target) as held:
        return trickle(held, lambda turn: b"", 0.5, target.seconds)


def flood(target: Target) -> Outcome:
    """Connections as fast as they can be made, half of them with a request, closed by a reset at once."""
    outcome: Outcome = Counter()
    request = b"GET /%b/small HTTP/1.1\r\nHost: h\r\n\r\n" % BUCKET.encode()
    stop_s = time.monotonic() + target.seconds
    waiting: list[socket.socket] = []
    while time.monotonic() < stop_s:
        made = connect(target.port, outcome["made"])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        outcome["made"] += 1
        waiting.append(made)
        if len(waiting) >= 64:
            for number, each in enumerate(waiting):
                if number % 2:
                    with suppress(OSError):
                        each.send(request)
                each.close()
            waiting.clear()
    for each in waiting:
        each.close()
    return outcome


def open_handshakes(target: Target) -> Outcome:
    """The beginning of a ClientHello, and no more."""
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(100)
    with many(target) as held:
        for each in held:
            with suppress(OSError):
                each.send(hello)
        return trickle(held, lambda turn: b"", 0.5, target.seconds)


def handshake_flood(target: Target) -> Outcome:
    """Handshakes without a request, one after the other, and what is no TLS at all."""
    outcome: Outcome = Counter()
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    stop_s = time.monotonic() + target.seconds
    while time.monotonic() < stop_s:
        connection = socket.create_connection(("127.0.0.1", target.port), REPLY_S, source_address=("127.0.1.1", 0))
        try:
            if outcome["shaken"] % 2:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            else:
                connection = context.wrap_socket(connection, server_hostname="h")
            outcome["shaken"] += 1
        except OSError:
            outcome["refused"] += 1
        finally:
            connection.close()
    return outcome


ATTACKS: Final = (
    Attack("request smuggling", smuggling),
    Attack("header injection", injection),
    Attack("path traversal", traversal),
    Attack("XML bombs", xml_bombs),
    Attack("zstd bombs", zstd_bombs),
    Attack("huge header sets", header_sets),
    Attack("slow heads", slow_heads),
    # One receive buffer of each request in flight.
    Attack("slow bodies", slow_bodies, growth_mib=300),
    Attack("slow readers", slow_readers),
    Attack("idle connections", idle, growth_mib=96),
    Attack("connection flood", flood),
    Attack("handshakes left open", open_handshakes, growth_mib=200, secure=True),
    Attack("handshake flood", handshake_flood, secure=True),
)


# --- who is there besides ---------------------------------------------------------------------------------------------


def newcomer(port: int, seconds: float, request: bytes, secure: bool) -> dict[str, float]:
    """One request on a connection of its own, again and again: times and errors."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    took: list[float] = []
    errors: Counter[str] = Counter()
    stop_s = time.monotonic() + seconds
    while time.monotonic() < stop_s:
        begin_s = time.monotonic()
        try:
            with socket.create_connection(("127.0.0.1", port), REPLY_S) as plain:
                connection = context.wrap_socket(plain) if secure else plain
                connection.sendall(request)
                reply = connection.recv(65536)
                while len(reply) < 4096 and (part := connection.recv(65536)):
                    reply += part
                if secure:
                    connection.close()
            if reply[9:12] != b"200":
                errors[reply[9:12].decode("latin-1") or "nothing"] += 1
        except OSError as error:
            errors[type(error).__name__] += 1
        took.append(time.monotonic() - begin_s)
        time.sleep(NEWCOMER_PAUSE_S)
    took.sort()
    return {
        "requests": len(took),
        "errors": sum(errors.values()),
        "p50_ms": 1000 * took[len(took) // 2],
        "p99_ms": 1000 * took[int(len(took) * 0.99)],
        **{f"error {name}": number for name, number in errors.items()},
    }


class Neighbours:
    """Both, for some seconds, while something else happens."""

    def __init__(self, target: Target, seconds: float, secure: bool, folder: Path) -> None:
        request = target.head("GET", f"/{BUCKET}/small")
        (folder / "request").write_bytes(request)
        arguments = ["--newcomer", str(target.port), "--seconds", str(seconds), "--request", str(folder / "request")]
        self._newcomer = subprocess.Popen(
            [sys.executable, "-m", "tests.long.hostile", *arguments, *(["--secure"] if secure else [])],
            cwd=ROOT,
            env=_environment(),
            stdout=subprocess.PIPE,
        )
        self._steady: Future[Load] | None = None
        if not secure:  # the loader speaks no TLS
            plan = Plan([target.head("GET", f"/{BUCKET}/small") for _ in range(16)], expect_bytes=4096)
            plan = replace(plan, open_loop=Open(NEIGHBOUR_RATE, REPLY_S))
            address = ("127.0.0.1", target.port)
            self._steady = _THREADS.submit(
                loader.run, loader.build(), address, plan, NEIGHBOUR_CONNECTIONS, seconds, folder
            )

    def end(self) -> tuple[Load | None, dict[str, float]]:
        output, _ = self._newcomer.communicate()
        return None if self._steady is None else self._steady.result(), json.loads(output)


def memory_mib(gateway: Gateway) -> float:
    """What the workers hold of their own: mapped files are the page cache's."""
    total = 0
    for name, pid in gateway.pids().items():
        if name.startswith("worker"):
            with suppress(OSError):
                text = Path(f"/proc/{pid}/status").read_text()
                total += int(text.partition("RssAnon:")[2].split()[0])
    return total / 1024


# --- the run ----------------------------------------------------------------------------------------------------------


class Memory:
    """Samples what the workers hold, in a thread, for as long as the block runs."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before = self.peak = memory_mib(gateway)

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.peak = max(self.peak, memory_mib(self._gateway))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.peak = max(self.peak, memory_mib(self._gateway))


def suffer(attack: Attack, target: Target) -> Verdict:
    """One attack, judged by its answers and by the worker's memory."""
    verdict = Verdict(attack.name)
    pids = target.gateway.pids()
    with Memory(target.gateway) as memory:
        verdict.outcome = attack.run(target)
    _judge(attack, verdict, target, memory, pids)
    return verdict


def suffer_beside(attack: Attack, target: Target, folder: Path) -> Verdict:
    """One attack, in a process of its own, with neighbours before and during it."""
    verdict = Verdict(attack.name)
    calm(target)
    quiet = Neighbours(target, max(0.5, min(2.0, target.seconds)), attack.secure, folder)
    verdict.before, verdict.newcomer_before = quiet.end()
    pids = target.gateway.pids()
    command = [sys.executable, "-m", "tests.long.hostile", "--attack", attack.name, "--seconds", str(target.seconds)]
    command += ["--count", str(target.count), "--port", str(target.port), "--data-dir", str(target.gateway.data_dir)]
    with Memory(target.gateway) as memory:
        beside = Neighbours(target, target.seconds, attack.secure, folder)
        attacker = subprocess.run(command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, check=False)
    verdict.outcome = Counter(json.loads(attacker.stdout) if attacker.stdout else {"WRONG: the attacker failed": 1})
    verdict.during, verdict.newcomer = beside.end()
    time.sleep(min(1.0, target.seconds))
    _judge(attack, verdict, target, memory, pids)
    if verdict.newcomer["errors"]:
        verdict.faults.append(f"the newcomer: {verdict.newcomer}")
    if verdict.during is not None and (verdict.during.bad or verdict.during.refused or verdict.during.late):
        verdict.faults.append(f"the neighbour: {verdict.during}")
    return verdict


def calm(target: Target) -> None:
    """Waits until what the attack before has left is over: connections that are closed one by one."""
    deadline_s = time.monotonic() + CALM_S
    while time.monotonic() < deadline_s:
        begin_s = time.monotonic()
        with suppress(OSError), socket.create_connection(("127.0.0.1", target.port), REPLY_S):
            if time.monotonic() - begin_s < 0.1:
                time.sleep(0.5)
                return
        time.sleep(0.5)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "clients")}


def _judge(attack: Attack, verdict: Verdict, target: Target, memory: Memory, pids: dict[str, int]) -> None:
    verdict.memory_mib = memory.before, memory.peak, memory_mib(target.gateway)
    verdict.faults += [name for name in verdict.outcome if name.startswith("WRONG")]
    if memory.peak - memory.before > attack.growth_mib:
        verdict.faults.append(f"memory grew by {memory.peak - memory.before:.0f} MiB")
    if target.gateway.pids() != pids:
        verdict.faults.append("a process ended")


def title() -> str:
    return (
        f"{'':<22}{'neighbour p50/p99 ms':>24}{'newcomer p50/p99 ms':>24}{'errors':>8}{'worker MiB':>17}  answers\n"
        f"{'attack':<22}{'before':>12}{'during':>12}{'before':>12}{'during':>12}{'':>8}{'before peak after':>19}"
    )


def row(verdict: Verdict) -> str:
    def steady(load: Load | None) -> str:
        return "-" if load is None else f"{load.p50_us / 1000:.1f}/{load.p99_us / 1000:.0f}"

    def fresh(said: dict[str, float]) -> str:
        return f"{said['p50_ms']:.1f}/{said['p99_ms']:.0f}"

    errors = verdict.newcomer["errors"] + (verdict.during.bad + verdict.during.late if verdict.during else 0)
    answers = ", ".join(f"{number} x {name}" for name, number in sorted(verdict.outcome.items()))
    memory = " ".join(f"{each:.0f}" for each in verdict.memory_mib)
    return (
        f"{verdict.attack:<22}{steady(verdict.before):>12}{steady(verdict.during):>12}{fresh(verdict.newcomer_before):>12}"
        f"{fresh(verdict.newcomer):>12}{errors:>8.0f}{memory:>19}  {answers}"
    )


def run(
    names: Sequence[str],
    seconds: float,
    count: int,
    directory: Path,
    tell: Callable[[str], None] = lambda _: None,
    beside: bool = True,
) -> list[Verdict]:
    """Starts what is attacked, attacks it, and returns what came of it. `beside`: with neighbours."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    verdicts = []
    with ExitStack() as stack:
        targets: dict[bool, Target] = {}
        for attack in ATTACKS:
            if names and attack.name not in names:
                continue
            if attack.secure not in targets:
                targets[attack.secure] = _target(stack, directory / str(attack.secure), attack.secure, seconds, count)
            target = targets[attack.secure]
            verdict = suffer_beside(attack, target, directory) if beside else suffer(attack, target)
            if beside:
                tell(row(verdict))
            for fault in verdict.faults:
                tell(f"    FAULT: {fault}")
            verdicts.append(verdict)
    return verdicts


def _target(stack: ExitStack, directory: Path, secure: bool, seconds: float, count: int) -> Target:
    directory.mkdir()
    settings = dict(SETTINGS)
    if secure:
        from tests.support.certificates import Certificates

        settings |= Certificates(directory).settings
    gateway = stack.enter_context(Gateway(data_dir=directory / "data", settings=settings))
    target = Target(gateway, Signer(gateway.access_key, gateway.secret_key), count, seconds)
    tls = None
    if secure:
        tls = ssl.create_default_context()
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    with RawClient(gateway.port, target.signer, tls=tls) as client:
        assert client.request("PUT", f"/{BUCKET}").status == 200
        for key, size in (("small", 4096), ("big", BIG_BYTES)):
            assert client.request("PUT", f"/{BUCKET}/{key}", body=bytes(size)).status == 200
    return target


class _Found:
    """The gateway as its attacker knows it: a port and a directory."""

    def __init__(self, port: int, data_dir: Path) -> None:
        self.port, self.data_dir = port, data_dir


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.long.hostile", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each attack")
    parser.add_argument("--count", type=int, default=10_000, help="connections of the attacks that hold many")
    parser.add_argument(
        "--only", action="append", default=[], metavar="ATTACK", choices=[each.name for each in ATTACKS]
    )
    for name in ("--newcomer", "--port"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    for name in ("--attack", "--request", "--data-dir"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--secure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.newcomer:
        print(json.dumps(newcomer(args.newcomer, args.seconds, Path(args.request).read_bytes(), args.secure)))
        return 0
    if args.attack:
        (attack,) = [each for each in ATTACKS if each.name == args.attack]
        found: object = _Found(args.port, Path(args.data_dir))
        target = Target(found, Signer(ACCESS_KEY, SECRET_KEY), args.count, args.seconds)  # type: ignore[arg-type]
        print(json.dumps(attack.run(target)))
        return 0
    directory = Path(tempfile.mkdtemp(prefix="recall-hostile-"))
    try:
        print(title())
        verdicts = run(args.only, args.seconds, args.count, directory, lambda text: print(text, flush=True))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    faults = sum(len(each.faults) for each in verdicts)
    print(f"{len(verdicts)} attacks, {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
