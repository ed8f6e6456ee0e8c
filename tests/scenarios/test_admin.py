"""The admin API and the dashboard of a running Charon."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from charon.admin import openapi
from charon.cli import main
from tests.conftest import StartCharon
from tests.harness.backends import ScriptedBackend, refused_address
from tests.harness.browser import Browser, chromium
from tests.harness.charon import CharonProcess
from tests.harness.waiting import eventually
from tests.scenarios.services import ask, by_path

READ, WRITE = "the-token-to-look-with", "the-token-to-act-with"
ODD_NAME = "<b>shop</b>"
"""A service may be called so; it is text wherever it is shown."""


@pytest.fixture(scope="module")
def served() -> Iterator[ScriptedBackend]:
    with ScriptedBackend() as backend:
        backend.serve(by_path)
        yield backend


@pytest.fixture(scope="module")
def charon(
    start_shared_charon: StartCharon, served: ScriptedBackend, tmp_path_factory: pytest.TempPathFactory
) -> CharonProcess:
    folder = tmp_path_factory.mktemp("tokens")
    for name, token in (("read", READ), ("write", WRITE)):
        (folder / name).write_text(token)
        (folder / name).chmod(0o600)
    breaks = {"circuit_breaker": {"enabled": True, "failure_threshold": 3}, "retry": {"attempts": 0}}
    config: dict[str, Any] = {
        "admin": {
            "address": "127.0.0.1:0",
            "read_token_file": str(folder / "read"), "write_token_file": str(folder / "write"),
        },
        "listeners": [{
            "name": "web", "address": "127.0.0.1:0",
            "routes": [
                {"path_prefix": "/limited", "service": "limited", "rate_limit": {"requests_per_second": 1},
                 "request_headers": {"set": {"Authorization": "Bearer sesame", "X-Team": "web"}}},
                {"path_prefix": "/breaks", "service": ODD_NAME},
                {"path_prefix": "/gone", "service": "gone"},
            ],
            "target_service_name": "plain", "request_id": True,
        }],
        "services": {ODD_NAME: breaks},
        "retry": {"attempts": 0},
    }  # fmt: skip
    registry = dict.fromkeys(("plain", "limited", ODD_NAME), served.address)
    return start_shared_charon(config, registry | {"gone": refused_address()}, workers=2)


def over_tcp(charon: CharonProcess, path: str, token: str | None, method: str = "GET") -> tuple[int, Any]:
    host, _, port = charon.log_lines("admin_started")[-1]["address"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request(method, path, headers={} if token is None else {"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, json.loads(body) if answer.getheader("Content-Type") == "application/json" else body


def described(path: str, value: Any) -> None:
    """``value`` is what the OpenAPI document says that ``path`` answers."""
    document = openapi.document()
    schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": document["components"], **schema}
    jsonschema_rs.validate(whole, value)


def test_every_answer_is_as_described(charon: CharonProcess) -> None:
    for path in ("status", "services", "listeners", "workers", "certificates", "config", "problems", "greenlets"):
        status, value = over_tcp(charon, f"/api/{path}", READ)
        assert status == 200
        described(f"/api/{path}", value)
    described("/api/status", over_tcp(charon, "/api/status?history=true&services=1", READ)[1])
    assert over_tcp(charon, "/api/openapi.json", READ) == (200, json.loads(json.dumps(openapi.document())))


def test_tcp_wants_a_token_and_the_socket_does_not(charon: CharonProcess) -> None:
    assert over_tcp(charon, "/readyz", None) == (200, b"ok\n")
    assert over_tcp(charon, "/api/status", None)[0] == 401
    assert over_tcp(charon, "/api/log-level", READ, "POST")[0] == 403
    assert over_tcp(charon, "/api/reload", WRITE, "POST") == (200, {"ok": True, "problems": []})
    assert charon.admin("/api/status")[0] == 200


def test_the_status_tells_how_the_traffic_goes(charon: CharonProcess) -> None:
    for _ in range(8):
        ask(charon, "/plain/x")
    ask(charon, "/plain/fail")
    limited = [ask(charon, "/limited/x").status for _ in range(4)]
    assert limited.count(429) >= 2

    def seen() -> dict[str, Any] | None:
        state: dict[str, Any] = over_tcp(charon, "/api/status?history=true", READ)[1]
        traffic = state["traffic"]
        return state if traffic["limits_hit"] and traffic["answers_per_second"]["5xx"] else None

    state = eventually(seen)
    traffic, listener = state["traffic"], state["listeners"][0]
    assert traffic["limits_hit"][0]["route"] == "/limited"
    assert 0 < traffic["error_rate"] < 1 and traffic["latency_ms"]["p99"] >= traffic["latency_ms"]["p50"] > 0
    assert sum(traffic["history"]["requests_per_second"]) >= 1
    assert listener["requests_per_second"] > 0 and listener["errors_per_second"] > 0
    (endpoint,) = state["services"]["plain"]
    assert endpoint["requests_per_second"] > 0 and endpoint["latency_ms"]["p50"] > 0
    assert sum(endpoint["history"]["errors_per_second"]) > 0


def test_what_goes_wrong_is_told_at_once_and_once(charon: CharonProcess) -> None:
    before = over_tcp(charon, "/api/problems", READ)[1]["last"]
    ask(charon, "/plain/fail?told")

    def told() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = over_tcp(charon, f"/api/problems?after={before}", READ)[1]["problems"]
        return [one for one in found if one.get("path") == "/plain/fail" and one["status"] == 500]

    (problem,) = eventually(told)
    assert problem["id"] > before and problem["worker"] in (0, 1) and problem["listener"] == "web"


def test_the_configuration_is_shown_without_its_secrets(charon: CharonProcess) -> None:
    text = charon.admin("/api/config")[1].decode()
    config = json.loads(text)["config"]
    listener = config["listeners"][0]
    assert listener["name"] == "web" and listener["timeouts"]["connect"] == 5
    assert listener["routes"][0]["request_headers"]["set"] == {"Authorization": "***", "X-Team": "web"}
    assert "sesame" not in text and READ not in text
    assert config["services"][ODD_NAME]["circuit_breaker"]["failure_threshold"] == 3


def test_a_request_has_one_name_from_the_client_to_the_log(
    charon: CharonProcess, served: ScriptedBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = ask(charon, "/plain/x", "X-Request-Id: from-the-client")
    assert answer.get("x-request-id") == "from-the-client"
    assert served.requests[-1].get("x-request-id") == "from-the-client"
    made = ask(charon, "/plain/x", "X-Request-Id: not, one name").get("x-request-id")
    assert made is not None and len(made) == 32
    assert served.requests[-1].get("x-request-id") == made
    refused = ask(charon, "/gone/x", "X-Request-Id: to-be-explained")
    assert (refused.status, refused.get("x-request-id")) == (502, "to-be-explained")
    for name in ("from-the-client", made, "to-be-explained"):
        charon.wait_for_event("http_request", request_id=name)
    assert charon.wait_for_event("upstream_error", request_id="to-be-explained")["reason"] == "connect_refused"

    log = tmp_path / "log"
    log.write_text("\n".join(charon.raw_log()))
    assert main.main(["explain", "to-be-explained", "--log", str(log)]) == 0
    told = capsys.readouterr().out
    assert "fell under the route /gone" in told and "try 1, gone at 127.0.0.1:" in told
    assert "connect_refused: The upstream refused the connection." in told and "Start the service" in told


def test_the_commands_show_the_same(charon: CharonProcess, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", str(charon.config_path)]
    assert main.main(["status", *config]) == 0
    assert f"{ODD_NAME}  127.0.0.1:" in capsys.readouterr().out
    assert main.main(["route", *config, "GET", "http://a/breaks/x"]) == 0
    told = capsys.readouterr().out
    assert f"  service {ODD_NAME}\n    127.0.0.1:" in told and "endpoints as they are now" in told


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if chromium() is None:
        pytest.skip("there is no chromium")
    with Browser() as browser:
        yield browser


def test_the_dashboard_shows_a_breaker_that_opens(charon: CharonProcess, browser: Browser) -> None:
    address = charon.log_lines("admin_started")[-1]["address"]
    browser.open(f"http://{address}/")
    browser.wait_for("document.getElementById('login')?.hidden === false")
    browser.type("#token", "a-token-that-is-wrong")
    browser.press("Enter", 13)
    browser.wait_for("document.getElementById('login-note').innerText.includes('not a token')")
    browser.type("#token", READ)
    browser.press("Enter", 13)
    browser.wait_for("page.state && !document.getElementById('main').hidden")
    row = f"[data-service='{ODD_NAME}'] .endpoint"
    assert ODD_NAME in browser.text("#services"), "a name is text"
    assert browser.run("document.querySelectorAll('.service h3 b').length") == 0
    assert "breaker" not in browser.text(row)

    since = charon.mark()
    for _ in range(3):
        ask(charon, "/breaks/fail")
    charon.wait_for_event("circuit_breaker", since=since, service=ODD_NAME, state="open")
    # It looks once a second: the second look from now on has begun after the breaker opened.
    assert browser.run("PERIOD") == 1000
    shown = browser.run("page.at")
    for _ in range(2):
        shown = browser.wait_for(f"page.at > {shown} && page.at")
    assert "breaker open" in browser.text(row)
    assert browser.text("#sentence").startswith(f"The service {ODD_NAME} cannot be reached")
    assert browser.run("document.getElementById('verdict').className") == "verdict bad"
    browser.wait_for("document.getElementById('problems').innerText.includes('circuit_breaker')")
    refused = "Failed to load resource: the server responded with a status of 401 (Unauthorized)"
    assert set(browser.errors) == {refused}, "nothing broke a rule of the page's policy"


def test_the_dashboard_can_be_read_on_a_phone_and_used_from_the_keyboard(
    charon: CharonProcess, browser: Browser
) -> None:
    browser.open(f"http://{charon.log_lines('admin_started')[-1]['address']}/")
    browser.run(f"sessionStorage.setItem('charon-token', '{READ}')")
    browser.open(f"http://{charon.log_lines('admin_started')[-1]['address']}/?again")
    browser.wait_for("document.getElementById('main')?.hidden === false")
    browser.look(390, 844)
    wide = "document.documentElement.scrollWidth"
    assert browser.wait_for(wide) <= 390, "nothing makes the page wider than the screen"
    browser.look(1280, 900, dark=True)
    assert browser.run("getComputedStyle(document.documentElement).backgroundColor") == "rgb(18, 23, 22)"
    reached = []
    for _ in range(8):
        browser.press("Tab", 9)
        reached.append(browser.run("document.activeElement.id || document.activeElement.className"))
    assert reached[:4] == ["skip", "find", "listeners", "workers"] and "pause" in reached and "problems" in reached
    named = "e.ariaLabel || e.labels?.length || e.textContent || e.getAttribute('aria-labelledby')"
    parts = "document.querySelectorAll('svg[role=img],input,button,[role=region]')"
    assert browser.run(f"[...{parts}].filter(e => !({named})).length") == 0
