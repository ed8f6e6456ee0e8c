"""What is wrong with certificates, found without changing anything: `charon check`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from charon.base.errors import CertificateError
from charon.base.units import in_words
from charon.config.certificates import CA_CERT, CA_KEY, MaterialSource
from charon.identity.authority import load
from charon.identity.certificates import load_given
from charon.identity.material import Loaded, load_material
from charon.identity.renewal import margin

MIN_DAYS: Final = 7.0
"""Days that certificates must still be valid where nobody asks for more or less."""


@dataclass(frozen=True, slots=True)
class Checked:
    """``problems`` name their file. ``loaded`` is None where there is nothing yet; ``renewed_here`` where Charon has
    the authority's key and sees to the certificate itself."""

    problems: tuple[str, ...]
    loaded: Loaded | None = None
    renewed_here: bool = False


def check(source: MaterialSource, now: float, min_days: float | None = None) -> Checked:
    """Judge what ``source`` names, at ``now``.

    A certificate must be valid for ``min_days`` more (None: 7), or a sixth of its life where it lives for less than
    twice that. One that Charon renews by itself as soon as it starts is held to that only where ``min_days`` is given.
    """
    try:
        loaded, renewed_here = _load(source, now)
    except CertificateError as error:
        return Checked((str(error),))
    if loaded is None:
        return Checked((), None, renewed_here)
    problems = list(loaded.warnings)
    for file, facts in loaded.certificates():
        if facts is loaded.leaf and renewed_here and min_days is None:
            continue
        problem = facts.validity_problem(now)
        if problem is None and facts.not_after - now < margin(facts, MIN_DAYS if min_days is None else min_days):
            problem = f"the certificate expires in {in_words(facts.not_after - now)}"
        if problem is not None:
            problems.append(f"{file}: {problem}")
    return Checked(tuple(problems), loaded, renewed_here)


def _load(source: MaterialSource, now: float) -> tuple[Loaded | None, bool]:
    """What there is, and whether Charon renews it. Raises CertificateError."""
    plan = source.plan
    if plan is None:
        return load_material(source, now), False
    key_file, ca_file = Path(plan.folder, CA_KEY), Path(plan.folder, CA_CERT)
    if not key_file.exists():
        if plan.make_authority and not ca_file.exists() and not Path(source.cert_file or "").exists():
            return None, True  # all of it is made when Charon starts
        return load_given(source, plan, now), False
    load(plan.folder)
    if not Path(source.cert_file or "").exists():
        return None, True
    return load_material(source, now), True
