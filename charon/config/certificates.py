"""Which certificates a configuration needs and where they come from, as plain values.

What is in the files is for :mod:`charon.identity` to read; here they are only named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from charon.config.snapshot import ClientTlsSpec, TlsMaterial

CA_CERT: Final = "ca-cert.pem"
CA_KEY: Final = "ca-key.pem"
SERVER_CERT, SERVER_KEY = "server-cert.pem", "server-key.pem"
CLIENT_CERT, CLIENT_KEY = "client-cert.pem", "client-key.pem"


@dataclass(frozen=True, slots=True)
class IssuePlan:
    """What Charon issues by itself when it has the authority's key: a certificate with ``identity``.

    ``folder`` is that of the authority, which is made when it is missing and ``make_authority``. ``dns_names`` may hold
    IP addresses; ``local_names``: those of this machine are added. ``lifetime`` is in seconds. ``spare`` is a
    certificate and its key that serve as well while there is no other and none can be issued.
    """

    folder: str
    identity: str
    dns_names: tuple[str, ...] = ()
    local_names: bool = True
    lifetime: float = 86_400.0
    key_type: str = "ecdsa-p256"
    make_authority: bool = False
    spare: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class MaterialSource:
    """The files of one :class:`~charon.config.snapshot.TlsMaterial`, as absolute paths; None: it has none of these.

    ``plan`` says what is issued when there is no certificate or it gets old; None: another tool sees to that.
    """

    cert_file: str | None = None
    key_file: str | None = None
    ca_file: str | None = None
    crl_file: str | None = None
    plan: IssuePlan | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that is read."""
        spare = self.plan.spare if self.plan is not None and self.plan.spare is not None else ()
        named = (self.cert_file, self.key_file, self.ca_file, self.crl_file, *spare)
        return tuple(path for path in named if path is not None)


PUBLIC: Final = "public authorities"
"""Name of the material that is nothing at all: no certificate, and trust in the public authorities alone."""


@dataclass(frozen=True, slots=True)
class ServiceTls:
    """How a service is spoken TLS to: ``plain`` (None: not at all), or ``https`` where its addresses are written so."""

    plain: ClientTlsSpec | None
    https: ClientTlsSpec


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """TLS towards services: ``by_service`` where a service has rules of its own, ``default`` for all others."""

    default: ServiceTls = field(default_factory=lambda: ServiceTls(None, ClientTlsSpec(PUBLIC, system_roots=True)))
    by_service: Mapping[str, ServiceTls] = field(default_factory=dict)

    def of(self, service: str, *, https: bool) -> ClientTlsSpec | None:
        """How the service is spoken TLS to; None: not at all. ``https``: its addresses are written so."""
        rules = self.by_service.get(service, self.default)
        return rules.https if https else rules.plain


def with_public(materials: Mapping[str, TlsMaterial]) -> dict[str, TlsMaterial]:
    """``materials``, and the one that is nothing: where the public authorities alone are trusted."""
    return {PUBLIC: TlsMaterial("public"), **materials}
