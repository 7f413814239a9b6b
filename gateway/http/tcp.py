"""What the kernel knows of a connection that is not being read: how long its last bytes have waited, and whether the peer is there.

Promise: neither reads anything nor changes anything; where the kernel does not say (no TCP, a closed socket), nobody has waited and
nobody has left.
Owns nothing. Does not know HTTP. Kind: shell (one system call each). Spec: tcp(7), `struct tcp_info` of linux/tcp.h.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Final

_ESTABLISHED: Final = 1
_LAST_DATA_RECEIVED: Final = 52
"""Offset of `tcpi_last_data_recv`, milliseconds; `tcpi_state` is the first byte."""
_BYTES: Final = _LAST_DATA_RECEIVED + 4


def silent_s(transport: asyncio.BaseTransport) -> float:
    """How long ago the last bytes came from the peer: of a whole request that is read only now, for how long it has waited."""
    info = _info(transport)
    return int.from_bytes(info[_LAST_DATA_RECEIVED:], sys.byteorder) / 1000 if info else 0.0


def has_left(transport: asyncio.BaseTransport) -> bool:
    """Whether the peer has closed the connection or reset it, though bytes of it may not be read yet.

    Who has closed only its own direction looks the same.
    """
    info = _info(transport)
    return bool(info) and info[0] != _ESTABLISHED


def _info(transport: asyncio.BaseTransport) -> bytes:
    sock = transport.get_extra_info("socket")
    number = -1 if sock is None else sock.fileno()
    if number < 0:
        return b""
    # Not the loop's own object for it: uvloop's makes a second descriptor for each call, which takes ten times as long.
    borrowed = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, number)
    try:
        info = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES)
    except OSError:
        return b""
    finally:
        borrowed.detach()
    return info if len(info) == _BYTES else b""
