"""AWS Signature Version 4 of the requests to the backing bucket, by header.

Why not the SDK's: it derives the day's key and compiles its forms again for each request, 20 µs at best and ten times that between
other work, all of it before the first byte of a recall. Why not `s3api.sigv4`'s: this package knows nothing of S3 as it is served.

Owns the key of the day and the words of the second. Does not know requests. Kind: pure, but for those and the clock handed in.
Spec: AWS S3 API Reference, "Authenticating Requests: Using the Authorization Header".
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable

UNSIGNED = "UNSIGNED-PAYLOAD"


class Signer:
    """One pair of credentials for one region; `clock_s` gives Unix time."""

    def __init__(self, access_key: str, secret_key: str, region: str, clock_s: Callable[[], float] = time.time) -> None:
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region
        self._clock_s = clock_s
        self._now_s = -1
        self._day = ""
        self._key = b""
        self._stamp = self._begin = self._credential = ""

    def sign(
        self, method: str, path: str, query: str, headers: dict[str, str], payload: str = UNSIGNED
    ) -> dict[str, str]:
        """`headers` and those that sign them. Names in lower case, `host` among them; values without outer or double spaces.

        `path` and `query` as they are sent, escaped, the query sorted. `payload`: SHA-256 in hex, or UNSIGNED.
        """
        now_s = int(self._clock_s())
        if now_s != self._now_s:
            self._turn_to(now_s)
        stamp = self._stamp
        out = {**headers, "x-amz-content-sha256": payload, "x-amz-date": stamp}
        names = sorted(out)
        signed = ";".join(names)
        lines = "".join([f"{name}:{out[name]}\n" for name in names])
        canonical = f"{method}\n{path}\n{query}\n{lines}\n{signed}\n{payload}"
        text = f"{self._begin}{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._key, text.encode(), "sha256").hex()
        out["authorization"] = f"{self._credential}, SignedHeaders={signed}, Signature={signature}"
        return out

    def _turn_to(self, now_s: int) -> None:
        """Makes what is the same for all requests of a second, or of a day."""
        self._now_s = now_s
        self._stamp = stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
        day = stamp[:8]
        scope = f"{day}/{self._region}/s3/aws4_request"
        self._begin = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n"
        if day != self._day:
            key = b"AWS4" + self._secret_key.encode()
            for word in (day, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, word.encode(), "sha256")
            self._day, self._key = day, key
            self._credential = f"AWS4-HMAC-SHA256 Credential={self._access_key}/{scope}"
