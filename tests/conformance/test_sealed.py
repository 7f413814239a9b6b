"""Every store is a store: what is said of sealed bytes is kept with them, and only lengths that clients know are the content's."""

from __future__ import annotations

import pytest

from tests.conformance.steps import head, put, settled
from tiering import contract as c
from tiering.contract import (
    CompleteOptions,
    Conditions,
    CopyOptions,
    DeleteOptions,
    Encryption,
    PartClaim,
    PutOptions,
    PutResult,
    Store,
)

SEALED = Encryption("aws:kms", "key", b"\0wrapped\xff", 3, "Y29udGV4dA==", True)
"""Of six stored bytes."""


async def test_what_was_put_under_is_kept(store: Store) -> None:
    info = await put(store, "k", b"sealed", PutOptions(encryption=SEALED))
    assert (info.encryption, info.size, c.content_bytes(info)) == (SEALED, 6, 3)
    assert await head(store, "k") == info
    assert (await put(store, "k", b"plain")).encryption is None


async def test_a_bodys_reader_has_the_last_word(store: Store) -> None:
    for size in (6, 20_000_000):
        writer = await settled(store.put("b", "k", size, PutOptions(encryption=SEALED)))
        waiting = writer.write(b"sealed")
        if waiting is not None:
            await waiting
        known = Encryption("AES256", "other", b"wrapped", 4)
        info = await writer.commit(PutResult("etag", short=True, encryption=known))
        assert (info.encryption, info.size) == (known, 6)
        assert (await head(store, "k")).encryption == known


async def test_a_copy_of_the_bytes_is_a_copy_of_how_they_are_sealed(store: Store) -> None:
    await put(store, "k", b"sealed", PutOptions(encryption=SEALED))
    for options in (CopyOptions(), CopyOptions(replace=PutOptions(content_type="text/x"))):
        assert (await store.copy(("b", "k"), ("b", "copy"), options)).encryption == SEALED


@pytest.mark.parametrize("whole", [None, Encryption("AES256", "key", b"wrapped", 99)])
async def test_a_completion_may_say_it_of_the_whole(store: Store, whole: Encryption | None) -> None:
    upload = await store.begin_upload("b", "k", PutOptions(encryption=SEALED))
    assert store.upload("b", "k", upload.upload_id).options.encryption == SEALED
    writer = await settled(store.put_part("b", "k", upload.upload_id, 1, 6))
    waiting = writer.write(b"sealed")
    if waiting is not None:
        await waiting
    part = await writer.commit(PutResult("etag"))
    claims = [PartClaim(1, part.etag)]
    options = CompleteOptions("whole-1", encryption=whole)
    info = await store.complete_upload("b", "k", upload.upload_id, claims, options)
    assert info.encryption == (whole or SEALED)
    assert (await head(store, "k")).encryption == (whole or SEALED)


async def test_a_size_that_a_delete_states_is_the_contents(store: Store) -> None:
    await put(store, "k", b"sealed", PutOptions(encryption=SEALED))
    with pytest.raises(c.PreconditionFailed):
        await store.delete("b", "k", DeleteOptions(Conditions(if_match_size=6)))
    assert (await store.delete("b", "k", DeleteOptions(Conditions(if_match_size=3)))).found
