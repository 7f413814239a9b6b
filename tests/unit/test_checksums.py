"""`s3api.checksums`: known values, combination against computing over the whole, and what requests may claim."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import zlib

import pytest
from awscrt import checksums as crt
from botocore.session import Session
from hypothesis import given
from hypothesis import strategies as st

from s3api import checksums
from s3api.checksums import ALGORITHMS, Digest, Requested, conclude, requested_checksum
from s3api.errors import S3Error
from tiering.checksum import Summer
from tiering.contract import Checksum

CRCS = ("CRC32", "CRC32C", "CRC64NVME")


@pytest.mark.parametrize(
    ("algorithm", "value"),
    [  # the check value of each algorithm: over the text 123456789
        ("CRC32", "cbf43926"),
        ("CRC32C", "e3069283"),
        ("CRC64NVME", "ae8b14860a799888"),
        ("SHA1", "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        ("SHA256", "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
        ("MD5", "25f9e794323b453885f5181f1b624d0b"),
        ("SHA512", hashlib.sha512(b"123456789").hexdigest()),
        ("XXHASH64", "8cb841db40e6ae83"),
    ],
)
def test_check_value(algorithm: str, value: str) -> None:
    digest = Digest([algorithm])
    for piece in (b"1234", memoryview(b"5678"), bytearray(b"9")):
        assert digest.update(piece) is None
    assert digest.hex(algorithm) == value
    assert digest.base64(algorithm) == base64.b64encode(bytes.fromhex(value)).decode()
    assert digest.size == 9


def test_large_pieces_are_hashed_off_the_loop_and_give_the_same() -> None:
    data = bytes(range(256)) * 1024
    names = list(ALGORITHMS)

    async def run() -> Digest:
        digest = Digest(names)
        waiting = digest.update(memoryview(data))
        assert waiting is not None
        await waiting
        assert digest.update(b"end") is None
        one = Digest(["SHA256"])
        waiting = one.update(data)
        assert waiting is not None
        await waiting
        assert one.hex("SHA256") == hashlib.sha256(data).hexdigest()
        assert Digest(CRCS).update(data) is None
        return digest

    digest = asyncio.run(run())
    assert digest.hex("MD5") == hashlib.md5(data + b"end").hexdigest()
    assert digest.hex("SHA1") == hashlib.sha1(data + b"end").hexdigest()
    assert int(digest.hex("CRC32"), 16) == zlib.crc32(data + b"end")


@given(st.sampled_from(CRCS), st.binary(max_size=300), st.binary(max_size=300))
def test_combine_equals_computing_over_both(algorithm: str, first: bytes, second: bytes) -> None:
    crc = ALGORITHMS[algorithm].crc
    assert crc is not None
    assert checksums.combine(algorithm, crc(first, 0), crc(second, 0), len(second)) == crc(first + second, 0)


@given(st.sampled_from(CRCS), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1), st.integers(1, 1 << 42))
def test_combine_equals_awscrt_at_any_length(algorithm: str, first: int, second: int, length: int) -> None:
    reference = getattr(crt, f"combine_{algorithm.lower()}")
    assert checksums.combine(algorithm, first, second, length) == reference(first, second, length)


@given(st.sampled_from(CRCS), st.lists(st.binary(max_size=50), min_size=1, max_size=6))
def test_full_object_equals_the_checksum_of_the_whole(algorithm: str, parts: list[bytes]) -> None:
    claims = []
    for part in parts:
        digest = Digest([algorithm])
        digest.update(part)
        claims.append((digest.base64(algorithm), len(part)))
    whole = Digest([algorithm])
    whole.update(b"".join(parts))
    assert checksums.full_object(algorithm, claims) == Checksum(algorithm, whole.base64(algorithm), "FULL_OBJECT")


def test_composite_is_the_checksum_of_checksums() -> None:
    parts = [base64.b64encode(hashlib.sha256(part).digest()).decode() for part in (b"a", b"b")]
    expected = hashlib.sha256(hashlib.sha256(b"a").digest() + hashlib.sha256(b"b").digest()).digest()
    value = f"{base64.b64encode(expected).decode()}-2"
    assert checksums.composite("SHA256", parts) == Checksum("SHA256", value, "COMPOSITE")


def test_multipart_etag() -> None:
    parts = [hashlib.md5(part).hexdigest() for part in (b"a", b"b")]
    joined = hashlib.md5(b"a").digest() + hashlib.md5(b"b").digest()
    assert checksums.multipart_etag(parts) == f"{hashlib.md5(joined).hexdigest()}-2"
    assert checksums.multipart_etag(["not hex"]) == f"{hashlib.md5(b'not hex').hexdigest()}-1"


@pytest.mark.parametrize(
    ("algorithm", "value"),
    [
        ("CRC32", "0wiusg=="),
        ("CRC32C", "M3m0yg=="),
        ("CRC64NVME", "rsrzr5yYqFU="),
        ("SHA1", "9I3YU4IIYIFsddVND1hNyGMyenw="),
        ("SHA256", "kW8AJ6V1B0znKjMXd8NHjWUT94alkb2JLaGld78jNfk="),
        ("SHA512", "Dh4h7PEF7IU9JNcohnrXBhPCFmOkaTB0sqNhnBvTnWa1iMM3I7tGbHJCToDjymPCSQeKs0e6uUKFAOfuQwWdDQ=="),
        ("MD5", "63M6AMDJ0zbmVpGjerVCkw=="),
        ("XXHASH64", "+lb36/ER8bo="),
        ("XXHASH3", "jw+pSh/pbMQ="),
        ("XXHASH128", "8BLDqqIWji+ITOsp/JjN/Q=="),
    ],
)
def test_every_algorithm_of_aws_over_the_same_text(algorithm: str, value: str) -> None:
    digest, summer = Digest([algorithm]), Summer(algorithm)
    for piece in (b"test", b" data"):
        assert digest.update(piece) is None
        summer.update(piece)
    assert digest.base64(algorithm) == digest.base64(algorithm) == value
    assert summer.checksum() == Checksum(algorithm, value)
    assert ALGORITHMS[algorithm].header.decode() == f"x-amz-checksum-{algorithm.lower()}"
    assert len(digest.raw(algorithm)) == ALGORITHMS[algorithm].length


def test_algorithms_are_those_of_the_sdks() -> None:
    assert set(ALGORITHMS) == set(Session().get_service_model("s3").shape_for("ChecksumAlgorithm").enum)


@pytest.mark.parametrize(
    ("algorithm", "kind", "good"),
    [
        ("CRC32", "FULL_OBJECT", True),
        ("CRC32", "COMPOSITE", True),
        ("CRC64NVME", "FULL_OBJECT", True),
        ("CRC64NVME", "COMPOSITE", False),
        ("SHA256", "COMPOSITE", True),
        ("SHA1", "FULL_OBJECT", False),
        ("SHA512", "COMPOSITE", True),
        ("MD5", "FULL_OBJECT", False),
        ("XXHASH128", "COMPOSITE", True),
        ("XXHASH3", "FULL_OBJECT", False),
    ],
)
def test_kinds_each_algorithm_may_have(algorithm: str, kind: checksums.Kind, good: bool) -> None:
    if good:
        checksums.check_kind(algorithm, kind)
    else:
        with pytest.raises(S3Error, match="InvalidRequest"):
            checksums.check_kind(algorithm, kind)
    checksums.check_kind(algorithm, checksums.default_kind(algorithm))


MD5 = base64.b64encode(hashlib.md5(b"hello").digest())
CRC32 = base64.b64encode(zlib.crc32(b"hello").to_bytes(4, "big"))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, Requested()),
        ({b"content-md5": MD5}, Requested(content_md5=hashlib.md5(b"hello").digest())),
        ({b"x-amz-checksum-crc32": CRC32}, Requested("CRC32", CRC32.decode())),
        ({b"x-amz-checksum-crc32": CRC32, b"x-amz-sdk-checksum-algorithm": b"crc32"}, Requested("CRC32", CRC32.decode())),
        ({b"x-amz-trailer": b"X-Amz-Checksum-CRC64NVME"}, Requested("CRC64NVME", None, True)),
        ({b"x-amz-checksum-mode": b"ENABLED", b"x-amz-checksum-algorithm": b"CRC32", b"x-amz-checksum-type": b"COMPOSITE"}, Requested()),
    ],
)  # fmt: skip
def test_requested_checksum(headers: dict[bytes, bytes], expected: Requested) -> None:
    assert requested_checksum(headers) == expected


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({b"content-md5": b"abc"}, "InvalidDigest"),
        ({b"content-md5": b""}, "InvalidDigest"),
        ({b"x-amz-checksum-crc32": b"abc"}, "InvalidRequest"),
        ({b"x-amz-checksum-crc32": MD5}, "InvalidRequest"),
        ({b"x-amz-checksum-crc32": CRC32, b"x-amz-checksum-crc32c": CRC32}, "InvalidRequest"),
        ({b"x-amz-checksum-crc32": CRC32, b"x-amz-trailer": b"x-amz-checksum-crc32"}, "InvalidRequest"),
        ({b"x-amz-checksum-crc99": CRC32}, "InvalidRequest"),
        ({b"x-amz-sdk-checksum-algorithm": b"CRC32"}, "InvalidRequest"),
        ({b"x-amz-sdk-checksum-algorithm": b"CRC99", b"x-amz-checksum-crc32": CRC32}, "InvalidRequest"),
        ({b"x-amz-sdk-checksum-algorithm": b"SHA1", b"x-amz-checksum-crc32": CRC32}, "InvalidRequest"),
        ({b"x-amz-trailer": b"x-custom"}, "InvalidRequest"),
    ],
)
def test_refused_claims(headers: dict[bytes, bytes], code: str) -> None:
    with pytest.raises(S3Error) as caught:
        requested_checksum(headers)
    assert caught.value.spec.code == code


def digest_for(requested: Requested, content: bytes = b"hello") -> Digest:
    digest = Digest(checksums.wanted(requested))
    digest.update(content)
    return digest


def test_conclude_keeps_what_was_asked_for() -> None:
    header = requested_checksum({b"x-amz-checksum-crc32": CRC32, b"content-md5": MD5})
    assert conclude(header, digest_for(header)) == Checksum("CRC32", CRC32.decode())
    trailer = requested_checksum({b"x-amz-trailer": b"x-amz-checksum-crc32"})
    assert conclude(trailer, digest_for(trailer), Checksum("CRC32", CRC32.decode())) is not None
    assert conclude(Requested(), digest_for(Requested())) is None


def test_conclude_refuses_what_does_not_hold() -> None:
    header = requested_checksum({b"x-amz-checksum-crc32": CRC32})
    md5 = requested_checksum({b"content-md5": MD5})
    trailer = requested_checksum({b"x-amz-trailer": b"x-amz-checksum-crc32"})
    for requested in (header, md5):
        with pytest.raises(S3Error, match="BadDigest"):
            conclude(requested, digest_for(requested, b"hellp"))
    with pytest.raises(S3Error, match="BadDigest"):
        conclude(trailer, digest_for(trailer, b"hellp"), Checksum("CRC32", CRC32.decode()))
    for absent in (None, Checksum("SHA1", "x")):
        with pytest.raises(S3Error, match="MalformedTrailerError"):
            conclude(trailer, digest_for(trailer), absent)
