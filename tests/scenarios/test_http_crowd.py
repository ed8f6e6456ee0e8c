"""Many at once: no answer is ever another's, whatever some clients and connections do in between."""

from __future__ import annotations

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Connection, ScriptedBackend, chunked, http_response
from tests.harness.charon import CharonProcess, total
from tests.harness.client import RawClient

CLIENTS = 16
REQUESTS = 40


def answer(connection: Connection) -> None:
    """Answers with what the request was; sometimes in another framing, sometimes closing behind it."""
    chance = random.Random(connection.number)
    while True:
        request = connection.read_request()
        body = request.target.encode() + b" " + hashlib.sha256(request.body).hexdigest().encode()
        match chance.randrange(6):
            case 0:
                connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body[:7], body[7:]))
            case 1:
                connection.send(http_response(200, body, "Connection: close"))
                return
            case 2:
                connection.send(b"HTTP/1.1 200 OK\r\n\r\n" + body)
                return
            case 3:
                connection.send(http_response(200, body) + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
            case _:
                connection.send(http_response(200, body))


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, shared_backend: ScriptedBackend) -> CharonProcess:
    return start_shared_charon(
        {"listeners": [{"name": "web", "address": "127.0.0.1:0", "target_service_name": "app"}]},
        {"app": shared_backend.address},
        workers=2,
    )


def one_client(port: int, number: int) -> int:
    """Requests of all kinds, each checked against its answer; how many were answered."""
    chance = random.Random(number)
    answered = 0
    client = RawClient(port)
    for count in range(REQUESTS):
        body = chance.randbytes(chance.choice((0, 1, 1000, 70_000, 200_000)))
        target = f"/{number}/{count}"
        if chance.randrange(8) == 0:  # leave in the middle of something
            client.send(f"POST {target}/left HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nstart of it")
            client.reset() if chance.randrange(2) else client.close()
            client = RawClient(port)
            continue
        if body and chance.randrange(2):
            pieces = (body[:10], body[10:]) if len(body) > 10 else (body,)
            head = f"POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            client.send(head.encode() + chunked(*pieces))
            response = client.read_response()
        else:
            response = client.post(target, body) if body else client.get(target)
        assert response.status == 200, (response.status, response.error)
        assert response.body == f"{target} {hashlib.sha256(body).hexdigest()}".encode()
        answered += 1
    client.close()
    return answered


def test_every_client_of_a_crowd_gets_its_own_answers(charon: CharonProcess, backend: ScriptedBackend) -> None:
    backend.script = answer
    port = charon.port("web")
    with ThreadPoolExecutor(CLIENTS) as pool:
        answered = sum(pool.map(lambda number: one_client(port, number), range(CLIENTS)))
    charon.wait_for_log(lambda lines: sum(line.get("status") == 200 for line in lines) >= answered)
    lines = [line for line in charon.log_lines("http_request") if line["status"] == 200]
    assert len(lines) == answered
    assert total(charon.metrics(), "charon_http_requests_total", status="200") == answered
    assert not charon.log_lines("internal_error") and "Traceback" not in charon.stderr()
