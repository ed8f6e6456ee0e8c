"""All workers of one Charon: started, fed, looked after and drained together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event as Flag

from charon.base.errors import StartError
from charon.config.snapshot import LoggingSpec, Snapshot
from charon.daemon.listeners import ListenerSockets, Share
from charon.daemon.shared import Shared
from charon.daemon.worker_slot import WorkerSlot
from charon.net.tasks import spawn
from charon.telemetry.events import EventLog
from charon.telemetry.exposition import Totals
from charon.telemetry.problems import RecentProblems

START_SECONDS = 30.0
"""How long the first workers may take to get ready."""

APPLY_SECONDS = 5.0
"""How long a reload waits for each worker to take the new snapshot."""

REPORT_SECONDS = 1.0
"""How long a scrape waits for the workers' newest numbers; those of a busier worker come with the next one."""

BEAT_SECONDS = 1.0

_LAST_GRACE = 5.0
"""Seconds beyond the drain timeout in which workers may end by themselves."""


class Workforce:
    """The worker slots. ``current`` gives the newest snapshot, ``listeners`` what to listen on, ``spans`` is the
    descriptor that spans are handed over through."""

    def __init__(
        self,
        count: int,
        current: Callable[[], Snapshot],
        listeners: ListenerSockets,
        logging: LoggingSpec,
        shared: Shared,
        spans: int,
        totals: Totals,
        events: EventLog,
        problems: RecentProblems,
    ) -> None:
        self._listeners = listeners
        self._last_request = 0
        self._hosts: dict[int, WorkerSlot] = {}
        self.slots = [
            WorkerSlot(
                number,
                count,
                logging,
                partial(self._shares, number),
                current,
                shared,
                spans,
                totals,
                events,
                problems,
                on_absence=self._on_absence,
            )
            for number in range(count)
        ]

    def start(self, stopping: Flag) -> None:
        """Until every worker serves, or ``stopping`` is set. Raises StartError when one dies or takes too long."""
        for slot in self.slots:
            slot.start()
        deadline = monotonic() + START_SECONDS
        for slot in self.slots:
            while not slot.ready.wait(timeout=0.05):
                if stopping.is_set():
                    return
                if slot.deaths:
                    raise StartError("a worker process ended while it was starting; its own words are above")
                if monotonic() > deadline:
                    raise StartError(f"the worker processes were not ready after {START_SECONDS:g} s")

    def beat(self, grace: float) -> None:
        """To be called every ``BEAT_SECONDS``: workers that have been silent for ``grace`` seconds are replaced."""
        for slot in self.slots:
            slot.beat(grace)

    @property
    def serving(self) -> int:
        """How many workers are ready."""
        return sum(1 for slot in self.slots if slot.ready.is_set())

    def status(self) -> list[dict[str, Any]]:
        """Every slot, as plain values."""
        return [slot.status() for slot in self.slots]

    def connections(self) -> int:
        """Open client connections, as the workers have last said."""
        return sum(int(slot.state.get("connections", 0)) for slot in self.slots)

    # -- what they are told -------------------------------------------------------------------------------------

    def push(self, snapshot: Snapshot) -> None:
        """Send a snapshot to all."""
        for slot in self.slots:
            slot.push(snapshot)

    def open(self, names: Collection[str]) -> None:
        """Have the listeners ``names`` opened, after the snapshot that was pushed last."""
        for slot in self.slots:
            self._hosts.get(slot.slot, slot).open(self._listeners.shares(slot.slot, names))

    def wait_for(self, generation: int) -> None:
        """Until all that are there have taken the snapshot ``generation``, or one takes too long."""
        for slot in self.slots:
            slot.wait_for(generation, APPLY_SECONDS)

    def tell(self, message: dict[str, Any]) -> None:
        """Send any other message to all."""
        for slot in self.slots:
            slot.tell(message)

    def ask(self, kind: str) -> dict[int, Any]:
        """Ask all; those that do not answer in time answer None."""
        self._last_request += 1
        request = self._last_request
        replies = {slot.slot: slot.ask(kind, request) for slot in self.slots}
        gevent.wait(list(replies.values()), timeout=REPORT_SECONDS)
        for slot in self.slots:
            slot.forget(request)
        return {number: reply.value if reply.ready() else None for number, reply in replies.items()}

    # -- a slot without a worker --------------------------------------------------------------------------------

    def _on_absence(self, number: int, absent: bool) -> None:
        """While a slot waits for its next worker another one serves its sockets, so that nobody queues there."""
        if absent:
            for guest in self._guests(number):
                del self._hosts[guest]
        elif number in self._hosts:
            self._hosts.pop(number).tell({"type": "release", "home": number})
        for slot in self.slots:
            if slot.absent and slot.slot not in self._hosts:
                self._find_host(slot.slot)

    def _find_host(self, number: int) -> None:
        for other in self.slots:
            if other.ready.is_set():
                self._hosts[number] = other
                other.open(self._listeners.shares(number))
                return

    def _guests(self, number: int) -> list[int]:
        """The slots whose sockets the worker in slot ``number`` serves besides its own."""
        return [guest for guest, host in self._hosts.items() if host.slot == number]

    def _shares(self, number: int) -> list[Share]:
        """What a new worker in slot ``number`` is to listen on."""
        return [share for slot in (number, *self._guests(number)) for share in self._listeners.shares(slot)]

    # -- the end ------------------------------------------------------------------------------------------------

    def drain(self, timeout: float, hurry: Flag) -> None:
        """Have all finish within ``timeout`` seconds, and end them then, or when ``hurry`` is set."""
        for slot in self.slots:
            slot.drain(timeout)
        everyone = [slot.ended for slot in self.slots]
        done = Flag()

        def watch() -> None:
            gevent.wait(everyone, timeout=timeout + _LAST_GRACE)
            done.set()

        watcher = spawn("drain", watch)
        gevent.wait([done, hurry], count=1)
        watcher.kill()
        for slot in self.slots:
            slot.kill()
        gevent.wait(everyone, timeout=2.0)
