"""Words for what goes wrong with TLS.

Not among the modules that are compiled: an exception of the system's kind cannot be.
"""

from __future__ import annotations

import ssl
from errno import EPROTO
from typing import Final

# Codes of X509_verify_cert (openssl/x509_vfy.h) that operators meet.
_VERDICTS: Final = {
    2: "unknown_ca", 18: "unknown_ca", 19: "unknown_ca", 20: "unknown_ca", 21: "unknown_ca", 24: "unknown_ca",
    9: "not_yet_valid", 10: "expired", 23: "revoked", 3: "no_crl", 11: "crl_not_yet_valid", 12: "crl_expired",
    26: "wrong_purpose", 62: "wrong_identity", 64: "wrong_identity",
}  # fmt: skip

# Reasons of OpenSSL (SSLError.reason), where the verdict is ours; the rest is bad_handshake.
_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "UNSUPPORTED_PROTOCOL": "no_common_version",
    "TLSV1_ALERT_PROTOCOL_VERSION": "no_common_version",
    "NO_SHARED_CIPHER": "no_common_cipher",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "no_common_cipher",
    "WRONG_VERSION_NUMBER": "not_tls",
    "HTTP_REQUEST": "not_tls",
    "PACKET_LENGTH_TOO_LONG": "not_tls",
}

# Alerts about our certificate, or the lack of one. In TLS 1.3 they come when our own side of the handshake is done.
_REFUSALS: Final = ("UNKNOWN_CA", "ACCESS_DENIED", "CERTIFICATE", "DECRYPT_ERROR", "HANDSHAKE_FAILURE")

OTHER: Final = "bad_handshake"
"""The word where none of the others fits."""


class TlsError(OSError):
    """TLS with a peer has failed. ``word`` says how, for metrics and logs; ``refused``: the peer does not accept us.

    ``errno`` is EPROTO, so that it reads as an error of the connection wherever one is handled.
    """

    def __init__(self, word: str, detail: str, *, refused: bool = False) -> None:
        super().__init__(EPROTO, detail)
        self.word = word
        self.detail = detail
        self.refused = refused

    def again(self) -> TlsError:
        """The same, to be raised once more."""
        return TlsError(self.word, self.detail, refused=self.refused)


class NotTls(TlsError):
    """A client speaks something else. ``data`` is what it has sent."""

    def __init__(self, data: bytes) -> None:
        super().__init__("plaintext_client", "the client does not speak TLS")
        self.data = data


def tls_error(error: ssl.SSLError) -> TlsError:
    """What OpenSSL reports, in Charon's words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsError(_VERDICTS.get(error.verify_code, "bad_certificate"), error.verify_message)
    reason = error.reason or ""
    if "ALERT" in reason and any(part in reason for part in _REFUSALS):
        said = reason.partition("ALERT_")[2].lower().replace("_", " ")
        return TlsError("refused_by_peer", f"the peer does not accept us: {said}", refused=True)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return TlsError("closed", "closed during the handshake")
    return TlsError(_REASONS.get(reason, OTHER), reason.lower().replace("_", " ") or "no valid TLS")
