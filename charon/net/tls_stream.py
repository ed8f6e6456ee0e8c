"""A stream over TLS, with the interface of a plain one.

OpenSSL works on buffers in memory (``MemoryBIO``), and this class moves ciphertext between them and the socket, with
the plain stream's waits and deadlines. That costs one system call where OpenSSL on the socket makes two or three for
each record, and lets a first request come along with the end of the handshake.
Trust: ciphertext that fails its check is an error of the connection, and so is an end that the peer has not announced
(close_notify): whoever cuts a connection must not be able to make a message look complete.
"""

from __future__ import annotations

import os
import ssl
from _socket import socket as RawSocket
from errno import ECONNRESET
from hashlib import sha256
from time import monotonic
from typing import Any

from charon.base.clock import SystemClock
from charon.net.deadlines import NEVER
from charon.net.stream import READ_SIZE, TURNS, Peer, Stream
from charon.net.tls import EndpointTls, ServerTls
from charon.net.tls_failures import NotTls, TlsError, tls_error
from charon.policy.peers import Identity, identity

_HANDSHAKE_RECORD = 22
_RECORD = 16_384
"""Bytes inside a record at most (RFC 8446 section 5.1)."""

_PIECE = _RECORD + 1024
"""Ciphertext that is given to OpenSSL at once: its buffers in memory never shrink, so they must not grow large."""
_MAX_UNSENT = 65_536
"""Bytes that TLS itself may have to say to a peer that does not listen, such as answers to key updates."""
_WANTS = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
_clock = SystemClock()


class TlsStream(Stream):
    """One connection under TLS. Before :meth:`accept` or :meth:`connect` has succeeded it can only be closed.

    ``received`` and ``sent`` count the bytes inside. ``peer_identity`` is None where the peer has shown no certificate.
    ``failure`` is why nothing can be read any more, if that is so: a peer may say it, and be found gone by a writer.
    """

    __slots__ = (
        "_ahead",
        "_at_hand",
        "_finished",
        "_flushing",
        "_in",
        "_out",
        "_raw",
        "_rest",
        "_ssl",
        "_via",
        "failure",
        "peer_identity",
        "resumed",
    )

    splices = False

    def __init__(self, sock: RawSocket) -> None:
        super().__init__(sock)
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._ssl: Any = None  # ssl.SSLObject
        self._raw: memoryview | None = None  # ciphertext that OpenSSL has not been given yet
        self._at_hand = False  # there may be something to read without the socket, be it the end
        self._ahead = b""  # read, decrypted, and not asked for yet
        self._rest = b""  # ciphertext that the socket has not taken
        self._flushing = False
        self._finished = False
        self._via: EndpointTls | None = None  # while its session is still to be kept
        self.failure: TlsError | None = None
        self.peer_identity: Identity | None = None
        self.resumed = False

    # -- the handshake ------------------------------------------------------------------------------------------

    def accept(self, tls: ServerTls, timeout: float) -> None:
        """The server's side of a handshake, whole, within ``timeout`` seconds.

        Raises TlsError (NotTls for a client that speaks something else), DeadlineExceeded, or what :meth:`interrupt`
        was given.
        """
        self.cutoff = monotonic() + timeout
        data = self._receive_later(timeout)
        if data[0] != _HANDSHAKE_RECORD:
            raise NotTls(data)
        self._in.write(data)
        self._ssl = tls.context.wrap_bio(self._in, self._out, server_side=True)
        self._shake(timeout)
        if tls.asks:
            self._identify()
        tls.check(self.peer_identity)
        # What the handshake ends with goes along with the first answer, if the first request has come already. If not,
        # it goes now: a client that waits for it, or for its bytes to be acknowledged, would wait 40 ms or for ever.
        self._rest = self._out.read()
        self._at_hand = self._in.pending > 0
        if not self._at_hand:
            self._try_to_flush()
        self.cutoff = NEVER

    def connect(self, tls: EndpointTls, timeout: float) -> None:
        """The client's side, as :meth:`accept`."""
        self.cutoff = monotonic() + timeout
        self._ssl = tls.context.wrap_bio(self._in, self._out, server_hostname=tls.server_name, session=tls.session)
        self._shake(timeout)
        self._at_hand = self._in.pending > 0
        self._say(timeout)
        self._identify()
        assert self.peer_identity is not None  # a client's context always asks for a certificate
        tls.check(self.peer_identity)
        self._via = tls
        self.cutoff = NEVER

    def _shake(self, timeout: float) -> None:
        sslobj = self._ssl
        while True:
            try:
                sslobj.do_handshake()
                break
            except _WANTS:
                self._say(timeout)
            except ssl.SSLError as error:
                self._try_to_flush()  # the alert that says why
                raise tls_error(error) from None
            self._in.write(self._receive_later(timeout))
        self.resumed = sslobj.session_reused

    def _say(self, timeout: float) -> None:
        """Send what the handshake has to say."""
        try:
            self._flush_all(timeout)
        except OSError as error:
            raise _ended_early(error) from None

    def _receive_later(self, patience: float) -> bytes:
        """Ciphertext of a handshake; there is none yet."""
        while True:
            self._wait_to_read(patience)
            try:
                data = self._recv(_PIECE)
            except BlockingIOError:
                continue
            except OSError as error:
                raise _ended_early(error) from None
            if not data:
                raise TlsError("closed", "closed during the handshake")
            return data

    def _identify(self) -> None:
        certificate = self._ssl.getpeercert()
        if not certificate:
            return
        # OpenSSL resumes without looking at the certificate again, which may have expired meanwhile.
        if self.resumed and ssl.cert_time_to_seconds(certificate["notAfter"]) < _clock.wall():
            raise TlsError("expired", "the certificate of the resumed session has expired")
        self.peer_identity = identity(certificate)

    def certificate_digest(self) -> str:
        """SHA-256 of the peer's certificate, in lower-case hex; the peer must have shown one."""
        return sha256(self._ssl.getpeercert(binary_form=True)).hexdigest()

    # -- reading ------------------------------------------------------------------------------------------------

    def _decrypt(self, size: int) -> bytes | None:
        """Bytes at hand, ``b""`` at the announced end, None when more ciphertext is needed."""
        try:
            data: bytes | None = self._ssl.read(size)
            self._at_hand = not data or len(data) == size
            if data and (self._in.pending or self._raw is not None):
                data += self._decrypt_more(size - len(data))
        except _WANTS:
            if self._raw is not None:
                self._give(self._raw)
                return self._decrypt(size)
            data = None
            self._at_hand = False
        except ssl.SSLZeroReturnError:
            data = b""
            self._at_hand = True
        except ssl.SSLError as error:
            self._try_to_flush()
            self.failure = tls_error(error)
            raise self.failure from None
        if self._out.pending:
            self._try_to_flush()  # an answer of TLS's own, to a key update for one
        if not data and self.failure is not None:
            raise self.failure.again()  # after a fatal alert OpenSSL says that all is over, as after a good end
        if data and self._via is not None:
            self._keep_session(self._via)
        return data

    def _decrypt_more(self, size: int) -> bytes:
        """Further records that are at hand (each has 16 KiB at most), so that bulk moves in large pieces."""
        pieces = []
        while size and (self._in.pending or self._raw is not None):
            try:
                piece = self._ssl.read(size)
            except _WANTS:
                if self._raw is not None:
                    self._give(self._raw)
                continue
            except ssl.SSLZeroReturnError:
                break
            pieces.append(piece)
            size -= len(piece)
            if not piece or not size:
                self._at_hand = True
                break
        return b"".join(pieces)

    def _keep_session(self, via: EndpointTls) -> None:
        """With the first bytes of the server's its tickets have come too: the next connection resumes this one."""
        self._via = None
        via.session = self._ssl.session

    def read(self, patience: float, size: int = READ_SIZE) -> bytes:
        """As for a plain stream. An end that was not announced raises OSError (ECONNRESET)."""
        data: bytes | None
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        while True:
            data = self._decrypt(size)
            if data is not None:
                self.received += len(data)
                self._turns += 1
                if data and self._turns >= TURNS:
                    self.give_way()
                return data
            try:
                raw = self._recv(READ_SIZE)
            except BlockingIOError:
                self._wait_to_read(patience)
                continue
            self._feed(raw)

    def _feed(self, raw: bytes) -> None:
        if not raw:
            raise OSError(ECONNRESET, "ended without close_notify")
        if len(raw) <= _PIECE:
            self._in.write(raw)
        else:
            self._give(memoryview(raw))

    def _give(self, raw: memoryview) -> None:
        """Give OpenSSL the beginning of ``raw``, and keep the rest."""
        self._in.write(raw[:_PIECE])
        self._raw = raw[_PIECE:] if len(raw) > _PIECE else None

    def read_later(self, patience: float, size: int = READ_SIZE) -> bytes:
        """As for a plain stream."""
        # Written out, as there: it is run for every request.
        if not self._at_hand:
            if self.fault is not None:
                raise self.fault
            deadline = monotonic() + patience
            if deadline > self.cutoff:
                deadline = self.cutoff
            self.deadline = deadline
            if deadline < self.looked_at:
                self._deadlines.schedule(self)
            self._turns = 0
            self._hub.wait(self._reader)
            try:
                raw = self._recv(READ_SIZE)
            except BlockingIOError:
                return self.read(patience, size)
            self._feed(raw)
            data = self._decrypt(size)
            if data is not None:
                self.received += len(data)
                return data
        return self.read(patience, size)

    def read_ready(self, patience: float) -> None:
        """Not for TLS: what can be read is not what the socket holds."""
        raise NotImplementedError("a TLS stream is never spliced")

    def _look_ahead(self) -> Peer:
        """Take what has come, which may be nothing but TLS's own messages, without waiting."""
        if self._ahead or self._reader.active:
            return Peer.OPEN  # whoever waits to read sees what comes
        try:
            data = self._decrypt(READ_SIZE)
            if data is None:
                raw = self._recv(READ_SIZE)
                if not raw:
                    return Peer.ENDED
                self._feed(raw)
                data = self._decrypt(READ_SIZE)
        except BlockingIOError:
            return Peer.OPEN
        except OSError:
            return Peer.RESET
        if data is None:
            return Peer.OPEN
        self.received += len(data)
        self._ahead = data
        self._at_hand = True
        return Peer.OPEN if data else Peer.ENDED

    def quiet(self) -> bool:
        """As for a plain stream; a session ticket that has come is no unread byte."""
        if not self._at_hand and super().quiet():
            return True
        return not self._reader.active and self._look_ahead() is Peer.OPEN and not self._ahead

    def peer(self) -> Peer:
        """As for a plain stream. Reads ahead, at most one record's worth that nobody has asked for yet."""
        return self._look_ahead()

    # -- writing ------------------------------------------------------------------------------------------------

    def write(self, data: bytes | memoryview | bytearray, patience: float) -> None:
        """As for a plain stream."""
        length = len(data)
        try:
            if length <= _RECORD:
                self._ssl.write(data)
                out = self._out.read()
            else:
                out = self._encrypt(memoryview(data))
        except ssl.SSLError as error:
            raise tls_error(error) from None
        if self._rest:
            out, self._rest = self._rest + out, b""
        try:
            taken = self._send(out)
        except BlockingIOError:
            taken = 0
        self.sent += length
        if taken < len(out):
            self._rest = out[taken:]
            self._flush_all(patience)

    def _encrypt(self, data: memoryview) -> bytes:
        """Many records, taken out of the buffer one by one."""
        pieces = []
        while data:
            taken = self._ssl.write(data)
            data = data[taken:]
            pieces.append(self._out.read())
        return b"".join(pieces)

    def _flush_all(self, patience: float) -> None:
        """Send all ciphertext there is. What a reader has to say meanwhile is sent here too, in its order."""
        self._flushing = True
        try:
            while self._rest or self._out.pending:
                rest = memoryview(self._rest or self._out.read())
                while rest:
                    try:
                        taken = self._send(rest)
                        rest = rest[taken:]
                    except BlockingIOError:
                        self._rest = bytes(rest)
                        self.write_ready(patience)
                self._rest = b""
        finally:
            self._flushing = False

    def _try_to_flush(self) -> None:
        """Send what the socket takes now, the rest with the next write. A failure shows where bytes matter."""
        if self._flushing or self._finished:
            return
        out = self._rest + self._out.read()
        if len(out) > _MAX_UNSENT:
            raise TlsError("flood", "the peer asks for answers and does not take them")
        if not out:
            return
        try:
            taken = self._send(out)
            self._rest = out[taken:]
        except BlockingIOError:
            self._rest = out
        except OSError:
            self._rest = b""  # gone: the next read or write of data says so

    # -- closing ------------------------------------------------------------------------------------------------

    def _announce_end(self) -> None:
        """Put close_notify into the ciphertext."""
        # That makes OpenSSL look for the peer's too, and take data for a fault: so data is read before.
        if self._at_hand and not self._ahead:
            self._ahead = self._decrypt(READ_SIZE) or b""
            self._at_hand = True
            self.received += len(self._ahead)
        try:
            self._ssl.unwrap()
        except ssl.SSLError:
            pass  # the peer's has not come yet, or nothing can be said any more

    def finish_writing(self, patience: float) -> None:
        """As for a plain stream: close_notify, then the end of the connection below."""
        if self._finished:
            return
        self._announce_end()
        self._flush_all(patience)
        self._finished = True
        super().finish_writing(patience)

    def close(self) -> None:
        """As for a plain stream; the peer is told, as far as the socket takes it at once."""
        if not self.closed and self._ssl is not None and not self._finished and self.fault is None:
            try:
                self._announce_end()
                self._try_to_flush()
            except OSError:
                pass  # broken already: closing is all that is left
        super().close()

    def reset(self) -> None:
        """As for a plain stream: no announcement."""
        self._finished = True
        super().reset()


def _ended_early(error: OSError) -> TlsError:
    return TlsError("closed", f"{os.strerror(error.errno or 0)} during the handshake")
