"""The control plane: one process that owns sockets and configuration, feeds the workers and adds up what they count.

It never carries a user's byte, so a busy data plane delays neither a registry change nor a scrape.
"""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import gevent
import orjson
from gevent.event import Event as Flag
from gevent.lock import Semaphore

from charon import __version__
from charon.base.clock import Clock, SystemClock
from charon.base.errors import ConfigError, StartError
from charon.base.litter import Litter
from charon.base.names import PASSTHROUGH, Event, Metric
from charon.config.certificates import with_public
from charon.config.reader import read_settings
from charon.config.service_table import ServiceTable
from charon.config.settings import Settings
from charon.config.snapshot import ListenerSpec, Snapshot
from charon.daemon.certificate_keeper import CertificateKeeper, Kept
from charon.daemon.inheritance import Inheritance, stored_name
from charon.daemon.interceptor import Interceptor
from charon.daemon.listeners import ListenerSockets, Sockets, close_all
from charon.daemon.notify import Notifier
from charon.daemon.shared import Shared
from charon.daemon.status import status
from charon.daemon.tracing import SpanExport
from charon.daemon.upgrade import Successor
from charon.daemon.workforce import BEAT_SECONDS, Workforce
from charon.discovery.directory import Directory
from charon.discovery.dns import Resolver
from charon.discovery.file_watch import FileWatch
from charon.discovery.lookup import Lookup
from charon.discovery.registry_file import RegistryFile
from charon.discovery.source import Source
from charon.discovery.static import StaticSource
from charon.net.tasks import names, spawn
from charon.telemetry.events import EventLog
from charon.telemetry.exposition import Totals
from charon.telemetry.problems import RecentProblems
from charon.telemetry.recent import Recent
from charon.telemetry.sink import LogSink


class AdminService(Protocol):
    """The admin application, being served."""

    def stop(self, timeout: float | None = None) -> None: ...

    def fileno(self) -> int:
        """The descriptor of its listening socket."""

    def hand_over(self) -> None:
        """Stop, and leave the socket to another process, which has it too."""


ServeAdmin = Callable[["Supervisor", Any], AdminService]
"""Begins to serve the admin application, on the listening socket that is given, or None to open it."""


class Supervisor:
    """One Charon. ``inheritance`` holds what was open before, ``notifier`` is the way to the service manager."""

    def __init__(
        self,
        settings: Settings,
        sink: LogSink,
        events: EventLog,
        serve_admin: ServeAdmin,
        inheritance: Inheritance | None = None,
        notifier: Notifier | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings
        self.sink = sink
        self.events = events
        self.clock = clock or SystemClock()
        self.totals = Totals()
        self.recent = Recent()
        self.problems = RecentProblems()
        events.watch(self.problems.add)
        self.snapshot: Snapshot | None = None
        self._litter = Litter()
        self.inheritance = inheritance or Inheritance()
        self.started_at = self.clock.monotonic()
        self.last_reload: dict[str, Any] = {}
        self.last_upgrade: dict[str, Any] = {}
        self.leaving = False
        self.draining = False
        self.shared = Shared(settings.workers, self.totals, events)
        self.listeners = ListenerSockets(settings.workers, self.inheritance)
        self._instance = secrets.token_hex(6)
        self._tracing = SpanExport(self.totals, events, self._instance)
        self.workforce = Workforce(
            settings.workers,
            self._current,
            self.listeners,
            settings.logging,
            self.shared,
            self._tracing.fd,
            self.totals,
            events,
            self.problems,
        )
        self._notifier = notifier or Notifier()
        self._serve_admin = serve_admin
        self._admin: AdminService | None = None
        self._changing = Semaphore()
        self._successor: Successor | None = None
        self._stop = Flag()
        self._hurry = Flag()
        self._log_troubles = {Metric.LOG_DROPPED: 0, Metric.LOG_WRITE_ERRORS: 0}
        self.registry: RegistryFile | None = None
        self._directory = self._make_directory(settings)
        self.interceptor = Interceptor(events, self.totals, self.listeners.addresses, lambda: self.workforce.serving)
        self.certificates = CertificateKeeper(events, self.totals, self.clock, self._services_changed)
        self._watch = FileWatch(Path(settings.file), "config-watch", spawn, self._file_changed, self.clock)
        self._watch.look()

    # -- life ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until told to stop, drain, and return. Raises StartError when it cannot begin."""
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, self.stop)
        gevent.signal_handler(signal.SIGUSR1, self.reopen_logs)
        gevent.signal_handler(signal.SIGHUP, spawn, "reload", self.reload)
        gevent.signal_handler(signal.SIGUSR2, spawn, "upgrade", self.upgrade)
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

    def drain(self, delay: float) -> None:
        """Say that Charon is not ready, go on serving for ``delay`` seconds, then stop as :meth:`stop` does."""
        if not self.leaving:
            self.leaving = True
            self.events.info(Event.DRAIN_REQUESTED, delay=delay)
            spawn("leave", self._leave, delay)

    def _leave(self, delay: float) -> None:
        if not self._stop.wait(timeout=delay):
            self.stop()

    def _start(self) -> None:
        settings = self.settings
        self.totals.started(__version__, self.clock.wall())
        self.totals.config_loaded(True, self.clock.wall(), settings.digest)
        predecessor = self.inheritance.predecessor
        if predecessor is None:
            self._admin = self._serve_admin(self, None)
        self.interceptor.check(settings)
        self.certificates.adopt(self.certificates.prepare(settings.certificates))
        self._directory.start()
        self.snapshot = self._compile(1)
        self.listeners.adopt(settings.listeners, self.listeners.prepare(settings.listeners))
        self._tracing.follow(settings.export)
        self.workforce.start(self._stop)
        if predecessor is not None:
            predecessor.take_over()
            self._admin = self._serve_admin(self, self.inheritance.admin)
            self.events.info(Event.TAKEN_OVER, predecessor=predecessor.pid)
        for address in self.inheritance.close_rest():
            self.events.warning(Event.SOCKETS_NOT_WANTED, address=address)
        for spec in self.snapshot.listeners:
            self._announce(spec)
        self.totals.workers(settings.workers)
        self._keep_sockets(self.listeners.open)
        self._watch.start()
        spawn("heartbeat", self._beat)
        spawn("recent", self._sample)
        if self._notifier.watchdog_seconds is not None:
            spawn("watchdog", self._feed_watchdog, self._notifier.watchdog_seconds / 3)
        self.interceptor.follow(settings)
        self._notifier.ready(self._line())
        self.events.info(Event.PROXY_STARTED, version=__version__, workers=settings.workers, config=settings.file)

    def _announce(self, spec: ListenerSpec) -> None:
        event = Event.TCP_SERVER_START if spec.protocol == "tcp" else Event.HTTP_SERVER_START
        address = self.listeners.address(spec.name)
        tls = spec.tls is not None
        self.events.info(event, listener=spec.name, address=address, protocol=spec.protocol, tls=tls)

    def _beat(self) -> None:
        while not self.draining:
            gevent.sleep(BEAT_SECONDS)
            self.workforce.beat(self.settings.worker_timeout)
            self._litter.look(self.clock.monotonic())
            self._notifier.status(self._line())

    def _sample(self) -> None:
        while not self.draining:
            self.workforce.ask("report")
            self.recent.sample(self.clock.monotonic(), self.totals)
            gevent.sleep(BEAT_SECONDS)

    def _feed_watchdog(self, seconds: float) -> None:
        while True:
            self._notifier.watchdog()
            gevent.sleep(seconds)

    def _line(self) -> str:
        """How things stand, in a line for people."""
        count, of = self.workforce.serving, len(self.workforce.slots)
        workers = f"{count} of {of}" if count < of else f"{of}"
        line = f"serving; listeners: {len(self.settings.listeners)}, workers: {workers}"
        if self.leaving:
            line += ", about to drain"
        if self.last_reload and not self.last_reload["ok"]:
            line += f"; the last reload was refused: {self.last_reload['problems'][0]}"
        return line

    def _finish(self) -> None:
        """Stop accepting, let the workers finish within the drain timeout, and clear up."""
        self.draining = True
        self.interceptor.release(handed_on=self._successor is not None)
        # First of all, so that nobody is queued whom no worker will take: theirs are the last copies from here on.
        # Unless a successor has them, or the service manager keeps them for the next start.
        self.listeners.close(for_good=self._successor is None and not self._notifier.present)
        self._watch.stop()
        self._directory.stop()
        self.certificates.stop()
        self.shared.stop()
        timeout = self.settings.drain_timeout
        if self._successor is not None:
            if self._admin is not None:
                self._admin.hand_over()
            self._successor.take_over()
        else:
            self._notifier.stopping("stopping", timeout + 10.0)
        if self.snapshot is not None:
            self.events.info(Event.SHUTTING_DOWN, drain_timeout=timeout)
            progress = spawn("progress", self._tell_progress)
            self.workforce.drain(timeout, self._hurry)
            progress.kill()
        self.interceptor.stop()
        self._tracing.stop(self._hurry)
        if self._admin is not None and self._successor is None:
            self._admin.stop(timeout=1.0)
        self.events.info(Event.STOPPED)
        self.sink.close()

    def _tell_progress(self) -> None:
        while True:
            gevent.sleep(BEAT_SECONDS)
            left = self.workforce.connections()
            if self._successor is not None:
                self._successor.draining(left)
            else:
                self._notifier.status(f"draining: {left} connections left")

    # -- what changes while it runs -----------------------------------------------------------------------------

    def _make_directory(self, settings: Settings) -> Directory:
        sources: list[Source] = [StaticSource(settings.static_services)]
        self.registry = None
        if settings.registry_file is not None:
            self.registry = RegistryFile(settings.registry_file, self.events, spawn)
            sources.append(self.registry)
        resolver = Resolver(Lookup(spawn).find, spawn, self.events)
        return Directory(sources, resolver, self._services_changed, self.events, spawn)

    def _compile(self, generation: int) -> Snapshot:
        materials = with_public(self.certificates.materials())
        services = self.shared.assign(self._directory.services(), self.settings, materials)
        table = ServiceTable(services, self.snapshot.services if self.snapshot is not None else None)
        snapshot = self.settings.snapshot(table, generation, self._instance, materials)
        endpoints = [(service.name, e.name) for service in snapshot.services.values() for e in service.endpoints]
        if any(listener.direction for listener in snapshot.listeners):
            endpoints.append((PASSTHROUGH, PASSTHROUGH))
        self.totals.retain(endpoints, snapshot.services, [listener.name for listener in snapshot.listeners])
        return snapshot

    def _services_changed(self) -> None:
        if self.snapshot is None:
            return  # still starting; the first snapshot will have it
        self.workforce.push(self._next_snapshot())

    def _next_snapshot(self) -> Snapshot:
        self.snapshot = self._compile(self._current().generation + 1)
        self._litter.dropped(self.clock.monotonic())
        return self.snapshot

    def _current(self) -> Snapshot:
        assert self.snapshot is not None
        return self.snapshot

    def reopen_logs(self) -> None:
        """Open the log file anew, here and in all workers."""
        self.sink.reopen()
        self.workforce.tell({"type": "reopen"})
        self.events.info(Event.LOG_REOPENED)

    def _file_changed(self) -> None:
        if self.settings.reload_on_change:
            self.reload()

    def reload(self) -> list[str]:
        """Read the configuration again and put it in force as a whole, or not at all.

        Returns every mistake, none when it is in force now. What stays the same is left alone: listeners, pools,
        health, breakers, counters and connections.
        """
        with self._changing:
            if self._stop.is_set():
                return ["Charon is stopping"]
            self._notifier.reloading()
            try:
                wanted = read_settings(Path(self.settings.file))
                certificates = self.certificates.prepare(wanted.certificates)
                self.interceptor.check(wanted)
                opened = self.listeners.prepare(wanted.listeners)
            except ConfigError as error:
                problems = error.problems
            except StartError as error:
                problems = [f"{self.settings.file}: {error}"]
            else:
                self._put_in_force(wanted, opened, certificates)
                self._notifier.ready(self._line())
                return []
            self._note_reload(problems)
            self.events.error(Event.CONFIG_RELOAD_FAILED, file=self.settings.file, problems=problems)
            self._notifier.ready(self._line())
            return problems

    def _put_in_force(self, wanted: Settings, opened: Sockets, certificates: dict[str, Kept]) -> None:
        before = self.settings
        waiting = before.needs_restart(wanted)
        self.settings = settings = wanted.keeping(before, waiting)
        self.certificates.adopt(certificates)  # at once: whatever snapshot comes next names them
        if (settings.static_services, settings.registry_file) != (before.static_services, before.registry_file):
            old, directory = self._directory, self._make_directory(settings)
            directory.start()
            self._directory = directory
            old.stop()
        unneeded = self.listeners.adopt(settings.listeners, opened)
        snapshot = self._next_snapshot()
        fresh = _to_open(before.listeners, settings.listeners)
        self.workforce.push(snapshot)
        if fresh:
            self.workforce.open(fresh)
        self.workforce.wait_for(snapshot.generation)
        self.interceptor.reload(settings)
        close_all(unneeded)
        self._keep_sockets(opened, unneeded)
        self._tracing.follow(settings.export)
        for spec in settings.listeners:
            if spec.name in fresh:
                self._announce(spec)
        self._note_reload([])
        self.events.set_level("info")  # this is told whatever the level was and will be
        self.events.info(Event.CONFIG_RELOADED, file=settings.file, digest=settings.digest, needs_restart=list(waiting))
        self.events.set_level(settings.logging.level)

    def _keep_sockets(self, opened: Sockets, unneeded: Sockets | None = None) -> None:
        """Have the service manager keep what is open now, for the next start, and forget what is not needed."""
        for key in unneeded or ():
            self._notifier.forget(stored_name(key))
        for key, sockets in opened.items():
            self._notifier.store(stored_name(key), [sock.fileno() for sock in sockets])

    def _note_reload(self, problems: list[str]) -> None:
        now = self.clock.wall()
        self.totals.config_loaded(not problems, now, self.settings.digest)
        self.last_reload = {"ok": not problems, "at": now, "problems": problems, "digest": self.settings.digest}

    def upgrade(self) -> str | None:
        """Start the program anew, hand the listening sockets on, and drain once it serves.

        Returns why it could not be done, None when this program is ending now. Until the new one serves, and if it
        never does, all goes on as it was.
        """
        with self._changing:
            if self._stop.is_set() or self._admin is None:
                return "Charon is starting or stopping"
            told = {**self._notifier.environment(), **self.interceptor.environment()}
            successor = Successor(self.settings.file, told)
            self.events.info(Event.UPGRADE_STARTED, successor=successor.pid)
            problem = successor.prepare(self.listeners.open, self._admin.fileno(), self._stop)
            self.last_upgrade = {"ok": problem is None, "at": self.clock.wall(), "problem": problem}
            if problem is not None:
                self.events.error(Event.UPGRADE_FAILED, successor=successor.pid, problem=problem)
                return problem
            self._successor = successor
            self._notifier.main_process(successor.pid)
            self.events.info(Event.UPGRADED, successor=successor.pid)
            self.stop()
            return None

    # -- what others ask ----------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Bring the totals up to date with what the workers have counted until now."""
        if self.registry is not None:
            self.totals.registry_loaded(self.registry.last_reload_successful, self.registry.last_success_time)
        self.totals.workers(self.workforce.serving)
        self._count_log_troubles()
        self.shared.gauges()
        self.workforce.ask("report")

    def render(self, accept: str) -> tuple[str, bytes]:
        """The metrics for an ``Accept`` field: content type and body."""
        return self.totals.render(accept)

    def set_log_level(self, level: str) -> None:
        """Log what is of ``level`` and above, in all processes, until the next reload. Raises ValueError."""
        self.events.set_level(level)
        self.settings = replace(self.settings, logging=replace(self.settings.logging, level=level))
        self._services_changed()

    def intercept(self, command: str) -> dict[str, Any]:
        """``show``, ``up`` or ``down`` of the rules of interception. Raises StartError."""
        if command == "up":
            self.interceptor.up()
        elif command == "down":
            self.interceptor.down()
        return self.interceptor.show()

    def _count_log_troubles(self) -> None:
        for name, seen in {Metric.LOG_DROPPED: self.sink.dropped, Metric.LOG_WRITE_ERRORS: self.sink.errors}.items():
            self.totals.count(name, (), seen - self._log_troubles[name])
            self._log_troubles[name] = seen

    def not_ready(self) -> str | None:
        """Why Charon is not serving, or None when it is."""
        if self.leaving or self.draining or self._stop.is_set():
            return "draining"
        if self.workforce.serving < len(self.workforce.slots):
            return "not all workers are ready"
        return None

    def status(self, services: int | None = None, *, history: bool = False) -> dict[str, Any]:
        """The state of everything, as plain values; of the services at most so many, those with news first.

        ``history`` adds the rates of the last minute, sample by sample.
        """
        self.refresh()
        return status(self, services, history=history)

    def problems_since(self, number: int) -> dict[str, Any]:
        """What has gone wrong of late, after the problem of that number."""
        return {"last": self.problems.last, "problems": self.problems.since(number)}

    def config(self) -> dict[str, Any]:
        """The configuration in force, without secrets."""
        return {
            "file": self.settings.file,
            "digest": self.settings.digest,
            "config": orjson.loads(self.settings.effective),
        }

    def greenlets(self) -> dict[str, list[str]]:
        """The named greenlets of every process."""
        replies = self.workforce.ask("greenlets")
        return {"supervisor": names()} | {f"worker {slot}": reply or [] for slot, reply in replies.items()}


def _to_open(before: Sequence[ListenerSpec], after: Sequence[ListenerSpec]) -> list[str]:
    """The listeners that workers have to open: new ones, and those that cannot change as they stand."""
    known = {spec.name: spec for spec in before}
    return [spec.name for spec in after if spec.name not in known or known[spec.name].needs_new_server(spec)]
