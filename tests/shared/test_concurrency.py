"""The number of requests at the same time, found out: on simulated services with a known capacity."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from charon.config.snapshot import ConcurrencySpec
from charon.policy.concurrency import FIRST_LIMIT
from charon.shared.concurrency import ServiceConcurrency
from charon.shared.table import SharedTable

SERVICE_TIME = 0.02
SERVERS = 8
PEAK = SERVERS / SERVICE_TIME


@dataclass
class Service:
    """``servers`` requests at a time, each for as long as ``work`` says, the rest in one queue; and the workers in
    front of it, which share its limit."""

    workers: list[ServiceConcurrency]
    servers: int = SERVERS
    work: Callable[[random.Random], float] = lambda rng: SERVICE_TIME
    now: float = 0.0
    latencies: list[tuple[float, float]] = field(default_factory=list)
    shed: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(42)
        self.free = self.servers
        self.queue: list[tuple[float, int]] = []
        self.ends: list[tuple[float, float, int]] = []

    def run(self, seconds: float, rate: float) -> None:
        """Requests come by chance, ``rate`` a second, whatever becomes of them."""
        until = self.now + seconds
        arrival = self.now + self.rng.expovariate(rate)
        while True:
            if self.ends and self.ends[0][0] <= arrival:
                self._end(*heapq.heappop(self.ends))
                continue
            if arrival > until:
                self.now = until
                return
            self.now = arrival
            self._arrive(self.rng.randrange(len(self.workers)))
            arrival += self.rng.expovariate(rate)

    def _arrive(self, worker: int) -> None:
        if not self.workers[worker].enter():
            self.shed += 1
            return
        self.queue.append((self.now, worker))
        self._serve()

    def _serve(self) -> None:
        while self.free and self.queue:
            began, worker = self.queue.pop(0)
            self.free -= 1
            heapq.heappush(self.ends, (self.now + self.work(self.rng), began, worker))

    def _end(self, now: float, began: float, worker: int) -> None:
        self.now = now
        self.free += 1
        self.workers[worker].leave()
        self.latencies.append((now, now - began))
        self.workers[worker].observe(began, now)
        self._serve()

    def since(self, moment: float) -> list[float]:
        return sorted(latency for now, latency in self.latencies if now >= moment)

    def goodput(self, moment: float) -> float:
        return len(self.since(moment)) / (self.now - moment)

    def p99(self, moment: float) -> float:
        found = self.since(moment)
        return found[int(len(found) * 0.99)]


def made(workers: int = 1, **settings: float) -> list[ServiceConcurrency]:
    table = SharedTable.create(workers)
    spec = replace(ConcurrencySpec(), **settings)  # type: ignore[arg-type]
    return [ServiceConcurrency(table, 3, slot, spec) for slot in range(workers)]


def usual(service: Service) -> float:
    return service.workers[0]._read().usual


def varied(rng: random.Random) -> float:
    return rng.expovariate(1 / SERVICE_TIME)


def mixed(rng: random.Random) -> float:
    """One request in ten is ten times as slow as the others."""
    return SERVICE_TIME * (5.3 if rng.random() < 0.1 else 0.53)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("work", [lambda rng: SERVICE_TIME, varied, mixed], ids=["steady", "varied", "mixed"])
def test_three_times_too_much(work: Callable[[random.Random], float], workers: int) -> None:
    service = Service(made(workers), work=work)
    service.run(10, 0.5 * PEAK)
    assert service.shed == 0
    unloaded = service.p99(5)
    began = service.now
    service.run(70, 3 * PEAK)
    assert service.goodput(began + 2) > 0.95 * PEAK, "with the moments in which the usual latency is measured"
    assert service.p99(began + 2) < 6 * unloaded
    ended = service.now
    service.run(5, 0.5 * PEAK)
    shed = service.shed
    service.run(20, 0.5 * PEAK)
    assert service.shed == shed, "nothing is turned away any more"
    assert service.p99(ended + 5) < 1.5 * unloaded


def test_it_begins_in_the_middle_of_too_much() -> None:
    """Without ever having seen how fast the service is when there is little to do."""
    service = Service(made())
    service.run(5, 3 * PEAK)
    assert usual(service) == pytest.approx(SERVICE_TIME, rel=0.2)
    service.run(10, 3 * PEAK)
    assert service.goodput(5) > 0.95 * PEAK
    assert service.p99(5) < 6 * SERVICE_TIME


def test_a_service_with_much_room_is_not_held_up() -> None:
    service = Service(made(), servers=100_000, work=lambda rng: 0.5)
    service.run(3, 1000)
    shed = service.shed
    service.run(20, 1000)  # five hundred at a time
    assert service.shed == shed and service.workers[0].limit > 500


def test_capacity_that_is_lost_and_comes_back_is_followed() -> None:
    service = Service(made())
    service.run(10, 0.5 * PEAK)
    service.servers, service.free = SERVERS // 4, service.free - SERVERS * 3 // 4
    began = service.now
    service.run(20, 0.5 * PEAK)
    assert service.goodput(began + 5) > 0.9 * PEAK / 4
    assert service.p99(began + 5) < 10 * SERVICE_TIME
    service.free += SERVERS * 3 // 4
    service.run(5, 0.5 * PEAK)
    shed = service.shed
    service.run(10, 0.5 * PEAK)
    assert service.shed == shed


def test_a_service_that_is_slower_than_it_was_gets_its_new_usual_latency() -> None:
    service = Service(made(), servers=1000)
    service.run(10, 400)
    service.work = lambda rng: 5 * SERVICE_TIME
    service.run(20, 400)
    shed = service.shed
    service.run(20, 400)
    assert service.shed == shed
    assert usual(service) == pytest.approx(5 * SERVICE_TIME, rel=0.2)


def test_a_latency_that_is_given_is_not_measured() -> None:
    service = Service(made(target_latency=0.1))
    service.run(70, 3 * PEAK)
    assert 0.08 < service.since(10)[len(service.since(10)) // 2] < 0.2
    assert service.goodput(10) > 0.99 * PEAK


def test_the_limit_keeps_its_bounds() -> None:
    low, high = made(min_limit=6, target_latency=1e-6) + made(max_limit=50)
    for limit in (low, high):
        service = Service([limit], servers=10_000)
        service.run(3, 10_000)
    assert low.limit == 6
    assert high.limit <= 50
    high.follow(ConcurrencySpec(max_limit=10))
    assert high.limit == 10


def test_a_few_requests_in_a_long_time_decide_nothing() -> None:
    (limit,) = made()
    for number in range(100):
        assert limit.enter()
        limit.leave()
        limit.observe(number * 60.0, number * 60.0 + 5.0)
    assert limit.limit == FIRST_LIMIT
