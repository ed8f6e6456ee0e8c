"""Where a connection was going before a rule of the kernel brought it here.

Trust: the kernel says it, from its table of connections; the peer has no say in it but by where it connects.
"""

from __future__ import annotations

import socket as std
import struct
from _socket import socket as RawSocket
from errno import ENOENT, ENOPROTOOPT

SO_ORIGINAL_DST = 80
"""<linux/netfilter_ipv4.h>; IP6T_SO_ORIGINAL_DST of <linux/netfilter_ipv6/ip6_tables.h> has the same number."""

_MAPPED = "::ffff:"


def original_destination(sock: RawSocket) -> tuple[str, int]:
    """The address that the peer of an accepted TCP connection dialled: where no rule has changed it, ``sock``'s own.

    Raises OSError when the connection is gone.
    """
    host, port = local_address(sock)
    try:
        if ":" in host:
            raw = sock.getsockopt(std.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
            return std.inet_ntop(std.AF_INET6, raw[8:24]), struct.unpack_from("!H", raw, 2)[0]
        raw = sock.getsockopt(std.IPPROTO_IP, SO_ORIGINAL_DST, 16)
        return std.inet_ntop(std.AF_INET, raw[4:8]), struct.unpack_from("!H", raw, 2)[0]
    except OSError as error:
        if error.errno in (ENOENT, ENOPROTOOPT):  # not in the table, or there is none
            return host, port
        raise


def local_address(sock: RawSocket) -> tuple[str, int]:
    """This side's address of a TCP connection; IPv4 as IPv4, also through a socket that speaks both.

    Raises OSError.
    """
    host, port = sock.getsockname()[:2]
    if host.startswith(_MAPPED) and "." in host:
        host = host[len(_MAPPED) :]
    return host, port
