"""``charon certs verify``: what a peer shows, and whether it would be accepted."""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from charon.base.addresses import Address, parse_address
from charon.base.clock import SystemClock
from charon.base.errors import CertificateError, StartError
from charon.base.identities import identity_problem
from charon.base.units import format_duration
from charon.cli.certs_show import rows_of
from charon.cli.main import OK, WRONG
from charon.cli.terminal import Cell, columns, style_for
from charon.config.certificates import CA_CERT, CLIENT_CERT, MaterialSource
from charon.identity.files import read
from charon.identity.folder import pairs_of
from charon.identity.keys import kind_of
from charon.identity.material import load_material
from charon.identity.spiffe import Facts, facts_of

LAST_WORD = 0.5
"""Seconds after the handshake in which a peer can still refuse our certificate (TLS 1.3 tells no sooner)."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What came of one handshake: the peer's certificate and how the connection is protected, or why there is none."""

    cert: x509.Certificate | None
    protection: str
    problem: str | None


def verify(args: argparse.Namespace) -> int:
    """0 when the peer would be accepted, 1 when not. Raises StartError when there is no connection."""
    for identity in args.identity:
        if identity_problem(identity) is not None:
            raise CertificateError(identity_problem(identity) or "")
    try:
        address = parse_address(args.peer)
    except ValueError as error:
        raise CertificateError(str(error)) from None
    style = style_for(sys.stdout, os.environ)
    now = SystemClock().wall()
    own = _own_certificate(args.dir)
    name = args.server_name or address.host
    looked = _handshake(address, name, _context(args, own, checked=False), args.timeout, last_word=True)
    rows: list[tuple[str, Cell]] = [("peer", Cell(str(address)))]
    reasons: list[str] = []
    if looked.cert is None:
        reasons.append(looked.problem or "it shows no certificate")
    else:
        facts = facts_of(looked.cert)
        rows.append(("protection", Cell(looked.protection)))
        rows += rows_of(facts, kind_of(looked.cert.public_key()), "certificate", style, now)
        bundle = Path(args.dir, CA_CERT)
        if not bundle.exists() and not args.system_roots:
            reasons.append(f"there is nothing to trust: no {bundle}, and no --system-roots")
        checked = _handshake(address, name, _context(args, own, checked=True), args.timeout)
        if checked.cert is None and checked.problem is not None:
            reasons.append(checked.problem)
        reasons += _wrong_peer(args, facts, name)
        shown = "none" if own is None else _identity(own, now)
        rows.append(("shown to it", Cell(shown)))
        if looked.problem is not None:
            reasons.append(looked.problem)
    verdict = Cell("refused", style.red) if reasons else Cell("accepted", style.green)
    print(*columns([*rows, ("verdict", verdict)]), sep="\n")
    for reason in dict.fromkeys(reasons):
        print(style.red(f"  {reason}"))
    return WRONG if reasons else OK


def _own_certificate(folder: str) -> MaterialSource | None:
    pairs = pairs_of(folder)
    clients = [source for source in pairs if Path(source.cert_file or "").name == CLIENT_CERT]
    return next(iter(clients or pairs), None)


def _identity(source: MaterialSource, now: float) -> str:
    leaf = load_material(source, now).leaf
    return "none" if leaf is None else leaf.identity or leaf.subject


def _context(args: argparse.Namespace, own: MaterialSource | None, *, checked: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if checked:
        if args.system_roots:
            context.load_default_certs()
        bundle = Path(args.dir, CA_CERT)
        if bundle.exists():
            context.load_verify_locations(cadata=read(bundle).decode("ascii", "replace"))
    else:
        context.verify_mode = ssl.CERT_NONE
    if own is not None and own.cert_file is not None:
        context.load_cert_chain(own.cert_file, own.key_file)
    return context


def _handshake(
    address: Address, name: str, context: ssl.SSLContext, timeout: float, *, last_word: bool = False
) -> Shown:
    """One connection; with ``last_word`` the peer has time to refuse us. Raises StartError when there is none."""
    try:
        if address.is_unix:
            raise StartError("only host:port can be asked")
        plain = socket.create_connection((address.host, address.port), timeout)
    except OSError as error:
        raise StartError(f"cannot connect to {address}: {(error.strerror or str(error)).lower()}") from error
    with plain:
        try:
            secure = context.wrap_socket(plain, server_hostname=name)
        except TimeoutError:
            return Shown(None, "", f"no answer to the handshake within {format_duration(timeout)}")
        except ssl.SSLCertVerificationError as error:
            return Shown(None, "", f"its certificate is refused: {error.verify_message}")
        except OSError as error:
            return Shown(None, "", f"the handshake failed: {_why(error)}")
        with secure:
            der = secure.getpeercert(binary_form=True)
            cert = None if der is None else x509.load_der_x509_certificate(der)
            cipher = secure.cipher()
            return Shown(
                cert, f"{secure.version()}, {cipher[0] if cipher else ''}", _last_word(secure) if last_word else None
            )


def _last_word(secure: ssl.SSLSocket) -> str | None:
    secure.settimeout(LAST_WORD)
    try:
        secure.recv(1)
    except TimeoutError:
        return None
    except OSError as error:
        return f"it refuses what we show: {_why(error)}"
    return None


def _wrong_peer(args: argparse.Namespace, facts: Facts, name: str) -> list[str]:
    """Why the certificate is not of the peer that is meant."""
    if args.identity:
        if facts.identity in args.identity:
            return []
        return [f"its identity is {facts.identity or 'none'}, not {' or '.join(args.identity)}"]
    if args.server_name is None and facts.identity is not None:
        return []  # a peer of the mesh is known by its identity
    return [] if _is_for(facts, name) else [f"its certificate is not for {name}"]


def _is_for(facts: Facts, name: str) -> bool:
    parent = name.lower().partition(".")[2]
    return name.lower() in (own.lower() for own in facts.names) or (bool(parent) and f"*.{parent}" in facts.names)


def _why(error: OSError) -> str:
    reason = getattr(error, "reason", None) or error.strerror or str(error)
    return str(reason).lower().replace("_", " ")
