"""What a rule can ask for and do: its conditions, its own timeout, retries and limit, changes to messages, weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Connection, Request, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess
from tests.harness.client import RawClient, Response

ROUTES = [
    # conditions
    {"path": "/exact", "service": "exact"},
    {"path_regex": "/users/[0-9]+", "service": "regex"},
    {"path_prefix": "/write", "methods": ["POST", "PUT"], "service": "writer"},
    {"path_prefix": "/write", "service": "reader"},
    {"path_prefix": "/v", "headers": {"X-Api-Version": "2"}, "service": "two"},
    {"path_prefix": "/v", "headers": {"x-tenant": "*"}, "service": "tenant"},
    {"host": "shop.test", "path_prefix": "/both", "methods": ["GET"], "headers": {"X-A": "1"}, "service": "all-hold"},
    # settings of their own
    {"path_prefix": "/hurried", "service": "silent", "timeout": "150ms"},
    {"path_prefix": "/stubborn", "service": "flaky", "retry": {"attempts": 1, "on": ["503"], "backoff": "1ms"}},
    {"path_prefix": "/resigned", "service": "flaky"},
    {"path_prefix": "/scarce", "service": "echo", "rate_limit": {"requests_per_second": 0.001, "burst_size": 2}},
    # changes
    {"path_prefix": "/api", "service": "echo", "rewrite": {"path_prefix": "/v2", "host": "inner.test:81"}},
    {"path_prefix": "/strip", "service": "echo", "rewrite": {"path_prefix": "/"}},
    {"path_prefix": "/re", "service": "echo", "rewrite": {"regex": "^/re/([a-z]+)/(.*)$", "substitution": "/\\2/\\1"}},
    {"path_prefix": "/secure", "redirect": {"scheme": "https", "status": 308}},
    {"path_prefix": "/moved", "redirect": {"host": "new.test", "path": "/here"}},
    {
        "path_prefix": "/edited",
        "service": "echo",
        "request_headers": {"set": {"X-Team": "a"}, "add": {"X-Also": "b"}, "remove": ["X-Secret"]},
        "response_headers": {"set": {"Server": "hidden"}, "add": {"X-Seen": "yes"}, "remove": ["X-Internal"]},
    },
    # weights
    {"path_prefix": "/canary", "services": {"stable": 3, "canary": 1, "off": 0}},
    {"path_prefix": "/cookie", "services": {"stable": 1, "canary": 1}, "sticky": "cookie:lane"},
    {"path_prefix": "/tenant", "services": {"stable": 1, "canary": 1}, "sticky": "header:X-User"},
]
NAMED = ("exact", "regex", "writer", "reader", "two", "tenant", "all-hold", "stable", "canary", "off")


def describe(request: Request) -> bytes:
    """An answer that tells what has arrived."""
    lines = [f"{request.method} {request.target}", *(f"{name}: {value}" for name, value in request.headers)]
    return http_response(
        200, "\n".join(lines).encode(), "Server: inner", "X-Internal: 1", "X-Kept: 1", "Connection: close"
    )


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[str, ScriptedBackend]]:
    made = {name: ScriptedBackend() for name in (*NAMED, "echo", "flaky", "silent")}
    for name in NAMED:
        made[name].serve(http_response(200, name.encode(), "Connection: close"))
    made["echo"].serve(describe)
    yield made
    for backend in made.values():
        backend.stop()
        backend.check()


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, backends: dict[str, ScriptedBackend]) -> CharonProcess:
    return start_shared_charon(
        {
            "listeners": [{"name": "web", "address": "127.0.0.1:0", "routes": ROUTES}],
            "services": {name: {"addresses": [backend.address]} for name, backend in backends.items()},
        },
        workers=2,
    )


def ask(charon: CharonProcess, line: str, *headers: str, host: str = "any.test") -> Response:
    """``GET /path``, or only the path."""
    line = line if " " in line else f"GET {line}"
    with RawClient(charon.port()) as client:
        client.request(line, *headers, "Content-Length: 0", host=host)
        return client.read_response(line.split()[0])


# -- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "headers", "found"),
    [
        ("/exact", [], b"exact"),
        ("/exact?query", [], b"exact"),
        ("/x/../exact", [], b"exact"),
        ("/exact/more", [], None),
        ("/exact/", [], None),
        ("/users/17", [], b"regex"),
        ("/users/17?name=x", [], b"regex"),
        ("/users/17x", [], None),
        ("/users/", [], None),
        ("GET /write", [], b"reader"),
        ("POST /write", [], b"writer"),
        ("PUT /write/this", [], b"writer"),
        ("DELETE /write", [], b"reader"),
        ("/v", ["X-Api-Version: 2"], b"two"),
        ("/v", ["x-api-version: 2", "X-Tenant: t"], b"two"),
        ("/v", ["X-Api-Version: 3", "X-Tenant: t"], b"tenant"),
        ("/v", ["X-Tenant: anything at all"], b"tenant"),
        ("/v", [], None),
    ],
)
def test_a_rule_takes_what_meets_all_its_conditions(
    charon: CharonProcess, line: str, headers: list[str], found: bytes | None
) -> None:
    response = ask(charon, line, *headers)
    if found is None:
        assert (response.status, response.error) == (404, "no_route")
    else:
        assert (response.status, response.body) == (200, found)


def test_conditions_hold_together(charon: CharonProcess) -> None:
    assert ask(charon, "/both", "X-A: 1", host="SHOP.test:80").body == b"all-hold"
    for line, header, host in (
        ("POST /both", "X-A: 1", "shop.test"),
        ("/both", "X-A: 2", "shop.test"),
        ("/both", "X-A: 1", "other.test"),
        ("/bothers", "X-A: 1", "shop.test"),
    ):
        assert ask(charon, line, header, host=host).error == "no_route"


# -- settings of their own --------------------------------------------------------------------------------------------


def test_a_timeout_of_its_own(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    def silent(connection: Connection) -> None:
        connection.read_request()
        connection.wait_for_end()

    backends["silent"].script = silent
    mark = charon.mark()
    assert ask(charon, "/hurried").error == "request_deadline"
    line = charon.wait_for_event("http_request", since=mark, route="/hurried")
    assert (line["status"], line["reason"]) == (504, "request_deadline")
    assert 150 <= line["latency_ms"] < 2000


def test_retries_of_its_own(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    left = [503, 503]

    def flaky(request: Request) -> bytes:
        return http_response(left.pop() if left else 200, b"", "Connection: close")

    backends["flaky"].serve(flaky)
    assert ask(charon, "/resigned").status == 503
    assert ask(charon, "/stubborn").status == 200
    assert len(backends["flaky"].requests) == 3


def test_a_limit_of_its_own(charon: CharonProcess) -> None:
    assert [ask(charon, f"/scarce/{number}").status for number in range(4)] == [200, 200, 429, 429]
    assert ask(charon, "/api").status == 200


# -- changes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "forwarded"),
    [
        ("/api/users?id=7", "/v2/users?id=7"),
        ("/api", "/v2"),
        ("/api/", "/v2/"),
        ("/api/a%20b/%2e%2e/c", "/v2/c"),
        ("/strip/all/this", "/all/this"),
        ("/strip", "/"),
        ("/strip?q", "/?q"),
        ("/re/left/right?x=1", "/right/left?x=1"),
        ("/re/UP/there", "/re/UP/there"),
    ],
)
def test_rewritten_on_the_way(charon: CharonProcess, asked: str, forwarded: str) -> None:
    mark = charon.mark()
    lines = ask(charon, asked).body.decode().split("\n")
    assert lines[0] == f"GET {forwarded}"
    hosts = [line for line in lines if line.startswith("Host:")]
    assert hosts == ["Host: inner.test:81" if asked.startswith("/api") else "Host: any.test"]
    assert "X-Forwarded-Host: any.test" in lines, "what was asked for is still to be seen"
    # The log has what was asked for, normalised.
    path = asked.partition("?")[0].replace("a%20b/%2e%2e/", "")
    assert charon.wait_for_event("http_request", since=mark, path=path)["status"] == 200


@pytest.mark.parametrize(
    ("asked", "status", "location"),
    [
        ("/secure/login?next=/x", 308, "https://any.test/secure/login?next=/x"),
        ("POST /secure", 308, "https://any.test/secure"),
        ("/moved/away?and=this", 302, "http://new.test/here?and=this"),
        ("HEAD /moved", 302, "http://new.test/here"),
    ],
)
def test_sent_elsewhere(charon: CharonProcess, asked: str, status: int, location: str) -> None:
    mark = charon.mark()
    response = ask(charon, asked)
    assert (response.status, response.get("Location"), response.error) == (status, location, None)
    line = charon.wait_for_event("http_request", since=mark, status=status)
    assert (line["upstream"], line.get("reason")) == ("none", None)


def test_a_redirect_keeps_the_connection(charon: CharonProcess) -> None:
    with RawClient(charon.port()) as client:
        assert [client.get("/moved").status, client.get("/api").status] == [302, 200]


def test_header_fields_are_edited_both_ways(charon: CharonProcess) -> None:
    response = ask(charon, "/edited", "X-Team: mine", "x-team: again", "x_secret: 1", "X-Secret: 2", "X-Also: a")
    lines = response.body.decode().lower().split("\n")
    assert [line for line in lines if line.startswith("x-team")] == ["x-team: a"]
    assert [line for line in lines if line.startswith("x-also")] == ["x-also: a", "x-also: b"]
    assert not [line for line in lines if "secret" in line], "nor in another spelling"
    assert response.values("Server") == ["hidden"]
    assert (response.get("X-Seen"), response.get("X-Kept"), response.get("X-Internal")) == ("yes", "1", None)


# -- weights ----------------------------------------------------------------------------------------------------------


def test_a_share_for_each_service(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    with RawClient(charon.port()) as client:
        found = Counter(client.get("/canary").body for _ in range(800))
    assert set(found) == {b"stable", b"canary"}
    assert 130 < found[b"canary"] < 270  # more than five standard deviations
    assert backends["off"].requests == []


def test_a_cookie_keeps_a_client_with_one(charon: CharonProcess) -> None:
    lanes = set()
    for _ in range(20):
        first = ask(charon, "/cookie")
        cookie, _, attributes = (first.get("Set-Cookie") or "").partition("; ")
        assert cookie.startswith("charon-lane=") and attributes == "Path=/; HttpOnly; SameSite=Lax"
        again = [ask(charon, "/cookie", f"Cookie: a=1; {cookie}") for _ in range(6)]
        assert {answer.body for answer in again} == {first.body}
        assert [answer.get("Set-Cookie") for answer in again] == [None] * 6
        lanes.add(first.body)
    assert lanes == {b"stable", b"canary"}
    assert ask(charon, "/cookie", "Cookie: charon-lane=forged").get("Set-Cookie") is not None


def test_a_header_keeps_a_client_with_one(charon: CharonProcess) -> None:
    first = {user: ask(charon, "/tenant", f"X-User: {user}").body for user in range(30)}
    assert set(first.values()) == {b"stable", b"canary"}
    again = {user: ask(charon, "/tenant", f"x-user: {user}").body for user in first}
    assert again == first
    assert ask(charon, "/tenant", "X-User: 1").get("Set-Cookie") is None
