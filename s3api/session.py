"""Sessions: credentials that end, carried whole by the token that is sent with them.

Promise: nothing is kept for a session anywhere; any process with the same key knows its credentials from the token alone.
The secret is derived from the token, so a token that was seen is no credential.
Owns nothing but its key. Does not know requests. Kind: pure, but for randomness. Invariants: a token this key did not make,
or one that was changed, is refused; a session is never more than who began it is now: an identity that is gone, or was
given other rights or another secret, takes its sessions along.
Spec: AWS STS API Reference, AssumeRole; docs/S3.md, "Identities".
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import string
from collections.abc import Callable
from typing import Final

import msgspec

from s3api.errors import S3Error
from s3api.identity import Begun, Identity

KEY_PREFIX: Final = "ASIA"
_KEY_LETTERS: Final = string.ascii_uppercase + "234567"
_MAC_BYTES: Final = 32
_PROOF_BYTES: Final = 16


class _Claims(msgspec.Struct, frozen=True, array_like=True):
    """What a token says."""

    access_key: str
    parent: str  # access key of who began it
    expires_s: int
    name: str = ""
    policy: str = ""
    proof: bytes = b""  # of the secret that its beginner had


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Claims)


class Sessions:
    """`secret`: what the hashes of tokens are keyed with; all processes of a gateway have the same. `identities`: who is who now."""

    __slots__ = ("_identities", "_key")

    def __init__(self, secret: str, identities: Callable[[str], Identity | None]) -> None:
        self._key = hmac.digest(secret.encode("utf-8", "surrogateescape"), b"recall session tokens", "sha256")
        self._identities = identities

    def begin(self, who: Identity, duration_s: int, policy: str, name: str, now_s: int) -> Begun:
        """Credentials that may do what `who` and `policy` ("": no more) allow."""
        access_key = KEY_PREFIX + "".join(secrets.choice(_KEY_LETTERS) for _ in range(16))
        proof = self._proof(who)
        body = _ENCODER.encode(_Claims(access_key, who.access_key, now_s + duration_s, name, policy, proof))
        token = base64.urlsafe_b64encode(self._mac(b"token", body) + body).decode().rstrip("=")
        return Begun(access_key, self._secret(body), token, now_s + duration_s)

    def open(self, token: str, now_s: int) -> Identity:
        """The identity of a session. Raises InvalidToken, ExpiredToken."""
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            raise S3Error("InvalidToken") from None
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(b"token", body)):
            raise S3Error("InvalidToken")
        said = _DECODER.decode(body)
        if now_s >= said.expires_s:
            raise S3Error("ExpiredToken")
        parent = self._identities(said.parent)
        if parent is None or not hmac.compare_digest(said.proof, self._proof(parent)):
            raise S3Error("InvalidToken")
        role = parent.user_name or "root"
        return msgspec.structs.replace(
            parent,
            access_key=said.access_key,
            secret_key=self._secret(body),
            arn=f"arn:aws:sts::{parent.account_id}:assumed-role/{role}/{said.name}",
            parent_arn=parent.arn,
            user_id=f"{parent.user_id}:{said.name}",
            session_policy=said.policy,
            session_token=token,
        )

    def _mac(self, purpose: bytes, body: bytes) -> bytes:
        return hmac.digest(self._key, purpose + b"\0" + body, "sha256")

    def _proof(self, who: Identity) -> bytes:
        return self._mac(b"parent", who.secret_key.encode("utf-8", "surrogateescape"))[:_PROOF_BYTES]

    def _secret(self, body: bytes) -> str:
        return base64.urlsafe_b64encode(self._mac(b"secret", body)).decode()[:40]
