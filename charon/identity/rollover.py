"""Another root takes over, in three steps between which both are trusted, so that no handshake fails.

1. prepare: a new root is made and trusted beside the old one; the old one goes on issuing.
2. activate: the new root issues; certificates of both are good.
3. retire: the old root is trusted no more.

Between the steps `ca-cert.pem` goes to every machine, and before the third all certificates are issued anew.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from charon.base.errors import CertificateError
from charon.base.identities import DEFAULT_TRUST_DOMAIN
from charon.config.certificates import CA_CERT, CA_KEY
from charon.identity.authority import AUTHORITY_YEARS, Authority, certificates_pem, load, new_root
from charon.identity.files import locked, read_key, write
from charon.identity.folder import pairs_of
from charon.identity.keys import kind_of, parse_key, pem_of, public_bytes
from charon.identity.material import load_material
from charon.identity.spiffe import issued_by, parse_certificates

NEXT_KEY: Final = "ca-next-key.pem"
STEPS: Final = ("prepare", "activate", "retire")


def authority_in(folder: str) -> Authority:
    """The authority in ``folder``. Raises CertificateError when it or its key is not there."""
    found = load(folder)
    if found is None:
        raise CertificateError(f"{Path(folder, CA_KEY)}: there is no such file; this is done where the authority is")
    return found


def prepare(folder: str, now: float, years: int = AUTHORITY_YEARS) -> Authority:
    """Make the next root and trust it. Raises CertificateError."""
    with locked(folder):
        old = authority_in(folder)
        next_key = Path(folder, NEXT_KEY)
        if next_key.exists():
            raise CertificateError(f"{next_key}: the next root is prepared already; activate it")
        kind = kind_of(old.key.public_key())
        cert, key = new_root(old.trust_domain or DEFAULT_TRUST_DOMAIN, now, years, kind)
        write(next_key, pem_of(key), 0o600)
        write(Path(folder, CA_CERT), certificates_pem([*old.roots, cert]), 0o644)
        return authority_in(folder)


def activate(folder: str) -> Authority:
    """Have the next root issue from now on. Raises CertificateError."""
    with locked(folder):
        next_key = Path(folder, NEXT_KEY)
        if not next_key.exists():
            raise CertificateError(f"{next_key}: there is no such file; prepare the next root first")
        key = parse_key(read_key(next_key), str(next_key))
        own = public_bytes(key.public_key())
        roots = authority_in(folder).roots
        first = [cert for cert in roots if public_bytes(cert.public_key()) == own]
        if not first:
            raise CertificateError(f"{next_key}: the key belongs to none of the roots in {Path(folder, CA_CERT)}")
        try:
            os.replace(next_key, Path(folder, CA_KEY))
        except OSError as error:
            raise CertificateError(f"{next_key}: cannot be moved: {(error.strerror or str(error)).lower()}") from error
        write(Path(folder, CA_CERT), certificates_pem(first + [cert for cert in roots if cert not in first]), 0o644)
        return authority_in(folder)


def retire(folder: str, now: float) -> Authority:
    """Trust only the root that issues. Raises CertificateError while a certificate in ``folder`` is of another."""
    with locked(folder):
        found = authority_in(folder)
        if Path(folder, NEXT_KEY).exists():
            raise CertificateError(f"{Path(folder, NEXT_KEY)}: the next root is not active yet; activate it first")
        for source in pairs_of(folder):
            leaf = parse_certificates(load_material(source, now).material.chain, str(source.cert_file))[0]
            if not issued_by(leaf, found.cert):
                raise CertificateError(f"{source.cert_file}: is still of an old root; charon certs rotate renews it")
        write(Path(folder, CA_CERT), certificates_pem([found.cert]), 0o644)
        return authority_in(folder)
