"""The server name at the beginning of TLS: found whole, in pieces and byte by byte; what is wrong is refused."""

from __future__ import annotations

import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon.base.errors import BAD_CLIENT_HELLO, BadMessage
from charon.wire.client_hello import MAX_HELLO, ClientHello, parse_client_hello


def openssl_hello(name: str | None, **versions: ssl.TLSVersion) -> bytes:
    """What OpenSSL sends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for key, version in versions.items():
        setattr(context, key, version)
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data


def sni(*hosts: bytes, kind: int = 0) -> bytes:
    return vector(2, b"".join(bytes([kind]) + vector(2, host) for host in hosts))


def hello(
    *extensions: tuple[int, bytes],
    version: bytes = b"\x03\x03",
    session: bytes = b"",
    ciphers: bytes = b"\x13\x01",
    compression: bytes = b"\0",
    behind: bytes = b"",
) -> bytes:
    body = version + bytes(32) + vector(1, session) + vector(2, ciphers) + vector(1, compression)
    if extensions:
        body += vector(2, b"".join(struct.pack("!H", kind) + vector(2, value) for kind, value in extensions))
    return b"\x01" + vector(3, body + behind)


def record(message: bytes, size: int = 16_384, kind: int = 22) -> bytes:
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(bytes([kind]) + b"\x03\x01" + vector(2, piece) for piece in pieces)


GOOD = hello((10, b"\0\x02\0\x1d"), (0, sni(b"Shop.Example.com")), (43, b"\x02\x03\x04"))


@pytest.mark.parametrize("name", ["shop.example.com", None])
@pytest.mark.parametrize("versions", [{}, {"maximum_version": ssl.TLSVersion.TLSv1_2}])
def test_what_openssl_sends(name: str | None, versions: dict[str, ssl.TLSVersion]) -> None:
    assert parse_client_hello(openssl_hello(name, **versions)) == ClientHello(name, is_tls=True)


@pytest.mark.parametrize("size", [16_384, 100, 7, 1])
def test_records_may_be_cut_anywhere_and_so_may_the_bytes(size: int) -> None:
    data = record(GOOD, size)
    for end in range(len(data)):
        assert parse_client_hello(data[:end]) is None
    found = ClientHello("shop.example.com", is_tls=True)
    assert parse_client_hello(data) == found
    assert parse_client_hello(data + b"\x17\x03\x03\0\x01x") == found  # early data


@pytest.mark.parametrize(
    "message",
    [
        hello(),
        hello((43, b"")),
        hello((0, sni(b"a.test")), (0xFE0D, bytes(300)), session=bytes(32), ciphers=bytes(200)),
    ],
)
def test_other_good_ones(message: bytes) -> None:
    assert parse_client_hello(record(message)) is not None


def test_what_is_no_tls_has_no_name() -> None:
    for data in (b"GET / HTTP/1.1\r\n", b"SSH-2.0-x\r\n", b"\x00", b"\x80\x2e\x01"):
        assert parse_client_hello(data) == ClientHello(None, is_tls=False)
    assert parse_client_hello(b"") is None


@pytest.mark.parametrize(
    "data",
    [
        record(GOOD, kind=22)[:9] + record(GOOD, kind=21),
        b"\x16\x02\x00\0\x05" + GOOD,
        b"\x16\x03\x01\0\0" + record(GOOD),
        b"\x16\x03\x01\x40\x01",
        record(b"\x02" + GOOD[1:]),
        record(b"\x02"),
        record(GOOD + b"\x0b"),
        record(b"\x01" + (MAX_HELLO + 1).to_bytes(3, "big")),
        record(hello(version=b"\x02\x00")),
        record(hello(session=bytes(33))),
        record(hello(ciphers=b"")),
        record(hello(ciphers=b"\x13")),
        record(hello(compression=b"")),
        record(hello((10, b""), behind=b"x")),
        record(hello((0, sni(b"a.test")), (0, sni(b"b.test")))),
        record(hello((10, b""), (10, b""))),
        record(hello((0, b""))),
        record(hello((0, sni()))),
        record(hello((0, sni(b"")))),
        record(hello((0, sni(b"a.test", b"b.test")))),
        record(hello((0, sni(b"a.test", kind=1)))),
        record(hello((0, sni(b"a.test") + b"x"))),
        record(hello((0, sni(b"a test")))),
        record(hello((0, sni(b"a.test:443")))),
        record(hello((0, sni(b"a\0.test")))),
        record(hello((0, sni(b"a" * 256)))),
        record(hello((0, sni(b".")))),
        record(b"\x01" + vector(3, b"\x03\x03" + bytes(20))),
        record(b"\x01" + vector(3, hello((0, sni(b"a.test")))[4:-3])),
    ],
)
def test_what_is_refused(data: bytes) -> None:
    with pytest.raises(BadMessage) as caught:
        parse_client_hello(data)
    assert caught.value.reason is BAD_CLIENT_HELLO


def test_a_record_that_goes_beyond_is_refused_before_it_is_all_there() -> None:
    """Else the verdict would depend on how much of it has come."""
    data = record(GOOD + b"\x0b\0\0\0")
    for end in range(9, len(data)):
        with pytest.raises(BadMessage):
            parse_client_hello(data[:end])


@given(st.binary(max_size=300), st.integers(0, len(GOOD)), st.integers(1, 40))
def test_whatever_comes_is_a_verdict(noise: bytes, at: int, size: int) -> None:
    for message in (noise, GOOD[:at] + noise, GOOD[:at] + noise + GOOD[at + len(noise) :]):
        for data in (message, record(message, size), b"\x16\x03\x01" + message):
            try:
                found = parse_client_hello(data)
            except BadMessage:
                continue
            assert found is None or found.server_name is None or found.server_name.isascii()
