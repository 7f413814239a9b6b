"""The entry of a child process: `python -m gateway.runner worker --slot 0 …`, started by the supervisor only.

Promise: the child reads what it is told from an inherited descriptor (never from arguments or the environment, which others
can read), dies when its supervisor dies, and says through a pipe that it is ready or why it cannot be.

Owns the child's process-wide set-up: death signal, logging, inherited descriptors. Does not know what a worker or a keeper
does (`gateway.worker`, `gateway.keeper`). Kind: shell. Spec: docs/ARCHITECTURE.md, "Processes".
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from gateway import log
from gateway.config import Settings
from gateway.credentials import Credentials
from gateway.identities import IdentitiesError
from gateway.tls import Pair, TlsError
from s3api.sealing import NO_KEYS, KeyRing
from tiering.contract import StoreError

Ready = Callable[[int | None], None]
"""Called once, when the child can serve, with the port it listens on (None for the keeper)."""

_PR_SET_PDEATHSIG: Final = 1
KEEPER_STOP: Final = signal.SIGUSR1
"""Ends the keeper, which heeds no SIGTERM: those who stop a gateway often tell all its processes at once (`timeout`, systemd by
default), and writes that are under way then wait for the keeper."""
STACKS: Final = signal.SIGUSR2
"""Has a child write where each of its threads is, to its standard error, and go on."""
_log = logging.getLogger("recall.runner")


class Briefing(msgspec.Struct, frozen=True):
    """What a child is told. Holds the secrets: it exists in memory and in an anonymous file only.

    `first`: no worker has been started yet since the lock was taken, so a keeper may recover as if it were alone; one that
    is started again later is not. `secrets`: variables that the child's environment, which others can read, does not have.
    `kept_fd`: a file in memory that the supervisor passes on to the child that is started in this one's place. `pulse_fd`: where
    the child shows that its loop turns (`gateway.pulse`). `listening_fds`: the sockets of a worker that is the only one, in the order of
    its addresses; several bind sockets of their own.
    """

    settings: Settings
    credentials: Credentials
    first: bool = True
    keys: KeyRing = NO_KEYS
    tls: Pair | None = None
    secrets: Mapping[str, str] = {}
    kept_fd: int = -1
    pulse_fd: int = -1
    listening_fds: tuple[int, ...] = ()

    @property
    def environ(self) -> dict[str, str]:
        """The environment as the supervisor has it, but for what is told here in other ways."""
        return {**os.environ, **self.secrets}


class Report(msgspec.Struct, frozen=True):
    """What a child answers, one JSON line: ready with its port, or why not."""

    port: int | None = None
    error: str = ""


class Roles(msgspec.Struct, frozen=True):
    """What the two kinds of child do. Each blocks until it is told to stop, by SIGTERM or KEEPER_STOP, and returns when it has
    drained."""

    worker: Callable[[Briefing, int, Ready], None]
    keeper: Callable[[Briefing, Ready], None]


def main(arguments: Sequence[str] | None = None, roles: Roles | None = None) -> int:
    """Runs one child; returns its exit status. `roles`: other children than ours, for tests of the supervisor."""
    parser = argparse.ArgumentParser(prog="gateway.runner")
    parser.add_argument("role", choices=("worker", "keeper"))
    parser.add_argument("--slot", type=int, default=0)
    for name in ("parent", "briefing-fd", "ready-fd", "lock-fd", "kept-fd", "pulse-fd"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args(arguments)
    _die_with(options.parent)
    # Ctrl-C reaches the whole group of the terminal; only the supervisor acts on it, with a SIGTERM to each child.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if options.role == "keeper":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The supervisor has started us with this one blocked, lest a terminal that closes kills us before we can ignore it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    # The lock stays open, unused: a data directory is in use for as long as any process of the gateway lives.
    for descriptor in (options.lock_fd, options.ready_fd, options.kept_fd, options.pulse_fd):
        os.set_inheritable(descriptor, False)
    # Written below Python, so also by one whose loop stands still: the supervisor asks for it before it kills such a child.
    faulthandler.register(STACKS)
    name = f"worker-{options.slot}" if options.role == "worker" else "keeper"
    log.start(name, "info")
    report = _Reporter(options.ready_fd)
    try:
        with open(options.briefing_fd, "rb") as stream:
            briefing = msgspec.json.decode(stream.read(), type=Briefing)
        briefing = msgspec.structs.replace(briefing, kept_fd=options.kept_fd, pulse_fd=options.pulse_fd)
        for descriptor in briefing.listening_fds:
            os.set_inheritable(descriptor, False)
        log.start(name, briefing.settings.log_level)
        actual = roles or _ours()
        if options.role == "worker":
            actual.worker(briefing, options.slot, report.ready)
        else:
            actual.keeper(briefing, report.ready)
    except Exception as error:
        # The supervisor says it when it decides what a child that cannot start means; the trace of our own mistakes is for us.
        if not _is_worlds(error):
            _log.exception("failed")
            report.failed(f"{type(error).__name__}: {error}")
        elif not report.failed(str(error)):
            _log.error("failed", extra={"why": str(error)})
        return 1
    return 0


def _is_worlds(error: Exception) -> bool:
    """Whether the message says all: a disk, a file or a certificate that is not as it must be."""
    from tiering.index import IndexCorrupt  # late, as below

    return isinstance(error, StoreError | IndexCorrupt | IdentitiesError | TlsError)


def _ours() -> Roles:
    from gateway import keeper, worker  # late: the supervisor imports this module, and needs nothing of the engine

    return Roles(worker=worker.run, keeper=keeper.run)


def _die_with(parent: int) -> None:
    """Asks the kernel for a SIGKILL when the supervisor dies, however it dies (Linux; elsewhere children outlive it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)


class _Reporter:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def ready(self, port: int | None) -> None:
        self._send(Report(port=port))

    def failed(self, message: str) -> bool:
        """False when the child was ready before: then nobody listens any more."""
        return self._send(Report(error=message))

    def _send(self, report: Report) -> bool:
        if self._descriptor < 0:
            return False
        os.write(self._descriptor, msgspec.json.encode(report) + b"\n")
        os.close(self._descriptor)
        self._descriptor = -1
        return True


if __name__ == "__main__":
    sys.exit(main())
