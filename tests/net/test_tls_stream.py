"""A stream under TLS: what it returns, what it raises, and that it is a plain stream to whoever uses it.

Both ends are ours here, over real sockets; independent peers are in the scenarios.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from datetime import timedelta
from errno import ECONNRESET

import gevent
import pytest
from gevent import socket

from charon.config.snapshot import ClientTlsSpec, EndpointSpec, ServerTlsSpec, SocketAddress, TlsMaterial
from charon.net.relay import Relay
from charon.net.stream import DeadlineExceeded, Peer, Stream
from charon.net.tasks import spawn
from charon.net.tls import ClientTls, Contexts, EndpointTls, ServerTls, client_context
from charon.net.tls_failures import NotTls, TlsError
from charon.net.tls_stream import TlsStream
from tests.harness.authority import Authority, Leaf
from tests.net.support import Wires, until

PATIENT = 10.0
SOON = 0.05
CA = Authority()
WEB = CA.issue("spiffe://example.org/web")
SHOP = CA.issue("spiffe://example.org/shop")


def material(leaf: Leaf | None, roots: bytes = CA.pem, revoked: bytes = b"", version: str = "1") -> TlsMaterial:
    return TlsMaterial(version, leaf.cert if leaf else b"", leaf.key if leaf else b"", roots, revoked)


def server(leaf: Leaf = WEB, *, auth: str = "required", domain: str | None = "example.org", **more: bytes) -> ServerTls:
    return ServerTls(ServerTlsSpec("m", client_auth=auth, trust_domain=domain), material(leaf, **more))


def client(leaf: Leaf | None = SHOP, *identities: str, name: str = "localhost", **more: bytes) -> EndpointTls:
    spec = ClientTlsSpec("m", identities=identities)
    endpoint = EndpointSpec("here:1", (SocketAddress("127.0.0.1", 1),), host=name)
    return ClientTls(spec, client_context(spec, material(leaf, **more))).to("web", endpoint)


class Pair:
    """Two streams that have shaken hands, or the errors with which that ended."""

    def __init__(self, wires: Wires, server_tls: ServerTls, client_tls: EndpointTls, buffers: int | None = None):
        self.server, self.client = wires.tls(buffers=buffers)
        self.errors: dict[str, Exception] = {}
        accepting = spawn("accept", self._try, "server", lambda: self.server.accept(server_tls, PATIENT))
        self._try("client", lambda: self.client.connect(client_tls, PATIENT))
        accepting.join()

    def _try(self, who: str, step: Callable[[], None]) -> None:
        try:
            step()
        except (TlsError, DeadlineExceeded) as error:
            self.errors[who] = error
            (self.server if who == "server" else self.client).close()

    @property
    def words(self) -> dict[str, str]:
        return {who: error.word for who, error in self.errors.items() if isinstance(error, TlsError)}


@pytest.fixture
def pair(wires: Wires) -> Pair:
    pair = Pair(wires, server(), client(SHOP, "spiffe://example.org/web"))
    assert pair.errors == {}
    return pair


def test_a_client_that_waits_for_the_end_of_the_handshake_gets_it(wires: Wires) -> None:
    """In TLS 1.2 the server ends it, and a client asks for nothing before."""
    endpoint = client()
    endpoint.context.maximum_version = ssl.TLSVersion.TLSv1_2
    pair = Pair(wires, server(), endpoint)
    assert pair.errors == {}
    pair.client.write(b"question", PATIENT)
    assert pair.server.read(PATIENT) == b"question"


def test_bytes_go_both_ways_and_are_counted_without_what_tls_adds(pair: Pair) -> None:
    pair.client.write(b"question", PATIENT)
    assert pair.server.read_later(PATIENT) == b"question"
    pair.server.write(b"answer", PATIENT)
    assert pair.client.read(PATIENT) == b"answer"
    assert (pair.client.sent, pair.client.received) == (8, 6)
    assert (pair.server.sent, pair.server.received) == (6, 8)


def test_both_sides_know_who_the_other_is(pair: Pair) -> None:
    assert pair.server.peer_identity is not None and pair.client.peer_identity is not None
    assert pair.server.peer_identity.spiffe == "spiffe://example.org/shop"
    assert pair.client.peer_identity.spiffe == "spiffe://example.org/web"
    assert pair.client.peer_identity.dns == ("localhost",)
    assert len(pair.server.certificate_digest()) == 64


def test_a_read_in_small_steps_loses_nothing(pair: Pair) -> None:
    pair.client.write(b"abcdefgh", PATIENT)
    assert pair.server.read(PATIENT, 3) == b"abc"
    assert pair.server.read_later(PATIENT, 3) == b"def"  # decrypted already: no wait for a socket that stays silent
    assert not pair.server.quiet()
    assert pair.server.read_later(PATIENT, 3) == b"gh"
    assert pair.server.quiet()


def test_several_records_come_in_one_read(pair: Pair) -> None:
    body = bytes(range(256)) * 160  # 40 KiB: three records
    pair.client.write(body, PATIENT)
    got = pair.server.read(PATIENT)
    while len(got) < len(body):
        got += pair.server.read(PATIENT)
    assert got == body


def test_a_megabyte_passes_small_buffers_in_both_directions_at_once(wires: Wires) -> None:
    pair = Pair(wires, server(), client(), buffers=8192)
    body = bytes(range(251)) * 4000

    def collect(stream: TlsStream) -> bytes:
        got = bytearray()
        while len(got) < len(body):
            got += stream.read(PATIENT)
        return bytes(got)

    tasks = [spawn("c up", pair.client.write, body, PATIENT), spawn("s down", pair.server.write, body, PATIENT)]
    readers = [spawn("s reads", collect, pair.server), spawn("c reads", collect, pair.client)]
    gevent.joinall([*tasks, *readers], raise_error=True)
    assert [reader.value for reader in readers] == [body, body]


def test_an_announced_end_is_an_end_and_the_other_direction_goes_on(pair: Pair) -> None:
    pair.server.write(b"on its way", PATIENT)
    pair.client.finish_writing(PATIENT)
    assert pair.server.read(PATIENT) == b""
    assert pair.server.read(PATIENT) == b""
    assert pair.server.peer() is Peer.ENDED
    pair.server.write(b" and more", PATIENT)
    pair.server.finish_writing(PATIENT)
    assert b"".join(iter(lambda: pair.client.read(PATIENT), b"")) == b"on its way and more"


def test_bytes_that_have_come_when_writing_ends_can_still_be_read(pair: Pair) -> None:
    pair.server.write(b"x" * 40_000, PATIENT)
    assert pair.client.read(PATIENT, 5) == b"xxxxx"  # the rest is at hand, in OpenSSL and before it
    pair.client.finish_writing(PATIENT)
    got = 5
    while got < 40_000:
        got += len(pair.client.read(PATIENT))
    pair.server.write(b"y", PATIENT)
    assert pair.client.read(PATIENT) == b"y"


def test_an_end_that_was_not_announced_is_a_failure(pair: Pair) -> None:
    pair.client.write(b"half of a mess", PATIENT)
    pair.client.sock.shutdown(socket.SHUT_WR)  # what anybody on the way can do, too
    assert pair.server.read(PATIENT) == b"half of a mess"
    with pytest.raises(OSError, match="close_notify") as caught:
        pair.server.read(PATIENT)
    assert caught.value.errno == ECONNRESET


def test_bytes_that_were_changed_on_the_way_are_a_failure(pair: Pair) -> None:
    pair.client.sock.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(TlsError):
        pair.server.read(PATIENT)


def test_closing_announces_the_end_and_a_reset_does_not(wires: Wires) -> None:
    closed, reset = Pair(wires, server(), client()), Pair(wires, server(), client())
    closed.client.close()
    assert closed.server.read(PATIENT) == b""
    reset.client.reset()
    with pytest.raises(ConnectionResetError):
        reset.server.read(PATIENT)


def test_a_read_gives_up_when_its_patience_ends(pair: Pair) -> None:
    with pytest.raises(DeadlineExceeded):
        pair.server.read(SOON)
    with pytest.raises(DeadlineExceeded):
        pair.server.read_later(SOON)


def test_looking_at_a_peer_takes_nothing_away(pair: Pair) -> None:
    assert pair.server.peer() is Peer.OPEN
    pair.client.write(b"next", PATIENT)
    until(lambda: not Stream.quiet(pair.server))
    assert pair.server.peer() is Peer.OPEN
    assert not pair.server.quiet()
    pair.client.close()
    assert pair.server.read_later(PATIENT) == b"next"
    until(lambda: pair.server.peer() is Peer.ENDED)


def test_a_ticket_is_no_unread_byte(pair: Pair) -> None:
    """In TLS 1.3 a server sends one after the handshake: a pooled connection that has it waiting is as good as new."""
    until(lambda: not Stream.quiet(pair.client))
    assert pair.client.quiet()
    assert Stream.quiet(pair.client)
    pair.server.write(b"x", PATIENT)
    until(lambda: not pair.client.quiet())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_second_connection_resumes_the_first(wires: Wires, version: ssl.TLSVersion) -> None:
    shared, endpoint = server(), client()
    endpoint.context.maximum_version = version
    for resumed in (False, True, True):
        pair = Pair(wires, shared, endpoint)
        assert (pair.server.resumed, pair.client.resumed) == (resumed, resumed)
        assert pair.server.peer_identity is not None  # it comes with the session
        assert pair.server.peer_identity.spiffe == "spiffe://example.org/shop"
        pair.server.write(b"x", PATIENT)
        pair.client.read(PATIENT)
    assert not Pair(wires, server(), endpoint).server.resumed  # another worker, or another certificate: from the start


def test_a_session_does_not_outlive_its_certificate(wires: Wires, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, endpoint = server(), client()
    first = Pair(wires, shared, endpoint)
    first.server.write(b"x", PATIENT)
    first.client.read(PATIENT)
    later = time.time() + 2 * 86_400
    monkeypatch.setattr("charon.net.tls_stream._clock.wall", lambda: later, raising=False)
    assert Pair(wires, shared, endpoint).words["server"] == "expired"


def test_a_reader_and_a_writer_can_both_be_interrupted(pair: Pair) -> None:
    class Stop(Exception):
        pass

    def reading() -> str:
        try:
            pair.server.read(PATIENT)
        except Stop:
            return "stopped"
        return "read"

    task = spawn("reader", reading)
    until(lambda: pair.server.deadline < float("inf"))
    pair.server.interrupt(Stop())
    assert task.get() == "stopped"


def test_a_relay_joins_tls_and_plain_with_half_closes(wires: Wires) -> None:
    pair = Pair(wires, server(), client())
    upstream, app = wires.tcp()
    relay = Relay(pair.server, upstream, PATIENT, b"early ")
    joined = spawn("relay", relay.run, "up")
    body = bytes(1_000_000)
    sending = spawn("client", lambda: (pair.client.write(body, PATIENT), pair.client.finish_writing(PATIENT)))
    got = b"".join(iter(lambda: app.recv(1 << 20), b""))
    assert got == b"early " + body
    app.sendall(body)
    app.close()
    back = bytearray()
    while piece := pair.client.read(PATIENT):
        back += piece
    gevent.joinall([joined, sending], raise_error=True)
    assert bytes(back) == body
    assert relay.reason is None


REFUSED_CLIENTS = {
    "no_certificate": None,
    "unknown_ca": Authority("another").issue("spiffe://example.org/shop"),
    "expired": CA.issue("spiffe://example.org/shop", starts=timedelta(days=-3), ends=timedelta(days=-1)),
    "not_yet_valid": CA.issue("spiffe://example.org/shop", starts=timedelta(days=1), ends=timedelta(days=2)),
    "wrong_trust_domain": CA.issue("spiffe://example.com/shop"),
    "revoked": CA.issue("spiffe://example.org/gone"),
}
_LIST = CA.revoke(*[leaf for word, leaf in REFUSED_CLIENTS.items() if word == "revoked" and leaf])


@pytest.mark.parametrize("word", REFUSED_CLIENTS)
def test_a_server_refuses(wires: Wires, word: str) -> None:
    assert Pair(wires, server(revoked=_LIST), client(REFUSED_CLIENTS[word])).words["server"] == word


@pytest.mark.parametrize(
    ("uris", "why"),
    [
        ((), "has no SPIFFE"),
        (("spiffe://example.org/a", "spiffe://example.org/b"), "has no SPIFFE"),
        (("https://example.org/",), "has no SPIFFE"),
    ],
)
def test_a_trust_domain_asks_for_exactly_one_spiffe_identity(wires: Wires, uris: tuple[str, ...], why: str) -> None:
    error = Pair(wires, server(), client(CA.issue(*uris))).errors["server"]
    assert isinstance(error, TlsError) and error.word == "wrong_trust_domain" and why in error.detail


def test_a_client_without_certificate_is_let_in_where_it_is_optional(wires: Wires) -> None:
    for auth in ("optional", "none"):
        pair = Pair(wires, server(auth=auth), client(None))
        assert pair.errors == {} and pair.server.peer_identity is None
    assert Pair(wires, server(auth="optional"), client(REFUSED_CLIENTS["expired"])).words["server"] == "expired"


@pytest.mark.parametrize(
    ("leaf", "identities", "name", "word"),
    [
        (WEB, ("spiffe://example.org/other",), "localhost", "wrong_identity"),
        (WEB, (), "elsewhere.test", "wrong_identity"),
        (CA.issue("spiffe://example.org/web", hosts=[]), (), "127.0.0.1", "wrong_identity"),
        (REFUSED_CLIENTS["unknown_ca"], ("spiffe://example.org/shop",), "localhost", "unknown_ca"),
        (REFUSED_CLIENTS["expired"], (), "localhost", "expired"),
        (REFUSED_CLIENTS["revoked"], (), "localhost", "revoked"),
    ],
)
def test_a_client_refuses(wires: Wires, leaf: Leaf, identities: tuple[str, ...], name: str, word: str) -> None:
    pair = Pair(wires, server(leaf, auth="none"), client(None, *identities, name=name, revoked=_LIST))
    assert pair.words["client"] == word


def test_a_client_learns_that_it_is_refused(wires: Wires) -> None:
    """In TLS 1.3 its own handshake is done before the server has looked at its certificate."""
    pair = Pair(wires, server(), client(None))
    with pytest.raises(TlsError) as caught:
        pair.client.read(PATIENT)
    assert (caught.value.word, caught.value.refused) == ("refused_by_peer", True)
    assert pair.client.peer() is Peer.RESET
    with pytest.raises(TlsError):
        pair.client.read(PATIENT)  # again and again: it never looks like an end
    assert pair.client.failure is not None and pair.client.failure.refused


def test_what_is_not_tls_is_handed_back(wires: Wires) -> None:
    stream, peer = wires.tls()
    peer.sock.send(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(NotTls) as caught:
        stream.accept(server(), PATIENT)
    assert caught.value.data == b"GET / HTTP/1.1\r\n\r\n"


def test_a_client_that_leaves_while_it_is_answered_is_one_that_left(wires: Wires) -> None:
    stream, peer = wires.tls()
    hello = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client().context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
    peer.sock.send(hello.read())
    until(lambda: not Stream.quiet(stream))
    peer.reset()
    with pytest.raises(TlsError) as caught:
        stream.accept(server(), PATIENT)
    assert caught.value.word == "closed"


def test_a_silent_client_and_one_that_drips_have_the_same_time(wires: Wires) -> None:
    stream, peer = wires.tls()
    peer.sock.send(b"\x16\x03\x01\x02\x00\x01")
    with pytest.raises(DeadlineExceeded):
        stream.accept(server(), SOON)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what it is about
def test_old_versions_are_not_spoken(wires: Wires) -> None:
    old = client()
    old.context.minimum_version = ssl.TLSVersion.TLSv1
    old.context.maximum_version = ssl.TLSVersion.TLSv1_2
    old.context.options |= ssl.OP_NO_TLSv1_2
    old.context.set_ciphers("ALL:@SECLEVEL=0")
    assert Pair(wires, server(), old).words["server"] == "no_common_version"
    newest = ServerTls(ServerTlsSpec("m", min_version="1.3", client_auth="none"), material(WEB))
    middle = client(None)
    middle.context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert Pair(wires, newest, middle).words["server"] == "no_common_version"
    assert Pair(wires, server(), middle).words == {"server": "no_certificate", "client": "refused_by_peer"}


def test_contexts_are_made_once_for_each_material() -> None:
    contexts = Contexts()
    spec = ServerTlsSpec("m")
    contexts.use({"m": material(WEB)})
    one = contexts.server(spec)
    assert contexts.server(spec) is one
    assert contexts.server(spec, ("http/1.1",)) is not one
    contexts.use({"m": material(WEB), "other": material(SHOP, version="o")})
    assert contexts.server(spec) is one
    contexts.use({"m": material(WEB, version="2")})
    renewed = contexts.server(spec)
    assert renewed is not one
    with pytest.raises(ValueError, match="cannot be used"):
        contexts.use({"m": TlsMaterial("3", b"no certificate", b"no key")})
    assert contexts.server(spec) is renewed
    with pytest.raises(ValueError, match="no TLS material"):
        contexts.server(ServerTlsSpec("other"))


def test_services_with_the_same_material_share_a_context() -> None:
    contexts = Contexts()
    contexts.use({"m": material(WEB)})
    one, other = (contexts.client(ClientTlsSpec("m", identities=(f"spiffe://example.org/{i}",))) for i in range(2))
    assert one is not other and one.context is other.context
    mesh = contexts.client(ClientTlsSpec("m", trust_domain="example.org"))
    endpoint = EndpointSpec("here:1", (SocketAddress("127.0.0.1", 1),))
    assert mesh.context is one.context
    assert mesh.to("shop", endpoint).identities == ("spiffe://example.org/shop",)
    assert mesh.to("shop", endpoint).server_name == "127.0.0.1"
    by_name = contexts.client(ClientTlsSpec("m", server_name="db.test"))
    assert by_name.context is not one.context  # OpenSSL looks at the name
    assert contexts.client(ClientTlsSpec("m", server_name="db.test")) is by_name
    contexts.use({"m": material(WEB, version="2")})
    assert contexts.client(one.spec) is not one
