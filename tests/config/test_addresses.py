"""Addresses to listen on and to connect to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon.base.addresses import Address, parse_address, parse_listen, parse_port, parse_upstream


@pytest.mark.parametrize(
    ("text", "address", "written"),
    [
        ("localhost:9091", Address("localhost", 9091), "localhost:9091"),
        (":9091", Address("localhost", 9091), "localhost:9091"),
        ("[::1]:80", Address("::1", 80), "[::1]:80"),
        ("10.0.0.5:80", Address("10.0.0.5", 80), "10.0.0.5:80"),
        ("my_service.prod-1.example.:1", Address("my_service.prod-1.example.", 1), "my_service.prod-1.example.:1"),
        ("unix:/run/app.sock", Address("/run/app.sock", 0), "unix:/run/app.sock"),
    ],
)
def test_where_to_connect(text: str, address: Address, written: str) -> None:
    assert parse_address(text) == address
    assert str(address) == written


@pytest.mark.parametrize(
    ("text", "scheme", "address"),
    [
        ("http://localhost:9091", "http", "localhost:9091"),
        ("http://localhost:9091/", "http", "localhost:9091"),
        ("HTTP://localhost", "http", "localhost:80"),
        ("https://a.example", "https", "a.example:443"),
        ("https://[::1]", "https", "[::1]:443"),
        ("http://[::1]:81", "http", "[::1]:81"),
        ("a:1", None, "a:1"),
    ],
)
def test_an_upstream_may_have_a_scheme(text: str, scheme: str | None, address: str) -> None:
    upstream = parse_upstream(text)
    assert (upstream.scheme, str(upstream.address)) == (scheme, address)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("localhost", "port is missing"),
        ("", "port is missing"),
        ("::1:80", "stands in brackets"),
        ("[::1]", "port is missing"),
        ("[1.2.3.4]:80", "only an IPv6 address stands in brackets"),
        ("a:0", "from 1 to 65535"),
        ("a:65536", "from 1 to 65535"),
        ("a:-1", "not a port"),
        ("a:٣", "not a port"),
        ("10.0.0.256:80", "not an IPv4 address"),
        ("bad host:80", "not a host name"),
        ("-a:80", "not a host name"),
        ("a..b:80", "not a host name"),
        ("müller.example:80", "xn--"),
        ("unix:relative", "absolute"),
        ("unix:/" + "x" * 107, "at most 107 bytes"),
        ("ftp://a:1", "not an address"),
        ("http://a:1/path", "has a path"),
        ("http://u:secret@a:1", "user name or password"),
        ("http://", "not an address"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        parse_upstream(text)
    assert "secret" not in str(refused.value)


def test_where_to_listen() -> None:
    assert parse_listen(":8080") == Address("", 8080)
    assert parse_listen("127.0.0.1:0") == Address("127.0.0.1", 0)
    assert parse_listen("[::]:8080") == Address("::", 8080)
    assert parse_listen("unix:/run/x.sock").is_unix
    with pytest.raises(ValueError, match="write :port, ip:port"):
        parse_listen("http://a:1")


@pytest.mark.parametrize("text", ["localhost:8080", "a.example.com:1", "my-host:0"])
def test_a_name_is_nothing_to_listen_on(text: str) -> None:
    with pytest.raises(ValueError, match=r"is a name; write its IP address, or ':\d+' for all interfaces"):
        parse_listen(text)


def test_the_path_of_a_socket_can_be_written_into_a_log() -> None:
    for text in ("unix:/run/a\nb", "unix:/run/\udcff"):
        with pytest.raises(ValueError, match="only printable characters"):
            parse_listen(text)


def test_a_port_may_be_a_number_or_text() -> None:
    assert parse_port("8080") == parse_port(8080) == 8080
    assert parse_port(0, zero=True) == 0
    for wrong in ("0", "x", "65536", True, -1, "8 0"):
        with pytest.raises(ValueError, match="is not a port"):
            parse_port(wrong)


def test_only_a_literal_needs_no_resolving() -> None:
    assert Address("::1", 1).is_ip
    assert Address("10.0.0.1", 1).is_ip
    assert not Address("localhost", 1).is_ip
    assert not Address("/run/x", 0).is_ip


@given(st.text(max_size=40))
def test_nothing_but_an_address_or_a_refusal_comes_of_any_text(text: str) -> None:
    for parse in (parse_address, parse_listen):
        try:
            address = parse(text)
        except ValueError:
            continue
        assert parse(str(address)) == address
