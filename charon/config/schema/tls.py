"""TLS on both sides, and who may do what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final

from charon.base import addresses, identities, units
from charon.base.units import quoted
from charon.config.schema.section import Section, setting
from charon.config.schema.values import Boolean, Choice, FilePath, OptionalBoolean, OptionalFilePath, Port, kind_of

KEY_TYPES: Final = ("ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072", "rsa-4096")
SHORTEST_LIFETIME: Final = 10.0
"""Seconds: certificates count in whole ones, and a renewal takes its time."""


def _checked(problem_of: Callable[[str], str | None]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        text = str(value).strip()
        problem = problem_of(text)
        if problem is not None:
            raise ValueError(problem)
        return text

    return read


def _certificate_name(value: Any) -> str:
    text = str(value).strip()
    host = text.removeprefix("*.")
    if addresses.Address(host, 0).is_ip or (addresses.host_problem(host) is None and not text.endswith(".")):
        return text.lower()
    raise ValueError(f"{quoted(text)} is neither a host name nor an IP address; write api.example.com or 10.0.0.5")


def _lifetime(value: Any) -> float:
    seconds = units.parse_duration(value)
    if seconds < SHORTEST_LIFETIME:
        raise ValueError(f"{quoted(value)} is too short; write at least {SHORTEST_LIFETIME:g}s")
    return seconds


_STRING: Final = {"type": "string"}
_SECONDS: Final = ({"type": "number", "minimum": SHORTEST_LIFETIME}, {"type": "string"})

TrustDomain = Annotated[
    str | None, *kind_of(_checked(identities.trust_domain_problem), "a trust domain", _STRING, none=True)
]
IdentityPath = Annotated[str | None, *kind_of(_checked(identities.service_problem), "a name", _STRING, none=True)]
Identity = Annotated[str, *kind_of(_checked(identities.identity_problem), "an identity", _STRING)]
IdentityPattern = Annotated[str, *kind_of(_checked(identities.pattern_problem), "an identity", _STRING)]
CertificateName = Annotated[str, *kind_of(_certificate_name, "a host name or an IP address", _STRING)]
OptionalCertificateName = Annotated[
    str | None, *kind_of(_certificate_name, "a host name or an IP address", _STRING, none=True)
]
Lifetime = Annotated[float, *kind_of(_lifetime, "a duration", *_SECONDS)]


class Tls(Section):
    """TLS towards clients. Without `cert_file` the certificates are Charon's own: in `cert_dir` it keeps an authority
    (`ca-cert.pem`, `ca-key.pem`) and certificates of it (`server-cert.pem`, `client-cert.pem` and their keys). What is
    missing there it makes, where it has the authority's key, and renews it after two thirds of its life. What is there
    it uses; whatever replaces the files takes effect within two seconds, for new connections."""

    elsewhere: ClassVar = {
        "server_port": "an entry of listeners says its port in its address",
        "upstream_tls": "it is about services; give it in tls at the top level, or services.NAME.tls.enabled",
    }

    enabled: Boolean = setting(False, "Speak TLS to clients, and nothing else.")
    cert_dir: FilePath = setting(
        "./certs",
        "Folder of the authority and the certificates. Keys in it must be readable by their owner alone.",
    )
    cert_file: OptionalFilePath = setting(
        "none",
        "Certificate of this side with its intermediates, PEM, in the place of those in `cert_dir`, for certificates "
        "that another tool keeps: step-ca, Vault, cert-manager, a SPIFFE helper. `none`: those in `cert_dir`.",
        example="/run/spiffe/svid.pem",
    )
    key_file: OptionalFilePath = setting(
        "none", "Key that belongs to `cert_file`, PEM, not encrypted.", example="/run/spiffe/svid-key.pem"
    )
    ca_file: OptionalFilePath = setting(
        "none",
        "Authorities that are trusted, PEM, one or several. `none`: `ca-cert.pem` in `cert_dir`.",
        example="/run/spiffe/bundle.pem",
    )
    crl_file: OptionalFilePath = setting(
        "none",
        "Lists of revoked certificates, PEM, one for each authority that issues certificates of peers. Those on a list "
        "are refused. `none`: nothing is revoked.",
        example="/etc/charon/crl.pem",
    )
    min_version: Annotated[str, *Choice("1.2", "1.3")] = setting("1.2", "Lowest version of TLS that is spoken.")
    trust_domain: TrustDomain = setting(
        "none",
        "Domain of the SPIFFE identities `spiffe://TRUST_DOMAIN/SERVICE`. A client's certificate must be of it. "
        "`none`: `charon.local`; with `ca_file`, certificates of any domain, or without one, are taken.",
        example="example.org",
    )
    service: IdentityPath = setting(
        "none",
        "Name in the identity of the certificates that Charon issues. `none`: towards clients the listener's "
        "`target_service_name`, else `charon`; towards endpoints `charon`.",
        example="my-backend",
    )
    dns_names: tuple[CertificateName, ...] = setting(
        (),
        "Further host names and IP addresses in certificates towards clients that Charon issues. `localhost`, "
        "`127.0.0.1`, `::1`, the machine's name and the name of the service are always in them.",
        example=["api.example.com", "10.0.0.5"],
    )
    lifetime: Lifetime = setting(
        "24h", "Lifetime of the certificates that Charon issues, at least 10s. They are renewed after two thirds of it."
    )
    key_type: Annotated[str, *Choice(*KEY_TYPES)] = setting(
        "ecdsa-p256",
        f"Kind of key of the certificates that Charon issues: {', '.join(f'`{kind}`' for kind in KEY_TYPES)}.",
    )
    client_auth: Annotated[str, *Choice("required", "optional", "none")] = setting(
        "required",
        "Whether clients must show a certificate: `required`, `optional` (one that is shown must be good) or `none`.",
    )
    allowed_identities: tuple[IdentityPattern, ...] = setting(
        (),
        "SPIFFE identities of clients that may use the listener, with `*` for any characters, such as "
        "`spiffe://example.org/web`; the same as `access.allow`. Empty: all that are trusted.",
    )


class AllTls(Tls):
    """TLS towards clients, and in the last two keys what is about endpoints and about the one listener. Without
    `cert_file` the certificates are Charon's own: in `cert_dir` it keeps an authority (`ca-cert.pem`, `ca-key.pem`) and
    certificates of it (`server-cert.pem`, `client-cert.pem` and their keys). What is missing there it makes, where it
    has the authority's key, and renews it after two thirds of its life. What is there it uses; whatever replaces the
    files takes effect within two seconds, for new connections. How to do what with it: docs/certificates.md."""

    upstream_tls: Boolean = setting(
        False,
        "Speak TLS to the endpoints of all services that do not say otherwise, with a certificate of this side. An "
        "endpoint must have the identity of its service, `spiffe://TRUST_DOMAIN/NAME`; one that is only an address "
        "(`target_service_addr`), or any where there is no trust domain, a certificate for its host.",
    )
    server_port: Port = setting(
        "8443", "Port that takes the place of `listen_port` when TLS is enabled. Not used together with `listeners`."
    )


class ServiceTls(Section):
    """TLS towards the endpoints of one service. Trusted is what `tls` at the top level trusts, and its certificate is
    shown; with `ca_file` or `system_roots` these authorities are trusted in its place, and only the certificate of
    `cert_file` is shown. An address `https://host:port` switches TLS on by itself; where nothing else is said, the
    public authorities are trusted, and the certificate must be for that host."""

    elsewhere: ClassVar = {
        key: "it is about certificates of this side or about clients; give it in tls at the top level or of a listener"
        for key in Tls.model_fields
        if key not in ("enabled", "min_version", "ca_file", "crl_file", "cert_file", "key_file")
    }

    enabled: OptionalBoolean = setting(
        "none", "Speak TLS to this service. `none`: as `tls.upstream_tls` says, and where an address is `https://`."
    )
    server_name: OptionalCertificateName = setting(
        "none",
        "Host name that is asked for (SNI), and that the endpoint's certificate must be for unless `identities` are "
        "given. `none`: the host of the endpoint's address.",
        example="api.example.com",
    )
    identities: tuple[Identity, ...] = setting(
        (),
        "SPIFFE identities such as `spiffe://example.org/api`, one of which the endpoint must have. Empty: that of the "
        "service where it is trusted as `tls` at the top level says and no `server_name` is given; else the host name "
        "decides.",
    )
    min_version: Annotated[str | None, *Choice("1.2", "1.3", none=True)] = setting(
        "none", "Lowest version of TLS that is spoken. `none`: as in `tls` at the top level."
    )
    ca_file: OptionalFilePath = setting("none", "Authorities that are trusted for this service, PEM.")
    system_roots: Boolean = setting(False, "Trust the public authorities of this machine for this service.")
    crl_file: OptionalFilePath = setting("none", "As `tls.crl_file`, for the authorities of this service.")
    cert_file: OptionalFilePath = setting("none", "Certificate that is shown to this service, PEM.")
    key_file: OptionalFilePath = setting("none", "Key that belongs to `cert_file`, PEM, not encrypted.")


class Access(Section):
    """Who may, by the SPIFFE identity of the client's certificate. `deny` goes before `allow`; whoever is refused gets
    403 `identity_denied`, a TCP connection is closed. A client without a certificate has no identity: only an empty
    `allow` lets it in."""

    allow: tuple[IdentityPattern, ...] = setting(
        (),
        "Identities that are let in, such as `spiffe://example.org/web`, with `*` for any characters, as in "
        "`spiffe://example.org/jobs/*`. Empty: all that are not denied.",
    )
    deny: tuple[IdentityPattern, ...] = setting((), "Identities that are refused, with `*` for any characters.")
