"""XML both ways: a small escaping builder for replies, and a bounded parser for request documents.

Owns nothing. Does not know any document's schema: handlers name the elements.
Kind: pure. Invariants: what the builder writes is well-formed for every text XML 1.0 can carry; the parser runs no
entity, no DTD and no recursion, and its work is bounded by the body and the limits below.
Spec: XML 1.0 §2.2 (characters), §2.11 (line ends); AWS S3 API Reference (documents, encoding-type).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from types import TracebackType
from typing import Final
from urllib.parse import quote
from xml.parsers import expat

from s3api.errors import S3Error

NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
HEAD: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
CONTENT_TYPE: Final = b"content-type: application/xml\r\n"

DEPTH_MAX: Final = 16
ELEMENTS_MAX: Final = 100_000
"""10,000 parts of seven elements each is the largest document S3 takes."""

_SPECIAL = re.compile(r'[&<>"\r\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]')
_UNREADABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")
_ENTITY: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;"}


def _special(match: re.Match[str]) -> str:
    char = match.group()
    entity = _ENTITY.get(char)
    if entity is not None:
        return entity
    if 0xD800 <= ord(char) <= 0xDFFF:
        return "\ufffd"
    return f"&#x{ord(char):x};"


def escape(text: str) -> str:
    """`text` for element content. Characters XML 1.0 cannot carry become numeric references, which is what S3 sends
    too: a client that stores such keys must list with `encoding-type=url`. Lone surrogates become U+FFFD."""
    return _SPECIAL.sub(_special, text) if _SPECIAL.search(text) else text


def escape_readable(text: str) -> str:
    """As `escape`, but what XML 1.0 cannot carry becomes U+FFFD: an error must reach even a client whose key is odd."""
    return escape(text if text.isascii() and text.isprintable() else _UNREADABLE.sub("\ufffd", text))


def url_encode(text: str) -> str:
    """A key, prefix or marker under `encoding-type=url`; slashes stay.

    # differs from AWS: a space is `%20`, not `+`, which every decoder reads the same way.
    """
    return quote(text, safe="/-_.~*")


class XmlWriter:
    """Builds one document. `with writer.nested("Contents"):` opens and closes an element."""

    __slots__ = ("_open", "_parts")

    def __init__(self, root: str, namespace: str = NAMESPACE) -> None:
        self._open = [root]
        self._parts = [HEAD, f'<{root} xmlns="{namespace}">' if namespace else f"<{root}>"]

    def leaf(self, name: str, value: str | int | bool | None) -> None:
        """One element with text; None writes nothing, booleans are `true` and `false`."""
        if value is None:
            return
        if isinstance(value, str):
            text = escape(value)
        elif isinstance(value, bool):
            text = "true" if value else "false"
        else:
            text = str(value)
        self._parts.append(f"<{name}>{text}</{name}>")

    def nested(self, name: str, attributes: str = "") -> XmlWriter:
        """Opens an element; leaving the `with` block closes it. `attributes` is markup, escaped by the caller."""
        self._parts.append(f"<{name} {attributes}>" if attributes else f"<{name}>")
        self._open.append(name)
        return self

    def __enter__(self) -> XmlWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._parts.append(f"</{self._open.pop()}>")

    def finish(self) -> bytes:
        """The document; the root must be the only element left open."""
        assert len(self._open) == 1, "an element was left open"
        self._parts.append(f"</{self._open.pop()}>")
        return "".join(self._parts).encode()


class Node:
    """One parsed element: local name, text of its own (children's excluded), children in order.

    `attributes` by name; one of a namespace is `namespace}name`.
    """

    __slots__ = ("attributes", "children", "name", "own")

    def __init__(self, name: str, attributes: dict[str, str] | None = None) -> None:
        self.name = name
        self.attributes = attributes or {}
        self.own: str = ""
        self.children: list[Node] = []

    def all(self, name: str) -> list[Node]:
        """Every child of that name."""
        return [child for child in self.children if child.name == name]

    def find(self, name: str) -> Node | None:
        """The child of that name, None when absent; MalformedXML when there are several."""
        found = self.all(name)
        if len(found) > 1:
            raise S3Error("MalformedXML", f"Element {name} is given more than once in {self.name}.")
        return found[0] if found else None

    def only(self, *names: str) -> Node:
        """Itself; MalformedXML when a child has any other name."""
        for child in self.children:
            if child.name not in names:
                raise S3Error("MalformedXML", f"Element {child.name[:64]} has no place in {self.name}.")
        return self

    def text(self, name: str, default: str = "") -> str:
        """The text of the child of that name, as sent."""
        child = self.find(name)
        return default if child is None else child.own

    def required(self, name: str) -> str:
        """As `text`; MalformedXML when the child is missing."""
        child = self.find(name)
        if child is None:
            raise S3Error("MalformedXML", f"Element {name} is missing in {self.name}.")
        return child.own

    def one_of(self, name: str, allowed: Collection[str]) -> str:
        """A required text that must be one of `allowed`, spelled so."""
        text = self.required(name).strip()
        if text not in allowed:
            raise S3Error("MalformedXML", f"Element {name} must be one of {', '.join(sorted(allowed))}.")
        return text

    def boolean(self, name: str) -> bool:
        """`true` or `false`, in any case; False when the child is missing."""
        child = self.find(name)
        text = "false" if child is None else child.own.strip().lower()
        if text not in ("true", "false"):
            raise S3Error("MalformedXML", f"Element {name} must be true or false.")
        return text == "true"

    def integer(self, name: str, low: int, high: int) -> int:
        """A required whole number in `low..high`, both included."""
        text = self.required(name).strip()
        if not (text.isascii() and text.isdigit() and len(text) <= 18 and low <= int(text) <= high):
            raise S3Error("MalformedXML", f"Element {name} must be a whole number between {low} and {high}.")
        return int(text)


class _Builder:
    """Expat's events made into Nodes, with the limits."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._path: list[Node] = []
        self._texts: list[list[str]] = []
        self._count = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > ELEMENTS_MAX or len(self._path) >= DEPTH_MAX:
            raise S3Error("MalformedXML", "The document is too large or too deep.")
        node = Node(name.rpartition("}")[2], attributes)
        if self._path:
            self._path[-1].children.append(node)
        else:
            self.root = node
        self._path.append(node)
        self._texts.append([])

    def end(self, name: str) -> None:
        self._path.pop().own = "".join(self._texts.pop())

    def data(self, text: str) -> None:
        self._texts[-1].append(text)

    def refuse(self, *args: object) -> None:
        raise S3Error("MalformedXML", "Document type declarations and entities are not accepted.")


def parse(body: bytes, root: str) -> Node:
    """The document's root element, which must be named `root` (any namespace). Raises MalformedXML, nothing else."""
    if not body.strip():
        raise S3Error("MissingRequestBodyError")
    builder = _Builder()
    parser = expat.ParserCreate("UTF-8", "}")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = builder.refuse
    parser.EntityDeclHandler = builder.refuse
    parser.ExternalEntityRefHandler = builder.refuse  # type: ignore[assignment]  # raises, so returns no verdict
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, ValueError):
        raise S3Error("MalformedXML") from None
    if builder.root is None or builder.root.name != root:
        raise S3Error("MalformedXML", f"The document's root element must be {root}.")
    return builder.root
