"""The control plane: one process that owns sockets and configuration, feeds the workers and adds up what they count.

It never carries a user's byte, so a busy data plane delays neither a registry change nor a scrape.
"""

from __future__ import annotations

import os
import secrets
import signal
from _socket import socket as RawSocket
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import Any, Protocol

import gevent
from gevent.event import Event as Flag

from charon import __version__
from charon.base.clock import Clock, SystemClock
from charon.base.errors import StartError
from charon.base.names import Event, Metric
from charon.config.settings import Settings
from charon.config.snapshot import ListenerSpec, Snapshot
from charon.daemon.shared import Shared
from charon.daemon.worker_slot import WorkerSlot
from charon.discovery.directory import Directory
from charon.discovery.dns import Resolver
from charon.discovery.lookup import Lookup
from charon.discovery.registry_file import RegistryFile
from charon.discovery.source import Source
from charon.discovery.static import StaticSource
from charon.net.listen import bound_address, listen, remove
from charon.net.tasks import names, spawn
from charon.telemetry.events import EventLog
from charon.telemetry.exposition import Totals
from charon.telemetry.sink import LogSink

START_SECONDS = 10.0
"""How long the first workers may take to get ready."""

REPORT_SECONDS = 1.0
"""How long a scrape waits for the workers' newest numbers; those of a busier worker come with the next one."""


class Service(Protocol):
    """Something served beside the workers: the admin application."""

    def stop(self, timeout: float | None = None) -> None: ...


class Supervisor:
    """One Charon. ``serve_admin`` starts the admin application, given this supervisor."""

    def __init__(
        self,
        settings: Settings,
        sink: LogSink,
        events: EventLog,
        serve_admin: Callable[[Supervisor], Service],
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings
        self.sink = sink
        self.events = events
        self.clock = clock or SystemClock()
        self.totals = Totals()
        self.snapshot: Snapshot | None = None
        self.draining = False
        self._serve_admin = serve_admin
        self._admin: Service | None = None
        self._started_at = self.clock.monotonic()
        self._instance = secrets.token_hex(6)
        self._sockets: dict[str, list[RawSocket]] = {}
        self._slots: list[WorkerSlot] = []
        self._shared: Shared
        self._stop = Flag()
        self._hurry = Flag()
        self._last_request = 0
        self._dropped = 0
        self._directory: Directory
        self._registry: RegistryFile | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until told to stop, drain, and return. Raises StartError when it cannot begin."""
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, self.stop)
        gevent.signal_handler(signal.SIGUSR1, self.reopen_logs)
        gevent.signal_handler(signal.SIGHUP, self._hang_up)
        try:
            self._start()
            self._stop.wait()
        except StartError as error:
            self.events.error(Event.START_FAILED, error=str(error))
            raise
        finally:
            self._finish()

    def stop(self) -> None:
        """Drain and end; the second time, end at once."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _start(self) -> None:
        settings = self.settings
        self.totals.started(__version__, self.clock.wall())
        self.totals.config_loaded(True, self.clock.wall())
        self._admin = self._serve_admin(self)
        count = settings.workers
        self._shared = Shared(count, self.totals, self.events)
        self._directory = self._make_directory()
        self._directory.start()
        self.snapshot = self._compile(1)
        for spec in self.snapshot.listeners:
            self._sockets[spec.name] = listen(spec.address, count)
        self._slots = [self._make_slot(slot, count) for slot in range(count)]
        for worker in self._slots:
            worker.start()
        self._wait_for_workers()
        for spec in self.snapshot.listeners:
            self._announce(spec)
        self.totals.workers(count)
        self.events.info(Event.PROXY_STARTED, version=__version__, workers=count, config=settings.file)

    def _wait_for_workers(self) -> None:
        """Until every first worker serves. Raises StartError when one dies or takes too long."""
        deadline = monotonic() + START_SECONDS
        for worker in self._slots:
            while not worker.ready.wait(timeout=0.05):
                if self._stop.is_set():
                    return
                if worker.deaths:
                    raise StartError("a worker process ended while it was starting; its own words are above")
                if monotonic() > deadline:
                    raise StartError(f"the worker processes were not ready after {START_SECONDS:g} s")

    def _announce(self, spec: ListenerSpec) -> None:
        event = Event.TCP_SERVER_START if spec.protocol == "tcp" else Event.HTTP_SERVER_START
        address = bound_address(self._sockets[spec.name][0])
        self.events.info(event, listener=spec.name, address=address, protocol=spec.protocol)

    def _finish(self) -> None:
        """Stop accepting, let the workers finish within the drain timeout, and clear up."""
        self.draining = True
        # First of all, so that nobody is queued whom no worker will take: theirs are the last copies from here on.
        for sockets in self._sockets.values():
            for sock in sockets:
                remove(sock)
        self._sockets = {}
        if self._slots:
            timeout = self.settings.drain_timeout
            self.events.info(Event.SHUTTING_DOWN, drain_timeout=timeout)
            for worker in self._slots:
                worker.drain(timeout)
            everyone = [worker.ended for worker in self._slots]
            self._wait_or_hurry(everyone, timeout + 5.0)
            for worker in self._slots:
                worker.kill()
            gevent.wait(everyone, timeout=2.0)
        if self._admin is not None:
            self._admin.stop(timeout=1.0)
        self.events.info(Event.STOPPED)
        self.sink.close()

    def _wait_or_hurry(self, everyone: list[Flag], timeout: float) -> None:
        """Until all are set, the second signal comes, or the time is up."""
        done = Flag()

        def watch() -> None:
            gevent.wait(everyone, timeout=timeout)
            done.set()

        watcher = spawn("drain", watch)
        gevent.wait([done, self._hurry], count=1)
        watcher.kill()

    # -- what changes while it runs -----------------------------------------------------------------------------

    def _make_directory(self) -> Directory:
        sources: list[Source] = [StaticSource(self.settings.static_services)]
        if self.settings.registry_file is not None:
            self._registry = RegistryFile(self.settings.registry_file, self.events, spawn)
            sources.append(self._registry)
        resolver = Resolver(Lookup(spawn).find, spawn, self.events)
        return Directory(sources, resolver, self._services_changed, self.events, spawn)

    def _compile(self, generation: int) -> Snapshot:
        snapshot = self.settings.snapshot(self._directory.services(), generation, self._instance)
        snapshot = replace(snapshot, services=self._shared.assign(snapshot.services))
        pairs = [(service.name, e.name) for service in snapshot.services.values() for e in service.endpoints]
        self.totals.set_endpoints(pairs)
        return snapshot

    def _services_changed(self) -> None:
        if self.snapshot is None:
            return  # still starting; the first snapshot will have it
        self.snapshot = self._compile(self.snapshot.generation + 1)
        for worker in self._slots:
            worker.push(self.snapshot)

    def _current(self) -> Snapshot:
        assert self.snapshot is not None
        return self.snapshot

    def _make_slot(self, slot: int, count: int) -> WorkerSlot:
        def sockets() -> dict[str, int]:
            return {name: group[slot].fileno() for name, group in self._sockets.items()}

        logging = self._current().logging
        return WorkerSlot(slot, count, logging, sockets, self._current, self._shared, self.totals, self.events)

    def reopen_logs(self) -> None:
        """Open the log file anew, here and in all workers."""
        self.sink.reopen()
        for worker in self._slots:
            worker.tell({"type": "reopen"})
        self.events.info(Event.LOG_REOPENED)

    def _hang_up(self) -> None:
        self.events.warning(Event.RELOAD_IGNORED, error="the configuration is read at start only; restart to apply it")

    # -- what others ask ----------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Bring the totals up to date with what the workers have counted until now."""
        if self._registry is not None:
            self.totals.registry_loaded(self._registry.last_reload_successful, self._registry.last_success_time)
        self.totals.workers(sum(1 for worker in self._slots if worker.ready.is_set()))
        self._count_dropped()
        self._shared.gauges()
        self._ask("report")

    def _count_dropped(self) -> None:
        dropped = self.sink.dropped
        if dropped > self._dropped:
            self.totals.count(Metric.LOG_DROPPED, (), dropped - self._dropped)
            self._dropped = dropped

    def not_ready(self) -> str | None:
        """Why Charon is not serving, or None when it is."""
        if self.draining or self._stop.is_set():
            return "draining"
        if not self._slots or not all(worker.ready.is_set() for worker in self._slots):
            return "not all workers are ready"
        return None

    def status(self) -> dict[str, Any]:
        """The state of everything, as plain values."""
        snapshot = self.snapshot
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_seconds": round(self.clock.monotonic() - self._started_at, 3),
            "ready": self.not_ready() is None,
            "draining": self.draining,
            "config_file": self.settings.file,
            "generation": snapshot.generation if snapshot is not None else 0,
            "listeners": [
                {"name": spec.name, "address": bound_address(self._sockets[spec.name][0]), "protocol": spec.protocol}
                for spec in (snapshot.listeners if snapshot is not None else ())
                if spec.name in self._sockets
            ],
            "services": self._shared.status(),
            "workers": [worker.status() for worker in self._slots],
        }

    def greenlets(self) -> dict[str, list[str]]:
        """The named greenlets of every process."""
        replies = self._ask("greenlets")
        return {"supervisor": names()} | {f"worker {slot}": reply or [] for slot, reply in replies.items()}

    def _ask(self, kind: str) -> dict[int, Any]:
        """Ask all workers; those that do not answer in time answer None."""
        self._last_request += 1
        request = self._last_request
        replies = {worker.slot: worker.ask(kind, request) for worker in self._slots}
        gevent.wait(list(replies.values()), timeout=REPORT_SECONDS)
        for worker in self._slots:
            worker.forget(request)
        return {slot: reply.value if reply.ready() else None for slot, reply in replies.items()}
