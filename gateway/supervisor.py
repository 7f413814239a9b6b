"""The supervisor: the addresses of a gateway and the children that serve them.

Promise: the address is known and held before any child starts; the keeper is ready (it recovers the pools) before the first
worker starts; a child that dies is started again with back-off, and so is one whose loop stands still; SIGTERM or SIGINT drains,
workers first, since a write in flight may wait for the keeper; no child outlives the supervisor.

Owns the bound addresses and the child processes; writes the run files of its `DataDir`. Does not know what children do.
Kind: shell; one thread, which only waits in `_Watch.wait`.
Spec: docs/ARCHITECTURE.md, "Processes"; docs/OPERATIONS.md, "Start and stop".
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from gateway import keys, pulse, tls
from gateway.config import BACKING_SECRETS, NOTIFY_TOKEN_PREFIX, Settings
from gateway.credentials import SECRET_VARIABLES, Credentials
from gateway.datadir import DataDir, StartError
from gateway.http.tcp import quiet
from gateway.runner import KEEPER_STOP, STACKS, Briefing, Report
from gateway.tls import Pair, TlsError
from gateway.value import Address
from s3api.sealing import NO_KEYS, KeyRing
from tiering import whole

RESTART_WAIT_FIRST_S: Final = 0.1
RESTART_WAIT_MAX_S: Final = 5.0
RESTART_RESET_S: Final = 10.0
"""A child that lived this long starts again without delay: it was no crash loop."""
KILL_WAIT_S: Final = 5.0
LOOKS: Final = 12
"""How often in `hang_s` a child's pulse is looked at. It hangs when that many looks in a row saw the same beat: time alone says
nothing where the whole machine was stopped."""
SAME_SIGNAL_S: Final = 0.5
"""Stop signals that come so soon after one another are one: `timeout` and some shells tell a process and then its whole group."""
REPORT_BYTES_MAX: Final = 65_536
_WAIT_MAX_S: Final = 3600.0
"""The system's call takes no longer wait than some weeks."""

_log = logging.getLogger("recall.supervisor")


# --- the addresses ----------------------------------------------------------------------------------------------------


def hold(address: Address) -> tuple[socket.socket, Address]:
    """Binds an address without listening, so that it stays ours while workers come and go; port 0 becomes a real one.

    Several workers bind it again with SO_REUSEPORT; a socket that does not listen gets no connections. Raises StartError.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # SO_REUSEPORT would let us share the port of another gateway of the same user, and its clients' requests.
            # Only a socket without it tells whether the port is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            place = probe.getsockname()  # asked for by number, a port is kept also by who does not listen any more
        held = socket.socket(family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:  # as a loop does with the sockets of its own
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        held.bind(place)
    except OSError as error:
        advice = "; choose another address with --listen" if error.errno == errno.EADDRINUSE else ""
        raise StartError(f"cannot listen on {address}: {error.strerror}{advice}") from None
    return held, Address(str(place[0]), held.getsockname()[1])


def url(address: Address, secure: bool = False) -> str:
    """How a client on this machine reaches the address."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    return f"{'https' if secure else 'http'}://{Address(host, address.port)}"


# --- the children -----------------------------------------------------------------------------------------------------


class _Child:
    """One slot: a process, or the wait until it is started again."""

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None
        self.exit_fd = -1  # readable when the process has ended
        self.report_fd = -1
        self.report = b""
        self.kept_fd = -1  # what one process of the slot leaves to the next: in memory, and never looked into here
        self.pulse_fd = -1
        self.beats = 0  # as they were last seen,
        self.still = 0  # in so many looks
        self.ready = False
        self.tls: Pair | None = None  # the certificate it was told of
        self.starts = 0
        self.started_s = 0.0
        self.restart_at_s = 0.0
        self.restart_wait_s = RESTART_WAIT_FIRST_S

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0


class Supervisor:
    """Runs a gateway from start to drain. `module` is the children's entry; another one only in tests."""

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        data_dir: DataDir,
        announce: Callable[[Settings], None],
        module: str = "gateway.runner",
        ring: KeyRing = NO_KEYS,
        pair: Pair | None = None,
    ) -> None:
        self._data_dir = data_dir
        self._announce = announce
        self._module = module
        self._credentials = credentials
        self._ring = ring
        self._pair = pair
        self._held: list[socket.socket] = []
        self._settings = self._fixed(settings)
        self._keeper = _Child("keeper", ("keeper",))
        self._workers = [_Child(f"worker-{slot}", ("worker", "--slot", str(slot))) for slot in range(settings.workers)]
        self._watch = _Watch()
        self._look_at_s = 0.0
        self._ended = False
        """A child has ended unasked, perhaps because the device refused: what an index on it is worth is for an audit."""

    def _fixed(self, settings: Settings) -> Settings:
        """The settings with what is only known now: ports, and capacities taken from the disk. Raises StartError."""
        held, listen = hold(settings.listen)
        self._held.append(held)
        listeners = []
        for listener in settings.bucket_listeners:
            held, address = hold(listener.address)
            self._held.append(held)
            listeners.append(msgspec.structs.replace(listener, address=address))
        settings = msgspec.structs.replace(settings, listen=listen, bucket_listeners=tuple(listeners))
        return self._data_dir.fitted(settings)

    def run(self) -> int:
        """Blocks until a signal has drained the gateway; returns the exit status. Raises StartError when a first start fails."""
        _log.info("starting", extra={"data_dir": self._settings.data_dir, "workers": self._settings.workers})
        self._data_dir.note("run/supervisor.pid", f"{os.getpid()}\n")
        try:
            if self._start([self._keeper]) and self._start(self._workers):
                self._publish()
                self._tend()
        finally:
            self._stop()
            self._watch.close()
            for held in self._held:
                held.close()
            for child in (self._keeper, *self._workers):
                for descriptor in (child.kept_fd, child.pulse_fd):
                    if descriptor >= 0:
                        os.close(descriptor)
        return 0

    # first start

    def _start(self, children: Sequence[_Child]) -> bool:
        """Starts them and waits until all are ready; False when a signal came first. Raises StartError."""
        deadline_s = time.monotonic() + self._settings.start_s
        for child in children:
            try:
                self._spawn(child)
            except OSError as error:
                raise StartError(f"{child.name} cannot be started: {error.strerror}") from None
        while not all(child.ready for child in children):
            self._watch.wait(deadline_s - time.monotonic(), self._on_report, self._on_first_exit)
            if self._watch.stop_signal:
                return False
            if time.monotonic() >= deadline_s:
                late = ", ".join(child.name for child in children if not child.ready)
                raise StartError(f"{late} did not become ready within {self._settings.start_s:g} s (start_s)")
        return True

    def _on_first_exit(self, child: _Child) -> None:
        said = _decoded(child.report).error
        raise StartError(f"{child.name} cannot start: {said or self._reap(child)}")

    def _publish(self) -> None:
        secure = self._pair is not None
        self._publish_certificate()
        for listener in self._settings.bucket_listeners:
            self._data_dir.publish(f"run/{listener.bucket}.endpoint", url(listener.address, secure) + "\n")
        endpoint = url(self._settings.listen, secure)
        self._data_dir.publish("endpoint", endpoint + "\n")
        _tell_manager(f"READY=1\nSTATUS=serving at {endpoint}")
        self._announce(self._settings)

    def _publish_certificate(self) -> None:
        if self._pair is not None:
            if self._pair.warning:
                _log.warning(self._pair.warning, extra={"file": self._settings.tls_cert})
            self._data_dir.note(tls.PINNED_NAME, tls.server_certificate(self._pair))

    # running

    def _tend(self) -> None:
        """Until a stop signal: starts dead children again when their time has come, kills those that hang, and reads the
        certificate again when SIGHUP asks for it."""
        while not self._watch.stop_signal:
            if self._watch.hung_up:
                self._watch.hung_up = False
                self._renew_certificate()
            now_s = time.monotonic()
            dead = [child for child in (self._keeper, *self._workers) if child.process is None]
            for child in dead:
                if child.restart_at_s <= now_s:
                    self._spawn_again(child)
            waits = [child.restart_at_s - now_s for child in dead if child.process is None]
            if self._settings.hang_s:
                waits.append(self._look(now_s) - now_s)
            self._watch.wait(min(waits, default=_WAIT_MAX_S), self._on_report, self._on_exit)

    def _look(self, now_s: float) -> float:
        """Looks at the children's pulses if it is time to, and kills those that hang; answers when to look again."""
        if now_s < self._look_at_s:
            return self._look_at_s
        self._look_at_s = now_s + self._settings.hang_s / LOOKS
        for child in (self._keeper, *self._workers):
            beats = pulse.beats(child.pulse_fd) if child.ready else 0
            if not child.ready or beats != child.beats or _is_stopped(child.pid):
                child.beats, child.still = beats, 0
                continue
            child.still += 1
            if child.still == LOOKS:
                _log.error("its loop stands still: killed when it has said where", extra={"child": child.name})
                self._signal([child], STACKS)
            elif child.still > LOOKS:
                self._signal([child], signal.SIGKILL)
        return self._look_at_s

    def _renew_certificate(self) -> None:
        """What cannot be used is said and changes nothing."""
        if self._pair is None:
            _log.info("there is no certificate to read again; settings are read at a start only")
            return
        try:
            self._pair = tls.load(self._settings)
        except TlsError as error:
            _log.error("the certificate stays as it was", extra={"why": str(error)})
            return
        _log.info("the certificate was read again", extra={"file": self._settings.tls_cert})
        self._publish_certificate()
        for child in self._workers:
            if child.ready:
                self._tell_certificate(child)

    def _tell_certificate(self, child: _Child) -> None:
        child.tls = self._pair
        self._signal([child], signal.SIGHUP)

    def _spawn_again(self, child: _Child) -> None:
        try:
            self._spawn(child)
        except OSError as error:  # no memory, no process: what runs goes on running
            self._put_off(child, f"cannot be started: {error.strerror}")

    def _on_report(self, child: _Child) -> None:
        try:
            content = os.read(child.report_fd, REPORT_BYTES_MAX)
        except BlockingIOError:
            return
        child.report += content
        if content and b"\n" not in child.report and len(child.report) < REPORT_BYTES_MAX:
            return
        self._watch.forget(child.report_fd)
        os.close(child.report_fd)
        child.report_fd = -1
        report = _decoded(child.report)
        child.ready = bool(child.report) and not report.error
        if child.ready:
            _log.info("ready", extra={"child": child.name, "pid": child.pid})
            if child in self._workers and child.tls is not self._pair:  # it was read again meanwhile
                self._tell_certificate(child)

    def _on_exit(self, child: _Child) -> None:
        self._ended = True
        lived_s = time.monotonic() - child.started_s
        why = _decoded(child.report).error
        said = self._reap(child) + (f": {why}" if why else "")
        if lived_s >= RESTART_RESET_S:
            child.restart_wait_s = RESTART_WAIT_FIRST_S
        self._put_off(child, said)

    def _put_off(self, child: _Child, why: str) -> None:
        if child.restart_wait_s == RESTART_WAIT_MAX_S and child in self._workers:
            for held in self._held:
                quiet(held)  # it dies again and again: whoever waits for it would wait for nothing
        child.restart_at_s = time.monotonic() + child.restart_wait_s
        _log.error("ended", extra={"child": child.name, "why": why, "restart_in_s": child.restart_wait_s})
        child.restart_wait_s = min(child.restart_wait_s * 2, RESTART_WAIT_MAX_S)

    def _spawn(self, child: _Child) -> None:
        child.tls = self._pair if child in self._workers else None  # the keeper serves nobody
        environment, secret = _parted(os.environ)
        # The only worker gets the sockets themselves, and they outlive it: who connects while it is started again waits, where with
        # others there the system chooses one of those. Clients may take one refusal for the end of the server.
        alone = child in self._workers and len(self._workers) == 1
        listening = tuple(held.fileno() for held in self._held) if alone else ()
        told = Briefing(
            self._settings,
            self._credentials,
            child.starts == 0,
            self._ring,
            child.tls,
            secret,
            listening_fds=listening,
        )
        briefing = msgspec.json.encode(told)
        with contextlib.ExitStack() as passed:  # what is the child's, and ours only until it has it
            briefing_fd = os.memfd_create("recall-briefing")  # a pipe could fill up and block us
            passed.callback(os.close, briefing_fd)
            report_fd, ready_fd = os.pipe()
            passed.callback(os.close, ready_fd)
            os.set_blocking(report_fd, False)
            try:
                with open(briefing_fd, "wb", closefd=False) as stream:
                    stream.write(briefing)
                os.lseek(briefing_fd, 0, os.SEEK_SET)
                if child.kept_fd < 0:
                    child.kept_fd = os.memfd_create("recall-kept")
                if child.pulse_fd < 0:
                    child.pulse_fd = pulse.make()
                descriptors = {
                    "briefing-fd": briefing_fd,
                    "ready-fd": ready_fd,
                    "lock-fd": self._data_dir.lock_fd,
                    "kept-fd": child.kept_fd,
                    "pulse-fd": child.pulse_fd,
                }
                command = [sys.executable, "-m", self._module, *child.arguments, "--parent", str(os.getpid())]
                for name, descriptor in descriptors.items():
                    command += [f"--{name}", str(descriptor)]
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # until the child ignores it
                try:
                    child.process = subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, env=environment, pass_fds=(*descriptors.values(), *listening)
                    )
                finally:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
            except BaseException:
                os.close(report_fd)
                raise
        child.report_fd = report_fd
        try:
            child.exit_fd = os.pidfd_open(child.process.pid)
            self._watch.add(child)
        except OSError:
            child.process.kill()  # nobody would see it end, nor start it again
            self._reap(child)
            raise
        child.starts += 1
        child.started_s = time.monotonic()
        child.ready = False
        child.report = b""
        self._data_dir.note(f"run/{child.name}.pid", f"{child.process.pid}\n")

    def _reap(self, child: _Child) -> str:
        """Takes note of an ended process; says how it ended."""
        assert child.process is not None
        status = child.process.wait()
        for descriptor in (child.exit_fd, child.report_fd):
            if descriptor >= 0:
                self._watch.forget(descriptor)
                os.close(descriptor)
        child.process, child.exit_fd, child.report_fd, child.ready = None, -1, -1, False
        self._data_dir.remove(f"run/{child.name}.pid")
        return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

    # stop

    def _stop(self) -> None:
        """Drains: no new endpoint, then the workers, then the keeper, each within drain_s."""
        if self._watch.stop_signal:
            by = signal.Signals(self._watch.stop_signal).name
            _log.info("stopping", extra={"signal": by, "drain_s": self._settings.drain_s})
        _tell_manager("STOPPING=1")
        self._data_dir.remove("endpoint")
        orderly = self._keeper.ready and not self._ended
        for group, number in ((self._workers, signal.SIGTERM), ([self._keeper], KEEPER_STOP)):
            running = [child for child in group if child.process]
            self._signal(running, number)
            if not self._gone(running, self._settings.drain_s):
                late = [child for child in running if child.process]
                for child in late:
                    _log.warning("killed, it did not drain in time", extra={"child": child.name})
                self._signal(late, signal.SIGKILL)
                self._gone(late, KILL_WAIT_S)
        if orderly and not any(child.process for child in (self._keeper, *self._workers)):
            self._note_whole()
        _log.info("stopped")

    def _note_whole(self) -> None:
        """All children are gone: what a relaxed pool's index holds can be told to the device, and that it was."""
        for pool in self._settings.pools.values():
            if pool.durability == "relaxed":
                with contextlib.suppress(OSError):  # the next start finds no note, and looks for itself
                    whole.note(self._data_dir.path / "pools" / pool.name)

    def _on_late_exit(self, child: _Child) -> None:
        self._reap(child)

    def _signal(self, children: Sequence[_Child], number: signal.Signals) -> None:
        for child in children:
            if child.process:
                child.process.send_signal(number)

    def _gone(self, children: Sequence[_Child], wait_s: float) -> bool:
        """Whether all ended in time. Another stop signal ends the wait."""
        deadline_s = time.monotonic() + wait_s
        self._watch.stop_signal = 0
        while any(child.process for child in children):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or self._watch.stop_signal:
                return False
            self._watch.wait(left_s, self._on_report, self._on_late_exit)
        return True


def _tell_manager(state: str) -> None:
    """Tells the service manager that asked to be told, as systemd does with Type=notify (sd_notify(3))."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager,
    ):
        manager.sendto(state.encode(), "\0" + place[1:] if place.startswith("@") else place)


def _parted(environ: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The environment of a child, and the secrets it is told otherwise. Root credentials and master keys are in neither: they
    have places of their own in the briefing."""
    environment, secret = dict(environ), {}
    for name in environ:
        if name in (*SECRET_VARIABLES, *keys.SECRET_VARIABLES):
            del environment[name]
        elif name in BACKING_SECRETS or name.startswith(NOTIFY_TOKEN_PREFIX):
            secret[name] = environment.pop(name)
    return environment, secret


class _Watch:
    """Waits for stop signals, reports and ends of children, all in one place."""

    def __init__(self) -> None:
        self.stop_signal = 0
        self.hung_up = False
        self._told_s = -SAME_SIGNAL_S
        self._selector = selectors.DefaultSelector()
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._selector.register(self._read, selectors.EVENT_READ, None)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._on_hangup)

    def _on_signal(self, number: int, _frame: object) -> None:
        before_s, self._told_s = self._told_s, time.monotonic()
        if self._told_s - before_s >= SAME_SIGNAL_S:
            self.stop_signal = number

    def _on_hangup(self, _number: int, _frame: object) -> None:
        self.hung_up = True

    def add(self, child: _Child) -> None:
        self._selector.register(child.report_fd, selectors.EVENT_READ, child)
        self._selector.register(child.exit_fd, selectors.EVENT_READ, child)

    def forget(self, descriptor: int) -> None:
        if descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)

    def wait(self, timeout_s: float, on_report: Callable[[_Child], None], on_exit: Callable[[_Child], None]) -> None:
        """One round: until something happened or the time is up. Reports are read before the exit that follows them."""
        if self.stop_signal:
            return
        events = [(key.fd, key.data) for key, _ in self._selector.select(min(max(0.0, timeout_s), _WAIT_MAX_S))]
        for descriptor, child in events:
            if child is None:
                self._read.recv(4096)
            elif descriptor == child.report_fd:
                on_report(child)
        for descriptor, child in events:
            if child is not None and descriptor == child.exit_fd:
                if child.report_fd >= 0:
                    on_report(child)
                on_exit(child)

    def close(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._selector.close()
        self._read.close()
        self._write.close()


def _is_stopped(pid: int) -> bool:
    """Whether somebody has stopped the process on purpose (SIGSTOP, a debugger)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b") ")[2][:1] in b"Tt"
    except OSError:  # no such file system, or no such process any more
        return False


def _decoded(report: bytes) -> Report:
    try:
        return msgspec.json.decode(report.partition(b"\n")[0], type=Report)
    except msgspec.DecodeError:
        return Report()
