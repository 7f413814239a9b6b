"""`python -m tests.support.fake_gateway serve …`: the real command line and supervisor over the children of `fake_child`.

Owns nothing. Does not know the engine. Kind: shell (test support).
"""

from __future__ import annotations

import sys

from gateway import commands

if __name__ == "__main__":
    options = commands.parser().parse_args()
    options.runner = "tests.support.fake_child"
    sys.exit(commands.run(options))
