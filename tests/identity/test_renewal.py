"""When a certificate is renewed, and when people hear of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from charon.identity.renewal import expires_soon, margin, renew_at
from charon.identity.spiffe import Facts
from tests.identity.conftest import DAY, NOW


def facts(life: float, serial: int = 0) -> Facts:
    return Facts("spiffe://a/b", (), "CN=b", "CN=a", serial, NOW, NOW + life)


@given(serial=st.integers(1, 2**159), life=st.floats(10, 3650 * DAY))
def test_a_certificate_is_renewed_after_about_two_thirds_of_its_life(serial: int, life: float) -> None:
    at = renew_at(facts(life, serial)) - NOW
    assert 0.616 * life <= at <= 0.667 * life
    assert not expires_soon(facts(life, serial), NOW + at), "one that is renewed in time is never complained about"


def test_certificates_that_were_issued_together_are_renewed_apart() -> None:
    assert len({renew_at(facts(DAY, serial)) for serial in range(100)}) == 100


def test_what_soon_means() -> None:
    assert not expires_soon(facts(DAY), NOW + DAY * 0.83)
    assert expires_soon(facts(DAY), NOW + DAY * 0.84)
    assert not expires_soon(facts(3650 * DAY), NOW + 3600 * DAY)
    assert expires_soon(facts(3650 * DAY), NOW + 3621 * DAY)


def test_days_that_are_wanted_fit_the_life() -> None:
    assert margin(facts(90 * DAY), 30) == 30 * DAY
    assert margin(facts(DAY), 7) == DAY / 6
    assert margin(facts(DAY), 0) == 0
