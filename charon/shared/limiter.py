"""Rate limits that hold for all workers together: one bucket for each key, in the shared table."""

from __future__ import annotations

from charon.config.snapshot import RateLimitSpec
from charon.policy.ratelimit import Decision, KeyTable, key_hash, spacing
from charon.shared.table import SharedTable

_REMEMBERED = 4096
_PASSED = Decision(True, 0.0, 0, 0.0, 0.0)


class Buckets:
    """The buckets of one process's view: of keys that stand in the configuration, and of keys that clients choose.

    They are apart, so that a flood of made-up clients cannot push a route's bucket out. ``secret`` is the same in all
    processes.
    """

    def __init__(self, table: SharedTable, secret: bytes) -> None:
        self.lock = table.limits
        self.secret = secret
        self.named = KeyTable(table.named_keys())
        self.clients = KeyTable(table.client_keys())


class Limiter:
    """One rate limit."""

    __slots__ = ("_buckets", "_depth", "_hashes", "_interval", "_lock", "_prefix", "_table", "burst", "rate", "spec")

    def __init__(self, spec: RateLimitSpec, buckets: Buckets) -> None:
        self.spec = spec
        self.rate = spec.rate
        self.burst = spec.burst
        self._interval, self._depth = spacing(spec.rate, spec.burst)
        self._buckets = buckets
        self._lock = buckets.lock
        self._table = buckets.named if spec.key == "route" else buckets.clients
        self._prefix = spec.name.encode() + b"\0"
        self._hashes: dict[bytes, int] = {}

    def take(self, key: bytes, now: float) -> Decision:
        """Take one request from the bucket of ``key``; ``now`` in monotonic seconds.

        Only a refusal has its figures: what passes is not told how much is left, and is in a hurry.
        """
        hashed = self._hashes.get(key)
        if hashed is None:
            if len(self._hashes) >= _REMEMBERED:
                self._hashes.clear()
            hashed = self._hashes[key] = key_hash(self._prefix + key, self._buckets.secret)
        lock = self._lock
        lock.acquire()
        try:
            if self._table.draw(hashed, now, self._interval, self._depth):
                return _PASSED
            return self._table.take(hashed, now, self.rate, self.burst)
        finally:
            lock.release()
