"""Children for tests of the supervisor: a worker that answers every request with its name, and a keeper that waits.

They are started as the real ones are and write what happens to them to `<data-dir>/events`. `RECALL_TEST_FAKE` makes them
misbehave: `worker-refuses`, `keeper-refuses`, `keeper-mute` (never ready), `worker-deaf` (ignores SIGTERM), `worker-slow` (takes
a moment to stop), `worker-dies` (once the gateway is ready), `worker-refuses-again` (when it is started a second time),
`worker-hangs`, `keeper-hangs` (has no pulse when it is started the first time).

Owns one listening socket. Does not know the engine. Kind: shell (test support).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from itertools import zip_longest
from pathlib import Path

from gateway.config import Settings
from gateway.pulse import Pulse
from gateway.runner import KEEPER_STOP, Briefing, Ready, Roles, main

_MODE = os.environ.get("RECALL_TEST_FAKE", "")


def _event(settings: Settings, text: str) -> None:
    with open(Path(settings.data_dir) / "events", "a") as stream:
        stream.write(text + "\n")


def _answer(listener: socket.socket, body: bytes) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )


def _listen(host: str, port: int, body: bytes, lent: int | None) -> None:
    """On the socket that was `lent`, or on one of its own."""
    listener = socket.socket(fileno=lent)
    if lent is None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    listener.listen()
    threading.Thread(target=_answer, args=(listener, body), daemon=True).start()


def _live(briefing: Briefing) -> None:
    """A pulse like that of a loop that turns."""

    def beating() -> None:
        pulse = Pulse(briefing.pulse_fd)
        while True:
            time.sleep(0.01)
            pulse.beat()

    threading.Thread(target=beating, daemon=True).start()


def worker(briefing: Briefing, slot: int, ready: Ready) -> None:
    """Serves `worker-<slot> <access key>` until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if _MODE == "worker-refuses" or (_MODE == "worker-refuses-again" and not briefing.first):
        raise OSError("the fake worker refuses")
    settings, credentials = briefing.settings, briefing.credentials
    body = f"worker-{slot} {credentials.access_key}"
    places = [(settings.listen, body)] + [
        (bound.address, f"bucket {bound.bucket}") for bound in settings.bucket_listeners
    ]
    for (address, said), lent in zip_longest(places, briefing.listening_fds):
        _listen(address.host, address.port, said.encode(), lent)
    if _MODE != "worker-hangs" or not briefing.first:
        _live(briefing)
    _event(settings, f"worker-{slot} ready")
    ready(settings.listen.port)
    if _MODE == "worker-dies":
        while not (Path(settings.data_dir) / "endpoint").exists():  # one that dies before is one that cannot start
            time.sleep(0.01)
        os._exit(7)
    while True:
        signal.sigwait({signal.SIGTERM})
        _event(settings, f"worker-{slot} told to stop")
        if _MODE == "worker-slow":
            time.sleep(0.3)
            _event(settings, f"worker-{slot} drained")
        if _MODE != "worker-deaf":
            return


def keeper(briefing: Briefing, ready: Ready) -> None:
    """Waits for KEEPER_STOP."""
    settings = briefing.settings
    signal.pthread_sigmask(signal.SIG_BLOCK, {KEEPER_STOP})
    if _MODE == "keeper-refuses":
        raise ValueError("the fake keeper refuses")
    if _MODE != "keeper-hangs" or not briefing.first:
        _live(briefing)
    if _MODE != "keeper-mute":
        _event(settings, "keeper ready, first" if briefing.first else "keeper ready, again")
        ready(None)
    signal.sigwait({KEEPER_STOP})
    _event(settings, "keeper told to stop")


if __name__ == "__main__":
    sys.exit(main(roles=Roles(worker=worker, keeper=keeper)))
