"""Runs the native load generator: compiles it when needed, hands it prepared requests, reads its figures.

Owns the compiled program, in a cache folder beside the source's hash. Does not know what the requests mean.
Kind: shell. Spec: bench/native/loadgen.c.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent / "native" / "loadgen.c"
_GRACE_S = 60.0  # above the run itself: the loader drains and gives up by itself well before


class LoaderMissing(Exception):
    """No C compiler: there is no other loader, and a slower one would measure itself."""


@dataclass(frozen=True)
class Plan:
    """What to send and what to expect. Each head is followed by `body`. `expect_bytes` -1: any length."""

    heads: Sequence[bytes]
    body: bytes = b""
    resp: bool = False
    head_only: bool = False
    expect_status: int = 200
    expect_bytes: int = -1


@dataclass(frozen=True)
class Load:
    """What the loader saw. Latencies are of successful requests, from first byte sent to last byte read."""

    seconds: float
    ok: int
    bad: int
    first_bad: str
    body_bytes: int
    connects: int
    p50_us: float
    p90_us: float
    p99_us: float
    max_us: float

    @property
    def rate(self) -> float:
        return self.ok / self.seconds if self.seconds else 0.0


def build() -> Path:
    """The compiled loader; compiled once for each version of its source."""
    digest = hashlib.blake2b(SOURCE.read_bytes(), digest_size=8).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"recall-bench-{os.getuid()}"
    program = folder / f"loadgen-{digest}"
    if program.exists():
        return program
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise LoaderMissing("the load generator needs a C compiler (cc); install gcc")
    folder.mkdir(mode=0o700, exist_ok=True)
    built = folder / f"{program.name}.{os.getpid()}"
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(built), str(SOURCE)], check=True)
    built.replace(program)
    return program


def encode_requests(heads: Sequence[bytes]) -> bytes:
    """The loader's requests file: count, lengths, bytes."""
    return struct.pack(f"<{1 + len(heads)}I", len(heads), *map(len, heads)) + b"".join(heads)


def run(program: Path, port: int, plan: Plan, connections: int, seconds: float, folder: Path) -> Load:
    """Loads 127.0.0.1:`port` for `seconds`; its files stand in `folder` meanwhile."""
    requests, body = folder / f"{id(plan):x}.requests", folder / f"{id(plan):x}.body"
    requests.write_bytes(encode_requests(plan.heads))
    arguments = [str(program), "--port", str(port), "--connections", str(connections), "--seconds", str(seconds)]
    arguments += ["--requests", str(requests), "--expect-status", str(plan.expect_status)]
    arguments += ["--expect-bytes", str(plan.expect_bytes)]
    if plan.body:
        body.write_bytes(plan.body)
        arguments += ["--body", str(body)]
    arguments += ["--resp"] if plan.resp else []
    arguments += ["--head"] if plan.head_only else []
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=seconds + _GRACE_S, check=True)
    finally:
        requests.unlink(missing_ok=True)
        body.unlink(missing_ok=True)
    return Load(**json.loads(done.stdout))
