"""`python -m bench.load`: the gateway alone: server CPU per request and rate, without peers beside it.

The same cells and rules as `bench.compare`, for looking at one's own change quickly. Owns nothing. Kind: shell.
Spec: bench/README.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.compare import arguments, run


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments("bench.load", (__doc__ or "").splitlines()[0])
    return run(parser, parser.parse_args(argv), ())


if __name__ == "__main__":
    raise SystemExit(main())
