"""The control plane: one process that owns sockets and configuration, feeds the workers and adds up what they count.

It never carries a user's byte, so a busy data plane delays neither a registry change nor a scrape.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import gevent
from gevent.event import Event as Flag
from gevent.lock import Semaphore

from charon import __version__
from charon.base.clock import Clock, SystemClock
from charon.base.errors import ConfigError, StartError
from charon.base.names import Event, Metric
from charon.config.reader import read_settings
from charon.config.settings import Settings
from charon.config.snapshot import ListenerSpec, Snapshot
from charon.daemon.listeners import ListenerSockets, Sockets, close_all
from charon.daemon.shared import Shared
from charon.daemon.tracing import SpanExport
from charon.daemon.worker_slot import WorkerSlot
from charon.discovery.directory import Directory
from charon.discovery.dns import Resolver
from charon.discovery.lookup import Lookup
from charon.discovery.registry_file import RegistryFile
from charon.discovery.source import Source
from charon.discovery.static import StaticSource
from charon.net.tasks import names, spawn
from charon.telemetry.events import EventLog
from charon.telemetry.exposition import Totals
from charon.telemetry.sink import LogSink

START_SECONDS = 10.0
"""How long the first workers may take to get ready."""

APPLY_SECONDS = 5.0
"""How long a reload waits for each worker to take the new snapshot."""

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
        self._listeners = ListenerSockets(0)
        self._reloading = Semaphore()
        self._last_reload: dict[str, Any] = {}
        self._slots: list[WorkerSlot] = []
        self._stop = Flag()
        self._hurry = Flag()
        self._last_request = 0
        self._dropped = 0
        self._registry: RegistryFile | None = None
        self._directory = self._make_directory(settings)
        self._shared = Shared(settings.workers, self.totals, events)
        self._tracing = SpanExport(self.totals, events, self._instance)

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
        self._directory.start()
        self.snapshot = self._compile(1)
        self._listeners = ListenerSockets(count)
        self._listeners.adopt(settings.listeners, self._listeners.prepare(settings.listeners))
        self._tracing.follow(settings.export)
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
        address = self._listeners.address(spec.name)
        self.events.info(event, listener=spec.name, address=address, protocol=spec.protocol)

    def _finish(self) -> None:
        """Stop accepting, let the workers finish within the drain timeout, and clear up."""
        self.draining = True
        # First of all, so that nobody is queued whom no worker will take: theirs are the last copies from here on.
        self._listeners.close()
        self._directory.stop()
        self._shared.stop()
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
        self._tracing.stop(self._hurry)
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

    def _make_directory(self, settings: Settings) -> Directory:
        sources: list[Source] = [StaticSource(settings.static_services)]
        self._registry = None
        if settings.registry_file is not None:
            self._registry = RegistryFile(settings.registry_file, self.events, spawn)
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
        snapshot = self._next_snapshot()
        for worker in self._slots:
            worker.push(snapshot)

    def _next_snapshot(self) -> Snapshot:
        self.snapshot = self._compile(self._current().generation + 1)
        return self.snapshot

    def _current(self) -> Snapshot:
        assert self.snapshot is not None
        return self.snapshot

    def _make_slot(self, slot: int, count: int) -> WorkerSlot:
        def sockets() -> dict[str, int]:
            return self._listeners.descriptors(slot)

        logging = self._current().logging
        spans = self._tracing.fd
        return WorkerSlot(slot, count, logging, sockets, self._current, self._shared, spans, self.totals, self.events)

    def reopen_logs(self) -> None:
        """Open the log file anew, here and in all workers."""
        self.sink.reopen()
        for worker in self._slots:
            worker.tell({"type": "reopen"})
        self.events.info(Event.LOG_REOPENED)

    def _hang_up(self) -> None:
        spawn("reload", self.reload)

    def reload(self) -> list[str]:
        """Read the configuration again and put it in force as a whole, or not at all.

        Returns every mistake, none when it is in force now. What stays the same is left alone: listeners, pools,
        health, breakers, counters and connections.
        """
        with self._reloading:
            try:
                wanted = read_settings(Path(self.settings.file))
                opened = self._listeners.prepare(wanted.listeners)
            except ConfigError as error:
                problems = error.problems
            except StartError as error:
                problems = [f"{self.settings.file}: {error}"]
            else:
                self._put_in_force(wanted, opened)
                return []
            self._note_reload(problems)
            self.events.error(Event.CONFIG_RELOAD_FAILED, file=self.settings.file, problems=problems)
            return problems

    def _put_in_force(self, wanted: Settings, opened: Sockets) -> None:
        before = self.settings
        waiting = before.needs_restart(wanted)
        self.settings = settings = wanted.keeping(before, waiting)
        if (settings.static_services, settings.registry_file) != (before.static_services, before.registry_file):
            old, directory = self._directory, self._make_directory(settings)
            directory.start()
            self._directory = directory
            old.stop()
        unneeded = self._listeners.adopt(settings.listeners, opened)
        snapshot = self._next_snapshot()
        fresh = _to_open(before.listeners, settings.listeners)
        for worker in self._slots:
            worker.push(snapshot)
            if fresh:
                worker.open(self._listeners.descriptors(worker.slot, fresh))
        for worker in self._slots:
            worker.wait_for(snapshot.generation, APPLY_SECONDS)
        close_all(unneeded)
        self._tracing.follow(settings.export)
        for spec in settings.listeners:
            if spec.name in fresh:
                self._announce(spec)
        self._note_reload([])
        self.events.set_level("info")  # this is told whatever the level was and will be
        self.events.info(Event.CONFIG_RELOADED, file=settings.file, digest=settings.digest, needs_restart=list(waiting))
        self.events.set_level(settings.logging.level)

    def _note_reload(self, problems: list[str]) -> None:
        now = self.clock.wall()
        self.totals.config_loaded(not problems, now)
        self._last_reload = {"ok": not problems, "at": now, "problems": problems, "digest": self.settings.digest}

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
            "config_digest": self.settings.digest,
            "last_reload": self._last_reload,
            "generation": snapshot.generation if snapshot is not None else 0,
            "listeners": [
                {"name": spec.name, "address": self._listeners.address(spec.name), "protocol": spec.protocol}
                for spec in (snapshot.listeners if snapshot is not None else ())
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


def _to_open(before: Sequence[ListenerSpec], after: Sequence[ListenerSpec]) -> list[str]:
    """The listeners that workers have to open: new ones, and those that cannot change as they stand."""
    known = {spec.name: spec for spec in before}
    return [spec.name for spec in after if spec.name not in known or known[spec.name].needs_new_server(spec)]
