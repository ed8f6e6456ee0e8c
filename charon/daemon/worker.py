"""A worker: one process of the data plane. Started anew by the supervisor as ``python -m charon.daemon.worker FD``."""

import charon.net.patch  # noqa: F401 - before all others: they must import the patched standard library

# isort: split
import faulthandler
import gc
import os
import signal
import sys
from collections.abc import Mapping
from math import inf
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event as Flag

from charon.base.clock import SystemClock
from charon.base.litter import Litter
from charon.base.names import Event, Metric
from charon.config.service_table import SnapshotUpdate
from charon.config.snapshot import (
    EndpointSpec,
    ListenerSpec,
    LoggingSpec,
    ServiceSpec,
    Snapshot,
    SocketAddress,
    TracingSpec,
)
from charon.daemon.channel import Channel, ChannelClosed, Message
from charon.net.accept import why
from charon.net.capacity import Capacity, raise_descriptor_limit
from charon.net.deadlines import deadlines
from charon.net.dial import mark_connections
from charon.net.pool import MAX_IDLE_SECONDS
from charon.net.tasks import names, spawn
from charon.policy.drain import SPREAD
from charon.proxy.auto import AutoServer
from charon.proxy.forward import METRICS_SERVICE
from charon.proxy.guard import Guard
from charon.proxy.http import HttpServer
from charon.proxy.listener import Listener
from charon.proxy.plane import DataPlane
from charon.proxy.server import ProxyServer
from charon.proxy.sharing import Sharing
from charon.proxy.tcp import TcpServer
from charon.shared.table import SharedTable
from charon.telemetry.access_log import AccessLog
from charon.telemetry.events import EventLog
from charon.telemetry.ledger import Ledger
from charon.telemetry.metrics import WorkerMetrics
from charon.telemetry.problems import Problems
from charon.telemetry.sink import LogSink
from charon.telemetry.spans import DropReason, SpanOutbox
from charon.telemetry.tracing import Tracer

SWEEP_SECONDS = 0.2
"""How often clients that left are looked for."""

REPORT_SECONDS = 1.0
"""How often gauges go to the supervisor unasked, and idle connections are looked at."""

_KINDS: dict[str, type[ProxyServer]] = {"http": HttpServer, "tcp": TcpServer, "auto": AutoServer}

# The data path makes few cycles; with the default thresholds the collector would walk every open connection often.
_GC_THRESHOLDS = (50_000, 20, 50)


class Worker:
    """Does what the channel says until it is told to drain, or the supervisor is gone."""

    def __init__(self, channel: Channel, hello: dict[str, Any], descriptors: list[int]) -> None:
        """``hello`` is the supervisor's first message; ``descriptors`` are those of the shared table, the one through
        which spans are handed over, and the ledger."""
        self.channel = channel
        self.slot = slot = int(hello["slot"])
        self.slots = int(hello["slots"])
        logging = LoggingSpec(**hello["logging"])
        self.sink = LogSink(logging.file)
        self.events = EventLog(self.sink, logging.level, logging.format, logging.environment, worker=slot)
        self.events.capture_libraries()
        self.access_log = AccessLog(self.sink, logging.format, logging.level)
        self.problems = Problems()
        self.events.watch(self.problems.add)
        self.access_log.on_problem = self.problems.add
        metrics = WorkerMetrics(Ledger(descriptors[-1]))
        table = SharedTable(descriptors[0], self.slots, (descriptors[1], descriptors[2]))
        sharing = Sharing(table, slot, bytes.fromhex(hello["secret"]), metrics, self.events)
        self.capacity = Capacity(raise_descriptor_limit())
        self.guard = Guard(self.capacity, self.events, metrics, self._start_draining)
        self.spans = SpanOutbox(descriptors[3])
        self.plane = DataPlane(self.events, self.access_log, metrics, sharing, self.guard)
        deadlines().on_lag = self.guard.look_at_lag
        self._services: Mapping[str, ServiceSpec] = {}
        self.specs: dict[str, ListenerSpec] = {}
        self.servers: list[ProxyServer] = []
        self.retired: list[ProxyServer] = []
        self._litter = Litter()
        self.idle = MAX_IDLE_SECONDS
        self._drain_timeout = 30.0
        self._drain = Flag()
        self._cut = 0
        self._accept_failed_at = 0.0

    def run(self) -> None:
        """Serve until told to stop, drain, and return."""
        listening = spawn("channel", self._listen)
        housekeeping = spawn("housekeeping", self._keep_house)
        self._drain.wait()
        self._finish()
        gevent.killall([housekeeping, listening])
        self._report(0)
        self.sink.close()

    # -- what the supervisor says -------------------------------------------------------------------------------

    def _listen(self) -> None:
        while True:
            try:
                message, descriptors = self.channel.receive()
            except ChannelClosed:
                self._drain.set()  # the supervisor is gone: finish what is under way
                return
            try:
                self._obey(message, descriptors)
            except Exception as error:  # noqa: BLE001 - one bad order must not stop the data plane
                self.events.error(Event.INTERNAL_ERROR, exc=error, where="channel")

    def _obey(self, message: Message, descriptors: list[int]) -> None:
        if isinstance(message, SnapshotUpdate):
            message = message.over(self._services)
        if isinstance(message, Snapshot):
            self._apply(message)
            self._send({"type": "applied", "generation": message.generation})
            return
        kind = message.get("type")
        if kind == "sockets":
            for (name, home, of), fd in zip(message["listeners"], descriptors, strict=True):
                if name in self.specs:
                    self._open(name, home, of, fd)
                else:
                    os.close(fd)  # a newer snapshot has overtaken this
        elif kind == "serve":
            self._send({"type": "ready"})
        elif kind == "release":
            self._release(message["home"])
        elif kind == "report":
            self._report(message["id"])
        elif kind == "reopen":
            self.sink.reopen()
        elif kind == "greenlets":
            self._send({"type": "greenlets", "id": message["id"], "names": names()})
        elif kind == "drain":
            self._drain_timeout = message["timeout"]
            self._drain.set()
        else:
            raise ValueError(f"unknown message {kind!r}")

    def _apply(self, snapshot: Snapshot) -> None:
        """Follow a snapshot: what is unchanged is left alone."""
        self._services = snapshot.services  # whatever becomes of the rest: the next update builds on it
        self._drain_timeout = snapshot.drain_timeout
        mark_connections(snapshot.mark)
        self.events.set_level(snapshot.logging.level)
        self.access_log.set_level(snapshot.logging.level)
        self.access_log.choose(snapshot.logging.sample, snapshot.logging.exclude_paths)
        admin = ServiceSpec(
            METRICS_SERVICE, (EndpointSpec(METRICS_SERVICE, (SocketAddress(snapshot.admin_socket, 0),)),)
        )
        self.plane.apply(snapshot, {METRICS_SERVICE: admin})
        self._trace(snapshot.tracing)
        total = snapshot.max_connections
        self.capacity.set_limit(inf if total is None else _part(total, self.slots))
        self.guard.apply(snapshot.overload, monotonic())
        self.specs = {spec.name: spec for spec in snapshot.listeners}
        self.idle = min((spec.timeouts.idle for spec in snapshot.listeners), default=MAX_IDLE_SECONDS)
        gone = []
        for server in self.servers:
            spec = self.specs.get(server.listener.name)
            if spec is None or server.listener.spec.needs_new_server(spec):
                gone.append(server)  # what is to be opened anew comes with its socket
            elif spec != server.listener.spec or server.listener.tls is not self.plane.server_tls(spec):
                server.listener = self._listener(spec)
                server.pool_of_connections.set_limit(_part(spec.limits.max_connections, server.of))
        self._retire(gone)
        self._litter.dropped(monotonic())

    def _trace(self, spec: TracingSpec | None) -> None:
        tracer = self.plane.tracer
        if spec is None:
            self.plane.tracer = None
        elif tracer is None or tracer.spec != spec:
            self.plane.tracer = Tracer(spec, self.spans, SystemClock())

    def _open(self, name: str, home: int, of: int, fd: int) -> None:
        """Listen on a socket of slot ``home``, one of ``of`` that share the listener's connections."""
        spec = self.specs[name]
        kind = _KINDS[spec.protocol]
        listener = self._listener(spec)
        most = _part(spec.limits.max_connections, of)
        server = kind(fd, listener, self.plane, most, lambda error: self._accept_failed(name, error))
        server.home, server.of = home, of
        server.start()
        self.servers.append(server)
        self._note_ports()

    def _note_ports(self) -> None:
        names = [server.socket.getsockname() for server in self.servers if not server.closed]
        self.plane.own_ports = frozenset(name[1] for name in names if isinstance(name, tuple))

    def _listener(self, spec: ListenerSpec) -> Listener:
        return Listener(spec, self.plane.sharing.buckets, self.plane.server_tls(spec))

    def _release(self, home: int) -> None:
        """A slot has a worker again, which listens on its sockets from now on. The connections that came here meanwhile
        stay, as any other does: the listener is the same."""
        for server in self.servers:
            if server.home == home:
                server.stop_listening()
        self._note_ports()

    def _retire(self, servers: list[ProxyServer]) -> None:
        """Listen no more, and let the connections come to their end."""
        for server in servers:
            self.servers.remove(server)
            self.retired.append(server)
            server.retired_at = monotonic()
            server.stop_listening()
            server.close_idle()
        self._note_ports()

    def _accept_failed(self, name: str, error: OSError) -> None:
        self.plane.metrics.listener(name).accept_failed()
        now = monotonic()
        if now - self._accept_failed_at >= 1.0:  # one line a second says as much as thousands
            self._accept_failed_at = now
            self.events.warning(Event.ACCEPT_FAILED, listener=name, error=why(error))

    # -- what it does by itself ---------------------------------------------------------------------------------

    def _start_draining(self) -> None:
        self._drain.set()

    def _keep_house(self) -> None:
        next_report = 0.0
        while True:
            gevent.sleep(SWEEP_SECONDS)
            now = monotonic()
            for server in self._all_servers():
                server.sweep(now)
            self.spans.flush()
            self.guard.look(now, self._all_servers(), (e.pool for e in self.plane.services.endpoints()))
            self._end_retired(now)
            if now < next_report:
                continue
            next_report = now + REPORT_SECONDS
            for endpoint in (*self.plane.services.endpoints(), *self.plane.passthrough.endpoints()):
                endpoint.pool.sweep(now, self.idle)
                endpoint.fade(now)
            self.plane.passthrough.sweep(now)
            self.capacity.look()
            self._litter.look(now)
            self.servers = [server for server in self.servers if server.connections or not server.closed]
            self._report(0)

    def _all_servers(self) -> list[ProxyServer]:
        return [*self.servers, *self.retired]

    def _end_retired(self, now: float) -> None:
        """Connections of listeners that have left have the drain timeout, like those of a stop."""
        if not self.retired:
            return
        busy = [server for server in self.retired if server.connections]
        if len(busy) < len(self.retired):
            self._litter.dropped(now)
        self.retired = busy
        for server in self.retired:
            if server.retired_at is None:
                continue
            elapsed = now - server.retired_at
            if elapsed > self._drain_timeout:
                server.abort_all()
            else:
                server.end_some(elapsed, self._drain_timeout, SWEEP_SECONDS)

    def _report(self, request: int) -> None:
        servers = self._all_servers()
        for server in servers:
            server.count_bytes()
        self.plane.gauges(servers)
        self.plane.metrics.count_up_to(Metric.LOG_DROPPED, (), self.sink.dropped)
        self.plane.metrics.count_up_to(Metric.TRACE_SPANS_DROPPED, (DropReason.WORKER_QUEUE,), self.spans.dropped)
        self.plane.metrics.count_up_to(Metric.LOG_WRITE_ERRORS, (), self.sink.errors)
        state = self.plane.state(servers)
        report = {"type": "report", "id": request, "delta": self.plane.metrics.collect(), "state": state}
        problems = self.problems.take()
        self._send(report | {"problems": problems} if problems else report)

    def _send(self, message: Message) -> None:
        try:
            self.channel.send(message)
        except ChannelClosed:
            self._drain.set()

    def _finish(self) -> None:
        """Stop accepting, let what is under way finish, and end what has not in time."""
        self.plane.draining = True
        servers = self._all_servers()
        for server in servers:
            server.stop_listening()
        for server in servers:
            server.close_idle()
        began = monotonic()
        deadline = began + self._drain_timeout
        ending = spawn("drain", self._end_endless, servers, began)
        for server in servers:
            server.pool_of_connections.join(timeout=max(0.0, deadline - monotonic()))
        ending.kill()
        left = self._cut + sum(len(server.connections) for server in servers)
        for server in servers:
            server.abort_all()
        for server in servers:
            server.pool_of_connections.join(timeout=1.0)
        self.spans.flush()
        self.events.info(Event.WORKER_DRAINED, pid=os.getpid(), aborted=left)

    def _end_endless(self, servers: list[ProxyServer], began: float) -> None:
        """What would go on for ever ends bit by bit in the last part of the drain timeout, not all at its end."""
        timeout = self._drain_timeout
        gevent.sleep(timeout * (1 - SPREAD))
        while True:
            for server in servers:
                self._cut += server.end_some(monotonic() - began, timeout, SWEEP_SECONDS)
            gevent.sleep(SWEEP_SECONDS)


def _part(connections: int, of: int) -> int:
    """Of ``connections`` that there may be, what one of ``of`` parts may have."""
    return -(-connections // of)


def main() -> None:
    """Take orders from the channel whose descriptor is the first argument."""
    # The supervisor says when to stop, and how; a terminal's Ctrl-C reaches the whole process group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.register(signal.SIGUSR2)  # one that is stuck is asked where, before it is ended
    channel = Channel.inherited(int(sys.argv[1]), trusting=True)
    try:
        hello, descriptors = channel.receive()
    except ChannelClosed:
        sys.exit(1)
    if not isinstance(hello, dict) or hello.get("type") != "hello":
        sys.exit(1)
    worker = Worker(channel, hello, descriptors)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    worker.run()


if __name__ == "__main__":
    main()
