"""Power losses for as long as you like: `make power ARGS='--minutes 20 --seed 1'`.

A segment: the mixed load of `tests.long` is recorded for some seconds, then the power is cut at many points of the record; the
next segment often goes on from the last of them. Exit status 1 at the first loss, torn byte or fault of `recall check`; image
and record are then kept.

Kind: shell of the tests. Spec: docs/RELIABILITY.md.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.power.run import attack


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--points", type=int, default=60, help="points a segment")
    parser.add_argument("--seconds", type=float, default=6.0, help="seconds of load a segment")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    path = Path(tempfile.mkdtemp(prefix="recall-power-"))
    if attack(options.seed, options.minutes, path, options.seconds, options.points):
        shutil.rmtree(path)
        return 0
    print(f"kept: {path}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
