"""Which request goes where, and what happens when there is no such place."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.backends import Connection, ScriptedBackend, http_response, refused_address
from tests.harness.charon import CharonProcess, total
from tests.harness.client import RawClient, Response

SERVICES = ("shop", "any-sub", "admin", "v1", "Default-Service", "twin-a", "twin-b", "spare")


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[str, ScriptedBackend]]:
    made = {name: ScriptedBackend() for name in SERVICES}
    for name, backend in made.items():
        backend.serve(http_response(200, name.encode()))
    yield made
    for backend in made.values():
        backend.stop()
        backend.check()


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, backends: dict[str, ScriptedBackend]) -> CharonProcess:
    at = {name: backend.address for name, backend in backends.items()}
    dead = refused_address()
    return start_shared_charon(
        {
            "listeners": [
                {
                    "name": "routed",
                    "address": "127.0.0.1:0",
                    "target_service_name": "Default-Service",
                    "routes": [
                        {"host": "shop.example.com", "path_prefix": "/v1", "service": "v1"},
                        {"host": "shop.example.com", "service": "shop"},
                        {"host": "*.example.com", "service": "any-sub"},
                        {"path_prefix": "/admin", "service": "admin"},
                        {"path_prefix": "/missing", "service": "not-in-the-registry"},
                        {"path_prefix": "/empty", "service": "empty"},
                        {"path_prefix": "/twins", "service": "twins"},
                        {"path_prefix": "/half-dead", "service": "half-dead"},
                        {"path_prefix": "/dead", "service": "dead"},
                    ],
                },
                {
                    "name": "no-default",
                    "address": "127.0.0.1:0",
                    "routes": [{"path_prefix": "/admin", "service": "admin"}],
                },
            ]
        },
        {
            **{name: at[name] for name in ("shop", "any-sub", "admin", "v1", "Default-Service")},
            "twins": [at["twin-a"], at["twin-b"]],
            "half-dead": [dead, at["spare"]],
            "dead": [refused_address(), refused_address()],
            "empty": [],
        },
    )


def ask(charon: CharonProcess, path: str, host: str = "else.test", listener: str = "routed") -> Response:
    with RawClient(charon.port(listener)) as client:
        client.request(f"GET {path}", host=host)
        return client.read_response()


@pytest.mark.parametrize(
    ("host", "path", "service"),
    [
        ("shop.example.com", "/", "shop"),
        ("SHOP.Example.COM", "/", "shop"),
        ("shop.example.com:8443", "/", "shop"),
        ("shop.example.com", "/v1", "v1"),
        ("shop.example.com", "/v1/items?q=/v2", "v1"),
        ("shop.example.com", "/v10", "shop"),
        ("a.example.com", "/", "any-sub"),
        ("a.b.example.com", "/admin", "any-sub"),
        ("example.com", "/", "Default-Service"),
        ("badexample.com", "/", "Default-Service"),
        ("else.test", "/admin", "admin"),
        ("else.test", "/admin/", "admin"),
        ("else.test", "/admin/x/y", "admin"),
        ("else.test", "/administrator", "Default-Service"),
        ("else.test", "/x/../admin/y", "admin"),
        ("else.test", "/%61dmin", "admin"),
        ("else.test", "/ADMIN", "Default-Service"),
        ("[::1]:8080", "/", "Default-Service"),
    ],
)
def test_the_first_rule_that_holds_decides(charon: CharonProcess, host: str, path: str, service: str) -> None:
    assert ask(charon, path, host).body == service.encode()


def test_an_absolute_target_is_routed_by_its_own_host(charon: CharonProcess) -> None:
    assert ask(charon, "http://shop.example.com/v1/x", "else.test").body == b"v1"


def test_requests_of_one_connection_are_routed_one_by_one(charon: CharonProcess) -> None:
    with RawClient(charon.port("routed")) as client:
        bodies = [client.get(path).body for path in ("/", "/admin", "/", "/twins")]
    assert bodies[:3] == [b"Default-Service", b"admin", b"Default-Service"]


def test_no_rule_and_no_default_is_404(charon: CharonProcess) -> None:
    mark = charon.mark()
    response = ask(charon, "/nowhere", listener="no-default")
    assert (response.status, response.error, response.get("Connection")) == (404, "no_route", None)
    assert ask(charon, "/admin", listener="no-default").body == b"admin"
    line = charon.wait_for_event("http_request", since=mark, path="/nowhere")
    assert (line["status"], line["reason"], line["upstream"]) == (404, "no_route", "none")


def test_a_service_that_is_not_in_the_registry_is_503(charon: CharonProcess) -> None:
    response = ask(charon, "/missing")
    assert (response.status, response.error) == (503, "unknown_service")


def test_a_service_without_addresses_is_503(charon: CharonProcess) -> None:
    response = ask(charon, "/empty")
    assert (response.status, response.error) == (503, "no_endpoint")


def test_two_endpoints_take_turns(charon: CharonProcess) -> None:
    bodies = [ask(charon, "/twins").body for _ in range(6)]
    assert bodies in ([b"twin-a", b"twin-b"] * 3, [b"twin-b", b"twin-a"] * 3)


def test_when_one_endpoint_refuses_the_next_is_tried(charon: CharonProcess) -> None:
    before = charon.metrics()
    mark = charon.mark()
    with RawClient(charon.port("routed")) as client:
        assert [client.get(f"/half-dead/{n}").body for n in range(4)] == [b"spare"] * 4
        assert client.post("/half-dead/4", b"an order").body == b"spare", "nothing of it was sent to the other"
    lines = charon.wait_for_log(lambda lines: any(line.get("path") == "/half-dead/4" for line in lines))
    retries = [line["retries"] for line in lines[mark:] if line.get("path", "").startswith("/half-dead/")]
    assert len(retries) == 5 and set(retries) <= {0, 1} and sum(retries) >= 2
    after = charon.metrics()
    name = "charon_http_retries_total"
    assert total(after, name) - total(before, name) == sum(retries)


def test_when_all_endpoints_refuse_the_client_hears_why(charon: CharonProcess) -> None:
    response = ask(charon, "/dead/x")
    assert (response.status, response.error) == (502, "connect_refused")
    line = charon.wait_for_event("http_request", path="/dead/x")
    assert line["retries"] == 1 and line["upstream"] != "none"


def test_the_access_line_names_the_rule(charon: CharonProcess) -> None:
    ask(charon, "/named", "shop.example.com")
    ask(charon, "/default", "else.test")
    named = charon.wait_for_event("http_request", path="/named")
    default = charon.wait_for_event("http_request", path="/default")
    assert "shop.example.com" in named["route"] and default["route"] == ""


def test_an_address_that_is_removed_finishes_what_it_has(start_charon: StartCharon) -> None:
    removed = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        assert removed.wait(PATIENCE)
        connection.send(b"half")
        connection.wait_for_end()

    with ScriptedBackend(script) as old, ScriptedBackend() as new:
        charon = start_charon({"listen_port": 0, "target_service_name": "app"}, {"app": old.address})
        with RawClient(charon.port()) as client:
            client.request("GET /")
            client.read_head()
            charon.write_registry({"app": new.address})
            charon.wait_for_event("registry_reloaded", since=1)
            with RawClient(charon.port()) as other:
                response = other.get()
                while response.body != b"hello":  # the workers hear of it a moment after the log
                    response = other.get()
            removed.set()
            assert client.recv_exactly(8) == b"halfhalf"
            assert client.get().body == b"hello"
