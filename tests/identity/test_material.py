"""Files to material: what fits together, and what is said of what does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from charon.base.errors import CertificateError
from charon.config.certificates import MaterialSource
from charon.identity.authority import certificates_pem
from charon.identity.keys import new_key, pem_of
from charon.identity.material import load_material
from tests.identity.conftest import DAY, NOW
from tests.identity.support import certificate, put, revocations

ROOT = certificate("root", at=NOW - DAY, days=100, authority=True)
OTHER_ROOT = certificate("other root", at=NOW - DAY, days=100, authority=True)
MIDDLE = certificate("middle", ROOT, at=NOW - DAY, days=50, authority=True)
LEAF = certificate("leaf", MIDDLE, at=NOW - 60, days=1)


@pytest.fixture
def given(tmp_path: Path) -> MaterialSource:
    """A leaf with its chain, its key, and a bundle of two roots, as another tool leaves them."""
    put(tmp_path, "leaf", [LEAF[0], MIDDLE[0], ROOT[0]], LEAF[1])
    put(tmp_path, "bundle", [OTHER_ROOT[0], ROOT[0]])
    return MaterialSource(
        str(tmp_path / "leaf.pem"), str(tmp_path / "leaf-key.pem"), str(tmp_path / "bundle.pem"), None
    )


def test_material_is_what_a_side_of_tls_needs(given: MaterialSource) -> None:
    loaded = load_material(given, NOW)
    material = loaded.material
    assert material.chain == certificates_pem([LEAF[0], MIDDLE[0]]), "a peer has the root, or does not trust it"
    assert material.key == pem_of(LEAF[1])
    assert material.roots == certificates_pem([OTHER_ROOT[0], ROOT[0]])
    assert loaded.warnings == () and loaded.validity_problems(NOW) == []
    assert "PRIVATE" not in repr(material)
    assert load_material(given, NOW).material.version == material.version
    put(Path(given.ca_file or "").parent, "bundle", [ROOT[0]])
    assert load_material(given, NOW).material.version != material.version


def test_a_key_in_the_file_of_the_certificate_does_not_hurt(given: MaterialSource) -> None:
    cert = Path(given.cert_file or "")
    cert.write_bytes(pem_of(LEAF[1]) + cert.read_bytes())
    cert.chmod(0o600)
    assert load_material(replace(given, key_file=given.cert_file), NOW).leaf is not None


def test_time_that_has_run_out_is_told_and_no_more(given: MaterialSource) -> None:
    loaded = load_material(given, NOW + 2 * DAY)
    assert loaded.validity_problems(NOW + 2 * DAY) == [f"{given.cert_file}: the certificate has expired 24 hours ago"]
    assert loaded.validity_problems(NOW - 3600) == [
        f"{given.cert_file}: the certificate is not valid before 59 minutes from now"
    ]
    assert f"{given.ca_file}: CN=root: the certificate has expired 2 days ago" in loaded.validity_problems(
        NOW + 101 * DAY + 3600
    )


def test_files_that_do_not_fit_are_refused(given: MaterialSource) -> None:
    cert, key, bundle = (Path(name or "") for name in (given.cert_file, given.key_file, given.ca_file))
    whole, secret, trusted = cert.read_bytes(), key.read_bytes(), bundle.read_bytes()
    encrypted = LEAF[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    for path, data, why in (
        (key, pem_of(new_key()), "the key does not belong to the first certificate in"),
        (cert, certificates_pem([MIDDLE[0], LEAF[0]]), "the key does not belong to the first certificate in"),
        (cert, certificates_pem([LEAF[0], ROOT[0]]), "the chain is broken: CN=leaf is not issued by"),
        (cert, b"", "there is no certificate in it"),
        (cert, whole.replace(b"MII", b"M!I", 1), "there is no certificate in it that can be read"),
        (key, b"nothing", "there is no private key in it"),
        (key, encrypted, "the key is encrypted"),
        (bundle, b"nothing", "there is no certificate in it"),
    ):
        path.write_bytes(data)
        with pytest.raises(CertificateError, match=why) as raised:
            load_material(given, NOW)
        assert str(raised.value).startswith(str(key if "does not belong" in why else path))
        cert.write_bytes(whole), key.write_bytes(secret), bundle.write_bytes(trusted)
    load_material(given, NOW)


def test_lists_of_revoked_certificates(given: MaterialSource, tmp_path: Path) -> None:
    listed = replace(given, crl_file=str(tmp_path / "crl.pem"))
    file = tmp_path / "crl.pem"
    good = revocations(MIDDLE, [1], at=NOW) + revocations(ROOT, [], at=NOW)
    file.write_bytes(good)
    loaded = load_material(listed, NOW)
    assert loaded.material.revoked == good and loaded.warnings == ()
    assert load_material(listed, NOW + 2 * DAY).warnings == (
        f"{file}: the list is out of date, and peers of its authority are refused",
    )
    file.write_bytes(revocations(MIDDLE, [LEAF[0].serial_number], at=NOW))
    assert load_material(listed, NOW).warnings == (f"{given.cert_file}: the certificate has been revoked ({file})",)
    stranger = certificate("middle", at=NOW, authority=True)
    file.write_bytes(revocations(stranger, [], at=NOW))
    assert load_material(listed, NOW).warnings == (f"{file}: a list in it is of no authority that is trusted here",)
    file.write_bytes(b"nothing")
    with pytest.raises(CertificateError, match=r"crl\.pem: there is no revocation list in it"):
        load_material(listed, NOW)
