"""Certificates of any kind, and openssl as the judge from outside."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from charon.identity.authority import certificates_pem
from charon.identity.keys import PrivateKey, new_key, pem_of


def openssl(*arguments: str, stdin: bytes = b"") -> str:
    """The output of openssl, which must succeed."""
    done = subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def verified(cert: str | Path, bundle: str | Path, *, at: float, purpose: str = "sslserver") -> bool:
    """Does openssl, at its strictest, accept ``cert`` by the authorities in ``bundle``?"""
    command = ["openssl", "verify", "-x509_strict", "-attime", str(int(at)), "-purpose", purpose]
    done = subprocess.run([*command, "-CAfile", str(bundle), str(cert)], capture_output=True, timeout=20, check=False)
    return done.returncode == 0


def certificate(
    name: str,
    issuer: tuple[x509.Certificate, PrivateKey] | None = None,
    *,
    at: float,
    days: float = 1,
    authority: bool = False,
) -> tuple[x509.Certificate, PrivateKey]:
    """A certificate as another tool might make it, and its key; of itself where there is no ``issuer``."""
    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.fromtimestamp(at, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def revocations(
    issuer: tuple[x509.Certificate, PrivateKey], serials: list[int], *, at: float, days: float = 1
) -> bytes:
    """A list of revoked certificates, as PEM."""
    start = datetime.fromtimestamp(at, UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer[0].subject)
    builder = builder.last_update(start).next_update(start + timedelta(days=days))
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start).build()
        builder = builder.add_revoked_certificate(revoked)
    from cryptography.hazmat.primitives.serialization import Encoding

    return builder.sign(issuer[1], hashes.SHA256()).public_bytes(Encoding.PEM)


def put(folder: Path, name: str, certs: list[x509.Certificate], key: PrivateKey | None = None) -> None:
    """Write ``name``.pem and, with a key, ``name``-key.pem."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.pem").write_bytes(certificates_pem(certs))
    if key is not None:
        file = folder / f"{name}-key.pem"
        file.write_bytes(pem_of(key))
        file.chmod(0o600)
