"""Bounds on a message head."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """What a head may have at most.

    ``max_header_bytes``: bytes of the whole head, from the first of the start line to the last of the empty line; also
    of a trailer section. ``max_headers``: field lines. A request over either is refused with 431, one whose request
    line alone is too long with 414.

    ``max_target_bytes``: bytes of the request target (414). RFC 9112 3 recommends at least 8000 for the request line;
    sign-in redirects and saved searches in the wild reach 8 to 12 thousand, so 8 KiB would turn users away, and
    nothing legitimate needs more than 16 KiB.
    """

    max_header_bytes: int = 65_536
    max_headers: int = 128
    max_target_bytes: int = 16_384
