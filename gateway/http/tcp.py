"""What the kernel knows of a connection that is not being read, how long its last bytes have waited, whether the peer is there and how
much it has taken; how much it may hold for one, how it sends, and whether it takes more of them.

Promise: nothing is read; where the kernel does not say or do it (no TCP, a closed socket), nobody has waited, nobody has left, and what
it holds is its own affair.
Owns nothing. Does not know HTTP. Kind: shell (one system call each). Spec: tcp(7), `struct tcp_info` of linux/tcp.h.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import Final

_ESTABLISHED: Final = 1
_LAST_DATA_RECEIVED: Final = 52
"""Offset of `tcpi_last_data_recv`, milliseconds; `tcpi_state` is the first byte."""
_UNACKED: Final = 24
_BYTES_ACKED: Final = 120
_NOT_SENT: Final = 144
"""Offsets of `tcpi_unacked`, packets; `tcpi_bytes_acked`, 64 bits; and `tcpi_notsent_bytes`."""
_BYTES: Final = _NOT_SENT + 4
_UNPACED: Final = b"reno"
"""The one congestion control that every kernel has and lets everybody choose."""


def prepare(transport: asyncio.BaseTransport, peer: str) -> None:
    """For a connection from `peer` that has come: replies leave at once; and where both ends are this machine, without a pace.

    There is no road between them that could be congested, and to measure one, as BBR does, costs CPU (docs/decisions/0023). What leaves
    the machine goes as the machine's owner has chosen.
    """
    sock = _borrowed(transport)
    if sock is None:
        return
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        own = transport.get_extra_info("sockname")
        if own and own[0] == peer:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _UNPACED)
    except OSError:
        pass
    finally:
        sock.detach()


def prepare_listening(bound: socket.socket) -> None:
    """For a socket that others have too, before it listens: what is left of its connections for a minute after their end keeps nobody
    from binding the address again."""
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def quiet(listening: socket.socket) -> None:
    """Has the kernel refuse connections from now on, whoever else has the socket. It keeps the address, and can listen again."""
    with contextlib.suppress(OSError):  # it did not listen
        listening.shutdown(socket.SHUT_RDWR)
    # With it, another could bind the address of one that does not listen.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def silent_s(transport: asyncio.BaseTransport) -> float:
    """How long ago the last bytes came from the peer: of a whole request that is read only now, for how long it has waited."""
    info = _info(transport)
    return int.from_bytes(info[_LAST_DATA_RECEIVED : _LAST_DATA_RECEIVED + 4], sys.byteorder) / 1000 if info else 0.0


def has_left(transport: asyncio.BaseTransport) -> bool:
    """Whether the peer has closed the connection or reset it, though bytes of it may not be read yet.

    Who has closed only its own direction looks the same.
    """
    info = _info(transport)
    return bool(info) and info[0] != _ESTABLISHED


def has_unread(transport: asyncio.BaseTransport) -> bool:
    """Whether bytes of the peer lie there that nobody has read: closing the connection would be a reset, and what is still on its way to
    the peer lost."""
    sock = _borrowed(transport)
    if sock is None:
        return False
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False
    finally:
        sock.detach()


def delivery(transport: asyncio.BaseTransport) -> tuple[int, bool]:
    """How many bytes have reached the peer, in all, and whether there are more that have not."""
    info = _info(transport)
    acked = int.from_bytes(info[_BYTES_ACKED : _BYTES_ACKED + 8], sys.byteorder)
    return acked, any(info[_UNACKED : _UNACKED + 4]) or any(info[_NOT_SENT : _NOT_SENT + 4])


def bound_unsent(transport: asyncio.BaseTransport, limit_bytes: int) -> None:
    """The kernel takes about so many bytes at most for the peer beyond its window; 0: as many as it likes, which is megabytes."""
    sock = _borrowed(transport)
    if sock is None:
        return
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limit_bytes)
    except OSError:
        pass
    finally:
        sock.detach()


def _info(transport: asyncio.BaseTransport) -> bytes:
    sock = _borrowed(transport)
    if sock is None:
        return b""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES)
    except OSError:
        return b""
    finally:
        sock.detach()
    return info if len(info) == _BYTES else b""


def _borrowed(transport: asyncio.BaseTransport) -> socket.SocketType | None:
    """To be detached, not closed. Not the loop's own object for it: uvloop's makes a second descriptor for each call, which takes ten
    times as long."""
    sock = transport.get_extra_info("socket")
    number = -1 if sock is None else sock.fileno()
    return None if number < 0 else socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, number)
