"""One material over time: made when it is missing, renewed when it gets old, loaded when its files change."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from charon.base.addresses import host_problem
from charon.base.errors import CertificateError
from charon.base.identities import trust_domain_of
from charon.config.certificates import CA_CERT, CA_KEY, IssuePlan, MaterialSource
from charon.identity import authority
from charon.identity.authority import Authority, Wish
from charon.identity.files import ExposedKey, locked, make_folder, write_pair
from charon.identity.keys import new_key, pem_of
from charon.identity.material import Loaded, load_material
from charon.identity.renewal import why_issue
from charon.identity.spiffe import issued_by, parse_certificates

LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Refreshed:
    """``loaded`` is what is in force now. ``issued`` says why a certificate was issued for it, None when none was;
    ``renewed``: one was there before. ``new_authority``: the authority itself was made. ``renewable``: its key is at
    hand, so that what gets old can be issued anew."""

    loaded: Loaded
    issued: str | None = None
    renewed: bool = False
    new_authority: bool = False
    renewable: bool = False


def refresh(source: MaterialSource, now: float, *, force: bool = False) -> Refreshed:
    """Issue what has to be issued, with ``force`` in any case, and load what there is. Raises CertificateError."""
    plan = source.plan
    if plan is None or source.cert_file is None or source.key_file is None:
        return Refreshed(load_material(source, now))
    key_file, ca_file = Path(plan.folder, CA_KEY), Path(plan.folder, CA_CERT)
    if not key_file.exists() and (ca_file.exists() or not plan.make_authority):
        return Refreshed(load_given(source, plan, now))
    if key_file.exists() and ca_file.exists() and not force:
        # Nearly always there is nothing to do, and nothing to be written. (Whoever makes an authority writes its key
        # first: where that alone is there, somebody is at it, and holds the lock.)
        found = authority.load(plan.folder)
        judged = None if found is None else _judge(found, source, plan, now)
        if judged is not None and judged[1] is None:
            return Refreshed(judged[0], renewable=True)
    make_folder(plan.folder)
    with locked(plan.folder):
        made = not key_file.exists() and not ca_file.exists()
        if made:
            authority.create(plan.folder, trust_domain_of(plan.identity), now)
        found = authority.load(plan.folder)
        if found is None:
            return Refreshed(load_given(source, plan, now))
        existing, reason, there = _judge(found, source, plan, now)
        if reason is None and not force:
            return Refreshed(existing, renewable=True)
        issue(found, plan, source.cert_file, source.key_file, now)
        return Refreshed(load_material(source, now), reason or "it was asked for", there, made, renewable=True)


def _judge(found: Authority, source: MaterialSource, plan: IssuePlan, now: float) -> tuple[Loaded, str | None, bool]:
    """What is there, why it is to be issued anew (None: it is good), and whether there is anything. Raises
    CertificateError."""
    existing, trouble = _existing(source, now)
    existing = replace(existing, issued_here=_is_of(found, existing))
    return existing, trouble or why_issue(plan, existing, now), existing.leaf is not None or trouble is not None


def issue(found: Authority, plan: IssuePlan, cert_file: str, key_file: str, now: float) -> None:
    """Write a new certificate with a new key. Raises CertificateError."""
    key = new_key(plan.key_type)
    wish = Wish(plan.identity, names_for(plan), plan.lifetime)
    cert = found.issue(key.public_key(), wish, now)
    write_pair(cert_file, found.chain(cert), key_file, pem_of(key))


def names_for(plan: IssuePlan) -> tuple[str, ...]:
    """The DNS names and IP addresses of a certificate: those that are wanted, the service's, and this machine's."""
    names: list[str] = [*plan.dns_names]
    if plan.local_names:
        names += [plan.identity.rpartition("/")[2], *local_names()]
    return tuple(dict.fromkeys(name for name in names if ":" in name or host_problem(name.removeprefix("*.")) is None))


def local_names() -> Sequence[str]:
    """The names by which programs on this machine reach it, and its own."""
    return (*LOCAL_NAMES, socket.gethostname())


def _is_of(found: Authority, loaded: Loaded) -> bool:
    """Is the certificate of the authority, or of one that it has taken over from?"""
    if loaded.leaf is None:
        return False
    leaf = parse_certificates(loaded.material.chain, "")[0]
    return any(issued_by(leaf, root) for root in found.roots)


def _existing(source: MaterialSource, now: float) -> tuple[Loaded, str | None]:
    """What is there; where the certificate and its key are of no use, without them, and why. A key that others may read
    is not replaced in silence: that raises."""
    assert source.cert_file is not None and source.key_file is not None
    bare = replace(source, cert_file=None, key_file=None)
    if not Path(source.cert_file).exists() and not Path(source.key_file).exists():
        return load_material(bare, now), None
    if not Path(source.cert_file).exists() or not Path(source.key_file).exists():
        return load_material(bare, now), "only one of certificate and key is there"
    try:
        return load_material(source, now), None
    except ExposedKey:
        raise
    except CertificateError as error:
        return load_material(bare, now), f"it could not be used: {error}"


def load_given(source: MaterialSource, plan: IssuePlan, now: float) -> Loaded:
    """What is there, where nothing can be issued. Raises CertificateError when there is nothing."""
    used = source
    if source.cert_file is not None and not Path(source.cert_file).exists():
        if plan.spare is not None and Path(plan.spare[0]).exists():
            used = replace(source, cert_file=plan.spare[0], key_file=plan.spare[1])
        else:
            raise CertificateError(
                f"{source.cert_file}: there is no such file, and no {CA_KEY} in {plan.folder} to issue it with; make "
                "it where the authority is with charon certs issue, or here with charon certs request"
            )
    loaded = load_material(used, now)
    warnings = list(loaded.warnings)
    if used == source and loaded.leaf is not None and loaded.leaf.identity != plan.identity:
        has = loaded.leaf.identity or "no SPIFFE identity"
        warnings.append(f"{source.cert_file}: the certificate has {has}, the configuration wants {plan.identity}")
    if source.ca_file == str(Path(plan.folder, CA_CERT)) and not loaded.issued_here:
        warnings.append(f"{used.cert_file}: the certificate is of none of the authorities in {source.ca_file}")
    return replace(loaded, warnings=tuple(warnings))
