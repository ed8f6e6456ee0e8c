"""Talking to the Charon that runs here, over its admin socket."""

from __future__ import annotations

import argparse
import json
import os
import socket
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

from charon.base.errors import StartError
from charon.config.admin_socket import running_admin_socket

_PATIENCE: Final = 60.0
"""Seconds for an answer; a reload waits for every worker."""


class AdminClient:
    """One running Charon."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, args: argparse.Namespace) -> AdminClient:
        """The one that the command line means. Raises ConfigError."""
        return cls(Path(args.socket) if args.socket else running_admin_socket(args.config, os.environ))

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of the answer. Raises StartError when nobody answers."""
        return self._ask("GET", path, None)

    def post(self, path: str, value: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Status and what the answer says. Raises StartError when nobody answers."""
        status, body = self._ask("POST", path, json.dumps(value or {}).encode())
        answer: dict[str, Any] = json.loads(body)
        return status, answer

    def _ask(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = _UnixConnection(self.path)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, HTTPException) as error:
            raise StartError(self._why(error)) from error
        finally:
            connection.close()

    def _why(self, error: Exception) -> str:
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return f"no Charon is running with the admin socket {self.path}; name another with --config or --socket"
        if isinstance(error, PermissionError):
            return f"the admin socket {self.path} may not be used by this user; its owner and group may"
        return f"the admin socket {self.path} does not answer: {error}"


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)  # noqa: TID251 - a command, not the proxy
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
