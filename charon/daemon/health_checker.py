"""Active health checks: every endpoint is probed on its own schedule by a bounded pool of greenlets.

It runs in the supervisor, so a busy data plane delays no probe. Trust: a probed endpoint's answer is read by the same
strict grammar as any other answer, only its status counts, and its body is not read at all.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from time import monotonic

from gevent.event import Event as Flag
from gevent.pool import Pool

from charon.base.errors import BadMessage, ExchangeFailed
from charon.config.snapshot import EndpointSpec, HealthCheckSpec, ServiceSpec
from charon.net.accept import why
from charon.net.dial import dial
from charon.net.stream import DeadlineExceeded, Stream
from charon.net.tasks import spawn
from charon.policy.health import Probe, first_delay, next_delay, observe
from charon.wire.messages import HeadLimits, parse_response

AT_ONCE = 128
"""Probes that may be under way at the same time."""

_LIMITS = HeadLimits()

OnResult = Callable[[str, EndpointSpec, bool, str], None]
"""Called with service, endpoint, whether it is healthy now, and why, when that has changed or is first known."""


class _Target:
    """One endpoint under watch. ``due`` is when it is probed next (monotonic seconds)."""

    __slots__ = ("due", "endpoint", "probe", "service", "spec", "watched")

    def __init__(self, service: str, endpoint: EndpointSpec, spec: HealthCheckSpec, due: float) -> None:
        self.service = service
        self.endpoint = endpoint
        self.spec = spec
        self.due = due
        self.probe: Probe | None = None
        self.watched = True

    def __lt__(self, other: _Target) -> bool:
        return self.due < other.due


class HealthChecker:
    """Probes what :meth:`watch` names, from the start and not only once there is traffic."""

    def __init__(self, on_result: OnResult, jitter: Callable[[], float] = random.random) -> None:
        self._on_result = on_result
        self._jitter = jitter
        self._targets: dict[str, dict[str, _Target]] = {}  # by service and endpoint
        self._heap: list[_Target] = []
        self._pool = Pool(AT_ONCE)
        self._wake = Flag()
        self._task = spawn("health checks", self._run)

    def __repr__(self) -> str:
        return f"<HealthChecker services={len(self._targets)} under way={len(self._pool)}>"

    def watch(self, changed: Iterable[ServiceSpec], gone: Iterable[str]) -> None:
        """Probe the endpoints of ``changed`` services whose checks are on, and no others of theirs; those of services
        that have ``gone`` no more. What is known of those that are kept stays."""
        for name in gone:
            for target in self._targets.pop(name, {}).values():
                target.watched = False
        now = monotonic()
        for service in changed:
            before = self._targets.pop(service.name, {})
            check = service.health_check
            if check is not None and service.endpoints:
                kept = self._targets[service.name] = {}
                for endpoint in service.endpoints:
                    known = before.get(endpoint.name)
                    target = known if known is not None else self._new(service.name, endpoint, check, now)
                    target.endpoint = endpoint
                    target.spec = check
                    kept[endpoint.name] = target
            for name, target in before.items():
                target.watched = name in self._targets.get(service.name, {})
        self._wake.set()

    def _new(self, service: str, endpoint: EndpointSpec, check: HealthCheckSpec, now: float) -> _Target:
        target = _Target(service, endpoint, check, now + first_delay(check, self._jitter()))
        heapq.heappush(self._heap, target)
        return target

    def healthy(self, service: str, endpoint: str) -> bool | None:
        """What the probes say of an endpoint; None when it is not probed, or not yet."""
        target = self._targets.get(service, {}).get(endpoint)
        return target.probe.healthy if target is not None and target.probe is not None else None

    def stop(self) -> None:
        """End all probing."""
        self._task.kill()
        self._pool.kill()

    def _run(self) -> None:
        while True:
            for target in self._due():
                self._pool.spawn(self._check, target)
            self._wake.clear()
            left = self._heap[0].due - monotonic() if self._heap else None
            self._wake.wait(timeout=None if left is None else max(left, 0.0))

    def _due(self) -> Iterable[_Target]:
        now = monotonic()
        while self._heap and self._heap[0].due <= now:
            target = heapq.heappop(self._heap)
            if target.watched:
                yield target

    def _check(self, target: _Target) -> None:
        spec = target.spec
        began = monotonic()
        try:
            problem = probe(target.endpoint, spec)
            if target.watched:
                self._conclude(target, problem)
        finally:  # whatever has happened, it is probed again
            if target.watched:
                healthy = target.probe is None or target.probe.healthy
                target.due = began + next_delay(spec, healthy, self._jitter())
                heapq.heappush(self._heap, target)
                self._wake.set()

    def _conclude(self, target: _Target, problem: str | None) -> None:
        before = target.probe
        target.probe = observe(before, problem is None, target.spec)
        if before is None or before.healthy != target.probe.healthy:
            self._on_result(target.service, target.endpoint, target.probe.healthy, problem or "ok")


def probe(endpoint: EndpointSpec, spec: HealthCheckSpec) -> str | None:
    """Ask one endpoint once, within ``spec.timeout``. Returns why it is not well, or None when it is."""
    cutoff = monotonic() + spec.timeout
    try:
        stream = dial(endpoint.candidates, spec.timeout)
    except ExchangeFailed as failure:
        return failure.detail or failure.reason.word
    try:
        stream.cutoff = cutoff
        return None if spec.type == "tcp" else _ask_http(stream, endpoint, spec)
    except DeadlineExceeded:
        return f"no answer in {spec.timeout:g} s"
    except OSError as error:
        return why(error)
    except BadMessage as bad:
        return bad.detail
    finally:
        stream.close()


def _ask_http(stream: Stream, endpoint: EndpointSpec, spec: HealthCheckSpec) -> str | None:
    host = spec.host or ("localhost" if endpoint.candidates[0].is_unix else endpoint.name)
    lines = f"GET {spec.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: charon-health\r\nConnection: close\r\n\r\n"
    stream.write(lines.encode("ascii"), spec.timeout)
    data = b""
    while True:
        more = stream.read(spec.timeout)
        if not more:
            return "closed before it answered"
        data += more
        parsed = parse_response(data, b"GET", _LIMITS)
        while parsed is not None:
            head, used = parsed
            if head.status >= 200:
                fine = any(first <= head.status <= last for first, last in spec.expected_status)
                return None if fine else f"status {head.status}"
            data = data[used:]
            parsed = parse_response(data, b"GET", _LIMITS)
