"""`s3api.chunked`: AWS's worked bodies, any split, no copies, and each way a frame, signature or trailer can be wrong."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3api import chunked
from s3api.chunked import ChunkedDecoder, encode
from s3api.errors import S3Error
from s3api.sigv4 import ChunkSigner, SigningKey, SigV4
from tests.vectors import sigv4_aws as aws

CRC = b"x-amz-checksum-crc32c"


def signer() -> ChunkSigner:
    return ChunkSigner(SigningKey("secret", b"20130524", b"r", b"s3"), b"20130524T000000Z", b"scope", "0" * 64)


def decode(decoder: ChunkedDecoder, body: bytes, cuts: list[int] | None = None) -> bytes:
    content = b""
    edges = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts or ())})
    for start, stop in itertools.pairwise(edges):
        content += b"".join(bytes(piece) for piece in decoder.feed(memoryview(body)[start:stop]))
    decoder.finish()
    return content


def refusal(decoder: ChunkedDecoder, body: bytes) -> str:
    """The code, which must not depend on how the body was cut."""
    state = (decoder.length, decoder._signer and decoder._signer.previous, decoder._expected)
    again = ChunkedDecoder(state[0], None if state[1] is None else signer(), state[2])
    with pytest.raises(S3Error) as caught:
        decode(decoder, body)
    with pytest.raises(S3Error) as other:
        decode(again, body, list(range(len(body))))
    assert other.value.spec.code == caught.value.spec.code
    return caught.value.spec.code


def aws_signer(example: aws.Example) -> ChunkSigner:
    owner = SigV4({aws.ACCESS_KEY: aws.SECRET_KEY}.get)
    verified = owner.verify(example.method, example.path, example.query, example.headers, aws.NOW_S)
    assert verified is not None
    return verified.chunk_signer()


def test_aws_example_chunked_upload() -> None:
    body = aws.frames(aws.CHUNK_SIGNATURES, b"\r\n")
    assert len(body) == 66824  # the Content-Length of the example
    assert decode(ChunkedDecoder(66560, aws_signer(aws.CHUNKED)), body) == b"a" * 66560
    assert encode(aws.CHUNKS, aws_signer(aws.CHUNKED)) == body


@pytest.mark.parametrize("between", [b"\r\n", b"\n\r\n", b"\n"], ids=["crlf", "as printed by AWS", "lf"])
def test_aws_example_chunked_upload_with_trailer(between: bytes) -> None:
    end = CRC + b":" + aws.TRAILER_VALUE + between + b"x-amz-trailer-signature:" + aws.TRAILER_SIGNATURE + b"\r\n\r\n"
    body = aws.frames(aws.TRAILER_CHUNK_SIGNATURES, end)
    decoder = ChunkedDecoder(66560, aws_signer(aws.CHUNKED_TRAILER), {CRC})
    assert decode(decoder, body, [1, 88, 70_000]) == b"a" * 66560
    assert decoder.trailers == {CRC: aws.TRAILER_VALUE}


def test_aws_example_trailer_is_what_encode_makes() -> None:
    body = encode(aws.CHUNKS, aws_signer(aws.CHUNKED_TRAILER), {CRC: aws.TRAILER_VALUE})
    for signature in (*aws.TRAILER_CHUNK_SIGNATURES, aws.TRAILER_SIGNATURE):
        assert signature in body


forms = st.sampled_from(["signed", "signed trailer", "unsigned trailer"])


@given(st.lists(st.binary(max_size=40), max_size=5), forms, st.lists(st.integers(0, 2000), max_size=12))
def test_any_split_gives_the_same(pieces: list[bytes], form: str, cuts: list[int]) -> None:
    trailers = None if form == "signed" else {CRC: b"AAAAAA=="}
    whole = b"".join(pieces)
    body = encode(pieces, signer() if form != "unsigned trailer" else None, trailers)
    decoder = ChunkedDecoder(len(whole), signer() if form != "unsigned trailer" else None, trailers)
    assert decode(decoder, body, cuts) == whole
    assert decoder.ended
    assert decoder.decoded == len(whole)
    assert decoder.trailers == (trailers or {})


@given(st.binary(min_size=1, max_size=60), forms, st.integers(0, 1 << 20), st.integers(1, 255))
def test_no_changed_byte_of_a_signed_body_passes(content: bytes, form: str, at: int, flip: int) -> None:
    if form == "unsigned trailer":
        form = "signed"
    trailers = None if form == "signed" else {CRC: b"AAAAAA=="}
    body = bytearray(encode([content], signer(), trailers))
    body[at % len(body)] ^= flip
    decoder = ChunkedDecoder(len(content), signer(), trailers)
    try:
        # What is not signed is spelling: the case of a hex size or of a trailer's name, a bare LF, a trailing blank.
        assert decode(decoder, bytes(body)) == content
        assert decoder.trailers == (trailers or {})
    except S3Error:
        pass


@given(st.binary(min_size=1, max_size=60), st.integers(0, 1 << 20))
def test_no_truncated_body_passes(content: bytes, at: int) -> None:
    body = encode([content], signer(), {CRC: b"AAAAAA=="})
    with pytest.raises(S3Error) as caught:
        decode(ChunkedDecoder(len(content), signer(), {CRC}), body[: at % len(body)])
    assert caught.value.spec.code == "IncompleteBody"


def test_content_is_handed_out_without_copying() -> None:
    body = bytearray(encode([b"x" * 100, b"y" * 50], None, {}))
    pieces = ChunkedDecoder(150, None, ()).feed(memoryview(body))
    assert [len(piece) for piece in pieces] == [100, 50]
    assert all(piece.obj is body for piece in pieces)


def test_names_of_trailers_fold_case_and_blanks() -> None:
    decoder = ChunkedDecoder(0, None, {CRC})
    decode(decoder, b"0\r\nX-Amz-Checksum-CRC32C: AAAAAA== \r\n\r\n")
    assert decoder.trailers == {CRC: b"AAAAAA=="}


@pytest.mark.parametrize(
    ("length", "body", "code"),
    [
        (5, b"5\r\nhello\r\n0\r\n", "IncompleteBody"),
        (5, b"5\r\nhell", "IncompleteBody"),
        (6, b"5\r\nhello\r\n0\r\n\r\n", "IncompleteBody"),
        (4, b"5\r\nhello\r\n0\r\n\r\n", "IncompleteBody"),
        (0, b"FFFFFFFFFFFFFFFF\r\n", "IncompleteBody"),
        (0, b"11111111111111111\r\n", "IncompleteBody"),
        (5, b"5\r\nhellox\r\n0\r\n\r\n", "IncompleteBody"),
        (5, b"5\nhello\r\n0\r\n\r\n", "IncompleteBody"),
        (5, b"5\r\nhello\n0\r\n\r\n", "IncompleteBody"),
        (5, b"-5\r\nhello\r\n0\r\n\r\n", "IncompleteBody"),
        (5, b"0x5\r\nhello\r\n0\r\n\r\n", "IncompleteBody"),
        (5, b" 5\r\nhello\r\n0\r\n\r\n", "IncompleteBody"),
        (5, b"5;x=y\r\nhello\r\n0\r\n\r\n", "IncompleteBody"),
        (5, b"\r\n5\r\nhello\r\n0\r\n\r\n", "IncompleteBody"),
        (5, b"5\r\nhello\r\n0\r\n\r\nmore", "IncompleteBody"),
        (5, b"1" * 600, "IncompleteBody"),
        (0, b"0\r\nx-amz-checksum-crc32c:AAAAAA==\r\n\r\n", "MalformedTrailerError"),
    ],
)
def test_malformed_frames(length: int, body: bytes, code: str) -> None:
    assert refusal(ChunkedDecoder(length), body) == code


@pytest.mark.parametrize(
    "lines",
    [
        b"\r\n",
        b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n",
        b"x-amz-checksum-crc32c:A\r\nx-amz-checksum-crc32c:A\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"x-amz-checksum-crc32c:a b\r\n\r\n",
        b": x\r\n\r\n",
        b"x-amz-trailer-signature:" + b"0" * 64 + b"\r\n\r\n",
    ],
)
def test_malformed_trailers(lines: bytes) -> None:
    assert refusal(ChunkedDecoder(0, None, {CRC}), b"0\r\n" + lines) == "MalformedTrailerError"


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (b"x-amz-checksum-crc32c:AAAAAA==\r\n\r\n\r\n", "MalformedTrailerError"),
        (b"\r\n", "MalformedTrailerError"),
        (b"x-amz-checksum-crc32c:AAAAAA==\r\nx-amz-trailer-signature:00\r\n\r\n", "SignatureDoesNotMatch"),
        (b"x-amz-trailer-signature:00\r\nx-amz-checksum-crc32c:AAAAAA==\r\n\r\n", "MalformedTrailerError"),
    ],
)
def test_signed_trailer_must_be_signed(end: bytes, code: str) -> None:
    head = encode([], signer()).partition(b"\r\n")[0]
    assert refusal(ChunkedDecoder(0, signer(), {CRC}), head + b"\r\n" + end) == code


def test_unsigned_chunk_in_a_signed_body_is_refused() -> None:
    assert refusal(ChunkedDecoder(5, signer()), encode([b"hello"])) == "IncompleteBody"


def test_chunks_out_of_order_are_refused() -> None:
    body = encode([b"a" * 9, b"b" * 9], signer())
    first, second, rest = body[: len(body) // 2], b"", b""
    cut = body.index(b"9;", 1)
    last = body.index(b"0;chunk", cut)
    first, second, rest = body[:cut], body[cut:last], body[last:]
    assert refusal(ChunkedDecoder(18, signer()), second + first + rest) == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    ("length", "body", "message"),
    [
        (10, b"A\ndummy data\r\n0\r\n\r\n", "The request body terminated unexpectedly"),
        (10, b"A\r\ndummy data\r\nJ\r\n\r\n", "The request body terminated unexpectedly"),
        (10, b"A\r\ndummy data\r\n0\r\n", "The request body terminated unexpectedly"),
        (200, b"A\r\ndummy data\r\n0\r\n\r\n", chunked._LENGTH),
        (7, b"A\r\ndummy data\r\n0\r\n\r\n", chunked._LENGTH),
    ],
)
def test_refusals_are_in_the_words_of_s3(length: int, body: bytes, message: str) -> None:
    """Which suites compare whole; what is the matter beyond them has an element of its own."""
    with pytest.raises(S3Error) as caught:
        decode(ChunkedDecoder(length), body)
    assert caught.value.message == message


def test_lines_and_trailers_are_bounded() -> None:
    decoder = ChunkedDecoder(0, None, {CRC})
    decoder.feed(memoryview(b"0\r\n"))
    for _ in range(chunked.LINE_BYTES_MAX - 1):
        decoder.feed(memoryview(b"x"))
    with pytest.raises(S3Error) as caught:
        decoder.feed(memoryview(b"x"))
    assert "too long" in caught.value.fields["Detail"]
    assert len(decoder._line) <= chunked.LINE_BYTES_MAX
