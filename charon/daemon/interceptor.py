"""Keeping the kernel's rules of interception: up while Charon serves, in force by signs of life, away when it stops."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import gevent
from gevent import Greenlet
from gevent.lock import Semaphore

from charon.base.errors import StartError
from charon.base.names import Event, Intercepted, Metric
from charon.config.interception import InterceptSpec
from charon.config.settings import Settings
from charon.intercept import kernel, routing, rules
from charon.net.dial import mark_connections
from charon.net.tasks import spawn
from charon.telemetry.events import EventLog
from charon.telemetry.exposition import Totals

BEATS: Final = 3
"""Signs of life in the time for which one of them lasts: one or two may be late."""


_T = TypeVar("_T")
_LEFT: Final = "CHARON_INTERCEPT_TABLE"
_LEFT_ROUTING: Final = "CHARON_INTERCEPT_ROUTING"


class Interceptor:
    """The rules of one Charon. ``addresses`` tells where its listeners are, ``serving`` how many workers serve."""

    def __init__(
        self,
        events: EventLog,
        totals: Totals,
        addresses: Callable[[], Mapping[str, str]],
        serving: Callable[[], int],
    ) -> None:
        self._events = events
        self._totals = totals
        self._addresses = addresses
        self._serving = serving
        self._spec: InterceptSpec | None = None
        self._text = ""
        self._wanted = False
        self._trouble: str | None = None
        self._quiet: set[str] = set()
        self._routing: set[int] = set()
        self._changing = Semaphore()
        self._beating: Greenlet[..., None] | None = None
        self._left = os.environ.pop(_LEFT, None)
        self._routing.update(int(table) for table in os.environ.pop(_LEFT_ROUTING, "").split())

    def __repr__(self) -> str:
        return f"<Interceptor {'up' if self._wanted else 'down'}{f' trouble={self._trouble}' if self._trouble else ''}>"

    # -- what the supervisor says -------------------------------------------------------------------------------

    def check(self, settings: Settings) -> None:
        """Whether ``settings`` can be put in force here. Raises StartError, with nothing changed."""
        spec = settings.intercept
        if spec is None:
            return
        try:
            mark_connections(spec.mark)
        except OSError as error:
            raise StartError("intercept needs CAP_NET_ADMIN (or root); see docs/interception.md") from error
        kernel.listing(spec.table)
        if spec.routing_table is not None:
            routing.check()
        rules.table(spec, rules.Place({listener.name: ":1" for listener in settings.listeners}))

    def follow(self, settings: Settings) -> None:
        """Have the rules as ``settings`` want them. Raises StartError."""
        spec = settings.intercept
        if self._beating is None and spec is not None:
            self._beating = spawn("interception", self._beat)
        with self._changing:
            before = self._spec
            left, self._left = self._left, None
            if left is not None and (spec is None or spec.table != left):
                kernel.load(rules.quiet(InterceptSpec(left, 0, True, 0)))  # the predecessor removes it when it ends
            wanted = before is None or self._wanted  # what an operator has taken away stays away
            if before is not None and (spec is None or spec.table != before.table):
                self._take_away(before)
            self._spec = spec
            mark_connections(0 if spec is None else spec.mark)
            if spec is not None and wanted:
                self._put_up(spec)

    def reload(self, settings: Settings) -> None:
        """As :meth:`follow`, for a configuration that is in force: what fails is told, and tried again by and by."""
        try:
            self.follow(settings)
        except StartError as error:
            self._wanted = self._spec is not None
            self._note(str(error))

    def environment(self) -> dict[str, str]:
        """What a successor has to know: the table that it finds, and takes away where it has none of that name; and the
        routing tables, which it takes away when it ends."""
        told = {_LEFT: self._spec.table} if self._spec is not None and self._wanted else {}
        if self._routing:
            told[_LEFT_ROUTING] = " ".join(str(table) for table in self._routing)
        return told

    def release(self, *, handed_on: bool) -> None:
        """Charon is stopping: nothing is to be brought here any more, unless a successor takes it, or the rules are to
        fail closed. What has been brought goes on."""
        if self._beating is not None:
            self._beating.kill()
            self._beating = None
        with self._changing:
            spec = self._spec
            if handed_on:
                self._routing.clear()  # they are the successor's, which removes them
            if spec is not None and self._wanted and handed_on:
                self._quiet.add(spec.table)  # unless the successor has rules there
            elif spec is not None and self._wanted and spec.fail_open:
                self._try(self._take_away, spec)

    def stop(self) -> None:
        """The last connection has ended: nothing of the tables without rules is needed any more."""
        for table in self._quiet:
            self._try(self._remove_quiet, table)
        for number in self._routing:
            self._try(routing.remove, number)

    def _remove_quiet(self, table: str) -> None:
        listed = kernel.listing(table)
        if listed is not None and rules.is_quiet(listed):
            kernel.remove(table)

    def _try(self, step: Callable[[_T], object], what: _T) -> None:
        try:
            step(what)
        except StartError as error:
            self._note(str(error))  # there is no second chance, but rules that fail open end by themselves

    # -- what an operator says ----------------------------------------------------------------------------------

    def up(self) -> None:
        """Put the rules up, also where they are. Raises StartError."""
        with self._changing:
            if self._spec is None:
                raise StartError("intercept is not enabled in the configuration")
            self._put_up(self._spec)

    def down(self) -> None:
        """Take the rules away until they are put up again, or Charon starts anew. Raises StartError."""
        with self._changing:
            if self._spec is not None:
                self._take_away(self._spec)

    def show(self) -> dict[str, Any]:
        """The text of the rules that are wanted, and how what the kernel has differs. Raises StartError."""
        spec = self._spec
        if spec is None:
            return {"enabled": False}
        text = rules.table(spec, self._place())
        found = kernel.listing(spec.table)
        change = rules.difference(text, found)
        if spec.routing_table is not None:
            text += routing.text(spec.routing_table)
            change = change or routing.difference(spec.routing_table)
        if not self._wanted:
            change = None if found is None or rules.is_quiet(found) else "there are rules, and none are wanted"
        elif change is None and found is not None and not rules.in_force(found):
            change = "the rules are there, but not in force: there was no sign of life in time"
        return {"enabled": True, "up": self._wanted, "table": spec.table, "rules": text, "difference": change}

    def status(self) -> dict[str, Any] | None:
        """How things stand, as plain values; None where interception is off."""
        spec = self._spec
        if spec is None:
            return None
        directions = {"outbound": spec.outbound, "inbound": spec.inbound}
        connections = {name: dict.fromkeys(Intercepted.ALL, 0) for name, wanted in directions.items() if wanted}
        for (direction, result), count in self._totals.series(Metric.INTERCEPTED).items():
            connections.setdefault(direction, {})[result] = int(count)
        return {
            "up": self._wanted,
            "table": spec.table,
            "on_stop": "open" if spec.fail_open else "closed",
            "trouble": self._trouble,
            "connections": connections,
        }

    # -- what it does by itself ---------------------------------------------------------------------------------

    def _put_up(self, spec: InterceptSpec) -> None:
        place = self._place()
        self._text = rules.table(spec, place)
        if spec.routing_table is not None:
            self._routing.add(spec.routing_table)  # even if it fails half-way: for as long as connections may need it
            routing.put(spec.routing_table)
        # In force from this moment on, where anybody serves what they bring; else from the first beat that finds one.
        kernel.load(self._text if self._serving() else rules.table(spec, place, alive=False))
        self._quiet.discard(spec.table)
        if not self._wanted:
            self._events.info(Event.INTERCEPT_UP, table=spec.table, on_stop="open" if spec.fail_open else "closed")
        self._wanted = True
        self._note(None)

    def _take_away(self, spec: InterceptSpec) -> None:
        kernel.load(rules.quiet(spec))
        self._quiet.add(spec.table)
        if self._wanted:
            self._events.info(Event.INTERCEPT_DOWN, table=spec.table)
        self._wanted = False
        self._note(None)

    def _place(self) -> rules.Place:
        return rules.Place(self._addresses(), os.geteuid())

    def _beat(self) -> None:
        while True:
            gevent.sleep(self._spec.hold / BEATS if self._spec is not None else 1.0)
            with self._changing:
                spec = self._spec
                if spec is not None and self._wanted and (self._serving() or not spec.fail_open):
                    try:
                        self._keep(spec)
                    except StartError as error:
                        self._note(str(error))

    def _keep(self, spec: InterceptSpec) -> None:
        """A sign of life; and where somebody has changed the rules, or flushed them, they are put up anew."""
        change = rules.difference(self._text, kernel.listing(spec.table))
        if change is not None:
            kernel.load(self._text)
            self._events.warning(Event.INTERCEPT_RESTORED, table=spec.table, found=change)
        elif spec.fail_open:
            kernel.load(rules.sign_of_life(spec))
        if spec.routing_table is not None:
            missing = routing.difference(spec.routing_table)
            if missing is not None:
                routing.put(spec.routing_table)
                self._events.warning(Event.INTERCEPT_RESTORED, table=spec.table, found=missing)
        self._note(None)

    def _note(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self._trouble:
            self._events.error(Event.INTERCEPT_FAILED, error=trouble)
        self._trouble = trouble
        self._totals.set_gauge(Metric.INTERCEPT_ACTIVE, (), 1.0 if self._wanted and trouble is None else 0.0)
