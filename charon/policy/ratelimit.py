"""Rate limits: the generic cell rate algorithm, a bounded table of keys, and what clients are told.

GCRA (ITU-T I.371, ATM Forum Traffic Management 4.0) is a token bucket in one number: the theoretical arrival time,
the moment at which the bucket is full again. Nothing has to be refilled and no fraction is ever lost. A bucket whose
time has passed is full, so a zeroed word is a bucket nobody has drawn from. Times are monotonic seconds; what float64
rounds off them is at most 0.1 % of a rate of a hundred thousand a second after three years of uptime.
"""

from __future__ import annotations

from hashlib import blake2b
from math import ceil
from typing import Final, NamedTuple

_SLACK: Final = 0.01
"""Part of a request that a bucket may be short of: sums of 1/rate are rounded, and the last of a burst must pass.
Times that are told leave half of it, so that rounding does not make 1 s 2."""

_ROUNDING: Final = 1e-9
"""What the quotient of two numbers may be off by where it should be whole."""

_STALE: Final = 1.0
"""Seconds. A bucket that is emptier than its limit can make it by more than this was left by an earlier setting."""


class Decision(NamedTuple):
    """``tat`` is to be kept for the next time. ``remaining`` whole requests could pass at once; ``reset`` seconds from
    now it is one more. ``retry_after`` is the same where the request was refused, 0 where it may pass."""

    allowed: bool
    tat: float
    remaining: int
    retry_after: float
    reset: float


def take(tat: float, now: float, rate: float, burst: int) -> Decision:
    """Take one request from a bucket of ``burst`` (1 or more) that fills at ``rate`` per second (above 0).

    A refused request takes nothing. Over any time t at most ``burst + rate * t`` requests pass; one may pass a
    hundredth of ``1 / rate`` early.
    """
    full = (tat if tat > now else now) + 1.0 / rate
    used = (full - now) * rate
    if used <= burst + _SLACK:
        room = burst - used
        remaining = int(room + _SLACK)
        return Decision(True, full, remaining, 0.0, (remaining + 1 - room - _SLACK / 2) / rate)
    wait = (used - burst - _SLACK / 2) / rate
    if wait > 1.0 / rate + _STALE:
        tat = now + burst / rate  # after a change of settings: an empty bucket of the present limit
        wait = 1.0 / rate
    return Decision(False, tat, 0, wait, wait)


def spacing(rate: float, burst: int) -> tuple[float, float]:
    """A limit in seconds: between two requests in the long run, and how far a bucket may be from full."""
    return 1.0 / rate, (burst + _SLACK) / rate


def key_hash(key: bytes, secret: bytes) -> int:
    """64 bits for ``key`` that are the same in every process that has ``secret`` (up to 64 bytes, random per start).

    Keyed, because clients choose keys: nobody else can find ones that push each other out of a :class:`KeyTable`.
    """
    return int.from_bytes(blake2b(key, digest_size=8, key=secret).digest(), "little")


class KeyTable:
    """Buckets of any number of keys in a fixed piece of memory, which may be shared between processes.

    Set-associative, as processor caches are: a key's hash names a set of ``ways`` slots, and it is in one of them or
    not in the table. A new key takes the slot that is nearest to full: that is one no different from an unused slot,
    if there is any, and otherwise the one whose loss gives away the least. Keys that are at their limit stay longest.

    Each set is ``ways`` hashes (unsigned 64-bit) and then ``ways`` theoretical arrival times (float64). Zeroed memory
    is an empty table. The caller holds the table's lock around :meth:`slot_for` and the change of the slot.
    """

    __slots__ = ("_hashes", "_sets", "_stride", "_ways", "tats")

    def __init__(self, words: memoryview[float] | memoryview[int], ways: int = 8) -> None:
        """``words`` is writable, contiguous memory of whole 8-byte words. Raises ValueError if no set fits into it."""
        raw = words.cast("B")
        self._ways = ways
        self._stride = 2 * ways
        self._sets = len(raw) // (8 * self._stride)
        if self._sets < 1:
            raise ValueError(f"{len(raw)} bytes do not hold {ways} slots of 16 bytes")
        raw = raw[: self._sets * self._stride * 8]
        self._hashes = raw.cast("Q")
        self.tats = raw.cast("d")

    @property
    def capacity(self) -> int:
        """Keys that there is room for."""
        return self._sets * self._ways

    def slot_for(self, hash64: int) -> int:
        """The index in ``tats`` of the bucket for a key; a key that was not there gets a full one."""
        ways = self._ways
        start = hash64 % self._sets * self._stride
        middle = start + ways
        hashes = self._hashes[start:middle].tolist()
        if hash64 in hashes:
            return middle + hashes.index(hash64)
        tats = list(self.tats[middle : middle + ways])
        way = tats.index(min(tats))
        # In this order, whoever dies in between leaves some key with a full bucket, never one with another's debt.
        self.tats[middle + way] = 0.0
        self._hashes[start + way] = hash64
        return middle + way

    def draw(self, hash64: int, now: float, interval: float, depth: float) -> bool:
        """:meth:`take` for a bucket that is not empty, without the figures: False, and nothing taken, when it is.

        ``interval`` and ``depth`` are those of :func:`spacing`.
        """
        slot = self.slot_for(hash64)
        tats = self.tats
        tat = tats[slot]
        full = (tat if tat > now else now) + interval
        if full - now > depth:
            return False
        tats[slot] = full
        return True

    def take(self, hash64: int, now: float, rate: float, burst: int) -> Decision:
        """:func:`take` from the bucket of a key."""
        slot = self.slot_for(hash64)
        decision = take(self.tats[slot], now, rate, burst)
        self.tats[slot] = decision.tat
        return decision


def ratelimit_fields(name: str, rate: float, burst: int, remaining: int, reset: float) -> list[tuple[str, str]]:
    """The header fields of draft-ietf-httpapi-ratelimit-headers-11 for an answer, as (name, value).

    ``RateLimit-Policy`` (section 3): ``q`` requests in ``w`` seconds. The window is the time an empty bucket needs to
    fill, in whole seconds as the draft wants it, and the quota what the rate allows in it. ``RateLimit`` (section 4):
    no more than ``r`` requests within ``t`` seconds, rounded up. Where ``Retry-After`` is sent too, it is not earlier
    than ``t`` (section 6) when it is :attr:`Decision.retry_after`, rounded up.
    """
    window = max(1, ceil(burst / rate - _ROUNDING))
    quota = max(1, int(rate * window + _ROUNDING))
    quoted = _sf_string(name)
    return [
        ("RateLimit-Policy", f"{quoted};q={quota};w={window}"),
        ("RateLimit", f"{quoted};r={remaining};t={ceil(reset)}"),
    ]


def _sf_string(text: str) -> str:
    """A structured-field String (RFC 9651 section 3.3.3): printable ASCII; anything else becomes ``?``."""
    printable = "".join(char if " " <= char <= "~" else "?" for char in text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
