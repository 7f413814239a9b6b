"""AWS Signature Version 4 over headers, for requests whose payload is not signed.

Owns nothing. Does not know sockets. Kind: pure, but for the cached key of the day.
Spec: AWS S3 API Reference, "Authenticating Requests: Using the Authorization Header".
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import time
from urllib.parse import quote

PAYLOAD = "UNSIGNED-PAYLOAD"


@functools.lru_cache(maxsize=8)
def _signing_key(secret_key: str, date: str, region: str) -> bytes:
    key = b"AWS4" + secret_key.encode()
    for word in (date, region, "s3", "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    return key


class Credentials:
    """A key pair; `session_token` "" unless the keys are temporary."""

    def __init__(self, access_key: str, secret_key: str, session_token: str = "", region: str = "us-east-1") -> None:
        self.access_key = access_key
        self._secret_key = secret_key
        self._session_token = session_token
        self._region = region

    def __repr__(self) -> str:
        return f"Credentials({self.access_key!r})"

    def sign(self, method: str, path: str, query: str, host: str, headers: dict[str, str]) -> dict[str, str]:
        """`headers` (lower-case names) and those that sign them. `path`, `query`: as they go on the wire."""
        now = time.gmtime()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", now)
        date = stamp[:8]
        out = {**headers, "host": host, "x-amz-date": stamp, "x-amz-content-sha256": PAYLOAD}
        if self._session_token:
            out["x-amz-security-token"] = self._session_token
        names = sorted(out)
        signed = ";".join(names)
        canonical = "\n".join(
            (method, path, query, *(f"{name}:{out[name].strip()}" for name in names), "", signed, PAYLOAD)
        )
        scope = f"{date}/{self._region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = _signing_key(self._secret_key, date, self._region)
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        out["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
        )
        return out


def path_of(bucket: str, key: str = "") -> str:
    """The path of a bucket or object as it is signed and sent."""
    return "/" + quote(f"{bucket}/{key}" if key else bucket, safe="/-_.~")
