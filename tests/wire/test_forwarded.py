"""Where a request came from, and whom to believe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon.wire.forwarded import TrustedPeers, client_address, is_loop, request_extra
from charon.wire.messages import HeadLimits, RequestHead, parse_request, serialize_request

LIMITS = HeadLimits()


def request(*fields: tuple[bytes, bytes], host: bytes = b"a.example", version: int = 11) -> RequestHead:
    return RequestHead(b"GET", b"/", b"/", version, host, [], list(fields) or None)


def extra(head: RequestHead, peer: str = "10.0.0.1", scheme: bytes = b"http", trusted: bool = False) -> list[bytes]:
    lines = request_extra(head, peer, scheme, trusted, b"i1")
    assert lines.endswith(b"\r\n")
    return lines[:-2].split(b"\r\n")


def test_an_ordinary_request() -> None:
    assert extra(request(), scheme=b"https") == [
        b"X-Forwarded-For: 10.0.0.1", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: a.example",
        b"Via: 1.1 charon-i1",
    ]  # fmt: skip


def test_via_names_the_version_received() -> None:
    assert extra(request(version=10))[-1] == b"Via: 1.0 charon-i1"
    assert extra(request((b"via", b"1.0 a, 2 b"), (b"via", b""), (b"via", b"1.1 c")))[-1] == (
        b"Via: 1.0 a, 2 b, 1.1 c, 1.1 charon-i1"
    )


SPOOFED = (
    (b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"evil.example"),
    (b"x-forwarded-client-cert", b"Hash=1"), (b"x-forwarded-port", b"1"), (b"x-real-ip", b"1.2.3.4"),
    (b"forwarded", b"for=1.2.3.4"),
)  # fmt: skip


def test_what_an_untrusted_peer_says_is_replaced() -> None:
    assert extra(request(*SPOOFED)) == extra(request())


def test_what_a_trusted_peer_says_is_continued() -> None:
    assert extra(request(*SPOOFED), trusted=True) == [
        b"X-Forwarded-For: 1.2.3.4, 10.0.0.1", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: evil.example",
        b"Forwarded: for=1.2.3.4, for=10.0.0.1;proto=http", b"X-Forwarded-Client-Cert: Hash=1", b"x-forwarded-port: 1",
        b"x-real-ip: 1.2.3.4", b"Via: 1.1 charon-i1",
    ]  # fmt: skip


def test_the_certificate_of_the_peer_is_told_and_nobody_else_can_tell_it() -> None:
    """As Envoy's SANITIZE_SET and, for trusted peers, APPEND_FORWARD."""
    own = b"Hash=2;URI=spiffe://example.org/shop"
    line = b"X-Forwarded-Client-Cert: " + own
    assert line in request_extra(request(), "10.0.0.1", b"https", False, b"i1", own).split(b"\r\n")
    assert line in request_extra(request(*SPOOFED), "10.0.0.1", b"https", False, b"i1", own).split(b"\r\n")
    continued = request_extra(request(*SPOOFED), "10.0.0.1", b"https", True, b"i1", own).split(b"\r\n")
    assert b"X-Forwarded-Client-Cert: Hash=1," + own in continued


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ((b"x-forwarded-proto", b"javascript"), b"X-Forwarded-Proto: http"),
        ((b"x-forwarded-proto", b"https, http"), b"X-Forwarded-Proto: http"),
        ((b"x-forwarded-proto", b"HTTPS"), b"X-Forwarded-Proto: https"),
        ((b"x-forwarded-host", b"a b"), b"X-Forwarded-Host: a.example"),
        ((b"x-forwarded-host", b""), b"X-Forwarded-Host: a.example"),
        ((b"x-forwarded-for", b"<script>"), b"X-Forwarded-For: 10.0.0.1"),
        ((b"x-forwarded-for", b"unknown, [::1]:5"), b"X-Forwarded-For: unknown, [::1]:5, 10.0.0.1"),
    ],
)
def test_a_trusted_peer_still_has_to_make_sense(field: tuple[bytes, bytes], line: bytes) -> None:
    assert line in extra(request(field), trusted=True)


def test_two_answers_to_one_question_are_none() -> None:
    lines = extra(request((b"x-forwarded-host", b"a"), (b"x-forwarded-host", b"b")), trusted=True)
    assert b"X-Forwarded-Host: a.example" in lines


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("peer", ["", "unix"])
def test_a_unix_peer_has_no_address(peer: str, trusted: bool) -> None:
    assert extra(request(host=b"", version=10), peer, trusted=trusted) == [
        b"X-Forwarded-Proto: http", b"Via: 1.0 charon-i1",
    ]  # fmt: skip
    chain = request((b"x-forwarded-for", b"1.2.3.4"), (b"forwarded", b"for=1.2.3.4"))
    lines = extra(chain, peer, trusted=trusted)
    assert (b"X-Forwarded-For: 1.2.3.4" in lines) is trusted
    assert (b"Forwarded: for=1.2.3.4, for=unknown;proto=http" in lines) is trusted


def test_an_ipv6_peer_is_quoted_where_the_rfc_says_so() -> None:
    lines = extra(request((b"forwarded", b"for=a")), "2001:db8::1", trusted=True)
    assert b'Forwarded: for=a, for="[2001:db8::1]";proto=http' in lines
    assert b"X-Forwarded-For: 2001:db8::1" in lines


@given(
    st.lists(
        st.tuples(
            st.sampled_from([name for name, _ in SPOOFED] + [b"via", b"X-Forwarded-X"]),
            st.binary(max_size=12).filter(lambda value: not set(value) & (set(range(9)) | set(range(10, 32)) | {127})),
        ),
        max_size=4,
    ),
    st.booleans(),
)
def test_nothing_breaks_out_of_its_line(fields: list[tuple[bytes, bytes]], trusted: bool) -> None:
    """What was parsed, extended and serialised parses again, to the same request."""
    raw = b"GET /a HTTP/1.1\r\nHost: h\r\n" + b"".join(b"%b: %b\r\n" % field for field in fields) + b"A: b\r\n\r\n"
    first = parse_request(raw, LIMITS)
    assert first is not None
    data = serialize_request(first[0], request_extra(first[0], "::1", b"http", trusted, b"i1"))
    second = parse_request(data, LIMITS)
    assert second is not None and second[1] == len(data)
    assert (second[0].target, second[0].host, second[0].fields) == (b"/a", b"h", [(b"A", b"b")])
    assert is_loop(second[0], b"i1")
    assert client_address(second[0], "::1", TrustedPeers()) == "::1"


@pytest.mark.parametrize(
    ("via", "loop"),
    [
        ([], False),
        ([b"1.1 charon-i1"], True),
        ([b"1.0 a, HTTP/1.1\tcharon-i1 (comment)"], True),
        ([b"1.1 a", b"1.1 charon-i1"], True),
        ([b"1.1 charon-i2"], False),
        ([b"1.1 charon-i11"], False),
        ([b"charon-i1"], False),
        ([b"1.1 a (charon-i1)"], False),
        ([b",, ,"], False),
    ],
)
def test_loops(via: list[bytes], loop: bool) -> None:
    assert is_loop(request(*((b"via", value) for value in via)), b"i1") is loop


@pytest.mark.parametrize(
    ("networks", "peer", "trusted"),
    [
        ((), "10.0.0.1", False),
        ((), "", False),
        (("10.0.0.0/8",), "10.1.2.3", True),
        (("10.0.0.0/8",), "11.0.0.1", False),
        (("10.0.0.1",), "10.0.0.1", True),
        (("10.0.0.1",), "10.0.0.2", False),
        (("10.0.0.9/8",), "10.1.2.3", True),
        (("::1",), "::1", True),
        (("::1",), "0:0:0:0:0:0:0:1", True),
        (("127.0.0.0/8",), "::ffff:127.0.0.1", True),
        (("fe80::/10",), "fe80::1%eth0", True),
        (("0.0.0.0/0",), "::1", False),
        (("unix",), "", True),
        (("unix",), "unix", True),
        (("unix",), "10.0.0.1", False),
        (("10.0.0.0/8",), "", False),
        (("10.0.0.0/8",), "nonsense", False),
    ],
)
def test_trust(networks: tuple[str, ...], peer: str, trusted: bool) -> None:
    peers = TrustedPeers(networks)
    assert [peers.trusts(peer), peers.trusts(peer)] == [trusted, trusted]
    assert bool(peers) is bool(networks)


def test_a_wrong_network_is_an_error() -> None:
    with pytest.raises(ValueError):
        TrustedPeers(("10.0.0.0/99",))


def test_many_peers_are_remembered_within_bounds() -> None:
    peers = TrustedPeers(("10.0.0.0/9",))
    for number in range(5000):
        assert peers.trusts(f"10.{number % 256}.{number // 256}.1") is (number % 256 < 128)
    assert len(peers._cache) <= 1024


@pytest.mark.parametrize(
    ("chain", "peer", "client"),
    [
        ([], "10.0.0.1", "10.0.0.1"),
        ([b"1.1.1.1"], "10.0.0.1", "1.1.1.1"),
        ([b"1.1.1.1"], "9.9.9.9", "9.9.9.9"),
        ([b"6.6.6.6, 1.1.1.1"], "10.0.0.1", "1.1.1.1"),
        ([b"6.6.6.6, 1.1.1.1, 10.0.0.7"], "10.0.0.1", "1.1.1.1"),
        ([b"6.6.6.6", b"1.1.1.1", b"10.0.0.7"], "10.0.0.1", "1.1.1.1"),
        ([b"10.0.0.8, 10.0.0.7"], "10.0.0.1", "10.0.0.8"),
        ([b"1.1.1.1, unknown, 10.0.0.7"], "10.0.0.1", "10.0.0.7"),
        ([b"unknown"], "10.0.0.1", "10.0.0.1"),
        ([b"1.1.1.1" + b", 10.0.0.2" * 31], "10.0.0.1", "1.1.1.1"),
        ([b"1.1.1.1" + b", 10.0.0.2" * 32], "10.0.0.1", "10.0.0.2"),
        ([b""], "10.0.0.1", "10.0.0.1"),
        ([b"1.1.1.1:4711"], "10.0.0.1", "1.1.1.1"),
        ([b"[2001:DB8::1]:4711"], "10.0.0.1", "2001:db8::1"),
        ([b"2001:db8:0::1"], "10.0.0.1", "2001:db8::1"),
        ([b"[2001:db8::1]x"], "10.0.0.1", "10.0.0.1"),
        ([b"1.1.1.1:port"], "10.0.0.1", "10.0.0.1"),
        ([b"::ffff:1.1.1.1"], "10.0.0.1", "1.1.1.1"),
        ([b"1.1.1.1\xff"], "10.0.0.1", "10.0.0.1"),
    ],
)
def test_the_client_behind_the_peers(chain: list[bytes], peer: str, client: str) -> None:
    head = request(*((b"x-forwarded-for", value) for value in chain))
    assert client_address(head, peer, TrustedPeers(("10.0.0.0/8",))) == client


def test_trusted_peers_show_who_they_are() -> None:
    assert repr(TrustedPeers()) == "<TrustedPeers none>"
    assert repr(TrustedPeers(("10.1.2.3/8", "unix", "::1"))) == "<TrustedPeers 10.0.0.0/8, ::1/128, unix>"
