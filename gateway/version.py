"""Which version of the gateway this is, and in which form it runs.

Owns nothing. Does not know who asks. Kind: pure, but that the installed package is looked at.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util


def package_version() -> str:
    """The version that is installed; "unknown" for a tree that never was."""
    try:
        return importlib.metadata.version("recall-gateway")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def form() -> str:
    """Whether the hot path is compiled."""
    found = importlib.util.find_spec("s3api.message")  # of those that may be compiled, any
    return "interpreted" if found is None or str(found.origin).endswith(".py") else "hot path compiled"
