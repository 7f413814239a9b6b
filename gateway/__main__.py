"""`recall` and `python -m gateway`: arguments to command, command to exit status; nothing else.

Exit status: 0 done, 1 failed, 2 the arguments, settings or credentials are wrong, 3 the data directory is in use.

Owns nothing. Does not know what a command does (`gateway.commands`). Kind: shell. Spec: docs/OPERATIONS.md, "Commands".
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gateway import commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    options = commands.parser().parse_args(arguments)
    return commands.run(options)


if __name__ == "__main__":
    sys.exit(main())
