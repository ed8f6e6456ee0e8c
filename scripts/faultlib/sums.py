"""Bodies by which every byte is accounted for: each follows from the request's id, so nothing can be lost, doubled or
swapped between clients without being seen."""

from __future__ import annotations

from hashlib import sha256

PATH = "/sum/"
"""``/sum/N`` is answered by :func:`answer` with N bytes behind its first line."""


def filler(seed: str, size: int) -> bytes:
    """``size`` bytes that follow from ``seed``, and from no other."""
    block = sha256(seed.encode()).digest()
    return (block * (size // len(block) + 1))[:size]


def question(name: str, size: int) -> bytes:
    """The body of the request called ``name``."""
    return filler(f"{name}?", size)


def answer(name: str, method: str, body: bytes, size: int) -> bytes:
    """What must come back."""
    return f"{name} {method} {len(body)} {sha256(body).hexdigest()}\n".encode() + filler(name, size)
