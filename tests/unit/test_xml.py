"""`s3api.xml`: what the builder writes is read back, by this parser and another; hostile documents are refused."""

from __future__ import annotations

from urllib.parse import unquote, unquote_plus
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3api import xml
from s3api.errors import S3Error

# XML 1.0 §2.2: what a document can carry.
CHARS = st.characters(
    exclude_categories=("Cs",),
    exclude_characters=[chr(code) for code in range(32) if code not in (9, 10, 13)] + ["\ufffe", "\uffff"],
)


def document(text: str) -> bytes:
    writer = xml.XmlWriter("ListBucketResult")
    with writer.nested("Contents"):
        writer.leaf("Key", text)
    return writer.finish()


@given(st.text(CHARS, max_size=40))
def test_text_round_trips(text: str) -> None:
    body = document(text)
    contents = xml.parse(body, "ListBucketResult").find("Contents")
    assert contents is not None
    assert contents.text("Key") == text
    found = ElementTree.fromstring(body).find(f".//{{{xml.NAMESPACE}}}Key")
    assert found is not None
    assert (found.text or "") == text


def test_values_of_each_type() -> None:
    writer = xml.XmlWriter("R", namespace="")
    writer.leaf("A", 5)
    writer.leaf("B", True)
    writer.leaf("C", False)
    writer.leaf("D", None)
    writer.leaf("E", "")
    with writer.nested("F", 'x="1"') as inner:
        assert inner is writer
    assert writer.finish() == xml.HEAD.encode() + b'<R><A>5</A><B>true</B><C>false</C><E></E><F x="1"></F></R>'


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a<b>&\"'", "a&lt;b&gt;&amp;&quot;'"),
        ("a\rb", "a&#13;b"),
        ("a\x01b\x1f", "a&#x1;b&#x1f;"),
        ("\ufffe", "&#xfffe;"),
        ("\udc80", "\ufffd"),
        ("a\tb\n", "a\tb\n"),
    ],
)
def test_escape(text: str, escaped: str) -> None:
    assert xml.escape(text) == escaped


@given(st.text(max_size=30) | st.just("\x01\udc80\ufffe<"))
def test_readable_text_is_always_well_formed(text: str) -> None:
    ElementTree.fromstring(f"<a>{xml.escape_readable(text)}</a>")


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
def test_url_encoding_is_read_back_by_both_decoders(key: str) -> None:
    coded = xml.url_encode(key)
    assert unquote(coded) == unquote_plus(coded) == key
    assert coded.isascii()
    assert coded.isprintable()


def test_parse_reads_any_namespace_and_order() -> None:
    body = b"""<?xml version="1.0" encoding="UTF-8"?>
    <x:Delete xmlns:x="http://s3.amazonaws.com/doc/2006-03-01/">
      <x:Quiet>true</x:Quiet><x:Object><x:Key> a &amp; b </x:Key></x:Object><!-- no --><x:Object><x:Key/></x:Object>
    </x:Delete>"""
    root = xml.parse(body, "Delete")
    assert root.text("Quiet") == "true"
    assert [node.required("Key") for node in root.all("Object")] == [" a & b ", ""]
    assert root.text("Absent", "default") == "default"
    assert root.find("Absent") is None


@pytest.mark.parametrize(
    "body",
    [
        b"nonsense",
        b"<Delete>",
        b"<Delete></Other>",
        b"<Delete/><Delete/>",
        b"<Other/>",
        b"<Delete>&unknown;</Delete>",
        b"<Delete>\xff</Delete>",
        b"<Delete>\x00</Delete>",
        b"<Delete a='1' a='2'/>",
        b"<!DOCTYPE Delete><Delete/>",
        b'<!DOCTYPE Delete [<!ENTITY a "b">]><Delete>&a;</Delete>',
        b'<!DOCTYPE Delete SYSTEM "file:///etc/passwd"><Delete/>',
        b'<?xml version="1.0" encoding="UTF-16"?><Delete>\xff</Delete>',
        b"<Delete>" + b"<a>" * 40 + b"</a>" * 40 + b"</Delete>",
        b"<Delete>" + b"<a/>" * (xml.ELEMENTS_MAX + 1) + b"</Delete>",
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
def test_refused_documents(body: bytes) -> None:
    with pytest.raises(S3Error) as caught:
        xml.parse(body, "Delete")
    assert caught.value.spec.code == "MalformedXML"


@pytest.mark.parametrize("body", [b"", b" \r\n"])
def test_missing_document(body: bytes) -> None:
    with pytest.raises(S3Error, match="MissingRequestBodyError"):
        xml.parse(body, "Delete")


def test_typed_readers_refuse_by_name() -> None:
    root = xml.parse(b"<P><N>12</N><M>x</M><D>1</D><D>2</D><T> 7 </T><L>%b</L></P>" % (b"9" * 50), "P")
    assert root.integer("N", 1, 12) == 12
    assert root.integer("T", 1, 12) == 7
    for call in (
        lambda: root.integer("N", 1, 11),
        lambda: root.integer("M", 1, 12),
        lambda: root.integer("L", 1, 12),
        lambda: root.required("Absent"),
        lambda: root.text("D"),
    ):
        with pytest.raises(S3Error) as caught:
            call()
        assert caught.value.spec.code == "MalformedXML"
        assert "Element" in caught.value.message
