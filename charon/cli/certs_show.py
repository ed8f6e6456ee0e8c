"""``charon certs show``: certificates in words."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from charon.base.clock import SystemClock
from charon.base.errors import CertificateError
from charon.base.units import in_words
from charon.cli.main import OK, WRONG
from charon.cli.terminal import Cell, Style, columns, style_for
from charon.config.certificates import CA_CERT, CA_KEY, MaterialSource
from charon.identity.authority import load
from charon.identity.files import read
from charon.identity.folder import pairs_of
from charon.identity.keys import kind_of
from charon.identity.material import load_material
from charon.identity.renewal import expires_soon
from charon.identity.spiffe import Facts, facts_of, is_self_signed, issued_by, parse_certificates


def show(args: argparse.Namespace) -> int:
    """0 when all of them are good, 1 when one is not."""
    style = style_for(sys.stdout, os.environ)
    now = SystemClock().wall()
    problems: list[str] = []
    for number, path in enumerate(args.files or [args.dir]):
        if number:
            print()
        found = _folder(path, style, now) if Path(path).is_dir() else _file(path, style, now)
        problems += found
    for problem in problems:
        print(style.red(problem))
    return WRONG if problems else OK


def _folder(folder: str, style: Style, now: float) -> list[str]:
    bundle = Path(folder, CA_CERT)
    pairs = pairs_of(folder)
    if not bundle.exists() and not pairs:
        raise CertificateError(f"{folder}: there is neither an authority nor a certificate here")
    problems: list[str] = []
    if bundle.exists():
        problems += _file(str(bundle), style, now)
        problems += _authority(folder, style)
    for source in pairs:
        print()
        problems += _pair(source, style, now)
    return problems


def _authority(folder: str, style: Style) -> list[str]:
    try:
        found = load(folder)
    except CertificateError as error:
        return [str(error)]
    if found is None:
        line = f"{CA_KEY} is not here: certificates are issued elsewhere"
    else:
        line = f"{CA_KEY} is here: root {found.cert.serial_number:x} issues"
    print(f"  {line}")
    return []


def _pair(source: MaterialSource, style: Style, now: float) -> list[str]:
    assert source.cert_file is not None
    try:
        problems = _file(source.cert_file, style, now)
        loaded = load_material(source, now)
    except CertificateError as error:
        return [str(error)]
    if loaded.authorities and not loaded.issued_here:
        problems.append(f"{source.cert_file}: the certificate is of none of the authorities in {source.ca_file}")
    return problems + list(loaded.warnings)


def _file(path: str, style: Style, now: float) -> list[str]:
    """Every certificate of a file."""
    certs = parse_certificates(read(path), path)
    print(style.bold(path))
    problems = []
    for number, cert in enumerate(certs):
        facts = facts_of(cert)
        problem = facts.validity_problem(now)
        if problem is not None:
            problems.append(f"{path}: {problem}")
        if number:
            print()
        role = "root" if is_self_signed(cert) else "certificate" if number == 0 else "intermediate"
        if number and role == "intermediate" and not issued_by(certs[number - 1], cert):
            problems.append(f"{path}: the chain is broken: {certs[number - 1].subject.rfc4514_string()} is not of it")
        print(*columns(rows_of(facts, kind_of(cert.public_key()), role, style, now)), sep="\n")
    return problems


def rows_of(facts: Facts, key: str, role: str, style: Style, now: float) -> list[tuple[str, Cell]]:
    """One certificate, a row for each thing that people look for."""
    rows = [(role, Cell(facts.subject))]
    if facts.identity is not None:
        rows.append(("identity", Cell(facts.identity, style.bold)))
    if facts.names:
        rows.append(("names", Cell(", ".join(facts.names))))
    if role != "root":
        rows.append(("issuer", Cell(facts.issuer)))
    rows.append(("valid", validity(facts, style, now)))
    rows.append(("key", Cell(key)))
    rows.append(("serial", Cell(f"{facts.serial:x}")))
    return rows


def validity(facts: Facts, style: Style, now: float) -> Cell:
    """Until when, and how long that is from now."""
    until = datetime.fromtimestamp(facts.not_after, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    problem = facts.validity_problem(now)
    if problem is not None:
        return Cell(f"until {until}: {problem.removeprefix('the certificate ')}", style.red)
    mark = style.red if expires_soon(facts, now) else style.green
    return Cell(f"until {until}, {in_words(facts.not_after - now)} left", mark)
