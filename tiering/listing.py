"""One page of an ordered listing with prefix and delimiter, straight from the index.

Promise: a page costs O(what it returns), because a cursor jumps over everything below a common prefix it has given out.
Owns nothing. Does not know tokens, encodings or limits of a protocol. Kind: pure, over a View.
Spec: docs/SEMANTICS.md, "Listings"; AWS ListObjectsV2.
"""

from __future__ import annotations

from collections.abc import Callable

from tiering import layout
from tiering.contract import Listing, ListOptions, ObjectInfo
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
            raw = bytes(cursor.key())
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
