"""``charon certs init``, ``issue``, ``request``, ``sign`` and ``rotate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from charon.base.clock import SystemClock
from charon.base.errors import CertificateError
from charon.base.identities import (
    DEFAULT_TRUST_DOMAIN,
    identity_problem,
    service_problem,
    spiffe_id,
    trust_domain_of,
)
from charon.base.units import in_words
from charon.cli.main import OK
from charon.config.certificates import CA_CERT, CA_KEY, SERVER_CERT, SERVER_KEY, IssuePlan
from charon.identity import authority, rollover
from charon.identity.authority import Authority, Wish, new_request, parse_request, requested
from charon.identity.certificates import names_for
from charon.identity.files import locked, make_folder, read, read_key, write
from charon.identity.folder import pairs_of, renew_pair, write_pairs
from charon.identity.keys import new_key, parse_key, pem_of
from charon.identity.rollover import authority_in
from charon.identity.spiffe import Facts, facts_of

REQUEST = "request.pem"


def init(args: argparse.Namespace) -> int:
    """Make an authority."""
    made = authority.create(
        args.dir, args.trust_domain or DEFAULT_TRUST_DOMAIN, _now(), years=args.years, kind=args.key_type
    )
    print(f"made the authority of {made.trust_domain}: {args.dir}/{CA_CERT}, valid for {args.years} years")
    print(f"its key, {args.dir}/{CA_KEY}, stays on this machine")
    return OK


def issue(args: argparse.Namespace) -> int:
    """Issue the certificates of a service."""
    found = authority_in(args.dir)
    identity = _identity(args.name, found.trust_domain)
    out = args.out or str(Path(args.dir, args.name.replace("/", "-")))
    names = (*args.dns, *args.ip, *_own_name(identity))
    plan = IssuePlan(args.dir, identity, names, local_names=False, lifetime=args.lifetime, key_type=args.key_type)
    write_pairs(found, out, plan, _now())
    print(f"issued {identity} for {in_words(args.lifetime)} into {out}, which serves as tls.cert_dir")
    return OK


def request(args: argparse.Namespace) -> int:
    """Make a key, unless there is one, and a signing request."""
    make_folder(args.dir)
    identity = _identity(args.name, args.trust_domain)
    key_file, request_file = Path(args.dir, SERVER_KEY), Path(args.dir, REQUEST)
    if args.new_key and Path(args.dir, SERVER_CERT).exists():
        # The certificate in use would be left without its key until the new one is signed.
        raise CertificateError(f"{key_file}: belongs to {SERVER_CERT}; make the new key in another folder (--dir)")
    if key_file.exists() and not args.new_key:
        key = parse_key(read_key(key_file), str(key_file))
    else:
        key = new_key(args.key_type)
        write(key_file, pem_of(key), 0o600)
    plan = IssuePlan(args.dir, identity, (*args.dns, *args.ip))
    write(request_file, new_request(key, identity, names_for(plan)), 0o644)
    print(f"made a signing request for {identity}: {request_file}")
    print(f"where the authority is: charon certs sign {REQUEST} --service {args.name}")
    print(f"then put the certificate here as {Path(args.dir, SERVER_CERT)}, and the authority's {CA_CERT} beside it")
    return OK


def sign(args: argparse.Namespace) -> int:
    """Issue what a signing request asks for."""
    found = authority_in(args.dir)
    asked = parse_request(read(args.request), args.request)
    uris, names = requested(asked)
    if len(uris) != 1 or identity_problem(uris[0]) is not None:
        raise CertificateError(f"{args.request}: the request has no SPIFFE identity, or more than one")
    identity = uris[0]
    if args.service is not None and identity != _identity(args.service, found.trust_domain):
        raise CertificateError(f"{args.request}: the request is for {identity}, not for {args.service}")
    cert = found.issue(asked.public_key(), Wish(identity, names, args.lifetime), _now())
    out = args.out or str(Path(args.request).with_name(Path(args.request).stem + "-cert.pem"))
    write(out, found.chain(cert), 0o644)
    print(f"signed {identity} for {', '.join(names) or 'no host name'}, valid for {in_words(args.lifetime)}: {out}")
    return OK


def rotate(args: argparse.Namespace) -> int:
    """Renew the certificates now, or take one step towards another root."""
    steps = {"prepare": _prepare, "activate": _activate, "retire": _retire}
    if args.root is not None:
        steps[args.root](args.dir)
        return OK
    found = authority_in(args.dir)
    pairs = pairs_of(args.dir)
    if not pairs:
        raise CertificateError(f"{args.dir}: there is no certificate to renew; charon certs issue makes them")
    with locked(args.dir):
        for source in pairs:
            leaf = renew_pair(found, source, _now()).leaf
            assert leaf is not None
            print(f"renewed {source.cert_file}: {leaf.identity}, valid for {in_words(leaf.not_after - _now())}")
    return OK


def _prepare(folder: str) -> None:
    found = rollover.prepare(folder, _now())
    print(f"the next root is trusted beside {_name(found)}, which goes on issuing")
    print(f"now bring {folder}/{CA_CERT} to every machine, then: charon certs rotate --root activate")


def _activate(folder: str) -> None:
    found = rollover.activate(folder)
    print(f"{_name(found)} issues from now on; certificates of the old root stay good")
    print("now renew all certificates (charon certs rotate, issue, sign), then: charon certs rotate --root retire")


def _retire(folder: str) -> None:
    found = rollover.retire(folder, _now())
    print(f"only {_name(found)} is trusted; bring {folder}/{CA_CERT} to every machine")


def _name(found: Authority) -> str:
    facts: Facts = facts_of(found.cert)
    return f"root {facts.serial:x}"[:21]


def _identity(name: str, trust_domain: str | None) -> str:
    """The identity of a service that is named, or given as a whole. Raises CertificateError."""
    domain = trust_domain or DEFAULT_TRUST_DOMAIN
    if name.startswith("spiffe://"):
        problem = identity_problem(name)
        if problem is None and trust_domain is not None and trust_domain_of(name) != trust_domain:
            problem = f"{name} is not of the trust domain {trust_domain}"
    else:
        problem = service_problem(name)
    if problem is not None:
        raise CertificateError(problem)
    return name if name.startswith("spiffe://") else spiffe_id(domain, name)


def _own_name(identity: str) -> tuple[str, ...]:
    """The service's name as a host name, where it can be one."""
    from charon.base.addresses import host_problem

    last = identity.rpartition("/")[2]
    return (last,) if host_problem(last) is None else ()


def _now() -> float:
    return SystemClock().wall()
