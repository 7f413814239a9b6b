"""nginx: the same bytes as static files, written and deleted with its WebDAV module.

Owns its process and folder. Kind: shell. Spec: bench/README.md, "The peers".
"""

from __future__ import annotations

import http.client
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from bench.loader import Plan
from bench.peers.peer import (
    ABSENT_KEYS,
    CONNECTIONS_MAX,
    Child,
    PeerFailed,
    content,
    free_port,
    once_keys,
    read_keys,
    write_keys,
)
from bench.process import children

_CONF = """\
user {user};
daemon off;
worker_processes {workers};
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; multi_accept on; }}
http {{
    access_log off;
    sendfile on;
    keepalive_timeout 65;
    keepalive_requests 1000000000;
    open_file_cache max=10000 inactive=600s;
    open_file_cache_valid 600s;
    open_file_cache_errors on;
    default_type application/octet-stream;
    client_max_body_size 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=1024 reuseport;
        root {folder}/www;
        log_not_found off;
        location /w/ {{
            open_file_cache off;
            dav_methods PUT DELETE;
            create_full_put_path on;
        }}
    }}
}}
"""


class NginxPeer:
    """Sendfile, open file cache, no log, no authentication.

    `tcp_nopush` stays off, nginx's own default: Debian's `on` corks the socket, which doubles the cost of 2 MiB on loopback.
    """

    operations = ("GET", "HEAD", "404", "PUT kv", "DELETE")
    connections_max = CONNECTIONS_MAX

    def __init__(self, name: str, program: str, workers: int, folder: Path) -> None:
        self.name = name
        self._program = program
        self.cores = workers
        self._folder = folder
        self._child: Child | None = None
        self.address = ("127.0.0.1", 0)

    def start(self, sizes: Sequence[int], operations: Collection[str]) -> None:
        www = self._folder / "www"
        (www / "w").mkdir(parents=True)
        for size in sizes:
            (www / str(size)).mkdir()
            for number in range(read_keys(size)):
                (www / str(size) / str(number)).write_bytes(content(size))
        port = free_port()
        conf = self._folder / "nginx.conf"
        user = "root" if os.getuid() == 0 else "nobody"
        text = _CONF.format(folder=self._folder, port=port, user=user, workers=self.cores)
        conf.write_text(text, encoding="ascii")
        command = [self._program, "-p", str(self._folder), "-c", str(conf), "-e", str(self._folder / "error.log")]
        self._child = Child(self.name, command, port, self._folder)
        self.address = self._child.address
        for size in sizes:
            connection = http.client.HTTPConnection(*self.address, timeout=60)
            connection.request("GET", f"/{size}/0")
            if connection.getresponse().read() != content(size):
                raise PeerFailed(f"nginx: an object of {size} bytes reads back wrong")
            connection.close()

    def plan(self, operation: str, size: int) -> Plan:
        match operation:
            case "GET" | "HEAD":
                heads = [_head(operation, f"/{size}/{number}") for number in range(read_keys(size))]
                return Plan(heads, head_only=operation == "HEAD", expect_bytes=size)
            case "404":
                return Plan([_head("GET", f"/absent/{n}") for n in range(ABSENT_KEYS)], expect_status=404)
            case "PUT kv":
                return self._put(f"/w/{size}", size, write_keys(size))
            case "DELETE":
                heads = [_head("DELETE", f"/w/gone/{size}/{number}") for number in range(once_keys(size))]
                before = self._put(f"/w/gone/{size}", size, once_keys(size))
                return Plan(heads, expect_status=204, once=True, before=before)
        raise AssertionError(operation)

    def _put(self, folder: str, size: int, count: int) -> Plan:
        heads = [_head("PUT", f"{folder}/{number}", f"Content-Length: {size}\r\n") for number in range(count)]
        return Plan(heads, body=content(size), expect_status=2)

    def processes(self) -> Mapping[str, Sequence[int]]:
        if self._child is None:
            return {}
        return {"worker": children(self._child.pid), "supervisor": [self._child.pid]}

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()


def _head(method: str, path: str, more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n".encode()
