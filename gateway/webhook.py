"""One webhook over HTTP. A module of its own, so that a keeper without webhooks does without the HTTP client.

Owns one client session, which opens with the first message. Does not know queues or what a message says
(`gateway.notify`). Kind: owner, in the keeper's loop. Spec: docs/EXTENSIONS.md, "Notifications".
"""

from __future__ import annotations

import logging
from typing import Final

import aiohttp

from gateway.notify import Answer

_AWAY_4XX: Final = frozenset({408, 425, 429})
"""These speak of the moment, not of the event."""

_log = logging.getLogger("recall.notify")


class Webhook:
    """Posts messages to one URL. `token`: sent as it is in Authorization, with `Bearer` before a bare word."""

    def __init__(self, name: str, url: str, token: str, timeout_s: float) -> None:
        self._name = name
        self._url = url
        self._headers = {"Content-Type": "application/json", "User-Agent": "Recall"}
        if token:
            self._headers["Authorization"] = token if " " in token else f"Bearer {token}"
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def send(self, message: bytes) -> Answer:
        """Posts it once. An answer that does not come in time is none."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, headers=self._headers)
        try:
            async with self._session.post(self._url, data=message, allow_redirects=False) as reply:
                if 200 <= reply.status < 300:
                    return "taken"
                self._complain(f"it answers {reply.status}")
                return "refused" if 400 <= reply.status < 500 and reply.status not in _AWAY_4XX else "away"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._complain(str(error) or type(error).__name__)
            return "away"

    def _complain(self, why: str) -> None:
        _log.warning("webhook %s does not take events: %s", self._name, why, extra={"once": f"webhook-{self._name}"})

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
