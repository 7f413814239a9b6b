"""Rows: what was encoded comes back, however early the row ends."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tiering.contract import Checksum, Encryption, Lock, PartInfo, Residency
from tiering.layout import OBJECT, ColdPiece, Extent, ObjectRecord

PLAIN: dict[str, Any] = {"generation": 1 << 60, "size": 5, "modified_ms": 7, "etag": "e", "crc64": 1 << 63}
OTHERS: dict[str, Any] = {
    "extents": (Extent(1, 64, 5, 9),),
    "cold": (ColdPiece("b/k", 5, b"\xc2\xa0"),),
    "residency": Residency.BOTH,
    "checksum": Checksum("CRC32", "AAAAAA=="),
    "parts": (PartInfo(1, 5, "e", 7),),
    "lock": Lock(),
    "encryption": Encryption("AES256", size=5),
}
OWN = {bool: True, int: 1, str: "\u00a0", dict: {"k": "\u1800"}}


def other(name: str) -> Any:
    """A value of a field that is not its default."""
    default = getattr(ObjectRecord(**PLAIN), name)
    return OTHERS[name] if name in OTHERS else OWN[type(default)]


@pytest.mark.parametrize("name", [name for name in ObjectRecord.__struct_fields__ if name not in PLAIN])
def test_object_comes_back_with_any_one_of_its_fields_set(name: str) -> None:
    record = ObjectRecord(**PLAIN, **{name: other(name)})
    assert record != ObjectRecord(**PLAIN)
    assert OBJECT.decode(OBJECT.encode(record)) == record


def test_object_with_all_fields_set_comes_back() -> None:
    record = ObjectRecord(**PLAIN, **{n: other(n) for n in ObjectRecord.__struct_fields__ if n not in PLAIN})
    assert OBJECT.decode(OBJECT.encode(record)) == record


def test_row_of_a_block_ends_where_only_defaults_would_follow() -> None:
    places = ObjectRecord.__struct_fields__.index
    ends = {"content_type": {}, "parts": {"tags": {"k": "v"}}, "upload_id": {"acl": "a"}}
    for end, fields in ends.items():
        row = OBJECT.encode(ObjectRecord(**PLAIN, **fields))
        assert len(msgspec.msgpack.decode(row)) == places(end)
