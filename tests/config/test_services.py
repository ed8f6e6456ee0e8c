"""How services are treated: what the top level says, what a service says over it, and what cannot be meant."""

from textwrap import dedent

import pytest

from charon.config.compile import compile_settings
from charon.config.schema.retry import CONDITIONS
from charon.config.settings import Settings
from charon.config.snapshot import (
    BalanceSpec,
    BreakerSpec,
    BulkheadSpec,
    EndpointSpec,
    HealthCheckSpec,
    PassiveSpec,
    RetrySpec,
    ServiceSpec,
    SocketAddress,
    TimeoutOverrides,
)
from charon.policy.retry import condition
from tests.config.support import Folder

TARGET = "target_service_addr: a:1\n"


def compiled(folder: Folder, text: str) -> Settings:
    return compile_settings(folder.load(TARGET + dedent(text)))


def test_breaker_checks_and_retries_are_on_by_default(folder: Folder) -> None:
    settings = compiled(folder, "services: {a: {addresses: [a:1]}, b: {}}")
    assert settings.default_service == ServiceSpec(
        name="",
        endpoints=(),
        balance=BalanceSpec("round_robin", "client_ip", 0.0),
        breaker=BreakerSpec(failure_threshold=3, open_duration=20.0, error_rate=None),
        health_check=HealthCheckSpec("tcp", 5.0, 2.0, "/", None, ((200, 200),), 1, 1),
        passive=PassiveSpec(failures=3, cooldown=30.0, max_cooldown=300.0, max_ejected_percent=50.0),
        retry=RetrySpec(2, 0.15, 2.0, ("connect-failure", "reset"), None, 20.0, 3, 65536, False),
        bulkhead=None,
        timeouts=None,
    )
    assert settings.service_settings == {}, "a service that says nothing is treated like all"


def test_everything_can_be_switched_off(folder: Folder) -> None:
    spec = compiled(
        folder,
        """
        circuit_breaker: {enabled: false}
        health_check: {enabled: false, passive_failures: 0}
        retry: {attempts: 0}
        """,
    ).default_service
    assert (spec.breaker, spec.health_check, spec.passive, spec.retry.attempts) == (None, None, None, 0)


def test_probes_and_passive_health_are_switched_off_one_by_one(folder: Folder) -> None:
    spec = compiled(folder, "health_check: {enabled: false}").default_service
    assert (spec.health_check, spec.passive) == (None, PassiveSpec())
    spec = compiled(folder, "health_check: {passive_failures: 0}").default_service
    assert (spec.health_check, spec.passive) == (HealthCheckSpec(), None)


def test_traffic_sets_aside_after_as_many_failures_as_the_breaker_needs(folder: Folder) -> None:
    text = "circuit_breaker: {enabled: false, failure_threshold: 7}\nhealth_check: {cooldown: 10m}"
    assert compiled(folder, text).default_service.passive == PassiveSpec(7, 600.0, 600.0)
    text = "circuit_breaker: {failure_threshold: 7}\nhealth_check: {passive_failures: 4, max_ejected_percent: 10}"
    assert compiled(folder, text).default_service.passive == PassiveSpec(4, max_ejected_percent=10.0)


def test_every_value_that_is_given_is_used(folder: Folder) -> None:
    spec = compiled(
        folder,
        """
        load_balancing: {algorithm: RING_HASH, hash_on: "Cookie:session", slow_start: 1m}
        circuit_breaker: {failure_threshold: 5, open_duration: 30s, error_rate: 50%, window: 5s, min_requests: 7}
        health_check:
          {type: http, interval: 1s, timeout: 500ms, path: /up, host: "Up.example.com:81", healthy_threshold: 2,
           unhealthy_threshold: 3, expected_status: [200-299, "404"], cooldown: 1s, max_cooldown: 9s}
        retry:
          {attempts: 5, backoff: 1s, max_backoff: 3s, on: [Connect_Failure, refused, reset, timeout, 5xx, gateway_error,
           503, 429, reset], per_try_timeout: 2s, max_body_bytes: 1KiB, budget: {percent: 50, min: 0}}
        limits: {max_requests_per_endpoint: 9, max_pending: 0, pending_timeout: 2s}
        """,
    ).default_service
    assert spec == ServiceSpec(
        name="",
        endpoints=(),
        balance=BalanceSpec("ring_hash", "cookie:session", 60.0),
        breaker=BreakerSpec(5, 30.0, 0.5, 5.0, 7),
        health_check=HealthCheckSpec("http", 1.0, 0.5, "/up", "up.example.com:81", ((200, 299), (404, 404)), 2, 3),
        passive=PassiveSpec(5, 1.0, 9.0, 50.0),
        retry=RetrySpec(
            attempts=5,
            backoff=1.0,
            max_backoff=3.0,
            on=("connect-failure", "refused", "reset", "timeout", "5xx", "gateway-error", "503", "429"),
            per_try_timeout=2.0,
            budget_percent=50.0,
            budget_min=0,
            max_body_bytes=1024,
        ),
        bulkhead=BulkheadSpec(9, 0, 2.0),
    )


def test_a_service_overrides_key_by_key(folder: Folder) -> None:
    settings = compiled(
        folder,
        """
        load_balancing: {algorithm: ring_hash, hash_on: path}
        circuit_breaker: {failure_threshold: 5}
        health_check: {interval: 1s}
        retry: {attempts: 1, budget: {percent: 5}}
        limits: {max_requests_per_endpoint: 10, max_body_bytes: 1MB}
        services:
          a:
            load_balancing: {hash_on: "header:X-User"}
            circuit_breaker: {open_duration: 1s}
            health_check: {type: http}
            retry: {backoff: 1s, budget: {min: 9}}
            limits: {max_pending: 7}
            timeouts: {request: 5s}
          b:
            load_balancing: least_request
            circuit_breaker: {enabled: false}
            limits: {max_requests_per_endpoint: none}
          c: {addresses: [a:1]}
        """,
    )
    default, a, b = settings.default_service, settings.service_settings["a"], settings.service_settings["b"]
    assert set(settings.service_settings) == {"a", "b"}
    assert default.bulkhead == BulkheadSpec(10, 100, 1.0)
    assert (a.name, a.balance) == ("a", BalanceSpec("ring_hash", "header:X-User"))
    assert a.breaker == BreakerSpec(failure_threshold=5, open_duration=1.0)
    assert a.health_check == HealthCheckSpec(type="http", interval=1.0)
    assert a.retry == RetrySpec(attempts=1, backoff=1.0, budget_percent=5.0, budget_min=9)
    assert a.bulkhead == BulkheadSpec(10, 7, 1.0)
    assert a.timeouts == TimeoutOverrides(request=5.0)
    assert (b.balance.algorithm, b.breaker, b.bulkhead, b.timeouts) == ("least_request", None, None, None)
    assert b.passive == default.passive


def test_endpoints_get_the_treatment_of_their_service(folder: Folder) -> None:
    settings = compiled(folder, "services: {a: {retry: {attempts: 7}}}")
    endpoint = EndpointSpec("10.0.0.1:80", (SocketAddress("10.0.0.1", 80),))
    treat = settings.treating()
    a, b = treat("a", (endpoint,), 3), treat("b", (), 4)
    assert (a.name, a.retry.attempts, a.endpoints, a.row) == ("a", 7, (endpoint,), 3)
    assert (b.name, b.retry.attempts, b.endpoints, b.row) == ("b", 2, (), 4)


@pytest.mark.parametrize(
    ("written", "ranges"),
    [
        ("204", ((204, 204),)),
        ("200-299", ((200, 299),)),
        ("[200, 300 - 399]", ((200, 200), (300, 399))),
    ],
)
def test_expected_statuses(folder: Folder, written: str, ranges: tuple[tuple[int, int], ...]) -> None:
    check = compiled(folder, f"health_check: {{expected_status: {written}}}").default_service.health_check
    assert check is not None
    assert check.expected_status == ranges


@pytest.mark.parametrize(
    ("written", "rate"), [("0.25", 0.25), ("1", 1.0), ("100%", 1.0), ("2.5 %", 0.025), ("none", None)]
)
def test_error_rates(folder: Folder, written: str, rate: float | None) -> None:
    breaker = compiled(folder, f"circuit_breaker: {{error_rate: {written}}}").default_service.breaker
    assert breaker is not None
    assert breaker.error_rate == rate


STATUS = "write a number from 100 to 599, or a range such as 200-299"
RATE = "write a share above 0 and at most 1, such as 0.5, or a percentage such as 50%"
ALGORITHMS = "write round_robin, least_request, random, ring_hash or ewma"
HOST = "write a name or an address, with :port where one is wanted, such as api.example.com or [::1]:8080"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("health_check: {expected_status: 600}", f"health_check.expected_status: '600' is not a status; {STATUS}"),
        (
            "health_check: {expected_status: 299-200}",
            f"health_check.expected_status: '299-200' is not a status; {STATUS}",
        ),
        ("health_check: {expected_status: [200, x]}", f"health_check.expected_status: 'x' is not a status; {STATUS}"),
        (
            "health_check: {expected_status: []}",
            "health_check.expected_status: the list is empty; give at least one status",
        ),
        ("health_check: {host: 'a b'}", f"health_check.host: 'a b' is not a host; {HOST}"),
        ("health_check: {host: '::1'}", f"health_check.host: '::1' is not a host; {HOST}"),
        ("health_check: {host: 'a:x'}", f"health_check.host: 'a:x' is not a host; {HOST}"),
        ("circuit_breaker: {error_rate: 50}", f"circuit_breaker.error_rate: '50' is not allowed; {RATE}"),
        ("circuit_breaker: {error_rate: 0}", f"circuit_breaker.error_rate: '0' is not allowed; {RATE}"),
        ("circuit_breaker: {error_rate: 101%}", f"circuit_breaker.error_rate: '101%' is not allowed; {RATE}"),
        ("circuit_breaker: {error_rate: nan}", f"circuit_breaker.error_rate: 'nan' is not allowed; {RATE}"),
        (
            "load_balancing: rnd_robin",
            f"load_balancing: 'rnd_robin' is not known (did you mean round_robin?); {ALGORITHMS}",
        ),
        ("load_balancing: {algorithm: x}", f"load_balancing.algorithm: 'x' is not known; {ALGORITHMS}"),
        (
            "load_balancing: [random]",
            "load_balancing: a block of keys is expected here, such as algorithm, hash_on, slow_start",
        ),
        (
            "load_balancing: {hash_on: 'header:a b'}",
            "load_balancing.hash_on: 'header:a b' is not known; write client_ip, path, header:NAME or cookie:NAME",
        ),
        (
            "retry: {on: [reset, timeot]}",
            "retry.on[1]: 'timeot' is not a condition (did you mean timeout?); write connect-failure, refused, reset, "
            "timeout, 5xx, gateway-error or a status from 400 to 599",
        ),
        (
            "retry: {on: [200]}",
            "retry.on[0]: '200' is not a condition; write connect-failure, refused, reset, timeout, 5xx, gateway-error "
            "or a status from 400 to 599",
        ),
        (
            "retry: {methods: any}",
            "retry.methods: any is only allowed in retry of a route, as it lets a service see a POST twice",
        ),
        (
            "services: {a: {retry: {methods: any}}}",
            "services.a.retry.methods: any is only allowed in retry of a route, as it lets a service see a POST twice",
        ),
        (
            "retry: {budget: {min_per_second: 3}}",
            "retry.budget.min_per_second: unknown key; known here are min, percent",
        ),
        ("limits: {max_pending: 5}", "limits.max_pending: it has no effect without max_requests_per_endpoint"),
        (
            "services: {a: {limits: {pending_timeout: 5}}}",
            "services.a.limits.pending_timeout: it has no effect without max_requests_per_endpoint",
        ),
        (
            "services: {a: {timeouts: {client_fin: 5}}}",
            "services.a.timeouts.client_fin: unknown key here; it is about clients; give it in timeouts at the top "
            "level or in an entry of listeners",
        ),
        (
            "services: {a: {limits: {max_connections: 5}}}",
            "services.a.limits.max_connections: unknown key here; connections belong to listeners; give it in limits "
            "at the top level or in an entry of listeners",
        ),
        (
            "listeners: [{address: ':1', limits: {max_total_connections: 5}}]",
            "listeners[0].limits.max_total_connections: unknown key here; it counts the connections of all listeners; "
            "give it in limits at the top level",
        ),
        (
            "limits: {adaptive_concurrency: {min_limit: 2000}}",
            "limits.adaptive_concurrency.min_limit: it is more than max_limit, 1000",
        ),
        (
            "services: {a: {limits: {adaptive_concurrency: {max_limit: 2}}}}",
            "services.a.limits.adaptive_concurrency.max_limit: it is less than min_limit, 4",
        ),
    ],
)
def test_mistakes(folder: Folder, text: str, problem: str) -> None:
    assert folder.problems(TARGET + text) == [f"2: {problem}"]


@pytest.mark.parametrize("key", ["circuit_breaker", "health_check", "load_balancing", "retry"])
def test_what_is_about_endpoints_does_not_belong_to_a_listener(folder: Folder, key: str) -> None:
    assert folder.problems(TARGET + f"listeners:\n- address: ':1'\n  {key}: {{}}") == [
        f"4: listeners[0].{key}: unknown key here; endpoints are shared by all listeners; give it at the top level, "
        f"for all services, or in services.NAME.{key}"
    ]


@pytest.mark.parametrize("key", ["max_requests_per_endpoint", "max_pending", "adaptive_concurrency"])
def test_limits_of_endpoints_do_not_belong_to_a_listener(folder: Folder, key: str) -> None:
    assert folder.problems(TARGET + f"listeners:\n- address: ':1'\n  limits: {{{key}: 5}}") == [
        f"4: listeners[0].limits.{key}: unknown key here; endpoints are shared by all listeners; give it in limits at "
        "the top level, for all services, or in services.NAME.limits"
    ]


def test_waiting_needs_a_bound_somewhere(folder: Folder) -> None:
    one = "limits: {max_pending: 5}\nservices: {a: {limits: {max_requests_per_endpoint: 1}}}"
    assert compiled(folder, one).service_settings["a"].bulkhead == BulkheadSpec(1, 5, 1.0)
    assert folder.problems(TARGET + "limits: {max_pending: 5, max_requests_per_endpoint: banana}") != []
    assert len(folder.problems(TARGET + "limits: {max_pending: 5, max_requests_per_endpoint: banana}")) == 1


@pytest.mark.parametrize("word", [*CONDITIONS, "429", "503"])
def test_the_policy_knows_every_retry_condition(word: str) -> None:
    assert condition(word) == word
