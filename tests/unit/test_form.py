"""`s3api.form`: multipart/form-data, whole, cut anywhere, and malformed in every way a browser is not."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3api.errors import S3Error
from s3api.form import FORM_BYTES_MAX, FormParser, FormPayload, base_name, boundary_of, headers_of

B = b"----FormBoundary7MA4YWxk"


def part(name: str, value: bytes, filename: str | None = None, extra: bytes = b"") -> bytes:
    disposition = f'form-data; name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
    return b"--%b\r\nContent-Disposition: %b\r\n%b\r\n%b\r\n" % (B, disposition.encode(), extra, value)


def end(boundary: bytes = B) -> bytes:
    return b"--%b--\r\n" % boundary


def parsed(form: bytes, cuts: tuple[int, ...] = (), boundary: bytes = B) -> tuple[FormParser, bytes]:
    parser = FormParser(boundary)
    content = b""
    edges = [0, *sorted(min(cut, len(form)) for cut in cuts), len(form)]
    for start, stop in itertools.pairwise(edges):
        content += b"".join(parser.feed(memoryview(form)[start:stop]))
    parser.finish()
    return parser, content


def refused(form: bytes, boundary: bytes = B) -> str:
    with pytest.raises(S3Error) as caught:
        parsed(form, boundary=boundary)
    return caught.value.spec.code


PLAIN = part("key", b"a/b") + part("Content-Type", b"text/plain") + part("file", b"hello\r\nworld", "x.txt") + end()


def test_fields_then_file() -> None:
    parser, content = parsed(PLAIN)
    assert parser.fields == {"key": "a/b", "content-type": "text/plain"}
    assert (parser.filename, content) == ("x.txt", b"hello\r\nworld")
    assert parser.file_at is not None
    assert PLAIN[parser.file_at :].startswith(b"hello")


@pytest.mark.parametrize("at", range(len(PLAIN) + 1))
def test_every_cut_gives_the_same(at: int) -> None:
    parser, content = parsed(PLAIN, (at,))
    assert (parser.fields["key"], content) == ("a/b", b"hello\r\nworld")


def test_byte_by_byte() -> None:
    assert parsed(PLAIN, tuple(range(len(PLAIN))))[1] == b"hello\r\nworld"


tricky = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b"-", b"--", b"\r\n--", B, b"\r\n--" + B, b"\r\n--" + B + b"x", b"a", b" "]
    ),
    max_size=12,
).map(b"".join)


@given(tricky, st.lists(st.integers(0, 400), max_size=6))
def test_file_that_looks_like_a_boundary_is_kept_whole(data: bytes, cuts: list[int]) -> None:
    delimiter = b"\r\n--" + B
    # A real boundary line inside the data ends the file: then it is not the data of one file.
    at = (data + b"\r\n--" + B).find(delimiter)
    follows = (data + delimiter)[at + len(delimiter) :]
    while at < len(data) and not (follows.startswith(b"--") or follows.lstrip(b" \t").startswith(b"\r\n")):
        at = (data + delimiter).find(delimiter, at + 2)
        follows = (data + delimiter)[at + len(delimiter) :]
    if at < len(data):
        return
    form = part("key", b"k") + part("file", data, "f") + end()
    assert parsed(form, tuple(cuts))[1] == data


@pytest.mark.parametrize(
    "form",
    [
        b"preamble\r\n" + PLAIN,
        PLAIN.removesuffix(b"\r\n"),
        PLAIN + b"epilogue that nobody reads" * 3000,
        PLAIN.replace(B + b"\r\n", B + b"  \t\r\n"),
        PLAIN.replace(b"Content-Disposition", b"content-DISPOSITION"),
        PLAIN.replace(b'name="key"', b"NAME=key"),
        PLAIN.replace(b'name="key"', b'name="KeY"'),
        PLAIN.replace(b"x.txt", b"C:\\dir\\x.txt"),
        PLAIN.replace(b"x.txt", b"/home/me/x.txt"),
        PLAIN.replace(b'filename="x.txt"', b"filename*=UTF-8''x.txt"),
        PLAIN.replace(end(), part("submit", b"Upload") + part("more", b"y" * 50_000) + end()),
    ],
)
def test_what_browsers_do_beside_the_plain_form(form: bytes) -> None:
    parser, content = parsed(form, (3, 90, 200))
    assert parser.fields == {"key": "a/b", "content-type": "text/plain"}
    assert (parser.filename, content) == ("x.txt", b"hello\r\nworld")


def test_empty_values_and_empty_file() -> None:
    parser, content = parsed(part("key", b"") + part("file", b"", "") + end())
    assert (parser.fields, content, parser.filename) == ({"key": ""}, b"", "")


def test_boundary_that_begins_with_dashes() -> None:
    boundary = b"--custom"
    parser, content = parsed(PLAIN.replace(B, boundary), boundary=boundary)
    assert (parser.fields["key"], content) == ("a/b", b"hello\r\nworld")


@pytest.mark.parametrize(
    ("form", "code"),
    [
        (b"", "MalformedPOSTRequest"),
        (b"no form at all", "MalformedPOSTRequest"),
        (PLAIN.removesuffix(b"--\r\n"), "MalformedPOSTRequest"),
        (PLAIN.replace(b'; name="key"', b""), "MalformedPOSTRequest"),
        (PLAIN.replace(b"form-data;", b"attachment;"), "MalformedPOSTRequest"),
        (b"--%b\r\n\r\nvalue\r\n" % B + PLAIN, "MalformedPOSTRequest"),
        (part("key", b"\xff") + PLAIN, "MalformedPOSTRequest"),
        (part("key", b"a") + PLAIN, "InvalidArgument"),
        (part("file", b"x", "f", b"Content-Transfer-Encoding: base64\r\n") + end(), "NotImplemented"),
        (PLAIN.replace(end(), part("file", b"2", "second") + end()), "IncorrectNumberOfFilesInPostRequest"),
        (part("pad", b"x" * FORM_BYTES_MAX) + PLAIN, "MaxPostPreDataLengthExceededError"),
        (b"x" * (FORM_BYTES_MAX + 1), "MaxPostPreDataLengthExceededError"),
        (PLAIN.replace(end(), b"--%b\r\n%b" % (B, b"y" * 30_000)), "MalformedPOSTRequest"),
    ],
)
def test_malformed_forms_are_refused(form: bytes, code: str) -> None:
    assert refused(form) == code


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_parsed_or_refused(data: bytes, framed: bool) -> None:
    try:
        parsed(b"--%b\r\n%b" % (B, data) if framed else data, (1, 7))
    except S3Error:
        pass


@pytest.mark.parametrize(
    ("content_type", "found"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data ; BOUNDARY="a b"', b"a b"),
        (b"multipart/form-data; charset=utf-8; boundary=abc; x=y", b"abc"),
        (b"multipart/form-data", "MalformedPOSTRequest"),
        (b"multipart/form-data; boundary=", "MalformedPOSTRequest"),
        (b"multipart/form-data; boundary=" + b"x" * 71, "MalformedPOSTRequest"),
        (b"application/x-www-form-urlencoded", "PreconditionFailed"),
        (b"", "PreconditionFailed"),
    ],
)
def test_boundary_of_content_type(content_type: bytes, found: bytes | str) -> None:
    if isinstance(found, bytes):
        assert boundary_of({b"content-type": content_type}) == found
        return
    with pytest.raises(S3Error) as caught:
        boundary_of({b"content-type": content_type})
    assert caught.value.spec.code == found


@pytest.mark.parametrize(("path", "name"), [("a", "a"), ("a/b", "b"), ("c:\\x\\y z", "y z"), ("a/", ""), ("", "")])
def test_base_name(path: str, name: str) -> None:
    assert base_name(path) == name


def test_headers_are_those_the_fields_stand_for() -> None:
    sent = {
        b"host": b"h",
        b"content-type": b"multipart/form-data",
        b"x-amz-meta-own": b"1",
        b"x-forwarded-for": b"1.2.3.4",
    }
    fields = {
        "acl": "private",
        "content-type": "a/b",
        "x-amz-meta-a": "é",
        "key": "k",
        "x-amz-date": "d",
        "policy": "p",
    }
    assert headers_of(fields, sent) == {
        b"host": b"h",
        b"x-forwarded-for": b"1.2.3.4",
        b"x-amz-acl": b"private",
        b"content-type": b"a/b",
        b"x-amz-meta-a": "é".encode(),
    }
    for name in ("if-none-match", "x-amz-copy-source", "x-amz-write-offset-bytes"):
        with pytest.raises(S3Error) as caught:
            headers_of({name: "1"}, sent)
        assert caught.value.spec.code == "NotImplemented"


class Source:
    def __init__(self, data: bytes, piece: int, stated: bool = True) -> None:
        self.length = len(data) if stated else None
        self.read_bytes = 0
        self._data, self._piece = data, piece

    async def read(self) -> memoryview:
        view = memoryview(self._data)[self.read_bytes : self.read_bytes + self._piece]
        self.read_bytes += len(view)
        return view


def read_all(
    form: bytes, piece: int, bounds: tuple[int, int | None] = (0, None), stated: bool = True
) -> tuple[FormPayload, bytes]:
    payload = FormPayload(Source(form, piece, stated), B)

    async def run() -> bytes:
        await payload.begin()
        payload.bounds = bounds
        content = b""
        while len(view := await payload.read()):
            content += view
        return content

    return payload, asyncio.run(run())


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 16])
def test_payload_is_the_file_and_its_bound_is_exact_for_a_form_that_ends_with_it(piece: int) -> None:
    form = PLAIN.removesuffix(b"\r\n").replace(b'"key"\r\n\r\na/b', b'"key"\r\n\r\nup/${filename}')
    payload, content = read_all(form, piece)
    assert content == b"hello\r\nworld"
    assert payload.fields["key"] == "up/x.txt"
    assert payload.size_max() == len(content)
    assert read_all(PLAIN, piece)[0].size_max() == len(content) + 2
    assert read_all(PLAIN, piece, stated=False)[0].size_max() is None


@pytest.mark.parametrize(
    ("bounds", "code"), [((0, 12), ""), ((12, 12), ""), ((0, 11), "EntityTooLarge"), ((13, None), "EntityTooSmall")]
)
def test_payload_keeps_to_its_bounds(bounds: tuple[int, int | None], code: str) -> None:
    if not code:
        assert read_all(PLAIN, 50, bounds)[1] == b"hello\r\nworld"
        return
    with pytest.raises(S3Error) as caught:
        read_all(PLAIN, 50, bounds)
    assert caught.value.spec.code == code
    assert caught.value.fields["ProposedSize"] == 12


def test_payload_without_a_file_or_without_an_end_is_refused() -> None:
    for form, code in (
        (part("key", b"k") + end(), "InvalidArgument"),
        (part("key", b"k"), "MalformedPOSTRequest"),
        (part("key", b"k") + part("file", b"data", "f"), "MalformedPOSTRequest"),
        (part("key", b"k") + part("file", b"data" * 100, "f"), "MalformedPOSTRequest"),
    ):
        with pytest.raises(S3Error) as caught:
            read_all(form, 16)
        assert caught.value.spec.code == code
