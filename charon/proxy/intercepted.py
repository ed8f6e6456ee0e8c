"""Connections that the kernel has brought here: where they were going, and what carries them there."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from charon.base.errors import OWN_LISTENER, PASSTHROUGH_DENIED, UNKNOWN_SERVICE, ExchangeFailed, Reason
from charon.base.names import Event, Intercepted, Metric
from charon.net.original import local_address, original_destination
from charon.proxy.passthrough import Destination

if TYPE_CHECKING:
    from charon.proxy.listener import Listener
    from charon.proxy.plane import DataPlane
    from charon.proxy.server import Connection, ProxyServer
    from charon.proxy.service import Service


def find_destination(server: ProxyServer, connection: Connection) -> bool:
    """Note where ``connection`` was going. Returns whether it may be carried on.

    What was dialled to the listener itself leads nowhere: carried on, it would come back here for ever. TPROXY leaves
    the destination as it was; where the local port is Charon's own, a redirect that was there before has changed it.
    """
    own_ports = server.plane.own_ports
    sock = connection.stream.sock
    try:
        destination = here = local_address(sock)
        if not server.listener.transparent or here[1] in own_ports:
            destination = original_destination(sock)
    except OSError:
        return False  # it is gone already
    connection.destination = destination
    if destination[0] == here[0] and destination[1] in own_ports:
        _tell(server.plane, server.listener, connection, OWN_LISTENER)
        return False
    return True


def service_for(connection: Connection, listener: Listener, named: str | None) -> Service:
    """What carries ``connection``, or a request on it: the service that a route has ``named``, else what its
    destination is. Raises ExchangeFailed."""
    plane = connection.server.plane
    destination = connection.destination
    assert destination is not None
    if named is None and listener.direction == "outbound":
        named = plane.addresses.find(destination)
    name = named or listener.default_service
    if name is not None:
        service = plane.service(name)
        if service is None or not service.known:
            raise ExchangeFailed(UNKNOWN_SERVICE, name)
        _note(plane, connection, listener, Intercepted.CARRIED)
        return service
    if not listener.passthrough:
        _tell(plane, listener, connection, PASSTHROUGH_DENIED)
        raise ExchangeFailed(PASSTHROUGH_DENIED, text(destination) or "")
    _note(plane, connection, listener, Intercepted.PASSED_THROUGH)
    if listener.keeps_client:
        destination = "::1" if ":" in destination[0] else "127.0.0.1", destination[1]
    return plane.passthrough.service(destination, monotonic())


def _note(plane: DataPlane, connection: Connection, listener: Listener, result: str) -> None:
    """Count what becomes of a connection, once."""
    if not connection.noted:
        connection.noted = True
        plane.metrics.count(Metric.INTERCEPTED, (listener.direction or "", result))


def _tell(plane: DataPlane, listener: Listener, connection: Connection, reason: Reason) -> None:
    """A connection is refused: counted, and told at most once a second for each listener and reason."""
    _note(plane, connection, listener, Intercepted.REFUSED)
    if plane.may_tell(f"refused {listener.name} {reason.word}", monotonic()):
        plane.events.warning(
            Event.INTERCEPT_REFUSED,
            listener=listener.name,
            reason=reason.word,
            client=connection.client,
            destination=text(connection.destination),
        )


def text(destination: Destination | None) -> str | None:
    """A destination for people."""
    if destination is None:
        return None
    host, port = destination
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
