"""What a request is known by where its service gives the same endpoint to the same key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from charon.config.snapshot import BalanceSpec
from charon.policy.hashing import hash_key

if TYPE_CHECKING:
    from charon.proxy.exchange import Exchange


def balance_key(spec: BalanceSpec, exchange: Exchange) -> int | None:
    """The key of a request where ``spec.hashes``; None when the request does not have what it is made of."""
    head = exchange.head
    assert head is not None
    kind, _, name = spec.hash_on.partition(":")
    if kind == "client_ip":
        return hash_key(exchange.client.encode())
    if kind == "path":
        return hash_key(head.path)
    wanted = name.lower().encode("ascii") if kind == "header" else b"cookie"
    for field, value in head.fields:
        if field.lower() == wanted:
            if kind == "header":
                return hash_key(value)
            for pair in value.split(b";"):
                cookie, _, content = pair.strip(b" \t").partition(b"=")
                if cookie == name.encode("ascii"):
                    return hash_key(content)
    return None
