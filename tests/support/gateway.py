"""`Gateway`: a real gateway process for a test, on a port of its own and a data directory of its own.

    with Gateway(workers=2, settings={"pools.kv.capacity_bytes": "4MiB"}) as gateway:
        gateway.boto3_client().create_bucket(Bucket="b")

Promise: it has its children with it when the block ends, however it ends; a failure shows the gateway's log. Every wait has a
deadline and polls a condition.

Owns the process and, unless one is given, the data directory. Does not know the engine. Kind: shell (test support).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parents[2]
ACCESS_KEY: Final = "recalltest"
SECRET_KEY: Final = "recalltest-secret"
START_S: Final = 180.0
"""For a machine that is very busy: else it takes a second."""
STOP_S: Final = 60.0
POLL_S: Final = 0.02


class GatewayFailed(AssertionError):
    """The gateway did not do what it must; the message ends with its log. `status`: exit status, None if it runs."""

    def __init__(self, message: str, gateway: Gateway) -> None:
        super().__init__(f"{message}\n--- log of {gateway.data_dir} ---\n{gateway.log}")
        self.status = gateway.process.poll() if gateway.process else None


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Polls until the condition gives something true, and returns that."""
    deadline_s = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(POLL_S)


class Gateway:
    """`settings`: dotted names as in `--set`. `env`: added to a bare environment. `credentials` None: made by the gateway.

    With `data_dir` given the directory is kept, so that a second Gateway can go on with it. `output`: a descriptor for its
    standard output, which goes to its log otherwise.
    """

    def __init__(
        self,
        *,
        data_dir: Path | None = None,
        workers: int = 1,
        backing: str | None = None,
        settings: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        credentials: tuple[str, str] | None = (ACCESS_KEY, SECRET_KEY),
        listen: str = "127.0.0.1:0",
        main: str = "gateway",
        start_s: float = START_S,
        output: int | None = None,
    ) -> None:
        self._scratch = None if data_dir else tempfile.mkdtemp(prefix="recall-test-")
        self.data_dir = data_dir or Path(self._scratch or "", "data")
        self.process: subprocess.Popen[bytes] | None = None
        self._credentials = credentials
        self._main = main
        self._start_s = start_s
        self._output = output
        self._environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        self._environment["PYTHONUNBUFFERED"] = "1"
        self._environment["RECALL_START_S"] = str(start_s)
        # Flash is preallocated: with the default a run of the suite would take gigabytes of disk again and again.
        self._environment |= {f"RECALL_POOLS_{pool}_CAPACITY_BYTES": "64MiB" for pool in ("STANDARD", "KV")}
        if credentials:
            self._environment |= {"RECALL_ROOT_USER": credentials[0], "RECALL_ROOT_PASSWORD": credentials[1]}
        self._environment |= env or {}
        self.arguments = ["--data-dir", str(self.data_dir), "--listen", listen, "--workers", str(workers)]
        if backing:
            self.arguments += ["--backing", backing]
        self._settings = [part for name, value in (settings or {}).items() for part in ("--set", f"{name}={value}")]
        self.arguments += self._settings

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self._end()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None and self.process:
                print(f"--- log of {self.data_dir} ---\n{self.log}", file=sys.stderr)
            elif self.process and self.process.poll() is None:
                self.stop()
        finally:
            self._end()

    # start and stop

    def start(self) -> Self:
        """Starts it and waits until it is ready. Raises GatewayFailed when it ends instead."""
        self.launch()
        process = self.process
        assert process is not None
        deadline_s = time.monotonic() + self._start_s
        while not (self.data_dir / "endpoint").exists():
            if process.poll() is not None:
                raise GatewayFailed(f"ended at its start with status {process.returncode}", self)
            if time.monotonic() > deadline_s:
                raise GatewayFailed(f"not ready within {self._start_s} s", self)
            time.sleep(POLL_S)
        return self

    def launch(self) -> None:
        """Starts it without waiting."""
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        (self.data_dir / "endpoint").unlink(missing_ok=True)  # what a killed gateway left there
        with open(self._log_path, "ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self._main, "serve", *self.arguments],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=stream if self._output is None else self._output,
                stderr=stream,
            )

    def stop(self) -> None:
        """SIGTERM; asserts that everything drained and the exit status is 0."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise GatewayFailed(f"did not stop within {STOP_S} s", self) from None
        if status != 0 or "did not drain in time" in self.log:
            raise GatewayFailed(f"stopped with status {status}", self)

    def wait(self, seconds: float = STOP_S) -> int:
        """Waits for its end; returns the exit status."""
        assert self.process is not None
        return self.process.wait(seconds)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Sends a signal to `worker-<slot>`, `keeper` or `supervisor`; returns the process id it had."""
        pid = self.pids()[name]
        os.kill(pid, number)
        if name == "supervisor" and self.process and number == signal.SIGKILL:
            self.process.wait(STOP_S)
        return pid

    def kill_all(self) -> None:
        """kill -9 of everything, and nothing of it left when this returns."""
        pids = self.pids()
        for pid in pids.values():
            _kill(pid)
        assert self.process is not None
        self.process.wait(STOP_S)
        wait_for(lambda: not any(_runs(pid) for pid in pids.values()), "killed processes are gone")

    def wait_restarted(self, name: str, before: int, seconds: float = 60.0) -> int:
        """Waits until the child runs again and is ready; returns its new process id."""

        def again() -> int:
            pid = self.pids().get(name, before)
            return pid if pid != before and f"msg=ready child={name} pid={pid}" in self.log else 0

        return int(wait_for(again, f"{name} is started again", seconds))

    def _end(self) -> None:
        if self.process:
            for pid in {**self.pids(), "process": self.process.pid}.values() if self.process.poll() is None else ():
                _kill(pid)
            self.process.wait(STOP_S)
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)

    # what it is

    @property
    def endpoint(self) -> str:
        return (self.data_dir / "endpoint").read_text().strip()

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    @property
    def access_key(self) -> str:
        return self._credentials[0] if self._credentials else self._stored()["access_key"]

    @property
    def secret_key(self) -> str:
        return self._credentials[1] if self._credentials else self._stored()["secret_key"]

    def _stored(self) -> dict[str, str]:
        stored: dict[str, str] = json.loads((self.data_dir / "credentials.json").read_text())
        return stored

    @property
    def _log_path(self) -> Path:
        return self.data_dir.parent / f"{self.data_dir.name}.log"

    @property
    def log(self) -> str:
        """Everything it has written, of all starts on this data directory."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def pids(self) -> dict[str, int]:
        """Process ids by name, the supervisor's included."""
        found = {}
        for path in (self.data_dir / "run").glob("*.pid"):
            try:
                found[path.stem] = int(path.read_text())
            except (FileNotFoundError, ValueError):
                continue  # it has just ended
        return found

    def running(self) -> set[str]:
        """The names of those that run now; a child that waits to be started again is none of them."""
        return {name for name, pid in self.pids().items() if _runs(pid)}

    def command(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Runs `recall <command> …` on the same data directory, with the same credentials, and the same pools where those matter."""
        settings = self._settings if arguments[0] in ("check", "scrub", "rebuild") else []
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "gateway",
                arguments[0],
                *settings,
                *arguments[1:],
                "--data-dir",
                str(self.data_dir),
            ],
            cwd=ROOT,
            env={**self._environment, **(env or {})},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def aws_environment(self, home: Path, **more: str) -> dict[str, str]:
        """All that the aws cli needs to talk to it, and nothing of whoever runs the tests."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_PAGER": "",
            "AWS_EC2_METADATA_DISABLED": "true",
            **more,
        }

    def boto3_client(
        self, *, service: str = "s3", keys: tuple[str, str] | None = None, token: str | None = None, **config: Any
    ) -> Any:
        """A client in path style that does not retry, of root or of `keys`; `config` goes to botocore's Config."""
        import boto3
        from botocore.config import Config

        options: dict[str, Any] = {"s3": {"addressing_style": "path"}, "retries": {"total_max_attempts": 1}} | config
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            aws_access_key_id=keys[0] if keys else self.access_key,
            aws_secret_access_key=keys[1] if keys else self.secret_key,
            aws_session_token=token,
            region_name="us-east-1",
            config=Config(**options),
        )


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _runs(pid: int) -> bool:
    """False also for a zombie: it holds nothing any more."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
