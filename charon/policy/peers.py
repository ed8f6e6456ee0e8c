"""Who a peer is, by the certificate that it has shown, and whether that is whom we meant. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from charon.base.identities import identity_problem, trust_domain_of

_PLAIN: Final = re.compile(r"[\x21-\x7e]{1,2048}")
"""A name that may stand in a header field or a log line. No other is taken from a certificate."""


class Identity:
    """The names in a certificate whose chain has been verified.

    ``spiffe`` is its SPIFFE identity: its one URI, if that is a valid one (X509-SVID section 2: exactly one).
    """

    __slots__ = ("dns", "spiffe", "trust_domain", "uris")

    def __init__(self, uris: tuple[str, ...], dns: tuple[str, ...]) -> None:
        self.uris = uris
        self.dns = dns
        self.spiffe: str | None = None
        self.trust_domain: str | None = None
        if len(uris) == 1 and identity_problem(uris[0]) is None:
            self.spiffe = uris[0]
            self.trust_domain = trust_domain_of(uris[0])

    def __repr__(self) -> str:
        return f"<Identity {self.spiffe or ' '.join(self.uris + self.dns) or 'without names'}>"


def identity(certificate: Mapping[str, Any]) -> Identity:
    """The names in ``certificate``, as ``ssl`` gives a verified one (``getpeercert()``)."""
    names: Sequence[tuple[str, str]] = certificate.get("subjectAltName", ())
    return Identity(
        tuple(name for kind, name in names if kind == "URI"),
        tuple(name for kind, name in names if kind == "DNS" and _PLAIN.fullmatch(name)),
    )


def expected(wanted: Sequence[str], found: str | None) -> bool:
    """Whether the SPIFFE identity ``found`` is one of ``wanted``."""
    return found is not None and found in wanted


def forwarded_client_cert(peer: Identity, digest: str, own: str | None) -> bytes:
    """An element of X-Forwarded-Client-Cert as Envoy writes it: ``By=...;Hash=...;URI=...;DNS=...``.

    ``digest`` is the certificate's SHA-256 in lower-case hex, ``own`` the identity of this side.
    """
    pairs = [("By", own)] if own else []
    pairs.append(("Hash", digest))
    pairs += [("URI", uri) for uri in peer.uris if _PLAIN.fullmatch(uri)]
    pairs += [("DNS", name) for name in peer.dns]
    return ";".join(f"{key}={_quoted(value)}" for key, value in pairs).encode("ascii")


def _quoted(value: str) -> str:
    if not any(special in value for special in ',;="\\'):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
