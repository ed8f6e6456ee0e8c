"""Active health checks: every endpoint is probed on its own schedule by a bounded pool of greenlets.

It runs in the supervisor, so a busy data plane delays no probe. Trust: a probed endpoint's answer is read by the same
strict grammar as any other answer, only its status counts, and its body is not read at all.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from time import monotonic

import gevent
from gevent.event import Event as Flag
from gevent.pool import Pool

from charon.base.errors import BadMessage, ExchangeFailed
from charon.config.snapshot import ClientTlsSpec, EndpointSpec, HealthCheckSpec, ServiceSpec, TlsMaterial
from charon.net.accept import why
from charon.net.dial import dial
from charon.net.stream import DeadlineExceeded, Stream
from charon.net.tasks import spawn
from charon.net.tls import Contexts, EndpointTls
from charon.policy.health import Probe, first_delay, next_delay, observe
from charon.wire.messages import HeadLimits, parse_response
from charon.wire.proxy_protocol import header

YIELD_EVERY = 500
"""Services taken over between two turns of the event loop."""

AT_ONCE = 128
"""Probes that may be under way at the same time."""

_LIMITS = HeadLimits()

OnResult = Callable[[str, EndpointSpec, bool, str], None]
"""Called with service, endpoint, whether it is healthy now, and why, when that has changed or is first known."""


class _Target:
    """One endpoint under watch. ``due`` is when it is probed next (monotonic seconds)."""

    __slots__ = ("due", "endpoint", "hello", "probe", "service", "spec", "tls", "watched")

    def __init__(self, service: str, endpoint: EndpointSpec, spec: HealthCheckSpec, due: float) -> None:
        self.service = service
        self.endpoint = endpoint
        self.spec = spec
        self.due = due
        self.tls: ClientTlsSpec | None = None
        self.hello = b""
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
        self._changes: deque[tuple[list[ServiceSpec], list[str]]] = deque()
        self._pool = Pool(AT_ONCE)
        self._contexts = Contexts()
        self._wake = Flag()
        self._task = spawn("health checks", self._run)

    def __repr__(self) -> str:
        return f"<HealthChecker services={len(self._targets)} under way={len(self._pool)}>"

    def watch(self, changed: Iterable[ServiceSpec], gone: Iterable[str], materials: Mapping[str, TlsMaterial]) -> None:
        """Probe the endpoints of ``changed`` services whose checks are on, and no others of theirs; those of services
        that have ``gone`` no more. What is known of those that are kept stays. It is done in the background: a change
        of a large registry need not wait for it.

        Where a service is spoken to under TLS so is the probe, with ``materials``. Raises ValueError, and changes
        nothing, when one of those cannot be used.
        """
        self._contexts.use(materials)
        self._changes.append((list(changed), list(gone)))
        self._wake.set()

    def _take_over(self) -> None:
        while self._changes:
            changed, gone = self._changes.popleft()
            for name in gone:
                for target in self._targets.pop(name, {}).values():
                    target.watched = False
            now = monotonic()
            for number, service in enumerate(changed, 1):
                self._follow(service, now)
                if number % YIELD_EVERY == 0:
                    gevent.sleep(0)

    def _follow(self, service: ServiceSpec, now: float) -> None:
        before = self._targets.pop(service.name, {})
        check = service.health_check
        if check is not None and service.endpoints:
            kept = self._targets[service.name] = {}
            for endpoint in service.endpoints:
                known = before.pop(endpoint.name, None)
                target = known if known is not None else self._new(service.name, endpoint, check, now)
                target.endpoint = endpoint
                target.spec = check
                target.tls = service.tls
                target.hello = header(service.proxy_header, None) if service.proxy_header else b""
                kept[endpoint.name] = target
        for target in before.values():
            target.watched = False

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
            self._take_over()
            for target in self._due():
                self._pool.spawn(self._check, target)
            if self._changes:
                continue
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
            # No session is kept: a probe that resumes one would not look at the certificate.
            tls = None
            if target.tls is not None:
                tls = self._contexts.client(target.tls).to(target.service, target.endpoint)
            problem = probe(target.endpoint, spec, tls, target.hello)
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


def probe(
    endpoint: EndpointSpec, spec: HealthCheckSpec, tls: EndpointTls | None = None, hello: bytes = b""
) -> str | None:
    """Ask one endpoint once, within ``spec.timeout``; under ``tls`` where that is given, ``hello`` before it.

    Returns why it is not well, or None when it is.
    """
    cutoff = monotonic() + spec.timeout
    try:
        stream = dial(endpoint.candidates, spec.timeout, tls=tls, hello=hello)
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
