"""The gateway's certificate and key: read from the files of `tls_cert` and `tls_key`, and judged before they are used.

Promise: a pair that is returned works: the key is the certificate's, OpenSSL takes both. A key is never in a Settings, an
argument vector, a log line or a repr; a key file that others may read is refused rather than repaired.

Owns nothing: each call reads the files anew. Does not know listeners. Kind: shell (plain file calls; an anonymous file).
Spec: docs/OPERATIONS.md, "TLS"; RFC 7468 (PEM).
"""

from __future__ import annotations

import os
import ssl
import time
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from gateway import secretfile
from gateway.config import Settings
from gateway.http import tls
from gateway.secretfile import SecretFileError

FILE_BYTES_MAX: Final = 1 << 20
PINNED_NAME: Final = "run/tls.pem"
"""In the data directory: the certificate in force, for the commands, which trust exactly that one."""


class TlsError(Exception):
    """The certificate or its key cannot be used."""


class Pair(msgspec.Struct, frozen=True):
    """A certificate with its chain, and its key; both PEM. `warning`: what is wrong with it though it can be used."""

    chain: bytes
    key: bytes
    warning: str = ""

    def __repr__(self) -> str:
        return f"Pair({len(self.chain)} bytes of certificates)"


def load(settings: Settings, now_s: float | None = None) -> Pair | None:
    """What the files hold now; None without TLS. Raises TlsError."""
    if not settings.tls_cert:
        return None
    chain = _read_chain(settings.tls_cert)
    try:
        key = secretfile.read(Path(settings.tls_key), FILE_BYTES_MAX, "make a new key, or accept it with chmod 600")
    except SecretFileError as error:
        raise TlsError(f"tls_key: {error}") from None
    if key is None:
        raise TlsError(f"tls_key: {settings.tls_key} does not exist")
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except (ValueError, IndexError):
        raise TlsError(f"tls_cert: {settings.tls_cert} holds no certificate in PEM") from None
    try:
        public = load_pem_private_key(key, None).public_key()
    except TypeError:
        raise TlsError(f"tls_key: {settings.tls_key} is locked with a passphrase: nobody is there to type it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise TlsError(f"tls_key: {settings.tls_key} holds no private key in PEM") from None
    if _bytes(public) != _bytes(leaf.public_key()):
        raise TlsError(
            f"tls_key: {settings.tls_key} is not the key of the first certificate in {settings.tls_cert}, which must be the "
            "server's own"
        )
    pair = Pair(chain, key, _warning(leaf, time.time() if now_s is None else now_s))
    context(pair, settings.tls_min_version)
    return pair


def ends_s(data_dir: Path) -> float | None:
    """When the certificate that a data directory names ends, in Unix time; None without one."""
    try:
        return x509.load_der_x509_certificate(pinned(data_dir)).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return None


def context(pair: Pair, version_min: str) -> ssl.SSLContext:
    """A context that shows this certificate. Raises TlsError when OpenSSL does not take it, or cannot be given it."""
    made = tls.new_context(version_min)
    try:
        with _Anonymous(pair.chain) as chain, _Anonymous(pair.key) as key:
            made.load_cert_chain(chain.path, key.path, password="")
    except (ssl.SSLError, ValueError) as error:
        raise TlsError(f"tls_cert: OpenSSL does not take the certificate and its key: {error}") from None
    except OSError as error:  # no descriptor left, or no /proc
        raise TlsError(f"tls_cert: the certificate cannot be handed to OpenSSL: {error.strerror}") from None
    return made


def pinned(data_dir: Path) -> bytes:
    """The certificate that the gateway of this data directory shows, in DER. Raises OSError, ValueError."""
    return ssl.PEM_cert_to_DER_cert((data_dir / PINNED_NAME).read_text("ascii"))


def server_certificate(pair: Pair) -> str:
    """The first certificate alone, in PEM: a file may hold more, its key among it."""
    return x509.load_pem_x509_certificates(pair.chain)[0].public_bytes(Encoding.PEM).decode("ascii")


def signs_itself(pair: Pair) -> bool:
    """Whether clients can be given the certificate file itself as what they trust."""
    leaf = x509.load_pem_x509_certificates(pair.chain)[0]
    return leaf.issuer == leaf.subject


def _read_chain(file: str) -> bytes:
    try:
        with open(file, "rb") as stream:
            chain = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise TlsError(f"tls_cert: {file} cannot be read: {error.strerror}") from None
    if len(chain) > FILE_BYTES_MAX:
        raise TlsError(f"tls_cert: {file} is longer than {FILE_BYTES_MAX} bytes")
    return chain


def _bytes(public: object) -> bytes:
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]


def _warning(leaf: x509.Certificate, now_s: float) -> str:
    ends, begins = leaf.not_valid_after_utc, leaf.not_valid_before_utc
    if now_s >= ends.timestamp():
        return f"the certificate ended on {ends:%Y-%m-%d %H:%M} UTC: clients refuse it"
    if now_s < begins.timestamp():
        return f"the certificate does not begin before {begins:%Y-%m-%d %H:%M} UTC: clients refuse it"
    return ""


class _Anonymous:
    """Bytes under a path that only this process has: OpenSSL, as Python binds it, reads certificates from paths alone."""

    def __init__(self, content: bytes) -> None:
        self._descriptor = os.memfd_create("recall-tls")
        self.path = f"/proc/self/fd/{self._descriptor}"
        with open(self._descriptor, "wb", closefd=False) as stream:
            stream.write(content)

    def __enter__(self) -> _Anonymous:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
