from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Callable
from time import monotonic

from scripts.faultlib.fault import Size, fault
from scripts.faultlib.stage import Stage, eventually, pause
from tests.harness.backends import ScriptedBackend, answering, http_response
from tests.harness.charon import CharonProcess
from tests.harness.namespaces import Host, available, two_hosts

_HOLD = 3.0
_EVERY = 0.02
_MARGIN = 1.0


class Probe:
    """Two connections after the other for ever, out of host ``a`` and into it; how long neither got an answer."""

    def __init__(self, a: Host, b: Host) -> None:
        self._ends = ((a, b, 80), (b, a, 9000))
        self._stop = threading.Event()
        self.longest = 0.0
        self.tried = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        since: dict[int, float] = {}
        while not self._stop.wait(_EVERY):
            for source, target, port in self._ends:
                self.tried += 1
                if reached(source, target, port):
                    since.pop(port, None)
                else:
                    self.longest = max(self.longest, monotonic() - since.setdefault(port, monotonic()))


def reached(source: Host, target: Host, port: int) -> bool:
    """Whether ``source`` gets an answer, having passed through at most one Charon."""
    with source.inside():
        sock = socket.socket()
    with sock:
        sock.settimeout(5)
        try:
            sock.connect((target.ip, port))
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            return sock.recv(65_536).startswith(b"HTTP/1.1 200 ")
        except OSError:
            return False


@fault(
    "interception",
    setup="Two hosts (network namespaces) and Charon on one of them, which takes all that goes out of it and what "
    f"comes to one port; new connections both ways every {_EVERY * 1000:g} ms.",
    wrong="In turn: a second start, all rules of the host flushed, the supervisor killed (-9), all of Charon killed, "
    "an orderly stop and start.",
    passes="No connection fails for longer than the rules hold without a sign of life, and none at all but when "
    "Charon is killed or the rules are flushed; each passes through Charon once; in the end no rule is left.",
    short=Size(count=2),
    full=Size(count=20),
)
def interception(stage: Stage) -> None:
    if not available:
        raise RuntimeError("network namespaces take root and iproute2")
    a, b = stage.enter(two_hosts())
    servers: list[ScriptedBackend] = []
    for host, port in ((b, 80), (a, 9000)):
        with host.inside():
            answer = answering(http_response(200, b"here"))
            servers.append(stage.enter(ScriptedBackend(answer, host=host.ip, port=port)))
    outages: dict[str, float] = {}
    hops: set[int] = set()
    charon = _start(stage, a)
    for _ in range(stage.size.count):
        for name, what in _TROUBLES.items():
            probe = Probe(a, b)
            try:
                charon = what(stage, a, charon)
                eventually(lambda: reached(a, b, 80) and reached(b, a, 9000), bool, 4 * _HOLD)
                pause(0.5)
            finally:
                probe.end()
            outages[name] = max(outages.get(name, 0.0), probe.longest)
        for server in servers:
            hops |= {count for connection in server.connections for count in _hops(connection.received)}
            server.connections.clear()
    charon.stop()
    for name, seconds in outages.items():
        allowed = _HOLD + _MARGIN if "kill" in name or "flush" in name else 0.0
        stage.check(f"longest outage, {name}", f"{seconds:.2f} s", f"<= {allowed:g} s", seconds <= allowed)
    stage.check("times through Charon", sorted(hops), "at most 1", max(hops) <= 1)
    left = a.rules().strip()
    stage.check("rules in the end", left or "none", "none", not left)


def _hops(requests: bytes) -> set[int]:
    """How many proxies the requests have passed through, by their Via."""
    fields = [re.findall(rb"\r\nVia: ([^\r]*)", request) for request in requests.split(b"\r\n\r\n")[:-1]]
    return {sum(field.count(b",") + 1 for field in lines) for lines in fields}


def _start(stage: Stage, host: Host) -> CharonProcess:
    intercept = {
        "enabled": True,
        "hold": f"{_HOLD:g}s",
        "outbound": {"listener": "out"},
        "inbound": {"listener": "in", "ports": [9000]},
    }
    common = {"protocol": "auto", "original_destination": True}
    listeners = [
        {"name": "out", "address": ":15001", **common},
        {"name": "in", "address": ":15006", **common},
    ]
    return stage.charon({"listeners": listeners, "intercept": intercept}, prefix=host.prefix)


def _second_start(stage: Stage, host: Host, charon: CharonProcess) -> CharonProcess:
    try:
        _start(stage, host)
    except AssertionError:
        return charon  # the ports are taken
    raise RuntimeError("a second one has started")


def _flush(stage: Stage, host: Host, charon: CharonProcess) -> CharonProcess:
    seen = len(charon.log_lines("intercept_restored"))
    host.nft("flush ruleset")
    charon.wait_for_events("intercept_restored", seen + 1)
    return charon


def _kill_supervisor(stage: Stage, host: Host, charon: CharonProcess) -> CharonProcess:
    assert charon.pid is not None
    os.kill(charon.pid, signal.SIGKILL)
    charon.wait()
    pause(_HOLD + _MARGIN)
    return _start(stage, host)


def _kill_all(stage: Stage, host: Host, charon: CharonProcess) -> CharonProcess:
    assert charon.pid is not None
    for pid in (charon.pid, *charon.worker_pids()):
        os.kill(pid, signal.SIGKILL)
    charon.wait()
    pause(_HOLD + _MARGIN)
    return _start(stage, host)


def _stop_and_start(stage: Stage, host: Host, charon: CharonProcess) -> CharonProcess:
    charon.stop()
    return _start(stage, host)


_TROUBLES: dict[str, Callable[[Stage, Host, CharonProcess], CharonProcess]] = {
    "second start": _second_start,
    "rules flushed": _flush,
    "supervisor killed": _kill_supervisor,
    "all killed": _kill_all,
    "stop and start": _stop_and_start,
}
