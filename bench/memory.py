"""Makes a virtual machine's memory its own before anything is measured.

A hypervisor gives a guest each page when it is first touched. That happens inside the copy of whoever touches it, so it is
counted as that process's CPU: a 2 MiB write into the page cache cost 5.4 ms instead of 0.6. Which process pays is chance.

Owns nothing. Kind: shell. Spec: bench/README.md, "Noise".
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys


def touch(size: int) -> None:
    """Writes to every page of `size` bytes of memory, at most half of what is free, in a process that gives it back."""
    free = os.sysconf("SC_AVPHYS_PAGES") * mmap.PAGESIZE
    subprocess.run([sys.executable, "-m", "bench.memory", str(min(size, free // 2))], check=True)


def main() -> None:
    size = int(sys.argv[1]) // mmap.PAGESIZE * mmap.PAGESIZE
    with mmap.mmap(-1, size) as memory, memoryview(memory) as view:
        view[:: mmap.PAGESIZE] = bytes(size // mmap.PAGESIZE)


if __name__ == "__main__":
    main()
