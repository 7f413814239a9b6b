"""The server side of TLS: how connections of a listener shake hands.

Promise: a new certificate counts for the next handshake and touches no connection that stands; a handshake that fails is
told once, with OpenSSL's word for it, and costs no trace; those under way have a bound.
**Owns** the count of handshakes under way. **Does not know** files, settings, HTTP.
Kind: owner, on the loop's thread. Invariant: event loops make each connection's TLS object with `wrap_bio`, the only public
way without a socket. Spec: RFC 8446, RFC 5246; RFC 7301 (ALPN).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, ClassVar, Final, Self

CIPHERS_1_2: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""TLS 1.2 with forward secrecy and authenticated encryption only: what every SDK of the last ten years has."""
VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def new_context(version_min: str) -> ssl.SSLContext:
    """What is common to all handshakes; without a certificate. `version_min`: of VERSIONS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[version_min]
    context.set_ciphers(CIPHERS_1_2)
    context.set_alpn_protocols(["http/1.1"])
    # No session tickets: each worker would seal them with a key of its own, which the others do not have, and S3 clients
    # keep their connections, so that little would be gained by sharing keys.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    context.sslobject_class = _Channel
    return context


def version_of(channel: Any) -> str:
    """`1.3`, of a connection's TLS object; empty for None."""
    return "" if channel is None else str(channel.version()).removeprefix("TLSv")


class _Channel(ssl.SSLObject):
    """One connection's TLS; tells its gate how the handshake went."""

    gate: Gate | None = None  # while the handshake is under way

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._leave(error.reason or "unknown")
            raise
        self._leave("")

    def __del__(self) -> None:
        # The peer left, or the time limit ended it: loops tell nobody, but they let go of it.
        self._leave("ABANDONED")

    def _leave(self, why: str) -> None:
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.left(why)


class Gate(ssl.SSLContext):
    """What listeners are given: a context whose certificate can be replaced while they serve.

    OpenSSL can load a second certificate into a context that serves, but keeps the first beside it where the kinds of their
    keys differ: so each certificate has a context of its own, and this one only says which counts.
    """

    ABANDONED: ClassVar = "ABANDONED"
    current: ssl.SSLContext
    under_way: int
    _under_way_max: int
    _failed: Callable[[str], None]

    @classmethod
    def over(cls, current: ssl.SSLContext, under_way_max: int, failed: Callable[[str], None]) -> Self:
        """`current`: of `new_context`, with a certificate. `failed` hears OpenSSL's name of each failure."""
        gate = cls(ssl.PROTOCOL_TLS_SERVER)
        gate.current = current
        gate.under_way = 0
        gate._under_way_max = under_way_max
        gate._failed = failed
        return gate

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """Raises ConnectionAbortedError, which loops answer by closing, when too many shake hands."""
        if self.under_way >= self._under_way_max:
            self._failed("TOO_MANY")
            raise ConnectionAbortedError("too many TLS handshakes are under way")
        channel = self.current.wrap_bio(*arguments, **named)
        if isinstance(channel, _Channel):
            channel.gate = self
            self.under_way += 1
        return channel

    def left(self, why: str) -> None:
        """A handshake is over; `why` it failed, if it did."""
        self.under_way -= 1
        if why:
            self._failed(why)
