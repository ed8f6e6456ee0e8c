"""One material over time: made, renewed, repaired, or lived with."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from charon.base.errors import CertificateError
from charon.config.certificates import MaterialSource
from charon.identity import authority, rollover
from charon.identity.certificates import refresh
from charon.identity.files import ExposedKey
from charon.identity.folder import pairs_of, renew_pair, write_pairs
from charon.identity.keys import new_key, pem_of
from charon.identity.material import load_material
from tests.identity.conftest import DAY, NOW, MakeSource
from tests.identity.support import verified

PROJECT = Path(__file__).resolve().parents[2]


def test_what_is_missing_is_made_and_what_is_there_is_kept(source: MakeSource) -> None:
    wanted = source(dns_names=("api.example.com", "10.0.0.5"))
    first = refresh(wanted, NOW)
    assert (first.issued, first.renewed, first.new_authority) == ("there was none", False, True)
    leaf = first.loaded.leaf
    assert leaf is not None and leaf.identity == "spiffe://example.org/web"
    assert {"api.example.com", "10.0.0.5", "web", "localhost", "127.0.0.1", "::1"} <= set(leaf.names)
    assert verified(wanted.cert_file or "", wanted.ca_file or "", at=NOW)
    again = refresh(wanted, NOW + DAY / 2)
    assert (again.issued, again.loaded.material) == (None, first.loaded.material)
    third = refresh(wanted, NOW + 0.68 * DAY)
    assert (third.issued, third.renewed) == ("two thirds of its life are over", True)
    assert third.loaded.material.key != first.loaded.material.key
    assert third.loaded.material.roots == first.loaded.material.roots


def test_a_certificate_follows_the_configuration(source: MakeSource) -> None:
    refresh(source(), NOW)
    for changes, why in (
        ({"service": "api"}, "it has the identity spiffe://example.org/web"),
        ({"service": "api", "dns_names": ("a.example.com",)}, "it is not for a.example.com"),
        ({"service": "api", "key_type": "ecdsa-p384"}, "its key is ecdsa-p256"),
    ):
        assert refresh(source(**changes), NOW).issued == why
        assert refresh(source(**changes), NOW).issued is None


@pytest.mark.parametrize(("later", "why"), [(2 * DAY, "it has expired"), (-DAY, "it is not valid yet")])
def test_a_clock_that_jumps_is_followed(source: MakeSource, later: float, why: str) -> None:
    # The authority is older, and good at all of these times.
    authority.create(str(Path(source().ca_file or "").parent), "example.org", NOW - 3 * DAY)
    refresh(source(), NOW)
    assert refresh(source(), NOW + later).issued == why


def test_a_pair_that_does_not_fit_is_made_anew(source: MakeSource) -> None:
    """As a crash between two renames leaves it."""
    wanted = source()
    refresh(wanted, NOW)
    Path(wanted.key_file or "").write_bytes(pem_of(new_key()))
    repaired = refresh(wanted, NOW)
    assert repaired.renewed and "the key does not belong" in (repaired.issued or "")
    Path(wanted.cert_file or "").unlink()
    assert refresh(wanted, NOW).issued == "only one of certificate and key is there"


def test_a_key_that_others_may_read_is_not_passed_over(source: MakeSource) -> None:
    wanted = source()
    refresh(wanted, NOW)
    for name in ("server-key.pem", "ca-key.pem"):
        file = Path(wanted.key_file or "").with_name(name)
        file.chmod(0o640)
        with pytest.raises(ExposedKey, match=f"{name}: others may read"):
            refresh(wanted, NOW)
        file.chmod(0o600)


def test_a_sidecar_lives_without_the_authoritys_key(source: MakeSource, tmp_path: Path) -> None:
    issuer = authority.create(str(tmp_path / "ca"), "example.org", NOW)
    wanted = source()
    assert wanted.plan is not None
    write_pairs(issuer, wanted.plan.folder, wanted.plan, NOW)
    assert not (Path(wanted.plan.folder) / "ca-key.pem").exists()
    given = refresh(wanted, NOW)
    assert (given.issued, given.renewable, given.loaded.warnings) == (None, False, ())
    late = refresh(wanted, NOW + 2 * DAY)
    assert late.loaded.material == given.loaded.material, "what has expired is still all there is"
    assert late.loaded.validity_problems(NOW + 2 * DAY)
    other = refresh(source(service="api"), NOW).loaded
    assert other.warnings == (
        f"{wanted.cert_file}: the certificate has spiffe://example.org/web, the configuration wants "
        "spiffe://example.org/api",
    )
    client = replace(
        wanted,
        cert_file=f"{wanted.plan.folder}/none.pem",
        plan=replace(wanted.plan, spare=(wanted.cert_file or "", wanted.key_file or "")),
    )
    assert refresh(client, NOW).loaded.material == given.loaded.material, "one pair serves both sides"
    Path(wanted.cert_file or "").unlink()
    with pytest.raises(CertificateError, match=r"no ca-key\.pem in .* charon certs request"):
        refresh(wanted, NOW)


def test_a_certificate_of_another_authority_is_told_or_replaced(source: MakeSource, tmp_path: Path) -> None:
    wanted = source()
    assert wanted.plan is not None
    stranger = authority.create(str(tmp_path / "other"), "example.org", NOW)
    write_pairs(stranger, wanted.plan.folder, wanted.plan, NOW)
    Path(wanted.ca_file or "").unlink()
    issuer = authority.create(str(tmp_path / "ca"), "example.org", NOW)
    Path(wanted.ca_file or "").write_bytes(authority.certificates_pem(issuer.roots))
    (warning,) = refresh(wanted, NOW).loaded.warnings
    assert warning.startswith(f"{wanted.cert_file}: the certificate is of none of the authorities in")
    (tmp_path / "ca/ca-key.pem").rename(Path(wanted.plan.folder) / "ca-key.pem")
    assert refresh(wanted, NOW).issued == "it is of no authority that is trusted here"


def test_trust_in_other_authorities_does_not_renew_for_ever(source: MakeSource, tmp_path: Path) -> None:
    """`ca_file` says whom this side trusts, not who issues."""
    stranger = authority.create(str(tmp_path / "other"), "example.org", NOW)
    wanted = replace(source(), ca_file=f"{stranger.folder}/ca-cert.pem")
    assert refresh(wanted, NOW).issued == "there was none"
    assert refresh(wanted, NOW).issued is None
    assert refresh(replace(wanted, ca_file=None), NOW).issued is None


def test_the_authority_is_of_another_trust_domain(source: MakeSource, tmp_path: Path) -> None:
    authority.create(str(tmp_path / "certs"), "other.org", NOW)
    with pytest.raises(CertificateError, match=r"of the trust domain other\.org"):
        refresh(source(), NOW)


def test_programs_that_start_together_have_one_authority(source: MakeSource) -> None:
    code = (
        "import sys; from tests.identity.test_certificates import *\n"
        "wanted = MaterialSource(*[f'{sys.argv[1]}/{n}' for n in (sys.argv[2] + '.pem', sys.argv[2] + '-key.pem',"
        " 'ca-cert.pem')], None, IssuePlan(sys.argv[1], 'spiffe://example.org/web', make_authority=True))\n"
        "print(refresh(wanted, NOW).new_authority)"
    ).replace("import *\n", "import *; from charon.config.certificates import IssuePlan\n")
    folder = source().plan.folder  # type: ignore[union-attr]
    command = [sys.executable, "-c", code, folder]
    started = [
        subprocess.Popen([*command, f"leaf{n}"], stdout=subprocess.PIPE, text=True, cwd=PROJECT) for n in range(3)
    ]
    said = sorted(process.communicate(timeout=30)[0].strip() for process in started)
    assert said == ["False", "False", "True"]
    for n in range(3):
        assert verified(f"{folder}/leaf{n}.pem", f"{folder}/ca-cert.pem", at=NOW)


def test_another_root_takes_over_without_a_moment_of_distrust(source: MakeSource) -> None:
    wanted = source()
    refresh(wanted, NOW)
    folder, bundle, cert = str(Path(wanted.ca_file or "").parent), wanted.ca_file or "", wanted.cert_file or ""
    before = Path(bundle).read_bytes()
    with pytest.raises(CertificateError, match="prepare the next root first"):
        rollover.activate(folder)

    rollover.prepare(folder, NOW)
    assert Path(bundle).read_bytes().startswith(before) and Path(bundle).read_bytes() != before
    assert refresh(wanted, NOW, force=True).issued
    Path(bundle).with_name("old.pem").write_bytes(before)
    assert verified(cert, Path(bundle).with_name("old.pem"), at=NOW), "machines that do not know the next root yet"
    with pytest.raises(CertificateError, match="prepared already"):
        rollover.prepare(folder, NOW)
    with pytest.raises(CertificateError, match="activate it first"):
        rollover.retire(folder, NOW)

    rollover.activate(folder)
    assert refresh(wanted, NOW).issued is None, "the certificate of the old root stays good"
    assert verified(cert, bundle, at=NOW)
    with pytest.raises(CertificateError, match="is still of an old root"):
        rollover.retire(folder, NOW)
    issuer = rollover.authority_in(folder)
    for pair in pairs_of(folder):
        renew_pair(issuer, pair, NOW)
    assert verified(cert, bundle, at=NOW)
    assert not verified(cert, Path(bundle).with_name("old.pem"), at=NOW)

    rollover.retire(folder, NOW)
    assert verified(cert, bundle, at=NOW)
    assert before not in Path(bundle).read_bytes()
    assert not os.path.exists(f"{folder}/{rollover.NEXT_KEY}")
    assert refresh(wanted, NOW).issued is None


def test_a_renewal_by_hand_keeps_what_the_certificate_says(source: MakeSource, tmp_path: Path) -> None:
    issuer = authority.create(str(tmp_path / "ca"), "example.org", NOW)
    plan = source(dns_names=("a.example.com",), lifetime=30 * DAY, key_type="rsa-2048", local_names=False).plan
    assert plan is not None
    write_pairs(issuer, plan.folder, plan, NOW)
    pair = pairs_of(plan.folder)[0]
    before = load_material(pair, NOW)
    after = renew_pair(issuer, pair, NOW + DAY)
    assert before.leaf is not None and after.leaf is not None
    assert (after.leaf.identity, after.leaf.names) == (before.leaf.identity, before.leaf.names)
    assert (after.leaf.not_after, after.key_type) == (NOW + 31 * DAY, "rsa-2048")
    assert after.material.key != before.material.key


def test_material_without_a_certificate(tmp_path: Path) -> None:
    issuer = authority.create(str(tmp_path / "ca"), "example.org", NOW)
    loaded = refresh(MaterialSource(ca_file=f"{issuer.folder}/ca-cert.pem"), NOW).loaded
    assert loaded.leaf is None and len(loaded.authorities) == 1
    assert (loaded.material.chain, loaded.material.key) == (b"", b"")
