"""Addresses on the command line of the test tools."""

import pytest

from charon.testing.listener import bound_address, listen, parse_address


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (":9091", ("", 9091)),
        ("localhost:8080", ("localhost", 8080)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, parsed: tuple[str, int]) -> None:
    assert parse_address(text) == parsed


def test_a_missing_host_can_have_a_default() -> None:
    assert parse_address(":80", default_host="localhost") == ("localhost", 80)


@pytest.mark.parametrize(
    "text", ["", "9091", "localhost", "localhost:", "localhost:http", ":65536", ":-1", "::1:80", ":٣"]
)
def test_anything_else_is_refused_with_the_text_in_the_message(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address") as refusal:
        parse_address(text)
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_port_0_is_replaced_by_the_port_really_bound(host: str) -> None:
    listener = listen(host, 0)
    try:
        bound_host, bound_port = parse_address(bound_address(listener))
    finally:
        listener.close()
    assert bound_host == host
    assert bound_port > 0


def test_a_taken_port_is_an_error() -> None:
    listener = listen("127.0.0.1", 0)
    try:
        with pytest.raises(OSError, match="in use"):
            listen(*parse_address(bound_address(listener)))
    finally:
        listener.close()
