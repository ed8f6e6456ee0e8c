"""Who may, by identity: deny before allow, exact or with wildcards."""

from __future__ import annotations

import pytest

from charon.config.snapshot import AccessSpec
from charon.policy.access import Access

SHOP, WEB = "spiffe://example.org/shop", "spiffe://example.org/web"


@pytest.mark.parametrize(
    ("allow", "deny", "let_in", "turned_away"),
    [
        ((), (), (SHOP, WEB, None), ()),
        ((SHOP,), (), (SHOP,), (WEB, None, SHOP + "/", "x" + SHOP, SHOP.upper())),
        ((), (SHOP,), (WEB, None), (SHOP,)),
        (("spiffe://example.org/*",), (), (SHOP, WEB), ("spiffe://example.com/shop", "https://example.org/shop", None)),
        (("spiffe://example.org/*",), (WEB,), (SHOP,), (WEB,)),
        (("*/shop",), (), (SHOP, "spiffe://a/b/shop"), (WEB,)),
        (("spiffe://*.example.org/s*p",), (), ("spiffe://eu.example.org/shop",), (SHOP,)),
        (("spiffe://example.org/a.b",), (), ("spiffe://example.org/a.b",), ("spiffe://example.org/axb",)),
        (("*.b",), (), ("a.b",), ("axb",)),
        (("*",), (), (SHOP, WEB), (None,)),
        ((), ("*",), (), (SHOP, None)),
        ((SHOP,), ("*",), (), (SHOP, WEB, None)),
    ],
)
def test_who_may(
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    let_in: tuple[str | None, ...],
    turned_away: tuple[str | None, ...],
) -> None:
    access = Access(AccessSpec(allow, deny))
    assert [identity for identity in let_in if not access.allows(identity)] == []
    assert [identity for identity in turned_away if access.allows(identity)] == []
