"""What a certificate says of its owner: SPIFFE identity, host names, validity."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from charon.base.errors import CertificateError
from charon.base.identities import identity_problem, trust_domain_problem
from charon.base.units import in_words


@dataclass(frozen=True, slots=True)
class Facts:
    """What people want to know of a certificate. Times are seconds since the Unix epoch. ``identity`` is its SPIFFE
    identity, None where it has none, or more than one."""

    identity: str | None
    names: tuple[str, ...]
    subject: str
    issuer: str
    serial: int
    not_before: float
    not_after: float

    def days_left(self, now: float) -> float:
        """Days until it expires; negative afterwards."""
        return (self.not_after - now) / 86_400

    def validity_problem(self, now: float) -> str | None:
        """Why the certificate is not valid at ``now``; None when it is."""
        if now >= self.not_after:
            return f"the certificate has expired {in_words(now - self.not_after)} ago"
        if now < self.not_before:
            return f"the certificate is not valid before {in_words(self.not_before - now)} from now"
        return None


def facts_of(cert: x509.Certificate) -> Facts:
    """The facts of ``cert``."""
    uris = _uris(cert)
    names: tuple[str, ...] = ()
    found = _alternative_names(cert)
    if found is not None:
        names = tuple(found.get_values_for_type(x509.DNSName))
        names += tuple(str(address) for address in found.get_values_for_type(x509.IPAddress))
    good = [uri for uri in uris if identity_problem(uri) is None]
    return Facts(
        identity=good[0] if len(good) == len(uris) == 1 else None,
        names=names,
        subject=cert.subject.rfc4514_string(),
        issuer=cert.issuer.rfc4514_string(),
        serial=cert.serial_number,
        not_before=cert.not_valid_before_utc.timestamp(),
        not_after=cert.not_valid_after_utc.timestamp(),
    )


def trust_domain_of_authority(cert: x509.Certificate) -> str | None:
    """The trust domain that an authority says it is for (SPIFFE X509-SVID, section 2); None when it says none."""
    for uri in _uris(cert):
        domain = uri.removeprefix("spiffe://").removesuffix("/")
        if uri.startswith("spiffe://") and trust_domain_problem(domain) is None:
            return domain
    return None


def parse_certificates(data: bytes, path: str) -> list[x509.Certificate]:
    """Every certificate in ``data``, which is of ``path``, in order. Raises CertificateError when there is none."""
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise CertificateError(f"{path}: there is no certificate in it that can be read (PEM)") from None


def is_self_signed(cert: x509.Certificate) -> bool:
    """Is it a root?"""
    return cert.subject == cert.issuer and issued_by(cert, cert)


def issued_by(cert: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Did ``issuer`` sign ``cert``?"""
    try:
        cert.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
        return False
    return True


def _alternative_names(cert: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None


def _uris(cert: x509.Certificate) -> list[str]:
    found = _alternative_names(cert)
    return [] if found is None else found.get_values_for_type(x509.UniformResourceIdentifier)
