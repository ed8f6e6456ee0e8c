"""Certificates while Charon runs: made, renewed and read again by the supervisor, which gives them to the workers.

Every file is looked at each second by its identity, which sees an edit, a rename over it, a swapped symlink and a
mounted folder alike, and all is read once a minute whatever its identity, so that nothing is missed for longer. What
cannot be used never takes the place of what is in force.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent import Greenlet
from gevent.lock import Semaphore

from charon.base.clock import Clock
from charon.base.errors import CertificateError, StartError
from charon.base.names import Event, Metric
from charon.base.units import in_words
from charon.config.certificates import MaterialSource
from charon.config.snapshot import TlsMaterial
from charon.discovery.file_watch import Identity, in_thread, observe
from charon.net.tasks import spawn
from charon.telemetry.events import EventLog
from charon.telemetry.exposition import Totals

if TYPE_CHECKING:
    from charon.identity.certificates import Refreshed
    from charon.identity.spiffe import Facts

POLL_SECONDS: Final = 1.0
READ_SECONDS: Final = 60.0
"""How often everything is read, whether it seems to have changed or not."""

RETRY_SECONDS: Final = 10.0
"""How long what failed is left alone, unless its files change."""

REMIND_SECONDS: Final = 3600.0
"""How often the same trouble is told again."""

Identities = tuple[Identity, ...]


@dataclass(slots=True)
class Kept:
    """One material: what is in force, and when it is looked at again (monotonic seconds)."""

    name: str
    source: MaterialSource
    found: Refreshed
    identity: Identities
    read_at: float
    failures: int = 0
    """Failures in a row to bring it up to date."""
    problem: str | None = None
    told: set[str] = field(default_factory=set)
    """The troubles that were told of it."""


class CertificateKeeper:
    """``on_change`` runs in the keeper's greenlet when :meth:`materials` has changed."""

    def __init__(self, events: EventLog, totals: Totals, clock: Clock, on_change: Callable[[], None]) -> None:
        self._events = events
        self._totals = totals
        self._clock = clock
        self._on_change = on_change
        self._kept: dict[str, Kept] = {}
        self._busy = Semaphore()
        self._greenlet: Greenlet[..., Any] | None = None
        self._changed = False
        self._told: dict[str, float] = {}  # when each trouble was last told, in monotonic seconds

    def __repr__(self) -> str:
        return f"<CertificateKeeper materials={len(self._kept)}>"

    def materials(self) -> dict[str, TlsMaterial]:
        """What is in force, by name."""
        return {name: kept.found.loaded.material for name, kept in self._kept.items()}

    def prepare(self, sources: Mapping[str, MaterialSource]) -> dict[str, Kept]:
        """Issue and read what ``sources`` need. Raises StartError with nothing put in force."""
        prepared: dict[str, Kept] = {}
        with self._busy:
            for name, source in sources.items():
                before = self._kept.get(name)
                if before is not None and before.source == source:
                    prepared[name] = before
                    continue
                found, identity = in_thread(_again, source, self._clock)
                if isinstance(found, CertificateError):
                    raise StartError(str(found)) from found
                prepared[name] = Kept(name, source, found, identity, self._clock.monotonic())
        return prepared

    def adopt(self, prepared: dict[str, Kept]) -> None:
        """Put in force what :meth:`prepare` gave, and watch it."""
        new = [kept for name, kept in prepared.items() if self._kept.get(name) is not kept]
        self._kept = prepared
        for kept in new:
            self._tell_issued(kept.source, kept.found)
            self._warn(kept)
        self._show()
        if prepared and self._greenlet is None:
            self._greenlet = spawn("certificates", self._watch)
        elif not prepared:
            self.stop()

    def stop(self) -> None:
        """End all watching; what is in force stays."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None

    def status(self) -> list[dict[str, Any]]:
        """Every certificate and authority, as plain values."""
        now = self._clock.wall()
        rows: list[dict[str, Any]] = []
        for kept in self._kept.values():
            loaded, source = kept.found.loaded, kept.source
            for file, facts in loaded.certificates():
                row = _row(file, facts, now) | {"problem": kept.problem, "warnings": list(loaded.warnings)}
                if facts is loaded.leaf:
                    row |= {"kind": "certificate", "source": "charon" if source.plan is not None else "file"}
                else:
                    row |= {"kind": "authority", "source": "file"}
                if all(other["file"] != file or other["serial"] != row["serial"] for other in rows):
                    rows.append(row)
        return rows

    def _watch(self) -> None:
        while True:
            gevent.sleep(POLL_SECONDS)
            try:
                if self.look():
                    self._on_change()
            except Exception as error:  # noqa: BLE001 - told, and the certificates must still be looked after
                self._events.error(Event.INTERNAL_ERROR, exc=error, where=repr(self))

    def look(self) -> bool:
        """Look after everything once; says whether :meth:`materials` has changed."""
        with self._busy:
            for kept in list(self._kept.values()):
                if self._is_due(kept):
                    self._changed = self._refresh(kept) or self._changed
                self._warn(kept)
        changed, self._changed = self._changed, False
        if changed:
            self._show()
        return changed

    def _is_due(self, kept: Kept) -> bool:
        """Is there anything to do? Renewal is asked for by the wall clock, which certificates live by."""
        since = self._clock.monotonic() - kept.read_at
        if since >= (RETRY_SECONDS if kept.problem else READ_SECONDS):
            return True
        if kept.identity != in_thread(observe_all, kept.source):
            return True
        leaf = kept.found.loaded.leaf
        if kept.problem is not None or not kept.found.renewable or leaf is None:
            return False
        from charon.identity.renewal import renew_at

        return since >= POLL_SECONDS and self._clock.wall() >= min(renew_at(leaf), leaf.not_after)

    def _refresh(self, kept: Kept) -> bool:
        """Issue and read one material again; says whether it has changed."""
        before = kept.found.loaded
        kept.read_at = self._clock.monotonic()
        found, kept.identity = in_thread(_again, kept.source, self._clock)
        if isinstance(found, CertificateError):
            kept.failures += 1
            if kept.failures == 1:
                kept.identity = ()  # a pair that is being written does not fit for a moment: read it again
                return False
            kept.problem = str(found)
            self._totals.count(Metric.CERTIFICATE_FAILURES, (_file(kept.source),))
            self._tell(kept, kept.problem, Event.CERTIFICATE_FAILED, "error")
            return False
        if kept.problem is not None:
            self._forget(kept)
        kept.found, kept.problem, kept.failures = found, None, 0
        if found.loaded.material.version == before.material.version:
            return False
        if found.issued is not None:
            self._tell_issued(kept.source, found)
        else:
            fields = _fields(kept.source, found.loaded.leaf)
            self._events.info(Event.CERTIFICATE_RENEWED, **fields, why="the files changed")
        self._forget(kept)
        return True

    def _tell_issued(self, source: MaterialSource, found: Refreshed) -> None:
        if found.new_authority:
            for facts in found.loaded.authorities:
                fields: dict[str, Any] = {"file": source.ca_file, "name": facts.subject}
                fields["not_after"] = _iso(facts.not_after)
                self._events.info(Event.CERTIFICATE_ISSUED, **fields, why="there was no authority")
        if found.issued is not None:
            event = Event.CERTIFICATE_RENEWED if found.renewed else Event.CERTIFICATE_ISSUED
            self._events.info(event, **_fields(source, found.loaded.leaf), why=found.issued)

    def _warn(self, kept: Kept) -> None:
        """What peers refuse, or will soon: told at once and again each hour."""
        from charon.identity.renewal import expires_soon

        now = self._clock.wall()
        loaded = kept.found.loaded
        for warning in loaded.warnings:
            self._tell(kept, warning, Event.CERTIFICATE_FAILED, "error")
        for file, facts in loaded.certificates():
            problem = facts.validity_problem(now)
            if problem is not None or expires_soon(facts, now):
                key = f"{file} {facts.serial} {problem is None}"
                level = "warning" if problem is None else "error"
                text = f"{file}: {problem or 'the certificate expires in ' + in_words(facts.not_after - now)}"
                event = Event.CERTIFICATE_FAILED if now < facts.not_before else Event.CERTIFICATE_EXPIRING
                self._tell(kept, text, event, level, key, **_row(file, facts, now))

    def _tell(self, kept: Kept, text: str, event: str, level: str, key: str | None = None, **fields: Any) -> None:
        now = self._clock.monotonic()
        last = self._told.get(key or text)
        if last is None or now - last >= REMIND_SECONDS:
            self._told[key or text] = now
            kept.told.add(key or text)
            self._events.event(level, event, **{"file": _file(kept.source)} | fields, problem=text)

    def _forget(self, kept: Kept) -> None:
        """Should the same trouble come again, it is news."""
        for key in kept.told:
            self._told.pop(key, None)
        kept.told.clear()

    def _show(self) -> None:
        """The gauges: for each file, what in it expires first."""
        soonest: dict[tuple[str, ...], float] = {}
        for row in self.status():
            labels = (str(row["file"]),)
            soonest[labels] = min(row["not_after"], soonest.get(labels, row["not_after"]))
        self._totals.set_gauges(Metric.CERTIFICATE_NOT_AFTER, soonest)


def observe_all(source: MaterialSource) -> Identities:
    """The identities of the files of ``source`` at this moment."""
    return tuple(observe(Path(path)) for path in source.files)


def _again(source: MaterialSource, clock: Clock) -> tuple[Refreshed | CertificateError, Identities]:
    """What came of issuing and reading ``source``, and the identity of its files."""
    # Imported where it is used: without TLS it would be 10 MB of memory for nothing.
    from charon.identity.certificates import refresh

    before = observe_all(source)
    try:
        found = refresh(source, clock.wall())
    except CertificateError as error:  # handed on as a value: the pool of threads prints what it sees raised
        return error, before
    # What changed while it was read is read again, unless the change was our own.
    return found, observe_all(source) if found.issued is not None else before


def _file(source: MaterialSource) -> str:
    return source.cert_file or source.ca_file or ""


def _fields(source: MaterialSource, leaf: Facts | None) -> dict[str, Any]:
    if leaf is None:
        return {"file": _file(source)}
    return {
        "file": _file(source),
        "identity": leaf.identity,
        "serial": f"{leaf.serial:x}",
        "not_after": _iso(leaf.not_after),
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _row(file: str | None, facts: Facts, now: float) -> dict[str, Any]:
    return {
        "file": file,
        "name": facts.subject,
        "identity": facts.identity,
        "names": list(facts.names),
        "serial": f"{facts.serial:x}",
        "not_after": round(facts.not_after),
        "days_left": round(facts.days_left(now), 4),
    }
