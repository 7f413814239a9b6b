"""CPU time of processes, from `/proc/<pid>/stat`.

Owns nothing. Does not know what the processes do.
Kind: shell (reads /proc). Spec: proc_pid_stat(5): utime and stime, all threads, in clock ticks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_UTIME, _STIME = 11, 12  # places after the command's closing parenthesis, from the state on


def cpu_s(pid: int) -> float:
    """User and system seconds of a process so far; 0.0 when it is gone. Resolution: one tick, 10 ms on most kernels."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = text.rpartition(")")[2].split()  # the command may hold spaces and parentheses
    return (int(fields[_UTIME]) + int(fields[_STIME])) * _TICK_S


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
