"""When a certificate is issued anew, and from when on people are told that it gets old. Pure."""

from __future__ import annotations

from typing import Final

from charon.config.certificates import IssuePlan
from charon.identity.material import Loaded
from charon.identity.spiffe import Facts

SHARE: Final = 2 / 3
"""Of its life, after which a certificate is renewed."""

SPREAD: Final = 0.05
"""Of its life, by which certificates that were issued together are renewed apart."""

LAST_SHARE: Final = 1 / 6
"""Of its life: with less than that left, a certificate is said to expire soon."""

LAST_DAYS: Final = 30.0
"""Days before which nothing is said to expire soon, however long it lives."""

CLOCK_BACK: Final = 60.0
"""Seconds that a certificate may lie in the future before it is issued anew: a clock was set back."""


def renew_at(leaf: Facts) -> float:
    """When ``leaf`` is renewed, in seconds since the Unix epoch: after two thirds of its life, or a little earlier,
    by an amount that its serial number decides."""
    share = SHARE - SPREAD * (leaf.serial % 1009) / 1009
    return leaf.not_before + (leaf.not_after - leaf.not_before) * share


def expires_soon(facts: Facts, now: float) -> bool:
    """Has it less than a sixth of its life left, and less than 30 days? One that is renewed in time never has."""
    share = (facts.not_after - facts.not_before) * LAST_SHARE
    return facts.not_after - now < min(share, LAST_DAYS * 86_400)


def margin(facts: Facts, days: float) -> float:
    """Seconds that a certificate must still be valid where ``days`` are wanted: these, or a sixth of its life for one
    that lives less than twice as long, which a renewal in time leaves it all the same."""
    life = facts.not_after - facts.not_before
    return days * 86_400 if life > 2 * days * 86_400 else life * LAST_SHARE


def why_issue(plan: IssuePlan, loaded: Loaded, now: float) -> str | None:
    """Why another certificate takes the place of ``loaded`` where the authority is at hand; None when it is good."""
    leaf = loaded.leaf
    if leaf is None:
        return "there was none"
    if leaf.identity != plan.identity:
        return f"it has the identity {leaf.identity}"
    missing = [name for name in plan.dns_names if name not in leaf.names]
    if missing:
        return f"it is not for {', '.join(missing)}"
    if loaded.key_type != plan.key_type:
        return f"its key is {loaded.key_type}"
    if not loaded.issued_here:
        return "it is of no authority that is trusted here"
    if leaf.not_before > now + CLOCK_BACK:
        return "it is not valid yet"
    if now >= leaf.not_after:
        return "it has expired"
    return "two thirds of its life are over" if now >= renew_at(leaf) else None
