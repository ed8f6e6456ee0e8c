"""SPIFFE identities as text (SPIFFE-ID, sections 2 and 3): ``spiffe://TRUST_DOMAIN/PATH``, and patterns of them.

Each ``..._problem`` function answers with what is wrong, for the user, or None.
"""

from __future__ import annotations

import re
from typing import Final

from charon.base.units import quoted

DEFAULT_TRUST_DOMAIN: Final = "charon.local"
"""Trust domain of an authority that Charon makes itself, where none is given."""

DEFAULT_SERVICE: Final = "charon"
"""Service in the identity of a certificate that is for no service in particular."""

MAX_LENGTH: Final = 2048
"""Bytes of an identity (SPIFFE-ID, section 2.3)."""

_SCHEME: Final = "spiffe://"
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_PATTERN = re.compile(r"[A-Za-z0-9._/*-]*", re.ASCII)


def spiffe_id(trust_domain: str, service: str) -> str:
    """The identity of ``service`` in ``trust_domain``; neither is checked."""
    return f"{_SCHEME}{trust_domain}/{service}"


def trust_domain_of(identity: str) -> str:
    """The trust domain of an identity, empty when it is none."""
    return identity.removeprefix(_SCHEME).partition("/")[0] if identity.startswith(_SCHEME) else ""


def trust_domain_problem(text: str) -> str | None:
    if _TRUST_DOMAIN.fullmatch(text):
        return None
    return f"{quoted(text)} is not a trust domain; it has lower-case letters, digits, '.', '-' and '_', as example.org"


def service_problem(text: str) -> str | None:
    """Why ``text`` cannot be the path of an identity, without its first slash."""
    segments = text.split("/")
    if all(_SEGMENT.fullmatch(segment) and segment not in (".", "..") for segment in segments) and len(text) <= 1024:
        return None
    allowed = "letters, digits, '.', '-' and '_', in segments divided by '/'"
    return f"{quoted(text)} cannot be the name in an identity; it has {allowed}"


def identity_problem(text: str) -> str | None:
    """Why ``text`` is not the identity of a service; None when it is."""
    domain, slash, path = text.removeprefix(_SCHEME).partition("/")
    good = text.startswith(_SCHEME) and slash and len(text) <= MAX_LENGTH
    if good and trust_domain_problem(domain) is None and service_problem(path) is None:
        return None
    return f"{quoted(text)} is not an identity; write it as spiffe://example.org/NAME"


def pattern_problem(text: str) -> str | None:
    """Why ``text`` is neither an identity nor a pattern of identities, in which ``*`` is any run of characters."""
    if text == "*" or identity_problem(text) is None:
        return None
    rest = text.removeprefix(_SCHEME)
    if "*" in text and text.startswith(_SCHEME) and rest and len(text) <= MAX_LENGTH and _PATTERN.fullmatch(rest):
        return None
    return f"{quoted(text)} is not an identity; write it as spiffe://example.org/NAME, with * for any characters"
