"""Rows: what was encoded comes back, however early the row ends."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tiering import layout
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


@pytest.mark.parametrize(
    ("etag", "saved"),
    [("0123456789abcdef" * 2, 16), ("0123456789ABCDEF" * 2, 0), ("x" * 32, 0), ("0123456789abcdef" * 2 + "-2", 0)],
)
def test_md5_is_kept_as_its_bytes_and_any_other_etag_as_it_is(etag: str, saved: int) -> None:
    record = ObjectRecord(**PLAIN | {"etag": etag})
    row = OBJECT.encode(record)
    assert OBJECT.decode(row) == record
    assert len(row) == len(OBJECT.encode(ObjectRecord(**PLAIN | {"etag": "y" * len(etag)}))) - saved
    described = ObjectRecord(**PLAIN | {"etag": etag}, content_type="text/plain")
    assert OBJECT.decode(OBJECT.encode(described)) == described


@pytest.mark.parametrize("region", [0, 7, (1 << 31) - 1])
def test_place_that_is_owed_is_told_from_any_object_key(region: int) -> None:
    record = ObjectRecord(**PLAIN, extents=(Extent(region, 128, 5, 9),))
    owed = layout.owed_by_place(record)
    assert owed is not None and layout.place_owed(owed) == layout.place_key(region, 128)
    for key in ("k", "four", "\U0010ffff", "\0\0\0@"):
        okey = layout.object_key((1 << 31) - 1, key)
        assert layout.place_owed(okey) is layout.place_owed(layout.older_key(okey, 1)) is None


@pytest.mark.parametrize("etag", [5, None, ["e"]])
def test_row_with_an_etag_of_another_kind_is_refused(etag: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        OBJECT.decode(msgspec.msgpack.encode(((), (), False, 1, 5, 7, etag, 9, 0)))
