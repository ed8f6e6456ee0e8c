"""What keeps one worker able to work: it turns away new work that would only make everything late, gives memory back,
and tells when accepting pauses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from charon.base.names import Event, Metric
from charon.config.snapshot import OverloadSpec
from charon.net.capacity import MEMORY, Capacity
from charon.net.memory import Memory, give_back
from charon.policy.overload import LagControl, MemoryControl
from charon.telemetry.events import EventLog
from charon.telemetry.metrics import WorkerMetrics

LOOP_LAG = "loop_lag"
CAUSES = (LOOP_LAG, MEMORY)
"""What there can be too much of."""

_SETTLED = 1.0
"""Seconds without a pause after which accepting counts as resumed: at the limit it may pause at every connection."""


_MEMORY_SECONDS = 1.5
"""Between two looks at memory. What the last one has begun is done by then: idle clients have a second to leave."""


class Closable(Protocol):
    """What can be asked to close what is idle."""

    def close_idle(self) -> None: ...


class Guard:
    """One worker's guard. ``shedding`` is all that a request looks at while there is enough of everything.

    ``on_hopeless`` is called when memory stays short whatever is done: the worker is to be replaced.
    """

    __slots__ = (
        "_causes", "_events", "_lag", "_memory", "_memory_due", "_metrics", "_on_hopeless", "_paused_since", "_process",
        "capacity", "shedding",
    )  # fmt: skip

    def __init__(
        self, capacity: Capacity, events: EventLog, metrics: WorkerMetrics, on_hopeless: Callable[[], None]
    ) -> None:
        self.capacity = capacity
        self.shedding = False
        self._events = events
        self._metrics = metrics
        self._on_hopeless = on_hopeless
        self._lag: LagControl | None = None
        self._memory: MemoryControl | None = None
        self._memory_due = 0.0
        self._process = Memory()
        self._causes: dict[str, float] = {}
        self._paused_since: float | None = None

    def apply(self, spec: OverloadSpec, now: float) -> None:
        """Follow changed settings; what is going on goes on, by the new bounds."""
        if spec.max_loop_lag is None:
            self._lag = None
            self._note(LOOP_LAG, False, now)
        elif self._lag is None:
            self._lag = LagControl(spec.max_loop_lag)
        else:
            self._lag.bound = spec.max_loop_lag
        if spec.max_memory is None:
            self._memory = None
            self.capacity.hold(False)
            self._note(MEMORY, False, now)
        elif self._memory is None:
            self._memory = MemoryControl(spec.max_memory)
        else:
            self._memory.bound = spec.max_memory

    @property
    def causes(self) -> list[str]:
        """What there is too much of now."""
        return list(self._causes)

    # -- new work -----------------------------------------------------------------------------------------------

    def sheds(self) -> bool:
        """Whether a new request or connection is turned away. To be asked only while ``shedding``; counts it."""
        control = self._memory
        if control is not None and control.step == MemoryControl.TAKE_NOTHING:
            cause = MEMORY
        elif self._lag is not None and self._lag.sheds():
            cause = LOOP_LAG
        else:
            return False
        self._metrics.count(Metric.OVERLOAD_SHED, (cause,))
        return True

    # -- looking ------------------------------------------------------------------------------------------------

    def look_at_lag(self, lag: float, now: float) -> None:
        """Called by every sweep over the deadlines, which came ``lag`` seconds late."""
        control = self._lag
        if control is not None and (control.share or lag > control.bound):
            control.look(lag, now)
            self._note(LOOP_LAG, control.share > 0, now, lag_ms=round(lag * 1000))

    def look(self, now: float, clients: Iterable[Closable], pools: Iterable[Closable]) -> None:
        """Called a few times a second: look after memory and accepting."""
        control = self._memory
        if control is not None and now >= self._memory_due:
            self._memory_due = now + _MEMORY_SECONDS
            self._look_at_memory(control, now, clients, pools)
        self._tell_pauses(now)

    def _look_at_memory(
        self, control: MemoryControl, now: float, clients: Iterable[Closable], pools: Iterable[Closable]
    ) -> None:
        resident = self._process.resident_bytes()
        control.look(resident, now)
        if control.step:
            for client in clients:
                client.close_idle()
            if control.step >= MemoryControl.CLOSE_IDLE_UPSTREAMS:
                for pool in pools:
                    pool.close_idle()
            give_back()
        self.capacity.hold(control.step == MemoryControl.TAKE_NOTHING)
        self._note(MEMORY, control.step > 0, now, resident_bytes=resident)
        if control.hopeless(now):
            self._on_hopeless()

    def _note(self, cause: str, now_so: bool, now: float, **fields: Any) -> None:
        """Say when an overload begins and when it ends."""
        began = self._causes.get(cause)
        if now_so and began is None:
            self._causes[cause] = now
            self._metrics.count(Metric.OVERLOADS, (cause,))
            self._events.warning(Event.OVERLOAD_STARTED, cause=cause, **fields)
        elif not now_so and began is not None:
            del self._causes[cause]
            self._events.info(Event.OVERLOAD_ENDED, cause=cause, seconds=round(now - began, 3))
        self.shedding = LOOP_LAG in self._causes or (
            self._memory is not None and self._memory.step == MemoryControl.TAKE_NOTHING
        )

    def _tell_pauses(self, now: float) -> None:
        """At most one line a second, whatever comes and goes at the limit."""
        capacity = self.capacity
        recently = capacity.paused is not None or now - capacity.paused_at < _SETTLED
        if self._paused_since is None:
            if capacity.paused is not None:
                self._paused_since = now
                self._events.warning(Event.ACCEPTING_PAUSED, cause=capacity.paused, connections=capacity.open)
        elif not recently:
            seconds = round(now - self._paused_since, 3)
            self._paused_since = None
            self._events.info(Event.ACCEPTING_RESUMED, seconds=seconds, connections=capacity.open)

    def report(self) -> None:
        """Bring the counters that are kept elsewhere up to date, before they are collected."""
        for cause, pauses in self.capacity.pauses.items():
            self._metrics.count_up_to(Metric.ACCEPT_PAUSES, (cause,), pauses)
