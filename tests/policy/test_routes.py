"""Routes: which rule a request falls under, beside a slow matcher that reads the rules one by one."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charon.policy.routes import RouteTable, host_key


@dataclass(frozen=True)
class Rule:
    host: str | None = None
    path_prefix: str | None = None
    path: str | None = None
    path_regex: str | None = None
    methods: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


Fields = list[tuple[bytes, bytes]]


def slow_match(rules: list[Rule], host: str, path: str, method: str | None, fields: Fields | None) -> Rule | None:
    """The contract, word by word."""
    for rule in rules:
        if rule.host is not None:
            wanted = rule.host.lower().split(".")
            given_labels = host.split(".")
            if wanted[0] == "*":
                below = wanted[1:]
                if len(given_labels) <= len(below) or given_labels[-len(below) :] != below:
                    continue
            elif given_labels != wanted:
                continue
        if rule.path_prefix is not None:
            segments = rule.path_prefix.rstrip("/").split("/")
            if path.split("/")[: len(segments)] != segments and rule.path_prefix != "/":
                continue
        if rule.path is not None and path != rule.path:
            continue
        if rule.path_regex is not None and re.fullmatch(rule.path_regex, path) is None:
            continue
        if rule.methods and method not in rule.methods:
            continue
        present = {(name.decode().lower(), value.decode()) for name, value in fields or []}
        names = {name for name, _ in present}
        if any(
            name.lower() not in names if value == "*" else (name.lower(), value) not in present
            for name, value in rule.headers
        ):
            continue
        return rule
    return None


HOSTS = ["a.example.com", "b.example.com", "example.com", "x.y.example.com", "other.org", "1.2.3.4"]
PATHS = ["/", "/admin", "/admin/", "/admin/x", "/administrator", "/v1/users/7", "/v1", "/v1//x", "/V1", "*"]
METHODS = ["GET", "POST", "get"]
FIELDS = [("X-Version", "2"), ("x-version", "3"), ("X-Beta", "on"), ("X-Beta", ""), ("X-Version2", "2")]

rules = st.builds(
    Rule,
    host=st.sampled_from([None, None, *HOSTS[:3], "*.example.com", "*.y.example.com", "A.Example.COM"]),
    path_prefix=st.sampled_from([None, None, "/", "/admin", "/admin/", "/v1", "/v1/users"]),
    path=st.sampled_from([None, None, None, "/admin", "/v1", "/"]),
    path_regex=st.sampled_from([None, None, None, r"/v1/users/\d+", r"/admin", r".*x", r"/a|/admin.*"]),
    methods=st.sampled_from([(), (), ("GET",), ("GET", "POST")]),
    headers=st.lists(
        st.tuples(st.sampled_from(["X-Version", "x-beta"]), st.sampled_from(["2", "3", "*", ""])), max_size=2
    ).map(tuple),
)


@settings(max_examples=400, deadline=None)
@given(
    table=st.lists(rules, max_size=8),
    host=st.sampled_from(HOSTS),
    path=st.sampled_from(PATHS),
    method=st.sampled_from([None, *METHODS]),
    fields=st.none() | st.lists(st.sampled_from(FIELDS), max_size=3),
)
def test_the_table_agrees_with_reading_rule_by_rule(
    table: list[Rule], host: str, path: str, method: str | None, fields: list[tuple[str, str]] | None
) -> None:
    sent = None if fields is None else [(name.encode(), value.encode()) for name, value in fields]
    got = RouteTable(table).match(host.encode(), path.encode(), None if method is None else method.encode(), sent)
    assert got is slow_match(table, host, path, method, sent)


def matches(rule: Rule, path: bytes = b"/", method: bytes | None = b"GET", fields: Fields | None = None) -> bool:
    return RouteTable([rule]).match(b"example.com", path, method, fields or []) is rule


@pytest.mark.parametrize(
    ("rule", "path", "expected"),
    [
        (Rule(path_prefix="/admin"), b"/admin", True),
        (Rule(path_prefix="/admin"), b"/admin/x", True),
        (Rule(path_prefix="/admin"), b"/admin/", True),
        (Rule(path_prefix="/admin"), b"/administrator", False),
        (Rule(path_prefix="/admin"), b"/x/admin", False),
        (Rule(path_prefix="/admin/"), b"/admin", True),
        (Rule(path_prefix="/"), b"/anything", True),
        (Rule(path="/admin"), b"/admin", True),
        (Rule(path="/admin"), b"/admin/", False),
        (Rule(path="/admin"), b"/admin/x", False),
        (Rule(path_regex=r"/v[12]/.*"), b"/v1/x", True),
        (Rule(path_regex=r"/v[12]"), b"/v1/x", False),  # the whole path
        (Rule(path_regex=r"v1"), b"/v1", False),
        (Rule(path_regex=r"/a|/b"), b"/b", True),
        (Rule(path_prefix="/v1", path_regex=r".*\.json"), b"/v1/a.json", True),
        (Rule(path_prefix="/v1", path_regex=r".*\.json"), b"/v2/a.json", False),
    ],
)
def test_paths(rule: Rule, path: bytes, expected: bool) -> None:
    assert matches(rule, path) is expected


@pytest.mark.parametrize(
    ("methods", "method", "expected"),
    [
        ((), b"DELETE", True),
        ((), None, True),
        (("GET", "HEAD"), b"HEAD", True),
        (("GET",), b"HEAD", False),
        (("GET",), b"get", False),  # methods are case-sensitive (RFC 9110 9.1)
        (("GET",), None, False),
    ],
)
def test_methods(methods: tuple[str, ...], method: bytes | None, expected: bool) -> None:
    assert matches(Rule(methods=methods), method=method) is expected


@pytest.mark.parametrize(
    ("headers", "fields", "expected"),
    [
        ((("X-Beta", "on"),), [(b"x-bETA", b"on")], True),
        ((("X-Beta", "on"),), [(b"X-Beta", b"ON")], False),
        ((("X-Beta", "on"),), [(b"X-Beta", b"off"), (b"X-Beta", b"on")], True),
        ((("X-Beta", "on"),), [(b"X-Beta2", b"on")], False),
        ((("X-Beta", "on"),), [], False),
        ((("X-Beta", "*"),), [(b"X-Beta", b"")], True),
        ((("X-Beta", "*"),), [(b"X-Alpha", b"1")], False),
        ((("X-Beta", "on"), ("X-Team", "*")), [(b"X-Beta", b"on")], False),
        ((("X-Beta", "on"), ("X-Team", "*")), [(b"X-Team", b"7"), (b"X-Beta", b"on")], True),
        ((("X-Name", "é"),), [(b"X-Name", "é".encode())], True),
    ],
)
def test_headers(headers: tuple[tuple[str, str], ...], fields: Fields, expected: bool) -> None:
    assert matches(Rule(headers=headers), fields=fields) is expected


def test_the_first_match_wins_also_between_wildcard_exact_and_any_host() -> None:
    wild, exact, any_host = Rule(host="*.example.com"), Rule(host="a.example.com"), Rule()
    assert RouteTable([wild, exact, any_host]).match(b"a.example.com", b"/") is wild
    assert RouteTable([exact, wild, any_host]).match(b"a.example.com", b"/") is exact
    assert RouteTable([any_host, exact, wild]).match(b"a.example.com", b"/") is any_host
    assert RouteTable([exact, wild]).match(b".example.com", b"/") is None


def test_a_rule_whose_conditions_fail_leaves_the_request_to_the_next() -> None:
    writes, reads = Rule(path_prefix="/v1", methods=("POST",)), Rule(path_prefix="/v1")
    table = RouteTable([writes, reads])
    assert table.match(b"h", b"/v1/x", b"POST", []) is writes
    assert table.match(b"h", b"/v1/x", b"GET", []) is reads
    assert table.match(b"h", b"/v1/x") is reads
    assert table.match(b"h", b"/v2", b"POST", []) is None


def test_no_rules() -> None:
    assert RouteTable[Rule]([]).empty
    assert not RouteTable([Rule()]).empty


@pytest.mark.parametrize(("pattern", "said"), [("/(", "not a regular expression"), ("/é", "%XX")])
def test_a_pattern_that_cannot_be_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RouteTable([Rule(path_regex=pattern)])


@pytest.mark.parametrize(
    ("authority", "key"),
    [
        (b"Example.COM", b"example.com"),
        (b"example.com:8080", b"example.com"),
        (b"example.com.", b"example.com"),
        (b"example.com.:80", b"example.com"),
        (b"[::1]", b"[::1]"),
        (b"[::1]:8080", b"[::1]"),
        (b"10.0.0.1:80", b"10.0.0.1"),
    ],
)
def test_host_key(authority: bytes, key: bytes) -> None:
    assert host_key(authority) == key
