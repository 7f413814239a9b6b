"""The bearer token of a metrics scraper, as `mc admin prometheus generate` makes it: a JWT signed with the secret key.

Only this one form is accepted: algorithm HS512, issuer `prometheus`, subject the root access key, an expiry in the future.
The header's algorithm is compared, never obeyed: a token that names `none` is no token.

Owns nothing. Does not know HTTP. Kind: pure. Spec: RFC 7519, RFC 7515; docs/OPERATIONS.md, "Metrics".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

import msgspec

from gateway.credentials import Credentials

ISSUER: Final = "prometheus"
TOKEN_BYTES_MAX: Final = 4096
LIFE_S: Final = 100 * 365 * 86_400
"""As long as `mc` makes it: a scraper's configuration is written once. New root credentials end every token."""


class _Header(msgspec.Struct):
    alg: str = ""


class _Claims(msgspec.Struct):
    iss: str = ""
    sub: str = ""
    exp: float = 0


def make(credentials: Credentials, now_s: float) -> str:
    """A token that `accepts` takes until `now_s + LIFE_S`."""
    parts = ({"alg": "HS512", "typ": "JWT"}, {"exp": int(now_s) + LIFE_S, "sub": credentials.access_key, "iss": ISSUER})
    signed = ".".join(_encoded(msgspec.json.encode(part)) for part in parts)
    return f"{signed}.{_encoded(_signature(credentials, signed))}"


def accepts(credentials: Credentials, token: str, now_s: float) -> bool:
    """Whether the token is root's and has not expired."""
    if len(token) > TOKEN_BYTES_MAX or not token.isascii() or token.count(".") != 2:
        return False
    signed, _, signature = token.rpartition(".")
    header, _, claims = signed.partition(".")
    try:
        # First the signature: nothing a stranger wrote is parsed.
        if not hmac.compare_digest(_signature(credentials, signed), _decoded(signature)):
            return False
        said = msgspec.json.decode(_decoded(claims), type=_Claims)
        algorithm = msgspec.json.decode(_decoded(header), type=_Header).alg
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
        return False
    return algorithm == "HS512" and said.iss == ISSUER and said.sub == credentials.access_key and said.exp > now_s


def _signature(credentials: Credentials, signed: str) -> bytes:
    return hmac.new(credentials.secret_key.encode(), signed.encode(), hashlib.sha512).digest()


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
