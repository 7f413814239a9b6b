"""Continuation tokens: round trip, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3api.errors import S3Error
from s3api.paging import decode_token, encode_token


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_token_round_trip(place: str) -> None:
    token = encode_token(place)
    assert token.isascii()
    assert decode_token(token) == place


@pytest.mark.parametrize(
    "token", ["", "x", "!!!!", "AAAA", "AQ", "key/name", encode_token("a")[:-1], "A" * 5000, "é", "Af8="]
)
def test_other_text_is_no_token(token: str) -> None:
    with pytest.raises(S3Error) as caught:
        decode_token(token)
    assert caught.value.spec.code == "InvalidArgument"


@given(st.text(max_size=100))
def test_decode_never_raises_anything_else(token: str) -> None:
    try:
        decode_token(token)
    except S3Error:
        pass
