"""The authority: a root certificate and its key in a folder, and the certificates that it issues.

``ca-cert.pem`` holds every root that is trusted; the one that ``ca-key.pem`` belongs to issues. A sidecar needs no
``ca-key.pem``: it lives on the certificates that it was given.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from charon.base.errors import CertificateError
from charon.base.identities import trust_domain_of
from charon.config.certificates import CA_CERT, CA_KEY
from charon.identity.files import make_folder, read, read_key, write
from charon.identity.keys import PrivateKey, new_key, parse_key, pem_of, public_bytes
from charon.identity.spiffe import is_self_signed, parse_certificates, trust_domain_of_authority

AUTHORITY_YEARS: Final = 10
BACKDATE: Final = 300.0
"""Seconds that a certificate is valid before it is issued, at most: clocks differ. Short-lived ones get a tenth."""

SMALLEST_RSA: Final = 2048
"""Bits; peers refuse smaller keys."""

_LONGEST_NAME: Final = 64
"""Characters of a common name (RFC 5280, appendix A, ub-common-name)."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a certificate is to say: its identity, its DNS names and IP addresses, its lifetime in seconds."""

    identity: str
    names: tuple[str, ...]
    lifetime: float


@dataclass(frozen=True)
class Authority:
    """``cert`` and ``key`` issue; ``roots`` are all that are trusted, ``cert`` among them."""

    folder: str
    cert: x509.Certificate
    key: PrivateKey
    roots: tuple[x509.Certificate, ...]

    @property
    def trust_domain(self) -> str | None:
        """The trust domain that it says it is for."""
        return trust_domain_of_authority(self.cert)

    @property
    def not_after(self) -> float:
        """When it expires, in seconds since the Unix epoch."""
        return self.cert.not_valid_after_utc.timestamp()

    def chain(self, leaf: x509.Certificate) -> bytes:
        """``leaf`` as PEM, with the authority's own certificate where that is not a root."""
        above = [] if is_self_signed(self.cert) else [self.cert]
        return certificates_pem([leaf, *above])

    def issue(self, public_key: CertificatePublicKeyTypes, wish: Wish, now: float) -> x509.Certificate:
        """A certificate for servers and clients alike. It does not outlive the authority. Raises CertificateError."""
        if self.trust_domain not in (None, trust_domain_of(wish.identity)):
            raise CertificateError(
                f"{Path(self.folder, CA_CERT)}: the authority is of the trust domain {self.trust_domain} and does not "
                f"issue {wish.identity}; set the trust domain to {self.trust_domain}, or take another folder"
            )
        if isinstance(public_key, rsa.RSAPublicKey) and public_key.key_size < SMALLEST_RSA:
            raise CertificateError(f"the key of {wish.identity} has {public_key.key_size} bits; RSA takes 2048 or more")
        if not self.cert.not_valid_before_utc.timestamp() <= now < self.not_after:
            raise CertificateError(f"{Path(self.folder, CA_CERT)}: the authority has expired or is not valid yet")
        name = wish.identity.partition("://")[2].partition("/")[2].rpartition("/")[2]
        start = now - min(BACKDATE, wish.lifetime / 10)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.cert.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_time(max(start, self.cert.not_valid_before_utc.timestamp())))
            .not_valid_after(_time(min(now + wish.lifetime, self.not_after)))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(_alternative_names(wish.identity, wish.names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(_authority_key_id(self.cert, self.key), critical=False)
        )
        return builder.sign(self.key, _hash(self.key))


def new_root(
    trust_domain: str, now: float, years: int = AUTHORITY_YEARS, kind: str = "ecdsa-p256"
) -> tuple[x509.Certificate, PrivateKey]:
    """A new root for ``trust_domain`` and its key."""
    key = new_key(kind)
    serial = x509.random_serial_number()
    # Two roots of one domain, the old and the next, must not have the same name: peers look for the issuer by it.
    subject = _name(f"charon authority {serial:x}"[:32], trust_domain)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(_time(now - BACKDATE))
        .not_valid_after(_time(now) + timedelta(days=365.25 * years))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, _hash(key)), key


def create(
    folder: str, trust_domain: str, now: float, years: int = AUTHORITY_YEARS, kind: str = "ecdsa-p256"
) -> Authority:
    """A new authority in ``folder``, where there must be none. Raises CertificateError."""
    make_folder(folder)
    for name in (CA_CERT, CA_KEY):
        if Path(folder, name).exists():
            raise CertificateError(f"{Path(folder, name)}: there is an authority already")
    cert, key = new_root(trust_domain, now, years, kind)
    write(Path(folder, CA_KEY), pem_of(key), 0o600)
    write(Path(folder, CA_CERT), certificates_pem([cert]), 0o644)
    return Authority(folder, cert, key, (cert,))


def load(folder: str) -> Authority | None:
    """The authority in ``folder``; None where its key is not. Raises CertificateError when it cannot be used."""
    cert_file, key_file = Path(folder, CA_CERT), Path(folder, CA_KEY)
    if not key_file.exists():
        return None
    key = parse_key(read_key(key_file), str(key_file))
    roots = tuple(parse_certificates(read(cert_file), str(cert_file)))
    own = public_bytes(key.public_key())
    for cert in roots:
        if public_bytes(cert.public_key()) == own:
            return Authority(folder, cert, key, roots)
    raise CertificateError(f"{key_file}: the key belongs to none of the certificates in {cert_file}")


def certificates_pem(certs: Iterable[x509.Certificate]) -> bytes:
    """The certificates as PEM, one after the other."""
    return b"".join(cert.public_bytes(serialization.Encoding.PEM) for cert in certs)


def new_request(key: PrivateKey, identity: str, names: Sequence[str]) -> bytes:
    """A signing request for ``identity``, as PEM."""
    name = identity.rpartition("/")[2]
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(name))
    builder = builder.add_extension(_alternative_names(identity, names), critical=False)
    return builder.sign(key, _hash(key)).public_bytes(serialization.Encoding.PEM)


def parse_request(data: bytes, path: str) -> x509.CertificateSigningRequest:
    """The signing request in ``data``, whose sender has the key. Raises CertificateError."""
    try:
        request = x509.load_pem_x509_csr(data)
    except ValueError:
        raise CertificateError(f"{path}: there is no signing request in it that can be read (PEM)") from None
    if not request.is_signature_valid:
        raise CertificateError(f"{path}: the signing request is not signed with its own key")
    return request


def requested(request: x509.CertificateSigningRequest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The URIs, and the DNS names and IP addresses, that a signing request asks for."""
    try:
        found = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return (), ()
    names = tuple(found.get_values_for_type(x509.DNSName))
    addresses = tuple(str(address) for address in found.get_values_for_type(x509.IPAddress))
    return tuple(found.get_values_for_type(x509.UniformResourceIdentifier)), names + addresses


def _alternative_names(identity: str, names: Iterable[str]) -> x509.SubjectAlternativeName:
    general: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity)]
    for name in dict.fromkeys(names):
        try:
            general.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            general.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(general)


def _authority_key_id(cert: x509.Certificate, key: PrivateKey) -> x509.AuthorityKeyIdentifier:
    try:
        found = cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str, organization: str | None = None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common[:_LONGEST_NAME])]
    if organization is not None:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization[:_LONGEST_NAME]))
    return x509.Name(parts)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


def _hash(key: PrivateKey) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
