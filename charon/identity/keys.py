"""Private keys: made, read, written, compared."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from charon.base.errors import CertificateError

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

DEFAULT: Final = "ecdsa-p256"

_CURVES: Final = {"ecdsa-p256": ec.SECP256R1, "ecdsa-p384": ec.SECP384R1}


def new_key(kind: str = DEFAULT) -> PrivateKey:
    """A new key: ``ecdsa-p256``, ``ecdsa-p384``, ``rsa-2048``, ``rsa-3072`` or ``rsa-4096``."""
    curve = _CURVES.get(kind)
    if curve is not None:
        return ec.generate_private_key(curve())
    return rsa.generate_private_key(65537, int(kind.removeprefix("rsa-")))


def kind_of(key: PublicKeyTypes) -> str:
    """The kind of a key, by the same words, or its class where there is none."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ecdsa-p{key.curve.key_size}"
    if isinstance(key, rsa.RSAPublicKey):
        return f"rsa-{key.key_size}"
    return type(key).__name__.removesuffix("PublicKey").lower()


def pem_of(key: PrivateKey) -> bytes:
    """The key as PEM (PKCS 8, not encrypted)."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def parse_key(data: bytes, path: str) -> PrivateKey:
    """The key in ``data``, which is of ``path``. Raises CertificateError."""
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise CertificateError(
            f"{path}: the key is encrypted; Charon reads plain keys, for their owner alone"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{path}: there is no private key in it that can be read (PEM)") from None
    if isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey)):
        return key
    raise CertificateError(f"{path}: a key of this kind is of no use for TLS; take ECDSA, RSA or Ed25519")


def public_bytes(key: PublicKeyTypes) -> bytes:
    """What tells one public key from another."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
