"""What an authority issues, judged by openssl."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from charon.base.errors import CertificateError
from charon.identity import authority
from charon.identity.authority import Authority, Wish, certificates_pem, new_request, parse_request, requested
from charon.identity.keys import kind_of, new_key, pem_of
from charon.identity.spiffe import facts_of
from tests.identity.conftest import DAY, NOW
from tests.identity.support import certificate, openssl, put, verified

WISH = Wish("spiffe://example.org/team/web", ("web.example.com", "10.0.0.5", "::1"), DAY)


@pytest.fixture
def issuer(tmp_path: Path) -> Authority:
    return authority.create(str(tmp_path / "ca"), "example.org", NOW)


def test_an_authority_is_a_root_for_its_trust_domain(issuer: Authority) -> None:
    folder = Path(issuer.folder)
    text = openssl("x509", "-in", str(folder / "ca-cert.pem"), "-noout", "-text")
    assert "CA:TRUE, pathlen:0" in text
    assert "Certificate Sign, CRL Sign" in text
    assert "URI:spiffe://example.org\n" in text
    assert 9.9 * 365 < facts_of(issuer.cert).days_left(NOW) < 10.1 * 365
    assert stat.S_IMODE((folder / "ca-key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert verified(folder / "ca-cert.pem", folder / "ca-cert.pem", at=NOW, purpose="any")
    with pytest.raises(CertificateError, match=r"ca-cert\.pem: there is an authority already"):
        authority.create(issuer.folder, "example.org", NOW)


@pytest.mark.parametrize("kind", ["ecdsa-p256", "ecdsa-p384", "rsa-2048"])
def test_a_leaf_serves_servers_and_clients(issuer: Authority, tmp_path: Path, kind: str) -> None:
    key = new_key(kind)
    leaf = issuer.issue(key.public_key(), WISH, NOW)
    put(tmp_path, "leaf", [leaf], key)
    for purpose in ("sslserver", "sslclient"):
        assert verified(tmp_path / "leaf.pem", f"{issuer.folder}/ca-cert.pem", at=NOW, purpose=purpose)
    text = openssl("x509", "-in", str(tmp_path / "leaf.pem"), "-noout", "-text")
    names = "URI:spiffe://example.org/team/web, DNS:web.example.com, IP Address:10.0.0.5, IP Address:0:0:0:0:0:0:0:1"
    assert names in text
    assert "X509v3 Key Usage: critical\n                Digital Signature\n" in text
    assert "TLS Web Server Authentication, TLS Web Client Authentication" in text
    assert "X509v3 Basic Constraints: critical\n                CA:FALSE" in text
    assert kind_of(leaf.public_key()) == kind
    # the authority is found by its key, not only by its name
    own_id = re.search(r"Subject Key Identifier: \n\s+(\S+)", text)
    above = openssl("x509", "-in", f"{issuer.folder}/ca-cert.pem", "-noout", "-ext", "subjectKeyIdentifier")
    assert own_id is not None and own_id[1] not in above
    assert re.search(r"Authority Key Identifier: \n\s+(\S+)", text)[1] in above  # type: ignore[index]


def test_a_leaf_lives_as_long_as_it_should(issuer: Authority) -> None:
    facts = facts_of(issuer.issue(new_key().public_key(), WISH, NOW))
    assert (facts.not_before, facts.not_after) == (NOW - 300, NOW + DAY), "five minutes for clocks that are behind"
    short = Wish(WISH.identity, (), 10)
    facts = facts_of(issuer.issue(new_key().public_key(), short, NOW))
    assert (facts.not_before, facts.not_after) == (NOW - 1, NOW + 10)
    late = issuer.not_after - 3600
    facts = facts_of(issuer.issue(new_key().public_key(), WISH, late))
    assert facts.not_after == issuer.not_after, "no longer than the authority"
    with pytest.raises(CertificateError, match="the authority has expired"):
        issuer.issue(new_key().public_key(), WISH, issuer.not_after)


def test_serial_numbers_cannot_be_guessed(issuer: Authority) -> None:
    public = new_key().public_key()
    serials = [issuer.issue(public, WISH, NOW).serial_number for _ in range(20)]
    assert len(set(serials)) == 20
    assert min(serials) > 2**120, "a fixed or counted number is small"


def test_an_authority_issues_only_for_its_trust_domain(issuer: Authority) -> None:
    with pytest.raises(
        CertificateError, match=r"of the trust domain example\.org and does not issue spiffe://a\.org/x"
    ):
        issuer.issue(new_key().public_key(), Wish("spiffe://a.org/x", (), DAY), NOW)


def test_a_key_that_is_not_the_authoritys(issuer: Authority) -> None:
    (Path(issuer.folder) / "ca-key.pem").write_bytes(pem_of(new_key()))
    with pytest.raises(CertificateError, match=r"ca-key\.pem: the key belongs to none of the certificates"):
        authority.load(issuer.folder)


def test_an_intermediate_authority_shows_itself_in_the_chain(tmp_path: Path) -> None:
    root = certificate("root", at=NOW, days=100, authority=True)
    middle = certificate("middle", root, at=NOW, days=50, authority=True)
    put(tmp_path, "ca-cert", [middle[0], root[0]])
    put(tmp_path, "x", [], middle[1])
    (tmp_path / "x-key.pem").rename(tmp_path / "ca-key.pem")
    found = authority.load(str(tmp_path))
    assert found is not None
    leaf = found.issue(new_key().public_key(), WISH, NOW + 300)
    assert found.chain(leaf) == certificates_pem([leaf, middle[0]])
    assert facts_of(leaf).not_before == NOW, "and no earlier than the authority"


def test_a_request_proves_that_its_sender_has_the_key(issuer: Authority) -> None:
    key = new_key()
    text = new_request(key, WISH.identity, WISH.names)
    openssl("req", "-verify", "-noout", stdin=text)
    asked = parse_request(text, "request.pem")
    assert requested(asked) == ((WISH.identity,), WISH.names)
    with pytest.raises(CertificateError, match=r"request\.pem: there is no signing request"):
        parse_request(b"nothing", "request.pem")
