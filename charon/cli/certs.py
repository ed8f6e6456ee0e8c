"""``charon certs``: the authority, the certificates it issues, and what peers show."""

from __future__ import annotations

import argparse
from typing import Any, Final

MODULES: Final = {
    "init": "certs_authority",
    "issue": "certs_authority",
    "request": "certs_authority",
    "sign": "certs_authority",
    "rotate": "certs_authority",
    "show": "certs_show",
    "verify": "certs_verify",
}
"""The module of each command, which has a function of the command's name."""


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "certs",
        help="certificates: make, sign, show, renew and check them",
        description="The authority, the certificates it issues, and what peers show. See docs/certificates.md.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="certs_command", metavar="COMMAND", title="commands", required=True)
    init = _add(commands, "init", "make an authority: a root certificate and its key")
    _trust_domain(init)
    init.add_argument("--years", type=_years, default=10, metavar="N", help="how long the root is valid (default: 10)")
    _key_type(init)

    issue = _add(commands, "issue", "issue the certificates of a service, where the authority is")
    issue.add_argument("name", metavar="NAME", help="the service, the last part of its identity")
    issue.add_argument("--out", metavar="DIR", help="folder to put them into (default: NAME in the authority's folder)")
    _names(issue)
    _lifetime(issue)
    _key_type(issue)

    request = _add(commands, "request", "make a key and a signing request, where the service is")
    request.add_argument("name", metavar="NAME", help="the service, the last part of its identity")
    _trust_domain(request)
    _names(request)
    _key_type(request)
    request.add_argument("--new-key", action="store_true", help="replace the key that is there")

    sign = _add(commands, "sign", "issue the certificate that a signing request asks for, where the authority is")
    sign.add_argument("request", metavar="REQUEST", help="file of the signing request")
    sign.add_argument("--out", metavar="FILE", help="file for the certificate (default: beside the request)")
    sign.add_argument("--service", metavar="NAME", help="sign only if the request is for this service")
    _lifetime(sign)

    show = _add(commands, "show", "show certificates: whose, by whom, for how long")
    show.add_argument("files", nargs="*", metavar="FILE", help="files or folders (default: the folder of --dir)")

    verify = _add(commands, "verify", "connect and say what the peer shows, and whether it would be accepted")
    verify.add_argument("peer", metavar="HOST:PORT")
    verify.add_argument("--identity", action="append", default=[], metavar="ID", help="identity that it must have")
    verify.add_argument("--server-name", metavar="NAME", help="host name that is asked for, and must be in it")
    verify.add_argument("--system-roots", action="store_true", help="trust the public authorities of this machine")
    verify.add_argument("--timeout", type=_duration, default=5.0, metavar="TIME", help="to connect (default: 5s)")

    rotate = _add(commands, "rotate", "renew the certificates in the folder now, or bring in another root")
    rotate.add_argument(
        "--root",
        choices=("prepare", "activate", "retire"),
        help="bring in another root: make it and trust it too, have it issue, trust the old one no more",
    )


def run(args: argparse.Namespace) -> int:
    """0 when it is done, 1 when something is wrong. Raises CertificateError, StartError."""
    import importlib

    module = importlib.import_module(f"charon.cli.{MODULES[args.certs_command]}")
    code: int = getattr(module, args.certs_command)(args)
    return code


def _add(commands: Any, name: str, text: str) -> Any:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    parser.add_argument("--dir", default="certs", metavar="DIR", help="folder of the certificates (default: ./certs)")
    return parser


def _trust_domain(parser: Any) -> None:
    parser.add_argument(
        "--trust-domain", type=_domain, metavar="DOMAIN", help="domain of the identities (default: charon.local)"
    )


def _names(parser: Any) -> None:
    parser.add_argument("--dns", action="append", default=[], type=_host, metavar="NAME", help="further host name")
    parser.add_argument("--ip", action="append", default=[], type=_address, metavar="IP", help="further IP address")


def _lifetime(parser: Any) -> None:
    parser.add_argument(
        "--lifetime",
        type=_duration,
        default=90 * 86_400.0,
        metavar="TIME",
        help="how long it is valid, such as 24h or 90d (default: 90d, as nothing renews it by itself)",
    )


def _key_type(parser: Any) -> None:
    parser.add_argument(
        "--key-type",
        choices=("ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072", "rsa-4096"),
        default="ecdsa-p256",
        help="kind of key (default: ecdsa-p256)",
    )


def _years(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError("a whole number from 1 to 100 is expected")
    return int(text)


def _duration(text: str) -> float:
    from charon.base.units import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if seconds < 1:
        raise argparse.ArgumentTypeError("at least 1s is expected")
    return seconds


def _domain(text: str) -> str:
    from charon.base.identities import trust_domain_problem

    return _unless(trust_domain_problem(text), text)


def _host(text: str) -> str:
    from charon.base.addresses import host_problem

    return _unless(host_problem(text.removeprefix("*.")), text.lower())


def _address(text: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _unless(problem: str | None, text: str) -> str:
    if problem is not None:
        raise argparse.ArgumentTypeError(problem)
    return text
