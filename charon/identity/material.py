"""Files to :class:`~charon.config.snapshot.TlsMaterial`: read, proven to fit together, judged.

What makes the material unusable raises. What peers may refuse it for (it has expired, is not valid yet, is revoked) is
told and no more, since nothing is gained by stopping.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from charon.base.errors import CertificateError
from charon.config.certificates import MaterialSource
from charon.config.snapshot import TlsMaterial
from charon.identity.authority import certificates_pem
from charon.identity.files import read, read_key
from charon.identity.keys import kind_of, parse_key, pem_of, public_bytes
from charon.identity.spiffe import Facts, facts_of, is_self_signed, issued_by, parse_certificates

_CERT_MARK: Final = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Loaded:
    """One material and what is to be said of it. ``leaf`` is None where it has no certificate; ``authorities`` are
    those trusted. ``cert_file`` is where the certificate was read. ``key_type`` is in the words of the configuration.
    ``warnings`` name their file; that time has run out is for :meth:`validity_problems` to say."""

    material: TlsMaterial
    leaf: Facts | None = None
    authorities: tuple[Facts, ...] = ()
    cert_file: str | None = None
    ca_file: str | None = None
    key_type: str = ""
    issued_here: bool = False
    """Is the certificate of one of the trusted authorities?"""
    warnings: tuple[str, ...] = ()

    def certificates(self) -> list[tuple[str, Facts]]:
        """The certificate and the authorities, each with its file."""
        own = [(self.cert_file or "", self.leaf)] if self.leaf is not None else []
        return own + [(self.ca_file or "", facts) for facts in self.authorities]

    def validity_problems(self, now: float) -> list[str]:
        """What has expired or is not valid yet at ``now``."""
        found = []
        for file, facts in self.certificates():
            problem = facts.validity_problem(now)
            if problem is not None:
                which = f"{facts.subject}: " if facts is not self.leaf and len(self.authorities) > 1 else ""
                found.append(f"{file}: {which}{problem}")
        return found


def load_material(source: MaterialSource, now: float) -> Loaded:
    """Read the files of ``source``. Raises CertificateError."""
    chain: list[x509.Certificate] = []
    key = b""
    key_type = ""
    warnings: list[str] = []
    if source.cert_file is not None and source.key_file is not None:
        chain, key, key_type = _pair(source.cert_file, source.key_file)
    roots = [] if source.ca_file is None else parse_certificates(read(source.ca_file), source.ca_file)
    revoked = b"" if source.crl_file is None else read(source.crl_file)
    lists = [] if source.crl_file is None else _lists(revoked, source.crl_file)
    for listed in lists:
        until = listed.next_update_utc
        if until is not None and until.timestamp() <= now:
            warnings.append(f"{source.crl_file}: the list is out of date, and peers of its authority are refused")
        if not any(_is_from(listed, root) for root in roots + chain[1:]):
            warnings.append(f"{source.crl_file}: a list in it is of no authority that is trusted here")
        if chain and listed.get_revoked_certificate_by_serial_number(chain[0].serial_number) is not None:
            warnings.append(f"{source.cert_file}: the certificate has been revoked ({source.crl_file})")
    shown = certificates_pem(chain[:1] + [cert for cert in chain[1:] if not is_self_signed(cert)])
    leaf = facts_of(chain[0]) if chain else None
    return Loaded(
        material=_material(shown, key, certificates_pem(roots), revoked, leaf),
        leaf=leaf,
        authorities=tuple(facts_of(root) for root in roots),
        cert_file=source.cert_file,
        ca_file=source.ca_file,
        key_type=key_type,
        issued_here=bool(chain) and any(issued_by(chain[0], root) for root in roots),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _pair(cert_file: str, key_file: str) -> tuple[list[x509.Certificate], bytes, str]:
    """The chain and the key, which belong to each other. Raises CertificateError."""
    data = read(cert_file)
    chain = parse_certificates(data, cert_file)
    if len(chain) != data.count(_CERT_MARK):
        raise CertificateError(f"{cert_file}: not every certificate in it can be read")
    key = parse_key(read_key(key_file), key_file)
    if public_bytes(chain[0].public_key()) != public_bytes(key.public_key()):
        raise CertificateError(f"{key_file}: the key does not belong to the first certificate in {cert_file}")
    for below, above in pairwise(chain):
        if not issued_by(below, above):
            name = below.subject.rfc4514_string()
            raise CertificateError(
                f"{cert_file}: the chain is broken: {name} is not issued by the certificate behind it; the order is "
                "certificate, issuer, issuer of that"
            )
    return chain, pem_of(key), kind_of(key.public_key())


def _lists(data: bytes, path: str) -> list[x509.CertificateRevocationList]:
    """Every revocation list in ``data``. Raises CertificateError when one cannot be read, or there is none."""
    end = b"-----END X509 CRL-----"
    parts = [part + end for part in data.split(end)[:-1]]
    try:
        found = [x509.load_pem_x509_crl(part) for part in parts]
    except ValueError:
        found = []
    if not found:
        raise CertificateError(f"{path}: there is no revocation list in it that can be read (PEM)")
    return found


def _is_from(listed: x509.CertificateRevocationList, cert: x509.Certificate) -> bool:
    if listed.issuer != cert.subject:
        return False
    key = cert.public_key()
    if isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey, ed25519.Ed25519PublicKey)):
        return listed.is_signature_valid(key)
    return False


def _material(chain: bytes, key: bytes, roots: bytes, revoked: bytes, leaf: Facts | None) -> TlsMaterial:
    digest = blake2b(digest_size=8)
    for part in (chain, key, roots, revoked):
        digest.update(len(part).to_bytes(8, "big") + part)
    identity = None if leaf is None else leaf.identity
    return TlsMaterial(digest.hexdigest(), chain, key, roots, revoked, identity)
