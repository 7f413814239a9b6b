"""The bounds of the HTTP edge: how much, how many and how long one worker accepts.

Owns nothing. Does not know connections: `gateway.http.protocol` and `gateway.http.connections` apply the bounds.
Kind: table.
"""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """Every bound of one worker's HTTP side. Sizes in bytes, times in seconds."""

    connections_max: int = 4096
    """Connections served. One above takes the place of an idle one, else its request waits for the place of one that was just
    answered, `queue_s` at most, to be answered 503, and the connection is closed."""
    connections_refused_max: int = 1024
    """Connections above the maximum that wait for a place; further ones hear 503 at once."""
    requests_in_flight_max: int = 2048
    """Requests with a body between their head and the last byte of their answer. Those above wait for their turn, unread,
    `queue_s` at most, and are then answered 503; at once if they would wait longer. A worker that is behind takes fewer."""
    peer_fraction_max: float = 0.75
    """Of both maxima, what one address may hold: the rest is for others."""
    queue_s: float = 0.5
    """How long a place or a turn is waited for. Waiting costs nothing; being refused costs nearly as much as being served."""
    queue_overload_s: float = 0.1
    """The same for requests that lay unread since the worker is behind, once some have done so for all of `queue_s`."""
    refusal_fraction_max: float = 0.1
    """Of a worker's time, what refusing those who have waited that long may take; more of them wait on."""
    head_bytes_max: int = 32 << 10
    """Request line and header fields together: 431 above. Also how much a pipelining client may send ahead."""
    request_line_bytes_max: int = 16 << 10
    """414 above. A key of 1,024 bytes, all percent-encoded and a presigned query with a session token fit well."""
    header_count_max: int = 128
    """Header lines in one head: 431 above."""
    idle_s: float = 75.0
    """A connection with no request under way is closed after this."""
    head_s: float = 15.0
    """From the first byte of a head to its last; also the TLS handshake. 408 above."""
    body_rate_bytes_min: int = 32 << 10
    """Bytes a second the peer must move, either way, while we wait for it."""
    body_grace_s: float = 20.0
    """How long a peer may stand still before the minimum rate cuts it off."""
    discard_bytes_max: int = 1 << 20
    """An unread body up to this is read away to keep the connection; a longer one closes it."""
    linger_bytes_max: int = 64 << 20
    """Read away after a half-close, so that a peer still sending sees the answer and not a reset."""
    linger_s: float = 5.0
    """How long the half-closed connection waits for the peer to close."""
    receive_buffer_bytes: int = 256 << 10
    """One receive buffer: the worker has one for heads, a request holds one while it has bytes of its body. At least twice
    `head_bytes_max`."""
    receive_buffer_small_bytes: int = 32 << 10
    """The same while many requests hold one."""
    receive_buffers_free_max: int = 64
    """Receive buffers kept for the next bodies."""
    retry_after_s: int = 1
    """Retry-After of the 503 answers made here."""
    sweep_s: float = 0.5
    """Period of the check of all time limits, and so their resolution."""
    backlog: int = 1024
    """Connections the kernel queues before they are accepted."""
