"""One worker slot as the supervisor sees it: the process in it now, its channel, and its replacement when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from time import monotonic
from typing import Any

import gevent
from gevent.event import AsyncResult
from gevent.event import Event as Flag
from gevent.queue import Queue

from charon.base.names import Event
from charon.config.service_table import SnapshotUpdate
from charon.config.snapshot import LoggingSpec, Snapshot
from charon.daemon.channel import MAX_DESCRIPTORS, Channel, ChannelClosed
from charon.daemon.listeners import Share
from charon.daemon.shared import Shared
from charon.net.tasks import spawn
from charon.telemetry.events import EventLog
from charon.telemetry.exposition import Totals
from charon.telemetry.ledger import Ledger, LedgerReader
from charon.telemetry.problems import RecentProblems

_Order = tuple[dict[str, Any], list[int]]
"""A message and descriptors of its own that go with it."""

STABLE_SECONDS = 10.0
"""A worker that lived this long died for a reason of its own; one that did not may be caught in a crash loop."""

STARTING_SECONDS = 30.0
"""A worker that is not ready yet has at least this long for a sign of life: where CPU is short, starting takes its
time, and who is ended for that only has to start anew."""

MAX_BACKOFF = 10.0

_LAST_WORDS = 0.2
"""Seconds in which a worker that is stuck may still write where."""


class WorkerSlot:
    """Keeps one worker running until :meth:`drain`.

    ``sockets`` gives what the slot listens on, ``spans`` is the descriptor that workers hand spans over through.
    ``on_absence`` is told True when the slot has lost its worker, and False when it has
    one again. ``state`` is what the worker has last said of itself.
    """

    def __init__(
        self,
        slot: int,
        slots: int,
        logging: LoggingSpec,
        sockets: Callable[[], Sequence[Share]],
        snapshot: Callable[[], Snapshot],
        shared: Shared,
        spans: int,
        totals: Totals,
        events: EventLog,
        problems: RecentProblems,
        on_absence: Callable[[int, bool], None],
    ) -> None:
        self.slot = slot
        self.ready = Flag()
        self.ended = Flag()
        self._applied = Flag()
        self.generation = 0
        self.started_at = 0.0
        self.deaths = 0
        self.state: dict[str, Any] = {}
        self.absent = False
        self.crash_loop = False
        self._slots = slots
        self._logging = logging
        self._sockets = sockets
        self._snapshot = snapshot
        self._shared = shared
        self._spans = spans
        self._totals = totals
        self._events = events
        self._problems = problems
        self._on_absence = on_absence
        self._silence = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._ledger: LedgerReader | None = None
        self._outbox: Queue[_Order | None] = Queue()
        self._newest: Snapshot | None = None
        self._replies: dict[int, AsyncResult[Any]] = {}
        self._stopping = False
        self._quick_deaths = 0

    def __repr__(self) -> str:
        return f"<WorkerSlot {self.slot} pid={self.pid} {'ready' if self.ready.is_set() else 'not ready'}>"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def status(self) -> dict[str, Any]:
        """The state of this slot, as plain values."""
        return {
            "slot": self.slot,
            "pid": self.pid,
            "ready": self.ready.is_set(),
            "crash_loop": self.crash_loop,
            "generation": self.generation,
            "deaths": self.deaths,
            **self.state,
        }

    def start(self) -> None:
        """Begin keeping a worker in this slot."""
        spawn(f"worker {self.slot}", self._keep)

    def push(self, snapshot: Snapshot) -> None:
        """Send a snapshot. A worker that is slow to read gets only the newest of several."""
        if self._newest is None:
            self._outbox.put(None)
        self._newest = snapshot

    def open(self, shares: Sequence[Share]) -> None:
        """Have the worker listen on sockets of the newest snapshot's listeners, after it has taken that."""
        for message, descriptors in _offers(shares):
            # Copies, which stay valid until they are sent, whatever happens to the listener meanwhile.
            self._outbox.put((message, [os.dup(fd) for fd in descriptors]))

    def wait_for(self, generation: int, seconds: float) -> None:
        """Until the worker has taken a snapshot of ``generation`` or later, it is not there, or the time is up."""
        deadline = monotonic() + seconds
        while self.ready.is_set() and self.generation < generation:
            self._applied.clear()
            left = deadline - monotonic()
            if left <= 0 or not self._applied.wait(timeout=left):
                return

    def tell(self, message: dict[str, Any]) -> None:
        """Send any other message, after those before it."""
        self._outbox.put((message, []))

    def ask(self, kind: str, request: int) -> AsyncResult[Any]:
        """Ask the worker for something; the result is its answer, or None when it dies first."""
        reply: AsyncResult[Any] = AsyncResult()
        if not self.ready.is_set():
            reply.set(None)
            return reply
        self._replies[request] = reply
        self.tell({"type": kind, "id": request})
        return reply

    def forget(self, request: int) -> None:
        """The answer to ``request`` is no longer waited for."""
        self._replies.pop(request, None)

    def drain(self, timeout: float) -> None:
        """Tell the worker to finish within ``timeout`` seconds; ``ended`` is set when its process is gone."""
        self._stopping = True
        if self._process is None:
            self.ended.set()
        else:
            self.tell({"type": "drain", "timeout": timeout})

    def kill(self) -> None:
        """End the worker at once, and start no other."""
        self._stopping = True
        self._kill()

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def beat(self, grace: float) -> None:
        """Another second has passed. A worker that has said nothing for ``grace`` of them is ended and replaced; one
        that starts has :data:`STARTING_SECONDS` at least.

        Seconds in which this process did not run either are not counted: they say nothing about the worker.
        """
        if self._process is None:
            return
        if not self.ready.is_set():
            grace = max(grace, STARTING_SECONDS)
        self._silence += 1
        if self._silence == int(grace) + 1:
            self._events.error(Event.WORKER_BLOCKED, worker=self.slot, pid=self.pid, silent_seconds=grace)
            self._process.send_signal(signal.SIGUSR2)
            gevent.sleep(_LAST_WORDS)
            self._kill()

    # -- one process after the other ----------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self._stopping:
            self._run_once()
            if self._stopping:
                break
            self.deaths += 1
            self._totals.worker_replaced()
            self.absent = True
            self._on_absence(self.slot, True)
            wait = self._backoff()
            self.crash_loop = wait > 0
            if wait:
                self._events.error(Event.WORKER_CRASH_LOOP, worker=self.slot, deaths=self.deaths, next_start_in=wait)
            gevent.sleep(wait)
        self.ended.set()

    def _backoff(self) -> float:
        if monotonic() - self.started_at >= STABLE_SECONDS:
            self._quick_deaths = 0
        self._quick_deaths += 1
        return 0.0 if self._quick_deaths == 1 else min(0.1 * 2.0**self._quick_deaths, MAX_BACKOFF)

    def _run_once(self) -> None:
        """One process from start to end."""
        channel, theirs = Channel.pair()
        ledger = self._ledger = LedgerReader(Ledger.create())
        self._drop_orders()
        self.started_at = monotonic()
        with theirs:
            fd = theirs.fileno()
            command = [sys.executable, "-P", "-m", "charon.daemon.worker", str(fd)]
            self._process = subprocess.Popen(command, pass_fds=[fd], stdin=subprocess.DEVNULL)  # noqa: S603 - ourselves
        process = self._process
        self._silence = 0
        self._totals.worker_gone(self.slot)
        reader = spawn(f"worker {self.slot} reader", self._read, channel)
        writer = spawn(f"worker {self.slot} writer", self._write, channel, ledger.fd)
        code = process.wait()
        self.ready.clear()
        reader.join(timeout=1.0)  # its last report may still be in the channel
        gevent.killall([reader, writer])
        channel.close()
        self._process = None
        self.state = {}
        self._close_ledger(ledger)
        self._totals.worker_gone(self.slot)
        self._shared.worker_gone(self.slot)
        for reply in self._replies.values():
            reply.set(None)
        self._replies.clear()
        if not self._stopping or code != 0:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self._events.error(Event.WORKER_DIED, worker=self.slot, pid=process.pid, how=how)

    def _close_ledger(self, ledger: LedgerReader) -> None:
        """What the worker has counted since its last report, however it ended."""
        self._ledger = None
        try:
            self._totals.add(self.slot, ledger.take())
        except ValueError as error:
            self._events.error(Event.INTERNAL_ERROR, exc=error, where=f"{self!r}, ledger")
        ledger.close()

    def _drop_orders(self) -> None:
        """What was meant for the last worker: the next one begins with everything as it is then."""
        while not self._outbox.empty():
            order = self._outbox.get()
            for fd in order[1] if order is not None else ():
                os.close(fd)
        self._newest = None

    def _write(self, channel: Channel, ledger: int) -> None:
        """Everything goes out here, so that a worker that does not read holds up nobody else."""
        try:
            logging = asdict(self._logging)
            table = self._shared.table
            hello = {"type": "hello", "slot": self.slot, "slots": self._slots, "logging": logging}
            lent = (table.fd, *table.lock_fds, self._spans, ledger)
            channel.send(hello | {"secret": self._shared.secret.hex()}, lent)
            sent = self._snapshot()
            channel.send(sent)
            for message, descriptors in _offers(self._sockets()):
                channel.send(message, tuple(descriptors))
            channel.send({"type": "serve"})
            while True:
                order = self._outbox.get()
                if order is not None:
                    self._send(channel, *order)
                elif self._newest is not None:
                    newest, self._newest = self._newest, None
                    channel.send(SnapshotUpdate.between(sent, newest))
                    sent = newest
        except ChannelClosed:
            return  # the process is ending, which its waiter sees

    @staticmethod
    def _send(channel: Channel, message: dict[str, Any], descriptors: list[int]) -> None:
        try:
            channel.send(message, tuple(descriptors))
        finally:
            for fd in descriptors:
                os.close(fd)

    def _read(self, channel: Channel) -> None:
        try:
            while True:
                message, _ = channel.receive()
                if isinstance(message, dict):
                    self._hear(message)
        except ChannelClosed:
            return
        except (KeyError, TypeError, ValueError) as error:
            # A worker that talks nonsense is broken; its replacement starts clean.
            self._events.error(Event.INTERNAL_ERROR, exc=error, where=repr(self))
            if self._process is not None:
                self._process.kill()

    def _hear(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        self._silence = 0
        if kind == "report":
            self.state = _state(message["state"])
            assert self._ledger is not None, "it is closed when the channel is"
            self._totals.add(self.slot, message["delta"] | self._ledger.take())
            self._problems.add_reported(message.get("problems", []), self.slot)
            self._answer(message["id"], True)
        elif kind == "ready":
            self.ready.set()
            self._events.info(Event.WORKER_STARTED, worker=self.slot, pid=self.pid)
            self.crash_loop = False
            if self.absent:
                self.absent = False
                self._on_absence(self.slot, False)
        elif kind == "applied":
            self.generation = int(message["generation"])
            self._applied.set()
        elif kind == "greenlets":
            self._answer(message["id"], message["names"])
        else:
            raise ValueError(f"unknown message {kind!r}")

    def _answer(self, request: int, value: Any) -> None:
        reply = self._replies.pop(request, None)
        if reply is not None:
            reply.set(value)


def _offers(shares: Sequence[Share]) -> Iterator[_Order]:
    """Messages that hand ``shares`` to a worker, each with as many descriptors as one may carry."""
    for start in range(0, len(shares), MAX_DESCRIPTORS):
        some = shares[start : start + MAX_DESCRIPTORS]
        listeners = [(share.listener, share.home, share.of) for share in some]
        yield {"type": "sockets", "listeners": listeners}, [share.fd for share in some]


def _state(said: dict[str, Any]) -> dict[str, Any]:
    """What a worker says of its state, held to what it may be: it is shown as it is. Raises what _read expects."""
    return {
        "connections": int(said["connections"]),
        "draining": int(said["draining"]),
        "overloaded": [str(cause) for cause in said["overloaded"]],
        "paused": None if said["paused"] is None else str(said["paused"]),
    }
