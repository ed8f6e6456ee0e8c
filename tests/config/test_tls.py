"""`tls` and `access`: which certificates they need, what workers are told, and what is a mistake."""

from __future__ import annotations

import pytest

from charon.base.addresses import Address
from charon.config.certificates import PUBLIC, IssuePlan
from charon.config.compile import compile_settings
from charon.config.settings import Settings
from charon.config.snapshot import AccessSpec, ClientTlsSpec, EndpointSpec, ServerTlsSpec, SocketAddress
from tests.config.support import Folder

TARGET = "target_service_name: web\n"
ID = "spiffe://charon.local"


def compiled(folder: Folder, text: str) -> Settings:
    return compile_settings(folder.load(text))


def client(settings: Settings, service: str, *, https: bool = False) -> ClientTlsSpec | None:
    """TLS of a service in the snapshot."""
    endpoint = EndpointSpec("a:1", (SocketAddress("10.0.0.1", 1),), https=https)
    return settings.treating()(service, (endpoint,), -1).tls


def test_the_short_form_moves_the_listener_to_the_tls_port(folder: Folder) -> None:
    text = TARGET + "tls: {enabled: true, upstream_tls: true}"
    config = folder.load(text)
    assert config.listeners[0].address == Address("", 8443)
    settings = compiled(folder, text)
    (listener,) = settings.listeners
    certs = folder.path / "certs"
    assert listener.tls == ServerTlsSpec(f"{certs}/server-cert.pem", "1.2", "required", "charon.local")
    server = settings.certificates[f"{certs}/server-cert.pem"]
    assert (server.key_file, server.ca_file) == (f"{certs}/server-key.pem", f"{certs}/ca-cert.pem")
    assert server.plan == IssuePlan(str(certs), f"{ID}/web", make_authority=True)
    own = settings.certificates[f"{certs}/client-cert.pem"]
    assert own.plan is not None
    assert (own.plan.identity, own.plan.spare) == (
        f"{ID}/charon",
        (f"{certs}/server-cert.pem", f"{certs}/server-key.pem"),
    )
    spec = client(settings, "web")
    assert spec == ClientTlsSpec(f"{certs}/client-cert.pem", trust_domain="charon.local")
    assert spec.expected("web") == (f"{ID}/web",) and not spec.by_host_name
    assert client(settings, "other") is spec, "one for all services, however many"
    assert set(settings.snapshot({}, 1, "").materials) == {PUBLIC}


def test_listeners_override_the_top_level(folder: Folder) -> None:
    text = TARGET + (
        "tls: {enabled: true, trust_domain: example.org, service: api, dns_names: [API.example.com, 10.0.0.5],\n"
        "      lifetime: 1h, key_type: rsa-2048, min_version: '1.3', allowed_identities: ['spiffe://example.org/*']}\n"
        "listeners:\n"
        "- {address: ':1', access: {deny: ['spiffe://example.org/x']}}\n"
        "- {address: ':2', tls: {enabled: false, allowed_identities: []}}\n"
        "- {address: ':3', tls: {client_auth: optional, cert_dir: /other, allowed_identities: []}}\n"
    )
    one, two, three = compiled(folder, text).listeners
    assert one.tls == ServerTlsSpec(f"{folder.path}/certs/server-cert.pem", "1.3", "required", "example.org")
    assert one.access == AccessSpec(("spiffe://example.org/*",), ("spiffe://example.org/x",))
    assert (two.tls, two.access) == (None, None)
    assert three.tls == ServerTlsSpec("/other/server-cert.pem", "1.3", "optional", "example.org")
    assert compiled(folder, text).certificates["/other/server-cert.pem"].plan == IssuePlan(
        folder="/other",
        identity="spiffe://example.org/api",
        dns_names=("api.example.com", "10.0.0.5"),
        lifetime=3600,
        key_type="rsa-2048",
        make_authority=True,
    )


def test_certificates_of_another_tool(folder: Folder) -> None:
    for name in ("c.pem", "k.pem", "ca.pem", "crl.pem"):
        (folder.path / name).touch()
    files = "cert_file: c.pem, key_file: k.pem, ca_file: ca.pem, crl_file: crl.pem"
    settings = compiled(folder, TARGET + f"tls: {{enabled: true, upstream_tls: true, {files}}}")
    (source,) = settings.certificates.values()
    assert [path.rpartition("/")[2] for path in source.files] == ["c.pem", "k.pem", "ca.pem", "crl.pem"]
    assert source.plan is None
    assert settings.listeners[0].tls == ServerTlsSpec(f"{folder.path}/c.pem", trust_domain=None)
    assert client(settings, "web") == ClientTlsSpec(f"{folder.path}/c.pem"), "no trust domain: the host name decides"


def test_services_say_how_they_are_reached(folder: Folder) -> None:
    (folder.path / "partner.pem").touch()
    text = """
tls: {enabled: true, upstream_tls: true, trust_domain: a.org}
target_service_addr: localhost:9443
services:
  off: {tls: {enabled: false}}
  named: {tls: {server_name: api.example.com}}
  known: {tls: {identities: ["spiffe://b.org/api"], min_version: "1.3"}}
  partner: {tls: {ca_file: partner.pem, server_name: p.example.com}}
  public: {tls: {enabled: true, system_roots: true}}
  egress: {addresses: ["https://api.example.com"], tls: {server_name: other.example.com}}
"""
    settings = compiled(folder, text)
    mesh = f"{folder.path}/certs/client-cert.pem"
    assert client(settings, "any") == ClientTlsSpec(mesh, trust_domain="a.org")
    assert client(settings, "any", https=True) == ClientTlsSpec(PUBLIC, system_roots=True)
    assert client(settings, "off") is None
    named = client(settings, "named")
    assert named == ClientTlsSpec(mesh, server_name="api.example.com")
    assert named.expected("named") == () and named.by_host_name
    known = client(settings, "known")
    assert known is not None and known.expected("known") == ("spiffe://b.org/api",)
    assert known == ClientTlsSpec(mesh, "1.3", identities=("spiffe://b.org/api",))
    assert client(settings, "partner") == ClientTlsSpec(f"{folder.path}/partner.pem", server_name="p.example.com")
    assert client(settings, "public") == ClientTlsSpec(PUBLIC, system_roots=True)
    assert client(settings, "egress", https=True) == ClientTlsSpec(
        PUBLIC, server_name="other.example.com", system_roots=True
    )
    assert client(settings, "localhost:9443") == ClientTlsSpec(mesh), "only an address: its host name decides"


def test_https_needs_no_tls_of_its_own(folder: Folder) -> None:
    settings = compiled(folder, "target_service_addr: https://api.example.com")
    assert settings.listeners[0].default_service == "https://api.example.com:443"
    (target,) = settings.static_services["https://api.example.com:443"]
    assert target.tls
    assert client(settings, "https://api.example.com:443", https=True) == ClientTlsSpec(PUBLIC, system_roots=True)
    assert client(settings, "plain") is None
    assert settings.certificates == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tls: {upstream_tls: true}", "2: tls.upstream_tls: there is nothing to trust endpoints by; give tls.cert_dir"),
        (
            "tls: {upstream_tls: true, cert_dir: c}",
            "2: tls.upstream_tls: there is nothing to trust endpoints by: there",
        ),
        (
            "tls: {upstream_tls: true}\nlisteners: [{address: ':1', tls: {enabled: on, cert_dir: other}}]",
            "2: tls.upstream_tls: there is nothing to trust endpoints by; give tls.cert_dir",
        ),
        ("services: {a: {tls: {enabled: yes}}}", "2: services.a.tls: there is nothing to trust endpoints by"),
        ("tls: {enabled: on, cert_file: c, client_auth: none}", "2: tls.cert_file: it needs a key_file"),
        ("tls: {enabled: on, key_file: c}", "2: tls.key_file: it needs a cert_file"),
        ("tls: {enabled: on, ca_file: nowhere}", "2: tls.ca_file: there is no such file: "),
        ("services: {a: {tls: {ca_file: nowhere}}}", "2: services.a.tls.ca_file: there is no such file: "),
        ("tls: {enabled: on, lifetime: 5s}", "2: tls.lifetime: '5s' is too short; write at least 10s"),
        ("tls: {enabled: on, trust_domain: A.org}", "2: tls.trust_domain: 'A.org' is not a trust domain; it has lower"),
        ("tls: {enabled: on, service: 'a//b'}", "2: tls.service: 'a//b' cannot be the name in an identity"),
        ("tls: {enabled: on, dns_names: ['a b']}", "2: tls.dns_names[0]: 'a b' is neither a host name nor an IP addr"),
        ("tls: {enabled: on, key_type: dsa}", "2: tls.key_type: 'dsa' is not known"),
        ("tls: {enabled: on, allowed_identities: [web]}", "2: tls.allowed_identities[0]: 'web' is not an identity"),
        ("access: {allow: ['https://a/b']}", "2: access.allow[0]: 'https://a/b' is not an identity"),
        ("access: {allow: ['*']}", "2: access: no client of the listener http-8080 has an identity: tls is not"),
        ("tls: {allowed_identities: ['*']}", "2: tls.allowed_identities: no client of the listener http-8080 has"),
        (
            "tls: {enabled: on, client_auth: none}\naccess: {deny: ['*']}",
            "3: access: no client of the listener http-8443",
        ),
        (
            "tls: {enabled: on, client_auth: none, ca_file: c}",
            "2: tls.ca_file: it has no effect with client_auth: none",
        ),
        ("routes: [{service: a, access: {allow: ['*']}}]", "2: routes[0].access: no client of this route has an id"),
        ("services: {a: {tls: {lifetime: 1h}}}", "2: services.a.tls.lifetime: unknown key here; it is about cert"),
        ("services: {a: {tls: {identities: ['spiffe://a']}}}", "2: services.a.tls.identities[0]: 'spiffe://a' is not"),
        (
            "services: {a: {addresses: ['https://a', 'b:1']}}",
            "2: services.a.addresses: a service is reached over https",
        ),
        (
            "tls: {enabled: on, server_port: 1}\nlisteners: [{address: ':1'}]",
            "2: tls.server_port: not used together with listeners",
        ),
        (
            "listeners: [{address: ':1', tls: {server_port: 1}}]",
            "2: listeners[0].tls.server_port: unknown key here; an entry of listeners says its port in its address",
        ),
        (
            "tls: {enabled: on}\nlisteners: [{address: ':1'}, {address: ':2', target_service_name: other}]",
            "2: tls.cert_dir: ",
        ),
    ],
)
def test_mistakes(folder: Folder, text: str, problem: str) -> None:
    found = folder.problems(TARGET + text)
    assert [line for line in found if line.startswith(problem)], found


def test_a_route_may_ask_for_identities_where_one_listener_knows_them(folder: Folder) -> None:
    text = (
        "routes: [{service: a, access: {allow: ['*']}}]\n"
        "listeners: [{address: ':1'}, {address: ':2', tls: {enabled: on}, target_service_name: b}]"
    )
    plain, secure = compiled(folder, text).listeners
    assert secure.routes[0].access == AccessSpec(("*",))
    assert plain.routes[0].access == AccessSpec(("*",)), "and nobody gets through on the plain one"
