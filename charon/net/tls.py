"""TLS contexts from material in memory, and who a peer is by its certificate.

A context is made once for each (spec, material) and shared by all connections; a new snapshot brings new ones, and
connections that are open keep theirs. Each process has keys of its own for session tickets: a client that comes back
to another worker, or after its material was renewed, gets a full handshake instead of a resumed one.
Trust: a certificate's names count only where its chain was verified, which is what every context here asks for; the
only exception are servers that ask their clients for none.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import Final
from weakref import WeakValueDictionary

from charon.config.snapshot import ClientTlsSpec, EndpointSpec, ServerTlsSpec, TlsMaterial
from charon.net.tls_failures import TlsError
from charon.policy.peers import Identity, expected

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CLIENT_AUTH: Final = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption only. Those of TLS 1.3 are all of that kind."""

_TICKETS: Final = 1
"""Session tickets for each TLS 1.3 connection: making one is a tenth of a handshake, and a client needs one."""



class ServerTls:
    """TLS towards the clients of a listener. ``identity`` is this side's own."""

    __slots__ = ("__weakref__", "asks", "context", "identity", "spec")

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

    __slots__ = ("__weakref__", "context", "spec")

    def __init__(self, spec: ClientTlsSpec, context: ssl.SSLContext) -> None:
        self.spec = spec
        self.context = context

    def to(self, service: str, endpoint: EndpointSpec) -> EndpointTls:
        """For an endpoint of ``service``."""
        return EndpointTls(self, self.spec.server_name or certified_name(endpoint), self.spec.expected(service))


def client_context(spec: ClientTlsSpec, material: TlsMaterial) -> ssl.SSLContext:
    """What all services share that have the same material. Raises ValueError when that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = spec.by_host_name  # without identities the name counts, and OpenSSL compares it
    context.hostname_checks_common_name = False
    _prepare(context, spec.min_version, material, roots=True)
    if spec.system_roots:
        context.set_default_verify_paths()
    return context


class EndpointTls:
    """TLS towards one endpoint. ``session`` is what a further connection can be resumed with."""

    __slots__ = ("context", "identities", "server_name", "session", "shared")

    def __init__(self, shared: ClientTls, server_name: str, identities: tuple[str, ...]) -> None:
        self.shared = shared
        self.context = shared.context
        self.identities = identities
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
    """The contexts of this process, each made when it is first asked for, and kept as long as its material is in force.

    Many services with the same material share one context: a context takes hundreds of kilobytes where the public
    authorities are trusted.
    """

    def __init__(self) -> None:
        self._materials: Mapping[str, TlsMaterial] = {}
        self._servers: dict[tuple[str, ServerTlsSpec, tuple[str, ...]], ServerTls] = {}
        self._contexts: dict[tuple[str, str, bool, bool], ssl.SSLContext] = {}
        self._clients: WeakValueDictionary[tuple[str, ClientTlsSpec], ClientTls] = WeakValueDictionary()

    def use(self, materials: Mapping[str, TlsMaterial]) -> None:
        """What is asked for from now on is made of ``materials``.

        Raises ValueError, and changes nothing, when one of them cannot be used.
        """
        known = {material.version for material in self._materials.values()}
        for material in materials.values():
            if material.version not in known:
                _prepare(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), "1.2", material, roots=True)
        self._materials = materials
        versions = {material.version for material in materials.values()}
        self._servers = {key: tls for key, tls in self._servers.items() if key[0] in versions}
        self._contexts = {key: context for key, context in self._contexts.items() if key[0] in versions}

    def server(self, spec: ServerTlsSpec, alpn: tuple[str, ...] = ()) -> ServerTls:
        """TLS towards clients, with the protocols ``alpn``: the same object as long as nothing changes."""
        material = self._material(spec.material)
        key = (material.version, spec, alpn)
        found = self._servers.get(key)
        if found is None:
            found = self._servers[key] = ServerTls(spec, material, alpn)
        return found

    def client(self, spec: ClientTlsSpec) -> ClientTls:
        """TLS towards a service: the same object as long as nothing changes and somebody has it."""
        material = self._material(spec.material)
        found = self._clients.get((material.version, spec))
        if found is None:
            key = (material.version, spec.min_version, spec.system_roots, spec.by_host_name)
            context = self._contexts.get(key)
            if context is None:
                context = self._contexts[key] = client_context(spec, material)
            found = self._clients[material.version, spec] = ClientTls(spec, context)
        return found

    def _material(self, name: str) -> TlsMaterial:
        """A material that the snapshot in force does not have would be a mistake in making it: ValueError."""
        try:
            return self._materials[name]
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
