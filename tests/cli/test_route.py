"""``charon route``: which way a request would take."""

from __future__ import annotations

from pathlib import Path

import pytest

from charon.cli import main

CONFIG = """\
admin: {socket: nobody.sock}
registry_file: registry.yaml
listeners:
  - name: web
    address: "127.0.0.1:8080"
    routes:
      - {host: api.example.com, path_prefix: /v1, methods: [GET], service: api, rewrite: {path_prefix: /}, timeout: 3s}
      - {path_prefix: /v1, headers: {X-Beta: "*"}, services: {api: 90, beta: 10}, sticky: "header:X-User"}
      - {path_prefix: /old, redirect: {path: /new, status: 308}}
      - {path: /lost, service: nowhere}
    target_service_name: shop
    rate_limit: {requests_per_second: 5, routes: [/v1]}
  - {name: bare, address: "127.0.0.1:8081", routes: [{path_prefix: /a, service: api}], metrics: {on_listeners: false}}
  - {name: db, address: "127.0.0.1:5432", protocol: tcp, target_service_name: api}
"""
REGISTRY = "services: {api: [10.0.0.1:80, 10.0.0.2:80], beta: 10.0.0.3:80, shop: 10.0.0.4:80, idle: []}\n"
AS_CONFIGURED = "  no Charon runs here: as configured"


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG)
    Path("registry.yaml").write_text(REGISTRY)


def ask(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[str]:
    assert main.main(["route", *arguments]) == code
    captured = capsys.readouterr()
    return (captured.out + captured.err).splitlines()


def test_a_rule_that_matches_and_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, "GET", "http://api.example.com:8080/x/../v1/us%65rs?q=1") == [
        "GET api.example.com:8080 /v1/users?q=1",
        "  listener web, http at 127.0.0.1:8080",
        "  route 1 of 4, GET api.example.com/v1: the host is api.example.com and the path begins with /v1 and the "
        "method is GET",
        "  rewritten: asks api.example.com:8080 for /users?q=1",
        "  rate limit web for /v1: 5/s, burst 5, by route",
        "  timeout 3s",
        "  service api",
        "    10.0.0.1:80",
        "    10.0.0.2:80",
        AS_CONFIGURED,
    ]


def test_why_the_rules_before_did_not_match(capsys: pytest.CaptureFixture[str]) -> None:
    told = ask(capsys, "POST", "http://shop.example.com:8080/v1", "--header", "X-Beta: yes")
    assert told[2:4] == [
        "  not route 1, GET api.example.com/v1: the host is not api.example.com and the method is not GET",
        "  route 2 of 4, /v1: the path begins with /v1 and there is a field X-Beta",
    ]
    assert "  service api, 90 %" in told and "  service beta, 10 %" in told
    told = ask(capsys, "POST", "/v1", "--listener", "web", "--header", "X-Beta: 1", "--header", "X-User: ann")
    assert sum("which header:X-User keeps this client with" in line for line in told) == 1


def test_no_rule_a_default_and_none(capsys: pytest.CaptureFixture[str]) -> None:
    told = ask(capsys, "GET", "/v10", "--listener", "web")
    assert told[2].startswith("  not route 1,") and told[5].startswith("  not route 4, /lost: the path is not /lost")
    assert told[6] == "  no route matches (of 4): the default service"
    assert told[7:9] == ["  rate limit web for /v1: 5/s, burst 5, by route", "  service shop"]
    told = ask(capsys, "GET", "http://localhost:8081/b", code=1)
    assert told[-1].startswith("  answered 404 no_route")


def test_other_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, "GET", "http://a:8080/old?q=1")[-1] == "  redirected: 308, Location: http://a:8080/new?q=1"
    assert "answered with Charon's own metrics" in ask(capsys, "GET", "http://a:8080/metrics")[-1]
    assert "  answered 503 unknown_service" in "\n".join(ask(capsys, "GET", "http://a:8080/lost", code=1))
    assert ask(capsys, "GET", "/a b", "--listener", "web", code=1)[0].startswith("refused: 400 bad_request")
    assert ask(capsys, "CONNECT", "/", "--listener", "web", code=1)[0].startswith("refused: 4")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["GET", "/"], "not clear which listener"),
        (["GET", "/", "--listener", "none"], "there are web, bare, db"),
        (["GET", "/", "--listener", "db"], "carries TCP: all of it goes to api"),
        (["GET", "ftp://a/"], "is not a URL"),
        (["GET", "/", "--header", "nothing"], "is not a header field"),
    ],
)
def test_questions_that_make_no_sense(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert said in ask(capsys, *arguments, code=1)[0]
