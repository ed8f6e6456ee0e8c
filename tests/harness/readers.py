"""Backends that read requests in a manner of :mod:`tests.harness.readings`, and nginx before such a one."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.harness.backends import Connection, ScriptedBackend, http_response
from tests.harness.readings import Manner, Seen, next_request, next_strict


class ReadingBackend(ScriptedBackend):
    """Reads in ``manner``, or strictly, where a violation fails the test. ``seen`` is every request that came whole.

    The answer's body is the request's method, target and ``X-Marker``.
    """

    def __init__(self, manner: Manner | None = None) -> None:
        self.seen: list[Seen] = []
        self._manner = manner
        super().__init__(self._serve)

    def forget(self) -> None:
        """Break all connections and begin anew."""
        super().forget()
        self.seen.clear()
        self.script = self._serve

    def _serve(self, connection: Connection) -> None:
        data = b""
        while True:
            while (found := self._next(data)) is not None:
                one, used = found
                data = data[used:]
                self.seen.append(one)
                connection.send(answer_to(one))
            piece = connection.recv(1 << 18)
            if not piece:
                return
            data += piece

    def _next(self, data: bytes) -> tuple[Seen, int] | None:
        return next_strict(data) if self._manner is None else next_request(data, self._manner)


def answer_to(one: Seen) -> bytes:
    """What a :class:`ReadingBackend` says."""
    whole = http_response(200, f"{one.method} {one.target} {one.get('x-marker')}".encode("latin-1"))
    return whole if one.method != "HEAD" else whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


_NGINX = """
daemon off; master_process off; pid %(folder)s/pid; error_log %(folder)s/error.log;
events {}
http {
    log_format seen escape=json '{"client":"$http_x_forwarded_for","method":"$request_method","uri":"$request_uri",'
        '"host":"$http_host","line":"$request","status":$status}';
    access_log %(folder)s/seen.log seen;
    client_body_temp_path %(folder)s/body; proxy_temp_path %(folder)s/proxy; fastcgi_temp_path %(folder)s/fastcgi;
    uwsgi_temp_path %(folder)s/uwsgi; scgi_temp_path %(folder)s/scgi;
    large_client_header_buffers 8 128k; client_header_buffer_size 128k; client_max_body_size 0;
    keepalive_requests 100000; underscores_in_headers on; ignore_invalid_headers off; merge_slashes off;
    upstream behind { server %(behind)s; keepalive 8; keepalive_requests 100000; }
    server {
        listen unix:%(address)s;
        location / { proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Host $http_host;
                     proxy_set_header Connection ""; }
        location = /plain { return 200 "nginx itself $http_x_marker"; }
    }
}
"""


class Nginx:
    """A running nginx, and what it has logged. ``address`` is as a registry has it."""

    def __init__(self, folder: Path, address: str) -> None:
        self.address = address
        self._log = folder / "seen.log"

    def seen(self) -> list[dict[str, Any]]:
        """A line for each request: client, method, uri, host, line, status."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@contextmanager
def nginx_before(folder: Path, program: str, behind: str) -> Iterator[Nginx]:
    """nginx, as kind as it can be made to odd requests, before the backend at ``behind``."""
    folder.chmod(0o755)
    address = Path("/tmp") / f"charon-nginx-{folder.parent.name[-8:]}-{folder.name[-8:]}.sock"
    address.unlink(missing_ok=True)
    config = folder / "nginx.conf"
    config.write_text(_NGINX % {"folder": folder, "address": address, "behind": behind})
    with subprocess.Popen([program, "-c", str(config), "-p", str(folder)], stderr=subprocess.PIPE) as process:
        try:
            while process.poll() is None:
                with socket.socket(socket.AF_UNIX) as probe:
                    if probe.connect_ex(str(address)) == 0:
                        break
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            yield Nginx(folder, f"unix:{address}")
        finally:
            process.terminate()
            process.wait()
            address.unlink(missing_ok=True)
