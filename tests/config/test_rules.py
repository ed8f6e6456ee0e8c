"""Rules, rate limits and what a listener takes on, as workers see them, and what cannot be meant."""

import pytest

from charon.config.compile import compile_settings
from charon.config.load import read_config
from charon.config.snapshot import (
    HeaderEdits,
    Limits,
    ListenerSpec,
    RateLimitSpec,
    RedirectSpec,
    RetrySpec,
    RewriteSpec,
    RouteSpec,
)
from tests.config.support import Folder


def listeners(folder: Folder, text: str) -> tuple[ListenerSpec, ...]:
    return compile_settings(folder.load(text)).listeners


def routes(folder: Folder, text: str) -> tuple[RouteSpec, ...]:
    return listeners(folder, text)[0].routes


def test_everything_a_rule_can_say(folder: Folder) -> None:
    (spec,) = routes(
        folder,
        r"""
        routes:
        - host: api.example.com
          path_regex: /users/[0-9]+
          methods: [get, POST, PURGE, GET]
          headers: {X-Version: 2, X-Any: "*"}
          services: {v1: 90, V2: 10, v3: 0}
          sticky: Cookie:session
          timeout: 3s
          retry: {attempts: 1, on: [5xx], methods: any}
          rate_limit: {requests_per_second: 0.5, key: "header:X-User"}
          rewrite: {host: "Inner:81", regex: "^/users/([0-9]+)$", substitution: '/u/\1'}
          request_headers: {set: {X-A: a, X-Empty: ""}, add: {X-B: b c}, remove: [X-C]}
          response_headers: {remove: [Server]}
        """,
    )
    assert spec == RouteSpec(
        name="GET,POST,PURGE api.example.com~/users/[0-9]+",
        service=None,
        host="api.example.com",
        path_regex="/users/[0-9]+",
        methods=("GET", "POST", "PURGE"),
        headers=(("X-Version", "2"), ("X-Any", "*")),
        services=(("v1", 90), ("V2", 10), ("v3", 0)),
        sticky="cookie:session",
        timeout=3.0,
        retry=RetrySpec(attempts=1, on=("5xx",), any_method=True),
        rate_limit=RateLimitSpec("GET,POST,PURGE api.example.com~/users/[0-9]+", 0.5, 1, "header:X-User"),
        rewrite=RewriteSpec(None, "inner:81", "^/users/([0-9]+)$", r"/u/\1"),
        request_headers=HeaderEdits(("X-C",), (("X-A", "a"), ("X-Empty", "")), (("X-B", "b c"),)),
        response_headers=HeaderEdits(("Server",)),
    )


def test_what_a_rule_does_not_say_is_none(folder: Folder) -> None:
    text = "routes: [{service: a, methods: [], headers: {}, services: {}, timeout: none, rate_limit: {key: client_ip}}]"
    assert routes(folder, text) == (RouteSpec("*", "a"),)


def test_redirects(folder: Folder) -> None:
    text = """
    routes:
    - {path: /old, redirect: {status: 308, path: "/new?from=old"}}
    - {redirect: {scheme: HTTPS, host: "Example.com:8443"}, rate_limit: {requests_per_second: 3}}
    """
    first, second = routes(folder, text)
    assert first == RouteSpec("/old", None, path="/old", redirect=RedirectSpec(308, None, None, "/new?from=old"))
    assert second.redirect == RedirectSpec(302, "https", "example.com:8443", None)
    assert second.rate_limit == RateLimitSpec("*", 3.0, 3)


@pytest.mark.parametrize("host", ["[::1]:8080", "[::1]", "10.0.0.1:1", "a_b.example.com."])
def test_hosts_that_a_request_is_given(folder: Folder, host: str) -> None:
    (spec,) = routes(folder, f"routes: [{{service: a, rewrite: {{host: '{host}'}}}}]")
    assert spec.rewrite == RewriteSpec(host=host)


def test_a_host_in_an_answer_means_nothing_and_may_be_taken_out(folder: Folder) -> None:
    (spec,) = routes(folder, "routes: [{service: a, response_headers: {remove: [Host, X-Forwarded-For]}}]")
    assert spec.response_headers == HeaderEdits(("Host", "X-Forwarded-For"))


def test_a_rules_retry_is_over_that_of_its_service(folder: Folder) -> None:
    a, b, weighted, other, plain = routes(
        folder,
        """
        retry: {backoff: 1s}
        services: {a: {retry: {attempts: 5, budget: {min: 7}}}}
        routes:
        - {path: /1, service: a, retry: {on: [timeout]}}
        - {path: /2, service: b, retry: {on: [timeout]}}
        - {path: /3, services: {a: 1, b: 1}, retry: {attempts: 1}}
        - {path: /4, service: b, retry: {attempts: 0}}
        - {path: /5, service: a}
        """,
    )
    assert a.retry == RetrySpec(attempts=5, backoff=1.0, on=("timeout",), budget_min=7)
    assert b.retry == RetrySpec(attempts=2, backoff=1.0, on=("timeout",))
    assert weighted.retry == RetrySpec(attempts=1, backoff=1.0)
    assert other.retry == RetrySpec(attempts=0, backoff=1.0)
    assert plain.retry is None


def test_rules_that_look_alike_have_labels_of_their_own(folder: Folder) -> None:
    text = "routes: [{service: a, path_prefix: /x}, {service: a, path: /x}, {service: a, path: /x, methods: [GET]}]"
    assert [spec.name for spec in routes(folder, text)] == ["/x", "/x#2", "GET /x"]


def test_rate_limits_of_listeners(folder: Folder) -> None:
    one, two, three, four = listeners(
        folder,
        """
        target_service_addr: a:1
        rate_limit: {requests_per_second: 2.5, routes: [/api, /login, /api]}
        limits: {max_connections_per_client: 5}
        listeners:
        - {address: ":1", name: one}
        - {address: ":2", name: two, rate_limit: {burst_size: 9, key: client_ip, routes: []}}
        - {address: ":3", name: three, rate_limit: {requests_per_second: 0}, limits: {max_connections_per_client: none}}
        - {address: ":4", name: four, protocol: tcp, rate_limit: {requests_per_second: 0.1, routes: []}}
        """,
    )
    assert one.rate_limit == RateLimitSpec("one", 2.5, 3, "route", ("/api", "/login"))
    assert two.rate_limit == RateLimitSpec("two", 2.5, 9, "client_ip")
    assert three.rate_limit is None
    assert four.rate_limit == RateLimitSpec("four", 0.1, 1)
    assert [spec.max_connections_per_client for spec in (one, two, three, four)] == [5, 5, None, 5]
    assert one.limits == Limits()


def test_no_two_rate_limits_share_a_name(folder: Folder) -> None:
    text = """
    rate_limit: {requests_per_second: 1}
    routes: [{path_prefix: /x, service: a, rate_limit: {requests_per_second: 2}}]
    listeners: [{address: ":1", name: one}, {address: ":2", name: two}, {address: ":3", name: /x}]
    """
    specs = listeners(folder, text)
    assert [spec.routes[0].name for spec in specs] == ["/x", "/x", "/x"]
    limits = [spec.rate_limit for spec in specs] + [spec.routes[0].rate_limit for spec in specs]
    assert [limit.name for limit in limits if limit] == ["one", "two", "/x", "one /x", "two /x", "/x /x"]


def test_a_label_is_the_rule_itself_where_nothing_else_has_it(folder: Folder) -> None:
    (spec,) = routes(folder, "routes: [{path_prefix: /x, service: a, rate_limit: {requests_per_second: 2}}]")
    assert spec.rate_limit == RateLimitSpec("/x", 2.0, 2)


FIELD = "is not the name of a header field; letters, digits and !#$%&'*+-.^_`|~"
HOP = "cannot be edited: it concerns this hop alone, for which Charon speaks"
FRAMES = "cannot be edited: it says where the message ends, which Charon alone decides"
OURS = "cannot be edited: Charon writes it itself"


@pytest.mark.parametrize(
    ("route", "problem"),
    [
        (
            "service: a, services: {b: 1}",
            ".services: not together with service; a route has one of service, services and redirect",
        ),
        (
            "services: {b: 1}, redirect: {path: /a}",
            ".redirect: not together with services; a route has one of service, services and redirect",
        ),
        ("path: /a", ": the route has no service"),
        ("services: {}", ": the route has no service"),
        ("services: {a: 0, b: 0}", ".services: all weights are 0; give at least one service a weight"),
        ("services: {a: -1}", ".services.a: '-1' is not allowed; write a whole number from 0 to 1000000"),
        ("service: a, sticky: 'cookie:c'", ".sticky: there is nothing to choose from without services"),
        ("services: {a: 1}, sticky: client_ip", ".sticky: 'client_ip' is not known; write cookie:NAME or header:NAME"),
        ("redirect: {}", ".redirect: the client would be sent where it came from; give scheme, host or path"),
        (
            "redirect: {status: 304, path: /a}",
            ".redirect.status: '304' is not the status of a redirect; write 301, 302, 303, 307 or 308",
        ),
        ("redirect: {scheme: ftp}", ".redirect.scheme: 'ftp' is not a scheme; write http or https"),
        ("redirect: {path: /a}, timeout: 1s", ".timeout: it has no effect on a route with a redirect"),
        ("redirect: {path: /a}, retry: {attempts: 1}", ".retry: it has no effect on a route with a redirect"),
        ("service: a, methods: [GET, 'P T']", ".methods[1]: 'P T' is not a method; write a word such as GET or POST"),
        ("service: a, headers: {'a b': c}", f".headers.'a b': 'a b' {FIELD}"),
        (
            'service: a, headers: {a: "b\\nc"}',
            ".headers.a: this is not the value of a header field; only printable ASCII may stand there",
        ),
        ("service: a, headers: {X-A: b, x-a: c}", ".headers: x-a and X-A are the same header field; give it once"),
        (
            "service: a, request_headers: {set: {Transfer-Encoding: chunked}}",
            f".request_headers.set.Transfer-Encoding: Transfer-Encoding {FRAMES}",
        ),
        (
            "service: a, response_headers: {remove: [content-length]}",
            f".response_headers.remove[0]: content-length {FRAMES}",
        ),
        (
            "service: a, request_headers: {add: {Host: x}}",
            ".request_headers.add.Host: Host cannot be edited: rewrite.host changes it",
        ),
        (
            "service: a, request_headers: {remove: [content_length]}",
            f".request_headers.remove[0]: content_length {FRAMES}",
        ),
        ("service: a, request_headers: {set: {X_Real-IP: a}}", f".request_headers.set.X_Real-IP: X_Real-IP {OURS}"),
        ("service: a, request_headers: {add: {Via: a}}", f".request_headers.add.Via: Via {OURS}"),
        (
            "service: a, request_headers: {set: {Proxy: a}}",
            ".request_headers.set.Proxy: Proxy cannot be edited: applications read it as HTTP_PROXY",
        ),
        ("service: a, response_headers: {set: {Expect: a}}", f".response_headers.set.Expect: Expect {HOP}"),
        (
            "service: a, request_headers: {set: {HTTP2-Settings: a}}",
            f".request_headers.set.HTTP2-Settings: HTTP2-Settings {HOP}",
        ),
        ("service: a, path_prefix: /a%00", ".path_prefix: '/a%00' is not a path; %00, a NUL, stands in no path"),
        (
            "service: a, rewrite: {path_prefix: /a%00}",
            ".rewrite.path_prefix: '/a%00' is not a path; %00, a NUL, stands in no path",
        ),
        (
            "service: a, rewrite: {regex: /a, substitution: /%00}",
            ".rewrite.substitution: '/%00' is not a path; %00, a NUL, stands in no path",
        ),
        (
            "service: a, rewrite: {regex: /a, substitution: '/\\0'}",
            ".rewrite.substitution: it does not go with the regex: \\0 is a NUL, which no path may hold; the whole "
            "match is \\g<0>",
        ),
        ("redirect: {path: '/a%00?b'}", ".redirect.path: '/a%00' is not a path; %00, a NUL, stands in no path"),
        ("redirect: {path: '/a?b%00'}", ".redirect.path: '/a?b%00' has a NUL in it; write it without %00"),
        (
            "redirect: {path: '/a?b#c'}",
            ".redirect.path: '/a?b#c' has no valid query; other characters are percent-encoded",
        ),
        (
            "service: a, rate_limit: {requests_per_second: 1e-320}",
            ".rate_limit.requests_per_second: '1e-320' is not allowed; write 0, or a number from 0.000001 to 1e+09",
        ),
        (
            "service: a, path_regex: '" + "(" * 60 + ")" * 60 + "'",
            ".path_regex: the regular expression is too long; at most 2000 characters and 50 groups",
        ),
        (
            "service: a, path_regex: '/a('",
            ".path_regex: '/a(' is not a regular expression: missing ), unterminated subpattern at position 2",
        ),
        (
            "service: a, path_regex: '/caf\\u00e9'",
            ".path_regex: '/caf\\u00e9' is not a regular expression: bad escape \\u at position 4",
        ),
        (
            "service: a, path_regex: /café",
            ".path_regex: '/café' can match no path; other characters are percent-encoded (%XX), as in caf%C3%A9",
        ),
        ("service: a, rewrite: {regex: /a}", ".rewrite.regex: it needs a substitution"),
        ("service: a, rewrite: {substitution: /a}", ".rewrite.substitution: it needs a regex"),
        (
            "service: a, rewrite: {regex: /a, substitution: '/\\1'}",
            ".rewrite.substitution: it does not go with the regex: invalid group reference 1 at position 2",
        ),
        (
            "service: a, rewrite: {regex: /a, substitution: '/\\g<x>'}",
            ".rewrite.substitution: it does not go with the regex: unknown group name 'x'",
        ),
        (
            "service: a, rewrite: {regex: /a, substitution: '/b?c'}",
            ".rewrite.substitution: '/b?c' is not a path; other characters are percent-encoded, '?' and '#' end a path",
        ),
        (
            "service: a, rewrite: {regex: /a, substitution: /b, path_prefix: /c}",
            ".rewrite.regex: not together with path_prefix; give one of them",
        ),
        (
            "service: a, path: /a, rewrite: {path_prefix: /b}",
            ".rewrite.path_prefix: path and path_regex leave no prefix to replace; use regex and substitution",
        ),
        (
            "service: a, retry: {budget: {percent: 1}}",
            ".retry.budget: unknown key here; the requests of a service share "
            "one budget; give it in retry at the top level or in services.NAME.retry",
        ),
        (
            "service: a, rate_limit: {routes: [/a]}",
            ".rate_limit.routes: unknown key here; the limit of a route is for "
            "that route; rate_limit of a listener takes path prefixes",
        ),
        (
            "service: a, rate_limit: {key: 'header:a b'}",
            ".rate_limit.key: 'header:a b' is not known; write route, client_ip or header:NAME",
        ),
    ],
)
def test_mistakes_in_a_rule(folder: Folder, route: str, problem: str) -> None:
    assert folder.problems(f"routes:\n- {{{route}}}") == [f"2: routes[0]{problem}"]
    assert folder.problems(f"listeners:\n- address: ':1'\n  routes:\n  - {{{route}}}") == [
        f"4: listeners[0].routes[0]{problem}"
    ]


@pytest.mark.parametrize(
    "route",
    [
        "service: [a]",
        "services: {a: x}",
        "redirect: {path: b}",
        "services: {a: x}, sticky: 'cookie:c'",
        "service: a, rewrite: {regex: /a, substitution: 'b c'}",
        "service: a, rewrite: {regex: '(', substitution: b}",
    ],
)
def test_nothing_is_concluded_from_what_could_not_be_read(folder: Folder, route: str) -> None:
    assert len(folder.problems(f"routes: [{{{route}}}]")) == 1


def test_a_weighted_service_that_cannot_exist(folder: Folder) -> None:
    text = "registry_file: none\nservices: {food: {addresses: [a:1]}}\nroutes:\n- services:\n    food: 1\n    foo: 2"
    assert folder.problems(text) == [
        "6: routes[0].services.foo: there is no service 'foo' (did you mean food?); give it addresses under services, "
        "or give a registry_file"
    ]


def test_weighted_services_need_the_registry(folder: Folder) -> None:
    config = folder.load("services: {a: {addresses: [a:1]}}\nroutes: [{services: {a: 1, b: 1}}]")
    assert config.registry_file == folder.path / "registry.yaml"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "rate_limit: {requests_per_second: 1, key: 'header:a'}\nlisteners: [{address: ':1', "
            "protocol: tcp, name: x}]",
            "2: rate_limit.key: a TCP connection has no header fields; give key: route or key: client_ip in rate_limit "
            "of the tcp listener x",
        ),
        (
            "rate_limit: {requests_per_second: 1}\nlisteners:\n- address: ':1'\n  protocol: tcp\n  rate_limit:\n"
            "    routes: [/a]",
            "7: listeners[0].rate_limit.routes: a TCP connection has no path; give routes: [] in rate_limit of the tcp "
            "listener tcp-1",
        ),
        ("protocol: tcp\nrate_limit: {key: 'header:a', routes: [/a]}", None),
    ],
)
def test_a_connection_has_neither_path_nor_header(folder: Folder, text: str, problem: str | None) -> None:
    assert folder.problems("target_service_addr: a:1\n" + text) == ([problem] if problem else [])


def test_mistakes_of_every_kind_are_reported_together(folder: Folder) -> None:
    folder.file.write_text("retry: {on: [x]}\nroutes: [{service: a, methods: ['(']}]\nload_balancing: x\n")
    assert len(read_config(folder.file, {}).problems) == 3
