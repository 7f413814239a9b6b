"""Certificates for tests: of an authority of their own, or signed by themselves; the files as an operator would have them.

Owns nothing. Does not know the gateway. Kind: shell (test support: files).
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

DAY: Final = datetime.timedelta(days=1)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def new_key(kind: Literal["ec", "rsa"] = "ec") -> Key:
    return ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)


def _build(
    name: str, key: Key, issuer: str, issuer_key: Key, *, authority: bool, ends: datetime.datetime
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ends - 30 * DAY)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if authority:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    else:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


class Certificates:
    """A directory with `ca.pem`, `cert.pem` and `key.pem` for localhost and 127.0.0.1."""

    def __init__(self, directory: Path) -> None:
        self.ca = directory / "ca.pem"
        self.cert = directory / "cert.pem"
        self.key = directory / "key.pem"
        self._ca_key = new_key()
        ends = datetime.datetime.now(datetime.UTC) + 20 * DAY
        authority = _build("test authority", self._ca_key, "test authority", self._ca_key, authority=True, ends=ends)
        self.ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        self.issue()

    @property
    def settings(self) -> dict[str, str]:
        return {"tls_cert": str(self.cert), "tls_key": str(self.key)}

    def issue(self, kind: Literal["ec", "rsa"] = "ec", *, alone: bool = False, days: float = 10) -> x509.Certificate:
        """Replaces certificate and key. `alone`: signed by itself. `days` from now it ends."""
        key = new_key(kind)
        ends = datetime.datetime.now(datetime.UTC) + days * DAY
        if alone:
            made = _build("localhost", key, "localhost", key, authority=False, ends=ends)
        else:
            made = _build("localhost", key, "test authority", self._ca_key, authority=False, ends=ends)
        self.cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        self.write_key(key)
        return made

    def write_key(self, key: Key, passphrase: bytes = b"") -> None:
        lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            lock = serialization.BestAvailableEncryption(passphrase)
        content = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
        self.key.touch(mode=0o600)
        self.key.chmod(0o600)
        self.key.write_bytes(content)
