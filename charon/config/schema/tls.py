"""TLS on both sides."""

from __future__ import annotations

from typing import Annotated

from charon.config.schema.section import Section, setting
from charon.config.schema.values import Boolean, Choice, FilePath, Name, OptionalName, Port, PositiveDuration


class Tls(Section):
    """Mutual TLS with certificates that Charon keeps itself."""

    enabled: Boolean = setting(False, "Speak TLS to clients.")
    cert_dir: FilePath = setting("./certs", "Folder of the certificates and keys.")
    server_port: Port = setting("8443", "Port that takes the place of `listen_port` when TLS is enabled.")
    upstream_tls: Boolean = setting(False, "Speak TLS to the endpoints.")
    min_version: Annotated[str, *Choice("1.2", "1.3")] = setting("1.2", "Lowest version of TLS that is spoken.")
    trust_domain: OptionalName = setting("none", "Domain of the SPIFFE identities.", example="example.org")
    service: OptionalName = setting("none", "Service whose identity this side has.", example="my-backend")
    dns_names: tuple[Name, ...] = setting((), "Further host names in the certificate of this side.")
    lifetime: PositiveDuration = setting("24h", "Lifetime of the certificates that Charon issues.")
    client_auth: Annotated[str, *Choice("required", "optional", "none")] = setting(
        "required", "Whether clients must show a certificate: `required`, `optional` or `none`."
    )
    allowed_identities: tuple[Name, ...] = setting(
        (), "SPIFFE identities that may connect. Empty: all of this authority."
    )
