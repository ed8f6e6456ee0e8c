"""What `tls` and `access` come to: the certificates that are needed, and who checks what with which of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from charon.base.identities import DEFAULT_SERVICE, DEFAULT_TRUST_DOMAIN, service_problem, spiffe_id
from charon.config.certificates import (
    CA_CERT,
    CLIENT_CERT,
    CLIENT_KEY,
    PUBLIC,
    SERVER_CERT,
    SERVER_KEY,
    IssuePlan,
    MaterialSource,
    ServiceTls,
    UpstreamTls,
)
from charon.config.schema.listener import Listener
from charon.config.schema.root import Root
from charon.config.schema.services import Service
from charon.config.schema.tls import Access, Tls
from charon.config.snapshot import AccessSpec, ClientTlsSpec, ServerTlsSpec


class Materials:
    """The materials of a configuration, each once, under a name for people: that of its certificate's or
    its authorities' file."""

    def __init__(self) -> None:
        self.sources: dict[str, MaterialSource] = {}

    def name(self, source: MaterialSource) -> str:
        """The name of ``source`` in ``Snapshot.materials``."""
        wanted = source.cert_file or source.ca_file or PUBLIC
        number = 1
        while self.sources.setdefault(found := wanted if number == 1 else f"{wanted}#{number}", source) != source:
            number += 1
        return found


def server_tls(listener: Listener, folder: Path, materials: Materials) -> ServerTlsSpec | None:
    """TLS of a listener; None where it is off."""
    tls = listener.tls
    if not tls.enabled:
        return None
    return ServerTlsSpec(
        material=materials.name(server_source(listener, folder)),
        min_version=tls.min_version,
        client_auth=tls.client_auth,
        trust_domain=trust_domain(tls),
    )


def access_spec(access: Access, tls: Tls | None = None) -> AccessSpec | None:
    """``access``, with what ``tls`` of a listener allows; None where everybody may."""
    more = tls.allowed_identities if tls is not None and tls.enabled else ()
    spec = AccessSpec(tuple(dict.fromkeys((*more, *access.allow))), tuple(dict.fromkeys(access.deny)))
    return None if spec == AccessSpec() else spec


def upstream_tls(root: Root, listeners: tuple[Listener, ...], folder: Path, materials: Materials) -> UpstreamTls:
    """TLS towards all services."""
    public = ClientTlsSpec(PUBLIC, root.tls.min_version, system_roots=True)
    mesh = None
    if mesh_is_used(root) or makes_authority(root.tls):
        # Made along with the rest also where nothing of ours shows it: clients on this host can, and the next may.
        material = materials.name(client_source(root, listeners, folder))
        mesh = ClientTlsSpec(material, root.tls.min_version, trust_domain=trust_domain(root.tls))
    default = ServiceTls(mesh if root.tls.upstream_tls else None, public)
    rules = {
        name: _service_tls(root, service, client_source(root, listeners, folder), folder, materials)
        for name, service in root.services.items()
        if service.tls.model_fields_set
    }
    if default.plain is not None:
        for listener in listeners:
            target = listener.target_service_addr
            if listener.target_service_name is None and target is not None:
                # It is known by its address alone: there is no name that its identity could have.
                rules.setdefault(str(target.address), ServiceTls(replace(default.plain, trust_domain=None), public))
    return UpstreamTls(default, rules)


def _service_tls(root: Root, service: Service, mesh: MaterialSource, folder: Path, materials: Materials) -> ServiceTls:
    tls = service.tls
    cert, key, crl = (path(folder, given) for given in (tls.cert_file, tls.key_file, tls.crl_file))
    alone = MaterialSource(cert, key, path(folder, tls.ca_file), crl)
    if cert is not None:
        mesh = replace(mesh, cert_file=cert, key_file=key, plan=None)
    mesh = replace(mesh, crl_file=crl or mesh.crl_file)
    domain = trust_domain(root.tls) if tls.server_name is None and not tls.identities else None

    def spec(source: MaterialSource, domain: str | None, *, public: bool) -> ClientTlsSpec:
        return ClientTlsSpec(
            material=PUBLIC if source == MaterialSource() else materials.name(source),
            min_version=tls.min_version or root.tls.min_version,
            server_name=tls.server_name,
            identities=tuple(dict.fromkeys(tls.identities)),
            system_roots=public,
            trust_domain=domain,
        )

    wanted = root.tls.upstream_tls if tls.enabled is None else tls.enabled
    if has_own_trust(service):
        own = spec(alone, None, public=tls.system_roots)
        return ServiceTls(own if wanted else None, own)
    plain = spec(mesh, domain, public=False) if wanted else None
    if tls.enabled or tls.identities:
        return ServiceTls(plain, plain or spec(mesh, domain, public=False))
    return ServiceTls(plain, spec(alone, None, public=True))


def trust_domain(tls: Tls) -> str | None:
    """The trust domain that a peer's certificate must be of; None: any, or none at all."""
    if tls.trust_domain is not None or tls.ca_file is not None or tls.cert_file is not None:
        return tls.trust_domain
    return DEFAULT_TRUST_DOMAIN


def server_source(listener: Listener, folder: Path) -> MaterialSource:
    """The certificate that a listener shows, and whom it trusts."""
    tls = listener.tls
    target = listener.target_service_name
    service = target if target is not None and service_problem(target) is None else DEFAULT_SERVICE
    plan = IssuePlan(
        folder=str(folder / tls.cert_dir),
        identity=spiffe_id(tls.trust_domain or DEFAULT_TRUST_DOMAIN, tls.service or service),
        dns_names=tls.dns_names,
        lifetime=tls.lifetime,
        key_type=tls.key_type,
        make_authority=True,
    )
    return _source(tls, folder, SERVER_CERT, SERVER_KEY, plan, trusts=tls.client_auth != "none")


def client_source(root: Root, listeners: Iterable[Listener], folder: Path) -> MaterialSource:
    """The certificate that is shown to services, and whom it trusts."""
    tls = root.tls
    home = folder / tls.cert_dir
    plan = IssuePlan(
        folder=str(home),
        identity=spiffe_id(tls.trust_domain or DEFAULT_TRUST_DOMAIN, tls.service or DEFAULT_SERVICE),
        local_names=False,
        lifetime=tls.lifetime,
        key_type=tls.key_type,
        make_authority=any(makes_authority(own.tls) and folder / own.tls.cert_dir == home for own in listeners),
        spare=(str(home / SERVER_CERT), str(home / SERVER_KEY)),
    )
    return _source(tls, folder, CLIENT_CERT, CLIENT_KEY, plan, trusts=True)


def makes_authority(tls: Tls) -> bool:
    """Is an authority made in `cert_dir` where there is none? Only a side that shows its certificates to others has
    use for one of its own: a client that made its own would trust nobody."""
    return tls.enabled and tls.cert_file is None


def _source(tls: Tls, folder: Path, cert: str, key: str, plan: IssuePlan, *, trusts: bool) -> MaterialSource:
    home = folder / tls.cert_dir
    own = tls.cert_file is None
    bundle = path(folder, tls.ca_file) or (str(home / CA_CERT) if own else None)
    return MaterialSource(
        cert_file=str(home / cert) if own else path(folder, tls.cert_file),
        key_file=str(home / key) if own else path(folder, tls.key_file),
        ca_file=bundle if trusts else None,
        crl_file=path(folder, tls.crl_file) if trusts else None,
        plan=plan if own else None,
    )


def path(folder: Path, given: str | None) -> str | None:
    """``given`` as an absolute path."""
    return None if given is None else str(folder / given)


def has_own_trust(service: Service) -> bool:
    """Does the service say by itself which authorities are trusted?"""
    return service.tls.ca_file is not None or service.tls.system_roots


def uses_mesh(service: Service) -> bool:
    """Does the service by itself ask for the certificate and the authorities of `tls` at the top level?"""
    return bool(service.tls.enabled or service.tls.identities) and not has_own_trust(service)


def mesh_is_used(root: Root) -> bool:
    """Does any service get the certificate and the authorities of `tls` at the top level?"""
    return root.tls.upstream_tls or any(uses_mesh(service) for service in root.services.values())
