"""What is measured: our gateway, and the servers beside it, each as the same small set of calls.

Owns the table of peers. Does not know what they are asked. Kind: table. Spec: bench/README.md, "The peers".
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.peers.keyvalue import KeyValuePeer, MemcachedWire, RedisWire
from bench.peers.mooncake import MooncakePeer
from bench.peers.nginx import NginxPeer
from bench.peers.peer import Peer
from bench.peers.s3 import ENDPOINTS, S3Peer, endpoints, moto, rclone

PEERS = ("nginx", "redis", "memcached", "moto", "rclone", "mooncake")
"""Those that are started here; more are named by `ENDPOINTS`."""
SCALING = ("nginx", "memcached")
"""Those that can be told how many workers they have; the others are measured once, as they are."""


class NotThere(Exception):
    """A peer that this machine does not have; the message says what is missing."""


def known(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The names of all peers. Raises ValueError when `ENDPOINTS` cannot be read."""
    return (*PEERS, *endpoints(environ.get(ENDPOINTS, "")))


def scaled(name: str, workers: int) -> str:
    """What a peer is called with so many workers."""
    return name if workers == 1 else f"{name} x{workers}"


def found(
    names: Sequence[str], workers: Sequence[int], folder: Path, environ: Mapping[str, str] = os.environ
) -> tuple[list[Peer], dict[str, str]]:
    """The named peers that this machine has, and why it has not the others."""
    peers: list[Peer] = []
    absent: dict[str, str] = {}
    for name in names:
        for count in workers if name in SCALING else (1,):
            try:
                home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder))
                peers.append(_peer(name, count, home, endpoints(environ.get(ENDPOINTS, ""))))
            except NotThere as error:
                absent[name] = str(error)
    return peers, absent


def _peer(name: str, workers: int, home: Path, running: Mapping[str, Callable[[], object]]) -> Peer:
    label = scaled(name, workers)
    match name:
        case "nginx":
            return NginxPeer(label, _program("nginx"), workers, home)
        case "redis":
            return KeyValuePeer(label, RedisWire(), _program("redis-server"), workers, home)
        case "memcached":
            return KeyValuePeer(label, MemcachedWire(), _program("memcached"), workers, home)
        case "moto":
            return S3Peer(label, functools.partial(moto, _module("moto", home)))
        case "rclone":
            return S3Peer(label, functools.partial(rclone, _program("rclone"), home))
        case "mooncake":
            return MooncakePeer(label, _module("mooncake", home))
    return S3Peer(label, running[name], durable=True)


def _program(name: str) -> str:
    # Debian keeps nginx in sbin, and a wheel's program is beside its Python: neither is on every user's path.
    places = [os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", str(Path(sys.executable).parent)]
    path = shutil.which(name, path=os.pathsep.join(places))
    if path is None:
        raise NotThere(f"no {name} on the path")
    return path


def _module(name: str, home: Path) -> Path:
    if importlib.util.find_spec(name) is None:
        raise NotThere(f"no module {name}")
    return home
