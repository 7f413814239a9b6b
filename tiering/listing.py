"""One page of an ordered listing with prefix and delimiter, straight from the index.

Promise: a page costs O(what it returns), because a cursor jumps over everything below a common prefix it has given out.
Owns nothing. Does not know tokens, encodings or limits of a protocol. Kind: pure, over a View.
Spec: docs/SEMANTICS.md, "Listings"; AWS ListObjectsV2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tiering import layout, versions
from tiering.contract import Listing, ListOptions, ListVersionsOptions, ObjectInfo, Version, VersionListing
from tiering.index import View
from tiering.layout import ObjectRecord


def common_prefix(key: str, prefix: str, delimiter: str) -> str:
    """What `key` is rolled up into; "" when it stands for itself."""
    if not delimiter:
        return ""
    at = key.find(delimiter, len(prefix))
    return key[: at + len(delimiter)] if at >= 0 else ""


def successor(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`. UTF-8 has no byte 0xFF, so the last byte can grow."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


def list_objects(
    view: View, bucket_number: int, options: ListOptions, shown: Callable[[ObjectRecord], bool]
) -> Listing:
    """`shown` hides records that readers may not see. Nothing is listed at or before `options.after`."""
    if options.limit <= 0:
        return Listing((), (), False)
    base = layout.bucket_prefix(bucket_number)
    wanted = base + options.prefix.encode()
    seek = max(wanted, base + options.after.encode())
    objects: list[tuple[str, ObjectInfo]] = []
    prefixes: list[str] = []
    last = ""
    with view.cursor("objects") as cursor:
        found = cursor.set_range(seek)
        while found:
            raw = cursor.key()
            if not raw.startswith(wanted):
                break
            key = raw[4:].decode()
            common = common_prefix(key, options.prefix, options.delimiter)
            if common and options.after.startswith(common):  # what the place lies in was given out before it
                found = cursor.set_range(successor(base + common.encode()))
                continue
            if key <= options.after:
                found = cursor.next()
                continue
            record: ObjectRecord = layout.OBJECT.decode(cursor.value())
            if not shown(record):
                found = cursor.next()
                continue
            if len(objects) + len(prefixes) == options.limit:
                return Listing(objects, prefixes, True, last)
            if common:
                prefixes.append(common)
                last = common
                found = cursor.set_range(successor(base + common.encode()))
            else:
                objects.append((key, record))
                last = key
                found = cursor.next()
    return Listing(objects, prefixes, False)


def list_versions(
    view: View, bucket_number: int, options: ListVersionsOptions, shown: Callable[[ObjectRecord], bool]
) -> VersionListing:
    """As `list_objects`, of every version and delete marker; a version costs what a key does."""
    if options.limit <= 0:
        return VersionListing((), (), False)
    base = layout.bucket_prefix(bucket_number)
    wanted = base + options.prefix.encode()
    page = _VersionPage(options.limit)
    with view.cursor("objects") as cursor:
        found = cursor.set_range(max(wanted, base + options.key_after.encode()))
        while found:
            okey = cursor.key()
            if not okey.startswith(wanted):
                break
            key = okey[4:].decode()
            common = common_prefix(key, options.prefix, options.delimiter)
            if common and options.key_after.startswith(common):  # what the place lies in was given out before it
                found = cursor.set_range(successor(base + common.encode()))
                continue
            if key < options.key_after or (key == options.key_after and options.version_after is None):
                found = cursor.next()
                continue
            after = options.version_after if key == options.key_after else None
            if common:
                if any(True for _ in _versions_of(view, okey, after, shown)):
                    if not page.add_prefix(common):
                        return page.answer(True)
                    found = cursor.set_range(successor(base + common.encode()))
                else:
                    found = cursor.next()
                continue
            for row, record in _versions_of(view, okey, after, shown):
                if not page.add(Version(key, record, row == okey)):
                    return page.answer(True)
            found = cursor.next()
    return page.answer(False)


class _VersionPage:
    """A page being filled; what does not fit is refused."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._versions: list[Version] = []
        self._prefixes: list[str] = []
        self._last: tuple[str, str | None] = ("", None)

    def add(self, version: Version) -> bool:
        if not self._left:
            return False
        self._left -= 1
        self._versions.append(version)
        self._last = version.key, version.info.version
        return True

    def add_prefix(self, prefix: str) -> bool:
        if not self._left:
            return False
        self._left -= 1
        self._prefixes.append(prefix)
        self._last = prefix, None
        return True

    def answer(self, truncated: bool) -> VersionListing:
        last = self._last if truncated else ("", None)
        return VersionListing(self._versions, self._prefixes, truncated, *last)


def _versions_of(
    view: View, okey: bytes, after: str | None, shown: Callable[[ObjectRecord], bool]
) -> Iterator[tuple[bytes, ObjectRecord]]:
    """The versions of one key that readers may see, newest first; those older than version `after`, if it is given.

    A version that was deleted since it was listed still tells its place; of a null version that is gone nobody knows it,
    and all are given rather than one forgotten.
    """
    before = None
    if after is not None:
        known = versions.find(view, okey, after)
        before = known[1].generation if known is not None else versions.generation_of(after)
    current = view.object(okey)
    if current is not None and (before is None or current.generation < before) and shown(current):
        yield okey, current
    for row, record in versions.older(view, okey, before):
        if shown(record):
            yield row, record
