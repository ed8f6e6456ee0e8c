"""All proxies, by name."""

from scripts.benchlib.charon_peers import (
    Charon,
    CharonCounted,
    CharonFull,
    CharonLogged,
    CharonTraced,
    CharonTracedAll,
    CharonTwo,
    CharonUncounted,
)
from scripts.benchlib.envoy_peers import Envoy, EnvoyFull, EnvoyTwo
from scripts.benchlib.haproxy import Haproxy
from scripts.benchlib.nginx import Nginx, NginxTwo
from scripts.benchlib.peer import Peer

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        *(Charon(), CharonTwo(), CharonFull(), CharonUncounted(), CharonCounted(), CharonLogged()),
        *(CharonTraced(), CharonTracedAll()),
        *(Envoy(), EnvoyTwo(), EnvoyFull(), Nginx(), NginxTwo(), Haproxy()),
    )
}
