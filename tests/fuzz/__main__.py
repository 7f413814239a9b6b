"""`python -m tests.fuzz --minutes N`: every target in turn, led by what its inputs reach; see docs/OPERATIONS.md.

Each target runs in a child process of its own, under atheris where it is installed, else by blind mutation. A line says
how it went; what reached something new is added to the corpus, and the shortest input that shows a fault is saved.

Kind: shell. Owns `corpus/` while it runs, and `findings/`.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, Final

from tests.fuzz import corpus, trial

FINDINGS: Final = Path(__file__).with_name("findings")
MEMORY_BYTES_MAX: Final = 4 << 30
"""Address space of a child: an input that wants more is a finding."""
SHORTEN_S: Final = 30.0
CORPUS_BYTES_MAX: Final = 16 << 10
"""Of one target: what is new beyond that is left out, the longest first."""
SLACK_S: Final = 120
SOURCES: Final = ("s3api", "gateway", "tiering")


def main() -> int:
    """0: no target showed a fault; 1: one did; 2: there is no such target."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the parsers.")
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target (1)")
    parser.add_argument("--target", action="append", help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, help="of the mutations; printed, to run them again")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1, 1 << 31)
    seconds = max(1, round(options.minutes * 60))
    if options.child is not None:
        _child(options.target[0], options.child, seconds, seed)
        return 0
    from tests.fuzz.targets import TARGETS

    names = options.target or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        print(f"there is no target {', '.join(unknown)}; there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    guided = importlib.util.find_spec("atheris") is not None
    print(
        f"seed {seed}, {seconds} s a target, " + ("led by coverage" if guided else "blind: atheris is not installed"),
        flush=True,
    )
    return max([_fuzz(name, seconds, seed) for name in names])


# --- one target, from outside -----------------------------------------------------------------------------------------


def _fuzz(name: str, seconds: int, seed: int) -> int:
    """Runs a child, and says what came of it."""
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="recall-fuzz-") as folder:
        work = Path(folder)
        (work / "inputs").mkdir()
        for number, data in enumerate([*target.seeds, *corpus.load(name)]):
            (work / "inputs" / f"{number:05d}").write_bytes(data)
        command = [sys.executable, "-m", "tests.fuzz", "--child", folder, "--target", name]
        command += ["--minutes", str(seconds / 60), "--seed", str(seed)]
        with open(work / "log", "wb") as log:
            try:
                code = subprocess.run(
                    command, stdout=log, stderr=log, timeout=seconds + SLACK_S, check=False
                ).returncode
            except subprocess.TimeoutExpired:
                code = -1
        counted = work / "count"
        ran = int(counted.read_text()) if counted.exists() else 0
        finding = work / "finding"
        if code or finding.exists():
            return _found(name, finding.read_bytes() if finding.exists() else None, ran, work / "log")
        added = _keep(name, [each.read_bytes() for each in (work / "inputs").iterdir()])
    print(f"{name}: fine, {ran} inputs, {added} kept anew", flush=True)
    return 0


def _found(name: str, data: bytes | None, ran: int, log: Path) -> int:
    from tests.fuzz.targets import TARGETS

    if data is None:
        tail = log.read_text("utf-8", "replace")[-2000:]
        print(f"{name}: FAULT, the process ended after {ran} inputs and left no input\n{tail}", flush=True)
        return 1
    short = trial.shortest(TARGETS[name].run, data, SHORTEN_S)
    fault = trial.fault_of(TARGETS[name].run, short)
    FINDINGS.mkdir(exist_ok=True)
    path = FINDINGS / f"{name}.bin"
    path.write_bytes(short)
    why = "not seen again alone" if fault is None else "".join(traceback.format_exception(fault, limit=-4)).rstrip()
    print(f"{name}: FAULT after {ran} inputs, in {path}: b'{corpus.shown(short)[:300]}'\n{why}", flush=True)
    return 1


def _keep(name: str, inputs: list[bytes]) -> int:
    """Adds to the corpus what reaches lines, in an order, that nothing before it does; returns how many."""
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    kept = corpus.load(name)
    seen: collections.Counter[Any] = collections.Counter()
    for data in (*target.seeds, *kept):
        seen.update(_steps(target.run, data))
    size = sum(map(len, kept))
    new = []
    for data in sorted(set(inputs) - set(kept) - set(target.seeds), key=len):
        steps = _steps(target.run, data)
        if steps - seen.keys() and size + len(data) <= CORPUS_BYTES_MAX:
            seen.update(steps)
            size += len(data)
            new.append(data)
    if new:
        corpus.save(name, kept + new)
    return len(new)


def _steps(run: Any, data: bytes) -> set[Any]:
    """The pairs of lines of our sources that followed each other."""
    steps: set[Any] = set()
    root = str(Path(__file__).parents[2])
    ours: dict[str, bool] = {}

    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        file = frame.f_code.co_filename
        known = ours.get(file)
        if known is None:
            known = ours[file] = any(file.startswith(f"{root}/{source}/") for source in SOURCES)
        if not known:
            return None
        last = 0

        def line(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal last
            steps.add((frame.f_code, last, frame.f_lineno))
            last = frame.f_lineno
            return line

        return line

    sys.settrace(enter)
    try:
        trial.fault_of(run, data)
    finally:
        sys.settrace(None)
    return steps


# --- one target, from inside ------------------------------------------------------------------------------------------


def _child(name: str, work: Path, seconds: int, seed: int) -> None:
    """Runs until the time is over or a fault is found, which it leaves in `work`."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    count = 0
    started = time.monotonic()
    until = started + seconds
    noted = started

    def one(data: bytes) -> None:
        nonlocal count, noted
        count += 1
        now = time.monotonic()
        if now - noted > 1:
            noted = now
            (work / "count").write_text(str(count))
        fault = trial.fault_of(target.run, data)
        if fault is not None:
            (work / "count").write_text(str(count))
            (work / "finding").write_bytes(data)
            raise fault

    if importlib.util.find_spec("atheris") is None:
        from tests.fuzz.targets import TARGETS

        target = TARGETS[name]
        inputs = [each.read_bytes() for each in sorted((work / "inputs").iterdir())]
        chance = random.Random(seed)
        while time.monotonic() < until:
            one(corpus.mutated(chance, inputs, target.words))
        (work / "count").write_text(str(count))
        return

    import atheris

    with atheris.instrument_imports(include=list(SOURCES)):
        from tests.fuzz.targets import CUT, TARGETS

    target = TARGETS[name]
    words = work / "words"
    lines = ["".join(f"\\x{byte:02x}" for byte in word) for word in (*target.words, CUT)]
    words.write_text("".join(f'"{line}"\n' for line in lines))
    atheris.Setup(
        [sys.argv[0], str(work / "inputs"), f"-max_total_time={seconds}", f"-seed={seed}", f"-dict={words}",
         f"-max_len={corpus.INPUT_BYTES_MAX}", "-timeout=60", "-rss_limit_mb=0", f"-artifact_prefix={work}/"],
        one,
    )  # fmt: skip
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
