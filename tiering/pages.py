"""An LMDB file as pages, read without LMDB: what is wrong with it, and the rows that can still be read.

Promise: nothing in the file can end this process, or make it read without end. `faults` knows pages that hold no row too:
LMDB's own book of free pages may be older than the rows, and the next commit would then write over what is in use. `salvage`
passes over what it cannot follow and says how much that was.
Owns nothing. Does not know records. Kind: pure over a file that nobody writes to meanwhile.
Spec: `lmdb.verify`, whose walk over the pages this is; there are no checksums in LMDB, so a changed byte inside a value is no
fault here.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO, Final

import lmdb.verify
import msgspec

_verify: Any = lmdb.verify  # it has no types
_BIG: Final = _verify.F_BIGDATA
_SUB: Final = _verify.F_SUBDATA


class Salvage(msgspec.Struct):
    """`rows`: key → value, by database. `unread`: by database, how many rows there should be besides; None: not known."""

    rows: dict[str, dict[bytes, bytes]]
    unread: dict[str, int | None]


def faults(path: Path) -> list[str]:
    """What is wrong with the pages of an environment."""
    try:
        return list(_verify.verify(str(path)))
    except (OSError, _verify.VerifyError) as error:
        return [str(error)]


def salvage(path: Path, databases: Collection[str]) -> Salvage:
    """The rows of some databases of an environment, as of its newest commit."""
    found = Salvage({name: {} for name in databases}, dict.fromkeys(databases))
    try:
        with open(path / "data.mdb", "rb") as file:
            walk = _Walk(file, (path / "data.mdb").stat().st_size, found)
            walk.verify()
    except (OSError, _verify.VerifyError):
        return found
    for name, claimed in walk.claimed.items():
        found.unread[name] = max(0, claimed - len(found.rows[name]))
    return found


class _Walk(_verify._Verifier):  # type: ignore[misc]
    """The verifier's walk, which goes on behind each fault; it hands out what it passes."""

    full = False  # it would stop after so many faults

    def __init__(self, file: BinaryIO, size: int, found: Salvage) -> None:
        super().__init__(file, size)
        # As the verifier calls them: LMDB 1.0 keeps the zero at the end of a name, which it then shows in hexadecimal.
        self._names = {f"main/{shown}": name for name in found.rows for shown in (name, f"{name}\0".encode().hex())}
        self._found = found
        self.claimed: dict[str, int] = {}

    def _verify_tree(self, name: str, db: Any, *rest: Any, **options: Any) -> Any:
        if name in self._names:
            self.claimed[self._names[name]] = db.entries
        return super()._verify_tree(name, db, *rest, **options)

    def _leaf_value(
        self, ctx: Any, pgno: int, i: int, buf: bytes, o: int, nflags: int, ksize: int, dsize: int, key: bytes
    ) -> None:
        rows = self._found.rows.get(self._names.get(ctx["name"], ""))
        if rows is None or nflags & _SUB:
            super()._leaf_value(ctx, pgno, i, buf, o, nflags, ksize, dsize, key)
            return
        at = o + 8 + (ksize + (ksize & 1) if self.eng["has_txnid"] else ksize)
        if nflags & _BIG:
            value = self._bigdata(ctx, pgno, i, buf, at, dsize, want_bytes=True)
        else:
            value = bytes(buf[at : at + dsize]) if at + dsize <= self.psize else None
        if value is not None:
            rows[key] = value
