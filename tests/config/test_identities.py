"""Identities as text: what is one, what is a pattern of some, and what is neither."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon.base.identities import (
    identity_problem,
    pattern_problem,
    service_problem,
    spiffe_id,
    trust_domain_of,
    trust_domain_problem,
)

PARTS = st.text("aZ0.-_/*: é", max_size=8)


@given(domain=st.text("aZ0.-_*: é", max_size=8), service=PARTS)
def test_an_identity_is_a_trust_domain_and_a_name(domain: str, service: str) -> None:
    identity = spiffe_id(domain, service)
    good = trust_domain_problem(domain) is None and service_problem(service) is None
    assert (identity_problem(identity) is None) == good
    if good:
        assert trust_domain_of(identity) == domain
        assert pattern_problem(identity) is None
        # As SPIFFE-ID 2.1 and 2.2 have it.
        assert re.fullmatch(r"spiffe://[a-z0-9._-]+(/[a-zA-Z0-9._-]+)+", identity)


@pytest.mark.parametrize(
    "text",
    ["spiffe://a", "spiffe://a/", "spiffe://A/b", "spiffe://a/b/", "spiffe://a//b", "spiffe://a/../b", "spiffe://a/."]
    + ["spiffe:///b", "SPIFFE://a/b", "https://a/b", "a/b", "", "spiffe://a:1/b", "spiffe://a/b?c", "spiffe://a/%41"]
    + ["spiffe://a/*", "spiffe://a/" + "b" * 2048, "spiffe://a/b\n"],
)
def test_what_is_no_identity(text: str) -> None:
    assert identity_problem(text) is not None
    assert trust_domain_of("https://a/b") == ""


@pytest.mark.parametrize("text", ["*", "spiffe://*", "spiffe://*/web", "spiffe://a/*", "spiffe://a/team-*/web"])
def test_patterns(text: str) -> None:
    assert pattern_problem(text) is None


@pytest.mark.parametrize(
    "text", ["", "web", "**x", "spiffe://", "https://*", "*/web", "spiffe://a/b c*", "spiffe://a/é*"]
)
def test_what_is_no_pattern(text: str) -> None:
    assert pattern_problem(text) is not None
