"""Who may: a decision about the identity of a peer, compiled once. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol

ANY: Final = "*"


class AccessSpec(Protocol):
    """What is looked at of the settings: identities, exact or with ``*`` for any run of characters."""

    @property
    def allow(self) -> Sequence[str]: ...

    @property
    def deny(self) -> Sequence[str]: ...


class Access:
    """``deny`` goes before ``allow``; an empty ``allow`` lets everybody in who is not denied.

    A peer without an identity is nobody who could be allowed; it is denied only where everybody is (``deny: "*"``).
    """

    __slots__ = ("_allow", "_deny", "_nobody")

    def __init__(self, spec: AccessSpec) -> None:
        self._allow = _Patterns(spec.allow) if spec.allow else None
        self._deny = _Patterns(spec.deny) if spec.deny else None
        self._nobody = not spec.allow and ANY not in spec.deny

    def allows(self, identity: str | None) -> bool:
        """Whether a peer of this identity may."""
        if identity is None:
            return self._nobody
        if self._deny is not None and self._deny.match(identity):
            return False
        return self._allow is None or self._allow.match(identity)


class _Patterns:
    """Some identities: those without ``*`` are looked up, those with it are tried as one regular expression."""

    __slots__ = ("_exact", "_regex")

    def __init__(self, patterns: Sequence[str]) -> None:
        self._exact = frozenset(pattern for pattern in patterns if "*" not in pattern)
        wild = [".*".join(map(re.escape, pattern.split("*"))) for pattern in patterns if "*" in pattern]
        self._regex = re.compile("|".join(wild)) if wild else None

    def match(self, identity: str) -> bool:
        return identity in self._exact or (self._regex is not None and self._regex.fullmatch(identity) is not None)
