"""Inputs made of other inputs, fast: for running millions of them without watching what each of them reaches."""

from __future__ import annotations

from random import Random

INFLATED = 1 / 2000
"""Share of inputs in which a piece is repeated until the input is as large as it may be: they show what takes long."""

_TELLING = b"\r\n\0 \t:,;=%./\"'-0519afZ\x7f\x80\xff"


class Mutator:
    """Makes inputs out of a pool. The same seed over the same pools makes the same inputs."""

    def __init__(self, seed: int, words: tuple[bytes, ...], largest: int) -> None:
        self._random = Random(seed)  # a plain generator: what it makes shall be made again
        self._words = words
        self._largest = largest

    def made(self, pool: list[bytes]) -> bytes:
        """One more input."""
        random = self._random.random
        data = pool[int(random() * len(pool))]
        for _ in range(1 + int(random() * random() * 6)):
            data = self._changed(data, pool)
        if random() < INFLATED:
            start = int(random() * len(data))
            piece = data[start : start + 1 + int(random() * 40)] or b"a"
            data = data[:start] + piece * (self._largest // len(piece)) + data[start:]
        return data[: self._largest]

    def _changed(self, data: bytes, pool: list[bytes]) -> bytes:
        random = self._random.random
        at = int(random() * (len(data) + 1))
        how = int(random() * 10)
        if how <= 1:
            return data[:at] + self._words[int(random() * len(self._words))] + data[at:]
        if how == 2:
            word = self._words[int(random() * len(self._words))]
            return data[:at] + word + data[at + len(word) :]
        if how == 3:
            return data[:at] + data[at + 1 + int(random() * random() * 20) :]
        if how == 4:
            return data[:at] + bytes((int(random() * 256),)) + data[at + 1 :]
        if how == 5:
            code = _TELLING[int(random() * len(_TELLING))]
            return data[:at] + bytes((code,)) + data[at + int(random() * 2) :]
        if how == 6:
            return data[:at] + data[at : at + 1 + int(random() * 20)] + data[at:]
        if how == 7:
            other = pool[int(random() * len(pool))]
            return data[:at] + other[int(random() * len(other)) :]
        if how == 8:
            return data[:at] + data[at : at + 4].swapcase() + data[at + 4 :]
        return data[:at]
