"""TLS contexts from material in memory, who a peer is by its certificate, and words for what goes wrong.

A context is made once for each (spec, material) and shared by all connections; a new snapshot brings new ones, and
connections that are open keep theirs. Each process has keys of its own for session tickets: a client that comes back
to another worker, or after its material was renewed, gets a full handshake instead of a resumed one.
Trust: a certificate's names count only where its chain was verified, which is what every context here asks for; the
only exception are servers that ask their clients for none.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Mapping
from errno import EPROTO
from typing import Final

from charon.config.snapshot import ClientTlsSpec, EndpointSpec, ServerTlsSpec, TlsMaterial
from charon.policy.peers import Identity, expected

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CLIENT_AUTH: Final = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption only. Those of TLS 1.3 are all of that kind."""

_TICKETS: Final = 1
"""Session tickets for each TLS 1.3 connection: making one is a tenth of a handshake, and a client needs one."""

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


class ServerTls:
    """TLS towards the clients of a listener. ``identity`` is this side's own."""

    __slots__ = ("asks", "context", "identity", "spec")

    def __init__(self, spec: ServerTlsSpec, material: TlsMaterial, alpn: tuple[str, ...] = ()) -> None:
        """Raises ValueError when the material cannot be used."""
        self.spec = spec
        self.identity = material.identity
        self.asks = spec.client_auth != "none"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = _CLIENT_AUTH[spec.client_auth]
        _prepare(context, spec.min_version, material, roots=self.asks)
        context.num_tickets = _TICKETS
        if alpn:
            context.set_alpn_protocols(list(alpn))
        self.context = context

    def check(self, peer: Identity | None) -> None:
        """Refuse a client that is not of the trust domain. ``peer`` is None for one that showed no certificate, which
        a context that requires one has refused by itself. Raises TlsError."""
        domain = self.spec.trust_domain
        if domain is None or peer is None:
            return
        if peer.spiffe is None:
            raise TlsError("wrong_trust_domain", "the certificate has no SPIFFE identity")
        if peer.trust_domain != domain:
            raise TlsError("wrong_trust_domain", f"{peer.spiffe} is not of {domain}")


class ClientTls:
    """TLS towards the endpoints of a service."""

    __slots__ = ("context", "spec")

    def __init__(self, spec: ClientTlsSpec, material: TlsMaterial, alpn: tuple[str, ...] = ()) -> None:
        """Raises ValueError when the material cannot be used."""
        self.spec = spec
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = not spec.identities  # without identities the name counts, and OpenSSL compares it
        context.hostname_checks_common_name = False
        _prepare(context, spec.min_version, material, roots=True)
        if spec.system_roots:
            context.set_default_verify_paths()
        if alpn:
            context.set_alpn_protocols(list(alpn))
        self.context = context

    def to(self, host: str) -> EndpointTls:
        """For an endpoint whose host name or address is ``host``."""
        return EndpointTls(self, self.spec.server_name or host)


class EndpointTls:
    """TLS towards one endpoint. ``session`` is what a further connection can be resumed with."""

    __slots__ = ("context", "identities", "server_name", "session", "shared")

    def __init__(self, shared: ClientTls, server_name: str) -> None:
        self.shared = shared
        self.context = shared.context
        self.identities = shared.spec.identities
        self.server_name = server_name
        self.session: ssl.SSLSession | None = None

    def check(self, peer: Identity) -> None:
        """Refuse an endpoint that is somebody else. Raises TlsError."""
        if self.identities and not expected(self.identities, peer.spiffe):
            raise TlsError("wrong_identity", f"it is {peer.spiffe or 'without SPIFFE identity'}")


def certified_name(endpoint: EndpointSpec) -> str:
    """The host name or address that the certificate of an endpoint must be for, where no other is given."""
    if endpoint.host:
        return endpoint.host
    return "localhost" if endpoint.candidates[0].is_unix else endpoint.candidates[0].host


class Contexts:
    """The contexts of this process: one for each spec and material, as long as the snapshot in force uses it."""

    def __init__(self) -> None:
        self._servers: dict[tuple[ServerTlsSpec, str, tuple[str, ...]], ServerTls] = {}
        self._clients: dict[tuple[ClientTlsSpec, str, tuple[str, ...]], ClientTls] = {}

    def servers(
        self, specs: Mapping[str, tuple[ServerTlsSpec, tuple[str, ...]]], materials: Mapping[str, TlsMaterial]
    ) -> dict[str, ServerTls]:
        """For each name the context of its spec and protocols (ALPN). Contexts that are not among them are forgotten.

        Raises ValueError, and changes nothing, when a material is missing or cannot be used.
        """
        kept: dict[tuple[ServerTlsSpec, str, tuple[str, ...]], ServerTls] = {}
        found: dict[str, ServerTls] = {}
        for name, (spec, alpn) in specs.items():
            material = _material(spec.material, materials)
            key = (spec, material.version, alpn)
            kept[key] = found[name] = kept.get(key) or self._servers.get(key) or ServerTls(spec, material, alpn)
        self._servers = kept
        return found

    def clients(
        self, specs: Iterable[ClientTlsSpec], materials: Mapping[str, TlsMaterial], alpn: tuple[str, ...] = ()
    ) -> dict[ClientTlsSpec, ClientTls]:
        """The context of each spec, as :meth:`servers`."""
        kept: dict[tuple[ClientTlsSpec, str, tuple[str, ...]], ClientTls] = {}
        found: dict[ClientTlsSpec, ClientTls] = {}
        for spec in specs:
            material = _material(spec.material, materials)
            key = (spec, material.version, alpn)
            kept[key] = found[spec] = kept.get(key) or self._clients.get(key) or ClientTls(spec, material, alpn)
        self._clients = kept
        return found


def _material(name: str, materials: Mapping[str, TlsMaterial]) -> TlsMaterial:
    try:
        return materials[name]
    except KeyError:
        raise ValueError(f"there is no TLS material {name!r}") from None


def _prepare(context: ssl.SSLContext, min_version: str, material: TlsMaterial, *, roots: bool) -> None:
    """What both sides have in common."""
    context.minimum_version = _VERSIONS[min_version]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(_CIPHERS)
    # What the operator trusts is trusted, be it a root or an authority below one.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        if material.chain:
            with _File(material.chain + b"\n" + material.key) as path:
                context.load_cert_chain(path)
        if roots and material.roots:
            with _File(material.roots + b"\n" + material.revoked) as path:
                context.load_verify_locations(cafile=path)
            if material.revoked:
                context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    except ssl.SSLError as error:
        raise ValueError(f"the TLS material {material.version} cannot be used: {error}") from error


class _File:
    """Bytes under a path, for OpenSSL reads files only. They are in memory and never on a disk: keys are among them."""

    def __init__(self, content: bytes) -> None:
        self._fd = os.memfd_create("tls", os.MFD_CLOEXEC)
        try:
            os.write(self._fd, content)
        except OSError:
            os.close(self._fd)
            raise

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
