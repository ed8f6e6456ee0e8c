"""TLS by Python's own module, on blocking sockets: a server behind Charon, and clients before it."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.harness import PATIENCE
from tests.harness.authority import Authority, Leaf


def _load(context: ssl.SSLContext, leaf: Leaf | None) -> None:
    if leaf is not None:
        with TemporaryDirectory() as folder:
            context.load_cert_chain(*leaf.write(Path(folder), "leaf"))


class TlsServer:
    """Shows ``leaf``; with ``clients_of`` it wants a certificate of that authority.

    ``reply`` is what it sends to whatever it reads, and ``afterwards`` says how the connection goes on: ``stay``,
    ``close`` (with close_notify) or ``cut`` (without). ``connections`` counts the handshakes that succeeded, ``names``
    holds the server names that were asked for, ``resumed`` how many came back with a session.
    """

    def __init__(
        self, leaf: Leaf, clients_of: Authority | None = None, reply: bytes = b"hello", afterwards: str = "stay"
    ) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _load(self._context, leaf)
        if clients_of is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(cadata=clients_of.pem.decode())
        self._context.sni_callback = lambda _connection, name, _context: self.names.append(name)
        self.names: list[str | None] = []
        self.connections = 0
        self.resumed = 0
        self._reply = reply
        self._afterwards = afterwards
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> TlsServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(PATIENCE)
        try:
            with self._context.wrap_socket(plain, server_side=True) as connection:
                self.connections += 1
                self.resumed += bool(connection.session_reused)
                while connection.recv(65_536):
                    connection.sendall(self._reply)
                    if self._afterwards == "cut":
                        return  # the socket closes, and says nothing
                    if self._afterwards == "close":
                        connection.unwrap()
                        return
        except OSError:
            pass  # refused, or gone: what the client makes of it is looked at there


def connect(port: int, roots: bytes, leaf: Leaf | None = None, name: str = "localhost") -> ssl.SSLSocket:
    """A TLS connection to this machine that believes ``roots`` and shows ``leaf``. An end that is not announced is an
    OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=roots.decode())
    _load(context, leaf)
    plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
    return context.wrap_socket(plain, server_hostname=name, suppress_ragged_eofs=False)
