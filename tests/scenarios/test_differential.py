"""The whole corpus through Charon, before nginx, a strict backend, and a recorder whose bytes are read in many manners.

No backend sees a request that its client did not send, nor one otherwise than Charon logged it. Every case has a client
address of its own, which Charon's log and ``X-Forwarded-For`` name: so each request that is seen has an owner.
"""

from __future__ import annotations

import shutil
import socket
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.charon import CharonProcess, LogLine
from tests.harness.readers import ReadingBackend, nginx_before
from tests.harness.readings import MANNERS, Manner, Seen, all_requests
from tests.harness.waiting import eventually
from tests.wire.test_cases import CASES, Case

REQUESTS = [case for case in CASES if case.kind == "requests"]
BEHIND = b"GET /behind HTTP/1.1\r\nHost: behind.example\r\nConnection: close\r\n\r\n"


def address(number: int) -> str:
    """The client of a case."""
    return f"127.1.{number // 200}.{number % 200 + 1}"


@pytest.fixture
def strict() -> Iterator[ReadingBackend]:
    with ReadingBackend() as backend:
        yield backend


def start(start_charon: StartCharon, upstream: str) -> CharonProcess:
    return start_charon(
        {
            "target_service_name": "app",
            "metrics": {"on_listeners": False},
            "retry": {"attempts": 0},
            "timeouts": {"client_fin": "50ms"},
            "listeners": [{"name": "web", "address": "127.0.0.1:0"}],
        },
        {"app": upstream},
    )


def play(charon: CharonProcess) -> dict[str, list[LogLine]]:
    """Send every case on a connection of its own, with another request behind it. What Charon logged, by client."""
    port = charon.port("web")
    for number, case in enumerate(REQUESTS):
        with socket.create_connection(("127.0.0.1", port), PATIENCE, source_address=(address(number), 0)) as sock:
            try:
                if "incomplete" in case.verdicts[-1]:
                    sock.sendall(case.data)
                    sock.shutdown(socket.SHUT_WR)
                else:
                    sock.sendall(case.data + BEHIND)
                while sock.recv(65_536):
                    pass
            except ConnectionError:
                pass  # refused before all of it was read
    charon.mark("web")
    lines = defaultdict(list)
    for line in charon.log_lines("http_request"):
        lines[line["client"]].append(line)
    return lines


def by_client(seen: list[Seen]) -> dict[str, list[Seen]]:
    found = defaultdict(list)
    for one in seen:
        found[one.get("x-forwarded-for")].append(one)
    return found


def expected(case: Case) -> list[dict[str, Any]] | None:
    """The requests that the client sent; None where the case is about limits that are not those of this Charon."""
    if case.limits != type(case.limits)():
        return None
    sent: list[dict[str, Any]] = [verdict["accept"] for verdict in case.verdicts if "accept" in verdict]
    last = case.verdicts[-1].get("accept")
    if last is not None and last.get("keep_alive", True):
        sent.append({"method": "GET", "target": "/behind", "host": "behind.example", "content": ""})
    return sent


def shown(target: str) -> str:
    """The path as far as a log line has it for sure."""
    return target.partition("?")[0][:900]


def compare(case: Case, lines: list[LogLine], seen: list[Seen]) -> None:
    """One client's requests: as it sent them, as Charon logged them, as a backend saw them."""
    good = [line for line in lines if line["status"] == 200]
    assert [(one.method, shown(one.target), len(one.body)) for one in seen] == [
        (line["method"], shown(line["path"]), line["bytes_in"]) for line in good
    ], f"{case}: seen otherwise than logged"
    sent = expected(case)
    if sent is None:
        return
    if len(seen) == len(sent) - 1 and sent[-1].get("target") == "/behind":
        sent.pop()  # the case's verdict does not say that its connection ends, as it does in HTTP/1.0
    assert len(seen) == len(sent), f"{case}: {len(sent)} were sent"
    for wanted, one in zip(sent, seen, strict=True):
        actual = {"method": one.method, "target": one.target, "content": one.body.decode("latin-1")}
        actual |= {"content_length": len(one.body)}
        if wanted.get("host"):
            actual["host"] = one.get("host")
        keys = actual.keys() & wanted.keys()
        assert {key: actual[key] for key in keys} == {key: wanted[key] for key in keys}, case


@pytest.mark.slow
def test_a_strict_backend_sees_what_was_sent_and_logged(start_charon: StartCharon, strict: ReadingBackend) -> None:
    lines = play(start(start_charon, strict.address))
    seen = by_client(strict.seen)
    for number, case in enumerate(REQUESTS):
        compare(case, lines[address(number)], seen.pop(address(number), []))
    assert [one.target for one in seen.pop("127.0.0.1")] == ["/mark-1"]
    assert not seen, "requests of nobody"
    # The same bytes once more, as careless servers would have read them.
    for connection in strict.connections:
        by_the_letter, _ = all_requests(connection.received, LETTER)
        for manner in MANNERS:
            found, _ = all_requests(connection.received, manner)
            assert [(one.method, one.target, one.body) for one in found] == [
                (one.method, one.target, one.body) for one in by_the_letter
            ], manner.name


LETTER = Manner("nothing careless", line_end=rb"\r\n", folds=False, dirt=b" \t", any_chunked=False)


@pytest.mark.slow
@pytest.mark.parametrize("manner", MANNERS, ids=lambda manner: manner.name)
def test_a_careless_backend_sees_what_was_sent_and_logged(start_charon: StartCharon, manner: Manner) -> None:
    with ReadingBackend(manner) as backend:
        lines = play(start(start_charon, backend.address))
        seen = by_client(backend.seen)
        for number, case in enumerate(REQUESTS):
            compare(case, lines[address(number)], seen.pop(address(number), []))
        assert seen.keys() == {"127.0.0.1"}


@pytest.mark.slow
def test_nginx_sees_what_was_sent_and_logged(start_charon: StartCharon, strict: ReadingBackend, tmp_path: Path) -> None:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    folder = tmp_path / "nginx"
    folder.mkdir()
    with nginx_before(folder, program, strict.address) as nginx:
        lines = play(start(start_charon, nginx.address))
        carried = [line for many in lines.values() for line in many if line["upstream"] == nginx.address]
        logged = eventually(lambda: found if "/mark-" in (found := nginx.seen())[-1]["uri"] else None)
    carried = [line for line in carried if "reason" not in line]
    refusals = Counter(line["status"] for line in carried if line["status"] != 200)
    told, behind = defaultdict(list), by_client(strict.seen)
    for line in logged:
        told[line["client"]].append(line)
    refused = told.pop("", [])  # by nginx, before it has read the fields
    assert Counter(line["status"] for line in refused) == refusals
    for number, case in enumerate(REQUESTS):
        client = address(number)
        answers = [line for line in lines[client] if line in carried]
        whole = [(line["method"], shown(line["uri"])) for line in told[client] if line["status"] == 200]
        assert whole == [(line["method"], shown(line["path"])) for line in answers if line["status"] == 200], case
        broken_off = [line for line in told.pop(client, []) if line["status"] != 200]
        assert not broken_off or "accept" not in case.verdicts[-1], f"{case}: {broken_off}"
        seen = behind.pop(client, [])
        if all(line["status"] == 200 for line in answers):
            compare(case, lines[client], seen)
    assert told.keys() <= {"127.0.0.1"}, "requests of nobody"
    assert behind.keys() <= {"127.0.0.1"}, "requests of nobody"
