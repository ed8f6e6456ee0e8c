"""A folder of certificates, as `tls.cert_dir` is one: its pairs, made and renewed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from charon.base.errors import CertificateError
from charon.config.certificates import (
    CA_CERT,
    CLIENT_CERT,
    CLIENT_KEY,
    SERVER_CERT,
    SERVER_KEY,
    IssuePlan,
    MaterialSource,
)
from charon.identity.authority import BACKDATE, Authority, certificates_pem
from charon.identity.certificates import issue
from charon.identity.files import make_folder, write
from charon.identity.material import Loaded, load_material

PAIRS: Final = ((SERVER_CERT, SERVER_KEY), (CLIENT_CERT, CLIENT_KEY))


def pairs_of(folder: str | Path) -> list[MaterialSource]:
    """The certificates in ``folder``, each with its key and the authorities that are trusted there."""
    bundle = Path(folder, CA_CERT)
    ca_file = str(bundle) if bundle.exists() else None
    found = ((Path(folder, cert), Path(folder, key)) for cert, key in PAIRS)
    return [MaterialSource(str(cert), str(key), ca_file) for cert, key in found if cert.exists()]


def write_pairs(authority: Authority, folder: str, plan: IssuePlan, now: float) -> None:
    """Put a certificate for servers, one for clients, and the bundle of authorities into ``folder``, all that a sidecar
    needs. Raises CertificateError."""
    make_folder(folder)
    for cert, key in PAIRS:
        issue(authority, plan, str(Path(folder, cert)), str(Path(folder, key)), now)
    if Path(folder).resolve() != Path(authority.folder).resolve():
        write(Path(folder, CA_CERT), certificates_pem(authority.roots), 0o644)


def renew_pair(authority: Authority, source: MaterialSource, now: float) -> Loaded:
    """Issue the certificate of ``source`` anew, with a new key, for the same identity, names and lifetime.

    Raises CertificateError.
    """
    before = load_material(source, now)
    leaf = before.leaf
    if leaf is None or leaf.identity is None or source.cert_file is None or source.key_file is None:
        raise CertificateError(f"{source.cert_file}: the certificate has no SPIFFE identity, so it is none of Charon's")
    life = leaf.not_after - leaf.not_before
    plan = IssuePlan(
        folder=authority.folder,
        identity=leaf.identity,
        dns_names=leaf.names,
        local_names=False,
        lifetime=life - min(BACKDATE, life / 11),  # of which a tenth was added to both ends together
        key_type=before.key_type,
    )
    issue(authority, plan, source.cert_file, source.key_file, now)
    return load_material(source, now)
