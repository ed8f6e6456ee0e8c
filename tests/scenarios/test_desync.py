"""Every known way to make a proxy and a server disagree about where a request ends (tests/harness/desync.py).

After each attack an innocent client, on a connection of its own, must get its own answer, twice; and no server, however
carelessly it reads, may ever see the request that the attack has tried to hide.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.conftest import StartCharon
from tests.harness.charon import CharonProcess
from tests.harness.client import RawClient
from tests.harness.desync import POISON, Attack, attacks
from tests.harness.readers import ReadingBackend, nginx_before
from tests.harness.readings import MANNERS, Manner, all_requests

ATTACKS = list(dict.fromkeys(attacks()))


def start(start_charon: StartCharon, upstream: str) -> CharonProcess:
    return start_charon(
        {
            "target_service_name": "app",
            "logging": {"access_log": False},
            "timeouts": {"client_fin": "1s"},
            "listeners": [{"name": "web", "address": "127.0.0.1:0"}],
        },
        {"app": upstream},
    )


def play(charon: CharonProcess, chosen: Iterable[Attack]) -> Counter[int]:
    """Attack, and see how an innocent client fares. How often the attackers got which status as their first answer."""
    answers: Counter[int] = Counter()
    port = charon.port("web")
    with RawClient(port) as innocent:
        for number, attack in enumerate(chosen):
            answers[strike(port, attack)] += 1
            for turn in "ab":
                answer = innocent.get(f"/innocent-{number}", f"X-Marker: {number}{turn}")
                wanted = f"GET /innocent-{number} {number}{turn}".encode()
                assert (answer.status, answer.body) == (200, wanted), f"{attack}: {attack.data!r}"
    return answers


def strike(port: int, attack: Attack) -> int:
    with RawClient(port) as client:
        received = b""
        try:
            client.send(attack.data)
            client.half_close()
            while piece := client.recv():
                received += piece
        except OSError:
            pass  # Charon has closed before it was read whole
    return int(received.split(b" ", 2)[1]) if received else 0


def check(backend: ReadingBackend) -> None:
    """Nothing but what the clients have sent, as this server reads it and as any other would have."""
    for one in backend.seen:
        assert one.target.startswith(("/attack", "/innocent-", "*", "//poison.example/attack")), one
        assert one.get("x-swallow") == "", one
    for connection in backend.connections:
        wanted = [(one.method, one.target, one.body) for one in all_requests(connection.received, MANNERS[0])[0]]
        for manner in MANNERS[1:]:
            found = [(one.method, one.target, one.body) for one in all_requests(connection.received, manner)[0]]
            assert found == wanted, manner.name


def test_a_sample_of_all_families(start_charon: StartCharon) -> None:
    with ReadingBackend(MANNERS[0]) as backend:
        play(start(start_charon, backend.address), ATTACKS[::47])
        check(backend)


def test_a_server_that_is_careless_enough_falls_for_them() -> None:
    """Without Charon in front: so the attacks are real, and the check sees it."""
    fallen = Counter(
        attack.technique
        for attack in ATTACKS
        for manner in MANNERS
        if any(one.target == "/poison" for one in all_requests(attack.data + b"GET / HTTP/1.1\r\n\r\n", manner)[0])
    )
    # All but TE.0: a server that knows no chunks at all cannot be behind any proxy that speaks HTTP/1.1.
    assert fallen.keys() == {"CL.TE", "TE.CL", "CL.0", "0.CL", "TE.TE"}
    assert POISON in ATTACKS[0].data


@pytest.mark.slow
@pytest.mark.parametrize("manner", [None, *MANNERS], ids=lambda manner: manner.name if manner else "strict")
def test_before_a_server_that_reads_in_its_own_manner(start_charon: StartCharon, manner: Manner | None) -> None:
    with ReadingBackend(manner) as backend:
        answers = play(start(start_charon, backend.address), ATTACKS)
        check(backend)
    assert answers[200] > 10, "some mutations are nothing but odd"
    assert answers.keys() <= {0, 200, 400, 405, 408, 414, 417, 421, 431, 501, 505}, answers


@pytest.mark.slow
def test_before_nginx(start_charon: StartCharon, tmp_path: Path) -> None:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    (tmp_path / "nginx").mkdir()
    with ReadingBackend() as behind, nginx_before(tmp_path / "nginx", program, behind.address) as nginx:
        play(start(start_charon, nginx.address), ATTACKS)
        check(behind)
        for line in nginx.seen():
            assert "poison HTTP" not in line["line"], line
