"""The TLS handshake of a client, in its connection's own greenlet: done in time, or counted, told and ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from charon.base.errors import PLAIN_HTTP, ExchangeFailed
from charon.net.stream import DeadlineExceeded, Stream
from charon.net.tls import ServerTls
from charon.net.tls_failures import NotTls, TlsError
from charon.net.tls_stream import TlsStream
from charon.proxy.respond import local_answer

if TYPE_CHECKING:
    from charon.proxy.server import Connection, ProxyServer

OK = "ok"
RESUMED = "resumed"

_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"OPTIONS ")
_GOODBYE = 1.0
"""Seconds that a client which has sent plain HTTP has to take the answer."""


def shake_hands(server: ProxyServer, connection: Connection, tls: ServerTls) -> bool:
    """Whether ``connection`` may go on: its client speaks TLS, and is one that the listener lets in."""
    stream = connection.stream
    assert isinstance(stream, TlsStream)
    listener = server.listener
    try:
        stream.accept(tls, listener.timeouts.tls_handshake)
    except TlsError as error:
        word, detail = error.word, error.detail
        if isinstance(error, NotTls) and listener.spec.protocol == "http" and error.data.startswith(_METHODS):
            _answer_plainly(stream)
    except DeadlineExceeded:
        word, detail = "timeout", f"not done in {listener.timeouts.tls_handshake:g} s"
    except ExchangeFailed:
        return False  # Charon is stopping
    else:
        server.plane.handshake(listener.name, RESUMED if stream.resumed else OK)
        return True
    server.plane.handshake_failed(listener.name, word, connection.client, detail)
    return False


def _answer_plainly(stream: TlsStream) -> None:
    """A person with the wrong scheme in the address line should see why. Nothing else is ever said without TLS."""
    try:
        Stream.write(stream, local_answer(PLAIN_HTTP), _GOODBYE)
        Stream.finish_writing(stream, _GOODBYE)
    except (DeadlineExceeded, OSError):
        pass  # it does not want to know
