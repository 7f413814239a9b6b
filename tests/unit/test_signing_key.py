"""`SigningKey` against hmac: with the compiled part where it is built, else with what stands in for it."""

from __future__ import annotations

import hashlib
import hmac
import random
from typing import Any

import pytest

from s3api import sigv4
from s3api.sigv4 import SigningKey

compiled = pytest.mark.skipif(sigv4.native is None, reason="not compiled here, or no instructions for it")


def expected(secret: str, text: bytes) -> str:
    key = b"AWS4" + secret.encode()
    for word in (b"20260101", b"us-east-1", b"s3", b"aws4_request"):
        key = hmac.digest(key, word, "sha256")
    return hmac.digest(key, text, "sha256").hex()


def test_signatures_of_texts_of_every_length() -> None:
    key = SigningKey("secret", b"20260101", b"us-east-1", b"s3")
    for size in range(300):
        text = random.Random(size).randbytes(size)
        assert key.sign(text) == expected("secret", text)
        hashed = hashlib.sha256(text).hexdigest().encode()
        for begins in (b"", b"begins", text[:70]):
            assert key.sign_request(begins, text) == expected("secret", begins + hashed)


@pytest.mark.parametrize("secret", ["", "s", "x" * 200, "ü"])
def test_any_secret(secret: str) -> None:
    key = SigningKey(secret, b"20260101", b"us-east-1", b"s3")
    assert key.sign(b"text") == expected(secret, b"text")


@compiled
def test_the_key_of_c_is_that_of_hmac() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(2000):
        key, text, other = (rng.randbytes(rng.randrange(limit)) for limit in (65, 1000, 1000))
        made: Any = sigv4.native.Key(key.ljust(64, b"\0"))
        assert made.sign(text) == hmac.digest(key, text, "sha256").hex()
        hashed = hashlib.sha256(other).hexdigest().encode()
        assert made.sign_hash(text, other) == hmac.digest(key, text + hashed, "sha256").hex()


@compiled
def test_what_is_no_key_and_no_text_is_refused() -> None:
    native: Any = sigv4.native
    for bad in (b"", bytes(63), bytes(65)):
        with pytest.raises(ValueError):
            native.Key(bad)
    key = native.Key(bytes(64))
    for call in (
        native.Key,
        lambda: native.Key(block=bytes(64)),
        lambda: native.Key("text"),
        lambda: key.sign("text"),
        lambda: key.sign_hash(b"one"),
        lambda: key.sign_hash(b"one", "two"),
        lambda: key.sign_hash(b"one", bytearray(2)),
        lambda: key.sign_hash(b"one", b"two", b"three"),
    ):
        with pytest.raises(TypeError):
            call()
