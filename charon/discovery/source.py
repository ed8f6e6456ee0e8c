"""What a source of services promises, and what discovery needs from the process it runs in.

Discovery runs in the supervisor, under monkey-patched gevent, and never in the path of a request. Another source
(DNS SRV, etcd, Consul, Kubernetes) is one more file beside this one that keeps the same promise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from gevent import Greenlet

from charon.config.registry import Target

Services = Mapping[str, tuple[Target, ...]]
OnChange = Callable[[], None]


class Spawn(Protocol):
    """Starts a named greenlet. Handed in, so that discovery does not depend on the package that owns greenlets."""

    def __call__(self, name: str, function: Callable[..., Any], *args: Any) -> Greenlet[..., Any]: ...


class EventLog(Protocol):
    """Where events go. ``name`` is a constant of :class:`charon.base.names.Event`."""

    def event(self, level: str, name: str, /, **fields: Any) -> None: ...


class Source(Protocol):
    """A set of services that may change at any time.

    ``services`` is always the last good set: an empty mapping before the first one, never an exception. A source
    replaces its mapping as a whole and never changes one it has handed out.
    """

    name: str

    def services(self) -> Services:
        """The targets of each service, by the service's name as it was written."""
        ...

    def start(self, on_change: OnChange) -> None:
        """Load what there is, then watch. ``on_change`` runs in a greenlet of the source after each change."""
        ...

    def stop(self) -> None:
        """Stop watching; ``on_change`` is not called any more. The last good set stays readable."""
        ...
