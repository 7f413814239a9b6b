"""CPU time and memory of processes.

Owns nothing. Does not know what the processes do.
Kind: shell (clocks, /proc). Spec: clock_getcpuclockid(3), proc_pid_smaps(5).
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_CPUCLOCK_SCHED = 2
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)$")


def cpu_s(pid: int) -> float:
    """User and system seconds of a process and all its threads so far, to the nanosecond; 0.0 when it is gone."""
    try:
        # What clock_getcpuclockid makes of a process id; /proc/<pid>/stat counts ticks of 10 ms.
        return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return 0.0


@dataclass(frozen=True)
class Resident:
    """Bytes of a process that are in memory: its own, and pages of files it maps in one folder."""

    own: int
    mapped: int


def resident(pid: int, folder: Path) -> Resident:
    """How much of a process is in memory; pages of files below `folder` are counted apart. Zeros when it is gone."""
    own = mapped = 0
    inside = False
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        lines = []
    for line in lines:
        if found := _MAPPING.match(line):
            inside = found[1].startswith(f"{folder}/")
        elif line.startswith("Rss:"):
            size = int(line.split()[1]) << 10
            own, mapped = (own, mapped + size) if inside else (own + size, mapped)
    return Resident(own, mapped)


def end_orderly() -> None:
    """From now on SIGTERM ends this process as ^C does: what it started is stopped and its folders are removed."""

    def end(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)


def children(pid: int) -> list[int]:
    """The direct children of a process; empty when it is gone."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text(encoding="ascii").split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sorted(found)


def command_line(pid: int) -> list[str]:
    """The arguments of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def cpu_by_role(roles: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """Seconds so far for each role, over its processes."""
    return {role: sum(map(cpu_s, pids)) for role, pids in roles.items()}


def named(name: str) -> list[int]:
    """The processes that run a program of this name."""
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text(encoding="utf-8", errors="replace").strip() == name[:15]:
                found.append(int(comm.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sorted(found)
