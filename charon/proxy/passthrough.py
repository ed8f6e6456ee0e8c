"""Destinations that belong to no service: each is carried as a service of one endpoint, made when it is first needed.

They share one name, in logs and metrics, as clients choose them: ``passthrough``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from charon.base.names import PASSTHROUGH
from charon.config.snapshot import EndpointSpec, RetrySpec, ServiceSpec, SocketAddress
from charon.proxy.endpoint import Endpoint
from charon.proxy.service import Service
from charon.proxy.sharing import Sharing

MOST: Final = 1024
"""Destinations that are remembered. One that is forgotten costs a new object, and its idle connections."""

_UNUSED: Final = 120.0
"""Seconds after which a destination that nobody has asked for is forgotten; longer than any pool keeps a connection."""

_KEPT_TRYING: Final = RetrySpec(attempts=0)
"""There is nowhere else to try. A pooled connection that has gone stale is beside this, as it always is."""

Destination = tuple[str, int]


class Passthrough:
    """The destinations that this worker carries connections to, the one that was asked for last at the end."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._services: OrderedDict[Destination, tuple[Service, float]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Passthrough destinations={len(self._services)}>"

    def service(self, destination: Destination, now: float) -> Service:
        """The service that is ``destination``. To be asked for anew by each request."""
        found = self._services.get(destination)
        if found is None:
            endpoint = EndpointSpec(PASSTHROUGH, (SocketAddress(*destination),))
            service = Service(ServiceSpec(PASSTHROUGH, (endpoint,), retry=_KEPT_TRYING), self._sharing)
            if len(self._services) >= MOST:
                self._services.popitem(last=False)[1][0].leave()
        else:
            service = found[0]
        self._services[destination] = service, now
        self._services.move_to_end(destination)
        return service

    def sweep(self, now: float) -> None:
        """Forget what nobody has asked for in a while."""
        while self._services:
            service, used = next(iter(self._services.values()))
            if now - used < _UNUSED:
                return
            self._services.popitem(last=False)
            service.leave()

    def endpoints(self) -> Iterator[Endpoint]:
        """All of them."""
        for service, _ in self._services.values():
            yield from service.endpoints
