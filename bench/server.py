"""Starts a gateway of its own in a folder of its own, or talks of one that runs already.

Owns the child process and its data directory (removed at the end unless it was given). Does not know what is measured.
Kind: shell. Spec: docs/OPERATIONS.md (settings by environment, the endpoint file).
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from bench.process import children, command_line

START_S = 60.0
STOP_S = 30.0
_POLL_S = 0.02
_ROLES = ("worker", "keeper")


class GatewayFailed(Exception):
    """The gateway did not start or did not stay; the message holds the end of its log."""


def split_endpoint(url: str) -> tuple[str, int]:
    """Host and port of `http://host:port`. Raises ValueError for anything else: there is no TLS here."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or not parts.port:
        raise ValueError(f"an endpoint is http://host:port, not {url!r}")
    return parts.hostname, parts.port


class Gateway:
    """A gateway as a context: started on entry, stopped with SIGTERM on exit.

    `settings`: RECALL_… variables, over the defaults of a bench: port 0 on the loopback, fresh credentials, quiet log.
    `data_dir` None: a temporary folder, removed afterwards.
    """

    def __init__(self, settings: Mapping[str, str], data_dir: Path | None = None, workers: int = 1) -> None:
        self._temporary = data_dir is None
        self.data_dir = data_dir or Path(tempfile.mkdtemp(prefix="recall-bench-"))
        self.access_key = "bench-" + secrets.token_hex(4)
        self.secret_key = secrets.token_hex(20)
        self._environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("RECALL_", "MINIO_"))
        }
        self._environ |= {
            "RECALL_ROOT_USER": self.access_key,
            "RECALL_ROOT_PASSWORD": self.secret_key,
            "RECALL_DATA_DIR": str(self.data_dir),
            "RECALL_LISTEN": "127.0.0.1:0",
            "RECALL_WORKERS": str(workers),
            "RECALL_LOG_LEVEL": "warning",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.host, self.port = "127.0.0.1", 0

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    def __enter__(self) -> Self:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        endpoint = self.data_dir / "endpoint"
        endpoint.unlink(missing_ok=True)
        with open(self.data_dir / "bench.log", "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve"],
                env=self._environ,
                cwd=Path(__file__).parents[1],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_S
        try:
            while True:
                if endpoint.exists() and (text := endpoint.read_text(encoding="ascii").strip()):
                    self.host, self.port = split_endpoint(text)
                    return self
                if self._process.poll() is not None:
                    raise GatewayFailed(f"the gateway ended with {self._process.returncode}:\n{self.log_tail()}")
                if time.monotonic() > deadline:
                    raise GatewayFailed(f"the gateway is not ready after {START_S:g} s:\n{self.log_tail()}")
                time.sleep(_POLL_S)
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to the whole family when it does not drain in time; removes a temporary data directory."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            family = [process.pid, *children(process.pid)]
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                for pid in family:
                    os.kill(pid, signal.SIGKILL)
                process.wait()
        if self._temporary:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def log_tail(self, lines: int = 30) -> str:
        """The end of what the gateway wrote."""
        path = self.data_dir / "bench.log"
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def processes(self) -> dict[str, list[int]]:
        """Pids by role: worker, keeper, supervisor, and other children, if any."""
        if self._process is None:
            return {}
        roles: dict[str, list[int]] = {"worker": [], "keeper": [], "supervisor": [self._process.pid]}
        for pid in children(self._process.pid):
            arguments = " ".join(command_line(pid))
            role = next((name for name in _ROLES if name in arguments), "other")
            roles.setdefault(role, []).append(pid)
        return roles
