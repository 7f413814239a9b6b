"""Sealed content: bytes cut into packages, each encrypted and authenticated by itself, so that any of them can be read alone.

Promise: a package that was changed, moved to another place, taken from another part or object, or that ends a body which
did not end there, is found before a byte of it is given out. Sizes are known both ways without reading anything.

A body is a stream: an object written whole (number 0) or one part (its number). Its content is cut every PACKAGE_BYTES;
an empty stream has one empty package. A package is `salt | ciphertext | tag`: AES-256-GCM under the stream's key, with a
nonce of the stream's random salt and the package's index, whose top bit marks the last one. The stream's key comes from
the object's key and the number. The object's key is random, and kept wrapped: by the customer's key or a master key.

Owns nothing; a `Sealer` or `Opener` owns one stream's state. Does not know requests, stores, or where keys come from.
Kind: pure, but for random salts and keys. Invariants: a nonce is never used twice under a key (a fresh salt a stream).
Spec: NIST SP 800-38D; docs/FORMAT.md, "Sealed content".
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tiering.contract import Buffer, Corrupt

PACKAGE_BYTES: Final = 64 << 10
"""Content of every package but the last: a range read opens at most this much too much at each end, and the overhead is
24 bytes in each (0.04 %). Sealing one takes 4 µs, less than a hop to a thread would."""
SALT_BYTES: Final = 8
TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = SALT_BYTES + TAG_BYTES
SEALED_BYTES: Final = PACKAGE_BYTES + OVERHEAD_BYTES
KEY_BYTES: Final = 32
WHOLE: Final = 0
"""The number of a stream that is no part."""

_LAST: Final = 1 << 31
_WRAP_VERSION: Final = b"\x01"
_WRAP_SALT_BYTES: Final = 32
_ONCE: Final = bytes(12)  # the nonce under a key that encrypts one thing only


# --- sizes ------------------------------------------------------------------------------------------------------------


def sealed_bytes(content: int) -> int:
    """How long a stream of `content` bytes is when sealed."""
    return content + OVERHEAD_BYTES * max(1, -(-content // PACKAGE_BYTES))


def content_of(sealed: int) -> int:
    """How much content a sealed stream holds. Raises Corrupt for a length that no stream has."""
    content = sealed - OVERHEAD_BYTES * -(-sealed // SEALED_BYTES)
    if content < 0 or sealed_bytes(content) != sealed:
        raise Corrupt(f"{sealed} bytes are no sealed stream")
    return content


# --- keys -------------------------------------------------------------------------------------------------------------


class WrongKey(Exception):
    """A wrapped key does not open: another key or context wrapped it, or it was changed."""


def new_key() -> bytes:
    """A fresh object key."""
    return os.urandom(KEY_BYTES)


def wrap(key: bytes, context: Sequence[str], object_key: bytes) -> bytes:
    """`object_key` under `key`, bound to `context`: only the same context unwraps it."""
    salt = os.urandom(_WRAP_SALT_BYTES)
    sealed = AESGCM(_wrapping(key, salt)).encrypt(_ONCE, object_key, _bound(context))
    return _WRAP_VERSION + salt + sealed


def unwrap(key: bytes, context: Sequence[str], wrapped: bytes) -> bytes:
    """The object key that `wrap` wrapped. Raises WrongKey."""
    version, salt, sealed = wrapped[:1], wrapped[1 : 1 + _WRAP_SALT_BYTES], wrapped[1 + _WRAP_SALT_BYTES :]
    if version != _WRAP_VERSION or len(key) != KEY_BYTES:
        raise WrongKey
    try:
        return AESGCM(_wrapping(key, salt)).decrypt(_ONCE, sealed, _bound(context))
    except (InvalidTag, ValueError):
        raise WrongKey from None


def _wrapping(key: bytes, salt: bytes) -> bytes:
    """A key for one wrapping: a master key wraps any number of object keys, while GCM under one key does not."""
    return hmac.digest(key, b"recall wrap\x01" + salt, hashlib.sha256)


def _bound(context: Sequence[str]) -> bytes:
    return json.dumps(list(context), ensure_ascii=True, separators=(",", ":")).encode()


def _stream_cipher(object_key: bytes, number: int) -> AESGCM:
    return AESGCM(hmac.digest(object_key, b"recall stream\x01" + number.to_bytes(4, "big"), hashlib.sha256))


class KeyRing(msgspec.Struct, frozen=True):
    """The master keys by id, from the oldest to the newest; new objects get the last, each opens what it wrapped."""

    keys: Mapping[str, bytes] = {}

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self.keys)})"

    @property
    def default(self) -> str:
        """The id of the newest key; "" without any."""
        return next(reversed(tuple(self.keys)), "")


NO_KEYS: Final = KeyRing()


# --- sealing ----------------------------------------------------------------------------------------------------------


class Sealer:
    """Seals one stream, given in pieces of any length. Up to a package is held back, since only the end says which is last."""

    __slots__ = ("_cipher", "_held", "_index", "_salt")

    def __init__(self, object_key: bytes, number: int) -> None:
        self._cipher = _stream_cipher(object_key, number)
        self._salt = os.urandom(SALT_BYTES)
        self._index = 0
        self._held = bytearray()

    def feed(self, data: Buffer) -> bytes:
        """Takes `data`; answers the packages that are complete, which may be none."""
        out: list[bytes] = []
        view = memoryview(data)
        while len(self._held) + len(view) > PACKAGE_BYTES:
            if self._held:
                taken = view[: PACKAGE_BYTES - len(self._held)]
                self._held += taken
                view = view[len(taken) :]
                held, self._held = self._held, bytearray()
                self._package(held, 0, out)
            else:
                self._package(view[:PACKAGE_BYTES], 0, out)
                view = view[PACKAGE_BYTES:]
        self._held += view
        return b"".join(out)

    def finish(self) -> bytes:
        """The last package, once all content was given."""
        out: list[bytes] = []
        self._package(self._held, _LAST, out)
        return b"".join(out)

    def _package(self, content: Buffer, last: int, out: list[bytes]) -> None:
        assert self._index < _LAST
        nonce = self._salt + (self._index | last).to_bytes(4, "big")
        out += (self._salt, self._cipher.encrypt(nonce, content, None))
        self._index += 1


# --- opening ----------------------------------------------------------------------------------------------------------


class _Package(NamedTuple):
    """One package to come: its stream, its place in it, its length, and which of its content is wanted."""

    number: int
    place: int
    last: bool
    sealed: int
    start: int
    stop: int


class Window(NamedTuple):
    """The sealed bytes `start:stop` that hold a content range, and what they are."""

    start: int
    stop: int
    packages: Iterator[_Package]


def window(streams: Sequence[tuple[int, int]], start: int, stop: int) -> Window:
    """Which sealed bytes hold content `start:stop` of the streams (number, sealed length) that lie one after the other.

    Streams without content inside or beside the range belong to it, so that even an empty object is authenticated.
    """
    at = sealed_at = 0
    first = last = None
    chosen: list[tuple[int, int, int, int]] = []  # number, content length, content offset of the stream, first package
    for number, sealed in streams:
        content = content_of(sealed)
        begins, ends = max(start, at), min(stop, at + content)
        if begins < ends or (not content and start <= at <= stop):
            low = (begins - at) // PACKAGE_BYTES
            high = max(low + 1, -(-(ends - at) // PACKAGE_BYTES))
            if first is None:
                first = sealed_at + low * SEALED_BYTES
            last = min(sealed_at + high * SEALED_BYTES, sealed_at + sealed)
            chosen.append((number, content, at, low))
        at += content
        sealed_at += sealed
    if first is None or last is None:
        raise Corrupt("no stream holds the range")
    return Window(first, last, _packages(chosen, start, stop))


def _packages(chosen: Sequence[tuple[int, int, int, int]], start: int, stop: int) -> Iterator[_Package]:
    for number, content, offset, low in chosen:
        count = max(1, -(-content // PACKAGE_BYTES))
        index = low
        while index < count:
            begins = offset + index * PACKAGE_BYTES
            if begins >= stop and index > low:
                break
            length = min(PACKAGE_BYTES, content - index * PACKAGE_BYTES)
            wanted = max(0, start - begins), min(length, max(0, stop - begins))
            yield _Package(number, index, index == count - 1, length + OVERHEAD_BYTES, *wanted)
            index += 1


class Opener:
    """Opens the sealed bytes of a window, given in pieces of any length."""

    __slots__ = ("_cipher", "_held", "_next", "_number", "_object_key", "_packages", "_salt")

    def __init__(self, object_key: bytes, packages: Iterator[_Package]) -> None:
        self._object_key = object_key
        self._packages = packages
        self._next = next(packages, None)
        self._number = -1
        self._salt = b""
        self._cipher: AESGCM | None = None
        self._held = bytearray()

    def feed(self, data: Buffer) -> bytes:
        """Content of the packages that `data` completes, which may be none. Raises Corrupt."""
        out: list[Buffer] = []
        view = memoryview(data)
        while len(view):
            package = self._next
            if package is None:
                raise Corrupt("the sealed bytes are longer than they were")
            if not self._held and len(view) >= package.sealed:
                self._open(package, view[: package.sealed], out)
                view = view[package.sealed :]
                continue
            taken = view[: package.sealed - len(self._held)]
            self._held += taken
            view = view[len(taken) :]
            if len(self._held) == package.sealed:
                held, self._held = self._held, bytearray()
                self._open(package, held, out)
        return b"".join(out)

    def finish(self) -> None:
        """Raises Corrupt when packages are missing."""
        if self._next is not None:
            raise Corrupt("the sealed bytes end early")

    def _open(self, package: _Package, sealed: Buffer, out: list[Buffer]) -> None:
        salt = bytes(sealed[:SALT_BYTES])
        if package.number != self._number:
            self._cipher = _stream_cipher(self._object_key, package.number)
            self._number, self._salt = package.number, salt
        assert self._cipher is not None
        nonce = salt + (package.place | (_LAST if package.last else 0)).to_bytes(4, "big")
        if salt != self._salt:  # of the same part, uploaded another time
            raise Corrupt("a sealed package is of another stream")
        try:
            content = self._cipher.decrypt(nonce, sealed[SALT_BYTES:], None)
        except InvalidTag:
            raise Corrupt("a sealed package fails its authentication") from None
        whole = package.start == 0 and package.stop == len(content)
        out.append(content if whole else content[package.start : package.stop])
        self._next = next(self._packages, None)
