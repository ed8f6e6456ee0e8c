"""One route, several services: each gets its share of requests, and a client may stay with the one it got.

A client stays by a cookie of Charon's own, or by the value of a header field that it sends (a user's or tenant's
name, say). Nothing is remembered here: what a request brings is enough, in every worker and after every restart.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate

from charon.base.route_rules import TOKEN
from charon.policy.hashing import KEY_SPAN, hash_key

Fields = Sequence[tuple[bytes, bytes]]


class Split:
    """The services of one route with their weights.

    ``sticky`` is None, ``cookie:NAME`` (the cookie is called ``charon-NAME``) or ``header:NAME``.
    """

    __slots__ = ("_bounds", "_by_mark", "_cookie", "_header", "_marks", "_names")

    def __init__(self, services: Sequence[tuple[str, float]], sticky: str | None = None) -> None:
        """Raises ValueError for weights below 0 or all 0, and for a ``sticky`` that is neither."""
        if any(weight < 0 for _, weight in services):
            raise ValueError("the weight of a service must be 0 or more")
        chosen = [(name, weight) for name, weight in services if weight > 0]
        if not chosen:
            raise ValueError("at least one service must have a weight above 0")
        self._names = tuple(name for name, _ in chosen)
        self._bounds = list(accumulate(weight for _, weight in chosen))
        self._cookie: bytes | None = None
        self._header: bytes | None = None
        self._marks: dict[str, bytes] = {}
        if sticky is not None:
            kind, _, name = sticky.partition(":")
            if kind not in ("cookie", "header") or TOKEN.fullmatch(name) is None:
                raise ValueError(f"{sticky!r} keeps no client anywhere; write cookie:NAME or header:NAME")
            if kind == "header":
                self._header = name.lower().encode("ascii")
            else:
                self._cookie = b"charon-" + name.encode("ascii")
                self._marks = {service: _mark(name, service) for service in self._names}
        self._by_mark = {mark: service for service, mark in self._marks.items()}

    def choose(self, point: float) -> str:
        """The service at ``point``, from 0 up to, not including, 1: each has a stretch as long as its share."""
        return self._names[bisect_right(self._bounds, point * self._bounds[-1])]

    def assign(self, fields: Fields, point: float) -> tuple[str, bytes | None]:
        """The service for a request with ``fields``, and the value of a Set-Cookie field to add to its answer, if any.

        A header value has the same service as long as the weights stay. A cookie keeps its service as long as that
        has a weight at all. Without either, and with a cookie that Charon did not make, ``point`` (random) decides.
        """
        if self._cookie is not None:
            kept = self._from_cookies(fields, self._cookie)
            if kept is not None:
                return kept, None
            service = self.choose(point)
            return service, b"%b=%b; Path=/; HttpOnly; SameSite=Lax" % (self._cookie, self._marks[service])
        if self._header is not None:
            for name, value in fields:
                if len(name) == len(self._header) and name.lower() == self._header:
                    # 53 bits: as many as a float below 1 can hold.
                    return self.choose((hash_key(value) >> 11) / (KEY_SPAN >> 11)), None
        return self.choose(point), None

    def _from_cookies(self, fields: Fields, wanted: bytes) -> str | None:
        for name, value in fields:
            if len(name) == 6 and name.lower() == b"cookie" and wanted in value:
                for pair in value.split(b";"):
                    cookie, _, mark = pair.strip(b" \t").partition(b"=")
                    if cookie == wanted and mark in self._by_mark:
                        return self._by_mark[mark]
        return None


def _mark(name: str, service: str) -> bytes:
    """What a cookie says of its service: opaque, not secret; whoever forges one reaches a service it could be given."""
    return blake2b(f"{name}\0{service}".encode(), digest_size=8).hexdigest().encode("ascii")
