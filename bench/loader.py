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
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent / "native" / "loadgen.c"
ONCE_S = 60.0
"""What a run that sends each request once may take."""
_GRACE_S = 60.0  # above the run itself: the loader drains and gives up by itself well before


class LoaderMissing(Exception):
    """No C compiler: there is no other loader, and a slower one would measure itself."""


@dataclass(frozen=True)
class Open:
    """An open loop: requests a second on average, whatever becomes of them, and how long each is waited for. `lead_s`: it lasts so
    much longer, and counted is only what happens after that and before the last is sent."""

    rate: float
    patience_s: float
    lead_s: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What to send and what to expect. Each head is followed by `body`. `expect_bytes` -1: any length.

    `expect_status` below 10 is a class: 2 is any of 200 to 299. `reply`: the peer speaks no HTTP, and every right reply
    begins with those bytes and is `reply_bytes` long. `once`: each request once, then the run ends. `before`: what is
    sent first, each request once, and not measured. `driver`: the peer is no server but a library, and this command
    takes the loader's place; it is given `--connections` and `--seconds` and prints what the loader prints.
    `open_loop`: requests do not wait for the replies before them.
    """

    heads: Sequence[bytes] = ()
    body: bytes = b""
    reply: bytes = b""
    reply_bytes: int = 0
    head_only: bool = False
    expect_status: int = 200
    expect_bytes: int = -1
    once: bool = False
    before: Plan | None = None
    driver: Sequence[str] = ()
    open_loop: Open | None = None


@dataclass(frozen=True)
class Load:
    """What the loader saw. Latencies are of successful requests, from first byte sent to last byte read.

    `first_byte_us` is the median until the reply begins. Of an open loop: `sent` of those that became due, `unsent` found every
    connection taken, and `lag_p99_us` is from due to sent, which is the loader's own slowness. `refused` were answered 503, `late`
    had no reply in time after they were sent; `answered` are all right replies, also those that are not counted.
    """

    seconds: float
    ok: int
    bad: int
    first_bad: str
    body_bytes: int
    connects: int
    first_byte_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
    refused: int = 0
    refused_p50_us: float = 0.0
    refused_p99_us: float = 0.0
    late: int = 0
    sent: int = 0
    unsent: int = 0
    lag_p99_us: float = 0.0
    answered: int = 0

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
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(built), str(SOURCE), "-lm"], check=True)
    built.replace(program)
    return program


def encode_requests(heads: Sequence[bytes]) -> bytes:
    """The loader's requests file: count, lengths, bytes."""
    return struct.pack(f"<{1 + len(heads)}I", len(heads), *map(len, heads)) + b"".join(heads)


def run(
    program: Path,
    address: tuple[str, int],
    plan: Plan,
    connections: int,
    seconds: float,
    folder: Path,
    cpus: Collection[int] = (),
    awake: bool = False,
) -> Load:
    """Loads an IPv4 address and port for `seconds`; its files stand in `folder` meanwhile. `cpus`: where it may run. `awake`: it
    never sleeps, which takes a core of its own."""
    if plan.once:
        seconds = ONCE_S
    arguments = ["--connections", str(connections), "--seconds", str(seconds)]
    with tempfile.TemporaryDirectory(dir=folder) as files:
        arguments = [*(plan.driver or _native(program, address, plan, Path(files), awake)), *arguments]
        pin = ["taskset", "--cpu-list", ",".join(map(str, cpus))] if cpus else []
        lead_s = plan.open_loop.lead_s if plan.open_loop is not None else 0.0
        done = subprocess.run(
            [*pin, *arguments], capture_output=True, timeout=lead_s + seconds + _GRACE_S, check=not plan.driver
        )
    if done.returncode:  # a peer's own program: its failure is a figure of that peer
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return Load(seconds, 0, 1, said[-1] if said else f"exit {done.returncode}", 0, 0, *[0.0] * 6)
    return Load(**json.loads(done.stdout.splitlines()[-1]))


def _native(program: Path, address: tuple[str, int], plan: Plan, files: Path, awake: bool) -> list[str]:
    requests, body = files / "requests", files / "body"
    requests.write_bytes(encode_requests(plan.heads))
    arguments = [str(program), "--host", address[0], "--port", str(address[1]), "--requests", str(requests)]
    arguments += ["--expect-status", str(plan.expect_status), "--expect-bytes", str(plan.expect_bytes)]
    if plan.body:
        body.write_bytes(plan.body)
        arguments += ["--body", str(body)]
    if plan.reply:
        arguments += ["--reply-prefix", plan.reply.decode("ascii"), "--reply-bytes", str(plan.reply_bytes)]
    arguments += ["--head"] if plan.head_only else []
    arguments += ["--once"] if plan.once else []
    arguments += ["--awake"] if awake else []
    if plan.open_loop is not None:
        how = plan.open_loop
        arguments += ["--rate", str(how.rate), "--patience", str(how.patience_s), "--lead", str(how.lead_s)]
    return arguments
