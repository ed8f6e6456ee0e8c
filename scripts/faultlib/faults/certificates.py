from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from scripts.faultlib.fault import Size, fault
from scripts.faultlib.load import PATIENCE
from scripts.faultlib.stage import Stage, eventually, listener, service
from tests.harness.authority import Authority, Leaf
from tests.harness.backends import Connection, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess, LogLine, sample
from tests.harness.tls import TlsServer, connect

_DAY = timedelta(days=1)
_ID = "spiffe://example.org/"
_SHOP = f"{_ID}shop"
_RIGHT = "nothing wrong"
_CLIENTS = {
    "no certificate": "no_certificate",
    "another authority": "unknown_ca",
    "expired": "expired",
    "not yet valid": "not_yet_valid",
    "revoked": "revoked",
    "another trust domain": "wrong_trust_domain",
    "another identity": "identity_denied",
    "no TLS": "plaintext_client",
}
"""What is wrong with a client, and the reason in the log."""

_ENDPOINTS = {
    "another authority": "unknown_ca",
    "expired": "expired",
    "not yet valid": "not_yet_valid",
    "revoked": "revoked",
    "another trust domain": "wrong_identity",
    "another identity": "wrong_identity",
    "no TLS": "not_tls",
    "does not accept us": "the peer does not accept us",
}
"""What is wrong with an endpoint, and what the log says of it."""

_REQUEST = b"GET %s HTTP/1.1\r\nHost: fault.test\r\nConnection: close\r\n\r\n"
_FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"


class _Made:
    """Our authority, another, and what they have made for whom."""

    def __init__(self, folder: Path) -> None:
        self.ours, self.others = Authority(), Authority("another")
        self._folder = folder
        self._revoked: list[Leaf] = []
        (folder / "ca.pem").write_bytes(self.ours.pem)

    def leaf(self, identity: str, wrong: str = _RIGHT) -> Leaf:
        """A certificate for ``identity``, but for what is wrong about it."""
        match wrong:
            case "another authority":
                return self.others.issue(identity)
            case "expired":
                return self.ours.issue(identity, starts=-3 * _DAY, ends=-_DAY)
            case "not yet valid":
                return self.ours.issue(identity, starts=_DAY, ends=2 * _DAY)
            case "another trust domain":
                return self.ours.issue(identity.replace("example.org", "example.com"))
            case "another identity":
                return self.ours.issue(f"{_ID}somebody-else")
        leaf = self.ours.issue(identity)
        if wrong == "revoked":
            self._revoked.append(leaf)
        return leaf

    def files(self, *, revocation: bool = True) -> dict[str, Any]:
        """What Charon shows and trusts. With ``revocation`` the list of what has been revoked so far is written."""
        cert, key = self.ours.issue(f"{_ID}charon", ends=3 * _DAY).write(self._folder, "charon")
        files = {"enabled": True, "cert_file": cert, "key_file": key, "ca_file": str(self._folder / "ca.pem")}
        if revocation:
            (self._folder / "crl.pem").write_bytes(self.ours.revoke(*self._revoked))
            files["crl_file"] = str(self._folder / "crl.pem")
        return files


@fault(
    "certificates",
    setup="A listener with mTLS for one identity, and services with TLS that must each have theirs; certificates and a "
    "revocation list of an authority of the fault's own.",
    wrong="Clients and endpoints whose certificate is of another authority, has expired, is not valid yet, is revoked, "
    "or is of another trust domain or identity; without one; without TLS; and a Charon whose clock is a day ahead "
    "(with libfaketime, where that is installed).",
    passes="1,000 times each: all are refused, for the reason that it is, and the log says so; nothing of a request "
    "gets through. Those who have nothing wrong about them get in.",
    short=Size(count=20),
    full=Size(count=1000),
)
def certificates(stage: Stage) -> None:
    made = _Made(stage.folder())
    _clients(stage, made)
    with ExitStack() as stack:
        _endpoints(stage, made, stack)
        _tomorrow(stage, made, stack)


def _clients(stage: Stage, made: _Made) -> None:
    leaves = {wrong: made.leaf(_SHOP, wrong) for wrong in (_RIGHT, *_CLIENTS)}
    backend = stage.backend()
    charon = stage.charon(_inbound(made.files(), backend.address), access_log=True)
    for wrong, leaf in leaves.items():
        shown = None if wrong in ("no certificate", "no TLS") else leaf
        ask = _plain if wrong == "no TLS" else lambda port, shown=shown: _secure(port, made, shown)
        answers = [ask(charon.port()) for _ in range(stage.size.count)]
        if wrong == _RIGHT:
            _let_in(stage, "client", answers)
        elif wrong == "another identity":  # is told by an answer
            _refused(stage, f"client: {wrong}", answers, charon, "http_request", reason=_CLIENTS[wrong], status=403)
        else:
            _refused(stage, f"client: {wrong}", answers, charon, "tls_handshake_failed", reason=_CLIENTS[wrong])
            counted = _handshakes(charon, _CLIENTS[wrong], stage.size.count)
            stage.check(f"client: {wrong}, counted", counted, str(stage.size.count), counted == stage.size.count)
    seen = len(backend.tell()["requests"])
    stage.check("requests that got through", seen, f"{stage.size.count}, of the good", seen == stage.size.count)


def _endpoints(stage: Stage, made: _Made, stack: ExitStack) -> None:
    def serve(wrong: str, **how: Any) -> str:
        server = TlsServer(made.leaf(_ID + _name(wrong), wrong), reply=http_response(200), **how)
        return stack.enter_context(server).address

    plain = stack.enter_context(ScriptedBackend(_complain))
    addresses = {wrong: serve(wrong) for wrong in (_RIGHT, *_ENDPOINTS)}
    addresses |= {"no TLS": plain.address, "does not accept us": serve("does not accept us", clients_of=made.others)}
    charon = stage.charon(_outbound(made.files(), addresses))
    for wrong in addresses:
        answers = [_ask(charon.port("web"), f"/{_name(wrong)}") for _ in range(stage.size.count)]
        if wrong == _RIGHT:
            _let_in(stage, "endpoint", answers)
        else:
            says = _ENDPOINTS[wrong]
            _refused(stage, f"endpoint: {wrong}", answers, charon, "upstream_error", says, service=_name(wrong))
    seen = plain.received().count(b"Host: fault.test")
    stage.check("requests seen by one without TLS", seen, "0", seen == 0)


def _tomorrow(stage: Stage, made: _Made, stack: ExitStack) -> None:
    """A day later a certificate of a day has expired, on both sides. (So has the list: there is none.)"""
    found = sorted(Path("/").glob(_FAKETIME.lstrip("/")))
    if not found:
        stage.tell("a clock that is a day ahead", "not played: libfaketime is not installed")
        return
    server = stack.enter_context(TlsServer(made.leaf(f"{_ID}api"), reply=http_response(200)))
    files = made.files(revocation=False)
    backend = stage.backend()
    inbound, outbound = _inbound(files, backend.address), _outbound(files, {"api": server.address})
    config = {**outbound, "services": inbound["services"] | outbound["services"]}
    config["listeners"] = inbound["listeners"] + [{**outbound["listeners"][0], "name": "out"}]
    # Only the time of day: a monotonic clock that differs from the kernel's would be another fault.
    moved = ("env", f"LD_PRELOAD={found[0]}", "FAKETIME=+1d", "DONT_FAKE_MONOTONIC=1")
    charon = stage.charon(config, prefix=moved)
    leaf = made.leaf(_SHOP)
    answers = [_secure(charon.port("web"), made, leaf) for _ in range(stage.size.count)]
    _refused(stage, "clock a day ahead: client", answers, charon, "tls_handshake_failed", reason="expired")
    answers = [_ask(charon.port("out"), "/api") for _ in range(stage.size.count)]
    _refused(stage, "clock a day ahead: endpoint", answers, charon, "upstream_error", _ENDPOINTS["expired"])


def _inbound(files: dict[str, Any], app: str) -> dict[str, Any]:
    tls = {**files, "trust_domain": "example.org", "allowed_identities": [_SHOP]}
    return {"services": service("app", app), "listeners": [listener("app", tls=tls)]}


def _outbound(files: dict[str, Any], addresses: Mapping[str, str]) -> dict[str, Any]:
    services: dict[str, Any] = {}
    for wrong, address in addresses.items():
        services |= service(_name(wrong), address, tls={**files, "identities": [_ID + _name(wrong)]})
    routes = [{"path_prefix": f"/{name}", "service": name} for name in services]
    web = {"name": "web", "address": "127.0.0.1:0", "routes": routes}
    return {"services": services, "listeners": [web], "retry": {"attempts": 0}}


def _complain(connection: Connection) -> None:
    """As a server does that speaks HTTP without TLS."""
    connection.recv()
    connection.send(http_response(400))


def _name(wrong: str) -> str:
    return wrong.lower().replace(" ", "-")


def _secure(port: int, made: _Made, leaf: Leaf | None) -> str:
    """What a client gets that shows ``leaf``: the status, or ``ended``."""
    try:
        with connect(port, made.ours.pem, leaf) as connection:
            return _exchange(connection, "/")
    except OSError:
        return "ended"


def _plain(port: int) -> str:
    return _ask(port, "/")


def _ask(port: int, path: str) -> str:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        return _exchange(connection, path)


def _exchange(connection: socket.socket, path: str) -> str:
    connection.sendall(_REQUEST % path.encode())
    head = connection.recv(65_536)
    return head.split(b" ", 2)[1].decode() if head else "ended"


def _let_in(stage: Stage, who: str, answers: Sequence[str]) -> None:
    count = answers.count("200")
    stage.check(f"{who}: {_RIGHT}", f"{count} of {len(answers)} let in", "all", count == len(answers))


def _refused(
    stage: Stage, title: str, answers: Sequence[str], charon: CharonProcess, event: str, says: str = "", **fields: Any
) -> None:
    """``says`` must be in the error that the log tells, and it must have ``fields``."""

    def told() -> list[LogLine]:
        lines = [line for line in charon.log_lines(event) if fields.items() <= line.items()]
        return [line for line in lines if says in line.get("error", "")]

    lines = eventually(told, bool, 5)
    refused = sum(answer in ("ended", "400", "403", "502") for answer in answers)
    word = says or fields["reason"]
    value = f"{refused} of {len(answers)} refused, {'told' if lines else 'not told'}: {word}"
    stage.check(title, value, "all, told", refused == len(answers) and bool(lines))


def _handshakes(charon: CharonProcess, result: str, wanted: int) -> int:
    def look() -> int:
        return int(sample(charon.metrics(), "charon_tls_handshakes_total", listener="web", result=result))

    return eventually(look, lambda found: found == wanted, 5)
