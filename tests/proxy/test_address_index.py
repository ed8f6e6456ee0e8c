"""Which service is at an address, over snapshots that change."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

from charon.config.service_table import ServiceTable
from charon.config.snapshot import EndpointSpec, ServiceSpec, SocketAddress
from charon.proxy.address_index import AddressIndex


def services(**named: list[tuple[str, int]]) -> Mapping[str, ServiceSpec]:
    """As a worker gets them."""
    specs = {
        name: ServiceSpec(name, tuple(EndpointSpec(f"{a}", (SocketAddress(*a),)) for a in addresses))
        for name, addresses in named.items()
    }
    table: Mapping[str, ServiceSpec] = pickle.loads(pickle.dumps(ServiceTable(specs)))
    return table


def test_addresses_come_and_go_with_their_services() -> None:
    index = AddressIndex()
    index.apply(services(web=[("10.0.0.1", 80), ("10.0.0.2", 80)], six=[("2001:DB8:0::1", 80)], unix=[("/x", 0)]))
    assert index.find(("10.0.0.2", 80)) == "web"
    assert index.find(("10.0.0.2", 81)) is None
    assert index.find(("2001:db8::1", 80)) == "six"
    assert index.find(("/x", 0)) is None
    index.apply(services(web=[("10.0.0.2", 80), ("10.0.0.3", 80)]))
    assert [index.find((f"10.0.0.{n}", 80)) for n in (1, 2, 3)] == [None, "web", "web"]
    assert index.find(("2001:db8::1", 80)) is None
    index.apply({})
    assert index.find(("10.0.0.2", 80)) is None and repr(index) == "<AddressIndex services=0 addresses=0>"


def test_of_several_the_one_that_has_been_there_longest() -> None:
    index = AddressIndex()
    index.apply(services(one=[("10.0.0.1", 80)], two=[("10.0.0.1", 80)]))
    assert index.find(("10.0.0.1", 80)) == "one"
    index.apply(services(zero=[("10.0.0.1", 80)], two=[("10.0.0.1", 80)]))
    assert index.find(("10.0.0.1", 80)) == "two"
