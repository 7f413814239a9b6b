"""Cross-origin rules of a bucket: the document, which rule answers a request, and the header lines it gives.

Owns nothing but a bounded memory of parsed documents. Does not know buckets, requests or who calls.
Kind: pure. Invariants: a stored document parses; the first rule that fits is the one that counts; nothing the document
holds can break a header line.
Spec: AWS PutBucketCors, "Elements of a CORS configuration", "OPTIONS object"; WHATWG Fetch, "CORS protocol".
"""

from __future__ import annotations

import functools
import re
from typing import Final

import msgspec

from s3api import xml
from s3api.errors import S3Error

RULES_MAX: Final = 100
ID_CHARS_MAX: Final = 255
HEADERS_MAX: Final = 128
"""Most header names one may ask for: no request has more lines, and each is held against every pattern of a rule."""
METHODS: Final = ("GET", "PUT", "HEAD", "POST", "DELETE")
_AGE = re.compile(r"-?[0-9]{1,9}\Z", re.ASCII)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z", re.ASCII)
VARY: Final = "vary: Origin, Access-Control-Request-Headers, Access-Control-Request-Method\r\n"


class Rule(msgspec.Struct, frozen=True):
    """One CORSRule. `headers` are lower-case patterns; `max_age_s` None says nothing of caching."""

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    max_age_s: int | None = None
    id: str | None = None


def check(root: xml.Node) -> str:
    """The document of PutBucketCors as it is stored and read back. Raises MalformedXML, InvalidRequest."""
    nodes = root.only("CORSRule").children
    if not nodes:
        raise S3Error("MalformedXML")
    if len(nodes) > RULES_MAX:
        raise S3Error(
            "InvalidRequest", f"The number of CORS rules should not exceed allowed limit of {RULES_MAX} rules."
        )
    writer = xml.XmlWriter("CORSConfiguration")
    for node in nodes:
        _check_rule(node)
        with writer.nested("CORSRule"):
            for name in ("ID", "AllowedHeader", "AllowedMethod", "AllowedOrigin", "ExposeHeader", "MaxAgeSeconds"):
                for child in node.all(name):
                    writer.leaf(name, child.own)
    return writer.finish().decode()


def _check_rule(node: xml.Node) -> None:
    node.only("ID", "AllowedHeader", "AllowedMethod", "AllowedOrigin", "ExposeHeader", "MaxAgeSeconds")
    if not node.all("AllowedMethod") or not node.all("AllowedOrigin"):
        raise S3Error("MalformedXML")
    if node.find("MaxAgeSeconds") is not None and not _AGE.match(node.text("MaxAgeSeconds").strip()):
        raise S3Error("MalformedXML", "Element MaxAgeSeconds must be a whole number.")  # S3 takes negative ones too
    if len(node.text("ID")) > ID_CHARS_MAX:
        raise S3Error("InvalidRequest", f"The ID of a rule must not be longer than {ID_CHARS_MAX} characters.")
    for child in node.children:
        text = child.own
        match child.name:
            case "AllowedMethod" if text not in METHODS:
                message = f"Found unsupported HTTP method in CORS config. Unsupported method is {text[:64]}"
            case "AllowedOrigin" | "AllowedHeader" if text.count("*") > 1:
                message = f'{child.name} "{text[:256]}" can not have more than one wildcard.'
            case "ExposeHeader" if "*" in text:
                message = f'ExposeHeader "{text[:256]}" contains wildcard. We currently do not support wildcard for ExposeHeader.'
            case "AllowedHeader" | "ExposeHeader" if not _NAME.match(text):
                message = f'{child.name} "{text[:256]}" contains invalid character.'
            case _:
                continue
        raise S3Error("InvalidRequest", message)


@functools.lru_cache(maxsize=256)
def rules(text: str) -> tuple[Rule, ...]:
    """The rules of a stored document, in order."""
    return tuple(
        Rule(
            origins=tuple(child.own for child in node.all("AllowedOrigin")),
            methods=tuple(child.own for child in node.all("AllowedMethod")),
            headers=tuple(child.own.lower() for child in node.all("AllowedHeader")),
            expose=tuple(child.own for child in node.all("ExposeHeader")),
            max_age_s=int(node.text("MaxAgeSeconds")) if node.find("MaxAgeSeconds") is not None else None,
            id=node.text("ID") or None,
        )
        for node in xml.parse(text.encode(), "CORSConfiguration").children
    )


def _fits(pattern: str, text: str) -> bool:
    """Whether a pattern with at most one `*`, which may stand for nothing, is the whole of `text`."""
    head, star, tail = pattern.partition("*")
    if not star:
        return pattern == text
    return len(text) >= len(head) + len(tail) and text.startswith(head) and text.endswith(tail)


def requested(names: str) -> tuple[str, ...]:
    """The header names of Access-Control-Request-Headers, in lower case and in order."""
    return _names(names.lower())


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for piece in text.split(",") if (name := piece.strip()))


def check_request(method: str, names: str) -> None:
    """What a browser asks for, in its own spelling, if it can be asked for at all. Raises BadRequest."""
    if method not in METHODS:
        raise S3Error("BadRequest", f"Invalid Access-Control-Request-Method: {method[:64] or 'null'}")
    for name in _names(names):
        if not _NAME.match(name):
            raise S3Error("BadRequest", f'Access-Control-Request-Headers "{name[:64]}" contains invalid character.')


def match(text: str, origin: str, method: str, headers: tuple[str, ...]) -> Rule | None:
    """The first rule of a stored document that lets `origin` send `method` with `headers`; none lets HEADERS_MAX be passed."""
    if len(headers) > HEADERS_MAX:
        return None
    for rule in rules(text):
        if (
            method in rule.methods
            and any(_fits(pattern, origin) for pattern in rule.origins)
            and all(any(_fits(pattern, name) for pattern in rule.headers) for name in headers)
        ):
            return rule
    return None


def lines(rule: Rule, origin: str, headers: tuple[str, ...]) -> str:
    """The header lines of a reply that `rule` lets `origin` see."""
    # The first pattern that fits decides, as on AWS: `*` tells everyone the same and allows no credentials.
    if next(pattern for pattern in rule.origins if _fits(pattern, origin)) == "*":
        text = "access-control-allow-origin: *\r\n"
    else:
        text = f"access-control-allow-origin: {origin}\r\naccess-control-allow-credentials: true\r\n"
    text += f"access-control-allow-methods: {', '.join(rule.methods)}\r\n"
    if headers:
        text += f"access-control-allow-headers: {', '.join(headers)}\r\n"
    if rule.expose:
        text += f"access-control-expose-headers: {', '.join(rule.expose)}\r\n"
    if rule.max_age_s is not None:
        text += f"access-control-max-age: {rule.max_age_s}\r\n"
    return text + VARY
