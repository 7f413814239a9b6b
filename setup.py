"""Compiles the hot path where RECALL_COMPILE is set; everything else about the project is in pyproject.toml.

Owns the list of what is compiled. The sources are the same either way and pass the same tests: a module is listed where that
was measured to save time, not because it could be. See docs/decisions/0014-compiled-hot-path.md.
Kind: shell.
"""

from __future__ import annotations

import os
import sys

from setuptools import Extension, setup

HOT = (
    "gateway/http/connections.py",
    "gateway/http/flow.py",
    "gateway/http/alike.py",
    "gateway/http/head.py",
    "gateway/http/line.py",
    "gateway/http/protocol.py",
    "gateway/http/render.py",
    "gateway/http/spans.py",
    "gateway/http/tcp.py",
    "s3api/access.py",
    "s3api/call.py",
    "s3api/facts.py",
    "s3api/handlers/fields.py",
    "s3api/handlers/listing.py",
    "s3api/handlers/objects.py",
    "s3api/message.py",
    "s3api/moment.py",
    "s3api/params.py",
    "s3api/payload.py",
    "s3api/pipeline.py",
    "s3api/precedent.py",
    "s3api/preconditions.py",
    "s3api/sigv4.py",
    "s3api/target.py",
    "s3api/xml.py",
    "tiering/buckets.py",
    "tiering/checksum.py",
    "tiering/committer.py",
    "tiering/conditions.py",
    "tiering/epochs.py",
    "tiering/flash.py",
    "tiering/heat.py",
    "tiering/index.py",
    "tiering/listing.py",
    "tiering/mutations.py",
    "tiering/pool.py",
    "tiering/space.py",
    "tiering/store.py",
    "tiering/writeback.py",
    "tiering/writer.py",
)

GROUPS = ("gateway", "s3api", "tiering")
"""Compiled together, and side by side with the others: what is within one calls each other without Python between."""

extensions: list[Extension] = []
if os.environ.get("RECALL_COMPILE"):
    from mypyc.build import mypycify

    groups = [([path for path in HOT if path.startswith(f"{group}/")], group) for group in GROUPS]
    extensions = mypycify(list(HOT), opt_level="2", debug_level="0", separate=groups)
    if sys.byteorder == "little":  # as MD5's words are; elsewhere hashlib does it
        extensions.append(Extension("s3api._md5", ["s3api/_md5.c"], extra_compile_args=["-O3"]))
    extensions.append(Extension("s3api._sha256", ["s3api/_sha256.c"], extra_compile_args=["-O3"]))
    extensions.append(Extension("tiering._crc64", ["tiering/_crc64.c"], extra_compile_args=["-O3"]))
    extensions.append(Extension("tiering._resident", ["tiering/_resident.c"], extra_compile_args=["-O3"]))

setup(ext_modules=extensions)
