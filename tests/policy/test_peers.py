"""Who a peer is by its certificate, and how that is told to an upstream."""

from __future__ import annotations

import pytest

from charon.policy.peers import expected, forwarded_client_cert, identity


def names(*pairs: tuple[str, str]) -> dict[str, object]:
    return {"subjectAltName": pairs}


def test_the_one_spiffe_uri_is_the_identity() -> None:
    peer = identity(names(("DNS", "shop.test"), ("URI", "spiffe://example.org/ns/a/shop"), ("IP Address", "::1")))
    assert (peer.spiffe, peer.trust_domain) == ("spiffe://example.org/ns/a/shop", "example.org")
    assert (peer.uris, peer.dns) == (("spiffe://example.org/ns/a/shop",), ("shop.test",))


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("https://example.org/shop",),
        ("spiffe://example.org/shop", "spiffe://example.org/web"),
        ("spiffe://example.org/shop", "https://example.org/"),
        ("spiffe://Example.org/shop",),
        ("spiffe://example.org:80/shop",),
        ("spiffe://example.org/shop/",),
        ("spiffe://example.org//shop",),
        ("spiffe://example.org/../shop",),
        ("spiffe://example.org/./shop",),
        ("spiffe://example.org/shop?x",),
        ("spiffe://example.org/sh%6fp",),
        ("spiffe://example.org/shop\n",),
        ("spiffe://example.org/shop\r\nX-Admin: 1",),
        ("spiffe:///shop",),
    ],
)
def test_what_is_no_spiffe_identity(uris: tuple[str, ...]) -> None:
    assert identity(names(*(("URI", uri) for uri in uris))).spiffe is None


def test_only_whom_we_meant() -> None:
    assert expected(("spiffe://a/b", "spiffe://a/c"), "spiffe://a/c")
    assert not expected(("spiffe://a/b",), "spiffe://a/bc")
    assert not expected(("spiffe://a/b",), None)


def test_as_envoy_writes_it() -> None:
    peer = identity(names(("URI", "spiffe://example.org/shop"), ("DNS", "shop.test"), ("DNS", "shop")))
    assert forwarded_client_cert(peer, "ab12", "spiffe://example.org/web") == (
        b"By=spiffe://example.org/web;Hash=ab12;URI=spiffe://example.org/shop;DNS=shop.test;DNS=shop"
    )
    assert forwarded_client_cert(identity({}), "ab12", None) == b"Hash=ab12"


def test_names_cannot_break_out_of_the_field() -> None:
    peer = identity(
        names(("URI", 'https://a/;b,c="d\\'), ("DNS", "x\r\ny"), ("URI", "https://a/\r\nX: y"), ("DNS", "ä"))
    )
    assert forwarded_client_cert(peer, "ab", None) == b'Hash=ab;URI="https://a/;b,c=\\"d\\\\"'


def test_an_identity_shows_who_it_is() -> None:
    shop = ("URI", "spiffe://example.org/shop"), ("DNS", "shop.test")
    assert repr(identity(names(*shop))) == "<Identity spiffe://example.org/shop>"
    assert repr(identity(names(("URI", "urn:a"), ("DNS", "a"), ("DNS", "b")))) == "<Identity urn:a a b>"
    assert repr(identity({})) == "<Identity without names>"
